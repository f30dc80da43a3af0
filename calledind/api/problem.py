# mypy: allow-untyped-calls
"""What went wrong, as RFC 9457 says it: one JSON object with a type that programs tell apart and words for people.

    {"type": "/problems/flood", "title": "...", "status": 429, "detail": "...", "code": 6, "rule": "flood"}

`type` is relative to the address that was asked, where a page of words is behind it. `code` is the one that
GET /api/playback/ has for the same, where it has one, and `rule` the same as a word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twisted.web.resource import Resource

from calledind.api.answers import Words, respond
from calledind.api.site import Request
from calledind.model import ReturnCode

MEDIA_TYPE = b"application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem."""

    name: str
    "Last part of its type, for programs."
    status: int
    title: str
    code: ReturnCode | None = None
    "Of GET /api/playback/."

    @property
    def type(self) -> str:
        return f"/problems/{self.name}"


BAD_REQUEST = Kind("bad-request", 400, "The request is not as it should be", ReturnCode.BAD_REQUEST)
INVALID_KEY = Kind("invalid-key", 401, "The API key is missing or not known", ReturnCode.INVALID_KEY)
NO_CREDITS = Kind("no-credits", 402, "The API key has no call credits left", ReturnCode.NO_CREDITS)
KEY_DISABLED = Kind("key-disabled", 403, "The API key is disabled", ReturnCode.KEY_DISABLED)
DO_NOT_CALL = Kind("do-not-call", 403, "The number is on the DoNotCall list", ReturnCode.DO_NOT_CALL)
NOT_FOUND = Kind("not-found", 404, "There is no such thing")
METHOD_NOT_ALLOWED = Kind("method-not-allowed", 405, "That can't be done with this")
CALL_HAS_ENDED = Kind("call-has-ended", 409, "The call has ended")
BATCH_IS_OVER = Kind("batch-is-over", 409, "The batch is over")
BATCH_IS_NOT_OVER = Kind("batch-is-not-over", 409, "The batch is not over")
KEY_IN_USE = Kind("idempotency-key-in-use", 409, "A request with this Idempotency-Key is being decided on")
NOT_JSON = Kind("unsupported-media-type", 415, "The body is of a kind that is not taken here")
COUNTRY = Kind("country-not-supported", 422, "The country is not supported", ReturnCode.COUNTRY_NOT_SUPPORTED)
AREA = Kind("area-not-supported", 422, "The area code is not supported", ReturnCode.AREA_NOT_SUPPORTED)
MP3_UNUSABLE = Kind("mp3-unusable", 422, "The MP3 can't be fetched or played", ReturnCode.MP3_UNUSABLE)
MP3_TOO_LONG = Kind("mp3-too-long", 422, "The MP3 plays for too long", ReturnCode.MP3_TOO_LONG)
KEY_REUSED = Kind("idempotency-key-reused", 422, "This Idempotency-Key was used for another request")
FLOOD = Kind("flood", 429, "The number was called less than a minute ago", ReturnCode.FLOOD)
TOO_MANY_STREAMS = Kind("too-many-streams", 429, "Too many streams are open")
TOO_MANY_BATCHES = Kind("too-many-batches", 429, "The API key has as many batches as it may")
FAULT = Kind("fault", 500, "A fault of calledin")
UNAVAILABLE = Kind("unavailable", 503, "No work is taken now")

KINDS = (
    *(BAD_REQUEST, INVALID_KEY, NO_CREDITS, KEY_DISABLED, DO_NOT_CALL, NOT_FOUND, METHOD_NOT_ALLOWED, CALL_HAS_ENDED),
    *(KEY_IN_USE, NOT_JSON, COUNTRY, AREA, MP3_UNUSABLE, MP3_TOO_LONG, KEY_REUSED, FLOOD, TOO_MANY_STREAMS, FAULT),
    *(BATCH_IS_OVER, BATCH_IS_NOT_OVER, TOO_MANY_BATCHES, UNAVAILABLE),
)
OF_CODE: Mapping[ReturnCode, Kind] = {kind.code: kind for kind in KINDS if kind.code is not None}
"For every code but 0."


class Problem(Exception):
    """The answer to a request that can't be done."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
        rows: Sequence[tuple[int, str]] = (),
    ) -> None:
        """`detail`: for people. `retry_after`: seconds. `rows`: of many, the number of each that is wrong, and why."""
        super().__init__(detail)
        self.rows = rows
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def members(self) -> dict[str, object]:
        """Return the object's members."""
        kind = self.kind
        told: dict[str, object] = {
            "type": kind.type,
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail,
            "rule": kind.name,
        }
        if kind.code is not None:
            told["code"] = int(kind.code)
        if self.rows:
            told["errors"] = [{"row": number, "detail": detail} for number, detail in self.rows]
        return told


def send(request: Request, status: int, value: object, headers: Mapping[str, str], media_type: bytes) -> None:
    """Write JSON, or the octets that `value` is, and finish."""
    if isinstance(value, bytes):
        body = value
    else:
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    request.setResponseCode(status)
    request.setHeader(b"content-type", media_type)
    request.setHeader(b"content-length", b"%d" % len(body))
    request.setHeader(b"cache-control", b"no-store")
    for name, text in headers.items():
        request.setHeader(name.encode(), text.encode("latin-1", "replace"))
    request.write(body)
    request.finish()


class Problems(Resource):
    """GET /problems/NAME: what the types of problems are about, in words."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        for kind in KINDS:
            if path == kind.name.encode() and not request.postpath:
                code = "" if kind.code is None else f" (code {int(kind.code)} of GET /api/playback/)"
                return Words(200, f"{kind.title}: answered with HTTP status {kind.status}{code}.")
        return Words(404, "there is no such problem")

    def render_GET(self, request: Request) -> bytes:
        return respond(request, 404, "name a problem")
