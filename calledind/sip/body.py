"""Finding the session description in a message's body, which may be one part of several (RFC 5621)."""

from __future__ import annotations

from typing import Final

from calledind.sip.grammar import ParseError, parameter, parse_parameters
from calledind.sip.message import Request, Response

SDP: Final = "application/sdp"


def session_description(message: Request | Response) -> bytes:
    """Return the SDP in the message's body, empty where there is none.

    A body without Content-Type that begins like SDP is taken for it.
    """
    kind = message.content_type
    if kind == SDP or (message.get("Content-Type") is None and message.body.startswith(b"v=0")):
        return message.body
    if kind is not None and kind.startswith("multipart/"):
        return _part(message)
    return b""


def _part(message: Request | Response) -> bytes:
    _, _, tail = (message.get("Content-Type") or "").partition(";")
    try:
        boundary = (parameter(parse_parameters(tail), "boundary") or "").strip('"')
    except ParseError:
        return b""
    if not boundary:
        return b""
    delimiter = b"\r\n--" + boundary.encode("utf-8", "replace")
    for part in (b"\r\n" + message.body).split(delimiter)[1:]:
        head, _, content = part.lstrip(b" \t").partition(b"\r\n\r\n")
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            kind = value.partition(b";")[0].strip().lower()
            if name.strip().lower() in (b"content-type", b"c") and kind == SDP.encode():
                return content
    return b""
