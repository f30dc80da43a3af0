"""How long a three-minute MP3 takes to become both G.711 encodings, against ffmpeg making one of them.

    python -m tests.benchmarks.prepare [--quick]

Ours is the library's whole way but the fetch: a job to the decoding process, fork, sandbox, decode, resample, both
encodings, two files synced. Theirs is a process start, decode, resample with its defaults (which alias 15 dB below
the voice) and one encoding. Both are measured in turn, in the same run; the medians' ratio is the figure.
"""

from __future__ import annotations

import hashlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from twisted.internet.defer import Deferred, succeed

from calledind.audio.decode import Decoder
from calledind.audio.fetch import Fetched, NotModified
from calledind.audio.library import Library
from calledind.settings.tables import Audio
from tests.benchmarks.report import Row, in_reactor, options, tell

SECONDS = 180
GOAL = 1.3


def make_mp3(folder: Path) -> Path:
    """Make three minutes of stereo at 44.1 kHz and 128 kbit/s: noise with the slope of speech."""
    chance = np.random.default_rng(1)
    noise = chance.standard_normal((SECONDS * 44100, 2)).astype(np.float32)
    pink = noise[1:] + 0.9 * noise[:-1]
    pcm = (pink * 3000).clip(-32768, 32767).astype("<i2")
    mp3 = folder / "three-minutes.mp3"
    source = ["-f", "s16le", "-ar", "44100", "-ac", "2", "-i", "-"]
    command = ["ffmpeg", "-v", "error", "-y", *source, "-t", str(SECONDS - 0.1), "-b:a", "128k", str(mp3)]
    subprocess.run(command, input=pcm.tobytes(), check=True)
    return mp3


class OneFile:
    """A fetcher whose internet is one file."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def fetch(
        self, url: str, *, into: Path, etag: str | None = None, last_modified: str | None = None
    ) -> Deferred[Fetched | NotModified]:
        # The URL makes the octets different, so that nothing is found in the library; an ID3v1 tag is not audio.
        data = self.data + b"TAG" + url.encode().ljust(125)
        into.write_bytes(data)
        name = hashlib.sha256(data).hexdigest()
        return succeed(Fetched(None, None, None, False, path=into, size=len(data), sha256=name))


def theirs(mp3: Path, folder: Path) -> float:
    began = time.perf_counter()
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(mp3), "-ar", "8000", "-ac", "1", "-f", "mulaw"]
    subprocess.run([*command, str(folder / "theirs.ulaw")], check=True)
    return time.perf_counter() - began


async def compare(reactor: Any, rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mp3 = make_mp3(folder)
        settings = Audio()
        library = Library(
            reactor, folder / "library", settings, OneFile(mp3.read_bytes()), Decoder(reactor, settings), time.time
        )
        await library.start()
        our_times, their_times = [], []
        for number in range(rounds + 1):
            began = time.perf_counter()
            await library.prepare(f"http://localhost/{number}", cache=True)
            our_times.append(time.perf_counter() - began)
            their_times.append(theirs(mp3, folder))
        began = time.perf_counter()
        for _ in range(10_000):
            library.prepare("http://localhost/1", cache=True)
        again = (time.perf_counter() - began) / 10_000
        await library.stop()
    # The first round warms the disk's caches.
    ours, theirs_ = statistics.median(our_times[1:]), statistics.median(their_times[1:])
    return [
        Row(
            "an MP3 of three minutes made ready",
            ours / theirs_,
            "x",
            GOAL,
            False,
            "ffmpeg to one encoding, with a coarser resampler",
            f"{ours:.3f} s to {theirs_:.3f} s; once more from memory {again * 1e6:.1f} µs",
        )
    ]


def measure(quick: bool) -> list[Row]:
    if shutil.which("ffmpeg") is None:
        raise SystemExit("ffmpeg is needed to compare with")
    return in_reactor(lambda reactor: compare(reactor, 3 if quick else 9))


def main(argv: Sequence[str]) -> int:
    arguments = options(__doc__).parse_args(argv)
    return tell(measure(arguments.quick), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
