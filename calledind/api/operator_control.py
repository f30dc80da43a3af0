# mypy: allow-untyped-calls
"""What an operator does to a running daemon, beside looking on.

POST /calls                 {"key_id", "phone_number", "country_code", "mp3", ...}: makes a call for a key
                            "call_id": 32 hexadecimal digits; one that is known already is not made again
                            -> {"code", "words", "call_id"}, whatever the code is
POST /audio                 the octets of an MP3 -> {"mp3", "duration"}: what a call may name as its mp3, for a day
GET  /calls/ID/pcap         its SIP messages as a file for tshark and sngrep
GET  /trunks                settings, health, pace and registration of each
POST /trunks/NAME/test      sends an OPTIONS -> {"status", "seconds", "address", "words", ...}
GET  /callbacks[?most=100]  those that this node still has to deliver, the first due first
POST /callbacks/ID/again    delivers one now, whether it waits, was delivered or given up
GET  /keys/ID/webhook-secret
POST /reload                reads the settings again, as SIGHUP does -> {"errors"}
GET  /facts                 what `calledin check` wants to know
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from twisted.internet.defer import Deferred, TimeoutError
from twisted.web.server import NOT_DONE_YET

from calledind.admission import Unavailable, Verdict
from calledind.api.admin import Handler, Refused, read_json
from calledind.api.site import Request
from calledind.audio.errors import AudioError, LibraryUnavailable
from calledind.audio.library import UPLOADED, Prepared
from calledind.keyring import Keyring
from calledind.model import Address, BadRequest, PendingCallback, PlaybackRequest, ReturnCode
from calledind.net.pcap import pcap
from calledind.net.trace import TracedMessage
from calledind.store.interface import Store

LARGEST_MP3 = 64 * 1024 * 1024
"Octets; the settings may allow fewer."
CALL_ID = re.compile(r"[0-9a-f]{32}")
TEST_SECONDS = 5.0
"For the answer to an OPTIONS."
MOST_CALLBACKS = 1000
"In one answer."
WANTED = ("phone_number", "country_code", "mp3", "cache", "caller_id", "callback_url", "secret")


class AdmitFor(Protocol):
    """`Admission.admit_for`."""

    def __call__(self, key_id: str, request: PlaybackRequest, call_id: str = "") -> Deferred[Verdict]: ...


@dataclass(frozen=True)
class Controls:
    """What can be done, each a callable of the part that does it."""

    admit: AdmitFor
    take_mp3: Callable[[bytes], Deferred[tuple[str, Prepared]]]
    "An MP3's octets -> the URL by which a call may name it."
    messages: Callable[[str], Sequence[TracedMessage]]
    "Call id -> its SIP messages."
    trunks: Callable[[], Sequence[Mapping[str, object]]]
    "JSON-able, each with its name."
    locate: Callable[[str], Deferred[Address]]
    "Name of a trunk -> where its next call goes. Fails with OSError."
    options: Callable[[str, Address, Callable[[int | None], None]], None]
    "Sends an OPTIONS to a trunk at this address, and reports the status, None where there is no answer."
    callbacks: Callable[[int], Sequence[Mapping[str, object]]]
    deliver: Callable[[PendingCallback], None]
    reload: Callable[[], Sequence[str]]
    "Answers with a line for each mistake."
    facts: Callable[[], Mapping[str, object]]


class Control:
    """The handlers, for `Admin`'s table."""

    def __init__(
        self, controls: Controls, *, reactor: Any, store: Store, keyring: Keyring, now: Callable[[], float]
    ) -> None:
        self._can = controls
        self._reactor = reactor
        self._store = store
        self._keyring = keyring
        self._now = now
        self._admitting: set[str] = set()
        "Ids of the calls that are being decided on, of those whose ids were given."

    def routes(self) -> dict[tuple[bytes, ...], dict[bytes, Handler]]:
        return {
            (b"calls",): {b"POST": self._post_call},
            (b"audio",): {b"POST": self._post_audio},
            (b"calls", b"*", b"pcap"): {b"GET": self._get_pcap},
            (b"trunks",): {b"GET": self._get_trunks},
            (b"trunks", b"*", b"test"): {b"POST": self._test_trunk},
            (b"callbacks",): {b"GET": self._get_callbacks},
            (b"callbacks", b"*", b"again"): {b"POST": self._deliver_again},
            (b"keys", b"*", b"webhook-secret"): {b"GET": self._get_webhook_secret},
            (b"reload",): {b"POST": self._reload},
            (b"facts",): {b"GET": self._get_facts},
        }

    # calls

    async def _post_call(self, request: Request) -> object:
        wanted = read_json(request)
        key_id, call_id = wanted.get("key_id"), wanted.get("call_id", "")
        if not isinstance(key_id, str) or not key_id:
            raise Refused(400, "key_id is required")
        if not isinstance(call_id, str) or (call_id and CALL_ID.fullmatch(call_id) is None):
            raise Refused(400, "call_id must be 32 hexadecimal digits")
        try:
            asked = _read_call(wanted)
        except BadRequest as error:
            return _verdict(Verdict(ReturnCode.BAD_REQUEST, str(error)))
        if not call_id:
            return _verdict(await self._admit(key_id, asked, ""))
        if call_id in self._admitting:
            raise Refused(409, f"call {call_id} is being decided on; ask again")
        self._admitting.add(call_id)
        try:
            if await self._store.find_call(call_id) is not None:
                return _verdict(Verdict(ReturnCode.ACCEPTED, "accepted before", call_id))
            return _verdict(await self._admit(key_id, asked, call_id))
        finally:
            self._admitting.discard(call_id)

    async def _admit(self, key_id: str, asked: PlaybackRequest, call_id: str) -> Verdict:
        try:
            return await self._can.admit(key_id, asked, call_id)
        except Unavailable as error:
            raise Refused(503, error.words) from None

    async def _post_audio(self, request: Request) -> object:
        mp3 = b"" if request.content is None else request.content.read(LARGEST_MP3 + 1)
        try:
            url, prepared = await self._can.take_mp3(mp3)
        except AudioError as error:
            raise Refused(422, error.words) from None
        except LibraryUnavailable as error:
            raise Refused(503, str(error)) from None
        return {"mp3": url, "duration": prepared.duration}

    async def _get_pcap(self, request: Request, call_id: str) -> object:
        messages = self._can.messages(call_id)
        if not messages:
            raise Refused(404, f"no SIP messages of call {call_id} are kept")
        body = pcap(messages)
        request.setHeader(b"content-type", b"application/vnd.tcpdump.pcap")
        request.setHeader(b"content-disposition", b'attachment; filename="%s.pcap"' % call_id.encode())
        request.setHeader(b"content-length", b"%d" % len(body))
        request.write(body)
        request.finish()
        return NOT_DONE_YET

    # trunks

    async def _get_trunks(self, _: Request) -> object:
        return {"trunks": self._can.trunks()}

    async def _test_trunk(self, _: Request, name: str) -> object:
        trunk = next((each for each in self._can.trunks() if each["name"] == name), None)
        if trunk is None:
            raise Refused(404, f"there is no trunk {name}")
        shown = {"name": name, "registration": trunk.get("registration", "")}
        try:
            target = await self._can.locate(name)
        except OSError as error:
            return {**shown, "status": None, "seconds": None, "address": None, "words": str(error)}
        shown["address"] = f"[{target[0]}]:{target[1]}" if ":" in target[0] else f"{target[0]}:{target[1]}"
        answered: Deferred[int | None] = Deferred()
        began = self._reactor.seconds()
        self._can.options(name, target, lambda status: None if answered.called else answered.callback(status))
        try:
            status = await answered.addTimeout(TEST_SECONDS, self._reactor)
        except TimeoutError:
            status = None
        seconds = self._reactor.seconds() - began
        if status is None:
            words = f"no answer to an OPTIONS within {seconds:.0f} s"
        elif status == 503:
            words = "it takes no calls now"
        else:
            words = "it answers"
        return {**shown, "status": status, "seconds": round(seconds, 4), "words": words}

    # callbacks

    async def _get_callbacks(self, request: Request) -> object:
        most = request.args.get(b"most", [b"100"])[0]
        if not (most.isdigit() and len(most) < 9 and 1 <= int(most) <= MOST_CALLBACKS):
            raise Refused(400, f"most must be a number from 1 to {MOST_CALLBACKS}")
        return {"callbacks": self._can.callbacks(int(most)), "now": self._now()}

    async def _deliver_again(self, _: Request, call_id: str) -> object:
        record = await self._store.find_call(call_id)
        if record is None:
            raise Refused(404, f"there is no call {call_id}")
        if record.call.callback_url is None:
            raise Refused(409, f"call {call_id} has no callback_url")
        if record.outcome is None:
            raise Refused(409, f"call {call_id} has not ended; its callback is made when it has")
        now = self._now()
        if not await self._store.callback_again(call_id, now):
            raise Refused(409, f"another node makes the callback of call {call_id}; ask that one")
        self._can.deliver(PendingCallback(record.call, record.outcome, 0, now))
        return {"call_id": call_id, "due_at": now}

    # keys and settings

    async def _get_webhook_secret(self, _: Request, key_id: str) -> object:
        if all(key.id != key_id for key in await self._store.keys()):
            raise Refused(404, f"there is no key {key_id}")
        return {"webhook_secret": self._keyring.webhook_secret(key_id)}

    async def _reload(self, _: Request) -> object:
        return {"errors": self._can.reload()}

    async def _get_facts(self, _: Request) -> object:
        return self._can.facts()


def _read_call(wanted: Mapping[str, Any]) -> PlaybackRequest:
    """Read what `PlaybackRequest` reads from a query. Raises `BadRequest`."""
    args = {b"api_key": [b"the operator's"]}
    for name in WANTED:
        value = wanted.get(name)
        if isinstance(value, bool):
            value = str(value)
        if value is not None:
            if not isinstance(value, str):
                raise BadRequest(f"{name} must be text")
            args[name.encode()] = [value.encode("utf-8", "surrogatepass")]
    mp3 = wanted.get("mp3")
    if isinstance(mp3, str) and mp3.startswith(UPLOADED):
        args[b"mp3"] = [b"http://sent.invalid/"]
        return replace(PlaybackRequest.parse(args), mp3=mp3, cache=True)
    return PlaybackRequest.parse(args)


def _verdict(verdict: Verdict) -> Mapping[str, object]:
    return {"code": int(verdict.code), "words": verdict.words, "call_id": verdict.call_id}
