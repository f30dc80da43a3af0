# mypy: allow-untyped-calls
"""Server-sent events (WHATWG HTML §9.2) to one client: heartbeats, and bounds for one that does not keep up.

What a client does not take at once waits here, `MOST_WAITING` events of it; what comes beyond is lost, and an event
`lost` says how many were. A client that takes nothing for `PATIENCE` seconds is cut off. A stream ends after `LONGEST`
seconds, as all connections should now and then; browsers come back by themselves.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from zope.interface import implementer

from calledind.api.site import Request

HEARTBEAT = 15.0
"Seconds between two comments that say: still here."
PATIENCE = 60.0
LONGEST = 3600.0
MOST_WAITING = 500
"Events."
RETRY = 2000
"Milliseconds until a browser comes back."


@implementer(IPushProducer)
class Stream:
    """One client's stream, from its making to `end` or until the client leaves."""

    def __init__(
        self, request: Request, reactor: IReactorTime, closed: Callable[[], None], *, longest: float = LONGEST
    ) -> None:
        """`closed` is called once, whoever ends it. `longest`: seconds until it ends by itself."""
        self._request = request
        self._reactor = reactor
        self._closed = closed
        self._waiting: deque[bytes] = deque()
        self._lost = 0
        self._paused_since: float | None = None
        self._over = False
        request.setHeader(b"content-type", b"text/event-stream")
        request.setHeader(b"cache-control", b"no-store")
        # Or nginx would keep it until it has some kilobytes.
        request.setHeader(b"x-accel-buffering", b"no")
        request.endless = True
        request.notifyFinish().addBoth(lambda _: self._left())
        request.registerProducer(self, True)
        request.write(b"retry: %d\n\n" % RETRY)
        self._beating = LoopingCall(self._beat)
        self._beating.clock = reactor
        self._beating.start(HEARTBEAT, now=False)
        self._end = reactor.callLater(longest, self.end)

    @property
    def over(self) -> bool:
        return self._over

    def send(self, name: str, data: object) -> None:
        """Send an event of this name, its data as JSON."""
        if self._over:
            return
        event = b"event: %b\ndata: %b\n\n" % (name.encode(), json.dumps(data, separators=(",", ":")).encode())
        if self._paused_since is None:
            self._request.write(event)
        elif len(self._waiting) < MOST_WAITING:
            self._waiting.append(event)
        else:
            self._lost += 1

    def end(self) -> None:
        """Send what waits, and end the stream."""
        if self._over:
            return
        while self._waiting:
            self._request.write(self._waiting.popleft())
        self._request.unregisterProducer()
        self._request.finish()

    # the client

    def pauseProducing(self) -> None:
        if self._paused_since is None:
            self._paused_since = self._reactor.seconds()

    def resumeProducing(self) -> None:
        self._paused_since = None
        while self._waiting and self._paused_since is None and not self._over:
            self._request.write(self._waiting.popleft())
        if self._lost and self._paused_since is None and not self._over:
            lost, self._lost = self._lost, 0
            self.send("lost", {"events": lost})

    def stopProducing(self) -> None:
        """The connection is lost, which `_left` hears as well."""

    def _left(self) -> None:
        if not self._over:
            self._over = True
            self._waiting.clear()
            if self._beating.running:
                self._beating.stop()
            if self._end.active():
                self._end.cancel()
            self._closed()

    def _beat(self) -> None:
        if self._paused_since is None:
            self._request.write(b": \n\n")
        elif self._reactor.seconds() - self._paused_since >= PATIENCE:
            self._request.channel.abort()
