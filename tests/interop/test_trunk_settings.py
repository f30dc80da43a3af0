"""What an operator may set of a trunk, as the carrier sees it."""

from __future__ import annotations

import re
from datetime import datetime
from itertools import pairwise

from tests.interop import scenarios as sc
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import Daemon, Sipp, free_udp_port, need, sipp
from tests.interop.name_server import name_server
from tests.interop.scenes import check, invited, ringing, scene, tagged
from tests.interop.test_tshark import Capture, capturing

ASKED = re.compile(r"-{20,} (\d{4}-\d\d-\d\d)\s(\d\d:\d\d:\d\d\.\d+)\n\w+ message received [^\n]*\n\nINVITE ")
REFUSAL = sc.send("486 Busy Here", tagged(), retrans=500) + sc.receive("ACK")
BUSY = scene(invited(), REFUSAL)


def asked_at(carrier: Sipp) -> list[float]:
    """When the INVITEs came, in seconds."""
    return [datetime.fromisoformat(f"{day} {time}").timestamp() for day, time in ASKED.findall(carrier.messages())]


class TrunkSettingsTests(InteropCase):
    def setUp(self) -> None:
        need("sipp")
        super().setUp()

    def carrier(self, scenario: str = BUSY, *, calls: int = 1, address: str = "127.0.0.1", port: int = 0) -> Sipp:
        folder = self.folder / f"sipp {address}"
        return self.world.enter_context(sipp(folder, scenario, calls=calls, address=address, port=port or None))

    def busy(self, daemon: Daemon, calls: int, reason: str = "5") -> list[str]:
        """Make calls that are all refused, for this reason; returns their ids."""
        made = [self.ask(daemon, phone_number=f"21255501{number:02}") for number in range(calls)]
        self.assertEqual({self.outcome(self.web.next_callback()) for _ in made}, {("0", reason)})
        return made

    def test_channels(self) -> None:
        """A trunk of one channel gets its next call when the one before is over."""
        carrier = self.carrier(scene(invited(), ringing(), sc.pause(200), REFUSAL), calls=4)
        self.busy(self.run_daemon(settings(trunk(carrier.port, more="channels = 1"))), 4)
        self.assertEqual(carrier.wait(), 0, carrier.explain())
        said = re.findall(r"^(INVITE|ACK) ", carrier.messages(), re.MULTILINE)
        self.assertEqual(said, ["INVITE", "ACK"] * 4)

    def test_rate(self) -> None:
        """Calls leave evenly, no more in a second than the trunk takes."""
        carrier = self.carrier(calls=6)
        text = settings(trunk(carrier.port)).replace("calls_per_second = 100.0", "calls_per_second = 5.0")
        self.busy(self.run_daemon(text), 6)
        self.assertEqual(carrier.wait(), 0, carrier.explain())
        came = asked_at(carrier)
        self.assertEqual(len(came), 6)
        self.assertTrue(all(later - sooner > 0.05 for sooner, later in pairwise(came)), came)
        # A tenth of a second may be caught up.
        self.assertGreater(came[-1] - came[0], 5 * 0.2 - 0.15)

    def test_rate_per_address(self) -> None:
        """Each of the addresses of a trunk's name has a rate of its own."""
        hosts = ("127.0.0.2", "127.0.0.3")
        port = free_udp_port()
        carriers = [self.carrier(calls=4, address=host, port=port) for host in hosts]
        server = self.world.enter_context(name_server([["A", "a.carrier.example", host] for host in hosts]))
        more = trunk(port, host="a.carrier.example", more="calls_per_second_per_address = 5.0")
        self.busy(self.run_daemon(settings(more, sip=f'dns_servers = ["{server}"]')), 8)
        for carrier in carriers:
            self.assertEqual(carrier.wait(), 0, carrier.explain())
            came = asked_at(carrier)
            self.assertEqual(len(came), 4)
            self.assertGreater(came[-1] - came[0], 3 * 0.2 - 0.1)

    def test_reasons(self) -> None:
        """What a carrier means by a status goes before the usual; what it said is kept."""
        carrier = self.carrier(sc.refuse("404 Not Found", more="Reason: Q.850;cause=1\n"))
        daemon = self.run_daemon(settings(trunk(carrier.port, more='reasons = { "404" = 5 }')))
        (call_id,) = self.busy(daemon, 1)
        self.assertEqual(carrier.wait(), 0, carrier.explain())
        kept = daemon.admin("GET", f"/calls/{call_id}")["outcome"]
        self.assertEqual((kept["reason"], kept["sip_status"], kept["q850"]), (5, 404, 1))

    def test_addresses(self) -> None:
        """A trunk's messages leave from the socket that is its own, and name the address that is ours outside."""
        checks = (
            check("SIP/2.0/UDP 203.0.113.7:", "Via"),
            check("@203.0.113.7:", "Contact"),
            check("c=IN IP4 203.0.113.7"),
        )
        carrier = self.carrier(scene(invited(*checks), REFUSAL))
        port = free_udp_port()
        more = f'bind = "127.0.0.5:{port}"\nadvertise = "203.0.113.7"'
        daemon = self.run_daemon(settings(trunk(carrier.port, more=more)))
        path = self.folder / "call.pcapng"
        with capturing(path, f"udp port {port}"):
            self.busy(daemon, 1)
            self.assertEqual(carrier.wait(), 0, carrier.explain())
        sent = Capture(path, port).matching('sip.Method == "INVITE"', "ip.src", "udp.srcport")
        self.assertEqual(sent, [f"127.0.0.5\t{port}"])
