"""What an `InviteSession` reports to its owner: any number of `Progress`, at most one `Answered`, one last word."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Progress:
    """A provisional response."""

    status: int
    "100 to 199."
    phrase: str
    sdp: bytes = field(default=b"", repr=False)
    "Early media, where some is described."


@dataclass(frozen=True, slots=True)
class Answered:
    """The first 2xx. It isn't acknowledged yet: the owner calls `acknowledge` (or `end`)."""

    sdp: bytes = field(repr=False)
    dialog: str = field(repr=False)
    "JSON, what `UserAgent.recover_dialog` needs to send a BYE after a restart."
    offer: bytes = field(default=b"", repr=False)
    "The callee's own, of an early UPDATE, which `Invitation.renegotiate` has answered; it goes before `sdp`."


@dataclass(frozen=True, slots=True)
class LateAnswer:
    """The answer to the offer we made in the 200 to a re-INVITE that had none; it came with the ACK."""

    sdp: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """A final response of 300 or more, after the digest was tried; or 487 of our own where none follows a CANCEL."""

    status: int
    phrase: str
    q850: int | None = None
    "Cause of a Reason header (RFC 3326)."
    retry_after: int | None = None
    "Seconds."
    warning: str = ""
    contacts: tuple[str, ...] = field(default=(), repr=False)
    "URIs that a 3xx names, the preferred one first."


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Nobody answered the INVITE, not even with a 100."""

    cause: Literal["timeout", "transport"]
    detail: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The call was answered, and is over."""

    by: Literal["peer", "us"]
    q850: int | None = None
    "Cause of the Reason header of the peer's BYE."
    detail: str = ""


Event = Progress | Answered | LateAnswer | Refused | Unreachable | Ended
