# mypy: allow-untyped-calls
"""The built-in carrier, called by the daemon's own user agent over a network in memory."""

from __future__ import annotations

import itertools
import wave
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.rtp.g711 import DECODED
from calledind.rtp.packet import Packet
from calledind.simulator.scenarios import CREDENTIALS, SCENARIOS, scenario_of
from calledind.sip.auth import Credentials
from calledind.sip.events import Answered, Ended, Progress, Refused, Unreachable
from tests.simulator.carrier_world import OUR_RTP, US, CarrierWorld
from tests.sip.network import DELAY, Datagram

LAST_WORDS: dict[str, object] = {
    "busy": 486,
    "declines": 603,
    "rings": 487,
    "telephone": 487,
    "congestion": 503,
    "unknown": 404,
    "early media": 486,
    "silent": "timeout",
    "away": 480,
    "incompatible": 488,
    "terminated": 487,
    "q850": 480,
    "leaves": "peer",
}
"Scenario -> how a call to it ends for a caller who hangs up after 40 s; all others are ended by the caller."


class CarrierTestCase(SynchronousTestCase):
    def world(self, **how: Any) -> CarrierWorld:
        return CarrierWorld(Path(self.mktemp()), **how)

    def last_word(self, world: CarrierWorld) -> object:
        words = [event for event in world.events if isinstance(event, Refused | Unreachable | Ended)]
        self.assertEqual(len(words), 1, world.network.ladder())
        (word,) = words
        return word.status if isinstance(word, Refused) else word.cause if isinstance(word, Unreachable) else word.by


class ScenarioTests(CarrierTestCase):
    def test_every_number(self) -> None:
        """Each number does what its scenario says, ends with one last word, and leaves nothing behind."""
        for number, scenario in SCENARIOS.items():
            world = self.world()
            session = world.call(number, credentials=Credentials(*CREDENTIALS))
            world.network.pass_time(40)
            session.end()
            world.network.pass_time(80)
            answered = any(isinstance(event, Answered) for event in world.events)
            self.assertEqual(answered, scenario.answered, scenario.name)
            self.assertEqual(self.last_word(world), LAST_WORDS.get(scenario.name, "us"), scenario.name)
            if not scenario.deaf:
                (heard,) = world.heard
                self.assertEqual((heard.scenario, heard.answered), (scenario.name, scenario.answered))
                self.assertEqual(heard.notes, (), scenario.name)
            self.assertEqual(list(world.reactor.ports), [world.address], scenario.name)
            self.assertEqual(world.network.clock.getDelayedCalls(), [], scenario.name)

    def test_number_in_any_form(self) -> None:
        """The number is found with or without the plus; what is no number of the table listens."""
        for user in ("+12125550101", "12125550101", "2125550101"):
            self.assertEqual(scenario_of(user).name, "busy")
        for user in ("", "anonymous", "+442125550000", "١"):
            self.assertEqual(scenario_of(user).name, "listens")

    def test_q850(self) -> None:
        """The cause in a Reason header reaches the caller."""
        world = self.world()
        world.call("2125550119")
        world.network.pass_time(1)
        self.assertIn(17, [event.q850 for event in world.events if isinstance(event, Refused)])

    def test_early_media(self) -> None:
        """Early media is described in the 183."""
        world = self.world()
        world.call("2125550108")
        world.network.pass_time(1)
        self.assertTrue(any(isinstance(e, Progress) and e.status == 183 and e.sdp for e in world.events))

    def test_a_law(self) -> None:
        """Who hears only A-law answers with that alone."""
        world = self.world()
        world.call("2125550115")
        world.network.pass_time(3)
        assert world.agreed is not None
        self.assertEqual((world.agreed.codec, world.agreed.payload_type), ("PCMA", 8))

    def test_hold(self) -> None:
        """Who holds the call asks for it, and takes it back."""
        world = self.world()
        world.call("2125550117")
        world.network.pass_time(3.6)
        self.assertEqual(world.offers, ["sendonly"])
        assert world.agreed is not None
        self.assertFalse(world.agreed.sends)
        world.network.pass_time(1)
        self.assertEqual(world.offers, ["sendonly", "sendrecv"])

    def test_audio_during_hold(self) -> None:
        """A caller who goes on talking during a hold is complained of."""
        world = self.world()
        session = world.call("2125550117")
        world.network.pass_time(3.6)
        assert world.agreed is not None
        world.rtp(bytes(Packet(0, 1, 0, 7, b"\0" * 160)), ("127.0.0.1", world.agreed.remote[1]))
        world.network.pass_time(1)
        session.end()
        world.network.pass_time(1)
        self.assertIn("1 packets came while the call was on hold", world.heard[0].notes)

    def test_challenge(self) -> None:
        """Without the password there is no call, and what is reported is only a call that was one."""
        for credentials in (None, Credentials("simulator", "guess")):
            world = self.world()
            world.call("2125550110", credentials=credentials)
            world.network.pass_time(80)
            self.assertEqual(self.last_word(world), 407)
            self.assertEqual(world.heard, [])

    def test_loss(self) -> None:
        """A lossy number loses SIP messages, and the call is made all the same."""
        world = self.world()
        session = world.call("2125550111")
        world.network.pass_time(20)
        session.end()
        world.network.pass_time(80)
        self.assertEqual(self.last_word(world), "us")
        assert world.agreed is not None

    def test_deaf(self) -> None:
        """The silent number sends nothing at all."""
        world = self.world()
        world.call("2125550112")
        world.network.pass_time(80)
        self.assertEqual(world.labels(world.address), [])
        self.assertEqual(world.labels(US).count("INVITE"), 7)


class StrictTests(CarrierTestCase):
    def test_no_ack(self) -> None:
        """A 2xx is repeated until its ACK comes; without one the call is hung up and reported as lost."""
        world = self.world(acknowledges=False)
        world.call("2125550100")
        world.network.pass_time(40)
        sent = [datagram for datagram in world.network.sent if datagram.label == "200 INVITE"]
        self.assertGreaterEqual(len(sent), 10)
        self.assertEqual([round(b.time - a.time, 2) for a, b in itertools.pairwise(sent)], [0.5, 1.0, 2.0] + [4.0] * 7)
        (heard,) = world.heard
        self.assertEqual((heard.ended_by, len(heard.notes)), ("nobody", 1))

    def test_cancel(self) -> None:
        """A cancelled INVITE gets 487, the CANCEL 200, and the script stops."""
        world = self.world()
        session = world.call("2125550106")
        world.network.pass_time(2)
        session.end()
        world.network.pass_time(60)
        answers = world.labels(world.address)
        self.assertEqual((answers.count("487 INVITE"), answers.count("200 CANCEL")), (1, 1))
        self.assertNotIn("200 INVITE", answers)
        self.assertEqual([heard.ended_by for heard in world.heard], ["cancelled"])

    def test_unknown(self) -> None:
        """BYE and CANCEL that belong to nothing get 481."""
        for method in ("BYE", "CANCEL"):
            world = self.world()
            head = f"{method} sip:x@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5080;branch=z9hG4bK1;rport\r\n"
            rest = f"From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\nCall-ID: x\r\nCSeq: 1 {method}\r\n\r\n"
            world.network.attach(US)((head + rest).encode(), world.address)
            world.network.pass_time(1)
            self.assertEqual(world.labels(world.address), [f"481 {method}"])

    def test_unusable_offer(self) -> None:
        """An offer without a codec of ours gets 488, and the reason is noted."""
        world = self.world()
        world.call("2125550100", sdp=bytes(world.offer).replace(b"RTP/AVP 0 8", b"RTP/AVP 18 3"))
        world.network.pass_time(3)
        self.assertEqual(self.last_word(world), 488)
        self.assertEqual(len(world.heard[0].notes), 1)

    def test_fork_left_hanging(self) -> None:
        """A caller who forgets about the second telephone is complained of."""
        world = self.world()

        def rule(datagram: Datagram) -> list[float]:
            # The BYE to the second telephone never arrives.
            early = datagram.label == "BYE" and datagram.source == US and datagram.time < 5
            return [] if early else [DELAY]

        world.network.rule = rule
        session = world.call("2125550109")
        world.network.pass_time(5)
        session.end()
        world.network.pass_time(0.2)
        self.assertIn("the call with the second telephone was not ended (RFC 3261 §13.2.2.4)", world.heard[0].notes)

    def test_stop(self) -> None:
        """A carrier that stops hangs up, and lets go of all its ports."""
        world = self.world()
        world.call("2125550100")
        world.network.pass_time(3)
        self.successResultOf(world.carrier.stop())
        self.assertEqual(world.heard[0].notes, ("the carrier was stopped",))
        self.assertEqual(world.reactor.ports, {})

    @settings(deadline=None, derandomize=True, max_examples=100)
    @given(st.binary(max_size=200), st.integers(0, 700), st.integers(0, 3))
    def test_nonsense(self, junk: bytes, place: int, cut: int) -> None:
        """Whatever comes, in place of an INVITE or in the middle of one, nothing is raised."""
        world = CarrierWorld(Path("unused-recordings"))
        world.carrier._datagram_received(junk, US)
        world.call("2125550101")
        invite = world.network.sent[-1].data
        world.carrier._datagram_received(invite[:place] + junk + invite[place + cut * 100 :], US)
        world.network.pass_time(0.5)


class RecordingTests(CarrierTestCase):
    def test_what_was_heard(self) -> None:
        """What comes after the ACK is in the WAV that is reported, with its figures, under the number's name."""
        world = self.world()
        session = world.call("2125550100")
        world.network.pass_time(2)
        assert world.agreed is not None
        for number in (0, 1, 2, 4):
            packet = bytes(Packet(0, number, number * 160, 7, bytes([number]) * 160))
            world.rtp(packet, world.agreed.remote)
            world.network.pass_time(0.02)
        session.end()
        world.network.pass_time(1)
        (heard,) = world.heard
        self.assertEqual((heard.number, heard.ended_by, heard.codec), ("12125550100", "caller", "PCMU"))
        self.assertEqual((heard.packets, heard.lost, heard.strays, heard.seconds), (4, 1, 0, 0.1))
        self.assertEqual(heard.started, 1e9)
        assert heard.file is not None
        with wave.open(heard.file, "rb") as file:
            samples = np.frombuffer(file.readframes(1000), dtype="<i2")
        expected = [
            int(DECODED["PCMU"][0]),
            int(DECODED["PCMU"][1]),
            int(DECODED["PCMU"][2]),
            0,
            int(DECODED["PCMU"][4]),
        ]
        self.assertEqual(samples[::160].tolist(), expected)
        self.assertTrue(Path(heard.file).name.startswith("12125550100-"))
        self.assertEqual(world.carrier.recordings(), [heard.row()])

    def test_last_packet(self) -> None:
        """A packet that is read just after the BYE was sent before it, and is heard."""
        world = self.world()
        session = world.call("2125550100")
        world.network.pass_time(2)
        assert world.agreed is not None
        session.end()
        world.rtp(bytes(Packet(0, 1, 0, 7, b"\0" * 160)), world.agreed.remote)
        world.network.pass_time(1)
        self.assertEqual((world.heard[0].packets, world.heard[0].ended_by), (1, "caller"))

    def test_somebody_else(self) -> None:
        """RTP from another port than the offer's is not heard."""
        world = self.world()
        session = world.call("2125550100")
        world.network.pass_time(2)
        assert world.agreed is not None
        send = world.network.attach((OUR_RTP[0], 9))
        send(bytes(Packet(0, 1, 0, 7, b"\0" * 160)), world.agreed.remote)
        world.network.pass_time(1)
        session.end()
        world.network.pass_time(1)
        self.assertEqual((world.heard[0].packets, world.heard[0].strays), (0, 1))

    def test_full_disk(self) -> None:
        """A recording that can't be written is reported without its file."""
        world = self.world()
        session = world.call("2125550100")
        world.network.pass_time(2)
        world.recordings.rmdir()
        session.end()
        world.network.pass_time(1)
        self.assertIs(world.heard[0].file, None)
