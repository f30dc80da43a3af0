"""Names are looked up in threads that no name server can hold for all."""

# mypy: allow-untyped-calls

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from calledind.net.resolve import ResolveError, ThreadedResolver, domain_of, system_lookup


class ClockWithThreads(Clock):
    """A clock whose reactor side is the real one: time stands still while threads work."""

    def callFromThread(self, call: Callable[..., object], *args: object) -> None:
        there: Any = reactor
        there.callFromThread(call, *args)


class Domains(SynchronousTestCase):
    def test_domain_of(self) -> None:
        """Names of one owner have one domain, as far as two labels (three below co.uk and the like) tell."""
        for host, domain in (
            ("a.b.example.com", "example.com"),
            ("EXAMPLE.com.", "example.com"),
            ("a.b.example.co.uk", "example.co.uk"),
            ("example.de", "example.de"),
            ("localhost", "localhost"),
        ):
            self.assertEqual(domain_of(host), domain)


class ThreadedResolverTests(TestCase):
    def setUp(self) -> None:
        self.clock = ClockWithThreads()
        self.asked: list[str] = []
        self.answers: dict[str, Sequence[str]] = {}
        self.tarpit = threading.Event()
        self.addCleanup(self.tarpit.set)

    def resolver(self, **options: Any) -> ThreadedResolver:
        resolver = ThreadedResolver(self.clock, lookup=self.lookup, **options)
        self.addCleanup(resolver.stop)
        return resolver

    def lookup(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host.endswith("slow.test"):
            self.tarpit.wait(30)
        if host == "bug.test":
            raise LookupError("never seen before")
        if host not in self.answers:
            raise OSError("Name or service not known")
        return self.answers[host]

    async def test_answer(self) -> None:
        """A name's addresses come back in the lookup's order."""
        self.answers["a.test"] = ["192.0.2.2", "192.0.2.1"]
        self.assertEqual(await self.resolver().resolve("a.test"), ["192.0.2.2", "192.0.2.1"])

    async def test_no_answer(self) -> None:
        """A name that is not there, has no addresses, or breaks the lookup is a ResolveError."""
        self.answers["empty.test"] = []
        resolver = self.resolver()
        for host, words in (("b.test", "does not resolve"), ("empty.test", "no address"), ("bug.test", "LookupError")):
            error = await self.assertFailure(resolver.resolve(host), ResolveError)
            self.assertIn(words, str(error))

    async def test_deadline(self) -> None:
        """Whoever waits is told at the deadline, whatever the thread does."""
        waiting = self.resolver(deadline=5).resolve("a.slow.test")
        self.clock.advance(5)
        error = await self.assertFailure(waiting, ResolveError)
        self.assertIn("5 s", str(error))

    async def test_asked_once(self) -> None:
        """Those who ask for a name while it is looked up share the answer; one of them may leave."""
        self.answers["a.slow.test"] = ["192.0.2.1"]
        resolver = self.resolver()
        waiting = [resolver.resolve("a.slow.test") for _ in range(3)]
        waiting[1].addErrback(lambda _: None).cancel()
        self.tarpit.set()
        self.assertEqual([await each for each in waiting], [["192.0.2.1"], None, ["192.0.2.1"]])
        self.assertEqual(self.asked, ["a.slow.test"])

    async def test_kept_for_a_while(self) -> None:
        """An answer is given again for ten seconds and a failure for two, then the name is looked up anew."""
        self.answers["a.test"] = ["192.0.2.1"]
        resolver = self.resolver()
        for _ in range(2):
            await resolver.resolve("a.test")
            await self.assertFailure(resolver.resolve("b.test"), ResolveError)
        self.assertEqual(self.asked, ["a.test", "b.test"])
        failures = [await self.assertFailure(resolver.resolve("b.test"), ResolveError) for _ in range(2)]
        self.assertIsNot(*failures)
        self.clock.advance(2)
        await resolver.resolve("a.test")
        await self.assertFailure(resolver.resolve("b.test"), ResolveError)
        self.clock.advance(8)
        await resolver.resolve("a.test")
        self.assertEqual(self.asked, ["a.test", "b.test", "b.test", "a.test"])

    async def test_tarpit_holds_itself_only(self) -> None:
        """A domain whose servers never answer takes its share of the threads, and the others' names resolve."""
        self.answers["a.test"] = ["192.0.2.1"]
        resolver = self.resolver(threads=4, per_domain=3)
        stuck = [resolver.resolve(f"{number}.slow.test") for number in range(20)]
        self.assertEqual(await resolver.resolve("a.test"), ["192.0.2.1"])
        self.assertLessEqual(len([host for host in self.asked if host.endswith("slow.test")]), 3)
        self.clock.advance(5)
        for each in stuck:
            await self.assertFailure(each, ResolveError)

    async def test_nobody_waits_any_more(self) -> None:
        """Names that all who asked have given up on are not looked up when the thread is free again."""
        resolver = self.resolver(threads=1)
        given_up = [resolver.resolve("a.slow.test"), resolver.resolve("gone.test")]
        self.clock.advance(5)
        for each in given_up:
            await self.assertFailure(each, ResolveError)
        self.answers["a.test"] = ["192.0.2.1"]
        waiting = resolver.resolve("a.test")
        self.tarpit.set()
        await waiting
        self.assertEqual(self.asked, ["a.slow.test", "a.test"])

    async def test_stop(self) -> None:
        """Stopping fails whoever waits, and whoever asks afterwards."""
        resolver = self.resolver()
        waiting = resolver.resolve("a.slow.test")
        resolver.stop()
        await self.assertFailure(waiting, ResolveError)
        await self.assertFailure(resolver.resolve("a.test"), ResolveError)

    async def test_many(self) -> None:
        """A thousand names at once are all answered by a few threads."""
        self.answers = {f"{number}.a{number}.test": [f"192.0.2.{number % 256}"] for number in range(1000)}
        resolver = self.resolver(threads=4)
        all_of_them: Deferred[list[Sequence[str]]] = gatherResults([resolver.resolve(host) for host in self.answers])
        self.assertEqual(await all_of_them, list(self.answers.values()))

    def test_system(self) -> None:
        """The machine's own lookup reads a numeric address without asking anybody."""
        self.assertEqual(system_lookup("127.0.0.1"), ["127.0.0.1"])
