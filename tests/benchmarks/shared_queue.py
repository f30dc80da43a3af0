"""What a queue of a million calls in Redis does to those who accept and take, beside the same on an empty one.

    python -m tests.benchmarks.shared_queue [--quick] [--folder FOLDER]

The shared store itself, in this process, on a redis-server of its own that syncs each change (`appendfsync always`).
What is measured is the second half of the way to the million, and the first half of the way back: Redis doubles its
tables now and then, and rewrites its file, and what that costs belongs to each call by its share.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from calledind.model import Call, ReturnCode, new_call_id
from calledind.settings import Redis
from calledind.store.interface import Limits
from calledind.store.redis import RedisStore
from tests.benchmarks.report import Row, in_reactor, options, tell
from tests.store.contract import make_call, make_key
from tests.store.redis_server import RedisServer

GOAL = 0.8
CALLS, QUICK_CALLS = 1_000_000, 50_000
MEASURED, QUICK_MEASURED = 20_000, 5_000
"Calls in what is called an empty queue, at most."
ROUNDS = 5
"On the empty queue, of which the sum is taken."
IN_FLIGHT = 64
KEYS = 10
"Customers whose calls wait."
BATCH = 32
RATE = 300
"Calls accepted in a second, by the calls' own clock: so many numbers are marked for a minute, whatever waits."
LISTPACKS = "hash-max-listpack-value 2048"
"As the README advises: a call is one piece of memory then, and not twenty."
ROUTE = ("a", "b")
LIMITS = [Limits(name, 10**9, 1e9) for name in ROUTE]


class Asker:
    """Accepts and takes on one store, each call with a number of its own."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._index = 0

    def _call(self) -> Call:
        self._index += 1
        now = 1_800_000_000 + self._index / RATE
        number = ("1", f"{2000000000 + self._index}")
        return make_call(new_call_id(now), key_id=f"key_{self._index % KEYS}", number=number, at=now)

    async def accept(self, calls: int) -> float:
        """Accept so many; return how many a second."""
        end = self._index + calls

        async def some() -> None:
            while self._index < end:
                if await self._store.accept(self._call()) is not ReturnCode.ACCEPTED:
                    raise AssertionError("accept")

        began = time.perf_counter()
        for each in [Deferred.fromCoroutine(some()) for _ in range(IN_FLIGHT)]:
            await each
        return calls / (time.perf_counter() - began)

    async def take(self, calls: int) -> float:
        """Take so many, as a dialer does; return how many a second."""
        taken = 0
        began = time.perf_counter()
        while taken < calls:
            grants = await self._store.take(ROUTE, LIMITS, own=0, most=BATCH)
            assert grants.calls, "nobody waits"
            taken += len(grants.calls)
        return taken / (time.perf_counter() - began)


async def measuring(reactor: Any, folder: Path, redis: RedisServer, calls: int, measured: int) -> list[Row]:
    store = RedisStore(
        reactor,
        Redis(address=redis.address),
        node="benchmark",
        lease=3600.0,
        instance="benchmark",
        folder=folder,
        route_of=lambda _: ROUTE,
        encodings=None,
        fresh_audio=600.0,
    )
    await store.open()
    for number in range(KEYS):
        await store.add_key(make_key(f"key_{number}", credits=10**9), b"digest %d" % number)
    asker = Asker(store)
    # Once in vain: the first of anything is slower.
    await asker.accept(measured)
    await asker.take(measured)
    rounds = [(await asker.accept(measured), await asker.take(measured)) for _ in range(ROUNDS)]
    accepts, takes = (statistics.harmonic_mean(each) for each in zip(*rounds, strict=True))
    await asker.accept(calls // 2)
    full_accepts = await asker.accept(calls // 2)
    memory = int(redis.call("INFO", "memory").split(b"used_memory:")[1].split(b"\r\n")[0])
    full_takes = await asker.take(calls // 2)
    await store.close()
    return [
        _row(f"accepting, {calls // 2:,} to {calls:,} calls in the queue", full_accepts, accepts),
        _row(f"taking, {calls:,} to {calls // 2:,} calls in the queue", full_takes, takes),
        Row("Redis's memory for a waiting call", memory / calls, "octets", None, False, "strings of 10 to 60 octets"),
    ]


def _row(what: str, full: float, empty: float) -> Row:
    detail = f"{full:,.0f}/s to {empty:,.0f}/s"
    return Row(what, full / empty, "x", GOAL, True, "the same with an empty queue", detail)


def measure(quick: bool, folder: Path | None = None) -> list[Row]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        redis = RedisServer(Path(name) / "redis", more=[LISTPACKS])
        redis.start()
        try:
            return in_reactor(
                lambda reactor: measuring(
                    reactor,
                    Path(name) / "store",
                    redis,
                    QUICK_CALLS if quick else CALLS,
                    QUICK_MEASURED if quick else MEASURED,
                )
            )
        finally:
            redis.kill()


def main(argv: Sequence[str]) -> int:
    parser = options(__doc__)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    arguments = parser.parse_args(argv)
    return tell(measure(arguments.quick, arguments.folder), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
