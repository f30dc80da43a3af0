"""A flood of requests that change nothing: each is answered, few are remembered, no call is harmed."""

from __future__ import annotations

from calledind.sip import transactions
from calledind.sip.message import Request, parse
from tests.sip.parties import ANSWER, OFFER, QUIET, THEM, US, World, outside
from tests.sip.test_requests import CONTACT, SDP
from tests.sip.test_useragent import Case, answers

ROOM = 64 * 1024
"Octets, fewer than usual: for less than twenty requests."
MANY = ROOM // transactions.TRANSACTION + 1
"More than there is room for."


def again(request: Request, method: str) -> Request:
    "The ACK or CANCEL of an INVITE."
    kept = [pair for pair in request.headers if pair[0] != "CSeq"]
    return Request(method, request.uri, [*kept, ("CSeq", f"1 {method}")])


class FloodTests(Case):
    def setUp(self) -> None:
        self.patch(transactions, "MOST_DISMISSED", ROOM)
        self.world = World(answers)

    def flood(self, method: str = "INVITE", uri: str = "sip:calledin@127.0.0.1") -> None:
        """Send more from a trunk's address than there is room for; all are answered at once."""
        before = len(self.world.network.sent)
        for _ in range(MANY):
            self.world.agent.datagram_received(bytes(outside(method, uri=uri)), THEM)
        self.assertEqual(len(self.world.network.sent) - before, MANY)
        del self.world.network.sent[before:]

    def test_bounded(self) -> None:
        """Of a flood some transactions stay, for as long as they must; then there is room for others."""
        for method in ("INVITE", "OPTIONS", "BYE", "CANCEL", "DANCE"):
            self.flood(method)
            self.assertIn(len(self.world.agent), range(14, 20))
        self.quiet(self.world)
        self.flood()
        self.assertIn(len(self.world.agent), range(14, 20))

    def test_size_counts(self) -> None:
        """The longer the requests are, the fewer are remembered, whatever it is that makes them long."""
        self.flood("BYE", uri="sip:" + "a" * 20000)
        self.assertEqual(len(self.world.agent), 2)
        world = World()
        for _ in range(MANY):
            world.agent.datagram_received(bytes(outside("OPTIONS", to=f"<sip:{'a' * 10000}@127.0.0.1>")), THEM)
        self.assertEqual(len(world.agent), 2)

    def test_repeats(self) -> None:
        """Without a transaction the words are the same each time, and the tag that of the CANCEL's response."""
        self.flood()
        count = len(self.world.agent)
        invite = outside("INVITE")
        first, second = self.world.ask(invite)[0], self.world.ask(invite)[-1]
        self.assertEqual((first.status, bytes(first)), (403, bytes(second)))
        self.world.network.attach(THEM)(bytes(again(invite, "ACK")), US)
        cancelled = self.world.ask(again(invite, "CANCEL"))
        self.assertEqual([(each.status, each.to.tag) for each in cancelled], [(481, first.to.tag)])
        self.assertNotEqual(self.world.ask(outside("INVITE"))[0].to.tag, first.to.tag)
        self.assertEqual(len(self.world.agent), count)

    def test_damaged(self) -> None:
        """A request that can't be read, which has no transaction either, gets the same words each time."""
        damaged = bytes(outside("OPTIONS")).replace(b"1 OPTIONS", b"1 INVITE")
        for _ in range(2):
            self.world.agent.datagram_received(damaged, THEM)
        first, second = (datagram.data for datagram in self.world.network.sent)
        self.assertEqual(first, second)
        self.assertTrue(first.startswith(b"SIP/2.0 400 "))

    def test_calls_are_unharmed(self) -> None:
        """Requests of a call have transactions however many others there are: nothing is served twice."""
        offers: list[bytes] = []

        def renegotiate(offer: bytes) -> bytes:
            offers.append(offer)
            return ANSWER

        session = self.world.answered(renegotiate=renegotiate)
        self.flood()
        reinvite = self.world.in_dialog("INVITE", SDP, CONTACT, body=OFFER)
        self.world.ask(reinvite)
        self.flood("OPTIONS")
        self.assertEqual({each.status for each in self.world.ask(reinvite)}, {200})
        self.assertEqual(len(offers), 1)
        ack = self.world.in_dialog("ACK", cseq=reinvite.cseq.number)
        self.world.network.attach(THEM)(bytes(ack), US)
        bye = self.world.in_dialog("BYE")
        self.assertEqual(self.world.statuses(bye), [200])
        self.flood()
        self.assertEqual(self.world.statuses(bye), [200, 200])
        self.assertEqual((session.state, len(self.world.last_words)), ("over", 1))
        self.world.network.pass_time(QUIET)
        self.assertEqual(len(self.world.agent), 0)

    def test_inside_a_call(self) -> None:
        """What comes in a call and changes nothing about it is bounded as well, and the call goes on."""
        session = self.world.answered(renegotiate=lambda offer: None)
        before = len(self.world.agent)
        for method, headers, status in (
            ("OPTIONS", (), b"200"),
            ("INFO", (), b"200"),
            ("INVITE", (SDP,), b"488"),
            ("DANCE", (), b"501"),
            ("UPDATE", (("Require", "dancing"),), b"420"),
        ):
            del self.world.network.sent[:]
            for _ in range(MANY):
                request = self.world.in_dialog(method, *headers, body=OFFER)
                self.world.agent.datagram_received(bytes(request), THEM)
            self.assertEqual([datagram.data[8:11] for datagram in self.world.network.sent], [status] * MANY)
            self.assertLess(len(self.world.agent) - before, 20)
        self.assertEqual(session.state, "confirmed")
        self.assertEqual(self.world.statuses(self.world.in_dialog("BYE")), [200])

    def test_refused_invite_with_a_transaction(self) -> None:
        """The CANCEL of a refused INVITE has its To tag (§9.2)."""
        invite = outside("INVITE")
        refused = self.world.ask(invite)[0]
        cancelled = self.world.ask(again(invite, "CANCEL"))
        self.assertEqual([(each.status, each.to.tag) for each in cancelled], [(200, refused.to.tag)])

    def test_way_back(self) -> None:
        """Without a transaction the response goes where it would have gone with one."""
        self.flood()
        self.world.agent.datagram_received(bytes(outside("OPTIONS")), (THEM[0], 40000))
        self.assertEqual(self.world.network.sent[-1].target, THEM)
        self.assertEqual(parse(self.world.network.sent[-1].data).via.received, None)
