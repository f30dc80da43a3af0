"""What every store promises. `tests/store/contract.py` holds each implementation to it.

The rules, whatever the implementation:

* A Deferred that fires with a success speaks of stable storage: the change survives a kill and a power cut.
* Each change of a call's state is a compare-and-set: it answers False, and changes nothing, when the call is
  not in the state that the change starts from. Each is idempotent by call id (and attempt number): asked again
  with the same arguments after it was done, it answers True and changes nothing.
* For each key, credits + held + charged changes by `add_credits` alone.
* Each change of a key's `credits` leaves a row in its ledger, in the same step; so does a charge, which changes none.
* Time is an argument, in seconds since the epoch.
* `StoreUnavailable` means that nothing was changed as far as anyone will ever see.

A store that several nodes share is a `SharedStore` as well: it has the queue, the trunks' limits and the nodes' leases.
What a node is making (its calls from the moment they are taken, its callbacks) is that node's alone: a change of it
that any other asks for answers False.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf, isnan
from pathlib import Path
from typing import Protocol

from twisted.internet.defer import Deferred

from calledind.model import (
    Attempt,
    Call,
    CallRecord,
    EndedBy,
    Key,
    Outcome,
    PendingCallback,
    Reason,
    ReturnCode,
    State,
)

FLOOD_SECONDS = 60.0
"How long after an accepted request its number is refused with code 6."

IDEMPOTENCY_SECONDS = 86400.0
"For how long an accepted call is found by its `idempotency` at least."

Number = tuple[str, str]
"country_code and phone_number."


class StoreUnavailable(Exception):
    """The store can't take a change now (disk full, server gone); the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all keys together: `added` = `credits` + `held` + `charged`."""

    added: int
    "What operators added, less what they took."
    credits: int
    held: int
    charged: int
    calls: dict[str, int]
    "State -> how many calls are in it."
    do_not_call: int


class Entered(StrEnum):
    """Why a row is in the ledger."""

    ADDED = "added"
    "By an operator."
    TAKEN = "taken"
    "By an operator."
    HELD = "held"
    "By an accepted call."
    RELEASED = "released"
    "The call was not answered, and gave it back."
    CHARGED = "charged"
    "The call was answered: what it held is spent. `amount` is 0."


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One change of a key's credits."""

    key_id: str
    amount: int
    "Added to `credits`; negative: taken from them."
    reason: Entered
    reference: str
    "The call's id, or the operator's note."
    at: float
    "Seconds since the epoch."
    balance: int
    "`credits` after it."
    place: str = field(default="", compare=False)
    "Where it stands, for `before`. Opaque."


@dataclass(frozen=True, slots=True)
class CallFilter:
    """Which calls are wanted: those for which all of this holds. Raises ValueError for what can be no such thing."""

    key_id: str = ""
    'Of this key; "": of any.'
    last_digits: str = ""
    "What country_code and phone_number, written in one, end with: 1 to 15 digits; none: any number."
    state: str = ""
    'One of `State`; "": in any.'
    answered: bool | None = None
    "Calls with an outcome that says so; None: with and without one."
    reason: Reason | None = None
    "Calls with an outcome of this reason, why they were not answered; None: any, and none."
    since: float = 0.0
    "Accepted at this moment or later, in seconds since the epoch."
    until: float = inf
    "Accepted before this moment, in seconds since the epoch."

    def __post_init__(self) -> None:
        digits = self.last_digits
        if digits and not (digits.isascii() and digits.isdigit() and len(digits) <= 15):
            raise ValueError("the last digits of a number are 1 to 15 digits")
        if self.state and self.state not in list(State):
            raise ValueError(f"a call's state is one of {', '.join(State)}")
        if isnan(self.since) or isnan(self.until):
            raise ValueError("a time is seconds since the epoch")


class Store(Protocol):
    """Keys, credits, flood marks, the DoNotCall list, the life of each call and its callback."""

    def open(self) -> Deferred[None]:
        """Load what was kept. Nothing else may be asked before it has fired."""

    def close(self) -> Deferred[None]:
        """Write what is waiting, then let go of files and connections."""

    def healthy(self) -> bool:
        """Whether the last change could be kept; when not, one is tried again at least every two seconds."""

    # keys and credits

    def add_key(self, key: Key, digest: bytes) -> Deferred[None]:
        """Keep a new key under its keyed hash. Raises ValueError when the id or digest is taken."""

    def find_key(self, digest: bytes) -> Deferred[Key | None]: ...

    def keys(self) -> Deferred[Sequence[Key]]:
        """Return all keys, the oldest first."""

    def set_disabled(self, key_id: str, disabled: bool) -> Deferred[bool]:
        """Answer False when there is no such key."""

    def set_caller_ids(self, key_id: str, caller_ids: Sequence[str]) -> Deferred[bool]:
        """Let a key's requests name these caller ids alone, any where the list is empty. False: no such key."""

    def set_attestation(self, key_id: str, attestation: str) -> Deferred[bool]:
        """Keep what is attested of a key's calls: "A", "B", "C" or "". False: no such key."""

    def add_credits(self, key_id: str, amount: int, now: float, note: str = "") -> Deferred[Key]:
        """Add (or take, when negative) credits. Raises KeyError; ValueError when fewer are left than are taken."""

    def ledger(self, key_id: str, *, most: int = 100, before: str = "") -> Deferred[Sequence[LedgerEntry]]:
        """Return the newest changes of a key's credits, the newest first; those `before` a `place`.

        Raises KeyError; ValueError where `before` can be no place.
        """

    # DoNotCall

    def add_do_not_call(self, numbers: Iterable[Number]) -> Deferred[int]:
        """Answer how many were new. Millions at once are fine."""

    def remove_do_not_call(self, numbers: Iterable[Number]) -> Deferred[int]:
        """Answer how many were there."""

    def do_not_call(self) -> Deferred[Iterable[Number]]:
        """Give every number, in order, without holding up anybody else."""

    # admission

    def check(self, key_id: str, country_code: str, phone_number: str, now: float) -> Deferred[ReturnCode]:
        """Answer KEY_DISABLED, DO_NOT_CALL, FLOOD, NO_CREDITS (the first that holds, in this order) or ACCEPTED.

        Changes nothing. INVALID_KEY when the key is gone.
        """

    def objections(
        self, key_id: str, country_code: str, phone_number: str, now: float
    ) -> Deferred[Sequence[ReturnCode]]:
        """Answer every code that holds, where `check` answers the first of them. Changes nothing."""

    def accept(self, call: Call) -> Deferred[ReturnCode]:
        """Decide once more, in the order of `check`, at `call.accepted_at`.

        With ACCEPTED, and only then: one credit moved to held, the number's flood mark set, the call kept as
        ACCEPTED, all in one step and on stable storage. The same call id again answers ACCEPTED and changes nothing.

        FLOOD also where another call was accepted under this one's `idempotency` (its first 32 digits) and is found
        by it: it should have been asked for.
        """

    # the life of a call

    def begin_dialing(self, call_id: str, attempt: Attempt) -> Deferred[bool]:
        """ACCEPTED -> DIALING (attempt.number 1), or DIALING -> DIALING with the next number. Before the INVITE."""

    def record_answer(self, call_id: str, dialog: str, now: float) -> Deferred[bool]:
        """DIALING -> ANSWERED."""

    def settle(self, call_id: str, outcome: Outcome, *, charge: bool) -> Deferred[bool]:
        """ACCEPTED, DIALING or ANSWERED -> DONE with the held credit charged or released, in one commit.

        A call without `callback_url` goes to DELIVERED at once; with one, its callback is due at
        `outcome.ending.ended_at`.
        """

    def unfinished(self) -> Deferred[Sequence[CallRecord]]:
        """Return the calls in ACCEPTED, DIALING and ANSWERED, the oldest first."""

    def find_call(self, call_id: str) -> Deferred[CallRecord | None]: ...

    def calls(
        self, wanted: CallFilter, *, most: int = 50, before: str = ""
    ) -> Deferred[tuple[Sequence[CallRecord], str]]:
        """Return a page of the calls that are wanted, the newest first, and what `before` the next page has.

        The order is that of ids, which sort by the time of acceptance. `most`: calls of one page, at least 1.
        `before`: a call's id, which need not be there (any more); the page has calls of lower ids alone. "" in the
        answer: these were the last.

        Of a filter that few calls fit, a page may have fewer than `most`, or none, and still lead on to the next: the
        work for one page is bounded. Calls that come meanwhile are on none of the pages that follow.
        """

    def find_idempotent(self, token: str, now: float) -> Deferred[CallRecord | None]:
        """Return the call whose `idempotency` begins with these 32 digits, if it was accepted in the last day."""

    # callbacks

    def pending_callbacks(self) -> Deferred[Sequence[PendingCallback]]:
        """Return the calls in DONE, the one due first in front."""

    def callback_delivered(self, call_id: str, tries: int, now: float) -> Deferred[bool]:
        """DONE -> DELIVERED."""

    def callback_exhausted(self, call_id: str, tries: int, now: float) -> Deferred[bool]:
        """DONE -> EXHAUSTED."""

    def callback_postponed(self, call_id: str, tries: int, due_at: float) -> Deferred[bool]:
        """DONE stays DONE: `tries` were made, the next is due at `due_at`."""

    def callback_again(self, call_id: str, due_at: float) -> Deferred[bool]:
        """DONE, DELIVERED or EXHAUSTED -> DONE with no tries made, the first due at `due_at`: an operator wants it.

        False as well for a call that has no `callback_url`.
        """

    # what time brings

    def purge(self, before: float, *, most: int = 1000) -> Deferred[int]:
        """Forget some of what is over, and answer of how much; where it is not 0, there may be more.

        That is, at most `most` each of the calls in DELIVERED and EXHAUSTED that ended before this moment
        (`outcome.ending.ended_at`), and of the ledger's rows that are older. The keys' figures stay.
        """

    # figures

    def totals(self) -> Deferred[Totals]: ...

    # backups

    def copy_into(self, path: Path) -> Deferred[None]:
        """Write all that is kept, as of one moment, into this empty file: a database of the embedded store's schema.

        Changes go on meanwhile. Fails with StoreUnavailable, OSError, sqlite3.Error.
        """


Route = tuple[str, ...]
"Names of the trunks that take a number, in the order in which to ask them."


@dataclass(frozen=True, slots=True)
class Limits:
    """What one trunk takes, of all nodes together."""

    trunk: str
    channels: int
    calls_per_second: float


@dataclass(frozen=True, slots=True)
class Grants:
    """What `SharedStore.take` gave."""

    calls: Sequence[tuple[str, Call | None]]
    """The trunk, of which a channel and a moment of its pace are taken, and the call to dial there; None: one of the
    node's own that wait for this route."""
    wait: float | None
    "Seconds until a trunk of the route takes one more; None: none does before a channel comes free, or nobody waits."
    waiting: int
    "Calls that still wait for this route, the node's own not among them."


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A machine that works on the store, as the others see it."""

    name: str
    beats: int
    "Heartbeats counted since it joined: who sees this number stand still for the time of the lease may fence it."
    epoch: int
    "A new one each time the node joins: what a former one of the same name had is not its own."
    joined_at: float
    "Seconds since the epoch, by the node's clock."
    fenced: bool
    "Another node has taken over what it had."
    left: bool
    "It has said goodbye."
    figures: Mapping[str, object]
    "What it says of itself: live and queued calls, draining, version."


@dataclass(frozen=True, slots=True)
class OpenDialog:
    """A call that was answered, as this node could not say in time: others have ended it, and can't hang it up."""

    call_id: str
    dialog: str
    "As `record_answer` was given it."
    trunk: str
    "Its name; empty where it is not known."


class Fenced(Exception):
    """Others have taken over what this node had: it must let go of all its calls, and join again."""


class SharedStore(Store, Protocol):
    """The queue, the trunks' limits and the nodes, for a store that several nodes share.

    `open` joins the node: from then on a lease is running, which each `beat` renews. `close` takes leave: what the node
    had taken and not dialled waits in the queue again, and its callbacks are anybody's.
    """

    # the queue: fair between the keys of a route, the first of a key's calls first

    def waiting(self) -> Deferred[Mapping[Route, int]]:
        """Return how many calls wait for each route, where any do."""

    def queued(self) -> int:
        """Return how many calls waited in all when this node heard of it last."""

    def take(self, route: Route, limits: Sequence[Limits], *, own: int, most: int) -> Deferred[Grants]:
        """Take calls that wait for `route` (of those trunks that are in `limits`, in the order of that), each with a
        channel and a moment of the first trunk that has both.

        `own`: calls that the node has taken before and put back, which come first. `most`: calls in all.
        """

    def give_back(self, call_id: str, route: Route) -> Deferred[bool]:
        """Let a call of ours that is in ACCEPTED wait in front of its key's others, for any node."""

    def take_expired(self, accepted_before: float, *, most: int = 100) -> Deferred[Sequence[Call]]:
        """Take calls out of the queue, whatever their route, that waited too long; they are this node's to end."""

    def take_stranded(self, route: Route, *, most: int = 100) -> Deferred[Sequence[Call]]:
        """Take calls out of the queue of a route whose trunks are no more, without a channel; they are this node's."""

    def take_one(self, call_id: str) -> Deferred[Call | None]:
        """Take this call out of the queue, if it waits there: it is this node's to end."""

    def ask_to_hang_up(self, call_id: str, by: EndedBy) -> Deferred[None]:
        """Have all nodes that can be reached now hear that a call is to be hung up, and who wants that; nobody says
        whether one had it."""

    def release(self, trunk: str) -> None:
        """Give back a channel that `take` took. Never fails: it is said again with the next heartbeat."""

    def open_dialogs(self) -> Deferred[Sequence[OpenDialog]]:
        """Return the dialogs that the process before left open and nobody else knows of, to be hung up here.

        Known once the store is open. They are told by each start until `dialog_ended`.
        """

    def dialog_ended(self, call_id: str) -> None:
        """An open dialog has been hung up, or can't be."""

    # the nodes

    def beat(self, figures: Mapping[str, object]) -> Deferred[None]:
        """Say that this node is alive. Fails with `Fenced`, `StoreUnavailable`."""

    def lease_left(self) -> float:
        """Return the seconds, by this machine's monotonic clock, for which nobody may have fenced this node."""

    def rejoin(self) -> Deferred[None]:
        """Begin anew after `Fenced`, with nothing of what the node had."""

    def nodes(self) -> Deferred[Sequence[NodeStatus]]:
        """Return all that are known, by name; who took leave long ago is forgotten."""

    def fence(self, name: str, epoch: int, beats: int) -> Deferred[bool]:
        """Fence a node whose heartbeats still count `beats`; False: it has beaten since, or is not of this epoch."""

    def take_over(self, *, most: int = 100) -> Deferred[tuple[Sequence[CallRecord], Sequence[PendingCallback], bool]]:
        """Take some of what fenced nodes, those that took leave and former epochs of any node had.

        Calls in ACCEPTED wait in the queue again. Those in DIALING and ANSWERED are this node's now, to end; so are
        the callbacks. Channels come free. True: there may be more.
        """

    # audio

    def keep_audio(self, name: str, encodings: Mapping[str, bytes]) -> Deferred[None]:
        """Keep an MP3's encodings, codec -> octets, for as long as an accepted call may want them."""

    def find_audio(self, name: str) -> Deferred[Mapping[str, bytes]]:
        """Return what `keep_audio` kept; nothing where it is gone."""
