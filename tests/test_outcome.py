from __future__ import annotations

from dataclasses import replace
from typing import cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from calledind.model import Call, Cause, EndedBy, Ending, Outcome, PendingCallback, Reason
from calledind.outcome import Settlement, reason
from calledind.store.interface import Store, StoreUnavailable

ANY = (False, True)
BUSY, RING, FULL, LEFT, FAILED = (
    Reason.BUSY,
    Reason.RING_TIMEOUT,
    Reason.CONGESTION,
    Reason.HUNG_UP,
    Reason.FAILED,
)

STATUSES: tuple[tuple[Reason, tuple[int, ...], tuple[bool, ...]], ...] = (
    (BUSY, (486, 600, 603), ANY),
    (RING, (408, 480, 504), (True,)),
    (FULL, (408, 480, 504), (False,)),
    (FULL, (401, 407, 402, 403, 409, 482, 483, 500, 502, 503, 513, 580, 599), ANY),
    (LEFT, (487, 607, 608), ANY),
    (FAILED, (300, 302, 380, 400, 404, 410, 415, 420, 484, 488, 491, 501, 505, 604, 606, 699), ANY),
)

CAUSES: tuple[tuple[Reason, tuple[int, ...], tuple[bool, ...]], ...] = (
    (BUSY, (17,), ANY),
    (RING, (18, 19, 20), (True,)),
    (FULL, (18, 19, 20), (False,)),
    (FULL, (21, 27, 34, 38, 41, 42, 44, 47), ANY),
    (LEFT, (26,), ANY),
    (FAILED, (1, 28, 88, 102), ANY),
)


def ending(
    cause: Cause = Cause.FINAL_RESPONSE,
    *,
    answered: bool = False,
    status: int | None = None,
    q850: int | None = None,
    rang: bool = False,
) -> Ending:
    return Ending(cause, answered, EndedBy.NETWORK, 7.0, rang=rang, sip_status=status, q850=q850, trunk="t")


class ReasonTests(SynchronousTestCase):
    def test_statuses(self) -> None:
        """Each final response has the reason of the table, with and without ringing."""
        for expected, statuses, rangs in STATUSES:
            for status in statuses:
                for rang in rangs:
                    self.assertEqual(reason(ending(status=status, rang=rang), {}), expected, (status, rang))

    def test_causes(self) -> None:
        """A Q.850 cause goes before the status."""
        for expected, causes, rangs in CAUSES:
            for cause in causes:
                for rang in rangs:
                    got = reason(ending(status=404 if expected != FAILED else 503, q850=cause, rang=rang), {})
                    self.assertEqual(got, expected, (cause, rang))

    def test_speechless_causes(self) -> None:
        """Causes that say nothing leave the status its word, and so does a status that says busy."""
        for cause in (0, 16, 31, 127):
            self.assertEqual(reason(ending(status=503, q850=cause), {}), FULL)
        for status in (486, 600, 603):
            self.assertEqual(reason(ending(status=status, q850=34), {}), BUSY)

    def test_without_response(self) -> None:
        """What ended without a final response of its own has a reason by its cause."""
        for cause, expected in (
            (Cause.RING_TIMEOUT, RING),
            (Cause.HUNG_UP, LEFT),
            (Cause.CALLEE_LEFT, LEFT),
            (Cause.NO_RESPONSE, FAILED),
            (Cause.TRANSPORT, FAILED),
            (Cause.UNUSABLE_SDP, FAILED),
            (Cause.EXPIRED, FAILED),
            (Cause.INTERRUPTED, FAILED),
            (Cause.MEDIA_FAILED, FAILED),
        ):
            self.assertEqual(reason(ending(cause, status=487), {}), expected, cause)

    def test_answered(self) -> None:
        """An answered call has no reason, however it ended."""
        for cause in Cause:
            self.assertIsNone(reason(ending(cause, answered=True, status=200, q850=17), {}))

    def test_trunks_own(self) -> None:
        """What a trunk means by a status goes before everything else."""
        self.assertEqual(reason(ending(status=403, q850=17), {"403": 1}), LEFT)


CALL = Call("c1", "k1", "2125550100", "1", "0000000000", "aa", 1.0, "http://h/", "s", 1.0)


class SlowStore:
    """A store that is away for the first tries."""

    def __init__(self, away: int, changed: bool = True) -> None:
        self.away = away
        self.changed = changed
        self.settled: list[tuple[str, Outcome, bool]] = []

    def settle(self, call_id: str, outcome: Outcome, *, charge: bool) -> Deferred[bool]:
        if self.away:
            self.away -= 1
            return fail(StoreUnavailable("disk full"))
        self.settled.append((call_id, outcome, charge))
        return succeed(self.changed)


class SettlementTests(SynchronousTestCase):
    def settle(
        self, store: SlowStore, end: Ending, *, charge_accepted: bool = False, call: Call = CALL
    ) -> tuple[Clock, list[PendingCallback], list[Call], Settlement]:
        clock, callbacks, released = Clock(), list[PendingCallback](), list[Call]()
        self.ended: list[tuple[Call, Outcome]] = []
        settlement = Settlement(
            store=cast(Store, store),
            timers=clock,
            trunk_reasons={"t": {"404": 5}},
            charge_accepted=charge_accepted,
            settled=callbacks.append,
            released=released.append,
            ended=lambda *told: self.ended.append(told),
        )
        settlement.end(call, end)
        return clock, callbacks, released, settlement

    def test_settles_and_hands_on(self) -> None:
        """An outcome is kept, its callback handed on with nothing tried yet, and the audio let go."""
        store = SlowStore(0)
        _, callbacks, released, settlement = self.settle(store, ending(status=404))
        ((call_id, outcome, charge),) = store.settled
        self.assertEqual((call_id, outcome.reason, charge), ("c1", BUSY, False))
        self.assertEqual(callbacks, [PendingCallback(CALL, outcome, 0, 7.0)])
        self.assertEqual(released, [CALL])
        self.successResultOf(settlement.when_idle())

    def test_charges(self) -> None:
        """An answered call is charged, and every call where the operator says so."""
        for answered, charge_accepted, expected in (
            (True, False, True),
            (False, False, False),
            (False, True, True),
            (True, True, True),
        ):
            store = SlowStore(0)
            self.settle(store, ending(answered=answered, status=486), charge_accepted=charge_accepted)
            self.assertEqual(store.settled[0][2], expected)

    def test_waits_for_the_store(self) -> None:
        """While the store is away the outcome waits, and nothing is told before it is kept."""
        store = SlowStore(3)
        clock, callbacks, released, settlement = self.settle(store, ending(status=486))
        idle = settlement.when_idle()
        clock.pump([1.0, 1.0])
        self.assertEqual((store.settled, callbacks, released, self.ended), ([], [], [], []))
        self.assertNoResult(idle)
        clock.advance(1.0)
        self.assertEqual(len(store.settled), 1)
        self.assertEqual((len(callbacks), self.ended), (1, [(CALL, store.settled[0][1])]))
        self.successResultOf(idle)

    def logged(self) -> list[LogEvent]:
        """Return the list that everything which is logged from now on is added to."""
        events: list[LogEvent] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            events.append(event)

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return events

    def test_why(self) -> None:
        """Where there is no status the log has the words, without the callee's number; beside a status it needs
        none."""
        events = self.logged()
        for status in (None, 404):
            why = replace(ending(Cause.TRANSPORT, status=status), detail="TLS: unknown ca, to 2125550100")
            self.settle(SlowStore(0), why)
        self.assertEqual(
            [formatEvent(event) for event in events],
            [
                "call c1: not answered, reason 0 (transport, SIP -, trunk t; TLS: unknown ca, to ***00)",
                "call c1: not answered, reason 0 (transport, SIP 404, trunk t)",
            ],
        )

    def test_told_once(self) -> None:
        """That an outcome waits is one line in the log, however long it does."""
        events = self.logged()
        clock, *_ = self.settle(SlowStore(5), ending(status=486))
        clock.pump([1.0] * 6)
        self.assertEqual([event["log_level"] for event in events].count(LogLevel.warn), 1)

    def test_broken_store(self) -> None:
        """A store with a bug keeps neither the audio pinned nor the daemon from stopping."""
        store = SlowStore(0)
        store.settle = lambda *_, **__: fail(ZeroDivisionError("bug"))  # type: ignore[method-assign]
        _, callbacks, released, settlement = self.settle(store, ending(status=486))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual((callbacks, released), ([], [CALL]))
        self.successResultOf(settlement.when_idle())

    def test_settled_already(self) -> None:
        """A second outcome of a call is left out and sends no callback."""
        _, callbacks, released, _ = self.settle(SlowStore(0, changed=False), ending(status=486))
        self.assertEqual((callbacks, released), ([], [CALL]))
