"""Whether live calls keep their pace while the daemon has all its other work to do.

    python -m tests.benchmarks.busy [--quick] [--calls CALLS] [--seconds SECONDS]

So many calls play, and meanwhile requests are accepted at a fixed rate (their MP3 is at hand, their calls wait in the
queue for their turn at 50 a second, and last two seconds), and two MP3s of three minutes that nobody has seen before
are fetched and decoded each second. The daemon and its media process are pinned to core 0; the decoding processes,
which are niced, may use whatever core is free.
"""

from __future__ import annotations

import http.client
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tests.benchmarks.prepare import make_mp3
from tests.benchmarks.report import Row, options, tell
from tests.benchmarks.sink import Heard
from tests.benchmarks.stage import LONGEST, Stage, child, cores, speech, stage
from tests.interop.harness import web_server

CALLS, QUICK_CALLS = 1000, 150
SECONDS, QUICK_SECONDS = 60.0, 8.0
SETUP_RATE = 50.0
REQUEST_RATE = 300.0
FRESH_RATE = 2.0
CONNECTIONS, FRESH_CONNECTIONS = 6, 8
GAP_GOAL = 30.0
"Milliseconds, p99."
SHARE_GOAL = 0.95
"Of the work that is to be done in that time: below it the daemon was not as busy as it should have been."


class Files(dict[str, bytes]):
    """What the web server has; below /fresh/ each name is the same audio in octets that were never seen before."""

    fresh = b""

    def __contains__(self, path: object) -> bool:
        return str(path).startswith("/fresh/") or super().__contains__(path)

    def __missing__(self, path: str) -> bytes:
        # An ID3v1 tag is not audio.
        return self.fresh + b"TAG" + path.encode().ljust(125)


class Customer(threading.Thread):
    """Asks at a fixed rate, a little faster after it was held up, until it is told to stop."""

    def __init__(self, world: Stage, rate: float, path: Callable[[int], str]) -> None:
        super().__init__(daemon=True)
        self._world = world
        self._rate = rate
        self._path = path
        self._ended = threading.Event()
        self.waits: list[float] = []
        "Seconds of each request that was accepted."
        self.refused: list[bytes] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._world.daemon.port, timeout=60)
        began = time.monotonic()
        number = 0
        while not self._ended.wait(max(began + number / self._rate - time.monotonic(), 0)):
            asked = time.monotonic()
            connection.request("GET", self._world.target(self._path(number)))
            answer = connection.getresponse().read()
            if answer == b"0":
                self.waits.append(time.monotonic() - asked)
            else:
                self.refused.append(answer)
            number += 1
        connection.close()

    def stop(self) -> None:
        self._ended.set()


def customers(world: Stage, rate: float, count: int, path: Callable[[int, int], str]) -> list[Customer]:
    """Share the rate among so many connections; `path`: of connection and request, which MP3."""
    return [
        Customer(world, rate / count, lambda number, connection=connection: path(connection, number))  # type: ignore[misc]
        for connection in range(count)
    ]


def waits(asking: Sequence[Customer]) -> list[float]:
    return sorted(wait for each in asking for wait in each.waits)


def run(calls: int, seconds: float) -> list[Row]:
    cores()
    everywhere = os.sched_getaffinity(0)
    with (
        tempfile.TemporaryDirectory() as name,
        web_server({}) as web,
        stage(Path(name), web, SETUP_RATE) as world,
    ):
        os.sched_setaffinity(child(world.daemon.pid, "calledind.audio.decode_process"), everywhere)
        files = Files(
            {"/short.mp3": speech(2), "/long.mp3": speech(min(LONGEST, 2 * calls / SETUP_RATE + seconds + 15))}
        )
        files.fresh = make_mp3(Path(name)).read_bytes()
        web.files = files
        world.ask("/short.mp3", 10)
        world.ask("/long.mp3", calls)
        world.wait_for_streams(calls, LONGEST)
        fresh = customers(world, FRESH_RATE, FRESH_CONNECTIONS, lambda each, number: f"/fresh/{each}-{number}.mp3")
        cached = customers(world, REQUEST_RATE, CONNECTIONS, lambda each, number: "/short.mp3")
        # Calls of the first seconds are not yet as many as there will be.
        for customer in (*fresh, *cached):
            customer.start()
        time.sleep(3)
        charged = world.charged()
        world.sink.heard()
        began = time.time()
        time.sleep(seconds)
        ended = time.time()
        begun = (world.charged() - charged) / (ended - began)
        for customer in (*fresh, *cached):
            customer.stop()
        for customer in (*fresh, *cached):
            customer.join()
        time.sleep(0.1)
        heard = world.sink.heard().between(began, ended)
        if world.sink.overflowed():
            raise RuntimeError("the sink was too slow")
    asked = ended - began + 3
    refused = [answer for customer in (*fresh, *cached) for answer in customer.refused]
    if refused:
        raise RuntimeError(f"{len(refused)} requests were refused, the first with {refused[0]!r}")
    return rows(
        heard,
        calls,
        begun,
        {
            "requests accepted": (REQUEST_RATE, waits(cached), asked),
            "fresh MP3s of three minutes": (FRESH_RATE, waits(fresh), asked),
        },
    )


def rows(heard: Heard, calls: int, begun: float, asked: dict[str, tuple[float, list[float], float]]) -> list[Row]:
    """`begun`: calls a second. `asked`: what -> the rate it should have, the requests' seconds, in how many seconds."""
    gaps = heard.gaps()
    p50, p99 = (float(np.percentile(gaps, share)) for share in (50, 99))
    what = f"{calls:,} calls beside all other work"
    told = [
        Row(
            f"{what}: gap, p99",
            p99,
            "ms",
            GAP_GOAL,
            False,
            "20 ms, by the receiving kernel",
            f"p50 {p50:.2f} ms, longest {gaps.max():.2f} ms",
        ),
        Row(f"{what}: packets lost", heard.lost(), "", 0, False, f"{heard.packets:,} of {heard.streams:,} calls"),
        Row("meanwhile: calls begun", begun, "/s", SHARE_GOAL * SETUP_RATE, True, f"{SETUP_RATE:.0f}/s", decides=False),
    ]
    for name, (rate, took, seconds) in asked.items():
        detail = f"p50 {took[len(took) // 2] * 1000:.1f} ms, p99 {took[len(took) * 99 // 100] * 1000:.1f} ms"
        told.append(
            Row(
                f"meanwhile: {name}",
                len(took) / seconds,
                "/s",
                SHARE_GOAL * rate,
                True,
                f"{rate:.0f}/s",
                detail,
                decides=False,
            )
        )
    return told


def main(argv: Sequence[str]) -> int:
    parser = options(__doc__)
    parser.add_argument("--calls", type=int, help="that play all the time")
    parser.add_argument("--seconds", type=float)
    arguments = parser.parse_args(argv)
    calls = arguments.calls or (QUICK_CALLS if arguments.quick else CALLS)
    seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    return tell(run(calls, seconds), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
