# mypy: allow-untyped-calls
"""The dialer of a node, on a store that gives what the test says."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from calledind.dialing.dialer import RETRY
from calledind.dialing.shared import BACKLOG, BATCH, SharedDialer
from calledind.dialing.trunks import FAILURES_TO_OPEN
from calledind.model import Call, Cause, Ending
from calledind.net.media import MediaSession, NoMedia
from calledind.settings.tables import Calls
from calledind.settings.tables import Trunk as TrunkSettings
from calledind.sip.useragent import Answered, Event, Refused
from calledind.store.interface import Grants, Limits, Route, SharedStore, StoreUnavailable
from tests.dialing.world import AUDIO, FakeStore, World, make_call, make_trunk, sdp_answer

ANSWER = Answered(sdp_answer(), "{}")


@dataclass
class FakeSharedStore(FakeStore):
    """One queue for each route, and as many channels as a trunk's limits say."""

    queues: dict[Route, deque[Call]] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[Route, tuple[str, ...], int, int]] = field(default_factory=list)
    "Route, trunks, own and most of each `take`."
    slow: list[Deferred[None]] | None = None
    "Where it is a list, each `take` waits for one of these."
    slow_looks: list[Deferred[Mapping[Route, int]]] | None = None
    "The same for `waiting`."
    wait: float | None = None
    given_back: list[str] = field(default_factory=list)
    lease: float = 10.0
    well: bool = True

    def put(self, call: Call, route: Route = ("a",)) -> Call:
        self.queues.setdefault(route, deque()).append(call)
        return call

    def queued(self) -> int:
        return sum(map(len, self.queues.values()))

    def waiting(self) -> Deferred[Mapping[Route, int]]:
        if self.slow_looks is not None:
            self.slow_looks.append(Deferred())
            return self.slow_looks[-1]
        if self.away:
            return fail(StoreUnavailable("Redis is away"))
        return succeed({route: len(queue) for route, queue in self.queues.items() if queue})

    def take(self, route: Route, limits: Sequence[Limits], *, own: int, most: int) -> Deferred[Grants]:
        self.asked.append((route, tuple(each.trunk for each in limits), own, most))
        if self.away:
            return fail(StoreUnavailable("Redis is away"))
        queue = self.queues.get(route, deque())
        calls: list[tuple[str, Call | None]] = []
        for limit in limits:
            while self.busy.get(limit.trunk, 0) < limit.channels and len(calls) < most and (own or queue):
                self.busy[limit.trunk] = self.busy.get(limit.trunk, 0) + 1
                calls.append((limit.trunk, None if own else queue.popleft()))
                own = max(0, own - 1)
        grants = Grants(calls, self.wait, len(queue))
        if self.slow is None:
            return succeed(grants)
        waiting: Deferred[None] = Deferred()
        self.slow.append(waiting)
        return waiting.addCallback(lambda _: grants)

    def give_back(self, call_id: str, route: Route) -> Deferred[bool]:
        self.given_back.append(call_id.lstrip("0"))
        return fail(StoreUnavailable("Redis is away")) if self.away else succeed(True)

    def take_expired(self, accepted_before: float, *, most: int = 100) -> Deferred[Sequence[Call]]:
        calls: list[Call] = []
        for route in self.queues:
            while len(calls) < most and self._is_old(route, accepted_before):
                calls.append(self.queues[route].popleft())
        return succeed(calls)

    def _is_old(self, route: Route, accepted_before: float) -> bool:
        return bool(self.queues[route]) and self.queues[route][0].accepted_at < accepted_before

    def take_stranded(self, route: Route, *, most: int = 100) -> Deferred[Sequence[Call]]:
        calls = list(self.queues.get(route, ()))
        self.queues.pop(route, None)
        return succeed(calls)

    # `release` of `FakeStore` answers what it held; a channel's name tells the two apart.
    def release(self, trunk: str = "") -> None:
        if trunk:
            self.busy[trunk] -= 1
        else:
            super().release()

    def lease_left(self) -> float:
        return self.lease

    def healthy(self) -> bool:
        return self.well


@dataclass
class FakeAudio:
    names: set[str] = field(default_factory=lambda: {AUDIO})
    "What is here."
    elsewhere: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    "Ids of the calls whose audio stays."
    away: bool = False

    def here(self, call: Call) -> bool:
        if call.audio in self.names:
            self.kept.add(call.id)
        return call.audio in self.names

    def bring(self, call: Call) -> Deferred[bool]:
        if self.away:
            return fail(StoreUnavailable("Redis is away"))
        if call.audio in self.elsewhere:
            self.kept.add(call.id)
        return succeed(call.audio in self.elsewhere)

    def let_go(self, call: Call) -> None:
        self.kept.discard(call.id)

    def accepted(self, call: Call) -> None:
        """It stays for a while."""

    def sweep(self) -> None:
        """It has gone."""


class SharedCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = FakeSharedStore()
        self.audio = FakeAudio()
        self.ended: list[tuple[str, Cause]] = []
        self.alone = False
        self.before = 0

    def make(self, *trunks: TrunkSettings, **calls: float) -> SharedDialer:
        self.world = World(Calls(**calls))  # type: ignore[arg-type]
        self.world.store = self.store
        object.__setattr__(self.world.surroundings, "store", self.store)
        self.dialer = SharedDialer(
            self.world.surroundings,
            trunks or (make_trunk(channels=2),),
            probe=lambda trunk, report: None,
            ended=self._ended,
            store=cast(SharedStore, self.store),
            audio=self.audio,
            alone=lambda: self.alone,
        )
        self.dialer.start()
        return self.dialer

    def accept(self, *names: str, number: str = "2125550100") -> None:
        for name in names:
            call = make_call(name, number=number, accepted_at=self.world.now())
            self.dialer.accepted(self.store.put(call, self.dialer.route(call)))

    def sent(self) -> list[str]:
        sessions = [session for session in self.world.user_agent.sessions if "send" in session.log]
        new, self.before = sessions[self.before :], len(sessions)
        hosts = [each.invitation.request_uri.partition("@")[2].partition(".")[0] for each in new]
        ids = [each.invitation.call_id.partition("-")[0].lstrip("0") for each in new]
        return [f"{name}@{host}" for name, host in zip(ids, hosts, strict=True)]

    def hear(self, name: str, *events: Event) -> None:
        wanted = name.rjust(32, "0")
        session = [each for each in self.world.user_agent.sessions if each.invitation.call_id.startswith(wanted)][-1]
        for event in events:
            session.report(event)

    def _ended(self, call: Call, ending: Ending) -> None:
        self.audio.let_go(call)
        self.ended.append((call.id.lstrip("0"), ending.cause))


class TakingTests(SharedCase):
    def test_accepted_here(self) -> None:
        """A call that was accepted here is taken at once, and the next when a channel comes free."""
        self.make()
        self.accept("1", "2", "3")
        self.assertEqual((self.sent(), len(self.dialer), self.store.busy), (["1@a", "2@a"], 1, {"a": 2}))
        self.hear("1", Refused(486, "", None, None, ""))
        self.assertEqual((self.sent(), len(self.dialer), self.store.busy), (["3@a"], 0, {"a": 2}))

    def test_accepted_elsewhere(self) -> None:
        """What other nodes accepted and leave is found within a second."""
        self.make()
        self.store.put(make_call("1"))
        self.assertEqual(self.sent(), [])
        self.world.clock.advance(1.0)
        self.assertEqual(self.sent(), ["1@a"])

    def test_full_of_others(self) -> None:
        """A route that is full of other nodes' calls is asked for again soon."""
        self.make()
        self.store.busy["a"] = 2
        self.accept("1")
        self.assertEqual(self.sent(), [])
        self.store.busy["a"] = 0
        self.world.clock.advance(BACKLOG)
        self.assertEqual(self.sent(), ["1@a"])

    def test_pace(self) -> None:
        """The store says when the trunk takes one more."""
        self.make()
        self.store.busy["a"], self.store.wait = 2, 0.1
        self.accept("1")
        self.store.busy["a"] = 0
        self.world.clock.advance(0.1)
        self.assertEqual(self.sent(), ["1@a"])

    def test_no_more_than_there_is_time_for(self) -> None:
        """While those that have begun wait for their media, none is taken, and others may have them."""
        self.make()
        self.world.media.behind = True
        self.accept("1")
        self.world.clock.advance(1.0)
        self.assertEqual(self.sent(), [])
        self.world.media.behind = False
        self.world.clock.advance(0.1)
        self.assertEqual(self.sent(), ["1@a"])

    def test_batches(self) -> None:
        """No more are taken at once than soon can be dialled, and no more than this machine makes."""
        self.make(make_trunk(channels=1000), max_live=40)
        for number in range(50):
            self.store.put(make_call(str(number)))
        self.world.clock.advance(1.0)
        self.assertEqual([most for *_, most in self.store.asked], [BATCH, 8])
        self.assertEqual(len(self.sent()), 40)

    def test_one_question(self) -> None:
        """One question is on its way at a time, however much happens meanwhile."""
        self.make()
        self.store.slow = []
        self.accept("1", "2", "3")
        self.assertEqual(len(self.store.slow), 1)
        self.store.slow[0].callback(None)
        self.assertEqual((self.sent(), len(self.store.slow)), (["1@a"], 2))
        self.store.slow[1].callback(None)
        self.assertEqual(self.sent(), ["2@a"])

    def test_away(self) -> None:
        """A store that is away is asked again; nothing is lost."""
        self.make()
        self.store.away = True
        self.accept("1")
        self.store.away = False
        self.world.clock.advance(RETRY)
        self.assertEqual(self.sent(), ["1@a"])

    def test_without_lease(self) -> None:
        """A node whose lease has run out takes nothing before its next heartbeat."""
        self.make()
        self.store.lease = 0.0
        self.accept("1")
        self.world.clock.advance(5.0)
        self.assertEqual((self.sent(), self.store.asked), ([], []))
        self.store.lease = 8.0
        self.dialer.serve()
        self.assertEqual(self.sent(), ["1@a"])

    def test_store_that_keeps_no_changes(self) -> None:
        """While replicas are missing, say, no call is taken that could not be dialled; then it is within a second."""
        self.make()
        self.store.well = False
        self.accept("1")
        self.world.clock.advance(5.0)
        self.assertEqual((self.sent(), self.store.asked), ([], []))
        self.store.well = True
        self.world.clock.advance(RETRY)
        self.assertEqual(self.sent(), ["1@a"])

    def test_failing_trunk(self) -> None:
        """A trunk whose breaker is open here is not asked for."""
        self.make(make_trunk("a", priority=1), make_trunk("b", priority=2))
        for _ in range(FAILURES_TO_OPEN):
            self.dialer.trunks["a"].failed("no response")
        self.accept("1")
        self.assertEqual((self.sent(), self.store.asked[-1][1]), (["1@b"], ("b",)))

    def test_expired(self) -> None:
        """What waited too long is ended by one node, whoever accepted it."""
        self.make(make_trunk(channels=1), queue_ttl=10.0)
        self.store.busy["a"] = 1
        self.store.put(make_call("1"))
        self.world.clock.pump([1.0] * 12)
        self.assertEqual(self.ended, [("1", Cause.EXPIRED)])

    def test_many_expire(self) -> None:
        """However fast calls are accepted, those that waited too long leave the queue as fast: no turn is theirs."""
        self.make(make_trunk(channels=1), queue_ttl=10.0)
        self.store.busy["a"] = 1
        for number in range(300):
            self.store.put(make_call(str(number + 1)))
        self.world.clock.pump([1.0] * 12)
        self.assertEqual(len(self.ended), 300)

    def test_one_look(self) -> None:
        """A look at what waits that takes long is not joined by a second one."""
        self.make()
        self.store.slow_looks = []
        self.world.clock.pump([1.0] * 5)
        self.assertEqual(len(self.store.slow_looks), 1)
        self.store.slow_looks[0].errback(StoreUnavailable("Redis is away"))
        self.world.clock.advance(1.0)
        self.assertEqual(len(self.store.slow_looks), 2)


class OwnTests(SharedCase):
    def test_next_trunk(self) -> None:
        """A call that a trunk failed waits here for the next, whose channel the store gives before that of others."""
        self.make(make_trunk("a", priority=1), make_trunk("b", priority=2))
        self.accept("1")
        self.hear("1", Refused(503, "", None, None, ""))
        self.assertEqual((self.sent(), self.store.asked[-1][:3]), (["1@a", "1@b"], (("b",), ("b",), 1)))
        self.assertEqual(self.store.busy, {"a": 0, "b": 1})

    def test_postponed(self) -> None:
        """A call that can't begin now waits here, its audio kept."""
        self.make()
        self.world.media.full = True
        self.accept("1")
        self.assertEqual((self.sent(), self.store.busy, len(self.audio.kept)), ([], {"a": 0}, 1))
        self.world.media.full = False
        self.world.clock.advance(RETRY)
        self.assertEqual((self.sent(), self.store.asked[-1][2]), (["1@a"], 1))

    def test_audio_is_brought(self) -> None:
        """Audio of another node is brought before the call is dialled."""
        self.make()
        self.audio.names, self.audio.elsewhere = set(), {AUDIO}
        self.accept("1")
        self.assertEqual((self.sent(), len(self.audio.kept)), (["1@a"], 1))

    def test_audio_is_gone(self) -> None:
        """A call whose audio nobody has any more fails; its channel is free."""
        self.make()
        self.audio.names = set()
        self.accept("1")
        self.assertEqual((self.ended, self.store.busy), ([("1", Cause.MEDIA_FAILED)], {"a": 0}))

    def test_audio_is_away(self) -> None:
        """A call whose audio can't be brought now waits here."""
        self.make()
        self.audio.names, self.audio.away = set(), True
        self.accept("1")
        self.assertEqual((self.ended, self.sent(), self.store.busy), ([], [], {"a": 0}))
        self.audio.names.add(AUDIO)
        self.world.clock.advance(RETRY)
        self.assertEqual(self.sent(), ["1@a"])

    def test_audio_that_is_an_error_of_ours(self) -> None:
        """A call whose audio can't be brought for a bug ends, and its channel is free."""
        self.make()
        self.audio.names.clear()
        self.patch(self.audio, "bring", lambda call: fail(ValueError("a bug")))
        self.accept("1")
        self.assertEqual((self.ended, self.store.busy), ([("1", Cause.MEDIA_FAILED)], {"a": 0}))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_left_alone(self) -> None:
        """A call that turns out to be another node's is let go of."""
        self.make()
        self.store.ours = False
        self.accept("1")
        self.assertEqual((self.sent(), self.ended, self.store.busy, self.audio.kept), ([], [], {"a": 0}, set()))

    def test_stranded(self) -> None:
        """Calls of a trunk that a reload removes look for another; those of a trunk unknown here are left to others."""
        self.make(make_trunk("a", channels=0))
        self.accept("1")
        self.dialer.replace(Calls(), [make_trunk("b")])
        self.assertEqual(self.sent(), ["1@b"])
        self.store.put(make_call("2"), ("x",))
        self.world.clock.advance(1.0)
        self.assertEqual(self.sent(), [])
        self.alone = True
        self.world.clock.advance(1.0)
        self.assertEqual(self.sent(), ["2@b"])


class LeavingTests(SharedCase):
    def test_drain(self) -> None:
        """A node that drains gives back what it has taken and not dialled, and takes no more."""
        self.make()
        self.world.media.full = True
        self.accept("1")
        self.dialer.drain()
        self.assertEqual((self.store.given_back, self.audio.kept), (["1"], set()))
        self.accept("2")
        self.world.clock.advance(10.0)
        self.assertEqual((self.sent(), len(self.store.asked)), ([], 1))

    def test_drain_while_it_is_asked(self) -> None:
        """What the store gives to a node that drains by then goes back, its channel too."""
        self.make()
        self.store.slow = []
        self.accept("1")
        self.dialer.drain()
        self.store.slow[0].callback(None)
        self.assertEqual((self.store.given_back, self.store.busy, self.sent()), (["1"], {"a": 0}, []))

    def test_drain_with_a_store_that_is_away(self) -> None:
        """What can't be given back now is left to the leave that the node takes."""
        self.make()
        self.world.media.full = True
        self.accept("1")
        self.store.away = True
        self.dialer.drain()
        self.assertEqual(self.store.given_back, ["1"])

    def test_given_back_when_the_store_is_there_again(self) -> None:
        """A node that an operator drains stays: what it could not give back, it gives back when it can."""
        self.make()
        self.world.media.full = True
        self.accept("1")
        self.store.away = True
        self.dialer.drain()
        self.dialer.serve()
        self.store.away = False
        self.dialer.serve()
        self.dialer.serve()
        self.assertEqual(self.store.given_back, ["1", "1", "1"])

    def test_given_back_after_a_drain_was_taken_back(self) -> None:
        """So does one that works again, within a second."""
        self.make()
        self.world.media.full = True
        self.accept("1")
        self.store.away = True
        self.dialer.drain()
        self.dialer.resume()
        self.store.away = False
        self.world.clock.pump([1.0] * 3)
        # Once by the drain, once in vain when the node works again.
        self.assertEqual(self.store.given_back, ["1"] * 3)

    def test_drain_while_a_call_begins(self) -> None:
        """A call that can't begin any more goes back to the others, and does not wait here for the drain to end."""
        self.make()
        opening: Deferred[MediaSession] = Deferred()
        self.patch(self.world.media, "open", lambda report: opening)
        self.accept("1")
        self.dialer.drain()
        opening.errback(NoMedia("no port is free"))
        self.assertEqual((self.store.given_back, self.store.busy, self.audio.kept), (["1"], {"a": 0}, set()))

    def test_drain_while_audio_is_brought(self) -> None:
        """So does one whose audio does not come."""
        self.make()
        brought: Deferred[bool] = Deferred()
        self.audio.names.clear()
        self.patch(self.audio, "bring", lambda call: brought)
        self.accept("1")
        self.dialer.drain()
        brought.errback(StoreUnavailable("Redis is away"))
        self.assertEqual((self.store.given_back, self.store.busy), (["1"], {"a": 0}))

    def test_abandon(self) -> None:
        """A node that was fenced hangs up, forgets what waits here, and takes calls again when it has joined anew."""
        self.make(make_trunk("a", channels=1))
        self.accept("1")
        self.hear("1", ANSWER)
        self.dialer.abandon()
        self.assertIn("end", self.world.user_agent.sessions[0].log)
        self.accept("2")
        self.world.clock.advance(5.0)
        self.assertEqual(self.sent(), ["1@a"])
        self.store.busy.clear()
        self.dialer.begin_anew()
        self.assertEqual(self.sent(), ["2@a"])
