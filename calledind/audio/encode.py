"""G.711: 16-bit linear PCM to one octet a sample, by tables of all 65,536 values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 8000
"Samples, and octets, a second (RFC 3551 §4.5.14)."


def mu_law(pcm: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Encode 16-bit linear PCM as G.711 mu-law, sample by sample.

    `pcm`: shape (n,), any sample rate. Returns shape (n,), uint8.
    Source: ITU-T G.711, tables 2a and 2b; the 14 most significant bits count.
    """
    return _MU_LAW[pcm.view(np.uint16)]


def a_law(pcm: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Encode 16-bit linear PCM as G.711 A-law, sample by sample, even bits inverted.

    `pcm`: shape (n,), any sample rate. Returns shape (n,), uint8.
    Source: ITU-T G.711, tables 1a and 1b; the 13 most significant bits count.
    """
    return _A_LAW[pcm.view(np.uint16)]


def _magnitude(pcm: NDArray[np.int32]) -> NDArray[np.int32]:
    """Take the magnitude in ones' complement, so that each half of the range has the same number of steps."""
    return np.where(pcm < 0, ~pcm, pcm)


def _segment(value: NDArray[np.int32], lowest_bits: int) -> NDArray[np.int32]:
    """Return how often `value` has to be halved until it has no more than `lowest_bits` bits."""
    _, bits = np.frexp(value.astype(np.float64))
    return np.maximum(np.asarray(bits, dtype=np.int32) - lowest_bits, 0)


def _mu_law_octets(pcm: NDArray[np.int32]) -> NDArray[np.int32]:
    # 33 is the bias that makes every segment start at a power of two; 8,158 + 33 - 32 is the end of the last one.
    value = np.minimum((_magnitude(pcm) >> 2) + 33, 0x1FFF)
    segment = _segment(value, 6)
    step = (value >> (segment + 1)) & 0x0F
    # All bits are sent inverted, and the sign bit is 1 for positive values.
    octets: NDArray[np.int32] = 0x7F - ((segment << 4) | step)
    return np.where(pcm < 0, octets, octets | 0x80)


def _a_law_octets(pcm: NDArray[np.int32]) -> NDArray[np.int32]:
    value = _magnitude(pcm) >> 4
    halvings = _segment(value, 5)
    # Segment 0 has the same steps as segment 1, without its leading bit.
    octets = np.where(value < 16, value, ((halvings + 1) << 4) + ((value >> halvings) & 0x0F))
    return np.where(pcm < 0, octets, octets | 0x80) ^ np.int32(0x55)


def _table(encode: Callable[[NDArray[np.int32]], NDArray[np.int32]]) -> NDArray[np.uint8]:
    """Give the octets of all samples, in the order of their bits read as an unsigned number."""
    every_sample = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int32)
    table = encode(every_sample).astype(np.uint8)
    table.setflags(write=False)
    return table


_MU_LAW = _table(_mu_law_octets)
_A_LAW = _table(_a_law_octets)
