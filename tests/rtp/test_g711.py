"""The linear values of G.711's octets."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from calledind.rtp.g711 import DECODED


class TableTests(SynchronousTestCase):
    def test_mu_law(self) -> None:
        """The ends of the range and both zeros."""
        table = DECODED["PCMU"]
        self.assertEqual([int(table[code]) for code in (0x00, 0x80, 0x7F, 0xFF, 0xFE)], [-32124, 32124, 0, 0, 8])

    def test_a_law(self) -> None:
        """The ends of the range and the smallest steps."""
        table = DECODED["PCMA"]
        self.assertEqual([int(table[code]) for code in (0x2A, 0xAA, 0x55, 0xD5)], [-32256, 32256, -8, 8])
