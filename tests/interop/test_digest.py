"""Challenges by SIPp, in every form, of every request; and what a registrar may say, played by SIPp."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.interop import scenarios as sc
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.digest import expected, parameters
from tests.interop.harness import Daemon, Sipp, need, sipp, wait_for

USER, PASSWORD = "alice", "wonder land"
ACCOUNT = f'username = "{USER}"\npassword = "{PASSWORD}"\n'
BUSY = sc.send("486 Busy Here", retrans=500) + sc.receive("ACK")
VERIFY = f'<action><verifyauth assign_to="right" username="{USER}" password="{PASSWORD}"/></action>'


def challenge(nonce: str, *, proxy: bool = False, realm: str = "carrier", more: str = 'qop="auth"') -> str:
    """One header line with a challenge."""
    header = "Proxy-Authenticate" if proxy else "WWW-Authenticate"
    return f'{header}: Digest realm="{realm}", nonce="{nonce}", {more}\n'


def refuse(*challenges: str, status: str = "401 Unauthorized") -> str:
    """A refused INVITE."""
    return sc.receive("INVITE") + sc.send(status, more="".join(challenges), retrans=500) + sc.receive("ACK")


@dataclass(frozen=True)
class Sent:
    """A request as SIPp received it."""

    method: str
    headers: dict[str, str]
    body: bytes

    def answers(self) -> list[dict[str, str]]:
        """The parameters of its answers to challenges; each is what it must be."""
        found = []
        for name in ("Proxy-Authorization", "Authorization"):
            for value in self.headers.get(name, "").split("\n"):
                if value:
                    said = parameters(value)
                    assert said["response"] == expected(said, self.method, PASSWORD, self.body), value
                    found.append({**said, "header": name})
        return found


def requests(carrier: Sipp, method: str) -> list[Sent]:
    """The requests of one method, repeats left out."""
    found: dict[str, Sent] = {}
    for text in re.split(r"^-{20,}.*\n", carrier.messages(), flags=re.M):
        head, _, body = text.partition("received")[2].partition("\n\n")[2].partition("\n\n")
        if not head.startswith(f"{method} "):
            continue
        headers: dict[str, str] = {}
        for line in head.splitlines()[1:]:
            name, _, value = line.partition(": ")
            headers[name] = f"{headers[name]}\n{value}" if name in headers else value
        length = int(headers["Content-Length"])
        found.setdefault(headers["CSeq"], Sent(method, headers, body.replace("\n", "\r\n").encode()[:length]))
    return list(found.values())


class DigestTests(InteropCase):
    """SIPp as a carrier that asks for a password."""

    def setUp(self) -> None:
        need("sipp")
        super().setUp()

    def expect(self, answered: str, reason: str, *steps: str, more: str = "") -> Sipp:
        """Make a call that is challenged; it ends as said, and went as the steps say."""
        carrier = self.world.enter_context(sipp(self.folder / "sipp", sc.scenario(*steps), "-key", "rtp", "40000"))
        daemon = self.run_daemon(settings(trunk(carrier.port, more=ACCOUNT + more)))
        told = self.call(daemon)
        self.assertEqual(self.outcome(told), (answered, reason), carrier.messages())
        self.assertEqual(carrier.wait(), 0, carrier.explain())
        return carrier

    def answered_by(self, *challenges: str, more: str = "") -> dict[str, str]:
        """The one answer to these challenges of an INVITE, which is right."""
        carrier = self.expect("0", "5", refuse(*challenges), sc.receive("INVITE"), BUSY, more=more)
        first, second = requests(carrier, "INVITE")
        self.assertEqual(first.answers(), [])
        (said,) = second.answers()
        return said

    def test_strongest(self) -> None:
        """Of MD5, SHA-256 and SHA-512-256 in any order, the strongest is used (RFC 8760)."""
        offers = [
            challenge("m", more='qop="auth", algorithm=MD5'),
            challenge("s", more='algorithm=SHA-256, qop="auth"'),
        ]
        strongest = challenge("t", more='algorithm=SHA-512-256, qop="auth"')
        said = self.answered_by(offers[0], strongest, offers[1])
        self.assertEqual((said["algorithm"], said["nonce"], said["qop"]), ("SHA-512-256", "t", "auth"))

    def test_session(self) -> None:
        """MD5-sess, without opaque and with it."""
        said = self.answered_by(challenge("n", more='qop="auth", algorithm=MD5-sess, opaque="o p"'))
        self.assertEqual((said["algorithm"], said["opaque"]), ("MD5-sess", "o p"))

    def test_auth_int(self) -> None:
        """Where nothing else is offered, the offer's SDP is in the digest."""
        self.assertEqual(self.answered_by(challenge("n", more='qop="auth-int", algorithm=SHA-256'))["qop"], "auth-int")

    def test_of_old(self) -> None:
        """A challenge without qop is answered as RFC 2069 has it."""
        said = self.answered_by(challenge("n", more="algorithm=MD5"))
        self.assertEqual(set(said) & {"qop", "nc", "cnonce"}, set())

    def test_without_md5(self) -> None:
        """Where MD5 is not wanted, the call is refused after the one INVITE; reason 8."""
        carrier = self.expect("0", "8", refuse(challenge("n", more="algorithm=MD5")), more="digest_md5 = false")
        self.assertEqual(len(requests(carrier, "INVITE")), 1)

    def test_several_realms(self) -> None:
        """A fork's challenges come together, of proxies and of the callee: all are answered in one INVITE."""
        both = challenge("p", proxy=True, realm="a") + challenge("q", proxy=True, realm="b") + challenge("r", realm="c")
        refused = refuse(both, status="407 Proxy Authentication Required")
        carrier = self.expect("0", "5", refused, sc.receive("INVITE"), BUSY)
        said = requests(carrier, "INVITE")[1].answers()
        self.assertEqual([(each["realm"], each["nonce"]) for each in said], [("a", "p"), ("b", "q"), ("c", "r")])

    def test_proxy_then_callee(self) -> None:
        """407, then 401: the third INVITE has both answers, the proxy's nonce with the next count. A stale nonce at the
        BYE is replaced, and the count goes on for the other."""
        carrier = self.expect(
            "1",
            "",
            refuse(challenge("p", proxy=True, realm="proxy"), status="407 Proxy Authentication Required"),
            refuse(challenge("c")),
            sc.receive("INVITE"),
            sc.OK,
            sc.receive("ACK"),
            sc.receive("BYE", extra='timeout="60000"'),
            sc.send("401 Unauthorized", sc.IN_DIALOG, more=challenge("d", more='qop="auth", stale=TRUE')),
            sc.GOODBYE,
        )
        last = requests(carrier, "INVITE")[2].answers()
        self.assertEqual([(each["nonce"], each["nc"]) for each in last], [("p", "00000002"), ("c", "00000001")])
        byes = [[(each["nonce"], each["nc"]) for each in bye.answers()] for bye in requests(carrier, "BYE")]
        self.assertEqual(byes, [[("p", "00000003"), ("c", "00000002")], [("p", "00000004"), ("d", "00000001")]])

    def test_next_nonce(self) -> None:
        """The nonce that comes with the 200 is the BYE's."""
        more = 'Authentication-Info: nextnonce="two", qop=auth\n' + sc.CONTACT
        carrier = self.expect(
            "1",
            "",
            refuse(challenge("one")),
            sc.receive("INVITE"),
            sc.send("200 OK", more=more, body=sc.sdp(), retrans=500),
            sc.receive("ACK"),
            sc.GOODBYE,
        )
        (bye,) = requests(carrier, "BYE")
        (said,) = bye.answers()
        self.assertEqual((said["nonce"], said["nc"]), ("two", "00000001"))

    def test_challenged_prack(self) -> None:
        """A PRACK that is challenged on its own is sent again with an answer."""
        keep = '<action><ereg regexp=".*" search_in="hdr" header="Via:" assign_to="via"/></action>'
        invite = sc.IN_DIALOG.replace("[last_Via:]", "Via:[$via]").replace("[last_CSeq:]", "CSeq: 1 INVITE")
        reliable = "Require: 100rel\nRSeq: 7\n" + sc.CONTACT
        carrier = self.expect(
            "0",
            "5",
            sc.receive("INVITE", inner=keep),
            sc.send("183 Session Progress", more=reliable, retrans=500),
            sc.receive("PRACK"),
            sc.send("401 Unauthorized", sc.IN_DIALOG, more=challenge("n")),
            sc.receive("PRACK"),
            sc.send("200 OK", sc.IN_DIALOG),
            sc.send("486 Busy Here", invite, retrans=500),
            sc.receive("ACK"),
            '<Reference variables="via"/>\n',
        )
        first, second = requests(carrier, "PRACK")
        self.assertEqual((first.answers(), len(second.answers())), ([], 1))

    def test_never_enough(self) -> None:
        """A carrier whose nonces are stale at once is answered twice, not for ever."""
        stale = [refuse(challenge(str(number), more='qop="auth", stale=true')) for number in range(3)]
        carrier = self.expect("0", "8", *stale)
        self.assertEqual(len(requests(carrier, "INVITE")), 3)


class RegistrarTests(InteropCase):
    """SIPp as a registrar."""

    def setUp(self) -> None:
        need("sipp")
        super().setUp()

    def start(self, *steps: str, more: str = "") -> tuple[Daemon, Sipp]:
        registrar = self.world.enter_context(sipp(self.folder / "registrar", sc.scenario(*steps)))
        daemon = self.run_daemon(settings(trunk(registrar.port, more=f"{ACCOUNT}register = true\n{more}")))
        return daemon, registrar

    def test_whole(self) -> None:
        """423 is followed, a challenge answered, as SIPp checks; at the end the binding is taken back."""
        daemon, registrar = self.start(
            sc.receive("REGISTER"),
            sc.send("423 Interval Too Brief", more="Min-Expires: 7200\n"),
            sc.receive("REGISTER"),
            sc.send("401 Unauthorized", more=challenge("n", more='qop="auth", algorithm=MD5')),
            sc.receive("REGISTER", inner=VERIFY),
            '<nop next="taken" test="right"/>\n',
            sc.send("403 Forbidden"),
            '<nop next="end"/>\n<label id="taken"/>\n',
            sc.send("200 OK", more="Expires: 7200\n"),
            sc.receive("REGISTER", extra='timeout="60000"', inner=VERIFY),
            sc.send("200 OK"),
            '<label id="end"/>\n',
        )
        wait_for("registered", lambda: "registered for 7200 s" in daemon.log.read_text(), 10)
        (row,) = daemon.admin("GET", "/status")["trunks"]
        self.assertRegex(row["registration"], r"^registered for 7\d{3} s$")
        self.assertEqual(daemon.stop(), 0)
        self.assertEqual(registrar.wait(), 0, registrar.explain())
        sent = requests(registrar, "REGISTER")
        self.assertEqual([each.headers["Expires"] for each in sent], ["3600", "7200", "7200", "0"])
        self.assertEqual([each.headers["CSeq"] for each in sent], [f"{number} REGISTER" for number in (1, 2, 3, 4)])
        self.assertEqual(len({each.headers["Call-ID"] for each in sent}), 1)
        self.assertEqual([len(each.answers()) for each in sent], [0, 0, 1, 1])
        self.assertIn(";expires=0", sent[-1].headers["Contact"])

    def test_service_route(self) -> None:
        """Calls go to the first of the registrar's Service-Route, with all of it as Route, to the trunk's domain."""
        edge = self.world.enter_context(sipp(self.folder / "edge", sc.refuse("486 Busy Here", more="")))
        routes = f"Service-Route: <sip:127.0.0.1:{edge.port};lr;hop=1>, <sip:core.example.com;lr>\n"
        daemon, registrar = self.start(sc.receive("REGISTER"), sc.send("200 OK", more=f"Expires: 60\n{routes}"))
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "5"))
        self.assertEqual(edge.wait(), 0, edge.explain())
        (invite,) = requests(edge, "INVITE")
        self.assertEqual(invite.headers["Route"], f"<sip:127.0.0.1:{edge.port};lr;hop=1>\n<sip:core.example.com;lr>")
        self.assertIn(f"INVITE sip:+12125550100@127.0.0.1:{registrar.port} SIP/2.0", edge.messages())

    def test_seen_elsewhere(self) -> None:
        """Where the registrar sees us at another address (received, rport), that one is registered, the other taken
        back, in one REGISTER; INVITEs name it as well."""
        seen = sc.ECHO.replace("[last_Via:]", "Via:[$via];received=198.51.100.7;rport=1024")
        keep = '<action><ereg regexp="[^;]*;branch=[^;]*" search_in="hdr" header="Via:" assign_to="via"/></action>'
        registrar = self.world.enter_context(
            sipp(
                self.folder / "registrar",
                sc.scenario(
                    '<recv request="OPTIONS" optional="true" next="options"></recv>\n',
                    sc.receive("REGISTER", inner=keep),
                    sc.send("200 OK", seen, more="[last_Contact:]\n"),
                    sc.receive("REGISTER", extra='timeout="10000"'),
                    sc.send("200 OK", more="Expires: 60\n"),
                    '<nop next="end"/>\n<label id="options"/>\n',
                    sc.send("200 OK"),
                    '<label id="end"/>\n<Reference variables="via"/>\n',
                ),
                calls=2,
            )
        )
        more = f'{ACCOUNT}register = true\nadvertise = "received"\n'
        self.run_daemon(settings(trunk(registrar.port, more=more)))
        self.assertEqual(registrar.wait(), 0, registrar.explain())
        first, second = requests(registrar, "REGISTER")
        old = re.search(r"<(.*)>", first.headers["Contact"])
        assert old is not None
        self.assertEqual(
            second.headers["Contact"],
            f"<sip:alice@198.51.100.7:1024>;expires=3600\n<{old[1]}>;expires=0",
        )
