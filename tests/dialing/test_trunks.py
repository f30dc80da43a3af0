# mypy: allow-untyped-calls
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.dialing.trunks import FIRST_PROBE, LONGEST_PAUSE, SLOWEST_PROBE, Health, Trunk, Trunks
from tests.dialing.world import make_trunk

Report = Callable[[int | None], None]


class TrunkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.probes: list[tuple[float, Report]] = []
        self.free = 0
        self.told: list[tuple[str, Mapping[str, object]]] = []

    def make(self, **settings: Any) -> Trunk:
        def capacity() -> None:
            self.free += 1

        def probe(trunk: Trunk, report: Report) -> None:
            self.probes.append((self.clock.seconds(), report))

        def changed(name: str, details: Mapping[str, object]) -> None:
            self.told.append((name, details))

        return Trunk(make_trunk(**settings), timers=self.clock, probe=probe, capacity=capacity, changed=changed)

    def break_open(self, trunk: Trunk) -> None:
        for _ in range(5):
            trunk.failed("no response")

    def test_channels(self) -> None:
        """With all channels in use it takes nothing until one is given back, and says when that is."""
        trunk = self.make(channels=2)
        trunk.take()
        self.assertIsNotNone(trunk.wait())
        trunk.take()
        self.assertIsNone(trunk.wait())
        trunk.release()
        self.assertEqual((trunk.busy, self.free), (1, 1))
        self.assertIsNotNone(trunk.wait())

    def test_pace(self) -> None:
        """No second has more calls than its pace and a tenth of a second's worth of it."""
        trunk = self.make(calls_per_second=20.0, channels=10_000)
        taken = []
        while self.clock.seconds() < 3:
            while trunk.wait() == 0:
                trunk.take()
                taken.append(self.clock.seconds())
            self.clock.advance(trunk.wait() or 0.001)
        for begin in taken:
            within = [moment for moment in taken if begin <= moment < begin + 1 - 1e-6]
            self.assertLessEqual(len(within), 23)
        self.assertGreaterEqual(len(taken), 60)

    def test_rest_is_not_saved_up(self) -> None:
        """After a long rest it takes no more than the burst at once."""
        trunk = self.make(calls_per_second=100.0, channels=10_000)
        self.clock.advance(60)
        burst = 0
        while trunk.wait() == 0:
            trunk.take()
            burst += 1
        self.assertIn(burst, (10, 11))

    def test_pause(self) -> None:
        """A Retry-After keeps calls away for that long, and an absurd one for an hour."""
        trunk = self.make()
        trunk.pause(30)
        self.assertEqual(trunk.wait(), 30)
        self.clock.advance(29)
        self.assertEqual(trunk.wait(), 1)
        self.clock.advance(1)
        self.assertEqual(trunk.wait(), 0)
        trunk.pause(10**9)
        self.assertEqual(trunk.wait(), LONGEST_PAUSE)

    def test_breaker(self) -> None:
        """The fifth failure in a row opens it: no more calls."""
        trunk = self.make()
        for _ in range(4):
            trunk.failed("500")
        self.assertEqual((trunk.health, trunk.wait()), (Health.CLOSED, 0))
        trunk.failed("500")
        self.assertEqual((trunk.health, trunk.wait()), (Health.OPEN, None))

    def test_a_success_forgets_failures(self) -> None:
        """Failures count in a row only."""
        trunk = self.make()
        for _ in range(20):
            trunk.failed("500")
            trunk.succeeded()
        self.assertIs(trunk.health, Health.CLOSED)

    def test_probe_closes(self) -> None:
        """Any answer to the OPTIONS but 503 lets calls through again."""
        for status in (200, 404, 405, 500):
            trunk = self.make()
            self.break_open(trunk)
            self.assertEqual(len(self.probes), 0)
            self.clock.advance(FIRST_PROBE)
            self.free = 0
            self.probes.pop()[1](status)
            self.assertEqual((trunk.health, trunk.wait(), self.free), (Health.CLOSED, 0, 1), status)
            trunk.failed("again")
            self.assertIs(trunk.health, Health.CLOSED)

    def test_changes_are_told_once(self) -> None:
        """That it fails is told when the breaker opens, and that it is well when it closes, and nothing in between."""
        trunk = self.make(name="carrier")
        self.break_open(trunk)
        trunk.failed("a call that was on its way")
        self.clock.advance(FIRST_PROBE)
        self.probes.pop()[1](None)
        failing = ("carrier", {"health": "failing", "detail": "no response"})
        self.assertEqual(self.told, [failing])
        self.clock.advance(SLOWEST_PROBE)
        self.probes.pop()[1](200)
        trunk.succeeded()
        self.assertEqual(self.told, [failing, ("carrier", {"health": "well"})])

    def test_probes_grow_rarer(self) -> None:
        """Without an answer, or with 503, it is asked again: at intervals that double up to a minute, one at a time."""
        trunk = self.make()
        self.break_open(trunk)
        trunk.failed("a call that was on its way")
        for status in (None, 503, None, None, None, None):
            self.clock.pump([0.5] * 130)
            self.probes[-1][1](status)
        moments = [moment for moment, _ in self.probes]
        self.assertEqual(len(moments), 6)
        self.assertEqual(moments[0], FIRST_PROBE)
        self.assertIs(trunk.health, Health.OPEN)
        call = self.clock.getDelayedCalls()
        self.assertEqual([each.getTime() - self.clock.seconds() for each in call], [SLOWEST_PROBE])

    def test_stop(self) -> None:
        """A trunk that was stopped sends no probe, and plans none where one comes back late."""
        trunk = self.make()
        self.break_open(trunk)
        trunk.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        other = self.make()
        self.break_open(other)
        self.clock.advance(FIRST_PROBE)
        other.stop()
        self.probes[-1][1](None)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class TrunksTests(SynchronousTestCase):
    def make(self, *trunks: dict[str, Any]) -> Trunks:
        clock = Clock()
        settings = [make_trunk(**each) for each in trunks]
        return Trunks(settings, lambda each: Trunk(each, timers=clock, probe=lambda *_: None, capacity=lambda: None))

    def test_longest_prefix(self) -> None:
        """The longest prefix that fits goes first, and a trunk without prefixes takes all."""
        trunks = self.make(
            {"name": "all"}, {"name": "us", "prefixes": ("1",)}, {"name": "ny", "prefixes": ("1212", "44")}
        )
        self.assertEqual(trunks.route("1", "2125550100"), ("ny", "us", "all"))
        self.assertEqual(trunks.route("1", "3105550100"), ("us", "all"))
        self.assertEqual(trunks.route("44", "2075550100"), ("ny", "all"))
        self.assertEqual(trunks.route("33", "1555501000"), ("all",))

    def test_priority(self) -> None:
        """Of equally long prefixes the lowest priority is asked first, then the name decides."""
        trunks = self.make(
            {"name": "c"}, {"name": "b", "priority": 20}, {"name": "a", "priority": 20}, {"name": "d", "priority": 1}
        )
        self.assertEqual(trunks.route("1", "2125550100"), ("d", "c", "a", "b"))

    def test_nobody(self) -> None:
        """A number that no prefix fits has no route."""
        self.assertEqual(self.make({"name": "uk", "prefixes": ("44",)}).route("1", "2125550100"), ())

    def test_replace(self) -> None:
        """New settings reach the trunk of the same name, which keeps what it knows; others come and go."""
        trunks = self.make({"name": "a", "channels": 1}, {"name": "b"})
        first, gone = trunks["a"], trunks["b"]
        first.take()
        for _ in range(5):
            gone.failed("no response")
        trunks.replace([make_trunk("a", channels=2, priority=3), make_trunk("c")])
        self.assertIs(trunks["a"], first)
        self.assertEqual((first.busy, first.settings.priority), (1, 3))
        self.assertIsNotNone(first.wait())
        self.assertEqual([trunk.name for trunk in trunks], ["a", "c"])
        self.assertRaises(KeyError, trunks.__getitem__, "b")
