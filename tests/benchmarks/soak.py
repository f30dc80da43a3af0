"""Whether an hour of calls leaves anything behind: memory, file descriptors, transactions, dialogs.

    python -m tests.benchmarks.soak [--quick] [--calls CALLS] [--minutes MINUTES]

So many calls are always live, each new one in the place of one that has ended; the queue is never empty. Memory is the
daemon's own (and its media process's), looked at every ten seconds; the figure is the median of the last sixth of the
time against that of the second sixth: in the first, caches fill. Nothing but time decides how long this takes,
so it isn't among the benchmarks that are run together.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.benchmarks.report import Row, options, tell
from tests.benchmarks.stage import Stage, anonymous, cores, speech, stage
from tests.interop.harness import wait_for, web_server

CALLS, QUICK_CALLS = 300, 50
MINUTES, QUICK_MINUTES = 60.0, 1.0
TALK = 15
"Seconds of a call."
LOOK = 10.0
"Seconds between two looks."
QUEUED = 100
"Calls that wait, at least."
FLAT = 2.0
"Per cent."
GAP_GOAL = 25.0
"Milliseconds, p99."
QUIET = 40.0
"Seconds after the last call within which its transactions are over: more than 64*T1."


class Looks:
    """What was seen of the daemon, look after look."""

    def __init__(self, world: Stage) -> None:
        self._world = world
        self.memory: list[int] = []
        "Octets of the daemon and its media process."
        self.open_files: list[int] = []
        self.gaps: list[float] = []
        "99th percentiles, in ms."
        self.lost = 0
        self.packets = 0
        self.live: list[int] = []

    def look(self) -> None:
        pids = self._world.daemon.pid, self._world.media
        self.memory.append(sum(map(anonymous, pids)))
        self.open_files.append(sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids))
        self.live.append(self._world.live())
        heard = self._world.sink.heard()
        self.lost += heard.lost()
        self.packets += heard.packets
        self.gaps.append(float(np.percentile(heard.gaps(), 99)))
        if len(self.memory) % 6 == 0:
            told = f"{self.memory[-1] / 2**20:.2f} MiB, {self.open_files[-1]} open files, {self.live[-1]} calls live"
            print(f"{len(self.memory) // 6} minutes: {told}", file=sys.stderr, flush=True)

    def growth(self) -> float:
        """Return by how many per cent memory has grown from the second sixth of the time to the last."""
        sixth = max(len(self.memory) // 6, 1)
        early, late = self.memory[sixth : 2 * sixth], self.memory[-sixth:]
        return (statistics.median(late) / statistics.median(early) - 1) * 100


def run(calls: int, minutes: float) -> list[Row]:
    cores()
    with (
        tempfile.TemporaryDirectory() as name,
        web_server({"/speech.mp3": speech(TALK)}) as web,
        # A line of calls that begin together would end together: at this pace they spread over the time of one.
        stage(Path(name), web, rate=1.5 * calls / TALK, channels=calls) as world,
    ):
        began = looked = time.monotonic()
        world.ask("/speech.mp3", calls)
        world.wait_for_streams(int(0.9 * calls), 4 * TALK)
        looks = Looks(world)
        world.sink.heard()
        while time.monotonic() < began + minutes * 60:
            status = world.daemon.admin("GET", "/status")
            # Where the machine has other things to do, a request may be refused; the queue has enough for some time.
            world.ask("/speech.mp3", max(QUEUED + calls // TALK - status["queued"], 0), patient=True)
            if time.monotonic() >= looked + LOOK:
                looked = time.monotonic()
                looks.look()
            time.sleep(0.5)
        world.wait_for_end()
        wait_for("nothing is left", lambda: _left(world) == 0, QUIET)
        made = world.charged()
        overflowed = world.sink.overflowed()
        ends_with = len(list(Path(f"/proc/{world.daemon.pid}/fd").iterdir()))
    if overflowed:
        raise RuntimeError("the sink was too slow")
    return rows(looks, calls, minutes, made, ends_with)


def _left(world: Stage) -> int:
    return int(world.daemon.admin("GET", "/status")["sip"]["transactions_and_dialogs"])


def rows(looks: Looks, calls: int, minutes: float, made: int, ends_with: int) -> list[Row]:
    what = f"{minutes:g} minutes of {calls} calls at once"
    smallest, largest = min(looks.memory) / 2**20, max(looks.memory) / 2**20
    live = statistics.median(looks.live)
    sixth = max(1, len(looks.open_files) // 6)
    first_files, last_files = (
        min(looks.open_files[sixth : 2 * sixth] or looks.open_files),
        min(looks.open_files[-sixth:]),
    )
    return [
        Row(
            f"{what}: growth of memory",
            abs(looks.growth()),
            "%",
            FLAT,
            False,
            "the last sixth of the time against the second",
            f"{made:,} calls, {live:.0f} live; {smallest:.1f} to {largest:.1f} MiB",
        ),
        Row(
            f"{what}: file descriptors",
            last_files - first_files,
            "",
            0,
            False,
            "the fewest in the last sixth of the time against the second: a request may be there at a look",
            f"{first_files} then {last_files}; {ends_with} of the daemon's when all is over",
        ),
        Row(f"{what}: packets lost", looks.lost, "", 0, False, f"{looks.packets:,} were heard"),
        Row(f"{what}: gap, p99", max(looks.gaps), "ms", GAP_GOAL, False, "20 ms; the worst ten seconds"),
    ]


def main(argv: Sequence[str]) -> int:
    parser = options(__doc__)
    parser.add_argument("--calls", type=int)
    parser.add_argument("--minutes", type=float)
    arguments = parser.parse_args(argv)
    calls = arguments.calls or (QUICK_CALLS if arguments.quick else CALLS)
    minutes = arguments.minutes or (QUICK_MINUTES if arguments.quick else MINUTES)
    return tell(run(calls, minutes), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
