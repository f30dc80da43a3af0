# mypy: allow-untyped-calls
"""A call that is to be hung up is taken out of the queue that nodes share, or its node is told."""

from __future__ import annotations

from calledind.model import EndedBy, State
from calledind.store.interface import StoreUnavailable
from calledind.store.redis_link import Unanswered
from tests.store.contract import BUSY, make_attempt
from tests.store.redis_case import ROUTE, Losses, RedisCase, until


class TakeOneTests(RedisCase):
    async def test_one_that_waits(self) -> None:
        """A call is taken out of the middle of the queue, and is nobody else's then."""
        one = await self.with_calls(1, 2, 3)
        two = await self.node("two")
        call = await two.take_one("call2")
        self.assertEqual(call and call.id, "call2")
        self.assertEqual(await one.waiting(), {ROUTE: 2})
        self.assertEqual(await self.taken(one), ["call1", "call3"])
        self.assertIs(await one.settle("call2", BUSY, charge=False), False)
        self.assertIs(await two.settle("call2", BUSY, charge=False), True)

    async def test_one_that_does_not_wait(self) -> None:
        """What is taken, dialled, ended or nowhere is not taken."""
        one = await self.with_calls(1, 2)
        two = await self.node("two")
        self.assertEqual(await self.taken(one, 1), ["call1"])
        await one.begin_dialing("call1", make_attempt())
        await one.settle("call2", BUSY, charge=False)
        for call_id in ("call1", "call2", "call3"):
            self.assertIsNone(await two.take_one(call_id))
        self.assertIs(await one.settle("call1", BUSY, charge=False), True)

    async def test_lost_answer(self) -> None:
        """A call that was taken by a question whose answer was lost waits again when the next is asked."""
        store = await self.with_calls(1, 2)
        losses = Losses(store)
        losses.lost = {"take_one"}
        await self.assertFailure(store.take_one("call1"), Unanswered)
        losses.mend()
        self.assertIsNone(await store.take_one("call3"))
        self.assertEqual(await store.waiting(), {ROUTE: 2})
        record = await store.find_call("call1")
        self.assertIs(record and record.state, State.ACCEPTED)


class AskTests(RedisCase):
    async def test_all_nodes_hear(self) -> None:
        """Each node hears of a call that is to be hung up, and by whom; what it knows of keys is not touched."""
        heard: list[str] = []
        stores = [await self.node(name) for name in ("one", "two", "three")]
        for name, store in zip(("one", "two", "three"), stores, strict=True):
            store.hang_up = lambda call_id, by, name=name: heard.append(f"{name} {call_id} {by}")  # type: ignore[misc]
        for by in (EndedBy.CUSTOMER, EndedBy.OPERATOR):
            heard.clear()
            await stores[0].ask_to_hang_up("call1", by)
            await until("all have heard", lambda: len(heard) == 3)
            self.assertEqual(sorted(heard), [f"{name} call1 {by}" for name in ("one", "three", "two")])

    async def test_away(self) -> None:
        """Who can't tell the others is told."""
        store = await self.node()
        await self.dies(store)
        await self.assertFailure(store.ask_to_hang_up("call1", EndedBy.CUSTOMER), StoreUnavailable)
