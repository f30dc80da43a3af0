# mypy: allow-untyped-calls
"""HTTPS: TLS 1.2 and newer, authenticated encryption with forward secrecy only, renewed without a pause."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

# TLS 1.3 has no others.
CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:!PSK"
SELF_SIGNED = "self-signed by calledin"
SELF_SIGNED_DAYS = 397
RENEWED_DAYS = 30
"A self-signed certificate with less time left is made anew at the next start."


class CertificateError(Exception):
    """The certificate or its key can't be used; the message says which and why."""


@implementer(IOpenSSLServerConnectionCreator)
class ServerContext:
    """What `listenSSL` is given. Connections that are open keep the certificate they began with."""

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def use(self, context: SSL.Context) -> None:
        """Have the connections to come begin with it."""
        self._context = context

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self._context, None)


def make_context(certificate: Path, private_key: Path) -> SSL.Context:
    """Return a context for servers. `certificate`: PEM, the chain from the leaf up. Raises `CertificateError`."""
    for path in (certificate, private_key):
        try:
            path.open("rb").close()
        except OSError as error:
            raise CertificateError(f"{path}: can't be read: {error.strerror}") from None
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(CIPHERS)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_alpn_select_callback(_choose_protocol)
    # An encrypted key would have OpenSSL ask for its passphrase at the terminal.
    context.set_passwd_cb(lambda *_: b"")
    # The key first: after a certificate of another key it would be called damaged.
    for path, use in (
        (private_key, context.use_privatekey_file),
        (certificate, context.use_certificate_chain_file),
    ):
        try:
            use(os.fsencode(path))
        except SSL.Error:
            raise CertificateError(f"{path}: is not what it should be, in PEM") from None
    try:
        context.check_privatekey()
    except SSL.Error:
        raise CertificateError(f"{private_key}: is not the key of {certificate}") from None
    return context


def _choose_protocol(_: SSL.Connection, offered: list[bytes]) -> Any:
    return b"http/1.1" if b"http/1.1" in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def self_signed(folder: Path, now: float) -> tuple[Path, Path]:
    """Return paths of certificate and key, made in `folder` where they are not there or run out soon.

    `now`: seconds since the epoch.
    """
    certificate, private_key = folder / "self-signed.crt", folder / "self-signed.key"
    if not (private_key.exists() and _is_good(certificate, now)):
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _replace(private_key, pem, 0o600)
        _replace(certificate, _certify(key, now).public_bytes(serialization.Encoding.PEM), 0o644)
    return certificate, private_key


def _is_good(certificate: Path, now: float) -> bool:
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        return False
    return loaded.not_valid_after_utc.timestamp() - now > RENEWED_DAYS * 86400


def _certify(key: ec.EllipticCurvePrivateKey, now: float) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SELF_SIGNED)])
    begin = datetime.fromtimestamp(now, UTC)
    hosts = dict.fromkeys(("localhost", socket.gethostname()))
    alternatives: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts if host.isascii()]
    alternatives += [x509.IPAddress(ip_address(host)) for host in ("127.0.0.1", "::1")]
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - timedelta(hours=1))
        .not_valid_after(begin + timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Put a file in place whole, never readable by more than `mode` says."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
