"""The library's files, and which URL they came from. Everything here blocks: it is called in a thread.

    audio/<sha256 of the MP3>.pcmu, .pcma     raw G.711; there whole or not at all
          .g722, .opus                        where a trunk wants them (`calledind.codecs`)
    incoming/                                 being fetched and decoded; emptied at each start
    urls.sqlite3                              SHA-256 of a URL -> its audio. URLs may have passwords in them, and
                                              nobody needs to read them back.

The audio of an accepted call has to be there after a power cut, so files and folder are synced before anyone hears
of them. The table of URLs is a cache of what can be fetched again, so its commits don't wait for the disk.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from calledind.codecs import ALWAYS, CODECS, OCTET_RATE
from calledind.folders import sync_folder

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE url (
    key BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    etag TEXT,
    last_modified TEXT,
    fresh_until REAL NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Content:
    """One MP3's encodings, as found on the shelf."""

    name: str
    samples: int
    used_at: float
    "Seconds since the epoch."
    codecs: frozenset[str] = frozenset(ALWAYS)
    "What it is encoded in."


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of a URL."""

    key: bytes
    "SHA-256 of the URL."
    name: str
    "Of the content."
    etag: str | None
    last_modified: str | None
    fresh_until: float
    "Seconds since the epoch; after that its server is asked."


class Shelf:
    """The library's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._audio = folder / "audio"
        self.incoming = folder / "incoming"
        self._urls: sqlite3.Connection | None = None

    def path(self, name: str, codec: str) -> Path:
        return self._audio / f"{name}.{codec.lower()}"

    def open(self) -> tuple[list[Content], list[Origin]]:
        """Make the folder ready. Returns what is in it, what was used longest ago first."""
        for folder in (self._folder, self._audio, self.incoming):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(self._folder)
        for leftover in self.incoming.iterdir():
            leftover.unlink()
        try:
            origins = self._open_urls()
        except sqlite3.DatabaseError:
            self.close()
            for suffix in ("", "-wal", "-shm"):
                (self._folder / f"urls.sqlite3{suffix}").unlink(missing_ok=True)
            origins = self._open_urls()
        return sorted(self._contents(), key=lambda content: content.used_at), origins

    def close(self) -> None:
        if self._urls is not None:
            self._urls.close()
            self._urls = None

    def publish(self, name: str, encodings: Mapping[str, Path]) -> None:
        """Put encodings, codec -> synced file in `incoming`, where `path` says. They survive a power cut."""
        for codec, file in encodings.items():
            file.replace(self.path(name, codec))
        sync_folder(self._audio)

    def read(self, files: Mapping[str, Path]) -> dict[str, bytes]:
        """Read files, each under its codec's name."""
        return {codec: file.read_bytes() for codec, file in files.items()}

    def write(self, contents: Mapping[Path, bytes]) -> None:
        """Write files in `incoming`, synced as `publish` wants them."""
        for path, octets in contents.items():
            with path.open("wb") as file:
                file.write(octets)
                file.flush()
                os.fsync(file.fileno())

    def remember(self, origins: Iterable[Origin]) -> None:
        assert self._urls is not None
        with self._urls:
            self._urls.executemany(
                "INSERT OR REPLACE INTO url VALUES (?, ?, ?, ?, ?)",
                [(o.key, o.name, o.etag, o.last_modified, o.fresh_until) for o in origins],
            )

    def remove(self, names: Iterable[str], keys: Iterable[bytes]) -> None:
        """Forget contents and URLs."""
        assert self._urls is not None
        with self._urls:
            self._urls.executemany("DELETE FROM url WHERE key = ?", [(key,) for key in keys])
        for name in names:
            for codec in CODECS:
                self.path(name, codec).unlink(missing_ok=True)

    def touch(self, used_at: Mapping[str, float]) -> None:
        """Keep when contents were used last, so that the right ones go first after a restart."""
        for name, time in used_at.items():
            for codec in CODECS:
                if self.path(name, codec).exists():
                    os.utime(self.path(name, codec), (time, time))

    def discard(self, files: Iterable[Path]) -> None:
        for file in files:
            file.unlink(missing_ok=True)

    def _contents(self) -> Iterable[Content]:
        """Give the whole contents; halves, of a power cut between two renames, are removed."""
        codecs = {codec.lower(): codec for codec in CODECS}
        sizes: dict[str, dict[str, os.stat_result]] = {}
        with os.scandir(self._audio) as entries:
            for entry in entries:
                name, _, suffix = entry.name.partition(".")
                if suffix in codecs:
                    sizes.setdefault(name, {})[codecs[suffix]] = entry.stat()
        for name, found in sizes.items():
            samples = {found[codec].st_size if codec in found else 0 for codec in ALWAYS}
            if len(samples) == 1 and 0 not in samples:
                used_at = max(stat.st_mtime for stat in found.values())
                yield Content(name, samples.pop(), used_at, frozenset(found))
            else:
                self.discard(self.path(name, codec) for codec in CODECS)

    def _open_urls(self) -> list[Origin]:
        # The library calls from a thread of its own pool, one call at a time.
        urls = sqlite3.connect(self._folder / "urls.sqlite3", check_same_thread=False)
        self._urls = urls
        urls.execute("PRAGMA journal_mode = WAL")
        urls.execute("PRAGMA synchronous = NORMAL")
        if urls.execute("PRAGMA user_version").fetchone()[0] != _SCHEMA_VERSION:
            with urls:
                urls.execute("DROP TABLE IF EXISTS url")
                urls.execute(_SCHEMA)
                urls.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        rows = urls.execute("SELECT key, name, etag, last_modified, fresh_until FROM url ORDER BY fresh_until")
        return [Origin(*row) for row in rows]


def seconds(samples: int) -> float:
    return samples / OCTET_RATE
