"""RTCP: compound packets, and the round trip they measure."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.rtp import rtcp
from calledind.rtp.packet import RTPError

WORDS = st.integers(0, 0xFFFFFFFF)
BLOCKS = st.lists(
    st.builds(
        rtcp.ReportBlock,
        ssrc=WORDS,
        fraction_lost=st.integers(0, 255).map(lambda fraction: fraction / 256),
        lost=st.integers(-(1 << 23), (1 << 23) - 1),
        highest_sequence=WORDS,
        jitter=WORDS,
        last_sender_report=WORDS,
        delay=WORDS,
    ),
    max_size=31,
).map(tuple)
ITEMS = st.lists(st.tuples(st.integers(1, 8), st.binary(max_size=255)), max_size=4).map(tuple)
REPORTS = st.one_of(
    st.builds(
        rtcp.SenderReport,
        ssrc=WORDS,
        ntp=st.integers(0, (1 << 64) - 1),
        timestamp=WORDS,
        packets=WORDS,
        octets=WORDS,
        reports=BLOCKS,
    ),
    st.builds(rtcp.ReceiverReport, ssrc=WORDS, reports=BLOCKS),
    st.builds(rtcp.SourceDescription, chunks=st.lists(st.tuples(WORDS, ITEMS), max_size=5).map(tuple)),
    st.builds(rtcp.Goodbye, sources=st.lists(WORDS, max_size=31).map(tuple), words=st.binary(max_size=255)),
)


class RTCPTests(SynchronousTestCase):
    """`parse`, `pack`, and what is worked out from reports."""

    @settings(deadline=None, derandomize=True)
    @given(st.lists(REPORTS, min_size=1, max_size=5))
    def test_what_is_written_is_read(self, reports: list[rtcp.Report]) -> None:
        """Any compound packet comes back from its bytes."""
        self.assertEqual(rtcp.parse(rtcp.pack(reports)), reports)

    def test_unknown_kinds_are_kept_apart(self) -> None:
        """An APP packet between two known ones disturbs neither."""
        reports: list[rtcp.Report] = [rtcp.ReceiverReport(1), rtcp.Unknown(204, b"abcdname"), rtcp.Goodbye((1,))]
        self.assertEqual(rtcp.parse(rtcp.pack(reports)), reports)

    def test_padding_of_the_last_part(self) -> None:
        """Padding is taken off the last part, and refused in any other."""
        padded = bytes.fromhex("a0c90002 00000001 00000004")
        self.assertEqual(rtcp.parse(padded), [rtcp.ReceiverReport(1)])
        self.assertRaises(RTPError, rtcp.parse, padded + rtcp.pack([rtcp.Goodbye((1,))]))

    def test_what_is_refused(self) -> None:
        """Each way of being cut off or contradictory raises the package's error."""
        for text in (
            "",
            "80c9",
            "40c90001 00000001",
            "80000001 00000001",
            "80c90002 00000001",
            "81c90001 00000001",
            "80c80001 00000001",
            "82cb0001 00000001",
            "81ca0000",
            "81ca0002 00000001 01ff6162",
        ):
            with self.subTest(text):
                self.assertRaises(RTPError, rtcp.parse, bytes.fromhex(text))

    def test_round_trip_of_the_standard(self) -> None:
        """The example of RFC 3550 §6.4.1, figure 2, gives 6.125 s."""
        block = rtcp.ReportBlock(1, 0.0, 0, 0, 0, last_sender_report=0xB7052000, delay=0x00054000)
        took = rtcp.round_trip(block, 0xB7108000 << 16)
        self.assertEqual(took, 6.125)

    def test_no_round_trip_before_our_report_was_heard(self) -> None:
        """LSR 0 means that the peer had no report of ours."""
        self.assertIsNone(rtcp.round_trip(rtcp.ReportBlock(1, 0, 0, 0, 0, 0, 0), rtcp.ntp_time(1e9)))

    def test_a_round_trip_is_never_negative(self) -> None:
        """A peer whose clock is a little fast gives 0, not thousands of seconds."""
        block = rtcp.ReportBlock(1, 0, 0, 0, 0, last_sender_report=1000, delay=20)
        self.assertEqual(rtcp.round_trip(block, 1010 << 16), 0.0)

    def test_what_cannot_be_packed(self) -> None:
        """More reports than five bits can count, and parts of words, are mistakes of ours."""
        block = rtcp.ReportBlock(1, 0, 0, 0, 0, 0, 0)
        for report in (rtcp.ReceiverReport(1, (block,) * 32), rtcp.Unknown(204, b"odd")):
            self.assertRaises(ValueError, rtcp.pack, [report])

    def test_receiver_report_without_a_source(self) -> None:
        """A receiver report names at least who makes it."""
        self.assertRaises(RTPError, rtcp.parse, b"\x80\xc9\0\0")

    def test_ntp_time(self) -> None:
        """1970 is 2,208,988,800 s after NTP's beginning, and half a second is the highest bit of the fraction."""
        self.assertEqual(rtcp.ntp_time(0.5), 2_208_988_800 << 32 | 0x80000000)
