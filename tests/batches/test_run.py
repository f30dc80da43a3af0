# mypy: allow-untyped-calls
"""One batch at work: its pace, what becomes of each code, and that nobody is called twice or forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from calledind.admission import Unavailable
from calledind.batches import run
from calledind.batches.files import Files, Over, Row, Standing, State
from calledind.batches.journal import Journal
from calledind.batches.run import AT_ONCE, AWAY, DOUBT, FLOODS, Run
from calledind.model import ReturnCode
from calledind.model import State as CallState
from calledind.store.interface import FLOOD_SECONDS, StoreUnavailable
from tests.batches.world import ID, NOW, World, make_order, numbers

FIRST, SECOND, THIRD = (row.phone_number for row in numbers(3))


class Fault(Exception):
    pass


class RunCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.admission, self.store = self.world.admission, self.world.store
        self.over: list[Over] = []

    def create(self, count: int = 3, **changes: Any) -> None:
        """Have a batch be on disk."""
        self.files = Files(Path(self.mktemp()))
        self.files.clean()
        self.order = make_order(count=count, **changes)
        self.files.create(self.order, numbers(count))

    def load(self) -> Run:
        """Read what there is, as a start does, and go on with it."""
        rows, standing, size = self.files.read_rows(ID)
        self.run_ = Run(
            self.order,
            rows,
            standing or Standing(State.RUNNING, NOW),
            surroundings=self.world.surroundings(),
            journal=Journal(self.world.clock, self.world.thread, self.files.journal(ID), size),
            over=self.over.append,
        )
        self.run_.start()
        return self.run_

    def begin(self, count: int = 3, **changes: Any) -> Run:
        self.create(count, **changes)
        return self.load()

    def kept(self) -> Sequence[Row]:
        """The rows as the disk has them."""
        return self.files.read_rows(ID)[0]

    def codes(self) -> list[int | None]:
        return [row.code for row in self.kept()]

    def state(self) -> Standing | None:
        return self.files.read_rows(ID)[1]


class PaceTests(RunCase):
    def test_whole(self) -> None:
        """Each row is asked for at its moment, with what was wanted, and then the batch is done."""
        self.begin(rate=2.0, callback_url="http://a.example/")
        for asked in ([], [FIRST], [FIRST, SECOND]):
            self.assertEqual(self.admission.asked, asked)
            self.world.clock.advance(0.5 if asked else 0.0)
        self.assertEqual(
            (self.admission.asked, self.over), ([FIRST, SECOND, THIRD], [Over(State.DONE, NOW + 1, {0: 3})])
        )
        request = self.admission.requests[1]
        self.assertEqual((request.secret, request.country_code, request.mp3), ("s1", "1", self.order.mp3))
        self.assertEqual((request.callback_url, request.caller_id), ("http://a.example/", "0000000000"))
        self.assertEqual([row.call_id for row in self.kept()], self.admission.ids)
        self.assertEqual((self.codes(), self.state()), ([0, 0, 0], Standing(State.DONE, NOW + 1)))

    def test_id_first(self) -> None:
        """A row's id is on disk before it is asked for."""
        self.create()
        self.world.thread.held = []
        with mock.patch.object(self.files, "read_rows", return_value=(numbers(3), None, 0)):
            self.load()
        self.world.clock.advance(0)
        self.assertEqual(self.admission.asked, [])
        self.world.thread.work()
        self.assertEqual(self.admission.asked, [FIRST])
        self.assertEqual([row.call_id for row in self.kept()], [self.admission.ids[0], "", ""])

    def test_lost_time(self) -> None:
        """Time that was lost is not made up for."""
        self.begin(9)
        self.world.clock.advance(0)
        self.world.clock.advance(5)
        self.assertEqual(len(self.admission.asked), 2)
        self.world.clock.advance(0.9)
        self.assertEqual(len(self.admission.asked), 2)

    def test_slow_answers(self) -> None:
        """Not more than so many rows wait for their answer at a time."""
        self.admission.waiting = []
        self.begin(AT_ONCE + 4, rate=100.0)
        self.world.advance(2)
        self.assertEqual(len(self.admission.asked), AT_ONCE)
        self.admission.answer()
        self.world.advance(1)
        self.assertEqual((len(self.admission.asked), self.over), (AT_ONCE + 4, []))
        self.admission.answer()
        self.assertEqual(len(self.over), 1)

    def test_calls_that_wait(self) -> None:
        """While many of the calls wait to be dialled, no more are asked for; it is looked less and less often."""
        self.patch(run, "MOST_WAITING", 2)
        self.admission.accepts = CallState.ACCEPTED
        self.begin(4, rate=100.0)
        self.world.advance(10)
        self.assertEqual(len(self.admission.asked), 2)
        looks = len(self.store.looked) / 2
        self.assertTrue(3 <= looks <= 5, looks)
        self.store.away = StoreUnavailable("away")
        self.world.advance(20)
        self.store.away = None
        self.admission.accept(FIRST, self.admission.ids[0])
        self.store.records.pop(self.admission.ids[1])
        self.world.advance(9)
        self.assertEqual(len(self.admission.asked), 3)
        self.admission.accepts = CallState.DIALING
        for call_id in self.admission.ids:
            self.admission.accept(FIRST, call_id)
        self.world.advance(9)
        self.assertEqual((len(self.admission.asked), len(self.over)), (4, 1))


class CodeTests(RunCase):
    def test_of_the_number(self) -> None:
        """What is about the number is the end of its row."""
        codes = [ReturnCode.DO_NOT_CALL, ReturnCode.AREA_NOT_SUPPORTED, ReturnCode.COUNTRY_NOT_SUPPORTED]
        self.admission.answers = {row.phone_number: [code] for row, code in zip(numbers(3), codes, strict=True)}
        self.begin()
        self.world.advance(3)
        self.assertEqual((self.codes(), self.over[0].codes), ([3, 7, 8], {3: 1, 7: 1, 8: 1}))

    def test_flood(self) -> None:
        """A number that was just called is asked for again after a minute, a few times; the others go on meanwhile."""
        self.admission.answers = {FIRST: [ReturnCode.FLOOD], SECOND: [ReturnCode.FLOOD] * FLOODS}
        self.begin()
        self.world.advance(3)
        self.assertEqual(self.codes(), [None, None, 0])
        self.world.advance(FLOOD_SECONDS)
        self.assertEqual(self.codes(), [0, None, 0])
        self.world.advance(FLOOD_SECONDS * (FLOODS - 2))
        self.assertEqual((self.codes(), self.over[0].codes), ([0, 6, 0], {0: 2, 6: 1}))
        self.assertEqual(self.admission.asked, [FIRST, SECOND, THIRD, FIRST, *[SECOND] * (FLOODS - 1)])
        self.assertEqual(len(set(self.admission.ids)), len(self.admission.ids))

    def test_of_the_key_or_the_mp3(self) -> None:
        """What is about the key or the MP3 pauses the batch and says why; no row is lost."""
        for code in (2, 4, 5, 9, 10):
            self.setUp()
            self.admission.answers = {SECOND: [ReturnCode(code)]}
            batch = self.begin()
            self.world.advance(5)
            self.assertEqual(batch.standing.state, State.PAUSED)
            self.assertEqual(self.state(), Standing(State.PAUSED, batch.standing.at, code, f"words of {code}"))
            self.assertEqual((self.codes(), self.over), ([0, None, None], []))
            self.successResultOf(batch.resume())
            self.world.advance(3)
            self.assertEqual((self.codes(), len(self.over)), ([0, 0, 0], 1))
            self.assertEqual(self.admission.asked, [FIRST, SECOND, SECOND, THIRD])

    def test_key_is_gone(self) -> None:
        """A key that the store does not know pauses it as well."""
        self.store.key = None
        batch = self.begin()
        self.world.advance(1)
        self.assertEqual((batch.standing.state, batch.standing.code), (State.PAUSED, 1))

    def test_no_work_is_taken(self) -> None:
        """While no work is taken it waits as long as was said, says why, and asks again."""
        self.admission.answers = {FIRST: [Unavailable("starting", 7)]}
        batch = self.begin()
        self.world.advance(6.9)
        self.assertEqual(
            (self.admission.asked, batch.trouble, batch.standing.state), ([FIRST], "starting", State.RUNNING)
        )
        self.world.advance(0.3)
        self.assertEqual((self.admission.asked, batch.trouble), ([FIRST, FIRST], ""))

    def test_no_work_is_taken_meanwhile(self) -> None:
        """A row is asked for again when work is taken, though one that was refused waits for longer."""
        self.admission.waiting = []
        self.begin(2, rate=2.0)
        self.world.advance(0.6)
        self.admission.answers = {FIRST: [ReturnCode.FLOOD], SECOND: [Unavailable("drained", 3)]}
        self.admission.answer()
        self.world.advance(2.9)
        self.assertEqual(self.admission.asked, [FIRST, SECOND])
        self.world.advance(0.2)
        self.assertEqual(self.admission.asked, [FIRST, SECOND, SECOND])

    def test_no_work_is_taken_before_the_next(self) -> None:
        """A row that was about to be asked for waits too."""
        self.admission.waiting = []
        self.begin(3)
        self.world.advance(0.5)
        self.admission.answers = {FIRST: [Unavailable("drained", 3)]}
        self.admission.answer()
        self.world.advance(2.9)
        self.assertEqual(self.admission.asked, [FIRST])
        self.world.advance(0.2)
        self.assertEqual(self.admission.asked, [FIRST, FIRST])

    def test_store_away(self) -> None:
        """So it does when the store is away."""
        self.store.away = StoreUnavailable("/secret/place is full")
        batch = self.begin()
        self.world.advance(AWAY - 0.1)
        self.assertNotIn("secret", batch.trouble)
        self.store.away = None
        self.world.advance(4)
        self.assertEqual((self.codes(), self.admission.asked), ([0, 0, 0], [FIRST, SECOND, THIRD]))

    def test_fault(self) -> None:
        """A fault of ours pauses the batch, and the row waits."""
        self.admission.answers = {FIRST: [Fault()]}
        batch = self.begin()
        self.world.advance(1)
        self.assertEqual((batch.standing.state, self.codes()), (State.PAUSED, [None] * 3))
        self.assertEqual(len(self.flushLoggedErrors(Fault)), 1)
        batch.resume()
        self.world.advance(4)
        self.assertEqual(self.codes(), [0, 0, 0])

    def test_fault_at_a_look(self) -> None:
        """So does one at looking at calls that wait."""
        self.patch(run, "MOST_WAITING", 1)
        batch = self.begin()
        self.world.clock.advance(0)
        self.store.find_call = lambda call_id: fail(Fault())  # type: ignore[method-assign]
        self.world.advance(1)
        self.world.advance(1)
        self.assertEqual(batch.standing.state, State.PAUSED)
        self.assertEqual(len(self.flushLoggedErrors(Fault)), 1)


class CrashTests(RunCase):
    """Whatever moment the process dies at, the next one goes on."""

    def crash(self) -> None:
        """Nothing of the process is left."""
        for timer in self.world.clock.getDelayedCalls():
            timer.cancel()
        asked, ids, store = self.admission.asked, self.admission.ids, self.store
        self.world = World()
        self.admission, self.store = self.world.admission, self.world.store
        self.admission.asked, self.admission.ids = asked, ids
        self.store.records |= store.records

    def test_before_it_was_accepted(self) -> None:
        """A row whose call the store does not have is asked for again, as another call."""
        self.admission.waiting = []
        self.begin()
        self.world.clock.advance(0)
        self.crash()
        self.load()
        self.world.advance(3)
        self.assertEqual((self.admission.asked, self.codes()), ([FIRST, FIRST, SECOND, THIRD], [0, 0, 0]))
        self.assertEqual(self.store.looked, [self.admission.ids[0]])

    def test_after_it_was_accepted(self) -> None:
        """A row whose call was accepted is not asked for again, though the journal knows nothing of that."""
        self.admission.waiting = []
        self.begin()
        self.world.clock.advance(0)
        self.admission.accept(FIRST, self.admission.ids[0])
        self.crash()
        self.load()
        self.world.advance(3)
        self.assertEqual((self.admission.asked, self.codes()), ([FIRST, SECOND, THIRD], [0, 0, 0]))
        self.assertEqual(self.kept()[0].call_id, self.admission.ids[0])

    def test_while_it_waits(self) -> None:
        """A call that still waits may be withdrawn yet: it counts when it was dialled, and the others go on."""
        self.admission.waiting = []
        self.begin()
        self.world.clock.advance(0)
        self.admission.accepts = CallState.ACCEPTED
        self.admission.accept(FIRST, self.admission.ids[0])
        self.crash()
        self.load()
        self.world.advance(5)
        self.assertEqual((self.codes(), self.over), ([None, 0, 0], []))
        self.admission.accept(FIRST, self.admission.ids[0])
        self.world.advance(DOUBT + 1)
        self.assertEqual((self.admission.asked, self.codes(), len(self.over)), ([FIRST, SECOND, THIRD], [0, 0, 0], 1))

    def test_withdrawn(self) -> None:
        """A store that did not answer has withdrawn the call or not: it is asked before the row is asked for again."""
        self.admission.answers = {FIRST: [Unavailable("the store can't keep calls now", 5)]}
        self.begin()
        self.world.clock.advance(0)
        self.admission.accept(FIRST, self.admission.ids[0])
        self.world.advance(8)
        self.assertEqual((self.admission.asked, self.codes()), ([FIRST, SECOND, THIRD], [0, 0, 0]))

    def test_torn_entry(self) -> None:
        """An entry that was cut short said nothing; the rest of the journal is gone on with."""
        self.begin()
        self.world.clock.advance(0)
        journal = self.files.journal(ID)
        text = journal.read_text()
        self.crash()
        journal.write_text(text[:-5])
        self.load()
        self.world.advance(3)
        self.assertEqual((self.admission.asked, self.codes()), ([FIRST, SECOND, THIRD], [0, 0, 0]))

    def test_paused(self) -> None:
        """What was paused stays so; what was done stays so."""
        batch = self.begin()
        self.world.clock.advance(0)
        batch.pause()
        self.crash()
        self.assertEqual(self.load().standing.state, State.PAUSED)
        self.world.advance(5)
        self.assertEqual(self.admission.asked, [FIRST])
        self.run_.resume()
        self.world.advance(3)
        at = self.over[0].at
        self.crash()
        self.load()
        self.assertEqual(self.over[1:], [Over(State.DONE, at, {0: 3})])

    def test_cancelled(self) -> None:
        """Of what was cancelled only the rows in doubt are looked for."""
        self.admission.waiting = []
        batch = self.begin()
        self.world.advance(1.1)
        batch.cancel()
        self.admission.accept(FIRST, self.admission.ids[0])
        self.crash()
        self.load()
        self.world.advance(1)
        self.assertEqual((self.admission.asked, self.codes()), ([FIRST, SECOND], [0, None, None]))
        self.assertEqual((self.over[0].state, self.over[0].codes), (State.CANCELLED, {0: 1}))


class CustomerTests(RunCase):
    def test_pause(self) -> None:
        """While it is paused nothing is asked for; what was asked for has its answer."""
        self.admission.waiting = []
        batch = self.begin()
        self.world.clock.advance(0)
        self.successResultOf(batch.pause())
        self.admission.answer()
        self.world.advance(5)
        self.assertEqual((self.admission.asked, self.codes(), self.over), ([FIRST], [0, None, None], []))
        batch.resume()
        self.world.advance(0.2)
        self.assertEqual(self.admission.asked, [FIRST, SECOND])

    def test_pause_at_the_last_moment(self) -> None:
        """A row whose id is being written when it is paused is not asked for."""
        for act, code in (("pause", None), ("cancel", None)):
            self.setUp()
            batch = self.begin()
            self.world.thread.held = []
            self.world.clock.advance(0)
            getattr(batch, act)()
            self.world.thread.work()
            self.world.thread.work()
            self.assertEqual((self.admission.asked, self.codes()[0]), ([], code))

    def test_pause_while_a_row_in_doubt_is_looked_for(self) -> None:
        """A row that turns out to be free then is not asked for either."""
        self.admission.answers = {FIRST: [Unavailable("away", 1)]}
        batch = self.begin()
        looking: Deferred[None] = Deferred()
        self.store.find_call = lambda call_id: looking  # type: ignore[method-assign, assignment, return-value]
        self.world.advance(1.2)
        batch.pause()
        looking.callback(None)
        self.assertEqual(self.admission.asked, [FIRST])
        batch.resume()
        self.world.advance(1)
        self.assertEqual(self.admission.asked, [FIRST, FIRST])

    def test_cancel(self) -> None:
        """What was cancelled is over when the last answer is there; rows that wait are left alone."""
        self.admission.waiting = []
        batch = self.begin()
        self.world.advance(1.1)
        self.successResultOf(batch.cancel())
        self.assertEqual(self.over, [])
        self.admission.answers = {SECOND: [ReturnCode.FLOOD]}
        self.admission.answer()
        self.assertEqual(self.over, [Over(State.CANCELLED, batch.standing.at, {0: 1})])
        self.world.advance(100)
        self.assertEqual(self.admission.asked, [FIRST, SECOND])
        self.assertEqual(batch.rows[2].code, None)

    def test_cancel_what_waits_for_long(self) -> None:
        """It is over at once, whatever it waited for."""
        self.admission.all = ReturnCode.FLOOD
        batch = self.begin()
        self.world.advance(3)
        batch.cancel()
        self.assertEqual(self.over[0].codes, {})

    def test_cancel_meets_a_refusal(self) -> None:
        """A refusal that would have paused it comes too late."""
        self.admission.waiting = []
        batch = self.begin()
        self.world.clock.advance(0)
        batch.cancel()
        self.admission.all = ReturnCode.NO_CREDITS
        self.admission.answer()
        self.assertEqual((self.over[0].state, self.over[0].codes), (State.CANCELLED, {}))

    def test_stop(self) -> None:
        """When the daemon stops nothing more is asked for; what was asked for is noted, and the state is as it was."""
        self.admission.waiting = []
        batch = self.begin()
        self.world.clock.advance(0)
        batch.stop()
        self.admission.answer()
        self.world.advance(5)
        self.assertEqual((self.admission.asked, self.codes(), self.state()), ([FIRST], [0, None, None], None))
        self.load()
        self.admission.waiting = None
        self.world.advance(3)
        self.assertEqual(self.codes(), [0, 0, 0])

    def test_stop_at_the_last_moment(self) -> None:
        """A row whose id is being written when the daemon stops is not asked for."""
        batch = self.begin()
        self.world.thread.held = []
        self.world.clock.advance(0)
        batch.stop()
        self.world.thread.work()
        self.assertEqual(self.admission.asked, [])

    def test_full_disk(self) -> None:
        """While the journal can't be written nothing is asked for."""
        batch = self.begin()
        path = self.files.journal(ID)
        away = path.with_name("away")
        path.rename(away)
        self.world.advance(20)
        self.assertEqual((self.admission.asked, batch.trouble), ([], "No such file or directory"))
        away.rename(path)
        self.world.advance(10)
        self.assertEqual((sorted(self.admission.asked), self.codes()), ([FIRST, SECOND, THIRD], [0, 0, 0]))
