"""What `calledin check` looks at, and what a look gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calledind.cli.client import Client
from calledind.settings.tables import Settings

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True)
class Finding:
    """What one look has found."""

    state: str
    "`OK`, `WARN`: it works, but look at it; `FAIL`: calls are not made."
    what: str
    words: str
    advice: str = ""
    "What to do."


@dataclass(frozen=True)
class Subject:
    """What is looked at."""

    settings: Settings | None
    "None where the file is not known or wrong."
    file: Path | None
    client: Client | None
    "Of a daemon that answers."
    facts: Mapping[str, Any] | None
    "What it says of itself."
    live: bool
