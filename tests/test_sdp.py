"""Session descriptions, and what two of them agree on."""

from __future__ import annotations

import os
import random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind import sdes, sdp
from calledind.description import DIRECTIONS, LONGEST, MOST_LINES
from calledind.sdes import Crypto, Security
from calledind.sdp import Agreed, Codec, SDPError, SessionDescription

OFFER_OF_A_TIME = b"""v=0
o=- 5 6 IN IP4 203.0.113.5
s=-
c=IN IP4 203.0.113.5
t=3034423619 3042462419
m=audio 6000 RTP/AVP 0
"""
OURS = sdp.offer(address="192.0.2.1", port=4000, session_id=11, version=1)

FULL = (
    b"v=0\r\n"
    b"o=jo 2890844526 2890842807 IN IP4 198.51.100.1\r\n"
    b"s=Call\r\n"
    b"i=A call\r\n"
    b"u=http://example.com/\r\n"
    b"e=jo@example.com\r\n"
    b"p=+1 212 555 0100\r\n"
    b"c=IN IP4 198.51.100.9/127\r\n"
    b"b=AS:64\r\n"
    b"t=0 0\r\n"
    b"r=7d 1h 0 25h\r\n"
    b"a=recvonly\r\n"
    b"m=audio 49170/2 RTP/AVP 8 96 101\r\n"
    b"i=The audio\r\n"
    b"c=IN IP6 2001:db8::9\r\n"
    b"b=AS:32\r\n"
    b"a=rtpmap:96 opus/48000/2\r\n"
    b"a=rtpmap:101 telephone-event/8000\r\n"
    b"a=fmtp:101 0-15\r\n"
    b"a=ptime:30\r\n"
    b"m=video 51372 RTP/AVP 31\r\n"
    b"a=sendonly\r\n"
)


def described(*media: str, session: tuple[str, ...] = ("c=IN IP4 203.0.113.5",)) -> SessionDescription:
    """The peer's description: lines of the session, then lines of its media."""
    lines = ["v=0", "o=- 5 6 IN IP4 203.0.113.5", "s=-", *session, "t=0 0", *media, ""]
    return SessionDescription.parse("\r\n".join(lines).encode())


class ReadingTests(SynchronousTestCase):
    def test_the_parts(self) -> None:
        """Every line is found where it belongs."""
        description = SessionDescription.parse(FULL)
        self.assertEqual((description.session_id, description.version), (2890844526, 2890842807))
        self.assertEqual((description.username, description.origin, description.name), ("jo", "198.51.100.1", "Call"))
        self.assertEqual((description.address, description.timing), ("198.51.100.9", ("0 0",)))
        audio, video = description.media
        self.assertEqual((audio.kind, audio.port, audio.ports, audio.protocol), ("audio", 49170, 2, "RTP/AVP"))
        self.assertEqual(audio.formats, ("8", "96", "101"))
        self.assertEqual(
            audio.codecs,
            (Codec(8, "PCMA", 8000), Codec(96, "OPUS", 48000, 2), Codec(101, "TELEPHONE-EVENT", 8000, 1, "0-15")),
        )
        self.assertEqual((audio.ptime, video.ptime), (30, 20))
        self.assertEqual([description.connection(media) for media in (audio, video)], ["2001:db8::9", "198.51.100.9"])
        self.assertEqual([description.direction(media) for media in (audio, video)], ["recvonly", "sendonly"])
        self.assertEqual((audio.direction, audio.attribute("ptime"), audio.attribute("x")), (None, "30", None))
        self.assertEqual(video.attribute("sendonly"), "")

    def test_it_is_written_as_it_was_read(self) -> None:
        """But for the TTL of the c= line."""
        self.assertEqual(bytes(SessionDescription.parse(FULL)), FULL.replace(b"/127", b""))

    def test_careless_writers_are_understood(self) -> None:
        """Other line ends, octets behind the end, odd o= lines, Latin-1, unknown lines, kinds in any case."""
        for data in (
            FULL.replace(b"\r\n", b"\n"),
            FULL.replace(b"\r\n", b"\r"),
            FULL + b"\r\n\r\n\0",
            FULL.rstrip(),
            FULL.replace(b"v=0", b"v=0 "),
            FULL.replace(b"m=audio", b"m=AUDIO").replace(b"170/2 RTP/AVP", b"170/2 rtp/avp"),
            FULL.replace(b"a=recvonly", b"x=what\r\na=recvonly"),
        ):
            self.assertEqual(SessionDescription.parse(data), SessionDescription.parse(FULL))
        odd = SessionDescription.parse(FULL.replace(b"o=jo 2890844526", b"o=jo the caller x"))
        self.assertEqual((odd.username, odd.session_id, odd.version), ("jo", 0, 2890842807))
        self.assertEqual(SessionDescription.parse(FULL.replace(b"s=Call", b"s=Anr\xfcf")).name, "Anrüf")
        self.assertEqual(SessionDescription.parse(FULL.replace(b"s=Call", b"s= ")).name, "-")
        self.assertEqual(SessionDescription.parse(b"v=0\no=- 1 1 IN IP4 x").timing, ("0 0",))

    def test_what_cannot_be_read(self) -> None:
        """The wrong beginning, no origin, lines that are none, ports that aren't, other networks, sizes."""
        for data in (
            *(b"", b"v=1\r\n", b"\r\nv=0", b"hello", b"v=0\r\ns=-\r\n", b"v=0\r\no=- 1 1\r\n", FULL + b"hello\r\n"),
            FULL.replace(b"s=Call", b""),
            FULL.replace(b"49170/2", b"65536"),
            FULL.replace(b"49170/2", b"-1"),
            FULL.replace(b"49170/2", b"49170/0"),
            FULL.replace(b"49170/2", b"49170/"),
            FULL.replace(b" 8 96 101", b""),
            FULL.replace(b"c=IN IP6", b"c=ATM NSAP"),
            FULL.replace(b"c=IN IP6 2001:db8::9", b"c=IN IP6"),
            FULL.replace(b"c=IN IP6 2001:db8::9", b"c=IN IP6 /127"),
            FULL + b"a=x\r\n" * MOST_LINES,
            FULL + b"a=" + b"x" * LONGEST,
        ):
            self.assertRaises(SDPError, SessionDescription.parse, data)

    def test_codecs_that_make_no_sense_are_left_out(self) -> None:
        """A broken a=rtpmap loses one payload type, not the call."""
        (media,) = described(
            "m=audio 4000 RTP/AVP 0 96 97 98 99 100 102 128 x 0 18",
            *("a=rtpmap:96 PCMU", "a=rtpmap:97 PCMU/x", "a=rtpmap:98 /8000", "a=rtpmap:99 PCMU/0", "a=rtpmap:100"),
            *("a=rtpmap:128 PCMU/8000", "a=rtpmap:x PCMU/8000", "a=rtpmap:102 PCMU/8000/1/1", "a=rtpmap"),
        ).media
        self.assertEqual([codec.name for codec in media.codecs], ["PCMU", "G729"])

    def test_ptime(self) -> None:
        """What is no sensible number of milliseconds is 20."""
        for text, ptime in (("10", 10), ("0", 20), ("20.0", 20), ("99999", 20), ("", 20)):
            (media,) = described("m=audio 4000 RTP/AVP 0", f"a=ptime:{text}").media
            self.assertEqual(media.ptime, ptime)


class OfferTests(SynchronousTestCase):
    def test_our_offer(self) -> None:
        """As it goes out."""
        self.assertEqual(
            bytes(OURS),
            b"v=0\r\no=calledin 11 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
            b"m=audio 4000 RTP/AVP 0 8 101\r\n"
            b"a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\n"
            b"a=ptime:20\r\na=sendrecv\r\n",
        )

    def test_what_may_be_chosen(self) -> None:
        """Codecs in their order, direction, address family, no keys."""
        ours = sdp.offer(
            address="2001:db8::1",
            port=4000,
            codecs=("PCMA",),
            session_id=1,
            version=2,
            direction="sendonly",
            telephone_event=None,
            ptime=40,
        )
        self.assertIn("c=IN IP6 2001:db8::1\r\n", str(ours))
        (media,) = ours.media
        self.assertEqual((media.formats, media.direction, media.ptime), (("8",), "sendonly", 40))


class AgreeTests(SynchronousTestCase):
    def agreed(self, *media: str, offer: SessionDescription = OURS, **session: tuple[str, ...]) -> Agreed:
        """What the peer's answer to our offer comes to."""
        return sdp.agree(offer, described(*media, **session))

    def test_a_usual_answer(self) -> None:
        """The codec, where to send it, and that both sides do."""
        agreed = self.agreed("m=audio 6000 RTP/AVP 8 101", "a=rtpmap:101 telephone-event/8000")
        self.assertEqual(
            agreed,
            Agreed(
                "PCMA",
                8,
                ("203.0.113.5", 6000),
                ("203.0.113.5", 6001),
                101,
                20,
                sends=True,
                receives=True,
                events=(101,),
            ),
        )

    def test_the_first_of_several_codecs(self) -> None:
        """The peer's order counts; without a=rtpmap the numbers speak for themselves."""
        self.assertEqual(self.agreed("m=audio 6000 RTP/AVP 8 0").codec, "PCMA")
        self.assertEqual(self.agreed("m=audio 6000 RTP/AVP 0 8").codec, "PCMU")

    def test_the_receivers_numbers_are_used(self) -> None:
        """A codec is known by its name; our packets carry the number that the peer gave it."""
        agreed = self.agreed(
            "m=audio 6000 RTP/AVP 96 97", "a=rtpmap:96 pcmu/8000/1", "a=rtpmap:97 Telephone-Event/8000"
        )
        self.assertEqual((agreed.codec, agreed.payload_type, agreed.telephone_event), ("PCMU", 96, 97))

    def test_keys_only_where_both_want_them(self) -> None:
        """None where the peer, or we, don't have telephone-event; other clock rates don't count."""
        self.assertIsNone(self.agreed("m=audio 6000 RTP/AVP 0").telephone_event)
        without = sdp.offer(address="192.0.2.1", port=4000, session_id=1, version=1, telephone_event=None)
        events = ("m=audio 6000 RTP/AVP 0 101", "a=rtpmap:101 telephone-event/8000")
        self.assertIsNone(self.agreed(*events, offer=without).telephone_event)
        self.assertIsNone(self.agreed(events[0], "a=rtpmap:101 telephone-event/48000").telephone_event)

    def test_codecs_that_we_did_not_offer_are_passed_over(self) -> None:
        """Also where they come first, and also ours where this offer lacked them."""
        self.assertEqual(self.agreed("m=audio 6000 RTP/AVP 9 18 0").codec, "PCMU")
        only_a = sdp.offer(address="192.0.2.1", port=4000, codecs=("PCMA",), session_id=1, version=1)
        self.assertEqual(self.agreed("m=audio 6000 RTP/AVP 0 8", offer=only_a).codec, "PCMA")

    def test_addresses(self) -> None:
        """The media's c= counts before the session's; IPv6 is brought to its usual writing."""
        media = ("m=audio 6000 RTP/AVP 0", "c=IN IP4 203.0.113.77")
        self.assertEqual(self.agreed(*media).remote, ("203.0.113.77", 6000))
        self.assertEqual(self.agreed(*media, session=()).remote, ("203.0.113.77", 6000))
        self.assertEqual(self.agreed(media[0], "c=IN IP6 2001:DB8:0::1").remote, ("2001:db8::1", 6000))

    def test_where_rtcp_goes(self) -> None:
        """To the next port, or where a=rtcp says; what is wrong with that is passed over."""
        for line, rtcp in (
            ("a=x", ("203.0.113.5", 6001)),
            ("a=rtcp:7000", ("203.0.113.5", 7000)),
            ("a=rtcp:7000 IN IP4 203.0.113.6", ("203.0.113.6", 7000)),
            ("a=rtcp:7000 IN IP4 host.example.com", ("203.0.113.5", 7000)),
            ("a=rtcp:0", ("203.0.113.5", 6001)),
            ("a=rtcp:x", ("203.0.113.5", 6001)),
            ("a=rtcp", ("203.0.113.5", 6001)),
        ):
            self.assertEqual(self.agreed("m=audio 6000 RTP/AVP 0", line).remote_rtcp, rtcp)
        self.assertEqual(self.agreed("m=audio 65535 RTP/AVP 0").remote_rtcp, ("203.0.113.5", 65535))

    def test_directions(self) -> None:
        """Each side does what it wants to and the other lets it; the peer speaks from its own side."""
        for ours, theirs, sends, receives in (
            ("sendrecv", "sendrecv", True, True),
            ("sendrecv", "recvonly", True, False),
            ("sendrecv", "sendonly", False, True),
            ("sendrecv", "inactive", False, False),
            ("sendonly", "recvonly", True, False),
            ("sendonly", "sendrecv", True, False),
            ("recvonly", "sendrecv", False, True),
            ("inactive", "sendrecv", False, False),
        ):
            offer = sdp.offer(address="192.0.2.1", port=4000, session_id=1, version=1, direction=ours)
            for lines, session in (
                (("m=audio 6000 RTP/AVP 0", f"a={theirs}"), ("c=IN IP4 203.0.113.5",)),
                (("m=audio 6000 RTP/AVP 0",), ("c=IN IP4 203.0.113.5", f"a={theirs}")),
            ):
                agreed = self.agreed(*lines, offer=offer, session=session)
                self.assertEqual((agreed.sends, agreed.receives), (sends, receives), (ours, theirs))

    def test_odd_but_clear(self) -> None:
        """What is wrong beside the point costs no call: a static number without its rate, a refused line's address."""
        clear = ("m=audio 6000 RTP/AVP 0",)
        for media in (
            (*clear, "a=rtpmap:0 PCMU"),
            (*clear, "m=video 0 RTP/AVP 31", "c=ATM NSAP 47.0091"),
        ):
            self.assertEqual(self.agreed(*media), self.agreed(*clear))

    def test_the_old_way_to_hold(self) -> None:
        """c=0.0.0.0 and c=:: mean that nothing is to be sent."""
        for address in ("IP4 0.0.0.0", "IP6 ::"):
            agreed = self.agreed("m=audio 6000 RTP/AVP 0", f"c=IN {address}", "a=rtcp:6005")
            self.assertEqual((agreed.sends, agreed.receives, agreed.remote_rtcp[1]), (False, True, 0))

    def test_media_are_known_by_their_place(self) -> None:
        """The answer's second m= answers the offer's second."""
        offer = described(
            "m=video 5000 RTP/AVP 31", "m=audio 0 RTP/AVP 0", "m=audio 4000 RTP/AVP 0", "m=audio 4002 RTP/AVP 8"
        )
        answer = described(
            *("m=video 0 RTP/AVP 31", "m=audio 0 RTP/AVP 0", "m=audio 6000 RTP/AVP 0", "m=audio 6002 RTP/AVP 8")
        )
        self.assertEqual(sdp.agree(offer, answer).remote[1], 6000)

    def test_answers_that_no_call_can_be_made_of(self) -> None:
        """Refused, missing, another kind or protocol, no codec in common, no address or one that can't be used."""
        for media, session in (
            (("m=audio 0 RTP/AVP 0",), None),
            ((), None),
            (("m=video 6000 RTP/AVP 0",), None),
            (("m=audio 6000 RTP/SAVP 0",), None),
            (("m=audio 6000 RTP/AVP 18 101", "a=rtpmap:101 telephone-event/8000"), None),
            (("m=audio 6000 RTP/AVP 96", "a=rtpmap:96 PCMU/16000"), None),
            (("m=audio 6000 RTP/AVP 0",), ()),
            (("m=audio 6000 RTP/AVP 0",), ("c=IN IP4 media.example.com",)),
            (("m=audio 6000 RTP/AVP 0",), ("c=IN IP4 224.2.1.1/127",)),
            (("m=audio 6000 RTP/AVP 0",), ("c=IN IP4 255.255.255.255",)),
            (("m=audio 6000 RTP/AVP 0",), ("c=IN IP6 fe80::1%eth0",)),
        ):
            answer = described(*media) if session is None else described(*media, session=session)
            self.assertRaises(SDPError, sdp.agree, OURS, answer)
        self.assertRaises(SDPError, sdp.agree, described("m=video 1 RTP/AVP 31"), described("m=video 1 RTP/AVP 31"))


class AnswerTests(SynchronousTestCase):
    def answer(
        self, *media: str, codecs: tuple[str, ...] = ("PCMU", "PCMA"), telephone_event: int | None = 101
    ) -> tuple[SessionDescription, Agreed]:
        """Our answer to the peer's offer."""
        return sdp.answer(
            described(*media),
            address="192.0.2.1",
            port=4000,
            codecs=codecs,
            session_id=11,
            version=2,
            telephone_event=telephone_event,
        )

    def test_our_answer_to_our_own_offer(self) -> None:
        """Both sides agree on the same, each with the other's address."""
        theirs, peer = sdp.answer(OURS, address="203.0.113.5", port=6000, session_id=3, version=1)
        ours = sdp.agree(OURS, theirs)
        self.assertEqual((peer.remote, ours.remote), (("192.0.2.1", 4000), ("203.0.113.5", 6000)))
        self.assertEqual((peer.codec, peer.telephone_event, peer.sends, peer.receives), ("PCMU", 101, True, True))
        self.assertEqual((ours.codec, ours.telephone_event, ours.sends, ours.receives), ("PCMU", 101, True, True))

    def test_the_peers_order_and_numbers_are_kept(self) -> None:
        """One codec and the keys, by the numbers of the offer."""
        answer, agreed = self.answer(
            *("m=audio 6000 RTP/AVP 18 97 0 96", "a=rtpmap:97 PCMA/8000", "a=rtpmap:96 telephone-event/8000")
        )
        (media,) = answer.media
        self.assertEqual((media.formats, media.port), (("97", "96"), 4000))
        self.assertEqual((agreed.codec, agreed.payload_type, agreed.telephone_event), ("PCMA", 97, 96))
        self.assertEqual((answer.session_id, answer.version, answer.address), (11, 2, "192.0.2.1"))

    def test_its_time_is_the_offers(self) -> None:
        """The t= line is repeated, whatever stands there (RFC 3264 §6)."""
        offer = SessionDescription.parse(OFFER_OF_A_TIME)
        answer, _ = sdp.answer(offer, address="192.0.2.1", port=4000, session_id=11, version=2)
        self.assertIn(b"\r\nt=3034423619 3042462419\r\nm=", bytes(answer))

    def test_only_what_we_want(self) -> None:
        """Codecs as given, and no keys where none are wanted."""
        events = ("m=audio 6000 RTP/AVP 0 8 101", "a=rtpmap:101 telephone-event/8000")
        answer, agreed = self.answer(*events, codecs=("PCMA",), telephone_event=None)
        self.assertEqual((answer.media[0].formats, agreed.telephone_event), (("8",), None))

    def test_hold_is_mirrored(self) -> None:
        """What the peer doesn't take we don't send, and the answer says so."""
        for line, direction, sends, receives in (
            ("a=sendrecv", "sendrecv", True, True),
            ("a=sendonly", "recvonly", False, True),
            ("a=recvonly", "sendonly", True, False),
            ("a=inactive", "inactive", False, False),
            ("c=IN IP4 0.0.0.0", "recvonly", False, True),
        ):
            answer, agreed = self.answer("m=audio 6000 RTP/AVP 0", line)
            self.assertEqual(answer.media[0].direction, direction)
            self.assertEqual((agreed.sends, agreed.receives), (sends, receives))

    def test_other_media_are_refused_in_their_places(self) -> None:
        """Each m= has its answer; only the first audio that we can use is taken."""
        answer, agreed = self.answer(
            *("m=video 5000 RTP/AVP 31", "m=audio 5002 RTP/SAVP 0", "m=audio 5004 RTP/AVP 18", "m=audio 0 RTP/AVP 0"),
            *("m=audio 5006 RTP/AVPF 0", "m=audio 5008 RTP/AVP 0", "m=image 5010 udptl t38", "m=text 0 RTP/AVP"),
        )
        self.assertEqual([media.port for media in answer.media], [0, 0, 0, 0, 4000, 0, 0, 0])
        self.assertEqual([media.kind for media in answer.media], ["video"] + ["audio"] * 5 + ["image", "text"])
        self.assertTrue(bytes(answer).endswith(b"\r\nm=text 0 RTP/AVP 0\r\n"))
        self.assertEqual((answer.media[4].protocol, agreed.remote[1]), ("RTP/AVPF", 5006))
        self.assertEqual(answer.media[6].protocol, "udptl")

    def test_offers_that_cannot_be_answered(self) -> None:
        """No audio, no codec in common, an address that can't be used."""
        for media in (
            (),
            ("m=video 5000 RTP/AVP 31",),
            ("m=audio 5000 RTP/AVP 18",),
            ("m=audio 5000 RTP/AVP 0", "c=IN IP4 media.example.com"),
        ):
            self.assertRaises(SDPError, self.answer, *media)


port = st.integers(1, 65535)
address = st.sampled_from(["192.0.2.1", "2001:db8::1"])
names = st.permutations(["PCMU", "PCMA"]).flatmap(lambda both: st.sampled_from([both, both[:1]]))


class RoundTripTests(SynchronousTestCase):
    @settings(deadline=None, derandomize=True)
    @given(address, port, names, st.sampled_from(DIRECTIONS), st.none() | st.integers(96, 127), address, port)
    def test_offers_and_answers(
        self, ours: str, at: int, codecs: list[str], direction: str, event: int | None, theirs: str, to: int
    ) -> None:
        """Written and read they are the same, and both sides come to the same agreement."""
        offer = sdp.offer(
            address=ours, port=at, codecs=codecs, session_id=1, version=1, direction=direction, telephone_event=event
        )
        self.assertEqual(SessionDescription.parse(bytes(offer)), offer)
        answer, callee = sdp.answer(offer, address=theirs, port=to, session_id=2, version=1)
        self.assertEqual(SessionDescription.parse(bytes(answer)), answer)
        caller = sdp.agree(offer, answer)
        self.assertEqual((caller.remote, callee.remote), ((theirs, to), (ours, at)))
        self.assertEqual((caller.codec, caller.codec), (codecs[0], callee.codec))
        self.assertEqual((caller.sends, caller.receives), (callee.receives, callee.sends))
        self.assertEqual(caller.telephone_event, event)


class FuzzTests(SynchronousTestCase):
    """CALLEDIN_FUZZ sets how many mutations are tried (2,000); the same seed makes the same ones."""

    def test_nothing_but_sdp_error_comes_out(self) -> None:
        """Whatever is done to a description: it is read or refused, and what was read can be written and read."""
        chance = random.Random(8866)
        pieces = (
            *(
                b"\r\n",
                b"\r",
                b"\n",
                b"=",
                b" ",
                b":",
                b"/",
                b"a=",
                b"m=",
                b"c=IN IP4 1.2.3.4\r\n",
                b"a=rtpmap:0 X/1\r\n",
            ),
            *(b"0", b"-1", b"9" * 30, b"\xff", b"\0", b"\xc2\xb2", b"\xe2\x80\xa8", b"\x85", b"%", b"::", b"0.0.0.0"),
        )
        mutations = int(os.environ.get("CALLEDIN_FUZZ", "2000"))
        taken = agreed = 0
        for _ in range(mutations):
            data = chance.choice((FULL, bytes(OURS), bytes(OURS)))
            for _ in range(chance.randint(1, 5)):
                at = chance.randrange(len(data) + 1)
                to = at + chance.choice((0, 1, 2, 8, 40))
                data = (
                    data[:at]
                    + chance.choice((*pieces, data[at:to] * 2, b"", bytes([chance.randrange(256)])))
                    + data[to:]
                )
            try:
                description = SessionDescription.parse(data)
            except SDPError:
                continue
            taken += 1
            agreed += self.exercise(description)
        self.assertGreater(taken, mutations // 20)
        self.assertGreater(agreed, mutations // 40)
        self.assertLess(taken, mutations)

    def exercise(self, description: SessionDescription) -> int:
        """Read all that there is to read; return how many agreements came of it."""
        again = SessionDescription.parse(bytes(description))
        self.assertEqual(str(again), str(description))
        agreed = 0
        for media in description.media:
            self.assertIn(description.direction(media), DIRECTIONS)
            self.assertTrue(all(0 <= codec.payload_type <= 127 for codec in media.codecs))
            self.assertTrue(1 <= media.ptime <= 1000)
        try:
            sdp.agree(OURS, description)
            agreed += 1
        except SDPError:
            pass
        try:
            answer, _ = sdp.answer(description, address="192.0.2.1", port=4000, session_id=1, version=1)
            self.assertEqual(len(answer.media), len(description.media))
            bytes(answer)
            agreed += 1
        except SDPError:
            pass
        return agreed


KEYS = sdes.generate(("AEAD_AES_128_GCM", "AES_CM_128_HMAC_SHA1_80"))
THEIRS = {crypto.keys.suite: crypto.keys for crypto in sdes.generate(sdes.SUITES)}
CM, GCM, LONG = "AES_CM_128_HMAC_SHA1_80", "AEAD_AES_128_GCM", "AEAD_AES_256_GCM"


def key_line(tag: int, suite: str, more: str = "") -> str:
    """The peer's key."""
    return f"a=crypto:{Crypto(tag, THEIRS[suite])}{more}"


class SecurityTests(SynchronousTestCase):
    """Keys of SRTP in offer and answer."""

    def offer(self, *, secure: bool, crypto: tuple[Crypto, ...] = KEYS) -> SessionDescription:
        return sdp.offer(address="192.0.2.1", port=4000, session_id=1, version=1, crypto=crypto, secure=secure)

    def answer(
        self, offer: SessionDescription, *, secure: bool = False, crypto: tuple[Crypto, ...] = KEYS
    ) -> tuple[SessionDescription, Agreed]:
        return sdp.answer(offer, address="192.0.2.1", port=4000, session_id=1, version=1, crypto=crypto, secure=secure)

    def test_our_offers(self) -> None:
        """RTP/SAVP where it has to be SRTP, else RTP/AVP; both with a key for each suite."""
        for secure, protocol in ((True, "RTP/SAVP"), (False, "RTP/AVP")):
            (media,) = SessionDescription.parse(bytes(self.offer(secure=secure))).media
            self.assertEqual(media.protocol, protocol)
            lines = [value for name, value in media.attributes if name == "crypto"]
            self.assertEqual(lines, [str(crypto) for crypto in KEYS])
        self.assertNotIn("crypto", str(self.offer(secure=False, crypto=())))

    def test_answers_with_a_key(self) -> None:
        """The tag says which of our keys goes with theirs, whichever way the protocol is written."""
        for protocol in ("RTP/AVP", "RTP/SAVP", "RTP/AVPF", "RTP/SAVPF"):
            for secure in (True, False):
                for tag, suite in ((1, GCM), (2, CM)):
                    answer = described(f"m=audio 6000 {protocol} 0", key_line(tag, suite, "|2^31"))
                    agreed = sdp.agree(self.offer(secure=secure), answer)
                    self.assertEqual(agreed.security, Security(KEYS[tag - 1].keys, THEIRS[suite]))

    def test_answers_without_a_key(self) -> None:
        """They mean RTP where SRTP was only offered, and only if they don't say RTP/SAVP."""
        plain, secured = described("m=audio 6000 RTP/AVP 0"), described("m=audio 6000 RTP/SAVP 0")
        self.assertIsNone(sdp.agree(self.offer(secure=False), plain).security)
        for secure, answer in ((True, plain), (True, secured), (False, secured)):
            error = self.assertRaises(SDPError, sdp.agree, self.offer(secure=secure), answer)
            self.assertIn("without a key", str(error))

    def test_answers_that_mean_nothing(self) -> None:
        """A key for what wasn't offered, or that must be refused, makes no call; nor does a key make one less plain."""
        for line in (
            key_line(3, GCM),
            key_line(1, CM),
            key_line(1, GCM, " UNENCRYPTED_SRTP"),
            "a=crypto:1 AEAD_AES_128_GCM inline:AAAA",
            "a=crypto",
        ):
            for secure in (True, False):
                answer = described("m=audio 6000 RTP/AVP 0", line)
                self.assertRaises(SDPError, sdp.agree, self.offer(secure=secure), answer)
        unasked = described("m=audio 6000 RTP/AVP 0", key_line(1, GCM))
        self.assertIsNone(sdp.agree(self.offer(secure=False, crypto=()), unasked).security)
        self.assertRaises(SDPError, sdp.agree, OURS, described("m=audio 6000 RTP/SAVP 0", key_line(1, GCM)))
        self.assertRaises(SDPError, sdp.agree, self.offer(secure=True), described("m=audio 6000 UDP/TLS/RTP/SAVP 0"))

    def test_their_offers_with_keys(self) -> None:
        """The first key of a suite of ours is taken, with its tag and in its protocol; what can't be read is not it."""
        for protocol in ("RTP/AVP", "RTP/SAVP", "RTP/SAVPF"):
            theirs = described(
                f"m=audio 6000 {protocol} 0",
                key_line(5, LONG),
                key_line(6, GCM, " KDR=3"),
                key_line(7, CM),
                key_line(8, GCM),
            )
            description, agreed = self.answer(theirs, secure=True)
            (media,) = SessionDescription.parse(bytes(description)).media
            self.assertEqual(media.protocol, protocol)
            self.assertEqual(
                [value for name, value in media.attributes if name == "crypto"], [str(Crypto(7, KEYS[1].keys))]
            )
            self.assertEqual(agreed.security, Security(KEYS[1].keys, THEIRS[CM]))

    def test_their_offers_without_a_key_of_ours(self) -> None:
        """They are RTP where that is said and will do, else they are refused."""
        for lines in ((), (key_line(5, LONG),)):
            plain, secured = (described(f"m=audio 6000 {protocol} 0", *lines) for protocol in ("RTP/AVP", "RTP/SAVP"))
            for offer, secure in ((plain, True), (secured, True), (secured, False)):
                error = self.assertRaises(SDPError, self.answer, offer, secure=secure)
                self.assertIn("no key", str(error))
            self.assertRaises(SDPError, self.answer, secured, crypto=())
            for crypto in (KEYS, ()):
                description, agreed = self.answer(plain, crypto=crypto)
                self.assertIsNone(agreed.security)
                self.assertNotIn("crypto", str(description))

    def test_the_media_that_can_be_taken(self) -> None:
        """Of an m= line for each way the one that is good for us is."""
        both = described("m=audio 6000 RTP/AVP 0", "m=audio 6002 RTP/SAVP 0", key_line(1, GCM))
        description, agreed = self.answer(both, secure=True)
        self.assertEqual([media.port for media in description.media], [0, 4000])
        self.assertEqual(agreed.remote[1], 6002)
        description, agreed = self.answer(both, crypto=())
        self.assertEqual([media.port for media in description.media], [4000, 0])
        self.assertIsNone(agreed.security)

    def test_they_are_not_shown(self) -> None:
        """No description's repr has a key, read or written."""
        offer = self.offer(secure=True)
        for each in (offer, SessionDescription.parse(bytes(offer)), self.answer(offer)):
            self.assertNotIn(str(KEYS[0]).partition(":")[2][:10], repr(each))
