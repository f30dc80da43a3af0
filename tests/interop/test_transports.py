"""Calls over TCP and TLS to programs that we did not write."""

from __future__ import annotations

from tests.interop import scenarios as sc
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import Daemon, Sipp, free_udp_port, need, sipp
from tests.interop.name_server import name_server
from tests.interop.test_baresip import Baresip
from tests.net.certificates import Authority


class TcpTests(InteropCase):
    """SIPp as a carrier that speaks TCP."""

    def setUp(self) -> None:
        need("sipp")
        super().setUp()

    def expect(
        self,
        scenario: str,
        answered: str,
        reason: str,
        *arguments: str,
        more: str = 'transport = "tcp"',
        sip: str = "",
    ) -> tuple[Daemon, Sipp]:
        """Call; the customer is told this outcome, and SIPp saw what its scenario says."""
        carrier = self.world.enter_context(sipp(self.folder / "sipp", scenario, "-t", "t1", *arguments))
        daemon = self.run_daemon(settings(trunk(carrier.port, more=more), sip=sip))
        told = self.call(daemon)
        self.assertEqual(self.outcome(told), (answered, reason), daemon.log.read_text()[-2000:] + carrier.messages())
        self.assertEqual(carrier.wait(), 0, carrier.explain())
        return daemon, carrier

    def test_answered(self) -> None:
        """A call over TCP: Via and Contact say so, no message is sent twice, and the BYE uses the same connection."""
        _, carrier = self.expect(sc.scenario(sc.ANSWER, sc.GOODBYE), "1", "", "-key", "rtp", "40000")
        messages = carrier.messages()
        self.assertIn("Via: SIP/2.0/TCP 127.0.0.1:", messages)
        self.assertIn(";transport=tcp>", messages)
        self.assertEqual([messages.count(f"\n{method} sip:") for method in ("INVITE", "ACK", "BYE")], [1, 1, 1])

    def test_busy(self) -> None:
        """A refusal is acknowledged and told."""
        self.expect(sc.refuse("486 Busy Here", ringing=True), "0", "5")

    def test_peer_hangs_up(self) -> None:
        """The callee's BYE comes on the connection that we opened."""
        self.expect(
            sc.scenario(
                sc.receive("INVITE", inner=sc.KEEP_DIALOG),
                sc.RINGING,
                sc.OK,
                sc.receive("ACK"),
                sc.pause(1000),
                sc.request("BYE"),
                sc.expect(200),
                sc.REFERENCE,
            ),
            "1",
            "",
            "-key",
            "rtp",
            "40000",
        )

    def test_ring_timeout(self) -> None:
        """The CANCEL goes over the connection of its INVITE."""
        self.expect(
            sc.scenario(
                sc.receive("INVITE"),
                sc.RINGING,
                sc.receive("CANCEL", extra='timeout="10000"'),
                sc.send("200 OK", sc.IN_DIALOG),
                sc.send("487 Request Terminated", sc.ECHO_INVITE),
                sc.receive("ACK"),
            ),
            "0",
            "3",
        )

    def test_nobody_listens(self) -> None:
        """A refused connection ends the call as failed, at once."""
        daemon = self.run_daemon(settings(trunk(free_udp_port(), more='transport = "tcp"')))
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "0"))

    def test_large(self) -> None:
        """An INVITE of more than 1,300 octets goes by TCP where the trunk allows it, and the CANCEL after it."""
        self.expect(
            sc.scenario(
                sc.receive("INVITE"),
                sc.RINGING,
                sc.receive("CANCEL", extra='timeout="10000"'),
                sc.send("200 OK", sc.IN_DIALOG),
                sc.send("487 Request Terminated", sc.ECHO_INVITE),
                sc.receive("ACK"),
            ),
            "0",
            "3",
            more="large_by_tcp = true",
            sip=f'user_agent = "{"calledin " * 100}"',
        )


class TlsTests(InteropCase):
    """baresip as a carrier that speaks TLS."""

    def start(self, name: str, *, sips: bool = False) -> tuple[Daemon, Baresip]:
        """`name`: that the certificate is for."""
        authority = Authority(self.folder / "certificates")
        certificate, key = authority.issue(name)
        both = self.folder / "certificates" / "both.pem"
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        callee = Baresip(self.folder / "baresip", more=f"sip_certificate {both}\n")
        self.world.callback(callee.close)
        callee.wait("baresip is ready")
        more = f'transport = "tls"\nsips = {str(sips).lower()}\ntls_ca = "{authority.certificate}"'
        return self.run_daemon(settings(trunk(callee.port + 1, more=more))), callee

    def test_answered(self) -> None:
        """A call over TLS whose certificate names the trunk is answered, heard and ended."""
        daemon, callee = self.start("127.0.0.1")
        told = self.call(daemon)
        self.assertEqual(self.outcome(told), ("1", ""), daemon.log.read_text()[-2000:] + callee.said())
        trace = daemon.admin("GET", f"/trace/{told.headers['webhook-id']}")
        invite = next(each["text"] for each in trace if each["text"].startswith("INVITE"))
        self.assertIn("Via: SIP/2.0/TLS", invite)
        self.assertIn(";transport=tls>", invite)

    def test_sips(self) -> None:
        """With sips, every URI of ours is one."""
        daemon, callee = self.start("127.0.0.1", sips=True)
        told = self.call(daemon)
        self.assertEqual(self.outcome(told), ("1", ""), daemon.log.read_text()[-2000:] + callee.said())
        trace = daemon.admin("GET", f"/trace/{told.headers['webhook-id']}")
        invite = next(each["text"] for each in trace if each["text"].startswith("INVITE"))
        self.assertTrue(invite.startswith("INVITE sips:"), invite)
        self.assertIn("Contact: <sips:", invite)

    def test_somebody_else(self) -> None:
        """A certificate for another name ends the call as failed, and nothing was said."""
        daemon, callee = self.start("192.0.2.1")
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "0"))
        self.assertIn("not one for this name", daemon.log.read_text())
        self.assertNotIn("INVITE", callee.said())


class NextHopTests(InteropCase):
    """Two SIPps behind a domain of a name server's."""

    def setUp(self) -> None:
        need("sipp")
        super().setUp()

    def start(self, first: str, second: str, *arguments: str, transport: str = "udp") -> tuple[Daemon, Sipp, Sipp]:
        """The domain's SRV records name `first` before `second`."""
        over = ["-t", "t1"] if transport == "tcp" else []
        carriers = [
            self.world.enter_context(sipp(self.folder / name, scenario, *over, *arguments))
            for name, scenario in (("first", first), ("second", second))
        ]
        service = f"_sip._{transport}.carrier.example"
        records: list[list[object]] = [
            ["NAPTR", "carrier.example", 1, 1, "s", f"SIP+D2{transport[0].upper()}", "", service]
        ]
        records += [["SRV", service, number, 1, each.port, "a.carrier.example"] for number, each in enumerate(carriers)]
        server = self.world.enter_context(name_server([*records, ["A", "a.carrier.example", "127.0.0.1"]]))
        more = '[[trunks]]\nname = "domain"\nhost = "carrier.example"\ntransport = "auto"\n'
        return self.run_daemon(settings(more, sip=f'dns_servers = ["{server}"]')), carriers[0], carriers[1]

    def test_overloaded(self) -> None:
        """After a 503 the call goes to the domain's next server; NAPTR and SRV led to both."""
        daemon, first, second = self.start(
            sc.refuse("503 Service Unavailable"), sc.scenario(sc.ANSWER, sc.GOODBYE), "-key", "rtp", "40000"
        )
        told = self.call(daemon)
        self.assertEqual(self.outcome(told), ("1", ""), daemon.log.read_text()[-3000:])
        self.assertEqual((first.wait(), second.wait()), (0, 0), first.explain() + second.explain())
        call_id = told.headers["webhook-id"]
        self.assertIn(f"Call-ID: {call_id}-1", first.messages())
        self.assertIn(f"Call-ID: {call_id}-2", second.messages())
        self.assertIn("INVITE sip:+12125550100@carrier.example SIP/2.0", second.messages())

    def test_spread(self) -> None:
        """Calls go to all addresses of a name in turn."""
        carriers: list[Sipp] = []
        for address in ("127.0.0.2", "127.0.0.3"):
            port = carriers[0].port if carriers else free_udp_port()
            folder, busy = self.folder / address, sc.refuse("486 Busy Here")
            carriers.append(self.world.enter_context(sipp(folder, busy, calls=2, port=port, address=address)))
        records = [["A", "a.carrier.example", address] for address in ("127.0.0.2", "127.0.0.3")]
        server = self.world.enter_context(name_server(records))
        more = trunk(carriers[0].port, host="a.carrier.example")
        daemon = self.run_daemon(settings(more, sip=f'dns_servers = ["{server}"]'))
        for number in range(4):
            self.assertEqual(self.outcome(self.call(daemon, phone_number=f"212555010{number}")), ("0", "5"))
        self.assertEqual([carrier.wait() for carrier in carriers], [0, 0])

    def test_tcp(self) -> None:
        """A domain whose NAPTR says TCP is called by TCP; a server that is gone costs no attempt."""
        daemon, first, second = self.start(sc.refuse("486 Busy Here"), sc.refuse("486 Busy Here"), transport="tcp")
        first.process.kill()
        first.process.wait()
        told = self.call(daemon)
        self.assertEqual(self.outcome(told), ("0", "5"), daemon.log.read_text()[-3000:])
        self.assertEqual(second.wait(), 0, second.explain())
        self.assertIn(f"Call-ID: {told.headers['webhook-id']}-1", second.messages())
        self.assertIn("Via: SIP/2.0/TCP", second.messages())
