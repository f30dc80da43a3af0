# mypy: allow-untyped-calls
"""The UDP socket of SIP: datagrams in and out, and word of those that could not be delivered.

An unconnected UDP socket hears nothing of ICMP errors unless it asks for them (Linux: IP_RECVERR, ip(7)). Asked,
the kernel puts each, with the address it is about, into the socket's error queue, and says that the
socket has an error, which a reactor takes for the socket's end. So the port here takes that as the call to read the
error queue, and goes on. A pending error also makes the next `sendto` fail whomever that is for: it is tried again
when the queue was read. The kernel may even have counted an error that it has not queued, or whose place in the queue
was read already.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.udp import Port
from twisted.logger import Logger

from calledind.model import Address

_IP_RECVERR = 11
_IPV6_RECVERR = 25
_LONGEST = 65535
"Octets of a datagram."
_BUFFER = 1024 * 1024
"Octets of datagrams that the kernel keeps for us while the reactor is busy."
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
"struct sock_extended_err (ip(7)): errno, origin, type, code, padding, info, data."
_ORIGIN_LOCAL = 1
_TRIES = 8
"For one datagram: many errors may come back at once."
_INCOMING = bytearray(_LONGEST)
"Where a datagram is read into, before it is cut to its length."
_MOST_READ = 256
"Datagrams between two looks at the timers."
_MOST_ERRORS = 256
"Read at a time."


class SipDatagram(DatagramProtocol):
    """One bound UDP socket."""

    noisy = False
    log = Logger()

    def __init__(
        self, received: Callable[[bytes, Address], None], failed: Callable[[Address], None] = lambda target: None
    ) -> None:
        """Take who gets the datagrams, with whom they came from, and who is told where ICMP says nobody listens."""
        self._received = received
        self._failed = failed
        self._port: _ErrorReadingPort | None = None
        self._reactor: Any = None
        self._sending = False
        self.address: Address = ("0.0.0.0", 0)  # noqa: S104 - until it is bound
        "What the socket is bound to."

    def bind(self, reactor: Any, address: Address) -> Address:
        """Open the socket; port 0 takes any. Returns what it is bound to; raises `CannotListenError`."""
        host, number = address
        port = _ErrorReadingPort(number, self, host, _LONGEST, reactor)
        port.startListening()
        self._port, self._reactor = port, reactor
        bound = port.socket.getsockname()
        self.address = str(bound[0]), int(bound[1])
        return self.address

    def close(self) -> Deferred[None]:
        """Close the socket; fires when it is closed."""
        port, self._port = self._port, None
        if port is None:
            return maybeDeferred(lambda: None)
        return maybeDeferred(port.stopListening).addCallback(lambda _: None)

    def send(self, data: bytes, target: Address) -> None:
        """Send one datagram. Raises OSError where it can't even leave (no route, too long, closed, not an address)."""
        port = self._port
        if port is None:
            raise OSError(errno.EBADF, "the SIP socket is closed")
        self._sending = True
        try:
            self._send(port, data, target)
        finally:
            self._sending = False

    def _send(self, port: _ErrorReadingPort, data: bytes, target: Address) -> None:
        for _ in range(_TRIES):
            try:
                port.socket.sendto(data, _for_socket(port.addressFamily, target))
            except (BlockingIOError, InterruptedError):
                return  # as if lost on the way: SIP repeats what matters
            except OSError as error:
                if error.errno in (errno.EMSGSIZE, errno.ENETUNREACH):
                    raise
                # Refused is what an earlier datagram was: nobody can have said so of this one yet.
                if not port.read_errors() and error.errno != errno.ECONNREFUSED:
                    raise
            else:
                return

    def local_address(self, target: Address) -> Address:
        """Return the address that datagrams to `target` leave from. Raises OSError where there is no way there."""
        host, number = self.address
        if not ipaddress.ip_address(host).is_unspecified:
            return self.address
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target[0], target[1] or 5060))
            return str(probe.getsockname()[0]), number

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self._received(datagram, _as_written(addr))

    def undeliverable(self, target: Address) -> None:
        """Take the kernel's word that an ICMP error came back from there."""
        if self._sending:
            # Who sends hears of it later: it may be in the middle of beginning what this ends.
            self._reactor.callLater(0, self._failed, target)
        else:
            self._failed(target)


class _ErrorReadingPort(Port):
    """Twisted's UDP port, which stays open when the kernel reports an ICMP error, and reads it."""

    protocol: SipDatagram

    def createInternetSocket(self) -> socket.socket:
        opened: socket.socket = super().createInternetSocket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        if self.addressFamily == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        # On an IPv6 socket this is for the mapped IPv4 addresses.
        opened.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        return opened

    def doRead(self) -> None:
        """Take what has come, a bounded number: as Twisted does, which looks for errors each time, and at a price."""
        view = memoryview(_INCOMING)
        for _ in range(_MOST_READ):
            try:
                length, source = self.socket.recvfrom_into(_INCOMING)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # what an earlier datagram of ours met; the kernel tells of it before what came in
                self.read_errors()
                return
            try:
                self.protocol.datagramReceived(bytes(view[:length]), source[:2])
            except Exception:  # noqa: BLE001 - one bad datagram must not silence the socket
                self.protocol.log.failure("a datagram met an error of our own")
            if not self.connected:
                return

    def connectionLost(self, reason: Any = None) -> None:
        if reason is None or not self.connected:
            super().connectionLost(reason)
            return
        self.read_errors()
        self.startReading()

    def read_errors(self) -> int:
        """Report what is in the error queue; return how many there were."""
        for count in range(_MOST_ERRORS):
            try:
                _, ancillary, _, target = self.socket.recvmsg(0, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            except OSError:
                return count
            for _, _, content in ancillary:
                if len(content) >= _EXTENDED_ERROR.size:
                    number, origin, *_ = _EXTENDED_ERROR.unpack_from(content)
                    if origin != _ORIGIN_LOCAL and number != errno.EMSGSIZE and target:
                        self.protocol.undeliverable(_as_written(target))
        return _MOST_ERRORS


def _for_socket(family: int, target: Address) -> Address:
    """Write an IPv4 target as an IPv6 socket wants it."""
    host, port = target
    return (f"::ffff:{host}", port) if family == socket.AF_INET6 and ":" not in host else target


def _as_written(address: tuple[Any, ...]) -> Address:
    """Write a mapped IPv4 address as IPv4."""
    host = str(address[0])
    if host.startswith("::ffff:") and "." in host:
        host = host.removeprefix("::ffff:")
    return host, int(address[1])
