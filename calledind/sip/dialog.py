"""Dialogs (RFC 3261 §12): what two user agents remember of each other, and the requests they build from it."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache

from calledind.compact import dump
from calledind.model import Address
from calledind.sip.grammar import ParseError
from calledind.sip.header import NameAddr
from calledind.sip.message import Request, Response
from calledind.sip.target import TRANSPORTS, Target, target_snapshot, transport_of
from calledind.sip.transactions import DEFAULT_PORT, SECURE_PORT, new_branch, via
from calledind.sip.uri import Uri


@dataclass(slots=True)
class Dialog:
    """One dialog, of either side."""

    call_id: str
    local: str
    "From of our requests: our address and tag."
    remote: str
    "To of our requests: the peer's address and tag."
    local_tag: str
    remote_tag: str
    'Empty where the peer gave none, as those of RFC 2543 may ("null", §12.1.2).'
    remote_target: str
    "URI of the peer's Contact."
    route_set: tuple[str, ...]
    "Route headers in the order in which our requests pass them."
    local_cseq: int
    remote_cseq: int | None
    "None until the peer has sent a request."
    peer: Address
    "Where the peer's messages come from; the way out where the remote target leads nowhere."
    invite_cseq: int
    "CSeq number of the INVITE that made the dialog; its ACK has the same."
    invite_branch: str = ""
    "Branch of our INVITE, so that the repeats of its 2xx are known. Empty at the side that was called."

    @classmethod
    def of_caller(cls, request: Request, response: Response, peer: Address) -> Dialog:
        """Make the dialog of an INVITE we sent and a response with a To tag (§12.1.2)."""
        return cls(
            call_id=request.call_id,
            local=request.get("From") or "",
            remote=response.get("To") or "",
            local_tag=request.from_.tag or "",
            remote_tag=response.to.tag or "",
            remote_target=_contact(response) or request.uri,
            route_set=tuple(reversed(_record_route(response))),
            local_cseq=request.cseq.number,
            remote_cseq=None,
            peer=peer,
            invite_cseq=request.cseq.number,
            invite_branch=request.via.branch or "",
        )

    @classmethod
    def of_callee(cls, request: Request, tag: str, peer: Address) -> Dialog:
        """Make the dialog of an INVITE that we answer with `tag` (§12.1.1)."""
        return cls(
            call_id=request.call_id,
            local=str(request.to.with_tag(tag)),
            remote=request.get("From") or "",
            local_tag=tag,
            remote_tag=request.from_.tag or "",
            remote_target=_contact(request) or request.from_.uri,
            route_set=_record_route(request),
            local_cseq=0,
            remote_cseq=request.cseq.number,
            peer=peer,
            invite_cseq=request.cseq.number,
        )

    @classmethod
    def restore(cls, snapshot: str) -> Dialog:
        """Read what `snapshot` wrote. Raises ValueError where it isn't that."""
        try:
            kept = json.loads(snapshot)
            return cls(**{**kept, "route_set": tuple(kept["route_set"]), "peer": Target.restore(kept["peer"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a dialog: {error}") from None

    def snapshot(self) -> str:
        """Return the dialog as JSON, all that a BYE needs."""
        kept = {each.name: getattr(self, each.name) for each in fields(self)}
        return dump({**kept, "peer": target_snapshot(self.peer)})

    def request(
        self,
        method: str,
        local: Address,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        branch: str = "",
    ) -> Request:
        """Build a request inside the dialog (§12.2.1.1), with the next CSeq; an ACK has that of the INVITE.

        `local`: what we call ourselves in Via. `headers` follow the dialog's own.
        """
        if method == "ACK":
            number = self.invite_cseq
        else:
            self.local_cseq += 1
            number = self.local_cseq
        uri, routes = self._way()
        own = [
            via(local, branch or new_branch(), transport_of(self.next_hop)),
            ("Max-Forwards", "70"),
            *(("Route", route) for route in routes),
            ("From", self.local),
            ("To", self.remote),
            ("Call-ID", self.call_id),
            ("CSeq", f"{number} {method}"),
        ]
        return Request(method, uri, [*own, *headers], body)

    def in_order(self, request: Request) -> bool:
        """Take the CSeq of a request of the peer's; False where it is older than the last (§12.2.2)."""
        number = request.cseq.number
        if self.remote_cseq is not None and number < self.remote_cseq:
            return False
        self.remote_cseq = number
        return True

    def refresh_target(self, message: Request | Response) -> None:
        """Take a new Contact, as INVITE and UPDATE inside a dialog bring (§12.2.2, RFC 3311)."""
        self.remote_target = _contact(message) or self.remote_target

    def refresh_routes(self, response: Response) -> None:
        """Take the Record-Route of a provisional response: the first one may well have had none. Once a 2xx has
        come, the routes stay (§12.2)."""
        self.route_set = tuple(reversed(_record_route(response))) or self.route_set

    @property
    def next_hop(self) -> Address:
        """Where our requests go: the first route or the remote target, where that is an address we can reach.

        Names aren't resolved, private addresses of a public peer not believed (it stands behind a NAT), and TLS is
        neither left nor begun inside a dialog: then it is where the peer's messages come from. A URI that names no
        transport is reached as the peer is, for few that speak TCP say so.
        """
        try:
            hop = Uri.parse(NameAddr.parse(self.route_set[0]).uri if self.route_set else self.remote_target)
            address, usable, is_global = _ip_address(hop.host)
            _, _, public = _ip_address(self.peer[0])
        except ValueError:
            return self.peer
        if hop.port == 0 or not usable or (public and not is_global):
            return self.peer
        ours = transport_of(self.peer)
        named = "tls" if hop.scheme == "sips" else (hop.parameter("transport") or ours).lower()
        transport = TRANSPORTS.get(named)
        if transport is None or (transport == "tls") != (ours == "tls"):
            return self.peer
        port = hop.port or (SECURE_PORT if transport == "tls" else DEFAULT_PORT)
        if not isinstance(self.peer, Target) and transport == "udp":
            return address, port
        return Target(address, port, transport, getattr(self.peer, "trunk", ""))

    def _way(self) -> tuple[str, tuple[str, ...]]:
        "The Request-URI and the Route headers (§12.2.1.1)."
        if not self.route_set:
            return self.remote_target, ()
        try:
            first = Uri.parse(NameAddr.parse(self.route_set[0]).uri)
        except ParseError:
            return self.remote_target, self.route_set
        if first.parameter("lr") is not None:
            return self.remote_target, self.route_set
        # A strict router of RFC 2543 wants itself in the Request-URI, and the target as the last route.
        return _stripped(first), (*self.route_set[1:], f"<{self.remote_target}>")


@lru_cache(1024)
def _ip_address(text: str) -> tuple[str, bool, bool]:
    """Read an address: as it is usually written, whether it can be one host's, and whether it is global. Raises
    ValueError where it is none."""
    address = ipaddress.ip_address(text)
    return str(address), not (address.is_unspecified or address.is_multicast), address.is_global


def _stripped(uri: Uri) -> str:
    "A URI without what a Request-URI may not have (§19.1.1)."
    kept = tuple(pair for pair in uri.parameters if pair[0].lower() != "method")
    return str(Uri(uri.scheme, uri.user, uri.host, uri.port, kept))


def _contact(message: Request | Response) -> str | None:
    "The URI of the first Contact; None where there is none that a Request-URI can be made of."
    try:
        contact = message.contact
        if contact is None:
            return None
        uri = contact.parsed_uri
    except ParseError:
        return None
    if not uri.host:
        return None
    return _stripped(uri) if uri.headers else contact.uri


def _record_route(message: Request | Response) -> tuple[str, ...]:
    try:
        return tuple(str(route) for route in message.record_route)
    except ParseError:
        return ()
