"""Real Redis servers for tests: one, with a replica, with sentinels, with TLS, with users; paused, killed, restarted.

Everything is on free loopback ports and below a folder of the test. Where redis-server is not installed, the test is
skipped and says so.
"""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.interop.harness import START, free_ports, need, wait_for

HOST = "127.0.0.1"


class RedisError(Exception):
    """An error that Redis answered."""


class RedisServer:
    """One `redis-server`; each change is on the disk before it is answered.

    `replica_of`: the master. `tls`: certificate, key, and the authority of clients: nothing but TLS is spoken then.
    `more`: further lines of its configuration. `password`: of the user "default", for `call`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        replica_of: RedisServer | None = None,
        tls: tuple[Path, Path, Path] | None = None,
        password: str = "",
        more: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.port = free_ports()
        self.log = folder / "redis.log"
        self._program = need("redis-server")
        self._password = password
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        lines = [f"port {0 if tls else self.port}", "appendonly yes", "appendfsync always", 'save ""']
        lines += ["repl-diskless-sync-delay 0", "repl-timeout 5", "repl-ping-replica-period 1"]
        if tls is not None:
            certificate, key, authority = tls
            lines += [f"tls-port {self.port}", "tls-auth-clients optional", "tls-replication yes"]
            lines += [f"tls-cert-file {certificate}", f"tls-key-file {key}", f"tls-ca-cert-file {authority}"]
        if password:
            lines += [f"requirepass {password}", f"masterauth {password}"]
        if replica_of is not None:
            lines.append(f"replicaof {HOST} {replica_of.port}")
        self._write([*lines, *more])

    def _write(self, lines: Sequence[str]) -> None:
        always = [f"bind {HOST}", f"dir {self.folder.absolute()}", f"logfile {self.log.absolute()}", "daemonize no"]
        (self.folder / "redis.conf").write_text("\n".join([*always, *lines, ""]))

    _mode: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> RedisServer:
        """Start it, and wait until it takes commands."""
        command = [self._program, str((self.folder / "redis.conf").absolute()), *self._mode]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_for(f"{self.folder} is ready", self._ready)
        return self

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"it ended:\n{self.log.read_text()[-2000:]}"
        try:
            return bool(self.call("PING") == b"PONG")
        except (OSError, RedisError):
            return False

    def pause(self) -> None:
        """SIGSTOP: connections stay, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    stop = kill
    "All is on disk, so nothing needs longer."

    def call(self, *command: str | bytes | int) -> Any:
        """Ask it, blocking, on a connection of its own; raises RedisError, OSError."""
        (answer,) = self.calls(command)
        return answer

    def calls(self, *commands: Sequence[str | bytes | int]) -> list[Any]:
        """Ask several things in order on one connection."""
        with self._connection() as wire:
            if self._password:
                _ask(wire, ("AUTH", self._password))
            return [_ask(wire, command) for command in commands]

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        with socket.create_connection((HOST, self.port), timeout=START) as plain:
            if self._tls is None:
                with plain.makefile("rwb") as file:
                    yield file
                return
            context = ssl.create_default_context(cafile=self._tls[2])
            context.check_hostname = False
            with context.wrap_socket(plain) as secure, secure.makefile("rwb") as file:
                yield file


def _ask(wire: Any, command: Sequence[str | bytes | int]) -> Any:
    wire.write(b"*%d\r\n" % len(command))
    for part in command:
        octets = part if isinstance(part, bytes) else str(part).encode()
        wire.write(b"$%d\r\n%b\r\n" % (len(octets), octets))
    wire.flush()
    return _read(wire)


def _read(wire: Any) -> Any:
    line = wire.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("Redis closed the connection")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise RedisError(rest.decode())
    if kind == b"+":
        return rest
    if kind == b":" or int(rest) == -1:
        return int(rest) if kind == b":" else None
    if kind == b"$":
        return wire.read(int(rest) + 2)[:-2]
    return [_read(wire) for _ in range(int(rest))]


class Sentinel(RedisServer):
    """Watches a master, as one of several."""

    _mode = ("--sentinel",)

    def __init__(
        self,
        folder: Path,
        master: RedisServer,
        *,
        name: str = "calledin",
        quorum: int = 2,
        tls: tuple[Path, Path, Path] | None = None,
        more: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, tls=tls)
        lines = [f"port {0 if tls else self.port}"]
        if tls is not None:
            certificate, key, authority = tls
            lines += [f"tls-port {self.port}", "tls-auth-clients optional", "tls-replication yes"]
            lines += [f"tls-cert-file {certificate}", f"tls-key-file {key}", f"tls-ca-cert-file {authority}"]
        lines += [f"sentinel monitor {name} {HOST} {master.port} {quorum}"]
        lines += [f"sentinel down-after-milliseconds {name} 500", f"sentinel failover-timeout {name} 3000"]
        self._write([*lines, *more])
        self.name = name

    def master(self) -> str:
        """Return HOST:PORT of the master that it knows."""
        host, port = self.call("SENTINEL", "get-master-addr-by-name", self.name)
        return f"{host.decode()}:{port.decode()}"

    def sees(self, *, replicas: int, sentinels: int) -> bool:
        """Whether it has found as many replicas, and as many others of its kind."""
        fields = self.call("SENTINEL", "master", self.name)
        about = dict(zip(fields[::2], fields[1::2], strict=True))
        return int(about[b"num-slaves"]) >= replicas and int(about[b"num-other-sentinels"]) >= sentinels


class Cluster:
    """A master, its replicas and the sentinels that watch them.

    `replicas`: how many. `sentinels`: how many, none by default.
    """

    def __init__(
        self, folder: Path, *, replicas: int = 1, sentinels: int = 0, tls: tuple[Path, Path, Path] | None = None
    ) -> None:
        self.servers = [RedisServer(folder / "redis-0", tls=tls)]
        for number in range(replicas):
            self.servers.append(RedisServer(folder / f"redis-{number + 1}", replica_of=self.servers[0], tls=tls))
        self.sentinels = [
            Sentinel(folder / f"sentinel-{number}", self.servers[0], quorum=sentinels // 2 + 1, tls=tls)
            for number in range(sentinels)
        ]

    def start(self) -> Cluster:
        """Start all, and wait until the replicas have caught up and the sentinels know each other."""
        for server in self.servers:
            server.start()
        others = len(self.servers) - 1
        wait_for("the replicas follow", lambda: self.following(self.servers[0]) == others)
        for sentinel in self.sentinels:
            sentinel.start()
        seen = len(self.sentinels) - 1
        wait_for(
            "the sentinels know all",
            lambda: all(sentinel.sees(replicas=others, sentinels=seen) for sentinel in self.sentinels),
        )
        return self

    @staticmethod
    def following(server: RedisServer) -> int:
        """Return how many replicas of a master are up to date and online."""
        info: bytes = server.call("INFO", "replication")
        return info.count(b"state=online")

    def master(self) -> RedisServer:
        """Return the one that says it is the master, among those that answer."""
        for server in self.servers:
            try:
                if server.call("ROLE")[0] == b"master":
                    return server
            except (OSError, RedisError):
                continue
        raise AssertionError("there is no master")

    def stop(self) -> None:
        for server in [*self.sentinels, *self.servers]:
            server.stop()
