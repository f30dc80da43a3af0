"""From what the network said to the reason of the callback, and the one commit that settles a call.

The reasons come from the days when a SIP channel knew five of them; the raw status, the Q.850 cause, the trunk
and who ended the call are kept beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.crash import crash_at
from calledind.model import Call, Cause, Ending, Outcome, PendingCallback, Reason
from calledind.numbering import for_the_log
from calledind.sip.timers import Timers
from calledind.store.interface import Store, StoreUnavailable

AGAIN = 1.0
"Seconds between two tries to settle while the store is away."

WITHOUT_RESPONSE = {
    Cause.RING_TIMEOUT: Reason.RING_TIMEOUT,
    Cause.HUNG_UP: Reason.HUNG_UP,
    Cause.CALLEE_LEFT: Reason.HUNG_UP,
}
"Cause -> reason, where no final response decides; anything else failed."

BUSY = frozenset({486, 600, 603})
CONGESTED = frozenset({401, 407, 402, 403, 409, 482, 483})
UNHEARD = frozenset({408, 480, 504})
"Rang in vain when it rang, congestion when it did not."
HUNG_UP = frozenset({487, 607, 608})
NOT_CONGESTED = frozenset({501, 505})

SPEECHLESS_CAUSES = frozenset({0, 16, 31, 127})
"Q.850 causes that say less than the status does."
Q850_BUSY = frozenset({17})
Q850_UNHEARD = frozenset({18, 19, 20})
Q850_CONGESTED = frozenset({21, 27, 34, 38, 41, 42, 44, 47})
Q850_HUNG_UP = frozenset({26})


def of_status(status: int, rang: bool) -> Reason:
    """Read a SIP status of 300 or more (RFC 3261 §21, RFC 8197, RFC 8688)."""
    if status in BUSY:
        return Reason.BUSY
    if status in UNHEARD:
        return Reason.RING_TIMEOUT if rang else Reason.CONGESTION
    if status in CONGESTED or (500 <= status < 600 and status not in NOT_CONGESTED):
        return Reason.CONGESTION
    return Reason.HUNG_UP if status in HUNG_UP else Reason.FAILED


def of_q850(cause: int, rang: bool) -> Reason:
    """Read the Q.850 cause of a Reason header (RFC 3326, RFC 6432)."""
    if cause in Q850_BUSY:
        return Reason.BUSY
    if cause in Q850_UNHEARD:
        return Reason.RING_TIMEOUT if rang else Reason.CONGESTION
    if cause in Q850_CONGESTED:
        return Reason.CONGESTION
    return Reason.HUNG_UP if cause in Q850_HUNG_UP else Reason.FAILED


def reason(ending: Ending, trunk_reasons: Mapping[str, int]) -> Reason | None:
    """Return why the call was not answered, None when it was.

    `trunk_reasons`: SIP status -> reason, what this trunk means by it; it goes before the table and the cause.
    """
    if ending.answered:
        return None
    if ending.cause is not Cause.FINAL_RESPONSE or ending.sip_status is None:
        return WITHOUT_RESPONSE.get(ending.cause, Reason.FAILED)
    status = ending.sip_status
    if str(status) in trunk_reasons:
        return Reason(trunk_reasons[str(status)])
    if ending.q850 is not None and ending.q850 not in SPEECHLESS_CAUSES and status not in BUSY:
        return of_q850(ending.q850, ending.rang)
    return of_status(status, ending.rang)


class Settlement:
    """Ends each call in the store, and hands its callback on. A store that is away is asked until it is back."""

    log = Logger()

    def __init__(
        self,
        *,
        store: Store,
        timers: Timers,
        trunk_reasons: Mapping[str, Mapping[str, int]],
        charge_accepted: bool,
        settled: Callable[[PendingCallback], None],
        released: Callable[[Call], None],
        ended: Callable[[Call, Outcome], None] = lambda call, outcome: None,
    ) -> None:
        """`ended` is told each outcome once the store has it, and must not raise."""
        self._store = store
        self._timers = timers
        self.trunk_reasons = trunk_reasons
        self.charge_accepted = charge_accepted
        self._settled = settled
        self._released = released
        self._ended = ended
        self._waiting: dict[str, Call] = {}
        "Calls whose outcome the store has not kept yet."
        self._idle: list[Deferred[None]] = []

    def end(self, call: Call, ending: Ending) -> None:
        """Take the end of a call; called once for each."""
        outcome = Outcome(ending.answered, reason(ending, self.trunk_reasons.get(ending.trunk, {})), ending)
        self._waiting[call.id] = call
        Deferred.fromCoroutine(self._settle(call, outcome)).addErrback(self._broken, call)

    def when_idle(self) -> Deferred[None]:
        """Fire when the store has kept every outcome."""
        waiter: Deferred[None] = Deferred()
        self._idle.append(waiter)
        self._tell_idle()
        return waiter

    async def _settle(self, call: Call, outcome: Outcome) -> None:
        charge = outcome.answered or self.charge_accepted
        told = False
        while True:
            try:
                crash_at("settle.due")
                changed = await self._store.settle(call.id, outcome, charge=charge)
                crash_at("settle.kept")
                break
            except StoreUnavailable as error:
                if not told:
                    self.log.warn("call {call}: its outcome waits for the store: {error}", call=call.id, error=error)
                told = True
                await self._pause(AGAIN)
        del self._waiting[call.id]
        if changed:
            self._tell(call, outcome)
        else:
            self.log.error("call {call} had an outcome already; this one is left out", call=call.id)
        self._released(call)
        self._tell_idle()

    def _tell(self, call: Call, outcome: Outcome) -> None:
        ending = outcome.ending
        words = "answered" if outcome.reason is None else f"not answered, reason {int(outcome.reason)}"
        # Where nobody said a status, the detail is all that tells why: a certificate, a name that is not found.
        why = f"; {for_the_log(ending.detail)}" if ending.detail and ending.sip_status is None else ""
        words += f" ({ending.cause.value}, SIP {ending.sip_status or '-'}, trunk {ending.trunk or '-'}{why})"
        self.log.info("call {call}: {outcome}", call=call.id, outcome=words, trunk=ending.trunk)
        self._ended(call, outcome)
        if call.callback_url is not None:
            self._settled(PendingCallback(call, outcome, 0, outcome.ending.ended_at))

    def _pause(self, seconds: float) -> Deferred[None]:
        over: Deferred[None] = Deferred()
        self._timers.callLater(seconds, over.callback, None)
        return over

    def _broken(self, failure: Failure, call: Call) -> None:
        self.log.failure("call {call}: its outcome could not be kept", failure, call=call.id)
        if self._waiting.pop(call.id, None) is not None:
            self._released(call)
            self._tell_idle()

    def _tell_idle(self) -> None:
        if not self._waiting:
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)
