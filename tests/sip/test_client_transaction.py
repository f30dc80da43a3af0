"""Client transactions, input by input (RFC 3261 §17.1, RFC 6026)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.sip.client import (
    ClientTransaction,
    Input,
    InviteClientTransaction,
    NonInviteClientTransaction,
    State,
    TransactionFailure,
    acknowledgement,
)
from calledind.sip.message import Request, Response, parse, response_to
from calledind.sip.timers import Intervals, Lingering
from tests.sip.network import pass_time


def request(method: str) -> Request:
    return Request(
        method,
        "sip:+12125550100@192.0.2.1",
        [
            ("Via", "SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKx;rport"),
            ("Max-Forwards", "70"),
            ("Route", "<sip:192.0.2.1;lr>"),
            ("From", "<sip:me@192.0.2.9>;tag=us"),
            ("To", "<sip:+12125550100@192.0.2.1>"),
            ("Call-ID", "id"),
            ("CSeq", f"7 {method}"),
        ],
    )


class Transaction:
    """A transaction with a clock, a wire that remembers and a user that listens."""

    def __init__(self, method: str, reliable: bool = False) -> None:
        self.clock = Clock()
        self.sent: list[tuple[float, bytes]] = []
        self.told: list[int | TransactionFailure] = []
        self.gone = 0
        self.broken = False
        self.request = request(method)
        kind = InviteClientTransaction if method == "INVITE" else NonInviteClientTransaction
        self.it = kind(
            self.request,
            transmit=self._transmit,
            report=lambda news: self.told.append(news.status if isinstance(news, Response) else news),
            gone=self._gone,
            timers=self.clock,
            lingering=Lingering(self.clock),
            intervals=Intervals(),
            reliable=reliable,
        )

    def _transmit(self, data: bytes) -> None:
        if self.broken:
            raise OSError("no route")
        self.sent.append((self.clock.seconds(), data))

    def _gone(self, transaction: ClientTransaction) -> None:
        self.gone += 1

    def hear(self, status: int) -> None:
        self.it.receive(response_to(self.request, status, to_tag="them"))

    def wait(self, seconds: float) -> None:
        pass_time(self.clock, seconds)

    @property
    def times(self) -> list[float]:
        return [time for time, _ in self.sent]


class TableTests(SynchronousTestCase):
    def test_every_input_in_every_state(self) -> None:
        """No input in any state is without its line."""
        for kind in (InviteClientTransaction, NonInviteClientTransaction):
            self.assertEqual(set(kind.table), {(state, what) for state in State for what in Input})

    def test_nothing_leaves_terminated(self) -> None:
        """What is over stays over."""
        for kind in (InviteClientTransaction, NonInviteClientTransaction):
            for what in Input:
                self.assertIs(kind.table[State.TERMINATED, what][0], State.TERMINATED)


class InviteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.transaction = Transaction("INVITE")
        self.transaction.it.start()

    def test_repeats(self) -> None:
        """Timer A doubles without bound until timer B ends it after 64*T1."""
        self.transaction.wait(40)
        self.assertEqual(self.transaction.times, [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5])
        self.assertEqual(self.transaction.told, [TransactionFailure("timeout", "no final response within 32 s")])
        self.assertEqual((self.transaction.gone, self.transaction.clock.getDelayedCalls()), (1, []))

    def test_provisional_stops_repeats(self) -> None:
        """After a 100 the INVITE isn't repeated, and no timer of the transaction ends it."""
        self.transaction.hear(100)
        self.transaction.wait(200)
        self.assertEqual(self.transaction.times, [0])
        self.assertEqual((self.transaction.told, self.transaction.it.state), ([100], State.PROCEEDING))

    def test_accepted(self) -> None:
        """Every 2xx goes up for 64*T1, no ACK is sent here; other responses are too late."""
        self.transaction.hear(200)
        self.transaction.hear(486)
        self.transaction.hear(180)
        self.transaction.wait(31)
        self.transaction.hear(200)
        self.assertEqual((self.transaction.told, self.transaction.times), ([200, 200], [0]))
        self.transaction.wait(1)
        self.assertEqual((self.transaction.it.state, self.transaction.gone), (State.TERMINATED, 1))

    def test_refused(self) -> None:
        """A refusal goes up once; it and each repeat are acknowledged, for 32 seconds."""
        self.transaction.hear(180)
        self.transaction.hear(486)
        self.transaction.wait(1)
        self.transaction.hear(486)
        self.transaction.hear(180)
        self.assertEqual(self.transaction.told, [180, 486])
        self.assertEqual(self.transaction.times, [0, 0, 1])
        self.assertEqual(self.transaction.sent[1][1], self.transaction.sent[2][1])
        self.transaction.wait(31)
        self.assertEqual((self.transaction.it.state, self.transaction.gone), (State.TERMINATED, 1))

    def test_late_success(self) -> None:
        """A 2xx after a refusal, which a forking proxy sends on, goes up: somebody is talking."""
        self.transaction.hear(486)
        self.transaction.hear(200)
        self.assertEqual(self.transaction.told, [486, 200])

    def test_acknowledgement(self) -> None:
        """The ACK to a refusal has the INVITE's Via, Route and CSeq number and the response's To."""
        self.transaction.hear(486)
        ack = parse(self.transaction.sent[1][1])
        assert isinstance(ack, Request)
        self.assertEqual(
            ack.headers,
            [
                ("Via", "SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKx;rport"),
                ("Max-Forwards", "70"),
                ("Route", "<sip:192.0.2.1;lr>"),
                ("From", "<sip:me@192.0.2.9>;tag=us"),
                ("To", "<sip:+12125550100@192.0.2.1>;tag=them"),
                ("Call-ID", "id"),
                ("CSeq", "7 ACK"),
                ("Content-Length", "0"),
            ],
        )
        self.assertEqual((ack.method, ack.uri), ("ACK", self.transaction.request.uri))

    def test_acknowledgement_without_to(self) -> None:
        """A response that has lost its To still gets something that can be written."""
        ack = acknowledgement(request("INVITE"), Response(500, "", []))
        self.assertEqual(ack.get("To"), "")

    def test_transport_error(self) -> None:
        """ICMP before the first response is a failure; after it, it is not believed."""
        self.transaction.it.transport_failed("gone")
        self.assertEqual(self.transaction.told, [TransactionFailure("transport", "gone")])
        self.assertEqual(self.transaction.clock.getDelayedCalls(), [])
        other = Transaction("INVITE")
        other.it.start()
        other.hear(180)
        other.it.transport_failed("gone")
        self.assertEqual((other.told, other.it.state), ([180], State.PROCEEDING))

    def test_transport_error_after_refusal(self) -> None:
        """ICMP for our ACK ends the transaction, and the user is told nothing more."""
        self.transaction.hear(486)
        self.transaction.it.transport_failed("gone")
        self.assertEqual((self.transaction.told, self.transaction.gone), ([486], 1))

    def test_cannot_be_sent(self) -> None:
        """What can't be sent is reported, but not before `start` has returned."""
        transaction = Transaction("INVITE")
        transaction.broken = True
        transaction.it.start()
        self.assertEqual(transaction.told, [])
        transaction.clock.advance(0)
        self.assertEqual(transaction.told, [TransactionFailure("transport", "no route")])
        self.assertEqual(transaction.clock.getDelayedCalls(), [])

    def test_terminate(self) -> None:
        """Given up, it says nothing and hears nothing; twice is as good as once."""
        self.transaction.hear(180)
        self.transaction.it.terminate()
        self.transaction.it.terminate()
        self.transaction.hear(200)
        self.assertEqual((self.transaction.told, self.transaction.gone), ([180], 1))

    def test_reliable(self) -> None:
        """Over TCP nothing is repeated, and a refusal ends the transaction at once."""
        transaction = Transaction("INVITE", reliable=True)
        transaction.it.start()
        transaction.wait(5)
        transaction.hear(486)
        self.assertEqual((transaction.times, transaction.gone), ([0, 5], 1))
        self.assertEqual(transaction.clock.getDelayedCalls(), [])


class NonInviteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.transaction = Transaction("BYE")
        self.transaction.it.start()

    def test_repeats(self) -> None:
        """Timer E doubles up to T2 until timer F ends it after 64*T1: eleven times in all."""
        self.transaction.wait(40)
        expected = [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
        self.assertEqual(self.transaction.times, expected)
        self.assertEqual(self.transaction.told, [TransactionFailure("timeout", "no final response within 32 s")])

    def test_provisional(self) -> None:
        """After a 100 it is repeated every T2, and timer F goes on."""
        self.transaction.hear(100)
        self.transaction.wait(40)
        self.assertEqual(self.transaction.times, [0, 0.5, 4.5, 8.5, 12.5, 16.5, 20.5, 24.5, 28.5])
        self.assertEqual(len(self.transaction.told), 2)

    def test_final(self) -> None:
        """One final response goes up, whatever it is; repeats are swallowed for T4."""
        for status in (200, 302, 481, 600):
            transaction = Transaction("BYE")
            transaction.it.start()
            transaction.hear(status)
            transaction.hear(status)
            transaction.hear(100)
            transaction.wait(4.5)
            self.assertEqual((transaction.told, transaction.gone), ([status], 0))
            transaction.wait(0.5)
            self.assertEqual((transaction.gone, transaction.times), (1, [0]))

    def test_transport_error(self) -> None:
        """ICMP ends it before and after a provisional response, but not when the final one is there."""
        hear: list[tuple[Callable[[Transaction], None], int]] = [
            (lambda transaction: None, 1),
            (lambda transaction: transaction.hear(100), 2),
            (lambda transaction: transaction.hear(200), 1),
        ]
        for before, told in hear:
            transaction = Transaction("BYE")
            transaction.it.start()
            before(transaction)
            transaction.it.transport_failed("gone")
            self.assertEqual(len(transaction.told), told)
