"""The ports that requests and operators come in by: opened here, or by systemd for us (socket activation).

A socket of systemd's outlives this process. So nobody is refused while another takes its place: who connects waits in
the socket's backlog, from when this process accepts no more until the next one does.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall
from twisted.protocols.tls import TLSMemoryBIOFactory

from calledind.api import admin, tls
from calledind.api.site import Site
from calledind.model import Address
from calledind.service.errors import StartFailed
from calledind.settings.tables import Settings
from calledind.settings.values import parse_address

BACKLOG = 1024
"Connections that wait to be accepted; one more waits for a second, until its client tries again."
LETTING_IN = 5.0
"Seconds at most in which those who waited are let in by and by."
ABREAST = 64
"Of those who waited, are let in until some are answered."
STEP = 0.01
"Seconds between two looks whether some are."
FACES = {
    "": ("http", "listen"),
    "http": ("http", "listen"),
    "https": ("http", "tls_listen"),
    "page": ("page", "listen"),
}
"Name of an inherited socket -> the table and the setting that it stands in for."


class Ports:
    """All that were opened, until they are closed.

    `inherited`: name and socket of each that systemd listens with for us.
    """

    def __init__(self, reactor: Any, inherited: Sequence[tuple[str, socket.socket]] = ()) -> None:
        self._reactor = reactor
        self._open: list[Any] = []
        self._adopted: list[Any] = []
        "Those of the open ones that somebody else keeps open."
        self._sites: list[Site] = []
        self._letting_in: IDelayedCall | None = None
        self._inherited: dict[Address, socket.socket] = {}
        self._addresses: dict[tuple[str, str], list[str]] = {}
        "Table and setting -> where the sockets listen that stand in for it."
        self._problems: list[str] = []
        for name, opened in inherited:
            self._sort(name, opened)

    @property
    def outlive_us(self) -> bool:
        """Whether somebody keeps the sockets, so that the next process may go on where this one ends."""
        return bool(self._inherited)

    def in_settings(self, settings: Settings) -> Settings:
        """Return settings that name the addresses of the inherited sockets in place of their own."""
        for (table, name), addresses in self._addresses.items():
            if hasattr(settings, table):
                changed = attrs.evolve(getattr(settings, table), **{name: tuple(addresses)})
                settings = attrs.evolve(settings, **{table: changed})
        return settings

    def listen(self, addresses: Sequence[str], site: Site) -> None:
        """HTTP at each "HOST:PORT"; inherited sockets accept nothing before `accept`. Raises StartFailed."""
        self._sites.append(site)
        for text in addresses:
            self._listen(text, site, lambda port, host: self._reactor.listenTCP(port, site, BACKLOG, host))

    def listen_tls(self, addresses: Sequence[str], site: Site, context: tls.ServerContext) -> None:
        """HTTPS at each "HOST:PORT", as `listen`. Raises StartFailed."""
        self._sites.append(site)
        over_tls = TLSMemoryBIOFactory(context, False, site)
        for text in addresses:
            self._listen(text, over_tls, lambda port, host: self._reactor.listenSSL(port, site, context, BACKLOG, host))

    def listen_for_operators(self, path: Path, operators: admin.Admin) -> None:
        """The socket at `path`, in a folder that is nobody else's. Raises SocketError and OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open.append(admin.listen(self._reactor, path, admin.admin_site(operators, reactor=self._reactor)))

    def accept(self) -> None:
        """Take the connections that waited for us, and then all others.

        Those may be hundreds, from one customer's server: at once, they would be more than any limit is made for.
        """
        until = self._reactor.seconds() + LETTING_IN
        for site in self._sites if self._adopted else ():
            site.lenient_until = until
        self._let_in(until)

    def _let_in(self, until: float) -> None:
        before, room = self._connections(), ABREAST - sum(site.busy for site in self._sites)
        if room > 0:
            for port in self._adopted:
                port.numberAccepts = room
                port.doRead()
        nobody_waits = room > 0 and self._connections() == before
        if nobody_waits or self._reactor.seconds() >= until:
            for port in self._adopted:
                port.startReading()
        else:
            self._letting_in = self._reactor.callLater(STEP, self._let_in, until)

    def _let_in_no_more(self) -> None:
        if self._letting_in is not None and self._letting_in.active():
            self._letting_in.cancel()

    def _connections(self) -> int:
        return sum(len(site.channels) for site in self._sites)

    def say_last(self) -> None:
        """Have every answer from now on be the last of its connection: the next request comes by a new one."""
        for site in self._sites:
            site.closing = True

    async def hand_over(self, seconds: float) -> None:
        """Accept no more, and close what nobody keeps; fires when all that were accepted are answered and gone.

        `seconds`: how long at most.
        """
        self._let_in_no_more()
        for port in self._adopted:
            port.stopReading()
        await self._close([port for port in self._open if port not in self._adopted])
        for site in self._sites:
            await site.finish(seconds)

    async def close(self) -> None:
        self._let_in_no_more()
        await self._close(self._open)

    async def _close(self, ports: Sequence[Any]) -> None:
        self._open = [port for port in self._open if port not in ports]
        for port in ports:
            await maybeDeferred(port.stopListening)

    def _listen(self, text: str, factory: Any, listen: Callable[[int, str], Any]) -> None:
        if self._problems:
            raise StartFailed("\n".join(self._problems))
        address = parse_address(text)
        opened = self._inherited.get(address)
        if opened is not None:
            port = self._reactor.adoptStreamPort(opened.fileno(), opened.family, factory)
            port.stopReading()
            self._adopted.append(port)
            self._open.append(port)
            return
        host, number = address
        try:
            self._open.append(listen(number, host))
        except CannotListenError as error:
            raise StartFailed(f"http: {text} can't be listened on: {error.socketError}") from None

    def _sort(self, name: str, opened: socket.socket) -> None:
        """Find out what an inherited socket is for."""
        known = ", ".join(filter(None, FACES))
        if name not in FACES:
            self._problems.append(f'the socket "{name}" of systemd\'s: write FileDescriptorName= with one of {known}')
        elif opened.family not in (socket.AF_INET, socket.AF_INET6) or opened.type != socket.SOCK_STREAM:
            self._problems.append(f'the socket "{name}" of systemd\'s: write ListenStream= with an address and a port')
        else:
            host, port = opened.getsockname()[:2]
            text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            self._inherited[parse_address(text)] = opened
            self._addresses.setdefault(FACES[name], []).append(text)
