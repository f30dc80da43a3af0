"""The composition root: the only module that knows all the others. It makes them, starts them and stops them.

Starting: store, audio, media, carrier or trunks, what the last process left behind, and at last the listeners;
then systemd is told. Stopping: no new work, running calls finish (bounded), outcomes are kept, everything closes.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import LoopingCall
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
from calledind.dialing.call import Surroundings
from calledind.dialing.dialer import Dialer
from calledind.dialing.trunks import Trunk
from calledind.keyring import Keyring
from calledind.model import Call, CallRecord, Cause, EndedBy, Ending, State
from calledind.net import systemd
from calledind.net.agent import GuardedAgent
from calledind.net.clock import Clock
from calledind.net.guard import Guard
from calledind.net.media import Media, NoMedia
from calledind.net.resolve import ThreadedResolver
from calledind.net.signalling import Signalling
from calledind.net.trace import SipTrace
from calledind.outcome import Settlement
from calledind.settings import Settings, SettingsError, parse_address
from calledind.settings import Trunk as TrunkSettings
from calledind.simulator.carrier import Carrier
from calledind.simulator.scenarios import CREDENTIALS
from calledind.sip.auth import Credentials
from calledind.store.embedded import EmbeddedStore
from calledind.store.interface import StoreUnavailable

EXIT_FAILED = 1
GOODBYES = 4.0
"Seconds that BYEs and CANCELs have to be confirmed when a drain has run out of time."


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
"What can go wrong at a start without a fault of ours."


class Daemon(Service):
    """The whole of calledin."""

    log = Logger()

    def __init__(self, reactor: Any, settings: Settings, *, reload: Callable[[], Settings]) -> None:
        self._reactor = reactor
        self._settings = settings
        self._reload = reload
        self._now = Clock().now
        self._ports: list[Any] = []
        self._contexts: list[tls.ServerContext] = []
        self._watchdog: LoopingCall | None = None
        self._stopping = ""
        "Why no work is taken; empty while it is."
        self._started = False
        self._carrier: Carrier | None = None

    # starting

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._reactor.callWhenRunning(self._handle_signals)
        started = Deferred.fromCoroutine(self._start())
        started.addErrback(self._not_started)

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
        self._reactor.stop()

    def _not_started(self, failure: Failure) -> None:
        if failure.check(*EXPECTED):  # type: ignore[no-untyped-call]
            self.log.critical("calledin can't start: {error}", error=failure.getErrorMessage())
        else:
            self.log.failure("calledin can't start", failure)
        self._stopping = self._stopping or "the start has failed"
        self._reactor.addSystemEventTrigger("after", "shutdown", os._exit, EXIT_FAILED)
        self._reactor.stop()

    async def _start(self) -> None:
        self._make()
        await self._store.open()
        await self._library.start()
        await self._media.start()
        if self._settings.simulator:
            assert self._carrier is not None
            host, port = await self._carrier.start()
            trunks: tuple[TrunkSettings, ...] = (simulator_trunk(host, port),)
        else:
            trunks = tuple(with_password(trunk) for trunk in self._settings.trunks)
        self._signalling.start(trunks)
        self._dial(trunks)
        await self._callbacks.start()
        await self._recover()
        self._dialer.start()
        self._listen()
        self._started = True
        systemd.notify("READY=1")
        self._feed_watchdog()
        self._say_hello(trunks)

    def _make(self) -> None:
        settings, reactor = self._settings, self._reactor
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._keyring = Keyring(read_pepper(settings.data))
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
        )
        self._callbacks = CallbackSender(reactor, telling, self._store, self._keyring, settings.callbacks, self._now)
        self._media = Media(reactor, settings.rtp)
        self._trace = SipTrace(self._now)
        self._signalling = Signalling(reactor, settings.sip, self._resolver, trace=self._trace.take)
        if settings.simulator:
            recordings = settings.simulation.recordings or settings.data / "recordings"
            self._carrier = Carrier(reactor, recordings=recordings)

    def _dial(self, trunks: tuple[TrunkSettings, ...]) -> None:
        settings = self._settings
        self._settlement = Settlement(
            store=self._store,
            timers=self._reactor,
            trunk_reasons={trunk.name: trunk.reasons for trunk in trunks},
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
                locate=self._signalling.locate,
                local_host=self._signalling.local_host,
                now=self._now,
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
            accepted=self._dialer.add,
            obstacle=self._obstacle,
            now=self._now,
        )

    def _probe(self, trunk: Trunk, report: Callable[[int | None], None]) -> None:
        self._signalling.probe(trunk.settings, report)

    def _obstacle(self) -> Unavailable | None:
        if self._stopping:
            return Unavailable(self._stopping, 10)
        if not self._started:
            return Unavailable("calledin is starting", 1)
        if len(self._dialer) >= self._settings.calls.max_queued:
            return Unavailable("too many calls are waiting to be dialled", 10)
        return None

    def _missing(self) -> str | None:
        """Say what keeps calls from being made; None when nothing does."""
        obstacle = self._obstacle()
        if obstacle is not None:
            return obstacle.words
        if not self._store.healthy():
            return "the store can't keep changes"
        return None if self._media.healthy() else "no media process is running"

    # what the last process left behind

    async def _recover(self) -> None:
        """Take up each unfinished call where it was left; no attempt that may have left the machine is repeated."""
        records = await self._store.unfinished()
        for record in records:
            self._pin(record.call)
            match record.state:
                case State.ACCEPTED:
                    self._take_up(record.call)
                case State.DIALING:
                    self._cancel(record)
                case _:
                    self._hang_up_dialog(record)
        if records:
            self.log.info("{count} calls of the process before were taken up", count=len(records))

    def _pin(self, call: Call) -> None:
        try:
            self._library.pin(call.audio)
        except KeyError:
            self.log.error("call {call}: its audio is not in the library any more", call=call.id)

    def _take_up(self, call: Call) -> None:
        if self._now() - call.accepted_at > self._settings.calls.queue_ttl:
            ending = Ending(Cause.EXPIRED, False, EndedBy.US, self._now(), detail="calledin was not running in time")
            self._settlement.end(call, ending)
        elif not self._library.path(call.audio, "PCMU").exists():
            ending = Ending(Cause.MEDIA_FAILED, False, EndedBy.US, self._now(), detail="its audio is gone")
            self._settlement.end(call, ending)
        else:
            self._dialer.add(call)

    def _cancel(self, record: CallRecord) -> None:
        assert record.attempt is not None
        try:
            self._signalling.user_agent.recover_invitation(record.attempt.invitation, _nothing)
        except (ValueError, OSError) as error:
            self.log.error("call {call} can't be cancelled: {error}", call=record.call.id, error=error)
        self._interrupted(record, answered=False)

    def _hang_up_dialog(self, record: CallRecord) -> None:
        assert record.dialog is not None
        try:
            self._signalling.user_agent.recover_dialog(record.dialog, _nothing, self._credentials(record))
        except (ValueError, OSError) as error:
            self.log.error("call {call} can't be hung up: {error}", call=record.call.id, error=error)
        self._interrupted(record, answered=True)

    def _credentials(self, record: CallRecord) -> Credentials | None:
        for trunk in self._dialer.trunks:
            if record.attempt is not None and trunk.name == record.attempt.trunk and trunk.settings.username:
                return Credentials(trunk.settings.username, trunk.settings.password)
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
            self._open(text, lambda port, host: self._reactor.listenTCP(port, site, interface=host))
        if settings.tls_listen:
            context = self._context()
            self._contexts.append(context)
            for text in settings.tls_listen:
                self._open(text, lambda port, host: self._reactor.listenSSL(port, site, context, interface=host))
        operators = admin.Admin(
            reactor=self._reactor,
            store=self._store,
            keyring=self._keyring,
            now=self._now,
            status=self._status,
            extra={b"recordings": self._recordings, b"scenarios": self._scenarios},
            trace=self._trace.show,
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

    def _context(self) -> tls.ServerContext:
        settings = self._settings.http
        certificate, key = settings.certificate, settings.private_key
        if certificate is None or key is None:
            certificate, key = tls.self_signed(self._settings.data / "tls", self._now())
            self.log.warn("HTTPS has no certificate of yours: {path} is self-signed", path=str(certificate))
        return tls.ServerContext(certificate, key)

    def _status(self) -> Mapping[str, object]:
        return {
            "simulator": self._settings.simulator,
            "ready": self._missing() or "yes",
            "queued": len(self._dialer),
            "live": self._dialer.live,
            "trunks": [
                {"name": trunk.name, "health": trunk.health.value, "busy": trunk.busy} for trunk in self._dialer.trunks
            ],
            "media": self._media.figures,
        }

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

    def _say_hello(self, trunks: tuple[TrunkSettings, ...]) -> None:
        if self._settings.simulator:
            self.log.warn("the built-in carrier takes all calls (simulator): nobody's phone rings")
        else:
            self.log.info("trunks: {names}", names=", ".join(trunk.name for trunk in trunks))
        self.log.info(
            "calledin is ready: {addresses}",
            addresses=", ".join(
                [f"http://{each}" for each in self._settings.http.listen]
                + [f"https://{each}" for each in self._settings.http.tls_listen]
            ),
        )

    # SIGHUP

    def _read_again(self) -> None:
        """Take what can change while calls are up: certificates. The rest of the file is checked, and told about."""
        systemd.notify("RELOADING=1")
        try:
            settings = self._reload()
            for context in self._contexts:
                context.reload()
        except (SettingsError, tls.CertificateError) as error:
            self.log.error("the reload is left out, all stays as it was: {error}", error=str(error))
        else:
            self._apply(settings)
        systemd.notify("READY=1")

    def _apply(self, settings: Settings) -> None:
        changed = [name for name in ("regions", "calls", "trunks") if _differs(self._settings, settings, name)]
        self.log.info("certificates were read again; settings {changed}", changed=", ".join(changed) or "are the same")

    # stopping

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        self._stopping = self._stopping or "calledin is shutting down"
        systemd.notify("STOPPING=1")
        return Deferred.fromCoroutine(self._stop()).addErrback(
            lambda failure: self.log.failure("calledin did not stop in good order", failure)
        )

    async def _stop(self) -> None:
        if self._started:
            await self._drain()
        for port in self._ports:
            await _maybe(port.stopListening())
        if self._started:
            await self._settlement.when_idle()
        if hasattr(self, "_store"):
            await self._callbacks.stop()
            self._signalling.stop()
            if self._carrier is not None:
                await self._carrier.stop()
            await self._media.stop()
            await self._library.stop()
            self._resolver.stop()
            await self._store.close()
        if self._watchdog is not None and self._watchdog.running:
            self._watchdog.stop()

    async def _drain(self) -> None:
        drained = self._dialer.drain()
        if self._dialer.live:
            self.log.info(
                "{live} calls are running; they have {seconds} s to finish",
                live=self._dialer.live,
                seconds=self._settings.calls.drain_timeout,
            )
        late = self._reactor.callLater(self._settings.calls.drain_timeout, self._hang_up)
        await drained
        if late.active():
            late.cancel()

    def _hang_up(self) -> None:
        self._dialer.hang_up_all()


def _nothing() -> None:
    pass


async def _maybe(result: Any) -> None:
    if isinstance(result, Deferred):
        await result


def _differs(old: Settings, new: Settings, name: str) -> bool:
    return bool(getattr(old, name) != getattr(new, name))


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


def with_password(trunk: TrunkSettings, *, environment: Mapping[str, str] = os.environ) -> TrunkSettings:
    """Read the trunk's password_file, where it has one. Raises StartFailed."""
    if trunk.password_file is None:
        return trunk
    path = Path(environment.get("CREDENTIALS_DIRECTORY", ".")) / trunk.password_file
    try:
        return attrs.evolve(trunk, password=path.read_text().strip(), password_file=None)
    except OSError as error:
        raise StartFailed(f"trunks: {trunk.name}: password_file {path} can't be read: {error.strerror}") from None


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
