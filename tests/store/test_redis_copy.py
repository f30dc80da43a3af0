# Trial's assertions are not annotated.
# mypy: allow-untyped-calls
"""The shared store as a file of the embedded one and back: nothing is lost, and it is of one moment."""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase, TestCase

from calledind.dialing.trunks import Trunks
from calledind.model import ReturnCode, State
from calledind.ranking import rank
from calledind.settings.tables import Redis, Trunk
from calledind.store.backup import Figures
from calledind.store.embedded import EmbeddedStore
from calledind.store.interface import Limits, StoreUnavailable
from calledind.store.redis import RedisStore
from calledind.store.redis_base import scripts
from calledind.store.redis_copy import Occupied, Target, copy_into_file, encodings_in, figures_in, figures_of
from calledind.store.redis_link import RedisLink
from calledind.store.redis_schema import check_schema, living
from calledind.store.restore import Places
from tests.store.contents import contents, fill, live_on, made, problems
from tests.store.contract import BUSY, NOW, make_attempt, make_call, make_key
from tests.store.redis_case import LEASE, ROUTE, one_server, pause

some: Any = reactor


class CopyCase(TestCase):
    """On the Redis that tests share, below a prefix of their own."""

    timeout = 120.0

    async def setUp(self) -> None:  # type: ignore[override]
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.prefix = f"{self.id()}[*]:"
        self.settings = Redis(address=one_server().address, prefix=self.prefix, timeout=5.0)
        self.link = RedisLink(reactor, self.settings, scripts())
        await self.link.start()
        self.addCleanup(self.link.stop)

    async def node(self, name: str = "one") -> RedisStore:
        """Return a store that has joined."""
        store = RedisStore(
            some,
            self.settings,
            node=name,
            lease=LEASE,
            instance=name,
            folder=self.folder / name,
            route_of=lambda call: ROUTE,
            encodings=None,
            fresh_audio=600.0,
        )
        await store.open()
        self.addCleanup(store.close)
        return store

    async def load(self, path: Path, **more: Any) -> None:
        target = Target(self.link, self.prefix)
        await target.make_ready(force=more.get("force", False))
        await target.load(path, lambda call: ROUTE)
        await target.finish(replicas=0)

    async def embedded(self, path: Path) -> EmbeddedStore:
        """Return a store that was opened on a file."""
        places = Places(self.folder / f"data of {path.name}")
        places.store.mkdir(parents=True)
        os.rename(path, places.database)
        store = EmbeddedStore(some, places.store)
        await store.open()
        self.addCleanup(store.close)
        return store


class RoundTrips(CopyCase):
    async def test_redis_and_back(self) -> None:
        """What was in Redis is the same after it was brought into a file, into Redis, and into a file again."""
        store = await self.node()
        await fill(store)
        await store.close()
        first, second = self.folder / "first", self.folder / "second"
        await made(store := await self.node(), first)
        await store.close()
        before = contents(first)
        self.assertEqual(problems(first), [])
        self.assertEqual(await figures_of(self.link, self.prefix), figures_in(first))
        with self.assertRaises(Occupied):
            await self.load(first)
        await self.load(first, force=True)
        self.assertEqual(await figures_of(self.link, self.prefix), figures_in(first))
        await made(await self.node(), second)
        self.assertEqual(contents(second), before)

    async def test_embedded_and_back(self) -> None:
        """What the embedded store had is the same after it was in Redis, its calls and ledgers in their order."""
        store = EmbeddedStore(some, self.folder / "store")
        await store.open()
        await fill(store)
        first, second = self.folder / "first", self.folder / "second"
        await made(store, first)
        await store.close()
        self.assertEqual(problems(first), [])
        await self.load(first)
        await made(await self.node(), second)
        self.assertEqual(contents(second), contents(first))

    async def test_both_answer_the_same(self) -> None:
        """Asked the same, a store in Redis and an embedded one on its copy answer the same."""
        store = await self.node()
        await fill(store, seed=2)
        file = self.folder / "file"
        await made(store, file)
        other = await self.embedded(file)
        for ask in (
            lambda each: each.keys(),
            lambda each: each.totals(),
            lambda each: each.check("key_0", "44", f"7{119:09d}", NOW + 119 * 1.7 + 59),
            lambda each: each.check("key_0", "44", f"7{119:09d}", NOW + 119 * 1.7 + 61),
            lambda each: each.check("key_0", "1", "0000000007", NOW),
            lambda each: each.find_key(bytes([2, 255]) * 16),
        ):
            self.assertEqual(await ask(other), await ask(store))
        for key_id in ("key_0", "key_1", "key_2", "key_3"):
            self.assertEqual(await other.ledger(key_id), await store.ledger(key_id))
        self.assertEqual(list(await other.do_not_call()), list(await store.do_not_call()))
        self.assertEqual(
            {each.call.id: (each.tries, each.due_at, each.outcome) for each in await other.pending_callbacks()},
            {each.call.id: (each.tries, each.due_at, each.outcome) for each in await store.pending_callbacks()},
        )

    async def test_nodes_go_on_with_what_was_brought(self) -> None:
        """After it was brought to Redis, calls are taken from the queue, and what was begun and due is taken over."""
        store = EmbeddedStore(some, self.folder / "store")
        await store.open()
        await fill(store)
        first = self.folder / "first"
        await made(store, first)
        await store.close()
        states = {row[0]: row[2] for row in contents(first)["calls"]}
        await self.load(first)
        node = await self.node()
        accepted = {call_id for call_id, state in states.items() if state == State.ACCEPTED}
        self.assertEqual(await node.waiting(), {ROUTE: len(accepted)})
        wide = [Limits(name, 1000, 100_000.0) for name in ROUTE]
        taken = await node.take(ROUTE, wide, own=0, most=1000)
        self.assertEqual({call.id for _, call in taken.calls if call is not None}, accepted)
        records, callbacks, more = await node.take_over(most=1000)
        self.assertFalse(more)
        begun = {call_id for call_id, state in states.items() if state in (State.DIALING, State.ANSWERED)}
        self.assertEqual({record.call.id for record in records}, begun)
        done = {call_id for call_id, state in states.items() if state == State.DONE}
        self.assertEqual({callback.call.id for callback in callbacks}, done)
        for record in records:
            self.assertTrue(await node.settle(record.call.id, BUSY, charge=False))
        self.assertTrue(await node.begin_dialing(sorted(accepted)[0], make_attempt(1)))
        entries = await node.ledger("key_0")
        self.assertEqual(entries[0].reason, "released")
        totals = await node.totals()
        self.assertEqual(totals.held, sum(totals.calls[state] for state in (State.ACCEPTED, State.DIALING)))

    async def test_an_empty_store(self) -> None:
        """A store without anything in it is brought to and fro like any other."""
        first, second = self.folder / "first", self.folder / "second"
        await made(await self.node(), first)
        await self.load(first)
        await made(await self.node("two"), second)
        self.assertEqual(contents(second), {"keys": [], "calls": [], "ledger": {}, "numbers": []})


class UnderLoad(CopyCase):
    async def test_each_copy_is_of_one_moment(self) -> None:
        """In copies that are made while two nodes accept, dial, settle, withdraw and credit, all books are right."""
        stores = [await self.node("one"), await self.node("two")]
        await fill(stores[0], calls=60)
        self.stop = False
        working = [self.work(stores[number % 2], number) for number in range(8)]
        try:
            for number in range(6):
                path = self.folder / f"copy {number}"
                await made(stores[number % 2], path)
                self.assertEqual(problems(path), [])
                self.assertTrue(figures_in(path).agree)
        finally:
            self.stop = True
            lived = sum(await gatherResults(working))
        self.assertGreater(lived, 50)
        with closing(sqlite3.connect(path)) as database:
            (count,) = database.execute("SELECT COUNT(*) FROM call").fetchone()
        self.assertGreater(count, 60)

    def work(self, store: RedisStore, number: int) -> Deferred[int]:
        return Deferred.fromCoroutine(self._work(store, number))

    async def _work(self, store: RedisStore, number: int) -> int:
        """Make calls until it is time to stop; return how many."""
        dice, count = random.Random(number), 0
        while not self.stop:
            count += 1
            key_id = f"key_{dice.randrange(3)}"
            number_called = ("1", f"9{number}{count:08d}")
            call = make_call(
                f"load{number}-{count}", key_id=key_id, number=number_called, at=NOW + 10_000 + count, secret=""
            )
            code = await store.accept(call)
            if code is ReturnCode.NO_CREDITS:
                await store.add_credits(key_id, 10, NOW + 10_000 + count, "more")
            elif dice.random() < 0.2:
                await self.link.run("withdraw", (self.prefix,), (call.id, "", "", 60))
            else:
                await live_on(store, call, dice)
        return count

    async def test_what_was_withdrawn_after_it_was_read_is_not_in_the_copy(self) -> None:
        """A call whose asker was told that it failed is in no copy that was finished after that."""
        store = await self.node()
        await store.add_key(make_key(credits=3), b"d" * 32)
        await store.accept(make_call("stays"))
        await store.accept(make_call("goes", number=("1", "2125550111")))
        path = self.folder / "copy"
        os.close(os.open(path, os.O_CREAT, 0o600))
        link, ask = self.link, self.link.bulk

        def bulk(*command: Any, timeout: float = 10.0) -> Deferred[Any]:
            if command[1] == scripts()["copy_ledgers"]:
                link.bulk = ask  # type: ignore[method-assign]
                withdrawing = link.run("withdraw", (self.prefix,), ("goes", "", "", 60))
                return withdrawing.addCallback(lambda _: ask(*command, timeout=timeout))
            return ask(*command, timeout=timeout)

        link.bulk = bulk  # type: ignore[method-assign]
        await copy_into_file(some, link, self.prefix, path)
        self.assertEqual(problems(path), [])
        self.assertEqual([row[0] for row in contents(path)["calls"]], ["stays"])

    async def test_a_lost_connection_fails_the_copy(self) -> None:
        """A copy that was read over two connections may be of two masters, and is not given out."""
        store = await self.node()
        await fill(store, calls=5)
        path = self.folder / "copy"
        os.close(os.open(path, os.O_CREAT, 0o600))
        ask = self.link.bulk

        def bulk(*command: Any, timeout: float = 10.0) -> Deferred[Any]:
            if command[0] == "SSCAN":
                spare = self.link._spare
                assert spare is not None
                spare.give_up("the test wants it so")
            return ask(*command, timeout=timeout)

        self.link.bulk = bulk  # type: ignore[method-assign]
        with self.assertRaisesRegex(StoreUnavailable, "connection to Redis was lost"):
            await copy_into_file(some, self.link, self.prefix, path)


class Schema(CopyCase):
    async def check(self, ours: int, changes: Any = None) -> None:
        await check_schema(self.link, self.prefix, lease=0.2, pause=pause, ours=ours, changes=changes or {})

    async def test_a_newer_schema_is_refused(self) -> None:
        """A node does not join a store that a newer calledin has written, and says which to start."""
        await self.check(3)
        await self.check(3)
        with self.assertRaisesRegex(StoreUnavailable, "newer calledin .schema 3; this one knows 2"):
            await self.check(2)

    async def test_an_older_schema_is_upgraded(self) -> None:
        """What an older calledin has written is brought to today's schema step by step, once."""
        await self.check(1)
        made = []

        async def first(link: RedisLink, prefix: str) -> None:
            made.append((1, prefix))

        async def second(link: RedisLink, prefix: str) -> None:
            made.append((2, prefix))

        await self.check(3, {1: first, 2: second})
        await self.check(3, {})
        self.assertEqual(made, [(1, self.prefix), (2, self.prefix)])

    async def test_schema_1(self) -> None:
        """Calls that wait there wait on, and expire."""
        store = await self.node()
        await store.add_key(make_key(credits=9), b"digest")
        for number in (2, 1):
            await store.accept(make_call(f"call{number}", number=("1", f"201555000{number}"), at=NOW + number))
        while not await store.waiting():
            await pause(0.02)
        await store.close()
        await self.link.bulk("DEL", self.prefix + "lines")
        await self.link.bulk("ZADD", self.prefix + "queue", NOW + 1, "call1")
        await self.link.bulk("SET", self.prefix + "schema", 1)
        again = await self.node("two")
        self.assertFalse(await self.link.bulk("EXISTS", self.prefix + "queue"))
        self.assertEqual([call.id for call in await again.take_expired(NOW + 2)], ["call1"])
        self.assertEqual([call.id for call in await again.take_expired(NOW + 3)], ["call2"])

    async def test_no_upgrade_below_nodes_that_live(self) -> None:
        """A store is not upgraded while nodes of the version before work on it."""
        store = await self.node()
        beating = True

        async def beat() -> None:
            while beating:
                await store.beat({})
                await pause(0.02)

        done = Deferred.fromCoroutine(beat())
        try:
            with self.assertRaisesRegex(StoreUnavailable, "one still work on it"):
                await self.check(3)
            self.assertEqual(await living(self.link, self.prefix, lease=0.2, pause=pause), ["one"])
        finally:
            beating = False
            await done
        self.assertEqual(await living(self.link, self.prefix, lease=0.2, pause=pause), [])

    async def test_half_a_store_is_refused(self) -> None:
        """A node does not join while everything is on its way to Redis; the next try begins anew."""
        store = EmbeddedStore(some, self.folder / "store")
        await store.open()
        await fill(store, calls=40)
        file = self.folder / "file"
        await made(store, file)
        await store.close()
        target = Target(self.link, self.prefix)
        await target.make_ready(force=False)
        await target.load(file, lambda call: ROUTE)
        with self.assertRaisesRegex(StoreUnavailable, "cut short"):
            await self.node()
        await self.load(file)
        self.assertEqual(await figures_of(self.link, self.prefix), figures_in(file))
        await self.node()

    async def test_what_is_cleared(self) -> None:
        """Of names that begin as ours do, those of another prefix and the epochs stay."""
        store = await self.node()
        await fill(store, calls=10)
        await store.close()
        other = self.prefix + "b:keys"
        await self.link.bulk("SET", other, "x")
        epochs = await self.link.bulk("GET", self.prefix + "epochs")
        await Target(self.link, self.prefix).make_ready(force=True)
        empty = Figures(0, 0, 0, 0, 0, dict.fromkeys(State, 0), 0, 0, 0)
        self.assertEqual(await figures_of(self.link, self.prefix), empty)
        self.assertEqual(await self.link.bulk("GET", other), b"x")
        self.assertEqual(await self.link.bulk("GET", self.prefix + "epochs"), epochs)


class Audio(CopyCase):
    async def test_audio(self) -> None:
        """Audio is found by nodes for as long as it was kept for."""
        (self.folder / "abc.pcmu").write_bytes(b"\xff" * 100)
        (self.folder / "abc.g722").write_bytes(b"\x00\r\n" * 10)
        encodings = encodings_in(self.folder, "abc")
        await Target(self.link, self.prefix).keep_audio("abc", encodings, 60.5)
        self.assertEqual(await (await self.node()).find_audio("abc"), encodings)
        self.assertEqual(await self.link.bulk("TTL", self.prefix + "audio:abc"), 60)


names = st.lists(st.sampled_from("abcdef"), unique=True, max_size=6)
prefixes = st.lists(st.sampled_from(["1", "12", "121", "44", "447"]), max_size=3).map(tuple)


class Routes(SynchronousTestCase):
    @given(names, st.lists(st.tuples(prefixes, st.integers(1, 3)), min_size=6, max_size=6))
    @settings(deadline=None)
    def test_rank(self, names: list[str], more: list[tuple[tuple[str, ...], int]]) -> None:
        """A call that is brought to Redis waits for the trunks that the dialer would have it wait for."""
        trunks = [
            Trunk(name=name, host="a", prefixes=prefixes, priority=priority)
            for name, (prefixes, priority) in zip(names, more, strict=False)
        ]
        for number in ("12125550100", "447125550100"):
            code, rest = number[:-10], number[-10:]
            dialing = Trunks(trunks, lambda trunk: SimpleNamespace(settings=trunk))  # type: ignore[arg-type,return-value]
            self.assertEqual(rank(trunks, number), dialing.route(code, rest))
