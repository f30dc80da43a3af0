"""One trunk as a place that messages go to: its next hop, what is known of its addresses, what secures the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from calledind.model import Address
from calledind.net.dns import is_ip
from calledind.net.next_hop import Chooser, Group, Place
from calledind.net.tls import TlsError, client_options
from calledind.settings import Trunk
from calledind.sip.target import transport_of


@dataclass(slots=True)
class Route:
    """What is known of the way to one trunk."""

    trunk: Trunk
    chooser: Chooser
    groups: Sequence[Group] = ()
    "As last found."
    last: Address | None = None
    "Where a request went last."

    def places(self) -> list[Place]:
        return [place for group in self.groups for server in group for place in server.places]


def place_of(target: Address) -> Place:
    """Return the place that a target is."""
    return Place(target[0], target[1], transport_of(target))


def next_hop(trunk: Trunk) -> tuple[str, int]:
    """Return host or domain, and port (0: DNS says it), that a trunk's messages go to."""
    if not trunk.outbound_proxy:
        return trunk.host.strip("[]"), trunk.port
    host, colon, port = trunk.outbound_proxy.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.startswith("[")):
        return host.strip("[]"), int(port)
    return trunk.outbound_proxy.strip("[]"), 0


def tls_options(trunk: Trunk) -> Any:
    """Return what a trunk's connections are secured with. Raises TlsError.

    The files are read each time, so that new ones need no restart.
    """
    # What the certificate is for is the name that we were told, not one that DNS led to (RFC 5922 §4).
    name = trunk.tls_name or next_hop(trunk)[0]
    return client_options(name, ca=trunk.tls_ca, certificate=trunk.tls_certificate, private_key=trunk.tls_private_key)


def check_files(trunk: Trunk) -> None:
    """Read what a trunk's connections will be secured with. Raises TlsError with a line for each file at fault."""
    if trunk.transport not in ("tls", "auto"):
        return
    wrong = []
    ours = {"certificate": trunk.tls_certificate, "private_key": trunk.tls_private_key}
    for files in ({"ca": trunk.tls_ca}, ours):
        try:
            client_options(trunk.tls_name or next_hop(trunk)[0], **files)
        except TlsError as error:
            wrong.append(f"trunks: {trunk.name}: {error}")
    if wrong:
        raise TlsError("\n".join(dict.fromkeys(wrong)))


def is_beyond_nat(trunk: Trunk) -> bool:
    """Whether our address, as a trunk sees it, is to be learned."""
    return bool(trunk.advertise) and not is_ip(trunk.advertise)
