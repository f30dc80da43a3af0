"""What goes over the wire to Redis, and what its errors and those of the network mean to people."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from OpenSSL import SSL
from service_identity.exceptions import VerificationError
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.error import TimeoutError as ConnectionTimeout

Part = str | bytes | int | float
"One of the words of a command. A float is written so that it reads back as the same number."

OF_NO_USE = {
    "READONLY": "is a replica, and not the master any more",
    "LOADING": "is still loading its data",
    "MASTERDOWN": "is a replica that has lost its master",
    "CLUSTERDOWN": "belongs to a cluster that is down",
    "UNBLOCKED": "is a replica, and not the master any more",
}
"What an error says of the whole server: another connection is looked for. The command was not run."
REFUSALS = {
    "OOM": "has no memory left; raise its maxmemory, or take some of its data away",
    "MISCONF": "can't write to its disk; make room there, and look into its log",
    "NOREPLICAS": "has too few replicas (min-replicas-to-write)",
    "BUSY": "is busy with a script that does not end",
    "NOSCRIPT": "has forgotten our scripts; it is tried again",
    "NOPERM": "does not allow this to our user; correct the rules of its ACL",
}
"What an error says of this command, which was not run."


class Script:
    """A Lua script, with the beginning of the command that runs it."""

    __slots__ = ("head", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        # By SHA-1, as Redis names scripts.
        digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        self.head = b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n" % digest.encode()


def encode(*parts: Part) -> bytes:
    """Return a command as it goes over the wire."""
    return b"*%d\r\n%b" % (len(parts), bulks(parts))


def bulks(parts: Iterable[Part]) -> bytes:
    """Return the parts, without the count in front."""
    # Most of the time that a command costs us is spent here: one loop, and no function for each part.
    octets = []
    for part in parts:
        if isinstance(part, str):
            part = part.encode()  # noqa: PLW2901
        elif not isinstance(part, bytes):
            part = repr(part).encode()  # noqa: PLW2901
        octets.append(b"$%d\r\n%b\r\n" % (len(part), part))
    return b"".join(octets)


def in_words(error: BaseException | None) -> str:
    """Say to people why a connection is no more, or never was."""
    if isinstance(error, VerificationError):
        return "TLS: its certificate is not one for this name; correct tls_name, or its certificate"
    if isinstance(error, SSL.Error):
        return f"TLS: {_details(error) or 'the handshake failed'}; check tls, tls_ca and its certificate"
    if isinstance(error, ConnectionDone):
        return "it closed the connection"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there; start it, or correct the address"
    if isinstance(error, ConnectionTimeout | DeferredTimeout):
        return "no connection in time; look whether it is up and the address right"
    return str(error) or type(error).__name__


def _details(error: SSL.Error) -> str:
    "OpenSSL's own words, of the last of its errors."
    try:
        return str(error.args[0][-1][-1])
    except (IndexError, TypeError):
        return ""
