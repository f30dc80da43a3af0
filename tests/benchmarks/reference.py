"""The C-speed reference of a sent packet: `python -m tests.benchmarks.reference FIRST_PORT CALLS`.

For each line of standard input, which is a number, so many ready packets are handed to `sendmmsg`, three hundred at a
time, to the callees of a `Sink` in turn; the answer is a line with the processor seconds that it took. Nothing is
computed between two system calls, so this is what the kernel takes of a program that asks it for nothing particular.
Where a second number follows on the line, so many packets are sent every 2 ms, and it sleeps between, through a socket
that has the options of calledin's: what they take in the rhythm of calls.
"""

from __future__ import annotations

import socket
import sys
import time

import numpy as np
from numpy.typing import NDArray

from calledind.net import mmsg
from calledind.net.media_ports import EXPEDITED_FORWARDING, set_options
from calledind.net.metronome import SLICE
from calledind.rtp.packet import HEADER_OCTETS
from calledind.rtp.packetizer import PACKET_OCTETS
from tests.benchmarks.sink import RECEIVERS

TOGETHER = 300
"Packets of one system call: as many as 3,000 calls have in a slice of 2 ms."
_OCTETS = HEADER_OCTETS + PACKET_OCTETS
_NAME = 32


def main(arguments: list[str]) -> int:
    first_port, calls = map(int, arguments)
    packets: NDArray[np.uint8] = np.zeros((calls, _OCTETS), np.uint8)
    packets[:, 0] = 0x80
    names: NDArray[np.uint8] = np.zeros((calls, _NAME), np.uint8)
    for number in range(calls):
        address = f"127.1.{number >> 8 & 255}.{number & 255}", first_port + 2 * (number % RECEIVERS)
        names[number, : mmsg.ADDRESS_OCTETS] = np.frombuffer(mmsg.pack_address(socket.AF_INET, address), np.uint8)
    vectors: mmsg.Records = np.zeros(calls, mmsg.VECTOR)
    count = np.arange(calls, dtype=np.uint64)
    vectors["base"] = packets.ctypes.data + count * _OCTETS
    vectors["length"] = _OCTETS
    messages: mmsg.Records = np.zeros(calls, mmsg.MESSAGE)
    messages["name"] = names.ctypes.data + count * _NAME
    messages["name_length"] = 16
    messages["vectors"] = vectors.ctypes.data + count * mmsg.VECTOR.itemsize
    messages["vector_count"] = 1
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as alike,
    ):
        for sender in plain, alike:
            sender.bind(("127.0.0.1", 0))
        plain.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, EXPEDITED_FORWARDING)
        set_options(alike)
        for line in sys.stdin:
            left, *pace = map(int, line.split())
            most, sender = (pace[0], alike) if pace else (TOGETHER, plain)
            began, due = time.process_time(), time.monotonic()
            start = 0
            while left > 0:
                if pace:
                    due += SLICE
                    time.sleep(max(0.0, due - time.monotonic()))
                together = min(most, left, calls - start)
                mmsg.send(sender.fileno(), messages.ctypes.data + start * mmsg.MESSAGE.itemsize, together)
                left -= together
                start = (start + together) % calls
            print(time.process_time() - began, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
