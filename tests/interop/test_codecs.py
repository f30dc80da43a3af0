"""What is in the packets, with telephones and answers that we did not write."""

from __future__ import annotations

from tests.interop.case import SHORT, InteropCase, settings, trunk
from tests.interop.hearing import by_ffmpeg, correlation, from_wav
from tests.interop.test_baresip import Baresip


class TelephoneTests(InteropCase):
    def test_g722_and_opus(self) -> None:
        """A telephone that speaks G.722 alone hears all of the MP3, and so does one that speaks Opus alone."""
        callees = {}
        trunks = []
        for number, ours, theirs, rate, channels in (
            ("2125550101", "G722", "G722/16000/1", 16000, 1),
            ("2125550102", "opus", "opus/48000/2", 48000, 2),
        ):
            callee = Baresip(self.folder / number, number=number, codec=theirs, more="module g722.so\nmodule opus.so\n")
            self.world.callback(callee.close)
            callees[number] = callee, theirs, rate, channels
            more = f'prefixes = ["1{number}"]\ncodecs = ["{ours}", "PCMU"]'
            trunks.append(trunk(callee.port, name=ours, more=more))
        daemon = self.run_daemon(settings(*trunks))
        calls = []
        for number, (callee, *_) in callees.items():
            callee.wait("baresip is ready")
            calls.append(self.ask(daemon, phone_number=number))
        for _ in callees:
            self.assertEqual(self.outcome(self.web.next_callback()), ("1", ""))
        for callee, theirs, rate, channels in callees.values():
            callee.wait("terminated (duration")
            name = theirs.split("/")[0]
            self.assertIn(f"Set audio decoder: {name} {rate}Hz", callee.said())
            callee.close()
            heard = from_wav(callee.heard(), rate, channels)
            self.assertGreaterEqual(correlation(heard, by_ffmpeg(SHORT, rate)), 0.98, name)
        for call_id, codec in zip(calls, ("G722", "opus"), strict=True):
            media = daemon.admin("GET", f"/calls/{call_id}")["media"]
            self.assertEqual((media["codec"], media["packets_lost_by_peer"]), (codec, 0))
            self.assertGreater(media["mos"], 4.0)
