# mypy: allow-untyped-calls
"""From a domain to the address that is asked now (RFC 3263, RFC 2782)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.net.dns import Dns, DnsFailure, Naptr, Srv
from calledind.net.next_hop import REST, Chooser, Group, Place, Server, find
from calledind.sip.target import Transport

A = Place("192.0.2.1", 5060, "udp")
B = Place("192.0.2.2", 5060, "udp")
C = Place("192.0.2.3", 5060, "udp")


class Table:
    """A zone, as `Dns` would give it."""

    def __init__(self, **records: Any) -> None:
        self.records = {name.replace("__", "."): found for name, found in records.items()}
        self.asked: list[str] = []

    def _find(self, kind: str, name: str) -> Any:
        self.asked.append(f"{kind} {name}")
        found = self.records.get(f"{kind} {name}", ())
        if isinstance(found, Exception):
            raise found
        return found

    def by_hand(self, name: str) -> Sequence[str]:
        return cast(Sequence[str], self.records.get(f"hosts {name}", ()))

    async def naptr(self, name: str) -> Sequence[Naptr]:
        return cast(Sequence[Naptr], self._find("NAPTR", name))

    async def srv(self, name: str) -> Sequence[Srv]:
        return cast(Sequence[Srv], self._find("SRV", name))

    async def addresses(self, name: str) -> Sequence[str]:
        found = self._find("A", name)
        if not found:
            raise DnsFailure(f"{name}: the name does not resolve")
        return cast(Sequence[str], found)


class FindTests(SynchronousTestCase):
    def find(
        self, zone: dict[str, Any], host: str, port: int = 0, transport: Any = "udp", **how: Any
    ) -> list[list[str]]:
        """Give each group's places as "transport host:port", in words that are easy to compare."""
        table = Table()
        table.records = zone
        self.table = table
        found: list[Group] = self.successResultOf(
            Deferred.fromCoroutine(find(cast(Dns, table), host, port, transport, **how))
        )
        return [
            [f"{place.transport} {place.host}:{place.port}" for server in group for place in server.places]
            for group in found
        ]

    def fails(self, zone: dict[str, Any], host: str, transport: Any = "udp") -> str:
        table = Table()
        table.records = zone
        failure = self.failureResultOf(Deferred.fromCoroutine(find(cast(Dns, table), host, 0, transport)), OSError)
        return str(failure.value)

    def test_addresses_ask_nobody(self) -> None:
        """An IP address is its own place, at the default port of the transport."""
        for transport, expected in (
            ("udp", "udp 192.0.2.1:5060"),
            ("tls", "tls 192.0.2.1:5061"),
            ("auto", "udp 192.0.2.1:5060"),
        ):
            self.assertEqual(self.find({}, "192.0.2.1", transport=transport), [[expected]])
        self.assertEqual(self.find({}, "::1", 5070, "tcp"), [["tcp ::1:5070"]])
        self.assertEqual(self.table.asked, [])

    def test_a_port_asks_for_addresses_alone(self) -> None:
        """Where a port is named there is no SRV (RFC 3263 §4.2)."""
        zone = {"A pbx.example": ["192.0.2.1", "192.0.2.2"], "SRV _sip._udp.pbx.example": [Srv(1, 1, 9, "x")]}
        self.assertEqual(self.find(zone, "pbx.example", 5080), [["udp 192.0.2.1:5080", "udp 192.0.2.2:5080"]])
        self.assertEqual(self.table.asked, ["A pbx.example"])

    def test_sips(self) -> None:
        """Where nothing but TLS will do, DNS is asked for nothing else, and what else it says is passed over."""
        zone = {
            "NAPTR example.com": [
                Naptr(1, 1, "S", "SIP+D2U", "_sip._udp.example.com"),
                Naptr(2, 1, "S", "SIPS+D2T", "_x._tcp.example.com"),
            ],
            "SRV _sip._udp.example.com": [Srv(1, 1, 5060, "a.example")],
            "SRV _x._tcp.example.com": [Srv(1, 1, 5071, "a.example")],
            "A a.example": ["192.0.2.1"],
            "A example.com": ["192.0.2.2"],
        }
        self.assertEqual(self.find(zone, "example.com", 0, "auto", secure=True), [["tls 192.0.2.1:5071"]])
        self.assertEqual(self.find(zone, "example.com", 5080, "auto", secure=True), [["tls 192.0.2.2:5080"]])
        del zone["NAPTR example.com"]
        self.assertEqual(self.find(zone, "example.com", 0, "auto", secure=True), [["tls 192.0.2.2:5061"]])
        self.assertNotIn("SRV _sip._udp.example.com", self.table.asked)

    def test_hosts_file(self) -> None:
        """What stands in /etc/hosts is not looked for in DNS."""
        zone = {"hosts pbx": ["192.0.2.1"], "A pbx": ["192.0.2.1"]}
        self.assertEqual(self.find(zone, "pbx", transport="auto"), [["udp 192.0.2.1:5060"]])
        self.assertEqual(self.table.asked, ["A pbx"])

    def test_srv(self) -> None:
        """The service of the transport is asked for; each priority is a group, a server without address none's loss."""
        names: dict[Transport, str] = {"udp": "_sip._udp", "tcp": "_sip._tcp", "tls": "_sips._tcp"}
        for transport, name in names.items():
            zone = {
                f"SRV {name}.example.com": [Srv(1, 5, 5070, "a"), Srv(1, 5, 5071, "gone"), Srv(2, 0, 5072, "b")],
                "A a": ["192.0.2.1", "2001:db8::1"],
                "A b": ["192.0.2.2"],
            }
            self.assertEqual(
                self.find(zone, "example.com", transport=transport),
                [[f"{transport} 192.0.2.1:5070", f"{transport} 2001:db8::1:5070"], [f"{transport} 192.0.2.2:5072"]],
            )

    def test_no_srv(self) -> None:
        """Without SRV records the domain's own addresses are it."""
        self.assertEqual(self.find({"A pbx": ["192.0.2.1"]}, "pbx", transport="tls"), [["tls 192.0.2.1:5061"]])

    def test_naptr(self) -> None:
        """NAPTR says which transports there are, the best first; what we can't use is passed over."""
        zone = {
            "NAPTR example.com": [
                Naptr(1, 1, "S", "SIPS+D2T", "_sips._tcp.example.com"),
                Naptr(2, 1, "S", "SIP+D2S", "_sip._sctp.example.com"),
                Naptr(2, 2, "U", "SIP+D2U", "x"),
                Naptr(3, 1, "S", "SIP+D2U", "_sip._udp.example.com"),
            ],
            "SRV _sips._tcp.example.com": [Srv(1, 1, 5061, "a")],
            "SRV _sip._udp.example.com": [Srv(1, 1, 5060, "b")],
            "A a": ["192.0.2.1"],
            "A b": ["192.0.2.2"],
        }
        self.assertEqual(
            self.find(zone, "example.com", transport="auto"), [["tls 192.0.2.1:5061"], ["udp 192.0.2.2:5060"]]
        )
        del zone["NAPTR example.com"], zone["SRV _sips._tcp.example.com"]
        self.assertEqual(self.find(zone, "example.com", transport="auto"), [["udp 192.0.2.2:5060"]])
        self.assertEqual(
            self.find({"A example.com": ["192.0.2.3"]}, "example.com", transport="auto"), [["udp 192.0.2.3:5060"]]
        )

    def test_nothing(self) -> None:
        """A name without addresses, a service that is "decidedly not available" and silent servers are OSErrors."""
        self.assertIn("does not resolve", self.fails({}, "pbx"))
        self.assertIn("takes no calls", self.fails({"SRV _sip._udp.pbx": [Srv(0, 0, 0, "")]}, "pbx"))
        self.assertIn("no answer", self.fails({"SRV _sip._udp.pbx": DnsFailure("no answer")}, "pbx"))


class ChooserTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.chooser = Chooser(self.clock.seconds, draw=lambda total: 0.0)

    def choose(self, groups: Sequence[Group], without: Sequence[Place] = (), per_second: float = 0.0) -> Place | None:
        chosen = self.chooser.choose(groups, without, per_second)
        return None if chosen is None else chosen[0]

    def test_spread(self) -> None:
        """Calls go to all of a name's addresses in turn."""
        groups = [[Server((A, B, C))]]
        self.assertEqual([self.choose(groups) for _ in range(6)], [A, B, C, A, B, C])

    def test_equal_servers(self) -> None:
        """So they do where each address is an SRV record of its own, of the same weight."""
        groups = [[Server((A,), 10), Server((B,), 10), Server((C,), 10)]]
        self.assertEqual([self.choose(groups) for _ in range(6)], [A, B, C, A, B, C])

    def test_weights(self) -> None:
        """Servers of one priority get calls by their weights, one of weight 0 hardly any."""
        draws = iter([0.5, 20.5, 60.5, 80.01, 81.0])
        chooser = Chooser(self.clock.seconds, draw=lambda total: next(draws))
        groups = [[Server((A,), 20), Server((B,), 60), Server((C,), 0)]]
        chosen = [chooser.choose(groups) for _ in range(5)]
        self.assertEqual([each[0] for each in chosen if each], [A, B, B, C, C])
        real = Chooser(self.clock.seconds)
        counts = Counter(found[0] for _ in range(2000) if (found := real.choose(groups)))
        self.assertTrue(0.15 < counts[A] / 2000 < 0.35 and counts[C] < 20, counts)

    def test_priorities(self) -> None:
        """The next group is asked when all of the first were tried."""
        groups = [[Server((A, B))], [Server((C,))]]
        self.assertEqual(self.choose(groups, [A]), B)
        self.assertEqual(self.choose(groups, [A, B]), C)
        self.assertIsNone(self.choose(groups, [A, B, C]))

    def test_rest(self) -> None:
        """Who failed is left alone, comes back after a while or an answer, and is asked as the last hope."""
        groups = [[Server((A,))], [Server((B,))]]
        self.chooser.failed(A)
        self.assertEqual(self.choose(groups), B)
        self.assertEqual(self.choose(groups, [B]), A)
        self.assertFalse(self.chooser.is_well(groups, [B]))
        self.clock.advance(REST)
        self.assertEqual(self.choose(groups), A)
        self.assertTrue(self.chooser.is_well(groups, [B]))
        self.chooser.failed(A, 5)
        self.clock.advance(5)
        self.assertEqual(self.choose(groups), A)
        self.chooser.failed(A, 10**9)
        self.chooser.works(A)
        self.assertEqual(self.choose(groups), A)
        self.chooser.failed(A, 10**9)
        self.clock.advance(600)
        self.assertEqual(self.choose(groups), A)

    def test_rate(self) -> None:
        """Each address takes so many calls a second; the call beyond them waits for the first free moment."""
        groups = [[Server((A, B))]]
        chosen = [self.chooser.choose(groups, (), 2.0) for _ in range(5)]
        self.assertEqual(chosen, [(A, 0), (B, 0), (A, 0.5), (B, 0.5), (A, 1.0)])
        self.clock.advance(2)
        self.assertEqual(self.chooser.choose(groups, (), 2.0), (B, 0))

    def test_memory_is_bounded(self) -> None:
        """Addresses that a name had once are forgotten."""
        for number in range(1500):
            place = Place(f"192.0.{number // 250}.{number % 250}", 5060, "udp")
            self.assertEqual(self.choose([[Server((place,))]]), place)
        self.assertLess(len(self.chooser._histories), 1002)
