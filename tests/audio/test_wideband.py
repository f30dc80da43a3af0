"""G.722 and Opus, read back by FFmpeg's decoders."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from calledind.audio.decode import Decoder
from calledind.audio.pcm import read_mp3_at
from calledind.audio.wideband import Encoder
from calledind.codecs import CODECS, G722, OPUS
from calledind.settings.tables import Audio
from tests.audio.mp3 import sample, silence

VOICE = "44100-mono-no-xing.mp3"


def decoded(name: str, packets: list[bytes], rate: int) -> NDArray[np.float64]:
    """What a telephone hears of these packets, in 16-bit steps, at this rate."""
    context: Any = av.CodecContext.create(name, "r")
    context.sample_rate, context.layout = rate, "mono"
    heard = []
    for packet in packets:
        for frame in context.decode(av.Packet(packet)):
            samples = frame.to_ndarray().astype(np.float64)[0]
            heard.append(samples * (32768.0 if frame.format.name == "fltp" else 1.0))
    return np.concatenate(heard)


def octets(data: bytes) -> list[bytes]:
    return [data[at : at + 160] for at in range(0, len(data), 160)]


def packets(data: bytes) -> list[bytes]:
    """A file of packets, read as its description says."""
    count = int.from_bytes(data[:4], "little")
    bounds = np.frombuffer(data, "<u4", count + 1, 4)
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


def likeness(heard: NDArray[np.float64], sent: NDArray[np.int16]) -> float:
    """The greatest normalised correlation over all shifts of less than 20 ms."""
    best = 0.0
    for shift in range(1000):
        part = heard[shift : shift + len(sent)]
        pcm = sent[: len(part)].astype(np.float64)
        best = max(best, float(part @ pcm / np.sqrt((part @ part) * (pcm @ pcm))))
    return best


class EncodingTests(SynchronousTestCase):
    def voice(self, rate: int) -> NDArray[np.int16]:
        return read_mp3_at(sample(VOICE), 180.0, (8000, rate))[rate]

    def test_g722(self) -> None:
        """64 kbit/s in whole packets of 20 ms; the voice is there, up to what a telephone of 7 kHz has."""
        pcm = self.voice(16000)
        data = Encoder(G722)(pcm[:-100])
        self.assertEqual(len(data), -(-(len(pcm) - 100) // 320) * 160)
        self.assertGreater(likeness(decoded("g722", octets(data), 16000), pcm[:-100]), 0.99)

    def test_opus(self) -> None:
        """A packet for each 20 ms and one for what the encoder holds back; the voice is there."""
        pcm = self.voice(48000)
        encoded = packets(Encoder(OPUS)(pcm))
        self.assertEqual(len(encoded), -(-len(pcm) // 960) + 1)
        self.assertLess(max(map(len, encoded)), 400)
        # Frames of 20 ms and one of them in each packet, mono (RFC 6716 §3.1).
        self.assertTrue(
            all(packet[0] & 0x07 == 0 and packet[0] >> 3 in (1, 5, 9, 13, 15, 19, 23, 27, 31) for packet in encoded)
        )
        self.assertGreater(likeness(decoded("libopus", encoded, 48000), pcm), 0.98)

    def test_silence(self) -> None:
        """What is sent before and after the audio is not heard, at the beginning or after a loud voice."""
        for codec, name, voice in (
            (G722, "g722", octets(Encoder(G722)(self.voice(16000)))),
            (OPUS, "libopus", packets(Encoder(OPUS)(self.voice(48000)))),
        ):
            quiet = codec.silence if codec.packets else codec.silence * 160
            begins = decoded(name, [quiet] * 20, codec.sample_rate)
            self.assertLess(np.abs(begins).max(), 33, codec.name)
            loud = next(
                at
                for at in range(20, len(voice))
                if np.abs(decoded(name, voice[:at], codec.sample_rate)[-100:]).max() > 3000
            )
            after = decoded(name, [*voice[:loud], *[quiet] * 20], codec.sample_rate)
            self.assertLess(np.abs(after[(loud + 4) * codec.sample_rate // 50 :]).max(), 66, codec.name)


class ProcessTests(TestCase):
    """In the confined process."""

    timeout = 60

    async def test_every_codec(self) -> None:
        """One job makes all encodings that it names, of the same length, also of the longest audio that is taken."""
        decoder = Decoder(reactor, Audio(max_seconds=60.0))
        self.addCleanup(decoder.stop)
        folder = Path(self.mktemp())
        folder.mkdir()  # noqa: ASYNC240
        await decoder.start()
        for name, data in (("voice", sample(VOICE)), ("long", silence(60.0))):
            (folder / "a.mp3").write_bytes(data)
            files = {codec: folder / f"{name}.{codec}" for codec in CODECS}
            duration = await decoder.decode(folder / "a.mp3", files)
            self.assertEqual(files["PCMU"].stat().st_size, duration * 8000)
            self.assertEqual(files["G722"].stat().st_size, -(-duration // 0.02) * 160)
            self.assertLess(abs(len(packets(files["opus"].read_bytes())) - duration * 50), 2.0)
