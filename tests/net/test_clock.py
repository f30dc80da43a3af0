# mypy: allow-untyped-calls
from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from calledind.net.clock import Clock

EPOCH = 1_800_000_000.0


class ClockTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.monotonic = 50.0
        self.wall = EPOCH
        self.clock = Clock(monotonic=lambda: self.monotonic, wall=lambda: self.wall)

    def advance(self, seconds: float, *, step: float = 0.0) -> float:
        """Let time go by and the wall clock jump; return what `now` says."""
        self.monotonic += seconds
        self.wall += seconds + step
        return self.clock.now()

    def test_goes_with_the_wall(self) -> None:
        """Where nothing jumps it says what the wall clock says."""
        for _ in range(100):
            self.assertAlmostEqual(self.advance(0.37), self.wall, places=6)

    def test_steps_move_nothing(self) -> None:
        """A minute lasts a minute, whatever the wall clock does in it: back an hour, on a year, to 1970."""
        for step in (-3600.0, 31_536_000.0, -EPOCH, 0.5, -0.5):
            self.setUp()
            before = self.clock.now()
            passed = self.advance(60, step=step) - before
            self.assertLess(abs(passed - 60), 0.031, step)

    def test_never_back(self) -> None:
        """It never goes back, however the wall clock does."""
        before = self.clock.now()
        for step in (-5.0, 3.0, -100.0, 0.0, 7.0):
            for _ in range(50):
                now = self.advance(0.01, step=step / 50)
                self.assertGreaterEqual(now, before)
                before = now

    def test_approach(self) -> None:
        """A difference is made up for, a second in some 34 minutes, and not overshot."""
        self.advance(0, step=1.0)
        self.assertAlmostEqual(self.advance(1000), self.wall - 0.5, places=3)
        self.advance(1100)
        self.assertAlmostEqual(self.advance(10), self.wall, places=6)

    def test_asked_twice(self) -> None:
        """Asked twice at one moment it says the same."""
        self.advance(3, step=10)
        self.assertEqual(self.clock.now(), self.clock.now())
