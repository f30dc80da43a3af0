"""Whether a number is on the DoNotCall list."""

from __future__ import annotations

from collections.abc import Callable

from calledind.api.numbers import parse_number
from calledind.api.site import Request
from calledind.model import ReturnCode
from calledind.store.interface import Store


class Lookup:
    """Asks the store what a call of some key would be refused for: the list comes before all that is about the key."""

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now

    async def answer(self, request: Request) -> tuple[int, object]:
        """GET with the query's `number`, such as +12125550100 -> {"listed"}."""
        try:
            country_code, number = parse_number(
                request.args.get(b"number", [b""])[0].decode("utf-8", "replace").strip()
            )
        except ValueError as error:
            return 400, {"error": str(error)}
        for key in await self._store.keys():
            if not key.disabled:
                code = await self._store.check(key.id, country_code, number, self._now())
                if code not in (ReturnCode.KEY_DISABLED, ReturnCode.INVALID_KEY):
                    return 200, {"listed": code is ReturnCode.DO_NOT_CALL}
        return 409, {"error": "there is no key yet, for which a number could be looked up"}
