"""A world that falls down again and again: daemons under load that are killed, and the judge at the end.

    python -m tests.interop.chaos [--store embedded|redis|both] [--runs 25] [--kills 500] [--seed 1]

runs the long forms of `test_crash` and `test_kill`, and prints a line for each with its figures.
"""

from __future__ import annotations

import argparse
import http.client
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from calledind.crash import POINTS
from tests.interop.carrier import Carrier
from tests.interop.case import SHORT
from tests.interop.harness import Daemon, Web, errors_in, free_ports, free_udp_port, web_server
from tests.interop.judge import Judgement, gather, judge, settle_down

CREDITS = 1_000_000
BRIEF = SHORT.read_bytes()[:4000]
"Half a second of an MP3."
PAUSE = 0.08
"Seconds between two requests of one client."
PORTS = 200
"For the audio of one daemon."
REFUSED_FIRST = "2126"
"Leading digits of numbers whose first trunk says 503."
TO_A_POINT = 30.0
"Seconds within which a daemon under load comes to any point."

BEFORE = {
    "recovery.read": "dial.ringing",
    "recovery.queued": "accept.kept",
    "recovery.cancel.due": "dial.ringing",
    "recovery.cancel.sent": "dial.ringing",
    "recovery.bye.due": "stream.begun",
    "recovery.bye.sent": "stream.begun",
}
"Point after a restart -> where the process before must have died, so that there is something to take up."
ONLY = {"disk.": "embedded", "redis.": "redis", "node.": "redis", "dial.claimed": "redis"}
"How a point begins that one store alone has."


def points(store: str) -> list[str]:
    """Return the points that a daemon with this store comes to, in the order of a call's life."""
    return [name for name in POINTS if all(only == store or not name.startswith(start) for start, only in ONLY.items())]


def settings(carrier: Carrier, *, more: str = "") -> str:
    first_rtp = free_ports(PORTS)
    trunk = "calls_per_second = 200.0\nchannels = 1000\n"
    return f"""
{more}
[sip]
bind = ["127.0.0.1:{free_udp_port()}"]
t1 = 0.05
[rtp]
bind = "127.0.0.1"
ports = [{first_rtp}, {first_rtp + PORTS - 1}]
[audio]
allow_networks = ["127.0.0.0/8"]
allow_ports = []
[calls]
ring_timeout = 1.0
lead_in = 0.0
lead_out = 0.1
[[trunks]]
name = "refuses"
host = "127.0.0.1"
port = {carrier.refusing_port}
prefixes = ["1{REFUSED_FIRST}"]
priority = 0
{trunk}
[[trunks]]
name = "judge"
host = "127.0.0.1"
port = {carrier.port}
priority = 1
{trunk}
"""


class Client(threading.Thread):
    """Asks for calls, one number after the other, until it is told to stop; keeps what it was told."""

    def __init__(
        self, nodes: Sequence[Daemon], key: str, web: Web, numbers: Iterable[int], *, pause: float = PAUSE
    ) -> None:
        super().__init__(daemon=True)
        self.accepted: list[str] = []
        self.refused: set[str] = set()
        "Codes but 0, which nobody should get."
        self.stopped = threading.Event()
        self._nodes, self._key, self._web, self._numbers, self._pause = nodes, key, web, numbers, pause

    def run(self) -> None:
        for turn, number in enumerate(self._numbers):
            if self.stopped.is_set():
                return
            path = "/brief.mp3"
            if turn % 7 == 0:
                # Octets that nobody has seen, so that they are fetched and decoded: a tag that says nothing.
                path = f"/{number}.mp3"
                self._web.files[path] = BRIEF + b"TAG" + str(number).encode().ljust(125)
            try:
                answer = self._nodes[turn % len(self._nodes)].playback(
                    api_key=self._key,
                    phone_number=f"212{number:07}",
                    country_code="1",
                    mp3=self._web.url + path,
                    callback_url=f"{self._web.url}/callback",
                )
            except (OSError, http.client.HTTPException):
                self.stopped.wait(0.02)
                continue
            if answer.status == 200 and answer.body == "0":
                self.accepted.append(answer.call_id)
            elif answer.status == 200:
                self.refused.add(answer.body)
            self.stopped.wait(self._pause)


def numbers(client: int) -> Iterator[int]:
    """Seven digits, each number once: every fifth begins with a trunk that refuses."""
    for turn in range(400_000):
        yield (6_000_000 if turn % 5 == 4 else 2_000_000) + client * 100_000 + turn


class World:
    """Daemons on one store, their clients, their carrier and their customers' server. Close it with its `stack`."""

    def __init__(self, stack: ExitStack, *, more: Sequence[str] = ("",), module: str | None = None) -> None:
        """`more`: of each daemon's settings; `module`: what to run in place of twistd."""
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.web = stack.enter_context(web_server({"/brief.mp3": BRIEF}))
        self.carrier = Carrier()
        stack.callback(self.carrier.close)
        self.nodes = [
            Daemon(folder / f"node{number}", settings(self.carrier, more=each), module=module)
            for number, each in enumerate(more, 1)
        ]
        self.starts: list[float] = []
        self.clients: list[Client] = []
        for node in self.nodes:
            stack.callback(node.end)
            self.start(node)
        self.key = self.nodes[0].admin("POST", "/keys", {"name": "judge", "credits": CREDITS})["api_key"]

    def start(self, node: Daemon) -> None:
        node.start()
        self.starts.append(time.monotonic())

    def load(self, clients: int = 2, *, pause: float = PAUSE) -> None:
        """Have clients ask for calls from now on."""
        self.clients = [
            Client(self.nodes, self.key, self.web, numbers(number), pause=pause) for number in range(clients)
        ]
        for client in self.clients:
            client.start()

    def crash(self, point: str, times: int = 1) -> bool:
        """Start the first daemon, which is dead, and have it die at a point; False where it never came there."""
        daemon = self.nodes[0]
        daemon.launch(CALLEDIN_CRASH_AT=f"{point}:{times}")
        if daemon.has_died(TO_A_POINT):
            return True
        daemon.kill()
        return False

    @property
    def accepted(self) -> list[str]:
        return [call_id for client in self.clients for call_id in client.accepted]

    def judgement(self) -> Judgement:
        """Let all come to its end, without more load, and judge."""
        for client in self.clients:
            client.stopped.set()
        for client in self.clients:
            client.join()
        settle_down(self.nodes, self.carrier)
        judgement = judge(gather(self.nodes, self.carrier, self.web, self.accepted, CREDITS, starts=self.starts))
        if judgement.broken:
            self.keep_logs()
        return judgement

    def keep_logs(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="calledin-broken-"))
        for node in self.nodes:
            shutil.copy(node.log, folder / f"{node.folder.name}.log")
        print(f"something is broken: the logs are in {folder}", flush=True)

    def complaints(self) -> list[str]:
        """What no daemon should write into its log, and no client should be told."""
        refused = sorted(set().union(*(client.refused for client in self.clients)))
        logged = [each for node in self.nodes for each in complaints_in(node.log.read_text())]
        return logged + [f"a client was told code {code}" for code in refused]


def complaints_in(log: str) -> list[str]:
    """Say what no daemon should write; the first of it with what stands around it."""
    lines, errors = log.splitlines(), errors_in(log)
    if not errors:
        return []
    at = lines.index(errors[0])
    return ["\n".join(["in a log:", *lines[max(0, at - 3) : at + 25]]), *errors[1:]]


def crash_at_each(names: Sequence[str], seed: int, *, more: Sequence[str] = ("",)) -> tuple[Judgement, list[str]]:
    """One daemon after the other dies at these points, all on one store and under load; returns what else went wrong.

    Where a point needs something that was left behind, the process before dies where it is left.
    """
    chance = random.Random(seed)
    wrong = []
    with ExitStack() as stack:
        world = World(stack, more=more)
        world.load()
        world.nodes[0].kill()
        for name in names:
            if name in BEFORE and not world.crash(BEFORE[name]):
                wrong.append(f"{BEFORE[name]}: no daemon came there")
            times = 1 if name in BEFORE else chance.choice((1, 1, 2, 3))
            if not world.crash(name, times):
                wrong.append(f"{name}:{times}: no daemon came there")
        world.start(world.nodes[0])
        judgement = world.judgement()
        return judgement, wrong + world.complaints()


def in_chains(store: str, chains: int, seed: int) -> list[tuple[list[str], int]]:
    """Deal the points of a store out to so many chains, by chance; each with a seed of its own."""
    chance = random.Random(f"{store} {seed}")
    dealt = points(store)
    chance.shuffle(dealt)
    return [(dealt[first::chains], chance.randrange(1 << 30)) for first in range(chains)]


def kill_at_random(
    kills: int, seed: int, *, more: Sequence[str] = ("",), module: str | None = None
) -> tuple[Judgement, list[str]]:
    """Kill the first daemon so many times, whatever it is doing."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        world = World(stack, more=more, module=module)
        world.load(3, pause=0.02)
        for _ in range(kills):
            time.sleep(chance.random() ** 2 * 3.0)
            world.nodes[0].kill()
            world.start(world.nodes[0])
        judgement = world.judgement()
        return judgement, world.complaints()


# the long forms


def report(title: str, began: float, results: Iterable[tuple[Judgement, list[str]]]) -> bool:
    """Print a line with the sums, and all that is broken; True where nothing is."""
    figures: dict[str, int] = {}
    broken: list[str] = []
    for judgement, complaints in results:
        broken += judgement.broken + complaints
        for name, number in judgement.figures.items():
            figures[name] = figures.get(name, 0) + number
    counted = ", ".join(f"{name} {number}" for name, number in figures.items())
    print(f"{title}: {len(broken) or 'nothing'} broken; {counted}; {time.monotonic() - began:.0f} s", flush=True)
    for line in broken:
        print(f"    {line}", flush=True)
    return not broken


def many(jobs: int, work: Sequence[Callable[[], tuple[Judgement, list[str]]]]) -> list[tuple[Judgement, list[str]]]:
    """Do all of this, some at the same time."""
    with ThreadPoolExecutor(jobs) as pool:
        return [done.result() for done in [pool.submit(each) for each in work]]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop.chaos", description=__doc__)
    parser.add_argument("--store", choices=("embedded",), default="embedded")
    parser.add_argument("--runs", type=int, default=25, help="deaths at each crash point (default 25)")
    parser.add_argument("--kills", type=int, default=500, help="kills at random moments (default 500)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="worlds at the same time (default 2)")
    wanted = parser.parse_args(arguments)
    well = True
    if wanted.runs:
        began = time.monotonic()
        chains = [chain for run in range(wanted.runs) for chain in in_chains(wanted.store, 2, wanted.seed + run)]
        results = many(wanted.jobs, [partial(crash_at_each, names, seed) for names, seed in chains])
        title = f"{wanted.store}: {len(points(wanted.store))} crash points x {wanted.runs}"
        well &= report(title, began, results)
    if wanted.kills:
        began = time.monotonic()
        work = [partial(kill_at_random, wanted.kills // wanted.jobs, wanted.seed + job) for job in range(wanted.jobs)]
        well &= report(f"{wanted.store}: {wanted.kills} kills", began, many(wanted.jobs, work))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
