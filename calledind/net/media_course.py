"""How the media of one call went, moment by moment: the figures at each of our RTCP reports, packed small.

The media process notes them, hands them over when the call ends, and the daemon keeps those of the last calls: thirty
octets for each five seconds of a call.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

FIELDS = (
    "at",
    "packets_sent",
    "packets_received",
    "packets_lost",
    "jitter",
    "packets_lost_by_peer",
    "jitter_by_peer",
    "round_trip",
    "mos",
)
"""Of one moment: seconds since the first packet was due, then what `net.media.MediaStatistics` has by then; the counts
are those of the call so far."""
MOST = 256
"Moments of one call."
UNKNOWN = -1.0
"In place of None."
_MAY_BE_UNKNOWN = frozenset({"jitter_by_peer", "round_trip", "mos"})


def note(course: array[float], at: float, figures: Mapping[str, float | None]) -> None:
    """Add a moment; nothing more where there are enough of them."""
    if len(course) < MOST * len(FIELDS):
        course.append(at)
        for name in FIELDS[1:]:
            value = figures[name]
            course.append(UNKNOWN if value is None else value)


def pack(course: array[float]) -> list[float]:
    """Return it as a list for the pipe, without digits that mean nothing."""
    return [round(value, 6) for value in course]


def moments(course: Sequence[float]) -> list[dict[str, float | None]]:
    """Return a dictionary for each moment, JSON-able."""
    found = []
    for start in range(0, len(course), len(FIELDS)):
        moment: dict[str, float | None] = {}
        for name, value in zip(FIELDS, course[start : start + len(FIELDS)], strict=True):
            moment[name] = None if name in _MAY_BE_UNKNOWN and value < 0 else round(value, 6)
        found.append(moment)
    return found
