"""A daemon on one core, and on the other who it calls: SIPp as the carrier, a `Sink` as the callees' ears.

Every call is set up by a real INVITE and ended by a real BYE; SIPp names an address of its own for each callee.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from tests.benchmarks.accepts import GENERATOR_CORE, SERVER_CORE, numbers, on_core
from tests.benchmarks.sink import Sink
from tests.interop import scenarios as sc
from tests.interop.case import SPEECH
from tests.interop.harness import Daemon, Web, errors_in, free_ports, free_udp_port, wait_for

RTP_PORTS = 3
"Shared by all calls."
LONGEST = 179
"Seconds of an MP3."

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
[[trunks]]
name = "sipp"
host = "127.0.0.1"
port = {port}
channels = {channels}
calls_per_second = {rate}
"""

CALLEE = sc.scenario(
    sc.receive("INVITE"),
    sc.send("100 Trying"),
    sc.RINGING,
    sc.send("200 OK", more=sc.CONTACT, body=sc.sdp("0 101", port="[field1]", address="[field0]"), retrans=500),
    # On a busy machine the 100 may come late.
    sc.receive("INVITE", optional=True),
    sc.receive("ACK"),
    sc.receive("BYE", extra='timeout="600000"'),
    sc.send("200 OK", sc.IN_DIALOG),
)


def speech(seconds: float) -> bytes:
    """Return an MP3 that lasts so long."""
    command = [program("ffmpeg"), "-v", "error", "-stream_loop", "-1", "-i", str(SPEECH), "-t", str(seconds)]
    return subprocess.run([*command, "-f", "mp3", "-"], check=True, stdout=subprocess.PIPE).stdout


def program(name: str) -> str:
    """Return its path. Exits where it is not installed."""
    path = shutil.which(name)
    if path is None:
        raise SystemExit(f"{name} is needed to measure with")
    return path


class Stage:
    """The daemon with a key of unlimited credit, the sink, and the pids of the processes to look at."""

    def __init__(self, daemon: Daemon, sink: Sink, carrier: subprocess.Popen[bytes], web: Web) -> None:
        self.daemon = daemon
        self.sink = sink
        self.carrier = carrier
        self.web = web
        self.media = child(daemon.pid, "calledind.net.media_process")
        self.api_key: str = daemon.admin("POST", "/keys", {"name": "benchmark", "credits": 100_000_000})["api_key"]
        self._numbers = numbers()

    def ask(self, path: str, count: int, *, patient: bool = False) -> int:
        """Have so many calls accepted that play this MP3 of the web server. Raises RuntimeError where one is not.

        `patient`: ask for the rest another time after a 503. Returns how many were accepted.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.daemon.port, timeout=60)
        accepted = 0
        while accepted < count:
            connection.request("GET", self.target(path))
            response = connection.getresponse()
            answer = response.read()
            if response.status == HTTPStatus.SERVICE_UNAVAILABLE and patient:
                break
            if answer != b"0":
                raise RuntimeError(f"a call was not accepted: {answer!r}")
            accepted += 1
        connection.close()
        return accepted

    def target(self, path: str) -> str:
        """Return what to ask for to have one more number called."""
        mp3 = quote(self.web.url + path, safe="")
        number = next(self._numbers)
        return f"/api/playback/?api_key={self.api_key}&phone_number={number}&country_code=1&mp3={mp3}"

    def live(self) -> int:
        """Return how many streams are being sent."""
        return int(self.daemon.admin("GET", "/status")["media"]["streams"])

    def charged(self) -> int:
        """Return how many calls were answered and have ended."""
        return int(self.daemon.admin("GET", "/status")["store"]["charged"])

    def wait_for_end(self) -> None:
        """Wait until all calls have ended and are settled."""
        wait_for("the calls end", lambda: self.daemon.admin("GET", "/status")["store"]["held"] == 0, LONGEST)

    def wait_for_streams(self, count: int, seconds: float) -> None:
        wait_for(f"{count} streams", lambda: self.live() >= count, seconds)


@contextmanager
def stage(folder: Path, web: Web, rate: float, channels: int = 20_000, more: str = "") -> Iterator[Stage]:
    """`rate`: calls a second that are begun. `channels`: calls at once. `more`: of the settings."""
    first = free_ports(2 * RTP_PORTS)
    port = free_udp_port()
    settings = SETTINGS.format(first=first, last=first + 2 * RTP_PORTS - 1, port=port, rate=rate, channels=channels)
    ours = Daemon(folder, settings + more)
    sink = Sink()
    callees = [sink.address(number) for number in range(20_000)]
    (folder / "callees.csv").write_text("SEQUENTIAL\n" + "".join(f"{host};{port}\n" for host, port in callees))
    (folder / "callee.xml").write_text(CALLEE)
    command = [program("sipp"), "-sf", "callee.xml", "-inf", "callees.csv", "-i", "127.0.0.1", "-p", str(port)]
    with on_core(GENERATOR_CORE):
        sink.start()
        carrier = subprocess.Popen(
            [*command, "-nostdin", "-trace_err", "-error_file", "errors.log"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        wait_for("SIPp listens", lambda: f":{port:04X} " in Path("/proc/net/udp").read_text())
        with on_core(SERVER_CORE):
            ours.start()
        with on_core(GENERATOR_CORE):
            yield Stage(ours, sink, carrier, web)
        if ours.stop() != 0:
            raise RuntimeError(f"the daemon did not end well:\n{ours.log.read_text()[-2000:]}")
        if trouble := errors_in(ours.log.read_text(errors="replace")):
            raise RuntimeError(f"the daemon's log tells of trouble: {trouble[:3]}")
        errors = folder / "errors.log"
        if errors.exists() and "Aborting call" in (told := errors.read_text(errors="replace")):
            raise RuntimeError(f"SIPp tells of trouble: {told[:1000]}")
    finally:
        with contextlib.suppress(AssertionError):  # it was never started
            ours.kill()
        carrier.kill()
        carrier.wait()
        sink.close()


def child(pid: int, module: str) -> int:
    """Return the pid of the child of a process that runs this module."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and module.encode() in path.joinpath("cmdline").read_bytes().split(b"\0"):
                return int(path.name)
        except OSError:
            continue  # ended meanwhile
    raise RuntimeError(f"process {pid} has no child {module}")


def anonymous(pid: int) -> int:
    """Return the octets of memory that are the process's own: shared files are not among them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def cores() -> None:
    """Exit where there are fewer than two: who hears must not take the time of who is heard."""
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("two cores are needed to measure on")
