"""Hosts take turns."""

# mypy: allow-untyped-calls

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.net.turns import Turns


class TurnsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.turns: Turns[int] = Turns(lambda host, item: self.begun.append((host, item)), in_all=3, per_host=2)

    def test_bounds(self) -> None:
        """No more begin than a host may have, nor than all may have together."""
        for item in range(4):
            self.turns.enter("a", item)
        self.assertEqual(self.begun, [("a", 0), ("a", 1)])
        self.turns.enter("b", 4)
        self.turns.enter("c", 5)
        self.assertEqual(self.begun[2:], [("b", 4)])
        self.assertEqual(len(self.turns), 3)

    def test_hosts_take_turns(self) -> None:
        """A host with many waiting delays another's first by one place only."""
        for item in range(100):
            self.turns.enter("a", item)
        self.turns.enter("b", 100)
        self.turns.enter("b", 101)
        self.turns.enter("c", 102)
        self.begun.clear()
        self.turns.leave("a")
        self.turns.leave("a")
        self.turns.leave("b")
        self.assertEqual(self.begun, [("b", 101), ("c", 102), ("a", 2)])

    def test_withdraw(self) -> None:
        """What is taken back does not begin; what has begun or never came can't be taken back."""
        for item in range(4):
            self.turns.enter("a", item)
        self.assertEqual([self.turns.withdraw("a", item) for item in (0, 2, 2, 9)], [False, True, False, False])
        self.turns.leave("a")
        self.assertEqual(self.begun, [("a", 0), ("a", 1), ("a", 3)])

    def test_over_at_once(self) -> None:
        """Ten thousand that are over as soon as they begin run one after the other, in order, without recursion."""
        done: list[int] = []

        def begin(host: str, item: int) -> None:
            done.append(item)
            if item >= 0:
                turns.leave(host)

        turns: Turns[int] = Turns(begin, in_all=1, per_host=1)
        turns.enter("busy", -1)
        for item in range(10_000):
            turns.enter("a", item)
        turns.leave("busy")
        self.assertEqual(done, [-1, *range(10_000)])
        self.assertEqual((len(turns), turns.running), (0, 0))

    @settings(deadline=None, derandomize=True)
    @given(
        st.lists(st.tuples(st.sampled_from(["enter", "leave", "withdraw"]), st.sampled_from("abc"), st.integers(0, 9)))
    )
    def test_any_order(self, steps: list[tuple[str, str, int]]) -> None:
        """Whatever the order, the bounds hold, nothing that could begin waits, and each item begins once."""
        running: dict[str, int] = dict.fromkeys("abc", 0)
        begun: list[tuple[str, int]] = []

        def begin(host: str, item: int) -> None:
            running[host] += 1
            begun.append((host, item))

        turns: Turns[int] = Turns(begin, in_all=3, per_host=2)
        entered = withdrawn = 0
        for number, (what, host, item) in enumerate(steps):
            if what == "enter":
                turns.enter(host, number)
                entered += 1
            elif what == "leave" and running[host]:
                running[host] -= 1
                turns.leave(host)
            elif what == "withdraw":
                withdrawn += turns.withdraw(host, number - item)
            self.assertEqual(turns.running, sum(running.values()))
            self.assertTrue(sum(running.values()) <= 3 and max(running.values()) <= 2)
            if len(turns) and sum(running.values()) < 3:
                self.assertEqual(max(running.values()), 2)
        self.assertEqual(len(set(begun)), len(begun))
        self.assertEqual(entered, len(begun) + withdrawn + len(turns))
