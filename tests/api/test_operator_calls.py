"""What operators see of calls: found, watched, hung up."""

# mypy: allow-untyped-calls
from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.api.admin import Admin, admin_site
from calledind.api.operator_calls import MOST_STREAMS, OperatorCalls
from calledind.keyring import Keyring
from calledind.model import CallRecord, Reason, State
from calledind.service.events import Events
from calledind.store.interface import CallFilter, Store
from tests.api.test_v1 import ID, NOW, FakeStore
from tests.api.wire import Connection, Response
from tests.store.contract import BUSY, make_call


class OperatorCallsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = FakeStore()
        self.events = Events(lambda: NOW)
        self.hung_up: list[str] = []
        calls = OperatorCalls(
            reactor=self.clock,
            store=cast(Store, self.store),
            hang_up=self.hang_up,
            subscribe=self.events.subscribe,
        )
        admin = Admin(
            reactor=self.clock,
            store=cast(Store, self.store),
            keyring=Keyring(b"p" * 32),
            now=lambda: NOW,
            status=dict,
            routes=(calls.routes(),),
        )
        self.site = admin_site(admin, reactor=self.clock)

    def hang_up(self, call_id: str) -> Deferred[CallRecord | None]:
        self.hung_up.append(call_id)
        return succeed(CallRecord(make_call(ID), State.DONE, outcome=BUSY))

    def connect(self) -> Connection:
        return Connection(self.site, UNIXAddress(""))

    def ask(self, method: str, path: str) -> tuple[int, Mapping[str, Any]]:
        response = Response(self.connect().send(f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()))
        return response.status, json.loads(response.body)

    def test_list(self) -> None:
        """Calls are found by all that the store knows, with their numbers whole."""
        self.store.records[ID] = CallRecord(make_call(ID), State.DONE, outcome=BUSY)
        self.store.after = ID
        status, told = self.ask("GET", "/calls?key=key_2&last_digits=0100&answered=false&reason=5&most=9")
        self.assertEqual((status, told["next"], told["calls"][0]["phone_number"]), (200, ID, "2125550100"))
        wanted = CallFilter("key_2", "0100", answered=False, reason=Reason.BUSY)
        self.assertEqual(self.store.asked, [(wanted, 9, "")])
        self.assertEqual(self.ask("GET", "/calls?state=gone")[0], 400)

    def test_hang_up(self) -> None:
        """A call is hung up, unless it is over or nowhere."""
        self.assertEqual(self.ask("POST", f"/calls/{ID}/hangup")[0], 404)
        self.store.records[ID] = CallRecord(make_call(ID), State.DIALING)
        status, told = self.ask("POST", f"/calls/{ID}/hangup")
        self.assertEqual((status, told["outcome"]["reason"], self.hung_up), (200, 5, [ID]))
        self.store.records[ID] = CallRecord(make_call(ID), State.DONE, outcome=BUSY)
        self.assertEqual(self.ask("POST", f"/calls/{ID}/hangup")[0], 409)

    def test_events(self) -> None:
        """An operator hears of everything, of a key or of a call, trunks and numbers and all."""
        clients = {}
        for query in ("", "?key=key_2", f"?call={ID}"):
            clients[query] = self.connect()
            clients[query].send(f"GET /events{query} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        self.events.reached(make_call(ID), "ringing", "trunk 1")
        self.events.ended(make_call("call2", key_id="key_2"), BUSY)
        self.events.trunk("trunk 1", {"health": "failing"})
        heard = {query: client.taken() for query, client in clients.items()}
        self.assertEqual(
            {query: data.count(b"event: ") for query, data in heard.items()}, {"": 3, "?key=key_2": 1, f"?call={ID}": 1}
        )
        self.assertIn(b'"trunk":"trunk 1","call_id":"0123', heard[""])
        self.assertIn(b'"reason":5', heard["?key=key_2"])
        self.assertIn(b'"health":"failing"', heard[""])
        for client in clients.values():
            client.leave()
        self.assertEqual((self.events._of_key, self.events._of_call), ({}, {}))

    def test_too_many(self) -> None:
        """There are so many streams, and commands are answered beside them."""
        request = b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n"
        clients = [self.connect() for _ in range(MOST_STREAMS)]
        for client in clients:
            self.assertTrue(client.send(request).startswith(b"HTTP/1.1 200"))
        self.assertEqual(self.ask("GET", "/events")[0], 503)
        self.assertEqual(self.ask("GET", "/calls")[0], 200)
        clients[0].leave()
        self.assertTrue(self.connect().send(request).startswith(b"HTTP/1.1 200"))
