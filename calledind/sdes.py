"""Keys of SRTP in session descriptions: a=crypto (RFC 4568, RFC 7714 §14.1).

    a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz|2^20|1:4

A tag that the answer refers to, the crypto-suite, the master key with its salt in base64, perhaps its lifetime and
the master key identifier with its length, perhaps session parameters. Each side names the key that it sends with.
What is asked for beyond what `calledind.rtp.srtp` does is refused, never passed over (§6.3.7). A description with
keys is a secret as long as the call lasts; neither keys nor `Secret` show themselves in a `repr`.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

MOST_PACKETS = 1 << 48
"That one key may be used for, with every suite (RFC 3711 §9.2)."
LEAST_WINDOW = 64
_LONGEST_MKI = 128


class SDESError(ValueError):
    """A crypto attribute that can't be read or must be refused; the message says why, without the key."""


class Secret(str):
    """Text that does not show itself in logs and tracebacks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'(secret)'"


@dataclass(frozen=True, slots=True)
class Suite:
    """What a crypto-suite's name stands for."""

    key: int
    "Octets of the master key, and of the session keys."
    salt: int
    "Octets of the master salt, and of the session salts."
    tag: int
    "Octets of authentication behind an RTP packet."
    control_tag: int
    "The same for RTCP."
    aead: bool
    "AES-GCM, otherwise AES-CM with HMAC-SHA1."


SUITES = {
    "AEAD_AES_256_GCM": Suite(32, 12, 16, 16, True),
    "AEAD_AES_128_GCM": Suite(16, 12, 16, 16, True),
    "AES_CM_128_HMAC_SHA1_80": Suite(16, 14, 10, 10, False),
    "AES_CM_128_HMAC_SHA1_32": Suite(16, 14, 4, 10, False),
}
"By the names of RFC 4568 §6.2 and RFC 7714 §14.1. The short tag is for RTP alone."


@dataclass(frozen=True, slots=True)
class Keys:
    """The master key of one direction."""

    suite: str
    "One of `SUITES`."
    key: bytes = field(repr=False)
    salt: bytes = field(repr=False)
    mki: bytes = field(default=b"", repr=False)
    "Master key identifier, which each packet then carries; mostly none."

    def __post_init__(self) -> None:
        suite = SUITES.get(self.suite)
        if suite is None or (len(self.key), len(self.salt)) != (suite.key, suite.salt):
            raise ValueError("a key or salt is not of the suite's length")

    @classmethod
    def generate(cls, suite: str) -> Keys:
        """Make new ones."""
        return cls(suite, secrets.token_bytes(SUITES[suite].key), secrets.token_bytes(SUITES[suite].salt))

    def pack(self) -> list[str]:
        """Return strings for `unpack`, for a pipe between processes; they are the secret itself."""
        return [self.suite, *(Secret(base64.b64encode(part).decode()) for part in (self.key, self.salt, self.mki))]

    @classmethod
    def unpack(cls, packed: Iterable[str]) -> Keys:
        """Read what `pack` returned. Raises ValueError for anything else."""
        suite, key, salt, mki = packed
        return cls(suite, base64.b64decode(key), base64.b64decode(salt), base64.b64decode(mki))


@dataclass(frozen=True, slots=True)
class Security:
    """The keys of a stream, as agreed."""

    ours: Keys
    "We send with."
    theirs: Keys
    "The peer sends with."


@dataclass(frozen=True, slots=True)
class Crypto:
    """The value of one a=crypto line."""

    tag: int
    "0 to 999,999,999, which an answer repeats."
    keys: Keys
    lifetime: int = MOST_PACKETS
    "Packets that its writer will send with the key at most."

    @classmethod
    def parse(cls, value: str) -> Crypto:
        """Read what stands behind "a=crypto:". Raises `SDESError`."""
        words = value.split()
        if len(words) < 3 or not (words[0].isascii() and words[0].isdigit()) or len(words[0]) > 9:
            raise SDESError("a crypto attribute without tag, suite and key")
        tag, suite, parameters, *session = words
        if suite not in SUITES:
            raise SDESError("a crypto-suite that we don't have")
        for each in session:
            _check_session_parameter(each)
        method, _, inline = parameters.partition(":")
        if method.lower() != "inline" or ";" in inline:
            raise SDESError("not one key, inline")
        text, *more = inline.split("|")
        lifetime, mki = MOST_PACKETS, b""
        for place, each in enumerate(more):
            if ":" in each and place == len(more) - 1:
                mki = _mki(each)
            elif place == 0:
                lifetime = _lifetime(each)
            else:
                raise SDESError("a key with more behind it than lifetime and identifier")
        try:
            octets = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
            keys = Keys(suite, octets[: SUITES[suite].key], octets[SUITES[suite].key :], mki)
        except (ValueError, binascii.Error):
            raise SDESError("a key that is not base64, or not of the suite's length") from None
        return cls(int(tag), keys, lifetime)

    def __str__(self) -> str:
        keys = self.keys
        text = f"{self.tag} {keys.suite} inline:{base64.b64encode(keys.key + keys.salt).decode()}"
        if self.lifetime != MOST_PACKETS:
            text += f"|{self.lifetime}"
        if keys.mki:
            text += f"|{int.from_bytes(keys.mki, 'big')}:{len(keys.mki)}"
        return text


def generate(suites: Iterable[str]) -> tuple[Crypto, ...]:
    """Make a key for each suite, to be offered in this order."""
    return tuple(Crypto(tag, Keys.generate(suite)) for tag, suite in enumerate(suites, 1))


def _check_session_parameter(text: str) -> None:
    """Let only pass what changes nothing for us: the peer's window, and what may be passed over (§6.3.6, §6.3.7)."""
    name, _, value = text.partition("=")
    if name.startswith("-"):
        return
    if name != "WSH" or not (value.isascii() and value.isdigit()) or len(value) > 9 or int(value) < LEAST_WINDOW:
        raise SDESError("a session parameter that we don't have")


def _lifetime(text: str) -> int:
    """Read a number or "2^n"."""
    power = text.startswith("2^")
    digits = text[2:] if power else text
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 15 or (power and int(digits) > 48):
        raise SDESError("a key with no proper lifetime")
    lifetime = 1 << int(digits) if power else int(digits)
    if not 0 < lifetime <= MOST_PACKETS:
        raise SDESError("a key with no proper lifetime")
    return lifetime


def _mki(text: str) -> bytes:
    """Read "value:octets"."""
    number, _, length = text.partition(":")
    if not (number + length).isascii() or not (number.isdigit() and length.isdigit()) or len(length) > 3:
        raise SDESError("a key with no proper identifier")
    octets = int(length)
    if not 0 < octets <= _LONGEST_MKI or len(number) > 310 or int(number) >> 8 * octets:
        raise SDESError("a key with no proper identifier")
    return int(number).to_bytes(octets, "big")
