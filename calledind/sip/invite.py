"""The INVITEs of one call: what they say, and how each differs from the one before, which was refused.

An INVITE goes out again with an answer where it was challenged (401, 407: RFC 3261 §22), and with a longer session
where somebody wants that (422: RFC 4028 §7.3), each time with the next CSeq. Of their branches only the number at the
end changes, so whoever knows the call's snapshot knows the branches of all INVITEs that may have left.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from calledind.compact import dump
from calledind.model import Address
from calledind.sip.auth import MOST_TRIES, Authenticator, Credentials, credentials_of
from calledind.sip.body import SDP
from calledind.sip.endpoint import ALLOW, OPTIONS, Renegotiate, contact
from calledind.sip.grammar import ParseError
from calledind.sip.header import NameAddr
from calledind.sip.message import Request, Response
from calledind.sip.session_timer import SessionExpires, least_session
from calledind.sip.target import target_snapshot
from calledind.sip.transactions import new_branch, new_tag, via
from calledind.sip.uri import Uri

MOST_TOO_SMALL: Final = 2
"Times that an INVITE is sent again because its session was too short for somebody (422)."
_OPAQUE: Final = 12
"Octets of chance in a Call-ID."


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


class Invites:
    """Those of one invitation. `local` is what we call ourselves, `product` goes into User-Agent."""

    __slots__ = (
        "_branch",
        "_last",
        "_least_session",
        "_local",
        "_most_tries",
        "_product",
        "_session_expires",
        "_tries",
        "authenticator",
        "call_id",
        "contact",
        "invitation",
        "local_tag",
    )

    def __init__(self, invitation: Invitation, local: Address, product: str) -> None:
        self.invitation = invitation
        self.call_id = invitation.call_id or secrets.token_hex(_OPAQUE)
        self.local_tag = invitation.from_tag or new_tag()
        self.authenticator = Authenticator(invitation.credentials) if invitation.credentials else None
        self._last: Request | None = None
        # Who calls with sips has a Contact of sips (§8.1.1.8).
        scheme = "sips" if invitation.request_uri.lower().startswith("sips:") else "sip"
        self.contact = contact(local, _contact_user(invitation.from_uri), scheme)
        self._local = local
        self._product = product
        self._branch = new_branch()
        self._tries = 0
        self._most_tries = 1 + MOST_TOO_SMALL + (MOST_TRIES if invitation.credentials else 0)
        self._session_expires = invitation.session_expires
        self._least_session = 0

    @property
    def snapshot(self) -> str:
        """JSON, what `UserAgent.recover_invitation` needs to end this call after a restart."""
        return dump(
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
            }
        )

    @property
    def last(self) -> Request:
        """The one that went out last."""
        assert self._last is not None
        return self._last

    @property
    def credentials(self) -> list[tuple[str, str]]:
        """The headers of the last one's answers, which the ACK goes with, too."""
        return credentials_of(self.last)

    def end(self) -> None:
        """No more will follow: let go of who was to answer the callee's offers."""
        self.invitation = replace(self.invitation, renegotiate=None)

    def redirected(self, request_uri: str, target: Address) -> Invitation:
        """Return the invitation that follows a redirection of this one."""
        return replace(
            self.invitation,
            request_uri=request_uri,
            target=target,
            call_id=self.call_id,
            from_tag=self.local_tag,
            cseq=self.invitation.cseq + self._tries,
        )

    def next(self, credentials: Sequence[tuple[str, str]] = ()) -> Request:
        """Build the first, or the next one with these answers."""
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
            self.contact,
            ("Allow", ALLOW),
            *([("Supported", ", ".join(invitation.supported))] if invitation.supported else []),
            *self._session_headers,
            *credentials,
            ("User-Agent", self._product),
            *invitation.headers,
            ("Content-Type", SDP),
        ]
        self._last = Request("INVITE", invitation.request_uri, headers, invitation.offer)
        return self._last

    def again(self, response: Response) -> Request | None:
        """Build the one that follows a refusal; None where none does."""
        if self._tries >= self._most_tries:
            return None
        credentials = self._longer(response) if response.status == 422 else self._challenged(response)
        return None if credentials is None else self.next(credentials)

    def _challenged(self, response: Response) -> list[tuple[str, str]] | None:
        if self.authenticator is None:
            return None
        uri, offer = self.invitation.request_uri, self.invitation.offer
        return self.authenticator.answer(response, method="INVITE", uri=uri, body=offer)

    def _longer(self, response: Response) -> list[tuple[str, str]] | None:
        "Ask for as long a session as a 422 wants."
        least = least_session(response)
        if least <= self._least_session:
            return None  # that is what we asked for
        self._least_session = least
        self._session_expires = max(self._session_expires, least)
        if self.authenticator is None:
            return []
        return self.authenticator.authorization("INVITE", self.invitation.request_uri, self.invitation.offer)

    @property
    def _session_headers(self) -> list[tuple[str, str]]:
        headers = []
        if self._session_expires:
            headers.append(("Session-Expires", str(SessionExpires(self._session_expires))))
        if self._least_session:
            headers.append(("Min-SE", str(self._least_session)))
        return headers

    @property
    def _from(self) -> str:
        return str(NameAddr(self.invitation.display_name, self.invitation.from_uri).with_tag(self.local_tag))

    @property
    def _to(self) -> str:
        return str(NameAddr("", self.invitation.to_uri))


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
