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


def _always() -> bool:
    return True


def send_challenged(
    layer: TransactionLayer,
    target: Address,
    make: Callable[[], Request],
    authenticator: Authenticator | None,
    report: Callable[[Request, Response | TransactionFailure], None],
    *,
    wanted: Callable[[], bool] = _always,
) -> ClientTransaction:
    """Send a request. `report` hears what each try was and what came of it, but for the challenges that are answered.

    `make` builds the request without credentials, for each try anew: a branch of its own, CSeq one higher.
    `authenticator` None answers nothing. `wanted` tells, when a challenge comes, whether to go on at all. Returns
    the first try's transaction.
    """

    def send(credentials: list[tuple[str, str]] | None) -> ClientTransaction:
        request = make()
        method, uri, body = request.method, request.uri, request.body
        if credentials is None:
            credentials = authenticator.authorization(method, uri, body) if authenticator else []
        if credentials:
            request = Request(method, uri, [*request.headers, *credentials], body)

        def heard(news: Response | TransactionFailure) -> None:
            again = None
            if isinstance(news, Response) and authenticator is not None:
                if 200 <= news.status < 300:
                    authenticator.learn(news)
                elif wanted():
                    again = authenticator.answer(news, method=method, uri=uri, body=body)
            if again is None:
                report(request, news)
            else:
                send(again)

        return layer.request(request, target, heard)

    return send(None)
