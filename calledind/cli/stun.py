"""Asks a STUN server where our datagrams come from: once, by a socket of its own, while the command waits."""

from __future__ import annotations

import socket
import time

from calledind.net import stun

WAITS = (0.5, 1.0, 2.0)
"Seconds for which an answer is waited for after each of the requests; all in all so long, and no longer."


def public_ip(host: str, port: int, source: str = "") -> str:
    """Return the IP address that a STUN server sees us by. Raises OSError.

    `host`: a name or an address. `source`: the IP address to ask from; empty: whichever leads there.
    """
    family = socket.AF_UNSPEC if not source else socket.AF_INET6 if ":" in source else socket.AF_INET
    family, _, _, _, where = socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if source:
            sock.bind((source, 0))
        sock.connect(where)
        transaction = stun.new_transaction()
        for seconds in WAITS:
            sock.send(stun.request(transaction))
            data = _answer(sock, transaction, seconds)
            if data:
                try:
                    return stun.mapped_address(data)[0]
                except stun.StunError as error:
                    raise OSError(f"its answer is wrong: {error}") from None
    raise OSError("it does not answer")


def _answer(sock: socket.socket, transaction: bytes, seconds: float) -> bytes:
    """Return what answers this request within so many seconds, empty where nothing does."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            data = sock.recv(2048)
        except TimeoutError:
            break
        if stun.is_stun(data) and stun.transaction_of(data) == transaction:
            return data
    return b""
