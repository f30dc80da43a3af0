"""`calledin backup`, `calledin restore` and `calledin migrate`: what is kept, over time and from one place to another.

A backup is asked of a running daemon. Restoring and migrating are done without one: whatever is needed for that is
imported when it is.
"""

from __future__ import annotations

import gzip
import json
import os
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import attrs
import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from calledind.cli.client import Refused
from calledind.cli.output import json_option, print_fields, print_json, print_table
from calledind.folders import sync_folder
from calledind.settings.reading import SettingsError, load
from calledind.settings.tables import Settings

if TYPE_CHECKING:
    from calledind.cli.main import Target

PATIENCE = 3600.0
"Seconds that the daemon may take to copy a large store before it sends the first octet."


class WrongUsage(click.ClickException):
    """Exit code 2."""

    exit_code = 2


# backup


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def backup(target: Target, file: Path, as_json: bool) -> None:
    """Write all that the daemon keeps, as of one moment, to FILE; calls go on meanwhile.

    FILE may be a folder: calledin-2026-11-29T1412.tar is written there. With a name that ends with .gz it is
    compressed. It holds secrets, so its rights are 0600.
    """
    if file.is_dir():
        file = file / time.strftime("calledin-%Y-%m-%dT%H%M.tar")
    partial = file.with_name(file.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as raw:
            with _compressed(file, raw) as output:
                _receive(target, output, quiet=as_json)
            raw.flush()
            os.fsync(raw.fileno())
        described = _described(partial)
        partial.replace(file)
        sync_folder(file.parent)
    except OSError as error:
        raise Refused(f"{file} can't be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
    say({"file": os.fspath(file), "octets": file.stat().st_size, **described}, as_json)
    if not described["books_agree"]:
        click.echo("warning: the books of this store don't agree; its log says more", err=True)


@contextmanager
def _compressed(file: Path, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    if file.suffix != ".gz":
        yield raw
        return
    with gzip.GzipFile("", "wb", 6, raw) as output:
        yield output  # type: ignore[misc]


def _receive(target: Target, output: IO[bytes], *, quiet: bool) -> None:
    with progress_bar(quiet=quiet) as progress:
        task = progress.add_task("the daemon copies its store", total=None)

        def begun(headers: Mapping[str, str]) -> None:
            size = headers.get("calledin-store-octets")
            progress.update(task, description="receiving", total=None if size is None else int(size))

        for piece in target.client().stream("/backup", method="POST", patience=PATIENCE, begun=begun):
            output.write(piece)
            progress.advance(task, len(piece))


def _described(file: Path) -> dict[str, Any]:
    """Return what the manifest says. It is the first member of the tar."""
    with tarfile.open(file, "r:*") as archive:
        first = archive.extractfile(archive.next() or "")
        assert first is not None
        return described(json.load(first))


def described(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Put a backup's manifest into the words of an answer."""
    figures = manifest["figures"]
    unfinished = sum(figures["calls"][state] for state in ("accepted", "dialing", "answered"))
    agree = figures["credits"] + figures["held"] + figures["charged"] == figures["added"]
    return {
        **{name: manifest[name] for name in ("made_at", "store", "schema", "calledin")},
        **figures,
        "audio": manifest["audio"],
        "books_agree": agree and figures["held"] == unfinished,
    }


# restore and migrate


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="The daemon's data folder.")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="The daemon's settings.")
@click.option("--force", is_flag=True, help="Move what is there aside; of Redis, clear what the prefix has.")
@json_option
@click.pass_obj
def restore(target: Target, file: Path, data: Path | None, config: Path | None, force: bool, as_json: bool) -> None:
    """Put the backup FILE in the place of a daemon's store. No daemon may be running on it.

    With --data into the embedded store of that folder, with --config into the store that the settings name.
    """
    if data is not None and config is not None:
        raise click.UsageError("give either --data or --config")
    settings = read_settings(config or target.config) if data is None else attrs.evolve(Settings(), data=data)
    from calledind.cli import offline  # noqa: PLC0415 - half of the daemon comes with it

    with progress_bar(quiet=as_json) as progress:
        result = offline.restore(file, settings, progress, force=force)
    say(result, as_json)


@click.command()
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="The daemon's settings.")
@click.option("--to", "kind", type=click.Choice(["redis", "embedded"]), required=True, help="Where everything goes.")
@click.option("--force", is_flag=True, help="Move what is there aside; of Redis, clear what the prefix has.")
@json_option
@click.pass_obj
def migrate(target: Target, config: Path | None, kind: str, force: bool, as_json: bool) -> None:
    """Bring everything from the embedded store of the data folder to the Redis of the settings, or back.

    No daemon may be running on either. What it is taken from stays as it is; set [store] kind then. When it was cut
    short, it is begun again by the same command.
    """
    settings = read_settings(config or target.config)
    from calledind.cli import offline  # noqa: PLC0415 - half of the daemon comes with it

    with progress_bar(quiet=as_json) as progress:
        result = offline.migrate(settings, kind, progress, force=force)
    if as_json:
        print_json(result)
        return
    print_table(
        ("", *result["figures"]),
        (
            (name.replace("_", " "), *(flat(figures)[name] for figures in result["figures"].values()))
            for name in flat(next(iter(result["figures"].values())))
        ),
    )
    click.echo(f'\nAll is in the {kind} store; set [store] kind = "{kind}" before the next start.')
    for line in result["notes"]:
        click.echo(line)


def flat(figures: Mapping[str, Any]) -> dict[str, int]:
    """Put the calls' states beside the other figures."""
    calls = {f"calls {state}": count for state, count in figures["calls"].items()}
    return {**{name: value for name, value in figures.items() if name != "calls"}, **calls}


# what they have in common


def read_settings(config: Path | None) -> Settings:
    if config is None:
        raise click.UsageError("--config is needed: the file of the daemon's settings")
    try:
        return load(config)
    except SettingsError as error:
        raise WrongUsage(f"{config} has errors:\n{error}") from None


def progress_bar(*, quiet: bool) -> Progress:
    """Return a bar that is shown where somebody looks on."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)


def say(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        print_fields({name: value for name, value in result.items() if value is not None})
