"""Ending a call for its customer or an operator, wherever it is.

It may run or wait on this node, wait in the store for any node, be on its way from one to the other, or run on another
node. Who has it ends it like any call: the outcome is "hung up", the credit is released where nobody answered, and the
callback is made. A call that changes hands at this moment may be met by nobody, so it is asked for several times.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from calledind.model import Call, CallRecord, EndedBy
from calledind.sip.timers import Timers
from calledind.store.interface import SharedStore, Store

PAUSES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
"Seconds after each try until it is looked at what came of it."


class Dialer(Protocol):
    """What is wanted of `dialing.dialer.Dialer`."""

    def cancel(self, call: Call, by: EndedBy) -> bool: ...

    def end_cancelled(self, call: Call, by: EndedBy) -> None: ...


class HangUp:
    """See the module's text."""

    log = Logger()

    def __init__(self, *, timers: Timers, store: Store, dialer: Dialer, shared: SharedStore | None = None) -> None:
        """`shared`: the same store, where other nodes work on it."""
        self._timers = timers
        self._store = store
        self._dialer = dialer
        self._shared = shared

    def hang_up(self, call_id: str, by: EndedBy = EndedBy.OPERATOR) -> Deferred[CallRecord | None]:
        """End a call, and return what is known of it then: without an outcome, it is being ended yet.

        `by`: who wants it, as the outcome will say; of two that want it, the first.

        A callee has up to 32 seconds to confirm a CANCEL, so this does not wait for all outcomes. None: no such call.
        Of one that has ended, nothing is changed. Fails with StoreUnavailable.
        """
        return Deferred.fromCoroutine(self._hang_up(call_id, by))

    async def _hang_up(self, call_id: str, by: EndedBy) -> CallRecord | None:
        record = await self._store.find_call(call_id)
        if record is None or record.outcome is not None:
            return record
        self.log.info("call {call}: it is to be hung up", call=call_id)
        is_met = False
        for pause in PAUSES:
            is_met = is_met or await self._meet(record.call, by)
            await self._pause(pause)
            record = await self._store.find_call(call_id)
            if record is None or record.outcome is not None:
                break
        return record

    async def _meet(self, call: Call, by: EndedBy) -> bool:
        """End the call, or have the others look for it; False where it is not known to be met."""
        if self._dialer.cancel(call, by):
            return True
        if self._shared is None:
            return False
        taken = await self._shared.take_one(call.id)
        if taken is None:
            await self._shared.ask_to_hang_up(call.id, by)
            return False
        self._dialer.end_cancelled(taken, by)
        return True

    def asked(self, call_id: str, by: EndedBy) -> None:
        """Another node wants this call to be hung up; do so, if it is here."""
        asking = Deferred.fromCoroutine(self._asked(call_id, by))
        asking.addErrback(
            lambda failure: self.log.warn(
                "call {call}: another node wants it to be hung up: {error}", call=call_id, error=failure.value
            )
        )

    async def _asked(self, call_id: str, by: EndedBy) -> None:
        record = await self._store.find_call(call_id)
        if record is not None and record.outcome is None:
            self._dialer.cancel(record.call, by)

    def _pause(self, seconds: float) -> Deferred[None]:
        over: Deferred[None] = Deferred()
        self._timers.callLater(seconds, over.callback, None)
        return over
