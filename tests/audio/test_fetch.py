"""Fetching from servers that are slow, huge, looping and lying, and from good ones."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from calledind.audio.fetch import Fetched, Fetcher, FetchError, NotModified
from calledind.net.agent import GuardedAgent
from calledind.net.guard import Guard
from calledind.settings import Audio
from tests.net.web import Answer, Conversation, ScriptedServer, TableResolver, page, says

NAMES = {"sounds.test": ["127.0.0.1"], "other.test": ["127.0.0.1"], "inside.test": ["10.0.0.1"]}
BODY = b"\xff\xfb" + bytes(range(256)) * 40


class FetchTestCase(TestCase):
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
        """A server that never answers is left after the deadline, and its connection is closed."""
        asked: Deferred[Conversation] = Deferred()
        url = self.serve(asked.callback)
        fetching = self.fetcher.fetch(url, into=self.into)
        conversation = await asked
        self.clock.advance(10)
        error = await self.assertFailure(fetching, FetchError)
        self.assertIn("10 s", str(error))
        await conversation.lost
