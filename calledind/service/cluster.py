"""What a daemon has that shares its store with other nodes, and one alone has not."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

import calledind
from calledind.audio.library import Library
from calledind.audio.shared import SharedAudio
from calledind.dialing.dialer import Ended
from calledind.dialing.shared import SharedDialer
from calledind.dialing.surroundings import Surroundings
from calledind.dialing.trunks import Probe
from calledind.model import Call
from calledind.net.tls import TlsError, redis_options
from calledind.service.errors import StartFailed
from calledind.service.nodes import Nodes
from calledind.settings.tables import Settings
from calledind.settings.tables import Trunk as TrunkSettings
from calledind.store.interface import Route

if TYPE_CHECKING:
    from calledind.store.redis import RedisStore

LATE = 600.0
"Seconds for which audio is kept in Redis after the last call that plays it can have waited in the queue."


def node_name(settings: Settings) -> str:
    """Return this node's name: the machine's where the settings have none."""
    return settings.node.name or socket.gethostname()


class Cluster:
    """The shared store, and what looks after it: made in three steps, as the rest of the daemon comes about."""

    log = Logger()
    dialer: SharedDialer

    def __init__(self, reactor: Any, settings: Settings, instance: str) -> None:
        """`instance`: what tells this data folder from others."""
        self._reactor = reactor
        self._settings = settings
        self._instance = instance
        self.name = node_name(settings)
        self._dialer: SharedDialer | None = None

    def make_store(self, library: Callable[[], Library], draining: Callable[[], bool]) -> RedisStore:
        """`library` is asked for later. Raises StartFailed."""
        from calledind.store.redis import RedisStore  # noqa: PLC0415 - a daemon alone has no use for any of it

        self._draining = draining
        settings = self._settings
        try:
            secure = redis_options(settings.redis)
        except TlsError as error:
            raise StartFailed(f"redis: {error}") from None
        self.store = RedisStore(
            self._reactor,
            settings.redis,
            node=self.name,
            lease=settings.node.lease,
            instance=self._instance,
            folder=settings.data / "store",
            route_of=self._route,
            encodings=lambda name: library().encodings(name),
            fresh_audio=settings.calls.queue_ttl + LATE,
            version=calledind.__version__,
            secure=secure,
        )
        self.nodes = Nodes(
            timers=self._reactor,
            store=self.store,
            name=self.name,
            lease=settings.node.lease,
            figures=self._figures,
        )
        return self.store

    async def check(self, fingerprint: str) -> None:
        """See whether this node can work with the others, once the store is open; from then on it beats.

        The rest of a start may take longer than a lease, on a machine that has much to do.

        `fingerprint`: of the pepper. Raises StartFailed, StoreUnavailable.
        """
        if await self.store.agree("pepper", fingerprint) != fingerprint:
            raise StartFailed(
                f"{self._settings.data / 'pepper'}: is not the pepper of the other nodes, and their api keys would be "
                "unknown here: copy their file, or give it to all as a credential"
            )
        self.nodes.beat()
        for line in await self.store.troubles(self._settings.redis.replicas, time.time()):
            self.log.error("{trouble}", trouble=line)

    def make_dialer(
        self,
        surroundings: Surroundings,
        trunks: Sequence[TrunkSettings],
        library: Library,
        *,
        probe: Probe,
        ended: Ended,
    ) -> SharedDialer:
        self.audio = SharedAudio(library, self.store, self._reactor.seconds)
        self.dialer = SharedDialer(
            replace(surroundings, may_dial=lambda: self.store.lease_left() > 0),
            trunks,
            probe=probe,
            ended=ended,
            store=self.store,
            audio=self.audio,
            alone=self.nodes.alone,
        )
        self._dialer = self.dialer
        return self.dialer

    def _route(self, call: Call) -> Route:
        return self.dialer.route(call)

    def _figures(self) -> Mapping[str, object]:
        dialer = self._dialer
        return {
            "live": 0 if dialer is None else dialer.live,
            "queued": 0 if dialer is None else dialer.own,
            "draining": self._draining(),
            "version": calledind.__version__,
        }
