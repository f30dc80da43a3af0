"""How many calls a second are accepted, durably, against a bare `twisted.web` that answers as many requests with "0".

    python -m tests.benchmarks.accepts [--quick] [--folder FOLDER]

Ours is a whole daemon in its own process (twistd, settings, access log to a file, SQLite with an fsync before each
code 0), its MP3 in the library; theirs is `bare.py`. Both get the same octets, both are pinned to core 0 with all
their threads and children, the load generator has core 1. They take turns of half a second, and the figure is the
median of the turns' ratios: whatever else the machine does hits both alike.

What is not in it: the calls accepted are not dialled meanwhile. The one trunk is a socket that never answers and takes
a call in 10,000 s, so the first call rings there and all others wait in the queue, as they would behind a carrier
that is full. Each request is for another number (the flood protection would refuse it otherwise), and for
another exchange than the last one, among 480 exchanges of twelve areas. What the numbering plan says about these
is soon at hand, as it is in a daemon that is up for a day; numbers from anywhere in the country, each in an
exchange never seen before, cost some 30 µs more.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import quote

from tests.benchmarks.load import Load, Result
from tests.benchmarks.report import Row, options, tell
from tests.interop.harness import Daemon, errors_in, free_tcp_port, wait_for, web_server

SPEECH = Path(__file__).parents[2] / "calledind" / "simulator" / "speech.mp3"
SERVER_CORE = 0
GENERATOR_CORE = 1
IN_FLIGHT = 64
QUICK, FULL = 7, 40
"Turns."
TURN = 0.5
"Seconds."
AREAS = ("212", "415", "312", "617", "206", "303", "713", "404", "305", "602", "514", "416")
"Of the United States and Canada."
EXCHANGES = 40
"Of each area."
STRIDE = 59_326_733
"Has no divisor in common with how many numbers there are."

RATIO_GOAL = 0.5
RATIO_STRETCH = 0.6
RATE_GOAL = 1000.0
LONE_GOAL = 3.0
"Milliseconds."

SETTINGS = """
[http]
listen = []
[sip]
bind = ["127.0.0.1:0"]
[rtp]
bind = "127.0.0.1"
ports = [20000, 20009]
[audio]
allow_networks = ["127.0.0.0/8"]
allow_ports = []
fresh_seconds = 86400.0
[calls]
queue_ttl = 86400.0
max_queued = 10000000
drain_timeout = 1.0
[[trunks]]
name = "silent"
host = "127.0.0.1"
port = {port}
calls_per_second = 0.0001
"""


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Whatever is started meanwhile stays on this core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core} & before or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def bare_server() -> Iterator[tuple[int, int]]:
    """Give the port and the process id."""
    port = free_tcp_port()
    with on_core(SERVER_CORE):
        process = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.bare", str(port)])
    try:
        wait_for("the bare server listens", lambda: _listens(port))
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def daemon(folder: Path) -> Iterator[Daemon]:
    """A daemon whose calls stay in its queue."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silence:
        silence.bind(("127.0.0.1", 0))
        ours = Daemon(folder, SETTINGS.format(port=silence.getsockname()[1]))
        with on_core(SERVER_CORE):
            ours.start()
        try:
            yield ours
        finally:
            if ours.stop() != 0:
                raise RuntimeError(f"the daemon did not end well:\n{ours.log.read_text()[-2000:]}")


def numbers() -> Iterator[str]:
    """Give every number of these exchanges once, each from another exchange than the one before."""
    exchanges = EXCHANGES * len(AREAS)
    for number in count():
        exchange, line = divmod(number * STRIDE % (exchanges * 10_000), 10_000)
        yield f"{AREAS[exchange % len(AREAS)]}{220 + exchange // len(AREAS)}{line:04}"


def requests(api_key: str, mp3: str) -> Iterator[bytes]:
    """Give what a customer's program sends, each for another number."""
    head = f"GET /api/playback/?api_key={api_key}&phone_number="
    tail = f"&country_code=1&mp3={quote(mp3, safe='')} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n"
    for number in numbers():
        yield f"{head}{number}{tail}".encode()


def processor_seconds(pid: int) -> float:
    """Of all threads of a process so far."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def sync_milliseconds(folder: Path) -> float:
    """Return what one fsync of 4 KiB takes on this disk, the median of fifty."""
    took = []
    with (folder / "synced").open("wb") as file:
        for _ in range(50):
            file.write(bytes(4096))
            began = time.perf_counter()
            file.flush()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


def file_system(folder: Path) -> str:
    """Return what the folder is on, such as "ext4 on /dev/vda"."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    inside = [mount for mount in mounts if folder.resolve().is_relative_to(mount[1].replace(r"\040", " "))]
    device, _, kind = max(inside, key=lambda mount: len(mount[1]))[:3]
    return f"{kind} on {device}"


class Turn:
    """One server under load for some seconds."""

    def __init__(self, load: Load, pid: int, todo: Iterator[bytes], seconds: float) -> None:
        before = processor_seconds(pid)
        self.result: Result = load.run(todo, seconds)
        if set(self.result.answers) != {b"200 0"}:
            raise RuntimeError(f"not every request was accepted: {self.result.answers}")
        self.rate = self.result.rate
        self.cost = (processor_seconds(pid) - before) / len(self.result.latencies)
        "Processor seconds of one request."

    def percentile(self, share: float) -> float:
        """Of the latencies, in milliseconds."""
        ordered = sorted(self.result.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


def measure(quick: bool) -> list[Row]:
    return compare(turns=QUICK if quick else FULL, folder=None)


def compare(*, turns: int, folder: Path | None) -> list[Row]:
    """Take turns; `folder`: below which the data are kept, on the disk that is to be measured."""
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        web_server({"/speech.mp3": SPEECH.read_bytes()}) as web,
        bare_server() as (bare_port, bare_pid),
        daemon(Path(name)) as ours,
        on_core(GENERATOR_CORE),
    ):
        disk, synced = file_system(Path(name)), sync_milliseconds(Path(name))
        api_key = ours.admin("POST", "/keys", {"name": "benchmark", "credits": 100_000_000})["api_key"]
        todo = requests(api_key, f"{web.url}/speech.mp3")
        bare, daemons = Load(bare_port, IN_FLIGHT), Load(ours.port, IN_FLIGHT)
        lone = Load(ours.port, 1)
        # The first request fetches the MP3; the caches of both are warm after this.
        Turn(lone, ours.pid, todo, 0.0)
        Turn(bare, bare_pid, todo, 0.5)
        Turn(daemons, ours.pid, todo, 2.0)
        theirs, mine, alone = [], [], []
        for _ in range(turns):
            theirs.append(Turn(bare, bare_pid, todo, TURN))
            mine.append(Turn(daemons, ours.pid, todo, TURN))
            alone.append(Turn(lone, ours.pid, todo, TURN / 2))
        accepted = sum(len(turn.result.latencies) for turn in mine + alone)
        kept = ours.admin("GET", "/status")
        for load in (bare, daemons, lone):
            load.close()
        if trouble := errors_in(ours.log.read_text(errors="replace")):
            raise RuntimeError(f"the daemon's log tells of trouble: {trouble[:3]}")
    if kept["queued"] < accepted:
        raise RuntimeError(f"{accepted} calls were accepted, and {kept['queued']} are waiting")
    return rows(theirs, mine, alone, f"{disk}, fsync {synced:.1f} ms")


def rows(theirs: list[Turn], mine: list[Turn], alone: list[Turn], disk: str) -> list[Row]:
    ratios = [ours.rate / bare.rate for ours, bare in zip(mine, theirs, strict=True)]
    ratio = statistics.median(ratios)
    rate = statistics.median(turn.rate for turn in mine)
    bare_rate = statistics.median(turn.rate for turn in theirs)
    busy = max(turn.result.busy for turn in theirs)
    costs = [statistics.median(turn.cost for turn in turns) * 1e6 for turns in (mine, theirs, alone)]
    under_load = f"p50 {statistics.median(turn.percentile(0.5) for turn in mine):.1f} ms"
    under_load += f", p99 {statistics.median(turn.percentile(0.99) for turn in mine):.1f} ms"
    reference = f"bare twisted.web, same core, {IN_FLIGHT} in flight"
    lone = statistics.median(turn.percentile(0.5) for turn in alone)
    return [
        Row(
            "accepts a second, durable",
            ratio,
            "x",
            RATIO_GOAL,
            True,
            reference,
            f"{rate:,.0f}/s to {bare_rate:,.0f}/s; turns {min(ratios):.2f} to {max(ratios):.2f}; "
            f"generator {busy:.0%} busy",
        ),
        Row("the same, to strive for", ratio, "x", RATIO_STRETCH, True, reference, decides=False),
        # The scheduler gives our two threads more of a core that others use as well; this knows nothing of others.
        Row(
            "the same, by processor time",
            statistics.median(bare.cost / ours.cost for ours, bare in zip(mine, theirs, strict=True)),
            "x",
            None,
            True,
            reference,
            f"{costs[1]:.0f} µs of CPU to {costs[0]:.0f} µs",
        ),
        Row("accepts a second", rate, "/s", RATE_GOAL, True, disk, under_load),
        Row(
            "a lone accept, p50",
            lone,
            "ms",
            LONE_GOAL,
            False,
            disk,
            f"p99 {statistics.median(turn.percentile(0.99) for turn in alone):.1f} ms; {costs[2]:.0f} µs of CPU",
        ),
    ]


def main(argv: Sequence[str]) -> int:
    parser = options(__doc__)
    parser.add_argument("--folder", type=Path, help="below which the data are kept, on the disk to be measured")
    arguments = parser.parse_args(argv)
    return tell(compare(turns=QUICK if arguments.quick else FULL, folder=arguments.folder), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
