"""kill -9 at random moments under load: no call lost, none made twice, every credit accounted for.

Short by default; `CALLEDIN_LONG=1 trial tests.interop.test_kill` kills three hundred times.
"""

from __future__ import annotations

import http.client
import os
import random
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.harness import Daemon, errors_in, free_ports, free_udp_port, wait_for, web_server
from tests.interop.judge import Carrier, verdict

LONG = os.environ.get("CALLEDIN_LONG") == "1"
KILLS = 300 if LONG else 8
SEED = int(os.environ.get("CALLEDIN_SEED", "20"))
CREDITS = 1_000_000
SHORT = Path(__file__).parents[1] / "audio" / "samples" / "44100-mono-no-xing.mp3"


def settings(port: int, sip_port: int, first_rtp: int) -> str:
    return f"""
[sip]
bind = ["127.0.0.1:{sip_port}"]
t1 = 0.1
[rtp]
bind = "127.0.0.1"
ports = [{first_rtp}, {first_rtp + 399}]
[audio]
allow_networks = ["127.0.0.0/8"]
allow_ports = []
[calls]
ring_timeout = 2.0
[[trunks]]
name = "judge"
host = "127.0.0.1"
port = {port}
calls_per_second = 200.0
channels = 1000
"""


class Client(threading.Thread):
    """Asks for calls, one number after the other, until it is told to stop; keeps what it was told."""

    def __init__(self, daemon: Daemon, key: str, web: str, numbers: range) -> None:
        super().__init__(daemon=True)
        self.accepted: list[str] = []
        self.refused: set[str] = set()
        self._daemon, self._key, self._web, self._numbers = daemon, key, web, numbers
        self.stopped = threading.Event()

    def run(self) -> None:
        for number in self._numbers:
            if self.stopped.is_set():
                return
            try:
                answer = self._daemon.playback(
                    api_key=self._key,
                    phone_number=f"212{number:07}",
                    country_code="1",
                    mp3=f"{self._web}/short.mp3",
                    callback_url=f"{self._web}/callback",
                )
            except (OSError, http.client.HTTPException):
                self.stopped.wait(0.02)
                continue
            if answer.status == 200 and answer.body == "0":
                self.accepted.append(answer.call_id)
            elif answer.status == 200:
                self.refused.add(answer.body)
            self.stopped.wait(0.01)


class KillTests(SynchronousTestCase):
    def test_kills(self) -> None:
        """Whatever moment the daemon is killed at, each accepted call has one outcome, one dial and its callback."""
        self.kill_again_and_again(KILLS, slow_disk=False)

    def test_kills_with_a_slow_disk(self) -> None:
        """The same with commits that take their time."""
        self.kill_again_and_again(max(3, KILLS // 4), slow_disk=True)

    def kill_again_and_again(self, kills: int, *, slow_disk: bool) -> None:
        chance = random.Random(SEED)
        with ExitStack() as world:
            folder = Path(world.enter_context(tempfile.TemporaryDirectory()))
            web = world.enter_context(web_server({"/short.mp3": SHORT.read_bytes()}))
            carrier = Carrier()
            world.callback(carrier.close)
            first_rtp = free_ports(400)
            text = settings(carrier.port, free_udp_port(), first_rtp)
            daemon = Daemon(folder, text, module="tests.interop.slow_disk" if slow_disk else None)
            daemon.start()
            world.callback(daemon.kill)
            key = daemon.admin("POST", "/keys", {"name": "judge", "credits": CREDITS})["api_key"]
            clients = [
                Client(daemon, key, web.url, range(2_000_000 + n * 500_000, 2_500_000 + n * 500_000)) for n in range(3)
            ]
            for client in clients:
                client.start()
            for _ in range(kills):
                time.sleep(chance.random() ** 2 * 3.0)
                daemon.kill()
                daemon.start()
            for client in clients:
                client.stopped.set()
                client.join()
            wait_for("every call ends and every callback is taken", lambda: idle(daemon), 120.0)
            accepted = [call_id for client in clients for call_id in client.accepted]
            self.assertGreater(len(accepted), kills)
            self.assertEqual(set().union(*(client.refused for client in clients)), set())
            self.assertEqual(verdict(daemon, carrier, web, accepted, CREDITS), [])
            self.assertEqual(errors_in(daemon.log.read_text()), [])
            print(f"{kills} kills, {len(accepted)} calls accepted, {len(carrier.invites)} dialled: nothing broken")


def idle(daemon: Daemon) -> bool:
    store = daemon.admin("GET", "/status")["store"]
    return bool(
        store["held"] == 0 and all(not store["calls"][state] for state in ("accepted", "dialing", "answered", "done"))
    )
