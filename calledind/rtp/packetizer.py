"""Which piece of sound goes into which packet of a stream.

A stream is silence (the lead-in), the audio, and silence again (the lead-out), in packets that all last equally
long, most often 20 ms. The audio's last packet is filled up with silence where the file does not end on a packet's
border (the tail). The very first packet has the marker bit. So a stream is a handful of runs in which every packet
follows from the one before by adding constants: that is what lets thousands of streams advance as vectors, and be
looked at one by one only where a run ends.

Audio is counted in units: octets where they can be cut anywhere (PCMU, PCMA, G.722), else packets (Opus).

A stream may have to go on in another codec or with longer packets (a re-INVITE): its `Plan` then says what is left of
it, in seconds, which are the same in every codec.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

CLOCK_RATE = 8000
"Samples and octets of G.711 in a second, and units of its RTP timestamps (RFC 3551 §4.5.14)."
PACKET_OCTETS = 160
"Of 20 ms of G.711; also the timestamp's step from packet to packet."
PACKET_SECONDS = PACKET_OCTETS / CLOCK_RATE


class Source(Enum):
    """Where a run's octets are."""

    SILENCE = "silence"
    AUDIO = "audio"
    "The file, further with each packet."
    TAIL = "tail"
    "One packet: what is left of the file, filled up with silence."


@dataclass(frozen=True, slots=True)
class Run:
    """Packets that follow from each other."""

    source: Source
    packets: int
    "At least 1."
    first: int = 0
    "Of the audio: the unit that the run begins with."
    marker: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be played, in seconds."""

    lead_in: float
    "Silence, rounded up to whole packets."
    lead_out: float
    "The same."
    start: float = 0.0
    "Where in the audio."

    def after(self, packets: int, packet_seconds: float, duration: float) -> Plan:
        """Return what is left when so many packets have been sent of audio of this duration."""
        silence = packets_of(self.lead_in, packet_seconds)
        if packets <= silence:
            return Plan((silence - packets) * packet_seconds, self.lead_out, self.start)
        packets -= silence
        audio = packets_of(max(duration - self.start, 0.0), packet_seconds)
        if packets <= audio:
            return Plan(0.0, self.lead_out, min(self.start + packets * packet_seconds, duration))
        return Plan(0.0, max(round(self.lead_out - (packets - audio) * packet_seconds, 6), 0.0), duration)


def runs(
    plan: Plan, *, units: int, per_second: float, packet_seconds: float = PACKET_SECONDS, marker: bool = True
) -> tuple[Run, ...]:
    """Lay out a stream.

    `units`: of the audio, `per_second` of them a second. `marker`: whether the first packet has the marker bit.
    """
    per_packet = round(per_second * packet_seconds)
    first = min(round(plan.start * per_second), units)
    whole, rest = divmod(units - first, per_packet)
    laid_out = [
        Run(Source.SILENCE, packets_of(plan.lead_in, packet_seconds)),
        Run(Source.AUDIO, whole, first),
        Run(Source.TAIL, 1 if rest else 0, first + whole * per_packet),
        Run(Source.SILENCE, packets_of(plan.lead_out, packet_seconds)),
    ]
    laid_out = [run for run in laid_out if run.packets]
    if not laid_out or not marker:
        return tuple(laid_out)
    head, *others = laid_out
    begin = [Run(head.source, 1, head.first, marker=True)]
    if head.packets > 1:
        begin.append(Run(head.source, head.packets - 1, head.first + per_packet))
    return (*begin, *others)


def packets_of(seconds: float, packet_seconds: float = PACKET_SECONDS) -> int:
    """Return how many packets last at least this long; a microsecond more or less is an error of counting."""
    return -(-round(seconds * 1_000_000) // round(packet_seconds * 1_000_000))
