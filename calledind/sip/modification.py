"""Changing or refreshing a session from our side: a re-INVITE (RFC 3261 §14.1) or UPDATE (RFC 3311), to its last word.

Where both sides offer something at once, each refuses the other's (491) and asks again later, whoever made the
Call-ID after 2.1 to 4 s, the other one after 0 to 2 s: so they don't meet again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from calledind.model import Address
from calledind.sip.auth import Authenticator, credentials_of
from calledind.sip.challenged import ChallengedRequest, send_challenged
from calledind.sip.client import TransactionFailure
from calledind.sip.dialog import Dialog
from calledind.sip.message import Request, Response
from calledind.sip.timers import TimerSet
from calledind.sip.transactions import TransactionLayer

MOST_ACKS: Final = 64
"""Times that a 2xx is acknowledged. It comes eleven times within 64*T1; who answers an ACK by the 2xx once more would
go on for ever."""
MOST_GLARES: Final = 5
"Times that a 491 is met with patience."


class Modification:
    """One request of ours inside a confirmed dialog, repeated where it met one of the peer's."""

    def __init__(
        self,
        layer: TransactionLayer,
        dialog: Dialog,
        local: Address,
        authenticator: Authenticator | None,
        make: Callable[[], Request],
        *,
        offers: bool,
        may_begin: Callable[[], bool],
        wanted: Callable[[], bool],
        done: Callable[[Response | TransactionFailure], None],
    ) -> None:
        """`make` builds the request, for each try anew; `offers`: it has an offer in it. `may_begin`: no other offer
        is open. `wanted`: the dialog isn't over. `done` hears the final response, or that there is none, once; but
        never where the dialog ends before."""
        self.is_open = False
        "Sent, and without a final response yet."
        self.is_over = False
        "Its last word was said."
        self._layer = layer
        self._dialog = dialog
        self._local = local
        self._authenticator = authenticator
        self._make = make
        self._offers = offers
        self._may_begin = may_begin
        self._wanted = wanted
        self._done = done
        self._glares = 0
        self._ack = b""
        self._acks = 0
        self._timers = TimerSet(layer.timers)
        self._request: ChallengedRequest | None = None

    def begin(self) -> None:
        """Send it, or wait until the peer's own offer is settled."""
        if not self._may_begin():
            self._wait()
            return
        self.is_open = True
        self._request = send_challenged(
            self._layer, self._dialog.next_hop, self._make, self._authenticator, self._heard, wanted=self._wanted
        )

    @property
    def has_open_offer(self) -> bool:
        """Whether the peer's offers have to wait."""
        return self.is_open and self._offers

    def stop(self) -> None:
        """Don't ask again: the dialog is ending. A re-INVITE that has had a 100 waits for its final response without
        end, so it is forgotten after 64*T1 unless that comes."""
        self._timers.stop_all()
        if self.is_open and self._request is not None:
            self._timers.start("forgotten", self._layer.intervals.timeout, self._request.abandon)

    def _heard(self, request: Request, news: Response | TransactionFailure) -> None:
        if isinstance(news, Response):
            if news.status < 200:
                return
            if news.status < 300:
                self._succeeded(request, news)
            if not self.is_open:
                return  # the same 2xx again
        self.is_open = False
        self._request = None  # it knows this one: apart, neither waits for the collector
        self._timers.stop_all()
        if isinstance(news, Response) and news.status == 491 and self._glares < MOST_GLARES and self._wanted():
            self._wait()
        else:
            self.is_over = True
            if self._wanted():
                self._done(news)

    def _wait(self) -> None:
        self._glares += 1
        # The INVITE of who made the Call-ID has a branch in the dialog (§14.1).
        shortest, longest = (2.1, 4.0) if self._dialog.invite_branch else (0.0, 2.0)
        self._timers.start("glare", random.uniform(shortest, longest), self.begin)  # noqa: S311

    def _succeeded(self, request: Request, response: Response) -> None:
        if self.is_open:
            self._dialog.refresh_target(response)  # both methods do so (§12.2.1.2, RFC 3311 §4)
        if request.method != "INVITE":
            return
        if not self._ack:
            self._dialog.invite_cseq = request.cseq.number
            self._ack = bytes(self._dialog.request("ACK", self._local, credentials_of(request)))
        self._acks += 1
        if self._acks <= MOST_ACKS:
            self._layer.try_transmit(self._ack, self._dialog.next_hop)
