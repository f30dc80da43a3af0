"""The figures and the records, as an operator asks for them."""

# mypy: allow-untyped-calls
from __future__ import annotations

import csv
import json
from typing import Any, cast

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.api.admin import Admin, admin_site
from calledind.api.operator_metrics import Readings
from calledind.keyring import Keyring
from calledind.model import CallRecord, State
from calledind.observability.cdr import Media
from calledind.observability.metrics import Metrics
from calledind.store.interface import CallFilter, Store, StoreUnavailable
from tests.api.wire import Connection, Response
from tests.dialing.world import START, make_call
from tests.observability.test_metrics import STATISTICS, make_outcome


class Pages:
    """A store of three calls, one of which has not ended, that gives one a page."""

    def __init__(self) -> None:
        self.asked: list[CallFilter] = []
        self.away_from = 9
        outcome = make_outcome()
        self.records = [
            CallRecord(make_call("3"), State.DIALING),
            CallRecord(make_call("2"), State.DELIVERED, outcome=outcome),
            CallRecord(make_call("1"), State.DELIVERED, outcome=outcome),
        ]

    def calls(self, wanted: CallFilter, *, most: int = 50, before: str = "") -> Deferred[Any]:
        self.asked.append(wanted)
        place = int(before or 0)
        if place >= self.away_from:
            return fail(StoreUnavailable("gone"))
        after = str(place + 1) if place + 1 < len(self.records) else ""
        return succeed((self.records[place : place + 1], after))


class ReadingsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.pages = Pages()
        store: Any = cast(Store, self.pages)
        media = {make_call("1").id: Media("PCMU", STATISTICS)}
        readings = Readings(Metrics().registry, store, node="east", numbers="last4", media=media.get)
        admin = Admin(
            reactor=self.clock,
            store=store,
            keyring=Keyring(b"p" * 32),
            now=lambda: START,
            status=dict,
            routes=(readings.routes(),),
        )
        self.site = admin_site(admin, reactor=self.clock)

    def ask(self, path: str) -> bytes:
        connection = Connection(self.site, UNIXAddress(None))
        data: bytes = connection.send(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        return data

    def lines(self, path: str) -> list[str]:
        """Lines of the body, the sizes of its chunks left out."""
        head, _, body = self.ask(path).partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200 "), head)
        return [line for line in body.decode().splitlines() if len(line) > 4]

    def test_metrics(self) -> None:
        """The figures are as Prometheus takes them."""
        response = Response(self.ask("/metrics"))
        self.assertEqual(response.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8")
        self.assertIn(b'calledin_requests_total{code="0",meaning="accepted"} 0.0', response.body)

    def test_csv(self) -> None:
        """A row for each call that has ended, page by page, with the figures of its packets where they are kept."""
        rows = list(csv.DictReader(self.lines("/cdr")))
        self.assertEqual(
            [(row["id"][-1], row["number"], row["codec"]) for row in rows], [("2", "0100", ""), ("1", "0100", "PCMU")]
        )
        self.assertEqual(self.pages.asked, [CallFilter()] * 3)

    def test_json(self) -> None:
        """An object a line, with whole numbers where they are asked for."""
        objects = [json.loads(line) for line in self.lines("/cdr?format=json&numbers=full")]
        self.assertEqual([each["number"] for each in objects], ["2125550100", "2125550100"])

    def test_times(self) -> None:
        """Seconds since the epoch, or ISO 8601 with an offset or in UTC."""
        for text in ("1782907200", "2026-07-01T12:00:00Z", "2026-07-01T12:00:00", "2026-07-01T14:00:00+02:00"):
            self.lines(f"/cdr?since={text}&until=2026-07-02")
            self.assertEqual(self.pages.asked[-1], CallFilter(since=1782907200.0, until=1782950400.0), text)

    def test_nonsense(self) -> None:
        """What can't be understood is refused in words."""
        for query in ("since=yesterday", "until=nan", "format=xml", "numbers=none", "since=1&since=2"):
            response = Response(self.ask(f"/cdr?{query}"))
            self.assertEqual(response.status, 400)
            self.assertIn(query.partition("=")[0], json.loads(response.body)["error"])

    def test_store_away(self) -> None:
        """A store that is away is told as such, and in the middle of the records the answer is cut off."""
        self.pages.away_from = 0
        self.assertEqual(Response(self.ask("/cdr")).status, 503)
        self.pages.away_from = 2
        self.assertFalse(self.ask("/cdr").endswith(b"0\r\n\r\n"))
        self.assertEqual(len(self.flushLoggedErrors(StoreUnavailable)), 1)
