"""Digits as telephone events: each press told once, whatever is lost or repeated."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.rtp.dtmf import DIGITS, DigitDetector, TelephoneEvent, press
from calledind.rtp.packet import Packet, RTPError


def pressed(digits: str, *, start: int = 1000, apart: int = 1600) -> list[Packet]:
    """Return the packets of these presses in order."""
    packets: list[Packet] = []
    for index, digit in enumerate(digits):
        for marker, payload in press(digit):
            timestamp = (start + index * apart) & 0xFFFFFFFF
            packets.append(Packet(101, len(packets), timestamp, 7, payload, marker))
    return packets


def heard(packets: list[Packet]) -> str:
    """Return the digits that a detector tells."""
    detector = DigitDetector()
    return "".join(detector.received(packet) or "" for packet in packets)


class DigitDetectorTests(SynchronousTestCase):
    """Packets in, digits out."""

    def test_every_key(self) -> None:
        """All sixteen keys are told, in order, and the same key twice is told twice."""
        self.assertEqual(heard(pressed(DIGITS + "55")), DIGITS + "55")

    @settings(deadline=None, derandomize=True)
    @given(st.text(DIGITS, min_size=1, max_size=8), st.data())
    def test_loss_and_repeats(self, digits: str, data: st.DataObject) -> None:
        """As long as one packet of each press comes through, each is told once, in order."""
        kept = []
        packets = pressed(digits, start=0xFFFFF000)
        for index in range(len(digits)):
            of_press = packets[8 * index : 8 * index + 8]
            chosen = data.draw(st.lists(st.sampled_from(range(8)), min_size=1, max_size=10))
            kept += [of_press[number] for number in sorted(chosen)]
        self.assertEqual(heard(kept), digits)

    def test_an_overtaken_packet_is_no_press(self) -> None:
        """A late packet of the press before, after the next one began, tells nothing."""
        packets = pressed("12")
        self.assertEqual(heard([*packets[:9], packets[7], *packets[9:]]), "12")

    def test_another_source(self) -> None:
        """A sender that begins anew, with another SSRC or its clock set back, is heard from its first press on."""
        before = pressed("12", start=0xC0000000)
        for ssrc, start in ((8, 0x80000000), (8, 0xC0000000), (7, 0x80000000), (7, 100)):
            after = [replace(packet, ssrc=ssrc) for packet in pressed("23", start=start)]
            self.assertEqual(heard(before + after), "1223")

    def test_a_very_long_press_is_one(self) -> None:
        """A segment that begins where the one before ended belongs to the same press (RFC 4733 §2.5.1.3)."""
        first = Packet(101, 0, 100, 7, bytes(TelephoneEvent(5, False, 10, 0xFFFF)))
        second = Packet(101, 1, 100 + 0xFFFF, 7, bytes(TelephoneEvent(5, False, 10, 160)))
        third = Packet(101, 2, 100 + 0xFFFF, 7, bytes(TelephoneEvent(5, True, 10, 320)))
        again = Packet(101, 3, 100 + 0xFFFF + 320, 7, bytes(TelephoneEvent(5, False, 10, 160)))
        self.assertEqual(heard([first, second, third]), "5")
        self.assertEqual(heard([first, second, third, again]), "55")

    def test_events_that_are_no_keys(self) -> None:
        """A hook flash (16) is no digit."""
        self.assertEqual(heard([Packet(101, 0, 0, 7, bytes(TelephoneEvent(16, False, 10, 160)))]), "")

    def test_too_short(self) -> None:
        """Fewer than four octets are refused."""
        self.assertRaises(RTPError, DigitDetector().received, Packet(101, 0, 0, 7, b"\x05\x80\x00"))
