"""A callee whose media does not come from where its SDP says."""

from __future__ import annotations

import re

from tests.interop import scenarios as sc
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import sipp, wait_for
from tests.interop.hearing import Ear

PACKET = bytes([0x80, 0, 0, 1, 0, 0, 0, 160, 0, 0, 0, 7]) + b"\xff" * 160


class NatTests(InteropCase):
    def call_from_elsewhere(self, *, nat: bool) -> tuple[int, int]:
        """Speak from another port than named; return how many packets came to the named one, and to the other."""
        named, real = Ear(), Ear()
        for ear in (named, real):
            self.addCleanup(ear.close)
        scenario = sc.scenario(sc.ANSWER, sc.GOODBYE)
        carrier = self.world.enter_context(sipp(self.folder / "sipp", scenario, "-key", "rtp", str(named.port)))
        daemon = self.run_daemon(settings(trunk(carrier.port, more=f"nat = {str(nat).lower()}")))
        call_id = self.ask(daemon)
        wait_for("the first packet", lambda: len(named.packets) > 0)
        invite = daemon.admin("GET", f"/trace/{call_id}")[0]["text"]
        port = re.search(r"m=audio (\d+) ", invite)
        assert port is not None
        real.sock.sendto(PACKET, ("127.0.0.1", int(port[1])))
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        self.assertEqual(carrier.wait(), 0, carrier.explain())
        return len(named.packets), len(real.packets)

    def test_followed(self) -> None:
        """Where the trunk says so, the callee's first packet shows where it is, and all others go there."""
        named, real = self.call_from_elsewhere(nat=True)
        self.assertLess(named, 50)
        self.assertGreater(real, 80)

    def test_ignored(self) -> None:
        """Else packets from elsewhere change nothing."""
        named, real = self.call_from_elsewhere(nat=False)
        self.assertGreater(named, 130)
        self.assertEqual(real, 0)
