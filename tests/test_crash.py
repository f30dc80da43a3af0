"""Tests for `calledind.crash`: the points are where the table says, and the switch kills at one of them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import calledind
from calledind import crash

CALLED = re.compile(r'crash_at\("([^"]+)"\)')


class PointsTests(SynchronousTestCase):
    def test_every_point_is_once_in_the_code(self) -> None:
        """Each name of the table is called at one place, and what is called is in the table."""
        sources = [path for path in Path(calledind.__file__).parent.rglob("*.py") if path.name != "crash.py"]
        called = Counter(name for path in sources for name in CALLED.findall(path.read_text(encoding="utf-8")))
        self.assertEqual(called, Counter(list(crash.POINTS)))

    def test_there_are_enough(self) -> None:
        """A call's life is cut in more than thirty pieces, and each point has words of its own."""
        self.assertGreater(len(crash.POINTS), 30)
        self.assertEqual(len(set(crash.POINTS.values())), len(crash.POINTS))


class SwitchTests(SynchronousTestCase):
    def outcome(self, wanted: str | None, *points: str) -> tuple[int, str]:
        """Come to these points in a process of its own; its exit status, and those that it passed."""
        program = "from calledind.crash import crash_at\n"
        program += "".join(f"crash_at({point!r}); print({point!r}, flush=True)\n" for point in points)
        environment = {"PYTHONPATH": str(Path(calledind.__file__).parents[1])}
        if wanted is not None:
            environment["CALLEDIN_CRASH_AT"] = wanted
        ended = subprocess.run(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True, check=False
        )
        return ended.returncode, ended.stdout.replace("\n", " ").strip()

    def test_dies_there(self) -> None:
        """The process is killed the first time it comes to the point, and passes the others."""
        self.assertEqual(self.outcome("b", "a", "b", "c"), (-signal.SIGKILL, "a"))

    def test_counts(self) -> None:
        """With a number, it is killed the so many-th time."""
        self.assertEqual(self.outcome("b:2", "b", "a", "b", "c"), (-signal.SIGKILL, "b a"))

    def test_goes_on(self) -> None:
        """Without the variable, or with an empty one, every point is passed."""
        for wanted in (None, ""):
            self.assertEqual(self.outcome(wanted, "a", "b"), (0, "a b"))

    def test_a_number_that_is_none(self) -> None:
        """What is no number is told at the start, and not taken for the first time."""
        status, passed = self.outcome("b:often", "a")
        self.assertEqual((status, passed), (1, ""))
