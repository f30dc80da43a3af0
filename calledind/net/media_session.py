"""One call's media inside the media process: what is known of it beside the arrays."""

from __future__ import annotations

import base64
import hashlib
import itertools
import random
import secrets
import socket
from array import array
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from calledind.model import Address
from calledind.net import media_course
from calledind.net.media_audio import Audio
from calledind.net.media_ports import Port
from calledind.net.pace import Lane, Stream
from calledind.rtp import rtcp
from calledind.rtp.dtmf import DigitDetector
from calledind.rtp.goertzel import ToneDetector
from calledind.rtp.packetizer import CLOCK_RATE, Plan
from calledind.rtp.quality import mos
from calledind.rtp.srtp import Receiver, Sender
from calledind.rtp.statistics import Figures
from calledind.sdes import Keys, Security

REPORT_SECONDS = 5.0
"Mean time between our RTCP reports (RFC 3550 §6.2)."
LAWS: Mapping[int, str] = {0: "PCMU", 8: "PCMA"}
"Payload type -> G.711 codec, whatever is agreed on (RFC 3551 §6)."
_NAMES = secrets.token_bytes(32)
"The secret of this process that its calls' names are made with."


@dataclass(frozen=True, slots=True)
class Sent:
    """Figures of what left."""

    packets: int = 0
    octets: int = 0
    "Of payload; what the kernel refused is counted too."
    late: int = 0

    def __add__(self, other: Sent) -> Sent:
        return Sent(self.packets + other.packets, self.octets + other.octets, self.late + other.late)


@dataclass(slots=True)
class Nat:
    """What is known of a peer whose media may come from another port than the SDP says."""

    hosts: set[str]
    "Where it may come from, as `socket.inet_ntop` writes it: the hosts of the signalling and of the SDP."
    named: Address = ("", 0)
    "What the SDP said last."
    until: float = 0.0
    "Monotonic seconds, after which nothing is followed any more."
    received: int = 0
    "Packets of the agreed address, when the SDP last named another; one more, and nothing is followed."
    rtp: bool = False
    "Whether the RTP was followed already."
    rtcp: bool = False


class Secured:
    """The state of SRTP under the keys of one agreement."""

    def __init__(self, security: Security) -> None:
        self.security = security
        self.sender = Sender(security.ours)
        self.receiver = Receiver(security.theirs)

    @classmethod
    def unpack(cls, packed: Sequence[Sequence[str]]) -> Secured:
        """Make it of both keys as the daemon gives them, ours first. Raises ValueError."""
        ours, theirs = packed
        return cls(Security(Keys.unpack(ours), Keys.unpack(theirs)))

    def after(self, before: Secured | None) -> Secured:
        """Go on from the keys before; in the direction whose key stays the packets are counted on (RFC 4568 §7.1.4)."""
        if before is not None and before.security.ours == self.security.ours:
            self.sender = before.sender
        if before is not None and before.security.theirs == self.security.theirs:
            self.receiver = before.receiver
        return self


@dataclass(slots=True, eq=False)
class Session:
    """Opened by the daemon, perhaps playing."""

    id: int
    port: Port
    row: int
    "In the arrays of what is received."
    ssrc: int
    stream: Stream | None = None
    lane: Lane | None = field(default=None, repr=False)
    "Where the stream is sent; it stays the stream's while that is paused."
    audio: Audio | None = field(default=None, repr=False)
    plan: Plan = field(default=Plan(0.0, 0.0))
    "What the stream was begun to play."
    begun_at: int = 0
    "Packets that the stream had sent by then."
    before: Sent = Sent()
    "By earlier sources of ours."
    detector: DigitDetector | None = field(default=None, repr=False)
    "Made when the first telephone event comes."
    route: Hashable = None
    control_address: tuple[str, int] | None = None
    "Where our RTCP goes and the peer's comes from, as `socket.recvfrom` writes it."
    silence_timeout: float = 0.0
    "Seconds; 0 while nobody listens for silence."
    silence_watched: bool = False
    reporting: bool = False
    described: bytes = field(default=b"", repr=False)
    "Who we are, as every report tells: the packed description of our source."
    receives: bool = True
    "Whether the peer has said that it will send."
    held_since: float | None = None
    "When the stream was paused."
    fraction_lost: float = 0.0
    "Of our packets, as the peer says."
    round_trip: float | None = None
    peer_report: tuple[int, float] | None = None
    "Middle of the NTP time in the peer's last sender report, and when that came."
    lost_by_peer: int = 0
    "Of our packets, as the peer says; less than 0 where packets came twice."
    jitter_by_peer: float | None = None
    "Of our packets, in seconds; None while the peer has not reported."
    law: Mapping[int, str] = field(default_factory=lambda: LAWS, repr=False)
    "Payload type of the peer's -> its G.711 codec, where keys are listened for in the sound."
    tones: ToneDetector | None = field(default=None, repr=False)
    secured: Secured | None = field(default=None, repr=False)
    "Set where the packets are encrypted."
    nat: Nat | None = None
    "Set where the peer may be behind a NAT."
    reported: tuple[int, int] = (0, 0)
    "Packets expected and received when our last report was made."
    played_at: float = 0.0
    "When the first packet was due, monotonic seconds."
    course: array[float] | None = field(default=None, repr=False)
    "See `media_course`; None in the first seconds, which are all that many calls have."

    @property
    def name(self) -> str:
        """CNAME, one for each call so that calls can't be linked (RFC 7022 §4.2)."""
        digest = hashlib.blake2b(self.id.to_bytes(8, "big"), digest_size=12, key=_NAMES)
        return base64.urlsafe_b64encode(digest.digest()).decode()

    def begin(self, stream: Stream, audio: Audio, plan: Plan, lane: Lane) -> None:
        """Have this to send."""
        self.stream, self.audio, self.plan, self.lane = stream, audio, plan, lane
        self.begun_at = stream.sent

    def stop(self) -> Stream | None:
        """Send nothing more; return the stream with its last figures."""
        if self.stream is not None and self.stream.lane is not None:
            self.stream.lane.phase.withdraw(self.stream)
        return self.stream

    def rest(self) -> Plan:
        """Return what is left to be played of the stopped stream."""
        if self.stream is None or self.audio is None:
            return self.plan
        return self.plan.after(self.stream.sent - self.begun_at, self.stream.packet_seconds, self.audio.duration)

    def begin_source(self, ssrc: int) -> None:
        """Go on under another SSRC; the statistics of the call go on, those of RTCP begin anew."""
        self.before = self.sent
        self.stream, self.ssrc, self.described = None, ssrc, b""

    def hold(self, now: float) -> None:
        """Stop sending; go on from there later."""
        if self.held_since is None and self.stream is not None and self.stream.lane is not None:
            self.stop()
            self.held_since = now

    def resume(self, now: float) -> None:
        """Send again: the timestamps have gone on, the sequence numbers have not (RFC 3550 §5.1)."""
        stream, lane = self.stream, self.lane
        if self.held_since is None or stream is None or stream.stretch is None or lane is None:
            return
        elapsed = round((now - self.held_since) / stream.packet_seconds)
        stream.timestamp = (stream.timestamp + elapsed * stream.tick) & 0xFFFFFFFF
        begun = stream.stretch
        payload, packets = begun.payload + stream.taken * begun.step, begun.packets - stream.taken
        if packets > 1:
            later = begun._replace(payload=payload + begun.step, packets=packets - 1, marker=False)
            stream.stretches = itertools.chain((later,), stream.stretches)
        stream.stretch = begun._replace(payload=payload, packets=1, marker=True)
        stream.taken = 0
        self.held_since = None
        lane.phase.place(lane, stream)

    @property
    def sent(self) -> Sent:
        """What was sent in the call so far."""
        stream = self._up_to_date()
        if stream is None:
            return self.before
        return self.before + Sent(stream.sent - stream.failed, stream.octets, stream.late)

    def report(self, figures: Figures, now: float, wall: float, *, goodbye: bool = False) -> bytes:
        """Return a compound packet: what we sent, what we got, who we are.

        `now`: monotonic seconds; `wall`: seconds since the epoch.
        """
        blocks = self._blocks(figures, now)
        stream = self._up_to_date()
        first: rtcp.Report
        if stream is not None and stream.sent:
            timestamp = stream.timestamp
            if stream.lane is not None:
                # Of this instant, not of the next packet, so that both clocks of the report say the same (§6.4.1).
                timestamp += round((now - stream.lane.phase.sent_at) * stream.clock_rate) - stream.tick
            sent = stream.sent - stream.failed
            first = rtcp.SenderReport(self.ssrc, rtcp.ntp_time(wall), timestamp, sent, stream.octets, blocks)
        else:
            first = rtcp.ReceiverReport(self.ssrc, blocks)
        if not self.described:
            self.described = rtcp.pack([rtcp.SourceDescription.named(self.ssrc, self.name)])
        data = rtcp.pack([first]) + self.described
        return data + rtcp.pack([rtcp.Goodbye((self.ssrc,))]) if goodbye else data

    def _up_to_date(self) -> Stream | None:
        """Return the stream with its figures as they are now."""
        if self.stream is not None and self.stream.lane is not None:
            self.stream.lane.phase.read(self.stream)
        return self.stream

    def _blocks(self, figures: Figures, now: float) -> tuple[rtcp.ReportBlock, ...]:
        if not figures.received:
            return ()
        expected, received = figures.received + figures.lost, figures.received
        expected_now, received_now = expected - self.reported[0], received - self.reported[1]
        self.reported = expected, received
        fraction = max(expected_now - received_now, 0) / expected_now if expected_now > 0 else 0.0
        last, came = self.peer_report or (0, now)
        return (
            rtcp.ReportBlock(
                figures.ssrc,
                fraction,
                figures.lost,
                figures.highest_sequence,
                round(figures.jitter * (self.stream.clock_rate if self.stream is not None else CLOCK_RATE)),
                last,
                round((now - came) * 65536),
            ),
        )

    def heard_report(self, reports: list[rtcp.Report], now: float, wall: float) -> None:
        """Take in what the peer says of our stream, and when it says so."""
        ntp = rtcp.ntp_time(wall)
        for report in reports:
            if isinstance(report, rtcp.SenderReport):
                self.peer_report = rtcp.middle(report.ntp), now
            if isinstance(report, rtcp.SenderReport | rtcp.ReceiverReport):
                for block in report.reports:
                    if block.ssrc == self.ssrc:
                        self.fraction_lost, self.lost_by_peer = block.fraction_lost, block.lost
                        if self.stream is not None:
                            self.jitter_by_peer = block.jitter / self.stream.clock_rate
                        took = rtcp.round_trip(block, ntp)
                        self.round_trip = self.round_trip if took is None else took

    def note(self, figures: Figures, now: float) -> None:
        """Note how the media is at this moment."""
        if self.course is None:
            self.course = array("f")
        media_course.note(self.course, now - self.played_at, self.statistics(figures))

    def statistics(self, figures: Figures) -> dict[str, float | None]:
        """Return the fields of `calledind.net.media.MediaStatistics`."""
        sent = self.sent
        return {
            "packets_sent": sent.packets,
            "octets_sent": sent.octets,
            "packets_late": sent.late,
            "packets_received": figures.received,
            "packets_lost": figures.lost,
            "jitter": figures.jitter,
            "fraction_lost_by_peer": self.fraction_lost,
            "round_trip": self.round_trip,
            "packets_lost_by_peer": max(self.lost_by_peer, 0),
            "jitter_by_peer": self.jitter_by_peer,
            "mos": self._mos(figures, sent.packets),
        }

    def _mos(self, figures: Figures, sent: int) -> float | None:
        """Estimate how the callee hears us, by the peer's reports; without any how we would hear the callee."""
        if self.jitter_by_peer is not None:
            lost, of, jitter = self.lost_by_peer, sent, self.jitter_by_peer
        else:
            lost, of, jitter = figures.lost, figures.received + figures.lost, figures.jitter
        if not of:
            return None
        loss = min(max(lost / of, 0.0), 1.0)
        return round(mos(loss=loss, round_trip=self.round_trip or 0.0, jitter=jitter), 2)


def report_interval() -> float:
    """Return the seconds to the next report, spread so that reports don't fall into step (RFC 3550 §6.3.1)."""
    return REPORT_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311


def canonical(family: int, address: Address) -> tuple[str, int]:
    """Return the address as `socket.recvfrom` writes it. Raises ValueError for one that can't be used."""
    host, port = address
    try:
        if family == socket.AF_INET6 and "." in host and ":" not in host:
            host = "::ffff:" + host
        return socket.inet_ntop(family, socket.inet_pton(family, host)), port
    except OSError:
        raise ValueError("the address is not of the RTP sockets' kind") from None
