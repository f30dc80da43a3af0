# mypy: allow-untyped-calls
"""SIP over TCP and TLS (RFC 3261 §18): one connection to each target, opened when needed and kept while it is used.

    CONNECTING   what is to be sent waits, for at most `CONNECT_TIMEOUT`
    OPEN         messages both ways; an empty line now and then, so that NATs keep the way open (RFC 5626 §3.5.1)
    CLOSING      we said what was wrong, or nothing was said for long; the rest is not read
    CLOSED       whoever waits for an answer on it has been told

Peers may open connections to us as well, if they are trunks: for their requests, and for responses whose connection
is gone. What arrives on a connection is answered on it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from OpenSSL import SSL
from service_identity.exceptions import VerificationError
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectBindError, ConnectingCancelledError, ConnectionDone, ConnectionRefusedError
from twisted.internet.error import TimeoutError as ConnectionTimeout
from twisted.internet.interfaces import IAddress, IHandshakeListener, IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from calledind.model import Address
from calledind.sip.framing import Keepalive, StreamFramer
from calledind.sip.grammar import ParseError
from calledind.sip.message import Request, Response
from calledind.sip.target import Target

CONNECT_TIMEOUT = 5.0
"Seconds until a connection is there, TLS handshake and all."
MOST_WAITING = 256 * 1024
"Octets that may wait for a peer that doesn't read, or isn't there yet."
IDLE = 300.0
"Seconds without a message after which a connection is closed: longer than any call of ours is silent."
PING_AFTER = 30.0
"Seconds without an octet after which a keep-alive is sent on a connection that we opened."
SWEEP = 10.0
"Seconds between two looks at all connections. A pong has as long."
CLOSE_TIMEOUT = 5.0
"Seconds that a peer has to take our last words."
MOST_ACCEPTED = 1000
"Connections opened by peers."

Connect = Callable[[Target, Any], "Deferred[Any]"]
"Opens a connection, by TCP or TLS, for a protocol factory; fails with what `in_words` can say."


class State(Enum):
    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


@implementer(IHandshakeListener, IPushProducer)
class SipStream(Protocol):
    """One connection."""

    def __init__(self, streams: Streams, target: Target, *, ours: bool) -> None:
        self.target = target
        self.ours = ours
        "Opened by us."
        self.state = State.CONNECTING
        self.ready: list[Deferred[None]] = []
        self.connecting: Deferred[Any] | None = None
        self._streams = streams
        self._framer = StreamFramer()
        self._waiting: list[bytes] = []
        self._waiting_octets = 0
        self._full = False
        "The transport has as much as it wants."
        self._last_message = self._last_octet = streams.seconds()
        self._pinged: float | None = None
        self._answers_pings = False
        self._half_pinged = False
        "An empty line has come that answers no ping of ours, and nothing since."
        self._why = ""
        self._closer: Any = None

    # what Twisted says

    def connectionMade(self) -> None:
        if self.target.transport == "tcp":
            self._opened()

    def handshakeCompleted(self) -> None:
        self._opened()

    def dataReceived(self, data: bytes) -> None:
        if self.state is not State.OPEN:
            return
        self._last_octet = self._streams.seconds()
        try:
            items = self._framer.feed(data)
            while items:
                for item in items:
                    self._take(item)
                items = self._framer.feed(b"")
            self._pinged = None  # whatever it sends, it is there
        except ParseError as error:
            self._streams.unreadable(error, self.target)
            self.close()

    def connectionLost(self, reason: Failure | None = None) -> None:
        state, self.state = self.state, State.CLOSED
        if self._closer is not None and self._closer.active():
            self._closer.cancel()
        words = self._why or (in_words(reason) if reason is not None else "")
        self._streams.closed(self, "" if state is State.CLOSING else words)

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        waiting, self._waiting, self._waiting_octets = self._waiting, [], 0
        for data in waiting:
            self.send(data)

    def stopProducing(self) -> None:
        """The connection is lost, which `connectionLost` says as well."""

    # what the pool asks for

    def send(self, data: bytes) -> None:
        """Send a message, as soon as that is possible. Raises OSError where it never will be."""
        if self.state in (State.CLOSING, State.CLOSED):
            raise OSError("the connection is closed")
        self._last_message = self._streams.seconds()
        if self.state is State.OPEN and not self._full:
            self.transport.write(data)  # type: ignore[union-attr]
            return
        if self._waiting_octets + len(data) > MOST_WAITING:
            self.abort("the peer does not read what it is sent")
            raise OSError("too much is waiting for the peer")
        self._waiting.append(data)
        self._waiting_octets += len(data)

    def look(self, now: float) -> None:
        """Send a keep-alive, or close, as the time of the last message and octet tells."""
        if self.state is not State.OPEN:
            return
        if now - self._last_message >= IDLE:
            self.close()
        elif self._pinged is not None and now - self._pinged >= SWEEP and self._answers_pings:
            self.abort("the peer answers no keep-alive any more")
        elif self.ours and self._pinged is None and now - self._last_octet >= PING_AFTER:
            self._pinged = self._last_octet = now
            self.transport.write(b"\r\n\r\n")  # type: ignore[union-attr]

    def close(self) -> None:
        """Close it when what was sent has left."""
        if self.state is State.OPEN:
            self.state = State.CLOSING
            self.transport.loseConnection()  # type: ignore[union-attr]
            self._closer = self._streams.call_later(CLOSE_TIMEOUT, self._abort_closing)
        else:
            self.abort("")

    def abort(self, why: str) -> None:
        """Close it at once; `why`: in words, for whoever waits for an answer."""
        self._why = self._why or why
        if self.state is not State.CLOSED:
            if self.transport is not None:
                self.transport.abortConnection()  # type: ignore[attr-defined]
            elif self.connecting is not None:
                self.connecting.cancel()

    def _abort_closing(self) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]

    def _opened(self) -> None:
        if self.state is State.CONNECTING:
            self.state = State.OPEN
            self.transport.registerProducer(self, True)  # type: ignore[union-attr]
            self._last_message = self._last_octet = self._streams.seconds()
            self.resumeProducing()
            self._streams.opened(self)

    def _take(self, item: Request | Response | Keepalive) -> None:
        half, self._half_pinged = self._half_pinged, False
        if not isinstance(item, Keepalive):
            self._last_message = self._last_octet
            self._streams.received(item, self.target)
        elif item.ping or half:
            if self.state is State.OPEN and not self._full:
                self.transport.write(b"\r\n")  # type: ignore[union-attr]
        elif self._pinged is not None:
            self._answers_pings = True
        else:
            self._half_pinged = True


class Streams:
    """All connections.

    `received` is handed each message and where it came from, `unreadable` what broke a stream, before the
    connection is closed. `failed` hears that a connection was lost or could not be opened, in words. `welcome` tells
    whether an IP address may connect to us.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        connect: Connect,
        received: Callable[[Request | Response, Target], None],
        unreadable: Callable[[ParseError, Target], None],
        failed: Callable[[Target, str], None],
        welcome: Callable[[str], bool],
    ) -> None:
        self.seconds: Callable[[], float] = reactor.seconds
        self.call_later: Callable[..., Any] = reactor.callLater
        self.received = received
        self.unreadable = unreadable
        self._connect = connect
        self._failed = failed
        self._welcome = welcome
        self._connections: dict[Target, SipStream] = {}
        self._sweeper: Any = None

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def factory(self) -> Any:
        """Return what `listenTCP` is given."""
        return _Accepting(self)

    def send(self, data: bytes, target: Target) -> None:
        """Send one message, on a new connection where there is none. Raises OSError where it can't be sent."""
        self._connection(target).send(data)

    def open(self, target: Target) -> Deferred[None]:
        """Fire when there is a connection to the target. Fails with OSError."""
        connection = self._connection(target)
        if connection.state is State.OPEN:
            return succeed(None)
        opened: Deferred[None] = Deferred()
        connection.ready.append(opened)
        return opened

    def local_address(self, target: Target) -> Address | None:
        """Return our end of the connection to a target; None where there is none."""
        connection = self._connections.get(target)
        if connection is None or connection.state is not State.OPEN:
            return None
        return numeric(connection.transport.getHost())  # type: ignore[union-attr]

    def stop(self) -> None:
        """Close all."""
        if self._sweeper is not None and self._sweeper.active():
            self._sweeper.cancel()
        self._sweeper = None
        for connection in list(self._connections.values()):
            connection.close()

    # what the connections say

    def accept(self, address: Address) -> SipStream | None:
        """Take a connection of a peer's; None where it isn't welcome."""
        accepted = sum(not connection.ours for connection in self._connections.values())
        if accepted >= MOST_ACCEPTED or not self._welcome(address[0]):
            return None
        return self._add(SipStream(self, Target(*address, "tcp"), ours=False))

    def opened(self, connection: SipStream) -> None:
        ready, connection.ready = connection.ready, []
        for each in ready:
            each.callback(None)

    def closed(self, connection: SipStream, why: str) -> None:
        """Tell whoever waits; `why`: empty where nobody has to be told."""
        if self._connections.get(connection.target) is connection:
            del self._connections[connection.target]
        ready, connection.ready = connection.ready, []
        if why:
            self._failed(connection.target, why)
        for each in ready:
            each.errback(OSError(why or "the connection is closed"))

    def _connection(self, target: Target) -> SipStream:
        connection = self._connections.get(target)
        if connection is None or connection.state in (State.CLOSING, State.CLOSED):
            connection = self._add(SipStream(self, target, ours=True))
            factory = Factory.forProtocol(lambda: connection)
            factory.noisy = False
            late = self.call_later(CONNECT_TIMEOUT, self._too_late, connection)
            connection.ready.append(Deferred().addBoth(lambda _: late.cancel() if late.active() else None))
            connection.connecting = self._connect(target, factory)
            connection.connecting.addErrback(self._not_connected, connection)
        return connection

    def _add(self, connection: SipStream) -> SipStream:
        self._connections[connection.target] = connection
        if self._sweeper is None:
            self._sweeper = self.call_later(SWEEP, self._sweep)
        return connection

    def _too_late(self, connection: SipStream) -> None:
        connection.abort(f"no connection within {CONNECT_TIMEOUT:g} s")

    def _not_connected(self, reason: Failure, connection: SipStream) -> None:
        # Never before `send` has returned, for its caller hears of it by another way.
        connection.state = State.CLOSED
        self.call_later(0, self.closed, connection, in_words(reason))

    def _sweep(self) -> None:
        now = self.seconds()
        for connection in list(self._connections.values()):
            connection.look(now)
        self._sweeper = self.call_later(SWEEP, self._sweep) if self._connections else None


class _Accepting(Factory):
    noisy = False

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def buildProtocol(self, addr: IAddress | None) -> SipStream | None:
        return self._streams.accept(numeric(addr))


def numeric(address: Any) -> Address:
    """Return host and port of one of Twisted's addresses, a mapped IPv4 one as IPv4."""
    host = str(address.host)
    if host.startswith("::ffff:") and "." in host:
        host = host.removeprefix("::ffff:")
    return host, int(address.port)


def in_words(reason: Failure) -> str:
    """Say to people why a connection is no more."""
    error = reason.value
    if isinstance(error, VerificationError):
        return "TLS: the certificate is not one for this name"
    if isinstance(error, SSL.Error):
        return "TLS: " + (_details(error) or "the handshake failed")
    if isinstance(error, ConnectionDone):
        return "the connection was closed"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there"
    if isinstance(error, ConnectBindError):
        return f"the address of bind can't be used: {error}"
    if isinstance(error, ConnectionTimeout | ConnectingCancelledError | CancelledError):
        return f"no connection within {CONNECT_TIMEOUT:g} s"
    return reason.getErrorMessage() or type(error).__name__


def _details(error: SSL.Error) -> str:
    "OpenSSL's own words, of the last of its errors."
    try:
        return str(error.args[0][-1][-1])
    except (IndexError, TypeError):
        return ""
