"""Encoded audio as memory that the kernel reads packets from: each file mapped once for all its streams."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from calledind.net.pace import Stretch
from calledind.rtp.packetizer import PACKET_OCTETS, SILENCE, Run, Source, tail

_silences = {codec: np.full(PACKET_OCTETS, octet, np.uint8) for codec, octet in SILENCE.items()}


class Audio:
    """One file of raw G.711, in memory for as long as somebody holds this."""

    def __init__(self, descriptor: int, octets: int, codec: str) -> None:
        self.octets = octets
        self._codec = codec
        self._map: NDArray[np.uint8] = np.zeros(0, np.uint8)
        if octets:
            mapped = mmap.mmap(descriptor, octets, access=mmap.ACCESS_READ)
            mapped.madvise(mmap.MADV_WILLNEED)
            self._map = np.frombuffer(mapped, np.uint8)
        rest = self._map[octets - octets % PACKET_OCTETS :]
        self._tail = np.frombuffer(tail(rest.tobytes(), codec), np.uint8)

    def stretch(self, run: Run) -> Stretch:
        """Return the run with the address of its octets."""
        if run.source is Source.AUDIO:
            first = self._map.ctypes.data + run.first * PACKET_OCTETS
            return Stretch(first, PACKET_OCTETS, run.packets, run.marker)
        memory = self._tail if run.source is Source.TAIL else _silences[self._codec]
        return Stretch(memory.ctypes.data, 0, run.packets, run.marker)

    def stretches(self, runs: tuple[Run, ...]) -> Iterator[Stretch]:
        """Give the runs one by one; the file stays mapped until the iterator is gone."""
        for run in runs:
            yield self.stretch(run)


class AudioFiles:
    """The files in use. A path whose file was replaced gives the new one."""

    def __init__(self) -> None:
        self._files: weakref.WeakValueDictionary[tuple[int | str, ...], Audio] = weakref.WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._files)

    def open(self, path: str, codec: str) -> Audio:
        """Return the file's audio. Raises OSError when it can't be read, ValueError for a codec that is not ours."""
        if codec not in _silences:
            raise ValueError(f"the codec {codec} is none of {', '.join(_silences)}")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            name = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, codec)
            audio = self._files.get(name)
            if audio is None:
                audio = self._files[name] = Audio(descriptor, status.st_size, codec)
            return audio
        finally:
            os.close(descriptor)
