"""The parts of commands that need no daemon: tests/interop/test_commands.py has the rest."""

from __future__ import annotations

import stat
import time
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from calledind.cli.calls import in_words, read_moment, read_number, table_of
from calledind.cli.check import certificates, ports, secrets, store
from calledind.cli.finding import FAIL, OK, WARN, Subject
from calledind.cli.listen import there
from calledind.cli.main import main
from calledind.cli.shell import Prompt
from calledind.cli.trunks import to_toml
from calledind.settings.reading import load


class WordTests(SynchronousTestCase):
    def test_numbers(self) -> None:
        """Numbers are read as people write them."""
        for text in ("+12125550100", "1 2125550100", "(212) 555-0100", "212.555.0100"):
            self.assertEqual(read_number(text, "1"), ("1", "2125550100"))
        self.assertEqual(read_number("+442079460000", "1"), ("44", "2079460000"))
        for text in ("", "12", "+1212555010x"):
            self.assertRaises(click.UsageError, read_number, text, "1")

    def test_moments(self) -> None:
        """A time is a date, a time of today, or so long ago."""
        context, parameter = click.Context(main), click.Option(["--since"])

        def read(text: str) -> float:
            moment = read_moment(context, parameter, text)
            assert moment is not None
            return moment

        self.assertTrue(7195 < time.time() - read("2h") < 7205)
        self.assertEqual(time.localtime(read("2026-11-29 14:05"))[:5], (2026, 11, 29, 14, 5))
        self.assertEqual(time.localtime(read("9:05"))[3:5], (9, 5))
        for text in ("soon", "25:00", "2026-13-01", "9999999999d"):
            self.assertRaises(click.BadParameter, read, text)

    def test_due(self) -> None:
        """When something is due is said roughly."""
        self.assertEqual(
            [in_words(each) for each in (-1, 5, 300, 7200, 200_000)], ["now", "in 5 s", "in 5 min", "in 2 h", "in 2 d"]
        )

    def test_calls_fit_into_a_terminal(self) -> None:
        """A list of calls is at most 80 columns wide."""
        call: dict[str, Any] = {
            "id": "f" * 32, "key_id": "key_1", "country_code": "999", "phone_number": "9" * 10, "accepted_at": 0.0,
            "state": "done", "attempt": None,
            "outcome": {"answered": False, "reason": 3, "ended_at": 9.0, "trunk": "t"},
        }  # fmt: skip
        answered = {
            **call,
            "outcome": {"answered": True, "reason": None, "answered_at": 1.0, "ended_at": 181.0, "trunk": ""},
        }
        for row in (call, answered):
            table = table_of([row], 80)
            width = sum(max(len(str(cell)) for cell in (column.header, *column.cells)) + 1 for column in table.columns)
            self.assertLessEqual(width - 1, 80)

    def test_toml(self) -> None:
        """Whatever is written as TOML is read as the same."""
        table = {"a": 'q"\\é\n', "b": True, "c": 5, "d": 2.5, "e": ["1", "2"], "f": {"503": "next"}, "g": Path("/x y")}
        text = "".join(f"{key} = {to_toml(value)}\n" for key, value in table.items())
        self.assertEqual(tomllib.loads(text), {**table, "g": "/x y"})

    def test_where_callbacks_are_passed_on_to(self) -> None:
        """The other server's path stands in place of ours where it has one; its query comes first."""
        for url, target, expected in (
            ("http://x", "/callback?a=b", "/callback?a=b"),
            ("http://x/", "/callback", "/callback"),
            ("http://x/y?k=1", "/callback?a=b", "/y?k=1&a=b"),
            ("http://x/y", "/callback?a=b", "/y?a=b"),
        ):
            self.assertEqual(there(urlsplit(url), target), expected)


class PromptTests(SynchronousTestCase):
    def test_completion(self) -> None:
        """Commands, their subcommands and options are completed, and what makes no sense at the prompt is not."""
        prompt = Prompt(main, ["--socket", self.mktemp()])
        self.assertEqual(prompt.matches([], "ca"), ["call ", "callbacks ", "calls "])
        self.assertEqual(prompt.matches([], "ex"), ["exit "])
        self.assertNotIn("demo ", prompt.matches([], ""))
        self.assertEqual(prompt.matches(["trunks"], ""), ["add ", "list ", "test "])
        self.assertEqual(prompt.matches(["help"], "dra"), ["drain "])
        self.assertEqual(prompt.matches(["calls"], "--ans"), ["--answered "])
        self.assertEqual(prompt.matches(["show"], ""), [])

    def test_lines(self) -> None:
        """A line that goes wrong leaves the prompt where it was, and only leaving leaves it."""
        prompt = Prompt(main, ["--socket", self.mktemp()])
        with CliRunner().isolation() as (_, _, output):
            for line in ("", "# nothing", "nonsense", 'show "', "calledin status", "help status", "status --help"):
                self.assertTrue(prompt.do(line))
            said = output.getvalue().decode()
        for words in (
            "No such command 'nonsense'",
            "No closing quotation",
            "no daemon answers there",
            "Usage: calledin status",
        ):
            self.assertIn(words, said)
        self.assertFalse(prompt.do("exit"))


class CheckTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.file = self.folder / "calledin.toml"

    def subject(self, text: str, *, live: bool = False) -> Subject:
        self.file.write_text(f'data = "{self.folder}/data"\n{text}')
        return Subject(load(self.file), self.file, None, None, live)

    def test_secrets(self) -> None:
        """What others may read is told, with what to do."""
        subject = self.subject('[[trunks]]\nname = "a"\nhost = "x.example"\nusername = "u"\npassword = "p"\n')
        self.file.chmod(0o640)
        (self.folder / "data").mkdir(mode=0o755)
        (self.folder / "data").chmod(0o755)
        found = list(secrets(subject))
        self.assertEqual([each.state for each in found], [FAIL])
        self.assertIn("chmod 700", found[0].advice)
        (self.folder / "data").chmod(stat.S_IRWXU)
        self.file.chmod(0o644)
        self.assertIn("chmod 600", next(secrets(subject)).advice)
        self.file.chmod(0o600)
        self.assertEqual([each.state for each in secrets(subject)], [OK])

    def test_store(self) -> None:
        """A store that is not there will be made; one that is damaged is told."""
        subject = self.subject("simulator = true\n")
        self.assertEqual([each.state for each in store(subject)], [OK])
        path = self.folder / "data" / "store" / "calledin.sqlite3"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"nonsense" * 1000)
        found = list(store(subject))
        self.assertEqual([each.state for each in found], [FAIL])
        self.assertIn("restore", found[0].advice)

    def test_ports(self) -> None:
        """A port of another address than this machine's is told."""
        found = list(ports(self.subject('simulator = true\n[http]\nlisten = ["192.0.2.1:8080"]\n')))
        self.assertEqual([each.state for each in found], [FAIL])
        self.assertIn("no such address", found[0].words)

    def test_certificates(self) -> None:
        """A certificate that can't be read fails; a self-signed one is pointed out."""
        found = list(certificates(self.subject('simulator = true\n[http]\ntls_listen = ["127.0.0.1:8443"]\n')))
        self.assertEqual([each.state for each in found], [WARN])
        text = f'simulator = true\n[http]\ntls_listen = ["127.0.0.1:8443"]\ncertificate = "{self.file}"\n'
        text += 'private_key = "/k"\n'
        self.assertEqual([each.state for each in certificates(self.subject(text))], [FAIL])
