# mypy: allow-untyped-calls
"""The page's paths, and who may go where.

    /, /calls, /calls/ID, /keys, /dnc, /trunks, /try, /phone    the page itself, which has no secrets
    /static/..., /help/...                                      its files, and the guides
    POST /login, /logout                                        the token for a cookie, and back
    /admin/...          *                                       the operators' requests, see api.admin
    /facts, /live, /sound/ID, /try (POST)     *                 what is here, what happens, what was played
    /listed?number=                           *                 whether a number is on the DoNotCall list
    /phone/line, /phone/call                  *                 see line, trial
    /phone/mp3/ID, /phone/told/ID                               see trial

With * the token is needed, and no other site's page may ask.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

from twisted.web.resource import Resource
from twisted.web.static import Data

from calledind.api.answers import respond
from calledind.api.channel import Channel
from calledind.api.help import Help
from calledind.api.site import Request, Site, network_of
from calledind.page.access import Access, Refusal
from calledind.page.files import Shell, Static, read_files
from calledind.page.line import PhoneLine
from calledind.page.live import Live
from calledind.page.lookup import Lookup
from calledind.page.trial import LARGEST_MP3, Answering, Trial

VIEWS = (b"", b"calls", b"keys", b"dnc", b"trunks", b"try", b"phone")
LARGEST_BODY = 32 * 1024 * 1024
"Octets: an import of some million numbers."
SMALL_BODY = 64 * 1024
"Octets that are read of somebody who was not asked for the token yet."
HEADERS = {
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    b"connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
"""Of every answer. Nothing but our own files is run, shown or asked for, no page of others may have ours in a frame,
and data is not kept by the browser; `files` says something else of caching for its own."""
MOST_CONNECTIONS = 64


class Face(Resource):
    """The root. `facts`: what a page must know before it draws anything, JSON-able."""

    def __init__(
        self,
        access: Access,
        *,
        admin: Resource,
        live: Live,
        sound: Resource,
        trial: Trial,
        phone: PhoneLine | None,
        lookup: Lookup,
        facts: Callable[[], Mapping[str, object]],
    ) -> None:
        """`phone`: None where no simulated telephone is."""
        super().__init__()
        files = read_files()
        self._access = access
        self._facts = facts
        self._shell = Shell(files)
        self._static = Static(files)
        self._help = Help()
        self._trial = trial
        self._phone = phone
        self._guarded: dict[bytes, Resource] = {b"admin": admin, b"live": live, b"sound": sound}
        self._try = Answering(trial.try_it)
        self._call = Answering(trial.call)
        self._lookup = Answering(lookup.answer)

    def getChildWithDefault(self, path: bytes, request: Request) -> Resource:
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        refusal = self._access.wrong_host(request.requestHeaders)
        resource = _Refused(refusal) if refusal is not None else self._find(path, request)
        method = f"render_{request.method.decode('ascii')}"
        if type(resource).render is Resource.render and not hasattr(resource, method):
            return _refused(405, "this is asked for, or done, by another method")
        return resource

    def _find(self, path: bytes, request: Request) -> Resource:
        if path == b"phone" and request.postpath and request.postpath != [b""]:
            return self._phone_path(request)
        if path in VIEWS and request.method in (b"GET", b"HEAD"):
            request.postpath = []
            return self._shell
        if path == b"static":
            return self._static
        if path == b"help":
            return self._help
        if path in (b"login", b"logout"):
            return _Session(self._access, path == b"login")
        if path == b"try" and not request.postpath:
            return self._guard(request, self._try)
        if path == b"listed":
            return self._guard(request, self._lookup)
        if path == b"facts":
            body = json.dumps(self._facts()).encode()
            return self._guard(request, Data(body, "application/json"))
        if path in self._guarded:
            return self._guard(request, self._guarded[path])
        return _refused(404, "there is nothing here")

    def _phone_path(self, request: Request) -> Resource:
        path, *rest = request.postpath or [b""]
        request.postpath = []
        if path in (b"mp3", b"told") and len(rest) == 1:
            name = rest[0].decode("latin-1")
            return self._trial.mp3(name) if path == b"mp3" else self._trial.told(name)
        if self._phone is None:
            return _refused(404, "the phone is there while the built-in carrier takes the calls (simulator = true)")
        if path == b"line":
            guarded = self._guard(request, self._phone.resource, changes=True)
            return _refused(503, "too many phones are open") if self._phone.full else guarded
        if path == b"call":
            return self._guard(request, self._call)
        return _refused(404, "there is nothing here")

    def _guard(self, request: Request, resource: Resource, *, changes: bool | None = None) -> Resource:
        headers = request.requestHeaders
        if changes is None:
            changes = request.method not in (b"GET", b"HEAD")
        refusal = self._access.foreign(headers, changes=changes)
        refusal = refusal or self._access.without_token(headers, network_of(request.client))
        return resource if refusal is None else _Refused(refusal)


class _Refused(Resource):
    isLeaf = True

    def __init__(self, refusal: Refusal) -> None:
        super().__init__()
        self._refusal = refusal

    def render(self, request: Request) -> bytes:
        return refuse(request, self._refusal)


def _refused(status: int, words: str) -> Resource:
    return _Refused(Refusal(status, words))


def refuse(request: Request, refusal: Refusal) -> bytes:
    """Answer as the operators' requests are, in JSON: {"error": words}."""
    body = json.dumps({"error": refusal.words}).encode()
    respond(request, refusal.status, "", retry_after=refusal.retry_after)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"content-length", b"%d" % len(body))
    return b"" if request.method == b"HEAD" else body


class _Session(Resource):
    """POST with a form's `token`: the cookie, or that it is the wrong one."""

    isLeaf = True

    def __init__(self, access: Access, begins: bool) -> None:
        super().__init__()
        self._access = access
        self._begins = begins

    def render_POST(self, request: Request) -> bytes:
        headers = request.requestHeaders
        # The session must not be one that somebody else's page began.
        refusal = self._access.foreign(headers, changes=True)
        if refusal is None and self._begins:
            form = parse_qs(b"" if request.content is None else request.content.read(SMALL_BODY))
            offered = form.get(b"token", [b""])[0].decode("utf-8", "replace").strip()
            refusal = self._access.wrong_token(offered, network_of(request.client))
        if refusal is not None:
            return refuse(request, refusal)
        cookie = self._access.cookie(headers) if self._begins else self._access.no_cookie(headers)
        request.setHeader(b"set-cookie", cookie)
        return respond(request, 200, "welcome" if self._begins else "goodbye")


class PageChannel(Channel):
    """Reads a large body from nobody but who has the token."""

    site: PageSite

    def allHeadersReceived(self) -> None:
        super().allHeadersReceived()
        if self.length and self.length > SMALL_BODY and not self.site.takes_large(self.requests[-1]):
            self.refuse(413)


class PageSite(Site):
    """The page's listener."""

    protocol = PageChannel

    def __init__(self, face: Face, access: Access, *, reactor: Any) -> None:
        super().__init__(
            face,
            reactor=reactor,
            max_connections=MOST_CONNECTIONS,
            max_connections_per_address=MOST_CONNECTIONS,
            max_body=max(LARGEST_BODY, LARGEST_MP3),
            methods=(b"GET", b"HEAD", b"POST", b"DELETE"),
        )
        self._access = access

    def takes_large(self, request: Request) -> bool:
        headers = request.requestHeaders
        return (
            self._access.wrong_host(headers) is None
            and self._access.foreign(headers, changes=True) is None
            and self._access.without_token(headers, network_of(request.client)) is None
        )
