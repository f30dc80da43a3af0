"""The audio of calls: fetched, checked, decoded and encoded before anybody is called.

    prepare(url) ─▶ known and fresh? ──────────────────────────────▶ Prepared      (microseconds, memory alone)
                        │ no                                             ▲
                        ▼                                                │
                  fetch (304: as before) ─▶ these octets known? ─────────┤
                                                │ no                     │
                                                ▼                        │
                                        decode, encode ─▶ on disk, synced┘

Contents are named by the SHA-256 of the MP3's octets, so that the same MP3 under two URLs, or fetched twice without
cache, is decoded once. A content stays while a URL leads to it or a call has it pinned:

* each Prepared is pinned once for who asked for it; the accepted call keeps that pin to its end,
* URLs lead to what was fetched with cache=True, and are let go, with their contents, when the library is over
  `library_bytes` (unpinned ones, the longest unused first),
* what was fetched with cache=False has no URL, and goes with its last pin.

After a restart, contents without a URL are kept for a minute, so that whoever owns unfinished calls can pin theirs.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from calledind.audio.errors import AudioError, LibraryUnavailable, unusable
from calledind.audio.fetch import Fetched, FetchError, NotModified
from calledind.audio.shelf import Content, Origin, Shelf, seconds
from calledind.audio.single_flight import SingleFlight
from calledind.codecs import ALWAYS, OCTET_RATE
from calledind.crash import crash_at
from calledind.net.shares import owner_of
from calledind.net.url import Url, UrlError
from calledind.settings.tables import Audio

__all__ = ["AudioError", "Library", "LibraryUnavailable", "Prepared"]

BAD_URL_SECONDS = 5.0
"How long a URL whose MP3 was refused is refused again without asking its server."
BAD_CONTENT_SECONDS = 60.0
"How long the same octets are refused again without decoding them."
LONGEST_FRESH = 86400.0
"Whatever a server claims, it is asked once a day."
UPLOADED = "upload:"
"What the URL of an MP3 begins with that was sent instead of fetched."
MOST_URLS = 100_000
MOST_FAILURES = 10_000
ORPHAN_SECONDS = 60.0
TOUCH_SECONDS = 300.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """Audio that is ready to be played, whatever happens to this machine's power."""

    name: str
    "Lower-case hexadecimal SHA-256 of the MP3."
    duration: float
    "In seconds."


class Fetches(Protocol):
    """What the library wants of `audio.fetch.Fetcher`."""

    def fetch(
        self, url: str, *, into: Path, etag: str | None = None, last_modified: str | None = None
    ) -> Deferred[Fetched | NotModified]: ...


class Decodes(Protocol):
    """What the library wants of `audio.decode.Decoder`."""

    def start(self) -> Deferred[None]: ...

    def stop(self) -> Deferred[None]: ...

    def decode(self, mp3: Path, encodings: Mapping[str, Path], *, owner: str = "") -> Deferred[float]: ...


class Disk(Protocol):
    """Runs blocking calls one after the other, in the order they were given."""

    def __call__(self, call: Callable[..., T], /, *arguments: Any) -> Deferred[T]: ...


@dataclass(slots=True)
class _Held:
    """A content in memory."""

    prepared: Prepared
    size: int
    "Octets on disk, of all encodings."
    used_at: float
    codecs: frozenset[str]
    pins: int = 0
    keys: set[bytes] = field(default_factory=set)
    "Of the URLs that lead to it."


class Library:
    """Prepares, keeps and forgets audio. Starts and stops its decoder with itself."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        folder: Path,
        settings: Audio,
        fetcher: Fetches,
        decoder: Decodes,
        now: Callable[[], float],
        *,
        codecs: Iterable[str] = ALWAYS,
        disk: Disk | None = None,
    ) -> None:
        """`codecs`: what audio is encoded in, G.711 in any case."""
        self._reactor = reactor
        self._settings = settings
        self._fetcher = fetcher
        self._decoder = decoder
        self._now = now
        self._codecs = frozenset(codecs).union(ALWAYS)
        self._shelf = Shelf(folder)
        self._pool: ThreadPool | None = None
        self._disk: Disk = disk or self._in_thread
        self._origins: OrderedDict[bytes, Origin] = OrderedDict()
        "The longest unused first."
        self._contents: OrderedDict[str, _Held] = OrderedDict()
        "The longest unused first."
        self._size = 0
        self._used: dict[str, float] = {}
        self._bad_urls: dict[bytes, tuple[float, AudioError]] = {}
        self._bad_contents: dict[str, tuple[float, AudioError]] = {}
        self._urls_in_flight: SingleFlight[_Held] = SingleFlight()
        self._contents_in_flight: SingleFlight[_Held] = SingleFlight()
        self._incoming = 0
        self._loose: set[str] = set()
        "Contents that may have nobody left."
        self._timers: dict[Callable[[], None], IDelayedCall] = {}

    def start(self) -> Deferred[None]:
        """Find what is there. Fails with LibraryUnavailable when the folder or the decoder can't be used."""
        return Deferred.fromCoroutine(self._start())

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    def prepare(self, url: str, *, cache: bool) -> Deferred[Prepared]:
        """Make the audio behind `url` ready, and pin it once for the caller.

        Fails with AudioError when the MP3 or its server is at fault, with LibraryUnavailable when we are.
        """
        if not cache:
            return Deferred.fromCoroutine(self._fetch(url, None)).addCallback(self._pinned)
        key = hashlib.sha256(url.encode()).digest()
        origin = self._origins.get(key)
        now = self._now()
        if origin is not None and now < origin.fresh_until:
            self._origins.move_to_end(key)
            return succeed(self._pinned(self._contents[origin.name], now))
        bad = self._remembered(self._bad_urls, key)
        if bad is not None:
            return fail(bad)
        flight = self._urls_in_flight.run(key, lambda: Deferred.fromCoroutine(self._fetch(url, key)))
        return flight.addCallback(self._pinned)

    def take(self, mp3: bytes) -> Deferred[tuple[str, Prepared]]:
        """Make an MP3 ready that an operator has sent; answers with the URL by which `prepare` finds it for a day.

        Fails as `prepare` does.
        """
        return Deferred.fromCoroutine(self._take_mp3(mp3))

    def ready(self, url: str, *, cache: bool) -> bool:
        """Whether `prepare` has nothing to ask anybody."""
        origin = self._origins.get(hashlib.sha256(url.encode()).digest()) if cache else None
        return origin is not None and self._now() < origin.fresh_until

    def path(self, name: str, codec: str) -> Path:
        """Where a content is, in one of its codecs."""
        return self._shelf.path(name, codec)

    def use_codecs(self, codecs: Iterable[str]) -> None:
        """Encode in these from now on; a URL whose audio lacks one of them is fetched once more when asked for."""
        self._codecs = frozenset(codecs).union(ALWAYS)
        lacking = [key for key, origin in self._origins.items() if not self.codecs(origin.name) >= self._codecs]
        for key in lacking:
            self._let_go(key)
        if lacking:
            self._aside(self._shelf.remove, [], lacking)

    def codecs(self, name: str) -> frozenset[str]:
        """Return what a content is encoded in: an older one may lack what a trunk wants since then."""
        held = self._contents.get(name)
        return held.codecs if held is not None else frozenset()

    def encodings(self, name: str) -> Deferred[Mapping[str, bytes]]:
        """Read a content, codec -> octets. Fails with LibraryUnavailable where it can't be read."""
        paths = {codec: self.path(name, codec) for codec in self.codecs(name)}
        return self._disk(self._shelf.read, paths).addErrback(_unreadable)

    def bring(self, name: str, encodings: Mapping[str, bytes]) -> Deferred[None]:
        """Take a content that another machine has made, and pin it once. Fails with LibraryUnavailable."""
        flight = self._contents_in_flight.run(name, lambda: Deferred.fromCoroutine(self._take(name, encodings)))
        return flight.addCallback(self._pinned).addCallback(lambda _: None)

    def pin(self, name: str) -> None:
        """Keep a content, however full the library is, until as many `unpin`. Raises KeyError when it is not there."""
        self._contents[name].pins += 1

    def unpin(self, name: str) -> None:
        held = self._contents.get(name)
        if held is None or held.pins == 0:
            return
        held.pins -= 1
        if held.pins == 0 and (not held.keys or self._size > self._settings.library_bytes):
            self._loose.add(name)
            self._soon(self._tidy, 0)

    # the way of an MP3

    async def _fetch(self, url: str, key: bytes | None) -> _Held:
        """Fetch one URL; with a key, on behalf of all who want it now and later."""
        origin = self._origins.get(key) if key is not None else None
        held = self._contents[origin.name] if origin is not None else None
        if held is not None:
            # It must be there still when the server says that it is good.
            held.pins += 1
        mp3 = self._temporary("mp3")
        try:
            fetched = await self._asked(url, mp3, origin)
            crash_at("audio.fetched")
            if isinstance(fetched, NotModified):
                if origin is None or held is None:
                    raise unusable("its server says that nothing changed, which was not asked")
                self._remember(origin.key, origin.name, fetched, origin)
                return held
            new = await self._content(fetched, _owner(url))
            if key is not None:
                self._remember(key, new.prepared.name, fetched)
        except AudioError as error:
            if key is not None:
                self._note(self._bad_urls, key, BAD_URL_SECONDS, error)
            raise
        finally:
            self._aside(self._shelf.discard, [mp3])
            if held is not None:
                self.unpin(held.prepared.name)
        return new

    async def _take_mp3(self, mp3: bytes) -> tuple[str, Prepared]:
        if len(mp3) > self._settings.max_bytes:
            raise unusable(f"it has more than {self._settings.max_bytes} octets")
        name = hashlib.sha256(mp3).hexdigest()
        url = f"{UPLOADED}{name}"
        file = self._temporary("mp3")
        sent = Fetched(
            etag=None,
            last_modified=None,
            fresh_for=LONGEST_FRESH,
            no_store=False,
            path=file,
            size=len(mp3),
            sha256=name,
        )
        try:
            await self._disk(self._shelf.write, {file: mp3})
            held = await self._content(sent, "")
            self._remember(hashlib.sha256(url.encode()).digest(), name, sent)
        except OSError as error:
            raise LibraryUnavailable(f"an MP3 can't be written: {error.strerror}") from error
        finally:
            self._aside(self._shelf.discard, [file])
        return url, held.prepared

    async def _asked(self, url: str, into: Path, origin: Origin | None) -> Fetched | NotModified:
        try:
            if origin is None:
                return await self._fetcher.fetch(url, into=into)
            return await self._fetcher.fetch(url, into=into, etag=origin.etag, last_modified=origin.last_modified)
        except FetchError as error:
            raise unusable(str(error)) from None
        except OSError as error:
            raise LibraryUnavailable(f"a fetched MP3 can't be written: {error.strerror}") from error

    async def _content(self, fetched: Fetched, owner: str) -> _Held:
        """Return the content of these octets, decoded now or long ago."""
        name = fetched.sha256
        held = self._contents.get(name)
        if held is not None and held.codecs >= self._codecs:
            return held
        bad = self._remembered(self._bad_contents, name)
        if bad is not None:
            raise bad
        return await self._contents_in_flight.run(
            name, lambda: Deferred.fromCoroutine(self._decode(name, fetched, owner))
        )

    async def _decode(self, name: str, fetched: Fetched, owner: str) -> _Held:
        codecs = self._codecs
        encodings = {codec: self._temporary(codec.lower()) for codec in sorted(codecs)}
        older = self._contents.get(name)
        if older is not None:
            # Of fewer codecs. It must not be removed while its files are being replaced.
            older.pins += 1
        try:
            duration = await self._decoder.decode(fetched.path, encodings, owner=owner)
            await self._disk(self._shelf.publish, name, encodings)
            crash_at("audio.published")
        except AudioError as error:
            self._note(self._bad_contents, name, BAD_CONTENT_SECONDS, error)
            self._aside(self._shelf.discard, list(encodings.values()))
            raise
        except OSError as error:
            self._aside(self._shelf.discard, list(encodings.values()))
            raise LibraryUnavailable(f"audio can't be kept: {error.strerror}") from error
        except LibraryUnavailable:
            self._aside(self._shelf.discard, list(encodings.values()))
            raise
        finally:
            if older is not None:
                self.unpin(name)
        if older is not None:
            more = len(codecs - older.codecs) * round(duration * OCTET_RATE)
            older.codecs |= codecs
            older.size += more
            self._size += more
            return older
        held = self._shelve(Prepared(name, duration), round(duration * OCTET_RATE), self._now(), codecs)
        # Nobody has it yet: whoever waits takes it in this turn of the reactor, and if nobody does, it goes.
        self._loose.add(name)
        self._soon(self._tidy, 0)
        return held

    async def _take(self, name: str, encodings: Mapping[str, bytes]) -> _Held:
        held = self._contents.get(name)
        if held is not None:
            return held
        files = {codec: self._temporary(codec.lower()) for codec in encodings}
        try:
            await self._disk(self._shelf.write, {files[codec]: octets for codec, octets in encodings.items()})
            await self._disk(self._shelf.publish, name, files)
        except OSError as error:
            self._aside(self._shelf.discard, list(files.values()))
            raise LibraryUnavailable(f"audio can't be kept: {error.strerror}") from error
        samples = len(encodings[ALWAYS[0]])
        held = self._shelve(Prepared(name, seconds(samples)), samples, self._now(), frozenset(encodings))
        self._loose.add(name)
        self._soon(self._tidy, 0)
        return held

    def _temporary(self, suffix: str) -> Path:
        self._incoming += 1
        return self._shelf.incoming / f"{self._incoming}.{suffix}"

    # memory

    def _pinned(self, held: _Held, now: float | None = None) -> Prepared:
        name = held.prepared.name
        held.pins += 1
        held.used_at = self._used[name] = self._now() if now is None else now
        self._contents.move_to_end(name)
        return held.prepared

    def _shelve(self, prepared: Prepared, samples: int, used_at: float, codecs: frozenset[str]) -> _Held:
        held = _Held(prepared, samples * len(codecs), used_at, codecs)
        self._contents[prepared.name] = held
        self._size += held.size
        return held

    def _remember(self, key: bytes, name: str, said: Fetched | NotModified, before: Origin | None = None) -> None:
        """Let a URL lead to a content, for as long as its server said."""
        self._let_go(key)
        # What was begun before another codec was wanted is good for who waits for it, and not for those to come.
        if said.no_store or not self.codecs(name) >= self._codecs:
            self._aside(self._shelf.remove, [], [key])
            return
        fresh_for = self._settings.fresh_seconds if said.fresh_for is None else said.fresh_for
        origin = Origin(
            key,
            name,
            # A 304 need not repeat them (RFC 9110 §15.4.5).
            said.etag or (before.etag if before else None),
            said.last_modified or (before.last_modified if before else None),
            self._now() + min(fresh_for, LONGEST_FRESH),
        )
        self._origins[key] = origin
        self._contents[name].keys.add(key)
        self._aside(self._shelf.remember, [origin])
        if len(self._origins) > MOST_URLS:
            oldest = next(iter(self._origins))
            self._let_go(oldest)
            self._aside(self._shelf.remove, [], [oldest])

    def _let_go(self, key: bytes) -> None:
        """Let a URL lead nowhere, in memory."""
        origin = self._origins.pop(key, None)
        held = self._contents.get(origin.name) if origin is not None else None
        if origin is not None and held is not None:
            held.keys.discard(key)
            self._loose.add(origin.name)
            self._soon(self._tidy, 0)

    def _tidy(self) -> None:
        """Forget contents that nobody has, and the longest unused ones while the library is too big."""
        names = [name for name in self._loose if self._nobody_has(name)]
        self._loose.clear()
        keys: list[bytes] = []
        for name in names:
            self._size -= self._contents.pop(name).size
        if self._size > self._settings.library_bytes:
            for name, held in list(self._contents.items()):
                if self._size <= self._settings.library_bytes:
                    break
                if held.pins == 0:
                    self._size -= held.size
                    del self._contents[name]
                    names.append(name)
                    keys.extend(held.keys)
        for key in keys:
            self._origins.pop(key, None)
        for name in names:
            self._used.pop(name, None)
        if names:
            self._aside(self._shelf.remove, names, keys)

    def _nobody_has(self, name: str) -> bool:
        held = self._contents.get(name)
        return held is not None and held.pins == 0 and not held.keys

    def _remembered(self, failures: dict[Any, tuple[float, AudioError]], key: bytes | str) -> AudioError | None:
        until, error = failures.get(key, (0.0, None))
        if error is None or until <= self._now():
            return None
        return AudioError(error.code, error.words)

    def _note(
        self, failures: dict[Any, tuple[float, AudioError]], key: bytes | str, for_seconds: float, error: AudioError
    ) -> None:
        if len(failures) >= MOST_FAILURES:
            failures.clear()
        failures[key] = (self._now() + for_seconds, error)

    # life

    async def _start(self) -> None:
        if self._disk == self._in_thread:
            self._pool = ThreadPool(1, 1, "library")
            self._pool.start()
        try:
            contents, origins = await self._disk(self._shelf.open)
        except (OSError, sqlite3.Error) as error:
            await self._stop_pool()
            raise LibraryUnavailable(f"the audio library can't be opened: {error}") from error
        self._fill(contents, origins)
        try:
            await self._decoder.start()
        except LibraryUnavailable:
            await self._disk(self._shelf.close)
            await self._stop_pool()
            raise
        self._soon(self._drop_orphans, ORPHAN_SECONDS)
        self._soon(self._touch, TOUCH_SECONDS)

    def _fill(self, contents: list[Content], origins: list[Origin]) -> None:
        for content in contents:
            prepared = Prepared(content.name, seconds(content.samples))
            self._shelve(prepared, content.samples, content.used_at, content.codecs)
        lost = []
        for origin in origins:
            held = self._contents.get(origin.name)
            if held is None or not held.codecs >= self._codecs:
                # Its MP3 has to be fetched once more; whoever has the audio pinned plays it in what there is.
                lost.append(origin.key)
            else:
                held.keys.add(origin.key)
                # A clock that was far ahead when it was written must not have it kept for years without a question.
                fresh_until = min(origin.fresh_until, self._now() + LONGEST_FRESH)
                self._origins[origin.key] = replace(origin, fresh_until=fresh_until)
        if lost:
            self._aside(self._shelf.remove, [], lost)

    async def _stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await self._decoder.stop()
        self._aside(self._shelf.touch, dict(self._used))
        await self._disk(self._shelf.close)
        await self._stop_pool()

    async def _stop_pool(self) -> None:
        if self._pool is not None:
            # Its one thread has nothing left to do.
            pool, self._pool = self._pool, None
            pool.stop()

    def _drop_orphans(self) -> None:
        self._loose.update(self._contents)
        self._tidy()

    def _touch(self) -> None:
        used, self._used = self._used, {}
        if used:
            self._aside(self._shelf.touch, used)
        self._soon(self._touch, TOUCH_SECONDS)

    def _soon(self, call: Callable[[], None], delay: float) -> None:
        """Call once after `delay` seconds, however often this is asked for until then."""
        if call not in self._timers:
            self._timers[call] = self._reactor.callLater(delay, self._ring, call)

    def _ring(self, call: Callable[[], None]) -> None:
        del self._timers[call]
        call()

    def _in_thread(self, call: Callable[..., T], /, *arguments: Any) -> Deferred[T]:
        if self._pool is None:
            return fail(LibraryUnavailable("the audio library is not open"))
        done: Deferred[T] = deferToThreadPool(self._reactor, self._pool, call, *arguments)
        return done

    def _aside(self, call: Callable[..., object], *arguments: Any) -> None:
        """Do what nobody waits for. What fails costs a fetch or some octets later on, no more."""

        def failed(failure: Failure) -> None:
            self.log.warn("The audio library could not tidy up: {error}", error=failure.value)

        self._disk(call, *arguments).addErrback(failed)


def _unreadable(failure: Failure) -> NoReturn:
    error = failure.value
    if isinstance(error, OSError):
        raise LibraryUnavailable(f"audio can't be read: {error.strerror}")
    assert error is not None
    raise error


def _owner(url: str) -> str:
    """Return in whose turn the MP3 of a URL is decoded."""
    try:
        return owner_of(Url.parse(url).host)
    except UrlError:
        return ""
