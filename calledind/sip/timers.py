"""Time, as the machines of RFC 3261 see it: a clock to be called back by, and the intervals of its table 4."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class DelayedCall(Protocol):
    """A call that hasn't been made yet."""

    def cancel(self) -> None: ...

    def active(self) -> bool: ...


class Timers(Protocol):
    """What a machine asks of its clock; the reactor and `task.Clock` both have it."""

    def seconds(self) -> float: ...

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> DelayedCall: ...


@dataclass(frozen=True, slots=True)
class Intervals:
    """RFC 3261 table 4, in seconds."""

    t1: float = 0.5
    "Estimate of the round trip."
    t2: float = 4.0
    "The longest interval between repeats of all but an INVITE."
    t4: float = 5.0
    "How long a message may stay in the network."

    @property
    def timeout(self) -> float:
        "64*T1: timers B, F, H, J, L and M, and the longest wait after a CANCEL (§9.1) or a 2xx (§13.3.1.4)."
        return 64 * self.t1

    def next_repeat(self, interval: float) -> float:
        "Double an interval, up to T2 (timers E and G, and the 2xx of §13.3.1.4)."
        return min(2 * interval, self.t2)


class TimerSet:
    """The running timers of one machine, by the letter or name that the RFC gives them."""

    __slots__ = ("_running", "_timers")

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._running: dict[str, DelayedCall] = {}

    def start(self, name: str, delay: float, fired: Callable[..., object], *arguments: object) -> None:
        "Start a timer, or start it anew."
        self.stop(name)
        self._running[name] = self._timers.callLater(delay, self._fire, name, fired, *arguments)

    def stop(self, *names: str) -> None:
        "Stop timers; one that doesn't run is none the worse for it."
        for name in names:
            call = self._running.pop(name, None)
            if call is not None and call.active():
                call.cancel()

    def stop_all(self) -> None:
        self.stop(*tuple(self._running))

    def _fire(self, name: str, fired: Callable[..., object], *arguments: object) -> None:
        del self._running[name]
        fired(*arguments)


_GRAIN = 0.001
"Seconds: no timer is more exact, and those of one moment go together."


class Lingering:
    """What stays for a fixed time and then goes: one running timer for each such time, whatever the number.

    Of thousands of calls, nearly all timers that run are of transactions that are over and wait for repeats.
    """

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._lines: dict[float, deque[tuple[float, Callable[[], None]]]] = {}
        "Seconds -> who goes when, in order."

    def add(self, seconds: float, over: Callable[[], None]) -> None:
        """Call `over` after so many seconds."""
        line = self._lines.get(seconds)
        if line is None:
            line = self._lines[seconds] = deque()
        if not line:
            self._timers.callLater(seconds, self._look, line)
        line.append((self._timers.seconds() + seconds, over))

    def _look(self, line: deque[tuple[float, Callable[[], None]]]) -> None:
        until = self._timers.seconds() + _GRAIN
        due = []
        while line and line[0][0] <= until:
            due.append(line.popleft()[1])
        if line:
            self._timers.callLater(line[0][0] - until + _GRAIN, self._look, line)
        self._end(due[::-1])

    def _end(self, due: list[Callable[[], None]]) -> None:
        "The last of the list first. One that fails keeps the others for no longer than the next turn."
        try:
            while due:
                due.pop()()
        finally:
            if due:
                self._timers.callLater(0, self._end, due)
