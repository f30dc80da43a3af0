"""The callee's side: what it does by itself, and what its owner may make it do."""

from __future__ import annotations

from calledind.sip.message import Request, parse
from calledind.sip.transactions import new_branch
from calledind.sip.uas import Acked, ByeReceived, Cancelled, Gone, IncomingCall
from tests.sip.parties import ANSWER, OFFER, THEM, US, World, outside
from tests.sip.test_useragent import Case, answers, rings


class UasTests(Case):
    def test_offer(self) -> None:
        """The owner finds the offer and the request; 100 leaves by itself where it says nothing."""
        world = World()
        world.call()
        world.network.pass_time(1)
        call = world.calls[0]
        self.assertEqual((call.offer, call.request.request_uri.user), (OFFER, "+12125550100"))
        self.assertEqual(world.network.labels, ["INVITE", "100 INVITE"])
        call.drop()
        self.assertEqual(world.heard, [Gone("never answered")])
        call.drop()
        self.assertEqual(len(world.callee), 0)

    def test_late_responses(self) -> None:
        """After a final response another one is not sent, and `respond` says so."""
        world = World()
        session = world.call()
        world.network.pass_time(0.1)
        call = world.calls[0]
        sent = [call.respond(status) for status in (180, 200, 200, 486, 180)]
        self.assertEqual(sent, [True, True, False, False, False])
        world.network.pass_time(1)
        session.end()
        self.quiet(world)
        refused = World(lambda call: self.assertTrue(call.respond(486)))
        refused.call()
        refused.network.pass_time(1)
        self.assertFalse(refused.calls[0].respond(200))
        self.assertEqual(refused.heard, [Gone("refused")])

    def test_success_is_repeated(self) -> None:
        """Without an ACK the 2xx is repeated for 64*T1, then BYE follows."""
        world = World(answers)
        world.call()
        world.network.pass_time(31.9)
        self.assertEqual(world.network.labels.count("200 INVITE"), 11)
        world.network.pass_time(1)
        self.assertEqual(world.heard, [Gone("BYE: 200")])
        self.quiet(world)

    def test_bye_waits_for_the_ack(self) -> None:
        """A callee may not leave before the ACK (§15): its BYE waits."""
        world = World(answers)
        session = world.call()
        world.network.pass_time(1)
        world.calls[0].bye("Q.850;cause=16")
        world.network.pass_time(1)
        self.assertNotIn("BYE", world.network.labels)
        session.acknowledge()
        world.network.pass_time(1)
        self.assertEqual(world.network.labels[-2:], ["BYE", "200 BYE"])
        self.assertEqual(world.heard, [Acked(b"", world.calls[0].tag), Gone("BYE: 200")])

    def test_reinvite(self) -> None:
        """An offer of the callee's is answered, acknowledged, and told to its owner, each once."""
        world = World(answers)
        world.answered(renegotiate=lambda offer: OFFER)
        told: list[tuple[int, bytes]] = []
        call = world.calls[0]
        self.assertTrue(call.is_answered)
        call.reinvite(ANSWER, lambda status, sdp: told.append((status, sdp)))
        self.assertRaises(RuntimeError, call.reinvite, ANSWER, lambda status, sdp: None)
        world.network.pass_time(5)
        self.assertEqual(told, [(200, OFFER)])
        self.assertEqual(world.network.labels[-3:], ["INVITE", "200 INVITE", "ACK"])

    def test_refused_reinvite(self) -> None:
        """An offer that is refused leaves the call as it was; one that is never answered ends it (§12.2.1.2)."""
        world = World(answers)
        world.answered()
        told: list[int] = []
        world.calls[0].reinvite(ANSWER, lambda status, sdp: told.append(status))
        world.network.pass_time(5)
        world.network.rule = lambda datagram: []
        world.calls[0].reinvite(ANSWER, lambda status, sdp: told.append(status))
        world.network.pass_time(33)
        self.assertEqual(told, [488, 408])
        self.assertFalse(world.calls[0].is_answered)
        self.assertEqual(world.network.labels[-1], "BYE")

    def test_ack_in_the_branch_of_the_invite(self) -> None:
        """An ACK that borrows the INVITE's branch is taken, of whichever leg it is; ICMP is no news to a callee."""
        world = World(answers)
        world.call()
        world.network.pass_time(1)
        invite = world.calls[0].request
        for tag in ("nobody's", world.calls[0].tag):
            headers = [pair for pair in invite.headers if pair[0] in ("Via", "From", "Call-ID")]
            headers += [("To", f"{invite.get('To')};tag={tag}"), ("CSeq", "1 ACK")]
            world.callee.datagram_received(bytes(Request("ACK", invite.uri, headers)), US)
        world.callee.transport_failed(US)
        self.assertTrue(world.calls[0].is_answered)

    def test_two_answers_that_wait(self) -> None:
        """Of two 2xx that wait for the same PRACK the second is one too many."""
        world = World(lambda call: self.assertTrue(call.respond(183, reliable=True)))
        session = world.call()
        world.network.pass_time(0.015)
        self.assertTrue(world.calls[0].respond(200) and world.calls[0].respond(200))
        world.network.pass_time(1)
        self.assertEqual(world.network.labels.count("200 INVITE"), 2)
        session.end()
        world.network.pass_time(40)
        self.assertEqual((len(world.agent), len(world.callee)), (0, 0))

    def test_reinvite_too_early(self) -> None:
        """There is nothing to offer in before the answer and its ACK."""
        world = World(rings)
        world.call()
        world.network.pass_time(1)
        self.assertRaises(RuntimeError, world.calls[0].reinvite, ANSWER, lambda status, sdp: None)

    def test_routes(self) -> None:
        """Record-Route goes back in what makes a dialog, so that both sides have the same way."""
        world = World(answers)
        invite = outside("INVITE", ("Record-Route", "<sip:127.0.0.7:5099;lr>"), ("Contact", "<sip:127.0.0.1>"))
        world.callee.datagram_received(bytes(invite), US)
        response = parse(world.network.sent[-1].data)
        self.assertEqual(response.get("Record-Route"), "<sip:127.0.0.7:5099;lr>")
        dialog = world.callee.dialogs[0]
        self.assertEqual(dialog.next_hop, ("127.0.0.7", 5099))

    def test_bye_in_an_early_dialog(self) -> None:
        """A caller may leave an early dialog by BYE (§15): the INVITE gets 487."""
        world = World(rings)
        world.call()
        world.network.pass_time(1)
        call = world.calls[0]
        invite = call.request
        headers = [
            ("Via", f"SIP/2.0/UDP 127.0.0.1:5060;branch={new_branch()}"),
            ("From", invite.get("From") or ""),
            ("To", f"{invite.get('To')};tag={call.tag}"),
            ("Call-ID", invite.call_id),
            ("CSeq", "2 BYE"),
        ]
        world.callee.datagram_received(bytes(Request("BYE", "sip:127.0.0.2", headers)), US)
        world.network.pass_time(1)
        self.assertEqual(world.heard, [Cancelled(), Gone("refused")])
        self.quiet(world)

    def test_outside(self) -> None:
        """What is no INVITE is answered as anybody would; an extension that isn't there is refused."""
        world = World()
        for request in (
            outside("OPTIONS"),
            outside("BYE"),
            outside("CANCEL"),
            outside("INVITE", ("Require", "x")),
            outside("INVITE", to="<sip:x@y>;tag=old"),
            outside("ACK"),
        ):
            world.network.attach(US)(bytes(request), THEM)
        world.network.pass_time(0.1)
        statuses = [label for label in world.network.labels if label[0].isdigit()]
        self.assertEqual(statuses, ["200 OPTIONS", "481 BYE", "481 CANCEL", "420 INVITE", "481 INVITE"])
        self.assertEqual(world.calls, [])

    def test_merged(self) -> None:
        """The same INVITE by another way (another branch) is refused with 482; the call that it makes goes on."""
        world = World(answers)
        session = world.answered()
        invite = world.calls[0].request
        headers = [("Via", f"SIP/2.0/UDP 127.0.0.9;branch={new_branch()}"), *invite.headers[1:]]
        send, received = world.stranger()
        send(bytes(Request("INVITE", invite.uri, headers, invite.body)), THEM)
        world.network.pass_time(0.1)
        self.assertEqual([data[:11] for data in received], [b"SIP/2.0 482"])
        self.assertEqual(len(world.calls), 1)
        session.end()
        self.quiet(world)

    def test_renegotiation(self) -> None:
        """The caller's offers go to the owner, who needn't take them."""
        world = World(answers)
        world.answered()
        invite = world.calls[0].request
        for number, renegotiate, status in ((7, None, 488), (8, lambda offer: ANSWER, 200)):
            world.calls[0].renegotiate = renegotiate
            headers = [
                ("Via", f"SIP/2.0/UDP 127.0.0.1:5060;branch={new_branch()}"),
                ("From", invite.get("From") or ""),
                ("To", f"{invite.get('To')};tag={world.calls[0].tag}"),
                ("Call-ID", invite.call_id),
                ("CSeq", f"{number} UPDATE"),
                ("Content-Type", "application/sdp"),
            ]
            world.callee.datagram_received(bytes(Request("UPDATE", "sip:127.0.0.2", headers, OFFER)), US)
            self.assertEqual(world.network.labels[-1], f"{status} UPDATE")

    def test_one_leg_of_two(self) -> None:
        """A call with two legs is gone when the last is."""
        world = World()

        def play(call: IncomingCall) -> None:
            call.respond(200, sdp=ANSWER, to_tag="a")
            call.respond(200, sdp=ANSWER, to_tag="b")

        world.play = play
        session = world.answered()
        self.assertIn(ByeReceived(None, "b"), world.heard)
        self.assertNotIn("Gone", str(world.heard))
        session.end()
        world.network.pass_time(1)
        self.assertEqual(world.heard[-1], Gone("BYE"))
        self.quiet(world)
