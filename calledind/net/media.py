"""The calls' media as the rest of the daemon sees it: sessions that play a file, in processes of their own.

    media = Media(reactor, settings.rtp)
    media.start() -> media.open(report) -> session.local goes into the offer
    -> session.play(...) after the answer -> report(Finished()) -> session.close() -> statistics

Nothing here waits for the processes: commands are gathered and written at the end of the reactor's turn, and
what the processes say is reported when it comes. A session whose process is lost is told so once, with
`Lost`; its `close` then answers with empty statistics.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.model import Address
from calledind.net.media_child import MediaChild
from calledind.net.media_pipe import Item
from calledind.sdes import Security
from calledind.settings.tables import Rtp

OPEN_SECONDS = 3.0
"A session that takes longer to open is not opened."
MOST_OPENING = 1024
"Sessions being opened in one process at the same time."
BUSY_OPENING = 32
"""So many, and calls wait: a session is open as soon as the process and we come to it, so that many are work that has
gathered. Who begins still more has all running calls wait longer for each of their answers."""


class NoMedia(Exception):
    """No session can be opened now; the message says why."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The lead-out was sent: time for BYE."""


@dataclass(frozen=True, slots=True)
class Digit:
    """The callee pressed a key."""

    digit: str
    "One of 0123456789*#ABCD."


@dataclass(frozen=True, slots=True)
class Silent:
    """Neither RTP nor RTCP was received for `silence_timeout` seconds. Reported once."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The session can't go on: its process ended, or the audio or an address can't be used."""

    detail: str


MediaEvent = Finished | Digit | Silent | Lost


@dataclass(frozen=True, slots=True)
class Format:
    """What is in the packets of a session, as both sides agreed."""

    audio: Path
    "File of the audio in this codec: octets, 8,000 a second, or packets (`codecs.pack_packets`)."
    codec: str
    "One of `codecs.CODECS`."
    payload_type: int
    ptime: int = 20
    "Milliseconds that a packet lasts: 10, 20, 30, 40, 50 or 60, what is between them is rounded down."
    telephone_events: tuple[int, ...] = ()
    "Payload types that keys pressed come with (RFC 4733): ours, and the peer's where it has another; two at most."

    @property
    def item(self) -> Item:
        """For the process."""
        return [str(self.audio), self.codec, self.payload_type, self.ptime, list(self.telephone_events)]


@dataclass(frozen=True, slots=True)
class MediaStatistics:
    """How one session went."""

    packets_sent: int = 0
    octets_sent: int = 0
    "Headers not counted."
    packets_late: int = 0
    "Sent more than 5 ms after they were due."
    packets_received: int = 0
    packets_lost: int = 0
    "Of the peer's."
    jitter: float = 0.0
    "Of the peer's packets, in seconds (RFC 3550 §6.4.1)."
    fraction_lost_by_peer: float = 0.0
    "Of our packets, 0 to 1, as the peer's last report says."
    round_trip: float | None = None
    "Seconds, by the peer's reports."
    packets_lost_by_peer: int = 0
    "Of our packets, as the peer's last report says."
    jitter_by_peer: float | None = None
    "Of our packets, in seconds; None where the peer never reported."
    mos: float | None = None
    """Estimated mean opinion score, 1 to 4.5 (`rtp.quality`): of what the callee hears where the peer reported, else
    of what came from there; None where nothing is known."""
    course: Sequence[float] = field(default=(), repr=False)
    "How it was at moments of the call: see `media_course`."


class MediaSession:
    """One call's media. Made by `Media.open`."""

    __slots__ = ("_closing", "_number", "_process", "_report", "_statistics", "local")

    def __init__(self, process: _Process, number: int, local: Address, report: Callable[[MediaEvent], None]) -> None:
        self.local = local
        'Bound address ("0.0.0.0" is possible) and RTP port, even; RTCP is on the next.'
        self._process = process
        self._number = number
        self._report = report
        self._closing: list[Deferred[MediaStatistics]] | None = None
        self._statistics: MediaStatistics | None = None

    def play(
        self,
        format: Format,
        *,
        remote: Address,
        remote_rtcp: Address,
        lead_in: float,
        lead_out: float,
        silence_timeout: float = 0,
        nat: Collection[str] = (),
        tones: bool = False,
        security: Security | None = None,
        sends: bool = True,
        receives: bool = True,
    ) -> None:
        """Send silence, the audio and silence again; `Finished` is reported after the last packet.

        `lead_in`, `lead_out`, `silence_timeout`: seconds; 0 for the last means that silence is not reported.
        `nat`: IP addresses from which media is followed that comes from another port than `remote`, within the
        first seconds (and again after a `redirect`), once; none where the peer is not behind a NAT.
        `tones`: listen for keys in the peer's sound, where that is PCMU or PCMA.
        `security`: keys of SRTP and SRTCP; None: nothing is encrypted.
        `sends`: False begins with the audio paused. `receives`: whether the peer will send; who won't isn't silent.
        What can't be used is reported as `Lost`.
        """
        self._tell(
            "play",
            {
                "format": format.item,
                "remote": remote,
                "remote_rtcp": remote_rtcp,
                "lead_in": lead_in,
                "lead_out": lead_out,
                "silence_timeout": silence_timeout,
                "nat": list(nat),
                "tones": tones,
                "security": _packed(security),
                "sends": sends,
                "receives": receives,
            },
        )

    def redirect(
        self,
        remote: Address,
        remote_rtcp: Address,
        sends: bool,
        format: Format | None = None,
        security: Security | None = None,
        receives: bool = True,
    ) -> None:
        """Take up what a later offer or answer says, at once.

        Packets go to `remote` and are expected from there. With `sends` False the audio pauses. With a `format`, to
        be given only where it differs from the one in use, the audio goes on in it at the same moment.
        `security` and `receives` are what holds from now on, so they are to be repeated.
        """
        item = None if format is None else format.item
        self._tell("redirect", remote, remote_rtcp, sends, item, _packed(security), receives)

    def close(self) -> Deferred[MediaStatistics]:
        """End the session with an RTCP BYE. May be called again: all answers are the same."""
        if self._statistics is not None:
            return succeed(self._statistics)
        closed: Deferred[MediaStatistics] = Deferred()
        if self._closing is None:
            self._closing = [closed]
            self._process.child.tell(["close", self._number])
        else:
            self._closing.append(closed)
        return closed

    def _tell(self, verb: str, *arguments: Any) -> None:
        if self._closing is None and self._statistics is None:
            self._process.child.tell([verb, self._number, *arguments])

    def _happened(self, event: MediaEvent) -> None:
        if self._closing is None:
            self._report(event)

    def _closed(self, statistics: MediaStatistics) -> None:
        self._statistics = statistics
        waiting, self._closing = self._closing or [], None
        for each in waiting:
            each.callback(statistics)

    def _process_lost(self, detail: str) -> None:
        closing = self._closing is not None
        self._closed(MediaStatistics())
        if not closing:
            self._report(Lost(detail))


class _Process:
    """The sessions of one media process."""

    log = Logger()

    def __init__(self, reactor: Any, settings: Rtp, ports: tuple[int, int], new_number: Callable[[], int]) -> None:
        self._reactor = reactor
        self._new_number = new_number
        self._opening: dict[int, tuple[Deferred[MediaSession], Callable[[MediaEvent], None], IDelayedCall]] = {}
        self.sessions: dict[int, MediaSession] = {}
        arguments = [settings.bind, str(ports[0]), str(ports[1])]
        self.child = MediaChild(reactor, arguments, event=self._event, lost=self._lost)

    @property
    def load(self) -> int:
        return len(self.sessions) + len(self._opening)

    @property
    def opening(self) -> int:
        return len(self._opening)

    @property
    def can_open(self) -> bool:
        return self.child.healthy and len(self._opening) < MOST_OPENING

    def open(self, report: Callable[[MediaEvent], None]) -> Deferred[MediaSession]:
        number = self._new_number()
        opening: Deferred[MediaSession] = Deferred(lambda _: self._cancelled(number))
        deadline = self._reactor.callLater(OPEN_SECONDS, self._refused, number, "the media process did not answer")
        self._opening[number] = opening, report, deadline
        self.child.tell(["open", number])
        return opening

    def _cancelled(self, number: int) -> None:
        self._forget(number)

    def _forget(self, number: int) -> tuple[Deferred[MediaSession], Callable[[MediaEvent], None]] | None:
        found = self._opening.pop(number, None)
        if found is None:
            return None
        opening, report, deadline = found
        if deadline.active():
            deadline.cancel()
        return opening, report

    def _event(self, item: Item) -> None:
        match item:
            case ["opened", int(number), str(host), int(port)]:
                self._opened(number, (sys.intern(host), port))
            case ["refused", int(number), str(words)]:
                self._refused(number, words)
            case ["closed", int(number), dict(figures)]:
                session = self.sessions.pop(number, None)
                if session is not None:
                    if "course" in figures:  # packed: those of the last calls are kept
                        figures["course"] = array("f", figures["course"])
                    session._closed(MediaStatistics(**figures))
            case ["finished", int(number)]:
                self._happened(number, Finished())
            case ["silent", int(number)]:
                self._happened(number, Silent())
            case ["digit", int(number), str(digit)]:
                self._happened(number, Digit(digit))
            case ["lost", int(number), str(words)]:
                self._happened(number, Lost(words))
            case _:
                raise AssertionError(f"the media process says {item[0]!r}, which means nothing")

    def _opened(self, number: int, local: Address) -> None:
        found = self._forget(number)
        if found is None:  # given up meanwhile
            self.child.tell(["close", number])
            return
        opening, report = found
        session = self.sessions[number] = MediaSession(self, number, local, report)
        opening.callback(session)

    def _refused(self, number: int, words: str) -> None:
        found = self._forget(number)
        if found is not None:
            found[0].errback(NoMedia(words))

    def _happened(self, number: int, event: MediaEvent) -> None:
        session = self.sessions.get(number)
        if session is not None:
            session._happened(event)

    def _lost(self, words: str) -> None:
        for number in list(self._opening):
            self._refused(number, f"the media process {words}")
        sessions, self.sessions = list(self.sessions.values()), {}
        for session in sessions:
            # One call that fails to take the news must not keep it from the others.
            try:
                session._process_lost(f"the media process {words}")
            except Exception:  # noqa: BLE001
                self.log.failure("A call could not be told that its media was lost.")


class Media:
    """All media processes of the daemon."""

    def __init__(self, reactor: Any, settings: Rtp) -> None:
        self._last_number = 0
        self._processes = [
            _Process(reactor, settings, ports, self._new_number)
            for ports in split_ports(settings.ports, settings.processes)
        ]

    def start(self) -> Deferred[None]:
        """Start the processes; fires when all are ready, fails with `NoMedia` where one can't be started."""
        all_started = DeferredList([process.child.start() for process in self._processes], consumeErrors=True)
        return all_started.addCallback(_all_started)

    def stop(self) -> Deferred[None]:
        """End the processes and with them what sessions are left; fires when they have ended."""
        return DeferredList([process.child.stop() for process in self._processes]).addCallback(lambda _: None)

    def open(self, report: Callable[[MediaEvent], None]) -> Deferred[MediaSession]:
        """Open a session in the process that has the fewest; fails with `NoMedia`.

        `report` is called for each event of the session until it is closed. The Deferred may be cancelled.
        """
        able = [process for process in self._processes if process.can_open]
        if not able:
            failed: Deferred[MediaSession] = Deferred()
            failed.errback(NoMedia("no media process can take a call now"))
            return failed
        return min(able, key=lambda process: process.load).open(report)

    def is_behind(self) -> bool:
        """Whether more sessions are being opened than there is time for: no more should be begun for a moment."""
        able = [process.opening for process in self._processes if process.can_open]
        return bool(able) and min(able) >= BUSY_OPENING

    def healthy(self) -> bool:
        """Whether calls can be opened."""
        return any(process.can_open for process in self._processes)

    @property
    def figures(self) -> dict[str, float]:
        """Of all processes, not older than a second or so: sessions, streams, strays, latest_slice (s)."""
        all_figures = [process.child.figures for process in self._processes]
        together = {name: sum(each.get(name, 0) for each in all_figures) for name in ("sessions", "streams", "strays")}
        return {**together, "latest_slice": max(each.get("latest_slice", 0.0) for each in all_figures)}

    def _new_number(self) -> int:
        self._last_number += 1
        return self._last_number


def _packed(security: Security | None) -> Item | None:
    """Write both keys for the process, ours first."""
    return None if security is None else [security.ours.pack(), security.theirs.pack()]


def split_ports(ports: tuple[int, int], processes: int) -> list[tuple[int, int]]:
    """Cut a range of ports into even parts for the processes, each a range (first, last); fewer where it is short."""
    first = ports[0] + ports[0] % 2
    pairs = (ports[1] - first + 1) // 2
    processes = max(1, min(processes, pairs))
    share, more = divmod(pairs, processes)
    parts = []
    for index in range(processes):
        last = first + 2 * (share + (index < more)) - 1
        parts.append((first, last))
        first = last + 1
    return parts


def _all_started(results: list[tuple[bool, Any]]) -> None:
    for succeeded, result in results:
        if not succeeded:
            failure: Failure = result
            raise NoMedia(failure.getErrorMessage())


__all__ = [
    "Digit",
    "Finished",
    "Format",
    "Lost",
    "Media",
    "MediaEvent",
    "MediaSession",
    "MediaStatistics",
    "NoMedia",
    "Silent",
    "split_ports",
]
