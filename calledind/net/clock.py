"""Wall time that never jumps: read once, then carried on by the monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable

SLEW = 0.0005
"Seconds put right per second, as adjtime(3) would."


class Clock:
    """Seconds since the epoch for everything that is kept or compared.

    A step of the wall clock moves no flood mark, no waiting time and no deadline. A difference from it, be it the
    drift of the machine's clock or the pause of a virtual machine that was moved, is made up for bit by bit: a
    second in 34 minutes, which is noticed by nobody. After a step it is wrong for days, so a time that others compare
    with their own clock (of a signature, say) is the wall clock's.
    """

    def __init__(
        self, *, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._last = monotonic()
        self._now = wall()

    def now(self) -> float:
        """Return seconds since the epoch, never less than before."""
        moment = self._monotonic()
        passed = moment - self._last
        self._last = moment
        self._now += passed
        error = self._wall() - self._now
        limit = passed * SLEW
        # Asked several times for each request: min and max would take twice as long.
        self._now += limit if error > limit else -limit if error < -limit else error
        return self._now
