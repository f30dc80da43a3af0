"""Calls of all kinds over a network that loses, repeats and reorders a tenth of the datagrams each way; the other
side is SIPp.

The timers give each message seven tries or more: that none of them gets through, or no answer to it, happens once in
some hundred thousand calls. Sixty calls; `CALLEDIN_LONG=1` makes a thousand.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from tests.interop import scenarios as sc
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import Daemon, Sipp, free_udp_port, need, sipp
from tests.interop.relay import Relays

CALLS = 1000 if os.environ.get("CALLEDIN_LONG") == "1" else 60
AT_ONCE = 100
T1 = 0.1
RING_TIMEOUT = 8.0
QUIET = 64 * T1 + 32.0
"""Seconds after which nothing may be left: the repeats of a BYE, and timer D, which is 32 s over UDP however short
T1 is (RFC 3261 §17.1.1.2)."""
PATIENT = ("-default_behaviors", "all,-abortunexp", "-max_invite_retrans", "20", "-max_non_invite_retrans", "20")
"SIPp goes on after what comes out of order, and repeats for as long as it takes."
CHALLENGE = 'WWW-Authenticate: Digest realm="carrier", nonce="47364c23", qop="auth", algorithm=MD5\n'

# In-dialog requests go by the relay as well.
CONTACT = "Contact: <sip:callee@[local_ip]:[relay]>\n"
RINGING = sc.send("180 Ringing", more=CONTACT)
EARLY = sc.send("183 Session Progress", more=CONTACT, body=sc.sdp())
LINGER = '<timewait milliseconds="10000"/>\n'
"Our BYE is answered again if its 200 was lost."


def ok(headers: str = sc.ECHO) -> str:
    return sc.send("200 OK", headers, more=CONTACT, body=sc.sdp(), retrans=100)


def refuse(status: str) -> str:
    return sc.send(status, retrans=100) + sc.receive("ACK")


GOODBYE = sc.receive("BYE") + sc.send("200 OK", sc.IN_DIALOG) + LINGER
ANSWER = RINGING + sc.pause(50) + ok() + sc.receive("ACK")
# SIPp makes its answer to a late copy anew, of whatever came last: the second INVITE must not be challenged by that.
FIRST_INVITE = """<action>
<ereg regexp=".*" search_in="hdr" header="Via:" assign_to="via"/>
<ereg regexp=".*" search_in="hdr" header="CSeq:" assign_to="cseq"/>
</action>"""
FIRST = sc.ECHO.replace("[last_Via:]", "Via:[$via]").replace("[last_CSeq:]", "CSeq:[$cseq]")
# A late copy of the first INVITE is not the one with the credentials.
SECOND_INVITE = """<label id="1"/>
<recv request="INVITE"><action>
<ereg regexp="2 INVITE" search_in="hdr" header="CSeq:" assign_to="second"/>
</action></recv>
<nop test="second" next="2"/>
<nop next="1"/>
<label id="2"/>
"""


@dataclass(frozen=True)
class Kind:
    scenario: str
    outcome: tuple[str, str]
    "`answered` and `reason` of the callback."
    cause: str


KINDS = {
    "we leave": Kind(sc.scenario(sc.receive("INVITE"), ANSWER, GOODBYE), ("1", ""), "played"),
    "the callee leaves": Kind(
        sc.scenario(
            sc.receive("INVITE", inner=sc.KEEP_DIALOG),
            ANSWER,
            sc.pause(1000),
            sc.request("BYE", extra='retrans="100"'),
            sc.expect(200),
            sc.REFERENCE,
        ).replace(sc.CONTACT, CONTACT),
        ("1", ""),
        "callee left",
    ),
    "busy": Kind(
        sc.scenario(sc.receive("INVITE"), RINGING, sc.pause(50), refuse("486 Busy Here")), ("0", "5"), "final response"
    ),
    "declined": Kind(
        sc.scenario(sc.receive("INVITE"), RINGING, sc.pause(300), refuse("603 Decline")), ("0", "5"), "final response"
    ),
    "no such number": Kind(sc.scenario(sc.receive("INVITE"), refuse("404 Not Found")), ("0", "0"), "final response"),
    "nobody answers": Kind(
        sc.scenario(
            sc.receive("INVITE"),
            RINGING,
            sc.receive("CANCEL"),
            sc.send("200 OK", sc.IN_DIALOG),
            sc.send("487 Request Terminated", sc.ECHO_INVITE, retrans=100),
            sc.receive("ACK"),
        ),
        ("0", "3"),
        "ring timeout",
    ),
    "answered while it is cancelled": Kind(
        sc.scenario(
            sc.receive("INVITE"),
            RINGING,
            sc.receive("CANCEL"),
            sc.send("200 OK", sc.IN_DIALOG),
            ok(sc.ECHO_INVITE),
            sc.receive("ACK"),
            GOODBYE,
        ),
        ("0", "3"),
        "ring timeout",
    ),
    "challenged": Kind(
        sc.scenario(
            sc.receive("INVITE", inner=FIRST_INVITE),
            sc.send("401 Unauthorized", FIRST, more=CHALLENGE, retrans=100),
            sc.receive("ACK"),
            SECOND_INVITE,
            ANSWER,
            GOODBYE,
        ),
        ("1", ""),
        "played",
    ),
    "early media": Kind(
        sc.scenario(sc.receive("INVITE"), EARLY, sc.pause(200), ok(), sc.receive("ACK"), GOODBYE),
        ("1", ""),
        "played",
    ),
    "early media, then busy": Kind(
        sc.scenario(sc.receive("INVITE"), EARLY, sc.pause(200), refuse("486 Busy Here")), ("0", "5"), "final response"
    ),
}


def sockets(pid: int) -> int:
    """Count the open sockets of a process; those of the media, which stay open, are its child's."""
    own = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            own += os.readlink(descriptor).startswith("socket:")
    return own


class LossyRelayTests(InteropCase):
    def carriers(self, relays: Relays) -> tuple[dict[str, Sipp], list[str]]:
        """One SIPp for each kind of call, behind a relay each; and the trunks' tables."""
        ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ear.bind(("127.0.0.1", 0))
        self.world.callback(ear.close)
        carriers, trunks = {}, []
        for number, (name, kind) in enumerate(KINDS.items()):
            port = free_udp_port()
            relay = relays.add(port)
            keys = ("-key", "relay", str(relay.port), "-key", "rtp", str(ear.getsockname()[1]))
            carriers[name] = self.world.enter_context(
                sipp(
                    self.folder / f"sipp{number}", kind.scenario, *keys, *PATIENT, calls=CALLS // len(KINDS), port=port
                )
            )
            more = f'prefixes = ["121255{number}"]\noutbound_proxy = "127.0.0.1:{relay.port}"\nchannels = 1000\n'
            more += 'username = "alice"\npassword = "wonder land"\n' if name == "challenged" else ""
            trunks.append(trunk(port, name=f"trunk{number}", more=more))
        return carriers, trunks

    def test_calls(self) -> None:
        """Every outcome is right, every callee is let go, and nothing is left."""
        need("sipp")
        relays = Relays()
        self.world.callback(relays.close)
        carriers, trunks = self.carriers(relays)
        relays.start()
        text = settings(*trunks, sip=f"t1 = {T1}", calls=f"ring_timeout = {RING_TIMEOUT}")
        daemon = self.run_daemon(text)
        self.key = daemon.admin("POST", "/keys", {"name": "lossy", "credits": CALLS})["api_key"]
        before = sockets(daemon.pid)
        kinds: dict[str, str] = {}
        outcomes: dict[str, tuple[str, str]] = {}
        for number in range(CALLS):
            index, nth = number % len(KINDS), number // len(KINDS)
            kinds[self.ask(daemon, phone_number=f"21255{index}{nth:04}")] = list(KINDS)[index]
            while len(kinds) - len(outcomes) >= AT_ONCE or (number == CALLS - 1 and len(outcomes) < CALLS):
                told = self.web.next_callback()
                self.assertNotIn(told.headers["webhook-id"], outcomes)
                outcomes[told.headers["webhook-id"]] = self.outcome(told)
        wrong = [
            (kinds[call_id], outcome, daemon.admin("GET", f"/calls/{call_id}")["outcome"])
            for call_id, outcome in outcomes.items()
            if outcome != KINDS[kinds[call_id]].outcome
        ]
        self.assertEqual(wrong, [])
        for name, carrier in carriers.items():
            self.assertEqual(carrier.wait(), 0, f"{name}: {carrier.explain()[-3000:]}")
        self.nothing_is_left(daemon, before)
        self.ended_in_time(daemon, kinds, relays)
        count, lost, repeated = relays.copies()
        for share in (lost / count, repeated / count):
            self.assertTrue(0.05 < share < 0.15, (count, lost, repeated))

    def nothing_is_left(self, daemon: Daemon, before: int) -> None:
        def alive() -> tuple[int, int, int, int]:
            status = daemon.admin("GET", "/status")
            transactions = status["sip"]["transactions_and_dialogs"]
            return status["live"], transactions, status["media"]["sessions"], sockets(daemon.pid) - before

        deadline = time.monotonic() + QUIET + 2.0
        # The connection that asks for the status is one of the sockets for a moment longer.
        while any(left := alive()) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertEqual(left, (0, 0, 0, 0), "live calls, SIP transactions and dialogs, media sessions, sockets")

    def ended_in_time(self, daemon: Daemon, kinds: dict[str, str], relays: Relays) -> None:
        """No call is counted longer than the callee was on the line: from its first 200 to the BYE that it took."""
        answered: dict[str, float] = {}
        left: dict[str, float] = {}
        for seen in relays.seen:
            call_id = seen.call_id.partition("-")[0]
            if seen.label == "200 INVITE":
                answered.setdefault(call_id, seen.at)
            elif seen.label == "BYE" and seen.copies:
                left.setdefault(call_id, seen.at)
        for call_id, name in kinds.items():
            ending = daemon.admin("GET", f"/calls/{call_id}")["outcome"]
            self.assertEqual(ending["cause"], KINDS[name].cause, name)
            if KINDS[name].outcome != ("1", ""):
                self.assertIsNone(ending["answered_at"], name)
                self.assertEqual(call_id in left, call_id in answered, name)
                continue
            talked = ending["ended_at"] - ending["answered_at"]
            # A delayed BYE of the callee's is on its way for up to `DELAY`; the rest is the two programs' own time.
            self.assertLess(talked, left[call_id] - answered[call_id] + 0.5, name)
