"""The store that several nodes share, in Redis: `interface.SharedStore`.

Every decision is one script (`lua/`), which Redis runs from its beginning to its end before anything else, so that two
requests on two nodes can never take the same credit. What a script changes it changes by compare-and-set; asked again
after it was done, it does nothing. The parts, each built on the one before:

    redis_base ─▶ redis_keys ─▶ redis_calls ─▶ redis_queue ─▶ redis_nodes ─▶ here
                                     └─ redis_late, the outbox

**An answer that is lost** says nothing of whether the script has run, or will run yet. What follows from that:

* an acceptance is withdrawn, by way of the outbox, and one that comes after its withdrawal is refused; no node takes a
  call before the one that accepted it has said that it heard so, or is away for long (`offer` in lua/common.lua);
* an attempt counts as not made: the next one, or the return of the call to the queue, takes its place;
* what was taken from the queue is let go of again with the next question (`reckon` in lua/common.lua);
* what became of a call goes into the outbox, and is told until Redis has it;
* all else is the asker's to repeat.

**A failover** to a replica that lacks the last changes takes them back. Where [redis] replicas is set, no acceptance
and no attempt is answered before replicas have it. A lost `take` leaves the call in the queue: whichever node says
`begin_dialing` first has it, and the other's answers False. A lost heartbeat makes a node look older than it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from calledind.model import Call, EndedBy
from calledind.settings.tables import Redis
from calledind.store.embedded import lock_folder
from calledind.store.interface import Route, StoreUnavailable
from calledind.store.outbox import Outbox, explain
from calledind.store.redis_base import AGAIN, boot_time, scripts
from calledind.store.redis_late import Late
from calledind.store.redis_link import RedisLink, ResponseError, Unanswered
from calledind.store.redis_nodes import RedisNodes
from calledind.store.redis_schema import check_schema

PATIENCE = 3.0
"Seconds that Redis has at a start to take what the process before could not tell it, or to come back."
HANG_UP = "hang up "
"Begins what is told of a call; nothing that is told of a key does."


CLOCKS_APART = 5.0
"Seconds that the clocks of a node and of Redis may be apart before somebody should look."


class RedisStore(RedisNodes):
    """`interface.SharedStore` in Redis. Not thread-safe: the reactor's thread alone may ask it."""

    def __init__(
        self,
        reactor: Any,
        settings: Redis,
        *,
        node: str,
        lease: float,
        instance: str,
        folder: Path,
        route_of: Callable[[Call], Route],
        encodings: Callable[[str], Deferred[Mapping[str, bytes]]] | None,
        fresh_audio: float,
        version: str = "",
        secure: Any = None,
        environment: Mapping[str, str] = os.environ,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = boot_time,
        link: RedisLink | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        """
        `node`: this node's name. `lease`: seconds. `instance`: id of the data folder: a node of this name with another
        instance is another one. `folder`: where the outbox is.
        `route_of`: the trunks that a call waits for. `encodings`: reads an MP3's encodings from this node's library,
        by its name; None: audio is not shared. `fresh_audio`: seconds for which audio is kept after its last accept.
        `version`: of this calledin, for the other nodes' operators.
        `secure`, `environment`: as `RedisLink` takes them.
        `now`: seconds since the epoch. `monotonic`: seconds that go on while the machine is suspended.
        """
        decisions = scripts()
        if link is None:
            link = RedisLink(
                reactor,
                settings,
                decisions,
                channel=settings.prefix + "changed",
                told=self._told,
                connected=self._connected,
                secure=secure,
                environment=environment,
            )
        super().__init__(
            reactor,
            link,
            scripts=decisions,
            prefix=settings.prefix,
            route_of=route_of,
            encodings=encodings,
            fresh_audio=fresh_audio,
            node=node,
            lease=lease,
            instance=instance,
            version=version,
            now=now,
            monotonic=monotonic,
        )
        self._late = Late(
            outbox or Outbox(reactor, folder), self._tell_late, lambda: self._later(AGAIN, self._tell_again)
        )
        self._folder = folder
        self._lock: int | None = None
        self._must_replicate = settings.replicas > 0
        self._opened = False
        self._telling_again = False
        self.hang_up: Callable[[str, EndedBy], None] = lambda call_id, by: None
        "Told the id of a call that is to be hung up, wherever it is, and by whom."

    def open(self) -> Deferred[None]:
        """Connect, join, and tell what the process before could not.

        Fails with StoreUnavailable, whose words say what to do: within some seconds where Redis is not there, within
        about a lease where it is lost again and again, or another node of this name is to be seen dead first.
        """
        return Deferred.fromCoroutine(self._open())

    async def _open(self) -> None:
        try:
            # Two processes on one folder would be the same node, and supersede each other again and again.
            self._lock = self._hold_folder()
            await self._late.open()
            await self._link.start()
            await self._insist(lambda: check_schema(self._link, self._prefix, lease=self._lease, pause=self._pause))
            await self._insist(self._join)
            # Before what the former epoch of this node had is taken over.
            await self._tell_of_before()
        except BaseException:
            await self._let_go()
            raise
        self._opened = True

    async def _insist(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do a step of the start again where Redis was lost meanwhile; what it says for good fails it at once.

        Raises StoreUnavailable.
        """
        until = self._reactor.seconds() + self._lease + PATIENCE
        while True:
            try:
                await step()
                return
            except StoreUnavailable as error:
                is_lost = isinstance(error, Unanswered) or self._link.trouble is not None
                if not is_lost or self._reactor.seconds() >= until:
                    raise
            await self._pause(AGAIN)

    async def _tell_of_before(self) -> None:
        """Tell what the process before could not: later, nobody would know of the callbacks that are to follow."""
        until = self._reactor.seconds() + PATIENCE
        while not await self._late.tell_again():
            if self._reactor.seconds() >= until:
                raise StoreUnavailable(
                    self._link.trouble or self._lacking or "Redis does not take what the process before has to tell it"
                )
            await self._pause(AGAIN)

    def _hold_folder(self) -> int:
        try:
            return lock_folder(self._folder)
        except OSError as error:
            raise StoreUnavailable(explain(error, self._folder)) from error

    def close(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        if self._opened:
            self._opened = False
            try:
                await self._late.tell_again()
                await self._leave()
            except StoreUnavailable as error:
                self._log.warn(
                    "This node could not take leave of the others, who wait for its lease to end: {error}", error=error
                )
        await self._let_go()

    async def _let_go(self) -> None:
        if self._closed:
            return
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        await self._link.stop()
        await self._late.close()
        if self._lock is not None:
            os.close(self._lock)

    def healthy(self) -> bool:
        return self._opened and self._link.trouble is None and not self._lacking

    def copy_into(self, path: Path) -> Deferred[None]:
        from calledind.store.redis_copy import copy_into_file  # noqa: PLC0415 - numpy and SQLite come with it

        return Deferred.fromCoroutine(copy_into_file(self._reactor, self._link, self._prefix, path))

    def agree(self, name: str, value: str) -> Deferred[str]:
        """Return what all nodes have in common under this name: the value of the first one that said it."""
        return self._change("agree", name, value).addCallback(lambda kept: kept.decode())

    def troubles(self, replicas: int, now: float) -> Deferred[Sequence[str]]:
        """Say what is wrong with this Redis, as far as it tells, a sentence each; `now`: by this machine's wall clock.

        `replicas`: that must have each change.
        """
        return Deferred.fromCoroutine(self._troubles(replicas, now))

    async def _troubles(self, replicas: int, now: float) -> Sequence[str]:
        lines = []
        try:
            seconds, _ = await self._link.ask("TIME")
            apart = now - int(seconds)
            if abs(apart) > CLOCKS_APART:
                lines.append(
                    f"this machine's clock and Redis's are {apart:.0f} s apart: flood protection and queue_ttl go by "
                    "the clocks of all nodes, which should be kept right (NTP)"
                )
            told = await self._link.ask("INFO", "persistence") + await self._link.ask("INFO", "memory")
            if b"aof_enabled:0" in told and not replicas:
                lines.append(
                    "Redis keeps changes in its memory alone: when it ends, calls and credits are lost; set appendonly "
                    "yes, or [redis] replicas"
                )
            policy = told.partition(b"maxmemory_policy:")[2].partition(b"\r")[0].decode()
            if b"maxmemory:0\r" not in told and policy != "noeviction":
                lines.append(
                    f"Redis throws away keys and calls when its memory is full (maxmemory-policy {policy}): set it to "
                    "noeviction, and requests are refused with 503 then"
                )
        except ResponseError:
            pass  # its users may not be allowed to ask
        return lines

    # what the link says

    def _told(self, message: bytes) -> None:
        """A node has changed a key, or wants a call to be hung up."""
        text = message.decode("utf-8", "replace")
        if text.startswith(HANG_UP):
            call_id, _, by = text.removeprefix(HANG_UP).partition(" ")
            self.hang_up(call_id, EndedBy.CUSTOMER if by == EndedBy.CUSTOMER else EndedBy.OPERATOR)
        else:
            self._cache.drop(text)

    def ask_to_hang_up(self, call_id: str, by: EndedBy) -> Deferred[None]:
        return self._link.ask("PUBLISH", self._channel, f"{HANG_UP}{call_id} {by}").addCallback(lambda _: None)

    def _connected(self) -> None:
        """A connection has come about: what was told meanwhile may have been missed."""
        self._cache.clear()
        if self._opened:
            if self._must_replicate:
                self._doubt_replicas()
            self._offer_the_rest()
            self._tell_again()

    def _tell_again(self) -> None:
        if not self._telling_again:
            self._telling_again = True
            self._late.tell_again().addErrback(self._bug).addCallback(self._told_again)

    def _told_again(self, is_all: bool | None) -> None:
        self._telling_again = False
        if not is_all and not self._closed:
            self._later(AGAIN, self._tell_again)
