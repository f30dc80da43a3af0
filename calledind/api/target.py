"""The request target of RFC 9112 §3.2, and the arguments of its query."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import unquote_to_bytes

Arguments = dict[bytes, list[bytes]]
REPEATED = frozenset((b"mp3", b"callback_url"))
"Parameters that are long, and the same in many requests. Secrets and numbers are not remembered."


class BadTarget(ValueError):
    """The request target is neither in origin-form nor an absolute http or https URL."""


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Return path and query, both still percent-encoded. Raises `BadTarget`.

    Proxies and old clients send the absolute-form, which a server must take too (RFC 9112 §3.2.2).
    """
    if not target.startswith(b"/"):
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise BadTarget("the request target must begin with / or http://")
        end = min((place for place in (rest.find(b"/"), rest.find(b"?")) if place >= 0), default=len(rest))
        target = rest[end:]
        if not target.startswith(b"/"):
            target = b"/" + target
    path, _, query = target.partition(b"?")
    return path, query


def parse_query(query: bytes) -> Arguments:
    """Return the query's arguments in the order given, each with all its values.

    As forms are encoded (WHATWG URL §5.1): only & separates, + is a space, a name without = has an empty value,
    and a % that no two hexadecimal digits follow stands for itself.
    """
    arguments: Arguments = {}
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            if b"%" in pair or b"+" in pair:
                value = _remembered(value) if name in REPEATED else _decode(value)
                name = _decode(name)
            if name in arguments:
                arguments[name].append(value)
            else:
                arguments[name] = [value]
    return arguments


def _decode(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


_remembered = lru_cache(maxsize=1024)(_decode)
