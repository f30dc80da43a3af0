"""Damaged SIP, SDP, RTP and HTTP into a running daemon while calls play: nothing breaks, nothing hangs, nothing grows.

SIP comes as datagrams, on connections that a trunk opens and on those that it takes; SDP in messages that are right
otherwise. Two thousand of each; `CALLEDIN_LONG=1` makes it a hundred thousand, `CALLEDIN_FUZZ` another number.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import random
import re
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlencode

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.carrier import SDP
from tests.interop.case import SHORT, settings, trunk
from tests.interop.fuzz_carriers import Bridge, SpoilingCarrier
from tests.interop.harness import Daemon, Told, errors_in, free_ports, free_udp_port, wait_for, web_server

LONG = os.environ.get("CALLEDIN_LONG") == "1"
MUTATIONS = int(os.environ.get("CALLEDIN_FUZZ", "100000" if LONG else "2000"))
SPEECH = Path(__file__).parents[2] / "calledind" / "simulator" / "speech.mp3"
GROWTH = 32 * 1024
"""KiB that the daemon may be larger afterwards: what it keeps on purpose (a hundred messages of each of the last two
hundred calls, the transactions of the last seconds, caches) is within it."""
GROWTH_PER_CALL = 32
"KiB more for each of the first thousand calls, of which figures are kept."
LATER_GROWTH = 16 * 1024
"KiB that it may grow in the second half of a long run."

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


BODIES = (
    SDP,
    SDP.replace("RTP/AVP 0\r\n", "RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\n"),
    SDP + "b=AS:64\r\na=ptime:20\r\na=sendonly\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n",
    SDP.replace("c=IN IP4 127.0.0.1\r\n", "") + "c=IN IP4 127.0.0.1/127\r\na=rtcp:53020 IN IP4 127.0.0.1\r\n",
    SDP + "a=rtpmap:0 PCMU/8000/1\r\na=fmtp:101 0-15\r\na=maxptime:40\r\n"
    "a=inactive\r\na=candidate:1 1 UDP 1 ::1 9 typ host\r\n",
)
WHOLE = """OPTIONS sip:127.0.0.1:{port} SIP/2.0
Via: SIP/2.0/TCP 127.0.0.1:9;branch=z9hG4bKwhole{n}
Max-Forwards: 70
From: <sip:y@127.0.0.1>;tag={n}
To: <sip:x@127.0.0.1>
Call-ID: whole{n}
CSeq: 1 OPTIONS
Content-Length: 0

"""
"An OPTIONS that stands on its own in a stream."
QUIET = {"transactions_and_dialogs": 0}
PER_CALL = 400
"Damaged offers within one call."
ADDRESS = re.compile(rb"[0-9A-Fa-f:.]{3,}")


def stays_here(body: bytes) -> bool:
    """Whether a damaged SDP can send no packet away from this machine."""
    for text in ADDRESS.findall(body):
        for candidate in (text, text.strip(b".:")):
            with contextlib.suppress(ValueError):
                address = ipaddress.ip_address(candidate.decode())
                if not (address.is_loopback or address.is_unspecified):
                    return False
    return True


def resident(pid: int) -> int:
    """KiB of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return (int(found[1]) if found else 0) + sum(resident(int(child)) for child in children)


class FuzzTests(SynchronousTestCase):
    def setUp(self) -> None:
        world = self.world = ExitStack()
        self.addCleanup(world.close)
        folder = Path(world.enter_context(tempfile.TemporaryDirectory()))
        self.web = world.enter_context(
            web_server({"/speech.mp3": SPEECH.read_bytes(), "/short.mp3": SHORT.read_bytes()})
        )
        self.chance = random.Random(7)
        self.carrier = SpoilingCarrier()
        world.callback(self.carrier.close)
        self.bridge = Bridge(self.carrier.port)
        world.callback(self.bridge.close)
        self.sip_port, self.rtp_port = free_udp_port(), free_ports(400)
        text = settings(
            trunk(self.carrier.port, name="judge", more="channels = 1000"),
            self.bridge.trunk,
            sip_port=self.sip_port,
            first_rtp=self.rtp_port,
            calls="ring_timeout = 2.0",
            sip="t1 = 0.1",
        )
        text = text.replace("ring_timeout = 2.0", "ring_timeout = 20.0")  # it has much to do meanwhile
        self.daemon = Daemon(folder, text)
        self.daemon.start()
        world.callback(self.daemon.kill)
        self.key = self.daemon.admin("POST", "/keys", {"name": "fuzz", "credits": 100000})["api_key"]
        self.calls: set[str] = set()
        "Those that are to be played to their end."
        self.placed = 0
        self.sizes: list[int] = []
        "KiB that the daemon had from time to time."

    def call(self, mp3: str = "speech.mp3", area: str = "212") -> str:
        """Have a call accepted; the last digit of its number has the callee pick up at once."""
        self.placed += 1
        answer = self.daemon.playback(**self.parameters(f"{area}5{self.placed:05}0", mp3))
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

    def keep_playing(self, mp3: str = "speech.mp3", area: str = "212") -> None:
        """Have five calls under way; those that are over were played to their end."""
        while not self.web.told.empty():
            self.was_played(self.web.next_callback())
        self.sizes.append(resident(self.daemon.pid))
        while len(self.calls) < 5:
            self.calls.add(self.call(mp3, area))

    def was_played(self, told: Told) -> None:
        call_id = told.headers["webhook-id"]
        self.calls.remove(call_id)
        outcome = self.daemon.admin("GET", f"/calls/{call_id}")["outcome"]
        self.assertEqual((told.query["answered"], outcome["cause"]), ("1", "played"), outcome)

    def begin(self, mp3: str = "speech.mp3", area: str = "212") -> int:
        """Have calls under way, after one that warms everything up; returns the KiB that the daemon has then."""
        self.calls.add(self.call("short.mp3"))
        self.was_played(self.web.next_callback())
        self.keep_playing(mp3, area)
        wait_for("all are answered", lambda: len(self.carrier.acknowledged) == 6)
        self.began = time.monotonic()
        return resident(self.daemon.pid)

    def unharmed(self, before: int, what: str, count: int = MUTATIONS) -> None:
        """The calls go to their end, nothing is left, nothing has grown, and the log has nothing to regret."""
        seconds = time.monotonic() - self.began
        while self.calls:
            self.was_played(self.web.next_callback())
        wait_for("no transaction is left", lambda: self.daemon.admin("GET", "/status")["sip"] == QUIET, 60.0)
        after, half = resident(self.daemon.pid), self.sizes[len(self.sizes) // 2]
        sizes = f"{before} KiB before, {half} half-way, {after} after"
        print(f"{what}: {count} in {seconds:.0f} s, {self.placed} calls, {sizes}")
        log = self.daemon.log.read_text()
        self.assertEqual(errors_in(log), [], log[max(0, log.find("Traceback") - 200) :][:3000])
        self.assertLess(after - before, GROWTH + GROWTH_PER_CALL * min(self.placed, 1000))
        if LONG:
            self.assertLess(after - half, LATER_GROWTH)

    def damaged(self, number: int) -> bytes:
        """One damaged message of SIP."""
        text = self.chance.choice(SIP).format(port=self.sip_port, n=number).replace("\n", "\r\n")
        return mutate(text.encode(), self.chance)

    def test_datagrams(self) -> None:
        """Damaged SIP from a trunk's address, and damaged RTP and RTCP, while calls play."""
        before = self.begin()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            for n in range(MUTATIONS):
                sock.sendto(self.damaged(n), ("127.0.0.1", self.sip_port))
                port = self.rtp_port + self.chance.randrange(16)
                sock.sendto(mutate(self.chance.choice(RTP), self.chance), ("127.0.0.1", port))
                if n % 50 == 0:  # as fast as the daemon reads them, so that the kernel drops none
                    self.assertEqual(self.daemon.get("/healthz").status, 200)
                    self.keep_playing()
        self.unharmed(before, "datagrams of SIP, and as many of RTP and RTCP")

    def test_streams(self) -> None:
        """Damaged SIP on connections that a trunk opens: several messages on each, cut anywhere."""
        before = self.begin()
        answered = 0
        sent = 0
        while sent < MUTATIONS:
            count = self.chance.randint(1, 8)
            # All but the last one are whole more often than not, so that what is behind them is read as well.
            data = b"".join(self.message(sent + n, n == count - 1) for n in range(count))
            sent += count
            answered += self.talk(data)
            self.keep_playing()
        self.assertGreater(answered, sent // 50)
        self.unharmed(before, "messages of SIP on connections")

    def message(self, number: int, last: bool) -> bytes:
        if last or self.chance.random() < 0.3:
            return self.damaged(number).replace(b"/UDP", b"/TCP")
        return WHOLE.format(port=self.sip_port, n=number).replace("\n", "\r\n").encode()

    def talk(self, data: bytes) -> int:
        """Send octets in a few pieces on a connection of their own; returns how many responses came."""
        received = b""
        with socket.create_connection(("127.0.0.1", self.sip_port), timeout=10.0) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            cuts = sorted(self.chance.randrange(len(data) + 1) for _ in range(self.chance.randint(0, 3)))
            # The daemon may well close a connection whose octets make no sense before it has all of them.
            with contextlib.suppress(OSError):
                for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
                    sock.sendall(data[start:end])
                sock.shutdown(socket.SHUT_WR)
                while more := sock.recv(65536):
                    received += more
        return received.count(b"SIP/2.0 ")

    def test_our_connections(self) -> None:
        """A trunk that takes calls by TCP, and talks nonsense on the connection while they play."""
        before = self.begin("short.mp3", "213")
        rounds = 20 if LONG else 3
        for round_ in range(rounds):
            self.bridge.spoil(b"".join(self.damaged(round_ * 20 + n).replace(b"/UDP", b"/TCP") for n in range(20)))
            while self.calls:
                self.was_played(self.web.next_callback())
            self.keep_playing("short.mp3", "213")
            wait_for("all are answered", lambda: self.live() >= len(self.calls))
        self.assertGreater(self.bridge.connections, 1)
        self.unharmed(before, "messages on our connections", rounds * 20)

    def live(self) -> int:
        return int(self.daemon.admin("GET", "/status")["media"]["streams"])

    def test_session_descriptions(self) -> None:
        """Damaged SDP in re-INVITEs of calls that play, and in 183 and 200 of others."""
        before = self.begin()
        statuses: Counter[int] = Counter()
        while statuses.total() < MUTATIONS:
            calls = [self.carrier.talks(call_id) for call_id in sorted(self.calls)]
            for _ in range(PER_CALL):
                for call in list(calls):
                    status = self.carrier.reinvite(call, self.description(BODIES))
                    statuses[status] += 1
                    if status == 481:  # its last word was said in the meantime
                        calls.remove(call)
            for call in calls:
                self.assertIn(self.carrier.reinvite(call, SDP.encode()), (200, 481))
            self.some_are_answered_with_nonsense()
            while self.calls:
                self.was_played(self.web.next_callback())
            self.keep_playing()
            wait_for("all are answered", lambda: all(map(self.carrier.is_talking, self.calls)))
        self.assertLessEqual(set(statuses), {200, 400, 481, 488})
        self.assertGreater(statuses[200], statuses.total() // 20)
        self.assertGreater(statuses[488], statuses.total() // 20)
        print(f"re-INVITEs were answered by {dict(statuses)}")
        self.unharmed(before, "offers")

    def description(self, bodies: Sequence[str]) -> bytes:
        """One damaged SDP."""
        while True:
            body = mutate(self.chance.choice(bodies).encode(), self.chance)
            if stays_here(body):
                return body

    def some_are_answered_with_nonsense(self) -> None:
        """Calls whose 183 and 200 have damaged SDP end one way or the other, and at once where it can't be used."""
        self.carrier.answers = [self.description(BODIES[:2]) for _ in range(20)]
        others = {self.call("short.mp3") for _ in range(20)}
        while others:
            told = self.web.next_callback()
            call_id = told.headers["webhook-id"]
            if call_id not in others:
                self.was_played(told)
                continue
            others.remove(call_id)
            outcome = self.daemon.admin("GET", f"/calls/{call_id}")["outcome"]
            self.assertIn((told.query["answered"], outcome["cause"]), (("1", "played"), ("0", "unusable SDP")))

    def test_requests(self) -> None:
        """Damaged HTTP requests over real connections, while calls play."""
        before = self.begin()
        good = f"GET /api/playback/?{urlencode(self.parameters('4165550199', 'short.mp3'))} HTTP/1.1\r\nHost: a\r\n"
        good += "User-Agent: fuzz\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        statuses: dict[bytes, int] = {}
        for n in range(MUTATIONS):
            if n % 50 == 0:
                self.keep_playing()
            with socket.create_connection(("127.0.0.1", self.daemon.port), timeout=10.0) as sock:
                sock.sendall(mutate(good.replace(self.key, "ck_fuzz").encode(), self.chance))
                sock.shutdown(socket.SHUT_WR)
                while data := sock.recv(4096):
                    statuses[data[9:12]] = statuses.get(data[9:12], 0) + (data[:5] == b"HTTP/")
        self.assertIn(b"200", statuses)
        self.unharmed(before, "requests of HTTP")
