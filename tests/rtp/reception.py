"""One stream's reception, counted packet by packet: what the arrays must come to as well."""

from __future__ import annotations

from calledind.rtp.packetizer import CLOCK_RATE
from calledind.rtp.statistics import MAX_DROPOUT, MAX_MISORDER, Figures


class Reception:
    """The rules of `calledind.rtp.statistics`, one by one."""

    def __init__(self) -> None:
        self.ssrc: int | None = None
        self._highest = 0
        self._base = 0
        self._bad = -1
        self._received = 0
        self._transit: int | None = None
        self._jitter = 0.0
        self._banked_received = 0
        self._banked_expected = 0

    def received(self, ssrc: int, sequence: int, timestamp: int, arrival: int, *, timed: bool = True) -> None:
        """Count one packet.

        `arrival`: when it came in, in units of the timestamp, from any fixed instant on.
        `timed`: whether the timestamp is the packet's own.
        """
        if ssrc != self.ssrc:
            self._begin(ssrc, sequence)
        else:
            step = (sequence - self._highest) & 0xFFFF
            if step < MAX_DROPOUT:
                self._highest += step
                self._bad = -1
            elif step <= 0x10000 - MAX_MISORDER:
                if sequence != self._bad:
                    self._bad = (sequence + 1) & 0xFFFF
                    return
                self._begin(ssrc, sequence)
        self._received += 1
        if timed:
            self._count_jitter(timestamp, arrival)

    @property
    def figures(self) -> Figures:
        expected = self._banked_expected
        if self.ssrc is not None:
            expected += self._highest - self._base + 1
        received = self._banked_received + self._received
        return Figures(received, max(expected - received, 0), self._jitter / CLOCK_RATE, self._highest, self.ssrc or 0)

    def _begin(self, ssrc: int, sequence: int) -> None:
        if self.ssrc is not None:
            self._banked_received += self._received
            self._banked_expected += self._highest - self._base + 1
        self.ssrc = ssrc
        self._base = self._highest = sequence
        self._bad = -1
        self._received = 0
        self._transit = None

    def _count_jitter(self, timestamp: int, arrival: int) -> None:
        transit = (arrival - timestamp) & 0xFFFFFFFF
        if self._transit is not None:
            difference = (transit - self._transit) & 0xFFFFFFFF
            difference = min(difference, 0x100000000 - difference)
            if difference <= CLOCK_RATE:
                self._jitter += (difference - self._jitter) / 16
        self._transit = transit
