"""What an operator does to calls, trunks and callbacks, with parts that only remember."""

# mypy: allow-untyped-calls
from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from unittest.mock import ANY

from twisted.internet.defer import Deferred, fail, succeed

from calledind.admission import Unavailable, Verdict
from calledind.api.admin import Admin, admin_site
from calledind.api.operator_control import TEST_SECONDS, Control, Controls
from calledind.audio.errors import LibraryUnavailable, unusable
from calledind.audio.library import Prepared
from calledind.model import (
    Address,
    Call,
    CallRecord,
    Cause,
    EndedBy,
    Ending,
    Outcome,
    PendingCallback,
    PlaybackRequest,
    Reason,
    ReturnCode,
    State,
)
from calledind.net.trace import TracedMessage
from tests.api.test_admin import KEYRING, NOW, AdminCase
from tests.api.wire import Response

CALL_ID = "0" * 31 + "1"
AT = ("192.0.2.9", 5060)
WANTED = {"key_id": "key_1", "phone_number": "2125550100", "country_code": "1", "mp3": "http://x.example/a.mp3"}


class ControlCase(AdminCase):
    def setUp(self) -> None:
        super().setUp()
        self.admitted: list[tuple[str, PlaybackRequest, str]] = []
        self.verdict: Deferred[Verdict] = succeed(Verdict(ReturnCode.ACCEPTED, "accepted", CALL_ID))
        self.taken: Exception | None = None
        self.reports: list[Callable[[int | None], None]] = []
        self.lost = ""
        self.delivered: list[PendingCallback] = []
        self.again = True
        self.ledger.callback_again = lambda call_id, due_at: succeed(self.again)  # type: ignore[attr-defined]
        controls = Controls(
            admit=self.admit,
            take_mp3=lambda mp3: fail(self.taken) if self.taken else succeed(("upload:aa", Prepared("aa", 2.5))),
            messages=lambda call_id: {CALL_ID: (TracedMessage(NOW, "sent", AT, b"x"),)}.get(call_id, ()),
            trunks=lambda: [{"name": "one", "registration": "registered for 60 s"}],
            locate=self.locate,
            options=lambda name, target, report: self.reports.append(report),
            callbacks=lambda most: [{"call_id": CALL_ID}][:most],
            deliver=self.delivered.append,
            reload=lambda: ["trunks: is wrong"],
            facts=lambda: {"simulator": False},
        )
        control = Control(controls, reactor=self.clock, store=self.ledger.as_store, keyring=KEYRING, now=lambda: NOW)
        admin = Admin(
            reactor=self.clock,
            store=self.ledger.as_store,
            keyring=KEYRING,
            now=lambda: NOW,
            status=dict,
            routes=(control.routes(),),
        )
        self.site = admin_site(admin, reactor=self.clock)

    def admit(self, key_id: str, request: PlaybackRequest, call_id: str = "") -> Deferred[Verdict]:
        self.admitted.append((key_id, request, call_id))
        return self.verdict

    def locate(self, name: str) -> Deferred[Address]:
        return fail(OSError(self.lost)) if self.lost else succeed(("192.0.2.9", 5060))

    def keep(self, outcome: Outcome | None, url: str | None = "http://x.example/") -> None:
        call = Call(CALL_ID, "key_1", "2125550100", "1", "0", "aa", 1.0, url, "", NOW)
        self.ledger.calls[CALL_ID] = CallRecord(call, State.DONE if outcome else State.DIALING, outcome=outcome)


BUSY = Outcome(False, Reason.BUSY, Ending(Cause.FINAL_RESPONSE, False, EndedBy.CALLEE, NOW, sip_status=486))


class CallTests(ControlCase):
    def test_call(self) -> None:
        """A call is asked for as a query asks, for a key by its id; the answer tells the code whatever it is."""
        status, answer = self.ask("POST", "/calls", {**WANTED, "cache": False, "secret": "é"})
        self.assertEqual((status, answer), (200, {"code": 0, "words": "accepted", "call_id": CALL_ID}))
        ((key_id, request, call_id),) = self.admitted
        self.assertEqual((key_id, call_id), ("key_1", ""))
        self.assertEqual((request.mp3, request.cache, request.secret), (WANTED["mp3"], False, "é"))
        self.verdict = succeed(Verdict(ReturnCode.FLOOD, "too soon"))
        self.assertEqual(self.ask("POST", "/calls", WANTED)[1], {"code": 6, "words": "too soon", "call_id": None})

    def test_what_is_no_call(self) -> None:
        """What a query could not ask for has code 4, as there; what is no request at all is an error."""
        for changes in ({"phone_number": "12"}, {"mp3": "ftp://x/"}, {"mp3": 5}, {"mp3": ""}, {"caller_id": "x"}):
            status, answer = self.ask("POST", "/calls", {**WANTED, **changes})
            self.assertEqual((status, answer["code"]), (200, 4))
        for changes in ({"key_id": ""}, {"key_id": 5}, {"call_id": "f"}, {"call_id": 5}):
            self.refused(400, "POST", "/calls", {**WANTED, **changes})
        self.assertEqual(self.admitted, [])

    def test_uploaded(self) -> None:
        """An MP3 that was sent may be named by a call."""
        self.assertEqual(self.ask("POST", "/audio", b"mp3")[1], {"mp3": "upload:aa", "duration": 2.5})
        self.ask("POST", "/calls", {**WANTED, "mp3": "upload:aa"})
        self.assertEqual(self.admitted[0][1].mp3, "upload:aa")
        self.taken = unusable("it is none")
        self.assertIn("it is none", self.refused(422, "POST", "/audio", b"mp3"))
        self.taken = LibraryUnavailable("the disk is full")
        self.refused(503, "POST", "/audio", b"mp3")

    def test_call_by_its_id(self) -> None:
        """A call whose id is known is not made again, and one that is being decided on is waited for."""
        wanted = {**WANTED, "call_id": CALL_ID}
        waiting: Deferred[Verdict] = Deferred()
        self.verdict = waiting
        first = self.connect()
        body = json.dumps(wanted).encode()
        first.send(b"POST /calls HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        self.assertIn("ask again", self.refused(409, "POST", "/calls", wanted))
        waiting.callback(Verdict(ReturnCode.ACCEPTED, "accepted", CALL_ID))
        self.assertEqual(Response(first.taken()).status, 200)
        self.keep(None)
        status, answer = self.ask("POST", "/calls", wanted)
        self.assertEqual((status, answer["code"], answer["call_id"]), (200, 0, CALL_ID))
        self.assertEqual(len(self.admitted), 1)

    def test_daemon_takes_none(self) -> None:
        """While the daemon takes no work, the answer is 503."""
        self.verdict = fail(Unavailable("draining", 5))
        self.assertEqual(self.refused(503, "POST", "/calls", WANTED), "draining")

    def test_pcap(self) -> None:
        """A call's messages come as a file; without messages there is none."""
        data = self.connect().send(f"GET /calls/{CALL_ID}/pcap HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        response = Response(data)
        self.assertEqual(response.headers["content-type"], "application/vnd.tcpdump.pcap")
        self.assertTrue(response.body.startswith(b"\xd4\xc3\xb2\xa1"))
        self.refused(404, "GET", f"/calls/{'f' * 32}/pcap")


class TrunkTests(ControlCase):
    def answer_of(self, *reports: int | None, seconds: float = 0.25) -> Any:
        connection = self.connect()
        data = connection.send(b"POST /trunks/one/test HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        self.clock.advance(seconds)
        for status in reports:
            self.reports[-1](status)
        return json.loads(Response(data + connection.taken()).body)

    def test_test(self) -> None:
        """An OPTIONS goes out; its status and how long it took are told, or that nothing came."""
        expected = {"name": "one", "registration": "registered for 60 s", "address": "192.0.2.9:5060"}
        self.assertEqual(self.answer_of(200), {**expected, "status": 200, "seconds": 0.25, "words": "it answers"})
        self.assertEqual(self.answer_of(503)["words"], "it takes no calls now")
        self.assertEqual(
            self.answer_of(seconds=TEST_SECONDS), {**expected, "status": None, "seconds": 5.0, "words": ANY}
        )
        self.lost = "x.example has no address"
        self.assertEqual(self.answer_of()["words"], "x.example has no address")
        self.refused(404, "POST", "/trunks/two/test")
        self.assertEqual(len(self.ask("GET", "/trunks")[1]["trunks"]), 1)


class CallbackTests(ControlCase):
    def test_again(self) -> None:
        """The callback of a call that has ended begins anew, and is made at once."""
        self.keep(BUSY)
        self.assertEqual(self.ask("POST", f"/callbacks/{CALL_ID}/again"), (200, {"call_id": CALL_ID, "due_at": NOW}))
        self.assertEqual([(each.call.id, each.outcome, each.tries) for each in self.delivered], [(CALL_ID, BUSY, 0)])

    def test_not_again(self) -> None:
        """A call that is not there, that goes on, that wanted none, or whose callback another node makes has none."""
        self.refused(404, "POST", f"/callbacks/{CALL_ID}/again")
        self.keep(None)
        self.refused(409, "POST", f"/callbacks/{CALL_ID}/again")
        self.keep(BUSY, None)
        self.refused(409, "POST", f"/callbacks/{CALL_ID}/again")
        self.keep(BUSY)
        self.again = False
        self.assertIn("another node", self.refused(409, "POST", f"/callbacks/{CALL_ID}/again"))
        self.assertEqual(self.delivered, [])

    def test_list(self) -> None:
        """So many as are asked for are told."""
        self.assertEqual(self.ask("GET", "/callbacks")[1], {"callbacks": [{"call_id": CALL_ID}], "now": NOW})
        for most in ("0", "x", "99999"):
            self.refused(400, "GET", f"/callbacks?most={most}")

    def test_secret(self) -> None:
        """A key's webhook secret can be told again, the api key can't."""
        key = self.new_key()
        answer = self.ask("GET", f"/keys/{key['id']}/webhook-secret")[1]
        self.assertEqual(answer, {"webhook_secret": key["webhook_secret"]})
        self.refused(404, "GET", "/keys/key_9/webhook-secret")

    def test_reload(self) -> None:
        """What is wrong with new settings is told to who had them read."""
        self.assertEqual(self.ask("POST", "/reload")[1], {"errors": ["trunks: is wrong"]})
        self.assertEqual(self.ask("GET", "/facts")[1], {"simulator": False})
