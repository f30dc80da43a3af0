"""The page in a real browser: Debian's Chromium, driven by Playwright (tests/browser) against a daemon of the demo."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
from twisted.trial.unittest import SynchronousTestCase

from calledind.api.help import GUIDES
from calledind.cli.listening import Samples, at_rate, read_mp3
from tests.interop.harness import Daemon, free_ports, free_tcp_port, need

SCRIPTS = Path(__file__).parents[1] / "browser"
SPEECH = Path(__file__).parents[2] / "calledind" / "simulator" / "speech.mp3"
SECONDS = 240.0
"For one script, on a machine that has other things to do."
GOOD_CORRELATION = 0.99
"A lower one is not the same speech, played well. G.711 and the cut at 4,000 Hz leave about 0.998."
PIECE = 2000
"Samples of the speech, 8,000 a second, that are looked for in what the loudspeaker was given."
MOST_PIECES = 0.8
"Share of the pieces that must be there: on a busy machine a packet may come too late to be played in its place."
MOST_CPU = 0.1
"Of one core, for one viewer of a thousand calls of which fifty end each second, the calls' own cost left out."
LONGEST_TASK = 100.0
"Milliseconds for which a browser's thread may be kept busy in one piece."


SETTINGS = """
simulator = true
[sip]
bind = ["127.0.0.1:0"]
[rtp]
bind = "127.0.0.1"
ports = [{first}, {last}]
[audio]
allow_networks = ["127.0.0.0/8"]
allow_ports = []
[page]
listen = ["127.0.0.1:{page}"]
"""


def need_browser() -> None:
    """Skip the test where a part of it is not installed."""
    need("chromium")
    need("node")
    if not (SCRIPTS / "node_modules" / "playwright-core").is_dir():
        raise SkipTest("skipped: playwright-core is not installed; make browser does it")


def run_script(name: str, *arguments: object) -> Any:
    """Run one of tests/browser; returns what it tells."""
    command = ["node", str(SCRIPTS / name), *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if ended.returncode:
        raise AssertionError(f"{name} ended with {ended.returncode}: {ended.stderr[-3000:]}")
    return json.loads(ended.stdout)


def similar(speech: Samples, heard: Samples, rate: int) -> Samples:
    """Return, for each piece of the speech with sound in it, how like it the most similar place of `heard` is, 0 to 1.

    `speech`: shape (n,), 8,000 samples a second; `heard`: shape (m,), `rate` a second.
    """
    loud = np.sqrt(np.mean(speech**2)) / 4
    pieces = [piece for at in range(0, len(speech) - PIECE, PIECE) if np.std(piece := speech[at : at + PIECE]) > loud]
    best = np.zeros(len(pieces))
    # The loudspeaker's samples begin anywhere between two of the speech's, and a part of one matters.
    for late in range(rate // 8000):
        there = at_rate(heard[late:], rate)
        length = len(there) + PIECE
        spectrum = np.fft.rfft(there, length)
        energy = np.convolve(there**2, np.ones(PIECE))[PIECE - 1 :]
        for number, piece in enumerate(pieces):
            product = np.fft.irfft(spectrum * np.conj(np.fft.rfft(piece, length)), length)[: len(energy)]
            found = product / np.sqrt(np.maximum(energy, 1e-6) * np.dot(piece, piece))
            best[number] = max(best[number], found.max())
    return best


class BusyTests(SynchronousTestCase):
    timeout = 300

    def test_a_thousand_calls(self) -> None:
        """With a thousand calls and fifty outcomes a second the page stays live, for little on either side."""
        need_browser()
        told: dict[str, Any] = {}
        for _ in range(3):  # a machine that does other things may hold the browser up
            told = self._look()
            if told["blocked"] <= LONGEST_TASK:
                break
        self.assertEqual((told["live"], told["moved"], told["wrong"]), ("1,000", True, []))
        self.assertLess(told["rows"], 50)
        self.assertLess(told["cpu"], MOST_CPU)
        self.assertLessEqual(told["blocked"], LONGEST_TASK)

    def _look(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "tests.browser.busy"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=SCRIPTS.parents[1]) as busy:
            assert busy.stdout is not None
            try:
                told: dict[str, Any] = run_script("busy.js", *busy.stdout.readline().split(), 12)
            finally:
                busy.terminate()
            shares = [line.split() for line in busy.stdout.read().splitlines()]
        told["cpu"] = max(float(share) for share, viewers in shares if viewers == "1")
        return told


class BrowserTests(SynchronousTestCase):
    timeout = 600

    def setUp(self) -> None:
        need_browser()
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        self.folder = folder.absolute()
        self.page, first = free_tcp_port(), free_ports(4)
        settings = SETTINGS.format(first=first, last=first + 3, page=self.page)
        self.daemon = Daemon(self.folder, settings)
        self.daemon.start()
        self.addCleanup(self.daemon.stop)
        self.token = (self.daemon.data / "page-token").read_text()

    def run_script(self, name: str, *arguments: object) -> Any:
        """Run one of tests/browser with the page's address and token; returns what it tells."""
        return run_script(name, f"http://127.0.0.1:{self.page}", self.token, *arguments)

    def test_phone(self) -> None:
        """It rings, is answered and heard; the next call is declined; code, ladder and callback come by themselves."""
        told = self.run_script("phone.js", SPEECH, self.folder)
        self.assertEqual(told["wrong"], [])
        self.assertEqual((told["code"], told["stayed"], told["whileRinging"]), ("0", True, []))
        self.assertGreater(told["level"], 0)
        self.assertEqual(
            told["ladder"], ["INVITE, PCMU PCMA", "180 Ringing", "200 OK, PCMU", "ACK", "BYE", "200 OK (BYE)"]
        )
        self.assertIn("Keys\n5", told["way"])
        for words in ("answered\n1", "reason\n(empty)", "signature\nholds", "phone_number\n2125550199"):
            self.assertIn(words, told["callback"])
        for words in ("answered\n0", "reason\n5", "signature\nholds", "phone_number\n2125550198"):
            self.assertIn(words, told["declined"])
        self.assertEqual(told["ladderOfDeclined"], ["INVITE, PCMU PCMA", "180 Ringing", "603 Decline", "ACK"])
        samples = np.fromfile(self.folder / "samples.f32", "<f4").astype(np.float64)
        pieces = similar(read_mp3(SPEECH), samples, told["rate"])
        self.assertGreater(float(np.median(pieces)), GOOD_CORRELATION, pieces)
        self.assertGreater(np.mean(pieces > GOOD_CORRELATION), MOST_PIECES, pieces)

    def test_views(self) -> None:
        """Axe-core has nothing to say of any view or guide, at two widths, light and dark; none asks for anything
        outside."""
        key = self.daemon.admin("POST", "/keys", {"name": "my shop", "credits": 100})
        self.daemon.admin("POST", "/dnc/add", {"numbers": ["+12125550150"]})
        self.daemon.admin("POST", f"/keys/{key['id']}/credits", {"amount": 5, "note": "a present"})
        call_id = self._some_call()
        pictures = [] if "CALLEDIN_PICTURES" not in os.environ else [os.environ["CALLEDIN_PICTURES"]]
        told = self.run_script("views.js", call_id, *pictures)
        self.assertEqual(told["wrong"], [])
        self.assertEqual({view: lines for view, lines in told["found"].items() if lines}, {})
        self.assertLessEqual({f"help-{guide} 390 dark" for guide in GUIDES}, told["found"].keys())

    def _some_call(self) -> str:
        """Have the phone called: nobody is there, and it rings while the views are looked at."""
        connection = http.client.HTTPConnection("127.0.0.1", self.page, timeout=30)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Length": "0"}
        connection.request("POST", "/phone/call", headers=headers)
        told = json.loads(connection.getresponse().read())
        connection.close()
        self.assertEqual(told["code"], 0, told)
        return str(told["call_id"])
