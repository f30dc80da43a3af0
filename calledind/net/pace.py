"""Packets of many streams: each has its packet sent in its slice, all advance as vectors.

Time is cut into slices of 2 ms. A stream whose packets last 20 ms is due in every tenth of them, so there are ten
phases of such streams, and fifteen of streams with packets of 30 ms. A phase keeps what the kernel reads of the
streams that are due in it in arrays: headers, addresses, where the payloads are. They are filled from the left,
in no order. A lane is the streams of one socket in one phase, since one `sendmmsg` sends through one socket: it
has the structures that this call takes, which point into the arrays of the phase.

    phase        place    0    1    2    3    4
                        [ a    b    c    d    . ]  headers, addresses, payloads
    lanes        port 16384: [ a, b, d ]           one sendmmsg of 3
                 port 16386: [ c ]                 one sendmmsg of 1

To set up a stream is to fill the next place, to end it is to move the last one into its place: neither looks at other
streams, but for the arrays being doubled when they are full. Nothing else moves with each packet: how far a stream
has come follows from how often its phase was sent since, and the phase knows in which turn which runs will end.

A socket with few streams has one lane, and the sockets are spread over the phases; one with many has more lanes.

A stream that is encrypted has its payload replaced, right before it is sent, by a sealed copy in memory of the
phase; afterwards the arrays are as if nothing had happened. Phases without such streams do nothing of this.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calledind.net import mmsg
from calledind.rtp.packet import HEADER_OCTETS, VERSION

SLICES_PER_SECOND = 500
TOGETHER = 64
"Streams of a lane before the next is begun: a quarter of a millisecond's sending."
_APART = 7
"Slices from a phase to the next that is begun; has no divisor in common with the number of any."

HEADER = np.dtype([("flags", "u1"), ("second", "u1"), ("sequence", ">u2"), ("timestamp", ">u4"), ("ssrc", ">u4")])
"The fixed part of an RTP header, in network order."

_SENDING_BUFFER_FULL = (errno.EAGAIN, errno.ENOBUFS)

_NAME_OCTETS = 32
"From address to address in a phase."
_VECTORS_OCTETS = 2 * mmsg.VECTOR.itemsize
_Pointers = int | NDArray[np.uint64]
_SEALED_OCTETS = 2048
"Room for an encrypted payload with what authenticates it."


class Stretch(NamedTuple):
    """A run of packets with the memory its payload is in; many streams may have the same."""

    payload: int
    "Address of the first packet's octets."
    step: int
    "From packet to packet; 0 where all are the same."
    packets: int
    octets: int
    "Of each packet's payload."
    marker: bool = False
    memory: object = None
    "Holds the payload where it is."


@dataclass(slots=True, eq=False)
class Stream:
    """One stream's sending state. While it is in a phase its figures are of an earlier turn: see `Phase.read`."""

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
    stretch: Stretch | None = None
    "The one begun."
    taken: int = 0
    "Packets of it that were sent."
    sent: int = 0
    octets: int = 0
    "Of all payloads sent."
    late: int = 0
    "Sent more than `LATE` after they were due."
    failed: int = 0
    "Counted as sent, but refused by the kernel."
    seal: Callable[[bytes, bytes], bytes] | None = field(default=None, repr=False)
    "Header and payload -> what is sent behind the header (see `rtp.srtp.Sender.seal`); None: the payload."
    lane: Lane | None = None
    "Where it is sent, while it is."
    place: int = 0
    "In the arrays of the phase."
    slot: int = 0
    "In the lane."
    since: int = 0
    "Turn of the phase up to which the figures are."
    late_since: int = 0
    "The same, as the phase counts its late turns."
    ends: int = 0
    "Turn of the phase in which the stretch will have been sent."

    @property
    def packet_seconds(self) -> float:
        return self.tick / self.clock_rate

    def next_stretch(self) -> bool:
        """Take up the next run, as the one before has ended; False at the end."""
        self.stretch = next(self.stretches, None)
        self.taken = 0
        return self.stretch is not None


class Lane:
    """The streams of one socket that are due in one phase."""

    def __init__(self, phase: Phase, descriptor: int) -> None:
        self.phase = phase
        self.descriptor = descriptor
        self.streams: list[Stream] = []
        self._messages: mmsg.Records = np.zeros(0, mmsg.MESSAGE)
        self.first = 0
        "Address of the messages."

    def add(self, stream: Stream) -> None:
        """Take the stream in; the phase points its message to its place."""
        stream.lane, stream.slot = self, len(self.streams)
        self.streams.append(stream)
        if stream.slot == self._messages.size:
            before = self._messages
            self._messages = np.zeros(max(1, 2 * before.size), mmsg.MESSAGE)
            self._messages["name_length"] = self.phase.name_length
            self._messages["vector_count"] = 2
            self._messages[: before.size] = before
            self.first = self._messages.ctypes.data

    def remove(self, stream: Stream) -> None:
        last = self.streams.pop()
        if last is not stream:
            self._messages[stream.slot] = self._messages[last.slot]
            self.streams[stream.slot] = last
            last.slot = stream.slot
        stream.lane = None

    def point(self, slots: int | slice, names: _Pointers, vectors: _Pointers) -> None:
        """Say where the addresses and the parts of these streams' packets are."""
        self._messages["name"][slots] = names
        self._messages["vectors"][slots] = vectors


class Phase:
    """One slice's streams."""

    def __init__(self, family: int, finished: Callable[[Stream], None]) -> None:
        """`finished`: is told of each stream that has come to its end, when it is sent no more."""
        self._finished = finished
        self.name_length = 16 if family == 2 else mmsg.ADDRESS_OCTETS
        self._streams: list[Stream] = []
        "By place."
        self._lanes: dict[Lane, None] = {}
        "Those with streams."
        self._ends: dict[int, dict[Stream, None]] = {}
        "Turn -> the streams whose stretch will have been sent in it."
        self._sealed: dict[Stream, Callable[[bytes, bytes], bytes]] = {}
        "The streams that are encrypted, each with its seal."
        self._sealed_payloads = bytearray()
        self._turn = 0
        "How often the phase was sent."
        self._late_turns = 0
        self.sent_at = 0.0
        "When its packets were sent last, in monotonic seconds; the owner's note."
        self._allocate(1)

    @property
    def streams(self) -> int:
        """How many there are."""
        return len(self._streams)

    def place(self, lane: Lane, stream: Stream) -> None:
        """Have the stream sent from now on. It needs a stretch, nothing of it sent."""
        place = stream.place = len(self._streams)
        if place == self._sequence.size:
            self._allocate(2 * place)
        self._streams.append(stream)
        self._lanes[lane] = None
        lane.add(stream)
        self._point(stream)
        stream.since, stream.late_since = self._turn, self._late_turns
        self._sequence[place] = stream.sequence
        self._timestamp[place] = stream.timestamp
        self._tick[place] = stream.tick
        header = self._header[place]
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
            self._address[stream.place] = np.frombuffer(stream.address, np.uint8)

    def read(self, stream: Stream) -> None:
        """Bring the stream's own figures up to date."""
        stretch = stream.stretch
        if stream.lane is None or stretch is None:
            return
        packets = self._turn - stream.since
        stream.since = self._turn
        stream.sequence = (stream.sequence + packets) & 0xFFFF
        stream.timestamp = (stream.timestamp + packets * stream.tick) & 0xFFFFFFFF
        stream.sent += packets
        stream.late += self._late_turns - stream.late_since
        stream.late_since = self._late_turns
        stream.octets += packets * stretch.octets
        stream.taken += packets

    def withdraw(self, stream: Stream) -> None:
        """Send it no more; its figures are up to date afterwards."""
        lane = stream.lane
        if lane is None:
            return
        self.read(stream)
        if (ending := self._ends.get(stream.ends)) is not None:
            ending.pop(stream, None)
            if not ending:
                del self._ends[stream.ends]
        self._sealed.pop(stream, None)
        lane.remove(stream)
        if not lane.streams:
            del self._lanes[lane]
        last = self._streams.pop()
        if last is not stream:
            self._streams[stream.place] = last
            for array in self._by_place:
                array[stream.place] = array[last.place]
            last.place = stream.place
            self._point(last)

    def send(self, *, late: bool) -> None:
        """Send what is due, and move all streams on to their next packet."""
        if self._sealed:
            self._send_sealed()
        else:
            self._send_all()
        self._turn += 1
        self._late_turns += late
        used = slice(len(self._streams))
        self._sequence[used] += 1
        self._timestamp[used] += self._tick[used]
        self._payload[used] += self._step[used]
        self._header["sequence"][used] = self._sequence[used]
        self._header["timestamp"][used] = self._timestamp[used]
        for stream in self._ends.pop(self._turn, ()):
            self._go_on(stream)

    def _send_all(self) -> None:
        for lane in self._lanes:
            count = len(lane.streams)
            sent = mmsg.send(lane.descriptor, lane.first, count)
            if sent != count:
                _send_the_rest(lane, sent)

    def _send_sealed(self) -> None:
        """Send all, the encrypted streams' payloads exchanged meanwhile."""
        count = len(self._sealed)
        if len(self._sealed_payloads) < count * _SEALED_OCTETS:
            self._sealed_payloads = bytearray(2 * count * _SEALED_OCTETS)
        at = np.array([stream.place for stream in self._sealed])
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

    def _go_on(self, stream: Stream) -> None:
        """Begin the next run of a stream whose run has ended, or end the stream."""
        self.read(stream)
        if stream.next_stretch():
            self._begin(stream)
        else:
            self.withdraw(stream)
            self._finished(stream)

    def _begin(self, stream: Stream) -> None:
        stretch = stream.stretch
        if stretch is None:
            raise AssertionError("a stream in a phase has a stretch")
        place = stream.place
        self._payload[place], self._step[place], packets, self._length[place], marker, _ = stretch
        self._header["second"][place] = stream.payload_type | (0x80 if marker else 0)
        stream.ends = self._turn + packets
        self._ends.setdefault(stream.ends, {})[stream] = None

    def _point(self, stream: Stream) -> None:
        if stream.lane is not None:
            names, vectors = self._names + stream.place * _NAME_OCTETS, self._vectors + stream.place * _VECTORS_OCTETS
            stream.lane.point(stream.slot, names, vectors)

    def _allocate(self, capacity: int) -> None:
        old: list[NDArray[Any]] = getattr(self, "_by_place", [])
        self._sequence: NDArray[np.uint16] = np.zeros(capacity, np.uint16)
        self._timestamp: NDArray[np.uint32] = np.zeros(capacity, np.uint32)
        self._tick: NDArray[np.uint32] = np.zeros(capacity, np.uint32)
        self._step: NDArray[np.uint64] = np.zeros(capacity, np.uint64)
        self._header: mmsg.Records = np.zeros(capacity, HEADER)
        names: NDArray[np.uint8] = np.zeros((capacity, _NAME_OCTETS), np.uint8)
        self._address: NDArray[np.uint8] = names[:, : mmsg.ADDRESS_OCTETS]
        vectors: mmsg.Records = np.zeros((capacity, 2), mmsg.VECTOR)
        vectors["base"][:, 0] = self._header.ctypes.data + np.arange(capacity, dtype=np.uint64) * HEADER.itemsize
        vectors["length"][:, 0] = HEADER_OCTETS
        self._payload: NDArray[np.uint64] = vectors["base"][:, 1]
        self._length: NDArray[np.uint64] = vectors["length"][:, 1]
        self._names, self._vectors = names.ctypes.data, vectors.ctypes.data
        self._by_place: list[NDArray[Any]] = [
            self._sequence,
            self._timestamp,
            self._tick,
            self._step,
            self._header,
            self._address,
            self._payload,
            self._length,
        ]
        for before, now in zip(old, self._by_place, strict=False):
            now[: len(before)] = before
        for lane in self._lanes:
            places = np.array([stream.place for stream in lane.streams], np.uint64)
            used = slice(places.size)
            lane.point(used, self._names + places * _NAME_OCTETS, self._vectors + places * _VECTORS_OCTETS)


def next_phase(phases: Sequence[Phase], home: int, lanes: Mapping[Phase, Lane]) -> Phase:
    """Choose where one more stream of a socket is sent.

    `home`: where it begins, a number of its own, so that sockets with few streams are spread evenly. `lanes`: those
    that it has. They are filled before the next is begun, which costs a system call more, where the fewest streams are.
    """

    def cost(phase: Phase) -> tuple[int, bool, int]:
        lane = lanes.get(phase)
        return len(lane.streams) // TOGETHER if lane else 0, lane is None, phase.streams // TOGETHER

    count = len(phases)
    # The first is taken of those that cost the same.
    return min((phases[(home + number) * _APART % count] for number in range(count)), key=cost)


def _send_the_rest(lane: Lane, sent: int) -> None:
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
        sent = mmsg.send(lane.descriptor, lane.first + done * mmsg.MESSAGE.itemsize, count - done)
