"""Looking for calls: what a `CallFilter` means, for stores of either kind.

Ids of calls sort by the time of acceptance, so that "newest first" and times are ranges of ids, and an id is the place
at which a page ends. Both stores keep an index of ids, and one for each key; all else that is asked for is found by
looking at the calls themselves, and no more than `MOST_LOOKED_AT` of these for one page.
"""

from __future__ import annotations

from math import isfinite

from calledind.model import CallRecord
from calledind.store.interface import CallFilter

MOST_LOOKED_AT = 20_000
"Calls that the embedded store looks at for one page, some ten milliseconds of its reader's thread."
LAST = "~"
"What sorts behind every id."


def id_range(wanted: CallFilter, before: str) -> tuple[str, str]:
    """Return the lowest id that may fit, and one that is higher than all that may."""
    since, until = wanted.since, wanted.until
    lowest = f"{int(since * 1000):012x}" if since > 0 else ""
    # The millisecond that `until` is in may have calls before it.
    above = f"{int(until * 1000) + 1:012x}" if isfinite(until) else LAST
    return lowest, min(above, before or LAST)


def fits(wanted: CallFilter, record: CallRecord) -> bool:
    """Whether a call is wanted."""
    call, outcome = record.call, record.outcome
    if wanted.key_id and call.key_id != wanted.key_id:
        return False
    if wanted.last_digits and not (call.country_code + call.phone_number).endswith(wanted.last_digits):
        return False
    if wanted.state and record.state != wanted.state:
        return False
    if wanted.answered is not None and (outcome is None or outcome.answered != wanted.answered):
        return False
    if wanted.reason is not None and (outcome is None or outcome.reason != wanted.reason):
        return False
    return wanted.since <= call.accepted_at < wanted.until


def is_narrow(wanted: CallFilter) -> bool:
    """Whether some of the calls in a range of ids may not fit, but for the ends of it."""
    return bool(wanted.last_digits or wanted.state) or wanted.answered is not None or wanted.reason is not None


def where(wanted: CallFilter) -> tuple[str, dict[str, object]]:
    """Return the condition of `fits` in SQL, and its named parameters."""
    conditions = ["request ->> 'accepted_at' >= :since"]
    parameters: dict[str, object] = {"since": wanted.since}
    if isfinite(wanted.until):
        conditions.append("request ->> 'accepted_at' < :until")
        parameters["until"] = wanted.until
    if wanted.key_id:
        conditions.append("key_id = :key")
        parameters["key"] = wanted.key_id
    if wanted.last_digits:
        conditions.append(
            "substr((request ->> 'country_code') || (request ->> 'phone_number'), -:length) = :last_digits"
        )
        parameters |= {"last_digits": wanted.last_digits, "length": len(wanted.last_digits)}
    if wanted.state:
        conditions.append("state = :state")
        parameters["state"] = str(wanted.state)
    if wanted.answered is not None:
        conditions.append("outcome ->> 'answered' = :answered")
        parameters["answered"] = int(wanted.answered)
    if wanted.reason is not None:
        conditions.append("outcome ->> 'reason' = :reason")
        parameters["reason"] = int(wanted.reason)
    return " AND ".join(conditions), parameters
