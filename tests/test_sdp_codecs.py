"""Codecs beyond G.711, packets of other lengths, and answers that are odd but honest."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind import sdp
from calledind.codecs import CODECS
from calledind.sdp import Agreed, Codec, SDPError, SessionDescription

ALL = ("opus", "G722", "PCMU", "PCMA")
OURS = sdp.offer(address="192.0.2.1", port=4000, codecs=ALL, session_id=11, version=1)


def described(*media: str, session: tuple[str, ...] = ("c=IN IP4 203.0.113.5",)) -> SessionDescription:
    lines = ["v=0", "o=- 5 6 IN IP4 203.0.113.5", "s=-", *session, "t=0 0", *media, ""]
    return SessionDescription.parse("\r\n".join(lines).encode())


class OfferTests(SynchronousTestCase):
    def test_every_codec(self) -> None:
        """In the trunk's order; Opus says two channels (RFC 7587), and has keys of its own clock."""
        self.assertEqual(
            str(OURS.media[0]).splitlines(),
            [
                "m=audio 4000 RTP/AVP 96 9 0 8 101 102",
                "a=rtpmap:96 opus/48000/2",
                "a=fmtp:96 stereo=0;sprop-stereo=0;usedtx=1",
                "a=rtpmap:9 G722/8000",
                "a=rtpmap:0 PCMU/8000",
                "a=rtpmap:8 PCMA/8000",
                "a=rtpmap:101 telephone-event/48000",
                "a=fmtp:101 0-16",
                "a=rtpmap:102 telephone-event/8000",
                "a=fmtp:102 0-16",
                "a=ptime:20",
                "a=sendrecv",
            ],
        )


class AgreeTests(SynchronousTestCase):
    def agreed(self, *media: str, offer: SessionDescription = OURS) -> Agreed:
        return sdp.agree(offer, described(*media))

    def test_g722(self) -> None:
        """By its number alone, by its name, and by its true rate, which is wrong but means nothing else."""
        for lines in (("9",), ("97", "a=rtpmap:97 g722/8000/1"), ("9", "a=rtpmap:9 G722/16000")):
            agreed = self.agreed(f"m=audio 6000 RTP/AVP {lines[0]}", *lines[1:])
            self.assertEqual((agreed.codec, agreed.payload_type), ("G722", int(lines[0])))
        for wrong in ("G722/16000/2", "G722/32000"):
            self.assertRaises(SDPError, self.agreed, "m=audio 6000 RTP/AVP 97", f"a=rtpmap:97 {wrong}")

    def test_opus(self) -> None:
        """By any number, also without the two channels; not at another rate."""
        for encoding in ("opus/48000/2", "OPUS/48000", "opus/48000/1"):
            agreed = self.agreed("m=audio 6000 RTP/AVP 120", f"a=rtpmap:120 {encoding}")
            self.assertEqual((agreed.codec, agreed.payload_type), ("opus", 120))
        self.assertRaises(SDPError, self.agreed, "m=audio 6000 RTP/AVP 120", "a=rtpmap:120 opus/16000")

    def test_opus_for_less(self) -> None:
        """A peer that takes less than we encode, in bits or milliseconds, gets the next codec."""
        opus = ("m=audio 6000 RTP/AVP 96 0", "a=rtpmap:96 opus/48000/2")
        for line, codec in (
            ("a=fmtp:96 useinbandfec=1; maxaveragebitrate=16000", "PCMU"),
            ("a=fmtp:96 MaxAverageBitrate=64000", "opus"),
            ("a=fmtp:96 maxaveragebitrate=x", "opus"),
            ("a=fmtp:96 maxaveragebitrate", "opus"),
            ("a=maxptime:10", "PCMU"),
            ("a=maxptime:60", "opus"),
        ):
            self.assertEqual(self.agreed(*opus, line).codec, codec, line)

    def test_keys(self) -> None:
        """Those of the codec's clock, else of 8,000 Hz; they may come with our number, and with the peer's."""
        for lines, event, events in (
            (("96 101", "a=rtpmap:96 opus/48000/2", "a=rtpmap:101 telephone-event/48000"), 101, (101,)),
            (("96 97", "a=rtpmap:96 opus/48000/2", "a=rtpmap:97 telephone-event/8000"), 97, (101, 97)),
            (("0 98", "a=rtpmap:98 telephone-event/8000"), 98, (102, 98)),
            (("0 98", "a=rtpmap:98 telephone-event/48000"), None, ()),
            (("101 97", "a=rtpmap:101 opus/48000/2", "a=rtpmap:97 telephone-event/48000"), 97, (97,)),
            (("0",), None, ()),
        ):
            agreed = self.agreed(f"m=audio 6000 RTP/AVP {lines[0]}", *lines[1:])
            self.assertEqual((agreed.telephone_event, agreed.events), (event, events), lines)

    def test_packet_lengths(self) -> None:
        """a=ptime is a wish, a=maxptime a bound; what makes no sense is passed over."""
        for lines, ptime in (
            ((), 20),
            (("a=ptime:30",), 30),
            (("a=ptime:30", "a=maxptime:20"), 20),
            (("a=maxptime:10",), 10),
            (("a=maxptime:150",), 20),
            (("a=ptime:40.0",), 40),
            (("a=ptime:0", "a=maxptime:0"), 20),
            (("a=maxptime:x",), 20),
        ):
            self.assertEqual(self.agreed("m=audio 6000 RTP/AVP 0", *lines).ptime, ptime, lines)

    def test_more_media(self) -> None:
        """Refused media that we never offered, with or without formats, and bundles, change nothing."""
        agreed = self.agreed(
            "m=audio 6000 RTP/AVP 8",
            *("a=mid:0", "a=rtcp-mux", "a=ice-ufrag:x", "a=candidate:1 1 UDP 1 192.0.2.9 9 typ host", "a=setup:active"),
            *("m=video 0 RTP/AVP", "m=image 0 udptl t38"),
        )
        self.assertEqual((agreed.codec, agreed.remote, agreed.remote_rtcp[1]), ("PCMA", ("203.0.113.5", 6000), 6001))
        self.assertRaises(SDPError, described, "m=video 5000 RTP/AVP")
        self.assertRaises(SDPError, described, "m=video 0")

    def test_audio_in_another_place(self) -> None:
        """A peer that mixes up the places but has one audio is meant well; one that has two, or none, is not."""
        video, audio = "m=video 0 RTP/AVP 31", "m=audio 6000 RTP/AVP 0"
        self.assertEqual(self.agreed(video, audio).remote[1], 6000)
        for media in ((video,), (video, audio, audio), (video, "m=audio 0 RTP/AVP 0"), ()):
            self.assertRaises(SDPError, self.agreed, *media)
        offer = described("m=video 5000 RTP/AVP 31", "m=audio 4000 RTP/AVP 0")
        self.assertEqual(sdp.agree(offer, described("m=audio 6000 RTP/AVP 0")).remote[1], 6000)
        self.assertRaises(SDPError, sdp.agree, offer, described("m=video 6000 RTP/AVP 31"))

    def test_parameters(self) -> None:
        """Of an a=fmtp, by name; what has no value has none."""
        codec = Codec(96, "OPUS", 48000, 2, " stereo = 1;useinbandfec ; X=")
        self.assertEqual([codec.parameter(name) for name in ("stereo", "useinbandfec", "x")], ["1", None, ""])
        self.assertIsNone(Codec(0, "PCMU", 8000).parameter("stereo"))


class AnswerTests(SynchronousTestCase):
    def test_what_is_taken(self) -> None:
        """Our answer has the codec and the keys by the peer's numbers, with their clocks."""
        answer, agreed = sdp.answer(
            described(
                "m=audio 6000 RTP/AVP 111 0 110 126",
                *(
                    "a=rtpmap:111 opus/48000/2",
                    "a=rtpmap:110 telephone-event/48000",
                    "a=rtpmap:126 telephone-event/8000",
                ),
            ),
            address="192.0.2.1",
            port=4000,
            codecs=ALL,
            session_id=1,
            version=2,
        )
        self.assertEqual(
            [line for line in str(answer.media[0]).splitlines() if "fmtp" not in line],
            [
                "m=audio 4000 RTP/AVP 111 110",
                "a=rtpmap:111 opus/48000/2",
                "a=rtpmap:110 telephone-event/48000",
                "a=ptime:20",
                "a=sendrecv",
            ],
        )
        self.assertEqual((agreed.codec, agreed.payload_type, agreed.events), ("opus", 111, (110,)))

    @settings(deadline=None, derandomize=True)
    @given(st.permutations(ALL), st.integers(1, 4), st.permutations(ALL), st.integers(1, 4))
    def test_both_sides_agree(self, ours: list[str], some: int, theirs: list[str], few: int) -> None:
        """Whatever each speaks, both come to the same, or to nothing where there is nothing in common."""
        offer = sdp.offer(address="192.0.2.1", port=4000, codecs=ours[:some], session_id=1, version=1)
        common = [name for name in ours[:some] if name in theirs[:few]]
        if not common:
            with self.assertRaises(SDPError):
                sdp.answer(offer, address="192.0.2.2", port=6000, codecs=theirs[:few], session_id=1, version=1)
            return
        answer, callee = sdp.answer(offer, address="192.0.2.2", port=6000, codecs=theirs[:few], session_id=1, version=1)
        self.assertEqual(SessionDescription.parse(bytes(answer)), answer)
        caller = sdp.agree(offer, answer)
        self.assertEqual((caller.codec, callee.codec), (common[0], common[0]))
        self.assertEqual((caller.payload_type, callee.payload_type), (CODECS[common[0]].number,) * 2)
        self.assertEqual(caller.events, callee.events)
