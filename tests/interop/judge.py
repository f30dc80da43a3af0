"""A carrier that logs every INVITE, and the checker of what must hold after a daemon was killed again and again.

The carrier is a few lines of string handling of its own: it shares nothing with calledin's SIP. What a callee does
is in the last digit of its number.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import Empty

from tests.interop.harness import Daemon, Told, Web

ANSWERS, BUSY, RINGS, LATE, SILENT = "01234", "56", "7", "8", "9"
"Last digits: answers at once; 486; rings until the CANCEL; answers after RING seconds; never says a word."
RING = 0.4
TAG = re.compile(r";tag=", re.I)


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
    """Takes calls on a loopback port until it is closed."""

    invites: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    "call id -> branches of its INVITEs; a repeat has the same."
    cancelled: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    "Call-IDs that were ended with BYE."
    acknowledged: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._sock.bind(("127.0.0.1", 0))
        self._sock.settimeout(0.02)
        self.port = int(self._sock.getsockname()[1])
        self._oks: dict[str, _Pending] = {}
        self._invited: dict[str, tuple[str, tuple[str, int]]] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._sock.close()

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                data, source = self._sock.recvfrom(65535)
            except TimeoutError:
                pass
            else:
                self._take(data.decode("latin-1"), source)
            now = time.monotonic()
            for call_id, ok in list(self._oks.items()):
                if now > ok.stop:
                    del self._oks[call_id]
                elif now >= ok.due:
                    self._sock.sendto(ok.response, ok.target)
                    ok.interval = min(2 * ok.interval, 4.0)
                    ok.due = now + ok.interval

    def _take(self, text: str, source: tuple[str, int]) -> None:
        method = text.split(" ", 1)[0]
        call_id = header(text, "Call-ID")
        if method == "INVITE":
            self._invite(text, call_id, source)
        elif method == "ACK":
            if call_id in self._oks:
                self.acknowledged.add(call_id)
                del self._oks[call_id]
        elif method == "CANCEL":
            ringing = call_id in self._invited
            self._answer(text, source, "200 OK" if ringing else "481 Call/Transaction Does Not Exist")
            if ringing:
                invite, _ = self._invited.pop(call_id)
                self._oks.pop(call_id, None)
                self.cancelled.add(call_id)
                self._answer(invite, source, "487 Request Terminated")
        elif method == "BYE":
            self.left.add(call_id)
            self._oks.pop(call_id, None)
            self._answer(text, source, "200 OK")
        elif method == "OPTIONS":
            self._answer(text, source, "200 OK")

    def _invite(self, text: str, call_id: str, source: tuple[str, int]) -> None:
        branch = re.search(r"branch=([^;\s]+)", header(text, "Via"))
        assert branch is not None
        branches = self.invites[call_id.partition("-")[0]]
        repeated = branch[1] in branches
        branches.add(branch[1])
        number = re.search(r"sip:\+?1?(\d{10})@", text)
        assert number is not None
        kind = number[1][-1]
        if repeated or kind in SILENT:
            return
        if kind in BUSY:
            self._answer(text, source, "486 Busy Here")
            return
        self._answer(text, source, "180 Ringing")
        self._invited[call_id] = text, source
        if kind in ANSWERS + LATE:
            wait = RING if kind in LATE else 0.0
            now = time.monotonic()
            self._oks[call_id] = _Pending(
                self._response(text, "200 OK", SDP), source, now + wait, 0.5, now + wait + 10.0
            )
            if not wait:
                self._invited.pop(call_id)

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


SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n"
"To the discard port: nobody listens to these callees."


def header(text: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*?)\r?$", text, re.I | re.M)
    return found[1] if found else ""


def verdict(daemon: Daemon, carrier: Carrier, web: Web, accepted: Sequence[str], added: int) -> list[str]:
    """Say what does not hold, a line each; `accepted`: the call ids that a client was told, with code 0.

    Call it when the daemon has nothing left to do.
    """
    told: dict[str, list[Told]] = defaultdict(list)
    while True:
        try:
            callback = web.told.get_nowait()
        except Empty:
            break
        told[callback.headers["webhook-id"]].append(callback)
    broken = []
    calls = {call_id: daemon.admin("GET", f"/calls/{call_id}") for call_id in {*accepted, *told, *carrier.invites}}
    for call_id, call in calls.items():
        if call["state"] != "delivered":
            broken.append(f"{call_id}: is {call['state']}")
        said = {(each.query["answered"], each.query["reason"]) for each in told[call_id]}
        if len(said) != 1:
            broken.append(f"{call_id}: its callbacks say {said or 'nothing'}")
        if len(carrier.invites.get(call_id, ())) > 1:
            broken.append(f"{call_id}: was dialled {len(carrier.invites[call_id])} times")
    answered = Counter(call["outcome"]["answered"] for call in calls.values() if call.get("outcome"))[True]
    totals = daemon.admin("GET", "/status")["store"]
    if totals["held"] != 0:
        broken.append(f"{totals['held']} credits are still held")
    if totals["charged"] != answered:
        broken.append(f"{totals['charged']} credits were charged for {answered} answered calls")
    if totals["credits"] + totals["charged"] != added:
        broken.append(f"{totals['credits']} credits left and {totals['charged']} charged of {added}")
    known = sum(totals["calls"].values())
    if known != len(calls):
        broken.append(f"the store knows {known} calls, client, carrier and callbacks {len(calls)}")
    return broken
