"""A call's SIP messages as a file that tshark, Wireshark and sngrep read.

What is kept of a message is its octets, its time and its other end. The IP and UDP headers around it are made up: our
own address is what our Via, Contact or Record-Route said, and a message that came or went by TCP or TLS is written as
a datagram as well, since its segments are not known and nobody could read it encrypted.

The format: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-03.html, with link type RAW (101).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from calledind.model import Address
from calledind.net.trace import TracedMessage

_FILE = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")
_MAGIC = 0xA1B2C3D4
_RAW_IP = 101
_UDP = 17
LONGEST = 65_000
"Octets of a message that fit into one datagram."
_VIA = re.compile(rb"^(?:via|v)[ \t]*:[ \t]*SIP[ \t]*/[ \t]*2\.0[ \t]*/[ \t]*\w+[ \t]+([^\s;,]+)", re.I | re.M)
_CONTACT = re.compile(rb"^(?:contact|m)[ \t]*:.*?sips?:(?:[^@>\r\n]*@)?([^;>\s]+)", re.I | re.M)
UNKNOWN = "192.0.2.1", 5060
"Of us, where no message says (RFC 5737)."


def pcap(messages: Sequence[TracedMessage]) -> bytes:
    """Return the file."""
    ours = our_address(messages)
    return _FILE.pack(_MAGIC, 2, 4, 0, 0, 65535, _RAW_IP) + b"".join(_records(messages, ours))


def our_address(messages: Iterable[TracedMessage]) -> Address:
    """Find in what we sent which address we have."""
    for message in messages:
        if message.direction == "sent":
            head = message.data.partition(b"\r\n\r\n")[0]
            found = _CONTACT.search(head) if head.startswith(b"SIP/2.0") else _VIA.search(head)
            address = None if found is None else _host_port(found[1].decode("latin-1"))
            if address is not None:
                return address
    return UNKNOWN


def _host_port(text: str) -> Address | None:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.startswith("[")):
        host, port = text, "5060"
    try:
        return str(ip_address(host.strip("[]"))), int(port)
    except ValueError:
        return None


def _records(messages: Iterable[TracedMessage], ours: Address) -> Iterable[bytes]:
    for message in messages:
        source, target = (ours, message.other) if message.direction == "sent" else (message.other, ours)
        packet = _packet(message.data[:LONGEST], source, target)
        seconds, fraction = divmod(message.time, 1)
        # A fraction just below 1 must not become a million microseconds.
        yield _RECORD.pack(int(seconds), int(fraction * 1_000_000), len(packet), len(packet)) + packet


def _packet(data: bytes, source: Address, target: Address) -> bytes:
    """Put IP and UDP around octets; both ends get IPv6 where one of them has it."""
    hosts = [ip_address(source[0]), ip_address(target[0])]
    if any(isinstance(host, IPv6Address) for host in hosts):
        hosts = [IPv6Address(f"::ffff:{host}") if isinstance(host, IPv4Address) else host for host in hosts]
    length = 8 + len(data)
    addresses = hosts[0].packed + hosts[1].packed
    udp = struct.pack("!HHHH", source[1], target[1], length, 0) + data
    checksum = _checksum(addresses + struct.pack("!II", length, _UDP) + udp) or 0xFFFF
    udp = udp[:6] + checksum.to_bytes(2) + udp[8:]
    if isinstance(hosts[0], IPv6Address):
        return struct.pack("!IHBB", 6 << 28, length, _UDP, 64) + addresses + udp
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, _UDP, 0) + addresses
    return head[:10] + _checksum(head).to_bytes(2) + head[12:] + udp


def _checksum(octets: bytes) -> int:
    """RFC 1071."""
    octets += bytes(len(octets) % 2)
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
