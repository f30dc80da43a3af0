# mypy: allow-untyped-calls
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from calledind.dialing.dialer import BREATH, MOST_TARGETS, RETRY, Dialer
from calledind.dialing.trunks import FIRST_PROBE, Health, Trunk
from calledind.model import Address, Call, Cause, Ending
from calledind.net.media import Finished, Lost
from calledind.settings.tables import Calls
from calledind.settings.tables import Trunk as TrunkSettings
from calledind.sip.useragent import Answered, Ended, Event, Progress, Refused, Unreachable
from calledind.store.interface import StoreUnavailable
from tests.dialing.world import FakeSession, World, make_call, make_trunk, sdp_answer

NOBODY = Unreachable("timeout", "timer B")
ANSWER = Answered(sdp_answer(), "{}")
TERMINATED = Refused(487, "Request Terminated", None, None, "")


def refused(status: int, retry_after: int | None = None) -> Refused:
    return Refused(status, "", None, retry_after, "")


class DialerCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(Calls(queue_ttl=300.0))
        self.ended: list[tuple[str, Ending]] = []
        self.probes: list[tuple[str, Callable[[int | None], None]]] = []
        self.before = 0

    def make(self, *trunks: TrunkSettings) -> Dialer:
        self.dialer = Dialer(self.world.surroundings, trunks, probe=self._probe, ended=self._ended)
        self.dialer.start()
        return self.dialer

    def add(self, *names: str, key: str = "key_1", number: str = "2125550100") -> None:
        for name in names:
            self.dialer.add(make_call(name, key=key, number=number, accepted_at=self.world.now()))

    def sent(self) -> list[str]:
        """Return calls and hosts of the INVITEs that left since the last time, as "call@host"."""
        sessions = [session for session in self.world.user_agent.sessions if "send" in session.log]
        new, self.before = sessions[self.before :], len(sessions)
        return [_name(session) for session in new]

    def hear(self, name: str, *events: Event) -> None:
        """Let the last session of a call hear something."""
        session = [each for each in self.world.user_agent.sessions if _name(each).split("@", maxsplit=1)[0] == name][-1]
        for event in events:
            session.report(event)

    def causes(self) -> dict[str, Cause]:
        self.assertEqual(len(dict(self.ended)), len(self.ended), "a call has two ends")
        return {name: ending.cause for name, ending in self.ended}

    def _ended(self, call: Call, ending: Ending) -> None:
        self.ended.append((call.id.lstrip("0"), ending))

    def _probe(self, trunk: Trunk, report: Callable[[int | None], None]) -> None:
        self.probes.append((trunk.name, report))


def _name(session: FakeSession) -> str:
    host = session.invitation.request_uri.partition("@")[2].partition(".")[0]
    return f"{session.invitation.call_id.partition('-')[0].lstrip('0')}@{host}"


class QueueTests(DialerCase):
    def test_channels(self) -> None:
        """No more calls run at the same time than the trunk has channels; the next goes when one was confirmed."""
        self.make(make_trunk(channels=2))
        self.add("1", "2", "3")
        self.assertEqual(self.sent(), ["1@a", "2@a"])
        self.assertEqual((len(self.dialer), self.dialer.live), (1, 2))
        self.hear("1", ANSWER)
        self.world.media.sessions[0].report(Finished())
        self.assertEqual((self.sent(), list(self.causes())), ([], ["1"]))
        self.hear("1", Ended("us", None, ""))
        self.assertEqual(self.sent(), ["3@a"])

    def test_most_live(self) -> None:
        """No more calls run at the same time than this machine is to make, whatever the trunks take."""
        self.world.surroundings = replace(self.world.surroundings, settings=Calls(max_live=1))
        self.make(make_trunk("a", prefixes=("1212",)), make_trunk("b", prefixes=("1310",)))
        self.add("1", "2")
        self.add("3", number="3105550100")
        self.assertEqual(self.sent(), ["1@a"])
        self.hear("1", refused(486))
        self.hear("2", refused(486))
        self.assertEqual(self.sent(), ["2@a", "3@b"])

    def test_standing_still(self) -> None:
        """A process that stood still for long does not dial what waited too long meanwhile."""
        self.make(make_trunk(channels=1))
        self.add("1", "2")
        self.world.clock.rightNow += 301.0  # no timer has come
        self.hear("1", refused(486))
        self.assertEqual((self.sent(), self.causes()["2"]), (["1@a"], Cause.EXPIRED))
        self.assertEqual(self.dialer.trunks["a"].busy, 0)

    def test_resumed(self) -> None:
        """A dialer that was drained dials again when it is told to, and looks after failing trunks."""
        self.make(make_trunk(channels=1))
        self.add("1", "2")
        self.dialer.drain()
        self.hear("1", refused(486))
        self.assertEqual(self.sent(), ["1@a"])
        self.dialer.resume()
        self.assertEqual(self.sent(), ["2@a"])
        for _ in range(5):
            self.dialer.trunks["a"].failed("no response")
        self.dialer.drain()
        self.dialer.resume()
        self.world.clock.advance(FIRST_PROBE)
        self.assertEqual([name for name, _ in self.probes], ["a"])

    def test_pace(self) -> None:
        """Calls leave at the trunk's pace, without anything else that wakes the dialer."""
        self.make(make_trunk(calls_per_second=5.0))
        self.add(*map(str, range(1, 31)))
        counts = []
        for _ in range(5):
            self.world.clock.pump([0.05] * 20)
            counts.append(len(self.sent()))
        self.assertLessEqual(counts[0], 7)
        self.assertEqual(counts[1:], [5, 5, 5, 5])

    def test_no_more_than_there_is_time_for(self) -> None:
        """While those that have begun wait for their media, no more begin, whatever the trunk takes."""
        self.make(make_trunk())
        self.world.media.behind = True
        self.add("1", "2")
        self.world.clock.pump([0.05] * 20)
        self.assertEqual(self.sent(), [])
        self.world.media.behind = False
        self.world.clock.advance(BREATH)
        self.assertEqual(self.sent(), ["1@a", "2@a"])

    def test_one_timer(self) -> None:
        """Calls that join others in the queue set no timers, and those before them leave none behind."""
        self.make(make_trunk(calls_per_second=1.0))
        self.add(*map(str, range(1, 101)))
        timers = len(self.world.clock.getDelayedCalls())
        self.add(*map(str, range(101, 301)))
        self.assertEqual(len(self.world.clock.getDelayedCalls()), timers)
        self.world.clock.pump([0.5] * 4)
        self.assertEqual(self.sent(), ["1@a", "2@a", "3@a"])

    def test_fair(self) -> None:
        """A key's single call does not wait for another key's hundred."""
        self.make(make_trunk(channels=1))
        self.add(*map(str, range(1, 101)), key="key_big")
        self.add("999", key="key_small")
        self.assertEqual(self.sent(), ["1@a"])
        self.hear("1", refused(486))
        self.hear("2", refused(486))
        self.assertEqual(self.sent(), ["2@a", "999@a"])

    def test_full_trunk_holds_up_nobody_else(self) -> None:
        """Calls that may go elsewhere do."""
        self.make(make_trunk("a", channels=1, prefixes=("1212",)), make_trunk("b", prefixes=("1310",)))
        self.add("1", "2")
        self.add("3", number="3105550100")
        self.assertEqual(self.sent(), ["1@a", "3@b"])

    def test_overflow(self) -> None:
        """With the first trunk of a route full, the second one takes the call."""
        self.make(make_trunk("a", channels=1, priority=1), make_trunk("b"))
        self.add("1", "2")
        self.assertEqual(self.sent(), ["1@a", "2@b"])

    def test_no_trunk(self) -> None:
        """A number that no trunk takes has its end at once."""
        self.make(make_trunk(prefixes=("44",)))
        self.add("1")
        self.assertEqual(self.causes(), {"1": Cause.NO_RESPONSE})

    def test_expiry(self) -> None:
        """What waited longer than queue_ttl is not dialled any more."""
        self.make(make_trunk(channels=1))
        self.add("1", "2")
        self.world.clock.pump([1] * 100)
        self.add("3")
        self.world.clock.pump([1] * 202)
        self.assertEqual(self.causes()["2"], Cause.EXPIRED)
        self.assertEqual(len(self.dialer), 1)

    def test_hang_up(self) -> None:
        """An operator ends a running call; one that isn't running is told so."""
        self.make(make_trunk())
        self.add("1")
        self.assertFalse(self.dialer.hang_up("nonesuch"))
        self.assertTrue(self.dialer.hang_up("1".rjust(32, "0")))
        self.assertEqual([attempt.state for attempt in self.dialer._live.values()], ["cancelling"])
        self.hear("1", TERMINATED)
        self.assertEqual(self.causes(), {"1": Cause.HUNG_UP})


class PostponedTests(DialerCase):
    def test_store_away(self) -> None:
        """While the store is away no call is lost and none leaves; when it is back they go in their order."""
        self.make(make_trunk())
        self.world.store.away = True
        self.add("1", "2")
        self.world.clock.pump([RETRY] * 5)
        self.assertEqual((self.sent(), self.ended, len(self.dialer)), ([], [], 2))
        self.world.store.away = False
        self.world.clock.advance(RETRY)
        self.assertEqual(self.sent(), ["1@a", "2@a"])
        self.assertEqual([each[2] for each in self.world.store.log], [1, 1])

    def test_no_spinning(self) -> None:
        """Without media one call is tried a second, not all of them as fast as they can."""
        self.make(make_trunk())
        self.world.media.full = True
        self.add(*map(str, range(1, 21)))
        self.assertEqual(self.world.media.tries, 1)
        self.world.clock.pump([RETRY] * 3)
        self.assertEqual(self.world.media.tries, 4)
        self.world.media.full = False
        self.world.clock.advance(RETRY)
        self.assertEqual(len(self.sent()), 20)

    def test_channel_is_free_again(self) -> None:
        """A call that was put back holds no channel."""
        self.make(make_trunk(channels=1))
        self.world.media.full = True
        self.add("1")
        self.assertEqual([trunk.busy for trunk in self.dialer.trunks], [0])


class FailoverTests(DialerCase):
    def both(self) -> None:
        self.make(make_trunk("a", priority=1), make_trunk("b"))
        self.add("1")
        self.assertEqual(self.sent(), ["1@a"])

    def test_technical_failures(self) -> None:
        """No response, a transport failure and what speaks of the trunk lead to the next one, as attempt 2."""
        failures: list[Event] = [NOBODY, Unreachable("transport", "")]
        for failure in failures + [refused(status) for status in (408, 500, 502, 503, 504)]:
            self.setUp()
            self.both()
            self.hear("1", Progress(100, "Trying", b""), failure)
            self.assertEqual((self.sent(), self.ended), (["1@b"], []), failure)
            self.assertEqual([each[2:] for each in self.world.store.log], [(1, "a"), (2, "b")])
            self.hear("1", refused(486))
            self.assertEqual([ending.sip_status for _, ending in self.ended], [486])

    def test_what_the_callee_says(self) -> None:
        """What speaks of the callee is the outcome; nobody is called twice."""
        for status in (404, 480, 486, 487, 501, 505, 600, 603):
            self.setUp()
            self.both()
            self.hear("1", refused(status))
            self.assertEqual((self.sent(), len(self.ended)), ([], 1), status)

    def test_after_ringing(self) -> None:
        """Once somebody was reached no other trunk is asked, whatever follows."""
        for status in (180, 181, 183):
            failures: list[Event] = [refused(503), NOBODY]
            for failure in failures:
                self.setUp()
                self.both()
                self.hear("1", Progress(status, "", b""), failure)
                self.assertEqual((self.sent(), len(self.ended)), ([], 1))

    def test_no_address(self) -> None:
        """A trunk that has no address is passed over; the next attempt is the first that the store knows."""
        self.make(make_trunk("a", priority=1), make_trunk("b"))
        self.world.targets.lost.add("a.example")
        self.add("1")
        self.assertEqual(self.sent(), ["1@b"])
        self.assertEqual([each[2:] for each in self.world.store.log], [(1, "b")])

    def test_last_trunk(self) -> None:
        """When the last one has failed, its failure is the outcome."""
        self.both()
        self.hear("1", NOBODY)
        self.hear("1", refused(500))
        self.assertEqual([(name, ending.sip_status, ending.trunk) for name, ending in self.ended], [("1", 500, "b")])

    def test_three(self) -> None:
        """Each trunk is asked once, in order, with the next number."""
        self.make(make_trunk("a", priority=1), make_trunk("b", priority=2), make_trunk("c", priority=3))
        self.add("1")
        self.hear("1", NOBODY)
        self.hear("1", NOBODY)
        self.hear("1", NOBODY)
        self.assertEqual(self.sent(), ["1@a", "1@b", "1@c"])
        self.assertEqual([each[2] for each in self.world.store.log], [1, 2, 3])
        self.assertEqual(len(self.ended), 1)

    def test_next_one_full(self) -> None:
        """It waits for the next trunk; when that takes too long, the first one's failure is what is told."""
        self.make(make_trunk("a", priority=1, channels=1), make_trunk("b", channels=1))
        self.add("1", "2")
        self.hear("1", refused(503))
        self.assertEqual((self.sent(), self.ended), (["1@a", "2@b"], []))
        self.world.clock.pump([1] * 302)
        self.assertEqual([(name, ending.sip_status) for name, ending in self.ended if name == "1"], [("1", 503)])

    def test_a_bug_is_not_repeated(self) -> None:
        """A call that broke after its INVITE is not tried elsewhere."""
        self.both()
        session = self.world.session
        session.broken = "end"
        self.dialer.hang_up("1".rjust(32, "0"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual((self.sent(), list(self.causes())), ([], ["1"]))


class TargetTests(DialerCase):
    """A trunk of three addresses, and another trunk after it."""

    def setUp(self) -> None:
        super().setUp()
        self.first, self.second, self.third = self.addresses = [(f"192.0.2.{n}", 5060) for n in (1, 2, 3)]
        self.world.targets.addresses = self.addresses
        self.make(make_trunk("a", priority=1), make_trunk("b", priority=2))

    def went_to(self) -> list[Address]:
        return [session.invitation.target for session in self.world.user_agent.sessions if "send" in session.log]

    def test_next_address(self) -> None:
        """Silence, a lost connection and a 503 send a call to the trunk's next address, each try with its number;
        the trunk is as well as before."""
        self.add("1")
        for event in (NOBODY, Unreachable("transport", "")):
            self.hear("1", event)
        self.assertEqual((self.went_to(), self.sent()), (self.addresses, ["1@a"] * 3))
        self.assertEqual([entry[2] for entry in self.world.store.log if entry[0] == "begin_dialing"], [1, 2, 3])
        self.assertEqual(self.world.targets.resting, {self.first: None, self.second: None})
        self.hear("1", Refused(486, "", None, None, ""))
        self.assertEqual((list(self.causes()), self.world.targets.working), (["1"], [self.third]))
        self.assertEqual({trunk.health for trunk in self.dialer.trunks}, {Health.CLOSED})

    def test_retry_after(self) -> None:
        """A 503 with Retry-After is that address's own while there are others; the last one pauses the trunk."""
        self.add("1")
        self.hear("1", refused(503, 7))
        self.assertEqual((self.went_to()[-1], self.world.targets.resting), (self.second, {self.first: 7}))
        self.assertEqual(self.dialer.trunks["a"].wait(), 0)
        self.hear("1", refused(503, 8))
        self.hear("1", refused(503, 9))
        self.assertEqual(self.sent(), ["1@a"] * 3 + ["1@b"])
        self.assertEqual(self.dialer.trunks["a"].wait(), 9)

    def test_addresses_of_the_next_trunk(self) -> None:
        """What failed of one trunk says nothing of another's addresses."""
        self.world.targets.has_more = lambda trunk, tried: False  # type: ignore[method-assign]
        self.add("1")
        self.hear("1", NOBODY)
        self.assertEqual((self.sent(), self.went_to()), (["1@a", "1@b"], [self.first, self.first]))

    def test_other_statuses(self) -> None:
        """Any other failure is the whole trunk's."""
        self.add("1")
        self.hear("1", refused(500))
        self.assertEqual((self.sent(), self.world.targets.resting), (["1@a", "1@b"], {}))

    def test_after_ringing(self) -> None:
        """What rang is never asked again elsewhere, whatever it says then."""
        self.add("1")
        self.hear("1", Progress(180, ""), refused(503))
        self.assertEqual((self.sent(), list(self.causes())), (["1@a"], ["1"]))

    def test_bounded(self) -> None:
        """A name with very many addresses is given up after some."""
        self.world.targets.addresses = [(f"192.0.2.{n}", 5060) for n in range(50)]
        self.add("1")
        for _ in range(MOST_TARGETS):
            self.hear("1", NOBODY)
        self.assertEqual(self.sent(), ["1@a"] * MOST_TARGETS + ["1@b"])


class HealthTests(DialerCase):
    def test_breaker(self) -> None:
        """Five failures in a row keep calls away, until an OPTIONS is answered; what waits goes then."""
        self.make(make_trunk())
        for name in "12345":
            self.add(name)
            self.hear(name, NOBODY)
        self.sent()
        self.add("6")
        self.assertEqual((self.sent(), self.dialer.trunks["a"].health), ([], Health.OPEN))
        self.world.clock.advance(FIRST_PROBE)
        self.assertEqual([name for name, _ in self.probes], ["a"])
        self.probes[0][1](200)
        self.assertEqual(self.sent(), ["6@a"])

    def test_busy_callees_open_no_breaker(self) -> None:
        """Refusals that speak of callees say that the trunk is well."""
        self.make(make_trunk())
        for number in range(1, 20):
            self.add(str(number))
            self.hear(str(number), refused(486) if number % 4 == 0 else refused(500))
        self.assertIs(self.dialer.trunks["a"].health, Health.CLOSED)

    def test_retry_after(self) -> None:
        """503 with Retry-After: the trunk gets no call for that long; what waits goes right afterwards."""
        self.make(make_trunk())
        self.add("1")
        self.hear("1", refused(503, 30))
        self.sent()
        self.add("2")
        self.world.clock.pump([1] * 29)
        self.assertEqual(self.sent(), [])
        self.world.clock.advance(1)
        self.assertEqual(self.sent(), ["2@a"])

    def test_retry_after_of_a_callee(self) -> None:
        """A busy callee's Retry-After holds up nobody else."""
        self.make(make_trunk())
        self.add("1")
        self.hear("1", refused(486, 3600))
        self.add("2")
        self.assertEqual(self.sent(), ["1@a", "2@a"])

    def test_retry_after_sends_elsewhere(self) -> None:
        """During the pause the other trunk takes the calls."""
        self.make(make_trunk("a", priority=1), make_trunk("b"))
        self.add("1")
        self.hear("1", refused(503, 30))
        self.add("2")
        self.assertEqual(self.sent(), ["1@a", "1@b", "2@b"])


class DrainTests(DialerCase):
    def test_idle(self) -> None:
        """With nothing running it is over at once, and no timer is left."""
        self.make(make_trunk())
        self.successResultOf(self.dialer.drain())
        self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def test_running_calls_finish(self) -> None:
        """Running calls finish, up to the confirmed BYE; what waits is not dialled and has no end."""
        self.make(make_trunk(channels=1))
        self.add("1", "2")
        self.hear("1", ANSWER)
        drained = self.dialer.drain()
        self.add("3")
        self.assertNoResult(drained)
        self.world.media.sessions[0].report(Finished())
        self.assertNoResult(drained)
        self.hear("1", Ended("us", None, ""))
        self.successResultOf(drained)
        self.assertEqual((self.sent(), list(self.causes())), (["1@a"], ["1"]))

    def test_hang_up_all(self) -> None:
        """Those that take too long are hung up."""
        self.make(make_trunk())
        self.add("1", "2")
        self.hear("1", ANSWER)
        drained = self.dialer.drain()
        self.dialer.hang_up_all()
        self.hear("1", Ended("us", None, ""))
        self.hear("2", TERMINATED)
        self.successResultOf(drained)
        self.assertEqual(self.causes(), {"1": Cause.HUNG_UP, "2": Cause.HUNG_UP})

    def test_between_two_trunks(self) -> None:
        """A call that failed at one trunk and waits for the next was dialled: it ends with that failure."""
        self.make(make_trunk("a", priority=1, channels=1), make_trunk("b", channels=1))
        self.add("1", "2")
        self.hear("1", refused(503))
        self.dialer.drain()
        self.assertEqual([(name, ending.sip_status) for name, ending in self.ended], [("1", 503)])

    def test_failure_while_draining(self) -> None:
        """No other trunk is asked any more."""
        self.make(make_trunk("a", priority=1), make_trunk("b"))
        self.add("1")
        drained = self.dialer.drain()
        self.hear("1", NOBODY)
        self.successResultOf(drained)
        self.assertEqual((self.sent(), self.causes()), (["1@a"], {"1": Cause.NO_RESPONSE}))

    def test_put_back_while_draining(self) -> None:
        """What could not be dialled stays in the store, unless it was dialled before: then that is its end."""
        self.make(make_trunk("a", priority=1), make_trunk("b"))
        self.add("1")
        self.world.store.holding = True
        self.hear("1", NOBODY)
        self.add("2")
        drained = self.dialer.drain()
        for session in self.world.media.sessions:
            session.report(Lost("gone"))
        held, self.world.store.held = self.world.store.held, []
        for waiting, _ in held:
            waiting.errback(StoreUnavailable("disk full"))
        self.successResultOf(drained)
        self.assertEqual(self.causes(), {"1": Cause.NO_RESPONSE})


class ReplaceTests(DialerCase):
    def test_new_figures(self) -> None:
        """More channels let what waits go at once; running calls are counted on."""
        self.make(make_trunk(channels=1))
        self.add("1", "2", "3")
        self.replace(make_trunk(channels=2))
        self.assertEqual(self.sent(), ["1@a", "2@a"])
        self.replace(make_trunk(channels=1))
        self.hear("1", refused(486))
        self.assertEqual(self.sent(), [])
        self.hear("2", refused(486))
        self.assertEqual(self.sent(), ["3@a"])

    def test_trunk_gone(self) -> None:
        """A call on a trunk that is gone goes on to its end, and what waited for it goes elsewhere."""
        self.make(make_trunk("a", channels=1))
        self.add("1", "2")
        self.replace(make_trunk("b"))
        self.assertEqual(self.sent(), ["1@a", "2@b"])
        self.hear("1", refused(486))
        self.assertEqual([name for name, _ in self.ended], ["1"])

    def test_fails_over_to_what_is_there_now(self) -> None:
        """A call that fails on its trunk is not sent to one that is gone."""
        self.make(make_trunk("a", priority=1), make_trunk("b"))
        self.add("1")
        self.replace(make_trunk("a"), make_trunk("c"))
        self.hear("1", NOBODY)
        self.assertEqual(self.sent(), ["1@a", "1@c"])

    def test_nobody_left(self) -> None:
        """What no trunk takes any more has its end; one that failed before, with that failure."""
        self.make(make_trunk("a", priority=1, channels=1), make_trunk("b", channels=1))
        self.add("1", "2", "3", "4")
        self.hear("1", refused(503))
        self.assertEqual(self.sent(), ["1@a", "2@b", "3@a"])
        self.replace(make_trunk("a", prefixes=("44",)))
        self.assertEqual({name: ending.sip_status for name, ending in self.ended}, {"1": 503, "4": None})

    def test_not_tried_twice(self) -> None:
        """A call that waits for its next trunk does not come back to the one that failed it."""
        self.make(make_trunk("a", priority=1, channels=1), make_trunk("b", channels=1))
        self.add("1", "2")
        self.hear("1", refused(503))
        self.assertEqual(self.sent(), ["1@a", "2@b"])
        self.replace(make_trunk("a"), make_trunk("c"))
        self.assertEqual(self.sent(), ["1@c"])

    def test_settings(self) -> None:
        """New settings are those of the calls to come."""
        self.make(make_trunk())
        self.add("1")
        self.dialer.replace(Calls(ring_timeout=5.0), [make_trunk()])
        self.add("2")
        self.world.clock.advance(5)
        self.assertEqual([attempt.state for attempt in self.dialer._live.values()], ["calling", "cancelling"])

    def replace(self, *trunks: TrunkSettings) -> None:
        settings: Sequence[TrunkSettings] = trunks
        self.dialer.replace(Calls(), settings)
