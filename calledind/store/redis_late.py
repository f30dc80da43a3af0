"""What Redis must be told, however late: what became of calls, and which acceptances are withdrawn.

A change is told to Redis at once, and goes to the disk only when that failed:

    tell ──▶ Redis ──▶ answered
               │ away, or no answer
               ▼
            outbox (fsync) ──▶ told again at each new connection and each second, in the order they came ──▶ answered

Told twice, a change does nothing the second time; told when others have taken the call over, it is refused. So it
does no harm that an entry whose removal failed is told once more after a restart.

**An answer that is refused** leaves somebody talking whom nobody else can hang up: those who have taken the call over
know of its INVITE alone, and nothing of the dialog. So it stays on the disk until the call has ended here, and where
the process was killed before that, the next one is told of it (`open_dialogs`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.crash import crash_at
from calledind.store.interface import StoreUnavailable
from calledind.store.outbox import Outbox

WITHDRAW = "withdraw"
RECORD_ANSWER = "record_answer"
SETTLE = "settle"


@dataclass(frozen=True, slots=True)
class LateChange:
    """A change of a call that must be told to Redis, however late."""

    kind: str
    "Name of its script."
    call_id: str
    owner: str
    "Whose the call was: this node by the name it had then."
    args: tuple[str, ...]
    "What the script is given after the owners."

    def text(self) -> str:
        return json.dumps([self.owner, *self.args])

    @classmethod
    def read(cls, call_id: str, kind: str, text: str) -> LateChange:
        owner, *args = json.loads(text)
        return cls(kind, call_id, owner, tuple(args))


@dataclass(slots=True, eq=False)
class _Waiting:
    change: LateChange
    kept: Deferred[Any]
    "Fires with 1 when it is on disk, with None when that failed."
    told: list[Deferred[Any]] = field(default_factory=list)
    "Those who wait for Redis's answer."
    is_of_before: bool = False
    "Whether the process before has left it."


class Late:
    """See the module's text."""

    log = Logger()

    def __init__(
        self, outbox: Outbox, tell: Callable[[LateChange], Deferred[Any]], keeps: Callable[[], object]
    ) -> None:
        """`tell`: has Redis run it; fails with StoreUnavailable. `keeps`: is called when something begins to wait."""
        self._outbox = outbox
        self._keeps = keeps
        self._tell_redis = tell
        self._waiting: dict[tuple[str, str], _Waiting] = {}
        "Call id and kind -> what waits, in the order in which it came."
        self._refused: set[str] = set()
        "Calls whose answer Redis refused, and which may be talking still: it is kept on disk."
        self.open_dialogs: dict[str, str] = {}
        "Of these, those of the process before: call id -> answer (JSON)."
        self._telling = False
        self._closed = False

    def __len__(self) -> int:
        """How many changes wait for Redis."""
        return len(self._waiting)

    def calls_of(self, kind: str) -> list[str]:
        """Return the ids of the calls of which such a change waits for Redis."""
        return [call_id for call_id, each in self._waiting if each == kind]

    async def open(self) -> None:
        """Read what was left. Raises StoreUnavailable."""
        for call_id, kind, text in await self._outbox.open():
            change = LateChange.read(call_id, kind, text)
            self._waiting[call_id, kind] = _Waiting(change, succeed(1), is_of_before=True)
        if self._waiting:
            self.log.info("{count} changes of calls wait to be told to the shared store", count=len(self._waiting))

    def tell(self, change: LateChange, *, patient: bool = True) -> Deferred[Any]:
        """Fire with Redis's answer, or, where that is not `patient`, with 1 as soon as it is on disk."""
        if self._closed:
            return fail(StoreUnavailable("the store is closed"))
        if change.kind == SETTLE:
            self.has_ended(change.call_id)
        if any((change.call_id, kind) in self._waiting for kind in (RECORD_ANSWER, SETTLE)):
            # Not past what waits of the same call.
            return self._keep(change, patient)
        telling = self._tell_redis(change)
        return telling.addCallbacks(self._told, self._not_told, callbackArgs=(change,), errbackArgs=(change, patient))

    def keep(self, change: LateChange) -> tuple[Deferred[Any], Deferred[None]]:
        """Have it told to Redis, and kept until it is: what fires with the answer, and what fires when it is as safe as
        it can be: on disk, or told, or the disk does not take it."""
        if self._closed:
            return fail(StoreUnavailable("the store is closed")), succeed(None)
        told = self._keep(change, patient=True)
        safe: Deferred[None] = Deferred()

        def is_safe(result: Any) -> Any:
            if not safe.called:
                safe.callback(None)
            return result

        told.addBoth(is_safe)
        waiting = self._waiting.get((change.call_id, change.kind))
        if waiting is not None:
            waiting.kept.addBoth(is_safe)
        self.tell_again()
        return told, safe

    def _told(self, reply: Any, change: LateChange) -> Any:
        if reply == 0 and change.kind == RECORD_ANSWER:
            self._refused.add(change.call_id)
            self._outbox.put(change.call_id, change.kind, change.text()).addErrback(self._not_kept, change)
        return reply

    def _not_told(self, failure: Failure, change: LateChange, patient: bool) -> Deferred[Any]:
        if self._closed or not isinstance(failure.value, StoreUnavailable):
            return fail(failure)
        return self._keep(change, patient)

    def _keep(self, change: LateChange, patient: bool) -> Deferred[Any]:
        place = change.call_id, change.kind
        waiting = self._waiting.get(place)
        if waiting is None:
            waiting = self._waiting[place] = _Waiting(change, self._outbox.put(*place, change.text()))
            waiting.kept.addCallbacks(lambda _: 1, self._not_kept, errbackArgs=(change,))
            self._keeps()
        elif waiting.change != change:
            # The first is the one that counts.
            return fail(StoreUnavailable("another change of this call waits for the shared store"))
        told: Deferred[Any] = Deferred()
        waiting.told.append(told)
        return told if patient else _first(told, waiting.kept)

    def _not_kept(self, failure: Failure, change: LateChange) -> None:
        self.log.error(
            "call {call}: the shared store is away, and what became of it is in memory alone: {error}",
            call=change.call_id,
            error=failure.getErrorMessage(),
        )

    def tell_again(self) -> Deferred[bool]:
        """Tell Redis all that waits; fires with whether it has all of it."""
        return Deferred.fromCoroutine(self._tell_all())

    async def _tell_all(self) -> bool:
        if self._telling or not self._waiting:
            return not self._waiting
        self._telling = True
        try:
            for place, waiting in list(self._waiting.items()):
                try:
                    reply = await self._tell_redis(waiting.change)
                except StoreUnavailable:
                    return False
                except Exception as error:  # noqa: BLE001 - one that Redis can't take must not hold up the others
                    self.log.failure("call {call}: {kind} is an error to Redis", call=place[0], kind=place[1])
                    self._waiting.pop(place, None)
                    for told in waiting.told:
                        told.errback(error)
                    continue
                crash_at("redis.outbox.told")
                self._answered(place, waiting, reply)
        finally:
            self._telling = False
        return not self._waiting

    def _answered(self, place: tuple[str, str], waiting: _Waiting, reply: Any) -> None:
        if reply == 0 and waiting.change.kind != WITHDRAW:
            self.log.warn(
                "call {call}: what this node could not tell in time ({kind}) came too late: others have ended it",
                call=waiting.change.call_id,
                kind=waiting.change.kind,
            )
        if self._waiting.pop(place, None) is None:
            return  # the store was closed meanwhile, and all were told
        call_id, kind = place
        if reply == 0 and kind == RECORD_ANSWER and (call_id, SETTLE) not in self._waiting:
            self._refused.add(call_id)
            if waiting.is_of_before:
                (self.open_dialogs[call_id],) = waiting.change.args
        else:
            self._remove(*place)
        for told in waiting.told:
            told.callback(reply)

    def has_ended(self, call_id: str) -> None:
        """Nobody talks any more: an answer that Redis refused need not be kept."""
        if call_id in self._refused:
            self._refused.discard(call_id)
            self.open_dialogs.pop(call_id, None)
            self._remove(call_id, RECORD_ANSWER)

    def _remove(self, call_id: str, kind: str) -> None:
        self._outbox.remove(call_id, kind).addErrback(self._not_removed)

    def _not_removed(self, failure: Failure) -> None:
        self.log.warn("{error}", error=failure.getErrorMessage())

    def close(self) -> Deferred[None]:
        """Let go of the disk; who still waits is told so."""
        self._closed = True
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            for told in each.told:
                told.errback(StoreUnavailable("the store is closed; it is on disk, and told after the next start"))
        return self._outbox.close()


def _first(told: Deferred[Any], kept: Deferred[Any]) -> Deferred[Any]:
    """Fire with what Redis says, or with 1 when it is on disk before."""
    first: Deferred[Any] = Deferred()

    def fire(result: Any) -> None:
        if not first.called:
            first.callback(result)

    def on_disk(is_kept: int | None) -> int | None:
        if is_kept:
            fire(1)
        return is_kept

    told.addBoth(fire)
    kept.addCallback(on_disk)
    return first
