"""Calls through Kamailio by TLS: its certificate is checked, ours is shown, and all of a call has one connection."""

from __future__ import annotations

import time
from pathlib import Path

from tests.interop import scenarios as sc
from tests.interop.harness import Daemon, wait_for
from tests.interop.kamailio import ANSWERS, DOMAIN, KamailioCase, Tls
from tests.interop.test_baresip import Baresip
from tests.net.certificates import Authority

CLIENT = "pbx.customer.example"
BUSY = sc.refuse("486 Busy Here", ringing=True)


class KamailioTlsTests(KamailioCase):
    """SIPp or a telephone is behind Kamailio, on UDP."""

    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority(self.folder / "certificates")

    def secured(
        self, scenario: str = ANSWERS, *, own: tuple[Path, Path] | None = None, ask: bool = False, more: str = ""
    ) -> Daemon:
        """Start with a carrier whose certificate for `DOMAIN` is `own`, a good one where it isn't named."""
        return self.start(scenario, tls=self.tls(own, ask=ask), more=self.trusting(more))

    def tls(self, own: tuple[Path, Path] | None = None, *, ask: bool = False) -> Tls:
        other = self.authority.issue("somebody.example")
        return Tls(own or self.authority.issue(DOMAIN), other, self.authority.certificate, ask)

    def trusting(self, more: str = "") -> str:
        """Return the settings of a trunk that is reached by TLS."""
        return f'transport = "tls"\ntls_ca = "{self.authority.certificate}"\ntls_name = "{DOMAIN}"\n{more}'

    def refused(self, daemon: Daemon, words: str) -> None:
        """No call gets through, at once; the log says why, and Kamailio heard nothing of it."""
        began = time.monotonic()
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "0"))
        self.assertLess(time.monotonic() - began, 10.0)
        self.assertIn(words, daemon.log.read_text())
        self.assertEqual(self.carrier.said(), [])

    def test_whole(self) -> None:
        """Registered, called, heard and left by TLS, with the callee on UDP behind a Record-Route of two; the name that
        the certificate is for was asked for (SNI); at the end the registration is taken back."""
        daemon = self.secured()
        self.is_called(daemon)
        ((contact, _),) = self.carrier.bindings().items()
        self.assertTrue(contact.endswith(";transport=tls"), contact)
        for method in ("REGISTER", "INVITE"):
            self.assertEqual([line.partition(",")[0] for line in self.of(method)], ["challenged", "taken"])
            self.assertIn(", tls,", self.of(method)[1])
        (bye,) = self.of("BYE")
        self.assertTrue(bye.startswith("taken, tls,"), bye)
        messages = self.callee.messages()
        invite = messages[messages.index("INVITE sip:") :]
        routes = [line for line in invite[: invite.index("\n\n")].splitlines() if line.startswith("Record-Route:")]
        self.assertEqual(["transport=tls" in route for route in routes], [False, True], routes)
        self.assertEqual(daemon.stop(), 0)
        self.assertEqual(self.carrier.bindings(), {})

    def test_telephone(self) -> None:
        """A telephone behind the carrier hangs up in the middle of the audio: its BYE comes by our connection."""
        callee = Baresip(self.folder / "baresip", codec="PCMU", host="127.0.0.1")
        self.world.callback(callee.close)
        callee.wait("baresip is ready")
        daemon = self.register(callee.port, tls=self.tls(), more=self.trusting())
        call_id = self.ask(daemon, mp3=f"{self.web.url}/speech.mp3")
        callee.wait("Call established")
        callee.command("hangup")
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        (bye,) = (each for each in daemon.admin("GET", f"/trace/{call_id}") if each["text"].startswith("BYE"))
        self.assertEqual(bye["direction"], "received")
        self.assertIn("Via: SIP/2.0/TLS", bye["text"])

    def test_sips(self) -> None:
        """With sips every URI of ours is one, and the registration is of one."""
        daemon = self.secured(more="sips = true")
        self.is_called(daemon)
        (contact,) = self.carrier.bindings()
        self.assertTrue(contact.startswith("sips:"), contact)
        self.assertIn(f"sips:+12125550100@{DOMAIN}", self.of("INVITE")[1])

    def test_killed(self) -> None:
        """kill -9 while the callee listens: the BYE has a new connection, is challenged, and ends the call."""
        scenario = ANSWERS.replace(sc.GOODBYE, sc.receive("ACK", optional=True) + sc.GOODBYE)
        daemon = self.secured(scenario)
        self.ask(daemon, mp3=f"{self.web.url}/speech.mp3")
        wait_for("the call was answered", lambda: "ACK sip:" in self.callee.messages())
        daemon.kill()
        daemon.start()
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        self.assertEqual(self.callee.wait(), 0, self.callee.explain())
        self.assertEqual([line.split(",")[0] for line in self.of("BYE")], ["challenged", "taken"])

    def test_client_certificate(self) -> None:
        """A carrier that asks for our certificate is shown it."""
        certificate, key = self.authority.issue(CLIENT)
        daemon = self.secured(BUSY, ask=True, more=f'tls_certificate = "{certificate}"\ntls_private_key = "{key}"')
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "5"))
        self.assertIn(f", tls, by {CLIENT},", self.of("INVITE")[1])

    def test_no_client_certificate(self) -> None:
        """Where it asks and we have none, it ends the handshake, and the log says what it wanted; with TLS 1.3 that is
        after we said the first word."""
        self.refused(self.secured(ask=True), "certificate required")

    def test_no_client_certificate_for_a_call(self) -> None:
        """The same where an INVITE is the first word."""
        daemon = self.start(BUSY, tls=self.tls(ask=True), registers=False, more=self.trusting())
        self.refused(daemon, "certificate required")

    def test_unknown_client(self) -> None:
        """Where it does not know who signed ours, it says so."""
        certificate, key = Authority(self.folder / "others", "others").issue(CLIENT)
        more = f'tls_certificate = "{certificate}"\ntls_private_key = "{key}"'
        self.refused(self.secured(ask=True, more=more), "unknown ca")

    def test_wrong_name(self) -> None:
        """A certificate of somebody else's is not believed."""
        self.refused(self.secured(own=self.authority.issue("sip.example.net")), "not one for this name")

    def test_expired(self) -> None:
        """Nor one that has run out."""
        self.refused(self.secured(own=self.authority.issue(DOMAIN, days=-1)), "certificate verify failed")

    def test_unknown_authority(self) -> None:
        """Nor one that somebody signed whom we do not know."""
        own = Authority(self.folder / "others", "others").issue(DOMAIN)
        self.refused(self.secured(own=own), "certificate verify failed")

    def test_connection_lost(self) -> None:
        """A carrier that was gone for a moment has the next call by a new connection."""
        daemon = self.start(BUSY, calls=2, tls=self.tls(), registers=False, more=self.trusting())
        for number in ("2125550100", "2125550101"):
            self.assertEqual(self.outcome(self.call(daemon, phone_number=number)), ("0", "5"))
            self.carrier.close()
            self.carrier.start()
        self.assertEqual([line.partition(",")[0] for line in self.of("INVITE")], ["challenged", "taken"] * 2)
        self.assertEqual(self.callee.wait(), 0, self.callee.explain())
