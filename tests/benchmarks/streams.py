"""How many calls at once one core plays to, how evenly, and what a packet of them costs against C.

    python -m tests.benchmarks.streams [--quick] [--seconds SECONDS] [CALLS ...]

A whole daemon is pinned to core 0 with its media process; SIPp answers each call on core 1, where every packet is
counted by its stream, its number and the time at which the kernel got it. All calls share three RTP ports. For each
number of calls: they are set up, play for the seconds during which nothing else happens and the gaps are measured,
then take turns with the reference, `sendmmsg` of ready packets to the same callees (`reference.py`), and end by BYE.
The cost of a packet is the median of the turns' ratios: whatever else the machine does hits both alike.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.benchmarks.accepts import SERVER_CORE, on_core, processor_seconds
from tests.benchmarks.report import Row, options, tell
from tests.benchmarks.sink import Heard
from tests.benchmarks.stage import LONGEST, RTP_PORTS, Stage, anonymous, cores, speech, stage
from tests.interop.harness import web_server

FULL, QUICK = (300, 1000, 2000, 3000), (100, 300)
"Calls at once."
SECONDS, QUICK_SECONDS = 60.0, 4.0
TURNS, QUICK_TURNS = 9, 3
TURN = 1.0
"Seconds."
BURST = 12_000
"Packets of the reference's turn."
SETUP_RATE = 100.0
"Calls begun a second."

GAP_GOAL, WORST_GAP_GOAL = 25.0, 40.0
"Milliseconds, for 99 and for 99.9 % of the packets."
RATE_GOAL = 0.1
"Packets a second that a stream may be off 50."
COST_GOAL = 1.35
GROWTH_GOAL = 1.15
MEMORY_GOAL = 16.0
"KiB."


class Reference:
    """The reference's process, on the daemon's core."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def cost(self) -> float:
        """Send a burst; return the processor seconds of one packet."""
        return self._send(BURST)

    def paced(self, calls: int) -> float:
        """Send what so many calls send in a turn, in their rhythm; return the processor seconds of one packet."""
        return self._send(round(calls * 50 * TURN), calls // 10)

    def _send(self, packets: int, *pace: int) -> float:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(" ".join(map(str, (packets, *pace))) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline()) / packets


@contextmanager
def reference(first_port: int, calls: int) -> Iterator[Reference]:
    command = [sys.executable, "-m", "tests.benchmarks.reference", str(first_port), str(calls)]
    with on_core(SERVER_CORE):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        theirs = Reference(process)
        theirs.cost()
        yield theirs
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Cost:
    """What one packet took of the processor in one turn, in seconds."""

    media: float
    daemon: float
    "The media process and the daemon together."
    reference: float
    paced: float
    "The reference's, in the rhythm of the calls."


@dataclass(frozen=True)
class Outcome:
    """How one number of calls went."""

    calls: int
    seconds: float
    heard: Heard
    costs: list[Cost]
    memory: float
    "KiB of the daemon and the media process for each live call."
    left: float
    "The same after the calls have ended."

    @property
    def ratio(self) -> float:
        return statistics.median(cost.media / cost.reference for cost in self.costs)


def turn(world: Stage, calls: int, theirs: Reference) -> Cost:
    """Let the calls play, then the reference besides; nearly all packets of a second are known without counting."""
    before = processor_seconds(world.media), processor_seconds(world.daemon.pid)
    began = time.monotonic()
    time.sleep(TURN)
    packets = calls * 50 * (time.monotonic() - began)
    media, daemon = processor_seconds(world.media) - before[0], processor_seconds(world.daemon.pid) - before[1]
    return Cost(media / packets, (media + daemon) / packets, theirs.cost(), theirs.paced(calls))


def play(world: Stage, calls: int, seconds: float, turns: int) -> Outcome:
    """Have so many calls at once; returns when all have ended. Raises RuntimeError where the sink was too slow."""
    ramp = calls / SETUP_RATE
    lasts = min(LONGEST, 1.5 * ramp + seconds + 3 * turns * TURN + 8)
    path = f"/{calls}.mp3"
    charged = world.charged()
    world.web.files[path] = speech(lasts)
    own = [world.daemon.pid, world.media]
    overflowed = world.sink.overflowed()
    before = sum(map(anonymous, own))
    world.ask(path, calls)
    world.wait_for_streams(calls, lasts)
    time.sleep(2)
    world.sink.heard()
    began = time.time()
    time.sleep(seconds)
    ended = time.time()
    time.sleep(0.1)
    heard = world.sink.heard().between(began, ended)
    memory = (sum(map(anonymous, own)) - before) / 1024 / calls
    with reference(world.sink.ports[0], calls) as theirs:
        costs = [turn(world, calls, theirs) for _ in range(turns)]
        if (live := world.live()) != calls:
            raise RuntimeError(f"of {calls} calls {live} are live after the measurement: the audio was too short")
    world.wait_for_end()
    left = (sum(map(anonymous, own)) - before) / 1024 / calls
    if lost := world.sink.overflowed() - overflowed:
        raise RuntimeError(f"the sink was too slow for {lost} packets")
    if heard.streams != calls or world.charged() - charged != calls:
        raise RuntimeError(f"{heard.streams} of {calls} calls were heard, {world.charged() - charged} answered")
    return Outcome(calls, seconds, heard, costs, memory, left)


def rows(outcome: Outcome) -> list[Row]:
    what = f"{outcome.calls:,} calls at once"
    gaps = outcome.heard.gaps()
    p50, p99, worst = (float(np.percentile(gaps, share)) for share in (50, 99, 99.9))
    media, daemon, ours, paced = (
        statistics.median(getattr(cost, name) for cost in outcome.costs) * 1e6
        for name in ("media", "daemon", "reference", "paced")
    )
    ratios = [cost.media / cost.reference for cost in outcome.costs]
    clock = "20 ms, by the receiving kernel"
    rates = outcome.heard.rates()
    span = f"{outcome.heard.packets:,} in {outcome.seconds:.0f} s"
    return [
        Row(f"{what}: packets lost", outcome.heard.lost(), "", 0, False, span),
        Row(f"{what}: gap, p99", p99, "ms", GAP_GOAL, False, clock, f"p50 {p50:.2f} ms, longest {gaps.max():.2f} ms"),
        Row(f"{what}: gap, p99.9", worst, "ms", WORST_GAP_GOAL, False, clock),
        Row(
            f"{what}: furthest off 50 packets/s",
            float(np.abs(rates - 50).max()),
            "/s",
            RATE_GOAL,
            False,
            f"each call over {outcome.seconds:.0f} s",
            f"{rates.min():.3f} to {rates.max():.3f}",
        ),
        Row(
            f"{what}: CPU of a packet",
            outcome.ratio,
            "x",
            COST_GOAL if outcome.calls == FULL[-1] else None,
            False,
            "sendmmsg of ready packets, same core",
            f"{media:.2f} µs to {ours:.2f} µs; turns {min(ratios):.2f} to {max(ratios):.2f}; with the daemon"
            f" {daemon:.2f} µs",
        ),
        Row(
            f"{what}: CPU of a packet, in the same rhythm",
            statistics.median(cost.media / cost.paced for cost in outcome.costs),
            "x",
            None,
            False,
            "the same packets, a tenth of them every 2 ms, like sockets",
            f"{media:.2f} µs to {paced:.2f} µs",
        ),
        Row(
            f"{what}: memory of a live call",
            outcome.memory,
            "KiB",
            # Of few calls, most is caches that have filled.
            MEMORY_GOAL if outcome.calls >= FULL[1] else None,
            False,
            "daemon and media process, without the audio",
            f"{outcome.left:.2f} KiB when they have ended",
        ),
    ]


def growth(outcomes: Sequence[Outcome]) -> list[Row]:
    """Compare the most calls with the fewest."""
    few, many = outcomes[0], outcomes[-1]
    if few is many:
        return []
    curve = ", ".join(f"{each.calls:,}: {each.ratio:.2f}x" for each in outcomes)
    what = f"a packet of {many.calls:,} calls"
    return [Row(what, many.ratio / few.ratio, "x", GROWTH_GOAL, False, f"a packet of {few.calls:,} calls", curve)]


def measure(counts: Sequence[int], seconds: float, turns: int) -> list[Row]:
    cores()
    outcomes = []
    with (
        tempfile.TemporaryDirectory() as name,
        web_server({"/warm.mp3": speech(2)}) as web,
        stage(Path(name), web, SETUP_RATE) as world,
    ):
        world.ask("/warm.mp3", 50)
        world.wait_for_end()
        for calls in counts:
            outcomes.append(play(world, calls, seconds, turns))
            told = f"{calls} calls: {outcomes[-1].ratio:.2f}x, all on {RTP_PORTS} ports"
            print(told, file=sys.stderr, flush=True)
    return [row for outcome in outcomes for row in rows(outcome)] + growth(outcomes)


def main(argv: Sequence[str]) -> int:
    parser = options(__doc__)
    parser.add_argument("calls", nargs="*", type=int, help="at once, one number after the other")
    parser.add_argument("--seconds", type=float, help="during which the pace is measured")
    arguments = parser.parse_args(argv)
    counts = arguments.calls or (QUICK if arguments.quick else FULL)
    seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    return tell(measure(counts, seconds, QUICK_TURNS if arguments.quick else TURNS), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
