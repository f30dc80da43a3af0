"""Reliable provisional responses, the callee's side (RFC 3262 §3).

Each is sent again, after T1 and then twice as long each time, until its PRACK comes; the next one waits for that, and
so does a 2xx. The caller that never sends one is given up after 64*T1.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from typing import Final

from calledind.sip.early import RELIABLE
from calledind.sip.grammar import ParseError, number
from calledind.sip.header import CSeq
from calledind.sip.message import Request
from calledind.sip.timers import Intervals, Timers, TimerSet

_LARGEST_FIRST: Final = 2**31 - 1
"Of a first RSeq, which is to be drawn at random (§3)."

Headers = list[tuple[str, str]]


class ReliableProvisionals:
    """Those of one early dialog. `expired` hears that a PRACK never came."""

    def __init__(self, expired: Callable[[], None], timers: Timers, intervals: Intervals) -> None:
        self._expired = expired
        self._timers = TimerSet(timers)
        self._intervals = intervals
        self._interval = intervals.t1
        self._rseq = secrets.randbelow(_LARGEST_FIRST)
        self._waiting: deque[Callable[[], None]] = deque()
        "What follows the PRACK, in this order."
        self._repeat: Callable[[], None] | None = None
        "Sends what waits for its PRACK."

    def add(self, send: Callable[[Headers], Callable[[], None]]) -> None:
        """Let a response be sent in its turn. `send` puts these headers into it, sends it, and returns what sends it
        again."""

        def begin() -> None:
            self._rseq += 1
            self._repeat = send([("Require", RELIABLE), ("RSeq", str(self._rseq))])
            self._interval = self._intervals.t1
            self._timers.start("repeat", self._interval, self._again)
            self._timers.start("timeout", self._intervals.timeout, self._expire)

        self.then(begin)

    def then(self, what: Callable[[], None]) -> None:
        """Do something once nothing waits for a PRACK any more."""
        if self._repeat is None:
            what()
        else:
            self._waiting.append(what)

    def is_due(self, prack: Request, invite: CSeq) -> bool:
        """Whether a PRACK is for what waits for one: RSeq, and CSeq of the INVITE (§7.2)."""
        rseq, _, cseq = (prack.get("RAck") or "").partition(" ")
        try:
            return self._repeat is not None and number(rseq) == self._rseq and CSeq.parse(cseq) == invite
        except ParseError:
            return False

    def acknowledged(self) -> None:
        """The PRACK that was due has come, and was answered."""
        self.stop()
        while self._waiting and self._repeat is None:
            self._waiting.popleft()()

    def stop(self) -> None:
        """Repeat nothing any more."""
        self._timers.stop_all()
        self._repeat = None

    def _again(self) -> None:
        assert self._repeat is not None
        self._interval *= 2
        self._timers.start("repeat", self._interval, self._again)
        self._repeat()

    def _expire(self) -> None:
        self.stop()
        self._waiting.clear()
        self._expired()
