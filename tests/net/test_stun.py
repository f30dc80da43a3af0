"""Binding requests and what comes back (test vectors of RFC 5769 §2.2, §2.3 for the addresses)."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.net import stun

TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
COOKIE = bytes.fromhex("2112a442")
XOR_IPV4 = bytes.fromhex("002000080001a147e112a643")
XOR_IPV6 = bytes.fromhex("002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9")
SOFTWARE = bytes.fromhex("8022000b7465737420766563746f7220")


def answer(*attributes: bytes, kind: int = 0x0101, length: int | None = None) -> bytes:
    body = b"".join(attributes)
    return struct.pack(">HH", kind, len(body) if length is None else length) + COOKIE + TRANSACTION + body


class StunTests(SynchronousTestCase):
    def test_request(self) -> None:
        """Twenty octets: Binding, no attributes, the cookie, the transaction."""
        self.assertEqual(stun.request(TRANSACTION), bytes.fromhex("000100002112a442") + TRANSACTION)
        self.assertEqual(stun.transaction_of(stun.request(TRANSACTION)), TRANSACTION)
        self.assertEqual(len({stun.new_transaction() for _ in range(50)}), 50)

    def test_addresses(self) -> None:
        """IPv4 and IPv6, behind other attributes; the plain form where it is the only one."""
        plain = bytes.fromhex("0001000800018055c0000201")
        for attributes, expected in (
            ((SOFTWARE, XOR_IPV4), ("192.0.2.1", 32853)),
            ((SOFTWARE, XOR_IPV6), ("2001:db8:1234:5678:11:2233:4455:6677", 32853)),
            ((plain,), ("192.0.2.1", 32853)),
            ((plain.replace(b"\xc0", b"\xc1"), plain, XOR_IPV4), ("192.0.2.1", 32853)),
        ):
            self.assertEqual(stun.mapped_address(answer(*attributes)), expected)

    def test_rubbish(self) -> None:
        """What is no such answer is a StunError."""
        for data in (
            b"",
            b"SIP/2.0 200 OK\r\n" + bytes(20),
            answer(XOR_IPV4, kind=0x0111),
            answer(XOR_IPV4, length=8),
            answer(XOR_IPV4[:-1] + b"", length=11),
            answer(bytes.fromhex("0020ff00") + bytes(8)),
            answer(SOFTWARE),
            answer(bytes.fromhex("00200008") + bytes(8)),
            answer(bytes.fromhex("002000040001a147")),
        ):
            self.assertRaises(stun.StunError, stun.mapped_address, data)

    def test_told_from_sip(self) -> None:
        """STUN begins as no SIP message can."""
        self.assertTrue(stun.is_stun(answer(XOR_IPV4)))
        for data in (b"", b"OPTIONS sip:a@b SIP/2.0\r\n", bytes(40), b"\r\n\r\n"):
            self.assertFalse(stun.is_stun(data))

    @settings(deadline=None, derandomize=True)
    @given(st.binary(max_size=64), st.integers(0, 40))
    def test_damaged(self, junk: bytes, place: int) -> None:
        """Whatever octets come, there is an address or a StunError."""
        data = answer(SOFTWARE, XOR_IPV4)
        for damaged in (junk, data[:place] + junk, data[:place] + junk + data[place + len(junk) :]):
            try:
                host, port = stun.mapped_address(damaged)
            except stun.StunError:
                continue
            self.assertTrue(host and 0 <= port < 65536)
