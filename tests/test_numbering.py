"""Caller ids as they are written, and the number that they mean."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from calledind.numbering import e164, for_the_log, same_caller


class NumberingTests(SynchronousTestCase):
    def test_e164(self) -> None:
        """A caller id is a number of the home country, or has its country code with a plus or without."""
        for text, home, number in (
            ("2125550100", "1", "12125550100"),
            ("12125550100", "1", "12125550100"),
            ("+12125550100", "44", "12125550100"),
            ("02079460000", "44", "442079460000"),
            ("2079460000", "44", "442079460000"),
            ("442079460000", "1", "442079460000"),
            ("7001", "1", None),
            ("+1", "1", None),
            ("0000000000", "1", None),
            ("anonymous", "1", None),
        ):
            self.assertEqual(e164(text, home), number, text)

    def test_same_caller(self) -> None:
        """Two ways to write a number are one caller; what has no number is told apart letter by letter."""
        for one, other, same in (
            ("+12125550100", "2125550100", True),
            ("7001", "7001", True),
            ("7001", "7002", False),
            ("anonymous", "anonymous", True),
            ("anonymous", "0000000000", False),
            ("2125550100", "2125550101", False),
        ):
            self.assertIs(same_caller(one, other, "1"), same, (one, other))

    def test_for_the_log(self) -> None:
        """Numbers in a peer's words are masked however they are written; statuses, addresses and ports are not."""
        for words, written in (
            ("503 No route to +12125550100", "503 No route to +***00"),
            ("404 2125550123 (not in service)", "404 ***23 (not in service)"),
            ("480 (212) 555-0100 is away", "480 ***00 is away"),
            ("480 212 555 0100, 1-212-555-0100", "480 ***00, 1-***00"),
            ('399 192.168.100.200:50600 "Q.850;cause=41"', '399 192.168.100.200:50600 "Q.850;cause=41"'),
            ("a\x1b[2Jb\nc\u2028", "a?[2Jb?c?"),
        ):
            self.assertEqual(for_the_log(words), written)
