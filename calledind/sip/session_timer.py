"""Session timers (RFC 4028): a call whose other side died without a BYE ends all the same.

The 2xx to an INVITE or UPDATE says for how many seconds the session holds and who refreshes it, and each further
one says so anew. A session of 90 s that we refresh, and one that the peer ought to:

      0   200, Session-Expires: 90;refresher=uac      0   200, Session-Expires: 90;refresher=uas
     45   UPDATE ->                                  45   (the peer's UPDATE is lost)
     45   <- 200: it begins anew                     60   BYE ->
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from calledind.sip.grammar import ParseError, number, parameter, parse_parameters
from calledind.sip.message import Request, Response
from calledind.sip.timers import Timers, TimerSet

TIMER: Final = "timer"
"The option tag."
LEAST: Final = 90
"Seconds below which nobody may ask for a refresh (§5)."
_SHORTEST: Final = 4
"Seconds of a session that a 2xx may give us. It answers for less than 90 itself; below this it would be a flood."
_LONGEST_MARGIN: Final = 32.0
_SOONEST: Final = 1.0
"Seconds after which a refresh is asked for again at the soonest."

Refresher = Literal["uac", "uas"]
"The side that sent the request, or the one that answered it."


@dataclass(frozen=True, slots=True)
class SessionExpires:
    """The header of this name (§4)."""

    seconds: int
    refresher: Refresher | None = None

    @classmethod
    def parse(cls, text: str) -> SessionExpires:
        """Raises `ParseError`."""
        seconds, semicolon, rest = text.partition(";")
        parameters = parse_parameters(rest) if semicolon else ()
        known: dict[str | None, Refresher] = {"uac": "uac", "uas": "uas"}
        return cls(number(seconds.strip()), known.get((parameter(parameters, "refresher") or "").lower()))

    def __str__(self) -> str:
        return f"{self.seconds}" + (f";refresher={self.refresher}" if self.refresher else "")


def session_expires(message: Request | Response) -> SessionExpires | None:
    """Return what a message says of the session's length; None where it says nothing, or nothing sensible."""
    text = message.get("Session-Expires")
    if text is None:
        return None
    try:
        return SessionExpires.parse(text)
    except ParseError:
        return None


def least_session(message: Request | Response) -> int:
    """Return the seconds that Min-SE asks for at least; 90 where there is none (§5)."""
    try:
        return max(LEAST, number((message.get("Min-SE") or "").partition(";")[0].strip()))
    except ParseError:
        return LEAST


def has_option(message: Request | Response, header: str, option: str) -> bool:
    """Whether Supported or Require names an option tag."""
    return any(each.strip().lower() == option for value in message.all(header) for each in value.split(","))


class SessionTimer:
    """One dialog's. `refresh` is called in the middle of a session that we refresh, `expired` when none came."""

    __slots__ = (
        "_clock",
        "_ends",
        "_expired",
        "_refresh",
        "_timers",
        "least",
        "seconds",
    )

    def __init__(self, timers: Timers, *, refresh: Callable[[], None], expired: Callable[[], None]) -> None:
        self.seconds = 0
        "Of the session; 0 while nobody watches it."
        self.least = LEAST
        "The largest Min-SE that was met."
        self._clock = timers
        self._timers = TimerSet(timers)
        self._ends = 0.0
        "When it expires, by the clock."
        self._refresh = refresh
        self._expired = expired

    def start(self, seconds: int, we_refresh: bool) -> None:
        """Begin a session anew (§10)."""
        self.stop()
        self.seconds = seconds = max(seconds, _SHORTEST)
        if we_refresh:
            self._timers.start("refresh", seconds / 2, self._refresh)
        lasts = seconds - min(_LONGEST_MARGIN, seconds / 3)
        self._ends = self._clock.seconds() + lasts
        self._timers.start("expired", lasts, self._expired)

    def refresh_later(self, wait: float = 0) -> None:
        """Refresh when half of what is left is over, or after `wait` seconds where that is later: there was a refusal,
        or something in the way. Not again where so little is left that it would be a flood."""
        half = (self._ends - self._clock.seconds()) / 2
        if self.seconds and half >= _SOONEST and wait < 2 * half:
            self._timers.start("refresh", max(wait, half), self._refresh)

    def answered(self, response: Response) -> None:
        """Take what a 2xx to a request of ours says (§7.2)."""
        agreed = session_expires(response)
        if agreed is None:
            self.stop()
        else:
            # Who refreshes must be said; where it isn't, one refresh too many is better than none.
            self.start(agreed.seconds, agreed.refresher != "uas")

    def too_small(self, response: Response) -> None:
        """Take a 422: what we ask for from now on is what it says at least (§7.4)."""
        self.least = max(self.least, least_session(response))
        self.seconds = max(self.seconds, self.least)

    def asked_for(self) -> list[tuple[str, str]]:
        """Return the headers of a refresh of ours."""
        if not self.seconds:
            return []
        headers = [("Session-Expires", str(SessionExpires(max(self.seconds, self.least), "uac")))]
        return [*headers, ("Min-SE", str(self.least))] if self.least > LEAST else headers

    def serve(self, request: Request) -> list[tuple[str, str]]:
        """Take what the peer's INVITE or UPDATE asks for; returns the headers of our 2xx (§9)."""
        wanted = session_expires(request)
        if wanted is None:
            self.stop()
            return []
        peer_can = has_option(request, "Supported", TIMER)
        refresher: Refresher = (wanted.refresher or "uac") if peer_can else "uas"
        self.start(wanted.seconds, refresher == "uas")
        headers = [("Session-Expires", str(SessionExpires(wanted.seconds, refresher)))]
        return [*headers, ("Require", TIMER)] if refresher == "uac" else headers

    def stop(self) -> None:
        """The session is over, or lasts without refresh."""
        self.seconds = 0
        self._timers.stop_all()

    def end(self) -> None:
        """Stop for good, and let go of who was to be told."""
        self.stop()
        self._refresh = self._expired = _nobody


def is_too_small(request: Request) -> bool:
    """Whether a request asks for refreshes at a pace that nobody has to bear: 422, which its sender must know (§9)."""
    wanted = session_expires(request)
    return wanted is not None and wanted.seconds < LEAST and has_option(request, "Supported", TIMER)


def _nobody() -> None:
    """Hears of a session that is over."""
