"""A whole daemon, and the world around it: a web server with MP3s, a callback sink, SIPp as the carrier.

Everything is a real program or a real socket on a free loopback port; nothing here knows calledin's insides.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import SkipTest
from urllib.parse import parse_qs, urlencode, urlsplit

TWISTD = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
START = 30.0
"Seconds that a program may take until it is ready."


def need(program: str) -> str:
    """Return the program's path, or skip the test."""
    path = shutil.which(program)
    if path is None:
        raise SkipTest(f"skipped: {program} is not installed")
    return path


FIRST_PORT, LAST_PORT = 10000, 31999
"Below those that the kernel gives to outgoing connections."


def free_ports(count: int = 1) -> int:
    """Return the first of `count` ports in a row (an even one) that nobody else was given for a while.

    The tests of several processes share a counter, so that none takes another's before it is opened.
    """
    with (Path(tempfile.gettempdir()) / "calledin-test-ports").open("a+") as counter:
        fcntl.flock(counter, fcntl.LOCK_EX)
        counter.seek(0)
        first = int(counter.read() or FIRST_PORT)
        size = count + count % 2
        while True:
            if first + size > LAST_PORT:
                first = FIRST_PORT
            if _is_free(first) and _is_free(first + 1):
                break
            first += 2
        counter.truncate(0)
        counter.write(str(first + size))
    return first


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            udp.bind(("127.0.0.1", port))
            tcp.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_udp_port() -> int:
    return free_ports()


def free_tcp_port() -> int:
    return free_ports()


def join(host: str, port: int) -> str:
    """As it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def wait_for(what: str, ready: Callable[[], bool], seconds: float = START) -> None:
    """Look until it is so; raises AssertionError that says what was waited for."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.01)


@dataclass(frozen=True)
class Told:
    """One callback, as it came in."""

    query: Mapping[str, str]
    headers: Mapping[str, str]
    "Names in lower case."
    target: str
    at: float
    "Seconds since the epoch."


@dataclass
class Web:
    """A web server of MP3s that takes callbacks as well."""

    files: dict[str, bytes] = field(default_factory=dict)
    told: queue.Queue[Told] = field(default_factory=queue.Queue)
    refuse: list[int] = field(default_factory=list)
    "Statuses to answer the next callbacks with, before 200."
    fetched: list[str] = field(default_factory=list)
    "Paths of the MP3s that were asked for, whether they are there or not."
    host: str = "127.0.0.1"
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://{join(self.host, self.port)}"

    def next_callback(self, seconds: float = 60.0) -> Told:
        return self.told.get(timeout=seconds)


@contextmanager
def web_server(files: Mapping[str, bytes], *, host: str = "127.0.0.1") -> Iterator[Web]:
    web = Web(dict(files), host=host)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path.startswith("/callback"):
                query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
                headers = {name.lower(): value for name, value in self.headers.items()}
                web.told.put(Told(query, headers, self.path, time.time()))
                status = web.refuse.pop(0) if web.refuse else 200
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            web.fetched.append(parts.path)
            if parts.path in web.files:
                body = web.files[parts.path]
                self.send_response(200)
                self.send_header("Content-Type", "audio/mpeg")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            else:
                self.send_error(404)

        def log_message(self, format: str, *args: Any) -> None:
            """Tests have no log to keep."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A daemon that has read enough may leave before the last octet."""
            if not isinstance(sys.exc_info()[1], ConnectionError):
                super().handle_error(request, client_address)

    server = Server((host, 0), Handler)
    web.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the administrator's socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Answer:
    """What a playback request got."""

    status: int
    body: str
    headers: Mapping[str, str]

    @property
    def call_id(self) -> str:
        return self.headers["calledin-call-id"]


class Daemon:
    """`twistd calledin` in a process of its own; `settings` is the text of its settings file.

    `module`: what to run in place of twistd, with twistd's arguments. `host`: where its API listens.
    """

    def __init__(
        self,
        folder: Path,
        settings: str,
        *,
        module: str | None = None,
        environment: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.folder = folder
        self.host = host
        self.port = free_tcp_port()
        self.data = folder / "data"
        self.config = folder / "calledin.toml"
        self.log = folder / "calledin.log"
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(f'data = "{self.data}"\n{settings}')
        self._program = ["-c", TWISTD] if module is None else ["-m", module]
        self._environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.launch()
        wait_for(f"daemon ready (log: {self.log})", self.is_ready)

    def launch(self, **environment: str) -> None:
        """Begin to start it, with more in its environment; it may end before it is ready."""
        command = [sys.executable, *self._program, "--nodaemon", "--pidfile=", "calledin"]
        command += ["--config", str(self.config), "--http", join(self.host, self.port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**self._environment, **environment},
                cwd=self.folder,
            )

    def is_ready(self) -> bool:
        """Raises AssertionError where it has ended."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self._process.returncode}:\n{self.log.read_text()[-3000:]}")
        try:
            return self.get("/readyz").status == 200
        except (OSError, http.client.HTTPException):
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def has_died(self, seconds: float) -> bool:
        """Wait for it to be killed, by whatever."""
        assert self._process is not None
        try:
            return self._process.wait(seconds) == -signal.SIGKILL
        except subprocess.TimeoutExpired:
            return False

    def kill(self) -> None:
        """kill -9, as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Kill it where it is there."""
        if self._process is not None:
            self.kill()

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM; returns the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            log = self.log.read_text()[-3000:]
            raise AssertionError(f"the daemon did not end within {seconds:.0f} s of SIGTERM:\n{log}") from None

    def get(self, target: str) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request("GET", target)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, response.read().decode(), headers)
        finally:
            connection.close()

    def playback(self, **parameters: str) -> Answer:
        return self.get("/api/playback/?" + urlencode(parameters))

    def admin(self, method: str, path: str, body: object = None) -> Any:
        connection = UnixConnection(self.data / "admin.sock")
        try:
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, path, body=content, headers={"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
            assert response.status < 300, (response.status, text)
            return json.loads(text or b"null")
        finally:
            connection.close()

    def calledin(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the `calledin` command against this daemon."""
        command = [str(Path(sys.executable).with_name("calledin")), "--socket", str(self.data / "admin.sock")]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)


def errors_in(log: str) -> list[str]:
    """Give the lines of a daemon's log that no daemon should write."""
    return [line for line in log.splitlines() if "Traceback" in line or "Unhandled" in line or "#critical" in line]


@dataclass
class Sipp:
    """SIPp playing one scenario as the carrier."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def wait(self, seconds: float = 60.0) -> int:
        """Return SIPp's exit status: 0, all calls went as the scenario says."""
        return self.process.wait(seconds)

    def messages(self) -> str:
        """Every message of it, as SIPp logged them."""
        return "".join(path.read_text(errors="replace") for path in self.folder.glob("*_messages.log"))

    def explain(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.folder.glob("*_errors.log"))


@contextmanager
def sipp(
    folder: Path,
    scenario: str,
    *arguments: str,
    calls: int = 1,
    port: int | None = None,
    address: str = "127.0.0.1",
    trace: bool = True,
) -> Iterator[Sipp]:
    """Start SIPp as a UAS with this scenario (XML); it ends after `calls` calls. `trace`: it writes its messages."""
    program = need("sipp")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "scenario.xml"
    path.write_text(scenario)
    port = port or free_udp_port()
    command = [program, "-sf", str(path), "-i", address, "-p", str(port), "-m", str(calls)]
    # Its ports for RTP that nobody sends and for commands that nobody gives: else all of them look for theirs at once
    # among the same hundred.
    media = free_ports(6)
    command += ["-mp", str(media), "-cp", str(media + 4)]
    command += ["-nostdin", *(["-trace_msg", "-trace_err"] if trace else []), *arguments]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        kind = "tcp" if "t1" in arguments else "udp"
        wait_for("SIPp listens", lambda: _is_taken(address, port, kind) or process.poll() is not None)
        started = Sipp(process, port, folder)
        assert process.poll() in (None, 0), f"SIPp ended with {process.poll()}: {started.explain()}"
        yield started
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


LISTEN = "0A"
"State of a TCP socket in the kernel's table (proc(5))."


def _is_taken(address: str, port: int, kind: str) -> bool:
    """Whether a program has this port, by the kernel's table: to bind it for a look could keep it from binding."""
    table = Path(f"/proc/net/{kind}{'6' if ':' in address else ''}")
    if table.exists():
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
        return any(row[1].endswith(f":{port:04X}") and (kind == "udp" or row[3] == LISTEN) for row in rows)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return True
    return False
