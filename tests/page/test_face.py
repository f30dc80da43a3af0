"""Who may use the page, and what it answers with."""

# mypy: allow-untyped-calls
from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from calledind.model import Call, CallRecord, ReturnCode, State
from calledind.page.access import WRONG_SECONDS, WRONG_TOKENS
from calledind.page.face import SMALL_BODY
from calledind.page.files import read_files
from tests.page.world import BEARER, HOST, ORIGIN, TOKEN, World

DATA = ("/admin/status", "/admin/keys", "/facts", "/live", "/sound/1")
CHANGES = ("/admin/keys", "/try", "/phone/call")


class PageCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.ask = self.world.ask


class TokenTests(PageCase):
    def test_without(self) -> None:
        """Without the token there is no data and no change; the page itself has no secrets."""
        for path in (*DATA, "/phone/line"):
            answer = self.ask(path, ORIGIN)
            self.assertEqual(answer.status, 401, path)
            self.assertIn("token", json.loads(answer.body)["error"])
        for path in CHANGES:
            self.assertEqual(self.ask(path, ORIGIN, method="POST").status, 401, path)
        for path in ("/", "/calls", "/calls/1", "/keys", "/dnc", "/trunks", "/try", "/phone"):
            self.assertEqual(self.ask(path).status, 200, path)

    def test_bearer(self) -> None:
        """A program sends it as Authorization: Bearer, and then needs no Origin."""
        self.assertEqual(json.loads(self.ask("/admin/status", BEARER).body)["live"], 3)
        self.assertEqual(self.ask("/admin/keys", BEARER, method="POST", body=b'{"name": "Ann"}').status, 200)
        self.assertEqual(self.ask("/admin/status", {"Authorization": "Bearer " + TOKEN[:-1]}).status, 401)

    def test_cookie(self) -> None:
        """The login form gives a cookie that scripts can't read, other sites don't send, and that is not the token."""
        answer = self.ask("/login", ORIGIN, method="POST", body=f"token={TOKEN}".encode())
        cookie = answer.headers["set-cookie"]
        self.assertIn("HttpOnly; SameSite=Strict", cookie)
        self.assertNotIn(TOKEN, cookie)
        self.assertNotIn("Secure", cookie)
        header = {"Cookie": "other=1; " + cookie.partition(";")[0]}
        self.assertEqual(self.ask("/admin/status", header).status, 200)
        self.assertEqual(
            self.ask("/admin/keys", {**header, **ORIGIN}, method="POST", body=b'{"name": "Ann"}').status, 200
        )
        self.assertEqual(self.ask("/admin/status", {"Cookie": "calledin_8081=" + "0" * 64}).status, 401)
        self.assertIn("Max-Age=0", self.ask("/logout", ORIGIN, method="POST").headers["set-cookie"])

    def test_behind_a_proxy(self) -> None:
        """Behind a proxy that speaks TLS the page goes by its name, and the cookie is for TLS alone."""
        headers = {"Origin": "https://ops.example.com"}
        answer = self.ask("/login", headers, method="POST", body=f"token={TOKEN}".encode(), host="ops.example.com")
        self.assertEqual(answer.status, 200)
        self.assertIn("; Secure", answer.headers["set-cookie"])

    def test_guessing(self) -> None:
        """Who guesses is slowed down, the right token included; other networks and cookies go on."""
        cookie = self.world.log_in()
        guess = {"Authorization": "Bearer nonsense"}
        for _ in range(WRONG_TOKENS):
            self.assertEqual(self.ask("/facts", guess).status, 401)
        answer = self.ask("/facts", BEARER)
        self.assertEqual((answer.status, answer.headers["retry-after"]), (429, f"{WRONG_SECONDS + 1:.0f}"))
        self.assertEqual(self.ask("/login", ORIGIN, method="POST", body=f"token={TOKEN}".encode()).status, 429)
        self.assertEqual(self.ask("/facts", BEARER, peer="192.0.2.7").status, 200)
        self.assertEqual(self.ask("/facts", cookie).status, 200)
        self.world.clock.advance(WRONG_SECONDS + 1)
        self.assertEqual(self.ask("/facts", BEARER).status, 200)

    def test_large_bodies(self) -> None:
        """Of who has no token no large body is read; of who has it, one up to a bound."""
        head = f"POST /admin/dnc/import HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: "
        self.assertIn(b" 413 ", self.world.connect().send(f"{head}{SMALL_BODY + 1}\r\n\r\n".encode()))
        bearer = f"Authorization: Bearer {TOKEN}\r\n\r\n"
        self.assertEqual(self.world.connect().send(f"{head}{SMALL_BODY + 1}\r\n{bearer}".encode()), b"")
        self.assertIn(b" 413 ", self.world.connect().send(f"{head}{10**9}\r\n{bearer}".encode()))


class OtherSitesTests(PageCase):
    def test_rebinding(self) -> None:
        """A name that is not ours leads nowhere, whatever the token: a stranger's site may have it resolve to us."""
        for host in (
            "evil.example",
            "evil.example:8081",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "[::2]:8081",
            "",
        ):
            for path in ("/", "/static/app.js", "/admin/status", "/phone/line"):
                self.assertEqual(self.ask(path, BEARER, host=host).status, 421, (host, path))

    def test_our_names(self) -> None:
        """It goes by any of loopback's names, and by those of the settings."""
        for host in (
            "localhost:8081",
            "127.0.0.1",
            "127.3.2.1:1",
            "[::1]:8081",
            "OPS.example.com",
            "ops.example.com:443",
        ):
            self.assertEqual(self.ask("/facts", BEARER, host=host).status, 200, host)

    def test_cross_site(self) -> None:
        """Other sites' pages, those of another port too, get no data and change nothing with a user's cookie."""
        cookie = self.world.log_in()
        foreign = (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:3000"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        )
        for headers in foreign:
            for path in (*DATA, "/phone/line"):
                self.assertEqual(self.ask(path, {**cookie, **headers}).status, 403, (headers, path))
            for path in (*CHANGES, "/login", "/logout"):
                self.assertEqual(self.ask(path, {**cookie, **headers}, method="POST").status, 403, (headers, path))
        self.assertEqual(self.ask("/admin/status", {**BEARER, "Origin": "https://evil.example"}).status, 403)

    def test_change_without_origin(self) -> None:
        """A change by cookie, and a WebSocket, must say that they come from a page of ours."""
        cookie = self.world.log_in()
        self.assertEqual(self.ask("/admin/keys", cookie, method="POST").status, 403)
        self.assertEqual(self.ask("/phone/line", cookie).status, 403)
        same = {**cookie, "Sec-Fetch-Site": "same-origin"}
        self.assertEqual(self.ask("/admin/keys", same, method="POST", body=b'{"name": "Ann"}').status, 200)

    def test_headers(self) -> None:
        """Nothing but our own files is run or shown, in nobody's frame, and data stays out of the browser's cache."""
        for path, headers in (("/", {}), ("/nothing", {}), ("/admin/status", BEARER), ("/admin/status", {})):
            answer = self.ask(path, headers).headers
            policy = answer["content-security-policy"]
            self.assertIn("default-src 'none'; script-src 'self'; style-src 'self'", policy)
            self.assertIn("frame-ancestors 'none'", policy)
            self.assertNotIn("unsafe", policy)
            self.assertEqual(answer["x-content-type-options"], "nosniff")
            self.assertEqual(answer["cache-control"], "no-cache" if path == "/" else "no-store")


class FilesTests(PageCase):
    def test_file(self) -> None:
        """A file comes with a mark by which the browser asks whether it is still the same."""
        answer = self.ask("/static/app.js")
        self.assertEqual((answer.status, answer.headers["content-type"]), (200, "text/javascript; charset=utf-8"))
        head = f"GET /static/app.js HTTP/1.1\r\nHost: {HOST}\r\nIf-None-Match: {answer.headers['etag']}\r\n\r\n"
        again = self.world.connect().send(head.encode())
        self.assertTrue(again.startswith(b"HTTP/1.1 304 "), again)
        self.assertTrue(again.endswith(b"\r\n\r\n"), again)

    def test_nothing_else(self) -> None:
        """Only what is in the package's folder is there, whatever the path looks like."""
        for path in (
            "/static/",
            "/static/../face.py",
            "/static/%2e%2e/face.py",
            "/static/nothing.js",
            "/static/vendor",
        ):
            self.assertEqual(self.ask(path).status, 404, path)

    def test_nothing_from_outside(self) -> None:
        """No file of ours names another host, runs a script within the HTML, or has a style there."""
        for name, file in read_files().items():
            if name.startswith("vendor/") or name.endswith(".svg"):
                continue
            text = file.content.decode()
            for outside in ("https://", "http://", "//cdn"):
                there = text.replace("https://example.com", "").replace("http://127.0.0.1", "")
                self.assertNotIn(outside, there, name)
            self.assertNotIn("innerHTML", text, name)
            self.assertNotIn("style=", text.replace("style.css", ""), name)


class TrialTests(PageCase):
    def test_call(self) -> None:
        """An MP3 that is dropped on the phone makes it ring, and its callback is shown to all browsers."""
        answer = self.ask("/phone/call", {**BEARER}, method="POST", body=b"an MP3")
        self.assertEqual(json.loads(answer.body)["code"], 0)
        (asked,) = self.world.admitted
        self.assertEqual(asked["phone_number"], "2125550199")
        mp3 = self.ask(asked["mp3"].removeprefix(f"http://{HOST}"))
        self.assertEqual((mp3.body, mp3.headers["cache-control"]), (b"an MP3", "max-age=86400"))
        told = asked["callback_url"].removeprefix(f"http://{HOST}") + "?answered=1&reason="
        self.assertEqual(self.ask(told, {"webhook-id": "0" * 32}).status, 200)
        self.assertEqual(self.world.told[0]["query"], {"answered": "1", "reason": ""})
        self.assertIs(self.world.told[0]["signed"], False)
        self.assertEqual(self.ask("/phone/told/" + "0" * 32).status, 404)
        self.assertEqual(self.ask("/phone/mp3/" + "0" * 32).status, 404)

    def test_next_number(self) -> None:
        """Where a number was called less than a minute ago, the next of the telephone's is; the key is made once."""
        self.world.codes = [ReturnCode.FLOOD, ReturnCode.FLOOD, ReturnCode.ACCEPTED]
        answer = json.loads(self.ask("/phone/call", BEARER, method="POST").body)
        self.assertEqual((answer["code"], answer["number"]), (0, "2125550197"))
        self.assertEqual(len({asked["api_key"] for asked in self.world.admitted}), 1)
        self.assertEqual(len(self.world.ledger.by_digest), 1)

    def test_not_here(self) -> None:
        """Where the daemon may not ask this machine, or no simulated telephone is, the phone makes no calls."""
        self.world.trial.url = ""
        self.assertEqual(self.ask("/phone/call", BEARER, method="POST").status, 409)
        world = World(simulator=False)
        self.assertEqual(world.ask("/phone/call", BEARER, method="POST").status, 404)
        self.assertEqual(world.ask("/phone/line", BEARER).status, 404)

    def test_methods(self) -> None:
        """What can't be done with something is said, and is no fault of ours."""
        for path, method in (("/static/app.js", "POST"), ("/facts", "POST"), ("/login", "GET"), ("/calls", "DELETE")):
            self.assertEqual(
                self.ask(path, {**BEARER, **ORIGIN}, method=method).status, 405 if path != "/calls" else 404
            )

    def test_try(self) -> None:
        """The form's request is passed on as it is, and its code told."""
        answer = self.ask("/try?api_key=ck_1&phone_number=2125550100", BEARER, method="POST")
        self.assertEqual(json.loads(answer.body), {"code": 0, "words": "ACCEPTED", "call_id": "0" * 32})
        self.assertEqual(self.world.admitted, [{"api_key": "ck_1", "phone_number": "2125550100"}])


class LookupTests(PageCase):
    def test_listed(self) -> None:
        """A number is looked up in the DoNotCall list, whatever else a call of it would be refused for."""
        self.assertEqual(self.ask("/listed?number=%2B12125550100", BEARER).status, 409)
        self.ask("/admin/keys", BEARER, method="POST", body=b'{"name": "Ann"}')
        self.ask("/admin/dnc/add", BEARER, method="POST", body=b'{"numbers": ["+12125550100"]}')
        for number, listed in (("12125550100", True), ("12125550101", False)):
            self.assertEqual(json.loads(self.ask(f"/listed?number=%2B{number}", BEARER).body), {"listed": listed})
        self.assertEqual(self.ask("/listed?number=x", BEARER).status, 400)
        self.assertEqual(self.ask("/listed?number=%2B12125550100").status, 401)


class SoundTests(PageCase):
    def test_sound(self) -> None:
        """What was played is a WAV file of 16-bit samples, while it is kept."""
        call = Call("c1", "key_1", "2125550100", "1", "0", "a" * 64, 1.0, None, "", 0.0)
        self.world.ledger.calls["c1"] = CallRecord(call, State.DELIVERED)
        answer = self.ask("/sound/c1", BEARER)
        self.assertEqual(answer.headers["content-type"], "audio/wav")
        self.assertEqual(answer.body[:4] + answer.body[8:12], b"RIFFWAVE")
        self.assertEqual(answer.body[44:], b"\x00\x00\x7c\x7d\x84\x82")
        self.world.encodings.clear()
        self.assertEqual(self.ask("/sound/c1", BEARER).status, 404)
        self.assertEqual(self.ask("/sound/c2", BEARER).status, 404)
