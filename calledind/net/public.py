"""The public address behind a NAT: what the responses of a trunk say (RFC 3581), or a STUN server (RFC 8489)."""

from __future__ import annotations

import ipaddress
from typing import Any

from twisted.logger import Logger

from calledind.model import Address
from calledind.net import stun
from calledind.net.datagram import SipDatagram
from calledind.sip.grammar import ParseError
from calledind.sip.header import Via

REPEATS = (0.5, 1.0, 2.0, 4.0)
"Seconds between the requests to a STUN server (RFC 8489 §6.2.1); after the last it has not answered."


class PublicAddresses:
    """Name of a trunk -> the address that it sees us by, as far as that is known."""

    log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._known: dict[str, Address] = {}
        self._asked: dict[bytes, tuple[str, Address]] = {}
        "STUN transaction -> the trunk that it is for, and the server."
        self._repeats: dict[bytes, Any] = {}

    def of(self, trunk: str) -> Address | None:
        return self._known.get(trunk)

    def keep(self, trunks: set[str]) -> None:
        """Forget all others."""
        self._known = {trunk: known for trunk, known in self._known.items() if trunk in trunks}

    def learn(self, trunk: str, address: Address) -> None:
        """Take a trunk's word for where our messages come from; what can't be an address is left out."""
        try:
            usable = not ipaddress.ip_address(address[0]).is_unspecified and 0 < address[1] < 65536
        except ValueError:
            usable = False
        if usable and self._known.get(trunk) != address:
            self._known[trunk] = address
            self.log.info("trunk {trunk} sees calledin as {host}:{port}", trunk=trunk, host=address[0], port=address[1])

    def seen_as(self, trunk: str, via: Via, *, with_port: bool) -> None:
        """Learn of a response's topmost Via. `with_port`: whether its port is that of a socket of ours, as by UDP."""
        try:
            host, port = via.received, via.rport
        except ParseError:
            return
        if host is not None or port is not None:
            known = self._known.get(trunk)
            own = via.port or 5060
            self.learn(trunk, (host or (known or (via.host, 0))[0], (port if with_port else None) or own))

    def ask(self, trunk: str, sock: SipDatagram, server: Address) -> None:
        """Ask a STUN server by the socket that SIP uses."""
        transaction = stun.new_transaction()
        self._asked[transaction] = trunk, server
        self._send(sock, server, transaction, list(REPEATS))

    def stun_received(self, data: bytes, source: Address) -> None:
        """Take a STUN message; those that nobody asked for are left out."""
        trunk, server = self._asked.get(stun.transaction_of(data), ("", ("", 0)))
        if not trunk or source != server:
            return
        try:
            address = stun.mapped_address(data)
        except stun.StunError as error:
            self.log.warn("the STUN server of trunk {trunk}: {error}", trunk=trunk, error=str(error))
            return
        self._end(stun.transaction_of(data))
        self.learn(trunk, address)

    def stop(self) -> None:
        """Ask no more."""
        for transaction in list(self._asked):
            self._end(transaction)

    def _end(self, transaction: bytes) -> None:
        del self._asked[transaction]
        repeat = self._repeats.pop(transaction, None)
        if repeat is not None:
            repeat.cancel()

    def _send(self, sock: SipDatagram, server: Address, transaction: bytes, repeats: list[float]) -> None:
        self._repeats.pop(transaction, None)
        try:
            sock.send(stun.request(transaction), server)
        except OSError as error:
            repeats, detail = [], str(error)
        else:
            detail = "it does not answer"
        if repeats:
            again = self._reactor.callLater(repeats[0], self._send, sock, server, transaction, repeats[1:])
            self._repeats[transaction] = again
        else:
            trunk, _ = self._asked[transaction]
            self._end(transaction)
            self.log.warn("the STUN server of trunk {trunk}: {detail}", trunk=trunk, detail=detail)
