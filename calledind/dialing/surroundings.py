"""What calls are made with, as far as they need to know it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from twisted.internet.defer import Deferred

from calledind.dialing.media_log import CallMedia
from calledind.model import Address, Call
from calledind.net.media import MediaEvent, MediaSession
from calledind.settings.tables import Calls
from calledind.settings.tables import Trunk as TrunkSettings
from calledind.sip.timers import Timers
from calledind.sip.useragent import Invitation, InviteSession
from calledind.store.interface import Store

Stage = Literal["dialing", "ringing", "answered"]
"How far a call has come, for who watches: its INVITE leaves, its callee's telephone rings, somebody answers."


class UserAgent(Protocol):
    def prepare(self, invitation: Invitation) -> InviteSession: ...


class Media(Protocol):
    def open(self, report: Callable[[MediaEvent], None]) -> Deferred[MediaSession]: ...

    def is_behind(self) -> bool:
        """Whether no more should be opened for a moment."""


class Targets(Protocol):
    """The addresses of each trunk (RFC 3263)."""

    def locate(self, trunk: TrunkSettings, tried: Collection[Address] = ()) -> Deferred[Address]:
        """Find where a call goes, to none of those that were tried. Fails with OSError."""

    def has_more(self, trunk: TrunkSettings, tried: Collection[Address]) -> bool:
        """Whether there is one that was not tried and is well."""

    def failed(self, target: Address, retry_after: int | None = None) -> None:
        """Leave it alone for a while, or for so many seconds."""

    def works(self, target: Address) -> None:
        """It has answered."""

    def route(self, trunk: TrunkSettings) -> tuple[str, ...]:
        """Return the Route headers that its calls begin with."""


@dataclass(frozen=True)
class Surroundings:
    """What every call of a daemon needs."""

    store: Store
    user_agent: UserAgent
    media: Media
    timers: Timers
    settings: Calls
    audio_path: Callable[[str, str], Path]
    "Name of the audio and codec -> file of encoded octets."
    audio_codecs: Callable[[str], Collection[str]]
    "Name of the audio -> the codecs it is encoded in."
    targets: Targets
    local_host: Callable[[Address], str]
    "The IP address that we name to this target."
    now: Callable[[], float]
    "Seconds since the epoch."
    sign: Callable[[Call, str], Iterable[tuple[str, str]]] = lambda call, number: ()
    "A call and the number that it comes from -> the headers that vouch for it, if any."
    may_dial: Callable[[], bool] = lambda: True
    "Asked between the commit and the INVITE: whether nobody can have taken over what this node was about to do."
    media_closed: Callable[[str, CallMedia], None] = lambda call_id, media: None
    "Told how a call's media went, by the call's id."
    reached: Callable[[Call, Stage, str], None] = lambda call, stage, trunk: None
    "Told how far a call has come, and on which trunk; each stage once for each attempt. Must not raise."
    trunk_changed: Callable[[str, Mapping[str, object]], None] = lambda trunk, details: None
    "Told by `trunks.Trunk` when a trunk fails, and when it is well again. Must not raise."
