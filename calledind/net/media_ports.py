"""The UDP ports of the media: pairs of sockets, RTP on the even port and RTCP on the next (RFC 3550 §11).

A call has a pair to itself as long as there are enough; the one that was free for the longest comes first, so
that stray packets of an earlier call have died down. After that pairs are shared, the least used one first, and
calls on one pair are told apart by whom the packets come from. Sockets are opened when first needed and
then stay open.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from calledind.net.mmsg import SO_TIMESTAMPNS
from calledind.net.pace import Lane, Phase

_ROOM = 1 << 20
"Octets that wait in a socket, either way: a thousand calls may share it, and we look at it every 10 ms."
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
"Beyond the system's limits, where we may; not named by the socket module."
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3
"""Never in fragments, whatever a message from anywhere says of the way's MTU: our packets fit into any. The kernel then
leaves the identification 0, as it may (RFC 6864 §4.1); to draw one is an eighth of the cost of a packet."""
EXPEDITED_FORWARDING = 46 << 2
"The DSCP for voice (RFC 4594 §4.1), in the TOS octet."


def make_room(opened: socket.socket) -> None:
    """Let as much wait in the socket as a slice of many calls needs, or as the system allows."""
    for forced, asked in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
        try:
            opened.setsockopt(socket.SOL_SOCKET, forced, _ROOM)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, asked, _ROOM)


def set_options(opened: socket.socket) -> None:
    """Have it treated as voice on its way, and tell when each datagram came."""
    if opened.family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, EXPEDITED_FORWARDING)
    else:
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, EXPEDITED_FORWARDING)
        opened.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
    opened.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    make_room(opened)


class NoPort(Exception):
    """None of the ports can be opened."""


@dataclass(slots=True, eq=False)
class Port:
    """A pair of sockets."""

    number: int
    "Of the RTP socket."
    rtp: socket.socket = field(repr=False)
    rtcp: socket.socket = field(repr=False)
    lanes: dict[Phase, Lane] = field(default_factory=dict, repr=False)
    "Its streams, by when they are due."
    routes: dict[Hashable, int] = field(default_factory=dict, repr=False)
    "Whom RTP comes from (see `mmsg.address_key`) -> the session's row."
    control_routes: dict[tuple[str, int], int] = field(default_factory=dict, repr=False)
    "Whom RTCP comes from -> the session's row."
    latching: list[int] = field(default_factory=list, repr=False)
    "Rows of the sessions that would follow a peer behind a NAT."
    sessions: int = 0


class Ports:
    """Gives out ports, each to as few sessions as possible."""

    def __init__(self, bind: str, first: int, last: int, opened: Callable[[int, socket.socket, socket.socket], Port]):
        self.bind = bind
        self.family = socket.AF_INET6 if ipaddress.ip_address(bind).version == 6 else socket.AF_INET
        self._opened = opened
        self._unopened = OrderedDict.fromkeys(range(first + first % 2, last, 2))
        self._by_sessions: dict[int, OrderedDict[Port, None]] = {}
        "Open ports by how many sessions use them, each never empty, the one unused for the longest in front."

    def take(self) -> Port:
        """Return a port for one more session. Raises `NoPort`."""
        while self._unopened:
            number, _ = self._unopened.popitem(last=False)
            with contextlib.suppress(OSError):  # somebody else's: never ours again
                port = self._open(number)
                self._move(port, 1)
                return port
        if not self._by_sessions:
            raise NoPort("no UDP port of the range can be opened; see rtp.bind and rtp.ports")
        port = next(iter(self._by_sessions[min(self._by_sessions)]))
        self._leave(port)
        self._move(port, port.sessions + 1)
        return port

    def give_back(self, port: Port) -> None:
        """Let one session less use it."""
        self._leave(port)
        self._move(port, port.sessions - 1)

    def _leave(self, port: Port) -> None:
        others = self._by_sessions[port.sessions]
        del others[port]
        if not others:
            del self._by_sessions[port.sessions]

    def _move(self, port: Port, sessions: int) -> None:
        port.sessions = sessions
        ports = self._by_sessions.get(sessions)
        if ports is None:
            ports = self._by_sessions[sessions] = OrderedDict()
        ports[port] = None

    def _open(self, number: int) -> Port:
        rtp = self._socket(number)
        try:
            rtcp = self._socket(number + 1)
        except OSError:
            rtp.close()
            raise
        return self._opened(number, rtp, rtcp)

    def _socket(self, number: int) -> socket.socket:
        opened = socket.socket(self.family, socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            set_options(opened)
            opened.bind((self.bind, number))
        except OSError:
            opened.close()
            raise
        return opened
