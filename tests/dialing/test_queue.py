# mypy: allow-untyped-calls
from __future__ import annotations

from collections import deque
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from calledind.dialing.queue import FairQueue, place_of
from calledind.model import Call
from tests.dialing.world import START, make_call


def names(queue: FairQueue) -> list[str]:
    taken = []
    while (call := queue.take()) is not None:
        taken.append(call.id.lstrip("0"))
    return taken


class Looked(deque[Call]):
    """Counts how often somebody looks at one of its calls."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        return super().__getitem__(index)


class FairQueueTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.queue = FairQueue()

    def add(self, name: str, key: str = "key_1", age: float = 0) -> None:
        self.queue.add(make_call(name, key=key, accepted_at=START - age))

    def test_oldest(self) -> None:
        """Whoever waits for longest is known, whatever the key."""
        self.assertIsNone(self.queue.oldest)
        self.add("1", age=3)
        self.add("2", "key_2", age=5)
        self.add("3", "key_2", age=1)
        self.assertEqual(self.queue.oldest, START - 5)

    def test_one_key(self) -> None:
        """The calls of one key are taken in the order in which they came."""
        for name in ("1", "2", "3"):
            self.add(name)
        self.assertEqual(len(self.queue), 3)
        self.assertEqual(names(self.queue), ["1", "2", "3"])
        self.assertEqual(len(self.queue), 0)

    def test_keys_take_turns(self) -> None:
        """A key with one call waits for one call of each other key, however many those have."""
        for number in range(5):
            self.add(f"a{number}", "key_a")
        self.add("b1", "key_b")
        self.add("c1", "key_c")
        self.assertEqual(names(self.queue), ["a0", "b1", "c1", "a1", "a2", "a3", "a4"])

    def test_empty(self) -> None:
        """Nothing is taken where nobody waits."""
        self.assertIsNone(self.queue.take())

    def test_put_back(self) -> None:
        """A call that was put back is the next one, before other keys' turns."""
        self.add("1", age=3)
        self.add("2", age=2)
        self.add("b", "key_b", age=1)
        call = self.queue.take()
        assert call is not None
        self.queue.put_back(call)
        self.assertEqual(len(self.queue), 3)
        self.assertEqual(names(self.queue), ["1", "b", "2"])

    def test_put_back_by_age(self) -> None:
        """Calls that come back in any order stand by their age, so that none hides an older one from the sweep."""
        for name, age in (("5", 5), ("2", 2), ("9", 9), ("4", 4), ("7", 7)):
            self.queue.put_back(make_call(name, accepted_at=START - age))
        old = [call.id.lstrip("0") for call in self.queue.take_older_than(START - 4.5)]
        self.assertEqual(old, ["9", "7", "5"])
        self.assertEqual(names(self.queue), ["4", "2"])

    def test_put_back_into_a_long_line(self) -> None:
        """The place of what comes back is found near either end, however many calls wait between."""
        line = Looked(make_call(str(age), accepted_at=START - age) for age in range(10_000, 0, -1))
        for age, index in ((10_000.5, 0), (9_990.5, 10), (10.5, 9990), (0.5, 10_000), (9_990.0, 11), (10.0, 9991)):
            self.assertEqual(place_of(make_call("back", accepted_at=START - age), line), index)
        self.assertLess(line.looks, 120)

    def test_expiry(self) -> None:
        """What is older than the limit is taken out of every key's line, and the rest keeps its order."""
        self.add("1", "key_a", age=20)
        self.add("2", "key_a", age=5)
        self.add("3", "key_b", age=15)
        self.add("4", "key_c", age=1)
        old = [call.id.lstrip("0") for call in self.queue.take_older_than(START - 10)]
        self.assertEqual(old, ["1", "3"])
        self.assertEqual(len(self.queue), 2)
        self.assertEqual(names(self.queue), ["2", "4"])
