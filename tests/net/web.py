"""A web server on loopback that says exactly what a test tells it to, and a resolver that is a table."""

# mypy: allow-untyped-calls

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import ssl
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from calledind.net.resolve import ResolveError

Answer = Callable[["Conversation"], None]
"Called when a request's header section is complete."


def says(*pieces: bytes, close: bool = True) -> Answer:
    """Answer with these octets, then close the connection or leave it open."""

    def answer(conversation: Conversation) -> None:
        for piece in pieces:
            conversation.write(piece)
        if close:
            conversation.close()

    return answer


def page(body: bytes = b"", *headers: str, status: str = "200 OK") -> Answer:
    """Answer with a proper response."""
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])
    return says(head.encode("latin-1") + b"\r\n\r\n" + body)


def silence(conversation: Conversation) -> None:
    """Take the request and never answer."""


class Conversation(Protocol):
    """One connection, seen from the server."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.received = b""
        self.request = b""
        "The header section."
        self.lost: Deferred[None] = Deferred()

    @property
    def request_line(self) -> str:
        return self.request.split(b"\r\n")[0].decode("ascii")

    def header(self, name: str) -> str | None:
        for line in self.request.decode("latin-1").split("\r\n")[1:]:
            field, _, value = line.partition(":")
            if field.lower() == name.lower():
                return value.strip()
        return None

    def connectionMade(self) -> None:
        self.server.open += 1
        if self.server.greeting:
            self.write(self.server.greeting)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if not self.request and b"\r\n\r\n" in self.received:
            self.request = self.received.partition(b"\r\n\r\n")[0]
            self.server.conversations.append(self)
            path = self.request_line.split(" ")[1].partition("?")[0]
            self.server.pages.get(path, self.server.default)(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.server.open -= 1
        self.lost.callback(None)

    def write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def close(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()

    def abort(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()


class ScriptedServer(Factory[Conversation]):
    """Listens on a free port of 127.0.0.1; `pages` has the answer for each path."""

    noisy = False

    def __init__(self, reactor: Any, *, interface: str = "127.0.0.1", tls: Any = None) -> None:
        self.pages: dict[str, Answer] = {}
        self.default: Answer = page(b"no such page", status="404 Not Found")
        self.conversations: list[Conversation] = []
        self.greeting = b""
        "Said to whoever connects."
        self.open = 0
        if tls is None:
            self._port = reactor.listenTCP(0, self, interface=interface)
        else:
            self._port = reactor.listenSSL(0, self, tls, interface=interface)
        self.port: int = self._port.getHost().port

    def buildProtocol(self, addr: object) -> Conversation:
        return Conversation(self)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def stop(self) -> None:
        """Close the port, and fire when the last connection is gone."""
        await maybeDeferred(self._port.stopListening)
        for conversation in self.conversations:
            if not conversation.lost.called:
                conversation.abort()
                await conversation.lost


class TableResolver:
    """Names and their addresses; a name that is not there does not resolve."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self.names = names
        self.asked: list[str] = []

    def resolve(self, host: str) -> Deferred[Sequence[str]]:
        self.asked.append(host)
        if host in self.names:
            return succeed(self.names[host])
        return fail(ResolveError("the name does not resolve"))


def certificate_for(*names: str) -> tuple[Any, Any]:
    """Make a self-signed certificate; gives the server's options and the certificate to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return ssl.PrivateCertificate.loadPEM(pem + private).options(), ssl.Certificate.loadPEM(pem)
