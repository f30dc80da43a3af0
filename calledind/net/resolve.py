"""Names to addresses, in threads of its own and by a deadline.

`getaddrinfo` is asked, so that a name means here what it means to every other program of the machine. It can't
be interrupted: a name server that never answers holds the thread for half a minute. Four bounds follow. The
threads are not the reactor's ten. A caller waits until the deadline, however long the thread does. One domain
holds only a few of the threads, so that a customer who makes up a thousand names below a tarpit of his own waits
for himself alone. And a name asked for again while it is being looked up, or shortly after, costs no thread.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol

from twisted.internet.defer import Deferred, fail, succeed

from calledind.net.turns import Turns

Lookup = Callable[[str], Sequence[str]]
"Blocking: name to numeric addresses, best first. Raises OSError or UnicodeError."


class ResolveError(Exception):
    """A name has no address, or none was found in time; the message says which, in words for people."""


class Resolver(Protocol):
    """What `GuardedAgent` needs of one; a table is enough for a test."""

    def resolve(self, host: str) -> Deferred[Sequence[str]]:
        """Give a name's numeric addresses, best first, at least one. Fails with `ResolveError`."""


def system_lookup(host: str) -> list[str]:
    """Ask the machine's own resolver for the IPv4 and IPv6 addresses of a name. Blocks."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def domain_of(host: str) -> str:
    """Give the part of a name that one owner probably has: the last two labels, three below such as "co.uk"."""
    labels = host.lower().rstrip(".").split(".")
    size = 3 if len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3 else 2
    return ".".join(labels[-size:])


class ThreadedResolver:
    """Looks names up in daemon threads, which are started when needed and hold up nobody's exit.

    `deadline`: seconds that a caller waits at most. `per_domain`: threads that one domain may hold.
    `keep`: seconds for which found addresses are given again; `keep_failure` the same for a name without any.
    """

    LARGEST_CACHE = 10_000
    "Names."

    def __init__(
        self,
        reactor: Any,
        *,
        threads: int = 48,
        per_domain: int = 6,
        deadline: float = 5.0,
        keep: float = 10.0,
        keep_failure: float = 2.0,
        lookup: Lookup = system_lookup,
    ) -> None:
        self._reactor = reactor
        self._most_threads = threads
        self._deadline = deadline
        self._keep = keep
        self._keep_failure = keep_failure
        self._lookup = lookup
        self._jobs: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._threads = 0
        self._busy = 0
        self._stopped = False
        self._turns: Turns[str] = Turns(self._begin, in_all=threads, per_host=per_domain)
        self._waiting: dict[str, list[Deferred[Sequence[str]]]] = {}
        self._cache: OrderedDict[str, tuple[float, Sequence[str] | ResolveError]] = OrderedDict()

    def resolve(self, host: str) -> Deferred[Sequence[str]]:
        """Give a name's numeric addresses, best first, at least one. Fails with `ResolveError`."""
        if self._stopped:
            return fail(ResolveError("shutting down"))
        until, known = self._cache.get(host, (0.0, ()))
        if until > self._reactor.seconds():
            # An exception of its own for each: whoever gets one may raise it, and it grows by where it was raised.
            return fail(ResolveError(*known.args)) if isinstance(known, ResolveError) else succeed(known)
        answer: Deferred[Sequence[str]] = Deferred()
        answer.addTimeout(self._deadline, self._reactor, onTimeoutCancel=_too_late)
        if host in self._waiting:
            self._waiting[host].append(answer)
        else:
            self._waiting[host] = [answer]
            self._turns.enter(domain_of(host), host)
        return answer

    def stop(self) -> None:
        """Let the threads end after what they are at, and fail whoever waits."""
        self._stopped = True
        for _ in range(self._threads):
            self._jobs.put(None)
        waiting, self._waiting = self._waiting, {}
        for answers in waiting.values():
            _tell(answers, ResolveError("shutting down"))

    def _begin(self, domain: str, host: str) -> None:
        if all(answer.called for answer in self._waiting.get(host, ())):
            # All who asked have gone: leave the thread to somebody else.
            self._waiting.pop(host, None)
            self._turns.leave(domain)
            return
        self._busy += 1
        if self._busy > self._threads and self._threads < self._most_threads:
            self._threads += 1
            threading.Thread(target=self._work, name=f"resolve-{self._threads}", daemon=True).start()
        self._jobs.put(host)

    def _work(self) -> None:
        """Be one of the threads."""
        while (host := self._jobs.get()) is not None:
            result: Sequence[str] | ResolveError
            try:
                result = self._lookup(host) or ResolveError("the name has no address")
            except (OSError, UnicodeError):
                result = ResolveError("the name does not resolve")
            except Exception as error:  # noqa: BLE001 - a thread that dies would keep its turn for ever
                result = ResolveError(f"the name could not be looked up: {type(error).__name__}")
            try:
                self._reactor.callFromThread(self._done, host, result)
            except RuntimeError:  # the reactor is gone
                return

    def _done(self, host: str, result: Sequence[str] | ResolveError) -> None:
        self._busy -= 1
        keep = self._keep_failure if isinstance(result, ResolveError) else self._keep
        self._cache[host] = (self._reactor.seconds() + keep, result)
        self._cache.move_to_end(host)
        if len(self._cache) > self.LARGEST_CACHE:
            self._cache.popitem(last=False)
        _tell(self._waiting.pop(host, ()), result)
        self._turns.leave(domain_of(host))


def _tell(answers: Sequence[Deferred[Sequence[str]]], result: Sequence[str] | ResolveError) -> None:
    for answer in answers:
        if not answer.called:
            if isinstance(result, ResolveError):
                answer.errback(ResolveError(*result.args))
            else:
                answer.callback(result)


def _too_late(_: object, seconds: float) -> NoReturn:
    raise ResolveError(f"the name was not found within {seconds:g} s")
