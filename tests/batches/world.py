"""What batches are tried with: a thread that works at once or when told to; a store and an admission to rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from calledind.admission import Verdict
from calledind.batches.files import Order, Row
from calledind.batches.run import Surroundings
from calledind.model import Call, CallRecord, Key, Outcome, PlaybackRequest, ReturnCode, State
from calledind.store.interface import Store
from tests.store.contract import make_call, make_key

T = TypeVar("T")
NOW = 1_800_000_000.0
ID = "0123456789abcdef" * 2
DIGEST = b"d" * 32


def numbers(count: int) -> list[Row]:
    return [Row("1", f"21255501{index:02d}", f"s{index}") for index in range(count)]


def make_order(**changes: Any) -> Order:
    order = Order(
        id=ID,
        key_id="key_1",
        digest=DIGEST.hex(),
        mp3="https://example.com/a.mp3",
        rate=1.0,
        caller_id="0000000000",
        callback_url=None,
        created_at=NOW,
        count=3,
    )
    return replace(order, **changes)


@dataclass
class FakeThread:
    """Works at once, or where `held` is a list, when the test says so."""

    held: list[Callable[[], None]] | None = None
    stopped: bool = False

    def run(self, job: Callable[[], T]) -> Deferred[T]:
        done: Deferred[T] = Deferred()

        def work() -> None:
            try:
                result = job()
            except Exception:  # noqa: BLE001 - it is handed on
                done.errback()
            else:
                done.callback(result)

        if self.held is None:
            work()
        else:
            self.held.append(work)
        return done

    def work(self) -> None:
        """Do what is held, and no more than that."""
        assert self.held is not None
        jobs, self.held = self.held, []
        for job in jobs:
            job()

    def stop(self) -> None:
        self.stopped = True


@dataclass
class FakeStore:
    key: Key | None = field(default_factory=lambda: replace(make_key(), id="key_1"))
    records: dict[str, CallRecord] = field(default_factory=dict)
    looked: list[str] = field(default_factory=list)
    "Calls that were looked for."
    away: Exception | None = None

    def find_key(self, digest: bytes) -> Deferred[Key | None]:
        assert digest == DIGEST
        return succeed(self.key) if self.away is None else fail(self.away)

    def find_call(self, call_id: str) -> Deferred[CallRecord | None]:
        self.looked.append(call_id)
        return succeed(self.records.get(call_id)) if self.away is None else fail(self.away)


@dataclass
class FakeAdmission:
    """Accepts, or answers by number what it is told to."""

    store: FakeStore
    asked: list[str] = field(default_factory=list)
    "Numbers, in order."
    ids: list[str] = field(default_factory=list)
    "Of their calls."
    requests: list[PlaybackRequest] = field(default_factory=list)
    answers: dict[str, list[ReturnCode | Exception]] = field(default_factory=dict)
    "Number -> what the next requests for it get."
    all: ReturnCode | Exception = ReturnCode.ACCEPTED
    accepts: State = State.DIALING
    "The state of a call when it was accepted."
    waiting: list[tuple[Deferred[Verdict], str, str]] | None = None
    "Where it is a list, the test answers."

    def admit(self, key: Key, request: PlaybackRequest, call_id: str) -> Deferred[Verdict]:
        self.asked.append(request.phone_number)
        self.ids.append(call_id)
        self.requests.append(request)
        if self.waiting is not None:
            answer: Deferred[Verdict] = Deferred()
            self.waiting.append((answer, request.phone_number, call_id))
            return answer
        return self._answer(request.phone_number, call_id)

    def _answer(self, number: str, call_id: str) -> Deferred[Verdict]:
        left = self.answers.get(number)
        answer = left.pop(0) if left else self.all
        if isinstance(answer, Exception):
            return fail(answer)
        if answer is ReturnCode.ACCEPTED:
            self.accept(number, call_id)
        return succeed(Verdict(answer, f"words of {int(answer)}", call_id))

    def answer(self) -> None:
        """Answer what waits."""
        assert self.waiting is not None
        waiting, self.waiting = self.waiting, []
        for answer, number, call_id in waiting:
            self._answer(number, call_id).chainDeferred(answer)

    def accept(self, number: str, call_id: str) -> None:
        call: Call = replace(make_call(call_id), phone_number=number)
        self.store.records[call_id] = CallRecord(call, self.accepts)


class World:
    """All of that, on a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = FakeStore()
        self.admission = FakeAdmission(self.store)
        self.thread = FakeThread()

    def now(self) -> float:
        return NOW + float(self.clock.seconds())

    def surroundings(self) -> Surroundings:
        return Surroundings(self.clock, cast(Store, self.store), self.admission.admit, self.now)

    def end(self, call_id: str, outcome: Outcome) -> None:
        """Have a call end."""
        self.store.records[call_id] = replace(self.store.records[call_id], state=State.DELIVERED, outcome=outcome)

    def advance(self, seconds: float) -> None:
        """In steps of which none is longer than a tenth."""
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)
