"""A switch for tests: the process dies, as by a power cut, at one named point of a call's life.

`CALLEDIN_CRASH_AT=dial.committed` kills it the first time it comes there, `dial.committed:3` the third. Nothing is
done where the variable is not set.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

POINTS: Mapping[str, str] = {}
"Name -> what has happened by then, and what has not, in the order of a call's life."


class _Switch:
    def __init__(self, wanted: str) -> None:
        self._point, _, times = wanted.partition(":")
        self._left = int(times or 1)

    def __call__(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def _nothing(_: str) -> None:
    """Go on."""


crash_at = _Switch(os.environ["CALLEDIN_CRASH_AT"]) if os.environ.get("CALLEDIN_CRASH_AT") else _nothing
"Called at each point with its name."
