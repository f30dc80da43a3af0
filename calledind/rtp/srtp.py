"""SRTP and SRTCP (RFC 3711), with AES in counter mode and HMAC-SHA1 (RFC 4568 §6.2) or AES-GCM (RFC 7714).

    RTP    header | encrypted payload [| MKI] | tag                    AES-CM
           header | encrypted payload | tag [| MKI]                    AES-GCM
    RTCP   8 octets | the rest, encrypted | E, index [| MKI] | tag     AES-CM
           8 octets | the rest, encrypted | tag | E, index [| MKI]     AES-GCM

Each direction has a master key and salt of its own, from which six session keys are made once (§4.3, with a key
derivation rate of 0). A packet is known by its index: for RTP the sequence number under a roll-over counter that is
never sent (§3.3.1), for RTCP 31 bits that are. What goes into the cipher is made of SSRC and index, so an index must
never come twice under a key: a sequence number that does not grow begins the next round of the counter.

A received packet is looked up in the replay window first, then authenticated, then decrypted, and only then does it
move the window (§3.3). Keys are in no `repr` and in no error.
"""

from __future__ import annotations

import hmac
from contextlib import suppress
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from calledind.rtp.packet import HEADER_OCTETS, VERSION, RTPError
from calledind.sdes import MOST_PACKETS, SUITES, Keys

REPLAY_WINDOW = 128
"Packets behind the newest one that may still come; RFC 3711 §3.3.2 asks for 64 at least."
MOST_SOURCES = 64
"SSRCs that one peer may send with under its key."
MOST_CONTROL_PACKETS = 1 << 31
"RTCP datagrams that one key may be used for (§9.2)."

_CONTROL_HEADER = 8
_INDEX = 4
"Octets of the SRTCP index with its E flag."
_ENCRYPTED = 1 << 31
_AUTHENTICATION_KEY = 20
_DERIVATION_SALT = 14
_BLOCK = 16


class SRTPError(RTPError):
    """A packet that is not what the peer sent under this key, came before, or is too old to tell."""


def derive(key: bytes, salt: bytes, label: int, octets: int) -> bytes:
    """Make a session key from a master key (§4.3.1, §4.3.3; RFC 7714 §11 for the shorter salt)."""
    start = int.from_bytes(salt.ljust(_DERIVATION_SALT, b"\0"), "big") ^ label << 48
    generator = Cipher(AES(key), CTR((start << 16).to_bytes(_BLOCK, "big"))).encryptor()
    return generator.update(bytes(octets))


class Transform(Protocol):
    """Encryption and authentication under one session key."""

    def seal(self, ssrc: int, index: int, header: bytes, content: bytes, trailer: bytes) -> tuple[bytes, bytes]:
        """Return the encrypted content and the tag, which vouches for the header and the trailer, too."""

    def open(self, ssrc: int, index: int, header: bytes, content: bytes, trailer: bytes, tag: bytes) -> bytes:
        """Return the content. Raises `SRTPError` where the tag is wrong."""

    def verify(self, header: bytes, trailer: bytes, ssrc: int, index: int, tag: bytes) -> None:
        """Raise `SRTPError` where the tag of what was not encrypted is wrong."""


class CounterMode:
    """AES-CM (§4.1.1) and HMAC-SHA1 (§4.2.1)."""

    def __init__(self, key: bytes, salt: bytes, authentication_key: bytes, tag: int) -> None:
        self._salt = int.from_bytes(salt, "big") << 16
        self._generator = Cipher(AES(key), CTR(bytes(_BLOCK))).encryptor()
        self._mac = hmac.new(authentication_key, digestmod="sha1")
        self._tag = tag

    def crypt(self, ssrc: int, index: int, content: bytes) -> bytes:
        """Encrypt or decrypt."""
        start = self._salt ^ ssrc << 64 ^ index << 16
        self._generator.reset_nonce(start.to_bytes(_BLOCK, "big"))
        return self._generator.update(content)

    def _tag_of(self, *parts: bytes) -> bytes:
        mac = self._mac.copy()
        for part in parts:
            mac.update(part)
        return mac.digest()[: self._tag]

    def seal(self, ssrc: int, index: int, header: bytes, content: bytes, trailer: bytes) -> tuple[bytes, bytes]:
        encrypted = self.crypt(ssrc, index, content)
        return encrypted, self._tag_of(header, encrypted, trailer)

    def open(self, ssrc: int, index: int, header: bytes, content: bytes, trailer: bytes, tag: bytes) -> bytes:
        if not hmac.compare_digest(self._tag_of(header, content, trailer), tag):
            raise SRTPError("a wrong authentication tag")
        return self.crypt(ssrc, index, content)

    def verify(self, header: bytes, trailer: bytes, ssrc: int, index: int, tag: bytes) -> None:
        if not hmac.compare_digest(self._tag_of(header, trailer), tag):
            raise SRTPError("a wrong authentication tag")


class GaloisCounterMode:
    """AES-GCM (RFC 7714 §8, §9)."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        self._salt = int.from_bytes(salt, "big")
        self._cipher = AESGCM(key)

    def _nonce(self, ssrc: int, index: int) -> bytes:
        return (self._salt ^ ssrc << 48 ^ index).to_bytes(12, "big")

    def seal(self, ssrc: int, index: int, header: bytes, content: bytes, trailer: bytes) -> tuple[bytes, bytes]:
        sealed = self._cipher.encrypt(self._nonce(ssrc, index), content, header + trailer)
        return sealed[:-16], sealed[-16:]

    def open(self, ssrc: int, index: int, header: bytes, content: bytes, trailer: bytes, tag: bytes) -> bytes:
        try:
            return self._cipher.decrypt(self._nonce(ssrc, index), content + tag, header + trailer)
        except InvalidTag:
            raise SRTPError("a wrong authentication tag") from None

    def verify(self, header: bytes, trailer: bytes, ssrc: int, index: int, tag: bytes) -> None:
        self.open(ssrc, index, header, b"", trailer, tag)


def transform(suite: str, key: bytes, salt: bytes, authentication_key: bytes, *, control: bool = False) -> Transform:
    """Return the suite's transform under these session keys."""
    figures = SUITES[suite]
    if figures.aead:
        return GaloisCounterMode(key, salt)
    return CounterMode(key, salt, authentication_key, figures.control_tag if control else figures.tag)


def _derived(keys: Keys, *, control: bool) -> Transform:
    suite, first = SUITES[keys.suite], 3 if control else 0
    encryption, authentication, salt = (
        derive(keys.key, keys.salt, first + label, octets)
        for label, octets in enumerate((suite.key, _AUTHENTICATION_KEY, suite.salt))
    )
    return transform(keys.suite, encryption, salt, authentication, control=control)


class Sender:
    """Our side of a stream: packets in, protected packets out."""

    def __init__(self, keys: Keys, *, rtp: Transform | None = None, control: Transform | None = None) -> None:
        """`rtp`, `control`: in place of those that are derived from the keys."""
        self._aead = SUITES[keys.suite].aead
        self._mki = keys.mki
        self._rtp = rtp or _derived(keys, control=False)
        self._control = control or _derived(keys, control=True)
        self._last: dict[int, int] = {}
        "SSRC -> index of the last RTP packet."
        self.control_index = 0
        "Of the next RTCP packet."

    def seal(self, header: bytes, payload: bytes) -> bytes:
        """Return what follows the header in the protected packet.

        `header`: whole, with contributing sources and extension. Sequence numbers of an SSRC must grow; one that
        does not is taken for the next round's. Raises `SRTPError` when the key is used up.
        """
        ssrc = int.from_bytes(header[8:12], "big")
        sequence = header[2] << 8 | header[3]
        last = self._last.get(ssrc, -1)
        index = last & ~0xFFFF | sequence if last >= 0 else sequence
        if index <= last:
            index += 0x10000
        if index >= MOST_PACKETS:
            raise SRTPError("the key is used up")
        self._last[ssrc] = index
        if self._aead:
            return b"".join(self._rtp.seal(ssrc, index, header, payload, b"")) + self._mki
        encrypted, tag = self._rtp.seal(ssrc, index, header, payload, (index >> 16).to_bytes(4, "big"))
        return encrypted + self._mki + tag

    def protect_control(self, datagram: bytes) -> bytes:
        """Return a protected RTCP datagram. Raises `SRTPError` when the key is used up, or for what is no RTCP."""
        if len(datagram) < _CONTROL_HEADER:
            raise SRTPError("no RTCP")
        if self.control_index >= MOST_CONTROL_PACKETS:
            raise SRTPError("the key is used up")
        index, self.control_index = self.control_index, self.control_index + 1
        header, word = datagram[:_CONTROL_HEADER], (index | _ENCRYPTED).to_bytes(_INDEX, "big")
        ssrc = int.from_bytes(header[4:], "big")
        encrypted, tag = self._control.seal(ssrc, index, header, datagram[_CONTROL_HEADER:], word)
        if self._aead:
            return header + encrypted + tag + word + self._mki
        return header + encrypted + word + self._mki + tag


class _Window:
    """Which indices of one SSRC have come (§3.3.2)."""

    __slots__ = ("_seen", "highest")

    def __init__(self) -> None:
        self.highest = -1
        self._seen = 0
        "Bit n: the one n below the highest has come."

    def is_new(self, index: int) -> bool:
        behind = self.highest - index
        return behind < 0 or (behind < REPLAY_WINDOW and not self._seen >> behind & 1)

    def add(self, index: int) -> None:
        ahead = index - self.highest
        if ahead > 0:
            self._seen = (self._seen << min(ahead, REPLAY_WINDOW) | 1) & ((1 << REPLAY_WINDOW) - 1)
            self.highest = index
        else:
            self._seen |= 1 << -ahead

    def guess(self, sequence: int) -> int:
        """Return the index nearest to the highest (§3.3.1); less than 0 for one before the first."""
        if self.highest < 0:
            return sequence
        index = self.highest & ~0xFFFF | sequence
        if index - self.highest > 0x8000:
            return index - 0x10000
        return index + 0x10000 if self.highest - index > 0x8000 else index


class Receiver:
    """The peer's side of a stream: protected packets in, packets out."""

    def __init__(self, keys: Keys, *, rtp: Transform | None = None, control: Transform | None = None) -> None:
        """`rtp`, `control`: in place of those that are derived from the keys."""
        suite = SUITES[keys.suite]
        self._aead = suite.aead
        self._mki = keys.mki
        self._tag, self._control_tag = suite.tag, suite.control_tag
        self._rtp = rtp or _derived(keys, control=False)
        self._control = control or _derived(keys, control=True)
        self._windows: dict[int, _Window] = {}
        self._control_windows: dict[int, _Window] = {}

    def unprotect(self, packet: bytes) -> bytes:
        """Return the RTP packet, once. Raises `SRTPError`."""
        opened, ssrc, index, window = self._open(packet)
        window.add(index)
        self._windows[ssrc] = window
        return opened

    def is_authentic(self, packet: bytes) -> bool:
        """Say whether `unprotect` would take it, without taking it."""
        try:
            self._open(packet)
        except SRTPError:
            return False
        return True

    def unprotect_control(self, datagram: bytes) -> bytes:
        """Return the RTCP datagram, once. Raises `SRTPError`."""
        opened, ssrc, index, window = self._open_control(datagram)
        window.add(index)
        self._control_windows[ssrc] = window
        return opened

    def is_authentic_control(self, datagram: bytes) -> bool:
        """Say whether `unprotect_control` would take it, without taking it."""
        try:
            self._open_control(datagram)
        except SRTPError:
            return False
        return True

    def _open(self, packet: bytes) -> tuple[bytes, int, int, _Window]:
        end = header_end(packet)
        body, tag, rest = self._cut(packet[end:], self._tag, 0)
        ssrc = int.from_bytes(packet[8:12], "big")
        window = _window(self._windows, ssrc)
        guess = window.guess(packet[2] << 8 | packet[3])
        header = packet[:end]
        # Before the first packet: the sequence number may have wrapped in those that were missed.
        for index in (guess,) if window.highest >= 0 else (guess, guess + 0x10000):
            if not 0 <= index < MOST_PACKETS or not window.is_new(index):
                raise SRTPError("a packet that came before, or that is too old to tell")
            trailer = rest if self._aead else (index >> 16).to_bytes(4, "big")
            with suppress(SRTPError):
                return header + self._rtp.open(ssrc, index, header, body, trailer, tag), ssrc, index, window
        raise SRTPError("a wrong authentication tag")

    def _open_control(self, datagram: bytes) -> tuple[bytes, int, int, _Window]:
        header = datagram[:_CONTROL_HEADER]
        body, tag, word = self._cut(datagram[_CONTROL_HEADER:], self._control_tag, _INDEX)
        ssrc, flagged = int.from_bytes(header[4:], "big"), int.from_bytes(word, "big")
        index = flagged & ~_ENCRYPTED
        window = _window(self._control_windows, ssrc)
        if not window.is_new(index):
            raise SRTPError("a packet that came before, or that is too old to tell")
        if flagged & _ENCRYPTED:
            body = self._control.open(ssrc, index, header, body, word, tag)
        else:
            self._control.verify(header + body, word, ssrc, index, tag)
        return header + body, ssrc, index, window

    def _cut(self, content: bytes, tag: int, index: int) -> tuple[bytes, bytes, bytes]:
        """Return what is protected, the tag and the index, after a look at the MKI."""
        order = (tag, index, len(self._mki)) if self._aead else (index, len(self._mki), tag)
        at = len(content) - sum(order)
        if at < 0:
            raise SRTPError("too short to be protected")
        parts = [content[:at]]
        for octets in order:
            parts.append(content[at : at + octets])
            at += octets
        body, first, second, third = parts
        found, word, mki = (first, second, third) if self._aead else (third, first, second)
        if mki != self._mki:
            raise SRTPError("a key that was not agreed")
        return body, found, word


def _window(windows: dict[int, _Window], ssrc: int) -> _Window:
    window = windows.get(ssrc)
    if window is None:
        if len(windows) >= MOST_SOURCES:
            raise SRTPError("one more source than a peer needs")
        window = _Window()
    return window


def header_end(packet: bytes) -> int:
    """Return the octets of a packet's header, contributing sources and extension. Raises `SRTPError`."""
    if len(packet) < HEADER_OCTETS or packet[0] >> 6 != VERSION:
        raise SRTPError("no RTP")
    end = HEADER_OCTETS + 4 * (packet[0] & 0x0F)
    if packet[0] & 0x10:
        end += 4 + 4 * int.from_bytes(packet[end + 2 : end + 4], "big")
    if end > len(packet):
        raise SRTPError("cut off in the header")
    return end
