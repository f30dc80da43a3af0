"""The page in the browser, put together and served."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from twisted.logger import Logger

import calledind
from calledind.admission import Admission
from calledind.api.admin import Admin
from calledind.keyring import Keyring
from calledind.model import Event
from calledind.page.access import Access
from calledind.page.face import Face, PageSite
from calledind.page.line import PhoneLine
from calledind.page.live import Live
from calledind.page.lookup import Lookup
from calledind.page.sound import Sound
from calledind.page.trial import Trial
from calledind.service.errors import StartFailed
from calledind.service.files import read_token
from calledind.service.ports import Ports
from calledind.settings.tables import Settings
from calledind.settings.values import parse_address
from calledind.simulator.carrier import Carrier
from calledind.store.interface import Store


class Page:
    """What is there for browsers."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        ports: Ports,
        *,
        store: Store,
        keyring: Keyring,
        now: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._ports = ports
        self._store = store
        self._keyring = keyring
        self._now = now
        self._phone: PhoneLine | None = None
        self._figures: Callable[[], Mapping[str, object]] = dict
        self._unsubscribe: Callable[[], None] = lambda: None
        self._live = Live(reactor, self._ask_figures, now)

    def listen(
        self,
        operators: Admin,
        figures: Callable[[], Mapping[str, object]],
        encodings: Callable[[str], Awaitable[Mapping[str, bytes]]],
        admission: Admission,
        carrier: Carrier | None,
        subscribe: Callable[[Callable[[Event], None]], Callable[[], None]],
    ) -> None:
        """Serve it. Raises StartFailed for a token that can't be read; where a port is taken, calls go on without."""
        settings = self._settings
        if not settings.page.listen:
            return
        self._figures = figures
        hosts = [*settings.page.hosts, *(parse_address(text)[0] for text in settings.page.listen)]
        access = Access(read_token(settings.page, settings.data), hosts, seconds=self._reactor.seconds)
        self._phone = None if carrier is None else PhoneLine(carrier.telephone)
        trial = Trial(
            admit=admission.admit,
            admit_for=admission.admit_for,
            store=self._store,
            keyring=self._keyring,
            now=self._now,
            tell=self._tell,
            speech=Path(str(files("calledind") / "simulator" / "speech.mp3")),
        )
        if carrier is not None:
            trial.url = _reached_at(settings)
        face = Face(
            access,
            admin=operators,
            live=self._live,
            sound=Sound(self._store, encodings),
            trial=trial,
            phone=self._phone,
            lookup=Lookup(self._store, self._now),
            facts=lambda: self._facts(carrier, trial),
        )
        try:
            self._ports.listen(settings.page.listen, PageSite(face, access, reactor=self._reactor))
        except StartFailed as error:
            self.log.warn("there is no page: {error}", error=str(error).removeprefix("http: "))
            return
        self._unsubscribe = subscribe(self._live.take)

    def stop(self) -> None:
        """Let go of the browsers that look."""
        self._unsubscribe()
        self._live.stop()
        if self._phone is not None:
            self._phone.stop()

    def _ask_figures(self) -> Mapping[str, object]:
        return self._figures()

    def _tell(self, told: Mapping[str, object]) -> None:
        if self._phone is not None:
            self._phone.tell(told)

    def _facts(self, carrier: Carrier | None, trial: Trial) -> Mapping[str, object]:
        http = self._settings.http
        return {
            "version": calledind.__version__,
            "api": [f"http://{each}" for each in http.listen] + [f"https://{each}" for each in http.tls_listen],
            "simulator": carrier is not None,
            "phone_calls": bool(trial.url),
        }


def _reached_at(settings: Settings) -> str:
    """Return where the daemon's own requests reach the page; empty where they may not go to this machine."""
    networks = [ipaddress.ip_network(text) for text in settings.audio.allow_networks]
    for text in settings.page.listen:
        address = ipaddress.ip_address(parse_address(text)[0])
        port_is_allowed = not settings.audio.allow_ports or parse_address(text)[1] in settings.audio.allow_ports
        if address.is_loopback and port_is_allowed and any(address in network for network in networks):
            return f"http://{text}"
    return ""
