"""Whole calls between our user agent and a callee, on a network in memory."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from calledind.sip.events import Answered, Ended, Progress, Refused, Unreachable
from calledind.sip.uas import Acked, ByeReceived, Cancelled, Gone, IncomingCall
from tests.sip.parties import ANSWER, QUIET, World


def rings(call: IncomingCall) -> None:
    call.respond(180)


def answers(call: IncomingCall) -> None:
    call.respond(180)
    call.respond(200, sdp=ANSWER)


class FlowTests(SynchronousTestCase):
    def quiet(self, world: World) -> None:
        "Nothing is left after 64*T1: no transaction, no dialog, no timer."
        world.network.pass_time(QUIET)
        self.assertEqual((len(world.agent), len(world.callee)), (0, 0))
        self.assertEqual(world.clock.getDelayedCalls(), [])

    def test_answered_and_ended_by_us(self) -> None:
        """A call is rung, answered, acknowledged and left by us; each message goes once."""
        world = World(answers)
        session = world.call()
        world.network.pass_time(0.1)
        progress, answered = world.events
        self.assertEqual(progress, Progress(180, "Ringing", b""))
        assert isinstance(answered, Answered)
        self.assertEqual(answered.sdp, ANSWER)
        session.acknowledge()
        world.network.pass_time(5)
        session.end()
        world.network.pass_time(1)
        self.assertEqual(world.last_words, [Ended("us", None, "BYE: 200")])
        self.assertEqual(world.network.labels, ["INVITE", "180 INVITE", "200 INVITE", "ACK", "BYE", "200 BYE"])
        tag = world.calls[0].tag
        self.assertEqual(world.heard, [Acked(b"", tag), ByeReceived(None, tag), Gone("BYE")])
        self.quiet(world)

    def test_ended_by_the_peer(self) -> None:
        """The peer's BYE is answered and reported with the cause of its Reason header."""
        world = World(answers)
        session = world.call()
        world.network.pass_time(0.1)
        session.acknowledge()
        world.network.pass_time(0.1)
        world.calls[0].bye("Q.850;cause=16")
        world.network.pass_time(0.1)
        self.assertEqual(world.last_words, [Ended("peer", 16, "Q.850;cause=16")])
        session.end()
        self.quiet(world)
        self.assertEqual(world.network.labels.count("BYE"), 1)

    def test_refused(self) -> None:
        """A refusal is reported with all that it says, and acknowledged by the transaction."""
        headers = [("Reason", "Q.850;cause=17"), ("Retry-After", "30"), ("Warning", '399 a "no"')]
        world = World(lambda call: self.assertTrue(call.respond(486, headers=headers)))
        world.call()
        world.network.pass_time(1)
        self.assertEqual(world.events, [Refused(486, "Busy Here", 17, 30, '399 a "no"')])
        self.assertEqual(world.network.labels, ["INVITE", "486 INVITE", "ACK"])
        self.quiet(world)

    def test_nobody_answers(self) -> None:
        """An INVITE that nobody hears is sent seven times, and given up after 64*T1."""
        world = World(lambda call: call.stay_silent())
        world.call()
        world.network.pass_time(31.9)
        self.assertEqual(world.events, [])
        self.assertEqual([round(sent.time, 3) for sent in world.network.sent], [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5])
        world.network.pass_time(0.2)
        self.assertEqual(world.events, [Unreachable("timeout", "no final response within 32 s")])
        self.quiet(world)

    def test_cancelled_while_ringing(self) -> None:
        """An end while it rings is a CANCEL, and 487 the last word."""
        world = World(rings)
        session = world.call()
        world.network.pass_time(1)
        session.end('Q.850;cause=16;text="Normal"')
        session.end()
        world.network.pass_time(1)
        self.assertEqual(world.last_words, [Refused(487, "Request Terminated")])
        self.assertEqual(world.heard, [Cancelled(), Gone("refused")])
        self.assertEqual(world.network.labels, ["INVITE", "180 INVITE", "CANCEL", "200 CANCEL", "487 INVITE", "ACK"])
        self.assertIn(b"Reason: Q.850;cause=16", world.network.sent[2].data)
        self.quiet(world)
