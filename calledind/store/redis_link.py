# mypy: allow-untyped-calls
"""The connections to the Redis that nodes share: kept for ever, each command bounded, refused at once when it is away.

    main       scripts and other small commands
    sure       scripts whose change replicas must have: a WAIT for a lost replica delays nothing else
    spare      large values and slow reads, opened when first asked for
    channel    what other nodes tell

    CONNECTING ──▶ UP ──▶ lost (not answered in time, closed, READONLY ...) ──▶ CONNECTING, after 0.1 s, 0.2 s ... 2 s

`trouble` says why main or sure is not up. A lost connection, a wrong password, a Redis that loads its data, a replica
that has not been promoted yet: all of them are tried again until they are no more, and each is logged once.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from txredisapi import ResponseError

from calledind.settings.tables import Redis
from calledind.store.interface import StoreUnavailable
from calledind.store.redis_connection import Connection, NotReplicated, Unanswered
from calledind.store.redis_opening import Opening, Secure
from calledind.store.redis_wire import Part

__all__ = ["NotReplicated", "RedisLink", "ResponseError", "Unanswered"]

START = 5.0
"Seconds until a start is given up."
FIRST, LONGEST = 0.1, 2.0
"Seconds between two tries: at first, and at most."
NOT_STARTED = "the connection to Redis is not opened yet"
OPENING = "Redis has not answered yet; look whether it is up, and whether redis.address and redis.tls are right"
STOPPED = "the connection to Redis is closed: this process ends"

log = Logger()


class RedisLink:
    """Commands for Redis.

    `scripts`: name -> Lua source. `channel`: what is published there `told` hears, each message. `connected`: is
    called at each connection that comes about, the first as well, of main and of channel: something may have been
    missed. `secure`: with [redis] tls, gives for a host what checks its certificate.

    What fails does so with StoreUnavailable (nothing was sent, or Redis refused to run it), Unanswered (it may have
    run, or may still run) or ResponseError (an error of ours: in a script, in a command).
    """

    def __init__(
        self,
        reactor: Any,
        settings: Redis,
        scripts: Mapping[str, str],
        *,
        channel: str = "",
        told: Callable[[bytes], None] = lambda message: None,
        connected: Callable[[], None] = lambda: None,
        secure: Secure | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._reactor = reactor
        self._opening = Opening(reactor, settings, scripts, secure, environment)
        self._settings = settings
        self._channel = channel
        self._told = told
        self._connected = connected
        interval = min(1.0, settings.timeout / 2)
        self._main = _Line(reactor, self._opening.open, interval, self._is_up, self._is_down)
        self._sure = self._main
        self._lines = [self._main]
        if settings.replicas:
            self._sure = _Line(reactor, self._open_sure, interval, self._is_up, self._is_down)
            self._lines.append(self._sure)
        self._hearing: _Line | None = None
        if channel:
            self._hearing = _Line(reactor, self._open_channel, interval, self._is_subscribed, self._is_down)
            self._lines.append(self._hearing)
        self._interval = interval
        self._starting: Deferred[None] | None = None
        self._stopped = False
        self._said: set[str] = set()
        "Troubles that are in the log since all lines were up."
        self._spare: Connection | None = None
        self._opening_spare: Deferred[None] | None = None
        self._for_spare: list[Deferred[Connection]] = []

    # life

    def start(self) -> Deferred[None]:
        """Fire when commands can be sent; fail with StoreUnavailable, which says what to do, after `START` seconds.

        After a failure nothing is tried any more.
        """
        started: Deferred[None] = Deferred()
        self._starting = started
        for line in self._lines:
            line.start()
        giving_up = self._reactor.callLater(START, self._give_up_start)

        def over(result: Any) -> Any:
            if giving_up.active():
                giving_up.cancel()
            return result

        return started.addBoth(over)

    def _give_up_start(self) -> None:
        words = self.trouble or OPENING
        starting, self._starting = self._starting, None

        def failed(_: object) -> None:
            assert starting is not None
            starting.errback(StoreUnavailable(words))

        self.stop().addCallback(failed)

    def stop(self) -> Deferred[None]:
        """Close all connections, when what was sent is answered or late. What is asked from now on is refused."""
        self._stopped = True
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.errback(StoreUnavailable(STOPPED))
        if self._opening_spare is not None:
            self._opening_spare.cancel()
        closing = [line.stop() for line in self._lines]
        if self._spare is not None:
            self._spare.give_up(STOPPED)
        return DeferredList(closing).addCallback(lambda _: self._opening.closed())

    @property
    def trouble(self) -> str | None:
        """Why commands are refused at once; None: they are not."""
        if self._stopped:
            return STOPPED
        return self._main.trouble or self._sure.trouble

    @property
    def hears(self) -> bool:
        """Whether what is published now will be heard."""
        return self._hearing is not None and self._hearing.connection is not None

    @property
    def deadline(self) -> float:
        """When a replicated script that is sent now is given up, by the reactor's clock."""
        connection = self._sure.connection
        return self._reactor.seconds() if connection is None else connection.deadline

    # commands

    def run(
        self, script: str, keys: Sequence[Part], args: Sequence[Part], *, replicated: bool = False
    ) -> Deferred[Any]:
        """Run a script. `replicated`: where [redis] replicas is set, that many must have what it changed."""
        line = self._sure if replicated else self._main
        connection = line.connection
        if connection is None or self._stopped:
            return fail(StoreUnavailable(self.trouble or STOPPED))
        return connection.run(script, keys, args, replicated=replicated)

    def ask(self, *command: Part, timeout: float | None = None) -> Deferred[Any]:
        """Send any command. `timeout`: seconds, in place of the settings'."""
        connection = self._main.connection
        if connection is None or self._stopped:
            return fail(StoreUnavailable(self.trouble or STOPPED))
        return connection.ask(*command, timeout=timeout)

    def bulk(self, *command: Part, timeout: float = 10.0) -> Deferred[Any]:
        """Send a command that takes long, or whose value is large, so that nothing small waits behind it."""
        if self.trouble is not None:
            return fail(StoreUnavailable(self.trouble))
        if self._spare is not None:
            return self._spare.ask(*command, timeout=timeout)
        waiting: Deferred[Connection] = Deferred()
        self._for_spare.append(waiting)
        if self._opening_spare is None:
            self._opening_spare = Deferred.fromCoroutine(self._open_spare())
        return waiting.addCallback(lambda connection: connection.ask(*command, timeout=timeout))

    async def _open_spare(self) -> None:
        connection: Connection | None = None
        words = STOPPED
        try:
            connection = await self._opening.open(scripts=False)
        except StoreUnavailable as error:
            words = str(error)
        except CancelledError:
            pass
        else:
            connection.lost = self._spare_lost
            connection.watch(self._interval)
        self._spare, self._opening_spare = connection, None
        waiting, self._for_spare = self._for_spare, []
        for each in waiting:
            if connection is not None:
                each.callback(connection)
            else:
                each.errback(StoreUnavailable(words))

    def _spare_lost(self, words: str) -> None:
        self._spare = None

    # what the lines say

    async def _open_sure(self) -> Connection:
        return await self._opening.open(replicas=self._settings.replicas)

    async def _open_channel(self) -> Connection:
        connection = await self._opening.open(scripts=False, told=self._told)
        try:
            await connection.subscribe(self._channel)
        except ResponseError as error:
            connection.give_up("")
            raise StoreUnavailable(f"{connection.where} refused SUBSCRIBE: {error}") from None
        except BaseException:
            connection.give_up("")
            raise
        return connection

    def _is_up(self, where: str) -> None:
        self._leave_others(where)
        self._say_up(where)
        if self._main.trouble or self._sure.trouble:
            return
        self._tell_connected()
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.callback(None)

    def _is_subscribed(self, where: str) -> None:
        self._leave_others(where)
        self._say_up(where)
        if self.trouble is None:
            self._tell_connected()

    def _leave_others(self, where: str) -> None:
        """There is one master: what led to another was opened before this."""
        for connection in [self._spare, *(line.connection for line in self._lines)]:
            if connection is not None and connection.where != where:
                connection.give_up(f"the master is {where} now, and not {connection.where}")

    def _is_down(self, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            log.warn("The shared store can't be used: {words}. It is tried again by itself", words=words)

    def _say_up(self, where: str) -> None:
        if self._said and all(line.connection is not None for line in self._lines):
            self._said.clear()
            log.info("The shared store can be used again: {where}", where=where)

    def _tell_connected(self) -> None:
        try:
            self._connected()
        except Exception:  # noqa: BLE001 - an error there must not cost us the connection
            log.failure("What is told of a new connection to the shared store failed")


class _Line:
    """A connection that is opened again whenever it is lost.

    `up` is told where it leads, `down` why it is lost or does not come about.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        open: Callable[[], Awaitable[Connection]],
        interval: float,
        up: Callable[[str], None],
        down: Callable[[str], None],
    ) -> None:
        self.connection: Connection | None = None
        self.trouble: str | None = NOT_STARTED
        self._reactor = reactor
        self._open = open
        self._interval = interval
        self._up = up
        self._down = down
        self._keeping: Deferred[None] = succeed(None)
        self._stopped = False

    def start(self) -> None:
        self.trouble = OPENING
        self._keeping = Deferred.fromCoroutine(self._keep())
        self._keeping.addErrback(lambda failure: failure.trap(CancelledError))

    def stop(self) -> Deferred[None]:
        """Close the connection; fires when what was sent is answered, or late."""
        self._stopped = True
        connection, self.connection, self.trouble = self.connection, None, STOPPED
        if connection is None:
            self._keeping.cancel()
            return succeed(None)
        return connection.idle().addCallback(lambda _: connection.give_up(STOPPED))

    async def _keep(self) -> None:
        pause = FIRST
        while True:
            try:
                connection = await self._open()
            except StoreUnavailable as error:
                words = str(error)
            except CancelledError:  # by `stop`
                return
            except Exception:  # noqa: BLE001 - whatever it is, we must be there when it is over
                log.failure("The shared store can't be asked; this is an error of ours")
                words = "an error of ours keeps us from Redis; it is in the log"
            else:
                since = self._reactor.seconds()
                words = await self._use(connection)
                if self._reactor.seconds() - since > LONGEST:
                    pause = FIRST
            if self._stopped:
                return
            self.trouble = words
            self._down(words)
            await self._sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - nodes shall not all come at once
            pause = min(2 * pause, LONGEST)

    async def _use(self, connection: Connection) -> str:
        """Let commands be sent on it, until it is lost; return why it was."""
        lost: Deferred[str] = Deferred()
        connection.lost = lost.callback
        connection.watch(self._interval)
        self.connection, self.trouble = connection, None
        self._up(connection.where)
        words = await lost
        self.connection = None
        return words

    def _sleep(self, seconds: float) -> Deferred[None]:
        over: Deferred[None] = Deferred(lambda _: call.cancel())
        call = self._reactor.callLater(seconds, over.callback, None)
        return over
