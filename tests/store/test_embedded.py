# Trial's assertions are not annotated.
# mypy: allow-untyped-calls
from __future__ import annotations

import errno
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase

from calledind.model import Key, ReturnCode, State
from calledind.store.disk import FORGET_ENTRIES, OVER
from calledind.store.embedded import GATHER_SECONDS, EmbeddedStore
from calledind.store.interface import Entered, LedgerEntry, Number, Store, StoreUnavailable, Totals
from tests.store.contract import (
    ANSWERED,
    BUSY,
    DIALOG,
    DIGEST,
    NOW,
    NUMBER,
    OTHER,
    StoreContract,
    make_attempt,
    make_call,
    make_key,
)
from tests.store.fakes import Bench

FULL = sqlite3.OperationalError("database or disk is full")
BROKEN = sqlite3.OperationalError("disk I/O error")


class EmbeddedContractTests(StoreContract, TestCase):
    """The embedded store keeps the contract."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())

    def make_store(self) -> Store:
        return EmbeddedStore(cast(Any, reactor), self.folder)


class ByHand(SynchronousTestCase):
    """A store with one key of ten credits, its threads and its disk in the hands of the test."""

    def setUp(self) -> None:
        self.bench = Bench(Path(self.mktemp()), max_waiting=10)
        self.store = self.bench.store
        self.successResultOf(self.store.open())
        self.successResultOf(self.store.add_key(make_key(credits=10), DIGEST))

    def tearDown(self) -> None:
        self.bench.faults.mend()
        self.bench.writer.release()
        self.successResultOf(self.bench.store.close())

    def restart(self) -> None:
        """Close the store and open it anew, with nothing but the disk to go by."""
        self.successResultOf(self.store.close())
        self.bench.reopen()
        self.store = self.bench.store
        self.successResultOf(self.store.open())

    def accept(self, index: int = 1, *, at: float = NOW) -> Deferred[ReturnCode]:
        return self.store.accept(make_call(f"call{index}", number=("1", f"{2125550100 + index}"), at=at))

    def totals(self) -> Totals:
        return self.successResultOf(self.store.totals())

    def keys(self) -> list[Key]:
        keys: Sequence[Key] = self.successResultOf(cast(Any, self.store.keys()))
        return list(keys)

    def listed(self) -> list[Number]:
        numbers: Iterable[Number] = self.successResultOf(cast(Any, self.store.do_not_call()))
        return list(numbers)

    def ledger(self, key_id: str = "key_1") -> list[LedgerEntry]:
        """Return its rows, the newest first."""
        rows: Sequence[LedgerEntry] = self.successResultOf(cast(Any, self.store.ledger(key_id, most=1000)))
        return list(rows)

    def state(self, call_id: str) -> State | None:
        record = self.successResultOf(self.store.find_call(call_id))
        return None if record is None else record.state

    def refused(self, answer: Deferred[Any]) -> str:
        """Return the words of the StoreUnavailable."""
        return str(self.failureResultOf(answer, StoreUnavailable).value)

    def assert_memory_is_disk(self) -> None:
        """What memory believes is what a store that knows only the disk believes."""
        before = (self.totals(), self.keys(), self.listed())
        self.restart()
        self.assertEqual((self.totals(), self.keys(), self.listed()), before)
        for key in self.keys():
            rows = self.ledger(key.id)
            self.assertEqual([row.balance for row in rows[:1]], [key.credits][: len(rows)])
            for after, row in pairwise(rows):
                self.assertEqual(row.balance + after.amount, after.balance)


class GroupCommitTests(ByHand):
    """Whatever has gathered is one commit."""

    def test_lone_change_is_committed_at_once(self) -> None:
        """With nothing else on its way, a change is one commit, and no timer is waited for."""
        before = self.bench.faults.statements
        self.assertIs(self.successResultOf(self.accept()), ReturnCode.ACCEPTED)
        self.assertEqual(self.bench.faults.statements, before + 1)
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_changes_gather_while_the_disk_is_busy(self) -> None:
        """All changes that come while one group is written are the next group."""
        before = self.bench.faults.statements
        self.bench.writer.held = True
        answers = [self.accept(index) for index in range(9)]
        for answer in answers:
            self.assertNoResult(answer)
        self.bench.writer.step()
        self.assertIs(self.successResultOf(answers[0]), ReturnCode.ACCEPTED)
        self.assertNoResult(answers[1])
        self.bench.writer.step()
        self.assertEqual([self.successResultOf(answer) for answer in answers[1:]], [ReturnCode.ACCEPTED] * 8)
        self.assertEqual(self.bench.faults.statements, before + 2)
        self.assertEqual(self.totals().held, 9)
        self.bench.writer.release()
        self.assert_memory_is_disk()

    def test_repeated_change_waits_for_the_first(self) -> None:
        """The answer to a change asked for twice comes no sooner than the disk has it."""
        self.bench.writer.held = True
        answers = [self.accept(), self.accept()]
        self.assertNoResult(answers[1])
        self.bench.writer.release()
        self.assertEqual([self.successResultOf(answer) for answer in answers], [ReturnCode.ACCEPTED] * 2)
        self.assertEqual(self.totals().held, 1)

    def test_refusal_because_of_a_change_on_its_way(self) -> None:
        """A number that is being accepted is refused at once, though the disk has not answered."""
        self.bench.writer.held = True
        self.accept()
        again = self.store.accept(make_call("call9", number=("1", "2125550101")))
        self.assertIs(self.successResultOf(again), ReturnCode.FLOOD)

    def test_group_is_bounded(self) -> None:
        """A commit has so many changes at most, lest all their askers go on in one turn of the reactor."""
        self.successResultOf(self.store.add_credits("key_1", 1000, NOW))
        store = self.store
        store._max_waiting = 1000
        before = self.bench.faults.statements
        self.bench.writer.held = True
        answers = [self.accept(index) for index in range(1 + 256 + 10)]
        self.bench.writer.step()
        self.bench.writer.step()
        self.assertEqual(self.successResultOf(answers[256]), ReturnCode.ACCEPTED)
        self.assertNoResult(answers[257])
        self.bench.clock.advance(GATHER_SECONDS)
        self.bench.writer.release()
        self.assertEqual(self.bench.faults.statements, before + 3)

    def test_groups_gather(self) -> None:
        """Under load a group begins some milliseconds after the last one; a lone change never waits."""
        self.successResultOf(self.store.add_credits("key_1", 1000, NOW))
        lone = [self.accept(1), self.accept(2)]
        self.assertEqual(list(map(self.successResultOf, lone)), [ReturnCode.ACCEPTED] * 2)
        self.bench.writer.held = True
        several = [self.accept(number) for number in range(3, 8)]
        self.bench.writer.release()
        self.assertEqual(list(map(self.successResultOf, several)), [ReturnCode.ACCEPTED] * 5)
        before = self.bench.faults.statements
        late = [self.accept(8), self.accept(9)]
        self.assertNoResult(late[0])
        self.bench.clock.advance(GATHER_SECONDS)
        self.assertEqual(list(map(self.successResultOf, late)), [ReturnCode.ACCEPTED] * 2)
        self.assertEqual(self.bench.faults.statements, before + 1)
        self.bench.clock.advance(GATHER_SECONDS)
        self.assertEqual(self.successResultOf(self.accept(10)), ReturnCode.ACCEPTED)

    def test_close_takes_what_gathers(self) -> None:
        """What waits for company when the store is closed is kept first."""
        self.successResultOf(self.store.add_credits("key_1", 1000, NOW))
        self.bench.writer.held = True
        several = [self.accept(number) for number in range(5)]
        self.bench.writer.release()
        self.assertEqual(list(map(self.successResultOf, several)), [ReturnCode.ACCEPTED] * 5)
        late = self.accept(5)
        self.assertNoResult(late)
        self.successResultOf(self.store.close())
        self.assertEqual(self.successResultOf(late), ReturnCode.ACCEPTED)
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_commits_are_fsynced(self) -> None:
        """SQLite is told to fsync its log at each commit."""
        database = self.store._disk._connection()
        pragmas = [database.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "synchronous")]
        self.assertEqual(pragmas, [("wal",), (2,)])

    def test_close_waits_for_what_was_begun(self) -> None:
        """Changes that wait when the store is closed are kept, later ones refused."""
        self.bench.writer.held = True
        answers = [self.accept(index) for index in range(3)]
        closed = self.store.close()
        self.assertNoResult(closed)
        self.refused(self.accept(4))
        self.bench.writer.release()
        self.successResultOf(closed)
        self.assertEqual([self.successResultOf(answer) for answer in answers], [ReturnCode.ACCEPTED] * 3)
        self.restart()
        self.assertEqual(self.totals().held, 3)

    def test_long_list_leaves_room_for_others(self) -> None:
        """A long DoNotCall list is kept a thousand at a time, and calls are accepted between."""
        self.bench.writer.held = True
        answer = self.store.add_do_not_call(("1", f"{number:010d}") for number in range(2500))
        accepted = self.accept()
        self.bench.writer.step()
        self.bench.writer.step()
        self.assertIs(self.successResultOf(accepted), ReturnCode.ACCEPTED)
        self.assertNoResult(answer)
        self.bench.writer.release()
        self.assertEqual(self.successResultOf(answer), 2500)


class FailureTests(ByHand):
    """When the disk fails, nothing has happened, and everything goes on by itself afterwards."""

    def test_failed_accept_gives_the_credit_back(self) -> None:
        """An acceptance that can't be kept leaves neither a held credit, nor a flood mark, nor a call."""
        before = self.totals()
        self.bench.faults.at_commit = FULL
        self.assertIn("is full; make room", self.refused(self.accept()))
        self.assertEqual(self.totals(), before)
        self.assertIs(self.successResultOf(self.store.check("key_1", "1", "2125550101", NOW)), ReturnCode.ACCEPTED)
        self.assertIsNone(self.state("call1"))
        self.assert_memory_is_disk()

    def test_what_waits_behind_a_failed_group_fails(self) -> None:
        """Changes decided on the ground of one that failed are taken back with it, each to what it was."""
        self.successResultOf(self.accept(1))
        before = self.totals()
        self.bench.writer.held = True
        answers: list[Deferred[Any]] = [
            self.store.begin_dialing("call1", make_attempt()),
            self.store.record_answer("call1", DIALOG, NOW),
            self.store.settle("call1", ANSWERED, charge=True),
            self.accept(2),
            self.store.settle("call2", BUSY, charge=False),
            self.store.add_credits("key_1", -8, NOW),
            self.store.set_disabled("key_1", True),
            self.store.add_key(make_key("key_2"), b"digest 2"),
            self.store.add_do_not_call([NUMBER, OTHER]),
            self.store.remove_do_not_call([OTHER]),
        ]
        self.bench.faults.at_commit = BROKEN
        self.bench.writer.release()
        for answer in answers:
            self.refused(answer)
        self.assertEqual(self.totals(), before)
        self.assertEqual(len(self.keys()), 1)
        self.assertIs(self.state("call1"), State.ACCEPTED)
        self.bench.faults.mend()
        self.bench.clock.advance(2)
        self.assertIs(self.successResultOf(self.store.begin_dialing("call1", make_attempt())), True)
        self.assertIs(self.successResultOf(self.accept(2)), ReturnCode.ACCEPTED)
        self.assert_memory_is_disk()

    def test_unhealthy_store_refuses_at_once(self) -> None:
        """After a failure every change is refused without asking the disk; reading goes on."""
        self.successResultOf(self.accept(1))
        self.bench.faults.at_commit = FULL
        self.refused(self.accept(2))
        self.assertFalse(self.store.healthy())
        self.bench.writer.held = True
        self.refused(self.accept(3))
        self.refused(self.store.begin_dialing("call1", make_attempt()))
        self.assertEqual(len(self.bench.writer.jobs), 0)
        self.assertIs(self.state("call1"), State.ACCEPTED)
        self.assertIs(self.successResultOf(self.store.check("key_1", *NUMBER, NOW)), ReturnCode.ACCEPTED)

    def test_recovers_by_itself(self) -> None:
        """The disk is tried every two seconds, and when it works again, so does the store."""
        self.bench.faults.at_commit = FULL
        self.refused(self.accept())
        tried = self.bench.faults.statements
        self.bench.clock.pump([1.0] * 6)
        self.assertEqual(self.bench.faults.statements, tried + 3)
        self.assertFalse(self.store.healthy())
        self.bench.faults.mend()
        self.bench.clock.advance(2)
        self.assertTrue(self.store.healthy())
        self.assertIs(self.successResultOf(self.accept()), ReturnCode.ACCEPTED)
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])
        self.assert_memory_is_disk()

    def test_passing_failure_is_over_at_once(self) -> None:
        """A failure that is gone at the next look costs one group and no time."""
        self.bench.writer.held = True
        answer = self.accept()
        self.bench.faults.at_commit = BROKEN
        self.bench.writer.step()
        self.refused(answer)
        self.bench.faults.mend()
        self.bench.writer.release()
        self.assertTrue(self.store.healthy())
        self.assertIs(self.successResultOf(self.accept()), ReturnCode.ACCEPTED)

    def test_commit_that_failed_but_arrived(self) -> None:
        """A group that SQLite calls failed, but is on disk when looked for, was kept."""
        self.bench.faults.after_commit = BROKEN
        self.assertIs(self.successResultOf(self.accept()), ReturnCode.ACCEPTED)
        self.bench.faults.mend()
        self.assertEqual(self.totals().held, 1)
        self.assert_memory_is_disk()

    def test_commit_that_turns_out_to_have_arrived(self) -> None:
        """A group that is found on disk after its askers were told otherwise is taken back there too."""
        for index in (1, 2, 3):
            self.successResultOf(self.accept(index))
        self.successResultOf(self.store.settle("call3", BUSY, charge=False))
        self.successResultOf(self.store.callback_postponed("call3", 1, NOW + 9))
        self.successResultOf(self.store.add_do_not_call([OTHER]))
        self.successResultOf(self.store.begin_dialing("call2", make_attempt()))
        self.bench.writer.held = True
        lone = self.store.set_disabled("key_1", False)
        answers: list[Deferred[Any]] = [
            lone,
            self.store.begin_dialing("call1", make_attempt()),
            self.store.set_caller_ids("key_1", ["1"]),
            self.store.set_attestation("key_1", "A"),
            self.store.record_answer("call1", DIALOG, NOW),
            self.store.begin_dialing("call2", make_attempt(2)),
            self.store.record_answer("call2", DIALOG, NOW),
            self.store.settle("call2", ANSWERED, charge=True),
            self.accept(4),
            self.accept(5),
            self.store.settle("call5", BUSY, charge=False),
            self.store.callback_postponed("call3", 2, NOW + 99),
            self.store.callback_delivered("call3", 3, NOW + 99),
            self.store.add_credits("key_1", 5, NOW),
            self.store.set_disabled("key_1", True),
            self.store.add_key(make_key("key_2"), b"digest 2"),
            self.store.add_credits("key_2", 5, NOW),
            self.store.add_do_not_call([NUMBER]),
            self.store.remove_do_not_call([OTHER]),
        ]
        self.assertIs(self.successResultOf(lone), True)
        self.bench.writer.step()
        self.assertIs(self.successResultOf(answers[1]), True)
        before, ledger = self.totals(), self.ledger()
        self.bench.faults.after_commit = BROKEN
        self.bench.faults.at_connect = sqlite3.OperationalError("unable to open database file")
        self.bench.writer.release()
        for answer in answers[2:]:
            self.refused(answer)
        arrived = sqlite3.connect(self.bench.folder / "calledin.sqlite3")
        self.assertEqual(arrived.execute("SELECT COUNT(*) FROM call").fetchall(), [(5,)])
        self.assertEqual(arrived.execute("SELECT COUNT(*) FROM ledger").fetchall(), [(len(ledger) + 7,)])
        arrived.close()
        self.bench.faults.mend()
        self.bench.faults.after_commit = BROKEN
        self.bench.clock.advance(2)
        self.bench.faults.mend()
        self.bench.clock.advance(2)
        self.assertTrue(self.store.healthy())
        self.assertEqual(self.totals().credits, 8)
        self.assertIsNone(self.state("call4"))
        self.assertIsNone(self.state("call5"))
        records = self.successResultOf(self.store.unfinished())
        self.assertEqual(
            [(record.call.id, record.state, record.attempt, record.dialog, record.outcome) for record in records],
            [
                ("call1", State.DIALING, make_attempt(), None, None),
                ("call2", State.DIALING, make_attempt(), None, None),
            ],
        )
        pending = self.successResultOf(self.store.pending_callbacks())
        self.assertEqual([(item.call.id, item.tries, item.due_at) for item in pending], [("call3", 1, NOW + 9)])
        self.assertEqual(self.listed(), [OTHER])
        self.assertEqual(self.totals().calls, {**before.calls, "dialing": 2, "accepted": 0, "answered": 0, "done": 1})
        self.assertEqual(self.ledger(), ledger)
        self.assert_memory_is_disk()

    def test_probe_that_arrives_takes_nothing_back(self) -> None:
        """A failed group that never reached the disk isn't taken back there when a later probe did reach it."""
        self.bench.faults.at_commit = BROKEN
        self.bench.faults.at_connect = sqlite3.OperationalError("unable to open database file")
        self.refused(self.store.add_credits("key_1", 5, NOW))
        self.bench.faults.mend()
        self.bench.faults.after_commit = BROKEN
        self.bench.clock.advance(2)
        self.bench.faults.mend()
        self.bench.clock.advance(2)
        self.assertTrue(self.store.healthy())
        self.assertEqual(self.totals().credits, 10)
        self.assert_memory_is_disk()

    def test_old_call_accepted_again_among_others(self) -> None:
        """What was decided on the ground of an old call accepted once more is decided anew, and the rest is kept."""
        self.successResultOf(self.accept(1))
        self.successResultOf(self.store.settle("call1", BUSY, charge=False))
        self.bench.writer.held = True
        answers: list[Deferred[Any]] = [
            self.accept(2),
            self.accept(3),
            self.accept(1, at=NOW + 3600),
            self.store.begin_dialing("call1", make_attempt()),
            self.store.settle("call1", ANSWERED, charge=True),
            self.store.settle("call1", BUSY, charge=False),
            self.accept(3),
            self.store.callback_delivered("call1", 1, NOW),
        ]
        self.bench.writer.release()
        accepted = ReturnCode.ACCEPTED
        self.assertEqual(
            [self.successResultOf(answer) for answer in answers],
            [accepted, accepted, accepted, False, False, True, accepted, True],
        )
        self.assertEqual((self.totals().credits, self.totals().held), (8, 2))
        self.assert_memory_is_disk()

    def test_failure_while_closing(self) -> None:
        """The store closes also when its last group fails."""
        self.bench.writer.held = True
        answer = self.accept()
        closed = self.store.close()
        self.bench.faults.at_commit = FULL
        self.bench.writer.release()
        self.refused(answer)
        self.successResultOf(closed)
        self.bench.faults.mend()
        self.restart()
        self.assertEqual(self.totals().held, 0)

    def test_closing_while_the_disk_fails(self) -> None:
        """An unhealthy store closes at once, and leaves no timer."""
        self.bench.faults.at_begin = OSError(errno.EIO, "Input/output error")
        self.refused(self.accept())
        self.successResultOf(self.store.close())
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_decision_that_the_disk_refuses_is_told(self) -> None:
        """A constraint of the database that is broken is a fault of ours: it is logged, and nothing changes."""
        self.successResultOf(self.accept(1))
        database = sqlite3.connect(self.bench.folder / "calledin.sqlite3")
        database.execute("UPDATE api_key SET credits = 0, added = 1")
        database.commit()
        database.close()
        self.refused(self.accept(2))
        self.assertEqual(len(self.flushLoggedErrors(sqlite3.IntegrityError)), 1)
        self.assertEqual(self.totals().credits, 9)
        self.assertTrue(self.store.healthy())


class SlowDiskTests(ByHand):
    """While an fsync hangs nobody waits without bounds."""

    def test_waiting_changes_are_bounded(self) -> None:
        """Beyond the bound an acceptance is refused at once, while running calls may still end."""
        self.successResultOf(self.accept(0))
        self.successResultOf(self.store.add_credits("key_1", 100, NOW))
        self.bench.writer.held = True
        waiting = [self.accept(index) for index in range(1, 12)]
        self.assertIn("10 changes wait", self.refused(self.accept(12)))
        ending = self.store.settle("call0", BUSY, charge=False)
        self.assertNoResult(ending)
        held = self.totals().held
        while len(waiting) < 20:
            waiting.append(cast(Any, self.store.callback_delivered("call0", len(waiting), NOW)))
        self.refused(self.store.begin_dialing("call1", make_attempt()))
        self.bench.writer.release()
        self.assertIs(self.successResultOf(ending), True)
        self.assertEqual(self.totals().held, held)
        self.assertTrue(self.store.healthy())

    def test_hanging_commit_makes_the_store_unhealthy(self) -> None:
        """A commit that takes longer than two seconds has new calls refused, until it returns."""
        self.bench.writer.held = True
        first = self.accept(1)
        self.bench.clock.advance(2)
        self.assertTrue(self.store.healthy())
        second = self.accept(2)
        self.bench.clock.advance(0.5)
        self.assertFalse(self.store.healthy())
        self.refused(self.accept(3))
        self.bench.writer.release()
        self.assertTrue(self.store.healthy())
        self.assertEqual([self.successResultOf(answer) for answer in (first, second)], [ReturnCode.ACCEPTED] * 2)
        self.assertEqual(self.totals().held, 2)


class PurgeTests(ByHand):
    """What is over is forgotten, and nobody waits for it."""

    def over(self, count: int, *, start: int = 0) -> None:
        """Have so many calls end."""
        self.successResultOf(self.store.add_credits("key_1", count, NOW))
        for index in range(start, start + count):
            self.successResultOf(self.accept(index))
            self.successResultOf(self.store.settle(f"call{index}", BUSY, charge=True))
            self.successResultOf(self.store.callback_delivered(f"call{index}", 1, NOW))

    def test_others_go_on_meanwhile(self) -> None:
        """A hundred are purged at a time, and what has gathered meanwhile is kept with the next hundred."""
        self.over(150)
        self.bench.writer.held = True
        purged = self.store.purge(NOW + 60)
        accepted = self.accept(500, at=NOW + 70)
        self.bench.writer.step()
        self.assertNoResult(accepted)
        self.bench.writer.step()
        self.assertIs(self.successResultOf(accepted), ReturnCode.ACCEPTED)
        self.assertNoResult(purged)
        self.assertEqual(self.totals().calls["delivered"], 50)
        self.bench.writer.release()
        self.bench.clock.advance(GATHER_SECONDS)
        self.assertEqual(self.successResultOf(purged), 150 + 302)
        self.assert_memory_is_disk()

    def test_purge_that_fails(self) -> None:
        """A purge that the disk refuses has changed nothing."""
        self.over(3)
        before, ledger = self.totals(), self.ledger()
        self.bench.faults.at_commit = BROKEN
        self.assertIn("can't be written", self.refused(self.store.purge(NOW + 50)))
        self.assertEqual((self.totals(), self.ledger()), (before, ledger))
        self.assert_memory_is_disk()

    def test_purge_that_arrived_stays(self) -> None:
        """A purge that is found on disk after its asker was told otherwise is counted, and what came with it undone."""
        self.over(3)
        self.bench.writer.held = True
        answers: list[Deferred[Any]] = [self.store.purge(NOW + 50)]
        self.bench.faults.after_commit = BROKEN
        self.bench.faults.at_connect = sqlite3.OperationalError("unable to open database file")
        self.bench.writer.release()
        self.refused(answers[0])
        self.assertEqual(self.totals().calls["delivered"], 3)
        self.bench.faults.mend()
        self.bench.faults.after_commit = BROKEN
        self.bench.clock.advance(2)
        self.bench.faults.mend()
        self.bench.clock.advance(2)
        self.assertTrue(self.store.healthy())
        self.assertEqual(self.totals().calls["delivered"], 0)
        self.assertEqual(self.successResultOf(self.store.purge(NOW + 50)), 0)
        self.assert_memory_is_disk()

    def test_room_is_used_again(self) -> None:
        """The file doesn't grow when as much is purged as is accepted."""
        sizes = []
        database = self.store._disk._connection()
        for turn in range(6):
            self.over(200, start=turn * 200)
            while self.successResultOf(self.store.purge(NOW + 61)):
                pass
            sizes.append(database.execute("PRAGMA page_count").fetchone()[0])
        self.assertLessEqual(sizes[-1], sizes[0] * 1.1)

    def test_purge_finds_its_way_by_an_index(self) -> None:
        """What there is to purge is found without reading what stays."""
        database = self.store._disk._connection()
        for statement in (OVER, FORGET_ENTRIES):
            plan = " ".join(row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", (NOW, 100)))
            self.assertRegex(plan, r"USING (COVERING )?INDEX (call_over|ledger_by_age)")

    def test_place_in_the_ledger(self) -> None:
        """What can't be a place is told so."""
        for place in ("x", "-1", "1.5", "9" * 30, "٣"):
            self.failureResultOf(self.store.ledger("key_1", before=place), ValueError)

    def test_note_that_is_no_text(self) -> None:
        """A note that can't be written down, or a time that is none, is refused before it could harm others."""
        self.failureResultOf(self.store.add_credits("key_1", 1, NOW, "\ud800"), ValueError)
        self.failureResultOf(self.store.add_credits("key_1", 1, float("nan")), ValueError)
        self.assertEqual(self.totals().credits, 10)
        self.assert_memory_is_disk()


class FolderTests(ByHand):
    """The files, and what may be found in their place."""

    def test_files_are_private(self) -> None:
        """Nobody else can read the folder or any file of it."""
        self.successResultOf(self.accept())
        self.assertEqual(stat.S_IMODE(self.bench.folder.stat().st_mode), 0o700)
        files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in self.bench.folder.iterdir()}
        self.assertIn("calledin.sqlite3-wal", files)
        self.assertEqual(set(files.values()), {0o600})

    def test_books_that_disagree_are_told(self) -> None:
        """A held credit without its call is a fault that an operator hears of when the store is opened."""
        self.successResultOf(self.accept())
        self.successResultOf(self.store.close())
        database = sqlite3.connect(self.bench.folder / "calledin.sqlite3")
        database.execute("UPDATE call SET state = 'delivered'")
        database.commit()
        database.close()
        with capturedLogs() as events:
            self.bench.reopen()
            self.store = self.bench.store
            self.successResultOf(self.store.open())
        self.assertEqual([event["log_level"] for event in events], [LogLevel.critical])
        self.assertEqual((events[0]["held"], events[0]["unfinished"]), (1, 0))

    def test_second_store_is_refused(self) -> None:
        """A folder that is open in one store can't be opened in another, and can when that is closed."""
        second = EmbeddedStore(self.bench.clock, self.bench.folder, runner=self.bench._runner)
        self.assertIn("another process", self.refused(second.open()))
        self.restart()

    def test_file_of_a_newer_schema_is_refused(self) -> None:
        """A file that a newer calledin has written isn't touched."""
        self.successResultOf(self.store.close())
        path = self.bench.folder / "calledin.sqlite3"
        database = sqlite3.connect(path)
        database.execute("PRAGMA user_version = 99")
        database.close()
        before = path.read_bytes()
        self.bench.reopen()
        self.assertIn("schema 99", self.refused(self.bench.store.open()))
        self.assertEqual(path.read_bytes(), before)

    def test_file_of_schema_3_is_taken_over(self) -> None:
        """In a file from before there was a ledger, one begins; its calls are forgotten when their time has come."""
        for index in (1, 2, 3):
            self.successResultOf(self.accept(index))
        self.successResultOf(self.store.settle("call1", BUSY, charge=False))
        self.successResultOf(self.store.settle("call2", ANSWERED, charge=True))
        self.successResultOf(self.store.callback_delivered("call2", 1, NOW))
        totals = self.totals()
        self.successResultOf(self.store.close())
        database = sqlite3.connect(self.bench.folder / "calledin.sqlite3")
        database.executescript(
            """DROP INDEX call_of_key; DROP INDEX call_idempotent;
            DROP INDEX call_over; ALTER TABLE call DROP COLUMN ended_at; DROP TABLE ledger;
            PRAGMA user_version = 3;"""
        )
        database.close()
        self.bench.reopen()
        self.store = self.bench.store
        self.successResultOf(self.store.open())
        self.assertEqual(self.totals(), totals)
        self.assertEqual(self.ledger(), [])
        self.successResultOf(self.store.settle("call3", BUSY, charge=False))
        self.assertEqual(self.ledger(), [LedgerEntry("key_1", 1, Entered.RELEASED, "call3", NOW + 3.5, 9)])
        self.assertEqual(self.successResultOf(self.store.purge(NOW + 20)), 1)
        self.assertIs(self.state("call2"), State.DELIVERED)
        self.assertEqual(self.successResultOf(self.store.purge(NOW + 21)), 1)
        self.assertIsNone(self.state("call2"))
        self.assertIs(self.successResultOf(self.store.callback_delivered("call1", 1, NOW)), True)
        self.assertEqual(self.successResultOf(self.store.purge(NOW + 21)), 1)
        self.assertEqual(self.totals().calls["done"], 1)
        self.successResultOf(self.store.add_credits("key_1", 1, NOW))
        self.assert_memory_is_disk()

    def test_file_of_an_older_schema_is_taken_over(self) -> None:
        """A file of schema 1, with no caller ids and a row for each DoNotCall number, is made one of today."""
        self.successResultOf(self.accept())
        before = self.successResultOf(self.store.keys())
        self.successResultOf(self.store.close())
        database = sqlite3.connect(self.bench.folder / "calledin.sqlite3")
        database.executescript(
            """ALTER TABLE api_key DROP COLUMN caller_ids; ALTER TABLE api_key DROP COLUMN attestation;
            DROP INDEX call_of_key; DROP INDEX call_idempotent;
            DROP INDEX call_over; ALTER TABLE call DROP COLUMN ended_at; DROP TABLE ledger; DROP TABLE do_not_call;
            CREATE TABLE do_not_call (number INTEGER PRIMARY KEY);
            INSERT INTO do_not_call VALUES (112125550100), (1442125550101), (112125550199); PRAGMA user_version = 1;"""
        )
        database.close()
        self.bench.reopen()
        self.store = self.bench.store
        self.successResultOf(self.store.open())
        self.assertEqual(self.successResultOf(self.store.keys()), before)
        self.assertIs(self.successResultOf(self.store.set_caller_ids("key_1", ["anonymous"])), True)
        numbers = [("1", "2125550100"), ("1", "2125550199"), ("44", "2125550101")]
        self.assertEqual(self.listed(), numbers)
        self.assert_memory_is_disk()

    def test_foreign_file_is_refused(self) -> None:
        """A database that isn't a store is refused with words that say what to do, as is a file of anything else."""
        for content in (b"anything else" * 100, None):
            bench = Bench(Path(self.mktemp()))
            bench.folder.mkdir()
            path = bench.folder / "calledin.sqlite3"
            if content is None:
                database = sqlite3.connect(path)
                database.execute("CREATE TABLE other (x)")
                database.close()
            else:
                path.write_bytes(content)
            self.assertIn("move it away", self.refused(bench.store.open()))

    def test_folder_that_can_not_be_made(self) -> None:
        """A path on which no folder can be is refused."""
        file = Path(self.mktemp())
        file.write_text("a file")
        self.refused(Bench(file / "store").store.open())

    def test_store_that_was_refused_can_be_opened_later(self) -> None:
        """A store whose opening failed lets go of its folder."""
        bench = Bench(Path(self.mktemp()))
        bench.faults.at_connect = sqlite3.OperationalError("unable to open database file")
        self.assertIn("check the owner", self.refused(bench.store.open()))
        bench.faults.mend()
        bench.reopen()
        self.successResultOf(bench.store.open())
        self.successResultOf(bench.store.close())

    def test_settled_calls_are_not_in_memory(self) -> None:
        """Only calls whose outcome isn't known take room in memory."""
        for index in range(3):
            self.successResultOf(self.accept(index))
        self.successResultOf(self.store.settle("call1", BUSY, charge=False))
        self.assertEqual(set(self.store._memory.live), {"call0", "call2"})

    def test_flood_marks_expire(self) -> None:
        """Marks older than a minute leave memory as new ones come."""
        self.successResultOf(self.store.add_credits("key_1", 100, NOW))
        for index in range(50):
            self.successResultOf(self.accept(index, at=NOW + index * 10))
        self.assertLessEqual(len(self.store._memory._marks), 8)

    def test_marks_of_the_future_expire(self) -> None:
        """One accepted while the clock was wrong does not keep those after it in memory until its time has come."""
        self.successResultOf(self.store.add_credits("key_1", 100, NOW))
        self.successResultOf(self.accept(0, at=NOW + 86400))
        self.restart()
        for index in range(1, 50):
            self.successResultOf(self.accept(index, at=NOW + index * 10))
        self.assertLessEqual(len(self.store._memory._marks), 8)

    def test_mark_of_the_future_does_not_block(self) -> None:
        """Calls accepted while the clock was wrong don't block their numbers for ever."""
        self.successResultOf(self.accept(1, at=NOW + 86400))
        self.restart()
        self.assertIs(self.successResultOf(self.accept(2)), ReturnCode.ACCEPTED)
        answer = self.store.check("key_1", "1", "2125550101", NOW)
        self.assertIs(self.successResultOf(answer), ReturnCode.ACCEPTED)

    def test_number_of_another_form_is_refused(self) -> None:
        """What isn't a number raises ValueError, and the list stays as it was."""
        for number in (("1", "212555010"), ("", "2125550100"), ("1", "21255501٠0"), ("123456789", "2125550100")):
            self.failureResultOf(self.store.add_do_not_call([OTHER, number]), ValueError)
            self.failureResultOf(self.store.check("key_1", *number, NOW), ValueError)
        self.assertEqual(self.listed(), [])


class KillTests(SynchronousTestCase):
    """A process that is killed at any moment leaves a store that adds up."""

    def kill_one(self, folder: Path, after: int) -> list[str]:
        """Run a child that lives calls as fast as it can, kill it after so many answers, and return these."""
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.store.victim", str(folder)], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert child.stdout is not None
        told = []
        for line in child.stdout:
            told.append(line.strip())
            if len(told) == after:
                break
        child.send_signal(signal.SIGKILL)
        # What it had told before it died counts too, but for a line cut in the middle.
        rest = child.stdout.read()
        told.extend(line.strip() for line in rest.splitlines(keepends=True) if line.endswith("\n"))
        child.wait()
        child.stdout.close()
        self.assertEqual(child.returncode, -signal.SIGKILL)
        return told

    def test_killed_in_the_middle(self) -> None:
        """Everything that was told is on disk, and the credits add up, after every kill."""
        folder = Path(self.mktemp())
        told: list[str] = []
        for after in (1, 57, 400):
            told.extend(self.kill_one(folder, after))
            bench = Bench(folder)
            self.successResultOf(bench.store.open())
            totals = self.successResultOf(bench.store.totals())
            unfinished = self.successResultOf(bench.store.unfinished())
            self.assertEqual(totals.credits + totals.held + totals.charged, totals.added)
            self.assertEqual(totals.held, len(unfinished))
            last = {line.split()[0]: line.split()[1] for line in told}
            order = [state.value for state in State]
            for call_id, state in last.items():
                record = self.successResultOf(bench.store.find_call(call_id))
                assert record is not None
                self.assertGreaterEqual(order.index(record.state), order.index(state))
            self.successResultOf(bench.store.close())
        self.assertGreaterEqual(len(told), 458)
