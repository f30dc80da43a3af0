"""Where SIP messages go and how they travel: what a `Via`, a `Contact` and the transaction timers depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from calledind.model import Address

Transport = Literal["udp", "tcp", "tls"]
"How SIP messages travel; TLS means TLS over TCP."
TRANSPORTS: Final[Mapping[str, Transport]] = {"udp": "udp", "tcp": "tcp", "tls": "tls"}
"As a URI's parameter has them, in lower case."


class Target(Address):
    """Where SIP messages go or come from, and how they travel. A plain `Address` stands for UDP.

    Two are equal where messages to them share a flow: over UDP that is the address alone.
    """

    transport: Transport
    trunk: str
    "Name of the trunk whose sockets, certificates and public address it is reached with; empty: of none."

    def __new__(cls, host: str, port: int, transport: Transport = "udp", trunk: str = "") -> Target:
        self = super().__new__(cls, (host, port))
        self.transport = transport
        self.trunk = trunk
        return self

    @classmethod
    def restore(cls, kept: Sequence[object]) -> Target:
        """Make it of what `target_snapshot` gave, or of a plain host and port. Raises ValueError."""
        try:
            host, port, transport, trunk = [*kept, "udp", ""] if len(kept) == 2 else kept
            number = int(str(port))
        except TypeError as error:
            raise ValueError(f"not a target: {error}") from None
        if not isinstance(transport, str) or transport not in TRANSPORTS:
            raise ValueError("not a transport")
        return cls(str(host), number, TRANSPORTS[transport], str(trunk))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, tuple):
            return NotImplemented
        return _flow(self) == _flow(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(_flow(self))

    def __repr__(self) -> str:
        return f"Target{(*self, self.transport, self.trunk)}"


def _flow(address: tuple[object, ...]) -> tuple[object, ...]:
    if isinstance(address, Target) and address.transport != "udp":
        return *address, address.transport, address.trunk
    return tuple(address)


def transport_of(address: Address) -> Transport:
    """Return how messages to an address travel."""
    return address.transport if isinstance(address, Target) else "udp"


def target_snapshot(address: Address) -> list[object]:
    """Return what `Target.restore` takes, JSON-able."""
    host, port = address
    return [host, port, transport_of(address), address.trunk if isinstance(address, Target) else ""]


def with_port(address: Address, port: int) -> Address:
    """Return the address with another port, reached the same way."""
    host = address[0]
    return Target(host, port, address.transport, address.trunk) if isinstance(address, Target) else (host, port)
