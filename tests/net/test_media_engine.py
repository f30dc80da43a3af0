"""The media process without its process: commands in, packets on the loopback, time by hand."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import ClassVar

from calledind.net.media_course import moments
from calledind.net.media_ports import make_room
from calledind.rtp import rtcp
from calledind.rtp.dtmf import press
from calledind.rtp.packet import Packet
from tests.net.phones import EPOCH, EngineCase


class EngineTests(EngineCase):
    """One engine, some phones."""

    # sending

    def test_a_file_is_played(self) -> None:
        """Silence, the file to its last octet, silence; numbered and timed without a gap, one marker, then the end."""
        peer = self.peer()
        self.opened()
        octets = bytes(range(250)) * 2
        self.play(1, peer, self.format(octets, "PCMA", 8), lead_in=0.04, lead_out=0.02)
        self.pass_time(10)
        packets = peer.packets()
        silence = b"\xd5" * 160
        self.assertEqual(
            [packet.payload for packet in packets],
            [silence] * 2 + [octets[:160], octets[160:320], octets[320:480], octets[480:] + silence[:140], silence],
        )
        first = packets[0]
        for index, packet in enumerate(packets):
            self.assertEqual(packet.sequence, (first.sequence + index) & 0xFFFF)
            self.assertEqual(packet.timestamp, (first.timestamp + index * 160) & 0xFFFFFFFF)
            self.assertEqual((packet.ssrc, packet.payload_type), (first.ssrc, 8))
            self.assertEqual(packet.marker, index == 0)
        self.assertEqual(self.events(), [["finished", 1]])
        self.assertEqual(self.closed()["packets_sent"], 7)

    def test_one_packet_every_twenty_milliseconds(self) -> None:
        """In each ten slices a stream sends one packet, in the same of them."""
        peer = self.peer()
        self.opened()
        self.play(1, peer)
        slices = []
        for number in range(50):
            self.engine.slice(number, 0.0)
            slices += [number] * len(peer.packets())
        self.assertEqual(slices, [0, 10, 20, 30, 40])

    def test_many_streams_of_one_port_are_spread(self) -> None:
        """Sixty streams of one port leave in one slice of the ten, a thousand in all of them, evenly."""
        self.engine = self.engine_on("127.0.0.1", 2)
        peer = self.peer()
        shares: list[list[int]] = []
        for number in range(1, 1001):
            self.opened(number)
            self.play(number, peer, bytes(16000))
            if number in (60, 1000):
                shares.append([])
                for count in range(10):
                    self.engine.slice(count, 0.0)
                    shares[-1].append(len(peer.packets()))
        self.assertEqual(sorted(shares[0]), [0] * 9 + [60])
        self.assertEqual(sum(shares[1]), 1000)
        self.assertLessEqual(max(shares[1]), 128)

    def test_many_ports_are_spread(self) -> None:
        """Two streams of each of twenty ports leave together, two ports in each slice."""
        peer = self.peer()
        for number in range(1, 41):
            self.opened(number)
            self.play(number, peer)
        for count in range(10):
            self.engine.slice(count, 0.0)
            ports = [peer.rtp.recvfrom(2048)[1] for _ in range(4)]
            self.assertEqual(peer.packets(), [])
            self.assertEqual(len(set(ports)), 2)

    def test_slices_without_streams(self) -> None:
        """The next slice with something to send is known, up to five slices ahead."""
        self.assertEqual(self.engine.idle_slices(3), 5)
        self.opened()
        self.play(1, self.peer())
        self.assertEqual([self.engine.idle_slices(count) for count in range(10)], [0, 5, 5, 5, 5, 5, 4, 3, 2, 1])

    def test_many_streams_each_to_its_own_phone(self) -> None:
        """Streams that begin and end in any order share ports and never each other's packets."""
        self.engine = self.engine_on("127.0.0.1", 6)
        chance = random.Random(1)
        peers = {number: self.peer() for number in range(1, 31)}
        files = {number: self.audio(bytes([number]) * 160 * (number % 7 + 1)) for number in peers}
        for number in peers:
            self.opened(number)
        numbers = list(peers)
        chance.shuffle(numbers)
        for number in numbers:
            self.play(number, peers[number], files[number])
            self.pass_time(chance.choice([0.1, 0.5, 1]))
        self.pass_time(8)
        for number, peer in peers.items():
            packets = peer.packets()
            self.assertEqual([packet.payload for packet in packets], [bytes([number]) * 160] * (number % 7 + 1))
            self.assertEqual([packet.marker for packet in packets], [True] + [False] * (number % 7))
            first = packets[0].sequence
            self.assertEqual(
                [packet.sequence for packet in packets],
                [(first + index) & 0xFFFF for index in range(len(packets))],
            )
        self.assertEqual(len({port.number for port in self.engine.opened}), 3)
        self.assertEqual(self.engine.sending, 0)

    def test_an_own_port_for_each_as_long_as_there_are(self) -> None:
        """Twenty pairs of ports serve twenty calls alone; the next shares, and a freed one is taken last."""
        ports = [self.opened(number) for number in range(1, 21)]
        self.assertEqual(len(set(ports)), len(ports))
        self.assertEqual([port % 2 for port in ports], [0] * 20)
        self.assertIn(self.opened(21), ports)
        self.closed(5)
        self.closed(3)
        self.assertEqual([self.opened(31), self.opened(32)], [ports[4], ports[2]])

    def test_room_for_many_calls(self) -> None:
        """A mebibyte may wait in a socket, either way, as far as the system lets us."""
        self.opened()
        for option, limit in ((socket.SO_SNDBUF, "wmem_max"), (socket.SO_RCVBUF, "rmem_max")):
            allowed = int(Path("/proc/sys/net/core", limit).read_text())
            room = self.engine.opened[0].rtp.getsockopt(socket.SOL_SOCKET, option)
            self.assertGreaterEqual(room, min(2 << 20, 2 * allowed))

    def test_room_without_privileges(self) -> None:
        """Who may not go beyond the system's limits asks for what is within them."""

        class Bound(socket.socket):
            asked: ClassVar[list[int]] = []

            def setsockopt(self, level: int, option: int, value: int) -> None:  # type: ignore[override]
                if option in (32, 33):
                    raise PermissionError
                self.asked.append(option)

        with Bound(socket.AF_INET, socket.SOCK_DGRAM) as bound:
            make_room(bound)
        self.assertEqual(Bound.asked, [socket.SO_SNDBUF, socket.SO_RCVBUF])

    def test_no_port(self) -> None:
        """Where no port can be opened the session is refused in words."""
        engine = self.engine_on("192.0.2.1", 40)
        engine.command(["open", 1])
        self.assertEqual(engine.events[0][:2], ["refused", 1])

    def test_one_bad_address_harms_nobody_else(self) -> None:
        """A packet that the kernel refuses is counted for its own stream; those after it leave."""
        self.engine = self.engine_on("127.0.0.1", 2)
        peers = [self.peer() for _ in range(3)]
        for number, peer in enumerate(peers):
            self.opened(number)
            # From a socket bound to the loopback nothing can be sent to the world.
            self.play(number, peer, remote=("192.0.2.1", 9) if number == 1 else peer.address)
        self.pass_time(10)
        self.assertEqual([len(peer.packets()) for peer in peers], [10, 0, 10])
        self.assertEqual([self.closed(number)["packets_sent"] for number in range(3)], [10, 0, 10])

    def test_what_cannot_be_played_is_lost(self) -> None:
        """A missing file, an address of the other kind and a codec unknown end that session only."""
        peer = self.peer()
        self.opened()
        self.play(1, peer, "/nonexistent/audio")
        self.play(1, peer, remote=("::1", 4000))
        self.play(1, peer, self.format(bytes(160), "GSM"))
        self.assertEqual([event[:2] for event in self.events()], [["lost", 1]] * 3)
        self.assertEqual(self.closed()["packets_sent"], 0)

    def test_nothing_to_play(self) -> None:
        """An empty file without silence is finished at once."""
        self.opened()
        self.play(1, self.peer(), b"")
        self.assertEqual(self.events(), [["finished", 1]])

    def test_late_packets_are_counted(self) -> None:
        """Packets of a slice that began more than 5 ms after it was due are late ones."""
        self.opened()
        self.play(1, self.peer())
        self.pass_time(3)
        self.pass_time(2, lateness=0.006)
        self.engine.command(["ping", 1])
        self.assertEqual(self.events()[-1][2]["latest_slice"], 0.006)
        self.assertEqual(self.closed()["packets_late"], 2)

    def test_one_map_for_all_streams_of_a_file(self) -> None:
        """A file is mapped once, and let go with the last of its calls."""
        audio = self.audio(bytes(1600))
        for number in range(3):
            self.opened(number)
            self.play(number, self.peer(), audio)
        self.assertEqual(len(self.engine._files), 1)
        for number in range(3):
            self.closed(number)
        self.assertEqual(len(self.engine._files), 0)

    def test_calls_that_play_the_same(self) -> None:
        """A hold of one and a longer lead-in of another change nothing for the rest: each hears the whole file."""
        audio = self.audio(b"".join(bytes([number]) * 160 for number in range(6)) + b"\x06" * 80)
        peers = [self.peer() for _ in range(3)]
        for number, peer in enumerate(peers):
            self.opened(number)
            self.play(number, peer, audio, lead_in=0.04 if number == 1 else 0.0)
        for _ in range(2):
            self.pass_time(2)
            self.engine.command(["redirect", 0, ["0.0.0.0", 0], ["0.0.0.0", 0], False])
            self.pass_time(1)
            self.engine.command(["redirect", 0, peers[0].address, peers[0].control_address, True])
        self.pass_time(10)
        heard = [[packet.payload[0] for packet in peer.packets()] for peer in peers]
        whole = list(range(7))
        self.assertEqual(heard, [whole, [0xFF, 0xFF, *whole], whole])
        self.assertEqual([self.closed(number)["octets_sent"] for number in range(3)], [1120, 1440, 1120])

    def test_ipv6(self) -> None:
        """An engine on all of IPv6 sends to and hears from both kinds of phones."""
        self.engine = self.engine_on("::", 8)
        for number, host in enumerate(("::1", "127.0.0.1")):
            peer = self.peer(host)
            port = self.opened(number)
            self.play(number, peer)
            self.pass_time(2)
            self.assertEqual(len(peer.packets()), 2)
            peer.rtp.sendto(bytes(Packet(0, 1, 1, 1, bytes(160))), (host, port))
            self.hear()
            statistics = self.closed(number)
            self.assertEqual((statistics["packets_sent"], statistics["packets_received"]), (2, 1))
            self.assertEqual(len(peer.reports()), 1)

    # hold and redirect

    def test_hold(self) -> None:
        """On hold nothing is sent; after it the audio goes on where it was, with the time passed and a marker."""
        peer = self.peer()
        self.opened()
        self.play(1, peer, b"".join(bytes([number]) * 160 for number in range(6)))
        self.pass_time(2)
        self.engine.command(["redirect", 1, ["0.0.0.0", 0], ["0.0.0.0", 0], False])
        self.pass_time(10)
        before = peer.packets()
        self.assertEqual([packet.payload[0] for packet in before], [0, 1])
        self.engine.command(["redirect", 1, peer.address, peer.control_address, True])
        self.pass_time(10)
        after = peer.packets()
        self.assertEqual([packet.payload[0] for packet in after], [2, 3, 4, 5])
        self.assertEqual([packet.marker for packet in after], [True, False, False, False])
        self.assertEqual(after[0].sequence, (before[-1].sequence + 1) & 0xFFFF)
        self.assertEqual(after[0].timestamp, (before[-1].timestamp + 11 * 160) & 0xFFFFFFFF)
        self.assertEqual(self.events(), [["finished", 1]])

    def test_held_by_an_address(self) -> None:
        """Who holds with 0.0.0.0 is sent nothing, has its reports as before, and is found again."""
        peer = self.peer()
        self.opened()
        self.play(1, peer)
        self.pass_time(2)
        nobody = self.peer("0.0.0.0")
        self.engine.command(["redirect", 1, nobody.address, [nobody.address[0], 0], False])
        self.pass_time(500)
        self.assertEqual((len(peer.packets()), nobody.packets()), (2, []))
        self.assertGreater(len(peer.reports()), 0)
        self.assertEqual(self.engine.hearing.strays, 0)
        self.engine.command(["redirect", 1, peer.address, peer.control_address, True])
        self.pass_time(10)
        self.assertEqual(len(peer.packets()), 8)

    def test_held_from_the_beginning(self) -> None:
        """Not one packet leaves before the hold is taken back."""
        peer = self.peer()
        self.opened()
        self.play(1, peer, sends=False)
        self.pass_time(20)
        self.assertEqual(peer.packets(), [])
        self.engine.command(["redirect", 1, peer.address, peer.control_address, True])
        self.pass_time(20)
        packets = peer.packets()
        self.assertEqual((len(packets), packets[0].marker), (10, True))

    def test_redirect(self) -> None:
        """The next packet goes to the new address, and packets are taken from there alone."""
        old, new = self.peer(), self.peer()
        port = self.opened()
        self.play(1, old)
        self.pass_time(2)
        self.engine.command(["redirect", 1, new.address, new.control_address, True])
        self.pass_time(3)
        old.send(port)
        new.send(port)
        self.hear()
        self.assertEqual([len(old.packets()), len(new.packets())], [2, 3])
        self.assertEqual(self.closed()["packets_received"], 1)
        self.assertEqual([len(old.reports()), len(new.reports())], [0, 1])

    # receiving

    def test_only_the_agreed_address_is_heard(self) -> None:
        """Packets from strangers, and before anything was agreed, are counted as strays."""
        peer, stranger = self.peer(), self.peer()
        port = self.opened()
        peer.send(port)
        self.hear()
        self.play(1, peer)
        for _ in range(5):
            peer.send(port)
            stranger.send(port)
        self.hear()
        self.assertEqual(self.engine.hearing.strays, 6)
        self.assertEqual(self.closed()["packets_received"], 5)

    def test_loss_and_jitter(self) -> None:
        """Of packets 2 to 10 without 5 and 6, two are lost; what is no RTP is not counted."""
        peer = self.peer()
        port = self.opened()
        self.play(1, peer)
        for number in range(2, 11):
            peer.sequence = number - 1
            if number not in (5, 6):
                peer.send(port)
        peer.rtp.sendto(b"hello", ("127.0.0.1", port))
        peer.rtp.sendto(rtcp.pack([rtcp.ReceiverReport(1)]), ("127.0.0.1", port))
        self.hear()
        statistics = self.closed()
        self.assertEqual((statistics["packets_received"], statistics["packets_lost"]), (7, 2))
        self.assertGreater(statistics["jitter"], 0)

    def test_shared_port(self) -> None:
        """Calls on one port are told apart by whom the packets come from."""
        self.engine = self.engine_on("127.0.0.1", 2)
        peers = [self.peer() for _ in range(4)]
        for number, peer in enumerate(peers):
            port = self.opened(number)
            self.play(number, peer)
            for _ in range(number + 1):
                peer.send(port)
        self.hear()
        self.assertEqual([self.closed(number)["packets_received"] for number in range(4)], [1, 2, 3, 4])

    def test_digits(self) -> None:
        """Each press is told once, by the agreed payload type only, and makes no jitter."""
        peer = self.peer()
        port = self.opened()
        self.play(1, peer)
        for index, digit in enumerate("4#4"):
            for _, payload in press(digit):
                peer.send(port, payload, 101, 8000 + index * 1600)
                peer.send(port, payload, 96, 8000 + index * 1600)
        peer.send(port, b"\x05", 101)
        self.hear()
        self.assertEqual(self.events(), [["digit", 1, "4"], ["digit", 1, "#"], ["digit", 1, "4"]])

    def test_silence(self) -> None:
        """Nothing heard for the agreed time is told once; each packet begins the time anew, and so does a hold."""
        peer = self.peer()
        port = self.opened()
        self.play(1, peer, bytes(16000), silence_timeout=0.1)
        self.pass_time(4)
        peer.send(port)
        self.hear()
        self.pass_time(4)
        self.engine.command(["redirect", 1, peer.address, peer.control_address, False])
        self.pass_time(20)
        self.engine.command(["redirect", 1, peer.address, peer.control_address, True])
        self.pass_time(4)
        self.assertEqual(self.events(), [])
        self.pass_time(20)
        self.assertEqual(self.events(), [["silent", 1]])

    def test_who_is_not_silent(self) -> None:
        """Reports are a sign of life as sound is; a peer that said it only listens owes neither."""
        peer = self.peer()
        port = self.opened()
        self.play(1, peer, bytes(160 * 100), silence_timeout=0.1, receives=False)
        self.pass_time(20)
        self.engine.command(["redirect", 1, peer.address, peer.control_address, True, None, None, True])
        for _ in range(4):
            self.pass_time(4)
            peer.rtcp.sendto(rtcp.pack([rtcp.ReceiverReport(77)]), ("127.0.0.1", port + 1))
            self.hear()
        self.engine.command(["redirect", 1, peer.address, peer.control_address, True, None, None, False])
        self.pass_time(20)
        self.assertEqual(self.events(), [])
        self.engine.command(["redirect", 1, peer.address, peer.control_address, True, None, None, True])
        self.pass_time(6)
        self.assertEqual(self.events(), [["silent", 1]])

    def test_a_flood_at_one_port_leaves_room(self) -> None:
        """While strangers flood one port, another's call is heard in the same batch, and the rest is told of."""
        flood, peer = self.peer(), self.peer()
        victim = self.opened(1)
        port = self.opened(2)
        self.play(2, peer)
        for _ in range(200):
            flood.send(victim)
        peer.send(port)
        self.assertTrue(self.engine.hearing.receive(self.engine.opened))
        self.assertEqual(self.engine.hearing.strays, 192)
        self.assertEqual(self.closed(2)["packets_received"], 1)

    def test_garbage(self) -> None:
        """2,000 mutated packets from the agreed address, to both ports, harm nothing."""
        chance = random.Random(2)
        peer = self.peer()
        port = self.opened()
        self.play(1, peer)
        whole = bytes(Packet(101, 1, 1, 1, b"\x05\x0a\x00\xa0"))
        report = rtcp.pack([rtcp.SenderReport(1, 2, 3, 4, 5, (rtcp.ReportBlock(1, 0, 0, 0, 0, 0, 0),))])
        for index in range(2000):
            data = bytearray(chance.choice((whole, report)))
            data[chance.randrange(len(data))] = chance.randrange(256)
            del data[chance.randrange(len(data)) + 1 :]
            peer.rtp.sendto(data, ("127.0.0.1", port))
            peer.rtcp.sendto(data, ("127.0.0.1", port + 1))
            if index % 50 == 0:
                self.hear()
        for _ in range(10):
            self.hear()
        self.assertGreater(self.engine.hearing.strays, 500)
        self.assertGreater(self.closed()["packets_received"], 100)

    # reports

    def test_sender_reports(self) -> None:
        """Every five seconds or so the peer is told what we sent and heard; at the end comes a goodbye."""
        peer = self.peer()
        port = self.opened()
        self.play(1, peer, bytes(160 * 1000))
        peer.send(port)
        peer.sequence += 1
        peer.send(port)
        self.hear()
        self.pass_time(1000)
        reports = peer.reports()
        self.assertGreaterEqual(len(reports), 3)
        self.assertLessEqual(len(reports), 8)
        first, names = reports[0]
        assert isinstance(first, rtcp.SenderReport)
        assert isinstance(names, rtcp.SourceDescription)
        self.assertEqual(names, rtcp.SourceDescription.named(first.ssrc, self.engine.sessions[1].name))
        self.assertTrue(self.engine.sessions[1].name)
        sent = peer.packets()
        self.assertEqual((first.ssrc, first.octets), (sent[0].ssrc, first.packets * 160))
        elapsed = first.ntp / (1 << 32) - rtcp.NTP_EPOCH - EPOCH - 100.0
        self.assertLess(abs(elapsed / 0.02 - first.packets), 1.5)
        passed = (first.timestamp - sent[0].timestamp) & 0xFFFFFFFF
        self.assertLess(abs(passed - elapsed * 8000), 2)
        block = first.reports[0]
        self.assertEqual((block.ssrc, block.lost, block.fraction_lost, block.highest_sequence), (77, 1, 85 / 256, 3))
        self.closed()
        self.assertEqual([type(report) for report in peer.reports()[-1]][-1], rtcp.Goodbye)

    def test_the_peers_reports(self) -> None:
        """Fraction lost and round trip come from the peer's report on us, if it comes from the agreed address."""
        peer, stranger = self.peer(), self.peer()
        port = self.opened()
        self.play(1, peer, bytes(160 * 500))
        self.pass_time(500)
        ours = peer.reports()[0][0]
        assert isinstance(ours, rtcp.SenderReport)
        now = rtcp.middle(rtcp.ntp_time(EPOCH + self.time))
        delay = now - rtcp.middle(ours.ntp) - 65536 // 4
        block = rtcp.ReportBlock(ours.ssrc, 0.5, 5, 10, 3, rtcp.middle(ours.ntp), delay)
        peer.rtcp.sendto(rtcp.pack([rtcp.ReceiverReport(77, (block,))]), ("127.0.0.1", port + 1))
        wrong = rtcp.ReportBlock(ours.ssrc, 1.0, 5, 10, 3, 0, 0)
        stranger.rtcp.sendto(rtcp.pack([rtcp.ReceiverReport(77, (wrong,))]), ("127.0.0.1", port + 1))
        self.hear()
        statistics = self.closed()
        self.assertEqual(statistics["fraction_lost_by_peer"], 0.5)
        self.assertEqual(round(statistics["round_trip"], 3), 0.25)

    def test_the_course(self) -> None:
        """At each report it is noted how the media is; of a call without one, nothing is."""
        peer = self.peer()
        port = self.opened()
        self.play(1, peer, bytes(160 * 2000))
        self.pass_time(1000)
        ours = peer.reports()[0][0]
        assert isinstance(ours, rtcp.SenderReport)
        block = rtcp.ReportBlock(ours.ssrc, 0.5, 7, 10, 80, 0, 0)
        peer.rtcp.sendto(rtcp.pack([rtcp.ReceiverReport(77, (block,))]), ("127.0.0.1", port + 1))
        peer.send(port)
        peer.sequence += 1
        peer.send(port)
        self.hear()
        self.pass_time(600)
        statistics = self.closed()
        first, *_, last = moments(statistics["course"])
        self.assertEqual(
            [first[name] for name in ("packets_received", "jitter_by_peer", "round_trip", "mos")], [0.0] + 3 * [None]
        )
        assert first["at"] is not None
        assert first["packets_sent"] is not None
        self.assertLess(abs(first["packets_sent"] - 50 * first["at"]), 2)
        self.assertEqual(
            [last[name] for name in ("packets_received", "packets_lost", "packets_lost_by_peer")], [2, 1, 7]
        )
        self.assertEqual(last["jitter_by_peer"], 0.01)
        assert last["mos"] is not None
        self.assertTrue(1 <= last["mos"] <= 4.5)
        self.opened(2)
        self.play(2, self.peer())
        self.pass_time(10)
        self.assertNotIn("course", self.closed(2))

    def test_commands_for_what_is_gone(self) -> None:
        """Commands that cross the end of their session are passed over."""
        self.opened()
        self.closed()
        for command in (["close", 1], ["redirect", 1, ["127.0.0.1", 9], ["127.0.0.1", 9], True], ["play", 1, {}]):
            self.engine.command(command)
        self.assertEqual(self.events(), [])

    def test_close_all(self) -> None:
        """At the end each peer gets its goodbye."""
        peers = [self.peer() for _ in range(3)]
        for number, peer in enumerate(peers):
            self.opened(number)
            self.play(number, peer)
        self.engine.close_all()
        self.assertEqual([len(peer.reports()) for peer in peers], [1, 1, 1])
        self.assertEqual(self.engine.sending, 0)
