"""Packets of many streams: each has its packet sent in its slice, all advance as vectors.

Time is cut into slices of 2 ms. A stream whose packets last 20 ms is due in every tenth of them, so there are ten
phases of such streams, and fifteen of streams with packets of 30 ms. A phase keeps the streams that are
due in it in arrays: header, address, where the payload is, how many packets are left of the run. A lane is the
part of the arrays that belongs to one socket: a rectangle's row, filled from the left, since one `sendmmsg`
sends through one socket. To set up a stream is to fill the next place of its lane, to end it is to move
the lane's last one into its place: neither looks at other streams. All arrays double when they are full.

           place   0    1    2    3
    lane 0       [ a    b    c    . ]  socket of port 16384: one sendmmsg of 3
    lane 1       [ d    .    .    . ]  socket of port 16404: one sendmmsg of 1

Places beyond a lane's last stream are advanced with the others and never sent.

A stream that is encrypted has its payload replaced, right before it is sent, by a sealed copy in memory of the
phase; afterwards the arrays are as if nothing had happened. Phases without such streams do nothing of this.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calledind.net import mmsg
from calledind.rtp.packet import HEADER_OCTETS, VERSION

PHASES = 10
"Slices of 20 ms."
SLICES_PER_SECOND = 500

HEADER = np.dtype([("flags", "u1"), ("second", "u1"), ("sequence", ">u2"), ("timestamp", ">u4"), ("ssrc", ">u4")])
"The fixed part of an RTP header, in network order."

_SENDING_BUFFER_FULL = (errno.EAGAIN, errno.ENOBUFS)

_SEALED_OCTETS = 2048
"Room for an encrypted payload with what authenticates it."


@dataclass(slots=True)
class Stretch:
    """A run of packets with the memory its payload is in."""

    payload: int
    "Address of the first packet's octets."
    step: int
    "From packet to packet; 0 where all are the same."
    packets: int
    octets: int
    "Of each packet's payload."
    marker: bool = False


@dataclass(slots=True, eq=False)
class Stream:
    """One stream's sending state. While it is in a phase the figures live there; `Phase.read` refreshes them."""

    payload_type: int
    ssrc: int
    sequence: int
    timestamp: int
    "Of the next packet."
    tick: int
    "The timestamp's step from packet to packet."
    clock_rate: int
    "Of the timestamp, in Hz."
    address: bytes = field(repr=False)
    "Packed, see `mmsg.pack_address`."
    stretches: Iterator[Stretch] = field(repr=False)
    "Those not begun."
    finished: Callable[[], None] = field(repr=False)
    stretch: Stretch | None = None
    "What is left of the one begun."
    sent: int = 0
    octets: int = 0
    "Of all payloads sent, up to what is left of the stretch."
    late: int = 0
    "Sent more than `LATE` after they were due."
    failed: int = 0
    "Counted as sent, but refused by the kernel."
    seal: Callable[[bytes, bytes], bytes] | None = field(default=None, repr=False)
    "Header and payload -> what is sent behind the header (see `rtp.srtp.Sender.seal`); None: the payload."
    lane: Lane | None = None
    place: int = 0

    @property
    def packet_seconds(self) -> float:
        return self.tick / self.clock_rate

    def next_stretch(self) -> bool:
        """Take up the next run, as the one before has ended; False at the end."""
        if self.stretch is not None:
            self.octets += self.stretch.packets * self.stretch.octets
        self.stretch = next(self.stretches, None)
        return self.stretch is not None


@dataclass(slots=True, eq=False)
class Lane:
    """The streams of one socket that are due in one phase."""

    phase: Phase = field(repr=False)
    row: int
    descriptor: int
    streams: list[Stream] = field(default_factory=list)


class Phase:
    """One slice's streams."""

    def __init__(self, family: int) -> None:
        self._name_length = 16 if family == 2 else mmsg.ADDRESS_OCTETS
        self._lanes: list[Lane] = []
        self._busy: dict[Lane, None] = {}
        self._sealed: dict[Stream, Callable[[bytes, bytes], bytes]] = {}
        "The streams that are encrypted, each with its seal."
        self._sealed_payloads = bytearray()
        self.streams = 0
        self.sent_at = 0.0
        "When its packets were sent last, in monotonic seconds; the owner's note."
        self._allocate(1, 1)

    def lane(self, descriptor: int) -> Lane:
        """Make room for a socket; it stays for good."""
        lane = Lane(self, len(self._lanes), descriptor)
        rows, width = self.left.shape
        if lane.row == rows:
            self._allocate(2 * rows, width)
        self._lanes.append(lane)
        return lane

    def place(self, lane: Lane, stream: Stream) -> None:
        """Have the stream sent from now on. It needs a stretch."""
        rows, width = self.left.shape
        row, place = lane.row, len(lane.streams)
        if place == width:
            self._allocate(rows, 2 * width)
        lane.streams.append(stream)
        stream.lane, stream.place = lane, place
        self._busy[lane] = None
        self.streams += 1
        self.sequence[row, place] = stream.sequence
        self.timestamp[row, place] = stream.timestamp
        self.sent[row, place] = stream.sent
        self._tick[row, place] = stream.tick
        self.late[row, place] = stream.late
        header = self._header[row, place]
        header["flags"] = VERSION << 6
        header["sequence"] = stream.sequence
        header["timestamp"] = stream.timestamp
        header["ssrc"] = stream.ssrc
        self.redirect(stream)
        self.seal(stream)
        self._begin(stream)

    def seal(self, stream: Stream) -> None:
        """Encrypt by `stream.seal` from the next packet on, or no longer."""
        self._sealed.pop(stream, None)
        if stream.seal is not None and stream.lane is not None:
            self._sealed[stream] = stream.seal

    def redirect(self, stream: Stream) -> None:
        """Send to `stream.address` from the next packet on."""
        if stream.lane is not None:
            self._address[stream.lane.row, stream.place] = np.frombuffer(stream.address, np.uint8)

    def read(self, stream: Stream) -> None:
        """Bring the stream's own figures up to date."""
        if stream.lane is None:
            return
        at = stream.lane.row, stream.place
        stream.sequence = int(self.sequence[at])
        stream.timestamp = int(self.timestamp[at])
        stream.sent = int(self.sent[at])
        stream.late = int(self.late[at])
        if stream.stretch is not None:
            stream.stretch.payload = int(self._payload[at])
            left = int(self.left[at])
            stream.octets += (stream.stretch.packets - left) * stream.stretch.octets
            stream.stretch.packets = left

    def withdraw(self, stream: Stream) -> None:
        """Send it no more; its figures are up to date afterwards."""
        lane = stream.lane
        if lane is None:
            return
        self.read(stream)
        row, place = lane.row, stream.place
        last = lane.streams.pop()
        if last is not stream:
            end = len(lane.streams)
            for array in self._by_place:
                array[row, place] = array[row, end]
            lane.streams[place] = last
            last.place = place
        # Counts down below zero from here on, and is never seen to end.
        self.left[row, len(lane.streams)] = 0
        stream.lane = None
        self._sealed.pop(stream, None)
        self.streams -= 1
        if not lane.streams:
            del self._busy[lane]

    def send(self, *, late: bool) -> None:
        """Send what is due, and move all streams on to their next packet."""
        width = self.left.shape[1]
        if self._sealed:
            self._send_sealed()
        else:
            self._send_all()
        used = slice(len(self._lanes))
        self.sequence[used] += 1
        self.timestamp[used] += self._tick[used]
        self.sent[used] += 1
        if late:
            self.late[used] += 1
        self._payload[used] += self._step[used]
        left = self.left[used]
        left -= 1
        self._header["sequence"][used] = self.sequence[used]
        self._header["timestamp"][used] = self.timestamp[used]
        if not left.all():
            self._go_on(np.flatnonzero(left.ravel() == 0).tolist(), width)

    def _send_all(self) -> None:
        width = self.left.shape[1]
        first = self._messages.ctypes.data
        for lane in self._busy:
            messages = first + lane.row * width * mmsg.MESSAGE.itemsize
            count = len(lane.streams)
            sent = mmsg.send(lane.descriptor, messages, count)
            if sent != count:
                _send_the_rest(lane, messages, sent)

    def _send_sealed(self) -> None:
        """Send all, the encrypted streams' payloads exchanged meanwhile."""
        count = len(self._sealed)
        if len(self._sealed_payloads) < count * _SEALED_OCTETS:
            self._sealed_payloads = bytearray(2 * count * _SEALED_OCTETS)
        rows = np.array([stream.lane.row for stream in self._sealed if stream.lane is not None])
        at = rows, np.array([stream.place for stream in self._sealed])
        payloads, lengths = self._payload[at], self._length[at]
        headers = self._header[at].tobytes()
        room = memoryview(self._sealed_payloads)
        sealed_lengths = []
        plain = zip(self._sealed.values(), payloads.tolist(), lengths.tolist(), strict=True)
        for number, (seal, payload, length) in enumerate(plain):
            header = headers[number * HEADER_OCTETS : (number + 1) * HEADER_OCTETS]
            sealed = seal(header, ctypes.string_at(payload, length))
            start = number * _SEALED_OCTETS
            room[start : start + len(sealed)] = sealed
            sealed_lengths.append(len(sealed))
        memory = np.frombuffer(room, np.uint8).ctypes.data
        self._payload[at] = memory + np.arange(count, dtype=np.uint64) * _SEALED_OCTETS
        self._length[at] = sealed_lengths
        self._send_all()
        self._payload[at], self._length[at] = payloads, lengths

    def _go_on(self, ended: list[int], width: int) -> None:
        """Begin the next run of the streams whose run has ended, or end them."""
        places = (divmod(flat, width) for flat in ended)
        # Withdrawing moves streams about, so all are found before the first is touched.
        streams = [self._lanes[row].streams[place] for row, place in places if place < len(self._lanes[row].streams)]
        for stream in streams:
            if stream.next_stretch():
                self._begin(stream)
            else:
                self.withdraw(stream)
                stream.finished()

    def _begin(self, stream: Stream) -> None:
        if stream.lane is None or stream.stretch is None:
            raise AssertionError("a stream in a phase has a lane and a stretch")
        at = stream.lane.row, stream.place
        stretch = stream.stretch
        self._payload[at] = stretch.payload
        self._step[at] = stretch.step
        self._length[at] = stretch.octets
        self.left[at] = stretch.packets
        self._header["second"][at] = stream.payload_type | (0x80 if stretch.marker else 0)

    def _allocate(self, rows: int, width: int) -> None:
        shape = rows, width
        old: list[NDArray[Any]] = getattr(self, "_by_place", [])
        self.left: NDArray[np.int64] = np.zeros(shape, np.int64)
        "Packets left of the run."
        self.sequence: NDArray[np.uint16] = np.zeros(shape, np.uint16)
        self.timestamp: NDArray[np.uint32] = np.zeros(shape, np.uint32)
        self.sent: NDArray[np.uint32] = np.zeros(shape, np.uint32)
        self.late: NDArray[np.uint32] = np.zeros(shape, np.uint32)
        self._tick: NDArray[np.uint32] = np.zeros(shape, np.uint32)
        self._step: NDArray[np.uint64] = np.zeros(shape, np.uint64)
        self._header: mmsg.Records = np.zeros(shape, HEADER)
        self._address: NDArray[np.uint8] = np.zeros((*shape, 32), np.uint8)[:, :, : mmsg.ADDRESS_OCTETS]
        vectors: mmsg.Records = np.zeros((*shape, 2), mmsg.VECTOR)
        self._payload: NDArray[np.uint64] = vectors["base"][:, :, 1]
        self._length: NDArray[np.uint64] = vectors["length"][:, :, 1]
        count = np.arange(rows * width, dtype=np.uint64).reshape(shape)
        vectors["base"][:, :, 0] = self._header.ctypes.data + count * HEADER.itemsize
        vectors["length"][:, :, 0] = HEADER_OCTETS
        messages: mmsg.Records = np.zeros(shape, mmsg.MESSAGE)
        messages["name"] = self._address.ctypes.data + count * 32
        messages["name_length"] = self._name_length
        messages["vectors"] = vectors.ctypes.data + count * (2 * mmsg.VECTOR.itemsize)
        messages["vector_count"] = 2
        self._messages = messages
        self._vectors = vectors
        self._by_place: list[NDArray[Any]] = [
            self.left,
            self.sequence,
            self.timestamp,
            self.sent,
            self.late,
            self._tick,
            self._step,
            self._header,
            self._address,
            self._payload,
            self._length,
        ]
        for before, now in zip(old, self._by_place, strict=False):
            now[: before.shape[0], : before.shape[1]] = before


def _send_the_rest(lane: Lane, messages: int, sent: int) -> None:
    """Go on after the datagram that the kernel refused, so that one bad address harms nobody else."""
    done = 0
    count = len(lane.streams)
    while True:
        if sent < 0:
            if ctypes.get_errno() in _SENDING_BUFFER_FULL:
                for stream in lane.streams[done:]:
                    stream.failed += 1
                return
            lane.streams[done].failed += 1
            sent = 1
        done += sent
        if done >= count:
            return
        sent = mmsg.send(lane.descriptor, messages + done * mmsg.MESSAGE.itemsize, count - done)
