"""How customers' URLs are read: each in one way only."""

# mypy: allow-untyped-calls

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.net.url import Url, UrlError


class Parsing(SynchronousTestCase):
    def test_forms(self) -> None:
        """Each URL goes over the wire in the form that stands beside it."""
        for text, wire in (
            ("http://a.test", "http://a.test/"),
            ("HTTP://A.Test:80/x", "http://a.test/x"),
            ("https://a.test:443/x", "https://a.test/x"),
            ("https://a.test:8443/x?y=z#part", "https://a.test:8443/x?y=z"),
            ("http://a.test?y=z", "http://a.test/?y=z"),
            ("http://a.test/x?", "http://a.test/x?"),
            ("http://a.test/x#a?b", "http://a.test/x"),
            ("http://a.test./x", "http://a.test/x"),
            ("http://user:pass@a.test/x", "http://a.test/x"),
            ("http://[2001:DB8::0:1]:81/x", "http://[2001:db8::1]:81/x"),
            ("http://[::ffff:1.2.3.4]/", "http://[::ffff:102:304]/"),
            ("http://bücher.test/straße?ß=ü", "http://xn--bcher-kva.test/stra%C3%9Fe?%C3%9F=%C3%BC"),
            ("http://a_b.test/%7e%zz/a;b,c?d=e+f&&g", "http://a_b.test/%7e%zz/a;b,c?d=e+f&&g"),
            ("http://a.test//x/../y", "http://a.test//x/../y"),
        ):
            self.assertEqual(str(Url.parse(text)), wire)

    def test_refused(self) -> None:
        """What is not one clear http or https URL is refused: odd spellings of addresses above all."""
        for text in (
            "", "a.test", "//a.test/", "ftp://a.test/", "file:///etc/passwd", "javascript:alert(1)", "http:///x",
            "http://", "http://:80/", "http://a.test:0/", "http://a.test:65536/", "http://a.test:x/", "http://[::1/",
            "http://[fe80::1%25lo]/", "http://[1.2.3.4]/", "http://127.1/", "http://0x7f.0.0.1/", "http://0x7f000001/",
            "http://2130706433/", "http://0177.0.0.1/", "http://1.2.3.4.5/", "http://%31.test/", "http://a..test/",
            "http://-\t.test/", "http://a test/", "http://a.test/ x", "http://a.test/\r\nHost: b", "http://a.test\\@b/",
            "http://a.test/\x7f", "http://" + "a" * 64 + ".test/", "http://" + "a." * 130 + "test/", "http://ª..test/",
        ):  # fmt: skip
            self.assertRaises(UrlError, Url.parse, text)

    def test_credentials(self) -> None:
        """User and password are decoded, and shown by neither the URL's text nor its repr."""
        url = Url.parse("http://us%40er:pa%3Ass@a.test/x?key=hidden")
        self.assertEqual(url.credentials, ("us@er", "pa:ss"))
        self.assertNotIn("pa:ss", repr(url) + str(url))
        self.assertNotIn("hidden", repr(url))

    @settings(deadline=None, derandomize=True)
    @given(st.text(), st.text(), st.sampled_from(["", "http://", "https://[", "http://a.test/", "http://a.test:"]))
    def test_any_text(self, text: str, location: str, start: str) -> None:
        """Any text is refused or becomes ASCII without spaces that reads the same again, and so does any Location."""
        try:
            url = Url.parse(start + text)
            urls = [url, url.join(location)]
        except UrlError:
            urls = []
        for each in urls:
            wire = str(each)
            self.assertTrue(wire.isascii() and wire.isprintable() and " " not in wire)
            self.assertEqual(str(Url.parse(wire)), wire)


class Joining(SynchronousTestCase):
    def test_locations(self) -> None:
        """A Location leads where RFC 3986 says."""
        base = Url.parse("http://a.test:8080/b/c?d")
        for location, wire in (
            ("/x", "http://a.test:8080/x"),
            ("x?y", "http://a.test:8080/b/x?y"),
            ("?y", "http://a.test:8080/b/c?y"),
            ("//b.test/x", "http://b.test/x"),
            ("https://b.test/x#y", "https://b.test/x"),
        ):
            self.assertEqual(str(base.join(location)), wire)

    def test_refused_locations(self) -> None:
        """A Location to another scheme, or with a line end in it, is refused."""
        for location in (
            "ftp://a.test/",
            "file:///etc/passwd",
            "gopher://a.test/",
            "/x\r\nA: b",
            "http://[",
            "data:,x",
        ):
            self.assertRaises(UrlError, Url.parse("http://a.test/").join, location)

    def test_credentials_stay_at_home(self) -> None:
        """Ours go to the same scheme, host and port only, and a Location's are dropped."""
        base = Url.parse("https://me:secret@a.test/")
        self.assertEqual(base.join("/x").credentials, ("me", "secret"))
        self.assertEqual(base.join("https://you:x@a.test/x").credentials, ("me", "secret"))
        for location in ("http://a.test/", "https://a.test:444/", "https://b.test/", "https://you:x@b.test/"):
            self.assertIsNone(base.join(location).credentials)

    def test_with_query(self) -> None:
        """More of a query is put behind what is there, which stays as it was."""
        for before, after in (
            ("http://a.test", "/?x=y"),
            ("http://a.test/b?", "/b?x=y"),
            ("http://a.test/b?c=%7e", "/b?c=%7e&x=y"),
            ("http://a.test/b?c&", "/b?c&x=y"),
            ("http://a.test/b?c#d", "/b?c&x=y"),
        ):
            self.assertEqual(Url.parse(before).with_query("x=y").target, after)
