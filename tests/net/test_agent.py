"""The agent connects to nothing that the guard has not seen, and bounds what comes back."""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from zope.interface.verify import verifyObject

from calledind.net.agent import (
    ATTEMPT_DELAY,
    LARGEST_HEADERS,
    GuardedAgent,
    RequestError,
    _AnyAddress,
    _interleaved,
    drop,
)
from calledind.net.guard import Guard
from tests.net.web import Conversation, ScriptedServer, TableResolver, certificate_for, page, says

NAMES = {
    "good.test": ["127.0.0.1"],
    "bad.test": ["192.168.0.1"],
    "mixed.test": ["127.0.0.1", "10.0.0.1"],
    "metadata.test": ["169.254.169.254"],
    "clothed.test": ["::ffff:127.0.0.1"],
    "second.test": ["127.0.0.2", "127.0.0.1"],
}


class AgentTestCase(TestCase):
    timeout = 20
    "Seconds; only a bug takes them."

    def setUp(self) -> None:
        self.resolver = TableResolver(NAMES)
        self.server = self.make_server()
        self.agent = self.make_agent()

    def make_server(self, tls: Any = None) -> ScriptedServer:
        server = ScriptedServer(reactor, tls=tls)
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))
        return server

    def make_agent(self, ports: Sequence[int] = (), trust_root: Any = None) -> GuardedAgent:
        return GuardedAgent(reactor, Guard(["127.0.0.0/8"], ports), self.resolver, trust_root=trust_root)

    async def get(self, url: str, agent: GuardedAgent | None = None, headers: Headers | None = None) -> bytes:
        response = await (agent or self.agent).request(b"GET", url.encode(), headers)
        body: bytes = await readBody(response)
        return body

    async def refused(self, url: str, words: str, agent: GuardedAgent | None = None) -> None:
        error = await self.assertFailure(Deferred.fromCoroutine(self.get(url, agent)), RequestError)
        self.assertIn(words, str(error))


class Guarding(AgentTestCase):
    def test_interface(self) -> None:
        """It is an agent as twisted.web has them."""
        verifyObject(IAgent, self.agent)

    async def test_good(self) -> None:
        """A name whose addresses are all allowed is asked, having been resolved once."""
        self.server.pages["/a"] = page(b"hello")
        self.assertEqual(await self.get(self.server.url("/a?b=c", "good.test")), b"hello")
        self.assertEqual(self.resolver.asked, ["good.test"])
        self.assertEqual(self.server.conversations[0].request_line, "GET /a?b=c HTTP/1.1")
        self.assertEqual(self.server.conversations[0].header("Connection"), "close")

    async def test_refused_addresses(self) -> None:
        """A name with any refused address, and a URL with one in it, is not connected to."""
        for host in ("bad.test", "mixed.test", "metadata.test", "clothed.test", "10.0.0.1", "[::1]", "[::ffff:7f00:1]"):
            await self.refused(f"http://{host}:{self.server.port}/", "not on the internet")
        self.assertEqual(self.server.conversations, [])

    async def test_refused_forms(self) -> None:
        """Other spellings of an address, other schemes and names that do not resolve fail before any connection."""
        for url in (
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "ftp://good.test/",
            "http://nowhere.test/",
        ):
            await self.assertFailure(self.agent.request(b"GET", url.encode()), RequestError)

    async def test_refused_port(self) -> None:
        """A port off the list is refused before the name is looked up."""
        await self.refused(self.server.url("/", "good.test"), "port", self.make_agent(ports=[80, 443]))
        self.assertEqual(self.resolver.asked, [])

    async def test_next_address(self) -> None:
        """When one address refuses the connection the next is tried."""
        self.server.pages["/"] = page(b"hello")
        self.assertEqual(await self.get(self.server.url("/", "second.test")), b"hello")

    async def test_refused_connection(self) -> None:
        """A server that does not listen is told in words."""
        url = self.server.url("/", "second.test")
        await self.server.stop()
        await self.refused(url, "refuses the connection")

    def test_interleaved(self) -> None:
        """The two families of addresses take turns."""
        self.assertEqual(_interleaved(["::1", "::2", "::3", "1.1.1.1"]), ["::1", "1.1.1.1", "::2", "::3"])
        self.assertEqual(_interleaved(["1.1.1.1", "::1"]), ["1.1.1.1", "::1"])


class Headerwise(AgentTestCase):
    async def test_ours_to_decide(self) -> None:
        """Cookies neither leave nor come in, and no content encoding is asked for, whatever a client on top says."""
        self.server.pages["/"] = page(b"hello", "Set-Cookie: a=b")
        headers = Headers({"Cookie": ["a=b"], "Accept-Encoding": ["gzip"], "X-Other": ["kept"]})
        response = await self.agent.request(b"GET", self.server.url().encode(), headers)
        drop(response)
        asked = self.server.conversations[0]
        self.assertIsNone(asked.header("Cookie"))
        self.assertEqual((asked.header("Accept-Encoding"), asked.header("X-Other")), ("identity", "kept"))
        self.assertFalse(response.headers.hasHeader("Set-Cookie"))
        self.assertEqual(headers.getRawHeaders("Cookie"), ["a=b"])
        await asked.lost

    async def test_content_encoding(self) -> None:
        """A body in a content encoding is refused and the connection closed, identity is fine."""
        for encoding in ("gzip", "GZIP", "br", "identity, gzip", "x"):
            self.server.pages["/"] = page(b"hello", f"Content-Encoding: {encoding}")
            await self.refused(self.server.url(), "content encoding")
            await self.server.conversations[-1].lost
        self.server.pages["/"] = page(b"hello", "Content-Encoding: Identity")
        self.assertEqual(await self.get(self.server.url()), b"hello")

    async def test_endless_headers(self) -> None:
        """A header section without an end is cut at its bound, whether of long lines, many, or interim responses."""
        for start, piece in (
            (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
            (b"HTTP/1.1 200 OK\r\n", b"A: " + b"b" * 8000 + b"\r\n"),
            (b"HTTP/1.1 200 OK\r\nA: ", b"b" * 8000),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ):
            self.server.pages["/"] = says(start + piece * (LARGEST_HEADERS // len(piece) + 4000), close=False)
            await self.assertFailure(self.agent.request(b"GET", self.server.url().encode()), RequestError)
            await self.server.conversations[-1].lost

    async def test_large_headers(self) -> None:
        """Headers just below the bound pass, and a large body right behind them is not counted."""
        head = b"".join(b"A%d: %s\r\n" % (number, b"b" * 990) for number in range(31))
        body = b"c" * 200_000
        self.server.pages["/"] = says(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n" + head + b"\r\n" + body)
        response = await self.agent.request(b"GET", self.server.url().encode())
        self.assertEqual(await readBody(response), body)

    async def test_not_http(self) -> None:
        """A server that says something else, nothing, or breaks off in its headers is told in words."""
        for answer in (
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"",
            b"HTTP/1.1 200 OK\r\nA:",
            b"HTTP/1.1 x y\r\n\r\n",
            b"\0" * 99,
        ):
            self.server.pages["/"] = says(answer)
            await self.refused(self.server.url(), "its server")


class Ending(AgentTestCase):
    async def test_closed_after_the_body(self) -> None:
        """The connection is closed when the response is over, although the server would leave it open."""
        self.server.pages["/"] = says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", close=False)
        self.assertEqual(await self.get(self.server.url()), b"ok")
        await self.server.conversations[0].lost

    async def test_drop(self) -> None:
        """Dropping a response closes its connection in the middle of the body."""
        self.server.pages["/"] = says(b"HTTP/1.1 200 OK\r\n\r\nsome", close=False)
        drop(await self.agent.request(b"GET", self.server.url().encode()))
        await self.server.conversations[0].lost

    async def test_cancel(self) -> None:
        """Cancelling while the server thinks closes the connection."""
        asked: Deferred[Conversation] = Deferred()
        self.server.pages["/"] = asked.callback
        asking = self.agent.request(b"GET", self.server.url().encode())
        conversation = await asked
        asking.cancel()
        await self.assertFailure(asking, CancelledError, RequestError)
        await conversation.lost

    async def test_cancel_while_connecting(self) -> None:
        """Cancelling before there is a connection leaves none behind."""
        asking = self.agent.request(b"GET", self.server.url("/", "second.test").encode())
        asking.cancel()
        await self.assertFailure(asking, CancelledError, RequestError)
        self.assertEqual(self.server.open, 0)


class Tls(AgentTestCase):
    async def test_verified(self) -> None:
        """A server with a trusted certificate for the URL's name is asked."""
        options, trusted = certificate_for("good.test")
        server = self.make_server(options)
        server.pages["/"] = page(b"hello")
        agent = self.make_agent(trust_root=trusted)
        self.assertEqual(await self.get(f"https://good.test:{server.port}/", agent), b"hello")
        await server.conversations[0].lost

    async def test_other_name(self) -> None:
        """A certificate for another name, or for none but a name where the URL has an address, is refused."""
        options, trusted = certificate_for("good.test")
        server = self.make_server(options)
        agent = self.make_agent(trust_root=trusted)
        for host in ("second.test", "127.0.0.1"):
            await self.refused(f"https://{host}:{server.port}/", "another name", agent)
        self.assertEqual(server.conversations, [])

    async def test_not_trusted(self) -> None:
        """A certificate that nobody vouches for is refused."""
        server = self.make_server(certificate_for("good.test")[0])
        await self.refused(f"https://good.test:{server.port}/", "certificate is not valid")
        self.assertEqual(server.conversations, [])

    async def test_no_tls(self) -> None:
        """A server that does not speak TLS where it should is told in words."""
        self.server.greeting = b"HTTP/1.1 400 Bad Request\r\n\r\n"
        await self.refused(f"https://good.test:{self.server.port}/", "TLS")


class Racing(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        endpoint = _AnyAddress(self.reactor, ["1.1.1.1", "2.2.2.2", "3.3.3.3"], 80, 5.0)
        self.connecting = endpoint.connect(Factory.forProtocol(Protocol))

    def tried(self) -> list[str]:
        return [client[0] for client in self.reactor.tcpClients]

    def gone(self) -> list[str]:
        """Return the addresses that are not tried any more."""
        return [connector.getDestination().host for connector in self.reactor.connectors if connector.stoppedConnecting]

    def test_head_start(self) -> None:
        """An address that is silent has a head start, then the next is tried beside it."""
        self.assertEqual(self.tried(), ["1.1.1.1"])
        self.reactor.advance(ATTEMPT_DELAY)
        self.assertEqual(self.tried(), ["1.1.1.1", "2.2.2.2"])
        self.reactor.advance(ATTEMPT_DELAY)
        self.assertEqual(self.tried(), ["1.1.1.1", "2.2.2.2", "3.3.3.3"])

    def test_refusal(self) -> None:
        """When an address refuses, the next is tried at once, and the last refusal is the answer."""
        for number in range(3):
            self.assertNoResult(self.connecting)
            client = self.reactor.tcpClients[number]
            client[2].clientConnectionFailed(self.reactor.connectors[number], Failure(ConnectionRefusedError()))
        self.failureResultOf(self.connecting, ConnectionRefusedError)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_first_wins(self) -> None:
        """The first that connects is the one; the others are not waited for."""
        self.reactor.advance(ATTEMPT_DELAY)
        protocol: Any = self.reactor.tcpClients[1][2].buildProtocol(None)
        protocol.makeConnection(None)
        self.successResultOf(self.connecting)
        self.assertEqual(self.gone(), ["1.1.1.1"])
        self.reactor.advance(60)
        self.assertEqual(self.tried(), ["1.1.1.1", "2.2.2.2"])

    def test_cancelled(self) -> None:
        """Cancelling gives up all that are tried, and tries no more."""
        self.reactor.advance(ATTEMPT_DELAY)
        self.connecting.cancel()
        self.failureResultOf(self.connecting)
        self.assertEqual(self.gone(), ["1.1.1.1", "2.2.2.2"])
        self.reactor.advance(60)
        self.assertEqual(len(self.tried()), 2)
