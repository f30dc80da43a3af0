"""The keys of a call's media: offered as the trunk wants it, agreed, kept through the call, and never shown."""
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from calledind import sdes
from calledind.dialing.call import CallAttempt
from calledind.model import Cause, Ending
from calledind.sdes import SUITES, Crypto, Keys
from calledind.sip.useragent import Answered, LateAnswer
from tests.dialing.world import FakeMediaSession, World, make_call, make_trunk

THEIRS = {crypto.keys.suite: crypto.keys for crypto in sdes.generate(SUITES)}
GCM, CM = "AEAD_AES_128_GCM", "AES_CM_128_HMAC_SHA1_80"


def description(protocol: str, *keys: Crypto, direction: str = "sendrecv") -> bytes:
    """The peer's."""
    lines = "".join(f"a=crypto:{key}\n" for key in keys)
    return (
        "v=0\no=- 5 6 IN IP4 203.0.113.5\ns=-\nc=IN IP4 203.0.113.5\nt=0 0\n"
        f"m=audio 6000 {protocol} 0\n{lines}a={direction}\n"
    ).encode()


class CallSrtpTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.endings: list[Ending] = []

    def call(self, **trunk: Any) -> CallAttempt:
        """A call that has left."""
        attempt = CallAttempt(
            make_call(),
            make_trunk(**trunk),
            1,
            self.world.surroundings,
            ended=lambda attempt, ending: self.endings.append(ending),
            postponed=lambda attempt, detail: None,
            released=lambda attempt: None,
        )
        attempt.start()
        return attempt

    @property
    def media(self) -> FakeMediaSession:
        return self.world.media.sessions[-1]

    def keys(self, offer: bytes | None = None) -> list[Crypto]:
        """Those of our offer, or of this description of ours."""
        text = (self.world.session.invitation.offer if offer is None else offer).decode()
        lines = [line.partition(":")[2] for line in text.splitlines() if line.startswith("a=crypto:")]
        return [Crypto.parse(line) for line in lines]

    def answered(self, answer: bytes) -> None:
        self.world.session.report(Answered(answer, "{}"))

    def renegotiate(self, offer: bytes) -> bytes | None:
        renegotiate = self.world.session.invitation.renegotiate
        assert renegotiate is not None
        return renegotiate(offer)

    def test_off(self) -> None:
        """Nobody is offered a key who isn't wanted to have one."""
        self.call()
        self.assertEqual(self.keys(), [])
        self.answered(description("RTP/AVP", Crypto(1, THEIRS[GCM])))
        self.assertIsNone(self.media.plays[0][1]["security"])

    def test_required(self) -> None:
        """The offer asks for SRTP with the trunk's suites, and fresh keys for each call; the media gets both keys."""
        self.call(srtp="required", srtp_suites=(CM, GCM))
        self.assertIn(b"RTP/SAVP 0", self.world.session.invitation.offer)
        ours = self.keys()
        self.assertEqual([key.keys.suite for key in ours], [CM, GCM])
        self.answered(description("RTP/SAVP", Crypto(2, THEIRS[GCM])))
        security = self.media.plays[0][1]["security"]
        self.assertEqual((security.ours, security.theirs), (ours[1].keys, THEIRS[GCM]))
        self.call(srtp="required", srtp_suites=(CM, GCM))
        self.assertFalse({key.keys.key for key in ours} & {key.keys.key for key in self.keys()})

    def test_required_in_vain(self) -> None:
        """An answer without a key ends the call before anything is heard."""
        self.call(srtp="required")
        self.answered(description("RTP/AVP"))
        self.assertEqual([ending.cause for ending in self.endings], [Cause.UNUSABLE_SDP])
        self.assertEqual(self.media.plays, [])

    def test_offered(self) -> None:
        """The offer leaves it to the callee, which may take a key or leave it."""
        self.call(srtp="offered")
        self.assertIn(b"RTP/AVP 0", self.world.session.invitation.offer)
        self.assertEqual([key.keys.suite for key in self.keys()], list(SUITES))
        self.answered(description("RTP/AVP"))
        self.assertIsNone(self.media.plays[0][1]["security"])
        self.setUp()
        self.call(srtp="offered")
        self.answered(description("RTP/AVP", Crypto(3, THEIRS[CM])))
        self.assertEqual(self.media.plays[0][1]["security"].ours, self.keys()[2].keys)

    def test_later_offers(self) -> None:
        """Our key stays the same through the call, so that its packets are counted on; the peer may change its own."""
        self.call(srtp="required")
        self.answered(description("RTP/SAVP", Crypto(3, THEIRS[CM])))
        ours = self.keys()[2].keys
        other = Keys.generate(CM)
        for theirs, direction, sends in ((THEIRS[CM], "inactive", False), (other, "sendrecv", True)):
            answer = self.renegotiate(description("RTP/SAVP", Crypto(9, theirs), direction=direction))
            self.assertEqual(self.keys(answer), [Crypto(9, ours)])
            _, _, now_sends, changed, security, _ = self.media.redirects[-1]
            self.assertEqual((now_sends, changed), (sends, None))
            self.assertEqual((security.ours, security.theirs), (ours, theirs))
        self.assertIsNone(self.renegotiate(description("RTP/AVP")))
        self.assertEqual(len(self.media.redirects), 2)

    def test_an_offer_at_the_peers_asking(self) -> None:
        """It has the keys of the first one, and the answer in the ACK chooses among them."""
        self.call(srtp="offered")
        ours = self.keys()
        self.answered(description("RTP/AVP"))
        self.assertEqual(self.keys(self.renegotiate(b"")), ours)
        self.world.session.report(LateAnswer(description("RTP/AVP", Crypto(2, THEIRS[GCM]))))
        self.assertEqual(self.media.redirects[-1][4].ours, ours[1].keys)
        self.assertIsNotNone(self.renegotiate(description("RTP/AVP")))
        self.assertIsNone(self.media.redirects[-1][4])

    def test_an_answer_on_hold(self) -> None:
        """A call that begins on hold has its keys already."""
        self.call(srtp="required")
        self.answered(description("RTP/SAVP", Crypto(2, THEIRS[GCM]), direction="sendonly"))
        named = self.media.plays[0][1]
        self.assertEqual((named["sends"], named["security"].ours), (False, self.keys()[1].keys))

    def test_they_are_not_shown(self) -> None:
        """Nothing that a log or a traceback would write of a call has a key in it."""
        call = self.call(srtp="required")
        answer = description("RTP/SAVP", Crypto(2, THEIRS[GCM]))
        self.answered(answer)
        shown = repr(
            [self.world.session.invitation, Answered(answer, "{}"), LateAnswer(answer), call._agreed, call._crypto]
        )
        for key in (*self.keys(), Crypto(2, THEIRS[GCM])):
            secret = str(key).partition("inline:")[2]
            self.assertNotIn(secret[:12], shown)
