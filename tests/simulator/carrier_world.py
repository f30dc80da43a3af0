"""A carrier and a caller on a network in memory: the daemon's own user agent calls the simulated numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import Deferred

from calledind.model import Address
from calledind.sdp import Agreed, SDPError, SessionDescription, agree, answer, offer
from calledind.simulator.carrier import Carrier, HeardCall
from calledind.sip.auth import Credentials
from calledind.sip.events import Answered, Event
from calledind.sip.useragent import Invitation, InviteSession, UserAgent
from tests.sip.network import Network

US: Address = ("127.0.0.1", 5080)
OUR_RTP: Address = ("127.0.0.1", 16384)


class Port:
    """A UDP port of the network."""

    def __init__(self, reactor: Reactor, address: Address, protocol: Any) -> None:
        self.reactor, self.address, self.protocol = reactor, address, protocol
        self.port = address[1]
        self._send = reactor.network.attach(address, protocol.datagramReceived)
        protocol.transport = self

    def getHost(self) -> Port:
        return self

    def write(self, data: bytes, target: Address) -> None:
        self._send(data, target)

    def stopListening(self) -> Deferred[None]:
        self.reactor.ports.pop(self.address, None)
        self.reactor.network.listen(self.address, lambda data, source: None)
        return defer.succeed(None)


class Reactor:
    """What the carrier asks of a reactor, on the network's clock."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.ports: dict[Address, Port] = {}
        self._next = 40000

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network.clock, name)

    def listenUDP(self, port: int, protocol: Any, interface: str) -> Port:
        if port == 0:
            port, self._next = self._next, self._next + 2
        address = interface, port
        self.ports[address] = Port(self, address, protocol)
        return self.ports[address]


@dataclass
class CarrierWorld:
    """Everything, with what the caller was told (`events`) and what the carrier reported (`heard`)."""

    recordings: Path
    network: Network = field(default_factory=Network)
    events: list[Event] = field(default_factory=list)
    heard: list[HeardCall] = field(default_factory=list)
    offers: list[str] = field(default_factory=list)
    "Directions that the callee's re-INVITEs asked for."
    acknowledges: bool = True
    agreed: Agreed | None = None

    def __post_init__(self) -> None:
        self.reactor = Reactor(self.network)
        self.carrier = Carrier(
            self.reactor, recordings=self.recordings, report=self.heard.append, now=lambda: 1e9, talks=False
        )
        started: list[Address] = []
        self.carrier.start().addCallback(started.append)
        (self.address,) = started
        self.agent = UserAgent(
            send=self.network.attach(US),
            timers=self.network.clock,
            local=lambda target: US,
            user_agent="test",
            trusted=lambda ip: True,
        )
        self.network.listen(US, self.agent.datagram_received)
        self.rtp = self.network.attach(OUR_RTP, lambda data, source: None)
        self.offer = offer(address=OUR_RTP[0], port=OUR_RTP[1], session_id=1, version=0)

    def call(self, number: str, *, sdp: bytes | None = None, credentials: Credentials | None = None) -> InviteSession:
        """Call a number of North America."""
        uri = f"sip:+1{number}@127.0.0.1"
        session = self.agent.prepare(
            Invitation(
                target=self.address,
                request_uri=uri,
                from_uri="sip:0000000000@127.0.0.1",
                to_uri=uri,
                offer=bytes(self.offer) if sdp is None else sdp,
                credentials=credentials,
                renegotiate=self._renegotiate,
            )
        )

        def report(event: Event) -> None:
            self.events.append(event)
            if isinstance(event, Answered) and self.acknowledges:
                self.agreed = agree(self.offer, SessionDescription.parse(event.sdp))
                session.acknowledge()

        session.send(report)
        return session

    def _renegotiate(self, theirs: bytes) -> bytes | None:
        description = SessionDescription.parse(theirs)
        self.offers.append(description.direction(description.media[0]))
        try:
            ours, self.agreed = answer(
                description, address=OUR_RTP[0], port=OUR_RTP[1], session_id=1, version=len(self.offers)
            )
        except SDPError:
            return None
        return bytes(ours)

    def labels(self, sender: Address) -> list[str]:
        """Give what somebody sent by SIP, by label, repeats of a response told by their number."""
        return [d.label for d in self.network.sent if d.source == sender and d.data[:1].isalpha()]
