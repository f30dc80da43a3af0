# mypy: allow-untyped-calls
"""What was played in a call, as a WAV file that any browser plays."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Mapping

import numpy as np
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from calledind.api.answers import report_incident, respond
from calledind.api.site import Request
from calledind.rtp.g711 import DECODED
from calledind.store.interface import Store

SAMPLE_RATE = 8000
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


def wav(mu_law: bytes) -> bytes:
    """Return G.711 mu-law octets, 8,000 a second, as a WAV file of 16-bit linear PCM."""
    samples = DECODED["PCMU"][np.frombuffer(mu_law, dtype=np.uint8)].astype("<i2").tobytes()
    form = (16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    return _HEADER.pack(b"RIFF", 36 + len(samples), b"WAVE", b"fmt ", *form, b"data", len(samples)) + samples


class Sound(Resource):
    """GET .../CALL_ID: the audio of a call, while it is kept.

    `encodings` gives the audio of a name as codec -> octets, and nothing where it is gone.
    """

    isLeaf = True
    log = Logger()

    def __init__(self, store: Store, encodings: Callable[[str], Awaitable[Mapping[str, bytes]]]) -> None:
        super().__init__()
        self._store = store
        self._encodings = encodings

    def render_GET(self, request: Request) -> int:
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)

        def answer(body: bytes) -> None:
            if not gone:
                request.write(body)
                request.finish()

        def broken(failure: Failure) -> None:
            incident = report_incident(self.log, failure, "the audio of a call")
            answer(respond(request, 500, f"this is a fault of calledin; the log has it as incident {incident}"))

        Deferred.fromCoroutine(self._find(request)).addCallback(answer).addErrback(broken)
        return NOT_DONE_YET

    async def _find(self, request: Request) -> bytes:
        call_id = b"/".join(request.postpath or ()).decode("latin-1")
        record = await self._store.find_call(call_id)
        if record is None:
            return respond(request, 404, "there is no such call")
        mu_law = (await self._encodings(record.call.audio)).get("PCMU")
        if mu_law is None:
            return respond(request, 404, "the audio of this call is not kept any more")
        body = wav(mu_law)
        request.setHeader(b"content-type", b"audio/wav")
        request.setHeader(b"content-length", b"%d" % len(body))
        return body
