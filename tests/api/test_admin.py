"""The operator's requests."""

# mypy: allow-untyped-calls
from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from calledind.api.admin import SLICE, Admin, SocketError, admin_site, listen
from calledind.keyring import Keyring
from calledind.model import Attempt, Call, CallRecord, Cause, EndedBy, Ending, Outcome, Reason, State
from tests.api.ledger import Ledger
from tests.api.wire import Connection, Response

KEYRING = Keyring(b"p" * 32)
NOW = 1_700_000_000.0


class AdminCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.ledger = Ledger()
        admin = Admin(
            reactor=self.clock,
            store=self.ledger.as_store,
            keyring=KEYRING,
            now=lambda: NOW,
            status=lambda: {"running": 3},
            extra={b"/recordings": lambda: [{"file": "a.wav"}]},
            trace={"c1": ["INVITE"]}.get,
            media={"c1": {"mos": 4.3}}.get,
            drain=lambda wanted: {"draining": wanted, "live": 2},
        )
        self.site = admin_site(admin, reactor=self.clock)

    def connect(self) -> Connection:
        return Connection(self.site, UNIXAddress(None))

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return status and JSON of the answer. `body`: octets, or anything for JSON."""
        if not isinstance(body, bytes):
            body = b"" if body is None else json.dumps(body).encode()
        connection = self.connect()
        head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        data = connection.send(head.encode() + body)
        while not data:
            self.clock.advance(0)
            data = connection.taken()
        response = Response(data)
        self.assertEqual(response.headers["content-type"], "application/json")
        return response.status, json.loads(response.body)

    def refused(self, status: int, method: str, path: str, body: object = None) -> str:
        """The answer must be that status with words alone; returns the words."""
        got, answer = self.ask(method, path, body)
        self.assertEqual((got, list(answer)), (status, ["error"]), answer)
        words: str = answer["error"]
        return words

    def new_key(self, amount: int = 0) -> Any:
        status, key = self.ask("POST", "/keys", {"name": "Ann", "credits": amount})
        self.assertEqual(status, 200)
        return key


class DrainTests(AdminCase):
    def test_drain(self) -> None:
        """A node is drained and resumed, and says what still runs."""
        for wanted in (True, False):
            self.assertEqual(self.ask("POST", "/drain", {"drain": wanted}), (200, {"draining": wanted, "live": 2}))
        self.assertIn("true or false", self.refused(400, "POST", "/drain", {"drain": "yes"}))
        self.refused(405, "GET", "/drain")


class KeyTests(AdminCase):
    def test_new_key(self) -> None:
        """A new key is told once, kept by its keyed hash, and found in the list without it."""
        key = self.new_key(7)
        self.assertEqual(list(self.ledger.by_digest), [KEYRING.digest(key["api_key"])])
        self.assertTrue(key["webhook_secret"].startswith("whsec_"))
        _, listed = self.ask("GET", "/keys")
        shown = {
            "id": key["id"],
            "name": "Ann",
            "credits": 7,
            "held": 0,
            "charged": 0,
            "disabled": False,
            "created_at": NOW,
            "caller_ids": [],
            "attestation": "",
        }
        self.assertEqual(listed, {"keys": [shown]})
        self.assertEqual(self.ask("GET", f"/keys/{key['id']}"), (200, shown))

    def test_wrong_keys(self) -> None:
        """A key needs a printable name and a sensible number of credits."""
        wrong: tuple[object, ...] = (
            {},
            {"name": ""},
            {"name": " "},
            {"name": "a\nb"},
            {"name": "a" * 101},
            {"name": 7},
            {"name": "a", "credits": -1},
            {"name": "a", "credits": 1.5},
            {"name": "a", "credits": True},
            {"name": "a", "credits": "1"},
            {"name": "a", "credits": 10**30},
            [],
            b"{",
            b"",
            b"[" * 100_000,
            b"\xff",
        )
        for wanted in wrong:
            self.refused(400, "POST", "/keys", wanted)
        self.refused(413, "POST", "/keys", b" " * 2_000_000)
        self.assertEqual(self.ledger.by_digest, {})

    def test_disable_and_enable(self) -> None:
        """A key is disabled and enabled by its id; an unknown one is 404."""
        key_id = self.new_key()["id"]
        self.assertEqual(self.ask("POST", f"/keys/{key_id}/disable")[1]["disabled"], True)
        self.assertEqual(self.ask("POST", f"/keys/{key_id}/enable")[1]["disabled"], False)
        for action in ("/enable", "/disable"):
            self.refused(404, "POST", "/keys/nobody" + action)
        self.refused(404, "GET", "/keys/%ff")

    def test_caller_ids(self) -> None:
        """A key is given the list of caller ids that it may use, each once; an empty list lifts the limit."""
        path = f"/keys/{self.new_key()['id']}/caller-ids"
        wanted = {"caller_ids": ["+12125550100", "2125550101", "anonymous", "+12125550100"]}
        self.assertEqual(self.ask("POST", path, wanted)[1]["caller_ids"], wanted["caller_ids"][:3])
        self.assertEqual(self.ask("POST", path, {"caller_ids": []})[1]["caller_ids"], [])
        for wrong in ("+1", None, [7], [""], ["+"], ["1-2"], ["1\r\nX: y"], ["Anonymous"], ["1" * 21], ["1"] * 1001):
            self.refused(400, "POST", path, {"caller_ids": wrong})
        self.refused(404, "POST", "/keys/nobody/caller-ids", wanted)

    def test_attestation(self) -> None:
        """What STIR/SHAKEN attests of a key's calls is A, B, C, or nothing of its own."""
        path = f"/keys/{self.new_key()['id']}/attestation"
        for attestation in ("A", "B", "C", ""):
            self.assertEqual(self.ask("POST", path, {"attestation": attestation})[1]["attestation"], attestation)
        for wrong in ("D", "a", None, 1, ["A"]):
            self.refused(400, "POST", path, {"attestation": wrong})
        self.refused(404, "POST", "/keys/nobody/attestation", {"attestation": "A"})

    def test_credits(self) -> None:
        """Credits are added and taken, but never more taken than are left."""
        key_id = self.new_key(5)["id"]
        path = f"/keys/{key_id}/credits"
        self.assertEqual(self.ask("POST", path, {"amount": 3})[1]["credits"], 8)
        self.assertEqual(self.ask("POST", path, {"amount": -8})[1]["credits"], 0)
        self.assertIn("0 credits", self.refused(409, "POST", path, {"amount": -1}))
        self.refused(400, "POST", path, {})
        self.refused(404, "POST", "/keys/nobody/credits", {"amount": 1})

    def test_note(self) -> None:
        """Credits may come with a note, of one line that can be printed."""
        path = f"/keys/{self.new_key(5)['id']}/credits"
        self.assertEqual(self.ask("POST", path, {"amount": 3, "note": "invoice é 7"})[1]["credits"], 8)
        for wrong in (7, None, "a\nb", "\0", "\ud800", "a" * 201):
            self.assertIn("printable", self.refused(400, "POST", path, {"amount": 1, "note": wrong}))
        self.assertEqual([entry.reference for entry in self.ledger.entries], ["invoice é 7"])

    def test_ledger(self) -> None:
        """The changes of a key's credits are told by page, the newest first."""
        key_id = self.new_key(5)["id"]
        path = f"/keys/{key_id}/ledger"
        self.assertEqual(self.ask("GET", path), (200, {"entries": []}))
        for amount, note in ((3, "one"), (-2, ""), (4, "three")):
            self.ask("POST", f"/keys/{key_id}/credits", {"amount": amount, "note": note})
        newest = {
            "key_id": key_id,
            "amount": 4,
            "reason": "added",
            "reference": "three",
            "at": NOW,
            "balance": 10,
            "place": "place &2",
        }
        status, page = self.ask("GET", f"{path}?most=2")
        self.assertEqual((status, page["entries"][0]), (200, newest))
        self.assertEqual([entry["reason"] for entry in page["entries"]], ["added", "taken"])
        _, rest = self.ask("GET", f"{path}?before=place%20%261")
        self.assertEqual([entry["reference"] for entry in rest["entries"]], ["one"])

    def test_wrong_ledger(self) -> None:
        """A page has a size, begins at a place, and is of a key."""
        path = f"/keys/{self.new_key(5)['id']}/ledger"
        for most in ("0", "-1", "1001", "x", "", "9" * 5000, "%D9%A3"):
            self.assertIn("most must be", self.refused(400, "GET", f"{path}?most={most}"))
        self.assertIn("no place", self.refused(400, "GET", f"{path}?before=%ff"))
        self.refused(404, "GET", "/keys/nobody/ledger")
        self.refused(405, "POST", path, {})


class DoNotCallTests(AdminCase):
    def test_add_and_remove(self) -> None:
        """Numbers are added and removed all together or, when one is wrong, not at all."""
        self.assertEqual(
            self.ask("POST", "/dnc/add", {"numbers": ["+12125550100", "1 2125550101"]}), (200, {"added": 2})
        )
        self.assertEqual(self.ask("POST", "/dnc/add", {"numbers": ["+12125550100"]}), (200, {"added": 0}))
        self.assertEqual(self.ask("GET", "/dnc"), (200, {"count": 2}))
        self.refused(400, "POST", "/dnc/remove", {"numbers": ["+12125550100", "nonsense"]})
        wrong: tuple[object, ...] = ({}, {"numbers": []}, {"numbers": [1]}, {"numbers": "+12125550100"})
        for wanted in wrong:
            self.refused(400, "POST", "/dnc/add", wanted)
        self.assertEqual(self.ask("POST", "/dnc/remove", {"numbers": ["1,2125550100"]}), (200, {"removed": 1}))
        self.assertEqual(self.ledger.numbers, {("1", "2125550101")})

    def test_import(self) -> None:
        """A long file is imported in slices; wrong lines are told by number and hinder no other."""
        lines = [b"1,212%07d" % number for number in range(4500)]
        lines[1500] = b"wrong"
        self.ledger.numbers.add(("1", "2120000000"))
        status, answer = self.ask("POST", "/dnc/import", b"\n".join(lines))
        self.assertEqual(status, 200)
        [wrong] = answer.pop("wrong_lines")
        self.assertEqual(wrong["line"], 1501)
        self.assertEqual(answer, {"lines": 4500, "added": 4498, "already_there": 1, "rejected": 1})
        self.assertEqual(len(self.ledger.numbers), 4499)

    def test_import_with_country_code(self) -> None:
        """The file's country code may stand in the query."""
        self.ask("POST", "/dnc/import?country_code=44", b"2079460000\n207,9460001\n")
        self.assertEqual(self.ledger.numbers, {("44", "2079460000"), ("44", "2079460001")})

    def test_import_is_given_up(self) -> None:
        """When the client leaves in the middle of an import, the rest is not read and nothing is logged as an error."""
        connection = self.connect()
        body = b"".join(b"1,212%07d\n" % number for number in range(5000))
        connection.send(b"POST /dnc/import HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        connection.leave()
        self.clock.advance(0)
        self.assertEqual(len(self.ledger.numbers), SLICE)

    def test_full_disk(self) -> None:
        """A store that can't take changes is told as 503."""
        self.ledger.full = True
        self.assertIn("no space", self.refused(503, "POST", "/dnc/import", b"1,2125550100"))
        self.assertIn("no space", self.refused(503, "POST", "/keys", {"name": "a"}))

    def exported(self) -> Connection:
        connection = self.connect()
        connection.channel.dataReceived(b"GET /dnc/export HTTP/1.0\r\n\r\n")
        return connection

    def test_export(self) -> None:
        """The whole list comes in order, a piece at a time."""
        self.ledger.numbers = {("1", f"212{number:07d}") for number in range(2500)}
        connection = self.exported()
        self.assertFalse(connection.wire.closed)
        self.pull(connection)
        self.assertTrue(connection.wire.closed)
        self.assertFalse(connection.wire.aborted)
        lines = connection.taken().partition(b"\r\n\r\n")[2].split(b"\n")
        self.assertEqual(lines[:2], [b"country_code,phone_number", b"1,2120000000"])
        self.assertEqual((lines[-2:], len(lines)), ([b"1,2120002499", b""], 2502))

    def test_broken_export(self) -> None:
        """A list that can't be read to its end is cut off, so that half of it does not look like the whole."""
        self.ledger.numbers = {("1", f"212{number:07d}") for number in range(2500)}
        self.ledger.breaks_after = 1500
        connection = self.exported()
        self.pull(connection)
        self.assertTrue(connection.wire.aborted)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def pull(self, connection: Connection) -> None:
        """Let the export go on, as the global cooperator would."""
        while (producer := connection.channel._requestProducer) is not None:
            producer._producer.resumeProducing()


class OtherTests(AdminCase):
    def test_status(self) -> None:
        """Status is the daemon's own figures and the store's."""
        self.new_key(4)
        status, answer = self.ask("GET", "/status")
        self.assertEqual((status, answer["running"], answer["store"]["credits"]), (200, 3, 4))
        self.assertTrue(answer["store"]["healthy"])

    def test_call(self) -> None:
        """A call is shown with its outcome, without the customer's secret."""
        call = Call("c1", "key_1", "2125550100", "1", "0000000000", "aa", 8.0, "http://a/", "HUSH", NOW)
        ending = Ending(Cause.FINAL_RESPONSE, False, EndedBy.CALLEE, NOW + 9, rang=True, sip_status=486, trunk="t")
        outcome = Outcome(False, Reason.BUSY, ending)
        self.ledger.calls["c1"] = CallRecord(call, State.DONE, Attempt(1, "t", "{}"), None, None, outcome)
        self.ledger.calls["c2"] = CallRecord(call, State.ACCEPTED)
        status, shown = self.ask("GET", "/calls/c1")
        self.assertEqual((status, shown["state"], shown["phone_number"]), (200, "done", "2125550100"))
        self.assertEqual((shown["outcome"]["reason"], shown["outcome"]["sip_status"]), (5, 486))
        self.assertNotIn("HUSH", json.dumps(shown))
        self.assertEqual(shown["media"], {"mos": 4.3})
        other = self.ask("GET", "/calls/c2")[1]
        self.assertEqual((other["outcome"], "media" in other), (None, False))
        self.refused(404, "GET", "/calls/c3")

    def test_trace_and_extra(self) -> None:
        """A call's messages are at either address, and the daemon may add pages of its own."""
        for path in ("/trace/c1", "/calls/c1/trace"):
            self.assertEqual(self.ask("GET", path), (200, ["INVITE"]))
        self.refused(404, "GET", "/trace/c2")
        self.assertEqual(self.ask("GET", "/recordings"), (200, [{"file": "a.wav"}]))

    def test_wrong_requests(self) -> None:
        """What is not there is 404, and what is asked in the wrong way 405 with the right one."""
        for path in ("/", "/keys/a/b", "/keys/a/disable/c", "//", "/x", "*"):
            self.assertEqual(self.ask("GET", path)[0] if path != "*" else 404, 404)
        self.assertEqual(self.refused(405, "GET", "/dnc/add"), "this takes POST")
        self.assertEqual(self.ask("GET", "/status/")[0], 200)

    def test_fault(self) -> None:
        """A fault of ours is logged, and the operator told by which id."""
        self.ledger.totals = lambda: succeed(None)  # type: ignore[method-assign, arg-type]
        words = self.refused(500, "GET", "/status")
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.assertRegex(words, r"incident [0-9a-f]{12}$")

    def test_chunked(self) -> None:
        """A body of unknown length is refused."""
        data = self.connect().send(b"POST /keys HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.assertEqual(Response(data).status, 411)

    def test_too_large(self) -> None:
        """So is one that is larger than any import."""
        data = self.connect().send(b"POST /dnc/import HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\n")
        self.assertEqual(Response(data).status, 413)


class SocketTests(TestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp() + ".sock")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path = Path(os.path.relpath(self.path))
        admin = Admin(
            reactor=reactor,
            store=Ledger().as_store,
            keyring=KEYRING,
            now=lambda: NOW,
            status=dict,
        )
        self.site = admin_site(admin, reactor=reactor)

    def listen(self) -> Deferred[None]:
        port = listen(reactor, self.path, self.site)  # type: ignore[arg-type]
        self.addCleanup(port.stopListening)
        return succeed(None)

    def test_mode(self) -> None:
        """Nobody but the owner may open the socket, and the daemon's umask is as before."""
        before = os.umask(0o022)
        try:
            self.listen()
            self.assertEqual(os.umask(0o022), 0o022)
        finally:
            os.umask(before)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_stale(self) -> None:
        """A socket that a killed daemon left is replaced."""
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(os.fspath(self.path))
        self.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(self.path))

    def test_in_use(self) -> None:
        """A socket that another daemon answers at is left alone."""
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(os.fspath(self.path))
            other.listen()
            with self.assertRaises(SocketError) as caught:
                self.listen()
        self.assertIn("another daemon", str(caught.exception))
        self.path.unlink()

    def test_not_a_socket(self) -> None:
        """A file that is no socket is left alone, and a path too long for a socket is told as that."""
        self.path.write_text("mine")
        self.assertRaises(SocketError, self.listen)
        self.assertEqual(self.path.read_text(), "mine")
        self.path = Path("x" * 120)
        with self.assertRaises(SocketError) as caught:
            self.listen()
        self.assertIn("107", str(caught.exception))
