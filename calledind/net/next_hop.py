"""Finding the next hop (RFC 3263): from a domain to the addresses that take its calls, and which of them is asked now.

`find` gives the places in groups, the first group first. In a group, a server is taken by its weight (RFC 2782),
and of one server's addresses the one that was used longest ago, so that calls spread over all of them. A place that
failed rests for a while: it is asked again only when it is the last that is left. Where a trunk limits the calls a
second of each address, the place is asked when its turn comes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, Literal

from twisted.internet.defer import Deferred

from calledind.net.dns import Dns, DnsFailure, is_ip
from calledind.sip.target import Transport
from calledind.sip.transactions import DEFAULT_PORT, SECURE_PORT

REST: Final = 30.0
"Seconds that a place which failed is left alone, where it doesn't say itself for how long."
LONGEST_REST: Final = 600.0
SERVICES: Final[Mapping[str, Transport]] = {"SIP+D2U": "udp", "SIP+D2T": "tcp", "SIPS+D2T": "tls"}
"NAPTR's names (RFC 3263 §4.1)."
_SRV_NAMES: Final[Mapping[Transport, str]] = {"udp": "_sip._udp", "tcp": "_sip._tcp", "tls": "_sips._tcp"}


@dataclass(frozen=True, slots=True)
class Place:
    """An address that takes calls."""

    host: str
    "Numeric."
    port: int
    transport: Transport


@dataclass(frozen=True, slots=True)
class Server:
    """One SRV record's places, or all of a name without SRV records."""

    places: tuple[Place, ...]
    weight: int = 0


Group = Sequence[Server]
"Servers of the same priority."


async def find(
    dns: Dns, host: str, port: int, transport: Transport | Literal["auto"], *, secure: bool = False
) -> list[Group]:
    """Return the places of a host or domain, in groups. `port` 0: DNS says it. Raises OSError.

    `secure`: nothing but TLS will do, which is what sips asks for (§4.1).
    """
    try:
        groups = await _find(dns, host, port, transport, "tls" if secure else "udp")
    except DnsFailure as error:
        raise OSError(str(error)) from None
    if not any(server.places for group in groups for server in group):
        raise OSError(f"{host}: DNS says that it takes no calls")
    return groups


async def _find(
    dns: Dns, host: str, port: int, transport: Transport | Literal["auto"], otherwise: Transport
) -> list[Group]:
    if is_ip(host) or port or dns.by_hand(host):
        by: Transport = otherwise if transport == "auto" else transport
        addresses = [host] if is_ip(host) else await dns.addresses(host)
        return [[_server(addresses, port or default_port(by), by)]]
    if transport == "auto":
        return await _by_naptr(dns, host, otherwise)
    return await _by_srv(dns, f"{_SRV_NAMES[transport]}.{host}", transport) or await _by_address(dns, host, transport)


async def _by_naptr(dns: Dns, host: str, otherwise: Transport) -> list[Group]:
    def serves(transport: Transport) -> bool:
        return otherwise in ("udp", transport)

    groups: list[Group] = []
    for record in await dns.naptr(host):
        transport = SERVICES.get(record.service)
        if record.flags == "S" and transport is not None and serves(transport):
            groups += await _by_srv(dns, record.replacement, transport)
    if groups:
        return groups
    for by, name in _SRV_NAMES.items():
        groups = await _by_srv(dns, f"{name}.{host}", by) if serves(by) else []
        if groups:
            return groups
    return await _by_address(dns, host, otherwise)


async def _by_srv(dns: Dns, name: str, transport: Transport) -> list[Group]:
    """Return a group for each priority; none where there are no such records."""
    groups: list[Group] = []
    for _, records in groupby(await dns.srv(name), key=lambda record: record.priority):
        # All at once: where names can't be found, that is waited for once.
        asked = [(record, Deferred.fromCoroutine(_addresses(dns, record.host))) for record in records]
        groups.append([_server(await each, record.port, transport, record.weight) for record, each in asked])
    return groups


async def _addresses(dns: Dns, host: str) -> Sequence[str]:
    """Return the addresses of a server; none is no failure, for the other servers are there for that."""
    try:
        return await dns.addresses(host) if host else []
    except DnsFailure:
        return []


async def _by_address(dns: Dns, host: str, transport: Transport) -> list[Group]:
    return [[_server(await dns.addresses(host), default_port(transport), transport)]]


def default_port(transport: Transport) -> int:
    """Return the port where nothing names one (RFC 3261 §19.1.2)."""
    return SECURE_PORT if transport == "tls" else DEFAULT_PORT


def _server(addresses: Sequence[str], port: int, transport: Transport, weight: int = 0) -> Server:
    return Server(tuple(Place(address, port, transport) for address in addresses), weight)


@dataclass(slots=True)
class _History:
    """Of one place."""

    rests_until: float = 0.0
    used: int = 0
    "Number of the choice that took it last."
    next_slot: float = 0.0


@dataclass(slots=True)
class Chooser:
    """Which place is asked now; remembers which of them failed and when each was used. One for each trunk."""

    seconds: Callable[[], float]
    draw: Callable[[float], float] = lambda total: random.uniform(0, total)  # noqa: S311 - spreads load
    _histories: dict[Place, _History] = field(default_factory=dict)
    _choices: int = 0

    def choose(
        self, groups: Sequence[Group], without: Collection[Place] = (), per_second: float = 0.0
    ) -> tuple[Place, float] | None:
        """Return a place and in how many seconds its turn is; None where none is left.

        `without`: places that were tried already. `per_second`: calls that one place takes, 0 any number.
        """
        self._forget(groups)
        now = self.seconds()
        resting: list[Place] = []
        for group in groups:
            servers = []
            for server in group:
                left = [place for place in server.places if place not in without]
                well = tuple(place for place in left if self._of(place).rests_until <= now)
                resting += [place for place in left if place not in well]
                if well:
                    servers.append(Server(well, server.weight))
            if servers:
                return self._take(self._of_group(servers, now), now, per_second)
        if resting:
            return self._take(min(resting, key=lambda place: self._of(place).rests_until), now, per_second)
        return None

    def is_well(self, groups: Sequence[Group], without: Collection[Place]) -> bool:
        """Whether there is a place that was not tried and need not rest."""
        now = self.seconds()
        every = (place for group in groups for server in group for place in server.places)
        return any(place not in without and self._of(place).rests_until <= now for place in every)

    def failed(self, place: Place, seconds: float | None = None) -> None:
        """Leave a place alone for a while."""
        rest = REST if seconds is None else min(seconds, LONGEST_REST)
        self._of(place).rests_until = self.seconds() + rest

    def works(self, place: Place) -> None:
        """A place that answers need not rest."""
        self._of(place).rests_until = 0.0

    def _of_group(self, servers: Sequence[Server], now: float) -> Place:
        # Who has a free moment goes first; with the rates used up, who has one soonest.
        free = [
            Server(places, server.weight)
            for server in servers
            if (places := tuple(place for place in server.places if self._of(place).next_slot <= now))
        ]
        if not free:
            every = (place for server in servers for place in server.places)
            return min(every, key=lambda place: self._of(place).next_slot)
        return min(self._by_weight(free).places, key=lambda place: self._of(place).used)

    def _by_weight(self, servers: Sequence[Server]) -> Server:
        # A weight of 0 has a small chance beside others (RFC 2782).
        weights = [server.weight or 0.01 for server in servers]
        if len(set(weights)) == 1:
            return min(servers, key=lambda server: min(self._of(place).used for place in server.places))
        point = self.draw(sum(weights))
        for server, weight in zip(servers, weights, strict=True):
            point -= weight
            if point <= 0:
                return server
        return servers[-1]

    def _take(self, place: Place, now: float, per_second: float) -> tuple[Place, float]:
        history = self._of(place)
        self._choices += 1
        history.used = self._choices
        turn = max(now, history.next_slot)
        if per_second > 0:
            history.next_slot = turn + 1 / per_second
        return place, turn - now

    def _of(self, place: Place) -> _History:
        return self._histories.setdefault(place, _History())

    def _forget(self, groups: Sequence[Group]) -> None:
        if len(self._histories) > 1000:
            known = {place for group in groups for server in group for place in server.places}
            self._histories = {place: history for place, history in self._histories.items() if place in known}
