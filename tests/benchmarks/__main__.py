"""All benchmarks, one after the other, and one table: `python -m tests.benchmarks [--quick] [NAME...]`.

Exit status 1 where a goal is missed. The machine should have nothing else to do, and at least two cores.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.report import Row, options, read, tell

NAMES = (
    "accepts",
    "growth",
    "do_not_call",
    "store",
    "prepare",
    "rtp",
    "streams",
    "calls",
    "busy",
    "page",
    "nodes",
    "shared_queue",
)
ROOT = Path(__file__).parents[2]


def measure(name: str, quick: bool) -> list[Row]:
    """Run one in a process of its own. Exits when it prints no rows: what it wrote to stderr says why."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--json", *(["--quick"] if quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    if not done.stdout:
        raise SystemExit(f"the benchmark {name} has failed")
    return read(done.stdout)


def main(argv: Sequence[str]) -> int:
    parser = options(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all where none is given")
    arguments = parser.parse_args(argv)
    unknown = sorted(set(arguments.names) - set(NAMES))
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}")
    rows = [row for name in arguments.names or NAMES for row in measure(name, arguments.quick)]
    return tell(rows, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
