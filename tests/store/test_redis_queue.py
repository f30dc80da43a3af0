# Trial's assertions are not annotated.
# mypy: allow-untyped-calls
"""The queue and the limits that nodes share: whose turn it is, who has a call, how many a trunk takes of all."""

from __future__ import annotations

from twisted.internet.defer import gatherResults

from calledind.model import ReturnCode, State
from calledind.store.interface import Limits
from tests.store.contract import BUSY, DIGEST, NOW, make_attempt, make_call, make_key
from tests.store.redis_case import ROUTE, WIDE, RedisCase, numbered, pause, until

TWO = Limits("trunk 1", 2, 1000.0)
EVERYTHING = Limits("trunk 1", 10**6, 1e6)
OTHER_ROUTE = ("trunk 3",)


class TurnTests(RedisCase):
    async def test_first_call_of_a_key_comes_first(self) -> None:
        """The calls of one key are taken in the order of their acceptance."""
        store = await self.with_calls(3, 1, 2)
        self.assertEqual(await self.taken(store), ["call1", "call2", "call3"])

    async def test_keys_take_turns(self) -> None:
        """A key with many calls delays another's single one by one turn."""
        store = await self.with_calls(1, 2, 3, 4)
        for index, key_id in ((5, "key_2"), (6, "key_3"), (7, "key_2")):
            if index != 7:
                await store.add_key(make_key(key_id, credits=9), key_id.encode())
            self.assertIs(await store.accept(numbered(index, key_id=key_id)), ReturnCode.ACCEPTED)
        self.assertEqual(await self.taken(store, 2), ["call1", "call5"])
        self.assertEqual(await self.taken(store), ["call6", "call2", "call7", "call3", "call4"])

    async def test_each_call_is_taken_once(self) -> None:
        """What one node has taken no other is given, nor may it dial that."""
        one = await self.with_calls(1, 2, 3)
        two = await self.node("two")
        self.assertEqual(await self.taken(one, 2), ["call1", "call2"])
        self.assertEqual(await self.taken(two), ["call3"])
        self.assertIs(await two.begin_dialing("call1", make_attempt()), False)
        self.assertIs(await two.settle("call1", BUSY, charge=False), False)
        self.assertIs(await two.give_back("call1", ROUTE), False)
        self.assertIs(await one.begin_dialing("call1", make_attempt()), True)
        self.assertIs(await two.record_answer("call1", "dialog", NOW), False)
        self.assertIs(await one.record_answer("call1", "dialog", NOW), True)

    async def test_waiting_is_counted(self) -> None:
        """How many calls wait is known for each route, and in all; a call that is settled waits no more."""
        store = await self.with_calls(1, 2, 3)
        self.assertEqual(await store.waiting(), {ROUTE: 3})
        self.assertEqual(store.queued(), 3)
        await store.settle("call2", BUSY, charge=False)
        await self.taken(store, 1)
        self.assertEqual(store.queued(), 1)
        self.assertEqual(await store.waiting(), {ROUTE: 1})
        self.assertEqual(await self.taken(store), ["call3"])
        self.assertEqual(await store.waiting(), {})

    async def test_call_that_is_dialled_at_once_waits_no_more(self) -> None:
        """A call of nobody's may be dialled without being taken; nobody is given it then."""
        store = await self.with_calls(1, 2)
        self.assertIs(await store.begin_dialing("call1", make_attempt()), True)
        self.assertEqual(await self.taken(store), ["call2"])
        self.assertEqual(await store.waiting(), {})

    async def test_given_back_goes_in_front(self) -> None:
        """A call that is given back is the next that is taken, by whichever node, and given back once."""
        one = await self.with_calls(1, 2, 3)
        two = await self.node("two")
        await self.taken(one, 2)
        for _ in range(2):
            self.assertIs(await one.give_back("call1", ROUTE), True)
        self.assertEqual(await one.waiting(), {ROUTE: 2})
        self.assertEqual(await self.taken(two), ["call1", "call3"])
        self.assertIs(await one.give_back("call1", ROUTE), False)
        self.assertIs(await one.begin_dialing("call2", make_attempt()), True)
        self.assertIs(await one.give_back("call2", ROUTE), False)
        self.assertIs(await one.give_back("call9", ROUTE), False)

    async def test_given_back_to_another_route(self) -> None:
        """A call may wait for another route than before."""
        store = await self.with_calls(1, 2)
        await self.taken(store, 1)
        self.assertIs(await store.give_back("call1", OTHER_ROUTE), True)
        self.assertEqual(await store.waiting(), {ROUTE: 1, OTHER_ROUTE: 1})
        grants = await store.take(OTHER_ROUTE, [Limits("trunk 3", 9, 100.0)], own=0, most=9)
        self.assertEqual([(trunk, call.id) for trunk, call in grants.calls if call], [("trunk 3", "call1")])

    async def test_what_waited_too_long_is_taken_out(self) -> None:
        """Calls accepted before a moment are taken out, the oldest first, and are this node's to end."""
        one = await self.with_calls(3, 1, 2, 4)
        two = await self.node("two")
        expired = await one.take_expired(NOW + 0.03, most=9)
        self.assertEqual([call.id for call in expired], ["call1", "call2"])
        self.assertEqual(await two.take_expired(NOW + 0.03), [])
        self.assertIs(await two.settle("call1", BUSY, charge=False), False)
        self.assertIs(await one.settle("call1", BUSY, charge=False), True)
        self.assertEqual(await self.taken(two), ["call3", "call4"])

    async def test_expired_calls_of_many_keys(self) -> None:
        """Those of all keys are taken out, some at a time, and no line is looked at for ever."""
        store = await self.with_calls(1, 5)
        await store.add_key(make_key("key_2", credits=9), b"digest 2")
        for number in (2, 3, 7):
            await store.accept(numbered(number, key_id="key_2"))
        await until("they wait", lambda: self.queued() == 5)
        self.assertEqual(await self.taken(store, 1), ["call1"])
        # The line of the first key is named for a call that it does not have any more.
        self.assertEqual([call.id for call in await store.take_expired(NOW + 0.03, most=1)], ["call2"])
        self.assertEqual([call.id for call in await store.take_expired(NOW + 0.07, most=1)], ["call3"])
        self.assertEqual([call.id for call in await store.take_expired(NOW + 0.07)], ["call5"])
        self.assertEqual([call.id for call in await store.take_expired(NOW + 0.08)], ["call7"])
        self.assertEqual(self.raw("EXISTS", "lines"), 0)
        self.assertEqual(await store.waiting(), {})
        self.assertEqual(await self.taken(store), [])

    async def test_expired_behind_many_lines(self) -> None:
        """However many keys had older calls that were taken since, one that waited too long is found at once."""
        store = await self.node()

        async def accept(key: int, after: float) -> None:
            at = NOW + after
            call = make_call(f"call{at}-{key}", key_id=f"key_{key}", number=("1", f"{int(after):04}{key:06}"), at=at)
            self.assertIs(await store.accept(call), ReturnCode.ACCEPTED)

        for key in range(250):
            await store.add_key(make_key(f"key_{key}", credits=9), b"digest %d" % key)
            for after in (1.0, 30.0):
                await accept(key, after)
        self.assertEqual(len(await self.taken(store, 250, EVERYTHING)), 250)
        await accept(7, 20.0)
        await until("it waits", lambda: self.queued() == 251)
        self.assertEqual([call.accepted_at for call in await store.take_expired(NOW + 25.0)], [NOW + 20.0])
        self.assertEqual(len(await store.take_expired(NOW + 31.0, most=1000)), 250)
        self.assertEqual(self.raw("EXISTS", "lines"), 0)

    async def test_stranded_calls_are_taken_out(self) -> None:
        """Calls of a route without trunks are taken without a channel, a bounded number at a time."""
        store = await self.with_calls(1, 2, 3)
        self.assertEqual([call.id for call in await store.take_stranded(ROUTE, most=2)], ["call1", "call2"])
        self.assertEqual([call.id for call in await store.take_stranded(ROUTE)], ["call3"])
        self.assertEqual(await store.take_stranded(ROUTE), [])
        self.assertIs(await store.give_back("call2", ROUTE), True)

    async def test_failover_that_lost_a_claim(self) -> None:
        """A call that waits although somebody has it is passed over."""
        store = await self.with_calls(1, 2)
        self.raw("HSET", "call:call1", "owner", "two:7")
        self.assertEqual(await self.taken(store), ["call2"])
        self.assertEqual(await store.waiting(), {})


class LimitTests(RedisCase):
    async def test_channels_are_of_all_nodes(self) -> None:
        """No more calls are given than all nodes together have channels; one that comes free is given again."""
        one = await self.with_calls(1, 2, 3, 4)
        two = await self.node("two")
        self.assertEqual(await self.taken(one, 1, TWO), ["call1"])
        self.assertEqual(await self.taken(two, 9, TWO), ["call2"])
        grants = await one.take(ROUTE, [TWO], own=0, most=9)
        self.assertEqual((grants.calls, grants.wait, grants.waiting), ([], None, 2))
        two.release("trunk 1")
        self.assertEqual(await self.taken(two, 9, TWO), ["call3"])

    async def test_next_trunk_where_the_first_is_full(self) -> None:
        """A call goes to the first of the trunks that has room, in the order in which they are given."""
        store = await self.with_calls(1, 2, 3, 4)
        limits = [TWO, Limits("trunk 2", 1, 1000.0), Limits("trunk 9", 9, 1000.0)]
        grants = await store.take(ROUTE, limits, own=0, most=9)
        self.assertEqual([trunk for trunk, _ in grants.calls], ["trunk 1", "trunk 1", "trunk 2"])
        self.assertEqual(grants.waiting, 1)

    async def test_own_calls_come_first(self) -> None:
        """Calls that the node has put back itself get the first channels, though nobody else waits."""
        store = await self.with_calls(1)
        grants = await store.take(ROUTE, [TWO], own=1, most=9)
        self.assertEqual(
            [(trunk, call and call.id) for trunk, call in grants.calls], [("trunk 1", None), ("trunk 1", "call1")]
        )
        store.release("trunk 1")
        grants = await store.take(ROUTE, [TWO], own=5, most=9)
        self.assertEqual(grants.calls, [("trunk 1", None)])
        self.assertEqual(grants.waiting, 0)

    async def test_pace_is_of_all_nodes(self) -> None:
        """A trunk that rested catches up a tenth of a second's calls; the next one waits for its moment."""
        one = await self.with_calls(*range(1, 9))
        two = await self.node("two")
        slow = Limits("trunk 1", 100, 20.0)
        first = await one.take(ROUTE, [slow], own=0, most=9)
        second = await two.take(ROUTE, [slow], own=0, most=9)
        self.assertIn(len(first.calls), (3, 4))
        self.assertEqual(second.calls, [])
        assert second.wait is not None
        self.assertTrue(0 < second.wait <= 0.05, second.wait)
        await pause(second.wait)
        self.assertEqual(len(await self.taken(two, 9, slow)), 1)

    async def test_nobody_waits(self) -> None:
        """Where nobody waits, there is nothing to wait for."""
        store = await self.with_calls()
        grants = await store.take(ROUTE, [TWO], own=0, most=9)
        self.assertEqual((grants.calls, grants.wait, grants.waiting), ([], None, 0))

    async def test_clock_of_redis_is_set_back(self) -> None:
        """A moment of the pace in the future, left by a clock that was set back, holds nobody up."""
        store = await self.with_calls(1, 2)
        slow = Limits("trunk 1", 100, 20.0)
        self.raw("HSET", "pace", "trunk 1", "99999999999.5")
        wait = (await store.take(ROUTE, [slow], own=0, most=9)).wait
        assert wait is not None
        self.assertLessEqual(wait, 0.051)
        self.raw("HSET", "pace", "trunk 1", "0")
        self.assertEqual(await self.taken(store, 9, slow), ["call1", "call2"])

    async def test_heartbeat_heals_the_count_of_channels(self) -> None:
        """A count that has gone wrong is put right by the next heartbeat."""
        store = await self.with_calls(1, 2, 3)
        await self.taken(store, 1, TWO)
        self.raw("HSET", "busy:trunk 1", store._owner, "7")
        self.assertEqual(await self.taken(store, 1, TWO), [])
        await store.beat({})
        self.assertEqual(await self.taken(store, 9, TWO), ["call2"])
        store.release("trunk 1")
        store.release("trunk 1")
        await store.beat({})
        self.assertEqual(self.raw("HGETALL", "busy:trunk 1"), [])

    async def test_heartbeat_while_channels_are_on_their_way(self) -> None:
        """A heartbeat that is sent before a question is answered leaves the channels alone that it gives."""
        store = await self.with_calls(1)
        taking = store.take(ROUTE, [TWO], own=0, most=1)
        await store.beat({})
        self.assertEqual(len((await taking).calls), 1)
        self.assertEqual(self.raw("HGET", "busy:trunk 1", store._owner), b"1")

    async def test_channels_of_the_dead_come_free(self) -> None:
        """A dead node's channels count until what it had is taken over."""
        one = await self.with_calls(1, 2, 3)
        two = await self.node("two")
        await self.taken(one, 2, TWO)
        await one.begin_dialing("call1", make_attempt())
        await self.dies(one)
        await self.is_fenced(one, by=two)
        self.assertEqual(await self.taken(two, 9, TWO), [])
        records, _, more = await two.take_over()
        self.assertEqual(([record.call.id for record in records], more), (["call1"], False))
        self.assertEqual(await self.taken(two, 9, TWO), ["call2", "call3"])


class CostTests(RedisCase):
    async def test_an_accept_costs_one_question(self) -> None:
        """With the key and the audio known, Redis is asked once for an accept, and not at all for the key.

        That the answers were heard is said afterwards, once for all that come in the same moment.
        """
        self.library["a" * 64] = {"PCMU": b"octets"}
        store = await self.node(audio=True)
        await store.add_key(make_key(credits=9), DIGEST)
        await store.find_key(DIGEST)
        await store.accept(numbered(1))
        await until("it is said", lambda: self.queued() == 1)
        before = self.commands()
        await store.find_key(DIGEST)
        self.assertIs(await store.accept(numbered(2)), ReturnCode.ACCEPTED)
        self.assertEqual(self.commands() - before, 1)
        await until("it is said", lambda: self.commands() - before == 2)
        await gatherResults([store.accept(numbered(number)) for number in range(3, 8)])
        await until("it is said", lambda: self.queued() == 7)
        self.assertLess(self.commands() - before, 2 + 5 + 5)

    def commands(self) -> int:
        """Return how many commands clients have sent, but for those by which connections are kept."""
        info: bytes = self.server().call("INFO", "commandstats")
        stats = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
        names = (b"evalsha", b"eval", b"hgetall|", b"script|load")
        return sum(
            int(value.split(b",")[0].removeprefix(b"calls="))
            for name, value in stats.items()
            if name.removeprefix(b"cmdstat_").startswith(names)
        )

    async def test_state_of_a_taken_call(self) -> None:
        """Taking a call changes nothing but whose it is."""
        store = await self.with_calls(1)
        await store.take(ROUTE, [WIDE], own=0, most=1)
        record = await store.find_call("call1")
        assert record is not None
        self.assertIs(record.state, State.ACCEPTED)
        self.assertEqual(record.call, numbered(1))
