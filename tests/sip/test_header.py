"""Header fields, read and written."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.sip.grammar import ParseError
from calledind.sip.header import CSeq, NameAddr, Reason, Via, canonical

token = st.text("abcXYZ019-.!%*_+`'~", min_size=1)
host = st.sampled_from(["192.0.2.1", "2001:db8::1", "pbx1", "carrier.example.com"])
line = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))
parameters = st.lists(st.tuples(token, st.none() | token), max_size=4).map(tuple)
name_addrs = st.builds(NameAddr, line, st.sampled_from(["sip:a@b", "tel:+1", "sip:x,y;z@[::1]?h=1"]), parameters)
vias = st.builds(Via, st.sampled_from(["UDP", "TLS"]), host, st.none() | st.integers(0, 65535), parameters)
reasons = st.builds(Reason, token, st.none() | st.integers(0, 999), line)


class NameTests(SynchronousTestCase):
    def test_names_are_brought_to_their_usual_spelling(self) -> None:
        """Any case and the compact forms mean the same header."""
        for written, name in (
            *(("v", "Via"), ("V", "Via"), ("vIa", "Via"), ("call-id", "Call-ID"), ("CSEQ", "CSeq"), ("Via \t", "Via")),
            *(("www-authenticate", "WWW-Authenticate"), ("X-Mine", "X-Mine"), ("x-mine ", "x-mine")),
        ):
            self.assertEqual(canonical(written), name)

    def test_what_is_no_name(self) -> None:
        """A name is a token."""
        for written in ("", " ", "a b", "a\tb", "é", "a:b", " Via", "a\0"):
            self.assertIsNone(canonical(written))


class NameAddrTests(SynchronousTestCase):
    def test_forms(self) -> None:
        """With a quoted name, a plain one or none, in brackets or bare."""
        for text, display_name, uri, tag in (
            ("sip:a@b", "", "sip:a@b", None),
            ("sip:a@b ;tag=x", "", "sip:a@b", "x"),
            ("<sip:a@b;lr>;tag=x", "", "sip:a@b;lr", "x"),
            ('"A \\"B\\", C" <sip:a@b>', 'A "B", C', "sip:a@b", None),
            ('"A"<sip:a@b> ; tag=x', "A", "sip:a@b", "x"),
            ('"A"\t <sip:a@b>', "A", "sip:a@b", None),
            ('""<sip:a@b>', "", "sip:a@b", None),
            ("Mr. Watson <sip:a@b>", "Mr. Watson", "sip:a@b", None),
            ("Bell, Alexander <sip:a.g.bell@example.com>;tag=43", "Bell, Alexander", "sip:a.g.bell@example.com", "43"),
            ('"Watson" < sip:t.watson@example.org >', "Watson", "sip:t.watson@example.org", None),
            ("<isbn:2983792873>;tag=x", "", "isbn:2983792873", "x"),
            ("Zoë <sip:z@b>", "Zoë", "sip:z@b", None),
        ):
            address = NameAddr.parse(text)
            self.assertEqual((address.display_name, address.uri, address.tag), (display_name, uri, tag))

    def test_the_uri_in_its_parts(self) -> None:
        """The URI is kept as text and parsed on request."""
        self.assertEqual(NameAddr.parse("<sip:+1212@pbx1:5070>").parsed_uri.port, 5070)
        self.assertRaises(ParseError, lambda: NameAddr.parse("<isbn:1>").parsed_uri)

    def test_parameters_in_brackets_are_the_uris(self) -> None:
        """Behind the bracket they belong to the header."""
        address = NameAddr.parse("<sip:a@b;x=1>;expires=60")
        self.assertEqual(address.parameter("expires"), "60")
        self.assertIsNone(address.parameter("x"))

    def test_a_tag_is_set(self) -> None:
        """A tag is added or replaced, and nothing else changes."""
        self.assertEqual(str(NameAddr.parse("sip:a@b;x").with_tag("t")), "<sip:a@b>;x;tag=t")
        self.assertEqual(str(NameAddr.parse('"A" <sip:a@b>;tag=s').with_tag("t")), '"A" <sip:a@b>;tag=t')

    def test_broken_addresses_are_refused(self) -> None:
        """Brackets and quotes without end, bare URIs with what needs brackets, trailing matter."""
        for text in (
            *("", "a", "<>", "<sip:a@b", '"A <sip:a@b>', '"A" sip:a@b', '"A"', "<sip:a@b> x", "<sip:a@b>;;"),
            *("<sip:a@b>;", "sip:a@b?Route=x", "sip:a,b@c", "<sip:a b@c>", 'A "<" <sip:a@b>', "<<sip:a@b>>"),
        ):
            self.assertRaises(ParseError, NameAddr.parse, text)

    @settings(deadline=None, derandomize=True)
    @given(name_addrs)
    def test_what_is_written_is_read_back(self, address: NameAddr) -> None:
        """Every address survives writing and reading."""
        self.assertEqual(NameAddr.parse(str(address)), address)


class ViaTests(SynchronousTestCase):
    def test_the_parts(self) -> None:
        """Transport, host, port and the parameters that a user agent needs."""
        via = Via.parse("SIP/2.0/udp 192.0.2.1:5061;branch=z9hG4bKx;received=192.0.2.9;rport=4000")
        self.assertEqual((via.transport, via.host, via.port, via.branch), ("UDP", "192.0.2.1", 5061, "z9hG4bKx"))
        self.assertEqual((via.received, via.rport, via.wants_rport), ("192.0.2.9", 4000, True))

    def test_spaces_are_allowed_nearly_everywhere(self) -> None:
        """As the torture test has them."""
        via = Via.parse("SIP  / 2.0 \t/ TCP\t  spindle.example.com : 4000 ; branch = z9hG4bK9 ; ttl=16")
        self.assertEqual(
            (via.transport, via.host, via.port, via.branch), ("TCP", "spindle.example.com", 4000, "z9hG4bK9")
        )

    def test_what_is_not_said(self) -> None:
        """Without parameters there is neither branch nor source."""
        via = Via.parse("SIP/2.0/UDP pbx1")
        self.assertEqual((via.branch, via.received, via.rport, via.wants_rport), (None, None, None, False))
        self.assertEqual(Via.parse("SIP/2.0/UDP pbx1;rport").rport, None)
        self.assertTrue(Via.parse("SIP/2.0/UDP pbx1;rport").wants_rport)

    def test_received_with_and_without_brackets(self) -> None:
        """Both are found in the wild for IPv6."""
        for text in ("2001:db8::9:255", "[2001:db8::9:255]"):
            self.assertEqual(Via.parse(f"SIP/2.0/UDP [2001:db8::9:1];received={text}").received, "2001:db8::9:255")

    def test_a_broken_source_is_refused_when_asked_for(self) -> None:
        """The rest of the Via can still be read."""
        via = Via.parse("SIP/2.0/UDP a;received=1:2;rport=x")
        self.assertRaises(ParseError, lambda: via.received)
        self.assertRaises(ParseError, lambda: via.rport)
        self.assertRaises(ParseError, lambda: Via.parse("SIP/2.0/UDP a;received=[::1]:5").received)

    def test_the_source_is_noted(self) -> None:
        """`received` where the host differs or rport was asked for; the port only where asked for."""
        for text, noted in (
            ("SIP/2.0/UDP 192.0.2.1", "SIP/2.0/UDP 192.0.2.1"),
            ("SIP/2.0/UDP pbx1;branch=b", "SIP/2.0/UDP pbx1;branch=b;received=192.0.2.1"),
            ("SIP/2.0/UDP 192.0.2.1;rport;branch=b", "SIP/2.0/UDP 192.0.2.1;rport=7;branch=b;received=192.0.2.1"),
            ("SIP/2.0/UDP pbx1;received=10.0.0.1", "SIP/2.0/UDP pbx1;received=192.0.2.1"),
        ):
            self.assertEqual(str(Via.parse(text).with_source(("192.0.2.1", 7))), noted)

    def test_broken_vias_are_refused(self) -> None:
        """Another protocol, no transport, no host, empty parameters."""
        for text in (
            *("", "SIP/2.0", "SIP/2.0/UDP", "SIP/2.0/ host", "SIP/7.0/UDP host", "HTTP/2.0/UDP host", "SIP/2.0/UDP :1"),
            *("SIP/2.0/UDP host;;", "SIP/2.0/UDP a b", "SIP/2.0/U@P host", "SIP/2.0/UDP host;branch="),
        ):
            self.assertRaises(ParseError, Via.parse, text)

    @settings(deadline=None, derandomize=True)
    @given(vias)
    def test_what_is_written_is_read_back(self, via: Via) -> None:
        """Every Via survives writing and reading."""
        self.assertEqual(Via.parse(str(via)), via)


class CSeqTests(SynchronousTestCase):
    def test_number_and_method(self) -> None:
        """Leading zeros and spaces between don't matter; the method's case does."""
        self.assertEqual(CSeq.parse("0009   INVITE"), CSeq(9, "INVITE"))
        self.assertEqual(str(CSeq(2**31 - 1, "BYE")), "2147483647 BYE")
        self.assertEqual(CSeq.parse("1 invite").method, "invite")

    def test_broken_ones_are_refused(self) -> None:
        """The number has 31 bits, the method is a token, and there is nothing else."""
        for text in ("", "1", "INVITE", "1 INVITE x", "2147483648 INVITE", "-1 INVITE", "1 IN@VITE", "a INVITE"):
            self.assertRaises(ParseError, CSeq.parse, text)


class ReasonTests(SynchronousTestCase):
    def test_protocol_cause_and_text(self) -> None:
        """What is not said is None or empty."""
        self.assertEqual(
            Reason.parse('Q.850 ;cause=17;text="User busy; really"'), Reason("Q.850", 17, "User busy; really")
        )
        self.assertEqual(Reason.parse("SIP"), Reason("SIP"))

    def test_broken_ones_are_refused(self) -> None:
        """No protocol, or a cause that is no number."""
        for text in ("", ";cause=1", "Q 850", "Q.850;cause=x", "Q.850;cause=1000", "Q.850;cause", "Q.850;"):
            self.assertRaises(ParseError, Reason.parse, text)

    @settings(deadline=None, derandomize=True)
    @given(reasons)
    def test_what_is_written_is_read_back(self, reason: Reason) -> None:
        """Every Reason survives writing and reading."""
        self.assertEqual(Reason.parse(str(reason)), reason)
