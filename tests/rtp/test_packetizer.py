"""How a file is laid out in packets."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.rtp.packetizer import PACKET_OCTETS, Run, Source, packets_of, runs, tail


class RunsTests(SynchronousTestCase):
    """`runs` and `tail`."""

    def test_a_whole_stream(self) -> None:
        """Lead-in, audio, filled-up tail, lead-out; the first packet alone, with the marker."""
        self.assertEqual(
            runs(500, 0.1, 0.04),
            (
                Run(Source.SILENCE, 1, marker=True),
                Run(Source.SILENCE, 4, first=1),
                Run(Source.AUDIO, 3),
                Run(Source.TAIL, 1),
                Run(Source.SILENCE, 2),
            ),
        )

    def test_audio_alone(self) -> None:
        """Without a lead-in the audio's first packet has the marker, and the next run goes on after it."""
        self.assertEqual(runs(480, 0, 0), (Run(Source.AUDIO, 1, marker=True), Run(Source.AUDIO, 2, first=1)))

    def test_less_than_a_packet(self) -> None:
        """A file of a few octets is one packet."""
        self.assertEqual(runs(7, 0, 0), (Run(Source.TAIL, 1, marker=True),))

    def test_nothing(self) -> None:
        """No audio and no silence is no stream."""
        self.assertEqual(runs(0, 0, 0), ())

    @settings(deadline=None, derandomize=True)
    @given(st.integers(0, 3 * 1440000), st.floats(0, 10), st.floats(0, 10))
    def test_nothing_is_left_out(self, octets: int, lead_in: float, lead_out: float) -> None:
        """The runs last as long as the file and the silences together, to the packet; one marker, at the front."""
        laid_out = runs(octets, lead_in, lead_out)
        expected = packets_of(octets / 8000) + packets_of(lead_in) + packets_of(lead_out)
        self.assertEqual(sum(run.packets for run in laid_out), expected)
        self.assertEqual([run.marker for run in laid_out], [index == 0 for index in range(len(laid_out))])

    def test_tail(self) -> None:
        """The tail is filled up with the codec's silence."""
        self.assertEqual(tail(b"abc", "PCMU"), b"abc" + b"\xff" * (PACKET_OCTETS - 3))
        self.assertEqual(tail(bytes(161), "PCMA"), b"\0" + b"\xd5" * (PACKET_OCTETS - 1))
        self.assertEqual(tail(bytes(320), "PCMA"), b"")
