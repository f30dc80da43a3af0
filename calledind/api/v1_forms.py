"""What goes in and out of `/api/v1`: the fields of requests, and how calls and events are written.

The tables here are what requests are held to and what `/openapi.json` says, so that the two can't differ. Times are
seconds since the epoch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from calledind.model import (
    LONGEST_SECRET,
    LONGEST_URL,
    BadRequest,
    Call,
    CallRecord,
    Cause,
    EndedBy,
    Event,
    Happening,
    Outcome,
    PlaybackRequest,
    Reason,
    State,
)
from calledind.store.interface import CallFilter

Schema = Mapping[str, Any]
"A JSON Schema, as OpenAPI 3.1 has them."

_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_NAME = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?){0,20}\.?"
_IPV6 = r"\[([0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}\]|\[([0-9A-Fa-f]{1,4}:){1,6}:[0-9A-Fa-f]{1,4}\]"
URL = rf"^https?://([A-Za-z0-9._~!$&'()*+,;=:%-]+@)?({_NAME}|{_IPV6})(:{_PORT})?([/?][!-~]*)?$"
"Absolute, of http or https, in ASCII: what else there is in it is percent-encoded."

FIELDS: Mapping[str, Schema] = {
    "phone_number": {"type": "string", "pattern": "^[0-9]{10}$", "description": "Exactly ten digits."},
    "country_code": {
        "type": "string",
        "pattern": "^[0-9]{1,15}$",
        "description": "Digits: 1 is North America, 44 the UK.",
    },
    "mp3": {
        "type": "string",
        "pattern": URL,
        "maxLength": LONGEST_URL,
        "description": "Where the MP3 is: an absolute http or https URL.",
    },
    "cache": {
        "type": "boolean",
        "default": True,
        "description": "Whether the fetched MP3 may be kept and used again.",
    },
    "caller_id": {
        "type": "string",
        "pattern": r"^(anonymous|\+[0-9]{1,19}|[0-9]{1,20})$",
        "description": "What the callee sees; without it, the trunk's own number.",
    },
    "callback_url": {
        "type": "string",
        "pattern": URL,
        "maxLength": LONGEST_URL,
        "description": "Told how the call went: an absolute http or https URL.",
    },
    "secret": {
        "type": "string",
        "maxLength": LONGEST_SECRET,
        "description": "Handed back in the callback untouched.",
    },
    "dry_run": {
        "type": "boolean",
        "default": False,
        "description": "Make no call, take nothing, and say which rules would refuse this one.",
    },
    "fetch": {
        "type": "boolean",
        "default": False,
        "description": "With `dry_run`: fetch the MP3 and judge it as well.",
    },
}
REQUIRED = ("phone_number", "country_code", "mp3")
OF_PLAYBACK = ("phone_number", "country_code", "mp3", "cache", "caller_id", "callback_url", "secret")

MOST_CALLS = 200
"On one page."
QUERY: Mapping[str, Schema] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": MOST_CALLS, "default": 50},
    "before": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    "state": {"type": "string", "enum": [state.value for state in State]},
    "answered": {"type": "boolean"},
    "reason": {"type": "integer", "enum": [int(reason) for reason in Reason]},
    "last_digits": {"type": "string", "pattern": "^[0-9]{1,15}$"},
    "since": {"type": "number", "minimum": 0, "maximum": 1e11},
    "until": {"type": "number", "minimum": 0, "maximum": 1e11},
}
LONGEST_STREAM = 3600
SECONDS: Schema = {"type": "integer", "minimum": 1, "maximum": LONGEST_STREAM, "default": LONGEST_STREAM}
ABOUT_QUERY = {
    "seconds": "For how long the stream lasts, at most.",
    "limit": "Calls on a page, at most.",
    "before": "The `next` of the page before.",
    "state": "Calls in this state alone.",
    "answered": "Calls with an outcome that says so.",
    "reason": "Calls that were not answered for this reason.",
    "last_digits": "Calls to numbers (country code and all) that end with these.",
    "since": "Calls accepted at this moment or later, in seconds since the epoch.",
    "until": "Calls accepted before this moment, in seconds since the epoch.",
}


# what comes in


def read_body(body: bytes) -> Mapping[str, Any]:
    """Read the JSON object that asks for a call, and hold it to `FIELDS`. Raises `BadRequest`."""
    value = read_object(body)
    for name in value:
        if name not in FIELDS:
            raise BadRequest(f"there is no field {name[:40]!r}")
    for name in REQUIRED:
        if name not in value:
            raise BadRequest(f"{name} is required")
    for name, each in value.items():
        check_field(name, each, FIELDS[name])
    return value


def read_object(body: bytes) -> Mapping[str, Any]:
    """Read a JSON object whose members have names of their own. Raises `BadRequest`."""
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    except BadRequest:
        raise
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise BadRequest("a field is given more than once")
    return value


def _refuse(constant: str) -> NoReturn:
    raise BadRequest(f"{constant} is not JSON")


def check_field(name: str, value: object, schema: Schema) -> None:
    """Hold a string or a boolean to its schema. Raises `BadRequest`."""
    wanted = bool if schema["type"] == "boolean" else str
    if not isinstance(value, wanted):
        raise BadRequest(f"{name} must be {'true or false' if wanted is bool else 'a string'}")
    if isinstance(value, str):
        if len(value) > schema.get("maxLength", LONGEST_URL):
            raise BadRequest(f"{name} is longer than {schema.get('maxLength', LONGEST_URL)} characters")
        if "pattern" in schema and not _matches(schema["pattern"], value):
            raise BadRequest(f"{name} is not as it should be: {schema['description']}")


def _matches(pattern: str, text: str) -> bool:
    """As JSON Schema means it: Python's $ would let a line end pass."""
    return re.fullmatch(pattern.removeprefix("^").removesuffix("$"), text) is not None


def to_request(api_key: str, wanted: Mapping[str, Any]) -> PlaybackRequest:
    """Turn what `read_body` returned into what GET /api/playback/ would have asked for. Raises `BadRequest`."""
    args = {b"api_key": [api_key.encode()]}
    for name in OF_PLAYBACK:
        if name in wanted:
            args[name.encode()] = [str(wanted[name]).encode("utf-8", "surrogatepass")]
    return PlaybackRequest.parse(args)


def read_query(args: Mapping[bytes, Sequence[bytes]], key_id: str) -> tuple[CallFilter, int, str]:
    """Return which calls of a key are asked for, how many, and `before`. Names not in `QUERY` are ignored."""
    given = {name: _read_parameter(name, args, schema) for name, schema in QUERY.items()}
    wanted: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    limit, before = wanted.pop("limit", 50), wanted.pop("before", "")
    if "reason" in wanted:
        wanted["reason"] = Reason(wanted["reason"])
    return CallFilter(key_id=key_id, **wanted), limit, before


def read_seconds(args: Mapping[bytes, Sequence[bytes]]) -> int:
    """Return for how long a stream is to last. Raises `BadRequest`."""
    return _read_parameter("seconds", args, SECONDS) or LONGEST_STREAM


def _read_parameter(name: str, args: Mapping[bytes, Sequence[bytes]], schema: Schema) -> Any:
    """Return its value; None where it is not given. Raises `BadRequest`."""
    values = args.get(name.encode(), ())
    if not values:
        return None
    if len(values) > 1:
        raise BadRequest(f"{name} is given more than once")
    text = values[0].decode("utf-8", "replace")
    value = _READERS[schema["type"]](text)
    wrong = (
        value is None
        or ("enum" in schema and value not in schema["enum"])
        or ("pattern" in schema and not _matches(schema["pattern"], text))
        or not schema.get("minimum", value) <= value <= schema.get("maximum", value)
    )
    if wrong:
        raise BadRequest(f"{name} is not as it should be: {ABOUT_QUERY[name]}")
    return value


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?[0-9]{1,15}", text) else None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?", text) else None


_READERS: Mapping[str, Callable[[str], Any]] = {
    "string": str,
    "boolean": {"true": True, "false": False}.get,
    "integer": _integer,
    "number": _number,
}


# what goes out

REASONS = {
    Reason.FAILED: "failed",
    Reason.HUNG_UP: "hung up",
    Reason.RING_TIMEOUT: "ring timeout",
    Reason.BUSY: "busy",
    Reason.CONGESTION: "congestion",
}
MEDIA: Mapping[str, Schema] = {
    "codec": {"type": "string", "description": "The one used last."},
    "srtp": {"type": "string", "description": "The crypto-suite, empty where nothing was encrypted."},
    "digits": {"type": "string", "description": "The keys that the callee pressed."},
    "packets_sent": {"type": "integer"},
    "octets_sent": {"type": "integer"},
    "packets_late": {"type": "integer"},
    "packets_received": {"type": "integer"},
    "packets_lost": {"type": "integer", "description": "Of those that the callee sent."},
    "jitter": {"type": "number", "description": "Of those that the callee sent, in seconds."},
    "packets_lost_by_peer": {"type": "integer", "description": "Of those that we sent, as the callee reports."},
    "fraction_lost_by_peer": {"type": "number"},
    "jitter_by_peer": {"type": ["number", "null"], "description": "Seconds."},
    "round_trip": {"type": ["number", "null"], "description": "Seconds."},
    "mos": {"type": ["number", "null"], "description": "Estimated mean opinion score, 1 to 4.5."},
}
"What is told of a call's packets, as far as this node keeps it."


def show_call(record: CallRecord, media: Mapping[str, Any] | None) -> dict[str, object]:
    """Write a call for its customer. `media`: its figures where they are kept."""
    call, outcome = record.call, record.outcome
    return {
        **name_call(call),
        "state": record.state.value,
        "caller_id": call.caller_id,
        "duration": call.duration,
        "callback_url": call.callback_url,
        "accepted_at": call.accepted_at,
        "answered_at": record.answered_at if outcome is None else outcome.ending.answered_at,
        "ended_at": None if outcome is None else outcome.ending.ended_at,
        "outcome": None if outcome is None else show_outcome(outcome),
        "media": None if media is None else {name: media[name] for name in MEDIA if name in media},
    }


def name_call(call: Call) -> dict[str, object]:
    return {"id": call.id, "phone_number": call.phone_number, "country_code": call.country_code}


def show_outcome(outcome: Outcome) -> dict[str, object]:
    ending, reason = outcome.ending, outcome.reason
    return {
        "answered": outcome.answered,
        "reason": None if reason is None else int(reason),
        "words": "answered" if reason is None else REASONS[reason],
        "cause": ending.cause.value,
        "ended_by": ending.ended_by.value,
        "rang": ending.rang,
        "sip_status": ending.sip_status,
        "q850": ending.q850,
    }


def show_event(event: Event) -> dict[str, object]:
    """Write an event for the customer whose call it is of."""
    assert event.call is not None
    told: dict[str, object] = {"what": event.what.value, "at": event.at, "call": name_call(event.call)}
    if event.what is Happening.ENDED and event.outcome is not None:
        told["outcome"] = show_outcome(event.outcome)
    if event.what is Happening.CALLBACK:
        told["callback"] = dict(event.details)
    return told


def refine(**members: Schema) -> dict[str, Any]:
    """Return the schema of an object that has all of these members and no others."""
    return {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}


NAME: Mapping[str, Schema] = {
    "id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    "phone_number": {"type": "string"},
    "country_code": {"type": "string"},
}
OUTCOME = refine(
    answered={"type": "boolean"},
    reason={"enum": [*map(int, Reason), None], "description": "Why it was not answered; null where it was."},
    words={"enum": ["answered", *REASONS.values()]},
    cause={"enum": [cause.value for cause in Cause]},
    ended_by={"enum": [each.value for each in EndedBy]},
    rang={"type": "boolean"},
    sip_status={"type": ["integer", "null"]},
    q850={"type": ["integer", "null"]},
)
MOMENT = {"type": ["number", "null"], "description": "Seconds since the epoch."}
CALL = refine(
    **NAME,
    state={"enum": [state.value for state in State]},
    caller_id={"type": "string"},
    duration={"type": "number", "description": "Of the audio, in seconds."},
    callback_url={"type": ["string", "null"]},
    accepted_at={"type": "number", "description": "Seconds since the epoch."},
    answered_at=MOMENT,
    ended_at=MOMENT,
    outcome={"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/Outcome"}]},
    media={
        "oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/Media"}],
        "description": "How its packets went, of the last calls of the node that is asked; else null.",
    },
)
