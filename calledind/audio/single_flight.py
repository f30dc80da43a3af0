"""Many who want the same thing at the same time are served by one piece of work."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from calledind.audio.errors import AudioError

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Runs one piece of work per key at a time. It goes on when somebody who waits for it no longer does."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[Deferred[T]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def run(self, key: Hashable, start: Callable[[], Deferred[T]]) -> Deferred[T]:
        """Fire with the result of `start()`, or of the one that runs under this key already."""
        waiter: Deferred[T] = Deferred()
        if key in self._waiting:
            self._waiting[key].append(waiter)
            return waiter
        self._waiting[key] = [waiter]
        start().addCallbacks(self._land, self._crash, callbackArgs=(key,), errbackArgs=(key,))
        return waiter

    def _land(self, result: T, key: Hashable) -> None:
        for waiter in self._waiting.pop(key):
            if not waiter.called:
                waiter.callback(result)

    def _crash(self, failure: Failure, key: Hashable) -> None:
        for waiter in self._waiting.pop(key):
            if not waiter.called:
                # An exception each: they are raised again in as many places, and each place adds its traceback.
                error = failure.value
                waiter.errback(AudioError(error.code, error.words) if isinstance(error, AudioError) else failure)
