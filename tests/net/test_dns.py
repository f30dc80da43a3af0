# mypy: allow-untyped-calls
"""Questions to name servers, answered by one of our own on the loopback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.task import deferLater
from twisted.names.error import ResolverError
from twisted.trial.unittest import TestCase

from calledind.net import dns as under_test
from calledind.net.dns import Dns, DnsFailure, Naptr, Srv, is_ip
from calledind.net.resolve import ResolveError
from tests.net.zone import Zone


class Elsewhere:
    """The machine's own resolver."""

    def __init__(self) -> None:
        self.known: dict[str, Sequence[str]] = {}

    def resolve(self, host: str) -> Deferred[Sequence[str]]:
        found = self.known.get(host)
        return fail(ResolveError("the name does not resolve")) if found is None else succeed(found)


class Ahead:
    """The reactor, with a clock that can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def seconds(self) -> float:
        return float(reactor.seconds()) + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class DnsTests(TestCase):
    def setUp(self) -> None:
        self.zone = Zone()
        self.server = self.zone.listen(reactor)
        self.addCleanup(self.zone.close)
        self.elsewhere = Elsewhere()
        self.reactor = Ahead()
        self.hosts = Path(self.mktemp())
        self.hosts.write_text("127.0.0.7 by-hand\n")
        self.dns = Dns(self.reactor, self.elsewhere, servers=[self.server], hosts_file=self.hosts)
        self.patch(under_test, "TRIES", (0.2,))

    def ask(self, question: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(question)

    async def test_records(self) -> None:
        """NAPTR and SRV come in their order, the names without their last dot."""
        self.zone.add("NAPTR", "example.com", 2, 1, b"s", b"SIP+D2U", b"", b"_sip._udp.example.com")
        self.zone.add("NAPTR", "example.com", 1, 9, b"S", b"sips+d2t", b"", b"_sips._tcp.example.com")
        self.assertEqual(
            list(await self.dns.naptr("Example.com.")),
            [
                Naptr(1, 9, "S", "SIPS+D2T", "_sips._tcp.example.com"),
                Naptr(2, 1, "S", "SIP+D2U", "_sip._udp.example.com"),
            ],
        )
        self.zone.add("SRV", "_sip._udp.example.com", 20, 1, 5062, b"b.example.com")
        self.zone.add("SRV", "_sip._udp.example.com", 10, 1, 5061, b"a.example.com")
        found = await self.dns.srv("_sip._udp.example.com")
        self.assertEqual(list(found), [Srv(10, 1, 5061, "a.example.com"), Srv(20, 1, 5062, "b.example.com")])

    async def test_addresses(self) -> None:
        """IPv4 and IPv6, by way of a CNAME too; what belongs to another name is not believed."""
        self.zone.add("A", "a.example.com", "192.0.2.1")
        self.zone.add("AAAA", "a.example.com", "2001:db8::1")
        self.zone.add("CNAME", "alias.example.com", b"a.example.com")
        for name in ("a.example.com", "alias.example.com"):
            self.assertEqual(await self.dns.addresses(name), ["192.0.2.1", "2001:db8::1"])

    async def test_kept_as_long_as_it_says(self) -> None:
        """The servers are asked again when the time to live is over, also for what is not there."""
        self.zone.add("A", "a.example.com", "192.0.2.1", ttl=60)
        self.zone.add("A", "a.example.com", "192.0.2.2", ttl=20)
        for _ in range(3):
            await self.dns.addresses("a.example.com")
        self.assertEqual(self.zone.asked, ["A a.example.com", "AAAA a.example.com"])
        self.reactor.ahead = 21
        await self.dns.addresses("A.example.com")
        self.assertEqual(self.zone.asked[2:], ["A a.example.com"])
        self.reactor.ahead = 31
        await self.dns.addresses("a.example.com")
        self.assertEqual(self.zone.asked[3:], ["AAAA a.example.com"])

    async def test_asked_once(self) -> None:
        """Who asks while the same is being asked waits for that answer."""
        self.zone.add("SRV", "_sip._udp.example.com", 10, 1, 5061, b"a")
        found = await gatherResults([self.ask(self.dns.srv("_sip._udp.example.com")) for _ in range(5)])
        self.assertEqual((len(found), {len(each) for each in found}, len(self.zone.asked)), (5, {1}, 1))

    async def test_silence(self) -> None:
        """When nobody answers, what was known is used on, and where nothing was known that is a failure."""
        self.zone.add("SRV", "_sip._udp.example.com", 10, 1, 5061, b"a", ttl=1)
        await self.dns.srv("_sip._udp.example.com")
        self.reactor.ahead = 100
        self.zone.silent = True
        self.assertEqual(await self.dns.srv("_sip._udp.example.com"), [Srv(10, 1, 5061, "a")])
        with self.assertRaises(DnsFailure):
            await self.dns.srv("_sip._udp.example.net")
        self.zone.silent, self.zone.failing = False, True
        self.assertEqual(await self.dns.srv("_sip._udp.example.com"), [Srv(10, 1, 5061, "a")])
        self.flushLoggedErrors(ResolverError)

    async def test_silence_is_waited_for_once(self) -> None:
        """Who uses on what was known does not ask again at once, nor one kind of address after the other."""
        self.zone.add("A", "a.example.com", "192.0.2.1", ttl=1)
        await self.dns.addresses("a.example.com")
        self.reactor.ahead = 100
        self.zone.silent = True
        asked = self.ask(self.dns.addresses("a.example.com"))
        self.assertEqual(await asked, ["192.0.2.1"])
        self.assertEqual(self.zone.asked[2:], ["A a.example.com", "AAAA a.example.com"])
        self.assertEqual(await self.dns.addresses("a.example.com"), ["192.0.2.1"])
        self.assertEqual(len(self.zone.asked), 4)
        self.reactor.ahead += 11
        self.zone.silent = False
        await self.dns.addresses("a.example.com")
        self.assertEqual(len(self.zone.asked), 6)

    async def test_both_kinds_at_once(self) -> None:
        """The second question leaves before the first is answered."""
        self.zone.silent = True
        asked = self.ask(self.dns.addresses("a.example.com"))
        await deferLater(reactor, 0.1)
        self.assertEqual(self.zone.asked, ["A a.example.com", "AAAA a.example.com"])
        with self.assertRaises(DnsFailure):
            await asked

    async def test_aliases(self) -> None:
        """They are followed in whatever order they come, and one that leads back to itself leads nowhere."""
        self.zone.backwards = True
        self.zone.add("CNAME", "a.example.com", b"B.example.com", ttl=7)
        self.zone.add("CNAME", "b.example.com", b"c.example.com")
        self.zone.add("A", "c.example.com", "192.0.2.1")
        self.assertEqual(await self.dns.addresses("A.example.com"), ["192.0.2.1"])
        self.reactor.ahead = 8
        await self.dns.addresses("a.example.com")
        self.assertEqual(self.zone.asked.count("A a.example.com"), 2)
        self.zone.add("CNAME", "x.example.com", b"x.example.com")
        with self.assertRaises(DnsFailure):
            await self.dns.addresses("x.example.com")

    async def test_many_records(self) -> None:
        """Of a long answer as many are used as anybody needs, the first of them."""
        for number in range(100, 0, -1):
            self.zone.add("SRV", "_sip._tcp.example.com", number, 1, 5060, b"a")
            self.zone.add("NAPTR", "example.com", number, 1, b"s", b"SIP+D2U", b"", b"x")
        self.patch(under_test, "TRIES", (2,))
        self.assertEqual([each.priority for each in await self.dns.srv("_sip._tcp.example.com")], list(range(1, 33)))
        self.assertEqual([each.order for each in await self.dns.naptr("example.com")], list(range(1, 33)))

    async def test_elsewhere(self) -> None:
        """What DNS doesn't know is asked of the machine's resolver, and kept for a moment."""
        self.elsewhere.known["pbx"] = ["127.0.0.9"]
        self.assertEqual(await self.dns.addresses("pbx"), ("127.0.0.9",))
        del self.elsewhere.known["pbx"]
        self.assertEqual(await self.dns.addresses("pbx"), ("127.0.0.9",))
        self.reactor.ahead = 100
        self.assertEqual(await self.dns.addresses("pbx"), ("127.0.0.9",))
        with self.assertRaises(DnsFailure):
            await self.dns.addresses("nobody")

    async def test_by_hand(self) -> None:
        """/etc/hosts goes before DNS."""
        self.zone.add("A", "by-hand", "192.0.2.1")
        self.assertEqual(await self.dns.addresses("by-hand"), ["127.0.0.7"])
        self.assertEqual(self.zone.asked, [])

    async def test_impossible_names(self) -> None:
        """What can't be a name is a failure like others."""
        for name in ("a..b", "x" * 70):
            with self.assertRaises(DnsFailure):
                await self.dns.addresses(name)

    async def test_bounded(self) -> None:
        """Only so many answers are kept."""
        self.patch(under_test, "LARGEST_CACHE", 3)
        for number in range(6):
            await self.dns.srv(f"n{number}.example.com")
        self.assertEqual(len(self.dns._known), 3)

    def test_servers_of_the_machine(self) -> None:
        """They are those of resolv.conf, read anew each time; without any, this machine is asked."""
        path = Path(self.mktemp())
        dns = Dns(reactor, self.elsewhere, resolv_conf=path)
        self.assertEqual(dns._of_the_machine(), [("127.0.0.1", 53)])
        path.write_text(
            "search example.com\nnameserver 192.0.2.53\nnameserver\nnameserver fe80::1%eth0\n# nameserver x\n"
        )
        self.assertEqual(dns._of_the_machine()[0], ("192.0.2.53", 53))
        self.assertTrue(is_ip("::1") and not is_ip("a"))
