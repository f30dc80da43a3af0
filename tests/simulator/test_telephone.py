"""The callee that is asked: somebody at the telephone answers, declines, presses keys, or is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from calledind.simulator.scenarios import TELEPHONES, scenario_of
from calledind.simulator.telephone import Line
from calledind.sip.events import Answered, Refused
from tests.simulator.carrier_world import CarrierWorld

NUMBER = TELEPHONES[0]


class Hand:
    """A handset that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.line: Line | None = None

    def rings(self, line: Line) -> None:
        self.told.append(f"rings {line.number}")
        self.line = line

    def is_up(self, line: Line) -> None:
        self.told.append("up")

    def hears(self, sequence: int, timestamp: int, payload: bytes) -> None:
        self.told.append(f"heard {len(payload)}")

    def is_over(self, line: Line, how: str) -> None:
        self.told.append(how)


class TelephoneTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = CarrierWorld(Path(self.mktemp()))
        self.telephone = self.world.carrier.telephone
        self.hand = Hand()

    def call(self) -> Any:
        session = self.world.call(NUMBER)
        self.world.network.pass_time(0.5)
        return session

    def statuses(self) -> list[int]:
        return [event.status for event in self.world.events if isinstance(event, Refused)]

    def answered(self) -> bool:
        return any(isinstance(event, Answered) for event in self.world.events)

    def test_numbers(self) -> None:
        """Ten numbers ring it, so that flood protection is in nobody's way."""
        self.assertEqual({scenario_of("+1" + number).name for number in TELEPHONES}, {"telephone"})
        self.assertEqual((len(TELEPHONES), TELEPHONES[0], TELEPHONES[-1]), (10, "2125550199", "2125550190"))

    def test_nobody_there(self) -> None:
        """Without a handset it rings until the caller gives up; one that comes meanwhile rings at once."""
        session = self.call()
        self.world.network.pass_time(20)
        self.telephone.attach(self.hand)
        self.assertEqual(self.hand.told, [f"rings 1{NUMBER}"])
        session.end()
        self.world.network.pass_time(1)
        self.assertFalse(self.answered())
        self.assertEqual(self.hand.told[1:], ["cancelled"])

    def test_answered(self) -> None:
        """Who answers hears the call, and hangs up; other handsets fall silent."""
        other = Hand()
        self.telephone.attach(self.hand)
        self.telephone.attach(other)
        self.call()
        self.telephone.answer(self.hand)
        self.world.network.pass_time(0.5)
        self.assertTrue(self.answered())
        self.assertEqual(self.hand.told[1:], ["up"])
        self.assertEqual(other.told[1:], ["taken elsewhere"])
        self.assertIsNone(self.telephone.line_of(other))
        line = self.telephone.line_of(self.hand)
        assert line is not None
        self.assertTrue(line.press("5"))
        line.lose(1.0)
        line.hang_up()
        self.world.network.pass_time(1)
        self.assertEqual(self.hand.told[-1], "callee")

    def test_declined(self) -> None:
        """Who declines, or is busy, refuses the call with that status; once."""
        for status, phrase in ((603, "Decline"), (486, "Busy Here")):
            self.setUp()
            self.telephone.attach(self.hand)
            self.call()
            self.telephone.refuse(status, phrase)
            self.telephone.refuse(500, "Again")
            self.telephone.answer(self.hand)
            self.world.network.pass_time(1)
            self.assertEqual(self.statuses(), [status])
            self.assertEqual(self.hand.told[1:], ["refused"])

    def test_in_use(self) -> None:
        """A second call finds the line busy."""
        self.telephone.attach(self.hand)
        self.call()
        self.world.call(TELEPHONES[1])
        self.world.network.pass_time(1)
        self.assertEqual(self.statuses(), [486])
        self.assertEqual(self.hand.told, [f"rings 1{NUMBER}"])

    def test_browser_closed(self) -> None:
        """A handset that goes away has hung up."""
        self.telephone.attach(self.hand)
        self.call()
        self.telephone.answer(self.hand)
        self.world.network.pass_time(0.5)
        self.telephone.detach(self.hand)
        self.world.network.pass_time(1)
        self.assertEqual(self.hand.told[-1], "callee")
        self.assertEqual(self.world.heard[-1].ended_by, "callee")
