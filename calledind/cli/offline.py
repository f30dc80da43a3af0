"""What `calledin restore` and `calledin migrate` do, without a daemon."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import Progress

from calledind.cli.client import Refused
from calledind.cli.storage import described
from calledind.settings import Settings
from calledind.store.backup import WrongBackup
from calledind.store.interface import StoreUnavailable
from calledind.store.restore import Occupied, Places, locked, place, unpacked


def restore(file: Path, settings: Settings, progress: Progress, *, force: bool) -> dict[str, Any]:
    """Put a backup in place. Raises Refused."""
    places = Places(settings.data)
    task = progress.add_task("unpacking", total=file.stat().st_size)
    with (
        _explained(file),
        locked(places),
        unpacked(file, places, lambda octets: progress.advance(task, octets)) as parts,
    ):
        result: dict[str, Any] = {"data": os.fspath(places.data), **described(asdict(parts.manifest))}
        if settings.store.kind == "redis":
            raise Refused("not yet")
        aside = place(parts, places, force=force)
        return {**result, "moved_aside": None if aside is None else os.fspath(aside)}


def migrate(settings: Settings, kind: str, progress: Progress, *, force: bool) -> dict[str, Any]:
    """Bring everything from one store to the other. Raises Refused."""
    raise Refused("not yet")


@contextmanager
def _explained(file: Path | None = None) -> Iterator[None]:
    """Let what goes wrong end the command with words."""
    try:
        yield
    except WrongBackup as error:
        raise Refused(f"{file}: {error}") from None
    except Occupied as error:
        raise Refused(f"{error}; --force puts it out of the way") from None
    except StoreUnavailable as error:
        raise Refused(str(error)) from None
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        raise Refused(f"{what}{error.strerror or error}") from None
    except sqlite3.Error as error:
        raise Refused(f"the database can't be used: {error}") from None
