"""Encrypted media with a telephone that we did not write: what baresip decrypts is the MP3."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from tests.interop.case import SHORT, InteropCase, free_rtp_ports, settings, trunk
from tests.interop.harness import Daemon, need, wait_for
from tests.interop.hearing import by_ffmpeg, correlation, from_wav
from tests.interop.test_baresip import Baresip, free_sip_port
from tests.interop.test_tshark import Capture, capturing
from tests.net.certificates import Authority

SUITES = ("AEAD_AES_256_GCM", "AEAD_AES_128_GCM", "AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32")


@dataclass(frozen=True)
class Pair:
    """A trunk and its telephone."""

    srtp: str
    "What the trunk wants."
    mediaenc: str
    "What the telephone wants; empty: it knows no SRTP."
    suites: tuple[str, ...] = SUITES
    "What the trunk offers."
    used: str | None = None
    "The suite of the call; None: plain RTP."


REQUIRED = Pair("required", "srtp-mand", used=SUITES[0])
CALLS = (
    *(Pair("required", "srtp", (suite,), suite) for suite in SUITES),
    Pair("offered", "srtp", used=SUITES[0]),
    Pair("offered", ""),
)


class SrtpTests(InteropCase):
    def start(self, *pairs: Pair, sip_port: int = 0, first_rtp: int = 0) -> tuple[Daemon, list[Baresip]]:
        """A trunk and a telephone for each, the numbers from 2125550100 on."""
        phones, trunks = [], []
        for index, pair in enumerate(pairs):
            phone = Baresip(
                self.folder / f"baresip{index}",
                number=f"212555010{index}",
                more="module srtp.so\n" if pair.mediaenc else "",
                account=f";mediaenc={pair.mediaenc}" if pair.mediaenc else "",
            )
            self.world.callback(phone.close)
            phones.append(phone)
            more = (
                f'prefixes = ["1212555010{index}"]\nsrtp = "{pair.srtp}"\nsrtp_over_plain_sip = true\n'
                f"srtp_suites = {list(pair.suites)}\n"
            )
            trunks.append(trunk(phone.port, name=f"phone{index}", more=more))
        daemon = self.run_daemon(settings(*trunks, sip_port=sip_port, first_rtp=first_rtp))
        for phone in phones:
            phone.wait("baresip is ready")
        return daemon, phones

    def messages(self, daemon: Daemon, call_id: str) -> list[str]:
        return [each["text"] for each in daemon.admin("GET", f"/trace/{call_id}")]

    def hear(self, daemon: Daemon, phones: list[Baresip], *pairs: Pair) -> None:
        """Each hears all of the MP3, encrypted as it is to be, and is heard; the trace has no keys."""
        ids = [self.ask(daemon, phone_number=f"212555010{index}") for index in range(len(phones))]
        for _ in phones:
            self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        for call_id, phone, pair in zip(ids, phones, pairs, strict=True):
            phone.wait("terminated (duration")
            offer, answer = (text for text in self.messages(daemon, call_id) if "m=audio" in text)
            offered, answered = (
                [line.split()[1] for line in text.splitlines() if line.startswith("a=crypto:")]
                for text in (offer, answer)
            )
            self.assertEqual((offered, answered), (list(pair.suites), [pair.used] if pair.used else []))
            self.assertIn("RTP/SAVP" if pair.srtp == "required" else "RTP/AVP", offer)
            self.assertEqual(offer.count("inline:"), offer.count("inline:..."))
            heard = re.search(rf"call {call_id}: .* ([0-9]+) received, ([0-9]+) lost", daemon.log.read_text())
            assert heard is not None
            self.assertGreater(int(heard[1]), 100)
            self.assertEqual(heard[2], "0")
            self.assertEqual(daemon.admin("GET", f"/calls/{call_id}")["media"]["srtp"], pair.used or "")
            phone.close()
            self.assertGreaterEqual(correlation(from_wav(phone.heard()), by_ffmpeg(SHORT)), 0.99)

    def test_calls(self) -> None:
        """Required with each suite, offered to who takes it and to who doesn't."""
        daemon, phones = self.start(*CALLS)
        self.hear(daemon, phones, *CALLS)

    def test_over_tls(self) -> None:
        """With TLS the keys need no leave to travel: the same call, signalling and media out of everybody's sight."""
        authority = Authority(self.folder / "certificates")
        certificate, key = authority.issue("127.0.0.1")
        both = self.folder / "certificates" / "both.pem"
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        more = f"module srtp.so\nsip_certificate {both}\n"
        phone = Baresip(self.folder / "baresip", more=more, account=";mediaenc=srtp-mand")
        self.world.callback(phone.close)
        phone.wait("baresip is ready")
        more = f'transport = "tls"\ntls_ca = "{authority.certificate}"\nsrtp = "required"'
        daemon = self.run_daemon(settings(trunk(phone.port + 1, more=more)))
        self.hear(daemon, [phone], REQUIRED)

    def test_holds(self) -> None:
        """Held and resumed under its keys, the call goes on where it was."""
        daemon, (phone,) = self.start(REQUIRED)
        call_id = self.ask(daemon)
        phone.wait("incoming rtp for 'audio' established")
        phone.command("hold")
        time.sleep(1.0)
        phone.command("resume")
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        phone.wait("terminated (duration")
        phone.close()
        held = [text for text in self.messages(daemon, call_id) if "a=recvonly" in text]
        self.assertEqual([text.count("a=crypto:") for text in held], [1])

    def test_refused(self) -> None:
        """A telephone without SRTP does not get a call that requires it, nor one that insists on it a plain one."""
        daemon, phones = self.start(Pair("required", ""), Pair("off", "srtp-mand"))
        for index, phone in enumerate(phones):
            self.assertEqual(self.outcome(self.call(daemon, phone_number=f"212555010{index}"))[0], "0")
            self.assertNotIn("Call established", phone.said())

    def test_tshark(self) -> None:
        """In Wireshark's eyes it is SRTP and SRTCP without a fault, and none of the silence is in the clear."""
        need("tshark")
        sip_port, first = free_sip_port(), free_rtp_ports()
        daemon, phones = self.start(REQUIRED, sip_port=sip_port, first_rtp=first)
        path = self.folder / "calls.pcapng"
        with capturing(path, f"udp port {sip_port} or udp portrange {first}-{first + 199}"):
            self.hear(daemon, phones, REQUIRED)
            wait_for("channels are free", lambda: daemon.admin("GET", "/status")["live"] == 0)
        capture = Capture(path, sip_port)
        # What Wireshark reads into the octets of encrypted RTCP is chance: below, our own is known as such.
        self.assertEqual(capture.matching("_ws.malformed && !srtcp", "frame.number", "_ws.col.Info"), [])
        ours = f"udp.srcport >= {first} && udp.srcport < {first + 200}"
        sent = capture.matching(f"rtp && {ours}", "_ws.col.Protocol", "rtp.p_type")
        self.assertEqual(set(sent), {"SRTP\t0"})
        self.assertGreater(len(sent), 100)
        self.assertEqual(set(capture.matching(f"(rtcp || srtcp) && {ours}", "_ws.col.Protocol")), {"SRTCP"})
        self.assertEqual(capture.matching(f"{ours} && udp contains ff:ff:ff:ff:ff:ff:ff:ff", "frame.number"), [])
        self.assertNotIn("inline:", daemon.log.read_text())
        kept = [each for each in daemon.data.rglob("*") if each.is_file() and b"inline:" in each.read_bytes()]
        self.assertEqual(kept, [])
