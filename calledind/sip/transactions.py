"""The transaction layer (RFC 3261 §17, §18): datagrams in, each to its transaction; the rest goes up.

Responses find their transaction by branch and method, requests by branch, sender and method (§17.1.3, §17.2.3).
Responses go back to the address that the request came from (§18.2.2, RFC 3581), never to where a Via would like
to have them: a forged Via can't point our answers at somebody else. Each look-up is one of a dictionary.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from calledind.model import Address
from calledind.sip.client import ClientTransaction, InviteClientTransaction, NonInviteClientTransaction
from calledind.sip.client import Report as ClientReport
from calledind.sip.grammar import ParseError
from calledind.sip.header import Via
from calledind.sip.message import Request, Response, parse, response_to
from calledind.sip.server import InviteServerTransaction, NonInviteServerTransaction, ServerTransaction
from calledind.sip.server import Report as ServerReport
from calledind.sip.timers import Intervals, Timers

COOKIE: Final = "z9hG4bK"
"What a branch begins with that is unique (§8.1.1.7)."
DEFAULT_PORT: Final = 5060

Send = Callable[[bytes, Address], None]
Trace = Callable[[str, Address, bytes], None]
'"sent" or "received", the other side, the datagram.'


def new_branch() -> str:
    return f"{COOKIE}{secrets.token_hex(10)}"


def new_tag() -> str:
    return secrets.token_hex(8)


def host_port(address: Address) -> str:
    """Write an address as Via and URIs have it, an IPv6 one in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class TransactionLayer:
    """All transactions of one transport address.

    `send` carries one datagram and may raise OSError; `received` is handed each request that no transaction
    knows, with its source noted in its Via; `unmatched` each such response. `stranger` decides whether a source
    is to be told nothing at all, not even that its request can't be read.
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
        trace: Trace | None = None,
    ) -> None:
        self.timers = timers
        self.intervals = intervals
        self._send = send
        self._received = received
        self._unmatched = unmatched
        self._stranger = stranger
        self._trace = trace
        self._clients: dict[tuple[str, str], ClientTransaction] = {}
        self._by_target: dict[Address, dict[tuple[str, str], ClientTransaction]] = {}
        self._servers: dict[object, ServerTransaction] = {}

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
        kind = InviteClientTransaction if request.method == "INVITE" else NonInviteClientTransaction
        by_target = self._by_target.setdefault(target, {})

        def gone(transaction: ClientTransaction) -> None:
            del self._clients[transaction.key]
            del by_target[transaction.key]
            if not by_target and self._by_target.get(target) is by_target:
                del self._by_target[target]

        transaction = kind(
            request,
            transmit=lambda data: self.transmit(data, target),
            report=report,
            gone=gone,
            timers=self.timers,
            intervals=self.intervals,
        )
        if transaction.key in self._clients:
            raise ValueError("a branch that is in use")
        self._clients[transaction.key] = by_target[transaction.key] = transaction
        transaction.start()
        return transaction

    def serve(self, request: Request, source: Address, report: ServerReport | None = None) -> ServerTransaction:
        """Begin the server transaction of a request that `received` was handed. It doesn't answer by itself yet."""
        target = response_address(request.via, source)
        kind = InviteServerTransaction if request.method == "INVITE" else NonInviteServerTransaction

        def gone(transaction: ServerTransaction) -> None:
            del self._servers[transaction.key]

        transaction = kind(
            request,
            key=_server_key(request),
            transmit=lambda data: self.transmit(data, target),
            report=report or (lambda news: None),
            gone=gone,
            timers=self.timers,
            intervals=self.intervals,
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
            message.check()
        except ParseError as error:
            self._unreadable(error, data, source)
            return
        if isinstance(message, Response):
            self._response(message, source)
        else:
            self._request(message, source)

    def transport_failed(self, target: Address) -> None:
        """Take the news that nobody listens at `target` (ICMP): what waits for an answer from there fails."""
        for transaction in tuple(self._by_target.get(target, {}).values()):
            transaction.transport_failed("nobody listens there (ICMP)")

    def _response(self, response: Response, source: Address) -> None:
        if len(response.vias) != 1:
            return  # meant for somebody behind us, whom we don't have (§8.1.3.3)
        transaction = self._clients.get((response.via.branch or "", response.cseq.method))
        if transaction is not None:
            transaction.receive(response)
        else:
            self._unmatched(response, source)

    def _request(self, request: Request, source: Address) -> None:
        transaction = self._servers.get(_server_key(request, "INVITE" if request.method == "ACK" else request.method))
        if transaction is not None:
            transaction.receive(request)
        else:
            self._received(request.received_from(source), source)

    def _unreadable(self, error: ParseError, data: bytes, source: Address) -> None:
        "Say what is wrong with a request, where that is possible; without a transaction (§16.11 does so too)."
        request = error.request
        if request is None:
            try:
                message = parse(data)
            except ParseError:
                return
            if not isinstance(message, Request):
                return
            request = message
        if request.method == "ACK" or self._stranger(source):
            return
        try:
            request = request.received_from(source)
            target = response_address(request.via, source)
            words = "".join(character for character in str(error) if character.isprintable())
            answer = bytes(response_to(request, error.status, words if error.status == 400 else None, new_tag()))
        except ValueError:
            return  # not enough of it can be read to answer
        self.try_transmit(answer, target)


def response_address(via: Via, source: Address) -> Address:
    """Return where responses go: the source's address, and its port where rport asks for that, else the Via's."""
    if via.wants_rport:
        return source
    return source[0], via.port or DEFAULT_PORT


def _server_key(request: Request, method: str = "") -> object:
    via = request.via
    method = method or request.method
    if (via.branch or "").startswith(COOKIE):
        return via.branch, via.host.lower(), via.port, method
    # RFC 2543 had no unique branch (§17.2.3). The To tag is left out: the ACK has one that its INVITE had not.
    return request.uri, request.from_.tag, request.call_id, request.cseq.number, via.host.lower(), via.port, method
