"""SIP's transports, and the way to each trunk: names to addresses, connections, and our own address towards it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.task import deferLater
from twisted.logger import Logger

from calledind.model import Address
from calledind.net import stun
from calledind.net.datagram import SipDatagram
from calledind.net.dns import Dns, is_ip
from calledind.net.next_hop import REST, Chooser, Group, Place, Server, find
from calledind.net.public import PublicAddresses
from calledind.net.resolve import ResolveError, Resolver
from calledind.net.route import Route, RouteName, check_files, is_beyond_nat, next_hop, place_of, tls_options
from calledind.net.sockets import Sockets
from calledind.net.stream import CONNECT_TIMEOUT, Streams
from calledind.net.tls import TlsError
from calledind.settings.tables import Sip, Trunk
from calledind.settings.values import STUN_SERVER, parse_address
from calledind.sip.header import Via
from calledind.sip.target import Target, transport_of
from calledind.sip.transactions import host_port
from calledind.sip.useragent import UserAgent

LOOK_AGAIN = 60.0
"Seconds between two look-ups of the trunks' names, so that what they send is known to be theirs."
KEEP_ALIVE = 25.0
"Seconds between two empty datagrams to a trunk beyond a NAT, which forgets us otherwise (RFC 5626 §3.5.1)."


@dataclass(slots=True)
class _Looks:
    """Timers."""

    look_up: Any = None
    keep_alive: Any = None

    def stop(self) -> None:
        for timer in (self.look_up, self.keep_alive):
            if timer is not None and timer.active():
                timer.cancel()


class Signalling:
    """One user agent on the transports of the settings."""

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
        self._dns = Dns(reactor, resolver, servers=[parse_address(text) for text in settings.dns_servers])
        self._routes: dict[str, Route] = {}
        self._targets: dict[tuple[str, Place], Target] = {}
        "Of the trunks' routes as they are now, for all calls that go there."
        self._left: WeakSet[Route] = WeakSet()
        "Routes that no trunk has any more, of calls that began by them."
        self._trusted: frozenset[str] = frozenset()
        "All of the trunks' addresses: asked for every datagram, so it is kept up to date and not looked for."
        self._public = PublicAddresses(reactor)
        self._timers = _Looks()
        self._broken: dict[Target, float] = {}
        "Connections of trunks of UDP that failed, and when."
        self.moved: Callable[[], None] = lambda: None
        "Hears that our address may be another, as some trunk sees it."
        self.user_agent = UserAgent(
            send=self._send,
            timers=reactor,
            local=self._local,
            user_agent=settings.user_agent,
            t1=settings.t1,
            trusted=self._is_trusted,
            trace=trace,
            larger=self._larger,
            seen_as=self._seen_as,
        )
        self._streams = Streams(
            reactor,
            connect=self._connect,
            received=self.user_agent.message_received,
            unreadable=self.user_agent.unreadable,
            failed=self._stream_failed,
            welcome=self._is_trusted,
        )
        self._sockets = Sockets(
            reactor, self._datagram_received, self.user_agent.transport_failed, self._streams.factory()
        )

    def start(self, trunks: Sequence[Trunk]) -> None:
        """Open the sockets. Raises OSError that says what can't be opened or read."""
        for text in self._settings.bind:
            self._sockets.open(text, "sip.bind")
        self.prepare(trunks)
        self.use_trunks(trunks)

    def prepare(self, trunks: Sequence[Trunk]) -> None:
        """Open the sockets and read the files that trunks need, before they are used. Raises OSError with a line for
        each that can't be."""
        wrong = []
        for trunk in trunks:
            try:
                if trunk.bind:
                    self._sockets.open(trunk.bind, f"trunks: {trunk.name}: bind")
                check_files(trunk)
            except OSError as error:
                wrong.append(str(error))
        if wrong:
            raise OSError("\n".join(wrong))

    def use_trunks(self, trunks: Sequence[Trunk]) -> None:
        """Take messages of these trunks from now on; `prepare` has seen them. Calls go on by the way they began."""
        self._replace(trunks)
        self._public.keep({route.trunk.name for route in self._every_route()})
        self._trust()
        self._timers.stop()
        self._look_up()
        self._keep_alive()

    def _replace(self, trunks: Sequence[Trunk]) -> None:
        before, self._routes = self._routes, {}
        self._targets.clear()
        for trunk in trunks:
            route = before.get(trunk.name)
            if route is None:
                route = Route(trunk, Chooser(self._reactor.seconds))
            elif not route.leads_to(trunk):
                route = route.changed(trunk)
            route.trunk = trunk
            self._routes[trunk.name] = route
        self._left.update(before.values())
        self._left.difference_update(self._routes.values())

    def stop(self) -> None:
        self._timers.stop()
        self._public.stop()
        self._streams.stop()
        self._sockets.close()

    # the way to a trunk

    def locate(self, trunk: Trunk, tried: Collection[Address] = ()) -> Deferred[Address]:
        """Find where a trunk's next call goes, none of those that were tried; a connection is opened where one is
        needed. Fails with OSError."""
        return Deferred.fromCoroutine(self._locate(trunk, tried))

    def has_more(self, trunk: Trunk, tried: Collection[Address]) -> bool:
        """Whether a trunk has a target that was not tried yet, and is well."""
        route = self._routes.get(trunk.name)
        return route is not None and route.chooser.is_well(route.groups, [place_of(target) for target in tried])

    def failed(self, target: Address, retry_after: int | None = None) -> None:
        """Leave a target alone for a while (RFC 3263 §4.3), or for the seconds that it asked for."""
        route = self._route(target)
        if route is not None:
            route.chooser.failed(place_of(target), retry_after)

    def works(self, target: Address) -> None:
        """A target has answered."""
        route = self._route(target)
        if route is not None:
            route.chooser.works(place_of(target))

    def probe(self, trunk: Trunk, report: Callable[[int | None], None]) -> None:
        """Ask with an OPTIONS whether a trunk is there; `report` hears the status, or None."""

        async def ask() -> None:
            try:
                target = await self._locate(trunk, ())
            except OSError:
                report(None)
            else:
                self.options(trunk, target, report)

        Deferred.fromCoroutine(ask()).addErrback(lambda failure: self.log.failure("a trunk's probe", failure))

    def options(self, trunk: Trunk, target: Address, report: Callable[[int | None], None]) -> None:
        """Ask a trunk at one of its targets, see `probe`."""
        scheme = "sips" if trunk.sips else "sip"
        self.user_agent.options(target, f"{scheme}:{_bracketed(trunk.host)}", report)

    def seen_by(self, trunk: str) -> str:
        """Return the address that a trunk sees us by, where that was learned; empty where not."""
        seen = self._public.of(trunk)
        return "" if seen is None else host_port(seen)

    def local_address(self, target: Address) -> Address:
        """Return the IP address and port that we name to this target. Raises OSError."""
        return self._local(target)

    def local_host(self, target: Address) -> str:
        """Return the IP address that we name to this target, in Via, Contact and SDP. Raises OSError."""
        return self._local(target)[0]

    async def _locate(self, trunk: Trunk, tried: Collection[Address]) -> Address:
        route = self._routes.get(trunk.name)
        if route is None:
            raise OSError(f"there is no trunk {trunk.name} any more")
        groups = await self._find(route)
        without = [place_of(target) for target in tried]
        words = f"{trunk.name} has no other address"
        while True:
            chosen = route.chooser.choose(groups, without, trunk.calls_per_second_per_address)
            if chosen is None:
                raise OSError(words)
            place, wait = chosen
            if wait > 0:
                await deferLater(self._reactor, wait)
            target, route.last = self._target(route, place), place
            if place.transport == "udp":
                return target
            try:
                await self._streams.open(target)
            except OSError as error:
                words = f"{host_port(target)}: {error}"
                self.log.warn("trunk {trunk} can't be connected to: {words}", trunk=trunk.name, words=words)
                route.chooser.failed(place)
                without.append(place)
            else:
                return target

    def _target(self, route: Route, place: Place) -> Target:
        key = route.trunk.name, place
        target = self._targets.get(key)
        if target is None:
            target = route.target(place)
            if self._routes.get(route.trunk.name) is route:  # there may have been a reload meanwhile
                self._targets[key] = target
        return target

    async def _find(self, route: Route) -> Sequence[Group]:
        """Return a trunk's places of the families that we have sockets for, and note that they are its. Raises
        OSError."""
        host, port = next_hop(route.trunk)
        try:
            found = await find(self._dns, host, port, route.trunk.transport, secure=route.trunk.sips)
        except OSError:
            if not route.groups:
                raise
            return route.groups
        if found == route.found:
            return route.groups
        groups = [
            [
                Server(tuple(place for place in server.places if self._reaches(place, route)), server.weight)
                for server in group
            ]
            for group in found
        ]
        before = set(route.places())
        route.groups = groups
        if set(route.places()) != before:
            self._trust()
        if not route.places():
            raise OSError(f"{host} has no address that a socket of sip.bind leads to")
        route.found = found
        return groups

    def _reaches(self, place: Place, route: Route) -> bool:
        """Whether there is a socket for a place, and a route: many machines that speak IPv6 have none to the world."""
        try:
            self._sockets.local_address((place.host, place.port), route.trunk.bind)
        except OSError:
            return False
        return True

    def _every_route(self) -> list[Route]:
        """Return the trunks' routes, and those by which calls still run."""
        return [*self._routes.values(), *self._left]

    def _look_up(self) -> None:
        self._forget_broken()
        self._trust()  # a route that was left may be used no more
        self._sockets.forget_addresses()
        self._targets.clear()
        for route in self._routes.values():
            route.found = None
            Deferred.fromCoroutine(self._refresh(route)).addErrback(self._not_found, route.trunk)
        self._timers.look_up = self._reactor.callLater(LOOK_AGAIN, self._look_up)

    async def _refresh(self, route: Route) -> None:
        await self._find(route)
        trunk = route.trunk
        server = STUN_SERVER.fullmatch(trunk.advertise)
        if server is not None:
            await self._ask_stun(route, server[1].strip("[]"), int(server[2] or stun.DEFAULT_PORT))
        elif trunk.advertise == "received" and self._public.of(trunk.name) is None:
            self.probe(trunk, lambda status: None)

    async def _ask_stun(self, route: Route, host: str, port: int) -> None:
        try:
            addresses = [host] if is_ip(host) else await self._resolver.resolve(host)
        except ResolveError as error:
            raise OSError(f"advertise: {host}: {error}") from None
        for address in addresses:
            sock = self._sockets.to(address, route.trunk.bind)
            if sock is not None:
                self._public.ask(route.trunk.name, sock, (address, port))
                return

    def _not_found(self, failure: Any, trunk: Trunk) -> None:
        self.log.warn("trunk {trunk} can't be found: {error}", trunk=trunk.name, error=failure.getErrorMessage())

    def _keep_alive(self) -> None:
        for route in self._every_route():
            if route.last is not None and route.last.transport == "udp" and is_beyond_nat(route.trunk):
                sock = self._sockets.to(route.last.host, route.trunk.bind)
                if sock is not None:
                    _try_to_send(sock, (route.last.host, route.last.port))
        self._timers.keep_alive = self._reactor.callLater(KEEP_ALIVE, self._keep_alive)

    # who is one of a trunk's

    def _trust(self) -> None:
        routes = self._every_route()
        hosts = [next_hop(route.trunk)[0] for route in routes]
        places = [place.host for route in routes for place in route.places()]
        self._trusted = frozenset(str(ipaddress.ip_address(host)) for host in hosts + places if is_ip(host))

    def _is_trusted(self, address: str) -> bool:
        return address in self._trusted

    # messages out and in

    def _route(self, target: Address) -> Route | None:
        if not isinstance(target, Target):
            return None
        return target.trunk.route if isinstance(target.trunk, RouteName) else self._routes.get(target.trunk)

    def _bind(self, target: Address) -> str:
        route = self._route(target)
        return "" if route is None else route.trunk.bind

    def _send(self, data: bytes, target: Address) -> None:
        if isinstance(target, Target) and target.transport != "udp" and not self._falls_back(target):
            self._streams.send(data, target)
            return
        sock = self._sockets.to(target[0], self._bind(target))
        if sock is None:
            raise OSError(f"sip.bind has no socket for {target[0]}")
        sock.send(data, target)

    def _datagram_received(self, sock: SipDatagram, data: bytes, source: Address) -> None:
        if stun.is_stun(data):
            self._public.stun_received(data, source)
            self.moved()
        else:
            self.user_agent.datagram_received(data, source)

    def _connect(self, target: Target, factory: Any) -> Deferred[Any]:
        route = self._route(target)
        bound = self._sockets.outgoing(target[0], self._bind(target))
        kind = TCP6ClientEndpoint if ":" in target[0] else TCP4ClientEndpoint
        endpoint: Any = kind(self._reactor, target[0], target[1], timeout=CONNECT_TIMEOUT, bindAddress=bound)
        if target.transport == "tls":
            try:
                if route is None:
                    raise TlsError(f"there is no trunk {target.trunk} any more")
                endpoint = wrapClientTLS(tls_options(route.trunk), endpoint)
            except TlsError as error:
                return fail(error)
        connecting: Deferred[Any] = endpoint.connect(factory)
        return connecting

    def _stream_failed(self, target: Target, words: str) -> None:
        route = self._route(target)
        if route is not None and route.trunk.transport == "udp":
            self._forget_broken()
            self._broken[target] = self._reactor.seconds()
        self.user_agent.transport_failed(target, f"{host_port(target)}: {words}")

    def _forget_broken(self) -> None:
        """Keep in mind what matters still; each keeps its route, too."""
        now = self._reactor.seconds()
        self._broken = {each: at for each, at in self._broken.items() if now - at < REST}

    def _falls_back(self, target: Target) -> bool:
        """Whether UDP has to do: a trunk of UDP led us to TCP (by a Contact, say), where lately nobody was."""
        route, at = self._route(target), self._broken.get(target)
        if at is None or route is None or route.trunk.transport != "udp":
            return False
        return bool(self._reactor.seconds() - at < REST)

    def _larger(self, target: Address) -> Address | None:
        route = self._route(target)
        if route is None or not route.trunk.large_by_tcp:
            return None
        larger = route.target(Place(*target, "tcp"))
        return None if self._falls_back(larger) else larger

    # our own address

    def _local(self, target: Address) -> Address:
        """Return what we call ourselves towards a target. Raises OSError where there is no way there."""
        route = self._route(target)
        transport = transport_of(target)
        host, port = self._sockets.local_address(target, self._bind(target))
        if transport == "tls" and isinstance(target, Target):
            # Nobody can connect to us by TLS: what is for us comes by this connection.
            own = self._streams.local_address(target)
            port = port if own is None else own[1]
        trunk = None if route is None else route.trunk
        public = None if trunk is None or not is_beyond_nat(trunk) else self._public.of(trunk.name)
        if public is not None:
            host, port = public[0], public[1] if transport == "udp" else port
        elif trunk is not None and trunk.advertise and is_ip(trunk.advertise):
            host = trunk.advertise
        elif self._settings.advertise:
            host = self._settings.advertise
        return Target(host, port, transport, RouteName(route) if route is not None else "")

    def _seen_as(self, target: Address, via: Via) -> None:
        route = self._route(target)
        if route is not None and route.trunk.advertise == "received" and route not in self._left:
            before = self._public.of(route.trunk.name)
            self._public.seen_as(route.trunk.name, via, with_port=transport_of(target) == "udp")
            if self._public.of(route.trunk.name) != before:
                self.moved()


def _try_to_send(sock: SipDatagram, target: Address) -> None:
    with suppress(OSError):  # the next request says what is wrong
        sock.send(b"\r\n\r\n", target)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
