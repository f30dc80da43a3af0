"""HEP3: chunk by chunk, and a sender that nothing disturbs."""

from __future__ import annotations

import socket
import struct

from twisted.trial.unittest import SynchronousTestCase

from calledind.model import Address
from calledind.observability.hep import LARGEST, HepSender, pack
from calledind.sip.target import Target

CALL_ID = "0" * 31 + "1"
MESSAGE = f"INVITE sip:a@b SIP/2.0\r\nCall-ID: {CALL_ID}-2\r\n\r\na=crypto:1 X inline:c2VjcmV0|2^20\r\n".encode()
PEER = ("192.0.2.1", 5060)


def chunks(packet: bytes) -> dict[int, bytes]:
    """Take a packet apart, by the book and not by our own code."""
    assert packet[:4] == b"HEP3"
    assert struct.unpack(">H", packet[4:6])[0] == len(packet)
    found, place = {}, 6
    while place < len(packet):
        vendor, kind, length = struct.unpack(">HHH", packet[place : place + 6])
        assert vendor == 0
        found[kind] = packet[place + 6 : place + length]
        place += length
    assert place == len(packet)
    return found


class PackTests(SynchronousTestCase):
    def test_ipv4(self) -> None:
        """Every chunk that a collector needs."""
        packet = pack(
            PEER, ("198.51.100.7", 5061), b"x", time=7.25, transport="tls", capture_id=77, key=b"k", correlation=b"c"
        )
        self.assertEqual(
            chunks(packet),
            {
                1: b"\2",
                2: b"\6",
                3: bytes([192, 0, 2, 1]),
                4: bytes([198, 51, 100, 7]),
                7: b"\x13\xc4",
                8: b"\x13\xc5",
                9: b"\0\0\0\7",
                10: struct.pack(">I", 250_000),
                11: b"\1",
                12: b"\0\0\0\x4d",
                14: b"k",
                17: b"c",
                15: b"x",
            },
        )

    def test_ipv6(self) -> None:
        """IPv6 has chunks of its own; where one side is IPv4, it is written as that."""
        found = chunks(pack(("2001:db8::1", 1), ("fe80::1%eth0", 2), b"", time=0))
        self.assertEqual((found[1], found[5][:4], found[6][:2]), (b"\n", b"\x20\x01\x0d\xb8", b"\xfe\x80"))
        self.assertTrue({3, 4, 14, 17}.isdisjoint(found))
        self.assertEqual(chunks(pack(("::1", 1), PEER, b"", time=0))[6][-6:], b"\xff\xff\xc0\x00\x02\x01")

    def test_long(self) -> None:
        """What no datagram has room for is cut."""
        self.assertEqual(len(chunks(pack(PEER, PEER, b"x" * 70_000, time=0))[15]), LARGEST)

    def test_no_address(self) -> None:
        """A name is no address."""
        self.assertRaises(ValueError, pack, ("a.example", 1), PEER, b"", time=0)


class SenderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.collector = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(self.collector.close)
        self.collector.bind(("127.0.0.1", 0))
        self.collector.settimeout(5)
        self.sender = HepSender(lambda: 8.5, self.local, capture_id=3)
        self.addCleanup(self.sender.close)

    def local(self, other: Address) -> Address:
        if other[0].endswith("9"):
            raise OSError("no way there")
        return ("198.51.100.7", 5062)

    def use(self) -> None:
        self.sender.use(self.collector.getsockname())

    def received(self) -> dict[int, bytes]:
        return chunks(self.collector.recv(65535))

    def test_directions(self) -> None:
        """What was sent comes from us, what was received from the other; the call's id ties them together."""
        self.use()
        self.sender.take("sent", PEER, MESSAGE)
        sent = self.received()
        self.assertEqual((sent[3], sent[8], sent[17]), (bytes([198, 51, 100, 7]), b"\x13\xc4", CALL_ID.encode()))
        self.sender.take("received", Target("192.0.2.1", 5060, "tcp"), MESSAGE)
        received = self.received()
        self.assertEqual((received[3], received[8], received[2]), (bytes([192, 0, 2, 1]), b"\x13\xc6", b"\6"))
        self.assertEqual(self.sender.sent, 2)

    def test_keys_of_srtp(self) -> None:
        """They are blotted out."""
        self.use()
        self.sender.take("sent", PEER, MESSAGE)
        payload = self.received()[15]
        self.assertEqual(payload, MESSAGE.replace(b"c2VjcmV0", b"..."))

    def test_nothing_disturbs(self) -> None:
        """Without a collector, a way or an address a message is dropped or sent as well as may be, and nobody hears."""
        self.sender.take("sent", PEER, MESSAGE)
        self.use()
        self.sender.take("sent", ("a.example", 5060), MESSAGE)
        self.assertEqual((self.sender.sent, self.sender.dropped), (0, 2))
        self.sender.take("sent", ("192.0.2.9", 5060), MESSAGE)
        self.assertEqual(self.received()[3], bytes(4))
        self.sender.take("sent", ("2001:db8::9", 5060), MESSAGE)
        self.assertEqual(self.received()[5], bytes(16))
        self.sender.use(("203.0.113.255", 0))
        self.sender.take("sent", PEER, MESSAGE)
        self.sender.close()
        self.sender.take("sent", PEER, MESSAGE)
        self.assertEqual((self.sender.sent, self.sender.dropped), (2, 4))
