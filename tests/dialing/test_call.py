# mypy: allow-untyped-calls
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from calledind import sdp
from calledind.dialing.call import FAREWELL, PATIENCE, SLACK, TABLE, CallAttempt, _Input, _State
from calledind.model import Call, Cause, EndedBy, Ending
from calledind.net.media import Digit, Finished, Lost, Silent
from calledind.settings.tables import Calls, Trunk
from calledind.sip.useragent import Answered, Ended, LateAnswer, Progress, Refused, Unreachable
from calledind.store.interface import StoreUnavailable
from tests.dialing.world import START, TARGET, FakeMediaSession, World, make_call, make_trunk, sdp_answer

RINGING = Progress(180, "Ringing", b"")
BUSY = Refused(486, "Busy Here", 17, None, "")
MOVED = Refused(302, "Moved Temporarily", contacts=("sip:+12125550100;rn=+1646@a.example",))
TERMINATED = Refused(487, "Request Terminated", None, None, "")


def answered(direction: str = "sendrecv") -> Answered:
    return Answered(sdp_answer(direction), '{"dialog": 1}')


class Attempted:
    """A `CallAttempt` and what it has told."""

    def __init__(self, world: World, call: Call | None = None, trunk: Trunk | None = None) -> None:
        self.world = world
        self.told: list[str] = []
        self.endings: list[Ending] = []
        self.attempt = CallAttempt(
            call or make_call(),
            trunk or make_trunk(),
            1,
            world.surroundings,
            ended=self._ended,
            postponed=lambda attempt, detail: self.told.append(f"postponed: {detail}"),
            released=lambda attempt: self.told.append("released"),
        )

    def _ended(self, attempt: CallAttempt, ending: Ending) -> None:
        self.told.append("ended")
        self.endings.append(ending)

    @property
    def state(self) -> str:
        return self.attempt.state

    @property
    def media(self) -> FakeMediaSession:
        return self.world.media.sessions[-1]

    def start(self) -> Attempted:
        self.attempt.start()
        return self

    def hear(self, *events: Any) -> Attempted:
        for event in events:
            self.world.session.report(event)
        return self


def preparing(world: World) -> Attempted:
    world.store.holding = True
    return Attempted(world).start()


def leaving(world: World) -> Attempted:
    call = preparing(world)
    call.attempt.hang_up()
    return call


def calling(world: World) -> Attempted:
    return Attempted(world).start()


def redirecting(world: World) -> Attempted:
    call = calling(world)
    world.store.holding = True
    return call.hear(MOVED)


def cancelling(world: World) -> Attempted:
    call = calling(world).hear(RINGING)
    call.attempt.hang_up()
    return call


def answering(world: World) -> Attempted:
    call = calling(world)
    world.store.holding = True
    return call.hear(answered())


def streaming(world: World) -> Attempted:
    return calling(world).hear(answered())


def closing(world: World) -> Attempted:
    call = streaming(world)
    call.attempt.hang_up()
    return call


def over(world: World) -> Attempted:
    return closing(world).hear(Ended("us", None, ""))


STATES: dict[_State, Callable[[World], Attempted]] = {
    _State.PREPARING: preparing,
    _State.LEAVING: leaving,
    _State.CALLING: calling,
    _State.REDIRECTING: redirecting,
    _State.CANCELLING: cancelling,
    _State.ANSWERING: answering,
    _State.STREAMING: streaming,
    _State.CLOSING: closing,
    _State.OVER: over,
}
"State -> how a call gets there."

DETAILS: dict[_Input, tuple[Any, ...]] = {
    _Input.PROGRESS: (RINGING,),
    _Input.ANSWERED: (answered(),),
    _Input.UNUSABLE: ("no audio",),
    _Input.REFUSED: (BUSY,),
    _Input.REDIRECTED: (MOVED, "sip:+12125550100;rn=+1646@a.example", TARGET),
    _Input.UNREACHABLE: (Unreachable("timeout", ""),),
    _Input.PEER_GONE: (Ended("peer", None, ""),),
    _Input.MEDIA_LOST: ("gone",),
    _Input.HANG_UP: (EndedBy.OPERATOR,),
    _Input.BROKEN: ("a bug",),
}


class TableTests(SynchronousTestCase):
    def test_states(self) -> None:
        """Each state is reached by a call that goes there in earnest."""
        for state, get_there in STATES.items():
            self.assertEqual(get_there(World()).state, state.value)

    def test_what_is_not_in_the_table(self) -> None:
        """A late, repeated or unexpected input changes nothing: no word to anyone, nothing sent, no timer moved."""
        for state, get_there in STATES.items():
            for event in _Input:
                if (state, event) in TABLE:
                    continue
                world = World()
                call = get_there(world)
                before = self.picture(call)
                call.attempt._on(event, *DETAILS.get(event, ()))
                self.assertEqual(self.picture(call), before, (state, event))

    def picture(self, call: Attempted) -> tuple[Any, ...]:
        world = call.world
        timers = [(each.getTime(), each.active()) for each in world.clock.getDelayedCalls()]
        sent = [list(session.log) for session in world.user_agent.sessions]
        return call.state, list(call.told), timers, sent, list(world.store.log), call.media.closed

    def test_every_end_is_told_once(self) -> None:
        """From each state, whatever comes first, then everything else: one end, one release, and nothing is left."""
        for state, get_there in STATES.items():
            for first in _Input:
                if (state, first) not in TABLE or first in (_Input.READY, _Input.NOT_READY):
                    continue
                world = World()
                call = get_there(world)
                if first is _Input.ANSWERED:
                    call.hear(answered())
                else:
                    call.attempt._on(first, *DETAILS.get(first, ()))
                world.store.holding = False
                world.store.release()
                for _ in range(2):
                    call.attempt.hang_up()
                    if world.user_agent.sessions and world.session.log:
                        call.hear(TERMINATED, Ended("us", None, ""), answered())
                    call.media.report(Lost("gone"))
                    world.clock.advance(200)
                self.assertEqual(call.state, "over", (state, first))
                self.assertEqual(sorted(call.told), ["ended", "released"], (state, first))
                self.assertEqual(call.told[-1], "released")
                self.assertGreaterEqual(call.media.closed, 1)
                self.assertEqual(world.clock.getDelayedCalls(), [])


class PreparingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_invitation(self) -> None:
        """The INVITE is for country code and number at the trunk, from the request's caller id, with our offer."""
        call = Attempted(self.world, trunk=make_trunk(port=5060)).start()
        invitation = self.world.session.invitation
        self.assertEqual(invitation.request_uri, "sip:+12125550100@a.example")
        self.assertEqual(invitation.to_uri, invitation.request_uri)
        self.assertEqual(invitation.from_uri, "sip:0000000000@198.51.100.7")
        self.assertEqual(invitation.call_id, f"{call.attempt.call.id}-1")
        self.assertIsNone(invitation.credentials)
        offer = sdp.SessionDescription.parse(invitation.offer)
        self.assertIn("198.51.100.7", str(offer))
        self.assertIn("16384", str(offer))

    def test_how_far_it_comes_is_told(self) -> None:
        """Who watches is told each stage once: the INVITE leaves, it rings, somebody answers."""
        told: list[tuple[str, str]] = []
        self.world.surroundings = replace(
            self.world.surroundings, reached=lambda call, stage, trunk: told.append((stage, trunk))
        )
        call = Attempted(self.world).start()
        self.assertEqual(told, [("dialing", "a")])
        call.hear(Progress(100, "", b""), RINGING, Progress(183, "", b""), RINGING)
        self.assertEqual(told[1:], [("ringing", "a")])
        call.hear(answered())
        self.assertEqual(told[2:], [("answered", "a")])

    def test_stood_still(self) -> None:
        """A node that stood still between the commit and the INVITE sends none: others may have ended the call."""
        self.world.surroundings = replace(self.world.surroundings, may_dial=lambda: False)
        call = Attempted(self.world).start()
        self.assertEqual(self.world.session.log, [])
        self.assertEqual([ending.cause for ending in call.endings], [Cause.INTERRUPTED])

    def test_trunk_with_credentials(self) -> None:
        """A trunk's own caller id stands in for 0000000000, and its domain is in the From where it knows us by name."""
        trunk = make_trunk(username="u", password="p", caller_id="12125550111", dial_prefix="011", port=5080)
        Attempted(self.world, trunk=trunk).start()
        invitation = self.world.session.invitation
        self.assertEqual(invitation.request_uri, "sip:01112125550100@a.example:5080")
        self.assertEqual(invitation.from_uri, "sip:12125550111@a.example")
        assert invitation.credentials is not None
        self.assertEqual((invitation.credentials.username, invitation.credentials.password), ("u", "p"))

    def test_what_the_trunk_wants(self) -> None:
        """Its Service-Route, extensions and session's length are the INVITE's; it is signed where that is wanted."""
        self.world.targets.routes = ("<sip:edge.example;lr>",)
        self.world.surroundings = replace(self.world.surroundings, sign=lambda call, number: [("Identity", number)])
        for trunk, supported, seconds, signed in (
            (make_trunk(caller_id="12125550111"), ("100rel", "timer"), 0, [("Identity", "12125550111")]),
            (
                make_trunk(caller_id="12125550111", prack=False, session_expires=600, stir=False),
                ("timer",),
                600,
                [],
            ),
        ):
            Attempted(self.world, trunk=trunk).start()
            invitation = self.world.session.invitation
            self.assertEqual(invitation.route, ("<sip:edge.example;lr>",))
            self.assertEqual((invitation.supported, invitation.session_expires), (supported, seconds))
            self.assertEqual([pair for pair in invitation.headers if pair[0] == "Identity"], signed)

    def test_committed_before_the_invite(self) -> None:
        """Nothing leaves before the store has DIALING."""
        call = preparing(self.world)
        self.assertEqual(self.world.session.log, [])
        self.assertEqual(self.world.store.log, [("begin_dialing", call.attempt.call.id, 1, "a")])
        self.world.store.release()
        self.assertEqual((self.world.session.log, call.state), (["send"], "calling"))

    def test_store_away(self) -> None:
        """A store that can't take DIALING puts the call back, nothing sent."""
        self.world.store.away = True
        call = Attempted(self.world).start()
        self.assertEqual(call.told, ["postponed: disk full", "released"])
        self.assertEqual((self.world.session.log, call.media.closed, call.state), ([], 1, "over"))

    def test_no_port(self) -> None:
        """Without a port for the media the call is put back."""
        self.world.media.full = True
        self.assertEqual(Attempted(self.world).start().told, ["postponed: no port is free", "released"])

    def test_no_address(self) -> None:
        """A trunk without an address, or no way to it, is a transport failure, before anything was committed."""
        self.world.targets.lost.add("a.example")
        first = Attempted(self.world).start()
        self.world.targets.lost.clear()
        self.world.no_way = True
        second = Attempted(self.world).start()
        for call in (first, second):
            self.assertEqual(call.told, ["ended", "released"])
            self.assertIs(call.endings[0].cause, Cause.TRANSPORT)
            self.assertFalse(call.attempt.committed)
        self.assertEqual(self.world.store.log, [])

    def test_not_ours(self) -> None:
        """A call that the store says is not to be dialled is left alone."""
        self.world.store.ours = False
        call = Attempted(self.world).start()
        self.assertEqual((call.told, self.world.session.log), (["released"], []))

    def test_not_ours_and_hung_up(self) -> None:
        """Nor is an end told of such a call that was hung up meanwhile."""
        self.world.store.ours = False
        call = leaving(self.world)
        self.world.store.release()
        self.assertEqual(call.told, ["released"])

    def test_hang_up_while_committing(self) -> None:
        """Hung up before the commit is through: the INVITE never leaves."""
        call = leaving(self.world)
        self.assertEqual(call.told, [])
        self.world.store.release()
        self.assertEqual((call.told, self.world.session.log, call.media.closed), (["ended", "released"], [], 1))
        self.assertEqual((call.endings[0].cause, call.endings[0].ended_by), (Cause.HUNG_UP, EndedBy.OPERATOR))

    def test_media_lost_while_committing(self) -> None:
        """The media process dies before the commit is through: the INVITE never leaves."""
        call = preparing(self.world)
        call.media.report(Lost("the media process ended"))
        self.assertEqual(call.state, "preparing")
        self.world.store.release()
        self.assertEqual((call.told, self.world.session.log), (["ended", "released"], []))
        self.assertIs(call.endings[0].cause, Cause.MEDIA_FAILED)

    def test_media_lost_and_store_away(self) -> None:
        """With both gone the call is put back: nothing of it is on disk."""
        call = preparing(self.world)
        call.media.report(Lost("the media process ended"))
        waiting, _ = self.world.store.held.pop()
        waiting.errback(StoreUnavailable("disk full"))
        self.assertEqual(call.told, ["postponed: disk full", "released"])


class CallingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.call = calling(self.world)

    def ending(self) -> Ending:
        self.assertEqual(self.call.told, ["ended", "released"])
        self.assertEqual(self.call.media.closed, 1)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])
        return self.call.endings[0]

    def test_refused(self) -> None:
        """A final response ends it, with all that it said."""
        self.world.clock.advance(7)
        self.call.hear(RINGING, Refused(503, "Down", 34, 20, "399 x"))
        ending = self.ending()
        self.assertEqual((ending.cause, ending.sip_status, ending.q850), (Cause.FINAL_RESPONSE, 503, 34))
        self.assertEqual((ending.rang, ending.detail, ending.ended_at), (True, "Down 399 x", START + 7))
        self.assertEqual((ending.ended_by, self.call.attempt.retry_after), (EndedBy.NETWORK, 20))

    def test_who_refused(self) -> None:
        """Busy, away and every 6xx are the callee's own word."""
        for status, by in ((486, EndedBy.CALLEE), (480, EndedBy.CALLEE), (603, EndedBy.CALLEE), (404, EndedBy.NETWORK)):
            call = calling(World()).hear(Refused(status, "", None, None, ""))
            self.assertIs(call.endings[0].ended_by, by, status)

    def test_progress(self) -> None:
        """100 speaks of nobody; 181 of somebody; 180 and 183 of a telephone that rings."""
        for status, responded, rang in ((100, False, False), (181, True, False), (180, True, True), (183, True, True)):
            call = calling(World()).hear(Progress(status, "", b""))
            self.assertEqual((call.attempt.responded, call.attempt.rang), (responded, rang), status)

    def test_no_response(self) -> None:
        """Timer B is a failure of the trunk."""
        self.call.hear(Unreachable("timeout", "timer B"))
        self.assertIs(self.ending().cause, Cause.NO_RESPONSE)

    def test_transport(self) -> None:
        """So is an ICMP error."""
        self.call.hear(Unreachable("transport", "refused"))
        self.assertIs(self.ending().cause, Cause.TRANSPORT)

    def test_ring_timeout(self) -> None:
        """Our ring timer cancels, and whatever follows the CANCEL it stays a ring timeout."""
        self.call.hear(RINGING)
        self.world.clock.advance(Calls().ring_timeout)
        self.assertEqual((self.call.state, self.world.session.log), ("cancelling", ["send", "end"]))
        self.assertEqual(self.world.session.reason, 'Q.850;cause=19;text="No answer from user"')
        self.assertEqual(self.call.told, [])
        self.call.hear(BUSY)
        ending = self.ending()
        self.assertEqual((ending.cause, ending.sip_status, ending.rang), (Cause.RING_TIMEOUT, 486, True))

    def test_peer_gone(self) -> None:
        """An end by the peer before the answer."""
        self.call.hear(Ended("peer", None, ""))
        self.assertEqual((self.ending().cause, self.ending().answered), (Cause.CALLEE_LEFT, False))

    def test_unusable_answer(self) -> None:
        """A 2xx that nothing can be played to gets an ACK and a BYE at once, and is no answer."""
        self.call.hear(Answered(b"v=0\r\nnonsense", "{}"))
        self.assertEqual(self.world.session.log, ["send", "acknowledge", "end"])
        self.assertIn("cause=88", self.world.session.reason)
        self.assertEqual((self.call.told, self.call.state), (["ended"], "closing"))
        ending = self.call.endings[0]
        self.assertEqual((ending.cause, ending.answered, ending.sip_status), (Cause.UNUSABLE_SDP, False, 200))
        self.assertEqual(self.world.store.log[1:], [])

    def test_media_lost(self) -> None:
        """Without media the call is cancelled."""
        self.call.media.report(Lost("the media process ended"))
        self.assertEqual(self.world.session.log, ["send", "end"])
        self.call.hear(TERMINATED)
        self.assertEqual((self.ending().cause, self.ending().sip_status), (Cause.MEDIA_FAILED, 487))

    def test_answer_while_cancelling(self) -> None:
        """A 2xx that crosses our CANCEL is the session's to end: nothing is played, the call was not answered."""
        self.call.attempt.hang_up()
        self.call.hear(answered())
        self.assertEqual((self.call.state, self.call.told), ("cancelling", []))
        self.call.hear(Ended("us", None, ""))
        self.assertEqual((self.ending().cause, self.ending().answered), (Cause.HUNG_UP, False))
        self.assertEqual(self.call.media.plays, [])

    def test_ringing_while_cancelling(self) -> None:
        """That it rang is known even where the 180 comes after our CANCEL."""
        self.call.attempt.hang_up()
        self.call.hear(RINGING, TERMINATED)
        self.assertTrue(self.ending().rang)

    def test_nobody_while_cancelling(self) -> None:
        """A peer that falls silent after the CANCEL ends it all the same."""
        self.call.attempt.hang_up()
        self.call.hear(Unreachable("timeout", ""))
        self.assertEqual((self.ending().cause, self.ending().sip_status), (Cause.HUNG_UP, None))


class AnsweredTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_kept_before_the_ack(self) -> None:
        """ANSWERED is on disk before the ACK leaves and before the first packet does."""
        self.world.clock.advance(5)
        call = answering(self.world)
        self.assertEqual(self.world.session.log, ["send"])
        self.assertEqual(self.world.store.log[-1], ("record_answer", call.attempt.call.id, '{"dialog": 1}', START + 5))
        self.assertEqual(call.media.plays, [])
        self.world.store.release()
        self.assertEqual((self.world.session.log, call.state), (["send", "acknowledge"], "streaming"))
        self.assertEqual(len(call.media.plays), 1)

    def test_where_the_audio_goes(self) -> None:
        """The audio goes to the address of the answer, with the settings' silences around it."""
        call = streaming(self.world)
        _, named = call.media.plays[0]
        self.assertEqual((named["remote"], named["remote_rtcp"]), (("192.0.2.9", 4000), ("192.0.2.9", 4001)))
        self.assertEqual((named["lead_in"], named["lead_out"]), (0.4, 0.4))
        self.assertEqual(call.media.redirects, [])

    def test_answered_on_hold(self) -> None:
        """Who answers with a hold hears nothing until it is taken back."""
        call = calling(self.world).hear(answered("inactive"))
        self.assertEqual([named["sends"] for _, named in call.media.plays], [False])

    def test_played(self) -> None:
        """After the last word comes BYE; the outcome is told at once, the channel given back when it is confirmed."""
        call = streaming(self.world)
        self.world.clock.advance(4)
        call.media.report(Finished())
        self.assertEqual((self.world.session.log[-1], call.told, call.state), ("end", ["ended"], "closing"))
        self.assertEqual(self.world.session.reason, 'Q.850;cause=16;text="Normal call clearing"')
        self.assertEqual(call.media.closed, 1)
        ending = call.endings[0]
        self.assertEqual((ending.cause, ending.answered, ending.sip_status), (Cause.PLAYED, True, 200))
        self.assertEqual((ending.answered_at, ending.ended_at), (START, START + 4))
        call.hear(Ended("us", None, ""))
        self.assertEqual((call.told, call.state), (["ended", "released"], "over"))

    def test_farewells(self) -> None:
        """Whatever becomes of the BYE gives the channel back."""
        for last in (Ended("peer", None, ""), Unreachable("timeout", ""), TERMINATED):
            call = closing(World()).hear(last)
            self.assertEqual(call.told, ["ended", "released"])

    def test_callee_hangs_up(self) -> None:
        """A BYE of the callee's ends it, answered, with the cause that it gives."""
        for get_there in (streaming, answering):
            call = get_there(World()).hear(Ended("peer", 16, ""))
            self.assertEqual((call.told, call.media.closed), (["ended", "released"], 1))
            ending = call.endings[0]
            self.assertEqual((ending.cause, ending.answered, ending.q850), (Cause.CALLEE_LEFT, True, 16))

    def test_hang_up(self) -> None:
        """A hang-up of an operator or a customer says BYE, also while the answer is being kept."""
        for get_there, by in ((streaming, EndedBy.OPERATOR), (answering, EndedBy.CUSTOMER)):
            world = World()
            call = get_there(world)
            call.attempt.hang_up(by)
            world.store.release()
            self.assertEqual((world.session.log[-1], call.told, call.state), ("end", ["ended"], "closing"))
            self.assertEqual((call.endings[0].cause, call.endings[0].ended_by), (Cause.HUNG_UP, by))

    def test_silence(self) -> None:
        """A callee of whom nothing is heard any more is hung up on, where that is asked for."""
        call = streaming(self.world)
        call.media.report(Silent())
        self.assertEqual((call.endings[0].cause, call.endings[0].ended_by), (Cause.CALLEE_LEFT, EndedBy.NETWORK))

    def test_digit(self) -> None:
        """A key pressed changes nothing."""
        call = streaming(self.world)
        call.media.report(Digit("5"))
        self.assertEqual((call.state, call.told), ("streaming", []))

    def test_media_lost(self) -> None:
        """The media process dies: BYE, answered."""
        for get_there in (streaming, answering):
            call = get_there(World())
            call.media.report(Lost("the media process ended"))
            self.assertEqual((call.endings[0].cause, call.endings[0].answered), (Cause.MEDIA_FAILED, True))
            self.assertEqual(call.world.session.log[-1], "end")

    def test_audio_without_end(self) -> None:
        """Audio of which no end is told is ended by a timer."""
        call = streaming(self.world)
        self.world.clock.advance(3.0 + 0.8 + SLACK)
        self.assertEqual((call.state, call.endings[0].cause), ("closing", Cause.MEDIA_FAILED))

    def test_store_away(self) -> None:
        """A store that can't keep the answer does not keep the callee waiting: the call goes on."""
        call = calling(self.world)
        self.world.store.away = True
        call.hear(answered())
        self.assertEqual((call.state, self.world.session.log), ("streaming", ["send", "acknowledge"]))

    def test_store_hangs(self) -> None:
        """Nor does one that hangs, for longer than some seconds; its late answer starts nothing again."""
        call = answering(self.world)
        self.world.clock.advance(PATIENCE)
        self.assertEqual((call.state, len(call.media.plays)), ("streaming", 1))
        self.world.store.release()
        self.assertEqual(len(call.media.plays), 1)
        self.assertEqual(self.world.session.log, ["send", "acknowledge"])


class RenegotiationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def offer(self, direction: str, codecs: tuple[str, ...] = ("PCMU",)) -> bytes | None:
        renegotiate = self.world.session.invitation.renegotiate
        assert renegotiate is not None
        return renegotiate(sdp_answer(direction, codecs))

    def test_before_the_answer(self) -> None:
        """An offer that the callee makes before it picks up stands then."""
        call = calling(self.world)
        self.assertIsNotNone(self.offer("sendrecv", ("PCMA",)))
        self.assertEqual(call.media.redirects, [])
        call.hear(Answered(sdp_answer(), "{}", sdp_answer("sendrecv", ("PCMA",))))
        self.assertEqual(call.media.plays[0][0][0].codec, "PCMA")

    def test_new_codec(self) -> None:
        """The media hears of a codec only where that is another one; a codec that we don't have changes nothing."""
        call = streaming(self.world)
        self.assertIsNotNone(self.offer("sendrecv", ("PCMA", "PCMU")))
        self.assertEqual(call.media.redirects[-1][2:4], (True, None))
        self.assertIsNotNone(self.offer("sendrecv", ("PCMA",)))
        self.assertEqual([each.codec for each in call.media.redirects[-1][3:4]], ["PCMA"])
        self.assertIsNone(self.offer("sendrecv", ("opus",)))
        self.assertEqual(len(call.media.redirects), 2)

    def test_hold_and_resume(self) -> None:
        """A hold pauses the audio, its end lets it go on."""
        call = streaming(self.world)
        for direction, sends in (("inactive", False), ("sendrecv", True)):
            self.assertIsNotNone(self.offer(direction))
            self.assertEqual(call.media.redirects[-1][2], sends)

    def test_a_hold_is_not_lost_media(self) -> None:
        """While the callee holds the call the audio can't end, and is not missed; afterwards it has its time again."""
        call = streaming(self.world)
        self.world.clock.advance(2)
        for _ in range(2):
            self.offer("sendonly")
            self.world.clock.advance(55)
            self.offer("sendrecv")
        self.assertEqual(call.state, "streaming")
        self.world.clock.advance(0.8 + 3.0 + SLACK - 2 - 0.1)
        self.assertEqual(call.state, "streaming")
        self.world.clock.advance(0.2)
        self.assertEqual((call.endings[0].cause, call.endings[0].ended_by), (Cause.MEDIA_FAILED, EndedBy.US))

    def test_held_for_too_long(self) -> None:
        """All holds of a call together have their bound, also where it was answered on hold."""
        call = streaming(self.world)
        self.offer("inactive")
        self.world.clock.advance(100)
        self.offer("sendrecv")
        self.world.clock.advance(3)
        self.offer("inactive")
        self.world.clock.advance(19)
        self.offer("sendonly")
        self.assertEqual(call.state, "streaming")
        self.world.clock.advance(1)
        ending = call.endings[0]
        self.assertEqual((ending.cause, ending.ended_by, ending.answered), (Cause.CALLEE_LEFT, EndedBy.US, True))
        self.assertIn("120 s", ending.detail)
        self.assertEqual(self.world.session.log[-1], "end")
        world = World(Calls(hold_timeout=10.0))
        call = calling(world).hear(answered("inactive"))
        world.clock.advance(10)
        self.assertEqual((call.state, call.endings[0].cause), ("closing", Cause.CALLEE_LEFT))

    def test_before_the_ack(self) -> None:
        """An offer that comes while the answer is being kept decides where the audio goes."""
        call = answering(self.world)
        self.offer("inactive")
        self.assertEqual(call.media.redirects, [])
        self.world.store.release()
        self.assertEqual([named["sends"] for _, named in call.media.plays], [False])

    def test_nonsense(self) -> None:
        """What can't be read or agreed on is refused, and the call goes on."""
        call = streaming(self.world)
        renegotiate = self.world.session.invitation.renegotiate
        assert renegotiate is not None
        self.assertIsNone(renegotiate(b"nonsense"))
        self.assertEqual((call.state, call.media.redirects), ("streaming", []))

    def test_late_answer(self) -> None:
        """An answer in the ACK to an offer that was asked for moves the media; one that can't be read does not."""
        call = streaming(self.world)
        renegotiate = self.world.session.invitation.renegotiate
        assert renegotiate is not None
        self.assertTrue(renegotiate(b""))
        call.hear(LateAnswer(b"nonsense"))
        self.assertEqual(call.media.redirects, [])
        call.hear(LateAnswer(sdp_answer("inactive")))
        self.assertEqual(call.media.redirects[-1][2], False)


class BrokenTests(SynchronousTestCase):
    """An error of our own in a call ends that call, once, and is in the log."""

    def check(self, call: Attempted, errors: int = 1) -> Ending:
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), errors)
        call.world.clock.advance(FAREWELL)
        self.assertEqual(call.told, ["ended", "released"])
        self.assertEqual((call.state, call.world.clock.getDelayedCalls()), ("over", []))
        return call.endings[0]

    def test_preparing(self) -> None:
        """Before the INVITE: nothing was sent, and the trunk is not blamed."""
        world = World()
        world.user_agent.broken = True
        self.assertIs(self.check(Attempted(world).start()).cause, Cause.INTERRUPTED)

    def test_sending(self) -> None:
        """The INVITE may have left: no other trunk will be asked, and what was sent is ended."""
        world = World()
        call = preparing(world)
        world.session.broken = "send"
        world.store.release()
        self.assertEqual(world.session.log, ["send", "end"])
        self.assertIs(self.check(call).cause, Cause.INTERRUPTED)

    def test_acknowledging(self) -> None:
        """Answered: BYE, and it is still an answer."""
        world = World()
        call = answering(world)
        world.session.broken = "acknowledge"
        world.store.release()
        self.assertEqual(world.session.log, ["send", "acknowledge", "end"])
        self.assertTrue(self.check(call).answered)

    def test_ending(self) -> None:
        """A session that can't be ended holds its channel for a while, no longer."""
        for get_there, answer in ((calling, False), (streaming, True)):
            world = World()
            call = get_there(world)
            world.session.broken = "end"
            call.attempt.hang_up()
            self.assertEqual(call.told, ["ended"])
            self.assertEqual(self.check(call, errors=1 if answer else 2).answered, answer)

    def test_media(self) -> None:
        """Media that can't be closed is not the call's trouble."""
        call = streaming(World())
        call.media.broken = True
        call.hear(Ended("peer", None, ""))
        self.check(call)

    def test_told_once(self) -> None:
        """Who is told of the end and breaks is not told again."""
        world = World()
        call = streaming(world)
        told: list[str] = []

        def ended(attempt: CallAttempt, ending: Ending) -> None:
            told.append("ended")
            raise ZeroDivisionError

        call.attempt._ended = ended
        call.hear(Ended("peer", None, ""))
        self.assertEqual((told, call.told), (["ended"], ["released"]))
        self.flushLoggedErrors(ZeroDivisionError)
