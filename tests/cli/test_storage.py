"""`calledin backup`, `restore` and `migrate`, against a real socket, real folders and a real Redis."""

# mypy: allow-untyped-calls
from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from click.testing import CliRunner, Result
from twisted.internet import reactor
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from calledind.api.admin import Admin, admin_site, listen
from calledind.cli import storage
from calledind.cli.main import main
from calledind.keyring import Keyring
from calledind.settings.tables import Redis
from calledind.store.backup import Backup
from calledind.store.embedded import EmbeddedStore
from calledind.store.interface import StoreUnavailable
from calledind.store.redis import RedisStore
from calledind.store.restore import Places
from tests.api.ledger import Ledger
from tests.store.contents import contents, fill, made
from tests.store.redis_case import one_server
from tests.store.redis_server import RedisServer

some: Any = reactor
CALLEDIN = [str(Path(sys.executable).with_name("calledin"))]


def run(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, [os.fspath(each) for each in arguments], env={"CALLEDIN_SOCKET": None})


def run_apart(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as what it does with a reactor needs."""
    return subprocess.run([*CALLEDIN, *arguments], capture_output=True, text=True, timeout=60, check=False)


def absolute(path: str) -> Path:
    return Path(path).absolute()


def relative(path: Path) -> str:
    return os.path.relpath(path)


class StorageCase(TestCase):
    timeout = 120.0

    async def setUp(self) -> None:  # type: ignore[override]
        self.folder = absolute(self.mktemp())
        self.folder.mkdir(parents=True)
        self.store = EmbeddedStore(some, self.folder / "data" / "store")
        await self.store.open()
        self.addCleanup(self.store.close)
        self.broken: list[Exception] = []
        # The path of a socket must be short.
        self.socket = relative(self.folder / "s")
        self.backup = Backup(
            some,
            self.folder / "data" / "backup",
            copy=self.copy,
            audio=self.audio,
            pepper=b"p" * 32,
            store="embedded",
        )
        self.listen(self.backup)

    def listen(self, backup: Any) -> None:
        admin = Admin(
            reactor=some,
            store=Ledger().as_store,
            keyring=Keyring(b"p" * 32),
            now=time.time,
            status=dict,
            backup=backup,
        )
        port = listen(some, Path(self.socket), admin_site(admin, reactor=some))
        self.addCleanup(port.stopListening)

    async def copy(self, path: Path) -> None:
        if self.broken:
            raise self.broken.pop()
        await self.store.copy_into(path)

    async def audio(self, name: str) -> Mapping[str, bytes]:
        return {"PCMU": b"\xff" * 100, "PCMA": b"\xd5" * 100}

    async def do(self, *arguments: str | Path, code: int = 0) -> str:
        """Run a command against the socket, and return what it said."""
        result: Result = await deferToThread(run, "--socket", self.socket, *arguments)
        self.assertEqual(result.exit_code, code, result.output)
        return result.output

    async def do_apart(self, *arguments: str | Path, code: int = 0) -> str:
        result = await deferToThread(run_apart, *arguments)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return result.stdout + result.stderr


class BackupTests(StorageCase):
    async def test_backup(self) -> None:
        """A file is written for its owner alone, whole or not at all, and what is in it is said."""
        await fill(self.store, calls=30)
        file = self.folder / "b.tar"
        shown = await self.do("backup", file)
        self.assertRegex(shown, r"keys +4")
        self.assertRegex(shown, r"books agree +yes")
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        with tarfile.open(file) as archive:
            self.assertEqual(archive.getnames()[:3], ["manifest.json", "pepper", "store.sqlite3"])
        said = json.loads(await self.do("backup", file, "--json"))
        totals = await self.store.totals()
        self.assertEqual((said["credits"], said["held"], said["calls"]), (totals.credits, totals.held, totals.calls))
        self.assertEqual([each.name for each in self.folder.glob("*.partial")], [])

    async def test_names(self) -> None:
        """In a folder it gets a name with its time; a name that ends with .gz is compressed."""
        target = self.folder / "backups"
        target.mkdir()
        said = json.loads(await self.do("backup", target, "--json"))
        self.assertRegex(said["file"], r"/calledin-\d{4}-\d\d-\d\dT\d{4}\.tar$")
        await self.do("backup", target / "b.tar.gz")
        self.assertIn(b"store.sqlite3", gzip.decompress((target / "b.tar.gz").read_bytes()))

    async def test_refusals(self) -> None:
        """Without a daemon, where it fails, and where the file can't be written, words say so and no file is there."""
        file = self.folder / "b.tar"
        self.broken.append(StoreUnavailable("there is not enough room"))
        self.assertIn("not enough room", await self.do("backup", file, code=1))
        self.assertIn("can't be written", await self.do("backup", self.folder / "no" / "b.tar", code=1))
        result = run("--socket", self.folder / "nobody", "backup", file)
        self.assertEqual(result.exit_code, 3, result.output)
        made = await self.backup.make()
        self.assertIn("being made already", await self.do("backup", file, code=1))
        made.close()
        self.assertEqual([each.name for each in self.folder.glob("b.tar*")], [])

    async def test_cut_short(self) -> None:
        """A backup that the daemon can't finish leaves no file, and the one before stays as it was."""
        self.socket += "2"

        async def pieces() -> AsyncIterator[bytes]:
            yield b"x" * 100_000
            raise OSError(5, "the disk has failed")

        async def make() -> Any:
            return SimpleNamespace(pieces=pieces, size=10, close=lambda: closed.append(1))

        closed: list[int] = []
        self.listen(SimpleNamespace(make=make))
        file = self.folder / "b.tar"
        file.write_bytes(b"the one before")
        shown = await self.do("backup", file, code=3)
        self.assertIn("daemon was lost", shown)
        self.assertEqual(file.read_bytes(), b"the one before")
        self.assertEqual([each.name for each in self.folder.glob("*.partial")], [])
        self.assertEqual(closed, [1])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)


class RestoreTests(StorageCase):
    async def test_restore(self) -> None:
        """A backup is put into a folder once; over a store only with --force, which moves that aside."""
        await fill(self.store, calls=30)
        file, new = self.folder / "b.tar", self.folder / "new"
        await self.do("backup", file)
        said = json.loads(run("restore", file, "--data", new, "--json").output)
        self.assertEqual((said["keys"], said["moved_aside"]), (4, None))
        self.assertEqual((new / "pepper").read_bytes(), b"p" * 32)
        result = run("restore", file, "--data", new)
        self.assertEqual(result.exit_code, 1)
        self.assertRegex(result.output, "there is a store .* --force")
        result = run("restore", file, "--data", new, "--force")
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertIn("replaced-", result.output)
        result = run("restore", file, "--data", self.folder / "data", "--force")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("another process has the store", result.output)

    async def test_by_its_settings(self) -> None:
        """The folder may be named by the settings, which must be right."""
        file, config = self.folder / "b.tar", self.folder / "calledin.toml"
        await self.do("backup", file)
        config.write_text(f'data = "{self.folder / "new"}"\nsimulator = true\n')
        for arguments in (("restore", file, "--config", config), ("--config", config, "restore", file, "--force")):
            result = run(*arguments)
            self.assertEqual(result.exit_code, 0, result.output)
        self.assertTrue(Places(self.folder / "new").database.exists())
        config.write_text("data = 1\n")
        wrong: tuple[tuple[tuple[str | Path, ...], str], ...] = (
            (("restore", file, "--config", config), "has errors"),
            (("restore", file), "--config is needed"),
            (("restore", file, "--config", config, "--data", "x"), "either"),
            (("restore", self.folder / "nothing", "--data", "x"), "does not exist"),
        )
        for words_given, words in wrong:
            result = run(*words_given)
            self.assertEqual(result.exit_code, 2, result.output)
            self.assertIn(words, result.output)

    async def test_wrong_file(self) -> None:
        """What is no backup ends with code 1 and words, and nothing is made of it."""
        file = self.folder / "b.tar"
        file.write_bytes(b"hello")
        result = run("restore", file, "--data", self.folder / "new")
        self.assertEqual(result.exit_code, 1)
        self.assertRegex(result.output, "b.tar: it is no backup of calledin")


class RedisTests(StorageCase):
    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.config = self.folder / "calledin.toml"
        self.write_settings(one_server())

    def write_settings(self, server: RedisServer) -> None:
        self.config.write_text(
            f'data = "{self.folder / "data"}"\nsimulator = true\n[store]\nkind = "redis"\n[node]\nlease = 1\n'
            f'[redis]\naddress = "{server.address}"\nprefix = "{self.id()}:"\n'
        )

    async def test_to_and_fro(self) -> None:
        """Everything is brought to Redis and back; the figures of both sides are shown, and nothing is lost."""
        await fill(self.store)
        first, second = self.folder / "first", self.folder / "second"
        await made(self.store, first)
        shown = await self.do_apart("migrate", "--config", self.config, "--to", "redis", code=1)
        self.assertIn("another process has the store", shown)
        await self.store.close()
        shown = await self.do_apart("migrate", "--config", self.config, "--to", "redis")
        self.assertRegex(shown, r"embedded +redis")
        self.assertRegex(shown, r"ledger +(\d+) +\1\n")
        self.assertIn('set [store] kind = "redis"', shown)
        shown = await self.do_apart("migrate", "--config", self.config, "--to", "redis", code=1)
        self.assertRegex(shown, "there is a store in Redis already .* --force")
        shown = await self.do_apart("migrate", "--config", self.config, "--to", "embedded", code=1)
        self.assertRegex(shown, "there is a store in .* --force")
        said = json.loads(
            await self.do_apart("migrate", "--config", self.config, "--to", "embedded", "--force", "--json")
        )
        self.assertEqual(said["figures"]["redis"], said["figures"]["embedded"])
        self.assertEqual(len(said["notes"]), 1)
        back = EmbeddedStore(some, self.folder / "data" / "store")
        await back.open()
        await made(back, second)
        await back.close()
        self.assertEqual(contents(second), contents(first))

    async def test_restore_into_redis(self) -> None:
        """A backup of an embedded store is restored into the Redis of the settings."""
        await fill(self.store, calls=30)
        file = self.folder / "b.tar"
        await self.do("backup", file)
        await self.store.close()
        await self.do_apart("restore", "--config", self.config, file)
        shown = await self.do_apart("restore", "--config", self.config, file, code=1)
        self.assertIn("there is a store in Redis", shown)
        said = json.loads(await self.do_apart("restore", "--config", self.config, file, "--force", "--json"))
        prefix = f"{self.id()}:"
        counts = one_server().call("HGETALL", prefix + "counts")
        found = {name.decode(): int(count) for name, count in zip(counts[::2], counts[1::2], strict=True)}
        self.assertEqual(found, {**{k: v for k, v in said["calls"].items() if v}, "dnc": said["do_not_call"]})
        self.assertEqual(len(one_server().call("KEYS", prefix + "audio:*")), said["audio"])

    async def test_while_a_node_lives(self) -> None:
        """While a node works on the Redis, nothing is brought there or taken from it; one that was killed is none."""
        await fill(self.store, calls=5)
        await self.store.close()
        node = RedisStore(
            some,
            Redis(address=one_server().address, prefix=f"{self.id()}:", timeout=5.0),
            node="other",
            lease=10.0,
            instance="other",
            folder=self.folder / "other",
            route_of=lambda call: (),
            encodings=None,
            fresh_audio=1.0,
        )
        await node.open()
        self.addCleanup(node.close)
        beating = LoopingCall(node.beat, {})
        beating.start(0.1)
        for kind in ("redis", "embedded"):
            migrate = "migrate", "--config", self.config, "--force", "--to", kind
            self.assertIn("other work on the store in Redis", await self.do_apart(*migrate, code=1))
        beating.stop()
        await self.do_apart("migrate", "--config", self.config, "--to", "redis")

    async def test_nothing_to_bring(self) -> None:
        """Where there is no store to take from, or no Redis, words say so."""
        shown = await self.do_apart("migrate", "--config", self.config, "--to", "embedded", code=1)
        self.assertIn("another process has the store", shown)
        await self.store.close()
        shown = await self.do_apart("migrate", "--config", self.config, "--to", "embedded", "--force", code=1)
        self.assertIn("there is no store in Redis", shown)
        self.config.write_text(self.config.read_text().replace(str(self.folder / "data"), str(self.folder / "empty")))
        shown = await self.do_apart("migrate", "--config", self.config, "--to", "redis", code=1)
        self.assertIn("there is no embedded store", shown)
        shown = await self.do_apart("migrate", "--to", "redis", code=2)
        self.assertIn("--config is needed", shown)


class Words(TestCase):
    def test_figures_in_one_table(self) -> None:
        """States of calls stand beside the other figures."""
        self.assertEqual(storage.flat({"keys": 1, "calls": {"done": 2}}), {"keys": 1, "calls done": 2})
