"""Callbacks arrive at least once, in their time, signed, and whatever the customers' servers and the store do."""

# mypy: allow-untyped-calls

from __future__ import annotations

import base64
import hashlib
import hmac
import random
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock, deferLater
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from zope.interface import implementer

from calledind.callback import DELAYS, SPREAD, CallbackSender
from calledind.keyring import Keyring
from calledind.model import Call, Cause, EndedBy, Ending, Outcome, PendingCallback, Reason
from calledind.net.agent import GuardedAgent, RequestError
from calledind.net.guard import Guard
from calledind.net.url import Url
from calledind.settings.tables import Callbacks
from calledind.store.interface import Store, StoreUnavailable
from tests.net.web import ScriptedServer, TableResolver, page, says

KEYRING = Keyring(b"p" * 32)
START = 1_800_000_000.0


def pending(
    number: int = 0,
    url: str = "http://customer.test/told",
    *,
    reason: Reason | None = None,
    secret: str = "s3cret",
    tries: int = 0,
    due_at: float = START,
) -> PendingCallback:
    call = Call(
        id=f"call{number}",
        key_id="key_1",
        phone_number="2125550100",
        country_code="1",
        caller_id="0000000000",
        audio="00",
        duration=1.0,
        callback_url=url,
        secret=secret,
        accepted_at=START - 60,
    )
    ending = Ending(Cause.PLAYED, answered=reason is None, ended_by=EndedBy.US, ended_at=START)
    return PendingCallback(call, Outcome(reason is None, reason, ending), tries, due_at)


class RecordingStore:
    """Keeps what it is told about callbacks; `broken` makes it unavailable, `held` lets answers wait."""

    def __init__(self, kept: Sequence[PendingCallback] = ()) -> None:
        self.kept = kept
        self.told: list[tuple[str, str, int, float]] = []
        self.broken = False
        self.answer = True
        self.attempts = 0

    def pending_callbacks(self) -> Deferred[Sequence[PendingCallback]]:
        return fail(StoreUnavailable("gone")) if self.broken else succeed(self.kept)

    def _tell(self, what: str, call_id: str, tries: int, when: float) -> Deferred[bool]:
        self.attempts += 1
        if self.broken:
            return fail(StoreUnavailable("gone"))
        self.told.append((what, call_id, tries, when))
        return succeed(self.answer)

    def callback_delivered(self, call_id: str, tries: int, now: float) -> Deferred[bool]:
        return self._tell("delivered", call_id, tries, now)

    def callback_exhausted(self, call_id: str, tries: int, now: float) -> Deferred[bool]:
        return self._tell("exhausted", call_id, tries, now)

    def callback_postponed(self, call_id: str, tries: int, due_at: float) -> Deferred[bool]:
        return self._tell("postponed", call_id, tries, due_at)


class Empty:
    """A response without a body."""

    def __init__(self, status: int) -> None:
        self.code = status
        self.headers = Headers()

    def deliverBody(self, protocol: Any) -> None:
        protocol.connectionLost(ResponseDone())


class RecordingAgent:
    """Answers by host: a status, an exception, or None for never."""

    def __init__(self) -> None:
        self.answers: dict[str, int | Exception | None] = {}
        self.asked: list[tuple[str, Headers]] = []
        self.hanging: list[tuple[str, Deferred[Any]]] = []
        self.cancelled = 0

    def request(self, method: bytes, uri: bytes, headers: Headers | None = None, body: object = None) -> Deferred[Any]:
        assert method == b"GET"
        assert headers is not None
        url = uri.decode("ascii")
        self.asked.append((url, headers))
        answer = self.answers.get(Url.parse(url).host, 200)
        if isinstance(answer, int):
            return succeed(Empty(answer))
        if answer is not None:
            return fail(answer)
        hanging: Deferred[Any] = Deferred(self._cancelled)
        self.hanging.append((url, hanging))
        return hanging

    def _cancelled(self, _: object) -> None:
        self.cancelled += 1

    def calls(self) -> list[str]:
        """Return the webhook-id of each request."""
        return [str((headers.getRawHeaders("webhook-id") or [""])[0]) for _, headers in self.asked]


class CallbackTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = RecordingStore()
        self.agent = RecordingAgent()
        self.tried: list[tuple[str, str, int]] = []
        self.sender = self.make_sender()

    def make_sender(self, spread: float = 0.0, **settings: Any) -> CallbackSender:
        return CallbackSender(
            self.clock,
            cast(Any, self.agent),
            cast(Store, self.store),
            KEYRING,
            Callbacks(**settings),
            lambda: START + self.clock.seconds(),
            spread=lambda: spread,
            tried=lambda pending, verdict, status: self.tried.append((pending.call.id, verdict.value, status)),
        )

    def start(self, *kept: PendingCallback, spread: float = 0.0, **settings: Any) -> None:
        self.store.kept = kept
        self.sender = self.make_sender(spread, **settings)
        self.successResultOf(self.sender.start())

    def run_until(self, seconds: float) -> None:
        """Let the time be this many seconds after the start, timer by timer."""
        while self.clock.calls and self.clock.calls[0].getTime() <= seconds:
            self.clock.advance(max(0.0, self.clock.calls[0].getTime() - self.clock.seconds()))
        self.clock.advance(seconds - self.clock.seconds())


class Requests(CallbackTestCase):
    def test_query(self) -> None:
        """The query has the five parameters, in the contract's words, and nothing else."""
        self.start()
        for number, (reason, answered, code) in enumerate(
            [(None, "1", ""), *((reason, "0", str(int(reason))) for reason in Reason)]
        ):
            self.sender.add(pending(number, reason=reason))
            self.assertEqual(
                parse_qsl(urlsplit(self.agent.asked[-1][0]).query, keep_blank_values=True),
                [
                    ("secret", "s3cret"),
                    ("phone_number", "2125550100"),
                    ("country_code", "1"),
                    ("answered", answered),
                    ("reason", code),
                ],
            )

    def test_url_is_kept(self) -> None:
        """What stands in the URL's own query stays in front, octet by octet, and a fragment is left out."""
        query = "secret=s3cret&phone_number=2125550100&country_code=1&answered=1&reason="
        self.start()
        for number, (url, wire) in enumerate(
            (
                ("http://customer.test", f"http://customer.test/?{query}"),
                ("http://customer.test/a?b=%7E&c&secret=x", f"http://customer.test/a?b=%7E&c&secret=x&{query}"),
                ("https://customer.test:8443/a?#b", f"https://customer.test:8443/a?{query}"),
            )
        ):
            self.sender.add(pending(number, url))
            self.assertEqual(self.agent.asked[-1][0], wire)

    def test_secret_is_untouched(self) -> None:
        """A secret of any characters comes back as it was; none comes back as an empty one."""
        self.start()
        for number, secret in enumerate(("", "a&b=c#d?e", "50% +1 ", "ü☎\n\0", "s" * 30)):
            self.sender.add(pending(number, secret=secret))
            values = parse_qsl(urlsplit(self.agent.asked[-1][0]).query, keep_blank_values=True)
            self.assertEqual(values[0], ("secret", secret))

    def test_signature(self) -> None:
        """The signature is the HMAC-SHA256 of id, timestamp and the target as sent, by the key's webhook key."""
        self.start()
        self.clock.advance(0.9)
        self.sender.add(pending(7, "http://customer.test/told?x=ü"))
        url, headers = self.agent.asked[0]
        target = url.removeprefix("http://customer.test")
        signed = f"call7.{int(START)}.{target}".encode("ascii")
        expected = hmac.new(KEYRING.webhook_key("key_1"), signed, hashlib.sha256).digest()
        self.assertEqual(headers.getRawHeaders("webhook-id"), ["call7"])
        self.assertEqual(headers.getRawHeaders("webhook-timestamp"), [str(int(START))])
        self.assertEqual(headers.getRawHeaders("webhook-signature"), ["v1," + base64.b64encode(expected).decode()])

    def test_timestamp(self) -> None:
        """Each try is dated by the wall clock, which customers' servers compare with theirs, however it jumps."""
        wall = [START - 3600.0]
        sender = CallbackSender(
            self.clock,
            cast(Any, self.agent),
            cast(Store, self.store),
            KEYRING,
            Callbacks(),
            lambda: START + self.clock.seconds(),
            wall=lambda: wall[0],
            spread=lambda: 0.0,
        )
        self.successResultOf(sender.start())
        self.agent.answers["customer.test"] = 500
        sender.add(pending())
        wall[0] = START + 7200.5
        self.run_until(5.0)
        timestamps = [headers.getRawHeaders("webhook-timestamp") for _, headers in self.agent.asked]
        self.assertEqual(timestamps, [[str(int(START - 3600))], [str(int(START + 7200))]])

    def test_credentials(self) -> None:
        """User and password of the URL go as Basic authentication, not in the URL."""
        self.start(pending(0, "http://me:pass@customer.test/"))
        url, headers = self.agent.asked[0]
        self.assertNotIn("pass", url)
        self.assertEqual(headers.getRawHeaders("Authorization"), ["Basic bWU6cGFzcw=="])

    def test_log(self) -> None:
        """The log tells of each try by the call's id, and has no number, secret or query in it."""
        lines: list[str] = []

        @implementer(ILogObserver)
        def note(event: LogEvent) -> None:
            lines.append(formatEvent(event))

        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)
        self.agent.answers["customer.test"] = 500
        self.start(pending(3, "http://customer.test/told?token=hidden"))
        text = "\n".join(lines)
        self.assertIn("call3", text)
        for hidden in ("2125550100", "s3cret", "hidden"):
            self.assertNotIn(hidden, text)


class Verdicts(CallbackTestCase):
    def test_delivered(self) -> None:
        """Any 2xx delivers, and that is the end of it."""
        for number, status in enumerate((200, 201, 204, 299)):
            self.agent.answers["customer.test"] = status
            self.start(pending(number))
            self.assertEqual(self.store.told[-1], ("delivered", f"call{number}", 1, START))
            self.assertEqual(len(self.sender), 0)
        self.run_until(10 * 86400)
        self.assertEqual(len(self.agent.asked), 4)

    def test_gone(self) -> None:
        """410 gives up at once."""
        self.agent.answers["customer.test"] = 410
        self.start(pending())
        self.assertEqual(self.store.told, [("exhausted", "call0", 1, START)])
        self.assertEqual(len(self.sender), 0)

    def test_anything_else(self) -> None:
        """Every other status, a redirect too, and every failure is tried again five seconds later."""
        for answer in (300, 301, 302, 307, 400, 401, 404, 409, 411, 429, 500, 503, 999, RequestError("no")):
            self.agent.answers["customer.test"] = answer
            self.store.told.clear()
            self.start(pending())
            self.assertEqual(self.store.told, [("postponed", "call0", 1, START + self.clock.seconds() + 5)])
            self.successResultOf(self.sender.stop())

    def test_schedule(self) -> None:
        """Ten tries over three days, at the contract's delays, all with one id; then it is given up."""
        self.agent.answers["customer.test"] = 500
        self.start(pending())
        moment, tries = 0.0, 1
        for delay in (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400):
            moment += delay
            self.run_until(moment - 0.5)
            self.assertEqual(len(self.agent.asked), tries)
            self.run_until(moment + 0.5)
            tries += 1
            self.assertEqual(len(self.agent.asked), tries)
            moment = self.clock.seconds() - 0.5
        self.assertEqual([what for what, *_ in self.store.told], ["postponed"] * 9 + ["exhausted"])
        self.assertEqual([tries for _, _, tries, _ in self.store.told], list(range(1, 11)))
        self.assertEqual(set(self.agent.calls()), {"call0"})
        self.run_until(10 * 86400)
        self.assertEqual((len(self.agent.asked), len(self.sender)), (10, 0))

    def test_delays(self) -> None:
        """The delays are the contract's."""
        self.assertEqual(DELAYS, (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400))
        self.assertAlmostEqual(sum(DELAYS) / 86400, 3.15, places=2)

    def test_spread(self) -> None:
        """Each delay is up to a fifth shorter or longer, by chance."""
        for spread, delay in ((-SPREAD, 240.0), (SPREAD, 360.0)):
            self.agent.answers["customer.test"] = 500
            self.start(pending(tries=1), spread=spread)
            self.assertAlmostEqual(self.store.told[-1][3] - START, delay)
        chance = CallbackSender(
            self.clock, cast(Any, self.agent), cast(Store, self.store), KEYRING, Callbacks(), lambda: START
        )._spread
        random.seed(1)
        self.addCleanup(random.seed)
        drawn = [chance() for _ in range(1000)]
        self.assertTrue(-SPREAD <= min(drawn) < -0.19 and 0.19 < max(drawn) <= SPREAD)

    def test_timeout(self) -> None:
        """A server that does not answer is left after the timeout, and asked again."""
        self.agent.answers["customer.test"] = None
        self.start(pending())
        self.clock.advance(14.9)
        self.assertEqual(self.store.told, [])
        self.clock.advance(0.2)
        self.assertEqual((self.agent.cancelled, self.store.told[0][0]), (1, "postponed"))

    def test_url_that_was_never_good(self) -> None:
        """A URL that can't be asked for fails like a server that is not there, and holds up nobody."""
        self.start(pending(0, "http://127.1/"), pending(1))
        self.assertEqual([what for what, *_ in self.store.told], ["postponed", "delivered"])


class Restarts(CallbackTestCase):
    def test_taken_up(self) -> None:
        """After a start, what is due is sent at once, and what is not waits for its time."""
        self.start(pending(0, due_at=START - 1000), pending(1, tries=2, due_at=START + 100))
        self.assertEqual(self.agent.calls(), ["call0"])
        self.run_until(99)
        self.assertEqual(self.agent.calls(), ["call0"])
        self.run_until(100)
        self.assertEqual(self.agent.calls(), ["call0", "call1"])
        self.assertEqual(self.store.told[-1][:3], ("delivered", "call1", 3))

    def test_clock_was_wrong(self) -> None:
        """A due time that no schedule could have set, written by a clock far ahead, is pulled in."""
        self.start(pending(0, tries=1, due_at=START + 10**9))
        self.run_until(5 * (1 + SPREAD))
        self.assertEqual(self.agent.calls(), ["call0"])

    def test_known_already(self) -> None:
        """One that is added twice, by the store and by the outcome, is sent once."""
        self.agent.answers["customer.test"] = None
        self.start(pending())
        self.sender.add(pending())
        self.assertEqual(self.agent.calls(), ["call0"])

    def test_added_while_loading(self) -> None:
        """One that is added while the store still looks is not lost."""
        loaded: Deferred[Sequence[PendingCallback]] = Deferred()
        self.store.pending_callbacks = lambda: loaded  # type: ignore[method-assign]
        starting = self.sender.start()
        self.sender.add(pending(1))
        loaded.callback([pending(2)])
        self.successResultOf(starting)
        self.assertEqual(self.agent.calls(), ["call1", "call2"])

    def test_store_gone_at_the_start(self) -> None:
        """A start fails while the store is gone, and may be tried again."""
        self.store.broken = True
        self.failureResultOf(self.sender.start(), StoreUnavailable)
        self.store.broken = False
        self.store.kept = [pending()]
        self.successResultOf(self.sender.start())
        self.assertEqual(self.agent.calls(), ["call0"])

    def test_abandoned(self) -> None:
        """Those that are another node's now are not tried any more, and may come back anew."""
        self.agent.answers["customer.test"] = None
        self.start(pending(0), pending(1, tries=1, due_at=START + 5), max_in_flight=1)
        self.sender.abandon()
        self.assertEqual(len(self.sender), 0)
        self.sender.add(pending(0, tries=1, due_at=START + 5))
        self.agent.hanging[0][1].callback(Empty(500))
        self.agent.answers["customer.test"] = 200
        self.run_until(5 * (1 + SPREAD))
        self.assertEqual((self.agent.calls(), len(self.sender)), (["call0", "call0"], 0))

    def test_again(self) -> None:
        """One that waits is made at once when an operator says so; one that was forgotten, too; one in turn goes on."""
        self.agent.answers["customer.test"] = 500
        self.start(pending(0), pending(1, tries=4, due_at=START + 7000))
        self.sender.again(pending(1, due_at=START))
        self.assertEqual(self.agent.calls(), ["call0", "call1"])
        self.assertEqual(self.store.told[-1][:3], ("postponed", "call1", 1))
        self.agent.answers["customer.test"] = None
        self.run_until(5)
        self.assertEqual(self.agent.calls()[2:], ["call0", "call1"])
        for _ in range(2):
            self.sender.again(pending(1, due_at=START))
        self.assertEqual(len(self.agent.calls()), 4)
        self.agent.hanging[1][1].callback(Empty(200))
        self.assertEqual(self.store.told[-1][:3], ("delivered", "call1", 2))
        self.sender.again(pending(1, due_at=START))
        self.assertEqual(self.agent.calls()[4:], ["call1"])

    def test_show(self) -> None:
        """What waits is shown, the one due first in front, with what its last try came to."""
        self.agent.answers["customer.test"] = 500
        self.start(pending(0), pending(1, tries=4, due_at=START + 3))
        shown = self.sender.show(9)
        self.assertEqual([(each["call_id"], each["tries"]) for each in shown], [("call1", 4), ("call0", 1)])
        self.assertEqual([each["last"] for each in shown], [None, "its server answers with status 500"])
        self.assertEqual(len(self.sender.show(1)), 1)
        self.agent.answers["customer.test"] = 200
        self.run_until(6)
        self.assertEqual(self.sender.show(9), [])

    def test_stop_waits(self) -> None:
        """Stopping begins no more tries, waits for the running one and keeps its verdict."""
        self.agent.answers["customer.test"] = None
        self.start(pending(0), pending(1), pending(2, tries=1, due_at=START + 1), max_in_flight=1)
        stopping = self.sender.stop()
        self.assertNoResult(stopping)
        self.agent.hanging[0][1].callback(Empty(200))
        self.successResultOf(stopping)
        self.assertEqual(self.store.told, [("delivered", "call0", 1, START)])
        self.run_until(100)
        self.assertEqual(self.agent.calls(), ["call0"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_is_bounded(self) -> None:
        """A try that does not end is broken off; the store knows nothing of it, so the next start makes it again."""
        self.agent.answers["customer.test"] = None
        self.start(pending(), timeout=60.0)
        stopping = self.sender.stop()
        self.clock.advance(5)
        self.successResultOf(stopping)
        self.assertEqual((self.agent.cancelled, self.store.told), (1, []))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.agent.answers["customer.test"] = 200
        self.start(pending())
        self.assertEqual(self.agent.calls(), ["call0", "call0"])

    def test_stop_while_the_store_is_gone(self) -> None:
        """Stopping does not wait for ever for a store that is gone."""
        self.start()
        self.store.broken = True
        self.sender.add(pending())
        stopping = self.sender.stop()
        self.run_until(6)
        self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class StoreTrouble(CallbackTestCase):
    def test_verdict_is_offered_again(self) -> None:
        """A verdict the store can't take is kept and told when it can, without asking the customer again."""
        for number, (status, what) in enumerate(((200, "delivered"), (410, "exhausted"), (500, "postponed"))):
            self.agent.answers["customer.test"] = status
            self.start()
            self.store.broken = True
            begun = self.clock.seconds()
            self.sender.add(pending(number))
            self.run_until(begun + 9)
            self.assertEqual(len(self.agent.asked), number + 1)
            self.store.broken = False
            self.run_until(begun + 11)
            self.assertEqual(self.store.told[number][:3], (what, f"call{number}", 1))
            self.assertEqual(self.tried[number], (f"call{number}", what, status))
            self.successResultOf(self.sender.stop())
            self.agent.asked = self.agent.asked[: number + 1]

    def test_late_verdict_keeps_its_time(self) -> None:
        """The next try counts from the last one, not from when the store could take it."""
        self.agent.answers["customer.test"] = 500
        self.start()
        self.store.broken = True
        self.sender.add(pending(tries=1))
        self.run_until(99)
        self.store.broken = False
        self.run_until(299)
        self.assertEqual(self.store.told, [("postponed", "call0", 2, START + 300)])
        self.assertEqual(len(self.agent.asked), 1)
        self.run_until(300)
        self.assertEqual(len(self.agent.asked), 2)

    def test_bounded(self) -> None:
        """While the store is gone no more is sent than there are turns; when it is back all of it goes out once."""
        self.start(max_in_flight=4, max_in_flight_per_host=4)
        self.store.broken = True
        for number in range(100):
            self.sender.add(pending(number, f"http://host{number % 10}.test/"))
        self.run_until(60)
        self.assertEqual(len(self.agent.asked), 4)
        self.store.broken = False
        self.run_until(62)
        self.assertEqual(sorted(self.agent.calls()), sorted(f"call{number}" for number in range(100)))
        self.assertEqual(len(self.sender), 0)

    def test_no_longer_pending(self) -> None:
        """One that the store says is over, for whatever reason, is forgotten."""
        self.agent.answers["customer.test"] = 500
        self.store.answer = False
        self.start(pending())
        self.run_until(86400)
        self.assertEqual((len(self.agent.asked), len(self.sender)), (1, 0))


class Crowds(CallbackTestCase):
    def test_slow_host(self) -> None:
        """A host that lets every request hang has its share of turns; another host's callbacks go at once."""
        self.agent.answers["tarpit.test"] = None
        self.start(*(pending(number, "http://tarpit.test/") for number in range(50)))
        self.assertEqual(len(self.agent.asked), 8)
        for number in range(50, 150):
            self.sender.add(pending(number))
        self.assertEqual(len(self.store.told), 100)

    def test_all_hosts_slow(self) -> None:
        """Never more are under way than the bound in all, and each that ends makes room for the next."""
        self.agent.answers = {f"host{number}.test": None for number in range(30)}
        self.start(*(pending(number, f"http://host{number}.test/") for number in range(30)), max_in_flight=10)
        self.assertEqual(len(self.agent.hanging), 10)
        self.agent.hanging[3][1].callback(Empty(200))
        self.assertEqual(len(self.agent.hanging), 11)

    def test_one_timer(self) -> None:
        """Ten thousand that wait need one timer, and go in the order of their times."""
        order = list(range(10_000))
        random.Random(1).shuffle(order)
        self.start(*(pending(number, tries=9, due_at=START + 1 + number) for number in order))
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.run_until(20_000)
        self.assertEqual(self.agent.calls(), [f"call{number}" for number in range(10_000)])


class OverTheWire(TestCase):
    timeout = 20
    "Seconds; only a bug takes them."

    def setUp(self) -> None:
        self.server = ScriptedServer(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.server.stop()))
        self.clock = Clock()
        self.store = RecordingStore()
        resolver = TableResolver({"customer.test": ["127.0.0.1"], "inside.test": ["10.0.0.1"]})
        self.sender = CallbackSender(
            self.clock,
            GuardedAgent(reactor, Guard(["127.0.0.0/8"]), resolver),
            cast(Store, self.store),
            KEYRING,
            Callbacks(),
            lambda: START + self.clock.seconds(),
        )

    async def deliver(self, path: str, host: str = "customer.test") -> str:
        """Send one and return what the store is told."""
        told: Deferred[bool] = Deferred()
        tell = RecordingStore._tell

        def telling(what: str, call_id: str, tries: int, when: float) -> Deferred[bool]:
            answer = tell(self.store, what, call_id, tries, when)
            told.callback(True)
            return answer

        self.store._tell = telling  # type: ignore[method-assign]
        await self.sender.start()
        self.sender.add(pending(0, self.server.url(path, host)))
        await told
        return self.store.told[-1][0]

    async def test_signed_as_received(self) -> None:
        """The signature holds for the request target that the server sees."""
        self.server.pages["/told"] = page(b"thanks")
        self.assertEqual(await self.deliver("/told?a=%7e&b"), "delivered")
        asked = self.server.conversations[0]
        target = asked.request_line.split(" ")[1]
        self.assertTrue(target.startswith("/told?a=%7e&b&secret=s3cret&"))
        signed = f"{asked.header('webhook-id')}.{asked.header('webhook-timestamp')}.{target}".encode()
        digest = hmac.new(KEYRING.webhook_key("key_1"), signed, hashlib.sha256).digest()
        self.assertEqual(asked.header("webhook-signature"), "v1," + base64.b64encode(digest).decode())

    async def test_redirect_is_not_followed(self) -> None:
        """A redirect is anything else: it is not followed."""
        self.server.pages["/told"] = page(b"", "Location: /other", status="302 Found")
        self.assertEqual(await self.deliver("/told"), "postponed")
        self.assertEqual(len(self.server.conversations), 1)

    async def test_inner_network(self) -> None:
        """A callback to an inner network is not connected to."""
        self.assertEqual(await self.deliver("/told", "inside.test"), "postponed")
        self.assertEqual(self.server.conversations, [])

    async def test_endless_body(self) -> None:
        """The status decides, and a body without an end is cut off."""
        body = b"x" * 1_000_000
        self.server.pages["/told"] = says(b"HTTP/1.1 200 OK\r\n\r\n", body, close=False)
        self.assertEqual(await self.deliver("/told"), "delivered")
        await self.server.conversations[0].lost

    async def test_dripping_body(self) -> None:
        """The status decides, and a body that does not end is waited for two seconds, not for the timeout."""
        self.server.pages["/told"] = says(b"HTTP/1.1 200 OK\r\n\r\nx", close=False)
        delivering = Deferred.fromCoroutine(self.deliver("/told"))
        while not self.server.conversations or not self.clock.calls or self.clock.calls[0].getTime() > 2:
            await deferLater(reactor, 0.001)
        self.clock.advance(2)
        self.assertEqual(await delivering, "delivered")
        await self.server.conversations[0].lost

    async def test_broken_body(self) -> None:
        """The status decides, although the body breaks off."""
        self.server.pages["/told"] = says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx")
        self.assertEqual(await self.deliver("/told"), "delivered")
