"""Calls over connections, and requests too large for datagrams (RFC 3261 §17, §18)."""

from __future__ import annotations

from calledind.model import Address
from calledind.sip.events import Ended, Refused, Unreachable
from calledind.sip.grammar import ParseError
from calledind.sip.header import Via
from calledind.sip.message import Request, Response, parse, response_to
from calledind.sip.target import Target
from calledind.sip.timers import Intervals
from calledind.sip.transactions import TransactionLayer, response_address
from tests.sip.network import Network, pass_time
from tests.sip.parties import THEM, US, World, outside
from tests.sip.test_useragent import Case, answers, rings

OVER_TCP = Target(*THEM, "tcp", "carrier")
OURS = Target(*US, "tcp")


def requests(network: Network) -> list[Request]:
    """All requests that were sent, in order."""
    return [message for sent in network.sent if isinstance(message := parse(sent.data), Request)]


class TcpWorld(World):
    """As `World`, over one connection."""

    def __post_init__(self) -> None:
        super().__post_init__()
        to_us, to_them = self.network.attach(OVER_TCP), self.network.attach(OURS)
        self.agent._endpoint.local = lambda target: OURS
        self.agent._layer._send = to_them
        self.callee._endpoint.local = lambda target: OVER_TCP
        self.callee._layer._send = to_us
        self.network.listen(OVER_TCP, self.callee.datagram_received)
        self.network.listen(OURS, self.agent.datagram_received)


class ConnectionTests(Case):
    def test_whole_call(self) -> None:
        """Via and Contact name the transport, each message goes once, and nothing lingers after the BYE."""
        world = TcpWorld(answers)
        session = world.answered(target=OVER_TCP)
        session.end()
        world.network.pass_time(1)
        self.assertEqual(world.last_words, [Ended("us", None, "BYE: 200")])
        invite, ack, bye = requests(world.network)
        for request in (invite, ack, bye):
            self.assertEqual((request.via.transport, "alias" in str(request.via)), ("TCP", True))
        self.assertEqual(invite.get("Contact"), "<sip:0000000000@127.0.0.1:5060;transport=tcp>")
        self.assertEqual([sent.target for sent in world.network.sent].count(OVER_TCP), 3)
        self.quiet(world)

    def test_nothing_is_repeated(self) -> None:
        """Neither request nor refusal goes twice over a connection; the timeouts are the same."""
        world = TcpWorld(lambda call: call.stay_silent())
        world.call(target=OVER_TCP)
        world.network.pass_time(33)
        self.assertEqual(world.network.labels, ["INVITE"])
        self.assertEqual(world.events, [Unreachable("timeout", "no final response within 32 s")])
        self.quiet(world)

    def test_refused(self) -> None:
        """After the ACK to a refusal, neither side keeps the transaction."""
        world = TcpWorld(lambda call: self.assertTrue(call.respond(486)))
        world.call(target=OVER_TCP)
        world.network.pass_time(0.1)
        self.assertEqual(world.network.labels, ["INVITE", "486 INVITE", "ACK"])
        self.assertEqual(world.clock.getDelayedCalls(), [])
        self.assertEqual((len(world.agent), len(world.callee)), (0, 0))

    def test_lost_connection(self) -> None:
        """What waits for its first answer on a lost connection fails with the words of the loss; a datagram's fate
        is not its."""
        world = TcpWorld(lambda call: call.stay_silent())
        world.call(target=OVER_TCP)
        world.agent.transport_failed(THEM)
        self.assertEqual(world.events, [])
        world.agent.transport_failed(OVER_TCP, "the connection was closed")
        self.assertEqual(world.events, [Unreachable("transport", "the connection was closed")])
        self.quiet(world)

    def test_secure(self) -> None:
        """Who calls by sips has a Contact of sips, also inside the dialog, whatever its From is."""
        world = TcpWorld(answers)
        uri = "sips:+12125550100@127.0.0.2"
        session = world.answered(
            target=OVER_TCP, request_uri=uri, to_uri=uri, from_uri="sip:anonymous@anonymous.invalid"
        )
        self.assertEqual(requests(world.network)[0].get("Contact"), "<sips:anonymous@127.0.0.1:5060>")
        world.agent.message_received(world.in_dialog("UPDATE", ("Contact", "<sip:x@127.0.0.2>")), OVER_TCP)
        response = parse(world.network.sent[-1].data)
        self.assertEqual(response.get("Contact"), "<sips:anonymous@127.0.0.1:5060>")
        session.end()
        self.quiet(world)

    def test_recovery(self) -> None:
        """A new process cancels over the transport that the call was made by."""
        world = TcpWorld(rings)
        session = world.call(target=OVER_TCP)
        world.network.pass_time(1)
        finished: list[bool] = []
        agent = world.agent = world.new_agent()
        agent._layer._send = world.network.attach(OURS)
        world.network.listen(OURS, agent.datagram_received)
        agent.recover_invitation(session.snapshot, lambda: finished.append(True))
        world.network.pass_time(1)
        cancel = next(each for each in requests(world.network) if each.method == "CANCEL")
        self.assertEqual((cancel.via.transport, finished), ("TCP", [True]))
        self.quiet(world)

    def test_responses_go_back_over_the_connection(self) -> None:
        """By a connection, neither rport nor the Via's port matters."""
        via = Via.parse("SIP/2.0/TCP 192.0.2.1:5070;branch=z9hG4bKx")
        self.assertEqual(response_address(via, OVER_TCP), OVER_TCP)
        self.assertEqual(response_address(via, THEM), (THEM[0], 5070))


class LargeTests(Case):
    """A trunk that takes TCP as well, and an INVITE of more than 1,300 octets."""

    HEADERS = (("X-Large", "x" * 1000),)

    def setUp(self) -> None:
        self.broken = False
        self.tcp: list[Address] = []

    def world(self) -> World:
        world = World(rings)
        world.agent._layer._larger = lambda target: OVER_TCP if target == THEM else None
        by_udp, by_tcp = world.agent._layer._send, world.network.attach(OURS)

        def send(data: bytes, target: Address) -> None:
            if target != OVER_TCP:
                by_udp(data, target)
            elif self.broken:
                world.clock.callLater(0.1, world.agent.transport_failed, OVER_TCP, "nobody listens there")
            else:
                by_tcp(data, target)

        world.agent._layer._send = send
        back = world.network.attach(OVER_TCP)
        over_udp = world.callee._layer._send
        world.callee._layer._send = lambda data, target: (back if target == OURS else over_udp)(data, target)
        world.network.listen(OVER_TCP, world.callee.datagram_received)
        world.network.listen(OURS, world.agent.datagram_received)
        return world

    def sent_by(self, world: World) -> list[tuple[str, str]]:
        return [(request.method, request.via.transport) for request in requests(world.network)]

    def test_moves(self) -> None:
        """It goes by TCP, and so do its CANCEL and the ACK to the 487; small ones stay with UDP."""
        world = self.world()
        session = world.call(headers=self.HEADERS)
        world.network.pass_time(1)
        session.end()
        world.network.pass_time(1)
        self.assertEqual(self.sent_by(world), [("INVITE", "TCP"), ("CANCEL", "TCP"), ("ACK", "TCP")])
        self.assertEqual(world.events[-1], Refused(487, "Request Terminated"))
        world.call().end()
        self.assertEqual(self.sent_by(world)[-1], ("INVITE", "UDP"))
        world.network.pass_time(1)
        self.assertEqual(self.sent_by(world)[-2:], [("CANCEL", "UDP"), ("ACK", "UDP")])
        self.quiet(world)

    def test_stays_without_a_way(self) -> None:
        """Where no TCP is known, UDP has to do."""
        world = self.world()
        world.agent._layer._larger = lambda target: None
        world.call(headers=self.HEADERS).end()
        world.network.pass_time(1)
        self.assertEqual(self.sent_by(world)[0], ("INVITE", "UDP"))
        self.quiet(world)

    def test_moves_back(self) -> None:
        """When no connection can be had, it goes by UDP after all, repeats, CANCEL and all."""
        world = self.world()
        self.broken = True
        world.network.rule = lambda datagram: [0.01] if len(world.network.sent) > 1 else []
        session = world.call(headers=self.HEADERS)
        world.network.pass_time(1)
        self.assertEqual(self.sent_by(world), [("INVITE", "UDP"), ("INVITE", "UDP")])
        session.end()
        world.network.pass_time(1)
        self.assertEqual(self.sent_by(world)[2:], [("CANCEL", "UDP"), ("ACK", "UDP")])
        self.quiet(world)

    def test_not_after_something_was_heard(self) -> None:
        """A connection lost while it rings does not bring the INVITE a second time."""
        world = self.world()
        session = world.call(headers=self.HEADERS)
        world.network.pass_time(1)
        world.agent.transport_failed(OVER_TCP, "the connection was closed")
        world.network.pass_time(1)
        self.assertEqual(self.sent_by(world), [("INVITE", "TCP")])
        session.end()
        self.quiet(world)


class MessageTests(Case):
    """Messages that a stream was cut into."""

    def setUp(self) -> None:
        self.network = Network()
        self.seen: list[tuple[str, Address, bytes]] = []
        self.received: list[Request] = []
        self.learned: list[tuple[Address, str]] = []
        self.layer = TransactionLayer(
            send=self.network.attach(OURS),
            timers=self.network.clock,
            intervals=Intervals(),
            received=lambda request, source: self.received.append(request),
            seen_as=lambda target, via: self.learned.append((target, str(via.received))),
            trace=lambda *what: self.seen.append(what),
        )

    def test_requests_and_responses(self) -> None:
        """They reach their users as datagrams do, and are traced; who sent us a response says how it sees us."""
        request = outside("OPTIONS")
        self.layer.message_received(request, OVER_TCP)
        self.assertEqual([each.method for each in self.received], ["OPTIONS"])
        heard: list[object] = []
        asked = outside("OPTIONS")
        self.layer.request(asked, OVER_TCP, heard.append)
        self.layer.message_received(response_to(asked.received_from(("192.0.2.9", 7)), 200), OVER_TCP)
        self.assertEqual([each.status for each in heard if isinstance(each, Response)], [200])
        self.assertEqual(self.learned, [(OVER_TCP, "192.0.2.9")])
        self.assertEqual(
            [what[:2] for what in self.seen],
            [("received", OVER_TCP), ("sent", OVER_TCP), ("received", OVER_TCP)],
        )
        self.assertEqual(len(self.layer), 0)

    def test_unreadable(self) -> None:
        """A request that lacks something is answered with 400, on the connection; a response is left out."""
        request = outside("OPTIONS")
        broken = Request("OPTIONS", request.uri, [pair for pair in request.headers if pair[0] != "CSeq"])
        self.layer.message_received(Response(200, "OK", []), OVER_TCP)
        self.layer.unreadable(ParseError("the headers are too long", status=513), None, OVER_TCP)
        self.assertEqual(self.network.sent, [])
        self.layer.message_received(broken, OVER_TCP)
        self.assertEqual(
            [(sent.start_line, sent.target) for sent in self.network.sent], [("SIP/2.0 400 CSeq is missing", OVER_TCP)]
        )

    def test_keepalives(self) -> None:
        """Datagrams of empty lines are nobody's, others are traced."""
        for data in (b"", b"\r\n\r\n", bytes(4)):
            self.layer.datagram_received(data, THEM)
        self.assertEqual((self.seen, self.received), ([], []))
        self.layer.datagram_received(bytes(outside("OPTIONS")), THEM)
        self.assertEqual(([what[:2] for what in self.seen], len(self.received)), ([("received", THEM)], 1))

    def test_branches_are_used_once(self) -> None:
        """A second request with the branch of one that waits is a mistake of ours."""
        request = outside("OPTIONS")
        self.layer.request(request, OVER_TCP, lambda news: None)
        self.assertRaises(ValueError, self.layer.request, request, OVER_TCP, lambda news: None)

    def test_what_cannot_be_written_is_not_traced(self) -> None:
        """A message whose octets can't be written again is taken all the same."""
        request = outside("OPTIONS")
        request.headers.append(("X-Odd", "a\rb"))
        self.layer.message_received(request, OVER_TCP)
        self.assertEqual((len(self.received), self.seen), (1, []))
        pass_time(self.network.clock, 1)


class UserAgentTests(Case):
    def test_provisional_response_to_options(self) -> None:
        """An OPTIONS has its status with the final response, not before."""
        world = TcpWorld(answers)
        statuses: list[int | None] = []
        world.network.listen(OVER_TCP, lambda data, source: None)
        world.agent.options(OVER_TCP, "sip:127.0.0.2", statuses.append)
        (asked,) = requests(world.network)
        for status, expected in ((100, []), (200, [200])):
            world.agent.message_received(response_to(asked, status), OVER_TCP)
            self.assertEqual(statuses, expected)
        self.quiet(world)

    def test_streams(self) -> None:
        """The user agent takes what a stream brings: messages, and word of what is none."""
        world = TcpWorld(answers)
        world.agent.message_received(outside("OPTIONS"), OVER_TCP)
        asking = outside("OPTIONS", ("Content-Length", "5"))
        world.agent.unreadable(ParseError("Content-Length is wrong", request=asking), OVER_TCP)
        self.assertEqual(world.network.labels, ["200 OPTIONS", "400 OPTIONS"])
        self.assertEqual([sent.target for sent in world.network.sent], [OVER_TCP, OVER_TCP])
        self.quiet(world)
