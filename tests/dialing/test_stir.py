"""Signed calls, as somebody else's program verifies them."""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from calledind.dialing.stir import Signer, StirError
from calledind.settings.tables import Stir
from tests.interop.harness import need
from tests.interop.openssl import make_certificate, passport_is_signed

NOW = 1_800_000_000.75
URL = "https://certificates.example.com/stir.pem"


class SignerCase(SynchronousTestCase):
    def setUp(self) -> None:
        need("openssl")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.key, self.certificate = make_certificate(self.folder)

    def signer(self, key: Path, certificate: Path | None = None) -> Signer:
        return Signer(Stir(private_key=key, certificate=certificate, certificate_url=URL))


class SignatureTests(SignerCase):
    def headers(self, attestation: str = "A", key_id: str = "key_1") -> dict[str, str]:
        signer = self.signer(self.key, self.certificate)
        return dict(
            signer.headers(attestation=attestation, caller="12125550199", callee="12125550100", key_id=key_id, now=NOW)
        )

    def claims(self, attestation: str = "A", key_id: str = "key_1") -> dict[str, object]:
        part = self.headers(attestation, key_id)["Identity"].split(".")[1]
        claims: dict[str, object] = json.loads(base64.urlsafe_b64decode(part + "=="))
        return claims

    def test_form(self) -> None:
        """Identity is a compact PASSporT with the parameters of RFC 8224, and Date says the same time."""
        headers = self.headers()
        passport, *parameters = headers["Identity"].split(";")
        self.assertEqual(parameters, [f"info=<{URL}>", "alg=ES256", "ppt=shaken"])
        header, claims, signature = (base64.urlsafe_b64decode(part + "==") for part in passport.split("."))
        self.assertNotIn("=", passport)
        self.assertEqual(header, b'{"alg":"ES256","ppt":"shaken","typ":"passport","x5u":"%s"}' % URL.encode())
        origid = json.loads(claims)["origid"]
        self.assertEqual(
            claims.decode(),
            '{"attest":"A","dest":{"tn":["12125550100"]},"iat":1800000000,"orig":{"tn":"12125550199"},'
            f'"origid":"{origid}"}}',
        )
        self.assertEqual(len(signature), 64)
        self.assertEqual(headers["Date"], "Fri, 15 Jan 2027 08:00:00 GMT")

    def test_openssl_verifies_it(self) -> None:
        """The signature is that of the certificate's key, and of nothing else."""
        for _ in range(5):  # halves of a signature may begin with a zero octet
            passport = self.headers()["Identity"].partition(";")[0]
            self.assertTrue(passport_is_signed(passport, self.certificate, self.folder))
        header, claims, signature = passport.split(".")
        self.assertFalse(passport_is_signed(f"{header}.{claims}A.{signature}", self.certificate, self.folder))

    def test_attestation(self) -> None:
        """What is attested is what was asked for, else what the settings say."""
        for attestation, told in (("A", "A"), ("B", "B"), ("C", "C"), ("", "B")):
            self.assertEqual(self.claims(attestation)["attest"], told)

    def test_origid(self) -> None:
        """One key's calls have one origid, which is a UUID, and another's another."""
        origid = str(self.claims()["origid"])
        self.assertRegex(origid, "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
        self.assertEqual(self.claims()["origid"], origid)
        self.assertNotEqual(self.claims(key_id="key_2")["origid"], origid)


class FileTests(SignerCase):
    def refused(self, key: Path, certificate: Path | None = None) -> str:
        return str(self.assertRaises(StirError, self.signer, key, certificate))

    def test_key(self) -> None:
        """A key that isn't there, is none, or is of another kind is told with its path."""
        self.assertIn("No such file", self.refused(self.folder / "none.pem"))
        self.assertIn("is not a private key", self.refused(self.certificate))
        for curve in ("secp384r1", "ed25519"):
            other, _ = make_certificate(self.folder / curve, curve)
            self.assertIn("must be an EC key on P-256", self.refused(other))

    def test_key_with_password(self) -> None:
        """A key that needs a password is no use to a daemon."""
        locked = self.folder / "locked.pem"
        subprocess.run(
            ["openssl", "ec", "-in", self.key, "-aes128", "-passout", "pass:hush", "-out", locked],
            check=True,
            capture_output=True,
        )
        self.assertIn("without a password", self.refused(locked))

    def test_certificate(self) -> None:
        """A certificate that isn't there, is none, or is of another key is told with its path."""
        _, other = make_certificate(self.folder / "other")
        self.assertIn("No such file", self.refused(self.key, self.folder / "none.pem"))
        self.assertIn("is not a certificate", self.refused(self.key, self.key))
        self.assertIn("is not of stir.private_key", self.refused(self.key, other))
        self.signer(self.key, self.certificate)

    def test_without_certificate(self) -> None:
        """The key alone is enough: the certificate is only looked at to find mistakes."""
        headers = self.signer(self.key).headers(attestation="C", caller="1", callee="2", key_id="key_1", now=NOW)
        self.assertTrue(passport_is_signed(headers[1][1].partition(";")[0], self.certificate, self.folder))
