"""Hands MP3s to the process that decodes them, and keeps that process alive.

A thread that decodes would make the reactor late by tens of milliseconds, and a hole in a decoder would be a hole in
the daemon; so `decode_process` does it, in children that have nothing to steal. This side gives it as many jobs at a
time as the settings allow, replaces it when it ends or hangs, and bounds how long anybody waits:

    a job given to a process that then ends is given once more to the next one (the MP3 may be innocent),
    a second time it is answered with an AudioError (it probably is not).

Owners of MP3s take turns, so that one who has hundreds to decode delays another's first by one place.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

import calledind
from calledind.audio.errors import AudioError, LibraryUnavailable, unusable
from calledind.model import ReturnCode
from calledind.settings.tables import Audio

COMMAND = (sys.executable, "-m", "calledind.audio.decode_process")
_JOB_SECONDS = 15.0
"Longer than the process gives its child: when this passes, it is the process that hangs."
_WAIT_SECONDS = 20.0
"For a turn. Who asked has waited for the fetch already, and may as well ask again."
_START_SECONDS = 30.0
_MOST_TRIES = 2
_MOST_WAITING = 1024
_MOST_WAITING_OF_ONE = 256
"Of one owner."
_LONGEST_LINE = 65536
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0
"Seconds between a process that ended and the next one."


@dataclass(eq=False)
class _Job:
    id: int
    mp3: Path
    encodings: Mapping[str, Path]
    owner: str
    done: Deferred[float] = field(default_factory=Deferred)
    tries: int = 0
    deadline: IDelayedCall | None = None


class Decoder:
    """Decodes MP3s in a process of its own."""

    log = Logger()

    def __init__(self, reactor: Any, settings: Audio, command: Sequence[str] = COMMAND) -> None:
        self._reactor = reactor
        self._settings = settings
        self._command = command
        self._ids = 0
        self._waiting: deque[_Job] = deque()
        self._served: dict[str, int] = {}
        "Owner with a job waiting -> the number of his last turn."
        self._turn = 0
        self._running: dict[int, _Job] = {}
        self._process: _DecodeProcess | None = None
        self._pause = _FIRST_PAUSE
        self._restart: IDelayedCall | None = None
        self._started: Deferred[None] | None = None
        self._stopped: Deferred[None] | None = None

    def start(self) -> Deferred[None]:
        """Fire when the process is ready; fail with LibraryUnavailable when it can't be."""
        self._started = Deferred()
        self._stopped = None
        self._spawn()
        return self._started

    def stop(self) -> Deferred[None]:
        """End the process. Whoever still waits is answered with LibraryUnavailable."""
        self._stopped = Deferred()
        stopped = self._stopped
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        jobs = [*self._running.values(), *self._waiting]
        self._running.clear()
        self._waiting.clear()
        for job in jobs:
            self._finish(job, LibraryUnavailable("the daemon is stopping"))
        if self._process is None:
            stopped.callback(None)
        else:
            self._process.kill()
        return stopped

    def decode(self, mp3: Path, encodings: Mapping[str, Path], *, owner: str = "") -> Deferred[float]:
        """Write an MP3 in each of these codecs, fsynced, and fire with its duration in seconds.

        `encodings`: codec -> file. `owner`: whose turn it takes.
        Fails with AudioError, or with LibraryUnavailable when the MP3 isn't at fault.
        """
        of_owner = sum(job.owner == owner for job in self._waiting)
        if self._stopped is not None or len(self._waiting) >= _MOST_WAITING or of_owner >= _MOST_WAITING_OF_ONE:
            return fail(LibraryUnavailable("too many MP3s wait to be decoded; try again in a moment"))
        self._ids += 1
        job = _Job(self._ids, mp3, encodings, owner)
        self._waiting.append(job)
        self._set_deadline(job, _WAIT_SECONDS, self._waited)
        self._next()
        return job.done

    # our process, speaking through `_DecodeProcess`

    def ready(self, process: _DecodeProcess, filtered: bool) -> None:
        if process is not self._process:
            return
        process.ready = True
        self._pause = _FIRST_PAUSE
        if not filtered:
            self.log.info("No libseccomp.so.2 here: MP3s are decoded under resource limits only")
        if self._started is not None:
            started, self._started = self._started, None
            started.callback(None)
        self._next()

    def answered(self, process: _DecodeProcess, answer: dict[str, Any]) -> None:
        # Read before the job is taken: what can't be read must not lose it.
        result = _result(answer)
        job = self._running.pop(answer["id"], None) if process is self._process else None
        if job is None:
            return
        if isinstance(result, LibraryUnavailable):
            self.log.error("An MP3 could not be decoded here: {words}", words=str(result))
        self._finish(job, result)
        self._next()

    def ended(self, process: _DecodeProcess, how: str) -> None:
        if process is not self._process:
            return
        self._process = None
        if self._stopped is not None:
            self._stopped.callback(None)
            return
        self.log.error(
            "The decoding process ended ({how}); the next one starts in {pause} s", how=how, pause=self._pause
        )
        jobs = sorted(self._running.values(), key=lambda job: job.id, reverse=True)
        self._running.clear()
        # Before anybody is told, who might ask for more at once.
        self._restart = self._reactor.callLater(self._pause, self._spawn)
        self._pause = min(self._pause * 4, _LONGEST_PAUSE)
        if self._started is not None:
            started, self._started = self._started, None
            started.errback(LibraryUnavailable(f"the decoding process can't start: {how}"))
        for job in jobs:
            if job.tries < _MOST_TRIES:
                self._waiting.appendleft(job)
                self._set_deadline(job, _WAIT_SECONDS, self._waited)
            else:
                self._finish(job, unusable("its decoder ended, twice"))

    # inside

    def _spawn(self) -> None:
        self._restart = None
        folder = str(Path(calledind.__file__).parent.parent)
        path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = process = _DecodeProcess(self)
        try:
            self._reactor.spawnProcess(process, self._command[0], list(self._command), env=environment)
        except OSError as error:
            self.ended(process, error.strerror or "it can't be started")
            return
        process.deadline = self._reactor.callLater(_START_SECONDS, process.kill)

    def _next(self) -> None:
        process = self._process
        while self._waiting and process is not None and process.ready and len(self._running) < self._settings.decoders:
            job = self._take()
            job.tries += 1
            self._running[job.id] = job
            self._set_deadline(job, _JOB_SECONDS, self._hangs)
            process.send(
                {
                    "id": job.id,
                    "mp3": str(job.mp3),
                    "encodings": {codec: str(path) for codec, path in job.encodings.items()},
                    "max_seconds": self._settings.max_seconds,
                }
            )

    def _take(self) -> _Job:
        """Take the first job of the owner whose turn was the longest ago."""
        job = min(self._waiting, key=lambda each: self._served.get(each.owner, 0))
        self._waiting.remove(job)
        self._served[job.owner] = self._turn = self._turn + 1
        waiting = {each.owner for each in self._waiting}
        self._served = {owner: turn for owner, turn in self._served.items() if owner in waiting}
        return job

    def _waited(self, job: _Job) -> None:
        self._waiting.remove(job)
        self._finish(job, LibraryUnavailable("too many MP3s wait to be decoded; try again in a moment"))

    def _hangs(self, job: _Job) -> None:
        """Kill the process, which fails or repeats all that it had."""
        self._running.pop(job.id, None)
        if self._process is not None:
            self._process.kill()
        # It had its time; the others may have been held up by it.
        self._finish(job, unusable("its decoder took too long"))

    def _finish(self, job: _Job, result: float | Exception) -> None:
        self._cancel_deadline(job)
        if isinstance(result, Exception):
            job.done.errback(result)
        else:
            job.done.callback(result)

    def _set_deadline(self, job: _Job, seconds: float, late: Callable[[_Job], None]) -> None:
        self._cancel_deadline(job)
        job.deadline = self._reactor.callLater(seconds, late, job)

    @staticmethod
    def _cancel_deadline(job: _Job) -> None:
        if job.deadline is not None and job.deadline.active():
            job.deadline.cancel()
        job.deadline = None


def _result(answer: dict[str, Any]) -> float | Exception:
    """Read an answer of the process. Raises KeyError, TypeError or ValueError when it is none."""
    if "duration" in answer:
        return float(answer["duration"])
    code, words = answer["error"], str(answer["words"])
    if code in (ReturnCode.MP3_UNUSABLE, ReturnCode.MP3_TOO_LONG):
        return AudioError(ReturnCode(code), words)
    return LibraryUnavailable(words)


class _DecodeProcess(ProcessProtocol):
    """One running process: lines in, lines out."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._received = b""
        self.ready = False
        self.deadline: IDelayedCall | None = None
        "Of its start."

    def send(self, job: dict[str, Any]) -> None:
        self._process().writeToChild(0, json.dumps(job).encode() + b"\n")

    def kill(self) -> None:
        with contextlib.suppress(ProcessExitedAlready):
            self._process().signalProcess("KILL")

    def _process(self) -> IProcessTransport:
        assert self.transport is not None
        return self.transport

    def outReceived(self, data: bytes) -> None:
        *lines, self._received = (self._received + data).split(b"\n")
        if len(self._received) > _LONGEST_LINE:
            self.kill()
            return
        for line in lines:
            try:
                answer = json.loads(line)
                if "ready" in answer:
                    self._cancel_deadline()
                    self._decoder.ready(self, bool(answer["filter"]))
                else:
                    self._decoder.answered(self, answer)
            except (ValueError, KeyError, TypeError):
                # It is ours, but what it decodes isn't: a process that speaks nonsense is not trusted any more.
                self.kill()
                return

    def errReceived(self, data: bytes) -> None:
        self._decoder.log.warn("The decoding process says: {text}", text=data[-1000:].decode("utf-8", "replace"))

    def processEnded(self, reason: Failure) -> None:
        self._cancel_deadline()
        self._decoder.ended(self, reason.getErrorMessage())

    def _cancel_deadline(self) -> None:
        if self.deadline is not None and self.deadline.active():
            self.deadline.cancel()
