"""Where messages go, and how."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from calledind.model import Address
from calledind.sip.target import Target, target_snapshot, transport_of, with_port

PLAIN: Address = ("192.0.2.1", 5060)


class TargetTests(SynchronousTestCase):
    def test_what_shares_a_flow_is_equal(self) -> None:
        """Over UDP the address alone counts; a connection is one transport's and one trunk's."""
        udp, tcp, tls = (Target(*PLAIN, transport, "a") for transport in ("udp", "tcp", "tls"))
        self.assertEqual({udp, Target(*PLAIN), PLAIN}, {PLAIN})
        self.assertEqual(len({udp, tcp, tls, Target(*PLAIN, "tcp", "b"), Target(*PLAIN, "tcp", "a")}), 4)
        self.assertTrue(udp == PLAIN and udp == PLAIN and tcp != PLAIN and tcp != PLAIN)
        self.assertFalse(tcp == "192.0.2.1")

    def test_a_plain_address_is_udp(self) -> None:
        """An address that says nothing of transports stands for UDP."""
        self.assertEqual([transport_of(PLAIN), transport_of(Target(*PLAIN, "tls"))], ["udp", "tls"])

    def test_with_port(self) -> None:
        """Another port is reached the same way."""
        self.assertEqual(with_port(PLAIN, 5070), ("192.0.2.1", 5070))
        target = with_port(Target(*PLAIN, "tcp", "a"), 5070)
        self.assertEqual((tuple(target), target), (("192.0.2.1", 5070), Target("192.0.2.1", 5070, "tcp", "a")))

    def test_there_and_back(self) -> None:
        """What was kept as JSON is the same again, transport and trunk included."""
        for target in (PLAIN, Target("::1", 5061, "tls", "carrier")):
            again = Target.restore(json.loads(json.dumps(target_snapshot(target))))
            self.assertEqual((again, target_snapshot(again)), (target, target_snapshot(target)))
        self.assertEqual(Target.restore(["192.0.2.1", 5060]), PLAIN)

    def test_rubbish(self) -> None:
        """What isn't a snapshot is a ValueError."""
        for kept in ([], ["a", "b"], ["a", 1, "pigeon", ""], ["a", 1, ["udp"], ""], ["a", 1, "udp", "", 5]):
            self.assertRaises(ValueError, Target.restore, kept)
        self.assertRaises(ValueError, Target.restore, 7)

    def test_shown(self) -> None:
        """People see all of it."""
        self.assertEqual(repr(Target("::1", 5061, "tls", "a")), "Target('::1', 5061, 'tls', 'a')")
