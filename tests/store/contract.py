# Trial's assertions are not annotated.
# mypy: allow-untyped-calls
"""What every store must do, whatever it is made of.

A store's own test module has a class of five lines: `StoreContract`, trial's `TestCase`, and `make_store`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, gatherResults

from calledind.model import (
    Attempt,
    Call,
    CallRecord,
    Cause,
    EndedBy,
    Ending,
    Key,
    Outcome,
    PendingCallback,
    Reason,
    ReturnCode,
    State,
)
from calledind.store.interface import CallFilter, Entered, LedgerEntry, Store, Totals

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object

NOW = 1_800_000_000.25
"When most of the tests take place, in seconds since the epoch."
DIGEST = b"\x00\xffdigest of the key".ljust(32, b"\0")
NUMBER = ("1", "2125550100")
OTHER = ("44", "0212555010")


def make_key(key_id: str = "key_1", *, credits: int = 3, created_at: float = NOW) -> Key:
    return Key(key_id, f"name of {key_id}", credits, held=0, charged=0, disabled=False, created_at=created_at)


def make_call(
    call_id: str = "call1",
    *,
    key_id: str = "key_1",
    number: tuple[str, str] = NUMBER,
    at: float = NOW,
    callback_url: str | None = "https://example.com/told?id=%C3%A9&x=1",
    secret: str = 'sec"ret \\ é\x01\U0001f4de',
) -> Call:
    return Call(
        id=call_id,
        key_id=key_id,
        phone_number=number[1],
        country_code=number[0],
        caller_id="0000000000",
        audio="a" * 64,
        duration=12.34,
        callback_url=callback_url,
        secret=secret,
        accepted_at=at,
    )


def make_attempt(number: int = 1) -> Attempt:
    return Attempt(number, f"trunk {number}", f'{{"branch": "z9hG4bK{number}", "quoted": "\\"é\\""}}')


DIALOG = '{"call_id": "x@y", "remote": "sip:a@b"}'
ANSWERED = Outcome(
    True,
    None,
    Ending(Cause.PLAYED, True, EndedBy.US, NOW + 20.1, answered_at=NOW + 5.7, rang=True, trunk="trunk 1", detail="é\0"),
)
BUSY = Outcome(
    False, Reason.BUSY, Ending(Cause.FINAL_RESPONSE, False, EndedBy.CALLEE, NOW + 3.5, sip_status=486, q850=17)
)


class StoreContract(TestCase):
    """Mix into trial's `TestCase`, and give a `make_store`."""

    def make_store(self) -> Store:
        """Return a store that is not open yet; called again in the same test, one on the same data."""
        raise NotImplementedError

    async def opened(self) -> Store:
        store = self.make_store()
        await store.open()
        self._open = store
        self.addCleanup(self._close)
        return store

    def _close(self) -> object:
        return self._open.close()

    async def reopened(self, store: Store) -> Store:
        """Close the store, and open its successor."""
        await store.close()
        self._open = self.make_store()
        await self._open.open()
        return self._open

    async def with_key(self, credits: int = 3) -> Store:
        store = await self.opened()
        await store.add_key(make_key(credits=credits), DIGEST)
        return store

    async def with_call(self, call: Call | None = None) -> Store:
        store = await self.with_key()
        self.assertIs(await store.accept(call or make_call()), ReturnCode.ACCEPTED)
        return store

    async def figures(self, store: Store) -> tuple[int, int, int]:
        """Return credits, held and charged of the first key."""
        key = (await store.keys())[0]
        return key.credits, key.held, key.charged

    async def state(self, store: Store, call_id: str = "call1") -> State | None:
        record = await store.find_call(call_id)
        return None if record is None else record.state

    async def pending(self, store: Store) -> list[tuple[str, int, float]]:
        return [(item.call.id, item.tries, item.due_at) for item in await store.pending_callbacks()]

    # keys and credits

    async def test_key_is_found_by_its_digest(self) -> None:
        """A key that was added is found by its digest, and no other digest finds one."""
        store = await self.with_key()
        self.assertEqual(await store.find_key(DIGEST), make_key())
        self.assertIsNone(await store.find_key(DIGEST[::-1]))

    async def test_keys_come_oldest_first(self) -> None:
        """All keys are listed in the order in which they were created."""
        store = await self.opened()
        for key_id, created_at in (("key_b", 20.0), ("key_a", 30.0), ("key_c", 10.0)):
            await store.add_key(make_key(key_id, created_at=created_at), key_id.encode())
        self.assertEqual([key.id for key in await store.keys()], ["key_c", "key_b", "key_a"])

    async def test_key_is_added_once(self) -> None:
        """An id or a digest that is taken is refused with ValueError, and the first key stays as it was."""
        store = await self.with_key()
        await self.assertFailure(store.add_key(make_key(credits=9), b"another digest"), ValueError)
        await self.assertFailure(store.add_key(make_key("key_2"), DIGEST), ValueError)
        self.assertEqual(await store.keys(), [make_key()])
        self.assertIsNone(await store.find_key(b"another digest"))

    async def test_keys_are_kept(self) -> None:
        """Keys with their credits and whether they are disabled are the same after a restart."""
        store = await self.with_key()
        await store.add_key(make_key("key_2", created_at=NOW + 1), b"digest 2")
        await store.set_disabled("key_2", True)
        await store.add_credits("key_2", 39, NOW)
        before = await store.keys()
        store = await self.reopened(store)
        self.assertEqual(await store.keys(), before)
        self.assertEqual(before[1], replace(make_key("key_2", credits=42, created_at=NOW + 1), disabled=True))
        self.assertEqual(await store.find_key(b"digest 2"), before[1])

    async def test_key_is_disabled_and_enabled(self) -> None:
        """A key is disabled and enabled as often as wanted; False is the answer where there is none."""
        store = await self.with_key()
        for disabled in (True, True, False, False, True):
            self.assertIs(await store.set_disabled("key_1", disabled), True)
            self.assertIs((await store.keys())[0].disabled, disabled)
        self.assertIs(await store.set_disabled("key_9", True), False)

    async def test_identity_of_a_key_is_kept(self) -> None:
        """A key's caller ids and its attestation are set each by itself; False is the answer where there is none."""
        store = await self.with_key()
        self.assertIs(await store.set_caller_ids("key_1", ["+12125550100", "anonymous"]), True)
        self.assertIs(await store.set_attestation("key_1", "B"), True)
        wanted = replace(make_key(), caller_ids=("+12125550100", "anonymous"), attestation="B")
        self.assertEqual(await store.find_key(DIGEST), wanted)
        store = await self.reopened(store)
        self.assertEqual(await store.find_key(DIGEST), wanted)
        await store.set_attestation("key_1", "")
        await store.set_caller_ids("key_1", [])
        store = await self.reopened(store)
        self.assertEqual(await store.find_key(DIGEST), make_key())
        self.assertIs(await store.set_caller_ids("key_9", ["1"]), False)
        self.assertIs(await store.set_attestation("key_9", "A"), False)

    async def test_key_is_added_with_its_identity(self) -> None:
        """A new key may come with caller ids and attestation."""
        store = await self.opened()
        key = replace(make_key(), caller_ids=("2125550100",), attestation="C")
        await store.add_key(key, DIGEST)
        store = await self.reopened(store)
        self.assertEqual(await store.keys(), [key])

    async def test_credits_are_added_and_taken(self) -> None:
        """Credits can be added and taken, down to none and not below."""
        store = await self.with_key(credits=3)
        self.assertEqual((await store.add_credits("key_1", 4, NOW)).credits, 7)
        self.assertEqual((await store.add_credits("key_1", -7, NOW)).credits, 0)
        await self.assertFailure(store.add_credits("key_1", -1, NOW), ValueError)
        await self.assertFailure(store.add_credits("key_9", 1, NOW), KeyError)
        self.assertEqual((await store.totals()).added, 0)

    async def test_held_credits_can_not_be_taken(self) -> None:
        """An operator can't take a credit that a running call holds."""
        store = await self.with_call()
        await self.assertFailure(store.add_credits("key_1", -3, NOW), ValueError)
        self.assertEqual((await store.add_credits("key_1", -2, NOW)).held, 1)

    # the ledger

    async def entries(self, store: Store, key_id: str = "key_1") -> list[LedgerEntry]:
        """Return a key's ledger, the oldest row first, having found that its balances add up."""
        newest_first = await store.ledger(key_id)
        rows = list(newest_first)[::-1]
        for before, after in pairwise(rows):
            self.assertEqual(before.balance + after.amount, after.balance)
        credits = {key.id: key.credits for key in await store.keys()}[key_id]
        if rows:
            self.assertEqual(rows[-1].balance, credits)
        return rows

    async def test_every_change_of_credits_is_in_the_ledger(self) -> None:
        """Each way in which credits change leaves a row: how many, why, on whose account, when, and what is left."""
        store = await self.with_key(credits=3)
        await store.add_credits("key_1", 4, NOW + 1, 'invoice 2027-1 "é" \U0001f4de')
        await store.add_credits("key_1", -2, NOW + 2.5)
        await store.accept(make_call("call1", at=NOW + 3))
        await store.accept(make_call("call2", number=OTHER, at=NOW + 3.25))
        await store.begin_dialing("call2", make_attempt())
        await store.record_answer("call2", DIALOG, NOW + 9)
        await store.settle("call1", BUSY, charge=False)
        await store.settle("call2", ANSWERED, charge=True)
        await store.callback_delivered("call2", 1, NOW + 21)
        expected = [
            LedgerEntry("key_1", 3, Entered.ADDED, "", NOW, 3),
            LedgerEntry("key_1", 4, Entered.ADDED, 'invoice 2027-1 "é" \U0001f4de', NOW + 1, 7),
            LedgerEntry("key_1", -2, Entered.TAKEN, "", NOW + 2.5, 5),
            LedgerEntry("key_1", -1, Entered.HELD, "call1", NOW + 3, 4),
            LedgerEntry("key_1", -1, Entered.HELD, "call2", NOW + 3.25, 3),
            LedgerEntry("key_1", 1, Entered.RELEASED, "call1", NOW + 3.5, 4),
            LedgerEntry("key_1", 0, Entered.CHARGED, "call2", NOW + 20.1, 4),
        ]
        for _ in range(2):
            self.assertEqual(await self.entries(store), expected)
            store = await self.reopened(store)

    async def test_ledger_is_of_one_key(self) -> None:
        """Each key has rows of its own, a new one without credits none, and what is no key has no ledger."""
        store = await self.with_call()
        await store.add_key(make_key("key_2", credits=0), b"digest 2")
        self.assertEqual(await self.entries(store, "key_2"), [])
        await store.add_credits("key_2", 5, NOW + 1, "prepaid")
        self.assertEqual(
            await self.entries(store, "key_2"), [LedgerEntry("key_2", 5, Entered.ADDED, "prepaid", NOW + 1, 5)]
        )
        self.assertEqual([row.reason for row in await self.entries(store)], [Entered.ADDED, Entered.HELD])
        await self.assertFailure(store.ledger("key_9"), KeyError)

    async def test_what_changes_nothing_is_not_in_the_ledger(self) -> None:
        """Neither a change that is asked for again, nor one that is refused, nor one of no credits leaves a row."""
        store = await self.with_key(credits=1)
        await self.assertFailure(store.add_credits("key_1", -2, NOW), ValueError)
        await store.add_credits("key_1", 0, NOW)
        for _ in range(2):
            self.assertIs(await store.accept(make_call()), ReturnCode.ACCEPTED)
        self.assertIs(await store.accept(make_call("call2")), ReturnCode.FLOOD)
        self.assertIs(await store.accept(make_call("call3", number=OTHER)), ReturnCode.NO_CREDITS)
        self.assertEqual([row.reason for row in await self.entries(store)], [Entered.ADDED, Entered.HELD])
        for _ in range(2):
            self.assertIs(await store.settle("call1", BUSY, charge=False), True)
            self.assertIs(await store.settle("call1", BUSY, charge=True), False)
            self.assertIs(await store.accept(make_call()), ReturnCode.ACCEPTED)
            self.assertEqual(
                [row.reason for row in await self.entries(store)], [Entered.ADDED, Entered.HELD, Entered.RELEASED]
            )
            store = await self.reopened(store)

    async def test_ledger_comes_by_page(self) -> None:
        """The newest rows come first, so many at a time; those before a row's place are the ones before it."""
        store = await self.with_key(credits=3)
        for amount in range(1, 7):
            await store.add_credits("key_1", amount, NOW + amount)
        whole = list(await store.ledger("key_1"))
        self.assertEqual([row.amount for row in whole], [6, 5, 4, 3, 2, 1, 3])
        self.assertEqual(len({row.place for row in whole}), 7)
        for most in (1, 3, 7, 100):
            read: list[LedgerEntry] = []
            while page := await store.ledger("key_1", most=most, before=read[-1].place if read else ""):
                self.assertEqual(len(page), min(most, 7 - len(read)))
                read.extend(page)
            self.assertEqual(read, whole)
        place = whole[2].place
        await store.add_credits("key_1", 9, NOW + 9)
        self.assertEqual([row.amount for row in await store.ledger("key_1", before=place)], [3, 2, 1, 3])

    async def test_ledger_of_many_changes_at_once(self) -> None:
        """Whatever is changed at the same moment, the rows are in the order in which it was: their balances add up."""
        store = await self.with_key(credits=20)
        changes: list[Deferred[Any]] = []
        for index in range(20):
            changes.append(store.accept(make_call(f"call{index}", number=("1", f"21255501{index:02d}"))))
            changes.append(store.add_credits("key_1", -1 if index % 3 else 2, NOW))
            changes.append(store.settle(f"call{index}", BUSY, charge=bool(index % 2)))
        await gatherResults(changes)
        rows = await self.entries(store)
        self.assertEqual(len(rows), 61)
        self.assertEqual(rows[0].balance, 20)
        reasons = [row.reason for row in rows]
        self.assertEqual([reasons.count(reason) for reason in Entered], [8, 13, 20, 10, 10])

    # what time brings

    async def purged(self, store: Store, before: float, *, most: int = 1000) -> int:
        """Purge until there is no more, and return how often that took something."""
        for turn in range(100):
            if not await store.purge(before, most=most):
                return turn
        raise AssertionError("a purge doesn't end")

    async def with_one_of_each(self) -> Store:
        """A store with a call in each state, which have ended, where they have, at NOW + 3.5."""
        store = await self.with_key(credits=10)
        for index, state in enumerate(State):
            await store.accept(make_call(state.value, number=("1", f"212555010{index}")))
            if state is not State.ACCEPTED:
                await store.begin_dialing(state.value, make_attempt())
            if state not in (State.ACCEPTED, State.DIALING):
                await store.record_answer(state.value, DIALOG, NOW)
            if state in (State.DONE, State.DELIVERED, State.EXHAUSTED):
                await store.settle(state.value, BUSY, charge=True)
            if state is State.DELIVERED:
                await store.callback_delivered(state.value, 1, NOW + 4)
            if state is State.EXHAUSTED:
                await store.callback_exhausted(state.value, 10, NOW + 4)
        return store

    async def test_purge_forgets_what_is_over(self) -> None:
        """Calls whose callbacks were delivered or given up are forgotten; all others stay, however old."""
        store = await self.with_one_of_each()
        keys, pending, unfinished = await store.keys(), await store.pending_callbacks(), await store.unfinished()
        self.assertEqual(await self.purged(store, NOW + 10**8), 1)
        kept = {state.value: int(state not in (State.DELIVERED, State.EXHAUSTED)) for state in State}
        for _ in range(2):
            for state in State:
                self.assertIs(await self.state(store, state.value), state if kept[state.value] else None)
            self.assertEqual((await store.totals()).calls, kept)
            self.assertEqual(await store.keys(), keys)
            self.assertEqual((await store.totals()).charged, 3)
            self.assertEqual(await store.pending_callbacks(), pending)
            self.assertEqual(await store.unfinished(), unfinished)
            self.assertIs(await store.callback_delivered("delivered", 1, NOW), False)
            self.assertIs(await store.settle("exhausted", BUSY, charge=True), False)
            self.assertEqual(await store.purge(NOW + 10**8), 0)
            store = await self.reopened(store)
        self.assertIs(await store.callback_delivered("done", 1, NOW + 9), True)
        self.assertEqual(await self.purged(store, NOW + 10**8), 1)
        self.assertIsNone(await self.state(store, "done"))

    async def test_purge_leaves_what_is_young(self) -> None:
        """A call is forgotten when it ended before the moment, not when it did at it or later."""
        store = await self.with_call(make_call(callback_url=None))
        await store.settle("call1", BUSY, charge=False)
        await self.purged(store, NOW + 3.5)
        self.assertIs(await self.state(store), State.DELIVERED)
        await self.purged(store, NOW + 3.75)
        self.assertIsNone(await self.state(store))

    async def test_purge_of_the_ledger(self) -> None:
        """A ledger's older rows are forgotten, whatever their order; what comes later goes on from the balance."""
        store = await self.with_key(credits=3)
        for at in (5, 1, 7, 3):
            await store.add_credits("key_1", 1, NOW + at)
        await self.purged(store, NOW + 5)
        self.assertEqual([row.at for row in await store.ledger("key_1")], [NOW + 7, NOW + 5])
        await self.purged(store, NOW + 10)
        self.assertEqual(await store.ledger("key_1"), [])
        store = await self.reopened(store)
        self.assertEqual(await self.figures(store), (7, 0, 0))
        await store.accept(make_call(at=NOW + 11))
        self.assertEqual(await self.entries(store), [LedgerEntry("key_1", -1, Entered.HELD, "call1", NOW + 11, 6)])

    async def test_purge_takes_a_little_at_a_time(self) -> None:
        """At most so many calls and so many rows of the ledger are forgotten at a time, the rest the next time."""
        store = await self.with_key(credits=9)
        for index in range(5):
            await store.accept(make_call(f"call{index}", number=("1", f"212555010{index}"), callback_url=None))
            await store.settle(f"call{index}", BUSY, charge=True)
        self.assertGreater(await store.purge(NOW + 60, most=2), 0)
        self.assertEqual((await store.totals()).calls["delivered"], 3)
        self.assertEqual(len(await store.ledger("key_1")), 9)
        await self.purged(store, NOW + 60, most=2)
        self.assertEqual((await store.totals()).calls["delivered"], 0)
        self.assertEqual(await store.ledger("key_1"), [])
        self.assertEqual(await self.figures(store), (4, 0, 5))

    # DoNotCall

    async def test_do_not_call_is_listed_in_order(self) -> None:
        """Numbers on the list are counted once, and given in order, leading zeros and all."""
        store = await self.opened()
        self.assertEqual(await store.add_do_not_call([NUMBER, OTHER, NUMBER, ("1", "0000000000")]), 3)
        self.assertEqual(await store.add_do_not_call([OTHER, ("1", "9999999999")]), 1)
        expected = [("1", "0000000000"), NUMBER, ("1", "9999999999"), OTHER]
        self.assertEqual(list(await store.do_not_call()), expected)
        self.assertEqual((await store.totals()).do_not_call, 4)
        store = await self.reopened(store)
        self.assertEqual(list(await store.do_not_call()), expected)

    async def test_do_not_call_is_removed(self) -> None:
        """Numbers that are taken off the list are counted where they were there, and stay off."""
        store = await self.opened()
        await store.add_do_not_call([NUMBER, OTHER])
        self.assertEqual(await store.remove_do_not_call([NUMBER, ("1", "2125550199"), NUMBER]), 1)
        self.assertEqual(list(await store.do_not_call()), [OTHER])
        store = await self.reopened(store)
        self.assertEqual(list(await store.do_not_call()), [OTHER])

    async def test_long_do_not_call_list(self) -> None:
        """A list of many thousands, in any order, is taken whole and given in order."""
        store = await self.opened()
        numbers = [("1", f"{number:010d}") for number in random.Random(1).sample(range(10**10), 5000)]
        self.assertEqual(await store.add_do_not_call(iter(numbers)), 5000)
        store = await self.reopened(store)
        self.assertEqual(list(await store.do_not_call()), sorted(numbers))
        self.assertEqual(await store.remove_do_not_call(number for number in numbers[:4000]), 4000)
        store = await self.reopened(store)
        self.assertEqual(list(await store.do_not_call()), sorted(numbers[4000:]))

    async def test_do_not_call_may_change_while_it_is_given(self) -> None:
        """A number that stays is given once, whatever is added and removed in the middle."""
        store = await self.opened()
        numbers = [("1", f"{number:010d}") for number in range(0, 9000, 2)]
        await store.add_do_not_call(numbers)
        listing = iter(await store.do_not_call())
        given = [next(listing) for _ in range(100)]
        await store.remove_do_not_call(numbers[1000:3000])
        await store.add_do_not_call([("1", f"{number:010d}") for number in range(1, 9000, 2)])
        given.extend(listing)
        self.assertEqual(given, sorted(set(given)))
        self.assertLessEqual(set(numbers[:1000] + numbers[3000:]), set(given))

    # admission

    async def test_check_gives_the_first_code_that_holds(self) -> None:
        """Disabled comes before DoNotCall, that before flood, and that before no credits."""
        store = await self.with_key(credits=1)
        await store.accept(make_call())
        await store.add_do_not_call([NUMBER])
        await store.set_disabled("key_1", True)
        codes = [await store.check("key_1", *NUMBER, NOW)]
        await store.set_disabled("key_1", False)
        codes.append(await store.check("key_1", *NUMBER, NOW))
        await store.remove_do_not_call([NUMBER])
        codes.append(await store.check("key_1", *NUMBER, NOW))
        codes.append(await store.check("key_1", *NUMBER, NOW + 60))
        await store.add_credits("key_1", 1, NOW)
        codes.append(await store.check("key_1", *NUMBER, NOW + 60))
        codes.append(await store.check("key_9", *NUMBER, NOW + 60))
        self.assertEqual(
            codes,
            [
                ReturnCode.KEY_DISABLED,
                ReturnCode.DO_NOT_CALL,
                ReturnCode.FLOOD,
                ReturnCode.NO_CREDITS,
                ReturnCode.ACCEPTED,
                ReturnCode.INVALID_KEY,
            ],
        )

    async def test_objections_are_all_codes_that_hold(self) -> None:
        """All that `check` would answer one after the other is told at once, in its order; nothing is changed by it."""
        store = await self.with_call()
        flood = ReturnCode.FLOOD
        self.assertEqual(list(await store.objections("key_1", *NUMBER, NOW)), [flood])
        self.assertEqual(list(await store.objections("key_1", *OTHER, NOW)), [])
        await store.add_do_not_call([NUMBER, OTHER])
        await store.add_credits("key_1", -2, NOW)
        await store.set_disabled("key_1", True)
        listed, none = ReturnCode.DO_NOT_CALL, ReturnCode.NO_CREDITS
        for now, codes in ((NOW + 59, [listed, flood, none]), (NOW + 60, [listed, none])):
            found = await store.objections("key_1", *NUMBER, now)
            self.assertEqual(list(found), [ReturnCode.KEY_DISABLED, *codes])
        self.assertEqual(list(await store.objections("key_2", *NUMBER, NOW)), [ReturnCode.INVALID_KEY])
        self.assertEqual(await self.figures(store), (0, 1, 0))

    async def test_accept_gives_the_first_code_that_holds(self) -> None:
        """The decision of an acceptance is that of a check at the same moment."""
        store = await self.with_key(credits=1)
        await store.accept(make_call())
        await store.add_do_not_call([NUMBER])
        await store.set_disabled("key_1", True)
        codes = [await store.accept(make_call("call2"))]
        await store.set_disabled("key_1", False)
        codes.append(await store.accept(make_call("call2")))
        await store.remove_do_not_call([NUMBER])
        codes.append(await store.accept(make_call("call2")))
        codes.append(await store.accept(make_call("call2", number=OTHER)))
        codes.append(await store.accept(make_call("call2", key_id="key_9", number=OTHER)))
        self.assertEqual(
            codes,
            [
                ReturnCode.KEY_DISABLED,
                ReturnCode.DO_NOT_CALL,
                ReturnCode.FLOOD,
                ReturnCode.NO_CREDITS,
                ReturnCode.INVALID_KEY,
            ],
        )
        self.assertIsNone(await store.find_call("call2"))

    async def test_accept_takes_a_credit_and_keeps_the_call(self) -> None:
        """An accepted call holds one credit, is kept as it was given, and survives a restart."""
        store = await self.with_call()
        record = CallRecord(make_call(), State.ACCEPTED)
        for _ in range(2):
            self.assertEqual(await self.figures(store), (2, 1, 0))
            self.assertEqual(await store.find_call("call1"), record)
            self.assertEqual(await store.unfinished(), [record])
            store = await self.reopened(store)

    async def test_refused_accept_changes_nothing(self) -> None:
        """A refusal takes no credit, leaves no mark, and keeps no call."""
        store = await self.with_key(credits=0)
        self.assertIs(await store.accept(make_call()), ReturnCode.NO_CREDITS)
        await store.add_credits("key_1", 1, NOW)
        self.assertIs(await store.check("key_1", *NUMBER, NOW), ReturnCode.ACCEPTED)
        self.assertEqual(await store.unfinished(), [])
        self.assertEqual(await self.figures(store), (1, 0, 0))

    async def test_same_call_is_accepted_once(self) -> None:
        """A call accepted again under its id is ACCEPTED, and nothing changes, while it lives and ever after."""
        store = await self.with_call()
        self.assertIs(await store.accept(make_call()), ReturnCode.ACCEPTED)
        self.assertEqual(await self.figures(store), (2, 1, 0))
        await store.settle("call1", BUSY, charge=False)
        self.assertIs(await store.accept(make_call()), ReturnCode.ACCEPTED)
        self.assertEqual(await self.figures(store), (3, 0, 0))
        for at in (NOW, NOW + 3600):
            store = await self.reopened(store)
            self.assertIs(await store.accept(make_call(at=at)), ReturnCode.ACCEPTED)
            self.assertEqual(await self.figures(store), (3, 0, 0))
            self.assertIs(await self.state(store), State.DONE)
        await store.set_disabled("key_1", True)
        self.assertIs(await store.accept(make_call(at=NOW + 7200)), ReturnCode.ACCEPTED)

    async def test_last_credit_is_taken_once(self) -> None:
        """Of many calls accepted at the same moment, exactly as many are taken as there are credits."""
        store = await self.with_key(credits=3)
        calls = [make_call(f"call{index}", number=("1", f"21255501{index:02d}")) for index in range(20)]
        codes = await gatherResults([store.accept(call) for call in calls])
        self.assertEqual(codes.count(ReturnCode.ACCEPTED), 3)
        self.assertEqual(codes.count(ReturnCode.NO_CREDITS), 17)
        self.assertEqual(await self.figures(store), (0, 3, 0))
        self.assertEqual(len(await store.unfinished()), 3)

    async def test_number_is_accepted_once_a_minute(self) -> None:
        """The mark is of the number across all keys, and lasts for less than sixty seconds."""
        store = await self.with_call()
        await store.add_key(make_key("key_2"), b"digest 2")
        self.assertIs(await store.check("key_2", *NUMBER, NOW + 59.99), ReturnCode.FLOOD)
        self.assertIs(await store.check("key_2", "44", NUMBER[1], NOW + 1), ReturnCode.ACCEPTED)
        self.assertIs(await store.accept(make_call("call2", key_id="key_2", at=NOW + 59.99)), ReturnCode.FLOOD)
        self.assertIs(await store.accept(make_call("call2", key_id="key_2", at=NOW + 60)), ReturnCode.ACCEPTED)
        self.assertIs(await store.check("key_1", *NUMBER, NOW + 119), ReturnCode.FLOOD)

    async def test_flood_of_one_number_at_once(self) -> None:
        """Of many requests for one number at the same moment, one is accepted."""
        store = await self.with_key(credits=10)
        codes = await gatherResults([store.accept(make_call(f"call{index}")) for index in range(9)])
        self.assertEqual(sorted(codes), [ReturnCode.ACCEPTED, *[ReturnCode.FLOOD] * 8])
        self.assertEqual(await self.figures(store), (9, 1, 0))

    async def test_flood_mark_survives_a_restart(self) -> None:
        """A number is refused after a restart as before it, its call being ended or not."""
        store = await self.with_call()
        await store.accept(make_call("call2", number=OTHER, at=NOW + 30))
        await store.settle("call1", BUSY, charge=False)
        store = await self.reopened(store)
        self.assertIs(await store.check("key_1", *NUMBER, NOW + 59), ReturnCode.FLOOD)
        self.assertIs(await store.check("key_1", *NUMBER, NOW + 60), ReturnCode.ACCEPTED)
        self.assertIs(await store.check("key_1", *OTHER, NOW + 60), ReturnCode.FLOOD)

    # the life of a call

    async def test_life_of_a_call(self) -> None:
        """A call goes from accepted over dialling and answered to done, and what it leaves behind is kept."""
        store = await self.with_call()
        self.assertIs(await store.begin_dialing("call1", make_attempt()), True)
        self.assertEqual(await store.unfinished(), [CallRecord(make_call(), State.DIALING, make_attempt())])
        self.assertIs(await store.record_answer("call1", DIALOG, NOW + 5.7), True)
        answered = CallRecord(make_call(), State.ANSWERED, make_attempt(), DIALOG, NOW + 5.7)
        store = await self.reopened(store)
        self.assertEqual(await store.unfinished(), [answered])
        self.assertIs(await store.settle("call1", ANSWERED, charge=True), True)
        store = await self.reopened(store)
        self.assertEqual(await store.unfinished(), [])
        self.assertEqual(await store.find_call("call1"), replace(answered, state=State.DONE, outcome=ANSWERED))
        self.assertEqual(await store.pending_callbacks(), [PendingCallback(make_call(), ANSWERED, 0, NOW + 20.1)])
        self.assertEqual(await self.figures(store), (2, 0, 1))

    async def test_next_attempts_count_up(self) -> None:
        """While dialling, the next trunk's attempt takes the place of the last; numbers neither skip nor go back."""
        store = await self.with_call()
        self.assertIs(await store.begin_dialing("call1", make_attempt(2)), False)
        self.assertIs(await store.begin_dialing("call1", make_attempt(1)), True)
        self.assertIs(await store.begin_dialing("call1", make_attempt(3)), False)
        self.assertIs(await store.begin_dialing("call1", make_attempt(2)), True)
        self.assertIs(await store.begin_dialing("call1", make_attempt(1)), False)
        store = await self.reopened(store)
        self.assertIs(await store.begin_dialing("call1", make_attempt(1)), False)
        self.assertEqual([record.attempt for record in await store.unfinished()], [make_attempt(2)])

    async def test_dialing_again_with_the_same_attempt(self) -> None:
        """A repeated change answers True while it is the last one, and changes nothing."""
        store = await self.with_call()
        await store.begin_dialing("call1", make_attempt())
        self.assertIs(await store.begin_dialing("call1", make_attempt()), True)
        await store.record_answer("call1", DIALOG, NOW + 1)
        self.assertIs(await store.record_answer("call1", DIALOG, NOW + 1), True)
        store = await self.reopened(store)
        self.assertIs(await store.record_answer("call1", DIALOG, NOW + 1), True)
        self.assertIs(await store.record_answer("call1", "another dialog", NOW + 1), False)
        record = await store.find_call("call1")
        self.assertEqual(record, CallRecord(make_call(), State.ANSWERED, make_attempt(), DIALOG, NOW + 1))

    async def test_changes_from_another_state_are_refused(self) -> None:
        """Each change answers False, and changes nothing, unless the call is in the state it starts from."""
        store = await self.with_call()
        self.assertIs(await store.record_answer("call1", DIALOG, NOW), False)
        self.assertIs(await self.state(store), State.ACCEPTED)
        await store.begin_dialing("call1", make_attempt())
        await store.record_answer("call1", DIALOG, NOW)
        self.assertIs(await store.begin_dialing("call1", make_attempt(2)), False)
        self.assertIs(await self.state(store), State.ANSWERED)
        await store.settle("call1", ANSWERED, charge=True)
        self.assertIs(await store.begin_dialing("call1", make_attempt(2)), False)
        self.assertIs(await store.record_answer("call1", "another dialog", NOW), False)
        self.assertIs(await self.state(store), State.DONE)
        self.assertEqual(await self.figures(store), (2, 0, 1))

    async def test_unknown_call(self) -> None:
        """Every change of a call that was never accepted answers False."""
        store = await self.with_key()
        answers = [
            await store.begin_dialing("call9", make_attempt()),
            await store.record_answer("call9", DIALOG, NOW),
            await store.settle("call9", BUSY, charge=True),
            await store.callback_delivered("call9", 1, NOW),
            await store.callback_exhausted("call9", 1, NOW),
            await store.callback_postponed("call9", 1, NOW),
        ]
        self.assertEqual(answers, [False] * 6)
        self.assertIsNone(await store.find_call("call9"))
        self.assertEqual(await self.figures(store), (3, 0, 0))

    async def test_settle_from_each_state(self) -> None:
        """Accepted, dialling and answered calls are settled, charged or released as asked."""
        store = await self.with_key(credits=6)
        for index, charge in enumerate((True, False) * 3):
            call_id = f"call{index}"
            await store.accept(make_call(call_id, number=("1", f"212555010{index}")))
            if index >= 2:
                await store.begin_dialing(call_id, make_attempt())
            if index >= 4:
                await store.record_answer(call_id, DIALOG, NOW)
            self.assertIs(await store.settle(call_id, BUSY, charge=charge), True)
            self.assertIs(await self.state(store, call_id), State.DONE)
        self.assertEqual(await self.figures(store), (3, 0, 3))
        store = await self.reopened(store)
        self.assertEqual(await self.figures(store), (3, 0, 3))

    async def test_settle_twice(self) -> None:
        """The same outcome again answers True, another one False; the credit moves once."""
        store = await self.with_call()
        await store.settle("call1", BUSY, charge=False)
        for _ in range(2):
            self.assertIs(await store.settle("call1", BUSY, charge=False), True)
            self.assertIs(await store.settle("call1", BUSY, charge=True), False)
            self.assertIs(await store.settle("call1", ANSWERED, charge=False), False)
            self.assertEqual(await self.figures(store), (3, 0, 0))
            store = await self.reopened(store)

    async def test_settle_while_the_acceptance_is_on_its_way(self) -> None:
        """A call may be dialled and settled before its acceptance has been answered: both count, in order."""
        store = await self.with_key()
        changes: list[Deferred[Any]] = [
            store.accept(make_call()),
            store.begin_dialing("call1", make_attempt()),
            store.begin_dialing("call1", make_attempt(2)),
            store.record_answer("call1", DIALOG, NOW),
            store.settle("call1", BUSY, charge=True),
            store.settle("call1", BUSY, charge=True),
            store.callback_postponed("call1", 1, NOW + 9),
            store.callback_delivered("call1", 2, NOW + 9),
        ]
        answers = await gatherResults(changes)
        self.assertEqual(answers, [ReturnCode.ACCEPTED, *[True] * 7])
        self.assertEqual(await self.figures(store), (2, 0, 1))
        store = await self.reopened(store)
        self.assertEqual(
            await store.find_call("call1"),
            CallRecord(make_call(), State.DELIVERED, make_attempt(2), DIALOG, NOW, BUSY),
        )

    async def test_unfinished_come_oldest_first(self) -> None:
        """The calls to be dialled or ended after a restart come in the order of their acceptance."""
        store = await self.with_key(credits=9)
        for index in (3, 1, 4, 2):
            await store.accept(make_call(f"call{index}", number=("1", f"212555010{index}"), at=NOW + 5 - index / 10))
        await store.begin_dialing("call1", make_attempt())
        await store.settle("call4", BUSY, charge=False)
        store = await self.reopened(store)
        records: Sequence[CallRecord] = await store.unfinished()
        self.assertEqual({record.call.id for record in records}, {"call1", "call2", "call3"})
        self.assertEqual([record.state for record in records if record.call.id == "call1"], [State.DIALING])

    # callbacks

    async def test_call_without_callback_is_delivered_at_once(self) -> None:
        """A call without a callback_url goes from its end to delivered."""
        store = await self.with_call(make_call(callback_url=None))
        store = await self.reopened(store)
        self.assertIs(await store.settle("call1", BUSY, charge=False), True)
        self.assertIs(await self.state(store), State.DELIVERED)
        self.assertEqual(await store.pending_callbacks(), [])
        self.assertIs(await store.settle("call1", BUSY, charge=False), True)

    async def test_callback_is_postponed(self) -> None:
        """A postponed callback is kept with its tries and when it is due; the one due first comes first."""
        store = await self.with_call()
        await store.accept(make_call("call2", number=OTHER))
        for call_id in ("call1", "call2"):
            await store.settle(call_id, BUSY, charge=False)
        self.assertIs(await store.callback_postponed("call1", 1, NOW + 300), True)
        self.assertIs(await store.callback_postponed("call1", 1, NOW + 300), True)
        expected = [("call2", 0, NOW + 3.5), ("call1", 1, NOW + 300)]
        self.assertEqual(await self.pending(store), expected)
        store = await self.reopened(store)
        self.assertEqual(await self.pending(store), expected)
        self.assertIs(await store.callback_postponed("call1", 0, NOW + 10), False)
        self.assertEqual(await self.pending(store), expected)

    async def test_callback_is_delivered(self) -> None:
        """A delivered callback isn't pending any more, and nothing else can become of it."""
        store = await self.with_call()
        await store.settle("call1", BUSY, charge=False)
        self.assertIs(await store.callback_delivered("call1", 1, NOW), True)
        for _ in range(2):
            self.assertEqual(await store.pending_callbacks(), [])
            self.assertIs(await store.callback_delivered("call1", 1, NOW), True)
            self.assertIs(await store.callback_exhausted("call1", 1, NOW), False)
            self.assertIs(await store.callback_postponed("call1", 2, NOW), False)
            self.assertIs(await self.state(store), State.DELIVERED)
            store = await self.reopened(store)

    async def test_callback_is_exhausted(self) -> None:
        """A callback that was given up isn't pending any more, and nothing else can become of it."""
        store = await self.with_call()
        await store.settle("call1", BUSY, charge=False)
        self.assertIs(await store.callback_exhausted("call1", 10, NOW), True)
        for _ in range(2):
            self.assertEqual(await store.pending_callbacks(), [])
            self.assertIs(await store.callback_exhausted("call1", 10, NOW), True)
            self.assertIs(await store.callback_delivered("call1", 10, NOW), False)
            self.assertIs(await self.state(store), State.EXHAUSTED)
            store = await self.reopened(store)

    async def test_callback_of_a_running_call(self) -> None:
        """A call that has not ended has no callback that could be delivered."""
        store = await self.with_call()
        self.assertIs(await store.callback_delivered("call1", 1, NOW), False)
        self.assertIs(await self.state(store), State.ACCEPTED)

    async def test_callback_again(self) -> None:
        """Whether it waits, was delivered or given up: a callback may begin anew, with all of its tries before it."""
        store = await self.with_key()
        ways = ("postponed", "delivered", "exhausted")
        for index, how in enumerate(ways):
            await store.accept(make_call(how, number=("1", f"212555010{index}")))
            await store.settle(how, BUSY, charge=False)
        await store.callback_postponed("postponed", 4, NOW + 9)
        await store.callback_delivered("delivered", 4, NOW + 9)
        await store.callback_exhausted("exhausted", 4, NOW + 9)
        for index, how in enumerate(ways):
            for _ in range(2):
                self.assertIs(await store.callback_again(how, NOW + 20 + index), True)
                self.assertIs(await self.state(store, how), State.DONE)
        expected = [(how, 0, NOW + 20 + index) for index, how in enumerate(ways)]
        for _ in range(2):
            self.assertEqual(await self.pending(store), expected)
            self.assertEqual((await store.totals()).calls, {state.value: 3 * (state is State.DONE) for state in State})
            await self.purged(store, NOW + 10**8)
            store = await self.reopened(store)
        for how in ways:
            self.assertIs(await store.callback_delivered(how, 1, NOW + 30), True)
            self.assertIs(await self.state(store, how), State.DELIVERED)

    async def test_callback_again_of_none(self) -> None:
        """A call that runs, that wanted no callback, or that is not there has none that could begin anew."""
        store = await self.with_call(make_call(callback_url=None))
        await store.accept(make_call("call2", number=OTHER))
        await store.settle("call1", BUSY, charge=False)
        for call_id in ("call1", "call2", "call9"):
            self.assertIs(await store.callback_again(call_id, NOW), False)
        self.assertIs(await self.state(store), State.DELIVERED)
        self.assertEqual(await self.pending(store), [])

    # looking for calls

    async def with_calls(self, count: int = 6) -> tuple[Store, list[str]]:
        """Return a store with so many calls, a second after each other, and their ids, the oldest first.

        The second is dialled, the third answered, the fourth was, the fifth was busy; each second one is another key's.
        """
        store = await self.with_key(credits=count)
        await store.add_key(make_key("key_2", credits=count), DIGEST[::-1])
        ids = []
        for index in range(count):
            at = NOW + index
            call_id = f"{int(at * 1000):012x}{index:020x}"
            number = ("1", f"21255501{index:02d}")
            call = make_call(call_id, key_id=f"key_{1 + index % 2}", number=number, at=at)
            self.assertIs(await store.accept(call), ReturnCode.ACCEPTED)
            ids.append(call_id)
        for call_id in ids[1:5]:
            await store.begin_dialing(call_id, make_attempt())
        for call_id in ids[2:4]:
            await store.record_answer(call_id, DIALOG, NOW)
        await store.settle(ids[3], ANSWERED, charge=True)
        await store.settle(ids[4], BUSY, charge=False)
        return store, ids

    async def found(self, store: Store, ids: list[str], **wanted: Any) -> list[int]:
        """Return the places of the calls that are found, page by page."""
        found: list[int] = []
        before, pages = "", 0
        while True:
            records, before = await store.calls(CallFilter(**wanted), most=2, before=before)
            self.assertLessEqual(len(records), 2)
            found += [ids.index(record.call.id) for record in records]
            pages += 1
            if not before:
                return found
            self.assertLess(pages, 10)

    async def test_calls_are_found(self) -> None:
        """Calls are found by key, number, state, outcome and time, the newest first, a page at a time."""
        store, ids = await self.with_calls()
        for wanted, places in (
            ({}, [5, 4, 3, 2, 1, 0]),
            ({"key_id": "key_1"}, [4, 2, 0]),
            ({"key_id": "key_2"}, [5, 3, 1]),
            ({"key_id": "key_3"}, []),
            ({"last_digits": "0102"}, [2]),
            ({"last_digits": "12125550103"}, [3]),
            ({"last_digits": "2"}, [2]),
            ({"last_digits": "012125550103"}, []),
            ({"state": "accepted"}, [5, 0]),
            ({"state": "dialing"}, [1]),
            ({"state": "done", "key_id": "key_1"}, [4]),
            ({"answered": True}, [3]),
            ({"answered": False}, [4]),
            ({"reason": Reason.BUSY}, [4]),
            ({"reason": Reason.FAILED}, []),
            ({"since": NOW + 3}, [5, 4, 3]),
            ({"since": NOW + 2.0005, "until": NOW + 4}, [3]),
            ({"until": NOW + 2.0005}, [2, 1, 0]),
            ({"until": NOW, "key_id": "key_1"}, []),
            ({"key_id": "key_1", "until": NOW + 2, "state": "accepted", "last_digits": "00"}, [0]),
        ):
            self.assertEqual(await self.found(store, ids, **wanted), places, wanted)

    async def test_pages_of_calls(self) -> None:
        """A page that is full tells whether another follows; what comes meanwhile is on none of them."""
        store, ids = await self.with_calls()
        page, before = await store.calls(CallFilter(), most=6)
        self.assertEqual(([record.call.id for record in page], before), (ids[::-1], ""))
        self.assertEqual(page[2], await store.find_call(ids[3]))
        page, before = await store.calls(CallFilter(), most=4)
        self.assertEqual((len(page), before), (4, ids[2]))
        late = make_call("f" * 32, number=OTHER, at=NOW + 100)
        await store.add_credits("key_1", 1, NOW)
        self.assertIs(await store.accept(late), ReturnCode.ACCEPTED)
        page, before = await store.calls(CallFilter(), most=4, before=before)
        self.assertEqual(([record.call.id for record in page], before), (ids[1::-1], ""))
        self.assertEqual(await store.calls(CallFilter(), before="0"), ([], ""))
        self.assertEqual((await store.calls(CallFilter(), before=ids[1] + "z"))[0][0].call.id, ids[1])

    async def test_purged_calls_are_not_found(self) -> None:
        """What is forgotten is on no page, and a place that is forgotten leads to what is older than it."""
        store, ids = await self.with_calls()
        await store.callback_delivered(ids[3], 1, NOW)
        self.assertEqual(await self.found(store, ids, key_id="key_2"), [5, 3, 1])
        while await store.purge(NOW + 1000):
            pass
        self.assertEqual(await self.found(store, ids, key_id="key_2"), [5, 1])
        self.assertEqual(await self.found(store, ids), [5, 4, 2, 1, 0])
        page, _ = await store.calls(CallFilter(), before=ids[3])
        self.assertEqual([record.call.id for record in page], ids[2::-1])

    async def test_calls_outlive_a_restart(self) -> None:
        """A store that is opened again finds the calls of before."""
        store, ids = await self.with_calls()
        store = await self.reopened(store)
        self.assertEqual(await self.found(store, ids, key_id="key_1"), [4, 2, 0])

    def test_filters_that_can_be_none(self) -> None:
        """A filter that no call could ever fit, for it is not of that kind, is refused when it is made."""
        for wanted in ({"last_digits": "12a"}, {"last_digits": "1" * 16}, {"state": "gone"}, {"since": float("nan")}):
            with self.assertRaises(ValueError):
                CallFilter(**wanted)

    # requests that may be repeated

    async def test_call_is_found_by_its_idempotency(self) -> None:
        """A call is found for a day by the first half of its `idempotency`, also after a restart."""
        call = replace(make_call(), idempotency="ab" * 16 + "0" * 16)
        store = await self.with_call(call)
        for _ in range(2):
            found = await store.find_idempotent("ab" * 16, NOW + 80_000)
            self.assertEqual(found, CallRecord(call, State.ACCEPTED))
            self.assertIsNone(await store.find_idempotent("ab" * 16, NOW + 86_401))
            self.assertIsNone(await store.find_idempotent("ac" * 16, NOW))
            self.assertIsNone(await store.find_idempotent("", NOW))
            store = await self.reopened(store)

    async def test_one_call_for_an_idempotency(self) -> None:
        """Of two calls with the same first half one is accepted; the same call again is, and changes nothing."""
        store = await self.with_key()
        first = replace(make_call(), idempotency="ab" * 16 + "0" * 16)
        second = replace(make_call("call2", number=OTHER), idempotency="ab" * 16 + "1" * 16)
        other = replace(make_call("call3", number=("1", "2125550199")), idempotency="cd" * 16 + "0" * 16)
        codes = await gatherResults([store.accept(call) for call in (first, second, first, other)])
        self.assertEqual(codes, [ReturnCode.ACCEPTED, ReturnCode.FLOOD, ReturnCode.ACCEPTED, ReturnCode.ACCEPTED])
        self.assertEqual(await self.figures(store), (1, 2, 0))
        found = await store.find_idempotent("ab" * 16, NOW)
        self.assertEqual(found and found.call, first)

    # figures

    async def test_totals(self) -> None:
        """The figures count every call once, and the credits add up."""
        store = await self.with_key(credits=10)
        for index, state in enumerate(State):
            call_id = f"call{index}"
            await store.accept(make_call(call_id, number=("1", f"212555010{index}")))
            if state is not State.ACCEPTED:
                await store.begin_dialing(call_id, make_attempt())
            if state not in (State.ACCEPTED, State.DIALING):
                await store.record_answer(call_id, DIALOG, NOW)
            if state in (State.DONE, State.DELIVERED, State.EXHAUSTED):
                await store.settle(call_id, ANSWERED, charge=state is not State.DONE)
            if state is State.DELIVERED:
                await store.callback_delivered(call_id, 1, NOW)
            if state is State.EXHAUSTED:
                await store.callback_exhausted(call_id, 10, NOW)
        await store.add_do_not_call([OTHER])
        expected = Totals(
            added=10, credits=5, held=3, charged=2, calls={state.value: 1 for state in State}, do_not_call=1
        )
        self.assertEqual(await store.totals(), expected)
        store = await self.reopened(store)
        self.assertEqual(await store.totals(), expected)

    async def test_fresh_store_is_empty_and_healthy(self) -> None:
        """A new store has nothing in it and can keep changes."""
        store = await self.opened()
        self.assertTrue(store.healthy())
        self.assertEqual(await store.totals(), Totals(0, 0, 0, 0, {state.value: 0 for state in State}, 0))
