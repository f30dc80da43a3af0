"""A customer's http or https URL, as it goes over the wire: each part once, each in ASCII."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urljoin, urlsplit

import idna

DEFAULT_PORTS = {"http": 80, "https": 443}

# What may stand in a path or query as it is; the rest is percent-encoded. "%" stays: it is encoded already.
_SAFE = "%/:?#[]@!$&'()*+,;=-._~|^`{}\"<>\\"
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class UrlError(ValueError):
    """A URL that can't be asked for; the message says why, in words for people, without the URL."""


@dataclass(frozen=True, slots=True)
class Url:
    """An absolute http or https URL (RFC 3986), without its fragment."""

    scheme: str
    host: str
    "A lower-case name in ASCII (IDNA) without a dot at its end, or a numeric address without brackets."
    port: int
    target: str = field(repr=False)
    'Path and query in ASCII, the request target in origin form (RFC 9112 §3.2.1), such as "/a?b=c".'
    credentials: tuple[str, str] | None = field(default=None, repr=False)
    "User and password that stood before the host."

    @classmethod
    def parse(cls, text: str) -> Url:
        """Read an absolute URL. Raises `UrlError`."""
        if any(ord(character) <= 32 or ord(character) == 127 for character in text):
            raise UrlError("the URL has a space or control character")
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise UrlError("the URL is malformed") from None
        if parts.scheme not in DEFAULT_PORTS:
            raise UrlError("the URL is neither http nor https")
        if port == 0 or not parts.hostname or "\\" in parts.netloc:
            raise UrlError("the URL is malformed")
        target = parts.path + ("?" + parts.query if "?" in text.partition("#")[0] else "")
        credentials = None
        if parts.username is not None:
            credentials = (unquote(parts.username), unquote(parts.password or ""))
        return cls(
            scheme=parts.scheme,
            host=_host(parts.hostname),
            port=port or DEFAULT_PORTS[parts.scheme],
            target=quote(target if target.startswith("/") else "/" + target, safe=_SAFE, errors="replace"),
            credentials=credentials,
        )

    def __str__(self) -> str:
        """Write it for the agent: as it was, without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.target}"

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: who is asked (RFC 6454 §4)."""
        return self.scheme, self.host, self.port

    def join(self, location: str) -> Url:
        """Return where a Location header leads (RFC 9110 §10.2.2); raises `UrlError`.

        User and password of the Location are dropped, ours are kept for the same origin only.
        """
        try:
            joined = urljoin(str(self), location)
        except ValueError:
            raise UrlError("the URL is malformed") from None
        there = Url.parse(joined)
        credentials = self.credentials if there.origin == self.origin else None
        return Url(there.scheme, there.host, there.port, there.target, credentials)

    def with_query(self, query: str) -> Url:
        """Return it with more of a query at its end; what was in the query stays as it was."""
        if "?" not in self.target:
            joint = "?"
        else:
            joint = "" if self.target[-1] in "?&" else "&"
        return Url(self.scheme, self.host, self.port, f"{self.target}{joint}{query}", self.credentials)


def _host(host: str) -> str:
    """Return a URL's host in the one form that is looked up, connected to and named in certificates."""
    if ":" in host:
        if "%" in host:
            raise UrlError("the URL's host names an interface")
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise UrlError("the URL's host is malformed") from None
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise UrlError("the URL's host is malformed") from None
    host = host.lower().removesuffix(".")
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise UrlError("the URL's host is malformed")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        # 127.1, 0x7f000001 and 017700000001 are loopback to some programs; only four decimal numbers are an address.
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise UrlError("the URL's host is malformed") from None
    return host
