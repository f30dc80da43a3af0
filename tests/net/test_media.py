"""The daemon's end of the media processes: on a clock with processes that are played, then with real ones."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from calledind.net import media_child
from calledind.net.media import (
    BUSY_OPENING,
    Digit,
    Finished,
    Format,
    Lost,
    Media,
    MediaEvent,
    MediaSession,
    MediaStatistics,
    NoMedia,
    Silent,
    split_ports,
)
from calledind.net.media_course import moments
from calledind.net.media_pipe import LONGEST_FRAME, Item, PipeError, Unpacker, pack
from calledind.settings.tables import Rtp


class FakeProcess:
    """What `spawnProcess` gives, and the media process behind it, which says what a test has it say."""

    pid = 4242

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.frames: list[list[Item]] = []
        self.stdin_open = True
        self.signals: list[str] = []
        self.obeys = True
        protocol.makeConnection(self)

    def writeToChild(self, descriptor: int, data: bytes) -> None:
        assert descriptor == 0
        assert self.stdin_open
        self.frames.append(Unpacker().feed(data))

    def closeStdin(self) -> None:
        self.stdin_open = False

    def signalProcess(self, name: str) -> None:
        self.signals.append(name)
        if self.obeys:
            self.end(signal.SIGKILL)

    def end(self, by: int | None = None) -> None:
        self.protocol.processEnded(Failure(ProcessTerminated(None if by else 1, by, by)))

    def says(self, *events: Item) -> None:
        self.protocol.outReceived(pack(events))

    @property
    def commands(self) -> list[Item]:
        return [item for frame in self.frames for item in frame if item[0] != "ping"]


class FakeReactor(Clock):
    """A clock that starts fake processes."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[FakeProcess] = []
        self.refuses = False

    def spawnProcess(self, protocol: Any, executable: str, args: list[str], **others: Any) -> FakeProcess:
        if self.refuses:
            raise OSError(11, "Resource temporarily unavailable")
        self.processes.append(FakeProcess(protocol))
        return self.processes[-1]

    @property
    def process(self) -> FakeProcess:
        return self.processes[-1]


class MediaTests(SynchronousTestCase):
    """`Media` on a clock."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.media = Media(self.reactor, Rtp())
        self.started = self.media.start()
        self.events: list[MediaEvent] = []
        self.reactor.process.says(["ready"])
        self.successResultOf(self.started)

    def turn(self) -> None:
        """End the reactor's turn."""
        self.reactor.advance(0)

    def opened(self) -> MediaSession:
        opening = self.media.open(self.events.append)
        self.turn()
        verb, number = self.reactor.process.commands[-1]
        self.assertEqual(verb, "open")
        self.reactor.process.says(["opened", number, "0.0.0.0", 16384])
        return self.successResultOf(opening)

    def play(self, session: MediaSession) -> None:
        session.play(
            Format(Path("/spool/x.ulaw"), "PCMU", 0),
            remote=("192.0.2.1", 4000),
            remote_rtcp=("192.0.2.1", 4001),
            lead_in=0.4,
            lead_out=0.4,
        )

    def test_the_life_of_a_session(self) -> None:
        """Opened, played, told of everything, closed with its statistics."""
        session = self.opened()
        self.assertEqual(session.local, ("0.0.0.0", 16384))
        self.play(session)
        session.redirect(("192.0.2.2", 4000), ("192.0.2.2", 4001), False)
        self.turn()
        process = self.reactor.process
        self.assertEqual([command[0] for command in process.commands], ["open", "play", "redirect"])
        self.assertEqual(process.commands[1][2]["format"], ["/spool/x.ulaw", "PCMU", 0, 20, []])
        process.says(["digit", 1, "5"], ["silent", 1], ["lost", 1, "no such file"], ["finished", 1])
        self.assertEqual(self.events, [Digit("5"), Silent(), Lost("no such file"), Finished()])
        closing, again = session.close(), session.close()
        self.turn()
        process.says(["finished", 1], ["closed", 1, {"packets_sent": 5, "round_trip": 0.03}])
        statistics = MediaStatistics(packets_sent=5, round_trip=0.03)
        for answer in (closing, again, session.close()):
            self.assertEqual(self.successResultOf(answer), statistics)
        self.assertEqual(self.events[4:], [])
        session.redirect(("192.0.2.2", 4000), ("192.0.2.2", 4001), True)
        self.turn()
        self.assertEqual([command[0] for command in process.commands], ["open", "play", "redirect", "close"])

    def test_the_course_of_a_session(self) -> None:
        """How it went moment by moment comes with the statistics."""
        session = self.opened()
        closing = session.close()
        self.turn()
        course = [5.0, 250, 0, 0, 0, 0, -1, -1, -1, 10.0, 500, 3, 1, 0.002, 2, 0.003, 0.05, 4.2]
        self.reactor.process.says(["closed", 1, {"packets_sent": 500, "course": course}])
        first, second = moments(self.successResultOf(closing).course)
        self.assertEqual(
            (first["at"], first["packets_sent"], first["jitter_by_peer"], first["mos"]), (5.0, 250.0, None, None)
        )
        self.assertEqual(
            (second["packets_lost"], second["jitter"], second["round_trip"], second["mos"]), (1.0, 0.002, 0.05, 4.2)
        )

    def test_one_frame_for_a_turn(self) -> None:
        """What is said in one turn of the reactor is written at its end, at most 64 commands to a frame."""
        process = self.reactor.process
        before = len(process.frames)
        for _ in range(100):
            self.media.open(self.events.append)
        self.assertEqual(len(process.frames), before)
        self.turn()
        self.assertEqual([len(frame) for frame in process.frames[before:]], [64, 36])

    def test_refused(self) -> None:
        """A process without a port refuses in words."""
        opening = self.media.open(self.events.append)
        self.reactor.process.says(["refused", 1, "no UDP port"])
        self.assertEqual(self.failureResultOf(opening, NoMedia).getErrorMessage(), "no UDP port")

    def test_an_answer_that_does_not_come(self) -> None:
        """A session that takes too long is given up, and closed should it open after all."""
        opening = self.media.open(self.events.append)
        for _ in range(3):
            self.reactor.advance(1)
            self.reactor.process.says(["pong", 0, {}])
        self.failureResultOf(opening, NoMedia)
        self.reactor.process.says(["opened", 1, "0.0.0.0", 16384])
        self.turn()
        self.assertEqual(self.reactor.process.commands[-1], ["close", 1])

    def test_cancelling(self) -> None:
        """A caller may change its mind while the session is being opened."""
        opening = self.media.open(self.events.append)
        opening.addErrback(lambda _: None)
        opening.cancel()
        self.reactor.process.says(["opened", 1, "0.0.0.0", 16384])
        self.turn()
        self.assertEqual(self.reactor.process.commands[-1], ["close", 1])

    def test_the_process_is_lost(self) -> None:
        """Every open session is told once, every opening fails, and closing answers with empty statistics."""
        sessions = [self.opened() for _ in range(3)]
        opening = self.media.open(self.events.append)
        closing = sessions[0].close()
        self.reactor.process.end(signal.SIGKILL)
        self.assertEqual(self.events, [Lost("the media process was ended by signal 9")] * 2)
        self.failureResultOf(opening, NoMedia)
        self.assertEqual(self.successResultOf(closing), MediaStatistics())
        self.assertEqual(self.successResultOf(sessions[1].close()), MediaStatistics())
        self.assertFalse(self.media.healthy())
        self.failureResultOf(self.media.open(self.events.append), NoMedia)
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    def test_a_call_that_fails_to_hear_it(self) -> None:
        """One report that raises keeps the news from nobody."""
        wrong = self.media.open(lambda event: 1 // 0)  # type: ignore[arg-type]
        self.reactor.process.says(["opened", 1, "0.0.0.0", 16384])
        self.successResultOf(wrong)
        self.opened()
        self.reactor.process.end()
        self.assertEqual(self.events, [Lost("the media process ended with status 1")])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_started_again(self) -> None:
        """After a loss a new process is started, later each time, and takes calls again."""
        for wait in (0.2, 0.4, 0.8):
            count = len(self.reactor.processes)
            self.reactor.process.end()
            self.reactor.advance(wait - 0.01)
            self.assertEqual(len(self.reactor.processes), count)
            self.reactor.advance(0.02)
            self.assertEqual(len(self.reactor.processes), count + 1)
            self.assertFalse(self.media.healthy())
        self.reactor.process.says(["ready"])
        self.assertTrue(self.media.healthy())
        self.opened()
        for _ in range(40):
            self.reactor.advance(1)
            self.reactor.process.says(["pong", 0, {}])
        self.reactor.process.end()
        self.reactor.advance(0.21)
        self.assertEqual(len(self.reactor.processes), 5)

    def test_a_pipe_that_is_gone(self) -> None:
        """Nothing is written to a process whose pipe is gone, though its end is not known yet."""
        opening = self.media.open(self.events.append)
        process = self.reactor.process
        process.stdin_open = False
        process.protocol.childConnectionLost(0)
        self.turn()
        self.assertEqual(process.commands, [])
        process.end()
        self.failureResultOf(opening, NoMedia)

    def test_behind(self) -> None:
        """Of many sessions that wait to be opened is told; a process that can open none is not what is waited for."""
        self.assertFalse(self.media.is_behind())
        for _ in range(BUSY_OPENING):
            self.media.open(self.events.append).addErrback(lambda _: None)
        self.assertTrue(self.media.is_behind())
        self.turn()
        _, number = self.reactor.process.commands[-1]
        self.reactor.process.says(["opened", number, "0.0.0.0", 16384])
        self.assertFalse(self.media.is_behind())
        self.reactor.process.end()
        self.assertFalse(self.media.is_behind())

    def test_can_not_be_started(self) -> None:
        """Where no process can be made it is tried again."""
        self.reactor.refuses = True
        self.reactor.process.end()
        self.reactor.advance(0.2)
        self.assertFalse(self.media.healthy())
        self.reactor.refuses = False
        self.reactor.advance(0.4)
        self.reactor.process.says(["ready"])
        self.assertTrue(self.media.healthy())

    def test_without_a_sign_of_life(self) -> None:
        """A process that hangs takes no new calls after half the time, and is killed after all of it."""
        self.opened()
        self.reactor.pump([1, 1, 1])
        self.assertFalse(self.media.healthy())
        self.assertEqual(self.reactor.process.signals, [])
        hanging = self.reactor.process
        self.reactor.pump([1, 1, 1])
        self.assertEqual(hanging.signals, ["KILL"])
        self.assertEqual(self.events, [Lost("the media process was ended by signal 9")])

    def test_signs_of_life(self) -> None:
        """Figures come with each sign of life."""
        self.reactor.process.says(["pong", 0, {"sessions": 2, "streams": 1, "strays": 3, "latest_slice": 0.004}])
        self.assertEqual(self.media.figures, {"sessions": 2, "streams": 1, "strays": 3, "latest_slice": 0.004})

    def test_commands_that_nobody_reads(self) -> None:
        """What is kept for a process is bounded: one that reads nothing is killed, long before memory is short."""
        session = self.opened()
        hanging = self.reactor.process
        hanging.obeys = False
        for _ in range(6):
            for _ in range(5000):
                self.play(session)
            self.turn()
        self.assertEqual(hanging.signals[:1], ["KILL"])
        hanging.end(signal.SIGKILL)

    def test_reading_makes_room(self) -> None:
        """A process that reads what it is sent may be sent any amount."""
        session = self.opened()
        process = self.reactor.process
        for _ in range(6):
            for _ in range(5000):
                self.play(session)
            self.reactor.advance(1)
            ping = next(item for frame in reversed(process.frames) for item in frame if item[0] == "ping")
            process.says(["pong", ping[1], {}])
            process.frames.clear()
        self.assertEqual(process.signals, [])

    def test_as_many_openings_as_are_bounded(self) -> None:
        """Sessions beyond a thousand being opened at once are refused at once."""
        openings = [self.media.open(self.events.append) for _ in range(1024)]
        self.failureResultOf(self.media.open(self.events.append), NoMedia)
        self.assertFalse(self.media.healthy())
        self.assertFalse(any(opening.called for opening in openings))

    def test_nonsense_from_the_process(self) -> None:
        """A process that does not speak as agreed is killed."""
        self.reactor.process.protocol.outReceived(b"\xff\xff\xff\xffgarbage")
        self.assertFalse(self.media.healthy())

    def test_stop(self) -> None:
        """The process ends when its input is closed; the sessions left are told."""
        self.opened()
        stopped = self.media.stop()
        process = self.reactor.process
        self.assertFalse(process.stdin_open)
        self.assertNoResult(stopped)
        process.protocol.processEnded(Failure(ConnectionDone()))
        self.successResultOf(stopped)
        self.assertEqual(len(self.events), 1)
        self.reactor.advance(60)
        self.assertEqual(len(self.reactor.processes), 1)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stop_by_force(self) -> None:
        """A process that does not end in time is killed."""
        stopped = self.media.stop()
        self.reactor.advance(3)
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.process.signals, ["KILL"])

    def test_stop_during_a_back_off(self) -> None:
        """Stopping while no process runs needs no time, and none is started after."""
        self.reactor.process.end()
        self.successResultOf(self.media.stop())
        self.reactor.advance(60)
        self.assertEqual(len(self.reactor.processes), 1)

    def test_the_first_start_fails(self) -> None:
        """A process that ends before its first word fails the start."""
        media = Media(self.reactor, Rtp())
        started = media.start()
        self.reactor.process.end()
        self.assertIn("status 1", self.failureResultOf(started, NoMedia).getErrorMessage())

    def test_several_processes(self) -> None:
        """Each has ports of its own, calls go to the one with the fewest, and the loss of one leaves the other."""
        reactor = FakeReactor()
        media = Media(reactor, Rtp(processes=2))
        started = media.start()
        for process in reactor.processes:
            process.says(["ready"])
        self.successResultOf(started)
        for _ in range(4):
            media.open(self.events.append).addErrback(lambda _: None)
        reactor.advance(0)
        self.assertEqual([len(process.commands) for process in reactor.processes], [2, 2])
        reactor.processes[0].end()
        self.assertTrue(media.healthy())

    def test_what_the_process_complains_of(self) -> None:
        """Its standard error goes to the log, by the line."""
        lines: list[object] = []
        observer = cast(ILogObserver, lambda event: lines.append(event.get("line")))
        self.patch(media_child.MediaChild, "log", Logger(observer=observer))
        self.reactor.process.protocol.errReceived(b"Traceback\nValue")
        self.reactor.process.protocol.errReceived(b"Error\n")
        self.assertEqual(lines, ["Traceback", "ValueError"])


class SplitPortsTests(SynchronousTestCase):
    """`split_ports`."""

    def test_ranges(self) -> None:
        """Ranges begin even, do not overlap, and are as even as can be; there is never an empty one."""
        self.assertEqual(split_ports((16384, 16639), 1), [(16384, 16639)])
        self.assertEqual(split_ports((16385, 16394), 2), [(16386, 16389), (16390, 16393)])
        self.assertEqual(split_ports((16384, 16393), 2), [(16384, 16389), (16390, 16393)])
        self.assertEqual(split_ports((16384, 16387), 5), [(16384, 16385), (16386, 16387)])


class PipeTests(SynchronousTestCase):
    """The frames."""

    def test_cut_anywhere(self) -> None:
        """Frames come back whole, whatever pieces they arrive in."""
        data = pack([["open", 1]]) + pack([["play", 1, {"codec": "PCMU"}], ["close", 1]])
        for size in (1, 3, 7, len(data)):
            unpacker = Unpacker()
            items = [item for at in range(0, len(data), size) for item in unpacker.feed(data[at : at + size])]
            self.assertEqual(items, [["open", 1], ["play", 1, {"codec": "PCMU"}], ["close", 1]])

    def test_refused(self) -> None:
        """Too long a frame, no JSON, and JSON of another form raise `PipeError`."""
        for data in (
            (LONGEST_FRAME + 1).to_bytes(4, "big"),
            b"\0\0\0\2[}",
            b"\0\0\0\2{}",
            b"\0\0\0\4[[]]",
            b"\0\0\0\1\xff",
        ):
            self.assertRaises(PipeError, Unpacker().feed, data)


class RealProcessTests(TestCase):
    """A media process as it is started by the daemon."""

    async def setUp(self) -> None:  # type: ignore[override]
        self.phone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.phone.bind(("127.0.0.1", 0))
        self.phone.setblocking(False)
        self.addCleanup(self.phone.close)
        self.audio = Path(self.mktemp())
        self.audio.write_bytes(bytes(range(160)) * 5)
        self.media = Media(reactor, Rtp(bind="127.0.0.1", ports=(29_000, 29_039)))
        self.addCleanup(self.media.stop)
        await self.media.start()

    async def played(self) -> tuple[MediaEvent, MediaStatistics]:
        """Make one call from beginning to end; return the last event and the statistics."""
        happened: Deferred[MediaEvent] = Deferred()
        session = await self.media.open(happened.callback)
        address = self.phone.getsockname()
        session.play(
            Format(self.audio, "PCMU", 0, telephone_events=(101,)),
            remote=address,
            remote_rtcp=(address[0], 9),
            lead_in=0.0,
            lead_out=0.0,
        )
        return await happened, await session.close()

    async def test_a_call(self) -> None:
        """Five packets of audio reach the phone, and the statistics say so."""
        event, statistics = await self.played()
        self.assertEqual(event, Finished())
        self.assertEqual((statistics.packets_sent, statistics.octets_sent), (5, 800))
        packets = [self.phone.recv(2048) for _ in range(5)]
        self.assertEqual({packet[12:] for packet in packets}, {bytes(range(160))})
        self.assertRaises(BlockingIOError, self.phone.recv, 2048)

    async def test_killed(self) -> None:
        """When the process is killed its calls are told, and the next one that is started makes calls."""
        lost: Deferred[MediaEvent] = Deferred()
        session = await self.media.open(lost.callback)
        pid = self.media._processes[0].child.pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        self.assertEqual(await lost, Lost("the media process was ended by signal 9"))
        self.assertEqual(await session.close(), MediaStatistics())
        await self.media._processes[0].child.when_ready()
        self.assertEqual((await self.played())[0], Finished())

    async def test_signals_to_the_group_are_not_for_it(self) -> None:
        """What ends a daemon from the terminal or a service manager leaves the running calls their sound."""
        pid = self.media._processes[0].child.pid
        assert pid
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, each)
        self.assertEqual((await self.played())[0], Finished())
