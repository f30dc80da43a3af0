"""Records of calls: what is in them, and the file that they go to."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.model import Reason
from calledind.observability import cdr_file
from calledind.observability.cdr import FIELDS, Format, Media, Numbers, header, line, record
from calledind.observability.cdr_file import CdrFile
from calledind.observability.courses import Course
from tests.dialing.world import START, make_call
from tests.observability.test_metrics import STATISTICS, make_outcome
from tests.store.fakes import HandRunner

CALL = make_call()
COURSE = Course("a", START + 1, START + 2)
MEDIA = Media("PCMU", STATISTICS)


class RecordTests(SynchronousTestCase):
    def test_answered(self) -> None:
        """All that is known, times in UTC, the number as short as is wanted."""
        made = record(CALL, make_outcome(sip_status=200), node="east", numbers="last4", course=COURSE, media=MEDIA)
        self.assertEqual(tuple(made), FIELDS)
        for name, value in {
            "id": CALL.id,
            "node": "east",
            "number": "0100",
            "country_code": "1",
            "dialled_at": "2027-01-15T08:00:01.000Z",
            "billed_seconds": 12.0,
            "outcome": "answered",
            "reason": None,
            "trunk": "a",
            "sip_status": 200,
            "codec": "PCMU",
            "packets_lost_to_callee": 1,
            "jitter_to_callee_ms": 12.0,
            "jitter_from_callee_ms": 4.0,
            "round_trip_ms": 60.0,
            "mos": 4.2,
        }.items():
            self.assertEqual(made[name], value, name)
        self.assertEqual(record(CALL, make_outcome(), node="", numbers="full")["number"], "2125550100")

    def test_not_answered(self) -> None:
        """What is not known is empty."""
        outcome = make_outcome(answered=False, reason=Reason.RING_TIMEOUT)
        made = record(CALL, outcome, node="east", numbers="last4")
        self.assertEqual((made["outcome"], made["reason"], made["rang"]), ("ring_timeout", 3, True))
        self.assertEqual(
            (made["billed_seconds"], made["answered_at"], made["dialled_at"], made["mos"]), (0.0, None, None, None)
        )
        row = next(csv.DictReader([header("csv"), line(made, "csv")]))
        self.assertEqual((row["reason"], row["rang"], row["answered_at"], row["mos"]), ("3", "1", "", ""))
        self.assertEqual((header("json"), json.loads(line(made, "json"))), ("", made))


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.thread = HandRunner()
        self.path = Path(self.mktemp())
        self.lines: list[str] = []

    def make(self, format: Format = "csv", numbers: Numbers = "last4") -> CdrFile:
        made = CdrFile(self.clock, self.thread, self.path, format=format, numbers=numbers, node="east")
        made.start()
        self.addCleanup(made.stop)
        self.patch(CdrFile, "log", Told(self.lines))
        return made

    def ids(self) -> list[str]:
        with self.path.open(newline="") as file:
            return [row["id"].lstrip("0") for row in csv.DictReader(file)]

    def test_either_order(self) -> None:
        """The figures of a call's packets come before its end or after it; a call has one line."""
        file = self.make()
        one, two = make_call("1"), make_call("2")
        file.media(one.id, MEDIA)
        file.ended(one, make_outcome(), COURSE)
        file.ended(two, make_outcome(), COURSE)
        file.media(two.id, MEDIA)
        self.clock.advance(1)
        self.assertEqual(self.ids(), ["1", "2"])
        self.assertEqual(self.path.read_text().count("PCMU"), 2)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o640)

    def test_no_figures(self) -> None:
        """Who was not answered waits for none, others for two seconds, and no longer than the daemon runs."""
        file = self.make()
        file.ended(make_call("1"), make_outcome(answered=False, reason=Reason.BUSY), None)
        file.ended(make_call("2"), make_outcome(), None)
        self.clock.advance(1)
        self.assertEqual(self.ids(), ["1"])
        self.clock.pump([1, 1])
        self.assertEqual(self.ids(), ["1", "2"])
        file.ended(make_call("3"), make_outcome(), None)
        self.successResultOf(file.stop())
        self.assertEqual(self.ids(), ["1", "2", "3"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_header_once(self) -> None:
        """A file that is there is added to; one that was moved away begins anew."""
        for name in ("1", "2"):
            file = self.make()
            file.ended(make_call(name), make_outcome(answered=False), None)
            self.successResultOf(file.stop())
        self.assertEqual(self.ids(), ["1", "2"])
        file = self.make()
        self.path.rename(self.path.with_suffix(".1"))
        file.reopen()
        file.ended(make_call("3"), make_outcome(answered=False), None)
        self.clock.advance(1)
        self.assertEqual(self.ids(), ["3"])

    def test_full_disk(self) -> None:
        """What can't be written waits, the oldest is lost where there is too much, and the log tells it once."""
        self.patch(cdr_file, "MOST_WAITING", 2)
        self.path.symlink_to("/dev/full")
        file = self.make()
        for name in ("1", "2", "3"):
            file.ended(make_call(name), make_outcome(answered=False), None)
            self.clock.advance(1)
        self.assertEqual((len(self.lines), file.lost), (1, 1))
        self.assertIn("No space left on device", self.lines[0])
        self.path.unlink()
        file.reopen()
        self.clock.advance(1)
        self.assertEqual(self.ids(), ["2", "3"])
        self.assertEqual(self.lines[1:], ["records of calls are written again"])

    def test_half_a_line(self) -> None:
        """Of a piece that did not fit nothing stays, so that the next begins at the beginning of a line."""
        file = self.make("json")
        file.ended(make_call("1"), make_outcome(answered=False), None)
        self.clock.advance(1)
        before = self.path.read_bytes()
        room = [1]

        def write(descriptor: int, piece: memoryview) -> int:
            if not room:
                raise OSError(28, "No space left on device")
            room.pop()
            return int(real(descriptor, piece[:7]))

        real = cdr_file.os.write  # type: ignore[attr-defined]
        self.patch(cdr_file.os, "write", write)  # type: ignore[attr-defined]
        file.ended(make_call("2"), make_outcome(answered=False), None)
        self.clock.advance(1)
        self.assertEqual(self.path.read_bytes(), before)
        self.patch(cdr_file.os, "write", real)  # type: ignore[attr-defined]
        self.clock.advance(1)
        self.assertEqual([json.loads(each)["id"][-1] for each in self.path.read_text().splitlines()], ["1", "2"])

    def test_slow_disk(self) -> None:
        """While a write is under way no other begins, and the last lines are written before the end."""
        file = self.make()
        self.thread.held = True
        file.ended(make_call("1"), make_outcome(answered=False), None)
        self.clock.advance(1)
        file.ended(make_call("2"), make_outcome(answered=False), None)
        self.clock.advance(1)
        self.assertEqual(len(self.thread.jobs), 1)
        stopping = file.stop()
        self.assertNoResult(stopping)
        self.thread.held = False
        self.thread.step()
        self.successResultOf(stopping)
        self.assertEqual(self.ids(), ["1", "2"])

    def test_never_written(self) -> None:
        """What could not be written by the end is told."""
        self.path.symlink_to("/dev/full")
        file = self.make()
        file.ended(make_call("1"), make_outcome(answered=False), None)
        self.successResultOf(file.stop())
        self.assertEqual((file.lost, self.lines[-1]), (1, "1 records of calls were never written"))

    def test_no_folder(self) -> None:
        """A folder that is not there is told at the start."""
        self.path = self.path / "x" / "cdr.csv"
        self.assertRaises(OSError, self.make)

    def test_bounded(self) -> None:
        """Figures of calls that never end are forgotten."""
        self.patch(cdr_file, "MOST_MEDIA", 1)
        file = self.make()
        for name in ("1", "2"):
            file.media(make_call(name).id, MEDIA)
        for name in ("1", "2"):
            file.ended(make_call(name), make_outcome(), None)
        self.clock.advance(1)
        self.assertEqual(self.ids(), ["2"])


class Told:
    """A logger that keeps its lines."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def info(self, text: str, **values: Any) -> None:
        self._lines.append(text.format(**values))

    error = info
