"""A lean load generator: HTTP requests over keep-alive connections, one in flight on each.

It reads of a response no more than it must: the header block's end and the Content-Length's octets. A request costs
it some 20 µs, so that one core of it keeps up with any server in Python on another; `Result.busy` says how near it
was to being the limit itself.
"""

from __future__ import annotations

import gc
import re
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Result:
    """What one run of the load came to."""

    seconds: float
    latencies: list[float]
    "Of each answered request, in seconds."
    answers: Counter[bytes]
    "Status and body -> how many."
    busy: float
    "Share of the time that the generator itself was computing."

    @property
    def rate(self) -> float:
        """Requests answered per second."""
        return len(self.latencies) / self.seconds


class _Connection:
    """One keep-alive connection with at most one request on it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.sent_at = 0.0
        self._received = b""

    def send(self, request: bytes) -> None:
        self.sent_at = time.perf_counter()
        if self.socket.send(request) != len(request):
            raise RuntimeError("the server does not read what it is sent")

    def answer(self) -> bytes | None:
        """Take what has come; return status and body once they are there."""
        data = self.socket.recv(65536)
        if not data:
            raise RuntimeError(f"the server closed a connection that was to be kept: {self._received!r}")
        self._received = received = self._received + data
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return None
        length = _LENGTH.search(received, 0, end + 2)
        if length is None:
            raise RuntimeError(f"a response without Content-Length: {received!r}")
        if len(received) < end + 4 + int(length[1]):
            return None
        self._received = b""
        return received[9:12] + b" " + received[end + 4 :]


class Load:
    """`in_flight` connections to a port of this machine, opened once and kept for several runs."""

    def __init__(self, port: int, in_flight: int) -> None:
        self._connections = {each.socket.fileno(): each for each in (_Connection(port) for _ in range(in_flight))}

    def close(self) -> None:
        for connection in self._connections.values():
            connection.socket.close()

    def run(self, requests: Iterator[bytes], seconds: float) -> Result:
        """Keep one request in flight on each connection for so long, then wait for the last answers.

        Raises RuntimeError when a connection ends or nothing comes for ten seconds.
        """
        latencies: list[float] = []
        answers: Counter[bytes] = Counter()
        with select.epoll() as poll:
            for number in self._connections:
                poll.register(number, select.EPOLLIN)
            gc.disable()
            computed, began = time.process_time(), time.perf_counter()
            end = began + seconds
            for connection in self._connections.values():
                connection.send(next(requests))
            in_flight = len(self._connections)
            while in_flight:
                ready = poll.poll(10)
                if not ready:
                    raise RuntimeError("no answer for ten seconds")
                for number, _ in ready:
                    connection = self._connections[number]
                    answer = connection.answer()
                    if answer is None:
                        continue
                    now = time.perf_counter()
                    latencies.append(now - connection.sent_at)
                    answers[answer] += 1
                    if now < end:
                        connection.send(next(requests))
                    else:
                        in_flight -= 1
            took = time.perf_counter() - began
            busy = (time.process_time() - computed) / took
            gc.enable()
        return Result(took, latencies, answers, busy)
