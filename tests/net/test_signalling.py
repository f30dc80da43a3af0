# mypy: allow-untyped-calls
"""Transports and ways to trunks, over real sockets on the loopback."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor as twisted_reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.internet.ssl import Certificate as Pem
from twisted.internet.ssl import CertificateOptions, KeyPair, PrivateCertificate, trustRootFromCertificates
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from calledind.model import Address
from calledind.net import signalling as signalling_module
from calledind.net import stun, tls
from calledind.net.datagram import SipDatagram
from calledind.net.next_hop import REST, Place
from calledind.net.resolve import ResolveError
from calledind.net.route import next_hop, tls_options
from calledind.net.signalling import Signalling
from calledind.net.tls import TlsError, client_options, redis_options
from calledind.settings.tables import Redis, Sip, Trunk
from calledind.sip.events import Answered, Event, Refused, Unreachable
from calledind.sip.message import Request, parse, response_to
from calledind.sip.target import Target, target_snapshot, transport_of
from calledind.sip.useragent import Invitation, InviteSession
from tests.net.certificates import Authority
from tests.net.zone import Zone

LOOPBACK = "127.0.0.1"
reactor: Any = twisted_reactor


class Timed:
    """The reactor; what it was asked to call later can be called off at the end of a test."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def callLater(self, *arguments: Any) -> Any:
        self.calls.append(reactor.callLater(*arguments))
        return self.calls[-1]

    def stop(self) -> None:
        for call in self.calls:
            if call.active():
                call.cancel()

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class NoResolver:
    def resolve(self, host: str) -> Deferred[Sequence[str]]:
        return fail(ResolveError("the name does not resolve"))


class Refusing(Protocol):
    """Answers each request but ACK with 486, and keeps what it was sent."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def connectionMade(self) -> None:
        self.server.connections.append(self)

    def connectionLost(self, reason: object = None) -> None:
        self.connected = 0

    def dataReceived(self, data: bytes) -> None:
        for part in data.split(b"\r\n\r\n"):
            if part.strip():
                self.server.take(part + b"\r\n\r\n", self.transport.write)  # type: ignore[union-attr]


class Server:
    """A carrier that is always busy."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.contact = ""
        "Where requests in a dialog go."
        self.sources: list[Address] = []
        "Where requests by UDP came from, indeed."
        self.connections: list[Refusing] = []
        self.status = 486
        self.source: Address = ("192.0.2.77", 40077)
        "Where it says that requests come from."

    def take(self, data: bytes, write: Any, source: Address = ("", 0)) -> None:
        head = data.replace(b"Content-Length", b"X-Length").replace(b"Content-Type", b"X-Type")
        request = parse(head)
        if not isinstance(request, Request) or b"SIP/2.0" not in data.partition(b"\r\n")[0]:
            return
        self.requests.append(request)
        self.sources.append(source)
        contact = [("Contact", f"<{self.contact}>")] if self.status == 200 else []
        if request.method != "ACK":
            write(bytes(response_to(request.received_from(self.source), self.status, None, "x", contact)))


class UdpServer(DatagramProtocol):
    def __init__(self, server: Server) -> None:
        self.server = server

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        transport: Any = self.transport
        if stun.is_stun(datagram):
            mapped = (
                b"\0\x20\0\x08\0\x01"
                + (40078 ^ 0x2112).to_bytes(2)
                + bytes(a ^ b for a, b in zip(socket.inet_aton("192.0.2.78"), bytes.fromhex("2112a442"), strict=True))
            )
            transport.write(b"\x01\x01\0\x0c" + datagram[4:20] + mapped, addr)
        elif datagram.strip():
            self.server.take(datagram, lambda data: transport.write(data, addr), addr)


class SignallingCase(TestCase):
    timeout = 20

    def setUp(self) -> None:
        self.server = Server()
        self.folder = Path(self.mktemp())
        self.zone = Zone()
        self.name_server = self.zone.listen(reactor)
        self.addCleanup(self.zone.close)

    def tcp(self, context: Any = None) -> int:
        factory = Factory.forProtocol(lambda: Refusing(self.server))
        factory.noisy = False
        if context is None:
            port = reactor.listenTCP(0, factory, interface=LOOPBACK)
        else:
            port = reactor.listenSSL(0, factory, context, interface=LOOPBACK)
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    def udp(self, port: int = 0, host: str = LOOPBACK) -> int:
        bound = reactor.listenUDP(port, UdpServer(self.server), interface=host)
        self.addCleanup(bound.stopListening)
        return int(bound.getHost().port)

    def start(self, *trunks: Trunk, sip: Sip | None = None) -> Signalling:
        bind = (f"{LOOPBACK}:0",)
        host, port = self.name_server
        settings = sip or Sip(bind=bind, t1=0.05, dns_servers=(f"{host}:{port}",))
        timed = Timed()
        self.addCleanup(timed.stop)
        signalling = Signalling(timed, settings, NoResolver())
        self.addCleanup(self.settle)
        self.addCleanup(signalling.stop)
        signalling.start(trunks)
        return signalling

    def settle(self) -> Deferred[None]:
        """Let connections close."""
        for connection in self.server.connections:
            if connection.connected:
                connection.transport.abortConnection()  # type: ignore[union-attr]
        return deferLater(reactor, 0.05)

    async def call(self, signalling: Signalling, trunk: Trunk, tried: Sequence[Address] = ()) -> tuple[Event, Address]:
        """Locate a trunk and call; return the last word and where it went."""
        target = await signalling.locate(trunk, tried)
        return await self.call_at(signalling, target), target

    async def call_at(self, signalling: Signalling, target: Address) -> Event:
        over: Deferred[Event] = Deferred()
        invitation = Invitation(target, "sip:1@pbx", "sip:2@us", "sip:1@pbx", offer=b"")

        def heard(event: Event) -> None:
            if isinstance(event, Refused | Unreachable):
                over.callback(event)

        signalling.user_agent.prepare(invitation).send(heard)
        return await over


class TransportTests(SignallingCase):
    async def test_tcp(self) -> None:
        """Two calls over one connection; Via and Contact say TCP, and the port is one that we listen on."""
        trunk = Trunk("t", LOOPBACK, self.tcp(), transport="tcp")
        signalling = self.start(trunk)
        for _ in range(2):
            event, target = await self.call(signalling, trunk)
            self.assertEqual(event, Refused(486, "Busy Here"))
        self.assertEqual((transport_of(target), len(self.server.connections)), ("tcp", 1))
        invite = self.server.requests[0]
        self.assertEqual(invite.via.transport, "TCP")
        contact = invite.get("Contact") or ""
        self.assertIn(";transport=tcp>", contact)
        with socket.create_connection((LOOPBACK, invite.via.port or 0), timeout=5):
            pass
        await deferLater(reactor, 0.05)

    async def test_request_of_the_peer(self) -> None:
        """A trunk may connect to us: its request is answered on its connection."""
        signalling = self.start(Trunk("t", LOOPBACK, self.udp()))
        _, port = signalling._local((LOOPBACK, 5060))
        answered: Deferred[bytes] = Deferred()

        class Asking(Protocol):
            def connectionMade(self) -> None:
                self.transport.write(  # type: ignore[union-attr]
                    b"OPTIONS sip:us SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:1;branch=z9hG4bKx\r\n"
                    b"From: <sip:a@b>;tag=1\r\nTo: <sip:us>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n"
                    b"Content-Length: 0\r\n\r\n"
                )

            def dataReceived(self, data: bytes) -> None:
                answered.callback(data)
                self.transport.abortConnection()  # type: ignore[union-attr]

        factory = Factory.forProtocol(Asking)
        await TCP4ClientEndpoint(reactor, LOOPBACK, port).connect(factory)
        self.assertTrue((await answered).startswith(b"SIP/2.0 200 OK"))

    async def test_nobody_listens(self) -> None:
        """A connection that is refused is an OSError of `locate`, before anything was committed."""
        with socket.socket() as unused:
            unused.bind((LOOPBACK, 0))
            trunk = Trunk("t", LOOPBACK, unused.getsockname()[1], transport="tcp")
            signalling = self.start(trunk)
            with self.assertRaisesRegex(OSError, "nobody listens there"):
                await signalling.locate(trunk)

    async def test_six(self) -> None:
        """TCP over IPv6: brackets where they belong."""
        factory = Factory.forProtocol(lambda: Refusing(self.server))
        port = reactor.listenTCP(0, factory, interface="::1")
        self.addCleanup(port.stopListening)
        trunk = Trunk("t", "[::1]", port.getHost().port, transport="tcp")
        event, target = await self.call(self.start(trunk, sip=Sip(bind=("[::1]:0",), t1=0.05)), trunk)
        self.assertEqual((event, target[0]), (Refused(486, "Busy Here"), "::1"))
        invite = self.server.requests[0]
        self.assertEqual(invite.via.host, "::1")
        self.assertIn("@[::1]:", invite.get("Contact") or "")

    def test_ports_in_use(self) -> None:
        """A port that another program has, for UDP or TCP, is told with the setting's name; nothing stays open."""
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind) as other:
                other.bind((LOOPBACK, 0))
                if kind is socket.SOCK_STREAM:
                    other.listen()
                taken = f"{LOOPBACK}:{other.getsockname()[1]}"
                with self.assertRaisesRegex(OSError, f"sip.bind: {taken} can't be listened on"):
                    self.start(sip=Sip(bind=(taken,)))
                trunk = Trunk("t", LOOPBACK, 5060, bind=taken)
                with self.assertRaisesRegex(OSError, "trunks: t: bind"):
                    self.start(trunk)
                signalling = self.start()
                signalling.use_trunks([trunk])
                failure = self.failureResultOf(signalling.locate(trunk), OSError)
                self.assertIn("no address that a socket", str(failure.value))

    async def test_own_socket(self) -> None:
        """A trunk with `bind` is reached from there."""
        trunk = Trunk("t", LOOPBACK, self.udp(), bind="127.0.0.3:0")
        signalling = self.start(trunk)
        await self.call(signalling, trunk)
        self.assertEqual(self.server.requests[0].via.host, "127.0.0.3")

    async def test_large(self) -> None:
        """A large request of a UDP trunk that allows it goes by TCP to the same port."""
        port = self.tcp()
        trunk = Trunk("t", LOOPBACK, port, large_by_tcp=True)
        sip = Sip(bind=(f"{LOOPBACK}:0",), t1=0.05, user_agent="x" * 1300)
        signalling = self.start(trunk, sip=sip)
        event, target = await self.call(signalling, trunk)
        self.assertEqual((event, transport_of(target)), (Refused(486, "Busy Here"), "udp"))
        self.assertEqual({request.via.transport for request in self.server.requests}, {"TCP"})


class FallbackTests(SignallingCase):
    """A trunk of UDP that has no TCP, whatever it or its settings say."""

    async def test_large(self) -> None:
        """A large request goes by UDP when no connection can be had, and for a while no other is tried."""
        trunk = Trunk("t", LOOPBACK, self.udp(), large_by_tcp=True)
        sip = Sip(bind=(f"{LOOPBACK}:0",), t1=0.05, user_agent="x" * 1300)
        signalling = self.start(trunk, sip=sip)
        for _ in range(2):
            event, target = await self.call(signalling, trunk)
            self.assertEqual(event, Refused(486, "Busy Here"))
        self.assertEqual({request.via.transport for request in self.server.requests}, {"UDP"})
        assert isinstance(target, Target)
        self.assertIsNone(signalling._larger(target))

    async def test_contact_of_tcp(self) -> None:
        """A message to a Contact that says TCP goes by UDP once no connection could be had."""
        port = self.udp()
        trunk = Trunk("t", LOOPBACK, port)
        signalling = self.start(trunk)
        contact = Target(LOOPBACK, port, "tcp", "t")
        event = await self.call_at(signalling, contact)
        self.assertEqual(
            (event, self.server.requests), (Unreachable("transport", f"{LOOPBACK}:{port}: nobody listens there"), [])
        )
        event = await self.call_at(signalling, contact)
        self.assertEqual(event, Refused(486, "Busy Here"))

    async def test_what_is_remembered(self) -> None:
        """Of connections that could not be had, only those of the last while are kept in mind."""
        with socket.socket() as unused:
            unused.bind((LOOPBACK, 0))
            port = unused.getsockname()[1]
        signalling = self.start(Trunk("t", LOOPBACK, port))
        signalling._broken[Target("192.0.2.1", 1, "tcp", "t")] = reactor.seconds() - REST - 1
        await self.call_at(signalling, Target(LOOPBACK, port, "tcp", "t"))
        self.assertEqual(list(signalling._broken), [Target(LOOPBACK, port, "tcp", "t")])

    def test_removed(self) -> None:
        """A connection that failed once doesn't keep the address of a trunk that is gone among those we trust."""
        signalling = self.start(Trunk("t", LOOPBACK, 1))
        lately = signalling._routes["t"].target(Place(LOOPBACK, 1, "tcp"))
        signalling._broken[lately] = reactor.seconds() - REST - 1
        del lately
        self.assertIn(LOOPBACK, signalling._trusted)
        signalling.use_trunks([])
        self.assertNotIn(LOOPBACK, signalling._trusted)


class TlsCase(SignallingCase):
    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority(self.folder)
        self.zone.add("A", "pbx.example.com", LOOPBACK)

    def tls(self, *names: str, asks: bool = False) -> int:
        certificate, key = self.authority.issue(*names)
        mine = PrivateCertificate.fromCertificateAndKeyPair(
            Pem.loadPEM(certificate.read_bytes()), KeyPair.load(key.read_bytes(), 1)
        )
        roots = [Pem.loadPEM(self.authority.certificate.read_bytes())] if asks else []
        return self.tcp(
            CertificateOptions(
                privateKey=mine.privateKey.original,
                certificate=mine.original,
                trustRoot=trustRootFromCertificates(roots) if asks else None,
            )
        )

    def trunk(self, port: int, **changes: Any) -> Trunk:
        trunk = Trunk("t", "pbx.example.com", port, transport="tls", tls_ca=self.authority.certificate)
        return attrs.evolve(trunk, **changes)


class TlsTests(TlsCase):
    async def test_verified(self) -> None:
        """A call over TLS to whom the certificate names; the Contact is where the connection comes from."""
        trunk = self.trunk(self.tls("pbx.example.com"))
        signalling = self.start(trunk)
        event, target = await self.call(signalling, trunk)
        self.assertEqual((event, transport_of(target)), (Refused(486, "Busy Here"), "tls"))
        invite = self.server.requests[0]
        self.assertEqual(invite.via.transport, "TLS")
        peer: Any = self.server.connections[0].transport.getPeer()  # type: ignore[union-attr]
        self.assertIn(f":{peer.port};transport=tls>", invite.get("Contact") or "")
        handle: Any = self.server.connections[0].transport
        self.assertEqual(handle.getHandle().get_servername(), b"pbx.example.com")

    async def test_by_address(self) -> None:
        """A trunk that is an IP address has it in its certificate."""
        trunk = self.trunk(self.tls(LOOPBACK), host=LOOPBACK)
        event, _ = await self.call(self.start(trunk), trunk)
        self.assertEqual(event, Refused(486, "Busy Here"))

    async def test_other_name(self) -> None:
        """A certificate for somebody else is refused before anything is said; `tls_name` says whom we expect."""
        trunk = self.trunk(self.tls("other.example.com"))
        signalling = self.start(trunk)
        with self.assertRaisesRegex(OSError, "not one for this name"):
            await signalling.locate(trunk)
        self.assertEqual(self.server.requests, [])
        expecting = attrs.evolve(trunk, tls_name="other.example.com")
        signalling.use_trunks([expecting])
        event, _ = await self.call(signalling, expecting)
        self.assertEqual(event, Refused(486, "Busy Here"))

    async def test_other_authority(self) -> None:
        """A certificate of an authority that we don't believe is refused."""
        other = Authority(self.folder / "other", "other")
        trunk = self.trunk(self.tls("pbx.example.com"), tls_ca=other.certificate)
        with self.assertRaisesRegex(OSError, "certificate verify failed"):
            await self.start(trunk).locate(trunk)

    async def test_certificate_of_ours(self) -> None:
        """Where the carrier asks for a certificate, ours is shown."""
        certificate, key = self.authority.issue("us.example.com")
        port = self.tls("pbx.example.com", asks=True)
        trunk = self.trunk(port, tls_certificate=certificate, tls_private_key=key)
        event, _ = await self.call(self.start(trunk), trunk)
        self.assertEqual(event, Refused(486, "Busy Here"))
        shown = self.server.connections[0].transport.getPeerCertificate()  # type: ignore[union-attr]
        self.assertEqual(shown.get_subject().CN, "us.example.com")

    def test_files(self) -> None:
        """Files that are missing, damaged or of two minds are told by name, at the start."""
        certificate, key = self.authority.issue("us.example.com")
        _, other = self.authority.issue("other.example.com")
        junk = self.folder / "junk"
        junk.write_bytes(b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
        none = self.folder / "none"
        ca = self.authority.certificate
        for files, words in (
            ((none, None, None), "can't be read"),
            ((junk, None, None), "no certificate"),
            ((key, None, None), "no certificate"),
            ((ca, junk, key), "no certificate"),
            ((ca, certificate, certificate), "no unencrypted private key"),
            ((ca, certificate, other), "not the key of"),
        ):
            with self.assertRaisesRegex(TlsError, words):
                client_options("x", ca=files[0], certificate=files[1], private_key=files[2])
        with self.assertRaisesRegex(OSError, "can't be read"):
            self.start(self.trunk(5061, tls_ca=none))
        self.assertIsNotNone(client_options("x"))

    def test_of_redis(self) -> None:
        """Redis has options of its settings, by its own name or the one that is set; its files are read at once."""
        certificate, key = self.authority.issue("us.example.com")
        files = {"ca": self.authority.certificate, "certificate": certificate, "private_key": key}
        settings = Redis(tls=True, tls_ca=files["ca"], tls_certificate=certificate, tls_private_key=key)
        with self.assertRaisesRegex(TlsError, "can't be read"):
            redis_options(attrs.evolve(settings, tls_ca=self.folder / "none"))
        self.assertIsNone(redis_options(attrs.evolve(settings, tls=False)))
        self.patch(tls, "client_options", lambda name, **files: (name, files))
        for name, expected in (("", "10.0.0.9"), ("redis.example.com", "redis.example.com")):
            options = redis_options(attrs.evolve(settings, tls_name=name))
            assert options is not None
            self.assertEqual(options("10.0.0.9"), (expected, files))

    def test_all_that_is_wrong(self) -> None:
        """Before trunks are used, each file, name and socket of theirs that is no good is a line of one error."""
        certificate, key = self.authority.issue("us.example.com")
        none = self.folder / "none"
        taken = f"{LOOPBACK}:{self.udp()}"
        signalling = self.start(self.trunk(5061))
        with self.assertRaises(OSError) as caught:
            signalling.prepare(
                [
                    self.trunk(5061, name="a", tls_ca=none, tls_certificate=certificate, tls_private_key=certificate),
                    self.trunk(5061, name="b", tls_ca=None, transport="auto", tls_name="a_b.example.com"),
                    self.trunk(5061, name="c", bind=taken, transport="udp", tls_ca=none),
                    self.trunk(5061, name="d", tls_certificate=certificate, tls_private_key=key),
                ]
            )
        lines = str(caught.exception).splitlines()
        self.assertEqual([line.split(": ")[1] for line in lines], ["a", "a", "b", "c"], lines)
        for line, words in zip(lines, ("can't be read", "no unencrypted", "no name", "listened on"), strict=True):
            self.assertIn(words, line)


class RemovedTrunkTests(TlsCase):
    """Calls whose trunk is changed or gone."""

    async def talk(self, signalling: Signalling, trunk: Trunk) -> InviteSession:
        """Call, and have the call answered."""
        answered: Deferred[Event] = Deferred()
        target = await signalling.locate(trunk)
        session = signalling.user_agent.prepare(Invitation(target, "sip:1@pbx", "sip:2@us", "sip:1@pbx"))
        session.send(lambda event: None if answered.called else answered.callback(event))
        self.assertIsInstance(await answered, Answered)
        session.acknowledge()
        return session

    async def bye(self, session: InviteSession) -> tuple[Request, Address]:
        """End it; return the BYE and where it came from. The ACK may be repeated after it."""
        before = len(self.server.requests)
        session.end()
        for _ in range(1000):
            for request, source in zip(self.server.requests[before:], self.server.sources[before:], strict=True):
                if request.method == "BYE":
                    return request, source
            await deferLater(reactor, 0.01)
        raise AssertionError("no BYE has come")

    def setUp(self) -> None:
        super().setUp()
        self.server.status = 200

    async def test_udp(self) -> None:
        """The BYE of a call leaves from the socket that the call began with, and its address is trusted until then."""
        port = self.udp()
        self.server.contact = f"sip:pbx@{LOOPBACK}:{port}"
        trunk = Trunk("t", LOOPBACK, port, bind="127.0.0.3:0")
        for later in ([], [attrs.evolve(trunk, bind="")], [attrs.evolve(trunk, host="127.0.0.9")]):
            signalling = self.start(trunk)
            session = await self.talk(signalling, trunk)
            signalling.use_trunks(later)
            self.assertIn(LOOPBACK, signalling._trusted)
            invite = self.server.sources[-1]
            bye, source = await self.bye(session)
            self.assertEqual((bye.via.host, source[0]), ("127.0.0.3", "127.0.0.3"))
            self.assertEqual(source, invite)

    async def test_connection(self) -> None:
        """With the connection lost, too, another one is opened for the BYE, by the trunk's old certificates."""
        certificate, key = self.authority.issue("us.example.com")
        port = self.tls("pbx.example.com", asks=True)
        self.server.contact = f"sip:pbx@{LOOPBACK}:{port};transport=tls"
        trunk = self.trunk(port, tls_certificate=certificate, tls_private_key=key)
        for later in ([], [attrs.evolve(trunk, tls_ca=None, tls_certificate=None, tls_private_key=None)]):
            signalling = self.start(trunk)
            session = await self.talk(signalling, trunk)
            signalling.use_trunks(later)
            self.server.connections.pop().transport.abortConnection()  # type: ignore[union-attr]
            await deferLater(reactor, 0.05)
            await self.bye(session)

    async def test_connection_of_calls_to_come(self) -> None:
        """Where certificates were changed, calls to come have a connection of their own; others share the one."""
        trunk = self.trunk(self.tls("pbx.example.com"))
        signalling = self.start(trunk)
        await self.talk(signalling, trunk)
        for later in (attrs.evolve(trunk, channels=7), attrs.evolve(trunk, tls_name="other.example.com")):
            signalling.use_trunks([later])
            self.assertEqual(len(self.server.connections), 1)
            calling = Deferred.fromCoroutine(self.talk(signalling, later))
            if later.tls_name:
                await self.assertFailure(calling, OSError)
            else:
                await calling

    async def test_calls_to_come(self) -> None:
        """Calls to come go by the new settings, with what is known of places that did not change."""
        trunk = Trunk("t", LOOPBACK, self.udp(), bind="127.0.0.3:0")
        signalling = self.start(trunk)
        signalling.failed(await signalling.locate(trunk))
        other = attrs.evolve(trunk, bind="")
        signalling.use_trunks([other])
        self.assertEqual(signalling._local(await signalling.locate(other))[0], LOOPBACK)
        self.assertFalse(signalling.has_more(other, []))


class NextHopTests(SignallingCase):
    async def test_srv(self) -> None:
        """SRV leads to the port, a target that failed is left alone, and the second one has its calls."""
        port = self.udp()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
            unused.bind((LOOPBACK, 0))
            dead = unused.getsockname()[1]
        self.zone.add("SRV", "_sip._udp.carrier.example", 1, 1, dead, b"a.carrier.example")
        self.zone.add("SRV", "_sip._udp.carrier.example", 2, 1, port, b"a.carrier.example")
        self.zone.add("A", "a.carrier.example", LOOPBACK)
        trunk = Trunk("t", "carrier.example")
        signalling = self.start(trunk)
        event, first = await self.call(signalling, trunk)
        assert isinstance(event, Unreachable)
        self.assertEqual(first, (LOOPBACK, dead))
        self.assertTrue(signalling.has_more(trunk, [first]))
        signalling.failed(first)
        self.assertFalse(signalling.has_more(trunk, [(LOOPBACK, port)]))
        for _ in range(2):
            event, second = await self.call(signalling, trunk)
            self.assertEqual((event, second), (Refused(486, "Busy Here"), (LOOPBACK, port)))
        self.assertEqual(await signalling.locate(trunk, [second]), first)
        signalling.works(first)
        self.assertEqual(await signalling.locate(trunk), first)
        with self.assertRaisesRegex(OSError, "no other address"):
            await signalling.locate(trunk, [first, second])

    async def test_connections_that_fail_are_passed_over(self) -> None:
        """A dead address of a TCP trunk costs no attempt: the next is connected to at once."""
        port = self.tcp()
        with socket.socket() as unused:
            unused.bind((LOOPBACK, 0))
            dead = unused.getsockname()[1]
            self.zone.add("SRV", "_sip._tcp.carrier.example", 1, 1, dead, b"a.carrier.example")
            self.zone.add("SRV", "_sip._tcp.carrier.example", 2, 1, port, b"a.carrier.example")
            self.zone.add("A", "a.carrier.example", LOOPBACK)
            trunk = Trunk("t", "carrier.example", transport="tcp")
            event, target = await self.call(self.start(trunk), trunk)
        self.assertEqual((event, tuple(target)), (Refused(486, "Busy Here"), (LOOPBACK, port)))

    async def test_who_is_a_trunk(self) -> None:
        """All addresses of a trunk's name are trusted, also when DNS has gone silent since; others are not."""
        self.zone.add("A", "pbx.example", "127.0.0.4", ttl=1)
        self.zone.add("A", "pbx.example", "127.0.0.5", ttl=1)
        trunk = Trunk("t", "pbx.example", 5099)
        signalling = self.start(trunk)
        await signalling.locate(trunk)
        self.assertEqual(signalling._trusted, {"127.0.0.4", "127.0.0.5"})
        del self.zone.records["pbx.example"]
        signalling._dns._known.clear()
        self.assertIn((await signalling.locate(trunk))[0], ("127.0.0.4", "127.0.0.5"))
        await deferLater(reactor, 0)  # what was located is forgotten
        signalling.use_trunks([])
        self.assertEqual(signalling._trusted, frozenset())
        with self.assertRaisesRegex(OSError, "no trunk t any more"):
            await signalling.locate(trunk)
        self.assertFalse(signalling.has_more(trunk, []))
        signalling.failed(Target("127.0.0.4", 5099, "udp", "t"))
        signalling.works(("127.0.0.4", 5099))

    async def test_family(self) -> None:
        """Addresses that no socket of ours leads to are not used."""
        self.zone.add("AAAA", "six.example", "2001:db8::1")
        trunk = Trunk("t", "six.example", 5060)
        with self.assertRaisesRegex(OSError, "no address that a socket"):
            await self.start(trunk).locate(trunk)

    async def test_no_route(self) -> None:
        """An address of IPv6 is not used on a machine that speaks IPv6 but knows no way there."""
        self.zone.add("AAAA", "both.example", "2001:db8::1")
        self.zone.add("A", "both.example", LOOPBACK)
        trunk = Trunk("t", "both.example", 5060)
        host, port = self.name_server
        signalling = self.start(trunk, sip=Sip(bind=("[::]:0",), dns_servers=(f"{host}:{port}",)))
        no_way = OSError(errno.ENETUNREACH, "Network is unreachable")
        local_address = SipDatagram.local_address

        def only_four(sock: SipDatagram, target: Address) -> Address:
            if ":" in target[0]:
                raise no_way
            return local_address(sock, target)

        self.patch(SipDatagram, "local_address", only_four)
        for _ in range(3):
            self.assertEqual((await signalling.locate(trunk))[0], LOOPBACK)

    async def test_a_dot_at_the_end(self) -> None:
        """A name that is written whole is the same name, for its certificate too."""
        self.assertEqual(next_hop(Trunk("t", "pbx.example.com.")), ("pbx.example.com", 0))
        self.assertEqual(next_hop(Trunk("t", "x", outbound_proxy="edge.example.com.:5070")), ("edge.example.com", 5070))
        authority = Authority(self.folder)
        self.zone.add("A", "pbx.example.com", LOOPBACK)
        trunk = Trunk("t", "pbx.example.com.", transport="tls", tls_ca=authority.certificate)
        for each in (trunk, attrs.evolve(trunk, host="x", tls_name="pbx.example.com.")):
            self.assertEqual(tls_options(each)._hostname, "pbx.example.com")

    async def test_our_address_changes(self) -> None:
        """The address that we name is looked up anew with the trunks' names."""
        trunk = Trunk("t", LOOPBACK, 5060)
        signalling = self.start(trunk, sip=Sip(bind=("0.0.0.0:0",)))
        self.assertEqual(signalling.local_host(await signalling.locate(trunk)), LOOPBACK)
        self.patch(SipDatagram, "local_address", lambda sock, target: ("192.0.2.7", 5060))
        signalling.use_trunks([trunk])
        self.assertEqual(signalling.local_host(await signalling.locate(trunk)), "192.0.2.7")

    async def test_rate(self) -> None:
        """With a rate per address, a call waits for its address's turn."""
        trunk = Trunk("t", LOOPBACK, self.udp(), calls_per_second_per_address=20.0)
        signalling = self.start(trunk)
        before = reactor.seconds()
        for _ in range(3):
            await signalling.locate(trunk)
        self.assertGreaterEqual(reactor.seconds() - before, 0.09)

    async def test_probe(self) -> None:
        """An OPTIONS to the trunk tells its status, and None where there is no way."""
        trunk = Trunk("t", LOOPBACK, self.udp())
        signalling = self.start(trunk)
        for each, expected in ((trunk, 486), (attrs.evolve(trunk, name="gone"), None)):
            heard: Deferred[int | None] = Deferred()
            signalling.probe(each, heard.callback)
            self.assertEqual(await heard, expected)


class KeepAliveTests(SignallingCase):
    async def test_nat(self) -> None:
        """A trunk beyond a NAT gets an empty datagram now and then, others none."""
        self.patch(signalling_module, "KEEP_ALIVE", 0.02)

        class Listening(DatagramProtocol):
            def __init__(self) -> None:
                self.heard: list[bytes] = []

            def datagramReceived(self, datagram: bytes, addr: Any) -> None:
                self.heard.append(datagram)

        for advertise, expected in (("received", True), ("", False)):
            listening = Listening()
            bound = reactor.listenUDP(0, listening, interface=LOOPBACK)
            self.addCleanup(bound.stopListening)
            trunk = Trunk("t", LOOPBACK, bound.getHost().port, advertise=advertise)
            signalling = self.start(trunk)
            await signalling.locate(trunk)
            await deferLater(reactor, 0.1)
            signalling.stop()
            self.assertEqual(b"\r\n\r\n" in listening.heard, expected)


class PublicAddressTests(SignallingCase):
    async def test_received(self) -> None:
        """With "received", what the first response says is named from then on, in Via, Contact and SDP."""
        trunk = Trunk("t", LOOPBACK, self.udp(), advertise="received")
        signalling = self.start(trunk)
        while signalling._public.of("t") is None:
            await deferLater(reactor, 0.01)
        _, target = await self.call(signalling, trunk)
        invite = next(each for each in self.server.requests if each.method == "INVITE")
        self.assertEqual((invite.via.host, invite.via.port), self.server.source)
        self.assertEqual(signalling.local_host(target), self.server.source[0])

    async def test_stun(self) -> None:
        """With a STUN server, so is what it says."""
        trunk = Trunk("t", LOOPBACK, self.udp(), advertise=f"stun:{LOOPBACK}:{self.udp()}")
        signalling = self.start(trunk)
        while signalling._public.of("t") is None:
            await deferLater(reactor, 0.01)
        await self.call(signalling, trunk)
        via = self.server.requests[0].via
        self.assertEqual((via.host, via.port), ("192.0.2.78", 40078))

    async def test_address(self) -> None:
        """An address of the trunk's goes before that of all."""
        trunk = Trunk("t", LOOPBACK, self.udp(), advertise="192.0.2.80")
        other = attrs.evolve(trunk, name="o", advertise="")
        sip = Sip(bind=(f"{LOOPBACK}:0",), advertise="192.0.2.81")
        signalling = self.start(trunk, other, sip=sip)
        for each, expected in ((trunk, "192.0.2.80"), (other, "192.0.2.81")):
            self.assertEqual(signalling.local_host(await signalling.locate(each)), expected)
        self.assertEqual(target_snapshot(await signalling.locate(trunk))[2:], ["udp", "t"])
