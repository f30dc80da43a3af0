"""Everything around a call, made of fakes that show what was asked of them and say what a test wants said."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from calledind import sdp
from calledind.codecs import CODECS
from calledind.dialing.surroundings import Surroundings
from calledind.model import Address, Attempt, Call
from calledind.net.media import MediaEvent, MediaSession, MediaStatistics, NoMedia
from calledind.settings.tables import Calls, Trunk
from calledind.sip.useragent import Event, Invitation, InviteSession
from calledind.store.interface import Store, StoreUnavailable

START = 1_800_000_000.0
"Seconds since the epoch when a test begins."
UP = 1000.0
"Seconds that the clock had run by then."
TARGET = ("192.0.2.1", 5060)
AUDIO = "a" * 64


def make_call(name: str = "1", *, key: str = "key_1", accepted_at: float = START, number: str = "2125550100") -> Call:
    return Call(
        id=name.rjust(32, "0"),
        key_id=key,
        phone_number=number,
        country_code="1",
        caller_id="0000000000",
        audio=AUDIO,
        duration=3.0,
        callback_url=None,
        secret="",
        accepted_at=accepted_at,
    )


def make_trunk(name: str = "a", **settings: Any) -> Trunk:
    return Trunk(**{"name": name, "host": f"{name}.example", "calls_per_second": 1000.0, **settings})


def sdp_answer(direction: str = "sendrecv", codecs: tuple[str, ...] = ("PCMU",)) -> bytes:
    """Return what a callee at 192.0.2.9:4000 says to an offer."""
    return bytes(sdp.offer(address="192.0.2.9", port=4000, codecs=codecs, session_id=1, version=1, direction=direction))


@dataclass
class FakeStore:
    """Answers at once, or when it is told to; what it was asked is in `log`."""

    log: list[tuple[Any, ...]] = field(default_factory=list)
    away: bool = False
    ours: bool = True
    "Whether the calls are where they should be."
    holding: bool = False
    held: list[tuple[Deferred[bool], bool]] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    "Call id -> number of its last attempt."

    def begin_dialing(self, call_id: str, attempt: Attempt) -> Deferred[bool]:
        if not self.away:
            self.log.append(("begin_dialing", call_id, attempt.number, attempt.trunk))
            if attempt.number != self.numbers.get(call_id, 0) + 1:
                return succeed(False)
            self.numbers[call_id] = attempt.number
        return self._answer()

    def record_answer(self, call_id: str, dialog: str, now: float) -> Deferred[bool]:
        self.log.append(("record_answer", call_id, dialog, now))
        return self._answer()

    def release(self) -> None:
        held, self.held = self.held, []
        for waiting, answer in held:
            waiting.callback(answer)

    def _answer(self) -> Deferred[bool]:
        if self.away:
            return fail(StoreUnavailable("disk full"))
        if not self.holding:
            return succeed(self.ours)
        waiting: Deferred[bool] = Deferred()
        self.held.append((waiting, self.ours))
        return waiting


@dataclass
class FakeSession:
    """An INVITE session that does nothing by itself."""

    invitation: Invitation
    log: list[str] = field(default_factory=list)
    snapshot: str = "{}"
    report: Callable[[Event], None] = lambda event: None
    broken: str = ""
    "The method that raises."
    reason: str = ""
    "Reason header that it was ended with."

    def send(self, report: Callable[[Event], None]) -> None:
        self._note("send")
        self.report = report

    def acknowledge(self) -> None:
        self._note("acknowledge")

    def end(self, reason_header: str | None = None) -> None:
        self._note("end")
        self.reason = reason_header or ""

    def redirected(self, request_uri: str, target: Address) -> Invitation:
        return replace(self.invitation, request_uri=request_uri, target=target, cseq=self.invitation.cseq + 1)

    def _note(self, what: str) -> None:
        self.log.append(what)
        if what.split(maxsplit=1)[0] == self.broken:
            raise ZeroDivisionError(what)


@dataclass
class FakeUserAgent:
    sessions: list[FakeSession] = field(default_factory=list)
    broken: bool = False

    def prepare(self, invitation: Invitation) -> InviteSession:
        if self.broken:
            raise ZeroDivisionError("prepare")
        self.sessions.append(FakeSession(invitation))
        return cast(InviteSession, self.sessions[-1])


class FakeMediaSession:
    def __init__(self, report: Callable[[MediaEvent], None]) -> None:
        self.report = report
        self.local: Address = ("0.0.0.0", 16384)
        self.plays: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.redirects: list[tuple[Any, ...]] = []
        self.closed = 0
        self.broken = False
        self.statistics = MediaStatistics()

    def play(self, *arguments: Any, **named: Any) -> None:
        self.plays.append((arguments, named))

    def redirect(self, *arguments: Any) -> None:
        self.redirects.append(arguments)

    def close(self) -> Deferred[MediaStatistics]:
        self.closed += 1
        return fail(ZeroDivisionError("close")) if self.broken else succeed(self.statistics)


@dataclass
class FakeMedia:
    sessions: list[FakeMediaSession] = field(default_factory=list)
    full: bool = False
    behind: bool = False
    tries: int = 0

    def open(self, report: Callable[[MediaEvent], None]) -> Deferred[MediaSession]:
        self.tries += 1
        if self.full:
            return fail(NoMedia("no port is free"))
        self.sessions.append(FakeMediaSession(report))
        return succeed(cast(MediaSession, self.sessions[-1]))

    def is_behind(self) -> bool:
        return self.behind


@dataclass
class FakeTargets:
    lost: set[str] = field(default_factory=set)
    "Hosts of trunks that have no address."
    addresses: Sequence[Address] = (TARGET,)
    "Of every trunk."
    resting: dict[Address, int | None] = field(default_factory=dict)
    working: list[Address] = field(default_factory=list)
    routes: tuple[str, ...] = ()
    "Service-Route of every trunk."

    def locate(self, trunk: Trunk, tried: Collection[Address] = ()) -> Deferred[Address]:
        left = [address for address in self.addresses if address not in tried]
        if trunk.host in self.lost or not left:
            return fail(OSError(f"{trunk.host} is not known"))
        return succeed(left[0])

    def has_more(self, trunk: Trunk, tried: Collection[Address]) -> bool:
        return any(address not in tried and address not in self.resting for address in self.addresses)

    def failed(self, target: Address, retry_after: int | None = None) -> None:
        self.resting[target] = retry_after

    def works(self, target: Address) -> None:
        self.working.append(target)

    def route(self, trunk: Trunk) -> tuple[str, ...]:
        return self.routes


class World:
    """A clock, fakes, and the `Surroundings` made of them."""

    def __init__(self, settings: Calls | None = None) -> None:
        self.clock = Clock()
        self.clock.advance(UP)
        self.store = FakeStore()
        self.user_agent = FakeUserAgent()
        self.media = FakeMedia()
        self.targets = FakeTargets()
        self.no_way = False
        "Nothing leads to the trunks' addresses."
        self.surroundings = Surroundings(
            store=cast(Store, self.store),
            user_agent=self.user_agent,
            media=self.media,
            timers=self.clock,
            settings=settings or Calls(),
            audio_path=lambda name, codec: Path(f"/audio/{name}.{codec}"),
            audio_codecs=lambda name: CODECS,
            targets=self.targets,
            local_host=self._local_host,
            now=self.now,
        )

    def now(self) -> float:
        return START + self.clock.seconds() - UP

    @property
    def session(self) -> FakeSession:
        return self.user_agent.sessions[-1]

    def _local_host(self, target: Any) -> str:
        if self.no_way:
            raise OSError("Network is unreachable")
        return "198.51.100.7"
