"""The `calledin` command against a running daemon: what an operator changes holds for the next request."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import Daemon, free_udp_port, wait_for


class CommandTests(InteropCase):
    """The trunk's port is closed, so that an accepted call ends at once and its credit comes back."""

    daemon: Daemon

    def setUp(self) -> None:
        super().setUp()
        self.daemon = self.run_daemon(settings(trunk(free_udp_port())))
        self._numbers = iter(range(2125550100, 2125550200))

    def run_command(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        result = self.daemon.calledin(*arguments)
        self.assertEqual(result.returncode, status, result.stdout + result.stderr)
        self.assertNotIn("Traceback", result.stderr)
        return result

    def read(self, *arguments: str, status: int = 0) -> Any:
        """Run a command for its JSON."""
        return json.loads(self.run_command(*arguments, "--json", status=status).stdout)

    def code(self, api_key: str, number: str = "") -> str:
        """The code of a request, to a fresh number where none is given."""
        answer = self.daemon.playback(
            api_key=api_key,
            phone_number=number or str(next(self._numbers)),
            country_code="1",
            mp3=f"{self.web.url}/short.mp3",
        )
        return answer.body

    def idle(self) -> None:
        wait_for("no credit is held", lambda: self.daemon.admin("GET", "/status")["store"]["held"] == 0)

    def test_disable_and_enable(self) -> None:
        """A key works as soon as it is made; disabled, its requests get 5 at once; enabled, 0 again."""
        key = self.read("keys", "add", "Ann's shop [new]", "--credits", "3")
        self.assertEqual(self.code(key["api_key"]), "0")
        self.run_command("keys", "disable", key["id"])
        self.assertEqual(self.code(key["api_key"]), "5")
        listed = {each["id"]: each for each in self.read("keys", "list")["keys"]}
        self.assertEqual((listed[key["id"]]["name"], listed[key["id"]]["disabled"]), ("Ann's shop [new]", True))
        table = self.run_command("keys", "list").stdout
        self.assertIn("Ann's shop [new]", table)
        self.assertNotIn(key["api_key"], table)
        self.run_command("keys", "enable", key["id"])
        self.assertEqual(self.code(key["api_key"]), "0")

    def test_credits(self) -> None:
        """A key without credits gets 2; what is added can be spent at once, and what is taken can't."""
        key = self.read("keys", "add", "poor")
        self.assertEqual(self.code(key["api_key"]), "2")
        self.assertEqual(self.read("credits", key["id"], "2")["credits"], 2)
        self.assertEqual(self.code(key["api_key"]), "0")
        self.idle()
        self.assertEqual(self.read("credits", key["id"], "-2")["credits"], 0)
        self.assertEqual(self.code(key["api_key"]), "2")
        self.assertEqual(self.read("credits", key["id"])["credits"], 0)

    def test_do_not_call(self) -> None:
        """A number that was put on the DoNotCall list gets 3 at once, and 0 once it was taken off."""
        self.run_command("dnc", "add", "+12125550100", "1 2125550101")
        self.assertEqual([self.code(self.key, f"212555010{n}") for n in range(3)], ["3", "3", "0"])
        self.run_command("dnc", "remove", "+12125550100")
        self.assertEqual([self.code(self.key, f"212555010{n}") for n in range(2)], ["0", "3"])
        self.assertEqual(self.read("dnc", "count"), {"count": 1})

    def test_import_and_export(self) -> None:
        """A file of numbers holds at once; wrong lines are kept beside it; the export brings the list back."""
        file = self.folder / "numbers.csv"
        numbers = [f"21{n:08}" for n in range(3000, 5000)]
        file.write_text("\n".join([*(f"1,{number}" for number in numbers), "+12125550150", "nonsense", "1,12"]) + "\n")
        sums = self.read("dnc", "import", str(file), status=1)
        self.assertEqual((sums["added"], sums["rejected"]), (len(numbers) + 1, 2))
        rejected = (self.folder / "numbers.csv.rejected").read_text()
        self.assertIn("nonsense", rejected)
        self.assertEqual([self.code(self.key, number) for number in (numbers[0], numbers[-1], "2125550150")], ["3"] * 3)
        self.assertEqual(self.code(self.key, "2125550151"), "0")

        exported = self.folder / "exported.csv"
        self.run_command("dnc", "export", str(exported))
        lines = exported.read_text().split()
        self.assertEqual((lines[0], len(lines)), ("country_code,phone_number", len(numbers) + 2))
        self.assertIn("1,2125550150", lines)
        self.run_command("dnc", "remove", "+12125550150")
        self.assertEqual(self.code(self.key, "2125550150"), "0")
        again = self.read("dnc", "import", str(exported))
        self.assertEqual((again["added"], again["already_there"], again["rejected"]), (1, len(numbers), 0))
        self.assertEqual(self.code(self.key, "2125550150"), "3")

    def test_all_is_kept(self) -> None:
        """Keys, credits and the DoNotCall list are the same after kill -9."""
        rich, off = (
            self.read("keys", "add", "rich", "--credits", "5"),
            self.read("keys", "add", "off", "--credits", "5"),
        )
        self.run_command("keys", "disable", off["id"])
        self.run_command("credits", rich["id"], "2")
        self.run_command("dnc", "add", "+12125550199")
        before = self.read("keys", "list")
        self.daemon.kill()
        self.daemon.start()
        self.assertEqual(self.read("keys", "list"), before)
        self.assertEqual(self.code(rich["api_key"], "2125550199"), "3")
        self.assertEqual(self.code(off["api_key"]), "5")
        self.assertEqual(self.code(rich["api_key"]), "0")

    def test_what_became_of_a_call(self) -> None:
        """`calledin call` tells the outcome, `calledin status` the trunks; neither shows the customer's secret."""
        call_id = self.ask(self.daemon)
        self.web.next_callback()
        wait_for("delivered", lambda: self.read("call", call_id)["state"] == "delivered")
        shown = self.run_command("call", call_id).stdout
        self.assertIn("transport", shown)
        self.assertNotIn("hush", shown)
        self.assertIn("sipp", self.run_command("status").stdout)
        self.assertEqual(self.read("status")["live"], 0)

    def test_refusals(self) -> None:
        """Exit codes: 1 for what is not there, 2 for wrong usage, 3 where no daemon is; each with a plain line."""
        self.assertIn("key_nobody", self.run_command("keys", "disable", "key_nobody", status=1).stderr)
        self.run_command("call", "0" * 32, status=1)
        self.run_command("dnc", "add", "12", status=1)
        self.run_command("keys", "add", status=2)
        self.run_command("keys", "add", "x", "--credits", "-1", status=2)
        self.daemon.stop()
        self.assertIn("no daemon answers there", self.run_command("status", status=3).stderr)
