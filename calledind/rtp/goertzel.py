"""Digits pressed during the call, heard in the sound itself (ITU-T Q.23, Q.24).

A key is two tones at once, one of four low and one of four high frequencies. The sound is cut into blocks of
102 samples, 12.75 ms, and the power of each of the eight frequencies in a block is one term of its Fourier transform
(what Goertzel's recursion computes; here one product of matrices for all blocks of a packet). A block is a key's when

* one low and one high tone stand out from their neighbours by 6 dB,
* neither is stronger than the other by more than lines make it: 6 dB the high one, 10 dB the low one,
* both together are nearly all there is in the block, which is what speech never is for long.

A press is two such blocks of the same key on end, so 40 ms of tone are always enough (Q.24), and it is over after two
that are not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 102
"Samples, at 8,000 a second: the frequencies below are near whole turns in it."
_RATE = 8000
_LOW = (697, 770, 852, 941)
_HIGH = (1209, 1336, 1477, 1633)
_KEYS = ("123A", "456B", "789C", "*0#D")
_QUIETEST = 250.0
"Amplitude of the weaker tone, in steps of 16-bit PCM: about -42 dBm0."
_STANDS_OUT = 4.0
"Of powers: 6 dB."
_STRONGER_HIGH, _STRONGER_LOW = 4.0, 10.0
"Of powers: 6 and 10 dB. Q.24 has 4 and 8 for North America; a block this short errs by up to 2."
_SHARE = 0.7
"Of the block's power that the two tones have at least."
_TIMES = 2


class ToneDetector:
    """Turns the linear samples of one stream into presses, each told once."""

    def __init__(self) -> None:
        self._rest: NDArray[np.float64] = np.zeros(0)
        self._last: str | None = None
        self._times = 0
        "How many blocks on end were as the last one."
        self._pressed: str | None = None

    def received(self, pcm: NDArray[np.int16]) -> list[str]:
        """Take samples, shape (n,), 8,000 a second; return the digits of presses that they make known."""
        samples = np.concatenate((self._rest, pcm.astype(np.float64)))
        count = len(samples) // BLOCK
        self._rest = samples[count * BLOCK :]
        if not count:
            return []
        digits = []
        for key in _keys(samples[: count * BLOCK].reshape(count, BLOCK)):
            self._times = self._times + 1 if key == self._last else 1
            self._last = key
            if self._times == _TIMES and key != self._pressed:
                self._pressed = key
                if key is not None:
                    digits.append(key)
        return digits

    def paused(self) -> None:
        """Note that the sender fell silent, and sent no samples of it (RFC 3389)."""
        self._rest, self._last, self._times, self._pressed = np.zeros(0), None, 0, None


def _wave(frequencies: tuple[int, ...]) -> NDArray[np.complex128]:
    turns = np.outer(np.arange(BLOCK), frequencies) / _RATE
    wave: NDArray[np.complex128] = np.exp(-2j * np.pi * turns)
    return wave


_WAVES = _wave(_LOW + _HIGH)


def _keys(blocks: NDArray[np.float64]) -> list[str | None]:
    """Return the key of each block, None for what is none; `blocks`: shape (n, BLOCK)."""
    powers = np.abs(blocks @ _WAVES) ** 2 * (4 / BLOCK**2)
    "Squares of the amplitudes."
    low, high = powers[:, :4], powers[:, 4:]
    strongest_low, strongest_high = low.max(1), high.max(1)
    whole = (blocks**2).mean(1) * 2
    good = np.minimum(strongest_low, strongest_high) >= _QUIETEST**2
    good &= strongest_high <= strongest_low * _STRONGER_HIGH
    good &= strongest_low <= strongest_high * _STRONGER_LOW
    good &= strongest_low + strongest_high >= whole * _SHARE
    for group in (low, high):
        ordered = np.sort(group, 1)
        good &= ordered[:, 3] >= ordered[:, 2] * _STANDS_OUT
    rows, columns = low.argmax(1).tolist(), high.argmax(1).tolist()
    return [_KEYS[row][column] if yes else None for yes, row, column in zip(good.tolist(), rows, columns, strict=True)]
