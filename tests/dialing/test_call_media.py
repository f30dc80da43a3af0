"""What a call asks of its media, and tells of it."""
# mypy: allow-untyped-calls

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from calledind.codecs import ALWAYS
from calledind.dialing.call import CallAttempt
from calledind.dialing.media_log import CallMedia
from calledind.net.media import Digit, Format, MediaStatistics
from calledind.settings import Trunk
from calledind.sip.useragent import Answered
from tests.dialing.world import AUDIO, TARGET, FakeMediaSession, World, make_call, make_trunk

ANSWER = """v=0
o=- 5 6 IN IP4 203.0.113.5
s=-
c=IN IP4 203.0.113.5
t=0 0
m=audio 6000 RTP/AVP %s
a=rtpmap:111 opus/48000/2
a=rtpmap:96 telephone-event/8000
%s"""


class CallMediaTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.told: list[tuple[Any, ...]] = []
        self.world.surroundings = replace(self.world.surroundings, media_closed=lambda *told: self.told.append(told))

    def call(self, formats: str, *lines: str, **trunk: Any) -> CallAttempt:
        """A call on such a trunk, answered with these payload types and a= lines."""
        settings: Trunk = make_trunk(**trunk)
        attempt = CallAttempt(
            make_call(),
            settings,
            len(self.world.user_agent.sessions) + 1,
            self.world.surroundings,
            ended=lambda attempt, ending: None,
            postponed=lambda attempt, detail: None,
            released=lambda attempt: None,
        )
        attempt.start()
        text = ANSWER % (formats, "".join(f"a={line}\n" for line in lines))
        self.world.session.report(Answered(text.encode(), "{}"))
        return attempt

    @property
    def media(self) -> FakeMediaSession:
        return self.world.media.sessions[-1]

    def offered(self) -> str:
        return self.world.session.invitation.offer.decode()

    def test_the_format(self) -> None:
        """The codec that the callee takes, by its number, in packets as long as it likes; keys by both numbers."""
        for formats, lines, trunk, expected in (
            ("0", (), {}, Format(Path(f"/audio/{AUDIO}.PCMU"), "PCMU", 0)),
            (
                "8 96",
                ("ptime:30",),
                {},
                Format(Path(f"/audio/{AUDIO}.PCMA"), "PCMA", 8, 30, (101, 96)),
            ),
            ("9", (), {"codecs": ("G722", "PCMU")}, Format(Path(f"/audio/{AUDIO}.G722"), "G722", 9)),
            ("111 0", (), {"codecs": ("opus", "PCMU")}, Format(Path(f"/audio/{AUDIO}.opus"), "opus", 111)),
        ):
            self.call(formats, *lines, **trunk)
            ((arguments, _),) = self.media.plays
            self.assertEqual(arguments, (expected,))

    def test_what_is_offered(self) -> None:
        """The trunk's codecs in its order, of those that the audio is encoded in, and never none."""
        self.call("8", codecs=("opus", "PCMA"))
        self.assertIn("m=audio 16384 RTP/AVP 96 8 101 102\r\n", self.offered())
        self.world.surroundings = replace(self.world.surroundings, audio_codecs=lambda name: ALWAYS)
        self.call("8", codecs=("opus", "PCMA"))
        self.assertIn("m=audio 16384 RTP/AVP 8 101\r\n", self.offered())
        self.call("8", codecs=("opus",))
        self.assertIn("m=audio 16384 RTP/AVP 0 8 101\r\n", self.offered())

    def test_nat_and_tones(self) -> None:
        """Only where the trunk says so; then media may come from the signalling's host and the SDP's."""
        self.call("0")
        named = self.media.plays[0][1]
        self.assertEqual((named["nat"], named["tones"]), ((), False))
        self.call("0", nat=True, inband_dtmf=True)
        named = self.media.plays[0][1]
        self.assertEqual((named["nat"], named["tones"]), ((TARGET[0], "203.0.113.5"), True))

    def test_the_figures(self) -> None:
        """Told when the media is closed, if any was sent."""
        attempt = self.call("9", codecs=("G722",))
        attempt.hang_up()
        self.assertEqual(self.told, [])
        attempt = self.call("9", codecs=("G722",))
        self.media.statistics = MediaStatistics(packets_sent=7)
        attempt.hang_up()
        self.assertEqual(self.told, [(attempt.call.id, CallMedia(MediaStatistics(packets_sent=7), "G722"))])

    def test_keys(self) -> None:
        """What the callee presses is told with the figures, some dozens of keys at most."""
        attempt = self.call("0")
        for digit in "1#" + 100 * "5":
            self.media.report(Digit(digit))
        self.media.statistics = MediaStatistics(packets_sent=7)
        attempt.hang_up()
        ((_, media),) = self.told
        self.assertEqual(media.digits, "1#" + 62 * "5")

    def test_the_callees_direction(self) -> None:
        """A callee that only listens is not taken for silent; one that holds the call is not played to."""
        for direction, expected in (
            ("sendrecv", (True, True)),
            ("recvonly", (True, False)),
            ("sendonly", (False, True)),
            ("inactive", (False, False)),
        ):
            self.call("0", direction)
            named = self.media.plays[0][1]
            self.assertEqual((named["sends"], named["receives"]), expected)
