"""What goes in and out of `/api/v1/batches`: as JSON, or a CSV with the other fields in the query.

As with calls, the tables here are what requests are held to and what `/openapi.json` says.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from calledind.api import problem
from calledind.api.problem import OF_CODE, Problem
from calledind.api.v1_forms import FIELDS, MOMENT, Schema, check_field, read_object, refine, to_request
from calledind.batches.batches import MOST_ROWS, Kept, Outcomes, Wanted
from calledind.batches.files import Order, Row, State
from calledind.batches.run import refused
from calledind.model import DEFAULT_CALLER, BadRequest, ReturnCode

SLOWEST, FASTEST = 0.01, 100.0
DEFAULT_RATE = 1.0
MOST_TOLD = 20
"Rows that one refusal names."

NUMBER: Schema = {
    "type": "object",
    "properties": {name: FIELDS[name] for name in ("phone_number", "country_code", "secret")},
    "required": ["phone_number"],
    "additionalProperties": False,
}
RATE: Schema = {
    "type": "number",
    "minimum": SLOWEST,
    "maximum": FASTEST,
    "default": DEFAULT_RATE,
    "description": "Numbers asked for per second, at most.",
}
COMMON: Mapping[str, Schema] = {
    "mp3": FIELDS["mp3"],
    "rate": RATE,
    "country_code": {**FIELDS["country_code"], "description": "Of the numbers that name none of their own."},
    "caller_id": FIELDS["caller_id"],
    "callback_url": FIELDS["callback_url"],
    "secret": {**FIELDS["secret"], "description": "Of the numbers that name none of their own."},
}
BATCH_FIELDS: Mapping[str, Schema] = {
    **COMMON,
    "numbers": {
        "type": "array",
        "minItems": 1,
        "maxItems": MOST_ROWS,
        "items": {"oneOf": [FIELDS["phone_number"], NUMBER]},
        "description": "Each of them once.",
    },
}
Rows = Sequence[str | Mapping[str, Any]]


def read_json(body: bytes) -> Wanted:
    """Read what a batch is to be. Raises `BadRequest`, `Problem`."""
    value = dict(read_object(body))
    numbers = value.pop("numbers", None)
    if not isinstance(numbers, list):
        raise BadRequest("numbers is required, a list")
    return _read(value, numbers)


def read_csv(body: bytes, args: Mapping[bytes, Sequence[bytes]]) -> Wanted:
    """Read numbers from a CSV whose first line names its columns, and the other fields from a query.

    Columns that have no meaning here are passed over. Raises `BadRequest`, `Problem`.
    """
    value: dict[str, Any] = {}
    for name, values in args.items():
        label = name.decode("utf-8", "replace")
        if len(values) > 1:
            raise BadRequest(f"{label[:40]} is given more than once")
        value[label] = values[0].decode("utf-8", "surrogateescape")
    if "rate" in value:
        try:
            value["rate"] = float(value["rate"])
        except ValueError:
            raise BadRequest(f"rate must be a number from {SLOWEST:g} to {FASTEST:g}") from None
    try:
        lines = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        names = [name.strip().lower() for name in next(lines, [])]
        if "phone_number" not in names or any(names.count(name) > 1 for name in NUMBER["properties"]):
            raise BadRequest("the first line must name the columns, each once and phone_number among them")
        numbers = [_of_line(names, line) for line in lines if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadRequest(f"the body is not a CSV in UTF-8: {error}") from None
    return _read(value, numbers)


def _of_line(names: Sequence[str], line: Sequence[str]) -> Mapping[str, str]:
    cells = ((name, cell.strip()) for name, cell in zip(names, line, strict=False) if name in NUMBER["properties"])
    return {name: cell for name, cell in cells if cell}


def _read(value: Mapping[str, Any], numbers: Rows) -> Wanted:
    for name in value:
        if name not in COMMON:
            raise BadRequest(f"there is no field {name[:40]!r}")
    if "mp3" not in value:
        raise BadRequest("mp3 is required")
    for name, each in value.items():
        if name != "rate":
            check_field(name, each, COMMON[name])
    rate = value.get("rate", DEFAULT_RATE)
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not SLOWEST <= rate <= FASTEST:
        raise BadRequest(f"rate must be a number from {SLOWEST:g} to {FASTEST:g}")
    rows = _read_rows(numbers, value)
    # What the contract has to say of the fields beyond their form.
    one = {name: value[name] for name in ("mp3", "caller_id", "callback_url", "secret") if name in value}
    to_request("-", {**one, "phone_number": rows[0].phone_number, "country_code": rows[0].country_code})
    return Wanted(
        mp3=value["mp3"],
        rate=float(rate),
        caller_id=value.get("caller_id", DEFAULT_CALLER),
        callback_url=value.get("callback_url"),
        rows=rows,
    )


def _read_rows(numbers: Rows, common: Mapping[str, Any]) -> Sequence[Row]:
    if not 1 <= len(numbers) <= MOST_ROWS:
        raise BadRequest(f"1 to {MOST_ROWS} numbers are taken, and {len(numbers)} are given")
    rows: list[Row] = []
    wrong: list[tuple[int, str]] = []
    first: dict[tuple[str, str], int] = {}
    for place, number in enumerate(numbers, 1):
        try:
            row = _read_row(number, common)
            before = first.setdefault((row.country_code, row.phone_number), place)
            if before != place:
                raise BadRequest(f"it is the number of row {before}")
            rows.append(row)
        except BadRequest as error:
            wrong.append((place, str(error)))
    if wrong:
        more = f", and {len(wrong) - 1} more are wrong" if len(wrong) > 1 else ""
        detail = f"row {wrong[0][0]}: {wrong[0][1]}{more}; nobody is called"
        raise Problem(problem.BAD_REQUEST, detail, rows=wrong[:MOST_TOLD])
    return rows


def _read_row(number: str | Mapping[str, Any], common: Mapping[str, Any]) -> Row:
    given = {"phone_number": number} if isinstance(number, str) else number
    if not isinstance(given, dict):
        raise BadRequest("it must be a string or an object")
    for name, each in given.items():
        if name not in NUMBER["properties"]:
            raise BadRequest(f"there is no field {name[:40]!r}")
        check_field(name, each, FIELDS[name])
    if "phone_number" not in given:
        raise BadRequest("phone_number is required")
    country_code = given.get("country_code", common.get("country_code"))
    if country_code is None:
        raise BadRequest("country_code is required, of the row or of the batch")
    secret = given.get("secret", common.get("secret", ""))
    try:
        secret.encode()
    except UnicodeEncodeError:
        raise BadRequest("secret is not UTF-8") from None
    return Row(country_code, given["phone_number"], secret)


# what goes out


def show_batch(kept: Kept, outcomes: Outcomes | None = None) -> dict[str, object]:
    """Write a batch for its customer."""
    order, standing, codes = kept.order, kept.standing, kept.codes
    code = standing.code
    paused = None
    if standing.state is State.PAUSED:
        rule = None if code is None else OF_CODE[ReturnCode(code)].name
        paused = {"rule": rule, "code": code, "detail": standing.words or "it was asked for"}
    return {
        **_asked_for(order),
        "state": standing.state.value,
        "paused": paused,
        "held_up": kept.trouble or None,
        "ended_at": None if kept.over is None else kept.over.at,
        "waiting": order.count - sum(codes.values()),
        "accepted": codes.get(0, 0),
        "refused": {str(each): count for each, count in refused(codes).items()},
        "outcomes": None if outcomes is None else _show_outcomes(outcomes),
    }


def _asked_for(order: Order) -> dict[str, object]:
    return {
        "id": order.id,
        "created_at": order.created_at,
        "mp3": order.mp3,
        "rate": order.rate,
        "caller_id": order.caller_id,
        "callback_url": order.callback_url,
        "rows": order.count,
    }


def _show_outcomes(outcomes: Outcomes) -> dict[str, object]:
    return {
        "answered": outcomes.answered,
        "not_answered": {str(reason): count for reason, count in outcomes.not_answered.items()},
        "running": outcomes.running,
        "forgotten": outcomes.forgotten,
    }


def _counts(about: str) -> Schema:
    return {"type": "object", "additionalProperties": {"type": "integer"}, "description": about}


COUNT: Schema = {"type": "integer", "minimum": 0}
OUTCOMES = refine(
    answered=COUNT,
    not_answered=_counts("By the reason."),
    running={**COUNT, "description": "Calls that have not ended yet."},
    forgotten={**COUNT, "description": "Calls that ended so long ago that nothing is known of them any more."},
)
PAUSED = refine(
    rule={"type": ["string", "null"], "description": "The rule that refused a row; null: none did."},
    code={"type": ["integer", "null"]},
    detail={"type": "string"},
)
BATCH = refine(
    id={"type": "string", "pattern": "^[0-9a-f]{32}$"},
    created_at={"type": "number", "description": "Seconds since the epoch."},
    mp3={"type": "string"},
    rate=RATE,
    caller_id={"type": "string"},
    callback_url={"type": ["string", "null"]},
    rows=COUNT,
    state={"enum": [state.value for state in State]},
    paused={
        "oneOf": [{"type": "null"}, PAUSED],
        "description": "Why it is paused, where it is.",
    },
    held_up={"type": ["string", "null"], "description": "Why it waits though it runs: no work is taken now."},
    ended_at=MOMENT,
    waiting={**COUNT, "description": "Rows that have no code yet; of a cancelled batch, those that never get one."},
    accepted=COUNT,
    refused=_counts("Rows by the code that refused them."),
    outcomes={
        "oneOf": [{"type": "null"}, OUTCOMES],
        "description": "What has become of the accepted calls; null in a list.",
    },
)
