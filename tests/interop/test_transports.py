"""Calls over TCP and TLS to programs that we did not write."""

from __future__ import annotations

from tests.interop import scenarios as sc
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import Daemon, Sipp, free_udp_port, need, sipp


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
