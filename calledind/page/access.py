# mypy: allow-untyped-calls
"""Who may use the page.

A browser carries out whatever any site's script tells it, with the user's cookies, and by whatever name it was led
here. So three questions are asked, in this order:

    Host                the name by which we were asked for: only one of ours, or a stranger's site that has its own
                        name resolve to this address would be "the same site" as we are (DNS rebinding)
    Origin,             who asks: only a page of ours may change anything, read any data, or open a WebSocket. Not even
    Sec-Fetch-Site      another port of this host may (a cookie does not tell ports apart, an origin does)
    token               by the cookie that the login form set, or as `Authorization: Bearer`
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from twisted.web.http_headers import Headers

WRONG_TOKENS = 10
"Of one network, within `WRONG_SECONDS`; from then on not even the right one is taken from there."
WRONG_SECONDS = 60.0
MOST_NETWORKS = 1000
COOKIE_SECONDS = 30 * 86400


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered."""

    status: int
    words: str
    retry_after: int | None = None
    "Seconds."


class Access:
    """`token`: what opens the page; `hosts`: names, beside loopback's, that it goes by; `seconds`: any steady clock."""

    def __init__(self, token: str, hosts: Iterable[str], *, seconds: Callable[[], float]) -> None:
        self._token = token.encode()
        self._hosts = frozenset(host.lower().strip("[]") for host in hosts)
        self._seconds = seconds
        # The cookie is not the token: who reads a cookie somewhere can't log in elsewhere with it.
        self._session = hmac.new(self._token, b"calledin page", hashlib.sha256).hexdigest().encode()
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()
        "Network -> when wrong tokens came from it."

    # the questions

    def wrong_host(self, headers: Headers) -> Refusal | None:
        """Ask for the name alone; enough for what is no secret."""
        name = _host_name(_one(headers, b"host"))
        if name in self._hosts or name == "localhost" or _is_loopback(name):
            return None
        return Refusal(421, "this page does not go by that name; [page] hosts says which names it goes by")

    def foreign(self, headers: Headers, *, changes: bool) -> Refusal | None:
        """Ask who asks. `changes`: whether it must be a page of ours, and not just no page of anybody else's."""
        origin, site = _one(headers, b"origin"), _one(headers, b"sec-fetch-site")
        own = bool(origin) and urlsplit(origin).netloc.lower() == _one(headers, b"host").lower()
        if (origin and not own) or site not in ("", "same-origin", "none"):
            return Refusal(403, "another site's page asks for this; only this page may")
        by_browser = not _one(headers, b"authorization")
        if changes and by_browser and not own and site != "same-origin":
            return Refusal(403, "a change needs an Origin header of this page, or Authorization: Bearer")
        return None

    def without_token(self, headers: Headers, network: str) -> Refusal | None:
        """Ask for the token. `network`: where the request comes from."""
        scheme, _, offered = _one(headers, b"authorization").partition(" ")
        if scheme.lower() == "bearer":
            return self.wrong_token(offered.strip(), network)
        if self._has_cookie(headers):
            return None
        return Refusal(401, "the page's token is needed: log in, or send it as Authorization: Bearer")

    def wrong_token(self, offered: str, network: str) -> Refusal | None:
        """Compare a token; who guesses is slowed down."""
        now = self._seconds()
        wrong = [at for at in self._wrong.get(network, ()) if now - at < WRONG_SECONDS]
        if len(wrong) >= WRONG_TOKENS:
            wait = int(wrong[0] + WRONG_SECONDS - now) + 1
            return Refusal(429, f"too many wrong tokens; try again in {wait} s", wait)
        if hmac.compare_digest(offered.encode(), self._token):
            self._wrong.pop(network, None)
            return None
        self._wrong[network] = [*wrong, now]
        self._wrong.move_to_end(network)
        if len(self._wrong) > MOST_NETWORKS:
            self._wrong.popitem(last=False)
        return Refusal(401, "that is not the page's token")

    # the cookie

    def cookie(self, headers: Headers) -> bytes:
        """Return the Set-Cookie header of who has logged in."""
        secure = b"; Secure" if _one(headers, b"origin").startswith("https:") else b""
        return b"%b=%b; Path=/; Max-Age=%d; HttpOnly; SameSite=Strict%b" % (
            _cookie_name(headers),
            self._session,
            COOKIE_SECONDS,
            secure,
        )

    def no_cookie(self, headers: Headers) -> bytes:
        """Return the Set-Cookie header of who has logged out."""
        return b"%b=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict" % _cookie_name(headers)

    def _has_cookie(self, headers: Headers) -> bool:
        name = _cookie_name(headers)
        for header in headers.getRawHeaders(b"cookie", ()):
            for pair in header.split(b";"):
                key, _, value = pair.strip().partition(b"=")
                if key == name and hmac.compare_digest(value, self._session):
                    return True
        return False


def _one(headers: Headers, name: bytes) -> str:
    """Return a header's value, empty where it is not there; one that is given twice is that of nobody."""
    values = headers.getRawHeaders(name, ())
    return str(values[0], "latin-1").strip() if len(values) == 1 else "?" if values else ""


def _host_name(host: str) -> str:
    """Return what a Host header says without its port, in lower case, an IPv6 address without its brackets."""
    if host.startswith("["):
        return host.partition("]")[0][1:].lower()
    return host.partition(":")[0].lower()


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _cookie_name(headers: Headers) -> bytes:
    """Two daemons on one machine differ by their ports, which cookies don't tell apart."""
    port = _one(headers, b"host").rpartition(":")[2]
    return b"calledin_%b" % (port.encode() if port.isascii() and port.isdigit() else b"page")
