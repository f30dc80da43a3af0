"""G.722 and Opus, by the encoders of the FFmpeg libraries that PyAV has.

PyAV puts a graph of filters before each encoder when that gets its first frame, and FFmpeg starts threads for a graph
on a machine of several processors; inside the sandbox nothing may be started. So an `Encoder` is made, and given a
packet of silence, before the sandbox is put on, while this thread may use one processor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from calledind.codecs import G722, OPUS_BIT_RATE, OPUS_PACKET, Codec, pack_packets

_COMPLEXITY = "5"
"Of libopus, 0 to 10: two thirds of the time of 10, for a difference that a telephone call does not show."


class Encoder:
    """Encodes one piece of audio, as G.722 or Opus."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._size = codec.sample_rate * OPUS_PACKET // 1000
        "Samples of a packet."
        self._context: Any = av.CodecContext.create("g722" if codec is G722 else "libopus", "w")
        self._context.sample_rate = codec.sample_rate
        self._context.format, self._context.layout = "s16", "mono"
        self._context.thread_count = 1
        if codec.packets:
            self._context.bit_rate = OPUS_BIT_RATE
            self._context.options = {"frame_duration": str(OPUS_PACKET), "compression_level": _COMPLEXITY, "vbr": "on"}
        self._context.open()
        self._position = 0
        with _one_processor():
            self._packet(np.zeros(self._size, np.int16))

    def __call__(self, pcm: NDArray[np.int16]) -> bytes:
        """Return the file of this audio, shape (n,), at the codec's sample rate. To be called once.

        G.722: 64 kbit/s, 8,000 octets a second. Opus: packets of 20 ms (`codecs.pack_packets`). The last 20 ms are
        filled up with silence before they are encoded: unlike G.711's, these encoders have a memory.
        """
        padded = np.zeros(-(-len(pcm) // self._size) * self._size, np.int16)
        padded[: len(pcm)] = pcm
        packets: list[bytes] = []
        for start in range(0, len(padded), self._size):
            packets += self._packet(padded[start : start + self._size])
        packets += map(bytes, self._context.encode(None))
        return pack_packets(packets) if self._codec.packets else b"".join(packets)

    def _packet(self, pcm: NDArray[np.int16]) -> list[bytes]:
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate = self._codec.sample_rate
        frame.pts = self._position
        self._position += self._size
        return [bytes(packet) for packet in self._context.encode(frame)]


@contextmanager
def _one_processor() -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
