"""A call's messages as a capture file, read back octet by octet; tests/interop has tshark read one."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from twisted.trial.unittest import SynchronousTestCase

from calledind.model import Address
from calledind.net.pcap import UNKNOWN, our_address, pcap
from calledind.net.trace import TracedMessage

INVITE = b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.7:5070;branch=z9hG4bK1\r\nm: <sip:x@1.2.3.4>\r\n\r\n"
BYE = b"BYE sip:x@y SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.9;branch=z9hG4bK2\r\n\r\n"
OK = b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 203.0.113.9;branch=z9hG4bK2\r\nContact: <sip:x@198.51.100.7:5070;ob>\r\n\r\n"


def message(data: bytes, direction: str = "sent", other: Address = ("203.0.113.9", 5060)) -> TracedMessage:
    return TracedMessage(1_700_000_000.25, direction, other, data)


def packets(file: bytes) -> list[tuple[float, bytes]]:
    """Return time and octets of each packet."""
    magic, major, minor, _, _, _, link = struct.unpack("<IHHiIII", file[:24])
    assert (magic, major, minor, link) == (0xA1B2C3D4, 2, 4, 101)
    found, place = [], 24
    while place < len(file):
        seconds, micros, kept, size = struct.unpack("<IIII", file[place : place + 16])
        assert kept == size
        found.append((seconds + micros / 1e6, file[place + 16 : place + 16 + kept]))
        place += 16 + kept
    return found


def ends(packet: bytes) -> tuple[Address, Address, bytes]:
    """Return source, target and octets of an IP packet with a datagram."""
    size, head = (4, 20) if packet[0] >> 4 == 4 else (16, 40)
    first = head - 2 * size
    hosts = [str(ip_address(packet[first + place * size : first + (place + 1) * size])) for place in (0, 1)]
    source, target, length = struct.unpack("!HHH", packet[head : head + 6])
    assert length == len(packet) - head
    return (hosts[0], source), (hosts[1], target), packet[head + 8 :]


class PcapTests(SynchronousTestCase):
    def test_directions(self) -> None:
        """What was sent goes from the address of our Via to the other end, what was received the other way."""
        (sent_at, sent), (_, received) = packets(pcap([message(INVITE), message(BYE, "received")]))
        ours, theirs = ("198.51.100.7", 5070), ("203.0.113.9", 5060)
        self.assertEqual(sent_at, 1_700_000_000.25)
        self.assertEqual(ends(sent), (ours, theirs, INVITE))
        self.assertEqual(ends(received), (theirs, ours, BYE))

    def test_our_address(self) -> None:
        """It is that of a request's Via or of a response's Contact, never that of somebody else; a name is none."""
        self.assertEqual(our_address([message(BYE, "received"), message(OK)]), ("198.51.100.7", 5070))
        self.assertEqual(
            our_address([message(INVITE.replace(b"198.51.100.7:5070", b"[2001:db8::1]"))]), ("2001:db8::1", 5060)
        )
        self.assertEqual(our_address([message(INVITE.replace(b"198.51.100.7", b"pbx.example"))]), UNKNOWN)
        self.assertEqual(our_address([]), UNKNOWN)

    def test_both_families(self) -> None:
        """Where one end has IPv6, the other one's address is written as IPv6 does."""
        ((_, packet),) = packets(pcap([message(INVITE, other=("2001:db8::9", 5060))]))
        self.assertEqual(ends(packet)[:2], (("::ffff:c633:6407", 5070), ("2001:db8::9", 5060)))

    def test_long_message(self) -> None:
        """A message of a stream that is too long for a datagram is cut."""
        ((_, packet),) = packets(pcap([message(INVITE + bytes(100_000))]))
        self.assertLess(len(packet), 65_536)
