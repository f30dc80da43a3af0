"""A process that lives calls as fast as it can, and prints each change it was told of, until it is killed."""

# mypy: allow-untyped-calls
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from calledind.model import ReturnCode
from calledind.store.embedded import EmbeddedStore
from tests.store.contract import ANSWERED, BUSY, DIALOG, NOW, make_attempt, make_call, make_key


async def live(store: EmbeddedStore, name: str, turn: int) -> None:
    """Live one call after the other, each a step further than the last before it is left."""
    for index in range(10**6):
        call_id = f"{name}-{turn}-{index}"
        call = make_call(
            call_id, number=(str(turn), f"{index:010d}"), at=NOW, callback_url="http://x/" if index % 3 else None
        )
        if await store.accept(call) is not ReturnCode.ACCEPTED:
            raise AssertionError(call_id)
        print(call_id, "accepted", flush=True)
        if index % 5 == 0:
            continue
        await store.begin_dialing(call_id, make_attempt())
        print(call_id, "dialing", flush=True)
        if index % 5 == 1:
            continue
        await store.record_answer(call_id, DIALOG, NOW)
        print(call_id, "answered", flush=True)
        if index % 5 == 2:
            continue
        await store.settle(call_id, ANSWERED if index % 2 else BUSY, charge=bool(index % 2))
        print(call_id, "done", flush=True)


async def main(folder: str) -> None:
    store = EmbeddedStore(cast(Any, reactor), Path(folder))
    await store.open()
    run = len(await store.keys()) + 1
    await store.add_key(make_key(f"key_{run}", credits=10**6), str(run).encode())
    await store.add_credits("key_1", 10**6, NOW)
    for turn in range(1, 21):
        Deferred.fromCoroutine(live(store, f"run{run}", run * 100 + turn)).addErrback(give_up)


def give_up(failure: Failure) -> None:
    failure.printTraceback()
    cast(Any, reactor).stop()


def start() -> None:
    done: Deferred[Any] = Deferred.fromCoroutine(main(sys.argv[1]))
    done.addErrback(give_up)


if __name__ == "__main__":
    cast(Any, reactor).callWhenRunning(start)
    cast(Any, reactor).run()
