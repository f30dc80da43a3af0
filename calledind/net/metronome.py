"""When the slices of the 20 ms are due: absolute deadlines, and what to do when they were missed.

A deadline is the one before plus 2 ms, whatever happened in between, so that no error adds up. A process that
was held up does not send what it missed at once (a phone would drop the burst): slices then follow each other a
quarter faster until the deadlines are met again. Who is very late shifts all deadlines instead: every packet is
sent still, later.
"""

from __future__ import annotations

SLICE = 0.002
"Seconds."
LATE = 0.005
"A slice that begins later than this after its deadline makes its packets late ones."

_SHORTEST = 0.75 * SLICE
"Between the beginnings of two slices."
_SHIFT = 0.2
"Lateness in seconds from which on the deadlines are moved."


class Metronome:
    """Counts the slices."""

    def __init__(self, now: float) -> None:
        self.count = 0
        "Slices begun so far, those that were skipped too; by it the next one's phases are found."
        self._due = now
        self._earliest = now

    def restart(self, now: float) -> None:
        """Have the next slice due at once, after a time in which nothing was due."""
        self._due = self._earliest = now

    def wait(self, now: float) -> float:
        """Return the seconds until the next slice should begin; 0 or less: now."""
        return max(self._due, self._earliest) - now

    def skip(self, slices: int) -> None:
        """Leave out so many slices in which nothing is due; their time passes like that of the others."""
        self.count += slices
        self._due += slices * SLICE
        self._earliest += slices * _SHORTEST

    def begin(self, now: float) -> float:
        """Begin a slice; return how late it is, in seconds."""
        lateness = now - self._due
        if lateness > _SHIFT:
            self._due = now
        self._due += SLICE
        self._earliest = now + _SHORTEST
        self.count += 1
        return lateness
