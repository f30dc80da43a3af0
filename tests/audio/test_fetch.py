"""Fetching from servers that are slow, huge, looping and lying, and from good ones."""

# mypy: allow-untyped-calls

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SkipTest, TestCase

from calledind.audio.fetch import Fetched, Fetcher, FetchError, NotModified
from calledind.net.agent import GuardedAgent
from calledind.net.guard import Guard
from calledind.settings.tables import Audio
from tests.net.web import Answer, Conversation, ScriptedServer, TableResolver, certificate_for, page, says, silence

NAMES = {"sounds.test": ["127.0.0.1"], "other.test": ["127.0.0.1"], "inside.test": ["10.0.0.1"]}
BODY = b"\xff\xfb" + bytes(range(256)) * 40


class FullDisk(type(Path())):  # type: ignore[misc]
    """A path whose file takes the first piece and no more."""

    def open(self, *args: Any, **options: Any) -> Any:
        file = super().open(*args, **options)
        taken: list[bytes] = []

        class Full:
            def __enter__(self) -> Full:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def write(self, data: bytes) -> None:
                if taken:
                    raise OSError(errno.ENOSPC, "No space left on device")
                taken.append(data)

        return Full()


class FetchTestCase(TestCase):
    timeout = 20
    "Seconds; only a bug takes them."

    def setUp(self) -> None:
        self.server = ScriptedServer(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.server.stop()))
        self.clock = Clock()
        self.fetcher = self.make_fetcher()
        self.into = Path(self.mktemp())

    def make_fetcher(self, **settings: Any) -> Fetcher:
        agent = GuardedAgent(reactor, Guard(["127.0.0.0/8"]), TableResolver(NAMES))
        return Fetcher(self.clock, agent, Audio(**settings))

    def serve(self, answer: Answer, path: str = "/a.mp3", host: str = "sounds.test") -> str:
        self.server.pages[path] = answer
        return self.server.url(path, host)

    async def refused(self, url: str, words: str) -> None:
        """Expect the fetch to fail with these words and to leave no file."""
        error = await self.assertFailure(self.fetcher.fetch(url, into=self.into), FetchError)
        self.assertIn(words, str(error))
        self.assertFalse(self.into.exists())


class GoodServers(FetchTestCase):
    async def test_saves_the_body(self) -> None:
        """A body with Content-Length is in the file, with its size and hash, and what the server says of it."""
        url = self.serve(page(BODY, 'ETag: "abc"', "Last-Modified: Mon, 23 Nov 2026 10:00:00 GMT"))
        fetched = await self.fetcher.fetch(url, into=self.into)
        assert isinstance(fetched, Fetched)
        self.assertEqual(self.into.read_bytes(), BODY)
        self.assertEqual((fetched.size, fetched.sha256), (len(BODY), hashlib.sha256(BODY).hexdigest()))
        self.assertEqual((fetched.etag, fetched.last_modified), ('"abc"', "Mon, 23 Nov 2026 10:00:00 GMT"))
        self.assertEqual((fetched.fresh_for, fetched.no_store), (None, False))

    async def test_asks_plainly(self) -> None:
        """The request has no cookie, wants no content encoding, and names the host as the URL does."""
        await self.fetcher.fetch(self.serve(page(BODY)), into=self.into)
        asked = self.server.conversations[0]
        self.assertEqual(asked.request_line, "GET /a.mp3 HTTP/1.1")
        self.assertEqual(asked.header("Host"), f"sounds.test:{self.server.port}")
        self.assertEqual(asked.header("Accept-Encoding"), "identity")
        self.assertIsNone(asked.header("Cookie"))

    async def test_chunked(self) -> None:
        """A chunked body is put together again."""
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        url = self.serve(says(head, b"3\r\nabc\r\n", b"2;x=y\r\nde\r\n0\r\n\r\n"))
        await self.fetcher.fetch(url, into=self.into)
        self.assertEqual(self.into.read_bytes(), b"abcde")

    async def test_body_until_close(self) -> None:
        """A body without a length ends with its connection."""
        await self.fetcher.fetch(self.serve(says(b"HTTP/1.0 200 OK\r\n\r\nabc")), into=self.into)
        self.assertEqual(self.into.read_bytes(), b"abc")

    async def test_not_modified(self) -> None:
        """With what is known of an earlier fetch, 304 says that it is still right, and no file is made."""
        url = self.serve(page(b"", "Cache-Control: max-age=90", status="304 Not Modified"))
        answer = await self.fetcher.fetch(url, into=self.into, etag='"abc"', last_modified="then")
        assert isinstance(answer, NotModified)
        self.assertEqual(answer.fresh_for, 90.0)
        self.assertEqual(self.server.conversations[0].header("If-None-Match"), '"abc"')
        self.assertEqual(self.server.conversations[0].header("If-Modified-Since"), "then")
        self.assertFalse(self.into.exists())

    async def test_credentials(self) -> None:
        """User and password of the URL go as Basic authentication."""
        url = self.serve(page(BODY)).replace("http://", "http://us%40er:pass@")
        await self.fetcher.fetch(url, into=self.into)
        self.assertEqual(self.server.conversations[0].header("Authorization"), "Basic dXNAZXI6cGFzcw==")

    async def test_ipv6_literal(self) -> None:
        """A URL with an IPv6 address in it is fetched from there."""
        try:
            server = ScriptedServer(reactor, interface="::1")
        except CannotListenError:
            raise SkipTest("no IPv6 on this machine") from None
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))
        server.pages["/a"] = page(BODY)
        agent = GuardedAgent(reactor, Guard(["::1/128"]), TableResolver({}))
        await Fetcher(self.clock, agent, Audio()).fetch(f"http://[::1]:{server.port}/a", into=self.into)
        self.assertEqual(self.into.read_bytes(), BODY)
        self.assertEqual(server.conversations[0].header("Host"), f"[::1]:{server.port}")


class BadServers(FetchTestCase):
    async def test_status(self) -> None:
        """Any status that does not bring all of the body is refused."""
        for status in ("404 Not Found", "500 Oops", "206 Partial Content", "304 Not Modified", "204 No Content"):
            await self.refused(self.serve(page(BODY if status < "3" else b"", status=status)), status[:3])

    async def test_short_body(self) -> None:
        """A body that is shorter than its Content-Length is an error."""
        await self.refused(self.serve(says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")), "breaks off")

    async def test_cut_chunk(self) -> None:
        """A chunked body without its last chunk is an error."""
        url = self.serve(says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"))
        await self.refused(url, "breaks off")

    async def test_deadline(self) -> None:
        """A server that never answers is left at the deadline, and its connection is closed."""
        asked: Deferred[Conversation] = Deferred()
        fetching = self.fetcher.fetch(self.serve(asked.callback), into=self.into)
        conversation = await asked
        await self.too_late(fetching)
        await conversation.lost

    async def test_deadline_in_the_body(self) -> None:
        """A server that drips its body is left at the deadline, and what there was of the file is gone."""
        asked: Deferred[Conversation] = Deferred()
        fetching = self.fetcher.fetch(self.serve(asked.callback), into=self.into)
        conversation = await asked
        conversation.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\na")
        while not self.into.exists():
            await deferLater(reactor, 0.001)
        await self.too_late(fetching)
        await conversation.lost

    async def too_late(self, fetching: Deferred[Any]) -> None:
        self.clock.advance(9.9)
        self.assertNoResult(fetching)
        self.clock.advance(0.2)
        error = await self.assertFailure(fetching, FetchError)
        self.assertIn("10 s", str(error))
        self.assertFalse(self.into.exists())

    async def test_too_large(self) -> None:
        """A body over the bound is refused when it is announced, and cut off when it is not, the file gone."""
        self.fetcher = self.make_fetcher(max_bytes=100_000)
        announced = b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n"
        await self.refused(self.serve(says(announced, close=False)), "larger")
        await self.server.conversations[-1].lost
        unsaid = says(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 10_000_000, close=False)
        await self.refused(self.serve(unsaid), "larger")
        await self.server.conversations[-1].lost
        chunks = says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 100_001, close=False)
        await self.refused(self.serve(chunks), "larger")
        await self.server.conversations[-1].lost

    async def test_largest(self) -> None:
        """A body of just the bound is saved."""
        self.fetcher = self.make_fetcher(max_bytes=len(BODY))
        await self.fetcher.fetch(self.serve(page(BODY)), into=self.into)
        self.assertEqual(self.into.read_bytes(), BODY)

    async def test_empty(self) -> None:
        """No body at all is an error."""
        await self.refused(self.serve(page()), "empty")

    async def test_content_encoding(self) -> None:
        """A compressed body, which nobody asked for, is refused: it may unpack to anything."""
        await self.refused(self.serve(page(BODY, "Content-Encoding: gzip")), "content encoding")

    async def test_lies_about_its_length(self) -> None:
        """Two lengths, a length that is no number, and an unknown transfer encoding are errors."""
        for line in (
            "Content-Length: 2\r\nContent-Length: 3",
            "Content-Length: -1",
            "Content-Length: x",
            "Transfer-Encoding: x",
        ):
            await self.refused(self.serve(says(f"HTTP/1.1 200 OK\r\n{line}\r\n\r\nabc".encode())), "HTTP properly")

    async def test_bad_urls(self) -> None:
        """A URL that can't be asked for fails without any connection."""
        for url in ("ftp://a.test/", "http://", "x", "http://127.1/", "http://nowhere.test/", "http://inside.test/"):
            await self.assertFailure(self.fetcher.fetch(url, into=self.into), FetchError)

    async def test_disk(self) -> None:
        """A file that can't be written is an OSError, not the server's fault, and the connection is closed."""
        fetching = self.fetcher.fetch(self.serve(page(BODY)), into=self.into / "no" / "folder")
        await self.assertFailure(fetching, FileNotFoundError)
        await self.server.conversations[-1].lost

    async def test_disk_full(self) -> None:
        """A disk that is full in the middle of the body is an OSError, and the connection is closed."""
        url = self.serve(says(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1_000_000, close=False))
        into = FullDisk(self.mktemp())
        error: Any = await self.assertFailure(self.fetcher.fetch(url, into=into), OSError)
        self.assertEqual(error.errno, errno.ENOSPC)
        self.assertFalse(into.exists())
        await self.server.conversations[-1].lost


class Redirects(FetchTestCase):
    def redirect(self, path: str, location: str, status: int = 302) -> str:
        return self.serve(page(b"", f"Location: {location}", status=f"{status} Moved"), path)

    async def test_followed(self) -> None:
        """Each kind of redirect is followed, a relative Location too."""
        self.serve(page(BODY), "/there/b.mp3")
        for status in (301, 302, 303, 307, 308):
            self.redirect("/there/c", "b.mp3", status)
            fetched = await self.fetcher.fetch(self.redirect("/a", "/there/c", status), into=self.into)
            assert isinstance(fetched, Fetched)
            self.assertEqual(fetched.size, len(BODY))

    async def test_loop(self) -> None:
        """A redirect that leads to itself ends after the bound, which is the first request and five more."""
        await self.refused(self.redirect("/a", "/a"), "more than 5 times")
        self.assertEqual(len(self.server.conversations), 6)

    async def test_checked_again(self) -> None:
        """A redirect to an address that is not allowed is refused, whether it is named or written."""
        for location in ("http://inside.test/", "http://169.254.169.254/latest/", "http://[::1]/", "//0.0.0.0/"):
            await self.refused(self.redirect("/a", location), "not on the internet")

    async def test_other_schemes(self) -> None:
        """A redirect to anything but http and https, or to nowhere, is refused."""
        for location in ("ftp://sounds.test/a", "file:///etc/passwd", "data:audio/mpeg,x", "http://127.1/", "\xff"):
            await self.refused(self.redirect("/a", location), "do not follow")
        await self.refused(self.serve(page(b"", status="302 Found")), "without saying where")

    async def test_credentials(self) -> None:
        """User and password stay with the origin they were given for, and those of a Location are dropped."""
        self.serve(page(BODY), "/b")
        me = self.redirect("/a", "/b").replace("//", "//me:secret@")
        await self.fetcher.fetch(me, into=self.into)
        self.assertEqual(self.server.conversations[-1].header("Authorization"), "Basic bWU6c2VjcmV0")
        self.redirect("/a", self.server.url("/b", "you:other@other.test"))
        await self.fetcher.fetch(me, into=self.into)
        self.assertEqual(self.server.conversations[-1].request_line, "GET /b HTTP/1.1")
        self.assertIsNone(self.server.conversations[-1].header("Authorization"))

    async def test_from_https_to_http(self) -> None:
        """A redirect from https to http is followed where the guard lets it, without the credentials."""
        options, trusted = certificate_for("sounds.test")
        secure = ScriptedServer(reactor, tls=options)
        self.addCleanup(lambda: Deferred.fromCoroutine(secure.stop()))
        agent = GuardedAgent(reactor, Guard(["127.0.0.0/8"]), TableResolver(NAMES), trust_root=trusted)
        self.fetcher = Fetcher(self.clock, agent, Audio())
        there = f"https://me:secret@sounds.test:{secure.port}/a"
        secure.pages["/a"] = page(b"", f"Location: {self.serve(page(BODY))}", status="302 Found")
        await self.fetcher.fetch(there, into=self.into)
        self.assertIsNotNone(secure.conversations[0].header("Authorization"))
        self.assertIsNone(self.server.conversations[0].header("Authorization"))
        self.into.unlink()
        secure.pages["/a"] = page(b"", "Location: http://inside.test/", status="302 Found")
        await self.refused(there, "not on the internet")

    async def test_one_deadline(self) -> None:
        """The deadline is for all hops together."""
        asked: list[Deferred[Conversation]] = [Deferred(), Deferred()]
        first = self.serve(asked[0].callback, "/a")
        self.serve(asked[1].callback, "/b")
        fetching = self.fetcher.fetch(first, into=self.into)
        conversation = await asked[0]
        self.clock.advance(6)
        page(b"", "Location: /b", status="302 Found")(conversation)
        await asked[1]
        self.clock.advance(4)
        await self.assertFailure(fetching, FetchError)


class Queueing(FetchTestCase):
    async def test_hosts_do_not_wait_for_each_other(self) -> None:
        """A host that lets every request hang has its share of turns, and another host's file comes at once."""
        self.fetcher = self.make_fetcher(max_fetches=4, max_fetches_per_host=3)
        hang = self.serve(silence, "/hang")
        hanging = [self.fetcher.fetch(hang, into=Path(self.mktemp())) for _ in range(20)]
        fetched = await self.fetcher.fetch(self.serve(page(BODY), host="other.test"), into=self.into)
        assert isinstance(fetched, Fetched)
        self.assertLessEqual(len(self.server.conversations), 4)
        self.clock.advance(10)
        for each in hanging:
            await self.assertFailure(each, FetchError)

    async def test_waiting_counts(self) -> None:
        """Who waits for a turn until the deadline fails then, and its host is never asked for it."""
        self.fetcher = self.make_fetcher(max_fetches=1)
        asked: Deferred[Conversation] = Deferred()
        hanging = self.fetcher.fetch(self.serve(asked.callback, "/hang"), into=Path(self.mktemp()))
        await asked
        self.clock.advance(5)
        waiting = self.fetcher.fetch(self.serve(page(BODY), host="other.test"), into=self.into)
        self.clock.advance(4.9)
        self.assertNoResult(waiting)
        cancelled = self.fetcher.fetch(self.serve(page(BODY), host="other.test"), into=self.into)
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        self.clock.advance(0.1)
        await self.assertFailure(hanging, FetchError)
        await waiting
        self.assertEqual(len(self.server.conversations), 2)

    async def test_turns_come_back(self) -> None:
        """However a fetch ends, its turn goes to the next."""
        self.fetcher = self.make_fetcher(max_fetches=1)
        self.server.pages["/loop"] = page(b"", "Location: /loop", status="302 Found")
        for path in ("/loop", "/nothing", "/loop"):
            await self.assertFailure(self.fetcher.fetch(self.server.url(path), into=self.into), FetchError)
        asked: Deferred[Conversation] = Deferred()
        hanging = self.fetcher.fetch(self.serve(asked.callback, "/hang"), into=self.into)
        await asked
        hanging.cancel()
        await self.assertFailure(hanging, CancelledError, FetchError)
        fetched = await self.fetcher.fetch(self.serve(page(BODY)), into=self.into)
        assert isinstance(fetched, Fetched)

    async def test_same_url_side_by_side(self) -> None:
        """Fetches into different files do not disturb each other."""
        files = [Path(self.mktemp()) for _ in range(20)]
        url = self.serve(page(BODY))
        await gatherResults([self.fetcher.fetch(url, into=file) for file in files])
        self.assertEqual({file.read_bytes() for file in files}, {BODY})


class Freshness(FetchTestCase):
    async def test_fresh_for(self) -> None:
        """How long an answer is fresh follows RFC 9111."""
        date, later = "Date: Mon, 23 Nov 2026 10:00:00 GMT", "Expires: Mon, 23 Nov 2026 10:02:00 GMT"
        for headers, fresh_for, no_store in (
            ([], None, False),
            ([date], None, False),
            (["Cache-Control: public"], None, False),
            (["Cache-Control: max-age=60"], 60.0, False),
            (["cache-control: Public, MAX-AGE=60"], 60.0, False),
            (['Cache-Control: max-age="60"'], 60.0, False),
            (["Cache-Control: max-age=60", "Age: 20"], 40.0, False),
            (["Cache-Control: max-age=60", "Age: 90"], 0.0, False),
            (["Cache-Control: max-age=60", "Cache-Control: s-maxage=30"], 30.0, False),
            (["Cache-Control: max-age=60, no-cache"], 0.0, False),
            (["Cache-Control: max-age=60, no-store"], 0.0, True),
            (["Cache-Control: max-age=never"], 0.0, False),
            (["Cache-Control: max-age=" + "9" * 5000], 365 * 86400.0, False),
            ([date, later], 120.0, False),
            ([date, later, "Age: 20"], 100.0, False),
            ([date, later, "Cache-Control: max-age=60"], 60.0, False),
            ([later], 0.0, False),
            ([date, "Expires: 0"], 0.0, False),
            ([date, date.replace("Date", "Expires")], 0.0, False),
            (["Date: Mon, 99 Nov 99999999 10:00:00 +9999999", later], 0.0, False),
        ):
            fetched = await self.fetcher.fetch(self.serve(page(BODY, *headers)), into=self.into)
            self.assertEqual((fetched.fresh_for, fetched.no_store), (fresh_for, no_store), headers)

    async def test_unusable_validators(self) -> None:
        """An ETag that could not be sent back as it came is not kept."""
        for tag in ("", "\xff", "x" * 2000, "a\tb"):
            fetched = await self.fetcher.fetch(self.serve(page(BODY, f"ETag: {tag}", "Age: \xff")), into=self.into)
            self.assertIsNone(fetched.etag)
