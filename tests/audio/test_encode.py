"""G.711 by its own definition: each octet stands for the middle of the interval of samples that it encodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from twisted.trial.unittest import SynchronousTestCase

from calledind.audio.encode import a_law, mu_law

EVERY_SAMPLE = np.arange(-32768, 32768).astype(np.int16)


def mu_law_value(octet: int) -> int:
    """Return the 14-bit value of a mu-law octet (ITU-T G.711, table 2a, column 8)."""
    inverted = ~octet & 0xFF
    value = ((2 * (inverted & 0x0F) + 33) << (inverted >> 4 & 7)) - 33
    return -value if inverted & 0x80 else value


def a_law_value(octet: int) -> int:
    """Return the 13-bit value of an A-law octet (ITU-T G.711, table 1a, column 8)."""
    inverted = octet ^ 0x55
    segment, step = inverted >> 4 & 7, inverted & 0x0F
    value = 2 * step + 1 if segment == 0 else (2 * step + 33) << (segment - 1)
    return value if inverted & 0x80 else -value


def encode_one(law: object, sample: int) -> int:
    assert callable(law)
    return int(law(np.array([sample], np.int16))[0])


def intervals(octets: NDArray[np.uint8]) -> dict[int, tuple[int, int]]:
    """Return for each octet the first and last sample that it encodes; these must be without gaps."""
    found = {}
    for octet in range(256):
        samples = EVERY_SAMPLE[octets == octet].astype(int)
        assert len(samples) == samples[-1] - samples[0] + 1
        found[octet] = (int(samples[0]), int(samples[-1]))
    return found


class MuLawTests(SynchronousTestCase):
    def test_ends_and_zero(self) -> None:
        """Silence is 0xFF and the loudest samples are 0x80 and 0x00."""
        self.assertEqual([encode_one(mu_law, sample) for sample in (0, 32767, -32768)], [0xFF, 0x80, 0x00])

    def test_octets_are_the_middle_of_their_interval(self) -> None:
        """Each octet's value is the middle of the samples that it encodes, to the last of 14 bits."""
        for octet, (first, last) in intervals(mu_law(EVERY_SAMPLE)).items():
            if octet in (0x80, 0x00):
                continue  # these take all that is louder, too
            if octet in (0xFF, 0x7F):
                self.assertEqual(abs(first + last), 3 if octet == 0xFF else 5)  # 0..3 and -4..-1: one step of 14 bits
                continue
            self.assertLessEqual(abs((first + last) / 2 - 4 * mu_law_value(octet)), 2, hex(octet))

    def test_intervals_grow_with_the_segment(self) -> None:
        """A step is 8 samples wide in the first segment and twice as wide in each next one."""
        found = intervals(mu_law(EVERY_SAMPLE))
        widths = [found[0xFF - 16 * segment - 5][1] - found[0xFF - 16 * segment - 5][0] + 1 for segment in range(8)]
        self.assertEqual(widths, [8 << segment for segment in range(8)])


class ALawTests(SynchronousTestCase):
    def test_ends_and_zero(self) -> None:
        """Silence is 0xD5 and the loudest samples are 0xAA and 0x2A."""
        self.assertEqual([encode_one(a_law, sample) for sample in (0, 32767, -32768)], [0xD5, 0xAA, 0x2A])

    def test_octets_are_the_middle_of_their_interval(self) -> None:
        """Each octet's value is the middle of the samples that it encodes."""
        for octet, (first, last) in intervals(a_law(EVERY_SAMPLE)).items():
            self.assertLessEqual(abs((first + last) / 2 - 8 * a_law_value(octet)), 1, hex(octet))

    def test_intervals_grow_with_the_segment(self) -> None:
        """A step is 16 samples wide in the first two segments and twice as wide in each next one."""
        found = intervals(a_law(EVERY_SAMPLE))
        widths = []
        for segment in range(8):
            first, last = found[(0x80 | segment << 4 | 5) ^ 0x55]
            widths.append(last - first + 1)
        self.assertEqual(widths, [16, *(16 << segment for segment in range(7))])


class ShapeTests(SynchronousTestCase):
    def test_one_octet_a_sample(self) -> None:
        """Both laws give as many octets as there are samples, none for none."""
        for law in (mu_law, a_law):
            self.assertEqual(law(np.zeros(160, np.int16)).shape, (160,))
            self.assertEqual(law(np.zeros(0, np.int16)).dtype, np.uint8)
