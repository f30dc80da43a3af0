"""Streams of every codec and packet length, and what is done to them in the middle."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from calledind.codecs import CODECS, OPUS, pack_packets
from calledind.net.media_pipe import Item
from calledind.rtp import rtcp
from calledind.rtp.dtmf import press
from calledind.rtp.g711 import DECODED
from calledind.rtp.packet import Packet
from tests.net.phones import EngineCase, Peer, received

OPUS_PACKETS = [bytes([number]) * (number % 7 + 1) for number in range(1, 101)]


def numbered(octets: int) -> bytes:
    """Octets of which every eight say where they are."""
    return b"".join(number.to_bytes(8, "big") for number in range(octets // 8))


class FormatCase(EngineCase):
    def redirect(self, peer: Peer, format: Item | None = None, *, sends: bool = True) -> None:
        self.engine.command(["redirect", 1, peer.address, peer.control_address, sends, format])

    def timing(self, packets: list[Packet]) -> tuple[list[int], list[int]]:
        """Steps of the sequence numbers and of the timestamps."""
        return (
            [(two.sequence - one.sequence) & 0xFFFF for one, two in itertools.pairwise(packets)],
            [(two.timestamp - one.timestamp) & 0xFFFFFFFF for one, two in itertools.pairwise(packets)],
        )


class CodecTests(FormatCase):
    def test_g722(self) -> None:
        """160 octets and 160 timestamp units in 20 ms, though it samples 320 times; silence is its own."""
        peer = self.peer()
        self.opened()
        self.play(1, peer, self.format(numbered(400), "G722", 9), lead_in=0.02, lead_out=0.02)
        self.pass_time(10)
        packets = peer.packets()
        silence = b"\xfc" * 160
        octets = numbered(400)
        self.assertEqual(
            [packet.payload for packet in packets],
            [silence, octets[:160], octets[160:320], octets[320:] + silence[:80], silence],
        )
        self.assertEqual(self.timing(packets), ([1] * 4, [160] * 4))
        self.assertEqual({packet.payload_type for packet in packets}, {9})

    def test_opus(self) -> None:
        """Each packet as long as it is, 960 timestamp units apart; octets are counted, in RTCP too."""
        peer = self.peer()
        self.opened()
        # Packets are 20 ms, whatever the peer would like.
        self.play(1, peer, self.format(pack_packets(OPUS_PACKETS), "opus", 111, ptime=40), lead_in=0.04, lead_out=0.04)
        self.pass_time(110)
        packets = peer.packets()
        silence = [OPUS.silence] * 2
        self.assertEqual([packet.payload for packet in packets], [*silence, *OPUS_PACKETS, *silence])
        self.assertEqual(self.timing(packets), ([1] * 103, [960] * 103))
        self.assertEqual([packet.marker for packet in packets], [True] + [False] * 103)
        self.assertEqual(self.events(), [["finished", 1]])
        statistics = self.closed()
        octets = sum(map(len, OPUS_PACKETS)) + 4 * len(OPUS.silence)
        self.assertEqual((statistics["packets_sent"], statistics["octets_sent"]), (104, octets))
        report = peer.reports()[-1][0]
        assert isinstance(report, rtcp.SenderReport)
        self.assertEqual((report.packets, report.octets), (104, octets))

    def test_opus_without_silence(self) -> None:
        """The first packet has the marker; after a hold the stream goes on with the packet that is due."""
        peer = self.peer()
        self.opened()
        self.play(1, peer, self.format(pack_packets(OPUS_PACKETS), "opus", 111))
        self.pass_time(10)
        self.redirect(peer, sends=False)
        self.pass_time(5)
        self.redirect(peer)
        self.pass_time(100)
        packets = peer.packets()
        self.assertEqual([packet.payload for packet in packets], OPUS_PACKETS)
        self.assertEqual([index for index, packet in enumerate(packets) if packet.marker], [0, 10])
        steps = self.timing(packets)
        self.assertEqual((steps[0], steps[1][9]), ([1] * 99, 960 * 6))

    def test_files_of_packets_that_are_none(self) -> None:
        """An index that is cut off or leads elsewhere loses the session, not the process."""
        whole = pack_packets(OPUS_PACKETS[:3])
        for number, content in enumerate((b"", whole[:6], whole[:-1], whole + b"x", whole[:4] + b"\0" + whole[5:])):
            self.opened(number)
            self.play(number, self.peer(), self.format(content, "opus", 111))
            verb, of, words = self.events()[-1]
            self.assertEqual((verb, of), ("lost", number))
            self.assertIn("index", words)

    def test_no_packets(self) -> None:
        """A file of no packets is over at once."""
        self.opened()
        self.play(1, self.peer(), self.format(pack_packets([]), "opus", 111))
        self.assertEqual(self.events(), [["finished", 1]])

    def test_packet_lengths(self) -> None:
        """Packets as long as the peer wants them, evenly; what can't be had is rounded down, what is too short up."""
        for number, (wanted, length) in enumerate(
            ((10, 10), (30, 30), (40, 40), (45, 40), (60, 60), (200, 60), (5, 10))
        ):
            peer = self.peer()
            self.opened(number)
            octets = numbered(8 * length * 5)
            self.play(number, peer, self.format(octets, "PCMA", 8, ptime=wanted), lead_in=length / 1000)
            sent = []
            for _ in range(6 * length // 2):
                self.engine.slice(self.count, 0.0)
                self.count += 1
                sent.append(len(received(peer.rtp)))
            when = [index for index, many in enumerate(sent) if many]
            self.assertEqual({later - earlier for earlier, later in itertools.pairwise(when)}, {length // 2})
            self.assertEqual(len(when), 6)
            statistics = self.closed(number)
            self.assertEqual(statistics["octets_sent"], 6 * 8 * length)

    def test_timestamps_of_longer_packets(self) -> None:
        """240 units in 30 ms, and every octet is there."""
        peer = self.peer()
        self.opened()
        octets = numbered(2000)
        self.play(1, peer, self.format(octets, ptime=30))
        self.pass_time(20)
        packets = peer.packets()
        self.assertEqual(self.timing(packets)[1], [240] * 8)
        self.assertEqual(b"".join(packet.payload for packet in packets), octets + b"\xff" * 160)

    def test_streams_of_all_kinds_side_by_side(self) -> None:
        """Each keeps its own pace, on the same port."""
        self.engine = self.engine_on("127.0.0.1", 2)
        peers = {number: self.peer() for number in range(4)}
        kinds: list[tuple[str, int, int, int]] = [("PCMU", 0, 20, 160), ("G722", 9, 30, 240), ("PCMA", 8, 40, 320)]
        for number, (codec, kind, ptime, _) in enumerate(kinds):
            self.opened(number)
            self.play(number, peers[number], self.format(numbered(9600), codec, kind, ptime))
        self.opened(3)
        self.play(3, peers[3], self.format(pack_packets(OPUS_PACKETS[:60]), "opus", 96))
        self.pass_time(61)
        self.assertEqual({tuple(event) for event in self.events()}, {("finished", number) for number in range(4)})
        for number, (_, kind, _, size) in enumerate(kinds):
            packets = peers[number].packets()
            self.assertEqual(b"".join(packet.payload for packet in packets), numbered(9600))
            self.assertEqual({(packet.payload_type, len(packet.payload)) for packet in packets}, {(kind, size)})
        self.assertEqual([packet.payload for packet in peers[3].packets()], OPUS_PACKETS[:60])


class ChangeTests(FormatCase):
    """A later offer or answer changes what is in the packets."""

    def test_to_another_codec(self) -> None:
        """The audio goes on at the same moment under the same clock: sequence and timestamps without a step."""
        peer = self.peer()
        self.opened()
        octets, others = numbered(1600), bytes(reversed(numbered(1600)))
        self.play(1, peer, self.format(octets), lead_in=0.04)
        self.pass_time(6)
        self.redirect(peer, self.format(others, "PCMA", 97))
        self.pass_time(10)
        packets = peer.packets()
        self.assertEqual([packet.payload_type for packet in packets], [0] * 6 + [97] * 6)
        self.assertEqual(b"".join(packet.payload for packet in packets[2:6]), octets[:640])
        self.assertEqual(b"".join(packet.payload for packet in packets[6:]), others[640:])
        self.assertEqual(self.timing(packets), ([1] * 11, [160] * 11))
        self.assertEqual(self.events(), [["finished", 1]])
        self.assertEqual(self.closed()["packets_sent"], 12)

    def test_to_longer_packets(self) -> None:
        """Not an octet is lost or heard twice, wherever the change falls."""
        for number, passed in enumerate((0, 1, 3, 4, 9, 12, 13)):
            peer = self.peer()
            self.opened(number)
            octets = numbered(1600)
            name = self.audio(octets)
            self.play(number, peer, self.format(name), lead_in=0.06, lead_out=0.06)
            self.pass_time(passed)
            self.engine.command(
                ["redirect", number, peer.address, peer.control_address, True, self.format(name, ptime=30)]
            )
            self.pass_time(30)
            packets = peer.packets()
            heard = b"".join(packet.payload for packet in packets)
            self.assertEqual(heard.strip(b"\xff"), octets, passed)
            self.assertEqual(heard[: 8 * 60], b"\xff" * 8 * 60)
            self.assertEqual(heard.count(b"\xff" * 8 * 60), 2)
            self.assertEqual({len(packet.payload) for packet in packets[passed + 1 :]}, {240})
            self.closed(number)

    def test_to_another_clock(self) -> None:
        """Opus has another clock, so it is a source of its own (RFC 7160); the call's figures go on."""
        peer = self.peer()
        self.opened()
        self.play(1, peer, numbered(16000))
        self.pass_time(50)
        self.redirect(peer, self.format(pack_packets(OPUS_PACKETS), "opus", 111))
        self.pass_time(60)
        packets = peer.packets()
        before, after = packets[:50], packets[50:]
        self.assertEqual([packet.payload for packet in after], OPUS_PACKETS[50:])
        self.assertNotEqual(before[0].ssrc, after[0].ssrc)
        self.assertEqual({packet.ssrc for packet in after}, {after[0].ssrc})
        self.assertTrue(after[0].marker)
        self.assertEqual(self.timing(after), ([1] * 49, [960] * 49))
        self.assertEqual(self.events(), [["finished", 1]])
        block = rtcp.ReportBlock(after[0].ssrc, 0.25, 3, 9, 480, 0, 0)
        peer.rtcp.sendto(rtcp.pack([rtcp.ReceiverReport(7, (block,))]), ("127.0.0.1", self.engine.opened[0].number + 1))
        self.hear()
        statistics = self.closed()
        self.assertEqual(statistics["packets_sent"], 100)
        self.assertEqual(statistics["octets_sent"], 8000 + sum(map(len, OPUS_PACKETS[50:])))
        self.assertEqual((statistics["packets_lost_by_peer"], statistics["jitter_by_peer"]), (3, 0.01))
        report = peer.reports()[-1][0]
        assert isinstance(report, rtcp.SenderReport)
        self.assertEqual((report.ssrc, report.packets), (after[0].ssrc, 50))

    def test_while_held(self) -> None:
        """What is changed during a hold is heard after it."""
        peer = self.peer()
        self.opened()
        octets, others = numbered(1600), bytes(reversed(numbered(1600)))
        self.play(1, peer, octets)
        self.pass_time(3)
        self.redirect(peer, sends=False)
        self.pass_time(5)
        self.redirect(peer, self.format(others, "PCMA", 8), sends=False)
        self.pass_time(5)
        self.assertEqual(len(peer.packets()), 3)
        self.redirect(peer)
        self.pass_time(20)
        packets = peer.packets()
        self.assertEqual(b"".join(packet.payload for packet in packets), others[480:])
        self.assertTrue(packets[0].marker)
        self.assertEqual(self.events(), [["finished", 1]])

    def test_after_the_end(self) -> None:
        """A stream that has ended stays ended."""
        peer = self.peer()
        self.opened()
        self.play(1, peer, numbered(160))
        self.pass_time(3)
        self.redirect(peer, self.format(numbered(1600), "PCMA", 8))
        self.pass_time(20)
        self.assertEqual((len(peer.packets()), self.events()), (1, [["finished", 1]]))

    def test_to_what_is_not_there(self) -> None:
        """A file that can't be read loses the session."""
        peer = self.peer()
        self.opened()
        self.play(1, peer)
        self.redirect(peer, self.format("/nonexistent", "G722", 9))
        self.assertEqual(self.events()[-1][:2], ["lost", 1])


class ReceivedTests(FormatCase):
    def tell(self, peer: Peer, port: int, payloads: list[bytes], payload_type: int = 0, step: int = 160) -> None:
        for payload in payloads:
            peer.send(port, payload, payload_type, timestamp=(peer.sequence + 1) * step)
        self.hear()

    def digits(self) -> str:
        return "".join(event[2] for event in self.events() if event[0] == "digit")

    def key(self, codec: str, low: float = 697, high: float = 1209, packets: int = 5) -> list[bytes]:
        """The tones of a key in G.711."""
        time = np.arange(160 * packets) / 8000
        sound = 4000 * np.sin(2 * np.pi * low * time) + 4000 * np.sin(2 * np.pi * high * time)
        table = DECODED[codec].astype(np.int64)
        nearest = np.abs(sound[:, None] - table[None]).argmin(1).astype(np.uint8).tobytes()
        return [nearest[at : at + 160] for at in range(0, len(nearest), 160)]

    def test_keys_in_the_sound(self) -> None:
        """Told where it is asked for, by the number of the codec that the peer uses."""
        peer = self.peer()
        port = self.opened()
        self.play(1, peer, self.format(bytes(16000), "PCMA", 97), tones=True)
        quiet = [b"\xff" * 160] * 3
        for payloads, payload_type in (
            (self.key("PCMU"), 0),
            (quiet, 0),
            (self.key("PCMA", 770, 1336), 8),
            ([b"\xd5" * 160] * 3, 8),
            (self.key("PCMA", 941, 1477), 97),
        ):
            self.tell(peer, port, payloads, payload_type)
        self.assertEqual(self.digits(), "15#")

    def test_only_where_it_is_asked_for(self) -> None:
        """Without, nothing of the sound is looked at."""
        peer = self.peer()
        port = self.opened()
        self.play(1, peer, bytes(16000))
        self.tell(peer, port, self.key("PCMU"))
        self.assertEqual(self.digits(), "")

    def test_comfort_noise(self) -> None:
        """It is a packet like any other (RFC 3389), no loss and no key; the key before and after it are two."""
        peer = self.peer()
        port = self.opened()
        self.play(1, peer, bytes(16000), tones=True)
        self.tell(peer, port, self.key("PCMU"))
        self.tell(peer, port, [b"\x40"], payload_type=13)
        self.tell(peer, port, self.key("PCMU"))
        self.assertEqual(self.digits(), "11")
        statistics = self.closed()
        self.assertEqual((statistics["packets_received"], statistics["packets_lost"]), (11, 0))

    def test_events_end_the_listening(self) -> None:
        """Who sends events (RFC 4733) would be heard twice; either number of them is understood."""
        for number in (101, 96):
            peer = self.peer()
            port = self.opened(number)
            self.play(number, peer, self.format(bytes(16000), events=(101, 96)), tones=True)
            for marker, payload in press("7"):
                del marker
                peer.send(port, payload, number, timestamp=5)
            self.tell(peer, port, self.key("PCMU"))
            self.assertEqual(self.digits(), "7")
            self.closed(number)

    def test_packets_that_are_none(self) -> None:
        """Octets that only begin like RTP are strays."""
        peer = self.peer()
        port = self.opened()
        self.play(1, peer, bytes(16000), tones=True)
        peer.rtp.sendto(b"\xbf" + bytes(11), ("127.0.0.1", port))
        self.hear()
        self.assertEqual((self.engine.hearing.strays, self.events()), (1, []))

    def test_the_clock_of_opus(self) -> None:
        """Packets of 960 units in 20 ms, on time to the microsecond, have no jitter."""
        for number, (codec, kind, step, even) in enumerate((("opus", 111, 960, True), ("PCMU", 0, 960, False))):
            peer = self.peer()
            port = self.opened(number)
            audio = pack_packets(OPUS_PACKETS) if CODECS[codec].packets else bytes(16000)
            self.play(number, peer, self.format(audio, codec, kind))
            times = iter(100.0 + 0.02 * index for index in range(100))
            self.patch(self.engine.hearing._receiver, "arrival", lambda end, times=times, **_: self.arrived(times, end))
            for _ in range(50):
                self.tell(peer, port, [bytes(9)], kind, step)
            jitter = self.closed(number)["jitter"]
            self.assertEqual(jitter < 0.0001, even, jitter)

    def arrived(self, times: Any, end: int) -> Any:
        return np.array([round(next(times) * 48000) for _ in range(end)], np.int64)

    def test_how_it_sounds(self) -> None:
        """By the peer's word where there is one, else by what came, else not at all."""
        peer = self.peer()
        port = self.opened()
        self.play(1, peer, bytes(16000))
        self.assertIsNone(self.closed()["mos"])
        port = self.opened()
        self.play(1, peer, bytes(16000))
        self.tell(peer, port, [bytes(160)] * 3)
        self.assertGreater(self.closed()["mos"], 4.3)
        port = self.opened()
        self.play(1, peer, bytes(16000))
        self.tell(peer, port, [bytes(160)] * 3)
        self.pass_time(50)
        block = rtcp.ReportBlock(peer.packets()[-1].ssrc, 0.2, 10, 9, 80, 0, 0)
        peer.rtcp.sendto(rtcp.pack([rtcp.ReceiverReport(7, (block,))]), ("127.0.0.1", port + 1))
        self.hear()
        statistics = self.closed()
        self.assertEqual((statistics["packets_lost_by_peer"], statistics["jitter_by_peer"]), (10, 0.01))
        self.assertLess(statistics["mos"], 3.0)


class NatTests(FormatCase):
    """The callee's media comes from elsewhere than its SDP says."""

    def test_it_is_followed(self) -> None:
        """The first packet from an address that may be the callee's shows where it is: ours go there from then on."""
        said, real = self.peer(), self.peer()
        port = self.opened()
        self.play(1, said, bytes(160 * 500), nat=["127.0.0.1"])
        self.pass_time(5)
        self.assertEqual(len(said.packets()), 5)
        real.send(port)
        real.send(port)
        real.rtcp.sendto(rtcp.pack([rtcp.ReceiverReport(7)]), ("127.0.0.1", port + 1))
        self.hear()
        self.pass_time(195)
        self.assertEqual((len(said.packets()), len(real.packets())), (0, 195))
        self.assertGreater(len(real.reports()), 0)
        self.assertEqual((self.engine.hearing.strays, self.closed()["packets_received"]), (0, 2))

    def test_only_where_it_is_asked_for(self) -> None:
        """Else packets from elsewhere are ignored."""
        said, other = self.peer(), self.peer()
        port = self.opened()
        self.play(1, said, bytes(160 * 50))
        other.send(port)
        other.rtcp.sendto(rtcp.pack([rtcp.ReceiverReport(7)]), ("127.0.0.1", port + 1))
        self.hear()
        self.pass_time(5)
        self.assertEqual((len(said.packets()), self.engine.hearing.strays), (5, 2))

    def test_who_is_not_followed(self) -> None:
        """A stranger's host, something that is no RTP, anybody after the first seconds, or after the callee spoke."""
        said, other = self.peer(), self.peer()
        far = ["192.0.2.7", "2001:db8::1"]
        for number, (hosts, data, waits, speaks) in enumerate(
            (
                (far, bytes(Packet(0, 1, 1, 1, bytes(160))), 0, False),
                (["127.0.0.1"], b"\x80" * 8, 0, False),
                (["127.0.0.1"], bytes(160), 0, False),
                (["127.0.0.1"], b"\x80\xc9" + bytes(30), 0, False),
                (["127.0.0.1"], bytes(Packet(0, 1, 1, 1, bytes(160))), 260, False),
                (["127.0.0.1"], bytes(Packet(0, 1, 1, 1, bytes(160))), 0, True),
            )
        ):
            port = self.opened(number)
            self.play(number, said, bytes(160 * 500), nat=hosts)
            if hosts == far:
                self.engine.sessions[number].nat.hosts.discard("127.0.0.1")  # type: ignore[union-attr]
            self.pass_time(waits)
            if speaks:
                said.send(port)
                self.hear()
            said.packets()
            other.rtp.sendto(data, ("127.0.0.1", port))
            self.hear()
            self.pass_time(5)
            self.assertEqual((len(said.packets()), len(other.packets())), (5, 0), number)
            self.closed(number)

    def test_a_repeated_address(self) -> None:
        """A hold or a refreshed session that says the same again changes nothing; another address is followed anew."""
        said, real, moved, there = (self.peer() for _ in range(4))
        port = self.opened()
        self.play(1, said, bytes(160 * 500), nat=["127.0.0.1"])
        real.send(port)
        self.hear()
        self.redirect(said, sends=False)
        self.redirect(said)
        self.pass_time(5)
        self.assertEqual((len(said.packets()), len(real.packets())), (0, 5))
        self.redirect(moved)
        self.pass_time(5)
        there.send(port)
        self.hear()
        self.pass_time(5)
        self.assertEqual([len(peer.packets()) for peer in (said, real, moved, there)], [0, 0, 5, 5])

    def test_two_that_may_be_it(self) -> None:
        """Where two sessions of a port could be meant, none is."""
        self.engine = self.engine_on("127.0.0.1", 2)
        said, other, third = self.peer(), self.peer(), self.peer()
        for number, peer in ((1, said), (2, other)):
            port = self.opened(number)
            self.play(number, peer, bytes(160 * 500), nat=["127.0.0.1"])
        third.send(port)
        third.rtcp.sendto(rtcp.pack([rtcp.ReceiverReport(7)]), ("127.0.0.1", port + 1))
        self.hear()
        self.assertEqual(self.engine.hearing.strays, 2)
        self.closed(2)
        third.send(port)
        self.hear()
        self.pass_time(5)
        self.assertEqual((len(said.packets()), len(third.packets())), (0, 5))

    def test_over_ipv6(self) -> None:
        """The same on a socket of both kinds of IP."""
        self.engine = self.engine_on("::", 2)
        said, real = self.peer(), self.peer()
        port = self.opened()
        self.play(1, said, bytes(160 * 500), nat=["127.0.0.1"])
        real.send(port)
        self.hear()
        self.pass_time(5)
        self.assertEqual((len(said.packets()), len(real.packets())), (0, 5))
