"""What the parts of the shared store have in common: the link, the names, the node that asks, and its key cache."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.model import Call, Key
from calledind.store.interface import Route, StoreUnavailable
from calledind.store.redis_link import NotReplicated, RedisLink, Unanswered

T = TypeVar("T")

AGAIN = 1.0
"Seconds between two tries of what must be done in the end."
PROBE = 1.0
"Seconds between two looks for replicas that are missing."


def scripts() -> dict[str, str]:
    """Return the decisions: name -> Lua source, with what they share in front."""
    folder = files("calledind.store").joinpath("lua")
    texts = {each.name: each.read_text(encoding="utf-8") for each in folder.iterdir() if each.name.endswith(".lua")}
    common = texts.pop("common.lua")
    return {name.removesuffix(".lua"): common + text for name, text in texts.items()}


def boot_time() -> float:
    """Return the seconds since this machine was started, those that it was suspended for among them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def to_key(row: Sequence[bytes]) -> Key:
    """Read a row of `key_row`."""
    key_id, name, credits, held, charged, disabled, created_at, caller_ids, attestation = row[:9]
    return Key(
        key_id.decode(),
        name.decode(),
        int(credits),
        int(held),
        int(charged),
        disabled=disabled == b"1",
        created_at=float(created_at),
        caller_ids=tuple(json.loads(caller_ids)),
        attestation=attestation.decode(),
    )


def text_of(route: Route) -> str:
    return "\n".join(route)


def route_of(text: bytes) -> Route:
    return tuple(text.decode().split("\n")) if text else ()


class KeyCache:
    """Keys by their digests, so that a request need not ask for its own.

    What is not credits is true while `accept` finds the key's version to be the one that is known here; whoever
    changes it tells all nodes, and where one may not have heard (its connection was lost) it forgets all of them.
    """

    def __init__(self) -> None:
        self._keys: dict[bytes, tuple[Key, bytes]] = {}
        "Digest -> key and its version."
        self._digests: dict[str, bytes] = {}
        self.changes = 0
        "Times that something had to be forgotten: what was asked for before may be older."

    def find(self, digest: bytes) -> Key | None:
        found = self._keys.get(digest)
        return found[0] if found is not None else None

    def known(self, key_id: str) -> tuple[Key | None, bytes]:
        """Return a key and its version, nothing where it is not known."""
        digest = self._digests.get(key_id)
        return self._keys[digest] if digest is not None else (None, b"")

    def keep(self, digest: bytes, row: Sequence[bytes]) -> Key:
        """`row`: as `to_key` takes it, and the version."""
        key = to_key(row)
        self._keys[digest] = key, row[9]
        self._digests[key.id] = digest
        return key

    def renew(self, key_id: str, row: Sequence[bytes]) -> Key:
        """Take the new row of a key that is known."""
        return self.keep(self._digests[key_id], row)

    def drop(self, key_id: str) -> None:
        self.changes += 1
        digest = self._digests.pop(key_id, None)
        if digest is not None:
            del self._keys[digest]

    def clear(self) -> None:
        self.changes += 1
        self._keys.clear()
        self._digests.clear()


class RedisBase:
    """What the parts of `RedisStore` are made from."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        link: RedisLink,
        *,
        scripts: Mapping[str, str],
        prefix: str,
        route_of: Callable[[Call], Route],
        encodings: Callable[[str], Deferred[Mapping[str, bytes]]] | None,
        fresh_audio: float,
    ) -> None:
        self._reactor = reactor
        self._link = link
        self._prefix = prefix
        self._keys_of_all = (prefix,)
        self._scripts = scripts
        self._channel = prefix + "changed"
        self._route_of = route_of
        self._encodings = encodings
        self._fresh_audio = max(1, int(fresh_audio))
        self._owner = ""
        "This node, as the calls know it."
        self._owners: dict[str, str] = {}
        """Call id -> this node by the name under which it was given the call: what it decided before it was fenced must
        not count for a call that others have put back into the queue since."""
        self._cache = KeyCache()
        self._timers: set[IDelayedCall] = set()
        self._closed = False
        self._lacking = ""
        "Why the last change could not be kept while Redis was there."
        self._doubtful: dict[str, list[str]] = {}
        "Call id -> attempts (JSON) of which it is not known whether Redis has them or will have them."
        self._ahead: float | None = None
        "Redis's clock less our reactor's, in seconds, by the last heartbeat; it may jump, until the next one."
        self._question = 0
        self._done: list[int] = []
        "Questions whose answers were heard, and of which Redis does not know that."
        self._void: list[int] = []
        "Questions whose answers were lost."

    # asking

    def _say_heard(self) -> None:
        """Tell Redis what it should know before it is asked for more; see `redis_calls`."""

    def _run(self, script: str, *args: str | bytes | float) -> Deferred[Any]:
        self._say_heard()
        return self._link.run(script, self._keys_of_all, args)

    def _change(self, script: str, *args: str | bytes | float) -> Deferred[Any]:
        """Run a script whose change the replicas must have."""
        changing = self._link.run(script, self._keys_of_all, args, replicated=True)
        return changing.addCallbacks(self._changed, self._not_changed)

    async def _surely(self, script: str, *args: str | bytes | float) -> Any:
        """Run a script that does nothing when it comes twice, once more where its answer is lost."""
        try:
            return await self._change(script, *args)
        except Unanswered:
            await self._pause(AGAIN)
        try:
            return await self._change(script, *args)
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"{error}; it may have been done all the same, or be done yet: look at it"
            ) from error

    def _run_slowly(self, script: str, *args: str | bytes | float) -> Deferred[Any]:
        """Run a script that has much to read or write, so that nothing small waits behind it."""
        return self._link.bulk("EVAL", self._scripts[script], 1, self._prefix, *args)

    def _changed(self, reply: T) -> T:
        self._lacking = ""
        return reply

    def _not_changed(self, failure: Failure) -> Failure:
        if isinstance(failure.value, NotReplicated) and not self._lacking:
            self._lacking = str(failure.value)
            self._log.error("The shared store can't keep changes: {words}", words=self._lacking)
            self._later(PROBE, self._probe)
        return failure

    def _doubt_replicas(self) -> None:
        """Have nothing accepted and nothing begun before replicas have answered: after a failover there may be none for
        some seconds, and what is tried meanwhile could only be refused, and be in doubt."""
        if not self._lacking:
            self._lacking = "it is not known yet whether replicas have its changes"
            self._probe()

    def _probe(self) -> None:
        """Find out whether the replicas are there again."""
        asking = self._link.run("check", self._keys_of_all, ("", "10", 0), replicated=True)
        asking.addCallbacks(self._changed, lambda failure: self._later(PROBE, self._probe))

    async def _take_once(self, script: str, *args: str | bytes | float) -> Any:
        """Ask for something that is this node's from then on. What a lost answer gave is let go of again.

        See `reckon` in common.lua.
        """
        self._question += 1
        question, owner = self._question, self._owner
        done, void = self._done[:], self._void[:]
        try:
            reply = await self._run(script, owner, question, words_of(done), words_of(void), *args)
        except Unanswered:
            if owner == self._owner:
                self._void.append(question)
            raise
        if owner != self._owner:
            # Others have it: this node was fenced, and has joined again since.
            raise StoreUnavailable("this node was fenced meanwhile")
        self._reckoned(done, void)
        self._done.append(question)
        return reply

    def _reckoned(self, done: Iterable[int], void: Iterable[int]) -> None:
        """Forget questions of which Redis knows by now."""
        known = {*done, *void}
        self._done = [each for each in self._done if each not in known]
        self._void = [each for each in self._void if each not in known]

    def _not_after(self) -> str:
        """Return when a change that is asked for now is given up, by Redis's clock; "": that is not known."""
        if self._ahead is None:
            return ""
        return f"{self._link.deadline + self._ahead:.6f}"

    def _owner_of(self, call_id: str) -> str:
        return self._owners.get(call_id, self._owner)

    def _is_given(self, call_ids: Iterable[str]) -> None:
        """Note that these calls are this node's now."""
        for call_id in call_ids:
            self._owners[call_id] = self._owner

    def _let_go_of(self, call_id: str) -> None:
        """Forget about a call that is not this node's any more."""
        self._doubtful.pop(call_id, None)
        if self._owners.get(call_id) == self._owner:
            del self._owners[call_id]

    # time

    def _later(self, seconds: float, what: Callable[[], object]) -> None:
        """Do it then, unless the store is closed before."""
        if self._closed:
            return

        def due() -> None:
            self._timers.discard(timer)
            what()

        timer: IDelayedCall = self._reactor.callLater(seconds, due)
        self._timers.add(timer)

    def _pause(self, seconds: float) -> Deferred[None]:
        """Fire then; never where the store is closed before."""
        over: Deferred[None] = Deferred()
        self._later(seconds, lambda: over.callback(None))
        return over

    def _bug(self, failure: Failure) -> None:
        self._log.failure("The shared store met an error of our own", failure)


def words_of(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))
