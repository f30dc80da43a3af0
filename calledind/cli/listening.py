"""Holds what a callee heard against what was to be played, by ways of its own.

The MP3 is decoded by PyAV and brought to 8,000 Hz by cutting its spectrum at 4,000 Hz, not by the resampler
that the daemon uses: a mistake there would show here as a low correlation.
"""

from __future__ import annotations

import math
import wave
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 8000
"Of everything compared, in Hz."
WINDOW = SAMPLE_RATE // 2
"Samples in one of the pieces that are compared by themselves: half a second."
AUDIBLE = 0.1
"A piece with less than this share of the whole's loudness is a pause, and not compared by itself."

Samples = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a recording compares with its source."""

    correlation: float
    "Of the part that both have, aligned: 1 is the same, 0 nothing in common."
    worst: float
    "The lowest correlation of any half second that is not a pause."
    offset: float
    "Seconds of recording before the source begins; negative when the recording begins within it."
    source: float
    "Seconds of the source."
    common: float
    "Seconds of the source that are in the recording."


def read_mp3(path: Path) -> Samples:
    """Return an MP3's samples at 8,000 Hz, channels mixed, full scale 1. Raises `av.FFmpegError`."""
    pieces: list[NDArray[np.float32]] = []
    with av.open(str(path), format="mp3", metadata_errors="ignore") as container:
        rate = container.streams.audio[0].rate
        for frame in container.decode(audio=0):
            planes = (
                frame.to_ndarray().reshape(-1, frame.samples)
                if frame.format.is_planar
                else (frame.to_ndarray().reshape(frame.samples, -1).T)
            )
            pieces.append(planes.mean(axis=0))
    samples = np.concatenate(pieces) if pieces else np.zeros(0)
    return at_rate(samples.astype(np.float64), rate)


def at_rate(samples: Samples, rate: int) -> Samples:
    """Resample from `rate` to 8,000 Hz by keeping the spectrum's lower part."""
    # Silence is added until the length is a whole number of samples at both rates: else time would be stretched.
    block = rate // math.gcd(rate, SAMPLE_RATE)
    length = round(len(samples) * SAMPLE_RATE / rate)
    samples = np.concatenate([samples, np.zeros(-len(samples) % block)])
    wanted = len(samples) * SAMPLE_RATE // rate
    if not wanted:
        return np.zeros(0)
    spectrum = np.fft.rfft(samples)
    kept = np.zeros(wanted // 2 + 1, dtype=complex)
    bins = min(len(kept), len(spectrum))
    kept[:bins] = spectrum[:bins]
    return np.fft.irfft(kept, wanted)[:length] * (wanted / len(samples))


def read_wav(path: Path) -> Samples:
    """Return a 16-bit mono WAV's samples, full scale 1. Raises ValueError when it is something else."""
    with wave.open(str(path), "rb") as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, SAMPLE_RATE):
            raise ValueError(f"{path} is not 16-bit mono at {SAMPLE_RATE} Hz")
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2") / 32768


def compare(source: Samples, heard: Samples) -> Comparison:
    """Align the two (shapes (n,) and (m,), 8,000 Hz) where they agree best, and say how well that is."""
    if not len(source) or not len(heard) or not heard.any() or not source.any():
        return Comparison(0.0, 0.0, 0.0, len(source) / SAMPLE_RATE, 0.0)
    offset = _best_offset(source, heard)
    begin, end = max(0, -offset), min(len(source), len(heard) - offset)
    ours, theirs = source[begin:end], heard[begin + offset : end + offset]
    return Comparison(
        correlation=_correlation(ours, theirs),
        worst=min(_pieces(ours, theirs), default=0.0),
        offset=offset / SAMPLE_RATE,
        source=len(source) / SAMPLE_RATE,
        common=(end - begin) / SAMPLE_RATE,
    )


def _best_offset(source: Samples, heard: Samples) -> int:
    """Return the place in `heard` where `source` begins, by the peak of the cross-correlation."""
    size = 1 << (len(source) + len(heard) - 1).bit_length()
    product = np.fft.irfft(np.fft.rfft(heard, size) * np.fft.rfft(source, size).conj(), size)
    peak = int(np.argmax(product))
    return peak if peak < len(heard) else peak - size


def _correlation(one: Samples, other: Samples) -> float:
    norm = float(np.sqrt(np.dot(one, one) * np.dot(other, other)))
    return float(np.dot(one, other)) / norm if norm else 0.0


def _pieces(ours: Samples, theirs: Samples) -> list[float]:
    loudness = float(np.sqrt(np.mean(ours**2))) if len(ours) else 0.0
    found = []
    for start in range(0, len(ours) - WINDOW + 1, WINDOW):
        piece = ours[start : start + WINDOW]
        if float(np.sqrt(np.mean(piece**2))) > AUDIBLE * loudness:
            found.append(_correlation(piece, theirs[start : start + WINDOW]))
    return found
