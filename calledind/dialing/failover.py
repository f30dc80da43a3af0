"""What the end of a call says of its trunk: whether another may be asked, and whether this one is to be spared.

    final   nothing, it speaks of the callee
    next    it could not: the next trunk is asked
    slow    it is asked for too much: the next trunk is asked, and this one gets fewer calls per second for a while
    pause   it is full: that too, and it gets none for as long as its Retry-After, or the setting `pause`, says

Only before anything rang: from then on the call has reached somebody, whatever it ends with. The usual table is that
of RFC 3261 §21.5; a trunk's `failover` goes before it, as carriers mean different things by the same status.
"""

from __future__ import annotations

from typing import Literal

from calledind.model import Cause, Ending
from calledind.settings.tables import Trunk

Says = Literal["final", "next", "slow", "pause"]

UNAVAILABLE = 503
USUAL: dict[int, Says] = {408: "next", 500: "next", 502: "next", UNAVAILABLE: "slow", 504: "next"}
"Statuses that speak of the trunk and not of the callee."


def says(ending: Ending, trunk: Trunk, *, responded: bool) -> Says:
    """Return what an ending says. `responded`: a provisional response but 100 had come."""
    if ending.answered or responded:
        return "final"
    if ending.cause in (Cause.NO_RESPONSE, Cause.TRANSPORT):
        return "next"
    if ending.cause is not Cause.FINAL_RESPONSE or ending.sip_status is None:
        return "final"
    return trunk.failover.get(str(ending.sip_status)) or USUAL.get(ending.sip_status, "final")


def is_technical(ending: Ending) -> bool:
    """Whether a failure counts for the breaker: a trunk that says 403 or 486 works, however unwilling it is."""
    return ending.sip_status is None or ending.sip_status in USUAL
