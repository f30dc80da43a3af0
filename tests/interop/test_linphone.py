"""Calls to linphone, a telephone that we did not write, at its command line: it hears, holds and hangs up."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from tests.interop.case import SHORT, InteropCase, free_rtp_ports, settings, trunk
from tests.interop.harness import Daemon, free_udp_port, need, wait_for
from tests.interop.hearing import by_ffmpeg, correlation, from_wav

HOLD = 1.5
"Seconds."
CALLS = {
    "2125550100": ('codecs = ["PCMU"]', "RTP/AVP 0 ", 8000),
    "2125550101": ('codecs = ["PCMA"]\ntransport = "tcp"', "RTP/AVP 8 ", 8000),
    "2125550102": ('codecs = ["G722"]', "RTP/AVP 9 ", 16000),
    "2125550103": ('codecs = ["opus"]', "RTP/AVP 96 ", 48000),
    "2125550104": ('srtp = "required"\nsrtp_over_plain_sip = true', "RTP/SAVP 0 ", 8000),
}
"""Number -> its trunk's settings, what the callee's m= line says, and the rate of what it hears."""
SETTINGS = """\
[sip]
sip_port={port}
sip_tcp_port={port}
sip_tls_port=0
bind_address=127.0.0.1
guess_hostname=0
media_encryption={encryption}
[rtp]
audio_rtp_port={first_rtp}-{last_rtp}
audio_adaptive_jitt_comp_enabled=0
audio_jitt_comp=200
[audio_codec_0]
mime=PCMU
rate=8000
enabled=1
[audio_codec_1]
mime=PCMA
rate=8000
enabled=1
[audio_codec_2]
mime=G722
rate=8000
enabled=1
[audio_codec_3]
mime=opus
rate=48000
channels=2
enabled=1
"""


class Linphone:
    """One linphonec without a sound card; what it hears is kept as WAV."""

    def __init__(self, folder: Path, *, encryption: str = "none", answers: bool = True) -> None:
        """`answers`: whether it does so by itself."""
        program = need("linphonec")
        self.port = free_udp_port()
        self.log = folder / "log"
        self.heard = folder / "heard.wav"
        for each in (".local/share/linphone", ".config/linphone"):
            (folder / each).mkdir(parents=True)
        first = free_rtp_ports()
        config = folder / "linphonerc"
        config.write_text(SETTINGS.format(port=self.port, first_rtp=first, last_rtp=first + 99, encryption=encryption))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [program, *(["-a"] if answers else []), "-c", str(config)],
                cwd=folder,
                env=dict(os.environ, HOME=str(folder)),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.command("soundcard use files")
        self.command(f"record {self.heard}")
        self.wait(f"record {self.heard}")

    def command(self, line: str) -> None:
        """What a person types."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def wait(self, words: str) -> None:
        """Wait until it says these words."""
        wait_for(words, lambda: words in self.log.read_text(errors="replace"), 15.0)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def pieces_heard(path: Path, rate: int) -> int:
    """How many quarters of a second of the MP3 are in a WAV file as they were; five of its seven have something in
    them, and where its jitter buffer skips a packet, one piece is lost."""
    heard, sent = from_wav(path, rate), by_ffmpeg(SHORT, rate)
    size = rate // 4
    pieces = [sent[first : first + size] for first in range(0, len(sent) - size, size)]
    return sum(correlation(heard, piece) > 0.98 for piece in pieces)


class LinphoneTests(InteropCase):
    def phone(self, name: str = "linphone", *, encryption: str = "none", answers: bool = True) -> Linphone:
        phone = Linphone(self.folder / name, encryption=encryption, answers=answers)
        self.world.callback(phone.close)
        return phone

    def start(self, *, answers: bool = True) -> tuple[Daemon, Linphone]:
        phone = self.phone(answers=answers)
        return self.run_daemon(settings(trunk(phone.port))), phone

    def trace(self, daemon: Daemon, call_id: str) -> list[str]:
        return [each["text"] for each in daemon.admin("GET", f"/trace/{call_id}")]

    def test_hears(self) -> None:
        """In every codec, by UDP and TCP, plain and encrypted, the MP3 is heard."""
        phones = {
            number: self.phone(number, encryption="srtp" if "srtp" in more else "none")
            for number, (more, *_) in CALLS.items()
        }
        trunks = [
            trunk(phones[number].port, name=f"phone {number[-1]}", more=f'prefixes = ["1{number}"]\n{more}')
            for number, (more, *_) in CALLS.items()
        ]
        daemon = self.run_daemon(settings(*trunks))
        ids = {number: self.ask(daemon, phone_number=number) for number in CALLS}
        told = {each.query["phone_number"]: self.outcome(each) for each in (self.web.next_callback() for _ in CALLS)}
        for number, (_, media, rate) in CALLS.items():
            trace = self.trace(daemon, ids[number])
            self.assertEqual(told[number], ("1", ""), trace)
            answer = next(text for text in trace if text.startswith("SIP/2.0 200") and "m=audio" in text)
            self.assertRegex(answer, rf"m=audio \d+ {media}")
            phones[number].wait("ended")
            self.assertGreaterEqual(pieces_heard(phones[number].heard, rate), 4, media)

    def test_hangs_up(self) -> None:
        """Its BYE in the middle of the audio ends the call at once; it counts as answered."""
        daemon, phone = self.start()
        call_id = self.ask(daemon, mp3=f"{self.web.url}/speech.mp3")
        phone.wait("Media streams established")
        began = time.monotonic()
        phone.command("terminate")
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        self.assertLess(time.monotonic() - began, 5.0)
        self.assertTrue(any(text.startswith("BYE sip:0000000000@") for text in self.trace(daemon, call_id)))

    def test_rejects(self) -> None:
        """A telephone that rings and is then rejected by who hears it: 603, reason 5."""
        daemon, phone = self.start(answers=False)
        call_id = self.ask(daemon)
        phone.wait("Receiving new incoming call")
        phone.command("terminate")
        self.assertEqual(self.outcome(self.web.next_callback()), ("0", "5"))
        self.assertTrue(any(text.startswith("SIP/2.0 603") for text in self.trace(daemon, call_id)))

    def test_rings_for_too_long(self) -> None:
        """A telephone that rings until the CANCEL: reason 3, and it stops ringing."""
        daemon, phone = self.start(answers=False)
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "3"))
        phone.wait("ended")

    def test_holds(self) -> None:
        """While it holds the call the audio waits, and goes on after that."""
        daemon, phone = self.start()
        call_id = self.ask(daemon)
        phone.wait("Media streams established")
        began = time.monotonic()
        phone.command("pause")
        time.sleep(HOLD)
        phone.command("resume")
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        whole = len(by_ffmpeg(SHORT)) / 8000 + 0.8
        self.assertGreater(time.monotonic() - began, whole + HOLD - 0.3)
        messages = self.trace(daemon, call_id)
        self.assertEqual(
            [len([each for each in messages if f"a={way}" in each]) for way in ("sendonly", "recvonly")], [1, 1]
        )
