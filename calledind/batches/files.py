"""A batch on disk: what was asked for, its rows, and a journal of what was done.

    batches/ID/batch.json    what was asked for                                       written once
               rows          a JSON array for each row: country code, number, secret  written once
               journal       a JSON object for each thing done                        appended to
               over.json     how it ended, in figures                                 written when it is over

A batch is there when its folder has its name: until all of it is on disk, the name begins with a dot, as it does
again when it is being removed. The journal's entries, each of them synced before what it announces is done:

    {"row": 7, "id": "01a2..."}                   is about to be asked for as this call
    {"row": 7, "code": 0, "at": 1.5}              accepted; another code is a refusal, and the end of that row
    {"state": "paused", "at": 1.5, "code": 2, "words": "..."}

So a row with an id and no code is in doubt: its call may have been accepted, and the store knows. An entry that was
cut short by a crash announced nothing.

Everything here blocks, and is done in a thread.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from calledind.compact import dump
from calledind.folders import sync_folder

ID = re.compile(r"[0-9a-f]{32}")
UNFINISHED = "."
"What a folder's name begins with that is not a batch yet, or no more."


class State(StrEnum):
    """Where a batch is."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    "Rows that were not asked for are not asked for any more."
    DONE = "done"
    "Each row has its code."


OVER = frozenset({State.CANCELLED, State.DONE})


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for, but for the rows."""

    id: str
    "32 hexadecimal digits that sort by time."
    key_id: str
    digest: str = field(repr=False)
    "Of the api key, as the store knows it, in hexadecimal."
    mp3: str = field(repr=False)
    rate: float
    "Rows asked for per second, at most."
    caller_id: str = field(repr=False)
    callback_url: str | None = field(repr=False)
    created_at: float
    "Seconds since the epoch."
    count: int
    "Of its rows."
    token: str = ""
    "Tells the customer's name for the request, where it may be repeated."
    fingerprint: str = ""
    "Tells what was asked for by it."


@dataclass(slots=True)
class Row:
    """One number, and what has come of it."""

    country_code: str
    phone_number: str = field(repr=False)
    secret: str = field(default="", repr=False)
    call_id: str = ""
    "Of the call that was, or is about to be, asked for last."
    code: int | None = None
    "What the end of it was; None: it waits."
    at: float = 0.0
    "When that was, in seconds since the epoch."
    floods: int = 0
    "How often it was refused because its number had just been called."


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of a batch, since when and why."""

    state: State
    at: float
    "Seconds since the epoch."
    code: int | None = None
    "What the request was refused with that paused it; None: a customer did, or nobody."
    words: str = ""
    "Why it is paused, for people."


@dataclass(frozen=True, slots=True)
class Over:
    """How a batch ended."""

    state: State
    at: float
    "Seconds since the epoch."
    codes: Mapping[int, int]
    "Code -> rows that have it."


class Broken(Exception):
    """The files are not what was written; the message says how."""


class Files:
    """The batches below one folder. Everything raises OSError as it comes."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def clean(self) -> Sequence[str]:
        """Remove what was not finished, and return the ids of all batches, the oldest first."""
        self._root.mkdir(mode=0o700, exist_ok=True)
        names = sorted(each.name for each in self._root.iterdir())
        for name in names:
            if name.startswith(UNFINISHED):
                shutil.rmtree(self._root / name, ignore_errors=True)
        return [name for name in names if ID.fullmatch(name)]

    def create(self, order: Order, rows: Sequence[Row]) -> None:
        """Keep a batch, whole or not at all."""
        partial = self._root / f"{UNFINISHED}{order.id}"
        try:
            partial.mkdir(mode=0o700)
            _write(partial / "batch.json", dump(asdict(order)))
            _write(partial / "rows", "".join(_line(row) for row in rows))
            _write(partial / "journal", "")
            sync_folder(partial)
            partial.rename(self._folder(order.id))
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_folder(self._root)

    def read_order(self, batch_id: str) -> tuple[Order, Over | None]:
        """Return what was asked for, and how it ended. Raises `Broken`."""
        folder = self._folder(batch_id)
        try:
            order = Order(**json.loads((folder / "batch.json").read_text()))
            over = folder / "over.json"
            return order, _over(json.loads(over.read_text())) if over.exists() else None
        except (ValueError, TypeError, KeyError) as error:
            raise Broken(str(error)) from None

    def read_rows(self, batch_id: str) -> tuple[Sequence[Row], Standing | None, int]:
        """Return the rows as the journal left them, the last state in it, and its octets. Raises `Broken`."""
        folder = self._folder(batch_id)
        try:
            rows = [Row(*json.loads(line)) for line in (folder / "rows").read_text().splitlines()]
            kept = (folder / "journal").read_bytes()
            # The last line may have been cut short: what it announced was not done then.
            whole = kept[: kept.rfind(b"\n") + 1]
            return rows, _replay(whole, rows), len(whole)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise Broken(str(error)) from None

    def finish(self, batch_id: str, over: Over) -> None:
        """Keep how it ended."""
        folder = self._folder(batch_id)
        partial = folder / "over.json.partial"
        _write(partial, dump({"state": over.state, "at": over.at, "codes": {str(k): v for k, v in over.codes.items()}}))
        partial.replace(folder / "over.json")
        sync_folder(folder)

    def remove(self, batch_id: str) -> None:
        """Forget a batch, whole or not at all."""
        gone = self._root / f"{UNFINISHED}{batch_id}"
        self._folder(batch_id).rename(gone)
        shutil.rmtree(gone)

    def all(self) -> list[Path]:
        """Return the files of all batches as they are to be read by somebody who copies them while rows are asked for:
        how a batch ended comes before its journal, which has all of it then."""
        folders = sorted(self._root.iterdir()) if self._root.exists() else []
        names = ("over.json", "batch.json", "rows", "journal")
        files = (folder / name for folder in folders if ID.fullmatch(folder.name) for name in names)
        return [path for path in files if path.exists()]

    def journal(self, batch_id: str) -> Path:
        return self._folder(batch_id) / "journal"

    def _folder(self, batch_id: str) -> Path:
        assert ID.fullmatch(batch_id), batch_id
        return self._root / batch_id


def _line(row: Row) -> str:
    return dump((row.country_code, row.phone_number, row.secret)) + "\n"


def _over(kept: Mapping[str, Any]) -> Over:
    return Over(State(kept["state"]), kept["at"], Counter({int(code): many for code, many in kept["codes"].items()}))


def _entries(journal: bytes) -> Iterator[Mapping[str, Any]]:
    for line in journal.splitlines():
        yield json.loads(line)


def _replay(journal: bytes, rows: Sequence[Row]) -> Standing | None:
    standing = None
    for entry in _entries(journal):
        if "state" in entry:
            standing = Standing(State(entry["state"]), entry["at"], entry.get("code"), entry.get("words", ""))
            continue
        row = rows[entry["row"] - 1]
        if "id" in entry:
            row.call_id = entry["id"]
        else:
            row.code, row.at = entry["code"], entry["at"]
    return standing


def _write(path: Path, text: str) -> None:
    """Write a file, safe from a power cut once its folder is synced."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
