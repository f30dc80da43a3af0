"""/api/v1 on a pretended connection: who may ask, what is answered, what two requests at once come to, and streams."""

# mypy: allow-untyped-calls
from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.admission import Unavailable, Verdict
from calledind.api.answers import Folder
from calledind.api.channel import HEAD_SECONDS, IDLE_SECONDS
from calledind.api.openapi import OpenApi, document
from calledind.api.problem import KINDS, OF_CODE, Problems
from calledind.api.site import Site
from calledind.api.sse import HEARTBEAT, MOST_WAITING, PATIENCE
from calledind.api.v1 import MOST_IN_FLIGHT, MOST_SEARCHES_OF_KEY, MOST_STREAMS_OF_KEY, OPENING, POLL, V1, Parts
from calledind.api.v1_forms import FIELDS, QUERY
from calledind.model import CallRecord, Key, PendingCallback, PlaybackRequest, ReturnCode, State
from calledind.service.events import Events
from calledind.store.interface import CallFilter, Store, StoreUnavailable
from tests.api.wire import Connection, Response
from tests.store.contract import ANSWERED, BUSY, make_call, make_key

NOW = 1000.0
ID = "0123456789abcdef" * 2
OTHERS = "f" * 32
GOOD: dict[str, object] = {
    "phone_number": "2125550100",
    "country_code": "1",
    "mp3": "https://example.com/a.mp3?x=%20",
}


class Fault(Exception):
    pass


def digest(api_key: str) -> bytes:
    return hashlib.sha256(api_key.encode()).digest()


@dataclass
class FakeStore:
    key: Key = field(default_factory=lambda: replace(make_key(), id="key_1"))
    records: dict[str, CallRecord] = field(default_factory=dict)
    asked: list[tuple[CallFilter, int, str]] = field(default_factory=list)
    after: str = ""
    waiting: list[Deferred[Any]] | None = None
    "Where it is a list, `calls` is answered by the test."
    away: Exception | None = None

    def find_key(self, api_key: bytes) -> Deferred[Key | None]:
        if self.away is not None:
            return fail(self.away)
        return succeed(self.key if api_key == digest("ck_good") else None)

    def find_call(self, call_id: str) -> Deferred[CallRecord | None]:
        return succeed(self.records.get(call_id))

    def find_idempotent(self, token: str, now: float) -> Deferred[CallRecord | None]:
        found = (each for each in self.records.values() if each.call.idempotency[:32] == token)
        return succeed(next(found, None))

    def calls(
        self, wanted: CallFilter, *, most: int = 50, before: str = ""
    ) -> Deferred[tuple[Sequence[CallRecord], str]]:
        self.asked.append((wanted, most, before))
        if self.waiting is None:
            return succeed((list(self.records.values()), self.after))
        self.waiting.append(Deferred())
        return self.waiting[-1]


@dataclass
class FakeAdmission:
    store: FakeStore
    asked: list[PlaybackRequest] = field(default_factory=list)
    code: ReturnCode = ReturnCode.ACCEPTED
    unavailable: Unavailable | None = None
    waiting: list[Deferred[Verdict]] | None = None
    "Where it is a list, the test answers."

    def admit_request(self, request: PlaybackRequest, *, idempotency: str = "") -> Deferred[Verdict]:
        self.asked.append(request)
        if self.unavailable is not None:
            return fail(self.unavailable)
        if self.waiting is not None:
            self.waiting.append(Deferred())
            return self.waiting[-1]
        if self.code is not ReturnCode.ACCEPTED:
            return succeed(Verdict(self.code, "words"))
        self.store.records[ID] = CallRecord(replace(make_call(ID), idempotency=idempotency), State.ACCEPTED)
        return succeed(Verdict(self.code, "accepted", ID))

    def objections(self, key: Key, request: PlaybackRequest, *, fetch: bool) -> Deferred[Sequence[Verdict]]:
        refused = [Verdict(ReturnCode.FLOOD, "words"), Verdict(ReturnCode.MP3_UNUSABLE, "gone")]
        return succeed(refused if fetch else refused[:1])


class V1Case(SynchronousTestCase):
    is_shared = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = FakeStore()
        self.admission = FakeAdmission(self.store)
        self.events = Events(lambda: NOW)
        self.hung_up: list[str] = []
        self.ended: CallRecord | None = None
        "What a call is when it has been hung up; None: what it was before."
        parts = Parts(
            reactor=self.clock,
            store=cast(Store, self.store),
            digest=digest,
            now=lambda: NOW,
            admission=self.admission,
            hang_up=self.hang_up,
            subscribe=self.events.subscribe,
            media=lambda call_id: None,
            is_shared=self.is_shared,
        )
        root, api = Folder(), Folder()
        root.putChild(b"api", api)
        api.putChild(b"v1", V1(parts))
        root.putChild(b"openapi.json", OpenApi())
        root.putChild(b"problems", Problems())
        self.site = Site(root, reactor=self.clock, openings=(OPENING,))

    def hang_up(self, call_id: str) -> Deferred[CallRecord | None]:
        self.hung_up.append(call_id)
        return succeed(self.ended or self.store.records.get(call_id))

    def keep(self, state: State = State.ACCEPTED, **others: Any) -> CallRecord:
        """Have a call of the key's be there."""
        record = CallRecord(make_call(ID), state, **others)
        self.store.records[ID] = record
        return record

    def connect(self) -> Connection:
        return Connection(self.site, IPv4Address("TCP", "192.0.2.1", 50000))

    def ask(self, method: str, path: str, *fields: str, body: object = None, key: str = "ck_good") -> Response:
        return Response(self.connect().send(self.request(method, path, *fields, body=body, key=key)))

    def request(self, method: str, path: str, *fields: str, body: object = None, key: str = "ck_good") -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: a", *fields]
        if key:
            lines.append(f"Authorization: Bearer {key}")
        octets = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        if body is not None:
            lines.append(f"Content-Length: {len(octets)}")
            if not any(line.lower().startswith("content-type") for line in lines):
                lines.append("Content-Type: application/json; charset=UTF-8")
        return "\r\n".join([*lines, "", ""]).encode() + octets

    def post(self, *fields: str, **changes: object) -> Response:
        return self.ask("POST", "/api/v1/calls", *fields, body={**GOOD, **changes})

    def problem(self, response: Response) -> tuple[int, str]:
        """Return status and rule of a problem that is written as it should be."""
        told = json.loads(response.body)
        self.assertEqual(response.headers["content-type"], "application/problem+json")
        self.assertEqual(told["type"], f"/problems/{told['rule']}")
        self.assertEqual(told["status"], response.status)
        return response.status, told["rule"]


class AccessTests(V1Case):
    def test_who_may_ask(self) -> None:
        """Nothing is told without a key that is known and not disabled, which is in one Authorization header."""
        for fields in (
            (),
            ("Authorization: Basic abc",),
            ("Authorization: Bearer",),
            ("Authorization: Bearer ck good",),
            ("Authorization: Bearer ck_good", "Authorization: Bearer ck_good"),
            ("Authorization: Bearer ck_other",),
        ):
            response = self.ask("GET", "/api/v1/calls", *fields, key="")
            self.assertEqual(self.problem(response), (401, "invalid-key"), fields)
            self.assertTrue(response.headers["www-authenticate"].startswith("Bearer"))
        self.assertEqual(self.ask("GET", "/api/v1/calls", "Authorization: bearer  ck_good ", key="").status, 200)
        self.store.key = replace(self.store.key, disabled=True)
        self.assertEqual(self.problem(self.ask("GET", "/api/v1/calls")), (403, "key-disabled"))

    def test_others_calls(self) -> None:
        """A call of another key is as good as none, whatever is asked of it."""
        self.store.records[OTHERS] = CallRecord(make_call(OTHERS, key_id="key_2"), State.ACCEPTED)
        for call_id in (OTHERS, ID, "x", "%00", OTHERS.upper()):
            for method, end in (("GET", ""), ("POST", "/cancel"), ("GET", "/events")):
                self.assertEqual(self.problem(self.ask(method, f"/api/v1/calls/{call_id}{end}")), (404, "not-found"))
        self.assertEqual(self.hung_up, [])

    def test_methods(self) -> None:
        """What a path does not take is told with what it takes; HEAD is a GET without a body."""
        for method, path, allowed in (
            ("PUT", "/api/v1/calls", "GET, POST, HEAD"),
            ("OPTIONS", f"/api/v1/calls/{ID}", "GET, HEAD"),
            ("POST", "/api/v1/events", "GET, HEAD"),
        ):
            response = self.ask(method, path)
            self.assertEqual(
                (self.problem(response), response.headers["allow"]), ((405, "method-not-allowed"), allowed)
            )
        self.assertEqual(self.problem(self.ask("GET", "/api/v1/calls/")), (404, "not-found"))
        head = self.connect().send(self.request("HEAD", "/api/v1/calls"))
        self.assertTrue(head.startswith(b"HTTP/1.1 200"))
        self.assertTrue(head.endswith(b"\r\n\r\n"))
        self.assertIn(b"text/event-stream", self.connect().send(self.request("HEAD", "/api/v1/events")))

    def test_store_away(self) -> None:
        """A store that is away is told with when to come again, and not why it is away."""
        self.store.away = StoreUnavailable("the disk of /secret/place is full")
        response = self.ask("GET", "/api/v1/calls")
        self.assertEqual((self.problem(response), response.headers["retry-after"]), ((503, "unavailable"), "5"))
        self.assertNotIn(b"/secret", response.body)

    def test_fault(self) -> None:
        """A fault of ours is told by the id under which the log has it."""
        self.store.away = Fault("secret")
        response = self.ask("GET", "/api/v1/calls")
        self.assertEqual(self.problem(response), (500, "fault"))
        self.assertNotIn(b"secret", response.body)
        self.assertEqual(len(self.flushLoggedErrors(Fault)), 1)


class CreateTests(V1Case):
    def test_accepted(self) -> None:
        """A call that is accepted is answered 201 with itself and where it is; what was asked for is whole."""
        response = self.post(cache=False, caller_id="anonymous", callback_url="http://a.example/", secret="é ")
        self.assertEqual((response.status, response.headers["location"]), (201, f"/api/v1/calls/{ID}"))
        told = json.loads(response.body)
        self.assertEqual((told["id"], told["state"], told["outcome"], told["media"]), (ID, "accepted", None, None))
        self.assertNotIn("secret", told)
        asked = self.admission.asked[0]
        self.assertEqual((asked.api_key, asked.cache, asked.secret), ("ck_good", False, "é "))
        self.assertEqual((asked.caller_id, asked.callback_url), ("anonymous", "http://a.example/"))

    def test_every_code(self) -> None:
        """Every code but 0 has a problem of its own with a status of its own."""
        for code in set(ReturnCode) - {ReturnCode.ACCEPTED}:
            self.admission.code = code
            response = self.post()
            self.assertEqual(self.problem(response), (OF_CODE[code].status, OF_CODE[code].name))
            self.assertEqual(json.loads(response.body)["code"], code)
            self.assertEqual(response.headers.get("retry-after"), "60" if code is ReturnCode.FLOOD else None)

    def test_unavailable(self) -> None:
        """When no work is taken, it says when to come again."""
        self.admission.unavailable = Unavailable("starting", 7)
        response = self.post()
        self.assertEqual((self.problem(response), response.headers["retry-after"]), ((503, "unavailable"), "7"))

    def test_bodies_that_are_wrong(self) -> None:
        """What is not a JSON object of the fields that there are, each as it should be, is refused."""
        deep = b'{"secret":' + b"[" * 30_000
        bodies: list[object] = [
            *(b"", b"{", b"[]", b"1", b"null", b"\xff", b'{"a": NaN}', b"\xef\xbb\xbf{}", deep),
            *({}, {**GOOD, "phone_number": None}, {**GOOD, "phone": "1"}, {**GOOD, "cache": "True"}),
            {**GOOD, "phone_number": "212555010"},
            {**GOOD, "phone_number": "2125550100\n"},
            {**GOOD, "phone_number": "٢١٢٥٥٥٠١٠٠"},
            *(
                {**GOOD, "mp3": each}
                for each in ("", "a.mp3", "ftp://a/", "http://a:0/", "http://a:65536/", "http://ä/")
            ),
            *({**GOOD, "mp3": each} for each in ("http://a/ b", "http://a/" + "x" * 4096, "http://[1]/", "http://-a/")),
            *({**GOOD, "caller_id": each} for each in ("", "+" + "1" * 20, "x", 1)),
            {**GOOD, "secret": "x" * 31},
            {**GOOD, "secret": "\ud800"},
            {**GOOD, "dry_run": 1},
            json.dumps(GOOD).encode().replace(b"{", b'{"mp3": "http://b/", '),
        ]
        for body in bodies:
            response = self.ask("POST", "/api/v1/calls", body=body)
            self.assertEqual(self.problem(response), (400, "bad-request"), body)
        self.assertEqual(self.admission.asked, [])

    def test_media_types(self) -> None:
        """JSON is taken as application/json in UTF-8 alone."""
        for given in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", ""):
            response = self.post(f"Content-Type: {given}")
            self.assertEqual(self.problem(response), (415, "unsupported-media-type"))
        self.assertEqual(self.post('Content-Type: Application/JSON;charset="utf-8"').status, 201)

    def test_dry_run(self) -> None:
        """A dry run makes no call, and tells each rule that is against it."""
        for fetch, rules in ((False, ["flood"]), (True, ["flood", "mp3-unusable"])):
            response = self.post(dry_run=True, fetch=fetch)
            told = json.loads(response.body)
            self.assertEqual((response.status, told["accepted"]), (200, False))
            self.assertEqual([each["rule"] for each in told["refusals"]], rules)
        self.assertEqual(self.admission.asked, [])


class IdempotencyTests(V1Case):
    def again(self, **changes: object) -> Response:
        return self.post("Idempotency-Key: order-1", **changes)

    def test_again(self) -> None:
        """The same request again is answered with the same call, and makes none."""
        first, second = self.again(), self.again()
        self.assertEqual((first.status, first.body), (second.status, second.body))
        self.assertEqual(
            (first.headers.get("idempotency-replayed"), second.headers["idempotency-replayed"]), (None, "true")
        )
        self.assertEqual(len(self.admission.asked), 1)

    def test_another_request(self) -> None:
        """Another request may not have the same name."""
        self.again()
        self.assertEqual(self.problem(self.again(secret="x")), (422, "idempotency-key-reused"))

    def test_while_it_is_decided(self) -> None:
        """A second one that comes while the first is decided on is told to come again."""
        self.admission.waiting = []
        first = self.connect()
        self.assertEqual(first.send(self.request("POST", "/api/v1/calls", "Idempotency-Key: a", body=GOOD)), b"")
        second = self.ask("POST", "/api/v1/calls", "Idempotency-Key: a", body=GOOD)
        self.assertEqual((self.problem(second), second.headers["retry-after"]), ((409, "idempotency-key-in-use"), "1"))
        self.admission.waiting[0].callback(Verdict(ReturnCode.NO_CREDITS, "words"))
        self.assertEqual(self.problem(Response(first.taken())), (402, "no-credits"))
        self.admission.waiting = None
        self.assertEqual(self.ask("POST", "/api/v1/calls", "Idempotency-Key: a", body=GOOD).status, 201)

    def test_accepted_elsewhere_meanwhile(self) -> None:
        """Where another node accepted it between our look and our question, that call is the answer."""
        self.again()
        made = self.store.records.pop(ID)
        self.admission.waiting = []
        client = self.connect()
        client.send(self.request("POST", "/api/v1/calls", "Idempotency-Key: order-1", body=GOOD))
        self.store.records[ID] = made
        self.admission.waiting[0].callback(Verdict(ReturnCode.FLOOD, "words"))
        self.assertEqual(Response(client.taken()).headers["idempotency-replayed"], "true")

    def test_names_that_are_none(self) -> None:
        """A name is 1 to 255 printable characters, given once."""
        for fields in (("Idempotency-Key:",), ("Idempotency-Key: " + "x" * 256,), ("Idempotency-Key: a b",)):
            self.assertEqual(self.problem(self.post(*fields)), (400, "bad-request"))
        twice = self.post("Idempotency-Key: a", "Idempotency-Key: a")
        self.assertEqual(self.problem(twice), (400, "bad-request"))


class ListTests(V1Case):
    def test_what_is_asked_for(self) -> None:
        """A list is of the key's own calls, and its filters are the store's; the next page is linked to."""
        self.keep(State.DELIVERED, outcome=BUSY)
        self.store.after = ID
        query = "limit=7&state=done&answered=false&reason=5&last_digits=0100&since=1.5&until=2e3&x=y"
        response = self.ask("GET", f"/api/v1/calls?{query}&before={OTHERS}")
        told = json.loads(response.body)
        ((wanted, most, before),) = self.store.asked
        self.assertEqual((most, before), (7, OTHERS))
        self.assertEqual(wanted, CallFilter("key_1", "0100", "done", False, cast(Any, 5), 1.5, 2000.0))
        self.assertEqual((told["next"], told["calls"][0]["outcome"]["words"]), (ID, "busy"))
        self.assertEqual(response.headers["link"], f'</api/v1/calls?{query}&before={ID}>; rel="next"')

    def test_queries_that_are_wrong(self) -> None:
        """A parameter that is not as it should be is refused, and so is one that is there twice."""
        for query in (
            *("limit=0", "limit=201", "limit=x", "limit=", "limit=1&limit=1", "before=x", "state=gone", "answered=1"),
            *("reason=2", "last_digits=x", "since=-1", "since=nan", "until=1e12", "until=1e9999", "since=%D9%A1"),
        ):
            self.assertEqual(self.problem(self.ask("GET", f"/api/v1/calls?{query}")), (400, "bad-request"), query)
        self.assertEqual(self.store.asked, [])

    def test_many_at_once(self) -> None:
        """One key does not hold up the others by its lists, nor do all of them the daemon."""
        self.store.waiting = []
        clients = [self.connect() for _ in range(MOST_SEARCHES_OF_KEY)]
        for client in clients:
            self.assertEqual(client.send(self.request("GET", "/api/v1/calls")), b"")
        self.assertEqual(self.problem(self.ask("GET", "/api/v1/calls")), (503, "unavailable"))
        for each in self.store.waiting:
            each.callback(([], ""))
        self.store.waiting = None
        self.assertEqual(self.ask("GET", "/api/v1/calls").status, 200)

    def test_in_flight(self) -> None:
        """So many requests are answered at once, and who leaves makes room when the answer is there."""
        self.admission.waiting = []
        clients = [self.connect() for _ in range(200)]
        others = [Connection(self.site, IPv4Address("TCP", "192.0.2.2", 1)) for _ in range(MOST_IN_FLIGHT - 200)]
        for client in (*clients, *others):
            client.send(self.request("POST", "/api/v1/calls", body=GOOD))
        extra = Connection(self.site, IPv4Address("TCP", "192.0.2.3", 1))
        self.assertEqual(Response(extra.send(self.request("GET", "/api/v1/calls"))).status, 503)
        for client in clients:
            client.leave()
        for each in self.admission.waiting:
            each.callback(Verdict(ReturnCode.NO_CREDITS, "words"))
        self.assertEqual(Response(extra.send(self.request("GET", "/api/v1/calls"))).status, 200)


class EndTests(V1Case):
    def test_hung_up(self) -> None:
        """A call that takes longer to end is answered 202, one that was over before 409."""
        self.keep(State.ANSWERED)
        self.assertEqual(self.ask("POST", f"/api/v1/calls/{ID}/cancel").status, 202)
        self.keep(State.DONE, outcome=ANSWERED)
        self.assertEqual(self.problem(self.ask("POST", f"/api/v1/calls/{ID}/cancel")), (409, "call-has-ended"))
        self.assertEqual(self.hung_up, [ID])

    def test_ended_meanwhile(self) -> None:
        """The answer has the outcome where there is one then."""
        self.keep(State.DIALING)
        self.ended = CallRecord(make_call(ID), State.DONE, outcome=BUSY)
        response = self.ask("POST", f"/api/v1/calls/{ID}/cancel")
        self.assertEqual((response.status, json.loads(response.body)["outcome"]["reason"]), (200, 5))


class StreamCase(V1Case):
    def open(self, path: str) -> Connection:
        client = self.connect()
        head = client.send(self.request("GET", path))
        self.assertIn(b"text/event-stream", head)
        self.begun = head
        return client

    def names(self, data: bytes) -> list[str]:
        return [line[7:].decode() for line in data.splitlines() if line.startswith(b"event: ")]


class StreamTests(StreamCase):
    def test_of_a_call(self) -> None:
        """A call's stream begins with the call, tells what happens, and ends when nothing more will."""
        record = self.keep(State.DIALING)
        client = self.open(f"/api/v1/calls/{ID}/events")
        self.assertEqual(self.names(self.begun), ["call"])
        self.events.reached(record.call, "ringing", "trunk 1")
        self.events.accepted(make_call("other"))
        self.events.ended(record.call, BUSY)
        data = client.taken()
        self.assertEqual(self.names(data), ["ringing", "ended"])
        self.assertNotIn(b"trunk", data)
        self.events.tried(PendingCallback(record.call, BUSY, 0, NOW), "delivered", 200)
        data = client.taken()
        self.assertEqual(self.names(data), ["callback"])
        self.assertTrue(data.endswith(b"0\r\n\r\n"))
        client.leave()
        self.clock.advance(0)
        self.assertEqual((self.events._of_call, self.clock.getDelayedCalls()), ({}, []))

    def test_of_a_call_that_is_over(self) -> None:
        """The stream of a call that is over is the call, and ends."""
        self.keep(State.DELIVERED, outcome=ANSWERED)
        self.open(f"/api/v1/calls/{ID}/events")
        self.assertEqual(self.names(self.begun), ["call"])
        self.assertTrue(self.begun.endswith(b"0\r\n\r\n"))

    def test_of_a_key(self) -> None:
        """A key hears of its own calls, for as long as it wants, or says."""
        client = self.open("/api/v1/events?seconds=20")
        self.events.accepted(make_call("call1"))
        self.events.accepted(make_call("call2", key_id="key_2"))
        self.events.trunk("trunk 1", {"health": "failing"})
        self.assertEqual(self.names(client.taken()), ["accepted"])
        self.clock.advance(HEARTBEAT)
        self.assertIn(b"\r\n: \n\n", client.taken())
        self.clock.advance(5)
        self.assertTrue(client.taken().endswith(b"0\r\n\r\n"))
        self.assertEqual(self.problem(self.ask("GET", "/api/v1/events?seconds=0")), (400, "bad-request"))

    def test_who_leaves(self) -> None:
        """Of a client that has left nothing is left."""
        client = self.open("/api/v1/events")
        client.leave()
        self.assertEqual((self.events._of_key, self.clock.getDelayedCalls()), ({}, []))

    def test_slow(self) -> None:
        """A client that does not keep up is told how much it missed; one that takes nothing at all is cut off."""
        client = self.open("/api/v1/events")
        stream: Any = client.channel._requestProducer
        stream.pauseProducing()
        for _ in range(MOST_WAITING + 3):
            self.events.accepted(make_call())
        self.assertEqual(client.taken(), b"")
        stream.resumeProducing()
        data = client.taken()
        self.assertEqual(self.names(data), ["accepted"] * MOST_WAITING + ["lost"])
        self.assertIn(b'{"events":3}', data)
        stream.pauseProducing()
        self.clock.pump([HEARTBEAT] * int(PATIENCE / HEARTBEAT + 1))
        self.assertTrue(client.wire.aborted)

    def test_too_many(self) -> None:
        """A key may have so many streams."""
        clients = [self.open("/api/v1/events") for _ in range(MOST_STREAMS_OF_KEY)]
        self.assertEqual(self.problem(self.ask("GET", "/api/v1/events")), (429, "too-many-streams"))
        clients[0].leave()
        self.open("/api/v1/events")


class SharedStreamTests(StreamCase):
    is_shared = True

    def test_of_a_call_elsewhere(self) -> None:
        """What other nodes do with a call is seen by looking at it."""
        self.keep(State.ACCEPTED)
        client = self.open(f"/api/v1/calls/{ID}/events")
        self.clock.advance(POLL)
        self.assertEqual(client.taken(), b"")
        self.keep(State.ANSWERED)
        self.clock.advance(POLL)
        self.assertIn(b'"state":"answered"', client.taken())
        self.keep(State.DELIVERED, outcome=ANSWERED)
        self.clock.advance(POLL)
        self.assertTrue(client.taken().endswith(b"0\r\n\r\n"))
        self.clock.advance(POLL)
        client.leave()
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class SiteTests(V1Case):
    def test_slow_body(self) -> None:
        """A body has some seconds to arrive in, and what comes after it is a request like any other."""
        client = self.connect()
        whole = self.request("POST", "/api/v1/calls", body=GOOD)
        client.send(whole[:-5])
        self.clock.advance(HEAD_SECONDS + 1)
        self.assertFalse(client.wire.closed)
        self.assertEqual(Response(client.send(whole[-5:])).status, 201)
        self.clock.advance(IDLE_SECONDS - 1)
        self.assertFalse(client.wire.closed)
        client.send(whole[:-5])
        for _ in range(4):
            self.clock.advance(OPENING.seconds / 4 + 1)
        self.assertTrue(client.wire.closed)

    def test_bodies_elsewhere(self) -> None:
        """Where nothing is made, no body is read, whatever the path looks like."""
        for path in ("/openapi.json", "/api/v1", "/api/%761/calls", "http://a/api/v1/calls"):
            response = self.ask("GET", path, body=b"x")
            self.assertEqual(response.status, 413, path)
        self.assertEqual(self.ask("POST", "/openapi.json").status, 405)

    def test_documents(self) -> None:
        """The document and the pages of the problems need no key."""
        self.assertEqual(json.loads(self.ask("GET", "/openapi.json", key="").body), json.loads(json.dumps(document())))
        for kind in KINDS:
            self.assertEqual(self.ask("GET", kind.type, key="").status, 200)
        self.assertEqual(self.ask("GET", "/problems/none", key="").status, 404)
        self.assertEqual(self.ask("GET", "/problems/flood/x", key="").status, 404)

    def test_document_is_whole(self) -> None:
        """Each field and parameter is in the document, and each operation tells what any request may be refused for."""
        told = document()
        self.assertEqual(told["components"]["schemas"]["Request"]["properties"], FIELDS)
        names = [each["name"] for each in told["paths"]["/api/v1/calls"]["get"]["parameters"]]
        self.assertEqual(names, list(QUERY))
        for path in told["paths"].values():
            for method in {"get", "post", "delete"} & path.keys():
                self.assertLessEqual({"401", "403", "500", "503"}, path[method]["responses"].keys())
