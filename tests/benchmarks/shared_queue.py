"""What a queue of a million calls in Redis does to those who accept and take, beside the same on an empty one.

    python -m tests.benchmarks.shared_queue [--quick] [--folder FOLDER]

The shared store itself, as two nodes in this process, on two redis-servers that sync each change (`appendfsync
always`): in one of them a million wait, in the other nobody. What is measured is the second half of the way to the
million, and the first half of the way back: Redis doubles its tables now and then, and rewrites its file, and what that
costs belongs to each call by its share. They take turns, some seconds each, as a machine is not as fast in one minute
as in the next.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from calledind.model import Call, ReturnCode, new_call_id
from calledind.settings.tables import Redis
from calledind.store.interface import FLOOD_SECONDS, Limits
from calledind.store.redis import RedisStore
from tests.benchmarks.report import Row, in_reactor, options, tell
from tests.store.contract import make_call, make_key
from tests.store.redis_server import RedisServer

GOAL = 0.8
CALLS, QUICK_CALLS = 1_000_000, 50_000
MEASURED, QUICK_MEASURED = 10_000, 2_500
"Calls in what is called an empty queue, at most, and in all that Redis has there."
TURNS = 10
"On the full queue, in accepting and in taking; after each of them both are done on the empty one."
IN_FLIGHT = 64
KEYS = 10
"Customers whose calls wait."
BATCH = 32
RATE = 100
"Calls accepted in a second, by the calls' own clock: so many numbers are marked for a minute, whatever waits."
WARM = int(RATE * FLOOD_SECONDS)
"Calls made in vain before: from then on, a mark leaves for each that comes."
CONFIGURED = ["hash-max-listpack-value 2048", "rdbcompression no"]
"As the README advises: a call is one piece of memory then, and not twenty; and ids, which are random, can't be packed."
ROUTE = ("a", "b")
LIMITS = [Limits(name, 10**9, 1e9) for name in ROUTE]


class Asker:
    """Accepts and takes on one Redis, each call with a number of its own.

    As two nodes: while one hears its answers, Redis works for the other. One alone may ask all at once and then wait
    for all answers, or may not, as Redis's buffers happen to be, and is a third slower where it does.
    """

    def __init__(self, nodes: Sequence[RedisStore], redis: RedisServer) -> None:
        self._nodes = nodes
        self._redis = redis
        self._index = 0

    def _call(self) -> Call:
        self._index += 1
        now = 1_800_000_000 + self._index / RATE
        number = ("1", f"{2000000000 + self._index}")
        return make_call(new_call_id(now), key_id=f"key_{self._index % KEYS}", number=number, at=now)

    async def accept(self, calls: int) -> None:
        end = self._index + calls

        async def some(node: RedisStore) -> None:
            while self._index < end:
                if await node.accept(self._call()) is not ReturnCode.ACCEPTED:
                    raise AssertionError("accept")

        in_flight = [Deferred.fromCoroutine(some(node)) for _ in range(IN_FLIGHT // 2) for node in self._nodes]
        for each in in_flight:
            await each

    async def take(self, calls: int) -> None:
        """Take so many, and a few more, as a dialer does."""
        while calls > 0:
            grants = await self._nodes[0].take(ROUTE, LIMITS, own=0, most=BATCH)
            assert grants.calls, "nobody waits"
            calls -= len(grants.calls)

    async def close(self) -> None:
        for node in self._nodes:
            await node.close()

    def rewrites(self) -> bool:
        """Whether Redis is rewriting its file."""
        told: bytes = self._redis.call("INFO", "persistence")
        return b"aof_rewrite_in_progress:1" in told or b"aof_rewrite_scheduled:1" in told


class Pace:
    """How fast something went, in several stretches of time."""

    def __init__(self) -> None:
        self._calls = 0
        self._seconds = 0.0

    @contextmanager
    def over(self, calls: int) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began
        self._calls += calls

    def rate(self) -> float:
        """Return calls a second."""
        return self._calls / self._seconds


@contextmanager
def servers(folder: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    both = [RedisServer(folder / name, more=CONFIGURED) for name in ("full", "empty")]
    try:
        for each in both:
            each.start()
        yield both[0], both[1]
    finally:
        for each in both:
            each.kill()


async def asker(reactor: Any, folder: Path, redis: RedisServer) -> Asker:
    nodes = [
        RedisStore(
            reactor,
            Redis(address=redis.address),
            node=name,
            lease=3600.0,
            instance=name,
            folder=folder / name,
            route_of=lambda _: ROUTE,
            encodings=None,
            fresh_audio=600.0,
        )
        for name in ("one", "two")
    ]
    for node in nodes:
        await node.open()
    for number in range(KEYS):
        await nodes[0].add_key(make_key(f"key_{number}", credits=10**9), b"digest %d" % number)
    made = Asker(nodes, redis)
    await made.accept(WARM)
    await made.take(WARM)
    return made


async def measuring(
    reactor: Any, folder: Path, redises: tuple[RedisServer, RedisServer], calls: int, measured: int
) -> list[Row]:
    full = await asker(reactor, folder / "full", redises[0])
    full_accepts, accepts, full_takes, takes = (Pace() for _ in range(4))

    async def reference() -> None:
        # With nothing in it that a turn before has left.
        redises[1].call("FLUSHALL")
        empty = await asker(reactor, folder / "empty", redises[1])
        with accepts.over(measured):
            await empty.accept(measured)
        while empty.rewrites():
            await deferLater(reactor, 0.05)
        with takes.over(measured):
            await empty.take(measured)
        await empty.close()

    stretch = calls // 2 // TURNS
    await full.accept(calls // 2)
    for _ in range(TURNS):
        with full_accepts.over(stretch):
            await full.accept(stretch)
        # What Redis has begun it finishes in the time of these calls.
        while full.rewrites():
            with full_accepts.over(measured // 10):
                await full.accept(measured // 10)
        await reference()
    memory = int(redises[0].call("INFO", "memory").split(b"used_memory:")[1].split(b"\r\n")[0])
    for _ in range(TURNS):
        with full_takes.over(stretch):
            await full.take(stretch)
        await reference()
    await full.close()
    return [
        _row(f"accepting, {calls // 2:,} to {calls:,} calls in the queue", full_accepts, accepts),
        _row(f"taking, {calls:,} to {calls // 2:,} calls in the queue", full_takes, takes),
        Row("Redis's memory for a waiting call", memory / calls, "octets", None, False, "strings of 10 to 60 octets"),
    ]


def _row(what: str, full: Pace, empty: Pace) -> Row:
    detail = f"{full.rate():,.0f}/s to {empty.rate():,.0f}/s"
    return Row(what, full.rate() / empty.rate(), "x", GOAL, True, "the same with an empty queue", detail)


def measure(quick: bool, folder: Path | None = None) -> list[Row]:
    calls, measured = (QUICK_CALLS, QUICK_MEASURED) if quick else (CALLS, MEASURED)
    with tempfile.TemporaryDirectory(dir=folder) as name, servers(Path(name) / "redis") as redises:
        return in_reactor(lambda reactor: measuring(reactor, Path(name) / "store", redises, calls, measured))


def main(argv: Sequence[str]) -> int:
    parser = options(__doc__)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    arguments = parser.parse_args(argv)
    return tell(measure(arguments.quick, arguments.folder), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
