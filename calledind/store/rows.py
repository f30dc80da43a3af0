"""How the nouns are written in the database: JSON by field name, so that a field added later finds its default."""

from __future__ import annotations

import json
from dataclasses import fields
from operator import attrgetter
from typing import Any

from calledind.model import Attempt, Call, CallRecord, Cause, EndedBy, Ending, Outcome, PendingCallback, Reason, State
from calledind.store.interface import Entered, LedgerEntry

CALL_FIELDS = tuple(field.name for field in fields(Call))
_VALUES = attrgetter(*CALL_FIELDS)
ATTEMPT_FIELDS = tuple(field.name for field in fields(Attempt))
ENDING_FIELDS = tuple(field.name for field in fields(Ending))

RECORDS = "SELECT request, state, attempt, answer, outcome FROM call "
PENDING = "SELECT request, outcome, tries, due_at FROM call "
ENTRIES = "SELECT place, key_id, amount, reason, reference, at, balance FROM ledger "


def from_call(call: Call) -> dict[str, Any]:
    return dict(zip(CALL_FIELDS, _VALUES(call), strict=True))


def from_attempt(attempt: Attempt) -> dict[str, Any]:
    return {name: getattr(attempt, name) for name in ATTEMPT_FIELDS}


def from_answer(dialog: str, answered_at: float) -> dict[str, Any]:
    return {"dialog": dialog, "answered_at": answered_at}


def from_outcome(outcome: Outcome) -> dict[str, Any]:
    ending = {name: getattr(outcome.ending, name) for name in ENDING_FIELDS}
    return {"answered": outcome.answered, "reason": outcome.reason, "ending": ending}


def to_call(text: str) -> Call:
    return Call(**json.loads(text))


def to_attempt(text: str | None) -> Attempt | None:
    return None if text is None else Attempt(**json.loads(text))


def to_answer(text: str | None) -> tuple[str | None, float | None]:
    """Return the dialog and when it was answered."""
    if text is None:
        return None, None
    answer = json.loads(text)
    return answer["dialog"], answer["answered_at"]


def to_outcome(text: str) -> Outcome:
    value = json.loads(text)
    ending = value["ending"]
    ending["cause"] = Cause(ending["cause"])
    ending["ended_by"] = EndedBy(ending["ended_by"])
    reason = value["reason"]
    return Outcome(value["answered"], None if reason is None else Reason(reason), Ending(**ending))


def to_record(row: tuple[Any, ...]) -> CallRecord:
    """Read a row of `RECORDS`."""
    request, state, attempt, answer, outcome = row
    dialog, answered_at = to_answer(answer)
    return CallRecord(
        call=to_call(request),
        state=State(state),
        attempt=to_attempt(attempt),
        dialog=dialog,
        answered_at=answered_at,
        outcome=None if outcome is None else to_outcome(outcome),
    )


def to_pending(row: tuple[Any, ...]) -> PendingCallback:
    """Read a row of `PENDING`."""
    request, outcome, tries, due_at = row
    return PendingCallback(to_call(request), to_outcome(outcome), tries, due_at)


def to_entry(row: tuple[Any, ...]) -> LedgerEntry:
    """Read a row of `ENTRIES`."""
    place, key_id, amount, reason, reference, at, balance = row
    return LedgerEntry(key_id, amount, Entered(reason), reference, at, balance, str(place))
