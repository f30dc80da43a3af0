"""Requests that may be challenged: sent, and sent again with an answer, until that is of no use (RFC 3261 §22).

Of a dialog's requests BYE, re-INVITE, UPDATE and PRACK are such, outside of any REGISTER and OPTIONS; ACK and
CANCEL can't be challenged (§22.1). They share the dialog's `Authenticator`, so that a nonce which served the INVITE
serves the others as well, and what is answered once isn't asked for again.
"""

from __future__ import annotations

from collections.abc import Callable

from calledind.model import Address
from calledind.sip.auth import Authenticator
from calledind.sip.client import ClientTransaction, TransactionFailure
from calledind.sip.message import Request, Response
from calledind.sip.transactions import TransactionLayer

Report = Callable[[Request, Response | TransactionFailure], None]
"Hears what each try was and what came of it, but for the challenges that are answered."


def _always() -> bool:
    return True


def send_challenged(
    layer: TransactionLayer,
    target: Address,
    make: Callable[[], Request],
    authenticator: Authenticator | None,
    report: Report,
    *,
    wanted: Callable[[], bool] = _always,
) -> ChallengedRequest:
    """Send a request, and again with an answer where it is challenged.

    `make` builds the request without credentials, for each try anew: a branch of its own, CSeq one higher.
    `authenticator` None answers nothing. `wanted` tells, when a challenge comes, whether to go on at all.
    """
    return ChallengedRequest(layer, target, make, authenticator, report, wanted)


class ChallengedRequest:
    """The tries of one request; made by `send_challenged`."""

    def __init__(
        self,
        layer: TransactionLayer,
        target: Address,
        make: Callable[[], Request],
        authenticator: Authenticator | None,
        report: Report,
        wanted: Callable[[], bool],
    ) -> None:
        self._layer = layer
        self._target = target
        self._make = make
        self._authenticator = authenticator
        self._report = report
        self._wanted = wanted
        self._transaction = self._send(None)

    def abandon(self) -> None:
        """Send it no more, whatever was heard, and report nothing."""
        self._report = lambda request, news: None
        self._wanted = lambda: False
        self._transaction.terminate()

    def _send(self, credentials: list[tuple[str, str]] | None) -> ClientTransaction:
        request = self._make()
        method, uri, body = request.method, request.uri, request.body
        known = self._authenticator
        if credentials is None:
            credentials = known.authorization(method, uri, body) if known else []
        if credentials:
            request = Request(method, uri, [*request.headers, *credentials], body)

        def heard(news: Response | TransactionFailure) -> None:
            again = None
            if isinstance(news, Response) and known is not None:
                if 200 <= news.status < 300:
                    known.learn(news)
                elif self._wanted():
                    again = known.answer(news, method=method, uri=uri, body=body)
            if again is None:
                self._report(request, news)
            else:
                self._transaction = self._send(again)

        return self._layer.request(request, self._target, heard)
