"""The media process's pipes and loop, run here."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from calledind.net import media_process
from calledind.net.media_engine import Engine
from calledind.net.media_pipe import Item, Unpacker, pack
from calledind.net.media_process import Daemon, run


class DaemonTests(SynchronousTestCase):
    """The pipes to the daemon."""

    def setUp(self) -> None:
        self.commands_in, self.commands = os.pipe()
        self.events, self.events_out = os.pipe()
        self.unpacker = Unpacker()
        self.daemon = Daemon(self.commands_in, self.events_out)
        self.open = {self.commands_in, self.commands, self.events, self.events_out}
        self.addCleanup(self.close_all)

    def close_all(self) -> None:
        for descriptor in list(self.open):
            self.close(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)
        self.open.discard(descriptor)

    def told(self, most: int = 1 << 20) -> list[Item]:
        """Return the events that can be read."""
        os.set_blocking(self.events, False)
        items: list[Item] = []
        while True:
            try:
                data = os.read(self.events, most)
            except BlockingIOError:
                return items
            if not data:
                return items
            items += self.unpacker.feed(data)

    def test_commands(self) -> None:
        """Commands are read as they come, nothing is waited for, and the end is noticed."""
        self.assertEqual(self.daemon.read(), [])
        os.write(self.commands, pack([["open", 1], ["close", 1]]))
        self.assertEqual(self.daemon.read(), [["open", 1], ["close", 1]])
        self.assertFalse(self.daemon.gone)
        self.close(self.commands)
        self.assertEqual(self.daemon.read(), [])
        self.assertTrue(self.daemon.gone)

    def test_waiting_for_commands(self) -> None:
        """Waiting ends when commands come, and otherwise after its time."""
        self.assertFalse(self.daemon.wait(0.0001))
        os.write(self.commands, pack([["open", 1]]))
        self.assertTrue(self.daemon.wait(60))

    def test_a_daemon_that_is_slow_to_read(self) -> None:
        """What the pipe does not take is kept and sent later, whole and in order."""
        events: list[Item] = [["digit", number, "5"] for number in range(20_000)]
        for start in range(0, len(events), 100):
            self.daemon.tell(events[start : start + 100])
        self.assertTrue(self.daemon.behind)
        got: list[Item] = []
        while self.daemon.behind:
            got += self.told()
            self.daemon.tell([])
        got += self.told()
        self.assertEqual(got, events)
        self.assertFalse(self.daemon.gone)

    def test_a_daemon_that_never_reads(self) -> None:
        """What is kept is bounded: then the daemon counts as gone."""
        self.patch(media_process, "_MOST_UNREAD", 100_000)
        event: Item = ["lost", 1, "x" * 1000]
        for _ in range(300):
            self.daemon.tell([event])
        self.assertTrue(self.daemon.gone)

    def test_a_daemon_that_died(self) -> None:
        """A closed pipe is the end, not an error."""
        self.close(self.events)
        self.daemon.tell([["ready"]])
        self.assertTrue(self.daemon.gone)

    def test_the_last_commands_are_done(self) -> None:
        """What was asked for just before the end is still done and answered."""
        engine = Engine("127.0.0.1", 28_100, 28_139, now=lambda: 0.0, wall=lambda: 0.0)
        self.addCleanup(engine.shut)
        os.write(self.commands, pack([["open", 1], ["ping", 7], ["close", 1], ["open", 2]]))
        self.close(self.commands)
        run(engine, self.daemon)
        events = self.told()
        self.assertEqual(
            [event[:2] for event in events], [["opened", 1], ["pong", 7], ["closed", 1], ["opened", 2], ["closed", 2]]
        )
        self.assertEqual(engine.sessions, {})
