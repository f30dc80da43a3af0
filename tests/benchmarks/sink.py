"""The callees' ears: sockets that take RTP for any number of calls and keep when each packet came.

The sockets are bound to every address of the loopback, so that each call can have an address of its own (127.1.0.0,
127.1.0.1 and so on) though there are few sockets: the sender's kernel finds its way to each as it would to phones, and
the receiving side is cheap enough for one core to hear 3,000 calls.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calledind.model import Address
from calledind.net import mmsg
from tests.interop.harness import free_ports

RECEIVERS = 4
_SO_RCVBUFFORCE = 33
"Beyond the system's limit; for root."
_ROOM = 64 << 20
RATE = 1_000_000
"Of the arrival times: microseconds."
_BATCH = 1024
_LOOK = 0.005
"Seconds between two looks of the thread."


@dataclass(frozen=True)
class Heard:
    """All packets of some time, in the order of their streams and then of their arrival."""

    ssrc: NDArray[np.uint32]
    sequence: NDArray[np.uint16]
    arrival: NDArray[np.int64]
    "Microseconds since the epoch, by the kernel's clock."

    @property
    def packets(self) -> int:
        return self.ssrc.size

    @property
    def streams(self) -> int:
        return np.unique(self.ssrc).size

    def gaps(self) -> NDArray[np.float64]:
        """Return all gaps between packets of the same stream, in ms."""
        gaps: NDArray[np.float64] = np.diff(self.arrival)[self._followed()] / (RATE / 1000)
        return gaps

    def lost(self) -> int:
        """Return how many packets are missing between the first and the last of each stream."""
        steps = np.diff(self.sequence).astype(np.int16)[self._followed()]
        return int(steps.astype(np.int64).sum()) - steps.size

    def rates(self) -> NDArray[np.float64]:
        """Return the packets a second of each stream, from its first packet to its last."""
        ends = np.flatnonzero(np.diff(self.ssrc, append=self.ssrc[-1:] + 1))
        begins = np.concatenate(([0], ends[:-1] + 1))
        rates: NDArray[np.float64] = (ends - begins) * RATE / np.maximum(self.arrival[ends] - self.arrival[begins], 1)
        return rates

    def between(self, begin: float, end: float) -> Heard:
        """Return those that came from `begin` to `end`, in seconds since the epoch."""
        which = (self.arrival >= begin * RATE) & (self.arrival < end * RATE)
        return Heard(self.ssrc[which], self.sequence[which], self.arrival[which])

    def _followed(self) -> NDArray[np.bool_]:
        """Say of each packet but the last whether the next is of its stream."""
        followed: NDArray[np.bool_] = self.ssrc[1:] == self.ssrc[:-1]
        return followed


class Sink:
    """Packets whose SSRC is 0 are of a reference and not kept."""

    def __init__(self) -> None:
        first = free_ports(2 * RECEIVERS)
        self.ports = [first + 2 * number for number in range(RECEIVERS)]
        self._sockets = [_bound(port, _ROOM) for port in self.ports]
        # RTCP comes to a socket that nobody reads: a port that is closed would answer each by ICMP.
        self._control = [_bound(port + 1, 1) for port in self.ports]
        self._receiver = mmsg.Receiver(socket.AF_INET, _BATCH, 64)
        self._kept: list[tuple[NDArray[np.uint32], NDArray[np.uint16], NDArray[np.int64]]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def address(self, number: int) -> Address:
        """Return the address of one of up to 65,536 callees."""
        return f"127.1.{number >> 8 & 255}.{number & 255}", self.ports[number % RECEIVERS]

    def start(self) -> None:
        """Take what comes, in a thread, from now on."""
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        for each in (*self._sockets, *self._control):
            each.close()

    def heard(self) -> Heard:
        """Return what has come since this was last asked for."""
        kept, self._kept = self._kept, []
        columns = [np.concatenate(column) for column in zip(*kept, strict=True)] or [np.zeros(0)] * 3
        order = np.lexsort((columns[2], columns[0]))
        return Heard(*(column[order] for column in columns))

    def overflowed(self) -> int:
        """Return how many packets the sockets had no room for: then it is we who are too slow."""
        rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
        return sum(int(row[12]) for row in rows if int(row[1].partition(":")[2], 16) in self.ports)

    def drain(self) -> int:
        """Keep what has come; return how many packets."""
        total = 0
        receiver = self._receiver
        for each in self._sockets:
            while taken := receiver.receive(each.fileno(), 0, _BATCH):
                total += taken
                ssrc = np.ascontiguousarray(receiver.data[:taken, 8:12]).view(">u4")[:, 0].astype(np.uint32)
                if not ssrc.any():
                    continue
                sequence = np.ascontiguousarray(receiver.data[:taken, 2:4]).view(">u2")[:, 0].astype(np.uint16)
                arrival = receiver.arrival(taken, rate=RATE, otherwise=0.0)
                ours = ssrc != 0
                self._kept.append((ssrc[ours], sequence[ours], arrival[ours]))
        return total

    def _listen(self) -> None:
        while not self._ended.is_set():
            self.drain()
            time.sleep(_LOOK)


def _bound(port: int, room: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, room)
    except PermissionError:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    bound.setsockopt(socket.SOL_SOCKET, mmsg.SO_TIMESTAMPNS, 1)
    bound.setblocking(False)
    bound.bind(("0.0.0.0", port))
    return bound
