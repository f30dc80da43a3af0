"""How fast calls may leave for a trunk: a line of evenly spaced moments, wider spaced after a throttling.

A trunk that rested may catch up at most `BURST` seconds' worth of moments at once. Each throttling halves the pace,
though no more than once in `SETTLE` seconds, because the calls that were on their way are refused as well; a pace
that was cut grows back evenly, from nothing to all of it in `RECOVERY` seconds:

    calls per second
    10 ────┐                                ┌────────
           │                    ╱───────────┘
     5     └──────┐        ╱────
                  │   ╱────
    2.5           └───
          503    503                  time ──▶
"""

from __future__ import annotations

from calledind.sip.timers import Timers

BURST = 0.1
"Seconds of pace that may be caught up at once."
SETTLE = 1.0
"Seconds in which several throttlings are one."
RECOVERY = 120.0
"Seconds from no pace to all of it."
SLOWEST = 1 / 64
"The least that is left of the pace."


class Pace:
    """The moments of one trunk."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._last = float("-inf")
        "The moment that was used last."
        self._cut_at = -RECOVERY
        self._share = 1.0
        "Of the full pace, when it was cut last."

    @property
    def share(self) -> float:
        """Of the full pace, 0 to 1."""
        return min(1.0, self._share + (self._timers.seconds() - self._cut_at) / RECOVERY)

    def wait(self, calls_per_second: float) -> float:
        """Return the seconds until the next moment, 0 or less: now. `calls_per_second`: the full pace, as it is set."""
        return self._next(calls_per_second) - self._timers.seconds()

    def take(self, calls_per_second: float) -> None:
        """Use one moment; `wait` was 0 or less."""
        self._last = max(self._next(calls_per_second), self._timers.seconds() - BURST)

    def _next(self, calls_per_second: float) -> float:
        return self._last + 1 / (calls_per_second * self.share)

    def slow_down(self) -> bool:
        """Halve the pace; False: it was just done."""
        now = self._timers.seconds()
        if now - self._cut_at < SETTLE:
            return False
        self._share, self._cut_at = max(self.share / 2, SLOWEST), now
        return True
