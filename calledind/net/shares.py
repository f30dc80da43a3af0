"""Who may be asked next, of hosts whose names strangers make up.

A host has its share of what can be asked at once, and a domain, whose owner can make up as many hosts as he likes,
has a share that is larger than one host's but leaves most of it to others. An item waits for its host's share
first and for its domain's then, so that a slow host holds up no other of its domain either.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from calledind.net.resolve import domain_of
from calledind.net.turns import Turns

Item = TypeVar("Item", bound=Hashable)

DOMAINS = 4
"As many silent domains as this are needed to keep others waiting."


class Shares(Generic[Item]):
    """`Turns` by host and by domain: `begin(host, item)` and `leave(host)` as there."""

    def __init__(self, begin: Callable[[str, Item], None], *, in_all: int, per_host: int) -> None:
        self._begin = begin
        self._hosts: Turns[Item] = Turns(self._to_domain, in_all=sys.maxsize, per_host=per_host)
        self._domains: Turns[tuple[str, Item]] = Turns(
            lambda _, place: self._begin(*place), in_all=in_all, per_host=max(per_host, in_all // DOMAINS)
        )

    def __len__(self) -> int:
        """Return how many items are waiting."""
        return len(self._hosts) + len(self._domains)

    def enter(self, host: str, item: Item) -> None:
        self._hosts.enter(host, item)

    def leave(self, host: str) -> None:
        self._domains.leave(owner_of(host))
        self._hosts.leave(host)

    def withdraw(self, host: str, item: Item) -> bool:
        """Take back an item that waits. Answers False when it does not."""
        if self._hosts.withdraw(host, item):
            return True
        if self._domains.withdraw(owner_of(host), (host, item)):
            self._hosts.leave(host)
            return True
        return False

    def clear(self) -> None:
        """Take back all items that wait."""
        self._hosts.clear()
        for host, _ in self._domains.clear():
            self._hosts.leave(host)

    def _to_domain(self, host: str, item: Item) -> None:
        self._domains.enter(owner_of(host), (host, item))


def owner_of(host: str) -> str:
    """Give what one owner of a URL's host probably has all of: a domain, an IPv4 address, an IPv6 /64."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return domain_of(host)
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False))
