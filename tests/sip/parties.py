"""Two parties on a network in memory: our user agent, and a callee made of `Uas`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.internet.task import Clock

from calledind.model import Address
from calledind.sip.events import Ended, Event, Refused, Unreachable
from calledind.sip.message import Request, Response, parse
from calledind.sip.timers import DelayedCall
from calledind.sip.transactions import new_branch
from calledind.sip.uas import CalleeEvent, IncomingCall, Uas
from calledind.sip.useragent import Invitation, InviteSession, UserAgent
from tests.sip.network import Network

US: Address = ("127.0.0.1", 5060)
THEM: Address = ("127.0.0.2", 5060)
OFFER = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
ANSWER = OFFER.replace(b"4000", b"6000")
QUIET = 64 * 0.5 + 1
"Seconds after which nothing may be left of a call that is over."


def invitation(**changes: object) -> Invitation:
    values: dict[str, object] = {
        "target": THEM,
        "request_uri": "sip:+12125550100@127.0.0.2",
        "from_uri": "sip:0000000000@127.0.0.1",
        "to_uri": "sip:+12125550100@127.0.0.2",
        "offer": OFFER,
    }
    return Invitation(**{**values, **changes})  # type: ignore[arg-type]


def outside(method: str, *headers: tuple[str, str], uri: str = "sip:calledin@127.0.0.1", to: str = "") -> Request:
    "A request that is in no dialog."
    own = [
        ("Via", f"SIP/2.0/UDP 127.0.0.2:5060;branch={new_branch()}"),
        ("Max-Forwards", "70"),
        ("From", "<sip:them@127.0.0.2>;tag=theirs"),
        ("To", to or "<sip:calledin@127.0.0.1>"),
        ("Call-ID", new_branch()),
        ("CSeq", f"1 {method}"),
    ]
    return Request(method, uri, [*own, *headers])


class Life:
    """A process's timers, which die with it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._calls: list[DelayedCall] = []

    def seconds(self) -> float:
        return self._clock.seconds()

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> DelayedCall:
        call: DelayedCall = self._clock.callLater(delay, callable, *args, **kw)
        self._calls = [other for other in self._calls if other.active()] + [call]
        return call

    def kill(self) -> None:
        for call in self._calls:
            if call.active():
                call.cancel()


@dataclass
class World:
    """A caller, a callee, and all that they were told."""

    play: Callable[[IncomingCall], None] = lambda call: None
    "What the callee does with each INVITE."
    network: Network = field(default_factory=Network)
    events: list[Event] = field(default_factory=list)
    heard: list[CalleeEvent] = field(default_factory=list)
    calls: list[IncomingCall] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = self.network.clock
        self.life = Life(self.clock)
        self.agent = self.new_agent()
        self.callee = Uas(
            send=self.network.attach(THEM),
            timers=self.clock,
            local=lambda target: THEM,
            user_agent="callee",
            on_invite=self._invited,
        )
        self.network.listen(THEM, self.callee.datagram_received)

    def new_agent(self) -> UserAgent:
        "A user agent at our address; the one before, where there was one, is killed with all its timers."
        self.life.kill()
        self.life = Life(self.clock)
        agent = UserAgent(
            send=self.network.attach(US),
            timers=self.life,
            local=lambda target: US,
            user_agent="calledin",
            trusted=lambda ip: ip == THEM[0],
        )
        self.network.listen(US, agent.datagram_received)
        return agent

    def _invited(self, call: IncomingCall) -> None:
        self.calls.append(call)
        call.report = self.heard.append
        self.play(call)

    def call(self, **changes: object) -> InviteSession:
        session = self.agent.prepare(invitation(**changes))
        session.send(self.events.append)
        return session

    @property
    def last_words(self) -> list[Event]:
        return [event for event in self.events if isinstance(event, Refused | Unreachable | Ended)]

    def answered(self, **changes: object) -> InviteSession:
        "A call that the callee has answered and we have acknowledged."
        session = self.call(**changes)
        self.network.pass_time(1)
        session.acknowledge()
        self.network.pass_time(1)
        return session

    def in_dialog(self, method: str, *headers: tuple[str, str], body: bytes = b"", **changes: object) -> Request:
        "A request of the callee's inside the dialog, as it leaves; `cseq` and `branch` may be others than due."
        dialog = next(iter(self.callee.dialogs))
        request = dialog.request(method, THEM, headers, body, branch=str(changes.get("branch", "")))
        if "cseq" in changes:
            own = [pair for pair in request.headers if pair[0] != "CSeq"]
            request = Request(method, request.uri, [*own, ("CSeq", f"{changes['cseq']} {method}")], body)
        return request

    def ask(self, request: Request, source: Address = THEM) -> list[Response]:
        "Send a request to us, and return what came back to its branch within a second."
        self.network.attach(source)(bytes(request), US)
        self.network.pass_time(1)
        return [
            response
            for datagram in self.network.sent
            if isinstance(response := parse(datagram.data), Response)
            and datagram.source == US
            and response.via.branch == request.via.branch
            and response.cseq.method == request.method
        ]

    def statuses(self, request: Request, source: Address = THEM) -> list[int]:
        return [response.status for response in self.ask(request, source)]

    def stranger(self, address: Address = ("127.0.0.9", 5060)) -> tuple[Callable[[bytes, Address], None], list[bytes]]:
        "Somebody else's `send`, and what they are sent."
        received: list[bytes] = []
        return self.network.attach(address, lambda data, source: received.append(data)), received
