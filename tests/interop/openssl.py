"""What openssl's command line says of keys, certificates and signatures."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path


def make_certificate(folder: Path, curve: str = "prime256v1") -> tuple[Path, Path]:
    """Make a key and its self-signed certificate in the folder; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    key, certificate = folder / "stir-key.pem", folder / "stir.pem"
    kind = ["ed25519"] if curve == "ed25519" else ["ec", "-pkeyopt", f"ec_paramgen_curve:{curve}"]
    command = ["openssl", "req", "-x509", "-newkey", *kind, "-noenc", "-subj", "/CN=SHAKEN 1234"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return key, certificate


def passport_is_signed(passport: str, certificate: Path, folder: Path) -> bool:
    """Whether the signature of a PASSporT (RFC 8225) is that of the certificate's key, as openssl sees it."""
    signed, _, signature = passport.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    public = folder / "public.pem"
    command = ["openssl", "x509", "-in", str(certificate), "-pubkey", "-noout", "-out", str(public)]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "signature.der").write_bytes(_der(raw[:32], raw[32:]))
    command = ["openssl", "dgst", "-sha256", "-verify", str(public), "-signature", str(folder / "signature.der")]
    return subprocess.run(command, input=signed.encode(), capture_output=True, check=False).returncode == 0


def _der(*halves: bytes) -> bytes:
    """Write the two halves of a signature as openssl reads them: a SEQUENCE of INTEGERs."""
    integers = b""
    for half in halves:
        stripped = half.lstrip(b"\0")
        value = b"\0" + stripped if stripped[0] & 0x80 else stripped
        integers += bytes([2, len(value)]) + value
    return bytes([0x30, len(integers)]) + integers
