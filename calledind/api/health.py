# mypy: allow-untyped-calls
"""Is the daemon alive, and should it be given work? For load balancers and supervisors."""

from __future__ import annotations

from collections.abc import Callable

from twisted.web.http import Request
from twisted.web.resource import Resource

from calledind.api.answers import respond


class Alive(Resource):
    """GET /healthz: 200 for as long as the reactor turns."""

    isLeaf = True

    def __init__(self, *, simulator: bool) -> None:
        super().__init__()
        self._words = "ok (simulator: nobody's phone rings)" if simulator else "ok"

    def render_GET(self, request: Request) -> bytes:
        return respond(request, 200, self._words)


class Ready(Resource):
    """GET /readyz: 200, or 503 with the words of what is missing.

    `obstacle` answers None when calls can be taken, else says why not.
    """

    isLeaf = True

    def __init__(self, obstacle: Callable[[], str | None]) -> None:
        super().__init__()
        self._obstacle = obstacle

    def render_GET(self, request: Request) -> bytes:
        words = self._obstacle()
        if words is None:
            return respond(request, 200, "ready")
        return respond(request, 503, f"not ready: {words}", retry_after=5)
