"""What reached us of a stream of RTP: counted as RFC 3550 appendix A.1, A.3 and A.8 say.

`Receptions` is thousands of streams in arrays, advanced a batch of packets at a time. The rules:

* Sequence numbers are extended by their wraps. A step forward of less than 3,000 is loss, a step back of at
  most 100 is an overtaken or repeated packet; any other jump is counted only if the next packet goes on from
  there, and then is a new beginning. So is another SSRC. What was counted before a new beginning stays in
  the totals.
* Jitter is the mean of how much the gaps between arrivals differ from the gaps between timestamps, smoothed by
  1/16. A difference of more than a second is no jitter (the sender paused, or a clock was set) and left out, as
  are packets whose timestamp is not their own, such as telephone events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calledind.rtp.packetizer import CLOCK_RATE

MAX_DROPOUT = 3000
MAX_MISORDER = 100


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one stream, since its beginning."""

    received: int = 0
    lost: int = 0
    "Expected less received, at least 0."
    jitter: float = 0.0
    "In seconds."
    highest_sequence: int = 0
    "Extended by the wraps."
    ssrc: int = 0


Rows = NDArray[np.int64]


class Receptions:
    """Many streams, each a row; rows are given out by the owner and start over with `clear`."""

    def __init__(self, clock_rate: int = CLOCK_RATE) -> None:
        self._clock_rate = clock_rate
        "Of the timestamps and arrivals of all streams, in Hz."
        self._allocate(1)

    def __len__(self) -> int:
        return int(self._known.shape[0])

    def clear(self, row: int) -> None:
        """Begin a new stream in this row; the arrays grow as needed."""
        while row >= len(self):
            self._allocate(2 * len(self))
        for array in self._arrays:
            array[row] = 0
        self._bad[row] = -1

    def received(self, rows: Rows, ssrc: Rows, sequence: Rows, timestamp: Rows, arrival: Rows, timed: Rows) -> None:
        """Count a batch of packets in the order they came; each argument has the shape (n,).

        `arrival`: when they came in, in units of the timestamp, from any fixed instant on. `timed`: 1 where the
        timestamp is the packet's own, else 0.
        """
        packets = np.stack((rows, ssrc, sequence, timestamp, arrival, timed))
        while packets.shape[1]:
            # Of each stream the first packet, then of those left the first again: in most batches that is all.
            firsts = np.unique(packets[0], return_index=True)[1]
            self._once(*packets[:, firsts])
            if firsts.size == packets.shape[1]:
                return
            others = np.ones(packets.shape[1], bool)
            others[firsts] = False
            packets = packets[:, others]

    def figures(self, row: int) -> Figures:
        """Return one stream's figures."""
        expected = int(self._banked_expected[row])
        if self._known[row]:
            expected += int(self._highest[row] - self._base[row]) + 1
        received = int(self._banked_received[row] + self._received[row])
        return Figures(
            received,
            max(expected - received, 0),
            float(self._jitter[row]) / self._clock_rate,
            int(self._highest[row]),
            int(self._ssrc[row]),
        )

    def _once(self, rows: Rows, ssrc: Rows, sequence: Rows, timestamp: Rows, arrival: Rows, timed: Rows) -> None:
        """Count at most one packet of each stream."""
        step = (sequence - self._highest[rows]) & 0xFFFF
        same = self._known[rows] & (self._ssrc[rows] == ssrc)
        forward = same & (step < MAX_DROPOUT)
        jump = same & ~forward & (step <= 0x10000 - MAX_MISORDER)
        confirmed = jump & (sequence == self._bad[rows])
        begins = ~same | confirmed
        suspected = jump & ~confirmed
        if begins.any():
            self._begin(rows[begins], ssrc[begins], sequence[begins])
        if suspected.any():
            self._bad[rows[suspected]] = (sequence[suspected] + 1) & 0xFFFF
        self._highest[rows[forward]] += step[forward]
        self._bad[rows[forward]] = -1
        counted = ~suspected
        self._received[rows[counted]] += 1
        counted &= timed != 0
        self._count_jitter(rows[counted], timestamp[counted], arrival[counted])

    def _begin(self, rows: Rows, ssrc: Rows, sequence: Rows) -> None:
        before = self._known[rows]
        self._banked_received[rows] += self._received[rows]
        self._banked_expected[rows] += np.where(before, self._highest[rows] - self._base[rows] + 1, 0)
        self._known[rows] = True
        self._ssrc[rows] = ssrc
        self._base[rows] = sequence
        self._highest[rows] = sequence
        self._bad[rows] = -1
        self._received[rows] = 0
        self._has_transit[rows] = False

    def _count_jitter(self, rows: Rows, timestamp: Rows, arrival: Rows) -> None:
        transit = (arrival - timestamp) & 0xFFFFFFFF
        difference = (transit - self._transit[rows]) & 0xFFFFFFFF
        difference = np.minimum(difference, 0x100000000 - difference)
        smooth = self._has_transit[rows] & (difference <= self._clock_rate)
        jitter = self._jitter[rows]
        self._jitter[rows] = np.where(smooth, jitter + (difference - jitter) / 16, jitter)
        self._transit[rows] = transit
        self._has_transit[rows] = True

    def _allocate(self, size: int) -> None:
        old = getattr(self, "_arrays", ())
        self._known: NDArray[np.bool_] = np.zeros(size, np.bool_)
        self._has_transit: NDArray[np.bool_] = np.zeros(size, np.bool_)
        self._jitter: NDArray[np.float64] = np.zeros(size)
        self._ssrc: Rows = np.zeros(size, np.int64)
        self._highest: Rows = np.zeros(size, np.int64)
        self._base: Rows = np.zeros(size, np.int64)
        self._bad: Rows = np.full(size, -1, np.int64)
        self._received: Rows = np.zeros(size, np.int64)
        self._transit: Rows = np.zeros(size, np.int64)
        self._banked_received: Rows = np.zeros(size, np.int64)
        self._banked_expected: Rows = np.zeros(size, np.int64)
        self._arrays = (
            self._known,
            self._has_transit,
            self._jitter,
            self._ssrc,
            self._highest,
            self._base,
            self._bad,
            self._received,
            self._transit,
            self._banked_received,
            self._banked_expected,
        )
        for before, now in zip(old, self._arrays, strict=False):
            now[: before.size] = before
