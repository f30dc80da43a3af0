"""Keys, credits, ledgers and the DoNotCall list in Redis."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from twisted.internet.defer import Deferred, fail, succeed

from calledind.compact import dump
from calledind.model import Key, State
from calledind.store.do_not_call import decode, encode
from calledind.store.interface import Entered, LedgerEntry, Number, Totals
from calledind.store.memory import MOST_CREDITS
from calledind.store.redis_base import RedisBase, to_key

LIST_CHUNK = 1000
"Numbers of the DoNotCall list changed at a time, some milliseconds of Redis's work."
READ_CHUNK = 200
"Beginnings of numbers whose ends are read at a time."
PURGE_CHUNK = 100
"Calls and entries of the ledgers purged at a time."
PLACE = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
"Of an entry in a ledger: its id in the stream."


class RedisKeys(RedisBase):
    """The part of `interface.Store` that is about keys and numbers."""

    def add_key(self, key: Key, digest: bytes) -> Deferred[None]:
        return Deferred.fromCoroutine(self._add_key(key, digest))

    async def _add_key(self, key: Key, digest: bytes) -> None:
        name = key.name.encode()
        if min(key.credits, key.held, key.charged) < 0 or key.credits + key.held + key.charged > MOST_CREDITS:
            raise ValueError(f"credits must be from 0 to {MOST_CREDITS}")
        if key.held:
            raise ValueError("a new key has no calls that could hold credits")
        created_at = dump(float(key.created_at))
        added = await self._surely(
            "add_key",
            key.id,
            digest,
            name,
            key.credits,
            key.charged,
            int(key.disabled),
            created_at,
            dump(key.caller_ids),
            key.attestation,
            secrets.token_hex(8),
        )
        if not added:
            raise ValueError("there is such a key already")

    def find_key(self, digest: bytes) -> Deferred[Key | None]:
        """Answer from memory where the key is known; its figures may be old then."""
        key = self._cache.find(digest)
        if key is not None and self._link.hears:
            return succeed(key)
        changes = self._cache.changes

        def found(row: Sequence[bytes] | None) -> Key | None:
            if row is None:
                return None
            # A change that was told meanwhile may have been of this key, and after it was read.
            return self._cache.keep(digest, row) if self._cache.changes == changes else to_key(row)

        return self._run("find_key", digest).addCallback(found)

    def keys(self) -> Deferred[Sequence[Key]]:
        return self._run("keys").addCallback(lambda rows: [to_key(row) for row in rows])

    def set_disabled(self, key_id: str, disabled: bool) -> Deferred[bool]:
        return self._change_key(key_id, "disabled", str(int(disabled)))

    def set_caller_ids(self, key_id: str, caller_ids: Sequence[str]) -> Deferred[bool]:
        return self._change_key(key_id, "caller_ids", dump(tuple(caller_ids)))

    def set_attestation(self, key_id: str, attestation: str) -> Deferred[bool]:
        return self._change_key(key_id, "attestation", attestation)

    def _change_key(self, key_id: str, field: str, value: str) -> Deferred[bool]:
        self._cache.drop(key_id)
        changing = self._change("change_key", self._channel, key_id, field, value)

        def changed(reply: int) -> bool:
            self._cache.drop(key_id)
            return bool(reply)

        return changing.addCallback(changed)

    def add_credits(self, key_id: str, amount: int, now: float, note: str = "") -> Deferred[Key]:
        """Where its answer is lost, it is asked for again; it is never done twice."""
        return Deferred.fromCoroutine(self._add_credits(key_id, amount, now, note))

    async def _add_credits(self, key_id: str, amount: int, now: float, note: str) -> Key:
        token = secrets.token_hex(8)
        row = await self._surely("add_credits", key_id, amount, dump(float(now)), note.encode(), MOST_CREDITS, token)
        self._cache.drop(key_id)
        if row is None:
            raise KeyError(key_id)
        if len(row) == 2:
            raise ValueError(f"{-amount} credits can't be taken: {int(row[1])} are left")
        if len(row) == 1:
            raise ValueError(f"a key can't be given more than {MOST_CREDITS} credits")
        return to_key(row)

    def ledger(self, key_id: str, *, most: int = 100, before: str = "") -> Deferred[Sequence[LedgerEntry]]:
        if before and not PLACE.fullmatch(before):
            return fail(ValueError(f"{before!r} is no place in a ledger"))

        def read(rows: list[Any] | None) -> list[LedgerEntry]:
            if rows is None:
                raise KeyError(key_id)
            return [to_entry(key_id, *row) for row in rows]

        return self._run("ledger", key_id, most, before).addCallback(read)

    # DoNotCall

    def add_do_not_call(self, numbers: Iterable[Number]) -> Deferred[int]:
        """Fails with ValueError at the first number that isn't one.

        A thousand at a time: the earlier thousands of a failed list stay, and giving it again is right.
        """
        return Deferred.fromCoroutine(self._in_chunks("SADD", numbers))

    def remove_do_not_call(self, numbers: Iterable[Number]) -> Deferred[int]:
        """Fails as `add_do_not_call` does."""
        return Deferred.fromCoroutine(self._in_chunks("SREM", numbers))

    async def _in_chunks(self, command: str, numbers: Iterable[Number]) -> int:
        source, count = iter(numbers), 0
        while chunk := [encode(*number) for number in islice(source, LIST_CHUNK)]:
            count += await self._change("list_numbers", command, *chunk)
        return count

    def do_not_call(self) -> Deferred[Iterable[Number]]:
        """Read the whole list, eight octets for a number, then give it."""
        return Deferred.fromCoroutine(self._do_not_call())

    async def _do_not_call(self) -> Iterable[Number]:
        starts = sorted({int(start) async for start in self._scan("SSCAN", "dnc")})
        chunks: list[NDArray[np.int64]] = []
        for first in range(0, len(starts), READ_CHUNK):
            chunk = starts[first : first + READ_CHUNK]
            texts = await self._run_slowly("listed_numbers", *chunk)
            for start, text in zip(chunk, texts, strict=True):
                ends = np.array(text.split(), dtype=np.int64)
                ends.sort()
                chunks.append(ends + start * 10_000)
        return _decoded(chunks)

    async def _scan(self, command: str, name: str) -> AsyncIterator[Any]:
        """Give what SSCAN or ZSCAN does, one after another; what is given twice is theirs to mind who ask."""
        cursor: bytes | int = 0
        while True:
            cursor, items = await self._link.bulk(command, self._prefix + name, cursor, "COUNT", LIST_CHUNK)
            for item in items:
                yield item
            if cursor == b"0":
                return

    # what time brings, and figures

    def purge(self, before: float, *, most: int = 1000) -> Deferred[int]:
        """A hundred at a time, so that nobody waits longer than for these."""
        return Deferred.fromCoroutine(self._purge(before, most))

    async def _purge(self, before: float, most: int) -> int:
        count = 0
        for start in range(0, most, PURGE_CHUNK):
            gone = await self._run("purge", dump(float(before)), min(PURGE_CHUNK, most - start))
            count += gone
            if not gone:
                break
        return count

    def totals(self) -> Deferred[Totals]:
        return self._run("totals").addCallback(to_totals)


def _decoded(chunks: Iterable[NDArray[np.int64]]) -> Iterable[Number]:
    for chunk in chunks:
        yield from map(decode, chunk.tolist())


def to_entry(key_id: str, place: bytes, fields: Sequence[bytes]) -> LedgerEntry:
    """Read an entry of a ledger's stream."""
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    return LedgerEntry(
        key_id,
        int(values[b"amount"]),
        Entered(values[b"reason"].decode()),
        values[b"reference"].decode(),
        float(values[b"at"]),
        int(values[b"balance"]),
        place.decode(),
    )


def to_totals(reply: Sequence[Any]) -> Totals:
    """Read what totals.lua answers."""
    (added, credits, held, charged), pairs = reply
    counts = dict(zip(pairs[::2], map(int, pairs[1::2]), strict=True))
    return Totals(
        added=int(added),
        credits=int(credits),
        held=int(held),
        charged=int(charged),
        calls={state.value: counts.get(state.value.encode(), 0) for state in State},
        do_not_call=counts.get(b"dnc", 0),
    )
