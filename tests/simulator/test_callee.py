# mypy: allow-untyped-calls
"""The media of one callee, over a fake reactor's sockets."""

from __future__ import annotations

import itertools
from typing import Any

from twisted.internet import defer, task
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase

from calledind.rtp import rtcp
from calledind.rtp.dtmf import DigitDetector
from calledind.rtp.packet import Packet
from calledind.sdp import Agreed
from calledind.simulator.callee import Callee, NoPort

CALLER = ("127.0.0.1", 16384)
CALLER_RTCP = ("127.0.0.1", 16385)
AGREED = Agreed(
    codec="PCMU",
    payload_type=0,
    remote=CALLER,
    remote_rtcp=CALLER_RTCP,
    telephone_event=101,
    ptime=20,
    sends=True,
    receives=True,
)


class Port:
    """A UDP port that remembers what was written."""

    def __init__(self, number: int, taken: set[int]) -> None:
        self.port = number
        self.taken = taken
        self.sent: list[tuple[bytes, tuple[str, int]]] = []

    def getHost(self) -> Port:
        return self

    def write(self, data: bytes, target: tuple[str, int]) -> None:
        self.sent.append((data, target))

    def stopListening(self) -> Deferred[None]:
        self.taken.discard(self.port)
        return defer.succeed(None)


class Reactor(task.Clock):
    """A clock with UDP ports; ports asked for as 0 are given from `next_ports`."""

    def __init__(self, *next_ports: int) -> None:
        super().__init__()
        self.next_ports = list(next_ports)
        self.taken: set[int] = set()
        self.ports: dict[int, Port] = {}

    def listenUDP(self, port: int, protocol: Any, interface: str = "") -> Port:
        port = port or self.next_ports.pop(0)
        if port in self.taken:
            raise CannotListenError(interface, port, OSError("in use"))
        self.taken.add(port)
        protocol.transport = self.ports[port] = Port(port, self.taken)
        return self.ports[port]


def packet(number: int, payload_type: int = 0, ssrc: int = 7) -> bytes:
    return bytes(Packet(payload_type, 1000 + number, number * 160, ssrc, bytes([number]) * 160))


class CalleeTests(SynchronousTestCase):
    def callee(self, **how: Any) -> Callee:
        self.reactor = Reactor(40000)
        callee = Callee(self.reactor, "127.0.0.1", seed="test", **how)
        self.assertEqual(callee.open(), 40000)
        callee.agree(AGREED)
        return callee

    def heard(self, callee: Callee) -> Any:
        assert callee.recording is not None
        return callee.recording.heard()

    def sent(self, port: int = 40000) -> list[Packet]:
        return [Packet.parse(data) for data, target in self.reactor.ports[port].sent if target == CALLER]

    def test_ports(self) -> None:
        """An even port with its free odd neighbour is taken; others are let go."""
        reactor = Reactor(40001, 40002, 40004)
        reactor.taken = {40003}
        self.assertEqual(Callee(reactor, "127.0.0.1").open(), 40004)
        self.assertEqual(reactor.taken, {40003, 40004, 40005})

    def test_no_port(self) -> None:
        """Without a free pair of ports the callee says so."""
        reactor = Reactor(*range(40001, 40999, 2))
        self.assertRaises(NoPort, Callee(reactor, "127.0.0.1").open)
        self.assertEqual(reactor.taken, set())

    def test_records(self) -> None:
        """Packets of the agreed kind from the caller's port are recorded, others are strays."""
        callee = self.callee()
        for data, source in (
            (packet(0), CALLER),
            (packet(1), CALLER),
            (packet(2, payload_type=8), CALLER),
            (packet(2), ("127.0.0.1", 9)),
            (b"nonsense", CALLER),
        ):
            callee.rtp_received(data, source)
        self.assertEqual((self.heard(callee).packets, self.heard(callee).strays), (2, 3))

    def test_before_agreement(self) -> None:
        """Before an offer was agreed on nothing is heard."""
        callee = Callee(Reactor(40000), "127.0.0.1")
        callee.rtp_received(packet(0), CALLER)
        self.assertIs(callee.recording, None)

    def test_loss(self) -> None:
        """A lossy callee loses about its share, the same packets each time."""
        results = []
        for _ in range(2):
            callee = self.callee(loss=0.1)
            for number in range(200):
                callee.rtp_received(packet(number), CALLER)
            results.append(self.heard(callee).packets)
        self.assertEqual(results[0], results[1])
        self.assertTrue(165 < results[0] < 195, results[0])
        self.assertEqual(self.heard(callee).strays, 0)

    def test_talks(self) -> None:
        """Talking is a packet of silence every 20 ms, counted up evenly, the first with the marker."""
        callee = self.callee()
        callee.talk()
        self.reactor.pump([0.02] * 9)
        sent = self.sent()
        self.assertEqual([p.payload for p in sent], [b"\xff" * 160] * 10)
        self.assertEqual([p.marker for p in sent], [True] + [False] * 9)
        self.assertEqual({(b.timestamp - a.timestamp) % 2**32 for a, b in itertools.pairwise(sent)}, {160})
        self.assertEqual({(b.sequence - a.sequence) % 2**16 for a, b in itertools.pairwise(sent)}, {1})

    def test_late_turn(self) -> None:
        """A turn that comes late makes up for what it missed."""
        callee = self.callee()
        callee.talk()
        self.reactor.advance(0.1)
        self.assertEqual(len(self.sent()), 6)

    def test_keys(self) -> None:
        """Pressed keys are telephone-events that a receiver reads as the same keys."""
        callee = self.callee()
        self.assertTrue(callee.press("12#"))
        callee.talk()
        self.reactor.pump([0.02] * 100)
        detector = DigitDetector()
        events = [p for p in self.sent() if p.payload_type == 101]
        self.assertEqual([digit for digit in map(detector.received, events) if digit], ["1", "2", "#"])

    def test_keys_not_agreed(self) -> None:
        """Without a telephone-event in the agreement no key can be pressed."""
        callee = Callee(Reactor(40000), "127.0.0.1")
        self.assertFalse(callee.press("1"))

    def test_report(self) -> None:
        """Every five seconds a report says what was lost, and repeats the caller's sender report."""
        callee = self.callee(talks=False)
        callee.talk()
        ntp = rtcp.ntp_time(1e9)
        callee.rtcp_received(rtcp.pack([rtcp.SenderReport(7, ntp, 0, 3, 480)]), CALLER_RTCP)
        for number in (0, 1, 3):
            callee.rtp_received(packet(number), CALLER)
        self.reactor.advance(5.0)
        ((data, target),) = self.reactor.ports[40001].sent
        report, _ = rtcp.parse(data)
        assert isinstance(report, rtcp.ReceiverReport)
        (block,) = report.reports
        self.assertEqual(target, CALLER_RTCP)
        self.assertEqual((block.ssrc, block.lost, block.fraction_lost, block.highest_sequence), (7, 1, 0.25, 1003))
        self.assertEqual((block.last_sender_report, block.delay), (rtcp.middle(ntp), 5 * 65536))

    def test_goodbye(self) -> None:
        """The caller's RTCP BYE is noted, and nonsense on the RTCP port does no harm."""
        callee = self.callee()
        callee.rtcp_received(b"\x80", CALLER_RTCP)
        self.assertFalse(callee.said_goodbye)
        callee.rtcp_received(rtcp.pack([rtcp.ReceiverReport(7), rtcp.Goodbye((7,))]), CALLER_RTCP)
        self.assertTrue(callee.said_goodbye)

    def test_hold(self) -> None:
        """What comes while the caller should be quiet is counted."""
        callee = self.callee()
        callee.rtp_received(packet(0), CALLER)
        callee.held = True
        callee.rtp_received(packet(1), CALLER)
        self.assertEqual(callee.while_held, 1)

    def test_close(self) -> None:
        """A closed callee has let go of its ports and has no timers."""
        callee = self.callee()
        callee.talk()
        self.successResultOf(callee.close())
        self.assertEqual((self.reactor.taken, self.reactor.getDelayedCalls()), (set(), []))
