"""What a customer's program meets."""

# mypy: allow-untyped-calls
from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from calledind.admission import Unavailable, Verdict
from calledind.model import ReturnCode
from tests.api.wire import ACCEPTED, Arguments, Response, Served

QUERY = b"api_key=ck_1&phone_number=2125550100&country_code=1&mp3=http%3A%2F%2Fa.example%2Fx.mp3"


class AnswerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.served = Served()

    def test_accepted(self) -> None:
        """An accepted call is answered 200 with the digit alone, its id and the reason in headers."""
        response = self.served.get(b"/api/playback/?" + QUERY)
        self.assertEqual((response.status, response.body), (200, b"0"))
        self.assertEqual(response.headers["content-type"], "text/plain")
        self.assertEqual(response.headers["cache-control"], "no-store")
        self.assertEqual(response.headers["calledin-call-id"], "0123abc")
        self.assertEqual(response.headers["calledin-reason"], "accepted")
        self.assertNotIn("calledin-trunk", response.headers)
        self.assertNotIn("server", response.headers)

    def test_key_in_a_header(self) -> None:
        """The key may be in an Authorization header, as Bearer; one in the query goes before it."""
        rest = QUERY.partition(b"&")[2]
        for query, fields, key in (
            (rest, [b"Authorization: Bearer ck_2"], [b"ck_2"]),
            (rest, [b"authorization: bearer  ck_2 "], [b"ck_2"]),
            (QUERY, [b"Authorization: Bearer ck_2"], [b"ck_1"]),
            (rest, [b"Authorization: Basic ck_2"], None),
            (rest, [b"Authorization: Bearer ck_2", b"Authorization: Bearer ck_2"], None),
        ):
            self.served.get(b"/api/playback/?" + query, *fields)
            self.assertEqual(self.served.asked[-1].get(b"api_key"), key, fields)

    def test_every_code(self) -> None:
        """Every code is answered with status 200 and its digits."""
        for code in ReturnCode:
            verdict = Verdict(code, code.name)
            self.served.admit = lambda _, verdict=verdict: succeed(verdict)  # type: ignore[misc]
            response = self.served.get(b"/api/playback/?" + QUERY)
            self.assertEqual((response.status, response.body), (200, str(int(code)).encode()))
            self.assertNotIn("calledin-call-id", response.headers)

    def test_with_and_without_the_last_slash(self) -> None:
        """The path is found with and without its last slash, percent-encoded too, and nothing is below it."""
        for path in (b"/api/playback", b"/api/playback/", b"/api/pl%61yback/", b"http://calls.example/api/playback/"):
            self.assertEqual(self.served.get(path + b"?" + QUERY).body, b"0", path)
        for path in (
            b"/api/playback/x",
            b"/api/playback//",
            b"/api/playbackx",
            b"/api//playback",
            b"/api",
            b"/",
            b"//",
        ):
            self.assertEqual(self.served.get(path + b"?" + QUERY).status, 404, path)

    def test_arguments(self) -> None:
        """Names and values are decoded as a form's: + and %20 are spaces, only & separates, doubles are kept."""
        self.served.get(b"/api/playback?a+b=c%20d+e&%61pi_key=1;2&x=1&x=2&empty=&bare&&bad=%zz%4&nul=%00&raw=%ff")
        self.assertEqual(
            self.served.asked,
            [
                {
                    b"a b": [b"c d e"],
                    b"api_key": [b"1;2"],
                    b"x": [b"1", b"2"],
                    b"empty": [b""],
                    b"bare": [b""],
                    b"bad": [b"%zz%4"],
                    b"nul": [b"\0"],
                    b"raw": [b"\xff"],
                }
            ],
        )

    def test_no_query(self) -> None:
        """Without a query the verdict is asked all the same, with no arguments."""
        self.served.get(b"/api/playback/")
        self.served.get(b"/api/playback/?")
        self.assertEqual(self.served.asked, [{}, {}])

    def test_very_many_parameters(self) -> None:
        """As many parameters as the head's bound allows are taken apart and handed on."""
        self.served.get(b"/api/playback/?" + b"&".join(b"%d=" % number for number in range(1200)))
        self.assertEqual(len(self.served.asked[0]), 1200)

    def test_simulator_is_named(self) -> None:
        """With the simulator each answer says that no real phone rang."""
        response = Served(trunk="simulator").get(b"/api/playback/?" + QUERY)
        self.assertEqual(response.headers["calledin-trunk"], "simulator")

    def test_words_cannot_split_the_response(self) -> None:
        """Whatever the reason's words are, they stay within their header."""
        verdict = Verdict(ReturnCode.MP3_UNUSABLE, "host ‘é’ said\r\nSet-Cookie: a=b")
        self.served.admit = lambda _: succeed(verdict)
        response = self.served.get(b"/api/playback/?" + QUERY)
        self.assertEqual(response.body, b"9")
        self.assertNotIn("set-cookie", response.headers)

    def test_head_makes_no_call(self) -> None:
        """HEAD is refused, so that a program that looks whether a link is alive rings nobody's phone."""
        data = self.served.connect().send(b"HEAD /api/playback/?" + QUERY + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertTrue(data.startswith(b"HTTP/1.1 405 "), data)
        self.assertTrue(data.endswith(b"\r\n\r\n"), data)
        self.assertEqual(self.served.asked, [])


class UnavailableTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.served = Served(max_in_flight=2)

    def test_unavailable(self) -> None:
        """A daemon that can't take work answers 503 with Retry-After and words that are no code."""
        self.served.admit = lambda _: fail(Unavailable("going down", 7))
        response = self.served.get(b"/api/playback/?" + QUERY)
        self.assertEqual((response.status, response.headers["retry-after"]), (503, "7"))
        self.assertEqual(response.body, b"unavailable: going down\n")

    def test_unexpected_failure(self) -> None:
        """A fault of ours is logged with an id that the client is told, and nothing else."""
        self.served.admit = lambda _: fail(RuntimeError("the api_key is ck_1"))
        response = self.served.get(b"/api/playback/?" + QUERY)
        self.assertEqual(response.status, 503)
        self.assertRegex(response.body, rb"^unavailable: incident [0-9a-f]{12}\n$")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_raised_at_once(self) -> None:
        """An exception raised in place of a Deferred is an unexpected failure like any other."""

        def broken(_: Arguments) -> Deferred[Verdict]:
            raise KeyError("x")

        self.served.admit = broken
        self.assertEqual(self.served.get(b"/api/playback/?" + QUERY).status, 503)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_too_many_in_flight(self) -> None:
        """More requests at once than allowed are refused at once, and taken again when some are answered."""
        waiting: list[Deferred[Verdict]] = []

        def wait(_: Arguments) -> Deferred[Verdict]:
            waiting.append(Deferred())
            return waiting[-1]

        self.served.admit = wait
        request = b"GET /api/playback?" + QUERY + b" HTTP/1.1\r\nHost: a\r\n\r\n"
        clients = [self.served.connect() for _ in range(3)]
        self.assertEqual([client.send(request) for client in clients[:2]], [b"", b""])
        refused = Response(clients[2].send(request))
        self.assertEqual((refused.status, refused.headers["retry-after"]), (503, "1"))
        waiting[0].callback(ACCEPTED)
        waiting[1].errback(Unavailable("no", 1))
        self.assertEqual(Response(clients[0].taken()).body, b"0")
        self.assertEqual(clients[2].send(request), b"")
        self.assertEqual(len(waiting), 3)


class EarlyLeaverTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.served = Served(max_in_flight=1)
        self.cancelled = False
        self.verdict = Deferred[Verdict](self._cancel)
        self.served.admit = lambda _: self.verdict
        client = self.served.connect()
        client.send(b"GET /api/playback?" + QUERY + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        client.leave()

    def _cancel(self, _: Deferred[Verdict]) -> None:
        self.cancelled = True

    def test_accepted(self) -> None:
        """A client that leaves before its answer cancels nothing, and nothing is logged as an error."""
        self.verdict.callback(ACCEPTED)
        self.assertFalse(self.cancelled)
        self.served.admit = lambda _: fail(Unavailable("x", 1))
        self.assertEqual(self.served.get(b"/api/playback").body, b"unavailable: x\n")

    def test_failure_is_still_logged(self) -> None:
        """A fault of ours is logged though nobody is left to be told."""
        self.verdict.errback(RuntimeError("broken"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class HealthTests(SynchronousTestCase):
    def test_alive(self) -> None:
        """GET and HEAD of /healthz answer 200."""
        served = Served()
        response = served.get(b"/healthz")
        self.assertEqual((response.status, response.body), (200, b"ok\n"))
        data = served.connect().send(b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertTrue(data.startswith(b"HTTP/1.1 200 OK\r\n") and data.endswith(b"\r\n\r\n"), data)

    def test_simulator(self) -> None:
        """With the simulator /healthz says plainly that nobody's phone rings."""
        self.assertIn(b"simulator", Served(trunk="simulator").get(b"/healthz").body)

    def test_ready(self) -> None:
        """/readyz says 503 and why for as long as something is missing."""
        served = Served()
        self.assertEqual(served.get(b"/readyz").status, 200)
        served.obstacle = "the store is gone"
        response = served.get(b"/readyz")
        self.assertEqual((response.status, response.body), (503, b"not ready: the store is gone\n"))
