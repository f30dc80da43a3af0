"""What comes out of the decoder, compared with what went in and with what ffmpeg makes of it."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import wave
import zlib
from io import BytesIO

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from calledind.audio.encode import mu_law
from calledind.audio.errors import AudioError
from calledind.audio.pcm import Resampler, read_mp3
from calledind.audio.tags import audio_span
from calledind.model import ReturnCode
from tests.audio.mp3 import NAMES, SAMPLES, ape_footer, id3v2, sample, silence, speech

LIMIT = 180.0
DELAYED = {"22050-mono.mp3": 401, "44100-mono-no-xing.mp3": 200}
"These don't say how much their encoder put in front (1,105 samples by LAME), so it stays."


def correlation(one: NDArray[np.int16], other: NDArray[np.int16]) -> float:
    n = min(len(one), len(other))
    return float(np.corrcoef(one[:n].astype(float), other[:n].astype(float))[0, 1])


def linear(octets: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Decode mu-law by the recommendation's formula."""
    inverted = ~octets.astype(np.int32) & 0xFF
    value = (((2 * (inverted & 0x0F) + 33) << (inverted >> 4 & 7)) - 33) * 4
    return np.where(inverted & 0x80, -value, value).astype(np.int16)


class FidelityTests(SynchronousTestCase):
    def test_what_was_said_is_what_is_heard(self) -> None:
        """Every sample rate and channel mode gives the speech that was encoded, from its first word on."""
        said = speech()
        for name in NAMES:
            delay = DELAYED.get(name, 0)
            heard = read_mp3(sample(name), LIMIT)[delay:]
            # Half a sample of delay can't be taken out by a shift.
            least = 0.9 if delay else 0.98
            self.assertGreater(correlation(heard, said), least, name)
            self.assertGreater(correlation(heard[:4000], said[:4000]), least, name)

    def test_the_length_is_kept(self) -> None:
        """What comes out is as long as what went in, but for what the encoder added."""
        for name in NAMES:
            self.assertLess(abs(len(read_mp3(sample(name), LIMIT)) / 8000 - 1.9), 0.07, name)

    def test_the_same_as_ffmpeg(self) -> None:
        """Our mu-law octets, read back, correlate with ffmpeg's own decode by more than 0.999."""
        ffmpeg = shutil.which("ffmpeg")
        if ffmpeg is None:
            raise SkipTest("ffmpeg is not installed")
        for name in NAMES:
            command = [ffmpeg, "-v", "error", "-i", str(SAMPLES / name), "-ar", "8000", "-ac", "1", "-f", "mulaw", "-"]
            theirs = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)
            ours = mu_law(read_mp3(sample(name), LIMIT))
            self.assertLessEqual(abs(len(theirs) - len(ours)), 2, name)
            self.assertGreater(correlation(linear(ours), linear(theirs)), 0.999, name)

    def test_both_channels_are_heard(self) -> None:
        """Two channels become the half of their sum: 1.0 and 0.5 of the speech give 0.75 of it."""
        expected = 0.75 * 0.95  # LAME takes 5 % off at a constant bit rate
        said = speech().astype(float)
        heard = read_mp3(sample("48000-stereo.mp3"), LIMIT).astype(float)
        gain = (heard @ said[: len(heard)]) / (said @ said)
        self.assertLess(abs(gain - expected), 0.01)


class ResamplerTests(SynchronousTestCase):
    @staticmethod
    def level(frequency: float, rate: int) -> float:
        """Return how loud a tone of -6 dB is after resampling, in dB of itself."""
        tone = (0.5 * np.sin(2 * np.pi * frequency * np.arange(rate // 2) / rate)).astype(np.float32)
        resampler = Resampler(rate)
        resampler.push(tone)
        heard = resampler.finish()[1000:3000] / 32768
        return float(20 * np.log10(np.sqrt(2 * np.mean(heard**2)) / 0.5 + 1e-9))

    def test_no_aliases(self) -> None:
        """What no telephone can carry does not fold back into the speech: less than -80 dB of it is left."""
        for rate in (44100, 48000, 32000, 24000, 22050, 16000, 12000, 11025):
            for frequency in np.linspace(4050, rate / 2 - 40, 24):
                self.assertLess(self.level(float(frequency), rate), -80, f"{frequency} Hz at {rate}")

    def test_the_voice_band_is_flat(self) -> None:
        """What a telephone carries, 300 to 3,400 Hz, keeps its level within 0.1 dB."""
        for rate in (44100, 48000, 32000, 24000, 22050, 16000, 12000, 11025, 8000):
            for frequency in (300, 1000, 2500, 3400):
                self.assertLess(abs(self.level(frequency, rate)), 0.1, f"{frequency} Hz at {rate}")

    def test_louder_than_full_scale_is_clipped(self) -> None:
        """Samples beyond full scale become the loudest ones and do not wrap around."""
        resampler = Resampler(8000)
        resampler.push(np.full(1000, 1.5, np.float32))
        self.assertGreater(int(resampler.finish()[400]), 32000)


PIECES = [
    b"TAG" + bytes(125),
    b"TAG",
    b"ID3\x04\0\0\0\0\0\x05abcde",
    b"ID3\x04\0\x10\x7f\x7f\x7f\x7f",
    ape_footer(32, has_header=False),
    ape_footer(0, has_header=True),
    ape_footer(0xFFFFFFFF, has_header=True),
    b"000000LYRICS200",
    b"999999LYRICS200",
    b"00\xb2\xb300LYRICS200",
    b"\xff\xfb\x90\xc4",
    b"",
]


class TagTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.bare = sample("44100-joint-vbr.mp3")
        self.expected = read_mp3(self.bare, LIMIT)

    def same(self, tagged: bytes) -> None:
        np.testing.assert_array_equal(read_mp3(tagged, LIMIT), self.expected)

    def test_huge_picture(self) -> None:
        """A picture of four megabytes in front, with MPEG headers in it, changes nothing."""
        picture = b"image/jpeg\0\3\0" + (b"\xff\xfb\x90\xc4" + bytes(413)) * 10_000
        self.same(id3v2(b"APIC" + struct.pack(">IH", len(picture), 0) + picture) + self.bare)

    def test_packed_bomb(self) -> None:
        """A tag that would unpack to 400 MB is stepped over."""
        packed = zlib.compressobj(9)
        body = b"".join(packed.compress(bytes(1 << 20)) for _ in range(400)) + packed.flush()
        self.same(
            id3v2(b"TXXX" + struct.pack(">IH", len(body), 0x0009) + struct.pack(">I", 400 << 20) + body) + self.bare
        )

    def test_several_in_front(self) -> None:
        """Tags one behind the other, one of them with a footer, are all stepped over."""
        self.same(id3v2(bytes(100)) + id3v2(bytes(50), flags=0x10) + b"3DI\x04\0\x10\0\0\0\x32" + self.bare)

    def test_behind(self) -> None:
        """ID3v1, APEv2 and Lyrics3 behind the audio are cut off, even with MPEG headers in them."""
        frames = (b"\xff\xfb\x90\xc4" + bytes(413)) * 100
        ape = b"APETAGEX" + bytes(24) + frames + ape_footer(len(frames) + 32, has_header=True)
        lyrics = b"LYRICSBEGIN" + frames
        lyrics += b"%06dLYRICS200" % len(lyrics)
        self.same(self.bare + ape + lyrics + b"TAG" + bytes(125))

    def test_length_beyond_the_end(self) -> None:
        """A tag that claims more than the file has leaves nothing to play."""
        self.assertEqual(refusal(id3v2(bytes(100))[:50] + b""), ReturnCode.MP3_UNUSABLE)

    @given(st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join), st.integers(0, 40))
    @settings(deadline=None, derandomize=True)
    def test_any_octets(self, data: bytes, cut: int) -> None:
        """Whatever is there, cut anywhere, the span lies within it."""
        data = data[: max(len(data) - cut, 0)]
        start, end = audio_span(data)
        self.assertTrue(0 <= start <= end <= len(data))

    def test_lying_footer(self) -> None:
        """A footer that claims more than the file has is not believed."""
        heard = read_mp3(self.bare + ape_footer(1 << 30, has_header=True), LIMIT)
        self.assertEqual(len(heard), len(self.expected))


def refusal(data: bytes, limit: float = LIMIT) -> ReturnCode | None:
    try:
        read_mp3(data, limit)
    except AudioError as error:
        return error.code
    return None


class LengthTests(SynchronousTestCase):
    def test_three_minutes(self) -> None:
        """180.0 s, and the tenth of a second that an encoder may add, is not too long; more is."""
        self.assertEqual(len(read_mp3(silence(180.0), LIMIT)), 180 * 8000)
        self.assertIsNone(refusal(silence(180.096)))
        self.assertEqual(refusal(silence(180.12)), ReturnCode.MP3_TOO_LONG)

    def test_much_longer(self) -> None:
        """An hour is refused as too long."""
        self.assertEqual(refusal(silence(3600)), ReturnCode.MP3_TOO_LONG)

    def test_claims_are_not_believed(self) -> None:
        """A Xing header that claims ten hours, or a frame, changes nothing."""
        honest = sample("44100-joint-vbr.mp3")
        at = honest.index(b"Xing") + 8
        expected = len(read_mp3(honest, LIMIT))
        for frames in (1, 1_378_125):
            lying = honest[:at] + struct.pack(">I", frames) + honest[at + 4 :]
            self.assertLess(abs(len(read_mp3(lying, LIMIT)) - expected), 800)

    def test_long_file_that_claims_to_be_short(self) -> None:
        """What plays for ten minutes is too long, whatever its Xing header says."""
        head = sample("48000-stereo.mp3")
        start = head.index(b"Info") if b"Info" in head else head.index(b"Xing")
        first = head[: start - 36 + 288]
        self.assertEqual(refusal(first + (b"\xff\xfb\x54\x04" + bytes(188)) * 25_000), ReturnCode.MP3_TOO_LONG)

    def test_shorter_limit(self) -> None:
        """The limit is the one that is given."""
        self.assertEqual(refusal(silence(2.0), 1.0), ReturnCode.MP3_TOO_LONG)
        self.assertIsNone(refusal(silence(1.0), 1.0))


class DamageTests(SynchronousTestCase):
    def test_cut_file(self) -> None:
        """A file that was cut plays as far as it goes, and one that lost its beginning from there on."""
        whole = sample("44100-mono-no-xing.mp3")
        expected = len(read_mp3(whole, LIMIT))
        for part in (whole[: len(whole) // 2 + 7], whole[len(whole) // 2 + 7 :]):
            self.assertLess(abs(len(read_mp3(part, LIMIT)) - expected / 2), 800)

    def test_not_an_mp3(self) -> None:
        """Nothing, text, a web page, noise and zeros are unusable."""
        noise = random.Random(7).randbytes(100_000)
        for data in (b"", b"\xff", b"\xff\xfb", b"hello\n", b"<!DOCTYPE html>" * 1000, noise, bytes(100_000)):
            self.assertEqual(refusal(data), ReturnCode.MP3_UNUSABLE, data[:20])

    def test_wav_by_another_name(self) -> None:
        """A WAV file is unusable, whatever it is called."""
        file = BytesIO()
        with wave.open(file, "wb") as wav:
            wav.setparams((1, 2, 8000, 0, "NONE", ""))
            wav.writeframes(speech().tobytes())
        self.assertEqual(refusal(file.getvalue()), ReturnCode.MP3_UNUSABLE)

    def test_layer_2(self) -> None:
        """MPEG layer 2 is not layer 3."""
        self.assertEqual(refusal(sample("layer2.mp3")), ReturnCode.MP3_UNUSABLE)

    def test_format_that_changes(self) -> None:
        """A file that goes on at another sample rate, or with another number of channels, is unusable."""
        rate = sample("44100-mono-no-xing.mp3") + sample("32000-mono.mp3")
        channels = sample("44100-mono-no-xing.mp3") + sample("44100-joint-vbr.mp3")
        for data in (rate, channels):
            self.assertEqual(refusal(data), ReturnCode.MP3_UNUSABLE)

    def test_stray_octets(self) -> None:
        """Octets that don't belong there, between frames, cost little of what is around them."""
        whole = sample("44100-mono-no-xing.mp3")
        expected = len(read_mp3(whole, LIMIT))
        frame = whole.index(whole[:2], 6000)
        for stray in (b"\0", bytes(300), b"\xff\xfb\x90", b"TAG" + bytes(125)):
            heard = read_mp3(whole[:frame] + stray + whole[frame:], LIMIT)
            self.assertLess(abs(len(heard) - expected), 8000 * 0.1, stray[:4])

    def test_one_frame(self) -> None:
        """Less than four frames are too little to tell an MP3 by."""
        self.assertEqual(refusal(silence(0.024)), ReturnCode.MP3_UNUSABLE)
