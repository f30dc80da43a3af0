"""The audio of calls that any of several nodes may dial.

The node that accepts a call has fetched and encoded its MP3; the store keeps that until no accepted call can want it
any more. Who takes the call brings it into its own library, once for all calls that play the same.
"""

from __future__ import annotations

from collections.abc import Mapping
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


class SharedAudio:
    """Has each of this node's calls keep its audio here, from `here` or `bring` to `let_go`."""

    def __init__(self, library: Library, store: Keeper) -> None:
        self._library = library
        self._store = store
        self._pinned: set[str] = set()
        "Ids of the calls whose audio is kept for them."

    def here(self, call: Call) -> bool:
        """Whether the audio is on this machine already; then it stays until `let_go`."""
        if call.id in self._pinned:
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
