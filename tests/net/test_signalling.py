# mypy: allow-untyped-calls
from __future__ import annotations

import socket
from collections.abc import Sequence

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from calledind.model import Address
from calledind.net.resolve import ResolveError
from calledind.net.signalling import Signalling
from calledind.settings import Sip, Trunk


class Names:
    """A resolver, and what asks DNS for addresses, made of a table."""

    def __init__(self) -> None:
        self.table: dict[str, list[str]] = {}

    def by_hand(self, host: str) -> bool:
        return False

    def addresses(self, host: str) -> Deferred[Sequence[str]]:
        found = self.table.get(host)
        return fail(OSError(f"{host} has no address")) if found is None else succeed(list(found))

    def resolve(self, host: str) -> Deferred[Sequence[str]]:
        found = self.table.get(host)
        return fail(ResolveError(f"{host} has no address")) if found is None else succeed(list(found))


class Peer(DatagramProtocol):
    """Somebody with a UDP socket on this machine."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.waiting: list[Deferred[bytes]] = []

    def datagramReceived(self, datagram: bytes, addr: Address) -> None:
        self.heard.append(datagram)
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each.callback(datagram)

    def next(self) -> Deferred[bytes]:
        waiter: Deferred[bytes] = Deferred()
        self.waiting.append(waiter)
        return waiter


def trunk(name: str, host: str, port: int = 5060) -> Trunk:
    return Trunk(name=name, host=host, port=port)


class SignallingTests(TestCase):
    def setUp(self) -> None:
        self.names = Names()
        self.signalling = self.make("127.0.0.1:0")

    def make(self, bind: str) -> Signalling:
        signalling = Signalling(reactor, Sip(bind=(bind,), t1=0.01), self.names)
        setattr(signalling, "_dns", self.names)  # noqa: B010 - no name server is asked here
        self.addCleanup(self.stop, signalling)
        return signalling

    def stop(self, signalling: Signalling) -> Deferred[None]:
        signalling.stop()
        closed: Deferred[None] = deferLater(reactor, 0.001)
        return closed.addCallback(self.forget)

    def forget(self, _: None) -> None:
        """Leave out what transactions wait for when all is said."""
        for call in reactor.getDelayedCalls():
            if "linger" in str(call):
                call.cancel()

    def peer(self) -> tuple[Peer, int]:
        peer = Peer()
        port = reactor.listenUDP(0, peer, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        return peer, port.getHost().port

    def trusted(self, *addresses: str) -> list[str]:
        return [address for address in addresses if self.signalling._is_trusted(address)]

    def test_trusted(self) -> None:
        """The addresses of trunks are theirs, however they are written; no others are."""
        self.names.table["b.example"] = ["192.0.2.7", "192.0.2.8"]
        self.signalling.start([trunk("a", "2001:DB8:0::1"), trunk("b", "b.example")])
        theirs = ("2001:db8::1", "192.0.2.7", "192.0.2.8")
        self.assertEqual(self.trusted(*theirs, "192.0.2.9", "127.0.0.1", "b.example", ""), list(theirs))

    def test_use_trunks(self) -> None:
        """New trunks are known at once, removed ones are strangers."""
        self.signalling.start([trunk("a", "192.0.2.1")])
        self.signalling.use_trunks([trunk("b", "192.0.2.2")])
        self.assertEqual(self.trusted("192.0.2.1", "192.0.2.2"), ["192.0.2.2"])

    def test_moved(self) -> None:
        """A name that leads elsewhere now is followed with the next look, and what it led to is let go."""
        self.names.table["a.example"] = ["192.0.2.1"]
        moved = trunk("a", "a.example")
        self.signalling.start([moved])
        self.names.table["a.example"] = ["192.0.2.2"]
        self.assertEqual(self.successResultOf(self.signalling.locate(moved))[0], "192.0.2.2")
        self.assertEqual(self.trusted("192.0.2.1", "192.0.2.2"), ["192.0.2.2"])

    def test_names_fail(self) -> None:
        """While names can't be looked up, the last addresses serve; without any, it is told which name."""
        self.names.table["a.example"] = ["192.0.2.1"]
        known, unknown = trunk("a", "a.example"), trunk("b", "b.example")
        self.signalling.start([known, unknown])
        self.names.table.clear()
        self.assertEqual(self.successResultOf(self.signalling.locate(known))[:2], ("192.0.2.1", 5060))
        error = self.failureResultOf(self.signalling.locate(unknown), OSError)
        self.assertIn("b.example", error.getErrorMessage())

    def test_no_socket(self) -> None:
        """A trunk of a family that no socket is for can't be called, and it is told why."""
        self.signalling.start([trunk("a", "2001:db8::1")])
        error = self.failureResultOf(self.signalling.locate(trunk("a", "2001:db8::1")), OSError)
        self.assertIn("sip.bind", error.getErrorMessage())

    def test_port_taken(self) -> None:
        """A socket that can't be opened is told with its setting."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{other.getsockname()[1]}"
            taken = self.make(address)
            error = self.assertRaises(OSError, taken.start, [])
            self.assertIn(f"sip.bind: {address}", str(error))

    async def test_probe(self) -> None:
        """An OPTIONS leaves for the trunk; the status of its response is reported."""
        peer, port = self.peer()
        there = trunk("a", "127.0.0.1", port)
        self.signalling.start([there])
        status: Deferred[int | None] = Deferred()
        asked = peer.next()
        self.signalling.probe(there, status.callback)
        request = await asked
        self.assertTrue(request.startswith(b"OPTIONS sip:127.0.0.1"))
        copied = (b"Via:", b"From:", b"Call-ID:", b"CSeq:")
        lines = [line for line in request.split(b"\r\n") if line.startswith(copied)]
        response = b"\r\n".join([b"SIP/2.0 200 OK", *lines, b"To: <sip:a@b>;tag=x", b"Content-Length: 0", b"", b""])
        via = next(line for line in lines if line.startswith(b"Via"))
        ours = int(via.split(b";")[0].rpartition(b":")[2])
        assert peer.transport is not None
        peer.transport.write(response, ("127.0.0.1", ours))
        self.assertEqual(await status, 200)

    async def test_probe_of_nobody(self) -> None:
        """A trunk without an address, or without an answer, is reported as None."""
        _, port = self.peer()
        silent, nowhere = trunk("a", "127.0.0.1", port), trunk("b", "b.example")
        self.signalling.start([silent, nowhere])
        for each in (nowhere, silent):
            status: Deferred[int | None] = Deferred()
            self.signalling.probe(each, status.callback)
            self.assertIsNone(await status)

    def test_local_host(self) -> None:
        """We name the address that leads to the target."""
        self.signalling.start([])
        self.assertEqual(self.signalling.local_host(("127.0.0.1", 5060)), "127.0.0.1")
        self.assertRaises(OSError, self.signalling.local_host, ("2001:db8::1", 5060))
