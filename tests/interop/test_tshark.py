"""What Wireshark says about our messages and packets: nothing malformed, nothing lost, an even pace."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import SkipTest

from tests.interop import scenarios as sc
from tests.interop.case import SHORT, InteropCase, free_rtp_ports, settings, trunk
from tests.interop.harness import Sipp, free_udp_port, need, sipp, wait_for
from tests.interop.hearing import Ear, by_ffmpeg

CHALLENGE = 'WWW-Authenticate: Digest realm="carrier", nonce="47364c23", qop="auth", algorithm=MD5\n'
PASSWORD = 'username = "alice"\npassword = "wonder land"\n'
MARK = b"calledin test: "
WARNING = 0x600000
"Wireshark's severity; an error is more."

SCENARIOS = {
    "answers": sc.scenario(sc.ANSWER, sc.GOODBYE),
    "busy": sc.refuse("486 Busy Here", ringing=True),
    "never answers": sc.scenario(
        sc.receive("INVITE"),
        sc.RINGING,
        sc.receive("CANCEL", extra='timeout="10000"'),
        sc.send("200 OK", sc.IN_DIALOG),
        sc.send("487 Request Terminated", sc.ECHO_INVITE, retrans=500),
        sc.receive("ACK"),
    ),
    "challenges": sc.scenario(
        sc.receive("INVITE"),
        sc.send("401 Unauthorized", more=CHALLENGE, retrans=500),
        sc.receive("ACK"),
        sc.ANSWER,
        sc.GOODBYE,
    ),
    "holds": sc.scenario(
        sc.receive("INVITE", inner=sc.KEEP_DIALOG),
        sc.RINGING,
        sc.OK,
        sc.receive("ACK"),
        sc.pause(500),
        sc.reinvite(1, "sendonly"),
        sc.pause(700),
        sc.reinvite(2, "sendrecv"),
        sc.GOODBYE,
        sc.REFERENCE,
    ),
    "hangs up": sc.scenario(
        sc.receive("INVITE", inner=sc.KEEP_DIALOG),
        sc.RINGING,
        sc.OK,
        sc.receive("ACK"),
        sc.pause(1000),
        sc.request("BYE"),
        sc.expect(200),
        sc.REFERENCE,
    ),
}
OUTCOMES = {
    "answers": ("1", ""),
    "busy": ("0", "5"),
    "never answers": ("0", "3"),
    "challenges": ("1", ""),
    "holds": ("1", ""),
    "hangs up": ("1", ""),
}


@dataclass(frozen=True)
class Stream:
    """A line of tshark's RTP streams; times in milliseconds."""

    port: int
    "Where it went."
    payload: str
    packets: int
    lost: int
    mean_gap: float
    mean_jitter: float


@dataclass(frozen=True)
class Capture:
    """A file of packets, and tshark to ask about it."""

    path: Path
    sip_port: int

    def tshark(self, *arguments: str) -> list[str]:
        command = [need("tshark"), "-r", str(self.path), "-d", f"udp.port=={self.sip_port},sip", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()

    def matching(self, display_filter: str, *fields: str) -> list[str]:
        """A line for each packet that the filter lets through, our marks left out: their port may be any protocol's."""
        others = f'({display_filter}) && !(udp contains "{MARK.decode()}")'
        return self.tshark("-Y", others, "-T", "fields", *(part for name in fields for part in ("-e", name)))

    def streams(self) -> list[Stream]:
        lines = [line.split() for line in self.tshark("-q", "-z", "rtp,streams")]
        rows = [row for row in lines if len(row) > 14 and row[6].startswith("0x")]
        # start, end, source, port, destination, port, SSRC, payload, packets, lost, (x%), gaps, jitters
        return [Stream(int(row[5]), row[7], int(row[8]), int(row[9]), float(row[12]), float(row[15])) for row in rows]


@contextmanager
def capturing(path: Path, capture_filter: str) -> Iterator[None]:
    """Capture on the loopback interface; skips the test where that is not allowed.

    A datagram before the first packet and one after the last show that dumpcap has begun, and has all.
    """
    mark = free_udp_port()
    process = subprocess.Popen(
        [need("dumpcap"), "-q", "-i", "lo", "-f", f"({capture_filter}) or udp port {mark}", "-w", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )

    def seen(words: bytes) -> bool:
        if process.poll() is not None:
            assert process.stderr is not None
            raise SkipTest(f"skipped: dumpcap may not capture here: {process.stderr.read().decode().strip()[-200:]}")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as marker:
            marker.sendto(words, ("127.0.0.1", mark))
        return path.exists() and words in path.read_bytes()

    try:
        wait_for("dumpcap captures", lambda: seen(MARK + b"begin"))
        yield
        wait_for("dumpcap has it all", lambda: seen(MARK + b"end"))
    finally:
        process.terminate()
        process.communicate(timeout=30)


class TsharkTests(InteropCase):
    def capture(self) -> tuple[Capture, dict[str, Ear]]:
        """One call of each kind, all at once, to a trunk each; all packets of the daemon's."""
        need("tshark")
        sip_port, first_rtp = free_udp_port(), free_rtp_ports()
        carriers: dict[str, Sipp] = {}
        ears: dict[str, Ear] = {}
        trunks = []
        for number, (name, scenario) in enumerate(SCENARIOS.items()):
            ears[name] = Ear()
            self.world.callback(ears[name].close)
            arguments = ("-key", "rtp", str(ears[name].port))
            carriers[name] = self.world.enter_context(sipp(self.folder / f"sipp{number}", scenario, *arguments))
            more = f'prefixes = ["1212555010{number}"]\n' + (PASSWORD if name == "challenges" else "")
            trunks.append(trunk(carriers[name].port, name=name, more=more))
        daemon = self.run_daemon(settings(*trunks, sip_port=sip_port, first_rtp=first_rtp))
        path = self.folder / "calls.pcapng"
        with capturing(path, f"udp port {sip_port} or udp portrange {first_rtp}-{first_rtp + 199}"):
            names = {self.ask(daemon, phone_number=f"212555010{number}"): name for number, name in enumerate(SCENARIOS)}
            told = [self.web.next_callback() for _ in SCENARIOS]
            for name, carrier in carriers.items():
                self.assertEqual(carrier.wait(), 0, f"{name}: {carrier.explain()}")
            wait_for("channels are free", lambda: daemon.admin("GET", "/status")["live"] == 0)
        self.assertEqual({names[each.headers["webhook-id"]]: self.outcome(each) for each in told}, OUTCOMES)
        return Capture(path, sip_port), ears

    def test_calls(self) -> None:
        """Calls that are answered, busy, cancelled, challenged, held and left by the callee, in Wireshark's eyes."""
        capture, ears = self.capture()
        self.assertEqual(capture.matching("_ws.malformed", "frame.number", "_ws.col.Info"), [])
        ours = f"(sip && udp.srcport == {capture.sip_port}) || rtp || rtcp"
        severe = f"_ws.expert.severity >= {WARNING} && ({ours})"
        self.assertEqual(capture.matching(severe, "frame.number", "_ws.expert.message", "_ws.col.Info"), [])
        # Each packet was told by SIP or SDP what it is.
        self.assertEqual(capture.matching("udp && !(sip || rtp || rtcp)", "frame.number", "_ws.col.Info"), [])
        methods = capture.matching(f"sip.Method && udp.srcport == {capture.sip_port}", "sip.Method")
        self.assertEqual(set(methods), {"INVITE", "ACK", "CANCEL", "BYE"})
        self.assertEqual(len(capture.matching("rtcp.pt == 203", "frame.number")), 4)
        # Nobody may cut our voice into fragments, and so no packet needs an identification (RFC 6864).
        self.assertEqual(capture.matching("(rtp || rtcp) && (ip.flags.df == 0 || ip.id != 0)", "frame.number"), [])
        self.streams(capture, ears)

    def streams(self, capture: Capture, ears: dict[str, Ear]) -> None:
        answered = {ears[name].port: name for name, outcome in OUTCOMES.items() if outcome == ("1", "")}
        # The lead-in and the lead-out are 0.4 s each.
        whole = len(by_ffmpeg(SHORT)) / 8000 + 0.8
        streams = capture.streams()
        self.assertEqual(sorted(answered[stream.port] for stream in streams), sorted(answered.values()))
        for stream in streams:
            with self.subTest(answered[stream.port]):
                self.assertEqual(stream.lost, 0)
                self.assertEqual(stream.payload, "g711U")
                self.assertLess(stream.mean_jitter, 10.0)
                if answered[stream.port] in ("answers", "challenges"):
                    self.assertLess(abs(stream.mean_gap - 20.0), 1.0)
                    self.assertLess(abs(stream.packets * 0.02 - whole), 0.1)
