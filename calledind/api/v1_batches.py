# mypy: allow-untyped-calls
"""/api/v1/batches: calls for many numbers by one request.

    POST   /api/v1/batches                    JSON, or text/csv with the other fields in the query: 201 and the batch
    GET    /api/v1/batches                    the key's batches, the newest first
    GET    /api/v1/batches/ID                 one of them, and what has become of its calls
    DELETE /api/v1/batches/ID                 forgets one that is over
    POST   /api/v1/batches/ID/pause           asks for no more rows
    POST   /api/v1/batches/ID/resume          goes on with them
    POST   /api/v1/batches/ID/cancel          asks for no more rows, for good
    GET    /api/v1/batches/ID/results.csv     a line for each row

A POST with an `Idempotency-Key` may be sent again for as long as its batch is kept.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from calledind.api import problem
from calledind.api.problem import Problem
from calledind.api.site import Opening, Request
from calledind.api.v1_batch_forms import read_csv, read_json, show_batch
from calledind.batches.batches import Batches, Kept, TooMany, Wanted
from calledind.batches.files import ID, OVER, State
from calledind.batches.run import Run
from calledind.model import Key

OPENING = Opening(b"/api/v1/batches", 1024 * 1024, 20.0)
"What the site must let through."
MOST_LOOKS_OF_KEY = 2
"Batches whose calls one key may have looked up at the same time."
CSV = b"text/csv; charset=utf-8"

Answer = tuple[int, object, Mapping[str, str]]
Handler = Callable[..., Awaitable[Answer | None]]


class BatchesFace:
    """The handlers of `V1` for what is below /api/v1/batches."""

    def __init__(
        self,
        batches: Batches,
        *,
        digest: Callable[[str], bytes],
        media_type: Callable[[Request], bytes],
        idempotency_name: Callable[[Request], str],
    ) -> None:
        """`digest`: of an api key, as the store knows it. The others read headers; they raise Problem, BadRequest."""
        self._batches = batches
        self._digest = digest
        self._media_type = media_type
        self._idempotency_name = idempotency_name
        self._deciding: set[str] = set()
        self._looks: Counter[str] = Counter()

    def handlers(self) -> Mapping[tuple[str, ...], Mapping[str, Handler]]:
        return {
            ("batches",): {"GET": self._list, "POST": self._create},
            ("batches", "*"): {"GET": self._get, "DELETE": self._delete},
            ("batches", "*", "pause"): {"POST": self._pause},
            ("batches", "*", "resume"): {"POST": self._resume},
            ("batches", "*", "cancel"): {"POST": self._cancel},
            ("batches", "*", "results.csv"): {"GET": self._results},
        }

    # making them

    async def _create(self, request: Request, api_key: str, key: Key) -> Answer:
        self._make_sure_of_start()
        media_type = self._media_type(request)
        if media_type not in (b"application/json", b"text/csv"):
            raise Problem(problem.NOT_JSON, "send it with `Content-Type: application/json`, or `text/csv`")
        name = self._idempotency_name(request)
        body: bytes = b"" if request.content is None else request.content.read(OPENING.largest)
        args: Mapping[bytes, Any] = request.args
        if args and media_type != b"text/csv":
            raise Problem(problem.BAD_REQUEST, "with JSON, there is nothing to say in the query")
        if not name:
            return await self._make(api_key, key, await self._read(media_type, body, args))
        token = hashlib.sha256(f"{key.id}\0{name}".encode()).hexdigest()[:32]
        fingerprint = hashlib.sha256(repr((media_type, sorted(args.items()))).encode() + body).hexdigest()[:32]
        if token in self._deciding:
            raise Problem(problem.KEY_IN_USE, "ask again in a moment", retry_after=1)
        made = self._batches.find_idempotent(key.id, token)
        if made is not None:
            return self._again(made, fingerprint)
        self._deciding.add(token)
        try:
            wanted = await self._read(media_type, body, args)
            return await self._make(api_key, key, replace(wanted, token=token, fingerprint=fingerprint))
        finally:
            self._deciding.discard(token)

    async def _read(self, media_type: bytes, body: bytes, args: Mapping[bytes, Any]) -> Wanted:
        """Read in a thread: ten thousand rows take a while."""
        if media_type == b"text/csv":
            return await self._batches.aside(lambda: read_csv(body, args))
        return await self._batches.aside(lambda: read_json(body))

    async def _make(self, api_key: str, key: Key, wanted: Wanted) -> Answer:
        try:
            kept = await self._batches.create(key.id, self._digest(api_key), wanted)
        except TooMany as error:
            raise Problem(problem.TOO_MANY_BATCHES, str(error)) from None
        return 201, show_batch(kept), {"Location": f"/api/v1/batches/{kept.order.id}"}

    def _again(self, made: Kept, fingerprint: str) -> Answer:
        batch_id = made.order.id
        if made.order.fingerprint != fingerprint:
            raise Problem(problem.KEY_REUSED, f"batch {batch_id} was made with it, by another request")
        return 201, show_batch(made), {"Location": f"/api/v1/batches/{batch_id}", "Idempotency-Replayed": "true"}

    # looking at them

    async def _list(self, _: Request, __: str, key: Key) -> Answer:
        self._make_sure_of_start()
        return 200, {"batches": [show_batch(kept) for kept in self._batches.of_key(key.id)]}, {}

    async def _get(self, _: Request, __: str, key: Key, batch_id: str) -> Answer:
        return await self._show(self._own(key, batch_id))

    async def _show(self, kept: Kept) -> Answer:
        with self._look(kept):
            outcomes = await self._batches.outcomes(kept)
        return 200, show_batch(kept, outcomes), {}

    async def _results(self, _: Request, __: str, key: Key, batch_id: str) -> Answer:
        kept = self._own(key, batch_id)
        with self._look(kept):
            return 200, await self._batches.results(kept), {}

    def _own(self, key: Key, batch_id: str) -> Kept:
        """Return a batch of this key; one of another is as good as none. Raises Problem."""
        self._make_sure_of_start()
        kept = self._batches.find(key.id, batch_id) if ID.fullmatch(batch_id) else None
        if kept is None:
            raise Problem(problem.NOT_FOUND, "this api_key has no such batch here")
        return kept

    def _make_sure_of_start(self) -> None:
        if not self._batches.is_open:
            raise Problem(problem.UNAVAILABLE, "calledin is starting", retry_after=1)

    @contextmanager
    def _look(self, kept: Kept) -> Iterator[None]:
        """Bound how many calls one key has the store look up. Raises Problem."""
        key_id = kept.order.key_id
        if self._looks[key_id] >= MOST_LOOKS_OF_KEY:
            raise Problem(problem.UNAVAILABLE, "too many looks at this api_key's batches at once", retry_after=1)
        self._looks[key_id] += 1
        try:
            yield
        finally:
            self._looks -= Counter({key_id: 1})

    # changing them

    async def _pause(self, _: Request, __: str, key: Key, batch_id: str) -> Answer:
        kept = self._own(key, batch_id)
        run = self._changeable(kept)
        if kept.standing.state is not State.PAUSED:
            await run.pause()
        return 200, show_batch(kept), {}

    async def _resume(self, _: Request, __: str, key: Key, batch_id: str) -> Answer:
        kept = self._own(key, batch_id)
        run = self._changeable(kept)
        if kept.standing.state is not State.RUNNING:
            await run.resume()
        return 200, show_batch(kept), {}

    async def _cancel(self, _: Request, __: str, key: Key, batch_id: str) -> Answer:
        kept = self._own(key, batch_id)
        if kept.standing.state is not State.CANCELLED:
            await self._changeable(kept).cancel()
        return 200, show_batch(kept), {}

    async def _delete(self, _: Request, __: str, key: Key, batch_id: str) -> Answer:
        kept = self._own(key, batch_id)
        if kept.run is not None:
            raise Problem(problem.BATCH_IS_NOT_OVER, "cancel it first")
        await self._batches.remove(kept)
        return 200, show_batch(kept), {}

    def _changeable(self, kept: Kept) -> Run:
        """Return what can still be changed. Raises Problem."""
        if kept.run is None or kept.standing.state in OVER:
            raise Problem(problem.BATCH_IS_OVER, f"it is {kept.standing.state.value}")
        if kept.run.unwritable:
            raise Problem(problem.UNAVAILABLE, "a change can't be kept now", retry_after=5)
        return kept.run
