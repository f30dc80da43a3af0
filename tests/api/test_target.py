"""What a request's query says."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from calledind.api.target import parse_query


class QueryTests(SynchronousTestCase):
    def test_forms(self) -> None:
        """Only & separates, + is a space, a name alone has an empty value, a lone % stands for itself."""
        self.assertEqual(
            parse_query(b"a=1&&a=%32&b+c=d+e&f&%67=50%&mp3=http%3A%2F%2Fa&mp3=b;c"),
            {b"a": [b"1", b"2"], b"b c": [b"d e"], b"f": [b""], b"g": [b"50%"], b"mp3": [b"http://a", b"b;c"]},
        )

    def test_secrets(self) -> None:
        """A secret, a key or a number is read anew each time and not remembered, as the URL of an MP3 is."""
        values = {name: f"{name} value" for name in ("secret", "api_key", "phone_number", "mp3")}
        query = "&".join(f"{name}={value.replace(' ', '+')}" for name, value in values.items()).encode()
        found = parse_query(query)
        self.assertEqual(found[b"secret"], [values["secret"].encode()])
        self.assertIs(parse_query(query)[b"mp3"][0], found[b"mp3"][0])
        for name in (b"secret", b"api_key", b"phone_number"):
            self.assertIsNot(parse_query(query)[name][0], found[name][0])
