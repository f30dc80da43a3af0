# mypy: allow-untyped-calls
"""What happens now, for pages that are open: server-sent events, a few a second however much happens.

Everything that happens between two ticks becomes one message, the same octets for all viewers: the daemon's figures,
the counts of the seconds since, and of the calls that changed the newest. Counting goes on while nobody looks, so that
a page that is opened has its charts; it is a number in a list for each call.

A viewer that does not keep up (its connection is full) misses ticks and is then given everything anew.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from calledind.api.answers import respond
from calledind.api.site import Request
from calledind.model import Call, Event, Happening

TICK = 0.5
"Seconds between two messages."
HISTORY = 600
"Seconds that the counts go back."
COUNTED = ("accepted", "answered", "0", "1", "3", "5", "8")
"What is counted for each second: accepted, answered, and the reasons of those that were not."
MOST_ROWS = 500
"Calls told in one message: the newest."
MOST_RUNNING = 5000
"Calls whose rows are kept while they run."
MOST_ENDED = 100
"Kept for who opens the page."
MOST_VIEWERS = 16

Row = dict[str, Any]
"A call as the page lists it: id, number, state, trunk, at, and how it ended."


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
        self._running: OrderedDict[str, Row] = OrderedDict()
        self._ended: OrderedDict[str, Row] = OrderedDict()
        self._changed: OrderedDict[str, Row] = OrderedDict()
        self._told_until = 0
        "The second whose counts were told last, and may have grown since."
        self._viewers: set[_Viewer] = set()
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = reactor

    # what happens

    def take(self, event: Event) -> None:
        """Take what has happened to a call."""
        call, outcome = event.call, event.outcome
        if call is None:
            return
        match event.what:
            case Happening.ACCEPTED:
                self._count("accepted")
            case Happening.ENDED if outcome is not None:
                reason = None if outcome.reason is None else int(outcome.reason)
                self._count("answered" if outcome.answered else str(reason))
                self._change(call, over=True, answered=outcome.answered, reason=reason, trunk=outcome.ending.trunk)
            case Happening.CALLBACK:
                if call.id in self._ended:
                    self._change(call, over=True, callback=event.details.get("verdict"))
            case _:
                self._change(call, state=str(event.what), trunk=event.trunk)

    def _count(self, what: str) -> None:
        """Count one of `COUNTED` in this second."""
        second = int(self._now())
        counts = self._counts.get(second)
        if counts is None:
            counts = self._counts[second] = [0] * len(COUNTED)
            while len(self._counts) > HISTORY:
                self._counts.popitem(last=False)
        counts[COUNTED.index(what)] += 1

    def _change(self, call: Call, *, over: bool = False, **fields: object) -> None:
        """Note what is new of a call; `over`: it has ended."""
        row = self._running.pop(call.id, None) or self._ended.get(call.id)
        if row is None:
            row = {"id": call.id, "country_code": call.country_code, "phone_number": call.phone_number}
        row.update(fields, at=round(self._now(), 3), over=over)
        if over:
            _keep(self._ended, call.id, row, MOST_ENDED)
        else:
            _keep(self._running, call.id, row, MOST_RUNNING)
        if self._viewers:
            _keep(self._changed, call.id, row, MOST_ROWS)

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
        message = self._message("tick", counts, list(self._changed.values()))
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
        rows = list(self._ended.values()) + list(self._running.values())[-MOST_ROWS:]
        since = int(self._now()) - HISTORY
        return self._message("all", {at: counts for at, counts in self._counts.items() if at > since}, rows)

    def _message(self, kind: str, counts: Mapping[int, list[int]], rows: list[Row]) -> bytes:
        told = {"now": self._now(), "figures": self._figures(), "counts": counts, "calls": rows}
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


def _keep(rows: OrderedDict[str, Row], call_id: str, row: Row, most: int) -> None:
    """Put a row last, and let go of the first where there are too many."""
    rows[call_id] = row
    rows.move_to_end(call_id)
    if len(rows) > most:
        rows.popitem(last=False)
