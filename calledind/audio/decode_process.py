"""The process that decodes: a small server that forks once for each MP3.

`python -m calledind.audio.decode_process` loads the libraries (a fifth of a second, once), says so, and then reads
one job a line and answers one line a job, in whatever order they are done:

    <- {"ready": true, "filter": true}
    -> {"id": 7, "mp3": "/in/7.mp3", "encodings": {"PCMU": "/in/7.pcmu", "opus": "/in/7.opus"}, "max_seconds": 180.0}
    <- {"id": 7, "duration": 12.4}
    <- {"id": 8, "error": 10, "words": "it plays longer than 180 seconds"}

The child opens its three files, puts on the sandbox, and only then looks at what a stranger wrote. This process
never does. It answers for a child that was killed, kills one that takes too long, and ends, children and all, when
its standard input is closed.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calledind.audio.encode import a_law, mu_law
from calledind.audio.errors import AudioError
from calledind.audio.pcm import PADDING, PCM, read_mp3_at
from calledind.audio.sandbox import SystemCallFilter, die_with_parent, limit_resources
from calledind.audio.wideband import Encoder
from calledind.codecs import CODECS, G722, OCTET_RATE, OPUS
from calledind.model import ReturnCode

_MEMORY = 256 * 1024 * 1024
"Octets that a child may take beyond what it is born with."
_CPU_SECONDS = {"G722": 2, "opus": 5}
"What these encodings may take beyond `_BASE_CPU_SECONDS`; five times what three minutes of audio need here."
_BASE_CPU_SECONDS = 3
"Twenty times what three minutes of audio need here, decoded and encoded as G.711."
_WALL_SECONDS = 10.0
"A niced child on a busy machine may wait long for its three seconds."
_NICE = 5
_SYSTEM_FAILED = 0
"In place of a return code: the MP3 is not at fault."
_LONGEST_WORDS = 200
_SILENCE = (b"\xff\xfb\x90\xc4" + bytes(413)) * 8
"An MP3: eight frames of MPEG 1 layer 3, 128 kbit/s, 44.1 kHz, mono, nothing in them."


ENCODERS: dict[str, Callable[[], Callable[[PCM], bytes]]] = {
    "PCMU": lambda: lambda pcm: mu_law(pcm).tobytes(),
    "PCMA": lambda: lambda pcm: a_law(pcm).tobytes(),
    "G722": lambda: Encoder(G722),
    "opus": lambda: Encoder(OPUS),
}
"What is made before the sandbox is put on, and then encodes audio at its codec's sample rate."


def main() -> None:
    os.nice(_NICE)
    die_with_parent()
    Server(0, 1).run()


class Server:
    """Reads jobs from one file descriptor and answers on another."""

    def __init__(self, jobs: int, answers: int) -> None:
        self._jobs = jobs
        self._answers = answers
        self._children: dict[int, tuple[int, float]] = {}
        "Process id -> its job's id and when it is killed, in seconds of the monotonic clock."
        self._filter = SystemCallFilter()
        self._woken, self._wake = os.pipe()

    def run(self) -> None:
        # What the libraries load and compute only when first used can't be had inside the sandbox, and is shared so.
        every_rate = read_mp3_at(_SILENCE, 1.0, {codec.sample_rate for codec in CODECS.values()})
        for name, make in ENCODERS.items():
            make()(every_rate[CODECS[name].sample_rate])
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        # A terminal's Ctrl-C reaches the whole group; the daemon decides when this process ends.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # What is there now is shared with every child; without this, counting garbage would copy it.
        gc.collect()
        gc.freeze()
        self._answer({"ready": True, "filter": self._filter.available})
        received = b""
        while True:
            readable, _, _ = select.select([self._jobs, self._woken], [], [], self._patience())
            if self._woken in readable:
                os.read(self._woken, 4096)
            self._bury()
            if self._jobs in readable:
                chunk = os.read(self._jobs, 65536)
                if not chunk:
                    break
                *lines, received = (received + chunk).split(b"\n")
                for line in lines:
                    self._begin(json.loads(line))
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _patience(self) -> float | None:
        if not self._children:
            return None
        return max(min(deadline for _, deadline in self._children.values()) - time.monotonic(), 0.0)

    def _begin(self, job: dict[str, Any]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._answer({"id": job["id"], "error": _SYSTEM_FAILED, "words": f"fork: {error.strerror}"})
            return
        if pid == 0:
            self._child(job)
        self._children[pid] = (job["id"], time.monotonic() + _WALL_SECONDS)

    def _bury(self) -> None:
        """Answer for the children that ended without an answer, and kill those whose time is over."""
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            job_id, _ = self._children.pop(pid)
            if status:
                self._answer({"id": job_id, "error": int(ReturnCode.MP3_UNUSABLE), "words": _epitaph(status)})
        for pid, (_, deadline) in self._children.items():
            if deadline <= time.monotonic():
                os.kill(pid, signal.SIGKILL)

    def _child(self, job: dict[str, Any]) -> None:
        """Do the job and end. Never returns."""
        code = 1
        try:
            die_with_parent()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._jobs)
            self._answer({"id": job["id"], **decode(job, self._filter)})
            code = 0
        finally:
            # Without the interpreter's farewell, which the filter would not allow.
            os._exit(code)

    def _answer(self, answer: dict[str, Any]) -> None:
        # Shorter than PIPE_BUF, so that lines of several children are never mixed.
        os.write(self._answers, json.dumps(answer).encode() + b"\n")


def decode(job: dict[str, Any], system_calls: SystemCallFilter) -> dict[str, Any]:
    """Confine this process, then decode and encode. Returns the answer without its id."""
    try:
        data = Path(job["mp3"]).read_bytes()
        outputs = {
            name: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            for name, path in job["encodings"].items()
        }
        encoders = {name: ENCODERS[name]() for name in outputs}
        # Opus has no fixed rate, and is far below this.
        most = int((job["max_seconds"] + 2 * PADDING) * OCTET_RATE) * (2 if "opus" in outputs else 1)
        cpu_seconds = _BASE_CPU_SECONDS + sum(_CPU_SECONDS.get(name, 0) for name in outputs)
        limit_resources(memory=_MEMORY, cpu_seconds=cpu_seconds, file_size=most)
        system_calls.put_on()
        pcm = read_mp3_at(data, job["max_seconds"], {CODECS[name].sample_rate for name in outputs})
        for name, descriptor in outputs.items():
            _write(descriptor, encoders[name](pcm[CODECS[name].sample_rate]))
    except AudioError as error:
        return {"error": int(error.code), "words": error.words[:_LONGEST_WORDS]}
    except OSError as error:
        return {"error": _SYSTEM_FAILED, "words": f"{error.strerror}"[:_LONGEST_WORDS]}
    except MemoryError:
        return {"error": int(ReturnCode.MP3_UNUSABLE), "words": "it needs too much memory"}
    except Exception as error:  # noqa: BLE001 - whatever a stranger's octets do to the libraries, it is their fault
        return {"error": int(ReturnCode.MP3_UNUSABLE), "words": f"it can't be decoded: {type(error).__name__}"}
    rate, samples = min(pcm.items())
    return {"duration": len(samples) / rate}


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    # Here, where only this call waits for the disk.
    os.fsync(descriptor)


def _epitaph(status: int) -> str:
    if not os.WIFSIGNALED(status):
        return "its decoder failed"
    number = os.WTERMSIG(status)
    if number in (signal.SIGXCPU, signal.SIGKILL):
        return "its decoder took too long"
    return f"its decoder was ended by {signal.Signals(number).name}"


if __name__ == "__main__":
    main()
