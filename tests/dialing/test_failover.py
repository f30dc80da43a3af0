"""What a trunk's refusals say of it, and what comes of that."""

# Trial's assertions are not annotated.
# mypy: allow-untyped-calls
from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from calledind.dialing.failover import says
from calledind.dialing.pace import SETTLE
from calledind.dialing.trunks import Health
from calledind.model import Cause, EndedBy, Ending
from calledind.sip.useragent import Progress
from tests.dialing.test_dialer import NOBODY, DialerCase, refused
from tests.dialing.world import make_trunk

TWILIO = {"486": "slow"}
TELNYX = {"403": "pause"}


def ending(status: int | None = None, *, cause: Cause = Cause.FINAL_RESPONSE, answered: bool = False) -> Ending:
    return Ending(cause, answered, EndedBy.NETWORK, 0.0, sip_status=status)


class TableTests(SynchronousTestCase):
    def test_usual(self) -> None:
        """Without a table of its own, a trunk's statuses mean what RFC 3261 has them mean."""
        for status in range(300, 700):
            wanted = {408: "next", 500: "next", 502: "next", 503: "slow", 504: "next"}.get(status, "final")
            self.assertEqual(says(ending(status), make_trunk(), responded=False), wanted, status)

    def test_own(self) -> None:
        """A trunk's own table goes first, also to take something back."""
        trunk = make_trunk(failover={"403": "pause", "486": "slow", "404": "next", "503": "final"})
        for status, wanted in ((403, "pause"), (486, "slow"), (404, "next"), (503, "final"), (500, "next")):
            self.assertEqual(says(ending(status), trunk, responded=False), wanted)

    def test_other_endings(self) -> None:
        """Silence and a lost way speak of the trunk; our own ring timeout, an answer and what rang don't."""
        trunk = make_trunk(failover={"486": "next"})
        for end, responded, wanted in (
            (ending(cause=Cause.NO_RESPONSE), False, "next"),
            (ending(cause=Cause.TRANSPORT), False, "next"),
            (ending(cause=Cause.RING_TIMEOUT), False, "final"),
            (ending(487, cause=Cause.HUNG_UP), False, "final"),
            (ending(200, cause=Cause.PLAYED, answered=True), False, "final"),
            (ending(486), True, "final"),
            (ending(503), True, "final"),
            (ending(cause=Cause.NO_RESPONSE), True, "final"),
        ):
            self.assertEqual(says(end, trunk, responded=responded), wanted, end)


class TrunkRulesTests(DialerCase):
    def two(self, **first: Any) -> None:
        """A trunk with these settings, and another after it."""
        self.make(make_trunk("a", **{"priority": 1, **first}), make_trunk("b", priority=2))

    def test_next(self) -> None:
        """A status that the table sends on is tried at the next trunk, and does not slow this one."""
        self.two(failover={"404": "next"})
        self.add("1")
        self.hear("1", refused(404))
        self.add("2")
        self.assertEqual(self.sent(), ["1@a", "1@b", "2@a"])
        self.assertEqual(self.dialer.trunks["a"].pace, 1000.0)

    def test_final(self) -> None:
        """A status that the table keeps is the call's end."""
        self.two(failover={"503": "final"})
        self.add("1")
        self.hear("1", refused(503))
        self.assertEqual((self.sent(), list(self.causes())), (["1@a"], ["1"]))
        self.assertEqual(self.dialer.trunks["a"].pace, 1000.0)

    def test_throttling(self) -> None:
        """A carrier that throttles with 486 gets fewer calls for a while, and the next trunk takes what it refused."""
        self.two(failover=TWILIO, calls_per_second=1.0)
        self.add("1")
        self.hear("1", refused(486))
        self.assertEqual((self.sent(), self.causes()), (["1@a", "1@b"], {}))
        trunk = self.dialer.trunks["a"]
        self.assertEqual(trunk.pace, 0.5)
        self.world.clock.advance(1.0)
        self.assertGreater(trunk.wait() or 0, 0.7)
        self.world.clock.advance(1.0)
        self.assertEqual(trunk.wait(), 0)
        trunk.take()
        self.assertGreater(trunk.wait() or 0, 1.7)
        self.world.clock.advance(60.0)
        self.assertEqual(trunk.pace, 1.0)

    def test_one_throttling(self) -> None:
        """Calls that were on their way together and are refused together cut the pace once."""
        self.two(failover=TWILIO)
        self.add("1", "2", "3")
        for name in "123":
            self.hear(name, refused(486))
        self.assertEqual(self.dialer.trunks["a"].pace, 500.0)

    def test_busy_after_ringing(self) -> None:
        """The same 486 after ringing is a busy callee, and ends the call."""
        self.two(failover=TWILIO)
        self.add("1")
        self.hear("1", Progress(183, ""), refused(486))
        self.assertEqual((self.sent(), list(self.causes())), (["1@a"], ["1"]))
        self.assertEqual(self.dialer.trunks["a"].pace, 1000.0)

    def test_full_channel(self) -> None:
        """A carrier that says 403 for a full channel is left alone for the pause; what waits goes there afterwards."""
        self.two(failover=TELNYX, pause=7.0)
        self.add("1")
        self.hear("1", refused(403))
        self.add("2")
        self.assertEqual(self.sent(), ["1@a", "1@b", "2@b"])
        self.assertEqual(self.dialer.trunks["a"].wait(), 7.0)
        self.world.clock.advance(7.0)
        self.add("3")
        self.assertEqual(self.sent(), ["3@a"])

    def test_retry_after(self) -> None:
        """A Retry-After goes before the pause of the settings, for whatever status throttles."""
        for name, table, status in (
            ("1", TELNYX, 403),
            ("2", TWILIO, 486),
            ("3", {}, 503),
            ("4", {"503": "next"}, 503),
        ):
            self.two(failover=table, pause=7.0)
            self.add(name)
            self.hear(name, refused(status, 30))
            self.assertEqual(self.dialer.trunks["a"].wait(), 30, status)

    def test_pauses_do_not_add_up(self) -> None:
        """Calls that were on their way when the channel was full don't put its end off."""
        self.two(failover=TELNYX, pause=7.0)
        self.add("1", "2")
        self.hear("1", refused(403, 30))
        self.world.clock.advance(5.0)
        self.hear("2", refused(403))
        self.assertEqual(self.dialer.trunks["a"].wait(), 25.0)

    def test_throttling_opens_no_breaker(self) -> None:
        """A trunk that refuses by table works; one that says 503 again and again does not."""
        for key, table, status, health in (
            ("1", TWILIO, 486, Health.CLOSED),
            ("2", TELNYX, 403, Health.CLOSED),
            ("3", {}, 503, Health.OPEN),
        ):
            self.two(failover=table, pause=0.1)
            for number in range(6):
                self.add(f"{key}{number}")
                self.hear(f"{key}{number}", refused(status))
                self.world.clock.advance(SETTLE)
            self.assertIs(self.dialer.trunks["a"].health, health, status)

    def test_all_refuse(self) -> None:
        """A call that no trunk takes ends with what the last one said, and was tried once at each."""
        self.two(failover=TELNYX)
        self.add("1")
        self.hear("1", refused(403))
        self.hear("1", NOBODY)
        self.assertEqual((self.sent(), self.causes()), (["1@a", "1@b"], {"1": Cause.NO_RESPONSE}))

    def test_alone(self) -> None:
        """With one trunk, a throttled call ends, and others go on more slowly."""
        self.make(make_trunk("a", calls_per_second=10.0, failover=TWILIO))
        self.add(*map(str, range(1, 100)))
        self.assertEqual(len(self.sent()), 2)
        self.hear("1", refused(486))
        self.world.clock.pump([0.05] * 40)
        self.assertApproximates(len(self.sent()), 10, 1)
