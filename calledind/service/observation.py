"""Who watches the daemon, put together: figures for Prometheus, records of calls, copies of SIP messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.web.resource import Resource

import calledind
from calledind.audio.library import Decodes, Fetches
from calledind.callback import Verdict
from calledind.dialing.media_log import CallMedia
from calledind.model import Address, Call, Outcome, PendingCallback, ReturnCode
from calledind.net.dns import is_ip
from calledind.net.resolve import ResolveError, Resolver
from calledind.observability.cdr import Media
from calledind.observability.cdr_file import CdrFile
from calledind.observability.courses import Courses
from calledind.observability.exposition import Exposition
from calledind.observability.gauges import Figures, Snapshot
from calledind.observability.hep import HepSender
from calledind.observability.metrics import Metrics
from calledind.observability.timing import TimedDecodes, TimedFetches, timed_store
from calledind.service.errors import StartFailed
from calledind.settings.tables import Settings
from calledind.sip.timers import DelayedCall
from calledind.store.interface import Store
from calledind.store.worker import Worker

P = ParamSpec("P")

LOOK_AGAIN = 60.0
"Seconds between two look-ups of the collector's name."
LAST_WORDS = 5.0
"Seconds that records have to be written when the daemon stops; a disk that hangs must not hold it up."


class Observation:
    """What the daemon's parts tell of themselves comes here, and goes where the settings say."""

    log = Logger()

    def __init__(self, reactor: Any, settings: Settings, now: Callable[[], float], *, node: str) -> None:
        """`now`: seconds since the epoch. `node`: this node's name."""
        self._reactor = reactor
        self._settings = settings
        self._now = now
        self._node = node
        self.metrics = Metrics()
        self._courses = Courses(now)
        self._hep: HepSender | None = None
        self._cdr: CdrFile | None = None
        self._look: DelayedCall | None = None
        self._told = ""
        "Why the collector can't be found, as the log has it."

    # parts that are watched

    def fetches(self, fetches: Fetches) -> Fetches:
        return TimedFetches(fetches, self.metrics.fetched)

    def decodes(self, decodes: Decodes) -> Decodes:
        return TimedDecodes(decodes, self.metrics.decoded)

    def store(self, store: Store) -> Store:
        return timed_store(store, self.metrics.stored)

    def trace(
        self, keep: Callable[[str, Address, bytes], None], local: Callable[[Address], Address]
    ) -> Callable[[str, Address, bytes], None]:
        """Return what takes each SIP message: `keep` does, and the collector where there is one.

        `local`: our own address towards another; may raise OSError. Raises StartFailed.
        """
        settings = self._settings.trace
        if not settings.hep:
            return keep
        key = b"" if settings.hep_key_file is None else read_key(settings.hep_key_file)
        hep = self._hep = HepSender(self._now, local, capture_id=settings.hep_capture_id, key=key)

        def take(direction: str, other: Address, data: bytes) -> None:
            keep(direction, other, data)
            hep.take(direction, other, data)

        return take

    # beginning and end

    def start(self, figures: Callable[[], Figures], resolver: Resolver) -> None:
        """Open what is written to. `figures`: the daemon at this moment. Raises StartFailed."""
        counts: dict[str, tuple[str, Callable[[], int]]] = {}
        settings = self._settings.cdr
        if settings.file is not None:
            cdr = self._cdr = CdrFile(
                self._reactor,
                Worker(self._reactor, "records of calls"),
                settings.file,
                format=settings.format,
                numbers=settings.numbers,
                node=self._node,
            )
            try:
                cdr.start()
            except OSError as error:
                raise StartFailed(f"cdr.file: {settings.file} can't be written to: {error.strerror}") from None
            counts["cdr_lost"] = "Records of calls that could not be written.", lambda: cdr.lost
        if self._hep is not None:
            hep = self._hep
            counts["hep_sent"] = "SIP messages that were copied to the collector.", lambda: hep.sent
            counts["hep_dropped"] = "SIP messages that could not be copied to the collector.", lambda: hep.dropped
            self._find(hep, resolver)
        self.metrics.add(Snapshot(figures, version=calledind.__version__, node=self._node, counts=counts))

    def reopen(self) -> None:
        """SIGHUP: files may have been moved away."""
        if self._cdr is not None:
            self._cdr.reopen()

    def stop(self) -> Deferred[None]:
        """Fires when the last records are written, or can't be."""
        if self._look is not None and self._look.active():
            self._look.cancel()
        if self._hep is not None:
            self._hep.close()
        if self._cdr is None:
            return succeed(None)
        return self._cdr.stop().addTimeout(LAST_WORDS, self._reactor, onTimeoutCancel=lambda *_: None)

    def exposition(self) -> Resource:
        """Return the page for Prometheus."""
        return Exposition(self.metrics.registry, self._settings.metrics.allow_networks)

    def _find(self, hep: HepSender, resolver: Resolver) -> None:
        host, _, port = self._settings.trace.hep.rpartition(":")
        host = host.strip("[]")
        self._look = None
        looking = succeed([host]) if is_ip(host) else resolver.resolve(host)

        def found(addresses: Any) -> None:
            hep.use((next(iter(addresses)), int(port)))
            self._told = ""

        def not_found(failure: Any) -> None:
            if not failure.check(ResolveError, OSError):
                self.log.failure("the collector of SIP messages", failure)
                return
            words = failure.getErrorMessage()
            if words != self._told:
                self._told = words
                self.log.warn("trace.hep: {host} can't be found: {error}", host=host, error=words)

        def again(_: object) -> None:
            if not is_ip(host):
                self._look = self._reactor.callLater(LOOK_AGAIN, self._find, hep, resolver)

        looking.addCallback(found).addErrback(not_found).addCallback(again)

    # what is told by the parts

    def decided(self, code: ReturnCode | None) -> None:
        """A request was answered; None: with 503."""
        self._safely(self.metrics.request, code)

    def reached(self, call: Call, stage: str, trunk: str) -> None:
        """A call has come so far."""
        self._safely(self._reached, call, stage, trunk)

    def _reached(self, call: Call, stage: str, trunk: str) -> None:
        course = self._courses.reached(call.id, stage, trunk)
        if course is not None:
            self.metrics.reached(call, stage, course)

    def ended(self, call: Call, outcome: Outcome) -> None:
        """A call's outcome is kept."""
        self._safely(self._ended, call, outcome)

    def _ended(self, call: Call, outcome: Outcome) -> None:
        course = self._courses.ended(call.id)
        self.metrics.ended(outcome, course)
        if self._cdr is not None:
            self._cdr.ended(call, outcome, course)

    def media(self, call_id: str, media: CallMedia) -> None:
        """How the packets of a call went."""
        self._safely(self._media, call_id, media)

    def _media(self, call_id: str, media: CallMedia) -> None:
        self.metrics.media(media.trunk, media.statistics)
        if self._cdr is not None:
            self._cdr.media(call_id, Media(media.codec, media.statistics))

    def tried(self, pending: PendingCallback, verdict: Verdict, status: int) -> None:
        """A callback's try is over."""
        self._safely(self.metrics.callback_tried, verdict.value)

    def _safely(self, work: Callable[..., None], *arguments: Any) -> None:
        """Whoever watches must not disturb."""
        try:
            work(*arguments)
        except Exception:  # noqa: BLE001 - the call goes on
            self.log.failure("what watches the calls met an error of our own")


def read_key(path: Path, *, environment: Mapping[str, str] = os.environ) -> bytes:
    """Return the collector's authentication key. Raises StartFailed."""
    path = Path(environment.get("CREDENTIALS_DIRECTORY", ".")) / path
    try:
        return path.read_bytes().strip()
    except OSError as error:
        raise StartFailed(f"trace.hep_key_file: {path} can't be read: {error.strerror}") from None


def both(one: Callable[P, None], other: Callable[P, None]) -> Callable[P, None]:
    """Return what tells two who each want to be told."""

    def tell(*arguments: P.args, **named: P.kwargs) -> None:
        one(*arguments, **named)
        other(*arguments, **named)

    return tell
