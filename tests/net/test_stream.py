# mypy: allow-untyped-calls
"""Connections of SIP: when they are opened, what goes over them, and when they end."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from calledind.net.stream import (
    CLOSE_TIMEOUT,
    CONNECT_TIMEOUT,
    IDLE,
    MOST_ACCEPTED,
    MOST_WAITING,
    PING_AFTER,
    SWEEP,
    SipStream,
    Streams,
)
from calledind.sip.grammar import ParseError
from calledind.sip.message import Request, Response
from calledind.sip.target import Target
from calledind.sip.useragent import UserAgent

TCP = Target("192.0.2.1", 5060, "tcp", "carrier")
TLS = Target("192.0.2.1", 5061, "tls", "carrier")
OK = b"SIP/2.0 200 OK\r\nl: 0\r\n\r\n"
OPTIONS = b"OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 3\r\n\r\nabc"

HEAD = (
    b"Via: SIP/2.0/TCP 192.0.2.1:33000;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:us>\r\nCall-ID: x\r\n"
    b"Max-Forwards: 70\r\n"
)
ASKING = b"OPTIONS sip:us SIP/2.0\r\n" + HEAD + b"CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
INVITING = b"INVITE sip:us SIP/2.0\r\n" + HEAD + b"CSeq: 1 INVITE\r\nContent-Length: 4\r\n\r\nv=0\n"


class Wire(StringTransport):
    """A transport that remembers how it was closed."""

    aborted = False
    lost = False

    def abortConnection(self) -> None:
        self.aborted = True

    def loseConnection(self) -> None:
        self.lost = True

    def unregisterProducer(self) -> None:
        self.producer = None


class StreamCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.connecting: list[tuple[Target, Any, Deferred[Any]]] = []
        self.received: list[tuple[object, Target]] = []
        self.unreadable: list[tuple[ParseError, Target]] = []
        self.failed: list[tuple[Target, str]] = []
        self.welcome = True
        self.cancelled = 0
        self.streams = Streams(
            self.clock,
            connect=self._connect,
            received=lambda message, source: self.received.append((message, source)),
            unreadable=lambda error, source: self.unreadable.append((error, source)),
            failed=lambda target, words: self.failed.append((target, words)),
            welcome=lambda host: self.welcome,
        )

    def _connect(self, target: Target, factory: Any) -> Deferred[Any]:
        def cancelled(_: object) -> None:
            self.cancelled += 1

        connecting: Deferred[Any] = Deferred(cancelled)
        self.connecting.append((target, factory, connecting))
        return connecting

    def connected(self, *, shake: bool = True) -> tuple[SipStream, Wire]:
        """Let the last connection come about."""
        _, factory, connecting = self.connecting[-1]
        stream, wire = factory.buildProtocol(None), Wire()
        stream.makeConnection(wire)
        connecting.callback(stream)
        if shake and stream.target.transport == "tls":
            stream.handshakeCompleted()
        return stream, wire

    def opened(self, target: Target = TCP) -> tuple[SipStream, Wire]:
        self.streams.send(b"first", target)
        stream, wire = self.connected()
        self.assertEqual(wire.value(), b"first")
        wire.clear()
        return stream, wire

    def lose(self, stream: SipStream) -> None:
        stream.connectionLost(Failure(ConnectionDone()))

    def wait(self, seconds: float) -> None:
        self.clock.pump([1.0] * round(seconds))


class OpeningTests(StreamCase):
    def test_what_is_sent_waits_for_the_connection(self) -> None:
        """One connection is opened, and what was sent meanwhile leaves in order; later messages use the same."""
        self.streams.send(b"one", TCP)
        self.streams.send(b"two", TCP)
        opened = self.streams.open(TCP)
        self.assertNoResult(opened)
        _, wire = self.connected()
        self.assertIsNone(self.successResultOf(opened))
        self.assertIsNone(self.successResultOf(self.streams.open(TCP)))
        self.streams.send(b"three", TCP)
        self.assertEqual((wire.value(), len(self.connecting), len(self.streams)), (b"onetwothree", 1, 1))

    def test_targets_have_connections_of_their_own(self) -> None:
        """Another transport, or another trunk, is another connection."""
        for target in (TCP, TLS, Target("192.0.2.1", 5060, "tcp", "other")):
            self.streams.send(b"x", target)
        self.assertEqual(len(self.connecting), 3)

    def test_tls_waits_for_the_handshake(self) -> None:
        """Nothing leaves before the certificate was found to be right."""
        self.streams.send(b"secret", TLS)
        stream, wire = self.connected(shake=False)
        self.assertEqual(wire.value(), b"")
        stream.handshakeCompleted()
        self.assertEqual(wire.value(), b"secret")

    def test_refused(self) -> None:
        """Whoever waits is told, after `send` has returned; the next message tries again."""
        opened = self.streams.open(TCP)
        self.connecting[-1][2].errback(ConnectionRefusedError())
        self.assertEqual(self.failed, [])
        self.clock.advance(0)
        self.assertEqual(self.failed, [(TCP, "nobody listens there")])
        self.assertEqual(str(self.failureResultOf(opened, OSError).value), "nobody listens there")
        self.streams.send(b"again", TCP)
        self.assertEqual((len(self.connecting), len(self.streams)), (2, 1))

    def test_nobody_answers(self) -> None:
        """A connection that doesn't come is given up."""
        self.streams.send(b"x", TCP)
        self.wait(CONNECT_TIMEOUT)
        self.clock.advance(0)
        self.assertEqual((self.cancelled, self.failed), (1, [(TCP, f"no connection within {CONNECT_TIMEOUT:g} s")]))

    def test_no_handshake(self) -> None:
        """So is one whose TLS handshake doesn't end."""
        self.streams.send(b"x", TLS)
        stream, wire = self.connected(shake=False)
        self.wait(CONNECT_TIMEOUT)
        self.assertTrue(wire.aborted)
        self.lose(stream)
        self.assertEqual(self.failed, [(TLS, f"no connection within {CONNECT_TIMEOUT:g} s")])

    def test_no_timeout_once_open(self) -> None:
        """A connection that is there is not given up."""
        _, wire = self.opened()
        self.wait(CONNECT_TIMEOUT + 1)
        self.assertFalse(wire.aborted or self.failed)

    def test_local_address(self) -> None:
        """Our end is known while the connection is open."""
        self.assertIsNone(self.streams.local_address(TCP))
        self.streams.send(b"x", TCP)
        self.assertIsNone(self.streams.local_address(TCP))
        _, wire = self.connected()
        wire.hostAddr = IPv6Address("TCP", "::ffff:192.0.2.9", 40000)
        self.assertEqual(self.streams.local_address(TCP), ("192.0.2.9", 40000))


class TrafficTests(StreamCase):
    def test_messages(self) -> None:
        """Messages come up whole and in order, however the stream is cut, with the target they came from."""
        stream, _ = self.opened()
        stream.dataReceived(OPTIONS + OK[:10])
        stream.dataReceived(OK[10:])
        options, ok = (message for message, _ in self.received)
        assert isinstance(options, Request)
        assert isinstance(ok, Response)
        self.assertEqual((options.body, ok.status, {source for _, source in self.received}), (b"abc", 200, {TCP}))

    def test_what_is_no_message(self) -> None:
        """It is reported, the connection closed when our answer has left, and the rest not read."""
        stream, wire = self.opened()
        stream.dataReceived(OK + b"hello\r\n\r\n" + OK)
        self.assertEqual((len(self.received), len(self.unreadable), wire.lost), (1, 1, True))
        stream.dataReceived(OK)
        self.assertEqual(len(self.received), 1)
        self.wait(CLOSE_TIMEOUT)
        self.assertTrue(wire.aborted)
        self.lose(stream)
        self.assertEqual((self.failed, len(self.streams)), ([], 0))

    def test_closed_in_time(self) -> None:
        """A peer that closes at once is not aborted."""
        stream, wire = self.opened()
        stream.dataReceived(b"hello\r\n\r\n")
        self.lose(stream)
        self.wait(CLOSE_TIMEOUT)
        self.assertFalse(wire.aborted)

    def test_sending_on_a_closing_connection(self) -> None:
        """A new message gets a new connection, while the old one is going."""
        stream, _ = self.opened()
        stream.close()
        self.streams.send(b"next", TCP)
        self.assertEqual(len(self.connecting), 2)
        self.assertRaises(OSError, stream.send, b"late")
        self.lose(stream)
        self.assertEqual(len(self.streams), 1)

    def test_lost(self) -> None:
        """A connection lost is told, and the next message opens another."""
        stream, _ = self.opened()
        self.lose(stream)
        self.assertEqual((self.failed, len(self.streams)), ([(TCP, "the connection was closed")], 0))
        self.opened()

    def test_slow_reader(self) -> None:
        """What the peer doesn't read waits, in order and within bounds; beyond them the connection is given up."""
        stream, wire = self.opened()
        stream.pauseProducing()
        self.streams.send(b"a", TCP)
        stream.dataReceived(b"\r\n\r\n")
        self.streams.send(b"b", TCP)
        self.assertEqual(wire.value(), b"")
        stream.resumeProducing()
        self.assertEqual(wire.value(), b"ab")
        stream.pauseProducing()
        self.streams.send(bytes(MOST_WAITING), TCP)
        self.assertRaises(OSError, self.streams.send, b"c", TCP)
        self.assertTrue(wire.aborted)
        stream.stopProducing()
        self.lose(stream)
        self.assertEqual(self.failed, [(TCP, "the peer does not read what it is sent")])

    def test_stop(self) -> None:
        """All are closed, what was about to be opened too, and no timer is left."""
        _, wire = self.opened()
        self.streams.send(b"x", TLS)
        self.streams.stop()
        self.clock.advance(0)
        self.assertTrue(wire.lost)
        self.assertEqual(self.cancelled, 1)
        self.wait(CLOSE_TIMEOUT)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class KeepAliveTests(StreamCase):
    def test_pings_are_answered(self) -> None:
        """CRLF CRLF gets one CRLF (RFC 5626 §4.4.1)."""
        stream, wire = self.opened()
        stream.dataReceived(b"\r\n\r\n")
        self.assertEqual(wire.value(), b"\r\n")

    def test_pings_in_pieces(self) -> None:
        """However a ping was cut, it is answered once, and half of one isn't."""
        message = b"SIP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"
        for pieces, answer in (
            ([b"\r\n", b"\r\n"], b"\r\n"),
            ([b"\r", b"\n\r", b"\n"], b"\r\n"),
            ([b"\r\n\r", b"\n"], b"\r\n"),
            ([b"\r\n", b"\r\n", b"\r\n"], b"\r\n"),
            ([b"\r\n", message, b"\r\n"], b""),
        ):
            stream, wire = self.opened()
            for piece in pieces:
                stream.dataReceived(piece)
            self.assertEqual(wire.value(), answer, pieces)
            self.lose(stream)

    def test_pings(self) -> None:
        """A quiet connection of ours is pinged; a peer that never answers pings is none the worse for it."""
        _, wire = self.opened()
        self.wait(PING_AFTER + SWEEP)
        self.assertEqual(wire.value(), b"\r\n\r\n")
        self.wait(PING_AFTER + 3 * SWEEP)
        self.assertFalse(wire.aborted)

    def test_missing_pong(self) -> None:
        """One that has answered before, and doesn't any more, is gone."""
        stream, wire = self.opened()
        self.wait(PING_AFTER + SWEEP)
        stream.dataReceived(b"\r\n")
        wire.clear()
        self.wait(PING_AFTER)
        self.assertEqual((wire.value(), wire.aborted), (b"\r\n\r\n", False))
        self.wait(SWEEP)
        self.assertTrue(wire.aborted)
        self.lose(stream)
        self.assertEqual(self.failed, [(TCP, "the peer answers no keep-alive any more")])

    def test_idle(self) -> None:
        """Without messages a connection is closed after a while, whatever keep-alives it had; nobody is told."""
        stream, wire = self.opened()
        for _ in range(round(IDLE / SWEEP) - 1):
            self.wait(SWEEP)
            stream.dataReceived(b"\r\n\r\n")
        self.assertFalse(wire.lost)
        self.wait(SWEEP)
        self.assertTrue(wire.lost)
        self.lose(stream)
        self.wait(2 * SWEEP)
        self.assertEqual((self.failed, self.clock.getDelayedCalls()), ([], []))

    def test_messages_keep_it(self) -> None:
        """Messages both ways count."""
        stream, wire = self.opened()
        self.wait(IDLE - SWEEP)
        stream.dataReceived(OK)
        self.wait(IDLE - SWEEP)
        self.streams.send(b"x", TCP)
        self.wait(IDLE - SWEEP)
        self.assertFalse(wire.lost)


class AcceptingTests(StreamCase):
    PEER = IPv4Address("TCP", "192.0.2.1", 33000)

    def accepted(self) -> tuple[Any, Wire]:
        stream, wire = self.streams.factory().buildProtocol(self.PEER), Wire()
        if stream is not None:
            stream.makeConnection(wire)
        return stream, wire

    def test_requests_are_answered_on_it(self) -> None:
        """What a trunk sends by a connection of its own is answered there."""
        stream, wire = self.accepted()
        stream.dataReceived(OPTIONS)
        ((_, source),) = self.received
        self.assertEqual(source, Target("192.0.2.1", 33000, "tcp"))
        self.streams.send(b"200", source)
        self.assertEqual((wire.value(), self.connecting), (b"200", []))

    def test_not_pinged(self) -> None:
        """Who opened a connection keeps it alive."""
        _, wire = self.accepted()
        self.wait(PING_AFTER + 2 * SWEEP)
        self.assertEqual(wire.value(), b"")

    def test_strangers(self) -> None:
        """Whoever is no trunk is hung up on."""
        self.welcome = False
        self.assertIsNone(self.accepted()[0])

    def test_bounded(self) -> None:
        """So is a trunk with very many connections."""
        for number in range(MOST_ACCEPTED):
            self.streams.accept(("192.0.2.1", 1024 + number))
        self.assertIsNone(self.accepted()[0])


class RubbishTests(SynchronousTestCase):
    @settings(deadline=None, derandomize=True)
    @given(
        st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=40), st.integers(0, 400)), max_size=12),
        st.integers(1, 90),
    )
    def test_whatever_comes(self, pieces: list[tuple[int, bytes, int]], size: int) -> None:
        """Messages, damaged messages and junk in any pieces raise nothing, whoever reads the stream."""
        clock = Clock()
        target = Target("192.0.2.1", 33000, "tcp")
        agent = UserAgent(
            send=lambda data, target: streams.send(data, Target(*target, "tcp")),
            timers=clock,
            local=lambda target: ("192.0.2.9", 5060),
            user_agent="calledin",
            trusted=lambda ip: True,
        )
        streams = Streams(
            clock,
            connect=lambda target, factory: Deferred(),
            received=agent.message_received,
            unreadable=agent.unreadable,
            failed=agent.transport_failed,
            welcome=lambda host: True,
        )
        stream = streams.accept((target[0], target[1]))
        assert stream is not None
        wire = Wire()
        stream.makeConnection(wire)
        data = b""
        for kind, junk, place in pieces:
            whole = (ASKING, INVITING, b"\r\n\r\n", b"")[kind]
            data += whole[:place] + junk + whole[place:]
        for start in range(0, len(data), size):
            stream.dataReceived(data[start : start + size])
        for part in wire.value().split(b"SIP/2.0 ")[1:]:
            self.assertTrue(part[:3].isdigit())
        streams.stop()
