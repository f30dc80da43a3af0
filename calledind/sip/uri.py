"""URIs that calls go to (RFC 3261 §19.1; tel: RFC 3966)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote as percent_encode
from urllib.parse import unquote as percent_decode

from calledind.sip.grammar import (
    Parameters,
    ParseError,
    check_uri_text,
    format_host,
    format_parameters,
    parameter,
    parse_host_port,
    remembered,
)

USER_UNRESERVED = "-_.!~*'()&=+$,;?/"
"What stands for itself before the @, besides letters and digits (§25.1: mark, user-unreserved)."
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def escape_user(text: str) -> str:
    """Write any text as a URI's user part: "#" becomes "%23". What is written as an escape already stays one."""
    return percent_encode(_PERCENT.sub("%25", text), safe=USER_UNRESERVED + "%", errors="replace")


@dataclass(frozen=True, slots=True)
class Uri:
    """A sip, sips or tel URI. The parts are kept as they were written, escapes and all, so that `str` gives them back.

    Raises `ParseError` from `parse`, with status 416 for another scheme.
    """

    scheme: str
    '"sip", "sips" or "tel".'
    user: str = ""
    'Before the @, such as "+12125550100"; of a tel URI the number.'
    host: str = ""
    "Name or address, IPv6 without brackets; empty in a tel URI."
    port: int | None = None
    parameters: Parameters = ()
    headers: Parameters = ()
    "After the ?, of a sip or sips URI."
    password: str | None = None

    @classmethod
    @remembered
    def parse(cls, text: str) -> Uri:
        check_uri_text(text)
        scheme, _, rest = text.partition(":")
        scheme = scheme.lower()
        if scheme == "tel":
            user, semicolon, tail = rest.partition(";")
            if not user:
                raise ParseError("a tel URI has no number")
            return cls(scheme, user, parameters=_parameters(tail) if semicolon else ())
        if scheme not in ("sip", "sips"):
            raise ParseError("a URI's scheme is not sip, sips or tel", status=416)
        # The user part may itself have ; and ?, so the @ is looked for first.
        userinfo, at, rest = rest.partition("@")
        if not at:
            userinfo, rest = "", userinfo
        elif not userinfo:
            raise ParseError("a URI has nothing before its @")
        user, colon, password = userinfo.partition(":")
        rest, question, headers = rest.partition("?")
        rest, semicolon, tail = rest.partition(";")
        host, port = parse_host_port(rest)
        return cls(
            scheme,
            user,
            host,
            port,
            _parameters(tail) if semicolon else (),
            _headers(headers) if question else (),
            password if colon else None,
        )

    @property
    def username(self) -> str:
        """The user part with its %xx resolved; octets that aren't UTF-8 become U+FFFD."""
        return percent_decode(self.user, errors="replace")

    def parameter(self, name: str) -> str | None:
        """Return a parameter's value, "" where it has none, None where it isn't there. `name` in lower case."""
        return parameter(self.parameters, name)

    def __str__(self) -> str:
        text = self.scheme + ":" + self.user
        if self.scheme != "tel":
            if self.password is not None:
                text += ":" + self.password
            if self.user or self.password is not None:
                text += "@"
            text += format_host(self.host)
            if self.port is not None:
                text += f":{self.port}"
        if self.parameters:
            text += format_parameters(self.parameters)
        if self.headers:
            text += "?" + "&".join(name if value is None else f"{name}={value}" for name, value in self.headers)
        return text


def _parameters(text: str) -> Parameters:
    # A URI's parameters have no quoted strings; what looks like a list to the header's grammar isn't one here.
    parameters = []
    for part in text.split(";"):
        name, equals, value = part.partition("=")
        if not name or (equals and not value):
            raise ParseError("a URI's parameter has no name or no value")
        parameters.append((name, value if equals else None))
    return tuple(parameters)


def _headers(text: str) -> Parameters:
    headers = []
    for part in text.split("&"):
        name, equals, value = part.partition("=")
        if not name:
            raise ParseError("a URI's header has no name")
        headers.append((name, value if equals else None))
    return tuple(headers)
