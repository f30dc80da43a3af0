"""Whether the reactor keeps up with what it has to do.

Ten times a second a timer is due. How late it comes is how long everything else waits: a response of a carrier, an
acknowledgement, a customer. A single late one is a hiccup (a pause of the machine, a look of the garbage
collector) and means nothing; several in a row are more work than there is time.
"""

from __future__ import annotations

from collections import deque

from calledind.sip.timers import DelayedCall, Timers

INTERVAL = 0.1
"Seconds."
LATE = 0.5
"Seconds. As long as a SIP response may be on its way before the request is sent again (T1, RFC 3261 §17.1.1.1)."
IN_A_ROW = 3


class Strain:
    """Looks, from `start` to `stop`."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._due = 0.0
        self._late = deque([False] * IN_A_ROW, IN_A_ROW)
        self._timer: DelayedCall | None = None

    def too_much(self) -> bool:
        """Whether no more work should be taken for now."""
        return all(self._late)

    def start(self) -> None:
        self._due = self._timers.seconds() + INTERVAL
        self._timer = self._timers.callLater(INTERVAL, self._look)

    def stop(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        self._late.append(self._timers.seconds() - self._due > LATE)
        self.start()
