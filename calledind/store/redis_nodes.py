"""The nodes that share the store: joining, heartbeats, leaves, and the taking over of what a dead one had.

A node is its name and an epoch, a new one each time it joins; what it takes is marked with both. Whether it lives is
nobody's clock's to say: its heartbeats count up a number, and who sees the same number for the time of the lease, by a
monotonic clock of its own, may fence it by compare-and-set on that number. The node itself relies on its lease for a
little less, counted from before its last heartbeat was sent, by a clock that goes on while the machine is suspended.

    node     beat ──▶ 7      beat ──▶ 8   ·········· stands still ··········   beat ──▶ Fenced
    lease    [───── valid ─────]
                             [───── valid ─────]
    other      sees 7          sees 8   sees 8   sees 8  (a whole lease) fence(8) ──▶ it is over, take_over

A failover to a replica may lose the last moments: a join among them means that nothing this node did since is there
any more, as changes are replicated in their order. Its heartbeat finds no such epoch then, and it begins anew as if it
had been fenced, which is safe whatever was lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from calledind.compact import dump
from calledind.model import CallRecord, PendingCallback
from calledind.store.interface import Fenced, NodeStatus, StoreUnavailable
from calledind.store.redis_base import boot_time, words_of
from calledind.store.redis_calls import texts, to_callback
from calledind.store.redis_queue import RedisQueue
from calledind.store.rows import to_record

VALID = 0.8
"Of the lease, for which a node relies on its last heartbeat."
LOOKS = 5
"At another node of the same name, in the time of a lease."
PARKED = 30
"""Seconds for which the others leave alone what a node accepted in its last moment: it may have told its askers that it
failed, and comes back to withdraw it."""
LEAVE_CHUNK = 200
"Calls and callbacks let go of at a time."


class RedisNodes(RedisQueue):
    """The part of `interface.SharedStore` that is about the nodes."""

    def __init__(
        self,
        *args: Any,
        node: str,
        lease: float,
        instance: str,
        version: str,
        now: Callable[[], float],
        monotonic: Callable[[], float] = boot_time,
        **others: Any,
    ) -> None:
        super().__init__(*args, **others)
        self._name = node
        self._lease = lease
        self._instance = instance
        self._version = version
        self._now = now
        self._monotonic = monotonic
        self._epoch = 0
        self._beats = 0
        self._valid_until = float("-inf")
        self._is_heir = True
        "Whether the outbox is that of the node which had this name before."

    # joining and leaving

    async def _join(self) -> None:
        """Become a node. Raises StoreUnavailable, also where another one has this name."""
        figures = dump({"version": self._version})
        while True:
            sent = self._monotonic()
            before = await self._former_epoch()
            joined = await self._run(
                "join", self._name, before, self._instance, dump(self._now()), figures, self._epoch + 1
            )
            if joined:
                break
        self._owners = {call_id: owner for call_id, owner in self._owners.items() if owner == self._owner}
        self._epoch = joined
        self._owner = f"{self._name}:{joined}"
        self._beats = 0
        self._done, self._void = [], []
        self._valid_until = sent + VALID * self._lease

    async def _former_epoch(self) -> str:
        """Return the epoch under which this node is known; "": none. Fences another of this name that is dead."""
        seen: Any = None
        since = self._monotonic()
        while True:
            row = await self._link.ask(
                "HMGET", f"{self._prefix}node:{self._name}", "epoch", "instance", "state", "beats"
            )
            epoch, instance, state, beats = texts(row)
            self._is_heir = epoch is None or instance == self._instance
            if epoch is None:
                return ""
            if instance == self._instance or state != "live":
                return str(epoch)
            if seen is None:
                seen = epoch, beats
                self._log.info("another node is called {name}; is it alive?", name=self._name)
            if seen != (epoch, beats):
                raise StoreUnavailable(
                    f"another node is called {self._name}, and is alive; give this one a [node] name of its own"
                )
            if self._monotonic() - since > self._lease and await self.fence(self._name, int(epoch), int(beats)):
                return str(epoch)
            await self._pause(self._lease / LOOKS)

    def rejoin(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._join())

    async def _leave(self) -> None:
        self._valid_until = float("-inf")
        sure = "" if self._accepting else self._sure()
        while await self._run("leave", self._name, self._epoch, LEAVE_CHUNK, sure, PARKED):
            pass

    # life

    def beat(self, figures: Mapping[str, object]) -> Deferred[None]:
        return Deferred.fromCoroutine(self._beat(figures))

    async def _beat(self, figures: Mapping[str, object]) -> None:
        sent, owner, began = self._monotonic(), self._owner, self._reactor.seconds()
        self._beats += 1
        done, void = self._done[:], self._void[:]
        reply = await self._run(
            "beat",
            self._name,
            self._epoch,
            self._beats,
            dump(dict(figures)),
            words_of(done),
            words_of(void),
            *self._true_channels(),
        )
        if owner != self._owner:
            return
        if reply is None:
            self._valid_until = float("-inf")
            raise Fenced(f"node {self._name} was fenced: others have taken over what it had")
        self._reckoned(done, void)
        self._queued, seconds, microseconds = (int(each) for each in reply)
        # By when it was sent: what Redis has heard by then was in time.
        self._ahead = seconds + microseconds / 1e6 - began
        self._valid_until = max(self._valid_until, sent + VALID * self._lease)

    def lease_left(self) -> float:
        return max(0.0, self._valid_until - self._monotonic())

    # the others

    def nodes(self) -> Deferred[Sequence[NodeStatus]]:
        return self._run("nodes").addCallback(lambda rows: sorted(map(to_status, rows), key=lambda each: each.name))

    def fence(self, name: str, epoch: int, beats: int) -> Deferred[bool]:
        return self._run("fence", name, epoch, beats).addCallback(bool)

    def take_over(self, *, most: int = 100) -> Deferred[tuple[Sequence[CallRecord], Sequence[PendingCallback], bool]]:
        return Deferred.fromCoroutine(self._take_over(most))

    def _sure(self) -> str:
        """Return this node's name where all is withdrawn that was accepted under it and is to be withdrawn, else ""."""
        return self._name if self._is_heir and self._withdraws_nothing() else ""

    async def _take_over(self, most: int) -> tuple[Sequence[CallRecord], Sequence[PendingCallback], bool]:
        rows, callbacks, more = await self._take_once("take_over", most, self._sure(), PARKED)
        records = [to_record(tuple(texts(row))) for row in rows]
        self._is_given(record.call.id for record in records)
        return records, [to_callback(texts(row)) for row in callbacks], bool(more)


def to_status(row: Sequence[bytes]) -> NodeStatus:
    """Read a row of nodes.lua."""
    name, epoch, state, beats, joined_at, figures = row
    return NodeStatus(
        name.decode(),
        int(beats),
        int(epoch),
        float(joined_at),
        fenced=state == b"fenced",
        left=state == b"left",
        figures=json.loads(figures),
    )
