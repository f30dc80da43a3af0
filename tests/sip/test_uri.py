"""URIs, read and written."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.sip.grammar import ParseError
from calledind.sip.uri import Uri, escape_user

word = st.text("abcXYZ019-_.!~*'()&=+$,%", min_size=1)
name = st.text("abcXYZ019-_", min_size=1)
pairs = st.lists(st.tuples(name, st.none() | name)).map(tuple)
host = st.sampled_from(["192.0.2.1", "2001:db8::1", "pbx1", "carrier.example.com"])
uris = st.builds(
    Uri,
    st.sampled_from(["sip", "sips"]),
    word,
    host,
    st.none() | st.integers(0, 65535),
    pairs,
    pairs,
    st.none() | word,
)


class UriTests(SynchronousTestCase):
    def test_the_parts_of_a_sip_uri(self) -> None:
        """Each part is found in its place."""
        uri = Uri.parse("SIP:alice:secret@example.com:5061;transport=tcp;LR?subject=a&priority")
        self.assertEqual(uri.scheme, "sip")
        self.assertEqual(uri.user, "alice")
        self.assertEqual(uri.password, "secret")
        self.assertEqual((uri.host, uri.port), ("example.com", 5061))
        self.assertEqual(uri.parameter("transport"), "tcp")
        self.assertEqual(uri.parameter("lr"), "")
        self.assertIsNone(uri.parameter("maddr"))
        self.assertEqual(uri.headers, (("subject", "a"), ("priority", None)))

    def test_texts_come_back_as_they_were(self) -> None:
        """Parsing and writing changes nothing but the case of the scheme."""
        for text in (
            "sip:example.com",
            "sips:+12125550100@[2001:db8::1]:5061;user=phone",
            "sip:all_of.user~(as-it!may)&be's+=$/there?,/;;*@example.com",
            "sip:user;par=u%40example.net@example.com",
            "sip:null-%00-null@example.com",
            "sip:user:@example.com",
            "tel:+1-212-555-0100;phone-context=example.com",
            "sip:a@b?X=1&Y",
        ):
            self.assertEqual(str(Uri.parse(text)), text)

    def test_a_tel_uri(self) -> None:
        """Its number is the user; it has no host."""
        uri = Uri.parse("tel:+12125550100")
        self.assertEqual((uri.scheme, uri.user, uri.host), ("tel", "+12125550100", ""))

    def test_escapes_are_resolved_on_request(self) -> None:
        """The user is kept as written; `username` is what it means."""
        uri = Uri.parse("sip:%2B1212%20x@h")
        self.assertEqual(uri.user, "%2B1212%20x")
        self.assertEqual(uri.username, "+1212 x")
        self.assertEqual(Uri.parse("sip:%ff@h").username, "\ufffd")

    def test_other_schemes_are_refused_with_416(self) -> None:
        """Another scheme is not a broken request, but one that isn't supported."""
        for text in ("http://example.com/", "unheard-of:opaque", "isbn:2983792873"):
            error = self.assertRaises(ParseError, Uri.parse, text)
            self.assertEqual(error.status, 416)

    def test_broken_uris_are_refused(self) -> None:
        """Whatever lacks a part that must be there, or has one that can't be."""
        for text in (
            *("", "sip:", "sip", "tel:;x", "sip:@host", "sip:a@", "sip:a@b@c", "sip:a b@c", "sip:a@b;", "sip:a@b;x="),
            *("sip:a@b;=x", "sip:a@b?", "sip:a@b?=x", "sip:a@b:port", "sip:a@[::1", "sip:user@2001:db8::10"),
        ):
            error = self.assertRaises(ParseError, Uri.parse, text)
            self.assertEqual(error.status, 400)

    @settings(deadline=None, derandomize=True)
    @given(uris)
    def test_what_is_written_is_read_back(self, uri: Uri) -> None:
        """Every URI survives writing and reading."""
        self.assertEqual(Uri.parse(str(uri)), uri)


class EscapeTests(SynchronousTestCase):
    def test_what_a_user_part_may_not_have_is_escaped(self) -> None:
        """Tech prefixes keep their * and +, a # and what else has no place there becomes %xx (§25.1)."""
        for text, escaped in (
            ("12345678*+12125550100", "12345678*+12125550100"),
            ("1234#12125550100", "1234%2312125550100"),
            ("-_.!~*'()&=+$,;?/", "-_.!~*'()&=+$,;?/"),
            ('a b@c:d<e>"[f]', "a%20b%40c%3Ad%3Ce%3E%22%5Bf%5D"),
            ("é\r\n", "%C3%A9%0D%0A"),
            ("%23", "%23"),
            ("100%", "100%25"),
            ("%zz%4", "%25zz%254"),
            ("\ud800", "?"),
        ):
            self.assertEqual(escape_user(text), escaped)

    @settings(deadline=None, derandomize=True)
    @given(st.text(min_size=1))
    def test_any_text_makes_a_user_part(self, text: str) -> None:
        """Whatever the text, the URI is read back with that user part, in that host."""
        uri = Uri.parse(str(Uri("sip", escape_user(text), "example.com")))
        self.assertEqual((uri.user, uri.host, uri.password), (escape_user(text), "example.com", None))
