"""IPv6 from the request to the last packet, and both families over one socket."""

from __future__ import annotations

import socket
from unittest import SkipTest

from tests.interop import scenarios as sc
from tests.interop.case import SHORT, InteropCase, settings, trunk
from tests.interop.harness import Sipp, free_udp_port, need, sipp, web_server
from tests.interop.hearing import Ear, by_ffmpeg, correlation, u_law_to_pcm


class Ipv6Tests(InteropCase):
    def setUp(self) -> None:
        need("sipp")
        try:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
                probe.bind(("::1", 0))
        except OSError:
            raise SkipTest("skipped: this machine has no IPv6 loopback") from None
        super().setUp()

    def carrier(self, host: str, scenario: str, ear: Ear, folder: str = "sipp") -> Sipp:
        self.world.callback(ear.close)
        return self.world.enter_context(
            sipp(self.folder / folder, scenario, "-key", "rtp", str(ear.port), address=host)
        )

    def hears(self, ear: Ear) -> None:
        self.assertGreaterEqual(correlation(u_law_to_pcm(ear.octets()), by_ffmpeg(SHORT)), 0.99)

    def test_refused(self) -> None:
        """486 over IPv6 is reason 5, and a closed port (ICMPv6) reason 0."""
        closed = trunk(free_udp_port(), name="closed", host="[::1]", more='prefixes = ["1213"]')
        carrier = self.carrier("::1", sc.refuse("486 Busy Here", ringing=True), Ear("::1"))
        daemon = self.run_daemon(settings(trunk(carrier.port, host="[::1]"), closed, host="::1"))
        self.assertEqual(self.outcome(self.call(daemon)), ("0", "5"))
        self.assertEqual(carrier.wait(), 0, carrier.explain())
        self.assertEqual(self.outcome(self.call(daemon, phone_number="2135550100")), ("0", "0"))

    def test_hold(self) -> None:
        """A re-INVITE over IPv6 moves and holds the audio."""
        carrier = self.carrier(
            "::1",
            sc.scenario(
                sc.receive("INVITE", inner=sc.KEEP_DIALOG),
                sc.OK,
                sc.receive("ACK"),
                sc.pause(400),
                sc.reinvite(1, "sendonly"),
                sc.pause(300),
                sc.reinvite(2, "sendrecv"),
                sc.GOODBYE,
                sc.REFERENCE,
            ),
            ear := Ear("::1"),
        )
        daemon = self.run_daemon(settings(trunk(carrier.port, host="::1"), host="::1"))
        self.assertEqual(self.outcome(self.call(daemon)), ("1", ""))
        self.assertEqual(carrier.wait(), 0, carrier.explain())
        self.hears(ear)

    def test_both_families(self) -> None:
        """Sockets on [::] call an IPv4 trunk and an IPv6 trunk; each is told an address of its own family."""
        old, new = Ear(), Ear("::1")
        answers = sc.scenario(sc.ANSWER, sc.GOODBYE)
        four, six = self.carrier("127.0.0.1", answers, old, "four"), self.carrier("::1", answers, new, "six")
        trunks = (
            trunk(four.port, name="four", more='prefixes = ["1212"]'),
            trunk(six.port, name="six", host="::1", more='prefixes = ["1213"]'),
        )
        daemon = self.run_daemon(settings(*trunks, host="::"))
        self.ask(daemon, phone_number="2125550100")
        self.ask(daemon, phone_number="2135550100")
        self.assertEqual([self.outcome(self.web.next_callback()) for _ in trunks], [("1", "")] * 2)
        self.assertIn("INVITE sip:+12135550100@[::1]:", six.messages())
        self.assertNotIn("127.0.0.1", six.messages())
        for carrier, ear, words in ((four, old, "c=IN IP4 127.0.0.1"), (six, new, "c=IN IP6 ::1")):
            self.assertEqual(carrier.wait(), 0, carrier.explain())
            self.assertIn(words, carrier.messages())
            self.assertNotIn("::ffff", carrier.messages())
            self.hears(ear)

    def test_web(self) -> None:
        """The request comes in, the MP3 is fetched and the callback goes out over IPv6."""
        web = self.world.enter_context(web_server({"/short.mp3": SHORT.read_bytes()}, host="::1"))
        daemon = self.run_daemon(settings(trunk(free_udp_port())), host="::1")
        self.ask(daemon, mp3=f"{web.url}/short.mp3", callback_url=f"{web.url}/callback?a=b")
        told = web.next_callback()
        self.assertEqual(self.outcome(told), ("0", "0"))
        self.assertEqual(told.headers["host"], f"[::1]:{web.port}")
        self.assertEqual(web.fetched, ["/short.mp3"])
