"""The user agent that is called (RFC 3261 §13.3): what a carrier's side of a call looks like from its inside.

It answers by itself what must be answered (CANCEL, BYE, ACK, repeats) and leaves the rest to its owner: which
responses an INVITE gets, when, with how many To tags, and who hangs up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from calledind.model import Address
from calledind.sip.body import SDP, session_description
from calledind.sip.client import TransactionFailure
from calledind.sip.dialog import Dialog
from calledind.sip.endpoint import ALLOW, Endpoint, Renegotiate, contact
from calledind.sip.message import Request, response_to
from calledind.sip.outside import Outside
from calledind.sip.reliable import ReliableProvisionals
from calledind.sip.server import InviteServerTransaction
from calledind.sip.server import State as TransactionState
from calledind.sip.timers import Intervals, Timers, TimerSet
from calledind.sip.transactions import Send, Trace, TransactionLayer, new_tag
from calledind.sip.usage import InviteUsage, State


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The caller gave up before the answer; 487 was sent."""


@dataclass(frozen=True, slots=True)
class Acked:
    """The ACK to our 2xx has come."""

    sdp: bytes
    "The answer, where our 2xx had the offer."
    to_tag: str


@dataclass(frozen=True, slots=True)
class ByeReceived:
    """The caller hung up."""

    q850: int | None
    "Cause of its Reason header (RFC 3326)."
    to_tag: str


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing is left of the call: always the last word, and always there."""

    detail: str


CalleeEvent = Cancelled | Acked | ByeReceived | Gone


class IncomingCall:
    """An INVITE and what becomes of it. `report` is the owner's to set."""

    def __init__(self, endpoint: Endpoint, request: Request, source: Address, over: Callable[[IncomingCall], None]):
        self.request = request
        self.source = source
        self.offer = session_description(request)
        self.tag = new_tag()
        "To tag of the responses where `respond` isn't told another."
        self.report: Callable[[CalleeEvent], None] = lambda event: None
        self.renegotiate: Renegotiate | None = None
        "Answers the caller's re-INVITE or UPDATE; None: 488."
        self._endpoint = endpoint
        self._local = endpoint.local(source)
        self._over = over
        self._early: dict[str, ReliableProvisionals] = {}
        self._legs: dict[str, InviteUsage] = {}
        self._refused = False
        self._timers = TimerSet(endpoint.layer.timers)
        transaction = endpoint.layer.serve(request, source, self._heard)
        assert isinstance(transaction, InviteServerTransaction)
        self._transaction = transaction
        transaction.start(response_to(request, 100, headers=[("Server", endpoint.product)]))

    def stay_silent(self) -> None:
        """Don't even send 100, which otherwise leaves after 0.2 s, and forget the call when its caller must have."""
        self._transaction.stay_silent()
        self._timers.start("silence", self._endpoint.layer.intervals.timeout, self.drop)

    def drop(self) -> None:
        """Forget a call that has no final response yet, as a callee would that lost its power."""
        if not self._refused and not self._legs:
            self._refused = True
            self._stop_waiting()
            self._transaction.terminate()
            self._end("never answered")

    def respond(
        self,
        status: int,
        phrase: str | None = None,
        sdp: bytes = b"",
        headers: Sequence[tuple[str, str]] = (),
        to_tag: str | None = None,
        reliable: bool = False,
    ) -> bool:
        """Send a response; False, and nothing is sent, where a final one has left.

        A second 2xx with another `to_tag` is sent all the same: that is what a fork looks like. `reliable`: a
        provisional one is repeated until its PRACK comes, and what follows it waits for that (RFC 3262).
        """
        tag = to_tag or self.tag
        if self._is_final(tag, status):
            return False
        self._timers.stop_all()
        if status <= 100:
            self._transaction.respond(response_to(self.request, status, phrase, headers=self._described(headers, sdp)))
            return True
        if status >= 300:
            self._refused = True
            self._stop_waiting()
            response = response_to(self.request, status, phrase, tag, self._described(headers, sdp), sdp)
            self._transaction.respond(response)
            return True
        early = self._early.get(tag)
        if early is None:
            layer = self._endpoint.layer
            early = self._early[tag] = ReliableProvisionals(self._never_acknowledged, layer.timers, layer.intervals)
        own = [contact(self._local), ("Allow", ALLOW), *_record_route(self.request), *headers]

        def send(more: Sequence[tuple[str, str]] = ()) -> Callable[[], None]:
            response = response_to(self.request, status, phrase, tag, self._described([*own, *more], sdp), sdp)
            self._transaction.respond(response)
            return lambda: self._transaction.respond(response)

        def succeed() -> None:
            if not self._is_final(tag, status):
                self._stop_waiting()
                self._answer(tag)
                send()
                acked = lambda ack: self.report(Acked(session_description(ack), tag))  # noqa: E731
                self._legs[tag].await_ack(self.request, self.source, self._transaction.last, acked)

        if status >= 200:
            early.then(succeed)
        elif reliable:
            early.add(send)
        else:
            send()
        return True

    def _is_final(self, tag: str, status: int) -> bool:
        if self._refused or tag in self._legs or self._transaction.state is TransactionState.TERMINATED:
            return True
        return bool(self._legs) and not 200 <= status < 300

    def _described(self, headers: Sequence[tuple[str, str]], sdp: bytes) -> list[tuple[str, str]]:
        described = [*headers, ("Server", self._endpoint.product)]
        return [*described, ("Content-Type", SDP)] if sdp else described

    def pracked(self, prack: Request, source: Address) -> None:
        """Take a PRACK of the caller's (RFC 3262 §3)."""
        early = self._early.get(prack.to.tag or "")
        if early is None or not early.is_due(prack, self.request.cseq):
            self._endpoint.answer(prack, source, 481)
            return
        self._endpoint.answer(prack, source, 200)
        early.acknowledged()

    def _never_acknowledged(self) -> None:
        self.respond(504)

    def _stop_waiting(self) -> None:
        self._timers.stop_all()
        for early in self._early.values():
            early.stop()

    @property
    def is_answered(self) -> bool:
        """Whether it was answered, acknowledged, and isn't over."""
        return any(leg.state is State.CONFIRMED for leg in self._legs.values())

    def bye(self, reason: str | None = None, to_tag: str | None = None) -> None:
        """Hang up what was answered; the BYE waits for the ACK where that hasn't come (§15)."""
        leg = self._legs.get(to_tag or self.tag)
        if leg is not None:
            leg.bye(reason)

    def reinvite(self, offer: bytes, answered: Callable[[int, bytes], None], to_tag: str | None = None) -> None:
        """Offer something else. `answered` hears the final status (408: none came) and SDP. Raises RuntimeError
        where there is no call to do so in, or an offer is open already."""
        leg = self._legs.get(to_tag or self.tag)
        if leg is None:
            raise RuntimeError("not answered yet")
        leg.reinvite(offer, answered)

    def cancel(self) -> None:
        """Take the caller's CANCEL, or its BYE where there was no answer yet; too late after a final response."""
        if not self._refused and not self._legs:
            self.respond(487)
            self.report(Cancelled())

    def has_early(self, tag: str) -> bool:
        return tag in self._early and tag not in self._legs

    def _answer(self, tag: str) -> None:
        def ended(by: str, q850: int | None, detail: str) -> None:
            if by == "peer":
                self.report(ByeReceived(q850, tag))
            if all(leg.is_over for leg in self._legs.values()):
                self._end(detail)

        dialog = Dialog.of_callee(self.request, tag, self.source)
        self._legs[tag] = InviteUsage(
            self._endpoint,
            dialog,
            self._local,
            ended=ended,
            renegotiate=lambda offer: self.renegotiate(offer) if self.renegotiate else None,
        )

    def _heard(self, news: Request | TransactionFailure) -> None:
        if isinstance(news, TransactionFailure):
            self._end(f"refused; {news.detail}")
        elif self._refused:
            self._end("refused")
        else:
            leg = self._legs.get(news.to.tag or "")
            if leg is not None:
                leg.receive(news, self.source)

    def _end(self, detail: str) -> None:
        self._over(self)
        self.report(Gone(detail))


class Uas:
    """Takes calls on one transport address; sans-I/O, with the arguments of `UserAgent`.

    `on_invite` is handed each new call, and sets its `report`. Where it doesn't respond, the call stays in
    "100 Trying" until the caller gives up.
    """

    def __init__(
        self,
        *,
        send: Send,
        timers: Timers,
        local: Callable[[Address], Address],
        user_agent: str,
        on_invite: Callable[[IncomingCall], None],
        t1: float = 0.5,
        trace: Trace | None = None,
    ) -> None:
        self._on_invite = on_invite
        self._layer = TransactionLayer(
            send=send, timers=timers, intervals=Intervals(t1), received=self._received, trace=trace
        )
        self._endpoint = Endpoint(self._layer, local, user_agent)
        self._outside = Outside(self._layer, local, user_agent)
        self._calls: dict[tuple[str, str | None], IncomingCall] = {}
        "Call-ID and the caller's tag -> its last INVITE's call."

    def __len__(self) -> int:
        "How many transactions, dialogs and calls live: 0 when all is quiet."
        return len(self._layer) + len(self._endpoint.usages) + len(self._calls)

    @property
    def dialogs(self) -> tuple[Dialog, ...]:
        """Those that live."""
        return tuple(usage.dialog for usage in self._endpoint.usages.values())

    def datagram_received(self, data: bytes, source: Address) -> None:
        """Take a datagram; whatever its octets are, nothing is raised because of them."""
        self._layer.datagram_received(data, source)

    def transport_failed(self, target: Address) -> None:
        """Take the news that nobody listens at `target` (ICMP)."""
        self._layer.transport_failed(target)

    def _received(self, request: Request, source: Address) -> None:
        tag = request.to.tag
        caller = request.call_id, request.from_.tag
        call = self._calls.get(caller)
        usage = self._endpoint.usages.get((request.call_id, tag or "", request.from_.tag or ""))
        if request.method == "CANCEL":
            known = self._outside.answer_cancel(request, source, call.tag if call else "")
            if known and call is not None and call.request.cseq.number == request.cseq.number:
                call.cancel()
        elif request.method == "PRACK" and call is not None:
            call.pracked(request, source)
        elif usage is not None:
            usage.receive(request, source)
        elif request.method == "ACK":
            pass  # never answered (§17)
        elif request.method == "BYE" and call is not None and tag is not None and call.has_early(tag):
            self._endpoint.answer(request, source, 200)
            call.cancel()
        elif request.method == "INVITE" and tag is None:
            if call is not None and call.request.cseq.number == request.cseq.number:
                self._outside.answer(request, source, 482)  # it came here by two ways (§8.2.2.2), or much too late
            elif self._endpoint.capable(request, source):
                self._calls[caller] = call = IncomingCall(self._endpoint, request, source, self._forget)
                self._on_invite(call)
        else:
            self._outside.answer_request(request, source)

    def _forget(self, call: IncomingCall) -> None:
        caller = call.request.call_id, call.request.from_.tag
        if self._calls.get(caller) is call:
            del self._calls[caller]


def _record_route(request: Request) -> list[tuple[str, str]]:
    return [("Record-Route", value) for value in request.all("Record-Route")]
