"""Every flow, with each of its messages lost, repeated or late in turn, and on networks that are bad throughout.

Whatever happens on the way, a call has exactly one last word, an answered one was reported at most once, and when
all is over neither side keeps a transaction, a dialog or a timer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from calledind.sip.auth import Credentials
from calledind.sip.events import Answered, Ended, Event, Refused, Unreachable
from calledind.sip.uas import Gone, IncomingCall
from calledind.sip.useragent import InviteSession
from tests.sip.network import DELAY, Datagram
from tests.sip.parties import ANSWER, THEM, World, invitation

END_AT_LAST = 60.0
"When the owner hangs up in any case, in seconds: the audio is over."
LONGEST = END_AT_LAST + 3 * 33.0
"When nothing may be left, in seconds: a CANCEL, a BYE and a lingering transaction after that."
TOGETHER = 50
"Calls that are placed within two seconds."
CHALLENGE = ("WWW-Authenticate", 'Digest realm="r", nonce="n", algorithm=MD5, qop="auth"')


@dataclass(frozen=True)
class Flow:
    """A call's script."""

    play: Callable[[World, IncomingCall], None]
    "The callee's part."
    ends: float | None = None
    "When the owner calls `end`."
    acknowledges_after: float = 0.0
    expected: type[Event] = Ended
    "The last word where nothing is lost."


def later(world: World, seconds: float, what: Callable[[], object]) -> None:
    world.clock.callLater(seconds, what)


def answers(world: World, call: IncomingCall) -> None:
    call.renegotiate = lambda offer: ANSWER
    later(world, 0.1, lambda: call.respond(180))
    later(world, 0.5, lambda: call.respond(200, sdp=ANSWER))


def answers_and_leaves(world: World, call: IncomingCall) -> None:
    answers(world, call)
    later(world, 5, call.bye)


def refuses(world: World, call: IncomingCall) -> None:
    later(world, 0.3, lambda: call.respond(486))


def rings(world: World, call: IncomingCall) -> None:
    later(world, 0.1, lambda: call.respond(180))


def challenges(world: World, call: IncomingCall) -> None:
    if call.request.get("Authorization") is None:
        call.respond(401, headers=[CHALLENGE])
    else:
        answers(world, call)


def forks(world: World, call: IncomingCall) -> None:
    later(world, 0.1, lambda: call.respond(180, to_tag="a"))
    later(world, 0.2, lambda: call.respond(183, sdp=ANSWER, to_tag="b"))
    later(world, 0.5, lambda: call.respond(200, sdp=ANSWER, to_tag="a"))
    later(world, 0.52, lambda: call.respond(200, sdp=ANSWER, to_tag="b"))


def holds(world: World, call: IncomingCall) -> None:
    answers(world, call)

    def hold() -> None:
        if call.is_answered:
            call.reinvite(ANSWER, lambda status, sdp: None)

    later(world, 3, hold)


def is_reliable(world: World, call: IncomingCall) -> None:
    later(world, 0.1, lambda: call.respond(183, sdp=ANSWER, reliable=True))
    later(world, 0.2, lambda: call.respond(180, reliable=True))
    later(world, 0.5, lambda: call.respond(200))


def is_refreshed(world: World, call: IncomingCall) -> None:
    later(world, 0.5, lambda: call.respond(200, sdp=ANSWER, headers=[("Session-Expires", "10;refresher=uac")]))


def offers_at_once(world: World, call: IncomingCall) -> None:
    "Our refresh, which has no offer, and their hold meet."
    is_refreshed(world, call)
    call.renegotiate = lambda offer: ANSWER

    def hold() -> None:
        if call.is_answered:
            call.reinvite(ANSWER, lambda status, sdp: None)

    later(world, 5.52, hold)


def is_silent(world: World, call: IncomingCall) -> None:
    call.stay_silent()


FLOWS = {
    "we leave": Flow(answers, ends=5),
    "they leave": Flow(answers_and_leaves),
    "both leave": Flow(answers_and_leaves, ends=5.55),
    "refused": Flow(refuses, expected=Refused),
    "challenged": Flow(challenges, ends=5),
    "cancelled": Flow(rings, ends=2, expected=Refused),
    "cancelled at once": Flow(rings, ends=0, expected=Refused),
    "cancelled as it is answered": Flow(answers, ends=0.515),
    "left before the ACK": Flow(answers, ends=1, acknowledges_after=3),
    "acknowledged late": Flow(answers, ends=5, acknowledges_after=2),
    "fork": Flow(forks, ends=5),
    "hold": Flow(holds, ends=8),
    "reliable": Flow(is_reliable, ends=5),
    "reliable and cancelled": Flow(is_reliable, ends=0.25, expected=Refused),
    "refreshed": Flow(is_refreshed, ends=12),
    "refreshed and held at once": Flow(offers_at_once, ends=12),
    "silence": Flow(is_silent, expected=Unreachable),
}


def perform(flow: Flow, rule: Callable[[Datagram], list[float]]) -> World:
    "Play a flow to its end on a network of this kind."
    world = World()
    world.play = lambda call: flow.play(world, call)
    world.network.rule = rule
    sessions: list[InviteSession] = []

    def report(event: Event) -> None:
        world.events.append(event)
        if isinstance(event, Answered):
            later(world, flow.acknowledges_after, sessions[0].acknowledge)

    sessions.append(
        world.agent.prepare(invitation(credentials=Credentials("me", "secret"), renegotiate=lambda offer: ANSWER))
    )
    sessions[0].send(report)
    if flow.ends is not None:
        later(world, flow.ends, sessions[0].end)
    later(world, END_AT_LAST, sessions[0].end)
    later(world, END_AT_LAST, lambda: give_up(world.calls))
    world.network.pass_time(LONGEST)
    return world


def give_up(calls: list[IncomingCall]) -> None:
    "What a callee does who was never told that a call is over."
    for call in calls:
        call.drop()
        for tag in (call.tag, "a", "b"):
            call.bye(to_tag=tag)


def tenths(chance: random.Random) -> Callable[[Datagram], list[float]]:
    "Lose a tenth of all datagrams, repeat a tenth, and let a tenth be overtaken."

    def rule(datagram: Datagram) -> list[float]:
        kind = chance.random()
        if kind < 0.1:
            return []
        if kind < 0.2:
            return [DELAY, chance.uniform(0, 1)]
        return [chance.uniform(0, 1)] if kind < 0.3 else [DELAY]

    return rule


@dataclass
class Placed:
    """One of many calls."""

    flow: Flow
    session: InviteSession
    events: list[tuple[float, Event]] = field(default_factory=list)
    "With the time of each."


def place(world: World, flow: Flow, placed: dict[str, Placed]) -> None:
    session = world.agent.prepare(invitation(credentials=Credentials("me", "secret"), renegotiate=lambda offer: ANSWER))
    call = placed[session.call_id] = Placed(flow, session)

    def report(event: Event) -> None:
        call.events.append((world.clock.seconds(), event))
        if isinstance(event, Answered):
            later(world, flow.acknowledges_after, session.acknowledge)

    session.send(report)
    if flow.ends is not None:
        later(world, flow.ends, session.end)


def only(number: int, delays: list[float]) -> Callable[[Datagram], list[float]]:
    "Do this to one datagram, and nothing to the others."
    return lambda datagram: delays if datagram.number == number else [DELAY]


class LossyTests(SynchronousTestCase):
    def check(self, world: World, what: str) -> None:
        what = f"{what}\n{world.network.ladder()}\n{world.events}\n{world.heard}"
        self.assertEqual(len(world.last_words), 1, what)
        self.assertIs(world.events[-1], world.last_words[0], what)
        self.assertLessEqual(sum(isinstance(event, Answered) for event in world.events), 1, what)
        self.assertEqual((len(world.agent), len(world.callee)), (0, 0), what)
        self.assertEqual(world.clock.getDelayedCalls(), [], what)
        self.assertEqual(sum(isinstance(event, Gone) for event in world.heard), len(world.calls), what)

    def test_each_message_in_turn(self) -> None:
        """Each message of each flow is lost, repeated, late by 0.7 s and by 6 s, and lost with all that follow."""
        ways = {"lost": [], "repeated": [DELAY, DELAY * 2], "late": [0.7], "very late": [6.0], "again": [DELAY, 3.0]}
        for name, flow in FLOWS.items():
            straight = perform(flow, lambda datagram: [DELAY])
            self.check(straight, name)
            self.assertIsInstance(straight.last_words[0], flow.expected, name)
            count = len(straight.network.sent)
            for number in range(count):
                for way, delays in ways.items():
                    self.check(perform(flow, only(number, delays)), f"{name}: message {number} {way}")
                dead = perform(flow, lambda d, number=number: [DELAY] if d.number < number else [])  # type: ignore[misc]
                self.check(dead, f"{name}: dead from message {number}")

    def test_one_way_only(self) -> None:
        """Each flow, dead from each message on in one direction alone."""
        for name, flow in FLOWS.items():
            count = len(perform(flow, lambda datagram: [DELAY]).network.sent)
            for number in range(count):
                for host in ("127.0.0.1", "127.0.0.2"):

                    def rule(datagram: Datagram, number: int = number, host: str = host) -> list[float]:
                        return [] if datagram.number >= number and datagram.source[0] == host else [DELAY]

                    self.check(perform(flow, rule), f"{name}: from message {number} on {host} isn't heard")

    def test_bad_networks(self) -> None:
        """Each flow on networks that lose, repeat and reorder a third of everything."""
        for name, flow in FLOWS.items():
            for seed in range(25):
                chance = random.Random(f"{name} {seed}")

                def rule(datagram: Datagram, chance: random.Random = chance) -> list[float]:
                    kind = chance.random()
                    if kind < 0.2:
                        return []
                    if kind < 0.3:
                        return [DELAY, chance.uniform(0, 2)]
                    return [chance.uniform(0, 1)] if kind < 0.4 else [DELAY]

                self.check(perform(flow, rule), f"{name}: seed {seed}")

    def test_a_lost_message_changes_nothing(self) -> None:
        """Where one message is lost, the last word is what it is without the loss: that is what repeats are for."""
        for name in ("we leave", "they leave", "refused", "challenged", "cancelled", "fork", "hold", "reliable"):
            flow = FLOWS[name]
            straight = perform(flow, lambda datagram: [DELAY])
            for number in range(len(straight.network.sent)):
                world = perform(flow, only(number, []))
                what = f"{name} {number}\n{world.network.ladder()}"
                self.assertEqual(world.last_words, straight.last_words, what)
                # The callee's last word tells whether it had to wait for an ACK in vain.
                self.assertEqual(world.heard[-1], straight.heard[-1], what)

    def test_restart_on_bad_networks(self) -> None:
        """Restarted at any moment of a call, on networks that lose some of everything, both sides come to an end."""
        for seed in range(60):
            chance = random.Random(seed)

            def rule(datagram: Datagram, chance: random.Random = chance) -> list[float]:
                return [] if chance.random() < 0.2 else [chance.choice((DELAY, DELAY, 0.5))]

            world = World()
            play = (answers, rings, challenges)[seed % 3]
            world.play = lambda call, play=play, world=world: play(world, call)  # type: ignore[misc]
            world.network.rule = rule
            session = world.call(credentials=Credentials("me", "secret"))
            world.network.pass_time(chance.uniform(0, 2))
            answered = [event.dialog for event in world.events if isinstance(event, Answered)]
            agent = world.agent = world.new_agent()
            finished: list[float] = []
            note = partial(lambda finished, clock: finished.append(clock.seconds()), finished, world.clock)
            if answered:
                agent.recover_dialog(answered[0], note)
            else:
                agent.recover_invitation(session.snapshot, note)
            later(world, END_AT_LAST, partial(give_up, world.calls))
            world.network.pass_time(LONGEST + 33)
            what = f"seed {seed}\n{world.network.ladder()}"
            self.assertEqual((len(finished), len(agent), len(world.callee)), (1, 0, 0), what)
            self.assertEqual(world.clock.getDelayedCalls(), [], what)

    def test_a_thousand_calls(self) -> None:
        """A thousand calls of all kinds at once on one user agent, with a tenth of everything lost, repeated and late.

        Each ends by itself, as the callee saw it: who picked up was called, and nobody is kept on the line.
        """
        world = World()
        world.network.rule = tenths(random.Random("a thousand calls"))
        flows = list(FLOWS.values())
        for first in range(0, 1000, TOGETHER):
            placed: dict[str, Placed] = {}
            world.play = lambda call, placed=placed: placed[call.request.call_id].flow.play(world, call)  # type: ignore[misc]
            world.network.sent.clear()
            for number in range(first, first + TOGETHER):
                later(world, (number - first) * 0.04, partial(place, world, flows[number % len(flows)], placed))
            world.network.pass_time(LONGEST)
            self.assertEqual((len(world.agent), len(world.callee)), (0, 0))
            self.assertEqual(world.clock.getDelayedCalls(), [])
            for call_id, call in placed.items():
                self.ended_as_seen_by_the_callee(world, call_id, call)

    def ended_as_seen_by_the_callee(self, world: World, call_id: str, call: Placed) -> None:
        sent = [d for d in world.network.sent if f"Call-ID: {call_id}\r\n".encode() in d.data]
        name = next(name for name, flow in FLOWS.items() if flow is call.flow)
        what = "\n".join([name, *(f"{d.time:8.3f} {d.source[0]} {d.label}" for d in sent), str(call.events)])
        last = [event for _, event in call.events if isinstance(event, Refused | Unreachable | Ended)]
        self.assertEqual(len(last), 1, what)
        self.assertIs(call.events[-1][1], last[0], what)
        answers = [d.time for d in sent if d.label == "200 INVITE" and d.source == THEM]
        byes = [d.time for d in sent if d.label == "BYE"]
        expected = Ended if answers else Unreachable if call.flow.expected is Unreachable else Refused
        self.assertIsInstance(last[0], expected, what)
        self.assertEqual(bool(byes), bool(answers), what)
        answered = [time for time, event in call.events if isinstance(event, Answered)]
        self.assertLessEqual(len(answered), 1, what)
        for time in answered:
            self.assertGreater(time, answers[0], what)
            self.assertLessEqual(call.events[-1][0] - time, byes[-1] + 1 - answers[0], what)
