"""What the embedded store decides by: a picture of the disk and of the changes on their way to it.

Every decision is made here, at once and in the reactor's thread, so that two requests can never take the same
credit. A decision comes as a `Change`: what the disk is to be told, the answer for the asker once the disk has
it, and the way back. When changes can't be kept they are taken back in the reverse order, after which this
picture is what the disk has, exactly.

In memory are the keys, the DoNotCall list, the marks of the last minute and, for each call whose outcome isn't
known, some three hundred octets. A settled call lives on disk alone: hundreds of thousands may wait for their
customers' servers.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from calledind.compact import dump
from calledind.model import Attempt, Call, Key, Outcome, ReturnCode, State
from calledind.store.do_not_call import NumberSet, decode, encode
from calledind.store.interface import FLOOD_SECONDS, Entered, Number, Totals
from calledind.store.listings import pack
from calledind.store.rows import from_answer, from_attempt, from_call, from_outcome

TOKEN_SECONDS = 600.0
"""For how long an accepted call is remembered by its `idempotency`: longer than any request takes between asking the
disk for such a call and its acceptance."""
MOST_CREDITS = 2**53
"Well inside the integers of SQLite and of JSON readers."


class Kind(IntEnum):
    """What the disk is asked to do. Changes of one group are done in this order, the order of a call's life."""

    NOTHING = 0
    "To learn when everything decided before is on disk."
    ADD_KEY = 1
    DISABLE = 2
    ACCEPT = 3
    BEGIN = 4
    ANSWER = 5
    SETTLE = 6
    CALLBACK = 7
    LIST = 8
    UNLIST = 9
    IDENTIFY = 10
    PURGE = 11
    "Of what is over by then, calls of this very group among it."


Books = tuple[str, int, int, int, int]
"Key id, and what is added to its credits, held, charged and added."
Entry = tuple[int, str, int, str, str, float, int]
"A row of the ledger: place, key id, amount, reason, reference, time, balance."


def _nothing() -> None:
    """Leave everything as it is."""


@dataclass(slots=True, eq=False)
class Change:
    """One decision on its way to the disk."""

    kind: Kind
    answer: Any
    "For the asker, once it is kept. The disk sets that of CALLBACK."
    call_id: str = ""
    row: Any = None
    "JSON text, or what `disk` documents for the kind."
    books: Books | None = None
    entry: Entry | None = None
    undo: Callable[[], None] = _nothing
    "Puts memory back to before the decision, all later ones having been taken back."
    kept: Callable[[], None] = _nothing
    "Called when the disk has it."
    repeated: bool = False
    "Set by the disk for a CALLBACK that it has already: the answer is True, and nothing was changed."
    again: bool = False
    "Of a CALLBACK: it may be delivered or given up, and begins anew."
    live: Live | None = None
    "The call that BEGIN, ANSWER and SETTLE change."
    before: Any = None
    """Of an IDENTIFY, the row that takes it back. Set by the disk for a CALLBACK: state, tries and due_at until then;
    for a PURGE: state -> how many calls are gone."""

    @property
    def is_nothing(self) -> bool:
        return self.kind is Kind.NOTHING and self.books is None


@dataclass(slots=True, eq=False)
class Account:
    """A key and its credits."""

    id: str
    name: str
    digest: bytes
    credits: int
    held: int
    charged: int
    added: int
    disabled: bool
    created_at: float
    caller_ids: tuple[str, ...] = ()
    attestation: str = ""

    def key(self) -> Key:
        return Key(
            self.id,
            self.name,
            self.credits,
            self.held,
            self.charged,
            disabled=self.disabled,
            created_at=self.created_at,
            caller_ids=self.caller_ids,
            attestation=self.attestation,
        )

    def identity(self) -> tuple[str, str, str]:
        """Return the row of an IDENTIFY."""
        return dump(self.caller_ids), self.attestation, self.id


@dataclass(slots=True, eq=False)
class Live:
    """A call whose outcome is not known, or not on disk yet."""

    account: Account
    has_callback: bool
    state: State = State.ACCEPTED
    attempt: Attempt | None = None
    answer: tuple[str, float] | None = None
    "The dialog and when it began."
    outcome: tuple[Outcome, bool] | None = None
    "And whether the credit was charged."


Mark = tuple[float, str, int]
"When a number was accepted, for which call, and the number."


@dataclass(slots=True)
class Loaded:
    """What `disk` read when it was opened."""

    accounts: list[Account]
    live: dict[str, Live]
    marks: list[Mark]
    "Of the last minute, the oldest first."
    counts: Counter[State]
    numbers: NumberSet = field(default_factory=NumberSet)
    last_place: int = 0
    "Of the ledger."


class Memory:
    """Decides. Not thread-safe: the reactor's thread alone may touch it."""

    def __init__(self, loaded: Loaded) -> None:
        self.accounts = {account.id: account for account in loaded.accounts}
        self._by_digest = {account.digest: account for account in loaded.accounts}
        self.live = loaded.live
        self._marks: dict[int, Mark] = {mark[2]: mark for mark in loaded.marks}
        self._mark_order = deque(loaded.marks)
        self._tokens: dict[str, str] = {}
        "The first half of `idempotency` -> call id, of the last minutes since the start."
        self._token_order: deque[tuple[float, str]] = deque()
        "When, and which."
        self.numbers = loaded.numbers
        self._counts = loaded.counts
        self._last_place = loaded.last_place
        self.ended: Collection[str] = ()
        "Calls that the disk has just found to be old ones, so that deciding once more finds it too."

    # keys and credits

    def add_key(self, key: Key, digest: bytes) -> Change:
        if key.id in self.accounts or digest in self._by_digest:
            raise ValueError("there is such a key already")
        key.name.encode()  # what isn't text raises here, not when it is too late for the others of its group
        added = key.credits + key.held + key.charged
        if min(key.credits, key.held, key.charged) < 0 or added > MOST_CREDITS:
            raise ValueError(f"credits must be from 0 to {MOST_CREDITS}")
        if key.held:
            raise ValueError("a new key has no calls that could hold credits")
        dump(key.created_at)  # so does what isn't a time
        account = Account(
            key.id,
            key.name,
            digest,
            key.credits,
            0,
            key.charged,
            added,
            bool(key.disabled),
            float(key.created_at),
            tuple(key.caller_ids),
            key.attestation,
        )
        self.accounts[key.id] = self._by_digest[digest] = account

        def undo() -> None:
            del self.accounts[key.id], self._by_digest[digest]

        row = (
            key.id,
            digest,
            key.name,
            key.credits,
            0,
            key.charged,
            added,
            account.disabled,
            account.created_at,
            *account.identity()[:2],
        )
        entry = self._entry(account, key.credits, Entered.ADDED, "", account.created_at) if key.credits else None
        return Change(Kind.ADD_KEY, None, row=row, entry=entry, undo=undo)

    def _entry(self, account: Account, amount: int, reason: Entered, reference: str, at: float) -> Entry:
        """Return the row of a change that the account has seen; those that are taken back leave gaps."""
        self._last_place += 1
        return self._last_place, account.id, amount, reason, reference, at, account.credits

    def find_key(self, digest: bytes) -> Key | None:
        account = self._by_digest.get(digest)
        return None if account is None else account.key()

    def keys(self) -> list[Key]:
        accounts = sorted(self.accounts.values(), key=lambda account: account.created_at)
        return [account.key() for account in accounts]

    def set_disabled(self, key_id: str, disabled: bool) -> Change:
        account = self.accounts.get(key_id)
        if account is None or account.disabled == disabled:
            return Change(Kind.NOTHING, account is not None)
        account.disabled = disabled

        def undo() -> None:
            account.disabled = not disabled

        return Change(Kind.DISABLE, True, row=(disabled, key_id), undo=undo)

    def set_caller_ids(self, key_id: str, caller_ids: Sequence[str]) -> Change:
        return self._identify(key_id, caller_ids=tuple(caller_ids))

    def set_attestation(self, key_id: str, attestation: str) -> Change:
        return self._identify(key_id, attestation=attestation)

    def _identify(
        self, key_id: str, *, caller_ids: tuple[str, ...] | None = None, attestation: str | None = None
    ) -> Change:
        account = self.accounts.get(key_id)
        if account is None:
            return Change(Kind.NOTHING, False)
        kept, before = (account.caller_ids, account.attestation), account.identity()
        account.caller_ids = kept[0] if caller_ids is None else caller_ids
        account.attestation = kept[1] if attestation is None else attestation

        def undo() -> None:
            account.caller_ids, account.attestation = kept

        return Change(Kind.IDENTIFY, True, row=account.identity(), undo=undo, before=before)

    def add_credits(self, key_id: str, amount: int, now: float, note: str) -> Change:
        account = self.accounts[key_id]
        note.encode()  # what isn't text, or not a time, raises here, as in `add_key`
        dump(now)
        if account.credits + amount < 0:
            raise ValueError(f"{-amount} credits can't be taken: {account.credits} are left")
        if account.added + amount > MOST_CREDITS:
            raise ValueError(f"a key can't be given more than {MOST_CREDITS} credits")
        account.credits += amount
        account.added += amount

        def undo() -> None:
            account.credits -= amount
            account.added -= amount

        if not amount:
            return Change(Kind.NOTHING, account.key())
        entry = self._entry(account, amount, Entered.ADDED if amount > 0 else Entered.TAKEN, note, float(now))
        return Change(Kind.NOTHING, account.key(), books=(key_id, amount, 0, 0, amount), entry=entry, undo=undo)

    # DoNotCall

    def add_do_not_call(self, numbers: Iterable[Number]) -> Change:
        wanted = [encode(*number) for number in numbers]
        new = sorted(value for value in wanted if self.numbers.add(value))
        if not new:
            return Change(Kind.NOTHING, 0)
        return Change(Kind.LIST, len(new), row=pack(new), undo=lambda: self._unlist(new))

    def remove_do_not_call(self, numbers: Iterable[Number]) -> Change:
        wanted = [encode(*number) for number in numbers]
        gone = sorted(value for value in wanted if self.numbers.remove(value))
        if not gone:
            return Change(Kind.NOTHING, 0)
        return Change(Kind.UNLIST, len(gone), row=pack(gone), undo=lambda: self._list(gone))

    def _list(self, values: Sequence[int]) -> None:
        for value in values:
            self.numbers.add(value)

    def _unlist(self, values: Sequence[int]) -> None:
        for value in values:
            self.numbers.remove(value)

    def do_not_call(self) -> Iterable[Number]:
        return map(decode, self.numbers)

    # admission

    def check(self, key_id: str, country_code: str, phone_number: str, now: float) -> ReturnCode:
        account = self.accounts.get(key_id)
        if account is None:
            return ReturnCode.INVALID_KEY
        return self._verdict(account, encode(country_code, phone_number), now)

    def objections(self, key_id: str, country_code: str, phone_number: str, now: float) -> list[ReturnCode]:
        account, number = self.accounts.get(key_id), encode(country_code, phone_number)
        if account is None:
            return [ReturnCode.INVALID_KEY]
        mark = self._marks.get(number)
        held = {
            ReturnCode.KEY_DISABLED: account.disabled,
            ReturnCode.DO_NOT_CALL: number in self.numbers,
            ReturnCode.FLOOD: mark is not None and abs(now - mark[0]) < FLOOD_SECONDS,
            ReturnCode.NO_CREDITS: account.credits < 1,
        }
        return [code for code, holds in held.items() if holds]

    def _verdict(self, account: Account, number: int, now: float) -> ReturnCode:
        if account.disabled:
            return ReturnCode.KEY_DISABLED
        if number in self.numbers:
            return ReturnCode.DO_NOT_CALL
        mark = self._marks.get(number)
        # A mark of the future is a clock that was set back between two starts: it must not block for long.
        if mark is not None and abs(now - mark[0]) < FLOOD_SECONDS:
            return ReturnCode.FLOOD
        if account.credits < 1:
            return ReturnCode.NO_CREDITS
        return ReturnCode.ACCEPTED

    def accept(self, call: Call) -> Change | ReturnCode:
        """Return the change of an acceptance, or the code of a refusal.

        A refused call may have been accepted long ago under this very id; only the disk knows.
        """
        call_id = call.id
        account = self.accounts.get(call.key_id)
        number = encode(call.country_code, call.phone_number)
        previous = self._marks.get(number)
        if call_id in self.live or call_id in self.ended or (previous is not None and previous[1] == call_id):
            return Change(Kind.NOTHING, ReturnCode.ACCEPTED)
        if account is None:
            return ReturnCode.INVALID_KEY
        verdict = self._verdict(account, number, call.accepted_at)
        if verdict is not ReturnCode.ACCEPTED:
            return verdict
        token = call.idempotency[:32]
        if token in self._tokens:
            return ReturnCode.FLOOD
        row = dump((call_id, account.id, from_call(call)))
        account.credits -= 1
        account.held += 1
        self.live[call_id] = Live(account, call.callback_url is not None)
        self._counts[State.ACCEPTED] += 1
        mark = self._mark(call.accepted_at, call_id, number)
        if token:
            self._remember(call.accepted_at, call_id, token)

        def undo() -> None:
            if token:
                self._tokens.pop(token, None)
            account.credits += 1
            account.held -= 1
            del self.live[call_id]
            self._counts[State.ACCEPTED] -= 1
            if self._marks.get(number) is mark:
                del self._marks[number]

        books = (account.id, -1, 1, 0, 0)
        entry = self._entry(account, -1, Entered.HELD, call_id, call.accepted_at)
        return Change(Kind.ACCEPT, ReturnCode.ACCEPTED, call_id, row, books, entry, undo)

    def _mark(self, at: float, call_id: str, number: int) -> Mark:
        mark = (at, call_id, number)
        self._marks[number] = mark
        order = self._mark_order
        order.append(mark)
        # Two leave for each that comes, at most: the work is spread, and none stays for ever.
        for _ in range(2):
            if abs(at - order[0][0]) < FLOOD_SECONDS:
                break
            old = order.popleft()
            if self._marks.get(old[2]) is old:
                del self._marks[old[2]]
        return mark

    def _remember(self, at: float, call_id: str, token: str) -> None:
        self._tokens[token] = call_id
        order = self._token_order
        order.append((at, token))
        for _ in range(2):
            if abs(at - order[0][0]) < TOKEN_SECONDS:
                break
            self._tokens.pop(order.popleft()[1], None)

    # the life of a call

    def begin_dialing(self, call_id: str, attempt: Attempt) -> Change:
        live = self.live.get(call_id)
        if live is None:
            return Change(Kind.NOTHING, False)
        before, last = live.state, live.attempt
        if before is State.DIALING and attempt == last:
            return Change(Kind.NOTHING, True)
        number = 1 if last is None else last.number + 1
        if before not in (State.ACCEPTED, State.DIALING) or attempt.number != number:
            return Change(Kind.NOTHING, False)
        row = dump((call_id, from_attempt(attempt)))
        live.attempt = attempt
        self._move(live, State.DIALING)

        def undo() -> None:
            live.attempt = last
            self._move(live, before)

        return Change(Kind.BEGIN, True, call_id, row, undo=undo, live=live)

    def record_answer(self, call_id: str, dialog: str, now: float) -> Change:
        live = self.live.get(call_id)
        if live is None or live.state is not State.DIALING:
            repeated = live is not None and live.state is State.ANSWERED and live.answer == (dialog, now)
            return Change(Kind.NOTHING, repeated)
        row = dump((call_id, from_answer(dialog, now)))
        live.answer = (dialog, now)
        self._move(live, State.ANSWERED)

        def undo() -> None:
            live.answer = None
            self._move(live, State.DIALING)

        return Change(Kind.ANSWER, True, call_id, row, undo=undo, live=live)

    def settle(self, call_id: str, outcome: Outcome, *, charge: bool) -> Change:
        """Raises KeyError for a call that memory doesn't hold: what became of it, only the disk knows."""
        live = self.live[call_id]
        if live.outcome is not None:
            return Change(Kind.NOTHING, live.outcome == (outcome, charge))
        account, before = live.account, live.state
        state = State.DONE if live.has_callback else State.DELIVERED
        ended_at = outcome.ending.ended_at
        due_at = ended_at if live.has_callback else None
        row = dump((call_id, state, from_outcome(outcome), charge, due_at, ended_at))
        charged = int(charge)
        account.held -= 1
        account.charged += charged
        account.credits += 1 - charged
        live.outcome = (outcome, charge)
        self._move(live, state)

        def undo() -> None:
            account.held += 1
            account.charged -= charged
            account.credits -= 1 - charged
            live.outcome = None
            self._move(live, before)

        def kept() -> None:
            del self.live[call_id]

        books = (account.id, 1 - charged, -1, charged, 0)
        reason = Entered.CHARGED if charged else Entered.RELEASED
        entry = self._entry(account, 1 - charged, reason, call_id, ended_at)
        return Change(Kind.SETTLE, True, call_id, row, books, entry, undo, kept, live=live)

    def _move(self, live: Live, state: State) -> None:
        self._counts[live.state] -= 1
        self._counts[state] += 1
        live.state = state

    def finish_callback(self, call_id: str, state: State, tries: int, due_at: float | None) -> Change:
        """DONE -> `state`; whether the call is in DONE is found out by the disk, in the order of the changes."""
        change = Change(Kind.CALLBACK, False, call_id, (state, tries, due_at))

        def kept() -> None:
            if change.answer and not change.repeated:
                self._counts[State(change.before[0])] -= 1
                self._counts[state] += 1

        change.kept = kept
        return change

    def callback_again(self, call_id: str, due_at: float) -> Change:
        """DONE, DELIVERED or EXHAUSTED -> DONE without tries."""
        change = self.finish_callback(call_id, State.DONE, 0, float(due_at))
        change.again = True
        return change

    # what time brings

    def purge(self, before: float, most: int) -> Change:
        """Forget so many calls and rows of the ledger; which these are is found out by the disk."""
        change = Change(Kind.PURGE, 0, row=(float(before), most))
        change.kept = lambda: self._counts.subtract(change.before)
        return change

    # figures

    def totals(self) -> Totals:
        accounts = self.accounts.values()
        return Totals(
            added=sum(account.added for account in accounts),
            credits=sum(account.credits for account in accounts),
            held=sum(account.held for account in accounts),
            charged=sum(account.charged for account in accounts),
            calls={state.value: self._counts[state] for state in State},
            do_not_call=len(self.numbers),
        )
