"""How evenly the media process paces many calls, and what a packet costs.

    python -m tests.benchmarks.rtp [--quick] [--srtp SUITE] [CALLS [SECONDS [PAIRS OF PORTS]]]

The gap between two packets of a call is by the kernel's clock of the receiving side; the processor time of the
media process for one packet is a ratio to a plain loop of Python's `sendto` that packs each header, measured in the
same run. With few calls there are few packets in a slice of the 20 ms, and each carries more of the slice's cost.
"""

from __future__ import annotations

import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calledind.net.media_pipe import Unpacker, pack
from calledind.rtp.packetizer import PACKET_OCTETS
from calledind.sdes import SUITES, Keys
from tests.benchmarks.report import Row, options, tell
from tests.benchmarks.sink import Sink

CALLS = 200
PAIRS = 128
GAP_GOAL = 25.0
"Milliseconds."
FIRST_PORT = 21000


def plain_loop(sink: Sink, packets: int) -> float:
    """Return the processor seconds of one packet sent by a plain Python loop."""
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    callees = [sink.address(number) for number in range(64)]
    payload = bytes(PACKET_OCTETS)
    header = struct.Struct("!BBHII")
    took = 0.0
    for start in range(0, packets, 2000):
        began = time.process_time()
        for number in range(start, start + 2000):
            packed = header.pack(0x80, 0, number & 0xFFFF, number * PACKET_OCTETS & 0xFFFFFFFF, 0)
            sender.sendto(packed + payload, callees[number % len(callees)])
        took += time.process_time() - began
        sink.drain()
    sender.close()
    return took / packets


class Process:
    """A media process, spoken to without the daemon."""

    def __init__(self, last_port: int) -> None:
        self._unpacker = Unpacker()
        self._events: list[list[object]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "calledind.net.media_process", "127.0.0.1", str(FIRST_PORT), str(last_port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.wait_for("ready", 1)

    def tell(self, commands: list[list[object]]) -> None:
        assert self._process.stdin
        self._process.stdin.write(pack(commands))
        self._process.stdin.flush()

    def wait_for(self, verb: str, count: int) -> list[list[object]]:
        """Read until so many events of the kind have come; return them."""
        assert self._process.stdout
        while True:
            found = [event for event in self._events if event[0] == verb]
            if len(found) >= count:
                return found
            data = self._process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
            if not data:
                raise RuntimeError("the media process has ended")
            self._events += self._unpacker.feed(data)

    def processor_seconds(self) -> float:
        return int(Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[0]) / 1e9

    def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def pace(calls: int, seconds: int, pairs: int, suite: str = "") -> list[Row]:
    """`suite`: of SRTP; empty: nothing is encrypted."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    sink = Sink()
    plain = plain_loop(sink, 40_000)
    with tempfile.NamedTemporaryFile() as audio:
        audio.write(bytes(range(256)) * (seconds * 8000 // 256 + 1))
        audio.truncate(seconds * 8000)
        audio.flush()
        process = Process(FIRST_PORT + 2 * pairs - 1)
        numbers = list(range(1, calls + 1))
        process.tell([["open", number] for number in numbers])
        process.wait_for("opened", calls)
        before = process.processor_seconds()
        for number in numbers:
            remote = sink.address(number)
            arguments = {
                "format": [audio.name, "PCMU", 0, 20, []],
                "remote": remote,
                "remote_rtcp": (remote[0], 9),
                "lead_in": 0.0,
                "lead_out": 0.0,
                "silence_timeout": 0.0,
                "security": [Keys.generate(suite).pack() for _ in range(2)] if suite else None,
            }
            process.tell([["play", number, arguments]])
        got = 0
        end = time.monotonic() + seconds + 0.5
        while time.monotonic() < end:
            got += sink.drain()
            time.sleep(0.02)
        process.wait_for("finished", calls)
        cost = process.processor_seconds() - before
        process.tell([["close", number] for number in numbers])
        closed = process.wait_for("closed", calls)
        process.end()
    got += sink.drain()
    sent = sum(event[2]["packets_sent"] for event in closed)  # type: ignore[index]
    late = sum(event[2]["packets_late"] for event in closed)  # type: ignore[index]
    gaps = sink.heard().gaps()
    sink.close()
    what = f"{calls} calls at once" + (f", {suite}" if suite else "")
    return [
        Row(
            f"{what}: gap of two packets, p99",
            float(np.percentile(gaps, 99)),
            "ms",
            GAP_GOAL,
            False,
            "20 ms, by the receiving kernel",
            f"p50 {np.percentile(gaps, 50):.2f} ms, longest {gaps.max():.2f} ms; {late} of {sent} sent late",
        ),
        Row(f"{what}: packets lost", calls * seconds * 50 - got, "", 0, False, f"{sent} sent in {seconds} s"),
        Row(
            f"{what}: CPU of a packet",
            cost / sent / plain,
            "x",
            None,
            False,
            "a plain loop of sendto in Python",
            f"{cost / sent * 1e6:.1f} µs to {plain * 1e6:.1f} µs",
        ),
    ]


def measure(quick: bool) -> list[Row]:
    seconds = 2 if quick else 10
    return pace(CALLS, seconds, PAIRS) + pace(CALLS, seconds, PAIRS, "AES_CM_128_HMAC_SHA1_80")


def main(argv: Sequence[str]) -> int:
    parser = options(__doc__)
    parser.add_argument("calls", nargs="?", type=int, default=CALLS)
    parser.add_argument("seconds", nargs="?", type=int)
    parser.add_argument("pairs", nargs="?", type=int, default=PAIRS)
    parser.add_argument("--srtp", choices=SUITES, default="", help="encrypt")
    arguments = parser.parse_args(argv)
    seconds = arguments.seconds or (2 if arguments.quick else 10)
    return tell(pace(arguments.calls, seconds, arguments.pairs, arguments.srtp), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
