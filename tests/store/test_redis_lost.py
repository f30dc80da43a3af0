# Trial's assertions are not annotated.
# mypy: allow-untyped-calls
"""Answers that are lost, and questions that arrive late: nothing is done twice, and nothing is forgotten."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred

from calledind.model import Call, CallRecord, ReturnCode, State
from calledind.store import redis, redis_calls, redis_nodes
from calledind.store.interface import Grants, StoreUnavailable
from calledind.store.outbox import NAME
from calledind.store.redis import RedisStore
from calledind.store.redis_link import Unanswered
from tests.store.contract import BUSY, DIALOG, DIGEST, NOW, make_attempt, make_key
from tests.store.redis_case import ROUTE, WIDE, Losses, RedisCase, ids_of, numbered, pause, until


class AcceptTests(RedisCase):
    async def in_doubt(self, call: Call | None = None) -> tuple[RedisStore, RedisStore, Losses]:
        """Return node "one", which has refused a call that Redis accepted and can't withdraw it, another, and what
        keeps it from that."""
        store = await self.with_calls(credits=5)
        two = await self.node("two")
        losses = Losses(store)
        losses.lost = {"accept"}
        losses.delayed = {"withdraw"}
        await self.assertFailure(store.accept(call or numbered(1)), StoreUnavailable)
        return store, two, losses

    async def after_a_death(self) -> RedisStore:
        """Return a node that has fenced "one", which accepted a call in its last moment."""
        store = await self.with_calls(credits=5)
        two = await self.node("two")
        Losses(store).delayed = {"offer"}
        await store.accept(numbered(1))
        await self.dies(store)
        await self.is_fenced(store, by=two)
        return two

    async def test_lost_acceptance_is_withdrawn(self) -> None:
        """An acceptance whose answer is lost is taken back: no call, no credit held, no mark."""
        store = await self.with_calls(credits=5)
        losses = Losses(store)
        losses.lost = {"accept"}
        await self.assertFailure(store.accept(numbered(1)), StoreUnavailable)
        losses.mend()
        await until("it is withdrawn", lambda: self.raw("ZSCORE", "withdrawn", "call1") is not None)
        self.assertIsNone(await store.find_call("call1"))
        self.assertEqual(await self.figures(store), (5, 0, 0))
        self.assertEqual(await store.waiting(), {})
        self.assertEqual([entry.amount for entry in await store.ledger("key_1")], [1, -1, 5])
        self.assertEqual((await store.totals()).calls["accepted"], 0)
        call = numbered(1)
        self.assertIs(
            await store.check("key_1", call.country_code, call.phone_number, call.accepted_at), ReturnCode.ACCEPTED
        )

    async def test_late_acceptance_is_refused(self) -> None:
        """An acceptance that arrives after its withdrawal changes nothing."""
        store = await self.with_calls(credits=5)
        losses = Losses(store)
        losses.delayed = {"accept"}
        await self.assertFailure(store.accept(numbered(1)), StoreUnavailable)
        await until("it is withdrawn", lambda: self.raw("ZSCORE", "withdrawn", "call1") is not None)
        self.assertEqual(await losses.arrive(), [[b"withdrawn"]])
        self.assertEqual(await self.figures(store), (5, 0, 0))
        losses.mend()
        await self.assertFailure(store.accept(numbered(1)), StoreUnavailable)

    async def test_no_node_takes_what_is_in_doubt(self) -> None:
        """A call whose acceptance was not heard of waits for nobody: it is withdrawn before anyone could dial it."""
        store, two, losses = await self.in_doubt()
        for node in (two, store):
            self.assertEqual(await self.taken(node), [])
            self.assertIsNone(await node.take_one("call1"))
        self.assertIs(await two.begin_dialing("call1", make_attempt()), False)
        losses.mend()
        await until("it is withdrawn", lambda: self.raw("EXISTS", "call:call1") == 0)
        self.assertEqual(self.raw("EXISTS", f"fresh:{store._owner}"), 0)
        self.assertEqual(await self.figures(store), (5, 0, 0))
        self.assertEqual(await two.unfinished(), [])

    async def test_others_wait_for_the_withdrawal(self) -> None:
        """A node that refused a call is fenced before it could withdraw it: the others leave that call alone, until
        the node is back and has told."""
        store, two, losses = await self.in_doubt()
        await self.is_fenced(store, by=two)
        _, _, more = await two.take_over()
        self.assertFalse(more)
        self.assertEqual(await self.taken(two), [])
        # Back, it does not trust the call either, as long as its withdrawal has not been told.
        await store.rejoin()
        await store.take_over()
        self.assertEqual(await self.taken(store), [])
        losses.mend()
        await until("it is withdrawn", lambda: self.raw("EXISTS", "call:call1") == 0)
        self.assertEqual(self.raw("EXISTS", "parked"), 0)
        self.assertEqual(await self.figures(two), (5, 0, 0))

    async def test_what_was_accepted_last_is_made(self) -> None:
        """What a node accepted in its last moment is dialled: at once when it is back, by others after some time."""
        for name in ("one", "two"):
            store = await self.with_calls(credits=5) if name == "one" else await self.node("three")
            losses = Losses(store)
            losses.delayed = {"offer"}
            self.assertIs(await store.accept(numbered(1 if name == "one" else 2)), ReturnCode.ACCEPTED)
            other = await self.node("two" if name == "one" else "four")
            self.assertEqual(await self.taken(other), [])
            await self.dies(store)
            await self.is_fenced(store, by=other)
            await other.take_over()
            self.assertEqual(await self.taken(other), [])
            if name == "one":
                again = await self.node("one")
                await again.take_over()
                self.assertEqual(await self.taken(other), ["call1"])
            else:
                self.raw("ZADD", "parked", "XX", 0, "call2")
                await other.take_over()
                self.assertEqual(await self.taken(other), ["call2"])
            self.assertEqual(self.raw("EXISTS", "parked"), 0)

    async def test_a_lost_offer_is_repeated(self) -> None:
        """That an acceptance was heard of is said again until Redis knows, and after each new connection."""
        self.patch(redis_calls, "AGAIN", 0.05)
        store = await self.with_calls(credits=5)
        losses = Losses(store)
        losses.delayed = {"offer"}
        await store.accept(numbered(1))
        await pause(0.01)
        self.assertEqual(await self.taken(store), [])
        losses.mend()
        await until("it waits", lambda: self.queued() == 1)
        # What a failover has taken back is said by nobody again, but for a connection that is new.
        self.raw("DEL", "waiting")
        for name in self.raw("KEYS", "ring:*") + self.raw("KEYS", "line:*"):
            self.server().call("DEL", name.decode())
        self.raw("HSET", "call:call1", "owner", store._owner)
        self.raw("SADD", f"fresh:{store._owner}", "call1")
        losses.lost = {"accept"}
        losses.delayed = {"withdraw"}
        await self.assertFailure(store.accept(numbered(2)), StoreUnavailable)
        losses.mend()
        losses.delayed = {"withdraw"}
        store._connected()
        self.assertEqual(await self.taken(store), ["call1"])
        self.assertEqual(self.raw("SMEMBERS", f"fresh:{store._owner}"), [b"call2"])

    async def test_a_repeated_request_waits_for_the_withdrawal(self) -> None:
        """A request that is sent again is not answered with a call that may be withdrawn; one that it was answered with
        is withdrawn no more."""
        self.patch(redis_nodes, "PARKED", 0)
        call = replace(numbered(1), idempotency="ab" * 32)
        store, two, losses = await self.in_doubt(call)
        await self.assertFailure(two.find_idempotent("ab" * 16, NOW), StoreUnavailable)
        await self.is_fenced(store, by=two)
        await two.take_over()
        found = await two.find_idempotent("ab" * 16, NOW)
        self.assertEqual(found, CallRecord(call, State.ACCEPTED))
        losses.mend()
        await until("it was tried", lambda: self.raw("ZSCORE", "withdrawn", "call1") is not None)
        self.assertEqual(await self.taken(two), ["call1"])
        self.assertEqual(await self.figures(two), (4, 1, 0))

    async def test_nothing_piles_up_while_redis_is_away(self) -> None:
        """However often Redis is asked in vain, one timer waits to say again what was heard."""
        store = await self.with_calls(credits=5)
        losses = Losses(store)
        losses.delayed = {"offer", "nodes"}
        await store.accept(numbered(1))
        before = len(store._timers)
        for _ in range(50):
            await self.assertFailure(store.nodes(), StoreUnavailable)
        self.assertLessEqual(len(store._timers), before + 1)
        self.patch(redis_calls, "AGAIN", 0.05)
        losses.mend()
        await until("it waits", lambda: self.queued() == 1)

    async def test_the_rest_is_offered_until_redis_has_it(self) -> None:
        """What a new master refuses to note after a failover is told to it again."""
        self.patch(redis_calls, "AGAIN", 0.05)
        store = await self.with_calls(1, credits=5)
        await until("it waits", lambda: self.queued() == 1)
        # The failover has taken the offer back.
        self.assertEqual(await self.taken(store), ["call1"])
        self.raw("SREM", f"owned:{store._owner}", "call1")
        self.raw("SADD", f"fresh:{store._owner}", "call1")
        losses = Losses(store)
        losses.delayed = {"offer"}
        store._connected()
        await pause(0.12)
        self.assertEqual(self.queued(), 0)
        losses.mend()
        await until("it waits", lambda: self.queued() == 1)

    async def test_cancelling_what_a_dead_node_accepted(self) -> None:
        """A call that waits for its node to come back is taken out, and dialled by nobody."""
        two = await self.after_a_death()
        await two.take_over()
        self.assertEqual(await two.take_one("call1"), numbered(1))
        self.assertIs(await two.settle("call1", BUSY, charge=False), True)
        await two.take_over()
        self.assertEqual(await self.taken(two), [])
        self.assertEqual(await self.figures(two), (5, 0, 0))

    async def test_taking_leave(self) -> None:
        """What a node accepted last goes to the others with its leave, but for what it could not withdraw."""
        for name, waits in (("one", 1), ("three", 0)):
            store = await self.with_calls(credits=5) if name == "one" else await self.node(name)
            losses = Losses(store)
            losses.delayed = {"offer"}
            await store.accept(numbered(1 if name == "one" else 3))
            if name == "three":
                losses.lost = {"accept"}
                losses.delayed = {"offer", "withdraw"}
                await self.assertFailure(store.accept(numbered(4)), StoreUnavailable)
            before = self.queued()
            self.ended.add(store)
            await store.close()
            self.assertEqual(self.queued() - before, waits)
        self.assertEqual(self.raw("ZCARD", "parked"), 2)

    async def test_another_machine_of_the_same_name(self) -> None:
        """A machine that takes a dead one's name, and not its folder, knows nothing of what that would withdraw."""
        await self.after_a_death()
        other = await self.node("one", instance="another folder")
        await other.take_over()
        self.assertEqual(await self.taken(other), [])
        self.assertEqual(self.raw("ZCARD", "parked"), 1)

    async def test_redis_clock_is_set_back(self) -> None:
        """What would wait for longer than anything does, as the clock was set back, waits no more."""
        two = await self.after_a_death()
        await two.take_over()
        self.assertEqual(await self.taken(two), [])
        self.raw("ZINCRBY", "parked", 3600, "call1")
        await two.take_over()
        self.assertEqual(await self.taken(two), ["call1"])

    async def test_a_late_offer_does_not_lose_the_call(self) -> None:
        """A node that was fenced says under its new name that it heard: the call waits all the same."""
        store = await self.with_calls(credits=5)
        two = await self.node("two")
        losses = Losses(store)
        losses.delayed = {"offer"}
        await store.accept(numbered(1))
        await pause(0.01)
        await self.is_fenced(store, by=two)
        await two.take_over()
        await store.rejoin()
        losses.mend()
        store._say_heard()
        store._offer("call1")
        store._say_heard()
        self.assertEqual(await self.taken(two), [])
        self.assertEqual(self.raw("ZCARD", "parked"), 1)
        await store.take_over()
        self.assertEqual(await self.taken(two), ["call1"])

    async def test_fenced_node_accepts_nothing(self) -> None:
        """A node that others hold for dead refuses: nobody would say for it that it heard."""
        store = await self.with_calls(credits=5)
        two = await self.node("two")
        await self.is_fenced(store, by=two)
        await self.assertFailure(store.accept(numbered(1)), StoreUnavailable)
        self.assertEqual(await self.figures(two), (5, 0, 0))

    async def test_withdrawal_that_comes_too_late(self) -> None:
        """A node that is back too late to withdraw a call finds it dialled by others, and counted."""
        self.patch(redis_nodes, "PARKED", 0)
        store, two, losses = await self.in_doubt()
        await self.is_fenced(store, by=two)
        await two.take_over()
        self.assertEqual(await self.taken(two), ["call1"])
        self.assertIs(await two.begin_dialing("call1", make_attempt()), True)
        losses.mend()
        await until("it was tried", lambda: self.raw("ZSCORE", "withdrawn", "call1") is not None)
        self.assertIs(await two.settle("call1", BUSY, charge=False), True)
        self.assertEqual(await self.figures(two), (5, 0, 0))

    async def test_withdrawal_outlives_the_process(self) -> None:
        """An acceptance that could not be withdrawn before the end of the process is by the next."""
        store = await self.with_calls(credits=5)
        losses = Losses(store)
        losses.lost = {"accept", "withdraw"}
        losses.delayed = {"withdraw"}
        await self.assertFailure(store.accept(numbered(1)), StoreUnavailable)
        await self.dies(store)
        self.assertEqual(self.raw("HGET", "call:call1", "state"), b"accepted")
        again = await self.node()
        self.assertIsNone(await again.find_call("call1"))
        self.assertEqual(await self.figures(again), (5, 0, 0))

    async def test_acceptance_that_stood_in_a_socket(self) -> None:
        """An acceptance that Redis hears when its asker has given up is refused, before any withdrawal."""
        store = await self.with_calls(credits=5)
        await store.beat({})
        losses = Losses(store)
        losses.delayed = {"accept", "withdraw"}
        await self.assertFailure(store.accept(numbered(1)), StoreUnavailable)
        await pause(1.2)
        self.assertEqual((await losses.arrive())[0], [b"withdrawn"])
        losses.mend()
        self.assertEqual(await self.figures(store), (5, 0, 0))
        self.assertIs(await store.accept(numbered(2)), ReturnCode.ACCEPTED)

    async def test_redis_clock_jumps(self) -> None:
        """Acceptances are taken for late ones by a clock that jumped ahead, until the next heartbeat."""
        store = await self.with_calls(credits=5)
        await store.beat({})
        assert store._ahead is not None
        store._ahead -= 3600.0
        await self.assertFailure(store.accept(numbered(1)), StoreUnavailable)
        await store.beat({})
        self.assertIs(await store.accept(numbered(1)), ReturnCode.ACCEPTED)

    async def test_refusal_waits_for_the_disk(self) -> None:
        """Nobody is told that an acceptance failed before its withdrawal is on disk: the process may die at once."""
        store = await self.with_calls(credits=5)
        losses = Losses(store)
        losses.lost = {"accept", "withdraw"}
        losses.delayed = {"withdraw"}
        await self.assertFailure(store.accept(numbered(1)), StoreUnavailable)
        with closing(sqlite3.connect(self.folder / "one" / NAME)) as database:
            self.assertEqual(list(database.execute("SELECT call_id, kind FROM outbox")), [("call1", "withdraw")])

    async def test_lost_credits_are_added_once(self) -> None:
        """Credits whose addition was not answered are asked for once more, and added once."""
        store = await self.with_calls(credits=5)
        losses = Losses(store)
        losses.lost = {"add_credits"}
        adding = store.add_credits("key_1", 7, NOW)
        await until("they are there", lambda: self.raw("HGET", "key:key_1", "credits") == b"12")
        losses.mend()
        self.assertEqual((await adding).credits, 12)
        self.assertEqual((await store.totals()).added, 12)

    async def test_lost_key_is_added_once(self) -> None:
        """A key whose addition was not answered is asked for once more, and is no other that was there before."""
        store = await self.node()
        losses = Losses(store)
        losses.lost = {"add_key"}
        adding = store.add_key(make_key(credits=5), DIGEST)
        await until("it is there", lambda: self.raw("HGET", "key:key_1", "credits") == b"5")
        losses.mend()
        await adding
        await self.assertFailure(store.add_key(make_key(credits=5), DIGEST), ValueError)
        self.assertEqual(await store.keys(), [make_key(credits=5)])


class DialingTests(RedisCase):
    async def with_lost_attempt(self, number: int = 1) -> tuple[RedisStore, Losses]:
        """Return a store that has taken call1, and does not know whether its attempt was kept; it was."""
        store = await self.with_calls(1)
        await self.taken(store)
        for earlier in range(1, number):
            await store.begin_dialing("call1", make_attempt(earlier))
        losses = Losses(store)
        losses.lost = {"begin_dialing"}
        await self.assertFailure(store.begin_dialing("call1", make_attempt(number)), StoreUnavailable)
        losses.mend()
        return store, losses

    async def test_attempt_takes_the_place_of_a_lost_one(self) -> None:
        """After an attempt whose answer was lost, another with the same number is made; the first never was."""
        for number in (1, 2):
            store, _ = await self.with_lost_attempt(number)
            other = make_attempt(number + 10)
            other = type(other)(number, other.trunk, other.invitation)
            self.assertIs(await store.begin_dialing("call1", other), True)
            self.assertEqual(await store.find_call("call1"), CallRecord(numbered(1), State.DIALING, other))
            self.assertIs(await store.begin_dialing("call1", make_attempt(number)), False)
            await store.settle("call1", BUSY, charge=False)
            await self.dies(store)
            self.server().call("FLUSHALL")

    async def test_known_attempt_is_not_replaced(self) -> None:
        """An attempt that was answered stands: another with its number is refused."""
        store = await self.with_calls(1)
        await self.taken(store)
        await store.begin_dialing("call1", make_attempt())
        other = type(make_attempt())(1, "trunk 2", "{}")
        self.assertIs(await store.begin_dialing("call1", other), False)

    async def test_call_with_a_lost_attempt_waits_again(self) -> None:
        """A call whose first attempt was lost can be given back, and another node dials it."""
        store, _ = await self.with_lost_attempt()
        self.assertIs(await store.give_back("call1", ROUTE), True)
        two = await self.node("two")
        self.assertEqual(await self.taken(two), ["call1"])
        self.assertIs(await two.begin_dialing("call1", make_attempt()), False, "it may be the one that was lost")
        other = type(make_attempt())(1, "trunk 2", "{}")
        self.assertIs(await two.begin_dialing("call1", other), True)

    async def test_late_attempt_of_a_call_that_waits_again(self) -> None:
        """An attempt that arrives after its call was given back is not made, taken by somebody or not."""
        store = await self.with_calls(1)
        await self.taken(store)
        losses = Losses(store)
        losses.delayed = {"begin_dialing"}
        await self.assertFailure(store.begin_dialing("call1", make_attempt()), StoreUnavailable)
        self.assertIs(await store.give_back("call1", ROUTE), True)
        self.assertEqual(await losses.arrive(), [0])
        losses.mend()
        self.assertEqual(await self.taken(store), ["call1"])

    async def test_late_attempt_after_the_next(self) -> None:
        """An attempt that arrives after another has taken its place is not made."""
        store = await self.with_calls(1)
        await self.taken(store)
        losses = Losses(store)
        losses.delayed = {"begin_dialing"}
        await self.assertFailure(store.begin_dialing("call1", make_attempt()), StoreUnavailable)
        losses.mend()
        other = type(make_attempt())(1, "trunk 2", "{}")
        self.assertIs(await store.begin_dialing("call1", other), True)
        self.assertEqual(await losses.arrive(), [0])

    async def test_refused_attempt_needs_no_replica(self) -> None:
        """A call that is not to be dialled is let go of, whether or not a replica answers."""
        store = await self.with_calls(1)
        await store.settle("call1", BUSY, charge=False)
        losses = Losses(store)
        losses.unreplicated = {"begin_dialing"}
        self.assertIs(await store.begin_dialing("call1", make_attempt()), False)


class TakeTests(RedisCase):
    async def test_lost_calls_are_taken_again(self) -> None:
        """Calls and channels whose grant was lost are given with the next question, or to another node."""
        store = await self.with_calls(1, 2, 3)
        losses = Losses(store)
        losses.lost = {"take"}
        await self.assertFailure(self.taken_of(store, 2), StoreUnavailable)
        losses.mend()
        await store.beat({})
        self.assertEqual(self.raw("HGETALL", "busy:trunk 1"), [])
        two = await self.node("two")
        self.assertEqual(await self.taken(two, 1), ["call1"])
        self.assertEqual(await self.taken(store), ["call2", "call3"])

    async def test_late_take_takes_nothing(self) -> None:
        """A question that arrives after the next one was answered is given nothing."""
        store = await self.with_calls(1, 2)
        losses = Losses(store)
        losses.delayed = {"take"}
        await self.assertFailure(self.taken_of(store, 1), Unanswered)
        losses.mend()
        self.assertEqual(await self.taken(store, 1), ["call1"])
        (late,) = await losses.arrive()
        self.assertEqual(late[0], [])
        self.assertEqual(await self.taken(store, 1), ["call2"])

    async def test_lost_expiry(self) -> None:
        """Calls that were taken out of the queue by a question whose answer was lost are taken out by the next."""
        store = await self.with_calls(1, 2)
        losses = Losses(store)
        losses.lost = {"take_out"}
        await self.assertFailure(store.take_expired(NOW + 9), StoreUnavailable)
        losses.mend()
        self.assertEqual([call.id for call in await store.take_expired(NOW + 9)], ["call1", "call2"])

    async def test_lost_take_over(self) -> None:
        """What a lost answer has taken over is taken over by the next question."""
        one = await self.with_calls(1, 2)
        await self.taken(one)
        await one.begin_dialing("call1", make_attempt())
        await one.settle("call2", BUSY, charge=False)
        await self.dies(one)
        two = await self.node("two")
        await self.is_fenced(one, by=two)
        losses = Losses(two)
        losses.lost = {"take_over"}
        await self.assertFailure(two.take_over(), StoreUnavailable)
        losses.mend()
        records, callbacks, _ = await two.take_over()
        self.assertEqual([*ids_of(records), *ids_of(callbacks)], ["call1", "call2"])

    def taken_of(self, store: RedisStore, most: int) -> Deferred[Grants]:
        return store.take(ROUTE, [WIDE], own=0, most=most)


class EndTests(RedisCase):
    async def test_outcome_of_the_process_before(self) -> None:
        """A start waits until Redis has what the process before could not tell: its callbacks are this node's then."""
        store = await self.with_calls(1)
        await self.taken(store)
        losses = Losses(store)
        losses.delayed = {"settle"}
        settling = store.settle("call1", BUSY, charge=True)
        await self.dies(store)
        await self.assertFailure(settling, StoreUnavailable)
        again = self.make_node()
        losses = Losses(again)
        losses.delayed = {"settle"}
        opening = again.open()
        self.addCleanup(again.close)
        await until("it was tried", lambda: len(losses._on_their_way) > 0)
        losses.mend()
        await opening
        callbacks = [*await again.pending_callbacks(), *(await again.take_over())[1]]
        self.assertEqual(ids_of(callbacks), ["call1"])

    async def test_outcome_that_can_not_be_told(self) -> None:
        """Where Redis can't have it, the start fails."""
        store = await self.with_calls(1)
        await self.taken(store)
        losses = Losses(store)
        losses.delayed = {"settle"}
        settling = store.settle("call1", BUSY, charge=True)
        await self.dies(store)
        await self.assertFailure(settling, StoreUnavailable)
        self.patch(redis, "PATIENCE", 0.1)
        again = self.make_node()
        losses = Losses(again)
        losses.lost = {"settle"}
        opening: Deferred[Any] = again.open()
        await self.assertFailure(opening, StoreUnavailable)

    async def test_lost_outcome_is_told_again(self) -> None:
        """An outcome whose answer was lost is told again, and settled once."""
        store = await self.with_calls(1, credits=5)
        losses = Losses(store)
        losses.lost = {"settle"}
        settling = store.settle("call1", BUSY, charge=True)
        await until("it is settled", lambda: self.raw("HGET", "call:call1", "state") == b"done")
        losses.mend()
        self.assertIs(await settling, True)
        self.assertEqual(await self.figures(store), (4, 0, 1))

    async def test_outcome_waits_for_the_answer_before_it(self) -> None:
        """What waits of one call is told in its order."""
        store = await self.with_calls(1)
        await store.begin_dialing("call1", make_attempt())
        losses = Losses(store)
        losses.delayed = {"record_answer"}
        self.assertIs(await store.record_answer("call1", DIALOG, NOW), True)
        losses.mend()
        self.assertIs(await store.settle("call1", BUSY, charge=True), True)
        record = await store.find_call("call1")
        assert record is not None
        self.assertEqual((record.state, record.dialog), (State.DONE, DIALOG))
