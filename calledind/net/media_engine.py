"""The media process without its loop and pipes: commands in, packets out at `slice`, events gathered in a list.

A command looks at its own session only; what comes in for all of them is `media_hearing`'s. What happens later
(reports, silence) waits in a heap.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import secrets
import socket
from collections.abc import Callable, Sequence

from calledind.model import Address
from calledind.net import media_course, mmsg
from calledind.net.media_audio import AudioFiles
from calledind.net.media_hearing import Hearing
from calledind.net.media_pipe import Item
from calledind.net.media_ports import NoPort, Port, Ports
from calledind.net.media_session import Nat, Secured, Session, report_interval
from calledind.net.metronome import LATE
from calledind.net.pace import SLICES_PER_SECOND, Lane, Phase, Stream, next_phase
from calledind.net.wheel import Wheel
from calledind.rtp.goertzel import ToneDetector
from calledind.rtp.packetizer import Plan
from calledind.rtp.statistics import Figures

_MOST_IDLE = 5
"Slices: 10 ms."
_REPORT, _SILENCE = 0, 1
"What is to be looked at later."
_plan = functools.lru_cache(64)(Plan)
"Most calls have the same."


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
        "For the daemon; the owner clears it."
        self.sessions: dict[int, Session] = {}
        self.latest = 0.0
        "Lateness in seconds of the latest slice, since it was last asked for."
        self._files = AudioFiles()
        self._by_ssrc: dict[int, Session] = {}
        self.hearing = Hearing(self.family, self._by_ssrc, self.events, now=now, wall=wall)
        self._later: Wheel[tuple[int, int]] = Wheel(now())
        "Of which session, and what. One that is closed meanwhile is not held by it."

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
        return self._later.next()

    def run_timers(self) -> None:
        """Do what is due."""
        for number, what in self._later.take(self._now()):
            session = self.sessions.get(number)
            if session is not None:
                (self._report if what == _REPORT else self._check_silence)(session)

    def _look_at(self, when: float, session: Session, what: int) -> None:
        self._later.add(when, (session.id, what))

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
        session = Session(number, port, self.hearing.take_row(), self._new_ssrc())
        self.hearing.add(session)
        self._by_ssrc[session.ssrc] = self.sessions[number] = session
        self.events.append(["opened", number, self.ports.bind, port.number])

    def _new_ssrc(self) -> int:
        ssrc = secrets.randbits(32)
        while ssrc in self._by_ssrc:
            ssrc = secrets.randbits(32)
        return ssrc

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
        self._begin(session, packed, _plan(lead_in, lead_out), *format)
        if not sends:
            session.hold(self._now())
        self.hearing.route(session, packed, remote_rtcp)
        session.nat = Nat(set(self.hearing.hosts(nat))) if nat else None
        self.hearing.expect_another_port(session, remote)
        session.tones = ToneDetector() if tones else None
        self.hearing.look_further(session)
        session.silence_timeout = silence_timeout
        self._watch_silence(session)
        if not session.reporting:
            session.reporting = True
            session.played_at = self._now()
            self._look_at(self._now() + report_interval() / 2, session, _REPORT)

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
            sent=before.sent if before else 0,
            octets=before.octets if before else 0,
            late=before.late if before else 0,
            failed=before.failed if before else 0,
            seal=session.secured.sender.seal if session.secured is not None else None,
        )
        lane = self._lane(session.port, ptime)
        session.begin(stream, audio, plan, lane)
        self.hearing.expect(session, codec, payload_type, clock_rate, telephone_events)
        if not stream.next_stretch():
            self._finished(stream)
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
            self.hearing.route(session, packed, remote_rtcp)
            self.hearing.expect_another_port(session, remote)
        if sends:
            session.resume(self._now())
        self._watch_silence(session)

    def _secure(self, session: Session, security: Sequence[Sequence[str]] | None) -> None:
        """Encrypt and decrypt with these keys from now on, or not at all."""
        session.secured = Secured.unpack(security).after(session.secured) if security is not None else None
        if session.stream is not None:
            session.stream.seal = session.secured.sender.seal if session.secured is not None else None
            if session.stream.lane is not None:
                session.stream.lane.phase.seal(session.stream)
        self.hearing.look_further(session)

    def _close(self, session: Session) -> None:
        figures = self.hearing.figures(session)
        if session.stop() is not None:
            self._send_report(session, figures, goodbye=True)
        told: dict[str, object] = {**session.statistics(figures)}
        if session.course is not None:
            told["course"] = media_course.pack(session.course)
        self.events.append(["closed", session.id, told])
        session.stream = session.audio = None  # nothing may hold the file's memory any longer
        self.hearing.remove(session)
        del self._by_ssrc[session.ssrc], self.sessions[session.id]
        self.ports.give_back(session.port)

    def _finished(self, stream: Stream) -> None:
        self.events.append(["finished", self._by_ssrc[stream.ssrc].id])

    def _figures(self) -> dict[str, float]:
        latest, self.latest = self.latest, 0.0
        return {
            "sessions": len(self.sessions),
            "streams": self.sending,
            "strays": self.hearing.strays,
            "latest_slice": round(latest, 6),
        }

    # what happens later

    def _watch_silence(self, session: Session) -> None:
        self.hearing.heard_now(session)
        if session.silence_timeout and not session.silence_watched:
            session.silence_watched = True
            self._look_at(self._now() + session.silence_timeout, session, _SILENCE)

    def _check_silence(self, session: Session) -> None:
        session.silence_watched = False
        if not session.silence_timeout:
            return
        now = self._now()
        mine = session.port.routes.get(session.route) == session.row
        if session.held_since is not None or not session.receives or not mine:
            # A peer that holds or only listens may send nothing, and of a shared address we can't tell who sends.
            self.hearing.heard_now(session)
        due = self.hearing.heard_at(session) + session.silence_timeout
        if due <= now:
            session.silence_timeout = 0.0
            self.events.append(["silent", session.id])
        else:
            session.silence_watched = True
            self._look_at(due, session, _SILENCE)

    def _report(self, session: Session) -> None:
        figures = self.hearing.figures(session)
        self._send_report(session, figures)
        session.note(figures, self._now())
        self._look_at(self._now() + report_interval(), session, _REPORT)

    def _send_report(self, session: Session, figures: Figures, *, goodbye: bool = False) -> None:
        if session.control_address is None:
            return
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
            count = ptime * SLICES_PER_SECOND // 1000
            phases = self._phases[ptime] = [Phase(self.family, self._finished) for _ in range(count)]
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
