"""Which 20 ms of sound goes into which packet of a stream of G.711.

A stream is silence (the lead-in), the audio, and silence again (the lead-out), in packets of 160 octets. The
audio's last packet is filled up with silence where the file does not end on a packet's border (the tail).
The very first packet has the marker bit. So a stream is a handful of runs in which every packet follows from
the one before by adding constants: that is what lets thousands of streams advance as vectors, and be looked
at one by one only where a run ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

CLOCK_RATE = 8000
"Samples and octets of G.711 in a second, and units of its RTP timestamps (RFC 3551 §4.5.14)."
PACKET_OCTETS = 160
"Also the timestamp's step from packet to packet."
PACKET_SECONDS = PACKET_OCTETS / CLOCK_RATE

SILENCE = {"PCMU": 0xFF, "PCMA": 0xD5}
"The octet that decodes to zero, or as near as the law comes to it (ITU-T G.711)."


class Source(Enum):
    """Where a run's octets are."""

    SILENCE = "silence"
    AUDIO = "audio"
    "The file, from its first octet, 160 further with each packet."
    TAIL = "tail"
    "One packet: what is left of the file, filled up with silence."


@dataclass(frozen=True, slots=True)
class Run:
    """Packets that follow from each other."""

    source: Source
    packets: int
    "At least 1."
    first: int = 0
    "Of the audio: which of its packets the run begins with."
    marker: bool = False


def runs(octets: int, lead_in: float, lead_out: float) -> tuple[Run, ...]:
    """Lay out a stream.

    `octets`: of the audio. `lead_in`, `lead_out`: seconds of silence, rounded up to whole packets.
    """
    whole, rest = divmod(octets, PACKET_OCTETS)
    laid_out = [
        Run(Source.SILENCE, packets_of(lead_in)),
        Run(Source.AUDIO, whole),
        Run(Source.TAIL, 1 if rest else 0),
        Run(Source.SILENCE, packets_of(lead_out)),
    ]
    laid_out = [run for run in laid_out if run.packets]
    if not laid_out:
        return ()
    head, *others = laid_out
    begin = [Run(head.source, 1, marker=True)]
    if head.packets > 1:
        begin.append(Run(head.source, head.packets - 1, first=1))
    return (*begin, *others)


def packets_of(seconds: float) -> int:
    """Return how many packets last at least this long."""
    octets = round(seconds * CLOCK_RATE)
    return -(-octets // PACKET_OCTETS)


def tail(audio: bytes, codec: str) -> bytes:
    """Return the last packet's payload of audio that does not end on a packet's border, else nothing."""
    rest = len(audio) % PACKET_OCTETS
    if not rest:
        return b""
    return bytes(audio[-rest:]) + bytes([SILENCE[codec]]) * (PACKET_OCTETS - rest)
