"""How a file is laid out in packets."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.rtp.packetizer import PACKET_OCTETS, Plan, Run, Source, packets_of, runs


def octets(count: int, lead_in: float, lead_out: float, *, start: float = 0.0, ptime: int = 20) -> tuple[Run, ...]:
    """Lay out so many octets of G.711."""
    return runs(Plan(lead_in, lead_out, start), units=count, per_second=8000.0, packet_seconds=ptime / 1000)


class RunsTests(SynchronousTestCase):
    """`runs`."""

    def test_a_whole_stream(self) -> None:
        """Lead-in, audio, filled-up tail, lead-out; the first packet alone, with the marker."""
        self.assertEqual(
            octets(500, 0.1, 0.04),
            (
                Run(Source.SILENCE, 1, marker=True),
                Run(Source.SILENCE, 4, first=160),
                Run(Source.AUDIO, 3),
                Run(Source.TAIL, 1, first=480),
                Run(Source.SILENCE, 2),
            ),
        )

    def test_audio_alone(self) -> None:
        """Without a lead-in the audio's first packet has the marker, and the next run goes on after it."""
        self.assertEqual(octets(480, 0, 0), (Run(Source.AUDIO, 1, marker=True), Run(Source.AUDIO, 2, first=160)))

    def test_less_than_a_packet(self) -> None:
        """A file of a few octets is one packet."""
        self.assertEqual(octets(7, 0, 0), (Run(Source.TAIL, 1, marker=True),))

    def test_nothing(self) -> None:
        """No audio and no silence is no stream."""
        self.assertEqual(octets(0, 0, 0), ())

    def test_longer_packets(self) -> None:
        """Packets of 30 ms have 240 octets."""
        self.assertEqual(
            octets(500, 0, 0.03, ptime=30),
            (
                Run(Source.AUDIO, 1, marker=True),
                Run(Source.AUDIO, 1, first=240),
                Run(Source.TAIL, 1, first=480),
                Run(Source.SILENCE, 1),
            ),
        )

    def test_packets_made_beforehand(self) -> None:
        """Where the units are packets there is one in each, and never a tail."""
        self.assertEqual(
            runs(Plan(0, 0, 0.04), units=10, per_second=50.0, marker=False), (Run(Source.AUDIO, 8, first=2),)
        )

    @settings(deadline=None, derandomize=True)
    @given(st.integers(0, 3 * 1440000), st.floats(0, 10), st.floats(0, 10), st.sampled_from([10, 20, 30, 40]))
    def test_nothing_is_left_out(self, count: int, lead_in: float, lead_out: float, ptime: int) -> None:
        """The runs last as long as the file and the silences together, to the packet; one marker, at the front."""
        laid_out = octets(count, lead_in, lead_out, ptime=ptime)
        expected = sum(packets_of(seconds, ptime / 1000) for seconds in (count / 8000, lead_in, lead_out))
        self.assertEqual(sum(run.packets for run in laid_out), expected)
        self.assertEqual([run.marker for run in laid_out], [index == 0 for index in range(len(laid_out))])


class PlanTests(SynchronousTestCase):
    """What is left of a stream."""

    def test_the_rest(self) -> None:
        """In the lead-in, in the audio, at its very end and in the lead-out."""
        plan = Plan(0.1, 0.1, start=1.0)
        self.assertEqual(
            [plan.after(packets, 0.02, 1.05) for packets in (0, 2, 5, 6, 8, 10, 99)],
            [
                Plan(0.1, 0.1, 1.0),
                Plan(0.06, 0.1, 1.0),
                Plan(0.0, 0.1, 1.0),
                Plan(0.0, 0.1, 1.02),
                Plan(0.0, 0.1, 1.05),
                Plan(0.0, 0.06, 1.05),
                Plan(0.0, 0.0, 1.05),
            ],
        )

    @settings(deadline=None, derandomize=True)
    @given(st.integers(0, 20000), st.integers(0, 10), st.integers(0, 10), st.integers(0, 160))
    def test_going_on_in_packets_of_the_same_kind_leaves_nothing_out(
        self, count: int, lead_in: int, lead_out: int, sent: int
    ) -> None:
        """What was sent and what is left are the whole, wherever the stream was cut."""
        plan, duration = Plan(lead_in * 0.02, lead_out * 0.02), count / 8000
        whole = sum(run.packets for run in octets(count, plan.lead_in, plan.lead_out))
        sent = min(sent, whole)
        rest = plan.after(sent, 0.02, duration)
        left = runs(rest, units=count, per_second=8000.0, marker=False)
        self.assertEqual(sent + sum(run.packets for run in left), whole)
        for run in left:
            if run.source is Source.AUDIO:
                self.assertEqual(run.first, max(sent - lead_in, 0) * PACKET_OCTETS)
