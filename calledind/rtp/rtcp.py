"""RTCP: sender and receiver reports, source descriptions, goodbyes (RFC 3550 §6), in compound packets.

A round trip is measured without common clocks: our sender report carries our time (the middle 32 bits of it are
called LSR when the peer repeats them), the peer adds how long it kept the report (DLSR), and what is left of
the time since then was spent on the way (§6.4.1).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from calledind.rtp.packet import VERSION, RTPError

SENDER_REPORT = 200
RECEIVER_REPORT = 201
SOURCE_DESCRIPTION = 202
GOODBYE = 203

CNAME = 1
"SDES item: the canonical name (§6.5.1)."

NTP_EPOCH = 2_208_988_800
"Seconds from 1900, where NTP begins, to 1970."

_HEADER = struct.Struct("!BBH")
_BLOCK = struct.Struct("!IIIIII")
_SENDER = struct.Struct("!IQIII")
_MOST_BLOCKS = 31


@dataclass(frozen=True, slots=True)
class ReportBlock:
    """What a receiver says of one source (§6.4.1)."""

    ssrc: int
    "The source that is spoken of."
    fraction_lost: float
    "Since the report before, 0 to 1, in steps of 1/256."
    lost: int
    "Since the beginning; less than 0 where packets came twice. 24 bits, signed."
    highest_sequence: int
    "Extended by the count of wraps, 32 bits."
    jitter: int
    "In timestamp units."
    last_sender_report: int
    "LSR: middle 32 bits of the NTP time of the last sender report; 0 for none."
    delay: int
    "DLSR: since that report came in, in 1/65,536 s."

    def __bytes__(self) -> bytes:
        fraction = min(max(int(self.fraction_lost * 256), 0), 255)
        lost = min(max(self.lost, -(1 << 23)), (1 << 23) - 1) & 0xFFFFFF
        return _BLOCK.pack(
            self.ssrc,
            fraction << 24 | lost,
            self.highest_sequence & 0xFFFFFFFF,
            min(self.jitter, 0xFFFFFFFF),
            self.last_sender_report,
            min(self.delay, 0xFFFFFFFF),
        )


@dataclass(frozen=True, slots=True)
class SenderReport:
    """SR (§6.4.1)."""

    ssrc: int
    ntp: int
    "Wall time of the report: seconds since 1900 and their fraction, 64 bits."
    timestamp: int
    "The same instant as the stream's RTP timestamp."
    packets: int
    octets: int
    "Of payload."
    reports: tuple[ReportBlock, ...] = ()


@dataclass(frozen=True, slots=True)
class ReceiverReport:
    """RR (§6.4.2)."""

    ssrc: int
    reports: tuple[ReportBlock, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceDescription:
    """SDES (§6.5)."""

    chunks: tuple[tuple[int, tuple[tuple[int, bytes], ...]], ...]
    "For each source its items: kind and text, of which CNAME must be one."

    @classmethod
    def named(cls, ssrc: int, name: str) -> SourceDescription:
        return cls(((ssrc, ((CNAME, name.encode()),)),))


@dataclass(frozen=True, slots=True)
class Goodbye:
    """BYE (§6.6)."""

    sources: tuple[int, ...]
    words: bytes = b""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A packet of a kind that we have no use for (APP, feedback, XR)."""

    kind: int
    content: bytes


Report = SenderReport | ReceiverReport | SourceDescription | Goodbye | Unknown


def ntp_time(now: float) -> int:
    """Return seconds since 1970 as NTP's 64 bits (§4)."""
    return int((now + NTP_EPOCH) * (1 << 32)) & 0xFFFFFFFFFFFFFFFF


def middle(ntp: int) -> int:
    """Return the 32 bits in the middle, in 1/65,536 s: what LSR is (§4)."""
    return ntp >> 16 & 0xFFFFFFFF


def round_trip(block: ReportBlock, now: int) -> float | None:
    """Return the seconds to the peer and back; None while it has heard no report of ours.

    `now`: NTP time at which `block` came in, by the same clock as our sender reports.
    """
    if not block.last_sender_report:
        return None
    took = (middle(now) - block.last_sender_report - block.delay) & 0xFFFFFFFF
    # The peer's clock may tick a little faster than ours; a large value is no delay but nonsense.
    return took / 65536 if took < 1 << 31 else 0.0


def parse(data: bytes) -> list[Report]:
    """Read one datagram, a compound packet. Raises `RTPError`.

    The first part may be any kind (reduced-size RTCP, RFC 5506), since we only listen.
    """
    reports: list[Report] = []
    position = 0
    while position < len(data):
        if position + 4 > len(data):
            raise RTPError("cut off in an RTCP header")
        flags, kind, words = _HEADER.unpack_from(data, position)
        if flags >> 6 != VERSION:
            raise RTPError(f"RTCP version {flags >> 6}")
        if not 192 <= kind <= 223:
            raise RTPError(f"{kind} is no kind of RTCP")
        end = position + 4 + 4 * words
        if end > len(data):
            raise RTPError("cut off in an RTCP packet")
        content = data[position + 4 : end]
        if flags & 0x20:
            if end != len(data) or not content or not 1 <= content[-1] <= len(content):
                raise RTPError("wrong padding")
            content = content[: -content[-1]]
        reports.append(_parse_one(kind, flags & 0x1F, content))
        position = end
    if not reports:
        raise RTPError("an empty datagram")
    return reports


def _parse_one(kind: int, count: int, content: bytes) -> Report:
    if kind == SENDER_REPORT:
        if len(content) < _SENDER.size:
            raise RTPError("cut off in a sender report")
        ssrc, ntp, timestamp, packets, octets = _SENDER.unpack_from(content)
        return SenderReport(ssrc, ntp, timestamp, packets, octets, _parse_blocks(content[_SENDER.size :], count))
    if kind == RECEIVER_REPORT:
        if len(content) < 4:
            raise RTPError("cut off in a receiver report")
        return ReceiverReport(int.from_bytes(content[:4], "big"), _parse_blocks(content[4:], count))
    if kind == SOURCE_DESCRIPTION:
        return _parse_description(content, count)
    if kind == GOODBYE:
        if len(content) < 4 * count:
            raise RTPError("cut off in a goodbye")
        sources = struct.unpack_from(f"!{count}I", content)
        rest = content[4 * count :]
        return Goodbye(sources, rest[1 : 1 + rest[0]] if rest else b"")
    return Unknown(kind, content)


def _parse_blocks(content: bytes, count: int) -> tuple[ReportBlock, ...]:
    if len(content) < count * _BLOCK.size:
        raise RTPError("cut off in a report block")
    blocks = []
    for number in range(count):
        ssrc, losses, highest, jitter, last, delay = _BLOCK.unpack_from(content, number * _BLOCK.size)
        lost = losses & 0xFFFFFF
        if lost >= 1 << 23:
            lost -= 1 << 24
        blocks.append(ReportBlock(ssrc, (losses >> 24) / 256, lost, highest, jitter, last, delay))
    return tuple(blocks)


def _parse_description(content: bytes, count: int) -> SourceDescription:
    chunks = []
    position = 0
    for _ in range(count):
        if position + 4 > len(content):
            raise RTPError("cut off in a source description")
        ssrc = int.from_bytes(content[position : position + 4], "big")
        position += 4
        items = []
        while position < len(content) and content[position]:
            if position + 2 > len(content) or position + 2 + content[position + 1] > len(content):
                raise RTPError("cut off in an item of a source description")
            kind, length = content[position], content[position + 1]
            items.append((kind, content[position + 2 : position + 2 + length]))
            position += 2 + length
        # The list ends with one null octet at least, and the chunk with its word.
        position += 4 - position % 4
        chunks.append((ssrc, tuple(items)))
    return SourceDescription(tuple(chunks))


def pack(reports: Sequence[Report]) -> bytes:
    """Return one datagram; a sender or receiver report has to be the first (§6.1)."""
    return b"".join(_pack_one(report) for report in reports)


def _pack_one(report: Report) -> bytes:
    match report:
        case SenderReport():
            content = _SENDER.pack(
                report.ssrc,
                report.ntp,
                report.timestamp & 0xFFFFFFFF,
                report.packets & 0xFFFFFFFF,
                report.octets & 0xFFFFFFFF,
            )
            return _with_header(SENDER_REPORT, len(report.reports), content + _blocks(report.reports))
        case ReceiverReport():
            content = report.ssrc.to_bytes(4, "big") + _blocks(report.reports)
            return _with_header(RECEIVER_REPORT, len(report.reports), content)
        case SourceDescription():
            return _with_header(SOURCE_DESCRIPTION, len(report.chunks), b"".join(_chunk(*c) for c in report.chunks))
        case Goodbye():
            content = b"".join(source.to_bytes(4, "big") for source in report.sources)
            if report.words:
                content += bytes([len(report.words)]) + report.words
            return _with_header(GOODBYE, len(report.sources), content + bytes(-len(content) % 4))
        case _:
            return _with_header(report.kind, 0, report.content)


def _blocks(blocks: tuple[ReportBlock, ...]) -> bytes:
    return b"".join(bytes(block) for block in blocks)


def _chunk(ssrc: int, items: tuple[tuple[int, bytes], ...]) -> bytes:
    chunk = ssrc.to_bytes(4, "big")
    for kind, text in items:
        chunk += bytes([kind, len(text)]) + text
    return chunk + bytes(4 - len(chunk) % 4)


def _with_header(kind: int, count: int, content: bytes) -> bytes:
    if count > _MOST_BLOCKS or len(content) % 4:
        raise ValueError("an RTCP packet has at most 31 parts and whole words")
    return _HEADER.pack(VERSION << 6 | count, kind, len(content) // 4) + content
