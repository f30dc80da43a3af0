# Trial's assertions are not annotated.
# mypy: allow-untyped-calls
"""Nodes on one real Redis, for tests: their clocks are in the test's hands, and answers can be lost."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from calledind.model import Call, CallRecord, PendingCallback, ReturnCode
from calledind.settings.tables import Redis
from calledind.store.interface import Limits
from calledind.store.redis import RedisStore
from calledind.store.redis_link import NotReplicated, Unanswered
from tests.store.contract import DIGEST, NOW, make_call, make_key
from tests.store.redis_server import Cluster, RedisServer

ROUTE = ("trunk 1", "trunk 2")
WIDE = Limits("trunk 1", 1000, 1000.0)
"Of a trunk that takes all."
LEASE = 10.0

clock: Any = reactor


def temporary_folder() -> Path:
    """Return a new folder that goes with the process."""
    folder = mkdtemp(prefix="calledin-redis-")
    atexit.register(rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def one_server() -> RedisServer:
    """Start the Redis that tests share, once; it ends with the process."""
    server = RedisServer(temporary_folder() / "redis")
    atexit.register(server.stop)
    return server.start()


@cache
def cluster() -> Cluster:
    """Start a master, its replica and a sentinel, once."""
    servers = Cluster(temporary_folder(), replicas=1, sentinels=1)
    atexit.register(servers.stop)
    return servers.start()


def pause(seconds: float) -> Deferred[None]:
    return deferLater(IReactorTime(clock), seconds, lambda: None)


async def until(what: str, ready: Callable[[], bool], seconds: float = 10.0) -> None:
    """Look until it is so."""
    for _ in range(int(seconds / 0.01)):
        if ready():
            return
        await pause(0.01)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def numbered(index: int, **others: Any) -> Call:
    """Return a call with a number and an age of its own."""
    return make_call(f"call{index}", number=("1", f"21255501{index:02d}"), at=NOW + index / 100, **others)


def ids_of(those: Iterable[CallRecord] | Iterable[PendingCallback]) -> list[str]:
    return [each.call.id for each in those]


class Losses:
    """What happens to a store's questions on their way: by name of the script, until they are all let through."""

    def __init__(self, store: RedisStore) -> None:
        self._run = store._link.run
        self.lost: set[str] = set()
        "Their answers are lost."
        self.unreplicated: set[str] = set()
        "They are done, and no replica has it."
        self.delayed: set[str] = set()
        "They are on their way until `arrive`, and their askers hear nothing."
        self._on_their_way: list[Callable[[], Deferred[Any]]] = []
        setattr(store._link, "run", self.run)  # noqa: B010 - mypy knows that it is a method

    def run(self, script: str, keys: Any, args: Any, *, replicated: bool = False) -> Deferred[Any]:
        if script in self.delayed:
            kept = tuple(args)
            self._on_their_way.append(lambda: self._run(script, keys, kept, replicated=replicated))
            return fail(Unanswered("the connection was lost"))
        asking = self._run(script, keys, args, replicated=replicated)
        if script in self.unreplicated:
            return asking.addCallback(self._lack)
        return asking.addCallback(self._lose) if script in self.lost else asking

    def _lack(self, reply: object) -> None:
        raise NotReplicated("0 of the 1 replicas answered in time", reply)

    def _lose(self, _: object) -> None:
        raise Unanswered("the connection was lost")

    def mend(self) -> None:
        self.lost.clear()
        self.unreplicated.clear()
        self.delayed.clear()

    async def arrive(self) -> list[Any]:
        """Let what is on its way arrive; return the answers."""
        waiting, self._on_their_way = self._on_their_way, []
        return [await ask() for ask in waiting]


class RedisCase(TestCase):
    """Makes nodes; each test has names of its own in the shared server."""

    timeout = 60.0

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.monotonic = 1000.0
        "The clock of all nodes' leases."
        self.library: dict[str, Mapping[str, bytes]] = {}
        self.uploads: list[str] = []
        self.ended: set[RedisStore] = set()

    def settings(self) -> Redis:
        return Redis(address=self.server().address, prefix=f"{self.id()}:", timeout=1.0)

    def server(self) -> RedisServer:
        return one_server()

    def make_node(self, name: str = "one", *, instance: str = "", audio: bool = False, lease: float = LEASE) -> Any:
        """Return a store that is not open yet."""
        return RedisStore(
            clock,
            self.settings(),
            node=name,
            lease=lease,
            instance=instance or f"folder of {name}",
            folder=self.folder / (instance or name),
            route_of=lambda call: ROUTE,
            encodings=self._encodings if audio else None,
            fresh_audio=600.0,
            now=lambda: NOW,
            monotonic=lambda: self.monotonic,
        )

    async def node(self, name: str = "one", **others: Any) -> RedisStore:
        """Return a node that has joined, and takes leave when the test is over, unless it `dies`."""
        store: RedisStore = self.make_node(name, **others)
        await store.open()
        self.addCleanup(self._close, store)
        return store

    async def _close(self, store: RedisStore) -> None:
        if store not in self.ended:
            await store.close()

    async def dies(self, store: RedisStore) -> None:
        """Have a node vanish without leave."""
        self.ended.add(store)
        store._opened = False
        await store.close()

    async def is_fenced(self, store: RedisStore, by: RedisStore) -> None:
        (status,) = [each for each in await by.nodes() if each.name == store._name]
        self.assertIs(await by.fence(status.name, status.epoch, status.beats), True)

    def _encodings(self, name: str) -> Deferred[Mapping[str, bytes]]:
        self.uploads.append(name)
        return succeed(self.library.get(name, {}))

    async def with_calls(self, *indices: int, credits: int = 1000, **others: Any) -> RedisStore:
        """Return node "one" that has accepted these calls of `numbered`."""
        store = await self.node()
        await store.add_key(make_key(credits=credits), DIGEST)
        for index in indices:
            self.assertIs(await store.accept(numbered(index, **others)), ReturnCode.ACCEPTED)
        return store

    async def taken(self, store: RedisStore, most: int = 100, limits: Limits = WIDE) -> list[str]:
        """Take calls; return their ids."""
        grants = await store.take(ROUTE, [limits], own=0, most=most)
        return [call.id for _, call in grants.calls if call is not None]

    async def figures(self, store: RedisStore, key_id: str = "key_1") -> tuple[int, int, int]:
        (key,) = [key for key in await store.keys() if key.id == key_id]
        return key.credits, key.held, key.charged

    def raw(self, *command: str | int) -> Any:
        """Ask Redis itself; the first argument's name gets the prefix of the test."""
        name, *others = command[1:]
        return self.server().call(command[0], f"{self.id()}:{name}", *others)

    def queued(self) -> int:
        """Ask Redis itself how many calls wait in all."""
        return sum(int(count) for count in self.raw("HVALS", "waiting"))
