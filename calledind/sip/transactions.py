"""The transaction layer (RFC 3261 §17, §18): messages in, each to its transaction; the rest goes up.

Responses find their transaction by branch and method, requests by branch, sender and method (§17.1.3, §17.2.3).
Responses go back to the address that the request came from (§18.2.2, RFC 3581), on the same connection where there
is one, never to where a Via would like to have them: a forged Via can't point our answers at somebody else. Each
look-up is one of a dictionary.

A request that changes nothing is answered once and for all, and yet its transaction has to live for half a minute.
Together these may hold `MOST_DISMISSED` octets; what comes beyond that is answered without a transaction (§8.2.7), so
that its repeats are answered anew, in the same words.

A request too large for UDP moves to TCP where `larger` knows a way (§18.1.1), its CANCEL with it; when the connection
fails before anything was heard, it moves back.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from calledind.model import Address
from calledind.sip.client import ClientTransaction, InviteClientTransaction, NonInviteClientTransaction
from calledind.sip.client import Report as ClientReport
from calledind.sip.grammar import ParseError
from calledind.sip.header import Via
from calledind.sip.message import Request, Response, parse, response_to
from calledind.sip.server import InviteServerTransaction, NonInviteServerTransaction, ServerTransaction
from calledind.sip.server import Report as ServerReport
from calledind.sip.target import Transport, transport_of
from calledind.sip.timers import Intervals, Lingering, Timers

COOKIE: Final = "z9hG4bK"
"What a branch begins with that is unique (§8.1.1.7)."
DEFAULT_PORT: Final = 5060
SECURE_PORT: Final = 5061
LARGEST_DATAGRAM: Final = 1300
"Octets of a request that may go by UDP where TCP is there (§18.1.1)."
MOST_DISMISSED: Final = 4 << 20
"Octets of the transactions of requests that changed nothing: about a thousand."
TRANSACTION: Final = 3072
"Octets of a transaction beside its response and its key, as measured."

Send = Callable[[bytes, Address], None]
Trace = Callable[[str, Address, bytes], None]
'"sent" or "received", the other side, the message.'


def new_branch() -> str:
    return f"{COOKIE}{secrets.token_hex(10)}"


def new_tag() -> str:
    return secrets.token_hex(8)


def host_port(address: Address) -> str:
    """Write an address as Via and URIs have it, an IPv6 one in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def via(local: Address, branch: str, transport: Transport | None = None) -> tuple[str, str]:
    """Return the Via header of a request of ours; `transport`: where it is another than that of `local`."""
    transport = transport or transport_of(local)
    # Over a connection, the peer's own requests are welcome on it as well (RFC 5923 §4).
    alias = "" if transport == "udp" else ";alias"
    return "Via", f"SIP/2.0/{transport.upper()} {host_port(local)};branch={branch};rport{alias}"


class TransactionLayer:
    """All transactions of one transport address.

    `send` carries one message and may raise OSError; `received` is handed each request that no transaction
    knows, with its source noted in its Via; `unmatched` each such response. `stranger` decides whether a source
    is to be told nothing at all, not even that its request can't be read. `larger` gives the way for requests that
    are too large for a UDP target. `seen_as` hears, of each response to a request of ours, who sent it and what the
    topmost Via says of where the request came from.
    """

    def __init__(
        self,
        *,
        send: Send,
        timers: Timers,
        intervals: Intervals,
        received: Callable[[Request, Address], None],
        unmatched: Callable[[Response, Address], None] = lambda response, source: None,
        stranger: Callable[[Address], bool] = lambda source: False,
        larger: Callable[[Address], Address | None] = lambda target: None,
        seen_as: Callable[[Address, Via], None] = lambda target, via: None,
        trace: Trace | None = None,
    ) -> None:
        self.timers = timers
        self.intervals = intervals
        self._send = send
        self._received = received
        self._unmatched = unmatched
        self._stranger = stranger
        self._larger = larger
        self._seen_as = seen_as
        self._trace = trace
        self._clients: dict[tuple[str, str], _Client] = {}
        self._lingering = Lingering(timers)
        self._by_target: dict[Address, dict[tuple[str, str], _Client]] = {}
        self._servers: dict[object, ServerTransaction] = {}
        self._dismissed = 0
        "Octets of those that `dismiss` began."
        self._secret = secrets.token_bytes(16)

    def __len__(self) -> int:
        "How many transactions live."
        return len(self._clients) + len(self._servers)

    def transmit(self, data: bytes, target: Address) -> None:
        """Send one datagram outside of any transaction, or for one. Raises OSError as `send` does."""
        if self._trace is not None:
            self._trace("sent", target, data)
        self._send(data, target)

    def try_transmit(self, data: bytes, target: Address) -> None:
        """Send what the other side will ask for again: an ACK, a repeated 2xx. Failing is no news."""
        with suppress(OSError):
            self.transmit(data, target)

    def request(self, request: Request, target: Address, report: ClientReport) -> ClientTransaction:
        """Begin a client transaction: the request leaves now, what becomes of it is reported later."""
        client = _Client(self, target)
        if transport_of(target) == "udp":
            larger = self._way_for_large(request, target)
            if larger is not None:
                client.target, client.moved_from = larger, (request, target)
                request = _over(request, larger)
        kind = InviteClientTransaction if request.method == "INVITE" else NonInviteClientTransaction
        transaction = client.transaction = kind(
            request,
            transmit=client.transmit,
            report=report,
            gone=client.gone,
            timers=self.timers,
            lingering=self._lingering,
            intervals=self.intervals,
            reliable=transport_of(client.target) != "udp",
        )
        if transaction.key in self._clients:
            raise ValueError("a branch that is in use")
        self._clients[transaction.key] = client
        self._file(client)
        transaction.start()
        return transaction

    def forget(self, client: _Client) -> None:
        """Let go of a client transaction that is over."""
        del self._clients[client.transaction.key]
        self._unfile(client)

    def _way_for_large(self, request: Request, target: Address) -> Address | None:
        if request.method == "CANCEL":
            # It goes where its INVITE went (§9.1), which has the same branch.
            invite = self._clients.get((request.via.branch or "", "INVITE"))
            return None if invite is None or invite.moved_from is None else invite.target
        larger = self._larger(target)
        return larger if larger is not None and len(bytes(request)) > LARGEST_DATAGRAM else None

    def _file(self, client: _Client) -> None:
        self._by_target.setdefault(client.target, {})[client.transaction.key] = client

    def _unfile(self, client: _Client) -> None:
        by_target = self._by_target[client.target]
        del by_target[client.transaction.key]
        if not by_target:
            del self._by_target[client.target]

    def dismiss(self, request: Request, source: Address, response: Response) -> None:
        """Give the final response to a request that `received` was handed and that changes nothing: if it came again,
        it would be answered so again."""
        octets = bytes(response)
        # Its key has the branch, which is in the response too, or, of a request of RFC 2543, the Request-URI.
        size = TRANSACTION + 2 * len(octets) + len(request.uri)
        if self._dismissed + size > MOST_DISMISSED:
            self.try_transmit(octets, response_address(request.via, source))
        else:
            self.serve(request, source, dismissed=size).respond(response)

    def tag_for(self, request: Request) -> str:
        """Return a To tag that nobody else can tell, and that a repeat and a CANCEL get as well (§8.2.7, §9.2)."""
        topmost = (request.get("Via") or "").partition(",")[0]
        cseq = (request.get("CSeq") or "").split()[:1]
        known = topmost, request.get("From"), request.get("To"), request.get("Call-ID"), cseq
        return hashlib.blake2b(repr(known).encode(), key=self._secret, digest_size=8).hexdigest()

    def serve(
        self, request: Request, source: Address, report: ServerReport | None = None, *, dismissed: int = 0
    ) -> ServerTransaction:
        """Begin the server transaction of a request that `received` was handed. It doesn't answer by itself yet.

        `dismissed`: the octets that it takes of those of requests that changed nothing.
        """
        target = response_address(request.via, source)
        kind = InviteServerTransaction if request.method == "INVITE" else NonInviteServerTransaction

        def gone(transaction: ServerTransaction) -> None:
            del self._servers[transaction.key]
            self._dismissed -= dismissed

        self._dismissed += dismissed
        transaction = kind(
            request,
            key=_server_key(request),
            transmit=lambda data: self.transmit(data, target),
            report=report or (lambda news: None),
            gone=gone,
            timers=self.timers,
            intervals=self.intervals,
            reliable=transport_of(source) != "udp",
        )
        self._servers[transaction.key] = transaction
        return transaction

    def cancelled(self, cancel: Request) -> ServerTransaction | None:
        """Return the INVITE's transaction that a CANCEL is meant for, None where there is none (§9.2)."""
        return self._servers.get(_server_key(cancel, "INVITE"))

    def datagram_received(self, data: bytes, source: Address) -> None:
        """Take a datagram. Its octets can raise nothing; what its users raise is theirs."""
        if not data.strip(b"\r\n\0"):
            return  # a keep-alive (RFC 5626 §4.4.1)
        if self._trace is not None:
            self._trace("received", source, data)
        try:
            message = parse(data)
        except ParseError as error:
            self.unreadable(error, None, source)
            return
        try:
            message.check()
        except ParseError as error:
            self.unreadable(error, message, source)
            return
        self._take(message, source)

    def message_received(self, message: Request | Response, source: Address) -> None:
        """Take a message of a stream."""
        if self._trace is not None:
            with suppress(ValueError):  # it has what couldn't be written
                self._trace("received", source, bytes(message))
        try:
            message.check()
        except ParseError as error:
            self.unreadable(error, message, source)
            return
        self._take(message, source)

    def transport_failed(self, target: Address, detail: str = "nobody listens there (ICMP)") -> None:
        """Take the news that nothing arrives at `target` (ICMP, a lost connection): what waits for an answer fails."""
        for client in tuple(self._by_target.get(target, {}).values()):
            if client.moved_from is not None and client.transaction.unheard:
                self._move_back(client, *client.moved_from)
            else:
                client.transaction.transport_failed(detail)

    def _move_back(self, client: _Client, request: Request, target: Address) -> None:
        self._unfile(client)
        client.target, client.moved_from = target, None
        self._file(client)
        client.transaction.begin_again(request)

    def _take(self, message: Request | Response, source: Address) -> None:
        if isinstance(message, Response):
            self._response(message, source)
        else:
            self._request(message, source)

    def _response(self, response: Response, source: Address) -> None:
        if len(response.vias) != 1:
            return  # meant for somebody behind us, whom we don't have (§8.1.3.3)
        client = self._clients.get((response.via.branch or "", response.cseq.method))
        if client is not None:
            self._seen_as(client.target, response.via)
            client.transaction.receive(response)
        else:
            self._unmatched(response, source)

    def _request(self, request: Request, source: Address) -> None:
        transaction = self._servers.get(_server_key(request, "INVITE" if request.method == "ACK" else request.method))
        if transaction is not None:
            transaction.receive(request)
        else:
            self._received(request.received_from(source), source)

    def unreadable(self, error: ParseError, message: Request | Response | None, source: Address) -> None:
        """Say what is wrong with a request, where that is possible; without a transaction (§16.11 does so too).

        `message`: as much of it as could be read.
        """
        request = error.request or message
        if not isinstance(request, Request):
            return
        if request.method == "ACK" or not request.all("Via") or self._stranger(source):
            return
        target = source
        # One whose Via can't be read is answered where it came from, with that Via (RFC 4475 §3.1.2.1).
        with suppress(ParseError):
            request = request.received_from(source)
            target = response_address(request.via, source)
        words = "".join(character for character in str(error) if character.isprintable())
        phrase = words if error.status == 400 else None
        answer = bytes(response_to(request, error.status, phrase, self.tag_for(request)))
        self.try_transmit(answer, target)


@dataclass(slots=True, eq=False)
class _Client:
    """A client transaction and where its requests go."""

    layer: TransactionLayer
    target: Address
    moved_from: tuple[Request, Address] | None = None
    "The request and the UDP target, where it was too large for them."
    transaction: ClientTransaction = field(init=False)

    def transmit(self, data: bytes) -> None:
        self.layer.transmit(data, self.target)

    def gone(self, _: ClientTransaction) -> None:
        self.layer.forget(self)
        # They know each other; apart, neither waits for the collector.
        del self.transaction


def _over(request: Request, target: Address) -> Request:
    "The same request, by the target's transport."
    headers = list(request.headers)
    index = next(index for index, (name, _) in enumerate(headers) if name == "Via")
    topmost = request.via
    headers[index] = via((topmost.host, topmost.port or DEFAULT_PORT), topmost.branch or "", transport_of(target))
    return Request(request.method, request.uri, headers, request.body)


def response_address(via: Via, source: Address) -> Address:
    """Return where responses go: back over a connection; by UDP to the source's address, and its port where rport asks
    for that, else the Via's."""
    if via.wants_rport or transport_of(source) != "udp":
        return source
    return source[0], via.port or DEFAULT_PORT


def _server_key(request: Request, method: str = "") -> object:
    via = request.via
    method = method or request.method
    # A cookie alone is no branch either (RFC 4475 §3.2.1).
    if (via.branch or "").startswith(COOKIE) and via.branch != COOKIE:
        return via.branch, via.host.lower(), via.port, method
    # RFC 2543 had no unique branch (§17.2.3). The To tag is left out: the ACK has one that its INVITE had not.
    return request.uri, request.from_.tag, request.call_id, request.cseq.number, via.host.lower(), via.port, method
