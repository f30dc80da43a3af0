# mypy: allow-untyped-calls
"""Who listens hears what it asked for, and nothing else."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from calledind.model import Call, Event, Happening, PendingCallback
from calledind.service.events import Events
from tests.store.contract import ANSWERED, make_call

NOW = 1000.0


class Failure(Exception):
    pass


class EventsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events = Events(lambda: NOW)

    def tell(self, call: Call) -> None:
        self.events.accepted(call)
        self.events.reached(call, "dialing", "trunk 1")
        self.events.ended(call, ANSWERED)

    def test_what_is_told(self) -> None:
        """A call's life is told step by step, and what became of its callback."""
        heard: list[Event] = []
        self.events.subscribe(heard.append)
        call = make_call()
        self.tell(call)
        self.events.tried(PendingCallback(call, ANSWERED, 2, NOW), "postponed", 0)
        self.events.trunk("trunk 1", {"health": "failing"})
        self.assertEqual(
            heard,
            [
                Event(Happening.ACCEPTED, NOW, call),
                Event(Happening.DIALING, NOW, call, "trunk 1"),
                Event(Happening.ENDED, NOW, call, "trunk 1", ANSWERED),
                Event(
                    Happening.CALLBACK,
                    NOW,
                    call,
                    outcome=ANSWERED,
                    details={"verdict": "postponed", "status": None, "tries": 3},
                ),
                Event(Happening.TRUNK, NOW, trunk="trunk 1", details={"health": "failing"}),
            ],
        )

    def test_who_hears_what(self) -> None:
        """Who listens to a key or to a call hears of no other."""
        heard: dict[str, list[str]] = {"key": [], "call": [], "other": []}

        def ids(name: str) -> list[str]:
            return heard[name]

        def note(name: str, event: Event) -> None:
            assert event.call is not None
            heard[name].append(event.call.id)

        self.events.subscribe(lambda event: note("key", event), key_id="key_1")
        self.events.subscribe(lambda event: note("call", event), call_id="call2")
        self.events.subscribe(lambda event: note("other", event), key_id="key_3")
        for call in (make_call("call1"), make_call("call2"), make_call("call3", key_id="key_2")):
            self.events.accepted(call)
        self.events.trunk("trunk 1", {})
        self.assertEqual((ids("key"), ids("call"), ids("other")), (["call1", "call2"], ["call2"], []))

    def test_who_has_left_hears_nothing(self) -> None:
        """What ends a subscription ends it, at once and once; nothing is left of it."""
        heard: list[Event] = []
        leave = self.events.subscribe(heard.append, call_id="call1")
        other = self.events.subscribe(lambda event: leave(), call_id="call1")
        self.events.accepted(make_call())
        self.events.accepted(make_call())
        self.assertEqual(len(heard), 1)
        leave()
        other()
        self.assertEqual(self.events._of_call, {})

    def test_a_listener_that_fails(self) -> None:
        """A listener that raises is told to the log, and the others hear all the same."""

        def fail(event: Event) -> None:
            raise Failure

        heard: list[Event] = []
        self.events.subscribe(fail)
        self.events.subscribe(heard.append)
        self.events.accepted(make_call())
        self.assertEqual(len(heard), 1)
        self.assertEqual(len(self.flushLoggedErrors(Failure)), 1)
