"""The dialer of a node that shares its queue with others.

Calls wait in the store, in one fair queue per route for all nodes, and so do the trunks' channels and moments. A call
is this node's from the moment that `take` gives it, together with a channel. What had to be put back after that, or
was failed by a trunk, waits here in the node's own queues, and comes first when the next channel is given.

    accepted by any node ──▶ the store's queue ──take──▶ its audio is here? ──▶ dialled
                                                 ▲              │ no: the store has it
                        own queues (put back) ───┘              └──▶ the library

The store is asked when there may be something to take: a call was accepted here, one has ended, the pace allows the
next, and each second in any case, for what other nodes accepted and leave to us. One question is on its way at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from calledind.crash import crash_at
from calledind.dialing.dialer import RETRY, Dialer, Ended
from calledind.dialing.queue import FairQueue
from calledind.dialing.surroundings import Surroundings
from calledind.dialing.trunks import Probe, Trunk
from calledind.model import Call, Cause, EndedBy
from calledind.settings.tables import Calls
from calledind.settings.tables import Trunk as TrunkSettings
from calledind.store.interface import Limits, Route, SharedStore, StoreUnavailable

BATCH = 32
"Calls taken at once, at most: what is taken and not dialled yet, a crash would leave to others only after the lease."
EXPIRY, MOST_EXPIRED = 100, 2000
"""Calls that waited too long, ended at a time, and in one look: as many as are accepted from one look to the next, or
they would take the turns of those that may still be dialled."""
BACKLOG = 0.25
"Seconds until a node asks again whose route is full of other nodes' calls."


class CallsAudio(Protocol):
    """Where the audio of a taken call comes from."""

    def here(self, call: Call) -> bool:
        """Whether it is on this machine already; then it stays until `let_go`."""

    def bring(self, call: Call) -> Deferred[bool]:
        """Have it brought, to stay until `let_go`. False: nobody has it any more. Fails with StoreUnavailable."""

    def let_go(self, call: Call) -> None:
        """The call is over, or another node's."""

    def accepted(self, call: Call) -> None:
        """Its audio was prepared here, and pinned once: another node may take the call, or this one does soon."""

    def sweep(self) -> None:
        """Let go of what others seem to have taken."""


class SharedDialer(Dialer):
    """See the module's text."""

    def __init__(
        self,
        surroundings: Surroundings,
        trunks: Sequence[TrunkSettings],
        *,
        probe: Probe,
        ended: Ended,
        store: SharedStore,
        audio: CallsAudio,
        alone: Callable[[], bool],
    ) -> None:
        """`alone`: whether no other node is alive."""
        super().__init__(surroundings, trunks, probe=probe, ended=ended)
        self._store = store
        self._audio = audio
        self._alone = alone
        self._routes: set[Route] = set()
        "Those for which somebody may wait in the store."
        self._stranded: set[Route] = set()
        "Those of the settings before, whose calls are to look for their trunks anew."
        self._bringing: dict[str, Call] = {}
        "Calls whose audio is on its way here."
        self._cancelled: dict[str, EndedBy] = {}
        "Those of them that are to be hung up, and by whom."
        self._owed: list[Call] = []
        "Calls that are to be given back, as soon as the store is there again."
        self._asking = False
        self._again = False
        self._looking = False
        self._abandoned = False

    def __len__(self) -> int:
        return self.own + self._store.queued()

    @property
    def own(self) -> int:
        """How many calls wait here, and for no other node."""
        return super().__len__()

    def route(self, call: Call) -> Route:
        """Return in which of the store's queues a call waits."""
        return self.trunks.route(call.country_code, call.phone_number)

    def accepted(self, call: Call) -> None:
        """A call was accepted here: it waits in the store."""
        self._audio.accepted(call)
        self._routes.add(self.route(call))
        self.serve()

    def cancel(self, call: Call, by: EndedBy = EndedBy.OPERATOR) -> bool:
        if call.id in self._bringing:
            self._cancelled.setdefault(call.id, by)
            return True
        return super().cancel(call, by)

    def serve(self) -> None:
        if self._draining or self._abandoned:
            self._pay_back()
            return
        self._again = True
        if not self._asking:
            self._asking = True
            Deferred.fromCoroutine(self._ask()).addErrback(self._bug)

    def replace(self, settings: Calls, trunks: Sequence[TrunkSettings]) -> None:
        if {trunk.name for trunk in self.trunks} - {trunk.name for trunk in trunks}:
            self._stranded |= self._routes
        super().replace(settings, trunks)

    def drain(self) -> Deferred[None]:
        dialled = set(self._courses)
        drained = super().drain()
        for queue in self._queues.values():
            while (call := queue.take()) is not None:
                # What a trunk has failed already has an end of its own.
                if call.id not in dialled:
                    self._give_back(call)
        return drained

    def abandon(self) -> None:
        """Let go of everything: others have taken it over. Nothing is taken before `begin_anew`."""
        self._abandoned = True
        self._courses.clear()
        self._owed.clear()
        for queue in self._queues.values():
            while (call := queue.take()) is not None:
                self._audio.let_go(call)
        self.hang_up_all()

    def begin_anew(self) -> None:
        self._abandoned = False
        self.serve()

    # asking the store

    async def _ask(self) -> None:
        try:
            while self._again and not (self._draining or self._abandoned):
                self._again = False
                # Without a lease nothing may be dialled; the next heartbeat brings one. Nor can it be by a store that
                # keeps no changes: in vain, each try would leave a doubtful attempt to be remembered.
                soonest: float | None = RETRY
                if self._store.lease_left() > 0 and self._store.healthy():
                    with suppress(StoreUnavailable):
                        soonest = await self._take()
                self._wake_in(soonest)
        finally:
            self._asking = False

    async def _take(self) -> float | None:
        """Take what there is room for, in turns between the routes; return the seconds until there may be more."""
        soonest: float | None = None
        routes = self._routes | {route for route, queue in self._queues.items() if queue}
        while routes and not (self._draining or self._abandoned):
            pause = self._pause()
            if pause > 0:
                return pause
            for route in tuple(routes):
                room = min(BATCH, self._room() - len(self._bringing))
                if room <= 0:
                    return None
                wait = await self._take_for(route, int(room))
                if wait != 0:
                    routes.discard(route)
                    soonest = wait if soonest is None else soonest if wait is None else min(soonest, wait)
        return soonest

    async def _take_for(self, route: Route, room: int) -> float | None:
        """Take calls of one route; return as `_take` does, 0: at once."""
        well = [self.trunks[name] for name in route if name in self.trunks]
        rests = [(trunk, trunk.rest()) for trunk in well]
        limits = [Limits(trunk.name, trunk.settings.channels, trunk.pace) for trunk, rest in rests if rest == 0]
        if not limits:
            if route in self._routes and not well:
                await self._take_stranded(route)
            return min((rest for _, rest in rests if rest is not None), default=None)
        queue = self._queues.get(route)
        # Somebody may come to wait while the question is on its way.
        self._routes.discard(route)
        try:
            grants = await self._store.take(route, limits, own=len(queue or ()), most=room)
        except StoreUnavailable:
            self._routes.add(route)
            raise
        if grants.waiting:
            self._routes.add(route)
        for name, call in grants.calls:
            self._dial_granted(name, call if call is not None else queue.take() if queue is not None else None)
        if len(grants.calls) == room:
            return 0
        if grants.wait is None and (grants.waiting or queue):
            return BACKLOG
        return grants.wait

    def _dial_granted(self, name: str, call: Call | None) -> None:
        if name not in self.trunks or call is None:
            # The trunk was removed, or the call hung up, while the question was on its way.
            self._store.release(name)
            if call is not None:
                self._queue_again(call, FairQueue.add)
            return
        crash_at("dial.claimed")
        trunk = self.trunks[name]
        trunk.hold()
        if self._audio.here(call):
            self._begin(call, trunk)
        else:
            self._bringing[call.id] = call
            Deferred.fromCoroutine(self._bring(call, trunk)).addErrback(self._bug)

    async def _bring(self, call: Call, trunk: Trunk) -> None:
        try:
            brought = await self._audio.bring(call)
        except StoreUnavailable as error:
            self._wait_again(call, trunk, str(error))
            return
        except Exception:  # noqa: BLE001 - a call with a bug must end, and give its channel back
            self.log.failure("call {call}: bringing its audio met an error of our own", call=call.id)
            brought = False
        finally:
            del self._bringing[call.id]
        if self._was_cancelled(call, trunk):
            return
        if brought:
            self._begin(call, trunk)
            return
        self._release(trunk)
        self.log.error("call {call}: its audio is nowhere any more", call=call.id)
        self._end(call, Cause.MEDIA_FAILED, "its audio is gone")

    def _begin(self, call: Call, trunk: Trunk) -> None:
        if self._draining or self._abandoned:
            self._release(trunk)
            self._give_back(call)
        else:
            self._dial(call, trunk)

    def _was_cancelled(self, call: Call, trunk: Trunk) -> bool:
        by = self._cancelled.pop(call.id, None)
        if by is None:
            return False
        self._release(trunk)
        if self._abandoned:
            self._audio.let_go(call)
        else:
            self.end_cancelled(call, by)
        return True

    def _wait_again(self, call: Call, trunk: Trunk, detail: str) -> None:
        if self._was_cancelled(call, trunk):
            return
        self._release(trunk)
        self.log.warn("call {call} waits: {detail}", call=call.id, detail=detail)
        self._queue_again(call, FairQueue.put_back)
        self._not_before = self._around.timers.seconds() + RETRY

    def _give_back(self, call: Call) -> None:
        """Let another node have a call that was not dialled."""
        self._audio.let_go(call)
        self._return(call)

    def _return(self, call: Call) -> None:
        self._store.give_back(call.id, self.route(call)).addErrback(self._not_returned, call)

    def _not_returned(self, failure: Failure, call: Call) -> None:
        failure.trap(StoreUnavailable)  # type: ignore[no-untyped-call]
        if not self._abandoned:
            self._owed.append(call)

    def _pay_back(self) -> None:
        """Offer again what a store that was away did not take: where a node stays, nobody else would have it."""
        owed, self._owed = self._owed, []
        for call in owed:
            self._return(call)

    async def _take_stranded(self, route: Route) -> None:
        """Let calls look for their trunks anew, whose own are gone from the settings."""
        if route not in self._stranded and not self._alone():
            return
        self._routes.discard(route)
        while calls := await self._store.take_stranded(route):
            for call in calls:
                self._queue_again(call, FairQueue.add)
        self._stranded.discard(route)
        self._again = True

    # what the dialer does for all

    def _release(self, trunk: Trunk) -> None:
        self._store.release(trunk.name)
        super()._release(trunk)

    def _queue_again(self, call: Call, how: Callable[[FairQueue, Call], None]) -> None:
        if not (self._draining or self._abandoned):
            super()._queue_again(call, how)
        elif (course := self._courses.pop(call.id, None)) is not None:
            # It was dialled: nobody else may do so.
            self._ended(call, course.ending)
        else:
            self._give_back(call)

    def _left_alone(self, call: Call) -> None:
        self._audio.let_go(call)

    def _sweep(self) -> None:
        super()._sweep()
        Deferred.fromCoroutine(self._look()).addErrback(self._bug)

    async def _look(self) -> None:
        """See what other nodes have left to us, and what waited too long."""
        self._audio.sweep()
        self._pay_back()
        if self._looking:
            return
        self._looking = True
        try:
            self._routes |= (await self._store.waiting()).keys()
            await self._end_expired()
        except StoreUnavailable:
            return
        finally:
            self._looking = False
        self.serve()

    async def _end_expired(self) -> None:
        oldest = self._around.now() - self._around.settings.queue_ttl
        for _ in range(0, MOST_EXPIRED, EXPIRY):
            calls = await self._store.take_expired(oldest, most=EXPIRY)
            for call in calls:
                self._expire(call)
            if len(calls) < EXPIRY:
                return

    def _bug(self, failure: Failure) -> None:
        self.log.failure("the queue met an error of our own", failure)
