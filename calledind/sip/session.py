"""One call of ours, from the INVITE to its last word (RFC 3261 §9, §13, §15).

    PREPARED     nothing has left yet
    CALLING      INVITE sent, nothing heard
    PROCEEDING   a provisional response has come
    WITHDRAWING  the owner wants it ended; a CANCEL may only follow a provisional response (§9.1)
    CANCELLING   CANCEL sent; 487, or whatever crossed it, is awaited for 64*T1
    TALKING      a 2xx has come; the dialog's usage has the rest
    OVER         the last word was reported

        CALLING --1xx--> PROCEEDING --2xx--> TALKING --BYE--> OVER
           |end             |end                ^
           v                v                   | 2xx crosses our CANCEL: ACK, BYE
        WITHDRAWING --1xx-> CANCELLING ---------+--300..699--> OVER

An INVITE that a proxy forked may be answered twice, a refused one late all the same (§16.7): each 2xx with
another To tag is acknowledged and left at once, without a word to the owner.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, ClassVar, Final, Literal

from calledind.model import Address
from calledind.sip.auth import credentials_of
from calledind.sip.body import session_description
from calledind.sip.client import ClientTransaction, TransactionFailure
from calledind.sip.dialog import Dialog
from calledind.sip.early import EarlyDialog
from calledind.sip.endpoint import Endpoint
from calledind.sip.events import Answered, Ended, Event, LateAnswer, Progress, Refused, Unreachable
from calledind.sip.grammar import ParseError, parameter
from calledind.sip.header import NameAddr
from calledind.sip.invite import Invitation, Invites, cancellation
from calledind.sip.message import Request, Response
from calledind.sip.timers import TimerSet
from calledind.sip.usage import InviteUsage


class State(Enum):
    PREPARED = "prepared"
    CALLING = "calling"
    PROCEEDING = "proceeding"
    WITHDRAWING = "withdrawing"
    CANCELLING = "cancelling"
    TALKING = "talking"
    OVER = "over"


class Input(Enum):
    SEND = "send"
    END = "end"
    PROVISIONAL = "1xx"
    SUCCESS = "2xx"
    FAILURE = "300 to 699"
    FAILED = "no response"
    CANCEL_EXPIRED = "64*T1 after the CANCEL"


PREPARED, CALLING, PROCEEDING, WITHDRAWING, CANCELLING, TALKING, OVER = State
SEND, END, PROVISIONAL, SUCCESS, FAILURE, FAILED, CANCEL_EXPIRED = Input

MOST_FORKS: Final = 32
"To tags of one INVITE whose early dialogs are kept, and as many that are left when they answer; others are not heard."
NAMES_OF_DIALOG: Final = frozenset({"Via", "From", "To", "Call-ID", "CSeq", "Authorization", "Proxy-Authorization"})
"Headers of an INVITE that a dialog is made of, and its ACK."
_Tag = str


class InviteSession:
    """A call; made by `UserAgent.prepare`."""

    __slots__ = (
        "__weakref__",
        "_changed",
        "_early",
        "_endpoint",
        "_invites",
        "_local",
        "_no_way",
        "_reason",
        "_report",
        "_state",
        "_strays",
        "_timers",
        "_transaction",
        "_usage",
    )

    def __init__(
        self, invitation: Invitation, endpoint: Endpoint, changed: Callable[[InviteSession, bool], None]
    ) -> None:
        "`changed` hears when the session begins (True) and ends (False) to have an early dialog."
        self._endpoint = endpoint
        self._changed = changed
        self._state = PREPARED
        self._no_way: TransactionFailure | None = None
        try:
            self._local = endpoint.local(invitation.target)
        except OSError as error:
            self._local = ("0.0.0.0", 0)  # noqa: S104 - stands in an id that is never sent
            self._no_way = TransactionFailure("transport", str(error))
        self._invites = Invites(invitation, self._local, endpoint.product)
        self._report: Callable[[Event], None] = _say_nothing
        self._reason: str | None = None
        self._timers = TimerSet(endpoint.layer.timers)
        self._transaction: ClientTransaction | None = None
        self._early: dict[_Tag, EarlyDialog] = {}
        self._usage: InviteUsage | None = None
        self._strays: dict[_Tag, InviteUsage] = {}

    # what the owner asks for

    @property
    def invitation(self) -> Invitation:
        return self._invites.invitation

    @property
    def call_id(self) -> str:
        return self._invites.call_id

    @property
    def local_tag(self) -> str:
        return self._invites.local_tag

    @property
    def state(self) -> str:
        """For people."""
        return self._usage.state.value if self._state is TALKING and self._usage else self._state.value

    @property
    def snapshot(self) -> str:
        """JSON, what `UserAgent.recover_invitation` needs to end this call after a restart."""
        return self._invites.snapshot

    def redirected(self, request_uri: str, target: Address) -> Invitation:
        """Return the invitation that follows a redirection of this one: the same call, asked for elsewhere. Call-ID,
        From and To stay, CSeq goes on (§8.1.3.4). The credentials go along, so it ought to be to the same carrier."""
        return self._invites.redirected(request_uri, target)

    def send(self, report: Callable[[Event], None]) -> None:
        """Send the INVITE. `report` hears everything from here, exactly one last word included; never before this
        returns. After `end`, nothing is sent and nothing reported. Raises RuntimeError the second time."""
        self._report = report
        self._feed(SEND)

    def acknowledge(self) -> None:
        """Send the ACK to the 2xx that was reported. Nothing happens where the peer has already left."""
        if self._usage is None:
            if self._state is not OVER:
                raise RuntimeError(f"nothing to acknowledge: {self.state}")
        elif self._state is TALKING:
            self._usage.acknowledge(self._invites.credentials)

    def end(self, reason_header: str | None = None) -> None:
        """End it as fits: not send, CANCEL, ACK and BYE, or BYE, with this Reason header. Again: nothing."""
        if self._reason is None:
            self._reason = reason_header
        self._feed(END)

    # what the network brings

    def receive_early(self, request: Request, source: Address) -> None:
        """Take a request that belongs to an early dialog."""
        early = self._early.get(request.from_.tag or "")
        if early is None:
            self._endpoint.answer(request, source, 481)
        else:
            early.receive(request, source)

    def _heard(self, request: Request, news: Response | TransactionFailure) -> None:
        if isinstance(news, TransactionFailure):
            self._feed(FAILED, news)
        elif news.status < 200:
            self._feed(PROVISIONAL, news)
        elif news.status >= 300:
            self._feed(FAILURE, news)
        elif request is not self._invites.last:
            self._stray(request, news)  # answers an INVITE that was refused for its lack of credentials
        else:
            self._feed(SUCCESS, news)

    def _feed(self, what: Input, news: object = None) -> None:
        self.table[self._state, what](self, news)

    # the steps

    def _ignore(self, news: object) -> None:
        pass

    def _never(self, news: object) -> None:
        raise RuntimeError("a session is sent once")

    def _forget(self, news: object) -> None:
        self._state = OVER

    def _call(self, news: object) -> None:
        self._changed(self, True)
        if self._no_way is None:
            self._invite(self._invites.next())
        else:
            self._state = CALLING
            self._timers.start("no way", 0, self._feed, FAILED, self._no_way)

    def _invite(self, request: Request) -> None:
        self._state = CALLING
        self._early.clear()
        self._transaction = self._endpoint.layer.request(
            request, self.invitation.target, lambda news: self._heard(request, news)
        )

    def _progress(self, response: Response) -> None:
        self._state = PROCEEDING
        if self._take(response):
            self._report(Progress(response.status, response.phrase, session_description(response)))

    def _take(self, response: Response) -> bool:
        "Take a provisional response into its early dialog; False where it is a repeat, or came before its turn."
        tag = response.to.tag
        if tag is None or response.status == 100:
            return True
        if tag not in self._early:
            if len(self._early) == MOST_FORKS:
                return False
            self._early[tag] = EarlyDialog(
                self._endpoint,
                Dialog.of_caller(self._invites.last, response, self.invitation.target),
                self._local,
                authenticator=self._invites.authenticator,
                renegotiate=self.invitation.renegotiate,
                own_contact=self._invites.contact,
                left=self.end,
            )
        return self._early[tag].take(response)

    def _answered(self, response: Response) -> None:
        usage = self._use(response)
        usage.succeeded(response)
        early = self._early.pop(usage.dialog.remote_tag, None)
        # Only the answers of other forks, which hardly ever come, need it now.
        self._invites.last.keep_only(NAMES_OF_DIALOG)
        # Where the answer came in a reliable 183 it is left out here (RFC 3262 §5); some do so without 100rel.
        sdp = session_description(response) or (early.sdp if early else b"")
        self._report(Answered(sdp, usage.dialog.snapshot(), early.offer if early else b""))

    def _dialog(self, request: Request, response: Response) -> Dialog:
        dialog = Dialog.of_caller(request, response, self.invitation.target)
        early = self._early.get(dialog.remote_tag)
        return early.continue_in(dialog, response) if early else dialog

    def _answered_too_late(self, response: Response) -> None:
        usage = self._use(response)
        usage.acknowledge(self._invites.credentials)
        usage.bye(self._reason)

    def _use(self, response: Response) -> InviteUsage:
        if self._invites.authenticator is not None:
            self._invites.authenticator.learn(response)
        early = self._early.get(response.to.tag or "")
        self._state = TALKING
        self._timers.stop_all()
        # The layer keeps it for as long as the 2xx may be repeated; the call need not, with the INVITE's octets.
        self._transaction = None
        self._changed(self, False)
        self._usage = InviteUsage(
            self._endpoint,
            self._dialog(self._invites.last, response),
            self._local,
            ended=self._dialog_ended,
            renegotiate=self.invitation.renegotiate,
            late_answer=self._answered_late,
            authenticator=self._invites.authenticator,
            own_contact=self._invites.contact,
            description=(early.description if early else b"") or self.invitation.offer,
        )
        return self._usage

    def _dialog_ended(self, by: Literal["peer", "us"], q850: int | None, detail: str) -> None:
        self._over(Ended(by, q850, detail))

    def _answered_late(self, sdp: bytes) -> None:
        self._report(LateAnswer(sdp))

    def _leave(self, news: object) -> None:
        assert self._usage is not None
        self._usage.acknowledge(self._invites.credentials)
        self._usage.bye(self._reason)

    def _answered_again(self, response: Response) -> None:
        if self._usage is not None and (response.to.tag or "") == self._usage.dialog.remote_tag:
            self._usage.success_repeated()
        else:
            self._stray(self._invites.last, response)

    def _stray(self, request: Request, response: Response) -> None:
        tag = response.to.tag or ""
        if tag in self._strays:
            self._strays[tag].success_repeated()
            return
        if len(self._strays) == MOST_FORKS:
            return
        dialog = self._dialog(request, response)
        stray = InviteUsage(
            self._endpoint,
            dialog,
            self._local,
            ended=lambda by, q850, detail: None,
            authenticator=self._invites.authenticator,
        )
        self._strays[tag] = stray
        stray.acknowledge(credentials_of(request))
        stray.bye(self._reason)

    def _refused_or_asked_again(self, response: Response) -> None:
        request = self._invites.again(response)
        if request is None:
            self._refused(response)
        else:
            self._invite(request)

    def _refused(self, response: Response) -> None:
        self._over(
            Refused(
                response.status,
                response.phrase,
                response.reason_q850,
                response.retry_after,
                response.get("Warning") or "",
                _targets(response) if response.status < 400 else (),
            )
        )

    def _failed(self, failure: TransactionFailure) -> None:
        self._over(Unreachable(failure.cause, failure.detail))

    def _withdraw(self, news: object) -> None:
        self._state = WITHDRAWING

    def _take_late(self, response: Response) -> None:
        self._take(response)

    def _cancel_now(self, response: Response) -> None:
        self._take(response)
        self._cancel(response)

    def _cancel(self, news: object) -> None:
        self._state = CANCELLING
        layer = self._endpoint.layer
        self._timers.start("cancel", layer.intervals.timeout, self._feed, CANCEL_EXPIRED)
        headers = [("Reason", self._reason)] if self._reason else []
        # Whatever the CANCEL is answered with: what counts is the INVITE's own final response.
        layer.request(cancellation(self._invites.last, headers), self.invitation.target, lambda news: None)

    def _cancel_expired(self, news: object) -> None:
        assert self._transaction is not None
        self._transaction.terminate()
        self._over(Refused(487, "Request Terminated", warning="no final response followed the CANCEL"))

    def _over(self, event: Refused | Unreachable | Ended) -> None:
        self._state = OVER
        self._timers.stop_all()
        for early in self._early.values():
            early.end()
        self._invites.end()
        self._changed(self, False)
        report, self._report = self._report, _say_nothing
        report(event)

    table: ClassVar[Mapping[tuple[State, Input], Callable[[Any, Any], None]]] = {
        **dict.fromkeys(((PREPARED, never) for never in Input), _ignore),
        (PREPARED, SEND): _call,
        (PREPARED, END): _forget,
        (CALLING, SEND): _never,
        (CALLING, END): _withdraw,
        (CALLING, PROVISIONAL): _progress,
        (CALLING, SUCCESS): _answered,
        (CALLING, FAILURE): _refused_or_asked_again,
        (CALLING, FAILED): _failed,
        (CALLING, CANCEL_EXPIRED): _ignore,
        (PROCEEDING, SEND): _never,
        (PROCEEDING, END): _cancel,
        (PROCEEDING, PROVISIONAL): _progress,
        (PROCEEDING, SUCCESS): _answered,
        (PROCEEDING, FAILURE): _refused_or_asked_again,
        (PROCEEDING, FAILED): _failed,
        (PROCEEDING, CANCEL_EXPIRED): _ignore,
        # A challenge isn't taken up any more, and nothing more is told but the last word. What came reliably is
        # acknowledged all the same.
        (WITHDRAWING, SEND): _never,
        (WITHDRAWING, END): _ignore,
        (WITHDRAWING, PROVISIONAL): _cancel_now,
        (WITHDRAWING, SUCCESS): _answered_too_late,
        (WITHDRAWING, FAILURE): _refused,
        (WITHDRAWING, FAILED): _failed,
        (WITHDRAWING, CANCEL_EXPIRED): _ignore,
        (CANCELLING, SEND): _never,
        (CANCELLING, END): _ignore,
        (CANCELLING, PROVISIONAL): _take_late,
        (CANCELLING, SUCCESS): _answered_too_late,
        (CANCELLING, FAILURE): _refused,
        (CANCELLING, FAILED): _failed,
        (CANCELLING, CANCEL_EXPIRED): _cancel_expired,
        (TALKING, SEND): _never,
        (TALKING, END): _leave,
        (TALKING, PROVISIONAL): _ignore,
        (TALKING, SUCCESS): _answered_again,
        (TALKING, FAILURE): _ignore,
        (TALKING, FAILED): _ignore,
        (TALKING, CANCEL_EXPIRED): _ignore,
        # The owner may well have ended before it sent: then nothing was called and there is nothing to tell.
        **dict.fromkeys(((OVER, late) for late in Input), _ignore),
        (OVER, SUCCESS): _answered_again,
    }


def _say_nothing(_: Event) -> None:
    """The owner of a session hears nothing before it sends it, nor after its last word."""


def _targets(response: Response) -> tuple[str, ...]:
    "The URIs that a 3xx names, the one with the highest q first (§8.1.3.4, §20.10)."
    try:
        contacts = response.contacts
    except ParseError:
        return ()
    return tuple(contact.uri for contact in sorted(contacts, key=_preference, reverse=True))


def _preference(contact: NameAddr) -> float:
    text = parameter(contact.parameters, "q") or "1"
    return float(text) if re.fullmatch(r"[01](\.[0-9]{0,3})?", text) else 0.0
