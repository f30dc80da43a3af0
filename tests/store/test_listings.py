"""The DoNotCall list on disk."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable

from twisted.trial.unittest import SynchronousTestCase

from calledind.store.listings import KEEP, SLACK, Packed, pack, read


class ListingsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.database.close)
        self.database.execute("CREATE TABLE do_not_call (place INTEGER PRIMARY KEY, listed INTEGER, numbers BLOB)")

    def keep(self, listed: bool, numbers: Iterable[int]) -> None:
        self.database.execute(KEEP, (listed, pack(list(numbers))))

    def rows(self) -> int:
        count: int = self.database.execute("SELECT COUNT(*) FROM do_not_call").fetchone()[0]
        return count

    def test_nothing(self) -> None:
        """An empty log is an empty list."""
        self.assertEqual(list(read(self.database)), [])

    def test_any_order(self) -> None:
        """Numbers are in the log as they came, and in the list in their order, the largest there are as well."""
        self.keep(True, [3, 2 * 10**18, 1])
        self.keep(True, [2])
        self.assertEqual(list(read(self.database)), [1, 2, 3, 2 * 10**18])

    def test_last_mention(self) -> None:
        """What was put on and taken off again and again is as its last mention says."""
        chance = random.Random(20263)
        listed: set[int] = set()
        for _ in range(9):
            some = chance.sample(range(5000), 2000)
            if chance.random() < 0.5:
                self.keep(True, some)
                listed.update(some)
            else:
                self.keep(False, some)
                listed.difference_update(some)
        self.assertEqual(list(read(self.database)), sorted(listed))

    def test_too_long(self) -> None:
        """A log with much in it that counts no more is written anew, and says the same."""
        self.keep(True, range(SLACK + 10))
        self.keep(False, range(10, SLACK + 10))
        for _ in range(2):
            self.assertEqual(list(read(self.database)), list(range(10)))
            self.assertEqual(self.rows(), 1)

    def test_too_many_rows(self) -> None:
        """A log of many short rows is written anew."""
        for number in range(200):
            self.keep(True, [number])
        for _ in range(2):
            self.assertEqual(list(read(self.database)), list(range(200)))
            self.assertEqual(self.rows(), 1)

    def test_full_disk(self) -> None:
        """A log that is too long, and can't be written anew, is read all the same, and written by a later start."""
        self.keep(True, range(SLACK + 10))
        self.keep(False, range(10, SLACK + 10))
        self.database.execute("PRAGMA query_only = ON")
        self.assertEqual(list(read(self.database)), list(range(10)))
        self.assertFalse(self.database.in_transaction)
        self.database.execute("PRAGMA query_only = OFF")
        self.assertEqual(self.rows(), 2)
        self.assertEqual(list(read(self.database)), list(range(10)))
        self.assertEqual(self.rows(), 1)

    def test_left_alone(self) -> None:
        """A log that is about as long as the list stays as it is."""
        self.keep(True, range(1000))
        self.keep(False, range(500))
        self.assertEqual(len(read(self.database)), 500)
        self.assertEqual(self.rows(), 2)

    def test_packed(self) -> None:
        """The numbers of many rows become one row of the log."""
        self.database.create_aggregate("packed", 1, Packed)  # type: ignore[arg-type]
        self.database.execute("CREATE TABLE old (number INTEGER PRIMARY KEY)")
        self.database.executemany("INSERT INTO old VALUES (?)", [(5,), (7,)])
        self.assertEqual(self.database.execute("SELECT packed(number) FROM old").fetchone()[0], pack([5, 7]))
