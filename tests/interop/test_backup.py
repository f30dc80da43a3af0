"""A daemon under load is backed up, killed, and begun anew elsewhere from its backup: nothing of before it is lost."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.carrier import Carrier
from tests.interop.harness import Daemon, errors_in, wait_for, web_server
from tests.interop.world import BRIEF, Client, numbers, settings
from tests.store.redis_server import RedisServer

FAST, SLOW = "calls_per_second = 200.0", "calls_per_second = 6.0"


class BackupTests(SynchronousTestCase):
    """At the moment of the backup calls wait, ring, are played and are over."""

    def setUp(self) -> None:
        self.world = ExitStack()
        self.addCleanup(self.world.close)
        self.folder = Path(self.world.enter_context(tempfile.TemporaryDirectory()))
        self.web = self.world.enter_context(web_server({"/brief.mp3": BRIEF}))
        self.carrier = Carrier()
        self.world.callback(self.carrier.close)

    def daemon(self, name: str, more: str, *, slow: bool = False) -> Daemon:
        text = settings(self.carrier, more=more)
        daemon = Daemon(self.folder / name, text.replace(FAST, SLOW) if slow else text)
        self.world.callback(daemon.end)
        return daemon

    def command(self, *arguments: str) -> None:
        command = [str(Path(sys.executable).with_name("calledin")), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def go_on_elsewhere(self, more_of_old: str, more_of_new: str) -> None:
        old = self.daemon("old", more_of_old, slow=True)
        old.start()
        made = old.admin("POST", "/keys", {"name": "test", "credits": 100_000})
        old.admin("POST", "/dnc/add", {"numbers": ["+12125550199"]})
        clients = [Client([old], made["api_key"], self.web, numbers(each)) for each in range(3)]
        for client in clients:
            client.start()
        wait_for("calls are made", lambda: self.states(old)["delivered"] > 8)
        batch = self.batch(old, made["api_key"])
        before = {call_id for client in clients for call_id in list(client.accepted)}
        states = self.states(old)
        file = self.folder / "backup.tar"
        said = json.loads(old.calledin("backup", str(file), "--json").stdout)
        time.sleep(0.3)
        for client in clients:
            client.stopped.set()
            client.join()
        old.kill()
        self.assertTrue(said["books_agree"])
        for state in ("accepted", "dialing"):
            self.assertGreater(states[state], 0, states)
            self.assertGreater(said["calls"][state], 0, said)

        new = self.daemon("new", more_of_new)
        self.command("restore", str(file), "--config", str(new.config))
        new.start()
        self.assertEqual(new.playback(**self.request(made["api_key"], "2126550100")).body, "0")
        self.assertEqual(new.playback(**self.request(made["api_key"], "2125550199")).body, "3")
        wait_for("nothing is left to do", lambda: self.is_idle(new), 60.0)
        lost = [call_id for call_id in before if not self.is_over(new, call_id)]
        self.assertEqual(lost, [])
        store = new.admin("GET", "/status")["store"]
        self.assertEqual(store["credits"] + store["charged"], store["added"])
        self.assertEqual((store["held"], store["added"]), (0, 100_000))
        self.assertEqual(sum(store["calls"].values()), sum(said["calls"].values()) + 1)
        told = set()
        while not self.web.told.empty():
            told.add(self.web.told.get().headers["webhook-id"])
        self.assertEqual(before - told, set())
        self.ends(new, made["api_key"], batch)
        self.assertEqual((new.stop(), errors_in(new.log.read_text())), (0, []))

    def ask(self, daemon: Daemon, api_key: str, method: str, path: str, body: object = None) -> Any:
        """Ask /api/v1/batches; return what it answers."""
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
        headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        connection.request(method, f"/api/v1/batches{path}", None if body is None else json.dumps(body), headers)
        with connection.getresponse() as response:
            return json.loads(response.read())

    def batch(self, daemon: Daemon, api_key: str) -> Any:
        """Begin a batch, and have it pause when some of its numbers were asked for; return what is told of it."""
        wanted = [f"21365501{number:02d}" for number in range(12)]
        body = {"mp3": f"{self.web.url}/brief.mp3", "rate": 5, "numbers": wanted, "country_code": "1"}
        path = "/" + self.ask(daemon, api_key, "POST", "", body)["id"]
        wait_for("some were asked for", lambda: self.ask(daemon, api_key, "GET", path)["accepted"] > 2)
        return self.ask(daemon, api_key, "POST", f"{path}/pause")

    def ends(self, daemon: Daemon, api_key: str, batch: Any) -> None:
        """See that the batch is here as it was, and goes on to its end."""
        path = f"/{batch['id']}"
        told = self.ask(daemon, api_key, "GET", path)
        for name in ("state", "rows", "waiting", "accepted", "created_at"):
            self.assertEqual(told[name], batch[name])
        self.assertEqual(told["state"], "paused")
        self.ask(daemon, api_key, "POST", f"{path}/resume")
        wait_for("the batch is done", lambda: self.ask(daemon, api_key, "GET", path)["state"] == "done")
        self.assertEqual(self.ask(daemon, api_key, "GET", path)["accepted"], batch["rows"])

    def request(self, api_key: str, number: str) -> dict[str, str]:
        mp3 = f"{self.web.url}/brief.mp3"
        return {"api_key": api_key, "phone_number": number, "country_code": "1", "mp3": mp3}

    def states(self, daemon: Daemon) -> dict[str, int]:
        states: dict[str, int] = daemon.admin("GET", "/status")["store"]["calls"]
        return states

    def is_idle(self, daemon: Daemon) -> bool:
        states = self.states(daemon)
        return not any(states[state] for state in ("accepted", "dialing", "answered", "done"))

    def is_over(self, daemon: Daemon, call_id: str) -> bool:
        record = daemon.admin("GET", f"/calls/{call_id}")
        return bool(record["state"] == "delivered")

    def test_embedded(self) -> None:
        """From the folder of one daemon to that of another."""
        self.go_on_elsewhere("", "")

    def test_redis(self) -> None:
        """From one Redis to another."""
        self.go_on_elsewhere(*(self.redis(name) for name in ("one", "two")))

    def test_from_redis_to_a_folder(self) -> None:
        """From the store of several nodes to that of one alone."""
        self.go_on_elsewhere(self.redis("one"), "")

    def redis(self, name: str) -> str:
        server = RedisServer(self.folder / name).start()
        self.world.callback(server.stop)
        return f'[store]\nkind = "redis"\n[redis]\naddress = "{server.address}"\n[node]\nname = "{name}"\n'
