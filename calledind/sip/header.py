"""The header fields that a user agent reads (RFC 3261 §20; Reason: RFC 3326)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from calledind.model import Address
from calledind.sip.grammar import (
    LWS,
    Parameters,
    ParseError,
    check_uri_text,
    end_of_quoted,
    format_host,
    format_parameters,
    is_token,
    number,
    parameter,
    parse_host_port,
    parse_parameters,
    quote,
    remembered,
    unquote,
    with_parameter,
)
from calledind.sip.uri import Uri

COMPACT = {
    "a": "Accept-Contact",
    "b": "Referred-By",
    "c": "Content-Type",
    "d": "Request-Disposition",
    "e": "Content-Encoding",
    "f": "From",
    "i": "Call-ID",
    "j": "Reject-Contact",
    "k": "Supported",
    "l": "Content-Length",
    "m": "Contact",
    "n": "Identity-Info",
    "o": "Event",
    "r": "Refer-To",
    "s": "Subject",
    "t": "To",
    "u": "Allow-Events",
    "v": "Via",
    "x": "Session-Expires",
    "y": "Identity",
}
"Compact form -> name, as registered with IANA."

_KNOWN = """
    Accept Accept-Encoding Accept-Language Alert-Info Allow Authentication-Info Authorization Call-Info CSeq
    Content-Disposition Content-Language Date Diversion Error-Info Expires Flow-Timer History-Info In-Reply-To
    Join MIME-Version Max-Forwards Min-Expires Min-SE Organization P-Access-Network-Info P-Asserted-Identity
    P-Charging-Vector P-Early-Media P-Preferred-Identity Path Priority Privacy Proxy-Authenticate Proxy-
    Authorization Proxy-Require RAck RSeq Reason Record-Route Remote-Party-ID Replaces Reply-To Require Retry-
    After Route SIP-ETag SIP-If-Match Server Service-Route Session-ID Subscription-State Timestamp Unsupported
    User-Agent WWW-Authenticate Warning
"""

_BY_LOWER = COMPACT | {name.lower(): name for name in (*COMPACT.values(), *_KNOWN.split())}
CANONICAL = (
    _BY_LOWER | {name: name for name in _BY_LOWER.values()} | {short.upper(): COMPACT[short] for short in COMPACT}
)
"A header's name as usually written -> as its RFC writes it."


def canonical(name: str) -> str | None:
    """Return a header's name as its RFC writes it, unknown ones as they are, None for what can't be a name."""
    known = CANONICAL.get(name)
    if known is not None:
        return known
    name = name.rstrip(LWS)
    return _BY_LOWER.get(name.lower(), name) if is_token(name) else None


def any_spelling(name: str) -> str:
    """Return what all spellings of a header's name have in common: its RFC's, or lower case where it is unknown."""
    name = name.lower()
    return _BY_LOWER.get(name, name)


@dataclass(frozen=True, slots=True)
class NameAddr:
    """An address with a name: From, To, Contact, Route, Record-Route, P-Asserted-Identity... (§20.10)."""

    display_name: str
    "What it means, without quotes and escapes; may be empty."
    uri: str
    "As it was written, of any scheme, without < and >."
    parameters: Parameters = ()
    "Of the header, such as tag; those of the URI are in it."

    @classmethod
    @remembered
    def parse(cls, text: str) -> NameAddr:
        text = text.strip(LWS)
        if text.startswith('"'):
            close = end_of_quoted(text, 0)
            display_name = unquote(text[: close + 1])
            left = close + 1
            while text[left : left + 1] in (" ", "\t"):
                left += 1
            if text[left : left + 1] != "<":
                raise ParseError("no < follows a quoted display name")
        else:
            left = text.find("<")
            # Display names that ought to have been quoted are taken as they are (RFC 4475 §3.1.2.15).
            display_name = text[:left].rstrip(LWS) if left > 0 else ""
        if left < 0:
            uri, semicolon, tail = text.partition(";")
            uri = uri.rstrip(LWS)
            if "?" in uri or "," in uri:
                raise ParseError("a URI with ? or , needs < and >")
        else:
            right = text.find(">", left)
            if right < 0:
                raise ParseError("a < has no >")
            uri = text[left + 1 : right].strip(LWS)
            rest = text[right + 1 :].lstrip(LWS)
            semicolon, tail = rest[:1], rest[1:]
            if semicolon and semicolon != ";":
                raise ParseError("something follows the > of an address")
        check_uri_text(uri)
        return cls(display_name, uri, parse_parameters(tail) if semicolon else ())

    @property
    def parsed_uri(self) -> Uri:
        """The URI in its parts. Raises `ParseError` where it isn't a proper sip, sips or tel URI."""
        return Uri.parse(self.uri)

    @property
    def tag(self) -> str | None:
        return parameter(self.parameters, "tag")

    def parameter(self, name: str) -> str | None:
        """Return a parameter's value, "" where it has none, None where it isn't there. `name` in lower case."""
        return parameter(self.parameters, name)

    def with_tag(self, tag: str) -> NameAddr:
        return replace(self, parameters=with_parameter(self.parameters, "tag", tag))

    def __str__(self) -> str:
        name = quote(self.display_name) + " " if self.display_name else ""
        return f"{name}<{self.uri}>{format_parameters(self.parameters)}"


@dataclass(frozen=True, slots=True)
class Via:
    """One hop of the way that responses go back (§20.42; rport: RFC 3581)."""

    transport: str
    'In upper case, such as "UDP".'
    host: str
    "Name or address, IPv6 without brackets."
    port: int | None = None
    parameters: Parameters = ()

    @classmethod
    @remembered
    def parse(cls, text: str) -> Via:
        head, semicolon, tail = text.partition(";")
        protocol, _, rest = head.partition("/")
        version, _, rest = rest.partition("/")
        if protocol.strip(LWS).upper() != "SIP" or version.strip(LWS) != "2.0":
            raise ParseError("a Via is not of SIP/2.0")
        transport, _, sent_by = rest.replace("\t", " ").strip(" ").partition(" ")
        if not is_token(transport):
            raise ParseError("a Via has no transport")
        host, port = parse_host_port(sent_by.strip(" "))
        return cls(transport.upper(), host, port, parse_parameters(tail) if semicolon else ())

    @property
    def branch(self) -> str | None:
        return parameter(self.parameters, "branch")

    @property
    def received(self) -> str | None:
        """The IP address that a request came from, without the brackets that some put (RFC 5118 §4.5).

        Raises `ParseError` where it isn't one.
        """
        value = parameter(self.parameters, "received")
        if value is None:
            return None
        host, port = parse_host_port(f"[{value}]" if ":" in value and not value.startswith("[") else value)
        if port is not None:
            raise ParseError("a received parameter has a port")
        return host

    @property
    def rport(self) -> int | None:
        """The port that a request came from; None also where rport is only asked for, see `wants_rport`.

        Raises `ParseError` where it isn't one.
        """
        value = parameter(self.parameters, "rport")
        return number(value, 65535) if value else None

    @property
    def wants_rport(self) -> bool:
        return parameter(self.parameters, "rport") is not None

    def with_source(self, source: Address) -> Via:
        """Note where the request came from, as a server does to the topmost Via (§18.2.1, RFC 3581 §4)."""
        parameters = self.parameters
        if self.wants_rport:
            parameters = with_parameter(parameters, "rport", str(source[1]))
        if self.wants_rport or source[0] != self.host:
            parameters = with_parameter(parameters, "received", source[0])
        return replace(self, parameters=parameters)

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"SIP/2.0/{self.transport} {format_host(self.host)}{port}{format_parameters(self.parameters)}"


@dataclass(frozen=True, slots=True)
class CSeq:
    """The order of the requests in a dialog, and which of them a response is for (§20.16)."""

    number: int
    "Sequence number, 0 to 2**31 - 1 (§8.1.1.5)."
    method: str
    'The request method, such as "INVITE".'

    @classmethod
    @remembered
    def parse(cls, text: str) -> CSeq:
        parts = text.split()
        if len(parts) != 2 or not is_token(parts[1]):
            raise ParseError("CSeq is not a number and a method")
        return cls(number(parts[0], 2**31 - 1), parts[1])

    def __str__(self) -> str:
        return f"{self.number} {self.method}"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a request or response was sent (RFC 3326)."""

    protocol: str
    'Such as "Q.850" or "SIP".'
    cause: int | None = None
    "A Q.850 cause or a SIP status, by the protocol."
    text: str = ""
    "For people."

    @classmethod
    def parse(cls, text: str) -> Reason:
        protocol, semicolon, tail = text.partition(";")
        protocol = protocol.strip(LWS)
        if not is_token(protocol):
            raise ParseError("a Reason has no protocol")
        parameters = parse_parameters(tail) if semicolon else ()
        cause = parameter(parameters, "cause")
        return cls(protocol, number(cause, 999) if cause is not None else None, parameter(parameters, "text") or "")

    def __str__(self) -> str:
        cause = "" if self.cause is None else f";cause={self.cause}"
        words = f";text={quote(self.text)}" if self.text else ""
        return f"{self.protocol}{cause}{words}"
