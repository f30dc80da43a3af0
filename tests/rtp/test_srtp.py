"""SRTP and SRTCP: the RFCs' test vectors, and what comes back, comes twice or was tampered with."""

from __future__ import annotations

import random

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.rtp import srtp
from calledind.rtp.packet import Packet
from calledind.rtp.srtp import CounterMode, Receiver, Sender, SRTPError, derive, transform
from calledind.sdes import SUITES, Keys
from tests.rtp.test_packet import PACKETS

# RFC 3711, appendix B.2: AES-CM. The counter's first and last blocks, and the key stream there.
COUNTER_KEY = bytes.fromhex("2B7E151628AED2A6ABF7158809CF4F3C")
COUNTER_SALT = bytes.fromhex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD")
KEY_STREAM = {
    0x0000: "E03EAD0935C95E80E166B16DD92B4EB4",
    0x0001: "D23513162B02D0F72A43A2FE4A5F97AB",
    0x0002: "41E95B3BB0A2E8DD477901E4FCA894C0",
    0xFEFF: "EC8CDF7398607CB0F2D21675EA9EA1E4",
    0xFF00: "362B7C3C6773516318A077D7FC5073AE",
    0xFF01: "6A2CC3787889374FBEB4C81B17BA6C44",
}
# RFC 3711, appendix B.3: key derivation.
MASTER_KEY = bytes.fromhex("E1F97A0D3E018BE0D64FA32C06DE4139")
MASTER_SALT = bytes.fromhex("0EC675AD498AFEEBB6960B3AABE6")
CIPHER_KEY = "C61E7A93744F39EE10734AFE3FF7A087"
CIPHER_SALT = "30CBBC08863D8C85D49DB34A9AE1"
AUTHENTICATION_KEY = (
    "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA48F0A0ACF3C34E2359E6CDBCEE049646C43D9327AD175578EF72270986371C10C9A369AC2"
    "F94A8C5FBCDDDC256D6E919A48B610EF17C2041E474035766B68642C59BBFC2F34DB60DBDFB2"
)
# RFC 7714, sections 16 and 17: session keys and packets. The text before §17.1 shows other octets than its sections
# encrypt; these are the sections'.
GCM_KEYS = {
    "AEAD_AES_128_GCM": bytes(range(16)),
    "AEAD_AES_256_GCM": bytes(range(32)),
}
GCM_SALT = b"Quid pro quo"
RTP = bytes.fromhex("8040f17b8041f8d35501a0b2") + b"Gallia est omnis divisa in partes tres"
SEALED_RTP = {
    "AEAD_AES_128_GCM": "8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de"
    "3adf8833899d7f27beb16a9152cf765ee4390cce",
    "AEAD_AES_256_GCM": "8040f17b8041f8d35501a0b232b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba6"
    "3799b87b7aa3db36dfffd6b0f9bb7878d7a76c13",
}
RTCP_INDEX = 0x5D4
RTCP = bytes.fromhex(
    "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61deadbeefdeadbeefdeadbeefdeadbeefdeadbeef"
)
SEALED_RTCP = {
    "AEAD_AES_128_GCM": "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda4ce09b468630"
    "3ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade800005d4",
    "AEAD_AES_256_GCM": "81c8000d4d617273d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be8415f658c61d"
    "e0476f1b6fad1d1eb30c4446839f57ff6f6cb26ac3be800005d4",
}
TAGGED_RTCP = bytes.fromhex(
    "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61deadbeefdeadbeefdeadbeefdeadbeefdeadbeef"
    "841dd9683dd78ec92ae58790125f62b3000005d4"
)
"With AEAD_AES_128_GCM: vouched for, not encrypted (§17.3)."
# What libsrtp makes, under the keys of RFC 3711 B.3, of RTP and of the second RTCP with AES_CM_128_HMAC_SHA1_80; the
# RFC has no whole packets.
PLAIN = bytes.fromhex("800f1234decafbadcafebabe" + "ab" * 16), bytes.fromhex("81c8000bcafebabe" + "ab" * 16)
LIBSRTP = (
    "800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb",
    "81c8000bcafebabe7128035be487b9bdbef89041f977a5a880000001993e08cd54d6c1230798",
)
REPORT = bytes.fromhex("80c90001deadbeef") + bytes(24)

ALL = st.sampled_from(list(SUITES))


def keys(suite: str, mki: bytes = b"") -> Keys:
    """The same at each call."""
    figures = SUITES[suite]
    return Keys(suite, bytes(range(figures.key)), bytes(range(100, 100 + figures.salt)), mki)


def packet(sequence: int, ssrc: int = 0xDEADBEEF) -> bytes:
    return bytes(Packet(0, sequence & 0xFFFF, 160 * sequence & 0xFFFFFFFF, ssrc, bytes(160)))


class VectorTests(SynchronousTestCase):
    def test_counter_mode(self) -> None:
        """RFC 3711 B.2: the key stream, its first blocks and those around the 65,280th."""
        found = CounterMode(COUNTER_KEY, COUNTER_SALT, b"", 10).crypt(0, 0, bytes(16 * 0xFF02))
        self.assertEqual(
            {block: found[16 * block : 16 * block + 16].hex().upper() for block in KEY_STREAM},
            KEY_STREAM,
        )
        block = COUNTER_SALT + b"\0\0"
        self.assertEqual(Cipher(AES(COUNTER_KEY), ECB()).encryptor().update(block), found[:16])

    def test_key_derivation(self) -> None:
        """RFC 3711 B.3: cipher key, salt and 94 octets of authentication key."""
        found = [derive(MASTER_KEY, MASTER_SALT, label, octets) for label, octets in ((0, 16), (2, 14), (1, 94))]
        self.assertEqual([each.hex().upper() for each in found], [CIPHER_KEY, CIPHER_SALT, AUTHENTICATION_KEY])

    def test_whole_packets(self) -> None:
        """RTP and RTCP as libsrtp writes them, to the octet, and back."""
        agreed = Keys("AES_CM_128_HMAC_SHA1_80", MASTER_KEY, MASTER_SALT)
        sender, receiver = Sender(agreed), Receiver(agreed)
        sender.control_index = 1
        sealed = protect(sender, PLAIN[0]), sender.protect_control(PLAIN[1])
        self.assertEqual(tuple(each.hex() for each in sealed), LIBSRTP)
        self.assertEqual((receiver.unprotect(sealed[0]), receiver.unprotect_control(sealed[1])), PLAIN)

    def vector(self, suite: str) -> tuple[Sender, Receiver]:
        """Both ends with the session keys of RFC 7714."""
        session = transform(suite, GCM_KEYS[suite], GCM_SALT, b"")
        sender = Sender(keys(suite), rtp=session, control=session)
        sender.control_index = RTCP_INDEX
        return sender, Receiver(keys(suite), rtp=session, control=session)

    def test_galois_counter_mode(self) -> None:
        """RFC 7714 §16: the protected packet to the octet, and back."""
        for suite, sealed in SEALED_RTP.items():
            sender, receiver = self.vector(suite)
            self.assertEqual(protect(sender, RTP).hex(), sealed)
            self.assertEqual(receiver.unprotect(bytes.fromhex(sealed)), RTP)

    def test_galois_counter_mode_of_rtcp(self) -> None:
        """RFC 7714 §17: the protected datagram to the octet, and back."""
        for suite, sealed in SEALED_RTCP.items():
            sender, receiver = self.vector(suite)
            self.assertEqual(sender.protect_control(RTCP).hex(), sealed)
            self.assertEqual(receiver.unprotect_control(bytes.fromhex(sealed)), RTCP)

    def test_rtcp_that_is_only_authenticated(self) -> None:
        """RFC 7714 §17.3: without the E flag nothing is decrypted, and the tag still counts."""
        _, receiver = self.vector("AEAD_AES_128_GCM")
        self.assertEqual(receiver.unprotect_control(TAGGED_RTCP), RTCP)
        other = TAGGED_RTCP[:20] + b"\xff" + TAGGED_RTCP[21:]
        self.assertFalse(self.vector("AEAD_AES_128_GCM")[1].is_authentic_control(other))
        plain, word = REPORT, (7).to_bytes(4, "big")
        session = transform("AES_CM_128_HMAC_SHA1_32", bytes(16), bytes(14), bytes(20), control=True)
        _, tag = session.seal(0, 7, plain, b"", word)
        receiver = Receiver(keys("AES_CM_128_HMAC_SHA1_32"), control=session)
        self.assertRaises(SRTPError, receiver.unprotect_control, plain + word + bytes(10))
        self.assertEqual(receiver.unprotect_control(plain + word + tag), plain)


class StreamTests(SynchronousTestCase):
    @settings(deadline=None, derandomize=True)
    @given(ALL, st.sampled_from([b"", b"\1", b"\0\0\0\7"]), PACKETS)
    def test_what_is_protected_comes_back(self, suite: str, mki: bytes, sent: Packet) -> None:
        """Any packet does, with contributing sources and extension in the clear, and is longer by tag and MKI."""
        sender, receiver = Sender(keys(suite, mki)), Receiver(keys(suite, mki))
        plain = bytes(sent)
        protected = protect(sender, plain)
        self.assertEqual(len(protected) - len(plain), SUITES[suite].tag + len(mki))
        self.assertEqual(protected[: srtp.header_end(plain)], plain[: srtp.header_end(plain)])
        self.assertTrue(receiver.is_authentic(protected))
        self.assertEqual(receiver.unprotect(protected), plain)

    @settings(deadline=None, derandomize=True)
    @given(ALL, st.sampled_from([b"", b"\0\0\0\7"]), st.binary(max_size=200))
    def test_rtcp_comes_back(self, suite: str, mki: bytes, content: bytes) -> None:
        """Each datagram does, with an index of its own, longer by index, tag and MKI."""
        sender, receiver = Sender(keys(suite, mki)), Receiver(keys(suite, mki))
        plain = REPORT[:8] + content
        protected = [sender.protect_control(plain) for _ in range(3)]
        self.assertEqual(len(set(protected)), 3)
        self.assertEqual(len(protected[0]) - len(plain), 4 + SUITES[suite].control_tag + len(mki))
        self.assertTrue(receiver.is_authentic_control(protected[1]))
        self.assertEqual([receiver.unprotect_control(each) for each in protected], [plain] * 3)

    def test_the_counter_rolls_over(self) -> None:
        """With most packets lost, three times round the sequence numbers; each comes back, once."""
        for suite in SUITES:
            sender, receiver = Sender(keys(suite)), Receiver(keys(suite))
            for sequence in range(60_000, 260_000, 1_999):
                protected = protect(sender, packet(sequence))
                self.assertEqual(receiver.unprotect(protected), packet(sequence))
                self.assertRaises(SRTPError, receiver.unprotect, protected)

    @settings(deadline=None, derandomize=True, max_examples=50)
    @given(ALL, st.permutations(range(65_530, 65_546)))
    def test_disorder(self, suite: str, order: list[int]) -> None:
        """Packets on both sides of the sequence number's end come in any order, each once."""
        sender, receiver = Sender(keys(suite)), Receiver(keys(suite))
        protected = {sequence: protect(sender, packet(sequence)) for sequence in range(65_520, 65_546)}
        receiver.unprotect(protected[65_520])
        for sequence in order:
            self.assertEqual(receiver.unprotect(protected[sequence]), packet(sequence))
        for sequence in order:
            self.assertRaises(SRTPError, receiver.unprotect, protected[sequence])

    def test_the_window(self) -> None:
        """The 128th newest packet may still come, the one before it may not, nor may one before the first."""
        sender, receiver = Sender(keys(next(iter(SUITES)))), Receiver(keys(next(iter(SUITES))))
        protected = [protect(sender, packet(sequence)) for sequence in range(500)]
        receiver.unprotect(protected[300])
        receiver.unprotect(protected[300 - srtp.REPLAY_WINDOW + 1])
        self.assertRaises(SRTPError, receiver.unprotect, protected[300 - srtp.REPLAY_WINDOW])
        receiver.unprotect(protected[499])
        other = Receiver(keys(next(iter(SUITES))))
        other.unprotect(protected[3])
        self.assertRaises(SRTPError, other.unprotect, packet(65_535) + bytes(16))

    def test_rtcp_comes_once(self) -> None:
        """Datagrams may come in any order, none of them twice."""
        for suite in SUITES:
            sender, receiver = Sender(keys(suite)), Receiver(keys(suite))
            protected = [sender.protect_control(REPORT) for _ in range(5)]
            for index in (3, 0, 4, 2, 1):
                self.assertEqual(receiver.unprotect_control(protected[index]), REPORT)
                self.assertRaises(SRTPError, receiver.unprotect_control, protected[index])

    def test_sources(self) -> None:
        """Each SSRC has a counter of its own; there may be so many of them."""
        sender, receiver = Sender(keys("AEAD_AES_128_GCM")), Receiver(keys("AEAD_AES_128_GCM"))
        for ssrc in range(srtp.MOST_SOURCES):
            for sequence in (65_535, 65_536):
                plain = packet(sequence, ssrc)
                self.assertEqual(receiver.unprotect(protect(sender, plain)), plain)
        self.assertFalse(receiver.is_authentic(protect(sender, packet(1, 1_000_000))))
        self.assertTrue(receiver.is_authentic(protect(sender, packet(65_537, 0))))

    def test_a_sequence_number_twice(self) -> None:
        """It is never encrypted with the same key stream again."""
        for suite in SUITES:
            sender = Sender(keys(suite))
            self.assertNotEqual(protect(sender, packet(7))[12:-16], protect(sender, packet(7))[12:-16])

    def test_who_misses_the_beginning(self) -> None:
        """A stream whose numbers wrapped before its first packet came is taken all the same, and followed."""
        for suite in SUITES:
            sender, receiver = Sender(keys(suite)), Receiver(keys(suite))
            protected = [protect(sender, packet(sequence & 0xFFFF)) for sequence in range(65_530, 65_545)]
            self.assertTrue(receiver.is_authentic(protected[8]))
            for number in (8, 9, 4, 14):
                self.assertEqual(receiver.unprotect(protected[number]), packet((65_530 + number) & 0xFFFF))
            self.assertRaises(SRTPError, receiver.unprotect, protected[8])

    def test_a_key_that_is_used_up(self) -> None:
        """After the last index that it is good for nothing is sent with it."""
        sender = Sender(keys("AES_CM_128_HMAC_SHA1_80"))
        sender.control_index = (1 << 31) - 1
        sender.protect_control(REPORT)
        self.assertRaises(SRTPError, sender.protect_control, REPORT)
        sender._last[0xDEADBEEF] = (1 << 48) - 2
        protect(sender, packet(0xFFFF))
        self.assertRaises(SRTPError, protect, sender, packet(0))


class RefusalTests(SynchronousTestCase):
    def test_two_thousand_changed_packets(self) -> None:
        """Bits turned, octets cut off, added and exchanged: each is refused, and the true packet comes after it."""
        chance = random.Random(3711)
        for suite in SUITES:
            sender, receiver = Sender(keys(suite)), Receiver(keys(suite))
            for sequence in range(500):
                for true, unprotect, plain in (
                    (protect(sender, packet(sequence)), receiver.unprotect, packet(sequence)),
                    (sender.protect_control(REPORT), receiver.unprotect_control, REPORT),
                ):
                    self.assertRaises(SRTPError, unprotect, changed(true, chance))
                    self.assertEqual(unprotect(true), plain)

    @settings(deadline=None, derandomize=True)
    @given(ALL, st.binary(max_size=100))
    def test_noise(self, suite: str, noise: bytes) -> None:
        """Whatever comes, it is refused with the module's own error."""
        receiver = Receiver(keys(suite))
        for data in (noise, packet(1)[:12] + noise, b"\x9f" + noise, REPORT[:8] + noise):
            self.assertRaises(SRTPError, receiver.unprotect, data)
            self.assertRaises(SRTPError, receiver.unprotect_control, data)

    def test_another_key(self) -> None:
        """What was sent under another key, salt or MKI is not taken."""
        for suite, figures in SUITES.items():
            for other in (
                Keys(suite, bytes(figures.key), keys(suite).salt),
                Keys(suite, keys(suite).key, bytes(figures.salt)),
            ):
                self.assertFalse(Receiver(keys(suite)).is_authentic(protect(Sender(other), packet(1))))
            marked = protect(Sender(keys(suite, b"\1")), packet(1))
            self.assertFalse(Receiver(keys(suite, b"\2")).is_authentic(marked))
            self.assertTrue(Receiver(keys(suite, b"\1")).is_authentic(marked))

    def test_what_is_none(self) -> None:
        """What is no RTP is not taken, what is no RTCP not sent either."""
        receiver, sender = Receiver(keys("AEAD_AES_256_GCM")), Sender(keys("AEAD_AES_256_GCM"))
        for data in (b"", bytes(12), b"\x80" + bytes(10), b"\x81" + bytes(11), b"\x90" + bytes(13)):
            self.assertRaises(SRTPError, receiver.unprotect, data)
        self.assertRaises(SRTPError, sender.protect_control, bytes(7))


def protect(sender: Sender, packet: bytes) -> bytes:
    """Return the whole protected packet."""
    end = srtp.header_end(packet)
    return packet[:end] + sender.seal(packet[:end], packet[end:])


def changed(data: bytes, chance: random.Random) -> bytes:
    """Return other octets than these."""
    kind, place = chance.randrange(4), chance.randrange(len(data))
    if kind == 0:
        return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
    if kind == 1:
        return data[:place] + data[place + 1 :]
    if kind == 2:
        return data[:place] + chance.randbytes(1) + data[place:]
    return data[:place] + chance.randbytes(9) + data[place + 8 :]
