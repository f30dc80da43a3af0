"""What it costs to look at the page while a thousand calls run and fifty end each second, on either side.

    python -m tests.benchmarks.page [--quick]

The calls are real: the daemon plays on core 0, SIPp answers on core 1, where the browser (Debian's Chromium, without a
screen, driven by tests/browser/busy.js) has to get along with it. The daemon's share of its core with one viewer is
compared with that without, in turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.accepts import GENERATOR_CORE, on_core, processor_seconds
from tests.benchmarks.busy import customers
from tests.benchmarks.report import Row, options, tell
from tests.benchmarks.stage import LONGEST, Stage, cores, program, speech, stage
from tests.interop.harness import free_tcp_port, web_server

CALLS, QUICK_CALLS = 1000, 200
ENDING, QUICK_ENDING = 50, 20
"Calls that begin, and end, each second."
TALK = 2.0
"Seconds of those."
SETUP_RATE = 60.0
TURNS, QUICK_TURNS = 3, 1
TURN = 10.0
"Seconds with and without a viewer."
LOAD = 5.0
"Seconds in which a browser has started and the page has come."
MOST_CPU, LONGEST_TASK = 10.0, 100.0
"Per cent of one core, and milliseconds."
SCRIPT = Path(__file__).parents[1] / "browser" / "busy.js"


def share(world: Stage) -> float:
    """Return how much of its core the daemon takes in the seconds to come, in per cent."""
    before, began = processor_seconds(world.daemon.pid), time.monotonic()
    time.sleep(TURN)
    return 100 * (processor_seconds(world.daemon.pid) - before) / (time.monotonic() - began)


def look(world: Stage, page: str) -> tuple[float, dict[str, Any]]:
    """Have somebody look; return the daemon's share meanwhile, and what the browser tells."""
    token = (world.daemon.data / "page-token").read_text()
    command = [program("node"), str(SCRIPT), page, token, str(round(LOAD + TURN))]
    with on_core(GENERATOR_CORE), subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as viewer:
        time.sleep(LOAD)
        taken = share(world)
        told: dict[str, Any] = json.loads(viewer.communicate()[0])
    return taken, told


def run(calls: int, ending: int, turns: int) -> list[Row]:
    cores()
    program("chromium")
    if not (SCRIPT.parent / "node_modules" / "playwright-core").is_dir():
        raise SystemExit("playwright-core is needed to measure with; make browser installs it")
    page = f"127.0.0.1:{free_tcp_port()}"
    with (
        tempfile.TemporaryDirectory() as name,
        web_server({"/short.mp3": speech(TALK)}) as web,
        stage(Path(name), web, SETUP_RATE, more=f'[page]\nlisten = ["{page}"]\n') as world,
    ):
        long = calls - round(ending * TALK)
        web.files["/long.mp3"] = speech(min(LONGEST, 1.5 * long / SETUP_RATE + 2 * turns * (TURN + 2 * LOAD) + 15))
        world.ask("/short.mp3", 10)
        world.ask("/long.mp3", long)
        world.wait_for_streams(long, LONGEST)
        cached = customers(world, ending, 2, lambda _, __: "/short.mp3")
        for customer in cached:
            customer.start()
        time.sleep(LOAD)
        charged, began = world.charged(), time.monotonic()
        alone, looks = [], []
        for _ in range(turns):
            alone.append(share(world))
            looks.append(look(world, f"http://{page}"))
        ended = (world.charged() - charged) / (time.monotonic() - began)
        live = world.live()
        for customer in cached:
            customer.stop()
        for customer in cached:
            customer.join()
    cost = statistics.median(watched - before for before, (watched, _) in zip(alone, looks, strict=True))
    told = [each for _, each in looks]
    if live < 0.95 * calls or any(each["wrong"] or not each["moved"] for each in told):
        raise RuntimeError(f"{live} calls live; the page tells {told}")
    what = f"{live:,} calls, {ended:.0f} outcomes a second"
    detail = f"{statistics.median(alone):.1f} % without a viewer"
    return [
        Row(f"a viewer of {what}", cost, "%", MOST_CPU, False, "of the daemon's core", detail),
        Row(
            "the browser's longest task",
            statistics.median(each["blocked"] for each in told),
            "ms",
            LONGEST_TASK,
            False,
            f"{told[0]['rows']} rows shown, {told[0]['live']} calls told",
            "of each turn: " + ", ".join(f"{each['blocked']:.0f}" for each in told),
        ),
    ]


def main(argv: Sequence[str]) -> int:
    arguments = options(__doc__).parse_args(argv)
    if arguments.quick:
        return tell(run(QUICK_CALLS, QUICK_ENDING, QUICK_TURNS), arguments)
    return tell(run(CALLS, ENDING, TURNS), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
