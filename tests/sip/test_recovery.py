"""A new process ends what the one before had begun, from what was kept on disk."""

from __future__ import annotations

import re
from collections.abc import Callable

from calledind.sip.auth import Credentials
from calledind.sip.events import Answered
from calledind.sip.message import Request, parse, response_to
from calledind.sip.uas import Acked, ByeReceived, Cancelled, IncomingCall
from calledind.sip.useragent import InviteSession, UserAgent
from tests.sip.network import Datagram
from tests.sip.parties import ANSWER, THEM, US, World, invitation
from tests.sip.test_useragent import Case, answers, rings


class RecoveryTests(Case):
    def restart(self, world: World) -> UserAgent:
        "Kill our side, and start it anew."
        world.agent = world.new_agent()
        self.finished: list[float] = []
        return world.agent

    def done(self, world: World) -> Callable[[], None]:
        return lambda: self.finished.append(world.clock.seconds())

    def quiet_now(self, world: World) -> None:
        world.network.pass_time(100)
        self.assertEqual(world.clock.getDelayedCalls(), [])
        self.assertEqual((len(world.agent), len(world.callee)), (0, 0), world.network.ladder())
        self.assertEqual(len(self.finished), 1)

    def begun(self, play: Callable[[IncomingCall], None], **changes: object) -> tuple[World, InviteSession]:
        world = World(play)
        return world, world.call(**changes)

    def test_ringing(self) -> None:
        """What rings is cancelled by one CANCEL, its 487 acknowledged, and that is all soon after."""
        world, session = self.begun(rings)
        world.network.pass_time(2)
        self.restart(world).recover_invitation(session.snapshot, self.done(world))
        world.network.pass_time(1)
        self.assertEqual(world.heard[0], Cancelled())
        for label in ("CANCEL", "200 CANCEL", "487 INVITE", "ACK"):
            self.assertIn(label, world.network.labels[2:])
        self.assertEqual(len(self.finished), 1)
        self.quiet_now(world)
        self.assertEqual(world.network.labels.count("CANCEL"), 1)

    def test_route(self) -> None:
        """INVITE, CANCEL and ACK have the same Route, after a restart as well."""
        route = ("<sip:edge.example.com;lr>", "<sip:core.example.com;lr>")
        world, session = self.begun(rings, route=route)
        world.network.pass_time(2)
        self.restart(world).recover_invitation(session.snapshot, self.done(world))
        world.network.pass_time(1)
        sent = [parse(datagram.data) for datagram in world.network.sent]
        requests = [message for message in sent if isinstance(message, Request)]
        self.assertEqual({request.method for request in requests}, {"INVITE", "CANCEL", "ACK"})
        self.assertEqual({tuple(request.all("Route")) for request in requests}, {route})
        self.quiet_now(world)

    def test_answered_in_between(self) -> None:
        """Whoever picks up while nobody is there repeats the 2xx, and gets ACK and BYE."""
        world, session = self.begun(rings)
        world.network.pass_time(2)
        agent = self.restart(world)
        world.network.listen(US, lambda data, source: None)
        world.calls[0].respond(200)
        world.network.pass_time(2)
        world.network.listen(US, agent.datagram_received)
        agent.recover_invitation(session.snapshot, self.done(world))
        world.network.pass_time(5)
        tag = world.calls[0].tag
        self.assertEqual(world.heard[:2], [Acked(b"", tag), ByeReceived(None, tag)])
        self.assertEqual(len(self.finished), 1)
        self.quiet_now(world)

    def test_never_sent(self) -> None:
        """Where the INVITE never left, the CANCELs find nothing, and no more than two T2 are waited."""
        world = World()
        session = world.agent.prepare(invitation(credentials=Credentials("me", "secret")))
        self.restart(world).recover_invitation(session.snapshot, self.done(world))
        world.network.pass_time(9)
        self.assertEqual(world.network.labels, ["CANCEL", "481 CANCEL"] * 5)
        self.assertEqual(len(self.finished), 1)
        self.quiet_now(world)

    def test_second_try(self) -> None:
        """The INVITE that was repeated with credentials has a branch that can be worked out."""

        def play(call: IncomingCall) -> None:
            if call.request.get("Authorization"):
                call.respond(180)
            else:
                call.respond(401, headers=[("WWW-Authenticate", 'Digest realm="r", nonce="n"')])

        world, session = self.begun(play, credentials=Credentials("me", "secret"))
        world.network.pass_time(2)
        self.restart(world).recover_invitation(session.snapshot, self.done(world))
        world.network.pass_time(1)
        self.assertIn(Cancelled(), world.heard)
        self.quiet_now(world)

    def test_silence(self) -> None:
        """A proxy that says nothing to the CANCEL of an INVITE that it challenged is asked for the next one 2 s later;
        what it says after that changes nothing."""

        def play(call: IncomingCall) -> None:
            if call.request.get("Authorization"):
                call.respond(180)
            else:
                call.respond(401, headers=[("WWW-Authenticate", 'Digest realm="r", nonce="n"')])

        def slow(datagram: Datagram) -> list[float]:
            return [2.5 if datagram.label.endswith(" CANCEL") and b".1;" in datagram.data else 0.01]

        world, session = self.begun(play, credentials=Credentials("me", "secret"))
        world.network.pass_time(2)
        world.network.rule = slow
        self.restart(world).recover_invitation(session.snapshot, self.done(world))
        world.network.pass_time(1.9)
        self.assertNotIn(Cancelled(), world.heard)
        world.network.pass_time(0.3)
        self.assertIn(Cancelled(), world.heard)
        self.assertEqual(len(self.finished), 1)
        self.quiet_now(world)
        cancels = [sent.data for sent in world.network.sent if sent.label == "CANCEL"]
        branches = {re.search(rb"branch=(\S+\.\d+)", data)[1][-2:] for data in cancels}  # type: ignore[index]
        self.assertEqual(branches, {b".1", b".2"})

    def test_redirected(self) -> None:
        """What is cancelled of a call that was redirected is the INVITE that was kept last."""

        def play(call: IncomingCall) -> None:
            if call.request.uri.startswith("sip:on@"):
                call.respond(180)
            else:
                call.respond(302)

        world, first = self.begun(play)
        world.network.pass_time(1)
        session = world.agent.prepare(first.redirected("sip:on@127.0.0.2", THEM))
        session.send(world.events.append)
        world.network.pass_time(1)
        self.restart(world).recover_invitation(session.snapshot, self.done(world))
        world.network.pass_time(1)
        self.assertIn(Cancelled(), world.heard)
        cancel = parse(next(sent.data for sent in world.network.sent if sent.label == "CANCEL"))
        assert isinstance(cancel, Request)
        self.assertEqual((cancel.uri, cancel.cseq.number), ("sip:on@127.0.0.2", 2))
        self.quiet_now(world)

    def test_after_requests_that_were_not_kept(self) -> None:
        """The BYE's CSeq is higher than that of anything that the process before may have sent."""
        world = World(lambda call: self.assertTrue(call.respond(183, sdp=ANSWER, reliable=True) and call.respond(200)))
        session = world.call()
        world.network.pass_time(1)
        self.restart(world).recover_invitation(session.snapshot, self.done(world))
        world.network.pass_time(1)
        bye = parse(next(sent.data for sent in world.network.sent if sent.label == "BYE"))
        assert isinstance(bye, Request)
        self.assertGreater(bye.cseq.number, 100)
        self.quiet_now(world)

    def test_nobody_there(self) -> None:
        """Where nobody answers, it is over after 64*T1."""
        world, session = self.begun(rings)
        agent = self.restart(world)
        world.network.rule = lambda datagram: []
        agent.recover_invitation(session.snapshot, self.done(world))
        world.network.pass_time(32.1)
        self.assertEqual(len(self.finished), 1)
        world.network.pass_time(32)
        self.assertEqual((len(agent), len(self.finished)), (0, 1))

    def test_talking(self) -> None:
        """A kept dialog gets ACK, BYE, and the end of the BYE is the end."""
        world = World(answers)
        world.answered()
        kept = next(event.dialog for event in world.events if isinstance(event, Answered))
        self.restart(world).recover_dialog(kept, self.done(world))
        world.network.pass_time(1)
        self.assertEqual(world.heard[1], ByeReceived(None, world.calls[0].tag))
        self.assertEqual(len(self.finished), 1)
        self.quiet_now(world)

    def test_talking_without_ack(self) -> None:
        """Where the process died before its ACK, and the new one's is lost, the repeated 2xx gets another."""
        world = World(answers)
        world.call()
        world.network.pass_time(1)
        kept = next(event.dialog for event in world.events if isinstance(event, Answered))
        agent = self.restart(world)
        lost: list[Datagram] = []

        def rule(datagram: Datagram) -> list[float]:
            if datagram.label == "ACK" and not lost:
                lost.append(datagram)
                return []
            return [0.01] if datagram.label != "BYE" else []

        world.network.rule = rule
        agent.recover_dialog(kept, self.done(world))
        world.network.pass_time(5)
        self.assertIn(Acked(b"", world.calls[0].tag), world.heard)
        world.network.rule = lambda datagram: [0.01]
        self.quiet_now(world)

    def test_answered_twice(self) -> None:
        """Where a late 2xx comes to more than one of its INVITEs, each is left, and the end is that of the last BYE."""

        def play(call: IncomingCall) -> None:
            if call.request.get("Authorization") is None:
                call.respond(401, headers=[("WWW-Authenticate", 'Digest realm="r", nonce="n"')])

        world, session = self.begun(play, credentials=Credentials("me", "secret"))
        world.network.pass_time(1)
        self.restart(world).recover_invitation(session.snapshot, self.done(world))
        world.network.rule = lambda datagram: []
        for number in (0, 1, 0):
            late = response_to(world.calls[number].request, 200, to_tag=f"{number}")
            world.agent.datagram_received(bytes(late), THEM)
        byes = [parse(sent.data) for sent in world.network.sent if sent.label == "BYE"]
        self.assertEqual((len(byes), self.finished), (2, []))
        for bye in byes:
            assert isinstance(bye, Request)
            self.assertEqual(self.finished, [])
            world.agent.datagram_received(bytes(response_to(bye, 200)), THEM)
        self.assertEqual(len(self.finished), 1)
        for call in world.calls:
            call.drop()
        self.quiet_now(world)

    def test_answered_late(self) -> None:
        """A BYE that is still under way when nobody listens any more ends by itself."""
        world, session = self.begun(rings)
        world.network.pass_time(1)
        self.restart(world).recover_invitation(session.snapshot, self.done(world))
        world.network.rule = lambda datagram: []
        world.network.pass_time(31)
        world.agent.datagram_received(bytes(response_to(world.calls[0].request, 200, to_tag="x")), THEM)
        world.network.pass_time(2)
        self.assertEqual(self.finished, [])
        world.calls[0].drop()
        self.quiet_now(world)

    def test_others_responses(self) -> None:
        """What comes to the INVITE of a dialog that is being left, and isn't its 2xx, is let be."""
        world = World(answers)
        world.answered()
        kept = next(event.dialog for event in world.events if isinstance(event, Answered))
        agent = self.restart(world)
        world.network.rule = lambda datagram: []
        agent.recover_dialog(kept, self.done(world))
        count = len(world.network.sent)
        for status, tag in ((180, world.calls[0].tag), (200, "other"), (200, world.calls[0].tag)):
            agent.datagram_received(bytes(response_to(world.calls[0].request, status, to_tag=tag)), THEM)
        self.assertEqual(world.network.labels[count:], ["ACK"])
        world.network.rule = lambda datagram: [0.01]
        self.quiet_now(world)

    def test_rubbish(self) -> None:
        """What isn't a snapshot is a ValueError."""
        world = World()
        for text in ("", "{}", "[]", "null", '{"target": []}'):
            self.assertRaises(ValueError, world.agent.recover_invitation, text, lambda: None)
            self.assertRaises(ValueError, world.agent.recover_dialog, text, lambda: None)
