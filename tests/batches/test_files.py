# mypy: allow-untyped-calls
"""A batch on disk: whole or not there, and read as its journal left it."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from calledind.batches import files
from calledind.batches.files import Broken, Files, Over, Standing, State
from tests.batches.world import ID, NOW, make_order, numbers

OTHER = "f" * 32


class FilesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp())
        self.files = Files(self.root)
        self.assertEqual(self.files.clean(), [])

    def journal(self, *lines: str) -> None:
        self.files.create(make_order(), numbers(3))
        self.files.journal(ID).write_text("".join(lines))

    def test_created(self) -> None:
        """What was kept is read again, and nobody else may read it."""
        order = make_order(callback_url="http://a.example/", token="t", fingerprint="f")
        self.files.create(order, numbers(3))
        self.assertEqual(self.files.read_order(ID), (order, None))
        self.assertEqual(self.files.read_rows(ID), (numbers(3), None, 0))
        self.assertEqual(self.files.clean(), [ID])
        folder = self.root / ID
        self.assertEqual([each.stat().st_mode & 0o777 for each in (self.root, folder)], [0o700] * 2)
        self.assertEqual({each.stat().st_mode & 0o777 for each in folder.iterdir()}, {0o600})

    def test_not_created(self) -> None:
        """A batch that could not be written whole is not there, nor is one whose writing was cut short."""
        with mock.patch.object(files, "sync_folder", side_effect=OSError(28, "full")):
            self.assertRaises(OSError, self.files.create, make_order(), numbers(3))
        self.assertEqual(list(self.root.iterdir()), [])
        (self.root / f".{ID}").mkdir()
        (self.root / "notes.txt").touch()
        self.assertEqual(self.files.clean(), [])
        self.assertEqual([each.name for each in self.root.iterdir()], ["notes.txt"])

    def test_journal(self) -> None:
        """The journal says which row is in doubt, which has its code, and in which state the batch is."""
        self.journal(
            '{"row":1,"id":"aa"}\n{"row":1,"code":0,"at":1.5}\n{"row":2,"id":"bb"}\n{"row":3,"id":"cc"}\n',
            '{"row":3,"code":6,"at":2.5}\n{"state":"paused","at":3.5,"code":2,"words":"none"}\n',
        )
        rows, standing, size = self.files.read_rows(ID)
        self.assertEqual(
            [(row.call_id, row.code, row.at) for row in rows], [("aa", 0, 1.5), ("bb", None, 0), ("cc", 6, 2.5)]
        )
        self.assertEqual(standing, Standing(State.PAUSED, 3.5, 2, "none"))
        self.assertEqual(size, self.files.journal(ID).stat().st_size)

    def test_torn_line(self) -> None:
        """A last line that was cut short said nothing."""
        self.journal('{"row":1,"id":"aa"}\n{"row":1,"co')
        rows, standing, size = self.files.read_rows(ID)
        self.assertEqual((rows[0].call_id, rows[0].code, standing, size), ("aa", None, None, 20))

    def test_broken(self) -> None:
        """What can't have been written is told, not guessed at."""
        for line in ('{"row":9,"id":"aa"}\n', "{}\n", "nonsense\n", '{"state":"odd","at":1}\n'):
            self.journal(line)
            self.assertRaises(Broken, self.files.read_rows, ID)
            self.files.remove(ID)
        self.files.create(make_order(), numbers(3))
        (self.root / ID / "batch.json").write_text("{}")
        self.assertRaises(Broken, self.files.read_order, ID)

    def test_over(self) -> None:
        """How a batch ended is kept; a batch that is removed is gone."""
        self.files.create(make_order(), numbers(3))
        over = Over(State.DONE, NOW, {0: 2, 6: 1})
        self.files.finish(ID, over)
        self.assertEqual(self.files.read_order(ID)[1], over)
        self.files.create(make_order(id=OTHER), numbers(1))
        self.assertEqual(self.files.clean(), [ID, OTHER])
        self.files.remove(ID)
        self.assertEqual(self.files.clean(), [OTHER])
