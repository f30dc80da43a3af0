"""Timers that many share."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.sip.timers import Lingering


class LingeringTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.lingering = Lingering(self.clock)
        self.gone: list[tuple[str, float]] = []

    def add(self, name: str, seconds: float) -> None:
        self.lingering.add(seconds, lambda: self.gone.append((name, self.clock.seconds())))

    def test_each_in_its_time(self) -> None:
        """Everything goes when its seconds are over, by one running timer for each length of time."""
        for number in range(3):
            self.add(f"long {number}", 32.0)
            self.add(f"short {number}", 5.0)
            self.assertEqual(len(self.clock.getDelayedCalls()), 2)
            self.clock.advance(1)
        self.clock.pump([0.5] * 70)
        self.assertEqual(
            self.gone,
            [(f"short {number}", 5.0 + number) for number in range(3)]
            + [(f"long {number}", 32.0 + number) for number in range(3)],
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_added_while_others_go(self) -> None:
        """Who goes may begin something that lingers in its turn."""
        self.lingering.add(5.0, lambda: self.add("again", 5.0))
        self.add("late", 5.0)
        self.clock.advance(5)
        self.clock.advance(5)
        self.assertEqual(self.gone, [("late", 5.0), ("again", 10.0)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_that_fails(self) -> None:
        """One whose end fails keeps nobody else: neither of the same moment nor of a later one."""

        def fail() -> None:
            raise ZeroDivisionError

        self.lingering.add(5.0, fail)
        self.add("same", 5.0)
        self.clock.advance(1)
        self.add("later", 5.0)
        self.assertRaises(ZeroDivisionError, self.clock.advance, 4)
        self.clock.advance(0)
        self.clock.advance(1)
        self.assertEqual(self.gone, [("same", 5.0), ("later", 6.0)])
        self.assertEqual(self.clock.getDelayedCalls(), [])
