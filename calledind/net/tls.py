# mypy: allow-untyped-calls
"""TLS towards the trunks and Redis: their certificates checked, ours shown where they ask for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from OpenSSL import crypto
from twisted.internet.error import VerifyError
from twisted.internet.ssl import (
    Certificate,
    KeyPair,
    PrivateCertificate,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)

from calledind.settings.tables import Redis

BEGIN = b"-----BEGIN CERTIFICATE-----"


class TlsError(OSError):
    """Files that can't be used; the message says which and why."""


def client_options(
    name: str, *, ca: Path | None = None, certificate: Path | None = None, private_key: Path | None = None
) -> Any:
    """Return what `wrapClientTLS` takes, for a peer whose certificate must be one of `name` (a host or IP address).

    `ca`: PEM, the certificates to believe, in place of the system's. `certificate`, `private_key`: PEM, ours, the
    chain from the leaf up. TLS 1.2 or newer; SNI is sent for names. Raises TlsError.
    """
    trust = platformTrust() if ca is None else trustRootFromCertificates(_certificates(ca))
    ours: PrivateCertificate | None = None
    more = {}
    if certificate is not None and private_key is not None:
        leaf, *chain = _certificates(certificate)
        more = {"extraCertChain": [each.original for each in chain]}
        try:
            ours = PrivateCertificate.fromCertificateAndKeyPair(leaf, _key(private_key))
        except VerifyError:
            raise TlsError(f"{private_key}: is not the key of {certificate}") from None
    try:
        return optionsForClientTLS(name, trustRoot=trust, clientCertificate=ours, extraCertificateOptions=more)
    except UnicodeError:
        raise TlsError(f"{name}: is no name that a certificate can be for") from None


def redis_options(redis: Redis) -> Callable[[str], Any] | None:
    """Return what gives the `client_options` for a Redis or Sentinel of this host; None where they are without TLS.

    The files are read each time, and once at once: raises TlsError where they are no good now.
    """
    if not redis.tls:
        return None

    def options(host: str) -> Any:
        return client_options(
            redis.tls_name or host,
            ca=redis.tls_ca,
            certificate=redis.tls_certificate,
            private_key=redis.tls_private_key,
        )

    options("localhost")
    return options


def _certificates(path: Path) -> list[Certificate]:
    pieces = _read(path).split(BEGIN)[1:]
    try:
        found = [Certificate.loadPEM(BEGIN + piece) for piece in pieces]
    except (crypto.Error, ValueError):
        found = []
    if not found:
        raise TlsError(f"{path}: has no certificate in PEM")
    return found


def _key(path: Path) -> KeyPair:
    data = _read(path)
    try:
        # An encrypted key would have OpenSSL ask for its passphrase at the terminal.
        return KeyPair(crypto.load_privatekey(crypto.FILETYPE_PEM, data, passphrase=b""))
    except (crypto.Error, ValueError, TypeError):
        raise TlsError(f"{path}: has no unencrypted private key in PEM") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: can't be read: {error.strerror}") from None
