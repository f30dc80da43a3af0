"""MP3s for the tests: the samples, and what can be made of them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SAMPLES = Path(__file__).parent / "samples"
NAMES = sorted(path.name for path in SAMPLES.glob("[0-9]*.mp3"))


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


def speech() -> NDArray[np.int16]:
    """Return what was encoded into all the samples, 8,000 samples a second."""
    return np.fromfile(SAMPLES / "speech.s16", np.int16)


def silence(seconds: float) -> bytes:
    """Return MPEG 1 layer 3 frames of 24 ms each with nothing in them: 48 kHz, 32 kbit/s, mono."""
    frame = b"\xff\xfb\x14\xc4" + bytes(92)
    return frame * round(seconds / 0.024)


def id3v2(body: bytes, *, flags: int = 0) -> bytes:
    """Return an ID3v2.4 tag."""
    length = bytes(len(body) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\x00" + bytes([flags]) + length + body


def ape_footer(size: int, *, has_header: bool) -> bytes:
    """Return the 32 octets at the end of an APEv2 tag; `size` counts the items and the footer."""
    flags = 0x80000000 if has_header else 0
    return b"APETAGEX" + b"".join(n.to_bytes(4, "little") for n in (2000, size, 1, flags)) + bytes(8)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return `data` with some of it changed, cut, doubled or moved."""
    octets = bytearray(data)
    for _ in range(chance.choice((1, 3, 20, 200))):
        at = chance.randrange(len(octets))
        match chance.randrange(6):
            case 0 | 1:
                octets[at] = chance.randrange(256)
            case 2:
                octets[at] ^= 1 << chance.randrange(8)
            case 3 if len(octets) > 200:
                del octets[at : at + chance.randrange(1, 100)]
            case 4:
                octets[at:at] = chance.randbytes(chance.randrange(1, 100))
            case _:
                other = chance.randrange(len(octets))
                octets[at : at + 50] = octets[other : other + 50]
    return bytes(octets)
