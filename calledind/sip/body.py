"""Finding the session description in a message's body, which may be one part of several (RFC 5621)."""

from __future__ import annotations

from typing import Final

from calledind.sip.grammar import ParseError, parameter, parse_parameters
from calledind.sip.message import Request, Response

SDP: Final = "application/sdp"
_DEEPEST: Final = 3
"Parts within parts that are looked into."


def session_description(message: Request | Response) -> bytes:
    """Return the SDP in the message's body, empty where there is none.

    A body without Content-Type that begins like SDP is taken for it.
    """
    kind = message.content_type
    if kind == SDP or (message.get("Content-Type") is None and message.body.startswith(b"v=0")):
        return message.body if _is_of_session(message.get("Content-Disposition")) else b""
    if kind is not None and kind.startswith("multipart/"):
        return _part(message.get("Content-Type") or "", message.body)
    return b""


def is_understood(message: Request | Response) -> bool:
    """Whether there is no body, one of a kind that we know, or one that we may ignore (RFC 3261 §8.2.3, §20.11)."""
    if not message.body or "handling=optional" in (message.get("Content-Disposition") or "").replace(" ", "").lower():
        return True
    if (message.get("Content-Encoding") or "identity").lower() != "identity":
        return False
    kind = message.content_type or ""
    return kind == SDP or kind.startswith("multipart/") or message.get("Content-Type") is None


def admits_sdp(message: Request | Response) -> bool:
    """Whether a response with SDP is welcome (§20.1). A message without Accept has nothing against it."""
    ranges = message.all("Accept")
    kinds = {each.partition(";")[0].replace(" ", "").lower() for value in ranges for each in value.split(",")}
    return not ranges or not kinds.isdisjoint((SDP, "application/*", "*/*"))


def _part(content_type: str, body: bytes, depth: int = _DEEPEST) -> bytes:
    "The first part, or part of a part, that describes the session."
    _, _, tail = content_type.partition(";")
    try:
        boundary = (parameter(parse_parameters(tail), "boundary") or "").strip('"')
    except ParseError:
        return b""
    if not boundary:
        return b""
    delimiter = b"\r\n--" + boundary.encode("utf-8", "replace")
    for part in (b"\r\n" + body).split(delimiter)[1:]:
        head, _, content = part.lstrip(b" \t").partition(b"\r\n\r\n")
        fields = (line.partition(":") for line in head.decode("utf-8", "replace").split("\r\n"))
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        kind = headers.get("content-type") or headers.get("c") or ""
        if kind.lower().startswith("multipart/") and depth > 0:
            if found := _part(kind, content, depth - 1):
                return found
        elif kind.partition(";")[0].strip().lower() == SDP and _is_of_session(headers.get("content-disposition")):
            return content
    return b""


def _is_of_session(disposition: str | None) -> bool:
    "Whether it isn't that of the early media alone, which has an answer of its own (RFC 3959)."
    return (disposition or "").partition(";")[0].strip().lower() != "early-session"
