"""The library, with servers and decoders that do what the test says and a disk that does it at once."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from calledind.audio import library as library_module
from calledind.audio.decode import Decoder
from calledind.audio.errors import AudioError, LibraryUnavailable, too_long, unusable
from calledind.audio.fetch import Fetched, FetchError, NotModified
from calledind.audio.library import Library, Prepared
from calledind.audio.single_flight import SingleFlight
from calledind.codecs import ALWAYS
from calledind.model import ReturnCode
from calledind.settings.tables import Audio
from tests.audio.mp3 import sample

T = TypeVar("T")
URL = "http://example.com/hello.mp3"


def name_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@dataclass
class Page:
    """What a server has under a URL."""

    body: bytes
    etag: str | None = None
    last_modified: str | None = None
    fresh_for: float | None = None
    no_store: bool = False
    error: Exception | None = None


@dataclass
class FakeFetcher:
    """Has pages, and counts who asks; `hold` makes them wait."""

    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    waiting: list[Callable[[], None]] | None = None

    def hold(self) -> None:
        self.waiting = []

    def release(self) -> None:
        waiting, self.waiting = self.waiting or [], None
        for answer in waiting:
            answer()

    def fetch(
        self, url: str, *, into: Path, etag: str | None = None, last_modified: str | None = None
    ) -> Deferred[Fetched | NotModified]:
        self.asked.append((url, etag, last_modified))
        done: Deferred[Fetched | NotModified] = Deferred()

        def answer() -> None:
            page = self.pages[url]
            if page.error is not None:
                done.errback(page.error)
                return
            validity: dict[str, Any] = {
                "etag": page.etag,
                "last_modified": page.last_modified,
                "fresh_for": page.fresh_for,
                "no_store": page.no_store,
            }
            if etag is not None and etag == page.etag:
                done.callback(NotModified(**validity))
                return
            into.write_bytes(page.body)
            done.callback(Fetched(path=into, size=len(page.body), sha256=name_of(page.body), **validity))

        if self.waiting is None:
            answer()
        else:
            self.waiting.append(answer)
        return done


class FakeDecoder:
    """Makes a second of audio from each octet of an "MP3"."""

    def __init__(self) -> None:
        self.decoded: list[bytes] = []
        self.owners: list[str] = []
        self.error: Exception | None = None
        self.waiting: Deferred[None] = succeed(None)
        "What it takes its time for."

    def start(self) -> Deferred[None]:
        return succeed(None)

    def stop(self) -> Deferred[None]:
        return succeed(None)

    def decode(self, mp3: Path, encodings: Mapping[str, Path], *, owner: str = "") -> Deferred[float]:
        body = mp3.read_bytes()
        self.decoded.append(body)
        self.owners.append(owner)
        if self.error is not None:
            return fail(self.error)
        for codec, path in encodings.items():
            path.write_bytes(codec[-1].lower().encode() * 8000 * len(body))
        waiting, self.waiting = self.waiting, succeed(None)
        return waiting.addCallback(lambda _: float(len(body)))


class FakeDisk:
    """Does what it is told at once, and can be full."""

    def __init__(self) -> None:
        self.full = False
        self.calls = 0

    def __call__(self, call: Callable[..., T], /, *arguments: Any) -> Deferred[T]:
        self.calls += 1
        if self.full:
            return fail(OSError(28, "No space left on device"))
        return maybeDeferred(call, *arguments)


class LibraryCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.folder = Path(self.mktemp())
        self.fetcher = FakeFetcher({URL: Page(b"hi")})
        self.decoder = FakeDecoder()
        self.disk = FakeDisk()
        self.library = self.opened()

    def opened(self, codecs: tuple[str, ...] = ALWAYS, **settings: Any) -> Library:
        library = Library(
            self.clock,
            self.folder,
            Audio(**settings),
            self.fetcher,
            self.decoder,
            self.clock.seconds,
            codecs=codecs,
            disk=self.disk,
        )
        self.successResultOf(library.start())
        return library

    def reopened(self, **settings: Any) -> Library:
        self.successResultOf(self.library.stop())
        return self.opened(**settings)

    def prepare(self, url: str = URL, *, cache: bool = True, library: Library | None = None) -> Prepared:
        return self.successResultOf((library or self.library).prepare(url, cache=cache))

    def refused(self, url: str = URL, *, cache: bool = True) -> AudioError:
        error = self.failureResultOf(self.library.prepare(url, cache=cache), AudioError).value
        assert isinstance(error, AudioError)
        return error

    def there(self, name: str) -> bool:
        """Whether both encodings are on disk; one without the other is a failure."""
        found = {self.library.path(name, codec).exists() for codec in ("PCMU", "PCMA")}
        self.assertEqual(len(found), 1)
        return found.pop()


class PrepareTests(LibraryCase):
    def test_prepared(self) -> None:
        """The answer names the MP3's octets and its duration, and both encodings are on disk by then."""
        prepared = self.prepare()
        self.assertEqual(prepared, Prepared(name_of(b"hi"), 2.0))
        self.assertEqual(self.library.path(prepared.name, "PCMU").read_bytes(), b"u" * 16000)
        self.assertEqual(self.library.path(prepared.name, "PCMA").read_bytes(), b"a" * 16000)

    def test_turns_of_the_decoder(self) -> None:
        """An MP3 is decoded in the turn of whoever owns its host, be the names of his hosts ever so many."""
        for number, host in enumerate(("a.example.com", "b.example.com:8080", "192.0.2.7")):
            self.fetcher.pages[f"http://{host}/a.mp3"] = Page(b"x" * (number + 1))
            self.prepare(f"http://{host}/a.mp3")
        self.assertEqual(self.decoder.owners, ["example.com", "example.com", "192.0.2.7"])

    def test_nothing_left_behind(self) -> None:
        """What was fetched and decoded on the way is gone afterwards, refused or not."""
        self.prepare()
        self.fetcher.pages["http://x/bad"] = Page(b"bad")
        self.decoder.error = unusable("no")
        self.refused("http://x/bad")
        self.assertEqual(list((self.folder / "incoming").iterdir()), [])

    def test_one_fetch_for_all(self) -> None:
        """A thousand who ask at the same time are served by one fetch and one decode, and each has a pin."""
        self.fetcher.hold()
        waiting = [self.library.prepare(URL, cache=True) for _ in range(1000)]
        self.fetcher.release()
        names = {self.successResultOf(one).name for one in waiting}
        self.assertEqual((len(names), len(self.fetcher.asked), len(self.decoder.decoded)), (1, 1, 1))
        self.assertEqual(self.library._contents[names.pop()].pins, 1000)

    def test_who_goes_away(self) -> None:
        """When one who waits no longer does, the others are served, and no pin is left for who went."""
        self.fetcher.hold()
        gone, stays = (self.library.prepare(URL, cache=True) for _ in range(2))
        gone.addErrback(lambda failure: None).cancel()
        self.fetcher.release()
        self.assertEqual(self.library._contents[self.successResultOf(stays).name].pins, 1)

    def test_fresh(self) -> None:
        """What is fresh is answered from memory: neither the server nor the disk is asked."""
        self.prepare()
        calls = self.disk.calls
        for _ in range(100):
            self.prepare()
        self.assertEqual((len(self.fetcher.asked), self.disk.calls), (1, calls))

    def test_stale_and_not_modified(self) -> None:
        """After its time the server is asked whether it changed; a 304 makes it fresh again."""
        self.fetcher.pages[URL] = Page(b"hi", etag='"1"', last_modified="Thu, 01 Jan 2026 00:00:00 GMT")
        self.prepare()
        self.clock.advance(61)
        self.prepare()
        self.assertEqual(self.fetcher.asked[1:], [(URL, '"1"', "Thu, 01 Jan 2026 00:00:00 GMT")])
        self.clock.advance(59)
        self.prepare()
        self.assertEqual((len(self.fetcher.asked), len(self.decoder.decoded)), (2, 1))

    def test_not_modified_without_validators(self) -> None:
        """A 304 that doesn't repeat its ETag keeps the one we have."""
        self.fetcher.pages[URL] = Page(b"hi", etag='"1"')
        self.prepare()
        origin = next(iter(self.library._origins.values()))
        self.library._remember(origin.key, origin.name, NotModified(None, None, None, False), origin)
        self.clock.advance(61)
        self.prepare()
        self.assertEqual(self.fetcher.asked[1][1], '"1"')

    def test_changed(self) -> None:
        """What changed on its server is decoded anew, and the old one goes when no call has it any more."""
        self.fetcher.pages[URL] = Page(b"old", etag='"1"')
        old = self.prepare()
        self.clock.advance(61)
        self.fetcher.pages[URL] = Page(b"new!", etag='"2"')
        new = self.prepare()
        self.clock.advance(1)
        self.assertEqual(new, Prepared(name_of(b"new!"), 4.0))
        self.assertTrue(self.there(old.name))
        self.library.unpin(old.name)
        self.clock.advance(1)
        self.assertFalse(self.there(old.name))
        self.assertTrue(self.there(new.name))

    def test_max_age(self) -> None:
        """The server's own time counts, where it gives one, up to a day."""
        self.fetcher.pages[URL] = Page(b"hi", fresh_for=5)
        self.prepare()
        self.clock.advance(6)
        self.fetcher.pages[URL] = Page(b"hi", fresh_for=1e9)
        self.prepare()
        self.clock.advance(86000)
        self.prepare()
        self.assertEqual(len(self.fetcher.asked), 2)
        self.clock.advance(500)
        self.prepare()
        self.assertEqual(len(self.fetcher.asked), 3)

    def test_same_octets_elsewhere(self) -> None:
        """The same MP3 under another URL is fetched, but not decoded again."""
        self.fetcher.pages["http://other/"] = Page(b"hi")
        self.assertEqual(self.prepare(), self.prepare("http://other/"))
        self.assertEqual((len(self.fetcher.asked), len(self.decoder.decoded)), (2, 1))

    def test_ready(self) -> None:
        """What `prepare` would give at once is ready; what its server must be asked for is not."""
        self.assertFalse(self.library.ready(URL, cache=True))
        self.prepare()
        self.assertEqual([self.library.ready(URL, cache=cache) for cache in (True, False)], [True, False])
        self.clock.advance(61.0)
        self.assertFalse(self.library.ready(URL, cache=True))


class TakingTests(LibraryCase):
    def take(self, mp3: bytes) -> tuple[str, Prepared]:
        return self.successResultOf(self.library.take(mp3))

    def test_taken(self) -> None:
        """An MP3 that was sent is decoded once, found by its URL without asking anybody, and kept as any other."""
        url, prepared = self.take(b"sent")
        self.assertEqual((prepared, self.there(prepared.name)), (Prepared(name_of(b"sent"), 4.0), True))
        self.assertEqual(self.take(b"sent"), (url, prepared))
        self.assertTrue(self.library.ready(url, cache=True))
        self.assertEqual(self.prepare(url), prepared)
        self.library = self.reopened()
        self.assertEqual(self.prepare(url), prepared)
        self.assertEqual((self.fetcher.asked, self.decoder.decoded), ([], [b"sent"]))
        self.assertEqual(list((self.folder / "incoming").iterdir()), [])

    def test_not_taken(self) -> None:
        """What is too large, or is no MP3, is refused as what is fetched is; a full disk is no fault of it."""
        self.library = self.reopened(max_bytes=4)
        self.failureResultOf(self.library.take(b"large"), AudioError)
        self.decoder.error = unusable("no")
        self.failureResultOf(self.library.take(b"bad"), AudioError)
        self.decoder.error = None
        self.disk.full = True
        self.failureResultOf(self.library.take(b"good"), LibraryUnavailable)


class WithoutCacheTests(LibraryCase):
    def test_always_fetched(self) -> None:
        """Without cache each request fetches, even while the same URL is fresh or on its way."""
        self.prepare()
        self.prepare(cache=False)
        self.fetcher.hold()
        waiting = [self.library.prepare(URL, cache=False) for _ in range(3)]
        self.fetcher.release()
        for one in waiting:
            self.successResultOf(one)
        self.assertEqual(len(self.fetcher.asked), 5)

    def test_goes_with_its_call(self) -> None:
        """What was fetched without cache is on disk while its call has it, and is gone then."""
        prepared = self.prepare(cache=False)
        self.clock.advance(1)
        self.assertTrue(self.there(prepared.name))
        self.library.unpin(prepared.name)
        self.clock.advance(1)
        self.assertFalse(self.there(prepared.name))

    def test_not_for_others(self) -> None:
        """Who asks for the same URL with cache later gets it fetched, with nothing known of it."""
        self.prepare(cache=False)
        self.prepare()
        self.assertEqual(self.fetcher.asked, [(URL, None, None)] * 2)

    def test_no_store(self) -> None:
        """A server that says no-store is treated like that, too, and what was kept of it goes."""
        kept = self.prepare()
        self.library.unpin(kept.name)
        self.clock.advance(61)
        self.fetcher.pages[URL] = Page(b"secret", no_store=True)
        for _ in range(2):
            self.library.unpin(self.prepare().name)
            self.clock.advance(1)
        self.assertEqual(len(self.fetcher.asked), 3)
        self.assertFalse(self.there(name_of(b"secret")))
        self.assertFalse(self.there(kept.name))


class FailureTests(LibraryCase):
    def test_codes(self) -> None:
        """What can't be fetched or decoded is code 9, what is too long is code 10."""
        for number, (at, error, code) in enumerate(
            (
                ("fetch", FetchError("its server answers with status 404"), ReturnCode.MP3_UNUSABLE),
                ("decode", unusable("it is MPEG layer 2, not layer 3"), ReturnCode.MP3_UNUSABLE),
                ("decode", too_long("it plays longer than 180 seconds"), ReturnCode.MP3_TOO_LONG),
            )
        ):
            url = f"http://x/{number}"
            self.fetcher.pages[url] = Page(url.encode(), error=error if at == "fetch" else None)
            self.decoder.error = error if at == "decode" else None
            refusal = self.refused(url)
            self.assertEqual((refusal.code, refusal.words), (code, str(error)))

    def test_remembered_shortly(self) -> None:
        """A URL that was refused is refused for five seconds without asking its server, and asked after that."""
        self.fetcher.pages[URL] = Page(b"hi", error=FetchError("no"))
        for _ in range(100):
            self.refused()
        self.assertEqual(len(self.fetcher.asked), 1)
        self.fetcher.pages[URL] = Page(b"hi")
        self.clock.advance(5.1)
        self.prepare()

    def test_bad_octets_elsewhere(self) -> None:
        """Octets that were refused are not decoded again under another URL or without cache."""
        self.decoder.error = unusable("no")
        self.fetcher.pages["http://other/"] = Page(b"hi")
        self.refused()
        self.refused("http://other/")
        self.refused(cache=False)
        self.assertEqual(len(self.decoder.decoded), 1)

    def test_all_who_wait_are_told(self) -> None:
        """A fetch that fails is told to all who wait for it, each with an error of its own."""
        self.fetcher.pages[URL] = Page(b"hi", error=FetchError("no"))
        self.fetcher.hold()
        waiting = [self.library.prepare(URL, cache=True) for _ in range(3)]
        self.fetcher.release()
        errors = {id(self.failureResultOf(one, AudioError).value) for one in waiting}
        self.assertEqual(len(errors), 3)

    def test_disk_full(self) -> None:
        """A full disk is not the MP3's fault, whoever finds it, and nothing is remembered against it."""
        for full in ("fetch", "decode", "publish"):
            self.fetcher.pages[URL].error = OSError(28, "No space left on device") if full == "fetch" else None
            self.decoder.error = LibraryUnavailable("no space") if full == "decode" else None
            self.disk.full = full == "publish"
            self.failureResultOf(self.library.prepare(URL, cache=True), LibraryUnavailable)
        self.disk.full = False
        self.prepare()

    def test_304_that_was_not_asked_for(self) -> None:
        """A server that says "not modified" without being asked has given us nothing."""
        self.patch(self.fetcher, "fetch", lambda url, **_: succeed(NotModified(None, None, None, False)))
        self.assertEqual(self.refused().code, ReturnCode.MP3_UNUSABLE)

    def test_a_bug_is_loud(self) -> None:
        """What nobody expected is not taken for a bad MP3."""
        self.fetcher.pages[URL].error = ZeroDivisionError()
        self.failureResultOf(self.library.prepare(URL, cache=True), ZeroDivisionError)


class KeepingTests(LibraryCase):
    def test_restart(self) -> None:
        """What was fresh before a restart is fresh after it, without a fetch; what was stale is asked about."""
        self.fetcher.pages[URL] = Page(b"hi", etag='"1"')
        before = self.prepare()
        library = self.reopened()
        self.assertEqual(self.prepare(library=library), before)
        self.assertEqual(len(self.fetcher.asked), 1)
        self.clock.advance(61)
        self.prepare(library=library)
        self.assertEqual(self.fetcher.asked[1:], [(URL, '"1"', None)])

    def test_clock_was_wrong(self) -> None:
        """What a clock far ahead called fresh is asked about a day after the clock was put right."""
        self.clock.advance(365 * 86400)
        self.prepare()
        self.clock.advance(-365 * 86400)
        library = self.reopened()
        self.prepare(library=library)
        self.assertEqual(len(self.fetcher.asked), 1)
        self.clock.advance(86401)
        self.prepare(library=library)
        self.assertEqual(len(self.fetcher.asked), 2)

    def test_no_url_on_disk(self) -> None:
        """URLs, which may have passwords in them, are not written down."""
        url = "http://user:hunter2@example.com/secret-path.mp3"
        self.fetcher.pages[url] = Page(b"hi")
        self.prepare(url)
        self.successResultOf(self.library.stop())
        for path in self.folder.rglob("*"):
            if path.is_file():
                self.assertNotIn(b"hunter2", path.read_bytes())
                self.assertNotIn(b"secret-path", path.read_bytes())

    def test_orphans(self) -> None:
        """After a restart, audio without a URL waits a minute for whoever pins it, and goes without a pin."""
        self.fetcher.pages["http://x/"] = Page(b"call")
        wanted, unwanted = self.prepare(cache=False), self.prepare("http://x/", cache=False)
        self.library = self.reopened()
        self.library.pin(wanted.name)
        self.clock.advance(59)
        self.assertTrue(self.there(unwanted.name))
        self.clock.advance(2)
        self.assertTrue(self.there(wanted.name))
        self.assertFalse(self.there(unwanted.name))
        self.library.unpin(wanted.name)
        self.clock.advance(1)
        self.assertFalse(self.there(wanted.name))

    def test_the_longest_unused_goes_first(self) -> None:
        """A library that is too big lets go of what nobody has used for longest, but never of what is pinned."""
        self.library = self.reopened(library_bytes=3 * 16000)
        names = []
        for letter in b"abc":
            self.fetcher.pages[chr(letter)] = Page(bytes([letter]), fresh_for=1000)
            names.append(self.prepare(chr(letter)).name)
            self.clock.advance(1)
        self.library.unpin(names[1])
        self.library.unpin(names[2])
        self.library.unpin(self.prepare("b").name)  # used after c
        self.fetcher.pages["d"] = Page(b"d")
        names.append(self.prepare("d").name)
        self.clock.advance(1)
        self.assertEqual([self.there(name) for name in names], [True, True, False, True])
        self.prepare("c")
        self.assertEqual(self.fetcher.asked[-1], ("c", None, None))

    def test_use_is_kept_across_a_restart(self) -> None:
        """What was used last before a restart is not the first to go after it."""
        for letter in b"ab":
            self.fetcher.pages[chr(letter)] = Page(bytes([letter]), fresh_for=1000)
            self.clock.advance(10)
            self.library.unpin(self.prepare(chr(letter)).name)
        self.clock.advance(10)
        self.library.unpin(self.prepare("a").name)
        self.library = self.reopened(library_bytes=16000)
        self.library._tidy()
        self.assertEqual([self.there(name_of(body)) for body in (b"a", b"b")], [True, False])

    def test_many_urls(self) -> None:
        """URLs are bounded: the longest unused goes, with its audio."""
        self.patch(library_module, "MOST_URLS", 2)
        for letter in b"abc":
            self.fetcher.pages[chr(letter)] = Page(bytes([letter]))
            self.library.unpin(self.prepare(chr(letter)).name)
        self.clock.advance(1)
        self.assertEqual([self.there(name_of(body)) for body in (b"a", b"b", b"c")], [False, True, True])

    def test_leftovers(self) -> None:
        """What a crash left half done is removed at the next start."""
        prepared = self.prepare()
        self.library.path(prepared.name, "PCMA").write_bytes(b"half")
        (self.folder / "incoming" / "7.mp3").write_bytes(b"x")
        self.library.path("0" * 64, "PCMU").write_bytes(b"alone")
        self.library = self.reopened()
        self.assertEqual([path for path in self.folder.rglob("*.*") if "sqlite" not in path.name], [])
        self.prepare()
        self.assertEqual(len(self.fetcher.asked), 2)

    def test_another_codec_since_then(self) -> None:
        """Audio that lacks a codec is encoded anew when its URL is asked for; who had it pinned keeps it."""
        name = self.prepare().name
        self.assertEqual(self.library.codecs(name), {"PCMU", "PCMA"})
        self.successResultOf(self.library.stop())
        self.library = self.opened(codecs=("G722", "PCMU"))
        self.library.pin(name)
        self.assertEqual(self.library.codecs(name), {"PCMU", "PCMA"})
        size = self.library._size
        self.assertEqual(self.prepare(), Prepared(name, 2.0))
        self.assertEqual((len(self.decoder.decoded), len(self.fetcher.asked)), (2, 2))
        self.assertEqual(self.library.codecs(name), {"PCMU", "PCMA", "G722"})
        self.assertEqual(self.library.path(name, "G722").read_bytes(), b"2" * 16000)
        self.assertEqual(self.library._size, size + 16000)
        self.library.unpin(name)
        self.clock.advance(100)
        self.assertTrue(self.there(name))
        self.library = self.reopened()
        self.assertEqual(self.library.codecs(name), {"PCMU", "PCMA", "G722"})
        self.prepare()
        self.assertEqual(len(self.fetcher.asked), 3)
        self.assertEqual(self.library.codecs("0" * 64), set())

    def test_another_codec_from_now_on(self) -> None:
        """What is held in fewer codecs than are wanted since is encoded anew when it is asked for; else it is used."""
        name = self.prepare().name
        self.library.use_codecs(("PCMA",))
        self.prepare()
        self.assertEqual(len(self.fetcher.asked), 1)
        self.library.use_codecs(("G722",))
        self.assertEqual(self.library.codecs(name), {"PCMU", "PCMA"})
        self.prepare()
        self.assertEqual((len(self.decoder.decoded), len(self.fetcher.asked)), (2, 2))
        self.assertEqual(self.library.codecs(name), {"PCMU", "PCMA", "G722"})
        self.prepare()
        self.assertEqual(len(self.fetcher.asked), 2)

    def test_another_codec_while_it_is_encoded(self) -> None:
        """Audio is held in those codecs that it was begun with."""
        waiting: Deferred[None] = Deferred()
        self.decoder.waiting = waiting
        preparing = self.library.prepare(URL, cache=True)
        self.library.use_codecs(("G722",))
        waiting.callback(None)
        name = self.successResultOf(preparing).name
        self.assertEqual(self.library.codecs(name), {"PCMU", "PCMA"})
        again = self.library.prepare(URL, cache=True)
        self.assertEqual(self.successResultOf(again).name, name)
        self.assertEqual(self.library.codecs(name), {"PCMU", "PCMA", "G722"})

    def test_another_codec_while_it_is_asked_for(self) -> None:
        """That a URL has not changed is no reason to go on without a codec that is wanted since the question."""
        self.fetcher.pages[URL] = Page(b"hi", etag="1", fresh_for=0)
        name = self.prepare().name
        self.fetcher.hold()
        preparing = self.library.prepare(URL, cache=True)
        self.library.use_codecs(("G722",))
        self.fetcher.release()
        self.assertEqual(self.successResultOf(preparing).name, name)
        self.prepare()
        self.assertEqual([etag for _, etag, _ in self.fetcher.asked], [None, "1", None])
        self.assertEqual(self.library.codecs(name), {"PCMU", "PCMA", "G722"})

    def test_another_codec_that_fails(self) -> None:
        """Where the audio can't be encoded anew, what there is of it stays with who has it pinned."""
        name = self.prepare().name
        self.successResultOf(self.library.stop())
        self.library = self.opened(codecs=("opus",))
        self.library.pin(name)
        self.decoder.error = LibraryUnavailable("no")
        self.failureResultOf(self.library.prepare(URL, cache=True), LibraryUnavailable)
        self.clock.advance(100)
        self.assertTrue(self.there(name))
        self.library.unpin(name)
        self.clock.advance(1)
        self.assertFalse(self.there(name))

    def test_damaged_table(self) -> None:
        """A table of URLs that can't be read is begun anew: it is only a cache."""
        self.prepare()
        self.successResultOf(self.library.stop())
        (self.folder / "urls.sqlite3").write_bytes(b"not a database, not at all" * 100)
        self.library = self.opened()
        self.prepare()
        with sqlite3.connect(self.folder / "urls.sqlite3") as urls:
            self.assertEqual(urls.execute("SELECT count(*) FROM url").fetchone(), (1,))

    def test_pin_of_nothing(self) -> None:
        """Who has a call whose audio is gone is told so."""
        self.assertRaises(KeyError, self.library.pin, "0" * 64)

    def test_pins_are_counted(self) -> None:
        """Each pin needs its unpin, and one unpin too many does no harm."""
        prepared = self.prepare(cache=False)
        self.library.pin(prepared.name)
        self.library.unpin(prepared.name)
        self.clock.advance(1)
        self.assertTrue(self.there(prepared.name))
        for _ in range(2):
            self.library.unpin(prepared.name)
            self.clock.advance(1)
        self.assertFalse(self.there(prepared.name))

    def test_unusable_folder(self) -> None:
        """A folder that can't be used is said at the start."""
        library = Library(
            self.clock, Path("/dev/null/x"), Audio(), self.fetcher, self.decoder, self.clock.seconds, disk=self.disk
        )
        self.failureResultOf(library.start(), LibraryUnavailable)

    def test_stopped_is_silent(self) -> None:
        """A stopped library leaves no timers."""
        self.prepare()
        self.successResultOf(self.library.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])


class SingleFlightTests(SynchronousTestCase):
    def test_one_after_the_other(self) -> None:
        """When a piece of work is done, the next who asks starts a new one."""
        flights: SingleFlight[int] = SingleFlight()
        numbers = iter(range(10))
        results = [self.successResultOf(flights.run("x", lambda: succeed(next(numbers)))) for _ in range(2)]
        self.assertEqual((results, len(flights)), ([0, 1], 0))

    def test_asked_again_by_the_first_answered(self) -> None:
        """Who asks again while the others are being told starts anew."""
        flights: SingleFlight[int] = SingleFlight()
        first: Deferred[int] = Deferred()
        again: list[Deferred[int]] = []
        flights.run("x", lambda: first).addCallback(lambda _: again.append(flights.run("x", lambda: succeed(2))))
        second = flights.run("x", lambda: succeed(3))
        first.callback(1)
        self.assertEqual((self.successResultOf(again[0]), self.successResultOf(second)), (2, 1))


class WholeTests(TestCase):
    """With the real decoder and the real disk."""

    timeout = 30

    async def test_from_mp3_to_g711(self) -> None:
        """A real MP3 becomes two files of its length, and they are there after a restart."""
        body = sample("44100-joint-vbr.mp3")
        folder = Path(self.mktemp())
        fetcher = FakeFetcher({URL: Page(body)})
        for _ in range(2):
            clock = Clock()
            library = Library(reactor, folder, Audio(), fetcher, Decoder(reactor, Audio()), clock.seconds)
            await library.start()
            prepared = await library.prepare(URL, cache=True)
            self.assertEqual(prepared, Prepared(name_of(body), 1.9))
            for codec in ("PCMU", "PCMA"):
                self.assertEqual(library.path(prepared.name, codec).stat().st_size, 15200)
            await library.stop()
        self.assertEqual(len(fetcher.asked), 1)
