"""A backup: one tar file, taken from a running daemon, with all that a new machine needs to go on from that moment.

    manifest.json     what it is, of which daemon and store, when it was made, and the figures of its books
    pepper            without which every api key is unknown
    store.sqlite3     the embedded store's file, whatever the store; see schema.sql
    audio/NAME.codec  of the calls that are not over
    batches/ID/NAME   of the batches that this machine has, see `batches.files`
    end               empty: a file without it was cut off

The copy of the store is of one moment. The audio is read after it: what a call wanted that ended meanwhile may be
missing, and nothing of a call that is still to be made. So are the batches: what a batch had asked for by then is not
asked for again after a restore, whether or not the copy of the store has the call.

**What it costs.** The copy is made in a thread of its own, as a file below the data folder, which has no name any more
as soon as it is opened; then it is sent as fast as whoever asked for it takes it. So there must be room for it, which
is asked for before, as a full disk would keep the store from taking calls.

A backup holds the secrets of customers and what they were told: it is for root's and the daemon's user's eyes.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

import calledind
from calledind.model import State
from calledind.store import listings
from calledind.store.disk import SCHEMA, connect
from calledind.store.interface import StoreUnavailable
from calledind.store.worker import FromThread, Worker

T = TypeVar("T")

log = Logger()

FORMAT = 1
"Of the tar file."
MANIFEST, PEPPER, STORE, AUDIO, END = "manifest.json", "pepper", "store.sqlite3", "audio/", "end"
BATCHES = "batches"
PIECE = 256 * 1024
"Octets read and sent at a time."
SPARE = 64 * 1024 * 1024
"Octets that must stay free on the disk beside the copy."
UNFINISHED = (State.ACCEPTED, State.DIALING, State.ANSWERED)
BLOCK = 512
"Octets; of these a tar file is made."

Encodings = Callable[[str], Awaitable[Mapping[str, bytes]]]
"Name of an MP3's audio -> codec -> octets. May fail where it is gone."


class WrongBackup(Exception):
    """The file is no backup, is damaged or is of a newer calledin; the message says which."""


class AlreadyRunning(Exception):
    """One backup is made at a time."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is in a store, to be compared with what is in another."""

    keys: int
    added: int
    credits: int
    held: int
    charged: int
    calls: Mapping[str, int]
    "State -> how many are in it."
    callbacks: int
    "That are to be delivered yet."
    ledger: int
    "Rows."
    do_not_call: int

    @property
    def agree(self) -> bool:
        """Whether the books are right: each credit is somewhere, and each that is held belongs to a call."""
        unfinished = sum(self.calls.get(state, 0) for state in UNFINISHED)
        return self.credits + self.held + self.charged == self.added and self.held == unfinished


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself."""

    made_at: float
    "Seconds since the epoch."
    store: str
    "The kind of store that it was taken from."
    figures: Figures
    audio: int
    "MP3s that calls in it want."
    schema: int = SCHEMA
    calledin: str = calledind.__version__
    format: int = FORMAT

    def __str__(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def parse(cls, text: bytes) -> Manifest:
        """Raises WrongBackup."""
        try:
            fields = json.loads(text)
            if fields["format"] > FORMAT or fields["schema"] > SCHEMA:
                raise WrongBackup(
                    f"it was made by a newer calledin ({fields['calledin']}, schema {fields['schema']}; "
                    f"this one, {calledind.__version__}, knows {SCHEMA}): restore it with that one"
                )
            known = {name: fields[name] for name in cls.__slots__}
            figures = {name: fields["figures"][name] for name in Figures.__slots__}
            return cls(**{**known, "figures": Figures(**figures)})
        except (ValueError, KeyError, TypeError):
            raise WrongBackup("its manifest can't be read") from None


# the copy of an embedded store


def copy_database(source: Path, target: Path) -> None:
    """Write what the file of an embedded store has at this moment into a new file, without its free pages.

    It reads a snapshot (WAL), so that the writer goes on meanwhile; the log can't be begun anew until it is done, and
    grows by what is committed. Blocks. Raises StoreUnavailable, sqlite3.Error.
    """
    with closing(connect(source)) as database:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        (free,) = database.execute("PRAGMA freelist_count").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
        need_room(target.parent, (pages - free) * size)
        database.execute("VACUUM INTO ?", (os.fspath(target),))


def need_room(folder: Path, octets: int) -> None:
    """Raises StoreUnavailable where there is no room for so many in the folder, and for something more."""
    available = shutil.disk_usage(folder).free
    if available < octets + SPARE:
        raise StoreUnavailable(
            f"there is not enough room in {folder} for a copy of the store: it needs {_megabytes(octets + SPARE)}, "
            f"and {_megabytes(available)} are free"
        )


def _megabytes(octets: int) -> str:
    return f"{octets / 1e6:,.0f} MB"


def read_figures(database: sqlite3.Connection) -> Figures:
    """Add up what is in the file of an embedded store."""
    keys, added, credits, held, charged = database.execute(
        """SELECT COUNT(*), TOTAL(added), TOTAL(credits), TOTAL(held), TOTAL(charged) FROM api_key"""
    ).fetchone()
    calls = dict(database.execute("SELECT state, COUNT(*) FROM call GROUP BY state").fetchall())
    (ledger,) = database.execute("SELECT COUNT(*) FROM ledger").fetchone()
    return Figures(
        keys=keys,
        added=int(added),
        credits=int(credits),
        held=int(held),
        charged=int(charged),
        calls={state.value: calls.get(state.value, 0) for state in State},
        callbacks=calls.get(State.DONE, 0),
        ledger=ledger,
        do_not_call=len(listings.listed(database)),
    )


def wanted_audio(database: sqlite3.Connection) -> list[str]:
    """Return the names of the audio that calls want which are not over."""
    rows = database.execute(
        "SELECT DISTINCT request ->> 'audio' FROM call WHERE state IN (?, ?, ?) ORDER BY 1", UNFINISHED
    )
    return [name for (name,) in rows]


# making one


class Runner(Protocol):
    """The part of a `Worker` that is used here."""

    def run(self, job: Callable[[], T]) -> Deferred[T]: ...

    def stop(self) -> None: ...


class Backup:
    """Makes backups, one at a time."""

    def __init__(
        self,
        reactor: FromThread,
        folder: Path,
        *,
        copy: Callable[[Path], Awaitable[None]],
        audio: Encodings,
        pepper: bytes,
        store: str,
        batches: Callable[[], Sequence[Path]] = list,
        now: Callable[[], float] = time.time,
        runner: Callable[[FromThread, str], Runner] = Worker,
    ) -> None:
        """
        `folder`: where the copy is made. `copy`: makes that of the store. `store`: its kind.
        `batches`: lists the files of all batches, each in its batch's folder, as they are to be read; blocks.
        """
        self._reactor = reactor
        self._folder = folder
        self._copy = copy
        self._audio = audio
        self._pepper = pepper
        self._store = store
        self._batches = batches
        self._now = now
        self._runner = runner
        self._running = False

    async def make(self) -> Made:
        """Copy the store, and return what is to be sent. Raises AlreadyRunning, StoreUnavailable."""
        if self._running:
            raise AlreadyRunning("a backup is being made already")
        self._running = True
        worker = self._runner(self._reactor, "calledin backup")
        try:
            path = await worker.run(self._prepare)
            made_at = self._now()
            await self._copy(path)
            file, figures, wanted = await worker.run(lambda: _open(path))
        except BaseException as error:
            await worker.run(self._tidy)
            self._over(worker)
            if isinstance(error, OSError | sqlite3.Error):
                raise StoreUnavailable(explain(error, self._folder)) from None
            raise
        manifest = Manifest(made_at, self._store, figures, len(wanted))
        if not figures.agree:
            log.error("The books of the store don't agree; the backup has them as they are")
        return Made(
            manifest, self._pepper, file, wanted, self._audio, self._batches, worker, lambda: self._over(worker)
        )

    def _over(self, worker: Runner) -> None:
        worker.stop()
        self._running = False

    def _prepare(self) -> Path:
        """Make the folder, with nothing in it of a backup that was cut short."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._tidy()
        path = self._folder / STORE
        # What is made of it by others has its rights.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        return path

    def _tidy(self) -> None:
        for leftover in self._folder.glob(f"{STORE}*"):
            leftover.unlink()


def _open(path: Path) -> tuple[BinaryIO, Figures, list[str]]:
    """Read what a copy has, and take its name away: it is gone when it is closed, however that comes about."""
    with closing(connect(path)) as database:
        figures, wanted = read_figures(database), wanted_audio(database)
    file = path.open("rb")
    path.unlink()
    return file, figures, wanted


def explain(error: Exception, folder: Path) -> str:
    """Say what an operator can do about it."""
    text = str(error)
    if "full" in text or "No space" in text:
        return f"the disk of {folder} is full; make room"
    return f"the store could not be copied into {folder} ({type(error).__name__}: {text})"


class Made:
    """A backup on its way to whoever asked for it. To be closed, whatever happens."""

    def __init__(
        self,
        manifest: Manifest,
        pepper: bytes,
        file: BinaryIO,
        wanted: Sequence[str],
        audio: Encodings,
        batches: Callable[[], Sequence[Path]],
        worker: Runner,
        over: Callable[[], None],
    ) -> None:
        self.manifest = manifest
        self.size = os.fstat(file.fileno()).st_size
        "Octets of the store in it, which are most of it where there is little audio."
        self._pepper = pepper
        self._file = file
        self._wanted = wanted
        self._audio = audio
        self._batches = batches
        self._worker = worker
        self._over = over
        self._closed = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """Give the file. Raises OSError."""
        made_at = self.manifest.made_at
        yield member(MANIFEST, str(self.manifest).encode(), made_at) + member(PEPPER, self._pepper, made_at)
        yield header(STORE, self.size, made_at)
        while piece := await self._worker.run(lambda: self._file.read(PIECE)):
            yield piece
        yield padding(self.size)
        for name in self._wanted:
            try:
                encodings = await self._audio(name)
            except Exception as error:  # noqa: BLE001 - the call may be over; if not, it is told when it is dialled
                log.warn("The backup has no audio {name}: {error}", name=name, error=error)
                continue
            for codec, octets in encodings.items():
                yield member(f"{AUDIO}{name}.{codec.lower()}", octets, made_at)
        for path in await self._worker.run(self._batches):
            content = await self._worker.run(partial(_content, path))
            if content is not None:
                yield member(f"{BATCHES}/{path.parent.name}/{path.name}", content, made_at)
        yield member(END, b"", made_at) + bytes(2 * BLOCK)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._worker.run(self._file.close)
            self._over()


def _content(path: Path) -> bytes | None:
    """Read a file; None where its batch was removed meanwhile."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def header(name: str, size: int, at: float) -> bytes:
    """Return what stands in front of a file in a tar."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, int(at), 0o600
    return info.tobuf(tarfile.GNU_FORMAT)


def padding(size: int) -> bytes:
    """Return what stands behind a file of this size."""
    return bytes(-size % BLOCK)


def member(name: str, content: bytes, at: float) -> bytes:
    """Return a file as it stands in a tar."""
    return header(name, len(content), at) + content + padding(len(content))


# reading one


def open_backup(path: Path) -> tarfile.TarFile:
    """Open the tar, also one that was compressed. Raises WrongBackup, OSError."""
    try:
        return tarfile.open(path, "r:*")
    except (tarfile.TarError, EOFError):
        raise WrongBackup("it is no backup of calledin") from None


def read_manifest(archive: tarfile.TarFile) -> Manifest:
    """Raises WrongBackup."""
    first = archive.next()
    if first is None or first.name != MANIFEST or first.size > PIECE:
        raise WrongBackup("it is no backup of calledin")
    file = archive.extractfile(first)
    assert file is not None
    return Manifest.parse(file.read())


def members(archive: tarfile.TarFile) -> Iterator[tuple[str, BinaryIO, int]]:
    """Give name, content and size of what comes after the manifest. Raises WrongBackup where it was cut off."""
    name = ""
    try:
        while (info := archive.next()) is not None:
            name = info.name
            file: Any = archive.extractfile(info)
            if file is None:
                raise WrongBackup(f"what is called {name} in it is no file")
            yield name, file, info.size
            # `archive` would remember each.
            archive.members = []  # type: ignore[attr-defined]
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise WrongBackup(f"it is damaged: {error}") from None
    if name != END:
        raise WrongBackup("it was cut off: its end is missing")
