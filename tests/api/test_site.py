"""What strangers may make the site do, and how long."""

# mypy: allow-untyped-calls
from __future__ import annotations

import time

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import MemoryReactor
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from calledind.admission import Verdict
from calledind.api.channel import (
    BURST,
    CLOSING_OCTETS,
    CLOSING_SECONDS,
    HEAD_OCTETS,
    HEAD_SECONDS,
    IDLE_SECONDS,
    Channel,
)
from calledind.api.site import Site, network_of
from calledind.model import ReturnCode
from tests.api.wire import ACCEPTED, Connection, Response, Served

GET = b"GET /api/playback?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"


class SyntaxTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.served = Served()
        self.client = self.served.connect()

    def refused(self, data: bytes) -> Response:
        """Send it; it must be answered with a short text, the connection closed for writing, and no call made."""
        response = Response(self.client.send(data))
        self.assertEqual(response.rest, b"")
        self.assertLess(len(response.body), 100)
        self.assertEqual(response.headers["connection"], "close")
        self.assertTrue(self.client.wire.closed)
        self.assertEqual(self.served.asked, [])
        return response

    def test_not_http(self) -> None:
        """What is no request line is answered 400 and closed."""
        for data in (
            b"\x16\x03\x01\x02\x00\x01\x00\r\n",
            b"GET\r\n",
            b"GET / \r\n",
            b"GET  / HTTP/1.1\r\n",
            b"GET / HTTP/2.0\r\n",
            b"GET / http/1.1\r\n",
            b"GET /a b HTTP/1.1\r\n",
            b"G\0T / HTTP/1.1\r\n",
            b"GET /\0 HTTP/1.1\r\n",
            b"GET /\xe2\x82\xac HTTP/1.1\r\n",
            b"\r\n\r\n",
        ):
            self.setUp()
            self.assertEqual(self.refused(data).status, 400, data)

    def test_broken_headers(self) -> None:
        """A header without a colon, with a space in its name or a NUL in its value is answered 400 and closed."""
        for field in (b"Host", b"Ho st: a", b"Host : a", b": a", b"X: a\0b", b"X: a\rb", b"\xff: a"):
            self.setUp()
            self.assertEqual(self.refused(b"GET / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n").status, 400, field)

    def test_broken_header_before_others(self) -> None:
        """Nothing after a broken header is looked at, another request neither."""
        self.assertEqual(self.refused(b"GET / HTTP/1.1\r\nbroken\r\nHost: a\r\nX: y\r\n\r\n" + GET).status, 400)

    def test_host(self) -> None:
        """HTTP/1.1 needs exactly one Host header (RFC 9112 §3.2), HTTP/1.0 none."""
        for fields in (b"", b"Host: a\r\nHost: a\r\n"):
            response = Response(self.client.send(b"GET /healthz HTTP/1.1\r\n" + fields + b"\r\n"))
            self.assertEqual(response.status, 400)
        self.assertEqual(Response(self.client.send(b"GET /healthz HTTP/1.0\r\n\r\n")).status, 200)

    def test_targets(self) -> None:
        """The absolute-form is taken, and what is neither it nor the origin-form is 400."""
        for target in (b"http://a/healthz", b"HTTPS://a:1/healthz?x=1", b"/healthz", b"/healthz?http://b/"):
            self.assertEqual(self.served.get(target).status, 200, target)
        for target in (b"healthz", b"ftp://a/healthz", b"a:80", b"*", b"?x=1"):
            self.assertEqual(self.served.get(target).status, 400, target)
        for target in (b"http://a", b"http://a?/healthz", b"http:///x"):
            self.assertEqual(self.served.get(target).status, 404, target)

    def test_methods(self) -> None:
        """Other methods than GET and HEAD are 405 and name those, with a body or without."""
        for method in (b"POST", b"PUT", b"OPTIONS", b"get", b"TRACE", b"BREW"):
            for fields in (b"", b"Content-Length: 5\r\n"):
                self.setUp()
                data = method + b" /api/playback HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n"
                response = Response(self.client.send(data))
                self.assertEqual((response.status, response.headers["allow"]), (405, "GET, HEAD"))
                self.assertEqual(self.client.wire.closed, bool(fields))

    def test_bodies(self) -> None:
        """A request with a body is refused when its headers are there, without waiting for the body."""
        for field in (
            b"Content-Length: 1",
            b"Transfer-Encoding: chunked",
            b"content-length:99999999999",
            b"Expect: 100-continue\r\nContent-Length: 7",
        ):
            self.setUp()
            response = self.refused(b"GET /api/playback HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n")
            self.assertEqual(response.status, 413, field)
            self.assertTrue(self.client.wire.half_closed)
            self.assertEqual(self.client.send(GET), b"")

    def test_lengths(self) -> None:
        """A length of zero is no body, and one that is no number is 400."""
        for length in (b"0", b"000", b"0" * 5000):
            self.assertEqual(self.served.get(b"/healthz", b"Content-Length: " + length).status, 200)
        for length in (b"-1", b"1,1", b"", b"0x1", b"+0", b"\xb2"):
            self.setUp()
            data = b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: " + length + b"\r\nX: y\r\n\r\n"
            self.assertEqual(self.refused(data).status, 400, length)
        self.assertEqual(self.served.get(b"/healthz", b"Content-Length: " + b"9" * 5000).status, 413)

    def test_expect_without_body(self) -> None:
        """Expect without a body is answered at once, with no 100 before it."""
        self.assertEqual(self.served.get(b"/healthz", b"Expect: 100-continue").status, 200)


class BoundsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.served = Served()
        self.client = self.served.connect()

    def test_largest_head(self) -> None:
        """A head of 8 KiB is taken; one header of 9 KiB, a request line of 9 KiB, and many small headers aren't."""
        line = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: "
        self.assertEqual(
            Response(self.client.send(line + b"x" * (HEAD_OCTETS - len(line) - 4) + b"\r\n\r\n")).status, 200
        )
        for data in (
            line + b"x" * 9216 + b"\r\n\r\n",
            line + b"x" * 9216,
            b"GET /" + b"x" * 9216,
            b"GET /" + b"x" * 9216 + b" HTTP/1.1\r\n",
            line + b"x" * 4000 + b"\r\nY: " + b"y" * 4200 + b"\r\n",
        ):
            self.setUp()
            response = Response(self.client.send(data))
            self.assertEqual((response.status, self.client.wire.closed), (431, True))
        self.setUp()
        self.assertEqual(Response(self.client.send(line + b"\r\nX:" * 200 + b"\r\n\r\n")).status, 400)

    def test_white_space(self) -> None:
        """Thousands of spaces before an octet that may not be there are refused as fast as they were sent."""
        for space in (b" ", b" \t"):
            self.setUp()
            data = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX:" + space * 1500 + b"\0\r\n\r\n"
            began = time.process_time()
            self.assertEqual(Response(self.client.send(data)).status, 400)
            self.assertLess(time.process_time() - began, 1.0)

    def test_byte_by_byte(self) -> None:
        """A request that comes in single octets is as good as any, as long as it is there in time."""
        self.assertEqual(Response(b"".join(self.client.send(bytes([octet])) for octet in GET)).body, b"0")

    def test_head_deadline(self) -> None:
        """A head that is not there five seconds after the connection is answered 408, whatever dribbles in."""
        for _ in range(9):
            self.assertEqual(self.client.send(b"G"), b"")
            self.served.clock.advance(HEAD_SECONDS / 10)
        self.assertFalse(self.client.wire.closed)
        self.served.clock.advance(HEAD_SECONDS / 10)
        self.assertEqual(Response(self.client.taken()).status, 408)
        self.assertTrue(self.client.wire.closed)

    def test_silence(self) -> None:
        """A client that says nothing is closed as soon, without words."""
        self.served.clock.advance(HEAD_SECONDS)
        self.assertEqual((self.client.taken(), self.client.wire.closed), (b"", True))

    def test_refused_is_aborted(self) -> None:
        """A refused client that does not close is cut off after a moment, or when it has sent enough."""
        self.client.send(b"nonsense\r\n")
        self.assertFalse(self.client.wire.aborted)
        self.served.clock.advance(CLOSING_SECONDS)
        self.assertTrue(self.client.wire.aborted)
        self.setUp()
        self.client.send(b"nonsense\r\n")
        self.client.send(b"x" * (CLOSING_OCTETS + 1))
        self.assertTrue(self.client.wire.aborted)

    def test_next_head_deadline(self) -> None:
        """A later request on the connection has five seconds too, from its first octet, in the same read or not."""
        for data in (GET + b"GET", GET + GET[:-1]):
            self.setUp()
            self.client.send(data)
            self.served.clock.advance(HEAD_SECONDS)
            self.assertIn(b" 408 ", self.client.taken())
        self.setUp()
        self.client.send(GET)
        self.served.clock.advance(HEAD_SECONDS * 3)
        self.assertFalse(self.client.wire.closed)
        self.client.send(b"G")
        self.served.clock.pump([1.0] * int(HEAD_SECONDS))
        self.assertTrue(self.client.wire.closed)

    def test_idle(self) -> None:
        """A connection without another request is closed after a minute, with no words."""
        self.client.send(GET)
        self.served.clock.pump([1.0] * int(IDLE_SECONDS - 1))
        self.assertFalse(self.client.wire.closed)
        self.served.clock.advance(1)
        self.assertTrue(self.client.wire.closed)
        self.assertEqual(self.client.taken(), b"")

    def test_answer_may_take_long(self) -> None:
        """While a verdict is being found no deadline runs."""
        verdict = Deferred[Verdict]()
        self.served.admit = lambda _: verdict
        self.client.send(GET)
        self.served.clock.pump([5.0] * 30)
        self.assertFalse(self.client.wire.closed)
        verdict.callback(ACCEPTED)
        self.assertEqual(Response(self.client.taken()).body, b"0")

    def test_reader_of_nothing(self) -> None:
        """A client that does not take its last answer is cut off."""
        self.client.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        self.assertTrue(self.client.wire.closed)
        self.served.clock.advance(CLOSING_SECONDS)
        self.assertTrue(self.client.wire.aborted)

    def test_nothing_is_left(self) -> None:
        """A connection that is gone leaves no timer and no count behind."""
        self.client.send(GET)
        self.client.leave()
        self.served.clock.advance(0)
        self.assertEqual(self.served.clock.getDelayedCalls(), [])
        self.assertEqual(self.served.site.connections, 0)


class PersistenceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.served = Served()
        self.client = self.served.connect()

    def test_pipelined(self) -> None:
        """Requests sent in one go are answered in their order, each after the one before."""
        verdicts = [Deferred[Verdict](), Deferred[Verdict]()]
        self.served.admit = lambda _: verdicts[len(self.served.asked) - 1]
        self.assertEqual(
            self.client.send(GET + GET.replace(b"x=1", b"x=2") + b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"), b""
        )
        self.assertEqual(self.served.asked, [{b"x": [b"1"]}])
        verdicts[0].callback(ACCEPTED)
        self.assertEqual(Response(self.client.taken()).rest, b"")
        self.assertEqual(self.served.asked[1:], [{b"x": [b"2"]}])
        verdicts[1].callback(ACCEPTED)
        last = Response(self.client.taken())
        self.assertEqual((last.body, Response(last.rest).body), (b"0", b"ok\n"))

    def test_pipelined_without_end(self) -> None:
        """A peer that sends very many requests in one go gets a bounded number of answers and is closed."""
        data = self.client.send(GET * 1000)
        self.assertEqual(data.count(b"HTTP/1.1 200"), BURST)
        self.assertEqual(data.count(b"Connection: close"), 1)
        self.assertTrue(self.client.wire.closed)

    def test_close(self) -> None:
        """HTTP/1.0 and Connection: close, in a list too, are answered and closed; HTTP/1.1 stays open."""
        for data, closed in (
            (b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", False),
            (b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", False),
            (b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: TE, Close\r\n\r\n", True),
            (b"GET /healthz HTTP/1.0\r\n\r\n", True),
            (b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
        ):
            self.setUp()
            response = Response(self.client.send(data))
            self.assertEqual((response.body, self.client.wire.closed), (b"ok\n", closed))
            self.assertEqual(response.headers.get("connection"), "close" if closed else None)


class CrowdTests(SynchronousTestCase):
    def test_per_address(self) -> None:
        """One address may hold so many connections; others are not kept out, and one that closes makes room."""
        served = Served(max_connections_per_address=2)
        first, _ = served.connect("192.0.2.1"), served.connect("192.0.2.1")
        refused = served.connect("192.0.2.1")
        self.assertEqual(Response(refused.taken()).status, 503)
        self.assertTrue(refused.wire.closed)
        refused.leave()
        self.assertEqual(served.connect("192.0.2.2").taken(), b"")
        first.leave()
        self.assertEqual(served.connect("192.0.2.1").taken(), b"")
        self.assertEqual(Response(served.connect("192.0.2.1").taken()).status, 503)

    def test_in_all(self) -> None:
        """All together may hold so many."""
        served = Served(max_connections=3)
        for last in range(3):
            self.assertEqual(served.connect(f"192.0.2.{last}").taken(), b"")
        self.assertEqual(Response(served.connect("192.0.2.9").taken()).status, 503)

    def test_networks(self) -> None:
        """An IPv6 /64 counts as one client, an IPv4-mapped address as the IPv4 one, a Unix socket as nobody."""
        for host, network in (
            ("2001:db8::1", "2001:db8::/64"),
            ("2001:db8::ffff:1:2:3", "2001:db8::/64"),
            ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
        ):
            self.assertEqual(network_of(IPv6Address("TCP", host, 1)), network)
        self.assertEqual(network_of(IPv4Address("TCP", "192.0.2.7", 1)), "192.0.2.7")
        self.assertEqual(network_of(UNIXAddress(b"/x")), "")


class AccessLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[str] = []
        globalLogPublisher.addObserver(self._note)  # type: ignore[arg-type]
        self.addCleanup(globalLogPublisher.removeObserver, self._note)  # type: ignore[arg-type]
        self.served = Served()

    def _note(self, event: LogEvent) -> None:
        self.events.append(formatEvent(event))

    @property
    def lines(self) -> list[str]:
        """What has been logged when this turn of the reactor is over."""
        self.served.clock.advance(0)
        return [line for event in self.events for line in event.split("\n")]

    def test_line(self) -> None:
        """A request's line has who, what and how it ended, and nothing that must not be known."""
        self.served.get(
            b"/api/playback/?api_key=ck_SECRET&phone_number=2125550123&country_code=1&caller_id=%2B12125550199"
            b"&mp3=https%3A%2F%2Fuser%3ApassWORD%40a.example%3A8443%2Fx%2F2125550123.mp3%3Ftoken%3DTOKEN"
            b"&callback_url=http://b.example/cb%3Fid%3DIDENTITY&secret=HUSH&apikey=ck_TYPO&%61pi_key=ck_AGAIN&cache=True"
        )
        [line] = self.lines
        self.assertEqual(
            line,
            '192.0.2.1 "GET /api/playback/?api_key=***&api_key=***&phone_number=***23&country_code=1&caller_id=***99'
            "&mp3=https://a.example:8443/x/***23.mp3?***&callback_url=http://b.example/cb?***&secret=***&cache=True"
            '&(1 unknown) HTTP/1.1" 200 1 call 0123abc',
        )

    def test_refused_call(self) -> None:
        """Of a request that was refused, the line has the code and why, in which nothing can begin another line."""
        self.served.admit = lambda _: succeed(Verdict(ReturnCode.FLOOD, "too\nsoon"))
        self.served.get(b"/api/playback/?cache=True")
        self.assertEqual(self.lines, ['192.0.2.1 "GET /api/playback/?cache=True HTTP/1.1" 200 1 code 6: too?soon'])

    def test_mistyped_path(self) -> None:
        """Keys and numbers in a path that is not there are masked, and line ends can't begin a line of their own."""
        self.served.get(b"/api/ck_SECRET/2125550123/%0a")
        self.served.get(b"/api/playback?cache=a%0ab&country_code=%0a&phone_number=1%0a2%0a3&mp3=http://x%0a/y")
        lines = self.lines
        for line in lines:
            self.assertNotIn("SECRET", line)
            self.assertNotIn("21255", line)
        self.assertEqual(len(lines), 2)

    def test_head(self) -> None:
        """A HEAD request is logged like any other, by nobody else and in no other form."""
        self.served.connect().send(b"HEAD /healthz?api_key=ck_SECRET HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual(self.lines, ['192.0.2.1 "HEAD /healthz?api_key=*** HTTP/1.1" 200 0'])

    def test_refused_method(self) -> None:
        """What was refused is named."""
        self.served.connect().send(b"POST /api/playback?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual(self.lines, ['192.0.2.1 "POST /api/playback?(1 unknown) HTTP/1.1" 405 33'])

    def test_refusals(self) -> None:
        """What is not even a request has a line too, with nothing of what was sent."""
        self.served.connect().send(b"api_key=ck_SECRET\r\n")
        [line] = self.lines
        self.assertEqual(line, '192.0.2.1 "-" 400 0')

    def test_unix_peer(self) -> None:
        """A peer without an address is logged as one."""
        connection = Connection(self.served.site, UNIXAddress(None))
        connection.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        self.assertEqual(self.lines, ['- "GET /healthz HTTP/1.0" 200 3'])

    def test_one_turn(self) -> None:
        """The lines of one turn of the reactor are one event, in order; those of the next are another."""
        one, two = self.served.connect(), self.served.connect("192.0.2.2")
        one.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        two.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual(self.events, [])
        self.served.clock.advance(0)
        one.send(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
        self.served.clock.advance(0)
        first, second = '192.0.2.1 "GET /healthz HTTP/1.1" 200 3', '192.0.2.2 "GET /healthz HTTP/1.1" 200 3'
        self.assertEqual(self.events, [f"{first}\n{second}", '192.0.2.1 "GET /readyz HTTP/1.1" 200 6'])

    def test_last_turn(self) -> None:
        """What was served right before the end is in the log."""
        self.served.get(b"/healthz")
        self.served.site.stopFactory()
        self.assertEqual(self.events, ['192.0.2.1 "GET /healthz HTTP/1.1" 200 3'])
        self.assertEqual(len(self.lines), 1)


class Kernel(FileDescriptor):
    """A TCP connection whose send buffer has so much room."""

    connected = True

    def __init__(self, room: int) -> None:
        super().__init__(MemoryReactor())
        self.room = room
        self.sent = b""
        self.broken = False

    def writeSomeData(self, data: bytes) -> int | ConnectionLost:
        if self.broken:
            return ConnectionLost()
        taken = bytes(data[: self.room])
        self.room -= len(taken)
        self.sent += taken
        return len(taken)

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 50000)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.9", 80)

    def fileno(self) -> int:
        return 7


class WriteTests(SynchronousTestCase):
    REQUEST = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"

    def connect(self, room: int) -> tuple[Kernel, Channel]:
        channel = Served().site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 50000))
        assert isinstance(channel, Channel)
        kernel = Kernel(room)
        channel.makeConnection(kernel)
        return kernel, channel

    def test_at_once(self) -> None:
        """An answer that the kernel takes has left when its request's turn is over."""
        kernel, channel = self.connect(10_000)
        channel.dataReceived(self.REQUEST)
        self.assertEqual(Response(kernel.sent).body, b"ok\n")
        self.assertFalse(kernel.dataBuffer)

    def test_full(self) -> None:
        """Wherever the kernel has no more room, all octets of all answers come in their order."""
        self.patch(Site, "date", lambda _: b"Thu, 01 Jan 2026 00:00:00 GMT")
        whole, channel = self.connect(10_000)
        for _ in range(3):
            channel.dataReceived(self.REQUEST)
        for room in (0, 1, 50, len(whole.sent) // 3, len(whole.sent) // 3 + 1, len(whole.sent) - 1):
            kernel, channel = self.connect(room)
            channel.dataReceived(self.REQUEST)
            channel.dataReceived(self.REQUEST)
            self.assertEqual(kernel.sent, whole.sent[: len(kernel.sent)])
            kernel.room = 10_000
            channel.dataReceived(self.REQUEST)
            kernel.doWrite()
            self.assertEqual(len(kernel.sent), len(whole.sent))
            self.assertEqual(Response(Response(Response(kernel.sent).rest).rest).body, b"ok\n")

    def test_broken(self) -> None:
        """A connection found broken while writing is left to the transport to lose."""
        kernel, channel = self.connect(0)
        kernel.broken = True
        channel.dataReceived(self.REQUEST)
        self.assertIsInstance(kernel.doWrite(), ConnectionLost)


class GoodbyeTests(SynchronousTestCase):
    """The site parts from its clients."""

    def setUp(self) -> None:
        self.served = Served()
        self.client = self.served.connect()

    def finish(self, seconds: float = 15.0) -> Deferred[None]:
        return Deferred.fromCoroutine(self.served.site.finish(seconds))

    def wait(self, seconds: float) -> None:
        self.served.clock.pump([0.1] * round(seconds * 10))

    def test_last_answer(self) -> None:
        """Each answer says that it is the last one, whichever way the request was read, and the connection closes."""
        self.served.site.closing = True
        for request in (GET, b"HEAD /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"):
            client = self.served.connect()
            self.assertIn(b"onnection: close\r\n", client.send(request))
            self.assertTrue(client.wire.closed)

    def test_idle(self) -> None:
        """Who was answered has a second to ask once more, then sees the end, and no reset, also when it is slow."""
        self.client.send(GET)
        finished = self.finish()
        self.wait(0.8)
        self.assertFalse(self.client.wire.closed)
        self.wait(0.4)
        self.assertTrue(self.client.wire.half_closed)
        self.client.send(GET)
        self.assertEqual(len(self.served.asked), 1)
        self.wait(CLOSING_SECONDS + 0.2)
        self.assertEqual((self.client.wire.disconnecting, self.client.wire.aborted), (True, False))
        self.assertNoResult(finished)
        self.client.leave()
        self.wait(0.2)
        self.successResultOf(finished)

    def test_waits_for_an_answer(self) -> None:
        """Who is being answered is answered; so is who has connected and not asked yet."""
        verdict: Deferred[Verdict] = Deferred()
        self.served.admit = lambda arguments: verdict
        self.client.send(GET)
        fresh = self.served.connect()
        finished = self.finish()
        self.wait(3.0)
        self.assertFalse(self.client.wire.closed or fresh.wire.closed)
        self.assertEqual(Response(fresh.send(GET.replace(b"/api/playback?x=1", b"/healthz"))).status, 200)
        fresh.leave()
        verdict.callback(ACCEPTED)
        self.assertEqual(Response(self.client.taken()).body, b"0")
        self.wait(1.2)
        self.client.leave()
        self.wait(0.2)
        self.successResultOf(finished)

    def test_no_longer(self) -> None:
        """Not for ever."""
        self.served.admit = lambda arguments: Deferred()
        self.client.send(GET)
        finished = self.finish(2.0)
        self.wait(2.2)
        self.successResultOf(finished)
        self.client.leave()

    def test_endless(self) -> None:
        """A stream that only its client would end is cut."""
        self.served.admit = lambda arguments: Deferred()
        self.client.send(GET)
        setattr(self.client.channel.requests[0], "endless", True)  # noqa: B010 - twisted.web's has none
        self.finish()
        self.assertTrue(self.client.wire.closed)
        self.client.leave()


class LenientTests(SynchronousTestCase):
    def test_those_who_waited(self) -> None:
        """For a while one address may have half of all connections, for those that waited while nobody accepted."""
        served = Served(max_connections=10, max_connections_per_address=2)
        served.site.lenient_until = served.clock.seconds() + 5
        clients = [served.connect() for _ in range(6)]
        self.assertEqual([client.wire.closed for client in clients], [False] * 5 + [True])
        self.assertEqual(served.site.busy, 5)
        clients[0].send(GET)
        self.assertEqual(served.site.busy, 4)
        for client in clients[2:]:
            client.leave()
        served.clock.advance(5)
        self.assertTrue(served.connect().wire.closed)
