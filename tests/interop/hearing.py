"""What was heard, compared with what was sent; decoders that calledin has no say in."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
import time
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.interop.harness import need

SO_TIMESTAMPNS = 35 if sys.platform == "linux" else None
"Has the kernel tell when a packet came (socket(7)); Python has no name for it."

Samples = NDArray[np.float64]
"16-bit PCM at 8 kHz, shape (n,)."


def u_law_to_pcm(octets: bytes) -> Samples:
    """ITU-T G.711, written here once more so that our own encoder has no say in it."""
    code = ~np.frombuffer(octets, np.uint8)
    exponent, mantissa = (code >> 4) & 7, code & 15
    magnitude = ((mantissa.astype(np.int32) << 3) + 0x84 << exponent) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.float64)


def by_ffmpeg(mp3: Path, rate: int = 8000) -> Samples:
    """An independent decode, mono."""
    command = [need("ffmpeg"), "-v", "error", "-i", str(mp3), "-ac", "1", "-ar", str(rate), "-f", "s16le", "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.int16).astype(np.float64)


def from_wav(path: Path, rate: int = 8000, channels: int = 1) -> Samples:
    """The samples of a WAV file at this rate, its first channel."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (channels, rate, 2), file.getparams()
        return np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float64)[::channels]


def correlation(heard: Samples, sent: Samples) -> float:
    """The greatest normalised correlation over all whole-sample alignments of what was sent within what was heard.

    What was not heard to the end counts as silence there.
    """
    size = 1 << (len(heard) + len(sent)).bit_length()
    cross = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(sent, size)), size)
    shift = int(np.argmax(cross[: len(heard)]))
    part = np.zeros(len(sent))
    overlap = heard[shift : shift + len(sent)]
    part[: len(overlap)] = overlap
    return float(np.dot(part, sent) / np.sqrt(np.dot(part, part) * np.dot(sent, sent)))


def arrival(ancillary: list[tuple[int, int, bytes]]) -> float:
    """When the kernel had the packet, by the monotonic clock; this thread may have come to it later."""
    now = time.monotonic()
    for _, kind, content in ancillary:
        if kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("ll", content[:16])
            ago: float = time.time() - seconds - nanoseconds / 1e9
            return now - ago
    return now


class Ear:
    """A UDP socket that keeps the RTP packets it gets, each with the time of its arrival."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(self._family, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.sock.bind((host, 0))
        if SO_TIMESTAMPNS is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._host = host
        self.port = int(self.sock.getsockname()[1])
        self.packets: list[tuple[float, bytes]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            data, ancillary, *_ = self.sock.recvmsg(2048, 64)
            if not data:
                return
            self.packets.append((arrival(ancillary), data))

    def close(self) -> None:
        with socket.socket(self._family, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", (self._host, self.port))
        self._thread.join()
        self.sock.close()

    def octets(self) -> bytes:
        """The payload in the order of the sequence numbers."""
        return b"".join(data[12:] for _, data in sorted(self.packets, key=lambda each: each[1][2:4]))
