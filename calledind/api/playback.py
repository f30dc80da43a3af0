# mypy: allow-untyped-calls
"""GET /api/playback/: one request, one code.

The body is the code's digits alone and the status 200 whatever the code is, because callers read the body with
one-liners that throw a 4xx away. Only when the daemon itself can't take work is the status 503.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from calledind.admission import Unavailable, Verdict
from calledind.api.access_log import printable
from calledind.api.answers import report_incident, respond
from calledind.api.site import Request
from calledind.crash import crash_at

FIELDS = b"Content-Type: text/plain\r\nContent-Length: %d\r\nCache-Control: no-store\r\nCalledin-Reason: %b\r\n%b%b"

BUSY = b"unavailable: too many requests at once\n"
BUSY_FIELDS = (
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nCache-Control: no-store\r\nRetry-After: 1\r\n"
    % len(BUSY)
)

T = TypeVar("T")
Admit = Callable[[Mapping[bytes, Sequence[bytes]]], Deferred[Verdict]]


class Playback(Resource):
    """Asks `admit` and answers with its verdict.

    `trunk`: named in the Calledin-Trunk header where given, such as "simulator".
    `max_in_flight`: requests that wait for their verdict at the same time; more are refused with 503, and `turned_away`
    is told so with None, the code that they have.
    """

    isLeaf = True
    log = Logger()

    def __init__(
        self,
        admit: Admit,
        *,
        trunk: str = "",
        max_in_flight: int = 512,
        turned_away: Callable[[None], None] = lambda code: None,
    ) -> None:
        super().__init__()
        self._admit = admit
        self._trunk = b"Calledin-Trunk: %b\r\n" % trunk.encode() if trunk else b""
        self._max_in_flight = max_in_flight
        self._turned_away = turned_away
        self._in_flight = 0

    def render_GET(self, request: Request) -> bytes | int:
        if request.postpath not in ([], [b""]):
            return respond(request, 404, "there is nothing here; calls are made by GET /api/playback/")
        if self._in_flight >= self._max_in_flight:
            # Many come when there is no time for them.
            self._turned_away(None)
            request.code = 503
            request.answer(BUSY_FIELDS, BUSY, b"503 Service Unavailable")
            return NOT_DONE_YET
        self._in_flight += 1
        _Answering(self, request)
        return NOT_DONE_YET

    def render_HEAD(self, request: Request) -> bytes:
        """No phone rings because somebody looked whether the address is there."""
        request.setHeader(b"allow", b"GET")
        return respond(request, 405, "only GET makes a call")

    def ask(self, request: Request) -> Deferred[Verdict]:
        try:
            return self._admit(_arguments(request))
        except Exception:  # noqa: BLE001 - it is told as one that comes later
            return fail()

    def done(self) -> None:
        self._in_flight -= 1

    def tell(self, request: Request, verdict: Verdict) -> None:
        body = b"%d" % verdict.code
        # Words may come from a stranger's server: whatever would begin a header of its own is a space.
        words = b" ".join(verdict.words.encode("ascii", "replace").split())
        call_id = b""
        if verdict.call_id is None:
            request.note = f" code {verdict.code:d}: {printable(verdict.words)}"
        else:
            call_id = b"Calledin-Call-Id: %b\r\n" % verdict.call_id.encode()
            request.note = f" call {verdict.call_id}"
            crash_at("reply.due")
        request.answer(FIELDS % (len(body), words, call_id, self._trunk), body)
        if verdict.call_id is not None:
            crash_at("reply.written")

    def excuse(self, request: Request, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, Unavailable):
            words, retry_after = error.words, error.retry_after
        else:
            words, retry_after = f"incident {report_incident(self.log, failure, 'playback')}", 5
        request.write(respond(request, 503, f"unavailable: {words}", retry_after=retry_after))
        request.finish()


def _arguments(request: Request) -> Mapping[bytes, Sequence[bytes]]:
    """Return the query's arguments, and as api_key what an Authorization header has where they have none."""
    args = request.args
    if b"api_key" not in args:
        given = request.requestHeaders.getRawHeaders(b"authorization", [])
        if len(given) == 1 and given[0][:7].lower() == b"bearer ":
            return {**args, b"api_key": [given[0][7:].strip(b" ")]}
    return args


class _Answering:
    """One request that waits for its verdict. A client that leaves meanwhile changes nothing about the call."""

    def __init__(self, playback: Playback, request: Request) -> None:
        self._playback = playback
        self._request = request
        playback.ask(request).addCallbacks(self._decided, self._failed)

    def _decided(self, verdict: Verdict) -> None:
        self._playback.done()
        if not self._request.left:
            self._answer(self._playback.tell, verdict)

    def _failed(self, failure: Failure) -> None:
        self._playback.done()
        if not self._request.left:
            self._answer(self._playback.excuse, failure)
        elif not failure.check(Unavailable):
            report_incident(self._playback.log, failure, "playback")

    def _answer(self, say: Callable[[Request, T], None], what: T) -> None:
        try:
            say(self._request, what)
        except Exception:  # noqa: BLE001 - a connection whose answer went wrong is of no more use
            report_incident(self._playback.log, Failure(), "playback")
            if not self._request.left:
                self._request.channel.abort()
