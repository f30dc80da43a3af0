"""What a call asks of its media, and tells of it."""
# mypy: allow-untyped-calls

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from calledind.dialing.call import CallAttempt
from calledind.dialing.media_log import CallMedia
from calledind.net.media import Digit, Format, MediaStatistics
from calledind.sdes import Crypto, Keys
from calledind.settings.tables import Trunk
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

GCM = "AEAD_AES_128_GCM"


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

    def test_the_format(self) -> None:
        """What was agreed on is played, from the file of its codec."""
        self.call("8 96", "ptime:30")
        ((arguments, _),) = self.media.plays
        self.assertEqual(arguments, (Format(Path(f"/audio/{AUDIO}.PCMA"), "PCMA", 8, 30, (101, 96)),))

    def test_keys_of_srtp(self) -> None:
        """Those agreed on go to the media, at first and when the callee changes its own; the figures name the suite."""
        theirs = [Crypto(1, Keys.generate(GCM)) for _ in range(2)]
        attempt = self.call("0", f"crypto:{theirs[0]}", srtp="offered", srtp_suites=(GCM,))
        invitation = self.world.session.invitation
        assert invitation.renegotiate is not None
        offer = ANSWER % ("0", f"a=crypto:{theirs[1]}\n")
        self.assertIsNotNone(invitation.renegotiate(offer.encode()))
        securities = [self.media.plays[0][1]["security"], self.media.redirects[0][4]]
        self.assertEqual([each.theirs for each in securities], [each.keys for each in theirs])
        for each in securities:
            ours = str(Crypto(1, each.ours))
            self.assertIn(f"a=crypto:{ours}", invitation.offer.decode())
            self.assertNotIn(ours.partition("inline:")[2][:12], repr((invitation, attempt)))
        self.media.statistics = MediaStatistics(packets_sent=7)
        attempt.hang_up()
        self.assertEqual([media.srtp for _, media in self.told], [GCM])

    def test_nothing_is_heard_without_a_key(self) -> None:
        """Where SRTP is required and the answer has no key, nothing is played."""
        attempt = self.call("0", srtp="required")
        self.assertEqual((attempt.state, self.media.plays), ("closing", []))

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
        self.assertEqual(self.told, [(attempt.call.id, CallMedia(MediaStatistics(packets_sent=7), "G722", trunk="a"))])

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
