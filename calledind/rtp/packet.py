"""RTP packets (RFC 3550 §5.1): bytes to values and back.

 0                   1                   2                   3
 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
|V=2|P|X|  CC   |M|     PT      |       sequence number         |
+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
|                           timestamp                           |
+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
|           synchronization source (SSRC) identifier            |
+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+=+
|  contributing sources (CC of them), extension (X), payload, padding (P)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

VERSION = 2
HEADER_OCTETS = 12

_FIXED = struct.Struct("!BBHII")
_EXTENSION = struct.Struct("!HH")


class RTPError(ValueError):
    """Bytes that are no RTP, RTCP or telephone-event; the one exception that this package raises for them."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One RTP packet."""

    payload_type: int
    "0 to 127; 0 is PCMU and 8 is PCMA (RFC 3551 §6)."
    sequence: int
    "0 to 65,535; one more for each packet sent."
    timestamp: int
    "Sampling instant of the first octet, in units of the clock rate, 32 bits."
    ssrc: int
    "Synchronization source, 32 bits."
    payload: bytes = b""
    marker: bool = False
    "For audio: the first packet after a silence (RFC 3551 §4.1)."
    contributors: tuple[int, ...] = ()
    "Contributing sources, at most 15."
    extension: tuple[int, bytes] | None = None
    "What the profile defines: 16 bits and whole 32-bit words (RFC 3550 §5.3.1)."

    @classmethod
    def parse(cls, data: bytes) -> Packet:
        """Read one datagram. Raises `RTPError`."""
        if len(data) < HEADER_OCTETS:
            raise RTPError(f"{len(data)} octets are too few for RTP")
        flags, second, sequence, timestamp, ssrc = _FIXED.unpack_from(data)
        if flags >> 6 != VERSION:
            raise RTPError(f"RTP version {flags >> 6}")
        start = HEADER_OCTETS + 4 * (flags & 0x0F)
        end = len(data)
        if start > end:
            raise RTPError("cut off in the contributing sources")
        contributors = struct.unpack_from(f"!{flags & 0x0F}I", data, HEADER_OCTETS)
        extension = None
        if flags & 0x10:
            if start + 4 > end:
                raise RTPError("cut off in the extension's header")
            profile, words = _EXTENSION.unpack_from(data, start)
            start += 4
            if start + 4 * words > end:
                raise RTPError("cut off in the extension")
            extension = profile, data[start : start + 4 * words]
            start += 4 * words
        if flags & 0x20:
            padding = data[-1]
            if not 1 <= padding <= end - start:
                raise RTPError(f"{padding} octets of padding in {end - start} octets of payload")
            end -= padding
        return cls(
            payload_type=second & 0x7F,
            sequence=sequence,
            timestamp=timestamp,
            ssrc=ssrc,
            payload=data[start:end],
            marker=bool(second & 0x80),
            contributors=contributors,
            extension=extension,
        )

    def __bytes__(self) -> bytes:
        """Return the datagram, without padding."""
        flags = VERSION << 6 | (0x10 if self.extension else 0) | len(self.contributors)
        second = self.payload_type | (0x80 if self.marker else 0)
        parts = [_FIXED.pack(flags, second, self.sequence, self.timestamp, self.ssrc)]
        parts += [contributor.to_bytes(4, "big") for contributor in self.contributors]
        if self.extension is not None:
            profile, words = self.extension
            if len(words) % 4:
                raise ValueError("an extension has whole words of four octets")
            parts += [_EXTENSION.pack(profile, len(words) // 4), words]
        parts.append(self.payload)
        return b"".join(parts)
