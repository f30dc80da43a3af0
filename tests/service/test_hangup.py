# mypy: allow-untyped-calls
"""A call is hung up wherever it is, also while it changes hands."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.model import Call, CallRecord, EndedBy, State
from calledind.service.hangup import PAUSES, HangUp
from calledind.store.interface import SharedStore, StoreUnavailable
from tests.store.contract import ANSWERED, BUSY, make_call

OURS = "call1", EndedBy.CUSTOMER
"The call that is hung up in these tests, and by whom."


@dataclass
class FakeStore:
    record: CallRecord | None = field(default_factory=lambda: CallRecord(make_call(), State.ACCEPTED))
    waits: bool = False
    "In the queue that nodes share."
    told: list[tuple[str, EndedBy]] = field(default_factory=list)
    "Calls that all nodes were asked to hang up."
    away: bool = False

    def find_call(self, call_id: str) -> Deferred[CallRecord | None]:
        return fail(StoreUnavailable("Redis is away")) if self.away else succeed(self.record)

    def take_one(self, call_id: str) -> Deferred[Call | None]:
        waits, self.waits = self.waits, False
        return succeed(self.record.call if waits and self.record is not None else None)

    def ask_to_hang_up(self, call_id: str, by: EndedBy) -> Deferred[None]:
        self.told.append((call_id, by))
        return succeed(None)


@dataclass
class FakeDialer:
    here: bool = False
    cancelled: list[tuple[str, EndedBy]] = field(default_factory=list)
    ended: list[tuple[str, EndedBy]] = field(default_factory=list)

    def cancel(self, call: Call, by: EndedBy) -> bool:
        if self.here:
            self.cancelled.append((call.id, by))
        return self.here

    def end_cancelled(self, call: Call, by: EndedBy) -> None:
        self.ended.append((call.id, by))


class HangUpTests(SynchronousTestCase):
    def make(self, *, shared: bool = False, **store: Any) -> Deferred[CallRecord | None]:
        """Ask for the end of a call."""
        self.clock = Clock()
        self.store = FakeStore(**store)
        self.dialer = FakeDialer()
        self.hangup = HangUp(
            timers=self.clock,
            store=cast(SharedStore, self.store),
            dialer=self.dialer,
            shared=cast(SharedStore, self.store) if shared else None,
        )
        return self.hangup.hang_up("call1", EndedBy.CUSTOMER)

    def end(self) -> CallRecord:
        assert self.store.record is not None
        self.store.record = replace(self.store.record, state=State.DONE, outcome=BUSY)
        return self.store.record

    def test_of_none(self) -> None:
        """A call that is not there is not hung up."""
        self.assertIsNone(self.successResultOf(self.make(record=None)))

    def test_of_one_that_has_ended(self) -> None:
        """Nothing changes about a call that has ended."""
        record = CallRecord(make_call(), State.DELIVERED, outcome=ANSWERED)
        self.assertEqual(self.successResultOf(self.make(record=record)), record)
        self.assertEqual(self.dialer.cancelled, [])

    def test_here(self) -> None:
        """A call of this node's is ended here; who asked hears its outcome when the store has that."""
        asked = self.make()
        self.dialer.here = True
        self.clock.advance(0)
        self.clock.pump(PAUSES[1:3])
        self.assertEqual(set(self.dialer.cancelled), {OURS})
        self.assertNoResult(asked)
        ended = self.end()
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(asked), ended)

    def test_that_takes_its_time(self) -> None:
        """Nobody waits for a callee that does not confirm the CANCEL: what is known by then is returned."""
        asked = self.make()
        self.clock.pump([*PAUSES, 0])
        self.assertEqual(self.successResultOf(asked), self.store.record)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_in_the_shared_queue(self) -> None:
        """A call that waits for any node is taken out of the queue, and ended by this one."""
        self.make(shared=True, waits=True)
        self.clock.advance(0)
        self.assertEqual((self.dialer.ended, self.store.told), ([OURS], []))

    def test_on_another_node(self) -> None:
        """The other nodes are told, again and again while it goes on; one that has come here meanwhile is met."""
        asked = self.make(shared=True)
        self.clock.pump(PAUSES[:3])
        self.assertEqual(self.store.told, [OURS] * 4)
        self.dialer.here = True
        self.clock.pump(PAUSES[3:])
        self.assertIsNotNone(self.successResultOf(asked))
        self.assertIn(OURS, self.dialer.cancelled)

    def test_store_away(self) -> None:
        """A store that can't be asked is told."""
        self.failureResultOf(self.make(away=True), StoreUnavailable)

    def test_asked_by_another_node(self) -> None:
        """A call that another node wants to be hung up is, if it is here and goes on; else the log says why not."""
        self.make(shared=True)
        self.dialer.here = True
        self.hangup.asked("call1", EndedBy.OPERATOR)
        self.end()
        self.hangup.asked("call1", EndedBy.OPERATOR)
        self.store.away = True
        self.hangup.asked("call1", EndedBy.OPERATOR)
        self.assertEqual(self.dialer.cancelled, [("call1", EndedBy.OPERATOR)])
