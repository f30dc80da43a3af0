"""Socket activation: who restarts the daemon while requests come in refuses none of them."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from urllib.parse import urlencode

from tests.interop.carrier import Carrier
from tests.interop.case import SHORT, InteropCase, settings, trunk
from tests.interop.harness import TWISTD, Daemon, free_udp_port, wait_for
from tests.interop.test_signals import connect, status_of

HAND_OVER = """
import os, sys
for index, descriptor in enumerate(map(int, sys.argv[2].split(","))):
    os.dup2(descriptor, 3 + index)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(index + 1), LISTEN_FDNAMES=sys.argv[1])
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""
"What systemd does between fork and exec, for descriptors above all that it puts them to."
PATIENCE = 30.0
"Seconds that a client waits for its answer: as long as a restart may take."
BUSY, ANSWERS = "5", "0"
"Last digits of the carrier's numbers."


class ActivatedDaemon(Daemon):
    """A daemon whose listening sockets, name -> socket, are kept by who starts it."""

    def hold(self, **sockets: socket.socket) -> None:
        self.sockets = sockets
        self.port = sockets["http"].getsockname()[1]

    def launch(self, **environment: str) -> None:
        # The launcher must not put one over another.
        handed = [os.dup(each.fileno()) for each in self.sockets.values()]
        for descriptor in range(3, 3 + len(handed)):
            assert descriptor not in handed
        command = [sys.executable, "-c", HAND_OVER, ":".join(self.sockets), ",".join(map(str, handed))]
        command += ["-c", TWISTD, "--nodaemon", "--pidfile=", "calledin", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**self._environment, **environment},
                cwd=self.folder,
                pass_fds=handed,
            )
        for descriptor in handed:
            os.close(descriptor)


def listen() -> socket.socket:
    """A socket as systemd opens one."""
    opened = socket.create_server(("127.0.0.1", 0), backlog=4096)
    opened.setblocking(False)
    return opened


@dataclass
class Clients:
    """Programs that ask so many times a second, however long those before must wait.

    Some of them do so again and again over connections that they keep.
    """

    address: tuple[str, int]
    parameters: dict[str, str]
    rate: float
    "Requests a second, all together."
    answers: list[tuple[int, str, str]] = field(default_factory=list)
    "Status, body and call id."
    failures: list[str] = field(default_factory=list)
    "What else a client has seen: a refused or reset connection, or none that was answered in time."
    longest: float = 0.0
    "Seconds until an answer."
    asked: int = 0

    def start(self) -> None:
        self._numbers = count(2125550005, 10)
        self._closed = threading.Event()
        self._kept: list[http.client.HTTPConnection] = []
        "That nobody uses now."
        self._running: list[threading.Thread] = []
        self._clock = threading.Thread(target=self._ask_on)
        self._clock.start()

    def stop(self) -> None:
        self._closed.set()
        self._clock.join()
        for thread in self._running:
            thread.join(PATIENCE + 5)
        for connection in self._kept:
            connection.close()

    def _ask_on(self) -> None:
        next_at = time.monotonic()
        while not self._closed.wait(max(0.0, next_at - time.monotonic())):
            next_at += 1 / self.rate
            self.asked += 1
            thread = threading.Thread(target=self._ask, args=(str(next(self._numbers)), self.asked % 2 == 0))
            self._running.append(thread)
            thread.start()

    def _ask(self, number: str, keep: bool) -> None:
        connection = self._kept.pop() if keep and self._kept else self._connection()
        query = urlencode({**self.parameters, "phone_number": number})
        began = time.monotonic()
        try:
            connection.request("GET", f"/api/playback/?{query}")
            response = connection.getresponse()
            self.answers.append(
                (response.status, response.read().decode(), response.headers.get("calledin-call-id", ""))
            )
            self.longest = max(self.longest, time.monotonic() - began)
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(repr(error))
        if keep and connection.sock is not None:
            self._kept.append(connection)
        else:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=PATIENCE)


class ActivationCase(InteropCase):
    carrier: Carrier
    daemon: ActivatedDaemon

    def begin(self, *, http_table: str = "", **sockets: socket.socket) -> None:
        self.carrier = Carrier()
        self.world.callback(self.carrier.close)
        text = settings(
            trunk(self.carrier.port, more="channels = 500"), sip_port=free_udp_port(), rest=f"[http]\n{http_table}"
        )
        self.daemon = ActivatedDaemon(self.folder / "daemon", text)
        self.daemon.hold(http=self.hold(listen()), **sockets)
        self.world.callback(self.stop, self.daemon)
        self.daemon.start()
        self.key = self.daemon.admin("POST", "/keys", {"name": "test", "credits": 10_000})["api_key"]

    def hold(self, opened: socket.socket) -> socket.socket:
        self.world.callback(opened.close)
        return opened

    def wait_until_it_plays(self, call_id: str) -> None:
        wait_for("the call plays", lambda: self.daemon.admin("GET", f"/calls/{call_id}")["state"] == "answered")

    def terminate(self) -> None:
        os.kill(self.daemon.pid, signal.SIGTERM)


class RestartTests(ActivationCase):
    def test_under_load(self) -> None:
        """A restart with a call playing and 50 requests a second: none is refused, lost or reset, all are dialled."""
        self.begin()
        playing = self.ask(self.daemon, mp3=f"{self.web.url}/short.mp3", phone_number=f"212555010{ANSWERS}")
        self.wait_until_it_plays(playing)
        parameters = {"api_key": self.key, "country_code": "1", "mp3": f"{self.web.url}/short.mp3"}
        clients = Clients(("127.0.0.1", self.daemon.port), parameters, rate=50.0)
        clients.start()
        self.world.callback(clients.stop)
        time.sleep(0.5)
        before = len(clients.answers)
        self.assertEqual(self.daemon.stop(), 0)
        # Nobody accepts now: more requests come than one address may have connections.
        time.sleep(5.0)
        after = len(clients.answers)
        self.daemon.start()
        wait_for("requests of the next process", lambda: len(clients.answers) > after + 50)
        clients.stop()
        self.assertEqual(clients.failures, [])
        self.assertEqual({(status, body) for status, body, _ in clients.answers}, {(200, "0")})
        self.assertEqual(len(clients.answers), clients.asked)
        self.assertGreater(after, before)
        told = self.web.next_callback()
        self.assertEqual((told.headers["webhook-id"], *self.outcome(told)), (playing, "1", ""))
        accepted = {call_id for *_, call_id in clients.answers}
        wait_for("all are dialled", lambda: accepted <= set(self.carrier.invites), 60.0)
        self.assertEqual(accepted | {playing}, set(self.carrier.invites))
        self.assertEqual({len(branches) for branches in self.carrier.invites.values()}, {1})

    def test_refused_where_asked_for(self) -> None:
        """With accept_while_draining = false, what comes while a call plays gets 503, and finds the socket open."""
        self.begin(http_table="accept_while_draining = false")
        playing = self.ask(self.daemon, phone_number=f"212555010{ANSWERS}")
        self.wait_until_it_plays(playing)
        self.terminate()
        wait_for("not ready", lambda: self.daemon.get("/readyz").status == 503)
        self.assertEqual(self.daemon.stop(), 0)
        with socket.create_connection(("127.0.0.1", self.daemon.port)):
            self.daemon.start()

    def test_connections(self) -> None:
        """After SIGTERM an answer says that it is the last; one asked for before is given; who is idle sees the end."""
        self.begin()
        asks, waits, idle = (self.connection() for _ in range(3))
        for connection in (asks, waits, idle):
            self.assertEqual(status_of(connection), 200)
        files = self.hold(socket.create_server(("127.0.0.1", 0)))
        parameters = {"api_key": self.key, "country_code": "1", "phone_number": f"212555011{BUSY}"}
        mp3 = f"http://127.0.0.1:{files.getsockname()[1]}/slow.mp3"
        waits.request("GET", "/api/playback/?" + urlencode({**parameters, "mp3": mp3}))
        fetching = self.hold(files.accept()[0])
        self.terminate()
        wait_for("it stops", lambda: "requests are taken" in self.daemon.log.read_text())
        asks.request("GET", "/healthz")
        last = asks.getresponse()
        self.assertEqual((last.read(), last.headers["connection"]), (b"ok\n", "close"))
        body = SHORT.read_bytes()
        fetching.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        answer = waits.getresponse()
        self.assertEqual((answer.status, answer.read()), (200, b"0"))
        for connection in (waits, idle):
            assert connection.sock is not None
            self.assertEqual(connection.sock.recv(1), b"")
        self.assertEqual(self.daemon.stop(), 0)
        self.daemon.start()
        wait_for("it is dialled", lambda: bool(self.carrier.invites))

    def connection(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.daemon.port, timeout=PATIENCE)
        self.world.callback(connection.close)
        return connection


class SocketTests(ActivationCase):
    def test_https(self) -> None:
        """A socket named https is served with the certificate, in place of tls_listen."""
        https = self.hold(listen())
        self.begin(https=https)
        connection = connect(https.getsockname()[1])
        self.assertEqual(status_of(connection), 200)
        connection.close()
        self.assertIn(f"https://127.0.0.1:{https.getsockname()[1]}", self.daemon.log.read_text())

    def test_unknown_name(self) -> None:
        """A socket with a name that means nothing keeps the daemon from starting, and the log says what to write."""
        daemon = ActivatedDaemon(self.folder / "daemon", "simulator = true\n[sip]\nbind = ['127.0.0.1:0']\n")
        daemon.hold(http=self.hold(listen()), telnet=self.hold(listen()))
        with self.assertRaises(AssertionError):
            daemon.start()
        self.assertEqual(daemon.stop(), 1)
        self.assertIn("FileDescriptorName", daemon.log.read_text())


class UnitTests(InteropCase):
    def test_names(self) -> None:
        """The unit files name their sockets as the daemon knows them."""
        folder = Path(__file__).parents[2] / "etc"
        for file, name in (("calledin.socket", "http"), ("calledin-https.socket", "https")):
            self.assertIn(f"FileDescriptorName={name}\n", (folder / file).read_text())
