"""The media process without its loop and pipes: commands in, packets out at `slice`, events gathered in a list.

A command looks at its own session only, in dictionaries and in a row of the arrays; the figures of all
sessions together are touched by numpy alone. What happens later (reports, silence) waits in a heap.
"""

from __future__ import annotations

import contextlib
import heapq
import ipaddress
import secrets
import socket
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from calledind.model import Address
from calledind.net import mmsg
from calledind.net.media_audio import AudioFiles
from calledind.net.media_pipe import Item
from calledind.net.media_ports import NoPort, Port, Ports
from calledind.net.media_session import Nat, Secured, Session, canonical, report_interval
from calledind.net.metronome import LATE
from calledind.net.pace import SLICES_PER_SECOND, Lane, Phase, Stream, next_phase
from calledind.rtp import rtcp
from calledind.rtp.g711 import DECODED
from calledind.rtp.goertzel import ToneDetector
from calledind.rtp.packet import HEADER_OCTETS, VERSION, Packet, RTPError
from calledind.rtp.packetizer import Plan
from calledind.rtp.srtp import SRTPError
from calledind.rtp.statistics import Receptions

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
_MOST_IDLE = 5
"Slices: 10 ms."
_TICKS = 48_000
"Units of the time in which received packets are compared, of which every codec's clock has a whole part."
_EVENT_TYPES = 2
"Payload types that keys pressed may come with: our number for them, and the peer's."
_PER_SOCKET = 64
"Datagrams of one socket in a batch, and more where few have any: a flood at one leaves room for the others."


class Engine:
    """All sessions of one media process."""

    def __init__(
        self, bind: str, first: int, last: int, *, now: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._now = now
        "Monotonic seconds."
        self._wall = wall
        "Seconds since the epoch, which never jumps."
        self.ports = Ports(bind, first, last, self._port)
        self.family = self.ports.family
        self._phases: dict[int, list[Phase]] = {}
        "How long packets last, in ms -> as many phases as there are slices in that time."
        self.opened: list[Port] = []
        "All ports with sockets, in the order in which they were opened."
        self.events: list[Item] = []
        "For the daemon; the owner empties it."
        self.sessions: dict[int, Session] = {}
        self.strays = 0
        "Datagrams from whom nobody expects any."
        self.latest = 0.0
        "Lateness in seconds of the latest slice, since it was last asked for."
        self._files = AudioFiles()
        self._by_row: list[Session | None] = []
        self._free_rows: list[int] = []
        self._by_ssrc: dict[int, Session] = {}
        self._receptions = Receptions(_TICKS)
        self._heard: NDArray[np.float64] = np.zeros(1)
        self._event_types: NDArray[np.int64] = np.full((1, _EVENT_TYPES), -1, np.int64)
        "Payload types of telephone events by row, -1 for none."
        self._listens: NDArray[np.bool_] = np.zeros(1, np.bool_)
        "Whether the sound is listened to for keys, by row."
        self._secured: NDArray[np.bool_] = np.zeros(1, np.bool_)
        "Whether packets are to be decrypted, by row."
        self._scale: NDArray[np.int64] = np.ones(1, np.int64)
        "Of received timestamps by row: what brings them to `_TICKS`."
        self._receiver = mmsg.Receiver(self.family, _BATCH, _LONGEST_LOOK)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_count = 0

    @property
    def sending(self) -> int:
        """How many streams are being sent."""
        return sum(phase.streams for phases in self._phases.values() for phase in phases)

    # time

    def slice(self, count: int, lateness: float) -> None:
        """Send the packets of slice number `count`."""
        self.latest = max(self.latest, lateness)
        for phases in self._phases.values():
            phase = phases[count % len(phases)]
            if phase.streams:
                phase.sent_at = self._now()
                phase.send(late=lateness > LATE)

    def idle_slices(self, count: int) -> int:
        """Return in how many slices from number `count` on there is nothing to send, up to `_MOST_IDLE`."""
        for ahead in range(_MOST_IDLE):
            for phases in self._phases.values():
                if phases[(count + ahead) % len(phases)].streams:
                    return ahead
        return _MOST_IDLE

    def next_timer(self) -> float | None:
        """Return when something is to be done next, in monotonic seconds."""
        return self._timers[0][0] if self._timers else None

    def run_timers(self) -> None:
        """Do what is due."""
        now = self._now()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _call_at(self, when: float, do: Callable[[], None]) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, do))

    # commands

    def command(self, item: Item) -> None:
        """Do what the daemon asks for; see `calledind.net.media_process` for the commands."""
        verb, *arguments = item
        if verb == "open":
            self._open(arguments[0])
        elif verb == "ping":
            self.events.append(["pong", *arguments, self._figures()])
        elif (session := self.sessions.get(arguments[0])) is None:
            return  # closed already
        elif verb == "play":
            self._guarded(session, lambda: self._play(session, **arguments[1]))
        elif verb == "redirect":
            self._guarded(session, lambda: self._redirect(session, *arguments[1:]))
        elif verb == "close":
            self._close(session)
        else:
            raise ValueError(f"there is no command {verb!r}")

    def close_all(self) -> None:
        """End all sessions, each with its goodbye."""
        for session in list(self.sessions.values()):
            self._close(session)

    def _guarded(self, session: Session, do: Callable[[], None]) -> None:
        """Let what can't be done end this session only."""
        try:
            do()
        except (OSError, ValueError) as error:
            self.events.append(["lost", session.id, f"{type(error).__name__}: {error}"])

    def _open(self, number: int) -> None:
        try:
            port = self.ports.take()
        except NoPort as error:
            self.events.append(["refused", number, str(error)])
            return
        session = Session(number, port, self._take_row(), self._new_ssrc())
        self._by_row[session.row] = session
        self._by_ssrc[session.ssrc] = self.sessions[number] = session
        self.events.append(["opened", number, self.ports.bind, port.number])

    def _new_ssrc(self) -> int:
        ssrc = secrets.randbits(32)
        while ssrc in self._by_ssrc:
            ssrc = secrets.randbits(32)
        return ssrc

    def _take_row(self) -> int:
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

    def _play(
        self,
        session: Session,
        *,
        format: Item,
        remote: Address,
        remote_rtcp: Address,
        lead_in: float,
        lead_out: float,
        silence_timeout: float,
        nat: Sequence[str] = (),
        tones: bool = False,
        security: Sequence[Sequence[str]] | None = None,
        sends: bool = True,
        receives: bool = True,
    ) -> None:
        packed = mmsg.pack_address(self.family, remote)
        session.held_since = None
        session.receives = receives
        self._secure(session, security)
        self._begin(session, packed, Plan(lead_in, lead_out), *format)
        if not sends:
            session.hold(self._now())
        self._route(session, packed, remote_rtcp)
        session.nat = Nat(set(self._hosts(nat))) if nat else None
        self._expect_another_port(session, remote)
        session.tones = ToneDetector() if tones else None
        self._look_further(session)
        session.silence_timeout = silence_timeout
        self._watch_silence(session)
        if not session.reporting:
            session.reporting = True
            self._call_at(self._now() + report_interval() / 2, lambda: self._report(session))

    def _begin(
        self,
        session: Session,
        packed: bytes,
        plan: Plan | None,
        path: str,
        codec: str,
        payload_type: int,
        ptime: int,
        telephone_events: list[int],
    ) -> Stream:
        """Send what is planned, or without a plan what is left of it, in this format from now on."""
        audio = self._files.open(path, codec)
        before = session.stop()
        ptime = audio.ptime(ptime)
        marker = plan is not None
        if plan is None:
            plan = session.rest()
        clock_rate = audio.codec.clock_rate
        if before is not None and before.clock_rate != clock_rate:
            # A timestamp can't go on at another pace (RFC 7160 §4.1): it is a source of its own.
            del self._by_ssrc[session.ssrc]
            session.begin_source(self._new_ssrc())
            self._by_ssrc[session.ssrc] = session
            before, marker = None, True
        stream = Stream(
            payload_type=payload_type & 0x7F,
            ssrc=session.ssrc,
            # Far from the wrap: who misses an encrypted stream's packets before it takes the roll-over counter for 0
            # (RFC 3711 §3.3.1).
            sequence=before.sequence if before else secrets.randbits(15),
            timestamp=before.timestamp if before else secrets.randbits(32),
            tick=clock_rate * ptime // 1000,
            clock_rate=clock_rate,
            address=packed,
            stretches=audio.stretches(plan, ptime, marker=marker),
            finished=lambda: self._finished(session),
            sent=before.sent if before else 0,
            octets=before.octets if before else 0,
            late=before.late if before else 0,
            failed=before.failed if before else 0,
            seal=session.secured.sender.seal if session.secured is not None else None,
        )
        lane = self._lane(session.port, ptime)
        session.begin(stream, audio, plan, lane)
        self._event_types[session.row] = -1
        for place, number in enumerate(telephone_events[:_EVENT_TYPES]):
            self._event_types[session.row, place] = number
        self._scale[session.row] = _TICKS // clock_rate
        session.law = {0: "PCMU", 8: "PCMA"}
        if codec in DECODED:
            session.law[payload_type] = codec
        if not stream.next_stretch():
            self._finished(session)
        elif session.held_since is None:
            lane.phase.place(lane, stream)
        return stream

    def _redirect(
        self,
        session: Session,
        remote: Address,
        remote_rtcp: Address,
        sends: bool,
        format: Item | None = None,
        security: Sequence[Sequence[str]] | None = None,
        receives: bool = True,
    ) -> None:
        stream = session.stream
        if stream is None:
            return
        session.receives = receives
        self._secure(session, security)
        if not sends:
            session.hold(self._now())
        known = session.nat is not None and session.nat.rtp and session.nat.named == tuple(remote)
        if known or not remote[1] or ipaddress.ip_address(remote[0]).is_unspecified:
            # Repeated, and followed to where it really is; or held in a way that names nobody (c=0.0.0.0).
            packed, remote = stream.address, ("", 0)
        else:
            packed = mmsg.pack_address(self.family, remote)
        if format is not None and stream.stretch is not None:
            stream = self._begin(session, packed, None, *format)
        if remote[1]:
            stream.address = packed
            if stream.lane is not None:
                stream.lane.phase.redirect(stream)
            self._route(session, packed, remote_rtcp)
            self._expect_another_port(session, remote)
        if sends:
            session.resume(self._now())
        self._heard[session.row] = self._now()
        self._watch_silence(session)

    def _hosts(self, hosts: Iterable[str]) -> Iterator[str]:
        """Give the hosts as datagrams' sources are written; one of the other kind of IP sends us nothing."""
        for host in hosts:
            with contextlib.suppress(ValueError):
                yield canonical(self.family, (host, 0))[0]

    def _expect_another_port(self, session: Session, named: Address) -> None:
        """Have the peer's media followed for some seconds, should it come from another port than named."""
        nat = session.nat
        if nat is None:
            return
        nat.hosts.update(self._hosts([named[0]]))
        nat.named = named[0], named[1]
        nat.until = self._now() + LATCH_SECONDS
        nat.received = self._receptions.figures(session.row).received
        nat.rtp = nat.rtcp = False
        if session.row not in session.port.latching:
            session.port.latching.append(session.row)

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
        stream.address = mmsg.pack_address(self.family, source)
        if stream.lane is not None:
            stream.lane.phase.redirect(stream)
        self._route(session, stream.address, session.control_address or ("", 0))
        return session.row

    def _latching(self, port: Port, host: str) -> Iterator[tuple[Session, Nat]]:
        """Give the sessions of this port that may follow media from this host now."""
        for row in list(port.latching):
            session = self._by_row[row]
            if session is None or session.nat is None or session.nat.until < self._now():
                port.latching.remove(row)
            elif host in session.nat.hosts:
                yield session, session.nat

    def _look_further(self, session: Session) -> None:
        """Make room for whole packets, where some session needs more of them than the header."""
        self._listens[session.row] = session.tones is not None
        self._secured[session.row] = session.secured is not None
        needed = _WHOLE_PACKET if session.tones is not None else 0
        needed = _WHOLE_DATAGRAM if session.secured is not None else needed
        if self._receiver.octets < needed:
            self._receiver = mmsg.Receiver(self.family, _BATCH, needed)

    def _secure(self, session: Session, security: Sequence[Sequence[str]] | None) -> None:
        """Encrypt and decrypt with these keys from now on, or not at all."""
        session.secured = Secured.unpack(security).after(session.secured) if security is not None else None
        if session.stream is not None:
            session.stream.seal = session.secured.sender.seal if session.secured is not None else None
            if session.stream.lane is not None:
                session.stream.lane.phase.seal(session.stream)
        self._look_further(session)

    def _route(self, session: Session, packed: bytes, remote_rtcp: Address) -> None:
        """Expect packets from there, unless another session of the same port does."""
        self._unroute(session)
        session.route = mmsg.address_key(self.family, packed)
        session.port.routes.setdefault(session.route, session.row)
        session.control_address = canonical(self.family, remote_rtcp) if remote_rtcp[1] else None
        if session.control_address is not None:
            session.port.control_routes.setdefault(session.control_address, session.row)

    def _unroute(self, session: Session) -> None:
        if session.port.routes.get(session.route) == session.row:
            del session.port.routes[session.route]
        control = session.control_address
        if control is not None and session.port.control_routes.get(control) == session.row:
            del session.port.control_routes[control]

    def _close(self, session: Session) -> None:
        if session.stop() is not None:
            self._send_report(session, goodbye=True)
        session.closed = True
        figures = self._receptions.figures(session.row)
        self.events.append(["closed", session.id, session.statistics(figures)])
        session.stream = session.audio = None  # nothing may hold the file's memory any longer
        self._unroute(session)
        if session.row in session.port.latching:
            session.port.latching.remove(session.row)
        self._listens[session.row] = self._secured[session.row] = False
        self._by_row[session.row] = None
        self._free_rows.append(session.row)
        del self._by_ssrc[session.ssrc], self.sessions[session.id]
        self.ports.give_back(session.port)

    def _finished(self, session: Session) -> None:
        self.events.append(["finished", session.id])

    def _figures(self) -> dict[str, float]:
        latest, self.latest = self.latest, 0.0
        return {
            "sessions": len(self.sessions),
            "streams": self.sending,
            "strays": self.strays,
            "latest_slice": round(latest, 6),
        }

    # received packets

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
            digit = session.detector.received(Packet.parse(data))
        except RTPError:
            self.strays += 1
            return
        # Whoever sends events takes the tones out of the sound, or would be heard twice.
        session.tones = None
        self._listens[row] = False
        if digit is not None:
            self.events.append(["digit", session.id, digit])

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
        self.events += [["digit", session.id, digit] for digit in session.tones.received(pcm)]

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

    def _follow_control(self, port: Port, source: Address, data: bytes) -> Session | None:
        """Return the one session whose peer's RTCP may come from there, and send ours there from now on."""
        found = [(session, nat) for session, nat in self._latching(port, source[0]) if not nat.rtcp]
        if len(found) != 1:
            return None
        session, nat = found[0]
        if session.secured is not None and not session.secured.receiver.is_authentic_control(data):
            return None
        nat.rtcp = True
        self._route(session, session.stream.address if session.stream else b"", source)
        return session

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

    # what happens later

    def _watch_silence(self, session: Session) -> None:
        self._heard[session.row] = self._now()
        if session.silence_timeout and not session.silence_watched:
            session.silence_watched = True
            self._call_at(self._now() + session.silence_timeout, lambda: self._check_silence(session))

    def _check_silence(self, session: Session) -> None:
        session.silence_watched = False
        if session.closed or not session.silence_timeout:
            return
        now = self._now()
        mine = session.port.routes.get(session.route) == session.row
        if session.held_since is not None or not session.receives or not mine:
            # A peer that holds or only listens may send nothing, and of a shared address we can't tell who sends.
            self._heard[session.row] = now
        due = float(self._heard[session.row]) + session.silence_timeout
        if due <= now:
            session.silence_timeout = 0.0
            self.events.append(["silent", session.id])
        else:
            session.silence_watched = True
            self._call_at(due, lambda: self._check_silence(session))

    def _report(self, session: Session) -> None:
        if not session.closed:
            self._send_report(session)
            self._call_at(self._now() + report_interval(), lambda: self._report(session))

    def _send_report(self, session: Session, *, goodbye: bool = False) -> None:
        if session.control_address is None:
            return
        figures = self._receptions.figures(session.row)
        data = session.report(figures, self._now(), self._wall(), goodbye=goodbye)
        if session.secured is not None:
            data = session.secured.sender.protect_control(data)
        # Nobody misses a report that could not be sent: the next is due in seconds.
        with contextlib.suppress(OSError):
            session.port.rtcp.sendto(data, session.control_address)

    def _port(self, number: int, rtp: socket.socket, control: socket.socket) -> Port:
        port = Port(number, rtp, control)
        self.opened.append(port)
        return port

    def _lane(self, port: Port, ptime: int) -> Lane:
        """Return where a stream of packets this long is to be sent from the port."""
        phases = self._phases.get(ptime)
        if phases is None:
            phases = self._phases[ptime] = [Phase(self.family) for _ in range(ptime * SLICES_PER_SECOND // 1000)]
        phase = next_phase(phases, port.number // 2, port.lanes)
        lane = port.lanes.get(phase)
        if lane is None:
            lane = port.lanes[phase] = Lane(phase, port.rtp.fileno())
        return lane

    def shut(self) -> None:
        """Close all sockets."""
        for port in self.opened:
            port.rtp.close()
            port.rtcp.close()
