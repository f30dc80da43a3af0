"""The world with a store that nodes share: Redis, and a relay in front of it for each node."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.interop.harness import Daemon
from tests.interop.judge import Evidence
from tests.interop.world import Blow, World
from tests.store.redis_server import HOST, Cluster, RedisServer

LEASE = 3.0
"Seconds."


class Wire:
    """Carries octets between a node and its Redis, until it is cut: a relay of TCP in a thread of its own."""

    def __init__(self, port: int) -> None:
        """`port`: of Redis."""
        self._target = port
        self._listener = socket.create_server((HOST, 0), backlog=64)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._mended = threading.Event()
        self._silent = False
        self._closed = False
        self._mended.set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def cut(self, *, silently: bool) -> None:
        """Carry nothing until `mend`. `silently`: connections stay, and what is sent waits; else they are closed."""
        self._silent = silently
        self._mended.clear()

    def mend(self) -> None:
        self._mended.set()

    def close(self) -> None:
        self._closed = True
        self._mended.set()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._closed:
            if not self._mended.is_set():
                if not self._silent:
                    self._drop_all()
                self._mended.wait(0.05)
                continue
            for key, _ in self._selector.select(0.05):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj in self._pairs:
                    self._carry(key.fileobj)
        self._drop_all()

    def _accept(self) -> None:
        with suppress(OSError):
            near, _ = self._listener.accept()
            try:
                far = socket.create_connection((HOST, self._target), timeout=1.0)
            except OSError:
                near.close()
                return
            for one, other in ((near, far), (far, near)):
                one.settimeout(5.0)
                self._pairs[one] = other
                self._selector.register(one, selectors.EVENT_READ)

    def _carry(self, source: socket.socket) -> None:
        try:
            octets = source.recv(1 << 16)
            if not octets:
                raise ConnectionError
            self._pairs[source].sendall(octets)
        except OSError:
            self._drop(source)

    def _drop(self, one: socket.socket) -> None:
        other = self._pairs.pop(one)
        del self._pairs[other]
        for each in (one, other):
            self._selector.unregister(each)
            each.close()

    def _drop_all(self) -> None:
        for one in list(self._pairs):
            if one in self._pairs:
                self._drop(one)


class SharedWorld(World):
    """Nodes on one Redis."""

    def __init__(
        self,
        stack: ExitStack,
        *,
        nodes: int = 1,
        sentinels: bool = False,
        module: str | None = None,
        environment: Mapping[str, str] | None = None,
        redis_folder: Path | None = None,
    ) -> None:
        """`sentinels`: three of them, a master and its replica, which must have what is answered with code 0."""
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.cluster: Cluster | None = None
        self.wires: list[Wire] = []
        if sentinels:
            self.cluster = Cluster(folder / "redis", sentinels=3)
            stack.callback(self.cluster.stop)
            self.cluster.start()
            self.redis = self.cluster.servers[0]
            addresses = ", ".join(f'"{each.address}"' for each in self.cluster.sentinels)
            tables = [f"sentinels = [{addresses}]\nreplicas = 1"] * nodes
        else:
            self.redis = RedisServer((redis_folder or folder) / "redis")
            stack.callback(self.redis.kill)
            self.redis.start()
            self.wires = [Wire(self.redis.port) for _ in range(nodes)]
            for wire in self.wires:
                stack.callback(wire.close)
            tables = [f'address = "{wire.address}"' for wire in self.wires]
        more = [
            f'[store]\nkind = "redis"\n[redis]\n{table}\n[node]\nname = "node{number}"\nlease = {LEASE}\n'
            for number, table in enumerate(tables, 1)
        ]
        super().__init__(stack, more=more, module=module, environment=environment, folder=folder)

    def suspend(self, node: Daemon, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after that time."""
        self.deaths.append(Blow(node.folder.name, time.monotonic()))
        os.kill(node.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(node.pid, signal.SIGCONT)
        self.deaths.append(Blow(node.folder.name, time.monotonic()))

    def evidence(self) -> Evidence:
        evidence = super().evidence()
        evidence.partitioned = True
        if len(self.nodes) > 1:
            # Who hangs up is not who starts.
            evidence.starts = ()
        return evidence
