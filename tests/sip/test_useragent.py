"""Whole calls between our user agent and a callee, on a network in memory."""

from __future__ import annotations

import gc
import weakref

from twisted.trial.unittest import SynchronousTestCase

from calledind.model import Address
from calledind.sip.auth import Credentials
from calledind.sip.events import Answered, Ended, Progress, Refused, Unreachable
from calledind.sip.message import Request, parse, response_to
from calledind.sip.session import Input, State
from calledind.sip.uas import Acked, ByeReceived, Cancelled, Gone, IncomingCall
from calledind.sip.useragent import InviteSession, UserAgent
from tests.sip.parties import ANSWER, QUIET, THEM, US, World, invitation


def rings(call: IncomingCall) -> None:
    call.respond(180)


def answers(call: IncomingCall) -> None:
    call.respond(180)
    call.respond(200, sdp=ANSWER)


class Case(SynchronousTestCase):
    def quiet(self, world: World) -> None:
        "Nothing is left after 64*T1: no transaction, no dialog, no timer."
        world.network.pass_time(QUIET)
        self.assertEqual((len(world.agent), len(world.callee)), (0, 0))
        self.assertEqual(world.clock.getDelayedCalls(), [])


class FlowTests(Case):
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

    def test_way_of_the_ack(self) -> None:
        """ACK and BYE go to the last Record-Route of the 2xx, wherever the INVITE went."""

        def play(call: IncomingCall) -> None:
            way = "<sip:127.0.0.4:5062;lr>, <sip:127.0.0.3:5063;lr>"
            call.respond(200, sdp=ANSWER, headers=[("Record-Route", way)])

        world = World(play)
        session = world.answered()
        session.end()
        targets = {datagram.label: datagram.target for datagram in world.network.sent if datagram.source == US}
        self.assertEqual(targets, {"INVITE": THEM, "ACK": ("127.0.0.3", 5063), "BYE": ("127.0.0.3", 5063)})

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

    def test_leaves_nothing_to_the_collector(self) -> None:
        """Sessions that are over go by themselves: nothing in them holds itself in a circle."""
        gc.disable()
        self.addCleanup(gc.enable)
        for play in (answers, lambda call: call.respond(486), lambda call: call.stay_silent()):
            with self.subTest(play):
                world = World(play)
                gone = weakref.ref(world.answered() if play is answers else world.call())
                world.network.pass_time(5)
                session = gone()
                assert session is not None
                session.end()
                del session
                world.network.pass_time(64 * 0.5)
                self.quiet(world)
                world.life.callLater(0, int)  # the last timer of the session's isn't held either
                self.assertIsNone(gone())

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

    def test_cancelled_before_anything_was_heard(self) -> None:
        """A CANCEL waits for the first provisional response, of which nothing is reported any more."""
        world = World(rings)
        session = world.call()
        session.end()
        self.assertEqual(session.state, "withdrawing")
        world.network.pass_time(1)
        self.assertEqual(world.events, [Refused(487, "Request Terminated")])
        self.assertEqual(world.network.labels[:3], ["INVITE", "180 INVITE", "CANCEL"])
        self.quiet(world)

    def test_cancel_crosses_answer(self) -> None:
        """A 2xx that crosses the CANCEL is acknowledged and left; it is never reported as answered."""
        world = World(rings)
        session = world.call()
        world.network.pass_time(1)
        world.calls[0].respond(200, sdp=ANSWER)
        session.end("SIP;cause=487")
        world.network.pass_time(1)
        self.assertEqual(world.events, [Progress(180, "Ringing"), Ended("us", None, "BYE: 200")])
        bye = next(sent for sent in world.network.sent if sent.label == "BYE")
        self.assertIn(b"Reason: SIP;cause=487", bye.data)
        self.assertEqual(world.network.labels.count("ACK"), 1)
        self.quiet(world)

    def test_no_final_response_to_cancel(self) -> None:
        """Where 487 never comes the session says so itself after 64*T1, and forgets the INVITE."""
        world = World(rings)
        session = world.call()
        world.network.pass_time(1)
        world.network.rule = lambda datagram: []
        session.end()
        world.network.pass_time(31.9)
        self.assertEqual(world.last_words, [])
        world.network.pass_time(0.2)
        self.assertEqual([word.status for word in world.last_words if isinstance(word, Refused)], [487])
        world.calls[0].drop()
        self.quiet(world)

    def test_end_before_the_ack(self) -> None:
        """An end between answer and `acknowledge` sends ACK, then BYE."""
        world = World(answers)
        session = world.call()
        world.network.pass_time(1)
        session.end()
        session.acknowledge()
        world.network.pass_time(1)
        self.assertEqual(world.last_words, [Ended("us", None, "BYE: 200")])
        self.assertEqual(world.network.labels[-3:], ["ACK", "BYE", "200 BYE"])
        self.quiet(world)

    def test_repeated_success(self) -> None:
        """A 2xx that comes again is noted before `acknowledge` and acknowledged again after it, same octets."""
        world = World(answers)
        session = world.call()
        world.network.pass_time(3)
        self.assertEqual(world.network.labels.count("200 INVITE"), 3)
        self.assertEqual(world.network.labels.count("ACK"), 0)
        world.network.rule = lambda datagram: [] if datagram.label == "ACK" else [0.01]
        session.acknowledge()
        world.network.pass_time(1)
        acks = {sent.data for sent in world.network.sent if sent.label == "ACK"}
        self.assertEqual((len(acks), world.network.labels.count("ACK")), (1, 2))
        self.assertEqual(sum(isinstance(event, Answered) for event in world.events), 1)
        world.network.rule = lambda datagram: [0.01]
        world.network.pass_time(4)
        session.end()
        self.quiet(world)

    def test_left_before_the_ack(self) -> None:
        """Who leaves before our ACK gets it for the 2xx that comes again; `acknowledge` is of no use then."""
        world = World(answers)
        session = world.call()
        world.network.pass_time(0.1)
        world.agent.datagram_received(bytes(world.in_dialog("BYE")), THEM)
        session.acknowledge()
        self.assertEqual(len(world.last_words), 1)
        self.assertEqual(world.network.labels.count("ACK"), 0)
        world.network.pass_time(0.6)
        self.assertEqual(world.network.labels.count("ACK"), 1)
        world.calls[0].bye()
        self.quiet(world)

    def test_acknowledge_after_a_refusal(self) -> None:
        """An owner that is late with its `acknowledge` does no harm."""
        world = World(lambda call: self.assertTrue(call.respond(486)))
        session = world.call()
        world.network.pass_time(1)
        session.acknowledge()
        self.assertEqual(world.network.labels, ["INVITE", "486 INVITE", "ACK"])

    def test_provisional_to_bye(self) -> None:
        """A 100 to our BYE isn't its end."""
        world = World(answers)
        session = world.answered()
        world.network.rule = lambda datagram: []
        session.end()
        bye = parse(world.network.sent[-1].data)
        assert isinstance(bye, Request)
        world.agent.datagram_received(bytes(response_to(bye, 100)), THEM)
        self.assertEqual(world.last_words, [])
        world.agent.datagram_received(bytes(response_to(bye, 200)), THEM)
        self.assertEqual(len(world.last_words), 1)

    def test_odd_caller(self) -> None:
        """A From that isn't a URI leaves us with a Contact of our own."""
        world = World(rings)
        world.call(from_uri="nonsense:x")
        self.assertIn(b"Contact: <sip:calledin@", world.network.sent[0].data)

    def test_acks_without_end(self) -> None:
        """A callee that answers each ACK by its 2xx doesn't keep us busy for ever."""
        world = World(answers)
        session = world.call()
        world.network.pass_time(0.1)
        success = next(sent.data for sent in world.network.sent if sent.label == "200 INVITE")
        session.acknowledge()
        for _ in range(200):
            world.agent.datagram_received(success, THEM)
        self.assertEqual(world.network.labels.count("ACK"), 64)
        session.end()
        self.quiet(world)

    def test_byes_that_cross(self) -> None:
        """Two BYEs that cross are both answered, and the call ends once."""
        world = World(answers)
        session = world.answered()
        session.end()
        world.calls[0].bye()
        world.network.pass_time(1)
        self.assertEqual(len(world.last_words), 1)
        self.assertEqual(world.network.labels.count("200 BYE"), 2)
        self.quiet(world)

    def test_bye_without_answer(self) -> None:
        """A BYE that nobody answers ends the call after timer F."""
        world = World(answers)
        session = world.answered()
        world.network.rule = lambda datagram: []
        session.end()
        world.network.pass_time(33)
        self.assertEqual(world.last_words, [Ended("us", None, "BYE: no final response within 32 s")])
        self.assertEqual(len(world.agent), 0)

    def test_early_media(self) -> None:
        """An answer in a 183 is reported, and stands for that of a 200 of the same To tag that has none."""
        world = World()
        world.call()
        world.network.pass_time(0.1)
        world.calls[0].respond(183, sdp=ANSWER)
        world.calls[0].respond(200)
        world.network.pass_time(0.1)
        self.assertEqual(world.events[0], Progress(183, "Session Progress", ANSWER))
        assert isinstance(world.events[1], Answered)
        self.assertEqual(world.events[1].sdp, ANSWER)
        self.assertNotIn("PRACK", world.network.labels)

    def test_fork(self) -> None:
        """The second telephone to answer is thanked and left without a word to the owner."""
        world = World()
        session = world.call()
        world.network.pass_time(0.1)
        call = world.calls[0]
        call.respond(180, to_tag="a")
        call.respond(180, to_tag="b")
        call.respond(200, sdp=ANSWER, to_tag="b")
        call.respond(200, sdp=ANSWER, to_tag="a")
        world.network.pass_time(0.1)
        self.assertIn(ByeReceived(None, "a"), world.heard)
        session.acknowledge()
        world.network.pass_time(1)
        self.assertEqual(session.state, "confirmed")
        self.assertEqual(sum(isinstance(event, Answered) for event in world.events), 1)
        session.end()
        world.network.pass_time(1)
        self.assertEqual(len(world.last_words), 1)
        self.quiet(world)

    def test_answer_after_refusal(self) -> None:
        """A 2xx that a proxy sends on after a refusal is acknowledged and left."""
        world = World(lambda call: self.assertTrue(call.respond(486)))
        world.call()
        world.network.pass_time(1)
        invite = world.calls[0].request
        late = response_to(invite, 200, to_tag="late", headers=[("Contact", "<sip:127.0.0.2>")])
        world.network.attach(THEM)(bytes(late), US)
        world.network.attach(THEM)(bytes(late), US)
        world.network.pass_time(1)
        self.assertEqual(len(world.events), 1)
        self.assertEqual(world.network.labels[-5:].count("ACK"), 2)
        self.assertEqual(world.network.labels[-5:].count("BYE"), 1)
        self.quiet(world)

    def test_redirected(self) -> None:
        """A 3xx is reported with its Contacts, the preferred first; what follows is the same call, CSeq one higher."""
        contacts = "<sip:a@127.0.0.2>;q=0.2, <sip:b@127.0.0.2>, <sip:c@127.0.0.2>;q=x, <sip:d@127.0.0.2>;q=0.7"

        def play(call: IncomingCall) -> None:
            if call.request.uri.startswith("sip:b@"):
                answers(call)
            else:
                call.respond(302, headers=[("Contact", contacts)])

        world = World(play)
        first = world.call()
        world.network.pass_time(1)
        refused = world.events.pop()
        assert isinstance(refused, Refused)
        self.assertEqual([uri[4] for uri in refused.contacts], ["b", "d", "a", "c"])
        session = world.agent.prepare(first.redirected(refused.contacts[0], THEM))
        session.send(world.events.append)
        world.network.pass_time(1)
        one, two = (call.request for call in world.calls)
        self.assertEqual((one.call_id, one.get("From"), one.get("To")), (two.call_id, two.get("From"), two.get("To")))
        self.assertEqual((one.cseq.number, two.cseq.number), (1, 2))
        self.assertNotEqual(one.via.branch, two.via.branch)
        session.acknowledge()
        session.end()
        world.network.pass_time(1)
        self.assertEqual(world.last_words, [Ended("us", None, "BYE: 200")])
        self.quiet(world)

    def test_redirected_to_nowhere(self) -> None:
        """A 3xx without Contacts that can be read leads nowhere."""
        for contact in ("*", "<"):
            world = World(lambda call, contact=contact: call.respond(302, headers=[("Contact", contact)]))  # type: ignore[misc]
            world.call()
            world.network.pass_time(1)
            (refused,) = world.last_words
            assert isinstance(refused, Refused)
            self.assertEqual(refused.contacts, ())

    def test_misuse(self) -> None:
        """An ACK to nothing and a second `send` are our mistakes, and loud; ended before sent, nothing leaves."""
        world = World(rings)
        session = world.call()
        self.assertRaises(RuntimeError, session.acknowledge)
        self.assertRaises(RuntimeError, session.send, world.events.append)
        other = world.agent.prepare(invitation())
        other.end()
        other.send(world.events.append)
        self.assertEqual((other.state, len(world.network.sent)), ("over", 1))

    def test_every_input_in_every_state(self) -> None:
        """No input of a session in any state is without its line."""
        self.assertEqual(set(InviteSession.table), {(state, what) for state in State for what in Input})


class DigestTests(Case):
    CREDENTIALS = Credentials("me", "secret")

    def challenge(self, nonce: str = "n", more: str = "") -> tuple[str, str]:
        return "Proxy-Authenticate", f'Digest realm="r", nonce="{nonce}", qop="auth"{more}'

    def test_answered(self) -> None:
        """A challenge is answered with the same Call-ID and From, CSeq + 1 and a branch of its own; the ACK to the
        2xx has the same credentials, the BYE its own."""

        def play(call: IncomingCall) -> None:
            if call.request.get("Proxy-Authorization"):
                answers(call)
            else:
                call.respond(407, headers=[self.challenge()])

        world = World(play)
        session = world.answered(credentials=self.CREDENTIALS)
        session.end()
        world.network.pass_time(1)
        self.assertEqual(world.last_words, [Ended("us", None, "BYE: 200")])
        sent = [parse(datagram.data) for datagram in world.network.sent]
        first, second = (message for message in sent if isinstance(message, Request) and message.method == "INVITE")
        self.assertEqual((first.call_id, first.get("From")), (second.call_id, second.get("From")))
        self.assertEqual((first.cseq.number, second.cseq.number), (1, 2))
        self.assertEqual(second.via.branch, (first.via.branch or "").removesuffix(".1") + ".2")
        ack = [m for m in sent if isinstance(m, Request) and m.method == "ACK"][-1]
        self.assertEqual(ack.get("Proxy-Authorization"), second.get("Proxy-Authorization"))
        bye = next(m for m in sent if isinstance(m, Request) and m.method == "BYE")
        self.assertIn("nc=00000002", bye.get("Proxy-Authorization") or "")
        self.assertIsNone(second.to.tag)
        self.quiet(world)

    def test_wrong_password(self) -> None:
        """A nonce refused twice is the end, and the owner hears the last refusal alone."""
        world = World(lambda call: self.assertTrue(call.respond(407, headers=[self.challenge()])))
        world.call(credentials=self.CREDENTIALS)
        world.network.pass_time(1)
        self.assertEqual(len(world.calls), 2)
        self.assertEqual(world.events, [Refused(407, "Proxy Authentication Required")])
        self.quiet(world)

    def test_without_credentials(self) -> None:
        """Without credentials a challenge is a refusal like others."""
        world = World(lambda call: self.assertTrue(call.respond(407, headers=[self.challenge()])))
        world.call()
        world.network.pass_time(1)
        self.assertEqual(len(world.calls), 1)
        self.assertEqual(world.events, [Refused(407, "Proxy Authentication Required")])

    def test_answered_after_the_challenge(self) -> None:
        """A late 2xx to the INVITE that was challenged is acknowledged and left; the one with credentials goes on."""

        def play(call: IncomingCall) -> None:
            if call.request.get("Proxy-Authorization"):
                answers(call)
            else:
                call.respond(407, headers=[self.challenge()])

        world = World(play)
        session = world.answered(credentials=self.CREDENTIALS)
        late = response_to(world.calls[0].request, 200, to_tag="late", headers=[("Contact", "<sip:127.0.0.2>")])
        world.agent.datagram_received(bytes(late), THEM)
        world.network.pass_time(1)
        self.assertEqual((session.state, world.network.labels.count("BYE")), ("confirmed", 1))
        session.end()
        world.network.pass_time(1)
        self.assertEqual(len(world.last_words), 1)
        self.quiet(world)

    def test_not_after_the_end(self) -> None:
        """A challenge that comes after `end` isn't taken up."""
        world = World(lambda call: self.assertTrue(call.respond(407, headers=[self.challenge()])))
        session = world.call(credentials=self.CREDENTIALS)
        session.end()
        world.network.pass_time(1)
        self.assertEqual(world.events, [Refused(407, "Proxy Authentication Required")])
        self.quiet(world)

    def test_challenged_bye(self) -> None:
        """A BYE that is challenged is sent again with the credentials."""
        world = World(answers)
        session = world.answered(credentials=self.CREDENTIALS)
        world.network.rule = lambda datagram: []
        session.end()
        bye = parse(world.network.sent[-1].data)
        assert isinstance(bye, Request)
        challenge = response_to(bye, 401, headers=[("WWW-Authenticate", self.challenge()[1])])
        world.agent.datagram_received(bytes(challenge), THEM)
        again = parse(world.network.sent[-1].data)
        assert isinstance(again, Request)
        self.assertEqual((again.method, again.cseq.number), ("BYE", bye.cseq.number + 1))
        self.assertIsNotNone(again.get("Authorization"))
        self.assertEqual(world.last_words, [])
        world.agent.datagram_received(bytes(response_to(again, 200)), THEM)
        self.assertEqual(world.last_words, [Ended("us", None, "BYE: 200")])


class TransportTests(Case):
    def test_icmp(self) -> None:
        """ICMP from the target ends what waits for its first answer, other targets' calls go on."""
        world = World(lambda call: call.stay_silent())
        world.call()
        world.call(target=("127.0.0.3", 5060))
        reports: list[int | None] = []
        world.agent.options(THEM, "sip:127.0.0.2", reports.append)
        world.agent.transport_failed(THEM)
        self.assertEqual(world.events, [Unreachable("transport", "nobody listens there (ICMP)")])
        self.assertEqual(reports, [None])
        world.agent.transport_failed(THEM)
        self.assertEqual(len(world.events), 1)
        self.quiet(world)

    def test_no_way(self) -> None:
        """Without a way to the target the call is unreachable, and nothing is sent."""
        world = World()

        def local(target: Address) -> Address:
            raise OSError("no route")

        agent = UserAgent(
            send=world.network.attach(US), timers=world.clock, local=local, user_agent="x", trusted=lambda ip: True
        )
        session = agent.prepare(invitation())
        session.send(world.events.append)
        self.assertEqual(world.events, [])
        reports: list[int | None] = []
        agent.options(THEM, "sip:127.0.0.2", reports.append)
        world.network.pass_time(0)
        self.assertEqual((world.events, reports), ([Unreachable("transport", "no route")], [None]))
        self.assertEqual((world.network.sent, len(agent)), ([], 0))

    def test_fails_while_it_is_sent(self) -> None:
        """A transport that knows at once that nobody is there ends the request like one that learns of it later."""
        world = World()
        agent = UserAgent(
            send=lambda data, target: agent.transport_failed(target),
            timers=world.clock,
            local=lambda target: US,
            user_agent="x",
            trusted=lambda ip: True,
        )
        reports: list[int | None] = []
        agent.options(THEM, "sip:127.0.0.2", reports.append)
        self.assertEqual((reports, len(agent), world.clock.getDelayedCalls()), ([None], 0, []))

    def test_options(self) -> None:
        """A probe reports the final status, or None when nobody answers."""
        world = World()
        reports: list[int | None] = []
        world.agent.options(THEM, "sip:127.0.0.2", reports.append)
        world.network.pass_time(1)
        world.agent.options(("127.0.0.3", 5060), "sip:127.0.0.3", reports.append)
        world.network.pass_time(33)
        world.agent.options(THEM, "sips:127.0.0.2", reports.append)
        self.assertEqual(parse(world.network.sent[-1].data).get("Contact"), "<sips:calledin@127.0.0.1:5060>")
        world.network.pass_time(1)
        self.assertEqual(reports, [200, None, 200])
        self.quiet(world)
