"""What the daemon and its media process say to each other: lists of commands or events, as JSON with a length.

    4 octets, big-endian: the length of what follows; then a JSON list of [verb, session, ...]

Both sides gather what they have to say and send it in one frame. The commands and events are described in
`calledind.net.media_process`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from calledind.compact import dump

LONGEST_FRAME = 4 * 1024 * 1024
"Octets."

Item = list[Any]
"A command or an event: the verb, then its arguments."


class PipeError(ValueError):
    """The other side does not speak as agreed."""


def pack(items: Sequence[Item]) -> bytes:
    """Return one frame."""
    text = dump(items).encode()
    return len(text).to_bytes(4, "big") + text


class Unpacker:
    """Cuts what comes through a pipe into items."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Item]:
        """Take what was read; return the items that are complete. Raises `PipeError`."""
        self._buffer += data
        items: list[Item] = []
        start = 0
        while len(self._buffer) >= start + 4:
            length = int.from_bytes(self._buffer[start : start + 4], "big")
            if length > LONGEST_FRAME:
                raise PipeError(f"a frame of {length} octets")
            end = start + 4 + length
            if len(self._buffer) < end:
                break
            try:
                frame = json.loads(self._buffer[start + 4 : end])
            except ValueError as error:
                raise PipeError("a frame that is no JSON") from error
            if not isinstance(frame, list) or not all(isinstance(item, list) and item for item in frame):
                raise PipeError("a frame that is no list of lists")
            items += frame
            start = end
        del self._buffer[:start]
        return items
