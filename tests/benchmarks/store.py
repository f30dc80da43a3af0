"""How many calls a second the embedded store accepts, and what each costs the reactor.

`python -m tests.benchmarks.store [FOLDER]` prints one row of a table for each number of requests in flight:
accepts a second, the reactor's and the process's processor time for one, and the ratio to fsyncs a second
of a bare file on the same disk in the same run.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from calledind.model import Call, ReturnCode, new_call_id
from calledind.store.do_not_call import NumberSet
from calledind.store.embedded import EmbeddedStore
from tests.store.contract import make_call, make_key

SECONDS = 2.0
"For each row."


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


async def measure(folder: Path) -> None:
    store = EmbeddedStore(cast(Any, reactor), folder / "store")
    await store.open()
    await store.add_key(make_key(credits=10**9), b"digest")
    bare = fsyncs(folder)
    print("in flight accepts/s  deciding   reactor   process   median      p99 /fsync")
    for in_flight in (1, 8, 64, 256):
        asker = Asker(store)
        asker.index = in_flight * 10_000_000
        start, process, thread = time.perf_counter(), time.process_time(), time.thread_time()
        running = [Deferred.fromCoroutine(asker.ask(start + SECONDS)) for _ in range(in_flight)]
        waits = sorted([wait for asked in running for wait in await asked])
        rate = len(waits) / (time.perf_counter() - start)
        print(
            f"{in_flight:9} {rate:9.0f} {asker.thread_time / len(waits) * 1e6:6.0f} µs"
            f" {(time.thread_time() - thread) / len(waits) * 1e6:6.0f} µs"
            f" {(time.process_time() - process) / len(waits) * 1e6:6.0f} µs"
            f" {waits[len(waits) // 2] * 1e3:5.1f} ms {waits[len(waits) * 99 // 100] * 1e3:5.1f} ms {rate / bare:6.2f}"
        )
    totals = await store.totals()
    await store.close()
    start = time.perf_counter()
    again = EmbeddedStore(cast(Any, reactor), folder / "store")
    await again.open()
    print(f"{totals.held} unfinished calls opened in {time.perf_counter() - start:.2f} s")
    await again.close()
    numbers = NumberSet(range(n, n + 7000, 7) for n in range(10**10, 10**10 + 7 * 10**6, 7000))
    start = time.perf_counter()
    found = sum(n in numbers for n in range(10**10, 10**10 + 7 * 10**6, 70))
    each = (time.perf_counter() - start) / found * 1e6
    print(f"DoNotCall: {each:.2f} µs to find one of {len(numbers)}")


def main(argv: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=argv[0] if argv else None) as folder:

        def start() -> None:
            done: Deferred[Any] = Deferred.fromCoroutine(measure(Path(folder)))
            done.addErrback(lambda failure: failure.printTraceback())
            done.addBoth(lambda _: cast(Any, reactor).stop())

        cast(Any, reactor).callWhenRunning(start)
        cast(Any, reactor).run()


if __name__ == "__main__":
    main(sys.argv[1:])
