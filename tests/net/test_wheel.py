"""What is to be done later comes in time, once, and at no cost of the others."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from calledind.net.wheel import TICK, Wheel


class WheelTests(TestCase):
    def test_in_time(self) -> None:
        """An item comes at its time or up to a tick later, never before, and once."""
        wheel: Wheel[str] = Wheel(100.0)
        wheel.add(100.5, "b")
        wheel.add(100.25, "a")
        self.assertEqual(list(wheel.take(100.25)), [])
        self.assertEqual(list(wheel.take(100.25 + TICK)), ["a"])
        self.assertEqual(list(wheel.take(100.5)), [])
        self.assertEqual(list(wheel.take(100.5 + TICK)), ["b"])
        self.assertEqual(list(wheel.take(200.0)), [])

    def test_order(self) -> None:
        """After a long time everything comes, the earliest first."""
        wheel: Wheel[float] = Wheel(0.0)
        for when in (3.0, 1.0, 2.0):
            wheel.add(when, when)
        self.assertEqual(list(wheel.take(10.0)), [1.0, 2.0, 3.0])

    def test_next(self) -> None:
        """It tells until when there is nothing to do."""
        wheel: Wheel[str] = Wheel(50.0)
        self.assertIsNone(wheel.next())
        wheel.add(60.0, "later")
        wheel.add(52.0, "sooner")
        due = wheel.next()
        assert due is not None
        self.assertTrue(52.0 <= due <= 52.0 + TICK)
        self.assertEqual(list(wheel.take(due)), ["sooner"])

    def test_added_meanwhile(self) -> None:
        """What is added while others are taken is not lost: for later, or for a time that has passed."""
        wheel: Wheel[str] = Wheel(0.0)
        wheel.add(1.0, "first")
        taken = []
        for item in wheel.take(2.0):
            taken.append(item)
            if item == "first":
                wheel.add(0.5, "late")
                wheel.add(3.0, "next")
        self.assertEqual(taken, ["first", "late"])
        self.assertEqual(list(wheel.take(3.1)), ["next"])
