# mypy: allow-untyped-calls
from __future__ import annotations

import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource

from calledind.api.site import Site
from calledind.service import ports as ports_module
from calledind.service.errors import StartFailed
from calledind.service.ports import Ports
from calledind.settings.tables import Http, Settings


class PortsTests(TestCase):
    def setUp(self) -> None:
        self.held = self.listen("127.0.0.1")
        self.address = f"127.0.0.1:{self.held.getsockname()[1]}"
        self.site = Site(Resource(), reactor=reactor)

    def listen(self, host: str, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        opened = socket.create_server((host, 0), family=family)
        opened.setblocking(False)
        self.addCleanup(opened.close)
        return opened

    def test_settings(self) -> None:
        """Inherited sockets stand in place of the addresses of the settings, each for what its name says."""
        https = self.listen("::1", socket.AF_INET6)
        settings = Settings(simulator=True, http=Http(listen=("0.0.0.0:1",), tls_listen=("0.0.0.0:2",)))
        changed = Ports(reactor, [("http", self.held)]).in_settings(settings)
        self.assertEqual((changed.http.listen, changed.http.tls_listen), ((self.address,), ("0.0.0.0:2",)))
        changed = Ports(reactor, [("", self.held), ("https", https)]).in_settings(settings)
        secure = f"[::1]:{https.getsockname()[1]}"
        self.assertEqual((changed.http.listen, changed.http.tls_listen), ((self.address,), (secure,)))
        self.assertEqual(Ports(reactor).in_settings(settings), settings)

    def test_unusable(self) -> None:
        """Sockets that mean nothing, or are of another kind, keep the daemon from starting, each with a line."""
        unix = socket.socket(socket.AF_UNIX)
        self.addCleanup(unix.close)
        ports = Ports(reactor, [("telnet", self.held), ("http", unix)])
        error = self.assertRaises(StartFailed, ports.listen, (self.address,), self.site)
        self.assertEqual(len(str(error).splitlines()), 2)

    async def test_hand_over(self) -> None:
        """Who connects before or after our time waits, and is there for whoever holds the socket."""
        ports = Ports(reactor, [("http", self.held)])
        self.assertTrue(ports.outlive_us)
        ports.listen((self.address,), self.site)
        with self.connect():
            await self.turns()
            self.assertEqual(self.site.connections, 0)
            ports.accept()
            await self.until(lambda: self.site.connections == 1)
        await self.until(lambda: self.site.connections == 0)
        ports.say_last()
        self.assertTrue(self.site.closing)
        await ports.hand_over(5.0)
        with self.connect():
            await self.turns()
            self.assertEqual(self.site.connections, 0)
            await ports.close()
            connection, _ = self.held.accept()
            connection.close()

    async def test_let_in(self) -> None:
        """Those who waited are let in some at a time; once nobody waits, or after a while, all are."""
        self.patch(ports_module, "ABREAST", 2)
        ports = Ports(reactor, [("http", self.held)])
        ports.listen((self.address,), self.site)
        clients = [self.connect() for _ in range(5)]
        ports.accept()
        self.assertEqual(self.site.connections, 2)
        self.assertGreater(self.site.lenient_until, 0)
        for client in clients:
            client.close()
        await self.until(lambda: ports._letting_in is not None and not ports._letting_in.active())
        await self.until(lambda: self.site.connections == 0)
        await ports.close()

    async def test_own_port(self) -> None:
        """A port that nobody keeps is closed when the others are handed over: nobody would be there to accept."""
        ports = Ports(reactor, [("http", self.held)])
        ports.listen((self.address,), self.site)
        own: Any = reactor.listenTCP(0, Site(Resource(), reactor=reactor), interface="127.0.0.1")  # type: ignore[arg-type]
        ports._open.append(own)
        await ports.hand_over(5.0)
        self.assertFalse(own.connected)
        await ports.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.held.getsockname())

    async def turns(self) -> None:
        for _ in range(5):
            pause: Deferred[None] = deferLater(reactor, 0)
            await pause

    async def until(self, ready: Any) -> None:
        while not ready():
            await self.turns()
