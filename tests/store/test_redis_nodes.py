# Trial's assertions are not annotated.
# mypy: allow-untyped-calls
"""Joining, fencing, leaving and taking over: each call is one node's, and no dead node's for ever."""

from __future__ import annotations

from calledind.model import State
from calledind.store.interface import Fenced, NodeStatus, OpenDialog, StoreUnavailable
from calledind.store.redis import RedisStore
from tests.store.contract import ANSWERED, BUSY, DIALOG, NOW, make_attempt
from tests.store.redis_case import LEASE, ROUTE, RedisCase, ids_of, numbered, pause


class JoinTests(RedisCase):
    async def test_nodes_are_seen_by_all(self) -> None:
        """All nodes see each other by name, with their heartbeats and what they say of themselves."""
        one, two = await self.node("one"), await self.node("two")
        await two.beat({"live": 3})
        await two.beat({"live": 4, "draining": False})
        seen = await one.nodes()
        self.assertEqual(
            seen,
            [
                NodeStatus("one", 0, 1, NOW, fenced=False, left=False, figures={"version": ""}),
                NodeStatus("two", 2, 2, NOW, fenced=False, left=False, figures={"live": 4, "draining": False}),
            ],
        )
        await two.close()
        self.ended.add(two)
        self.assertEqual([(each.name, each.left) for each in await one.nodes()], [("one", False), ("two", True)])

    async def test_restart_supersedes_the_former_epoch(self) -> None:
        """A node that is killed and started again is a new one at once, and has what the former had taken over."""
        store = await self.with_calls(1, 2)
        await self.taken(store)
        await store.begin_dialing("call1", make_attempt())
        await self.dies(store)
        again = await self.node()
        self.assertEqual([each.epoch for each in await again.nodes()], [2])
        self.assertEqual([record.call.id for record in await again.unfinished()], ["call1", "call2"])
        records, _, more = await again.take_over()
        self.assertEqual([(record.call.id, record.state) for record in records], [("call1", State.DIALING)])
        self.assertIs(more, False)
        self.assertEqual(await self.taken(again), ["call2"])
        self.assertIs(await again.settle("call1", BUSY, charge=False), True)

    async def test_name_of_a_living_node(self) -> None:
        """A node can't have the name of another that is alive; it is told so within a heartbeat of that one."""
        one = await self.node("one")
        joining = self.make_node("one", instance="another folder", lease=0.5).open()
        while not joining.called:
            await one.beat({})
            await pause(0.02)
        error = await self.assertFailure(joining, StoreUnavailable)
        self.assertIn("another node is called one", str(error))
        await one.beat({})

    async def test_name_of_a_dead_node(self) -> None:
        """Where the other node of this name has not beaten for a whole lease, it is fenced, and the name is free."""
        one = await self.with_calls(1)
        await self.taken(one)
        await self.dies(one)
        joining = self.make_node("one", instance="another folder", lease=0.5)
        opening = joining.open()
        self.addCleanup(joining.close)
        while not opening.called:
            self.monotonic += 0.2
            await pause(0.02)
        await opening
        self.assertEqual([(each.epoch, each.fenced) for each in await joining.nodes()], [(2, False)])
        await joining.take_over()
        self.assertEqual(await self.taken(joining), ["call1"])

    async def test_folder_of_a_running_node(self) -> None:
        """A second process on the folder of a running node does not start, and leaves that one alone."""
        one = await self.node("one")
        other = self.make_node("one")
        await self.assertFailure(other.open(), StoreUnavailable)
        await one.beat({})

    async def test_name_of_a_node_that_has_left(self) -> None:
        """A name whose node has taken leave is free at once."""
        one = await self.node("one")
        await one.close()
        self.ended.add(one)
        again = await self.node("one", instance="another folder")
        self.assertEqual([each.epoch for each in await again.nodes()], [2])


class LeaseTests(RedisCase):
    async def test_lease_runs_from_before_the_heartbeat(self) -> None:
        """A node relies on its lease for less than others wait, from when its last heartbeat was sent."""
        store = await self.node()
        self.assertAlmostEqual(store.lease_left(), 0.8 * LEASE)
        self.monotonic += 5.0
        self.assertAlmostEqual(store.lease_left(), 3.0)
        beating = store.beat({})
        self.monotonic += 1.0
        await beating
        self.assertAlmostEqual(store.lease_left(), 7.0)
        self.monotonic += 7.5
        self.assertEqual(store.lease_left(), 0.0)

    async def test_node_that_beats_is_not_fenced(self) -> None:
        """Fencing is a compare-and-set on the heartbeats and the epoch."""
        one, two = await self.node("one"), await self.node("two")
        await two.beat({})
        await two.beat({})
        self.assertIs(await one.fence("two", 2, 1), False)
        self.assertIs(await one.fence("two", 1, 2), False)
        self.assertIs(await one.fence("three", 2, 2), False)
        await two.beat({})
        self.assertIs(await one.fence("two", 2, 3), True)
        self.assertIs(await one.fence("two", 2, 3), True)
        self.assertIs((await one.nodes())[1].fenced, True)

    async def test_fenced_node_does_nothing_more(self) -> None:
        """A fenced node hears of it with its next heartbeat; until then it dials nothing, and is given nothing."""
        one = await self.with_calls(1, 2, 3)
        two = await self.node("two")
        await self.taken(one, 1)
        await self.is_fenced(one, by=two)
        self.assertIs(await one.begin_dialing("call1", make_attempt()), False)
        self.assertIs(await one.begin_dialing("call2", make_attempt()), False)
        self.assertEqual(await self.taken(one), [])
        self.assertEqual(await one.take_expired(NOW + 9), [])
        self.assertEqual(await one.take_over(), ([], [], False))
        await self.assertFailure(one.beat({}), Fenced)
        self.assertEqual(one.lease_left(), 0.0)
        await two.take_over()
        self.assertEqual(await self.taken(two), ["call1", "call2", "call3"])

    async def test_fenced_node_joins_again(self) -> None:
        """After `rejoin` a node works as a new one, with nothing of what it had."""
        one = await self.with_calls(1, 2)
        two = await self.node("two")
        await self.taken(one, 1)
        await self.is_fenced(one, by=two)
        await self.assertFailure(one.beat({}), Fenced)
        await one.rejoin()
        await one.beat({})
        self.assertTrue(one.lease_left() > 0)
        self.assertEqual([each.epoch for each in await one.nodes()], [3, 2])
        await one.take_over()
        self.assertEqual(await self.taken(one), ["call1", "call2"])

    async def test_late_word_of_a_call_that_waits_again(self) -> None:
        """What a fenced node decided on a call does not count once that waits again, joined anew or not."""
        one = await self.with_calls(1)
        two = await self.node("two")
        await self.taken(one)
        await self.is_fenced(one, by=two)
        await two.take_over()
        self.assertIs(await one.settle("call1", BUSY, charge=False), False)
        await self.taken(two)
        await two.give_back("call1", ROUTE)
        await one.rejoin()
        self.assertIs(await one.begin_dialing("call1", make_attempt()), False)
        self.assertEqual(await self.taken(one), ["call1"])
        self.assertIs(await one.begin_dialing("call1", make_attempt()), True)

    async def test_late_word_of_a_call_that_nobody_took_over_yet(self) -> None:
        """How a call ended is taken from a fenced node while nobody else has said so; its callback is anybody's."""
        one = await self.with_calls(1)
        two = await self.node("two")
        await self.taken(one)
        await one.begin_dialing("call1", make_attempt())
        await self.is_fenced(one, by=two)
        self.assertIs(await one.record_answer("call1", DIALOG, NOW), True)
        self.assertIs(await one.settle("call1", ANSWERED, charge=True), True)
        self.assertEqual(await one.pending_callbacks(), [])
        records, callbacks, _ = await two.take_over()
        self.assertEqual(([*records], [each.call.id for each in callbacks]), ([], ["call1"]))

    async def test_failover_that_lost_the_join(self) -> None:
        """A node whose epoch is gone from Redis is told that it is fenced, and the next epoch is a later one."""
        store = await self.node()
        for name in ("node:one", "live", "epochs"):
            self.raw("DEL", name)
        await self.assertFailure(store.beat({}), Fenced)
        await store.rejoin()
        await store.beat({})
        self.assertEqual([each.epoch for each in await store.nodes()], [2])


class OpenDialogTests(RedisCase):
    """A call that is answered here, when others have taken it over: they know nothing of the dialog."""

    async def answered_too_late(self) -> RedisStore:
        """Return a node that was told that call1 is not its own any more, as it said that it was answered."""
        one = await self.with_calls(1)
        two = await self.node("two")
        await self.taken(one)
        await one.begin_dialing("call1", make_attempt())
        await self.is_fenced(one, by=two)
        await two.take_over()
        self.assertIs(await one.record_answer("call1", DIALOG, NOW), False)
        self.assertIs(await two.settle("call1", BUSY, charge=False), True)
        return one

    async def test_process_ends(self) -> None:
        """Each next process is told of it, until it says that it has hung up."""
        one = await self.answered_too_late()
        self.assertEqual(await one.open_dialogs(), [])
        await self.dies(one)
        for _ in range(2):
            one = await self.node()
            self.assertEqual(await one.open_dialogs(), [OpenDialog("call1", DIALOG, "trunk 1")])
            await self.dies(one)
        one = await self.node()
        one.dialog_ended("call1")
        self.assertEqual(await one.open_dialogs(), [])
        await self.dies(one)
        self.assertEqual(await (await self.node()).open_dialogs(), [])

    async def test_process_hangs_up(self) -> None:
        """Where the call ends in this process, the next one hears nothing of it."""
        one = await self.answered_too_late()
        self.assertIs(await one.settle("call1", ANSWERED, charge=True), False)
        await self.dies(one)
        self.assertEqual(await (await self.node()).open_dialogs(), [])


class TakeOverTests(RedisCase):
    async def with_dead_node(self) -> RedisStore:
        """Return node "two", after "one" died: call1 taken, call2 dialling, call3 answered, call4 to be told."""
        one = await self.with_calls(1, 2, 3, 4, 5)
        await self.taken(one, 4)
        for index in (2, 3, 4):
            await one.begin_dialing(f"call{index}", make_attempt())
        await one.record_answer("call3", DIALOG, NOW)
        await one.settle("call4", BUSY, charge=False)
        await self.dies(one)
        two = await self.node("two")
        await self.is_fenced(one, by=two)
        return two

    async def test_all_is_taken_over(self) -> None:
        """What was not dialled waits again, what had begun comes with all that ends it, and so do callbacks."""
        two = await self.with_dead_node()
        records, callbacks, more = await two.take_over()
        self.assertEqual(
            sorted((record.call.id, record.state, record.dialog) for record in records),
            [("call2", State.DIALING, None), ("call3", State.ANSWERED, DIALOG)],
        )
        self.assertEqual([record.attempt for record in records], [make_attempt()] * 2)
        self.assertEqual([(each.call, each.outcome, each.tries) for each in callbacks], [(numbered(4), BUSY, 0)])
        self.assertIs(more, False)
        self.assertIs(await two.settle("call3", ANSWERED, charge=True), True)
        self.assertIs(await two.callback_delivered("call4", 1, NOW), True)
        self.assertEqual(await self.taken(two), ["call1", "call5"])
        self.assertEqual(await two.take_over(), ([], [], False))

    async def test_a_little_at_a_time(self) -> None:
        """No more than asked for is taken over at once, and each of it once, by whichever node."""
        two = await self.with_dead_node()
        three = await self.node("three")
        found: list[str] = []
        more, turns = True, 0
        while more:
            store = (two, three)[turns % 2]
            records, callbacks, more = await store.take_over(most=1)
            found += [*ids_of(records), *ids_of(callbacks)]
            turns += 1
        self.assertEqual(sorted(found), ["call2", "call3", "call4"])
        self.assertGreaterEqual(turns, 4)
        self.assertEqual(await two.waiting(), {ROUTE: 2})

    async def test_leave(self) -> None:
        """A node that takes leave gives all back at once: calls wait again, the rest is anybody's."""
        one = await self.with_calls(1, 2, 3)
        two = await self.node("two")
        await self.taken(one)
        await one.begin_dialing("call2", make_attempt())
        await one.settle("call3", BUSY, charge=False)
        await one.close()
        self.ended.add(one)
        self.assertEqual(await self.taken(two), ["call1"])
        records, callbacks, _ = await two.take_over()
        self.assertEqual([*ids_of(records), *ids_of(callbacks)], ["call2", "call3"])
        self.assertIs(await two.settle("call2", BUSY, charge=False), True)

    async def test_callbacks_of_nobody_are_claimed_once(self) -> None:
        """Callbacks that are nobody's are this node's once it has asked for them, and no other's."""
        one = await self.with_calls(1)
        await one.settle("call1", BUSY, charge=False)
        await one.close()
        self.ended.add(one)
        two, three = await self.node("two"), await self.node("three")
        self.assertEqual([each.call.id for each in await two.pending_callbacks()], ["call1"])
        self.assertEqual(await three.pending_callbacks(), [])
        self.assertIs(await three.callback_delivered("call1", 1, NOW), False)
        self.assertIs(await two.callback_postponed("call1", 1, NOW + 5), True)
        self.assertEqual([each.tries for each in await two.pending_callbacks()], [1])

    async def test_unfinished_of_others(self) -> None:
        """The calls that another living node is making are not among those that this one could take up."""
        one = await self.with_calls(1, 2)
        two = await self.node("two")
        await self.taken(one, 1)
        self.assertEqual([record.call.id for record in await two.unfinished()], ["call2"])
        self.assertEqual([record.call.id for record in await one.unfinished()], ["call1", "call2"])
        await self.is_fenced(one, by=two)
        self.assertEqual([record.call.id for record in await two.unfinished()], ["call1", "call2"])
