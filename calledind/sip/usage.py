"""The INVITE usage of a dialog (RFC 5057 §3), of caller and callee alike: from its first 2xx to the end of its BYE.

    UNCONFIRMED   the 2xx is there, its ACK isn't
    CONFIRMED     both sides may renegotiate or leave
    LEAVING       our BYE waits for its answer
    OVER          nothing may follow but repeats

A BYE of ours that is never answered is as good as one that is (§15.1.1), and two BYEs that cross end it as well.
An offer inside the dialog (re-INVITE or UPDATE) goes to the owner, who answers it or not; while one offer is open,
another is told to wait (491). Where a session timer was agreed (RFC 4028), we refresh, or leave when the peer doesn't.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, Literal

from calledind.model import Address
from calledind.sip.auth import Authenticator
from calledind.sip.body import SDP, session_description
from calledind.sip.challenged import send_challenged
from calledind.sip.client import TransactionFailure
from calledind.sip.dialog import Dialog
from calledind.sip.endpoint import (
    ALLOW,
    SUPPORTED,
    DialogId,
    Endpoint,
    Headers,
    Renegotiate,
    contact,
    not_acceptable,
)
from calledind.sip.message import Request, Response, response_to
from calledind.sip.modification import MOST_ACKS, Modification
from calledind.sip.server import RepeatedSuccess
from calledind.sip.session_timer import LEAST, SessionTimer, is_too_small, least_session
from calledind.sip.transactions import new_branch, response_address

EXPIRED: Final = 'SIP;cause=408;text="Session expired"'
"Reason of our BYE where the session wasn't refreshed."
GONE: Final = 'SIP;cause=481;text="No such dialog"'


class State(Enum):
    UNCONFIRMED = "unconfirmed"
    CONFIRMED = "confirmed"
    LEAVING = "leaving"
    OVER = "over"


UNCONFIRMED, CONFIRMED, LEAVING, OVER = State

Ending = Callable[[Literal["peer", "us"], int | None, str], None]
"Who ended it, the Q.850 cause, words for people."


class InviteUsage:
    """One dialog that an INVITE made. `local` is what we call ourselves in it; `ended` is called once."""

    __slots__ = (
        "__weakref__",
        "_ack",
        "_acks",
        "_authenticator",
        "_contact",
        "_description",
        "_ended",
        "_endpoint",
        "_late_answer",
        "_leave",
        "_local",
        "_modification",
        "_peer_updates",
        "_renegotiate",
        "_session",
        "_success",
        "_success_acked",
        "_success_cseq",
        "_we_offered",
        "dialog",
        "state",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        dialog: Dialog,
        local: Address,
        *,
        ended: Ending,
        renegotiate: Renegotiate | None = None,
        late_answer: Callable[[bytes], None] = lambda sdp: None,
        authenticator: Authenticator | None = None,
        own_contact: tuple[str, str] | None = None,
        description: bytes = b"",
    ) -> None:
        """`renegotiate` answers the peer's offers, `late_answer` hears its answers to ours, `description` is the SDP
        that we sent last, `own_contact` the Contact that went with it."""
        self.dialog = dialog
        self.state = UNCONFIRMED
        self._endpoint = endpoint
        self._ended = ended
        self._renegotiate = renegotiate
        self._late_answer = late_answer
        self._authenticator = authenticator
        self._local = local
        self._contact = own_contact or contact(local)
        self._ack: tuple[str, Address, Headers] | None = None
        "Branch, way and credentials of that to the 2xx."
        self._acks = 0
        self._success: RepeatedSuccess | None = None
        "Our 2xx to an INVITE of the peer's, until its ACK has come."
        self._success_cseq = 0
        self._success_acked: Callable[[Request], None] = _tell_nobody
        self._we_offered = False
        "That 2xx had an offer of ours: the answer comes with the ACK."
        self._leave: Callable[[], None] | None = None
        "Our BYE, which a callee may not send before the ACK (§15)."
        self._description = description
        self._modification: Modification | None = None
        "Our last re-INVITE or UPDATE."
        self._session = SessionTimer(endpoint.layer.timers, refresh=self._refresh, expired=self._expired)
        self._peer_updates = False
        "The peer takes UPDATE (RFC 3311)."
        endpoint.usages[self.id] = self

    @property
    def is_over(self) -> bool:
        return self.state is OVER

    @property
    def id(self) -> DialogId:
        return self.dialog.call_id, self.dialog.local_tag, self.dialog.remote_tag

    # the caller's side

    def acknowledge(self, credentials: Headers = ()) -> None:
        """Send the ACK to the 2xx, with the credentials that the INVITE had (§22.1). Only the first time counts."""
        if self._ack is None:
            self._ack = new_branch(), self.dialog.next_hop, tuple(credentials)
            self._send_ack(*self._ack)
        if self.state is UNCONFIRMED:
            self.state = CONFIRMED

    def _send_ack(self, branch: str, target: Address, credentials: Headers) -> None:
        # Made anew for each repeated 2xx, which hardly any call sees: thousands of calls would keep their octets.
        ack = self.dialog.request("ACK", self._local, [*credentials, self._product], branch=branch)
        self._endpoint.layer.try_transmit(bytes(ack), target)

    def succeeded(self, response: Response) -> None:
        """Take what the 2xx to our INVITE says of the peer and of the session's length."""
        self._peer_updates = any("UPDATE" in value.upper() for value in response.all("Allow"))
        self._session.answered(response)

    def success_repeated(self) -> None:
        """Take the 2xx once more: our ACK was lost, if it was sent yet. After the end it gets one in any case."""
        if self._ack is not None:
            self._acks += 1
            if self._acks < MOST_ACKS:
                self._send_ack(*self._ack)
        elif self.state is OVER:
            self.acknowledge()

    # the callee's side

    def await_ack(self, invite: Request, source: Address, success: bytes, acked: Callable[[Request], None]) -> None:
        """Repeat the 2xx that an INVITE was just answered with until its ACK comes; without one, leave."""
        target = response_address(invite.via, source)
        layer = self._endpoint.layer
        self._success_cseq = invite.cseq.number
        self._success_acked = acked
        self._success = RepeatedSuccess(
            lambda: layer.try_transmit(success, target), self._never_acked, layer.timers, layer.intervals
        )

    def reinvite(self, offer: bytes, answered: Callable[[int, bytes], None]) -> None:
        """Send an offer inside the dialog. `answered` hears the final status (408 where none came) and the SDP."""
        if self.state is not CONFIRMED or self._is_modifying or self._offer_is_open or self._success is not None:
            raise RuntimeError("a re-INVITE must wait")

        def done(news: Response | TransactionFailure) -> None:
            status = news.status if isinstance(news, Response) else 408
            if 200 <= status < 300:
                self._description = offer
            self._modified(news)
            answered(status, session_description(news) if isinstance(news, Response) else b"")

        self._modify("INVITE", offer, done)

    @property
    def _is_modifying(self) -> bool:
        return self._modification is not None and not self._modification.is_over

    def _modify(self, method: str, offer: bytes, done: Callable[[Response | TransactionFailure], None]) -> None:
        def make() -> Request:
            headers = [self._contact, ("Allow", ALLOW), SUPPORTED, *self._session.asked_for()]
            headers += [("Content-Type", SDP)] if offer else []
            return self.dialog.request(method, self._local, [*headers, self._product], offer)

        self._modification = Modification(
            self._endpoint.layer,
            self.dialog,
            self._local,
            self._authenticator,
            make,
            offers=bool(offer),
            may_begin=lambda: not self._offer_is_open and self._success is None,
            wanted=lambda: self.state is CONFIRMED,
            done=done,
        )
        self._modification.begin()

    def _modified(self, news: Response | TransactionFailure) -> None:
        "Take the last word on a request that refreshes the session too, as INVITE and UPDATE do."
        if isinstance(news, TransactionFailure) or news.status in (408, 481):
            self.bye(GONE)  # the peer knows nothing of us any more (§12.2.1.2)
        elif 200 <= news.status < 300:
            self._session.answered(news)

    def _refresh(self) -> None:
        "Say that we're still there (RFC 4028 §7.4)."
        if self.state is CONFIRMED and not self._is_modifying:
            self._modify(*(("UPDATE", b"") if self._peer_updates else ("INVITE", self._description)), self._refreshed)
        else:
            self._session.refresh_later()

    def _refreshed(self, news: Response | TransactionFailure) -> None:
        status = news.status if isinstance(news, Response) else 408
        if isinstance(news, Response) and status == 422 and least_session(news) > self._session.seconds:
            asked_before = self._session.least > LEAST
            self._session.too_small(news)
            if asked_before:
                self._session.refresh_later()  # who wants more and more each time would have us ask without end
            else:
                self._refresh()
        elif status in (405, 501) and self._peer_updates:
            self._peer_updates = False
            self._refresh()
        else:
            self._modified(news)
            if not isinstance(news, Response) or self.state is not CONFIRMED:
                pass  # we leave
            elif status >= 300:
                # Refused for another reason, the session stays as it is until it expires.
                self._session.refresh_later(news.retry_after or 0)
            elif answer := session_description(news):
                self._late_answer(answer)

    # the end

    def bye(self, reason: str | None = None) -> None:
        """Leave: BYE, with a Reason header (RFC 3326) where one is given. Again, or too late: nothing."""
        if self.state is UNCONFIRMED and self._success is not None:
            self._leave = lambda: self.bye(reason)
        elif self.state in (UNCONFIRMED, CONFIRMED):
            self.state = LEAVING
            self._stop_waiting()
            self._send_bye([("Reason", reason)] if reason else [])

    def _expired(self) -> None:
        self.bye(EXPIRED)

    def _send_bye(self, headers: list[tuple[str, str]]) -> None:
        def heard(_: Request, news: Response | TransactionFailure) -> None:
            if isinstance(news, TransactionFailure):
                self._end("us", None, f"BYE: {news.detail}")
            elif news.status >= 200:
                self._end("us", None, f"BYE: {news.status}")

        send_challenged(
            self._endpoint.layer,
            self.dialog.next_hop,
            lambda: self.dialog.request("BYE", self._local, [*headers, self._product]),
            self._authenticator,
            heard,
            wanted=lambda: self.state is LEAVING,
        )

    @property
    def _product(self) -> tuple[str, str]:
        return "User-Agent", self._endpoint.product

    def _end(self, by: Literal["peer", "us"], q850: int | None, detail: str) -> None:
        if self.state is not OVER:
            self.state = OVER
            self._stop_waiting()
            self._endpoint.usages.pop(self.id, None)
            ended = self._ended
            # Who is told knows this dialog: apart, neither waits for the collector.
            self._ended, self._late_answer, self._renegotiate, self._modification = (
                _tell_nobody,
                _tell_nobody,
                None,
                None,
            )
            self._session.end()
            ended(by, q850, detail)

    # what the peer asks for

    def receive(self, request: Request, source: Address) -> None:
        """Take a request of the peer's inside this dialog; it has no transaction yet."""
        if request.method == "ACK":
            self._acked(request)
        elif self.state is OVER or (self.state is LEAVING and request.method != "BYE"):
            self._endpoint.answer(request, source, 481)
        elif self._endpoint.takes(request, source, self.dialog):
            self._serve(request, source)

    def _serve(self, request: Request, source: Address) -> None:
        match request.method:
            case "BYE":
                self._endpoint.answer(request, source, 200)
                crossed = self.state is LEAVING
                words = "both said BYE" if crossed else (request.get("Reason") or "BYE")
                self._end("us" if crossed else "peer", request.reason_q850, words)
            case "INVITE":
                self._reinvited(request, source)
            case "UPDATE":
                self._updated(request, source)
            case _:
                self._endpoint.answer_inside(request, source)

    @property
    def _offer_is_open(self) -> bool:
        ours = self._modification is not None and self._modification.has_open_offer
        return self.state is UNCONFIRMED or ours or (self._success is not None and self._we_offered)

    def _reinvited(self, request: Request, source: Address) -> None:
        if self._offer_is_open:
            self._endpoint.answer(request, source, 491)
            return
        if self._is_too_small(request, source):
            return
        # A new INVITE after our 2xx: the ACK in between was lost, but the peer has that 2xx.
        self._stop_success()
        offer = session_description(request)
        description = self._renegotiate(offer) if self._renegotiate else None
        if description is None:
            self._endpoint.answer(request, source, 488, headers=[not_acceptable(self._local)])
            return
        self._description = description
        self.dialog.refresh_target(request)
        self._we_offered = not offer
        headers = [*self._described(), *self._session.serve(request)]
        response = response_to(request, 200, headers=[*headers, ("Server", self._endpoint.product)], body=description)
        transaction = self._endpoint.layer.serve(request, source, self._acked_in_transaction)
        transaction.respond(response)
        self.await_ack(request, source, transaction.last, self._reinvite_acked)

    def _reinvite_acked(self, ack: Request) -> None:
        if self._we_offered:
            self._we_offered = False
            self._late_answer(session_description(ack))

    def _updated(self, request: Request, source: Address) -> None:
        offer = session_description(request)
        if offer and self._offer_is_open:
            self._endpoint.answer(request, source, 491)
            return
        if self._is_too_small(request, source):
            return
        description = b""
        if offer:
            answer = self._renegotiate(offer) if self._renegotiate else None
            if answer is None:
                self._endpoint.answer(request, source, 488, headers=[not_acceptable(self._local)])
                return
            self._description = description = answer
        self.dialog.refresh_target(request)
        headers = [*self._described(bool(offer)), *self._session.serve(request)]
        self._endpoint.answer(request, source, 200, headers=headers, body=description)

    def _is_too_small(self, request: Request, source: Address) -> bool:
        "Whether a request was refused because it wants a session that is too short (RFC 4028 §9)."
        too_small = is_too_small(request)
        if too_small:
            self._endpoint.answer(request, source, 422, headers=[("Min-SE", str(LEAST))])
        return too_small

    def _described(self, with_body: bool = True) -> list[tuple[str, str]]:
        headers = [self._contact, ("Allow", ALLOW), SUPPORTED]
        return [*headers, ("Content-Type", SDP)] if with_body else headers

    def _acked(self, ack: Request) -> None:
        if self._success is None or ack.cseq.number != self._success_cseq:
            return  # of a transaction that is over
        acked = self._success_acked
        self._stop_success()
        if self.state is UNCONFIRMED:
            self.state = CONFIRMED
        acked(ack)
        if self._leave is not None:
            self._leave()

    def _acked_in_transaction(self, news: Request | TransactionFailure) -> None:
        # The ACK to a 2xx ought to have a branch of its own (§13.2.2.4); that of some has the INVITE's.
        assert isinstance(news, Request)
        self._acked(news)

    def _never_acked(self) -> None:
        # The peer is gone, or thinks otherwise about what is agreed (§13.3.1.4, §14.2).
        self._stop_success()
        self.bye()

    def _stop_success(self) -> None:
        if self._success is not None:
            self._success.stop()
            self._success = None
            self._success_acked = _tell_nobody

    def _stop_waiting(self) -> None:
        self._stop_success()
        self._session.stop()
        if self._modification is not None:
            self._modification.stop()


def _tell_nobody(*_: object) -> None:
    """Nothing is told of a dialog that is over."""
