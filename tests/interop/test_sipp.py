"""Calls to SIPp, a carrier that we did not write: what it hears, and what the customer is told."""

from __future__ import annotations

import hashlib
import re
import socket
import time
from itertools import pairwise

from tests.interop import scenarios as sc
from tests.interop.case import SPEECH, InteropCase, settings, trunk
from tests.interop.harness import Daemon, Sipp, free_udp_port, need, sipp
from tests.interop.hearing import Ear, by_ffmpeg, correlation, u_law_to_pcm

REFUSALS = (
    (sc.refuse("486 Busy Here", ringing=True), "5"),
    (sc.refuse("603 Decline"), "5"),
    (sc.refuse("404 Not Found"), "0"),
    (sc.refuse("503 Service Unavailable"), "8"),
    (sc.refuse("480 Temporarily Unavailable", ringing=True), "3"),
    (sc.refuse("480 Temporarily Unavailable"), "8"),
    # The cause decides, not the status.
    (sc.refuse("500 Oops", more='Reason: Q.850;cause=17;text="User busy"\n'), "5"),
    # Nobody asked for it.
    (sc.refuse("487 Request Terminated", ringing=True), "1"),
    # Early media is no answer.
    (
        sc.scenario(
            sc.receive("INVITE"),
            sc.send("183 Session Progress", more=sc.CONTACT, body=sc.sdp(port="40000")),
            sc.pause(300),
            sc.send("486 Busy Here", retrans=500),
            sc.receive("ACK"),
        ),
        "5",
    ),
)
"What the callee does, and the reason that the customer is told."


class SippTests(InteropCase):
    """Each test has a daemon of its own, with SIPp as its one trunk."""

    def setUp(self) -> None:
        need("sipp")
        super().setUp()

    def start(
        self, scenario: str, *arguments: str, calls: int = 1, more: str = "", ring_timeout: float = 2.0
    ) -> tuple[Daemon, Sipp]:
        carrier = self.world.enter_context(sipp(self.folder / "sipp", scenario, *arguments, calls=calls))
        return self.run_daemon(
            settings(trunk(carrier.port, more=more), calls=f"ring_timeout = {ring_timeout}")
        ), carrier

    def expect(
        self,
        scenario: str,
        answered: str,
        reason: str,
        *arguments: str,
        more: str = "",
        mp3: str = "/short.mp3",
        ring_timeout: float = 2.0,
    ) -> tuple[Daemon, Sipp]:
        """Call; the customer is told this outcome, and SIPp saw what its scenario says. `more`: of the trunk."""
        daemon, carrier = self.start(scenario, *arguments, more=more, ring_timeout=ring_timeout)
        told = self.call(daemon, mp3=self.web.url + mp3)
        self.assertEqual(self.outcome(told), (answered, reason), carrier.messages())
        self.assertEqual(carrier.wait(), 0, carrier.explain())
        return daemon, carrier

    def test_heard(self) -> None:
        """The callee hears the MP3, evenly, to the last word; then BYE, and the callback says answered."""
        ear = Ear()
        self.addCleanup(ear.close)
        self.expect(sc.scenario(sc.ANSWER, sc.GOODBYE), "1", "", "-key", "rtp", str(ear.port), mp3="/speech.mp3")
        sequence = [int.from_bytes(data[2:4]) for _, data in ear.packets]
        first = sequence[0]
        self.assertEqual(sequence, [(first + n) % 65536 for n in range(len(sequence))])
        stamps = [int.from_bytes(data[4:8]) for _, data in ear.packets]
        self.assertEqual({(b - a) % 2**32 for a, b in pairwise(stamps)}, {160})
        self.assertEqual([data[1] for _, data in ear.packets[:2]], [0x80, 0x00])
        self.assertGreaterEqual(correlation(u_law_to_pcm(ear.octets()), by_ffmpeg(SPEECH)), 0.99)

    def test_refusals(self) -> None:
        """Every refusal is told to the customer by its reason, each by a trunk of its own, all at once."""
        outcomes: dict[str, tuple[str, str]] = {}
        trunks: list[str] = []
        carriers: list[Sipp] = []
        for number, (scenario, reason) in enumerate(REFUSALS):
            carriers.append(self.world.enter_context(sipp(self.folder / f"sipp{number}", scenario)))
            prefix = f'prefixes = ["121255501{number:02}"]'
            trunks.append(trunk(carriers[-1].port, name=f"sipp{number}", more=prefix))
            outcomes[f"21255501{number:02}"] = ("0", reason)
        daemon = self.run_daemon(settings(*trunks))
        for phone_number in outcomes:
            self.ask(daemon, phone_number=phone_number)
        told = [self.web.next_callback() for _ in outcomes]
        self.assertEqual({each.query["phone_number"]: self.outcome(each) for each in told}, outcomes)
        for carrier in carriers:
            self.assertEqual(carrier.wait(), 0, carrier.explain())

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
            text = settings(trunk(deaf.getsockname()[1]), sip="t1 = 0.05", calls="ring_timeout = 45.0")
            daemon = self.run_daemon(text)
            self.assertEqual(self.outcome(self.call(daemon)), ("0", "0"))

    def test_nobody_listens(self) -> None:
        """A port that refuses datagrams (ICMP) is told at once, reason 0."""
        daemon = self.run_daemon(settings(trunk(free_udp_port())))
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
            more='username = "alice"\npassword = "wonder land"\n',
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
            more='username = "alice"\npassword = "wonder land"\n',
        )

    def test_wrong_password(self) -> None:
        """A carrier that challenges again and again is asked no more than twice; reason 8."""
        challenge = 'WWW-Authenticate: Digest realm="carrier", nonce="abc", qop="auth", algorithm=MD5\n'
        refusal = sc.send("401 Unauthorized", more=challenge, retrans=500) + sc.receive("ACK")
        self.expect(
            sc.scenario(sc.receive("INVITE"), refusal, sc.receive("INVITE"), refusal),
            "0",
            "8",
            more='username = "alice"\npassword = "wrong"\n',
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
        """With a fifth of the INVITEs and of their responses lost, the call is made, once, and ended.

        The ACK is not: SIPp takes no BYE before it.
        """
        self.expect(
            sc.scenario(
                sc.receive("INVITE", extra='lost="20"'),
                sc.send("180 Ringing", more=sc.CONTACT, extra='lost="20"'),
                sc.send("200 OK", more=sc.CONTACT, body=sc.sdp(), retrans=500, extra='lost="20"'),
                sc.receive("ACK"),
                sc.GOODBYE,
            ),
            "1",
            "",
            "-key",
            "rtp",
            "40000",
            # Where both of its responses were lost, the INVITE that comes again is to be borne with.
            "-default_behaviors",
            "all,-abortunexp",
            # Twice in a hundred the first answer takes longer than three seconds.
            ring_timeout=30.0,
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
                mp3=f"{self.web.url}/short.mp3",
                callback_url=f"{self.web.url}/callback",
            )
            self.assertEqual(answer.body, "0", answer.headers)
        told = [self.web.next_callback().query for _ in numbers]
        self.assertEqual(sorted(each["phone_number"] for each in told), numbers)
        self.assertEqual({each["answered"] for each in told}, {"1"})
        self.assertEqual(carrier.wait(), 0, carrier.explain())
        status = daemon.admin("GET", "/status")["store"]
        self.assertEqual((status["credits"], status["held"], status["charged"]), (50, 0, 50))
