"""One connection to Redis, octet by octet and second by second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from txredisapi import ResponseError

from calledind.store import redis_connection
from calledind.store.interface import StoreUnavailable
from calledind.store.redis_connection import Connection, NotReplicated, Unanswered
from calledind.store.redis_wire import Script, encode

SOURCE = "return 1"
SCRIPT = Script(SOURCE)


class Wire(StringTransport):
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing is ever late here."""


def evalsha(*parts: str) -> bytes:
    return encode("EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "1", *parts)


class ConnectionCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.open()

    def open(self, *, replicas: int = 0) -> None:
        self.clock = Clock()
        self.told: list[bytes] = []
        self.lost: list[str] = []
        self.connection = Connection(
            self.clock, "Redis", timeout=1.0, scripts={"script": SCRIPT}, replicas=replicas, told=self._hear
        )
        self.connection.lost = self.lost.append
        self.wire = Wire()
        self.connection.makeConnection(self.wire)

    def _hear(self, message: bytes) -> None:
        if message == b"bad":
            raise ZeroDivisionError
        self.told.append(message)

    def sent(self) -> bytes:
        octets: bytes = self.wire.value()
        self.wire.clear()
        return octets

    def receive(self, *replies: bytes) -> None:
        self.connection.dataReceived(b"".join(replies))

    def run_script(self, key: str, *, replicated: bool = False) -> Deferred[Any]:
        return self.connection.run("script", [key], [], replicated=replicated)

    def assert_unanswered(self, result: Deferred[Any]) -> str:
        words: str = self.failureResultOf(result, Unanswered).getErrorMessage()
        return words

    def assert_refused(self, result: Deferred[Any]) -> str:
        """It failed, and was surely not run."""
        failure = self.failureResultOf(result, StoreUnavailable)
        self.assertNotIsInstance(failure.value, Unanswered)
        words: str = failure.getErrorMessage()
        return words


class ReplyTests(ConnectionCase):
    def test_values_stay_what_they_are(self) -> None:
        """Digits are no number, empty is not nothing, and octets need be no text."""
        replies = {
            b"+OK\r\n": b"OK",
            b":42\r\n": 42,
            b"$7\r\n0044123\r\n": b"0044123",
            b"$0\r\n\r\n": b"",
            b"$-1\r\n": None,
            b"$4\r\n\xff\r\n\x00\r\n": b"\xff\r\n\x00",
            b"*0\r\n": [],
            b"*3\r\n$1\r\n1\r\n:2\r\n*2\r\n$-1\r\n$2\r\n\r\n\r\n": [b"1", 2, [None, b"\r\n"]],
        }
        asked = [self.connection.ask("GET", "x") for _ in replies]
        self.receive(*replies)
        self.assertEqual([self.successResultOf(each) for each in asked], list(replies.values()))

    @given(st.lists(st.binary(max_size=40), min_size=1, max_size=5), st.lists(st.integers(1, 30), max_size=50))
    def test_replies_come_in_any_pieces(self, values: Sequence[bytes], cuts: Sequence[int]) -> None:
        """Wherever the network cuts them."""
        self.open()
        asked = [self.connection.ask("GET", "x") for _ in values]
        stream = b"".join(b"*2\r\n$%d\r\n%b\r\n:%d\r\n" % (len(value), value, len(value)) for value in values)
        for cut in cuts:
            self.receive(stream[:cut])
            stream = stream[cut:]
        self.receive(stream)
        self.assertEqual([self.successResultOf(each) for each in asked], [[value, len(value)] for value in values])

    def test_many_replies_in_one_piece(self) -> None:
        """A thousand replies that come at once are answered at once."""
        asked = [self.connection.ask("GET", "x") for _ in range(1000)]
        self.receive(b"$3\r\nabc\r\n" * 1000)
        self.assertEqual({self.successResultOf(each) for each in asked}, {b"abc"})

    def test_how_commands_are_written(self) -> None:
        """Text as UTF-8, octets as they are, a float so that it reads back the same."""
        self.connection.ask("SET", b"\xff", "é", 12, 1764426000.123456)
        expected = b"*5\r\n$3\r\nSET\r\n$1\r\n\xff\r\n$2\r\n\xc3\xa9\r\n$2\r\n12\r\n$17\r\n1764426000.123456\r\n"
        self.assertEqual(self.sent(), expected)

    def test_no_redis(self) -> None:
        """What is no Redis is left alone, and said to be none."""
        for octets in (b":x\r\n", b"$x\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n:1\r\n:2\r\n"):
            self.open()
            asked = self.connection.ask("PING")
            self.receive(octets)
            self.assertIn("not Redis's protocol", self.assert_unanswered(asked))
            self.assertTrue(self.wire.aborted)

    def test_an_answer_to_nothing(self) -> None:
        """After an answer too many, nobody knows whose the next is: the connection is not used any more."""
        self.receive(b":1\r\n")
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.lost, ["Redis sent an answer that nobody had asked for"])


class ErrorTests(ConnectionCase):
    def test_an_error_of_ours(self) -> None:
        """What is wrong with a script is no StoreUnavailable: it is loud."""
        asked = self.run_script("k")
        self.receive(b"-ERR user_script:1: attempt to index a nil value\r\n")
        self.assertIn("attempt to index", self.failureResultOf(asked, ResponseError).getErrorMessage())
        self.assertFalse(self.wire.aborted)

    def test_a_command_that_was_not_run(self) -> None:
        """A full memory or disk refuses this command; the connection stays."""
        for error in (b"OOM command not allowed", b"MISCONF Errors writing", b"NOREPLICAS Not enough", b"NOPERM no"):
            asked = self.run_script("k")
            self.receive(b"-", error, b"\r\n")
            self.assertIn(error.decode(), self.assert_refused(asked))
        self.assertFalse(self.wire.aborted)

    def test_a_server_of_no_use(self) -> None:
        """A replica, or one that loads its data, is left; what else was sent to it may have run."""
        for error in (b"READONLY You can't write", b"LOADING Redis is loading", b"MASTERDOWN Link"):
            self.open()
            first, second = self.run_script("k"), self.run_script("l")
            self.receive(b"-", error, b"\r\n")
            self.assert_refused(first)
            self.assert_unanswered(second)
            self.assertTrue(self.wire.aborted)
            self.assertEqual(len(self.lost), 1)

    def test_scripts_are_loaded_when_they_are_gone(self) -> None:
        """Redis has forgotten a script: it is loaded, and run once more."""
        asked = self.run_script("k")
        self.assertEqual(self.sent(), evalsha("k"))
        self.receive(b"-NOSCRIPT No matching script.\r\n")
        self.assertEqual(self.sent(), encode("SCRIPT", "LOAD", SOURCE) + evalsha("k"))
        self.assertNoResult(asked)
        self.receive(b"$1\r\nx\r\n", b":7\r\n")
        self.assertEqual(self.successResultOf(asked), 7)

    def test_scripts_that_can_not_be_loaded(self) -> None:
        """It is done once, not for ever."""
        asked = self.run_script("k")
        self.receive(b"-NOSCRIPT No matching script.\r\n", b"-NOPERM no\r\n", b"-NOSCRIPT No matching script.\r\n")
        self.assert_refused(asked)

    def test_closed_by_redis(self) -> None:
        """What was sent may have run; what comes after it is refused, and nothing is sent."""
        asked = self.connection.ask("PING")
        self.connection.connectionLost(Failure(ConnectionDone()))
        self.assertIn("it closed the connection", self.assert_unanswered(asked))
        self.sent()
        self.assert_refused(self.connection.ask("PING"))
        self.assertEqual(self.sent(), b"")
        self.successResultOf(self.connection.gone)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_more_than_it_can_bear(self) -> None:
        """What would be late anyhow is refused at once."""
        self.patch(redis_connection, "MOST_WAITING", 3)
        asked = [self.connection.ask("PING") for _ in range(4)]
        self.assert_refused(asked.pop())
        self.receive(b"+PONG\r\n" * 3)
        for each in asked:
            self.successResultOf(each)


class TimeTests(ConnectionCase):
    def test_late(self) -> None:
        """A command that is not answered within its time ends the connection: all that was sent may have run."""
        first = self.connection.ask("PING")
        self.clock.advance(0.9)
        second = self.connection.ask("PING")
        self.assertNoResult(first)
        self.clock.advance(0.1)
        self.assertIn("did not answer in time", self.assert_unanswered(first))
        self.assert_unanswered(second)
        self.assertTrue(self.wire.aborted)
        self.receive(b"+PONG\r\n")
        self.assertEqual(len(self.lost), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_each_has_its_own_time(self) -> None:
        """A command that may take long does not let others wait as long, nor is it cut by theirs."""
        slow = self.connection.ask("SLOW", timeout=10.0)
        self.clock.pump([1.0] * 9)
        self.assertNoResult(slow)
        self.receive(b"+OK\r\n")
        slow, quick = self.connection.ask("SLOW", timeout=10.0), self.connection.ask("PING")
        self.clock.advance(1.0)
        self.assert_unanswered(quick)
        self.assert_unanswered(slow)

    def test_deadline(self) -> None:
        """What is sent now is given up after its time, or with what was sent before and is not answered."""
        self.assertEqual(self.connection.deadline, self.clock.seconds() + 1.0)
        asked = self.run_script("a")
        first = self.clock.seconds() + 1.0
        self.clock.advance(0.6)
        self.assertEqual(self.connection.deadline, first)
        self.receive(b":1\r\n")
        self.successResultOf(asked)
        self.assertEqual(self.connection.deadline, self.clock.seconds() + 1.0)

    def test_answered_in_time_for_ever(self) -> None:
        """The one timer looks at the commands of its moment."""
        for _ in range(50):
            asked = self.connection.ask("PING")
            self.clock.advance(0.7)
            self.receive(b"+PONG\r\n")
            self.successResultOf(asked)
        self.assertFalse(self.wire.aborted)

    def test_a_process_that_stood_still(self) -> None:
        """Where it was us who could not read, an answer that waits to be read is taken."""
        asked = self.connection.ask("PING")
        self.clock.rightNow += 60.0
        self.turn()
        self.receive(b"+PONG\r\n")
        self.successResultOf(asked)
        self.clock.advance(0)
        self.assertFalse(self.wire.aborted)

    def turn(self) -> None:
        """Do what is due, as the reactor does before it reads again."""
        alarm: Any = self.clock.calls.pop()
        alarm.called = 1
        alarm.func(*alarm.args)

    def test_late_for_ever(self) -> None:
        """A server that answers all the time, and each too late, is given up all the same."""
        asked = [self.connection.ask("PING") for _ in range(100)]
        for each in asked:
            each.addErrback(lambda failure: failure.trap(Unanswered))
        self.clock.rightNow += 1.0
        answers = 0
        while not self.wire.aborted:
            self.turn()
            self.receive(b"+PONG\r\n")
            answers += 1
        self.assertEqual(answers, redis_connection.TURNS + 1)

    def test_silence(self) -> None:
        """When nothing is heard for a while, a PING finds out whether somebody is there."""
        self.connection.watch(0.5)
        self.clock.advance(0.5)
        self.assertEqual(self.sent(), encode("PING"))
        self.receive(b"+PONG\r\n")
        self.clock.advance(0.5)
        self.assertEqual(self.sent(), b"")
        self.clock.advance(0.5)
        self.assertEqual(self.sent(), encode("PING"))
        self.clock.advance(1.0)
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        """Who does not want an answer any more leaves the next one to whose it is."""
        first, second = self.connection.ask("GET", "a"), self.connection.ask("GET", "b")
        first.addErrback(lambda _: None)
        first.cancel()
        self.receive(b"$1\r\na\r\n$1\r\nb\r\n")
        self.assertEqual(self.successResultOf(second), b"b")

    def test_idle(self) -> None:
        """It is told when all is answered, or lost."""
        self.successResultOf(self.connection.idle())
        self.flushed(self.connection.ask("PING"))
        idle = self.connection.idle()
        self.assertNoResult(idle)
        self.receive(b"+PONG\r\n")
        self.successResultOf(idle)
        self.flushed(self.connection.ask("PING"))
        idle = self.connection.idle()
        self.connection.give_up("over")
        self.successResultOf(idle)

    def flushed(self, asked: Deferred[Any]) -> None:
        asked.addErrback(lambda _: None)


class ReplicaTests(ConnectionCase):
    WAIT = encode("WAIT", 2, 400)

    def setUp(self) -> None:
        self.open(replicas=2)

    def test_script_and_wait_leave_together(self) -> None:
        """One round trip: the script is answered when the replicas have what it changed."""
        asked = self.run_script("a", replicated=True)
        self.assertEqual(self.sent(), evalsha("a") + self.WAIT)
        self.receive(b":7\r\n")
        self.assertNoResult(asked)
        self.receive(b":2\r\n")
        self.assertEqual(self.successResultOf(asked), 7)

    def test_one_wait_for_all_that_gathered(self) -> None:
        """While a WAIT is under way, what comes is sent, and covered by the next."""
        first = self.run_script("a", replicated=True)
        self.sent()
        second, third = self.run_script("b", replicated=True), self.run_script("c", replicated=True)
        self.assertEqual(self.sent(), evalsha("b") + evalsha("c"))
        self.receive(b":1\r\n", b":2\r\n")
        self.assertEqual(self.successResultOf(first), 1)
        self.assertEqual(self.sent(), self.WAIT)
        self.receive(b":2\r\n", b":3\r\n")
        self.assertNoResult(second)
        self.receive(b":3\r\n")
        self.assertEqual([self.successResultOf(second), self.successResultOf(third)], [2, 3])
        self.assertEqual(self.sent(), b"")

    def test_too_few_replicas(self) -> None:
        """It has run, which the error tells with the answer."""
        asked = self.run_script("a", replicated=True)
        self.receive(b":7\r\n", b":1\r\n")
        error = self.failureResultOf(asked, NotReplicated).value
        self.assertEqual(error.reply, 7)
        self.assertIn("1 of the 2 replicas", str(error))
        self.assertFalse(self.wire.aborted)

    def test_others_do_not_wait(self) -> None:
        """A script that asks for no replicas is answered without."""
        asked = self.run_script("a")
        self.assertEqual(self.sent(), evalsha("a"))
        self.receive(b":7\r\n")
        self.assertEqual(self.successResultOf(asked), 7)

    def test_an_error_needs_no_replica(self) -> None:
        """The one that failed does so at once, the others of its WAIT are answered."""
        first = self.run_script("a", replicated=True)
        self.receive(b"-ERR bad\r\n")
        self.failureResultOf(first, ResponseError)
        second = self.run_script("b", replicated=True)
        self.receive(b":0\r\n", b":8\r\n", b":2\r\n")
        self.assertEqual(self.successResultOf(second), 8)

    def test_loaded_and_covered_by_a_later_wait(self) -> None:
        """A script that had to be loaded waits for a WAIT that was sent after it ran."""
        asked = self.run_script("a", replicated=True)
        self.sent()
        self.receive(b"-NOSCRIPT No matching script.\r\n")
        self.assertEqual(self.sent(), encode("SCRIPT", "LOAD", SOURCE) + evalsha("a"))
        self.receive(b":2\r\n")
        self.assertNoResult(asked)
        self.assertEqual(self.sent(), self.WAIT)
        self.receive(b"+x\r\n", b":7\r\n", b":2\r\n")
        self.assertEqual(self.successResultOf(asked), 7)

    def test_lost_while_waiting(self) -> None:
        """Nobody knows whether the replicas have it: those that ran, that wait and that were only sent all may."""
        first = self.run_script("a", replicated=True)
        second, third = self.run_script("b", replicated=True), self.run_script("c")
        self.receive(b":1\r\n")
        self.clock.advance(1.0)
        for asked in (first, second, third):
            self.assert_unanswered(asked)

    def test_the_time_of_the_first_is_that_of_its_wait(self) -> None:
        """Who waited for another's WAIT does not wait longer for the own one than its time."""
        self.run_script("a", replicated=True).addErrback(lambda _: None)
        second = self.run_script("b", replicated=True)
        self.clock.advance(0.9)
        self.receive(b":1\r\n", b":2\r\n", b":2\r\n")
        self.assertNoResult(second)
        self.clock.advance(0.1)
        self.assert_unanswered(second)

    def test_a_wait_that_is_refused(self) -> None:
        """A master that has become a replica: what it ran may be lost."""
        asked = self.run_script("a", replicated=True)
        self.receive(b":1\r\n", b"-UNBLOCKED force unblock from blocking operation\r\n")
        self.assertIn("not the master any more", self.assert_unanswered(asked))
        self.open(replicas=2)
        asked = self.run_script("a", replicated=True)
        self.receive(b":1\r\n", b"-NOPERM this user has no permissions to run the 'wait' command\r\n")
        self.assertIn("ACL", self.assert_unanswered(asked))


class ChannelTests(ConnectionCase):
    def test_what_is_published(self) -> None:
        """Each message is told; PINGs are answered between them; an error in who hears it costs nothing."""
        subscribed = self.connection.subscribe("news")
        self.assertEqual(self.sent(), encode("SUBSCRIBE", "news"))
        self.receive(b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
        self.successResultOf(subscribed)
        self.connection.watch(0.5)
        self.clock.pump([0.5, 0.5])
        self.assertEqual(self.sent(), encode("PING"))
        for message in (b"one", b"bad", b"two"):
            self.receive(b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$3\r\n" + message + b"\r\n")
        self.receive(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
        self.clock.advance(0.9)
        self.assertEqual(self.told, [b"one", b"two"])
        self.assertEqual(self.lost, [])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
