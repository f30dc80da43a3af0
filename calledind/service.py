"""The composition root: the only module that knows all the others. It makes them, starts them and stops them.

Starting: store, audio, media, carrier or trunks, the listeners (which say 503 for now), and when nothing can go
wrong any more, what the last process left behind; then systemd is told. Stopping: no new work, running calls finish
(bounded), outcomes are kept, everything closes.
"""

from __future__ import annotations

import gc
import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.admission import Admission, Unavailable
from calledind.api import admin, tls
from calledind.api.answers import Folder
from calledind.api.health import Alive, Ready
from calledind.api.playback import Playback
from calledind.api.site import Site
from calledind.audio.decode import Decoder
from calledind.audio.errors import LibraryUnavailable
from calledind.audio.fetch import Fetcher
from calledind.audio.library import Library
from calledind.callback import CallbackSender
from calledind.dialing.dialer import Dialer
from calledind.dialing.media_log import MediaLog
from calledind.dialing.stir import Signer, StirError
from calledind.dialing.surroundings import Surroundings
from calledind.dialing.trunks import Trunk
from calledind.keyring import Keyring
from calledind.model import Call, CallRecord, Cause, EndedBy, Ending, State
from calledind.net import systemd
from calledind.net.agent import GuardedAgent
from calledind.net.clock import Clock
from calledind.net.guard import Guard
from calledind.net.media import Media, NoMedia
from calledind.net.registrations import Registrations, credentials
from calledind.net.resolve import ThreadedResolver
from calledind.net.signalling import Signalling
from calledind.net.strain import Strain
from calledind.net.trace import SipTrace
from calledind.outcome import Settlement
from calledind.settings import Settings, SettingsError, Stir, parse_address
from calledind.settings import Trunk as TrunkSettings
from calledind.simulator.carrier import Carrier
from calledind.simulator.scenarios import CREDENTIALS
from calledind.sip.auth import Credentials
from calledind.store.embedded import EmbeddedStore
from calledind.store.interface import StoreUnavailable

EXIT_FAILED = 1
LIVE = ("regions", "calls", "stir", "trunks", "http.certificate", "http.private_key")
"Settings, and tables of them, that SIGHUP brings into force."
BACKLOG = 1024
"Connections that wait to be accepted; one more waits for a second, until its client tries again."
GOODBYES = 4.0
"Seconds that BYEs and CANCELs have to be confirmed when calls are hung up, and the last outcomes to be kept."


class StartFailed(Exception):
    """The daemon can't start; the message says why and what to do."""


EXPECTED = (
    StartFailed,
    SettingsError,
    StoreUnavailable,
    LibraryUnavailable,
    NoMedia,
    tls.CertificateError,
    admin.SocketError,
    OSError,
)
"What can go wrong at a start, and when settings are read again, without a fault of ours."


class Wrong:
    """Gathers what is wrong, a line for each: `with wrong:` around each thing that is tried."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, EXPECTED):
            return False
        self.lines += str(error).splitlines()
        return True


class Daemon(Service):
    """The whole of calledin."""

    log = Logger()

    def __init__(self, reactor: Any, settings: Settings, *, reload: Callable[[], Settings]) -> None:
        self._reactor = reactor
        self._settings = settings
        self._reload = reload
        self._now = Clock().now
        self._ports: list[Any] = []
        self._context: tls.ServerContext | None = None
        self._watchdog: LoopingCall | None = None
        self._strain = Strain(reactor)
        self._stopping = ""
        "Why no work is taken; empty while it is."
        self._started = False
        self._starting: Deferred[None] = succeed(None)
        self._out_of_time: Deferred[None] = Deferred()
        "Fires when calls that were hung up had their time to say goodbye."
        self._opened = False
        self._hanging_up = False
        self._carrier: Carrier | None = None
        self._trunks: tuple[TrunkSettings, ...] = ()
        self._signer: Signer | None = None

    # starting

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        # A reactor that does not run yet could not be stopped by a start that fails.
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        self._handle_signals()
        self._starting = Deferred.fromCoroutine(self._start()).addErrback(self._not_started)

    def _handle_signals(self) -> None:
        """After the reactor's own: SIGTERM and SIGINT let calls finish and end with 0; SIGHUP reloads."""

        def handle(number: int, act: Callable[[], None]) -> None:
            signal.signal(number, lambda *_: self._reactor.callFromThread(act))

        handle(signal.SIGTERM, self._terminate)
        handle(signal.SIGINT, self._terminate)
        handle(signal.SIGHUP, self._read_again)

    def _terminate(self) -> None:
        if self._stopping:
            self.log.warn("asked again to stop: running calls are hung up")
            self._hang_up()
            return
        self._stopping = "calledin is shutting down"
        self._reactor.stop()

    def _not_started(self, failure: Failure) -> None:
        if failure.check(*EXPECTED):  # type: ignore[no-untyped-call]
            self.log.critical("calledin can't start: {error}", error=failure.getErrorMessage())
        else:
            self.log.failure("calledin can't start", failure)
        self._reactor.addSystemEventTrigger("after", "shutdown", os._exit, EXIT_FAILED)
        if not self._stopping:
            self._stopping = "the start has failed"
            self._reactor.stop()

    async def _start(self) -> None:
        self._make()
        await self._store.open()
        # From here on, what was opened is closed in good order.
        self._opened = True
        await self._library.start()
        await self._media.start()
        if self._settings.simulator:
            assert self._carrier is not None
            host, port = await self._carrier.start()
            self._trunks = (simulator_trunk(host, port),)
        else:
            self._trunks = with_passwords(self._settings.trunks)
        self._signalling.start(self._trunks)
        self._dial()
        self._listen()
        if self._stopping:
            return
        self._registrations.use_trunks(self._trunks)
        await self._callbacks.start()
        await self._recover()
        self._dialer.start()
        self._started = True
        tune_collector()
        systemd.notify("READY=1")
        self._feed_watchdog()
        self._strain.start()
        self._say_hello()

    def _make(self) -> None:
        settings, reactor = self._settings, self._reactor
        try:
            settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartFailed(f"data: the folder {settings.data} can't be made: {error.strerror}") from None
        self._keyring = Keyring(read_pepper(settings.data))
        self._signer = read_signer(settings.stir)
        self._store = EmbeddedStore(reactor, settings.data / "store")
        self._resolver = ThreadedResolver(reactor)
        fetching = GuardedAgent(
            reactor, Guard(settings.audio.allow_networks, settings.audio.allow_ports), self._resolver
        )
        telling = GuardedAgent(
            reactor, Guard(settings.audio.allow_networks, settings.callbacks.allow_ports), self._resolver
        )
        self._library = Library(
            reactor,
            settings.data / "audio",
            settings.audio,
            Fetcher(reactor, fetching, settings.audio),
            Decoder(reactor, settings.audio),
            self._now,
            codecs=codecs(settings.trunks),
        )
        self._callbacks = CallbackSender(
            reactor, telling, self._store, self._keyring, settings.callbacks, self._now, wall=time.time
        )
        self._media = Media(reactor, settings.rtp)
        self._trace = SipTrace(self._now)
        self._media_log = MediaLog()
        self._signalling = Signalling(reactor, settings.sip, self._resolver, trace=self._trace.take)
        user_agent = self._signalling.user_agent
        self._registrations = Registrations(user_agent, self._signalling, routed=self._route)
        self._signalling.moved = self._registrations.check_addresses
        if settings.simulator:
            recordings = settings.simulation.recordings or settings.data / "recordings"
            self._carrier = Carrier(reactor, recordings=recordings)

    def _dial(self) -> None:
        settings, trunks = self._settings, self._trunks
        self._settlement = Settlement(
            store=self._store,
            timers=self._reactor,
            trunk_reasons=reasons(trunks),
            charge_accepted=settings.calls.charge == "accepted",
            settled=self._callbacks.add,
            released=lambda call: self._library.unpin(call.audio),
        )
        self._dialer = Dialer(
            Surroundings(
                store=self._store,
                user_agent=self._signalling.user_agent,
                media=self._media,
                timers=self._reactor,
                settings=settings.calls,
                audio_path=self._library.path,
                audio_codecs=self._library.codecs,
                media_closed=self._media_log.take,
                targets=self._registrations,
                local_host=self._signalling.local_host,
                now=self._now,
                sign=self._sign,
            ),
            trunks,
            probe=self._probe,
            ended=self._settlement.end,
        )
        self._admission = Admission(
            store=self._store,
            keyring=self._keyring,
            library=self._library,
            regions=settings.regions,
            calls=settings.calls,
            accepted=self._dialer.add,
            obstacle=self._obstacle,
            now=self._now,
            most_waiting=max(1, settings.http.max_requests_in_flight // 2),
        )

    def _sign(self, call: Call, number: str) -> Sequence[tuple[str, str]]:
        if self._signer is None:
            return ()
        return self._signer.headers(
            attestation=call.attestation,
            caller=number,
            callee=call.country_code + call.phone_number,
            key_id=call.key_id,
            # The carrier compares it with the time of its own clock, a minute more or less (RFC 8224 §4).
            now=time.time(),
        )

    def _route(self) -> None:
        """A registrar has said by which way it wants its calls."""
        self._signalling.use_trunks((*self._trunks, *self._registrations.by_route))

    def _probe(self, trunk: Trunk, report: Callable[[int | None], None]) -> None:
        if self._registrations.obstacle(trunk.settings):
            report(None)
        else:
            self._signalling.probe(self._registrations.way(trunk.settings), report)

    def _obstacle(self) -> Unavailable | None:
        if self._stopping:
            return Unavailable(self._stopping, 10)
        if not self._started:
            return Unavailable("calledin is starting", 1)
        if len(self._dialer) >= self._settings.calls.max_queued:
            return Unavailable("too many calls are waiting to be dialled", 10)
        if self._strain.too_much():
            return Unavailable("calledin has more to do than there is time for", 2)
        if not self._store.healthy():
            return Unavailable("the store can't keep calls now", 5)
        return None

    def _missing(self) -> str | None:
        """Say what keeps calls from being made; None when nothing does."""
        obstacle = self._obstacle()
        if obstacle is not None:
            return obstacle.words
        return None if self._media.healthy() else "no media process is running"

    # what the last process left behind

    async def _recover(self) -> None:
        """Take up each unfinished call where it was left; no attempt that may have left the machine is repeated."""
        records = await self._store.unfinished()
        for record in records:
            pinned = self._pin(record.call)
            match record.state:
                case State.ACCEPTED:
                    self._take_up(record.call, pinned)
                case State.DIALING:
                    self._cancel(record)
                case _:
                    self._hang_up_dialog(record)
        if records:
            self.log.info("{count} calls of the process before were taken up", count=len(records))

    def _pin(self, call: Call) -> bool:
        """Keep the call's audio, until the outcome lets go of it; False when it is gone."""
        try:
            self._library.pin(call.audio)
        except KeyError:
            return False
        return True

    def _take_up(self, call: Call, pinned: bool) -> None:
        if self._now() - call.accepted_at > self._settings.calls.queue_ttl:
            ending = Ending(Cause.EXPIRED, False, EndedBy.US, self._now(), detail="calledin was not running in time")
            self._settlement.end(call, ending)
        elif not pinned:
            self.log.error("call {call}: its audio is not in the library any more", call=call.id)
            ending = Ending(Cause.MEDIA_FAILED, False, EndedBy.US, self._now(), detail="its audio is gone")
            self._settlement.end(call, ending)
        else:
            self._dialer.add(call)

    def _cancel(self, record: CallRecord) -> None:
        try:
            if record.attempt is None:
                raise ValueError("nothing is known of its attempt")
            self._signalling.user_agent.recover_invitation(record.attempt.invitation, _nothing)
        except (ValueError, OSError) as error:
            self.log.error("call {call} can't be cancelled: {error}", call=record.call.id, error=error)
        self._interrupted(record, answered=False)

    def _hang_up_dialog(self, record: CallRecord) -> None:
        try:
            if record.dialog is None:
                raise ValueError("nothing is known of its dialog")
            self._signalling.user_agent.recover_dialog(record.dialog, _nothing, self._credentials(record))
        except (ValueError, OSError) as error:
            self.log.error("call {call} can't be hung up: {error}", call=record.call.id, error=error)
        self._interrupted(record, answered=True)

    def _credentials(self, record: CallRecord) -> Credentials | None:
        for trunk in self._trunks:
            if record.attempt is not None and trunk.name == record.attempt.trunk:
                return credentials(trunk)
        return None

    def _interrupted(self, record: CallRecord, *, answered: bool) -> None:
        ending = Ending(
            Cause.INTERRUPTED,
            answered,
            EndedBy.US,
            self._now(),
            answered_at=record.answered_at,
            sip_status=200 if answered else None,
            trunk=record.attempt.trunk if record.attempt else "",
            detail="calledin was restarted",
        )
        self._settlement.end(record.call, ending)

    # the faces

    def _listen(self) -> None:
        settings = self._settings.http
        site = self._site()
        for text in settings.listen:
            self._open(text, lambda port, host: self._reactor.listenTCP(port, site, BACKLOG, host))
        if settings.tls_listen:
            context = self._context = tls.ServerContext(tls.make_context(*self._certificate(self._settings)))
            for text in settings.tls_listen:
                self._open(text, lambda port, host: self._reactor.listenSSL(port, site, context, BACKLOG, host))
        operators = admin.Admin(
            reactor=self._reactor,
            store=self._store,
            keyring=self._keyring,
            now=self._now,
            status=self._status,
            extra={b"recordings": self._recordings, b"scenarios": self._scenarios},
            trace=self._trace.show,
            media=self._media_log.show,
        )
        self._settings.admin_socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._ports.append(
            admin.listen(self._reactor, self._settings.admin_socket, admin.admin_site(operators, reactor=self._reactor))
        )

    def _open(self, text: str, listen: Callable[[int, str], Any]) -> None:
        host, port = parse_address(text)
        try:
            self._ports.append(listen(port, host))
        except CannotListenError as error:
            raise StartFailed(f"http: {text} can't be listened on: {error.socketError}") from None

    def _site(self) -> Site:
        settings = self._settings.http
        root, api = Folder(), Folder()  # type: ignore[no-untyped-call]
        playback = Playback(
            self._admission.admit,
            trunk="simulator" if self._settings.simulator else "",
            max_in_flight=settings.max_requests_in_flight,
        )
        root.putChild(b"api", api)
        api.putChild(b"playback", playback)
        root.putChild(b"healthz", Alive(simulator=self._settings.simulator))
        root.putChild(b"readyz", Ready(self._missing))
        return Site(
            root,
            reactor=self._reactor,
            max_connections=settings.max_connections,
            max_connections_per_address=settings.max_connections_per_address,
        )

    def _certificate(self, settings: Settings) -> tuple[Path, Path]:
        """Return the files of certificate and key."""
        certificate, key = settings.http.certificate, settings.http.private_key
        if certificate is None or key is None:
            certificate, key = tls.self_signed(self._settings.data / "tls", self._now())
            self.log.warn("HTTPS has no certificate of yours: {path} is self-signed", path=str(certificate))
        return certificate, key

    def _status(self) -> Mapping[str, object]:
        return {
            "simulator": self._settings.simulator,
            "ready": self._missing() or "yes",
            "queued": len(self._dialer),
            "live": self._dialer.live,
            "trunks": [self._trunk_status(trunk) for trunk in self._dialer.trunks],
            "media": self._media.figures,
            "sip": {"transactions_and_dialogs": len(self._signalling.user_agent)},
        }

    def _trunk_status(self, trunk: Trunk) -> Mapping[str, object]:
        status = {
            "name": trunk.name,
            "health": trunk.health.value,
            "busy": trunk.busy,
            "calls_per_second": round(trunk.pace, 2),
        }
        registration = self._registrations.status(trunk.settings)
        return {**status, "registration": registration} if registration else status

    def _recordings(self) -> object:
        return [] if self._carrier is None else self._carrier.recordings()

    def _scenarios(self) -> object:
        return [] if self._carrier is None else self._carrier.scenarios()

    def _feed_watchdog(self) -> None:
        interval = systemd.watchdog_interval()
        if interval is not None:
            self._watchdog = LoopingCall(systemd.notify, "WATCHDOG=1")
            self._watchdog.clock = self._reactor
            self._watchdog.start(interval)

    def _say_hello(self) -> None:
        if self._settings.simulator:
            self.log.warn("the built-in carrier takes all calls (simulator): nobody's phone rings")
        else:
            self.log.info("trunks: {names}", names=", ".join(trunk.name for trunk in self._trunks))
        self.log.info(
            "calledin is ready: {addresses}",
            addresses=", ".join(
                [f"http://{each}" for each in self._settings.http.listen]
                + [f"https://{each}" for each in self._settings.http.tls_listen]
            ),
        )

    # SIGHUP

    def _read_again(self) -> None:
        """Take what can change while calls are up, all of it or, where something is wrong, nothing but all errors."""
        if not self._started or self._stopping:
            self.log.warn("not now: calledin is starting or stopping, the settings are not read again")
            return
        systemd.notify("RELOADING=1")
        wrong = Wrong()
        with wrong:
            settings = self._reload()
            self._read_files(settings, wrong)
        for line in wrong.lines:
            self.log.error("the reload is left out, all stays as it was: {line}", line=line)
        systemd.notify("READY=1")

    def _read_files(self, settings: Settings, wrong: Wrong) -> None:
        """Read what the new settings name, and use both."""
        trunks, signer = self._trunks, self._signer
        certificate: SSL.Context | None = None
        with wrong:
            signer = read_signer(settings.stir)
        with wrong:
            if self._context is not None:
                certificate = tls.make_context(*self._certificate(settings))
        with wrong:
            trunks = self._trunks if settings.simulator else with_passwords(settings.trunks)
        with wrong:
            self._signalling.prepare(self._trunks if settings.simulator else settings.trunks)
        if wrong.lines:
            return
        self._signer = signer
        if self._context is not None and certificate is not None:
            self._context.use(certificate)
        self._apply(settings, trunks)

    def _apply(self, settings: Settings, trunks: tuple[TrunkSettings, ...]) -> None:
        """Use the new settings, but for those that only a start can bring."""
        changed = changed_settings(self._settings, settings)
        later = [name for name in changed if name not in LIVE and name.split(".")[0] not in LIVE]
        if trunks != self._trunks and "trunks" not in changed:
            changed.append("trunks")
        if "simulator" in later:
            # Its carrier was, or was not, started with the daemon; the trunks are the other side of it.
            settings = attrs.evolve(settings, trunks=self._settings.trunks)
            trunks = self._trunks
        now = [name for name in changed if name not in later]
        http = attrs.evolve(
            self._settings.http, certificate=settings.http.certificate, private_key=settings.http.private_key
        )
        tables = {name: getattr(settings, name) for name in LIVE if "." not in name}
        self._settings = attrs.evolve(self._settings, http=http, **tables)
        self._trunks = trunks
        self._registrations.use_trunks(trunks)
        self._route()
        # Calls of a trunk that is gone are still to end.
        self._settlement.trunk_reasons = {**self._settlement.trunk_reasons, **reasons(trunks)}
        self._settlement.charge_accepted = settings.calls.charge == "accepted"
        self._library.use_codecs(codecs(trunks))
        self._admission.use_regions(settings.regions)
        self._admission.use_calls(settings.calls)
        self._dialer.replace(settings.calls, trunks)
        self.log.info("settings and certificates were read again; changed: {names}", names=", ".join(now) or "nothing")
        if later:
            self.log.warn("changed, and in force after a restart only: {names}", names=", ".join(later))

    # stopping

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        self._stopping = self._stopping or "calledin is shutting down"
        systemd.notify("STOPPING=1")
        return Deferred.fromCoroutine(self._stop()).addErrback(
            lambda failure: self.log.failure("calledin did not stop in good order", failure)
        )

    async def _stop(self) -> None:
        await self._starting
        if self._started:
            await self._drain()
        for port in self._ports:
            await _maybe(port.stopListening())
        if self._started:
            await self._either(self._settlement.when_idle(), self._in(GOODBYES))
        if self._opened:
            await self._callbacks.stop()
            await self._registrations.stop()
            self._signalling.stop()
            if self._carrier is not None:
                await self._carrier.stop()
            await self._media.stop()
            await self._close_library()
            self._resolver.stop()
            await self._store.close()
        self._strain.stop()
        if self._watchdog is not None and self._watchdog.running:
            self._watchdog.stop()

    async def _close_library(self) -> None:
        with suppress(LibraryUnavailable):  # it never opened, and that was told
            await self._library.stop()

    async def _drain(self) -> None:
        drained = self._dialer.drain()
        if self._dialer.live:
            self.log.info(
                "{live} calls are running; they have {seconds} s to finish",
                live=self._dialer.live,
                seconds=self._settings.calls.drain_timeout,
            )
        late = self._reactor.callLater(self._settings.calls.drain_timeout, self._hang_up)
        await self._either(drained, self._out_of_time)
        if late.active():
            late.cancel()

    def _hang_up(self) -> None:
        """End the running calls; who does not confirm it soon is left to the next start, which has them on disk."""
        if self._started and not self._hanging_up:
            self._hanging_up = True
            self._dialer.hang_up_all()
            self._in(GOODBYES).chainDeferred(self._out_of_time)

    def _in(self, seconds: float) -> Deferred[None]:
        return deferLater(self._reactor, seconds)

    async def _either(self, first: Deferred[None], second: Deferred[None]) -> None:
        await DeferredList([first, second], fireOnOneCallback=True, fireOnOneErrback=True)


def tune_collector() -> None:
    """Look for cyclic garbage seldom, since each look walks what waits: calls leave none, only mishaps do."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 10, 5)


def _nothing() -> None:
    pass


async def _maybe(result: Any) -> None:
    if isinstance(result, Deferred):
        await result


def codecs(trunks: Sequence[TrunkSettings]) -> set[str]:
    """Return what any trunk wants audio to be encoded in."""
    return {codec for trunk in trunks for codec in trunk.codecs}


def reasons(trunks: Sequence[TrunkSettings]) -> dict[str, Mapping[str, int]]:
    """Return what each trunk means by a SIP status, by the trunk's name."""
    return {trunk.name: trunk.reasons for trunk in trunks}


def changed_settings(old: Settings, new: Settings) -> list[str]:
    """Return the names of the settings that differ, such as "http.listen"; a list of tables is one setting."""
    names = []
    for field in attrs.fields(Settings):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before != after and attrs.has(type(before)):
            parts = attrs.fields(type(before))
            names += [
                f"{field.name}.{each.name}" for each in parts if getattr(before, each.name) != getattr(after, each.name)
            ]
        elif before != after:
            names.append(field.name)
    return names


def simulator_trunk(host: str, port: int) -> TrunkSettings:
    """Return the built-in carrier as a trunk like any other."""
    username, password = CREDENTIALS
    return TrunkSettings(
        name="simulator",
        host=host,
        port=port,
        username=username,
        password=password,
        channels=1000,
        calls_per_second=200.0,
    )


def with_passwords(
    trunks: Sequence[TrunkSettings], *, environment: Mapping[str, str] = os.environ
) -> tuple[TrunkSettings, ...]:
    """Read each trunk's password_file, where it has one. Raises StartFailed with all that can't be read."""
    wrong = Wrong()
    read = list(trunks)
    for index, trunk in enumerate(trunks):
        with wrong:
            read[index] = with_password(trunk, environment=environment)
    if wrong.lines:
        raise StartFailed("\n".join(wrong.lines))
    return tuple(read)


def with_password(trunk: TrunkSettings, *, environment: Mapping[str, str] = os.environ) -> TrunkSettings:
    """Read the trunk's password_file, where it has one. Raises StartFailed."""
    if trunk.password_file is None:
        return trunk
    path = Path(environment.get("CREDENTIALS_DIRECTORY", ".")) / trunk.password_file
    try:
        return attrs.evolve(trunk, password=path.read_text().strip(), password_file=None)
    except OSError as error:
        raise StartFailed(f"trunks: {trunk.name}: password_file {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StartFailed(f"trunks: {trunk.name}: password_file {path} is not text in UTF-8") from None


def read_signer(settings: Stir, *, environment: Mapping[str, str] = os.environ) -> Signer | None:
    """Return what signs calls, None where [stir] has no key. Raises StartFailed."""
    if settings.private_key is None:
        return None
    try:
        return Signer(settings, folder=Path(environment.get("CREDENTIALS_DIRECTORY", ".")))
    except StirError as error:
        raise StartFailed(str(error)) from None


def read_pepper(data: Path, *, environment: Mapping[str, str] = os.environ) -> bytes:
    """Return the secret that keys the api keys: systemd's credential "pepper", else one kept below `data`.

    Raises StartFailed. A lost pepper makes every api key unknown, so it is never replaced.
    """
    credential = Path(environment.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / "pepper"
    path = credential if credential.exists() else data / "pepper"
    try:
        if not path.exists():
            _keep(path, secrets.token_bytes(32))
        pepper = path.read_bytes()
    except OSError as error:
        raise StartFailed(f"{path}: can't be read or made: {error.strerror}") from None
    if len(pepper) < 32:
        raise StartFailed(f"{path}: needs at least 32 octets; bring it back from a backup, or all api keys are unknown")
    return pepper


def _keep(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there, whatever happens to the power."""
    new = path.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
