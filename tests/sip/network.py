"""A UDP network in memory, on a `task.Clock`: every datagram can be lost, repeated, held back or refused by rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.internet.task import Clock

from calledind.model import Address

DELAY = 0.01
"Seconds that a datagram is on its way."


@dataclass
class Datagram:
    """One that was sent, whatever became of it."""

    number: int
    "Counted from 0 in the order of sending."
    time: float
    source: Address
    target: Address
    data: bytes

    @property
    def start_line(self) -> str:
        return self.data.partition(b"\r\n")[0].decode("latin-1")

    @property
    def label(self) -> str:
        'What people call it: a method, or a status and the method that it is for, such as "180 INVITE".'
        first, _, rest = self.start_line.partition(" ")
        if first != "SIP/2.0":
            return first
        cseq = next(line for line in self.data.split(b"\r\n") if line.lower().startswith(b"cseq:"))
        return f"{rest[:3]} {cseq.split()[-1].decode()}"


def pass_time(clock: Clock, seconds: float) -> None:
    "Let time pass; each timer fires at its own moment."
    end = clock.seconds() + seconds
    while calls := [call.getTime() for call in clock.getDelayedCalls() if call.getTime() <= end]:
        clock.advance(max(0.0, min(calls) - clock.seconds()))
    clock.advance(end - clock.seconds())


Rule = Callable[[Datagram], "list[float]"]
"The delays after which copies arrive: [] loses it, [DELAY] is as it should be."


def straight(datagram: Datagram) -> list[float]:
    return [DELAY]


@dataclass
class Network:
    """Carries datagrams between those that `attach`."""

    clock: Clock = field(default_factory=Clock)
    rule: Rule = straight
    sent: list[Datagram] = field(default_factory=list)
    _receivers: dict[Address, Callable[[bytes, Address], None]] = field(default_factory=dict)

    def attach(
        self, address: Address, receive: Callable[[bytes, Address], None] | None = None
    ) -> Callable[[bytes, Address], None]:
        "Give somebody an address; returns his `send(data, target)`."
        if receive is not None:
            self._receivers[address] = receive

        def send(data: bytes, target: Address) -> None:
            datagram = Datagram(len(self.sent), self.clock.seconds(), address, target, data)
            self.sent.append(datagram)
            for delay in self.rule(datagram):
                self.clock.callLater(delay, self._arrive, datagram)

        return send

    def listen(self, address: Address, receive: Callable[[bytes, Address], None]) -> None:
        self._receivers[address] = receive

    def _arrive(self, datagram: Datagram) -> None:
        receive = self._receivers.get(datagram.target)
        if receive is not None:
            receive(datagram.data, datagram.source)

    def pass_time(self, seconds: float) -> None:
        pass_time(self.clock, seconds)

    @property
    def labels(self) -> list[str]:
        "All that was sent, by label."
        return [datagram.label for datagram in self.sent]

    def ladder(self) -> str:
        "The flow, for people who look for the reason of a failure."
        return "\n".join(f"{d.time:8.3f} {d.source[0]} -> {d.target[0]} {d.start_line}" for d in self.sent)
