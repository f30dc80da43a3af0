"""SIP messages as HEP3 (EEP) for Homer, sngrep and their like: each in a datagram, sent and forgotten.

A packet is "HEP3", its length, and chunks of vendor, type, length and value, all in network order
(https://github.com/sipcapture/HEP, revision 36). Keys of SRTP are blotted out, as in the trace.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

from calledind.model import Address
from calledind.net.trace import CALL_ID, SRTP_KEY
from calledind.sip.target import transport_of

SIP = 1
"Protocol type."
PROTOCOLS = {"udp": 17, "tcp": 6, "tls": 6}
"Transport -> IP protocol; what went by TLS is shown as by TCP."
LARGEST = 65_000
"Octets of a message; a datagram has no room for more, and what is longer is cut."
UNKNOWN: Address = ("0.0.0.0", 0)  # noqa: S104 - nobody listens there
_CHUNK = struct.Struct(">HHH")


def pack(
    source: Address,
    destination: Address,
    payload: bytes,
    *,
    time: float,
    transport: str = "udp",
    capture_id: int = 1,
    key: bytes = b"",
    correlation: bytes = b"",
) -> bytes:
    """Write one message. `time`: seconds since the epoch. `correlation`: what all messages of one call have in common.

    Raises ValueError where an address is none.
    """
    one, other = ip_address(source[0].partition("%")[0]), ip_address(destination[0].partition("%")[0])
    if one.version != other.version:
        one, other = _as_ipv6(one), _as_ipv6(other)
    is_ipv4 = one.version == 4
    seconds, fraction = divmod(time, 1)
    chunks = [
        (0x01, bytes([socket.AF_INET if is_ipv4 else 10])),  # Linux's number of IPv6, wherever we run
        (0x02, bytes([PROTOCOLS[transport]])),
        (0x03 if is_ipv4 else 0x05, one.packed),
        (0x04 if is_ipv4 else 0x06, other.packed),
        (0x07, struct.pack(">H", source[1])),
        (0x08, struct.pack(">H", destination[1])),
        (0x09, struct.pack(">I", int(seconds))),
        (0x0A, struct.pack(">I", int(fraction * 1_000_000))),
        (0x0B, bytes([SIP])),
        (0x0C, struct.pack(">I", capture_id)),
    ]
    if key:
        chunks.append((0x0E, key))
    if correlation:
        chunks.append((0x11, correlation))
    chunks.append((0x0F, payload[:LARGEST]))
    body = b"".join(_CHUNK.pack(0, kind, 6 + len(value)) + value for kind, value in chunks)
    return b"HEP3" + struct.pack(">H", 6 + len(body)) + body


def _as_ipv6(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    return address if address.version == 6 else ip_address(f"::ffff:{address}")


class HepSender:
    """Sends what it is given to one collector, as far as the socket takes it; never raises, never waits."""

    def __init__(
        self,
        now: Callable[[], float],
        local: Callable[[Address], Address],
        *,
        capture_id: int = 1,
        key: bytes = b"",
    ) -> None:
        """`now`: seconds since the epoch. `local`: our own address towards another; may raise OSError."""
        self._now = now
        self._local = local
        self._capture_id = capture_id
        self._key = key
        self._socket: socket.socket | None = None
        self._collector: Address | None = None
        self.sent = 0
        self.dropped = 0

    def use(self, collector: Address) -> None:
        """Send to this IP address and port from now on. Raises OSError."""
        if self._collector == collector:
            return
        family = socket.AF_INET6 if ":" in collector[0] else socket.AF_INET
        new = socket.socket(family, socket.SOCK_DGRAM)
        new.setblocking(False)
        self.close()
        self._socket, self._collector = new, collector

    def close(self) -> None:
        """Send no more."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._collector = None

    def take(self, direction: str, other: Address, data: bytes) -> None:
        """Take a message that was "sent" or "received"."""
        if self._socket is None or self._collector is None:
            self.dropped += 1
            return
        try:
            self._socket.sendto(self._packed(direction, other, data), self._collector)
        except (OSError, ValueError, struct.error):
            self.dropped += 1
        else:
            self.sent += 1

    def _packed(self, direction: str, other: Address, data: bytes) -> bytes:
        try:
            ours = self._local(other)
        except OSError:
            ours = ("::", 0) if ":" in other[0] else UNKNOWN
        source, destination = (ours, other) if direction == "sent" else (other, ours)
        if b"crypto:" in data:
            data = SRTP_KEY.sub(rb"\1...", data)
        found = CALL_ID.search(data, 0, data.find(b"\r\n\r\n") + 1 or len(data))
        return pack(
            (source[0], source[1]),
            (destination[0], destination[1]),
            data,
            time=self._now(),
            transport=transport_of(other),
            capture_id=self._capture_id,
            key=self._key,
            correlation=b"" if found is None else found[1],
        )
