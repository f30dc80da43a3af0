"""What is kept and logged of how calls' media went."""
# mypy: allow-untyped-calls

from __future__ import annotations

from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from calledind.dialing import media_log
from calledind.dialing.media_log import CallMedia, MediaLog
from calledind.net.media import MediaStatistics

GOOD = MediaStatistics(
    packets_sent=500,
    octets_sent=80000,
    packets_received=480,
    packets_lost=2,
    jitter=0.0021,
    round_trip=0.0304,
    packets_lost_by_peer=1,
    jitter_by_peer=0.001,
    mos=4.3,
)


class MediaLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.kept = MediaLog()
        self.lines: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            self.lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def test_a_call(self) -> None:
        """One line without the keys that were pressed, and all by the call's id."""
        self.kept.take("c1", CallMedia(GOOD, "G722", "AEAD_AES_256_GCM", "12#"))
        self.assertEqual(
            self.lines,
            [
                "call c1: G722, AEAD_AES_256_GCM, 500 packets sent, 1 lost on the way there, 480 received, "
                "2 lost on the way here, jitter 2.1 ms, round trip 30.4 ms, MOS 4.3, 3 keys pressed"
            ],
        )
        shown = self.kept.show("c1")
        assert shown is not None
        self.assertEqual((shown["codec"], shown["packets_sent"], shown["mos"]), ("G722", 500, 4.3))
        self.assertEqual((shown["srtp"], shown["digits"]), ("AEAD_AES_256_GCM", "12#"))
        self.assertEqual(shown["course"], [])
        self.assertIsNone(self.kept.show("c2"))

    def test_a_callee_that_sends_nothing(self) -> None:
        """What is not known is not made up."""
        self.kept.take("c1", CallMedia(MediaStatistics(packets_sent=3), "PCMU"))
        self.assertEqual(
            self.lines,
            [
                "call c1: PCMU, 3 packets sent, - lost on the way there, 0 received, 0 lost on the way here, "
                "jitter - ms, round trip - ms, MOS -, 0 keys pressed"
            ],
        )

    def test_bounded(self) -> None:
        """The oldest go; one that comes again is the youngest."""
        self.patch(media_log, "MOST_CALLS", 2)
        for call_id in ("a", "b", "a", "c"):
            self.kept.take(call_id, CallMedia(GOOD, "PCMU"))
        self.assertEqual([self.kept.show(call_id) is None for call_id in "abc"], [False, True, False])
