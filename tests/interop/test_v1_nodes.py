# mypy: allow-untyped-calls
"""/api/v1 of two daemons on one Redis: whichever is asked finds, follows and ends the calls of both."""

from __future__ import annotations

import http.client
import json
from typing import Any

from tests.interop.harness import Daemon, wait_for
from tests.interop.nodes_case import RINGS, TwoNodesCase


class TwoNodesTests(TwoNodesCase):
    def request(self, node: Daemon, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)
        try:
            given = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", **headers}
            connection.request(method, path, None if body is None else json.dumps(body), given)
            response = connection.getresponse()
            text = response.read().decode()
            return response.status, json.loads(text) if text.startswith("{") else text
        finally:
            connection.close()

    def post(self, node: Daemon, number: str = RINGS, **headers: str) -> str:
        wanted = {"phone_number": number, "country_code": "1", "mp3": f"{self.web.url}/short.mp3"}
        status, call = self.request(node, "POST", "/api/v1/calls", wanted, **headers)
        self.assertEqual(status, 201, call)
        return str(call["id"])

    def state(self, node: Daemon, call_id: str) -> str:
        return str(self.request(node, "GET", f"/api/v1/calls/{call_id}")[1]["state"])

    def test_calls_of_both(self) -> None:
        """Each node ends what the other dials and what waits for both; each finds all, and knows a repeated request."""
        one, two = self.nodes
        first = self.post(one, **{"Idempotency-Key": "order-1"})
        self.assertEqual(self.post(two, **{"Idempotency-Key": "order-1"}), first)
        wait_for("the first is dialled", lambda: self.state(two, first) == "dialing")
        second = self.post(two, "2125550106")
        wait_for("the second is dialled", lambda: self.state(one, second) == "dialing")
        # Both machines are busy now.
        third = self.post(one, "2125550177")
        self.assertEqual(self.state(two, third), "accepted")
        _, page = self.request(two, "GET", "/api/v1/calls")
        self.assertEqual([call["id"] for call in page["calls"]], [third, second, first])
        for node in self.nodes:
            status, ended = self.request(node, "POST", f"/api/v1/calls/{third if node is one else first}/cancel")
            self.assertEqual((status, ended["outcome"]["words"]), (200, "hung up"))
            self.assertEqual(ended["outcome"]["ended_by"], "customer")
        status, ended = self.request(one, "POST", f"/api/v1/calls/{second}/cancel")
        self.assertEqual((status, ended["outcome"]["words"]), (200, "hung up"))
        (key,) = two.admin("GET", "/keys")["keys"]
        self.assertEqual((key["credits"], key["held"], key["charged"]), (100, 0, 0))

    def test_followed(self) -> None:
        """A call that the other node plays is followed to its end."""
        one, two = self.nodes
        call_id = self.post(one, "2125550100")
        for node in (two, one):
            status, text = self.request(node, "GET", f"/api/v1/calls/{call_id}/events")
            self.assertEqual(status, 200)
            last = text.strip().splitlines()[-1].removeprefix("data: ")
            told = json.loads(last)
            self.assertTrue(told.get("outcome", {}).get("answered"), text)
