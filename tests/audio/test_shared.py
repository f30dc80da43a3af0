# mypy: allow-untyped-calls
"""Audio that goes from one node's library to another's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from calledind.audio.errors import LibraryUnavailable
from calledind.audio.shared import SharedAudio
from calledind.store.interface import StoreUnavailable
from tests.audio.test_library import LibraryCase, name_of
from tests.dialing.world import AUDIO, make_call

ENCODINGS = {"PCMU": b"u" * 8000, "PCMA": b"a" * 8000}


@dataclass
class FakeKeeper:
    """The store's audio."""

    kept: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    away: bool = False

    def find_audio(self, name: str) -> Deferred[Mapping[str, bytes]]:
        return fail(StoreUnavailable("Redis is away")) if self.away else succeed(self.kept.get(name, {}))


@dataclass
class FakeLibrary:
    pins: dict[str, int] = field(default_factory=dict)
    "Of the contents that are there."
    full: bool = False

    def pin(self, name: str) -> None:
        self.pins[name] += 1

    def unpin(self, name: str) -> None:
        self.pins[name] -= 1

    def bring(self, name: str, encodings: Mapping[str, bytes]) -> Deferred[None]:
        if self.full:
            return fail(LibraryUnavailable("disk full"))
        self.pins[name] = self.pins.get(name, 0) + 1
        return succeed(None)


class SharedAudioTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.library, self.keeper = FakeLibrary(), FakeKeeper()
        self.now = 100.0
        self.audio = SharedAudio(self.library, self.keeper, lambda: self.now)

    def test_here(self) -> None:
        """What is on this machine is kept for a call, once, until it lets go of it."""
        self.library.pins[AUDIO] = 0
        call = make_call()
        self.assertEqual([self.audio.here(call) for _ in range(2)], [True, True])
        self.assertEqual(self.library.pins[AUDIO], 1)
        for _ in range(2):
            self.audio.let_go(call)
        self.assertEqual(self.library.pins[AUDIO], 0)

    def test_accepted_here(self) -> None:
        """What was prepared for a call that was accepted here stays for some seconds, so that this node may take it."""
        self.library.pins[AUDIO] = 3
        calls = [make_call(str(number)) for number in range(3)]
        for call in calls:
            self.audio.accepted(call)
        self.audio.here(calls[1])
        self.audio.let_go(calls[2])
        self.audio.sweep()
        self.assertEqual(self.library.pins[AUDIO], 2)
        self.now += 5.0
        self.audio.sweep()
        self.assertEqual(self.library.pins[AUDIO], 1)
        self.audio.let_go(calls[1])
        self.assertEqual(self.library.pins[AUDIO], 0)

    def test_brought(self) -> None:
        """What another node has made comes from the store, and is kept for the call."""
        call = make_call()
        self.assertFalse(self.audio.here(call))
        self.keeper.kept[AUDIO] = ENCODINGS
        self.assertTrue(self.successResultOf(self.audio.bring(call)))
        self.assertEqual(self.library.pins[AUDIO], 1)
        self.assertTrue(self.audio.here(call))
        self.audio.let_go(call)
        self.assertEqual(self.library.pins[AUDIO], 0)

    def test_nowhere(self) -> None:
        """Audio that nobody has is told, and so are a store that is away and a disk that is full."""
        call = make_call()
        self.assertFalse(self.successResultOf(self.audio.bring(call)))
        self.keeper.away = True
        self.failureResultOf(self.audio.bring(call), StoreUnavailable)
        self.keeper.away, self.library.full = False, True
        self.keeper.kept[AUDIO] = ENCODINGS
        self.failureResultOf(self.audio.bring(call), StoreUnavailable)
        self.audio.let_go(call)
        self.assertEqual(self.library.pins, {})


class LibraryTests(LibraryCase):
    def test_from_one_to_the_other(self) -> None:
        """A content that one library has encoded is read there and taken by another, pinned, whole on its disk."""
        self.prepare()
        read = self.successResultOf(self.library.encodings(name_of(b"hi")))
        self.assertEqual({codec: len(octets) for codec, octets in read.items()}, {"PCMU": 16000, "PCMA": 16000})
        self.successResultOf(self.library.bring(AUDIO, read))
        self.assertEqual(self.library.path(AUDIO, "PCMA").read_bytes(), read["PCMA"])
        self.assertEqual(self.library.codecs(AUDIO), frozenset(ENCODINGS))
        self.clock.advance(120)
        self.assertTrue(self.library.path(AUDIO, "PCMU").exists())
        self.library.unpin(AUDIO)
        self.clock.advance(1)
        self.assertFalse(self.library.path(AUDIO, "PCMU").exists())

    def test_brought_twice(self) -> None:
        """What is there already is pinned once more, and not written again."""
        for _ in range(2):
            self.successResultOf(self.library.bring(AUDIO, ENCODINGS))
        self.library.unpin(AUDIO)
        self.clock.advance(1)
        self.assertTrue(self.library.path(AUDIO, "PCMU").exists())

    def test_full_disk(self) -> None:
        """What can't be written or read is told as the library's own fault."""
        self.disk.full = True
        self.failureResultOf(self.library.bring(AUDIO, ENCODINGS), LibraryUnavailable)
        self.failureResultOf(self.library.encodings(AUDIO), LibraryUnavailable)
