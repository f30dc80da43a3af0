"""Takes calls from the queue when a trunk can carry one more, and asks the next trunk when one fails.

Calls wait in one fair queue per route (the names of the trunks that take the number, in order), so a full
trunk holds up nobody who may go elsewhere, and finding the next call costs O(routes), not O(calls).

The next trunk is asked only while nothing but 100 has come from this one, and only for what speaks of the
trunk and not of the callee, see `failover`. Before it, the
trunk's own other addresses are asked, where the one that was is silent, out of reach or says 503 (RFC 3263 §4.3).
Each try is committed with the next attempt number before its INVITE leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from calledind.crash import crash_at
from calledind.dialing.call import CallAttempt
from calledind.dialing.failover import UNAVAILABLE, Says, is_technical, says
from calledind.dialing.queue import FairQueue
from calledind.dialing.surroundings import Surroundings
from calledind.dialing.trunks import Probe, Trunk, Trunks
from calledind.model import Address, Call, Cause, EndedBy, Ending
from calledind.numbering import for_the_log
from calledind.settings.tables import Calls
from calledind.settings.tables import Trunk as TrunkSettings
from calledind.sip.timers import DelayedCall
from calledind.store.interface import Route

SWEEP = 1.0
"Seconds between two looks for calls that waited too long."
MOST_TARGETS = 6
"Addresses of one trunk that a call is tried at."
RETRY = 1.0
"Seconds until the queue is served again after a call had to be put back."

BREATH = 0.01
"Seconds until the queue is served again while more calls have begun than there is time for."

Ended = Callable[[Call, Ending], None]


@dataclass(frozen=True)
class _Course:
    """How far a call has come that was tried at a trunk and goes on to the next."""

    call: Call
    tried: tuple[str, ...]
    "Names of the trunks that failed it."
    targets: tuple[tuple[str, Address], ...]
    "Trunk and address of all that failed it."
    number: int
    "Of the last attempt that the store knows of, 0 where none is."
    ending: Ending
    "What to say when no other trunk takes it."


class Dialer:
    """The queue, the trunks and the running calls; each call's end goes to `ended`, exactly once."""

    log = Logger()

    def __init__(
        self, surroundings: Surroundings, trunks: Sequence[TrunkSettings], *, probe: Probe, ended: Ended
    ) -> None:
        self._around = surroundings
        self.trunks = Trunks(
            trunks,
            lambda each: Trunk(
                each,
                timers=surroundings.timers,
                probe=probe,
                capacity=self.serve,
                changed=surroundings.trunk_changed,
            ),
        )
        self._ended = ended
        self._queues: dict[Route, FairQueue] = {}
        self._courses: dict[str, _Course] = {}
        self._live: dict[str, CallAttempt] = {}
        self._open: dict[CallAttempt, Trunk] = {}
        "Attempts that still hold a channel; an ended call may, until the peer has confirmed our BYE."
        self._wakes: DelayedCall | None = None
        self._wakes_at = 0.0
        "By the timers' clock."
        self._sweeper: DelayedCall | None = None
        self._not_before = 0.0
        "No call is dialled earlier, by the timers' clock."
        self._serving = False
        self._serve_again = False
        self._draining = False
        self._drained: list[Deferred[None]] = []

    def start(self) -> None:
        self._sweep()
        self.serve()

    def __len__(self) -> int:
        """How many calls wait."""
        return sum(map(len, self._queues.values()))

    @property
    def live(self) -> int:
        """How many calls are being dialled or played."""
        return len(self._live)

    @property
    def oldest(self) -> float | None:
        """When the call was accepted that waits here for longest, in seconds since the epoch; None: none waits here."""
        return min((queue.oldest for queue in self._queues.values() if queue.oldest is not None), default=None)

    def add(self, call: Call) -> None:
        """Queue an accepted call."""
        route = self.trunks.route(call.country_code, call.phone_number)
        if not route:
            self._end(call, Cause.NO_RESPONSE, "no trunk takes this number; its prefixes are in [[trunks]]")
            return
        queue = self._queue(route)
        queue.add(call)
        # Where others wait there is no room, and who makes some, or the time that does, has them served.
        if len(queue) == 1:
            self.serve()

    def replace(self, settings: Calls, trunks: Sequence[TrunkSettings]) -> None:
        """Take new settings: running calls go on by the old ones, what waits looks for its trunk anew."""
        self._around = replace(self._around, settings=settings)
        self.trunks.replace(trunks)
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            while (call := queue.take()) is not None:
                self._queue_again(call, FairQueue.add)
        self.serve()

    def hang_up(self, call_id: str, by: EndedBy = EndedBy.OPERATOR) -> bool:
        """End a running call for the operator or its customer; False when it is not running."""
        attempt = self._live.get(call_id)
        if attempt is None:
            return False
        attempt.hang_up(by)
        return True

    def cancel(self, call: Call, by: EndedBy = EndedBy.OPERATOR) -> bool:
        """End a call for its customer or an operator, whether it runs or waits here; False: it does neither."""
        if self.hang_up(call.id, by):
            return True
        if not any(queue.remove(call) for queue in self._queues.values()):
            return False
        self.end_cancelled(call, by)
        return True

    def end_cancelled(self, call: Call, by: EndedBy = EndedBy.OPERATOR) -> None:
        """End a call of this node's that has just been taken out of a queue."""
        course = self._courses.pop(call.id, None)
        trunk = course.ending.trunk if course is not None else ""
        now, detail = self._around.now(), "while it waited"
        self._ended(call, Ending(Cause.HUNG_UP, False, by, now, trunk=trunk, detail=detail))

    def drain(self) -> Deferred[None]:
        """Dial no more; fires when no call is running. What waits stays in the store."""
        self._draining = True
        for timer in (self._wakes, self._sweeper):
            if timer is not None and timer.active():
                timer.cancel()
        self._wakes = self._sweeper = None
        for trunk in self.trunks:
            trunk.stop()
        for call_id in self._courses.keys() - self._live.keys():
            course = self._courses.pop(call_id)
            self._ended(course.call, course.ending)
        drained: Deferred[None] = Deferred()
        self._drained.append(drained)
        self._tell_drained()
        return drained

    def resume(self) -> None:
        """Dial again after `drain`."""
        self._draining = False
        for trunk in self.trunks:
            trunk.resume()
        self.start()

    def hang_up_all(self) -> None:
        for attempt in list(self._live.values()):
            attempt.hang_up()

    def serve(self) -> None:
        """Start as many calls as the trunks take, in turns between the routes; wake up when they take more."""
        if self._draining:
            return
        # Starting a call may end another at once, which frees a trunk or sends a call to the next one.
        self._serve_again = True
        if self._serving:
            return
        self._serving = True
        try:
            while self._serve_again:
                self._serve_again = False
                self._wake_in(self._serve_routes())
        finally:
            self._serving = False

    # the queue

    def _queue(self, route: Route) -> FairQueue:
        queue = self._queues.get(route)
        if queue is None:
            queue = self._queues[route] = FairQueue()
        return queue

    def _queue_again(self, call: Call, how: Callable[[FairQueue, Call], None]) -> None:
        """Let a call that waited wait where its number leads now, at a trunk that did not fail it."""
        course = self._courses.get(call.id)
        route = self._route(call, course.tried if course is not None else ())
        if route:
            how(self._queue(route), call)
        elif course is not None:
            del self._courses[call.id]
            self._ended(call, course.ending)
        else:
            self._end(call, Cause.NO_RESPONSE, "no trunk takes this number any more")

    def _route(self, call: Call, tried: Route) -> Route:
        names = self.trunks.route(call.country_code, call.phone_number)
        return tuple(name for name in names if name not in tried)

    def _serve_routes(self) -> float | None:
        """Return the seconds until some trunk takes one more of the calls that wait; None: ask when one comes free."""
        soonest: float | None = None
        waiting = [(route, queue) for route, queue in self._queues.items() if queue]
        while waiting:
            pause = self._pause()
            if pause > 0:
                return pause
            if self._room() <= 0:
                return None
            still = []
            for route, queue in waiting:
                trunk, wait = self._free(route)
                call = queue.take() if trunk is not None and self._room() > 0 else None
                if trunk is not None and call is not None:
                    trunk.take()
                    self._dial(call, trunk)
                    still.append((route, queue))
                elif trunk is None and wait is not None:
                    soonest = wait if soonest is None else min(soonest, wait)
            waiting = still
        return soonest

    def _pause(self) -> float:
        """Return the seconds for which no call should be dialled; 0 or less: none."""
        pause = self._not_before - self._around.timers.seconds()
        return max(pause, BREATH) if self._around.media.is_behind() else pause

    def _room(self) -> float:
        """Return how many more calls this machine makes at the same time."""
        most = self._around.settings.max_live
        return most - len(self._open) if most else inf

    def _free(self, route: Route) -> tuple[Trunk | None, float | None]:
        """Return the first trunk of the route that takes a call now, else the seconds until one does."""
        waits = []
        for name in route:
            wait = self.trunks[name].wait()
            if wait == 0:
                return self.trunks[name], 0
            if wait is not None:
                waits.append(wait)
        return None, min(waits, default=None)

    def _wake_in(self, seconds: float | None) -> None:
        if seconds is None:
            return
        at = self._around.timers.seconds() + seconds
        if self._wakes is not None and self._wakes.active():
            if self._wakes_at <= at:
                # To serve once in vain, and see then how long it still takes, is cheaper than a new timer each time.
                return
            self._wakes.cancel()
        self._wakes, self._wakes_at = self._around.timers.callLater(seconds, self.serve), at

    def _sweep(self) -> None:
        oldest = self._around.now() - self._around.settings.queue_ttl
        for queue in self._queues.values():
            for call in queue.take_older_than(oldest):
                self._expire(call)
        self._sweeper = self._around.timers.callLater(SWEEP, self._sweep)

    def _expire(self, call: Call) -> None:
        course = self._courses.pop(call.id, None)
        if course is not None:
            self._ended(call, course.ending)
        else:
            self._end(call, Cause.EXPIRED, "it waited in the queue for too long")

    def _end(self, call: Call, cause: Cause, detail: str) -> None:
        self._ended(call, Ending(cause, False, EndedBy.US, self._around.now(), detail=detail))

    # the calls

    def _dial(self, call: Call, trunk: Trunk) -> None:
        """Begin with a call, for which a channel of the trunk is taken."""
        if self._around.now() - call.accepted_at > self._around.settings.queue_ttl:
            # A process that stood still would come here before it looks for those that waited too long.
            self._release(trunk)
            self._expire(call)
            return
        crash_at("dial.taken")
        course = self._courses.get(call.id)
        attempt = CallAttempt(
            call,
            trunk.settings,
            course.number + 1 if course else 1,
            self._around,
            tried=[target for name, target in course.targets if name == trunk.name] if course else (),
            ended=self._attempt_ended,
            postponed=self._attempt_postponed,
            released=self._attempt_released,
        )
        self._live[call.id] = attempt
        self._open[attempt] = trunk
        attempt.start()

    def _attempt_ended(self, attempt: CallAttempt, ending: Ending) -> None:
        call, trunk = attempt.call, self._open[attempt]
        self._live.pop(call.id, None)
        course = self._courses.pop(call.id, None)
        said = says(ending, attempt.trunk, responded=attempt.responded)
        failed = said != "final"
        tried = course.tried if course else ()
        targets = course.targets if course else ()
        elsewhere = False
        if attempt.target is not None and failed and _target_failed(ending):
            self._around.targets.failed(attempt.target, attempt.retry_after)
            targets = (*targets, (trunk.name, attempt.target))
            elsewhere = self._has_more(trunk, targets)
        elif attempt.target is not None and ending.sip_status is not None:
            self._around.targets.works(attempt.target)
        if not elsewhere:
            tried = (*tried, trunk.name)
            self._tell_trunk(trunk, attempt, ending, said)
        remaining = self._route(call, tried)
        if failed and remaining and not self._draining:
            self.log.info(
                "call {call}: trunk {trunk} failed ({why}); the next {what} is asked",
                call=call.id,
                trunk=trunk.name,
                why=_words(ending),
                what="of its addresses" if elsewhere else "one",
            )
            number = attempt.number if attempt.committed else attempt.number - 1
            self._courses[call.id] = _Course(call, tried, targets, number, ending)
            self._queue(remaining).put_back(call)
            crash_at("dial.failed")
            return
        self._ended(call, ending)

    def _tell_trunk(self, trunk: Trunk, attempt: CallAttempt, ending: Ending, said: Says) -> None:
        """Have the trunk know how a call of it ended, for its pace and its health."""
        throttled = said in ("slow", "pause")
        if attempt.retry_after and (throttled or ending.sip_status == UNAVAILABLE):
            trunk.pause(attempt.retry_after)
        elif said == "pause":
            trunk.pause(trunk.settings.pause)
        if throttled:
            trunk.throttled(_words(ending))
        if said != "final" and is_technical(ending):
            trunk.failed(_words(ending))
        elif ending.sip_status is not None:
            trunk.succeeded()

    def _has_more(self, trunk: Trunk, targets: tuple[tuple[str, Address], ...]) -> bool:
        tried = [target for name, target in targets if name == trunk.name]
        return len(tried) < MOST_TARGETS and self._around.targets.has_more(trunk.settings, tried)

    def _attempt_postponed(self, attempt: CallAttempt, detail: str) -> None:
        call = attempt.call
        self._live.pop(call.id, None)
        if self._draining and (course := self._courses.pop(call.id, None)) is not None:
            # It was dialled: the next process would not dial it again.
            self._ended(call, course.ending)
            return
        self.log.warn("call {call} waits: {detail}", call=call.id, detail=detail)
        self._queue_again(call, FairQueue.put_back)
        # What stands in the way (no port, store away) takes a moment to go.
        self._not_before = self._around.timers.seconds() + RETRY

    def _attempt_released(self, attempt: CallAttempt) -> None:
        if self._live.get(attempt.call.id) is attempt:
            # Neither ended nor postponed: the store has it from somewhere else.
            del self._live[attempt.call.id]
            self._courses.pop(attempt.call.id, None)
            self._left_alone(attempt.call)
        self._release(self._open.pop(attempt))
        self._tell_drained()

    def _left_alone(self, call: Call) -> None:
        """A call has turned out to be another's."""

    def _release(self, trunk: Trunk) -> None:
        """Give back a channel."""
        trunk.release()

    def _tell_drained(self) -> None:
        if self._draining and not self._open:
            drained, self._drained = self._drained, []
            for each in drained:
                each.callback(None)


def _target_failed(ending: Ending) -> bool:
    """Whether another address of the same trunk may do better."""
    silent = ending.cause in (Cause.NO_RESPONSE, Cause.TRANSPORT)
    return silent or (ending.cause is Cause.FINAL_RESPONSE and ending.sip_status == UNAVAILABLE)


def _words(ending: Ending) -> str:
    """Say for the log what went wrong; the peer's part may name the callee."""
    status = "" if ending.sip_status is None else f"{ending.sip_status} "
    return for_the_log(f"{status}{ending.detail or ending.cause.value}")
