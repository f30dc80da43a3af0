"""The user agent that calls: sessions out, and a plain answer to whatever else comes in (RFC 3261 §8.2).

We take no calls: an INVITE outside of a dialog is refused. Who is neither a trunk nor part of a dialog or
transaction of ours is not answered at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from calledind.model import Address
from calledind.sip.auth import Credentials
from calledind.sip.body import SDP
from calledind.sip.client import TransactionFailure
from calledind.sip.endpoint import Endpoint, contact
from calledind.sip.events import Answered, Ended, Event, LateAnswer, Progress, Refused, Unreachable
from calledind.sip.grammar import ParseError
from calledind.sip.header import Via
from calledind.sip.invite import Invitation
from calledind.sip.message import Request, Response
from calledind.sip.outside import Outside
from calledind.sip.recovery import DialogRecovery, InvitationRecovery, LateResponses
from calledind.sip.registration import Account, Elsewhere, Locate, Registration, RegistrationEvent
from calledind.sip.session import InviteSession
from calledind.sip.timers import Intervals, Timers
from calledind.sip.transactions import Send, Trace, TransactionLayer, host_port, new_branch, new_tag, via

__all__ = [
    "Answered",
    "Credentials",
    "Ended",
    "Event",
    "Invitation",
    "InviteSession",
    "LateAnswer",
    "Progress",
    "Refused",
    "Unreachable",
    "UserAgent",
]


class UserAgent:
    """Everything SIP of one transport address; sans-I/O.

    `send(data, target)` carries a message and may raise OSError. `local(target)` is the host and port to
    advertise to a target, a `Target` of the same transport. `trusted(ip)` tells whether an address is one of a
    trunk's. `trace`, where given, sees each message: "sent" or "received", the other side, the octets. `larger` and
    `seen_as` are those of `TransactionLayer`.
    """

    def __init__(
        self,
        *,
        send: Send,
        timers: Timers,
        local: Callable[[Address], Address],
        user_agent: str,
        t1: float = 0.5,
        trusted: Callable[[str], bool],
        trace: Trace | None = None,
        larger: Callable[[Address], Address | None] = lambda target: None,
        seen_as: Callable[[Address, Via], None] = lambda target, via: None,
    ) -> None:
        self._trusted = trusted
        self._layer = TransactionLayer(
            send=send,
            timers=timers,
            intervals=Intervals(t1),
            received=self._received,
            unmatched=self._unmatched,
            stranger=lambda source: not trusted(source[0]),
            larger=larger,
            seen_as=seen_as,
            trace=trace,
        )
        self._endpoint = Endpoint(self._layer, local, user_agent)
        self._outside = Outside(self._layer, local, user_agent)
        self._early: dict[tuple[str, str], InviteSession] = {}
        "Call-ID and our tag -> the session that waits for its answer."
        self._late: LateResponses = {}

    def __len__(self) -> int:
        "How many transactions, dialogs and sessions live: 0 when all is quiet."
        return len(self._layer) + len(self._endpoint.usages) + len(self._early) + len(self._late)

    def datagram_received(self, data: bytes, source: Address) -> None:
        """Take a datagram; whatever its octets are, nothing is raised because of them."""
        self._layer.datagram_received(data, source)

    def message_received(self, message: Request | Response, source: Address) -> None:
        """Take a message of a stream."""
        self._layer.message_received(message, source)

    def unreadable(self, error: ParseError, source: Address) -> None:
        """Take the news that a stream holds what is no message; whoever asked is told, then the stream is closed."""
        self._layer.unreadable(error, None, source)

    def transport_failed(self, target: Address, detail: str = "nobody listens there (ICMP)") -> None:
        """Take the news that nothing arrives at `target`: what waits for an answer from there fails."""
        self._layer.transport_failed(target, detail)

    def prepare(self, invitation: Invitation) -> InviteSession:
        """Make a call's ids; nothing is sent yet."""
        return InviteSession(invitation, self._endpoint, self._session_changed)

    def options(self, target: Address, uri: str, report: Callable[[int | None], None]) -> None:
        """Ask whether somebody is there: `report` hears the final status of an OPTIONS, None where none came."""
        try:
            local = self._endpoint.local(target)
        except OSError:
            self._layer.timers.callLater(0, report, None)
            return
        headers = [
            via(local, new_branch()),
            ("Max-Forwards", "70"),
            ("From", f"<sip:calledin@{host_port(local)}>;tag={new_tag()}"),
            ("To", f"<{uri}>"),
            ("Call-ID", new_tag()),
            ("CSeq", "1 OPTIONS"),
            contact(local, scheme="sips" if uri.startswith("sips:") else "sip"),
            ("Accept", SDP),
            ("User-Agent", self._endpoint.product),
        ]

        def heard(news: Response | TransactionFailure) -> None:
            if isinstance(news, TransactionFailure):
                report(None)
            elif news.status >= 200:
                report(news.status)

        self._layer.request(Request("OPTIONS", uri, headers), target, heard)

    def registration(
        self,
        account: Account,
        *,
        locate: Locate,
        report: Callable[[RegistrationEvent], None],
        elsewhere: Elsewhere = lambda words, retry_after: False,
        chance: Callable[[], float] = random.random,
    ) -> Registration:
        """Make a registration; nothing is sent before its `start`."""
        return Registration(account, self._endpoint, locate=locate, report=report, elsewhere=elsewhere, chance=chance)

    def recover_invitation(self, snapshot: str, finished: Callable[[], None]) -> None:
        """End a call of the process before that may be ringing. Raises ValueError for what isn't a snapshot."""
        InvitationRecovery(self._endpoint, self._late, snapshot, finished).start()

    def recover_dialog(
        self, snapshot: str, finished: Callable[[], None], credentials: Credentials | None = None
    ) -> None:
        """Hang up a call of the process before. Raises ValueError for what isn't a snapshot, and OSError where
        `local` finds no way to the peer."""
        DialogRecovery(self._endpoint, self._late, snapshot, finished, credentials).start()

    def _session_changed(self, session: InviteSession, early: bool) -> None:
        if early:
            self._early[session.call_id, session.local_tag] = session
        else:
            self._early.pop((session.call_id, session.local_tag), None)

    def _unmatched(self, response: Response, source: Address) -> None:
        late = self._late.get(response.via.branch or "")
        if late is not None and response.cseq.method == "INVITE":
            late(response)

    def _received(self, request: Request, source: Address) -> None:
        tag = request.to.tag
        usage = self._endpoint.usages.get((request.call_id, tag or "", request.from_.tag or ""))
        early = self._early.get((request.call_id, tag or ""))
        if request.method == "CANCEL":
            # What it could be meant for was answered at once, so it changes nothing.
            if self._layer.cancelled(request) is not None or self._trusted(source[0]):
                self._outside.answer_cancel(request, source)
        elif usage is not None:
            usage.receive(request, source)
        elif request.method == "ACK":
            pass  # never answered (§17)
        elif early is not None:
            early.receive_early(request, source)
        elif self._trusted(source[0]):
            self._outside.answer_request(request, source)
