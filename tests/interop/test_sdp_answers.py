"""Answers that odd but honest telephones give, and offers that they make later, played by SIPp."""

from __future__ import annotations

from dataclasses import dataclass

from tests.interop import scenarios as sc
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import Sipp, sipp
from tests.interop.hearing import Ear

SESSION = "v=0\no=callee 1 1 IN IP4 [local_ip]\ns=-\n"
HERE = "c=IN IP4 [local_ip]\n"
TIME = "t=0 0\n"
PCMU, PCMA, G722, OPUS = 0, 8, 9, 96


@dataclass(frozen=True)
class Odd:
    """An answer, and what comes of it."""

    name: str
    sdp: str
    kind: int = -1
    "Payload type of the packets that it leads to; -1: none, the call is ended at once."
    octets: int = 160
    "Of each of these; 0: they differ."
    codecs: str = '["PCMU", "PCMA"]'

    @property
    def scenario(self) -> str:
        answer = sc.send("200 OK", more=sc.CONTACT, body=self.sdp, retrans=500)
        return sc.scenario(sc.receive("INVITE"), answer, sc.receive("ACK"), sc.GOODBYE)


def audio(formats: str, *lines: str, before: str = "", after: str = "", connection: str = HERE) -> str:
    """A description with one audio that is not refused."""
    attributes = "".join(f"a={line}\n" for line in lines)
    return f"{SESSION}{connection}{TIME}{before}m=audio [rtp] RTP/AVP {formats}\n{attributes}{after}"


ANSWERS = (
    Odd("more media than were offered", audio("0", after="m=video 0 RTP/AVP 31\nm=image 0 udptl t38\n"), PCMU),
    Odd("refused media without formats", audio("0", after="m=video 0 RTP/AVP\n"), PCMU),
    Odd("audio in another place", audio("8", before="m=video 0 RTP/AVP 31\n"), PCMA),
    Odd("other numbers", audio("99 98", "rtpmap:98 telephone-event/8000", "rtpmap:99 PCMA/8000"), 99),
    Odd("another order, nothing explained", audio("8 0"), PCMA),
    Odd("codecs that nobody offered", audio("18 3 0 8", "rtpmap:18 G729/8000", "fmtp:18 annexb=no"), PCMU),
    Odd("names in small letters", audio("0", "rtpmap:0 pcmu/8000/1"), PCMU),
    Odd("connection of the media", audio("0", connection="").replace("RTP/AVP 0\n", "RTP/AVP 0\n" + HERE), PCMU),
    Odd("packets of 30 ms", audio("0", "ptime:30"), PCMU, 240),
    Odd("packets of 40 ms", audio("9", "ptime:40"), G722, 320, '["G722"]'),
    Odd("packets of 10 ms at most", audio("0", "ptime:20", "maxptime:10"), PCMU, 80),
    Odd("G.722 by its true rate", audio("9", "rtpmap:9 G722/16000"), G722, 160, '["PCMU", "G722"]'),
    Odd("Opus by another number", audio("120", "rtpmap:120 OPUS/48000/2", "ptime:60"), 120, 0, '["opus"]'),
    Odd(
        "a bundle with ICE that nobody asked for",
        audio(
            "0",
            "mid:0",
            "rtcp-mux",
            "ice-ufrag:abcd",
            "ice-pwd:0123456789012345678901",
            "candidate:1 1 UDP 2130706431 192.0.2.1 9 typ host",
            "setup:active",
            connection=HERE + "a=group:BUNDLE 0\na=ice-lite\n",
        ),
        PCMU,
    ),
    Odd("lines that nobody knows", audio("0", "x-unknown", "rtpmap:", "ptime:", connection=HERE + "y=what\n"), PCMU),
    Odd("audio refused", audio("0").replace("[rtp]", "0")),
    Odd("no codec in common", audio("18", "rtpmap:18 G729/8000")),
    Odd(
        "Opus for less than we send",
        audio("96", "rtpmap:96 opus/48000/2", "fmtp:96 maxaveragebitrate=8000"),
        codecs='["opus"]',
    ),
    Odd("a host's name", audio("0", connection="c=IN IP4 media.example.com\n")),
    Odd("no address", audio("0", connection="")),
    Odd("not a description", "hello\n"),
)


class AnswerTests(InteropCase):
    def carrier(self, number: int, scenario: str) -> tuple[Sipp, Ear]:
        ear = Ear()
        self.addCleanup(ear.close)
        folder = self.folder / f"sipp{number}"
        return self.world.enter_context(sipp(folder, scenario, "-key", "rtp", str(ear.port))), ear

    def test_odd_answers(self) -> None:
        """What can be played to is played to, all of it; else ACK and BYE at once, and the reason is "failed"."""
        trunks, played = [], []
        for index, odd in enumerate(ANSWERS):
            carrier, ear = self.carrier(index, odd.scenario)
            number = f"21255501{index:02}"
            more = f'prefixes = ["1{number}"]\ncodecs = {odd.codecs}'
            trunks.append(trunk(carrier.port, name=odd.name, more=more))
            played.append((number, odd, carrier, ear))
        daemon = self.run_daemon(settings(*trunks))
        calls = {number: self.ask(daemon, phone_number=number) for number, *_ in played}
        told = [self.web.next_callback() for _ in played]
        outcomes = {each.query["phone_number"]: self.outcome(each) for each in told}
        for number, odd, carrier, ear in played:
            expected = ("1", "") if odd.kind >= 0 else ("0", "0")
            self.assertEqual(outcomes[number], expected, odd.name)
            self.assertEqual(carrier.wait(), 0, carrier.explain())
            kinds = {data[1] & 0x7F for _, data in ear.packets}
            self.assertEqual(kinds, {odd.kind} - {-1}, odd.name)
            if odd.kind >= 0 and odd.octets:
                self.assertEqual({len(data) - 12 for _, data in ear.packets}, {odd.octets}, odd.name)
                # With 0.4 s of silence before and after it; each of the three is filled up to whole packets.
                whole = daemon.admin("GET", f"/calls/{calls[number]}")["duration"] + 0.8
                more = len(ear.packets) * odd.octets - round(whole * 8000)
                self.assertTrue(0 <= more < 3 * odd.octets, (odd.name, more))
            if odd.kind < 0:
                shown = daemon.admin("GET", f"/calls/{calls[number]}")["outcome"]
                self.assertEqual((shown["cause"], shown["sip_status"]), ("unusable SDP", 200))

    def test_not_acceptable(self) -> None:
        """488 is "failed", and the operator sees what the callee said of it."""
        warning = 'Warning: 305 callee "Incompatible media format"\n'
        carrier, _ = self.carrier(0, sc.refuse("488 Not Acceptable Here", more=warning))
        daemon = self.run_daemon(settings(trunk(carrier.port)))
        call_id = self.ask(daemon)
        self.assertEqual(self.outcome(self.web.next_callback()), ("0", "0"))
        ending = daemon.admin("GET", f"/calls/{call_id}")["outcome"]
        self.assertEqual(ending["sip_status"], 488)
        self.assertIn("Incompatible media format", ending["detail"])
        self.assertIn("PCMU, PCMA", ending["detail"])

    def test_another_codec_later(self) -> None:
        """A re-INVITE that leaves no other choice changes the codec; the audio goes on at the same moment."""
        later = sc.request(
            "INVITE",
            cseq="1 INVITE",
            body=audio("9 0", "rtpmap:9 G722/8000").replace("9 0", "9").replace("callee 1 1", "callee 1 2"),
        )
        answer = sc.send("200 OK", more=sc.CONTACT, body=audio("0"), retrans=500)
        carrier, ear = self.carrier(
            0,
            sc.scenario(
                sc.receive("INVITE", inner=sc.KEEP_DIALOG),
                answer,
                sc.receive("ACK"),
                sc.pause(1000),
                later,
                sc.expect(100, optional=True),
                sc.expect(200),
                sc.request("ACK", cseq="1 ACK", extra=""),
                sc.GOODBYE,
                sc.REFERENCE,
            ),
        )
        daemon = self.run_daemon(settings(trunk(carrier.port, more='codecs = ["PCMU", "G722"]')))
        call_id = self.ask(daemon)
        self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        self.assertEqual(carrier.wait(), 0, carrier.explain())
        kinds = [data[1] & 0x7F for _, data in sorted(ear.packets, key=lambda packet: packet[1][2:4])]
        change = kinds.index(9)
        self.assertEqual(kinds, [0] * change + [9] * (len(kinds) - change))
        self.assertTrue(40 < change < 75, change)
        whole = daemon.admin("GET", f"/calls/{call_id}")["duration"] + 0.8
        self.assertEqual(len(kinds), -(-round(whole * 1000) // 20))
