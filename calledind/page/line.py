# mypy: allow-untyped-calls
"""A handset in the browser: the built-in carrier's telephone over a WebSocket.

to the browser      {"is": "ringing", "call": ID, "number", "caller"}    {"is": "up"}    {"is": "over", "how"}
                    {"is": "told", ...}: a callback of a call that was made from here
                    octets: sequence number (2), RTP timestamp (4), mu-law
from the browser    {"do": "answer" | "decline" | "busy" | "hang up"}
                    {"do": "key", "digit": "5"}    {"do": "lose", "share": 0.1}
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.websocket import WebSocketResource, WebSocketTransport

from calledind.api.site import Request
from calledind.rtp.dtmf import DIGITS
from calledind.simulator.telephone import Line, Telephone

FRAME = struct.Struct("!HI")
LONGEST_MESSAGE = 1000
"Characters of one from the browser."
MOST_HANDSETS = 8


class Handset:
    """One browser's; a `WebSocketProtocol` and a `telephone.Handset`."""

    log = Logger()

    def __init__(self, line: PhoneLine, request: Request) -> None:
        self._line = line
        self._telephone = line.telephone
        self._channel = request.channel
        self._transport: WebSocketTransport | None = None

    # the WebSocket's side

    def negotiationStarted(self, transport: WebSocketTransport) -> None:
        self._transport = transport

    def negotiationFinished(self) -> None:
        self._line.handsets.add(self)
        self.say({"is": "quiet"})
        self._telephone.attach(self)

    def textMessageReceived(self, message: str) -> None:
        try:
            said = json.loads(message) if len(message) <= LONGEST_MESSAGE else None
        except (ValueError, RecursionError):
            said = None
        if isinstance(said, dict):
            self._do(said)

    def bytesMessageReceived(self, data: bytes | bytearray) -> None:
        """Whoever speaks into a browser is not heard: calls are played to, not talked with."""

    def pongReceived(self, payload: bytes) -> None:
        """Nothing is asked by pings."""

    def connectionLost(self, reason: Failure) -> None:
        self._transport = None
        self._line.handsets.discard(self)
        self._telephone.detach(self)
        # Becoming a WebSocket took the connection away from the site, which still counts it.
        type(self._channel).connectionLost(self._channel, reason)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.loseConnection(1001)

    def say(self, told: Mapping[str, object]) -> None:
        if self._transport is not None:
            self._transport.sendTextMessage(json.dumps(told))

    def _do(self, said: Mapping[str, Any]) -> None:
        line = self._telephone.line_of(self)
        match said.get("do"):
            case "answer":
                self._telephone.answer(self)
            case "decline":
                self._telephone.refuse(603, "Decline")
            case "busy":
                self._telephone.refuse(486, "Busy Here")
            case "hang up" if line is not None:
                line.hang_up()
            case "key" if line is not None and said.get("digit") in tuple(DIGITS):
                line.press(said["digit"])
            case "lose" if line is not None and said.get("share") in (0, 0.1):
                line.lose(float(said["share"]))

    # the telephone's side

    def rings(self, line: Line) -> None:
        # The daemon's SIP Call-ID begins with the call's id.
        call_id = line.sip_call_id.partition("-")[0]
        self.say({"is": "ringing", "call": call_id, "number": line.number, "caller": line.caller})

    def is_up(self, line: Line) -> None:
        self.say({"is": "up"})

    def hears(self, sequence: int, timestamp: int, payload: bytes) -> None:
        if self._transport is not None:
            self._transport.sendBytesMessage(FRAME.pack(sequence, timestamp) + payload)

    def is_over(self, line: Line, how: str) -> None:
        self.say({"is": "over", "how": how})


class PhoneLine:
    """GET with an upgrade: a browser becomes a handset."""

    def __init__(self, telephone: Telephone) -> None:
        self.telephone = telephone
        self.handsets: set[Handset] = set()
        self.resource = WebSocketResource(self)

    def buildProtocol(self, request: Any) -> Handset:
        request.endless = True
        return Handset(self, request)

    @property
    def full(self) -> bool:
        return len(self.handsets) >= MOST_HANDSETS

    def tell(self, told: Mapping[str, object]) -> None:
        """Tell all browsers."""
        for handset in tuple(self.handsets):
            handset.say(told)

    def stop(self) -> None:
        for handset in tuple(self.handsets):
            handset.close()
