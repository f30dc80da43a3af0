"""RTP packets: what is read, written and refused."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.rtp import rtcp
from calledind.rtp.dtmf import TelephoneEvent
from calledind.rtp.packet import Packet, RTPError

WORDS = st.integers(0, 0xFFFFFFFF)
PACKETS = st.builds(
    Packet,
    payload_type=st.integers(0, 127),
    sequence=st.integers(0, 0xFFFF),
    timestamp=WORDS,
    ssrc=WORDS,
    payload=st.binary(max_size=400),
    marker=st.booleans(),
    contributors=st.lists(WORDS, max_size=15).map(tuple),
    extension=st.none() | st.tuples(st.integers(0, 0xFFFF), st.lists(st.binary(min_size=4, max_size=4)).map(b"".join)),
)


class PacketTests(SynchronousTestCase):
    """`Packet.parse` and `bytes`."""

    @settings(deadline=None, derandomize=True)
    @given(PACKETS)
    def test_what_is_written_is_read(self, packet: Packet) -> None:
        """Any packet comes back from its bytes."""
        self.assertEqual(Packet.parse(bytes(packet)), packet)

    def test_a_packet_by_hand(self) -> None:
        """The fields are where RFC 3550 §5.1 draws them."""
        packet = Packet.parse(bytes.fromhex("80 88 0102 00000a0b deadbeef d5d5"))
        self.assertEqual(packet, Packet(8, 0x0102, 0x0A0B, 0xDEADBEEF, b"\xd5\xd5", marker=True))

    def test_padding_is_taken_off(self) -> None:
        """The last octet of a padded packet says how many to drop, itself included."""
        packet = Packet.parse(bytes.fromhex("a0 00 0001 00000001 00000001 ffff 000003"))
        self.assertEqual(packet.payload, b"\xff\xff")

    def test_what_is_refused(self) -> None:
        """Each way of being cut off or contradictory raises the module's error."""
        fixed = "80 00 0001 00000001 00000001"
        for text in (
            "",
            fixed[:-2],
            "40" + fixed[2:],
            "81" + fixed[2:],
            "90" + fixed[2:] + "0000",
            "90" + fixed[2:] + "00000001",
            "a0" + fixed[2:],
            "a0" + fixed[2:] + "00",
            "a0" + fixed[2:] + "02",
        ):
            with self.subTest(text):
                self.assertRaises(RTPError, Packet.parse, bytes.fromhex(text))

    def test_an_extension_has_whole_words(self) -> None:
        """What can't be written is our own mistake, and said so."""
        self.assertRaises(ValueError, bytes, Packet(0, 0, 0, 0, extension=(1, b"abc")))


class FuzzTests(SynchronousTestCase):
    """Bytes from outside raise nothing but `RTPError`."""

    def test_mutated_packets(self) -> None:
        """2,000 packets with octets changed, cut off, doubled or added are read or refused, nothing else."""
        chance = random.Random(3550)
        block = rtcp.ReportBlock(1, 0.25, -3, 70_000, 40, 5, 6)
        originals = [
            bytes(Packet(0, 1, 160, 7, bytes(160), contributors=(1, 2), extension=(0xBEDE, bytes(8)))),
            bytes(Packet(101, 1, 160, 7, bytes(TelephoneEvent(5, True, 10, 800)))),
            rtcp.pack([rtcp.SenderReport(1, 2, 3, 4, 5, (block,)), rtcp.SourceDescription.named(1, "name")]),
            rtcp.pack([rtcp.ReceiverReport(1, (block, block)), rtcp.Goodbye((1, 2), b"bye")]),
        ]
        read = refused = 0
        for _ in range(2000):
            data = bytearray(chance.choice(originals))
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(data)) if data else 0
                match chance.randrange(4):
                    case 0 if data:
                        data[at] = chance.randrange(256)
                    case 1:
                        del data[at:]
                    case 2:
                        data[at:at] = chance.randbytes(chance.randint(1, 8))
                    case _:
                        data += data[at:]
            for parse in (rtcp.parse, Packet.parse, TelephoneEvent.parse):
                try:
                    parse(bytes(data))
                    read += 1
                except RTPError:
                    refused += 1
        self.assertGreater(read, 500)
        self.assertGreater(refused, 500)
