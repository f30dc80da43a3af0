from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from calledind.dialing.hold import Countdown


class CountdownTests(SynchronousTestCase):
    def test_one_at_a_time(self) -> None:
        """A hold stops the audio's clock, its end lets that go on; the next hold has what the first one left."""
        countdown = Countdown(audio=10.0, hold=120.0, now=1000.0)
        self.assertEqual(countdown.turn(held=False, now=1000.0), 10.0)
        self.assertEqual(countdown.turn(held=True, now=1004.0), 120.0)
        self.assertTrue(countdown.held)
        self.assertEqual(countdown.turn(held=False, now=1104.0), 6.0)
        self.assertEqual(countdown.turn(held=True, now=1105.0), 20.0)

    def test_from_the_beginning(self) -> None:
        """A call that was answered on hold has used nothing of its audio's time."""
        countdown = Countdown(audio=10.0, hold=120.0, now=1000.0)
        self.assertEqual(countdown.turn(held=True, now=1000.0), 120.0)
        self.assertEqual(countdown.turn(held=False, now=1060.0), 10.0)

    def test_overdue(self) -> None:
        """A clock that should have run out has nothing left, not less than that."""
        countdown = Countdown(audio=10.0, hold=5.0, now=1000.0)
        countdown.turn(held=True, now=1011.0)
        self.assertEqual(countdown.turn(held=False, now=1020.0), 0.0)
        self.assertEqual(countdown.turn(held=True, now=1020.0), 0.0)
