"""Trunks: which of them take a number, whether they can take one more call now, and whether they are well.

The breaker. Five technical failures in a row (no response, transport failure, a 5xx before ringing) open it:
the trunk gets no calls, and an OPTIONS probe asks at growing intervals whether it answers again. Any answer
but a 503 closes it. A Retry-After of a trunk that throttles pauses it for that long, breaker or not
(RFC 3261 §21.5.4), and its pace is cut, see `pace`; what counts as throttling, see `failover`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum

from twisted.logger import Logger

from calledind.dialing.pace import Pace
from calledind.ranking import rank
from calledind.settings.tables import Trunk as TrunkSettings
from calledind.sip.timers import DelayedCall, Timers

FAILURES_TO_OPEN = 5
FIRST_PROBE = 5.0
"Seconds from the opening of the breaker to the first OPTIONS."
SLOWEST_PROBE = 60.0
LONGEST_PAUSE = 3600.0
"Of a Retry-After that is believed, in seconds."

Probe = Callable[["Trunk", Callable[[int | None], None]], None]
"Sends an OPTIONS to the trunk and reports the status, None when there was no response."
Changed = Callable[[str, Mapping[str, object]], None]
"""Hears a trunk's name and "health" ("failing" or "well"), once whenever it becomes another; with "failing" a "detail":
what failed last, for people."""


class Health(Enum):
    CLOSED = "well"
    OPEN = "failing"


class Trunk:
    """One trunk's channels, pace and breaker."""

    log = Logger()

    def __init__(
        self,
        settings: TrunkSettings,
        *,
        timers: Timers,
        probe: Probe,
        capacity: Callable[[], None],
        changed: Changed = lambda name, details: None,
    ) -> None:
        self.settings = settings
        self.health = Health.CLOSED
        self.busy = 0
        "Channels in use."
        self._timers = timers
        self._probe = probe
        self._capacity = capacity
        self._changed = changed
        self._pace = Pace(timers)
        self._paused_until = 0.0
        self._failures = 0
        self._probing: DelayedCall | None = None
        self._interval = FIRST_PROBE
        self._stopped = False

    @property
    def name(self) -> str:
        return self.settings.name

    def wait(self) -> float | None:
        """Return the seconds until one more call may leave (0: now); None: when a channel or the trunk comes free."""
        rest = self.rest()
        if rest is None or self.busy >= self.settings.channels:
            return None
        return max(rest, self._pace.wait(self.settings.calls_per_second))

    def rest(self) -> float | None:
        """Return the seconds until it wants calls (0: now), whatever its channels and pace; None: when it is well."""
        if self.health is Health.OPEN:
            return None
        return max(0.0, self._paused_until - self._timers.seconds())

    @property
    def pace(self) -> float:
        """Calls per second that it gets now."""
        return self.settings.calls_per_second * self._pace.share

    def take(self) -> None:
        """Use one channel and one moment of the pace; `wait` was 0."""
        self.hold()
        self._pace.take(self.settings.calls_per_second)

    def hold(self) -> None:
        """Use one channel that was given elsewhere."""
        self.busy += 1

    def release(self) -> None:
        self.busy -= 1
        self._capacity()

    def succeeded(self) -> None:
        """The trunk answered like one that works."""
        self._failures = 0

    def pause(self, seconds: float) -> None:
        """The trunk is full, or said when to come again."""
        until = self._timers.seconds() + min(float(seconds), LONGEST_PAUSE)
        # Calls that were on their way must not put the end off for ever.
        if until > self._paused_until:
            self._paused_until = until
            self.log.warn("trunk {trunk} gets no calls for {seconds} s", trunk=self.name, seconds=seconds)

    def throttled(self, detail: str) -> None:
        """The trunk was asked for too much."""
        if self._pace.slow_down():
            self.log.warn(
                "trunk {trunk} throttles ({detail}): it gets {pace:.2g} calls per second now, more with time",
                trunk=self.name,
                detail=detail,
                pace=self.pace,
            )

    def failed(self, detail: str) -> None:
        """The trunk failed for a technical reason."""
        self._failures += 1
        if self._failures >= FAILURES_TO_OPEN and self.health is Health.CLOSED:
            self.health = Health.OPEN
            self._interval = FIRST_PROBE
            self.log.error(
                "trunk {trunk} failed {failures} times in a row, the last time with: {detail}; it gets no calls until "
                "it answers an OPTIONS",
                trunk=self.name,
                failures=self._failures,
                detail=detail,
            )
            self._schedule_probe()
            self._changed(self.name, {"health": self.health.value, "detail": detail})

    def stop(self) -> None:
        self._stopped = True
        if self._probing is not None and self._probing.active():
            self._probing.cancel()

    def resume(self) -> None:
        """Go on after `stop`."""
        self._stopped = False
        if self.health is Health.OPEN:
            self._interval = FIRST_PROBE
            self._schedule_probe()

    def _schedule_probe(self) -> None:
        if not self._stopped:
            self._probing = self._timers.callLater(self._interval, self._probe, self, self._probed)
            self._interval = min(self._interval * 2, SLOWEST_PROBE)

    def _probed(self, status: int | None) -> None:
        if status is None or status == 503:
            self._schedule_probe()
            return
        self.health = Health.CLOSED
        self._failures = 0
        self.log.info("trunk {trunk} answers again; it gets calls", trunk=self.name)
        self._changed(self.name, {"health": self.health.value})
        self._capacity()


class Trunks:
    """All trunks, and which of them take a number."""

    def __init__(self, settings: Sequence[TrunkSettings], make: Callable[[TrunkSettings], Trunk]) -> None:
        self._make = make
        self._trunks: dict[str, Trunk] = {}
        self._one_route: tuple[str, ...] | None = None
        "Of all numbers, where no trunk asks for prefixes."
        self.replace(settings)

    def replace(self, settings: Sequence[TrunkSettings]) -> None:
        """Take new settings. A trunk is known by its name: it keeps its calls, its pace and its health."""
        before, self._trunks = self._trunks, {}
        for each in settings:
            trunk = before.pop(each.name, None) or self._make(each)
            trunk.settings = each
            self._trunks[each.name] = trunk
        for gone in before.values():
            gone.stop()
        self._one_route = None if any(each.prefixes for each in settings) else self._ranked("")

    def __iter__(self) -> Iterator[Trunk]:
        return iter(self._trunks.values())

    def __contains__(self, name: object) -> bool:
        return name in self._trunks

    def __getitem__(self, name: str) -> Trunk:
        return self._trunks[name]

    def route(self, country_code: str, phone_number: str) -> tuple[str, ...]:
        """Return the names of the trunks that take this number, in the order in which to ask them."""
        return self._ranked(country_code + phone_number) if self._one_route is None else self._one_route

    def _ranked(self, digits: str) -> tuple[str, ...]:
        return rank((trunk.settings for trunk in self._trunks.values()), digits)
