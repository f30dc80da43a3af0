"""Requests that belong to no call of ours, answered as RFC 3261 §8.2 says, in its order.

Inside a dialog one is more patient: no call is lost over a header that nobody needs.
"""

from __future__ import annotations

from calledind.model import Address
from calledind.sip.body import SDP, admits_sdp
from calledind.sip.endpoint import ALLOW, Endpoint
from calledind.sip.grammar import ParseError
from calledind.sip.message import Request


class Outside(Endpoint):
    """Answers what comes from a trunk outside of calls."""

    def answer_cancel(self, cancel: Request, source: Address, to_tag: str = "") -> bool:
        """Answer a CANCEL; whether there is an INVITE that it is meant for (§9.2)."""
        known = self.layer.cancelled(cancel) is not None
        self.answer(cancel, source, 200 if known else 481, to_tag=to_tag)
        return known

    def answer_request(self, request: Request, source: Address) -> None:
        """Answer any but a CANCEL: OPTIONS with what we can do, an INVITE with 403, for we take no calls."""
        if request.to.tag is not None:
            self.answer(request, source, 481)
        elif request.method not in ("INVITE", "OPTIONS"):
            self.answer_other(request, source)
        elif self._is_readable(request, source) and self.capable(request, source):
            if request.method == "OPTIONS":
                self.answer_options(request, source)
            elif not admits_sdp(request):
                self.answer(request, source, 406, headers=[("Accept", SDP)])
            else:
                self.answer(request, source, 403, headers=[("Allow", ALLOW)])

    def _is_readable(self, request: Request, source: Address) -> bool:
        "Whether the URIs that we would have to use make sense; else it is answered with 400, or 416 (§8.2.2.1)."
        try:
            _ = request.request_uri, request.contacts, request.route, request.record_route
        except ParseError as error:
            self.answer(request, source, error.status, str(error) if error.status == 400 else None)
            return False
        return True
