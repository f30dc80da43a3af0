"""The schema of what is in Redis: a number beside it, which is looked at whenever a node joins.

All nodes of a store are of one schema. So the step to the next one is made while no other node lives: the daemons of
the version before are stopped, then the first one of the new version to start makes it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from calledind.store.interface import StoreUnavailable
from calledind.store.redis_link import RedisLink

SCHEMA = 2
LOOKS = 5
"At other nodes, in the time of a lease."

Change = Callable[[RedisLink, str], Awaitable[None]]
"The link and the prefix. Cut short, it is made once more from its beginning."
Pause = Callable[[float], Deferred[Any]]
"Fires after so many seconds."

log = Logger()


async def _tell_of_lines(link: RedisLink, prefix: str) -> None:
    """The set of all calls that wait is gone; there is one of the lines that they wait in."""
    for route in await link.bulk("HKEYS", prefix + "waiting"):
        for key in await link.bulk("ZRANGE", prefix.encode() + b"ring:" + route, 0, -1):
            line = key + b"\n" + route
            first = await link.bulk("ZRANGE", prefix.encode() + b"line:" + line, 0, 0, "WITHSCORES")
            if first:
                await link.bulk("ZADD", prefix + "lines", "LT", first[1], line)
    await link.bulk("UNLINK", prefix + "queue")


CHANGES: Mapping[int, Change] = {1: _tell_of_lines}
"Schema -> what makes the next one of it."


async def check_schema(
    link: RedisLink,
    prefix: str,
    *,
    lease: float,
    pause: Pause,
    ours: int = SCHEMA,
    changes: Mapping[int, Change] = CHANGES,
) -> None:
    """See that what is in Redis is of our schema, and bring it there. Nothing else may be asked before.

    `lease`: the nodes' own, in seconds. Raises StoreUnavailable, whose words say what to do.
    """
    found = await link.run("schema", (prefix,), (ours,), replicated=True)
    if found == -1:
        raise StoreUnavailable(
            f"everything was being brought to {prefix!r} in Redis from another store, and that was cut short; "
            "finish `calledin migrate` or `calledin restore` by the same command"
        )
    if found > ours:
        raise StoreUnavailable(
            f"{prefix!r} in Redis was written by a newer calledin (schema {found}; this one knows {ours}): "
            "start that one"
        )
    if found == ours:
        return
    alive = await living(link, prefix, lease=lease, pause=pause)
    if alive:
        raise StoreUnavailable(
            f"{prefix!r} in Redis is of schema {found}, of a calledin before this one, and {', '.join(alive)} still "
            "work on it: stop them, then this one brings it to its own"
        )
    for schema in range(found, ours):
        log.info("what is in Redis is brought from schema {schema} to the next", schema=schema)
        await changes[schema](link, prefix)
        await link.bulk("SET", prefix + "schema", schema + 1)


async def living(link: RedisLink, prefix: str, *, lease: float, pause: Pause) -> list[str]:
    """Return the names of the nodes that work on the store, whose heartbeats are seen to go on.

    Takes as long as a lease where there are some that were killed. Raises StoreUnavailable.
    """
    first = await _beats(link, prefix)
    alive: set[str] = set()
    for _ in range(LOOKS + 1):
        if len(alive) == len(first):
            break
        await pause(lease / LOOKS)
        now = await _beats(link, prefix)
        alive |= {name for name, beats in now.items() if beats != first.get(name)}
    return sorted(alive)


async def _beats(link: RedisLink, prefix: str) -> dict[str, tuple[bytes, bytes]]:
    """Return for each node that has neither left nor been fenced its epoch and its heartbeats."""
    rows = await link.run("nodes", (prefix,), ())
    return {row[0].decode(): (row[1], row[3]) for row in rows if row[2] == b"live"}
