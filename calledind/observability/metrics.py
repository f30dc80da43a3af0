"""The daemon's figures for Prometheus.

What happens is counted as it happens, at the price of a microsecond each, see `counting`; what is so at a moment (how
many wait, how the trunks are) is asked for when Prometheus comes, see `gauges`. Labels have few values, all of them
ours: trunks of the settings, reasons, codes. Numbers, keys and addresses are in none of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric

from calledind.model import Call, Outcome, Reason, ReturnCode
from calledind.net.media import MediaStatistics
from calledind.observability.counting import Count, Spread
from calledind.observability.courses import Course

UNAVAILABLE = "503", "unavailable"
"Code and meaning of a request that has no code."
ANSWERED = "answered"
NOBODY = "none"
"Trunk of a call that was never given to one."
SECONDS = (0.5, 1, 2, 3, 5, 8, 12, 20, 30, 45, 60, 90, 120)
"Bounds for what people do."
WAITS = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
PLAYED = (1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 150, 180, 240)
QUICK = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"Bounds for what a store does."
TRANSFERS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
JITTERS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
SCORES = (1.5, 2, 2.5, 3, 3.25, 3.5, 3.75, 4, 4.25, 4.5)


def words(value: Reason | ReturnCode | None) -> str:
    """Return a reason or a code as labels and records have it; None stands for an answered call."""
    return ANSWERED if value is None else value.name.lower()


class Gauges(Protocol):
    """What is so at this moment; asked by whoever scrapes."""

    def collect(self) -> Iterable[Metric]: ...


class Metrics:
    """All that is counted, and the registry that it is read from."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Count:
            made = Count(f"calledin_{name}", text, labels)
            self.add(made)
            return made

        def histogram(name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Spread:
            made = Spread(f"calledin_{name}", text, labels, bounds)
            self.add(made)
            return made

        self._requests = counter("requests", "Requests for a call by what they were answered.", "code", "meaning")
        self._calls = counter("calls", "Calls that have ended, by trunk and how.", "trunk", "reason")
        self._waited = histogram("queue_wait_seconds", "From the acceptance of a call to its first INVITE.", WAITS)
        self._set_up = histogram("call_setup_seconds", "From the INVITE to the answer.", SECONDS, "trunk")
        self._rang = histogram(
            "call_ring_seconds", "From the first ringing to the answer or the end.", SECONDS, "trunk"
        )
        self._lasted = histogram("call_answered_seconds", "From the answer to the end.", PLAYED, "trunk")
        self._fetches = histogram(
            "fetch_seconds", "Fetching an MP3, the wait for a turn included.", TRANSFERS, "result"
        )
        self._decodes = histogram(
            "decode_seconds", "Decoding and encoding an MP3, the wait for a turn included.", TRANSFERS, "result"
        )
        self._stored = histogram(
            "store_seconds", "Until the store had kept a change, or said that it can't.", QUICK, "operation", "result"
        )
        self._tries = counter("callback_tries", "Tries to tell a customer's server how a call ended.", "verdict")
        self._sent = counter("rtp_packets_sent", "RTP packets sent to callees.", "trunk")
        self._late = counter("rtp_packets_late", "RTP packets sent more than 5 ms after they were due.", "trunk")
        self._received = counter("rtp_packets_received", "RTP packets received from callees.", "trunk")
        self._lost = counter("rtp_packets_lost", "RTP packets lost, by direction.", "trunk", "direction")
        self._jitter = histogram("rtp_jitter_seconds", "Jitter of each call's packets.", JITTERS, "trunk", "direction")
        self._round_trip = histogram("rtp_round_trip_seconds", "Round trip of each call's media.", QUICK, "trunk")
        self._mos = histogram("call_mos", "Estimated mean opinion score of each call, 1 to 4.5.", SCORES, "trunk")
        self._codes: dict[ReturnCode | None, tuple[str, str]] = {None: UNAVAILABLE}
        self._codes.update((code, (str(int(code)), words(code))) for code in ReturnCode)
        # What is always there begins at nought, so that its first step is seen.
        for labels in self._codes.values():
            self._requests.add(labels, 0)
        for verdict in ("delivered", "exhausted", "postponed"):
            self._tries.add((verdict,), 0)

    def add(self, gauges: Gauges) -> None:
        """Have these asked whenever somebody scrapes."""
        self.registry.register(gauges)

    # what is told by the parts of the daemon

    def request(self, code: ReturnCode | None) -> None:
        """A request was answered; None: with 503."""
        self._requests.add(self._codes[code])

    def reached(self, call: Call, stage: str, course: Course) -> None:
        """A call has come this far."""
        if stage == "dialing" and course.dialled_at == course.invited_at:
            self._waited.add((), max(0.0, course.dialled_at - call.accepted_at))
        elif stage == "answered" and course.answered_at is not None:
            self._set_up.add((course.trunk,), course.answered_at - course.invited_at)
            if course.rang_at is not None:
                self._rang.add((course.trunk,), course.answered_at - course.rang_at)

    def ended(self, outcome: Outcome, course: Course | None) -> None:
        """A call's outcome is kept."""
        ending = outcome.ending
        trunk = ending.trunk or NOBODY
        self._calls.add((trunk, words(outcome.reason)))
        if ending.answered_at is not None:
            self._lasted.add((trunk,), max(0.0, ending.ended_at - ending.answered_at))
        elif course is not None and course.rang_at is not None:
            self._rang.add((trunk,), max(0.0, ending.ended_at - course.rang_at))

    def media(self, trunk: str, told: MediaStatistics) -> None:
        """How the packets of a call went."""
        self._sent.add((trunk,), told.packets_sent)
        self._late.add((trunk,), told.packets_late)
        self._received.add((trunk,), told.packets_received)
        self._lost.add((trunk, "from_callee"), max(0, told.packets_lost))
        if told.packets_received:
            self._jitter.add((trunk, "from_callee"), told.jitter)
        if told.jitter_by_peer is not None:
            self._lost.add((trunk, "to_callee"), max(0, told.packets_lost_by_peer))
            self._jitter.add((trunk, "to_callee"), told.jitter_by_peer)
        if told.round_trip is not None:
            self._round_trip.add((trunk,), told.round_trip)
        if told.mos is not None:
            self._mos.add((trunk,), told.mos)

    def callback_tried(self, verdict: str) -> None:
        self._tries.add((verdict,))

    def fetched(self, seconds: float, result: str) -> None:
        self._fetches.add((result,), seconds)

    def decoded(self, seconds: float, result: str) -> None:
        self._decodes.add((result,), seconds)

    def stored(self, operation: str, seconds: float, result: str) -> None:
        self._stored.add((operation, result), seconds)
