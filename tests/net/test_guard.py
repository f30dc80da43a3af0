"""The table of dangerous addresses, and of harmless ones."""

# mypy: allow-untyped-calls

from __future__ import annotations

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.net.guard import REFUSED, Guard, Refused

DANGEROUS = """
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.1.2.3
    168.63.129.16 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192
    192.0.2.1 192.31.196.1 192.52.193.1 192.88.99.1 192.168.0.1 192.175.48.1 198.18.0.1 198.19.255.255
    198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
    :: ::1 ::2 ::7f00:1 ::10.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:8.8.8.8
    ::ffff:0:7f00:1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b::808:808 64:ff9b:1::1 64:ff9b:1:fffe::a00:1
    100::1 100:0:0:1::1 2001::1 2001:0:7f00:1:: 2001:2::1 2001:3::1 2001:4:112::1 2001:10::1 2001:20::1
    2001:30::1 2001:db8::1 2002:7f00:1::1 2002:a00:1:: 2002:808:808::1 2620:4f:8000::1 3ffe::1 3fff::1
    5f00::1 fc00::1 fd00:ec2::254 fd20:ce::254 fdff::1 fe80::1 fe80::1%lo febf::1 fec0::1 ff02::1 ff05::1:3
    4000::1 8000::1 e000::1 1::1 2a00:1450::5efe:a00:1 2a00:1450::200:5efe:a00:1
"""

HARMLESS = """
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 168.63.129.15
    169.253.255.255 172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0
    223.255.255.255 2001:200::1 2001:4860:4860::8888 2003::1 2606:4700::1111 2a00:1450:4001:81b::200e 3ffd::1
"""


class Table(SynchronousTestCase):
    def test_dangerous(self) -> None:
        """Each address that leads somewhere else than to the internet is refused, with words and without allow list."""
        passed = []
        for address in DANGEROUS.split():
            try:
                Guard().check(address)
                passed.append(address)
            except Refused as error:
                self.assertIn("address", str(error))
        self.assertEqual(passed, [])

    def test_harmless(self) -> None:
        """Addresses of the internet pass, those next to a refused network too."""
        for address in HARMLESS.split():
            Guard().check(address)

    def test_edges(self) -> None:
        """The first and the last address of each refused network are refused."""
        for text, _ in REFUSED:
            network = ipaddress.ip_network(text)
            for address in (network[0], network[-1]):
                self.assertRaises(Refused, Guard().check, str(address))

    def test_not_an_address(self) -> None:
        """What is no numeric address in its usual form is refused."""
        for text in (
            "",
            "localhost",
            "127.1",
            "0x7f.0.0.1",
            "2130706433",
            "010.0.0.1",
            "1.1.1.1 ",
            "[::1]",
            "1.1.1.1/32",
        ):
            self.assertRaises(Refused, Guard(["0.0.0.0/0"]).check, text)

    @settings(deadline=None, derandomize=True)
    @given(st.integers(0, 2**32 - 1))
    def test_no_disguise(self, number: int) -> None:
        """No IPv4 address whatever passes inside an IPv6 one."""
        for form in (
            number,
            0xFFFF << 32 | number,
            0xFFFF << 48 | number,
            0x64FF9B << 96 | number,
            0x2002 << 112 | number << 80 | 1,
            0x20010000 << 96 | number << 64,
            0x20010000 << 96 | (number ^ 0xFFFFFFFF),
        ):
            self.assertRaises(Refused, Guard().check, str(ipaddress.IPv6Address(form)))

    @settings(deadline=None, derandomize=True)
    @given(st.text())
    def test_any_text(self, text: str) -> None:
        """Any text raises Refused or nothing."""
        try:
            Guard().check(text)
        except Refused:
            return
        self.assertTrue(ipaddress.ip_address(text).is_global)


class Allowing(SynchronousTestCase):
    def test_allowed_network(self) -> None:
        """A network that the operator allows passes, its neighbours do not."""
        guard = Guard(["10.1.0.0/16", ipaddress.ip_network("fd00:1::/32")])
        guard.check("10.1.2.3")
        guard.check("fd00:1::1")
        self.assertRaises(Refused, guard.check, "10.2.0.1")
        self.assertRaises(Refused, guard.check, "fd00:2::1")

    def test_allowed_is_meant_as_written(self) -> None:
        """Allowing an IPv4 network does not allow it in IPv6 clothes."""
        self.assertRaises(Refused, Guard(["127.0.0.0/8"]).check, "::ffff:127.0.0.1")

    def test_one_bad_blocks_all(self) -> None:
        """A name with one bad address is refused, wherever it stands among the good ones."""
        guard = Guard()
        guard.check_all(["1.1.1.1", "2606:4700::1111"])
        self.assertRaises(Refused, guard.check_all, ["1.1.1.1", "127.0.0.1"])
        self.assertRaises(Refused, guard.check_all, ["::1", "1.1.1.1"])

    def test_ports(self) -> None:
        """Ports off the list are refused; an empty list allows all that are ports."""
        Guard(ports=(80, 443)).check_port(443)
        self.assertRaises(Refused, Guard(ports=(80, 443)).check_port, 22)
        Guard().check_port(22)
        for port in (0, -1, 65536):
            self.assertRaises(Refused, Guard().check_port, port)
