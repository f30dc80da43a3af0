"""A backup is put in place, without a daemon.

Everything is read from the file, checked and synced under other names first; then it is renamed into its place, the
store last. So a restore that is cut short has changed nothing that a daemon would find, and is begun again.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tarfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from calledind.codecs import CODECS
from calledind.folders import sync_folder
from calledind.store.backup import (
    AUDIO,
    BATCHES,
    END,
    PEPPER,
    STORE,
    Figures,
    Manifest,
    WrongBackup,
    members,
    open_backup,
    read_figures,
    read_manifest,
)
from calledind.store.disk import SCHEMA, Disk, connect
from calledind.store.embedded import lock_folder
from calledind.store.interface import StoreUnavailable

PIECE = 1024 * 1024
"Octets copied at a time."
AUDIO_NAME = re.compile(rf"[0-9a-f]{{64}}\.({'|'.join(codec.lower() for codec in CODECS)})")
BATCH_FILE = re.compile(rf"{BATCHES}/([0-9a-f]{{32}})/(batch\.json|rows|journal|over\.json)")
Progress = Callable[[int], None]
"Told of octets that were dealt with."


class Occupied(Exception):
    """There is a store already where one is to be put; the message says where."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a daemon keeps what a backup has."""

    data: Path

    @property
    def store(self) -> Path:
        return self.data / "store"

    @property
    def database(self) -> Path:
        return self.store / "calledin.sqlite3"

    def database_files(self) -> list[Path]:
        """Return the database, and what SQLite keeps beside it."""
        name = self.database.name
        return [self.database, self.store / f"{name}-wal", self.store / f"{name}-shm"]

    @property
    def pepper(self) -> Path:
        return self.data / "pepper"

    @property
    def audio(self) -> Path:
        return self.data / "audio" / "audio"

    @property
    def batches(self) -> Path:
        return self.data / BATCHES

    def batches_there(self) -> list[Path]:
        """Return the folder of the batches, where it has any."""
        return [self.batches] if self.batches.is_dir() and any(self.batches.iterdir()) else []

    @property
    def restoring(self) -> Path:
        """What is unpacked waits here to be put in its place."""
        return self.data / "restoring"


@contextmanager
def locked(places: Places) -> Iterator[None]:
    """Keep daemons away from the store. Raises StoreUnavailable where one has it open, OSError.

    What root has made meanwhile is given to the owner of the data folder, as which the daemon runs.
    """
    places.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = lock_folder(places.store)
    try:
        yield
    finally:
        os.close(lock)
        if os.geteuid() == 0:
            _give(places)


def _give(places: Places) -> None:
    owner = places.data.stat()
    for folder in (places.store, places.audio.parent, places.audio, places.batches):
        if folder.exists():
            for path in (folder, *folder.glob("*"), *folder.glob("*/*")):
                os.chown(path, owner.st_uid, owner.st_gid)
    if places.pepper.exists():
        os.chown(places.pepper, owner.st_uid, owner.st_gid)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A backup whose parts were read and checked."""

    manifest: Manifest
    database: Path
    pepper: Path
    audio: Path
    "Folder."
    batches: Path
    "Folder, of one for each batch."


@contextmanager
def unpacked(backup: Path, places: Places, progress: Progress = lambda octets: None) -> Iterator[Unpacked]:
    """Unpack a backup below the data folder, for as long as this goes on.

    Raises WrongBackup, OSError.
    """
    folder = places.restoring
    shutil.rmtree(folder, ignore_errors=True)
    parts = Unpacked(_peek(backup), folder / STORE, folder / PEPPER, folder / "audio", folder / BATCHES)
    places.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)
    parts.audio.mkdir(mode=0o700)
    parts.batches.mkdir(mode=0o700)
    try:
        _unpack(backup, parts, progress)
        check_database(parts.database, parts.manifest)
        yield parts
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _peek(backup: Path) -> Manifest:
    with closing(open_backup(backup)) as archive:
        return read_manifest(archive)


def _unpack(backup: Path, parts: Unpacked, progress: Progress) -> None:
    missing = {STORE, PEPPER}
    try:
        with closing(open_backup(backup)) as archive:
            read_manifest(archive)
            for name, file, size in members(archive):
                missing.discard(name)
                _need_room(parts.database.parent, size)
                if name == STORE:
                    _write(parts.database, file, progress)
                elif name == PEPPER:
                    _write(parts.pepper, file, progress)
                elif name.startswith(AUDIO) and AUDIO_NAME.fullmatch(name.removeprefix(AUDIO)):
                    _write(parts.audio / name.removeprefix(AUDIO), file, progress)
                elif of_batch := BATCH_FILE.fullmatch(name):
                    (parts.batches / of_batch[1]).mkdir(mode=0o700, exist_ok=True)
                    _write(parts.batches / of_batch[1] / of_batch[2], file, progress)
                elif name != END:
                    raise WrongBackup(f"nothing is known here of {name!r}, which is in it")
    except (zlib.error, tarfile.TarError, EOFError) as error:
        raise WrongBackup(f"it is damaged: {error}") from None
    if missing:
        raise WrongBackup(f"it has no {' and no '.join(sorted(missing))}")
    if parts.pepper.stat().st_size < 32:
        raise WrongBackup("its pepper is too short")


def _need_room(folder: Path, octets: int) -> None:
    free = shutil.disk_usage(folder).free
    if octets > free:
        raise OSError(28, f"{octets / 1e6:,.0f} MB are needed, and {free / 1e6:,.0f} MB are free")


def _write(path: Path, file: BinaryIO, progress: Progress) -> None:
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as target:
        while piece := file.read(PIECE):
            target.write(piece)
            progress(len(piece))
        target.flush()
        os.fsync(target.fileno())


def check_database(path: Path, manifest: Manifest) -> None:
    """See that the store in a backup is whole, and the one that its manifest speaks of. Raises WrongBackup."""
    try:
        with closing(connect(path)) as database:
            database.execute("PRAGMA query_only = ON")
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version != manifest.schema:
                raise WrongBackup(f"its store is of schema {version}, and its manifest says {manifest.schema}")
            problems = [words for (words,) in database.execute("PRAGMA integrity_check(3)")]
            if problems != ["ok"]:
                raise WrongBackup(f"its store is damaged: {'; '.join(problems)}")
            figures = read_figures(database) if version == SCHEMA else manifest.figures
    except sqlite3.DatabaseError as error:
        raise WrongBackup(f"its store is damaged: {error}") from None
    if figures != manifest.figures:
        raise WrongBackup("its store has other figures than its manifest says")


def place(parts: Unpacked, places: Places, *, force: bool, now: float | None = None) -> Path | None:
    """Put all of a backup where a daemon with the embedded store looks for it; the lock must be held.

    Returns the folder that what was there before was moved to, with `force`. Raises Occupied, OSError.
    """
    place_secrets(parts, places, force=force, check_only=True)
    check_batches(places, force=force)
    if places.database.exists() and not force:
        raise Occupied(f"there is a store in {places.store} already")
    place_audio(parts.audio, places)
    aside = move_aside(places, [*places.database_files(), places.pepper, *places.batches_there()], now)
    place_secrets(parts, places, force=force)
    place_batches(parts.batches, places)
    place_database(parts.database, places)
    return aside


def move_aside(places: Places, files: Iterable[Path], now: float | None = None) -> Path | None:
    """Move what there is of these files into a new folder below the data folder; return that."""
    moved = [path for path in files if path.exists()]
    if not moved:
        return None
    aside = places.data / time.strftime("replaced-%Y-%m-%dT%H%M%S", time.localtime(now))
    aside.mkdir(mode=0o700, exist_ok=True)
    for path in moved:
        path.rename(aside / path.name)
    sync_folder(aside)
    return aside


def place_secrets(parts: Unpacked, places: Places, *, force: bool, check_only: bool = False) -> None:
    """Put the pepper in its place. Raises Occupied where there is another one already."""
    if places.pepper.exists() and places.pepper.read_bytes() == parts.pepper.read_bytes():
        return
    if places.pepper.exists() and not force:
        raise Occupied(
            f"{places.pepper} is another one than that of the backup: the api keys of one of them are unknown"
        )
    if not check_only:
        parts.pepper.rename(places.pepper)
        sync_folder(places.data)


def place_database(database: Path, places: Places) -> None:
    """Put a store's file in its place, in which there must be none any more."""
    for path in places.database_files()[1:]:
        # A log that was left behind would be taken for this one's.
        path.unlink(missing_ok=True)
    with database.open("rb") as file:
        os.fsync(file.fileno())
    database.rename(places.database)
    sync_folder(places.store)


def place_audio(folder: Path, places: Places) -> None:
    """Put audio into the library's folder, where a library finds it when it is opened."""
    for made in (places.audio.parent, places.audio):
        made.mkdir(mode=0o700, exist_ok=True)
    for file in sorted(folder.iterdir()):
        file.rename(places.audio / file.name)
    sync_folder(places.audio)


def check_batches(places: Places, *, force: bool) -> None:
    """Raises Occupied where there are batches already."""
    if places.batches_there() and not force:
        raise Occupied(f"there are batches in {places.batches} already")


def place_batches(folder: Path, places: Places) -> None:
    """Put batches where a daemon finds them at its start; there must be none any more."""
    for each in folder.iterdir():
        sync_folder(each)
    sync_folder(folder)
    folder.rename(places.batches)
    sync_folder(places.data)


# the embedded store of a data folder, for who brings it elsewhere


def upgraded(path: Path) -> Figures:
    """Bring a store's file to the schema of today, and return what is in it; the lock must be held.

    Raises StoreUnavailable, OSError.
    """
    disk = Disk(path)
    try:
        disk.open()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{path} can't be read: {error}") from None
    finally:
        disk.close()
    with closing(connect(path)) as database:
        return read_figures(database)
