# mypy: allow-untyped-calls
"""What the callee's recording holds, packet by packet."""

from __future__ import annotations

import os
import wave
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.rtp.g711 import DECODED
from calledind.simulator.recording import SILENCE, Recording, Shelf


def feed(
    recording: Recording, numbers: list[int], *, first_sequence: int = 65530, first_time: int = 2**32 - 400
) -> None:
    """Give packets by their number: 20 ms each, filled with the number, arriving evenly; both counters wrap."""
    for turn, number in enumerate(numbers):
        recording.received(
            ssrc=7,
            sequence=(first_sequence + number) % 2**16,
            timestamp=(first_time + number * 160) % 2**32,
            payload=bytes([number]) * 160,
            arrival=turn * 0.02,
        )


def content(recording: Recording) -> list[int | None]:
    """Give the number found in each 20 ms, None for silence."""
    by_value = {int(DECODED["PCMU"][code]): code for code in range(127)}
    return [by_value.get(int(block[0])) if block.any() else None for block in recording.pcm().reshape(-1, 160)]


class RecordingTests(SynchronousTestCase):
    def test_in_order(self) -> None:
        """Packets that come in order are heard one after the other, through the wrap of both counters."""
        recording = Recording("PCMU")
        feed(recording, list(range(12)))
        self.assertEqual(content(recording), list(range(12)))
        heard = recording.heard()
        self.assertEqual((heard.packets, heard.lost, heard.repeated, heard.strays), (12, 0, 0, 0))
        self.assertAlmostEqual(heard.seconds, 0.24)

    def test_lost(self) -> None:
        """A lost packet leaves silence of its length, and is counted."""
        recording = Recording("PCMU")
        feed(recording, [0, 1, 4, 5])
        self.assertEqual(content(recording), [0, 1, None, None, 4, 5])
        self.assertEqual(recording.heard().lost, 2)

    def test_out_of_order(self) -> None:
        """A late packet goes to its place, even one from before the first that came."""
        recording = Recording("PCMU")
        feed(recording, [1, 0, 3, 2])
        self.assertEqual(content(recording), [0, 1, 2, 3])
        self.assertEqual(recording.heard().lost, 0)

    def test_repeated(self) -> None:
        """A packet that comes twice is heard and counted once."""
        recording = Recording("PCMU")
        feed(recording, [0, 1, 1, 2])
        self.assertEqual(content(recording), [0, 1, 2])
        self.assertEqual((recording.heard().packets, recording.heard().repeated), (3, 1))

    def test_other_stream(self) -> None:
        """Another SSRC, a wild sequence number and a wild timestamp are strays, and not heard."""
        recording = Recording("PCMU")
        feed(recording, [0, 1])
        for ssrc, sequence, timestamp in ((8, 65532, 0), (7, 30000, 0), (7, 65532, 2**31)):
            recording.received(ssrc=ssrc, sequence=sequence, timestamp=timestamp, payload=b"x" * 160, arrival=0.04)
        feed(recording, [2])
        self.assertEqual(content(recording), [0, 1, 2])
        self.assertEqual(recording.heard().strays, 3)

    def test_even_pace_has_no_jitter(self) -> None:
        """Packets that arrive as evenly as their timestamps have no jitter; a late one makes some."""
        recording = Recording("PCMU")
        feed(recording, list(range(50)))
        self.assertAlmostEqual(recording.heard().jitter, 0.0)
        recording.received(
            ssrc=7, sequence=(65530 + 50) % 2**16, timestamp=50 * 160 - 400, payload=b"", arrival=50 * 0.02 + 0.016
        )
        self.assertAlmostEqual(recording.heard().jitter, 0.001)
        self.assertAlmostEqual(recording.heard().longest_gap, 0.036)

    def test_nothing(self) -> None:
        """A call without a packet is an empty recording, not an error."""
        heard = Recording("PCMA").heard()
        self.assertEqual((heard.packets, heard.lost, heard.seconds), (0, 0, 0.0))
        self.assertEqual(len(Recording("PCMA").pcm()), 0)

    def test_decoders(self) -> None:
        """The tables agree with the values that G.711 prints: its extremes, its smallest steps, its silence."""
        self.assertEqual(
            [int(DECODED["PCMU"][code]) for code in (0x00, 0x80, 0x7F, 0xFF, 0xFE)], [-32124, 32124, 0, 0, 8]
        )
        self.assertEqual([int(DECODED["PCMA"][code]) for code in (0x2A, 0xAA, 0x55, 0xD5)], [-32256, 32256, -8, 8])
        self.assertEqual(len(np.unique(DECODED["PCMA"])), 256)
        self.assertLessEqual(abs(int(DECODED["PCMA"][SILENCE["PCMA"]])), 8)

    @settings(deadline=None, derandomize=True, max_examples=60)
    @given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
    def test_any_order(self, numbers: list[int]) -> None:
        """Whatever is lost, repeated or reordered, the recording holds what came, where it belongs."""
        recording = Recording("PCMU")
        feed(recording, numbers)
        came = set(numbers)
        self.assertEqual(
            content(recording), [number if number in came else None for number in range(min(came), max(came) + 1)]
        )
        self.assertEqual(recording.heard().packets, len(came))
        self.assertEqual(recording.heard().lost, max(came) - min(came) + 1 - len(came))


class ShelfTests(SynchronousTestCase):
    def test_wav(self) -> None:
        """A saved recording is a WAV of 16-bit mono at 8,000 Hz with the samples that were heard."""
        shelf = Shelf(Path(self.mktemp()))
        shelf.open()
        recording = Recording("PCMA")
        feed(recording, [0, 2])
        with wave.open(str(shelf.save("one", recording)), "rb") as file:
            self.assertEqual((file.getnchannels(), file.getsampwidth(), file.getframerate()), (1, 2, 8000))
            samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        np.testing.assert_array_equal(samples, recording.pcm())

    def test_newest_are_kept(self) -> None:
        """The oldest go when there are more than are kept, those of an earlier process too."""
        folder = Path(self.mktemp())
        folder.mkdir()
        for age, name in ((300, "older"), (200, "old")):
            (folder / f"{name}.wav").touch()
            os.utime(folder / f"{name}.wav", (1e9 - age, 1e9 - age))
        shelf = Shelf(folder, keep=2)
        shelf.open()
        shelf.save("new", Recording("PCMU"))
        self.assertEqual({path.name for path in folder.iterdir()}, {"old.wav", "new.wav"})

    def test_name_taken(self) -> None:
        """A second recording of the same name does not replace the first."""
        shelf = Shelf(Path(self.mktemp()))
        shelf.open()
        first, second = shelf.save("one", Recording("PCMU")), shelf.save("one", Recording("PCMU"))
        self.assertNotEqual(first, second)
        self.assertTrue(first.exists())
