"""The file of the embedded store: SQLite, one transaction for each group of changes.

WAL with `synchronous=FULL`: COMMIT returns when the group is on stable storage, and a kill or a power cut at
any moment leaves the file as it was after the last COMMIT that returned (or, at most, the next).

A group is told to SQLite in one statement for each kind of change, its rows as one JSON array, however many
there are. It isn't only faster: each statement gives up Python's lock and must win it back from a busy
reactor, which may take milliseconds each time.

What is over is deleted by the age of calls and of the ledger's rows, some of it in a group. The pages that come free
so are those of what follows: as calls and rows come in the order of their time, whole pages do. So the file grows to
what the busiest `retention` took and stays there; it isn't made smaller, which would mean to move pages about
(and `auto_vacuum` would have each commit write a map of them). Who wants the room back makes a backup, which has
no free pages, and restores it.

All of this blocks, so it runs in threads: `Disk` in that of the writer, `Archive` in that of the reader.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from calledind.compact import dump
from calledind.crash import crash_at
from calledind.model import CallRecord, Outcome, PendingCallback, State
from calledind.store import listings, search
from calledind.store.do_not_call import encode
from calledind.store.interface import (
    FLOOD_SECONDS,
    IDEMPOTENCY_SECONDS,
    CallFilter,
    LedgerEntry,
    StoreUnavailable,
)
from calledind.store.memory import Account, Change, Kind, Live, Loaded, Mark
from calledind.store.rows import (
    ENTRIES,
    PENDING,
    RECORDS,
    from_answer,
    from_attempt,
    to_answer,
    to_attempt,
    to_call,
    to_entry,
    to_outcome,
    to_pending,
    to_record,
)

SCHEMA = 5
CHANGES = {
    1: """ALTER TABLE api_key ADD COLUMN caller_ids TEXT NOT NULL DEFAULT '[]';
        ALTER TABLE api_key ADD COLUMN attestation TEXT NOT NULL DEFAULT '';""",
    2: """ALTER TABLE do_not_call RENAME TO do_not_call_2;
        CREATE TABLE do_not_call (place INTEGER PRIMARY KEY, listed INTEGER NOT NULL, numbers BLOB NOT NULL);
        INSERT INTO do_not_call (listed, numbers) SELECT 1, packed(number) FROM do_not_call_2 GROUP BY number / 1000000;
        DROP TABLE do_not_call_2;""",
    3: """ALTER TABLE call ADD COLUMN ended_at REAL;
        UPDATE call SET ended_at = outcome -> 'ending' ->> 'ended_at' WHERE outcome IS NOT NULL;
        CREATE INDEX call_over ON call (ended_at) WHERE state IN ('delivered', 'exhausted');
        CREATE TABLE ledger (place INTEGER PRIMARY KEY, key_id TEXT NOT NULL, amount INTEGER NOT NULL,
            reason TEXT NOT NULL, reference TEXT NOT NULL, at REAL NOT NULL, balance INTEGER NOT NULL);
        CREATE INDEX ledger_of_key ON ledger (key_id, place);
        CREATE INDEX ledger_by_age ON ledger (at);""",
    4: """CREATE INDEX call_of_key ON call (key_id, id);
        CREATE INDEX call_idempotent ON call (substr(request ->> 'idempotency', 1, 32))
            WHERE substr(request ->> 'idempotency', 1, 32) > '';""",
}
"Schema -> what makes the next one of it."
UNFINISHED = (State.ACCEPTED, State.DIALING, State.ANSWERED)
ENDED = (State.DONE, State.DELIVERED, State.EXHAUSTED)

Connect = Callable[[Path], sqlite3.Connection]


class Repeated(Exception):
    """The group would accept calls that are in the file already: `call_ids`. Nothing was changed."""

    def __init__(self, call_ids: Sequence[str]) -> None:
        super().__init__(call_ids)
        self.call_ids = call_ids


def connect(path: Path) -> sqlite3.Connection:
    """Open the database in autocommit mode: transactions are begun and ended by statements of ours."""
    return sqlite3.connect(path, isolation_level=None, timeout=5.0)


def explain(error: BaseException | None, path: Path) -> str:
    """Say what an operator can do about it."""
    text = str(error)
    if "full" in text or "No space" in text:
        return f"the disk of {path} is full; make room, and calls are taken again by themselves"
    if "not a database" in text or "malformed" in text:
        return f"{path} is damaged ({text}); put back a copy of the folder, or move it away to begin anew"
    if "readonly" in text or "Permission" in text or "unable to open" in text:
        return f"{path} can't be opened for writing ({text}); check the owner and the rights of its folder"
    return f"{path} can't be written ({type(error).__name__}: {text}); it is tried again every two seconds"


ACCEPT = """INSERT INTO call (id, key_id, state, request)
    SELECT row.value ->> 0, row.value ->> 1, 'accepted', row.value -> 2 FROM json_each(?) AS row"""
BEGIN = """UPDATE call SET state = 'dialing', attempt = row.value -> 1 FROM json_each(?) AS row
    WHERE call.id = row.value ->> 0"""
ANSWER = """UPDATE call SET state = 'answered', answer = row.value -> 1 FROM json_each(?) AS row
    WHERE call.id = row.value ->> 0"""
SETTLE = """UPDATE call SET state = row.value ->> 1, outcome = row.value -> 2, charged = row.value ->> 3,
    due_at = row.value ->> 4, ended_at = row.value ->> 5 FROM json_each(?) AS row WHERE call.id = row.value ->> 0"""
CALLBACK = """UPDATE call SET state = row.value ->> 1, tries = row.value ->> 2, due_at = row.value ->> 3
    FROM json_each(?) AS row WHERE call.id = row.value ->> 0"""
BOOKS = """UPDATE api_key SET credits = credits + (row.value ->> 1), held = held + (row.value ->> 2),
    charged = charged + (row.value ->> 3), added = added + (row.value ->> 4)
    FROM json_each(?) AS row WHERE api_key.id = row.value ->> 0"""
ENTER = """INSERT INTO ledger SELECT row.value ->> 0, row.value ->> 1, row.value ->> 2, row.value ->> 3,
    row.value ->> 4, row.value ->> 5, row.value ->> 6 FROM json_each(?) AS row"""
ADD_KEY = "INSERT INTO api_key VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
DISABLE = "UPDATE api_key SET disabled = ? WHERE id = ?"
IDENTIFY = "UPDATE api_key SET caller_ids = ?, attestation = ? WHERE id = ?"
RESTORE = """UPDATE call SET state = ?, attempt = ?, answer = ?, outcome = NULL, charged = NULL, due_at = NULL,
    ended_at = NULL WHERE id = ?"""
KNOWN = "SELECT json_group_array(id) FROM call WHERE id IN (SELECT value FROM json_each(?))"
CALLBACKS = """SELECT json_group_array(json_array(id, request ->> 'callback_url' IS NOT NULL, state, tries, due_at))
    FROM call WHERE id IN (SELECT value FROM json_each(?))"""
OVER = """SELECT json_group_array(number), COUNT(*) FILTER (WHERE state = 'delivered'), COUNT(*) FROM
    (SELECT number, state FROM call WHERE state IN ('delivered', 'exhausted') AND ended_at < ?
    ORDER BY ended_at LIMIT ?)"""
FORGET = "DELETE FROM call WHERE number IN (SELECT value FROM json_each(?))"
FORGET_ENTRIES = "DELETE FROM ledger WHERE place IN (SELECT place FROM ledger WHERE at < ? ORDER BY at LIMIT ?)"
IDEMPOTENT = """WHERE substr(request ->> 'idempotency', 1, 32) = ? AND substr(request ->> 'idempotency', 1, 32) > ''
    AND request ->> 'accepted_at' > ? ORDER BY number DESC LIMIT 1"""
STRIKE = "DELETE FROM ledger WHERE place IN (SELECT value FROM json_each(?))"


class Disk:
    """Writes. Everything raises `sqlite3.Error` or `OSError` as it comes, `open` also `StoreUnavailable`."""

    def __init__(self, path: Path, connect: Connect = connect) -> None:
        self._path = path
        self._connect = connect
        self._database: sqlite3.Connection | None = None
        self._commits = 0
        "Of the file, the last time it was certain."
        self._doubtful: Sequence[Change] = ()
        "Of a commit that failed, when not even this could be found out: whether it reached the file."

    def open(self) -> Loaded:
        """Make the file where there is none, check its schema, and read what memory needs."""
        # SQLite gives its other files the rights of this one.
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        database = self._connection()
        check_schema(database, self._path)
        self._commits = _commits(database)
        accounts = {account.id: account for account in _accounts(database)}
        return Loaded(
            accounts=list(accounts.values()),
            live=dict(_live(database, accounts)),
            marks=_marks(database),
            counts=_counts(database),
            numbers=listings.read(database),
            last_place=database.execute("SELECT COALESCE(MAX(place), 0) FROM ledger").fetchone()[0],
        )

    def write(self, changes: Sequence[Change]) -> None:
        """Keep all of the changes, or raise and keep none. Raises `Repeated`, `sqlite3.Error`, OSError."""
        database = self._connection()
        try:
            database.execute("BEGIN IMMEDIATE")
            _tell(database, changes)
            database.execute("UPDATE commits SET number = number + 1")
            crash_at("disk.written")
            database.execute("COMMIT")
            crash_at("disk.committed")
        except Repeated:
            database.execute("ROLLBACK")
            raise
        except BaseException:
            self._abandon()
            if not self._arrived():
                self._doubtful = changes
                raise
        self._commits += 1

    def probe(self) -> list[Change]:
        """Find out whether changes could be kept again, after `write` has failed.

        When the failed group turns out to have reached the file, it is taken back there, as it was in memory:
        its askers were told that nothing happened. When not, this commit takes its place in the log, where a
        restart might have found it.

        Returns what stands all the same: what was purged stays so.
        """
        database = self._connection()
        arrived = _commits(database) - self._commits
        if arrived == 0:
            self._doubtful = ()
        try:
            database.execute("BEGIN IMMEDIATE")
            if arrived == 1:
                _take_back(database, self._doubtful)
            database.execute("UPDATE commits SET number = number + 1")
            database.execute("COMMIT")
        except BaseException:
            self._abandon()
            raise
        self._commits += arrived + 1
        standing = [change for change in self._doubtful if change.kind is Kind.PURGE]
        self._doubtful = ()
        return standing

    def close(self) -> None:
        if self._database is not None:
            database, self._database = self._database, None
            database.close()

    def _connection(self) -> sqlite3.Connection:
        if self._database is None:
            database = self._connect(self._path)
            try:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = FULL")
                # What is changed was added lately; a large cache would only grow with the file.
                database.execute("PRAGMA cache_size = -8192")
                database.execute("PRAGMA journal_size_limit = 67108864")
            except BaseException:
                database.close()
                raise
            self._database = database
        return self._database

    def _abandon(self) -> None:
        """Let go of a connection whose last words failed: file descriptors may have lost an error of theirs."""
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            with suppress(sqlite3.Error):
                self.close()

    def _arrived(self) -> bool:
        """Whether a commit that failed is in the file all the same; False also where the file can't be read."""
        try:
            return _commits(self._connection()) == self._commits + 1
        except (sqlite3.Error, OSError):
            return False


class Archive:
    """Reads what memory doesn't hold, beside the writer and never waiting for it."""

    def __init__(self, path: Path, connect: Connect = connect) -> None:
        self._path = path
        self._connect = connect
        self._database: sqlite3.Connection | None = None

    def find(self, call_id: str) -> CallRecord | None:
        row = self._rows(RECORDS + "WHERE id = ?", call_id).fetchone()
        return None if row is None else to_record(row)

    def unfinished(self) -> list[CallRecord]:
        query = RECORDS + "WHERE state IN (?, ?, ?) ORDER BY number"
        return [to_record(row) for row in self._rows(query, *UNFINISHED)]

    def pending_callbacks(self) -> list[PendingCallback]:
        query = PENDING + "WHERE state = 'done' ORDER BY due_at, number"
        return [to_pending(row) for row in self._rows(query)]

    def was_settled(self, call_id: str, outcome: Outcome, charge: bool) -> bool:
        """Whether the call ended just so."""
        row = self._rows("SELECT outcome, charged FROM call WHERE id = ?", call_id).fetchone()
        return row is not None and row[0] is not None and (to_outcome(row[0]), bool(row[1])) == (outcome, charge)

    def ledger(self, key_id: str, most: int, before: int) -> list[LedgerEntry]:
        query = ENTRIES + "WHERE key_id = ? AND place < ? ORDER BY place DESC LIMIT ?"
        return [to_entry(row) for row in self._rows(query, key_id, before, most)]

    def is_known(self, call_id: str) -> bool:
        return self._rows("SELECT 1 FROM call WHERE id = ?", call_id).fetchone() is not None

    def calls(self, wanted: CallFilter, most: int, before: str) -> tuple[list[CallRecord], str]:
        """Look at `search.MOST_LOOKED_AT` calls at most, by an index of ids."""
        lowest, above = search.id_range(wanted, before)
        of_key = "key_id = :key AND " if wanted.key_id else ""
        condition, parameters = search.where(wanted)
        parameters |= {"lowest": lowest, "above": above, "key": wanted.key_id, "most": most + 1}
        floor = self._rows(
            f"SELECT id FROM call WHERE {of_key}id >= :lowest AND id < :above"  # noqa: S608 - nothing of it is a stranger's
            f" ORDER BY id DESC LIMIT 1 OFFSET {search.MOST_LOOKED_AT - 1}",
            **parameters,
        ).fetchone()
        if floor is not None:
            parameters["lowest"] = floor[0]
        query = f"{RECORDS}WHERE {of_key}id >= :lowest AND id < :above AND {condition} ORDER BY id DESC LIMIT :most"
        found = [to_record(row) for row in self._rows(query, **parameters)]
        if len(found) > most:
            return found[:most], found[most - 1].call.id
        return found, "" if floor is None else floor[0]

    def find_idempotent(self, token: str, now: float) -> CallRecord | None:
        row = self._rows(RECORDS + IDEMPOTENT, token, now - IDEMPOTENCY_SECONDS).fetchone()
        return None if row is None else to_record(row)

    def close(self) -> None:
        if self._database is not None:
            database, self._database = self._database, None
            database.close()

    def _rows(self, query: str, *parameters: object, **named: object) -> sqlite3.Cursor:
        if self._database is None:
            database = self._connect(self._path)
            database.execute("PRAGMA query_only = ON")
            self._database = database
        return self._database.execute(query, named or parameters)


def _tell(database: sqlite3.Connection, changes: Sequence[Change]) -> None:
    by_kind: defaultdict[Kind, list[Change]] = defaultdict(list)
    for change in changes:
        by_kind[change.kind].append(change)
    for change in by_kind[Kind.ADD_KEY]:
        database.execute(ADD_KEY, change.row)
    for change in by_kind[Kind.DISABLE]:
        database.execute(DISABLE, change.row)
    for change in by_kind[Kind.IDENTIFY]:
        database.execute(IDENTIFY, change.row)
    if accepted := by_kind[Kind.ACCEPT]:
        if known := json.loads(database.execute(KNOWN, (_ids(accepted),)).fetchone()[0]):
            raise Repeated(known)
        _execute(database, ACCEPT, (change.row for change in accepted))
    for kind, statement in ((Kind.BEGIN, BEGIN), (Kind.ANSWER, ANSWER), (Kind.SETTLE, SETTLE)):
        # The last change of a call is the one that counts: a joined UPDATE would take any of several.
        _execute(database, statement, {change.call_id: change.row for change in by_kind[kind]}.values())
    if finished := by_kind[Kind.CALLBACK]:
        _execute(database, CALLBACK, _decide_callbacks(database, finished))
    _execute(database, BOOKS, _sums(changes))
    if entries := [change.entry for change in changes if change.entry is not None]:
        database.execute(ENTER, (dump(entries),))
    for change in changes:
        # In the order they came: a number may be listed and taken off again in one group.
        if change.kind in (Kind.LIST, Kind.UNLIST):
            database.execute(listings.KEEP, (change.kind is Kind.LIST, change.row))
    for change in by_kind[Kind.PURGE]:
        _purge(database, change)


def _purge(database: sqlite3.Connection, change: Change) -> None:
    numbers, delivered, calls = database.execute(OVER, change.row).fetchone()
    if calls:
        database.execute(FORGET, (numbers,))
    entries = database.execute(FORGET_ENTRIES, change.row).rowcount
    change.answer = calls + entries
    change.before = {State.DELIVERED: delivered, State.EXHAUSTED: calls - delivered}


def _execute(database: sqlite3.Connection, statement: str, rows: Iterable[str]) -> None:
    """Run the statement once for all rows, each JSON text."""
    text = ",".join(rows)
    if text:
        database.execute(statement, (f"[{text}]",))


def _ids(changes: Iterable[Change]) -> str:
    return dump([change.call_id for change in changes])


def _decide_callbacks(database: sqlite3.Connection, finished: Sequence[Change]) -> Iterable[str]:
    """Compare and set in memory, in the order of the changes; return the rows that came out of it."""
    found = json.loads(database.execute(CALLBACKS, (_ids(finished),)).fetchone()[0])
    now = {call_id: (state, tries, due_at) for call_id, _, state, tries, due_at in found}
    wanted = {call_id for call_id, has_callback, *_ in found if has_callback}
    changed = {}
    for change in finished:
        before, after = now.get(change.call_id), change.row
        change.repeated = before == tuple(after)
        if before is not None and change.again:
            change.answer = before[0] in ENDED and change.call_id in wanted
        else:
            change.answer = change.repeated or (
                before is not None and before[0] == State.DONE and before[1] <= after[1]
            )
        if change.answer and not change.repeated:
            change.before = before
            now[change.call_id] = tuple(after)
            changed[change.call_id] = dump((change.call_id, *after))
    return changed.values()


def _sums(changes: Iterable[Change], sign: int = 1) -> Iterator[str]:
    """Add up what the group does to each key, times `sign`."""
    sums: dict[str, tuple[int, int, int, int]] = {}
    for change in changes:
        if change.books is not None:
            key_id, *figures = change.books
            before = sums.get(key_id, (0, 0, 0, 0))
            sums[key_id] = tuple(map(sum, zip(before, figures, strict=True)))  # type: ignore[assignment]
    for key_id, total in sums.items():
        yield dump((key_id, *(sign * figure for figure in total)))


def _take_back(database: sqlite3.Connection, changes: Sequence[Change]) -> None:
    """Make the file what it was before a group that reached it; memory has taken the group back already."""
    _execute(database, BOOKS, _sums(changes, -1))
    database.execute(STRIKE, (dump([change.entry[0] for change in changes if change.entry is not None]),))
    for change in reversed(changes):
        if change.live is not None:
            live = change.live
            attempt = None if live.attempt is None else dump(from_attempt(live.attempt))
            answer = None if live.answer is None else dump(from_answer(*live.answer))
            database.execute(RESTORE, (live.state, attempt, answer, change.call_id))
        elif change.kind is Kind.ACCEPT:
            database.execute("DELETE FROM call WHERE id = ?", (change.call_id,))
        elif change.kind is Kind.CALLBACK and change.before is not None:
            database.execute(
                "UPDATE call SET state = ?, tries = ?, due_at = ? WHERE id = ?", (*change.before, change.call_id)
            )
        elif change.kind is Kind.ADD_KEY:
            database.execute("DELETE FROM api_key WHERE id = ?", (change.row[0],))
        elif change.kind is Kind.DISABLE:
            database.execute(DISABLE, (not change.row[0], change.row[1]))
        elif change.kind is Kind.IDENTIFY:
            database.execute(IDENTIFY, change.before)
        elif change.kind in (Kind.LIST, Kind.UNLIST):
            database.execute(listings.KEEP, (change.kind is Kind.UNLIST, change.row))


# what is read when the store is opened


def check_schema(database: sqlite3.Connection, path: Path) -> None:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == SCHEMA:
        return
    if version > SCHEMA:
        raise StoreUnavailable(
            f"{path} was written by a newer calledin (schema {version}; this one knows {SCHEMA}): start that one"
        )
    if version in CHANGES:
        database.create_aggregate("packed", 1, listings.Packed)  # type: ignore[arg-type]
        for step in range(version, SCHEMA):
            database.executescript(f"BEGIN IMMEDIATE; {CHANGES[step]} PRAGMA user_version = {step + 1}; COMMIT;")
        return
    if version != 0 or database.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0]:
        raise StoreUnavailable(f"{path} is not a store of calledin (schema {version}): move it away to begin anew")
    schema = files("calledind.store").joinpath("schema.sql").read_text(encoding="utf-8")
    # One transaction, so that a kill leaves either nothing or a whole schema.
    database.executescript(f"BEGIN IMMEDIATE; {schema}; PRAGMA user_version = {SCHEMA}; COMMIT;")


def _commits(database: sqlite3.Connection) -> int:
    number: int = database.execute("SELECT number FROM commits").fetchone()[0]
    return number


def _accounts(database: sqlite3.Connection) -> Iterator[Account]:
    rows: Iterable[tuple[Any, ...]] = database.execute(
        """SELECT id, name, digest, credits, held, charged, added, disabled, created_at, caller_ids, attestation
        FROM api_key"""
    )
    for key_id, name, digest, credits, held, charged, added, disabled, created_at, caller_ids, attestation in rows:
        yield Account(
            key_id,
            name,
            digest,
            credits,
            held,
            charged,
            added,
            bool(disabled),
            created_at,
            tuple(json.loads(caller_ids)),
            attestation,
        )


def _live(database: sqlite3.Connection, accounts: dict[str, Account]) -> Iterator[tuple[str, Live]]:
    rows: Iterable[tuple[Any, ...]] = database.execute(
        """SELECT id, key_id, state, attempt, answer, request ->> 'callback_url' IS NOT NULL FROM call
        WHERE state IN (?, ?, ?) ORDER BY number""",
        UNFINISHED,
    )
    for call_id, key_id, state, attempt, answer, has_callback in rows:
        live = Live(accounts[key_id], bool(has_callback), State(state), to_attempt(attempt))
        dialog, answered_at = to_answer(answer)
        if dialog is not None and answered_at is not None:
            live.answer = (dialog, answered_at)
        yield call_id, live


def _marks(database: sqlite3.Connection) -> list[Mark]:
    """Find the flood marks of the last minute before the newest call."""
    marks: list[Mark] = []
    newest = None
    for (text,) in database.execute("SELECT request FROM call ORDER BY number DESC"):
        call = to_call(text)
        newest = call.accepted_at if newest is None else max(newest, call.accepted_at)
        # Calls are kept nearly in the order of their times; a minute more makes sure of it.
        if call.accepted_at < newest - 2 * FLOOD_SECONDS:
            break
        marks.append((call.accepted_at, call.id, encode(call.country_code, call.phone_number)))
    return sorted(marks)


def _counts(database: sqlite3.Connection) -> Counter[State]:
    (everything,) = database.execute("SELECT COUNT(*) FROM call").fetchone()
    rows = database.execute("SELECT state, COUNT(*) FROM call WHERE state <> 'delivered' GROUP BY state")
    counts = Counter({State(state): count for state, count in rows})
    counts[State.DELIVERED] = everything - counts.total()
    return counts
