"""All batches of this node: kept, found, gone on with after a start, counted, forgotten.

Of those that are over, what is known of their rows is on disk alone. What became of an accepted row's call is the
store's to know, and is asked for when somebody wants to see it.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred, DeferredList, FirstError
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.admission import Unavailable
from calledind.batches.files import Broken, Files, Order, Over, Row, Standing, State
from calledind.batches.journal import Journal, Thread
from calledind.batches.run import Admit, Run, Surroundings
from calledind.model import CallRecord, ReturnCode, new_call_id
from calledind.sip.timers import Timers
from calledind.store.interface import Store

T = TypeVar("T")
MOST_ROWS = 10_000
"Of a batch."
MOST_UNFINISHED_OF_KEY = 10
"Batches that run or are paused."
MOST_OF_KEY = 200
"Batches, those that are over among them."
MOST_WAITING_ROWS = 200_000
"Rows of all batches that run or are paused."
LOOKUPS_AT_ONCE = 32
"Calls that the store is asked for at the same time, for one customer's look at a batch."
COLUMNS = (
    *("row", "country_code", "phone_number", "code", "call_id", "state", "answered", "reason"),
    *("decided_at", "answered_at", "ended_at"),
)


class TooMany(Exception):
    """The key has as many batches as it may; the message says so."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a customer asks for."""

    mp3: str = field(repr=False)
    rate: float
    "Per second."
    caller_id: str = field(repr=False)
    callback_url: str | None = field(repr=False)
    rows: Sequence[Row] = field(repr=False)
    token: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What has become of the calls of a batch."""

    answered: int
    not_answered: Mapping[int, int]
    "Reason -> calls."
    running: int
    "Without an outcome yet."
    forgotten: int
    "Which the store does not know any more."


@dataclass(eq=False)
class Kept:
    """A batch that is there."""

    order: Order
    run: Run | None = None
    "Where it is not over."
    over: Over | None = None
    ended: dict[str, int | None] = field(default_factory=dict)
    "Ids of calls that are known to have ended -> their reason, None where answered."
    outcomes: Outcomes | None = None
    "Where none of them will change any more."

    @property
    def standing(self) -> Standing:
        if self.run is not None:
            return self.run.standing
        assert self.over is not None
        return Standing(self.over.state, self.over.at)

    @property
    def codes(self) -> Mapping[int, int]:
        """Code -> rows that have it."""
        if self.run is not None:
            return self.run.codes
        assert self.over is not None
        return self.over.codes

    @property
    def trouble(self) -> str:
        return "" if self.run is None else self.run.trouble


class Batches:
    """See the module's text."""

    log = Logger()

    def __init__(self, timers: Timers, thread: Thread, root: Path, *, store: Store, now: Callable[[], float]) -> None:
        """`thread`: does the work on files. `root`: their folder. `now`: seconds since the epoch."""
        self._timers = timers
        self._thread = thread
        self._files = Files(root)
        self._store = store
        self._now = now
        self._kept: dict[str, Kept] = {}
        "By id, the oldest first."
        self._creating: Counter[str] = Counter()
        "Key id -> batches that are being written."
        self._journals: dict[str, Journal] = {}
        self._surroundings: Surroundings | None = None
        "None: not started."
        self._stopped = False

    def start(self, admit: Admit) -> Deferred[None]:
        """Go on with what there is. Fails with OSError."""
        return Deferred.fromCoroutine(self._start(admit))

    async def _start(self, admit: Admit) -> None:
        for batch_id in await self._thread.run(self._files.clean):
            try:
                kept = await self._load(batch_id, admit)
            except (Broken, OSError) as error:
                self.log.error("batch {batch} can't be read, and is left alone: {error}", batch=batch_id, error=error)
                continue
            self._kept[batch_id] = kept
        self._surroundings = Surroundings(self._timers, self._store, admit, self._now)
        running = [kept.run for kept in self._kept.values() if kept.run is not None]
        for run in running:
            run.start()
        if running:
            self.log.info("batches that are gone on with, or paused: {count}", count=len(running))

    async def _load(self, batch_id: str, admit: Admit) -> Kept:
        order, over = await self._thread.run(lambda: self._files.read_order(batch_id))
        if over is not None:
            return Kept(order, over=over)
        rows, standing, size = await self._thread.run(lambda: self._files.read_rows(batch_id))
        surroundings = Surroundings(self._timers, self._store, admit, self._now)
        return self._run(order, rows, standing or Standing(State.RUNNING, order.created_at), surroundings, size)

    def _run(
        self, order: Order, rows: Sequence[Row], standing: Standing, surroundings: Surroundings, size: int = 0
    ) -> Kept:
        journal = Journal(self._timers, self._thread, self._files.journal(order.id), size)
        self._journals[order.id] = journal
        run = Run(
            order,
            rows,
            standing,
            surroundings=surroundings,
            journal=journal,
            over=lambda over: self._ended(order.id, over),
        )
        return Kept(order, run=run)

    def _ended(self, batch_id: str, over: Over) -> None:
        """A batch is over: its rows may go from memory."""
        kept = self._kept[batch_id]
        kept.run, kept.over = None, over
        self.log.info("batch {batch} is {state}", batch=batch_id, state=over.state.value)
        self._journals.pop(batch_id).close()
        self._thread.run(lambda: self._files.finish(batch_id, over)).addErrback(self._not_finished, batch_id)

    def _not_finished(self, failure: Failure, batch_id: str) -> None:
        # The journal has it all: the next start finds that it is over, and tries this again.
        self.log.warn("batch {batch}: its end can't be kept: {error}", batch=batch_id, error=failure.value)

    def stop(self) -> None:
        """Ask for no more rows; the next start goes on. What is asked for has its answer noted until `close`."""
        self._stopped = True
        for kept in self._kept.values():
            if kept.run is not None:
                kept.run.stop()

    async def close(self) -> None:
        """Let go of files and the thread."""
        self.stop()
        for journal in self._journals.values():
            await journal.close()
        self._thread.stop()

    # what customers want

    @property
    def is_open(self) -> bool:
        """Whether what there is has been read."""
        return self._surroundings is not None

    def aside(self, job: Callable[[], T]) -> Deferred[T]:
        """Have the thread do what takes a while."""
        return self._thread.run(job)

    async def create(self, key_id: str, digest: bytes, wanted: Wanted) -> Kept:
        """Keep a batch, and begin with it. Raises `TooMany`, `Unavailable`."""
        if self._surroundings is None:
            raise Unavailable("calledin is starting", 1)
        self._make_sure_of_room(key_id, len(wanted.rows))
        now = self._now()
        order = Order(
            id=new_call_id(now),
            key_id=key_id,
            digest=digest.hex(),
            mp3=wanted.mp3,
            rate=wanted.rate,
            caller_id=wanted.caller_id,
            callback_url=wanted.callback_url,
            created_at=now,
            count=len(wanted.rows),
            token=wanted.token,
            fingerprint=wanted.fingerprint,
        )
        self._creating[key_id] += 1
        try:
            await self._thread.run(lambda: self._files.create(order, wanted.rows))
        except OSError as error:
            self.log.error("a batch can't be kept: {error}", error=error)
            raise Unavailable("batches can't be kept now", 5) from None
        finally:
            self._creating -= Counter({key_id: 1})
        kept = self._run(order, wanted.rows, Standing(State.RUNNING, now), self._surroundings)
        self._kept[order.id] = kept
        self.log.info("batch {batch}: {count} numbers", batch=order.id, count=order.count)
        if kept.run is not None and not self._stopped:
            kept.run.start()
        return kept

    def _make_sure_of_room(self, key_id: str, rows: int) -> None:
        own = self.of_key(key_id)
        coming = self._creating[key_id]
        if sum(kept.run is not None for kept in own) + coming >= MOST_UNFINISHED_OF_KEY:
            raise TooMany(f"{MOST_UNFINISHED_OF_KEY} batches of this api_key run or are paused")
        if len(own) + coming >= MOST_OF_KEY:
            raise TooMany(f"{MOST_OF_KEY} batches of this api_key are kept; delete some that are over")
        waiting = sum(kept.order.count for kept in self._kept.values() if kept.run is not None)
        if waiting + rows + self._creating.total() * MOST_ROWS > MOST_WAITING_ROWS:
            raise Unavailable("too many rows of batches wait", 60)

    def find(self, key_id: str, batch_id: str) -> Kept | None:
        """Return a batch of this key; one of another is as good as none."""
        kept = self._kept.get(batch_id)
        return kept if kept is not None and kept.order.key_id == key_id else None

    def find_idempotent(self, key_id: str, token: str) -> Kept | None:
        """Return the batch that was made by a request of this name."""
        return next((kept for kept in self.of_key(key_id) if token and kept.order.token == token), None)

    def of_key(self, key_id: str) -> Sequence[Kept]:
        """Return a key's batches, the newest first."""
        return [kept for kept in reversed(self._kept.values()) if kept.order.key_id == key_id]

    async def remove(self, kept: Kept) -> None:
        """Forget a batch that is over. Raises `Unavailable`."""
        assert kept.run is None
        if self._kept.pop(kept.order.id, None) is None:
            return
        try:
            await self._thread.run(lambda: self._files.remove(kept.order.id))
        except OSError as error:
            self.log.error("batch {batch} can't be removed: {error}", batch=kept.order.id, error=error)
            self._kept[kept.order.id] = kept
            raise Unavailable("batches can't be removed now", 5) from None

    async def forget(self, before: float) -> None:
        """Remove those that were over before this moment."""
        for kept in list(self._kept.values()):
            if kept.over is not None and kept.over.at < before:
                try:
                    await self.remove(kept)
                except Unavailable:
                    return  # that was told; it is tried again the next time

    # what became of the calls

    async def outcomes(self, kept: Kept) -> Outcomes:
        """Count what has become of its calls. Raises StoreUnavailable, `Unavailable`."""
        if kept.outcomes is not None:
            return kept.outcomes
        ids = [row.call_id for row in await self._rows(kept) if row.code == ReturnCode.ACCEPTED]
        running = forgotten = 0
        for call_id, record in await self._find([each for each in ids if each not in kept.ended]):
            if record is None:
                forgotten += 1
            elif record.outcome is None:
                running += 1
            else:
                reason = record.outcome.reason
                kept.ended[call_id] = None if reason is None else int(reason)
        reasons = Counter(kept.ended.values())
        not_answered = {reason: count for reason, count in reasons.items() if reason is not None}
        found = Outcomes(reasons[None], dict(sorted(not_answered.items())), running, forgotten)
        if kept.over is not None and not running:
            kept.outcomes, kept.ended = found, {}
        return found

    async def results(self, kept: Kept) -> bytes:
        """Write a CSV with a line for each row. Raises StoreUnavailable, `Unavailable`."""
        rows = [replace(row) for row in await self._rows(kept)]
        records = dict(await self._find([row.call_id for row in rows if row.code == ReturnCode.ACCEPTED]))
        left = "waiting" if kept.over is None else kept.over.state.value
        return await self._thread.run(lambda: write_results(rows, records, left))

    async def _rows(self, kept: Kept) -> Sequence[Row]:
        if kept.run is not None:
            return kept.run.rows
        try:
            rows, _, __ = await self._thread.run(lambda: self._files.read_rows(kept.order.id))
        except (OSError, Broken) as error:
            self.log.error("batch {batch} can't be read: {error}", batch=kept.order.id, error=error)
            raise Unavailable("this batch can't be read now", 5) from None
        return rows

    async def _find(self, ids: Sequence[str]) -> Sequence[tuple[str, CallRecord | None]]:
        found: list[tuple[str, CallRecord | None]] = []
        for some in _chunks(ids):
            looking = [self._store.find_call(each) for each in some]
            answers = await DeferredList(looking, fireOnOneErrback=True, consumeErrors=True).addErrback(_unwrap)
            found += [(call_id, record) for call_id, (_, record) in zip(some, answers, strict=True)]
        return found


def _unwrap(failure: Failure) -> Failure:
    """What a list of Deferreds failed with first."""
    return failure.value.subFailure if isinstance(failure.value, FirstError) else failure


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), LOOKUPS_AT_ONCE):
        yield ids[start : start + LOOKUPS_AT_ONCE]


def write_results(rows: Sequence[Row], records: Mapping[str, CallRecord | None], left: str) -> bytes:
    """Return the CSV. `left`: the state of a row that has no code."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for number, row in enumerate(rows, 1):
        code = "" if row.code is None else row.code
        told = _call(row, records.get(row.call_id), left)
        writer.writerow((number, row.country_code, row.phone_number, code, *told))
    return text.getvalue().encode()


def _call(row: Row, record: CallRecord | None, left: str) -> Sequence[object]:
    """Return the columns from call_id on."""
    if row.code is None:
        return ("", left, "", "", "", "", "")
    decided_at = _moment(row.at)
    if row.code != ReturnCode.ACCEPTED:
        return ("", "refused", "", "", decided_at, "", "")
    if record is None:
        return (row.call_id, "forgotten", "", "", decided_at, "", "")
    outcome, state = record.outcome, record.state.value
    if outcome is None:
        return (row.call_id, state, "", "", decided_at, _moment(record.answered_at), "")
    ending, reason = outcome.ending, "" if outcome.reason is None else int(outcome.reason)
    times = (decided_at, _moment(ending.answered_at), _moment(ending.ended_at))
    return (row.call_id, state, int(outcome.answered), reason, *times)


def _moment(at: float | None) -> str:
    """As RFC 3339 has it, in UTC."""
    if at is None:
        return ""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
