"""Calls to SIPp, a carrier that we did not write: what it hears, and what the customer is told."""

from __future__ import annotations

import hashlib
import re
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from twisted.trial.unittest import SynchronousTestCase

from tests.interop import scenarios as sc
from tests.interop.harness import Daemon, Sipp, Told, Web, errors_in, free_udp_port, need, sipp, web_server

SPEECH = Path(__file__).parents[2] / "calledind" / "simulator" / "speech.mp3"


def settings(port: int, *, calls: str = "", trunk: str = "", sip: str = "", rest: str = "") -> str:
    """A settings file whose one trunk is the SIPp on this port."""
    first = free_udp_port() & ~1
    return f"""
[sip]
bind = ["127.0.0.1:0"]
{sip}
[rtp]
bind = "127.0.0.1"
ports = [{min(first, 60000)}, {min(first, 60000) + 199}]
[audio]
allow_networks = ["127.0.0.0/8"]
allow_ports = []
[calls]
ring_timeout = 3.0
{calls}
{rest}
[[trunks]]
name = "sipp"
host = "127.0.0.1"
port = {port}
calls_per_second = 100.0
{trunk}
"""


def u_law_to_pcm(octets: bytes) -> NDArray[np.float64]:
    """ITU-T G.711, written here once more so that our own encoder has no say in it."""
    code = ~np.frombuffer(octets, np.uint8)
    exponent, mantissa = (code >> 4) & 7, code & 15
    magnitude = ((mantissa.astype(np.int32) << 3) + 0x84 << exponent) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.float64)


def by_ffmpeg(mp3: Path) -> NDArray[np.float64]:
    """An independent decode, 8 kHz mono."""
    command = [need("ffmpeg"), "-v", "error", "-i", str(mp3), "-ac", "1", "-ar", "8000", "-f", "s16le", "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.int16).astype(np.float64)


def correlation(heard: NDArray[np.float64], sent: NDArray[np.float64]) -> float:
    """The greatest normalised correlation over all whole-sample alignments of what was sent within what was heard."""
    size = 1 << (len(heard) + len(sent)).bit_length()
    cross = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(sent, size)), size)
    shift = int(np.argmax(cross[: len(heard)]))
    part = heard[shift : shift + len(sent)]
    whole = sent[: len(part)]
    return float(np.dot(part, whole) / np.sqrt(np.dot(part, part) * np.dot(whole, whole)))


class Ear:
    """A UDP socket that keeps the RTP packets it gets."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.port = int(self.sock.getsockname()[1])
        self.packets: list[tuple[float, bytes]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            data = self.sock.recv(2048)
            if not data:
                return
            self.packets.append((time.monotonic(), data))

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self.sock.close()

    def octets(self) -> bytes:
        """The payload in the order of the sequence numbers."""
        return b"".join(data[12:] for _, data in sorted(self.packets, key=lambda each: each[1][2:4]))


class SippTests(SynchronousTestCase):
    """Each test has a daemon of its own, with SIPp as its one trunk."""

    world: ExitStack
    folder: Path
    web: Web

    def setUp(self) -> None:
        need("sipp")
        self.world = ExitStack()
        self.addCleanup(self.world.close)
        self.folder = Path(self.world.enter_context(tempfile.TemporaryDirectory()))
        self.web = self.world.enter_context(web_server({"/speech.mp3": SPEECH.read_bytes()}))

    def start(self, scenario: str, *arguments: str, calls: int = 1, trunk: str = "") -> tuple[Daemon, Sipp]:
        carrier = self.world.enter_context(sipp(self.folder / "sipp", scenario, *arguments, calls=calls))
        daemon = Daemon(self.folder / "daemon", settings(carrier.port, trunk=trunk))
        daemon.start()
        self.world.callback(self.stop, daemon)
        self.key = daemon.admin("POST", "/keys", {"name": "test", "credits": 100})["api_key"]
        return daemon, carrier

    def stop(self, daemon: Daemon) -> None:
        status = daemon.stop()
        self.assertEqual((status, errors_in(daemon.log.read_text())), (0, []), daemon.log.read_text()[-4000:])

    def call(self, daemon: Daemon, **parameters: str) -> Told:
        answer = daemon.playback(
            **{
                "api_key": self.key,
                "phone_number": "2125550100",
                "country_code": "1",
                "mp3": f"{self.web.url}/speech.mp3",
                "callback_url": f"{self.web.url}/callback?a=b",
                "secret": "hush & more",
                **parameters,
            }
        )
        self.assertEqual((answer.status, answer.body), (200, "0"), answer.headers)
        told = self.web.next_callback()
        self.assertEqual(told.headers["webhook-id"], answer.call_id)
        self.assertEqual(told.query["a"], "b")
        self.assertEqual(told.query["secret"], "hush & more")
        return told

    def outcome(self, told: Told) -> tuple[str, str]:
        return told.query["answered"], told.query["reason"]

    def expect(
        self, scenario: str, answered: str, reason: str, *arguments: str, trunk: str = ""
    ) -> tuple[Daemon, Sipp]:
        """Call; the customer is told this outcome, and SIPp saw what its scenario says."""
        daemon, carrier = self.start(scenario, *arguments, trunk=trunk)
        told = self.call(daemon)
        self.assertEqual(self.outcome(told), (answered, reason))
        self.assertEqual(carrier.wait(), 0, carrier.explain())
        return daemon, carrier

    def test_heard(self) -> None:
        """The callee hears the MP3, evenly, to the last word; then BYE, and the callback says answered."""
        ear = Ear()
        self.addCleanup(ear.close)
        self.expect(sc.scenario(sc.ANSWER, sc.GOODBYE), "1", "", "-key", "rtp", str(ear.port))
        sequence = [int.from_bytes(data[2:4]) for _, data in ear.packets]
        first = sequence[0]
        self.assertEqual(sequence, [(first + n) % 65536 for n in range(len(sequence))])
        stamps = [int.from_bytes(data[4:8]) for _, data in ear.packets]
        self.assertEqual({(b - a) % 2**32 for a, b in pairwise(stamps)}, {160})
        self.assertEqual([data[1] for _, data in ear.packets[:2]], [0x80, 0x00])
        self.assertGreaterEqual(correlation(u_law_to_pcm(ear.octets()), by_ffmpeg(SPEECH)), 0.99)

    def test_busy(self) -> None:
        """486 after ringing is reason 5."""
        self.expect(sc.refuse("486 Busy Here", ringing=True), "0", "5")

    def test_declined(self) -> None:
        """603 is reason 5."""
        self.expect(sc.refuse("603 Decline"), "0", "5")

    def test_not_found(self) -> None:
        """404 is reason 0."""
        self.expect(sc.refuse("404 Not Found"), "0", "0")

    def test_congestion(self) -> None:
        """503 is reason 8."""
        self.expect(sc.refuse("503 Service Unavailable"), "0", "8")

    def test_unavailable(self) -> None:
        """480 is reason 3 after ringing and 8 without."""
        self.expect(sc.refuse("480 Temporarily Unavailable", ringing=True), "0", "3")

    def test_unavailable_without_ringing(self) -> None:
        """480 without ringing is reason 8."""
        self.expect(sc.refuse("480 Temporarily Unavailable"), "0", "8")

    def test_cause_goes_before_the_status(self) -> None:
        """The Q.850 cause of a Reason header decides."""
        self.expect(sc.refuse("500 Oops", more='Reason: Q.850;cause=17;text="User busy"\n'), "0", "5")

    def test_hung_up(self) -> None:
        """487 that nobody asked for is reason 1."""
        self.expect(sc.refuse("487 Request Terminated", ringing=True), "0", "1")

    def test_ring_timeout(self) -> None:
        """A callee that never answers gets a CANCEL; reason 3."""
        self.expect(
            sc.scenario(
                sc.receive("INVITE"),
                sc.RINGING,
                sc.receive("CANCEL", extra='timeout="10000"'),
                sc.send("200 OK", sc.IN_DIALOG),
                # The INVITE's own CSeq; SIPp's last message is the CANCEL.
                sc.send(
                    "487 Request Terminated",
                    sc.ECHO_INVITE,
                    retrans=500,
                ),
                sc.receive("ACK"),
            ),
            "0",
            "3",
        )

    def test_cancel_crosses_answer(self) -> None:
        """A 200 that crosses our CANCEL is acknowledged and left with BYE; still reason 3."""
        self.expect(
            sc.scenario(
                sc.receive("INVITE"),
                sc.RINGING,
                sc.receive("CANCEL", extra='timeout="10000"'),
                sc.send(
                    "200 OK",
                    sc.ECHO_INVITE,
                    more=sc.CONTACT,
                    body=sc.sdp(port="40000"),
                    retrans=500,
                ),
                sc.receive("ACK"),
                sc.GOODBYE,
            ),
            "0",
            "3",
        )

    def test_silence(self) -> None:
        """A carrier that says nothing at all: timer B, reason 0."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", 0))
            daemon = Daemon(
                self.folder / "daemon",
                settings(deaf.getsockname()[1], sip="t1 = 0.05", calls="").replace("ring_timeout = 3.0", ""),
            )
            daemon.start()
            self.world.callback(self.stop, daemon)
            self.key = daemon.admin("POST", "/keys", {"name": "test", "credits": 1})["api_key"]
            self.assertEqual(self.outcome(self.call(daemon)), ("0", "0"))

    def test_nobody_listens(self) -> None:
        """A port that refuses datagrams (ICMP) is told at once, reason 0."""
        daemon = Daemon(self.folder / "daemon", settings(free_udp_port()))
        daemon.start()
        self.world.callback(self.stop, daemon)
        self.key = daemon.admin("POST", "/keys", {"name": "test", "credits": 1})["api_key"]
        began = time.monotonic()
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "0"))
        self.assertLess(time.monotonic() - began, 5.0)

    def test_digest_401(self) -> None:
        """A challenge of the callee's (401) is answered with the right digest."""
        self.challenged("401 Unauthorized", "WWW-Authenticate")

    def test_digest_407(self) -> None:
        """A challenge of a proxy's (407), which SIPp does not check, is answered with the digest of RFC 2617."""
        challenge = 'Proxy-Authenticate: Digest realm="carrier", nonce="abcdef", qop="auth", algorithm=MD5\n'
        _, carrier = self.expect(
            sc.scenario(
                sc.receive("INVITE"),
                sc.send("407 Proxy Authentication Required", more=challenge, retrans=500),
                sc.receive("ACK"),
                sc.receive("INVITE"),
                sc.OK,
                sc.receive("ACK"),
                sc.GOODBYE,
            ),
            "1",
            "",
            "-key",
            "rtp",
            "40000",
            trunk='username = "alice"\npassword = "wonder land"\n',
        )
        (line,) = {line for line in carrier.messages().splitlines() if line.startswith("Proxy-Authorization:")} - {
            line for line in carrier.messages().splitlines() if "nc=00000001" not in line
        }
        said = dict(re.findall(r'(\w+)="?([^",]+)"?', line))
        secret, uri = (
            hashlib.md5(text.encode()).hexdigest() for text in ("alice:carrier:wonder land", f"INVITE:{said['uri']}")
        )
        whole = f"{secret}:abcdef:00000001:{said['cnonce']}:auth:{uri}"
        self.assertEqual(said["response"], hashlib.md5(whole.encode()).hexdigest())

    def challenged(self, status: str, header: str) -> None:
        challenge = (
            f'{header}: Digest realm="carrier", nonce="47364c23432d2e131a5fb210812c", qop="auth", algorithm=MD5\n'
        )
        check = '<action><verifyauth assign_to="right" username="alice" password="wonder land"/></action>'
        self.expect(
            sc.scenario(
                sc.receive("INVITE"),
                sc.send(status, more=challenge, retrans=500),
                sc.receive("ACK"),
                sc.receive("INVITE", inner=check),
                '<nop next="answer" test="right"/>\n',
                sc.send("403 Forbidden", retrans=500),
                sc.receive("ACK"),
                '<nop next="end"/>\n<label id="answer"/>\n',
                sc.OK,
                sc.receive("ACK"),
                sc.GOODBYE,
                '<label id="end"/>\n',
            ),
            "1",
            "",
            "-key",
            "rtp",
            "40000",
            trunk='username = "alice"\npassword = "wonder land"\n',
        )

    def test_wrong_password(self) -> None:
        """A carrier that challenges again and again is asked no more than twice; reason 8."""
        challenge = 'WWW-Authenticate: Digest realm="carrier", nonce="abc", qop="auth", algorithm=MD5\n'
        refusal = sc.send("401 Unauthorized", more=challenge, retrans=500) + sc.receive("ACK")
        self.expect(
            sc.scenario(sc.receive("INVITE"), refusal, sc.receive("INVITE"), refusal),
            "0",
            "8",
            trunk='username = "alice"\npassword = "wrong"\n',
        )

    def test_record_route(self) -> None:
        """ACK and BYE go by the route set, the last Record-Route first, with the remote target as Request-URI."""
        routes = (
            "Record-Route: <sip:127.0.0.1:[local_port];lr;hop=2>\nRecord-Route: <sip:127.0.0.1:[local_port];lr;hop=1>\n"
        )
        _, carrier = self.expect(
            sc.scenario(
                sc.receive("INVITE"),
                sc.send("200 OK", more=routes + sc.CONTACT, body=sc.sdp(), retrans=500),
                sc.receive("ACK"),
                sc.GOODBYE,
            ),
            "1",
            "",
            "-key",
            "rtp",
            "40000",
        )
        messages = carrier.messages()
        for method in ("ACK", "BYE"):
            request = messages[messages.index(f"{method} sip:callee@127.0.0.1:{carrier.port}") :]
            request = request[: request.index("\n\n")]
            self.assertIn("hop=1", request)
            self.assertLess(request.index("hop=1"), request.index("hop=2"))

    def test_peer_hangs_up(self) -> None:
        """The callee's BYE is answered, and the call counts as answered."""
        self.expect(
            sc.scenario(
                sc.receive("INVITE", inner=sc.KEEP_DIALOG),
                sc.RINGING,
                sc.OK,
                sc.receive("ACK"),
                sc.pause(1000),
                sc.request("BYE"),
                sc.expect(200),
                sc.REFERENCE,
            ),
            "1",
            "",
            "-key",
            "rtp",
            "40000",
        )

    def test_early_media_then_busy(self) -> None:
        """Early media in a 183 is no answer."""
        self.expect(
            sc.scenario(
                sc.receive("INVITE"),
                sc.send("183 Session Progress", more=sc.CONTACT, body=sc.sdp(port="40000")),
                sc.pause(300),
                sc.send("486 Busy Here", retrans=500),
                sc.receive("ACK"),
            ),
            "0",
            "5",
        )

    def test_answer_without_audio(self) -> None:
        """A 200 whose SDP takes nothing of ours is acknowledged and left at once; reason 0."""
        self.expect(
            sc.scenario(
                sc.receive("INVITE"),
                sc.send("200 OK", more=sc.CONTACT, body=sc.sdp("18", port="0"), retrans=500),
                sc.receive("ACK"),
                sc.GOODBYE,
            ),
            "0",
            "0",
        )

    def test_lossy(self) -> None:
        """With a fifth of SIPp's messages lost both ways, the call is made, once, and ended."""
        self.expect(
            sc.scenario(
                sc.receive("INVITE", extra='lost="20"'),
                sc.send("180 Ringing", more=sc.CONTACT, extra='lost="20"'),
                sc.send("200 OK", more=sc.CONTACT, body=sc.sdp(), retrans=500, extra='lost="20"'),
                sc.receive("ACK", extra='lost="20"'),
                sc.GOODBYE,
            ),
            "1",
            "",
            "-key",
            "rtp",
            "40000",
        )

    def test_many(self) -> None:
        """Fifty calls at once, each with its own callback."""
        numbers = [f"21255501{n:02}" for n in range(50)]
        daemon, carrier = self.start(sc.scenario(sc.ANSWER, sc.GOODBYE), "-key", "rtp", "40000", calls=len(numbers))
        for number in numbers:
            answer = daemon.playback(
                api_key=self.key,
                phone_number=number,
                country_code="1",
                mp3=f"{self.web.url}/speech.mp3",
                callback_url=f"{self.web.url}/callback",
            )
            self.assertEqual(answer.body, "0", answer.headers)
        told = [self.web.next_callback().query for _ in numbers]
        self.assertEqual(sorted(each["phone_number"] for each in told), numbers)
        self.assertEqual({each["answered"] for each in told}, {"1"})
        self.assertEqual(carrier.wait(), 0, carrier.explain())
        status = daemon.admin("GET", "/status")["store"]
        self.assertEqual((status["credits"], status["held"], status["charged"]), (50, 0, 50))
