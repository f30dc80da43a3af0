"""Files of numbers, their journal and their results."""

from __future__ import annotations

import json
from pathlib import Path

import click
from twisted.trial.unittest import SynchronousTestCase

from calledind.cli.bulk import Journal, Line, WrongFile, read_lines, read_rate, summary, write_results

RUN = {"file": "aa", "key_id": "key_1"}


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.file = self.folder / "numbers.csv"

    def lines(self, text: str, *, has_mp3: bool = True) -> list[Line]:
        self.file.write_text(text, encoding="utf-8")
        return read_lines(self.file, "1", has_mp3=has_mp3)

    def test_columns(self) -> None:
        """Columns come in any order and in any case, a country code may be in the number, and others are left alone."""
        lines = self.lines(
            "\ufeffName,Country_Code,PHONE_NUMBER,secret\nA,44,2079460000,x\nB,,+1 212-555-0100,\n\nC,,2125550101\n"
        )
        self.assertEqual(
            [(line.number, line.country_code, line.phone_number, line.wanted, line.wrong) for line in lines],
            [
                (2, "44", "2079460000", {"secret": "x"}, ""),
                (3, "1", "2125550100", {}, ""),
                (5, "1", "2125550101", {}, ""),
            ],
        )

    def test_wrong_lines(self) -> None:
        """A line that names nobody, or nothing to play, is told as wrong, and does not stop the others."""
        lines = self.lines("phone_number,mp3\nabc,http://x/a\n2125550100,\n2125550101,http://x/a\n", has_mp3=False)
        self.assertEqual([bool(line.wrong) for line in lines], [True, True, False])
        self.assertEqual([line.result for line in lines], ["wrong", "wrong", "not called"])

    def test_wrong_files(self) -> None:
        """A file without names of columns, or that is not text, is refused as a whole."""
        for text in ("", "2125550100\n"):
            self.assertRaises(WrongFile, self.lines, text)
        self.file.write_bytes(b"phone_number\n\xff\n")
        self.assertRaises(WrongFile, read_lines, self.file, "1", has_mp3=True)

    def test_rates(self) -> None:
        """A rate is calls per second, minute or hour."""
        self.assertEqual([read_rate(text) for text in ("5", "2.5/s", "90/m", "3600/h")], [5, 2.5, 1.5, 1])
        for text in ("0/s", "-1", "5/x", "fast"):
            self.assertRaises(click.UsageError, read_rate, text)

    def journal(self, described: dict[str, str] = RUN) -> tuple[Journal, list[Line], bool]:
        lines = [Line(number, "1", f"212555010{number}") for number in (2, 3, 4)]
        journal = Journal(self.folder / "journal", described)
        self.addCleanup(journal.close)
        return journal, lines, journal.open(lines)

    def test_journal(self) -> None:
        """What was noted is found again; a last line that was cut short counts as not written."""
        journal, _, went_on = self.journal()
        self.assertFalse(went_on)
        outcome = {"answered": False, "reason": 5, "sip_status": 486, "detail": "Busy Here"}
        journal.note(
            {"line": 2, "id": "a"}, {"line": 2, "code": 0}, {"line": 3, "id": "b"}, {"line": 2, "outcome": outcome}
        )
        journal.close()
        with journal.path.open("a") as kept:
            kept.write('{"line": 4, "i')
        journal, lines, went_on = self.journal()
        self.assertTrue(went_on)
        self.assertEqual(
            [(line.call_id, line.code, line.result) for line in lines],
            [("a", 0, "busy"), ("b", None, "not called"), ("", None, "not called")],
        )
        journal.note({"line": 4, "id": "c"})
        self.assertEqual(
            [json.loads(line)["line"] for line in journal.path.read_text().splitlines()[1:]], [2, 2, 3, 2, 4]
        )

    def test_journal_of_another_run(self) -> None:
        """A journal of something else is left alone, and so is one that another process works with."""
        journal, _, _ = self.journal()
        self.assertIn("another `calledin call`", str(self.assertRaises(WrongFile, self.journal).message))
        journal.close()
        self.assertIn(
            "key_id differ", str(self.assertRaises(WrongFile, self.journal, {**RUN, "key_id": "key_2"}).message)
        )

    def test_results(self) -> None:
        """Each line has its row, and each result is counted."""
        answered = Line(2, "1", "2125550100", call_id="a", code=0)
        answered.outcome = {"answered": True, "reason": None, "answered_at": 10.0, "ended_at": 12.34, "sip_status": 200}
        refused = Line(3, "1", "2125550101", call_id="b", code=6, words="too soon")
        lines = [answered, refused, Line(4, "1", "2125550102")]
        path = self.folder / "results.csv"
        write_results(path, lines)
        rows = path.read_text().splitlines()
        self.assertEqual(rows[1], "2,1,2125550100,a,answered,0,2.3,200,")
        self.assertEqual(rows[2], "3,1,2125550101,,refused,6,,,too soon")
        self.assertEqual(summary(lines), {"lines": 3, "answered": 1, "refused": 1, "not called": 1})
        self.assertRaises(click.FileError, write_results, self.folder / "no" / "where", lines)
