"""Telling customers' servers how their calls ended, until each has taken it or all tries are used up.

A try ends in one of three verdicts, which the store is told before anything else happens to that callback:

    2xx                     delivered
    410, or the 10th try    exhausted
    anything else           postponed: the next try is due after the next delay of `DELAYS`

What is due when is one heap with one timer, whatever the number of callbacks. What is due takes turns by host and
domain, so that a server which lets every request hang delays its own callbacks alone. A verdict that the store
can't take now is kept and offered again until it can; if the daemon ends meanwhile, the next one makes that try
once more, with the same webhook-id. So a callback is made at least once, and by its id the customer knows a second
one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from heapq import heapify, heappop, heappush, nsmallest
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from calledind.crash import crash_at
from calledind.keyring import Keyring
from calledind.model import PendingCallback
from calledind.net.agent import RequestError
from calledind.net.shares import Shares
from calledind.net.url import Url, UrlError
from calledind.settings.tables import Callbacks
from calledind.store.interface import Store, StoreUnavailable

DELAYS = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
"Seconds before the first try, the second, and so on; there are as many tries as there are delays."
SPREAD = 0.2
"Each delay is up to this much of it shorter or longer, so that what failed together does not come back together."
STORE_RETRY = 2.0
"Seconds until a verdict is offered again to a store that could not take it."
LONGEST_BODY = 64 * 1024
"Octets of a response's body that are read, for the server's comfort; nobody looks at them."
BODY_TIMEOUT = 2.0
"Seconds for that body; the verdict is known already."
GRACE = 5.0
"Seconds that running tries have when the daemon stops."


class Verdict(StrEnum):
    DELIVERED = "delivered"
    EXHAUSTED = "exhausted"
    POSTPONED = "postponed"


def query_of(pending: PendingCallback) -> str:
    """Return the query of a callback: what the customer's server learns, and nothing else."""
    call, outcome = pending.call, pending.outcome
    return urlencode(
        {
            "secret": call.secret,
            "phone_number": call.phone_number,
            "country_code": call.country_code,
            "answered": int(outcome.answered),
            "reason": "" if outcome.reason is None else int(outcome.reason),
        },
        quote_via=quote,
        safe="",
    )


def signature(key: bytes, webhook_id: str, timestamp: int, target: str) -> str:
    """Sign a callback as Standard Webhooks does, with the request target in place of a body."""
    signed = f"{webhook_id}.{timestamp}.{target}".encode()
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


class CallbackSender:
    """Delivers callbacks, `settings.max_in_flight` at once and `settings.max_in_flight_per_host` of one host.

    `now` says when a try is due, and must not jump; `wall` dates the signatures, and is the clock that customers'
    servers compare theirs with. Without it `now` does both.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        agent: IAgent,
        store: Store,
        keyring: Keyring,
        settings: Callbacks,
        now: Callable[[], float],
        *,
        wall: Callable[[], float] | None = None,
        user_agent: str = "calledin",
        spread: Callable[[], float] = lambda: random.uniform(-SPREAD, SPREAD),  # noqa: S311 - no secret
        tried: Callable[[PendingCallback, Verdict, int], None] = lambda pending, verdict, status: None,
    ) -> None:
        """`tried` is told each try's verdict and the status of its response, 0 without one; it must not raise."""
        self._reactor = reactor
        self._agent = agent
        self._store = store
        self._keyring = keyring
        self._settings = settings
        self._now = now
        self._wall = wall or now
        self._user_agent = user_agent
        self._spread = spread
        self._tried = tried
        self._stopped = True
        self._known: dict[str, PendingCallback] = {}
        "Call id -> callback, from `add` to its last verdict."
        self._due: list[tuple[float, str]] = []
        "Heap of (when, call id) of the callbacks whose next try is not due yet."
        self._said: dict[str, str] = {}
        "Call id -> how its last try went, while it is known."
        self._timer: Any = None
        self._turns: Shares[str] = Shares(
            self._begin, in_all=settings.max_in_flight, per_host=settings.max_in_flight_per_host
        )
        self._running: dict[str, Deferred[None]] = {}
        "Call id -> its try and the keeping of its verdict."
        self._idle: Deferred[None] | None = None
        "Fired when the last of `_running` is over, for `stop`."

    def __len__(self) -> int:
        """Return how many callbacks are neither delivered nor given up."""
        return len(self._known)

    def start(self) -> Deferred[None]:
        """Take up what the store has kept. Fails with `StoreUnavailable`; may be called again then."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        # From here on, not only once the store has answered: it may have looked before a fresh one was there.
        self._stopped = False
        for pending in await self._store.pending_callbacks():
            self.add(pending)

    def add(self, pending: PendingCallback) -> None:
        """Deliver this callback from when it is due; one that is known already is not taken twice."""
        if self._stopped or pending.call.id in self._known:
            return
        self._known[pending.call.id] = pending
        # A clock that was wrong when it was written must not put a callback off for years.
        longest = DELAYS[min(pending.tries, len(DELAYS) - 1)] * (1 + SPREAD)
        self._schedule(pending.call.id, min(pending.due_at, self._now() + longest))

    def again(self, pending: PendingCallback) -> None:
        """Deliver it now: an operator has had it begin anew. One whose try is being made, or is next, goes on."""
        call_id = pending.call.id
        if call_id not in self._known:
            self.add(pending)
        elif any(each == call_id for _, each in self._due):
            self._due = [entry for entry in self._due if entry[1] != call_id]
            heapify(self._due)
            self._known[call_id] = pending
            self._set_timer()
            self._enter(call_id)

    def show(self, most: int) -> list[dict[str, object]]:
        """Return the callbacks that are due first, at most so many, JSON-able, each with what its last try came to."""
        return [
            {
                "call_id": each.call.id,
                "key_id": each.call.key_id,
                "callback_url": each.call.callback_url,
                "tries": each.tries,
                "due_at": each.due_at,
                "last": self._said.get(each.call.id),
            }
            for each in nsmallest(most, self._known.values(), key=lambda each: each.due_at)
        ]

    def abandon(self) -> None:
        """Forget all of them, others have them; tries that are being made end by themselves."""
        self._due.clear()
        self._turns.clear()
        self._known.clear()
        self._said.clear()

    def stop(self) -> Deferred[None]:
        """Begin no more tries, and fire when the running ones are over; after `GRACE` they are broken off.

        What was not kept as delivered or given up is for the next start.
        """
        self._stopped = True
        self._due.clear()
        self._turns.clear()
        self._known.clear()
        self._said.clear()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if not self._running:
            return succeed(None)
        self._idle = Deferred()
        return self._idle.addTimeout(GRACE, self._reactor, onTimeoutCancel=lambda *_: self._break_off())

    def _break_off(self) -> None:
        for running in list(self._running.values()):
            running.cancel()

    def _schedule(self, call_id: str, when: float) -> None:
        if when <= self._now():
            self._enter(call_id)
            return
        heappush(self._due, (when, call_id))
        if self._due[0][1] == call_id:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._due:
            self._timer = self._reactor.callLater(max(0.0, self._due[0][0] - self._now()), self._on_timer)

    def _on_timer(self) -> None:
        now = self._now()
        while self._due and self._due[0][0] <= now:
            self._enter(heappop(self._due)[1])
        self._set_timer()

    def _enter(self, call_id: str) -> None:
        """Let a callback that is due wait for its turn."""
        try:
            host = Url.parse(self._known[call_id].call.callback_url or "").host
        except UrlError:
            host = ""
        self._turns.enter(host, call_id)

    def _begin(self, host: str, call_id: str) -> None:
        running = Deferred.fromCoroutine(self._deliver(self._known[call_id]))
        self._running[call_id] = running
        running.addErrback(self._broken_off, call_id).addBoth(self._over, host, call_id)

    def _broken_off(self, failure: Failure, call_id: str) -> None:
        if not isinstance(failure.value, CancelledError):
            self.log.failure(
                "callback {call}: a bug ended its try; it is made again after a restart", failure, call=call_id
            )

    def _over(self, _: object, host: str, call_id: str) -> None:
        self._running.pop(call_id, None)
        self._turns.leave(host)
        if self._idle is not None and not self._running and not self._idle.called:
            self._idle.callback(None)

    async def _deliver(self, pending: PendingCallback) -> None:
        """Make one try and keep its verdict.

        The turn lasts until the verdict is kept: while the store is gone, no more tries are made than there are turns.
        """
        tries = pending.tries + 1
        crash_at("callback.due")
        status, words = await self._try(pending)
        crash_at("callback.answered")
        if 200 <= status < 300:
            verdict = Verdict.DELIVERED
        elif status == 410 or tries >= len(DELAYS):
            verdict = Verdict.EXHAUSTED
        else:
            verdict = Verdict.POSTPONED
        self._tried(pending, verdict, status)
        self.log.info(
            "callback {call}: try {tries}: {verdict}: {words}",
            call=pending.call.id,
            tries=tries,
            verdict=verdict.value,
            words=words,
        )
        now = self._now()
        due_at = now + DELAYS[min(tries, len(DELAYS) - 1)] * (1 + self._spread())
        is_ours = await self._keep(pending.call.id, verdict, tries, due_at if verdict is Verdict.POSTPONED else now)
        crash_at("callback.kept")
        if self._stopped:
            return
        # What was abandoned meanwhile is another's, or was taken over anew and has a try of its own to come.
        if self._known.get(pending.call.id) is not pending:
            return
        if is_ours and verdict is Verdict.POSTPONED:
            self._known[pending.call.id] = replace(pending, tries=tries, due_at=due_at)
            self._said[pending.call.id] = words
            self._schedule(pending.call.id, due_at)
        else:
            del self._known[pending.call.id]
            self._said.pop(pending.call.id, None)

    async def _keep(self, call_id: str, verdict: Verdict, tries: int, when: float) -> bool:
        """Tell the store, again and again while it is unavailable; False when the callback was no longer pending."""
        tell = {
            Verdict.DELIVERED: self._store.callback_delivered,
            Verdict.EXHAUSTED: self._store.callback_exhausted,
            Verdict.POSTPONED: self._store.callback_postponed,
        }[verdict]
        while True:
            try:
                return await tell(call_id, tries, when)
            except StoreUnavailable as error:
                self.log.warn(
                    "callback {call}: {verdict} after try {tries}, but the store is unavailable: {error}; "
                    "kept in memory, offered again in {seconds:g} s",
                    call=call_id,
                    verdict=verdict.value,
                    tries=tries,
                    error=str(error),
                    seconds=STORE_RETRY,
                )
            await deferLater(self._reactor, STORE_RETRY)

    async def _try(self, pending: PendingCallback) -> tuple[int, str]:
        """Make the request; give the status of its response, 0 without one, and words for the log."""
        call = pending.call
        try:
            url = Url.parse(call.callback_url or "").with_query(query_of(pending))
            asking = self._agent.request(b"GET", str(url).encode("ascii"), self._headers(pending, url))
            response = await asking.addTimeout(self._settings.timeout, self._reactor, onTimeoutCancel=_too_late)
        except (RequestError, UrlError) as error:
            return 0, str(error)
        status: int = response.code
        ignored = _Ignored()
        response.deliverBody(ignored)  # type: ignore[no-untyped-call]
        await ignored.finished.addTimeout(BODY_TIMEOUT, self._reactor, onTimeoutCancel=lambda *_: None)
        return status, f"its server answers with status {status}"

    def _headers(self, pending: PendingCallback, url: Url) -> Headers:
        call, timestamp = pending.call, int(self._wall())
        key = self._keyring.webhook_key(call.key_id)
        headers = Headers()
        headers.addRawHeader("User-Agent", self._user_agent)
        headers.addRawHeader("webhook-id", call.id)
        headers.addRawHeader("webhook-timestamp", str(timestamp))
        headers.addRawHeader("webhook-signature", signature(key, call.id, timestamp, url.target))
        if url.credentials is not None:
            basic = base64.b64encode(":".join(url.credentials).encode()).decode()
            headers.addRawHeader("Authorization", f"Basic {basic}")
        return headers


class _Ignored(Protocol):
    """Reads a body and throws it away: to cut it off would leave an error in the log of the customer's server."""

    def __init__(self) -> None:
        self.finished: Deferred[None] = Deferred(lambda _: self._cut())
        self._left = LONGEST_BODY

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left <= 0:
            self._cut()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.finished.called:
            self.finished.callback(None)

    def _cut(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


def _too_late(_: object, seconds: float) -> NoReturn:
    raise RequestError(f"no answer came within {seconds:g} s")
