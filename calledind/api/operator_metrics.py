# mypy: allow-untyped-calls
"""What operators read of the daemon's figures and of the calls that have ended.

    GET /metrics                             as Prometheus takes it
    GET /cdr?since=&until=&format=csv|json   a record for each call accepted then that has ended, the newest first
        &numbers=last4|full                  else as [cdr] numbers says

Times are ISO 8601 or seconds since the epoch; without an offset they are UTC.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from math import inf, isfinite
from typing import TypeVar

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.server import NOT_DONE_YET

from calledind.api.admin import Refused, Routes, Sender
from calledind.api.site import Request
from calledind.model import CallRecord
from calledind.observability.cdr import Format, Media, Numbers, header, line, record
from calledind.observability.exposition import expose
from calledind.store.interface import CallFilter, Store

T = TypeVar("T", bound=str)

PAGE = 500
"Calls asked for at once."
FORMATS: tuple[Format, ...] = ("csv", "json")
NUMBERS: tuple[Numbers, ...] = ("last4", "full")
TYPES: Mapping[Format, bytes] = {"csv": b"text/csv; charset=utf-8", "json": b"application/x-ndjson"}


class Readings:
    """Answers with the figures and the records."""

    log = Logger()

    def __init__(
        self,
        registry: CollectorRegistry,
        store: Store,
        *,
        node: str,
        numbers: Numbers,
        media: Callable[[str], Media | None],
    ) -> None:
        """`media`: call id -> how its packets went, where that is kept."""
        self._registry = registry
        self._store = store
        self._node = node
        self._numbers: Numbers = numbers
        self._media = media

    def routes(self) -> Routes:
        return {(b"metrics",): {b"GET": self._get_metrics}, (b"cdr",): {b"GET": self._get_records}}

    async def _get_metrics(self, request: Request) -> object:
        request.write(expose(self._registry, request))
        request.finish()
        return NOT_DONE_YET

    async def _get_records(self, request: Request) -> object:
        format = _choice(request, "format", FORMATS, "csv")
        numbers = _choice(request, "numbers", NUMBERS, self._numbers)
        wanted = CallFilter(since=_moment(request, "since", 0.0), until=_moment(request, "until", inf))
        # Before anything is written, so that a store that is away is told as such.
        first = await self._store.calls(wanted, most=PAGE)
        if request.left:  # the client has left meanwhile
            return NOT_DONE_YET
        request.setHeader(b"content-type", TYPES[format])
        request.setHeader(b"cache-control", b"no-store")
        Deferred.fromCoroutine(
            Sender(request, self.log, "records of calls").send(self._records(wanted, first, format, numbers))
        )
        return NOT_DONE_YET

    async def _records(
        self, wanted: CallFilter, page: tuple[Sequence[CallRecord], str], format: Format, numbers: Numbers
    ) -> AsyncIterator[bytes]:
        beginning = header(format)
        if beginning:
            yield beginning.encode()
        while True:
            calls, before = page
            made = [
                line(
                    record(each.call, each.outcome, node=self._node, numbers=numbers, media=self._media(each.call.id)),
                    format,
                )
                for each in calls
                if each.outcome is not None
            ]
            if made:
                yield "".join(made).encode()
            if not before:
                return
            page = await self._store.calls(wanted, most=PAGE, before=before)


def _text(request: Request, name: str) -> str:
    values = request.args.get(name.encode(), [])
    if len(values) > 1:
        raise Refused(400, f"{name} is given more than once")
    return values[0].decode("utf-8", "replace") if values else ""


def _choice(request: Request, name: str, choices: tuple[T, ...], default: T) -> T:
    text = _text(request, name)
    if not text:
        return default
    for choice in choices:
        if choice == text:
            return choice
    raise Refused(400, f"{name} must be {' or '.join(choices)}")


def _moment(request: Request, name: str, default: float) -> float:
    """Return seconds since the epoch."""
    text = _text(request, name)
    if not text:
        return default
    try:
        moment = float(text)
    except ValueError:
        try:
            # A plus of the offset that was not percent-encoded is a space by now.
            parsed = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        except ValueError:
            raise Refused(400, f"{name} must be a time, such as 2026-07-01T12:00:00Z or 1782907200") from None
        moment = (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)).timestamp()
    if not isfinite(moment):
        raise Refused(400, f"{name} must be a time")
    return moment
