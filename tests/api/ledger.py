"""A store that keeps nothing, for the operator's requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail, succeed

from calledind.model import CallRecord, Key, ReturnCode
from calledind.store.interface import Entered, LedgerEntry, Number, StoreUnavailable, Totals

if TYPE_CHECKING:
    from calledind.store.interface import Store


class Ledger:
    """Keys, credits and the DoNotCall list in memory. `full`: refuse changes as a full disk does."""

    def __init__(self) -> None:
        self.by_digest: dict[bytes, Key] = {}
        self.numbers: set[Number] = set()
        self.calls: dict[str, CallRecord] = {}
        self.entries: list[LedgerEntry] = []
        self.full = False
        self.breaks_after: int | None = None
        "Numbers given by `do_not_call` before it fails."

    @property
    def as_store(self) -> Store:
        return self  # type: ignore[return-value]

    def healthy(self) -> bool:
        return not self.full

    def add_key(self, key: Key, digest: bytes) -> Deferred[None]:
        if self.full:
            return fail(StoreUnavailable("no space left on device"))
        self.by_digest[digest] = key
        return succeed(None)

    def keys(self) -> Deferred[Sequence[Key]]:
        return succeed(list(self.by_digest.values()))

    def check(self, key_id: str, country_code: str, phone_number: str, now: float) -> Deferred[ReturnCode]:
        listed = (country_code, phone_number) in self.numbers
        return succeed(ReturnCode.DO_NOT_CALL if listed else ReturnCode.NO_CREDITS)

    def set_disabled(self, key_id: str, disabled: bool) -> Deferred[bool]:
        return self._change(key_id, disabled=disabled)

    def set_caller_ids(self, key_id: str, caller_ids: Sequence[str]) -> Deferred[bool]:
        return self._change(key_id, caller_ids=tuple(caller_ids))

    def set_attestation(self, key_id: str, attestation: str) -> Deferred[bool]:
        return self._change(key_id, attestation=attestation)

    def _change(self, key_id: str, **changes: Any) -> Deferred[bool]:
        for digest, key in self.by_digest.items():
            if key.id == key_id:
                self.by_digest[digest] = replace(key, **changes)
                return succeed(True)
        return succeed(False)

    def add_credits(self, key_id: str, amount: int, now: float, note: str = "") -> Deferred[Key]:
        for digest, key in self.by_digest.items():
            if key.id == key_id:
                if key.credits + amount < 0:
                    return fail(ValueError(f"only {key.credits} credits are left"))
                self.by_digest[digest] = replace(key, credits=key.credits + amount)
                reason, place = Entered.ADDED if amount > 0 else Entered.TAKEN, f"place &{len(self.entries)}"
                self.entries.append(LedgerEntry(key_id, amount, reason, note, now, key.credits + amount, place))
                return succeed(self.by_digest[digest])
        return fail(KeyError(key_id))

    def ledger(self, key_id: str, *, most: int = 100, before: str = "") -> Deferred[Sequence[LedgerEntry]]:
        if all(key.id != key_id for key in self.by_digest.values()):
            return fail(KeyError(key_id))
        rows = [entry for entry in reversed(self.entries) if entry.key_id == key_id]
        places = [row.place for row in rows]
        if before and before not in places:
            return fail(ValueError(f"{before} is no place"))
        start = places.index(before) + 1 if before else 0
        return succeed(rows[start : start + most])

    def add_do_not_call(self, numbers: Iterable[Number]) -> Deferred[int]:
        if self.full:
            return fail(StoreUnavailable("no space left on device"))
        before = len(self.numbers)
        self.numbers.update(numbers)
        return succeed(len(self.numbers) - before)

    def remove_do_not_call(self, numbers: Iterable[Number]) -> Deferred[int]:
        before = len(self.numbers)
        self.numbers.difference_update(numbers)
        return succeed(before - len(self.numbers))

    def do_not_call(self) -> Deferred[Iterable[Number]]:
        return succeed(self._numbers())

    def _numbers(self) -> Iterator[Number]:
        for place, number in enumerate(sorted(self.numbers)):
            if place == self.breaks_after:
                raise OSError("broken")
            yield number

    def find_call(self, call_id: str) -> Deferred[CallRecord | None]:
        return succeed(self.calls.get(call_id))

    def totals(self) -> Deferred[Totals]:
        keys = self.by_digest.values()
        spare, held, charged = (
            sum(part) for part in ([k.credits for k in keys], [k.held for k in keys], [k.charged for k in keys])
        )
        return succeed(Totals(spare + held + charged, spare, held, charged, {"accepted": 0}, len(self.numbers)))
