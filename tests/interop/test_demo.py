"""`calledin demo`, as a newcomer starts it: one complete call in the terminal, then the page."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tests.interop.case import InteropCase
from tests.interop.harness import free_ports, wait_for

CALLEDIN = str(Path(sys.executable).with_name("calledin"))


class DemoTests(InteropCase):
    def test_one_call(self) -> None:
        """--once shows code, ladder, sound and callback, and ends with 0 when all was as it should be."""
        done = subprocess.run(
            [CALLEDIN, "demo", "--once", "--port", str(free_ports())],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "COLUMNS": "110"},
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for words in ("INVITE", "180 Ringing", "200 OK", "BYE", "answered", "correlation"):
            self.assertIn(words, done.stdout)
        self.assertNotIn("Traceback", done.stdout + done.stderr)

    def test_goes_on(self) -> None:
        """Without --once it stays, and tells the address of a page that answers to its token, and to nothing else."""
        log = self.folder / "demo.txt"
        with log.open("w") as output:
            demo = subprocess.Popen(
                [CALLEDIN, "demo", "--port", str(free_ports())], stdout=output, stderr=subprocess.STDOUT
            )
        self.world.callback(demo.wait)
        self.world.callback(demo.kill)
        wait_for("the page's address", lambda: "/phone#token=" in log.read_text(), 120)
        wait_for("the curl line", lambda: "curl" in log.read_text())
        found = re.search(r"(http://127\.0\.0\.1:\d+)/phone#token=(\S+)", log.read_text())
        assert found
        page, token = found.groups()
        with urllib.request.urlopen(f"{page}/phone", timeout=10) as answer:
            self.assertIn(b"<title>", answer.read())
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{page}/facts", timeout=10)
        self.assertEqual(refused.exception.code, 401)
        self.assertTrue(token)
        demo.send_signal(signal.SIGINT)
        self.assertEqual(demo.wait(30), 0)
        self.assertNotIn("Traceback", log.read_text())
