"""What one call and its callee agree on: codecs, descriptions and their versions, and the keys of SRTP."""
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from calledind import sdes, sdp
from calledind.codecs import ALWAYS, CODECS
from calledind.dialing.negotiation import MOST_EARLY, Negotiation
from calledind.net.media import Format
from calledind.sdes import SUITES, Crypto, Keys, Security
from calledind.sdp import SDPError
from calledind.sip.useragent import Answered, LateAnswer
from tests.dialing.world import AUDIO, make_trunk, sdp_answer

THEIRS = {crypto.keys.suite: crypto.keys for crypto in sdes.generate(SUITES)}
GCM, CM = "AEAD_AES_128_GCM", "AES_CM_128_HMAC_SHA1_80"
NO_OFFER = b""


def description(protocol: str, *keys: Crypto, direction: str = "sendrecv") -> bytes:
    """The peer's."""
    lines = "".join(f"a=crypto:{key}\n" for key in keys)
    return (
        "v=0\no=- 5 6 IN IP4 203.0.113.5\ns=-\nc=IN IP4 203.0.113.5\nt=0 0\n"
        f"m=audio 6000 {protocol} 0\n{lines}a={direction}\n"
    ).encode()


class NegotiationCase(SynchronousTestCase):
    encoded_in: Collection[str] = CODECS

    def begin(self, **trunk: Any) -> bytes:
        """Make `self.talk` for a call on such a trunk, and its offer."""
        self.talk = Negotiation(
            make_trunk(**trunk),
            AUDIO,
            audio_codecs=lambda name: self.encoded_in,
            audio_path=lambda name, codec: Path(f"/audio/{name}.{codec}"),
        )
        return self.talk.offer(("198.51.100.7", 16384))

    def hear(self, answer: bytes, early_offer: bytes = NO_OFFER) -> sdp.Agreed:
        """Read the callee's 2xx."""
        self.talk.read_answer(answer, early_offer)
        return self.agreed()

    def agreed(self) -> sdp.Agreed:
        assert self.talk.agreed is not None
        return self.talk.agreed

    def answered(self, offer: bytes) -> bytes:
        answer = self.talk.answer(offer)
        assert answer is not None
        return answer


class OfferTests(NegotiationCase):
    def test_codecs(self) -> None:
        """The trunk's codecs in its order, of those that the audio is encoded in, and never none."""
        self.assertIn(b"m=audio 16384 RTP/AVP 96 8 101 102\r\n", self.begin(codecs=("opus", "PCMA")))
        self.encoded_in = ALWAYS
        self.assertIn(b"m=audio 16384 RTP/AVP 8 101\r\n", self.begin(codecs=("opus", "PCMA")))
        self.assertIn(b"m=audio 16384 RTP/AVP 0 8 101\r\n", self.begin(codecs=("opus",)))

    def test_format(self) -> None:
        """The codec that the callee takes, by its number, in packets as long as it likes; keys by both numbers."""
        for formats, lines, trunk, expected in (
            ("0", "", {}, Format(Path(f"/audio/{AUDIO}.PCMU"), "PCMU", 0)),
            ("8 96", "a=ptime:30\n", {}, Format(Path(f"/audio/{AUDIO}.PCMA"), "PCMA", 8, 30, (101, 96))),
            ("9", "", {"codecs": ("G722", "PCMU")}, Format(Path(f"/audio/{AUDIO}.G722"), "G722", 9)),
            ("111 0", "", {"codecs": ("opus", "PCMU")}, Format(Path(f"/audio/{AUDIO}.opus"), "opus", 111)),
        ):
            self.begin(**trunk)
            numbers = "a=rtpmap:111 opus/48000/2\na=rtpmap:96 telephone-event/8000\n"
            answer = description("RTP/AVP").decode().replace("RTP/AVP 0\n", f"RTP/AVP {formats}\n{numbers}{lines}")
            self.assertEqual(self.talk.format(self.hear(answer.encode())), expected)

    def test_unusable(self) -> None:
        """An answer that nothing can be made of leaves nothing agreed on."""
        self.begin()
        self.assertRaises(SDPError, self.talk.read_answer, b"v=0\r\nnonsense", NO_OFFER)
        self.assertIsNone(self.talk.agreed)


class RenegotiationTests(NegotiationCase):
    def test_before_the_answer(self) -> None:
        """An offer that the callee makes before it picks up stands then; ours can't be asked for again so early."""
        self.begin()
        self.assertIsNone(self.talk.answer(NO_OFFER))
        early = sdp_answer(codecs=("PCMA",))
        self.assertIn(b"RTP/AVP 8", self.answered(early))
        self.assertIsNone(self.talk.agreed)
        self.assertEqual(self.hear(sdp_answer(), early).codec, "PCMA")

    def test_many_before_the_answer(self) -> None:
        """Of offers without end only what came of the last ones is known, and of none once the callee has answered."""
        self.begin()
        offers = [sdp_answer(codecs=("PCMA",)) + b"a=x:%d\r\n" % number for number in range(MOST_EARLY + 1)]
        for offer in (*offers, offers[1], offers[-1]):
            self.answered(offer)
        self.assertEqual(len(self.talk._early), MOST_EARLY)
        self.assertEqual(self.hear(sdp_answer(), offers[1]).codec, "PCMA")
        self.assertEqual(self.talk._early, {})

    def test_new_codec(self) -> None:
        """The codec in use is kept where it is offered; where it isn't another one is taken."""
        self.begin()
        self.hear(sdp_answer())
        for codecs, kept in ((("PCMA", "PCMU"), "PCMU"), (("PCMA",), "PCMA")):
            self.answered(sdp_answer(codecs=codecs))
            self.assertEqual(self.agreed().codec, kept)

    def test_at_the_peers_asking(self) -> None:
        """What we offer then has all our codecs, the one in use first; the answer in the ACK may choose another."""
        self.begin(codecs=("PCMA", "PCMU"))
        self.hear(sdp_answer())
        self.assertIn(b"RTP/AVP 0 8 101", self.answered(NO_OFFER))
        self.talk.read_late_answer(sdp_answer(codecs=("PCMA",)))
        self.assertEqual(self.agreed().codec, "PCMA")

    def test_refused(self) -> None:
        """What can't be read or agreed on changes nothing."""
        self.begin()
        before = self.hear(sdp_answer())
        for read in (self.talk.answer, self.talk.read_late_answer):
            for nonsense in (b"nonsense", sdp_answer(codecs=("opus",))):
                self.assertRaises(SDPError, read, nonsense)
                self.assertIs(self.talk.agreed, before)

    def test_versions(self) -> None:
        """The version grows by one from each description of ours to the next, whatever is refused in between."""
        descriptions = [self.begin()]
        self.hear(sdp_answer())
        descriptions.append(self.answered(sdp_answer("inactive")))
        self.assertRaises(SDPError, self.talk.answer, sdp_answer(codecs=("opus",)))
        descriptions += [self.answered(sdp_answer()), self.answered(NO_OFFER)]
        ours = [sdp.SessionDescription.parse(each) for each in descriptions]
        self.assertEqual([each.version for each in ours], [1, 2, 3, 4])
        self.assertEqual(len({each.session_id for each in ours}), 1)


class SrtpTests(NegotiationCase):
    def keys(self, description: bytes) -> list[Crypto]:
        """Those of a description of ours."""
        lines = [line.partition(":")[2] for line in description.decode().splitlines() if line.startswith("a=crypto:")]
        return [Crypto.parse(line) for line in lines]

    def security(self) -> Security:
        security = self.agreed().security
        assert security is not None
        return security

    def test_off(self) -> None:
        """Nobody is offered a key who isn't wanted to have one."""
        self.assertEqual(self.keys(self.begin()), [])
        self.assertIsNone(self.hear(description("RTP/AVP", Crypto(1, THEIRS[GCM]))).security)

    def test_required(self) -> None:
        """The offer asks for SRTP with the trunk's suites, and fresh keys for each call; both sides' are agreed on."""
        offer = self.begin(srtp="required", srtp_suites=(CM, GCM))
        self.assertIn(b"RTP/SAVP 0", offer)
        ours = self.keys(offer)
        self.assertEqual([key.keys.suite for key in ours], [CM, GCM])
        self.hear(description("RTP/SAVP", Crypto(2, THEIRS[GCM])))
        self.assertEqual(self.security(), Security(ours[1].keys, THEIRS[GCM]))
        others = self.keys(self.begin(srtp="required", srtp_suites=(CM, GCM)))
        self.assertFalse({key.keys.key for key in ours} & {key.keys.key for key in others})

    def test_required_in_vain(self) -> None:
        """An answer without a key is none."""
        self.begin(srtp="required")
        self.assertRaises(SDPError, self.hear, description("RTP/AVP"))

    def test_offered(self) -> None:
        """The offer leaves it to the callee, which may take a key or leave it."""
        offer = self.begin(srtp="offered")
        self.assertIn(b"RTP/AVP 0", offer)
        self.assertEqual([key.keys.suite for key in self.keys(offer)], list(SUITES))
        self.assertIsNone(self.hear(description("RTP/AVP")).security)
        ours = self.keys(self.begin(srtp="offered"))
        self.hear(description("RTP/AVP", Crypto(3, THEIRS[CM])))
        self.assertEqual(self.security().ours, ours[2].keys)

    def test_later_offers(self) -> None:
        """Our key stays the same through the call, so that its packets are counted on; the peer may change its own."""
        ours = self.keys(self.begin(srtp="required"))[2].keys
        self.hear(description("RTP/SAVP", Crypto(3, THEIRS[CM])))
        other = Keys.generate(CM)
        for theirs, direction, sends in ((THEIRS[CM], "inactive", False), (other, "sendrecv", True)):
            answer = self.answered(description("RTP/SAVP", Crypto(9, theirs), direction=direction))
            self.assertEqual(self.keys(answer), [Crypto(9, ours)])
            self.assertEqual((self.agreed().sends, self.security()), (sends, Security(ours, theirs)))
        self.assertRaises(SDPError, self.talk.answer, description("RTP/AVP"))

    def test_an_offer_at_the_peers_asking(self) -> None:
        """It has the keys of the first one, and the answer in the ACK chooses among them."""
        ours = self.keys(self.begin(srtp="offered"))
        self.hear(description("RTP/AVP"))
        self.assertEqual(self.keys(self.answered(NO_OFFER)), ours)
        self.talk.read_late_answer(description("RTP/AVP", Crypto(2, THEIRS[GCM])))
        self.assertEqual(self.security().ours, ours[1].keys)
        self.answered(description("RTP/AVP"))
        self.assertIsNone(self.agreed().security)

    def test_they_are_not_shown(self) -> None:
        """Nothing that a log or a traceback would write of a call has a key in it."""
        offer = self.begin(srtp="required")
        answer = description("RTP/SAVP", Crypto(2, THEIRS[GCM]))
        self.hear(answer)
        shown = repr([Answered(answer, "{}"), LateAnswer(answer), self.agreed(), self.talk, self.talk._crypto])
        for key in (*self.keys(offer), Crypto(2, THEIRS[GCM])):
            secret = str(key).partition("inline:")[2]
            self.assertNotIn(secret[:12], shown)
