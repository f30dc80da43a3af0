"""Early dialogs of a caller (RFC 3261 §12.1), and the reliability of provisional responses (RFC 3262).

Each To tag in a provisional response is a dialog of its own: an INVITE that was forked has several. Where a
response is reliable (Require: 100rel, and a number in RSeq), it is repeated until our PRACK has come:

    INVITE (Supported: 100rel)  ->
                                <-  183 RSeq 7, the answer to our offer
    PRACK RAck: 7 1 INVITE      ->
                                <-  183 RSeq 7    a repeat: nothing, the PRACK is repeated by its transaction
                                <-  200 (PRACK)
                                <-  180 RSeq 9    8 is missing: not taken, not acknowledged (§4); it will come again

Once an answer came reliably, the callee may offer something else by UPDATE before it picks up (RFC 3311 §5).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from calledind.model import Address
from calledind.sip.auth import Authenticator
from calledind.sip.body import SDP, session_description
from calledind.sip.challenged import send_challenged
from calledind.sip.dialog import Dialog
from calledind.sip.endpoint import ALLOW, SUPPORTED, Endpoint, Renegotiate, not_acceptable
from calledind.sip.grammar import ParseError, number
from calledind.sip.message import Request, Response
from calledind.sip.session_timer import has_option

RELIABLE: Final = "100rel"
"The option tag."


class EarlyDialog:
    """What the provisional responses of one To tag have made."""

    __slots__ = (
        "_agreed",
        "_authenticator",
        "_contact",
        "_endpoint",
        "_left",
        "_local",
        "_renegotiate",
        "_rseq",
        "description",
        "dialog",
        "offer",
        "sdp",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        dialog: Dialog,
        local: Address,
        *,
        authenticator: Authenticator | None,
        renegotiate: Renegotiate | None,
        own_contact: tuple[str, str],
        left: Callable[[], None],
    ) -> None:
        "`own_contact` is that of the INVITE, `left` hears of a BYE of the callee's."
        self.dialog = dialog
        self.sdp = b""
        "The answer, or what will be one."
        self.offer = b""
        "The callee's own, which we've answered."
        self.description = b""
        "Our answer to that."
        self._endpoint = endpoint
        self._local = local
        self._authenticator = authenticator
        self._renegotiate = renegotiate
        self._contact = own_contact
        self._left = left
        self._rseq: int | None = None
        "Of the last reliable response that came in order."
        self._agreed = False
        "An answer came reliably: offers may follow."

    def take(self, response: Response) -> bool:
        """Take a provisional response; False for one that must not be processed further (RFC 3262 §4)."""
        sdp = session_description(response)
        rseq = 0
        reliable = has_option(response, "Require", RELIABLE)
        if reliable:
            with suppress(ParseError):
                rseq = number(response.get("RSeq") or "")
            if rseq == 0 or (self._rseq is not None and rseq != self._rseq + 1):
                return False
        self.dialog.refresh_target(response)
        self.dialog.refresh_routes(response)
        self.sdp = sdp or self.sdp
        if reliable:
            self._rseq = rseq
            self._agreed = self._agreed or bool(sdp)
            self._acknowledge(rseq, response.cseq.number)
        return True

    def _acknowledge(self, rseq: int, invite: int) -> None:
        headers = [("RAck", f"{rseq} {invite} INVITE"), ("User-Agent", self._endpoint.product)]
        # Whatever the PRACK is answered with: what counts is what becomes of the INVITE.
        send_challenged(
            self._endpoint.layer,
            self.dialog.next_hop,
            lambda: self.dialog.request("PRACK", self._local, headers),
            self._authenticator,
            lambda request, news: None,
        )

    def continue_in(self, dialog: Dialog, response: Response) -> Dialog:
        """Let the dialog of a 2xx go on where this one has come to, its target too where the 2xx names none."""
        dialog.remote_target = self.dialog.remote_target
        dialog.refresh_target(response)
        dialog.local_cseq = max(dialog.local_cseq, self.dialog.local_cseq)
        dialog.remote_cseq = self.dialog.remote_cseq
        return dialog

    def end(self) -> None:
        """Let go of who was to be told: it is no early dialog any more."""
        self._left, self._renegotiate = _nobody, None

    def receive(self, request: Request, source: Address) -> None:
        """Take a request of the callee's."""
        if self._endpoint.takes(request, source, self.dialog):
            self._serve(request, source)

    def _serve(self, request: Request, source: Address) -> None:
        match request.method:
            case "BYE":
                # Not what a callee may do (§15), but clear enough.
                self._endpoint.answer(request, source, 200)
                self._left()
            case "UPDATE":
                self._updated(request, source)
            case "INVITE":
                self._endpoint.answer(request, source, 491)
            case _:
                self._endpoint.answer_inside(request, source)

    def _updated(self, request: Request, source: Address) -> None:
        offer = session_description(request)
        headers = [self._contact, ("Allow", ALLOW), SUPPORTED]
        description = b""
        if offer:
            if not self._agreed:
                self._endpoint.answer(request, source, 491)
                return
            answer = self._renegotiate(offer) if self._renegotiate else None
            if answer is None:
                self._endpoint.answer(request, source, 488, headers=[not_acceptable(self._local)])
                return
            self.offer, self.description, description = offer, answer, answer
            headers.append(("Content-Type", SDP))
        self.dialog.refresh_target(request)
        self._endpoint.answer(request, source, 200, headers=headers, body=description)


def _nobody() -> None:
    """Hears of what happens in an early dialog that is over."""
