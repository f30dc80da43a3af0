"""The sockets of SIP, and the way to each trunk: names to addresses, and which address of ours leads there."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from calledind.model import Address
from calledind.net.datagram import SipDatagram
from calledind.net.resolve import ResolveError, Resolver
from calledind.settings import Sip, Trunk, parse_address
from calledind.sip.useragent import UserAgent

LOOK_AGAIN = 60.0
"Seconds between two look-ups of the trunks' names, so that what they send is known to be theirs."


class Signalling:
    """One user agent on the sockets of the settings."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: Sip,
        resolver: Resolver,
        *,
        trace: Callable[[str, Address, bytes], None] | None = None,
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._resolver = resolver
        self._sockets: list[SipDatagram] = []
        self._trunks: Sequence[Trunk] = ()
        self._addresses: dict[str, tuple[str, ...]] = {}
        "Host of a trunk -> its addresses, as last looked up."
        self._trusted: frozenset[str] = frozenset()
        "All of the trunks' addresses: asked for every datagram, so it is kept up to date and not looked for."
        self._hosts: dict[str, str] = {}
        "IP address of a target -> the address of ours that datagrams to it leave from."
        self._looks: Any = None
        self.user_agent = UserAgent(
            send=self._send,
            timers=reactor,
            local=self._local,
            user_agent=settings.user_agent,
            t1=settings.t1,
            trusted=lambda address: address in self._trusted,
            trace=trace,
        )

    def start(self, trunks: Sequence[Trunk]) -> None:
        """Open the sockets. Raises OSError that says which can't be opened."""
        for text in self._settings.bind:
            sock = SipDatagram(self.user_agent.datagram_received, self.user_agent.transport_failed)
            try:
                sock.bind(self._reactor, parse_address(text))
            except CannotListenError as error:
                raise OSError(f"sip.bind: {text} can't be listened on: {error.socketError}") from None
            self._sockets.append(sock)
        self.use_trunks(trunks)

    def use_trunks(self, trunks: Sequence[Trunk]) -> None:
        """Take datagrams of these trunks from now on."""
        self._trunks = trunks
        hosts = {_next_hop(trunk)[0] for trunk in trunks}
        self._addresses = {host: known for host, known in self._addresses.items() if host in hosts}
        self._trust()
        self._look_up()

    def stop(self) -> None:
        if self._looks is not None and self._looks.active():
            self._looks.cancel()
        for sock in self._sockets:
            sock.close()

    def locate(self, trunk: Trunk) -> Deferred[Address]:
        """Find where a trunk's datagrams go. Fails with OSError."""
        return Deferred.fromCoroutine(self._locate(trunk))

    def probe(self, trunk: Trunk, report: Callable[[int | None], None]) -> None:
        """Ask with an OPTIONS whether a trunk is there; `report` hears the status, or None."""

        async def ask() -> None:
            try:
                target = await self._locate(trunk)
                self.user_agent.options(target, f"sip:{_bracketed(trunk.host)}", report)
            except OSError:
                report(None)

        Deferred.fromCoroutine(ask()).addErrback(lambda failure: self.log.failure("a trunk's probe", failure))

    def local_host(self, target: Address) -> str:
        """Return the IP address that we name to this target, in Via, Contact and SDP. Raises OSError."""
        return self._local(target)[0]

    async def _locate(self, trunk: Trunk) -> Address:
        host, port = _next_hop(trunk)
        if _is_ip(host):
            return _canonical(host), port
        try:
            addresses = tuple(await self._resolver.resolve(host))
        except ResolveError as error:
            addresses = self._addresses.get(host, ())
            if not addresses:
                raise OSError(f"{host}: {error}") from None
        self._learn(host, addresses)
        usable = [address for address in addresses if self._socket_to(address) is not None]
        if not usable:
            raise OSError(f"{host} has no address of a family that sip.bind has a socket for")
        return usable[0], port

    def _look_up(self) -> None:
        if self._looks is not None and self._looks.active():
            self._looks.cancel()
        for trunk in self._trunks:
            Deferred.fromCoroutine(self._locate(trunk)).addErrback(self._not_found, trunk)
        self._looks = self._reactor.callLater(LOOK_AGAIN, self._look_up)

    def _not_found(self, failure: Any, trunk: Trunk) -> None:
        self.log.warn("trunk {name} can't be found: {error}", name=trunk.name, error=failure.getErrorMessage())

    def _learn(self, host: str, addresses: tuple[str, ...]) -> None:
        if self._addresses.get(host) != addresses:
            self._addresses[host] = addresses
            self._trust()

    def _trust(self) -> None:
        trusted = {_canonical(address) for addresses in self._addresses.values() for address in addresses}
        hosts = (_next_hop(trunk)[0] for trunk in self._trunks)
        self._trusted = frozenset(trusted.union(_canonical(host) for host in hosts if _is_ip(host)))

    def _socket_to(self, address: str) -> SipDatagram | None:
        family = ":" in address
        same = [sock for sock in self._sockets if (":" in sock.address[0]) == family]
        # A socket on [::] carries IPv4 as well.
        both = [sock for sock in self._sockets if sock.address[0] == "::"]
        return next(iter(same + both), None)

    def _send(self, data: bytes, target: Address) -> None:
        sock = self._socket_to(target[0])
        if sock is None:
            raise OSError(f"sip.bind has no socket for {target[0]}")
        sock.send(data, target)

    def _local(self, target: Address) -> Address:
        sock = self._socket_to(target[0])
        if sock is None:
            raise OSError(f"sip.bind has no socket for {target[0]}")
        if self._settings.advertise:
            return self._settings.advertise, sock.address[1]
        host = self._hosts.get(target[0])
        if host is None:
            if len(self._hosts) > 1000:
                self._hosts.clear()
            host = self._hosts[target[0]] = sock.local_address(target)[0]
        return host, sock.address[1]


def _next_hop(trunk: Trunk) -> tuple[str, int]:
    """Return host and port that a trunk's datagrams go to."""
    if not trunk.outbound_proxy:
        return trunk.host.strip("[]"), trunk.port
    host, colon, port = trunk.outbound_proxy.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.startswith("[")):
        return host.strip("[]"), int(port)
    return trunk.outbound_proxy.strip("[]"), 5060


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _canonical(address: str) -> str:
    """Write an IP address as sockets do."""
    return str(ipaddress.ip_address(address))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
