"""Encrypted media with a telephone that we did not write: what baresip decrypts is the MP3."""

from __future__ import annotations

from pathlib import Path

from tests.interop.case import SHORT, InteropCase, free_rtp_ports, settings, trunk
from tests.interop.harness import Daemon, free_udp_port, need, wait_for
from tests.interop.hearing import by_ffmpeg, correlation, from_wav
from tests.interop.test_baresip import Baresip
from tests.interop.test_tshark import Capture, capturing

SUITES = ("AEAD_AES_256_GCM", "AEAD_AES_128_GCM", "AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32")


class SrtpTests(InteropCase):
    def start(self, srtp: str, encryption: str, more: str = "", **others: int) -> tuple[Daemon, Baresip]:
        """A trunk with this `srtp`, to a telephone with this `mediaenc`, none where that is empty."""
        account = f";mediaenc={encryption}" if encryption else ""
        callee = Baresip(self.folder / "baresip", more="module srtp.so\n", account=account)
        self.world.callback(callee.close)
        wanted = f'srtp = "{srtp}"\nsrtp_over_plain_sip = true\n{more}'
        daemon = self.run_daemon(settings(trunk(callee.port, more=wanted), **others))
        callee.wait("baresip is ready")
        return daemon, callee

    def hears(self, daemon: Daemon, callee: Baresip, *, suite: str | None) -> None:
        """All of it, encrypted so; and calledin understands its RTP and RTCP."""
        call_id = self.ask(daemon)
        told = self.web.next_callback()
        self.assertEqual(self.outcome(told), ("1", ""))
        callee.wait("terminated (duration")
        messages = [each["text"] for each in daemon.admin("GET", f"/trace/{call_id}")]
        answer = next(text for text in messages if text.startswith("SIP/2.0 200") and "m=audio" in text)
        lines = [line.split()[1] for line in answer.splitlines() if line.startswith("a=crypto:")]
        self.assertEqual(lines, [suite] if suite else [])
        callee.close()
        self.assertGreaterEqual(correlation(from_wav(callee.heard()), by_ffmpeg(SHORT)), 0.99)

    def test_required(self) -> None:
        """A telephone that insists on SRTP hears all of the MP3, with the suite that is preferred."""
        daemon, callee = self.start("required", "srtp-mand")
        self.hears(daemon, callee, suite=SUITES[0])
