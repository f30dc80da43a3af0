# mypy: allow-untyped-calls
"""Calls that are taken back: while they wait, while they run, while their audio is on its way."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from calledind.dialing.queue import FairQueue
from calledind.model import Cause, EndedBy
from calledind.outcome import reason
from calledind.sip.useragent import Refused
from calledind.store.interface import StoreUnavailable
from tests.dialing.test_dialer import TERMINATED, DialerCase
from tests.dialing.test_queue import names
from tests.dialing.test_shared import SharedCase
from tests.dialing.world import START, make_call, make_trunk

UNAVAILABLE = Refused(503, "", None, None, "")


class QueueTests(SynchronousTestCase):
    def test_remove(self) -> None:
        """One call is taken out, wherever it stands, and the others keep their order; none is taken out twice."""
        queue = FairQueue()
        calls = [make_call(str(index), accepted_at=START + index // 2) for index in range(1, 7)]
        for call in calls:
            queue.add(call)
        other = make_call("7", key="key_2")
        queue.add(other)
        for call in (calls[0], calls[3], other, calls[5]):
            self.assertTrue(queue.remove(call))
            self.assertFalse(queue.remove(call))
        self.assertEqual(len(queue), 3)
        self.assertEqual(names(queue), ["2", "3", "5"])
        self.assertFalse(queue.remove(other))

    def test_remove_what_is_not_by_age(self) -> None:
        """A call that stands behind younger ones is found as well."""
        queue = FairQueue()
        calls = [make_call(str(index), accepted_at=START - index) for index in range(1, 5)]
        for call in calls:
            queue.add(call)
        self.assertTrue(queue.remove(calls[2]))
        self.assertEqual(names(queue), ["1", "2", "4"])


class CancelTests(DialerCase):
    def test_waiting(self) -> None:
        """A call that waits ends as hung up by who wanted that, without an INVITE; the next one is not held up."""
        self.make(make_trunk(channels=1))
        self.add("1", "2", "3")
        self.assertTrue(self.dialer.cancel(make_call("2", accepted_at=self.world.now()), EndedBy.CUSTOMER))
        self.assertFalse(self.dialer.cancel(make_call("2", accepted_at=self.world.now())))
        ((_, ending),) = self.ended
        self.assertEqual((ending.cause, ending.ended_by, ending.answered), (Cause.HUNG_UP, EndedBy.CUSTOMER, False))
        self.assertEqual(reason(ending, {}), 1)
        self.hear("1", TERMINATED)
        self.assertEqual(self.sent(), ["1@a", "3@a"])

    def test_running(self) -> None:
        """A call that rings is hung up, by the first who wants that."""
        self.make(make_trunk())
        self.add("1")
        self.assertTrue(self.dialer.cancel(make_call("1"), EndedBy.CUSTOMER))
        self.assertTrue(self.dialer.cancel(make_call("1"), EndedBy.OPERATOR))
        self.hear("1", TERMINATED)
        self.assertEqual(self.causes(), {"1": Cause.HUNG_UP})
        self.assertEqual((self.ended[0][1].ended_by, reason(self.ended[0][1], {})), (EndedBy.CUSTOMER, 1))

    def test_between_two_trunks(self) -> None:
        """A call that waits for its second trunk ends once, and is not dialled there."""
        self.make(make_trunk("a"), make_trunk("b", channels=1))
        self.add("9")
        self.add("8")
        self.hear("9", UNAVAILABLE)
        self.hear("8", UNAVAILABLE)
        self.sent()
        self.assertTrue(self.dialer.cancel(make_call("8")))
        self.assertEqual(self.causes(), {"8": Cause.HUNG_UP})
        self.assertEqual(self.ended[0][1].trunk, "a")
        self.hear("9", TERMINATED)
        self.world.clock.advance(1.0)
        self.assertEqual((self.sent(), self.dialer.live), ([], 0))


class SharedCancelTests(SharedCase):
    def bringing(self) -> list[Deferred[bool]]:
        """Have the audio of what is accepted be on its way, until the test lets it arrive."""
        brought: list[Deferred[bool]] = []

        def bring(call: object) -> Deferred[bool]:
            brought.append(Deferred())
            return brought[-1]

        self.audio.names.clear()
        self.audio.bring = bring  # type: ignore[method-assign]
        self.make()
        self.accept("1")
        return brought

    def test_while_its_audio_is_brought(self) -> None:
        """A call that waits for its audio ends when that is there; its channel is given back."""
        brought = self.bringing()
        self.assertTrue(self.dialer.cancel(make_call("1")))
        self.assertEqual(self.ended, [])
        brought[0].callback(True)
        self.assertEqual((self.ended, self.sent(), self.store.busy), ([("1", Cause.HUNG_UP)], [], {"a": 0}))

    def test_while_its_audio_can_not_be_brought(self) -> None:
        """So it does where the audio does not come."""
        brought = self.bringing()
        self.assertTrue(self.dialer.cancel(make_call("1")))
        brought[0].errback(StoreUnavailable("Redis is away"))
        self.world.clock.advance(5.0)
        self.assertEqual((self.ended, self.sent(), self.store.busy), ([("1", Cause.HUNG_UP)], [], {"a": 0}))

    def test_of_a_node_that_was_fenced(self) -> None:
        """What others have taken over meanwhile is theirs to end."""
        brought = self.bringing()
        self.assertTrue(self.dialer.cancel(make_call("1")))
        self.dialer.abandon()
        brought[0].callback(True)
        self.assertEqual((self.ended, self.sent(), self.audio.kept), ([], [], set()))

    def test_elsewhere(self) -> None:
        """A call that waits in the store is not this node's to end."""
        self.make(make_trunk(channels=1))
        self.accept("1", "2")
        self.assertFalse(self.dialer.cancel(make_call("2")))
