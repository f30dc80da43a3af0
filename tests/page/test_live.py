"""What open pages are told, and how much of it."""

# mypy: allow-untyped-calls
from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from calledind.model import Call, Cause, EndedBy, Ending, Event, Happening, Outcome, Reason
from calledind.page.live import MOST_ENDED, MOST_ROWS, MOST_VIEWERS, TICK
from tests.page.world import BEARER, HOST, TOKEN, World

HEAD = f"GET /live HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()


def call(number: int) -> Call:
    return Call(f"c{number}", "key_1", f"{2125550000 + number}", "1", "0", "a" * 64, 1.0, None, "", 0.0)


def ended(number: int, reason: Reason | None = None) -> Event:
    ending = Ending(Cause.PLAYED, reason is None, EndedBy.US, 0.0, trunk="carrier")
    return Event(Happening.ENDED, 0.0, call(number), trunk="carrier", outcome=Outcome(reason is None, reason, ending))


class LiveTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.live = self.world.live

    def messages(self, data: bytes) -> list[tuple[str, Any]]:
        """Return kind and JSON of each event in what a viewer was sent."""
        found = []
        for line in data.replace(b"\r\n", b"\n").split(b"\n"):
            if line.startswith(b"event: "):
                kind = line[7:].decode()
            elif line.startswith(b"data: "):
                found.append((kind, json.loads(line[6:])))
        return found

    def happen(self, what: Happening, number: int) -> None:
        self.live.take(Event(what, 0.0, call(number), trunk="carrier"))

    def test_all_then_ticks(self) -> None:
        """Who opens the page is told all that is known, then twice a second what is new, in one message."""
        self.happen(Happening.ACCEPTED, 1)
        self.happen(Happening.RINGING, 1)
        viewer = self.world.connect()
        ((kind, told),) = self.messages(viewer.send(HEAD))
        self.assertEqual((kind, told["figures"]), ("all", {"live": 3}))
        self.assertEqual([(row["id"], row["state"], row["over"]) for row in told["calls"]], [("c1", "ringing", False)])
        self.assertEqual(list(told["counts"].values()), [[1, 0, 0, 0, 0, 0, 0]])
        self.happen(Happening.ANSWERED, 1)
        self.live.take(ended(1))
        self.live.take(ended(2, Reason.BUSY))
        self.assertEqual(viewer.taken(), b"")
        self.world.clock.advance(TICK)
        ((kind, told),) = self.messages(viewer.taken())
        self.assertEqual(
            [(row["id"], row["answered"], row["reason"]) for row in told["calls"]],
            [("c1", True, None), ("c2", False, 5)],
        )
        self.assertEqual(list(told["counts"].values()), [[1, 1, 0, 0, 0, 1, 0]])
        self.world.clock.advance(TICK)
        ((_, told),) = self.messages(viewer.taken())
        self.assertEqual(told["calls"], [])

    def test_bounded(self) -> None:
        """However much happens between two ticks, a message has the newest calls only."""
        viewer = self.world.connect()
        viewer.send(HEAD)
        for number in range(2 * MOST_ROWS):
            self.happen(Happening.DIALING, number)
        self.world.clock.advance(TICK)
        ((_, told),) = self.messages(viewer.taken())
        self.assertEqual((len(told["calls"]), told["calls"][-1]["id"]), (MOST_ROWS, f"c{2 * MOST_ROWS - 1}"))
        for number in range(2 * MOST_ROWS):
            self.live.take(ended(number))
        ((_, told),) = self.messages(self.world.connect().send(HEAD))
        self.assertEqual(len(told["calls"]), MOST_ENDED)

    def test_slow_viewer(self) -> None:
        """A viewer that does not keep up misses ticks, and is then told all anew."""
        viewer = self.world.connect()
        viewer.send(HEAD)
        producer: Any = viewer.wire.producer
        producer.pauseProducing()
        self.world.clock.advance(TICK)
        self.assertEqual(viewer.taken(), b"")
        producer.resumeProducing()
        self.world.clock.advance(TICK)
        self.assertEqual([kind for kind, _ in self.messages(viewer.taken())], ["all"])

    def test_nobody_looks(self) -> None:
        """While nobody looks no timer runs; who leaves is forgotten; no more than so many may look."""
        viewers = [self.world.connect() for _ in range(MOST_VIEWERS)]
        for viewer in viewers:
            viewer.send(HEAD)
        self.assertEqual(self.world.ask("/live", BEARER).status, 503)
        for viewer in viewers:
            viewer.leave()
        self.assertEqual(self.live.viewers, 0)
        self.happen(Happening.DIALING, 1)
        self.world.clock.advance(60)
        self.assertEqual(
            [timer for timer in self.world.clock.getDelayedCalls() if timer.getTime() < self.world.clock.seconds() + 1],
            [],
        )

    def test_late_callback(self) -> None:
        """A callback of a call that nobody lists any more brings it not back."""
        self.happen(Happening.CALLBACK, 1)
        ((_, told),) = self.messages(self.world.connect().send(HEAD))
        self.assertEqual(told["calls"], [])
