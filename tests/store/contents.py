"""Stores with something of everything in them, and what is in the file of one, to be compared."""

from __future__ import annotations

import json
import os
import random
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from calledind.model import Call, ReturnCode
from calledind.store import listings
from calledind.store.disk import connect
from tests.store.contract import ANSWERED, BUSY, DIALOG, NOW, make_attempt, make_call, make_key


def made(store: Any, path: Path) -> Deferred[None]:
    """Copy a store into a file."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    copied: Deferred[None] = store.copy_into(path)
    return copied


async def fill(store: Any, seed: int = 1, calls: int = 120) -> None:
    """Put something of everything into a store, of either kind."""
    dice = random.Random(seed)
    for number in range(4):
        key = make_key(f"key_{number}", credits=100 + number, created_at=NOW - 10 + number)
        await store.add_key(replace(key, name=f'né"w {number}', charged=number), bytes([number, 255]) * 16)
    await store.set_caller_ids("key_1", ["+12125550100", "anonymous"])
    await store.set_attestation("key_1", "A")
    await store.set_disabled("key_3", True)
    await store.add_credits("key_2", 50, NOW, "Rechnung ü 7")
    await store.add_credits("key_2", -20, NOW + 1, "")
    listed = [("1", f"{number:010d}") for number in range(0, 30_000, 7)] + [
        ("49", "0000000001"),
        ("12345678", "9" * 10),
    ]
    await store.add_do_not_call(listed)
    await store.remove_do_not_call(listed[::5])
    for number in range(calls):
        call = make_call(
            f"{number:08x}{dice.getrandbits(64):016x}",
            key_id=f"key_{number % 3}",
            number=("44", f"7{number:09d}"),
            at=NOW + number * 1.7,
            callback_url=dice.choice([None, "https://example.com/told?x=é"]),
        )
        assert await store.accept(call) is ReturnCode.ACCEPTED
        await live_on(store, call, dice)


async def live_on(store: Any, call: Call, dice: random.Random) -> None:
    """Let the life of a call go on until somewhere."""
    steps = dice.randrange(8)
    if steps == 0:
        return
    if steps == 1:
        await store.settle(call.id, BUSY, charge=False)
        return
    await store.begin_dialing(call.id, make_attempt(1))
    if steps == 2:
        return
    if steps == 3:
        await store.begin_dialing(call.id, make_attempt(2))
        return
    await store.record_answer(call.id, DIALOG, call.accepted_at + 3.25)
    if steps == 4:
        return
    await store.settle(call.id, ANSWERED, charge=True)
    if call.callback_url is None or steps == 5:
        return
    await store.callback_postponed(call.id, 2, call.accepted_at + 99.125)
    if steps == 6:
        await store.callback_delivered(call.id, 3, call.accepted_at + 100)
    elif dice.random() < 0.5:
        await store.callback_exhausted(call.id, 8, call.accepted_at + 100)


def contents(path: Path) -> dict[str, Any]:
    """Return all that a file of the embedded store says, in a form that can be compared."""
    with closing(connect(path)) as database:
        keys = sorted(database.execute("SELECT * FROM api_key").fetchall())
        calls = database.execute(
            """SELECT id, key_id, state, request, attempt, answer, outcome, charged, tries, due_at, ended_at FROM call
            ORDER BY number"""
        ).fetchall()
        ledger: dict[str, list[Any]] = {}
        for key_id, *entry in database.execute(
            "SELECT key_id, amount, reason, reference, at, balance FROM ledger ORDER BY place"
        ):
            ledger.setdefault(key_id, []).append(entry)
        numbers = listings.listed(database).tolist()
    parsed = [(*row[:3], *(None if text is None else json.loads(text) for text in row[3:7]), *row[7:]) for row in calls]
    return {"keys": keys, "calls": parsed, "ledger": ledger, "numbers": numbers}


def problems(path: Path) -> list[str]:
    """Say what is wrong with the books of a file, key by key."""
    with closing(connect(path)) as database:
        found = [
            f"{key_id}: holds {held}, and {unfinished} of its calls are not over"
            for key_id, held, unfinished in database.execute(
                """SELECT id, held, (SELECT COUNT(*) FROM call WHERE key_id = api_key.id
                AND state IN ('accepted', 'dialing', 'answered')) FROM api_key"""
            )
            if held != unfinished
        ]
        for key_id, credits, balance, total in database.execute(
            """SELECT id, credits, (SELECT balance FROM ledger WHERE key_id = api_key.id ORDER BY place DESC LIMIT 1),
            (SELECT SUM(amount) FROM ledger WHERE key_id = api_key.id) FROM api_key"""
        ):
            if (credits, credits) != (balance, total):
                found.append(f"{key_id}: has {credits} credits, and its ledger says {balance} and {total}")
        found += [
            f"{call_id} is over, and nothing of it is in the ledger"
            for (call_id,) in database.execute(
                """SELECT id FROM call WHERE outcome IS NOT NULL
                AND id NOT IN (SELECT reference FROM ledger WHERE reason IN ('released', 'charged'))"""
            )
        ]
        found += [
            f"{call_id} is not over, and the ledger says that it is"
            for (call_id,) in database.execute(
                """SELECT id FROM call WHERE outcome IS NULL
                AND id IN (SELECT reference FROM ledger WHERE reason IN ('released', 'charged'))"""
            )
        ]
    return found
