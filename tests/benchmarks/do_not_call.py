"""A DoNotCall list of millions: how long `calledin dnc import` takes for a CSV of it, and how much memory the daemon.

    python -m tests.benchmarks.do_not_call [--quick] [NUMBERS]

The numbers come in no order, as in lists that people made. With fewer numbers than five million, the time is scaled up.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmarks.accepts import daemon, file_system, processor_seconds
from tests.benchmarks.growth import resident
from tests.benchmarks.report import Row, options, tell

QUICK, FULL = 250_000, 5_000_000
SECONDS_GOAL = 60.0
MEMORY_GOAL = 400.0
"MiB, of the whole daemon."


def lines(numbers: int) -> Iterator[str]:
    """Give so many different numbers, in no order."""
    # The stride has no divisor in common with how many there are, so it comes by each once.
    place, stride = random.Random(20261).randrange(8 * 10**9), 4_946_512_373
    for _ in range(numbers):
        place = (place + stride) % (8 * 10**9)
        yield f"1,{2 * 10**9 + place}\n"


def measure(numbers: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as name, daemon(Path(name) / "daemon") as ours:
        csv = Path(name) / "numbers.csv"
        with csv.open("w") as file:
            file.writelines(lines(numbers))
        disk = file_system(Path(name))
        os.sched_setaffinity(ours.pid, os.sched_getaffinity(0))
        before, began = processor_seconds(ours.pid), time.perf_counter()
        done = subprocess.run(
            [Path(sys.executable).with_name("calledin"), "--socket", ours.data / "admin.sock", "dnc", "import", csv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        took, cost = time.perf_counter() - began, processor_seconds(ours.pid) - before
        if done.returncode or ours.admin("GET", "/dnc")["count"] != numbers:
            raise RuntimeError(f"not every number was imported: {done.stdout[-300:]}")
        imported = resident(ours.pid, "VmHWM")
        ours.stop()
        began = time.perf_counter()
        ours.start()
        again, started = resident(ours.pid, "VmHWM"), time.perf_counter() - began
    scale = FULL / numbers
    return [
        Row(
            "five million DoNotCall numbers from a CSV",
            took * scale,
            "s",
            SECONDS_GOAL,
            False,
            f"{numbers:,} numbers, {disk}",
            f"{cost / numbers * 1e6:.1f} µs of CPU in the daemon each",
        ),
        Row(
            f"the daemon with {numbers:,} DoNotCall numbers",
            max(imported, again) / 1024,
            "MiB",
            MEMORY_GOAL,
            False,
            "at most, resident, while importing or starting",
            f"{imported / 1024:.0f} MiB and {again / 1024:.0f} MiB; a start takes {started:.1f} s",
        ),
    ]


def main(argv: Sequence[str]) -> int:
    parser = options(__doc__)
    parser.add_argument("numbers", nargs="?", type=int, help=f"in the CSV; default {FULL:,}, quick {QUICK:,}")
    arguments = parser.parse_args(argv)
    return tell(measure(arguments.numbers or (QUICK if arguments.quick else FULL)), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
