"""The codecs that we speak, and what each of them is on the wire.

                 a=rtpmap        timestamp, 20 ms    payload, 20 ms    number
    PCMU, PCMA   PCMU/8000       160                 160 octets        0, 8
    G722         G722/8000       160                 160 octets        9        16 kHz audio; 8,000 is an old mistake
    opus         opus/48000/2    960                 as it comes       96       one channel, said to be two
                                                                       (RFC 3551 §4.5.2, §6; RFC 7587 §4, §7)

The octets of the first three follow each other at 8,000 a second and may be cut into packets anywhere. Opus is
packets, each as long as its 20 ms need; a file of them begins with an index (see `pack_packets`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

OCTET_RATE = 8000
"Octets a second of the codecs whose octets follow each other."
OPUS_BIT_RATE = 32_000
"Of what we encode, on average."
OPUS_PACKET = 20
"Milliseconds."


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to carry audio in RTP."""

    name: str
    "As IANA has it; SDP's names are the same in any case of letters (RFC 8866 §6.6)."
    number: int
    "The payload type that we offer; 96 and more are dynamic."
    clock_rate: int
    "Of RTP timestamps, in Hz."
    channels: int
    "As a=rtpmap says."
    sample_rate: int
    "Of the audio that is encoded, in Hz."
    silence: bytes
    "One octet to be repeated where octets follow each other, else one packet."
    packets: bool = False
    "Whether the encoded audio is packets of 20 ms of any length."
    parameters: str | None = None
    "The a=fmtp of our offer."

    @property
    def rtpmap(self) -> str:
        channels = f"/{self.channels}" if self.channels > 1 else ""
        return f"{self.name}/{self.clock_rate}{channels}"


PCMU = Codec("PCMU", 0, 8000, 1, 8000, b"\xff")
PCMA = Codec("PCMA", 8, 8000, 1, 8000, b"\xd5")
# Not what an encoder makes of zeros, which never comes to rest, but the quietest octet to hear for a decoder.
G722 = Codec("G722", 9, 8000, 1, 16000, b"\xfc")
# One frame of silence in CELT mode, fullband, 20 ms. We hear nothing but keys, so the peer may send little.
OPUS = Codec("opus", 96, 48000, 2, 48000, b"\xf8\xff\xfe", packets=True, parameters="stereo=0;sprop-stereo=0;usedtx=1")

CODECS = {codec.name: codec for codec in (PCMU, PCMA, G722, OPUS)}
ALWAYS = ("PCMU", "PCMA")
"Encoded for every call, whatever the trunks want now: they cost next to nothing and every telephone takes one."

_COUNT = struct.Struct("<I")


def pack_packets(packets: Sequence[bytes]) -> bytes:
    """Return the content of a file of packets.

    All numbers are 32 bits, little-endian: how many packets there are; where each begins, from the beginning of the
    file, and where the last one ends; then the packets.
    """
    start = _COUNT.size * (len(packets) + 2)
    bounds = [start]
    for packet in packets:
        bounds.append(bounds[-1] + len(packet))
    return struct.pack(f"<{len(bounds) + 1}I", len(packets), *bounds) + b"".join(packets)
