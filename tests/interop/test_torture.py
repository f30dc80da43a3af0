"""The messages that RFC 4475 and RFC 5118 speak of, sent to a running daemon while a call plays.

Each comes from a socket of its own, so that what comes back there is the answer to it, and is followed by an OPTIONS
of good order: once that is answered, so is all that came before it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from unittest import SkipTest

from tests.interop.carrier import Carrier
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import Daemon, free_udp_port, wait_for
from tests.sip.torture import TABLE, Torture, written

TRUNK, STRANGER = "127.0.0.1", "127.0.0.2"
IPV6 = [torture for torture in TABLE if torture.is_ipv6]
AT_ONCE = 8
"Messages that are sent before the daemon is waited for, so that no buffer is too small for them."


class TortureTests(InteropCase):
    def setUp(self) -> None:
        super().setUp()
        self.sip_port = free_udp_port()
        self.carrier = Carrier()
        self.world.callback(self.carrier.close)
        self.number = 0

    def start(self, *more: str, also: str = "") -> Daemon:
        text = settings(trunk(self.carrier.port, name="carrier"), *more, sip_port=self.sip_port)
        bind = f'bind = ["127.0.0.1:{self.sip_port}"'
        self.assertIn(bind, text)
        return self.run_daemon(text.replace(bind, bind + also))

    def answers(self, table: Sequence[Torture], source: str, target: str = TRUNK) -> dict[str, set[int]]:
        """Send each message from this address; returns the statuses that came back for it."""
        answers: dict[str, set[int]] = {}
        for at in range(0, len(table), AT_ONCE):
            with ExitStack() as world:
                some = {torture.name: self.send(torture, source, target, world) for torture in table[at : at + AT_ONCE]}
                self.good_order(target)
                answers |= {name: self.statuses(sock) for name, sock in some.items()}
        return answers

    def send(self, torture: Torture, source: str, target: str, world: ExitStack) -> socket.socket:
        sock = world.enter_context(open_socket(source))
        self.number += 1
        sock.sendto(torture.octets(self.number, sock.getsockname()[1]), (target, self.sip_port))
        return sock

    def good_order(self, target: str) -> None:
        with open_socket(target) as sock:
            sock.settimeout(20.0)
            self.number += 1
            sock.sendto(written().replace(b"base", b"order%d" % self.number), (target, self.sip_port))
            self.assertTrue(sock.recv(65535).startswith(b"SIP/2.0 200 "))

    def statuses(self, sock: socket.socket) -> set[int]:
        sock.setblocking(False)
        found = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                data = sock.recv(65535)
                self.assertEqual(data[:8], b"SIP/2.0 ")
                found.add(int(data[8:11]))
        return found

    def expected(self, table: Sequence[Torture]) -> dict[str, set[int]]:
        return {torture.name: set() if torture.answer is None else {torture.answer} for torture in table}

    def test_while_a_call_plays(self) -> None:
        """A trunk is answered as the table says, a stranger not at all, and the call is played to its end."""
        daemon = self.start()
        call_id = self.ask(daemon, mp3=f"{self.web.url}/speech.mp3")
        wait_for("the call is answered", lambda: bool(self.carrier.acknowledged))
        self.maxDiff = None
        self.assertEqual(self.answers(TABLE, TRUNK), self.expected(TABLE))
        self.assertEqual(self.answers(TABLE, STRANGER), {torture.name: set() for torture in TABLE})
        self.assertEqual(daemon.admin("GET", "/status")["live"], 1)
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        self.assertEqual(daemon.admin("GET", f"/calls/{call_id}")["outcome"]["cause"], "played")
        self.assertEqual(self.carrier.left, self.carrier.acknowledged)

    def test_over_ipv6(self) -> None:
        """What is of IPv6 is answered over IPv6 as well."""
        try:
            open_socket("::1").close()
        except OSError:
            raise SkipTest("skipped: this machine has no IPv6 loopback") from None
        self.start(trunk(free_udp_port(), name="six", host="::1"), also=f', "[::1]:{self.sip_port}"')
        self.assertEqual(self.answers(IPV6, "::1", "::1"), self.expected(IPV6))


def open_socket(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.bind((address, 0))
    except OSError:
        sock.close()
        raise
    return sock
