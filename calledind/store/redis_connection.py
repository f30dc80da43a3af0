"""One connection to Redis: commands out, each with its time, and their replies in the same order.

The parser is txredisapi's. Its queue of replies, its timeouts and its pools are not used: a reply is matched to its
command here, and every command is bounded.

    OPEN    commands are sent as they are asked for; Redis answers them in this order
    OVER    one was not answered in time, the peer closed, or Redis said that it is none for us: every command that
            was sent fails with `Unanswered`, as it may have run or run yet, and later ones with `StoreUnavailable`

A connection is never used again after a timeout: the late reply would be taken for that of the next command.

**WAIT.** A script whose change must reach replicas is followed by a WAIT on the same connection, which covers all
that was written before it. Redis runs nothing else of a connection that waits, so one WAIT is under way at a time, and
the next covers whatever was written meanwhile:

    written    A WAIT(A)     B C     D               WAIT(B C D)
    answered           a                  n → A fires   b c d       n → B, C, D fire
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from txredisapi import RedisError, RedisProtocol, ResponseError

from calledind.store.interface import StoreUnavailable
from calledind.store.redis_wire import OF_NO_USE, REFUSALS, Part, Script, bulks, encode, in_words

MOST_WAITING = 8192
"Commands without an answer on one connection: what comes on top would be late anyhow."
KINDS = frozenset("+-:$*")
"What a reply begins with."
TURNS = 16
"Turns that the reactor has to read what waits, before a late command is given up: it may be us who stood still."
PING = b"*1\r\n$4\r\nPING\r\n"


class Unanswered(StoreUnavailable):
    """The command was sent, and no answer came: it may have run, or may still run."""


class NotReplicated(Unanswered):
    """The script has run, but too few replicas have what it changed. `reply`: what it answered."""

    def __init__(self, words: str, reply: Any) -> None:
        super().__init__(words)
        self.reply = reply


class _Missing:
    """There is no reply yet."""


MISSING = _Missing()


class Command:
    """One that was sent."""

    __slots__ = ("deadline", "done", "group", "replicated", "reply", "script", "wire")

    def __init__(self, deadline: float, done: Deferred[Any] | None) -> None:
        self.deadline = deadline
        self.done = done
        "None: nobody waits for it any more."
        self.reply: Any = MISSING
        "Of a script that waits for replicas."
        self.replicated = False
        self.script: Script | None = None
        "Is loaded where Redis does not know it, and `wire` sent again."
        self.wire = b""
        self.group: list[Command] | None = None
        "Of a WAIT: the scripts that it covers."


class Connection(RedisProtocol):  # type: ignore[misc] # txredisapi is not annotated
    """Replies are bytes, integers, lists and None as Redis sends them: "0044123" stays what it is.

    `where`: the server, in words. `timeout`: seconds for a command. `replicas`: how many a WAIT asks for.
    `told`: hears what is published, once `subscribe` was sent.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        where: str,
        *,
        timeout: float,
        scripts: Mapping[str, Script] | None = None,
        replicas: int = 0,
        told: Callable[[bytes], None] | None = None,
    ) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self.where = where
        self.over = False
        self.lost: Callable[[str], None] = lambda words: None
        "Is called once, before the commands that were sent fail; with what happened."
        self.gone: Deferred[None] = Deferred()
        "Fires when the socket is closed."
        self._clock = clock
        self._timeout = timeout
        self._scripts = scripts or {}
        self._replicas = replicas
        # Two of them, the one under way and a script's own, still leave some of the timeout.
        self._wait = encode("WAIT", replicas, max(1, int(timeout * 400)))
        self._told = told
        self._subscribed = False
        self._sent: deque[Command] = deque()
        self._uncovered: list[Command] = []
        "Scripts that the next WAIT will cover."
        self._waits = False
        self._alarm: IDelayedCall | None = None
        self._alarm_at = inf
        self._pinger: IDelayedCall | None = None
        self._heard = False
        "Since the last look for silence."
        self._read = False
        "Since the last turn of the reactor, while a command is late."
        self._idle: list[Deferred[None]] = []
        self._rest = b""

    # what is asked for

    def ask(self, *parts: Part, timeout: float | None = None) -> Deferred[Any]:
        """Send a command. Fails with StoreUnavailable, ResponseError (an error of ours)."""
        done: Deferred[Any] = Deferred()
        command = Command(self._clock.seconds() + (self._timeout if timeout is None else timeout), done)
        return self._send(encode(*parts), command) or done

    def run(self, name: str, keys: Sequence[Part], args: Sequence[Part], *, replicated: bool) -> Deferred[Any]:
        """Run a script; `replicated`: and wait until the replicas have what it changed."""
        script = self._scripts[name]
        parts: list[Part] = [len(keys), *keys, *args]
        wire = b"*%d\r\n%b%b" % (2 + len(parts), script.head, bulks(parts))
        done: Deferred[Any] = Deferred()
        command = Command(self._clock.seconds() + self._timeout, done)
        command.script = script
        command.wire = wire
        command.replicated = replicated and self._replicas > 0
        refused = self._send(wire, command)
        if refused is not None:
            return refused
        if command.replicated:
            self._cover(command)
        return done

    @property
    def deadline(self) -> float:
        """When a command that is sent now is given up, by our clock: with the one that has waited longest."""
        own = self._clock.seconds() + self._timeout
        return min(own, self._sent[0].deadline) if self._sent else own

    def subscribe(self, channel: str) -> Deferred[Any]:
        """From now on, `told` hears what is published there; nothing but this and PING may be sent."""
        self._subscribed = True
        return self.ask("SUBSCRIBE", channel)

    def watch(self, interval: float) -> None:
        """Send a PING whenever nothing was heard for `interval` seconds."""
        if not self.over:
            self._pinger = self._clock.callLater(interval, self._ping, interval)

    def idle(self) -> Deferred[None]:
        """Fire when no command waits for its answer."""
        done: Deferred[None] = Deferred()
        self._idle.append(done)
        self._tell_idle()
        return done

    def give_up(self, words: str) -> None:
        """Close the connection at once; what was sent fails with these words."""
        if self.over:
            return
        self.over = True
        for call in (self._alarm, self._pinger):
            if call is not None and call.active():
                call.cancel()
        self._alarm = self._pinger = None
        if self.transport is not None:
            self.transport.abortConnection()
        self.lost(words)
        waiting = [*self._sent, *self._uncovered]
        for command in self._sent:
            waiting += command.group or ()
        self._sent.clear()
        self._uncovered = []
        for command in waiting:
            _fail(command, Unanswered(words))
        self._tell_idle()

    # what Twisted and txredisapi's parser say

    def connectionMade(self) -> None:
        """Logging in is the opener's."""
        self.transport.setTcpNoDelay(True)

    def connectionLost(self, reason: Failure) -> None:
        self.give_up(f"{self.where}: {in_words(reason.value)}")
        self.gone.callback(None)

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        if self.over:
            return
        self._heard = self._read = True
        try:
            super().dataReceived(data)
            while self._rest and not self.over:
                rest, self._rest = self._rest, b""
                super().dataReceived(rest)
        except (RedisError, UnicodeDecodeError):
            self.give_up(self._no_redis())

    def lineReceived(self, line: str) -> None:
        """Refuse what txredisapi would pass over in silence."""
        if line[:1] in KINDS:
            super().lineReceived(line)
        else:
            self.give_up(self._no_redis())

    def _no_redis(self) -> str:
        return f"{self.where} sent what is not Redis's protocol; correct the address"

    def setLineMode(self, extra: bytes = b"") -> None:
        """Go on with the rest in `dataReceived`: txredisapi would do so in the reactor's next turn, one reply each."""
        self.line_mode = 1
        self._rest = extra

    def replyReceived(self, reply: Any) -> None:
        if self.over:
            return
        if isinstance(reply, str):
            reply = reply.encode()
        if self._subscribed and isinstance(reply, list) and reply[:1] == [b"message"]:
            self._tell(reply[-1])
            return
        if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
            self.give_up(self._no_redis())
            return
        if not self._sent:
            self.give_up(f"{self.where} sent an answer that nobody had asked for")
            return
        command = self._sent.popleft()
        if isinstance(reply, ResponseError):
            self._failed(command, reply)
        elif command.group is not None:
            self._waited(command.group, reply)
        elif command.replicated:
            command.reply = reply
        else:
            _answer(command, reply)
        if self._idle:
            self._tell_idle()

    # the order of things

    def _send(self, wire: bytes, command: Command) -> Deferred[Any] | None:
        if self.over:
            return fail(StoreUnavailable(f"{self.where}: the connection was lost"))
        if len(self._sent) >= MOST_WAITING:
            return fail(StoreUnavailable(f"{self.where} has more to do than it can bear; it is tried again later"))
        self._write(wire, command)
        return None

    def _write(self, wire: bytes, command: Command) -> None:
        self._sent.append(command)
        self.transport.write(wire)
        if command.deadline < self._alarm_at:
            self._set_alarm(command.deadline)

    def _failed(self, command: Command, error: ResponseError) -> None:
        text = str(error)
        code = text.split(" ", 1)[0]
        if code == "NOSCRIPT" and command.script is not None:
            self._load_and_run(command)
        elif code in OF_NO_USE:
            words = f"{self.where} {OF_NO_USE[code]}"
            if command.group is not None:
                self._sent.appendleft(command)
            self.give_up(words)
            _fail(command, StoreUnavailable(words))
        elif command.group is not None:
            self._sent.appendleft(command)
            self.give_up(f"{self.where} refused WAIT: {REFUSALS.get(code, text)}")
        elif code in REFUSALS:
            _fail(command, StoreUnavailable(f"{self.where} {REFUSALS[code]} ({text})"))
        else:
            _fail(command, error)

    def _load_and_run(self, command: Command) -> None:
        """Redis has forgotten its scripts (SCRIPT FLUSH, a restart that the connection has not seen)."""
        assert command.script is not None
        self._write(encode("SCRIPT", "LOAD", command.script.source), Command(command.deadline, None))
        command.script = None
        self._write(command.wire, command)
        if command.replicated:
            self._cover(command)

    # replicas

    def _cover(self, command: Command) -> None:
        self._uncovered.append(command)
        if not self._waits:
            self._send_wait()

    def _send_wait(self) -> None:
        group, self._uncovered = self._uncovered, []
        wait = Command(min(command.deadline for command in group), None)
        wait.group = group
        self._waits = True
        self._write(self._wait, wait)

    def _waited(self, group: list[Command], replicas: int) -> None:
        self._waits = False
        if self._uncovered:
            self._send_wait()
        for command in group:
            if command.reply is MISSING:
                continue  # it failed, or was sent once more and is covered by a later WAIT
            if replicas >= self._replicas:
                _answer(command, command.reply)
            else:
                words = f"{replicas} of the {self._replicas} replicas that must have a change answered in time"
                _fail(command, NotReplicated(f"{self.where}: {words}; look after its replicas", command.reply))

    # time

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self._clock.callLater(max(0.0, at - self._clock.seconds()), self._look, TURNS)

    def _look(self, turns: int) -> None:
        """See whether a command is late. One timer serves them all: it is set anew when it has gone off."""
        self._alarm_at = inf
        if not self._sent:
            return
        earliest = min(command.deadline for command in self._sent)
        if earliest > self._clock.seconds():
            self._set_alarm(earliest)
        elif turns == 0 or (turns < TURNS and not self._read):
            self.give_up(f"{self.where} did not answer in time; look whether it is up, and not overloaded")
        else:
            self._alarm_at = -inf
            self._read = False
            self._alarm = self._clock.callLater(0, self._look, turns - 1)

    def _ping(self, interval: float) -> None:
        if not self._heard and not self._sent:
            self._write(PING, Command(self._clock.seconds() + self._timeout, None))
        self._heard = False
        self._pinger = self._clock.callLater(interval, self._ping, interval)

    def _tell(self, message: bytes) -> None:
        assert self._told is not None
        try:
            self._told(message)
        except Exception:  # noqa: BLE001 - an error in what hears it is none of the connection's
            self.log.failure("What hears the shared store's messages failed")

    def _tell_idle(self) -> None:
        if not self._sent and not self._uncovered:
            waiting, self._idle = self._idle, []
            for done in waiting:
                done.callback(None)


def _answer(command: Command, reply: Any) -> None:
    done, command.done = command.done, None
    if done is not None:
        done.callback(reply)


def _fail(command: Command, error: Exception) -> None:
    done, command.done = command.done, None
    if done is not None:
        done.errback(error)
