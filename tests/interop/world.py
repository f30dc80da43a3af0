"""Daemons on one store under load, with their carrier and their customers' server, and the judge at the end."""

from __future__ import annotations

import http.client
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.interop.carrier import Carrier
from tests.interop.case import SHORT
from tests.interop.harness import Daemon, Web, errors_in, free_ports, free_udp_port, wait_for, web_server
from tests.interop.judge import Evidence, Judgement, Refusal, gather, judge, settle_down

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
TO_START = 90.0
"Seconds that a start may take on a machine that runs many worlds."
PEPPER = b"p" * 32
"What nodes on one store must have in common."


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
        self.unavailable: list[Refusal] = []
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
            # Each node gets numbers with each last digit.
            place = (turn + turn // 10) % len(self._nodes)
            try:
                answer = self._nodes[place].playback(
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
            else:
                self.unavailable.append(Refusal(f"212{number:07}", self._nodes[place].folder.name, time.monotonic()))
            self.stopped.wait(self._pause)


def numbers(client: int) -> Iterator[int]:
    """Seven digits, each number once: every fifth begins with a trunk that refuses."""
    for turn in range(400_000):
        yield (6_000_000 if turn % 5 == 4 else 2_000_000) + client * 100_000 + turn


@dataclass(frozen=True)
class Blow:
    """Something that was done to a node."""

    node: str
    "Its folder's name."
    at: float


class World:
    """Daemons on one store, their clients, their carrier and their customers' server. Close it with its `stack`."""

    def __init__(
        self,
        stack: ExitStack,
        *,
        more: Sequence[str] = ("",),
        module: str | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """`more`: of each daemon's settings; `module`: what to run in place of twistd. `folder`: of the daemons."""
        folder = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.web = stack.enter_context(web_server({"/brief.mp3": BRIEF}))
        self.carrier = Carrier()
        stack.callback(self.carrier.close)
        self.nodes = [
            Daemon(folder / f"node{number}", settings(self.carrier, more=each), module=module, environment=environment)
            for number, each in enumerate(more, 1)
        ]
        self.starts: list[float] = []
        self.deaths: list[Blow] = []
        "Of nodes, and their suspensions."
        self.clients: list[Client] = []
        stack.push(self._failed)
        for node in self.nodes:
            stack.callback(node.end)
            node.data.mkdir()
            (node.data / "pepper").write_bytes(PEPPER)
            self.start(node)
        self.key = self.nodes[0].admin("POST", "/keys", {"name": "judge", "credits": CREDITS})["api_key"]

    def start(self, node: Daemon) -> None:
        node.launch()
        wait_for(f"daemon ready (log: {node.log})", node.is_ready, TO_START)
        self.starts.append(time.monotonic())

    def kill(self, node: Daemon) -> None:
        node.kill()
        self.deaths.append(Blow(node.folder.name, time.monotonic()))

    def load(self, clients: int = 2, *, pause: float = PAUSE, faithful: bool = False) -> None:
        """Have clients ask for calls from now on. `faithful`: each asks one node alone, so many clients for each."""
        of = [[node] for node in self.nodes for _ in range(clients)] if faithful else [self.nodes] * clients
        self.clients = [
            Client(nodes, self.key, self.web, numbers(number), pause=pause) for number, nodes in enumerate(of)
        ]
        for client in self.clients:
            client.start()

    def crash(self, point: str, times: int = 1, *, node: Daemon | None = None) -> bool:
        """Start a daemon (the first one), which is dead, and have it die at a point; False: it never came there."""
        daemon = node or self.nodes[0]
        daemon.launch(CALLEDIN_CRASH_AT=f"{point}:{times}")
        died = self.has_died(daemon, TO_A_POINT)
        if not died:
            self.kill(daemon)
        return died

    def has_died(self, node: Daemon, seconds: float) -> bool:
        died = node.has_died(seconds)
        if died:
            self.deaths.append(Blow(node.folder.name, time.monotonic()))
        return died

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
        judgement = judge(self.evidence())
        if judgement.broken:
            self.keep_logs()
        return judgement

    def evidence(self) -> Evidence:
        evidence = gather(self.nodes, self.carrier, self.web, self.accepted, CREDITS, starts=self.starts)
        evidence.refused = {each.number: each for client in self.clients for each in client.unavailable}
        evidence.deaths = [(death.node, death.at) for death in self.deaths]
        return evidence

    def _failed(self, kind: object, *_: object) -> None:
        """What was done to the daemons did not end as it should."""
        if kind is not None:
            self.keep_logs()
        for client in self.clients:
            client.stopped.set()

    def keep_logs(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="calledin-broken-"))
        for node in self.nodes:
            if node.log.exists():
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
