# mypy: allow-untyped-calls
"""/api/v1 by curl, on a daemon with the built-in carrier: made, followed, found, taken back."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.interop.case import InteropCase, settings
from tests.interop.harness import Daemon, need, wait_for

SIMULATOR = "simulator = true\n[page]\nlisten = []\n"
RINGS = "2125550103"
"Of the built-in carrier: rings for ever."
ANSWERS = "2125550100"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    "Names in lower case."
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class V1Case(InteropCase):
    def setUp(self) -> None:
        need("curl")
        super().setUp()

    def begin(self, calls: str = "") -> Daemon:
        self.daemon = self.run_daemon(SIMULATOR + settings(calls=f"ring_timeout = 20.0\ndrain_timeout = 1.0\n{calls}"))
        return self.daemon

    def command(self, path: str, *more: str, key: str | None = None) -> list[str]:
        key = self.key if key is None else key
        authorization = ["-H", f"Authorization: Bearer {key}"] if key else []
        return ["curl", "-sS", "--max-time", "60", *authorization, *more, f"http://127.0.0.1:{self.daemon.port}{path}"]

    def curl(self, path: str, *more: str, key: str | None = None) -> Reply:
        done = subprocess.run(
            self.command(path, "-i", *more, key=key), capture_output=True, text=True, timeout=90, check=True
        )
        head, _, body = done.stdout.partition("\n\n")
        while head.startswith("HTTP/1.1 100"):
            head, _, body = body.partition("\n\n")
        status, *lines = head.splitlines()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Reply(int(status.split()[1]), headers, body)

    def post(self, *more: str, key: str | None = None, **fields: object) -> Reply:
        wanted = {"phone_number": ANSWERS, "country_code": "1", "mp3": f"{self.web.url}/short.mp3", **fields}
        body = json.dumps({name: value for name, value in wanted.items() if value is not None})
        return self.curl("/api/v1/calls", "--json", body, *more, key=key)

    def credits(self) -> tuple[int, int, int]:
        (key,) = self.daemon.admin("GET", "/keys")["keys"]
        return key["credits"], key["held"], key["charged"]


class CallTests(V1Case):
    def test_a_call(self) -> None:
        """A call is made, followed to its end, and shown with its outcome and how its packets went."""
        self.begin()
        made = self.post(callback_url=f"{self.web.url}/callback?a=b", secret="hush")
        self.assertEqual((made.status, made.headers["content-type"]), (201, "application/json"))
        call_id = made.json["id"]
        self.assertEqual(made.headers["location"], f"/api/v1/calls/{call_id}")
        self.assertEqual((made.json["state"], made.json["outcome"]), ("accepted", None))
        events = self.curl(f"/api/v1/calls/{call_id}/events")
        self.assertEqual((events.status, events.headers["content-type"]), (200, "text/event-stream"))
        names = [line.partition(": ")[2] for line in events.body.splitlines() if line.startswith("event: ")]
        self.assertEqual((names[0], names[-3:]), ("call", ["answered", "ended", "callback"]))
        last = json.loads(events.body.strip().splitlines()[-1].partition(": ")[2])
        self.assertEqual((last["callback"]["verdict"], last["callback"]["status"]), ("delivered", 200))
        shown = self.curl(f"/api/v1/calls/{call_id}").json
        self.assertEqual((shown["state"], shown["outcome"]["answered"]), ("delivered", True))
        self.assertLess(shown["accepted_at"], shown["answered_at"])
        self.assertLess(shown["answered_at"], shown["ended_at"])
        self.assertGreater(shown["media"]["packets_sent"], 50)
        again = self.curl(f"/api/v1/calls/{call_id}/events")
        self.assertEqual(again.body.count("event: "), 1)

    def test_refusals(self) -> None:
        """Who is refused is told by which rule, as RFC 9457 says it; the page of its type is there."""
        daemon = self.begin()
        self.assertEqual(self.post().status, 201)
        for reply, status, code in (
            (self.post(), 429, 6),
            (self.post(key=""), 401, 1),
            (self.post(key="ck_other"), 401, 1),
            (self.post(country_code="999"), 422, 8),
            (self.post(phone_number="0005550100"), 422, 7),
            (self.post(phone_number="2125550177", mp3=f"{self.web.url}/none.mp3"), 422, 9),
            (self.post(phone_number="212"), 400, 4),
            (self.post(phone_number=2125550177), 400, 4),
            (self.post(colour="blue"), 400, 4),
            (self.curl("/api/v1/calls", "--json", "{"), 400, 4),
            (self.curl("/api/v1/calls", "-d", "{}"), 415, None),
            (self.curl("/api/v1/calls/" + "0" * 32), 404, None),
            (self.curl("/api/v1/others"), 404, None),
            (self.curl("/api/v1/calls", "-X", "PATCH"), 405, None),
        ):
            self.assertEqual((reply.status, reply.json.get("code")), (status, code), reply)
            self.assertEqual(reply.headers["content-type"], "application/problem+json")
            self.assertEqual(self.curl(reply.json["type"]).status, 200)
        self.assertEqual(self.curl("/api/v1/calls", "-X", "PUT").headers["allow"], "GET, POST, HEAD")
        self.assertEqual(self.post(key="").headers["www-authenticate"], "Bearer")
        (key,) = daemon.admin("GET", "/keys")["keys"]
        daemon.admin("POST", f"/keys/{key['id']}/disable")
        self.assertEqual((self.curl("/api/v1/calls").status, self.curl("/api/v1/calls").json["code"]), (403, 5))

    def test_dry_run(self) -> None:
        """A dry run tells every rule that would refuse, takes nothing, and fetches where that is asked for."""
        daemon = self.begin()
        self.assertEqual(self.post().status, 201)
        daemon.admin("POST", "/dnc/add", {"numbers": ["1 2125550100"]})
        before = self.credits()
        self.web.fetched.clear()
        reply = self.post(dry_run=True, mp3=f"{self.web.url}/none.mp3")
        self.assertEqual((reply.status, reply.json["accepted"]), (200, False))
        self.assertEqual([each["code"] for each in reply.json["refusals"]], [3, 6])
        self.assertEqual(self.web.fetched, [])
        fetched = self.post(dry_run=True, fetch=True, phone_number="2125550177", mp3=f"{self.web.url}/none.mp3")
        self.assertEqual([each["rule"] for each in fetched.json["refusals"]], ["mp3-unusable"])
        for _ in range(2):
            well = self.post(dry_run=True, fetch=True, phone_number="2125550177")
            self.assertEqual((well.json["accepted"], well.json["refusals"]), (True, []))
        self.assertEqual(self.credits(), before)

    def test_idempotency(self) -> None:
        """The same request sent again makes no second call, also after a restart; another one may not have its name."""
        daemon = self.begin()
        name = ("-H", "Idempotency-Key: order-1")
        first = self.post(*name)
        second = self.post(*name)
        self.assertEqual((first.status, second.status), (201, 201))
        self.assertEqual(second.json["id"], first.json["id"])
        self.assertEqual(
            (first.headers.get("idempotency-replayed"), second.headers["idempotency-replayed"]), (None, "true")
        )
        wait_for("the call is over", lambda: self.curl(first.headers["location"]).json["outcome"] is not None)
        daemon.stop()
        daemon.start()
        self.assertEqual(self.post(*name).json["id"], first.json["id"])
        other = self.post(*name, phone_number="2125550177")
        self.assertEqual((other.status, other.json["rule"]), (422, "idempotency-key-reused"))
        bad = self.post("-H", "Idempotency-Key;")
        self.assertEqual(bad.status, 400)
        self.assertEqual(self.credits(), (99, 0, 1))

    def test_bearer_for_playback(self) -> None:
        """GET /api/playback/ takes the key from the Authorization header where the query has none."""
        self.begin()
        target = f"/api/playback/?phone_number={ANSWERS}&country_code=1&mp3={self.web.url}/short.mp3"
        self.assertEqual(self.curl(target).body, "0")
        self.assertEqual(self.curl(target, key="ck_other").body, "1")
        self.assertEqual(self.curl(target, key="").body, "4")
        self.assertEqual(self.curl(f"{target}&api_key=ck_other").body, "1")


class ListTests(V1Case):
    def test_pages(self) -> None:
        """A key's calls are listed page by page; another key sees none of them."""
        daemon = self.begin("max_live = 1")
        ids = [self.post(phone_number=f"212555017{index}").json["id"] for index in range(5)]
        page = self.curl("/api/v1/calls?limit=2")
        self.assertEqual([call["id"] for call in page.json["calls"]], ids[:2:-1])
        self.assertIn('rel="next"', page.headers["link"])
        link = page.headers["link"].partition("<")[2].partition(">")[0]
        rest = self.curl(link).json
        self.assertEqual([call["id"] for call in rest["calls"]], ids[2:0:-1])
        last = self.curl(f"/api/v1/calls?limit=2&before={rest['next']}").json
        self.assertEqual(([call["id"] for call in last["calls"]], last["next"]), (ids[:1], None))
        found = self.curl("/api/v1/calls?last_digits=0172&state=accepted").json["calls"]
        self.assertEqual([call["id"] for call in found], ids[2:3])
        self.assertEqual(self.curl("/api/v1/calls?limit=0").status, 400)
        other = daemon.admin("POST", "/keys", {"name": "other", "credits": 1})["api_key"]
        self.assertEqual(self.curl("/api/v1/calls", key=other).json, {"calls": [], "next": None})
        self.assertEqual(self.curl(f"/api/v1/calls/{ids[0]}", key=other).status, 404)
        self.assertEqual(self.curl(f"/api/v1/calls/{ids[0]}/cancel", "-X", "POST", key=other).status, 404)
        # The operator's side.
        seen = daemon.admin("GET", "/calls?last_digits=0172")
        self.assertEqual(([call["id"] for call in seen["calls"]], seen["next"]), (ids[2:3], None))
        key_id = seen["calls"][0]["key_id"]
        self.assertEqual(len(daemon.admin("GET", f"/calls?key={key_id}&most=3")["calls"]), 3)


class EndTests(V1Case):
    def test_one_that_waits(self) -> None:
        """A call that waits is taken out of the queue: it is not dialled, its credit is back, its callback is made."""
        self.begin("max_live = 1")
        self.assertEqual(self.post(phone_number=RINGS).status, 201)
        waits = self.post(callback_url=f"{self.web.url}/callback?a=b").json["id"]
        ended = self.curl(f"/api/v1/calls/{waits}/cancel", "-X", "POST")
        self.assertEqual((ended.status, ended.json["outcome"]["words"]), (200, "hung up"))
        self.assertEqual(ended.json["outcome"]["ended_by"], "customer")
        self.assertEqual(self.outcome(self.web.next_callback()), ("0", "1"))
        self.assertEqual(self.credits(), (99, 1, 0))
        again = self.curl(f"/api/v1/calls/{waits}/cancel", "-X", "POST")
        self.assertEqual((again.status, again.json["rule"]), (409, "call-has-ended"))

    def test_one_that_rings(self) -> None:
        """A call that rings is hung up, by its customer or by an operator."""
        daemon = self.begin()
        first, second = (self.post(phone_number=RINGS, country_code="1").json["id"], "")
        self.rings(first)
        ended = self.curl(f"/api/v1/calls/{first}/cancel", "-X", "POST")
        self.assertEqual((ended.status, ended.json["outcome"]["cause"]), (200, "hung up"))
        self.assertEqual(ended.json["outcome"]["ended_by"], "customer")
        second = self.post(phone_number="2125550106").json["id"]
        self.rings(second)
        shown = daemon.admin("POST", f"/calls/{second}/hangup")
        self.assertEqual((shown["outcome"]["reason"], shown["outcome"]["rang"]), (1, True))
        self.assertEqual(shown["outcome"]["ended_by"], "operator")
        self.assertEqual(self.credits(), (100, 0, 0))

    def rings(self, call_id: str) -> None:
        wait_for("it is dialled", lambda: self.curl(f"/api/v1/calls/{call_id}").json["state"] == "dialing")
        time.sleep(0.5)


class StreamTests(V1Case):
    def test_of_a_key(self) -> None:
        """A key hears of its own calls; operators hear of all, on their socket."""
        daemon = self.begin()
        other = daemon.admin("POST", "/keys", {"name": "other", "credits": 1})["api_key"]
        listening = [
            self.command("/api/v1/events", "-N"),
            self.command("/api/v1/events", "-N", key=other),
            ["curl", "-sS", "-N", "--unix-socket", str(daemon.data / "admin.sock"), "http://localhost/events"],
        ]
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for command in listening
        ]
        try:
            for each in running:
                assert each.stdout is not None
                self.assertEqual(each.stdout.readline(), "retry: 2000\n")
            call_id = self.post().json["id"]
            wait_for("the call is over", lambda: self.curl(f"/api/v1/calls/{call_id}").json["outcome"] is not None)
        finally:
            for each in running:
                each.terminate()
        own, others, all_of_them = (each.communicate()[0] for each in running)
        for text in (own, all_of_them):
            names = [line.partition(": ")[2] for line in text.splitlines() if line.startswith("event: ")]
            self.assertEqual(names[:2] + names[-2:], ["accepted", "dialing", "answered", "ended"])
        self.assertNotIn("event", others)
        self.assertIn('"trunk":"simulator"', all_of_them)
        self.assertNotIn("simulator", own)

    def test_goodbye(self) -> None:
        """A daemon that stops cuts the streams, and waits for none of them."""
        daemon = self.begin()
        listening = subprocess.Popen(
            self.command("/api/v1/events", "-N"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert listening.stdout is not None
        self.assertEqual(listening.stdout.readline(), "retry: 2000\n")
        began = time.monotonic()
        self.assertEqual(daemon.stop(), 0)
        self.assertLess(time.monotonic() - began, 10.0)
        listening.communicate(timeout=10)


class BodyTests(V1Case):
    def test_bodies(self) -> None:
        """Bodies are taken where calls are made, up to 64 KiB, and nowhere else."""
        self.begin()
        large = json.dumps({"secret": "x" * 70_000})
        refused = self.curl("/api/v1/calls", "--json", large, "-H", "Expect:")
        self.assertEqual(refused.status, 413)
        for path in ("/api/playback/", "/healthz", "/openapi.json"):
            self.assertEqual(self.curl(path, "-X", "GET", "-d", "x=1").status, 413)
            self.assertEqual(self.curl(path, "-d", "x=1").status, 405)
        chunked = self.curl("/api/v1/calls", "--json", "{}", "-H", "Transfer-Encoding: chunked")
        self.assertEqual(chunked.status, 411)
