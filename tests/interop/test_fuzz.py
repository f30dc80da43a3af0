"""Damaged SIP, RTP and HTTP into a running daemon while calls play: nothing breaks, nothing hangs, nothing grows.

Two thousand of each; `CALLEDIN_FUZZ` is another number.
"""

from __future__ import annotations

import os
import random
import re
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlencode

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.harness import Daemon, errors_in, free_udp_port, wait_for, web_server
from tests.interop.judge import Carrier
from tests.interop.test_kill import SHORT, settings

MUTATIONS = int(os.environ.get("CALLEDIN_FUZZ", "2000"))
SPEECH = Path(__file__).parents[2] / "calledind" / "simulator" / "speech.mp3"
GROWTH = 16 * 1024
"KiB that the daemon may be larger afterwards; what it keeps on purpose (the trace, caches) is within it."

SIP = (
    """SIP/2.0 180 Ringing
Via: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bKx.1;rport={port};received=127.0.0.1
From: <sip:0000000000@127.0.0.1>;tag=a
To: "A \\"quoted\\" name" <sip:+12125550100@127.0.0.1;user=phone>;tag=b
Call-ID: 01234567890123456789012345678901-1
CSeq: 1 INVITE
Record-Route: <sip:a.example.com;lr>, <sip:b.example.com;lr>
Contact: <sip:callee@127.0.0.1:5060>
Content-Length: 0

""",
    """SIP/2.0 401 Unauthorized
v: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bKx.1
f: <sip:0000000000@127.0.0.1>;tag=a
t: <sip:+12125550100@127.0.0.1>;tag=b
i: abc
CSeq: 1 INVITE
WWW-Authenticate: Digest realm="x, y", nonce="n", qop="auth,auth-int", algorithm=SHA-256
l: 0

""",
    """INVITE sip:x@127.0.0.1:{port} SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK{n}
Max-Forwards: 70
From: <sip:y@127.0.0.1>;tag={n}
To: <sip:x@127.0.0.1>
Call-ID: fuzz{n}
CSeq: 1 INVITE
Contact: <sip:y@127.0.0.1:9>
Require: 100rel
Content-Type: application/sdp
Content-Length: 93

v=0
o=- 1 1 IN IP4 127.0.0.1
s=-
c=IN IP4 127.0.0.1
t=0 0
m=audio 9 RTP/AVP 0 8
a=rtpmap:0 PCMU/8000
""",
    """OPTIONS sip:{port} SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK{n};rport
Max-Forwards: 0
From: sip:y@127.0.0.1;tag={n}
To: <sip:x@[::1]>
Call-ID: fuzz{n}
CSeq: {n} OPTIONS
Reason: Q.850 ;cause=16;text="Terminated"

""",
    """BYE sip:x@127.0.0.1 SIP/2.0
Via: SIP/2.0/UDP [::1]:9;branch=z9hG4bK{n}, SIP/2.0/TCP a.example.com;branch=1
From: <sip:y@127.0.0.1>;tag={n}
To: <sip:x@127.0.0.1>;tag=b
Call-ID: fuzz{n}
CSeq: 2 BYE
Content-Length: 0

""",
)
RTP = (
    bytes.fromhex("80000001000000a00badcafe") + b"\xff" * 160,
    bytes.fromhex("80650001000000a00badcafe") + bytes.fromhex("050a00a0"),
    bytes.fromhex("81c9000700000001000000020000000000000001000000000000000000000000"),
    bytes.fromhex("80c8000600000001e0000000000000000000000000000001000000a0"),
)
ATOMS = (
    b"",
    b"\0",
    b"\r\n",
    b"\n",
    b":",
    b";",
    b",",
    b'"',
    b"<",
    b">",
    b"%00",
    b"\xff" * 8,
    b"9" * 40,
    b" " * 100,
    b"=",
)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Damage octets in one to four places: cut, repeat, insert, flip."""
    for _ in range(chance.randint(1, 4)):
        at, end = sorted((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)))
        match chance.randrange(5):
            case 0:
                data = data[:at] + data[end:] if end - at < 60 else data[:at]
            case 1:
                data = data[:end] + data[at:end] + data[end:]
            case 2:
                data = data[:at] + chance.choice(ATOMS) + data[at:]
            case 3 if data:
                at = chance.randrange(len(data))
                data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
            case _:
                data = data[:at] + data[at:end].swapcase() + data[end:]
    return data[:60000]


def resident(pid: int) -> int:
    """KiB of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return (int(found[1]) if found else 0) + sum(resident(int(child)) for child in children)


class FuzzTests(SynchronousTestCase):
    def setUp(self) -> None:
        world = ExitStack()
        self.addCleanup(world.close)
        folder = Path(world.enter_context(tempfile.TemporaryDirectory()))
        self.web = world.enter_context(
            web_server({"/speech.mp3": SPEECH.read_bytes(), "/short.mp3": SHORT.read_bytes()})
        )
        self.carrier = Carrier()
        world.callback(self.carrier.close)
        self.sip_port, self.rtp_port = free_udp_port(), min(free_udp_port() & ~1, 60000)
        self.daemon = Daemon(folder, settings(self.carrier.port, self.sip_port, self.rtp_port))
        self.daemon.start()
        world.callback(self.daemon.kill)
        self.key = self.daemon.admin("POST", "/keys", {"name": "fuzz", "credits": 1000})["api_key"]
        self.chance = random.Random(7)

    def call(self, number: str, mp3: str = "speech.mp3") -> str:
        answer = self.daemon.playback(**self.parameters(number, mp3))
        self.assertEqual(answer.body, "0", answer.headers)
        return answer.call_id

    def parameters(self, number: str, mp3: str) -> dict[str, str]:
        return {
            "api_key": self.key,
            "phone_number": number,
            "country_code": "1",
            "mp3": f"{self.web.url}/{mp3}",
            "callback_url": f"{self.web.url}/callback",
        }

    def unharmed(self, calls: list[str]) -> None:
        """The calls that played meanwhile went to their end, and the daemon's log has nothing to regret."""
        told = [self.web.next_callback() for _ in calls]
        self.assertEqual({each.headers["webhook-id"] for each in told}, set(calls))
        self.assertEqual({each.query["answered"] for each in told}, {"1"})
        for call_id in calls:
            self.assertEqual(self.daemon.admin("GET", f"/calls/{call_id}")["outcome"]["cause"], "played")
        self.assertEqual(errors_in(self.daemon.log.read_text()), [])

    def test_datagrams(self) -> None:
        """Damaged SIP from a trunk's address, and damaged RTP and RTCP, while calls play."""
        self.call("2125550190", "short.mp3")
        self.web.next_callback()
        calls = [self.call(f"21255501{n}0") for n in range(5)]
        wait_for("all are answered", lambda: len(self.carrier.acknowledged) == 6)
        before = resident(self.daemon.pid)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            for n in range(MUTATIONS):
                text = self.chance.choice(SIP).format(port=self.sip_port, n=n).replace("\n", "\r\n")
                sock.sendto(mutate(text.encode(), self.chance), ("127.0.0.1", self.sip_port))
                port = self.rtp_port + self.chance.randrange(16)
                sock.sendto(mutate(self.chance.choice(RTP), self.chance), ("127.0.0.1", port))
                if n % 50 == 0:  # as fast as the daemon reads them, so that the kernel drops none
                    self.assertEqual(self.daemon.get("/healthz").status, 200)
        self.unharmed(calls)
        self.assertLess(resident(self.daemon.pid) - before, GROWTH)

    def test_requests(self) -> None:
        """Damaged HTTP requests over real connections, while calls play."""
        calls = [self.call(f"21255501{n}0") for n in range(5)]
        good = f"GET /api/playback/?{urlencode(self.parameters('2125550199', 'short.mp3'))} HTTP/1.1\r\nHost: a\r\n"
        good += "User-Agent: fuzz\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        before = resident(self.daemon.pid)
        statuses: dict[bytes, int] = {}
        for _ in range(MUTATIONS):
            with socket.create_connection(("127.0.0.1", self.daemon.port), timeout=10.0) as sock:
                sock.sendall(mutate(good.replace(self.key, "ck_fuzz").encode(), self.chance))
                sock.shutdown(socket.SHUT_WR)
                while data := sock.recv(4096):
                    statuses[data[9:12]] = statuses.get(data[9:12], 0) + (data[:5] == b"HTTP/")
        self.assertIn(b"200", statuses)
        self.unharmed(calls)
        self.assertLess(resident(self.daemon.pid) - before, GROWTH)
