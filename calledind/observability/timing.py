"""Parts of the daemon with a watch beside them: what they do is theirs, how long it takes is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from calledind.audio.errors import AudioError
from calledind.audio.fetch import Fetched, FetchError, NotModified
from calledind.audio.library import Decodes, Fetches
from calledind.model import Call, Outcome, ReturnCode
from calledind.store.interface import Store

T = TypeVar("T")
Told = Callable[[float, str], None]
"Seconds, and how it went."


class TimedFetches:
    """Fetches as another does."""

    def __init__(self, fetches: Fetches, told: Told) -> None:
        self._fetches = fetches
        self._told = told

    def fetch(
        self, url: str, *, into: Path, etag: str | None = None, last_modified: str | None = None
    ) -> Deferred[Fetched | NotModified]:
        since = perf_counter()

        def over(result: Fetched | NotModified | Failure) -> Any:
            if isinstance(result, Failure):
                how = "refused" if isinstance(result.value, FetchError) else "failed"
            else:
                how = "unchanged" if isinstance(result, NotModified) else "fetched"
            self._told(perf_counter() - since, how)
            return result

        return self._fetches.fetch(url, into=into, etag=etag, last_modified=last_modified).addBoth(over)


class TimedDecodes:
    """Decodes as another does."""

    def __init__(self, decodes: Decodes, told: Told) -> None:
        self._decodes = decodes
        self._told = told

    def start(self) -> Deferred[None]:
        return self._decodes.start()

    def stop(self) -> Deferred[None]:
        return self._decodes.stop()

    def decode(self, mp3: Path, encodings: Mapping[str, Path], *, owner: str = "") -> Deferred[float]:
        since = perf_counter()

        def over(result: float | Failure) -> Any:
            how = "decoded"
            if isinstance(result, Failure):
                how = "refused" if isinstance(result.value, AudioError) else "failed"
            self._told(perf_counter() - since, how)
            return result

        return self._decodes.decode(mp3, encodings, owner=owner).addBoth(over)


class _TimedStore:
    """Stands in front of a store, with a watch beside the two changes that somebody waits for."""

    def __init__(self, store: Store, told: Callable[[str, float, str], None]) -> None:
        self._store = store
        self._told = told

    def __getattr__(self, name: str) -> Any:
        """Whatever else the store can; kept, since to be asked costs more than to have."""
        found = getattr(self._store, name)
        setattr(self, name, found)
        return found

    def accept(self, call: Call) -> Deferred[ReturnCode]:
        return self._watch("accept", self._store.accept(call))

    def settle(self, call_id: str, outcome: Outcome, *, charge: bool) -> Deferred[bool]:
        return self._watch("settle", self._store.settle(call_id, outcome, charge=charge))

    def _watch(self, operation: str, doing: Deferred[T]) -> Deferred[T]:
        return doing.addBoth(self._over, operation, perf_counter())

    def _over(self, result: Any, operation: str, since: float) -> Any:
        self._told(operation, perf_counter() - since, "failed" if isinstance(result, Failure) else "kept")
        return result


def timed_store(store: Store, told: Callable[[str, float, str], None]) -> Store:
    """Return the store with a watch: `told` hears the operation ("accept", "settle"), the seconds, and how it went."""
    return cast(Store, _TimedStore(store, told))
