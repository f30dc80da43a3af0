# mypy: allow-untyped-calls
"""What a NAT makes of our address, as trunks and STUN servers tell it."""

from __future__ import annotations

from typing import cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.model import Address
from calledind.net import stun
from calledind.net.datagram import SipDatagram
from calledind.net.public import REPEATS, PublicAddresses
from calledind.sip.header import Via

SERVER: Address = ("192.0.2.53", 3478)


class Socket:
    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Address]] = []
        self.broken = False

    def send(self, data: bytes, target: Address) -> None:
        if self.broken:
            raise OSError("Network is unreachable")
        self.sent.append((data, target))


def answer(request: bytes, attribute: str = "002000080001a147e112a643") -> bytes:
    body = bytes.fromhex(attribute)
    return b"\x01\x01" + len(body).to_bytes(2) + request[4:20] + body


class PublicAddressTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.public = PublicAddresses(self.clock)
        self.socket = Socket()

    def ask(self) -> bytes:
        self.public.ask("a", cast(SipDatagram, self.socket), SERVER)
        return self.socket.sent[-1][0] if self.socket.sent else b""

    def see(self, via: str, *, with_port: bool = True) -> Address | None:
        self.public.seen_as("a", Via.parse(f"SIP/2.0/UDP {via}"), with_port=with_port)
        return self.public.of("a")

    def test_via(self) -> None:
        """The address and port of the topmost Via are believed as far as they can be addresses."""
        for via, expected in (
            ("10.0.0.1:5060;branch=x", None),
            ("10.0.0.1:5060;rport;branch=x", None),
            ("10.0.0.1:5060;received=192.0.2.1;rport=999", ("192.0.2.1", 999)),
            ("10.0.0.1:5060;received=192.0.2.2", ("192.0.2.2", 5060)),
            ("10.0.0.1;rport=1000", ("192.0.2.2", 1000)),
            ("10.0.0.1:5060;received=0.0.0.0;rport=7", ("192.0.2.2", 1000)),
            ("10.0.0.1:5060;received=example.com;rport=7", ("192.0.2.2", 1000)),
            ("10.0.0.1:5060;received=192.0.2.3;rport=99999", ("192.0.2.2", 1000)),
            ("10.0.0.1:5060;received=192.0.2.3;rport=0", ("192.0.2.3", 5060)),
            ("10.0.0.1:5060;received=2001:db8::1;rport=8", ("2001:db8::1", 8)),
        ):
            self.assertEqual(self.see(via), expected, via)

    def test_port_of_a_connection(self) -> None:
        """Over a connection its port says nothing of where we listen."""
        self.assertEqual(self.see("10.0.0.1:5060;received=192.0.2.1;rport=999", with_port=False), ("192.0.2.1", 5060))

    def test_forgotten_with_the_trunk(self) -> None:
        """A trunk that is no more has no address."""
        self.see("10.0.0.1;received=192.0.2.1")
        self.public.keep({"b"})
        self.assertIsNone(self.public.of("a"))

    def test_stun(self) -> None:
        """The server is asked until it answers."""
        request = self.ask()
        self.clock.advance(REPEATS[0])
        self.assertEqual(self.socket.sent, [(request, SERVER)] * 2)
        self.public.stun_received(answer(request), SERVER)
        self.assertIsNotNone(self.public.of("a"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stun_of_others(self) -> None:
        """Answers that nobody asked for, from elsewhere, or that say nothing, are left out."""
        request = self.ask()
        self.public.stun_received(answer(stun.request(bytes(12))), SERVER)
        self.public.stun_received(answer(request), ("192.0.2.9", 3478))
        self.public.stun_received(answer(request, ""), SERVER)
        self.assertIsNone(self.public.of("a"))
        self.public.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silent_server(self) -> None:
        """A server that doesn't answer, or can't be reached, is given up."""
        self.ask()
        self.clock.pump([0.5] * round(2 * sum(REPEATS) + 2))
        self.assertEqual((len(self.socket.sent), self.clock.getDelayedCalls()), (1 + len(REPEATS), []))
        self.socket.broken = True
        self.ask()
        self.assertEqual(self.clock.getDelayedCalls(), [])
