"""Calls to baresip, a telephone that we did not write: it answers, hears, holds and hangs up."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from unittest import SkipTest

from tests.interop.case import SHORT, InteropCase, free_rtp_ports, settings, trunk
from tests.interop.harness import Daemon, free_ports, free_tcp_port, join, need, wait_for
from tests.interop.hearing import by_ffmpeg, correlation, from_wav

MODULES = ("/usr/lib/baresip/modules", "/usr/local/lib/baresip/modules", "/opt/homebrew/lib/baresip/modules")

HOLD = 1.5
"Seconds."

# Its loudspeaker is its microphone (aubridge), so that no sound card is needed and RTP flows both ways.
CONFIG = """\
poll_method select
sip_listen {sip}
net_interface {host}
audio_player aubridge,ear
audio_source aubridge,ear
ausrc_srate 8000
auplay_srate 8000
ausrc_channels 1
auplay_channels 1
rtp_ports {first_rtp}-{last_rtp}
jitter_buffer_delay 2-4
ctrl_tcp_listen 127.0.0.1:{control}
module_path {modules}
module g711.so
module sndfile.so
module aubridge.so
module_app account.so
module_app menu.so
module_app ctrl_tcp.so
"""


def free_sip_port() -> int:
    """A port for UDP and TCP; baresip opens the next one as well (TLS)."""
    return free_ports(2)


class Baresip:
    """One headless baresip that answers calls to one number; what it decodes is kept as WAV."""

    def __init__(
        self,
        folder: Path,
        *,
        number: str = "2125550100",
        codec: str = "PCMU",
        host: str = "127.0.0.1",
        answers: str = "auto",
        more: str = "",
        account: str = "",
    ) -> None:
        """`more`: further lines of its settings; `account`: further parameters of its account."""
        program = need("baresip")
        modules = next((path for path in MODULES if Path(path, "sndfile.so").exists()), None)
        if modules is None:
            raise SkipTest("skipped: baresip's modules are not installed")
        self.port = free_sip_port()
        self.folder = folder
        self.log = folder / "baresip.log"
        self._control = free_tcp_port()
        address = join(host, self.port)
        first = free_rtp_ports()
        folder.mkdir()
        (folder / "config").write_text(
            CONFIG.format(
                sip=address, host=host, first_rtp=first, last_rtp=first + 99, control=self._control, modules=modules
            )
            + more
        )
        audio = codec if "/" in codec else f"{codec}/8000/1"
        (folder / "accounts").write_text(
            f"<sip:+1{number}@{address}>;regint=0;answermode={answers};audio_codecs={audio}{account}\n"
        )
        (folder / "contacts").touch()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [program, "-f", str(folder)], cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, words: str) -> None:
        """Wait until it logs these words."""
        try:
            wait_for(words, lambda: words in self.said() or self.process.poll() is not None, 15.0)
            assert words in self.said(), f"baresip ended with {self.process.poll()}"
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said()[-3000:]}") from None

    def command(self, name: str, parameters: str = "") -> None:
        """What a person does at its keys, as a netstring of JSON."""
        text = json.dumps({"command": name, "params": parameters})
        with socket.create_connection(("127.0.0.1", self._control), timeout=5) as control:
            control.sendall(f"{len(text)}:{text},".encode())
            while b'"response":true' not in control.recv(65536):
                pass

    def heard(self) -> Path:
        """The WAV file of the one call that it had."""
        (path,) = self.folder.glob("dump-*-dec.wav")
        return path

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class BaresipTests(InteropCase):
    def start(self, *, answers: str = "auto") -> tuple[Daemon, Baresip]:
        callee = Baresip(self.folder / "baresip", answers=answers)
        self.world.callback(callee.close)
        daemon = self.run_daemon(settings(trunk(callee.port)))
        callee.wait("baresip is ready")
        return daemon, callee

    def test_hears(self) -> None:
        """Telephones that speak PCMU alone or PCMA alone hear all of the MP3, over IPv4 and over IPv6."""
        callees: dict[str, tuple[str, Baresip]] = {}
        trunks = []
        for codec, host in (("PCMU", "127.0.0.1"), ("PCMA", "127.0.0.1"), ("PCMU", "::1"), ("PCMA", "::1")):
            number = f"212555010{len(callees)}"
            callee = Baresip(self.folder / number, number=number, codec=codec, host=host)
            self.world.callback(callee.close)
            callees[number] = codec, callee
            trunks.append(trunk(callee.port, name=f"phone {number[-1]}", host=host, more=f'prefixes = ["1{number}"]'))
        daemon = self.run_daemon(settings(*trunks, host="::"))
        for number, (_, callee) in callees.items():
            callee.wait("baresip is ready")
            self.ask(daemon, phone_number=number)
        told = [self.web.next_callback() for _ in callees]
        self.assertEqual(
            {each.query["phone_number"]: self.outcome(each) for each in told}, dict.fromkeys(callees, ("1", ""))
        )
        for codec, callee in callees.values():
            callee.wait("terminated (duration")
            self.assertIn(f"Set audio decoder: {codec} 8000Hz", callee.said())
            callee.close()
            self.assertGreaterEqual(correlation(from_wav(callee.heard()), by_ffmpeg(SHORT)), 0.99)

    def test_hangs_up(self) -> None:
        """The callee's BYE in the middle of the audio ends the call at once; it counts as answered."""
        daemon, callee = self.start()
        self.ask(daemon, mp3=f"{self.web.url}/speech.mp3")
        callee.wait("Call established")
        began = time.monotonic()
        callee.command("hangup")
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        self.assertLess(time.monotonic() - began, 5.0)

    def test_holds(self) -> None:
        """While the callee holds the call the audio waits; after that it goes on, and nothing of it is lost."""
        daemon, callee = self.start()
        call_id = self.ask(daemon)
        callee.wait("incoming rtp for 'audio' established")
        began = time.monotonic()
        callee.command("hold")
        time.sleep(HOLD)
        callee.command("resume")
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        whole = len(by_ffmpeg(SHORT)) / 8000 + 0.8
        self.assertGreater(time.monotonic() - began, whole + HOLD - 0.3)
        callee.wait("terminated (duration")
        callee.close()
        messages = [each["text"] for each in daemon.admin("GET", f"/trace/{call_id}")]
        self.assertEqual(
            [len([each for each in messages if f"a={way}" in each]) for way in ("sendonly", "recvonly")], [1, 1]
        )

    def test_rejects(self) -> None:
        """A telephone that rings and is then rejected by who hears it: 486, reason 5."""
        daemon, callee = self.start(answers="manual")
        self.ask(daemon)
        callee.wait("Incoming call")
        callee.command("hangup")
        self.assertEqual(self.outcome(self.web.next_callback()), ("0", "5"))

    def test_rings_for_too_long(self) -> None:
        """A telephone that rings until the CANCEL: reason 3, and it stops ringing."""
        daemon, callee = self.start(answers="manual")
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "3"))
        callee.wait("session closed")
