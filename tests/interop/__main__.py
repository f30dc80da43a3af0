"""Run the interop tests, a process for each module, several at a time: `python -m tests.interop [NAME...]`.

Most of their time is waiting for telephones that ring. The longest begin first.
"""

from __future__ import annotations

import compileall
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

AT_ONCE = int(os.environ.get("CALLEDIN_INTEROP_JOBS", "3"))
FOLDER = Path(__file__).parent
CHAOS = ("crash", "nodes", "kill")
"Those in which daemons are killed, and a judge looks at what became of the calls: two at a time, after the others."
ALONE = ("browser", "package")
"Those that keep the machine busy by themselves, and measure how soon something happens: one at a time, at the end."
LONGEST = (
    "kamailio",
    "fuzz",
    "commands",
    "sipp",
    "indialog",
    "openapi",
    "activation",
    "v1",
    "signals",
    "v1_nodes",
    "srtp",
    "digest",
    "identity",
    "observability",
    "kamailio_tls",
    "lossy_relay",
    "failover",
    "help",
    "backup",
    "setup",
    "cli",
)
"By what they took."


@dataclass(frozen=True)
class Run:
    name: str
    status: int
    output: str
    seconds: float

    @property
    def summary(self) -> str:
        """Trial's last line, such as "PASSED (successes=12)"."""
        lines = self.output.strip().splitlines()
        return lines[-1] if lines else "no output"


def run(name: str, folder: Path) -> Run:
    began = time.monotonic()
    command = [sys.executable, "-m", "twisted.trial", f"--temp-directory={folder / name}", f"tests.interop.test_{name}"]
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, check=False
    )
    return Run(name, ended.returncode, ended.stdout, time.monotonic() - began)


def main(names: Sequence[str]) -> int:
    """Return the exit status: 1 where any module failed."""
    there = sorted(path.stem.removeprefix("test_") for path in FOLDER.glob("test_*.py"))
    unknown = set(names) - set(there)
    if unknown:
        print(f"no such interop tests: {', '.join(sorted(unknown))}; there are: {', '.join(there)}")
        return 2
    wanted = sorted(names or there, key=lambda name: LONGEST.index(name) if name in LONGEST else len(LONGEST))
    # Hundreds of daemons are started, and where no bytecode may be written, each would compile all of it.
    compileall.compile_dir(FOLDER.parents[1] / "calledind", quiet=2)
    failed = []
    for at_once, some in (
        (AT_ONCE, [name for name in wanted if name not in CHAOS + ALONE]),
        (2, [name for name in CHAOS if name in wanted]),
        (1, [name for name in ALONE if name in wanted]),
    ):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(at_once) as pool:
            for done in as_completed([pool.submit(run, name, Path(folder)) for name in some]):
                ended = done.result()
                print(f"{ended.name:<16} {ended.seconds:6.1f} s  {ended.summary}", flush=True)
                if ended.status:
                    failed.append(ended)
        if len(some) > 1:
            print(f"{len(some)} modules took {time.monotonic() - began:.0f} s", flush=True)
    for each in failed:
        print(f"\n==== {each.name}\n{each.output}")
    return 1 if failed else 0


if __name__ == "__main__":
    # A shell has what it begins in the background ignore it, and so would all programs that the tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
