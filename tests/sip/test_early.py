"""Provisional responses that are repeated until PRACK comes (RFC 3262), and what may follow them (RFC 3311)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock

from calledind.sip.auth import Credentials
from calledind.sip.events import Answered, Ended, Progress, Refused
from calledind.sip.header import CSeq
from calledind.sip.message import Request, Response, parse, response_to
from calledind.sip.reliable import ReliableProvisionals
from calledind.sip.timers import Intervals
from calledind.sip.uas import Cancelled, IncomingCall
from tests.sip.network import DELAY
from tests.sip.parties import ANSWER, OFFER, THEM, US, World, outside
from tests.sip.test_session_timer import without_update
from tests.sip.test_useragent import Case, rings

SDP = ("Content-Type", "application/sdp")


def sent(world: World, method: str) -> list[Request]:
    "Our requests of this method, in the order of sending."
    messages = [parse(datagram.data) for datagram in world.network.sent if datagram.source == US]
    return [message for message in messages if isinstance(message, Request) and message.method == method]


class ReliableTests(Case):
    def ringing(self, **changes: object) -> tuple[World, IncomingCall]:
        world = World()
        self.session = world.call(**changes)
        world.network.pass_time(0.1)
        return world, world.calls[0]

    def provisional(self, world: World, rseq: int, *, status: int = 183, require: str = "100rel") -> None:
        "A response of the callee's as it says, numbers and all."
        headers = [("Require", require), ("RSeq", str(rseq)), ("Contact", "<sip:127.0.0.2:5070>")]
        response = response_to(world.calls[0].request, status, None, "theirs", headers)
        world.network.attach(THEM)(bytes(response), US)
        world.network.pass_time(0.1)

    def test_acknowledged(self) -> None:
        """A reliable 183 is reported once, however often it comes, and gets one PRACK; its answer is the call's."""
        world, call = self.ringing()
        world.network.rule = lambda datagram: [] if datagram.label == "PRACK" else [DELAY]
        call.respond(183, sdp=ANSWER, reliable=True)
        call.respond(200)
        world.network.pass_time(4)
        self.assertEqual(world.events, [Progress(183, "Session Progress", ANSWER)])
        self.assertEqual(world.network.labels.count("183 INVITE"), 4)
        self.assertEqual({request.via.branch for request in sent(world, "PRACK")}, {sent(world, "PRACK")[0].via.branch})
        world.network.rule = lambda datagram: [DELAY]
        world.network.pass_time(5)
        assert isinstance(world.events[-1], Answered)
        self.assertEqual(world.events[-1].sdp, ANSWER)
        self.session.acknowledge()
        world.network.pass_time(1)
        self.session.end()
        world.network.pass_time(1)
        self.assertEqual(world.last_words, [Ended("us", None, "BYE: 200")])
        self.quiet(world)

    def test_what_it_says(self) -> None:
        """A PRACK goes to the callee's Contact, with the next CSeq, and names RSeq and CSeq of what it acknowledges."""
        world, _ = self.ringing()
        self.provisional(world, 4711)
        (prack,) = sent(world, "PRACK")
        self.assertEqual(prack.uri, "sip:127.0.0.2:5070")
        self.assertEqual((prack.get("RAck"), prack.cseq.number), ("4711 1 INVITE", 2))
        self.assertEqual((prack.to.tag, prack.from_.tag), ("theirs", self.session.local_tag))
        (invite,) = sent(world, "INVITE")
        self.assertIn("100rel", invite.get("Supported") or "")

    def test_new_ways(self) -> None:
        """A PRACK goes where the response that it acknowledges says, not where an earlier one did."""
        world, call = self.ringing()
        for rseq, more in (
            (1, [("Contact", "<sip:first@127.0.0.2>")]),
            (2, [("Contact", "<sip:second@127.0.0.2>"), ("Record-Route", "<sip:127.0.0.2:5090;lr>")]),
            (3, [("Contact", "<sip:second@127.0.0.2>")]),
        ):
            headers = [("Require", "100rel"), ("RSeq", str(rseq)), *more]
            world.agent.datagram_received(bytes(response_to(call.request, 183, None, "theirs", headers)), THEM)
        first, second, third = sent(world, "PRACK")
        self.assertEqual((first.uri, first.all("Route")), ("sip:first@127.0.0.2", []))
        self.assertEqual((second.uri, second.all("Route")), ("sip:second@127.0.0.2", ["<sip:127.0.0.2:5090;lr>"]))
        self.assertEqual(third.all("Route"), second.all("Route"))

    def test_order(self) -> None:
        """What comes again, or before its turn, is neither reported nor acknowledged."""
        world, _ = self.ringing()
        for rseq, status in ((7, 183), (7, 183), (9, 180), (8, 180), (9, 181)):
            self.provisional(world, rseq, status=status)
        self.assertEqual([each.get("RAck") for each in sent(world, "PRACK")], [f"{n} 1 INVITE" for n in (7, 8, 9)])
        told = [event.status for event in world.events if isinstance(event, Progress) and event.status > 100]
        self.assertEqual(told, [183, 180, 181])

    def test_nonsense(self) -> None:
        """A reliable response without a number that can be acknowledged is left out."""
        world, call = self.ringing()
        self.provisional(world, 0)
        call.respond(183, headers=[("Require", "100rel"), ("RSeq", "x")])
        world.network.pass_time(0.1)
        self.assertEqual((world.events, sent(world, "PRACK")), ([], []))
        call.respond(100, headers=[("Require", "100rel"), ("RSeq", "1")])
        world.network.pass_time(0.1)
        self.assertEqual((world.events, sent(world, "PRACK")), ([Progress(100, "Trying")], []))

    def test_each_branch_of_a_fork(self) -> None:
        """Each telephone counts for itself."""
        world, call = self.ringing()
        call.respond(183, to_tag="a", reliable=True)
        call.respond(183, to_tag="b", reliable=True)
        world.network.pass_time(0.2)
        self.assertEqual([each.to.tag for each in sent(world, "PRACK")], ["a", "b"])
        call.respond(200, sdp=ANSWER, to_tag="b")
        world.network.pass_time(0.2)
        self.session.acknowledge()
        self.session.end()
        world.network.pass_time(1)
        self.quiet(world)

    def test_challenged(self) -> None:
        """A PRACK that is challenged is sent again with the credentials, CSeq one higher; the BYE goes on there."""
        world, call = self.ringing(credentials=Credentials("me", "secret"))
        world.network.rule = lambda datagram: [] if datagram.label == "PRACK" else [DELAY]
        self.provisional(world, 1)
        (prack,) = sent(world, "PRACK")
        challenge = response_to(prack, 407, headers=[("Proxy-Authenticate", 'Digest realm="r", nonce="n"')])
        world.agent.datagram_received(bytes(challenge), THEM)
        again = sent(world, "PRACK")[-1]
        self.assertEqual((again.cseq.number, again.get("RAck")), (3, "1 1 INVITE"))
        self.assertIsNotNone(again.get("Proxy-Authorization"))
        world.agent.datagram_received(bytes(response_to(again, 200)), THEM)
        call.respond(200, sdp=ANSWER, to_tag="theirs")
        world.network.pass_time(0.1)
        self.session.acknowledge()
        self.session.end()
        self.assertEqual(sent(world, "BYE")[0].cseq.number, 4)

    def test_while_cancelling(self) -> None:
        """A reliable response to a call that is being cancelled is acknowledged all the same."""
        world, _ = self.ringing()
        self.session.end()
        world.network.rule = lambda datagram: [] if datagram.label == "CANCEL" else [DELAY]
        self.provisional(world, 5)
        self.provisional(world, 6)
        world.network.rule = lambda datagram: [DELAY]
        world.network.pass_time(1)
        self.assertEqual({each.get("RAck") for each in sent(world, "PRACK")}, {"5 1 INVITE", "6 1 INVITE"})
        self.assertEqual(world.heard[0], Cancelled())
        self.assertEqual(world.events, [Refused(487, "Request Terminated")])

    def test_where_it_goes_on(self) -> None:
        """A 2xx without a Contact leaves the target where the early dialog has it."""
        world, call = self.ringing()
        self.provisional(world, 1)
        invite = call.request
        world.network.attach(THEM)(bytes(response_to(invite, 200, None, "theirs", [SDP], ANSWER)), US)
        world.network.pass_time(0.1)
        self.session.acknowledge()
        self.assertEqual(sent(world, "ACK")[0].uri, "sip:127.0.0.2:5070")

    def test_forks_are_bounded(self) -> None:
        """Who rings and answers in the name of hundreds of telephones is heard for some of them."""
        world, call = self.ringing()
        for status in (180, 200):
            for number in range(100):
                headers = [("Contact", "<sip:127.0.0.2:5070>"), ("Require", "100rel"), ("RSeq", "1")]
                answer = response_to(call.request, status, None, f"tag{number}", headers)
                world.agent.datagram_received(bytes(answer), THEM)
        self.assertEqual(len(sent(world, "PRACK")), 32)
        self.assertEqual(len({request.to.tag for request in sent(world, "BYE")}), 32)
        self.session.acknowledge()
        self.session.end()
        world.network.pass_time(70)
        self.assertEqual(len(world.agent), 0)

    def test_not_offered(self) -> None:
        """An invitation that doesn't offer it names no option tags."""
        world, _ = self.ringing(supported=())
        self.assertIsNone(sent(world, "INVITE")[0].get("Supported"))


class CalleeTests(Case):
    def test_never_acknowledged(self) -> None:
        """Where no PRACK comes within 64*T1 the callee refuses the call."""
        world = World(lambda call: self.assertTrue(call.respond(183, reliable=True)))
        world.call()
        world.network.rule = lambda datagram: [] if datagram.label == "PRACK" else [DELAY]
        world.network.pass_time(31.9)
        self.assertEqual(len(world.events), 1)
        world.network.pass_time(0.5)
        self.assertEqual(world.events[-1], Refused(504, "Server Time-out"))
        world.network.pass_time(40)
        self.quiet(world)

    def test_one_after_the_other(self) -> None:
        """The second reliable response, and the 2xx, wait for the PRACK of the first."""
        world = World()
        session = world.call()
        world.network.pass_time(0.1)
        call = world.calls[0]
        call.respond(183, reliable=True)
        call.respond(180, reliable=True)
        call.respond(200, sdp=ANSWER)
        self.assertEqual(world.network.labels[-1], "183 INVITE")
        world.network.pass_time(0.2)
        self.assertEqual(
            [label for label in world.network.labels if label != "ACK"],
            ["INVITE", "183 INVITE", "PRACK", "200 PRACK", "180 INVITE", "PRACK", "200 PRACK", "200 INVITE"],
        )
        session.acknowledge()
        session.end()
        self.quiet(world)

    def test_stray_pracks(self) -> None:
        """A PRACK for what nobody waits for is refused with 481."""
        world = World(lambda call: self.assertTrue(call.respond(183, reliable=True)))
        session = world.call()
        world.network.rule = lambda datagram: [] if datagram.label == "PRACK" else [DELAY]
        world.network.pass_time(0.1)
        invite = world.calls[0].request
        for number, (tag, rack) in enumerate((("x", "1 1 INVITE"), (world.calls[0].tag, "x 1 INVITE"), (None, ""))):
            request = outside("PRACK", ("RAck", rack), to=f"<sip:x@y>;tag={tag or world.calls[0].tag}")
            own = [pair for pair in request.headers if pair[0] not in ("From", "Call-ID", "CSeq")]
            own += [("From", invite.get("From") or ""), ("Call-ID", invite.call_id), ("CSeq", f"{number + 2} PRACK")]
            world.callee.datagram_received(bytes(Request("PRACK", request.uri, own)), US)
            answer = parse(world.network.sent[-1].data)
            assert isinstance(answer, Response)
            self.assertEqual(answer.status, 481)
        session.end()
        world.network.pass_time(1)
        self.quiet(world)

    def test_pracks_of_another_invite(self) -> None:
        """A PRACK belongs to a response by the CSeq of the INVITE as well (RFC 3262 §3)."""
        early = ReliableProvisionals(lambda: None, Clock(), Intervals())
        sent: list[tuple[str, str]] = []

        def send(headers: list[tuple[str, str]]) -> Callable[[], None]:
            sent.extend(headers)
            return lambda: None

        early.add(send)
        rseq = dict(sent)["RSeq"]
        due = {
            rack: early.is_due(outside("PRACK", ("RAck", rack)), CSeq(7, "INVITE"))
            for rack in (f"{rseq} 7 INVITE", f"{rseq}  7  INVITE", f"{rseq} 6 INVITE", f"{rseq} 7 UPDATE", rseq)
        }
        self.assertEqual(list(due.values()), [True, True, False, False, False])
        early.stop()

    def test_cancelled_before_its_prack(self) -> None:
        """A CANCEL ends the repeats, and what would have followed them."""
        world = World(lambda call: self.assertTrue(call.respond(183, reliable=True) and call.respond(200)))
        session = world.call()
        world.network.rule = lambda datagram: [] if datagram.label == "PRACK" else [DELAY]
        world.network.pass_time(0.1)
        session.end()
        world.network.pass_time(1)
        self.assertEqual(world.last_words, [Refused(487, "Request Terminated")])
        self.quiet(world)

    def test_other_branch_answers(self) -> None:
        """The answer of one telephone ends the repeats of another."""
        world = World()
        session = world.call()
        world.network.rule = lambda datagram: [] if datagram.label == "PRACK" else [DELAY]
        world.network.pass_time(0.1)
        world.calls[0].respond(183, reliable=True, to_tag="a")
        world.calls[0].respond(200, sdp=ANSWER, to_tag="b")
        world.network.pass_time(0.1)
        session.acknowledge()
        session.end()
        world.network.pass_time(5)
        self.assertEqual(world.network.labels.count("183 INVITE"), 1)
        world.network.pass_time(30)
        self.quiet(world)


class EarlyUpdateTests(Case):
    def setUp(self) -> None:
        self.offers: list[bytes] = []
        self.answer: bytes | None = ANSWER
        self.world = World()
        self.session = self.world.call(renegotiate=self.renegotiate)
        self.world.network.pass_time(0.1)

    def renegotiate(self, offer: bytes) -> bytes | None:
        self.offers.append(offer)
        return self.answer

    def early(self, method: str, *headers: tuple[str, str], body: bytes = b"", cseq: int = 1) -> Request:
        "A request of the callee's in its early dialog."
        invite, tag = self.world.calls[0].request, self.world.calls[0].tag
        request = outside(method)
        own = [pair for pair in request.headers if pair[0] not in ("From", "To", "Call-ID", "CSeq")]
        mine = [("From", f"<sip:them@x>;tag={tag}"), ("To", invite.get("From") or ""), ("Call-ID", invite.call_id)]
        return Request(method, request.uri, [*own, *mine, ("CSeq", f"{cseq} {method}"), *headers], body)

    def test_offer_after_a_reliable_answer(self) -> None:
        """After an answer that came reliably an UPDATE's offer is answered, and reported with the 2xx."""
        self.world.calls[0].respond(183, sdp=ANSWER, reliable=True)
        self.world.network.pass_time(0.1)
        (response,) = self.world.ask(self.early("UPDATE", SDP, body=OFFER))
        self.assertEqual((response.status, response.body, self.offers), (200, ANSWER, [OFFER]))
        self.world.calls[0].respond(200)
        self.world.network.pass_time(0.1)
        assert isinstance(self.world.events[-1], Answered)
        self.assertEqual((self.world.events[-1].offer, self.world.events[-1].sdp), (OFFER, ANSWER))
        self.session.acknowledge()
        self.session.end()

    def test_refreshed_as_answered(self) -> None:
        """A re-INVITE that refreshes the session says what the answer to the early UPDATE has said."""
        self.world.calls[0].respond(183, sdp=ANSWER, reliable=True)
        self.world.network.pass_time(0.1)
        self.answer = OFFER.replace(b"4000", b"4242")
        (response,) = self.world.ask(self.early("UPDATE", SDP, body=OFFER))
        self.assertIn("timer", response.get("Supported") or "")
        self.world.network.rule = without_update
        self.world.calls[0].respond(200, headers=[("Session-Expires", "90")])
        self.world.network.pass_time(0.1)
        self.session.acknowledge()
        self.world.network.pass_time(46)
        self.assertEqual(sent(self.world, "INVITE")[-1].body, self.answer)

    def test_secure(self) -> None:
        """Who calls by sips has a Contact of sips in early dialogs, too (§12.1.1)."""
        uri = "sips:+12125550100@127.0.0.2"
        self.world = World(rings)
        self.session = self.world.call(request_uri=uri, to_uri=uri, from_uri="sip:anonymous@anonymous.invalid")
        self.world.network.pass_time(0.1)
        (response,) = self.world.ask(self.early("UPDATE"))
        self.assertEqual(response.get("Contact"), "<sips:anonymous@127.0.0.1:5060>")

    def test_offer_that_nobody_takes(self) -> None:
        """An offer that the owner doesn't take is refused with 488 and a Warning."""
        self.answer = None
        self.world.calls[0].respond(183, sdp=ANSWER, reliable=True)
        self.world.network.pass_time(0.1)
        (response,) = self.world.ask(self.early("UPDATE", SDP, body=OFFER))
        self.assertEqual(response.status, 488)
        self.assertIn("305", response.get("Warning") or "")

    def test_others(self) -> None:
        """Requests out of order, of unknown extensions and packages are refused as inside a call."""
        self.world.calls[0].respond(183)
        self.world.network.pass_time(0.1)
        for request, status in (
            (self.early("INFO", cseq=5), 200),
            (self.early("INFO", cseq=4), 500),
            (self.early("INFO", ("Info-Package", "x"), cseq=6), 469),
            (self.early("OPTIONS", ("Require", "x"), cseq=7), 420),
        ):
            self.assertEqual(self.world.statuses(request), [status])
