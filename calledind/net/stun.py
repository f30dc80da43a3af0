"""STUN (RFC 8489), as much of it as asking "where do my datagrams come from?": one Binding request, one answer."""

from __future__ import annotations

import ipaddress
import secrets
import struct
from typing import Final

from calledind.model import Address

DEFAULT_PORT: Final = 3478
_COOKIE: Final = 0x2112A442
_HEADER: Final = struct.Struct(">HHI12s")
_ATTRIBUTE: Final = struct.Struct(">HH")
_REQUEST: Final = 0x0001
_SUCCESS: Final = 0x0101
_XOR_MAPPED_ADDRESS: Final = 0x0020
_MAPPED_ADDRESS: Final = 0x0001


class StunError(ValueError):
    """Octets that are no answer to a Binding request, or one that says nothing."""


def new_transaction() -> bytes:
    """Return 12 octets of chance."""
    return secrets.token_bytes(12)


def request(transaction: bytes) -> bytes:
    """Return a Binding request."""
    return _HEADER.pack(_REQUEST, 0, _COOKIE, transaction)


def is_stun(data: bytes) -> bool:
    """Whether a datagram is STUN and can't be SIP (§5: two zero bits and the magic cookie)."""
    return len(data) >= _HEADER.size and data[0] < 0x40 and data[4:8] == _COOKIE.to_bytes(4)


def transaction_of(data: bytes) -> bytes:
    """Return what tells which request a message answers; `data` is STUN."""
    return data[8:20]


def mapped_address(data: bytes) -> Address:
    """Return the address and port that a Binding success response says we have. Raises StunError."""
    if not is_stun(data):
        raise StunError("not STUN")
    kind, length, _, transaction = _HEADER.unpack_from(data)
    if kind != _SUCCESS:
        raise StunError("not a Binding success response")
    if length % 4 or length != len(data) - _HEADER.size:
        raise StunError("its length is wrong")
    mapped = None
    at = _HEADER.size
    while at < len(data):
        name, size = _ATTRIBUTE.unpack_from(data, at)
        value = data[at + 4 : at + 4 + size]
        if len(value) != size:
            raise StunError("an attribute is cut short")
        if name == _XOR_MAPPED_ADDRESS:
            return _address(value, _COOKIE.to_bytes(4) + transaction)
        if name == _MAPPED_ADDRESS and mapped is None:
            mapped = value  # of a server of RFC 3489
        at += 4 + size + (-size % 4)
    if mapped is None:
        raise StunError("it has no address")
    return _address(mapped, bytes(16))


def _address(value: bytes, mask: bytes) -> Address:
    if len(value) not in (8, 20) or value[1] != (1 if len(value) == 8 else 2):
        raise StunError("its address can't be read")
    port = int.from_bytes(value[2:4]) ^ int.from_bytes(mask[:2])
    octets = bytes(octet ^ other for octet, other in zip(value[4:], mask, strict=False))
    return str(ipaddress.ip_address(octets)), port
