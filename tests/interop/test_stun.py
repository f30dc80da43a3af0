"""Behind a NAT, with coturn as the STUN server that says how we look from outside."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.interop.harness import free_udp_port, need, wait_for
from tests.interop.kamailio import KamailioCase
from tests.interop.relay import Relays
from tests.interop.test_baresip import Baresip


class Coturn:
    """coturn as a STUN server, without its TURN."""

    def __init__(self, folder: Path) -> None:
        program = need("turnserver")
        folder.mkdir()
        self.port = free_udp_port()
        self.log = folder / "log"
        without = ("tls", "dtls", "tcp", "cli", "rfc5780", "udp-relay")
        command = [program, "-n", "-S", "-L", "127.0.0.1", "-p", str(self.port), *(f"--no-{each}" for each in without)]
        command += ["--pidfile", str(folder / "pid"), "-b", str(folder / "db"), "--log-file", "stdout"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for("coturn is ready", lambda: "SQLite DB connection" in self.log.read_text(errors="replace"), 15)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


class StunTests(KamailioCase):
    def test_learned(self) -> None:
        """The address that coturn sees is what the carrier is told, and requests to it find us: a telephone hangs up,
        and its BYE comes in through the NAT. `calledin check` is told the same by coturn."""
        server = Coturn(self.folder / "coturn")
        self.world.callback(server.close)
        # What we send to the server goes through the NAT, which lets in whatever comes to its outside.
        relays = Relays(share=0.0)
        nat = relays.add(server.port)
        relays.start()
        self.world.callback(relays.close)
        outside = nat.back.getsockname()[1]
        callee = Baresip(self.folder / "baresip")
        self.world.callback(callee.close)
        callee.wait("baresip is ready")
        daemon = self.register(callee.port, more=f'advertise = "stun:127.0.0.1:{nat.port}"')
        wait_for(
            "the address seen outside is registered",
            lambda: list(self.carrier.bindings()) == [f"sip:alice@127.0.0.1:{outside}"],
            20,
        )
        call_id = self.ask(daemon, mp3=f"{self.web.url}/speech.mp3")
        callee.wait("Call established")
        callee.command("hangup")
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        trace = [each["text"] for each in daemon.admin("GET", f"/trace/{call_id}")]
        invite = next(text for text in trace if text.startswith("INVITE"))
        self.assertIn(f"Via: SIP/2.0/UDP 127.0.0.1:{outside};", invite)
        self.assertIn(f"@127.0.0.1:{outside}>", invite)
        self.assertTrue(any(text.startswith(f"BYE sip:alice@127.0.0.1:{outside} ") for text in trace), trace)
        # The last thing: from now on the relay takes what comes from outside to this socket and no other.
        checked = daemon.calledin("check", "--live", "--config", str(daemon.config), "--json")
        address = [each for each in json.loads(checked.stdout) if each["what"] == "address"]
        self.assertEqual({each["state"] for each in address}, {"ok"}, address)
        self.assertIn(f"stun:127.0.0.1:{nat.port} sees us as 127.0.0.1, which", address[1]["words"])
