# mypy: allow-untyped-calls
"""The ladder of a call's messages."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from calledind.cli.ladder import Ladder, Message

SDP = (
    "\r\nContent-Type: application/sdp\r\n\r\nv=0\r\nc=IN IP4 127.0.0.1\r\nm=audio 4000 RTP/AVP 0 8 101\r\n"
    "a=rtpmap:101 telephone-event/8000\r\n"
)


def message(start: str, cseq: str, rest: str = "\r\n\r\n", *, at: float = 100.0, sent: bool = True) -> Message:
    text = f"{start}\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1\r\nCSeq: {cseq}{rest}"
    return Message.read({"time": at, "direction": "sent" if sent else "received", "text": text})


class MessageTests(SynchronousTestCase):
    def test_request(self) -> None:
        """A request is named by its method, an offer by its codecs."""
        invite = message("INVITE sip:+12125550100@127.0.0.1 SIP/2.0", "1 INVITE", SDP)
        self.assertEqual((invite.label, invite.detail, invite.failure), ("INVITE", "PCMU PCMA", False))

    def test_response(self) -> None:
        """A response is named by status and phrase, with the method where it is not the INVITE's."""
        busy = message("SIP/2.0 486 Busy Here", "1 INVITE", sent=False)
        self.assertEqual((busy.label, busy.failure), ("486 Busy Here", True))
        self.assertEqual(message("SIP/2.0 200 OK", "2 BYE").label, "200 OK (BYE)")

    def test_hold(self) -> None:
        """An offer that holds the call says so, and a refused media line too."""
        held = message("INVITE sip:x SIP/2.0", "2 INVITE", SDP + "a=sendonly\r\n")
        self.assertEqual(held.detail, "sendonly: hold")
        refused = message("SIP/2.0 200 OK", "1 INVITE", SDP.replace("4000", "0"))
        self.assertEqual(refused.detail, "audio refused")

    def test_nonsense(self) -> None:
        """An entry that is no SIP at all is still a line."""
        self.assertEqual(Message.read({}).label, "(empty)")
        self.assertEqual(Message.read({"text": "\0\xff", "time": 1, "direction": "received"}).label, "\0\xff")


class LadderTests(SynchronousTestCase):
    def test_times_and_directions(self) -> None:
        """Times count from the first message; ours point to the right, the peer's to the left."""
        ladder = Ladder()
        first = ladder.message(message("INVITE sip:x SIP/2.0", "1 INVITE")).plain
        second = ladder.message(message("SIP/2.0 180 Ringing", "1 INVITE", at=100.25, sent=False)).plain
        self.assertIn("0.000", first)
        self.assertTrue(first.endswith("▶│"))
        self.assertIn("0.250", second)
        self.assertIn("│◀─", second)

    def test_repeats_are_marked(self) -> None:
        """A message that is sent again is marked; the same answer to another request is not."""
        ladder = Ladder()
        invite = message("INVITE sip:x SIP/2.0", "1 INVITE")
        self.assertNotIn("again", ladder.message(invite).plain)
        self.assertIn("again", ladder.message(invite).plain)
        self.assertNotIn("again", ladder.message(message("INVITE sip:x SIP/2.0", "2 INVITE")).plain)

    def test_fork(self) -> None:
        """The second telephone that answers is told from the first, in both directions."""
        ladder = Ladder()
        lines = []
        for tag in ("one", "two"):
            to = f"\r\nFrom: <sip:a@b>;tag=us\r\nTo: <sip:c@d>;tag={tag}\r\n\r\n"
            lines.append(ladder.message(message("SIP/2.0 200 OK", "1 INVITE", to, sent=False)).plain)
            lines.append(ladder.message(message("ACK sip:x SIP/2.0", "1 ACK", to)).plain)
            back = f"\r\nFrom: <sip:c@d>;tag={tag}\r\nTo: <sip:a@b>;tag=us\r\n\r\n"
            lines.append(ladder.message(message("BYE sip:x SIP/2.0", "1 BYE", back, sent=False)).plain)
        self.assertEqual(["[telephone 2]" in line for line in lines], [False] * 3 + [True] * 3)

    def test_challenge(self) -> None:
        """Who asks for a password is not counted as a telephone."""
        ladder = Ladder()
        to = "\r\nTo: <sip:c@d>;tag={}\r\n\r\n"
        lines = [
            ladder.message(message("SIP/2.0 407 Proxy Authentication Required", "1 INVITE", to.format(1), sent=False)),
            ladder.message(message("ACK sip:x SIP/2.0", "1 ACK", to.format(1))),
            ladder.message(message("SIP/2.0 200 OK", "2 INVITE", to.format(2), sent=False)),
            ladder.message(message("ACK sip:x SIP/2.0", "2 ACK", to.format(2))),
        ]
        self.assertEqual([line.plain for line in lines if "telephone" in line.plain], [])
        self.assertTrue(ladder.is_first("2"))

    def test_width(self) -> None:
        """Every line fits, and all have the same length, however long the phrase is."""
        ladder = Ladder(width=80)
        long = ladder.message(message("SIP/2.0 480 " + "very " * 40, "1 INVITE", sent=False)).plain
        short = ladder.message(message("SIP/2.0 200 OK", "1 INVITE", sent=False)).plain
        media = ladder.media("RTP, PCMU").plain
        self.assertEqual({len(long), len(short), len(media)}, {len(short)})
        self.assertLessEqual(len(long), 80)
        self.assertLessEqual(len(ladder.head().plain), 80)

    def test_plain_terminal(self) -> None:
        """A terminal without line drawing gets ASCII."""
        ladder = Ladder(ascii_only=True)
        line = ladder.message(message("INVITE sip:x SIP/2.0", "1 INVITE")).plain + ladder.media("RTP").plain
        self.assertTrue(line.isascii())
