"""Encoded audio as memory that the kernel reads packets from: each file mapped once for all its streams."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from calledind.codecs import CODECS, OCTET_RATE, OPUS_PACKET, Codec
from calledind.net.pace import Stretch
from calledind.rtp.packetizer import Plan, Run, Source, runs

LONGEST_PACKET = 60
"Milliseconds."
PTIMES = (10, 20, 30, 40, 50, 60)
"Lengths of a packet that we can send, in milliseconds: whole slices of the pace, whole octets of every codec."

_silences = {
    codec.name: np.frombuffer(codec.silence * (1 if codec.packets else OCTET_RATE * LONGEST_PACKET // 1000), np.uint8)
    for codec in CODECS.values()
}


class Audio:
    """One file of encoded audio, in memory for as long as somebody holds this."""

    def __init__(self, descriptor: int, octets: int, codec: Codec) -> None:
        self.codec = codec
        self._map: NDArray[np.uint8] = np.zeros(0, np.uint8)
        if octets:
            mapped = mmap.mmap(descriptor, octets, access=mmap.ACCESS_READ)
            mapped.madvise(mmap.MADV_WILLNEED)
            self._map = np.frombuffer(mapped, np.uint8)
        self._bounds = _bounds(self._map) if codec.packets else None
        self.units = octets if self._bounds is None else self._bounds.size - 1
        "Octets, or packets where the codec's audio is packets."
        self.per_second = float(OCTET_RATE) if self._bounds is None else 1000 / OPUS_PACKET
        self._begun: tuple[Plan, int, tuple[Stretch, ...]] | None = None
        "How the stream begun last was laid out, with its plan and the milliseconds of its packets."

    @property
    def duration(self) -> float:
        return self.units / self.per_second

    def ptime(self, wanted: int) -> int:
        """Return the milliseconds that a packet will last; those of packets made beforehand are what they are."""
        if self._bounds is not None:
            return OPUS_PACKET
        return max((each for each in PTIMES if each <= wanted), default=PTIMES[0])

    def stretches(self, plan: Plan, ptime: int, *, marker: bool) -> Iterator[Stretch]:
        """Give the runs one by one."""
        if self._bounds is not None or not marker:
            return self._lay_out(plan, ptime, marker=marker)
        # Calls that are played the same share this.
        begun = self._begun
        if begun is None or begun[:2] != (plan, ptime):
            begun = self._begun = plan, ptime, tuple(self._lay_out(plan, ptime, marker=True))
        return iter(begun[2])

    def _lay_out(self, plan: Plan, ptime: int, *, marker: bool) -> Iterator[Stretch]:
        per_packet = OCTET_RATE * ptime // 1000
        laid_out = runs(plan, units=self.units, per_second=self.per_second, packet_seconds=ptime / 1000, marker=marker)
        for run in laid_out:
            if run.source is Source.AUDIO and self._bounds is not None:
                yield from self._packets(run, self._bounds)
            elif run.source is Source.AUDIO:
                start = self._map.ctypes.data + run.first
                yield Stretch(start, per_packet, run.packets, per_packet, run.marker, self._map)
            else:
                memory = _silences[self.codec.name][: per_packet if self._bounds is None else None]
                if run.source is Source.TAIL:
                    rest = self._map[run.first :]
                    memory = np.concatenate((rest, memory[rest.size :]))
                yield Stretch(memory.ctypes.data, 0, run.packets, memory.size, run.marker, memory)

    def _packets(self, run: Run, bounds: NDArray[np.int64]) -> Iterator[Stretch]:
        start = self._map.ctypes.data
        marker = run.marker
        begin = int(bounds[run.first])
        for number in range(run.first + 1, run.first + run.packets + 1):
            end = int(bounds[number])
            yield Stretch(start + begin, 0, 1, end - begin, marker, self._map)
            begin, marker = end, False


def _bounds(content: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Read the index of a file of packets (see `codecs.pack_packets`). Raises ValueError for what is none."""
    count = int.from_bytes(content[:4].tobytes(), "little")
    if content.size < 4 * (count + 2):
        raise ValueError("a file of packets without its index")
    bounds = content[4 : 4 * (count + 2)].view("<u4").astype(np.int64)
    if bounds[0] != 4 * (count + 2) or bounds[-1] != content.size or (np.diff(bounds) <= 0).any():
        raise ValueError("a file of packets whose index is wrong")
    return bounds


class AudioFiles:
    """The files in use. A path whose file was replaced gives the new one."""

    def __init__(self) -> None:
        self._files: weakref.WeakValueDictionary[tuple[int | str, ...], Audio] = weakref.WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._files)

    def open(self, path: str, name: str) -> Audio:
        """Return the file's audio. Raises OSError when it can't be read, ValueError for a codec that is not ours."""
        codec = CODECS.get(name)
        if codec is None:
            raise ValueError(f"the codec {name} is none of {', '.join(CODECS)}")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, name)
            audio = self._files.get(key)
            if audio is None:
                audio = self._files[key] = Audio(descriptor, status.st_size, codec)
            return audio
        finally:
            os.close(descriptor)
