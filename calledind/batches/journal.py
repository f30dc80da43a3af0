"""The journal of one batch, written by a thread.

What is noted while a write is under way goes to disk with the next one, all of it by one fsync. Where it can't be
written (the disk is full), it is tried again until it can, what was half written being cut off first; whoever waits
for it to be kept waits so long, and `trouble` says why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.compact import dump
from calledind.sip.timers import DelayedCall, Timers

T = TypeVar("T")
AGAIN = 5.0
"Seconds until what could not be written is tried again."


class Thread(Protocol):
    """What is wanted of `store.worker.Worker`."""

    def run(self, job: Callable[[], T]) -> Deferred[T]: ...

    def stop(self) -> None: ...


class Journal:
    """Appends, from the first `note` to `close`."""

    log = Logger()

    def __init__(self, timers: Timers, thread: Thread, path: Path, size: int = 0) -> None:
        """`size`: octets that the file has already; what is behind them is cut off."""
        self._timers = timers
        self._thread = thread
        self._path = path
        self._size = size
        self._descriptor: int | None = None
        self._waiting: list[tuple[bytes, Deferred[None]]] = []
        self._writing = False
        self._closed = False
        self._later: DelayedCall | None = None
        self.trouble = ""
        "Why it can't be written; empty where it can."

    def note(self, entry: Mapping[str, object]) -> Deferred[None]:
        """Fire when the entry is safe from a power cut. Never fails; after `close`, it does not fire."""
        kept: Deferred[None] = Deferred()
        self._waiting.append((dump(entry).encode() + b"\n", kept))
        self._go_on()
        return kept

    def close(self) -> Deferred[None]:
        """Write what was noted and close the file; what can't be written now is given up. Never fails."""
        self._closed = True
        if self._later is not None and self._later.active():
            self._later.cancel()
        data = b"".join(line for line, _ in self._waiting)
        return self._thread.run(lambda: self._let_go(data))

    def _go_on(self) -> None:
        if self._writing or self._closed or not self._waiting or (self._later is not None and self._later.active()):
            return
        self._writing = True
        group, self._waiting = self._waiting, []
        data = b"".join(line for line, _ in group)
        self._thread.run(lambda: self._write(data)).addCallbacks(
            self._written, self._failed, callbackArgs=(group,), errbackArgs=(group,)
        ).addErrback(lambda failure: self.log.failure("a batch's journal met an error of our own", failure))

    def _written(self, _: None, group: list[tuple[bytes, Deferred[None]]]) -> None:
        self._writing = False
        if self.trouble:
            self.log.info("a batch's journal can be written again")
            self.trouble = ""
        for _line, kept in group:
            kept.callback(None)
        self._go_on()

    def _failed(self, failure: Failure, group: list[tuple[bytes, Deferred[None]]]) -> None:
        failure.trap(OSError)  # type: ignore[no-untyped-call]
        self._writing = False
        self._waiting[:0] = group
        if not self.trouble:
            self.log.error("a batch's journal can't be written, and it waits: {error}", error=failure.value)
        self.trouble = getattr(failure.value, "strerror", None) or "it can't be written"
        if not self._closed:
            self._later = self._timers.callLater(AGAIN, self._go_on)

    # in the thread

    def _write(self, data: bytes) -> None:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_WRONLY)
        os.ftruncate(self._descriptor, self._size)
        place = self._size
        left = memoryview(data)
        while left:
            written = os.pwrite(self._descriptor, left, place)
            place, left = place + written, left[written:]
        os.fsync(self._descriptor)
        self._size = place

    def _let_go(self, data: bytes) -> None:
        try:
            if data:
                self._write(data)
        except OSError:
            pass  # that it can't be written was told before, or the next start finds out by the store
        finally:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)
