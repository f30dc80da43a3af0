# mypy: allow-untyped-calls
"""What happens now, for pages that are open: server-sent events, a few a second however much happens.

Everything that happens between two ticks becomes one message, the same octets for all viewers: the daemon's figures,
the counts of the seconds since, and of the calls that changed the newest. Noting goes on while nobody looks, so that a
page that is opened has its charts and its list: a number for each second, and each call's latest event, as it came.

A viewer that does not keep up (its connection is full) misses ticks and is then given everything anew.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from calledind.api.answers import respond
from calledind.api.site import Request
from calledind.model import Event, Happening, Reason

TICK = 0.5
"Seconds between two messages."
HISTORY = 600
"Seconds that the counts go back."
ACCEPTED = 0
COUNTED: dict[Reason | None, int] = {None: 1} | {reason: 2 + place for place, reason in enumerate(sorted(Reason))}
"Place in what is counted for each second, after the accepted: answered, and the reasons of those that were not."
MOST_ROWS = 500
"Calls told in one message: the newest."
MOST_RUNNING = 5000
"Calls whose events are kept while they run."
MOST_ENDED = 100
"Kept for who opens the page."
MOST_VIEWERS = 16

Row = dict[str, object]
"A call as the page lists it: id, number, state, trunk, at, and how it ended."
Latest = OrderedDict[str, Event]
"Call id -> the call's latest event; in the order of these."


class Live(Resource):
    """GET: the stream. `figures`: the daemon's own, JSON-able; `now`: seconds since the epoch."""

    isLeaf = True

    def __init__(
        self, reactor: IReactorTime, figures: Callable[[], Mapping[str, object]], now: Callable[[], float]
    ) -> None:
        super().__init__()
        self._figures = figures
        self._now = now
        self._counts: OrderedDict[int, list[int]] = OrderedDict()
        self._running: Latest = OrderedDict()
        self._ended: Latest = OrderedDict()
        self._changed: Latest = OrderedDict()
        self._told_until = 0
        "The second whose counts were told last, and may have grown since."
        self._viewers: set[_Viewer] = set()
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = reactor

    # what happens

    def take(self, event: Event) -> None:
        """Take what has happened to a call."""
        call, what = event.call, event.what
        if call is None:
            return
        if what is Happening.ACCEPTED:
            self._count(ACCEPTED)
            return
        call_id = call.id
        if what is Happening.ENDED and event.outcome is not None:
            self._count(COUNTED[event.outcome.reason])
            self._running.pop(call_id, None)
            _keep(self._ended, call_id, event, MOST_ENDED)
        elif what is Happening.CALLBACK:
            if call_id not in self._ended:
                return
            _keep(self._ended, call_id, event, MOST_ENDED)
        else:
            _keep(self._running, call_id, event, MOST_RUNNING)
        if self._viewers:
            _keep(self._changed, call_id, event, MOST_ROWS)

    def _count(self, place: int) -> None:
        """Count one in this second."""
        second = int(self._now())
        counts = self._counts.get(second)
        if counts is None:
            counts = self._counts[second] = [0] * (1 + len(COUNTED))
            while len(self._counts) > HISTORY:
                self._counts.popitem(last=False)
        counts[place] += 1

    # who looks

    def render_GET(self, request: Request) -> int | bytes:
        if len(self._viewers) >= MOST_VIEWERS:
            return respond(request, 503, "too many pages are open", retry_after=10)
        request.setHeader(b"content-type", b"text/event-stream")
        request.setHeader(b"x-accel-buffering", b"no")
        request.endless = True
        viewer = _Viewer(request)
        self._viewers.add(viewer)
        request.notifyFinish().addBoth(lambda _: self._left(viewer))
        request.write(self._everything())
        if not self._ticking.running:
            self._ticking.start(TICK, now=False)
        return NOT_DONE_YET

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    def stop(self) -> None:
        """Let go of all viewers."""
        for viewer in tuple(self._viewers):
            viewer.end()

    def _left(self, viewer: _Viewer) -> None:
        self._viewers.discard(viewer)
        if not self._viewers and self._ticking.running:
            self._ticking.stop()
            self._changed.clear()

    def _tick(self) -> None:
        counts = {second: counts for second, counts in self._recent() if second >= self._told_until}
        self._told_until = int(self._now())
        message = self._message("tick", counts, self._changed.values())
        self._changed.clear()
        everything = b""
        for viewer in tuple(self._viewers):
            if viewer.behind:
                everything = everything or self._everything()
                viewer.write(everything)
            else:
                viewer.write(message)

    def _recent(self) -> list[tuple[int, list[int]]]:
        """Return the counts of the latest seconds; of those that are told again and again, there are two or three."""
        recent = []
        for second in reversed(self._counts):
            if second < self._told_until:
                break
            recent.append((second, self._counts[second]))
        return recent

    def _everything(self) -> bytes:
        latest = list(self._ended.values()) + list(self._running.values())[-MOST_ROWS:]
        since = int(self._now()) - HISTORY
        return self._message("all", {at: counts for at, counts in self._counts.items() if at > since}, latest)

    def _message(self, kind: str, counts: Mapping[int, list[int]], events: Iterable[Event]) -> bytes:
        told = {
            "now": self._now(),
            "figures": self._figures(),
            "counts": counts,
            "calls": [_row(event) for event in events],
        }
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps(told, default=str).encode())


@implementer(IPushProducer)
class _Viewer:
    """One open page."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._full = self.behind = False
        request.registerProducer(self, True)

    def write(self, message: bytes) -> None:
        self.behind = self._full
        if not self._full:
            self._request.write(message)

    def end(self) -> None:
        self._request.unregisterProducer()
        self._request.finish()

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False

    def stopProducing(self) -> None:
        """The page was closed."""


def _row(event: Event) -> Row:
    call, outcome = event.call, event.outcome
    assert call is not None
    row: Row = {
        "id": call.id,
        "country_code": call.country_code,
        "phone_number": call.phone_number,
        "at": round(event.at, 3),
        "over": outcome is not None,
    }
    if outcome is None:
        return {**row, "state": str(event.what), "trunk": event.trunk}
    reason = None if outcome.reason is None else int(outcome.reason)
    row.update(answered=outcome.answered, reason=reason, trunk=outcome.ending.trunk)
    if event.what is Happening.CALLBACK:
        row["callback"] = event.details.get("verdict")
    return row


def _keep(latest: Latest, call_id: str, event: Event, most: int) -> None:
    """Put an event last, and let go of the first where there are too many."""
    latest[call_id] = event
    latest.move_to_end(call_id)
    if len(latest) > most:
        latest.popitem(last=False)
