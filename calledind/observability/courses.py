"""When the calls that run have come how far: what the figures and the records are made of."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MOST_CALLS = 200_000
"More than run at the same time. A call that others have taken over is never told to have ended: it must not stay."


@dataclass(slots=True)
class Course:
    """One call's moments, in seconds since the epoch."""

    trunk: str
    "That of the last attempt."
    dialled_at: float
    "The first INVITE left."
    invited_at: float
    "The last attempt's INVITE left."
    rang_at: float | None = None
    "Of the last attempt."
    answered_at: float | None = None


class Courses:
    """The calls that run, by their ids."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._calls: OrderedDict[str, Course] = OrderedDict()

    def __len__(self) -> int:
        return len(self._calls)

    def reached(self, call_id: str, stage: str, trunk: str) -> Course | None:
        """Note a `dialing.surroundings.Stage`; returns the course so far, None where nothing was known of the call."""
        now, course = self._now(), self._calls.get(call_id)
        if stage == "dialing":
            if course is None:
                course = self._calls[call_id] = Course(trunk, now, now)
                if len(self._calls) > MOST_CALLS:
                    self._calls.popitem(last=False)
            else:
                course.trunk, course.invited_at, course.rang_at = trunk, now, None
        elif course is not None and stage == "ringing":
            course.rang_at = now
        elif course is not None:
            course.answered_at = now
        return course

    def ended(self, call_id: str) -> Course | None:
        """Return a call's course and forget it; None where it was never dialled, or not by this process."""
        return self._calls.pop(call_id, None)
