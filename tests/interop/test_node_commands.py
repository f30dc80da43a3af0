"""`calledin nodes` and `calledin drain`: each as a program, against two daemons on one Redis."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from tests.interop.harness import Answer, Daemon, wait_for
from tests.interop.nodes_case import RINGS, TwoNodesCase

CALLEDIN = str(Path(sys.executable).with_name("calledin"))
SLOW, ANSWERS = "2125550106", "2125550100"
"Of the built-in carrier: one answers after ten seconds, one soon."


class NodeCommandsTests(TwoNodesCase):
    def read(self, node: Daemon, *arguments: str) -> Any:
        done = node.calledin(*arguments, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def request(self, node: Daemon, number: str) -> Answer:
        """Ask a node for a call."""
        mp3 = f"{self.web.url}/short.mp3"
        return node.playback(api_key=self.key, phone_number=number, country_code="1", mp3=mp3)

    def accepted(self, node: Daemon, number: str) -> None:
        self.assertEqual(self.request(node, number).body, "0")

    def sees_both(self, node: Daemon) -> bool:
        return len(self.read(node, "nodes")) == 2

    def live(self, node: Daemon) -> int:
        return int(node.admin("GET", "/status")["live"])

    def test_nodes(self) -> None:
        """Whichever is asked shows both, itself marked; a node that has left is shown no longer as alive."""
        one, two = self.nodes
        for here, there in ((one, "two"), (two, "one")):
            wait_for("it sees the other", partial(self.sees_both, here))
            shown = {each["name"]: each for each in self.read(here, "nodes")}
            self.assertEqual(set(shown), {"one", "two"})
            self.assertEqual({each["state"] for each in shown.values()}, {"alive"})
            self.assertFalse(shown[there]["here"])
        table = one.calledin("nodes").stdout
        (mine,) = [line for line in table.splitlines() if "this one" in line]
        self.assertIn("one", mine.split())
        two.stop()

        def left() -> bool:
            return [each["name"] for each in self.read(one, "nodes") if each["state"] == "alive"] == ["one"]

        wait_for("the node has left", left)

    def test_drain(self) -> None:
        """A drained node takes and begins nothing more, the other does, and what runs goes on to its end."""
        one, two = self.nodes
        self.accepted(one, RINGS)
        wait_for("it is dialled", lambda: self.live(one) + self.live(two) == 1)
        busy, idle = (one, two) if self.live(one) else (two, one)
        command = [CALLEDIN, "--socket", str(busy.data / "admin.sock"), "drain"]
        draining = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.world.callback(draining.communicate)
        self.world.callback(draining.kill)
        wait_for("it is draining", lambda: bool(busy.admin("GET", "/status")["draining"]))
        self.assertEqual(self.request(busy, ANSWERS).status, 503)
        wait_for("the other knows", lambda: any(each.get("draining") for each in self.read(idle, "nodes")))
        self.assertIsNone(draining.poll())
        self.accepted(idle, SLOW)
        wait_for("it is dialled by the other", lambda: self.live(idle) == 1)
        # The call that was running rings on until it is hung up; then the command ends.
        (call,) = self.read(busy, "calls", "--live", "--number", RINGS[-4:])["calls"]
        self.read(busy, "hangup", call["id"])
        said, told = draining.communicate(timeout=30)
        self.assertEqual((draining.returncode, said.strip()), (0, "it is drained"), told)
        self.assertIn("1 calls are running", told)
        # Resumed, it takes work again.
        self.assertFalse(self.read(busy, "drain", "--resume")["draining"])
        self.accepted(busy, ANSWERS)
        wait_for("it is dialled", lambda: self.live(busy) == 1)

    def test_no_wait(self) -> None:
        """With --no-wait the command ends at once and says what still runs."""
        one, two = self.nodes
        self.accepted(one, RINGS)
        wait_for("it is dialled", lambda: self.live(one) + self.live(two) == 1)
        busy = one if self.live(one) else two
        answer = self.read(busy, "drain", "--no-wait")
        self.assertEqual((answer["live"], answer["draining"]), (1, True))
