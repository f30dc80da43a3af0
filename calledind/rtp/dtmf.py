"""Digits pressed during the call, as named telephone events (RFC 4733 §2.3).

One press is many packets with the same RTP timestamp and a duration that grows, the last of them with the end
bit and sent three times. Some are lost, so a press is reported with the first packet seen of it, whichever
that is. A press that outlasts the 16 bits of duration goes on as another segment, whose timestamp is where
the one before ended (§2.5.1.3): still the same press.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from calledind.rtp.packet import Packet, RTPError

DIGITS = "0123456789*#ABCD"
"Events 0 to 15 (RFC 4733 §3.2)."

_EVENT = struct.Struct("!BBH")
_OVERTAKEN = 1 << 17
"Timestamp units that an overtaken packet is behind at most, 2.7 s of Opus and 16 of the others; else a clock was set."


@dataclass(frozen=True, slots=True)
class TelephoneEvent:
    """The payload of one packet."""

    event: int
    "0 to 255; 0 to 15 are the digits."
    end: bool
    volume: int
    "Power below 1 mW: 0 to 63 stand for 0 to -63 dBm0."
    duration: int
    "So far, in units of the RTP timestamp, 0 to 65,535."

    @classmethod
    def parse(cls, payload: bytes) -> TelephoneEvent:
        """Read a payload; the first event where there are more. Raises `RTPError`."""
        if len(payload) < _EVENT.size:
            raise RTPError(f"{len(payload)} octets are too few for a telephone event")
        event, flags, duration = _EVENT.unpack_from(payload)
        return cls(event, bool(flags & 0x80), flags & 0x3F, duration)

    def __bytes__(self) -> bytes:
        return _EVENT.pack(self.event, (0x80 if self.end else 0) | self.volume, self.duration)

    @property
    def digit(self) -> str | None:
        """The key pressed; None for events that are no key."""
        return DIGITS[self.event] if self.event < len(DIGITS) else None


class DigitDetector:
    """Turns the event packets of one stream into presses, each told once."""

    __slots__ = ("_ended", "_ends_at", "_last", "_source")

    def __init__(self) -> None:
        self._source: int | None = None
        "SSRC of the press seen last."
        self._last: tuple[int, int] | None = None
        "Timestamp and event of it."
        self._ends_at = 0
        "Timestamp up to which it lasted."
        self._ended = False

    def received(self, packet: Packet) -> str | None:
        """Return the digit when this packet begins a press that was not told yet. Raises `RTPError`."""
        event = TelephoneEvent.parse(packet.payload)
        start = packet.timestamp
        if packet.ssrc != self._source:
            self._source, self._last = packet.ssrc, None  # timestamps of another source say nothing of this one's
        if self._last is not None:
            age = (start - self._last[0]) & 0xFFFFFFFF
            if 0x100000000 - age < _OVERTAKEN:
                return None  # a packet of an earlier press that was overtaken
            if age == 0 and event.event == self._last[1]:
                self._note(start, event)
                return None
            if event.event == self._last[1] and start == self._ends_at and not self._ended:
                self._ended = False
                self._note(start, event)
                return None
        self._ended = False
        self._ends_at = start
        self._note(start, event)
        return event.digit

    def _note(self, start: int, event: TelephoneEvent) -> None:
        self._last = start, event.event
        self._ends_at = (start + event.duration) & 0xFFFFFFFF
        self._ended = self._ended or event.end


def press(digit: str, *, packets: int = 5, step: int = 160, volume: int = 10) -> Iterator[tuple[bool, bytes]]:
    """Give marker bit and payload of each packet of one press, in order; all have the press's first timestamp.

    `packets`: sent while the key is down, `step` timestamp units apart; the end is repeated twice (§2.5.1.4).
    """
    event = DIGITS.index(digit)
    for number in range(1, packets + 1):
        yield number == 1, bytes(TelephoneEvent(event, False, volume, number * step))
    for _ in range(3):
        yield False, bytes(TelephoneEvent(event, True, volume, packets * step))
