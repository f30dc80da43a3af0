"""The small parts of header fields."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.sip import grammar
from calledind.sip.grammar import ParseError

without_line_ends = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))


class ListTests(SynchronousTestCase):
    def test_split_regards_quotes_and_brackets(self) -> None:
        """A separator counts only outside quoted strings and brackets."""
        for text, parts in (
            ("", [""]),
            ("a", ["a"]),
            (" a\t", ["a"]),
            ("a, b ,c", ["a", "b", "c"]),
            ('"a,b", c', ['"a,b"', "c"]),
            ('"a\\",b", c', ['"a\\",b"', "c"]),
            ('"a\\\\", c', ['"a\\\\"', "c"]),
            ('<sip:a,b@h>, "x" <sip:c>', ["<sip:a,b@h>", '"x" <sip:c>']),
            (',"a"', ["", '"a"']),
        ):
            self.assertEqual(grammar.split(text, ","), parts)

    def test_split_refuses_what_has_no_end(self) -> None:
        """A quote or bracket without an end is an error, for nobody knows where the list is cut."""
        for text in ('"a, b', 'a, "b\\"', "<a, b", 'a, "b\\\\\\"'):
            self.assertRaises(ParseError, grammar.split, text, ",")

    def test_empty_elements_are_left_out(self) -> None:
        """Commas too many in a list are passed over."""
        self.assertEqual(grammar.split_list(", a,, b,"), ["a", "b"])

    def test_a_long_list_takes_time_in_proportion(self) -> None:
        """Escapes without number are passed over once each, not once for every other one."""
        hostile = '"' + "\\a" * 30_000 + '"'
        before = time.process_time()
        for _ in range(10):
            self.assertEqual(grammar.split(hostile + ",b", ","), [hostile, "b"])
            self.assertRaises(ParseError, grammar.end_of_quoted, '"' + '\\"' * 30_000, 0)
        # A quadratic scan would look at 20 thousand million characters.
        self.assertLess(time.process_time() - before, 10)


class QuotedTests(SynchronousTestCase):
    def test_unquote(self) -> None:
        """Quotes and escapes go; what is not quoted stays as it is."""
        for text, meaning in (
            ('"a"', "a"),
            ('""', ""),
            ("a", "a"),
            ('"', '"'),
            ('"a', '"a'),
            (r'"a\"b"', 'a"b'),
            (r'"a\\b"', r"a\b"),
            (r'"a\\\"b"', r"a\"b"),
            (r'"\a"', "a"),
        ):
            self.assertEqual(grammar.unquote(text), meaning)

    @settings(deadline=None, derandomize=True)
    @given(without_line_ends)
    def test_what_is_quoted_is_read_back(self, text: str) -> None:
        """Any text survives quoting, and ends where its quotes do."""
        quoted = grammar.quote(text)
        self.assertEqual(grammar.unquote(quoted), text)
        self.assertEqual(grammar.end_of_quoted(quoted, 0), len(quoted) - 1)


class ParameterTests(SynchronousTestCase):
    def test_parameters_are_kept_as_written(self) -> None:
        """Names, values and quotes stay as they were, so that they go back the same."""
        parameters = grammar.parse_parameters('tag=a; LR ;text="a;b";x = [::1]')
        self.assertEqual(parameters, (("tag", "a"), ("LR", None), ("text", '"a;b"'), ("x", "[::1]")))
        self.assertEqual(grammar.format_parameters(parameters), ';tag=a;LR;text="a;b";x=[::1]')

    def test_a_parameter_is_found_in_any_case(self) -> None:
        """Names are compared without regard to case; a name alone has the value ""."""
        parameters = grammar.parse_parameters('Tag=a;lr;text="x\\"y";tag=b')
        self.assertEqual(grammar.parameter(parameters, "tag"), "a")
        self.assertEqual(grammar.parameter(parameters, "lr"), "")
        self.assertEqual(grammar.parameter(parameters, "text"), 'x"y')
        self.assertIsNone(grammar.parameter(parameters, "branch"))

    def test_a_parameter_is_set_in_its_place(self) -> None:
        """Setting replaces what is there, or adds at the end."""
        parameters = grammar.parse_parameters("a=1;rport;b=2")
        self.assertEqual(grammar.with_parameter(parameters, "rport", "9"), (("a", "1"), ("rport", "9"), ("b", "2")))
        self.assertEqual(grammar.with_parameter((), "tag", "x"), (("tag", "x"),))

    def test_broken_parameters_are_refused(self) -> None:
        """No name, no value after the =, spaces inside, quotes without end or with something around, a < without >."""
        for text in ("", ";", "a;;b", "=x", "a=", "a b=c", "a=b c", 'a="b', 'a="b"c', "a=b\tc", "ä=b", "a=<b", 'a=b"'):
            self.assertRaises(ParseError, grammar.parse_parameters, text)


class NumberTests(SynchronousTestCase):
    def test_numbers_are_ascii_and_bounded(self) -> None:
        """Only ASCII digits up to the bound are a number."""
        self.assertEqual(grammar.number("0"), 0)
        self.assertEqual(grammar.number("4294967295"), 2**32 - 1)
        self.assertEqual(grammar.number("007", 7), 7)
        for text in ("", "-1", "+1", "1.0", " 1", "٣", "²", "4294967296", "9" * 5000):
            self.assertRaises(ParseError, grammar.number, text)


class HostTests(SynchronousTestCase):
    def test_hosts(self) -> None:
        """Names, IPv4 and IPv6 in brackets, with or without a port."""
        for text, host, port in (
            ("pbx1", "pbx1", None),
            ("host_1.example.com.", "host_1.example.com.", None),
            ("192.0.2.1:5060", "192.0.2.1", 5060),
            ("host : 5060", "host", 5060),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("[2001:db8::1]:5070", "2001:db8::1", 5070),
            ("[2001:db8::10:5070]", "2001:db8::10:5070", None),
            ("[::ffff:192.0.2.1]", "::ffff:192.0.2.1", None),
            ("[2001:db8:::192.0.2.1]", "2001:db8::192.0.2.1", None),
        ):
            self.assertEqual(grammar.parse_host_port(text), (host, port))

    def test_broken_hosts_are_refused(self) -> None:
        """Nothing, characters of no host, IPv6 without brackets or with a zone, ports that aren't."""
        for text in (
            *("", ":5060", "a b", "a@b", "host:", "host:x", "host:65536", "2001:db8::1", "[2001:db8::1"),
            *("[]", "[host]", "[fe80::1%eth0]", "[::1]5060", "[::1]:", "[2001:db8:::1]", "h<>"),
        ):
            self.assertRaises(ParseError, grammar.parse_host_port, text)

    def test_an_ipv6_host_is_written_in_brackets(self) -> None:
        """Only IPv6 addresses have colons, and only they get brackets."""
        self.assertEqual(grammar.format_host("::1"), "[::1]")
        self.assertEqual(grammar.format_host("host"), "host")


class UriTextTests(SynchronousTestCase):
    def test_any_scheme_may_be_a_uri(self) -> None:
        """The text of a URI needs a scheme, something after it, and no spaces, quotes or brackets."""
        for text in ("sip:a@b", "isbn:2983792873", "http://x/?y", "a+b:c"):
            grammar.check_uri_text(text)
        for text in ("", "sip", "sip:", ":a", "1a:b", "é:b", "s p:a", "sip:a b", "sip:<a>", 'sip:"a"', "sip:a\0"):
            self.assertRaises(ParseError, grammar.check_uri_text, text)
