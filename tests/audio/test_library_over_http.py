"""The library with the real fetcher and decoder, and a web server on loopback that knows about ETags."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet import reactor as twisted_reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from calledind.audio.decode import Decoder
from calledind.audio.errors import AudioError
from calledind.audio.fetch import Fetcher
from calledind.audio.library import Library
from calledind.model import ReturnCode
from calledind.net.agent import GuardedAgent
from calledind.net.guard import Guard
from calledind.net.resolve import ThreadedResolver
from calledind.settings.tables import Audio
from tests.audio.mp3 import sample

reactor: Any = twisted_reactor


class Mp3(Resource):
    """One MP3 with an ETag; counts what it was asked and how it answered."""

    isLeaf = True

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body
        self.etag = b'"one"'
        self.answers: list[int] = []

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Cache-Control", b"max-age=0")
        if request.setETag(self.etag):
            self.answers.append(304)
            return b""
        self.answers.append(200)
        return self.body


class LibraryOverHttpTests(TestCase):
    def setUp(self) -> Deferred[None]:  # type: ignore[override]
        self.page = Mp3(sample("44100-mono-no-xing.mp3"))
        port = reactor.listenTCP(0, Site(self.page), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.url = f"http://127.0.0.1:{port.getHost().port}/hello.mp3"
        return self.open(("127.0.0.0/8",))

    def open(self, allowed: tuple[str, ...]) -> Deferred[None]:
        settings = Audio(allow_networks=allowed, allow_ports=())
        resolver = ThreadedResolver(reactor)
        agent = GuardedAgent(reactor, Guard(settings.allow_networks, settings.allow_ports), resolver)
        folder = Path(os.fspath(self.mktemp()))
        self.library = Library(
            reactor, folder, settings, Fetcher(reactor, agent, settings), Decoder(reactor, settings), reactor.seconds
        )
        self.addCleanup(self.library.stop)
        self.addCleanup(resolver.stop)
        return self.library.start()

    async def test_revalidates(self) -> None:
        """What was fetched once is asked for by its ETag, used again on 304, and fetched anew when it changed."""
        first = await self.library.prepare(self.url, cache=True)
        again = await self.library.prepare(self.url, cache=True)
        self.assertEqual((first, self.page.answers), (again, [200, 304]))
        self.page.body, self.page.etag = sample("22050-mono.mp3"), b'"two"'
        changed = await self.library.prepare(self.url, cache=True)
        self.assertNotEqual(changed.name, first.name)
        self.assertEqual(self.page.answers, [200, 304, 200])

    async def test_not_kept(self) -> None:
        """With cache=False it is fetched whole each time, and nobody else is served from it."""
        await self.library.prepare(self.url, cache=False)
        await self.library.prepare(self.url, cache=False)
        await self.library.prepare(self.url, cache=True)
        self.assertEqual(self.page.answers, [200, 200, 200])

    async def test_private_network(self) -> None:
        """Without the setting, this machine's own addresses are not asked: code 9, and words that say why."""
        await self.open(())
        with self.assertRaises(AudioError) as caught:
            await self.library.prepare(self.url, cache=True)
        self.assertEqual(caught.exception.code, ReturnCode.MP3_UNUSABLE)
        self.assertIn("loopback", caught.exception.words)
        self.assertEqual(self.page.answers, [])
