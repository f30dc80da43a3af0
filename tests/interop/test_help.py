"""The guides of /help: each command in them runs, each settings fragment loads, each program is one.

A fenced block says what becomes of it by the words behind its fence:

    sh                    run by bash against a daemon on the built-in carrier; each line must end with 0
    sh elsewhere          for another machine, a carrier or root: bash must be able to read it
    toml                  loaded as settings, with a trunk where it has none
    php, python, javascript     run as a program of its own
    others                none that are known

The words that stand for the reader's own (YOUR_API_KEY, KEY_ID, CALL_ID, the addresses) are replaced by what is there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from calledind.api.help import GUIDES, source
from calledind.settings.reading import structure
from tests.interop.case import InteropCase
from tests.interop.harness import free_ports, need

FENCE = re.compile(r"^```(.*?)\n(.*?)^```$", re.M | re.S)
PROGRAMS = {"php": ("php",), "python": (sys.executable,), "javascript": ("node",)}
SUFFIXES = {"php": ".php", "python": ".py", "javascript": ".js"}


@dataclass(frozen=True)
class Block:
    guide: str
    kind: str
    text: str


def blocks(guide: str) -> Iterator[Block]:
    for kind, text in FENCE.findall(source(guide)):
        yield Block(guide, kind, text)


class HelpTests(InteropCase):
    def begin(self) -> None:
        """A daemon on the built-in carrier, a key, and a call that has ended."""
        page_port, rtp = free_ports(), free_ports(200)
        self.daemon = self.run_daemon(
            f"""simulator = true
[sip]
bind = ["127.0.0.1:0"]
[rtp]
bind = "127.0.0.1"
ports = [{rtp}, {rtp + 199}]
[audio]
allow_networks = ["127.0.0.0/8"]
allow_ports = []
[page]
listen = ["127.0.0.1:{page_port}"]
"""
        )
        call = self.call(self.daemon, phone_number="2125550150").headers["webhook-id"]
        [key] = self.daemon.admin("GET", "/keys")["keys"]
        self.words = {
            "http://127.0.0.1:8080": f"http://127.0.0.1:{self.daemon.port}",
            "http://127.0.0.1:8081": f"http://127.0.0.1:{page_port}",
            "https://example.com/hello.mp3": f"{self.web.url}/short.mp3",
            "https://example.com/calls/ended": f"{self.web.url}/callback",
            "YOUR_API_KEY": self.key,
            "KEY_ID": str(key["id"]),
            "CALL_ID": call,
        }
        self.work = self.folder / "work"
        self.work.mkdir()

    def replace(self, text: str) -> str:
        for word, own in self.words.items():
            text = text.replace(word, own)
        return text

    def run_program(self, block: Block, *command: str, given: str | None = None) -> str:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CALLEDIN_SOCKET": str(self.daemon.data / "admin.sock"),
        }
        ended = subprocess.run(
            command,
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=self.work,
            timeout=60,
            check=False,
        )
        where = f"{block.guide}: {block.text}\n{ended.stdout}"
        self.assertEqual(ended.returncode, 0, where)
        return ended.stdout

    def test_commands(self) -> None:
        """Each command of a guide ends with 0."""
        self.begin()
        need("curl")
        for guide in GUIDES:
            for block in blocks(guide):
                if block.kind == "sh":
                    # With two keys calledin would have to be told whose call it is.
                    text = self.replace(block.text)
                    said = self.run_program(block, "bash", "-eu", "-o", "pipefail", "-c", text)
                    if "/api/playback/" in text:
                        self.assertEqual(said, "0", block)
                    if "keys add" in text:
                        self.forget_key()

    def forget_key(self) -> None:
        """Disable the key that a guide made, so that the first one is the only one again."""
        *_, made = self.daemon.admin("GET", "/keys")["keys"]
        self.daemon.calledin("keys", "disable", str(made["id"]))

    def test_programs(self) -> None:
        """Each program runs, and the ones that call are accepted."""
        self.begin()
        for guide in GUIDES:
            for index, block in enumerate(blocks(guide)):
                if block.kind not in PROGRAMS:
                    continue
                command = PROGRAMS[block.kind]
                need(command[0])
                path = self.work / f"{guide}-{index}{SUFFIXES[block.kind]}"
                path.write_text(self.replace(block.text))
                said = self.run_program(block, *command, str(path))
                if "api_key" in block.text:
                    self.assertTrue(said.startswith(("accepted", "0 accepted")), said)

    def test_signatures(self) -> None:
        """Each language's function takes a real callback for good, and none whose query or time was changed."""
        self.begin()
        secret = self.daemon.admin("POST", "/keys", {"name": "signer", "credits": 1})
        self.key = secret["api_key"]
        told = self.call(self.daemon, phone_number="2125550151")
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        headers = {name: told.headers[name] for name in names}
        old = {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) - 301)}
        questions = ((headers, told.target, "good"), (headers, told.target + "x", "bad"), (old, told.target, "bad"))
        for block in blocks("callbacks"):
            if block.kind not in PROGRAMS:
                continue
            for values, target, verdict in questions:
                path = self.work / f"signature{SUFFIXES[block.kind]}"
                path.write_text(block.text + question(block.kind, values, target, secret["webhook_secret"]))
                self.assertEqual(self.run_program(block, *PROGRAMS[block.kind], str(path)).strip(), verdict, block.kind)


def question(kind: str, headers: dict[str, str], target: str, secret: str) -> str:
    """Return lines that have a guide's function print "good" or "bad"."""
    if kind == "php":
        array = ", ".join(f"{name!r} => {value!r}" for name, value in headers.items())
        return f"\necho is_good([{array}], {target!r}, {secret!r}) ? 'good' : 'bad';\n"
    if kind == "python":
        return f"\nprint('good' if is_good({headers!r}, {target!r}, {secret!r}) else 'bad')\n"
    return f"\nconsole.log(isGood({headers!r}, {target!r}, {secret!r}) ? 'good' : 'bad');\n"


class FormTests(InteropCase):
    def test_kinds(self) -> None:
        """Every block is of a kind that is tried."""
        kinds = {block.kind for guide in GUIDES for block in blocks(guide)}
        self.assertEqual(kinds, {"sh", "sh elsewhere", "toml", *PROGRAMS})

    def test_elsewhere(self) -> None:
        """What is for another machine is at least read by the shell."""
        for guide in GUIDES:
            for block in blocks(guide):
                if block.kind == "sh elsewhere":
                    checked = subprocess.run(
                        ["bash", "-n"], input=block.text, text=True, capture_output=True, check=False
                    )
                    self.assertEqual((checked.returncode, checked.stderr), (0, ""), block)

    def test_settings(self) -> None:
        """Each fragment of a settings file loads, alone with a trunk."""
        for guide in GUIDES:
            for block in blocks(guide):
                if block.kind == "toml":
                    table = tomllib.loads(block.text)
                    table.setdefault("trunks", [{"name": "a", "host": "a.example"}])
                    structure(table, environment={})
