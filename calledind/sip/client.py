"""The client transactions of RFC 3261 §17.1, with the Accepted state of RFC 6026.

A transaction is fed responses, its own timers and the transport's failures, and hands up (`report`) what its
user needs to know: each provisional response and each 2xx of an INVITE, one final response, or one failure.
The tables below have a line for every input in every state: what is late, repeated or out of place is named
there and ignored on purpose.

An INVITE over UDP that is rung and answered, T1 = 0.5 s:

     0.0  INVITE ->            CALLING     A fires at 0.5, 1.5, 3.5, 7.5, 15.5, 31.5 (INVITE again), B at 32
     0.7  <- 180               PROCEEDING  A and B are stopped; nothing is repeated from here
     9.0  <- 200               ACCEPTED    the user makes the ACK; M runs until 41
     9.5  <- 200 again         ACCEPTED    reported again: the user repeats its ACK
    41.0                       TERMINATED

With 486 instead of 200 the transaction makes the ACK itself, and timer D keeps it for the repeats of the 486.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Final, Literal

from calledind.sip.message import Request, Response
from calledind.sip.timers import Intervals, Lingering, Timers, TimerSet


class State(Enum):
    CALLING = "calling"
    'Nothing heard yet; called "Trying" where it isn\'t an INVITE.'
    PROCEEDING = "proceeding"
    ACCEPTED = "accepted"
    "A 2xx to the INVITE was reported; more of them may come (RFC 6026 §7.2)."
    COMPLETED = "completed"
    TERMINATED = "terminated"


class Input(Enum):
    PROVISIONAL = "1xx"
    SUCCESS = "2xx"
    FAILURE = "300 to 699"
    REPEAT = "timer A or E"
    TIMEOUT = "timer B or F"
    LINGERED = "timer D, K or M"
    TRANSPORT_ERROR = "transport error"


@dataclass(frozen=True, slots=True)
class TransactionFailure:
    """There will be no final response."""

    cause: Literal["timeout", "transport"]
    detail: str


Report = Callable[[Response | TransactionFailure], None]
_Step = tuple[State, Callable[[Any, Any], None]]

CALLING, PROCEEDING, ACCEPTED, COMPLETED, TERMINATED = State
PROVISIONAL, SUCCESS, FAILURE, REPEAT, TIMEOUT, LINGERED, TRANSPORT_ERROR = Input

LONGEST_LINGER: Final = 32.0
'Timer D over UDP: "at least 32 seconds" (§17.1.1.2), however short T1 is.'


class ClientTransaction:
    """What both kinds have in common. `transmit` carries bytes to where the request goes; it may raise OSError."""

    table: ClassVar[Mapping[tuple[State, Input], _Step]]

    __slots__ = (
        "_data",
        "_gone",
        "_interval",
        "_intervals",
        "_lingering",
        "_reliable",
        "_report",
        "_timers",
        "_transmit",
        "branch",
        "method",
        "request",
        "state",
    )

    def __init__(
        self,
        request: Request,
        *,
        transmit: Callable[[bytes], None],
        report: Report,
        gone: Callable[[ClientTransaction], None],
        timers: Timers,
        lingering: Lingering,
        intervals: Intervals,
        reliable: bool = False,
    ) -> None:
        self.request: Request | None = request
        "None once there is a final response."
        self.method = request.method
        self.branch = request.via.branch or ""
        self.state = CALLING
        self._data = bytes(request)
        self._transmit = transmit
        self._report = report
        self._gone = gone
        self._timers = TimerSet(timers)
        self._lingering = lingering
        self._intervals = intervals
        self._interval = intervals.t1
        self._reliable = reliable

    @property
    def key(self) -> tuple[str, str]:
        "How responses find it: branch and method (§17.1.3)."
        return self.branch, self.method

    def start(self) -> None:
        "Send the request. What goes wrong is reported later, never before this returns."
        if not self._reliable:
            self._timers.start("repeat", self._interval, self._feed, REPEAT)
        self._timers.start("timeout", self._intervals.timeout, self._feed, TIMEOUT)
        self._put(self._data)

    @property
    def unheard(self) -> bool:
        "Whether nothing has come back yet."
        return self.state is CALLING

    def begin_again(self, request: Request) -> None:
        "Send the request by UDP after all (§18.1.1), as if nothing had left yet. It is the same but for its Via."
        self.request = request
        self._data = bytes(request)
        self._reliable = False
        self._timers.stop_all()
        self.start()

    def receive(self, response: Response) -> None:
        "Take a response whose branch and method are this transaction's."
        if response.status < 200:
            self._feed(PROVISIONAL, response)
        elif response.status < 300:
            self._feed(SUCCESS, response)
        else:
            self._feed(FAILURE, response)

    def transport_failed(self, detail: str) -> None:
        "Take the news that datagrams to the target don't arrive (ICMP), or could not be sent."
        self._feed(TRANSPORT_ERROR, TransactionFailure("transport", detail))

    def terminate(self) -> None:
        "Give it up without a word, as §9.1 asks for when no final response follows a CANCEL."
        if self.state is not TERMINATED:
            self.state = TERMINATED
            self._end(None)
            self._report = _say_nothing

    def _feed(self, what: Input, news: Response | TransactionFailure | None = None) -> None:
        # The state changes first: what is reported may well come back with the next input.
        self.state, action = self.table[self.state, what]
        action(self, news)
        if self.state is TERMINATED:
            # Who is told knows this transaction: apart, neither waits for the collector.
            self._report = _say_nothing

    def _put(self, data: bytes) -> None:
        try:
            self._transmit(data)
        except OSError as error:
            detail = str(error)
            self._timers.start("transport", 0, self.transport_failed, detail)

    def _ignore(self, news: Response | None) -> None:
        pass

    def _tell(self, news: Response | TransactionFailure) -> None:
        self._report(news)

    def _time_out(self, news: None) -> None:
        self._end(None)
        self._report(TransactionFailure("timeout", f"no final response within {self._intervals.timeout:g} s"))

    def _fail(self, news: TransactionFailure) -> None:
        self._end(None)
        self._report(news)

    def _end(self, news: object) -> None:
        self._timers.stop_all()
        self._gone(self)

    def _linger(self, seconds: float, response: Response) -> None:
        "Report a final response, and stay for its repeats."
        report = self._report
        self._timers.stop_all()
        # It won't be sent again: of thousands that linger for half a minute, as little as possible is kept.
        self.request, self._data = None, b""
        if seconds > 0:
            self._lingering.add(seconds, self._lingered)
        else:
            self._feed(LINGERED)
        report(response)

    def _lingered(self) -> None:
        self._feed(LINGERED)


def _say_nothing(_: Response | TransactionFailure) -> None:
    """Nobody is told of what comes after the end."""


class InviteClientTransaction(ClientTransaction):
    """RFC 3261 figure 5 as amended by RFC 6026 figure 5."""

    __slots__ = ("_ack",)

    def __init__(self, request: Request, **how: Any) -> None:
        super().__init__(request, **how)
        self._ack = b""

    def _proceed(self, response: Response) -> None:
        self._timers.stop("repeat", "timeout")
        self._report(response)

    def _repeat(self, news: None) -> None:
        self._interval *= 2  # timer A, unlike E, has no upper bound
        self._timers.start("repeat", self._interval, self._feed, REPEAT)
        self._put(self._data)

    def _accept(self, response: Response) -> None:
        self._linger(self._intervals.timeout, response)  # timer M

    def _refuse(self, response: Response) -> None:
        self._timers.stop_all()
        assert self.request is not None
        self._ack = bytes(acknowledgement(self.request, response))
        self._put(self._ack)
        self._linger(0 if self._reliable else max(LONGEST_LINGER, self._intervals.timeout), response)  # timer D

    def _acknowledge_again(self, response: Response) -> None:
        self._put(self._ack)

    table = {  # noqa: RUF012 - read only by its declaration above
        (CALLING, PROVISIONAL): (PROCEEDING, _proceed),
        (CALLING, SUCCESS): (ACCEPTED, _accept),
        (CALLING, FAILURE): (COMPLETED, _refuse),
        (CALLING, REPEAT): (CALLING, _repeat),
        (CALLING, TIMEOUT): (TERMINATED, ClientTransaction._time_out),
        (CALLING, LINGERED): (CALLING, ClientTransaction._ignore),
        (CALLING, TRANSPORT_ERROR): (TERMINATED, ClientTransaction._fail),
        # Once something was heard, ICMP speaks of something else, and timers A and B have stopped.
        (PROCEEDING, PROVISIONAL): (PROCEEDING, ClientTransaction._tell),
        (PROCEEDING, SUCCESS): (ACCEPTED, _accept),
        (PROCEEDING, FAILURE): (COMPLETED, _refuse),
        (PROCEEDING, REPEAT): (PROCEEDING, ClientTransaction._ignore),
        (PROCEEDING, TIMEOUT): (PROCEEDING, ClientTransaction._ignore),
        (PROCEEDING, LINGERED): (PROCEEDING, ClientTransaction._ignore),
        (PROCEEDING, TRANSPORT_ERROR): (PROCEEDING, ClientTransaction._ignore),
        # Repeats of the 2xx and those of other branches of a fork all go up; the rest came too late.
        (ACCEPTED, PROVISIONAL): (ACCEPTED, ClientTransaction._ignore),
        (ACCEPTED, SUCCESS): (ACCEPTED, ClientTransaction._tell),
        (ACCEPTED, FAILURE): (ACCEPTED, ClientTransaction._ignore),
        (ACCEPTED, REPEAT): (ACCEPTED, ClientTransaction._ignore),
        (ACCEPTED, TIMEOUT): (ACCEPTED, ClientTransaction._ignore),
        (ACCEPTED, LINGERED): (TERMINATED, ClientTransaction._end),
        (ACCEPTED, TRANSPORT_ERROR): (ACCEPTED, ClientTransaction._ignore),
        # A proxy forwards a late 2xx even after a final failure (§16.7 step 5): somebody has picked up.
        (COMPLETED, PROVISIONAL): (COMPLETED, ClientTransaction._ignore),
        (COMPLETED, SUCCESS): (COMPLETED, ClientTransaction._tell),
        (COMPLETED, FAILURE): (COMPLETED, _acknowledge_again),
        (COMPLETED, REPEAT): (COMPLETED, ClientTransaction._ignore),
        (COMPLETED, TIMEOUT): (COMPLETED, ClientTransaction._ignore),
        (COMPLETED, LINGERED): (TERMINATED, ClientTransaction._end),
        # The user has had its final response: it isn't told a second thing.
        (COMPLETED, TRANSPORT_ERROR): (TERMINATED, ClientTransaction._end),
        **{(TERMINATED, late): (TERMINATED, ClientTransaction._ignore) for late in Input},
    }


class NonInviteClientTransaction(ClientTransaction):
    """RFC 3261 figure 6."""

    __slots__ = ()

    def _proceed(self, response: Response) -> None:
        self._interval = self._intervals.t2
        self._report(response)

    def _repeat(self, news: None) -> None:
        self._interval = self._intervals.next_repeat(self._interval)
        self._timers.start("repeat", self._interval, self._feed, REPEAT)
        self._put(self._data)

    def _complete(self, response: Response) -> None:
        self._linger(0 if self._reliable else self._intervals.t4, response)  # timer K

    table = {  # noqa: RUF012
        (CALLING, PROVISIONAL): (PROCEEDING, _proceed),
        (CALLING, SUCCESS): (COMPLETED, _complete),
        (CALLING, FAILURE): (COMPLETED, _complete),
        (CALLING, REPEAT): (CALLING, _repeat),
        (CALLING, TIMEOUT): (TERMINATED, ClientTransaction._time_out),
        (CALLING, LINGERED): (CALLING, ClientTransaction._ignore),
        (CALLING, TRANSPORT_ERROR): (TERMINATED, ClientTransaction._fail),
        # Unlike an INVITE, the request is still repeated, every T2, and timer F goes on.
        (PROCEEDING, PROVISIONAL): (PROCEEDING, ClientTransaction._tell),
        (PROCEEDING, SUCCESS): (COMPLETED, _complete),
        (PROCEEDING, FAILURE): (COMPLETED, _complete),
        (PROCEEDING, REPEAT): (PROCEEDING, _repeat),
        (PROCEEDING, TIMEOUT): (TERMINATED, ClientTransaction._time_out),
        (PROCEEDING, LINGERED): (PROCEEDING, ClientTransaction._ignore),
        (PROCEEDING, TRANSPORT_ERROR): (TERMINATED, ClientTransaction._fail),
        **{(COMPLETED, late): (COMPLETED, ClientTransaction._ignore) for late in Input},
        (COMPLETED, LINGERED): (TERMINATED, ClientTransaction._end),
        **{(TERMINATED, late): (TERMINATED, ClientTransaction._ignore) for late in Input},
        # Accepted is a state of INVITE alone.
        **{(ACCEPTED, never): (ACCEPTED, ClientTransaction._ignore) for never in Input},
    }


def acknowledgement(request: Request, response: Response) -> Request:
    """Return the ACK to a final response of 300 or more, which is part of the INVITE's transaction (§17.1.1.3)."""
    headers = [("Via", request.values("Via")[0]), ("Max-Forwards", "70")]
    headers += [("Route", value) for value in request.all("Route")]
    headers += [
        ("From", request.get("From") or ""),
        ("To", response.get("To") or ""),
        ("Call-ID", request.call_id),
        ("CSeq", f"{request.cseq.number} ACK"),
    ]
    return Request("ACK", request.uri, headers)
