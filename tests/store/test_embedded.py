from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from calledind.store.embedded import EmbeddedStore
from calledind.store.interface import Store
from tests.store.contract import StoreContract


class EmbeddedContractTests(StoreContract, TestCase):
    """The embedded store keeps the contract."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())

    def make_store(self) -> Store:
        return EmbeddedStore(reactor, self.folder)
