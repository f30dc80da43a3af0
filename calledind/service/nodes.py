"""This node among those that share a store: its heartbeats, and what it does when another has stopped beating.

    every INTERVAL   beat: "I am alive", which renews the lease and says what this node is doing
    every INTERVAL   look: whose beats have stood still for a whole lease of this machine's monotonic clock? fence it,
                     by compare-and-set on that number, so that a node that beats again is not fenced
    after a fence, and every TAKE_OVER seconds
                     take over what fenced, departed and former nodes had: their calls are ended, callbacks made

No clock is compared with another's. A look that comes late says nothing of the others, so their time begins anew: a
node that could not reach the store for a while must not take all others for dead when it can again.

A node that finds itself fenced (it stood still, or was cut off) lets go of everything, and joins as a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.crash import crash_at
from calledind.model import CallRecord, PendingCallback
from calledind.sip.timers import Timers
from calledind.store.interface import Fenced, NodeStatus, SharedStore, StoreUnavailable

BEATS = 6
"Heartbeats in the time of a lease, at least."
SLOWEST = 1.0
"Seconds between two heartbeats, at most."
TAKE_OVER = 2.0
"Seconds between two looks for what has no node."


class Dialer(Protocol):
    """What is wanted of `dialing.shared.SharedDialer`."""

    def abandon(self) -> None: ...

    def begin_anew(self) -> None: ...

    def serve(self) -> None: ...


class Callbacks(Protocol):
    """What is wanted of `callback.CallbackSender`."""

    def add(self, pending: PendingCallback) -> None: ...

    def abandon(self) -> None: ...


@dataclass(slots=True)
class _Seen:
    """Of one node."""

    epoch: int
    beats: int
    since: float
    "By the timers' clock, when this number was seen first."


class Nodes:
    """See the module's text."""

    log = Logger()

    def __init__(
        self,
        *,
        timers: Timers,
        store: SharedStore,
        name: str,
        lease: float,
        figures: Callable[[], Mapping[str, object]],
    ) -> None:
        """`name`: this node's. `lease`: seconds. `figures`: what this node says of itself, JSON-able."""
        self._timers = timers
        self._store = store
        self._name = name
        self._lease = lease
        self._figures = figures
        self._interval = min(SLOWEST, lease / BEATS)
        self._seen: dict[str, _Seen] = {}
        self._statuses: Sequence[NodeStatus] = ()
        self._looked_at = timers.seconds()
        self._took_over_at = float("-inf")
        self._told = ""
        "Why the store could not be asked, as the log has it."
        self._stopped = False
        self._joined = 0
        "How often, after the first time."
        self._loops: list[LoopingCall] = []
        self._dialer: Dialer | None = None
        self._callbacks: Callbacks | None = None
        self._end: Callable[[CallRecord], None] = lambda record: None

    def beat(self) -> None:
        """Begin to say that this node is alive: it has joined."""
        self._loop(self._beat)

    def start(self, dialer: Dialer, callbacks: Callbacks, end: Callable[[CallRecord], None]) -> Deferred[None]:
        """Take over what former epochs of this node had, then begin to look after the others.

        `end` is given each call that another process had begun. Fails with StoreUnavailable.
        """
        self._dialer, self._callbacks, self._end = dialer, callbacks, end
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        joined = None
        while joined != self._joined:
            joined = self._joined
            try:
                await self._take_over()
            except StoreUnavailable:
                # What was asked by the name of before, fenced since, is asked once more.
                if joined == self._joined:
                    raise
        await self._look()
        self._loop(self._look)

    def stop(self) -> None:
        self._stopped = True
        for loop in self._loops:
            if loop.running:
                loop.stop()

    def alone(self) -> bool:
        """Whether no other node is alive."""
        return not any(each.name != self._name and self._is_alive(each) for each in self._statuses)

    def show(self) -> Sequence[Mapping[str, object]]:
        """Return all nodes for people and their scripts, by name."""
        return [
            {"name": each.name, "state": self._state(each), "here": each.name == self._name, **each.figures}
            for each in self._statuses
        ]

    def _state(self, status: NodeStatus) -> str:
        if status.left:
            return "has left"
        if status.fenced:
            return "fenced"
        silent = self._silent(status)
        return "alive" if silent < self._lease / 2 else f"silent for {silent:.0f} s"

    def _is_alive(self, status: NodeStatus) -> bool:
        return not (status.left or status.fenced) and self._silent(status) < self._lease

    def _silent(self, status: NodeStatus) -> float:
        seen = self._seen.get(status.name)
        return 0.0 if seen is None else self._timers.seconds() - seen.since

    # the loops

    def _loop(self, work: Callable[[], Coroutine[Deferred[Any], Any, None]]) -> None:
        loop = LoopingCall(lambda: Deferred.fromCoroutine(self._safely(work)))
        loop.clock = self._timers  # type: ignore[assignment]
        self._loops.append(loop)
        loop.start(self._interval)

    async def _safely(self, work: Callable[[], Coroutine[Deferred[Any], Any, None]]) -> None:
        try:
            await work()
        except StoreUnavailable as error:
            if self._told != str(error) and not self._stopped:
                self._told = str(error)
                self.log.warn("the nodes' store is away: {error}", error=error)
        except Exception:  # noqa: BLE001 - a node whose heart stops is taken for dead
            self.log.failure("a node's heartbeat met an error of our own", Failure())  # type: ignore[no-untyped-call]
        else:
            self._told = ""

    async def _beat(self) -> None:
        lapsed = self._store.lease_left() <= 0
        try:
            await self._store.beat(self._figures())
        except Fenced:
            await self._begin_anew()
        else:
            if lapsed and self._dialer is not None:
                self._dialer.serve()

    async def _begin_anew(self) -> None:
        self.log.error(
            "this node did not beat for {lease:g} s, and others have taken over its calls: it lets go of all of them",
            lease=self._lease,
        )
        crash_at("node.fenced")
        if self._dialer is not None and self._callbacks is not None:
            self._dialer.abandon()
            self._callbacks.abandon()
        await self._store.rejoin()
        self._joined += 1
        if self._dialer is not None:
            self._dialer.begin_anew()

    async def _look(self) -> None:
        statuses = await self._store.nodes()
        now = self._timers.seconds()
        late = now - self._looked_at > 2 * self._interval + 1
        self._looked_at = now
        self._statuses = statuses
        self._seen = {each.name: self._see(each, now, late) for each in statuses}
        fenced = False
        for each in statuses:
            if each.name == self._name or each.left or each.fenced or self._silent(each) < self._lease:
                continue
            if await self._store.fence(each.name, each.epoch, each.beats):
                fenced = True
                self.log.error(
                    "node {node} has not beaten for {lease:g} s: what it had is taken over",
                    node=each.name,
                    lease=self._lease,
                )
        if fenced or now - self._took_over_at >= TAKE_OVER:
            await self._take_over()

    def _see(self, status: NodeStatus, now: float, late: bool) -> _Seen:
        before = self._seen.get(status.name)
        if late or before is None or (before.epoch, before.beats) != (status.epoch, status.beats):
            return _Seen(status.epoch, status.beats, now)
        return before

    async def _take_over(self) -> None:
        self._took_over_at = self._timers.seconds()
        calls = callbacks = 0
        more = True
        while more:
            records, pending, more = await self._store.take_over()
            for record in records:
                self._end(record)
            crash_at("node.took-over")
            for each in pending:
                if self._callbacks is not None:
                    self._callbacks.add(each)
            calls += len(records)
            callbacks += len(pending)
        if calls or callbacks:
            self.log.info(
                "taken over: {calls} calls, to be ended, and {callbacks} callbacks", calls=calls, callbacks=callbacks
            )
        if self._dialer is not None:
            self._dialer.serve()
