"""Many datagrams with one system call: Linux `sendmmsg` and `recvmmsg` over numpy arrays.

The structures of the kernel are rows of numpy arrays, so that a program which keeps thousands of datagrams
prepared changes them as vectors, and hands the kernel a pointer. The layouts are those of 64-bit Linux.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import socket
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calledind.model import Address

Records = NDArray[Any]
"Rows of one of the structures below."

MESSAGE = np.dtype(
    [
        ("name", "u8"),
        ("name_length", "u4"),
        ("", "u4"),
        ("vectors", "u8"),
        ("vector_count", "u8"),
        ("control", "u8"),
        ("control_length", "u8"),
        ("flags", "i4"),
        ("", "u4"),
        ("length", "u4"),
        ("", "u4"),
    ]
)
"struct mmsghdr: where a datagram's address, its parts and its ancillary data are."
VECTOR = np.dtype([("base", "u8"), ("length", "u8")])
"struct iovec: one part of a datagram."
CONTROL = np.dtype([("length", "u8"), ("level", "i4"), ("kind", "i4"), ("seconds", "i8"), ("nanoseconds", "i8")])
"struct cmsghdr with the timespec of SO_TIMESTAMPNS."

ADDRESS_OCTETS = 28
"Of struct sockaddr_in6, the longer one."
SO_TIMESTAMPNS = 35
"Not named by the socket module of Python 3.11."

_libc = ctypes.CDLL(None, use_errno=True)
_sendmmsg = _libc.sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)


def send(descriptor: int, messages: int, count: int) -> int:
    """Send `count` datagrams whose `MESSAGE` rows begin at the address `messages`.

    Returns how many the kernel took: less than `count` where the one after them failed, and -1 where it was the
    first (its error is `ctypes.get_errno()`).
    """
    return int(_sendmmsg(descriptor, messages, count, socket.MSG_DONTWAIT))


def pack_address(family: int, address: Address) -> bytes:
    """Return the `ADDRESS_OCTETS` octets of a struct sockaddr.

    An IPv4 address on an IPv6 socket becomes its mapped form. Raises ValueError for IPv6 on an IPv4 socket, for
    host names and for ports that cannot be.
    """
    host, port = address
    ip = ipaddress.ip_address(host)
    if not 0 < port < 65536:
        raise ValueError(f"port {port} must be 1 to 65535")
    if family == socket.AF_INET:
        if ip.version != 4:
            raise ValueError("an IPv6 address can't be reached from an IPv4 socket")
        packed = struct.pack("=H", family) + struct.pack("!H", port) + ip.packed
    else:
        if isinstance(ip, ipaddress.IPv4Address):
            ip = ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + ip.packed)
        packed = struct.pack("=H", family) + struct.pack("!HI", port, 0) + ip.packed
    return packed.ljust(ADDRESS_OCTETS, b"\0")


def address_key(family: int, packed: bytes) -> int | bytes:
    """Return what `Receiver.keys` gives for datagrams from this packed address."""
    if family == socket.AF_INET:
        return int.from_bytes(packed[:8], "little")
    return packed[:24]


class Receiver:
    """Room for the datagrams of one batch; each is cut off at `octets`."""

    def __init__(self, family: int, capacity: int, octets: int) -> None:
        self.capacity = capacity
        self._family = family
        self.octets = octets
        self.data: NDArray[np.uint8] = np.zeros((capacity, octets), np.uint8)
        self._names: NDArray[np.uint8] = np.zeros((capacity, 32), np.uint8)
        self._control: Records = np.zeros(capacity, CONTROL)
        vectors: Records = np.zeros(capacity, VECTOR)
        vectors["base"] = self.data.ctypes.data + np.arange(capacity, dtype=np.uint64) * octets
        vectors["length"] = octets
        self._vectors = vectors
        messages: Records = np.zeros(capacity, MESSAGE)
        messages["name"] = self._names.ctypes.data + np.arange(capacity, dtype=np.uint64) * 32
        messages["vectors"] = vectors.ctypes.data + np.arange(capacity, dtype=np.uint64) * VECTOR.itemsize
        messages["vector_count"] = 1
        messages["control"] = self._control.ctypes.data + np.arange(capacity, dtype=np.uint64) * CONTROL.itemsize
        self._messages = messages
        self.lengths: NDArray[np.uint32] = messages["length"]
        "Octets of each datagram, after the cut."

    def receive(self, descriptor: int, start: int, most: int) -> int:
        """Take up to `most` waiting datagrams into the rows from `start` on; return how many. Never waits."""
        count = min(most, self.capacity - start)
        if count <= 0:
            return 0
        rows = self._messages[start : start + count]
        rows["name_length"] = ADDRESS_OCTETS
        rows["control_length"] = CONTROL.itemsize
        taken = int(_recvmmsg(descriptor, rows.ctypes.data, count, socket.MSG_DONTWAIT, None))
        if taken < 0:
            error = ctypes.get_errno()
            if error not in (errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED):
                raise OSError(error, os.strerror(error))
            return 0
        return taken

    def keys(self, start: int, end: int) -> list[int] | list[bytes]:
        """Return for each datagram whom it came from, as `address_key` names the address."""
        names = self._names[start:end]
        if self._family == socket.AF_INET:
            numbers: list[int] = np.ascontiguousarray(names[:, :8]).view("<u8")[:, 0].tolist()
            return numbers
        names[:, 4:8] = 0  # the flow label says nothing about the sender
        packed = names[:, :24].tobytes()
        return [packed[at : at + 24] for at in range(0, len(packed), 24)]

    def source(self, index: int) -> Address:
        """Return whom a datagram came from, the host as `socket.inet_ntop` writes it."""
        name = self._names[index].tobytes()
        host = name[4:8] if self._family == socket.AF_INET else name[8:24]
        return socket.inet_ntop(self._family, host), int.from_bytes(name[2:4], "big")

    def arrival(self, end: int, *, rate: int, otherwise: float) -> NDArray[np.int64]:
        """Return when each of the first `end` datagrams reached the kernel, in 1/`rate` s of wall time.

        `otherwise`: seconds since the epoch, for datagrams without the kernel's word.
        """
        control = self._control[:end]
        times = control["seconds"] * rate + control["nanoseconds"] * rate // 1_000_000_000
        known = (control["kind"] == SO_TIMESTAMPNS) & (self._messages["control_length"][:end] == CONTROL.itemsize)
        return np.where(known, times, int(otherwise * rate)).astype(np.int64)
