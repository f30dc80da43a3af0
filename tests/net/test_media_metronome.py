"""When slices are due, in time and out of it."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.net.metronome import SLICE, Metronome


class MetronomeTests(SynchronousTestCase):
    """A metronome whose owner is held up now and then."""

    def begin(self, metronome: Metronome, now: float, held_up: float = 0.0) -> float:
        """Begin the next slice when it is due, or as much later; return when that was."""
        now = max(now, now + metronome.wait(now)) + held_up
        metronome.begin(now)
        return now

    def test_no_error_adds_up(self) -> None:
        """A thousand slices that each begin a little late take a thousand times two milliseconds."""
        metronome = Metronome(10.0)
        now = 10.0
        for _ in range(1000):
            now = self.begin(metronome, now, 0.0001)
        self.assertLess(abs(now - (10.0 + 999 * SLICE + 0.0001)), 1e-6)
        self.assertEqual(metronome.count, 1000)

    def test_caught_up_without_a_burst(self) -> None:
        """After 40 ms of nothing the slices are 1.5 ms apart until they are in time again."""
        metronome = Metronome(0.0)
        now = self.begin(metronome, 0.0)
        began = [self.begin(metronome, now, 0.04)]
        while metronome.wait(began[-1]) < SLICE * 0.99:
            began.append(self.begin(metronome, began[-1]))
        gaps = [later - sooner for sooner, later in itertools.pairwise(began)]
        self.assertGreater(min(gaps), 0.75 * SLICE - 1e-9)
        self.assertLess(len(began), 100)
        self.assertLess(abs(metronome.begin(began[-1] + SLICE)), 0.5 * SLICE)

    def test_very_late(self) -> None:
        """After a second of nothing the deadlines are moved: the next slice is due two milliseconds later."""
        metronome = Metronome(0.0)
        self.assertAlmostEqual(metronome.begin(1.0), 1.0)
        self.assertAlmostEqual(metronome.wait(1.0), SLICE)

    def test_restart(self) -> None:
        """After a time in which nothing was due the next slice is due at once, and not late."""
        metronome = Metronome(0.0)
        metronome.begin(0.0)
        metronome.restart(50.0)
        self.assertEqual(metronome.wait(50.0), 0.0)
        self.assertEqual(metronome.begin(50.0), 0.0)

    def test_slices_left_out(self) -> None:
        """What is left out takes its time as well, in time and when catching up."""
        metronome = Metronome(0.0)
        metronome.begin(0.0)
        metronome.skip(4)
        self.assertEqual(metronome.count, 5)
        self.assertAlmostEqual(metronome.wait(0.0), 5 * SLICE)
        metronome.begin(0.05)
        metronome.skip(4)
        self.assertAlmostEqual(metronome.wait(0.05), 5 * 0.75 * SLICE)

    @settings(deadline=None, derandomize=True)
    @given(st.lists(st.floats(0, 0.5), max_size=200))
    def test_never_a_burst(self, held_up: list[float]) -> None:
        """However its owner is held up, two slices are never less than 1.5 ms apart."""
        metronome = Metronome(0.0)
        now = before = self.begin(metronome, 0.0)
        for delay in held_up:
            now = self.begin(metronome, now, delay)
            self.assertGreater(now - before, 0.75 * SLICE - 1e-9)
            before = now
