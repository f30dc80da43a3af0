# mypy: allow-untyped-calls
"""What `calledin restore` and `calledin migrate` do, without a daemon."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.progress import Progress
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from calledind.cli.client import Refused
from calledind.cli.storage import described
from calledind.keyring import Keyring
from calledind.model import Call
from calledind.net.tls import TlsError, redis_options
from calledind.ranking import rank
from calledind.settings.tables import Settings
from calledind.store import outbox
from calledind.store.backup import Figures, WrongBackup, wanted_audio
from calledind.store.disk import connect
from calledind.store.interface import Route, StoreUnavailable
from calledind.store.redis_base import scripts
from calledind.store.redis_copy import (
    Occupied as PrefixOccupied,
)
from calledind.store.redis_copy import (
    Source,
    Target,
    copy_into_file,
    encodings_in,
    figures_in,
    figures_of,
)
from calledind.store.redis_link import RedisLink
from calledind.store.redis_schema import check_schema, living
from calledind.store.restore import (
    Occupied,
    Places,
    Unpacked,
    check_batches,
    locked,
    move_aside,
    place,
    place_audio,
    place_batches,
    place_database,
    place_secrets,
    unpacked,
)
from calledind.store.restore import upgraded as upgrade

T = TypeVar("T")

AUDIO_SECONDS = 600.0
"For which audio is kept in Redis after the last call that plays it can have waited."


def restore(file: Path, settings: Settings, progress: Progress, *, force: bool) -> dict[str, Any]:
    """Put a backup in place. Raises Refused."""
    places = Places(settings.data)
    task = progress.add_task("unpacking", total=file.stat().st_size)
    with _explained(file), locked(places), unpacked(file, places, partial(progress.advance, task)) as parts:
        result: dict[str, Any] = {"data": os.fspath(places.data), **described(asdict(parts.manifest))}
        if settings.store.kind == "redis":
            result["redis"] = settings.redis.prefix
            aside = _restore_into_redis(parts, places, settings, progress, force=force)
        else:
            aside = place(parts, places, force=force)
        return {**result, "moved_aside": None if aside is None else os.fspath(aside)}


def _restore_into_redis(
    parts: Unpacked, places: Places, settings: Settings, progress: Progress, *, force: bool
) -> Path | None:
    place_secrets(parts, places, force=force, check_only=True)
    check_batches(places, force=force)
    upgrade(parts.database)
    _load(parts.database, parts.audio, parts.pepper, settings, progress, force=force)
    other = places.pepper.exists() and places.pepper.read_bytes() != parts.pepper.read_bytes()
    aside = move_aside(places, [*places.batches_there(), *([places.pepper] if other else [])])
    place_secrets(parts, places, force=force)
    place_batches(parts.batches, places)
    return aside


def migrate(settings: Settings, kind: str, progress: Progress, *, force: bool) -> dict[str, Any]:
    """Bring everything from one store to the other. Raises Refused."""
    places = Places(settings.data)
    with _explained(), locked(places):
        if kind == "redis":
            if not places.database.exists():
                raise Refused(f"there is no embedded store in {places.store}")
            upgrade(places.database)
            before, after = _load(places.database, places.audio, places.pepper, settings, progress, force=force)
            return {"to": kind, "figures": {"embedded": asdict(before), "redis": asdict(after)}, "notes": []}
        before, after, aside = _unload(places, settings, progress, force=force)
        notes = [] if aside is None else [f"The store that was there before is in {aside}."]
        return {"to": kind, "figures": {"redis": asdict(before), "embedded": asdict(after)}, "notes": notes}


# Redis


def _load(
    database: Path, audio: Path, pepper: Path, settings: Settings, progress: Progress, *, force: bool
) -> tuple[Figures, Figures]:
    """Put a file into Redis; return what is in the file, and what is in Redis then."""
    fingerprint = _fingerprint(pepper)
    route_of = partial(_route, settings)
    seconds = settings.calls.queue_ttl + AUDIO_SECONDS
    before = figures_in(database)
    with closing(connect(database)) as opened:
        wanted = wanted_audio(opened)

    async def load(link: RedisLink, pause: Callable[[float], Deferred[Any]]) -> Figures:
        await _see_nobody(link, settings, progress, pause)
        target = Target(link, settings.redis.prefix)
        await target.make_ready(force=force)
        await target.load(database, route_of, _told(progress, before))
        for name in wanted:
            if encodings := encodings_in(audio, name):
                await target.keep_audio(name, encodings, seconds)
        after = await figures_of(link, settings.redis.prefix)
        _compare(before, after)
        await target.finish(replicas=settings.redis.replicas, pepper=fingerprint)
        return after

    return before, _with_redis(settings, load)


def _unload(
    places: Places, settings: Settings, progress: Progress, *, force: bool
) -> tuple[Figures, Figures, Path | None]:
    """Bring what is in Redis into the data folder; return what is on both sides, and where the old store is."""
    _see_empty_outbox(places)
    if places.database.exists() and not force:
        raise Occupied(f"there is a store in {places.store} already")
    waiting = places.database.with_name("migrating.sqlite3")

    async def unload(link: RedisLink, pause: Callable[[float], Deferred[Any]]) -> Figures:
        from twisted.internet import reactor  # noqa: PLC0415 - importing it installs it

        prefix, lease = settings.redis.prefix, settings.node.lease
        await check_schema(link, prefix, lease=lease, pause=pause)
        await _see_nobody(link, settings, progress, pause)
        if not await link.bulk("EXISTS", prefix + "keys"):
            raise Refused(f"there is no store in Redis below {prefix!r}")
        fingerprint = await link.bulk("HGET", prefix + "common", "pepper")
        if fingerprint is not None and _fingerprint(places.pepper) not in ("", fingerprint.decode()) and not force:
            raise Occupied(f"{places.pepper} is not that of the nodes: all api keys would be unknown")
        before = await figures_of(link, prefix)
        waiting.unlink(missing_ok=True)
        os.close(os.open(waiting, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        await copy_into_file(reactor, link, prefix, waiting, _told(progress, before))  # type: ignore[arg-type]
        await _bring_audio(Source(link, prefix), waiting, places)
        return before

    try:
        before = _with_redis(settings, unload)
        after = figures_in(waiting)
        _compare(before, after)
        aside = move_aside(places, places.database_files()) if places.database.exists() else None
        place_database(waiting, places)
    finally:
        waiting.unlink(missing_ok=True)
    return before, after, aside


async def _bring_audio(source: Source, database: Path, places: Places) -> None:
    # What is left there by a restore that was killed is none of ours.
    shutil.rmtree(places.restoring, ignore_errors=True)
    places.restoring.mkdir(mode=0o700)
    with closing(connect(database)) as opened:
        wanted = wanted_audio(opened)
    for name in wanted:
        for codec, octets in (await source.audio(name)).items():
            path = places.restoring / f"{name}.{codec.lower()}"
            with path.open("wb") as file:
                file.write(octets)
                file.flush()
                os.fsync(file.fileno())
    place_audio(places.restoring, places)
    places.restoring.rmdir()


def _fingerprint(pepper: Path) -> str:
    """Return what tells a pepper from others; nothing where it is not kept in this file."""
    return Keyring(pepper.read_bytes()).fingerprint() if pepper.exists() else ""


def _see_empty_outbox(places: Places) -> None:
    """What became of calls, and Redis has not heard of yet, is not in Redis."""
    path = places.store / outbox.NAME
    if not path.exists():
        return
    with closing(connect(path)) as database:
        left = len(database.execute(outbox.LEFT).fetchall())
    if left:
        raise Refused(
            f"{path} has {left} outcomes of calls that Redis was not told yet: start the daemon once more, as it was, "
            "and stop it"
        )


async def _see_nobody(
    link: RedisLink, settings: Settings, progress: Progress, pause: Callable[[float], Deferred[Any]]
) -> None:
    """See that no node works on the store, which takes a lease where one was killed."""
    looking = progress.add_task("is a node alive?", total=None)
    alive = await living(link, settings.redis.prefix, lease=settings.node.lease, pause=pause)
    if alive:
        raise Refused(f"{', '.join(alive)} work on the store in Redis; stop them first")
    progress.remove_task(looking)


def _compare(before: Figures, after: Figures) -> None:
    if before != after:
        differing = [name for name, value in asdict(before).items() if asdict(after)[name] != value]
        raise Refused(
            f"what has arrived is not what was there ({', '.join(differing)}): before {asdict(before)}, "
            f"after {asdict(after)}; somebody may have changed it meanwhile; try again"
        )


def _route(settings: Settings, call: Call) -> Route:
    """Return the trunks that a call waits for."""
    if settings.simulator:
        return ("simulator",)
    return rank(settings.trunks, call.country_code + call.phone_number)


def _told(progress: Progress, figures: Figures) -> Callable[[str, int], None]:
    """Return what shows how far the copy is, of all that there is."""
    counts: Mapping[str, int] = {
        "keys": figures.keys,
        "calls": sum(figures.calls.values()),
        "ledger": figures.ledger,
        "do_not_call": figures.do_not_call,
    }
    tasks = {name: progress.add_task(name.replace("_", " "), total=count) for name, count in counts.items() if count}

    def told(what: str, count: int) -> None:
        if what in tasks:
            progress.advance(tasks[what], count)

    return told


Work = Callable[[RedisLink, Callable[[float], Deferred[Any]]], Coroutine[Any, Any, T]]


def _with_redis(settings: Settings, work: Work[T]) -> T:
    """Do something with a connection to Redis. Raises what that does, StoreUnavailable, Refused for its TLS files."""

    async def connected(reactor: Any) -> T:
        try:
            secure = redis_options(settings.redis)
        except TlsError as error:
            raise Refused(f"redis: {error}") from None
        link = RedisLink(reactor, settings.redis, scripts(), secure=secure)
        await link.start()
        try:
            return await work(link, partial(deferLater, reactor))
        finally:
            await link.stop()

    return run_reactor(connected)


def run_reactor(work: Callable[[Any], Awaitable[T]]) -> T:
    """Run the reactor for as long as this takes. Once in a process."""
    from twisted.internet import reactor  # noqa: PLC0415 - importing it installs it

    running: Any = reactor
    results: list[Any] = []

    async def do() -> T:
        return await work(running)

    def begin() -> None:
        done = Deferred.fromCoroutine(do())
        done.addBoth(results.append)
        done.addBoth(lambda _: running.stop() if running.running else None)

    running.callWhenRunning(begin)
    running.run()
    if not results:
        raise click.Abort
    result = results[0]
    if isinstance(result, Failure):
        result.raiseException()
    return result  # type: ignore[no-any-return]


@contextmanager
def _explained(file: Path | None = None) -> Iterator[None]:
    """Let what goes wrong end the command with words."""
    try:
        yield
    except WrongBackup as error:
        raise Refused(f"{file}: {error}") from None
    except (Occupied, PrefixOccupied) as error:
        raise Refused(f"{error}; --force puts it out of the way") from None
    except StoreUnavailable as error:
        raise Refused(str(error)) from None
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        raise Refused(f"{what}{error.strerror or error}") from None
    except sqlite3.Error as error:
        raise Refused(f"the database can't be used: {error}") from None
