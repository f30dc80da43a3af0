"""What all calls and registrations of one user agent share: what it can do, what it is called, how it answers.

Requests inside a dialog that are no matter of the call itself (OPTIONS, INFO, and what isn't served at all) are
answered here, too, early dialogs and confirmed ones alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from calledind.model import Address
from calledind.sip.body import SDP, is_understood
from calledind.sip.dialog import Dialog
from calledind.sip.message import Request, response_to
from calledind.sip.target import transport_of
from calledind.sip.transactions import TransactionLayer, host_port

if TYPE_CHECKING:
    from calledind.sip.usage import InviteUsage

_SERVED: Final = ("INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "UPDATE", "INFO", "PRACK")
ALLOW: Final = ", ".join(_SERVED)
_NOT_SERVED: Final = ("REGISTER", "SUBSCRIBE", "NOTIFY", "PUBLISH", "MESSAGE", "REFER")
KNOWN_METHODS: Final = frozenset((*_SERVED, *_NOT_SERVED))
"Others are answered with 501, those of these that we don't serve with 405 (§8.2.1)."

_CHANGES: Final = ("INVITE", "BYE", "UPDATE", "PRACK")
"What changes a call where it is answered with a 2xx: that is never done twice for a request that comes twice."
OPTIONS: Final = ("100rel", "timer")
"Option tags of the extensions that we speak (RFC 3262, RFC 4028)."
SUPPORTED: Final = ("Supported", ", ".join(OPTIONS))

DialogId = tuple[str, str, str]
"Call-ID, local tag, remote tag."
Headers = Iterable[tuple[str, str]]
Renegotiate = Callable[[bytes], bytes | None]
"The peer's later offer -> our answer, None refuses it. An empty offer asks for ours."


@dataclass(slots=True)
class Endpoint:
    """What all sessions of one user agent share."""

    layer: TransactionLayer
    local: Callable[[Address], Address]
    "The host and port to advertise to a target."
    product: str
    "For User-Agent and Server."
    usages: dict[DialogId, InviteUsage] = field(default_factory=dict)

    def answer(
        self,
        request: Request,
        source: Address,
        status: int,
        phrase: str | None = None,
        headers: Headers = (),
        body: bytes = b"",
        *,
        to_tag: str = "",
    ) -> None:
        """Answer a request at once; its repeats get the same."""
        tag = to_tag or self.layer.tag_for(request)
        response = response_to(request, status, phrase, tag, [*headers, ("Server", self.product)], body)
        if status < 300 and request.method in _CHANGES:
            self.layer.serve(request, source).respond(response)
        else:
            self.layer.dismiss(request, source, response)

    def capable(self, request: Request, source: Address) -> bool:
        """Whether the request asks for no extension that we lack, and, where it may have an offer, has no body that we
        don't know; else it is answered with 420 or 415 (§8.2.2.3, §8.2.3)."""
        required = [tag.strip() for value in request.all("Require") for tag in value.split(",")]
        lacking = [tag for tag in required if tag and tag.lower() not in OPTIONS]
        if lacking:
            self.answer(request, source, 420, headers=[("Unsupported", ", ".join(lacking))])
            return False
        if request.method in ("INVITE", "UPDATE") and not is_understood(request):
            self.answer(request, source, 415, headers=[("Accept", SDP), ("Accept-Encoding", "identity")])
            return False
        return True

    def answer_options(self, request: Request, source: Address) -> None:
        headers = [("Allow", ALLOW), ("Accept", SDP), ("Accept-Encoding", "identity"), ("Accept-Language", "en")]
        self.answer(request, source, 200, headers=[*headers, SUPPORTED])

    def takes(self, request: Request, source: Address, dialog: Dialog) -> bool:
        """Whether a request inside the dialog is in order (§12.2.2) and asks for nothing that we lack; else it is
        answered."""
        if not dialog.in_order(request):
            self.answer(request, source, 500, "CSeq Out Of Order")
            return False
        return self.capable(request, source)

    def answer_inside(self, request: Request, source: Address) -> None:
        """Answer a request inside a dialog that changes nothing about it."""
        if request.method == "OPTIONS":
            self.answer_options(request, source)
        elif request.method != "INFO":
            self.answer_other(request, source)
        elif request.get("Info-Package") is None:
            self.answer(request, source, 200)  # as it was before RFC 6086, such as DTMF
        else:
            self.answer(request, source, 469, "Bad Info Package", [("Recv-Info", "")])

    def answer_other(self, request: Request, source: Address) -> None:
        """Refuse a method that isn't served here."""
        if request.method in ("BYE", "CANCEL", "PRACK", "NOTIFY", "INFO", "UPDATE"):
            self.answer(request, source, 481)  # they speak of something that we don't have
        elif request.method in KNOWN_METHODS:
            self.answer(request, source, 405, headers=[("Allow", ALLOW)])
        else:
            self.answer(request, source, 501, headers=[("Allow", ALLOW)])


def contact(local: Address, user: str = "calledin", scheme: str = "sip") -> tuple[str, str]:
    """Return the Contact header of who is reached at `local`."""
    transport = transport_of(local)
    parameter = "" if transport == "udp" or scheme == "sips" else f";transport={transport}"
    return "Contact", f"<{scheme}:{user}@{host_port(local)}{parameter}>"


def not_acceptable(local: Address) -> tuple[str, str]:
    """Return the Warning header of a 488 (RFC 3261 §20.43)."""
    return "Warning", f'305 {host_port(local)} "Incompatible media format"'
