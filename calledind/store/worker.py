"""A thread that does one job after the other, and tells the reactor how each went."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


class FromThread(Protocol):
    """The part of a reactor that other threads may call (`IReactorFromThreads`)."""

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None: ...


class Worker:
    """Jobs are done in the order in which they were given. The thread is a daemon: it never keeps a process alive."""

    def __init__(self, reactor: FromThread, name: str) -> None:
        self._reactor = reactor
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        Thread(target=self._work, name=name, daemon=True).start()

    def run(self, job: Callable[[], T]) -> Deferred[T]:
        """Fire, in the reactor's thread, with what the job returned or raised."""
        done: Deferred[T] = Deferred()

        def work() -> None:
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001 - it is handed on, whatever it is
                self._reactor.callFromThread(done.errback, error)
            else:
                self._reactor.callFromThread(done.callback, result)

        self._jobs.put(work)
        return done

    def stop(self) -> None:
        """Let the thread end when the jobs given so far are done."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
