"""The moments at which calls may leave."""

# Trial's assertions are not annotated.
# mypy: allow-untyped-calls
from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.dialing.pace import RECOVERY, SETTLE, SLOWEST, Pace

FULL = 40.0
"Calls per second."


class PaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.pace = Pace(self.clock)

    def taken_in(self, seconds: float) -> int:
        """Take every moment there is."""
        end, taken = self.clock.seconds() + seconds, 0
        while self.clock.seconds() < end:
            while self.pace.wait(FULL) <= 0:
                self.pace.take(FULL)
                taken += 1
            self.clock.advance(max(self.pace.wait(FULL), 0.001))
        return taken

    def test_full(self) -> None:
        """Nothing is held back of a pace that nobody throttled, however early it is asked for."""
        self.assertEqual(self.pace.share, 1.0)
        self.assertApproximates(self.taken_in(10.0), 10 * FULL, 0.1 * FULL + 1)

    def test_throttled(self) -> None:
        """A throttling halves the pace at once; what was on its way does not halve it again."""
        self.assertTrue(self.pace.slow_down())
        self.assertFalse(self.pace.slow_down())
        self.assertEqual(self.pace.share, 0.5)
        self.assertApproximates(self.taken_in(SETTLE), FULL / 2, 0.1 * FULL / 2 + 2)
        self.assertTrue(self.pace.slow_down())
        self.assertApproximates(self.pace.share, 0.25, 0.01)

    def test_recovers(self) -> None:
        """It grows back by itself, evenly, to all of it and no more."""
        self.pace.slow_down()
        shares = []
        for _ in range(5):
            self.clock.advance(RECOVERY / 8)
            shares.append(self.pace.share)
        self.assertEqual(shares, [0.625, 0.75, 0.875, 1.0, 1.0])

    def test_never_nothing(self) -> None:
        """However often it is throttled, some calls go on, so that the end of it is found out."""
        for _ in range(50):
            self.pace.slow_down()
            self.clock.advance(SETTLE)
        self.pace.slow_down()
        self.assertGreaterEqual(self.pace.share, SLOWEST)
        self.assertGreaterEqual(self.taken_in(10.0), 5)

    def test_finds_the_carriers_pace(self) -> None:
        """Against a carrier that takes fewer than we would send, most calls get through and few are refused."""
        limit, accepted, refused = FULL / 4, 0, 0
        window: list[float] = []
        while self.clock.seconds() < 300.0:
            now = self.clock.seconds()
            window = [moment for moment in window if moment > now - 1.0]
            self.pace.take(FULL)
            if len(window) < limit:
                window.append(now)
                accepted += 1
            else:
                refused += 1
                self.pace.slow_down()
            self.clock.advance(max(self.pace.wait(FULL), 0.001))
        self.assertGreater(accepted, 0.6 * limit * 300)
        self.assertLess(refused, 0.15 * accepted)

    def test_set_anew(self) -> None:
        """A faster pace holds at once, also for the moment that was waited for at the slow one."""
        self.pace.take(0.001)
        self.assertApproximates(self.pace.wait(0.001), 1000.0, 0.2)
        self.assertLessEqual(self.pace.wait(FULL), 1 / FULL)
