"""Calls that wait to be dialled: first in first out for one key, and the keys take turns.

So a key with a hundred thousand calls delays another key's single call by one turn of all the keys that have
any, and not by a hundred thousand calls. Adding, taking and expiring are O(1).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Iterator

from calledind.model import Call


class FairQueue:
    """The keys with waiting calls stand in a ring; each `take` serves the first and sends it to the end."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[Call]] = OrderedDict()
        "key id -> its calls; the order is the ring."
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def oldest(self) -> float | None:
        """When the call was accepted that waits for longest, in seconds since the epoch; None: nobody waits."""
        return min((line[0].accepted_at for line in self._lines.values()), default=None)

    def add(self, call: Call) -> None:
        self._lines.setdefault(call.key_id, deque()).append(call)
        self._length += 1

    def put_back(self, call: Call) -> None:
        """Take a call again that was taken and could not be dialled; its key is served next.

        It stands among its key's calls by age, or `take_older_than` would stop at a younger one in front of it.
        """
        line = self._lines.setdefault(call.key_id, deque())
        if line and line[0].accepted_at < call.accepted_at:
            line.insert(place_of(call, line), call)
        else:
            line.appendleft(call)
        self._lines.move_to_end(call.key_id, last=False)
        self._length += 1

    def take(self) -> Call | None:
        """Return the next call, or None when nobody waits."""
        if not self._lines:
            return None
        key_id, line = next(iter(self._lines.items()))
        call = line.popleft()
        if line:
            self._lines.move_to_end(key_id)
        else:
            del self._lines[key_id]
        self._length -= 1
        return call

    def remove(self, call: Call) -> bool:
        """Take out one call, wherever it stands; False where it does not wait here."""
        line = self._lines.get(call.key_id, deque())
        # It stands among its key's calls by age, or nearly so.
        place = bisect_left(line, call.accepted_at, key=lambda each: each.accepted_at)
        if place == len(line) or line[place].id != call.id:
            place = next((index for index, each in enumerate(line) if each.id == call.id), -1)
        if place < 0:
            return False
        del line[place]
        self._length -= 1
        if not line:
            del self._lines[call.key_id]
        return True

    def take_older_than(self, accepted_at: float) -> Iterator[Call]:
        """Take out every call accepted before `accepted_at` (seconds since the epoch)."""
        for key_id, line in list(self._lines.items()):
            while line and line[0].accepted_at < accepted_at:
                self._length -= 1
                yield line.popleft()
            if not line:
                del self._lines[key_id]


def place_of(call: Call, line: deque[Call]) -> int:
    """Return the index of `call` by age, looked for from both ends.

    What comes back is older than most that wait here, or, where a trunk failed all these before, younger.
    """
    for front in range(len(line)):
        if line[front].accepted_at > call.accepted_at:
            return front
        back = len(line) - front
        if line[back - 1].accepted_at <= call.accepted_at:
            return back
    return len(line)
