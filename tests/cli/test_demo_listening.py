# mypy: allow-untyped-calls
"""How a recording is compared with its source."""

from __future__ import annotations

import wave
from pathlib import Path

import av
import numpy as np
from twisted.trial.unittest import SynchronousTestCase

from calledind.cli.listening import SAMPLE_RATE, Samples, compare, read_mp3, read_wav


def speech(seconds: float, seed: int = 1) -> Samples:
    """Make something as varied as speech: noise whose loudness and colour change, with a pause at the start."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.convolve(random.standard_normal(len(time)), np.ones(8) / 8, mode="same")
    sound: Samples = 0.3 * noise * (1 + np.sin(2 * np.pi * 3 * time)) * (time > 0.1)
    return sound


class CompareTests(SynchronousTestCase):
    def test_same(self) -> None:
        """The same sound after a lead-in correlates fully, and the lead-in is found."""
        source = speech(3.0)
        result = compare(source, np.concatenate([np.zeros(3200), source * 0.5, np.zeros(3200)]))
        self.assertAlmostEqual(result.correlation, 1.0)
        self.assertAlmostEqual(result.worst, 1.0)
        self.assertEqual((result.offset, result.common), (0.4, 3.0))

    def test_another_sound(self) -> None:
        """Another sound does not correlate."""
        self.assertLess(compare(speech(3.0), speech(3.0, seed=2)).correlation, 0.2)

    def test_hole(self) -> None:
        """A hole of 100 ms hardly moves the whole's correlation, but shows in its half second."""
        source = speech(6.0)
        heard = source.copy()
        heard[8200:9000] = 0
        result = compare(source, heard)
        self.assertGreater(result.correlation, 0.95)
        self.assertLess(result.worst, 0.95)

    def test_shift(self) -> None:
        """A part that comes 20 ms late is not taken for the same."""
        source = speech(4.0)
        heard = np.concatenate([source[:16000], np.zeros(160), source[16000:]])
        self.assertLess(compare(source, heard).worst, 0.5)

    def test_cut(self) -> None:
        """A recording that ends early is compared as far as it goes, and says how far that is."""
        source = speech(4.0)
        result = compare(source, source[:16000])
        self.assertAlmostEqual(result.correlation, 1.0)
        self.assertEqual((result.source, result.common), (4.0, 2.0))
        late = compare(source, source[8000:])
        self.assertEqual((late.offset, late.common), (-1.0, 3.0))

    def test_silence(self) -> None:
        """Nothing, or nothing but silence, correlates with nothing."""
        for heard in (np.zeros(0), np.zeros(8000)):
            self.assertEqual(compare(speech(1.0), heard).correlation, 0.0)


class ReadTests(SynchronousTestCase):
    def test_mp3(self) -> None:
        """An MP3 of another rate and two channels is read as it sounds at 8,000 Hz."""
        path = Path(self.mktemp())
        rate, time = 44100, np.arange(44100 * 2) / 44100
        sound = (0.4 * np.sin(2 * np.pi * (300 + 200 * time) * time)).astype(np.float32)
        with av.open(str(path), "w", format="mp3") as container:
            stream = container.add_stream("mp3", rate=rate, layout="stereo")
            stream.bit_rate = 128_000
            frame = av.AudioFrame.from_ndarray(np.stack([sound, sound]), format="fltp", layout="stereo")
            frame.rate = rate
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
        time = np.arange(SAMPLE_RATE * 2) / SAMPLE_RATE
        expected = 0.4 * np.sin(2 * np.pi * (300 + 200 * time) * time)
        result = compare(expected, read_mp3(path))
        self.assertGreater(result.correlation, 0.99)
        self.assertGreater(result.common, 1.9)

    def test_wav(self) -> None:
        """A recording is read with full scale 1; another kind of WAV is refused."""
        path = Path(self.mktemp())
        for rate in (8000, 16000):
            with wave.open(str(path), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(rate)
                file.writeframes(np.array([0, 16384, -32768], dtype="<i2").tobytes())
            if rate == 8000:
                np.testing.assert_array_equal(read_wav(path), [0, 0.5, -1])
            else:
                self.assertRaises(ValueError, read_wav, path)
