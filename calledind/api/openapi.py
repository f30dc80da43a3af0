# mypy: allow-untyped-calls
"""GET /openapi.json: what `/api/v1` takes and answers, by OpenAPI 3.1, made from the tables that it works by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from twisted.web.resource import Resource

import calledind
from calledind.api import problem
from calledind.api.problem import Kind
from calledind.api.site import Request
from calledind.api.v1 import MOST_STREAMS_OF_KEY, OPENING
from calledind.api.v1_batch_forms import BATCH, BATCH_FIELDS, COMMON
from calledind.api.v1_batches import OPENING as OPENING_OF_BATCHES
from calledind.api.v1_forms import (
    ABOUT_QUERY,
    CALL,
    FIELDS,
    MEDIA,
    NAME,
    OUTCOME,
    QUERY,
    REQUIRED,
    SECONDS,
    refine,
)
from calledind.batches.batches import COLUMNS
from calledind.model import Happening

ALWAYS = (problem.INVALID_KEY, problem.KEY_DISABLED, problem.FAULT, problem.UNAVAILABLE)
"What any request may be refused for."
RETRY_AFTER = {"schema": {"type": "integer", "minimum": 0}, "description": "Seconds until it may be asked again."}
HEADERS = {
    401: {
        "WWW-Authenticate": {"schema": {"type": "string"}, "description": "`Bearer`, with an error where it is one."}
    },
    429: {"Retry-After": RETRY_AFTER},
    503: {"Retry-After": RETRY_AFTER},
}
ID = {"name": "id", "in": "path", "required": True, "schema": NAME["id"], "description": "The call's id."}
BATCH_ID = {**ID, "schema": BATCH["properties"]["id"], "description": "The batch's id."}
SECONDS_PARAMETER = {"name": "seconds", "in": "query", "schema": SECONDS, "description": ABOUT_QUERY["seconds"]}
IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "description": "A name of yours for this request. Sent again within a day, it is answered with the same call.",
}
EVENT = {
    "type": "object",
    "description": "The data of an event whose name is `what`.",
    "properties": {
        "what": {"enum": [each.value for each in Happening if each is not Happening.TRUNK]},
        "at": {"type": "number", "description": "Seconds since the epoch."},
        "call": refine(**NAME),
        "outcome": {"$ref": "#/components/schemas/Outcome"},
        "callback": {
            "type": "object",
            "properties": {
                "verdict": {"enum": ["delivered", "exhausted", "postponed"]},
                "status": {"type": ["integer", "null"], "description": "Null: no response came."},
                "tries": {"type": "integer"},
            },
            "required": ["verdict", "status", "tries"],
        },
    },
    "required": ["what", "at", "call"],
}


def document() -> dict[str, Any]:
    """Return the whole of it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "calledin",
            "version": calledind.__version__,
            "description": "One request makes a phone ring, and plays an MP3 to who answers. Times are seconds since "
            "the epoch. What is refused is told by RFC 9457, with the `code` that GET /api/playback/ has for it.",
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "tags": [
            {"name": "calls", "description": "Making, finding, following and ending calls."},
            {"name": "batches", "description": "Calls for many numbers by one request."},
        ],
        "paths": {
            "/api/v1/calls": {"post": _create(), "get": _list()},
            "/api/v1/calls/{id}": {"parameters": [ID], "get": _get()},
            "/api/v1/calls/{id}/cancel": {"parameters": [ID], "post": _cancel()},
            "/api/v1/calls/{id}/events": {"parameters": [ID], "get": _follow()},
            "/api/v1/events": {"get": _follow_all()},
            "/api/v1/batches": {"post": _create_batch(), "get": _list_batches()},
            "/api/v1/batches/{id}": {"parameters": [BATCH_ID], "get": _get_batch(), "delete": _delete_batch()},
            "/api/v1/batches/{id}/pause": {
                "parameters": [BATCH_ID],
                "post": _change_batch("pauseBatch", "Ask for no more rows"),
            },
            "/api/v1/batches/{id}/resume": {
                "parameters": [BATCH_ID],
                "post": _change_batch("resumeBatch", "Go on with a batch that is paused"),
            },
            "/api/v1/batches/{id}/cancel": {
                "parameters": [BATCH_ID],
                "post": _change_batch("cancelBatch", "Ask for no more rows, for good; accepted calls are made"),
            },
            "/api/v1/batches/{id}/results.csv": {"parameters": [BATCH_ID], "get": _results()},
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "The api_key."}},
            "schemas": {
                "Request": {
                    "type": "object",
                    "properties": FIELDS,
                    "required": list(REQUIRED),
                    "additionalProperties": False,
                },
                "Call": CALL,
                "Outcome": OUTCOME,
                "Media": {"type": "object", "properties": MEDIA, "additionalProperties": False},
                "DryRun": refine(
                    dry_run={"const": True},
                    accepted={"type": "boolean"},
                    refusals={"type": "array", "items": {"$ref": "#/components/schemas/Problem"}},
                ),
                "Calls": refine(
                    calls={"type": "array", "items": {"$ref": "#/components/schemas/Call"}},
                    next={
                        "type": ["string", "null"],
                        "description": "What `before` the next page has; null: these were the last. A page may be "
                        "short, or empty, and still lead on.",
                    },
                ),
                "Event": EVENT,
                "BatchRequest": {
                    "type": "object",
                    "properties": BATCH_FIELDS,
                    "required": ["mp3", "numbers"],
                    "additionalProperties": False,
                },
                "Batch": BATCH,
                "Batches": refine(batches={"type": "array", "items": {"$ref": "#/components/schemas/Batch"}}),
                "Problem": _problem(),
            },
        },
    }


def _create() -> dict[str, Any]:
    answers = {
        "201": {
            **_answer("Call", "The call was accepted, and waits to be dialled."),
            "headers": {
                "Location": {"schema": {"type": "string"}, "required": True, "description": "Where the call is."},
                "Idempotency-Replayed": {
                    "schema": {"const": "true"},
                    "description": "It was accepted before, under the same Idempotency-Key.",
                },
            },
            "links": {
                "get": {"operationId": "getCall", "parameters": {"id": "$response.body#/id"}},
                "follow": {"operationId": "followCall", "parameters": {"id": "$response.body#/id"}},
                "cancel": {"operationId": "cancelCall", "parameters": {"id": "$response.body#/id"}},
            },
        },
        "200": _answer("DryRun", "Of a dry run: what would have come of it."),
    }
    refusals = (
        *(problem.BAD_REQUEST, problem.NO_CREDITS, problem.DO_NOT_CALL, problem.KEY_IN_USE, problem.NOT_JSON),
        *(problem.COUNTRY, problem.AREA, problem.MP3_UNUSABLE, problem.MP3_TOO_LONG, problem.KEY_REUSED, problem.FLOOD),
    )
    return {
        **_operation("makeCall", "Make a call", {**answers, "413": _too_large(OPENING.largest)}, refusals),
        "parameters": [IDEMPOTENCY],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/Request"},
                    "example": {
                        "phone_number": "2125550100",
                        "country_code": "1",
                        "mp3": "https://example.com/hello.mp3",
                        "dry_run": True,
                    },
                }
            },
        },
    }


def _too_large(largest: int) -> dict[str, Any]:
    return {
        "description": f"The body is longer than {largest} octets.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }


def _list() -> dict[str, Any]:
    link = {"schema": {"type": "string"}, "description": 'The next page, as `rel="next"` (RFC 8288).'}
    page = {**_answer("Calls", "A page of them."), "headers": {"Link": link}}
    parameters = [
        {"name": name, "in": "query", "schema": schema, "description": ABOUT_QUERY[name]}
        for name, schema in QUERY.items()
    ]
    operation = _operation("listCalls", "The key's calls, the newest first", {"200": page}, (problem.BAD_REQUEST,))
    return {**operation, "parameters": parameters}


def _get() -> dict[str, Any]:
    return _operation("getCall", "One call", {"200": _answer("Call", "The call.")}, (problem.NOT_FOUND,))


def _cancel() -> dict[str, Any]:
    answers = {
        "200": _answer("Call", "It has ended. What waited was not dialled, and its credit is back."),
        "202": _answer("Call", "It is being hung up; how it ended is told later."),
    }
    return _operation(
        "cancelCall", "Take a call back, or hang it up", answers, (problem.NOT_FOUND, problem.CALL_HAS_ENDED)
    )


def _follow() -> dict[str, Any]:
    about = "First `call`, the call as it is; then what happens to it, until nothing more will."
    answers, refusals = _stream(about), _of_streams(problem.NOT_FOUND)
    return {**_operation("followCall", "What happens to a call", answers, refusals), "parameters": [SECONDS_PARAMETER]}


def _follow_all() -> dict[str, Any]:
    about = "What happens to the key's calls from now on, on the node that is asked."
    operation = _operation("followCalls", "What happens to all calls", _stream(about), _of_streams())
    return {**operation, "parameters": [SECONDS_PARAMETER]}


def _create_batch() -> dict[str, Any]:
    answers = {
        "201": {
            **_answer("Batch", "The batch is kept, and its rows are asked for one after the other."),
            "headers": {
                "Location": {"schema": {"type": "string"}, "required": True, "description": "Where the batch is."},
                "Idempotency-Replayed": {
                    "schema": {"const": "true"},
                    "description": "It was made before, under the same Idempotency-Key.",
                },
            },
            "links": {
                name: {"operationId": f"{name}Batch", "parameters": {"id": "$response.body#/id"}}
                for name in ("get", "pause", "resume", "cancel")
            },
        },
        "413": _too_large(OPENING_OF_BATCHES.largest),
    }
    refusals = (
        *(problem.BAD_REQUEST, problem.KEY_IN_USE, problem.NOT_JSON, problem.KEY_REUSED),
        problem.TOO_MANY_BATCHES,
    )
    example = {
        "mp3": "https://example.com/hello.mp3",
        "country_code": "1",
        "rate": 5,
        "numbers": ["2125550100", {"phone_number": "2125550101", "secret": "order 4712"}],
    }
    return {
        **_operation("makeBatch", "Call many numbers", answers, refusals, tag="batches"),
        "parameters": [IDEMPOTENCY],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/BatchRequest"}, "example": example},
                "text/csv": {
                    "schema": {
                        "type": "string",
                        "description": "The first line names the columns: phone_number, and country_code and secret "
                        f"where wanted. The other fields are in the query: {', '.join(COMMON)}.",
                    },
                    "example": "phone_number,secret\n2125550100,order 4711\n2125550101,order 4712\n",
                },
            },
        },
    }


def _list_batches() -> dict[str, Any]:
    answers = {"200": _answer("Batches", "All that are kept.")}
    return _operation("listBatches", "The key's batches, the newest first", answers, (), tag="batches")


def _get_batch() -> dict[str, Any]:
    answers = {"200": _answer("Batch", "The batch.")}
    return _operation("getBatch", "One batch", answers, (problem.NOT_FOUND,), tag="batches")


def _delete_batch() -> dict[str, Any]:
    answers = {"200": _answer("Batch", "It was this.")}
    refusals = (problem.NOT_FOUND, problem.BATCH_IS_NOT_OVER)
    return _operation("deleteBatch", "Forget a batch that is over", answers, refusals, tag="batches")


def _change_batch(name: str, summary: str) -> dict[str, Any]:
    answers = {"200": _answer("Batch", "The batch.")}
    return _operation(name, summary, answers, (problem.NOT_FOUND, problem.BATCH_IS_OVER), tag="batches")


def _results() -> dict[str, Any]:
    about = f"A line for each row: {', '.join(COLUMNS)}. Moments are in UTC, as RFC 3339 has them."
    csv = {"description": about, "content": {"text/csv": {"schema": {"type": "string"}}}}
    summary = "What has become of each row"
    return _operation("getResults", summary, {"200": csv}, (problem.NOT_FOUND,), tag="batches")


def _of_streams(*others: Kind) -> Sequence[Kind]:
    return (problem.BAD_REQUEST, problem.TOO_MANY_STREAMS, *others)


def _stream(about: str) -> dict[str, Any]:
    about += f" A key may have {MOST_STREAMS_OF_KEY} streams. `lost` tells how many events a slow client has missed."
    event = {"type": "string", "description": "Server-sent events; the data of each is JSON, see `Event` and `Call`."}
    return {"200": {"description": about, "content": {"text/event-stream": {"schema": event}}}}


def _operation(
    name: str, summary: str, answers: dict[str, Any], refusals: Sequence[Kind], *, tag: str = "calls"
) -> dict[str, Any]:
    kinds: dict[int, list[Kind]] = {}
    for kind in (*refusals, *ALWAYS):
        kinds.setdefault(kind.status, []).append(kind)
    told = {str(status): _refusal(status, some) for status, some in sorted(kinds.items())}
    return {"operationId": name, "summary": summary, "tags": [tag], "responses": {**answers, **told}}


def _refusal(status: int, kinds: Sequence[Kind]) -> dict[str, Any]:
    is_one_of = {"properties": {"rule": {"enum": [kind.name for kind in kinds]}, "status": {"const": status}}}
    schema = {"allOf": [{"$ref": "#/components/schemas/Problem"}, is_one_of]}
    answer: dict[str, Any] = {
        "description": "; ".join(f"{kind.title} (`{kind.name}`)" for kind in kinds) + ".",
        "content": {problem.MEDIA_TYPE.decode(): {"schema": schema}},
    }
    return {**answer, "headers": HEADERS[status]} if status in HEADERS else answer


def _answer(schema: str, about: str) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{schema}"}
    return {"description": about, "content": {"application/json": {"schema": reference}}}


def _problem() -> dict[str, Any]:
    members = refine(
        type={
            "enum": [kind.type for kind in problem.KINDS],
            "description": "Of the problem: a page of words is there.",
        },
        title={"type": "string"},
        status={"type": "integer"},
        detail={"type": "string"},
        rule={"enum": [kind.name for kind in problem.KINDS], "description": "The last part of its type."},
    )
    codes = sorted({int(kind.code) for kind in problem.KINDS if kind.code is not None})
    members["properties"]["code"] = {"enum": codes, "description": "What GET /api/playback/ answers for the same."}
    members["properties"]["errors"] = {
        "type": "array",
        "items": refine(row={"type": "integer", "minimum": 1}, detail={"type": "string"}),
        "description": "Of many rows, those that are wrong; not more than a few of them.",
    }
    return members


class OpenApi(Resource):
    """The document, put together once."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._body = json.dumps(document(), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"content-type", b"application/json")
        request.setHeader(b"content-length", b"%d" % len(self._body))
        request.setHeader(b"cache-control", b"public, max-age=300")
        return self._body
