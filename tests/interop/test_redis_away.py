"""Redis is away, slow, or has another password: what customers, callees and operators see of it."""

from __future__ import annotations

import time
from pathlib import Path

from tests.interop import scenarios as sc
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import Daemon, free_udp_port, sipp, wait_for
from tests.store.redis_server import RedisServer

CALLEE = sc.scenario(
    sc.receive("INVITE"),
    sc.RINGING,
    sc.send("200 OK", more=sc.CONTACT, body=sc.sdp("0 101", port="9"), retrans=500),
    sc.receive("ACK"),
    sc.receive("BYE", extra='timeout="60000"'),
    sc.send("200 OK", sc.IN_DIALOG),
)
SOON = 1.5
"Seconds within which a request is answered whatever Redis does."
AT_ONCE = 0.5
"And once it is known to be away."


class RedisAwayTests(InteropCase):
    redis: RedisServer
    passwords: Path

    def setUp(self) -> None:
        super().setUp()
        self.passwords = self.folder / "redis-password"
        self.redis = RedisServer(self.folder / "redis")
        self.redis.start()
        self.world.callback(self.redis.kill)
        self.use_password("first")

    def use_password(self, password: str) -> None:
        """Redis takes this one alone, and whoever is connected must say it."""
        self.passwords.write_text(password)
        self.redis.calls(
            ("ACL", "SETUSER", "calledin", "reset", "on", f">{password}", "~*", "&*", "+@all"),
            ("CLIENT", "KILL", "USER", "calledin"),
        )

    def run_node(self, port: int) -> Daemon:
        redis = f'address = "{self.redis.address}"\nusername = "calledin"\npassword_file = "{self.passwords}"'
        shared = f'[store]\nkind = "redis"\n[redis]\n{redis}\n[node]\nname = "one"\nlease = 3.0\n'
        return self.run_daemon(settings(trunk(port), rest=shared))

    def refused(self, daemon: Daemon) -> float:
        """Ask for a call; it must be refused with 503. Returns the seconds that took."""
        began = time.monotonic()
        answer = daemon.playback(
            api_key=self.key, phone_number="2125550111", country_code="1", mp3=f"{self.web.url}/short.mp3"
        )
        self.assertEqual(answer.status, 503, answer.body)
        self.assertFalse(answer.body.strip().isdigit())
        self.assertIn("retry-after", answer.headers)
        return time.monotonic() - began

    def test_live_calls_go_on(self) -> None:
        """While Redis is silent, requests get 503 soon, then at once; a call that is up ends as ever, told later."""
        with sipp(self.folder / "sipp", CALLEE) as callee:
            daemon = self.run_node(callee.port)
            self.ask(daemon, mp3=f"{self.web.url}/speech.mp3")
            wait_for("the call is answered", lambda: daemon.admin("GET", "/status")["store"]["calls"]["answered"] == 1)
            self.redis.pause()
            self.world.callback(self.redis.resume)
            self.assertLess(self.refused(daemon), SOON)
            self.assertLess(self.refused(daemon), AT_ONCE)
            ready = daemon.get("/readyz")
            self.assertEqual(ready.status, 503)
            self.assertIn("store", ready.body)
            self.assertEqual(callee.wait(), 0, callee.explain())
        self.assertTrue(self.web.told.empty())
        self.redis.resume()
        told = self.web.next_callback()
        self.assertEqual(self.outcome(told), ("1", ""))
        wait_for("it takes calls again", lambda: daemon.get("/readyz").status == 200)
        self.ask(daemon, phone_number="2125550112")

    def test_no_new_invite(self) -> None:
        """What waits is not dialled while Redis is away, and is when it is back, killed and restarted meanwhile."""
        with sipp(self.folder / "sipp", CALLEE, calls=2) as callee:
            daemon = self.run_node(callee.port)
            self.ask(daemon)
            self.web.next_callback()
            self.redis.kill()
            wait_for("it is noticed", lambda: daemon.get("/readyz").status == 503)
            self.assertLess(self.refused(daemon), AT_ONCE)
            self.assertEqual(callee.messages().count("INVITE sip:"), 1)
            self.redis.start()
            # Users are not kept by a Redis without a file of them.
            self.use_password("first")
            wait_for("it takes calls again", lambda: daemon.get("/readyz").status == 200)
            self.ask(daemon, phone_number="2125550113")
            self.web.next_callback()
            self.assertEqual(callee.wait(), 0, callee.explain())

    def test_password_is_changed(self) -> None:
        """A new password in its file is used without a restart, however long the old one was refused before."""
        with sipp(self.folder / "sipp", CALLEE) as callee:
            daemon = self.run_node(callee.port)
            self.use_password("second")
            self.passwords.write_text("first")
            wait_for("it is noticed", lambda: "password" in daemon.log.read_text())
            self.refused(daemon)
            self.passwords.write_text("second")
            wait_for("it takes calls again", lambda: daemon.get("/readyz").status == 200)
            self.call(daemon)
            self.assertEqual(callee.wait(), 0, callee.explain())
            self.assertNotIn("second", daemon.log.read_text())

    def test_another_pepper(self) -> None:
        """A node whose pepper is not that of the others does not start, and says what to do."""
        self.run_node(free_udp_port())
        redis = f'address = "{self.redis.address}"\nusername = "calledin"\npassword_file = "{self.passwords}"'
        shared = f'[store]\nkind = "redis"\n[redis]\n{redis}\n[node]\nname = "two"\n'
        other = Daemon(self.folder / "other", settings(trunk(free_udp_port()), rest=shared))
        error = self.assertRaises(AssertionError, other.start)
        self.assertIn("pepper: is not the pepper of the other nodes", str(error))
        self.assertNotIn("Traceback", str(error))

    def test_what_is_wrong_with_redis(self) -> None:
        """A Redis that keeps nothing on its disk, or throws things away when it is full, is told of at the start."""
        self.redis.calls(
            ("CONFIG", "SET", "appendonly", "no"),
            ("CONFIG", "SET", "maxmemory", 10**9),
            ("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"),
        )
        log = self.run_node(free_udp_port()).log.read_text()
        self.assertIn("keeps changes in its memory alone", log)
        self.assertIn("maxmemory-policy allkeys-lru", log)
        self.assertNotIn("s apart", log)
