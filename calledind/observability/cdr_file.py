"""The file that records of calls go to, as they end.

    ended ──▶ its figures are there, or two seconds are over ──▶ a line ──▶ once a second, in a thread: written

Losing a record must cost no call: what can't be written (the disk is full, the folder is gone) waits in memory, is
tried again, and is a line in the log. A daemon that is killed loses the records of its last seconds; the store has
those calls, and `GET /cdr` shows them.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.model import Call, Outcome
from calledind.observability.cdr import Format, Media, Numbers, header, line, record
from calledind.observability.courses import Course
from calledind.sip.timers import DelayedCall, Timers

T = TypeVar("T")
EVERY = 1.0
"Seconds between two writes."
PATIENCE = 2.0
"Seconds that a record waits for the figures of its call's packets."
MOST_WAITING = 20_000
"Lines that can't be written now; the oldest are lost first."
MOST_MEDIA = 10_000
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Thread(Protocol):
    """What is wanted of `store.worker.Worker`."""

    def run(self, job: Callable[[], T]) -> Deferred[T]: ...

    def stop(self) -> None: ...


class CdrFile:
    """Writes the records; `ended` and `media` are told what they are made of, in either order."""

    log = Logger()

    def __init__(
        self,
        timers: Timers,
        thread: Thread,
        path: Path,
        *,
        format: Format,
        numbers: Numbers,
        node: str,
    ) -> None:
        self._timers = timers
        self._thread = thread
        self._file = AppendedFile(path, header(format))
        self._format: Format = format
        self._numbers: Numbers = numbers
        self._node = node
        self._ended: OrderedDict[str, tuple[float, Call, Outcome, Course | None]] = OrderedDict()
        "Calls that wait for their figures, since when by the timers' clock; the first of them in front."
        self._media: OrderedDict[str, Media] = OrderedDict()
        "Of calls that have not ended yet."
        self._lines: deque[str] = deque()
        self._writing: Deferred[None] | None = None
        self._timer: DelayedCall | None = None
        self._told = ""
        "Why nothing can be written, as the log has it."
        self.lost = 0
        "Records that were never written."

    def start(self) -> None:
        """Open the file, to find out that it can be. Raises OSError where it can't, but for a disk that is full."""
        try:
            self._file.open()
        except OSError as error:
            if error.errno not in FULL:
                raise
        self._wait()

    def ended(self, call: Call, outcome: Outcome, course: Course | None) -> None:
        """A call's outcome is kept."""
        if not outcome.answered or call.id in self._media:
            self._add(call, outcome, course, self._media.pop(call.id, None))
        else:
            self._ended[call.id] = self._timers.seconds(), call, outcome, course

    def media(self, call_id: str, media: Media) -> None:
        """A call's packets are over."""
        waiting = self._ended.pop(call_id, None)
        if waiting is not None:
            self._add(*waiting[1:], media)
            return
        self._media[call_id] = media
        if len(self._media) > MOST_MEDIA:
            self._media.popitem(last=False)

    def reopen(self) -> None:
        """The file was moved away: write to a new one from now on."""
        self._thread.run(self._file.close).addErrback(self._failed)

    def stop(self) -> Deferred[None]:
        """Write what there is and close the file; fires when that is done, or can't be."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._give_up_waiting(0.0)
        running = self._writing or succeed(None)
        return running.addBoth(lambda _: self._write()).addBoth(self._close)

    def _add(self, call: Call, outcome: Outcome, course: Course | None, media: Media | None) -> None:
        made = record(call, outcome, node=self._node, numbers=self._numbers, course=course, media=media)
        self._lines.append(line(made, self._format))

    def _wait(self) -> None:
        self._timer = self._timers.callLater(EVERY, self._tick)

    def _tick(self) -> None:
        self._give_up_waiting(PATIENCE)
        self._write()
        self._wait()

    def _give_up_waiting(self, patience: float) -> None:
        before = self._timers.seconds() - patience
        while self._ended and next(iter(self._ended.values()))[0] <= before:
            _, (_, call, outcome, course) = self._ended.popitem(last=False)
            self._add(call, outcome, course, None)

    def _write(self) -> Deferred[None]:
        if self._writing is not None or not self._lines:
            return succeed(None)
        lines = list(self._lines)
        self._lines.clear()
        writing = self._writing = self._thread.run(lambda: self._file.write("".join(lines).encode()))
        return writing.addCallbacks(self._wrote, self._not_written, errbackArgs=(lines,))

    def _wrote(self, _: object) -> None:
        self._writing = None
        if self._told:
            self._told = ""
            self.log.info("records of calls are written again")

    def _not_written(self, failure: Failure, lines: list[str]) -> None:
        self._writing = None
        self._lines.extendleft(reversed(lines))
        while len(self._lines) > MOST_WAITING:
            self._lines.popleft()
            self.lost += 1
        self._failed(failure)

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if not isinstance(error, OSError):
            self.log.failure("records of calls can't be written", failure)
            return
        why = error.strerror or str(error)
        if why != self._told:
            self._told = why
            self.log.error(
                "records of calls can't be written to {path}: {error}; the last {most} wait in memory, and it is tried "
                "again each second",
                path=str(self._file.path),
                error=why,
                most=MOST_WAITING,
            )

    def _close(self, _: object) -> None:
        if self._lines:
            self.lost += len(self._lines)
            self.log.error("{count} records of calls were never written", count=len(self._lines))
        self._thread.run(self._file.close).addErrback(self._failed)
        self._thread.stop()


class AppendedFile:
    """A file that whole pieces are added to; its methods block, and belong into one thread."""

    def __init__(self, path: Path, beginning: str) -> None:
        """`beginning`: what an empty file begins with."""
        self.path = path
        self._beginning = beginning.encode()
        self._descriptor: int | None = None

    def open(self) -> int:
        """Raises OSError."""
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o640)
        return self._descriptor

    def write(self, piece: bytes) -> None:
        """Add all of it or nothing. Raises OSError."""
        descriptor = self.open()
        before = os.fstat(descriptor).st_size
        if not before:
            piece = self._beginning + piece
        left = memoryview(piece)
        try:
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, before)
            raise

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
