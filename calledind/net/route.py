"""One trunk as a place that messages go to: its next hop, what is known of its addresses, what secures the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from calledind.model import Address
from calledind.net.dns import is_ip
from calledind.net.next_hop import Chooser, Group, Place
from calledind.net.tls import TlsError, client_options
from calledind.settings.tables import Trunk
from calledind.sip.target import Target, transport_of

_WAY = ("host", "port", "outbound_proxy", "transport", "bind", "advertise")
_FILES = ("tls_name", "tls_ca", "tls_certificate", "tls_private_key")


@dataclass(slots=True, eq=False, weakref_slot=True)
class Route:
    """What is known of the way to one trunk."""

    trunk: Trunk
    chooser: Chooser
    groups: Sequence[Group] = ()
    "As last found, those that we can reach."
    found: Sequence[Group] | None = None
    "What `groups` was made of, until it is to be looked at anew."
    last: Place | None = None
    "Where a request went last."

    def places(self) -> list[Place]:
        return [place for group in self.groups for server in group for place in server.places]

    def leads_to(self, trunk: Trunk) -> bool:
        """Whether it serves for the trunk as these settings have it."""
        return all(getattr(self.trunk, name) == getattr(trunk, name) for name in _WAY + _FILES)

    def changed(self, trunk: Trunk) -> Route:
        """Return the way to the trunk as these settings have it, with what is known of its places."""
        if next_hop(self.trunk) != next_hop(trunk):
            return Route(trunk, Chooser(self.chooser.seconds))
        return Route(trunk, self.chooser, self.groups)

    def target(self, place: Place) -> Target:
        """Return a place as a target that knows this route, whatever the trunk's settings are later."""
        return Target(place.host, place.port, place.transport, RouteName(self))


class RouteName(str):
    """A trunk's name in a target, and the route that it meant when the target was made.

    So a call goes on by the way that it began with, and a route that no trunk has any more is kept by those who still
    use it, for as long as they do. Two are equal where the route is the same: what asks for other certificates, say,
    needs a connection of its own.
    """

    __slots__ = ("route",)
    route: Route

    def __new__(cls, route: Route) -> RouteName:
        self = super().__new__(cls, route.trunk.name)
        self.route = route
        return self

    def __eq__(self, other: object) -> bool:
        if isinstance(other, RouteName):
            return self.route is other.route
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def place_of(target: Address) -> Place:
    """Return the place that a target is."""
    return Place(target[0], target[1], transport_of(target))


def next_hop(trunk: Trunk) -> tuple[str, int]:
    """Return host or domain, and port (0: DNS says it), that a trunk's messages go to."""
    if not trunk.outbound_proxy:
        return _plain(trunk.host), trunk.port
    host, colon, port = trunk.outbound_proxy.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.startswith("[")):
        return _plain(host), int(port)
    return _plain(trunk.outbound_proxy), 0


def _plain(host: str) -> str:
    """Return a host without brackets and without the dot at its end, which no certificate and no /etc/hosts has."""
    return host.strip("[]").removesuffix(".")


def tls_options(trunk: Trunk) -> Any:
    """Return what a trunk's connections are secured with. Raises TlsError.

    The files are read each time, so that new ones need no restart.
    """
    # What the certificate is for is the name that we were told, not one that DNS led to (RFC 5922 §4).
    files = {"ca": trunk.tls_ca, "certificate": trunk.tls_certificate, "private_key": trunk.tls_private_key}
    return client_options(_certified(trunk), **files)


def _certified(trunk: Trunk) -> str:
    return _plain(trunk.tls_name) or next_hop(trunk)[0]


def check_files(trunk: Trunk) -> None:
    """Read what a trunk's connections will be secured with. Raises TlsError with a line for each file at fault."""
    if trunk.transport not in ("tls", "auto"):
        return
    wrong = []
    ours = {"certificate": trunk.tls_certificate, "private_key": trunk.tls_private_key}
    for files in ({"ca": trunk.tls_ca}, ours):
        try:
            client_options(_certified(trunk), **files)
        except TlsError as error:
            wrong.append(f"trunks: {trunk.name}: {error}")
    if wrong:
        raise TlsError("\n".join(dict.fromkeys(wrong)))


def is_beyond_nat(trunk: Trunk) -> bool:
    """Whether our address, as a trunk sees it, is to be learned."""
    return bool(trunk.advertise) and not is_ip(trunk.advertise)
