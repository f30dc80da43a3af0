# Trial's assertions are not annotated.
# mypy: allow-untyped-calls
"""The shared store keeps the promise of every store, on one Redis and on a master with a replica under Sentinel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from calledind.settings.tables import Redis
from calledind.store.interface import Store
from calledind.store.redis import RedisStore
from tests.store.contract import StoreContract
from tests.store.redis_case import ROUTE, cluster, one_server


class RedisContract(StoreContract, TestCase):
    """One master; every test has a prefix of its own."""

    timeout = 60.0

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())

    def settings(self) -> Redis:
        return Redis(address=one_server().address, prefix=f"{self.id()}:", timeout=5.0)

    def make_store(self) -> Store:
        """Return the store of a node; called again, one of its successor's."""
        some: Any = reactor
        return RedisStore(
            some,
            self.settings(),
            node="one",
            lease=10.0,
            instance="instance 1",
            folder=self.folder,
            route_of=lambda call: ROUTE,
            encodings=None,
            fresh_audio=600.0,
        )


class ReplicatedContract(RedisContract):
    """A master that a sentinel names, with a replica that must have each change."""

    def settings(self) -> Redis:
        sentinels = tuple(each.address for each in cluster().sentinels)
        return Redis(sentinels=sentinels, prefix=f"{self.id()}:", timeout=5.0, replicas=1)
