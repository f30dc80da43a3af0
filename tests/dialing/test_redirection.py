"""3xx: which are followed, and how the further INVITE is committed before it leaves."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from calledind.dialing.redirection import Redirections
from calledind.model import Cause
from calledind.net.media import Lost
from calledind.sip.target import Target, transport_of
from calledind.sip.useragent import Refused
from tests.dialing.test_call import MOVED, TERMINATED, answered, calling, redirecting
from tests.dialing.world import TARGET, World, make_trunk

URI = "sip:+12125550100@a.example"


class RedirectionsTests(SynchronousTestCase):
    def follow(self, *contacts: str, status: int = 302, **settings: Any) -> object:
        return Redirections(make_trunk(**settings), URI).follow(status, contacts, TARGET)

    def test_followed(self) -> None:
        """A Contact at the trunk's name or at the address that was asked is followed, the first one of them."""
        self.assertEqual(self.follow("sip:1@a.example"), ("sip:1@a.example", TARGET))
        self.assertEqual(self.follow("sip:1@A.example:5070"), ("sip:1@A.example:5070", (TARGET[0], 5070)))
        self.assertEqual(self.follow(f"sip:1@{TARGET[0]}"), (f"sip:1@{TARGET[0]}", TARGET))
        self.assertEqual(self.follow("sip:1@b.example", "sip:2@a.example"), ("sip:2@a.example", TARGET))
        self.assertEqual(
            self.follow("sip:1;rn=2@a.example;user=phone;method=BYE?Subject=x"),
            ("sip:1;rn=2@a.example;user=phone", TARGET),
        )

    def test_not_followed(self) -> None:
        """Others' addresses, other schemes, what can't be read, what was asked already, and other statuses are not."""
        for contact in ("sip:1@b.example", "tel:+1212", "sips:1@a.example", "sip:a.example", "nonsense", URI):
            self.assertIsNone(self.follow(contact), contact)
        for status in (305, 380, 399):
            self.assertIsNone(self.follow("sip:1@a.example", status=status))
        self.assertIsNone(self.follow("sip:1@a.example", follow_redirects=0))

    def test_transport(self) -> None:
        """What goes by TCP, or to a proxy, goes on doing so."""
        target = Target(*TARGET, "tcp", "a")
        found = Redirections(make_trunk(), URI).follow(302, ["sip:1@a.example:5070"], target)
        assert found is not None
        self.assertEqual((transport_of(found[1]), found[1][1]), ("tcp", 5070))
        self.assertEqual(
            self.follow("sip:1@a.example:5070", outbound_proxy="192.0.2.1"), ("sip:1@a.example:5070", TARGET)
        )
        self.assertEqual(
            Redirections(make_trunk(sips=True), URI).follow(302, ["sips:1@a.example"], target),
            ("sips:1@a.example", target),
        )

    def test_limit(self) -> None:
        """No more often than the trunk's setting says, and never to the same URI twice."""
        redirections = Redirections(make_trunk(follow_redirects=2), URI)
        found = [redirections.follow(302, [f"sip:{n}@a.example"], TARGET) for n in (1, 1, 2, 3)]
        self.assertEqual([each is not None for each in found], [True, False, True, False])


class RedirectedCallTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_committed_before_it_leaves(self) -> None:
        """The further INVITE is an attempt with the next number in the store before it leaves; then all is as usual."""
        call = redirecting(self.world)
        self.assertEqual([session.log for session in self.world.user_agent.sessions], [["send"], []])
        self.assertEqual(self.world.store.log[-1], ("begin_dialing", call.attempt.call.id, 2, "a"))
        self.world.store.holding = False
        self.world.store.release()
        self.assertEqual((self.world.session.log, call.state, call.attempt.number), (["send"], "calling", 2))
        invitation = self.world.session.invitation
        self.assertEqual(invitation.request_uri, "sip:+12125550100;rn=+1646@a.example")
        self.assertEqual(invitation.cseq, 2)
        call.hear(answered())
        self.assertEqual(call.state, "streaming")

    def test_not_followed(self) -> None:
        """A 3xx that leads elsewhere is a refusal."""
        call = calling(self.world).hear(Refused(302, "Moved", contacts=("sip:1@b.example",)))
        self.assertEqual((call.told, call.endings[0].sip_status), (["ended", "released"], 302))

    def test_store(self) -> None:
        """A store that is away, or has the call elsewhere, ends it with the 3xx: nothing more leaves."""
        for away in (True, False):
            world = World()
            call = calling(world)
            world.store.away, world.store.ours = away, False
            call.hear(MOVED)
            self.assertEqual([session.log for session in world.user_agent.sessions], [["send"], []])
            self.assertEqual((call.told, call.endings[0].sip_status), (["ended", "released"], 302))
            self.assertEqual(call.attempt.number, 1)

    def test_ended_meanwhile(self) -> None:
        """A hang-up, our ring timer and lost media while it is committed: the further INVITE never leaves."""
        for what, cause in (("hang up", Cause.HUNG_UP), ("time", Cause.RING_TIMEOUT), ("media", Cause.FINAL_RESPONSE)):
            world = World()
            call = redirecting(world)
            if what == "hang up":
                call.attempt.hang_up()
            elif what == "time":
                world.clock.advance(60)
            else:
                call.media.report(Lost("gone"))
            world.store.release()
            self.assertEqual(world.session.log, [], what)
            self.assertEqual((call.told, call.endings[0].cause), (["ended", "released"], cause))

    def test_ring_timeout(self) -> None:
        """The ring timer goes on from the first INVITE."""
        call = calling(self.world)
        self.world.clock.advance(30)
        call.hear(MOVED)
        self.world.clock.advance(16)
        self.assertEqual((call.state, self.world.session.log), ("cancelling", ["send", "end"]))
        call.hear(TERMINATED)
        self.assertIs(call.endings[0].cause, Cause.RING_TIMEOUT)
