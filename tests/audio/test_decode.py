"""The process that decodes: what it answers, and that it is replaced when it fails."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from calledind.audio.decode import Decoder
from calledind.audio.encode import a_law, mu_law
from calledind.audio.errors import AudioError, LibraryUnavailable
from calledind.audio.pcm import read_mp3
from calledind.audio.sandbox import SystemCallFilter
from calledind.model import ReturnCode
from calledind.settings.tables import Audio
from tests.audio.mp3 import NAMES, mutated, sample, silence

FUZZED = 2000 if os.environ.get("CALLEDIN_LONG") else 40


def misbehaving(child: str) -> tuple[str, ...]:
    """Return the command of a decoding process whose children do what the Python lines of `child` say."""
    program = f"""
import os, signal, socket, time
from calledind.audio import decode_process
honest = decode_process.read_mp3_at
def full(descriptor, data):
    raise OSError(28, "No space left on device")
def read_mp3(data, max_seconds, rates):
    if data != decode_process._SILENCE:
        {child}
    return honest(data, max_seconds, rates)
decode_process.read_mp3_at = read_mp3
decode_process._WALL_SECONDS = 0.5
decode_process._BASE_CPU_SECONDS = 1
decode_process.main()
"""
    return (sys.executable, "-c", program)


class DecodingTests(TestCase):
    """With real processes."""

    timeout = 60
    codecs: tuple[str, ...] = ("PCMU", "PCMA")

    def decoder(self, settings: Audio | None = None, command: tuple[str, ...] | None = None) -> Decoder:
        options = {} if command is None else {"command": command}
        decoder = Decoder(reactor, settings or Audio(), **options)
        self.addCleanup(decoder.stop)
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        return decoder

    def decode(self, decoder: Decoder, data: bytes, name: str = "one") -> Deferred[float]:
        mp3 = self.folder / f"{name}.mp3"
        mp3.write_bytes(data)
        return decoder.decode(mp3, {codec: self.folder / f"{name}.{codec.lower()}" for codec in self.codecs})

    async def refused(self, decoder: Decoder, data: bytes) -> AudioError:
        error: object = await self.decode(decoder, data).addErrback(lambda failure: failure.value)
        assert isinstance(error, AudioError), error
        return error

    async def test_both_encodings(self) -> None:
        """A good MP3 is answered with its duration, and both files have an octet for each sample of it."""
        decoder = self.decoder()
        await decoder.start()
        data = sample("44100-joint-vbr.mp3")
        self.assertEqual(await self.decode(decoder, data), 1.9)
        pcm = read_mp3(data, 180)
        np.testing.assert_array_equal(np.fromfile(self.folder / "one.pcmu", np.uint8), mu_law(pcm))
        np.testing.assert_array_equal(np.fromfile(self.folder / "one.pcma", np.uint8), a_law(pcm))

    async def test_many_at_once(self) -> None:
        """Jobs wait for their turn, and each gets its own answer."""
        decoder = self.decoder(Audio(decoders=2))
        await decoder.start()
        lengths = [0.24 * n for n in range(1, 9)]
        jobs = [self.decode(decoder, silence(length), str(n)) for n, length in enumerate(lengths)]
        answers = await DeferredList(jobs)
        self.assertEqual([answer for _, answer in answers], [round(8000 * length) / 8000 for length in lengths])

    async def test_refusals(self) -> None:
        """What is too long and what is no MP3 are answered with their codes."""
        decoder = self.decoder(Audio(max_seconds=1.0))
        await decoder.start()
        self.assertEqual((await self.refused(decoder, silence(2.0))).code, ReturnCode.MP3_TOO_LONG)
        self.assertEqual((await self.refused(decoder, b"hello")).code, ReturnCode.MP3_UNUSABLE)

    async def test_full_disk(self) -> None:
        """When the files can't be written, the MP3 is not to blame."""
        decoder = self.decoder(command=misbehaving("decode_process._write = full"))
        await decoder.start()
        await self.assertFailure(self.decode(decoder, silence(1.0)), LibraryUnavailable)

    async def test_killed(self) -> None:
        """When the process is killed in the middle of a job, the next process does it."""
        decoder = self.decoder()
        await decoder.start()
        job = self.decode(decoder, silence(12.0))
        process: Any = decoder._process
        process.transport.signalProcess("KILL")
        self.assertEqual(await job, 12.0)

    async def test_child_that_hangs(self) -> None:
        """A child that takes too long is killed, and the process goes on with the next job."""
        decoder = self.decoder(command=misbehaving("if len(data) > 1000: time.sleep(60)"))
        await decoder.start()
        process = decoder._process
        error = await self.refused(decoder, silence(1.0))
        self.assertEqual((error.code, error.words), (ReturnCode.MP3_UNUSABLE, "its decoder took too long"))
        self.assertEqual(await self.decode(decoder, silence(0.24)), 0.24)
        self.assertIs(decoder._process, process)

    async def test_child_that_crashes(self) -> None:
        """A child that is ended by a signal costs its own MP3 and nothing else."""
        decoder = self.decoder(command=misbehaving("os.kill(os.getpid(), signal.SIGKILL)"))
        await decoder.start()
        self.assertEqual((await self.refused(decoder, silence(1.0))).code, ReturnCode.MP3_UNUSABLE)

    async def test_child_that_opens_a_socket(self) -> None:
        """What a decoder has no business doing ends it."""
        if not SystemCallFilter().available:
            raise SkipTest("libseccomp is not installed")
        decoder = self.decoder(command=misbehaving("socket.socket()"))
        await decoder.start()
        self.assertEqual((await self.refused(decoder, silence(1.0))).words, "its decoder was ended by SIGSYS")

    async def test_child_that_opens_a_file(self) -> None:
        """A decoder can't read any file, not even one that is there for all."""
        if not SystemCallFilter().available:
            raise SkipTest("libseccomp is not installed")
        decoder = self.decoder(command=misbehaving("open('/etc/passwd')"))
        await decoder.start()
        await self.assertFailure(self.decode(decoder, silence(1.0)), LibraryUnavailable)

    async def test_child_that_eats_memory(self) -> None:
        """A decoder that asks for a gigabyte doesn't get it."""
        decoder = self.decoder(command=misbehaving("bytearray(1 << 30)"))
        await decoder.start()
        self.assertEqual((await self.refused(decoder, silence(1.0))).words, "it needs too much memory")

    async def test_no_process_to_be_had(self) -> None:
        """When the process can't start, whoever starts it is told."""
        decoder = self.decoder(command=(sys.executable, "-c", "raise SystemExit(3)"))
        await self.assertFailure(decoder.start(), LibraryUnavailable)

    async def test_mutated(self) -> None:
        """Damaged MP3s, of all kinds, give audio or an AudioError, and the process survives them all."""
        decoder = self.decoder()
        await decoder.start()
        process = decoder._process
        chance = random.Random(20)
        for number in range(FUZZED):
            data = mutated(sample(chance.choice(NAMES)), chance)
            try:
                duration = await self.decode(decoder, data)
            except AudioError as error:
                self.assertNotIn("ended by", error.words, number)
                self.assertIn(error.code, (ReturnCode.MP3_UNUSABLE, ReturnCode.MP3_TOO_LONG))
            else:
                self.assertEqual((self.folder / "one.pcmu").stat().st_size, duration * 8000)
        self.assertIs(decoder._process, process)


class OrphanTests(SynchronousTestCase):
    def test_daemon_that_is_gone(self) -> None:
        """When the daemon is gone, its pipe closes, and the process ends, with a child in the middle of a job."""
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "a.mp3").write_bytes(silence(1.0))
        names = {codec: str(folder / codec) for codec in ("PCMU", "PCMA")}
        job = json.dumps({"id": 1, "mp3": str(folder / "a.mp3"), "encodings": names, "max_seconds": 180})
        busy = misbehaving("os.write(1, b'%d\\n' % os.getpid()); time.sleep(60)")
        with subprocess.Popen(busy, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()
            process.stdin.write(job.encode() + b"\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            process.stdin.close()
            # The child has the same pipe: its end is seen when that is.
            self.assertEqual(process.stdout.read(), b"")
            self.assertEqual(process.wait(10), 0)
        self.assertRaises(ProcessLookupError, os.kill, child, 0)


class FakeProcess:
    """A process that says what the test says."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.jobs: list[bytes] = []
        self.ended = False
        protocol.makeConnection(self)

    def writeToChild(self, descriptor: int, data: bytes) -> None:
        self.jobs.append(data)

    def signalProcess(self, name: str) -> None:
        if self.ended:
            raise ProcessExitedAlready
        self.end()

    def say(self, line: bytes) -> None:
        self.protocol.outReceived(line + b"\n")

    def end(self) -> None:
        self.ended = True
        self.protocol.processEnded(Failure(ProcessTerminated(signal=9)))


class ProcessReactor(Clock):
    """A clock that starts fake processes."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[FakeProcess] = []
        self.refuses = False

    def spawnProcess(self, protocol: Any, executable: str, args: list[str], env: dict[str, str]) -> None:
        if self.refuses:
            raise OSError(11, "Resource temporarily unavailable")
        self.processes.append(FakeProcess(protocol))


READY = b'{"ready": true, "filter": true}'


class SupervisionTests(SynchronousTestCase):
    """With a clock and processes that do as they are told."""

    def setUp(self) -> None:
        self.clock = ProcessReactor()
        self.decoder = Decoder(self.clock, Audio(decoders=2))
        started = self.decoder.start()
        self.clock.processes[0].say(READY)
        self.successResultOf(started)

    def decode(self, owner: str = "") -> Deferred[float]:
        encodings = {"PCMU": Path("a.pcmu"), "PCMA": Path("a.pcma")}
        return self.decoder.decode(Path("a.mp3"), encodings, owner=owner)

    def next_process(self) -> FakeProcess:
        self.clock.advance(10)
        self.clock.processes[-1].say(READY)
        return self.clock.processes[-1]

    def test_as_many_as_allowed(self) -> None:
        """No more jobs than the settings allow are given at the same time; the next when one is done."""
        jobs = [self.decode() for _ in range(3)]
        process = self.clock.processes[0]
        self.assertEqual(len(process.jobs), 2)
        process.say(b'{"id": 2, "duration": 2.5}')
        self.assertEqual(len(process.jobs), 3)
        self.assertEqual(self.successResultOf(jobs[1]), 2.5)
        self.assertNoResult(jobs[0])

    def test_ended_once(self) -> None:
        """A job whose process ended is given to the next one, and no other."""
        job = self.decode()
        self.clock.processes[0].end()
        self.assertNoResult(job)
        self.next_process().say(b'{"id": 1, "duration": 1.0}')
        self.assertEqual(self.successResultOf(job), 1.0)

    def test_ended_twice(self) -> None:
        """A job that saw two processes end is answered, and not tried a third time."""
        job = self.decode()
        self.clock.processes[0].end()
        self.next_process().end()
        self.assertEqual(self.failureResultOf(job, AudioError).value.code, ReturnCode.MP3_UNUSABLE)
        self.assertEqual(self.next_process().jobs, [])

    def test_process_that_hangs(self) -> None:
        """A process that gives no answer is replaced, and its job answered, within fifteen seconds."""
        job = self.decode()
        self.clock.advance(14.9)
        self.assertNoResult(job)
        self.clock.advance(0.2)
        self.assertEqual(self.failureResultOf(job, AudioError).value.code, ReturnCode.MP3_UNUSABLE)
        self.assertTrue(self.clock.processes[0].ended)
        second = self.decode()
        self.next_process().say(b'{"id": 2, "duration": 1.0}')
        self.assertEqual(self.successResultOf(second), 1.0)

    def test_waiting_too_long(self) -> None:
        """Who gets no turn within twenty seconds is told to come again."""
        self.clock.processes[0].end()
        self.clock.refuses = True
        job = self.decode()
        self.clock.pump([1.0] * 19)
        self.assertNoResult(job)
        self.clock.advance(1)
        self.failureResultOf(job, LibraryUnavailable)

    def test_process_that_never_gets_ready(self) -> None:
        """A process that says nothing at its start is replaced."""
        self.clock.processes[0].end()
        self.clock.advance(1)
        self.clock.advance(31)
        self.assertTrue(self.clock.processes[1].ended)
        self.clock.advance(1)
        self.assertEqual(len(self.clock.processes), 3)

    def test_nonsense(self) -> None:
        """A process that speaks nonsense is replaced."""
        for number, line in enumerate((b"nonsense", b"[]", b'{"id": 3}', b'{"id": [1], "duration": 1}', b"\xff")):
            job = self.decode()
            self.clock.processes[-1].say(line)
            self.assertTrue(self.clock.processes[-1].ended, line)
            process = self.next_process()
            self.assertEqual(len(self.clock.processes), number + 2)
            process.say(b'{"id": %d, "duration": 1.0}' % (number + 1))
            self.assertEqual(self.successResultOf(job), 1.0)

    def test_unknown_answers(self) -> None:
        """An answer to a job that nobody waits for any more is let fall."""
        self.clock.processes[0].say(b'{"id": 77, "duration": 1.0}')
        self.assertFalse(self.clock.processes[0].ended)

    def test_restarts_are_spaced(self) -> None:
        """A process that always ends at once is started less and less often, at most every ten seconds."""
        for _ in range(6):
            self.clock.processes[-1].end()
            while self.clock.processes[-1].ended:
                self.clock.advance(0.1)
        before = len(self.clock.processes)
        self.clock.processes[-1].end()
        self.clock.advance(9.9)
        self.assertEqual(len(self.clock.processes), before)
        self.clock.advance(0.2)
        self.assertEqual(len(self.clock.processes), before + 1)

    def test_fork_refused(self) -> None:
        """A system that has no processes left is asked again, and the job waits."""
        job = self.decode()
        self.clock.refuses = True
        self.clock.processes[0].end()
        self.clock.advance(1)
        self.clock.refuses = False
        self.next_process().say(b'{"id": 1, "duration": 1.0}')
        self.assertEqual(self.successResultOf(job), 1.0)

    def test_too_many_waiting(self) -> None:
        """When hundreds wait, one more is told to come again."""
        jobs = [self.decode() for _ in range(258)]
        self.failureResultOf(self.decode(), LibraryUnavailable)
        self.assertNoResult(jobs[-1])
        self.assertNoResult(self.decode("another"))

    def test_owners_take_turns(self) -> None:
        """Who has many MP3s to decode delays another's by one place; each owner's go in the order they came."""
        for _ in range(7):
            self.decode("a")
        for owner in ("b", "b", "c"):
            self.decode(owner)
        given = self.clock.processes[0].jobs
        while len(given) < 10:
            self.clock.processes[0].say(b'{"id": %d, "duration": 1.0}' % json.loads(given[-2])["id"])
        self.assertEqual([json.loads(job)["id"] for job in given], [1, 2, 3, 8, 10, 4, 9, 5, 6, 7])

    def test_stop(self) -> None:
        """Stopping answers all who wait, ends the process, and starts no other."""
        jobs = [self.decode() for _ in range(3)]
        stopped = self.decoder.stop()
        for job in (*jobs, self.decode()):
            self.failureResultOf(job, LibraryUnavailable)
        self.successResultOf(stopped)
        self.assertTrue(self.clock.processes[0].ended)
        self.clock.advance(100)
        self.assertEqual(len(self.clock.processes), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
