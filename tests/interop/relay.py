"""A network that is bad on purpose: UDP relays that lose, repeat and delay some of the datagrams, each way.

A relay has a front, which calledin takes for its trunk, and a back, which the trunk takes for calledin. All relays
of a test live in one thread.
"""

from __future__ import annotations

import heapq
import random
import re
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field

from calledind.model import Address

DELAY = 0.06
"The longest delay, in seconds: more than a call's messages are apart where they come one upon the other."
CALL_ID = re.compile(rb"^(?:Call-ID|i)\s*:\s*(\S+)", re.I | re.M)
CSEQ = re.compile(rb"^CSeq\s*:\s*\d+\s+(\w+)", re.I | re.M)


@dataclass(frozen=True)
class Seen:
    """One datagram of SIP, as it came to the relay."""

    at: float
    "Seconds of the monotonic clock."
    outward: bool
    "From calledin to the trunk."
    call_id: str
    label: str
    'A method, or a status and the method that it is for, such as "200 INVITE".'
    copies: int
    "How often it was passed on: 0, it was lost."


@dataclass
class Relay:
    """One way between calledin and a trunk, and back."""

    front: socket.socket
    back: socket.socket
    trunk: Address
    chances: tuple[random.Random, random.Random]
    "Of what goes out, of what comes in."
    client: Address | None = None
    "Where calledin sends from."

    @property
    def port(self) -> int:
        """The front's."""
        return int(self.front.getsockname()[1])


@dataclass
class Relays:
    """All relays of a test. `share` of the datagrams are lost, as many repeated, as many late."""

    share: float = 0.1
    seed: int = 1
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._relays: list[Relay] = []
        self._late: list[tuple[float, int, socket.socket, bytes, Address]] = []
        self._number = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def add(self, trunk_port: int) -> Relay:
        """Make a way to a trunk on this loopback port; before `start`."""
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        chances = [random.Random(f"{self.seed} {len(self._relays)} {way}") for way in ("out", "in")]
        relay = Relay(sockets[0], sockets[1], ("127.0.0.1", trunk_port), (chances[0], chances[1]))
        self._relays.append(relay)
        for sock in sockets:
            self._selector.register(sock, selectors.EVENT_READ, relay)
        return relay

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        for relay in self._relays:
            relay.front.close()
            relay.back.close()
        self._selector.close()

    def copies(self) -> tuple[int, int, int]:
        """Return how many datagrams came, how many of them were lost, how many repeated."""
        counts = [each.copies for each in self.seen]
        return len(counts), counts.count(0), counts.count(2)

    def _serve(self) -> None:
        while not self._closed.is_set():
            wait = min(0.05, max(0.0, self._late[0][0] - time.monotonic())) if self._late else 0.05
            for key, _ in self._selector.select(wait):
                self._read(key.data, key.fileobj)  # type: ignore[arg-type]
            now = time.monotonic()
            while self._late and self._late[0][0] <= now:
                _, __, sock, data, target = heapq.heappop(self._late)
                sock.sendto(data, target)

    def _read(self, relay: Relay, sock: socket.socket) -> None:
        outward = sock is relay.front
        while True:
            try:
                data, source = sock.recvfrom(65535)
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # the trunk isn't there any more (ICMP)
            if outward:
                relay.client = source
            elif relay.client is None:
                continue
            target = relay.trunk if outward else relay.client
            assert target is not None
            delays = self._delays(relay.chances[not outward])
            self._note(data, outward, len(delays))
            for delay in delays:
                self._pass_on(relay.back if outward else relay.front, data, target, delay)

    def _delays(self, chance: random.Random) -> list[float]:
        kind = chance.random()
        late = chance.uniform(0.0, DELAY)
        if kind < self.share:
            return []
        if kind < 2 * self.share:
            return [0.0, late]
        return [late] if kind < 3 * self.share else [0.0]

    def _pass_on(self, sock: socket.socket, data: bytes, target: Address, delay: float) -> None:
        if delay:
            self._number += 1
            heapq.heappush(self._late, (time.monotonic() + delay, self._number, sock, data, target))
        else:
            sock.sendto(data, target)

    def _note(self, data: bytes, outward: bool, copies: int) -> None:
        call_id, cseq = CALL_ID.search(data), CSEQ.search(data)
        if call_id is not None and cseq is not None:
            first = data.split(b" ", 2)
            method = cseq[1].decode()
            label = f"{first[1].decode()} {method}" if first[0] == b"SIP/2.0" else method
            self.seen.append(Seen(time.monotonic(), outward, call_id[1].decode(), label, copies))
