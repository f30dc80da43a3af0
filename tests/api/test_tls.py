"""HTTPS as clients meet it."""

# mypy: allow-untyped-calls
from __future__ import annotations

import socket
import ssl
import stat
from pathlib import Path

from cryptography import x509
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from calledind.api.tls import SELF_SIGNED, SELF_SIGNED_DAYS, CertificateError, ServerContext, make_context, self_signed
from tests.api.wire import Served

NOW = 1_700_000_000.0
DAY = 86400.0


class SelfSignedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())

    def test_made_once(self) -> None:
        """A certificate that says what it is is made once, its key readable by the daemon alone."""
        certificate, key = self_signed(self.folder, NOW)
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        self.assertEqual(loaded.subject.rfc4514_string(), f"CN={SELF_SIGNED}")
        self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o600)
        before = certificate.read_bytes(), key.read_bytes()
        self.assertEqual(self_signed(self.folder, NOW + DAY), (certificate, key))
        self.assertEqual((certificate.read_bytes(), key.read_bytes()), before)

    def test_renewed(self) -> None:
        """It is made anew when it is about to run out, is damaged, or has lost its key."""
        certificate, key = self_signed(self.folder, NOW)
        for spoil, now in (
            (lambda: None, NOW + (SELF_SIGNED_DAYS - 20) * DAY),
            (lambda: certificate.write_bytes(b"damaged"), NOW),
            (key.unlink, NOW),
        ):
            before = certificate.read_bytes()
            spoil()
            self_signed(self.folder, now)
            self.assertNotEqual(certificate.read_bytes(), before)
            make_context(certificate, key)


class CertificateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.certificate, self.key = self_signed(Path(self.mktemp()), NOW)

    def test_unusable(self) -> None:
        """Files that are missing, damaged or don't belong together are named in the error."""
        other, other_key = self_signed(Path(self.mktemp()), NOW)
        damaged = Path(self.mktemp())
        damaged.write_text("damaged")
        for certificate, key, named in (
            (Path("nowhere.crt"), self.key, "nowhere.crt"),
            (self.certificate, Path("nowhere.key"), "nowhere.key"),
            (damaged, self.key, damaged.name),
            (self.certificate, damaged, damaged.name),
            (self.certificate, other_key, other_key.name),
            (other, self.key, other.name),
        ):
            with self.assertRaises(CertificateError) as caught:
                make_context(certificate, key)
            self.assertIn(named, str(caught.exception))


class HandshakeTests(TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.certificate, self.key = self_signed(self.folder, NOW)
        self.context = ServerContext(make_context(self.certificate, self.key))
        port = reactor.listenSSL(  # type: ignore[attr-defined]
            0, Served(clock=reactor).site, self.context, interface="127.0.0.1"
        )
        self.addCleanup(port.stopListening)
        self.address = "127.0.0.1", port.getHost().port

    def ask(self, **options: str) -> Deferred[tuple[bytes, str, bytes]]:
        """Return certificate (DER), TLS version and answer of one request, made in a thread."""

        def blocking() -> tuple[bytes, str, bytes]:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["h2", "http/1.1"])
            if "ciphers" in options:
                context.maximum_version = ssl.TLSVersion.TLSv1_2
                context.set_ciphers(options["ciphers"])
            with (
                socket.create_connection(self.address, timeout=10) as plain,
                context.wrap_socket(plain) as secure,
            ):
                secure.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                answer = b""
                while data := secure.recv(4096):
                    answer += data
                certificate = secure.getpeercert(binary_form=True) or b""
                return certificate, f"{secure.version()} {secure.selected_alpn_protocol()}", answer

        return deferToThread(blocking)

    async def test_request(self) -> None:
        """A modern client gets TLS 1.3, HTTP/1.1 and its answer."""
        _, version, answer = await self.ask()
        self.assertEqual(version, "TLSv1.3 http/1.1")
        self.assertTrue(answer.endswith(b"ok\n"), answer)

    async def test_ciphers(self) -> None:
        """With TLS 1.2 only authenticated encryption with forward secrecy is agreed."""
        _, version, _ = await self.ask(ciphers="ECDHE+AESGCM")
        self.assertEqual(version, "TLSv1.2 http/1.1")
        for ciphers in ("ECDHE+AES:!AESGCM:!AESCCM", "kRSA"):
            with self.assertRaises(ssl.SSLError):
                await self.ask(ciphers=ciphers)

    async def test_another(self) -> None:
        """New connections have the certificate that is to be used from now on."""
        before, _, _ = await self.ask()
        self.key.unlink()
        self_signed(self.folder, NOW)
        self.context.use(make_context(self.certificate, self.key))
        after, _, _ = await self.ask()
        self.assertNotEqual(before, after)
