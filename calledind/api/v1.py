# mypy: allow-untyped-calls
"""/api/v1: the same calls as GET /api/playback/, for programs that read statuses and JSON.

    POST   /api/v1/calls              makes a call: 201 and the call; {"dry_run": true}: 200 and what would refuse it
    GET    /api/v1/calls              the key's calls, the newest first, a page at a time
    GET    /api/v1/calls/ID           one of them
    POST   /api/v1/calls/ID/cancel    ends it: 200 when it has ended, 202 when that takes its time
    GET    /api/v1/calls/ID/events    what happens to it, as server-sent events, until it is over
    GET    /api/v1/events             the same of all the key's calls
    ...    /api/v1/batches            calls for many numbers, see `v1_batches`

The key is in `Authorization: Bearer API_KEY`, and sees its own calls alone. What goes wrong is told as `problem` says;
`/openapi.json` has every detail.

A POST with an `Idempotency-Key` may be sent again for a day: it is answered with the call that it made, whatever became
of that, and `Idempotency-Replayed: true`. The name is kept with the call, in the same step as its acceptance.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from calledind.admission import Unavailable, Verdict
from calledind.api import problem
from calledind.api.answers import report_incident
from calledind.api.problem import Problem
from calledind.api.site import Opening, Request
from calledind.api.sse import Stream
from calledind.api.v1_batches import CSV, BatchesFace
from calledind.api.v1_forms import read_body, read_query, read_seconds, show_call, show_event, to_request
from calledind.batches.batches import Batches
from calledind.model import BadRequest, CallRecord, Event, Key, PlaybackRequest, ReturnCode, State
from calledind.store.interface import FLOOD_SECONDS, Store, StoreUnavailable

OPENING = Opening(b"/api/v1/", 64 * 1024, 10.0)
"What the site must let through."
CALL_ID = re.compile(r"[0-9a-f]{32}")
BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)
IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")
MOST_IN_FLIGHT = 256
"Requests that are being answered, streams not counted."
MOST_STREAMS = 256
MOST_STREAMS_OF_KEY = 16
MOST_SEARCHES_OF_KEY = 4
"Lists of calls that one key may wait for at the same time."
POLL = 1.0
"Seconds between two looks at a call that another node may have."
OVER = frozenset({State.DELIVERED, State.EXHAUSTED})

Headers = Mapping[str, str]
Answer = tuple[int, object, Headers]
"Status, JSON, headers."


class Admission(Protocol):
    """What is wanted of `admission.Admission`."""

    def admit_request(self, request: PlaybackRequest, *, idempotency: str = "") -> Deferred[Verdict]: ...

    def objections(self, key: Key, request: PlaybackRequest, *, fetch: bool) -> Deferred[Sequence[Verdict]]: ...


class Subscribe(Protocol):
    """`service.events.Events.subscribe`."""

    def __call__(
        self, listener: Callable[[Event], None], *, key_id: str = "", call_id: str = ""
    ) -> Callable[[], None]: ...


@dataclass(frozen=True)
class Parts:
    """What the API is made with."""

    reactor: IReactorTime
    store: Store
    digest: Callable[[str], bytes]
    "Of an api key, as the store knows it."
    now: Callable[[], float]
    "Seconds since the epoch."
    admission: Admission
    hang_up: Callable[[str], Deferred[CallRecord | None]]
    subscribe: Subscribe
    media: Callable[[str], Mapping[str, Any] | None]
    "Call id -> figures of its packets, where this node keeps them."
    batches: Batches | None = None
    "None: there are none."
    is_shared: bool = False
    "Other nodes work on the store: what happens to a call may happen there."


class V1(Resource):
    """See the module's text."""

    isLeaf = True
    log = Logger()

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self._do = parts
        self._in_flight = 0
        self._deciding: set[str] = set()
        "Tokens of requests that may be repeated, which are being decided on."
        self._searches: Counter[str] = Counter()
        self._streams: dict[Stream, str] = {}
        "Those that are open, and the ids of their keys."
        handlers: Mapping[tuple[str, ...], Mapping[str, Callable[..., Awaitable[Answer | None]]]] = {
            ("calls",): {"GET": self._list, "POST": self._create},
            ("calls", "*"): {"GET": self._get},
            ("calls", "*", "cancel"): {"POST": self._cancel},
            ("calls", "*", "events"): {"GET": self._follow},
            ("events",): {"GET": self._follow_all},
        }
        self._handlers = {**handlers, **({} if parts.batches is None else self._batches(parts.batches))}

    def _batches(
        self, batches: Batches
    ) -> Mapping[tuple[str, ...], Mapping[str, Callable[..., Awaitable[Answer | None]]]]:
        return BatchesFace(
            batches, digest=self._do.digest, media_type=_media_type, idempotency_name=_idempotency_name
        ).handlers()

    # the way of a request

    def render(self, request: Request) -> int:
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)
        self._in_flight += 1
        answering = Deferred.fromCoroutine(self._answer(request))

        def answered(answer: Answer | None) -> None:
            self._in_flight -= 1
            if answer is not None and not gone:
                status, value, headers = answer
                media_type = CSV if isinstance(value, bytes) else b"application/json"
                media_type = problem.MEDIA_TYPE if status >= 400 else media_type
                problem.send(request, status, value, headers, media_type)

        answering.addCallback(answered).addErrback(self._broken, request)
        return NOT_DONE_YET

    def _broken(self, failure: Failure, request: Request) -> None:
        report_incident(self.log, failure, "an answer of /api/v1")
        if request.channel is not None:
            request.channel.abort()

    async def _answer(self, request: Request) -> Answer | None:
        """Return what to answer; None where a stream is on its way."""
        try:
            handler, named = self._find(request)
            if self._in_flight > MOST_IN_FLIGHT:
                raise Problem(problem.UNAVAILABLE, "too many requests at once", retry_after=1)
            api_key, key = await self._authorize(request)
            return await handler(request, api_key, key, *named)
        except Problem as error:
            return error.kind.status, error.members(), error.headers
        except BadRequest as error:
            return self._refuse(Problem(problem.BAD_REQUEST, str(error)))
        except Unavailable as error:
            return self._refuse(Problem(problem.UNAVAILABLE, error.words, retry_after=error.retry_after))
        except StoreUnavailable as error:
            self.log.warn("a request is refused with 503: {error}", error=error)
            return self._refuse(Problem(problem.UNAVAILABLE, "the store can't be asked now", retry_after=5))
        except Exception:  # noqa: BLE001 - the client is told by which id the log has it
            incident = report_incident(self.log, Failure(), "/api/v1")
            return self._refuse(Problem(problem.FAULT, f"ask for incident {incident}"))

    def _refuse(self, error: Problem) -> Answer:
        return error.kind.status, error.members(), error.headers

    def _find(self, request: Request) -> tuple[Callable[..., Awaitable[Answer | None]], list[str]]:
        segments = tuple(segment.decode("utf-8", "replace") for segment in request.postpath or ())
        for pattern, handlers in self._handlers.items():
            if len(pattern) == len(segments) and all(
                part in ("*", segment) for part, segment in zip(pattern, segments, strict=True)
            ):
                method = request.method.decode("latin-1")
                handler = handlers.get("GET" if method == "HEAD" else method)
                if handler is None:
                    allowed = ", ".join([*handlers, *(["HEAD"] if "GET" in handlers else [])])
                    raise Problem(problem.METHOD_NOT_ALLOWED, f"this takes {allowed}", headers={"Allow": allowed})
                return handler, [each for part, each in zip(pattern, segments, strict=True) if part == "*"]
        raise Problem(problem.NOT_FOUND, "there is nothing here; /openapi.json tells what there is")

    async def _authorize(self, request: Request) -> tuple[str, Key]:
        """Return the api key and what the store has of it. Raises Problem, StoreUnavailable."""
        given = request.requestHeaders.getRawHeaders(b"authorization", [])
        found = BEARER.fullmatch(given[0].decode("latin-1")) if len(given) == 1 else None
        if found is None:
            detail = "send the api_key as `Authorization: Bearer API_KEY`"
            raise Problem(problem.INVALID_KEY, detail, headers={"WWW-Authenticate": "Bearer"})
        api_key = found[1]
        key = await self._do.store.find_key(self._do.digest(api_key))
        if key is None:
            headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            raise Problem(problem.INVALID_KEY, "this api_key is not known", headers=headers)
        if key.disabled:
            raise Problem(problem.KEY_DISABLED, "this api_key is disabled")
        return api_key, key

    # making calls

    async def _create(self, request: Request, api_key: str, key: Key) -> Answer:
        wanted = read_body(_body(request))
        asked = to_request(api_key, wanted)
        idempotency = _idempotency(request, key, wanted)
        if wanted.get("dry_run", False):
            return await self._dry_run(key, asked, fetch=wanted.get("fetch", False))
        token = idempotency[:32]
        if not token:
            return await self._admit(asked, "")
        if token in self._deciding:
            raise Problem(problem.KEY_IN_USE, "ask again in a moment", retry_after=1)
        self._deciding.add(token)
        try:
            made = await self._do.store.find_idempotent(token, self._do.now())
            return await self._admit(asked, idempotency) if made is None else self._again(made, idempotency)
        finally:
            self._deciding.discard(token)

    async def _admit(self, asked: PlaybackRequest, idempotency: str) -> Answer:
        verdict = await self._do.admission.admit_request(asked, idempotency=idempotency)
        if verdict.code is ReturnCode.FLOOD and idempotency:
            # Another node, or this one just before, may have accepted it.
            made = await self._do.store.find_idempotent(idempotency[:32], self._do.now())
            if made is not None:
                return self._again(made, idempotency)
        if verdict.code is not ReturnCode.ACCEPTED or verdict.call_id is None:
            raise _refusal(verdict)
        record = await self._do.store.find_call(verdict.call_id)
        assert record is not None
        return 201, self._show(record), {"Location": f"/api/v1/calls/{verdict.call_id}"}

    def _again(self, made: CallRecord, idempotency: str) -> Answer:
        if made.call.idempotency != idempotency:
            raise Problem(problem.KEY_REUSED, f"call {made.call.id} was made with it, by another request")
        headers = {"Location": f"/api/v1/calls/{made.call.id}", "Idempotency-Replayed": "true"}
        return 201, self._show(made), headers

    async def _dry_run(self, key: Key, asked: PlaybackRequest, *, fetch: bool) -> Answer:
        refusals = await self._do.admission.objections(key, asked, fetch=fetch)
        told = [_refusal(verdict).members() for verdict in refusals]
        return 200, {"dry_run": True, "accepted": not told, "refusals": told}, {}

    # looking at calls

    async def _list(self, request: Request, _: str, key: Key) -> Answer:
        wanted, limit, before = read_query(request.args, key.id)
        if self._searches[key.id] >= MOST_SEARCHES_OF_KEY:
            raise Problem(problem.UNAVAILABLE, "too many lists of this api_key's calls at once", retry_after=1)
        self._searches[key.id] += 1
        try:
            records, after = await self._do.store.calls(wanted, most=limit, before=before)
        finally:
            self._searches -= Counter({key.id: 1})
        headers = {}
        if after:
            query = [(name, value) for name, values in request.args.items() for value in values if name != b"before"]
            headers["Link"] = f'</api/v1/calls?{urlencode([*query, (b"before", after)])}>; rel="next"'
        return 200, {"calls": [self._show(record) for record in records], "next": after or None}, headers

    async def _get(self, _: Request, __: str, key: Key, call_id: str) -> Answer:
        return 200, self._show(await self._own(key, call_id)), {}

    async def _own(self, key: Key, call_id: str) -> CallRecord:
        """Return a call of this key; one of another is as good as none. Raises Problem."""
        record = await self._do.store.find_call(call_id) if CALL_ID.fullmatch(call_id) else None
        if record is None or record.call.key_id != key.id:
            raise Problem(problem.NOT_FOUND, "this api_key has no such call")
        return record

    async def _cancel(self, _: Request, __: str, key: Key, call_id: str) -> Answer:
        if (await self._own(key, call_id)).outcome is not None:
            raise Problem(problem.CALL_HAS_ENDED, "nothing is left of it that could be ended")
        record = await self._do.hang_up(call_id)
        if record is None:
            raise Problem(problem.NOT_FOUND, "this api_key has no such call")
        return 202 if record.outcome is None else 200, self._show(record), {}

    def _show(self, record: CallRecord) -> dict[str, object]:
        return show_call(record, self._do.media(record.call.id))

    # streams

    async def _follow(self, request: Request, _: str, key: Key, call_id: str) -> Answer | None:
        record = await self._own(key, call_id)
        stream = self._open(request, key, call_id=call_id, until_over=True)
        if stream is None:
            return None
        stream.send("call", self._show(record))
        if record.state in OVER:
            stream.end()
        elif self._do.is_shared:
            self._poll(stream, record)
        else:
            # It may have gone on between the store's answer and the subscription.
            latest = await self._do.store.find_call(call_id)
            if latest is not None and latest != record:
                stream.send("call", self._show(latest))
                if latest.state in OVER:
                    stream.end()
        return None

    async def _follow_all(self, request: Request, _: str, key: Key) -> Answer | None:
        self._open(request, key, key_id=key.id)
        return None

    def _open(self, request: Request, key: Key, *, until_over: bool = False, **what: str) -> Stream | None:
        """Begin a stream; None where the client does not want one, or has left. Raises Problem, BadRequest."""
        seconds = read_seconds(request.args)
        if len(self._streams) >= MOST_STREAMS:
            raise Problem(problem.UNAVAILABLE, "too many streams are open", retry_after=10)
        if list(self._streams.values()).count(key.id) >= MOST_STREAMS_OF_KEY:
            raise Problem(problem.TOO_MANY_STREAMS, f"{MOST_STREAMS_OF_KEY} streams of this api_key are open")
        if request.left:
            return None
        if request.method == b"HEAD":
            request.setHeader(b"content-type", b"text/event-stream")
            request.setHeader(b"cache-control", b"no-store")
            request.write(b"")
            request.finish()
            return None

        def closed() -> None:
            del self._streams[stream]
            leave()

        def heard(event: Event) -> None:
            stream.send(event.what.value, show_event(event))
            if until_over and _is_last(event):
                stream.end()

        stream = Stream(request, self._do.reactor, closed, longest=seconds)
        self._streams[stream] = key.id
        leave = self._do.subscribe(heard, **what)
        return stream

    def _poll(self, stream: Stream, record: CallRecord) -> None:
        """Tell of what other nodes do with a call, by looking at it."""
        seen = [record]

        async def look() -> None:
            try:
                now = await self._do.store.find_call(record.call.id)
            except StoreUnavailable:
                return
            if stream.over or now is None:
                loop.stop()
                stream.end()
            elif now != seen[0]:
                seen[0] = now
                stream.send("call", self._show(now))
                if now.state in OVER:
                    stream.end()

        loop = LoopingCall(lambda: Deferred.fromCoroutine(look()))
        loop.clock = self._do.reactor
        loop.start(POLL, now=False).addErrback(lambda failure: self.log.failure("a stream can't go on", failure))


def _body(request: Request) -> bytes:
    """Return the octets of a JSON body. Raises Problem."""
    if _media_type(request) != b"application/json":
        raise Problem(problem.NOT_JSON, "send it with `Content-Type: application/json`")
    body: bytes = b"" if request.content is None else request.content.read(OPENING.largest)
    return body


def _media_type(request: Request) -> bytes:
    """Return what the body is, in UTF-8; empty where that is not said, or it is not UTF-8."""
    given = request.requestHeaders.getRawHeaders(b"content-type", [])
    media_type, _, parameters = (given[0] if len(given) == 1 else b"").lower().partition(b";")
    charset = parameters.replace(b" ", b"").replace(b'"', b"")
    return media_type.strip() if charset in (b"", b"charset=utf-8") else b""


def _idempotency_name(request: Request) -> str:
    """Return the customer's name for the request, empty where it has none. Raises BadRequest."""
    given = request.requestHeaders.getRawHeaders(b"idempotency-key")
    if given is None:
        return ""
    name = given[0].decode("latin-1") if len(given) == 1 else ""
    if not IDEMPOTENCY_KEY.fullmatch(name):
        raise BadRequest("Idempotency-Key must be 1 to 255 printable ASCII characters without spaces, once")
    return name


def _idempotency(request: Request, key: Key, wanted: Mapping[str, Any]) -> str:
    """Return what `Call.idempotency` is to be. Raises BadRequest."""
    name = _idempotency_name(request)
    if not name:
        return ""
    token = hashlib.sha256(f"{key.id}\0{name}".encode()).hexdigest()[:32]
    return token + hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]


def _refusal(verdict: Verdict) -> Problem:
    retry_after = int(FLOOD_SECONDS) if verdict.code is ReturnCode.FLOOD else None
    return Problem(problem.OF_CODE[verdict.code], verdict.words, retry_after=retry_after)


def _is_last(event: Event) -> bool:
    """Whether nothing more will happen to the event's call."""
    if event.what.value == "ended":
        return event.call is not None and event.call.callback_url is None
    return event.details.get("verdict") in ("delivered", "exhausted")
