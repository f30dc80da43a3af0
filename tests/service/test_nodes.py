# mypy: allow-untyped-calls
"""A node among others, on a store that says what the test says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.model import Attempt, CallRecord, Cause, EndedBy, Ending, Outcome, PendingCallback, State
from calledind.service.nodes import TAKE_OVER, Nodes
from calledind.store.interface import Fenced, NodeStatus, SharedStore, StoreUnavailable
from tests.dialing.world import make_call
from tests.service.recorder import Lines, Recorder

LEASE = 6.0
"One heartbeat a second."
RECORD = CallRecord(make_call("1"), State.DIALING, Attempt(1, "a", "{}"))
OUTCOME = Outcome(True, None, Ending(Cause.PLAYED, True, EndedBy.US, 1.0))
PENDING = PendingCallback(make_call("2"), OUTCOME, 0, 1.0)


def node(name: str, beats: int = 1, *, fenced: bool = False, left: bool = False) -> NodeStatus:
    return NodeStatus(name, beats, 1, 1.0, fenced, left, {"live": 3})


@dataclass
class FakeNodesStore:
    others: list[NodeStatus] = field(default_factory=list)
    beats: int = 0
    away: bool = False
    fenced: bool = False
    lease: float = LEASE
    log: list[tuple[Any, ...]] = field(default_factory=list)
    left_behind: list[tuple[list[CallRecord], list[PendingCallback]]] = field(default_factory=list)
    "What each `take_over` gives."

    def beat(self, figures: Mapping[str, object]) -> Deferred[None]:
        if self.away:
            return fail(StoreUnavailable("Redis is away"))
        if self.fenced:
            return fail(Fenced())
        self.beats += 1
        self.lease = LEASE
        return succeed(None)

    def lease_left(self) -> float:
        return self.lease

    def rejoin(self) -> Deferred[None]:
        self.log.append(("rejoin",))
        self.fenced = False
        return succeed(None)

    def nodes(self) -> Deferred[Sequence[NodeStatus]]:
        if self.away:
            return fail(StoreUnavailable("Redis is away"))
        return succeed([node("me", self.beats), *self.others])

    def fence(self, name: str, epoch: int, beats: int) -> Deferred[bool]:
        self.log.append(("fence", name, epoch, beats))
        self.others = [replace(each, fenced=each.fenced or each.name == name) for each in self.others]
        return succeed(True)

    def take_over(self, *, most: int = 100) -> Deferred[tuple[Sequence[CallRecord], Sequence[PendingCallback], bool]]:
        self.log.append(("take_over",))
        records, pending = self.left_behind.pop(0) if self.left_behind else ([], [])
        return succeed((records, pending, bool(self.left_behind)))


class NodesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = FakeNodesStore()
        self.dialer: Any = Recorder()
        self.callbacks: Any = Recorder()
        self.ended: list[CallRecord] = []
        self.lines: list[str] = []
        self.nodes = Nodes(
            timers=self.clock,
            store=cast(SharedStore, self.store),
            name="me",
            lease=LEASE,
            figures=lambda: {"live": 0},
        )
        setattr(self.nodes, "log", Lines(self.lines))  # noqa: B010 - the class says Logger
        self.nodes.beat()

    def start(self) -> None:
        self.successResultOf(self.nodes.start(self.dialer, self.callbacks, self.ended.append))
        self.addCleanup(self.nodes.stop)

    def wait(self, seconds: float) -> None:
        self.clock.pump([0.5] * int(seconds * 2))

    def fences(self) -> list[tuple[Any, ...]]:
        return [each for each in self.store.log if each[0] == "fence"]

    def test_beats(self) -> None:
        """A node that has joined beats at once, and at least six times in the time of its lease."""
        self.assertEqual(self.store.beats, 1)
        self.wait(6.0)
        self.assertEqual(self.store.beats, 7)

    def test_left_behind(self) -> None:
        """What former epochs had is taken up at the start, all of it, before anybody else is looked after."""
        self.store.left_behind = [([RECORD], [PENDING]), ([], [PENDING])]
        self.start()
        self.assertEqual(self.ended, [RECORD])
        self.assertEqual(self.callbacks.calls, [("add", PENDING)] * 2)
        self.assertIn("1 calls, to be ended, and 2 callbacks", self.lines[-1])

    def test_fenced_at_the_start(self) -> None:
        """A node that is fenced while it looks what it had before looks once more, and starts."""
        asked: Deferred[Any] = Deferred()
        plainly = self.store.take_over
        self.store.take_over = lambda **_: asked  # type: ignore[method-assign]
        starting = self.nodes.start(self.dialer, self.callbacks, self.ended.append)
        self.addCleanup(self.nodes.stop)
        self.store.fenced = True
        self.wait(1.0)
        self.store.take_over = plainly  # type: ignore[method-assign]
        self.store.left_behind = [([RECORD], [])]
        asked.errback(StoreUnavailable("this node was fenced meanwhile"))
        self.successResultOf(starting)
        self.assertEqual(self.ended, [RECORD])

    def test_dead_node(self) -> None:
        """A node whose beats stand still for a whole lease is fenced once, and what it had is taken over at once."""
        self.store.others = [node("other", 7)]
        self.start()
        self.assertFalse(self.nodes.alone())
        self.wait(5.0)
        self.assertEqual(self.fences(), [])
        self.assertEqual(self.nodes.show()[1]["state"], "silent for 5 s")
        self.store.left_behind = [([RECORD], [])]
        self.wait(1.5)
        self.assertEqual((self.fences(), self.ended), ([("fence", "other", 1, 7)], [RECORD]))
        self.wait(10.0)
        self.assertEqual(len(self.fences()), 1)
        self.assertTrue(self.nodes.alone())

    def test_living_node(self) -> None:
        """A node that beats now and then within its lease is left alone."""
        self.store.others = [node("other", 1)]
        self.start()
        for beats in range(2, 6):
            self.wait(5.0)
            self.store.others = [node("other", beats)]
        self.assertEqual(self.fences(), [])
        self.assertEqual([each["state"] for each in self.nodes.show()], ["alive", "silent for 4 s"])

    def test_store_was_away(self) -> None:
        """When the store was away, the others' time begins anew: they could not beat either."""
        self.store.others = [node("other", 1)]
        self.start()
        self.wait(4.0)
        self.store.away = True
        self.wait(30.0)
        self.store.away = False
        self.wait(5.0)
        self.assertEqual(self.fences(), [])
        self.wait(2.0)
        self.assertEqual(len(self.fences()), 1)
        self.assertEqual([line for line in self.lines if "away" in line], ["the nodes' store is away: Redis is away"])

    def test_stood_still(self) -> None:
        """A node that stood still itself does not take all others for dead on waking."""
        self.store.others = [node("other", 1)]
        self.start()
        self.wait(2.0)
        self.clock.advance(60.0)
        self.assertEqual(self.fences(), [])

    def test_those_that_left(self) -> None:
        """Who took leave or was fenced is not fenced again; what may be left of it is looked for now and then."""
        self.store.others = [node("gone", left=True), node("dead", fenced=True)]
        self.start()
        self.assertEqual([each["state"] for each in self.nodes.show()], ["alive", "has left", "fenced"])
        self.assertTrue(self.nodes.alone())
        self.store.log.clear()
        self.wait(20.0)
        self.assertEqual(self.fences(), [])
        self.assertLessEqual(len(self.store.log), 20 / TAKE_OVER)
        self.assertGreater(len(self.store.log), 5)

    def test_fenced(self) -> None:
        """A node that was fenced lets go of everything before it joins anew, and then takes calls again."""
        self.start()
        self.dialer.calls.clear()
        self.store.fenced = True
        self.wait(1.0)
        self.assertEqual([each[0] for each in self.dialer.calls], ["abandon", "begin_anew"])
        self.assertEqual(self.callbacks.calls, [("abandon",)])
        self.assertIn(("rejoin",), self.store.log)
        self.wait(1.0)
        self.assertEqual(self.store.beats, 2)

    def test_lease_renewed(self) -> None:
        """The first heartbeat after the lease had run out has the dialer go on."""
        self.start()
        self.dialer.calls.clear()
        self.store.lease = 0.0
        self.wait(1.0)
        self.assertIn(("serve",), self.dialer.calls)

    def test_bug(self) -> None:
        """An error of our own does not stop the heart."""
        self.start()
        self.store.beat = Recorder(beat=lambda _: 1 / 0).beat  # type: ignore[method-assign]
        self.wait(1.0)
        del self.store.beat
        self.assertIn("a node's heartbeat met an error of our own", self.lines)
        before = self.store.beats
        self.wait(1.0)
        self.assertEqual(self.store.beats, before + 1)
