"""What the peers of a media process's sessions send: counted by numpy for all sessions together, and read where keys
may be in it.

A datagram is known by its port and by whom it comes from. Where that is not who the SDP named and the peer may be
behind a NAT, the session follows it for some seconds, once, and answers to where it really is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from calledind.model import Address
from calledind.net import mmsg
from calledind.net.media_pipe import Item
from calledind.net.media_ports import Port
from calledind.net.media_session import LAWS, Nat, Session, canonical
from calledind.rtp import rtcp
from calledind.rtp.dtmf import DigitDetector
from calledind.rtp.g711 import DECODED
from calledind.rtp.packet import HEADER_OCTETS, VERSION, Packet, RTPError
from calledind.rtp.srtp import SRTPError
from calledind.rtp.statistics import Figures, Receptions

_LONGEST_LOOK = 128
"Octets of a received RTP packet that we look at: its header, and a telephone event."
_WHOLE_PACKET = 1024
"The same where sound is listened to: 60 ms of G.711 and what else is in a packet."
_WHOLE_DATAGRAM = 2048
"The same where packets are decrypted: all that a network takes."
LATCH_SECONDS = 5.0
"For which the media of a peer behind a NAT is followed; the callee may take some to speak up."
_BATCH = 384
"Datagrams taken at a time: about a millisecond's work, so that no flood makes a slice late."
_TICKS = 48_000
"Units of the time in which received packets are compared, of which every codec's clock has a whole part."
_EVENT_TYPES = 2
"Payload types that keys pressed may come with: our number for them, and the peer's."
_PER_SOCKET = 64
"Datagrams of one socket in a batch, and more where few have any: a flood at one leaves room for the others."


class Hearing:
    """What comes in for all sessions of one media process."""

    def __init__(
        self,
        family: int,
        by_ssrc: Mapping[int, Session],
        events: list[Item],
        *,
        now: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """`by_ssrc`: the sessions by their own sources; `events`: where keys pressed are put; clocks as in `Engine`."""
        self._family = family
        self._by_ssrc = by_ssrc
        self._events = events
        self._now = now
        self._wall = wall
        self.strays = 0
        "Datagrams from whom nobody expects any."
        self._by_row: list[Session | None] = []
        self._free_rows: list[int] = []
        self._receptions = Receptions(_TICKS)
        self._heard: NDArray[np.float64] = np.zeros(1)
        "When something of the peer's came last, by row."
        self._event_types: NDArray[np.int64] = np.full((1, _EVENT_TYPES), -1, np.int64)
        "Payload types of telephone events by row, -1 for none."
        self._listens: NDArray[np.bool_] = np.zeros(1, np.bool_)
        "Whether the sound is listened to for keys, by row."
        self._secured: NDArray[np.bool_] = np.zeros(1, np.bool_)
        "Whether packets are to be decrypted, by row."
        self._scale: NDArray[np.int64] = np.ones(1, np.int64)
        "Of received timestamps by row: what brings them to `_TICKS`."
        self._receiver = mmsg.Receiver(family, _BATCH, _LONGEST_LOOK)

    # the sessions

    def take_row(self) -> int:
        """Return a row of the arrays for a new session, which `add` is then told of."""
        if self._free_rows:
            row = self._free_rows.pop()
        else:
            row = len(self._by_row)
            self._by_row.append(None)
        self._receptions.clear(row)
        if len(self._receptions) > self._heard.size:
            more = len(self._receptions) - self._heard.size
            self._heard = np.concatenate((self._heard, np.zeros(more)))
            self._listens = np.concatenate((self._listens, np.zeros(more, np.bool_)))
            self._secured = np.concatenate((self._secured, np.zeros(more, np.bool_)))
            self._scale = np.concatenate((self._scale, np.ones(more, np.int64)))
            self._event_types = np.concatenate((self._event_types, np.full((more, _EVENT_TYPES), -1, np.int64)))
        self._event_types[row] = -1
        self._listens[row] = self._secured[row] = False
        return row

    def add(self, session: Session) -> None:
        self._by_row[session.row] = session

    def remove(self, session: Session) -> None:
        """Give its row back; what still comes for it is a stray's."""
        self._unroute(session)
        if session.row in session.port.latching:
            session.port.latching.remove(session.row)
        self._listens[session.row] = self._secured[session.row] = False
        self._by_row[session.row] = None
        self._free_rows.append(session.row)

    def figures(self, session: Session) -> Figures:
        """Return what came of it so far."""
        return self._receptions.figures(session.row)

    def heard_at(self, session: Session) -> float:
        """Return when its peer was heard last, in monotonic seconds."""
        return float(self._heard[session.row])

    def heard_now(self, session: Session) -> None:
        """Take its peer for heard in this instant."""
        self._heard[session.row] = self._now()

    def expect(
        self, session: Session, codec: str, payload_type: int, clock_rate: int, telephone_events: Sequence[int]
    ) -> None:
        """Read what comes as the format says that was agreed on."""
        self._event_types[session.row] = -1
        for place, number in enumerate(telephone_events[:_EVENT_TYPES]):
            self._event_types[session.row, place] = number
        self._scale[session.row] = _TICKS // clock_rate
        known = codec not in DECODED or LAWS.get(payload_type) == codec
        session.law = LAWS if known else {**LAWS, payload_type: codec}

    def look_further(self, session: Session) -> None:
        """Make room for whole packets, where some session needs more of them than the header."""
        self._listens[session.row] = session.tones is not None
        self._secured[session.row] = session.secured is not None
        needed = _WHOLE_PACKET if session.tones is not None else 0
        needed = _WHOLE_DATAGRAM if session.secured is not None else needed
        if self._receiver.octets < needed:
            self._receiver = mmsg.Receiver(self._family, _BATCH, needed)

    def route(self, session: Session, packed: bytes, remote_rtcp: Address) -> None:
        """Expect packets from there, unless another session of the same port does."""
        self._unroute(session)
        session.route = mmsg.address_key(self._family, packed)
        session.port.routes.setdefault(session.route, session.row)
        session.control_address = canonical(self._family, remote_rtcp) if remote_rtcp[1] else None
        if session.control_address is not None:
            session.port.control_routes.setdefault(session.control_address, session.row)

    def _unroute(self, session: Session) -> None:
        if session.port.routes.get(session.route) == session.row:
            del session.port.routes[session.route]
        control = session.control_address
        if control is not None and session.port.control_routes.get(control) == session.row:
            del session.port.control_routes[control]

    def hosts(self, hosts: Iterable[str]) -> Iterator[str]:
        """Give the hosts as datagrams' sources are written; one of the other kind of IP sends us nothing."""
        for host in hosts:
            with contextlib.suppress(ValueError):
                yield canonical(self._family, (host, 0))[0]

    def expect_another_port(self, session: Session, named: Address) -> None:
        """Have the peer's media followed for some seconds, should it come from another port than named."""
        nat = session.nat
        if nat is None:
            return
        nat.hosts.update(self.hosts([named[0]]))
        nat.named = named[0], named[1]
        nat.until = self._now() + LATCH_SECONDS
        nat.received = self._receptions.figures(session.row).received
        nat.rtp = nat.rtcp = False
        if session.row not in session.port.latching:
            session.port.latching.append(session.row)

    # RTP

    def receive(self, ready: list[Port]) -> bool:
        """Take what has come in for these RTP sockets; True where a batch did not hold all."""
        receiver = self._receiver
        rows: list[int] = []
        more = False
        most = max(_PER_SOCKET, receiver.capacity // len(ready))
        for port in ready:
            start = len(rows)
            if start == receiver.capacity:
                more = True
                break
            taken = receiver.receive(port.rtp.fileno(), start, most)
            more = more or taken == most
            if taken:
                routes: dict[Hashable, int] = port.routes
                keys = receiver.keys(start, start + taken)
                rows += [routes.get(key, -1) for key in keys]
                if port.latching:
                    for index in range(start, len(rows)):
                        if rows[index] < 0:
                            # What was behind the first packet of a peer is its as well.
                            rows[index] = routes.get(keys[index - start], -1)
                            if rows[index] < 0:
                                rows[index] = self._follow(port, index)
        if rows:
            self._count(np.array(rows, np.int64))
        return more

    def _count(self, rows: NDArray[np.int64]) -> None:
        receiver = self._receiver
        end = rows.size
        data = receiver.data[:end]
        kinds = (data[:, 1] & 0x7F).astype(np.int64)
        # Payload types 64 to 95 are RTCP that went to the wrong port (RFC 5761 §4).
        good = (rows >= 0) & (receiver.lengths[:end] >= HEADER_OCTETS) & (data[:, 0] >> 6 == VERSION)
        good &= (kinds < 64) | (kinds > 95)
        if self._secured[rows].any():
            self._decrypt(rows, good)
        which = np.flatnonzero(good)
        self.strays += end - which.size
        if not which.size:
            return
        arrival = receiver.arrival(end, rate=_TICKS, otherwise=self._wall())
        head = data[which, :HEADER_OCTETS].astype(np.int64)
        rows = rows[which]
        events = (kinds[which, None] == self._event_types[rows]).any(1)
        self._heard[rows] = self._now()
        self._receptions.received(
            rows,
            head[:, 8] << 24 | head[:, 9] << 16 | head[:, 10] << 8 | head[:, 11],
            head[:, 2] << 8 | head[:, 3],
            (head[:, 4] << 24 | head[:, 5] << 16 | head[:, 6] << 8 | head[:, 7]) * self._scale[rows],
            arrival[which],
            (~events).astype(np.int64),
        )
        for index in np.flatnonzero(events | self._listens[rows]).tolist():
            at = which[index]
            content = data[at, : receiver.lengths[at]].tobytes()
            if events[index]:
                self._event(int(rows[index]), content)
            else:
                self._sound(int(rows[index]), content)

    def _decrypt(self, rows: NDArray[np.int64], good: NDArray[np.bool_]) -> None:
        """Put in place of encrypted packets what is in them; those that are not from the peer are good no longer."""
        receiver = self._receiver
        for index in np.flatnonzero(good & self._secured[rows]).tolist():
            session = self._by_row[rows[index]]
            try:
                if session is None or session.secured is None:
                    raise SRTPError("of a call that is over")
                packet = session.secured.receiver.unprotect(receiver.data[index, : receiver.lengths[index]].tobytes())
            except SRTPError:
                good[index] = False
                continue
            receiver.data[index, : len(packet)] = np.frombuffer(packet, np.uint8)
            receiver.lengths[index] = len(packet)

    def _event(self, row: int, data: bytes) -> None:
        session = self._by_row[row]
        if session is None:
            return
        try:
            packet = Packet.parse(data)
            session.detector = session.detector or DigitDetector()
            digit = session.detector.received(packet)
        except RTPError:
            self.strays += 1
            return
        # Whoever sends events takes the tones out of the sound, or would be heard twice.
        session.tones = None
        self._listens[row] = False
        if digit is not None:
            self._events.append(["digit", session.id, digit])

    def _sound(self, row: int, data: bytes) -> None:
        session = self._by_row[row]
        if session is None or session.tones is None:
            return
        try:
            packet = Packet.parse(data)
        except RTPError:
            self.strays += 1
            return
        codec = session.law.get(packet.payload_type)
        if codec is None:
            session.tones.paused()
            return
        pcm = DECODED[codec][np.frombuffer(packet.payload, np.uint8)]
        self._events += [["digit", session.id, digit] for digit in session.tones.received(pcm)]

    # RTCP

    def receive_control(self, port: Port) -> None:
        """Take what has come in for a RTCP socket."""
        for _ in range(_PER_SOCKET):
            try:
                data, source = port.rtcp.recvfrom(2048)
            except OSError:
                return
            row = port.control_routes.get((source[0], source[1]), -1)
            session = self._by_row[row] if row >= 0 else self._follow_control(port, (source[0], source[1]), data)
            try:
                if session is not None and session.secured is not None:
                    data = session.secured.receiver.unprotect_control(data)
                reports = rtcp.parse(data)
            except RTPError:
                session = None
            if session is None:
                self.strays += 1
                continue
            self._heard[session.row] = self._now()  # somebody is there, whether there is sound or not
            for each in self._spoken_of(session, reports):
                each.heard_report(reports, self._now(), self._wall())

    def _spoken_of(self, session: Session, reports: list[rtcp.Report]) -> set[Session]:
        """Return whom a datagram from this session's peer is for: others too, where peers share an address."""
        sessions = set()
        for report in reports:
            if isinstance(report, rtcp.SenderReport | rtcp.ReceiverReport):
                for block in report.reports:
                    other = self._by_ssrc.get(block.ssrc)
                    if other is not None and other.control_address == session.control_address:
                        sessions.add(other)
        return sessions or {session}

    # peers behind a NAT

    def _follow(self, port: Port, index: int) -> int:
        """Return the row of the one session that a datagram from nowhere known begins the media of, else -1."""
        data = self._receiver.data[index]
        length = int(self._receiver.lengths[index])
        if length < HEADER_OCTETS or data[0] >> 6 != VERSION or 64 <= data[1] & 0x7F <= 95:
            return -1
        source = self._receiver.source(index)
        found = [
            session
            for session, nat in self._latching(port, source[0])
            if not nat.rtp and self._receptions.figures(session.row).received == nat.received
        ]
        if len(found) != 1:
            return -1
        session = found[0]
        stream, nat = session.stream, session.nat
        if stream is None or nat is None:
            return -1
        if session.secured is not None and not session.secured.receiver.is_authentic(data[:length].tobytes()):
            return -1
        nat.rtp = True
        stream.address = mmsg.pack_address(self._family, source)
        if stream.lane is not None:
            stream.lane.phase.redirect(stream)
        self.route(session, stream.address, session.control_address or ("", 0))
        return session.row

    def _follow_control(self, port: Port, source: Address, data: bytes) -> Session | None:
        """Return the one session whose peer's RTCP may come from there, and send ours there from now on."""
        found = [(session, nat) for session, nat in self._latching(port, source[0]) if not nat.rtcp]
        if len(found) != 1:
            return None
        session, nat = found[0]
        if session.secured is not None and not session.secured.receiver.is_authentic_control(data):
            return None
        nat.rtcp = True
        self.route(session, session.stream.address if session.stream else b"", source)
        return session

    def _latching(self, port: Port, host: str) -> Iterator[tuple[Session, Nat]]:
        """Give the sessions of this port that may follow media from this host now."""
        for row in list(port.latching):
            session = self._by_row[row]
            if session is None or session.nat is None or session.nat.until < self._now():
                port.latching.remove(row)
            elif host in session.nat.hosts:
                yield session, session.nat
