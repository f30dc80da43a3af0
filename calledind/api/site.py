# mypy: allow-untyped-calls
"""The hardened site: `twisted.web` with bounds on what strangers may make it do."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource

from calledind.api.access_log import mask_arguments, mask_path
from calledind.api.answers import report_incident, respond
from calledind.api.channel import Channel
from calledind.api.target import BadTarget, parse_query, split_target


@dataclass(frozen=True, slots=True)
class Opening:
    """A part of a site where resources are asked for by any method, and with a body."""

    beneath: bytes
    "What the path begins with, as it is written in the request target."
    largest: int
    "Octets of a body."
    seconds: float
    "For the whole of a body to arrive."


class Request(server.Request):
    """One request: no cookies, sessions or forms; its target split and its query decoded our way."""

    defaultContentType = None
    channel: Channel
    site: Site
    left = False
    "The client has gone, and nothing can be written any more."
    queued = False
    producer: Any = None
    note = ""
    "What the access log says of the answer beside its status and size."
    endless = False
    "The answer is a stream that only the client ends; set by the resource. It is cut when the site says goodbye."

    def __init__(self, channel: Channel, *_: object) -> None:
        """Fill in what a request of ours needs, which is half of what `twisted.web` makes for every one."""
        self.channel = channel
        self.transport = channel.transport
        self.client = channel.getPeer()
        self.host = channel.getHost()
        self.notifications = []
        self.requestHeaders = Headers()
        self.responseHeaders = Headers()
        self.cookies = []

    def connectionLost(self, reason: Failure) -> None:
        self.left = True
        super().connectionLost(reason)

    def parseCookies(self) -> None:
        """Nothing here reads a cookie."""

    def gotLength(self, length: int) -> None:
        """Make room for a body only where there is one."""
        if length:
            super().gotLength(length)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The channel has all of the request."""
        self.method, self.uri, self.clientproto = command, path, version
        self.args = {}
        if self.content is not None:
            self.content.seek(0, 0)
        self.process()

    def process(self) -> None:
        self.site = self.channel.site
        try:
            refusal = self._understand()
            if refusal is None:
                self.prepath = []
                self.postpath = self.path[1:].split(b"/")
                if b"%" in self.path:
                    self.postpath = [unquote_to_bytes(segment) for segment in self.postpath]
                self.render(self.site.getResourceFor(self))
            else:
                self.write(respond(self, *refusal))
                self.finish()
        except Exception:  # noqa: BLE001 - whatever a resource does, the client gets an answer
            self.processingFailed(Failure())

    def _understand(self) -> tuple[int, str] | None:
        """Take the request apart; returns the status and words of a refusal."""
        try:
            self.path, query = split_target(self.uri)
        except BadTarget as error:
            return 400, str(error)
        if query:
            self.args = parse_query(query)
        if self.method not in self.site.methods and self.site.find_opening(self.path) is None:
            self.setHeader(b"allow", b", ".join(self.site.methods))
            return 405, f"only {b' and '.join(self.site.methods).decode()} are taken here"
        if self.channel.unwanted_body:
            return 413, "no request body is taken here; put the parameters into the query"
        hosts = self.requestHeaders.getRawHeaders(b"host", ())
        if len(hosts) > 1 or (not hosts and self.clientproto == b"HTTP/1.1"):
            return 400, "exactly one Host header is needed"
        return None

    def render(self, resrc: IResource) -> None:
        """Ask the resource for the response, or to write it itself."""
        body = resrc.render(self)
        if body is not server.NOT_DONE_YET:
            self.write(body)
            self.finish()

    def answer(self, fields: bytes, body: bytes, status: bytes = b"200 OK") -> None:
        """Write the answer to a GET in one piece, and finish.

        `fields`: header lines, each with its line end, Content-Length among them. What the general way (a table of
        headers filled, checked and written out again) makes of them costs more than all of `parse_query`.
        """
        self.startedWriting = 1
        self.sentLength = len(body)
        closing = b"" if self.channel.persistent else b"Connection: close\r\n"
        head = (self.clientproto, status, self.site.date(), closing, fields)
        self.channel.write(b"%b %b\r\nDate: %b\r\n%b%b\r\n" % head + body)
        self.finish()

    def __repr__(self) -> str:
        """Whoever logs a request logs no query."""
        return f"<{self.method.decode('latin-1')[:20]} {mask_path(self.path or b'-')}>"

    def processingFailed(self, reason: Failure) -> Failure:
        """Answer 500 with an incident's id in place of a traceback."""
        incident = report_incident(self.site.logger, reason, f"{mask_path(self.path or b'')}")
        if self.startedWriting:
            self.channel.abort()
        else:
            self.write(respond(self, 500, f"this is a fault of ours; ask for incident {incident}"))
            self.finish()
        return reason


LOOK_AGAIN = 0.1
"Seconds between two looks whether the last client has gone."


class Site(server.Site):
    """Serves a tree of resources to strangers.

    `max_body`: octets of a request's body, 0 to refuse bodies. `methods`: those taken. `openings`: where more is; the
    first that fits holds.
    """

    protocol = Channel  # type: ignore[assignment]
    requestFactory = Request  # type: ignore[assignment]
    noisy = False
    logger = Logger()

    def __init__(
        self,
        resource: IResource,
        *,
        reactor: IReactorTime,
        max_connections: int = 2000,
        max_connections_per_address: int = 200,
        max_body: int = 0,
        methods: tuple[bytes, ...] = (b"GET", b"HEAD"),
        openings: Sequence[Opening] = (),
    ) -> None:
        super().__init__(resource, reactor=reactor, timeout=None)
        self.max_body = max_body
        self.methods = methods
        self._openings = openings
        self.large = 0
        "Large bodies that are read, or whose request is being answered."
        self._max_connections = max_connections
        self._max_connections_per_address = max_connections_per_address
        self.connections = 0
        "Open now."
        self.channels: set[Channel] = set()
        "The same, and those that were refused."
        self.closing = False
        "Every answer is the last one of its connection."
        self.lenient_until = -math.inf
        "By the reactor's clock: until then, one address may have half of all connections."
        self._connections_of: Counter[str] = Counter()
        self._lines: list[str] = []
        "Of the access log, of this turn of the reactor."
        self._date = (0, b"")

    def startFactory(self) -> None:
        """Open no log file and start no timer: ours goes to the daemon's log."""

    def stopFactory(self) -> None:
        """Whoever closes the log now has all lines in it."""
        self._write_lines()

    @property
    def busy(self) -> int:
        """How many connections have a request that is not answered yet, or are new."""
        return sum(channel.is_busy for channel in self.channels)

    async def finish(self, seconds: float) -> None:
        """Part from the clients: requests that are here are answered, then their connections closed without a reset.

        `seconds`: how long at most. Whoever accepts connections has stopped to.
        """
        self.closing = True
        end = self.reactor.seconds() + seconds
        while self.channels and self.reactor.seconds() < end:
            for channel in list(self.channels):
                channel.part()
            pause: Deferred[None] = deferLater(self.reactor, LOOK_AGAIN)
            await pause

    def find_opening(self, path: bytes) -> Opening | None:
        """Return the part of the site that a path is in, where it has bounds of its own."""
        return next((each for each in self._openings if path.startswith(each.beneath)), None)

    def date(self) -> bytes:
        """Return what a Date header says now, put together once a second."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = now, http.datetimeToString(now)
        return self._date[1]

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]

    def count_in(self, peer: IAddress) -> bool:
        """Take one more connection of this peer's, or answer False."""
        network = network_of(peer)
        most = self._max_connections_per_address
        if self.reactor.seconds() < self.lenient_until:
            most = max(most, self._max_connections // 2)
        if self.connections >= self._max_connections or (network and self._connections_of[network] >= most):
            return False
        self.connections += 1
        if network:
            self._connections_of[network] += 1
        return True

    def count_out(self, peer: IAddress) -> None:
        """A connection counted in is gone."""
        self.connections -= 1
        network = network_of(peer)
        if network:
            self._connections_of[network] -= 1
            if not self._connections_of[network]:
                del self._connections_of[network]

    def log(self, request: http.Request) -> None:
        """Write the access log's line."""
        arguments = mask_arguments(request.args)
        target = mask_path(request.path or b"-") + (f"?{arguments}" if arguments else "")
        self._write_line(
            getattr(request.client, "host", "-"),
            f"{request.method.decode('latin-1')[:20]} {target} {request.clientproto.decode('latin-1')}",
            request.code,
            request.sentLength,
            getattr(request, "note", ""),
        )

    def log_refusal(self, peer: IAddress, status: int) -> None:
        """Write the line of what was not even a request."""
        self._write_line(getattr(peer, "host", "-"), "-", status, 0)

    def _write_line(self, peer: str, request: str, status: int, octets: int, note: str = "") -> None:
        self._lines.append(f'{peer} "{request}" {status} {octets}{note}')
        if len(self._lines) == 1:
            self.reactor.callLater(0, self._write_lines)

    def _write_lines(self) -> None:
        """Give the logger the lines of one turn of the reactor as one event: under load that is dozens.

        One by one, the logger's formatting of the time and its flush cost as much as all else about a request.
        """
        lines, self._lines = self._lines, []
        if lines:
            self.logger.info("{lines}", lines="\n".join(lines))


def network_of(peer: IAddress) -> str:
    """Return what counts as one client: an IPv4 address or an IPv6 /64; empty for a Unix socket."""
    if isinstance(peer, IPv4Address):
        return peer.host
    if not isinstance(peer, IPv6Address):
        return ""
    address = ipaddress.IPv6Address(peer.host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
