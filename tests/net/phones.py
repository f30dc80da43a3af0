"""Telephones and an engine of the media process, with time by hand."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from calledind.net.media_engine import Engine
from calledind.net.media_pipe import Item
from calledind.rtp import rtcp
from calledind.rtp.packet import Packet
from calledind.rtp.packetizer import PACKET_OCTETS

SLICE = 0.002
SLICES = 10
"Of a packet of 20 ms."
EPOCH = 1_000_000_000.0


class Peer:
    """A phone: a pair of sockets."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.rtp, self.rtcp = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
        for each in (self.rtp, self.rtcp):
            each.bind((host, 0))
            each.setblocking(False)
        self.sequence = 0

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.rtp.getsockname()[:2]
        return host, port

    @property
    def control_address(self) -> tuple[str, int]:
        host, port = self.rtcp.getsockname()[:2]
        return host, port

    def packets(self) -> list[Packet]:
        """Return what has come in."""
        return [Packet.parse(data) for data in received(self.rtp)]

    def reports(self) -> list[list[rtcp.Report]]:
        return [rtcp.parse(data) for data in received(self.rtcp)]

    def send(self, port: int, payload: bytes = bytes(160), payload_type: int = 0, timestamp: int | None = None) -> None:
        self.sequence += 1
        timestamp = self.sequence * PACKET_OCTETS if timestamp is None else timestamp
        self.rtp.sendto(bytes(Packet(payload_type, self.sequence, timestamp, 77, payload)), ("127.0.0.1", port))

    def close(self) -> None:
        self.rtp.close()
        self.rtcp.close()


def received(from_socket: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(from_socket.recv(2048))
        except BlockingIOError:
            return found


class EngineCase(SynchronousTestCase):
    """One engine, some phones."""

    def setUp(self) -> None:
        self.time = 100.0
        self.count = 0
        self.engine = self.engine_on("127.0.0.1", 40)
        self.files = 0

    def engine_on(self, bind: str, ports: int) -> Engine:
        engine = Engine(bind, 28_000, 28_000 + ports - 1, now=lambda: self.time, wall=lambda: EPOCH + self.time)
        self.addCleanup(engine.shut)
        return engine

    def peer(self, host: str = "127.0.0.1") -> Peer:
        peer = Peer(host)
        self.addCleanup(peer.close)
        return peer

    def audio(self, octets: bytes) -> str:
        self.files += 1
        path = Path(self.mktemp())
        path.write_bytes(octets)
        return str(path)

    def opened(self, number: int = 1) -> int:
        """Open a session; return its RTP port."""
        self.engine.command(["open", number])
        event = self.events()[-1]
        self.assertEqual(event[:3], ["opened", number, self.engine.ports.bind])
        port: int = event[3]
        return port

    def format(
        self,
        audio: bytes | str,
        codec: str = "PCMU",
        payload_type: int = 0,
        ptime: int = 20,
        events: tuple[int, ...] = (101,),
    ) -> Item:
        return [audio if isinstance(audio, str) else self.audio(audio), codec, payload_type, ptime, list(events)]

    def play(self, number: int, peer: Peer, audio: bytes | str | Item = bytes(1600), **others: Any) -> None:
        arguments = {
            "format": audio if isinstance(audio, list) else self.format(audio),
            "remote": peer.address,
            "remote_rtcp": peer.control_address,
            "lead_in": 0.0,
            "lead_out": 0.0,
            "silence_timeout": 0.0,
        }
        self.engine.command(["play", number, {**arguments, **others}])

    def pass_time(self, packets: float, *, lateness: float = 0.0) -> None:
        """Let as much time pass as so many packets of one stream take."""
        for _ in range(round(packets * SLICES)):
            self.engine.slice(self.count, lateness)
            self.count += 1
            self.time += SLICE
            self.engine.run_timers()

    def hear(self) -> None:
        """Have the engine take what has come in."""
        self.engine.hearing.receive(self.engine.opened)
        for port in self.engine.opened:
            self.engine.hearing.receive_control(port)

    def events(self) -> list[Item]:
        events = list(self.engine.events)
        self.engine.events.clear()
        return events

    def closed(self, number: int = 1) -> dict[str, Any]:
        self.engine.command(["close", number])
        verb, of, statistics = self.events()[-1]
        self.assertEqual((verb, of), ("closed", number))
        return dict(statistics)
