"""The last SIP messages of the last calls, in memory, for who wants to look; without the keys of SRTP in them."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from calledind.model import Address

CALL_ID = re.compile(rb"\n(?:call-id|i)[ \t]*:[ \t]*([0-9a-f]{32})-", re.IGNORECASE)
AS_MOST_WRITE = b"\nCall-ID: "
SRTP_KEY = re.compile(rb"(inline:)[^|;\s]+", re.IGNORECASE)
"In a session description (RFC 4568), whatever ends its lines and however many keys are in one."
MOST_CALLS = 200
MOST_MESSAGES = 100
"Of one call."


class TracedMessage(NamedTuple):
    """One datagram."""

    time: float
    "Seconds since the epoch."
    direction: str
    '"sent" or "received".'
    other: Address
    data: bytes


class SipTrace:
    """Keeps messages by the call id that begins their Call-ID."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._calls: OrderedDict[str, list[TracedMessage]] = OrderedDict()

    def take(self, direction: str, other: Address, data: bytes) -> None:
        """Take a datagram that was sent or received."""
        call_id = _call_id(data)
        if call_id is None:
            return
        messages = self._calls.get(call_id)
        if messages is None:
            if direction == "received":
                return  # not of a call of ours
            messages = self._calls[call_id] = []
            if len(self._calls) > MOST_CALLS:
                self._calls.popitem(last=False)
        if len(messages) < MOST_MESSAGES:
            if b"crypto:" in data:
                data = SRTP_KEY.sub(rb"\1...", data)
            messages.append(TracedMessage(self._now(), direction, other, data))

    def messages(self, call_id: str) -> Sequence[TracedMessage]:
        """Return a call's messages, none where none are kept."""
        return self._calls.get(call_id, ())

    def show(self, call_id: str) -> list[dict[str, object]] | None:
        """Return a call's messages, JSON-able; None when none are kept."""
        messages = self._calls.get(call_id)
        if messages is None:
            return None
        return [
            {
                "time": message.time,
                "direction": message.direction,
                "source": "calledin" if message.direction == "sent" else _host_port(message.other),
                "target": _host_port(message.other) if message.direction == "sent" else "calledin",
                "text": message.data.decode("utf-8", "replace"),
            }
            for message in messages
        ]


def _call_id(data: bytes) -> str | None:
    """Find the call id in a Call-ID of ours, "<call id>-<attempt>", without parsing the message."""
    # Where it is written as most do, it need not be searched for. No header comes after the first empty line.
    start = max(data.find(AS_MOST_WRITE, 0, data.find(b"\r\n\r\n") + 1 or len(data)), 0)
    found = CALL_ID.match(data, start) or CALL_ID.search(data, 0, data.find(b"\r\n\r\n") + 1 or len(data))
    return found[1].decode() if found is not None else None


def _host_port(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
