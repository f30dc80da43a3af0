"""The demo's daemon: the real one, in a child process, with the built-in carrier and a data folder of its own."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from calledind.cli.client import Client

START_SECONDS = 20.0
"How long the daemon may take until it is ready."
STOP_SECONDS = 10.0
"How long it may take to finish after SIGTERM."
TWISTD = "from twisted.scripts.twistd import run; run()"


class DaemonFailed(Exception):
    """The daemon can't be started; the message says what happened."""


class Daemon:
    """Starts, asks and stops the daemon. `folder`: for its data and its log."""

    def __init__(self, folder: Path, http_port: int, page_port: int) -> None:
        self.port = http_port
        self.page_port = page_port
        self.data = folder / "data"
        self.log = folder / "calledin.log"
        self.socket = self.data / "admin.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def page_url(self) -> str:
        return f"http://127.0.0.1:{self.page_port}"

    @property
    def page_token(self) -> str:
        """What opens the page; there once the daemon has started. Raises OSError."""
        return (self.data / "page-token").read_text().strip()

    def start(self) -> None:
        """Start it and wait until it is ready for calls. Raises DaemonFailed."""
        command = [sys.executable, "-c", TWISTD, "--nodaemon", "--pidfile=", "calledin", "--demo"]
        command += ["--data", str(self.data), "--http", f"127.0.0.1:{self.port}"]
        command += ["--page", f"127.0.0.1:{self.page_port}"]
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C is for the demo, which then stops the daemon in good order.
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if self._process.poll() is not None:
                raise DaemonFailed(f"the daemon ended with {self._process.returncode}; the end of its log:")
            if time.monotonic() > deadline:
                raise DaemonFailed(f"the daemon is not ready after {START_SECONDS:.0f} s; the end of its log:")
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200 and self.socket.exists()
        except (OSError, http.client.HTTPException):
            return False

    def get(self, target: str) -> tuple[int, Mapping[str, str], str]:
        """GET from the public face. Returns status, headers (names in lower case), body. Raises OSError."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", target)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, response.read().decode("latin-1")
        finally:
            connection.close()

    @property
    def admin(self) -> Client:
        """The administrator's face."""
        return Client(self.socket)

    def log_tail(self, lines: int = 15) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError as error:
            return f"(no log: {error})"

    def stop(self) -> int | None:
        """Ask it to finish, and kill it when it doesn't. Returns its exit status; negative: the signal's number."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()


def free_port(wanted: int) -> int:
    """Return `wanted` when that loopback port is free, else one that is."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DaemonFailed("no TCP port is free on 127.0.0.1")
