"""The demo's telling of one call, with a daemon that plays a script."""

# mypy: allow-untyped-calls

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import socket
import time
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from click.testing import CliRunner
from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from calledind.cli import demo as demo_module
from calledind.cli import demo_daemon
from calledind.cli.client import Refused
from calledind.cli.demo import Demo, Run, _bundled_mp3
from calledind.cli.demo_daemon import Daemon, DaemonFailed, free_port
from calledind.cli.demo_web import Callback
from calledind.cli.listening import read_mp3

CALL_ID = "01a20900efccf3253baebf3e9a80bfdf"
KEY = bytes(range(32))
SDP = "\r\nContent-Type: application/sdp\r\n\r\nv=0\r\nm=audio 4000 RTP/AVP 0\r\n"


def entry(time: float, direction: str, start: str, cseq: str, rest: str = "\r\n\r\n") -> dict[str, object]:
    return {"time": time, "direction": direction, "text": f"{start}\r\nCSeq: {cseq}{rest}"}


INVITE = entry(1.0, "sent", "INVITE sip:x SIP/2.0", "1 INVITE", SDP)
RINGING = entry(1.1, "received", "SIP/2.0 180 Ringing", "1 INVITE")
OK = entry(2.1, "received", "SIP/2.0 200 OK", "1 INVITE", SDP)
ACK = entry(2.2, "sent", "ACK sip:x SIP/2.0", "1 ACK")
BYE = entry(9.0, "sent", "BYE sip:x SIP/2.0", "2 BYE")
BYE_OK = entry(9.1, "received", "SIP/2.0 200 OK", "2 BYE")
BUSY = entry(1.5, "received", "SIP/2.0 486 Busy Here", "1 INVITE")


class Admin:
    """The administrator's face, as far as the demo asks."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = answers

    def get(self, path: str) -> Any:
        if path not in self.answers:
            raise Refused("not found")
        return self.answers[path]

    def post(self, path: str, wanted: Mapping[str, object]) -> Any:
        return {"api_key": "ck_secret_and_long", "webhook_secret": "whsec_" + base64.b64encode(KEY).decode()}


class FakeDaemon:
    url = "http://127.0.0.1:8080"

    def __init__(self, code: str, answers: Mapping[str, Any]) -> None:
        self.code = code
        self.admin = Admin(answers)
        self.asked: list[str] = []

    def get(self, target: str) -> tuple[int, Mapping[str, str], str]:
        self.asked.append(target)
        return 200, {"calledin-call-id": CALL_ID, "calledin-reason": "no such words"}, self.code


class FakeCustomer:
    url = "http://127.0.0.1:9"

    def __init__(self, *callbacks: Callback) -> None:
        self.callbacks = list(callbacks)

    def next_callback(self, wait: float = 0.0) -> Callback | None:
        return self.callbacks.pop(0) if self.callbacks else None


def callback(*, answered: str = "1", reason: str = "", key: bytes = KEY) -> Callback:
    target, timestamp = "/callback?x", str(int(time.time()))
    digest = hmac.digest(key, f"{CALL_ID}.{timestamp}.{target}".encode(), hashlib.sha256)
    parameters = {"secret": "demo", "answered": answered, "reason": reason}
    return Callback(target, parameters, CALL_ID, timestamp, "v1," + base64.b64encode(digest).decode())


class DemoTests(SynchronousTestCase):
    source: ClassVar[Any] = None

    def setUp(self) -> None:
        if DemoTests.source is None:
            DemoTests.source = read_mp3(_bundled_mp3())
        self.patch(demo_module, "SETTLE_SECONDS", 0.05)
        self.patch(demo_module, "LONGEST_CALL", 0.3)
        self.screen = io.StringIO()

    def recording(self, samples: Any, **figures: Any) -> dict[str, Any]:
        path = Path(self.mktemp())
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes((samples * 32000).astype("<i2").tobytes())
        own = {"sip_call_id": CALL_ID + "-1", "file": str(path), "packets": 500, "lost": 0, "jitter": 0.0001}
        return {**own, "longest_gap": 0.021, "codec": "PCMU", **figures}

    def show(
        self, *messages: dict[str, object], came: Callback | None = None, code: str = "0", **answers: Any
    ) -> tuple[Run, bool]:
        known = {f"/trace/{CALL_ID}": list(messages), **{f"/{name}": value for name, value in answers.items()}}
        self.daemon = FakeDaemon(code, known)
        console = Console(file=self.screen, width=80, force_terminal=False)
        customer = FakeCustomer(*([came] if came else []))
        shown = Demo(console, self.daemon, customer, _bundled_mp3())  # type: ignore[arg-type]
        shown.make_key()
        run = shown.call("2125550100")
        return run, shown.conclude(run)

    def test_answered(self) -> None:
        """A call that goes well is shown with its code, ladder, audio and callback, within 80 columns."""
        heard = self.recording(np.concatenate([np.zeros(3200), self.source]))
        run, well = self.show(
            INVITE, RINGING, OK, ACK, BYE, BYE_OK, came=callback(), recordings=[{"sip_call_id": "other"}, heard]
        )
        text = self.screen.getvalue()
        self.assertTrue(well, text)
        assert run.comparison is not None
        self.assertGreater(run.comparison.correlation, 0.999)
        for part in ("180 Ringing", "500 received, 0 lost", "correlation 1.0000", "signature holds", "(answered)"):
            self.assertIn(part, text)
        self.assertEqual(text.count("RTP: the audio"), 1)
        self.assertNotIn("ck_secret_and_long", text)
        self.assertEqual([line for line in text.splitlines() if len(line) > 80 and "listen to it" not in line], [])

    def test_busy(self) -> None:
        """A busy number is well when the callback says what the table of numbers expects."""
        row = {"number": "2125550100", "words": "is busy (486)", "answered": 0, "reason": 5}
        came = callback(answered="0", reason="5")
        _, well = self.show(INVITE, BUSY, ACK, came=came, recordings=[], scenarios=[row])
        self.assertTrue(well, self.screen.getvalue())
        self.assertIn("the callee is busy (486)", self.screen.getvalue())
        self.assertNotIn("What the callee really heard", self.screen.getvalue())

    def test_wrong_reason(self) -> None:
        """Another reason than the table's is a failure."""
        row = {"number": "2125550100", "words": "is busy (486)", "answered": 0, "reason": 5}
        _, well = self.show(INVITE, BUSY, ACK, came=callback(answered="0", reason="8"), recordings=[], scenarios=[row])
        self.assertFalse(well)

    def test_wrong_audio(self) -> None:
        """Noise in place of the speech is a failure, and so is no recording."""
        noise = np.random.default_rng(1).uniform(-0.5, 0.5, 80000)
        messages = (INVITE, RINGING, OK, ACK, BYE, BYE_OK)
        run, well = self.show(*messages, came=callback(), recordings=[self.recording(noise)])
        self.assertFalse(well)
        self.assertEqual(len(run.failures()), 1)
        run, well = self.show(*messages, came=callback(), recordings=[])
        self.assertEqual(run.failures(), ["the callee recorded nothing"])

    def test_lost_packets(self) -> None:
        """With packets lost the audio may be worse, and the figures say so."""
        holes = self.source.copy()
        holes[8000:12000] = 0
        heard = self.recording(holes, lost=25)
        _, well = self.show(INVITE, OK, ACK, BYE, BYE_OK, came=callback(), recordings=[heard])
        self.assertTrue(well)
        self.assertIn("25 lost", self.screen.getvalue())

    def test_refused(self) -> None:
        """A request that is not accepted is shown with the daemon's words, and is a failure."""
        run, well = self.show(code="9")
        self.assertFalse(well)
        self.assertIn("no such words", self.screen.getvalue())
        self.assertEqual(run.failures(), ["the request was answered with 9 instead of 0"])

    def test_forged(self) -> None:
        """A callback whose signature does not hold is a failure."""
        came = callback(answered="0", reason="5", key=b"x" * 32)
        run, _ = self.show(INVITE, BUSY, ACK, came=came, recordings=[])
        self.assertEqual(run.failures(), ["the callback's signature does not hold"])

    def test_no_callback(self) -> None:
        """A callback that never comes is a failure, after a while."""
        run, _ = self.show(INVITE, BUSY, ACK, recordings=[])
        self.assertEqual(run.failures(), ["no callback came"])


class DaemonTests(SynchronousTestCase):
    def test_dies(self) -> None:
        """A daemon that dies at its start is reported at once, with the end of its log at hand."""
        self.patch(demo_daemon, "TWISTD", "import sys; print('out of luck'); sys.exit(3)")
        folder = Path(self.mktemp())
        folder.mkdir()
        daemon = Daemon(folder, free_port(0), free_port(0))
        self.assertRaisesRegex(DaemonFailed, "ended with 3", daemon.start)
        self.assertEqual(daemon.log_tail(), "out of luck")
        self.assertEqual(daemon.stop(), 3)

    def test_command(self) -> None:
        """The command cleans up and ends with 1 when the daemon can't be started."""
        self.patch(demo_daemon, "TWISTD", "import sys; print('out of luck'); sys.exit(3)")
        result = CliRunner().invoke(demo_module.demo, ["--once", "--port", "0"])
        self.assertEqual(result.exit_code, 1, result.output)
        self.assertIn("out of luck", result.output)

    def test_port(self) -> None:
        """The wanted port is taken when it is free, else another."""
        port = free_port(0)
        self.assertEqual(free_port(port), port)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            self.assertNotEqual(free_port(taken.getsockname()[1]), taken.getsockname()[1])
