"""The figures: what is counted when, what it costs, and who may see it."""

# mypy: allow-untyped-calls
from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any, cast
from unittest import SkipTest

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from calledind.audio.errors import unusable
from calledind.audio.fetch import FetchError, NotModified
from calledind.model import Cause, EndedBy, Ending, Outcome, Reason, ReturnCode
from calledind.net.media import MediaStatistics
from calledind.observability import courses
from calledind.observability.courses import Courses
from calledind.observability.exposition import Exposition
from calledind.observability.gauges import Figures, Snapshot, TrunkFigures
from calledind.observability.metrics import Metrics
from calledind.observability.timing import TimedDecodes, TimedFetches, timed_store
from calledind.store.interface import StoreUnavailable
from tests.dialing.world import START, make_call

CALL = make_call()
STATISTICS = MediaStatistics(
    packets_sent=100,
    packets_late=2,
    packets_received=90,
    packets_lost=3,
    jitter=0.004,
    round_trip=0.06,
    packets_lost_by_peer=1,
    jitter_by_peer=0.012,
    mos=4.2,
)


def make_outcome(
    *, answered: bool = True, reason: Reason | None = None, at: float = START + 20, **more: Any
) -> Outcome:
    answered_at = START + 8 if answered else None
    cause = Cause.PLAYED if answered else Cause.FINAL_RESPONSE
    named = {"ended_by": EndedBy.US, "ended_at": at, "answered_at": answered_at, "trunk": "a", "rang": True, **more}
    return Outcome(answered, reason, Ending(cause, answered, **named))


def promtool(*arguments: str, text: str = "") -> None:
    """Raises AssertionError with what it complains of."""
    program = which("promtool")
    if program is None:
        raise SkipTest("skipped: promtool is not installed (Debian: prometheus)")
    done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr + done.stdout


class MetricsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = START
        self.metrics = Metrics()
        self.courses = Courses(lambda: self.now)

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"calledin_{name}", labels)

    def reach(self, stage: str, after: float, trunk: str = "a") -> None:
        self.now += after
        course = self.courses.reached(CALL.id, stage, trunk)
        assert course is not None
        self.metrics.reached(CALL, stage, course)

    def end(self, outcome: Outcome) -> None:
        self.metrics.ended(outcome, self.courses.ended(CALL.id))

    def test_requests(self) -> None:
        """Each code is there from the start, and has its meaning beside it."""
        self.assertEqual(self.value("requests_total", code="10", meaning="mp3_too_long"), 0)
        for code in (ReturnCode.NO_CREDITS, ReturnCode.NO_CREDITS, None):
            self.metrics.request(code)
        self.assertEqual(self.value("requests_total", code="2", meaning="no_credits"), 2)
        self.assertEqual(self.value("requests_total", code="503", meaning="unavailable"), 1)

    def test_answered(self) -> None:
        """How long a call waited, took to be answered, rang and lasted."""
        for stage, after in (("dialing", 1.5), ("ringing", 2.5), ("answered", 4)):
            self.reach(stage, after)
        self.end(make_outcome())
        self.assertEqual(self.value("calls_total", trunk="a", reason="answered"), 1)
        self.assertEqual(self.value("queue_wait_seconds_sum"), 1.5)
        self.assertEqual(self.value("call_setup_seconds_sum", trunk="a"), 6.5)
        self.assertEqual(self.value("call_ring_seconds_sum", trunk="a"), 4)
        self.assertEqual(self.value("call_answered_seconds_sum", trunk="a"), 12)
        self.assertEqual(len(self.courses), 0)

    def test_second_trunk(self) -> None:
        """The wait in the queue counts once, the time to the answer from the INVITE that was answered."""
        for stage, after, trunk in (
            ("dialing", 1, "a"),
            ("ringing", 1, "a"),
            ("dialing", 3, "b"),
            ("answered", 2, "b"),
        ):
            self.reach(stage, after, trunk)
        self.end(make_outcome(trunk="b"))
        self.assertEqual(self.value("queue_wait_seconds_count"), 1)
        self.assertEqual(self.value("call_setup_seconds_sum", trunk="b"), 2)
        self.assertIsNone(self.value("call_ring_seconds_sum", trunk="b"))

    def test_not_answered(self) -> None:
        """A call that rang in vain rang until its end; one that no trunk was found for has none."""
        self.reach("dialing", 1)
        self.reach("ringing", 1)
        self.end(make_outcome(answered=False, reason=Reason.BUSY))
        self.assertEqual(self.value("call_ring_seconds_sum", trunk="a"), 18)
        self.end(make_outcome(answered=False, reason=Reason.FAILED, trunk=""))
        self.assertEqual(self.value("calls_total", trunk="none", reason="failed"), 1)

    def test_media(self) -> None:
        """What the peer never told is not counted as good."""
        self.metrics.media("a", STATISTICS)
        silent = replace(
            STATISTICS, jitter_by_peer=None, round_trip=None, mos=None, packets_received=0, packets_lost=-2
        )
        self.metrics.media("b", silent)
        self.assertEqual(self.value("rtp_packets_sent_total", trunk="a"), 100)
        self.assertEqual(self.value("rtp_packets_late_total", trunk="a"), 2)
        self.assertEqual(self.value("rtp_packets_lost_total", trunk="a", direction="to_callee"), 1)
        self.assertEqual(self.value("rtp_packets_lost_total", trunk="a", direction="from_callee"), 3)
        self.assertEqual(self.value("rtp_jitter_seconds_sum", trunk="a", direction="to_callee"), 0.012)
        self.assertEqual(self.value("call_mos_bucket", trunk="a", le="4.25"), 1)
        self.assertEqual(self.value("call_mos_bucket", trunk="a", le="4.0"), 0)
        for name in ("call_mos_count", "rtp_round_trip_seconds_count"):
            self.assertIsNone(self.value(name, trunk="b"))
        self.assertIsNone(self.value("rtp_jitter_seconds_count", trunk="b", direction="from_callee"))

    def test_promtool(self) -> None:
        """All that there can be, as Prometheus's own tool reads it."""
        promtool("check", "metrics", text=everything(self.metrics))

    def test_price(self) -> None:
        """What is counted for each request and each call costs microseconds; the bounds are ten times that."""
        self.reach("dialing", 1)
        course = self.courses.reached(CALL.id, "ringing", "a")
        assert course is not None
        outcome = make_outcome()

        def price(work: Any) -> float:
            since = time.perf_counter()
            for _ in range(2000):
                work()
            return (time.perf_counter() - since) / 2000

        self.assertLess(min(price(lambda: self.metrics.request(ReturnCode.ACCEPTED)) for _ in range(3)), 20e-6)
        self.assertLess(min(price(lambda: self.metrics.ended(outcome, course)) for _ in range(3)), 50e-6)


def everything(metrics: Metrics) -> str:
    """Return the text of figures of each kind."""
    now = START
    calls = Courses(lambda: now)
    for stage in ("dialing", "ringing", "answered"):
        course = calls.reached(CALL.id, stage, "a")
        assert course is not None
        metrics.reached(CALL, stage, course)
    metrics.ended(make_outcome(), course)
    metrics.media("a", STATISTICS)
    metrics.fetched(0.2, "fetched")
    metrics.decoded(0.2, "decoded")
    metrics.stored("accept", 0.002, "kept")
    figures = Figures(
        queued=3,
        oldest=1.5,
        live=2,
        callbacks=1,
        ready=True,
        draining=False,
        store_healthy=True,
        nodes_alive=2,
        trunks=[TrunkFigures("a", True, 2, 10, 5.0, True), TrunkFigures('b "\\', False, 0, 1, 1.0)],
        media={"sessions": 2, "streams": 1, "strays": 7, "latest_slice": 0.002},
    )
    counts = {name: (f"What is counted of {name}.", lambda: 5) for name in ("cdr_lost", "hep_sent", "hep_dropped")}
    metrics.add(Snapshot(lambda: figures, version="1.0", node="east", counts=counts))
    shown: str = Shown(metrics).body
    return shown


class Shown:
    """What a request is answered with."""

    def __init__(self, metrics: Metrics, *, host: str = "127.0.0.1", **headers: str) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        networks = ("127.0.0.0/8", "::1/128", "10.0.0.0/8")
        resource: Any = Exposition(metrics.registry, networks)
        self.client = self
        self.host = host
        self.postpath: list[bytes] = []
        self._named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.requestHeaders = self
        self.body = resource.render_GET(cast(Any, self)).decode()

    def hasHeader(self, name: bytes) -> bool:
        return name.decode() in self._named

    def getHeader(self, name: bytes) -> bytes | None:
        named = self._named.get(name.decode())
        return None if named is None else named.encode()

    def setHeader(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode()] = value.decode()

    def setResponseCode(self, status: int) -> None:
        self.status = status


class ExpositionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.metrics = Metrics()

    def test_networks(self) -> None:
        """Who is of a network that may gets the figures, others a refusal."""
        for host, status in (
            ("127.0.0.1", 200),
            ("::1", 200),
            ("::ffff:10.1.2.3", 200),
            ("10.1.2.3", 200),
            ("192.0.2.1", 403),
            ("2001:db8::1", 403),
            ("fe80::1%eth0", 403),
            ("", 403),
        ):
            self.assertEqual(Shown(self.metrics, host=host).status, status, host)

    def test_proxies(self) -> None:
        """A reverse proxy on this machine must not show them to the world."""
        for name in ("x_forwarded_for", "forwarded", "via", "x_real_ip"):
            shown = Shown(self.metrics, **{name: "x"})
            self.assertEqual((shown.status, "calledin_" in shown.body), (403, False), name)

    def test_formats(self) -> None:
        """Plain text, or OpenMetrics for who asks for that."""
        self.assertEqual(Shown(self.metrics).headers["content-type"], "text/plain; version=0.0.4; charset=utf-8")
        shown = Shown(self.metrics, accept="application/openmetrics-text;version=1.0.0")
        self.assertTrue(shown.headers["content-type"].startswith("application/openmetrics-text"))
        self.assertTrue(shown.body.endswith("# EOF\n"))
        self.assertEqual(int(shown.headers["content-length"]), len(shown.body.encode()))


class CoursesTests(SynchronousTestCase):
    def test_bounded(self) -> None:
        """Calls that are never told to have ended don't fill the memory."""
        self.patch(courses, "MOST_CALLS", 3)
        kept = Courses(lambda: START)
        for number in range(5):
            kept.reached(str(number), "dialing", "a")
        self.assertEqual((len(kept), kept.ended("0"), kept.ended("4") is None), (3, None, False))

    def test_unknown(self) -> None:
        """A call that another process has dialled has no course."""
        kept = Courses(lambda: START)
        self.assertIsNone(kept.reached("1", "ringing", "a"))
        self.assertIsNone(kept.reached("1", "answered", "a"))


class Parts:
    """A fetcher, a decoder and a store that answer with what they are given."""

    def __init__(self) -> None:
        self.answer: Deferred[Any] = succeed(None)

    def fetch(self, url: str, **named: Any) -> Deferred[Any]:
        return self.answer

    def decode(self, mp3: Path, encodings: Any, *, owner: str = "") -> Deferred[Any]:
        return self.answer

    def accept(self, call: Any) -> Deferred[Any]:
        return self.answer

    def settle(self, call_id: str, outcome: Any, *, charge: bool) -> Deferred[Any]:
        return self.answer

    def healthy(self) -> bool:
        return False

    def start(self) -> Deferred[None]:
        return succeed(None)

    stop = start


class TimingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.parts: Any = Parts()
        self.told: list[tuple[Any, ...]] = []

    def tell(self, *told: Any) -> None:
        self.told.append(tuple(each for each in told if not isinstance(each, float)))

    def test_fetches(self) -> None:
        """A fetch is told with how it went, and its result handed on untouched."""
        timed = TimedFetches(self.parts, self.tell)
        unchanged = NotModified(None, None, None, False)
        for answer, how in (
            (succeed("fetched"), "fetched"),
            (succeed(unchanged), "unchanged"),
            (fail(FetchError("no")), "refused"),
            (fail(OSError(28, "full")), "failed"),
        ):
            self.parts.answer = answer
            results: list[Any] = []
            timed.fetch("http://a.example/", into=Path("x")).addBoth(results.append)
            self.assertEqual((len(results), self.told.pop()), (1, (how,)))

    def test_decodes(self) -> None:
        """So is a decoding."""
        timed = TimedDecodes(self.parts, self.tell)
        self.successResultOf(timed.start())
        self.successResultOf(timed.stop())
        for answer, how in (
            (succeed(1.5), "decoded"),
            (fail(unusable("no MP3")), "refused"),
            (fail(OSError(28, "full")), "failed"),
        ):
            self.parts.answer = answer
            timed.decode(Path("x"), {}).addErrback(lambda _: None)
            self.assertEqual(self.told.pop(), (how,))

    def test_store(self) -> None:
        """Of a store, the two changes that somebody waits for; all else is the store's own."""
        timed = timed_store(self.parts, self.tell)
        self.assertFalse(timed.healthy())
        self.parts.answer = succeed(ReturnCode.ACCEPTED)
        self.assertEqual(self.successResultOf(timed.accept(CALL)), ReturnCode.ACCEPTED)
        self.parts.answer = fail(StoreUnavailable("gone"))
        self.failureResultOf(timed.settle("1", make_outcome(), charge=True), StoreUnavailable)
        self.assertEqual(self.told, [("accept", "kept"), ("settle", "failed")])
        self.assertRaises(AttributeError, getattr, timed, "nothing")
