"""Whether three nodes on one Redis dial three times what one of them dials, and what an accepted call asks of Redis.

    python -m tests.benchmarks.nodes [--quick]

Each node makes no more than so many calls at the same time ([calls] max_live), of a second each, to a SIPp that
answers at once. So what limits is how many calls a node makes, and neither the carrier nor the machine, and what is
lost by sharing shows. All requests are made to one of the nodes, before the clock runs: the others live on what it
leaves in the queue.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.accepts import requests
from tests.benchmarks.load import Load
from tests.benchmarks.report import Row, options, tell
from tests.benchmarks.stage import program, speech
from tests.interop import scenarios as sc
from tests.interop.harness import Daemon, Web, free_ports, free_udp_port, wait_for, web_server
from tests.store.redis_server import RedisServer

NODES = 3
GOAL = 2.5
MAX_LIVE, TALK = 25, 1.0
"Calls of one node at once, and seconds of each."
SECONDS, QUICK_SECONDS = 20.0, 5.0
RAMP = 3.0
"Seconds until all nodes are at their most."
IN_FLIGHT = 64
COMMANDS_GOAL = 1.1
"Of Redis for each accepted call; heartbeats and looks at the queue are among them."

SETTINGS = """
[http]
listen = []
[sip]
bind = ["127.0.0.1:0"]
[rtp]
bind = "127.0.0.1"
ports = [{first}, {last}]
[audio]
allow_networks = ["127.0.0.0/8"]
allow_ports = []
fresh_seconds = 86400.0
[calls]
queue_ttl = 86400.0
lead_in = 0.0
lead_out = 0.0
drain_timeout = 5.0
max_live = {max_live}
[store]
kind = "redis"
[redis]
address = "{redis}"
[node]
name = "{name}"
[[trunks]]
name = "sipp"
host = "127.0.0.1"
port = {port}
channels = 10000
calls_per_second = 10000.0
"""

CALLEE = sc.scenario(
    sc.receive("INVITE"),
    sc.send("100 Trying"),
    sc.send("200 OK", more=sc.CONTACT, body=sc.sdp("0 101", port="9"), retrans=500),
    sc.receive("INVITE", optional=True),
    sc.receive("ACK"),
    sc.receive("BYE"),
    sc.send("200 OK", sc.IN_DIALOG),
)


@contextmanager
def carrier(folder: Path) -> Iterator[int]:
    """SIPp that answers everybody; its port."""
    port = free_udp_port()
    (folder / "callee.xml").write_text(CALLEE)
    command = [program("sipp"), "-sf", "callee.xml", "-i", "127.0.0.1", "-p", str(port), "-nostdin"]
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for("SIPp listens", lambda: f":{port:04X} " in Path("/proc/net/udp").read_text())
        yield port
    finally:
        process.kill()
        process.wait()


@contextmanager
def cluster(folder: Path, redis: RedisServer, port: int, *, nodes: int, max_live: int) -> Iterator[list[Daemon]]:
    """So many daemons on one Redis, which share a pepper as nodes do."""
    redis.call("FLUSHALL")
    daemons = []
    with ExitStack() as world:
        for number in range(nodes):
            first = free_ports(20)
            text = SETTINGS.format(
                first=first, last=first + 19, redis=redis.address, name=f"n{number}", port=port, max_live=max_live
            )
            daemon = Daemon(folder / f"{nodes}-{number}", text)
            daemon.data.mkdir()
            (daemon.data / "pepper").write_bytes(b"p" * 32)
            daemon.start()
            world.callback(_end, daemon)
            daemons.append(daemon)
        yield daemons


def _end(daemon: Daemon) -> None:
    with contextlib.suppress(AssertionError):
        daemon.stop()


def customer(daemon: Daemon, web: Web) -> Iterator[bytes]:
    """Give the requests of one, each for another number."""
    key = daemon.admin("POST", "/keys", {"name": "benchmark", "credits": 10_000_000})["api_key"]
    return requests(key, f"{web.url}/a.mp3")


def accept(daemon: Daemon, wanted: Iterator[bytes], calls: int) -> None:
    """Have at least so many calls accepted."""
    lone = Load(daemon.port, 1)
    load = Load(daemon.port, IN_FLIGHT)
    accepted = Counter[bytes]()
    # The first has the MP3 fetched.
    accepted += lone.run(wanted, 0.0).answers
    while accepted.total() < calls:
        accepted += load.run(wanted, 0.2).answers
    lone.close()
    load.close()
    if set(accepted) != {b"200 0"}:
        raise RuntimeError(f"calls were not accepted: {accepted}")


@dataclass(frozen=True)
class Measured:
    """Of so many nodes."""

    rate: float
    "Calls a second that they complete."
    cpu: float
    "Seconds of Redis for each call, from its acceptance to its end."
    memory: float
    "Octets of Redis for each call, those that are over and those that wait."


def dial(folder: Path, redis: RedisServer, web: Web, port: int, nodes: int, seconds: float) -> Measured:
    """Have so many nodes make calls."""
    with cluster(folder, redis, port, nodes=nodes, max_live=MAX_LIVE) as daemons:
        before = _figures(redis)
        accept(daemons[0], customer(daemons[0], web), int((seconds + 2 * RAMP) * nodes * MAX_LIVE / TALK))
        accepting = _figures(redis)[0] - before[0]
        time.sleep(RAMP)
        charged, began, computed = _charged(daemons[0]), time.monotonic(), _figures(redis)[0]
        time.sleep(seconds)
        made, took = _charged(daemons[0]) - charged, time.monotonic() - began
        dialling = _figures(redis)[0] - computed
        status = daemons[0].admin("GET", "/status")
        assert status["queued"] > 0, "the queue ran dry"
        calls = sum(status["store"]["calls"].values())
        memory = _figures(redis)[1] - before[1]
    return Measured(made / took, accepting / calls + dialling / made, memory / calls)


def _figures(redis: RedisServer) -> tuple[float, int]:
    """Return Redis's CPU seconds and the octets that it has in use."""
    lines = (redis.call("INFO", "cpu") + redis.call("INFO", "memory")).decode().splitlines()
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"]), int(told["used_memory"])


def _charged(daemon: Daemon) -> int:
    return int(daemon.admin("GET", "/status")["store"]["charged"])


def commands(folder: Path, redis: RedisServer, web: Web, port: int, calls: int) -> float:
    """Return how many commands Redis gets for each call that is accepted, by a node that is full."""
    with cluster(folder, redis, port, nodes=1, max_live=1) as daemons:
        wanted = customer(daemons[0], web)
        accept(daemons[0], wanted, 50)
        redis.call("CONFIG", "RESETSTAT")
        before = sum(daemons[0].admin("GET", "/status")["store"]["calls"].values())
        accept(daemons[0], wanted, calls)
        accepted = sum(daemons[0].admin("GET", "/status")["store"]["calls"].values()) - before
        asked = _asked(redis)
    return asked / int(accepted)


def _asked(redis: RedisServer) -> int:
    """Count the scripts that were run: what a script does itself is counted elsewhere by Redis."""
    lines = redis.call("INFO", "commandstats").decode().splitlines()
    stats = dict(line.split(":", 1) for line in lines if line.startswith("cmdstat_"))
    return sum(
        int(value.split(",")[0].removeprefix("calls="))
        for name, value in stats.items()
        if name in ("cmdstat_evalsha", "cmdstat_eval")
    )


def measure(quick: bool) -> list[Row]:
    seconds = QUICK_SECONDS if quick else SECONDS
    with tempfile.TemporaryDirectory() as name, web_server({"/a.mp3": speech(TALK)}) as web, ExitStack() as world:
        folder = Path(name)
        redis = RedisServer(folder / "redis")
        redis.start()
        world.callback(redis.kill)
        port = world.enter_context(carrier(folder))
        alone = dial(folder, redis, web, port, 1, seconds)
        together = dial(folder, redis, web, port, NODES, seconds)
        asked = commands(folder / "commands", redis, web, port, 1000 if quick else 10_000)
    return [
        Row(
            f"{NODES} nodes on one Redis: calls dialled",
            together.rate / alone.rate,
            "x",
            GOAL,
            True,
            f"one node, which makes {MAX_LIVE} calls of {TALK:g} s at once",
            f"{together.rate:.1f}/s to {alone.rate:.1f}/s",
        ),
        Row(
            "Redis for one call",
            together.cpu * 1e6,
            "µs",
            None,
            False,
            "of one core, from its acceptance to its outcome, heartbeats and fsyncs and all",
            f"{together.memory:,.0f} octets of memory",
        ),
        Row("scripts of Redis for each accepted call", asked, "", COMMANDS_GOAL, False, "with the MP3 in the library"),
    ]


def main(argv: Sequence[str]) -> int:
    arguments = options(__doc__).parse_args(argv)
    return tell(measure(arguments.quick), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
