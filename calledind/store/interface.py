"""What every store promises. `tests/store/contract.py` holds each implementation to it.

The rules, whatever the implementation:

* A Deferred that fires with a success speaks of stable storage: the change survives a kill and a power cut.
* Each change of a call's state is a compare-and-set: it answers False, and changes nothing, when the call is
  not in the state that the change starts from. Each is idempotent by call id (and attempt number): asked again
  with the same arguments after it was done, it answers True and changes nothing.
* For each key, credits + held + charged changes by `add_credits` alone.
* Time is an argument, in seconds since the epoch.
* `StoreUnavailable` means that nothing was changed as far as anyone will ever see.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred

from calledind.model import Attempt, Call, CallRecord, Key, Outcome, PendingCallback, ReturnCode

FLOOD_SECONDS = 60.0
"How long after an accepted request its number is refused with code 6."

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

    def add_credits(self, key_id: str, amount: int, now: float) -> Deferred[Key]:
        """Add (or take, when negative) credits. Raises KeyError; ValueError when fewer are left than are taken."""

    # DoNotCall

    def add_do_not_call(self, numbers: Iterable[Number]) -> Deferred[int]:
        """Answer how many were new. Millions at once are fine."""

    def remove_do_not_call(self, numbers: Iterable[Number]) -> Deferred[int]:
        """Answer how many were there."""

    def do_not_call(self) -> Iterable[Number]:
        """Give every number, in order, without holding up anybody else."""

    # admission

    def check(self, key_id: str, country_code: str, phone_number: str, now: float) -> Deferred[ReturnCode]:
        """Answer KEY_DISABLED, DO_NOT_CALL, FLOOD, NO_CREDITS (the first that holds, in this order) or ACCEPTED.

        Changes nothing. INVALID_KEY when the key is gone.
        """

    def accept(self, call: Call) -> Deferred[ReturnCode]:
        """Decide once more, in the order of `check`, at `call.accepted_at`.

        With ACCEPTED, and only then: one credit moved to held, the number's flood mark set, the call kept as
        ACCEPTED, all in one step and on stable storage. The same call id again answers ACCEPTED and changes nothing.
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

    # callbacks

    def pending_callbacks(self) -> Deferred[Sequence[PendingCallback]]:
        """Return the calls in DONE, the one due first in front."""

    def callback_delivered(self, call_id: str, tries: int, now: float) -> Deferred[bool]:
        """DONE -> DELIVERED."""

    def callback_exhausted(self, call_id: str, tries: int, now: float) -> Deferred[bool]:
        """DONE -> EXHAUSTED."""

    def callback_postponed(self, call_id: str, tries: int, due_at: float) -> Deferred[bool]:
        """DONE stays DONE: `tries` were made, the next is due at `due_at`."""

    # figures

    def totals(self) -> Deferred[Totals]: ...
