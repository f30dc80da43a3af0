"""A registration, the client's side (RFC 3261 §10): a registrar is told where we are, and told again before it forgets.

    IDLE         not begun
    TRYING       a REGISTER waits for its answer, or the registrar's address is being looked up
    REGISTERED   the binding stands; it is refreshed when three quarters of its lifetime are over
    WAITING      the last REGISTER failed; the next one follows after a while
    LEAVING      the binding is being taken back (Expires 0), for a bounded time
    OVER

        IDLE --start--> TRYING <--due-- REGISTERED
                         |  ^ \\--2xx-----^
                     3xx..6xx  due
                         v  |
                        WAITING             all of them --stop--> LEAVING --> OVER

Whether we are registered is a matter of time and not of state: a binding outlives the failure of its refresh until
its time has run out. A failure that may pass (no response, 5xx, 408, 480) is tried again after 5 s, then
twice as long each time up to 5 min; one that is an opinion about us (403, a refused password, 404...) after
5 min and up to an hour, for carriers lock accounts that knock too often. Both vary by chance, so that a carrier's
restart doesn't bring all its customers at once; Retry-After is honoured. Before any of that, the registrar's other
servers are asked where one does not answer or says 503 (RFC 3263 §4.3).

Where others see our messages come from another address than our Contact says, the address that `local` gives has
changed: the new binding is made and the old one taken back in one REGISTER. All REGISTERs have one Call-ID and a
rising CSeq (§10.2). What a registrar hands back, the Path of proxies (RFC 3327) and the Service-Route that our
requests shall take (RFC 3608), is there until its next word.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final

from calledind.model import Address
from calledind.sip.auth import Authenticator, Credentials
from calledind.sip.challenged import ChallengedRequest, send_challenged
from calledind.sip.client import TransactionFailure
from calledind.sip.endpoint import ALLOW, Endpoint, contact
from calledind.sip.grammar import ParseError, number
from calledind.sip.header import NameAddr
from calledind.sip.message import Request, Response
from calledind.sip.timers import TimerSet
from calledind.sip.transactions import DEFAULT_PORT, new_branch, new_tag, via
from calledind.sip.uri import Uri

FIRST_RETRY: Final = 5.0
LONGEST_RETRY: Final = 300.0
"Seconds between tries while a registrar can't be reached or is in trouble."
FIRST_RETRY_REFUSED: Final = 300.0
LONGEST_RETRY_REFUSED: Final = 3600.0
"Seconds between tries while a registrar will not have us; also the longest Retry-After that is believed."
LONGEST_LIFETIME: Final = 7 * 86400
"Seconds of a binding that are asked for because of a Min-Expires, and after which it is refreshed in any case."
LEAVE_WITHIN: Final = 4.0
"Seconds that taking the binding back may take."
SETTLE: Final = 30.0
"Seconds between two REGISTERs because of a new address, so that a NAT which changes its mind isn't chased."
_UNAVAILABLE: Final = 503
_PASSING: Final = frozenset({408, 480, 491})
"Statuses below 500 that say nothing about us."

Locate = Callable[[Callable[[Address | OSError], None]], None]
"Finds where the registrar's messages go, and hands it, or why it can't be found, to its argument."
Elsewhere = Callable[[str, int | None], bool]
"""Hears why the target that was found last does not serve, and its Retry-After in seconds; says whether there is
another one to ask at once."""


@dataclass(frozen=True)
class Account:
    """Whom a registrar knows us as, and what we ask of it."""

    registrar: str
    'The Request-URI: a domain, such as "sip:carrier.example.com".'
    address_of_record: str
    'Such as "sip:alice@carrier.example.com".'
    credentials: Credentials | None = None
    expires: int = 3600
    "Seconds that a binding shall last; the registrar decides."
    contact_user: str = "calledin"


@dataclass(frozen=True)
class Registered:
    """The binding stands."""

    expires: int
    "Seconds."
    renewed: bool
    "It stood before as well."


@dataclass(frozen=True)
class NotRegistered:
    """A REGISTER failed; the next follows in `retry_in` seconds."""

    words: str
    'Such as "403 Forbidden".'
    retry_in: float
    still: bool
    "An earlier binding's time has not run out yet."


@dataclass(frozen=True)
class Lapsed:
    """The binding's time has run out without a refresh."""


RegistrationEvent = Registered | NotRegistered | Lapsed


class State(Enum):
    IDLE = "idle"
    TRYING = "trying"
    REGISTERED = "registered"
    WAITING = "waiting"
    LEAVING = "leaving"
    OVER = "over"


class Input(Enum):
    START = "start"
    DUE = "time for the next REGISTER"
    SUCCESS = "2xx"
    REFUSED = "300 to 699"
    FAILED = "no response"
    LAPSE = "the binding's time has run out"
    STOP = "stop"
    GONE = "the time to take it back has run out"


IDLE, TRYING, REGISTERED, WAITING, LEAVING, OVER = State
START, DUE, SUCCESS, REFUSED, FAILED, LAPSE, STOP, GONE = Input


class Registration:
    """One address of record at one registrar; made by `UserAgent.registration`."""

    def __init__(
        self,
        account: Account,
        endpoint: Endpoint,
        *,
        locate: Locate,
        report: Callable[[RegistrationEvent], None],
        elsewhere: Elsewhere,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`chance` gives numbers from 0 to 1, by which waits vary."""
        self.account = account
        self.state = IDLE
        self.path: tuple[str, ...] = ()
        "The proxies between the registrar and us, as the last 2xx gave them."
        self._service_route: tuple[str, ...] = ()
        self._endpoint = endpoint
        self._timers = TimerSet(endpoint.layer.timers)
        self._locate = locate
        self._report = report
        self._elsewhere = elsewhere
        self._chance = chance
        self._authenticator = Authenticator(account.credentials) if account.credentials else None
        self._call_id = new_tag()
        self._tag = new_tag()
        self._cseq = 0
        self._expires = account.expires
        self._asked_for_more = False
        "A 423 was followed once since the last try that was due."
        self._failures = 0
        self._words = ""
        "Why the last REGISTER failed."
        self._target: Address | None = None
        self._local: Address = ("", 0)
        "What we call ourselves."
        self._asked: str | None = None
        "The Contact of the last REGISTER."
        self._bound: str | None = None
        "The Contact that the registrar has, or may have."
        self._until = 0.0
        "When the binding's time runs out, by the timers' clock."
        self._moved_at: float | None = None
        self._request: ChallengedRequest | None = None
        self._attempt = 0
        self._done: Callable[[], None] = lambda: None

    # what the owner asks

    @property
    def is_registered(self) -> bool:
        """Whether the registrar knows, by what it told us, where we are."""
        return self._now < self._until and self.state not in (LEAVING, OVER)

    @property
    def is_undecided(self) -> bool:
        """Whether the first answer is still awaited."""
        return self.state is IDLE or (self.state is TRYING and self._until == 0 and not self._failures)

    @property
    def lifetime(self) -> float:
        """Seconds that the binding lasts without a refresh."""
        return max(0.0, self._until - self._now) if self.is_registered else 0.0

    @property
    def obstacle(self) -> str:
        """Why we are not registered, for people; empty where we are."""
        if self.is_registered:
            return ""
        return f"not registered: {self._words or 'no answer yet'}"

    @property
    def service_route(self) -> tuple[str, ...]:
        """The Route that requests outside of a dialog shall begin with; empty: none."""
        return self._service_route if self.is_registered else ()

    def start(self) -> None:
        """Send the first REGISTER. Raises RuntimeError the second time."""
        if self.state is not IDLE:
            raise RuntimeError("a registration is started once")
        self._feed(START)

    def stop(self, done: Callable[[], None]) -> None:
        """Take the binding back; `done` is called once, within `LEAVE_WITHIN` seconds."""
        if self.state in (LEAVING, OVER):
            raise RuntimeError("a registration is stopped once")
        self._done = done
        self._feed(STOP)

    def check_address(self) -> None:
        """Register anew where our address is another than the one that was registered."""
        if self.state is not REGISTERED or self._target is None:
            return
        self._look_at_ourselves(self._target)
        settled = self._moved_at is None or self._moved_at + SETTLE <= self._now
        if settled and self._contact != self._bound:
            self._moved_at = self._now
            self._timers.start("due", 0, lambda: self._feed(DUE))

    # the steps

    @property
    def _now(self) -> float:
        return self._endpoint.layer.timers.seconds()

    def _feed(self, what: Input, *news: object) -> None:
        self.table.get((self.state, what), Registration._ignore)(self, *news)

    def _ignore(self, *news: object) -> None:
        pass

    def _try(self) -> None:
        self._asked_for_more = False
        self._look_up()

    def _look_up(self) -> None:
        self.state = TRYING
        self._timers.stop("due")
        self._attempt += 1
        attempt = self._attempt

        def found(where: Address | OSError) -> None:
            if attempt == self._attempt and self.state is TRYING:
                self._register(where)

        self._locate(found)

    def _register(self, where: Address | OSError) -> None:
        if not isinstance(where, OSError):
            try:
                self._local = self._endpoint.local(where)
            except OSError as error:
                where = error
        if isinstance(where, OSError):
            # Not before `start` has returned, as its caller may expect.
            words = str(where)
            self._timers.start("nowhere", 0, lambda: self._feed(FAILED, words))
        else:
            self._target = where
            self._send(where, self._expires)

    def _send(self, target: Address, expires: int) -> None:
        self._request = send_challenged(
            self._endpoint.layer,
            target,
            lambda: self._build(target, expires),
            self._authenticator,
            self._heard,
        )

    def _build(self, target: Address, expires: int) -> Request:
        # The challenge may have told us where we are seen.
        self._look_at_ourselves(target)
        self._cseq += 1
        return Request(
            "REGISTER",
            self.account.registrar,
            [
                via(self._local, new_branch()),
                ("Max-Forwards", "70"),
                ("From", str(NameAddr("", self.account.address_of_record).with_tag(self._tag))),
                ("To", str(NameAddr("", self.account.address_of_record))),
                ("Call-ID", self._call_id),
                ("CSeq", f"{self._cseq} REGISTER"),
                *self._contacts(expires),
                ("Expires", str(expires)),
                ("Allow", ALLOW),
                ("Supported", "path"),
                ("User-Agent", self._endpoint.product),
            ],
        )

    def _look_at_ourselves(self, target: Address) -> None:
        with suppress(OSError):  # then we are where we were, as far as we know
            self._local = self._endpoint.local(target)

    @property
    def _contact(self) -> str:
        scheme = "sips" if self.account.registrar.startswith("sips:") else "sip"
        return NameAddr.parse(contact(self._local, self.account.contact_user, scheme)[1]).uri

    def _contacts(self, expires: int) -> list[tuple[str, str]]:
        bound = self._bound
        if expires == 0:
            # A REGISTER for another address may have arrived that nobody has answered.
            return [("Contact", f"<{each}>;expires=0") for each in dict.fromkeys((bound, self._asked))]
        self._asked = self._contact
        contacts = [("Contact", f"<{self._asked}>;expires={expires}")]
        if bound not in (None, self._asked):
            contacts.append(("Contact", f"<{bound}>;expires=0"))
        return contacts

    def _heard(self, request: Request, news: Response | TransactionFailure) -> None:
        if isinstance(news, TransactionFailure):
            self._feed(FAILED, news.detail)
        elif 200 <= news.status < 300:
            self._feed(SUCCESS, news)
        elif news.status >= 300:
            self._feed(REFUSED, news)

    def _registered(self, response: Response) -> None:
        renewed = self.is_registered
        granted = min(_granted(response, self._asked or "", self._expires), LONGEST_LIFETIME)
        if granted == 0:
            self._fail("the registrar keeps no binding of ours", refused=True)
            return
        self.state = REGISTERED
        self._bound = self._asked
        self._failures, self._words = 0, ""
        self._until = self._now + granted
        self.path = _addresses(response, "Path")
        self._service_route = _addresses(response, "Service-Route")
        self._timers.start("lapse", granted, lambda: self._feed(LAPSE))
        self._timers.start("due", self._refresh_after(granted), lambda: self._feed(DUE))
        self.check_address()
        self._report(Registered(granted, renewed))

    def _refresh_after(self, granted: float) -> float:
        "Early enough for one whole transaction that fails, where the binding lasts that long."
        whole = self._endpoint.layer.intervals.timeout
        early = granted * (0.75 + 0.1 * self._chance())
        return max(1.0, granted / 2, min(early, granted - whole))

    def _refused(self, response: Response) -> None:
        if response.status == 423 and not self._asked_for_more:
            least = _least(response)
            if self._expires < least <= LONGEST_LIFETIME:
                self._asked_for_more = True
                self._expires = least
                self._look_up()
                return
        words = f"{response.status} {response.phrase}".rstrip()
        if response.status == _UNAVAILABLE and self._elsewhere(words, response.retry_after):
            self._look_up()
            return
        passing = response.status in _PASSING or 500 <= response.status < 600
        self._fail(words, refused=not passing, retry_after=response.retry_after or 0)

    def _failed(self, words: str) -> None:
        # It may well have arrived, and only its answer not.
        self._bound = self._bound or self._asked
        if self._elsewhere(words, None):
            self._look_up()
        else:
            self._fail(words, refused=False)

    def _fail(self, words: str, *, refused: bool, retry_after: int = 0) -> None:
        self.state = WAITING
        self._words = words
        first, longest = (FIRST_RETRY_REFUSED, LONGEST_RETRY_REFUSED) if refused else (FIRST_RETRY, LONGEST_RETRY)
        doubled = min(first * 2 ** min(self._failures, 10), longest)
        wait = max(doubled * (0.5 + 0.5 * self._chance()), min(float(retry_after), LONGEST_RETRY_REFUSED))
        self._failures += 1
        self._timers.start("due", wait, lambda: self._feed(DUE))
        self._report(NotRegistered(words, wait, self.is_registered))

    def _lapsed(self) -> None:
        self._report(Lapsed())

    def _leave(self) -> None:
        if self.state is TRYING:
            self._bound = self._bound or self._asked
        if self._request is not None:
            self._request.abandon()
        self._timers.stop_all()
        if self._bound is None or self._target is None:
            self._end()
            return
        self.state = LEAVING
        self._timers.start("leave", LEAVE_WITHIN, lambda: self._feed(GONE))
        self._send(self._target, 0)

    def _give_up(self) -> None:
        assert self._request is not None
        self._request.abandon()
        self._end()

    def _end(self, *news: object) -> None:
        self.state = OVER
        self._timers.stop_all()
        self._done()

    table: ClassVar[Mapping[tuple[State, Input], Callable[..., None]]] = {
        (IDLE, START): _try,
        (IDLE, STOP): _end,
        (TRYING, SUCCESS): _registered,
        (TRYING, REFUSED): _refused,
        (TRYING, FAILED): _failed,
        (TRYING, LAPSE): _lapsed,
        (TRYING, STOP): _leave,
        (REGISTERED, DUE): _try,
        (REGISTERED, STOP): _leave,
        (WAITING, DUE): _try,
        (WAITING, LAPSE): _lapsed,
        (WAITING, STOP): _leave,
        (LEAVING, SUCCESS): _end,
        (LEAVING, REFUSED): _end,
        (LEAVING, FAILED): _end,
        (LEAVING, GONE): _give_up,
    }
    "What is not here is late, and changes nothing."


def _granted(response: Response, bound: str, asked: int) -> int:
    """Return the seconds that the registrar gives our binding (§10.2.4)."""
    try:
        contacts = response.contacts
    except ParseError:
        contacts = ()
    # A border controller may have put another address in place of ours. One of several can't be told from others'.
    ours = [each for each in contacts if _same(each.uri, bound)] or (contacts if len(contacts) == 1 else ())
    given = [seconds for each in ours if (seconds := _seconds(each.parameter("expires"))) is not None]
    header = _seconds(response.get("Expires"))
    return min(given, default=asked if header is None else header)


def _seconds(text: str | None) -> int | None:
    try:
        return None if text is None else number(text)
    except ParseError:
        return None


def _least(response: Response) -> int:
    """Return Min-Expires, 0 where there is none (§20.23)."""
    return _seconds(response.get("Min-Expires")) or 0


def _same(one: str, other: str) -> bool:
    """Whether two Contacts are one binding, as far as ours differ (§19.1.4)."""
    try:
        first, second = Uri.parse(one), Uri.parse(other)
    except ParseError:
        return False
    return _key(first) == _key(second)


def _key(uri: Uri) -> tuple[str, str, int]:
    return uri.username, uri.host.lower(), uri.port or DEFAULT_PORT


def _addresses(response: Response, name: str) -> tuple[str, ...]:
    """Return the routes of a header; none where one of them can't be read."""
    try:
        routes = [NameAddr.parse(value) for value in response.values(name)]
        for route in routes:
            Uri.parse(route.uri)
    except ParseError:
        return ()
    return tuple(map(str, routes))
