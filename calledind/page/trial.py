# mypy: allow-untyped-calls
"""Calls that are made from the page: the form of "Try it", and an MP3 that is dropped on the phone.

    POST /try?api_key=...&phone_number=...      the playback request, whose answer the page can read
    POST /phone/call, the MP3 as the body       calls the browser's telephone with it; an empty body: with some speech
    GET  /phone/mp3/ID, /phone/told/ID          what the daemon itself then asks for: the MP3, and the callback

The last two need no token, but nobody guesses the ids. The phone's calls are for who tries calledin on this machine:
they have a key of their own, made when it is first wanted.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from calledind.admission import Unavailable, Verdict
from calledind.api.answers import Words, report_incident, respond
from calledind.api.site import Request
from calledind.callback import signature
from calledind.keyring import Keyring
from calledind.model import Key, PlaybackRequest, ReturnCode
from calledind.simulator.scenarios import TELEPHONES
from calledind.store.interface import Store, StoreUnavailable

LARGEST_MP3 = 16 * 1024 * 1024
MOST_MP3S = 4
"Kept in memory, the newest."
MOST_CALLS = 50
"Whose callbacks are waited for."
KEY_NAME = "the phone"
CREDITS = 1000
"Of the phone's own key."

Admit = Callable[[Mapping[bytes, Sequence[bytes]]], Deferred[Verdict]]
AdmitFor = Callable[[str, PlaybackRequest], Deferred[Verdict]]
"In the name of the key with this id."


class Answering(Resource):
    """A resource whose JSON takes a while."""

    isLeaf = True
    log = Logger()

    def __init__(self, make: Callable[[Request], Any]) -> None:
        """`make` is a coroutine function: request -> status and JSON."""
        super().__init__()
        self._make = make

    def render_GET(self, request: Request) -> int:
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)

        def send(answer: tuple[int, object]) -> None:
            if gone:
                return
            body = json.dumps(answer[1], default=str).encode()
            request.setResponseCode(answer[0])
            request.setHeader(b"content-type", b"application/json")
            request.setHeader(b"content-length", b"%d" % len(body))
            request.write(body)
            request.finish()

        def failed(failure: Failure) -> None:
            error = failure.value
            if isinstance(error, StoreUnavailable | Unavailable):
                send((503, {"error": str(error)}))
                return
            incident = report_incident(self.log, failure, "a call from the page")
            send((500, {"error": f"this is a fault of calledin; the log has it as incident {incident}"}))

        Deferred.fromCoroutine(self._make(request)).addCallback(send).addErrback(failed)
        return NOT_DONE_YET

    render_POST = render_GET


class Trial:
    """What is below /try, and /phone/ but for the WebSocket."""

    def __init__(
        self,
        *,
        admit: Admit,
        admit_for: AdmitFor,
        store: Store,
        keyring: Keyring,
        now: Callable[[], float],
        tell: Callable[[Mapping[str, object]], None],
        speech: Path,
    ) -> None:
        """`tell` tells all browsers; `speech`: the MP3 of who has none."""
        self._admit = admit
        self._admit_for = admit_for
        self._store = store
        self._keyring = keyring
        self._now = now
        self._tell = tell
        self._speech = speech
        self._mp3s: OrderedDict[str, bytes] = OrderedDict()
        self._calls: OrderedDict[str, str] = OrderedDict()
        "Id of a callback URL -> the call's id."
        self._key_id = ""
        "Of the phone's own key."
        self.url = ""
        'Where the daemon finds the page itself, such as "http://127.0.0.1:8081"; empty: the phone makes no calls.'

    async def try_it(self, request: Request) -> tuple[int, object]:
        """Pass the playback request on, in whoever's name it is made."""
        return 200, _show(await self._admit(request.args))

    async def call(self, request: Request) -> tuple[int, object]:
        """Call the browser's telephone by the first of its numbers that may be called."""
        if not self.url:
            return 409, {"error": "calls from the phone are for the demo, on this machine: run calledin demo"}
        mp3 = b"" if request.content is None else request.content.read(LARGEST_MP3 + 1)
        if len(mp3) > LARGEST_MP3:
            return 413, {"error": "the MP3 is larger than 16 MiB"}
        name = secrets.token_hex(16)
        self._keep(self._mp3s, name, mp3 or self._speech.read_bytes(), MOST_MP3S)
        verdict = None
        for number in TELEPHONES:
            verdict = await self._ring(number, name)
            if verdict.code is not ReturnCode.FLOOD:
                return 200, {**_show(verdict), "number": number}
        assert verdict is not None
        return 200, _show(verdict)

    async def _ring(self, number: str, name: str) -> Verdict:
        told = secrets.token_hex(16)
        wanted = PlaybackRequest(
            api_key="",
            phone_number=number,
            country_code="1",
            mp3=f"{self.url}/phone/mp3/{name}",
            callback_url=f"{self.url}/phone/told/{told}",
            secret="from the phone",  # noqa: S106 - it is only handed back
        )
        self._keep(self._calls, told, "", MOST_CALLS)
        self._key_id = await self._find_key()
        verdict = await self._admit_for(self._key_id, wanted)
        if verdict.call_id is not None:
            self._calls[told] = verdict.call_id
        return verdict

    async def _find_key(self) -> str:
        """Return the id of the phone's own key, made where there is none or its credits are spent."""
        for key in await self._store.keys():
            if key.name == KEY_NAME and key.credits > 0 and not key.disabled:
                return key.id
        new = self._keyring.new()
        key = Key(id=new.id, name=KEY_NAME, credits=CREDITS, held=0, charged=0, disabled=False, created_at=self._now())
        await self._store.add_key(key, new.digest)
        return key.id

    def _keep(self, kept: OrderedDict[str, Any], name: str, value: object, most: int) -> None:
        kept[name] = value
        if len(kept) > most:
            kept.popitem(last=False)

    # what the daemon asks for

    def mp3(self, name: str) -> Resource:
        content = self._mp3s.get(name)
        return Words(404, "there is no such MP3") if content is None else _Mp3(content)

    def told(self, name: str) -> Resource:
        return _Told(self, name) if name in self._calls else Words(404, "nobody waits for this")

    def take(self, name: str, request: Request) -> None:
        """Take a callback, and show it to all browsers."""
        headers = {each: request.getHeader(each) or "" for each in ("webhook-id", "webhook-timestamp")}
        offered = request.getHeader("webhook-signature") or ""
        stamp = headers["webhook-timestamp"]
        key = self._keyring.webhook_key(self._key_id)
        signed = signature(
            key, headers["webhook-id"], int(stamp) if stamp.isdigit() else 0, request.uri.decode("latin-1")
        )
        self._tell(
            {
                "is": "told",
                "call": headers["webhook-id"],
                "query": {
                    each.decode("latin-1"): values[0].decode("utf-8", "replace")
                    for each, values in request.args.items()
                },
                "signed": hmac.compare_digest(signed.encode(), offered.encode()),
            }
        )


class _Mp3(Resource):
    isLeaf = True

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._content = content

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"content-type", b"audio/mpeg")
        # Kept by the daemon's library, so that what was played can be heard when the call is over.
        request.setHeader(b"cache-control", b"max-age=86400")
        request.setHeader(b"content-length", b"%d" % len(self._content))
        return self._content


class _Told(Resource):
    isLeaf = True

    def __init__(self, trial: Trial, name: str) -> None:
        super().__init__()
        self._trial = trial
        self._name = name

    def render_GET(self, request: Request) -> bytes:
        self._trial.take(self._name, request)
        return respond(request, 200, "thank you")


def _show(verdict: Verdict) -> dict[str, object]:
    return {"code": int(verdict.code), "words": verdict.words, "call_id": verdict.call_id}
