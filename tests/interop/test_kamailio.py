"""Calls through Kamailio, a registrar and proxy that we did not write: registered, challenged, routed, left."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack

from tests.interop import scenarios as sc
from tests.interop.case import settings, trunk
from tests.interop.harness import Daemon, Sipp, free_udp_port, sipp, wait_for
from tests.interop.kamailio import ANSWERS, ROUTES, USER, KamailioCase
from tests.interop.test_baresip import Baresip

KEPT = """Via: [$proxy]
Via: [$via]
Record-Route: [$route]
From: [$from]
To: [$to];tag=[pid]SIPp[call_number]
Call-ID: [call_id]
CSeq: [$cseq]
"""
"Of a response to the INVITE of `KEEP` when the last request was another."
KEEP = (
    "<action>\n"
    + "".join(
        f'<ereg regexp=".*" search_in="hdr" header="{header}:" occurrence="{which}" assign_to="{name}"/>\n'
        for name, header, which in (
            ("proxy", "Via", 1),
            ("via", "Via", 2),
            ("route", "Record-Route", 1),
            ("from", "From", 1),
            ("to", "To", 1),
            ("cseq", "CSeq", 1),
        )
    )
    + "</action>"
)
USED = '<Reference variables="proxy,via,route,from,to,cseq"/>\n'
CANCELLED = sc.scenario(
    sc.receive("INVITE", inner=KEEP),
    sc.send("180 Ringing", more=ROUTES + sc.CONTACT),
    sc.receive("CANCEL", extra='timeout="30000"'),
    sc.send("200 OK", sc.IN_DIALOG),
    sc.send("487 Request Terminated", KEPT, retrans=500),
    sc.receive("ACK"),
    USED,
)
REFUSES = sc.refuse("486 Busy Here", ringing=True)


def hung_up(callee: Sipp) -> float:
    """When the BYE came, in seconds of the day."""
    found = re.search(r"(\d+):(\d+):([\d.]+)\nUDP message received [^\n]*\n\nBYE ", callee.messages())
    assert found is not None, callee.messages()
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])


class KamailioTests(KamailioCase):
    """Each test has Kamailio as its one trunk, with SIPp behind it."""

    def test_whole(self) -> None:
        """Registered; INVITE challenged by 407 once; ACK and BYE by the route set; nothing is asked for twice; at the
        end the registration is taken back."""
        daemon = self.start()
        wait_for("registered", lambda: bool(self.carrier.bindings()), 10)
        ((contact, name),) = self.carrier.bindings().items()
        self.assertEqual(name, USER)
        self.assertRegex(contact, r"^sip:alice@127\.0\.0\.1:\d+$")
        self.is_called(daemon)
        self.assertEqual([line.partition(",")[0] for line in self.of("REGISTER")], ["challenged", "taken"])
        self.assertEqual([line.partition(",")[0] for line in self.of("INVITE")], ["challenged", "taken"])
        (bye,) = self.of("BYE")
        self.assertTrue(bye.startswith("taken"), bye)
        self.assertIn("nc=00000002", bye)
        messages = self.callee.messages()
        for method in ("INVITE", "ACK", "BYE"):
            request = messages[messages.index(f"{method} sip:") :]
            self.assertIn(f"127.0.0.1:{self.carrier.port}", request[: request.index("\n\n")])
        (row,) = daemon.admin("GET", "/status")["trunks"]
        self.assertRegex(row["registration"], r"^registered for 3\d{3} s$")
        self.assertIn("registered for", daemon.calledin("status").stdout)
        self.assertEqual(daemon.stop(), 0)
        self.assertEqual(self.carrier.bindings(), {})
        self.assertIn("Expires 0", self.of("REGISTER")[-1])

    def test_strong(self) -> None:
        """SHA-256, in REGISTER, INVITE and BYE; MD5 is not wanted and not needed."""
        self.is_called(self.start(algorithm="SHA-256", more="digest_md5 = false"))
        self.assertEqual(len([line for line in self.carrier.said() if "algorithm=SHA-256" in line]), 3)

    def test_service_route(self) -> None:
        """The way that the registrar names is the INVITE's first Route."""
        self.is_called(self.start(service_route=True))
        self.assertIn(f"Route <sip:127.0.0.1:{self.carrier.port};lr;gate=1>", self.of("INVITE")[1])

    def test_tcp(self) -> None:
        """Registered and called over TCP, with the callee on UDP behind a Record-Route of two: ACK and BYE find it."""
        daemon = self.start(more='transport = "tcp"')
        self.is_called(daemon)
        (contact,) = self.carrier.bindings()
        self.assertTrue(contact.endswith(";transport=tcp"), contact)
        self.assertTrue(self.of("BYE")[0].startswith("taken"))
        self.assertEqual(daemon.stop(), 0)
        self.assertEqual(self.carrier.bindings(), {})

    def test_telephone(self) -> None:
        """A telephone behind the carrier hangs up in the middle of the audio; its BYE comes by the route set."""
        callee = Baresip(self.folder / "baresip", codec="PCMU", host="127.0.0.1")
        self.world.callback(callee.close)
        callee.wait("baresip is ready")
        daemon = self.register(callee.port)
        self.ask(daemon, mp3=f"{self.web.url}/speech.mp3")
        callee.wait("Call established")
        callee.command("hangup")
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        self.assertEqual([line.partition(",")[0] for line in self.of("INVITE")], ["challenged", "taken"])

    def test_odd_names(self) -> None:
        """User names with anything in them that ASCII has are registered, and answer challenges."""
        for user in ("al;ice@corp #7&x=%y", "o'brien?$"):
            with ExitStack() as self.world:
                self.folder = self.folder / "next"
                self.folder.mkdir()
                self.is_called(self.start(user=user))

    def test_refreshed(self) -> None:
        """A registration is refreshed before it runs out, without another challenge."""
        self.start(REFUSES, expires=2)
        wait_for("refreshed twice", lambda: len(self.of("REGISTER")) >= 4, 15)
        self.assertEqual([line.partition(",")[0] for line in self.of("REGISTER")[:4]], ["challenged", *["taken"] * 3])
        self.assertTrue(self.carrier.bindings())

    def test_wrong_password(self) -> None:
        """A refused registration is not insisted on; no call goes there, and the log says why."""
        daemon = self.start(password="wrong")
        began = time.monotonic()
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "0"))
        self.assertLess(time.monotonic() - began, 10.0)
        self.assertLessEqual(len(self.of("REGISTER")), 3)
        self.assertEqual(self.of("INVITE"), [])
        self.assertIn("trunk carrier: the registration failed: 401 Unauthorized", daemon.log.read_text())
        (row,) = daemon.admin("GET", "/status")["trunks"]
        self.assertEqual(row["registration"], "not registered: 401 Unauthorized")

    def test_not_required(self) -> None:
        """A carrier that is called all the same says itself that it does not know us: 403 is reason 8."""
        more = 'register_required = false\nregister_user = "somebody"'
        daemon = self.start(REFUSES, more=more)
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "8"))

    def test_forbidden_md5(self) -> None:
        """Where MD5 is not wanted, a carrier that has nothing else gets no answer."""
        daemon = self.start(REFUSES, more="digest_md5 = false")
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "0"))
        self.assertEqual(self.of("REGISTER"), ["challenged"])

    def test_nobody_there(self) -> None:
        """A registrar that is not there is a trunk that fails; when it comes, calls go there."""
        port = free_udp_port()
        daemon = self.run_daemon(settings(trunk(port, more='username = "alice"\nregister = true')))
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "0"))
        self.assertTrue(re.search(r"the registration failed: .*ICMP", daemon.log.read_text()))

    def fork(self, first: str, second: str) -> tuple[Daemon, Sipp]:
        """Call two telephones at once; returns the second as well."""
        other = self.world.enter_context(sipp(self.folder / "second", second))
        daemon = self.start(first, second=other.port)
        told = self.call(daemon)
        self.assertEqual(self.outcome(told), ("1", ""), daemon.log.read_text()[-2000:])
        for callee in (self.callee, other):
            self.assertEqual(callee.wait(), 0, callee.explain() + callee.messages())
        return daemon, other

    def test_fork(self) -> None:
        """Of two telephones that ring, the one that answers hears us; the proxy spares the other."""
        _, other = self.fork(CANCELLED, ANSWERS)
        self.assertIn("\nBYE sip:", other.messages())

    def test_both_answer(self) -> None:
        """Where both do, the one that was later gets ACK and BYE at once."""
        late = sc.scenario(
            sc.receive("INVITE", inner=KEEP),
            sc.send("180 Ringing", more=ROUTES + sc.CONTACT),
            sc.receive("CANCEL", extra='timeout="10000"'),
            sc.send("200 OK", sc.IN_DIALOG),
            sc.send("200 OK", KEPT, more=sc.CONTACT, body=sc.sdp(port="40000"), retrans=500),
            sc.receive("ACK"),
            sc.GOODBYE,
            USED,
        )
        _, other = self.fork(late, ANSWERS)
        self.assertGreater((hung_up(other) - hung_up(self.callee)) % 86400, 1.0)

    def test_killed(self) -> None:
        """kill -9 while the telephone rings, over TCP: a CANCEL comes over a new connection and finds the call, though
        Kamailio says nothing to the first, for the INVITE that it challenged."""
        daemon = self.start(CANCELLED, more='transport = "tcp"', sip_port=free_udp_port())
        self.ask(daemon)
        wait_for("ringing", lambda: "180 Ringing" in self.callee.messages())
        daemon.kill()
        daemon.start()
        self.assertEqual(self.outcome(self.web.next_callback()), ("0", "0"))
        self.assertEqual(self.callee.wait(), 0, self.callee.explain() + daemon.log.read_text()[-3000:])
        self.assertEqual(self.of("CANCEL"), ["CANCEL"] * 2)

    def test_cancelled(self) -> None:
        """A CANCEL goes the way of its INVITE, and its 487 comes back."""
        daemon = self.start(CANCELLED)
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "3"))
        self.assertEqual(self.of("CANCEL"), ["CANCEL"])
        self.assertEqual(self.callee.wait(), 0, self.callee.explain())
