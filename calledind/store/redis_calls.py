"""Acceptance, the life of a call and its callback, and audio in Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from calledind.compact import dump
from calledind.crash import crash_at
from calledind.model import Attempt, Call, CallRecord, Outcome, PendingCallback, ReturnCode, State
from calledind.store import search
from calledind.store.do_not_call import encode
from calledind.store.interface import IDEMPOTENCY_SECONDS, CallFilter, OpenDialog, StoreUnavailable
from calledind.store.redis_base import AGAIN, text_of
from calledind.store.redis_keys import RedisKeys
from calledind.store.redis_late import RECORD_ANSWER, SETTLE, WITHDRAW, Late, LateChange
from calledind.store.redis_link import NotReplicated, Unanswered
from calledind.store.rows import (
    from_answer,
    from_attempt,
    from_call,
    from_outcome,
    to_answer,
    to_outcome,
    to_pending,
    to_record,
)

TRIES = 3
"Of an acceptance, where the key has changed or the audio is not there."
WITHDRAWN_SECONDS = 3600
"For which an acceptance that was withdrawn is refused, should it still come."
ALL_BUT = "all but"
"What is said to offer.lua."
READ_CHUNK = 200
"Calls read at a time."
MOST_LOOKED_AT = 2000
"Calls read for one page of those that are looked for, a millisecond and some of Redis's work, and some of ours."
CLAIM_CHUNK = 500
"Callbacks claimed at a time."
RECORD = "request state attempt answer outcome"
PENDING = "request outcome tries due_at state"
UNFINISHED = frozenset({State.ACCEPTED, State.DIALING, State.ANSWERED})


class RedisCalls(RedisKeys):
    """The part of `interface.SharedStore` that is about calls."""

    _late: Late

    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)
        self._accepting: dict[str, str] = {}
        "Calls of whose acceptance Redis's answer is awaited -> this node by the name it was asked under."
        self._heard: dict[str, None] = {}
        "Calls that are accepted, of which Redis is about to be told that we heard."
        self._offering_later = False

    # admission

    def check(self, key_id: str, country_code: str, phone_number: str, now: float) -> Deferred[ReturnCode]:
        try:
            number = encode(country_code, phone_number)
        except ValueError as error:
            return fail(error)
        return self._run("check", key_id, number, now).addCallback(ReturnCode)

    def objections(
        self, key_id: str, country_code: str, phone_number: str, now: float
    ) -> Deferred[Sequence[ReturnCode]]:
        try:
            number = encode(country_code, phone_number)
        except ValueError as error:
            return fail(error)
        return self._run("objections", key_id, number, now).addCallback(
            lambda codes: [ReturnCode(each) for each in codes]
        )

    def accept(self, call: Call) -> Deferred[ReturnCode]:
        """One question, where the key and the audio are known.

        An acceptance whose answer is lost fails with StoreUnavailable. Redis refuses it where it comes too late, and it
        is withdrawn as soon as Redis answers again; until this node has said that it heard, no node takes the call.
        With `encodings`, fails as that does.
        """
        try:
            for text in (call.secret, call.callback_url or "", call.caller_id):
                text.encode()
            number = encode(call.country_code, call.phone_number)
            request = dump(from_call(call))
            at = dump(float(call.accepted_at))
        except ValueError as error:
            return fail(error)
        return self._accept(call, (call.id, call.key_id, number, at, request, text_of(self._route_of(call))), TRIES)

    def _accept(self, call: Call, args: tuple[str | int, ...], tries: int) -> Deferred[ReturnCode]:
        _, version = self._cache.known(call.key_id)
        audio = call.audio if self._encodings is not None else ""
        again = call.idempotency[:32], int(IDEMPOTENCY_SECONDS)
        wanted = self._not_after()
        accepting = self._change("accept", *args, version, audio, self._fresh_audio, *again, wanted, self._owner)
        self._accepting[call.id] = self._owner
        crash_at("redis.accept.sent")
        return accepting.addCallbacks(
            self._accepted, self._not_accepted, callbackArgs=(call, args, tries), errbackArgs=(call.id,)
        )

    def _accepted(self, reply: Any, call: Call, args: tuple[str | int, ...], tries: int) -> Any:
        self._accepting.pop(call.id, None)
        if isinstance(reply, int):
            code = ReturnCode(reply)
            crash_at("redis.accept.answered")
            if code is ReturnCode.ACCEPTED:
                self._offer(call.id)
            if code in (ReturnCode.INVALID_KEY, ReturnCode.KEY_DISABLED):
                self._cache.drop(call.key_id)
            return code
        if reply[0] == b"fenced":
            raise StoreUnavailable("the others hold this node for dead, and it joins them anew; ask again")
        if tries == 1 or reply[0] == b"withdrawn":
            raise StoreUnavailable("the shared store could not be asked as often as it takes; ask again")
        if reply[0] == b"audio":
            return Deferred.fromCoroutine(self._bring_audio(call.audio)).addCallback(
                lambda _: self._accept(call, args, tries - 1)
            )
        self._learn(call.key_id, reply[1])
        return self._accept(call, args, tries - 1)

    def _learn(self, key_id: str, row: Sequence[bytes]) -> None:
        """Take a key's new row; what was decided by an old identity is not accepted."""
        before, _ = self._cache.known(key_id)
        if before is None:
            return
        after = self._cache.renew(key_id, row)
        if (before.caller_ids, before.attestation) != (after.caller_ids, after.attestation):
            raise StoreUnavailable("the api key was changed on another node at this moment; ask again")

    async def _bring_audio(self, name: str) -> None:
        assert self._encodings is not None
        await self.keep_audio(name, await self._encodings(name))

    def _not_accepted(self, failure: Failure, call_id: str) -> Any:
        self._accepting.pop(call_id, None)
        error = failure.value
        if isinstance(error, NotReplicated) and error.reply != 0:
            # It has changed nothing, so no replica lacks it.
            return ReturnCode(error.reply) if isinstance(error.reply, int) else failure
        if isinstance(error, Unanswered):
            crash_at("redis.accept.doubtful")
            withdrawal = LateChange(WITHDRAW, call_id, self._owner, (str(WITHDRAWN_SECONDS),))
            told, safe = self._late.keep(withdrawal)
            told.addCallbacks(self._withdrawn, self._not_withdrawn, callbackArgs=(call_id,))
            # Who asks hears of it when it will be withdrawn, whatever becomes of this process.
            return safe.addCallback(lambda _: failure)
        return failure

    def _offer(self, call_id: str) -> None:
        """Tell Redis that we heard of an acceptance, together with all others of which we hear in this moment."""
        if not self._heard:
            self._later(0, self._say_heard)
        self._heard[call_id] = None

    def _say_heard(self) -> None:
        if self._heard and not self._closed:
            heard, self._heard = self._heard, {}
            self._link.run("offer", self._keys_of_all, (self._owner, *heard)).addErrback(self._not_offered)

    def _not_offered(self, failure: Failure) -> None:
        if not isinstance(failure.value, StoreUnavailable):
            self._bug(failure)
        elif not self._offering_later:
            self._offering_later = True
            self._later(AGAIN, self._offer_the_rest)

    def _offer_the_rest(self) -> None:
        """Have all calls wait for their routes that should: what was told of them may not have come to Redis, or a
        failover may have taken it back."""
        self._offering_later = False
        doubtful = (*self._accepting, *self._late.calls_of(WITHDRAW))
        # By the way of the acceptances, so that it overtakes none.
        offering = self._link.run("offer", self._keys_of_all, (self._owner, ALL_BUT, *doubtful), replicated=True)
        offering.addErrback(self._not_offered)

    def _withdraws_nothing(self) -> bool:
        """Whether Redis knows of all acceptances that this node withdraws, those under former names among them."""
        return not self._late.calls_of(WITHDRAW) and all(owner == self._owner for owner in self._accepting.values())

    def _withdrawn(self, reply: int, call_id: str) -> None:
        crash_at("redis.accept.withdrawn")
        if reply:
            self._log.info("call {call}: refused with 503, and withdrawn from the shared store", call=call_id)

    def _not_withdrawn(self, failure: Failure) -> None:
        # Where the store is closed, it is on disk.
        if not isinstance(failure.value, StoreUnavailable):
            self._bug(failure)

    # the life of a call

    def begin_dialing(self, call_id: str, attempt: Attempt) -> Deferred[bool]:
        """An attempt whose answer is lost fails with StoreUnavailable, and counts as not made from then on."""
        try:
            text = dump(from_attempt(attempt))
        except ValueError as error:
            return fail(error)
        doubtful = self._doubtful.get(call_id, ())
        beginning = self._change("begin_dialing", call_id, self._owner_of(call_id), text, attempt.number, *doubtful)
        return beginning.addCallbacks(
            self._begun, self._not_begun, callbackArgs=(call_id,), errbackArgs=(call_id, text)
        )

    def _begun(self, reply: int, call_id: str) -> bool:
        if reply:
            self._doubtful.pop(call_id, None)
            self._owners.setdefault(call_id, self._owner)
        return bool(reply)

    def _not_begun(self, failure: Failure, call_id: str, text: str) -> bool | Failure:
        error = failure.value
        if isinstance(error, NotReplicated) and not error.reply:
            # It has changed nothing, so no replica lacks it.
            return False
        if isinstance(error, Unanswered):
            self._doubtful.setdefault(call_id, []).append(text)
        return failure

    def record_answer(self, call_id: str, dialog: str, now: float) -> Deferred[bool]:
        """While Redis is away, it is kept on this machine's disk, and answered with True; Redis is told later."""
        try:
            change = LateChange(RECORD_ANSWER, call_id, self._owner_of(call_id), (dump(from_answer(dialog, now)),))
        except ValueError as error:
            return fail(error)
        return self._late.tell(change, patient=False).addCallback(bool)

    def settle(self, call_id: str, outcome: Outcome, *, charge: bool) -> Deferred[bool]:
        """While Redis is away, it is kept on this machine's disk; this fires when Redis has it.

        Fails with StoreUnavailable when the store is closed before; Redis is told after the next start then.
        """
        try:
            ended_at = dump(float(outcome.ending.ended_at))
            args = (dump(from_outcome(outcome)), str(int(charge)), ended_at)
        except ValueError as error:
            return fail(error)

        def settled(reply: Any) -> bool:
            if reply == 0:
                return False
            self._let_go_of(call_id)
            if reply == 1:
                return True
            return to_outcome(reply[0].decode()) == outcome and reply[1] == args[1].encode()

        return self._late.tell(LateChange(SETTLE, call_id, self._owner_of(call_id), args)).addCallback(settled)

    def open_dialogs(self) -> Deferred[Sequence[OpenDialog]]:
        return Deferred.fromCoroutine(self._open_dialogs())

    async def _open_dialogs(self) -> Sequence[OpenDialog]:
        dialogs = []
        for call_id, answer in list(self._late.open_dialogs.items()):
            record = await self._find_call(call_id)
            dialog, _ = to_answer(answer)
            assert dialog is not None
            attempt = None if record is None else record.attempt
            dialogs.append(OpenDialog(call_id, dialog, "" if attempt is None else attempt.trunk))
        return dialogs

    def dialog_ended(self, call_id: str) -> None:
        self._late.has_ended(call_id)

    def _tell_late(self, change: LateChange) -> Deferred[Any]:
        return self._change(change.kind, change.call_id, self._owner, change.owner, *change.args)

    def unfinished(self) -> Deferred[Sequence[CallRecord]]:
        """Return those that wait or are nobody's as well, but none that another live node is making."""
        return Deferred.fromCoroutine(self._unfinished())

    async def _unfinished(self) -> Sequence[CallRecord]:
        ids: list[bytes] = []
        for line in await self._link.bulk("ZRANGE", self._prefix + "lines", 0, -1):
            ids += [id async for id in self._scan("ZSCAN", f"line:{line.decode()}")][::2]
        ids += await self._run("unfinished", self._owner)
        records = [to_record(row) for row in await self._read(RECORD, ids)]
        unfinished = [record for record in records if record.state in UNFINISHED]
        return sorted(unfinished, key=lambda each: (each.call.accepted_at, each.call.id))

    async def _read(self, fields: str, ids: Sequence[bytes]) -> list[Any]:
        """Read calls; those that are not there are left out."""
        distinct = list(dict.fromkeys(ids))
        rows: list[Any] = []
        for first in range(0, len(distinct), READ_CHUNK):
            rows += await self._run("read_calls", fields, *distinct[first : first + READ_CHUNK])
        return [texts(row) for row in rows]

    def find_call(self, call_id: str) -> Deferred[CallRecord | None]:
        return Deferred.fromCoroutine(self._find_call(call_id))

    async def _find_call(self, call_id: str) -> CallRecord | None:
        rows = await self._read(RECORD, [call_id.encode()])
        return to_record(rows[0]) if rows else None

    def calls(
        self, wanted: CallFilter, *, most: int = 50, before: str = ""
    ) -> Deferred[tuple[Sequence[CallRecord], str]]:
        return Deferred.fromCoroutine(self._calls(wanted, max(1, most), before))

    async def _calls(self, wanted: CallFilter, most: int, before: str) -> tuple[Sequence[CallRecord], str]:
        name = self._prefix + (f"calls:{wanted.key_id}" if wanted.key_id else "calls")
        lowest, above = search.id_range(wanted, before)
        chunk = READ_CHUNK if search.is_narrow(wanted) else min(READ_CHUNK, most + 1)
        found: list[CallRecord] = []
        for _ in range(0, MOST_LOOKED_AT, READ_CHUNK):
            end = f"[{lowest}" if lowest else "-"
            ids = await self._link.bulk("ZRANGE", name, f"({above}", end, "BYLEX", "REV", "LIMIT", 0, chunk)
            for row in await self._read(RECORD, ids):
                record = to_record(row)
                if not search.fits(wanted, record):
                    continue
                if len(found) == most:
                    return found, found[-1].call.id
                found.append(record)
            if len(ids) < chunk:
                return found, ""
            above = ids[-1].decode()
        return found, above

    def find_idempotent(self, token: str, now: float) -> Deferred[CallRecord | None]:
        return Deferred.fromCoroutine(self._find_idempotent(token, now))

    async def _find_idempotent(self, token: str, now: float) -> CallRecord | None:
        call_id = await self._run("find_idempotent", token)
        if call_id == b"doubt":
            raise StoreUnavailable("it is not known yet whether this request was accepted before; ask again")
        record = None if call_id is None else await self._find_call(call_id.decode())
        return record if record is not None and record.call.accepted_at > now - IDEMPOTENCY_SECONDS else None

    # callbacks

    def pending_callbacks(self) -> Deferred[Sequence[PendingCallback]]:
        """Take those that are nobody's, and return all that are this node's."""
        return Deferred.fromCoroutine(self._pending_callbacks())

    async def _pending_callbacks(self) -> Sequence[PendingCallback]:
        while await self._run("claim_callbacks", self._owner, CLAIM_CHUNK):
            pass
        ids = [id async for id in self._scan("ZSCAN", f"pending:{self._owner}")][::2]
        rows = await self._read(PENDING, ids)
        pending = [to_callback(row[:4]) for row in rows if row[4] == State.DONE]
        return sorted(pending, key=lambda each: (each.due_at, each.call.id))

    def callback_delivered(self, call_id: str, tries: int, now: float) -> Deferred[bool]:
        return self._callback(call_id, State.DELIVERED, tries, "")

    def callback_exhausted(self, call_id: str, tries: int, now: float) -> Deferred[bool]:
        return self._callback(call_id, State.EXHAUSTED, tries, "")

    def callback_postponed(self, call_id: str, tries: int, due_at: float) -> Deferred[bool]:
        try:
            return self._callback(call_id, State.DONE, tries, dump(float(due_at)))
        except ValueError as error:
            return fail(error)

    def callback_again(self, call_id: str, due_at: float) -> Deferred[bool]:
        """Answers False as well while another live node makes it."""
        try:
            return self._change("callback_again", call_id, self._owner, dump(float(due_at))).addCallback(bool)
        except ValueError as error:
            return fail(error)

    def _callback(self, call_id: str, state: State, tries: int, due_at: str) -> Deferred[bool]:
        return self._change("callback", call_id, self._owner, state, tries, due_at).addCallback(bool)

    # audio

    def keep_audio(self, name: str, encodings: Mapping[str, bytes]) -> Deferred[None]:
        if not encodings:
            return fail(StoreUnavailable("the audio of this call is not in this node's library any more"))
        parts = [part for pair in encodings.items() for part in pair]
        return self._run_slowly("keep_audio", name, self._fresh_audio, *parts)

    def find_audio(self, name: str) -> Deferred[Mapping[str, bytes]]:
        finding = self._link.bulk("HGETALL", f"{self._prefix}audio:{name}")
        return finding.addCallback(
            lambda parts: {codec.decode(): octets for codec, octets in zip(parts[::2], parts[1::2], strict=True)}
        )


def to_callback(row: Sequence[str]) -> PendingCallback:
    """Read a callback's request, outcome, tries and due_at."""
    request, outcome, tries, due_at = row
    return to_pending((request, outcome, int(tries), float(due_at)))


def texts(row: Sequence[bytes | None]) -> list[Any]:
    return [None if value is None else value.decode() for value in row]
