# mypy: allow-untyped-calls
"""One connection of a client, within bounds that no octet of the client's can move.

A connection is at one of four stages, each with its own deadline:

    HEAD      waiting for a request line and headers       HEAD_SECONDS from the first octet (or the connection) on
    HANDLING  a resource is answering                      none here: the resource has bounds of its own
    IDLE      answered, the next request may come          IDLE_SECONDS
    CLOSING   the last octets are on their way             CLOSING_SECONDS, then it is aborted

When the site says goodbye (`Site.finish`), each answer says that it is the last one of its connection, and one that
has been idle for a while is closed for writing first, so that a request that crosses with that meets no reset.

A request that is broken, or has a body that nobody wants, is answered before the rest of it is read. The connection
is then closed for writing, and what still arrives is thrown away for a moment: closed at once, the kernel
would send a reset, and the client would lose the answer that says what it did wrong (RFC 9112 §9.6).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IAddress, IDelayedCall, IHalfCloseableDescriptor
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http_headers import Headers

if TYPE_CHECKING:
    from calledind.api.site import Site

HEAD_OCTETS = 8 * 1024
"Of request line and headers together."
HEAD_FIELDS = 100
HEAD_SECONDS = 5.0
IDLE_SECONDS = 60.0
CLOSING_SECONDS = 2.0
PARTING_SECONDS = 1.0
"That an idle connection may still bring a request when the site says goodbye."
BODY_SECONDS = 600.0
"For the whole of a body, where bodies are taken."
CLOSING_OCTETS = 256 * 1024
"Thrown away of what a refused client goes on sending."
LARGE = 64 * 1024
"Octets of a stranger's body that has to find room."
MOST_LARGE = 16
"Such bodies that are read, or whose request is being answered, at the same time."
BURST = 32
"Requests taken out of one read; a peer that pipelines more is cut off, so that others have their turn."
PLAIN = re.compile(rb"GET ([!-~]+) HTTP/1\.1\r\n(.+)\r\n\r\n", re.DOTALL)
"A request as nearly all are: its target and its header lines."
FIELD = re.compile(rb"([-!#$%&'*+.^_`|~0-9A-Za-z]+):([^\x00\r\n]*)")
"""A header line. The white space around the value is taken off afterwards: an expression that did so would try each
place of a long run of it, for each other, before it says no."""
UNUSUAL = frozenset((b"content-length", b"transfer-encoding", b"expect", b"authorization"))
"Headers that say more than what is asked for, or what is not to be remembered."
LOOK_SECONDS = 5.0
"How often a connection's deadline is looked at, so that moving it costs nothing."

WORDS = {
    400: (b"Bad Request", b"this is not an HTTP request"),
    408: (b"Request Timeout", b"the request took too long to arrive"),
    411: (b"Length Required", b"send a Content-Length"),
    413: (b"Content Too Large", b"the request has a body, or too large a one"),
    431: (b"Request Header Fields Too Large", b"request line and headers are longer than 8 KiB together"),
    503: (b"Service Unavailable", b"too much comes at once; try again in a second"),
}


class Stage(Enum):
    HEAD = "head"
    HANDLING = "handling"
    IDLE = "idle"
    CLOSING = "closing"


class Channel(http.HTTPChannel):
    """HTTP/1.0 and 1.1 on one connection."""

    MAX_LENGTH = HEAD_OCTETS
    totalHeadersSize = HEAD_OCTETS
    maxHeaders = HEAD_FIELDS
    site: Site
    transport: Any
    "Whatever carries a connection: TCP, Unix or TLS."

    def __init__(self) -> None:
        super().__init__()
        self.unwanted_body = False
        "The request being read has a body, and it will be refused."
        self._stage = Stage.HEAD
        self._deadline = math.inf
        self._watch: IDelayedCall | None = None
        self._discarded = 0
        self._burst = 0
        self._heard = False
        self._took_body = False
        self._has_room = False
        "For the large body of its request."
        "The request that was read last had a body."
        self._parting = False
        "The peer was idle, and may still not have seen that we leave."
        self._counted = False
        self._peer: IAddress | None = None
        self._host: IAddress | None = None
        self._head = b""
        "Of a response, waiting for the first octets of its body."
        self._at_once = False
        "Whether what is written may go to the kernel before this turn of the reactor is over."

    # the connection's life

    def connectionMade(self) -> None:
        super().connectionMade()
        self._move(Stage.HEAD, HEAD_SECONDS)
        self._look()
        # TLS has its octets to turn into others first.
        self._at_once = isinstance(self.transport, FileDescriptor)
        self.site.channels.add(self)
        self._counted = self.site.count_in(self.getPeer())
        if not self._counted and self.isSecure():
            # Words would cost a handshake.
            self.abort()
        elif not self._counted:
            self.refuse(503)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._at_once = False
        self._leave_room()
        self.site.channels.discard(self)
        if self._counted:
            self._counted = False
            self.site.count_out(self.getPeer())
        if self._watch is not None and self._watch.active():
            self._watch.cancel()
        self._watch = None
        super().connectionLost(reason)

    def getPeer(self) -> IAddress:
        """Asked for with every request; neither end of a connection ever moves."""
        if self._peer is None:
            self._peer = super().getPeer()
        return self._peer

    def getHost(self) -> IAddress:
        if self._host is None:
            self._host = super().getHost()
        return self._host

    def loseConnection(self) -> None:
        """Close when what was written has left."""
        self._close(linger=self.unwanted_body or bool(self._dataBuffer))

    def abort(self) -> None:
        """Close now."""
        self._move(Stage.CLOSING, CLOSING_SECONDS)
        self.transport.abortConnection()

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, or may be on its way on a connection that is new."""
        return self._stage in (Stage.HEAD, Stage.HANDLING)

    def part(self) -> None:
        """The site says goodbye: close what is idle, or would never come to an end by itself."""
        if self._stage is Stage.IDLE and self._deadline - IDLE_SECONDS + PARTING_SECONDS <= self.site.reactor.seconds():
            self._parting = True
            self._close(linger=True)
        elif self.requests and getattr(self.requests[0], "endless", False):
            self.loseConnection()

    def refuse(self, status: int, *, linger: bool = True) -> None:
        """Answer what is not even a request, and close."""
        phrase, words = WORDS[status]
        head = (
            b"HTTP/1.1 %d %s\r\n"
            b"Content-Type: text/plain; charset=utf-8\r\n"
            b"Content-Length: %d\r\n"
            b"Connection: close\r\n\r\n"
        )
        self.transport.write(head % (status, phrase, len(words) + 1) + words + b"\n")
        self.site.log_refusal(self.getPeer(), status)
        self.clearLineBuffer()
        self._close(linger=linger)

    def _close(self, *, linger: bool) -> None:
        if self._stage is Stage.CLOSING:
            return
        self._move(Stage.CLOSING, CLOSING_SECONDS)
        self._look()
        half_closeable: bool = IHalfCloseableDescriptor.providedBy(self.transport) and not self.isSecure()
        if linger and half_closeable:
            self.transport.unregisterProducer()
            self.transport.resumeProducing()
            self.transport.loseWriteConnection()
        else:
            # TLS lingers by itself: it waits for the peer's close_notify.
            super().loseConnection()

    # what is written

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        fields = [b"%b: %b\r\n" % (name, value) for name, values in headers.getAllRawHeaders() for value in values]
        self._head = b"%b %b %b\r\nDate: %b\r\n%b\r\n" % (version, code, reason, self.site.date(), b"".join(fields))

    def write(self, data: bytes) -> None:
        """Write at once what the kernel takes, in one piece with the headers where these are still here.

        A transport of Twisted's would keep it for the next turn of the reactor, and have epoll changed twice for it.
        """
        data, self._head = self._head + data, b""
        if self._at_once and self._stage is not Stage.CLOSING:
            sent = self.transport.writeSomeData(data)
            if sent == len(data):
                return
            # From here on the transport has octets of ours, and what comes later must queue up behind them.
            self._at_once = False
            if isinstance(sent, int):
                data = data[sent:]
        self.transport.write(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    # deadlines

    def _move(self, stage: Stage, seconds: float) -> None:
        self._stage = stage
        self._deadline = self.site.reactor.seconds() + seconds

    def _look(self) -> None:
        """Act on a deadline that has passed, else look again when it will have, or a little earlier."""
        if self._watch is not None and self._watch.active():
            self._watch.cancel()
        left = self._deadline - self.site.reactor.seconds()
        if left > 0:
            self._watch = self.site.reactor.callLater(min(left, LOOK_SECONDS), self._look)
        elif self._stage is Stage.HEAD and self._heard:
            self.refuse(408, linger=False)
        elif self._stage in (Stage.HEAD, Stage.IDLE):
            self.loseConnection()
        elif self._parting:
            # Not aborted: that would be a reset. It may not have looked yet.
            self.transport.loseConnection()
        else:
            self.transport.abortConnection()

    # what arrives

    def dataReceived(self, data: bytes) -> None:
        if self._stage is Stage.CLOSING:
            self._discard(data)
            return
        if self._stage is Stage.IDLE and data:
            self._took_body = False
            self._move(Stage.HEAD, HEAD_SECONDS)
        self._burst = 0
        self._heard = True
        if self.requests or self._buffer or not self._take_whole(data):
            super().dataReceived(data)
        # What follows a request in the same read is the beginning of the next one.
        if self._stage is Stage.IDLE and not self._took_body and not data.endswith(b"\r\n\r\n"):
            self._move(Stage.HEAD, HEAD_SECONDS)

    def _take_whole(self, data: bytes) -> bool:
        """Take a plain request that came alone and in one piece; the others go the general way, line by line."""
        alone = data.find(b"\r\n\r\n") == len(data) - 4 <= HEAD_OCTETS
        if not alone or self._busyReceiving or not self.persistent:
            return False
        plain = PLAIN.fullmatch(data)
        headers = None if plain is None else plain_headers(plain[2])
        if plain is None or headers is None:
            return False
        self._command, self._path, self._version = b"GET", plain[1], b"HTTP/1.1"
        request = self.requestFactory(self)
        request.requestHeaders = headers
        self.requests.append(request)
        self.persistent = self.checkPersistence(request, self._version)
        self.allContentReceived()
        return True

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > CLOSING_OCTETS:
            self.transport.abortConnection()

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(431)

    def headerReceived(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name == b"transfer-encoding":
            if self._bounds()[0]:
                self.refuse(411)
                return False
            self.unwanted_body = True
            return True
        if name == b"content-length" and not self._wants(value.strip(b" \t")):
            return self._stage is not Stage.CLOSING
        return bool(super().headerReceived(line))

    def _wants(self, length: bytes) -> bool:
        """Whether a body of this length is to be read."""
        if not length.isdigit():
            self.refuse(400)
            return False
        digits = length.lstrip(b"0")
        if not digits:
            return False
        largest, _ = self._bounds()
        if not largest:
            self.unwanted_body = True
            return False
        if len(digits) > 15 or int(digits) > largest:
            self.refuse(413)
            return False
        if int(digits) > LARGE and self.site.find_opening(self._path) is not None and not self._find_room():
            self.refuse(503)
            return False
        return True

    def _find_room(self) -> bool:
        """Whether one more large body may be read; its room is given back when its request is done."""
        if not self._has_room and self.site.large >= MOST_LARGE:
            return False
        self.site.large += not self._has_room
        self._has_room = True
        return True

    def _leave_room(self) -> None:
        self.site.large -= self._has_room
        self._has_room = False

    def allHeadersReceived(self) -> None:
        super().allHeadersReceived()
        if self.length:
            self._took_body = True
            self._move(Stage.HEAD, self._bounds()[1])

    def _bounds(self) -> tuple[int, float]:
        """Return how many octets the body of the request may have that is being read, and the seconds for it."""
        opening = self.site.find_opening(self._path)
        if opening is not None:
            return opening.largest, opening.seconds
        return self.site.max_body, BODY_SECONDS

    def checkPersistence(self, request: http.Request, version: bytes) -> bool:
        self._burst += 1
        wishes = request.requestHeaders.getRawHeaders(b"connection", ())
        last = self.unwanted_body or self._burst >= BURST or self.site.closing
        if version == b"HTTP/1.1" and not last and not _asks_to_close(wishes):
            return True
        request.responseHeaders.setRawHeaders(b"connection", [b"close"])
        return False

    def allContentReceived(self) -> None:
        self._stage = Stage.HANDLING
        self._deadline = math.inf
        super().allContentReceived()

    def requestDone(self, request: http.Request) -> None:
        self._leave_room()
        if self._head:
            self.write(b"")
        if self._stage is Stage.HANDLING:
            self._move(Stage.IDLE, IDLE_SECONDS)
        super().requestDone(request)

    def _send100Continue(self) -> None:
        """Only who sends a body that is taken is told to go on."""
        if self.length:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse(431 if self._receivedHeaderSize > self.totalHeadersSize else 400)


@lru_cache(maxsize=256)
def plain_headers(block: bytes) -> Headers | None:
    """Read header lines; None where there is anything about them for which the general way has an answer of its own.

    A program sends the same lines again and again, so what they come to is remembered. It must not be changed.
    """
    headers = Headers()
    lines = block.split(b"\r\n", HEAD_FIELDS)
    if len(lines) > HEAD_FIELDS:
        return None
    for line in lines:
        field = FIELD.fullmatch(line)
        if field is None or field[1].lower() in UNUSUAL:
            return None
        headers.addRawHeader(field[1], field[2].strip(b" \t"))
    return headers


def _asks_to_close(wishes: Sequence[bytes]) -> bool:
    """Read the values of Connection headers."""
    return bool(wishes) and b"close" in [token.strip() for token in b",".join(wishes).lower().split(b",")]
