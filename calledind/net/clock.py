"""Wall time that never jumps: read once, then carried on by the monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable

STEP = 1.0
"Seconds of difference from the wall clock that are put right bit by bit."
SLEW = 0.0005
"Seconds put right per second, as adjtime(3) would."


class Clock:
    """Seconds since the epoch for everything that is kept or compared.

    A step of the wall clock moves no flood mark, no waiting time and no deadline. A clock that is off (a machine
    that learned the time after we had started) is approached slowly, so that what we tell others comes right.
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
        if abs(error) <= STEP:
            limit = passed * SLEW
            self._now += max(-limit, min(limit, error))
        return self._now
