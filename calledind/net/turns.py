"""Who may go next, where many want to and only so many can: hosts take turns."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Turns(Generic[Item]):
    """Begins items, at most `in_all` at once and `per_host` of one host, each host's in the order they came.

    Hosts with items waiting take turns, so that one with a thousand of them delays another's first by one place.
    `begin(host, item)` is called when an item's turn has come, once, also from within `enter` and `leave`;
    whoever began calls `leave(host)` when it is over, also at once.
    """

    def __init__(self, begin: Callable[[str, Item], None], *, in_all: int, per_host: int) -> None:
        self._begin = begin
        self._in_all = in_all
        self._per_host = per_host
        self.running = 0
        self._running: dict[str, int] = {}
        self._waiting: dict[str, OrderedDict[Item, None]] = {}
        self._ready: deque[str] = deque()
        "Hosts with an item waiting and room of their own, each once."
        self._going = False

    def __len__(self) -> int:
        """Return how many items are waiting."""
        return sum(map(len, self._waiting.values()))

    def enter(self, host: str, item: Item) -> None:
        """Let this item begin in its turn. The same item does not wait twice."""
        waiting = self._waiting.setdefault(host, OrderedDict())
        if not waiting and self._running.get(host, 0) < self._per_host:
            self._ready.append(host)
        waiting[item] = None
        self._go()

    def leave(self, host: str) -> None:
        """Take note that an item of this host, which had begun, is over."""
        self.running -= 1
        running = self._running.pop(host) - 1
        if running:
            self._running[host] = running
        if running == self._per_host - 1 and host in self._waiting:
            self._ready.append(host)
        self._go()

    def withdraw(self, host: str, item: Item) -> bool:
        """Take back an item that waits. Answers False when it does not."""
        waiting = self._waiting.get(host)
        if waiting is None or item not in waiting:
            return False
        del waiting[item]
        if not waiting:
            del self._waiting[host]
            if self._running.get(host, 0) < self._per_host:
                self._ready.remove(host)
        return True

    def clear(self) -> list[Item]:
        """Take back all items that wait, and return them."""
        items = [item for waiting in self._waiting.values() for item in waiting]
        self._waiting.clear()
        self._ready.clear()
        return items

    def _go(self) -> None:
        if self._going:
            # Called out of `begin`: the loop below is under way and sees what has changed.
            return
        self._going = True
        try:
            while self._ready and self.running < self._in_all:
                host = self._ready.popleft()
                waiting = self._waiting[host]
                item, _ = waiting.popitem(last=False)
                if not waiting:
                    del self._waiting[host]
                self.running += 1
                self._running[host] = self._running.get(host, 0) + 1
                if waiting and self._running[host] < self._per_host:
                    self._ready.append(host)
                self._begin(host, item)
        finally:
            self._going = False
