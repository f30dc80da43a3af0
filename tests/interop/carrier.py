"""A carrier that keeps what became of every INVITE: the witness of what calledin did to people's telephones.

A few lines of string handling of its own: it shares nothing with calledin's SIP. What a callee does is in the last
digit of its number. Calls that come to the second port are refused there with 503, whoever they are for.
"""

from __future__ import annotations

import re
import selectors
import socket
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field

ANSWERS, BUSY, RINGS, LATE, SILENT = "01234", "56", "7", "8", "9"
"Last digits: answers at once; 486; rings until the CANCEL; answers after RING seconds; never says a word."
RING = 0.4
PATIENCE = 12.0
"Seconds that a 200 is repeated for: 64*T1 of these daemons and the time that one takes to start."
SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n"
"To the discard port: nobody listens to these callees."
RESTARTED = 'text="restarted"'
"In the Reason of a CANCEL or BYE for what another process had begun."
TAG = re.compile(r";tag=", re.I)


def header(text: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*?)\r?$", text, re.I | re.M)
    return found[1] if found else ""


@dataclass
class Dial:
    """The INVITEs with one Call-ID, and what came of them. Times are of the monotonic clock."""

    call: str
    "calledin's id of the call."
    number: int
    "Of calledin's attempt, from 1."
    kind: str
    "The last digit of the number that was dialled."
    at: float
    said: int = 0
    "The greatest status that was answered with; 0: nothing."
    answered_at: float | None = None
    acknowledged_at: float | None = None
    cancelled_at: float | None = None
    left_at: float | None = None
    "When the BYE came."
    gave_up: bool = False
    "The 200 was repeated for as long as RFC 3261 asks, and no ACK came: the callee has hung up."
    cleared: bool = False
    "Its CANCEL or BYE came from who had not begun it."

    @property
    def is_live(self) -> bool:
        """Whether a telephone rings, or somebody holds a receiver."""
        if self.said >= 300 or self.said == 0:
            return False
        return self.left_at is None and self.cancelled_at is None and not self.gave_up


@dataclass
class _Pending:
    """A 200 that is repeated until its ACK comes (RFC 3261 §13.3.1.4)."""

    response: bytes
    target: tuple[str, int]
    due: float
    interval: float
    stop: float


@dataclass
class Carrier:
    """Takes calls on two loopback ports until it is closed."""

    invites: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    "call id -> branches of its INVITEs; a repeat has the same."
    dials: dict[str, Dial] = field(default_factory=dict)
    "Call-ID -> what became of it."
    cancelled: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    "Call-IDs that were ended with BYE."
    acknowledged: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._sock, self._refusing = _listen(), _listen()
        self.port = int(self._sock.getsockname()[1])
        self.refusing_port = int(self._refusing.getsockname()[1])
        "Where all calls are refused with 503."
        self._oks: dict[str, _Pending] = {}
        self._invited: dict[str, tuple[str, tuple[str, int]]] = {}
        "Call-ID -> the INVITE that rings, and who sent it."
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._sock.close()
        self._refusing.close()

    def live(self) -> list[Dial]:
        """Return those that still ring or talk."""
        return [dial for dial in list(self.dials.values()) if dial.is_live]

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for sock in (self._sock, self._refusing):
                selector.register(sock, selectors.EVENT_READ)
            while not self._closed.is_set():
                for key, _ in selector.select(0.02):
                    self._read(key.fileobj)  # type: ignore[arg-type]
                self._repeat(time.monotonic())

    def _read(self, sock: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionError):
            data, source = sock.recvfrom(65535)
            text = data.decode("latin-1")
            if sock is self._sock:
                self._take(text, source)
            else:
                self._refuse(text, source)

    def _repeat(self, now: float) -> None:
        for call_id, ok in list(self._oks.items()):
            dial = self.dials[call_id]
            if now > ok.stop:
                del self._oks[call_id]
                dial.gave_up = True
            elif now >= ok.due:
                self._invited.pop(call_id, None)
                dial.said = 200
                dial.answered_at = dial.answered_at or now
                self._sock.sendto(ok.response, ok.target)
                ok.interval = min(2 * ok.interval, 4.0)
                ok.due = now + ok.interval

    def _take(self, text: str, source: tuple[str, int]) -> None:
        method = text.split(" ", 1)[0]
        call_id = header(text, "Call-ID")
        dial = self.dials.get(call_id)
        now = time.monotonic()
        if method == "INVITE":
            self._invite(text, call_id, source)
        elif method == "ACK" and dial is not None:
            if self._oks.pop(call_id, None) is not None:
                self.acknowledged.add(call_id)
                dial.acknowledged_at = now
        elif method == "CANCEL":
            ringing = self._invited.pop(call_id, None)
            self._answer(text, source, "200 OK" if ringing else "481 Call/Transaction Does Not Exist")
            if ringing and dial is not None:
                self._oks.pop(call_id, None)
                self.cancelled.add(call_id)
                dial.cancelled_at = now
                dial.cleared = RESTARTED in header(text, "Reason")
                self._answer(ringing[0], source, "487 Request Terminated")
        elif method == "BYE":
            self.left.add(call_id)
            self._oks.pop(call_id, None)
            if dial is not None and dial.left_at is None:
                dial.left_at = now
                dial.cleared = RESTARTED in header(text, "Reason")
            self._answer(text, source, "200 OK")
        elif method == "OPTIONS":
            self._answer(text, source, "200 OK")

    def _noted(self, text: str, call_id: str) -> tuple[Dial, bool]:
        """Keep an INVITE; True where it came before."""
        branch = re.search(r"branch=([^;\s]+)", header(text, "Via"))
        number = re.search(r"sip:\+?1?(\d{10})@", text)
        assert branch is not None
        assert number is not None
        call, _, attempt = call_id.partition("-")
        repeated = branch[1] in self.invites[call]
        self.invites[call].add(branch[1])
        dial = Dial(call, int(attempt or 1), number[1][-1], time.monotonic())
        return self.dials.setdefault(call_id, dial), repeated

    def _invite(self, text: str, call_id: str, source: tuple[str, int]) -> None:
        dial, repeated = self._noted(text, call_id)
        if repeated or dial.kind in SILENT:
            return
        if dial.kind in BUSY:
            dial.said = 486
            self._answer(text, source, "486 Busy Here")
            return
        dial.said = 180
        self._answer(text, source, "180 Ringing")
        self._invited[call_id] = text, source
        if dial.kind in ANSWERS + LATE:
            due = dial.at + (RING if dial.kind in LATE else 0.0)
            response = self._response(text, "200 OK", SDP)
            self._oks[call_id] = _Pending(response, source, due, 0.25, due + PATIENCE)

    def _refuse(self, text: str, source: tuple[str, int]) -> None:
        if text.startswith("INVITE"):
            dial, _ = self._noted(text, header(text, "Call-ID"))
            dial.said = 503
            self._refusing.sendto(self._response(text, "503 Service Unavailable"), source)
        elif text.startswith(("OPTIONS", "CANCEL", "BYE")):
            self._refusing.sendto(self._response(text, "200 OK"), source)

    def _answer(self, request: str, target: tuple[str, int], status: str) -> None:
        self._sock.sendto(self._response(request, status), target)

    def _response(self, request: str, status: str, body: str = "") -> bytes:
        lines = [f"SIP/2.0 {status}"]
        for line in request.split("\r\n\r\n", 1)[0].split("\r\n")[1:]:
            name = line.partition(":")[0].lower()
            if name in ("via", "from", "to", "call-id", "cseq"):
                untagged = name == "to" and not TAG.search(line)
                lines.append(f"{line};tag=callee" if untagged else line)
        lines += [f"Contact: <sip:callee@127.0.0.1:{self.port}>", f"Content-Length: {len(body)}"]
        if body:
            lines.append("Content-Type: application/sdp")
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1")


def _listen() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock
