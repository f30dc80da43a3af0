"""The callee whose decisions come from outside: a telephone on somebody's desk, for now a browser's.

    ring ──▶ every handset rings ──▶ one answers: it hears the call     the others fall silent
                                 ──▶ one declines, or is busy
                                 ──▶ nobody is there: it rings until the caller gives up

There is one line: who calls while it is in use finds it busy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Stage(StrEnum):
    RINGING = "ringing"
    UP = "up"
    OVER = "over"


@dataclass
class Line:
    """One call to the telephone, with what may be done about it. What comes too late is left undone."""

    sip_call_id: str
    number: str
    "That was called, country code and all."
    caller: str
    "Whom the display shows."
    answer: Callable[[], None]
    refuse: Callable[[int, str], None]
    "Status and phrase of the final response."
    hang_up: Callable[[], None]
    press: Callable[[str], bool]
    "One of 0 to 9, * and #; False: it can't be sent."
    lose: Callable[[float], None]
    "The share of the packets that never arrive from now on, both ways."
    stage: Stage = Stage.RINGING


class Handset(Protocol):
    """Somebody who may pick up."""

    def rings(self, line: Line) -> None: ...

    def is_up(self, line: Line) -> None:
        """It was this handset that answered, and the caller knows."""

    def hears(self, sequence: int, timestamp: int, payload: bytes) -> None:
        """One packet of the call: RTP's sequence number and timestamp, octets of mu-law."""

    def is_over(self, line: Line, how: str) -> None:
        """The line is free again, or another handset has it."""


class Telephone:
    """The one line and its handsets."""

    def __init__(self) -> None:
        self._handsets: list[Handset] = []
        self._line: Line | None = None
        self._talking: Handset | None = None

    # handsets

    def attach(self, handset: Handset) -> None:
        self._handsets.append(handset)
        if self._line is not None and self._line.stage is Stage.RINGING:
            handset.rings(self._line)

    def detach(self, handset: Handset) -> None:
        """A handset is gone; one that talks has hung up by it."""
        if handset in self._handsets:
            self._handsets.remove(handset)
        if handset is self._talking and self._line is not None:
            self._line.hang_up()

    def answer(self, handset: Handset) -> None:
        line = self._line
        if line is None or line.stage is not Stage.RINGING or self._talking is not None:
            return
        self._talking = handset
        for other in self._handsets:
            if other is not handset:
                other.is_over(line, "taken elsewhere")
        line.answer()

    def refuse(self, status: int, phrase: str) -> None:
        if self._line is not None and self._line.stage is Stage.RINGING and self._talking is None:
            self._line.refuse(status, phrase)

    def line_of(self, handset: Handset) -> Line | None:
        """Return the call that this handset has answered."""
        return self._line if handset is self._talking else None

    # the carrier's side

    def ring(self, line: Line) -> bool:
        """Let it ring; False where the line is in use."""
        if self._line is not None:
            return False
        self._line = line
        for handset in tuple(self._handsets):
            handset.rings(line)
        return True

    def up(self, line: Line) -> None:
        if line is self._line and line.stage is Stage.RINGING:
            line.stage = Stage.UP
            if self._talking is not None:
                self._talking.is_up(line)

    def hear(self, sequence: int, timestamp: int, payload: bytes) -> None:
        if self._talking is not None:
            self._talking.hears(sequence, timestamp, payload)

    def over(self, line: Line, how: str) -> None:
        """`how`: as `play.HeardCall.ended_by` has it."""
        if line is not self._line:
            return
        line.stage = Stage.OVER
        concerned = tuple(self._handsets) if self._talking is None else (self._talking,)
        self._line = self._talking = None
        for handset in concerned:
            handset.is_over(line, how)
