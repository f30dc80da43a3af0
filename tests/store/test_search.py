# mypy: allow-untyped-calls
"""One page costs a bounded number of looks, however few calls fit."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from calledind.store import redis_calls, search
from calledind.store.interface import CallFilter, StoreUnavailable
from tests.store.contract import DIGEST, make_key
from tests.store.fakes import Bench
from tests.store.redis_case import RedisCase, numbered

EVERYTHING = CallFilter()
FEW_FIT = CallFilter(last_digits="02"), CallFilter(last_digits="02", key_id="key_1")


class EmbeddedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(search, "MOST_LOOKED_AT", 3)
        self.bench = Bench(Path(self.mktemp()))
        self.store = self.bench.store
        self.successResultOf(self.store.open())
        self.successResultOf(self.store.add_key(make_key(credits=9), DIGEST))
        for index in range(1, 9):
            self.successResultOf(self.store.accept(numbered(index)))

    def tearDown(self) -> None:
        self.successResultOf(self.store.close())

    def page(self, before: str, wanted: CallFilter = EVERYTHING) -> tuple[list[str], str]:
        found, after = self.successResultOf(self.store.calls(wanted, before=before))
        return [record.call.id for record in found], after

    def test_few_fit(self) -> None:
        """A page ends when so many calls were looked at; the next goes on from there, and the last one says so."""
        for wanted in FEW_FIT:
            self.assertEqual(self.page("", wanted), ([], "call6"))
            self.assertEqual(self.page("call6", wanted), ([], "call3"))
            self.assertEqual(self.page("call3", wanted), (["call2"], ""))

    def test_all_fit(self) -> None:
        """So it does where all fit."""
        self.assertEqual(self.page(""), (["call8", "call7", "call6"], "call6"))
        self.assertEqual(self.page("call3"), (["call2", "call1"], ""))

    def test_not_open(self) -> None:
        """A store that is closed is not searched."""
        self.successResultOf(self.store.close())
        self.failureResultOf(self.store.calls(CallFilter()), StoreUnavailable)


class RedisTests(RedisCase):
    async def test_few_fit(self) -> None:
        """In the shared store as well."""
        self.patch(redis_calls, "READ_CHUNK", 1)
        self.patch(redis_calls, "MOST_LOOKED_AT", 3)
        store = await self.with_calls(*range(1, 9))
        for wanted in FEW_FIT:
            before, pages = "", []
            while True:
                found, before = await store.calls(wanted, before=before)
                pages.append(([record.call.id for record in found], before))
                if not before:
                    break
            self.assertEqual(pages, [([], "call6"), ([], "call3"), (["call2"], "")])
