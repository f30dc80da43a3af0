"""What Wireshark says about the whole interop suite: `python -m tests.interop.capture FOLDER [MODULE ...]`.

Each module of tests is run with a capture of its own of the loopback interface, in a network namespace of its own
where that is possible, so that nothing else is in it; then tshark looks for frames of SIP, SDP, RTP, RTCP or SRTP that
are malformed. Modules that send such frames on purpose are left out.
The exit status is 1 where a frame was found or a test has failed. The captures stay in FOLDER.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.interop.test_tshark import capturing

HERE = Path(__file__).parent
ON_PURPOSE = {"test_fuzz": "it sends damaged messages", "test_torture": "so does it"}
"Modules that are left out, and why."
OWN = {"test_tshark": "it has a capture of its own"}
EXPECTED = {
    # RFC 3261 §20.33 has `Retry-After: 18000;duration=3600`, tshark 4.0 has not.
    "test_setup": "Invalid retry_after value",
    # Callees that answer with what is no SDP.
    "test_sdp_answers": "Invalid SDP line",
}
"Module -> how the words begin that tshark has for what its callees send on purpose."
PROTOCOLS = "sip || sdp || rtp || rtcp"
"SRTP is among them. SRTCP (`srtcp`) is not: what Wireshark reads into its encrypted octets is chance."
IS_SIP = r'matches "^(SIP/2\\.0 |[A-Z]+ (sips?|tel):)"'
ALONE = "CALLEDIN_ALONE"
"In the environment where the network namespace is our own."
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


def main(arguments: list[str]) -> int:
    if not arguments:
        print(__doc__)
        return 2
    folder = Path(arguments[0]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(path.stem for path in HERE.glob("test_*.py"))
    modules = arguments[1:] or [name for name in found if name not in ON_PURPOSE | OWN]
    if ALONE in os.environ:
        _raise_loopback()
    elif (status := _alone()) is not None:
        return status
    bad = 0
    for module in modules:
        path = folder / f"{module}.pcapng"
        path.unlink(missing_ok=True)
        with capturing(path, "udp or tcp"):
            passed = _run(module, folder)
        counts, malformed = look(path)
        bad += len(malformed) + (not passed)
        words = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        print(f"{module}: tests {'passed' if passed else 'FAILED'}; {words or 'no such frames'}", flush=True)
        for line in malformed:
            print(f"    {line}", flush=True)
    print("nothing malformed" if not bad else f"{bad} malformed frames or failed modules")
    return min(bad, 1)


def look(path: Path) -> tuple[Counter[str], list[str]]:
    """Return how many frames of each protocol a capture has, and a line for each that is malformed."""
    decode = []
    for transport in ("udp", "tcp"):
        lines = _tshark(path, "-Y", f"{transport}.payload {IS_SIP}", *_fields(f"{transport}.port"))
        ports = {int(port) for line in lines for port in line.split(",")}
        decode += [part for port in sorted(ports) for part in ("-d", f"{transport}.port=={port},sip")]
    counts: Counter[str] = Counter()
    for line in _tshark(path, *decode, "-Y", PROTOCOLS, *_fields("frame.protocols")):
        counts.update({"sip", "sdp", "rtp", "rtcp"} & set(line.split(":")))
    columns = ("frame.number", "frame.protocols", "udp.srcport", "tcp.srcport", "_ws.expert.message", "_ws.col.Info")
    malformed = _tshark(path, *decode, "-Y", f"_ws.malformed && ({PROTOCOLS})", *_fields(*columns))
    expected = EXPECTED.get(path.stem)
    return counts, [line for line in malformed if expected is None or not line.split("\t")[4].startswith(expected)]


def _fields(*names: str) -> list[str]:
    return ["-T", "fields", *(part for name in names for part in ("-e", name))]


def _tshark(path: Path, *arguments: str) -> list[str]:
    command = ["tshark", "-r", str(path), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"tshark: {result.stderr}")
    return result.stdout.splitlines()


def _run(module: str, folder: Path) -> bool:
    log = folder / f"{module}.log"
    command = [sys.executable, "-m", "twisted.trial", f"--temp-directory={folder}/trial", f"tests.interop.{module}"]
    with log.open("wb") as output:
        subprocess.run(command, stdout=output, stderr=output, cwd=HERE.parents[1], check=False)
    return re.search(r"^PASSED", log.read_text(errors="replace"), re.M) is not None


def _alone() -> int | None:
    """Do it all again in a network namespace with nothing in it but a loopback interface; None where not allowed."""
    alone = ["unshare", "--net", "--"]
    try:
        allowed = subprocess.run([*alone, "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        print("captures will have whatever else is on this machine's loopback interface")
        return None
    command = [*alone, sys.executable, "-m", "tests.interop.capture", *sys.argv[1:]]
    return subprocess.run(command, env={**os.environ, ALONE: "1"}, check=False).returncode


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
