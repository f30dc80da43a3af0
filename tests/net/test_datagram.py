"""The UDP socket of SIP, on the loopback."""

from __future__ import annotations

import errno
import socket

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from calledind.model import Address
from calledind.net.datagram import SipDatagram


class SipDatagramTests(TestCase):
    """Two sockets, or one and nobody on the other end."""

    def opened(self, host: str = "127.0.0.1") -> SipDatagram:
        self.received: Deferred[tuple[bytes, Address]] = Deferred()
        self.failed: Deferred[Address] = Deferred()
        opened = SipDatagram(lambda data, source: self.received.callback((data, source)), self.note_failure)
        opened.bind(reactor, (host, 0))
        self.addCleanup(opened.close)
        return opened

    def note_failure(self, target: Address) -> None:
        if not self.failed.called:
            self.failed.callback(target)

    def nobody(self) -> Address:
        """Return an address on which nobody listens."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            host, port = probe.getsockname()
            return host, port

    async def test_datagrams_arrive_with_their_source(self) -> None:
        """What one socket sends, the other hands up with the sender's address."""
        sender = self.opened()
        receiver = self.opened()
        sender.send(b"OPTIONS", receiver.address)
        self.assertEqual(await self.received, (b"OPTIONS", sender.address))

    async def test_icmp_errors_name_their_target(self) -> None:
        """A datagram to a port where nobody listens is reported with that address."""
        sender = self.opened()
        target = self.nobody()
        sender.send(b"OPTIONS", target)
        self.assertEqual(await self.failed, target)

    async def test_an_error_costs_nobody_else_a_datagram(self) -> None:
        """Right after undeliverable datagrams, one to somebody else leaves."""
        sender = self.opened()
        target = self.nobody()
        receiver = self.opened()
        for _ in range(3):
            sender.send(b"lost", target)
        sender.send(b"INVITE", receiver.address)
        self.assertEqual(await self.received, (b"INVITE", sender.address))

    async def test_errors_are_told_afterwards(self) -> None:
        """An error that is found while the next datagram is sent is told after that, not in the middle of it."""
        sender, target = self.opened(), self.nobody()
        for _ in range(3):
            sender.send(b"lost", target)
            self.assertFalse(self.failed.called)
        self.assertEqual(await self.failed, target)

    def test_errors_that_are_not_in_the_queue(self) -> None:
        """Errors of datagrams to others, of which nothing more is known, don't keep one from leaving."""
        sender = self.opened()
        port, tries = sender._port, []

        class Refusing:
            addressFamily = socket.AF_INET

            @property
            def socket(self) -> Refusing:
                return self

            def sendto(self, data: bytes, target: Address) -> None:
                tries.append(target)
                if len(tries) < 4:
                    raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

            def read_errors(self) -> int:
                return 0

        sender._port = Refusing()  # type: ignore[assignment]
        sender.send(b"INVITE", ("127.0.0.1", 5060))
        self.assertEqual(tries, [("127.0.0.1", 5060)] * 4)
        sender._port = port

    async def test_goes_on_receiving_after_an_error(self) -> None:
        """A socket that had an ICMP error still hands up datagrams."""
        socket_of_ours = self.opened()
        socket_of_ours.send(b"lost", self.nobody())
        await self.failed
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(b"BYE", socket_of_ours.address)
            self.assertEqual((await self.received)[0], b"BYE")

    async def test_ipv4_over_an_ipv6_socket(self) -> None:
        """A socket bound to all of IPv6 sends to and hears from IPv4 addresses, written as such."""
        both = self.opened("::")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            both.send(b"INVITE", peer.getsockname())
            peer.setblocking(False)
            self.assertEqual(peer.recv(100), b"INVITE")
            peer.sendto(b"200", ("127.0.0.1", both.address[1]))
            self.assertEqual(await self.received, (b"200", peer.getsockname()))

    def test_local_address(self) -> None:
        """A socket on all addresses says which one it would be seen from; a bound one says its own."""
        everywhere = self.opened("0.0.0.0")
        self.assertEqual(everywhere.local_address(("127.0.0.9", 5060)), ("127.0.0.1", everywhere.address[1]))
        here = self.opened("127.0.0.2")
        self.assertEqual(here.local_address(("127.0.0.9", 5060)), here.address)

    def test_what_cannot_leave_is_an_error(self) -> None:
        """Too long a datagram and a closed socket raise OSError at once."""
        sender = self.opened()
        self.assertRaises(OSError, sender.send, bytes(70_000), ("127.0.0.1", 5060))
        sender.close()
        self.assertRaises(OSError, sender.send, b"late", ("127.0.0.1", 5060))
