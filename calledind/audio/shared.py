"""The audio of calls that any of several nodes may dial.

The node that accepts a call has fetched and encoded its MP3; the store keeps that until no accepted call can want it
any more. Who takes the call brings it into its own library, once for all calls that play the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

from twisted.internet.defer import Deferred

from calledind.audio.errors import AudioError, LibraryUnavailable
from calledind.codecs import ALWAYS
from calledind.model import Call
from calledind.store.interface import StoreUnavailable


class Library(Protocol):
    """What is wanted of `audio.library`."""

    def pin(self, name: str) -> None: ...

    def unpin(self, name: str) -> None: ...

    def bring(self, name: str, encodings: Mapping[str, bytes]) -> Deferred[None]: ...


class Keeper(Protocol):
    """What is wanted of `store.interface.SharedStore`."""

    def find_audio(self, name: str) -> Deferred[Mapping[str, bytes]]: ...


EXPECTED = 5.0
"Seconds for which audio stays here for a call that was accepted here and may be taken by any node."


class SharedAudio:
    """Has each of this node's calls keep its audio here, from `here` or `bring` to `let_go`."""

    def __init__(self, library: Library, store: Keeper, seconds: Callable[[], float]) -> None:
        """`seconds`: a clock that does not jump."""
        self._library = library
        self._store = store
        self._seconds = seconds
        self._pinned: set[str] = set()
        "Ids of the calls whose audio is kept for them."
        self._expected: OrderedDict[str, tuple[float, Call]] = OrderedDict()
        "Call id -> until when its audio waits for it to be taken, and the call; the first to go in front."

    def accepted(self, call: Call) -> None:
        """Its audio was prepared here, and pinned once: another node may take the call, or this one does soon."""
        self.sweep()
        self._expected[call.id] = self._seconds() + EXPECTED, call

    def sweep(self) -> None:
        """Let go of what others seem to have taken."""
        now = self._seconds()
        while self._expected:
            until, call = next(iter(self._expected.values()))
            if until > now:
                return
            del self._expected[call.id]
            self._library.unpin(call.audio)

    def here(self, call: Call) -> bool:
        """Whether the audio is on this machine already; then it stays until `let_go`."""
        if call.id in self._pinned:
            return True
        if self._expected.pop(call.id, None) is not None:
            self._pinned.add(call.id)
            return True
        try:
            self._library.pin(call.audio)
        except KeyError:
            return False
        self._pinned.add(call.id)
        return True

    def bring(self, call: Call) -> Deferred[bool]:
        """Bring the audio here, to stay until `let_go`. False: nobody has it any more. Fails with StoreUnavailable."""
        return Deferred.fromCoroutine(self._bring(call))

    def let_go(self, call: Call) -> None:
        """The call is over, or another node's."""
        if self._expected.pop(call.id, None) is not None:
            self._library.unpin(call.audio)
        if call.id in self._pinned:
            self._pinned.discard(call.id)
            self._library.unpin(call.audio)

    async def _bring(self, call: Call) -> bool:
        encodings = await self._store.find_audio(call.audio)
        if not all(codec in encodings for codec in ALWAYS):
            # It may have been fetched here while it was looked for there.
            return self.here(call)
        try:
            await self._library.bring(call.audio, encodings)
        except (LibraryUnavailable, AudioError) as error:
            raise StoreUnavailable(f"its audio could not be brought: {error}") from error
        self._pinned.add(call.id)
        return True
