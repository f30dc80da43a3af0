# mypy: allow-untyped-calls
"""What an accepted call is compared with: a bare `twisted.web` that answers b"0" and does nothing else.

    python -m tests.benchmarks.bare PORT

A Site with one Resource at /api/playback/, its own access log formatted and written nowhere, nothing durable.
"""

from __future__ import annotations

import sys

from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Request, Site


class Zero(Resource):
    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"content-type", b"text/plain")
        return b"0"


def main(port: int) -> None:
    root, api = Resource(), Resource()
    root.putChild(b"api", api)
    api.putChild(b"playback", Zero())
    reactor.listenTCP(port, Site(root), interface="127.0.0.1")  # type: ignore[arg-type]
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
