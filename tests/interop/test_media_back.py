"""What comes back from the callee while it listens: keys that it presses, reports on what it hears, nothing at all."""

from __future__ import annotations

import time
import wave
from pathlib import Path

import numpy as np

from tests.interop import scenarios as sc
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import need, sipp
from tests.interop.hearing import Ear
from tests.interop.test_baresip import Baresip

RATE = 8000
ROWS, COLUMNS = (697, 770, 852, 941), (1209, 1336, 1477, 1633)
"Hz (ITU-T Q.23)."
KEYS = "123A456B789C*0#D"
PRESSED = "159D#"


def write_tones(path: Path, digits: str) -> None:
    """Two tones for each key, 0.15 s, with as much of silence between them."""
    moments = np.arange(round(0.15 * RATE)) / RATE
    parts = [np.zeros(RATE)]
    for digit in digits:
        row, column = divmod(KEYS.index(digit), 4)
        tones = np.sin(2 * np.pi * ROWS[row] * moments) + np.sin(2 * np.pi * COLUMNS[column] * moments)
        parts += [8000 * tones, np.zeros(len(moments))]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.concatenate(parts).astype("<i2").tobytes())


class BackTests(InteropCase):
    def test_keys(self) -> None:
        """A telephone's keys are read from its events (RFC 4733), and its reports (RTCP) say what it hears."""
        callee = Baresip(self.folder / "baresip")
        self.world.callback(callee.close)
        daemon = self.run_daemon(settings(trunk(callee.port)))
        callee.wait("baresip is ready")
        call_id = self.ask(daemon, mp3=f"{self.web.url}/speech.mp3")
        callee.wait("incoming rtp for 'audio' established")
        for key in "1*0#":
            callee.command("sndcode", key)
            time.sleep(0.3)
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        media = daemon.admin("GET", f"/calls/{call_id}")["media"]
        self.assertEqual((media["digits"], media["packets_lost"], media["packets_lost_by_peer"]), ("1*0#", 0, 0))
        self.assertGreater(media["packets_received"], 400)
        self.assertLess(media["jitter"], 0.1)
        self.assertTrue(0 <= media["round_trip"] < 0.5, media)
        self.assertTrue(4.0 < media["mos"] <= 4.5, media)
        self.assertNotIn("1*0#", daemon.log.read_text())

    def test_tones(self) -> None:
        """Keys that are heard as tones are read where the trunk asks for it, and else are sound."""
        tones = self.folder / "tones.wav"
        write_tones(tones, PRESSED)
        trunks, callees = [], []
        for number, more in (("2125550100", "inband_dtmf = true"), ("2125550101", "")):
            source = f";audio_source=aufile,{tones}"
            callees.append(Baresip(self.folder / number, number=number, more="module aufile.so\n", account=source))
            self.world.callback(callees[-1].close)
            prefix = f'prefixes = ["1{number}"]\n{more}'
            trunks.append(trunk(callees[-1].port, name=f"phone {number[-1]}", more=prefix))
        daemon = self.run_daemon(settings(*trunks))
        calls = []
        for number, callee in zip(("2125550100", "2125550101"), callees, strict=True):
            callee.wait("baresip is ready")
            calls.append(self.ask(daemon, phone_number=number, mp3=f"{self.web.url}/speech.mp3"))
        for _ in calls:
            self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        found = [daemon.admin("GET", f"/calls/{call_id}")["media"]["digits"] for call_id in calls]
        self.assertEqual(found, [PRESSED, ""])

    def test_silence(self) -> None:
        """A callee of whom no packet comes is left after `media_timeout`; it did answer."""
        need("sipp")
        with sipp(self.folder / "sipp", sc.scenario(sc.ANSWER, sc.GOODBYE), "-key", "rtp", "40000") as carrier:
            daemon = self.run_daemon(settings(trunk(carrier.port), calls="media_timeout = 1.0"))
            began = time.monotonic()
            call_id = self.ask(daemon, mp3=f"{self.web.url}/speech.mp3")
            self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
            self.assertLess(time.monotonic() - began, 5.0)
            self.assertEqual(carrier.wait(), 0, carrier.explain())
            shown = daemon.admin("GET", f"/calls/{call_id}")["outcome"]
            self.assertEqual((shown["cause"], shown["ended_by"]), ("callee left", "network"))

    def answers_with(self, direction: str, calls: str) -> tuple[str, float, Ear]:
        """Have a call answered by who says this of its media and sends none; return its id, seconds and what came."""
        need("sipp")
        ear = Ear()
        self.addCleanup(ear.close)
        answer = sc.receive("INVITE") + sc.send(
            "200 OK", more=sc.CONTACT, body=sc.sdp(more=f"a={direction}\n"), retrans=500
        )
        scenario = sc.scenario(answer, sc.receive("ACK"), sc.GOODBYE)
        with sipp(self.folder / "sipp", scenario, "-key", "rtp", str(ear.port)) as carrier:
            daemon = self.run_daemon(settings(trunk(carrier.port), calls=calls))
            began = time.monotonic()
            call_id = self.ask(daemon)
            self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
            took = time.monotonic() - began
            self.assertEqual(carrier.wait(), 0, carrier.explain())
            return str(daemon.admin("GET", f"/calls/{call_id}")["outcome"]["cause"]), took, ear

    def test_hold(self) -> None:
        """A callee that holds the call is silent as it may be, hears nothing, and is left after `hold_timeout`."""
        cause, took, ear = self.answers_with("sendonly", "media_timeout = 0.5\nhold_timeout = 1.5")
        self.assertEqual((cause, len(ear.packets)), ("callee left", 0))
        self.assertTrue(1.5 <= took < 5.0, took)

    def test_listens(self) -> None:
        """A callee that said it only listens is not taken for gone: it hears all."""
        cause, _, ear = self.answers_with("recvonly", "media_timeout = 0.5")
        self.assertEqual(cause, "played")
        self.assertGreater(len(ear.packets), 100)
