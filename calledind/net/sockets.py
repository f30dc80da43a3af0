"""Our side of SIP's transports: UDP sockets, each with a TCP listener on the same port (RFC 3261 §18.2.1)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from twisted.internet.error import CannotListenError

from calledind.model import Address
from calledind.net.datagram import SipDatagram
from calledind.settings.values import parse_address

TRIES = 10
"To find a port that is free for both, where any will do."


class Sockets:
    """The sockets of the settings, by the text that names them there."""

    def __init__(
        self,
        reactor: Any,
        received: Callable[[SipDatagram, bytes, Address], None],
        failed: Callable[[Address], None],
        accepting: Any,
    ) -> None:
        """`accepting`: the factory of the connections that peers open."""
        self._reactor = reactor
        self._received = received
        self._failed = failed
        self._accepting = accepting
        self._sockets: dict[str, SipDatagram] = {}
        self._listeners: list[Any] = []
        self._ways: dict[tuple[bool, str], SipDatagram | None] = {}
        "Whether a target is of IPv6, text of a socket -> the socket that `to` finds."
        self._hosts: dict[tuple[str, str], str] = {}
        "Text of a socket, IP address of a target -> the address of ours that messages to it leave from."

    def open(self, text: str, setting: str) -> None:
        """Open a socket, unless it is open. Raises OSError that names the setting."""
        if text in self._sockets:
            return
        host, port = parse_address(text)
        for last in [False] * (TRIES - 1 if port == 0 else 0) + [True]:
            opened = self._new_socket()
            try:
                bound = opened.bind(self._reactor, (host, port))
                listener = self._reactor.listenTCP(bound[1], self._accepting, interface=host)
            except CannotListenError as error:
                opened.close()
                if last:
                    raise OSError(f"{setting}: {text} can't be listened on: {error.socketError}") from None
            else:
                self._listeners.append(listener)
                self._sockets[text] = opened
                self._ways.clear()
                return

    def close(self) -> None:
        for opened in self._sockets.values():
            opened.close()
        for listener in self._listeners:
            listener.stopListening()
        self._sockets.clear()
        self._ways.clear()
        self._listeners.clear()

    def to(self, host: str, text: str = "") -> SipDatagram | None:
        """Return the socket that datagrams to an IP address leave by, the one of this name where one is given; None
        where none can."""
        way = ":" in host, text
        if way not in self._ways:
            self._ways[way] = self._find(*way)
        return self._ways[way]

    def _find(self, is_ipv6: bool, text: str) -> SipDatagram | None:
        every = [each for name, each in self._sockets.items() if text in ("", name)]
        same = [each for each in every if (":" in each.address[0]) == is_ipv6]
        # A socket on [::] carries IPv4 as well.
        both = [each for each in every if each.address[0] == "::"]
        return next(iter(same + both), None)

    def local_address(self, target: Address, text: str = "") -> Address:
        """Return where messages to a target leave from. Raises OSError where there is no way there."""
        sock = self.to(target[0], text)
        if sock is None:
            raise OSError(f"sip.bind has no socket for {target[0]}")
        key = text, target[0]
        host = self._hosts.get(key)
        if host is None:
            if len(self._hosts) > 1000:
                self._hosts.clear()
            host = self._hosts[key] = sock.local_address(target)[0]
        return host, sock.address[1]

    def forget_addresses(self) -> None:
        """Look anew which address of ours messages leave from: the machine's may change while we run."""
        self._hosts.clear()

    def outgoing(self, host: str, text: str = "") -> Address | None:
        """Return what a connection to an IP address is bound to; None: whatever the machine chooses."""
        sock = self.to(host, text)
        if sock is None or ipaddress.ip_address(sock.address[0]).is_unspecified:
            return None
        return sock.address[0], 0

    def _new_socket(self) -> SipDatagram:
        sock: SipDatagram

        def received(data: bytes, source: Address) -> None:
            self._received(sock, data, source)

        sock = SipDatagram(received, self._failed)
        return sock
