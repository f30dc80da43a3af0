"""/api/v1/batches on a pretended connection: what is taken, what is refused and where it is wrong, what is shown."""

# mypy: allow-untyped-calls
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.api.answers import Folder
from calledind.api.channel import MOST_LARGE
from calledind.api.site import Site
from calledind.api.v1 import OPENING, V1, Parts
from calledind.api.v1_batch_forms import MOST_TOLD
from calledind.api.v1_batches import MOST_LOOKS_OF_KEY
from calledind.api.v1_batches import OPENING as OPENING_OF_BATCHES
from calledind.batches import batches as module
from calledind.batches.batches import MOST_ROWS, Batches
from calledind.model import CallRecord, Key, ReturnCode
from calledind.store.interface import Store
from tests.api.wire import Connection, Response
from tests.batches.world import DIGEST, NOW, FakeThread, World
from tests.store.contract import ANSWERED, BUSY

MP3 = "https://example.com/a.mp3"
GOOD: dict[str, Any] = {"mp3": MP3, "country_code": "1", "rate": 10, "numbers": ["2125550100", "2125550101"]}


class BatchesFaceCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.clock: Clock = self.world.clock
        store = cast(Store, self.world.store)
        self.thread = FakeThread()
        self.root = Path(self.mktemp())
        self.batches = Batches(self.clock, self.thread, self.root, store=store, now=self.world.now)
        self.start()
        parts = Parts(
            reactor=self.clock,
            store=store,
            digest=lambda api_key: DIGEST,
            now=self.world.now,
            admission=cast(Any, None),
            hang_up=lambda call_id: succeed(None),
            subscribe=cast(Any, None),
            media=lambda call_id: None,
            batches=self.batches,
        )
        root, api = Folder(), Folder()
        root.putChild(b"api", api)
        api.putChild(b"v1", V1(parts))
        self.site = Site(root, reactor=self.clock, openings=(OPENING_OF_BATCHES, OPENING))

    def start(self) -> None:
        self.successResultOf(self.batches.start(self.world.admission.admit))

    def connect(self) -> Connection:
        return Connection(self.site, IPv4Address("TCP", "192.0.2.1", 50000))

    def request(self, method: str, path: str, *fields: str, body: bytes = b"", media_type: str = "") -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: a", "Authorization: Bearer ck_good", *fields]
        if method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        if media_type:
            lines.append(f"Content-Type: {media_type}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    def ask(self, method: str, path: str, *fields: str, body: bytes = b"", media_type: str = "") -> Response:
        request = self.request(method, path, *fields, body=body, media_type=media_type)
        return Response(self.connect().send(request))

    def post(self, value: object, *fields: str) -> Response:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.ask("POST", "/api/v1/batches", *fields, body=body, media_type="application/json")

    def post_csv(self, text: str | bytes, *fields: str, **query: object) -> Response:
        body = text if isinstance(text, bytes) else text.encode()
        path = "/api/v1/batches?" + urlencode({"mp3": MP3, "country_code": "1", **query})
        return self.ask("POST", path, *fields, body=body, media_type="text/csv; charset=utf-8")

    def made(self, response: Response) -> str:
        """Return where a batch is that was made."""
        self.assertEqual(response.status, 201, response.body)
        return response.headers["location"]

    def problem(self, response: Response) -> tuple[int, str]:
        told = json.loads(response.body)
        self.assertEqual(response.headers["content-type"], "application/problem+json")
        return response.status, told["rule"]

    def rows(self) -> list[tuple[str, str, str]]:
        """What the newest batch has."""
        run = self.batches.of_key("key_1")[0].run
        assert run is not None
        return [(row.country_code, row.phone_number, row.secret) for row in run.rows]


class CreateTests(BatchesFaceCase):
    def test_json(self) -> None:
        """A batch is answered 201 with itself and where it is; numbers are strings or objects."""
        numbers = ["2125550100", {"phone_number": "2125550101", "country_code": "44", "secret": "é"}]
        more = {"secret": "s", "callback_url": "http://a.example/", "caller_id": "anonymous"}
        response = self.post({**GOOD, **more, "numbers": numbers})
        told = json.loads(response.body)
        self.assertEqual(self.made(response), f"/api/v1/batches/{told['id']}")
        self.assertEqual(
            told,
            {
                "id": told["id"],
                "created_at": NOW,
                "mp3": MP3,
                "rate": 10.0,
                "caller_id": "anonymous",
                "callback_url": "http://a.example/",
                "rows": 2,
                "state": "running",
                "paused": None,
                "held_up": None,
                "ended_at": None,
                "waiting": 2,
                "accepted": 0,
                "refused": {},
                "outcomes": None,
            },
        )
        self.assertEqual(self.rows(), [("1", "2125550100", "s"), ("44", "2125550101", "é")])

    def test_csv(self) -> None:
        """A CSV has its columns in any order, and others; the other fields are in the query."""
        text = "\ufeffName, Secret ,PHONE_NUMBER,country_code\r\nAnn,s,2125550100,\r\n\r\nBob,,2125550101,44\r\n"
        told = json.loads(self.post_csv(text, rate="2.5", caller_id="+12125550199").body)
        self.assertEqual((told["rate"], told["caller_id"], told["rows"]), (2.5, "+12125550199", 2))
        self.assertEqual(self.rows(), [("1", "2125550100", "s"), ("44", "2125550101", "")])

    def test_wrong_rows(self) -> None:
        """What is wrong with rows is told with the place of each, and nobody is called."""
        numbers = ["2125550100", "212555010", 5, {"secret": "s"}, {"phone_number": "2125550100"}, {"phone_number": 1}]
        numbers += [
            {"phone_number": "2125550102", "colour": "blue"},
            {"phone_number": "2125550103", "secret": "\ud800"},
        ]
        response = self.post({**GOOD, "numbers": numbers})
        self.assertEqual(self.problem(response), (400, "bad-request"))
        told = json.loads(response.body)
        self.assertEqual([each["row"] for each in told["errors"]], [2, 3, 4, 5, 6, 7, 8])
        self.assertIn("row 2: phone_number", told["detail"])
        self.assertIn("6 more", told["detail"])
        self.assertEqual(told["errors"][3]["detail"], "it is the number of row 1")
        many = json.loads(self.post({**GOOD, "numbers": ["x"] * 100}).body)
        self.assertEqual(len(many["errors"]), MOST_TOLD)
        one = json.loads(self.post_csv("phone_number\n2125550100\n0\n").body)
        self.assertEqual([each["row"] for each in one["errors"]], [2])
        self.assertEqual(self.problem(self.post_csv("phone_number\n\n")), (400, "bad-request"))
        without = {name: GOOD[name] for name in ("mp3", "numbers")}
        self.assertIn("country_code is required", json.loads(self.post(without).body)["detail"])
        self.assertEqual(self.batches.of_key("key_1"), [])

    def test_wrong_fields(self) -> None:
        """So is what is wrong with the batch."""
        bodies: list[object] = [b"", b"{", b"[]", {}, {"mp3": MP3}, {**GOOD, "numbers": {}}, {**GOOD, "numbers": []}]
        bodies += [{**GOOD, "rate": rate} for rate in (0, 0.001, 101, True, "5", None)]
        bodies += [{**GOOD, "mp3": mp3} for mp3 in (None, "a.mp3", "http://a..b/")]
        bodies += [{**GOOD, "colour": "blue"}, {**GOOD, "secret": "x" * 31}, {**GOOD, "phone_number": "2125550100"}]
        bodies += [json.dumps(GOOD).encode().replace(b"10", b"1e999"), {"numbers": GOOD["numbers"]}]
        bodies += [{**GOOD, "numbers": [f"{number:010d}" for number in range(MOST_ROWS + 1)]}]
        for body in bodies:
            self.assertEqual(self.problem(self.post(body)), (400, "bad-request"), body)
        for text in ("", "a,b\n1,2\n", "phone_number,phone_number\n1,2\n", b"phone_number\n\xff\n", 'phone_number\n"1'):
            self.assertEqual(self.problem(self.post_csv(text)), (400, "bad-request"), text)
        for query in ({"rate": "fast"}, {"rate": "nan"}, {"colour": "blue"}, {"mp3": "a.mp3"}, {"secret": b"\xff"}):
            response = self.post_csv("phone_number\n2125550100\n", **query)
            self.assertEqual(self.problem(response), (400, "bad-request"), query)
        twice = self.ask("POST", "/api/v1/batches?rate=1&rate=2", body=b"phone_number\n", media_type="text/csv")
        self.assertEqual(self.problem(twice), (400, "bad-request"))
        asked = self.ask(
            "POST", "/api/v1/batches?rate=1", body=json.dumps(GOOD).encode(), media_type="application/json"
        )
        self.assertEqual(self.problem(asked), (400, "bad-request"))
        plain = self.ask("POST", "/api/v1/batches", body=b"x", media_type="text/plain")
        self.assertEqual(self.problem(plain), (415, "unsupported-media-type"))
        self.assertEqual(self.batches.of_key("key_1"), [])

    def test_bounds(self) -> None:
        """A key has so many batches; as many rows as there may be are taken."""
        self.patch(module, "MOST_UNFINISHED_OF_KEY", 1)
        self.made(self.post({**GOOD, "numbers": [f"{number:010d}" for number in range(MOST_ROWS)]}))
        self.assertEqual(self.problem(self.post(GOOD)), (429, "too-many-batches"))

    def test_again(self) -> None:
        """A request sent again under its name is answered with its batch; another one may not have its name."""
        name = "Idempotency-Key: order-1"
        first = self.post(GOOD, name)
        second = self.post(GOOD, name)
        self.assertEqual(self.made(first), self.made(second))
        self.assertEqual(second.headers["idempotency-replayed"], "true")
        self.assertEqual(self.problem(self.post({**GOOD, "rate": 2}, name)), (422, "idempotency-key-reused"))
        text = "phone_number\n2125550100\n"
        self.assertEqual(self.problem(self.post_csv(text, name)), (422, "idempotency-key-reused"))
        self.assertEqual(self.problem(self.post(GOOD, "Idempotency-Key: a b")), (400, "bad-request"))
        self.assertEqual(len(self.batches.of_key("key_1")), 1)

    def test_at_once(self) -> None:
        """Of two requests of the same name at once, the second is told to come again."""
        self.thread.held = []
        connection = self.connect()
        body = json.dumps(GOOD).encode()
        request = self.request(
            "POST", "/api/v1/batches", "Idempotency-Key: a", body=body, media_type="application/json"
        )
        self.assertEqual(connection.send(request), b"")
        self.assertEqual(self.problem(self.post(GOOD, "Idempotency-Key: a")), (409, "idempotency-key-in-use"))
        self.thread.work()
        self.thread.work()
        self.assertEqual(Response(connection.taken()).status, 201)

    def test_large_bodies(self) -> None:
        """So many large bodies are read at a time, whoever they are from; their room is free again afterwards."""
        body = b"x" * (OPENING_OF_BATCHES.largest)
        request = self.request("POST", "/api/v1/batches", body=body, media_type="text/csv")
        slow = [self.connect() for _ in range(MOST_LARGE)]
        for connection in slow:
            self.assertEqual(connection.send(request[:1000]), b"")
        self.assertEqual(Response(self.connect().send(request[:1000])).status, 503)
        self.made(self.post(GOOD))
        slow[0].leave()
        connection = self.connect()
        for _ in range(2):
            self.assertEqual(Response(connection.send(request)).status, 400)
        self.assertEqual(self.site.large, MOST_LARGE - 1)
        too_large = self.request("POST", "/api/v1/batches", body=body + b"x")
        self.assertEqual(Response(self.connect().send(too_large)).status, 413)


class ShowTests(BatchesFaceCase):
    def test_outcomes(self) -> None:
        """A batch is shown with what has become of its calls, and has a CSV of them."""
        self.world.admission.answers = {"2125550102": [ReturnCode.DO_NOT_CALL]}
        numbers = ["2125550100", "2125550101", "2125550102"]
        where = self.made(self.post({**GOOD, "numbers": numbers}))
        self.world.advance(1)
        self.world.end(self.world.admission.ids[0], ANSWERED)
        self.world.end(self.world.admission.ids[1], BUSY)
        told = json.loads(self.ask("GET", where).body)
        self.assertEqual((told["state"], told["waiting"], told["accepted"], told["refused"]), ("done", 0, 2, {"3": 1}))
        self.assertEqual(told["outcomes"], {"answered": 1, "not_answered": {"5": 1}, "running": 0, "forgotten": 0})
        self.assertGreater(told["ended_at"], NOW)
        results = self.ask("GET", f"{where}/results.csv")
        self.assertEqual((results.status, results.headers["content-type"]), (200, "text/csv; charset=utf-8"))
        self.assertEqual(len(results.body.splitlines()), 4)
        (listed,) = json.loads(self.ask("GET", "/api/v1/batches").body)["batches"]
        self.assertEqual(listed, {**told, "outcomes": None})

    def test_others(self) -> None:
        """A batch of another key is as good as none."""
        where = self.made(self.post(GOOD))
        self.world.store.key = replace(cast(Key, self.world.store.key), id="key_2")
        for batch in (where, "/api/v1/batches/x", "/api/v1/batches/" + "0" * 32):
            for method, end in (("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("GET", "/results.csv")):
                self.assertEqual(self.problem(self.ask(method, batch + end)), (404, "not-found"))
        self.assertEqual(json.loads(self.ask("GET", "/api/v1/batches").body), {"batches": []})

    def test_many_looks(self) -> None:
        """One key has so many batches looked up at a time."""
        where = self.made(self.post(GOOD))
        self.world.advance(1)
        looking: list[Deferred[CallRecord | None]] = []

        def find_call(call_id: str) -> Deferred[CallRecord | None]:
            looking.append(Deferred())
            return looking[-1]

        self.patch(self.world.store, "find_call", find_call)
        connections = [self.connect() for _ in range(MOST_LOOKS_OF_KEY)]
        for connection in connections:
            connection.send(self.request("GET", where))
        self.assertEqual(self.problem(self.ask("GET", f"{where}/results.csv")), (503, "unavailable"))
        for answer in looking:
            answer.callback(None)
        self.assertEqual(json.loads(Response(connections[0].taken()).body)["outcomes"]["forgotten"], 2)

    def test_starting(self) -> None:
        """Before what there is has been read, it is said so."""
        self.patch(self, "start", lambda: None)
        self.setUp()
        for response in (self.post(GOOD), self.ask("GET", "/api/v1/batches"), self.ask("GET", "/api/v1/batches/x")):
            self.assertEqual(self.problem(response), (503, "unavailable"))


class ChangeTests(BatchesFaceCase):
    def change(self, where: str, what: str) -> Any:
        response = self.ask("POST", f"{where}/{what}")
        self.assertEqual(response.status, 200, response.body)
        return json.loads(response.body)

    def test_pause_and_resume(self) -> None:
        """A batch is paused and gone on with; the same again changes nothing."""
        where = self.made(self.post(GOOD))
        for _ in range(2):
            told = self.change(where, "pause")
            self.assertEqual(told["paused"], {"rule": None, "code": None, "detail": "it was asked for"})
        self.world.advance(1)
        self.assertEqual(self.world.admission.asked, [])
        for _ in range(2):
            self.assertEqual(self.change(where, "resume")["state"], "running")
        self.world.advance(1)
        for what in ("pause", "resume", "cancel"):
            self.assertEqual(self.problem(self.ask("POST", f"{where}/{what}")), (409, "batch-is-over"))

    def test_not_kept(self) -> None:
        """What can't be kept is refused; it is told that the batch is held up."""
        where = self.made(self.post(GOOD))
        (journal,) = self.root.glob("*/journal")
        journal.unlink()
        self.world.advance(0.2)
        for what in ("pause", "cancel"):
            self.assertEqual(self.problem(self.ask("POST", f"{where}/{what}")), (503, "unavailable"))
        told = json.loads(self.ask("GET", where).body)
        self.assertEqual((told["state"], told["held_up"]), ("running", "No such file or directory"))

    def test_paused_by_a_rule(self) -> None:
        """It is told which rule has paused it."""
        self.world.admission.all = ReturnCode.NO_CREDITS
        where = self.made(self.post(GOOD))
        self.world.advance(0.2)
        told = json.loads(self.ask("GET", where).body)
        self.assertEqual(told["paused"], {"rule": "no-credits", "code": 2, "detail": "words of 2"})

    def test_cancel_and_delete(self) -> None:
        """A batch that was cancelled is over, and can be deleted then."""
        self.world.admission.waiting = []
        where = self.made(self.post({**GOOD, "rate": 1}))
        self.world.advance(0.1)
        for _ in range(2):
            self.assertEqual(self.change(where, "cancel")["state"], "cancelled")
        for what in ("pause", "resume"):
            self.assertEqual(self.problem(self.ask("POST", f"{where}/{what}")), (409, "batch-is-over"))
        self.assertEqual(self.problem(self.ask("DELETE", where)), (409, "batch-is-not-over"))
        self.world.admission.answer()
        told = self.change(where, "cancel")
        self.assertEqual((told["state"], told["accepted"], told["waiting"]), ("cancelled", 1, 1))
        self.assertEqual(json.loads(self.ask("DELETE", where).body), {**told, "outcomes": None})
        self.assertEqual(self.problem(self.ask("GET", where)), (404, "not-found"))
