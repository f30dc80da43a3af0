"""A domain's servers, found by NAPTR and SRV: Kamailio and SIPp are in the place of some, nobody in that of others."""

from __future__ import annotations

import socket

from tests.interop import scenarios as sc
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import Daemon, Sipp, free_udp_port, need, sipp
from tests.interop.kamailio import ANSWERS, DOMAIN, PASSWORD, USER, Kamailio, Tls, kamailio
from tests.interop.name_server import name_server
from tests.net.certificates import Authority

NAPTR = {"udp": ("SIP+D2U", f"_sip._udp.{DOMAIN}"), "tcp": ("SIP+D2T", f"_sip._tcp.{DOMAIN}")}
NAPTR["tls"] = ("SIPS+D2T", f"_sips._tcp.{DOMAIN}")
SAYS = 'xlog("L_ERR", "carrier: INVITE refused\\n"); sl_send_reply("{status}", "No"); exit;'
"What a Kamailio does with any INVITE."


class NextHopTests(InteropCase):
    """The trunk is a domain: its name servers say where the calls go."""

    def setUp(self) -> None:
        need("kamailio")
        need("sipp")
        super().setUp()
        self.records: list[list[object]] = [["A", f"a.{DOMAIN}", "127.0.0.1"]]
        self.authority = Authority(self.folder / "certificates")

    def named(self, transport: str, order: int, *servers: tuple[int, int, int]) -> None:
        """The domain has these servers (priority, weight, port) of a transport; the lowest order is asked first."""
        service, name = NAPTR[transport]
        self.records.append(["NAPTR", DOMAIN, order, 1, "s", service, "", name])
        self.records += [["SRV", name, *server, f"a.{DOMAIN}"] for server in servers]

    def server(self, name: str, callee: int = 0, **options: object) -> Kamailio:
        return self.world.enter_context(kamailio(self.folder / name, callee, **options))

    def callee(self, scenario: str = ANSWERS, *, calls: int = 1) -> Sipp:
        return self.world.enter_context(sipp(self.folder / "sipp", scenario, calls=calls))

    def silent(self) -> int:
        """Return the port of a server that takes everything and says nothing."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.world.callback(sock.close)
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])

    def run_trunk(self, more: str = "") -> Daemon:
        server = self.world.enter_context(name_server(self.records))
        settled = f"""username = "{USER}"
password = "{PASSWORD}"
from_user = "{{username}}"
transport = "auto"
tls_ca = "{self.authority.certificate}"
{more}"""
        # Nobody waits long for who says nothing.
        return self.run_daemon(
            settings(trunk(0, name="domain", host=DOMAIN, more=settled), sip=f'dns_servers = ["{server}"]\nt1 = 0.03')
        )

    def test_tls_first(self) -> None:
        """The domain would rather have TLS: registered and called by it, its certificate being one for the domain."""
        callee = self.callee()
        tls = Tls(self.authority.issue(DOMAIN), self.authority.issue("somebody.example"), self.authority.certificate)
        secure = self.server("secure", callee.port, tls=tls)
        plain = self.server("plain", callee.port)
        self.named("udp", 20, (1, 1, plain.port))
        self.named("tls", 10, (1, 1, secure.secure_port))
        daemon = self.run_trunk("register = true")
        self.assertEqual(self.outcome(self.call(daemon)), ("1", ""), daemon.log.read_text()[-2000:])
        self.assertEqual(callee.wait(), 0, callee.explain())
        taken = [line for line in secure.said() if " taken, " in line]
        self.assertEqual([line.split()[0] for line in taken], ["REGISTER", "INVITE", "BYE"])
        self.assertTrue(all(", tls," in line for line in taken), taken)
        self.assertEqual(plain.said(), [])

    def test_ladder(self) -> None:
        """Where nobody listens by TLS and TCP, one is silent and one says 503, the call is made by the one that is
        left; the next call goes there at once."""
        callee = self.callee(calls=2)
        overloaded = self.server("overloaded", first=SAYS.format(status=503))
        well = self.server("well", callee.port, registers=False)
        self.named("tls", 10, (1, 1, free_udp_port()))
        self.named("tcp", 20, (1, 1, free_udp_port()))
        self.named("udp", 30, (1, 1, self.silent()), (2, 1, overloaded.port), (3, 1, well.port))
        daemon = self.run_trunk()
        self.assertEqual(self.outcome(self.call(daemon)), ("1", ""), daemon.log.read_text()[-3000:])
        self.assertEqual(overloaded.said(), ["INVITE refused"])
        self.assertEqual(self.outcome(self.call(daemon, phone_number="2125550101")), ("1", ""))
        self.assertEqual(overloaded.said(), ["INVITE refused"])
        self.assertEqual(callee.wait(), 0, callee.explain())

    def test_nothing_but_tls(self) -> None:
        """With sips no server is asked but by TLS, whatever others there are, and however little its certificate is
        worth."""
        one, other = (self.authority.issue(f"{name}.example") for name in ("one", "other"))
        tls = Tls(one, other, self.authority.certificate)
        secure = self.server("secure", tls=tls, first=SAYS.format(status=486))
        self.named("tls", 20, (1, 1, free_udp_port()), (2, 1, secure.secure_port))
        self.named("udp", 10, (1, 1, secure.port))
        self.named("tcp", 30, (1, 1, secure.port))
        daemon = self.run_trunk("sips = true")
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "0"))
        self.assertEqual(secure.said(), [])
        for words in ("nobody listens there", "not one for this name"):
            self.assertIn(words, daemon.log.read_text())

    def test_registrar(self) -> None:
        """A registrar that is silent and one that says 503 to REGISTER are passed over at once, and calls wait for the
        third."""
        callee = self.callee(sc.refuse("486 Busy Here", ringing=True))
        overloaded = self.world.enter_context(
            sipp(
                self.folder / "overloaded",
                sc.scenario(sc.receive("REGISTER"), sc.send("503 Service Unavailable", more="Retry-After: 60\n")),
            )
        )
        well = self.server("well", callee.port)
        self.named("udp", 10, (1, 1, self.silent()), (2, 1, overloaded.port), (3, 1, well.port))
        daemon = self.run_trunk("register = true")
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "5"), daemon.log.read_text()[-3000:])
        self.assertEqual(overloaded.wait(), 0, overloaded.explain())
        self.assertEqual(
            [line.split(",")[0] for line in well.said()],
            ["REGISTER challenged", "REGISTER taken", "INVITE challenged", "INVITE taken"],
        )
        self.assertIn("503 Service Unavailable; the next server is asked", daemon.log.read_text())

    def test_weights(self) -> None:
        """Of one priority, the server with all of the weight gets the calls; of another priority none does."""
        light, heavy, later = (self.server(name, first=SAYS.format(status=486)) for name in ("light", "heavy", "later"))
        self.named("tcp", 10, (1, 0, light.port), (1, 65535, heavy.port), (2, 65535, later.port))
        daemon = self.run_trunk()
        for number in range(4):
            self.assertEqual(self.outcome(self.call(daemon, phone_number=f"212555010{number}")), ("0", "5"))
        self.assertEqual([len(each.said()) for each in (light, heavy, later)], [0, 4, 0])
