"""Session timers (RFC 4028), as either refresher, and what two offers that meet do."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise

from calledind.sip.auth import Credentials
from calledind.sip.events import Ended, LateAnswer, Refused
from calledind.sip.grammar import ParseError
from calledind.sip.message import Request, parse, response_to
from calledind.sip.session_timer import SessionExpires, least_session, session_expires
from calledind.sip.uas import IncomingCall
from calledind.sip.useragent import InviteSession
from tests.sip.network import DELAY, Datagram
from tests.sip.parties import ANSWER, OFFER, THEM, US, World, outside
from tests.sip.test_useragent import Case, answers

SDP = ("Content-Type", "application/sdp")
ALLOWS = ("Allow", "INVITE, ACK, BYE, UPDATE")


class SessionExpiresTests(Case):
    def test_parse(self) -> None:
        """Seconds, and who refreshes; what else is there is passed over."""
        for text, expected in (
            ("1800", SessionExpires(1800)),
            ("90;refresher=uac", SessionExpires(90, "uac")),
            ("90 ; Refresher=UAS;x", SessionExpires(90, "uas")),
            ("90;refresher=me", SessionExpires(90)),
        ):
            self.assertEqual(SessionExpires.parse(text), expected)
        self.assertEqual(str(SessionExpires(90, "uas")), "90;refresher=uas")
        for text in ("", "x", "-1", "90;=", "99999999999"):
            self.assertRaises(ParseError, SessionExpires.parse, text)

    def test_of_messages(self) -> None:
        """What can't be read is as if it weren't there; the compact form counts."""
        self.assertEqual(session_expires(outside("UPDATE", ("x", "120;refresher=uas"))), SessionExpires(120, "uas"))
        self.assertIsNone(session_expires(outside("UPDATE", ("Session-Expires", "soon"))))
        self.assertEqual(least_session(outside("UPDATE", ("Min-SE", "300;x"))), 300)
        self.assertEqual(least_session(outside("UPDATE", ("Min-SE", "30"))), 90)
        self.assertEqual(least_session(outside("UPDATE", ("Min-SE", "x"))), 90)


def without_update(datagram: Datagram) -> list[float]:
    "A callee that knows nothing of UPDATE."
    datagram.data = datagram.data.replace(b"UPDATE, ", b"")
    return [DELAY]


class RefresherCase(Case):
    headers: tuple[tuple[str, str], ...] = (("Session-Expires", "120;refresher=uac"), ("Require", "timer"), ALLOWS)
    "Of the callee's 200."
    allows_update = True

    def setUp(self) -> None:
        self.answer: bytes | None = ANSWER
        self.session = self.call()

    def call(self, **changes: object) -> InviteSession:
        def accept(call: IncomingCall) -> None:
            call.renegotiate = lambda offer: self.answer
            call.respond(200, sdp=ANSWER, headers=self.headers)

        self.world = World(accept)
        if not self.allows_update:
            self.world.network.rule = without_update
        return self.world.answered(renegotiate=lambda offer: self.answer, **changes)

    def ours(self, method: str) -> list[Request]:
        messages = [parse(datagram.data) for datagram in self.world.network.sent if datagram.source == US]
        return [message for message in messages if isinstance(message, Request) and message.method == method]

    def refuse(self, method: str, *answers: tuple[int, tuple[tuple[str, str], ...]]) -> None:
        "The callee answers our next requests of this method so."
        waiting = list(answers)

        def rule(datagram: Datagram) -> list[float]:
            if datagram.label != method or datagram.source != US or not waiting:
                return [DELAY]
            status, headers = waiting.pop(0)
            request = parse(datagram.data)
            assert isinstance(request, Request)
            self.world.clock.callLater(
                DELAY, self.world.agent.datagram_received, bytes(response_to(request, status, headers=headers)), THEM
            )
            return []

        self.world.network.rule = rule


class WeRefreshTests(RefresherCase):
    def test_update(self) -> None:
        """In the middle of the session an UPDATE without an offer goes out, and where its 200 agrees, the next one."""
        self.world.network.pass_time(57)
        self.assertEqual(self.ours("UPDATE"), [])
        self.refuse("UPDATE", *[(200, (("Session-Expires", "120;refresher=uac"),))] * 2)
        self.world.network.pass_time(60 + 3)
        first, second = self.ours("UPDATE")
        self.assertEqual((first.body, first.get("Session-Expires")), (b"", "120;refresher=uac"))
        self.assertIn("timer", first.get("Supported") or "")
        self.assertIsNotNone(first.contact)
        self.assertEqual(second.cseq.number, first.cseq.number + 1)
        self.session.end()
        self.quiet(self.world)

    def test_new_target(self) -> None:
        """The Contact of a 2xx to an UPDATE is where the next request goes, as with a re-INVITE."""
        self.refuse("UPDATE", (200, (("Contact", "<sip:moved@127.0.0.2:5090>"),)))
        self.world.network.pass_time(62)
        self.session.end()
        self.assertEqual(self.ours("BYE")[0].uri, "sip:moved@127.0.0.2:5090")
        self.assertEqual(self.world.network.sent[-1].target, ("127.0.0.2", 5090))

    def test_end_of_it(self) -> None:
        """A 200 without Session-Expires ends the refreshing: the session lasts."""
        self.refuse("UPDATE", (200, ()))
        self.world.network.pass_time(400)
        self.assertEqual((len(self.ours("UPDATE")), self.world.last_words), (1, []))

    def test_leaves_nothing_to_the_collector(self) -> None:
        """A dialog that was refreshed and renegotiated goes by itself when it is over."""
        gc.disable()
        self.addCleanup(gc.enable)
        for method in ("INVITE", "UPDATE"):
            self.session = self.call()
            gone = weakref.ref(self.session._usage)
            request = self.world.in_dialog(method, SDP, ("Session-Expires", "90;refresher=uac"), body=OFFER)
            self.assertEqual(self.world.statuses(request)[0], 200)
            if method == "INVITE":
                self.world.network.attach(THEM)(bytes(self.world.in_dialog("ACK", cseq=request.cseq.number)), US)
            self.world.network.pass_time(60)
            self.session.end()
            del self.session
            self.quiet(self.world)
            self.world.life.callLater(0, int)
            self.assertIsNone(gone(), method)

    def test_nobody_there(self) -> None:
        """A refresh that is never answered is the end of the call: that is what it is for."""
        self.world.network.rule = lambda datagram: [] if datagram.label == "UPDATE" else [DELAY]
        self.world.network.pass_time(60 + 32 + 1)
        self.assertEqual([word for word in self.world.last_words if isinstance(word, Ended)], self.world.last_words)
        self.assertEqual(len(self.world.last_words), 1)
        self.quiet(self.world)

    def test_forgotten(self) -> None:
        """A peer that knows nothing of the call (481) is left at once."""
        self.refuse("UPDATE", (481, ()))
        self.world.network.pass_time(62)
        self.assertEqual(self.world.last_words, [Ended("us", None, "BYE: 200")])
        self.assertIn("cause=481", self.ours("BYE")[0].get("Reason") or "")

    def test_refused(self) -> None:
        """A refresh that is refused for another reason is tried again, ever sooner, until the session runs out: BYE."""
        self.refuse("UPDATE", *[(500, ())] * 10)
        self.world.network.pass_time(86)
        self.assertEqual(len(self.ours("UPDATE")), 5)
        self.assertEqual(self.world.last_words, [])
        self.world.network.pass_time(3)
        self.assertEqual(self.world.last_words, [Ended("us", None, "BYE: 200")])
        self.assertIn("expired", self.ours("BYE")[0].get("Reason") or "")

    def test_refused_once(self) -> None:
        """Who is busy for a moment (Retry-After) has not ended the call; it is asked again when it says so."""
        self.refuse("UPDATE", (500, (("Retry-After", "20"),)), (200, ()))
        self.world.network.pass_time(58 + 19)
        self.assertEqual(len(self.ours("UPDATE")), 1)
        self.world.network.pass_time(3)
        self.assertEqual(len(self.ours("UPDATE")), 2)
        self.world.network.pass_time(60)
        self.assertEqual(self.world.last_words, [])

    def test_refused_for_too_long(self) -> None:
        """Where it wants to be asked only after the session's end, it isn't."""
        self.refuse("UPDATE", (500, (("Retry-After", "60"),)))
        self.world.network.pass_time(91)
        self.assertEqual(len(self.ours("UPDATE")), 1)
        self.assertEqual(self.world.last_words, [Ended("us", None, "BYE: 200")])

    def test_too_small(self) -> None:
        """A 422 raises what we ask for to its Min-SE; the same again is given up."""
        self.refuse("UPDATE", (422, (("Min-SE", "300"),)), (422, (("Min-SE", "300"),)))
        self.world.network.pass_time(62)
        _, second = self.ours("UPDATE")
        self.assertEqual((second.get("Session-Expires"), second.get("Min-SE")), ("300;refresher=uac", "300"))
        self.assertEqual(self.world.last_words, [])

    def test_too_small_without_end(self) -> None:
        """Who wants more and more each time is asked once more at once, and then as after any other refusal."""
        self.refuse("UPDATE", *[(422, (("Min-SE", str(300 + step)),)) for step in range(30)])
        self.world.network.pass_time(86)
        self.assertEqual(len(self.ours("UPDATE")), 6)
        self.assertEqual(self.ours("UPDATE")[-1].get("Min-SE"), "304")
        self.world.network.pass_time(3)
        self.assertEqual(self.world.last_words, [Ended("us", None, "BYE: 200")])

    def test_update_unknown(self) -> None:
        """Where UPDATE isn't served after all, a re-INVITE with what we said last is."""
        self.refuse("UPDATE", (405, ()))
        self.world.network.pass_time(62)
        self.assertEqual((len(self.ours("UPDATE")), len(self.ours("INVITE"))), (1, 2))
        self.assertEqual(self.ours("INVITE")[-1].body, OFFER)
        self.assertEqual(self.ours("ACK")[-1].cseq.number, self.ours("INVITE")[-1].cseq.number)

    def test_challenged(self) -> None:
        """A refresh that is challenged is sent again with the credentials."""
        self.session = self.call(credentials=Credentials("me", "secret"))
        self.refuse("UPDATE", (401, (("WWW-Authenticate", 'Digest realm="r", nonce="n"'),)))
        self.world.network.pass_time(62)
        self.assertIsNotNone(self.ours("UPDATE")[1].get("Authorization"))


class WeRefreshByInviteTests(RefresherCase):
    headers = (("Session-Expires", "120"),)
    allows_update = False

    def test_invite(self) -> None:
        """Who doesn't say that it takes UPDATE gets a re-INVITE; its answer is reported, each 2xx acknowledged."""
        lost: list[Datagram] = []

        def rule(datagram: Datagram) -> list[float]:
            if datagram.label == "ACK" and not lost:
                lost.append(datagram)
                return []
            return [DELAY]

        self.world.network.rule = rule
        self.world.network.pass_time(63)
        self.assertEqual((len(self.ours("INVITE")), self.ours("INVITE")[-1].body), (2, OFFER))
        self.assertEqual(self.world.events[-1], LateAnswer(ANSWER))
        self.assertEqual(len(self.ours("ACK")), 3)
        self.assertEqual(len({bytes(ack) for ack in self.ours("ACK")[1:]}), 1)
        self.session.end()
        self.quiet(self.world)

    def test_never_answered(self) -> None:
        """A refresh that gets a 100 and nothing else is forgotten 64*T1 after the call's end."""
        self.refuse("INVITE", (100, ()))
        self.world.network.pass_time(62)
        self.session.end()
        self.world.network.pass_time(1)
        self.assertEqual((len(self.world.last_words), len(self.world.agent)), (1, 2))
        self.quiet(self.world)

    def test_answered_after_the_end(self) -> None:
        """A 2xx to a refresh that comes while we leave gets its ACK."""
        self.refuse("INVITE", (100, ()))
        self.world.network.pass_time(62)
        reinvite = self.ours("INVITE")[-1]
        self.session.end()
        count = len(self.ours("ACK"))
        late = response_to(reinvite, 200, headers=[("Session-Expires", "120"), SDP], body=ANSWER)
        self.world.agent.datagram_received(bytes(late), THEM)
        self.assertEqual(len(self.ours("ACK")), count + 1)
        self.assertNotIn(LateAnswer(ANSWER), self.world.events)
        self.world.network.pass_time(1)
        self.quiet(self.world)

    def test_acks_without_end(self) -> None:
        """Nor does a peer that answers each ACK to a refresh by its 2xx once more."""
        self.world.network.pass_time(61)
        success = [sent.data for sent in self.world.network.sent if sent.label == "200 INVITE"][-1]
        for _ in range(200):
            self.world.agent.datagram_received(success, THEM)
        self.assertEqual(len(self.ours("ACK")), 1 + 64)

    def test_what_we_said_last(self) -> None:
        """After an offer of the peer's, the refresh says again what we answered."""
        self.answer = OFFER.replace(b"4000", b"4242")
        self.world.calls[0].reinvite(ANSWER, lambda status, sdp: None)
        self.world.network.pass_time(1)
        self.assertEqual(self.world.statuses(self.world.in_dialog("UPDATE", ("Session-Expires", "120"), SDP)), [200])
        self.world.network.pass_time(63)
        self.assertEqual(self.ours("INVITE")[-1].body, self.answer)

    def test_waits_for_the_peers_offer(self) -> None:
        """A refresh waits while an offer of ours is open that the peer asked for; a 100 to it changes nothing."""
        # Who doesn't know of session timers may be in one all the same, by a proxy's doing, and a short one.
        reinvite = self.world.in_dialog("INVITE", ("Session-Expires", "40"))
        self.world.ask(reinvite)
        self.world.network.pass_time(20)
        self.assertEqual(len(self.ours("INVITE")), 1)
        self.refuse("INVITE", (100, ()))
        self.world.network.attach(THEM)(bytes(self.world.in_dialog("ACK", cseq=reinvite.cseq.number)), US)
        self.world.network.pass_time(4.5)
        self.assertEqual(len(self.ours("INVITE")), 2)
        self.assertEqual(self.world.last_words, [])

    def test_glare(self) -> None:
        """491 is met with patience: 2.1 to 4 s later we ask again; after five times it is a refusal like others."""
        self.refuse("INVITE", *[(491, ())] * 6)
        self.world.network.pass_time(59 + 25)
        times = [sent.time for sent in self.world.network.sent if sent.label == "INVITE" and sent.source == US][1:]
        self.assertEqual(len(times), 7)
        for before, after in pairwise(times[:6]):
            self.assertTrue(2.1 <= after - before <= 4.1, times)
        ends = 120 - 32
        self.assertLess(abs(times[6] - (times[5] + ends) / 2), 0.1)
        self.assertEqual(self.world.last_words, [])
        self.session.end()
        self.world.network.pass_time(1)
        self.quiet(self.world)

    def test_glare_and_the_end(self) -> None:
        """Nothing is asked again after the end."""
        self.refuse("INVITE", (491, ()))
        self.world.network.pass_time(60)
        self.session.end()
        self.world.network.pass_time(10)
        self.assertEqual(len(self.ours("INVITE")), 2)
        self.quiet(self.world)


class TheyRefreshTests(RefresherCase):
    headers = (("Session-Expires", "90;refresher=uas"), ("Require", "timer"), ALLOWS)

    def test_never(self) -> None:
        """A peer that doesn't refresh is left 30 s before the session's end."""
        self.world.network.pass_time(58)
        self.assertEqual(self.world.last_words, [])
        self.world.network.pass_time(3)
        self.assertEqual(self.world.last_words, [Ended("us", None, "BYE: 200")])
        self.quiet(self.world)

    def test_refreshed(self) -> None:
        """Each UPDATE or re-INVITE begins the session anew, and is answered with what is agreed."""
        self.world.network.pass_time(40)
        session = ("Session-Expires", "90;refresher=uac"), ("Supported", "timer")
        (answer,) = self.world.ask(self.world.in_dialog("UPDATE", *session))
        self.assertEqual(answer.get("Session-Expires"), "90;refresher=uac")
        self.assertEqual(answer.get("Require"), "timer")
        self.world.network.pass_time(40)
        reinvite = self.world.in_dialog("INVITE", *session, SDP, body=OFFER)
        answer = self.world.ask(reinvite)[0]
        self.assertEqual((answer.status, answer.get("Session-Expires")), (200, "90;refresher=uac"))
        self.world.network.attach(THEM)(bytes(self.world.in_dialog("ACK", cseq=reinvite.cseq.number)), US)
        self.world.network.pass_time(50)
        self.assertEqual(self.world.last_words, [])
        self.world.network.pass_time(12)
        self.assertEqual(len(self.world.last_words), 1)

    def test_handed_over(self) -> None:
        """Who refreshes may change: asked to (or where the peer can't), we do from then on."""
        for headers in (
            (("Session-Expires", "90;refresher=uas"), ("Supported", "timer")),
            (("Session-Expires", "90"),),
        ):
            (answer,) = self.world.ask(self.world.in_dialog("UPDATE", *headers))
            self.assertEqual((answer.get("Session-Expires"), answer.get("Require")), ("90;refresher=uas", None))
        self.world.network.pass_time(46)
        self.assertEqual(len(self.ours("UPDATE")), 1)

    def test_left_out(self) -> None:
        """A refresh that says nothing of a session's end takes it away."""
        self.assertEqual(self.world.statuses(self.world.in_dialog("UPDATE")), [200])
        self.world.network.pass_time(400)
        self.assertEqual(self.world.last_words, [])

    def test_too_small(self) -> None:
        """A session below 90 s is refused with 422 and Min-SE, unless its sender wouldn't know what that is."""
        for method in ("UPDATE", "INVITE"):
            request = self.world.in_dialog(method, ("Session-Expires", "30"), ("Supported", "timer"))
            answer = self.world.ask(request)[0]
            self.assertEqual((answer.status, answer.get("Min-SE")), (422, "90"))
        self.assertEqual(self.world.statuses(self.world.in_dialog("UPDATE", ("Session-Expires", "30"))), [200])


class AskedForTests(Case):
    def test_before_the_ack(self) -> None:
        """Nothing is refreshed before the owner has acknowledged the answer; if it never does, the call is left."""
        world = World(lambda call: self.assertTrue(call.respond(200, headers=[("Session-Expires", "30")])))
        world.call()
        world.network.pass_time(19)
        self.assertNotIn("UPDATE", world.network.labels)
        world.network.pass_time(3)
        self.assertEqual(world.last_words, [Ended("us", None, "BYE: 200")])
        self.quiet(world)

    def test_late_ack(self) -> None:
        """What was due before the ACK is asked for after it."""
        world = World(lambda call: self.assertTrue(call.respond(200, headers=[("Session-Expires", "60"), ALLOWS])))
        session = world.call()
        world.network.pass_time(31)
        session.acknowledge()
        world.network.pass_time(5)
        self.assertEqual(world.network.labels.count("UPDATE"), 1)
        self.assertEqual(world.last_words, [])

    def test_asked_for(self) -> None:
        """The INVITE asks for a session's length where it is told to."""
        world = World(answers)
        world.call(session_expires=600)
        world.network.pass_time(0.1)
        self.assertEqual(world.calls[0].request.get("Session-Expires"), "600")

    def test_too_small(self) -> None:
        """A 422 is followed by an INVITE that asks for what it wants, two of them at most."""

        def play(call: IncomingCall) -> None:
            call.respond(422, headers=[("Min-SE", str(100 * len(world.calls)))])

        world = World(play)
        world.call(session_expires=60)
        world.network.pass_time(1)
        asked = [(call.request.get("Session-Expires"), call.request.get("Min-SE")) for call in world.calls]
        self.assertEqual(asked, [("60", None), ("100", "100"), ("200", "200")])
        self.assertEqual([call.request.cseq.number for call in world.calls], [1, 2, 3])
        self.assertEqual(world.events, [Refused(422, "Session Interval Too Small")])
        self.quiet(world)

    def test_the_same_again(self) -> None:
        """A 422 that wants what was asked for is a refusal."""
        world = World(lambda call: self.assertTrue(call.respond(422, headers=[("Min-SE", "100")])))
        world.call()
        world.network.pass_time(1)
        self.assertEqual(len(world.calls), 2)

    def test_with_credentials(self) -> None:
        """What was learned of the digest goes with the next try."""

        def play(call: IncomingCall) -> None:
            if call.request.get("Authorization") is None:
                call.respond(401, headers=[("WWW-Authenticate", 'Digest realm="r", nonce="n"')])
            elif call.request.get("Min-SE") is None:
                call.respond(422, headers=[("Min-SE", "100")])
            else:
                answers(call)

        world = World(play)
        session = world.answered(credentials=Credentials("me", "secret"))
        self.assertEqual((len(world.calls), session.state), (3, "confirmed"))
