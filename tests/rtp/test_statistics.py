"""Counting what is received, one stream at a time and thousands at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.rtp.statistics import Figures, Receptions
from tests.rtp.reception import Reception

Arrived = tuple[int, int, int, int, int, bool]
"Row, SSRC, sequence, timestamp, arrival, timed."


class OneStream:
    """One row of the arrays, and one packet at a time."""

    def __init__(self) -> None:
        self._many = Receptions()
        self._many.clear(0)

    def received(self, ssrc: int, sequence: int, timestamp: int, arrival: int, *, timed: bool = True) -> None:
        packet = [[0, ssrc, sequence, timestamp, arrival, int(timed)]]
        self._many.received(*np.array(packet, np.int64).T)

    @property
    def figures(self) -> Figures:
        return self._many.figures(0)


def counted(sequences: list[int]) -> Figures:
    """Return the figures of packets with these sequence numbers, evenly paced."""
    reception = OneStream()
    for index, sequence in enumerate(sequences):
        reception.received(7, sequence & 0xFFFF, index * 160, index * 160)
    return reception.figures


class RulesTests(SynchronousTestCase):
    """The rules of RFC 3550 appendix A."""

    def test_nothing_yet(self) -> None:
        """Without a packet all is zero."""
        self.assertEqual(OneStream().figures, Figures())

    def test_in_order_over_a_wrap(self) -> None:
        """Numbers that wrap are no loss, and the highest is extended."""
        figures = counted(list(range(65_530, 65_550)))
        self.assertEqual((figures.received, figures.lost, figures.highest_sequence), (20, 0, 65_549))

    def test_loss(self) -> None:
        """What is missing is lost, until it turns up late."""
        self.assertEqual(counted([1, 2, 5]).lost, 2)
        self.assertEqual(counted([1, 2, 5, 4, 3]).lost, 0)

    def test_repeats_are_not_negative_loss(self) -> None:
        """Packets that came twice count as received; loss stays at zero."""
        figures = counted([1, 1, 2, 2])
        self.assertEqual((figures.received, figures.lost), (4, 0))

    def test_a_single_wild_number_is_left_out(self) -> None:
        """One far jump is ignored, two in a row are a new beginning, and the totals stay."""
        self.assertEqual(counted([1, 2, 30_000, 3]).received, 3)
        figures = counted([1, 2, 4, 30_000, 30_001, 30_002])
        self.assertEqual((figures.received, figures.lost), (5, 1))

    def test_another_source_is_a_new_beginning(self) -> None:
        """A new SSRC has numbers of its own; the totals go on."""
        reception = OneStream()
        for ssrc, sequence in ((1, 10), (1, 12), (2, 50_000), (2, 50_001)):
            reception.received(ssrc, sequence, 0, 0)
        self.assertEqual((reception.figures.received, reception.figures.lost, reception.figures.ssrc), (4, 1, 2))

    def test_jitter_of_the_standard(self) -> None:
        """The estimate moves a sixteenth of the way to each difference (appendix A.8)."""
        reception = OneStream()
        reception.received(1, 0, 0, 1000)
        reception.received(1, 1, 160, 1240)
        self.assertAlmostEqual(reception.figures.jitter, 80 / 16 / 8000)
        reception.received(1, 2, 320, 1320)
        self.assertAlmostEqual(reception.figures.jitter, (5 + (80 - 5) / 16) / 8000)

    def test_pauses_and_events_are_no_jitter(self) -> None:
        """A gap of more than a second, and packets without a timestamp of their own, leave the jitter as it was."""
        reception = OneStream()
        reception.received(1, 0, 0, 0)
        reception.received(1, 1, 160, 80_000)
        reception.received(1, 2, 160, 80_160, timed=False)
        self.assertEqual(reception.figures.jitter, 0.0)


PACKETS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from([1, 1, 1, 2]),
        st.one_of(st.integers(65_400, 65_535), st.integers(0, 200), st.integers(0, 65_535)),
        st.one_of(st.integers(0, 4000), st.integers(0, 0xFFFFFFFF)),
        st.integers(0, 1 << 45),
        st.booleans(),
    ),
    max_size=60,
)


class ReceptionsTests(SynchronousTestCase):
    """The arrays."""

    @settings(deadline=None, derandomize=True)
    @given(st.lists(PACKETS, max_size=5))
    def test_the_same_as_one_by_one(self, batches: list[list[Arrived]]) -> None:
        """Whatever comes, in whatever batches, each stream's figures are those of `Reception`."""
        many = Receptions()
        single = [Reception() for _ in range(4)]
        for row in range(4):
            many.clear(row)
        for batch in batches:
            many.received(*np.array(batch, np.int64).reshape(-1, 6).T)
            for row, ssrc, sequence, timestamp, arrival, timed in batch:
                single[row].received(ssrc, sequence, timestamp, arrival, timed=timed)
        for row in range(4):
            self.assertEqual(many.figures(row), single[row].figures)

    def test_a_row_begins_anew(self) -> None:
        """A row that is cleared has nothing of the stream before, and other rows keep theirs when arrays grow."""
        many = Receptions()
        many.clear(0)
        one = np.array([0], np.int64)
        many.received(one, one + 9, one + 5, one, one, one)
        many.clear(100)
        self.assertEqual(many.figures(0).received, 1)
        many.clear(0)
        self.assertEqual(many.figures(0), Figures())
