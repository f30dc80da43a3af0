"""What a callee really heard: received packets only, each at the place its RTP timestamp gives it.

    sequence    700   701   702         704   703
    timestamp     0   160   320         640   480
    recording  [ 700 ][ 701 ][ 702 ][ 703 ][ 704 ]     put in order
               [ 700 ][ 701 ][ 702 ][ ... ][ 704 ]     or with silence where 703 never came

Nothing is smoothed, stretched or concealed, so that a recording can be held against what was to be played.
"""

from __future__ import annotations

import itertools
import os
import wave
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calledind.rtp.g711 import DECODED

SAMPLE_RATE = 8000
"Samples and G.711 octets per second."
LONGEST = 600 * SAMPLE_RATE
"No recording is longer, in samples; packets placed beyond are strays."
MAX_DROPOUT = 3000
"A sequence number further off belongs to another stream (RFC 3550 appendix A.1)."


SILENCE = {"PCMU": 0xFF, "PCMA": 0xD5}
"Codec -> the code nearest to no sound."


@dataclass(frozen=True, slots=True)
class Heard:
    """The figures of one recording."""

    packets: int
    "Received, of the agreed stream, repeats not counted."
    lost: int
    "Sequence numbers between the first and the last that never came (RFC 3550 appendix A.3)."
    repeated: int
    "Came twice."
    strays: int
    "Of another stream, of a payload type that was not agreed, or not RTP at all."
    jitter: float
    "Interarrival jitter at the end, in seconds (RFC 3550 appendix A.8); our own lateness in reading is part of it."
    longest_gap: float
    "Between one packet's arrival and the next one's, in seconds."
    seconds: float
    "From the first sample to the last."


class Recording:
    """Gathers one stream's packets. `arrival` is in seconds of a clock that does not jump."""

    def __init__(self, codec: str) -> None:
        """`codec`: "PCMU" or "PCMA"; KeyError otherwise."""
        self.codec = codec
        self._table = DECODED[codec]
        self._payloads: dict[int, bytes] = {}
        "Place of the first sample -> G.711 octets."
        self._sequences: set[int] = set()
        "Extended sequence numbers that came."
        self._ssrc: int | None = None
        self._sequence = self._place = 0
        "Of the newest packet; the first one's place is 0."
        self._arrival = self._transit = 0.0
        self._jitter = self._longest_gap = 0.0
        self._repeated = self._strays = 0

    def received(self, *, ssrc: int, sequence: int, timestamp: int, payload: bytes, arrival: float) -> None:
        """Take one RTP packet: 32-bit SSRC, 16-bit sequence number, 32-bit timestamp, G.711 octets."""
        if self._ssrc is None:
            self._ssrc = ssrc
            self._first_timestamp = timestamp
            extended, place = sequence, 0
            self._sequence = sequence
            self._arrival = arrival
            self._transit = arrival
        else:
            extended = self._sequence + _signed(sequence - self._sequence, 16)
            place = self._place + _signed(timestamp - self._first_timestamp - self._place, 32)
            if ssrc != self._ssrc or abs(extended - self._sequence) > MAX_DROPOUT or abs(place) > LONGEST:
                self._strays += 1
                return
        if extended in self._sequences:
            self._repeated += 1
            return
        self._sequences.add(extended)
        self._payloads[place] = payload
        self._measure(place, arrival)
        if extended >= self._sequence:
            self._sequence, self._place = extended, place

    def stray(self) -> None:
        """Count a packet that is not of the agreed stream."""
        self._strays += 1

    def _measure(self, place: int, arrival: float) -> None:
        transit = arrival - place / SAMPLE_RATE
        self._jitter += (abs(transit - self._transit) - self._jitter) / 16
        self._transit = transit
        self._longest_gap = max(self._longest_gap, arrival - self._arrival)
        self._arrival = arrival

    @property
    def source(self) -> int | None:
        """The stream's SSRC, None while nothing came."""
        return self._ssrc

    @property
    def highest_sequence(self) -> int:
        """Of the newest packet, extended by the count of wraps."""
        return self._sequence

    def heard(self) -> Heard:
        packets = len(self._sequences)
        expected = max(self._sequences) - min(self._sequences) + 1 if packets else 0
        return Heard(
            packets=packets,
            lost=expected - packets,
            repeated=self._repeated,
            strays=self._strays,
            jitter=self._jitter,
            longest_gap=self._longest_gap,
            seconds=self._length() / SAMPLE_RATE,
        )

    def _length(self) -> int:
        if not self._payloads:
            return 0
        return max(place + len(payload) for place, payload in self._payloads.items()) - min(self._payloads)

    def pcm(self) -> NDArray[np.int16]:
        """Return the samples, 8,000 a second, with zeros where nothing came."""
        samples = np.zeros(self._length(), dtype=np.int16)
        start = min(self._payloads, default=0)
        for place, payload in sorted(self._payloads.items()):
            codes = np.frombuffer(payload, dtype=np.uint8)
            samples[place - start : place - start + len(codes)] = self._table[codes]
        return samples


def _signed(difference: int, bits: int) -> int:
    """Return the difference of two counters that wrap at 2**bits, as the nearer way round."""
    half = 1 << (bits - 1)
    return ((difference + half) & ((1 << bits) - 1)) - half


class Shelf:
    """The folder of recordings: WAV files, the newest `keep` of them."""

    def __init__(self, folder: Path, keep: int = 200) -> None:
        self._folder = folder
        self._keep = keep
        self._number = itertools.count(1)
        self._files: deque[Path] = deque()

    def open(self) -> None:
        """Make the folder and take over what an earlier process left. Raises OSError."""
        self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._files = deque(sorted(self._folder.glob("*.wav"), key=lambda path: path.stat().st_mtime))
        self._prune()

    def save(self, name: str, recording: Recording) -> Path:
        """Write a recording as "name.wav", which must be new: 16-bit mono, 8,000 Hz. Raises OSError."""
        path = self._folder / f"{name}.wav"
        if path.exists():
            path = self._folder / f"{name}-{next(self._number)}.wav"
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as raw, wave.open(raw, "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(SAMPLE_RATE)
                file.writeframes(recording.pcm().astype("<i2").tobytes())
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        self._files.append(path)
        self._prune()
        return path

    def _prune(self) -> None:
        while len(self._files) > self._keep:
            self._files.popleft().unlink(missing_ok=True)
