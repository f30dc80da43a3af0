"""A telephone's media: RTP sockets that record what comes, send silence, press keys, and report by RTCP.

What a scenario loses on the way is thrown away here, at the door, before anything is counted.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet import defer, task
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol

from calledind.model import Address
from calledind.rtp import rtcp
from calledind.rtp.dtmf import press
from calledind.rtp.packet import Packet, RTPError
from calledind.sdp import Agreed
from calledind.simulator.recording import SAMPLE_RATE, SILENCE, Recording

PACKET_SECONDS = 0.02
PACKET_SAMPLES = 160
REPORT_SECONDS = 5.0
"Between RTCP reports (RFC 3550 §6.2, where bandwidth is no concern)."
KEY_GAP = 17
"Packets of silence between two keys."
TRIES = 100
"Pairs of ports tried before giving up."


class NoPort(Exception):
    """No pair of UDP ports is free for the callee."""


class UdpSocket(DatagramProtocol):
    """Hands datagrams up."""

    noisy = False

    def __init__(self, received: Any) -> None:
        self._received = received

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self._received(datagram, (str(addr[0]), int(addr[1])))

    def put(self, data: bytes, target: Address) -> None:
        if self.transport is None:
            return
        try:
            self.transport.write(data, target)
        except OSError:
            # A full socket buffer, or an address that can't be reached: the network loses a packet.
            return


class Callee:
    """One telephone. `loss`: the share of packets, both ways, that never arrive; `talks`: whether it sends RTP."""

    def __init__(self, reactor: Any, host: str, *, loss: float = 0.0, seed: str = "", talks: bool = True) -> None:
        self._reactor = reactor
        self._host = host
        self._loss = loss
        # The same packets are lost each time, whatever the other direction does.
        self._random = random.Random(seed)  # noqa: S311
        self._sending_random = random.Random(seed + " sending")  # noqa: S311
        self._talks = talks
        self._rtp = UdpSocket(self.rtp_received)
        self._rtcp = UdpSocket(self.rtcp_received)
        self._ports: list[Any] = []
        self._agreed: Agreed | None = None
        self._ssrc = self._random.getrandbits(32)
        self._sequence = self._random.getrandbits(16)
        self._timestamp = self._random.getrandbits(32)
        self._packets = 0
        "Sent."
        self._keys: deque[tuple[bool, bytes] | None] = deque()
        "Waiting packets of pressed keys: marker and payload; None is silence between two keys."
        self._key_timestamp = 0
        self._talking = task.LoopingCall.withCount(self._talk)
        self._reporting = task.LoopingCall(self._report)
        self._talking.clock = self._reporting.clock = reactor
        self._reported = (0, 0)
        "Packets and losses at the last report."
        self._sender_report = (0, 0.0)
        "Middle 32 bits of the NTP time of the caller's last one, and when it came."
        self.recording: Recording | None = None
        self.held = False
        "We asked the caller to be quiet."
        self.while_held = 0
        "Packets that came all the same."
        self.said_goodbye = False
        "The caller's RTCP BYE came."
        self.hears: Callable[[int, int, bytes], None] | None = None
        "Is given each packet that is recorded: sequence number, timestamp, octets of the codec."

    def open(self) -> int:
        """Bind an even port for RTP and the next for RTCP; return the even one. Raises `NoPort`."""
        for _ in range(TRIES):
            rtp = self._reactor.listenUDP(0, self._rtp, interface=self._host)
            port = int(rtp.getHost().port)
            try:
                if port % 2 == 0 and port < 65535:
                    rtcp_port = self._reactor.listenUDP(port + 1, self._rtcp, interface=self._host)
                    self._ports = [rtp, rtcp_port]
                    return port
            except CannotListenError:
                pass
            rtp.stopListening()
            self._rtp = UdpSocket(self.rtp_received)
        raise NoPort(f"no pair of UDP ports is free on {self._host}")

    def agree(self, agreed: Agreed) -> None:
        """Use what offer and answer settled on; the first time, begin to listen."""
        self._agreed = agreed
        if self.recording is None:
            self.recording = Recording(agreed.codec)

    def talk(self) -> None:
        """Send silence, and report by RTCP, from now on."""
        if self._talks and not self._talking.running:
            self._talking.start(PACKET_SECONDS)
        if not self._reporting.running:
            self._reporting.start(REPORT_SECONDS, now=False)

    def press(self, digits: str) -> bool:
        """Press keys one after the other. Returns False when no telephone-event was agreed."""
        if self._agreed is None or self._agreed.telephone_event is None:
            return False
        for digit in digits:
            self._keys.extend(press(digit))
            self._keys.extend([None] * KEY_GAP)
        return True

    def lose(self, share: float) -> None:
        """Let this share of the packets, both ways, never arrive from now on."""
        self._loss = share

    def close(self) -> Deferred[Any]:
        """Fall silent, and let go of the ports."""
        for loop in (self._talking, self._reporting):
            if loop.running:
                loop.stop()
        ports, self._ports = self._ports, []
        return defer.gatherResults([defer.maybeDeferred(port.stopListening) for port in ports])

    # what comes

    def rtp_received(self, data: bytes, source: Address) -> None:
        if self.recording is None or self._agreed is None or self._random.random() < self._loss:
            return
        try:
            packet = Packet.parse(data)
        except RTPError:
            self.recording.stray()
            return
        # RTP is symmetric: what does not come from the port of the offer is somebody else's.
        if packet.payload_type != self._agreed.payload_type or source[1] != self._agreed.remote[1]:
            self.recording.stray()
            return
        self.while_held += self.held
        self.recording.received(
            ssrc=packet.ssrc,
            sequence=packet.sequence,
            timestamp=packet.timestamp,
            payload=packet.payload,
            arrival=self._reactor.seconds(),
        )
        if self.hears is not None:
            self.hears(packet.sequence, packet.timestamp, packet.payload)

    def rtcp_received(self, data: bytes, source: Address) -> None:
        try:
            reports = rtcp.parse(data)
        except RTPError:
            if self.recording is not None:
                self.recording.stray()
            return
        for report in reports:
            if isinstance(report, rtcp.SenderReport):
                self._sender_report = rtcp.middle(report.ntp), self._reactor.seconds()
            elif isinstance(report, rtcp.Goodbye):
                self.said_goodbye = True

    # what goes

    def _talk(self, count: int) -> None:
        agreed = self._agreed
        if agreed is None:
            return
        # A late turn makes up for the packets it missed, but not for a pause of the whole process.
        for _ in range(min(count, 10)):
            key = self._keys.popleft() if self._keys else None
            if key is not None and agreed.telephone_event is not None:
                if key[0]:
                    self._key_timestamp = self._timestamp
                self._put(agreed, agreed.telephone_event, self._key_timestamp, key[1], marker=key[0])
            else:
                silence = bytes([SILENCE[agreed.codec]]) * PACKET_SAMPLES
                self._put(agreed, agreed.payload_type, self._timestamp, silence, marker=self._packets == 0)
            self._timestamp = (self._timestamp + PACKET_SAMPLES) & 0xFFFFFFFF

    def _put(self, agreed: Agreed, payload_type: int, timestamp: int, payload: bytes, *, marker: bool) -> None:
        packet = Packet(payload_type, self._sequence, timestamp, self._ssrc, payload, marker)
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._packets += 1
        if self._sending_random.random() >= self._loss:
            self._rtp.put(bytes(packet), agreed.remote)

    def _report(self) -> None:
        if self._agreed is None:
            return
        blocks = self._blocks()
        now = rtcp.ntp_time(time.time())
        description = rtcp.SourceDescription.named(self._ssrc, "callee@simulator")
        report: rtcp.Report = rtcp.ReceiverReport(self._ssrc, blocks)
        if self._packets:
            octets = self._packets * PACKET_SAMPLES
            report = rtcp.SenderReport(self._ssrc, now, self._timestamp, self._packets, octets, blocks)
        self._rtcp.put(rtcp.pack([report, description]), self._agreed.remote_rtcp)

    def _blocks(self) -> tuple[rtcp.ReportBlock, ...]:
        recording = self.recording
        if recording is None or recording.source is None:
            return ()
        heard = recording.heard()
        packets, lost = heard.packets - self._reported[0], heard.lost - self._reported[1]
        self._reported = heard.packets, heard.lost
        middle, came = self._sender_report
        return (
            rtcp.ReportBlock(
                ssrc=recording.source,
                fraction_lost=max(0.0, lost / (packets + lost)) if packets + lost > 0 else 0.0,
                lost=heard.lost,
                highest_sequence=recording.highest_sequence,
                jitter=int(heard.jitter * SAMPLE_RATE),
                last_sender_report=middle,
                delay=int((self._reactor.seconds() - came) * 65536) if middle else 0,
            ),
        )
