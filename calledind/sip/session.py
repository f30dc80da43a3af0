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

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, ClassVar, Final

from calledind.model import Address
from calledind.sip.auth import MOST_TRIES, Authenticator, Credentials, credentials_of
from calledind.sip.body import SDP, session_description
from calledind.sip.client import ClientTransaction, TransactionFailure
from calledind.sip.dialog import Dialog
from calledind.sip.early import EarlyDialog
from calledind.sip.events import Answered, Ended, Event, LateAnswer, Progress, Refused, Unreachable
from calledind.sip.grammar import ParseError, parameter
from calledind.sip.header import NameAddr
from calledind.sip.message import Request, Response
from calledind.sip.session_timer import SessionExpires, least_session
from calledind.sip.target import target_snapshot
from calledind.sip.timers import TimerSet
from calledind.sip.transactions import new_branch, new_tag, via
from calledind.sip.uri import Uri
from calledind.sip.usage import ALLOW, OPTIONS, Endpoint, InviteUsage, Renegotiate, contact


@dataclass(frozen=True)
class Invitation:
    """Whom to call, and as whom."""

    target: Address
    "Where the datagrams go."
    request_uri: str
    from_uri: str
    to_uri: str
    display_name: str = ""
    offer: bytes = field(default=b"", repr=False)
    "SDP, with the keys of SRTP where that is wanted."
    credentials: Credentials | None = None
    headers: tuple[tuple[str, str], ...] = ()
    "Extra ones, such as P-Asserted-Identity."
    route: tuple[str, ...] = ()
    "Route headers of the INVITE, such as a registrar's Service-Route (RFC 3608 §6.1)."
    call_id: str = ""
    "Call-ID, unique in space and time; empty: one is made up."
    from_tag: str = ""
    "Our tag; empty: one is made up. That of the call before where this one follows its redirection (§8.1.3.4)."
    cseq: int = 1
    "Of the first INVITE."
    supported: tuple[str, ...] = OPTIONS
    "Option tags that the callee may make use of."
    session_expires: int = 0
    "Seconds after which the session is to be refreshed (RFC 4028); 0: whatever the callee says."
    renegotiate: Renegotiate | None = field(default=None, compare=False)
    "The peer's later offer -> our answer, None: 488. An empty one: return our offer."


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

MOST_TOO_SMALL: Final = 2
"Times that an INVITE is sent again because its session was too short for somebody (422)."
MOST_FORKS: Final = 32
"To tags of one INVITE whose early dialogs are kept, and as many that are left when they answer; others are not heard."
_Tag = str
_OPAQUE: Final = 12
"Octets of chance in a Call-ID."


class InviteSession:
    """A call; made by `UserAgent.prepare`."""

    def __init__(
        self, invitation: Invitation, endpoint: Endpoint, changed: Callable[[InviteSession, bool], None]
    ) -> None:
        "`changed` hears when the session begins (True) and ends (False) to have an early dialog."
        self.invitation = invitation
        self.call_id = invitation.call_id or secrets.token_hex(_OPAQUE)
        self.local_tag = invitation.from_tag or new_tag()
        self._endpoint = endpoint
        self._changed = changed
        self._state = PREPARED
        self._no_way: TransactionFailure | None = None
        try:
            self._local = endpoint.local(invitation.target)
        except OSError as error:
            self._local = ("0.0.0.0", 0)  # noqa: S104 - stands in an id that is never sent
            self._no_way = TransactionFailure("transport", str(error))
        self._branch = new_branch()
        self._tries = 0
        self._most_tries = 1 + MOST_TOO_SMALL + (MOST_TRIES if invitation.credentials else 0)
        self._session_expires = invitation.session_expires
        self._least_session = 0
        self._authenticator = Authenticator(invitation.credentials) if invitation.credentials else None
        self._report: Callable[[Event], None] = _say_nothing
        self._reason: str | None = None
        self._timers = TimerSet(endpoint.layer.timers)
        self._request: Request | None = None
        self._transaction: ClientTransaction | None = None
        self._early: dict[_Tag, EarlyDialog] = {}
        self._usage: InviteUsage | None = None
        self._strays: dict[_Tag, InviteUsage] = {}
        self._contact_user = _contact_user(invitation.from_uri)
        self._scheme = "sips" if invitation.request_uri.lower().startswith("sips:") else "sip"

    # what the owner asks for

    @property
    def state(self) -> str:
        """For people."""
        return self._usage.state.value if self._state is TALKING and self._usage else self._state.value

    @property
    def snapshot(self) -> str:
        """JSON, what `UserAgent.recover_invitation` needs to end this call after a restart."""
        return json.dumps(
            {
                "target": target_snapshot(self.invitation.target),
                "uri": self.invitation.request_uri,
                "route": self.invitation.route,
                "local": target_snapshot(self._local),
                "from": self._from,
                "to": self._to,
                "call_id": self.call_id,
                "branch": self._branch,
                "cseq": self.invitation.cseq,
                "tries": self._most_tries,
            },
            separators=(",", ":"),
        )

    def redirected(self, request_uri: str, target: Address) -> Invitation:
        """Return the invitation that follows a redirection of this one: the same call, asked for elsewhere. Call-ID,
        From and To stay, CSeq goes on (§8.1.3.4). The credentials go along, so it ought to be to the same carrier."""
        return replace(
            self.invitation,
            request_uri=request_uri,
            target=target,
            call_id=self.call_id,
            from_tag=self.local_tag,
            cseq=self.invitation.cseq + self._tries,
        )

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
            self._usage.acknowledge(self._credentials)

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
        elif request is not self._request:
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
            self._invite([])
        else:
            self._state = CALLING
            self._timers.start("no way", 0, lambda: self._feed(FAILED, self._no_way))

    def _invite(self, credentials: list[tuple[str, str]]) -> None:
        self._state = CALLING
        self._tries += 1
        invitation = self.invitation
        headers = [
            via(self._local, f"{self._branch}.{self._tries}"),
            ("Max-Forwards", "70"),
            *(("Route", route) for route in invitation.route),
            ("From", self._from),
            ("To", self._to),
            ("Call-ID", self.call_id),
            ("CSeq", f"{invitation.cseq + self._tries - 1} INVITE"),
            contact(self._local, self._contact_user, self._scheme),
            ("Allow", ALLOW),
            *([("Supported", ", ".join(invitation.supported))] if invitation.supported else []),
            *self._session_headers,
            *credentials,
            ("User-Agent", self._endpoint.product),
            *invitation.headers,
            ("Content-Type", SDP),
        ]
        request = Request("INVITE", invitation.request_uri, headers, invitation.offer)
        self._request = request
        self._early.clear()
        self._transaction = self._endpoint.layer.request(
            request, invitation.target, lambda news: self._heard(request, news)
        )

    def _progress(self, response: Response) -> None:
        self._state = PROCEEDING
        if self._take(response):
            self._report(Progress(response.status, response.phrase, session_description(response)))

    def _take(self, response: Response) -> bool:
        "Take a provisional response into its early dialog; False where it is a repeat, or came before its turn."
        tag = response.to.tag
        if tag is None or response.status == 100 or self._request is None:
            return True
        if tag not in self._early:
            if len(self._early) == MOST_FORKS:
                return False
            self._early[tag] = EarlyDialog(
                self._endpoint,
                Dialog.of_caller(self._request, response, self.invitation.target),
                self._local,
                authenticator=self._authenticator,
                renegotiate=self.invitation.renegotiate,
                contact_user=self._contact_user,
                left=self.end,
            )
        return self._early[tag].take(response)

    def _answered(self, response: Response) -> None:
        usage = self._use(response)
        usage.succeeded(response)
        early = self._early.get(usage.dialog.remote_tag)
        # Where the answer came in a reliable 183 it is left out here (RFC 3262 §5); some do so without 100rel.
        sdp = session_description(response) or (early.sdp if early else b"")
        self._report(Answered(sdp, usage.dialog.snapshot(), early.offer if early else b""))

    def _dialog(self, request: Request, response: Response) -> Dialog:
        dialog = Dialog.of_caller(request, response, self.invitation.target)
        early = self._early.get(dialog.remote_tag)
        return early.continue_in(dialog, response) if early else dialog

    def _answered_too_late(self, response: Response) -> None:
        usage = self._use(response)
        usage.acknowledge(self._credentials)
        usage.bye(self._reason)

    def _use(self, response: Response) -> InviteUsage:
        assert self._request is not None
        if self._authenticator is not None:
            self._authenticator.learn(response)
        early = self._early.get(response.to.tag or "")
        self._state = TALKING
        self._timers.stop_all()
        self._changed(self, False)
        self._usage = InviteUsage(
            self._endpoint,
            self._dialog(self._request, response),
            self._local,
            ended=lambda by, q850, detail: self._over(Ended(by, q850, detail)),
            renegotiate=self.invitation.renegotiate,
            late_answer=lambda sdp: self._report(LateAnswer(sdp)),
            authenticator=self._authenticator,
            contact_user=self._contact_user,
            description=(early.description if early else b"") or self.invitation.offer,
        )
        return self._usage

    def _leave(self, news: object) -> None:
        assert self._usage is not None
        self._usage.acknowledge(self._credentials)
        self._usage.bye(self._reason)

    def _answered_again(self, response: Response) -> None:
        if self._usage is not None and (response.to.tag or "") == self._usage.dialog.remote_tag:
            self._usage.success_repeated()
        else:
            assert self._request is not None
            self._stray(self._request, response)

    def _stray(self, request: Request, response: Response) -> None:
        tag = response.to.tag or ""
        if tag in self._strays:
            self._strays[tag].success_repeated()
            return
        if len(self._strays) == MOST_FORKS:
            return
        dialog = self._dialog(request, response)
        stray = InviteUsage(
            self._endpoint, dialog, self._local, ended=lambda by, q850, detail: None, authenticator=self._authenticator
        )
        self._strays[tag] = stray
        stray.acknowledge(credentials_of(request))
        stray.bye(self._reason)

    def _refused_or_asked_again(self, response: Response) -> None:
        credentials = None
        if self._tries < self._most_tries:
            credentials = self._longer(response) if response.status == 422 else self._challenged(response)
        if credentials is None:
            self._refused(response)
        else:
            self._invite(credentials)

    def _challenged(self, response: Response) -> list[tuple[str, str]] | None:
        if self._authenticator is None:
            return None
        uri, offer = self.invitation.request_uri, self.invitation.offer
        return self._authenticator.answer(response, method="INVITE", uri=uri, body=offer)

    def _longer(self, response: Response) -> list[tuple[str, str]] | None:
        "Ask for as long a session as a 422 wants (RFC 4028 §7.3)."
        least = least_session(response)
        if least <= self._least_session:
            return None  # that is what we asked for
        self._least_session = least
        self._session_expires = max(self._session_expires, least)
        if self._authenticator is None:
            return []
        return self._authenticator.authorization("INVITE", self.invitation.request_uri, self.invitation.offer)

    @property
    def _session_headers(self) -> list[tuple[str, str]]:
        headers = []
        if self._session_expires:
            headers.append(("Session-Expires", str(SessionExpires(self._session_expires))))
        if self._least_session:
            headers.append(("Min-SE", str(self._least_session)))
        return headers

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
        assert self._request is not None
        self._state = CANCELLING
        layer = self._endpoint.layer
        self._timers.start("cancel", layer.intervals.timeout, lambda: self._feed(CANCEL_EXPIRED))
        headers = [("Reason", self._reason)] if self._reason else []
        # Whatever the CANCEL is answered with: what counts is the INVITE's own final response.
        layer.request(cancellation(self._request, headers), self.invitation.target, lambda news: None)

    def _cancel_expired(self, news: object) -> None:
        assert self._transaction is not None
        self._transaction.terminate()
        self._over(Refused(487, "Request Terminated", warning="no final response followed the CANCEL"))

    def _over(self, event: Refused | Unreachable | Ended) -> None:
        self._state = OVER
        self._timers.stop_all()
        self._changed(self, False)
        report, self._report = self._report, _say_nothing
        report(event)

    @property
    def _from(self) -> str:
        return str(NameAddr(self.invitation.display_name, self.invitation.from_uri).with_tag(self.local_tag))

    @property
    def _to(self) -> str:
        return str(NameAddr("", self.invitation.to_uri))

    @property
    def _credentials(self) -> list[tuple[str, str]]:
        return credentials_of(self._request) if self._request is not None else []

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


def cancellation(request: Request, headers: list[tuple[str, str]]) -> Request:
    """Return the CANCEL of an INVITE, which shares its branch and most of its headers (§9.1)."""
    copied = [("Via", request.values("Via")[0]), ("Max-Forwards", "70")]
    copied += [("Route", value) for value in request.all("Route")]
    copied += [(name, request.get(name) or "") for name in ("From", "To", "Call-ID")]
    copied += [("CSeq", f"{request.cseq.number} CANCEL")]
    return Request("CANCEL", request.uri, copied + headers)


def _contact_user(uri: str) -> str:
    try:
        return Uri.parse(uri).user or "calledin"
    except ParseError:
        return "calledin"


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
