# Trial's assertions are not annotated.
# mypy: allow-untyped-calls
"""Redis that stands still, dies, comes back, or lacks its replica: everything is bounded, and recovers by itself."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.defer import Deferred

from calledind.model import CallRecord, ReturnCode, State
from calledind.settings.tables import Redis
from calledind.store.interface import OpenDialog, StoreUnavailable
from calledind.store.redis import RedisStore
from tests.store.contract import BUSY, DIALOG, NOW, make_attempt
from tests.store.redis_case import ROUTE, WIDE, RedisCase, cluster, numbered, pause, until
from tests.store.redis_server import Cluster, RedisServer


class OutageTests(RedisCase):
    """Each test has a server of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.own = RedisServer(self.folder.absolute() / "redis").start()
        self.addCleanup(self.own.stop)

    def server(self) -> RedisServer:
        return self.own

    async def refused(self, asking: Deferred[Any], seconds: float) -> None:
        """Fail unless the question is refused within that time."""
        since = time.monotonic()
        await self.assertFailure(asking, StoreUnavailable)
        self.assertLess(time.monotonic() - since, seconds)

    async def test_redis_stands_still(self) -> None:
        """While Redis does not answer, new calls are refused in time; what ended meanwhile is told afterwards."""
        store = await self.with_calls(1, 2, 3, credits=9)
        await store.begin_dialing("call1", make_attempt())
        self.own.pause()
        settled: list[bool] = []
        for index in (1, 2):
            store.settle(f"call{index}", BUSY, charge=index == 1).addCallback(settled.append)
        await self.refused(store.accept(numbered(4)), 1.4)
        self.assertIs(store.healthy(), False)
        await self.refused(store.accept(numbered(5)), 0.1)
        await self.refused(store.take(ROUTE, [WIDE], own=0, most=9), 0.1)
        await self.refused(store.beat({}), 0.1)
        self.assertEqual(settled, [])
        store.release("trunk 1")
        self.own.resume()
        await until("both are settled", lambda: settled == [True, True])
        await until("it is well", store.healthy)
        # What Redis found in its socket when it went on was withdrawn.
        await until("it is withdrawn", lambda: self.raw("ZSCORE", "withdrawn", "call4") is not None)
        self.assertIsNone(await store.find_call("call4"))
        self.assertEqual(await self.figures(store), (7, 1, 1))
        self.assertIs(await store.accept(numbered(5)), ReturnCode.ACCEPTED)

    async def test_answer_while_redis_is_away(self) -> None:
        """That a call was answered is on this machine's disk at once, and in Redis when that is back."""
        store = await self.with_calls(1)
        await store.begin_dialing("call1", make_attempt())
        self.own.kill()
        self.assertIs(await store.record_answer("call1", DIALOG, NOW), True)
        settling = store.settle("call1", BUSY, charge=True)
        await self.refused(store.begin_dialing("call1", make_attempt(2)), 1.4)
        self.own.start()
        self.assertIs(await settling, True)
        record = await store.find_call("call1")
        assert record is not None
        self.assertEqual((record.state, record.dialog, record.outcome), (State.DONE, DIALOG, BUSY))

    async def test_process_ends_while_redis_is_away(self) -> None:
        """What became of calls while Redis was away is told by the next process, before anything is taken over."""
        store = await self.with_calls(1, 2)
        await self.taken(store)
        await store.begin_dialing("call1", make_attempt())
        self.own.kill()
        settling = store.settle("call1", BUSY, charge=False)
        await until("it is on disk", lambda: len(store._late) == 1)
        await store.record_answer("call2", DIALOG, NOW)
        await store.close()
        self.ended.add(store)
        await self.assertFailure(settling, StoreUnavailable)
        self.own.start()
        again = await self.node()
        record = await again.find_call("call1")
        assert record is not None
        self.assertEqual((record.state, record.outcome), (State.DONE, BUSY))
        records, callbacks, _ = await again.take_over()
        self.assertEqual(([*records], [*callbacks]), ([], []))
        self.assertEqual([each.call.id for each in await again.pending_callbacks()], ["call1"])
        self.assertEqual(await self.taken(again), ["call2"])

    async def test_process_ends_with_an_open_dialog(self) -> None:
        """Who picks up while Redis is away, and is taken over, is hung up by the next process, unless it had been."""
        store = await self.with_calls(1, 2)
        two = await self.node("two")
        await self.taken(store)
        for index in (1, 2):
            await store.begin_dialing(f"call{index}", make_attempt())
        self.own.kill()
        for index in (1, 2):
            self.assertIs(await store.record_answer(f"call{index}", DIALOG, NOW), True)
        settling = store.settle("call2", BUSY, charge=False)
        await until("it is on disk", lambda: len(store._late) == 3)
        await self.dies(store)
        await self.assertFailure(settling, StoreUnavailable)
        self.own.start()
        await until("the other is well", two.healthy)
        await self.is_fenced(store, by=two)
        records, _, _ = await two.take_over()
        for record in records:
            self.assertEqual((record.state, record.dialog), (State.DIALING, None))
            self.assertIs(await two.settle(record.call.id, BUSY, charge=False), True)
        again = await self.node()
        self.assertEqual(await again.open_dialogs(), [OpenDialog("call1", DIALOG, "trunk 1")])

    async def test_restart_of_redis(self) -> None:
        """A Redis that is killed and started again has all that was answered, and is used again by itself."""
        store = await self.with_calls(1, 2)
        await store.begin_dialing("call1", make_attempt())
        await store.add_do_not_call([("1", "0000000000")])
        before = await store.totals()
        self.own.kill()
        await until("it is noticed", lambda: not store.healthy())
        self.own.start()
        await until("it is well", store.healthy)
        self.assertEqual(await store.totals(), before)
        self.assertEqual(await store.find_call("call1"), CallRecord(numbered(1), State.DIALING, make_attempt()))
        await store.beat({})
        self.assertEqual(await self.taken(store), ["call2"])

    async def test_keys_are_forgotten_with_the_connection(self) -> None:
        """A node that lost its connection may have missed a change of a key, and asks for it again."""
        store = await self.with_calls()
        await store.find_key(b"digest of the key".join((b"\x00\xff", b"")).ljust(32, b"\0"))
        self.assertNotEqual(store._cache._keys, {})
        self.own.kill()
        self.own.start()
        await until("it has forgotten", lambda: not store._cache._keys)

    async def test_redis_is_lost_while_a_node_starts(self) -> None:
        """A node that is about to join when Redis is started again joins after that."""
        for lost_at in ("schema", "join"):
            store: RedisStore = self.make_node()
            self.lose_redis_at(lost_at, store)
            await store.open()
            self.assertEqual([each.name for each in await store.nodes()], ["one"])
            await store.beat({})
            await store.close()

    def lose_redis_at(self, script: str, store: RedisStore) -> None:
        """Have Redis killed and started again when the node has just sent this script."""
        run = store._link.run

        def run_and_lose(name: str, *others: Any, **more: Any) -> Deferred[Any]:
            answer: Deferred[Any] = run(name, *others, **more)
            if name == script:
                store._link.run = run  # type: ignore[method-assign]
                self.own.kill()
                self.own.start()
            return answer

        store._link.run = run_and_lose  # type: ignore[assignment, method-assign]

    async def test_start_without_redis(self) -> None:
        """A node does not start without Redis, and says why."""
        self.own.kill()
        store: RedisStore = self.make_node()
        opening: Deferred[Any] = store.open()
        error = await self.assertFailure(opening, StoreUnavailable)
        self.assertIn(self.own.address, str(error))
        self.assertIs(store.healthy(), False)
        await store.close()


class FailoverTests(RedisCase):
    """A master that dies, and a replica that takes its place."""

    def setUp(self) -> None:
        super().setUp()
        self.cluster = Cluster(self.folder.absolute(), replicas=1, sentinels=1).start()
        self.addCleanup(self.cluster.stop)
        self.assertEqual(self.server().calls(("SET", "first", 1), ("WAIT", 1, 10_000)), [b"OK", 1])

    def server(self) -> RedisServer:
        return self.cluster.master()

    def settings(self) -> Redis:
        sentinels = tuple(each.address for each in self.cluster.sentinels)
        return Redis(sentinels=sentinels, prefix=f"{self.id()}:", timeout=1.0)

    async def test_master_dies(self) -> None:
        """The node finds the new master by itself, and goes on with what it had."""
        store = await self.with_calls(1, 2, 3)
        await self.taken(store, 2)
        await store.begin_dialing("call1", make_attempt())
        self.assertEqual(self.server().calls(("SET", "last", 1), ("WAIT", 1, 10_000)), [b"OK", 1])
        before = self.server()
        before.kill()
        settling = store.settle("call1", BUSY, charge=False)
        self.assertIs(await settling, True)
        await until("it is well", store.healthy)
        self.assertNotEqual(self.server().port, before.port)
        await store.beat({})
        self.assertEqual(await self.taken(store), ["call3"])
        self.assertIs(await store.begin_dialing("call2", make_attempt()), True)
        self.assertIs(await store.accept(numbered(4)), ReturnCode.ACCEPTED)


class ReplicaTests(RedisCase):
    """A master whose replica must have each change."""

    def setUp(self) -> None:
        super().setUp()
        # A replica that has only just been found acknowledges nothing in its first second.
        self.assertEqual(self.server().calls(("SET", "first", 1), ("WAIT", 1, 10_000)), [b"OK", 1])

    def server(self) -> RedisServer:
        return cluster().master()

    def settings(self) -> Redis:
        sentinels = tuple(each.address for each in cluster().sentinels)
        return Redis(sentinels=sentinels, prefix=f"{self.id()}:", timeout=1.0, replicas=1)

    async def test_replica_is_missing(self) -> None:
        """Without its replica no call is accepted and none dialled; what ended is told when the replica is back."""
        store = await self.with_calls(1, 2, credits=9)
        await self.taken(store)
        (replica,) = [each for each in cluster().servers if each is not self.server()]
        replica.pause()
        self.addCleanup(replica.resume)
        await self.assertFailure(store.accept(numbered(3)), StoreUnavailable)
        self.assertIs(store.healthy(), False)
        await self.assertFailure(store.begin_dialing("call1", make_attempt()), StoreUnavailable)
        settling = store.settle("call2", BUSY, charge=True)
        await store.beat({})
        replica.resume()
        self.assertIs(await settling, True)
        await until("it is well", store.healthy)
        await until("it is withdrawn", lambda: self.raw("ZSCORE", "withdrawn", "call3") is not None)
        other = type(make_attempt())(1, "trunk 2", "{}")
        self.assertIs(await store.begin_dialing("call1", other), True)
        self.assertEqual(await self.figures(store), (7, 1, 1))

    async def test_connection_to_a_master_without_replica(self) -> None:
        """After a new connection the store is well when the replica has answered, and not before."""
        store = await self.with_calls(1)
        (replica,) = [each for each in cluster().servers if each is not self.server()]
        replica.pause()
        self.addCleanup(replica.resume)
        self.server().call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until("it is connected again", lambda: not store.healthy() and store._link.trouble is None)
        for _ in range(30):
            self.assertIs(store.healthy(), False)
            await pause(0.01)
        replica.resume()
        await until("it is well", store.healthy)
        self.assertIs(await store.accept(numbered(2)), ReturnCode.ACCEPTED)
