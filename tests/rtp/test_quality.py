"""The estimate of how a call sounds."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from calledind.rtp.quality import BEST, mos, opinion, rating


class QualityTests(SynchronousTestCase):
    def test_the_table(self) -> None:
        """What delay and loss take, as the module's text says."""
        delays = [(0.05, 1.2), (0.15, 3.6), (0.2, 7.3), (0.3, 20.7), (0.4, 34.1)]
        losses = [(0.0, 0.0), (0.01, 3.6), (0.02, 7.0), (0.05, 15.8), (0.1, 27.1)]
        for delay, takes in delays:
            self.assertEqual(round(BEST - rating(loss=0, delay=delay), 1), takes)
        for loss, takes in losses:
            self.assertEqual(round(BEST - rating(loss=loss, delay=0), 1), takes)

    def test_the_scale(self) -> None:
        """The points of G.107's table B.1, and both ends."""
        for rated, score in ((90, 4.34), (80, 4.03), (70, 3.60), (60, 3.10), (50, 2.58)):
            self.assertAlmostEqual(opinion(rated), score, places=None, delta=0.01)
        self.assertEqual((opinion(-2), opinion(100)), (1.0, 4.5))

    def test_calls(self) -> None:
        """A good one, a bad one, one that nothing came of."""
        self.assertEqual(round(mos(loss=0, round_trip=0.03, jitter=0.001), 1), 4.4)
        self.assertEqual(round(mos(loss=0.05, round_trip=0.3, jitter=0.03), 1), 3.4)
        self.assertEqual(round(mos(loss=1, round_trip=2, jitter=1), 1), 1.0)
