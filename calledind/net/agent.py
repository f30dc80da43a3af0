"""The one way out: an HTTP agent that connects to nothing but addresses that the guard has seen.

For each request: the name is resolved once, all its addresses are checked, one of these addresses is connected
to, and TLS is verified for the name. A connection serves one request and is cut when its response is over, so
that nobody's server keeps one. Redirects come back as they are: following one is another request, and another
check. There are no cookies and no content encodings, and the header section has a bound.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from OpenSSL import SSL
from service_identity import VerificationError
from service_identity.hazmat import DNS_ID, IPAddress_ID, ServiceID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import CertificateOptions, platformTrust
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from calledind.net.guard import Guard, Refused
from calledind.net.resolve import ResolveError, Resolver
from calledind.net.url import Url, UrlError

LARGEST_HEADERS = 32 * 1024
"Octets of a response before its body, interim responses included."
SLICE = 4096
"Octets that are handed on at a time while the header section lasts: its bound can be this much too late."
MOST_ADDRESSES = 8
"Of one name, that are tried."
ATTEMPT_DELAY = 0.3
"Seconds that one address has for itself before the next is tried beside it (RFC 8305 §5)."
CONNECT_TIMEOUT = 5.0
"Seconds for one address."


class RequestError(Exception):
    """No usable response came; the message says why, in words for people, without the URL's path and query."""


@implementer(IAgent)
class GuardedAgent:
    """An `IAgent` for URLs that strangers wrote. Fails with `RequestError`, and with nothing else but cancellation.

    It has no deadline of its own: cancel the Deferred, and once there is a response, `drop` that; both cut the
    connection at once.
    """

    def __init__(
        self,
        reactor: Any,
        guard: Guard,
        resolver: Resolver,
        *,
        trust_root: Any = None,
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        self._reactor = reactor
        self._guard = guard
        self._resolver = resolver
        self._connect_timeout = connect_timeout
        # One for all: reading the machine's certificate authorities takes milliseconds.
        self._certificates = CertificateOptions(trustRoot=trust_root or platformTrust())  # type: ignore[no-untyped-call]

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """Ask for this URI. The request's Cookie and Accept-Encoding are ours to decide."""
        return Deferred.fromCoroutine(self._request(method, uri, headers, bodyProducer))

    async def _request(
        self, method: bytes, uri: bytes, headers: Headers | None, body: IBodyProducer | None
    ) -> IResponse:
        try:
            url = Url.parse(uri.decode("utf-8"))
            self._guard.check_port(url.port)
            addresses = await self._addresses(url.host)
        except (UrlError, UnicodeDecodeError, Refused, ResolveError) as error:
            raise RequestError(str(error)) from None
        headers = Headers() if headers is None else headers.copy()
        headers.removeHeader(b"Cookie")
        headers.setRawHeaders(b"Accept-Encoding", [b"identity"])
        connection = _Connection(self._reactor, url, addresses, self._certificates, self._connect_timeout)
        agent = Agent.usingEndpointFactory(self._reactor, connection)  # type: ignore[no-untyped-call]
        try:
            # `url` again and not `uri`: what was checked is what is asked.
            asked: Deferred[IResponse] = agent.request(method, str(url).encode("ascii"), headers, body)
            response = await asked.addCallback(connection.answered)
        except (ConnectError, ConnectionClosed, RequestError, SSL.Error) as error:
            raise RequestError(connection.error or explain(error)) from None
        except Exception as error:  # the parser of responses raises what it likes
            if connection.error or hasattr(error, "reasons"):
                raise RequestError(connection.error or explain(error)) from None
            raise
        encodings = response.headers.getRawHeaders(b"Content-Encoding", [])
        if any(encoding.strip().lower() not in (b"", b"identity") for encoding in encodings):
            drop(response)
            raise RequestError("it sends a content encoding, which was not asked for")
        response.headers.removeHeader(b"Set-Cookie")
        return response

    async def _addresses(self, host: str) -> Sequence[str]:
        try:
            addresses: Sequence[str] = [str(ipaddress.ip_address(host))]
        except ValueError:
            addresses = await self._resolver.resolve(host)
        self._guard.check_all(addresses)
        return addresses[:MOST_ADDRESSES]


def drop(response: IResponse) -> None:
    """Cut the connection of a response whose body nobody wants."""
    response.deliverBody(_Cut())  # type: ignore[no-untyped-call]


def explain(error: BaseException | None) -> str:
    """Say in words for people what went wrong with a request or with a response's body."""
    reasons: list[Failure] = getattr(error, "reasons", [])
    if reasons:
        inner = [reason.value for reason in reasons if not isinstance(reason.value, ConnectionClosed)]
        return explain(inner[-1] if inner else reasons[-1].value)
    if isinstance(error, RequestError):
        return str(error)
    if isinstance(error, ConnectionRefusedError):
        return "its server refuses the connection"
    if isinstance(error, TimeoutError | ConnectingCancelledError):
        return "its server does not answer"
    if isinstance(error, SSL.Error | VerificationError):
        return "TLS failed" + _tls_words(error)
    if isinstance(error, ConnectError):
        return "its server can't be reached"
    if isinstance(error, ConnectionClosed):
        return "its server closed the connection"
    return f"its server does not speak HTTP properly ({type(error).__name__.strip('_')})"


def _tls_words(error: Any) -> str:
    if isinstance(error, VerificationError):
        return ": its certificate is for another name"
    words = [str(entry[-1]) for entry in error.args[0]] if error.args and isinstance(error.args[0], list) else []
    return f": {words[-1]}" if words and words[-1] else ""


class _Cut(Protocol):
    """Takes a body by closing its connection."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


@implementer(IOpenSSLClientConnectionCreator)
class _VerifiedName:
    """Makes TLS connections that stand or fall with the peer's certificate being valid, and for this host."""

    def __init__(self, certificates: CertificateOptions, connection: _Connection) -> None:
        self._certificates = certificates
        self._connection = connection

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        tls: SSL.Connection = self._certificates.clientConnectionForTLS(tlsProtocol)
        host = self._connection.url.host
        identity: ServiceID
        try:
            ipaddress.ip_address(host)
            identity = IPAddress_ID(host)
        except ValueError:
            identity = DNS_ID(host)
            tls.set_tlsext_host_name(host.encode("ascii"))
        tls.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._verifier(identity))
        return tls

    def _verifier(self, identity: ServiceID) -> Any:
        connection = self._connection

        def verify(_: object, certificate: Any, error: int, depth: int, ok: int) -> bool:
            # Called by OpenSSL, the leaf (depth 0) last. An exception would be lost there, so none may leave.
            try:
                if ok and depth == 0:
                    verify_service_identity(extract_patterns(certificate), [identity], [])
                if not ok:
                    connection.error = "TLS failed: its certificate is not valid"
            except VerificationError:
                connection.error = "TLS failed: its certificate is for another name"
                return False
            except Exception:  # noqa: BLE001 - a certificate that can't be read is not valid
                connection.error = "TLS failed: its certificate can't be read"
                return False
            return bool(ok)

        return verify


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _Connection:
    """The connection of one request: where it goes was decided before."""

    def __init__(
        self, reactor: Any, url: Url, addresses: Sequence[str], certificates: CertificateOptions, timeout: float
    ) -> None:
        self.url = url
        self.error = ""
        "What we hold against the peer; more to the point than the exception that follows."
        self.headers_left: int | None = LARGEST_HEADERS
        "Octets that the header section may still have; None when it is over."
        self._endpoint: Any = _AnyAddress(reactor, addresses, url.port, timeout)
        if url.scheme == "https":
            self._endpoint = wrapClientTLS(_VerifiedName(certificates, self), self._endpoint)

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        assert (uri.scheme.decode(), uri.host.decode(), uri.port) == self.url.origin
        return self

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        # Twisted's own would write two lines into the log for each request.
        protocolFactory.noisy = False  # type: ignore[attr-defined]
        connected: Deferred[Any] = self._endpoint.connect(_OneResponse(self, protocolFactory))
        return connected.addCallback(lambda wrapper: wrapper.wrappedProtocol)

    def answered(self, response: IResponse) -> IResponse:
        self.headers_left = None
        return response


class _Once(ProtocolWrapper):
    """Bounds the header section, and makes an end where HTTP11ClientProtocol would say a slow goodbye."""

    factory: _OneResponse

    def dataReceived(self, data: bytes) -> None:
        connection = self.factory.connection
        while connection.headers_left is not None and data:
            if connection.headers_left <= 0:
                connection.error = f"its response has more than {LARGEST_HEADERS // 1024} KiB of headers"
                self.loseConnection()
                return
            head, data = data[:SLICE], data[SLICE:]
            connection.headers_left -= len(head)
            super().dataReceived(head)  # type: ignore[no-untyped-call]
        if data:
            super().dataReceived(data)  # type: ignore[no-untyped-call]

    def loseConnection(self) -> None:
        # TLS would wait for the peer's close_notify, TCP for our output to be read: both as long as the peer likes.
        self.disconnecting = 1
        self.transport.abortConnection()  # type: ignore[union-attr]


class _OneResponse(WrappingFactory):
    protocol = _Once
    noisy = False

    def __init__(self, connection: _Connection, factory: IProtocolFactory) -> None:
        super().__init__(factory)  # type: ignore[no-untyped-call]
        self.connection = connection


@implementer(IStreamClientEndpoint)
class _AnyAddress:
    """Connects to the first of some numeric addresses that answers, each with a head start (RFC 8305 §5)."""

    def __init__(self, reactor: Any, addresses: Sequence[str], port: int, timeout: float) -> None:
        self._reactor = reactor
        self._port = port
        self._timeout = timeout
        self._addresses = _interleaved(addresses)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        left = list(self._addresses)
        trying: list[Deferred[IProtocol]] = []
        next_one: Any = None
        over = False

        def stop() -> None:
            nonlocal over
            # Giving up an attempt makes it fail, which must not count as a reason to try the next.
            over = True
            if next_one is not None and next_one.active():
                next_one.cancel()
            for attempt in trying[:]:
                attempt.cancel()

        result: Deferred[IProtocol] = Deferred(lambda _: stop())

        def try_next() -> None:
            nonlocal next_one
            address = left.pop(0)
            endpoint = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
            attempt = endpoint(self._reactor, address, self._port, self._timeout).connect(protocolFactory)
            trying.append(attempt)
            if left:
                next_one = self._reactor.callLater(ATTEMPT_DELAY, try_next)
            attempt.addCallbacks(connected, failed, callbackArgs=(attempt,), errbackArgs=(attempt,))

        def connected(protocol: IProtocol, attempt: Deferred[IProtocol]) -> None:
            trying.remove(attempt)
            stop()
            result.callback(protocol)

        def failed(failure: Failure, attempt: Deferred[IProtocol]) -> None:
            trying.remove(attempt)
            if over:
                return
            if left:
                if next_one.active():
                    next_one.cancel()
                try_next()
            elif not trying:
                result.errback(failure)

        try_next()
        return result


def _interleaved(addresses: Sequence[str]) -> list[str]:
    """Let the two families take turns, beginning with the first address's: one of them may lead nowhere."""
    first = [address for address in addresses if (":" in address) == (":" in addresses[0])]
    second = [address for address in addresses if (":" in address) != (":" in addresses[0])]
    mixed = []
    for index in range(max(len(first), len(second))):
        mixed += first[index : index + 1] + second[index : index + 1]
    return mixed
