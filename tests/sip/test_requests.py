"""What our user agent answers to requests that come in: inside a call, outside of any, and from strangers."""

from __future__ import annotations

import random

from calledind.sip.events import Ended, LateAnswer, Refused
from calledind.sip.message import Request, response_to
from calledind.sip.uas import IncomingCall
from tests.sip.parties import ANSWER, OFFER, THEM, US, World, outside
from tests.sip.test_useragent import Case, answers

SDP = ("Content-Type", "application/sdp")
CONTACT = ("Contact", "<sip:127.0.0.2:5066>")


class InsideTests(Case):
    def setUp(self) -> None:
        self.offers: list[bytes] = []
        self.answer: bytes | None = ANSWER
        self.world = World(answers)
        self.session = self.world.answered(renegotiate=self.renegotiate)

    def renegotiate(self, offer: bytes) -> bytes | None:
        self.offers.append(offer)
        return self.answer

    def test_reinvite(self) -> None:
        """An offer is answered with 200, repeated until its ACK comes; the new Contact is where we send then."""
        reinvite = self.world.in_dialog("INVITE", SDP, CONTACT, body=OFFER)
        first = self.world.ask(reinvite)
        self.assertEqual([response.status for response in first], [200, 200])
        self.assertEqual((self.offers, first[0].body, first[0].content_type), ([OFFER], ANSWER, "application/sdp"))
        self.assertIsNotNone(first[0].contact)
        ack = self.world.in_dialog("ACK", cseq=reinvite.cseq.number)
        self.world.network.attach(THEM)(bytes(ack), US)
        self.world.network.pass_time(10)
        self.assertEqual(self.world.network.labels.count("200 INVITE"), 2 + 2)
        self.session.end()
        self.assertEqual(self.world.network.sent[-1].target, ("127.0.0.2", 5066))

    def test_reinvite_without_ack(self) -> None:
        """Where the ACK never comes the call is left after 64*T1 (§14.2)."""
        self.world.ask(self.world.in_dialog("INVITE", SDP, body=OFFER))
        self.world.network.pass_time(33)
        self.assertEqual(self.world.last_words, [Ended("us", None, "BYE: 200")])
        self.quiet(self.world)

    def test_bye_instead_of_ack(self) -> None:
        """A BYE ends the repeats of a 2xx whose ACK never came."""
        self.world.ask(self.world.in_dialog("INVITE", SDP, body=OFFER))
        self.assertEqual(self.world.statuses(self.world.in_dialog("BYE")), [200])
        count = len(self.world.network.sent)
        self.world.network.pass_time(20)
        self.assertEqual(len(self.world.network.sent), count)
        self.world.network.pass_time(20)
        self.assertEqual(len(self.world.agent), 0)

    def test_ack_in_the_branch_of_the_invite(self) -> None:
        """An ACK that borrows the INVITE's branch is taken all the same."""
        reinvite = self.world.in_dialog("INVITE", SDP, body=OFFER, branch="z9hG4bKsame")
        self.world.ask(reinvite)
        ack = self.world.in_dialog("ACK", branch="z9hG4bKsame", cseq=reinvite.cseq.number)
        self.world.network.attach(THEM)(bytes(ack), US)
        self.world.network.pass_time(40)
        self.assertEqual(self.world.last_words, [])

    def test_reinvite_without_offer(self) -> None:
        """Without an offer we make one, and the answer that comes with the ACK is reported."""
        reinvite = self.world.in_dialog("INVITE")
        self.assertEqual(self.world.ask(reinvite)[0].body, ANSWER)
        self.assertEqual(self.offers, [b""])
        # While that offer is open no other is taken.
        self.assertEqual(self.world.statuses(self.world.in_dialog("INVITE", SDP, body=OFFER))[0], 491)
        self.assertEqual(self.world.statuses(self.world.in_dialog("UPDATE", SDP, body=OFFER)), [491])
        ack = self.world.in_dialog("ACK", SDP, body=OFFER, cseq=reinvite.cseq.number)
        self.world.network.attach(THEM)(bytes(ack), US)
        self.world.network.attach(THEM)(bytes(ack), US)
        self.world.network.pass_time(1)
        self.assertEqual(self.world.events[-1], LateAnswer(OFFER))
        self.assertEqual(sum(isinstance(event, LateAnswer) for event in self.world.events), 1)

    def test_lost_ack(self) -> None:
        """A second re-INVITE after an answered one that had no ACK yet is answered: the ACK was lost."""
        self.world.ask(self.world.in_dialog("INVITE", SDP, body=OFFER))
        self.assertEqual(self.world.statuses(self.world.in_dialog("INVITE", SDP, body=OFFER))[0], 200)

    def test_refused_offers(self) -> None:
        """An offer that the owner doesn't take is refused with 488, and the call goes on as it was."""
        self.answer = None
        for method in ("INVITE", "UPDATE"):
            refusal = self.world.ask(self.world.in_dialog(method, SDP, body=OFFER))[0]
            self.assertEqual((refusal.status, (refusal.get("Warning") or "")[:4]), (488, "305 "))
        self.assertEqual((self.session.state, self.world.last_words), ("confirmed", []))

    def test_update(self) -> None:
        """UPDATE is answered with an offer or without one, and its Contact is where we send then (RFC 3311 §5.2)."""
        answer = self.world.ask(self.world.in_dialog("UPDATE", SDP, CONTACT, body=OFFER))
        self.assertEqual([(response.status, response.body) for response in answer], [(200, ANSWER)])
        refresh = self.world.ask(self.world.in_dialog("UPDATE", CONTACT))
        self.assertEqual([(response.status, response.body) for response in refresh], [(200, b"")])
        self.assertEqual(self.offers, [OFFER])
        self.session.end()
        self.assertEqual(self.world.network.sent[-1].target, ("127.0.0.2", 5066))

    def test_other_methods(self) -> None:
        """OPTIONS and plain INFO are well; packages, unknown and unserved methods are refused each in its way."""
        for method, headers, status in (
            ("OPTIONS", (), 200),
            ("INFO", (), 200),
            ("INFO", (("Info-Package", "dtmf"),), 469),
            ("PRACK", (), 481),
            ("NOTIFY", (), 481),
            ("REFER", (), 405),
            ("MESSAGE", (), 405),
            ("DANCE", (), 501),
            ("OPTIONS", (("Require", "100rel"),), 200),
            ("OPTIONS", (("Require", "timer, dancing"),), 420),
        ):
            request = self.world.in_dialog(method, *headers)
            self.assertEqual(self.world.statuses(request), [status], method)
        self.assertEqual(self.world.last_words, [])

    def test_require_nothing(self) -> None:
        """A list of required extensions that has nothing in it, or too many commas, requires nothing more."""
        for value in ("", ",", "timer,", ", 100rel,,timer"):
            self.assertEqual(self.world.statuses(self.world.in_dialog("OPTIONS", ("Require", value))), [200], value)

    def test_unknown_bodies(self) -> None:
        """What may have an offer and has a body of another kind is refused with 415 (§8.2.3); INFO may have any."""
        text = ("Content-Type", "text/plain")
        for method, headers, status in (
            ("INVITE", (text,), 415),
            ("UPDATE", (text,), 415),
            ("UPDATE", (SDP, ("Content-Encoding", "gzip")), 415),
            ("UPDATE", (text, ("Content-Disposition", "render;handling=optional")), 200),
            ("INFO", (text,), 200),
        ):
            answer = self.world.ask(self.world.in_dialog(method, *headers, body=b"hello"))[0]
            self.assertEqual(answer.status, status, method)
            self.assertEqual(answer.get("Accept"), "application/sdp" if status == 415 else None)
        self.assertEqual((self.offers, self.world.last_words), ([], []))

    def test_out_of_order(self) -> None:
        """A request with a CSeq below the last is refused with 500."""
        self.world.in_dialog("INFO")
        self.world.statuses(self.world.in_dialog("INFO"))
        self.assertEqual(self.world.statuses(self.world.in_dialog("INFO", cseq=1)), [500])

    def test_repeated_request(self) -> None:
        """A repeat gets the same answer from the transaction, and the owner isn't asked again."""
        update = self.world.in_dialog("UPDATE", SDP, body=OFFER)
        self.world.ask(update)
        answers_to_both = self.world.ask(update)
        self.assertEqual(len({bytes(response) for response in answers_to_both}), 1)
        self.assertEqual((len(answers_to_both), len(self.offers)), (2, 1))

    def test_after_our_bye(self) -> None:
        """While our BYE is under way, and after it, only BYE makes sense."""
        update, bye = self.world.in_dialog("UPDATE"), self.world.in_dialog("BYE")
        late = self.world.in_dialog("BYE")
        self.world.network.rule = lambda datagram: [] if datagram.target == THEM else [0.01]
        self.session.end()
        self.assertEqual(self.world.statuses(update), [481])
        self.assertEqual(self.world.statuses(bye), [200])
        self.assertEqual(self.world.last_words, [Ended("us", None, "both said BYE")])
        self.assertEqual(self.world.statuses(late), [481])

    def test_cancel_of_reinvite(self) -> None:
        """A CANCEL for a re-INVITE comes too late by nature: 200, and nothing changes."""
        reinvite = self.world.in_dialog("INVITE", SDP, body=OFFER, branch="z9hG4bKr")
        self.world.ask(reinvite)
        cancel = self.world.in_dialog("CANCEL", branch="z9hG4bKr", cseq=reinvite.cseq.number)
        self.assertEqual(self.world.statuses(cancel), [200])
        self.assertEqual(self.session.state, "confirmed")

    def test_from_another_address(self) -> None:
        """Who knows both tags belongs to the call, wherever it sends from."""
        self.assertEqual(self.world.statuses(self.world.in_dialog("BYE"), ("127.0.0.8", 5060)), [200])
        self.assertEqual(len(self.world.last_words), 1)

    def test_reinvite_before_our_ack(self) -> None:
        """An offer before we have acknowledged the first answer has to wait."""
        world = World(answers)
        world.call(renegotiate=self.renegotiate)
        world.network.pass_time(1)
        self.assertEqual(world.statuses(world.in_dialog("INVITE", SDP, body=OFFER))[0], 491)


class EarlyTests(Case):
    def test_early_dialog(self) -> None:
        """Inside an early dialog offers wait, questions are answered, and a BYE ends the call."""
        world = World(lambda call: self.assertTrue(call.respond(180)))
        world.call()
        world.network.pass_time(1)
        invite, tag = world.calls[0].request, world.calls[0].tag

        def early(method: str, *headers: tuple[str, str], body: bytes = b"", of: str = tag) -> Request:
            request = outside(method)
            own = [pair for pair in request.headers if pair[0] not in ("From", "To", "Call-ID")]
            mine = [("From", f"<sip:them@x>;tag={of}"), ("To", invite.get("From") or ""), ("Call-ID", invite.call_id)]
            return Request(method, request.uri, [*own, *mine, *headers], body)

        for request, status in (
            (early("UPDATE", SDP, body=OFFER), 491),
            (early("UPDATE"), 200),
            (early("INVITE", SDP, body=OFFER), 491),
            (early("OPTIONS"), 200),
            (early("INFO"), 200),
            (early("PRACK"), 481),
            (early("BYE", of="stranger"), 481),
        ):
            self.assertEqual(world.statuses(request)[0], status, request.method)
        self.assertEqual(world.last_words, [])
        self.assertEqual(world.statuses(early("BYE")), [200])
        world.network.pass_time(1)
        self.assertEqual(world.last_words, [Refused(487, "Request Terminated")])


class OutsideTests(Case):
    def test_from_a_trunk(self) -> None:
        """A trunk is told what we do, and what not."""
        world = World()
        for request, status in (
            (outside("OPTIONS"), 200),
            (outside("INVITE"), 403),
            (outside("REGISTER"), 405),
            (outside("SUBSCRIBE"), 405),
            (outside("DANCE"), 501),
            (outside("BYE"), 481),
            (outside("CANCEL"), 481),
            (outside("INFO", to="<sip:x@y>;tag=old"), 481),
            (outside("INVITE", to="<sip:x@y>;tag=old"), 481),
            (outside("OPTIONS", ("Require", "dancing")), 420),
        ):
            answer = world.ask(request)
            self.assertEqual(answer[0].status, status, request.method)
            self.assertIsNotNone(answer[0].to.tag)
            if status in (200, 403, 405, 501):
                self.assertIn("BYE", answer[0].get("Allow") or "")
            if status == 200:
                self.assertEqual(answer[0].get("Accept"), "application/sdp")
            if status == 420:
                self.assertEqual(answer[0].get("Unsupported"), "dancing")
        self.assertEqual(world.statuses(outside("ACK")), [])
        world.network.pass_time(60)
        self.assertEqual((len(world.agent), world.clock.getDelayedCalls()), (0, []))

    def test_refused_invite(self) -> None:
        """The ACK to our refusal ends its repeats."""
        world = World()
        invite = outside("INVITE")
        world.ask(invite)
        ack = Request("ACK", invite.uri, [pair for pair in invite.headers if pair[0] != "CSeq"] + [("CSeq", "1 ACK")])
        world.network.attach(THEM)(bytes(ack), US)
        world.network.pass_time(40)
        self.assertEqual(world.network.labels.count("403 INVITE"), 2)
        self.quiet(world)

    def test_strangers(self) -> None:
        """Who is no trunk and in no call of ours hears nothing, whatever it sends."""
        world = World()
        send, heard = world.stranger()
        for method in ("OPTIONS", "INVITE", "REGISTER", "BYE", "CANCEL", "ACK", "DANCE"):
            send(bytes(outside(method)), US)
        send(b"INVITE sip:x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n\r\n", US)
        send(bytes(response_to(outside("INVITE"), 200)), US)
        world.network.pass_time(40)
        self.assertEqual((heard, len(world.agent)), ([], 0))

    def test_unreadable(self) -> None:
        """A trunk's request that can't be read is answered with what is wrong, where that is possible."""
        world = World()
        request = bytes(outside("OPTIONS"))
        world.network.attach(THEM)(request.replace(b"CSeq: 1 OPTIONS", b"CSeq: 1 INVITE"), US)
        world.network.attach(THEM)(request.replace(b"SIP/2.0\r\nVia", b"SIP/3.0\r\nVia"), US)
        world.network.attach(THEM)(request.replace(b"Via", b"Sofa"), US)
        world.network.attach(THEM)(b"rubbish", US)
        world.network.attach(THEM)(b"\r\n\r\n", US)
        world.network.pass_time(1)
        self.assertEqual([sent.start_line[:11] for sent in world.network.sent[5:]], ["SIP/2.0 400", "SIP/2.0 505"])

    def test_rport(self) -> None:
        """Answers go to the source's address, to its port where rport asks so, else to the Via's."""
        world = World()
        plain = outside("OPTIONS")
        asking = Request("OPTIONS", plain.uri, [("Via", "SIP/2.0/UDP 10.1.1.1:7000;branch=z9hG4bKq;rport")])
        asking.headers += [pair for pair in plain.headers if pair[0] != "Via"]
        forged = Request("OPTIONS", plain.uri, [("Via", "SIP/2.0/UDP 10.1.1.1:7000;branch=z9hG4bKr")])
        forged.headers += asking.headers[1:]
        world.network.attach((THEM[0], 40000))(bytes(asking), US)
        world.network.attach((THEM[0], 40000))(bytes(forged), US)
        world.network.pass_time(1)
        first, second = world.network.sent[-2:]
        self.assertEqual((first.target, second.target), ((THEM[0], 40000), (THEM[0], 7000)))
        self.assertIn(b";rport=40000;received=127.0.0.2", first.data)
        self.assertIn(b";received=127.0.0.2", second.data)

    def test_response_with_two_vias(self) -> None:
        """A response that was meant for somebody behind us is dropped (§8.1.3.3)."""
        world = World(lambda call: call.stay_silent())
        world.call()
        world.network.pass_time(0.1)
        response = response_to(world.calls[0].request, 486)
        response.headers.append(("Via", "SIP/2.0/UDP 10.1.1.1;branch=z9hG4bKother"))
        world.agent.datagram_received(bytes(response), THEM)
        self.assertEqual(world.events, [])


def rings(call: IncomingCall) -> None:
    call.respond(180)


def refuses(call: IncomingCall) -> None:
    call.respond(486)


def is_silent(call: IncomingCall) -> None:
    call.stay_silent()


PLAYS = (rings, refuses, answers, is_silent)


def mangled(chance: random.Random, data: bytes) -> bytes:
    "The same datagram with some of its octets changed, lost or doubled."
    octets = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(octets))
        kind = chance.randrange(3)
        if kind == 0:
            octets[at] = chance.randrange(256)
        elif kind == 1:
            del octets[at + 1 : at + chance.randrange(1, 30)]
        else:
            octets[at:at] = octets[chance.randrange(len(octets)) :][: chance.randrange(1, 60)]
    return bytes(octets)


class FuzzTests(Case):
    def test_mangled_datagrams(self) -> None:
        """Whatever arrives in the middle of whatever flow, nothing is raised, and the call still has its one end."""
        chance = random.Random(3261)
        for round_ in range(120):
            world = World(PLAYS[round_ % len(PLAYS)])
            session = world.call(renegotiate=lambda offer: ANSWER)
            world.clock.callLater(2, session.end)
            for _ in range(12):
                world.network.pass_time(0.3)
                for sent in world.network.sent[-6:]:
                    octets = mangled(chance, sent.data)
                    world.agent.datagram_received(octets, THEM)
                    world.callee.datagram_received(octets, US)
            session.end()
            for call in world.calls:
                call.drop()
                call.bye()
            world.network.pass_time(120)
            self.assertEqual(len(world.last_words), 1, world.network.ladder())
            self.assertEqual((len(world.agent), len(world.callee)), (0, 0), world.network.ladder())
