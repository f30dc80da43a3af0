"""The process that keeps the pace of the packets: `python -m calledind.net.media_process BIND FIRST LAST`.

It takes commands on standard input and tells events on standard output, in the frames of
`calledind.net.media_pipe`, and ends when standard input does. A session is a number that the daemon chose.

    commands                                   events
    ["open", session]                          ["opened", session, host, port] or ["refused", session, words]
    ["play", session, {arguments}]             ["finished", session], ["digit", session, digit],
                                               ["silent", session], ["lost", session, words]
    ["redirect", session, rtp, rtcp, sends, format or null, keys or null, receives]
    ["close", session]                         ["closed", session, {statistics}]
    ["ping", number]                           ["pong", number, {figures}]
                                               ["ready"] once, at the start

Keys of SRTP travel in the commands, so commands are never logged.

The loop: sleep until the next slice in which there is something to send, or commands come; send its packets; then
do in what is left of its time whatever else there is (commands, timers, every 10 ms the received packets), a bounded
piece at a time. While no stream is being sent it waits for its sockets instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import select
import signal
import sys
import time
from collections import deque

from calledind.net.media_engine import Engine
from calledind.net.media_pipe import Item, Unpacker, pack
from calledind.net.media_ports import Port
from calledind.net.metronome import SLICE, Metronome

_LONGEST_WAIT = 1.0
"Seconds without a look at anything."
_MOST_UNREAD = 16 * 1024 * 1024
"Octets of events that the daemon has not read; then something is wrong with it."
_LISTENING = 0.01
"Seconds. The kernel notes when a packet came; that it is looked at 10 ms later is no loss, and costs a fifth."
_FEW_COLLECTIONS = 1_000_000
"Of younger objects, before the oldest are looked through."
_NICENESS = -10
_PR_SET_TIMERSLACK = 29


class Daemon:
    """The pipes to the daemon that started us."""

    def __init__(self, commands: int, events: int) -> None:
        self._commands = commands
        self._events = events
        os.set_blocking(commands, False)
        os.set_blocking(events, False)
        self._unpacker = Unpacker()
        self._unsent = bytearray()
        self.gone = False

    def fileno(self) -> int:
        return self._commands

    def wait(self, seconds: float) -> bool:
        """Wait up to so long for commands; True where some came. `poll` and `epoll` know no microseconds."""
        return bool(select.select((self._commands,), (), (), seconds)[0])

    def read(self) -> list[Item]:
        """Return the commands that have come."""
        try:
            data = os.read(self._commands, 1 << 18)
        except BlockingIOError:
            return []
        if not data:
            self.gone = True
        return self._unpacker.feed(data)

    def tell(self, events: list[Item]) -> None:
        """Send events, and what was left of earlier ones; never waits."""
        if events:
            self._unsent += pack(events)
        if not self._unsent:
            return
        try:
            del self._unsent[: os.write(self._events, self._unsent)]
        except BlockingIOError:
            self.gone = self.gone or len(self._unsent) > _MOST_UNREAD
        except BrokenPipeError:
            self.gone = True

    @property
    def behind(self) -> bool:
        """Whether events wait for the pipe to have room."""
        return bool(self._unsent)


class Ears:
    """All sockets of the engine, and the commands' pipe, as one thing to wait for."""

    def __init__(self, engine: Engine, commands: int) -> None:
        self._engine = engine
        self._poll = select.epoll()
        self._poll.register(commands, select.EPOLLIN)
        self._rtp: dict[int, Port] = {}
        self._rtcp: dict[int, Port] = {}
        self._known = 0

    def listen(self, wait: float) -> bool:
        """Wait up to so many seconds, take what has come; True where there is more."""
        ready: list[Port] = []
        for descriptor, _ in self._poll.poll(wait):
            if descriptor in self._rtp:
                ready.append(self._rtp[descriptor])
            elif descriptor in self._rtcp:
                self._engine.hearing.receive_control(self._rtcp[descriptor])
        return bool(ready) and self._engine.hearing.receive(ready)

    def add_new_ports(self) -> None:
        """Listen to the ports that were opened since this was last called."""
        for port in self._engine.opened[self._known :]:
            self._rtp[port.rtp.fileno()] = port
            self._rtcp[port.rtcp.fileno()] = port
            self._poll.register(port.rtp.fileno(), select.EPOLLIN)
            self._poll.register(port.rtcp.fileno(), select.EPOLLIN)
        self._known = len(self._engine.opened)


def run(engine: Engine, daemon: Daemon) -> None:
    """Serve until the daemon is gone."""
    ears = Ears(engine, daemon.fileno())
    commands: deque[Item] = deque()
    metronome = Metronome(time.monotonic())
    sending = more = False
    listened = 0.0
    while not daemon.gone:
        if sending:
            now = _next_slice(engine, metronome, daemon, busy=bool(commands))
            if more or now >= listened + _LISTENING:
                more = ears.listen(0.0)
                listened = now
        else:
            more = ears.listen(_spare_time(engine, busy=bool(commands) or daemon.behind))
        engine.run_timers()
        commands += daemon.read()
        while commands:
            engine.command(commands.popleft())
            if sending and metronome.wait(time.monotonic()) < SLICE / 8:
                break
        ears.add_new_ports()
        daemon.tell(engine.events)
        engine.events.clear()
        began = engine.sending > 0
        if began and not sending:
            metronome.restart(time.monotonic())
        sending = began
    for command in commands:
        engine.command(command)
    engine.close_all()
    daemon.tell(engine.events)


def _next_slice(engine: Engine, metronome: Metronome, daemon: Daemon, *, busy: bool) -> float:
    """Sleep up to the next slice and send it, unless commands come before; return the monotonic seconds."""
    now = time.monotonic()
    wait = metronome.wait(now)
    if wait > 0:
        # Commands at hand have had their share of the last slice's time: the rest is done in that of this one.
        if busy:
            time.sleep(wait)
        elif daemon.wait(wait):
            return time.monotonic()
        now = time.monotonic()
    count = metronome.count
    engine.slice(count, metronome.begin(now))
    metronome.skip(engine.idle_slices(metronome.count))
    return now


def _spare_time(engine: Engine, *, busy: bool) -> float:
    """Return how long to wait for whatever comes while nothing is being sent, in seconds."""
    if busy:
        return SLICE
    timer = engine.next_timer()
    return _LONGEST_WAIT if timer is None else min(max(timer - time.monotonic(), 0.0), _LONGEST_WAIT)


def take_precedence() -> None:
    """Ask the kernel to run us when we are due, as far as it lets us."""
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(arguments: list[str]) -> int:
    """Run the process. Takes the address to bind and the first and last port."""
    bind, first, last = arguments
    # The daemon ends us by closing the pipe, after its calls; signals to the whole group are for the daemon.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    take_precedence()
    began, wall = time.monotonic(), time.time()
    engine = Engine(bind, int(first), int(last), now=time.monotonic, wall=lambda: wall + time.monotonic() - began)
    daemon = Daemon(sys.stdin.fileno(), sys.stdout.fileno())
    daemon.tell([["ready"]])
    # What ends leaves no cycles; to look through all that lives would make slices late.
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], _FEW_COLLECTIONS)
    run(engine, daemon)
    engine.shut()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
