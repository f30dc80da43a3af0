"""Which addresses a customer's URL may lead to: the internet, and what the operator allows by name of network.

The table is written out, because "is it global?" is not the question. Many ranges that registries call global
are a way into somebody's inner network: an IPv4 address in IPv6 clothes (mapped, NAT64, 6to4, Teredo), the
metadata service of a cloud, an anycast relay. Names are not judged at all: the check is on the addresses that the
name resolved to, which are the very ones connected to, so that a name can't change its mind in between.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Sequence

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNICAST_6 = ipaddress.IPv6Network("2000::/3")
"All that IANA has given out as global unicast; the rest of IPv6 is refused as a whole."

REFUSED: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "this host"),  # RFC 791 §3.2
    ("10.0.0.0/8", "private"),  # RFC 1918
    ("100.64.0.0/10", "shared by a carrier's NAT"),  # RFC 6598; Alibaba's metadata is 100.100.100.200
    ("127.0.0.0/8", "loopback"),  # RFC 1122 §3.2.1.3
    ("168.63.129.16/32", "metadata"),  # Azure's platform address
    ("169.254.0.0/16", "link-local or metadata"),  # RFC 3927; 169.254.169.254, 169.254.170.2
    ("172.16.0.0/12", "private"),  # RFC 1918
    ("192.0.0.0/24", "protocol assignment"),  # RFC 6890; Oracle's metadata is 192.0.0.192
    ("192.0.2.0/24", "documentation"),  # RFC 5737
    ("192.31.196.0/24", "AS112"),  # RFC 7535
    ("192.52.193.0/24", "AMT relay"),  # RFC 7450
    ("192.88.99.0/24", "6to4 relay"),  # RFC 7526
    ("192.168.0.0/16", "private"),  # RFC 1918
    ("192.175.48.0/24", "AS112"),  # RFC 7534
    ("198.18.0.0/15", "benchmarking"),  # RFC 2544
    ("198.51.100.0/24", "documentation"),  # RFC 5737
    ("203.0.113.0/24", "documentation"),  # RFC 5737
    ("224.0.0.0/4", "multicast"),  # RFC 5771
    ("240.0.0.0/4", "reserved or broadcast"),  # RFC 1112 §4, RFC 919
    ("::/128", "unspecified"),  # RFC 4291 §2.5.2
    ("::1/128", "loopback"),  # RFC 4291 §2.5.3
    ("::/96", "IPv4-compatible"),  # RFC 4291 §2.5.5.1
    ("::ffff:0:0/96", "IPv4-mapped"),  # RFC 4291 §2.5.5.2
    ("::ffff:0:0:0/96", "IPv4-translated"),  # RFC 2765 §2.1
    ("64:ff9b::/96", "NAT64"),  # RFC 6052
    ("64:ff9b:1::/48", "NAT64"),  # RFC 8215
    ("100::/64", "discard-only"),  # RFC 6666
    ("2001::/32", "Teredo"),  # RFC 4380
    ("2001::/23", "protocol assignment"),  # RFC 2928: benchmarking, AMT, ORCHID, drone identifiers
    ("2001:db8::/32", "documentation"),  # RFC 3849
    ("2002::/16", "6to4"),  # RFC 3056
    ("2620:4f:8000::/48", "AS112"),  # RFC 7534
    ("3ffe::/16", "6bone"),  # RFC 3701
    ("3fff::/20", "documentation"),  # RFC 9637
    ("5f00::/16", "segment routing"),  # RFC 9602
    ("fc00::/7", "private"),  # RFC 4193; fd00:ec2::254, fd20:ce::254 are metadata
    ("fe80::/10", "link-local"),  # RFC 4291 §2.5.6
    ("fec0::/10", "site-local"),  # RFC 3879
    ("ff00::/8", "multicast"),  # RFC 4291 §2.7
)
"Networks that nobody's MP3 or callback is on, and what each of them is; the more special stands first."

_TABLE: tuple[tuple[Network, str], ...] = tuple((ipaddress.ip_network(network), what) for network, what in REFUSED)


class Refused(Exception):
    """Where a URL leads is not to be reached; the message says what it is, in words for its author."""


class Guard:
    """Says which addresses and ports may be connected to.

    `allow`: networks that may be reached although the table refuses them. `ports`: the only ones that may be
    reached; empty allows all.
    """

    def __init__(self, allow: Sequence[Network | str] = (), ports: Collection[int] = ()) -> None:
        self._allow = tuple(ipaddress.ip_network(network) for network in allow)
        self._ports = frozenset(ports)

    def check(self, address: str) -> None:
        """Raise `Refused` unless this numeric address may be connected to."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            raise Refused("it is not an IP address") from None
        if getattr(parsed, "scope_id", None) is not None:
            raise Refused("the address is bound to an interface of this machine")
        if any(parsed in network for network in self._allow):
            return
        for network, what in _TABLE:
            if parsed in network:
                raise Refused(f"the address is not on the internet ({what})")
        if parsed.version == 6 and parsed not in UNICAST_6:
            raise Refused("the address is not on the internet (not given out)")
        if parsed.version == 6 and _is_isatap(int(parsed)):
            raise Refused("the address is not on the internet (ISATAP)")

    def check_all(self, addresses: Iterable[str]) -> None:
        """Raise `Refused` unless each of a name's addresses may be connected to: one bad answer blocks the name."""
        for address in addresses:
            self.check(address)

    def check_port(self, port: int) -> None:
        """Raise `Refused` unless this port may be connected to."""
        if not 0 < port < 65536 or (self._ports and port not in self._ports):
            raise Refused(f"port {port} is not allowed")


def _is_isatap(address: int) -> bool:
    """Say whether an interface identifier carries an IPv4 address (RFC 5214 §6.1)."""
    return (address >> 32) & 0xFFFFFFFF in (0x00005EFE, 0x02005EFE)
