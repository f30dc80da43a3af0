"""Stand-ins by which a test says when the store's threads run, and when its disk fails."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from calledind.store.embedded import EmbeddedStore

T = TypeVar("T")


class HandClock(Clock):
    """A clock that is moved by hand, with all that the store asks of a reactor."""

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        callable(*args, **kwargs)


class HandRunner:
    """Does its jobs at once, or one at a time by hand while it is held."""

    def __init__(self) -> None:
        self.held = False
        self.jobs: deque[tuple[Callable[[], Any], Deferred[Any]]] = deque()

    def run(self, job: Callable[[], T]) -> Deferred[T]:
        done: Deferred[T] = Deferred()
        self.jobs.append((job, done))
        if not self.held:
            self.step()
        return done

    def stop(self) -> None:
        assert not self.jobs

    def step(self) -> None:
        """Do one job that waits."""
        job, done = self.jobs.popleft()
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001 - it is handed on, as a thread does
            done.errback(error)
        else:
            done.callback(result)

    def release(self) -> None:
        """Do all that wait, and from now on all at once."""
        self.held = False
        while self.jobs:
            self.step()


class Faults:
    """What goes wrong with the disk, until it is mended."""

    def __init__(self) -> None:
        self.statements = 0
        "COMMITs that were tried."
        self.mend()

    def mend(self) -> None:
        self.at_commit: Exception | None = None
        "The group isn't written."
        self.after_commit: Exception | None = None
        "The group is written, but SQLite says that it isn't."
        self.at_connect: Exception | None = None
        self.at_begin: Exception | None = None

    def connect(self, path: Path) -> sqlite3.Connection:
        """Open the database with these faults: give it to the store as its `connect`."""
        if self.at_connect is not None:
            raise self.at_connect
        faults = self

        class Connection(sqlite3.Connection):
            def execute(self, statement: str, parameters: Any = (), /) -> sqlite3.Cursor:
                if statement.startswith("BEGIN") and faults.at_begin is not None:
                    raise faults.at_begin
                if statement != "COMMIT":
                    return super().execute(statement, parameters)
                faults.statements += 1
                if faults.at_commit is not None:
                    raise faults.at_commit
                result = super().execute(statement)
                if faults.after_commit is not None:
                    raise faults.after_commit
                return result

        return sqlite3.connect(path, isolation_level=None, factory=Connection)


class Bench:
    """A store whose time, threads and disk are in the hands of the test."""

    def __init__(self, folder: Path, *, max_waiting: int = 4096) -> None:
        self.clock = HandClock()
        self.faults = Faults()
        self.folder = folder
        self.max_waiting = max_waiting
        self.reopen()

    def reopen(self) -> None:
        """Make a new store on the folder, not open yet."""
        self.runners: list[HandRunner] = []
        self.store = EmbeddedStore(
            self.clock, self.folder, connect=self.faults.connect, runner=self._runner, max_waiting=self.max_waiting
        )

    def _runner(self, _reactor: object, _name: str) -> HandRunner:
        runner = HandRunner()
        self.runners.append(runner)
        return runner

    @property
    def writer(self) -> HandRunner:
        return self.runners[0]
