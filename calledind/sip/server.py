"""The server transactions of RFC 3261 §17.2, with the Accepted state of RFC 6026, and the 2xx of §13.3.1.4.

A transaction answers the repeats of its request by itself. Its user is told (`report`) of the ACK, or that none
came. As in `client`, every input has a line in every state.

An INVITE over UDP that is refused, T1 = 0.5 s:

    0.0  -> INVITE        PROCEEDING   100 leaves at 0.2 unless the user was faster
    3.0  486 ->           COMPLETED    G fires at 3.5, 4.5, 6.5, 10.5, 14.5 (486 again), H at 35
    3.6  -> ACK           CONFIRMED    reported; I runs until 8.6, to swallow more ACKs
    8.6                   TERMINATED
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, ClassVar, Final

from calledind.sip.client import TransactionFailure
from calledind.sip.message import Request, Response
from calledind.sip.timers import Intervals, Timers, TimerSet


class State(Enum):
    PROCEEDING = "proceeding"
    'No final response yet; for other than INVITE "Trying" and "Proceeding" in one, told apart by what was sent.'
    ACCEPTED = "accepted"
    "A 2xx to the INVITE was sent; its repeats are the user's (RFC 6026 §7.1)."
    COMPLETED = "completed"
    CONFIRMED = "confirmed"
    TERMINATED = "terminated"


class Input(Enum):
    REQUEST = "the request again"
    ACK = "ACK"
    SEND_PROVISIONAL = "the user's 1xx"
    SEND_SUCCESS = "the user's 2xx"
    SEND_FAILURE = "the user's 300 to 699"
    REPEAT = "timer G"
    TIMEOUT = "timer H"
    LINGERED = "timer I, J or L"


class AlreadyAnswered(RuntimeError):
    """A second final response to the same request: a mistake of ours."""


Report = Callable[[Request | TransactionFailure], None]
_Step = tuple[State, Callable[[Any, Any], None]]

PROCEEDING, ACCEPTED, COMPLETED, CONFIRMED, TERMINATED = State
REQUEST, ACK, SEND_PROVISIONAL, SEND_SUCCESS, SEND_FAILURE, REPEAT, TIMEOUT, LINGERED = Input

TRYING_AFTER: Final = 0.2
"A 100 leaves when the user hasn't said anything for so long, in seconds (§17.2.1)."


class ServerTransaction:
    """What both kinds have in common. `transmit` carries bytes to where the responses go; OSError is ignored.

    Of the request only the method is kept: what is answered may live on for half a minute, and many may.
    """

    table: ClassVar[Mapping[tuple[State, Input], _Step]]

    __slots__ = (
        "_gone",
        "_interval",
        "_intervals",
        "_reliable",
        "_report",
        "_timers",
        "_transmit",
        "key",
        "last",
        "method",
        "state",
    )

    def __init__(
        self,
        request: Request,
        *,
        key: object,
        transmit: Callable[[bytes], None],
        report: Report,
        gone: Callable[[ServerTransaction], None],
        timers: Timers,
        intervals: Intervals,
        reliable: bool = False,
    ) -> None:
        self.method = request.method
        self.key = key
        self.state = PROCEEDING
        self.last = b""
        "What was answered last."
        self._transmit = transmit
        self._report = report
        self._gone = gone
        self._timers = TimerSet(timers)
        self._intervals = intervals
        self._interval = intervals.t1
        self._reliable = reliable

    def respond(self, response: Response) -> None:
        """Send the user's response. Raises AlreadyAnswered where a final one was sent and this one doesn't fit."""
        if response.status < 200:
            self._feed(SEND_PROVISIONAL, response)
        elif response.status < 300:
            self._feed(SEND_SUCCESS, response)
        else:
            self._feed(SEND_FAILURE, response)

    def receive(self, request: Request) -> None:
        "Take the request's repeat, or the ACK that belongs to it."
        self._feed(ACK if request.method == "ACK" else REQUEST, request)

    def terminate(self) -> None:
        "Give it up: nobody waits for an answer any more."
        if self.state is not TERMINATED:
            self.state = TERMINATED
            self._end(None)

    def _feed(self, what: Input, news: object = None) -> None:
        self.state, action = self.table[self.state, what]
        action(self, news)

    def _put(self, data: bytes) -> None:
        # A response that can't be sent is as good as one that was lost: the request will come again.
        with suppress(OSError):
            self._transmit(data)

    def _ignore(self, news: object) -> None:
        pass

    def _send_provisional(self, response: Response) -> None:
        self._timers.stop("trying")
        self.last = bytes(response)
        self._put(self.last)

    def _send_again(self, news: object) -> None:
        if self.last:
            self._put(self.last)

    def _never(self, response: Response) -> None:
        raise AlreadyAnswered(f"{self.method} was answered before this {response.status}")

    def _end(self, news: object) -> None:
        self._timers.stop_all()
        self._gone(self)

    def _linger(self, seconds: float) -> None:
        if seconds > 0:
            self._timers.start("linger", seconds, self._feed, LINGERED)
        else:
            self._feed(LINGERED)


class InviteServerTransaction(ServerTransaction):
    """RFC 3261 figure 7 as amended by RFC 6026 figure 7."""

    __slots__ = ()

    def start(self, trying: Response) -> None:
        "Send this 100 soon, unless the user is faster."
        self._timers.start("trying", TRYING_AFTER, lambda: self.respond(trying))

    def stay_silent(self) -> None:
        "Send no 100: for those who play dead."
        self._timers.stop("trying")

    def _accept(self, response: Response) -> None:
        self._timers.stop_all()
        self._linger(self._intervals.timeout)  # timer L
        self.last = bytes(response)
        self._put(self.last)

    def _send_success(self, response: Response) -> None:
        self.last = bytes(response)
        self._put(self.last)

    def _refuse(self, response: Response) -> None:
        self._timers.stop_all()
        self.last = bytes(response)
        if not self._reliable:
            self._timers.start("repeat", self._interval, self._feed, REPEAT)
        self._timers.start("timeout", self._intervals.timeout, self._feed, TIMEOUT)
        self._put(self.last)

    def _repeat(self, news: None) -> None:
        self._interval = self._intervals.next_repeat(self._interval)
        self._timers.start("repeat", self._interval, self._feed, REPEAT)
        self._put(self.last)

    def _confirm(self, ack: Request) -> None:
        self._timers.stop_all()
        self._linger(0 if self._reliable else self._intervals.t4)  # timer I
        self._report(ack)

    def _tell(self, ack: Request) -> None:
        self._report(ack)

    def _time_out(self, news: None) -> None:
        self._end(None)
        self._report(TransactionFailure("timeout", f"no ACK within {self._intervals.timeout:g} s"))

    table = {  # noqa: RUF012 - read only by its declaration above
        (PROCEEDING, REQUEST): (PROCEEDING, ServerTransaction._send_again),
        (PROCEEDING, ACK): (PROCEEDING, ServerTransaction._ignore),
        (PROCEEDING, SEND_PROVISIONAL): (PROCEEDING, ServerTransaction._send_provisional),
        (PROCEEDING, SEND_SUCCESS): (ACCEPTED, _accept),
        (PROCEEDING, SEND_FAILURE): (COMPLETED, _refuse),
        (PROCEEDING, REPEAT): (PROCEEDING, ServerTransaction._ignore),
        (PROCEEDING, TIMEOUT): (PROCEEDING, ServerTransaction._ignore),
        (PROCEEDING, LINGERED): (PROCEEDING, ServerTransaction._ignore),
        # An INVITE that comes again is swallowed: the user repeats the 2xx. An ACK to a 2xx has a branch of its
        # own; one that borrows the INVITE's is handed up all the same.
        (ACCEPTED, REQUEST): (ACCEPTED, ServerTransaction._ignore),
        (ACCEPTED, ACK): (ACCEPTED, _tell),
        (ACCEPTED, SEND_PROVISIONAL): (ACCEPTED, ServerTransaction._never),
        (ACCEPTED, SEND_SUCCESS): (ACCEPTED, _send_success),
        (ACCEPTED, SEND_FAILURE): (ACCEPTED, ServerTransaction._never),
        (ACCEPTED, REPEAT): (ACCEPTED, ServerTransaction._ignore),
        (ACCEPTED, TIMEOUT): (ACCEPTED, ServerTransaction._ignore),
        (ACCEPTED, LINGERED): (TERMINATED, ServerTransaction._end),
        (COMPLETED, REQUEST): (COMPLETED, ServerTransaction._send_again),
        (COMPLETED, ACK): (CONFIRMED, _confirm),
        (COMPLETED, SEND_PROVISIONAL): (COMPLETED, ServerTransaction._never),
        (COMPLETED, SEND_SUCCESS): (COMPLETED, ServerTransaction._never),
        (COMPLETED, SEND_FAILURE): (COMPLETED, ServerTransaction._never),
        (COMPLETED, REPEAT): (COMPLETED, _repeat),
        (COMPLETED, TIMEOUT): (TERMINATED, _time_out),
        (COMPLETED, LINGERED): (COMPLETED, ServerTransaction._ignore),
        (CONFIRMED, REQUEST): (CONFIRMED, ServerTransaction._ignore),
        (CONFIRMED, ACK): (CONFIRMED, ServerTransaction._ignore),
        (CONFIRMED, SEND_PROVISIONAL): (CONFIRMED, ServerTransaction._never),
        (CONFIRMED, SEND_SUCCESS): (CONFIRMED, ServerTransaction._never),
        (CONFIRMED, SEND_FAILURE): (CONFIRMED, ServerTransaction._never),
        (CONFIRMED, REPEAT): (CONFIRMED, ServerTransaction._ignore),
        (CONFIRMED, TIMEOUT): (CONFIRMED, ServerTransaction._ignore),
        (CONFIRMED, LINGERED): (TERMINATED, ServerTransaction._end),
        **{(TERMINATED, late): (TERMINATED, ServerTransaction._ignore) for late in Input},
        (TERMINATED, SEND_PROVISIONAL): (TERMINATED, ServerTransaction._never),
        (TERMINATED, SEND_SUCCESS): (TERMINATED, ServerTransaction._never),
        (TERMINATED, SEND_FAILURE): (TERMINATED, ServerTransaction._never),
    }


class NonInviteServerTransaction(ServerTransaction):
    """RFC 3261 figure 8. It has no ACK and needs no timer until it was answered."""

    __slots__ = ()

    def _complete(self, response: Response) -> None:
        self.last = bytes(response)
        self._put(self.last)
        self._linger(0 if self._reliable else self._intervals.timeout)  # timer J

    table = {  # noqa: RUF012
        (PROCEEDING, REQUEST): (PROCEEDING, ServerTransaction._send_again),
        (PROCEEDING, ACK): (PROCEEDING, ServerTransaction._ignore),
        (PROCEEDING, SEND_PROVISIONAL): (PROCEEDING, ServerTransaction._send_provisional),
        (PROCEEDING, SEND_SUCCESS): (COMPLETED, _complete),
        (PROCEEDING, SEND_FAILURE): (COMPLETED, _complete),
        (PROCEEDING, REPEAT): (PROCEEDING, ServerTransaction._ignore),
        (PROCEEDING, TIMEOUT): (PROCEEDING, ServerTransaction._ignore),
        (PROCEEDING, LINGERED): (PROCEEDING, ServerTransaction._ignore),
        (COMPLETED, REQUEST): (COMPLETED, ServerTransaction._send_again),
        (COMPLETED, ACK): (COMPLETED, ServerTransaction._ignore),
        (COMPLETED, SEND_PROVISIONAL): (COMPLETED, ServerTransaction._never),
        (COMPLETED, SEND_SUCCESS): (COMPLETED, ServerTransaction._never),
        (COMPLETED, SEND_FAILURE): (COMPLETED, ServerTransaction._never),
        (COMPLETED, REPEAT): (COMPLETED, ServerTransaction._ignore),
        (COMPLETED, TIMEOUT): (COMPLETED, ServerTransaction._ignore),
        (COMPLETED, LINGERED): (TERMINATED, ServerTransaction._end),
        **{(TERMINATED, late): (TERMINATED, ServerTransaction._ignore) for late in Input},
        (TERMINATED, SEND_PROVISIONAL): (TERMINATED, ServerTransaction._never),
        (TERMINATED, SEND_SUCCESS): (TERMINATED, ServerTransaction._never),
        (TERMINATED, SEND_FAILURE): (TERMINATED, ServerTransaction._never),
        # Accepted and Confirmed are states of INVITE alone.
        **{(only, never): (only, ServerTransaction._ignore) for only in (ACCEPTED, CONFIRMED) for never in Input},
    }


class RepeatedSuccess:
    """A 2xx to an INVITE, sent again by its user until the ACK comes (§13.3.1.4): after T1, doubled up to T2."""

    __slots__ = ("_expired", "_interval", "_intervals", "_send", "_timers")

    def __init__(
        self, send: Callable[[], None], expired: Callable[[], None], timers: Timers, intervals: Intervals
    ) -> None:
        "`send` repeats the response; `expired` hears that no ACK has come within 64*T1."
        self._send = send
        self._expired = expired
        self._timers = TimerSet(timers)
        self._intervals = intervals
        self._interval = intervals.t1
        self._timers.start("repeat", self._interval, self._repeat)
        self._timers.start("timeout", intervals.timeout, self._expire)

    def stop(self) -> None:
        "The ACK has come, or nobody waits for it any more."
        self._timers.stop_all()

    def _repeat(self) -> None:
        self._interval = self._intervals.next_repeat(self._interval)
        self._timers.start("repeat", self._interval, self._repeat)
        self._send()

    def _expire(self) -> None:
        self._timers.stop_all()
        self._expired()
