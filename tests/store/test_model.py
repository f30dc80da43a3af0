"""The embedded store against a plain model, with a disk that fails and restarts between."""

# Trial's assertions are not annotated.
# mypy: allow-untyped-calls
from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from calledind.model import ReturnCode, State
from calledind.store.embedded import GATHER_SECONDS
from calledind.store.interface import Entered, LedgerEntry, StoreUnavailable
from tests.store.contract import ANSWERED, BUSY, DIALOG, NOW, make_attempt, make_call, make_key
from tests.store.fakes import Bench

KEYS = st.sampled_from(["key_1", "key_2", "key_3"])
CALLS = st.sampled_from([f"call{index}" for index in range(6)])
NUMBERS = st.sampled_from([("1", f"212555010{index}") for index in range(3)])
UNAVAILABLE = "unavailable"


class Model:
    """What a store does, said in the plainest way: each method changes the model and returns the right answer."""

    def __init__(self) -> None:
        self.keys: dict[str, Counter[str]] = {}
        self.disabled: set[str] = set()
        self.caller_ids: dict[str, tuple[str, ...]] = {}
        self.listed: set[tuple[str, str]] = set()
        self.marks: dict[tuple[str, str], float] = {}
        self.calls: dict[str, dict[str, Any]] = {}
        self.ledger: list[LedgerEntry] = []

    def change(self, key_id: str, amount: int, reason: Entered, reference: str, at: float, **figures: int) -> None:
        """Change a key's figures, `amount` those of its credits, and enter it into the ledger."""
        self.keys[key_id].update(credits=amount, **figures)
        self.ledger.append(LedgerEntry(key_id, amount, reason, reference, at, self.keys[key_id]["credits"]))

    def add_key(self, key_id: str) -> Any:
        if key_id in self.keys:
            return ValueError
        self.keys[key_id] = Counter()
        self.change(key_id, 2, Entered.ADDED, "", NOW, added=2)
        return None

    def set_disabled(self, key_id: str, disabled: bool) -> Any:
        (self.disabled.add if disabled else self.disabled.discard)(key_id)
        return key_id in self.keys

    def set_caller_ids(self, key_id: str, caller_ids: tuple[str, ...]) -> Any:
        self.caller_ids[key_id] = caller_ids
        return True

    def add_credits(self, key_id: str, amount: int, at: float, note: str) -> Any:
        if key_id not in self.keys:
            return KeyError
        if self.keys[key_id]["credits"] + amount < 0:
            return ValueError
        if amount:
            self.change(key_id, amount, Entered.ADDED if amount > 0 else Entered.TAKEN, note, at, added=amount)
        return self.keys[key_id]["credits"]

    def list_number(self, number: tuple[str, str]) -> Any:
        before = len(self.listed)
        self.listed.add(number)
        return len(self.listed) - before

    def unlist_number(self, number: tuple[str, str]) -> Any:
        before = len(self.listed)
        self.listed.discard(number)
        return before - len(self.listed)

    def accept(self, call_id: str, key_id: str, number: tuple[str, str], at: float, callback: bool) -> Any:
        if call_id in self.calls:
            return ReturnCode.ACCEPTED
        if key_id not in self.keys:
            return ReturnCode.INVALID_KEY
        if key_id in self.disabled:
            return ReturnCode.KEY_DISABLED
        if number in self.listed:
            return ReturnCode.DO_NOT_CALL
        if at - self.marks.get(number, 0) < 60:
            return ReturnCode.FLOOD
        if not self.keys[key_id]["credits"]:
            return ReturnCode.NO_CREDITS
        self.change(key_id, -1, Entered.HELD, call_id, at, held=1)
        self.marks[number] = at
        self.calls[call_id] = {"key": key_id, "state": State.ACCEPTED, "attempt": 0, "callback": callback, "tries": 0}
        return ReturnCode.ACCEPTED

    def begin_dialing(self, call_id: str, number: int) -> Any:
        call = self.calls.get(call_id)
        if call is None or call["state"] not in (State.ACCEPTED, State.DIALING):
            return False
        if number == call["attempt"]:
            return True
        if number != call["attempt"] + 1:
            return False
        call.update(state=State.DIALING, attempt=number)
        return True

    def record_answer(self, call_id: str) -> Any:
        call = self.calls.get(call_id)
        if call is None or call["state"] not in (State.DIALING, State.ANSWERED):
            return False
        call["state"] = State.ANSWERED
        return True

    def settle(self, call_id: str, charge: bool, at: float) -> Any:
        call = self.calls.get(call_id)
        if call is None:
            return False
        if "charge" in call:
            return call["charge"] == charge
        call.update(state=State.DONE if call["callback"] else State.DELIVERED, charge=charge)
        reason, call["ended"] = Entered.CHARGED if charge else Entered.RELEASED, at
        self.change(call["key"], int(not charge), reason, call_id, at, held=-1, charged=int(charge))
        return True

    def finish_callback(self, call_id: str, state: State, tries: int) -> Any:
        call = self.calls.get(call_id)
        if call is None:
            return False
        if call["state"] == State.DONE and call["tries"] <= tries:
            call.update(state=state, tries=tries, finished=True)
            return True
        return call["state"] == state and call["tries"] == tries and call.get("finished", False)

    def callback_again(self, call_id: str) -> Any:
        call = self.calls.get(call_id)
        if call is None or "charge" not in call or not call["callback"]:
            return False
        call.update(state=State.DONE, tries=0)
        return True

    def purge(self, before: float) -> Any:
        over = (State.DELIVERED, State.EXHAUSTED)
        gone = [name for name, call in self.calls.items() if call["state"] in over and call["ended"] < before]
        for name in gone:
            del self.calls[name]
        rows = len(self.ledger)
        self.ledger = [row for row in self.ledger if row.at >= before]
        return len(gone) + rows - len(self.ledger)


class StoreMachine(RuleBasedStateMachine):
    """Asks the store and the model the same, while the writer is held or not, and the disk fails or not."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.bench = Bench(Path(self.folder) / "store")
        self.bench.store.open()
        self.model = Model()
        self.time = NOW
        self.asked: list[tuple[bool, Callable[[], Any], list[Any]]] = []
        self.settling: set[str] = set()
        "Calls whose end is among what was asked."

    @property
    def busy(self) -> bool:
        "Whether changes are on their way to the disk, or wait for company."
        return bool(self.bench.writer.jobs or self.bench.store._waiting)

    def ask(self, answer: Deferred[Any], expected: Callable[[], Any]) -> None:
        """Note the store's answer, when it comes, beside the way to the model's."""
        told: list[Any] = []
        quiet = not self.busy
        self.asked.append((quiet, expected, told))

        def failed(failure: Failure) -> None:
            told.append(UNAVAILABLE if failure.check(StoreUnavailable) else failure.type)

        answer.addCallbacks(told.append, failed)

    def settle_accounts(self) -> None:
        """With everything answered, the model, asked what was kept in the same order, answers the same."""
        for quiet, expected, told in self.asked:
            assert len(told) == 1, "exactly one answer"
            if told[0] == UNAVAILABLE:
                continue
            # While changes were on their way, a refusal may have been on account of one that failed later.
            refused = isinstance(told[0], ReturnCode) and told[0] is not ReturnCode.ACCEPTED
            if (refused or told[0] in (ValueError, KeyError)) and not quiet:
                continue
            answer = expected()
            assert told[0] == answer, f"told {told[0]!r}, right is {answer!r}"
        self.asked.clear()
        self.settling.clear()
        totals: list[Any] = []
        self.bench.store.totals().addCallback(totals.append)
        figures = sum(self.model.keys.values(), Counter[str]())
        states = Counter(call["state"].value for call in self.model.calls.values())
        assert (totals[0].credits, totals[0].held, totals[0].charged, totals[0].added) == (
            figures["credits"],
            figures["held"],
            figures["charged"],
            figures["added"],
        )
        assert +Counter(totals[0].calls) == states
        numbers: list[Any] = []
        self.bench.store.do_not_call().addCallback(numbers.extend)
        assert numbers == sorted(self.model.listed)
        if self.bench.store.healthy() and self.bench.faults.at_connect is None:
            for key_id in self.model.keys:
                rows: list[Any] = []
                self.bench.store.ledger(key_id, most=10**6).addCallback(rows.extend)
                assert rows[::-1] == [row for row in self.model.ledger if row.key_id == key_id]
        keys: list[Any] = []
        self.bench.store.keys().addCallback(keys.extend)
        assert {key.id: key.caller_ids for key in keys if key.caller_ids} == {
            key_id: caller_ids for key_id, caller_ids in self.model.caller_ids.items() if caller_ids
        }

    @initialize()
    def first_key(self) -> None:
        self.add_key("key_1")
        self.add_credits("key_1", 4)

    @rule(key_id=KEYS)
    def add_key(self, key_id: str) -> None:
        self.ask(
            self.bench.store.add_key(make_key(key_id, credits=2), key_id.encode()), lambda: self.model.add_key(key_id)
        )

    @rule(key_id=KEYS, disabled=st.booleans())
    def set_disabled(self, key_id: str, disabled: bool) -> None:
        self.ask(
            self.bench.store.set_disabled(key_id, disabled),
            lambda: self.model.set_disabled(key_id, disabled) if key_id in self.model.keys else False,
        )

    @rule(key_id=KEYS, caller_ids=st.sampled_from([(), ("1",), ("+12125550100", "anonymous")]))
    def set_caller_ids(self, key_id: str, caller_ids: tuple[str, ...]) -> None:
        self.ask(
            self.bench.store.set_caller_ids(key_id, caller_ids),
            lambda: self.model.set_caller_ids(key_id, caller_ids) if key_id in self.model.keys else False,
        )

    @rule(key_id=KEYS, amount=st.integers(-2, 4), note=st.sampled_from(["", 'é "quoted"']))
    def add_credits(self, key_id: str, amount: int, note: str = "") -> None:
        at = self.time
        answer: Deferred[Any] = self.bench.store.add_credits(key_id, amount, at, note)
        self.ask(answer.addCallback(lambda key: key.credits), lambda: self.model.add_credits(key_id, amount, at, note))

    @rule(number=NUMBERS)
    def list_number(self, number: tuple[str, str]) -> None:
        self.ask(self.bench.store.add_do_not_call([number]), lambda: self.model.list_number(number))

    @rule(number=NUMBERS)
    def unlist_number(self, number: tuple[str, str]) -> None:
        self.ask(self.bench.store.remove_do_not_call([number]), lambda: self.model.unlist_number(number))

    @rule(call_id=CALLS, key_id=KEYS, number=NUMBERS, later=st.sampled_from([0, 30, 61]), callback=st.booleans())
    def accept(self, call_id: str, key_id: str, number: tuple[str, str], later: int, callback: bool) -> None:
        self.time += later
        at, url = self.time, "http://example.com/" if callback else None
        call = make_call(call_id, key_id=key_id, number=number, at=at, callback_url=url)
        self.ask(self.bench.store.accept(call), lambda: self.model.accept(call_id, key_id, number, at, callback))

    @rule(call_id=CALLS, number=NUMBERS, steps=st.integers(1, 6), callback=st.booleans(), charge=st.booleans())
    def live(self, call_id: str, number: tuple[str, str], steps: int, callback: bool, charge: bool) -> None:
        """Take a call so many steps along its life without waiting for an answer."""
        way: list[Callable[[], None]] = [
            lambda: self.accept(call_id, "key_1", number, 61, callback),
            lambda: self.begin_dialing(call_id, 1),
            lambda: self.begin_dialing(call_id, 2),
            lambda: self.record_answer(call_id),
            lambda: self.settle(call_id, charge),
            lambda: self.finish_callback(call_id, 1, State.DELIVERED),
        ]
        for step in way[:steps]:
            step()

    @rule(call_id=CALLS, number=st.integers(1, 2))
    def begin_dialing(self, call_id: str, number: int) -> None:
        self.ask(
            self.bench.store.begin_dialing(call_id, make_attempt(number)),
            lambda: self.model.begin_dialing(call_id, number),
        )

    @rule(call_id=CALLS)
    def record_answer(self, call_id: str) -> None:
        self.ask(self.bench.store.record_answer(call_id, DIALOG, NOW), lambda: self.model.record_answer(call_id))

    @rule(call_id=CALLS, charge=st.booleans())
    def settle(self, call_id: str, charge: bool) -> None:
        self.settling.add(call_id)
        outcome = ANSWERED if charge else BUSY
        self.ask(
            self.bench.store.settle(call_id, outcome, charge=charge),
            lambda: self.model.settle(call_id, charge, outcome.ending.ended_at),
        )

    @rule(call_id=CALLS, tries=st.integers(1, 3), state=st.sampled_from([State.DONE, State.DELIVERED, State.EXHAUSTED]))
    def finish_callback(self, call_id: str, tries: int, state: State) -> None:
        store = self.bench.store
        ended = self.model.calls.get(call_id, {}).get("state") in (State.DONE, State.DELIVERED, State.EXHAUSTED)
        if self.busy and not ended and call_id not in self.settling:
            return  # nobody tells of a callback before the call's end is on its way
        if state is State.DONE:
            answer = store.callback_postponed(call_id, tries, NOW + 100 * tries)
        elif state is State.DELIVERED:
            answer = store.callback_delivered(call_id, tries, NOW)
        else:
            answer = store.callback_exhausted(call_id, tries, NOW)
        self.ask(answer, lambda: self.model.finish_callback(call_id, state, tries))

    @rule(call_id=CALLS)
    def callback_again(self, call_id: str) -> None:
        if self.busy and call_id not in self.settling:
            return  # whether its callback may begin anew is asked about what is on disk
        self.ask(self.bench.store.callback_again(call_id, NOW + 50), lambda: self.model.callback_again(call_id))

    @rule(before=st.sampled_from([NOW, NOW + 10, NOW + 100, NOW + 500]))
    def purge(self, before: float) -> None:
        """Once all is quiet, and with a restart: a call that is forgotten may be accepted anew, but for its mark."""
        self.mend()
        self.release()
        self.time = max(self.time, before) + 61
        self.ask(self.bench.store.purge(before), lambda: self.model.purge(before))
        self.restart()

    @rule()
    def hold(self) -> None:
        self.bench.writer.held = True

    @rule()
    def step(self) -> None:
        if self.bench.writer.jobs:
            self.bench.writer.step()

    @rule(
        when=st.sampled_from(["at_begin", "at_commit", "after_commit"]),
        connects=st.booleans(),
        lasts=st.sampled_from([0, 0, 1]),
    )
    def fail(self, when: str, connects: bool, lasts: int) -> None:
        setattr(self.bench.faults, when, sqlite3.OperationalError("disk I/O error"))
        if not connects:
            self.bench.faults.at_connect = sqlite3.OperationalError("unable to open database file")
        if not lasts:
            self.bench.writer.release()
            self.mend()

    @rule()
    def mend(self) -> None:
        self.bench.faults.mend()
        self.bench.clock.advance(2)
        assert self.bench.store.healthy() or self.bench.writer.held

    @rule()
    def release(self) -> None:
        self.bench.writer.release()
        self.bench.clock.advance(GATHER_SECONDS)
        self.settle_accounts()

    @rule()
    def restart(self) -> None:
        self.bench.writer.release()
        self.bench.faults.mend()
        self.bench.clock.advance(2)
        self.settle_accounts()
        self.bench.store.close()
        self.bench.reopen()
        opened: list[Any] = []
        self.bench.store.open().addBoth(opened.append)
        assert opened == [None]
        self.settle_accounts()
        self.check_calls()

    def check_calls(self) -> None:
        for call_id, call in self.model.calls.items():
            found: list[Any] = []
            self.bench.store.find_call(call_id).addCallback(found.append)
            assert found[0].state is call["state"]
            assert (found[0].attempt.number if found[0].attempt else 0) == call["attempt"]

        pending: list[Any] = []
        self.bench.store.pending_callbacks().addCallback(pending.append)
        assert {item.call.id: item.tries for item in pending[0]} == {
            call_id: call["tries"] for call_id, call in self.model.calls.items() if call["state"] is State.DONE
        }

    @invariant()
    def credits_add_up(self) -> None:
        """Whatever is on its way: credits + held + charged = added, and each unfinished call holds one."""
        totals: list[Any] = []
        self.bench.store.totals().addCallback(totals.append)
        figures = totals[0]
        assert figures.credits + figures.held + figures.charged == figures.added
        assert figures.held == sum(figures.calls[state] for state in ("accepted", "dialing", "answered"))
        assert min(figures.credits, figures.held, figures.charged) >= 0

    def teardown(self) -> None:
        self.restart()
        self.bench.store.close()
        rmtree(self.folder)


class ModelTests(SynchronousTestCase):
    def test_store_is_the_model(self) -> None:
        """Whatever is asked in whatever order, and however the disk fails, store and model agree."""
        run_state_machine_as_test(
            StoreMachine,
            settings=settings(
                deadline=None, derandomize=True, max_examples=150, stateful_step_count=40, phases=[Phase.generate]
            ),
        )
