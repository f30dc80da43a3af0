"""The outbox: what it keeps, what a kill leaves, and what it says when the disk is full."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from calledind.store.interface import StoreUnavailable
from calledind.store.outbox import NAME, Outbox
from tests.store.fakes import Faults, HandClock, HandRunner


class OutboxTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.faults = Faults()
        self.box = self.reopen()

    def reopen(self) -> Outbox:
        """Make another on the folder, as after a kill."""
        self.runner = HandRunner()
        return Outbox(HandClock(), self.folder, runner=lambda _reactor, _name: self.runner, connect=self.faults.connect)

    def test_what_was_put_is_there_after_a_kill(self) -> None:
        """Without a `close`, another process finds the entries, the oldest first."""
        self.assertEqual(self.successResultOf(self.box.open()), [])
        self.successResultOf(self.box.put("b", "settle", "{}"))
        self.successResultOf(self.box.put("a", "answer", '{"x": "é"}'))
        found = self.successResultOf(self.reopen().open())
        self.assertEqual(found, [("b", "settle", "{}"), ("a", "answer", '{"x": "é"}')])

    def test_the_same_call_and_kind_replaces(self) -> None:
        """The newer text stands where the older was."""
        self.successResultOf(self.box.open())
        self.successResultOf(self.box.put("a", "settle", "1"))
        self.successResultOf(self.box.put("b", "settle", "2"))
        self.successResultOf(self.box.put("a", "settle", "3"))
        found = self.successResultOf(self.reopen().open())
        self.assertEqual(found, [("a", "settle", "3"), ("b", "settle", "2")])

    def test_removed_is_gone(self) -> None:
        """An entry that was replayed is not found again; to remove one that is not there is fine."""
        self.successResultOf(self.box.open())
        self.successResultOf(self.box.put("a", "settle", "1"))
        self.successResultOf(self.box.put("a", "answer", "2"))
        self.successResultOf(self.box.remove("a", "settle"))
        self.successResultOf(self.box.remove("z", "settle"))
        self.assertEqual(self.successResultOf(self.reopen().open()), [("a", "answer", "2")])

    def test_what_gathers_is_written_by_one_commit(self) -> None:
        """While one is written, those that come wait, and are written together after it."""
        self.successResultOf(self.box.open())
        self.runner.held = True
        waiting = [self.box.put(str(number), "settle", "x") for number in range(10)]
        before = self.faults.statements
        self.runner.release()
        for each in waiting:
            self.successResultOf(each)
        self.assertEqual(self.faults.statements - before, 2)

    def test_a_full_disk(self) -> None:
        """What could not be kept fails in words; when there is room again, it can be."""
        self.successResultOf(self.box.open())
        self.successResultOf(self.box.put("a", "settle", "1"))
        self.faults.at_commit = sqlite3.OperationalError("database or disk is full")
        error = self.failureResultOf(self.box.put("b", "settle", "2"), StoreUnavailable)
        self.assertIn("is full; make room", error.getErrorMessage())
        self.faults.mend()
        self.successResultOf(self.box.put("c", "settle", "3"))
        self.assertEqual(self.successResultOf(self.reopen().open()), [("a", "settle", "1"), ("c", "settle", "3")])

    def test_a_damaged_file(self) -> None:
        """A file that is none of SQLite's is told, and not overwritten."""
        self.folder.mkdir()
        (self.folder / NAME).write_bytes(b"no database at all" * 100)
        error = self.failureResultOf(self.box.open(), StoreUnavailable)
        self.assertIn("is damaged", error.getErrorMessage())
        self.assertEqual((self.folder / NAME).read_bytes(), b"no database at all" * 100)

    def test_a_folder_that_can_not_be_made(self) -> None:
        """The words name the file."""
        self.folder.write_text("a file")
        error = self.failureResultOf(self.box.open(), StoreUnavailable)
        self.assertIn(str(self.folder / NAME), error.getErrorMessage())

    def test_close_writes_what_waits(self) -> None:
        """What was put before `close` is kept, what comes after it is refused."""
        self.successResultOf(self.box.open())
        self.runner.held = True
        waiting = [self.box.put("a", "settle", "1"), self.box.put("b", "settle", "2")]
        closed = self.box.close()
        self.assertNoResult(closed)
        self.failureResultOf(self.box.put("c", "settle", "3"), StoreUnavailable)
        self.runner.release()
        for each in [*waiting, closed]:
            self.successResultOf(each)
        self.assertEqual(len(self.successResultOf(self.reopen().open())), 2)

    def test_nobody_else_may_read_it(self) -> None:
        """The file holds phone numbers."""
        self.successResultOf(self.box.open())
        self.assertEqual((self.folder / NAME).stat().st_mode & 0o777, 0o600)


class InAThreadTests(TestCase):
    async def test_with_a_real_thread(self) -> None:
        """Entries are kept and found again, and the thread ends."""
        folder = Path(self.mktemp())
        first = Outbox(reactor, folder)
        self.assertEqual(await first.open(), [])
        await first.put("a", "settle", "1")
        await first.close()
        second = Outbox(reactor, folder)
        self.assertEqual(await second.open(), [("a", "settle", "1")])
        await second.close()
