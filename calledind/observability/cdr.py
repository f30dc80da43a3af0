"""Records of calls that have ended (CDRs): one line each, of CSV or of JSON, for billing and for statistics."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from typing import Literal

from calledind.model import Call, Outcome
from calledind.net.media import MediaStatistics
from calledind.observability.courses import Course
from calledind.observability.metrics import words

Format = Literal["csv", "json"]
Numbers = Literal["full", "last4"]
Record = Mapping[str, str | int | float | bool | None]
FIELDS = (
    "id",
    "node",
    "key_id",
    "country_code",
    "number",
    "accepted_at",
    "dialled_at",
    "rang",
    "answered_at",
    "ended_at",
    "billed_seconds",
    "outcome",
    "reason",
    "cause",
    "ended_by",
    "trunk",
    "sip_status",
    "q850",
    "audio",
    "audio_seconds",
    "codec",
    "packets_sent",
    "packets_late",
    "packets_received",
    "packets_lost_to_callee",
    "packets_lost_from_callee",
    "jitter_to_callee_ms",
    "jitter_from_callee_ms",
    "round_trip_ms",
    "mos",
)
"The columns, in their order; later ones come at the end."


@dataclass(frozen=True, slots=True)
class Media:
    """How a call's packets went."""

    codec: str
    statistics: MediaStatistics


def record(
    call: Call,
    outcome: Outcome,
    *,
    node: str,
    numbers: Numbers,
    course: Course | None = None,
    media: Media | None = None,
) -> Record:
    """Put together what is known of a call; None where it is not known.

    Times are ISO 8601 in UTC. `reason` is the callback's. What is billed is the time from the answer to the end.
    """
    ending = outcome.ending
    billed = 0.0 if ending.answered_at is None else max(0.0, ending.ended_at - ending.answered_at)
    known: dict[str, str | int | float | bool | None] = {
        "id": call.id,
        "node": node,
        "key_id": call.key_id,
        "country_code": call.country_code,
        "number": call.phone_number if numbers == "full" else call.phone_number[-4:],
        "accepted_at": moment(call.accepted_at),
        "dialled_at": None if course is None else moment(course.dialled_at),
        "rang": ending.rang,
        "answered_at": moment(ending.answered_at),
        "ended_at": moment(ending.ended_at),
        "billed_seconds": round(billed, 3),
        "outcome": words(outcome.reason),
        "reason": None if outcome.reason is None else int(outcome.reason),
        "cause": ending.cause.value,
        "ended_by": ending.ended_by.value,
        "trunk": ending.trunk,
        "sip_status": ending.sip_status,
        "q850": ending.q850,
        "audio": call.audio,
        "audio_seconds": round(call.duration, 3),
    }
    if media is not None:
        told = media.statistics
        by_peer = told.jitter_by_peer is not None
        known |= {
            "codec": media.codec,
            "packets_sent": told.packets_sent,
            "packets_late": told.packets_late,
            "packets_received": told.packets_received,
            "packets_lost_to_callee": told.packets_lost_by_peer if by_peer else None,
            "packets_lost_from_callee": told.packets_lost,
            "jitter_to_callee_ms": milliseconds(told.jitter_by_peer),
            "jitter_from_callee_ms": milliseconds(told.jitter if told.packets_received else None),
            "round_trip_ms": milliseconds(told.round_trip),
            "mos": told.mos,
        }
    return {name: known.get(name) for name in FIELDS}


def header(format: Format) -> str:
    """Return the line that a file begins with; empty where it needs none."""
    return _row(FIELDS) if format == "csv" else ""


def line(record: Record, format: Format) -> str:
    """Write a record, with its line end."""
    if format == "json":
        return json.dumps(record, ensure_ascii=False) + "\n"
    return _row(_cell(record[name]) for name in FIELDS)


def _cell(value: str | int | float | bool | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _row(cells: Iterable[str]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def moment(seconds: float | None) -> str | None:
    """Return seconds since the epoch as ISO 8601 in UTC, with milliseconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
