# mypy: allow-untyped-calls
"""What an operator sees of calls, and does to them.

GET  /calls?...             {"calls": [...], "next": ID or null}: the newest first, as `GET /calls/ID` shows each
     key=ID last_digits=0100 state=dialing answered=true reason=5 since=... until=... most=50 before=ID
                            all may be left out; times are seconds since the epoch; a page may be short, even empty,
                            and still lead on to the `next`
POST /calls/ID/hangup       ends it -> the call as it is then; "outcome" is null where that takes its time
GET  /events?key=ID&call=ID server-sent events: what happens on this node, of one key's calls, of one call, or all, and
                            then that a trunk fails or is well again: "trunk", its name, and "health" ("failing", and
                            "detail" says why; "well") or "registered" (true or false; "registration" says how it is)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.server import NOT_DONE_YET

from calledind.api.admin import Handler, Refused, show_call
from calledind.api.site import Request
from calledind.api.sse import Stream
from calledind.api.v1 import Subscribe
from calledind.api.v1_forms import read_query, show_outcome
from calledind.model import BadRequest, CallRecord, Event
from calledind.store.interface import Store

MOST_STREAMS = 32
"Half of the connections that the socket takes: the others are for who asks for something."


class OperatorCalls:
    """The handlers, for `Admin`'s table."""

    def __init__(
        self,
        *,
        reactor: IReactorTime,
        store: Store,
        hang_up: Callable[[str], Deferred[CallRecord | None]],
        subscribe: Subscribe,
    ) -> None:
        """`hang_up`: as `service.hangup` has it. `subscribe`: as `service.events` has it."""
        self._reactor = reactor
        self._store = store
        self._hang_up = hang_up
        self._subscribe = subscribe
        self._streams: set[Stream] = set()

    def routes(self) -> Mapping[tuple[bytes, ...], Mapping[bytes, Handler]]:
        return {
            (b"calls",): {b"GET": self._list},
            (b"calls", b"*", b"hangup"): {b"POST": self._end},
            (b"events",): {b"GET": self._follow},
        }

    async def _list(self, request: Request) -> object:
        args = dict(request.args)
        if b"most" in args:
            args[b"limit"] = args[b"most"]
        key_id = args.get(b"key", [b""])[-1].decode("utf-8", "replace")
        try:
            wanted, limit, before = read_query(args, key_id)
        except BadRequest as error:
            raise Refused(400, str(error)) from None
        records, after = await self._store.calls(wanted, most=limit, before=before)
        return {"calls": [show_call(record) for record in records], "next": after or None}

    async def _end(self, _: Request, call_id: str) -> object:
        record = await self._store.find_call(call_id)
        if record is None:
            raise Refused(404, f"there is no call {call_id}")
        if record.outcome is not None:
            raise Refused(409, f"call {call_id} has ended")
        return show_call(await self._hang_up(call_id) or record)

    async def _follow(self, request: Request) -> object:
        if len(self._streams) >= MOST_STREAMS:
            raise Refused(503, "too many streams are open")
        if request.left:
            return NOT_DONE_YET

        def closed() -> None:
            self._streams.discard(stream)
            leave()

        def named(name: bytes) -> str:
            text: bytes = request.args.get(name, [b""])[-1]
            return text.decode("utf-8", "replace")

        stream = Stream(request, self._reactor, closed)
        self._streams.add(stream)
        leave = self._subscribe(
            lambda event: stream.send(event.what.value, show_event(event)),
            key_id=named(b"key"),
            call_id=named(b"call"),
        )
        return NOT_DONE_YET


def show_event(event: Event) -> dict[str, Any]:
    """Write an event for operators, numbers and all."""
    call = event.call
    told: dict[str, Any] = {"what": event.what.value, "at": event.at, "trunk": event.trunk}
    if call is not None:
        told |= {
            "call_id": call.id,
            "key_id": call.key_id,
            "phone_number": call.phone_number,
            "country_code": call.country_code,
            "caller_id": call.caller_id,
        }
    if event.outcome is not None:
        told["outcome"] = {**show_outcome(event.outcome), "detail": event.outcome.ending.detail}
    return {**told, **event.details}
