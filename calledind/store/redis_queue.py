"""The queue that nodes share, and the trunks' limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from calledind.compact import dump
from calledind.model import Call
from calledind.store.interface import Grants, Limits, Route, StoreUnavailable
from calledind.store.redis_base import route_of, text_of
from calledind.store.redis_calls import RedisCalls
from calledind.store.rows import to_call


class RedisQueue(RedisCalls):
    """The part of `interface.SharedStore` that is about the queue."""

    _queued = 0
    "Calls that waited in all, when Redis told it last."

    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)
        self._channels: Counter[str] = Counter()
        """Trunk -> channels that this node has been given, and not given back. One that was fenced has them still: they
        count for its new epoch, until its calls have ended."""
        self._taking = 0
        "Questions for channels that are under way."

    def waiting(self) -> Deferred[Mapping[Route, int]]:
        """The route of calls that no trunk takes is the empty one."""

        def read(parts: Sequence[bytes]) -> Mapping[Route, int]:
            counts = {route_of(route): int(count) for route, count in zip(parts[::2], parts[1::2], strict=True)}
            self._queued = sum(counts.values())
            return counts

        self._say_heard()
        return self._link.ask("HGETALL", self._prefix + "waiting").addCallback(read)

    def queued(self) -> int:
        return self._queued

    def take(self, route: Route, limits: Sequence[Limits], *, own: int, most: int) -> Deferred[Grants]:
        return Deferred.fromCoroutine(self._take(route, limits, own, most))

    async def _take(self, route: Route, limits: Sequence[Limits], own: int, most: int) -> Grants:
        order = {name: place for place, name in enumerate(route)}
        trunks: list[str | float] = []
        for each in limits:
            if each.trunk in order:
                trunks += (each.trunk, each.channels, float(each.calls_per_second))
        # Heartbeats speak of all trunks from which an answer that was lost may have taken channels.
        self._channels.update({each.trunk: 0 for each in limits})
        self._taking += 1
        try:
            reply = await self._take_once("take", text_of(route), own, most, *trunks)
            granted, wait, waiting, self._queued = reply
            calls = [(trunk.decode(), to_call(request.decode()) if request else None) for trunk, request in granted]
            self._channels.update(trunk for trunk, _ in calls)
            self._is_given(call.id for _, call in calls if call is not None)
        finally:
            self._taking -= 1
        return Grants(calls, float(wait) if wait else None, waiting)

    def give_back(self, call_id: str, route: Route) -> Deferred[bool]:
        doubtful = self._doubtful.get(call_id, ())

        def given(reply: int) -> bool:
            self._let_go_of(call_id)
            return bool(reply)

        return self._run("give_back", call_id, self._owner_of(call_id), text_of(route), *doubtful).addCallback(given)

    def take_expired(self, accepted_before: float, *, most: int = 100) -> Deferred[Sequence[Call]]:
        return Deferred.fromCoroutine(self._take_out(dump(float(accepted_before)), (), most))

    def take_stranded(self, route: Route, *, most: int = 100) -> Deferred[Sequence[Call]]:
        return Deferred.fromCoroutine(self._take_out("", route, most))

    async def _take_out(self, before: str, route: Route, most: int) -> Sequence[Call]:
        calls: list[Call] = []
        more = True
        while more and len(calls) < most:
            try:
                requests, more = await self._take_once("take_out", before, text_of(route), most - len(calls))
            except StoreUnavailable:
                if calls:
                    # They are ours, whatever becomes of the others.
                    break
                raise
            some = [to_call(request.decode()) for request in requests]
            self._is_given(call.id for call in some)
            calls += some
        return calls

    def take_one(self, call_id: str) -> Deferred[Call | None]:
        def taken(request: bytes | None) -> Call | None:
            if request is None:
                return None
            self._is_given([call_id])
            return to_call(request.decode())

        return Deferred.fromCoroutine(self._take_once("take_one", call_id)).addCallback(taken)

    def release(self, trunk: str) -> None:
        self._channels[trunk] -= 1
        self._run("release", self._owner, trunk).addErrback(self._not_released)

    def _not_released(self, failure: Failure) -> None:
        # Where it is lost, the next heartbeat says it again.
        if not isinstance(failure.value, StoreUnavailable):
            self._bug(failure)

    def _true_channels(self) -> list[str | float]:
        """Return each trunk and the channels that this node has of it; nothing while some are on their way."""
        if self._taking:
            return []
        return [part for pair in self._channels.items() for part in pair]
