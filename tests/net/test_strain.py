from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.net.strain import IN_A_ROW, INTERVAL, LATE, Strain

HELD_UP = INTERVAL + LATE + 0.01


class StrainTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.strain = Strain(self.clock)
        self.strain.start()

    def test_in_time(self) -> None:
        """Who keeps up has not too much to do, though each turn be a little late."""
        self.clock.pump([INTERVAL + 0.9 * LATE] * 20)
        self.assertFalse(self.strain.too_much())

    def test_hiccups(self) -> None:
        """Being held up now and then, however long, is not too much."""
        for _ in range(5):
            self.clock.pump([10.0] * (IN_A_ROW - 1))
            self.assertFalse(self.strain.too_much())
            self.clock.advance(INTERVAL)

    def test_too_much(self) -> None:
        """Being held up again and again is, until a turn is in time."""
        self.clock.pump([HELD_UP] * IN_A_ROW)
        self.assertTrue(self.strain.too_much())
        self.clock.advance(HELD_UP)
        self.assertTrue(self.strain.too_much())
        self.clock.advance(INTERVAL)
        self.assertFalse(self.strain.too_much())

    def test_stop(self) -> None:
        """Nothing is left behind."""
        self.strain.stop()
        self.strain.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
