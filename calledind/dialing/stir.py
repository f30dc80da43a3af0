"""The signature that tells a carrier who vouches for a call: STIR (RFC 8224, RFC 8225), as SHAKEN has it (RFC 8588).

    Date: Thu, 01 Jan 2026 12:00:00 GMT
    Identity: HEADER.CLAIMS.SIGNATURE;info=<https://certificates.example.com/stir.pem>;alg=ES256;ppt=shaken

HEADER, CLAIMS and SIGNATURE are base64url. HEADER names the certificate (x5u), CLAIMS say who calls whom, when,
and how much of it is known (attest): A, the customer and its right to the number; B, the customer; C, where the call
came in. `origid` is the same for all calls of one api key, so that a complaint finds its customer.
"""

from __future__ import annotations

import base64
import json
from email.utils import formatdate
from pathlib import Path
from uuid import UUID, uuid5

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509 import load_pem_x509_certificate

from calledind.settings.tables import Stir

ORIGINS = UUID("5b0fbc29-50f6-4d4a-9a9c-0e6d2f8a7c11")
"The namespace of our origids (RFC 9562 §5.5)."
OCTETS = 32
"Of each half of a signature on P-256 (RFC 7518 §3.4)."


class StirError(Exception):
    """The key or the certificate can't be used; the message says why and what to do."""


class Signer:
    """Signs calls with the operator's key."""

    def __init__(self, settings: Stir, *, folder: Path = Path()) -> None:
        """`folder`: where relative paths begin. Raises `StirError`."""
        assert settings.private_key is not None
        self._settings = settings
        self._key = _load_key(folder / settings.private_key)
        if settings.certificate is not None:
            _check_certificate(folder / settings.certificate, self._key)
        header = {"alg": "ES256", "ppt": "shaken", "typ": "passport", "x5u": settings.certificate_url}
        self._header = _encode(_compact(header))

    def headers(self, *, attestation: str, caller: str, callee: str, key_id: str, now: float) -> list[tuple[str, str]]:
        """Return Identity and the Date that it holds for (RFC 8224 §4.1).

        `attestation`: "A", "B", "C", or "" for that of the settings. `caller`, `callee`: E.164 digits without a plus.
        """
        at = int(now)
        claims = {
            "attest": attestation or self._settings.attestation,
            "dest": {"tn": [callee]},
            "iat": at,
            "orig": {"tn": caller},
            "origid": str(uuid5(ORIGINS, key_id)),
        }
        signed = f"{self._header}.{_encode(_compact(claims))}"
        passport = f"{signed}.{_encode(self._sign(signed.encode()))}"
        url = self._settings.certificate_url
        return [
            ("Date", formatdate(at, usegmt=True)),
            ("Identity", f"{passport};info=<{url}>;alg=ES256;ppt=shaken"),
        ]

    def _sign(self, data: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(OCTETS) + s.to_bytes(OCTETS)


def _compact(value: object) -> bytes:
    """Write JSON as RFC 8225 §9 wants it: names in order, no white space."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise StirError(f"stir.private_key: {path} can't be read: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise StirError(f"stir.private_key: {path} is not a private key in PEM without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise StirError(f"stir.private_key: {path} must be an EC key on P-256, such as openssl ecparam makes")
    return key


def _check_certificate(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Raise `StirError` unless the first certificate of the file is that of the key."""
    try:
        public = load_pem_x509_certificate(path.read_bytes()).public_key()
    except OSError as error:
        raise StirError(f"stir.certificate: {path} can't be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise StirError(f"stir.certificate: {path} is not a certificate in PEM") from None
    if public != key.public_key():
        raise StirError(f"stir.certificate: {path} is not of stir.private_key")
