"""Fetching MP3s from anywhere on the internet, bounded in octets, seconds, redirects and connections.

    fetch(url) ──▶ wait for a turn ──▶ ask the host ──▶ 200: body to the file ──▶ Fetched
                       ▲                   ├──▶ 304: what you have is good   ──▶ NotModified
                       └── 3xx: next host ─┘

`settings.fetch_timeout` is for all of it, the wait for a turn included: whoever asks has an answer by then. A turn
is taken anew for each hop, so that redirects can't gather on a host that has its share already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any, NoReturn

from hyperlink import EncodedURL
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent

from calledind.net.agent import RequestError, drop, explain
from calledind.net.shares import Shares
from calledind.net.url import Url, UrlError
from calledind.settings.tables import Audio

REDIRECTS = (301, 302, 303, 307, 308)
INCOMPLETE = (204, 205, 206)
"2xx that do not carry the whole of what was asked for."
LONGEST_FRESH = 365 * 86400.0
"Seconds; who says more means for ever."


class FetchError(Exception):
    """An MP3 can't be had; the message says why, in words for people, without the URL's path and query."""


@dataclass(frozen=True, slots=True)
class Validity:
    """What an answer says about its use later on (RFC 9111)."""

    etag: str | None
    last_modified: str | None
    fresh_for: float | None
    "Seconds from now; None where the server does not say."
    no_store: bool
    "The server wants it used for this request only."


@dataclass(frozen=True, slots=True)
class Fetched(Validity):
    path: Path
    size: int
    "Octets."
    sha256: str
    "Lower-case hexadecimal."


@dataclass(frozen=True, slots=True)
class NotModified(Validity):
    """What was fetched before under `etag` or `last_modified` is still right."""


class Fetcher:
    """Fetches, `settings.max_fetches` at once and `settings.max_fetches_per_host` of one host, see `Shares`."""

    def __init__(self, reactor: Any, agent: IAgent, settings: Audio, *, user_agent: str = "calledin") -> None:
        self._reactor = reactor
        self._http = HTTPClient(agent)
        self._settings = settings
        self._user_agent = user_agent
        self._turns: Shares[Deferred[None]] = Shares(
            lambda _, turn: turn.callback(None),
            in_all=settings.max_fetches,
            per_host=settings.max_fetches_per_host,
        )

    def fetch(
        self, url: str, *, into: Path, etag: str | None = None, last_modified: str | None = None
    ) -> Deferred[Fetched | NotModified]:
        """Fetch a URL into a file, which is made or written over.

        With `etag` or `last_modified`, of an earlier fetch, the server is asked for a newer one only. Fails with
        `FetchError`, and with OSError when the file can't be written; then there is no file. The file is not
        synced. Can be cancelled.
        """
        seconds = self._settings.fetch_timeout
        conditions: dict[str, list[str]] = {}
        if etag is not None:
            conditions["If-None-Match"] = [etag]
        if last_modified is not None:
            conditions["If-Modified-Since"] = [last_modified]
        fetching = Deferred.fromCoroutine(self._fetch(url, into, conditions))
        return fetching.addTimeout(seconds, self._reactor, onTimeoutCancel=_too_late)

    async def _fetch(self, text: str, into: Path, conditions: Mapping[str, list[str]]) -> Fetched | NotModified:
        try:
            url = Url.parse(text)
        except UrlError as error:
            raise FetchError(str(error)) from None
        for _ in range(self._settings.max_redirects + 1):
            answer = await self._hop(url, into, conditions)
            if not isinstance(answer, Url):
                return answer
            url = answer
        raise FetchError(f"it redirects more than {self._settings.max_redirects} times")

    async def _hop(self, url: Url, into: Path, conditions: Mapping[str, list[str]]) -> Fetched | NotModified | Url:
        """Ask one host, in its turn."""

        def give_up(turn: Deferred[None]) -> None:
            self._turns.withdraw(url.host, turn)

        turn: Deferred[None] = Deferred(give_up)
        self._turns.enter(url.host, turn)
        await turn
        try:
            return await self._ask(url, into, conditions)
        except RequestError as error:
            raise FetchError(str(error)) from None
        finally:
            self._turns.leave(url.host)

    async def _ask(self, url: Url, into: Path, conditions: Mapping[str, list[str]]) -> Fetched | NotModified | Url:
        response: Any = await self._http.get(
            _Verbatim.of(url),
            headers=Headers({"User-Agent": [self._user_agent], "Accept": ["audio/mpeg, */*;q=0.5"], **conditions}),
            auth=url.credentials,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._reactor,
        )
        try:
            answer = self._answer(url, response, asked_if_modified=bool(conditions))
        except FetchError:
            drop(response)
            raise
        if answer is None:
            return await self._save(response, into)
        drop(response)
        return answer

    def _answer(self, url: Url, response: Any, *, asked_if_modified: bool) -> NotModified | Url | None:
        """Return what the response says by its headers alone; None when its body is what we want."""
        if response.code in REDIRECTS:
            return _redirect(url, response.headers)
        if response.code == 304 and asked_if_modified:
            return NotModified(**_validity(response.headers))
        if not 200 <= response.code < 300 or response.code in INCOMPLETE:
            raise FetchError(f"its server answers with status {response.code}")
        if response.length != UNKNOWN_LENGTH and response.length > self._settings.max_bytes:
            raise FetchError(f"it is larger than {self._settings.max_bytes} octets")
        return None

    async def _save(self, response: Any, into: Path) -> Fetched:
        """Write the body to the file; without all of it there is no file."""
        try:
            file = into.open("wb")
        except OSError:
            drop(response)
            raise
        try:
            with file:
                body = _Body(file, self._settings.max_bytes)
                response.deliverBody(body)
                await body.finished
        except BaseException:  # cancellation too
            _remove(into)
            raise
        return Fetched(path=into, size=body.size, sha256=body.digest.hexdigest(), **_validity(response.headers))


class _Body(Protocol):
    """Writes a body to a file as it comes, and cuts the connection at the first thing wrong with it."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self.finished: Deferred[None] = Deferred(lambda _: self._cut())
        self._file = file
        self._most = most

    def dataReceived(self, data: bytes) -> None:
        if self.finished.called:
            return
        self.size += len(data)
        if self.size > self._most:
            self._fail(FetchError(f"it is larger than {self._most} octets"))
            return
        self.digest.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            self._fail(error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.finished.called:
            return
        if not reason.check(ResponseDone, PotentialDataLoss):  # type: ignore[no-untyped-call]
            # PotentialDataLoss is a body that ends with its connection: nothing says that it is not all.
            self.finished.errback(FetchError(f"it breaks off: {explain(reason.value)}"))
        elif not self.size:
            self.finished.errback(FetchError("it is empty"))
        else:
            self.finished.callback(None)

    def _fail(self, error: Exception) -> None:
        self._cut()
        self.finished.errback(error)

    def _cut(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


class _Verbatim(EncodedURL):
    """A URL that treq hands to the agent as it is; by itself it would write some of them anew, and refuse IPv6."""

    _wire: str

    @classmethod
    def of(cls, url: Url) -> _Verbatim:
        verbatim = cls(scheme=url.scheme, host="unused.invalid")
        verbatim._wire = str(url)
        return verbatim

    def to_uri(self) -> _Verbatim:
        return self

    def to_text(self, with_password: bool = False) -> str:
        return self._wire


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _too_late(_: object, seconds: float) -> NoReturn:
    raise FetchError(f"it was not here within {seconds:g} s")


def _redirect(url: Url, headers: Headers) -> Url:
    locations = headers.getRawHeaders(b"Location", [])
    if len(locations) != 1:
        raise FetchError("it redirects without saying where to")
    try:
        return url.join(locations[0].decode("utf-8"))
    except (UnicodeDecodeError, UrlError) as error:
        words = str(error) if isinstance(error, UrlError) else "the URL is malformed"
        raise FetchError(f"it redirects to where we do not follow: {words}") from None


def _validity(headers: Headers) -> dict[str, Any]:
    directives = _cache_control(headers)
    return {
        "etag": _text(headers, b"ETag"),
        "last_modified": _text(headers, b"Last-Modified"),
        "fresh_for": _fresh_for(headers, directives),
        "no_store": "no-store" in directives,
    }


def _values(headers: Headers, name: bytes) -> list[str]:
    """Return a header's values, whatever octets are in them; one empty value where there are none."""
    return [value.decode("latin-1") for value in headers.getRawHeaders(name, [b""])]


def _text(headers: Headers, name: bytes) -> str | None:
    """Return a header's first value where it can be sent back as it is."""
    value = _values(headers, name)[0]
    return value if 0 < len(value) <= 1024 and value.isascii() and value.isprintable() else None


def _cache_control(headers: Headers) -> dict[str, str]:
    """Return the directives of Cache-Control (RFC 9111 §5.2), the first of each name."""
    directives: dict[str, str] = {}
    for directive in ",".join(_values(headers, b"Cache-Control")).split(","):
        name, _, value = directive.partition("=")
        directives.setdefault(name.strip().lower(), value.strip().strip('"'))
    return directives


def _fresh_for(headers: Headers, directives: Mapping[str, str]) -> float | None:
    """Return for how many seconds from now the answer is fresh (RFC 9111 §4.2), None if the server does not say."""
    if "no-store" in directives or "no-cache" in directives:
        return 0.0
    age = _seconds(_values(headers, b"Age")[0]) or 0.0
    for name in ("s-maxage", "max-age"):
        if name in directives:
            # A value that is no number is stale (RFC 9111 §4.2.1).
            return max(0.0, (_seconds(directives[name]) or 0.0) - age)
    if not headers.hasHeader(b"Expires"):
        return None
    try:
        lifetime = _date(_values(headers, b"Expires")[0]) - _date(_values(headers, b"Date")[0])
    except (ValueError, OverflowError):
        return 0.0
    return min(LONGEST_FRESH, max(0.0, lifetime - age))


def _seconds(text: str) -> float | None:
    if not (text.isascii() and text.isdigit()):
        return None
    return LONGEST_FRESH if len(text) > 9 else min(LONGEST_FRESH, float(text))


def _date(text: str) -> float:
    return parsedate_to_datetime(text).timestamp()
