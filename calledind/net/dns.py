# mypy: allow-untyped-calls
"""DNS records with their times to live: NAPTR, SRV and addresses (RFC 1035, 2782, 3403), kept as long as they say.

Questions go to the name servers of /etc/resolv.conf, or those of the settings, by `twisted.names`. What is in
/etc/hosts goes before DNS, and a name whose addresses DNS doesn't know is asked of the machine's own resolver at
last, which knows more than DNS. When no server answers, what was known before is used on, and they are left alone for
some seconds, so that not every call waits for them.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.names import dns, hosts
from twisted.names.client import Resolver as Client
from twisted.names.error import DNSNameError, DNSQueryTimeoutError, DomainError, ResolverError
from twisted.python.filepath import FilePath

from calledind.model import Address
from calledind.net.resolve import ResolveError, Resolver

TRIES = (1, 2)
"Seconds that each server has to answer, try by try."
DEADLINE = 5.0
"Seconds for one question, all servers and tries."
SHORTEST = 1.0
LONGEST = 3600.0
"Bounds of a time to live, in seconds."
NOT_THERE = 30.0
"Seconds for which it is remembered that a name has no such record."
UNANSWERED = 10.0
"Seconds for which what was known is used on before the servers are asked again."
MOST_RECORDS = 32
"Of one answer, that are used: each may cost further questions."
OUTSIDE_OF_DNS = 10.0
"Seconds for which an address is used that came without a time to live."
LARGEST_CACHE = 2000
"Questions."


class DnsFailure(Exception):
    """No answer, which is another thing than the answer that there is nothing."""


@dataclass(frozen=True, slots=True)
class Naptr:
    """One way to go on from a domain (RFC 3403 §4.1)."""

    order: int
    preference: int
    flags: str
    service: str
    'In upper case, such as "SIPS+D2T".'
    replacement: str


@dataclass(frozen=True, slots=True)
class Srv:
    """One server of a service (RFC 2782)."""

    priority: int
    weight: int
    port: int
    host: str
    'Without the last dot; empty where the service is "decidedly not available".'


@dataclass(slots=True)
class _Known:
    until: float
    records: Sequence[Any]


class Dns:
    """Asks, and remembers. `servers` are those to ask; empty: the machine's."""

    def __init__(
        self,
        reactor: Any,
        fallback: Resolver,
        *,
        servers: Sequence[Address] = (),
        hosts_file: Path = Path("/etc/hosts"),
        resolv_conf: Path = Path("/etc/resolv.conf"),
    ) -> None:
        self._reactor = reactor
        self._fallback = fallback
        self._servers = tuple(servers)
        self._hosts_file = hosts_file
        self._resolv_conf = resolv_conf
        self._known: OrderedDict[tuple[str, int], _Known] = OrderedDict()
        self._asked: dict[tuple[str, int], list[Deferred[None]]] = {}

    async def naptr(self, name: str) -> Sequence[Naptr]:
        """Return the NAPTR records of a domain, in the order in which to take them. Raises DnsFailure."""
        found = await self._ask(name, dns.NAPTR, _naptr)
        return sorted(found, key=lambda record: (record.order, record.preference))[:MOST_RECORDS]

    async def srv(self, name: str) -> Sequence[Srv]:
        """Return the SRV records of a service, the lowest priority first. Raises DnsFailure."""
        return sorted(await self._ask(name, dns.SRV, _srv), key=lambda record: record.priority)[:MOST_RECORDS]

    def by_hand(self, name: str) -> Sequence[str]:
        """Return the addresses that /etc/hosts has for a name, which DNS is not asked for then. Raises DnsFailure."""
        return [str(each) for each in hosts.searchFileForAll(FilePath(str(self._hosts_file)), _wire(name))]

    async def addresses(self, name: str) -> Sequence[str]:
        """Return the addresses of a host, IPv4 first, at least one. Raises DnsFailure."""
        by_hand = self.by_hand(name)
        if by_hand:
            return by_hand
        found: list[str] = []
        # Both at once: a server that is silent is waited for once.
        for asked in [Deferred.fromCoroutine(self._ask(name, kind, _address)) for kind in (dns.A, dns.AAAA)]:
            try:
                found += (await asked)[:MOST_RECORDS]
            except DnsFailure:
                continue  # the other kind, or the machine's resolver, may do
        return found or await self._elsewhere(name)

    async def _elsewhere(self, name: str) -> Sequence[str]:
        key = name.lower(), 0
        known = self._known.get(key)
        if known is not None and known.until > self._reactor.seconds():
            return known.records
        try:
            found = tuple(await self._fallback.resolve(name))
        except ResolveError as error:
            if known is not None:
                return known.records
            raise DnsFailure(f"{name}: {error}") from None
        self._keep(key, found, OUTSIDE_OF_DNS)
        return found

    async def _ask(self, name: str, kind: int, read: Callable[[Any], Any]) -> Sequence[Any]:
        key = name.lower().rstrip("."), kind
        known = self._known.get(key)
        if known is not None and known.until > self._reactor.seconds():
            return known.records
        if key in self._asked:
            # Somebody else has asked; what comes of it is in the cache, or was no answer.
            turn: Deferred[None] = Deferred()
            self._asked[key].append(turn)
            await turn
        else:
            self._asked[key] = []
            try:
                await self._ask_servers(key, read)
            finally:
                for waiting in self._asked.pop(key):
                    waiting.callback(None)
        known = self._known.get(key)
        if known is None:
            raise DnsFailure(f"{name}: no name server answers")
        return known.records

    async def _ask_servers(self, key: tuple[str, int], read: Callable[[Any], Any]) -> None:
        name, kind = key
        client = Client(servers=list(self._servers or self._of_the_machine()), timeout=TRIES, reactor=self._reactor)
        asked: Deferred[Any] = client.query(dns.Query(_wire(name), kind, dns.IN))
        try:
            answers, _, _ = await asked.addTimeout(DEADLINE, self._reactor)
        except DNSNameError:
            answers = []
        except (DNSQueryTimeoutError, DomainError, ResolverError, TimedOut, OSError):
            known = self._known.get(key)
            if known is not None:
                known.until = self._reactor.seconds() + UNANSWERED
            return
        aliases = {_text(answer.name).lower(): answer for answer in answers if answer.type == dns.CNAME}
        times, records = [LONGEST], []
        while name in aliases:  # each once, in whatever order they came
            alias = aliases.pop(name)
            times.append(alias.ttl)
            name = _text(alias.payload.name).lower()
        for answer in answers:
            if _text(answer.name).lower() == name and answer.type == kind:
                records.append(read(answer.payload))
                times.append(answer.ttl)
        self._keep(key, tuple(records), max(SHORTEST, min(times)) if records else NOT_THERE)

    def _keep(self, key: tuple[str, int], records: Sequence[Any], seconds: float) -> None:
        self._known[key] = _Known(self._reactor.seconds() + seconds, records)
        self._known.move_to_end(key)
        if len(self._known) > LARGEST_CACHE:
            self._known.popitem(last=False)

    def _of_the_machine(self) -> Sequence[Address]:
        try:
            text = self._resolv_conf.read_text()
        except (OSError, UnicodeDecodeError):
            text = ""
        found = [
            line.split()[1] for line in text.splitlines() if line.startswith("nameserver") and len(line.split()) > 1
        ]
        return [(server, 53) for server in found if is_ip(server)] or [("127.0.0.1", 53)]


def is_ip(host: str) -> bool:
    """Whether this is a numeric address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _wire(name: str) -> bytes:
    try:
        return name.encode("idna")
    except UnicodeError:
        raise DnsFailure(f"{name}: is not a name") from None


def _text(name: Any) -> str:
    return str(name).rstrip(".")


def _naptr(payload: Any) -> Naptr:
    flags, service = (bytes(each.string).decode("latin-1").upper() for each in (payload.flags, payload.service))
    return Naptr(payload.order, payload.preference, flags, service, _text(payload.replacement))


def _srv(payload: Any) -> Srv:
    return Srv(payload.priority, payload.weight, payload.port, _text(payload.target))


def _address(payload: Any) -> str:
    return str(payload.dottedQuad() if payload.TYPE == dns.A else ipaddress.ip_address(payload.address))
