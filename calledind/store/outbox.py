"""What a shared store could not be told while it was away: kept on this machine's disk until it has been.

A file of SQLite, WAL with `synchronous=FULL`. Changes that come while others are written are written together after
them, by one commit. All of it blocks, so it is done in a thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from calledind.crash import crash_at
from calledind.store.interface import StoreUnavailable
from calledind.store.worker import Worker

NAME = "outbox.sqlite"
TABLE = """CREATE TABLE IF NOT EXISTS outbox (
    place INTEGER PRIMARY KEY AUTOINCREMENT, call_id TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL,
    UNIQUE (call_id, kind))"""
PUT = """INSERT INTO outbox (call_id, kind, text) VALUES (?, ?, ?)
    ON CONFLICT (call_id, kind) DO UPDATE SET text = excluded.text"""
REMOVE = "DELETE FROM outbox WHERE call_id = ? AND kind = ?"
LEFT = "SELECT call_id, kind, text FROM outbox ORDER BY place"

T = TypeVar("T")
Entry = tuple[str, str, str]
"call_id, kind, JSON."
Change = tuple[str, tuple[str, ...]]
"A statement and its parameters."
Connect = Callable[[Path], sqlite3.Connection]


class Runner(Protocol):
    """The part of a `Worker` that is used here."""

    def run(self, job: Callable[[], T]) -> Deferred[T]: ...

    def stop(self) -> None: ...


def connect(path: Path) -> sqlite3.Connection:
    """Open the database in autocommit mode."""
    return sqlite3.connect(path, isolation_level=None, timeout=5.0)


class Outbox:
    """Entries by call id and kind, the oldest first. All that fails does so with StoreUnavailable.

    `folder`: where its file is; it is made where it is missing. An entry whose `put` or `remove` failed may be there
    after a restart or not: whoever replays it must not mind.
    """

    def __init__(
        self,
        reactor: Any,
        folder: Path,
        *,
        runner: Callable[[Any, str], Runner] = Worker,
        connect: Connect = connect,
    ) -> None:
        self._path = folder / NAME
        self._connect = connect
        self._worker = runner(reactor, "outbox")
        self._database: sqlite3.Connection | None = None
        "Used in the thread alone; None where it must be opened anew."
        self._waiting: list[tuple[Change, Deferred[None]]] = []
        self._writing = False
        self._closing: Deferred[None] | None = None

    def open(self) -> Deferred[Sequence[Entry]]:
        """Return what was left when it was closed, or the process killed."""
        return self._worker.run(self._load).addErrback(self._explain)

    def put(self, call_id: str, kind: str, text: str) -> Deferred[None]:
        """Keep an entry, in place of the one of the same call and kind. It is on stable storage when this fires."""
        return self._change(PUT, call_id, kind, text)

    def remove(self, call_id: str, kind: str) -> Deferred[None]:
        return self._change(REMOVE, call_id, kind)

    def close(self) -> Deferred[None]:
        """Write what is waiting, then let go of the file and the thread."""
        self._closing = Deferred()
        if not self._writing:
            self._end()
        return self._closing

    # in the reactor's thread

    def _change(self, statement: str, *parameters: str) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        if self._closing is not None:
            done.errback(StoreUnavailable(f"{self._path} is closed: this process ends"))
            return done
        self._waiting.append(((statement, parameters), done))
        if not self._writing:
            self._write_next()
        return done

    def _write_next(self) -> None:
        self._writing = True
        group, self._waiting = self._waiting, []
        changes = [change for change, _ in group]
        written = self._worker.run(lambda: self._write(changes)).addErrback(self._explain)

        def fire(result: Failure | None) -> None:
            for _, done in group:
                if isinstance(result, Failure):
                    done.errback(StoreUnavailable(result.getErrorMessage()))
                else:
                    done.callback(None)
            self._writing = False
            if self._waiting:
                self._write_next()
            elif self._closing is not None:
                self._end()

        written.addBoth(fire)

    def _end(self) -> None:
        def ended(_: object) -> None:
            self._worker.stop()
            assert self._closing is not None
            self._closing.callback(None)

        self._worker.run(self._drop).addBoth(ended)

    def _explain(self, failure: Failure) -> NoReturn:
        raise StoreUnavailable(explain(failure.value, self._path)) from failure.value

    # in the thread

    def _load(self) -> Sequence[Entry]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # SQLite gives its other files the rights of this one.
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        return list(self._opened().execute(LEFT))

    def _write(self, changes: Sequence[Change]) -> None:
        database = self._opened()
        try:
            database.execute("BEGIN IMMEDIATE")
            for statement, parameters in changes:
                database.execute(statement, parameters)
            crash_at("redis.outbox.written")
            database.execute("COMMIT")
            crash_at("redis.outbox.kept")
        except BaseException:
            self._drop()
            raise

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            database = self._connect(self._path)
            try:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = FULL")
                database.execute(TABLE)
            except BaseException:
                database.close()
                raise
            self._database = database
        return self._database

    def _drop(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()


def explain(error: BaseException | None, path: Path) -> str:
    """Say what an operator can do about it."""
    text = str(error)
    if "full" in text or "No space" in text:
        return f"the disk of {path} is full; make room"
    if "not a database" in text or "malformed" in text:
        return f"{path} is damaged ({text}); move it away: what it held of calls that ended is lost"
    if "readonly" in text or "Permission" in text or "unable to open" in text:
        return f"{path} can't be opened for writing ({text}); check the owner and the rights of its folder"
    return f"{path} can't be written ({type(error).__name__}: {text})"
