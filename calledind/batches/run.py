"""One batch at work: a row after the other is asked for, at its rate, and nobody is called twice.

    row ──▶ its call's id goes into the journal (fsync) ──▶ admission, as for any request ──▶ code into the journal
              ▲                                                  │
              │ no such call: asked for with a new id            │ killed, or no clear answer: in doubt
              └──────────── the store is asked for the call ◀────┘
                              it is being made, or over: accepted; it still waits: looked at again

A call of the store's that waits may be one whose acceptance is about to be withdrawn (a shared store did not answer
in time), so that it counts only when it has left the queue or the store has no such call.

What becomes of a row's code:

    0                    accepted
    3, 7, 8              is about the number: the end of the row
    6                    the number was just called, by whoever: asked again after a minute, three times in all
    1, 2, 4, 5, 9, 10    is about the key or the MP3: the batch is paused, and the row waits
    503                  no work is taken now: everything waits for as long as was said, and the row is asked again

Not more than `MOST_WAITING` of the calls that were accepted wait to be dialled: who waits for long expires.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.admission import WORDS, Unavailable, Verdict
from calledind.batches.files import OVER, Order, Over, Row, Standing, State
from calledind.batches.journal import Journal
from calledind.model import Key, PlaybackRequest, ReturnCode, new_call_id
from calledind.model import State as CallState
from calledind.sip.timers import DelayedCall, Timers
from calledind.store.interface import FLOOD_SECONDS, Store, StoreUnavailable

AT_ONCE = 16
"Rows that wait for their answer (their MP3 may be on its way)."
MOST_WAITING = 100
"Accepted calls that wait to be dialled."
LOOK, LONGEST_LOOK = 0.5, 8.0
"Seconds between two looks at these; doubled for as long as none of them is dialled."
DOUBT = 2.0
"Seconds between two looks at a row that is in doubt."
AWAY = 5.0
"Seconds that a store which can't be asked is left alone."
FLOODS = 3
"How often a row is asked for whose number was just called."
OF_THE_NUMBER = frozenset({ReturnCode.DO_NOT_CALL, ReturnCode.AREA_NOT_SUPPORTED, ReturnCode.COUNTRY_NOT_SUPPORTED})
"Codes that are the end of a row."
Admit = Callable[[Key, PlaybackRequest, str], Deferred[Verdict]]
"`Admission.admit_for_key`."


@dataclass(frozen=True)
class Surroundings:
    """What the batches work with."""

    timers: Timers
    store: Store
    admit: Admit
    now: Callable[[], float]
    "Seconds since the epoch."


class Run:
    """See the module's text. Works from `start` until it is over, or `stop`."""

    log = Logger()

    def __init__(
        self,
        order: Order,
        rows: Sequence[Row],
        standing: Standing,
        *,
        surroundings: Surroundings,
        journal: Journal,
        over: Callable[[Over], None],
    ) -> None:
        self.order = order
        self.rows = rows
        self.standing = standing
        self.obstacle = ""
        "Why no work is taken at the moment."
        self.codes: Counter[int] = Counter(int(row.code) for row in rows if row.code is not None)
        "Code -> rows that have it."
        self._do = surroundings
        self._journal = journal
        self._over = over
        self._todo = [index for index, row in enumerate(rows) if row.code is None]
        "A heap: the first row comes first. Of a batch that is cancelled, those in doubt."
        self._later: list[tuple[float, int]] = []
        "A heap: by the timers' clock, when a row is to be asked for again."
        self._asking = 0
        self._waiting: dict[str, None] = {}
        "Ids of accepted calls that may wait to be dialled."
        self._patience = LOOK
        self._looking = False
        self._next_at = surroundings.timers.seconds()
        self._timer: DelayedCall | None = None
        self._due = 0.0
        "By the timers' clock, when it comes."
        self._stopped = False
        self._ending = False
        if standing.state is State.CANCELLED:
            self._drop()

    @property
    def trouble(self) -> str:
        """Why it does not go on, though nobody has paused it."""
        return self.unwritable or self.obstacle

    @property
    def unwritable(self) -> str:
        """Why the journal can't be written, so that no change would be kept."""
        return self._journal.trouble

    @property
    def _is_active(self) -> bool:
        return self.standing.state is not State.PAUSED

    def start(self) -> None:
        self._arm()

    def stop(self) -> None:
        """Ask for no more rows, without saying so in the journal: the next start goes on."""
        self._stopped = True
        self._disarm()

    # what the customer wants

    def pause(self) -> Deferred[None]:
        return self._move(State.PAUSED)

    def resume(self) -> Deferred[None]:
        return self._move(State.RUNNING)

    def cancel(self) -> Deferred[None]:
        """Ask for no more rows, for good. Calls that were accepted are made; of rows in doubt it is found out."""
        self._drop()
        return self._move(State.CANCELLED)

    def _drop(self) -> None:
        """Let go of the rows that wait, but for those in doubt."""
        waiting = [*self._todo, *(index for _, index in self._later)]
        self._todo = sorted(index for index in waiting if self.rows[index].call_id)
        self._later = []

    def _move(self, state: State, code: int | None = None, words: str = "") -> Deferred[None]:
        """Change the state, and fire when that is kept."""
        self.standing = Standing(state, self._do.now(), code, words)
        entry = {"state": str(state), "at": self.standing.at, "code": code, "words": words}
        kept = self._journal.note({name: value for name, value in entry.items() if value not in (None, "")})
        if state is not State.RUNNING:
            self.obstacle = ""
        self._disarm()
        self._arm()
        return kept

    # the pace

    def _arm(self) -> None:
        """See to it that the next row is asked for when it is due."""
        if self._stopped or self._ending or self._looking or not self._is_active or self._asking >= AT_ONCE:
            return
        if self._todo:
            self._arm_for(self._next_at)
        elif self._later:
            self._arm_for(max(self._next_at, self._later[0][0]))
        elif not self._asking:
            self._end()

    def _arm_for(self, due: float) -> None:
        if self._timer is not None and self._timer.active() and self._due <= due:
            return
        self._disarm()
        self._due = due
        self._timer = self._do.timers.callLater(max(0.0, due - self._do.timers.seconds()), self._go_on)

    def _disarm(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _go_on(self) -> None:
        now = self._do.timers.seconds()
        if self._next_at > now:
            self._arm()
            return
        if len(self._waiting) >= MOST_WAITING and self.standing.state is State.RUNNING:
            self._looking = True
            Deferred.fromCoroutine(self._look()).addErrback(self._fault).addCallback(self._looked)
            return
        while self._later and self._later[0][0] <= now:
            heapq.heappush(self._todo, heapq.heappop(self._later)[1])
        if self._todo:
            index = heapq.heappop(self._todo)
            # Time that was lost is not made up for: the pace is an upper bound.
            interval = 1 / self.order.rate if self.standing.state is State.RUNNING else 0.0
            self._next_at = (self._next_at if now - self._next_at < interval else now) + interval
            self._asking += 1
            Deferred.fromCoroutine(self._ask(index)).addErrback(self._failed, index).addCallback(self._asked)
        self._arm()

    def _asked(self, _: object) -> None:
        self._asking -= 1
        self._arm()

    async def _look(self) -> None:
        """Forget those of the waiting calls that wait no more."""
        before = len(self._waiting)
        try:
            for call_id in list(self._waiting):
                record = await self._do.store.find_call(call_id)
                if record is None or record.state is not CallState.ACCEPTED:
                    del self._waiting[call_id]
        except StoreUnavailable:
            pass  # the store says so itself; the next look comes
        self._patience = LOOK if len(self._waiting) < before else min(LONGEST_LOOK, 2 * self._patience)

    def _looked(self, _: object) -> None:
        self._looking = False
        if len(self._waiting) >= MOST_WAITING:
            self._next_at = self._do.timers.seconds() + self._patience
        self._arm()

    # one row

    async def _ask(self, index: int) -> None:
        row = self.rows[index]
        try:
            if row.call_id and not await self._is_free(index):
                return
            row.call_id = ""
            if self.standing.state is State.RUNNING:
                row.call_id = new_call_id(self._do.now())
                await self._journal.note({"row": index + 1, "id": row.call_id})
            if self._stopped or self.standing.state is not State.RUNNING:
                self._put_back(index)
                return
            verdict = await self._admit(row)
        except (StoreUnavailable, Unavailable) as error:
            self._hold(index, error)
        else:
            self._judge(index, verdict)

    async def _is_free(self, index: int) -> bool:
        """Whether the call that was asked for before is not there; else the row has its code, or is in doubt yet."""
        record = await self._do.store.find_call(self.rows[index].call_id)
        if record is None:
            return True
        if record.state is CallState.ACCEPTED:
            heapq.heappush(self._later, (self._do.timers.seconds() + DOUBT, index))
        else:
            self._decide(index, ReturnCode.ACCEPTED)
        return False

    def _put_back(self, index: int) -> None:
        """Let a row wait that was not asked for."""
        if self.standing.state is not State.CANCELLED:
            heapq.heappush(self._todo, index)

    async def _admit(self, row: Row) -> Verdict:
        key = await self._do.store.find_key(bytes.fromhex(self.order.digest))
        if key is None:
            return Verdict(ReturnCode.INVALID_KEY, WORDS[ReturnCode.INVALID_KEY])
        request = PlaybackRequest(
            api_key="",
            phone_number=row.phone_number,
            country_code=row.country_code,
            mp3=self.order.mp3,
            caller_id=self.order.caller_id,
            callback_url=self.order.callback_url,
            secret=row.secret,
        )
        return await self._do.admit(key, request, row.call_id)

    def _hold(self, index: int, error: StoreUnavailable | Unavailable) -> None:
        """No work is taken now. Whether this row's was is not known where a store did not answer."""
        heapq.heappush(self._todo, index)
        seconds = error.retry_after if isinstance(error, Unavailable) else AWAY
        self._next_at = max(self._next_at, self._do.timers.seconds() + seconds)
        self.obstacle = error.words if isinstance(error, Unavailable) else "the store can't be asked now"

    def _judge(self, index: int, verdict: Verdict) -> None:
        row = self.rows[index]
        self.obstacle = ""
        if verdict.code is ReturnCode.ACCEPTED:
            self._waiting[row.call_id] = None
            self._decide(index, verdict.code)
            return
        row.call_id = ""
        if verdict.code in OF_THE_NUMBER:
            self._decide(index, verdict.code)
        elif verdict.code is ReturnCode.FLOOD:
            row.floods += 1
            if self.standing.state is State.CANCELLED:
                return
            if row.floods < FLOODS:
                heapq.heappush(self._later, (self._do.timers.seconds() + FLOOD_SECONDS, index))
            else:
                self._decide(index, verdict.code)
        else:
            self._put_back(index)
            self._pause(verdict.code, verdict.words)

    def _decide(self, index: int, code: ReturnCode) -> None:
        row = self.rows[index]
        row.code, row.at = int(code), self._do.now()
        self.codes[row.code] += 1
        self._journal.note({"row": index + 1, "code": row.code, "at": row.at})

    def _pause(self, code: int | None, words: str) -> None:
        if self.standing.state is State.RUNNING:
            self.log.warn("batch {batch} is paused by code {code}", batch=self.order.id, code=code)
            self._move(State.PAUSED, code, words)

    def _failed(self, failure: Failure, index: int) -> None:
        heapq.heappush(self._todo, index)
        self._fault(failure)

    def _fault(self, failure: Failure) -> None:
        self.log.failure("batch {batch} met an error of our own", failure, batch=self.order.id)
        self._pause(None, "a fault of calledin's; the log has it")

    # the end

    def _end(self) -> None:
        self._ending = True
        if self.standing.state is State.RUNNING:
            self.standing = Standing(State.DONE, self._do.now())
        kept = self._journal.note({"state": str(self.standing.state), "at": self.standing.at})
        kept.addCallback(lambda _: self._over(self.over()))

    def over(self) -> Over:
        """How it ended, where it has."""
        assert self.standing.state in OVER
        return Over(self.standing.state, self.standing.at, Counter(self.codes))


def refused(codes: Mapping[int, int]) -> Mapping[int, int]:
    """Leave the codes that are refusals."""
    return {code: count for code, count in sorted(codes.items()) if code != ReturnCode.ACCEPTED}
