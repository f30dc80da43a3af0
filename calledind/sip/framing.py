"""Where one message ends and the next begins on a stream (RFC 3261 §18.3; keep-alives: RFC 5626 §4.4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from calledind.sip.grammar import ParseError
from calledind.sip.message import LONGEST, Request, Response, parse_head


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Empty lines between messages: four octets ask for a sign of life, two give it."""

    ping: bool
    "CRLF CRLF, to be answered with one CRLF; False for that answer, or half of a ping that came in two pieces."


class StreamFramer:
    """Cuts a stream into messages; holds at most one unfinished message.

    Once `feed` has raised `ParseError` nobody knows where the next message begins: the connection is to be
    closed, after an answer to the error's `request` where there is one. Further octets raise it again.
    """

    def __init__(self, *, longest: int = LONGEST) -> None:
        self._longest = longest
        self._buffer = bytearray()
        self._searched = 0
        "No empty line begins before this octet of the buffer."
        self._head: Request | Response | None = None
        "Read, and waiting for the rest of its body."
        self._length = 0
        self._error: ParseError | None = None

    def feed(self, data: bytes) -> list[Request | Response | Keepalive]:
        """Take octets as they come, and return what they complete, in order. Raises `ParseError`.

        What was complete before the error is returned first; the error is raised by the next call, which may be
        `feed(b"")`.
        """
        found: list[Request | Response | Keepalive] = []
        if self._error is None:
            self._buffer += data
            try:
                while (item := self._next()) is not None:
                    found.append(item)
            except ParseError as error:
                self._error = error
                self._buffer.clear()
        if self._error is not None and not found:
            raise self._error
        return found

    def _next(self) -> Request | Response | Keepalive | None:
        if self._head is None:
            keepalive = self._keepalive()
            if keepalive is not None:
                return keepalive
            self._head = self._read_head()
            if self._head is None:
                return None
        if len(self._buffer) < self._length:
            return None
        message, self._head = self._head, None
        message.body = bytes(self._buffer[: self._length])
        del self._buffer[: self._length]
        return message

    def _keepalive(self) -> Keepalive | None:
        if self._searched == 0 and self._buffer.startswith(b"\r\n"):
            # A lone CRLF may be the first half of a ping whose second half is on its way: who knows whether a pong
            # is due can tell.
            ping = self._buffer.startswith(b"\r\n\r\n")
            del self._buffer[: 4 if ping else 2]
            return Keepalive(ping)
        return None

    def _read_head(self) -> Request | Response | None:
        end = self._end_of_head()
        if end is None:
            if len(self._buffer) > self._longest:
                raise ParseError("the headers are too long", status=513)
            return None
        message, length, _, error = parse_head(bytes(self._buffer[:end]))
        request = message if isinstance(message, Request) else None
        if error is not None or length is None:
            raise ParseError(error or "Content-Length is missing", request=request)
        if end + length > self._longest:
            raise ParseError("the message is too long", status=513, request=request)
        del self._buffer[:end]
        self._searched, self._length = 0, length
        return message

    def _end_of_head(self) -> int | None:
        """Return where the empty line ends; None before it has come."""
        ends = [
            at + len(end)
            for end in (b"\r\n\r\n", b"\n\n", b"\n\r\n")
            if (at := self._buffer.find(end, self._searched)) >= 0
        ]
        if not ends:
            self._searched = max(0, len(self._buffer) - 3)
        return min(ends, default=None)
