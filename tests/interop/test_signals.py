"""What an operator and an accident do to a running daemon: SIGTERM, SIGHUP, kill -9."""

from __future__ import annotations

import http.client
import os
import re
import signal
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.interop import scenarios as sc
from tests.interop.case import SHORT, InteropCase, settings, trunk
from tests.interop.harness import Daemon, Sipp, free_tcp_port, free_udp_port, need, sipp, wait_for
from tests.interop.hearing import Ear, by_ffmpeg

RINGS = sc.scenario(
    sc.receive("INVITE"),
    sc.RINGING,
    sc.receive("CANCEL", extra='timeout="20000"'),
    sc.send("200 OK", sc.IN_DIALOG),
    sc.send("487 Request Terminated", sc.ECHO_INVITE, retrans=500),
    sc.receive("ACK"),
)
ANSWERS = sc.scenario(sc.ANSWER, sc.GOODBYE)


class Callee(InteropCase):
    """One SIPp as the trunk, and an ear for what it would hear."""

    ear: Ear
    carrier: Sipp
    daemon: Daemon

    def begin(self, scenario: str, *, calls: int = 1, more: str = "") -> None:
        need("sipp")
        self.ear = Ear()
        self.world.callback(self.ear.close)
        arguments = ("-key", "rtp", str(self.ear.port))
        self.carrier = self.world.enter_context(sipp(self.folder / "sipp", scenario, *arguments, calls=calls))
        text = settings(trunk(self.carrier.port, more=more), sip_port=free_udp_port(), calls="ring_timeout = 20.0")
        self.daemon = self.run_daemon(text)

    def wait_for_audio(self) -> None:
        wait_for("the callee hears something", lambda: len(self.ear.packets) > 5)

    def wait_for_log(self, words: str, *, after: int = 0) -> None:
        wait_for(f"{words!r} in {self.daemon.log}", lambda: words in self.daemon.log.read_text()[after:])

    def requests(self, method: str) -> list[str]:
        """The requests that SIPp got, repeats too."""
        return re.findall(rf"^{method} sip:.*?(?:\n\n|\r\n\r\n)", self.carrier.messages(), re.S | re.M)

    def done(self, seconds: float = 10.0) -> None:
        self.assertEqual(self.carrier.wait(seconds), 0, self.carrier.explain())


class TerminateTests(Callee):
    def test_running_calls_finish(self) -> None:
        """SIGTERM while a call plays: new requests get 503, the callee hears the last word, the exit status is 0."""
        self.begin(ANSWERS)
        self.ask(self.daemon)
        self.wait_for_audio()
        os.kill(self.daemon.pid, signal.SIGTERM)
        wait_for("not ready", lambda: self.daemon.get("/readyz").status == 503)
        refused = self.daemon.playback(api_key=self.key, phone_number="2125550101", country_code="1", mp3="http://a/")
        self.assertEqual(refused.status, 503)
        self.assertGreater(int(refused.headers["retry-after"]), 0)
        self.assertEqual(self.daemon.get("/healthz").status, 200)
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        self.assertEqual(self.daemon.stop(), 0)
        self.done()
        whole = len(by_ffmpeg(SHORT)) / 8000 + 0.8
        self.assertLess(abs(len(self.ear.packets) * 0.02 - whole), 0.1)

    def test_twice(self) -> None:
        """A second SIGTERM hangs up what plays: BYE, and the call counts as answered."""
        self.begin(ANSWERS)
        self.ask(self.daemon, mp3=f"{self.web.url}/speech.mp3")
        self.wait_for_audio()
        began = time.monotonic()
        os.kill(self.daemon.pid, signal.SIGTERM)
        self.wait_for_log("calls are running")
        os.kill(self.daemon.pid, signal.SIGTERM)
        self.assertEqual(self.daemon.stop(), 0)
        self.assertLess(time.monotonic() - began, 6.0)
        self.done()
        self.daemon.start()
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))

    def test_waiting_calls_wait(self) -> None:
        """A call that waits for a channel at SIGTERM is not dialled any more; the next start dials it."""
        self.begin(ANSWERS, calls=2, more="channels = 1")
        first = self.ask(self.daemon)
        self.wait_for_audio()
        second = self.ask(self.daemon, phone_number="2125550101")
        self.assertEqual(self.daemon.stop(), 0)
        self.assertEqual(self.web.next_callback().headers["webhook-id"], first)
        self.assertEqual(len({request.splitlines()[0] for request in self.requests("INVITE")}), 1)
        self.daemon.start()
        told = self.web.next_callback()
        self.assertEqual((told.headers["webhook-id"], *self.outcome(told)), (second, "1", ""))
        self.done()


class KillTests(Callee):
    def test_while_streaming(self) -> None:
        """kill -9 while the callee listens: silence at once, BYE within five seconds of the start, answered."""
        # The next process can't know whether the ACK had left, and sends it once more.
        self.begin(sc.scenario(sc.ANSWER, sc.receive("ACK", optional=True), sc.GOODBYE))
        self.ask(self.daemon, mp3=f"{self.web.url}/speech.mp3")
        self.wait_for_audio()
        self.daemon.kill()
        time.sleep(0.5)
        heard = len(self.ear.packets)
        began = time.monotonic()
        self.daemon.start()
        self.done(5.0 - (time.monotonic() - began))
        self.assertEqual(len(self.ear.packets), heard)
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        self.assertEqual(self.account(), (99, 0, 1))

    def test_while_ringing(self) -> None:
        """kill -9 while the telephone rings: the next start sends the CANCEL, of the INVITE's branch; failed."""
        self.begin(RINGS)
        self.ask(self.daemon)
        wait_for("ringing", lambda: "180 Ringing" in self.carrier.messages())
        self.daemon.kill()
        began = time.monotonic()
        self.daemon.start()
        self.done(5.0 - (time.monotonic() - began))
        self.assertEqual(self.outcome(self.web.next_callback()), ("0", "0"))
        branches = {re.search(r"branch=([^;\s]+)", each)[1] for each in self.sent()}  # type: ignore[index]
        self.assertEqual(len(branches), 1, self.carrier.messages())
        self.assertEqual(self.account(), (100, 0, 0))

    def sent(self) -> list[str]:
        cancels = self.requests("CANCEL")
        self.assertTrue(cancels)
        return cancels + self.requests("INVITE") + self.requests("ACK")

    def test_while_a_callback_waits(self) -> None:
        """kill -9 between two tries of a callback: the second is made by the next process, and is the last."""
        self.begin(sc.refuse("486 Busy Here"))
        self.web.refuse.append(500)
        call_id = self.ask(self.daemon)
        first = self.web.next_callback()
        self.wait_for_log("try 1")
        self.daemon.kill()
        self.daemon.start()
        second = self.web.next_callback(10.0)
        self.assertEqual([each.headers["webhook-id"] for each in (first, second)], [call_id] * 2)
        self.assertEqual([self.outcome(each) for each in (first, second)], [("0", "5")] * 2)
        wait_for("delivered", lambda: self.daemon.admin("GET", f"/calls/{call_id}")["state"] == "delivered", 10.0)
        self.assertTrue(self.web.told.empty())

    def account(self) -> tuple[int, int, int]:
        (key,) = self.daemon.admin("GET", "/keys")["keys"]
        return key["credits"], key["held"], key["charged"]


class ReloadTests(Callee):
    def test_broken_settings(self) -> None:
        """SIGHUP with settings that are wrong: all stays as it was, and the log says what is wrong with them."""
        self.begin(sc.refuse("486 Busy Here"))
        good = self.daemon.config.read_text()
        for broken, words in ((f"{good}\n[rtp\n", "is not TOML"), (good.replace("[calls]", "[calles]"), "calles")):
            after = len(self.daemon.log.read_text())
            self.daemon.config.write_text(broken)
            os.kill(self.daemon.pid, signal.SIGHUP)
            self.wait_for_log(words, after=after)
            self.assertIn("#error]", self.daemon.log.read_text()[after:])
            self.assertEqual(self.daemon.get("/readyz").status, 200)
        self.assertEqual(self.outcome(self.call(self.daemon)), ("0", "5"))
        self.daemon.config.write_text(good)
        after = len(self.daemon.log.read_text())
        os.kill(self.daemon.pid, signal.SIGHUP)
        self.wait_for_log("read again", after=after)

    def test_removed_trunk(self) -> None:
        """SIGHUP while a call plays, with its trunk gone from the settings: the callee hears it out and gets a BYE."""
        self.begin(ANSWERS)
        self.ask(self.daemon)
        self.wait_for_audio()
        text = self.daemon.config.read_text()
        self.daemon.config.write_text(
            text.replace('name = "sipp"', f'name = "other"\nbind = "127.0.0.2:{free_udp_port()}"')
        )
        os.kill(self.daemon.pid, signal.SIGHUP)
        self.wait_for_log("read again")
        self.assertEqual([each["name"] for each in self.daemon.admin("GET", "/status")["trunks"]], ["other"])
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        self.done()
        whole = len(by_ffmpeg(SHORT)) / 8000 + 0.8
        self.assertLess(abs(len(self.ear.packets) * 0.02 - whole), 0.1)
        sources = {re.search(r"Via: (\S+ \S+?);", each)[1] for each in self.requests("INVITE") + self.requests("BYE")}  # type: ignore[index]
        self.assertEqual(len(sources), 1, sources)

    def test_certificate(self) -> None:
        """SIGHUP after the certificate was replaced: new connections get it, an old one goes on; a bad one is left."""
        certificate, private_key, port = self.folder / "new.crt", self.folder / "new.key", free_tcp_port()
        write_certificate("one", certificate, private_key)
        http_table = f"""[http]
tls_listen = ["127.0.0.1:{port}"]
certificate = "{certificate}"
private_key = "{private_key}"
"""
        self.daemon = self.run_daemon(settings(trunk(free_udp_port()), rest=http_table))
        old = connect(port)
        self.assertEqual((name_of(old), status_of(old)), ("one", 200))

        write_certificate("two", certificate, private_key)
        os.kill(self.daemon.pid, signal.SIGHUP)
        wait_for("the new certificate", lambda: name_of(connect(port)) == "two")
        self.assertEqual((name_of(old), status_of(old)), ("one", 200))

        moved = self.folder / "moved.crt", self.folder / "moved.key"
        write_certificate("three", *moved)
        text = self.daemon.config.read_text()
        self.daemon.config.write_text(
            text.replace(str(certificate), str(moved[0])).replace(str(private_key), str(moved[1]))
        )
        os.kill(self.daemon.pid, signal.SIGHUP)
        wait_for("the certificate of another file", lambda: name_of(connect(port)) == "three")
        self.daemon.config.write_text(text)
        os.kill(self.daemon.pid, signal.SIGHUP)
        wait_for("the first file's again", lambda: name_of(connect(port)) == "two")

        after = len(self.daemon.log.read_text())
        certificate.write_text("-----BEGIN CERTIFICATE-----\n")
        os.kill(self.daemon.pid, signal.SIGHUP)
        self.wait_for_log("#error]", after=after)
        self.assertIn(str(certificate), self.daemon.log.read_text()[after:])
        self.assertEqual((name_of(connect(port)), status_of(old)), ("two", 200))
        old.close()


def connect(port: int) -> http.client.HTTPSConnection:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    connection.connect()
    return connection


def name_of(connection: http.client.HTTPSConnection) -> str:
    """The common name of the certificate that the connection was opened with."""
    assert isinstance(connection.sock, ssl.SSLSocket)
    certificate = x509.load_der_x509_certificate(connection.sock.getpeercert(binary_form=True) or b"")
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def status_of(connection: http.client.HTTPConnection) -> int:
    """Ask once more over this connection."""
    connection.request("GET", "/healthz")
    response = connection.getresponse()
    response.read()
    return response.status


def write_certificate(name: str, certificate: Path, private_key: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private_key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
