"""`calledin check` and our public address, with a STUN server of a few lines."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from twisted.trial.unittest import SynchronousTestCase

from calledind.cli import stun as asking
from calledind.cli.client import Client
from calledind.cli.finding import FAIL, OK, WARN, Subject
from calledind.cli.public import public_address
from calledind.cli.stun import public_ip
from calledind.net import stun
from calledind.settings.reading import load

COOKIE = 0x2112A442


def answer(transaction: bytes, host: str) -> bytes:
    """Return a Binding success response with an IPv4 address."""
    octets = bytes(each ^ other for each, other in zip(socket.inet_aton(host), COOKIE.to_bytes(4), strict=True))
    return struct.pack(">HHI12sHHBBH4s", 0x0101, 12, COOKIE, transaction, 0x0020, 8, 0, 1, 0, octets)


class StunServer:
    """Says of everybody that it is at `host`; to the first `silent` requests it says nothing."""

    def __init__(self, host: str, silent: int = 0, before: Sequence[bytes] = ()) -> None:
        """`before`: datagrams that are sent ahead of each answer."""
        self.asked = 0
        self._host, self._silent, self._before = host, silent, before
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            data, source = self._socket.recvfrom(2048)
            if not data:
                return
            self.asked += 1
            if self.asked > self._silent:
                for each in (*self._before, answer(stun.transaction_of(data), self._host)):
                    self._socket.sendto(each, source)


class FakeClient:
    """A daemon with these trunks: their "advertise" and "seen_as"."""

    def __init__(self, trunks: Mapping[str, tuple[str, str]]) -> None:
        self._trunks = trunks

    def get(self, path: str) -> object:
        assert path == "/trunks"
        return {"trunks": [{"name": name, "advertise": a, "seen_as": seen} for name, (a, seen) in self._trunks.items()]}


class PublicCase(SynchronousTestCase):
    def serve(self, host: str, silent: int = 0, before: Sequence[bytes] = ()) -> StunServer:
        server = StunServer(host, silent, before)
        self.addCleanup(server.close)
        return server


class AskTests(PublicCase):
    def test_answer(self) -> None:
        """The server's word is taken, whatever else comes, and it is asked again when it is silent."""
        others = (b"SIP/2.0 200 OK\r\n\r\n", answer(bytes(12), "192.0.2.1"))
        server = self.serve("203.0.113.7", silent=1, before=others)
        self.patch(asking, "WAITS", (0.05, 30.0))
        self.assertEqual(public_ip("127.0.0.1", server.port), "203.0.113.7")
        self.assertEqual(server.asked, 2)
        self.assertEqual(public_ip("localhost", server.port, "127.0.0.1"), "203.0.113.7")

    def test_none(self) -> None:
        """A server that is silent, or says nothing that can be read, is an OSError in time; so is one of the other
        kind of addresses."""
        self.patch(asking, "WAITS", (0.01, 0.01))
        silent = self.serve("203.0.113.7", silent=9)
        self.assertIn("does not answer", str(self.assertRaises(OSError, public_ip, "127.0.0.1", silent.port)))
        self.assertEqual(silent.asked, 2)
        self.patch(stun, "new_transaction", lambda: bytes(12))
        self.patch(asking, "WAITS", (30.0,))
        odd = self.serve("203.0.113.7", before=(struct.pack(">HHI12s", 0x0111, 0, COOKIE, bytes(12)),))
        self.assertIn("its answer is wrong", str(self.assertRaises(OSError, public_ip, "127.0.0.1", odd.port)))
        self.assertRaises(OSError, public_ip, "127.0.0.1", odd.port, "::1")


class PublicAddressTests(PublicCase):
    def look(
        self, trunks: Mapping[str, str], daemon: Mapping[str, tuple[str, str]] | None = None, *, live: bool = True
    ) -> list[tuple[str, str]]:
        """Return the findings for trunks of these `advertise`, with their daemon or without one."""
        file = Path(self.mktemp())
        table = '[[trunks]]\nname = "{}"\nhost = "192.0.2.9"\nadvertise = "{}"\n'
        file.write_text("".join(table.format(name, advertise) for name, advertise in trunks.items()))
        settings = load(file) if trunks else None
        client = None if daemon is None else cast(Client, FakeClient(daemon))
        found = public_address(Subject(settings, file, client, None, live))
        return [(each.state, each.words) for each in found if each.what == "address"]

    def test_by_its_server(self) -> None:
        """A trunk's STUN server is asked with --live only, and what it says is what the trunk will be told."""
        server = self.serve("203.0.113.7")
        where = f"stun:127.0.0.1:{server.port}"
        [(state, words)] = self.look({"a": where}, live=False)
        self.assertEqual((state, server.asked), (OK, 0))
        self.assertIn("not asked without --live", words)
        found = self.look({"a": where, "b": where})
        self.assertEqual(found[0], (OK, f"{where} sees us as 203.0.113.7, which a will be told"))
        self.assertEqual((len(found), server.asked), (2, 1))

    def test_by_its_server_and_a_daemon(self) -> None:
        """What the daemon tells the trunk is compared with what the server says now."""
        server = self.serve("203.0.113.7")
        where = f"stun:127.0.0.1:{server.port}"
        found = self.look({"a": where}, {"a": (where, "203.0.113.7:5060")})
        self.assertEqual([state for state, _ in found], [OK, OK])
        self.assertIn("which a is told", found[1][1])
        found = self.look({"a": where}, {"a": (where, "203.0.113.8:5060")})
        self.assertEqual(found[1], (FAIL, f"{where} sees us as 203.0.113.7, and a is told 203.0.113.8"))
        self.assertEqual(self.look({}, {"a": (where, "")}, live=False)[0][0], WARN)

    def test_no_answer(self) -> None:
        """A server that is not there fails, unless the daemon knows the address from before."""
        server = StunServer("203.0.113.7")
        server.close()
        where = f"stun:127.0.0.1:{server.port}"
        self.assertEqual(self.look({"a": where}), [(FAIL, f"{where}: Connection refused")])
        found = self.look({"a": where}, {"a": (where, "203.0.113.7:5060")})
        self.assertEqual([state for state, _ in found], [OK, WARN])

    def test_an_address(self) -> None:
        """An address of the settings is compared with the server of another trunk; without one it is not verified."""
        server = self.serve("203.0.113.7")
        where = f"stun:127.0.0.1:{server.port}"
        found = self.look({"a": "203.0.113.7", "b": where})
        self.assertEqual(found[0], (OK, f"{where} sees us as 203.0.113.7, which a is told"))
        found = self.look({"a": "203.0.113.9", "b": where})
        self.assertEqual(found[0], (WARN, f"{where} sees us as 203.0.113.7, and a is told 203.0.113.9"))
        for trunks in ({"a": "2001:db8::1", "b": where}, {"a": "203.0.113.7"}):
            state, words = self.look(trunks)[0]
            self.assertEqual(state, OK)
            self.assertIn("not verified: no STUN server", words)
        self.assertIn("not verified: nobody is asked", self.look({"a": "203.0.113.7"}, live=False)[0][1])

    def test_as_trunks_see_us(self) -> None:
        """Without any STUN server, what a trunk sees is compared; "received" is known to a daemon only."""
        found = self.look({}, {"a": ("203.0.113.7", "203.0.113.7:5060"), "b": ("203.0.113.7", "203.0.113.8:5060")})
        self.assertEqual([state for state, _ in found], [OK, FAIL])
        self.assertEqual(self.look({"a": "received"}, {"a": ("received", "")})[0][0], WARN)
        self.assertEqual(self.look({"a": "received"})[0][0], OK)
