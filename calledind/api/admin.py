# mypy: allow-untyped-calls
"""The operator's side: HTTP with JSON over a Unix socket that only its owner may open.

    GET  /status                        what the daemon is doing
    GET  /nodes                         the daemons that share a store
    POST /drain                         {"drain"}: true, take no more work and dial no more; false, do so again
    GET  /keys                          all api keys
    POST /keys                          {"name", "credits"} -> the new key; api_key and webhook_secret are told once
    GET  /keys/ID
    POST /keys/ID/disable | enable
    POST /keys/ID/credits               {"amount", "note"}, negative to take some; the note may be left out
    GET  /keys/ID/ledger                {"entries"}: changes of its credits, the newest first
         ?most=100&before=PLACE         so many; those before the entry of this "place"
    POST /keys/ID/caller-ids            {"caller_ids"}: all that its requests may name; an empty list: any
    POST /keys/ID/attestation           {"attestation"}: "A", "B", "C", or "" for what the settings say
    GET  /calls/ID                      what became of a call
    GET  /calls/ID/trace, /trace/ID     its SIP messages, where they are kept
    GET  /dnc                           {"count"} of the DoNotCall list
    POST /dnc/add | remove              {"numbers": ["+12125550100", ...]}
    POST /dnc/import[?country_code=1]   a number a line; wrong lines are told, the others taken
    GET  /dnc/export                    country_code,phone_number lines
    POST /backup                        a tar file, see store.backup

An error is {"error": words} with a status of 400 or more.
"""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IPullProducer, IPushProducer, IReactorTime, IReactorUNIX
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from calledind.api.answers import report_incident
from calledind.api.numbers import parse_lines, parse_number
from calledind.api.site import Request, Site
from calledind.keyring import Keyring
from calledind.model import ANONYMOUS, ATTESTATIONS, CallRecord, Key, is_caller_id
from calledind.store.backup import AlreadyRunning, Backup
from calledind.store.interface import Number, Store, StoreUnavailable

LARGEST_IMPORT = 256 * 1024 * 1024
"Octets of one import; they wait in a temporary file."
LARGEST_JSON = 1024 * 1024
MOST_CREDITS = 10**9
SLICE = 1000
"Numbers read or written before others have their turn."
MOST_SLICES = 32
"On their way to the disk at the same time."
MOST_REJECTED = 500_000
"Wrong lines told in one answer."
MOST_CALLER_IDS = 1000
"Of one key."
LONGEST_NOTE = 200
MOST_ENTRIES = 1000
"Of a ledger, in one answer."


class Refused(Exception):
    """The request can't be done; becomes an HTTP status and {"error": words}."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


class SocketError(Exception):
    """The administrator's socket can't be opened; the message says why and what to do."""


Handler = Callable[..., Awaitable[object]]
"Takes the request and the ids of its path; answers what is JSON-able, or NOT_DONE_YET. Raises `Refused`."
Routes = Mapping[tuple[bytes, ...], Mapping[bytes, Handler]]
'Path, where b"*" stands for an id -> method -> what answers it.'


class Admin(Resource):
    """All of the operator's requests.

    `status`: the daemon's own figures, JSON-able. `extra`: path -> what it shows, JSON-able.
    `drain`: what is done when an operator says so or takes it back; JSON-able figures of what still runs.
    `trace`: call id -> its SIP messages, JSON-able, or None when they are not kept. `media`: the same of the figures
    of its packets, which become part of what is shown of the call. `routes`: what other modules answer.
    """

    isLeaf = True
    log = Logger()

    def __init__(
        self,
        *,
        reactor: IReactorTime,
        store: Store,
        keyring: Keyring,
        now: Callable[[], float],
        status: Callable[[], Mapping[str, object]],
        extra: Mapping[bytes, Callable[[], object]] | None = None,
        trace: Callable[[str], object] | None = None,
        media: Callable[[str], object] | None = None,
        drain: Callable[[bool], Mapping[str, object]] | None = None,
        backup: Backup | None = None,
        routes: Sequence[Routes] = (),
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._store = store
        self._keyring = keyring
        self._now = now
        self._status = status
        self._extra = {path.strip(b"/"): show for path, show in (extra or {}).items()}
        self._trace = trace
        self._media = media
        self._drain = drain
        self._backup = backup
        # "*" stands for an id, which the handler is given.
        self._routes: dict[tuple[bytes, ...], dict[bytes, Handler]] = {
            (b"status",): {b"GET": self._get_status},
            (b"drain",): {b"POST": self._post_drain},
            (b"keys",): {b"GET": self._get_keys, b"POST": self._post_key},
            (b"keys", b"*"): {b"GET": self._get_key},
            (b"keys", b"*", b"disable"): {b"POST": self._disable},
            (b"keys", b"*", b"enable"): {b"POST": self._enable},
            (b"keys", b"*", b"credits"): {b"POST": self._post_credits},
            (b"keys", b"*", b"ledger"): {b"GET": self._get_ledger},
            (b"keys", b"*", b"caller-ids"): {b"POST": self._post_caller_ids},
            (b"keys", b"*", b"attestation"): {b"POST": self._post_attestation},
            (b"calls", b"*"): {b"GET": self._get_call},
            (b"calls", b"*", b"trace"): {b"GET": self._get_trace},
            (b"trace", b"*"): {b"GET": self._get_trace},
            (b"dnc",): {b"GET": self._get_do_not_call},
            (b"dnc", b"add"): {b"POST": self._add_numbers},
            (b"dnc", b"remove"): {b"POST": self._remove_numbers},
            (b"dnc", b"import"): {b"POST": self._import},
            (b"dnc", b"export"): {b"GET": self._export},
            (b"backup",): {b"POST": self._post_backup},
        }
        for more in routes:
            for path, handlers in more.items():
                self._routes.setdefault(path, {}).update(handlers)

    # the way of a request

    def render(self, request: Request) -> int:
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)
        answer = Deferred.fromCoroutine(self._answer(request))
        answer.addCallback(lambda result: None if gone or result is None else _send(request, *result))
        answer.addErrback(self._broken, request)
        return NOT_DONE_YET

    async def _answer(self, request: Request) -> tuple[int, object] | None:
        """Return status and JSON; None when the handler writes the response itself."""
        try:
            handler, arguments = self._find(request)
            result = await handler(request, *arguments)
        except Refused as error:
            return error.status, {"error": error.words}
        except StoreUnavailable as error:
            return 503, {"error": f"the store can't take changes now: {error}"}
        except Exception:  # noqa: BLE001 - the operator is told where to look
            incident = report_incident(self.log, Failure(), "the administrator's request")
            return 500, {"error": f"this is a fault of calledin; the log has it as incident {incident}"}
        return None if result is NOT_DONE_YET else (200, result)

    def _find(self, request: Request) -> tuple[Handler, list[str]]:
        segments = list(request.postpath or ())
        if segments[-1:] == [b""]:
            segments.pop()
        show = self._extra.get(b"/".join(segments))
        if show is not None:
            return _showing(show), []
        for pattern, handlers in self._routes.items():
            if len(pattern) == len(segments) and all(
                part in (b"*", segment) for part, segment in zip(pattern, segments, strict=True)
            ):
                if request.method not in handlers:
                    request.setHeader(b"allow", b", ".join(handlers))
                    raise Refused(405, f"this takes {b' or '.join(handlers).decode()}")
                named = [
                    segment.decode("ascii", "replace")
                    for part, segment in zip(pattern, segments, strict=True)
                    if part == b"*"
                ]
                return handlers[request.method], named
        raise Refused(404, "there is no such thing to ask for")

    def _broken(self, failure: Failure, request: Request) -> None:
        report_incident(self.log, failure, "an answer to the administrator")
        if request.channel is not None:
            request.channel.abort()

    # status and calls

    async def _get_status(self, _: Request) -> object:
        totals = asdict(await self._store.totals())
        return {**self._status(), "store": {"healthy": self._store.healthy(), **totals}}

    async def _get_call(self, _: Request, call_id: str) -> object:
        record = await self._store.find_call(call_id)
        if record is None:
            raise Refused(404, f"there is no call {call_id}")
        media = None if self._media is None else self._media(call_id)
        return show_call(record) if media is None else {**show_call(record), "media": media}

    async def _get_trace(self, _: Request, call_id: str) -> object:
        messages = None if self._trace is None else self._trace(call_id)
        if messages is None:
            raise Refused(404, f"no SIP messages of call {call_id} are kept")
        return messages

    async def _post_drain(self, request: Request) -> object:
        wanted = read_json(request).get("drain")
        if not isinstance(wanted, bool):
            raise Refused(400, "drain must be true or false")
        if self._drain is None:
            raise Refused(404, "this daemon can't be drained")
        return self._drain(wanted)

    # keys and credits

    async def _get_keys(self, _: Request) -> object:
        return {"keys": [asdict(key) for key in await self._store.keys()]}

    async def _get_key(self, _: Request, key_id: str) -> object:
        return asdict(await self._key(key_id))

    async def _key(self, key_id: str) -> Key:
        for key in await self._store.keys():
            if key.id == key_id:
                return key
        raise Refused(404, f"there is no key {key_id}")

    async def _post_key(self, request: Request) -> object:
        wanted = read_json(request)
        name = wanted.get("name")
        if not isinstance(name, str) or not name.strip() or len(name) > 100 or not name.isprintable():
            raise Refused(400, "name must be 1 to 100 printable characters")
        amount = _read_amount(wanted, "credits", default=0)
        if amount < 0:
            raise Refused(400, "credits must not be negative")
        new = self._keyring.new()
        key = Key(id=new.id, name=name, credits=amount, held=0, charged=0, disabled=False, created_at=self._now())
        await self._store.add_key(key, new.digest)
        self.log.info("key {key_id} made with {amount} credits", key_id=key.id, amount=amount)
        return {**asdict(key), "api_key": new.api_key, "webhook_secret": new.webhook_secret}

    async def _disable(self, _: Request, key_id: str) -> object:
        return await self._set_disabled(key_id, True)

    async def _enable(self, _: Request, key_id: str) -> object:
        return await self._set_disabled(key_id, False)

    async def _set_disabled(self, key_id: str, disabled: bool) -> object:
        if not await self._store.set_disabled(key_id, disabled):
            raise Refused(404, f"there is no key {key_id}")
        self.log.info("key {key_id} {what}", key_id=key_id, what="disabled" if disabled else "enabled")
        return asdict(await self._key(key_id))

    async def _post_credits(self, request: Request, key_id: str) -> object:
        wanted = read_json(request)
        amount = _read_amount(wanted, "amount")
        note = wanted.get("note", "")
        if not isinstance(note, str) or len(note) > LONGEST_NOTE or not note.isprintable():
            raise Refused(400, f"note must be at most {LONGEST_NOTE} printable characters")
        try:
            key = await self._store.add_credits(key_id, amount, self._now(), note)
        except KeyError:
            raise Refused(404, f"there is no key {key_id}") from None
        except ValueError as error:
            raise Refused(409, str(error)) from None
        self.log.info("key {key_id} credited {amount}", key_id=key_id, amount=amount)
        return asdict(key)

    async def _get_ledger(self, request: Request, key_id: str) -> object:
        most = request.args.get(b"most", [b"100"])[0]
        if not (most.isdigit() and len(most) < 9 and 1 <= int(most) <= MOST_ENTRIES):
            raise Refused(400, f"most must be a number from 1 to {MOST_ENTRIES}")
        before = request.args.get(b"before", [b""])[0].decode("ascii", "replace")
        try:
            entries = await self._store.ledger(key_id, most=int(most), before=before)
        except KeyError:
            raise Refused(404, f"there is no key {key_id}") from None
        except ValueError as error:
            raise Refused(400, str(error)) from None
        return {"entries": [asdict(entry) for entry in entries]}

    async def _post_caller_ids(self, request: Request, key_id: str) -> object:
        wanted = _read_caller_ids(read_json(request))
        if not await self._store.set_caller_ids(key_id, wanted):
            raise Refused(404, f"there is no key {key_id}")
        self.log.info("key {key_id} may use {count} caller ids", key_id=key_id, count=len(wanted) or "any")
        return asdict(await self._key(key_id))

    async def _post_attestation(self, request: Request, key_id: str) -> object:
        attestation = read_json(request).get("attestation")
        if attestation not in ATTESTATIONS:
            raise Refused(400, 'attestation must be "A", "B", "C" or ""')
        if not await self._store.set_attestation(key_id, attestation):
            raise Refused(404, f"there is no key {key_id}")
        self.log.info("key {key_id} is attested {attestation!r}", key_id=key_id, attestation=attestation)
        return asdict(await self._key(key_id))

    # DoNotCall

    async def _get_do_not_call(self, _: Request) -> object:
        return {"count": (await self._store.totals()).do_not_call}

    async def _add_numbers(self, request: Request) -> object:
        added = await self._store.add_do_not_call(_read_numbers(request))
        self.log.info("{added} numbers added to the DoNotCall list", added=added)
        return {"added": added}

    async def _remove_numbers(self, request: Request) -> object:
        removed = await self._store.remove_do_not_call(_read_numbers(request))
        self.log.info("{removed} numbers removed from the DoNotCall list", removed=removed)
        return {"removed": removed}

    async def _import(self, request: Request) -> object:
        country_code = request.args.get(b"country_code", [b""])[0].decode("ascii", "replace")
        added = taken = place = 0
        rejected: list[tuple[int, str]] = []
        content = request.content or BytesIO()
        adding: list[Deferred[int]] = []
        # The file is closed when the client leaves.
        while not content.closed and (batch := list(islice(content, SLICE))):
            numbers: list[Number] = []
            for entry in parse_lines(batch, country_code, place + 1):
                if isinstance(entry[0], str):
                    numbers.append(entry)
                else:
                    rejected.append(entry)
            place += len(batch)
            taken += len(numbers)
            if numbers:
                adding.append(self._store.add_do_not_call(numbers))
            await deferLater(self._reactor, 0)
            if len(adding) >= MOST_SLICES:
                added += await _sum(adding)
                adding.clear()
        added += await _sum(adding)
        self.log.info("{added} numbers imported into the DoNotCall list", added=added)
        told = [{"line": line, "why": why} for line, why in rejected[:MOST_REJECTED]]
        return {
            "lines": place,
            "added": added,
            "already_there": taken - added,
            "rejected": len(rejected),
            "wrong_lines": told,
        }

    async def _export(self, request: Request) -> object:
        numbers = await self._store.do_not_call()
        if request.channel is not None:  # the client has not left meanwhile
            request.setHeader(b"content-type", b"text/csv; charset=utf-8")
            request.write(b"country_code,phone_number\n")
            request.registerProducer(_Export(request, numbers, self.log), False)
        return NOT_DONE_YET

    # a backup

    async def _post_backup(self, request: Request) -> object:
        if self._backup is None:
            raise Refused(404, "this daemon can't be backed up")
        try:
            made = await self._backup.make()
        except AlreadyRunning as error:
            raise Refused(409, str(error)) from None
        self.log.info("a backup of {size} octets is made", size=made.size)
        has_left = request.channel is None
        if has_left:
            made.close()
            return NOT_DONE_YET
        request.setHeader(b"content-type", b"application/x-tar")
        request.setHeader(b"calledin-store-octets", b"%d" % made.size)
        sending = Deferred.fromCoroutine(Sender(request, self.log).send(made.pieces()))
        sending.addBoth(lambda _: made.close())
        return NOT_DONE_YET


@implementer(IPushProducer)
class Sender:
    """Writes what comes in pieces, as fast as the client takes them."""

    def __init__(self, request: Request, log: Logger, what: str = "a backup") -> None:
        self._request = request
        self._log = log
        self._what = what
        self._left = False
        self._flow: Deferred[None] | None = None
        "Fires when more may be written; None: it may."

    async def send(self, pieces: AsyncIterator[bytes]) -> None:
        self._request.registerProducer(self, True)
        try:
            async for piece in pieces:
                if not self._left:
                    self._request.write(piece)
                if self._flow is not None:
                    await self._flow
                if self._left:
                    return
        except Exception:  # noqa: BLE001 - half a file must not look like a whole one
            report_incident(self._log, Failure(), self._what)
            if not self._left:
                self._request.unregisterProducer()
                self._request.channel.abort()
            return
        self._request.unregisterProducer()
        self._request.finish()

    def pauseProducing(self) -> None:
        if self._flow is None:
            self._flow = Deferred()

    def resumeProducing(self) -> None:
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.callback(None)

    def stopProducing(self) -> None:
        """The client has left."""
        self._left = True
        self.resumeProducing()


@implementer(IPullProducer)
class _Export:
    """Writes the DoNotCall list as fast as the client takes it."""

    def __init__(self, request: Request, numbers: Iterable[Number], log: Logger) -> None:
        self._request = request
        self._numbers = iter(numbers)
        self._log = log

    def resumeProducing(self) -> None:
        try:
            lines = [f"{country_code},{number}\n" for country_code, number in islice(self._numbers, SLICE)]
        except Exception:  # noqa: BLE001 - half a list must not look like a whole one
            report_incident(self._log, Failure(), "the export")
            self._request.unregisterProducer()
            self._request.channel.abort()
            return
        if lines:
            self._request.write("".join(lines).encode())
        else:
            self._request.unregisterProducer()
            self._request.finish()

    def stopProducing(self) -> None:
        """The client has left."""


def show_call(record: CallRecord) -> dict[str, object]:
    """Return what an operator may see of a call: all but the customer's secret and the dialog's inner state."""
    call, outcome = asdict(record.call), record.outcome
    del call["secret"]
    return {
        **call,
        "state": record.state.value,
        "answered_at": record.answered_at,
        "attempt": None if record.attempt is None else {"number": record.attempt.number, "trunk": record.attempt.trunk},
        "outcome": None
        if outcome is None
        else {"answered": outcome.answered, "reason": outcome.reason, **asdict(outcome.ending)},
    }


def _showing(show: Callable[[], object]) -> Handler:
    async def handler(_: Request) -> object:
        return show()

    return handler


def _send(request: Request, status: int, result: object) -> None:
    body = json.dumps(result, ensure_ascii=False, default=str).encode() + b"\n"
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"content-length", b"%d" % len(body))
    request.write(body)
    request.finish()


async def _sum(counts: Sequence[Deferred[int]]) -> int:
    """Wait for all; raises what the first of them that fails does."""
    try:
        return sum(await gatherResults(counts, consumeErrors=True))
    except FirstError as error:
        failed: Any = error.subFailure.value
        raise failed from None


def read_json(request: Request) -> dict[str, Any]:
    """Return the object that the request's body is. Raises `Refused`."""
    body = b"" if request.content is None else request.content.read(LARGEST_JSON + 1)
    if len(body) > LARGEST_JSON:
        raise Refused(413, "the request is larger than 1 MiB")
    try:
        wanted = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the request's body is not JSON") from None
    if not isinstance(wanted, dict):
        raise Refused(400, "the request's body is not a JSON object")
    return wanted


def _read_amount(wanted: Mapping[str, object], name: str, default: int | None = None) -> int:
    amount = wanted.get(name, default)
    if isinstance(amount, bool) or not isinstance(amount, int) or abs(amount) > MOST_CREDITS:
        raise Refused(400, f"{name} must be a whole number of at most {MOST_CREDITS}")
    return amount


def _read_caller_ids(wanted: Mapping[str, object]) -> tuple[str, ...]:
    texts = wanted.get("caller_ids")
    if not isinstance(texts, list) or len(texts) > MOST_CALLER_IDS:
        raise Refused(400, f'caller_ids must be a list of at most {MOST_CALLER_IDS} texts, such as ["+12125550100"]')
    for text in texts:
        if not isinstance(text, str) or not is_caller_id(text):
            raise Refused(400, f'{text!r} is not a caller id: digits with a leading + where wanted, or "{ANONYMOUS}"')
    return tuple(dict.fromkeys(texts))


def _read_numbers(request: Request) -> list[Number]:
    texts = read_json(request).get("numbers")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Refused(400, 'numbers must be a list of texts, such as ["+12125550100"]')
    try:
        return [parse_number(text) for text in texts]
    except ValueError as error:
        raise Refused(400, str(error)) from None


def admin_site(admin: Admin, *, reactor: IReactorTime) -> Site:
    """Return the site that `listen` is given."""
    return Site(admin, reactor=reactor, max_connections=64, max_body=LARGEST_IMPORT, methods=(b"GET", b"POST"))


def listen(reactor: IReactorUNIX, path: Path, site: Site) -> IListeningPort:
    """Open the socket with mode 0600, in place of one that a killed daemon left. Raises `SocketError`."""
    if len(os.fsencode(path)) > 107:
        raise SocketError(f"{path}: a Unix socket's path has at most 107 octets; set admin.socket to a shorter one")
    _remove_stale(path)
    # Between bind and chmod nobody else may slip in.
    umask = os.umask(0o177)
    try:
        return reactor.listenUNIX(os.fspath(path), site, mode=0o600)  # type: ignore[arg-type]
    except CannotListenError as error:
        raise SocketError(f"{path}: {error.socketError}") from None
    finally:
        os.umask(umask)


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketError(f"{path}: is there and is not a socket; move it away or set admin.socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise SocketError(f"{path}: can't be asked whether a daemon is behind it: {error.strerror}") from None
        else:
            raise SocketError(f"{path}: another daemon answers there; stop it, or set data or admin.socket")
