# mypy: allow-untyped-calls
"""All batches of a node: their bounds, what is read again after a start, what became of their calls."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from calledind.admission import Unavailable
from calledind.batches import batches as module
from calledind.batches.batches import COLUMNS, Batches, Kept, Outcomes, TooMany, Wanted
from calledind.batches.files import Files, Row, State
from calledind.model import Reason, ReturnCode
from calledind.store.interface import Store, StoreUnavailable
from tests.batches.world import DIGEST, NOW, FakeThread, World, numbers
from tests.service.recorder import Lines
from tests.store.contract import ANSWERED, BUSY

T = TypeVar("T")


class BatchesCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.root = Path(self.mktemp())
        self.lines: list[str] = []
        self.batches = self.make()
        self.successResultOf(self.batches.start(self.world.admission.admit))

    def make(self) -> Batches:
        self.world.thread = FakeThread()
        store = cast(Store, self.world.store)
        batches = Batches(self.world.clock, self.world.thread, self.root, store=store, now=self.world.now)
        setattr(batches, "log", Lines(self.lines))  # noqa: B010 - the class says Logger
        return batches

    def again(self) -> Batches:
        """Begin anew with what is on disk."""
        for timer in self.world.clock.getDelayedCalls():
            timer.cancel()
        self.batches = self.make()
        self.successResultOf(self.batches.start(self.world.admission.admit))
        return self.batches

    def wanted(self, rows: Sequence[Row] | None = None, **changes: Any) -> Wanted:
        rows = numbers(3) if rows is None else rows
        return replace(Wanted("https://example.com/a.mp3", 10.0, "0000000000", None, rows), **changes)

    def creating(self, key_id: str = "key_1", **changes: Any) -> Deferred[Kept]:
        return Deferred.fromCoroutine(self.batches.create(key_id, DIGEST, self.wanted(**changes)))

    def create(self, key_id: str = "key_1", **changes: Any) -> Kept:
        return self.successResultOf(self.creating(key_id, **changes))

    def done(self, work: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def failed(self, work: Any, kind: type[T]) -> T:
        value: T = self.failureResultOf(Deferred.fromCoroutine(work), kind).value
        return value


class LifeTests(BatchesCase):
    def test_to_the_end(self) -> None:
        """A batch runs, is over, and is known by its key alone."""
        kept = self.create()
        batch_id = kept.order.id
        self.assertEqual((kept.standing.state, kept.order.count, kept.trouble), (State.RUNNING, 3, ""))
        self.world.advance(1)
        self.assertEqual((kept.standing.state, kept.codes, kept.run, kept.trouble), (State.DONE, {0: 3}, None, ""))
        self.assertIs(self.batches.find("key_1", batch_id), kept)
        self.assertIsNone(self.batches.find("key_2", batch_id))
        self.assertIsNone(self.batches.find("key_1", "0" * 32))
        again = self.again().find("key_1", batch_id)
        assert again is not None
        self.assertEqual((again.order, again.standing, again.codes), (kept.order, kept.standing, {0: 3}))
        self.assertNotIn("212555", "".join(self.lines))

    def test_gone_on_with(self) -> None:
        """What runs is gone on with after a start, where it was."""
        batch_id = self.create().order.id
        self.world.clock.advance(0)
        kept = self.again().find("key_1", batch_id)
        assert kept is not None
        self.assertEqual((kept.standing.state, kept.codes), (State.RUNNING, {0: 1}))
        self.world.advance(1)
        self.assertEqual((kept.standing.state, len(self.world.admission.asked)), (State.DONE, 3))

    def test_stop(self) -> None:
        """When it stops nothing is asked for; what comes meanwhile waits for the next start."""
        first = self.create()
        self.batches.stop()
        second = self.create()
        self.world.advance(1)
        self.assertEqual(self.world.admission.asked, [])
        self.done(self.batches.close())
        self.assertTrue(self.world.thread.stopped)
        self.again()
        self.world.advance(1)
        states = [kept.standing.state for kept in self.batches.of_key("key_1")]
        self.assertEqual((states, len(self.world.admission.asked)), ([State.DONE] * 2, 6))
        self.assertEqual(
            [kept.order.id for kept in self.batches.of_key("key_1")], sorted([first.order.id, second.order.id])[::-1]
        )

    def test_not_started(self) -> None:
        """Before the start none is taken."""
        self.batches = self.make()
        self.assertFalse(self.batches.is_open)
        self.failureResultOf(self.creating(), Unavailable)

    def test_unreadable(self) -> None:
        """A batch that can't be read is told of and left alone; the others go on."""
        broken, well = self.create(), self.create()
        files = Files(self.root)
        files.journal(broken.order.id).write_text("nonsense\n")
        self.lines.clear()
        self.again()
        self.assertEqual([kept.order.id for kept in self.batches.of_key("key_1")], [well.order.id])
        self.assertIn("left alone", self.lines[0])
        self.assertTrue((self.root / broken.order.id).exists())

    def test_end_not_kept(self) -> None:
        """Where the end can't be kept, the next start finds it out from the journal."""
        kept = self.create()
        self.patch(Files, "finish", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        self.world.advance(1)
        self.assertIn("its end can't be kept", self.lines[-1])
        again = self.again().find("key_1", kept.order.id)
        assert again is not None
        self.world.advance(0.1)
        self.assertEqual(again.standing, kept.standing)

    def test_remove(self) -> None:
        """One that is over can be removed; where the disk says no, it stays."""
        kept = self.create()
        self.world.advance(1)
        remove = Files.remove
        self.patch(Files, "remove", lambda *_: (_ for _ in ()).throw(OSError(30, "read-only")))
        self.failed(self.batches.remove(kept), Unavailable)
        self.done(self.batches.forget(NOW + 100))
        self.assertEqual(self.batches.of_key("key_1"), [kept])
        self.patch(Files, "remove", remove)
        self.done(self.batches.remove(kept))
        self.done(self.batches.remove(kept))
        self.assertEqual((self.batches.of_key("key_1"), list(self.root.iterdir())), ([], []))

    def test_forget(self) -> None:
        """Those that were over before a moment are forgotten, those that run never."""
        self.create()
        self.world.advance(1)
        self.world.advance(10)
        late = self.create()
        self.world.advance(1)
        running = self.create(rate=0.01)
        self.done(self.batches.forget(self.world.now() - 5))
        self.assertEqual(self.batches.of_key("key_1"), [running, late])
        self.done(self.batches.forget(self.world.now() + 1000))
        self.assertEqual(self.batches.of_key("key_1"), [running])


class BoundsTests(BatchesCase):
    def test_unfinished(self) -> None:
        """A key has so many batches that are not over; those being written count."""
        self.patch(module, "MOST_UNFINISHED_OF_KEY", 2)
        self.create()
        self.world.thread.held = []
        creating = self.creating()
        self.failureResultOf(self.creating(), TooMany)
        self.world.thread.work()
        self.successResultOf(creating)
        self.world.thread.held = None
        self.failureResultOf(self.creating(), TooMany)
        self.create("key_2")

    def test_kept(self) -> None:
        """And so many in all."""
        self.patch(module, "MOST_OF_KEY", 1)
        kept = self.create()
        self.world.advance(1)
        self.assertIn("delete", str(self.failureResultOf(self.creating(), TooMany).value))
        self.done(self.batches.remove(kept))
        self.create()

    def test_rows_of_all(self) -> None:
        """All keys together have so many rows that wait."""
        self.patch(module, "MOST_WAITING_ROWS", 5)
        self.create("key_2")
        self.failureResultOf(self.creating(), Unavailable)
        self.create(rows=numbers(2))

    def test_not_kept(self) -> None:
        """A batch that can't be kept is refused."""
        self.root.rename(self.root.with_name("away"))
        error = self.failureResultOf(self.creating(), Unavailable).value
        self.assertEqual(str(error), "batches can't be kept now")
        self.assertEqual(self.batches.of_key("key_1"), [])

    def test_idempotent(self) -> None:
        """A batch is found by the name of its request."""
        kept = self.create(token="t")
        self.create()
        self.assertIs(self.batches.find_idempotent("key_1", "t"), kept)
        self.assertIsNone(self.batches.find_idempotent("key_1", ""))
        self.assertIsNone(self.batches.find_idempotent("key_2", "t"))


class ResultsTests(BatchesCase):
    def setUp(self) -> None:
        super().setUp()
        rows = numbers(5)
        self.world.admission.answers = {rows[4].phone_number: [ReturnCode.DO_NOT_CALL]}
        self.kept = self.create(rows=rows)
        self.world.advance(1)
        self.ids = self.world.admission.ids
        self.world.end(self.ids[0], ANSWERED)
        self.world.end(self.ids[1], BUSY)
        self.world.store.records.pop(self.ids[3])

    def results(self, kept: Kept) -> list[dict[str, str]]:
        text = self.done(self.batches.results(kept)).decode()
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        self.assertEqual(text.splitlines()[0], ",".join(COLUMNS))
        return rows

    def test_outcomes(self) -> None:
        """The calls are counted by what became of them; one that has ended is not looked at again."""
        outcomes = Outcomes(1, {int(Reason.BUSY): 1}, 1, 1)
        self.assertEqual(self.done(self.batches.outcomes(self.kept)), outcomes)
        self.world.store.looked.clear()
        self.assertEqual(self.done(self.batches.outcomes(self.kept)), outcomes)
        self.assertEqual(self.world.store.looked, self.ids[2:4])
        self.world.end(self.ids[2], ANSWERED)
        last = self.done(self.batches.outcomes(self.kept))
        self.world.store.looked.clear()
        self.assertEqual((last, self.done(self.batches.outcomes(self.kept))), (Outcomes(2, {5: 1}, 0, 1), last))
        self.assertEqual(self.world.store.looked, [])

    def test_results(self) -> None:
        """There is a line for each row with what became of it."""
        rows = self.results(self.kept)
        self.assertEqual([row["row"] for row in rows], ["1", "2", "3", "4", "5"])
        self.assertEqual([row["phone_number"] for row in rows], [row.phone_number for row in numbers(5)])
        self.assertEqual([row["code"] for row in rows], ["0", "0", "0", "0", "3"])
        self.assertEqual([row["call_id"] for row in rows], [*self.ids[:4], ""])
        self.assertEqual([row["state"] for row in rows], ["delivered", "delivered", "dialing", "forgotten", "refused"])
        self.assertEqual([row["answered"] for row in rows], ["1", "0", "", "", ""])
        self.assertEqual([row["reason"] for row in rows], ["", "5", "", "", ""])
        self.assertEqual(rows[0]["decided_at"], "2027-01-15T08:00:00.100Z")
        self.assertEqual([bool(row["ended_at"]) for row in rows], [True, True, False, False, False])
        self.assertEqual([bool(row["answered_at"]) for row in rows], [True, False, False, False, False])

    def test_rows_without_a_code(self) -> None:
        """A row that was not asked for waits, or is left out for good."""
        kept = self.create(rate=0.01)
        self.world.advance(0.1)
        self.assertEqual([row["state"] for row in self.results(kept)], ["dialing", "waiting", "waiting"])
        assert kept.run is not None
        kept.run.cancel()
        self.assertEqual([row["state"] for row in self.results(kept)], ["dialing", "cancelled", "cancelled"])

    def test_away(self) -> None:
        """A store that is away, and files that can't be read, are told as what they are."""
        self.world.store.away = StoreUnavailable("away")
        self.failed(self.batches.outcomes(self.kept), StoreUnavailable)
        Files(self.root).journal(self.kept.order.id).unlink()
        self.failed(self.batches.results(self.kept), Unavailable)
