"""What is to be done later, for thousands of sessions: kept in order only as finely as anybody needs it.

Times are told apart by ticks of 10 ms: a report of RTCP or a look for silence need not be more exact, and to put in
or take out costs the same however many wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

TICK = 0.01
"Seconds."
_Item = TypeVar("_Item")


class Wheel(Generic[_Item]):
    """Items by the tick in which they are due."""

    def __init__(self, now: float) -> None:
        """`now`: seconds of the clock that all times here are of."""
        self._next = int(now / TICK)
        "The first tick that has not passed."
        self._due: dict[int, list[_Item]] = {}

    def add(self, when: float, item: _Item) -> None:
        """Have the item given at this time or up to a tick later."""
        self._due.setdefault(max(int(when / TICK) + 1, self._next), []).append(item)

    def take(self, now: float) -> Iterator[_Item]:
        """Give what is due, tick by tick; more may be added meanwhile."""
        while self._next * TICK <= now:
            tick = self._next
            self._next += 1
            yield from self._due.pop(tick, ())

    def next(self) -> float | None:
        """Return when something is due next; None: never."""
        return min(self._due) * TICK if self._due else None
