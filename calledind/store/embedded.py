"""The store inside the daemon: memory decides, SQLite keeps.

A change is decided in memory at once, then waits for the disk; its asker hears of it when the disk has it.
One group of changes is on its way to the disk at a time, in the writer's thread. Whatever has gathered when it
is back is the next group, so where little happens a change is committed at once, and under load one fsync serves
hundreds:

    time ───▶   a        b c d            e f
    writer      [──a──]  [──b──][────c d────]··[──e f──]    each [ ] one transaction, one fsync

What follows a group of several changes begins `GATHER_SECONDS` after that one at the earliest: under load, many small
commits would cost more than they hasten.

When a group fails, it and all that waits behind it are taken back from memory, the last one first, and their
askers are told `StoreUnavailable`; from then on every change is refused at once, until a probe of the disk
succeeds: right away, then every two seconds. A refusal given meanwhile because of a change that was then taken
back (the last credit, say) was right when it was given.

While an fsync hangs, changes wait up to a bound, and new calls are refused once it has hung for two seconds.
Nothing here ever blocks the reactor.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.model import Attempt, Call, CallRecord, Key, Outcome, PendingCallback, ReturnCode, State
from calledind.store.backup import copy_database
from calledind.store.disk import Archive, Connect, Disk, Repeated, connect, explain
from calledind.store.interface import CallFilter, LedgerEntry, Number, StoreUnavailable, Totals
from calledind.store.memory import Change, Memory
from calledind.store.worker import FromThread, Worker

T = TypeVar("T")

RETRY_SECONDS = 2.0
"Between two probes of a disk that fails."
STALL_SECONDS = 2.0
"A commit that takes longer makes the store unhealthy."
MAX_WAITING = 4096
"Changes waiting for the disk; beyond it, new ones are refused. What ends a running call may be twice as many."
MAX_GROUP = 256
"Changes in one commit: more would not be faster, and their askers' next steps are one turn of the reactor."
GATHER_SECONDS = 0.004
"From the beginning of a group of several changes to that of the next group at least."
LIST_CHUNK = 1000
"Numbers of the DoNotCall list changed at a time, some milliseconds of work."
PURGE_CHUNK = 100
"Calls and rows of the ledger purged at a time."
LAST_PLACE = 2**63 - 1
"What no row of the ledger stands behind."


class Reactor(FromThread, Protocol):
    """The parts of a reactor that are used here."""

    def seconds(self) -> float: ...

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> IDelayedCall: ...


class Runner(Protocol):
    """What `Worker` does, so that a test can say when."""

    def run(self, job: Callable[[], T]) -> Deferred[T]: ...

    def stop(self) -> None: ...


Waiting = tuple[Change, Deferred[Any], Callable[[], Deferred[Any]]]
"A change, who waits for it, and the way to ask for it anew."


class EmbeddedStore:
    """`interface.Store` in a folder of its own; one process at a time may have it open."""

    _log = Logger()

    def __init__(
        self,
        reactor: Reactor,
        folder: Path,
        *,
        connect: Connect = connect,
        runner: Callable[[Reactor, str], Runner] = Worker,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._reactor = reactor
        self._folder = folder
        self._path = folder / "calledin.sqlite3"
        self._disk = Disk(self._path, connect)
        self._archive = Archive(self._path, connect)
        self._searches = Archive(self._path, connect)
        self._searcher: Runner | None = None
        self._runner = runner
        self._max_waiting = max_waiting
        self._waiting: list[Waiting] = []
        self._committing: list[Waiting] = []
        self._committing_since = 0.0
        self._not_before = 0.0
        "When the next group may begin, by the reactor's clock."
        self._gathering: IDelayedCall | None = None
        self._trouble: str | None = "the store is not open"
        self._retry: IDelayedCall | None = None
        self._lock: int | None = None
        self._idle: list[Deferred[None]] = []

    # opening and closing

    def open(self) -> Deferred[None]:
        """Fails with `StoreUnavailable`, whose words say what to do, also where another process has it open."""
        try:
            self._lock = lock_folder(self._folder)
        except OSError as error:
            return fail(StoreUnavailable(explain(error, self._path)))
        except StoreUnavailable as error:
            return fail(error)
        self._writer = self._runner(self._reactor, "calledin store writer")
        self._reader = self._runner(self._reactor, "calledin store reader")
        return self._writer.run(self._disk.open).addCallbacks(self._opened, self._not_opened)

    def _opened(self, loaded: Any) -> None:
        self._memory = Memory(loaded)
        self._trouble = None
        totals = self._memory.totals()
        unfinished = len(self._memory.live)
        if totals.held != unfinished:
            self._log.critical(
                "The books of {path} don't agree: {held} credits are held by {unfinished} unfinished calls",
                path=str(self._path),
                held=totals.held,
                unfinished=unfinished,
            )

    def _not_opened(self, failure: Failure) -> Deferred[None]:
        closing = self._let_go()
        error = failure.value
        if isinstance(error, sqlite3.Error | OSError):
            error = StoreUnavailable(explain(error, self._path))
        return closing.addCallback(lambda _: fail(error))

    def close(self) -> Deferred[None]:
        if self._lock is None:
            return succeed(None)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._trouble = "the store is closed"
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathered()
        if self._committing:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            return idle.addCallback(lambda _: self._let_go())
        return self._let_go()

    def _let_go(self) -> Deferred[None]:
        lock, self._lock = self._lock, None

        def release(result: T) -> T:
            self._writer.stop()
            self._reader.stop()
            if lock is not None:
                os.close(lock)
            return result

        # The reader goes first: the last connection to close tidies up the log.
        closing = self._reader.run(self._archive.close)
        searcher, self._searcher = self._searcher, None
        if searcher is not None:
            closing.addBoth(lambda result: searcher.run(self._searches.close).addCallback(lambda _: result))

            def dismiss(result: T) -> T:
                searcher.stop()
                return result

            closing.addBoth(dismiss)
        closing.addBoth(lambda _: self._writer.run(self._disk.close))
        return closing.addErrback(self._log_error, "closing").addBoth(release)

    def _log_error(self, failure: Failure, doing: str) -> None:
        self._log.error("{doing} the store: {words}", doing=doing, words=explain(failure.value, self._path))

    def healthy(self) -> bool:
        return self._trouble is None and not self._stalled()

    def _stalled(self) -> bool:
        return bool(self._committing) and self._reactor.seconds() - self._committing_since > STALL_SECONDS

    # the way of a change to the disk

    def _refusal(self, most: int) -> StoreUnavailable | None:
        if self._trouble is not None:
            return StoreUnavailable(self._trouble)
        if len(self._waiting) >= most:
            return StoreUnavailable(f"{len(self._waiting)} changes wait for the disk of {self._path}; it is too slow")
        return None

    def _decide(self, decision: Callable[[], Change]) -> Deferred[Any]:
        """Change memory and the disk, unless it can't be done now."""
        refusal = self._refusal(2 * self._max_waiting)
        if refusal is not None:
            return fail(refusal)
        try:
            change = decision()
        except (KeyError, ValueError) as error:
            return fail(error)
        return self._keep(change, partial(self._decide, decision))

    def _keep(self, change: Change, again: Callable[[], Deferred[Any]]) -> Deferred[Any]:
        if change.is_nothing and not self._committing and not self._waiting:
            return succeed(change.answer)
        kept: Deferred[Any] = Deferred()
        self._waiting.append((change, kept, again))
        if not self._committing:
            self._commit_soon()
        return kept

    def _commit_soon(self) -> None:
        wait = self._not_before - self._reactor.seconds()
        if wait <= 0:
            self._commit()
        elif self._gathering is None:
            self._gathering = self._reactor.callLater(wait, self._gathered)

    def _gathered(self) -> None:
        self._gathering = None
        if self._waiting and not self._committing:
            self._commit()

    def _commit(self) -> None:
        group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
        self._committing = group
        self._committing_since = self._reactor.seconds()
        if len(group) > 1:
            self._not_before = self._committing_since + GATHER_SECONDS
        changes = [waiting[0] for waiting in group]
        writing = self._writer.run(partial(self._disk.write, changes))
        writing.addCallbacks(self._committed, self._failed).addErrback(self._log_bug)

    def _committed(self, _written: None) -> None:
        group, self._committing = self._committing, []
        for change, _, _ in group:
            change.kept()
        # The disk works on the next group while the askers of this one hear their answers.
        if self._waiting:
            self._commit_soon()
        for change, kept, _ in group:
            kept.callback(change.answer)
        self._tell_idle()

    def _failed(self, failure: Failure) -> None:
        group = self._committing + self._waiting
        self._committing, self._waiting = [], []
        for change, _, _ in reversed(group):
            change.undo()
        if isinstance(failure.value, Repeated):
            self._decide_again(group, failure.value)
        else:
            self._give_up(group, failure)
        self._tell_idle()

    def _decide_again(self, group: Sequence[Waiting], repeated: Repeated) -> None:
        """Calls ended long ago were accepted once more: what was decided on that ground is decided anew."""
        self._memory.ended = repeated.call_ids
        for _, kept, again in group:
            again().chainDeferred(kept)
        self._memory.ended = ()

    def _give_up(self, group: Sequence[Waiting], failure: Failure) -> None:
        words = explain(failure.value, self._path)
        if not isinstance(failure.value, sqlite3.OperationalError | OSError):
            self._log.failure("A group of {count} changes was refused by the store", failure, count=len(group))
        if self._trouble is None:
            self._log.error("The store can't take changes: {words}", words=words)
            self._trouble = words
            self._probe()
        for _, kept, _ in group:
            kept.errback(StoreUnavailable(words))

    def _log_bug(self, failure: Failure) -> None:
        self._log.failure("The store has lost its way, and must be restarted", failure)
        self._trouble = "the store has lost its way; restart calledin, and report what its log says"

    def _tell_idle(self) -> None:
        if not self._committing and not self._waiting:
            idle, self._idle = self._idle, []
            for deferred in idle:
                deferred.callback(None)

    def _probe(self) -> None:
        self._retry = None
        self._writer.run(self._disk.probe).addCallbacks(self._recovered, self._still_failing)

    def _recovered(self, standing: Sequence[Change]) -> None:
        for change in standing:
            change.kept()
        if self._lock is not None:
            self._trouble = None
            self._log.info("The store takes changes again")

    def _still_failing(self, failure: Failure) -> None:
        if self._lock is not None:
            self._trouble = explain(failure.value, self._path)
            self._retry = self._reactor.callLater(RETRY_SECONDS, self._probe)

    def _read(self, job: Callable[[], T]) -> Deferred[T]:
        if self._lock is None:
            return fail(StoreUnavailable("the store is not open"))
        return self._reader.run(job).addErrback(self._not_read)

    def _not_read(self, failure: Failure) -> Any:
        if isinstance(failure.value, sqlite3.Error | OSError):
            raise StoreUnavailable(explain(failure.value, self._path))
        return failure

    # keys and credits

    def add_key(self, key: Key, digest: bytes) -> Deferred[None]:
        return self._decide(lambda: self._memory.add_key(key, digest))

    def find_key(self, digest: bytes) -> Deferred[Key | None]:
        return succeed(self._memory.find_key(digest))

    def keys(self) -> Deferred[Sequence[Key]]:
        return succeed(self._memory.keys())

    def set_disabled(self, key_id: str, disabled: bool) -> Deferred[bool]:
        return self._decide(lambda: self._memory.set_disabled(key_id, disabled))

    def set_caller_ids(self, key_id: str, caller_ids: Sequence[str]) -> Deferred[bool]:
        return self._decide(lambda: self._memory.set_caller_ids(key_id, caller_ids))

    def set_attestation(self, key_id: str, attestation: str) -> Deferred[bool]:
        return self._decide(lambda: self._memory.set_attestation(key_id, attestation))

    def add_credits(self, key_id: str, amount: int, now: float, note: str = "") -> Deferred[Key]:
        return self._decide(lambda: self._memory.add_credits(key_id, amount, now, note))

    def ledger(self, key_id: str, *, most: int = 100, before: str = "") -> Deferred[Sequence[LedgerEntry]]:
        if key_id not in self._memory.accounts:
            return fail(KeyError(key_id))
        place = LAST_PLACE
        if before:
            if not (before.isascii() and before.isdigit() and len(before) < len(str(LAST_PLACE))):
                return fail(ValueError(f"{before!r} is no place in a ledger"))
            place = int(before)
        return self._read(lambda: self._archive.ledger(key_id, most, place))

    # DoNotCall

    def add_do_not_call(self, numbers: Iterable[Number]) -> Deferred[int]:
        """Fails with ValueError at the first number that isn't one, with `StoreUnavailable` when the disk fails.

        A thousand at a time: the earlier thousands of a failed list stay, and giving it again is right.
        """
        return Deferred.fromCoroutine(self._in_chunks(self._memory.add_do_not_call, numbers))

    def remove_do_not_call(self, numbers: Iterable[Number]) -> Deferred[int]:
        """Fails as `add_do_not_call` does."""
        return Deferred.fromCoroutine(self._in_chunks(self._memory.remove_do_not_call, numbers))

    async def _in_chunks(self, decision: Callable[[list[Number]], Change], numbers: Iterable[Number]) -> int:
        source, count = iter(numbers), 0
        while chunk := list(islice(source, LIST_CHUNK)):
            count += await self._decide(partial(decision, chunk))
        return count

    def do_not_call(self) -> Deferred[Iterable[Number]]:
        return succeed(self._memory.do_not_call())

    # admission

    def check(self, key_id: str, country_code: str, phone_number: str, now: float) -> Deferred[ReturnCode]:
        try:
            return succeed(self._memory.check(key_id, country_code, phone_number, now))
        except ValueError as error:
            return fail(error)

    def objections(
        self, key_id: str, country_code: str, phone_number: str, now: float
    ) -> Deferred[Sequence[ReturnCode]]:
        try:
            return succeed(self._memory.objections(key_id, country_code, phone_number, now))
        except ValueError as error:
            return fail(error)

    def accept(self, call: Call) -> Deferred[ReturnCode]:
        refusal = self._refusal(self._max_waiting)
        if refusal is None and self._stalled():
            refusal = StoreUnavailable(f"the disk of {self._path} has not answered for {STALL_SECONDS:.0f} seconds")
        if refusal is not None:
            return fail(refusal)
        try:
            decision = self._memory.accept(call)
        except ValueError as error:
            return fail(error)
        if isinstance(decision, Change):
            return self._keep(decision, partial(self.accept, call))
        code = decision
        known = self._read(lambda: self._archive.is_known(call.id))
        return known.addCallback(lambda found: ReturnCode.ACCEPTED if found else code)

    # the life of a call

    def begin_dialing(self, call_id: str, attempt: Attempt) -> Deferred[bool]:
        return self._decide(lambda: self._memory.begin_dialing(call_id, attempt))

    def record_answer(self, call_id: str, dialog: str, now: float) -> Deferred[bool]:
        return self._decide(lambda: self._memory.record_answer(call_id, dialog, now))

    def settle(self, call_id: str, outcome: Outcome, *, charge: bool) -> Deferred[bool]:
        refusal = self._refusal(2 * self._max_waiting)
        if refusal is not None:
            return fail(refusal)
        if call_id not in self._memory.live:
            return self._read(lambda: self._archive.was_settled(call_id, outcome, charge))
        try:
            change = self._memory.settle(call_id, outcome, charge=charge)
        except ValueError as error:
            return fail(error)
        return self._keep(change, partial(self.settle, call_id, outcome, charge=charge))

    def unfinished(self) -> Deferred[Sequence[CallRecord]]:
        return self._read(self._archive.unfinished)

    def find_call(self, call_id: str) -> Deferred[CallRecord | None]:
        return self._read(lambda: self._archive.find(call_id))

    def calls(
        self, wanted: CallFilter, *, most: int = 50, before: str = ""
    ) -> Deferred[tuple[Sequence[CallRecord], str]]:
        """Answer with what is on disk; a thread of its own looks, so that nothing small waits behind it."""
        if self._lock is None:
            return fail(StoreUnavailable("the store is not open"))
        if self._searcher is None:
            self._searcher = self._runner(self._reactor, "calledin store search")
        searching = self._searcher.run(lambda: self._searches.calls(wanted, max(1, most), before))
        return searching.addErrback(self._not_read)

    def find_idempotent(self, token: str, now: float) -> Deferred[CallRecord | None]:
        """Answer with what is on disk."""
        return self._read(lambda: self._archive.find_idempotent(token, now))

    # callbacks

    def pending_callbacks(self) -> Deferred[Sequence[PendingCallback]]:
        return self._read(self._archive.pending_callbacks)

    def callback_delivered(self, call_id: str, tries: int, now: float) -> Deferred[bool]:
        return self._decide(lambda: self._memory.finish_callback(call_id, State.DELIVERED, tries, None))

    def callback_exhausted(self, call_id: str, tries: int, now: float) -> Deferred[bool]:
        return self._decide(lambda: self._memory.finish_callback(call_id, State.EXHAUSTED, tries, None))

    def callback_postponed(self, call_id: str, tries: int, due_at: float) -> Deferred[bool]:
        return self._decide(lambda: self._memory.finish_callback(call_id, State.DONE, tries, due_at))

    def callback_again(self, call_id: str, due_at: float) -> Deferred[bool]:
        return self._decide(lambda: self._memory.callback_again(call_id, due_at))

    # what time brings

    def purge(self, before: float, *, most: int = 1000) -> Deferred[int]:
        """Fails with `StoreUnavailable` when the disk does; what was purged until then stays so.

        A hundred at a time, each among the changes that have gathered, so that nobody waits longer than for these.
        """
        return Deferred.fromCoroutine(self._purge(before, most))

    async def _purge(self, before: float, most: int) -> int:
        count = 0
        for start in range(0, most, PURGE_CHUNK):
            gone = await self._decide(partial(self._memory.purge, before, min(PURGE_CHUNK, most - start)))
            count += gone
            if not gone:
                break
        return count

    # figures

    def totals(self) -> Deferred[Totals]:
        return succeed(self._memory.totals())

    # backups

    def copy_into(self, path: Path) -> Deferred[None]:
        """Write what is on disk at one moment into a new file, while changes go on. Fails as `copy_database` does."""
        copier = self._runner(self._reactor, "calledin store copy")

        def over(result: T) -> T:
            copier.stop()
            return result

        return copier.run(lambda: copy_database(self._path, path)).addBoth(over)


def lock_folder(folder: Path) -> int:
    """Make the folder, and hold it against other processes. Raises `StoreUnavailable`, OSError."""
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
        _keep_name(folder)
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StoreUnavailable(f"another process has the store in {folder} open; stop that one first") from None
    except OSError:
        os.close(lock)
        raise
    return lock


def _keep_name(folder: Path) -> None:
    """Have the folder's own entry outlive a power cut; SQLite sees to what is in it."""
    parent = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
