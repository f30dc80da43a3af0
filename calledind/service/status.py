"""The figures of `calledin status`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from calledind.dialing.dialer import Dialer
from calledind.dialing.trunks import Health, Trunk
from calledind.net.media import Media
from calledind.net.registrations import Registrations
from calledind.observability.gauges import Figures, TrunkFigures
from calledind.sip.useragent import UserAgent


class Status:
    """How the daemon's parts are, for people and their scripts."""

    def __init__(
        self,
        *,
        simulator: bool,
        missing: Callable[[], str | None],
        draining: Callable[[], bool],
        dialer: Dialer,
        media: Media,
        registrations: Registrations,
        user_agent: UserAgent,
    ) -> None:
        """`missing` says what keeps calls from being made, if anything does; `draining` whether an operator does."""
        self._simulator = simulator
        self._missing = missing
        self._draining = draining
        self._dialer = dialer
        self._media = media
        self._registrations = registrations
        self._user_agent = user_agent

    def figures(self) -> Mapping[str, object]:
        return {
            "simulator": self._simulator,
            "ready": self._missing() or "yes",
            "draining": self._draining(),
            "queued": len(self._dialer),
            "live": self._dialer.live,
            "trunks": [self._trunk(trunk) for trunk in self._dialer.trunks],
            "media": self._media.figures,
            "sip": {"transactions_and_dialogs": len(self._user_agent)},
        }

    def present(self, *, now: float, callbacks: int, store_healthy: bool, nodes_alive: int) -> Figures:
        """Return what Prometheus wants to know. `now`: seconds since the epoch."""
        oldest = self._dialer.oldest
        return Figures(
            queued=len(self._dialer),
            oldest=None if oldest is None else max(0.0, now - oldest),
            live=self._dialer.live,
            callbacks=callbacks,
            ready=self._missing() is None,
            draining=self._draining(),
            store_healthy=store_healthy,
            nodes_alive=nodes_alive,
            trunks=[
                TrunkFigures(
                    name=trunk.name,
                    healthy=trunk.health is Health.CLOSED,
                    busy=trunk.busy,
                    channels=trunk.settings.channels,
                    calls_per_second=trunk.pace,
                    registered=not self._registrations.obstacle(trunk.settings)
                    if self._registrations.status(trunk.settings)
                    else None,
                )
                for trunk in self._dialer.trunks
            ],
            media=self._media.figures,
        )

    def _trunk(self, trunk: Trunk) -> Mapping[str, object]:
        status = {
            "name": trunk.name,
            "health": trunk.health.value,
            "busy": trunk.busy,
            "calls_per_second": round(trunk.pace, 2),
        }
        registration = self._registrations.status(trunk.settings)
        return {**status, "registration": registration} if registration else status
