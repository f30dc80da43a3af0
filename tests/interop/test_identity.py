"""Who a call is from and where it goes, as a carrier that we did not write reads it."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import time
from email.utils import parsedate_to_datetime

from tests.interop import scenarios as sc
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import Daemon, Sipp, free_udp_port, need, sipp, wait_for
from tests.interop.openssl import make_certificate, passport_is_signed
from tests.interop.test_tshark import WARNING, Capture, capturing

BUSY = sc.refuse("486 Busy Here")
URL = "https://certificates.example.com/stir.pem"


def check(header: str, pattern: str) -> str:
    """An action of SIPp's: the call fails unless the header is so."""
    escaped = pattern.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return f'<ereg regexp="{escaped}" search_in="hdr" header="{header}:" check_it="true" assign_to="found"/>\n'


def busy_when(**headers: str) -> str:
    """Refuse with 486 a call whose headers are as these patterns want; names with _ for -."""
    checks = "".join(check(name.replace("_", "-"), pattern) for name, pattern in headers.items())
    invite = sc.receive("INVITE", inner=f"<action>{checks}</action>")
    reference = '<Reference variables="found"/>\n'
    return sc.scenario(invite, sc.send("486 Busy Here", retrans=500), sc.receive("ACK"), reference)


class IdentityCase(InteropCase):
    """Calls are refused as busy by a SIPp that looks at their headers."""

    def setUp(self) -> None:
        need("sipp")
        super().setUp()

    def carrier(self, scenario: str = BUSY, *, calls: int = 1) -> Sipp:
        return self.world.enter_context(sipp(self.folder / "sipp", scenario, calls=calls))

    def busy(self, daemon: Daemon, carrier: Sipp, **parameters: str) -> dict[str, str]:
        """Make the call; returns the INVITE's headers, the Request-URI as "INVITE"."""
        self.assertEqual(self.outcome(self.call(daemon, **parameters)), ("0", "5"), carrier.explain())
        self.assertEqual(carrier.wait(), 0, carrier.explain())
        return self.invites(carrier)[0]

    def invites(self, carrier: Sipp) -> list[dict[str, str]]:
        """Return the headers of all INVITEs; each has a header once."""
        invites = []
        for found in re.finditer(r"^INVITE (\S+) SIP/2.0\r?\n(.*?)\r?\n\r?\n", carrier.messages(), re.S | re.M):
            lines = [line.partition(": ") for line in found[2].splitlines()]
            self.assertEqual(len({name for name, _, _ in lines}), len(lines), found[2])
            invites.append({"INVITE": found[1]} | {name: value for name, _, value in lines})
        return invites


class IdentityTests(IdentityCase):
    """How a trunk is told of the caller and the callee."""

    def test_headers(self) -> None:
        """A trunk's templates make From, P-Asserted-Identity, Remote-Party-ID and Diversion."""
        carrier = self.carrier(
            busy_when(
                From='^ *"The ."Shop."" <sip:.12125550199@carrier.example;user=phone>;tag=',
                P_Asserted_Identity='^ *"The .*" <tel:.12125550199>$',
                Remote_Party_ID="<sip:2125550199@carrier.example;user=phone>;party=calling;screen=yes;privacy=off$",
                Diversion="^ *<sip:.12125550111@carrier.example;user=phone>;reason=unconditional;counter=1$",
            )
        )
        more = r"""
from_user = "+{e164}"
from_domain = "carrier.example"
display_name = 'The "Shop"'
asserted_identity = "tel:+{e164}"
remote_party_id = "{national}"
diversion = "+12125550111"
user_phone = true
"""
        daemon = self.run_daemon(settings(trunk(carrier.port, more=more)))
        headers = self.busy(daemon, carrier, caller_id="2125550199")
        self.assertNotIn("Privacy", headers)

    def test_username_in_from(self) -> None:
        """A registrar's carrier gets the username in From and the caller in P-Asserted-Identity."""
        carrier = self.carrier(
            busy_when(From="^ *<sip:bob@127.0.0.1>;tag=", P_Asserted_Identity="^ *<sip:442079460000@127.0.0.1>$")
        )
        more = 'username = "bob"\npassword = "hush"\nfrom_user = "{username}"\nasserted_identity = "{e164}"\n'
        daemon = self.run_daemon(settings(trunk(carrier.port, more=more)))
        self.busy(daemon, carrier, caller_id="+442079460000")

    def test_anonymous(self) -> None:
        """An anonymous call names nobody in From and Contact, and asks the carrier to keep the number to itself."""
        carrier = self.carrier(
            busy_when(
                From='^ *"Anonymous" <sip:anonymous@anonymous.invalid>;tag=',
                P_Asserted_Identity="<sip:.12125550111@127.0.0.1>",
                Privacy="^ *id$",
            )
        )
        more = 'caller_id = "+12125550111"\nasserted_identity = "+{e164}"\n'
        daemon = self.run_daemon(settings(trunk(carrier.port, more=more)))
        headers = self.busy(daemon, carrier, caller_id="anonymous")
        revealing = [name for name, value in headers.items() if "2125550111" in value]
        self.assertEqual(revealing, ["P-Asserted-Identity"])

    def test_tech_prefix_and_outbound_proxy(self) -> None:
        """The Request-URI has the trunk's domain and its escaped prefix while the packets go to the proxy."""
        carrier = self.carrier()
        more = f'dial_prefix = "1234#*+"\noutbound_proxy = "127.0.0.1:{carrier.port}"\nuser_phone = true\n'
        text = settings(trunk(carrier.port, host="carrier.example", more=more).replace(f"port = {carrier.port}", ""))
        daemon = self.run_daemon(text)
        headers = self.busy(daemon, carrier)
        self.assertEqual(headers["INVITE"], "sip:1234%23*+12125550100@carrier.example;user=phone")
        self.assertEqual(headers["To"], f"<{headers['INVITE']}>")

    def test_listed_caller_ids(self) -> None:
        """A key's requests name its own caller ids; any other is replaced by the trunk's."""
        carrier = self.carrier(busy_when(From="<sip:2125550111@"))
        daemon = self.run_daemon(settings(trunk(carrier.port, more='caller_id = "2125550111"\n')))
        key_id = daemon.admin("GET", "/keys")["keys"][0]["id"]
        shown = daemon.calledin("keys", "caller-ids", key_id, "+12125550199")
        self.assertEqual((shown.returncode, shown.stderr), (0, ""))
        self.busy(daemon, carrier, caller_id="2125550198")

    def test_unlisted_caller_id_is_refused(self) -> None:
        """Or the request is code 4, where the settings say so."""
        daemon = self.run_daemon(settings(trunk(9), calls='unlisted_caller_id = "refuse"'))
        key_id = daemon.admin("GET", "/keys")["keys"][0]["id"]
        daemon.admin("POST", f"/keys/{key_id}/caller-ids", {"caller_ids": ["+12125550199"]})
        answer = daemon.playback(
            api_key=self.key,
            phone_number="2125550100",
            country_code="1",
            mp3=f"{self.web.url}/short.mp3",
            caller_id="2125550198",
        )
        self.assertEqual((answer.status, answer.body), (200, "4"))
        self.assertIn("caller_id", answer.headers["calledin-reason"])


class SignedTests(IdentityCase):
    """Calls signed by STIR/SHAKEN, verified by openssl."""

    def start(self, *, calls: int = 1, more: str = "") -> tuple[Daemon, Sipp]:
        """Start a carrier, and a daemon that signs calls; `more`: of the trunk."""
        self.key_file, self.certificate = make_certificate(self.folder)
        carrier = self.carrier(calls=calls)
        stir = f'[stir]\nprivate_key = "{self.key_file}"\ncertificate = "{self.certificate}"\n'
        stir += f'certificate_url = "{URL}"\n'
        return self.run_daemon(settings(trunk(carrier.port, more=more), rest=stir)), carrier

    def signed(self, attestation: str, caller_id: str, *listed: str, more: str = "") -> dict[str, str]:
        """Make a call by a key with this attestation and list; returns its headers."""
        daemon, carrier = self.start(more=more)
        key_id = daemon.admin("GET", "/keys")["keys"][0]["id"]
        daemon.admin("POST", f"/keys/{key_id}/caller-ids", {"caller_ids": listed})
        self.assertEqual(daemon.calledin("keys", "attestation", key_id, attestation).returncode, 0)
        return self.busy(daemon, carrier, caller_id=caller_id)

    def test_signed(self) -> None:
        """Identity holds for the caller, the callee and the moment, and openssl agrees with its signature."""
        headers = self.signed("A", "2125550199", "+12125550199")
        passport, parameters = headers["Identity"].split(";", 1)
        self.assertEqual(parameters, f"info=<{URL}>;alg=ES256;ppt=shaken")
        self.assertTrue(passport_is_signed(passport, self.certificate, self.folder))
        header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in passport.split(".")[:2])
        self.assertEqual(header, {"alg": "ES256", "ppt": "shaken", "typ": "passport", "x5u": URL})
        self.assertEqual(
            (claims["attest"], claims["orig"], claims["dest"]),
            ("A", {"tn": "12125550199"}, {"tn": ["12125550100"]}),
        )
        self.assertLess(abs(claims["iat"] - time.time()), 60)
        self.assertEqual(parsedate_to_datetime(headers["Date"]).timestamp(), claims["iat"])

    def test_not_sure(self) -> None:
        """A caller id that the key is not known to have is attested B, whatever is said of the key."""
        claims = self.signed("A", "2125550199")["Identity"].split(".")[1]
        self.assertEqual(json.loads(base64.urlsafe_b64decode(claims + "=="))["attest"], "B")

    def test_trunk_that_signs_itself(self) -> None:
        """A trunk with stir = false gets no Identity."""
        self.assertNotIn("Identity", self.signed("A", "2125550199", more="stir = false\n"))

    def test_renewed_certificate(self) -> None:
        """SIGHUP brings a renewed key into force; one that is no good is told, and the old one goes on signing."""
        daemon, carrier = self.start(calls=2)
        old = self.certificate.rename(self.folder / "old.pem")
        self.key_file.write_text("no key")
        os.kill(daemon.pid, signal.SIGHUP)
        wait_for("the reload is refused", lambda: "stir.private_key" in daemon.log.read_text())
        self.call(daemon, caller_id="2125550199")
        make_certificate(self.folder)
        os.kill(daemon.pid, signal.SIGHUP)
        wait_for("the reload is done", lambda: "were read again" in daemon.log.read_text())
        self.call(daemon, caller_id="2125550199", phone_number="2125550101")
        self.assertEqual(carrier.wait(), 0, carrier.explain())
        for headers, certificate in zip(self.invites(carrier), (old, self.certificate), strict=True):
            passport = headers["Identity"].partition(";")[0]
            self.assertTrue(passport_is_signed(passport, certificate, self.folder))

    def test_no_key(self) -> None:
        """A start without the key that the settings name ends with one line that says so."""
        stir = f'[stir]\nprivate_key = "/nonexistent/key.pem"\ncertificate_url = "{URL}"\n'
        daemon = Daemon(self.folder / "daemon", settings(trunk(9), rest=stir))
        error = self.assertRaises(AssertionError, daemon.start)
        self.assertIn("stir.private_key: /nonexistent/key.pem can't be read: No such file", str(error))
        self.assertNotIn("Traceback", daemon.log.read_text())


class WireTests(IdentityCase):
    """Headers that say who calls, as Wireshark reads them off the wire."""

    def read(self, more: str, *fields: str, caller_id: str) -> str:
        """Make one call; returns what these fields of its INVITE are, a tab between."""
        key, certificate = make_certificate(self.folder)
        stir = f'[stir]\nprivate_key = "{key}"\ncertificate = "{certificate}"\ncertificate_url = "{URL}"\n'
        carrier, sip_port = self.carrier(), free_udp_port()
        daemon = self.run_daemon(settings(trunk(carrier.port, more=more), sip_port=sip_port, rest=stir))
        path = self.folder / "call.pcapng"
        with capturing(path, f"udp port {sip_port}"):
            self.busy(daemon, carrier, caller_id=caller_id)
        capture = Capture(path, sip_port)
        severe = f"_ws.malformed || (_ws.expert.severity >= {WARNING} && udp.srcport == {sip_port})"
        self.assertEqual(capture.matching(severe, "_ws.expert.message", "_ws.col.Info"), [])
        (invite,) = capture.matching('sip.Method == "INVITE"', *fields)
        return invite

    def test_named(self) -> None:
        """Each header is of its kind, with the user, host and parameters that its template says."""
        more = """
from_user = "+{e164}"
from_domain = "carrier.example"
display_name = "The Shop; Inc."
asserted_identity = "+{e164}"
remote_party_id = "{national}"
diversion = "+12125550111"
user_phone = true
"""
        who = ("sip.from.user", "sip.from.host", "sip.from.display.info", "sip.pai.user", "sip.pai.host")
        other = ("sip.Diversion", "sip.Privacy", "sip.r-uri.user", "sip.Identity", "sip.Date")
        said = self.read(more, *who, *other, caller_id="2125550199").split("\t")
        self.assertEqual(
            said[:8],
            [
                "+12125550199",
                "carrier.example",
                '"The Shop; Inc."',
                "+12125550199",
                "carrier.example",
                "<sip:+12125550111@carrier.example;user=phone>;reason=unconditional;counter=1",
                "",
                "+12125550100",
            ],
        )
        self.assertTrue(said[8].endswith(f";info=<{URL}>;alg=ES256;ppt=shaken"), said[8])
        self.assertTrue(said[9].endswith(" GMT"), said[9])

    def test_anonymous(self) -> None:
        """An anonymous call is one, and the carrier alone is told whose."""
        more = 'caller_id = "+12125550111"\nasserted_identity = "tel:+{e164}"\nprivacy = "header;id"\n'
        fields = ("sip.from.user", "sip.from.host", "sip.contact.user", "sip.P-Asserted-Identity", "sip.Privacy")
        self.assertEqual(
            self.read(more, *fields, caller_id="anonymous").split("\t"),
            ["anonymous", "anonymous.invalid", "anonymous", "<tel:+12125550111>", "header;id"],
        )
