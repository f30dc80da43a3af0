"""What happens to calls, for whoever looks on now: pages, `--watch`, customers' streams.

Producers know nothing of this: the composition root hands them `accepted`, `reached`, `ended` and `tried` as plain
callables. Who listens is called in the same turn of the reactor, for its own key's calls, for one call, or for all;
where nobody does, an event costs a look into three dictionaries. Nothing is kept: what was before, the store tells.

Events are those of this node. Of a store that several share, a call may go on at another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from twisted.logger import Logger

from calledind.model import Call, Event, Happening, Outcome, PendingCallback

Listener = Callable[[Event], None]
EVERYTHING = ""
NO_DETAILS: Mapping[str, object] = MappingProxyType({})
STAGES = {str(stage): stage for stage in (Happening.DIALING, Happening.RINGING, Happening.ANSWERED)}


class Events:
    """Tells those that listen. The methods that producers call never raise."""

    log = Logger()

    def __init__(self, now: Callable[[], float]) -> None:
        """`now`: seconds since the epoch."""
        self._now = now
        self._of_key: dict[str, list[Listener]] = {}
        "Key id -> listeners; `EVERYTHING`: those of all keys."
        self._of_call: dict[str, list[Listener]] = {}

    def subscribe(self, listener: Listener, *, key_id: str = "", call_id: str = "") -> Callable[[], None]:
        """Have a listener called with each `Event` from now on: of one call, of a key's calls, else of everything.

        Returns what ends that; to call it twice does no harm. A listener must not block; one that raises is logged.
        """
        table, name = (self._of_call, call_id) if call_id else (self._of_key, key_id or EVERYTHING)
        table.setdefault(name, []).append(listener)

        def unsubscribe() -> None:
            listeners = table.get(name, [])
            if listener in listeners:
                listeners.remove(listener)
            if not listeners:
                table.pop(name, None)

        return unsubscribe

    # what producers call

    def accepted(self, call: Call) -> None:
        self._tell(Happening.ACCEPTED, call)

    def reached(self, call: Call, stage: str, trunk: str) -> None:
        """As `dialing.surroundings` says: "dialing", "ringing" or "answered"; once for each attempt."""
        self._tell(STAGES[stage], call, trunk)

    def ended(self, call: Call, outcome: Outcome) -> None:
        """The store has the outcome."""
        self._tell(Happening.ENDED, call, outcome.ending.trunk, outcome)

    def tried(self, pending: PendingCallback, verdict: str, status: int) -> None:
        """A callback was tried; `verdict` as `callback.Verdict`, `status` 0: without a response."""
        details = {"verdict": str(verdict), "status": status or None, "tries": pending.tries + 1}
        self._tell(Happening.CALLBACK, pending.call, "", pending.outcome, details)

    def trunk(self, name: str, details: Mapping[str, object]) -> None:
        """Something about a trunk has changed: `details` as they are shown, JSON-able."""
        self._tell(Happening.TRUNK, None, name, None, details)

    def _tell(
        self,
        what: Happening,
        call: Call | None,
        trunk: str = "",
        outcome: Outcome | None = None,
        details: Mapping[str, object] = NO_DETAILS,
    ) -> None:
        everybody = self._of_key.get(EVERYTHING)
        of_key = self._of_key.get(call.key_id) if call is not None else None
        of_call = self._of_call.get(call.id) if call is not None else None
        if not (everybody or of_key or of_call):
            return
        event = Event(what, self._now(), call, trunk, outcome, details)
        for listeners in (everybody, of_key, of_call):
            if not listeners:
                continue
            for listener in tuple(listeners):
                try:
                    listener(event)
                except Exception:  # noqa: BLE001 - who looks on must not stop what it looks at
                    self.log.failure("somebody who watches calls met an error of our own")
