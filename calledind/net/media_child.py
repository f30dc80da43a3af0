"""The daemon's end of one media process: started, listened to, and started again when it is lost.

    resting ──start──▶ starting ──"ready"──▶ running
       ▲                  │                     │
       └──── back-off ────┴──── it ended ◀──────┘       stopping: no more starts

Whatever is said in one turn of the reactor leaves in one frame. The process is asked for a sign of life every
second; one that gives none for five, or has not read what it was sent for too long, is killed and counts as
ended: so the daemon holds a bounded amount for it, and waits for nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.net.media_pipe import Item, PipeError, Unpacker, pack

PING_SECONDS = 1.0
SILENT_SECONDS = 5.0
"Without a sign of life the process is killed."
START_SECONDS = 20.0
"To its first word."
STOP_SECONDS = 3.0
"To its end, after its standard input was closed."
FIRST_BACK_OFF = 0.2
LONGEST_BACK_OFF = 10.0
STEADY_SECONDS = 30.0
"A process that lived this long begins a new series of back-offs when it ends."
MOST_UNREAD = 4 * 1024 * 1024
"Octets of commands between two signs of life."
ITEMS_PER_FRAME = 64
"So that the process is never busy with one frame for long."


class MediaChild:
    """Keeps one media process going."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        arguments: list[str],
        *,
        event: Callable[[Item], None],
        lost: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._arguments = arguments
        self._event = event
        self._lost = lost
        "Called once for each process that ended, with what happened in words."
        self._pipe: _Pipe | None = None
        self.running = False
        self.figures: dict[str, float] = {}
        "Of the last sign of life."
        self._stopping = False
        self._back_off = FIRST_BACK_OFF
        self._waiting: IDelayedCall | None = None
        "The next start, the next ping, or the deadline of a stop: there is only one of them at a time."
        self._commands: list[Item] = []
        self._flush: IDelayedCall | None = None
        self._unread = 0
        self._heard_at = 0.0
        self._started_at = 0.0
        self._waiting_for_ready: list[Deferred[None]] = []
        self._ended: list[Deferred[None]] = []

    @property
    def healthy(self) -> bool:
        """Whether it runs and has given a sign of life lately."""
        return self.running and self._reactor.seconds() - self._heard_at < SILENT_SECONDS / 2

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._pipe.transport.pid if self._pipe is not None and self._pipe.transport is not None else None

    def start(self) -> Deferred[None]:
        """Start the process; fires when it is ready, fails with RuntimeError when its first one ends instead.

        Even then it is started again, after a back-off, until `stop`.
        """
        self._stopping = False
        self._spawn()
        return self.when_ready()

    def when_ready(self) -> Deferred[None]:
        """Return a Deferred that fires when the process is ready, and fails with RuntimeError when it ends before."""
        ready: Deferred[None] = Deferred()
        if self.running:
            ready.callback(None)
        else:
            self._waiting_for_ready.append(ready)
        return ready

    def stop(self) -> Deferred[None]:
        """End the process, by force after three seconds; fires when it has ended."""
        ended: Deferred[None] = Deferred()
        self._stopping = True
        self.running = False
        self._cancel_waiting()
        if self._pipe is None:
            ended.callback(None)
            return ended
        self._ended.append(ended)
        self._write()
        self._pipe.close()
        self._waiting = self._reactor.callLater(STOP_SECONDS, self._kill, "did not end in time")
        return ended

    def tell(self, command: Item) -> None:
        """Send a command at the end of this turn of the reactor; nothing where no process runs."""
        if not self.running:
            return
        self._commands.append(command)
        if self._flush is None:
            self._flush = self._reactor.callLater(0, self._write)

    def _write(self) -> None:
        if self._flush is not None and self._flush.active():
            self._flush.cancel()
        self._flush = None
        commands, self._commands = self._commands, []
        if self._pipe is None:
            return
        for start in range(0, len(commands), ITEMS_PER_FRAME):
            frame = pack(commands[start : start + ITEMS_PER_FRAME])
            self._unread += len(frame)
            self._pipe.write(frame)
        if self._unread > MOST_UNREAD:
            self._kill("does not read its commands")

    def _spawn(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._started_at = self._heard_at = self._reactor.seconds()
        self._unread = 0
        self._pipe = _Pipe(self)
        self._waiting = self._reactor.callLater(PING_SECONDS, self._ping)
        # -P: the working folder is not a place to import from.
        command = [sys.executable, "-P", "-m", "calledind.net.media_process", *self._arguments]
        try:
            self._reactor.spawnProcess(
                self._pipe,
                sys.executable,
                command,
                env={**os.environ, "PYTHONPATH": path},
                childFDs={0: "w", 1: "r", 2: "r"},
            )
        except OSError as error:
            self._process_ended(self._pipe, f"can't be started: {error}")

    def _ping(self) -> None:
        self._waiting = self._reactor.callLater(PING_SECONDS, self._ping)
        silent = self._reactor.seconds() - self._heard_at
        if silent > (SILENT_SECONDS if self.running else START_SECONDS):
            self._kill(f"gave no sign of life for {silent:.0f} s")
        else:
            self.tell(["ping", self._unread])

    def _kill(self, why: str) -> None:
        if self._pipe is not None and not self._pipe.killed:
            self.log.error("A media process {why}; it is killed.", why=why)
            self._pipe.kill()

    def _cancel_waiting(self) -> None:
        if self._waiting is not None and self._waiting.active():
            self._waiting.cancel()
        self._waiting = None

    # what the process says

    def _received(self, items: list[Item]) -> None:
        self._heard_at = self._reactor.seconds()
        for item in items:
            match item:
                case ["pong", read, figures]:
                    self._unread = max(self._unread - read, 0)
                    self.figures = figures
                case ["ready"]:
                    self.running = not self._stopping
                    waiting, self._waiting_for_ready = self._waiting_for_ready, []
                    for each in waiting:
                        each.callback(None)
                case _:
                    self._event(item)

    def _process_ended(self, pipe: _Pipe, words: str) -> None:
        if pipe is not self._pipe:
            return
        self._pipe = None
        self.running = False
        self.figures = {}
        self._commands.clear()
        self._cancel_waiting()
        if self._stopping:
            self.log.debug("A media process was stopped.")
        else:
            now = self._reactor.seconds()
            if now - self._started_at > STEADY_SECONDS:
                self._back_off = FIRST_BACK_OFF
            self.log.error(
                "A media process was lost ({words}); its calls have no sound any more. The next is started in"
                " {seconds} s.",
                words=words,
                seconds=self._back_off,
            )
            self._waiting = self._reactor.callLater(self._back_off, self._spawn)
            self._back_off = min(2 * self._back_off, LONGEST_BACK_OFF)
        waiting, self._waiting_for_ready = self._waiting_for_ready, []
        ended, self._ended = self._ended, []
        self._lost(words)
        for each in waiting:
            each.errback(RuntimeError(f"the media process {words}"))
        for each in ended:
            each.callback(None)


class _Pipe(ProcessProtocol):
    """Bytes to and from one process."""

    transport: IProcessTransport | None = None

    def __init__(self, child: MediaChild) -> None:
        self._child = child
        self._unpacker = Unpacker()
        self._errors = b""
        self._hears = True
        "Its end of the pipe may be gone a moment before its own is known."
        self.killed = False

    def write(self, data: bytes) -> None:
        if self.transport is not None and self._hears:
            self.transport.writeToChild(0, data)

    def close(self) -> None:
        if self.transport is not None and self._hears:
            self.transport.closeStdin()

    def kill(self) -> None:
        self.killed = True
        if self.transport is not None:
            try:
                self.transport.signalProcess("KILL")
            except ProcessExitedAlready:
                return  # its end is reported in a moment

    def inConnectionLost(self) -> None:
        self._hears = False

    def outReceived(self, data: bytes) -> None:
        try:
            items = self._unpacker.feed(data)
        except PipeError as error:
            self._child._kill(f"sent {error}")
            return
        self._child._received(items)

    def errReceived(self, data: bytes) -> None:
        *lines, self._errors = (self._errors + data)[-65536:].split(b"\n")
        for line in lines:
            self._child.log.error("media process: {line}", line=line.decode("utf-8", "replace"))

    def processEnded(self, reason: Failure) -> None:
        self._child._process_ended(self, _words(reason.value))


def _words(reason: BaseException | None) -> str:
    status = getattr(reason, "signal", None)
    if status is not None:
        return f"was ended by signal {status}"
    return f"ended with status {getattr(reason, 'exitCode', None)}"
