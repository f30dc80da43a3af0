"""From the octets of an MP3 to mono 16-bit linear PCM at 8,000 samples a second, and at more where that is wanted.

The truth about an MP3 is what comes out of its decoder. Its headers are asked only whether it is layer 3: a Xing
header can claim a quarter of a second for ten minutes, and a file that was cut keeps the claim of the whole.

The resampler decides what a phone hears. Everything above 4,000 Hz that is left folds back into speech, and the
defaults of libswresample leave it 15 dB below the voice. With `_RESAMPLER` the pass band is flat to 3,600 Hz, beyond
G.712's 3,400, and what folds back is more than 90 dB down.

One Python loop runs per MP3 frame (26 ms of audio), so each turn does the least: the channels are added into a
buffer of some seconds, and the resampler is handed that.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from fractions import Fraction
from typing import Any

import av
import av.error
import av.filter
import av.logging
import numpy as np
from mutagen import MutagenError
from mutagen.mp3 import MPEGInfo
from numpy.typing import NDArray

from calledind.audio.encode import SAMPLE_RATE
from calledind.audio.errors import too_long, unusable
from calledind.audio.tags import audio_span

_RESAMPLER = "{rate}:filter_size={taps}:cutoff=0.95:out_sample_fmt=s16"
_TAPS = {48000: 32}
"Of the resampler's filter by the rate it makes. At 48,000 what folds back is beyond what an ear hears."
_USUAL_TAPS = 96
_BLOCK = 1 << 17
"Samples that are gathered before the resampler is called."
_LONGEST_FRAME = 4608
PADDING = 0.1
"Seconds that encoder and decoder may add to what was recorded."
_FEW = 5
"Damaged frames that any file may have: its first and last where it was cut, and what one wrong octet takes along."
_DAMAGED_SHARE = 0.1
"Of all frames; with more, what is left is not worth a phone call."

av.logging.set_level(av.logging.PANIC)


PCM = NDArray[np.int16]
"Shape (n,), mono."


def read_mp3(data: bytes, max_seconds: float) -> PCM:
    """Decode a whole MP3 file, as `read_mp3_at` does, to 8,000 samples a second."""
    return read_mp3_at(data, max_seconds, (SAMPLE_RATE,))[SAMPLE_RATE]


def read_mp3_at(data: bytes, max_seconds: float, rates: Collection[int]) -> dict[int, PCM]:
    """Decode a whole MP3 file, tags and all, once. Returns it at each of the rates, in samples a second.

    Two channels become the half of their sum. Raises AudioError: MP3_UNUSABLE for what is not layer 3 audio of one
    sample rate and number of channels throughout, MP3_TOO_LONG as soon as more than `max_seconds` were decoded.
    """
    start, end = audio_span(data)
    audio = data[start:end]
    _check_layer(audio)
    try:
        with av.open(io.BytesIO(audio), "r", format="mp3", metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise unusable("there is no audio in it")
            stream = container.streams.audio[0]
            stream.codec_context.thread_count = 1
            if stream.codec_context.codec.canonical_name != "mp3":
                raise unusable("it is not MPEG layer 3")
            return _decode(container, stream, max_seconds, rates)
    except av.error.FFmpegError as error:
        raise unusable(f"it can't be decoded: {error.strerror}") from None


def _check_layer(audio: bytes) -> None:
    if audio[:4] in (b"RIFF", b"OggS", b"fLaC", b"\x1aE\xdf\xa3") or audio[4:8] == b"ftyp":
        raise unusable("it is another kind of file, not an MP3")
    try:
        info = MPEGInfo(io.BytesIO(audio), offset=0)
    except MutagenError:
        raise unusable("there are no MPEG audio frames in it") from None
    if info.layer != 3:
        raise unusable(f"it is MPEG layer {info.layer}, not layer 3")


def _decode(container: Any, stream: Any, max_seconds: float, rates: Collection[int]) -> dict[int, PCM]:
    rate, channels = stream.rate, stream.channels
    if not rate or channels not in (1, 2):
        raise unusable(f"it has {channels} channels at {rate} samples a second")
    most = int((max_seconds + PADDING) * rate)
    resamplers = {wanted: Resampler(rate, wanted) for wanted in rates}
    block = np.empty(_BLOCK + _LONGEST_FRAME, np.float32)
    filled = decoded = packets = damaged = 0
    for packet in container.demux(stream):
        packets += 1
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            damaged += 1
            continue
        for frame in frames:
            samples = frame.samples
            if frame.sample_rate != rate or len(frame.planes) != channels or samples > _LONGEST_FRAME:
                # Stray octets that look like a header are passed over; a real change of the format is many frames.
                damaged += 1
                continue
            _mix(frame.planes, samples, block[filled : filled + samples])
            filled += samples
            decoded += samples
            if decoded > most:
                raise too_long(f"it plays longer than {max_seconds:g} seconds")
            if filled >= _BLOCK:
                for resampler in resamplers.values():
                    resampler.push(block[:filled])
                filled = 0
    if damaged > _FEW and damaged > packets * _DAMAGED_SHARE:
        raise unusable(f"{damaged} of its {packets} frames are damaged or of another format")
    for resampler in resamplers.values():
        resampler.push(block[:filled])
    pcm = {wanted: resampler.finish() for wanted, resampler in resamplers.items()}
    if not all(map(len, pcm.values())):
        raise unusable("there is no audio in it")
    return pcm


def _mix(planes: Any, samples: int, into: NDArray[np.float32]) -> None:
    if len(planes) == 1:
        into[:] = np.frombuffer(planes[0], np.float32, samples)
    else:
        np.add(np.frombuffer(planes[0], np.float32, samples), np.frombuffer(planes[1], np.float32, samples), out=into)
        into *= _HALF


_HALF = np.float32(0.5)


class Resampler:
    """libswresample, from mono float at `rate` samples a second to 16-bit integers at `wanted`."""

    def __init__(self, rate: int, wanted: int = SAMPLE_RATE) -> None:
        self._rate = rate
        self._pushed = 0
        self._resampled: list[NDArray[np.int16]] = []
        # Kept: the contexts don't keep their graph alive.
        self._graph = av.filter.Graph()
        self._graph.threads = 1
        self._source = self._graph.add_abuffer(
            sample_rate=rate, format="fltp", layout="mono", time_base=Fraction(1, rate)
        )
        self._sink = self._graph.add("abuffersink")
        how = _RESAMPLER.format(rate=wanted, taps=_TAPS.get(wanted, _USUAL_TAPS))
        self._graph.link_nodes(self._source, self._graph.add("aresample", how), self._sink).configure()

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take shape (n,), -1.0 to 1.0; louder ones are clipped."""
        if not len(samples):
            return
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = self._rate
        frame.pts = self._pushed
        self._pushed += len(samples)
        self._source.push(frame)
        self._drain()

    def finish(self) -> NDArray[np.int16]:
        """Return all that came out, shape (n,)."""
        if self._pushed:
            self._source.push(None)
            self._drain()
        if not self._resampled:
            return np.empty(0, np.int16)
        return np.concatenate(self._resampled)

    def _drain(self) -> None:
        while True:
            try:
                frame: Any = self._sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            self._resampled.append(frame.to_ndarray()[0])
