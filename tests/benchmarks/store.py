"""How many calls a second the embedded store accepts, and what each costs the reactor.

    python -m tests.benchmarks.store [--quick] [--folder FOLDER]

For so many requests in flight: the ratio of accepts to fsyncs of a bare file on the same disk in the same run.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from calledind.model import Call, ReturnCode, new_call_id
from calledind.store.do_not_call import NumberSet
from calledind.store.embedded import EmbeddedStore
from tests.benchmarks.report import Row, in_reactor, options, tell
from tests.store.contract import make_call, make_key

GOALS = {1: None, 8: None, 64: 1.0, 256: 1.0}
"Requests in flight -> accepts for each bare fsync; the slower the disk, the more group commit makes of one."


def fsyncs(folder: Path) -> float:
    """Return how many appended pages a second a bare file can have fsynced, one by one."""
    path = folder / "bare"
    count, until = 0, time.perf_counter() + 1.0
    with path.open("wb", buffering=0) as file:
        while time.perf_counter() < until:
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            count += 1
    path.unlink()
    return count / 1.0


class Asker:
    """Keeps so many requests in flight, each with a number of its own."""

    def __init__(self, store: EmbeddedStore) -> None:
        self.store = store
        self.index = 0
        self.thread_time = 0.0

    def call(self) -> Call:
        self.index += 1
        now = 1_800_000_000 + self.index / 2000
        return make_call(new_call_id(now), number=("1", f"{2000000000 + self.index}"), at=now)

    async def ask(self, until: float) -> list[float]:
        waits = []
        while (start := time.perf_counter()) < until:
            call = self.call()
            before = time.thread_time()
            if await self.store.check("key_1", "1", call.phone_number, call.accepted_at) is not ReturnCode.ACCEPTED:
                raise AssertionError("check")
            answer = self.store.accept(call)
            self.thread_time += time.thread_time() - before
            if await answer is not ReturnCode.ACCEPTED:
                raise AssertionError("accept")
            waits.append(time.perf_counter() - start)
        return waits


async def accepting(reactor: Any, folder: Path, seconds: float) -> list[Row]:
    store = EmbeddedStore(reactor, folder / "store")
    await store.open()
    await store.add_key(make_key(credits=10**9), b"digest")
    bare = fsyncs(folder)
    rows = [await in_flight(store, number, seconds, bare) for number in (1, 8, 64, 256)]
    totals = await store.totals()
    await store.close()
    start = time.perf_counter()
    again = EmbeddedStore(reactor, folder / "store")
    await again.open()
    took = time.perf_counter() - start
    await again.close()
    # A restart must have sent the callbacks that are due within two seconds.
    reference = "10,000 unfinished calls"
    rows.append(Row("store opened after a kill", took / totals.held * 1e4, "s", 1.0, False, reference))
    return [*rows, look_up()]


async def in_flight(store: EmbeddedStore, number: int, seconds: float, bare: float) -> Row:
    asker = Asker(store)
    asker.index = number * 10_000_000
    start, process, thread = time.perf_counter(), time.process_time(), time.thread_time()
    running = [Deferred.fromCoroutine(asker.ask(start + seconds)) for _ in range(number)]
    waits = sorted([wait for asked in running for wait in await asked])
    count = len(waits)
    rate = count / (time.perf_counter() - start)
    costs = [asker.thread_time, time.thread_time() - thread, time.process_time() - process]
    deciding, reactor, whole = (cost / count * 1e6 for cost in costs)
    return Row(
        f"store, {number} in flight",
        rate / bare,
        "x",
        GOALS[number],
        True,
        f"bare fsyncs one by one, {bare:,.0f}/s",
        f"{rate:,.0f}/s, p50 {waits[count // 2] * 1e3:.1f} ms, p99 {waits[count * 99 // 100] * 1e3:.1f} ms; "
        f"CPU {whole:.0f} µs, of it reactor {reactor:.0f}, of it deciding {deciding:.0f}",
    )


def look_up() -> Row:
    numbers = NumberSet(range(n, n + 7000, 7) for n in range(10**10, 10**10 + 7 * 10**6, 7000))
    start = time.perf_counter()
    found = sum(n in numbers for n in range(10**10, 10**10 + 7 * 10**6, 70))
    each = (time.perf_counter() - start) / found * 1e6
    known = set(range(10**10, 10**10 + 7 * 10**6, 70))
    start = time.perf_counter()
    found = sum(n in known for n in range(10**10, 10**10 + 7 * 10**6, 70))
    plain = (time.perf_counter() - start) / found * 1e6
    detail = f"{each:.2f} µs to {plain:.2f} µs"
    return Row(
        "a number on the DoNotCall list", each / plain, "x", None, False, "a set of Python's, ten times smaller", detail
    )


def measure(quick: bool, folder: Path | None = None) -> list[Row]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        return in_reactor(lambda reactor: accepting(reactor, Path(name), 0.7 if quick else 3.0))


def main(argv: Sequence[str]) -> int:
    parser = options(__doc__)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    arguments = parser.parse_args(argv)
    return tell(measure(arguments.quick, arguments.folder), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
