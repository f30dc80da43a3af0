"""Encrypted streams in the media process: what leaves, what is taken, keys that change, and plain ones beside them."""

from __future__ import annotations

import random
from typing import Any

from calledind.net.media_pipe import Item
from calledind.rtp import rtcp
from calledind.rtp.dtmf import press
from calledind.rtp.packet import Packet
from calledind.rtp.srtp import Receiver, Sender
from calledind.sdes import SUITES, Keys
from tests.net.phones import EngineCase, Peer, received
from tests.rtp.test_srtp import changed, protect


class Phone(Peer):
    """One that encrypts."""

    def secure(self, suite: str = "AEAD_AES_128_GCM") -> Item:
        """Agree on new keys; return them for the engine."""
        ours, theirs = Keys.generate(suite), Keys.generate(suite)
        self.sender, self.receiver = Sender(theirs), Receiver(ours)
        return [ours.pack(), theirs.pack()]

    def heard(self) -> list[Packet]:
        return [Packet.parse(self.receiver.unprotect(data)) for data in received(self.rtp)]

    def heard_reports(self) -> list[list[rtcp.Report]]:
        return [rtcp.parse(self.receiver.unprotect_control(data)) for data in received(self.rtcp)]

    def protected(self, payload: bytes = bytes(160), payload_type: int = 0) -> bytes:
        self.sequence += 1
        return protect(self.sender, bytes(Packet(payload_type, self.sequence, self.sequence * 160, 77, payload)))

    def speak(self, port: int, data: bytes) -> None:
        self.rtp.sendto(data, ("127.0.0.1", port))


class SrtpTests(EngineCase):
    def phone(self) -> Phone:
        phone = Phone()
        self.addCleanup(phone.close)
        return phone

    def report(self, ssrc: int) -> bytes:
        block = rtcp.ReportBlock(ssrc, 0.25, 5, 0, 0, 0, 0)
        return rtcp.pack([rtcp.ReceiverReport(77, (block,))])

    def test_numbers_begin_far_from_their_wrap(self) -> None:
        """A receiver that misses the beginning must not take the counter of an encrypted stream for a round less."""
        first = []
        for number in range(1, 31):
            peer = self.peer()
            self.opened(number)
            self.play(number, peer)
            self.pass_time(1)
            first.append(peer.packets()[0].sequence)
            self.closed(number)
        self.assertLess(max(first), 1 << 15)
        self.assertGreater(len(set(first)), 20)

    def test_each_suite(self) -> None:
        """The phone decrypts the file, with the numbers and times of a plain stream; its voice is counted."""
        octets = bytes(range(250)) * 2
        for number, suite in enumerate(SUITES):
            phone = self.phone()
            port = self.opened(number)
            self.play(number, phone, octets, lead_in=0.04, security=phone.secure(suite))
            self.pass_time(6)
            packets = phone.heard()
            silence = b"\xff" * 160
            self.assertEqual(
                [packet.payload for packet in packets],
                [silence] * 2 + [octets[:160], octets[160:320], octets[320:480], octets[480:] + silence[:140]],
            )
            first = packets[0]
            for index, packet in enumerate(packets):
                self.assertEqual(packet.sequence, (first.sequence + index) & 0xFFFF)
                self.assertEqual(packet.timestamp, (first.timestamp + index * 160) & 0xFFFFFFFF)
                self.assertEqual((packet.ssrc, packet.marker), (first.ssrc, index == 0))
            self.assertEqual(self.events(), [["finished", number]])
            for _ in range(3):
                phone.speak(port, phone.protected())
            self.hear()
            figures = self.closed(number)
            self.assertEqual((figures["packets_sent"], figures["octets_sent"]), (6, 960))
            self.assertEqual((figures["packets_received"], figures["packets_lost"]), (3, 0))

    def test_plain_ones_beside_them(self) -> None:
        """Streams with and without keys share ports and slices; each phone gets what it can read."""
        self.engine = self.engine_on("127.0.0.1", 4)
        phones = {number: self.phone() for number in range(1, 13)}
        for number, phone in phones.items():
            self.opened(number)
            more: dict[str, Any] = {"security": phone.secure()} if number % 3 else {}
            self.play(number, phone, bytes([number]) * 160 * (number + 2), **more)
        self.pass_time(20)
        for number, phone in phones.items():
            packets = phone.heard() if number % 3 else phone.packets()
            self.assertEqual([packet.payload for packet in packets], [bytes([number]) * 160] * (number + 2))
            self.assertEqual(self.closed(number)["packets_sent"], number + 2)
        self.assertEqual(self.engine.sending, 0)

    def test_what_is_not_the_peers(self) -> None:
        """Packets in the clear, changed, repeated or for another call are strays, and no keys or loss come of them."""
        phone = self.phone()
        port = self.opened()
        self.play(1, phone, security=phone.secure())
        true = phone.protected()
        phone.speak(port, true[:-1] + bytes([true[-1] ^ 1]))
        phone.speak(port, true)
        phone.speak(port, true)
        phone.send(port)
        for number, (marker, payload) in enumerate(press("5")):
            phone.speak(port, bytes(Packet(101, number, 0, 77, payload, marker)))
        strays = self.engine.hearing.strays
        self.hear()
        self.assertGreaterEqual(self.engine.hearing.strays - strays, 4)
        self.assertEqual(self.events(), [])
        self.assertEqual(self.closed()["packets_received"], 1)

    def test_two_thousand_changed_packets(self) -> None:
        """They harm nothing: the stream goes on, the peer's true packets are counted, and no others."""
        chance = random.Random(2)
        for number, suite in enumerate(("AEAD_AES_256_GCM", "AES_CM_128_HMAC_SHA1_32")):
            phone = self.phone()
            port = self.opened(number)
            self.play(number, phone, bytes(160 * 3000), security=phone.secure(suite), nat=["127.0.0.1"])
            strays, heard = self.engine.hearing.strays, 0
            for _ in range(25):
                for _ in range(20):
                    phone.speak(port, changed(phone.protected(), chance))
                    report = phone.sender.protect_control(self.report(1))
                    phone.rtcp.sendto(changed(report, chance), ("127.0.0.1", port + 1))
                phone.speak(port, phone.protected())
                self.hear()
                self.pass_time(1)
                heard += len(phone.heard())
            self.assertEqual((heard, self.engine.hearing.strays - strays), (25, 1000))
            self.assertEqual(self.closed(number)["packets_received"], 25)

    def test_keys_pressed(self) -> None:
        """Events are found in decrypted packets, those of whole length too."""
        phone = self.phone()
        port = self.opened()
        self.play(1, phone, security=phone.secure("AES_CM_128_HMAC_SHA1_32"))
        phone.speak(port, phone.protected(bytes(1400), 96))
        for number, (marker, payload) in enumerate(press("7"), 10):
            phone.speak(port, protect(phone.sender, bytes(Packet(101, number, 0, 77, payload, marker))))
        self.hear()
        self.assertEqual(self.events(), [["digit", 1, "7"]])
        self.assertGreater(self.closed()["packets_received"], 1)

    def test_reports(self) -> None:
        """RTCP is encrypted both ways; what is not is a stray."""
        phone = self.phone()
        port = self.opened()
        self.play(1, phone, bytes(160 * 1000), security=phone.secure())
        self.pass_time(400)
        ssrc = phone.heard()[0].ssrc
        (first, *_), *_ = phone.heard_reports()
        assert isinstance(first, rtcp.SenderReport)
        self.assertEqual(first.ssrc, ssrc)
        strays = self.engine.hearing.strays
        phone.rtcp.sendto(self.report(ssrc), ("127.0.0.1", port + 1))
        self.hear()
        self.assertEqual(self.engine.hearing.strays, strays + 1)
        phone.rtcp.sendto(phone.sender.protect_control(self.report(ssrc)), ("127.0.0.1", port + 1))
        self.hear()
        figures = self.closed()
        self.assertEqual((figures["fraction_lost_by_peer"], figures["packets_lost_by_peer"]), (0.25, 5))
        self.assertIsInstance(phone.heard_reports()[-1][-1], rtcp.Goodbye)

    def redirect(self, phone: Phone, sends: bool, security: Item | None, format: Item | None = None) -> None:
        self.engine.command(["redirect", 1, phone.address, phone.control_address, sends, format, security])

    def test_hold(self) -> None:
        """Held and resumed under the same keys, the stream goes on where it was: no index comes twice or is skipped."""
        phone = self.phone()
        self.opened()
        security = phone.secure()
        self.play(1, phone, bytes(160 * 10), security=security)
        self.pass_time(4)
        self.redirect(phone, False, security)
        self.pass_time(10)
        self.redirect(phone, True, security)
        self.pass_time(6)
        sequences = [packet.sequence for packet in phone.heard()]
        self.assertEqual(sequences, [(sequences[0] + index) & 0xFFFF for index in range(10)])

    def test_other_keys(self) -> None:
        """A later offer's keys hold from the next packet on; without any the stream is plain."""
        phone = self.phone()
        port = self.opened()
        self.play(1, phone, bytes(160 * 20), security=phone.secure())
        self.pass_time(2)
        self.assertEqual(len(phone.heard()), 2)
        first = phone.protected()
        self.redirect(phone, True, phone.secure("AES_CM_128_HMAC_SHA1_80"))
        phone.speak(port, first)
        phone.speak(port, phone.protected())
        self.hear()
        self.pass_time(2)
        self.assertEqual(len(phone.heard()), 2)
        self.redirect(phone, True, None)
        phone.send(port)
        self.hear()
        self.pass_time(2)
        self.assertEqual(len(phone.packets()), 2)
        self.redirect(phone, True, phone.secure(), self.format(bytes(160 * 20), "PCMA", 8))
        self.pass_time(2)
        self.assertEqual([packet.payload_type for packet in phone.heard()], [8, 8])
        self.assertEqual(self.closed()["packets_received"], 2)

    def test_one_key_changes(self) -> None:
        """The direction whose key stays goes on with its counter and its window."""
        phone = self.phone()
        port = self.opened()
        ours, theirs = phone.secure()
        self.play(1, phone, bytes(160 * 20), security=[ours, theirs])
        told = phone.protected()
        phone.speak(port, told)
        self.hear()
        other = Keys.generate("AEAD_AES_128_GCM")
        self.redirect(phone, True, [other.pack(), theirs])
        phone.speak(port, told)
        self.hear()
        phone.receiver = Receiver(other)
        self.pass_time(2)
        self.assertEqual(len(phone.heard()), 2)
        self.assertEqual(self.closed()["packets_received"], 1)

    def test_keys_that_are_none(self) -> None:
        """They end that call only, and what is said of it has nothing of them."""
        phone = self.phone()
        self.opened()
        ours, theirs = phone.secure()
        self.play(1, phone, security=[ours, [*theirs[:1], theirs[1][:8], *theirs[2:]]])
        ((verb, number, words),) = self.events()
        self.assertEqual((verb, number), ("lost", 1))
        self.assertNotIn(theirs[1][:8], words)

    def test_behind_a_nat(self) -> None:
        """Media and RTCP from another port are followed only where they are authentic, and then not lost."""
        phone = self.phone()
        port = self.opened()
        self.play(1, phone, bytes(160 * 50), nat=["127.0.0.1"], remote=("127.0.0.1", 9), security=phone.secure())
        phone.send(port)
        phone.rtcp.sendto(self.report(1), ("127.0.0.1", port + 1))
        self.hear()
        self.pass_time(2)
        self.assertEqual(received(phone.rtp), [])
        phone.speak(port, phone.protected())
        self.hear()
        self.pass_time(2)
        (heard, _) = phone.heard()
        other = self.phone()
        other.sender = phone.sender
        report = other.sender.protect_control(self.report(heard.ssrc))
        other.rtcp.sendto(report[:-1] + bytes([report[-1] ^ 1]), ("127.0.0.1", port + 1))
        self.hear()
        other.rtcp.sendto(report, ("127.0.0.1", port + 1))
        self.hear()
        figures = self.closed()
        self.assertEqual((figures["packets_received"], figures["fraction_lost_by_peer"]), (1, 0.25))
