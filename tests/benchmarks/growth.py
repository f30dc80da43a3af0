"""What calls that wait cost: memory of each, and the time of an accept and of a take when there are many of them.

    python -m tests.benchmarks.growth [--quick] [CALLS]

Accepts go to a whole daemon on core 0, whose one trunk takes nothing, until CALLS wait; each names a callback with a
query of its own and a secret. An accept with all of them waiting is compared with one at the beginning, by processor
time. The steps of a call through memory and queue (accept, take, dial, answer, settle) are measured in this
process, with a thousand calls waiting and with five times CALLS.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from calledind.dialing.queue import FairQueue
from calledind.model import Attempt, Call, Cause, EndedBy, Ending, Outcome, new_call_id
from calledind.service.daemon import tune_collector
from calledind.store.memory import Account, Change, Loaded, Memory
from tests.benchmarks.accepts import GENERATOR_CORE, IN_FLIGHT, SPEECH, Turn, daemon, on_core, requests
from tests.benchmarks.load import Load
from tests.benchmarks.report import Row, options, tell
from tests.interop.harness import web_server

QUICK, FULL = 15_000, 200_000
FEW = 1000
STEPS = 2000
ROUNDS = 5
TURN = 0.5
"Seconds."
MEMORY_GOAL = 2.0
"KiB."
GROWTH_GOAL = 1.5
"What is O(log n) grows less than this; what is O(n) a hundredfold."


def resident(pid: int, what: str = "VmRSS") -> float:
    """Return KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what):
            return float(line.split()[1])
    raise RuntimeError(f"no {what} of process {pid}")


def with_callbacks(plain: Iterator[bytes]) -> Iterator[bytes]:
    for number, request in enumerate(plain):
        extra = f"&callback_url=http%3A%2F%2F127.0.0.1%3A9%2Fended%3Forder%3D{number:08}&secret=order-{number:08}"
        yield request.replace(b" HTTP/1.1", f"{extra} HTTP/1.1".encode(), 1)


def accepts(calls: int) -> list[Row]:
    """Let so many calls wait in a daemon."""
    turns: list[Turn] = []
    with (
        tempfile.TemporaryDirectory() as name,
        web_server({"/speech.mp3": SPEECH.read_bytes()}) as web,
        daemon(Path(name)) as ours,
        on_core(GENERATOR_CORE),
    ):
        api_key = ours.admin("POST", "/keys", {"name": "benchmark", "credits": 100_000_000})["api_key"]
        todo = with_callbacks(requests(api_key, f"{web.url}/speech.mp3"))
        lone, load = Load(ours.port, 1), Load(ours.port, IN_FLIGHT)
        Turn(lone, ours.pid, todo, 0.0)
        Turn(load, ours.pid, todo, 1.0)
        first, empty = ours.admin("GET", "/status")["queued"], resident(ours.pid)
        waiting = first
        while waiting < calls or len(turns) < 6:
            turns.append(Turn(load, ours.pid, todo, TURN))
            waiting += len(turns[-1].result.latencies)
        waiting, full = ours.admin("GET", "/status")["queued"], resident(ours.pid)
        lone.close()
        load.close()
    each = (full - empty) / (waiting - first)
    third = max(3, len(turns) // 5)
    early, late = (statistics.median(turn.cost for turn in some) for some in (turns[:third], turns[-third:]))
    longest = max(turn.percentile(1.0) for turn in turns)
    return [
        Row(
            "memory of a queued call",
            each,
            "KiB",
            MEMORY_GOAL,
            False,
            f"resident memory of the daemon, {waiting:,} calls",
            f"{empty / 1024:.0f} to {full / 1024:.0f} MiB",
        ),
        Row(
            f"an accept, {waiting:,} calls waiting",
            late / early,
            "x",
            GROWTH_GOAL,
            False,
            f"one with {first:,} waiting, CPU",
            f"{late * 1e6:.0f} µs to {early * 1e6:.0f} µs; longest {longest:.0f} ms",
        ),
    ]


class World:
    """Memory and queue of a daemon, without the daemon."""

    def __init__(self) -> None:
        account = Account("key_1", "benchmark", b"digest", 10**9, 0, 0, 10**9, False, 0.0)
        self.memory = Memory(Loaded([account], {}, [], Counter()))
        self.queue = FairQueue()
        self._numbers = count()

    def accept(self) -> None:
        number = next(self._numbers)
        now = 1_800_000_000 + number / 1000
        call = Call(
            id=new_call_id(now),
            key_id="key_1",
            phone_number=f"{2_000_000_000 + number}",
            country_code="1",
            caller_id="0000000000",
            audio="0" * 64,
            duration=3.0,
            callback_url=None,
            secret="",
            accepted_at=now,
        )
        if not isinstance(self.memory.accept(call), Change):
            raise RuntimeError("a call was refused")
        self.queue.add(call)

    def take(self) -> None:
        """From the queue to the outcome."""
        call = self.queue.take()
        if call is None:
            raise RuntimeError("nobody waits")
        ended = Ending(Cause.PLAYED, True, EndedBy.US, call.accepted_at + 5.0)
        self.memory.begin_dialing(call.id, Attempt(1, "trunk", "{}"))
        self.memory.record_answer(call.id, "{}", call.accepted_at)
        self.memory.settle(call.id, Outcome(True, None, ended), charge=True).kept()

    def costs(self) -> tuple[float, float]:
        """Return the processor seconds of an accept and of a take, as many waiting afterwards as before."""
        taken = []
        for step in (self.accept, self.take):
            began = time.process_time()
            for _ in range(STEPS):
                step()
            taken.append((time.process_time() - began) / STEPS)
        return taken[0], taken[1]


def steps(calls: int) -> list[Row]:
    tune_collector()
    few, many = World(), World()
    for world, waiting in ((few, FEW), (many, calls)):
        for _ in range(waiting):
            world.accept()
    pairs = [(few.costs(), many.costs()) for _ in range(ROUNDS)]
    rows = []
    for index, what in enumerate(("accepted", "taken and ended")):
        small, large = (statistics.median(pair[which][index] for pair in pairs) for which in (0, 1))
        rows.append(
            Row(
                f"a call {what} in memory, {calls:,} waiting",
                large / small,
                "x",
                GROWTH_GOAL,
                False,
                f"the same with {FEW:,} waiting, CPU",
                f"{large * 1e6:.1f} µs to {small * 1e6:.1f} µs",
            )
        )
    return rows


def measure(calls: int) -> list[Row]:
    return accepts(calls) + steps(5 * calls)


def main(argv: Sequence[str]) -> int:
    parser = options(__doc__)
    parser.add_argument("calls", nargs="?", type=int, help=f"that wait; default {FULL:,}, quick {QUICK:,}")
    arguments = parser.parse_args(argv)
    return tell(measure(arguments.calls or (QUICK if arguments.quick else FULL)), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
