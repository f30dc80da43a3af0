"""The `calledin` command against a real socket."""

# mypy: allow-untyped-calls
from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from click.testing import CliRunner, Result
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from calledind.api.admin import Admin, admin_site, listen
from calledind.cli import main as commands
from calledind.cli.main import main
from calledind.keyring import Keyring
from calledind.model import Attempt, Call, CallRecord, Cause, EndedBy, Ending, Outcome, Reason, State
from tests.api.ledger import Ledger


def run(*arguments: str, given: bytes = b"", environment: Mapping[str, str | None] | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=given, env={"CALLEDIN_SOCKET": None, **(environment or {})})


def read(path: str | Path) -> str:
    return Path(path).read_text(encoding="utf-8")


class CommandCase(TestCase):
    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        self.socket = os.path.relpath(folder / "s")
        self.folder = folder
        self.ledger = Ledger()
        self.nodes: list[Mapping[str, object]] = []
        self.drained: list[bool] = []
        self.live = 0
        admin = Admin(
            reactor=reactor,
            store=self.ledger.as_store,
            keyring=Keyring(b"p" * 32),
            now=lambda: 1_700_000_000.0,
            status=lambda: {
                "version": "0.1.0",
                "simulator": True,
                "calls": {"queued": 1234},
                "trunks": [{"name": "one", "busy": 2, "up": True}],
            },
            extra={b"nodes": lambda: self.nodes},
            drain=self.drain,
        )
        port = listen(reactor, Path(self.socket), admin_site(admin, reactor=reactor))  # type: ignore[arg-type]
        self.addCleanup(port.stopListening)

    def drain(self, wanted: bool) -> Mapping[str, object]:
        self.drained.append(wanted)
        self.live = max(0, self.live - 1)
        return {"live": self.live, "queued": 0, "draining": wanted}

    def run_in_thread(self, *arguments: str, given: bytes = b"") -> Deferred[Result]:
        return deferToThread(run, "--socket", self.socket, *arguments, given=given)

    async def done(self, *arguments: str, given: bytes = b"", code: int = 0) -> str:
        """Run it and return what it printed; it must end with that code."""
        result = await self.run_in_thread(*arguments, given=given)
        self.assertEqual(result.exit_code, code, result.output)
        return result.output


class KeyTests(CommandCase):
    async def test_life_of_a_key(self) -> None:
        """A key is made, listed, disabled, enabled and credited."""
        key = json.loads(await self.done("keys", "add", "[red]Ann", "--credits", "5", "--json"))
        listed = await self.done("keys", "list")
        for word in (key["id"], "[red]Ann", "enabled", "5"):
            self.assertIn(word, listed)
        self.assertNotIn(key["api_key"], listed)
        self.assertIn("is disabled", await self.done("keys", "disable", key["id"]))
        self.assertIn("disabled", await self.done("keys", "list"))
        self.assertFalse(json.loads(await self.done("keys", "enable", key["id"], "--json"))["disabled"])
        self.assertEqual(json.loads(await self.done("credits", key["id"], "10", "--json"))["credits"], 15)
        self.assertEqual(json.loads(await self.done("credits", key["id"], "-15", "--json"))["credits"], 0)
        self.assertRegex(await self.done("credits", key["id"]), r"credits +0")
        self.assertIn("only 0 credits are left", await self.done("credits", key["id"], "-1", code=1))

    async def test_log_of_credits(self) -> None:
        """How a key's credits have changed is shown, the newest change first, with the operator's notes."""
        key = json.loads(await self.done("keys", "add", "Ann", "--json"))
        await self.done("credits", key["id"], "1500", "--note", "invoice [red]7")
        await self.done("credits", key["id"], "-200")
        heading, *lines = (await self.done("credits", key["id"], "--log")).splitlines()
        self.assertEqual(heading.split(), ["time", "amount", "reason", "reference", "balance"])
        self.assertRegex(lines[0], r"^2023-11-1\d \d\d:\d\d:\d\d +-200 +taken +1,300$")
        self.assertRegex(lines[1], r" 1,500 +added +invoice \[red\]7 +1,500$")
        shown = json.loads(await self.done("credits", key["id"], "--log", "--most", "1", "--json"))
        self.assertEqual([(entry["amount"], entry["balance"]) for entry in shown["entries"]], [(-200, 1300)])

    async def test_long_log_of_credits(self) -> None:
        """As much of the log is shown as is wanted, a page after the other."""
        key = json.loads(await self.done("keys", "add", "Ann", "--json"))
        for amount in range(1, 31):
            self.ledger.add_credits(key["id"], amount, 1_700_000_000.0)
        self.patch(commands, "PAGE", 7)
        for most, count in ((5, 5), (14, 14), (20, 20), (30, 30), (99, 30)):
            shown = json.loads(await self.done("credits", key["id"], "--log", "--most", str(most), "--json"))
            self.assertEqual([entry["amount"] for entry in shown["entries"]], list(range(30, 30 - count, -1)))

    async def test_identity_of_a_key(self) -> None:
        """The caller ids of a key and its attestation are set and shown."""
        key = json.loads(await self.done("keys", "add", "Ann", "--json"))
        self.assertIn("may use: any", await self.done("keys", "caller-ids", key["id"]))
        shown = await self.done("keys", "caller-ids", key["id"], "+12125550100", "2125550101")
        self.assertIn("may use: +12125550100, 2125550101", shown)
        shown = await self.done("keys", "caller-ids", key["id"], "--json")
        self.assertEqual(json.loads(shown)["caller_ids"], ["+12125550100", "2125550101"])
        self.assertIn("may use: any", await self.done("keys", "caller-ids", key["id"], "--any"))
        self.assertIn("either", await self.done("keys", "caller-ids", key["id"], "1", "--any", code=2))
        self.assertIn("not a caller id", await self.done("keys", "caller-ids", key["id"], "1-2", code=1))
        self.assertIn("attested: A", await self.done("keys", "attestation", key["id"], "a"))
        await self.done("keys", "caller-ids", key["id"], "+12125550100", "2125550101")
        self.assertIn("caller ids: 2, attested A", await self.done("keys", "list"))
        shown = await self.done("keys", "attestation", key["id"], "default", "--json")
        self.assertEqual(json.loads(shown)["attestation"], "")

    async def test_new_key_for_people(self) -> None:
        """The key and its secret are shown whole, with the warning that this is the only time."""
        shown = await self.done("keys", "add", "Ann")
        self.assertRegex(shown, r"ck_[\w-]{43}\b")
        self.assertRegex(shown, r"whsec_[\w+/]{43}=")
        self.assertIn("not shown again", shown)

    async def test_not_found(self) -> None:
        """What is not there ends with code 1 and words."""
        for arguments in (
            ("keys", "disable", "a/b"),
            ("credits", "nobody"),
            ("credits", "nobody", "--log"),
            ("show", "0" * 32),
        ):
            self.assertIn("there is no", await self.done(*arguments, code=1))


class DoNotCallTests(CommandCase):
    async def test_numbers(self) -> None:
        """Numbers are added, counted and removed."""
        self.assertIn("2 added, 0 were", await self.done("dnc", "add", "+12125550100", "1 2125550101"))
        self.assertIn("0 added, 1 were", await self.done("dnc", "add", "+12125550100"))
        self.assertEqual(await self.done("dnc", "count"), "2\n")
        self.assertIn("1 removed, 1 were not", await self.done("dnc", "remove", "+12125550100", "+12125550102"))
        self.assertEqual(json.loads(await self.done("dnc", "count", "--json")), {"count": 1})
        self.assertIn("ten digits", await self.done("dnc", "add", "1 212555", code=1))

    async def test_import(self) -> None:
        """All of a file longer than one slice is imported; wrong lines go to a file with their numbers and reasons."""
        file = self.folder / "list.csv"
        lines = [b"1,212%07d" % number for number in range(60_000)]
        lines[2], lines[59_000] = b"what,is this?", b"12"
        file.write_bytes(b"country_code,phone_number\n" + b"\n".join(lines))
        shown = json.loads(await self.done("dnc", "import", str(file), "--json", code=1))
        rejects = str(file) + ".rejected"
        self.assertEqual(
            shown, {"lines": 60_001, "added": 59_998, "already_there": 0, "rejected": 2, "rejects": rejects}
        )
        heading, *wrong = read(rejects).splitlines()
        self.assertEqual(heading, "line,why,text")
        self.assertTrue(wrong[0].startswith("4,") and wrong[0].endswith(',"what,is this?"'), wrong)
        self.assertTrue(wrong[1].startswith("59002,") and wrong[1].endswith(",12"), wrong)
        self.assertEqual(len(self.ledger.numbers), 59_998)

    async def test_good_import(self) -> None:
        """An import without wrong lines ends with 0 and leaves no file behind; - reads the input."""
        shown = await self.done("dnc", "import", "-", "--country-code", "1", given=b"212,5550100\n2125550101\n")
        self.assertRegex(shown, r"added +2")
        self.assertEqual(self.ledger.numbers, {("1", "2125550100"), ("1", "2125550101")})
        self.assertNotIn("stdin.rejected", os.listdir("."))

    async def test_rejects_that_cannot_be_written(self) -> None:
        """Where wrong lines can't be kept, one line says so."""
        shown = await self.done("dnc", "import", "-", "--rejects", "/nowhere/x", given=b"wrong\n", code=1)
        self.assertEqual(shown, "Error: Could not open file '/nowhere/x': No such file or directory\n")

    async def test_export(self) -> None:
        """The list is written to the output or to a file, whole or not at all."""
        self.ledger.numbers = {("1", f"212{number:07d}") for number in range(3000)}
        shown = await self.done("dnc", "export")
        self.assertEqual(len(shown.splitlines()), 3001)
        file = self.folder / "out.csv"
        await self.done("dnc", "export", str(file))
        self.assertEqual(file.read_text(), shown)
        self.ledger.breaks_after = 2500
        await self.done("dnc", "export", str(file), code=3)
        self.assertEqual(file.read_text(), shown)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)


class StatusTests(CommandCase):
    async def test_status(self) -> None:
        """Status is told for people and as JSON."""
        self.assertRegex(
            await self.done("status"), r"simulator +yes *\ncalls *\n +queued +1,234 *\ntrunks *\n  one +busy 2, up yes"
        )
        self.assertEqual(json.loads(await self.done("status", "--json"))["calls"], {"queued": 1234})

    async def test_call(self) -> None:
        """A call is told with its reason in words, and without what nobody knows of it."""
        call_id = "0" * 31 + "1"
        call = Call(call_id, "key_1", "2125550100", "1", "0000000000", "aa", 9.90175, None, "HUSH", 0.0)
        ending = Ending(Cause.FINAL_RESPONSE, False, EndedBy.CALLEE, 9.0, rang=True, sip_status=486, trunk="t")
        outcome = Outcome(False, Reason.BUSY, ending)
        self.ledger.calls[call_id] = CallRecord(call, State.DONE, Attempt(1, "t", "{}"), None, None, outcome)
        shown = await self.done("show", call_id)
        self.assertEqual(await self.done("call", call_id), shown)
        for words in (r"duration +9\.9 s", r"  reason +5 \(busy\)", r"  answered +no", r"  sip status +486"):
            self.assertRegex(shown, words)
        for words in ("q850", "callback", "answered at", "HUSH"):
            self.assertNotIn(words, shown)

    async def test_environment_and_config(self) -> None:
        """The socket may be named by CALLEDIN_SOCKET or found by the daemon's settings."""
        config = self.folder / "calledin.toml"
        config.write_text(f'simulator = true\n[admin]\nsocket = "{self.socket}"\n')
        for arguments, environment in (
            (("status",), {"CALLEDIN_SOCKET": self.socket}),
            (("--config", str(config), "status"), {}),
        ):
            result = await deferToThread(run, *arguments, environment=environment)
            self.assertEqual(result.exit_code, 0, result.output)


class NotReachableTests(SynchronousTestCase):
    def test_no_daemon(self) -> None:
        """Without a daemon the exit code is 3, and the line says what to do."""
        nowhere = self.mktemp()
        for arguments in (("--socket", nowhere, "status"), ("--socket", nowhere, "dnc", "export"), ("status",)):
            result = run(*arguments)
            self.assertEqual(result.exit_code, 3, result.output)
            self.assertIn("--socket", result.output)
            self.assertEqual(len(result.output.splitlines()), 1)

    def test_usage(self) -> None:
        """Wrong usage ends with 2."""
        for arguments in (
            ("nonsense",),
            ("keys", "add"),
            ("keys", "add", "a", "--credits", "-1"),
            ("credits", "a", "b"),
            ("credits", "a", "--note", "b"),
            ("credits", "a", "1", "--log"),
            ("credits", "a", "--log", "--most", "0"),
            ("dnc", "add"),
            ("dnc", "import", "/nowhere.csv"),
            ("dnc", "import", "-", "--country-code", "&x"),
            ("--config", "/nowhere.toml", "status"),
        ):
            self.assertEqual(run(*arguments).exit_code, 2, arguments)

    def test_wrong_settings(self) -> None:
        """What is wrong with the settings is told alone, without how the command is used."""
        shown = run("--config", "/nowhere.toml", "status").output
        self.assertIn("can't be read", shown)
        self.assertNotIn("Usage", shown)

    def test_help(self) -> None:
        """Every command explains itself."""
        for arguments in ((), ("keys",), ("dnc",), ("dnc", "import"), ("credits",), ("status",)):
            result = run(*arguments, "--help")
            self.assertEqual(result.exit_code, 0)
            self.assertIn("Usage:", result.output)


class NodeTests(CommandCase):
    async def test_nodes(self) -> None:
        """The nodes are a table: who lives, who drains, which one was asked."""
        figures = {"live": 3, "queued": 1, "version": "0.1.0"}
        self.nodes = [
            {"name": "east", "state": "alive", "here": True, "draining": True, **figures},
            {"name": "west", "state": "silent for 7 s", "here": False, "draining": True, **figures},
        ]
        lines = [line.split() for line in (await self.done("nodes")).splitlines()]
        self.assertIn(["east", "draining", "3", "1", "0.1.0", "this", "one"], lines)
        self.assertIn(["west", "silent", "for", "7", "s", "3", "1", "0.1.0"], lines)
        self.assertEqual(json.loads(await self.done("nodes", "--json")), self.nodes)

    async def test_drain(self) -> None:
        """Draining waits for the running calls, unless it is told not to, and is taken back."""
        self.live = 5
        self.assertIn("it is drained", await self.done("drain", "--no-wait"))
        self.assertEqual((self.drained, self.live), ([True], 4))
        self.live = 1
        self.assertIn("it is drained", await self.done("drain"))
        self.assertIn("it takes work again", await self.done("drain", "--resume"))
        self.assertEqual(self.drained, [True, True, False])

    async def test_drain_waits(self) -> None:
        """Who waits sees how many calls are left."""
        self.patch(commands, "DRAIN_LOOK", 0.0)
        self.live = 3
        printed = await self.done("drain")
        self.assertIn("2 calls are running", printed)
        self.assertEqual(self.drained, [True, True, True])
