"""The small parts that all of SIP's header fields are made of (RFC 3261 §25): tokens, quoted strings, lists.

Scanned by hand, each in one pass: the time taken grows with the length of the text and nothing else. Text is
what `message.parse` made of the octets; it may hold any character but CR and LF.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from calledind.sip.message import Request

Parameters = tuple[tuple[str, str | None], ...]
"Names and values as they were written, in order; None where there is no `=`. Quoted values keep their quotes."

LWS = " \t"
"What may stand between the parts of a header field. Not `str.strip()`'s idea: Latin-1 has other spaces."

_ALPHANUMERIC = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_TOKEN = frozenset(_ALPHANUMERIC + "-.!%*_+`'~")
_HOST = frozenset(_ALPHANUMERIC + "-._")
"The underscore is in no RFC and in many names of machines."
_ESCAPED = "\\"
_NOT_IN_URI = frozenset([*map(chr, range(33)), "\x7f", "<", ">", '"'])


_Parsed = TypeVar("_Parsed")
_REMEMBERED = 1024
"Texts."
_LONGEST_REMEMBERED = 256
"Characters: whatever comes from the network, no more than some hundred KiB are remembered."


def remembered(read: Callable[[type[_Parsed], str], _Parsed]) -> Callable[[type[_Parsed], str], _Parsed]:
    """Make a class's reader of texts remember what it read last; for what can't be changed once it is read.

    The messages of a call repeat each other: a Via comes back in each response, From and To are in all messages.
    """
    remembering = lru_cache(_REMEMBERED)(read)

    def look(cls: type[_Parsed], text: str) -> _Parsed:
        if len(text) > _LONGEST_REMEMBERED:
            return read(cls, text)
        return remembering(cls, text)  # type: ignore[arg-type] # mypy doubts that a class can be hashed

    return look


class ParseError(ValueError):
    """A message, or a part of one, that isn't as its RFC says.

    `status` is what a request is answered with because of it: 400, 416 (a URI scheme that we don't know) or 505
    (not SIP/2.0). `request` is the request as far as it could be read, for `message.response_to`; None where
    there is nothing to answer.
    """

    def __init__(self, words: str, *, status: int = 400, request: Request | None = None) -> None:
        super().__init__(words)
        self.status = status
        self.request = request


def is_token(text: str) -> bool:
    """Whether this is a `token`: a method, a header's name, a parameter's name."""
    return bool(text) and _TOKEN.issuperset(text)


def number(text: str, largest: int = 2**32 - 1) -> int:
    """Read a whole number in ASCII digits. Raises `ParseError` when it is none, or more than `largest`."""
    # Ten digits are enough for 32 bits; int() of many more would take its time.
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > largest:
        raise ParseError(f"not a number from 0 to {largest}")
    return int(text)


def end_of_quoted(text: str, start: int) -> int:
    """Return where the quoted string that opens at `start` closes. Raises `ParseError` when it doesn't."""
    at = start + 1
    quote = text.find('"', at)
    while quote >= 0:
        escape = text.find(_ESCAPED, at, quote)
        if escape < 0:
            return quote
        at = escape + 2
        if at > quote:  # the quote itself was escaped
            quote = text.find('"', at)
    raise ParseError("a quoted string does not end")


def unquote(text: str) -> str:
    """Return what a quoted string means; other text is returned as it is."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    inner = text[1:-1]
    if _ESCAPED not in inner:
        return inner
    # A doubled backslash is set aside first, so that it does not escape what follows it.
    parts = inner.split(_ESCAPED * 2)
    return _ESCAPED.join(part.replace(_ESCAPED, "") for part in parts)


def quote(text: str) -> str:
    """Write a quoted string."""
    return '"' + text.replace(_ESCAPED, _ESCAPED * 2).replace('"', _ESCAPED + '"') + '"'


def split(text: str, separator: str) -> list[str]:
    """Cut at a separator that stands neither in a quoted string nor between < and >; strip the parts.

    Raises `ParseError` when a quote or a < has no end.
    """
    if separator not in text:
        return [text.strip(LWS)]
    if '"' not in text and "<" not in text:
        return [part.strip(LWS) for part in text.split(separator)]
    parts = []
    start = at = 0
    while at < len(text):
        character = text[at]
        if character == separator:
            parts.append(text[start:at].strip(LWS))
            start = at + 1
        elif character == '"':
            at = end_of_quoted(text, at)
        elif character == "<":
            at = text.find(">", at)
            if at < 0:
                raise ParseError("a < has no >")
        at += 1
    parts.append(text[start:].strip(LWS))
    return parts


def split_list(text: str) -> list[str]:
    """Cut a header's value at its commas. Empty elements are left out, as RFC 7230 §7 teaches a reader to."""
    return [element for element in split(text, ",") if element]


def parse_parameters(text: str) -> Parameters:
    """Read "a=b;c", without the first semicolon. Raises `ParseError`."""
    parameters: list[tuple[str, str | None]] = []
    for part in split(text, ";"):
        name, equals, value = part.partition("=")
        name = name.rstrip(LWS)
        if not is_token(name):
            raise ParseError("a parameter has no proper name")
        if not equals:
            parameters.append((name, None))
            continue
        value = value.lstrip(LWS)
        if value.startswith('"'):
            if end_of_quoted(value, 0) != len(value) - 1:
                raise ParseError("something follows a quoted value")
        # A lone < or quote would swallow the parameter that is written behind it later.
        elif not value or " " in value or "\t" in value or "<" in value or '"' in value:
            raise ParseError("a parameter's value is empty, or has what only a quoted one may have")
        parameters.append((name, value))
    return tuple(parameters)


def parameter(parameters: Parameters, name: str) -> str | None:
    """Return the value of a parameter without its quotes, "" for one that is only there, None for one that isn't.

    `name` in lower case; the first of several counts.
    """
    for key, value in parameters:
        if key == name or key.lower() == name:
            return unquote(value) if value is not None else ""
    return None


def with_parameter(parameters: Parameters, name: str, value: str | None) -> Parameters:
    """Set a parameter: in its place where it is there already, at the end where it isn't."""
    if parameter(parameters, name) is None:
        return (*parameters, (name, value))
    return tuple((key, value if key.lower() == name else old) for key, old in parameters)


def format_parameters(parameters: Parameters) -> str:
    """Write ";a=b;c", or nothing."""
    return "".join([f";{name}" if value is None else f";{name}={value}" for name, value in parameters])


def parse_host_port(text: str) -> tuple[str, int | None]:
    """Read "host", "host:port", "[IPv6]" or "[IPv6]:port".

    Returns the host without brackets and the port, None where there is none. Raises `ParseError`.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise ParseError("an IPv6 reference does not end")
        host = _ipv6(host)
        rest = rest.lstrip(LWS)
        colon, port = rest[:1], rest[1:]
        if colon and colon != ":":
            raise ParseError("something follows an IPv6 reference")
    else:
        host, colon, port = text.partition(":")
        host = host.rstrip(LWS)
        if not host or not _HOST.issuperset(host):
            raise ParseError("a host is missing or has characters that no host has")
    return host, number(port.strip(LWS), 65535) if colon else None


def _ipv6(text: str) -> str:
    """Return an IPv6 address as it was written. Raises `ParseError` where it is none, or has a zone."""
    if "." in text:
        # RFC 3261's grammar puts a third colon before an IPv4 part; it has to be borne with (RFC 5118 §4.10).
        text = text.replace(":::", "::", 1)
    try:
        if "%" not in text:
            ipaddress.IPv6Address(text)
            return text
    except ValueError:
        pass
    raise ParseError("not an IPv6 address")


def format_host(host: str) -> str:
    """Write a host with the brackets that an IPv6 address needs."""
    return f"[{host}]" if ":" in host else host


def check_uri_text(text: str) -> None:
    """Raise `ParseError` where this can't be a URI of any scheme (spaces, brackets, no scheme)."""
    scheme, colon, rest = text.partition(":")
    if not colon or not rest or not scheme.isascii() or not scheme[:1].isalpha() or not is_token(scheme):
        raise ParseError("a URI has no scheme")
    if not _NOT_IN_URI.isdisjoint(text):
        raise ParseError("a URI has a space, a quote or a bracket")
