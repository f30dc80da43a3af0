"""A page on which a thousand calls run and fifty end each second: `python -m tests.browser.busy`.

The calls are told of as the daemon tells of them; nobody makes them, so that what is measured is what looking costs.
Prints the page's address and token, then each five seconds how much of one core the last five took and how many look.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import Any

from twisted.internet import reactor as real_reactor
from twisted.internet.task import LoopingCall
from twisted.web.resource import Resource

from calledind.model import Call, Cause, EndedBy, Ending, Event, Happening, Outcome, Reason, new_call_id
from calledind.page.access import Access
from calledind.page.face import Face, PageSite
from calledind.page.live import Live

CALLS = 1000
ENDING = 50
"A second."
TOKEN = "a-token-of-the-test"
reactor: Any = real_reactor


class Traffic:
    """Tells `take` of calls that begin, ring, are answered and end."""

    def __init__(self, take: Any) -> None:
        self._take = take
        self._numbers = itertools.count()
        self._running: deque[Call] = deque()

    def begin(self, many: int) -> None:
        for _ in range(many):
            number = f"212{next(self._numbers) % 10**7:07d}"
            now = time.time()
            call = Call(new_call_id(now), "key_1", number, "1", "0000000000", "a" * 64, 20.0, None, "", now)
            self._running.append(call)
            for what in (Happening.ACCEPTED, Happening.DIALING, Happening.RINGING, Happening.ANSWERED):
                self._take(Event(what, now, call, trunk="" if what is Happening.ACCEPTED else "carrier"))

    def end(self, many: int) -> None:
        for _ in range(many):
            call, now = self._running.popleft(), time.time()
            answered = next(self._numbers) % 3 > 0
            ending = Ending(Cause.PLAYED, answered, EndedBy.US, now, trunk="carrier")
            self._take(
                Event(
                    Happening.ENDED,
                    now,
                    call,
                    trunk="carrier",
                    outcome=Outcome(answered, None if answered else Reason.BUSY, ending),
                )
            )

    def turn(self) -> None:
        self.end(ENDING // 10)
        self.begin(ENDING // 10)


def figures() -> dict[str, object]:
    trunk = {"name": "carrier", "health": "well", "busy": CALLS, "calls_per_second": 100.0}
    return {
        "simulator": False,
        "ready": "yes",
        "queued": 7,
        "live": CALLS,
        "trunks": [trunk],
        "media": {"latest_slice": 0.001},
    }


def main() -> None:
    live = Live(reactor, figures, time.time)
    traffic = Traffic(live.take)
    traffic.begin(CALLS)
    trial: Any = _NoTrial()
    access = Access(TOKEN, (), seconds=time.monotonic)
    facts = {"version": "0", "api": [], "simulator": False, "phone_calls": False}
    face = Face(
        access,
        admin=Resource(),
        live=live,
        sound=Resource(),
        trial=trial,
        phone=None,
        lookup=trial,
        facts=lambda: facts,
    )
    port = reactor.listenTCP(0, PageSite(face, access, reactor=reactor), interface="127.0.0.1")
    print(f"http://127.0.0.1:{port.getHost().port} {TOKEN}", flush=True)
    LoopingCall(traffic.turn).start(0.1)
    spent = [time.process_time()]

    def tell() -> None:
        spent.append(time.process_time())
        print(f"{(spent[-1] - spent[-2]) / 5:.4f} {live.viewers}", flush=True)

    LoopingCall(tell).start(5.0, now=False)
    reactor.run()


class _NoTrial:
    """Nothing is tried here."""

    try_it = call = answer = None


if __name__ == "__main__":
    main()
