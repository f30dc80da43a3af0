# mypy: allow-untyped-calls
from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.service.retention import DAY, FIRST, INTERVAL, SHARE, SHORTEST, SLICE, Retention
from calledind.store.interface import StoreUnavailable
from tests.service.recorder import Lines

NOW = 1_800_000_000.0


class Purged:
    """A store that says by hand how much was purged."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, int]] = []
        self.answer: Deferred[int] = Deferred()

    def purge(self, before: float, *, most: int = 1000) -> Deferred[int]:
        self.asked.append((before, most))
        self.answer = Deferred()
        return self.answer


class RetentionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store: Any = Purged()
        self.lines: list[str] = []
        self.retention = self.made(self.store)
        self.retention.start()

    def made(self, store: Any) -> Retention:
        retention = Retention(reactor=self.clock, store=store, days=30.0, now=lambda: NOW + self.clock.seconds())
        setattr(retention, "log", Lines(self.lines))  # noqa: B010 - the class says Logger
        return retention

    def test_first_time(self) -> None:
        """A minute after the start, what is older than so many days is purged, a slice of it."""
        self.clock.advance(FIRST - 1)
        self.assertEqual(self.store.asked, [])
        self.clock.advance(1)
        self.assertEqual(self.store.asked, [(NOW + FIRST - 30 * DAY, SLICE)])

    def test_slices(self) -> None:
        """Slice follows slice, by the same moment, each after a pause by what the last one took, until one is empty."""
        self.clock.advance(FIRST)
        self.clock.advance(2)
        self.store.answer.callback(1000)
        self.clock.advance(2 * SHARE - 0.1)
        self.assertEqual(len(self.store.asked), 1)
        self.clock.advance(0.1)
        self.store.answer.callback(7)
        self.clock.advance(SHORTEST)
        self.assertEqual(self.store.asked, [self.store.asked[0]] * 3)
        self.store.answer.callback(0)
        self.assertEqual(self.lines, ["1007 calls and rows of the ledger, older than 30 days, were purged"])
        self.clock.advance(INTERVAL - 1)
        self.assertEqual(len(self.store.asked), 3)
        self.clock.advance(1)
        self.assertEqual(self.store.asked[3][0], NOW + self.clock.seconds() - 30 * DAY)

    def test_nothing_to_do(self) -> None:
        """Where nothing is old enough, nothing is said."""
        self.clock.advance(FIRST)
        self.store.answer.callback(0)
        self.assertEqual(self.lines, [])
        self.clock.advance(INTERVAL)
        self.assertEqual(len(self.store.asked), 2)

    def test_store_is_away(self) -> None:
        """A store that is away is left alone for an hour, without a word."""
        self.clock.advance(FIRST)
        self.store.answer.errback(StoreUnavailable("gone"))
        self.assertEqual(self.lines, [])
        self.clock.advance(INTERVAL)
        self.assertEqual(len(self.store.asked), 2)

    def test_beside_the_store(self) -> None:
        """What is kept beside the store is forgotten by the same moment, and a fault in that ends nothing."""
        asked: list[float] = []

        async def forget(before: float) -> None:
            asked.append(before)
            raise ZeroDivisionError

        self.retention.stop()
        retention = Retention(
            reactor=self.clock, store=self.store, days=30.0, now=lambda: NOW + self.clock.seconds(), forget=forget
        )
        setattr(retention, "log", Lines(self.lines))  # noqa: B010 - the class says Logger
        retention.start()
        self.clock.advance(FIRST)
        self.assertEqual(self.store.asked, [(asked[0], SLICE)])
        self.assertEqual(self.lines, ["What is long over beside the store can't be forgotten"])

    def test_fault(self) -> None:
        """A fault of ours is told, and does not end it."""
        self.retention.stop()
        self.store.purge = lambda before, most: fail(ZeroDivisionError())
        self.made(self.store).start()
        self.clock.advance(FIRST)
        self.clock.advance(INTERVAL)
        self.assertEqual([line.split(";")[0] for line in self.lines], ["What is long over can't be purged"] * 2)

    def test_stop(self) -> None:
        """After its stop nothing is purged, whatever it waited for."""
        self.retention.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for answer in (0, 5):
            retention = self.made(self.store)
            retention.start()
            self.clock.advance(FIRST)
            retention.stop()
            self.store.answer.callback(answer)
            self.assertEqual(self.clock.getDelayedCalls(), [])
        retention = self.made(self.store)
        retention.start()
        self.clock.advance(FIRST)
        self.store.answer.callback(5)
        retention.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
