"""Forgets what is long over: calls whose callbacks were delivered or given up, rows of the ledger, batches.

    a minute after the start, then an hour after the last time was over
        purge a slice ── pause ── purge a slice ── pause ── ... until there is no more

Each pause is three times as long as its slice took: where the store is slow, or busy with calls, purging waits longer.
Nodes that share a store all do this, each what the others have left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.sip.timers import DelayedCall, Timers
from calledind.store.interface import Store, StoreUnavailable

FIRST = 60.0
"Seconds from the start to the first time: a start has enough to do."
INTERVAL = 3600.0
"Seconds from the end of one time to the next."
SLICE = 500
"Calls and rows of the ledger asked for at a time."
SHORTEST = 0.05
"Seconds between two slices at least."
SHARE = 3.0
"Of what a slice took, the pause after it."
DAY = 86400.0
"Seconds."


class Retention:
    """Purges the store, from `start` to `stop`."""

    log = Logger()

    def __init__(
        self,
        *,
        reactor: Timers,
        store: Store,
        days: float,
        now: Callable[[], float],
        forget: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        """`days`: for which all is kept. `now`: seconds since the epoch.

        `forget`: forgets what is kept beside the store and was over before a moment; it says itself what it can't.
        """
        self._forget = forget
        self._reactor = reactor
        self._store = store
        self._days = days
        self._now = now
        self._timer: DelayedCall | None = None
        self._stopped = False
        self._before = 0.0
        self._began = 0.0
        "When this slice did, by the reactor's clock."
        self._count = 0

    def start(self) -> None:
        self._later(FIRST, self._begin)

    def stop(self) -> None:
        """Purge no more; a slice that was begun is finished by the store."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _later(self, delay: float, step: Callable[[], None]) -> None:
        if not self._stopped:
            self._timer = self._reactor.callLater(delay, step)

    def _begin(self) -> None:
        self._before = self._now() - self._days * DAY
        self._count = 0
        if self._forget is not None:
            Deferred.fromCoroutine(self._forgotten(self._forget)).addErrback(
                lambda failure: self.log.failure("What is long over beside the store can't be forgotten", failure)
            )
        self._step()

    async def _forgotten(self, forget: Callable[[float], Awaitable[None]]) -> None:
        await forget(self._before)

    def _step(self) -> None:
        self._began = self._reactor.seconds()
        self._store.purge(self._before, most=SLICE).addCallbacks(self._purged, self._failed)

    def _purged(self, count: int) -> None:
        if count:
            self._count += count
            took = self._reactor.seconds() - self._began
            self._later(max(SHORTEST, SHARE * took), self._step)
        else:
            self._end()

    def _failed(self, failure: Failure) -> None:
        # The store says itself that it is away; what is left undone is done the next time.
        if not failure.check(StoreUnavailable):  # type: ignore[no-untyped-call]
            self.log.failure("What is long over can't be purged; it is tried again in an hour", failure)
        self._end()

    def _end(self) -> None:
        if self._count:
            self.log.info(
                "{count} calls and rows of the ledger, older than {days:g} days, were purged",
                count=self._count,
                days=self._days,
            )
        self._later(INTERVAL, self._begin)
