# mypy: allow-untyped-calls
"""The journal of a batch: in order, grouped, and whole after a disk that was full."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.batches.journal import AGAIN, Journal
from tests.batches.world import FakeThread
from tests.service.recorder import Lines


class JournalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.thread = FakeThread(held=[])
        self.path = Path(self.mktemp())
        self.path.touch()
        self.lines: list[str] = []

    def make(self, size: int = 0) -> Journal:
        journal = Journal(self.clock, self.thread, self.path, size)
        setattr(journal, "log", Lines(self.lines))  # noqa: B010 - the class says Logger
        return journal

    def written(self) -> str:
        return self.path.read_text()

    def test_groups(self) -> None:
        """What comes while a write is under way goes with the next one, and each is told when it is on disk."""
        journal = self.make()
        syncs: list[int] = []
        self.patch(os, "fsync", syncs.append)
        kept = [journal.note({"row": index}) for index in range(3)]
        self.thread.work()
        self.assertEqual(self.successResultOf(kept[0]), None)
        self.assertNoResult(kept[1])
        self.thread.work()
        for each in kept[1:]:
            self.successResultOf(each)
        self.assertEqual((self.written(), len(syncs)), ('{"row":0}\n{"row":1}\n{"row":2}\n', 2))

    def test_torn_line(self) -> None:
        """What is behind the last whole line is cut off before anything is written."""
        self.path.write_text('{"row":1}\n{"ro')
        self.make(10).note({"row": 2})
        self.thread.work()
        self.assertEqual(self.written(), '{"row":1}\n{"row":2}\n')

    def test_full_disk(self) -> None:
        """Where the disk is full it waits, says so, and goes on when there is room, with nothing half written left."""
        journal = self.make()
        write, room = os.pwrite, [3, 0, 100, 100]

        def pwrite(descriptor: int, data: Any, place: int) -> int:
            left = room.pop(0)
            if not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, bytes(data)[:left], place)

        with mock.patch.object(os, "pwrite", pwrite):
            first = journal.note({"row": 1})
            self.thread.work()
            second = journal.note({"row": 2})
            self.assertNoResult(first)
            self.assertEqual((journal.trouble, self.written()), ("No space left on device", '{"r'))
            self.clock.advance(AGAIN - 0.1)
            self.assertEqual(self.thread.held, [])
            self.clock.advance(0.1)
            self.thread.work()
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual((journal.trouble, self.written()), ("", '{"row":1}\n{"row":2}\n'))
        self.assertEqual(
            [line.partition(",")[0] for line in self.lines],
            ["a batch's journal can't be written", "a batch's journal can be written again"],
        )

    def close(self, journal: Journal) -> Deferred[None]:
        closing = journal.close()
        self.thread.work()
        self.successResultOf(closing)
        return closing

    def test_closed(self) -> None:
        """What was noted before the end is written, what comes later is not."""
        journal = self.make()
        journal.note({"row": 1})
        journal.note({"row": 2})
        self.close(journal)
        journal.note({"row": 3})
        self.assertEqual((self.thread.held, self.written()), ([], '{"row":1}\n{"row":2}\n'))

    def test_closed_unused(self) -> None:
        """One that never wrote has nothing to close."""
        self.close(self.make())
        self.assertEqual(self.written(), "")

    def test_closed_in_trouble(self) -> None:
        """At the end, what can't be written is given up."""
        journal = self.make()
        self.path.unlink()
        journal.note({"row": 1})
        self.thread.work()
        self.assertEqual(journal.trouble, "No such file or directory")
        self.close(journal)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        late = self.make()
        late.note({"row": 1})
        self.close(late)
        self.assertEqual((self.clock.getDelayedCalls(), self.thread.held), ([], []))
