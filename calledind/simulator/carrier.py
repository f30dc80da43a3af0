"""The built-in carrier: a SIP user agent server on a UDP socket, whose callees play the script of their number.

It is no shortcut: what reaches it are datagrams, and it keeps to the RFCs as a strict carrier would. A callee's
2xx is repeated until its ACK comes, a cancelled INVITE gets 487, a request that belongs to nothing gets 481, and
what is wrong with a call is noted in what is reported of it.

    INVITE →            the script begins: 180, 200 with an SDP answer, ...
    ACK →               the callee listens, and talks silence
    BYE → or ← BYE      the recording is written, `HeardCall` reported
"""

from __future__ import annotations

import random
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from calledind.model import Address
from calledind.simulator.callee import UdpSocket
from calledind.simulator.digest import Digest
from calledind.simulator.play import HeardCall, Play
from calledind.simulator.recording import Recording, Shelf
from calledind.simulator.scenarios import CREDENTIALS, Challenge, rows, scenario_of
from calledind.simulator.telephone import Telephone
from calledind.sip.grammar import ParseError
from calledind.sip.message import Request
from calledind.sip.uas import IncomingCall, Uas

__all__ = ["Carrier", "HeardCall"]

PRODUCT = "calledin simulator"
KEPT = 200
"Calls remembered, and recordings on disk."
_CALL_ID = re.compile(rb"^(?:call-id|i)[ \t]*:[ \t]*([^\s]+)", re.IGNORECASE | re.MULTILINE)
_INVITED = re.compile(rb"\s*INVITE\s+sips?:([^@\s;]+)@")

log = Logger()


class Carrier:
    """Takes all calls. Its address is the trunk's; its callees are bound to the same IP address.

    `recordings`: folder of the WAV files, made when missing. `report` hears of each call when it is over.
    `talks`: whether callees send RTP back, 50 packets of silence a second each.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        recordings: Path,
        bind: Address = ("127.0.0.1", 0),
        report: Callable[[HeardCall], None] | None = None,
        now: Callable[[], float] = time.time,
        talks: bool = True,
        t1: float = 0.5,
    ) -> None:
        self._reactor = reactor
        self._shelf = Shelf(recordings, KEPT)
        self._bind = bind
        self._report = report
        self._now = now
        self._talks = talks
        self.telephone = Telephone()
        "Rings when its number is called."
        self._digest = Digest(*CREDENTIALS)
        self._socket = UdpSocket(self._datagram_received)
        self._port: Any = None
        self._address = bind
        self._plays: set[Play] = set()
        self._lossy: dict[bytes, tuple[float, random.Random]] = {}
        "Call-ID of a call that loses packets -> their share, and the dice."
        self._deaf: deque[bytes] = deque(maxlen=1000)
        "Call-IDs that nobody answers."
        self.heard: deque[HeardCall] = deque(maxlen=KEPT)
        "The latest calls, the oldest first."
        self._uas = Uas(
            send=self._send,
            timers=reactor,
            local=lambda target: self._address,
            user_agent=PRODUCT,
            t1=t1,
            on_invite=self._invited,
        )

    def start(self) -> Deferred[Address]:
        """Open the socket and the folder; fires with the SIP address. Fails with OSError or CannotListenError."""
        return defer.maybeDeferred(self._start)

    def _start(self) -> Address:
        self._shelf.open()
        host, port = self._bind
        self._port = self._reactor.listenUDP(port, self._socket, interface=host)
        self._address = host, int(self._port.getHost().port)
        log.info(
            "The built-in carrier listens on {host}:{port}: nobody's phone rings", host=host, port=self._address[1]
        )
        return self._address

    def stop(self) -> Deferred[None]:
        """Break off what runs, and close the socket."""
        for play in tuple(self._plays):
            play.stop()
        port, self._port = self._port, None
        return defer.maybeDeferred(port.stopListening) if port is not None else defer.succeed(None)

    def recordings(self) -> list[dict[str, Any]]:
        """Return the latest calls as JSON has them, the oldest first; `file` is None where nothing was recorded."""
        return [heard.row() for heard in self.heard]

    def scenarios(self) -> list[dict[str, object]]:
        """Return the table of numbers as JSON has it."""
        return list(rows())

    # datagrams

    def _send(self, data: bytes, target: Address) -> None:
        if not self._is_lost(data):
            self._socket.put(data, target)

    def _datagram_received(self, data: bytes, source: Address) -> None:
        invited = _INVITED.match(data)
        if invited is not None:
            self._prepare(invited[1].decode("latin-1"), data)
        if not self._is_lost(data):
            self._uas.datagram_received(data, source)

    def _prepare(self, user: str, data: bytes) -> None:
        """Note what a call's scenario does to its packets, before the first of them is let in."""
        scenario, call_id = scenario_of(user), _CALL_ID.search(data)
        if call_id is None or call_id[1] in self._lossy:
            return
        if scenario.deaf and call_id[1] not in self._deaf:
            self._deaf.append(call_id[1])
        if scenario.loss:
            self._lossy[call_id[1]] = scenario.loss, random.Random(scenario.name)  # noqa: S311
            while len(self._lossy) > 1000:
                del self._lossy[next(iter(self._lossy))]

    def _is_lost(self, data: bytes) -> bool:
        if not self._lossy and not self._deaf:
            return False
        found = _CALL_ID.search(data)
        if found is None:
            return False
        if found[1] in self._deaf:
            return True
        share, dice = self._lossy.get(found[1], (0.0, None))
        return dice is not None and dice.random() < share

    # calls

    def _invited(self, incoming: IncomingCall) -> None:
        scenario = scenario_of(_user(incoming.request))
        for step in scenario.script:
            if isinstance(step, Challenge):
                objection = self._digest.objection(incoming.request, step.status)
                if objection is not None:
                    headers = self._digest.challenge(incoming.request, step.status)
                    incoming.respond(step.status, headers=headers)
                    return
        begun: list[Play] = []

        def done(heard: HeardCall, recording: Recording | None) -> None:
            self._plays.difference_update(begun)
            self._over(heard, recording)

        play = Play(
            self._reactor,
            incoming,
            scenario,
            [step for step in scenario.script if not isinstance(step, Challenge)],
            host=self._address[0],
            started=self._now(),
            talks=self._talks,
            done=done,
            telephone=self.telephone,
        )
        begun.append(play)
        if not play.over:
            self._plays.add(play)

    def _over(self, heard: HeardCall, recording: Recording | None) -> None:
        if recording is not None:
            try:
                name = f"{heard.number}-{re.sub('[^A-Za-z0-9.-]', '_', heard.sip_call_id)[:64]}"
                heard = replace(heard, file=str(self._shelf.save(name, recording).absolute()))
            except OSError as error:
                log.error("The recording can't be written: {error}", error=error.strerror)
        for note in heard.notes:
            log.info("Simulated call, scenario {name}: {note}", name=heard.scenario, note=note)
        self.heard.append(heard)
        if self._report is not None:
            self._report(heard)


def _user(request: Request) -> str:
    try:
        return request.request_uri.user or ""
    except ParseError:
        return ""
