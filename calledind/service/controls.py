"""What an operator may do to the parts of the daemon, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import Deferred, fail

from calledind.admission import Admission
from calledind.api.operator_control import Controls
from calledind.audio.library import Library
from calledind.callback import CallbackSender
from calledind.dialing.dialer import Dialer
from calledind.dialing.trunks import Trunk
from calledind.model import Address
from calledind.net.registrations import Registrations
from calledind.net.signalling import Signalling
from calledind.net.trace import SipTrace
from calledind.service.reload import InForce, Reload


class Levers:
    """Makes `Controls` of the daemon's parts."""

    def __init__(
        self,
        *,
        in_force: InForce,
        admission: Admission,
        library: Library,
        trace: SipTrace,
        dialer: Dialer,
        signalling: Signalling,
        registrations: Registrations,
        callbacks: CallbackSender,
        reload: Reload,
    ) -> None:
        self._in_force = in_force
        self._dialer = dialer
        self._signalling = signalling
        self._registrations = registrations
        self.controls = Controls(
            admit=admission.admit_for,
            take_mp3=library.take,
            messages=trace.messages,
            trunks=self._trunks,
            locate=self._locate,
            options=self._options,
            callbacks=callbacks.show,
            deliver=callbacks.again,
            reload=reload.read_again,
            facts=self._facts,
        )

    def _trunks(self) -> Sequence[Mapping[str, object]]:
        return [self._trunk(trunk) for trunk in self._dialer.trunks]

    def _trunk(self, trunk: Trunk) -> Mapping[str, object]:
        settings = trunk.settings
        return {
            "name": trunk.name,
            "host": settings.host,
            "port": settings.port,
            "outbound_proxy": settings.outbound_proxy,
            "transport": settings.transport,
            "prefixes": settings.prefixes,
            "priority": settings.priority,
            "health": trunk.health.value,
            "busy": trunk.busy,
            "channels": settings.channels,
            "calls_per_second": round(trunk.pace, 2),
            "most_calls_per_second": settings.calls_per_second,
            "register": settings.register,
            "registration": self._registrations.status(settings),
            "advertise": settings.advertise or self._in_force.settings.sip.advertise,
            "seen_as": self._signalling.seen_by(trunk.name),
        }

    def _find(self, name: str) -> Trunk:
        if name not in self._dialer.trunks:
            raise OSError(f"there is no trunk {name}")
        return self._dialer.trunks[name]

    def _locate(self, name: str) -> Deferred[Address]:
        try:
            return self._signalling.locate(self._registrations.way(self._find(name).settings))
        except OSError as error:
            return fail(error)

    def _options(self, name: str, target: Address, report: Callable[[int | None], None]) -> None:
        self._signalling.options(self._registrations.way(self._find(name).settings), target, report)

    def _facts(self) -> Mapping[str, object]:
        settings = self._in_force.settings
        return {
            "data": str(settings.data.absolute()),
            "simulator": settings.simulator,
            "allow_networks": settings.audio.allow_networks,
            "home_country": settings.calls.home_country,
            "http": settings.http.listen,
            "https": settings.http.tls_listen,
            "sip": settings.sip.bind,
        }
