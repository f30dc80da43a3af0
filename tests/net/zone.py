# mypy: allow-untyped-calls
"""A name server of our own on the loopback, with the records of a test."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.names import dns
from twisted.names.error import DNSNameError, ResolverError
from twisted.names.server import DNSServerFactory

from calledind.model import Address

KINDS = {"A": dns.A, "AAAA": dns.AAAA, "SRV": dns.SRV, "NAPTR": dns.NAPTR, "CNAME": dns.CNAME}


class Zone:
    """Answers by UDP. `add("SRV", "_sip._udp.example.com", 1, 10, 5060, "a.example.com")`: what the record holds."""

    def __init__(self) -> None:
        self.records: dict[str, list[tuple[int, Any]]] = {}
        self.asked: list[str] = []
        "Kind and name of each question."
        self.silent = False
        "Nobody is answered."
        self.failing = False
        self.backwards = False
        "The last record comes first."
        self._port: Any = None

    def add(self, kind: str, name: str, *content: Any, ttl: int = 60) -> None:
        record = getattr(dns, f"Record_{kind}")(*content, ttl=ttl)
        self.records.setdefault(name.lower(), []).append((KINDS[kind], record))

    def listen(self, reactor: Any) -> Address:
        factory = DNSServerFactory(clients=[self])
        protocol = dns.DNSDatagramProtocol(factory, reactor=reactor)
        self._port = reactor.listenUDP(0, protocol, interface="127.0.0.1")
        return "127.0.0.1", int(self._port.getHost().port)

    def close(self) -> Any:
        return self._port.stopListening()

    def query(self, query: dns.Query, timeout: Any = None) -> Deferred[Any]:
        name = str(query.name).lower().rstrip(".")
        kind = next((text for text, number in KINDS.items() if number == query.type), str(query.type))
        self.asked.append(f"{kind} {name}")
        if self.silent:
            return Deferred()
        if self.failing:
            return fail(ResolverError("SERVFAIL"))
        if name not in self.records:
            return fail(DNSNameError(dns.Message(rCode=dns.ENAME)))
        answers = []
        while name:
            found = self.records.get(name, [])
            answers += [_answer(name, each, record) for each, record in found if each in (query.type, dns.CNAME)]
            aliases = [record for each, record in found if each == dns.CNAME]
            name = str(aliases[0].name).lower() if aliases and len(answers) < 9 else ""
        return succeed((answers[::-1] if self.backwards else answers, [], []))


def _answer(name: str, kind: int, record: Any) -> dns.RRHeader:
    return dns.RRHeader(name.encode(), kind, dns.IN, record.ttl, record, auth=True)
