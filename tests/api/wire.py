"""A site at one end of a pretended connection, and all the time in the world at hand."""

# mypy: allow-untyped-calls
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IHalfCloseableDescriptor, IReactorTime
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import alsoProvides

from calledind.admission import Verdict
from calledind.api.answers import Folder
from calledind.api.channel import Channel
from calledind.api.health import Alive, Ready
from calledind.api.playback import Playback
from calledind.api.site import Site
from calledind.model import ReturnCode

Arguments = Mapping[bytes, Sequence[bytes]]
ACCEPTED = Verdict(ReturnCode.ACCEPTED, "accepted", "0123abc")


class Wire(StringTransport):
    """A transport that keeps what was written and remembers how it was closed."""

    half_closed = False
    aborted = False

    def __init__(self, peer: IAddress) -> None:
        super().__init__(peerAddress=peer)
        alsoProvides(self, IHalfCloseableDescriptor)

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True

    @property
    def closed(self) -> bool:
        return bool(self.half_closed or self.disconnecting)


class Connection:
    """One client of a site."""

    def __init__(self, site: Site, peer: IAddress) -> None:
        self.wire = Wire(peer)
        channel = site.buildProtocol(peer)
        assert isinstance(channel, Channel)
        self.channel = channel
        channel.makeConnection(self.wire)

    def send(self, data: bytes) -> bytes:
        """Let the site read this; returns all that it has written since the last time."""
        self.channel.dataReceived(data)
        return self.taken()

    def taken(self) -> bytes:
        data: bytes = self.wire.value()
        self.wire.clear()
        return data

    def leave(self) -> None:
        reason = ConnectionDone() if self.wire.closed else ConnectionLost()
        self.channel.connectionLost(Failure(reason))


class Served:
    """A whole public site on a clock. `admit` may be replaced; what it was asked is in `asked`."""

    def __init__(
        self,
        *,
        trunk: str = "",
        max_in_flight: int = 512,
        max_connections: int = 2000,
        max_connections_per_address: int = 200,
        clock: IReactorTime | None = None,
    ) -> None:
        self.clock = Clock()
        self.asked: list[Arguments] = []
        self.admit: Callable[[Arguments], Deferred[Verdict]] = lambda arguments: succeed(ACCEPTED)
        self.obstacle: str | None = None
        root, api = Folder(), Folder()
        root.putChild(b"api", api)
        api.putChild(b"playback", Playback(self._admit, trunk=trunk, max_in_flight=max_in_flight))
        root.putChild(b"healthz", Alive(simulator=trunk == "simulator"))
        root.putChild(b"readyz", Ready(lambda: self.obstacle))
        self.site = Site(
            root,
            reactor=clock or self.clock,
            max_connections=max_connections,
            max_connections_per_address=max_connections_per_address,
        )

    def _admit(self, arguments: Arguments) -> Deferred[Verdict]:
        self.asked.append(arguments)
        return self.admit(arguments)

    def connect(self, host: str = "192.0.2.1") -> Connection:
        return Connection(self.site, IPv4Address("TCP", host, 50000))

    def get(self, target: bytes, *fields: bytes) -> Response:
        """Ask on a connection of its own."""
        connection = self.connect()
        request = b"\r\n".join((b"GET %s HTTP/1.1" % target, b"Host: calls.example", *fields, b"", b""))
        return Response(connection.send(request))


class Response:
    """An HTTP response taken apart; `rest` is what follows it."""

    def __init__(self, data: bytes) -> None:
        head, separator, body = data.partition(b"\r\n\r\n")
        assert separator, f"no response in {data!r}"
        line, *fields = head.split(b"\r\n")
        version, status, self.phrase = line.split(b" ", 2)
        assert version in (b"HTTP/1.0", b"HTTP/1.1"), version
        self.status = int(status)
        pairs = [field.split(b": ", 1) for field in fields]
        self.headers = {name.lower().decode(): value.decode() for name, value in pairs}
        assert len(self.headers) == len(pairs), "a header is there twice"
        length = int(self.headers["content-length"])
        self.body, self.rest = body[:length], body[length:]
