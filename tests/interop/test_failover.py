"""Several SIPps as carriers: which of them is asked for a call, and which is spared."""

from __future__ import annotations

import json
import socket
import time

from tests.interop import scenarios as sc
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import Daemon, Sipp, UnixConnection, free_udp_port, need, sipp

ANSWERS = sc.scenario(sc.receive("INVITE"), sc.RINGING, sc.OK, sc.receive("ACK"), sc.GOODBYE)
RETRY = "Retry-After: 3600\n"


class FailoverTests(InteropCase):
    """The first carrier refuses in one way or another; the last one answers."""

    def setUp(self) -> None:
        need("sipp")
        super().setUp()
        self.carriers: list[Sipp] = []

    def carrier(self, scenario: str, *arguments: str, calls: int = 1) -> int:
        """Start a carrier, or another run of it; returns its port."""
        folder = self.folder / f"sipp{len(self.carriers)}"
        started = self.world.enter_context(sipp(folder, scenario, "-key", "rtp", "40000", *arguments, calls=calls))
        self.carriers.append(started)
        return started.port

    def start(self, *ports: int, first: str = "", sip: str = "") -> Daemon:
        """Start a daemon with a trunk to each port, asked in this order; `first`: more settings of the first."""
        trunks = [
            trunk(port, name=f"carrier{index}", more=f"priority = {index}\n" + ("" if index else first))
            for index, port in enumerate(ports)
        ]
        return self.run_daemon(settings(*trunks, sip=sip))

    def invites(self, carrier: int) -> int:
        messages = self.carriers[carrier].messages()
        calls = {line for line in messages.splitlines() if line.startswith("Call-ID:")}
        return len(calls)

    def finished(self) -> None:
        """Every carrier saw what its scenario says."""
        for carrier in self.carriers:
            self.assertEqual(carrier.wait(), 0, carrier.explain())

    def pace(self, daemon: Daemon) -> float:
        return float(daemon.admin("GET", "/status")["trunks"][0]["calls_per_second"])

    def test_technical_failures(self) -> None:
        """500 and 503 before anything rang go to the next carrier, and the one after; each is asked once."""
        daemon = self.start(
            self.carrier(sc.refuse("500 Server Internal Error")),
            self.carrier(sc.refuse("503 Service Unavailable")),
            self.carrier(ANSWERS),
        )
        self.assertEqual(self.outcome(self.call(daemon)), ("1", ""))
        self.finished()
        self.assertEqual([self.invites(index) for index in range(3)], [1, 1, 1])

    def test_never_after_ringing(self) -> None:
        """A 503 after ringing ends the call: somebody's phone rang already."""
        port = self.carrier(sc.refuse("503 Service Unavailable", ringing=True))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second:
            second.bind(("127.0.0.1", 0))
            second.setblocking(False)
            daemon = self.start(port, second.getsockname()[1])
            self.assertEqual(self.outcome(self.call(daemon)), ("0", "8"))
            self.assertRaises(BlockingIOError, second.recv, 65536)
        self.finished()

    def test_nobody_listens(self) -> None:
        """A carrier whose port is closed costs a call no time."""
        daemon = self.start(free_udp_port(), self.carrier(ANSWERS))
        began = time.monotonic()
        self.assertEqual(self.outcome(self.call(daemon)), ("1", ""))
        self.assertLess(time.monotonic() - began, 10.0)
        self.finished()

    def test_silent(self) -> None:
        """A carrier that takes the INVITE and never says a word is given up, and the next one is asked."""
        daemon = self.start(
            self.carrier(sc.scenario(sc.receive("INVITE"), sc.pause(4000))), self.carrier(ANSWERS), sip="t1 = 0.03"
        )
        self.assertEqual(self.outcome(self.call(daemon)), ("1", ""))
        self.finished()
        self.assertNotIn("\nCANCEL sip:", self.carriers[0].messages())

    def test_connection_breaks(self) -> None:
        """Where the connection ends with no word to the INVITE that went over it, the next carrier is asked."""
        daemon = self.start(
            self.carrier(sc.scenario(sc.receive("INVITE")), "-t", "t1"),
            self.carrier(ANSWERS),
            first='transport = "tcp"\n',
        )
        self.assertEqual(self.outcome(self.call(daemon)), ("1", ""))
        self.finished()
        self.assertEqual([self.invites(index) for index in range(2)], [1, 1])

    def test_busy_is_final(self) -> None:
        """486 is the callee's word: no other carrier is asked."""
        port = self.carrier(sc.refuse("486 Busy Here"))
        daemon = self.start(port, free_udp_port())
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "5"))
        self.finished()

    def test_throttled_by_486(self) -> None:
        """Where a carrier throttles with 486, the next one is asked, and this one gets fewer calls for a while."""
        daemon = self.start(
            self.carrier(sc.refuse("486 Busy Here")), self.carrier(ANSWERS), first='failover = { "486" = "slow" }\n'
        )
        self.assertEqual(self.pace(daemon), 100.0)
        self.assertEqual(self.outcome(self.call(daemon)), ("1", ""))
        self.assertTrue(50.0 <= self.pace(daemon) < 60.0)
        self.finished()

    def test_full_channel(self) -> None:
        """Where a carrier says 403 for a full channel, it is left alone for the pause: the second call goes elsewhere
        at once, and one after the pause comes back."""
        answers = sc.scenario(
            sc.receive("INVITE"), sc.RINGING, sc.send("404 Not Found", retrans=500), sc.receive("ACK")
        )
        daemon = self.start(
            self.carrier(sc.refuse("403 Channel Limit"), calls=2),
            self.carrier(answers, calls=3),
            first='failover = { "403" = "pause" }\npause = 3.0\n',
        )
        for number in ("2125550100", "2125550101"):
            self.assertEqual(self.outcome(self.call(daemon, phone_number=number)), ("0", "0"))
        self.assertEqual((self.invites(0), self.invites(1)), (1, 2))
        time.sleep(3.0)
        self.assertEqual(self.outcome(self.call(daemon, phone_number="2125550102")), ("0", "0"))
        self.finished()
        self.assertEqual((self.invites(0), self.invites(1)), (2, 3))

    def test_retry_after(self) -> None:
        """A 503 with Retry-After keeps calls away from its carrier for that long."""
        answers = sc.scenario(sc.receive("INVITE"), sc.send("404 Not Found", retrans=500), sc.receive("ACK"))
        daemon = self.start(
            self.carrier(sc.refuse("503 Service Unavailable", more=RETRY)), self.carrier(answers, calls=3)
        )
        for number in ("2125550100", "2125550101", "2125550102"):
            self.assertEqual(self.outcome(self.call(daemon, phone_number=number)), ("0", "0"))
        self.finished()
        self.assertEqual((self.invites(0), self.invites(1)), (1, 3))

    def test_breaker(self) -> None:
        """After five failures in a row a carrier gets no more calls; an OPTIONS that it answers brings them back. Who
        follows the daemon's events hears of both, once."""
        refusal = sc.send("500 Server Internal Error", retrans=500) + sc.receive("ACK")
        down = self.carrier(sc.scenario(sc.receive("INVITE"), refusal), calls=5)
        elsewhere = sc.scenario(sc.receive("INVITE"), sc.send("404 Not Found", retrans=500), sc.receive("ACK"))
        daemon = self.start(down, self.carrier(elsewhere, calls=6))
        connection = UnixConnection(daemon.data / "admin.sock")
        self.addCleanup(connection.close)
        connection.request("GET", "/events")
        events = connection.getresponse()
        for number in range(6):
            told = self.call(daemon, phone_number=f"212555010{number}")
            self.assertEqual(self.outcome(told), ("0", "0"))
        self.finished()
        self.assertEqual((self.invites(0), self.invites(1)), (5, 6))
        self.assertEqual([each["health"] for each in daemon.admin("GET", "/status")["trunks"]], ["failing", "well"])
        with sipp(
            self.folder / "again",
            sc.scenario(sc.receive("OPTIONS", extra='timeout="20000"'), sc.send("200 OK")),
            port=down,
        ) as again:
            self.assertEqual(again.wait(), 0, again.explain())
        deadline = time.monotonic() + 5.0
        while daemon.admin("GET", "/status")["trunks"][0]["health"] != "well":
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        changes: list[tuple[str, str]] = []
        while len(changes) < 2:
            self.assertLess(time.monotonic(), deadline)
            if events.readline() == b"event: trunk\n":
                event = json.loads(events.readline().removeprefix(b"data: "))
                changes.append((event["trunk"], event["health"]))
        self.assertEqual(changes, [("carrier0", "failing"), ("carrier0", "well")])
