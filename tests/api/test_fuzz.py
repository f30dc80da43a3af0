"""Whatever arrives, the site answers or closes, and nothing is raised."""

# mypy: allow-untyped-calls
from __future__ import annotations

import random
import re

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from calledind.admission import Verdict
from calledind.api.channel import IDLE_SECONDS, LOOK_SECONDS
from calledind.model import BadRequest, PlaybackRequest, ReturnCode
from tests.api.wire import ACCEPTED, Arguments, Connection, Served

REQUESTS = 2000

SEEDS = (
    b"GET /api/playback/?api_key=ck_1&phone_number=2125550100&country_code=1"
    b"&mp3=http%3A%2F%2Fa.example%2Fb.mp3&cache=True&caller_id=0000000000"
    b"&callback_url=https://b.example/c%3Fd&secret=s HTTP/1.1\r\nHost: calls.example\r\nUser-Agent: PHP\r\n"
    b"Accept: */*\r\nConnection: close\r\n\r\n",
    b"GET http://calls.example/api/playback?a=b HTTP/1.0\r\n\r\n",
    b"HEAD /healthz HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
    b"POST /api/playback HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na=b",
    b"GET /readyz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b; c\r\nX: folded\r\n more\r\n\r\n" * 3,
)
TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"?", b"&", b";", b"=", b"+", b"%", b"%zz", b"%00", b"%ff", b"/",
    b"//", b"..", b"*", b"\xff", b"\xe2\x82\xac", b"HTTP/1.1", b"HTTP/9.9", b"Content-Length: -1\r\n",
    b"Content-Length: 99999999999999999999\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"Expect: 100-continue\r\n", b"\r\n\r\n", b"x" * 9000,
    b"a=b&" * 500, b"\r\nA: b" * 150,
)  # fmt: skip
FIELDS = (
    b"", b"Host: a\r\n", b"host:a\r\n", b"Host: a\r\nHost: a\r\n", b"Accept: */*\r\n", b"Host:\r\n",
    b"Host: a\r\nConnection: close\r\n", b"Host: a\r\nCONNECTION:\tx , CLOSE \r\n", b"Host: a\r\nX y: z\r\n",
    b"Host: a\r\nConnection: keep-alive\r\nConnection: close\r\n", b"Host: a\r\n: z\r\n", b"Host: a\r\nx\r\n",
    b"Host: a\r\n y\r\n", b"Host: a\r\nX: \0\r\n", b"Host: a\r\nX: a\rb\r\n", b"Host: a\r\nX: a\nHost: b\r\n",
    b"Host: a\r\nContent-Length: 0\r\n", b"Host: a\r\nContent-Length: 3\r\n", b"Host: a\r\nExpect: 100-continue\r\n",
    b"Host: a\r\ntransfer-encoding: chunked\r\n", b"Host: a\r\nX: \xff\xfe\r\n", b"Host: a\r\nX\xff: b\r\n",
    b"Host: a\r\n" + b"X: y\r\n" * 99, b"Host: a\r\n" + b"X: y\r\n" * 100, b"Host: a\r\nX: " + b"y" * 8130 + b"\r\n",
    b"Host: a\r\nX: " + b"y" * 8200 + b"\r\n", b"Host: a\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n",
)  # fmt: skip
DATE = re.compile(rb"Date: [^\r]+\r\n")


def mutated(chance: random.Random) -> bytes:
    """Return one or two requests with a few octets changed, lost, doubled, swapped or put in."""
    data = bytearray(b"".join(chance.choices(SEEDS, k=chance.randint(1, 2))))
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(data) + 1)
        end = min(len(data), place + chance.randint(1, 20))
        match chance.randrange(5):
            case 0:
                data[place:end] = chance.randbytes(end - place)
            case 1:
                del data[place:end]
            case 2:
                data[place:place] = data[place:end] * chance.randint(1, 4)
            case 3:
                data[place:place] = chance.choice(TOKENS)
            case _:
                data[place:end] = chance.choice(TOKENS)
    return bytes(data)


class FuzzTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.served = Served()
        self.served.admit = self.admit
        self.waiting: list[Deferred[Verdict]] = []
        self.chance = random.Random(20261)

    def admit(self, arguments: Arguments) -> Deferred[Verdict]:
        """Parse as the daemon does; every other verdict comes later."""
        try:
            PlaybackRequest.parse(arguments)
            verdict = ACCEPTED
        except BadRequest as error:
            verdict = Verdict(ReturnCode.BAD_REQUEST, str(error))
        answer = Deferred[Verdict]()
        if self.chance.random() < 0.5:
            answer.callback(verdict)
        else:
            self.waiting.append(answer)
        return answer

    def answer_all(self) -> None:
        while self.waiting:
            self.waiting.pop().callback(ACCEPTED)

    def exchange(self, connection: Connection, data: bytes) -> bytes:
        """Send it in one to four pieces; returns all that came back."""
        cuts = sorted(self.chance.randrange(len(data) + 1) for _ in range(self.chance.randrange(4)))
        answer = b""
        for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            answer += connection.send(data[begin:end])
            if self.chance.random() < 0.3:
                self.answer_all()
        self.answer_all()
        return answer + connection.taken()

    def test_mutated_requests(self) -> None:
        """Of 2,000 damaged requests each is answered in HTTP or waited for within bounds; none is an error of ours."""
        statuses = set()
        for _ in range(REQUESTS):
            connection = self.served.connect()
            answer = self.exchange(connection, mutated(self.chance))
            if answer:
                self.assertRegex(answer[:13], rb"^HTTP/1\.[01] \d{3} ")
                statuses.add(answer[9:12])
            if self.chance.random() < 0.1:
                # None is left open for ever.
                self.served.clock.pump([LOOK_SECONDS] * int(IDLE_SECONDS / LOOK_SECONDS + 3))
                self.answer_all()
                self.assertTrue(connection.wire.closed)
            connection.leave()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(self.served.site.connections, 0)
        self.served.clock.advance(0)
        self.assertEqual(self.served.clock.getDelayedCalls(), [])
        self.assertLessEqual({b"200", b"400", b"404", b"405", b"413", b"431"}, statuses)

    def test_one_piece_or_two(self) -> None:
        """Whatever comes in one piece is answered as it is when its first octet comes before the rest."""
        plain = [
            b"GET /api/playback?a=%d HTTP/1.1\r\n%s\r\n" % (number, fields) for number, fields in enumerate(FIELDS)
        ]
        for data in [*plain, *(mutated(self.chance) for _ in range(REQUESTS))]:
            results = []
            for pieces in ([data], [data[:1], data[1:]]):
                served = Served()
                connection = served.connect()
                answer = b"".join(map(connection.send, pieces))
                results.append((DATE.sub(b"", answer), served.asked, connection.wire.closed))
            whole, parted = results
            self.assertEqual(whole, parted, data)

    def test_noise(self) -> None:
        """Octets at random are answered 400, or closed in time."""
        for _ in range(200):
            connection = self.served.connect()
            self.exchange(connection, self.chance.randbytes(self.chance.randint(1, 12000)))
            self.served.clock.pump([LOOK_SECONDS] * 3)
            self.assertTrue(connection.wire.aborted)
            connection.leave()
        self.assertEqual(self.flushLoggedErrors(), [])
