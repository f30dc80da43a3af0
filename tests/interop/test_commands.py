"""What an operator does by `calledin` to calls that are up: each command as a program, against a running daemon."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections import Counter
from pathlib import Path
from typing import Any

from calledind.cli.listen import sign
from tests.interop.case import SHORT, SPEECH, InteropCase, settings, trunk
from tests.interop.harness import Daemon, free_udp_port, need, wait_for

ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\(.|[=>])")
"What a terminal does not show."
CALLEDIN = str(Path(sys.executable).with_name("calledin"))


class CommandsCase(InteropCase):
    daemon: Daemon

    def setUp(self) -> None:
        super().setUp()
        self.daemon = self.run_daemon(self.settings())
        self.key_id = self.daemon.admin("GET", "/keys")["keys"][0]["id"]

    def settings(self) -> str:
        return "simulator = true\n" + settings()

    def command(self, *arguments: str) -> list[str]:
        return [CALLEDIN, "--socket", str(self.daemon.data / "admin.sock"), *arguments]

    def run_command(self, *arguments: str, status: int = 0) -> str:
        """Run a command that must end with this code; return what it said."""
        result = self.daemon.calledin(*arguments)
        said = result.stdout + result.stderr
        self.assertEqual(result.returncode, status, said)
        self.assertNotIn("Traceback", said)
        return said

    def read(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.run_command(*arguments, "--json", status=status))

    def make(self, number: str, *arguments: str) -> str:
        """Make a call with the short MP3; return its id."""
        return str(self.read("call", f"+1{number}", str(SHORT), *arguments)["call_id"])

    def look(self, call_id: str) -> Any:
        return self.daemon.admin("GET", f"/calls/{call_id}")

    def state(self, call_id: str) -> str:
        return str(self.look(call_id)["state"])

    def ended(self, call_id: str) -> Any:
        """Wait for a call's outcome."""
        wait_for("the outcome", lambda: self.look(call_id)["outcome"] is not None)
        return self.look(call_id)["outcome"]

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command that goes on; it is killed with the test."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            self.command(*arguments), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )
        self.world.callback(process.communicate)
        self.world.callback(process.kill)
        return process


class Screen:
    """A program at a terminal of 200 columns and 50 lines."""

    def __init__(self, command: list[str], home: Path) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (50, 200))
        environment = {**os.environ, "TERM": "xterm", "HOME": str(home)}
        self._process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self._shown = ""

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def press(self, keys: str) -> None:
        """What was shown before is forgotten."""
        self._shown = ""
        os.write(self._ours, keys.encode())

    def wait(self, pattern: str, seconds: float = 20.0) -> None:
        """Read until something like this was shown; colours and places on the screen are left out.

        What changes later is written over a part of what was there, so it is to be looked for by itself.
        """
        until = time.monotonic() + seconds
        while not re.search(pattern, plain := ESCAPES.sub("", self._shown), re.DOTALL):
            if not select.select([self._ours], [], [], max(0.0, until - time.monotonic()))[0]:
                raise AssertionError(f"{pattern} was not shown: {plain}")
            self._shown += os.read(self._ours, 65536).decode(errors="replace")


class CallTests(CommandsCase):
    def test_call_is_followed(self) -> None:
        """A file of this machine is played, each state is shown as it comes, and the exit code tells the outcome."""
        shown = self.run_command("call", "+12125550100", str(SHORT), "--follow")
        for words in ("ringing by simulator", "answered: the audio is played", "answered, listened for 2", "SIP 200"):
            self.assertIn(words, shown)
        shown = self.run_command("call", "212-555-0101", str(SHORT), "--follow", "--key", self.key_id, status=4)
        self.assertIn("busy, SIP 486", shown)
        lines = self.run_command("call", "2125550102", f"{self.web.url}/short.mp3", "--follow", "--json", status=4)
        last = json.loads(lines.splitlines()[-1])
        self.assertEqual(last["call"]["outcome"]["answered"], False)
        self.assertIn("code 6", self.run_command("call", "2125550100", str(SHORT), status=1))
        self.assertIn("can't be read", self.run_command("call", "2125550199", "nothing.mp3", status=1))
        self.assertIn("no MPEG audio", self.run_command("call", "2125550198", __file__, status=1))
        self.run_command("call", "5", str(SHORT), status=2)
        self.assertEqual(self.read("call", "2125550101", str(SHORT), status=1)["code"], 6)

    def test_whose_call_it_is(self) -> None:
        """Where there are several keys, one must be named, and its credits are spent."""
        other = self.read("keys", "add", "other", "--credits", "1")["id"]
        self.assertIn("--key", self.run_command("call", "2125550101", str(SHORT), status=2))
        call_id = self.make("2125550100", "--key", other, "--callback-url", f"{self.web.url}/callback", "--secret", "s")
        told = self.web.next_callback()
        self.assertEqual((told.headers["webhook-id"], told.query["secret"]), (call_id, "s"))
        self.assertEqual(self.read("credits", other)["charged"], 1)
        self.assertIn("code 2", self.run_command("call", "2125550101", str(SHORT), "--key", other, status=1))

    def test_call_is_hung_up(self) -> None:
        """A call that rings is ended by an operator, once."""
        call_id = self.make("2125550103")
        wait_for("it rings", lambda: self.state(call_id) == "dialing")
        self.run_command("hangup", call_id)
        outcome = self.ended(call_id)
        self.assertEqual((outcome["cause"], outcome["ended_by"]), ("hung up", "operator"))
        self.run_command("hangup", call_id, status=1)
        self.run_command("hangup", "0" * 32, status=1)

    def test_list_of_calls(self) -> None:
        """Calls are listed, the newest first, and found by what is known of them; --watch goes on."""
        answered = self.make("2125550100")
        watching = self.begin("calls", "--watch", "--json")
        busy = self.make("2125550101")
        self.ended(busy)
        self.ended(answered)

        def found(*arguments: str) -> list[str]:
            return [call["id"] for call in self.read("calls", *arguments)["calls"]]

        self.assertEqual(found(), [busy, answered])
        self.assertEqual(found("--most", "1"), [busy])
        self.assertEqual(found("--answered"), [answered])
        self.assertEqual(found("--reason", "busy"), [busy])
        self.assertEqual(found("--number", "0100"), [answered])
        self.assertEqual(found("--key", self.key_id), [busy, answered])
        self.assertEqual(found("--since", "1h"), [busy, answered])
        self.assertEqual(found("--until", "1h"), [])
        self.assertEqual(found("--live"), [])
        table = self.run_command("calls")
        for words in ("+12125550100", "answered", "busy", busy, answered):
            self.assertIn(words, table)
        assert watching.stdout is not None
        seen = Counter[str]()
        while seen[busy] < 1 or seen[answered] < 2:
            seen[json.loads(watching.stdout.readline())["id"]] += 1
        watching.send_signal(signal.SIGINT)
        self.assertEqual(watching.wait(10), 0)


class LookTests(CommandsCase):
    def whole_call(self) -> str:
        """Make a call that is answered, and wait for the last of its messages; return its id."""
        call_id = self.make("2125550100")
        self.ended(call_id)
        wait_for(
            "the BYE is confirmed", lambda: self.daemon.admin("GET", f"/trace/{call_id}")[-1]["text"][:7] == "SIP/2.0"
        )
        return call_id

    def test_trace(self) -> None:
        """A call's messages are drawn as a ladder, and tshark reads the file that is made of them."""
        call_id = self.whole_call()
        ladder = self.run_command("trace", call_id)
        for words in ("calledin", "INVITE", "180 Ringing", "200 OK", "ACK", "BYE"):
            self.assertIn(words, ladder)
        self.assertTrue(all(len(line) <= 80 for line in ladder.splitlines()), ladder)
        self.assertIn("CSeq: 1 INVITE", self.run_command("trace", call_id, "--text"))
        messages = self.read("trace", call_id)
        self.run_command("trace", "0" * 32, status=1)
        file = self.folder / "call.pcap"
        self.run_command("trace", call_id, "--pcap", str(file))
        rows = self.tshark(file, "sip.CSeq.method", "sip.Status-Code", "ip.src", "udp.srcport", "frame.time_epoch")
        self.assertEqual(len(rows), len(messages))
        self.assertEqual([rows[0][0], rows[0][2]], ["INVITE", "127.0.0.1"])
        port = int(messages[0]["target"].rpartition(":")[2])
        self.assertEqual({int(row[3]) == port for row in rows if row[1] == "180"}, {True})
        for row, message in zip(rows, messages, strict=True):
            self.assertAlmostEqual(float(row[4]), message["time"], 3)
        wrong = "_ws.malformed or ip.checksum.status == 0 or udp.checksum.status == 0"
        self.assertEqual(self.tshark(file, "frame.number", filter=wrong), [])

    def test_trace_in_sngrep(self) -> None:
        """sngrep, at a terminal, reads the file: it lists the call, and shows its flow from the INVITE to the end."""
        program, file, call_id = need("sngrep"), self.folder / "call.pcap", self.whole_call()
        invite = self.read("trace", call_id)[0]["text"]
        self.run_command("trace", call_id, "--pcap", str(file))
        with Screen([program, "-I", str(file)], self.folder) as screen:
            to = invite.split("To: <sip:")[1].partition("@")[0]
            screen.wait(rf"1 +INVITE +\S+ +{re.escape(to)}@")
            screen.press("\r")
            screen.wait(r"INVITE.*180 Ringing.*200 OK.*ACK.*BYE.*200 OK")

    def tshark(self, file: Path, *fields: str, filter: str = "") -> list[list[str]]:
        """Read fields of each packet; IP's and UDP's checksums are looked at."""
        options = ["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-Y", filter, "-T", "fields"]
        options += [part for field in fields for part in ("-e", field)]
        result = subprocess.run(
            [need("tshark"), "-r", str(file), *options], capture_output=True, text=True, check=True, timeout=60
        )
        return [line.split("\t") for line in result.stdout.splitlines()]

    def test_check(self) -> None:
        """All is well; a secret that others may read is not, and the exit code says so."""
        config = str(self.daemon.config)
        found = {each["what"]: each["state"] for each in self.read("check", "--config", config, "--live")}
        self.assertLessEqual(
            {"settings", "daemon", "secrets", "store", "disk", "ports", "trunk simulator"}, found.keys()
        )
        self.assertNotIn("fail", found.values())
        (self.daemon.data / "pepper").chmod(0o644)
        self.assertIn("chmod 600", self.run_command("check", "--config", config, status=1))
        self.daemon.config.write_text("simulator = 1\n")
        self.assertIn("simulator: 1 must be true or false", self.run_command("check", "--config", config, status=1))

    def test_completion(self) -> None:
        """A shell is told how to complete, and ids come from the daemon."""
        for shell in ("bash", "zsh", "fish"):
            self.assertIn("_CALLEDIN_COMPLETE", self.run_command("completion", shell))
        call_id = self.make("2125550101")
        for words, expected in (("calledin credits", self.key_id), ("calledin show", call_id)):
            completed = subprocess.run(
                [CALLEDIN],
                env={
                    **os.environ,
                    "_CALLEDIN_COMPLETE": "bash_complete",
                    "COMP_WORDS": words.replace("calledin", f"calledin --socket {self.daemon.data / 'admin.sock'}")
                    + " ",
                    "COMP_CWORD": "4",
                },
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            self.assertIn(expected, completed.stdout, completed.stderr)

    def test_prompt(self) -> None:
        """Without a command, at a terminal, it is a prompt with the same commands."""
        ours, theirs = pty.openpty()
        environment = {**os.environ, "XDG_STATE_HOME": str(self.folder), "TERM": "dumb", "COLUMNS": "80"}
        process = subprocess.Popen(self.command(), stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        os.write(ours, b"keys list\nhelp calls\nshow x\nstat\tbus\nexit\n")
        said = b""
        with contextlib.suppress(OSError):  # the other side is closed
            while piece := os.read(ours, 65536):
                said += piece
        self.assertEqual(process.wait(30), 0, said)
        os.close(ours)
        for words in (self.key_id, "calledin>", "--watch", "is not the id of a call", "status bus"):
            self.assertIn(words, said.decode())
        self.assertIn("help calls", (self.folder / "calledin" / "history").read_text())


class TrunkTests(CommandsCase):
    def settings(self) -> str:
        return settings(trunk(free_udp_port(), name="dead"))

    def test_trunks(self) -> None:
        """Trunks are listed and tested, and one that is added to the settings is in force at once."""
        shown = self.run_command("trunks", "list")
        self.assertRegex(shown, r"dead +127\.0\.0\.1:\d+ +udp +well +0 of 100 +100")
        config, text = str(self.daemon.config), self.daemon.config.read_text()
        added = ("trunks", "add", "more", f"127.0.0.1:{free_udp_port()}", "--config", config, "--prefix", "1646")
        self.assertIn("+[[trunks]]", self.run_command(*added, "--dry-run"))
        self.assertEqual(self.daemon.config.read_text(), text)
        self.assertIn("did you mean", self.run_command(*added, "--set", "prtp=1", status=2))
        self.assertIn("and the daemon has it", self.run_command(*added, "--set", "user_phone=true"))
        self.assertEqual([each["name"] for each in self.read("trunks", "list")["trunks"]], ["dead", "more"])
        self.assertIn('prefixes = ["1646"]\nuser_phone = true\n', self.daemon.config.read_text())
        self.assertIn("is used twice", self.run_command(*added, status=2))
        tested = self.read("trunks", "test", "more", status=1)["trunks"]
        self.assertEqual((tested[0]["name"], tested[0]["status"]), ("more", None))
        self.run_command("trunks", "test", "nobody", status=1)


class CallbackTests(CommandsCase):
    def test_callbacks(self) -> None:
        """What waits is listed with its last answer, and delivered at once when told so; so is what was delivered."""
        self.web.refuse.append(500)
        call_id = self.make("2125550101", "--callback-url", f"{self.web.url}/callback?a=b")
        self.assertEqual(self.web.next_callback().headers["webhook-id"], call_id)
        wait_for("its try is kept", lambda: self.daemon.admin("GET", "/callbacks")["callbacks"][0]["tries"] == 1)
        self.assertIn("500", self.run_command("callbacks"))
        waiting = self.read("callbacks")["callbacks"]
        self.assertEqual([(each["call_id"], each["tries"]) for each in waiting], [(call_id, 1)])
        for _ in range(2):
            self.run_command("callbacks", "--redeliver", call_id)
            self.assertEqual(self.web.next_callback(3).headers["webhook-id"], call_id)
            wait_for("delivered", lambda: self.state(call_id) == "delivered")
        self.assertIn("none waits", self.run_command("callbacks"))
        silent = self.make("2125550102")
        self.ended(silent)
        self.assertIn("no callback_url", self.run_command("callbacks", "--redeliver", silent, status=1))

    def test_listen(self) -> None:
        """A callback is shown, its signature holds, and it is passed on with one that holds there; its answer too."""
        self.web.refuse.append(410)
        listening = self.begin(
            "listen", "--port", "0", "--most", "1", "--json", "--forward-to", f"{self.web.url}/callback/here?c=d"
        )
        assert listening.stdout is not None
        url = json.loads(listening.stdout.readline())["callback_url"]
        call_id = self.make("2125550101", "--callback-url", f"{url}?a=b", "--secret", "hush & more")
        told = self.web.next_callback()
        self.assertTrue(told.target.startswith("/callback/here?c=d&a=b&"), told.target)
        secret = self.daemon.admin("GET", f"/keys/{self.key_id}/webhook-secret")["webhook_secret"]
        expected = sign(secret, call_id, told.headers["webhook-timestamp"], told.target)
        self.assertEqual((told.headers["webhook-id"], told.headers["webhook-signature"]), (call_id, expected))
        shown = json.loads(listening.stdout.readline())
        self.assertEqual((shown["signature_holds"], shown["status"]), (True, 410))
        self.assertEqual(shown["parameters"]["reason"], "5")
        self.assertEqual(listening.wait(10), 0)
        wait_for("given up", lambda: self.state(call_id) == "exhausted")


class BulkTests(CommandsCase):
    def results(self) -> list[dict[str, str]]:
        with (self.folder / "numbers.csv.results.csv").open() as file:
            return list(csv.DictReader(file))

    def test_bulk(self) -> None:
        """Each line is called once, though the command is killed and the daemon as well; the results have each."""
        file = self.folder / "numbers.csv"
        numbers = [f"212555{last:04}" for last in range(2000, 2012)]
        file.write_text("phone_number,secret\n" + "".join(f"{number},s\n" for number in numbers) + "12,x\n")
        command = ("call", "--csv", str(file), "--mp3", str(SHORT), "--rate", "20/s")
        journal = self.folder / "numbers.csv.journal"
        first = self.begin(*command)
        wait_for("some are accepted", lambda: journal.exists() and journal.read_text().count('"code"') >= 4)
        first.kill()
        first.wait()
        # As if it had been killed between the question and the answer.
        with journal.open("a") as kept:
            kept.write('{"line": 13, "id"')
        second = self.begin(*command, "--no-wait")
        wait_for("more are accepted", lambda: journal.read_text().count('"code"') >= 7 or second.poll() is not None)
        self.daemon.kill()
        self.daemon.start()
        second.wait(60)
        said = self.read(*command, status=1)
        self.assertEqual((said["lines"], said["wrong"]), (13, 1))
        calls = self.read("calls", "--most", "100")["calls"]
        self.assertEqual(sorted(call["phone_number"] for call in calls), numbers)
        rows = self.results()
        self.assertEqual([row["phone_number"] for row in rows], [*numbers, "12"])
        self.assertEqual({row["call_id"] for row in rows[:-1]}, {call["id"] for call in calls})
        self.assertNotIn("running", [row["result"] for row in rows])
        self.assertIn("another run", self.run_command(*command[:-1], "20/s", "--mp3", str(SPEECH), status=2))

    def test_pause_and_stop(self) -> None:
        """SIGUSR1 pauses and goes on; Ctrl-C stops with what was done kept; a key without credits stops it as well."""
        file = self.folder / "numbers.csv"
        file.write_text("phone_number\n" + "".join(f"212555{last:04}\n" for last in range(3000, 3100)))
        journal = self.folder / "numbers.csv.journal"
        command = ("call", "--csv", str(file), "--mp3", str(SHORT), "--rate", "30/s", "--no-wait")
        running = self.begin(*command)

        def asked() -> int:
            return journal.read_text().count('"id"') if journal.exists() else 0

        wait_for("some are asked", lambda: asked() >= 3)
        running.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        paused = asked()
        time.sleep(0.5)
        self.assertEqual(asked(), paused)
        running.send_signal(signal.SIGUSR1)
        wait_for("it goes on", lambda: asked() > paused + 2)
        running.send_signal(signal.SIGINT)
        self.assertEqual(running.wait(20), 130)
        self.assertEqual(len(self.results()), 100)
        left = self.read("credits", self.key_id)["credits"]
        self.read("credits", self.key_id, str(2 - left))
        said = self.read(*command, status=1)
        self.assertIn("no call credits left", said["stopped"])
        self.assertGreater(said["not called"], 0)


class NoDaemonTests(InteropCase):
    def test_no_daemon(self) -> None:
        """Each command that asks a daemon says with one line that there is none, and ends with code 3."""
        nowhere = str(self.folder / "nowhere")
        for arguments in (
            ["calls"],
            ["call", "2125550100", str(SHORT)],
            ["show", "0" * 32],
            ["trace", "0" * 32],
            ["hangup", "0" * 32],
            ["callbacks"],
            ["listen"],
            ["trunks", "list"],
            ["trunks", "test"],
        ):
            result = subprocess.run(
                [CALLEDIN, "--socket", nowhere, *arguments], capture_output=True, text=True, check=False, timeout=30
            )
            self.assertEqual(result.returncode, 3, (arguments, result.stderr))
            self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
            self.assertIn("no daemon answers there", result.stderr)
