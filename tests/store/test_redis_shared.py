# Trial's assertions are not annotated.
# mypy: allow-untyped-calls
"""What nodes know of each other's doings: changed keys, and the audio of accepted calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred

from calledind.model import ReturnCode
from calledind.store.interface import StoreUnavailable
from tests.store.contract import BUSY, DIGEST, NOW, make_call, make_key
from tests.store.redis_case import RedisCase, numbered, until

AUDIO = make_call().audio


class KeyTests(RedisCase):
    async def test_key_changed_on_another_node(self) -> None:
        """A node hears of a key that another has changed, and asks for it anew."""
        one = await self.with_calls()
        two = await self.node("two")
        self.assertEqual(await two.find_key(DIGEST), make_key(credits=1000))
        await one.set_caller_ids("key_1", ["2125550100"])
        await until("it has heard", lambda: two._cache.find(DIGEST) is None)
        self.assertEqual(await two.find_key(DIGEST), replace(make_key(credits=1000), caller_ids=("2125550100",)))

    async def test_key_disabled_on_another_node(self) -> None:
        """A disabled key is refused by all nodes at once, whether or not they have heard of it."""
        one = await self.with_calls()
        two = await self.node("two")
        before = await two.find_key(DIGEST)
        await one.set_disabled("key_1", True)
        await until("it has heard", lambda: two._cache.find(DIGEST) is None)
        await two.find_key(DIGEST)
        two._cache._keys[DIGEST] = before, b"1"  # type: ignore[assignment]
        self.assertIs(await two.accept(numbered(1)), ReturnCode.KEY_DISABLED)
        self.assertTrue((await two.find_key(DIGEST)).disabled)  # type: ignore[union-attr]

    async def test_unheard_change_of_a_key(self) -> None:
        """Who decided by an old identity is told to ask again, and knows the new one then."""
        one = await self.with_calls()
        two = await self.node("two")
        before = await two.find_key(DIGEST)
        await one.set_attestation("key_1", "B")
        await until("it has heard", lambda: two._cache.find(DIGEST) is None)
        await two.find_key(DIGEST)
        two._cache._keys[DIGEST] = before, b"1"  # type: ignore[assignment]
        await self.assertFailure(two.accept(numbered(1)), StoreUnavailable)
        self.assertEqual(await self.figures(two), (1000, 0, 0))
        key = await two.find_key(DIGEST)
        assert key is not None
        self.assertEqual(key.attestation, "B")
        self.assertIs(await two.accept(numbered(1)), ReturnCode.ACCEPTED)

    async def test_unheard_change_that_is_none(self) -> None:
        """A key that was disabled and enabled again is decided by once more, and accepted."""
        one = await self.with_calls()
        two = await self.node("two")
        before = await two.find_key(DIGEST)
        await one.set_disabled("key_1", True)
        await one.set_disabled("key_1", False)
        await until("it has heard", lambda: two._cache.find(DIGEST) is None)
        await two.find_key(DIGEST)
        two._cache._keys[DIGEST] = before, b"1"  # type: ignore[assignment]
        self.assertIs(await two.accept(numbered(1)), ReturnCode.ACCEPTED)

    async def test_change_that_overtakes_an_answer(self) -> None:
        """A key that was changed while it was asked for is not remembered as it was before."""
        one = await self.with_calls()
        two = await self.node("two")
        await one.set_disabled("key_1", True)
        run = two._link.run

        def run_slowly(script: str, keys: Any, args: Any, *, replicated: bool = False) -> Deferred[Any]:
            return Deferred.fromCoroutine(overtaken(run(script, keys, args, replicated=replicated)))

        async def overtaken(asking: Deferred[Any]) -> Any:
            row = await asking
            before = two._cache.changes
            await one.set_disabled("key_1", False)
            await until("it has heard", lambda: two._cache.changes > before)
            return row

        self.patch(two._link, "run", run_slowly)
        found = await two.find_key(DIGEST)
        assert found is not None
        self.assertTrue(found.disabled)
        self.patch(two._link, "run", run)
        self.assertEqual(await two.find_key(DIGEST), make_key(credits=1000))

    async def test_nothing_is_heard(self) -> None:
        """While a node can't hear of changes, it asks for each key."""
        one = await self.with_calls()
        two = await self.node("two")
        await one.set_disabled("key_1", True)
        await until("it has heard", lambda: two._cache.changes > 0)
        await two.find_key(DIGEST)
        (channel,) = [line for line in two._link._lines if line is not two._link._main]
        assert channel.connection is not None
        channel.connection.give_up("lost")
        self.raw("HSET", "key:key_1", "disabled", "0")
        self.assertEqual(await two.find_key(DIGEST), make_key(credits=1000))

    async def test_credits_of_all_nodes(self) -> None:
        """The last credit is taken once, whichever node is asked, and one that is released is anybody's."""
        one = await self.with_calls(credits=1)
        two = await self.node("two")
        self.assertIs(await two.accept(numbered(1)), ReturnCode.ACCEPTED)
        self.assertIs(await one.accept(numbered(2)), ReturnCode.NO_CREDITS)
        self.assertIs(await one.accept(replace(numbered(3), phone_number="2125550101")), ReturnCode.FLOOD)
        self.assertIs(await two.settle("call1", BUSY, charge=False), True)
        self.assertIs(await one.accept(numbered(2)), ReturnCode.ACCEPTED)

    async def test_old_marks_are_forgotten(self) -> None:
        """The marks of numbers that may be called again do not gather."""
        store = await self.with_calls(1, 2, 3)
        self.assertEqual(self.raw("ZCARD", "floods"), 3)
        for index in (4, 5):
            await store.accept(replace(numbered(index), accepted_at=NOW + 100 + index))
        self.assertEqual(self.raw("ZCARD", "floods"), 2)


class AudioTests(RedisCase):
    async def test_audio_comes_with_the_first_call(self) -> None:
        """The first call that plays an MP3 brings it along; then any node has it, and no call brings it again."""
        self.library[AUDIO] = {"PCMU": bytes(range(256)) * 100, "G722": b"\r\n\0"}
        one, two = await self.node("one", audio=True), await self.node("two", audio=True)
        await one.add_key(make_key(credits=9), DIGEST)
        self.assertIs(await one.accept(numbered(1)), ReturnCode.ACCEPTED)
        self.assertIs(await two.accept(numbered(2)), ReturnCode.ACCEPTED)
        self.assertEqual(self.uploads, [AUDIO])
        self.assertEqual(await two.find_audio(AUDIO), self.library[AUDIO])
        self.assertEqual(await two.find_audio("b" * 64), {})
        self.assertEqual(await self.figures(one), (7, 2, 0))

    async def test_audio_goes_some_time_after_the_last_call(self) -> None:
        """Each call keeps the audio for its time; when it has gone, the next call brings it again."""
        self.library[AUDIO] = {"PCMU": b"octets"}
        store = await self.node(audio=True)
        await store.add_key(make_key(credits=9), DIGEST)
        await store.accept(numbered(1))
        self.raw("EXPIRE", f"audio:{AUDIO}", 5)
        await store.accept(numbered(2))
        self.assertGreater(self.raw("TTL", f"audio:{AUDIO}"), 500)
        self.raw("DEL", f"audio:{AUDIO}")
        await store.accept(numbered(3))
        self.assertEqual(self.uploads, [AUDIO, AUDIO])

    async def test_refused_call_brings_no_audio(self) -> None:
        """Nothing is brought for a call that is refused."""
        store = await self.node(audio=True)
        self.assertIs(await store.accept(numbered(1)), ReturnCode.INVALID_KEY)
        self.assertEqual(self.uploads, [])

    async def test_audio_that_is_gone(self) -> None:
        """A call whose audio is in no library any more is not accepted, and nothing is changed."""
        store = await self.node(audio=True)
        await store.add_key(make_key(credits=9), DIGEST)
        await self.assertFailure(store.accept(numbered(1)), StoreUnavailable)
        self.assertEqual(await self.figures(store), (9, 0, 0))
