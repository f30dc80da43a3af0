from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.model import BadRequest, PlaybackRequest, new_call_id

GOOD = {
    b"api_key": [b"ck_1"],
    b"phone_number": [b"2125550100"],
    b"country_code": [b"1"],
    b"mp3": [b"http://example.com/a.mp3"],
}

WRONG: tuple[tuple[str, Mapping[bytes, Sequence[bytes]]], ...] = (
    ("api_key is required", {b"api_key": [b""]}),
    ("phone_number must be exactly ten digits", {b"phone_number": [b"212555010"]}),
    ("phone_number must be exactly ten digits", {b"phone_number": [b"21255501000"]}),
    ("phone_number must be exactly ten digits", {b"phone_number": ["٢١٢٥٥٥٠١٠٠".encode()]}),
    ("phone_number must be exactly ten digits", {b"phone_number": [b"+125550100"]}),
    ("phone_number is given more than once", {b"phone_number": [b"2125550100", b"2125550100"]}),
    ("country_code must be digits", {b"country_code": [b"US"]}),
    ("country_code must be digits", {b"country_code": [b"+1"]}),
    ("mp3 must be an absolute", {b"mp3": [b"/a.mp3"]}),
    ("mp3 must be an absolute", {b"mp3": [b"ftp://example.com/a.mp3"]}),
    ("mp3 must be an absolute", {b"mp3": [b"http:///a.mp3"]}),
    ("mp3 has a space or control", {b"mp3": [b"http://example.com/a b.mp3"]}),
    ("mp3 has a space or control", {b"mp3": [b"http://example.com/\r\nHost: x"]}),
    ("mp3 is not a URL", {b"mp3": [b"http://example.com:99999/"]}),
    ("mp3 is not a URL", {b"mp3": [b"http://[::1/"]}),
    ("mp3 is not UTF-8", {b"mp3": [b"http://example.com/\xff"]}),
    ("cache must be True or False", {b"cache": [b"true"]}),
    ("cache must be True or False", {b"cache": [b""]}),
    ("caller_id must be", {b"caller_id": [b"Alice"]}),
    ("caller_id must be", {b"caller_id": [b"1\r\nX: y"]}),
    ("caller_id must be", {b"caller_id": [b"1" * 21]}),
    ("callback_url must be an absolute", {b"callback_url": [b"example.com"]}),
    ("callback_url has a host", {b"callback_url": [b"http://a..b/"]}),
    ("callback_url has a host", {b"callback_url": [b"http://.example.com/"]}),
    ("mp3 has a host", {b"mp3": [b"http://%41.com/a.mp3"]}),
    ("callback_url must be an absolute", {b"callback_url": [b""]}),
    ("secret must be at most 30", {b"secret": [b"s" * 31]}),
)


class PlaybackRequestTests(SynchronousTestCase):
    def test_defaults(self) -> None:
        """What is optional has the contract's default."""
        request = PlaybackRequest.parse(GOOD)
        self.assertEqual(
            (request.cache, request.caller_id, request.callback_url, request.secret), (True, "0000000000", None, "")
        )

    def test_everything(self) -> None:
        """Every parameter is read."""
        request = PlaybackRequest.parse(
            {
                **GOOD,
                b"cache": [b"False"],
                b"caller_id": [b"+12125550111"],
                b"callback_url": [b"https://example.com/cb?a=1&b=2"],
                b"secret": ["é".encode() * 30],
                b"colour": [b"blue", b"green"],
            }
        )
        self.assertEqual(request.cache, False)
        self.assertEqual(request.caller_id, "+12125550111")
        self.assertEqual(request.callback_url, "https://example.com/cb?a=1&b=2")
        self.assertEqual(request.secret, "é" * 30)

    def test_required(self) -> None:
        """Each required parameter is missed by name."""
        for name in GOOD:
            error = self.assertRaises(
                BadRequest, PlaybackRequest.parse, {key: value for key, value in GOOD.items() if key != name}
            )
            self.assertEqual(str(error), f"{name.decode()} is required")

    def test_wrong(self) -> None:
        """Each wrong value is refused with words that name the parameter."""
        for words, change in WRONG:
            error = self.assertRaises(BadRequest, PlaybackRequest.parse, {**GOOD, **change})
            self.assertIn(words, str(error))

    def test_private_parts_are_not_shown(self) -> None:
        """A request in a log or traceback shows no key, number or secret."""
        shown = repr(PlaybackRequest.parse({**GOOD, b"secret": [b"hush"], b"callback_url": [b"http://h/?t=oken"]}))
        for private in ("ck_1", "2125550100", "example.com", "hush", "oken"):
            self.assertNotIn(private, shown)

    @settings(deadline=None, derandomize=True)
    @given(
        st.dictionaries(
            st.sampled_from([*GOOD, b"cache", b"caller_id", b"callback_url", b"secret"]),
            st.lists(st.binary(max_size=60), max_size=2),
        )
    )
    def test_anything(self, change: dict[bytes, list[bytes]]) -> None:
        """Whatever bytes come in, nothing but BadRequest comes out."""
        try:
            PlaybackRequest.parse({**GOOD, **change})
        except BadRequest as error:
            self.assertTrue(str(error))


class CallIdTests(SynchronousTestCase):
    def test_sorts_by_time(self) -> None:
        """Ids made later sort later, and two made at once differ."""
        first, second, third = new_call_id(1.7e9), new_call_id(1.7e9 + 0.001), new_call_id(1.7e9 + 0.001)
        self.assertLess(first, second)
        self.assertNotEqual(second, third)
        self.assertEqual([len(each) for each in (first, second, third)], [32, 32, 32])
