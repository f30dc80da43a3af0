"""Keys heard in the sound."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from twisted.trial.unittest import SynchronousTestCase

from calledind.rtp.dtmf import DIGITS
from calledind.rtp.goertzel import ToneDetector

TONES = {
    key: (low, high)
    for row, low in zip(("123A", "456B", "789C", "*0#D"), (697, 770, 852, 941), strict=True)
    for key, high in zip(row, (1209, 1336, 1477, 1633), strict=True)
}
Sound = NDArray[np.float64]


def tone(
    key: str, seconds: float = 0.05, *, low: float = 4000.0, high: float = 4000.0, off: float = 0.0, start: float = 0.0
) -> Sound:
    """A key's tones with these amplitudes; `off`: by which part of themselves they are too high."""
    time = start + np.arange(round(seconds * 8000)) / 8000
    one, other = (2 * np.pi * frequency * (1 + off) for frequency in TONES[key])
    sound: Sound = low * np.sin(one * time) + high * np.sin(other * time)
    return sound


def quiet(seconds: float = 0.05) -> Sound:
    return np.zeros(round(seconds * 8000))


def heard(*sounds: Sound, packet: int = 160) -> str:
    """What is told of these sounds, one after the other, in packets."""
    pcm = np.concatenate(sounds).clip(-32768, 32767).astype(np.int16)
    detector = ToneDetector()
    return "".join("".join(detector.received(pcm[at : at + packet])) for at in range(0, len(pcm), packet))


class ToneTests(SynchronousTestCase):
    def test_every_key(self) -> None:
        """All sixteen, in turn, 50 ms each."""
        sounds = [sound for key in DIGITS for sound in (tone(key), quiet())]
        self.assertEqual(heard(*sounds), DIGITS)

    @settings(deadline=None, derandomize=True, max_examples=200)
    @given(
        st.sampled_from(DIGITS),
        st.integers(0, 1000),
        st.floats(-0.015, 0.015),
        st.floats(800.0, 12000.0),
        st.floats(0.42, 1.5),
        st.integers(1, 480),
    )
    def test_forty_milliseconds_are_enough(
        self, key: str, before: int, off: float, amplitude: float, twist: float, packet: int
    ) -> None:
        """However the press lies in the packets, 1.5 % out of tune, loud or low, with lines that favour one tone."""
        sound = tone(key, 0.04, low=amplitude, high=amplitude * twist, off=off)
        self.assertEqual(heard(np.zeros(before), sound, quiet(), packet=packet), key)

    def test_a_long_press_is_told_once(self) -> None:
        """And one that is repeated, twice."""
        self.assertEqual(heard(tone("5", 2.0)), "5")
        self.assertEqual(heard(tone("5"), quiet(), tone("5"), tone("6")), "556")

    def test_a_hole_in_a_press(self) -> None:
        """A click of less than two blocks does not make two presses of one."""
        self.assertEqual(heard(tone("5", 0.051), quiet(0.01), tone("5", 0.051)), "5")

    def test_what_is_no_key(self) -> None:
        """Silence, noise, single tones, tones too short, too low or too unequal, three at once."""
        chance = np.random.default_rng(1)
        for sound in (
            quiet(1.0),
            chance.standard_normal(80000) * 5000,
            tone("1", 1.0, low=0.0),
            tone("1", 1.0, high=0.0),
            np.concatenate((tone("1", 0.012), quiet())),
            tone("1", 1.0, low=100.0, high=100.0),
            tone("1", 1.0, high=8000.0, low=2000.0),
            tone("1", 1.0, high=1000.0, low=8000.0),
            tone("1", 1.0) + tone("5", 1.0),
            tone("1", 1.0) + chance.standard_normal(8000) * 5000,
        ):
            self.assertEqual(heard(sound), "")

    def test_a_pause(self) -> None:
        """A sender that is silent between two presses, without sending that, made two."""
        detector = ToneDetector()
        pcm = tone("7", 0.06).astype(np.int16)
        first = detector.received(pcm)
        detector.paused()
        self.assertEqual((first, detector.received(pcm)), (["7"], ["7"]))
        self.assertEqual(detector.received(pcm[:10]), [])
