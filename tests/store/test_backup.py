# Trial's assertions are not annotated.
# mypy: allow-untyped-calls
"""Backups of a running store, and what becomes of them."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import sqlite3
import tarfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from calledind.batches.files import Files, Order, Over, Row, State
from calledind.model import ReturnCode
from calledind.store import backup
from calledind.store.backup import (
    AlreadyRunning,
    Backup,
    Figures,
    Manifest,
    WrongBackup,
    member,
    open_backup,
    read_manifest,
)
from calledind.store.disk import SCHEMA
from calledind.store.embedded import EmbeddedStore
from calledind.store.interface import StoreUnavailable
from calledind.store.restore import Occupied, Places, locked, place, unpacked
from tests.store.contents import contents, fill, live_on, made, problems
from tests.store.contract import DIGEST, NOW, make_call, make_key

some: Any = reactor
PEPPER = b"p" * 32
ORDER = Order("0" * 32, "key_1", "", "http://x/a.mp3", 5.0, "", None, NOW, 2)
AUDIO = "a" * 64
"What all calls of the tests want to play."


class BackupCase(TestCase):
    timeout = 120.0

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.library: dict[str, Mapping[str, bytes]] = {AUDIO: {"PCMU": b"\xff" * 777, "PCMA": b"\xd5" * 777}}

    async def store(self, name: str = "old") -> EmbeddedStore:
        """Return the store of a data folder, open."""
        store = EmbeddedStore(some, self.folder / name / "store")
        await store.open()
        self.addCleanup(store.close)
        return store

    def backup(self, store: Any) -> Backup:
        async def audio(name: str) -> Mapping[str, bytes]:
            return self.library[name]

        return Backup(
            some,
            self.folder / "old" / "backup",
            copy=store.copy_into,
            audio=audio,
            pepper=PEPPER,
            store="embedded",
            batches=Files(self.folder / "old" / "batches").all,
            now=lambda: NOW,
        )

    async def save(self, store: Any, name: str = "backup.tar") -> Path:
        """Make a backup; return its file."""
        sent = await self.backup(store).make()
        try:
            octets = b"".join([piece async for piece in sent.pieces()])
        finally:
            sent.close()
        path = self.folder / name
        path.write_bytes(octets)
        return path

    def restore(self, path: Path, name: str = "new", **more: Any) -> Path | None:
        places = Places(self.folder / name)
        with locked(places), unpacked(path, places) as parts:
            return place(parts, places, force=more.get("force", False))


class Making(BackupCase):
    async def test_what_is_in_it(self) -> None:
        """It is a tar file with a manifest, the pepper, the whole store and the audio of calls that are not over."""
        store = await self.store()
        await fill(store)
        path = await self.save(store)
        with tarfile.open(path) as archive:
            names = archive.getnames()
            self.assertEqual({info.mode for info in archive}, {0o600})
            archive.extractall(self.folder / "x")
        wanted = ["manifest.json", "pepper", "store.sqlite3", f"audio/{AUDIO}.pcmu", f"audio/{AUDIO}.pcma", "end"]
        self.assertEqual(names, wanted)
        self.assertEqual((self.folder / "x" / "pepper").read_bytes(), PEPPER)
        self.assertEqual((self.folder / "x" / "audio" / f"{AUDIO}.pcmu").read_bytes(), b"\xff" * 777)
        with open_backup(path) as archive:
            manifest = read_manifest(archive)
        totals = await store.totals()
        self.assertEqual(
            (manifest.made_at, manifest.store, manifest.schema, manifest.audio), (NOW, "embedded", SCHEMA, 1)
        )
        figures = manifest.figures
        self.assertEqual(
            (figures.added, figures.credits, figures.held, figures.charged, figures.calls, figures.do_not_call),
            (totals.added, totals.credits, totals.held, totals.charged, totals.calls, totals.do_not_call),
        )
        self.assertTrue(figures.agree)
        self.assertEqual(figures.callbacks, len(await store.pending_callbacks()))

    async def test_batches(self) -> None:
        """The batches of the machine come along, how one ended before its journal; one that is being made does not."""
        store = await self.store()
        files = Files(self.folder / "old" / "batches")
        files.clean()
        files.create(ORDER, [Row("1", "2125550100"), Row("1", "2125550101")])
        files.finish(ORDER.id, Over(State.DONE, NOW, {0: 2}))
        (self.folder / "old" / "batches" / ".begun").mkdir()
        path = await self.save(store)
        with tarfile.open(path) as archive:
            names = [name for name in archive.getnames() if name.startswith("batches/")]
        wanted = [f"batches/{ORDER.id}/{name}" for name in ("over.json", "batch.json", "rows", "journal")]
        self.assertEqual(names, wanted)
        self.restore(path)
        there = Files(self.folder / "new" / "batches")
        self.assertEqual(there.clean(), [ORDER.id])
        self.assertEqual(there.read_order(ORDER.id), files.read_order(ORDER.id))
        self.assertEqual(there.read_rows(ORDER.id), files.read_rows(ORDER.id))
        (self.folder / "new" / "store" / "calledin.sqlite3").unlink()
        with self.assertRaisesRegex(Occupied, "batches"):
            self.restore(path)
        aside = self.restore(path, force=True)
        assert aside is not None
        self.assertTrue((aside / "batches" / ORDER.id / "rows").exists())
        self.assertEqual(there.clean(), [ORDER.id])

    async def test_the_copy_has_no_name(self) -> None:
        """While it is sent, nothing of it can be found on the disk, and a kill leaves nothing behind."""
        store = await self.store()
        made = self.backup(store)
        sent = await made.make()
        self.assertEqual(list((self.folder / "old" / "backup").iterdir()), [])
        self.assertEqual((self.folder / "old" / "backup").stat().st_mode & 0o777, 0o700)
        with self.assertRaises(AlreadyRunning):
            await made.make()
        sent.close()
        leftover = self.folder / "old" / "backup" / "store.sqlite3"
        leftover.write_bytes(b"of a daemon that was killed meanwhile")
        (await made.make()).close()
        self.assertFalse(leftover.exists())

    async def test_audio_that_is_gone(self) -> None:
        """Audio that can't be read any more fails no backup."""
        store = await self.store()
        await fill(store, calls=10)
        self.library.clear()
        with tarfile.open(await self.save(store)) as archive:
            self.assertEqual(archive.getnames(), ["manifest.json", "pepper", "store.sqlite3", "end"])

    async def test_no_room(self) -> None:
        """Where the copy would fill the disk, it is not begun, and the store goes on."""
        store = await self.store()
        self.patch(backup, "shutil", SimpleNamespace(disk_usage=lambda folder: SimpleNamespace(free=1_000_000)))
        made = self.backup(store)
        with self.assertRaisesRegex(StoreUnavailable, "not enough room .* 67 MB, and 1 MB are free"):
            await made.make()
        await store.add_key(make_key(), DIGEST)
        self.assertTrue(store.healthy())

    async def test_a_copy_that_fails(self) -> None:
        """When the copy fails, words say why, nothing of it stays, and the next may go well."""
        store = await self.store()
        errors: list[Exception] = [sqlite3.OperationalError("database or disk is full"), OSError(5, "I/O error")]

        def copy(path: Path) -> Deferred[None]:
            if errors:
                raise errors.pop(0)
            return store.copy_into(path)

        made = self.backup(SimpleNamespace(copy_into=copy))
        with self.assertRaisesRegex(StoreUnavailable, "is full; make room"):
            await made.make()
        with self.assertRaisesRegex(StoreUnavailable, "could not be copied"):
            await made.make()
        self.assertEqual(list((self.folder / "old" / "backup").iterdir()), [])
        (await made.make()).close()

    async def test_each_copy_is_of_one_moment(self) -> None:
        """In backups that are made under load, all books are right, and what was answered before is in it."""
        store = await self.store()
        await fill(store, calls=60)
        self.stop = False
        self.answered: list[str] = []
        working = [Deferred.fromCoroutine(self.work(store, number)) for number in range(8)]
        try:
            for number in range(8):
                before = list(self.answered)
                path = self.folder / f"copy {number}"
                await made(store, path)
                self.assertEqual(problems(path), [])
                kept = {row[0] for row in contents(path)["calls"]}
                self.assertEqual([call_id for call_id in before if call_id not in kept], [])
                await deferLater(some, 0.02)
        finally:
            self.stop = True
            await gatherResults(working)
        self.assertGreater(len(self.answered), 50)

    async def work(self, store: EmbeddedStore, number: int) -> None:
        dice, count = random.Random(number), 0
        while not self.stop:
            count += 1
            key_id = f"key_{dice.randrange(3)}"
            call = make_call(
                f"load{number}-{count}", key_id=key_id, number=("1", f"9{number}{count:08d}"), at=NOW + count
            )
            if await store.accept(call) is ReturnCode.NO_CREDITS:
                await store.add_credits(key_id, 10, NOW + count, "more")
                continue
            self.answered.append(call.id)
            await live_on(store, call, dice)


class Restoring(BackupCase):
    async def test_into_a_new_folder(self) -> None:
        """A store that is restored has all that the old one had, the pepper and the audio, for its owner alone."""
        store = await self.store()
        await fill(store)
        path = await self.save(store)
        before = self.folder / "before"
        await made(store, before)
        self.assertIsNone(self.restore(path))
        places = Places(self.folder / "new")
        self.assertEqual(places.pepper.read_bytes(), PEPPER)
        self.assertEqual((places.audio / f"{AUDIO}.pcma").read_bytes(), b"\xd5" * 777)
        for file in (places.pepper, places.database, *places.audio.iterdir()):
            self.assertEqual(file.stat().st_mode & 0o777, 0o600, file)
        for folder in (places.store, places.audio, places.audio.parent):
            self.assertEqual(folder.stat().st_mode & 0o777, 0o700, folder)
        self.assertFalse(places.restoring.exists())
        other = await self.store("new")
        after = self.folder / "after"
        await made(other, after)
        self.assertEqual(contents(after), contents(before))
        self.assertEqual(await other.totals(), await store.totals())
        self.assertEqual(await other.unfinished(), await store.unfinished())
        self.assertEqual(await other.pending_callbacks(), await store.pending_callbacks())

    async def test_of_an_older_schema(self) -> None:
        """A backup that a calledin before this one has made is brought to today's schema at the next start."""
        store = await self.store()
        await fill(store, calls=30)
        path = await self.save(store)
        before = self.folder / "before"
        await made(store, before)
        with tarfile.open(path) as archive:
            archive.extractall(self.folder / "x")
        file = self.folder / "x" / "store.sqlite3"
        with closing(sqlite3.connect(file)) as database:
            database.executescript("DROP INDEX call_of_key; DROP INDEX call_idempotent; PRAGMA user_version = 4")
        with open_backup(path) as archive:
            manifest = str(read_manifest(archive)).replace(f'"schema": {SCHEMA}', '"schema": 4')
        parts = {"manifest.json": manifest.encode(), "pepper": PEPPER, "store.sqlite3": file.read_bytes(), "end": b""}
        path.write_bytes(b"".join(member(name, octets, NOW) for name, octets in parts.items()) + bytes(1024))
        self.restore(path)
        after = self.folder / "after"
        await made(await self.store("new"), after)
        self.assertEqual(contents(after), contents(before))

    async def test_compressed(self) -> None:
        """A backup that was compressed is restored as it is."""
        path = await self.save(await self.store())
        compressed = self.folder / "backup.tar.gz"
        compressed.write_bytes(gzip.compress(path.read_bytes()))
        self.restore(compressed)
        await self.store("new")

    async def test_over_a_store(self) -> None:
        """What is there is kept from being written over, and with force it is moved aside whole."""
        path = await self.save(await self.store())
        other = await self.store("new")
        await other.add_key(make_key(), DIGEST)
        with self.assertRaisesRegex(StoreUnavailable, "another process has the store"):
            self.restore(path, force=True)
        await other.close()
        (self.folder / "new" / "pepper").write_bytes(b"q" * 32)
        with self.assertRaisesRegex(Occupied, "pepper is another one"):
            self.restore(path)
        (self.folder / "new" / "pepper").write_bytes(PEPPER)
        with self.assertRaisesRegex(Occupied, "there is a store"):
            self.restore(path)
        (self.folder / "new" / "pepper").write_bytes(b"q" * 32)
        aside = self.restore(path, force=True)
        assert aside is not None
        self.assertEqual((aside / "pepper").read_bytes(), b"q" * 32)
        with closing(sqlite3.connect(aside / "calledin.sqlite3")) as database:
            self.assertEqual(database.execute("SELECT id FROM api_key").fetchall(), [("key_1",)])
        self.assertEqual(await (await self.store("new")).keys(), [])
        self.assertEqual((self.folder / "new" / "pepper").read_bytes(), PEPPER)

    async def test_wrong_files(self) -> None:
        """What is no backup, is cut off, damaged or of a newer calledin changes nothing, and is told in words."""
        store = await self.store()
        await fill(store, calls=30)
        path = await self.save(store)
        whole = path.read_bytes()
        with open_backup(path) as archive:
            manifest = read_manifest(archive)
        at = whole.index(b"SQLite format 3\0")
        newer = str(manifest).replace(f'"schema": {SCHEMA}', f'"schema": {SCHEMA + 1}').encode()
        later = str(manifest).replace('"format": 1', '"format": 2').encode()
        other = json.loads(str(manifest))
        other["figures"]["credits"] += 1
        rest = whole[1024:]
        cases: dict[str, tuple[bytes, str]] = {
            "nothing": (b"", "no backup"),
            "text": (b"hello" * 1000, "no backup"),
            "other tar": (member("x", b"y", NOW) + bytes(1024), "no backup"),
            "manifest": (member("manifest.json", b"{}", NOW) + rest, "manifest can't be read"),
            "newer": (member("manifest.json", newer, NOW) + rest, "newer calledin"),
            "format": (member("manifest.json", later, NOW) + rest, "newer calledin"),
            "figures": (member("manifest.json", json.dumps(other).encode(), NOW) + rest, "other figures"),
            "cut in the store": (whole[: at + 20_000], "damaged|cut off"),
            "cut between": (whole[: at - 512], "cut off"),
            "cut behind": (whole[:-2048], "cut off|damaged"),
            "damaged": (whole[: at + 4096] + os.urandom(8192) + whole[at + 4096 + 8192 :], "damaged"),
            "strange": (whole[:-1536] + member("../x", b"y", NOW) + whole[-1536:], "nothing is known"),
            "gzip": (gzip.compress(whole)[:-1000], "damaged|cut off|no backup"),
        }
        self.assertEqual(len(str(manifest)) // 512, 0)
        for name, (octets, words) in cases.items():
            path.write_bytes(octets)
            with self.assertRaisesRegex(WrongBackup, words, msg=name):
                self.restore(path)
            places = Places(self.folder / "new")
            self.assertEqual({file.name for file in places.data.iterdir()}, {"store"}, name)
            self.assertEqual({file.name for file in places.store.iterdir()}, {"lock"}, name)

    async def test_no_room(self) -> None:
        """Where there is no room for it, nothing is changed."""
        path = await self.save(await self.store())
        from calledind.store import restore

        disk_usage = lambda folder: SimpleNamespace(free=10_000)  # noqa: E731
        self.patch(restore, "shutil", SimpleNamespace(disk_usage=disk_usage, rmtree=shutil.rmtree))
        with self.assertRaisesRegex(OSError, "MB are needed"):
            self.restore(path)
        self.assertEqual({file.name for file in (self.folder / "new").iterdir()}, {"store"})


class Words(SynchronousTestCase):
    def test_books(self) -> None:
        """Figures say whether each credit is somewhere, and each held one belongs to a call that is not over."""
        right = Figures(1, 10, 5, 3, 2, {"accepted": 1, "dialing": 1, "answered": 1, "done": 9}, 0, 0, 0)
        self.assertTrue(right.agree)
        self.assertFalse(Figures(1, 11, 5, 3, 2, right.calls, 0, 0, 0).agree)
        self.assertFalse(Figures(1, 10, 5, 3, 2, {"accepted": 1}, 0, 0, 0).agree)

    def test_manifest(self) -> None:
        """A manifest reads back as what it was; what a later one has more is passed over."""
        figures = Figures(1, 10, 5, 3, 2, {"accepted": 3}, 4, 5, 6)
        manifest = Manifest(NOW, "redis", figures, 7)
        self.assertEqual(Manifest.parse(str(manifest).encode()), manifest)
        more = {**json.loads(str(manifest)), "more": 1}
        self.assertEqual(Manifest.parse(json.dumps(more).encode()), manifest)
