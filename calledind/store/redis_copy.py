"""What is in Redis as a file of the embedded store, and back.

**From Redis, while all nodes go on.** Nobody is held up: neither CLIENT PAUSE nor one long script, each of which would
cost a second at a hundred thousand waiting calls. The copy is of one moment for each key all the same, and a key's
books and calls have to do with nothing but each other:

1. The keys are read, some hundred in one script: of each its row and, in the same step, the place of the last entry in
   its ledger. That is the key's moment.
2. The calls are read, each whole, at leisure. What a key's moment knows of is all there: it was before this began.
3. The ledgers are read behind those places. What they say was after the moment, and is undone in the copy: a call that
   was accepted then is left out, one that was settled then is not settled. Of one that was withdrawn nothing is left
   to go back to: its credit is given back in the copy as well.

    key        row and place 7      ·            ·
    ledger   … 6 held c1   7 held c2  8 held c3  9 charged c1
    calls                                  c1 (over)  c2   c3         → c1 answered, c2 accepted; c3 is left out

What has no part in the books is as new as it was when it was read: a later attempt, a callback that was delivered.

The rest (ledgers up to the place, DoNotCall list) is only ever added to. A failover in the midst of it may take back
what was read: a lost connection fails the copy.

**To Redis, without any node.** Everything is read from the file in its order and put there by scripts, as nobody's;
nodes take it over when they join. As long as that goes on, a mark stands there which no node accepts and which tells
the next try to clear what there is.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from twisted.internet.defer import FirstError, gatherResults

from calledind.codecs import CODECS
from calledind.compact import dump
from calledind.model import Call, State
from calledind.store import listings
from calledind.store.backup import Figures, read_figures
from calledind.store.disk import check_schema, connect
from calledind.store.do_not_call import encode
from calledind.store.interface import FLOOD_SECONDS, Route, StoreUnavailable
from calledind.store.redis_base import scripts, text_of
from calledind.store.redis_link import RedisLink
from calledind.store.redis_schema import SCHEMA
from calledind.store.rows import to_call
from calledind.store.worker import FromThread, Worker

T = TypeVar("T")

KEY_CHUNK = 200
CALL_CHUNK = 100
"Calls read or put there by one script, a millisecond or two of Redis's work."
SCAN_CHUNK = 1000
LEDGERS = 20
"Ledgers read at a time."
LEDGER_CHUNK = 500
"Entries of ledgers read at a time, of all of those together."
NUMBER_CHUNK = 1000
AT_ONCE = 50
"Commands on their way."

PARTS = re.compile(
    r"(keys|digests|ledgers|floods|dnc|counts|lines|parked|withdrawn|waiting|pace|ended|common|loading|calls|queue)"
    r"|(key|ledger|calls?|again|dnc|ring|line|busy|audio|owned|fresh|pending|grants|token):.*",
    re.DOTALL,
)
"""What comes after the prefix in the names of what is cleared. Epochs stay, so that no owner of before is one again;
and what is somebody else's, whose prefix begins as ours does. `queue` is of schema 1."""

Progress = Callable[[str, int], None]
"What is dealt with, and how many of it were just now."


def no_progress(what: str, count: int) -> None:
    """Nobody looks on."""


# from Redis


async def copy_into_file(
    reactor: FromThread, link: RedisLink, prefix: str, path: Path, progress: Progress = no_progress
) -> None:
    """Write what is in Redis into an empty file, of the embedded store's schema.

    Raises StoreUnavailable, OSError, sqlite3.Error.
    """
    worker = Worker(reactor, "calledin store copy")
    file = _File(path)
    source = Source(link, prefix)
    try:
        await worker.run(file.open)
        connection = await link.bulk("CLIENT", "ID")
        moments: dict[bytes, bytes] = {}
        async for rows in source.keys():
            moments.update((row[0], row[-1]) for row in rows)
            await worker.run(lambda rows=rows: file.add_keys(rows))  # type: ignore[misc]
            progress("keys", len(rows))
        async for text in source.calls():
            progress("calls", await worker.run(lambda text=text: file.add_calls(text)))  # type: ignore[misc]
        for ids in chunks(list(moments), LEDGERS):
            await source.copy_ledgers(worker, file.add_later, {key: b"(" + moments[key] for key in ids})
        # What was withdrawn may have been read before.
        for released in chunks(await worker.run(file.released), AT_ONCE):
            there = await gather(link.bulk("EXISTS", f"{prefix}call:{call_id}") for call_id in released)
            gone = [call_id for call_id, is_there in zip(released, there, strict=True) if not is_there]
            await worker.run(lambda gone=gone: file.remove(gone))  # type: ignore[misc]
        for ids in chunks(list(moments), LEDGERS):
            beginnings = dict.fromkeys(ids, b"-")
            progress("ledger", await source.copy_ledgers(worker, file.add_ledger, beginnings, moments))
        async for numbers in source.do_not_call():
            await worker.run(lambda numbers=numbers: file.add_numbers(numbers))  # type: ignore[misc]
            progress("do_not_call", len(numbers))
        if await link.bulk("CLIENT", "ID") != connection:
            raise StoreUnavailable("the connection to Redis was lost while the store was copied; try again")
        await worker.run(file.finish)
    finally:
        worker.run(file.close)
        worker.stop()


class Source:
    """Reads what is in Redis, a little at a time."""

    def __init__(self, link: RedisLink, prefix: str) -> None:
        self._link = link
        self._prefix = prefix
        self._scripts = scripts()

    async def keys(self) -> AsyncIterator[list[Any]]:
        """Give the rows of copy_keys.lua."""
        for ids in chunks(await self._link.bulk("ZRANGE", self._prefix + "keys", 0, -1), KEY_CHUNK):
            yield await self._run("copy_keys", *ids)

    async def calls(self) -> AsyncIterator[bytes]:
        """Give what copy_calls.lua answers; some may come twice, later states later."""
        async for names in self._call_names():
            for some in chunks(names, CALL_CHUNK):
                ids = [name[len(self._prefix.encode()) + 5 :] for name in some]
                yield await self._run("copy_calls", *ids)

    async def states(self) -> AsyncIterator[dict[State, int]]:
        """Count some of the calls after others by their states, each call once."""
        ids = {name[len(self._prefix.encode()) + 5 :] async for names in self._call_names() for name in names}
        for some in chunks(list(ids), SCAN_CHUNK):
            counts = await self._run("count_calls", *some)
            yield {State(state.decode()): count for state, count in zip(counts[::2], counts[1::2], strict=True)}

    def _call_names(self) -> AsyncIterator[list[bytes]]:
        return scan(self._link, self._prefix + "call:")

    async def copy_ledgers(
        self,
        worker: Worker,
        add: Callable[[Sequence[bytes], bytes], list[tuple[int, bytes]]],
        after: Mapping[bytes, bytes],
        until: Mapping[bytes, bytes] | None = None,
    ) -> int:
        """Hand on the entries of some ledgers, key id -> from which place, and the last one; return how many."""
        count, lines = 0, dict(after)
        while lines:
            ids = tuple(lines)
            most = LEDGER_CHUNK // len(ids)
            asked = [part for key in ids for part in (key, lines[key], b"+" if until is None else until[key])]
            text = await self._run("copy_ledgers", most, *asked)
            for key, (some, last) in zip(ids, await worker.run(partial(add, ids, text)), strict=True):
                count += some
                lines[key] = b"(" + last
                if some < most:
                    del lines[key]
        return count

    async def do_not_call(self) -> AsyncIterator[NDArray[np.int64]]:
        """Give the list in order, in chunks of any size."""
        starts = set()
        cursor: bytes | int = 0
        while cursor != b"0":
            cursor, some = await self._link.bulk("SSCAN", self._prefix + "dnc", cursor, "COUNT", SCAN_CHUNK)
            starts |= {int(start) for start in some}
        for chunk in chunks(sorted(starts), KEY_CHUNK):
            texts = await self._run("listed_numbers", *chunk)
            for start, text in zip(chunk, texts, strict=True):
                ends = np.array(text.split(), dtype=np.int64)
                ends.sort()
                yield ends + start * 10_000

    async def audio(self, name: str) -> dict[str, bytes]:
        """Return what is kept of an MP3, codec -> octets."""
        parts = await self._link.bulk("HGETALL", f"{self._prefix}audio:{name}")
        return {codec.decode(): octets for codec, octets in zip(parts[::2], parts[1::2], strict=True)}

    def _run(self, script: str, *args: Any) -> Any:
        return self._link.bulk("EVAL", self._scripts[script], 1, self._prefix, *args)


class _File:
    """A file of the embedded store that comes about. Used in one thread; what is to be put in order waits beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_name(path.name + ".unordered")
        self._database: sqlite3.Connection | None = None
        self._numbers: list[NDArray[np.int64]] = []
        self._keys: set[str] = set()

    def open(self) -> None:
        self._beside.unlink(missing_ok=True)
        database = connect(self._path)
        self._database = database
        # It is worth nothing until it is whole.
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA journal_mode = OFF")
        check_schema(database, self._path)
        database.execute("ATTACH DATABASE ? AS beside", (str(self._beside),))
        database.execute("PRAGMA beside.journal_mode = OFF")
        database.executescript(
            """CREATE TABLE beside.call (
                accepted_at REAL, id TEXT, key_id TEXT, state TEXT, request TEXT, attempt TEXT, answer TEXT,
                outcome TEXT, charged INTEGER, tries INTEGER, due_at REAL, ended_at REAL, PRIMARY KEY (accepted_at, id)
            ) WITHOUT ROWID;
            CREATE TABLE beside.ledger (
                millisecond INTEGER, number INTEGER, key_id TEXT, amount INTEGER, reason TEXT, reference TEXT, at REAL,
                balance INTEGER, PRIMARY KEY (millisecond, number, key_id)
            ) WITHOUT ROWID;
            CREATE TABLE beside.later (
                key_id TEXT, amount INTEGER, reason TEXT, reference TEXT, at REAL, balance INTEGER
            );"""
        )

    def add_keys(self, rows: Iterable[Sequence[bytes]]) -> None:
        def read() -> Iterator[tuple[Any, ...]]:
            for key_id, digest, name, *figures, disabled, created_at, caller_ids, attestation, _ in rows:
                self._keys.add(key_id.decode())
                yield (
                    key_id.decode(),
                    digest,
                    name.decode(),
                    *map(int, figures),
                    int(disabled),
                    float(created_at),
                    caller_ids.decode(),
                    attestation.decode(),
                )

        self._write("INSERT INTO main.api_key VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", read())

    def add_calls(self, text: bytes) -> int:
        """Take what copy_calls.lua answers; return how many they are."""
        rows = json.loads(text)

        def read() -> Iterator[tuple[Any, ...]]:
            for request, state, *others in rows:
                attempt, answer, outcome, charged, tries, due_at = (value or None for value in others)
                call = json.loads(request)
                # Of a key that was made after the keys were read, nothing is in the copy.
                if call["key_id"] in self._keys:
                    ended_at = None if outcome is None else json.loads(outcome)["ending"]["ended_at"]
                    about = request, attempt, answer, outcome, charged, int(tries or 0), due_at, ended_at
                    yield call["accepted_at"], call["id"], call["key_id"], state, *about

        self._write("INSERT OR REPLACE INTO beside.call VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", read())
        return len(rows)

    def add_ledger(self, key_ids: Sequence[bytes], text: bytes) -> list[tuple[int, bytes]]:
        """Take what copy_ledgers.lua answers; return how many entries each key has there, and the last one's place."""
        ledgers = json.loads(text)
        rows = (
            (*map(int, place.split("-")), key_id.decode(), *_entry(fields))
            for key_id, entries in zip(key_ids, ledgers, strict=True)
            for place, fields in entries
        )
        self._write("INSERT OR REPLACE INTO beside.ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        return _ends(ledgers)

    def add_later(self, key_ids: Sequence[bytes], text: bytes) -> list[tuple[int, bytes]]:
        """Take what ledgers say of what was after their keys' moments; return as `add_ledger` does."""
        ledgers = json.loads(text)
        rows = (
            (key_id.decode(), *_entry(fields))
            for key_id, entries in zip(key_ids, ledgers, strict=True)
            for _, fields in entries
        )
        self._write("INSERT INTO beside.later VALUES (?, ?, ?, ?, ?, ?)", rows)
        return _ends(ledgers)

    def released(self) -> list[str]:
        """Return the ids of calls that gave their credit back after their key's moment."""
        rows = self._opened().execute("SELECT DISTINCT reference FROM beside.later WHERE reason = 'released'")
        return [call_id for (call_id,) in rows]

    def remove(self, call_ids: Iterable[str]) -> None:
        self._write("DELETE FROM beside.call WHERE id = ?", ((call_id,) for call_id in call_ids))

    def add_numbers(self, numbers: NDArray[np.int64]) -> None:
        self._numbers.append(numbers)

    def finish(self) -> None:
        """Put all in order, and undo what was later than the keys' moments."""
        database = self._opened()
        database.execute("BEGIN")
        database.execute(
            """INSERT INTO main.call (id, key_id, state, request, attempt, answer, outcome, charged, tries, due_at,
                ended_at) SELECT id, key_id, state, request, attempt, answer, outcome, charged, tries, due_at, ended_at
                FROM beside.call ORDER BY accepted_at, id"""
        )
        database.execute(
            """INSERT INTO main.ledger (key_id, amount, reason, reference, at, balance)
                SELECT key_id, amount, reason, reference, at, balance FROM beside.ledger
                ORDER BY millisecond, number, key_id"""
        )
        self._undo(database)
        if self._numbers:
            numbers = np.concatenate(self._numbers)
            for start in range(0, len(numbers), listings.ROW):
                database.execute(listings.KEEP, (True, listings.pack(numbers[start : start + listings.ROW])))
        database.execute("COMMIT")

    def _undo(self, database: sqlite3.Connection) -> None:
        database.execute("DELETE FROM main.call WHERE id IN (SELECT reference FROM beside.later WHERE reason = 'held')")
        database.execute(
            """UPDATE main.call SET outcome = NULL, charged = NULL, tries = 0, due_at = NULL, ended_at = NULL,
                state = CASE WHEN answer IS NOT NULL THEN 'answered' WHEN attempt IS NOT NULL THEN 'dialing'
                ELSE 'accepted' END
                WHERE id IN (SELECT reference FROM beside.later WHERE reason IN ('released', 'charged'))"""
        )
        # What was withdrawn is in the key's row, and nowhere else.
        gone = database.execute(
            """SELECT key_id, amount, reason, reference, at FROM beside.later WHERE reason IN ('released', 'charged')
                AND reference NOT IN (SELECT reference FROM beside.later WHERE reason = 'held')
                AND reference NOT IN (SELECT id FROM main.call)"""
        ).fetchall()
        for key_id, amount, reason, reference, at in gone:
            (balance,) = database.execute(
                """UPDATE main.api_key SET held = held - 1, credits = credits + ?, charged = charged + ? WHERE id = ?
                    RETURNING credits""",
                (amount, int(reason == "charged"), key_id),
            ).fetchone()
            database.execute(
                "INSERT INTO main.ledger (key_id, amount, reason, reference, at, balance) VALUES (?, ?, ?, ?, ?, ?)",
                (key_id, amount, reason, reference, at, balance),
            )

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
        self._beside.unlink(missing_ok=True)

    def _write(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        database = self._opened()
        database.execute("BEGIN")
        database.executemany(statement, rows)
        database.execute("COMMIT")

    def _opened(self) -> sqlite3.Connection:
        assert self._database is not None
        return self._database


def _entry(fields: Sequence[str]) -> tuple[int, str, str, float, int]:
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    return int(values["amount"]), values["reason"], values["reference"], float(values["at"]), int(values["balance"])


def _ends(ledgers: Sequence[Sequence[Any]]) -> list[tuple[int, bytes]]:
    return [(len(entries), entries[-1][0].encode() if entries else b"0-0") for entries in ledgers]


# to Redis


class Occupied(Exception):
    """There is a store already below the prefix."""


class Target:
    """Puts what is in a file of the embedded store into Redis, on which no node may be working."""

    def __init__(self, link: RedisLink, prefix: str) -> None:
        self._link = link
        self._prefix = prefix
        self._scripts = scripts()

    async def make_ready(self, *, force: bool) -> None:
        """See that nothing is there, and set the mark. Raises Occupied, StoreUnavailable.

        `force`: what is there is cleared. What an earlier try has put there always is.
        """
        begun = await self._link.bulk("EXISTS", self._prefix + "loading")
        names = [self._prefix + name for name in ("keys", "digests", "dnc", "calls", "ended", "counts", "ledgers")]
        if not begun and not force and await self._link.bulk("EXISTS", *names):
            raise Occupied(f"there is a store in Redis already below {self._prefix!r}")
        await self._link.bulk("SET", self._prefix + "loading", 1)
        await self._clear()
        await self._link.bulk("SET", self._prefix + "loading", 1)

    async def _clear(self) -> None:
        prefix = self._prefix.encode()
        async for names in scan(self._link, self._prefix):
            ours = [name for name in names if PARTS.fullmatch(name[len(prefix) :].decode("utf-8", "replace"))]
            if ours:
                await self._link.bulk("UNLINK", *ours)

    async def load(self, path: Path, route_of: Callable[[Call], Route], progress: Progress = no_progress) -> None:
        """Put everything there but the audio. `route_of`: the trunks that a waiting call waits for."""
        with closing(connect(path)) as database:
            database.execute("PRAGMA query_only = ON")
            await self._load(database, "load_keys", KEYS, KEY_CHUNK, _key_row, "keys", progress)
            await self._load(database, "load_ledger", LEDGER, CALL_CHUNK, _ledger_row, "ledger", progress)

            def row_of(row: Sequence[Any]) -> Sequence[Any]:
                return _call_row(row, route_of)

            await self._load(database, "load_calls", CALLS, CALL_CHUNK, row_of, "calls", progress)
            marks = flood_marks(database)
            for chunk in chunks(list(marks.items()), NUMBER_CHUNK):
                scores = [part for number, at in chunk for part in (dump(at), number)]
                await self._link.bulk("ZADD", self._prefix + "floods", *scores)
            numbers = listings.listed(database)
            for start in range(0, len(numbers), NUMBER_CHUNK):
                some = numbers[start : start + NUMBER_CHUNK].tolist()
                await self._run("list_numbers", "SADD", *some)
                progress("do_not_call", len(some))

    async def _load(
        self,
        database: sqlite3.Connection,
        script: str,
        query: str,
        size: int,
        row_of: Callable[[Sequence[Any]], Sequence[Any]],
        what: str,
        progress: Progress,
    ) -> None:
        rows = iter(database.execute(query))
        while chunk := list(islice(rows, size)):
            parts = [_part(value) for row in chunk for value in row_of(row)]
            await self._run(script, *parts)
            progress(what, len(chunk))

    async def keep_audio(self, name: str, encodings: dict[str, bytes], seconds: float) -> None:
        parts = [part for pair in encodings.items() for part in pair]
        await self._run("keep_audio", name, max(1, int(seconds)), *parts)

    async def finish(self, *, replicas: int, pepper: str = "") -> None:
        """Take the mark away: nodes may come. Raises StoreUnavailable where too few replicas have it all.

        `pepper`: the fingerprint of the one that the nodes must have; empty: the first one's.
        """
        if pepper:
            await self._link.bulk("HSET", self._prefix + "common", "pepper", pepper)
        if replicas and await self._link.bulk("WAIT", replicas, 60_000, timeout=90.0) < replicas:
            raise StoreUnavailable(f"not all of the {replicas} replicas have what was put into Redis; try again")
        await self._link.bulk("SET", self._prefix + "schema", SCHEMA)
        await self._link.bulk("DEL", self._prefix + "loading")
        if replicas:
            await self._link.bulk("WAIT", replicas, 10_000, timeout=20.0)

    def _run(self, script: str, *args: Any) -> Any:
        return self._link.bulk("EVAL", self._scripts[script], 1, self._prefix, *args, timeout=60.0)


KEYS = """SELECT id, digest, name, credits, held, charged, added, disabled, created_at, caller_ids, attestation
    FROM api_key ORDER BY created_at, id"""
LEDGER = "SELECT place, key_id, amount, reason, reference, at, balance FROM ledger ORDER BY place"
CALLS = """SELECT id, key_id, state, request, attempt, answer, outcome, charged, tries, due_at, ended_at FROM call
    ORDER BY number"""


def _key_row(row: Sequence[Any]) -> Sequence[Any]:
    return row


def _ledger_row(row: Sequence[Any]) -> Sequence[Any]:
    return row


def _call_row(row: Sequence[Any], route_of: Callable[[Call], Route]) -> Sequence[Any]:
    call_id, key_id, state, request, attempt, answer, outcome, charged, tries, due_at, ended_at = row
    call = to_call(request)
    number = None if attempt is None else json.loads(attempt)["number"]
    # A call that is being dialled may yet have to look for other trunks.
    route = text_of(route_of(call)) if state in (State.ACCEPTED, State.DIALING) else ""
    about = attempt, number, answer, outcome, charged, tries, due_at, ended_at
    return call_id, key_id, float(call.accepted_at), route, state, request, *about


def _part(value: Any) -> str | bytes | int:
    """Write a value as the store's scripts are given it."""
    if value is None:
        return ""
    return dump(value) if isinstance(value, float) else value


def flood_marks(database: sqlite3.Connection) -> dict[int, float]:
    """Return the numbers that were called in the last minute before the newest call, and when."""
    marks: dict[int, float] = {}
    newest: float | None = None
    for (text,) in database.execute("SELECT request FROM call ORDER BY number DESC"):
        call = to_call(text)
        newest = call.accepted_at if newest is None else max(newest, call.accepted_at)
        # Calls are kept nearly in the order of their times; a minute more makes sure of it.
        if call.accepted_at < newest - 2 * FLOOD_SECONDS:
            break
        number = encode(call.country_code, call.phone_number)
        marks[number] = max(call.accepted_at, marks.get(number, call.accepted_at))
    return marks


# to compare the two


async def figures_of(link: RedisLink, prefix: str) -> Figures:
    """Count what is in Redis, one by one, whatever its own counts say."""
    source = Source(link, prefix)
    sums = [0, 0, 0, 0]
    keys: list[bytes] = []
    async for rows in source.keys():
        for row in rows:
            keys.append(row[0])
            sums = [total + int(value) for total, value in zip(sums, row[3:7], strict=True)]
    calls = dict.fromkeys(State, 0)
    async for count in source.states():
        for state, some in count.items():
            calls[state] += some
    ledger = 0
    for ids in chunks(keys, AT_ONCE):
        ledger += sum(await gather(link.bulk("XLEN", prefix.encode() + b"ledger:" + each) for each in ids))
    numbers = 0
    async for some_numbers in source.do_not_call():
        numbers += len(some_numbers)
    callbacks = 0
    async for names in scan(link, prefix + "pending:"):
        callbacks += sum(await gather(link.bulk("ZCARD", name) for name in set(names)))
    credits, held, charged, added = sums
    return Figures(
        keys=len(keys),
        added=added,
        credits=credits,
        held=held,
        charged=charged,
        calls={state.value: count for state, count in calls.items()},
        callbacks=callbacks,
        ledger=ledger,
        do_not_call=numbers,
    )


def figures_in(path: Path) -> Figures:
    with closing(connect(path)) as database:
        return read_figures(database)


# means


async def scan(link: RedisLink, beginning: str) -> AsyncIterator[list[bytes]]:
    """Give the names that begin so, some of them twice perhaps."""
    pattern = re.sub(r"([*?\[\]\\^])", r"\\\1", beginning) + "*"
    cursor: bytes | int = 0
    while cursor != b"0":
        cursor, names = await link.bulk("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_CHUNK)
        if names:
            yield names


def chunks(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


async def gather(asked: Iterable[Any]) -> list[Any]:
    """Wait for all; raises what the first of them that fails does."""
    try:
        return list(await gatherResults(list(asked), consumeErrors=True))
    except FirstError as error:
        failed: Any = error.subFailure.value
        raise failed from None


def encodings_in(folder: Path, name: str) -> dict[str, bytes]:
    """Read the audio of a call from a library's folder, codec -> octets."""
    files = {codec: folder / f"{name}.{codec.lower()}" for codec in CODECS}
    return {codec: file.read_bytes() for codec, file in files.items() if file.exists()}
