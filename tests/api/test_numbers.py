"""Numbers as operators write them."""

# mypy: allow-untyped-calls
from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.api.numbers import parse_lines, parse_number

NUMBER = ("1", "2125550100")


class NumberTests(SynchronousTestCase):
    def test_ways_to_write(self) -> None:
        """All the ways people and spreadsheets write one number come to the same."""
        for text in (
            "+12125550100",
            "+1 (212) 555-0100",
            "+1.212.555.0100",
            "1 2125550100",
            "1 212 555 0100",
            " 1,2125550100\r\n",
            '"1","2125550100","John Doe"',
            "+1;2125550100",
            "1\t2125550100",
        ):
            self.assertEqual(parse_number(text), NUMBER, text)
        self.assertEqual(parse_number("+442079460000"), ("44", "2079460000"))
        self.assertEqual(parse_number("+3512079460000"), ("351", "2079460000"))

    def test_with_country_code(self) -> None:
        """Where the file's country code is said, its lines are the ten digits, in one column or two."""
        for text in ("2125550100", "212,5550100", "(212) 555-0100", '"212","555-0100"'):
            self.assertEqual(parse_number(text, "1"), NUMBER, text)
        self.assertRaises(ValueError, parse_number, "12125550100", "1")

    def test_refused(self) -> None:
        """What is no country code and ten digits is refused with words."""
        for text in (
            "",
            "2125550100",
            "+2125550100",
            "+0 2125550100",
            "1 212555010",
            "1234 2125550100",
            "1,",
            ",",
            "١ 2125550100",
            "1 ²125550100",
            "+1" + "0" * 500,
        ):
            with self.assertRaises(ValueError) as caught:
                parse_number(text)
            self.assertTrue(str(caught.exception), text)

    def test_lines(self) -> None:
        """A heading, comments and empty lines are passed over; wrong lines are told with their own numbers."""
        lines = [b"\xef\xbb\xbfcountry_code,phone_number\n", b"\n", b"# mine\n", b"1,2125550100\n", b"\xff\n"]
        good, (line, why) = parse_lines(lines, first=11)
        self.assertEqual(good, NUMBER)
        self.assertEqual(line, 15)
        self.assertIn("country code", str(why))

    @settings(deadline=None, derandomize=True)
    @given(st.lists(st.binary(max_size=40)), st.sampled_from(["", "1"]))
    def test_any_octets(self, lines: list[bytes], country_code: str) -> None:
        """Whatever a line is, it is a number, a wrong line or nothing."""
        for first, second in parse_lines(lines, country_code):
            if isinstance(first, str):
                self.assertRegex(first + str(second), r"^[0-9]{11,13}$")
