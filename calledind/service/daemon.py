"""What is made of what, and in which order it starts and stops.

Starting: store, audio, media, carrier or trunks, the listeners (which say 503 for now), and when nothing can go
wrong any more, what the last process left behind; then systemd is told. Stopping: no new work, running calls finish
(bounded), outcomes are kept, everything closes.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.admission import Admission, Unavailable
from calledind.api import admin, tls, v1_batches
from calledind.api.answers import Folder
from calledind.api.health import Alive, Ready
from calledind.api.help import Help
from calledind.api.openapi import OpenApi
from calledind.api.operator_calls import OperatorCalls
from calledind.api.operator_control import Control
from calledind.api.operator_metrics import Readings
from calledind.api.playback import Playback
from calledind.api.problem import Problems
from calledind.api.site import Site
from calledind.api.v1 import OPENING, V1, Parts
from calledind.audio.decode import Decoder
from calledind.audio.errors import LibraryUnavailable
from calledind.audio.fetch import Fetcher
from calledind.audio.library import Library
from calledind.batches.batches import Batches
from calledind.batches.files import Files as BatchFiles
from calledind.callback import CallbackSender
from calledind.dialing.dialer import Dialer
from calledind.dialing.media_log import MediaLog
from calledind.dialing.surroundings import Surroundings
from calledind.dialing.trunks import Trunk
from calledind.keyring import Keyring
from calledind.model import Address, Call, EndedBy
from calledind.net import systemd
from calledind.net.agent import GuardedAgent
from calledind.net.clock import Clock
from calledind.net.guard import Guard
from calledind.net.media import Media
from calledind.net.registrations import Registrations
from calledind.net.resolve import ThreadedResolver
from calledind.net.signalling import Signalling
from calledind.net.strain import Strain
from calledind.net.trace import SipTrace
from calledind.observability.cdr import Media as CallMedia
from calledind.observability.gauges import Figures
from calledind.outcome import Settlement
from calledind.service.cluster import Cluster, node_name
from calledind.service.controls import Levers
from calledind.service.errors import EXPECTED, StartFailed
from calledind.service.events import Events
from calledind.service.files import read_files, read_instance, read_pepper
from calledind.service.hangup import HangUp
from calledind.service.observation import Observation, both
from calledind.service.page import Page
from calledind.service.ports import Ports
from calledind.service.recovery import Interrupted, Recovery
from calledind.service.reload import InForce, Reload, codecs, reasons
from calledind.service.retention import Retention
from calledind.service.status import Status
from calledind.settings.tables import Settings
from calledind.settings.tables import Trunk as TrunkSettings
from calledind.simulator.carrier import Carrier
from calledind.simulator.scenarios import CREDENTIALS
from calledind.store.backup import Backup
from calledind.store.embedded import EmbeddedStore
from calledind.store.interface import Store, StoreUnavailable
from calledind.store.worker import Worker

EXIT_FAILED = 1
TRIES, AGAIN = 10, 0.5
"How often a start asks a shared store for the same before it fails, and seconds between."
GOODBYES = 4.0
"Seconds that BYEs and CANCELs have to be confirmed when calls are hung up, and the last outcomes to be kept."

LAST_ANSWERS = 15.0
"Seconds that requests have to be answered (an MP3 may be fetched for one) when no more are accepted."


class Daemon(Service):
    """The whole of calledin."""

    log = Logger()

    def __init__(self, reactor: Any, settings: Settings, *, load: Callable[[], Settings]) -> None:
        """`load` reads the settings again."""
        self._reactor = reactor
        self._ports = Ports(reactor, systemd.listening_sockets())
        self._in_force = InForce(self._ports.in_settings(settings))
        self._load = lambda: self._ports.in_settings(load())
        self._now = Clock().now
        self._watchdog: LoopingCall | None = None
        self._strain = Strain(reactor)
        self._stopping = ""
        "Why no work is taken; empty while it is."
        self._handing_over = False
        "Stopping, but work is taken that the next process will dial: systemd holds the sockets and starts it."
        self._started = False
        self._starting: Deferred[None] = succeed(None)
        self._out_of_time: Deferred[None] = Deferred()
        "Fires when calls that were hung up had their time to say goodbye."
        self._opened = False
        self._hanging_up = False
        self._drained = False
        "By an operator, who may take it back."
        self._cluster: Cluster | None = None
        "Where the store is shared with other nodes."
        self._carrier: Carrier | None = None
        self._observation = Observation(reactor, settings, self._now, node=node_name(settings))

    # starting

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        # A reactor that does not run yet could not be stopped by a start that fails.
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        self._handle_signals()
        self._starting = Deferred.fromCoroutine(self._start()).addErrback(self._not_started)

    def _not_started(self, failure: Failure) -> None:
        if failure.check(*EXPECTED):  # type: ignore[no-untyped-call]
            for line in failure.getErrorMessage().splitlines():
                self.log.critical("calledin can't start: {line}", line=line)
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
        if self._cluster is not None:
            await self._insist(partial(self._cluster.check, self._keyring.fingerprint()))
        await self._library.start()
        await self._media.start()
        if self._carrier is not None:
            self._in_force.trunks = (simulator_trunk(*await self._carrier.start()),)
        self._signalling.start(self._in_force.trunks)
        self._dial()
        self._listen()
        if self._stopping:
            return
        self._registrations.use_trunks(self._in_force.trunks)
        if self._cluster is None:
            await self._callbacks.start()
            await self._recovery().run()
        else:
            nodes = self._cluster.nodes
            await self._insist(partial(self._interrupted.hang_up_open, self._cluster.store))
            await self._insist(self._callbacks.start)
            await self._insist(partial(nodes.start, self._cluster.dialer, self._callbacks, self._interrupted.end))
        self._dialer.start()
        self._retention.start()
        self._started = True
        await self._batches.start(self._admission.admit_for_key)
        self._ports.accept()
        tune_collector()
        systemd.notify("READY=1")
        self._feed_watchdog()
        self._strain.start()
        self._say_hello()

    async def _insist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do what needs a store elsewhere, which may be late once in a while. Raises StoreUnavailable."""
        for _ in range(TRIES):
            with suppress(StoreUnavailable):
                await work()
                return
            await self._in(AGAIN)
        await work()

    def _make(self) -> None:
        settings, reactor = self._in_force.settings, self._reactor
        try:
            settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartFailed(f"data: the folder {settings.data} can't be made: {error.strerror}") from None
        pepper = read_pepper(settings.data)
        self._keyring = Keyring(pepper)
        self._in_force.signer, self._in_force.trunks, context = read_files(settings, self._now())
        self._in_force.context = None if context is None else tls.ServerContext(context)
        self._store: Store
        if settings.store.kind == "redis":
            self._cluster = Cluster(reactor, settings, read_instance(settings.data))
            self._store = self._cluster.make_store(lambda: self._library, lambda: self._drained)
        else:
            self._store = EmbeddedStore(reactor, settings.data / "store")
        files = Worker(reactor, "calledin batches")
        self._batches = Batches(reactor, files, settings.data / "batches", store=self._store, now=self._now)
        self._retention = Retention(
            reactor=reactor,
            store=self._store,
            days=settings.store.retention,
            now=self._now,
            forget=self._batches.forget,
        )
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
            self._observation.fetches(Fetcher(reactor, fetching, settings.audio)),
            self._observation.decodes(Decoder(reactor, settings.audio)),
            self._now,
            codecs=codecs(settings.trunks),
        )
        self._backup = Backup(
            reactor,
            settings.data / "backup",
            copy=self._store.copy_into,
            audio=self._encodings,
            pepper=pepper,
            store=settings.store.kind,
            batches=BatchFiles(settings.data / "batches").all,
            now=self._now,
        )
        self._events = Events(self._now)
        self._callbacks = CallbackSender(
            reactor,
            telling,
            self._store,
            self._keyring,
            settings.callbacks,
            self._now,
            wall=time.time,
            tried=both(self._events.tried, self._observation.tried),
        )
        self._media = Media(reactor, settings.rtp)
        self._trace = SipTrace(self._now)
        self._media_log = MediaLog()
        self._page = Page(reactor, settings, self._ports, store=self._store, keyring=self._keyring, now=self._now)
        trace = self._observation.trace(self._trace.take, self._ours)
        self._signalling = Signalling(reactor, settings.sip, self._resolver, trace=trace)
        user_agent = self._signalling.user_agent
        self._registrations = Registrations(
            user_agent, self._signalling, routed=self._route, trunk_changed=self._events.trunk
        )
        self._signalling.moved = self._registrations.check_addresses
        if settings.simulator:
            recordings = settings.simulation.recordings or settings.data / "recordings"
            self._carrier = Carrier(reactor, recordings=recordings)

    def _dial(self) -> None:
        settings, trunks, cluster = self._in_force.settings, self._in_force.trunks, self._cluster
        self._settlement = Settlement(
            store=self._observation.store(self._store),
            timers=self._reactor,
            trunk_reasons=reasons(trunks),
            charge_accepted=settings.calls.charge == "accepted",
            settled=self._callbacks.add,
            released=self._let_go,
            ended=both(self._events.ended, self._observation.ended),
        )
        surroundings = Surroundings(
            store=self._store,
            user_agent=self._signalling.user_agent,
            media=self._media,
            timers=self._reactor,
            settings=settings.calls,
            audio_path=self._library.path,
            audio_codecs=self._library.codecs,
            media_closed=both(self._media_log.take, self._observation.media),
            targets=self._registrations,
            local_host=self._signalling.local_host,
            now=self._now,
            sign=self._sign,
            reached=both(self._events.reached, self._observation.reached),
            trunk_changed=self._events.trunk,
        )
        self._dialer: Dialer
        if cluster is None:
            self._dialer = Dialer(surroundings, trunks, probe=self._probe, ended=self._settlement.end)
            accepted = self._dialer.add
        else:
            self._dialer = cluster.make_dialer(
                surroundings, trunks, self._library, probe=self._probe, ended=self._settlement.end
            )
            accepted = cluster.dialer.accepted

        def begin(call: Call) -> None:
            self._events.accepted(call)
            accepted(call)

        self._hangup = HangUp(
            timers=self._reactor,
            store=self._store,
            dialer=self._dialer,
            shared=None if cluster is None else cluster.store,
        )
        if cluster is not None:
            cluster.store.hang_up = self._hangup.asked
        self._interrupted = Interrupted(
            user_agent=self._signalling.user_agent,
            settlement=self._settlement,
            trunks=lambda: self._in_force.trunks,
            now=self._now,
        )
        self._admission = Admission(
            store=self._observation.store(self._store),
            keyring=self._keyring,
            library=self._library,
            regions=settings.regions,
            calls=settings.calls,
            accepted=begin,
            obstacle=self._obstacle,
            now=self._now,
            most_waiting=max(1, settings.http.max_requests_in_flight // 2),
            decided=self._observation.decided,
            check_is_cheap=cluster is None,
        )
        self._reload = Reload(
            self._in_force,
            self._load,
            signalling=self._signalling,
            registrations=self._registrations,
            settlement=self._settlement,
            library=self._library,
            admission=self._admission,
            dialer=self._dialer,
            routed=self._route,
            now=self._now,
        )

    async def _encodings(self, name: str) -> Mapping[str, bytes]:
        """Read the audio of a call from the library here, or else from where all nodes keep it."""
        found = await self._library.encodings(name)
        return found if found or self._cluster is None else await self._cluster.store.find_audio(name)

    def _let_go(self, call: Call) -> None:
        """A call is over: its audio may go."""
        if self._cluster is None:
            self._library.unpin(call.audio)
        else:
            self._cluster.audio.let_go(call)

    def _recovery(self) -> Recovery:
        return Recovery(
            store=self._store,
            library=self._library,
            settlement=self._settlement,
            interrupted=self._interrupted,
            queue_ttl=self._in_force.settings.calls.queue_ttl,
            dial=self._dialer.add,
            now=self._now,
        )

    def _ours(self, other: Address) -> Address:
        return self._signalling.local_address(other)

    def _sign(self, call: Call, number: str) -> Sequence[tuple[str, str]]:
        signer = self._in_force.signer
        if signer is None:
            return ()
        return signer.headers(
            attestation=call.attestation,
            caller=number,
            callee=call.country_code + call.phone_number,
            key_id=call.key_id,
            # The carrier compares it with the time of its own clock, a minute more or less (RFC 8224 §4).
            now=time.time(),
        )

    def _route(self) -> None:
        """A registrar has said by which way it wants its calls."""
        self._signalling.use_trunks((*self._in_force.trunks, *self._registrations.by_route))

    def _probe(self, trunk: Trunk, report: Callable[[int | None], None]) -> None:
        if self._registrations.obstacle(trunk.settings):
            report(None)
        else:
            self._signalling.probe(self._registrations.way(trunk.settings), report)

    def _obstacle(self) -> Unavailable | None:
        if self._stopping and not self._handing_over:
            return Unavailable(self._stopping, 10)
        if self._drained:
            return Unavailable("this node is drained", 10)
        if not self._started:
            return Unavailable("calledin is starting", 1)
        if len(self._dialer) >= self._in_force.settings.calls.max_queued:
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

    # the faces

    def _listen(self) -> None:
        settings, site = self._in_force.settings, self._site()
        self._ports.listen(settings.http.listen, site)
        if self._in_force.context is not None:
            self._ports.listen_tls(settings.http.tls_listen, site, self._in_force.context)
        status = Status(
            simulator=settings.simulator,
            missing=self._missing,
            draining=lambda: self._drained,
            dialer=self._dialer,
            media=self._media,
            registrations=self._registrations,
            user_agent=self._signalling.user_agent,
        )
        self._observation.start(lambda: self._present(status), self._resolver)
        operators = admin.Admin(
            reactor=self._reactor,
            store=self._store,
            keyring=self._keyring,
            now=self._now,
            status=status.figures,
            extra={b"recordings": self._recordings, b"scenarios": self._scenarios, b"nodes": self._nodes},
            drain=self._drain_for_operator,
            backup=self._backup,
            trace=self._trace.show,
            media=self._media_log.show,
            routes=(self._control().routes(), self._readings().routes(), self._operator_calls().routes()),
        )
        self._ports.listen_for_operators(settings.admin_socket, operators)
        admission, carrier = self._admission, self._carrier
        self._page.listen(operators, status.figures, self._encodings, admission, carrier, self._events.subscribe)

    def _present(self, status: Status) -> Figures:
        nodes = [{"state": "alive"}] if self._cluster is None else self._cluster.nodes.show()
        return status.present(
            now=self._now(),
            callbacks=len(self._callbacks),
            store_healthy=self._store.healthy(),
            nodes_alive=sum(each["state"] == "alive" for each in nodes),
        )

    def _readings(self) -> Readings:
        settings = self._in_force.settings

        def media(call_id: str) -> CallMedia | None:
            found = self._media_log.find(call_id)
            return None if found is None else CallMedia(found.codec, found.statistics)

        return Readings(
            self._observation.metrics.registry,
            self._store,
            node=node_name(settings),
            numbers=settings.cdr.numbers,
            media=media,
        )

    def _operator_calls(self) -> OperatorCalls:
        return OperatorCalls(
            reactor=self._reactor,
            store=self._store,
            hang_up=self._hangup.hang_up,
            subscribe=self._events.subscribe,
        )

    def _control(self) -> Control:
        levers = Levers(
            in_force=self._in_force,
            admission=self._admission,
            library=self._library,
            trace=self._trace,
            dialer=self._dialer,
            signalling=self._signalling,
            registrations=self._registrations,
            callbacks=self._callbacks,
            reload=self._reload,
        )
        return Control(levers.controls, reactor=self._reactor, store=self._store, keyring=self._keyring, now=self._now)

    def _site(self) -> Site:
        settings = self._in_force.settings
        root, api = Folder(), Folder()  # type: ignore[no-untyped-call]
        playback = Playback(
            self._admission.admit,
            trunk="simulator" if settings.simulator else "",
            max_in_flight=settings.http.max_requests_in_flight,
            turned_away=self._observation.decided,
        )
        parts = Parts(
            reactor=self._reactor,
            store=self._store,
            digest=self._keyring.digest,
            now=self._now,
            admission=self._admission,
            hang_up=partial(self._hangup.hang_up, by=EndedBy.CUSTOMER),
            subscribe=self._events.subscribe,
            media=self._media_log.show,
            batches=self._batches,
            is_shared=self._cluster is not None,
        )
        root.putChild(b"api", api)
        api.putChild(b"v1", V1(parts))
        root.putChild(b"openapi.json", OpenApi())
        root.putChild(b"problems", Problems())  # type: ignore[no-untyped-call]
        api.putChild(b"playback", playback)
        root.putChild(b"help", Help())  # type: ignore[no-untyped-call]
        root.putChild(b"healthz", Alive(simulator=settings.simulator))
        root.putChild(b"readyz", Ready(self._missing))
        root.putChild(b"metrics", self._observation.exposition())
        return Site(
            root,
            reactor=self._reactor,
            max_connections=settings.http.max_connections,
            max_connections_per_address=settings.http.max_connections_per_address,
            openings=(v1_batches.OPENING, OPENING),
        )

    def _recordings(self) -> object:
        return [] if self._carrier is None else self._carrier.recordings()

    def _scenarios(self) -> object:
        return [] if self._carrier is None else self._carrier.scenarios()

    def _nodes(self) -> object:
        if self._cluster is not None:
            return self._cluster.nodes.show()
        return [{"name": node_name(self._in_force.settings), "state": "alive", "here": True, **self._figures()}]

    def _figures(self) -> Mapping[str, object]:
        return {"live": self._dialer.live, "queued": len(self._dialer), "draining": self._drained}

    def _drain_for_operator(self, wanted: bool) -> Mapping[str, object]:
        """Take no more work and dial no more, or do so again."""
        if wanted and not self._drained and not self._stopping:
            self.log.info("an operator drains this node: no new work, the queue is left alone; running calls finish")
            self._drained = True
            self._dialer.drain()
        elif not wanted and self._drained and not self._stopping:
            self.log.info("this node takes work again")
            self._drained = False
            self._dialer.resume()
        return self._figures()

    def _feed_watchdog(self) -> None:
        interval = systemd.watchdog_interval()
        if interval is not None:
            self._watchdog = LoopingCall(systemd.notify, "WATCHDOG=1")
            self._watchdog.clock = self._reactor
            self._watchdog.start(interval)

    def _say_hello(self) -> None:
        if self._in_force.settings.simulator:
            self.log.warn("the built-in carrier takes all calls (simulator): nobody's phone rings")
        else:
            self.log.info("trunks: {names}", names=", ".join(trunk.name for trunk in self._in_force.trunks))
        self.log.info(
            "calledin is ready: {addresses}",
            addresses=", ".join(
                [f"http://{each}" for each in self._in_force.settings.http.listen]
                + [f"https://{each}" for each in self._in_force.settings.http.tls_listen]
            ),
        )

    # signals

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
        if self._started and self._ports.outlive_us and self._in_force.settings.http.accept_while_draining:
            self.log.info("requests are taken until the last call has ended; the next start dials what they ask for")
            self._handing_over = True
            self._ports.say_last()
        self._reactor.stop()

    def _read_again(self) -> None:
        if not self._started or self._stopping:
            self.log.warn("not now: calledin is starting or stopping, the settings are not read again")
            return
        systemd.notify("RELOADING=1")
        self._observation.reopen()
        try:
            self._reload.read_again()
        except Exception:  # noqa: BLE001 - systemd must hear that it is over, whatever went wrong
            self.log.failure("the reload met an error of our own; not all of the settings may be in force")
        systemd.notify("READY=1")

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
            self._batches.stop()
            await self._drain()
        if self._handing_over:
            await self._ports.hand_over(LAST_ANSWERS)
            self._handing_over = False
        if self._opened:
            self._page.stop()
        await self._ports.close()
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
            if self._cluster is not None:
                self._cluster.nodes.stop()
            self._retention.stop()
            await self._batches.close()
            await self._observation.stop()
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
                seconds=self._in_force.settings.calls.drain_timeout,
            )
        late = self._reactor.callLater(self._in_force.settings.calls.drain_timeout, self._hang_up)
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
