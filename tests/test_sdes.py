"""The a=crypto lines of session descriptions: what is read, written, refused and never shown."""

from __future__ import annotations

import base64
import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind import sdes
from calledind.sdes import SUITES, Crypto, Keys, SDESError, Secret, Security

KEY = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz"
"Of RFC 4568 §4."
LINE = f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}"
OCTETS = base64.b64decode(KEY)


class CryptoTests(SynchronousTestCase):
    def test_a_line(self) -> None:
        """Tag, suite, key, salt, lifetime and identifier are where RFC 4568 §9.1 has them."""
        crypto = Crypto.parse(f"{LINE}|2^20|1:4")
        self.assertEqual((crypto.tag, crypto.keys.suite, crypto.lifetime), (1, "AES_CM_128_HMAC_SHA1_80", 1 << 20))
        self.assertEqual((crypto.keys.key, crypto.keys.salt), (OCTETS[:16], OCTETS[16:]))
        self.assertEqual(crypto.keys.mki, b"\0\0\0\1")

    def test_what_is_behind_the_key(self) -> None:
        """Lifetime and identifier come alone or together; the lifetime is a number or a power of two."""
        for more, lifetime, mki in (
            ("", 1 << 48, b""),
            ("|1000", 1000, b""),
            ("|2^48", 1 << 48, b""),
            ("|7:1", 1 << 48, b"\7"),
            ("|2^4|258:2", 16, b"\1\2"),
        ):
            crypto = Crypto.parse(LINE + more)
            self.assertEqual((crypto.lifetime, crypto.keys.mki), (lifetime, mki))

    def test_what_makes_no_difference(self) -> None:
        """Spaces, the case of the method, a missing end of the base64, the peer's window, what may be passed over."""
        expected = Crypto.parse(LINE)
        for text in (
            f"  1  AES_CM_128_HMAC_SHA1_80   INLINE:{KEY} ",
            f"{LINE} WSH=64",
            f"{LINE} WSH=1000 -SOMETHING=else",
        ):
            self.assertEqual(Crypto.parse(text), expected)
        octets = bytes(range(44))
        text = base64.b64encode(octets).decode().rstrip("=")
        self.assertEqual(Crypto.parse(f"2 AEAD_AES_256_GCM inline:{text}").keys.salt, octets[32:])

    def test_what_is_refused(self) -> None:
        """Whatever is wrong, unknown, or asks for less protection or more keys than we have."""
        for text in (
            "",
            "1 AES_CM_128_HMAC_SHA1_80",
            LINE.replace("1 ", "x ", 1),
            LINE.replace("1 ", "\u00b2 ", 1),
            LINE.replace("1 ", "1234567890 ", 1),
            LINE.replace("SHA1_80", "SHA1_81"),
            LINE.replace("inline:", "outline:"),
            LINE.replace("inline:", ""),
            f"{LINE};inline:{KEY}",
            f"{LINE}A",
            LINE[:-4],
            LINE.replace("WVN", "*VN"),
            LINE.replace("AES_CM_128_HMAC_SHA1_80", "AEAD_AES_128_GCM"),
            *(f"{LINE}|{lifetime}" for lifetime in ("", "x", "0", "2^", "2^49", "2^x", str((1 << 48) + 1), "9" * 16)),
            *(f"{LINE}|{mki}" for mki in ("1:", ":1", "1:0", "256:1", "1:129", "x:1", "\u00b2:1", "1:1000")),
            f"{LINE}|{'9' * 311}:128",
            f"{LINE}|2^20|2^20",
            f"{LINE}|1:4|2^20",
            f"{LINE}|2^20|1:4|1:4",
            *(
                f"{LINE} {parameter}"
                for parameter in (
                    "KDR=0",
                    "UNENCRYPTED_SRTP",
                    "UNENCRYPTED_SRTCP",
                    "UNAUTHENTICATED_SRTP",
                    "FEC_ORDER=FEC_SRTP",
                    "WSH=63",
                    "WSH",
                    "WSH=x",
                    "WSH=9999999999",
                )
            ),
        ):
            with self.subTest(text):
                error = self.assertRaises(SDESError, Crypto.parse, text)
                self.assertNotIn(KEY[:8], str(error))

    @settings(deadline=None, derandomize=True)
    @given(
        st.sampled_from(list(SUITES)),
        st.integers(0, 999_999_999),
        st.integers(1, 1 << 48),
        st.binary(max_size=128),
    )
    def test_what_is_written_is_read(self, suite: str, tag: int, lifetime: int, mki: bytes) -> None:
        """Any key of ours comes back from its line, and from the pipe."""
        fresh = Keys.generate(suite)
        crypto = Crypto(tag, Keys(suite, fresh.key, fresh.salt, mki), lifetime)
        self.assertEqual(Crypto.parse(str(crypto)), crypto)
        self.assertEqual(Keys.unpack(crypto.keys.pack()), crypto.keys)

    @settings(deadline=None, derandomize=True)
    @given(st.text(max_size=80), st.integers(0, len(LINE)))
    def test_noise(self, noise: str, place: int) -> None:
        """Whatever stands there, it is read or refused with the module's own error."""
        for text in (noise, LINE[:place] + noise, LINE[:place] + noise + LINE[place:], f"{LINE}|{noise}"):
            with contextlib.suppress(SDESError):
                Crypto.parse(text)


class KeysTests(SynchronousTestCase):
    def test_lengths(self) -> None:
        """A key of another suite's length, or of no suite, can't be made."""
        self.assertRaises(ValueError, Keys, "AEAD_AES_256_GCM", bytes(16), bytes(12))
        self.assertRaises(ValueError, Keys, "AEAD_AES_128_GCM", bytes(16), bytes(14))
        self.assertRaises(ValueError, Keys, "NULL", b"", b"")
        self.assertRaises(ValueError, Keys.unpack, ["AEAD_AES_128_GCM", "", ""])

    def test_fresh_ones(self) -> None:
        """One for each suite, in order, none of them twice."""
        first, second = sdes.generate(SUITES), sdes.generate(SUITES)
        self.assertEqual([crypto.tag for crypto in first], [1, 2, 3, 4])
        self.assertEqual([crypto.keys.suite for crypto in first], list(SUITES))
        self.assertEqual(len({crypto.keys.key for crypto in (*first, *second)}), 8)

    def test_they_are_not_shown(self) -> None:
        """Neither octets nor base64 of a key are in what a log or a traceback would write."""
        keys = Keys("AES_CM_128_HMAC_SHA1_80", OCTETS[:16], OCTETS[16:], b"mark")
        shown = repr([keys, Crypto(1, keys), Security(keys, keys), keys.pack(), Secret(KEY)])
        for secret in (KEY[:10], repr(OCTETS[:8])[2:-1], "mark", *keys.pack()[1:]):
            self.assertNotIn(str(secret), shown)
