"""Server transactions, input by input (RFC 3261 §17.2, RFC 6026)."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.sip.client import TransactionFailure
from calledind.sip.message import Request, parse, response_to
from calledind.sip.server import (
    AlreadyAnswered,
    Input,
    InviteServerTransaction,
    NonInviteServerTransaction,
    RepeatedSuccess,
    ServerTransaction,
    State,
)
from calledind.sip.timers import Intervals
from tests.sip.network import pass_time
from tests.sip.test_client_transaction import request


class Transaction:
    """A transaction with a clock, a wire that remembers and a user that listens."""

    def __init__(self, method: str, reliable: bool = False) -> None:
        self.clock = Clock()
        self.sent: list[tuple[float, int]] = []
        self.told: list[str | TransactionFailure] = []
        self.gone = 0
        self.broken = False
        self.request = request(method)
        kind = InviteServerTransaction if method == "INVITE" else NonInviteServerTransaction
        self.it = kind(
            self.request,
            key="key",
            transmit=self._transmit,
            report=lambda news: self.told.append(news.method if isinstance(news, Request) else news),
            gone=self._gone,
            timers=self.clock,
            intervals=Intervals(),
            reliable=reliable,
        )

    def _transmit(self, data: bytes) -> None:
        if self.broken:
            raise OSError("no route")
        response = parse(data)
        assert not isinstance(response, Request)
        self.sent.append((round(self.clock.seconds(), 3), response.status))

    def _gone(self, transaction: ServerTransaction) -> None:
        self.gone += 1

    def say(self, status: int) -> None:
        self.it.respond(response_to(self.request, status, to_tag="us"))

    def hear(self, method: str) -> None:
        self.it.receive(request(method))

    def wait(self, seconds: float) -> None:
        pass_time(self.clock, seconds)


class TableTests(SynchronousTestCase):
    def test_every_input_in_every_state(self) -> None:
        """No input in any state is without its line."""
        for kind in (InviteServerTransaction, NonInviteServerTransaction):
            self.assertEqual(set(kind.table), {(state, what) for state in State for what in Input})

    def test_nothing_leaves_terminated(self) -> None:
        """What is over stays over."""
        for kind in (InviteServerTransaction, NonInviteServerTransaction):
            for what in Input:
                self.assertIs(kind.table[State.TERMINATED, what][0], State.TERMINATED)


class InviteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.transaction = Transaction("INVITE")
        assert isinstance(self.transaction.it, InviteServerTransaction)
        self.invite = self.transaction.it
        self.invite.start(response_to(self.transaction.request, 100))

    def test_trying(self) -> None:
        """Where the user says nothing, 100 leaves after 0.2 s; a repeated INVITE gets it again."""
        self.transaction.hear("INVITE")
        self.transaction.wait(1)
        self.transaction.hear("INVITE")
        self.assertEqual(self.transaction.sent, [(0.2, 100), (1.0, 100)])

    def test_no_trying_after_a_response(self) -> None:
        """Where the user was faster there is no 100, and a repeated INVITE gets what it said last."""
        self.transaction.say(180)
        self.transaction.say(183)
        self.transaction.wait(1)
        self.transaction.hear("INVITE")
        self.assertEqual([status for _, status in self.transaction.sent], [180, 183, 183])

    def test_silence(self) -> None:
        """Who plays dead says nothing, and can be given up."""
        self.invite.stay_silent()
        self.transaction.wait(40)
        self.transaction.hear("INVITE")
        self.invite.terminate()
        self.invite.terminate()
        self.assertEqual((self.transaction.sent, self.transaction.gone), ([], 1))

    def test_refused(self) -> None:
        """A refusal is repeated by timer G, doubling up to T2, until H ends it; then the user is told."""
        self.transaction.say(486)
        self.transaction.wait(33)
        times = [time for time, _ in self.transaction.sent]
        self.assertEqual(times, [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5])
        self.assertEqual(self.transaction.told, [TransactionFailure("timeout", "no ACK within 32 s")])
        self.assertEqual((self.transaction.gone, self.transaction.clock.getDelayedCalls()), (1, []))

    def test_refused_and_confirmed(self) -> None:
        """The ACK stops the repeats and is reported once; for T4 the rest is swallowed."""
        self.transaction.say(486)
        self.transaction.hear("INVITE")
        self.transaction.hear("ACK")
        self.transaction.hear("ACK")
        self.transaction.hear("INVITE")
        self.transaction.wait(4.5)
        self.assertEqual((self.transaction.sent, self.transaction.told), ([(0, 486), (0, 486)], ["ACK"]))
        self.transaction.wait(1)
        self.assertEqual(self.transaction.gone, 1)

    def test_accepted(self) -> None:
        """A 2xx isn't repeated here, nor by a repeated INVITE; other 2xx may follow, for 64*T1."""
        self.transaction.say(200)
        self.transaction.hear("INVITE")
        self.transaction.say(200)
        self.transaction.wait(31.5)
        self.assertEqual(self.transaction.sent, [(0, 200), (0, 200)])
        other = response_to(self.transaction.request, 200, to_tag="another")
        self.invite.respond(other)
        self.assertEqual(self.invite.last, bytes(other))
        self.transaction.hear("ACK")
        self.assertEqual(self.transaction.told, ["ACK"])
        self.transaction.wait(1)
        self.assertEqual((self.transaction.gone, self.transaction.clock.getDelayedCalls()), (1, []))

    def test_two_answers(self) -> None:
        """A second final response that doesn't fit the first is our mistake, and loud."""
        for first, second in ((200, 486), (200, 180), (486, 200), (486, 486), (486, 180)):
            transaction = Transaction("INVITE")
            transaction.say(first)
            self.assertRaises(AlreadyAnswered, transaction.say, second)
            transaction.hear("ACK")
            self.assertRaises(AlreadyAnswered, transaction.say, 180)

    def test_stray_ack(self) -> None:
        """An ACK before any final response means nothing."""
        self.transaction.hear("ACK")
        self.assertEqual((self.transaction.told, self.invite.state), ([], State.PROCEEDING))

    def test_cannot_be_sent(self) -> None:
        """A response that can't be sent is as good as one that was lost."""
        self.transaction.broken = True
        self.transaction.say(486)
        self.transaction.broken = False
        self.transaction.wait(1)
        self.assertEqual(self.transaction.sent, [(0.5, 486)])

    def test_reliable(self) -> None:
        """Over TCP a refusal isn't repeated, and its ACK ends the transaction at once."""
        transaction = Transaction("INVITE", reliable=True)
        transaction.say(486)
        transaction.wait(5)
        transaction.hear("ACK")
        self.assertEqual((transaction.sent, transaction.gone), ([(0, 486)], 1))


class NonInviteTests(SynchronousTestCase):
    def test_answered(self) -> None:
        """Repeats are swallowed before the answer, and answered alike for 64*T1 after it."""
        transaction = Transaction("BYE")
        transaction.hear("BYE")
        transaction.say(200)
        transaction.wait(31)
        transaction.hear("BYE")
        transaction.hear("ACK")
        self.assertEqual(transaction.sent, [(0, 200), (31, 200)])
        self.assertRaises(AlreadyAnswered, transaction.say, 200)
        transaction.wait(1.1)
        self.assertEqual((transaction.gone, transaction.clock.getDelayedCalls()), (1, []))

    def test_provisional(self) -> None:
        """A provisional response is repeated to a repeated request."""
        transaction = Transaction("BYE")
        transaction.say(100)
        transaction.hear("BYE")
        self.assertEqual([status for _, status in transaction.sent], [100, 100])


class RepeatedSuccessTests(SynchronousTestCase):
    def test_repeats(self) -> None:
        """A 2xx is repeated after T1, doubling up to T2, and its user told when no ACK comes for 64*T1."""
        clock = Clock()
        sent: list[float] = []
        expired: list[float] = []
        RepeatedSuccess(
            lambda: sent.append(clock.seconds()), lambda: expired.append(clock.seconds()), clock, Intervals()
        )
        clock.pump([0.5] * 80)
        self.assertEqual(sent, [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5])
        self.assertEqual((expired, clock.getDelayedCalls()), ([32], []))

    def test_stopped(self) -> None:
        """The ACK stops it for good."""
        clock = Clock()
        sent: list[float] = []
        success = RepeatedSuccess(lambda: sent.append(clock.seconds()), sent.clear, clock, Intervals())
        clock.advance(0.5)
        success.stop()
        success.stop()
        self.assertEqual((sent, clock.getDelayedCalls()), ([0.5], []))
