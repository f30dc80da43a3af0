"""How many complete calls a second one core makes, against SIPp's own caller on the same core.

    python -m tests.benchmarks.calls [--quick] [--rate CALLS] [--seconds SECONDS]

A call is the INVITE, 100, 180, 200, ACK, a second of audio, BYE, 200, and the outcome on stable storage. Ours is a
whole daemon (twistd, its media process, SQLite with fsync) pinned to core 0; the calls wait in its queue before the
clock starts, and those that take it from there at `--rate` a second are all to be answered. SIPp's caller, a program
in C++ that plays a fixed script, keeps no books and sends no audio, has the same core in its own turn. Both call the
same SIPp callee on core 1, where nobody listens to the audio. In the silent form the callee takes none (a=inactive)
and hangs up after a second: what is left is the signalling and the books.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from tests.benchmarks.accepts import GENERATOR_CORE, SERVER_CORE, on_core, processor_seconds, requests
from tests.benchmarks.load import Load
from tests.benchmarks.report import Row, options, tell
from tests.benchmarks.stage import RTP_PORTS, SETTINGS, child, cores, program, speech
from tests.interop import scenarios as sc
from tests.interop.harness import Daemon, Sipp, errors_in, free_ports, sipp, web_server

RATE, SILENT_RATE = 600.0, 1050.0
"Calls a second that are asked for."
RATE_GOAL, SILENT_GOAL = 500.0, 1000.0
FULL, QUICK = 120.0, 8.0
"Seconds."
SIPP_SECONDS = 5.0
SIPP_RATE = 500.0
TALK = 1.0
"Seconds of each call."
WAITING = 0.0001
"Calls a second of a trunk that is to make none yet."
IN_FLIGHT = 64

BEGINNING = (sc.receive("INVITE"), sc.send("100 Trying"), sc.RINGING)
LISTENS = sc.scenario(
    *BEGINNING, sc.OK, sc.receive("ACK"), sc.receive("BYE", extra='timeout="60000"'), sc.send("200 OK", sc.IN_DIALOG)
)
HANGS_UP = sc.scenario(
    sc.receive("INVITE", inner=sc.KEEP_DIALOG),
    *BEGINNING[1:],
    sc.send("200 OK", more=sc.CONTACT, body=sc.sdp("0 101", more="a=inactive\n"), retrans=500),
    sc.receive("ACK"),
    sc.pause(int(TALK * 1000)),
    sc.request("BYE"),
    sc.expect(200),
    sc.REFERENCE,
)


@dataclass(frozen=True)
class Run:
    """What a number of calls came to."""

    calls: int
    answered: int
    rate: float
    "Calls ended a second, without the first and the last seconds."
    cost: float
    "Processor seconds of a call."
    media: float
    "Of these, the media process's."


@contextmanager
def deaf_port() -> Iterator[int]:
    """Give the UDP port of a socket that nobody reads."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.bind(("127.0.0.1", 0))
        yield deaf.getsockname()[1]


@contextmanager
def callee(folder: Path, calls: int, scenario: str) -> Iterator[Sipp]:
    with deaf_port() as rtp, on_core(GENERATOR_CORE):
        arguments = ("-key", "rtp", str(rtp), "-l", "1000000", "-mp", str(free_ports(4)))
        with sipp(folder, scenario, *arguments, calls=calls, trace=False) as uas:
            yield uas


def by_sipp(folder: Path) -> float:
    """Let SIPp's own caller make calls; returns the processor seconds of one."""
    calls = int(SIPP_RATE * SIPP_SECONDS)
    with callee(folder, calls, LISTENS) as uas:
        command = [program("sipp"), "-sn", "uac", f"127.0.0.1:{uas.port}", "-i", "127.0.0.1"]
        command += ["-p", str(free_ports(2)), "-mp", str(free_ports(4)), "-nostdin"]
        command += ["-r", str(int(SIPP_RATE)), "-m", str(calls), "-d", str(int(TALK * 1000)), "-l", "1000000"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with on_core(SERVER_CORE):
            done = subprocess.run(
                command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
            )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"SIPp's caller ended with {done.returncode}: not all of its calls were answered")
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / calls


def by_daemon(folder: Path, rate: float, seconds: float, *, silent: bool) -> Run:
    """Let a daemon make calls. Raises RuntimeError where one failed."""
    calls = int(rate * seconds)
    with (
        web_server({"/speech.mp3": speech(TALK)}) as web,
        callee(folder, calls, HANGS_UP if silent else LISTENS) as uas,
    ):
        first = free_ports(2 * RTP_PORTS)
        last = first + 2 * RTP_PORTS - 1
        ours = Daemon(
            folder / "daemon", SETTINGS.format(first=first, last=last, port=uas.port, rate=WAITING, channels=100_000)
        )
        with on_core(SERVER_CORE):
            ours.start()
        try:
            with on_core(GENERATOR_CORE):
                fill(ours, calls, f"{web.url}/speech.mp3")
                costs = dial(ours, rate, seconds)
                status = uas.wait()
        finally:
            ours.stop()
    if trouble := errors_in(ours.log.read_text(errors="replace")):
        raise RuntimeError(f"the daemon's log tells of trouble: {trouble[:3]}")
    answered, kept = books(ours.data)
    if status or answered != calls:
        raise RuntimeError(f"{calls - answered} of {calls} calls failed; SIPp's callee ended with {status}")
    return Run(calls, answered, kept, sum(costs) / calls, costs[1] / calls)


def fill(ours: Daemon, calls: int, mp3: str) -> None:
    """Have so many calls accepted, which wait."""
    api_key = ours.admin("POST", "/keys", {"name": "benchmark", "credits": 100_000_000})["api_key"]
    todo = requests(api_key, mp3)
    first = Load(ours.port, 1)
    first.run(todo, 0.0)
    first.close()
    load, left = Load(ours.port, IN_FLIGHT), calls - 1
    while left >= IN_FLIGHT:
        left -= len(load.run(todo, min(0.5, left / 20_000)).latencies)
    load.close()
    lone = Load(ours.port, 1)
    for _ in range(max(left, 0)):
        lone.run(islice(todo, 1), 0.0)
    lone.close()


def dial(ours: Daemon, rate: float, seconds: float) -> list[float]:
    """Let the calls go; returns what they cost the daemon and its media process, when all are over."""
    pids = [ours.pid, child(ours.pid, "calledind.net.media_process")]
    ours.config.write_text(ours.config.read_text().replace(str(WAITING), str(rate)))
    before = [processor_seconds(pid) for pid in pids]
    began = time.monotonic()
    os.kill(ours.pid, signal.SIGHUP)
    while (status := ours.admin("GET", "/status"))["queued"] or status["live"]:
        if time.monotonic() > began + 4 * seconds + 60:
            raise RuntimeError(f"calls are left: {status}")
        time.sleep(0.5)
    return [processor_seconds(pid) - was for pid, was in zip(pids, before, strict=True)]


def books(data: Path) -> tuple[int, float]:
    """Return how many calls were answered, and how many ended a second in the middle, by what was stored."""
    with sqlite3.connect(data / "store" / "calledin.sqlite3") as file:
        endings = [json.loads(text)["ending"] for (text,) in file.execute("SELECT outcome FROM call")]
    ended = np.sort([ending["ended_at"] for ending in endings if ending["answered"]])
    middle = ended[(ended > ended[0] + 1.0) & (ended < ended[-1] - 1.0)]
    return len(ended), (len(middle) - 1) / (middle[-1] - middle[0])


def compare(rate: float, seconds: float, *, silent: bool) -> list[Row]:
    cores()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with tempfile.TemporaryDirectory() as name:
        theirs = by_sipp(Path(name) / "before")
        run = by_daemon(Path(name) / "ours", rate, seconds, silent=silent)
        theirs = min(theirs, by_sipp(Path(name) / "after"))
    what = "calls a second" + (", signalling alone" if silent else ", with a second of audio")
    detail = f"{run.calls:,} calls in {seconds:g} s, all answered"
    goal = SILENT_GOAL if silent else RATE_GOAL
    costs = f"{run.cost * 1e6:,.0f} µs of CPU ({run.media * 1e6:,.0f} of them for media) to {theirs * 1e6:,.0f} µs"
    return [
        Row(what, run.rate, "/s", goal, True, f"asked for {rate:g}/s; one core", detail, decides=not silent),
        Row(f"{what}: CPU of a call", run.cost / theirs, "x", None, False, "sipp -sn uac, without audio", costs),
        Row(f"{what}: what the core could bear", 1 / run.cost, "/s", None, True, "by processor time"),
    ]


def measure(quick: bool) -> list[Row]:
    seconds = QUICK if quick else FULL
    return compare(RATE, seconds, silent=False) + compare(SILENT_RATE, seconds / 4, silent=True)


def main(argv: Sequence[str]) -> int:
    parser = options(__doc__)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--silent", action="store_true", help="no audio: the signalling alone")
    arguments = parser.parse_args(argv)
    seconds = arguments.seconds or (QUICK if arguments.quick else FULL)
    return tell(compare(arguments.rate, seconds, silent=arguments.silent), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
