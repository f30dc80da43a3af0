# mypy: allow-untyped-calls
"""Plain and short: how every face of the daemon puts words into a response."""

from __future__ import annotations

import secrets

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource

TEXT = b"text/plain; charset=utf-8"


def respond(request: Request, status: int, words: str, *, retry_after: int | None = None) -> bytes:
    """Set status and headers for a line of text; returns the body."""
    body = words.encode() + b"\n"
    request.setResponseCode(status)
    request.setHeader(b"content-type", TEXT)
    request.setHeader(b"content-length", b"%d" % len(body))
    request.setHeader(b"cache-control", b"no-store")
    if retry_after is not None:
        request.setHeader(b"retry-after", b"%d" % retry_after)
    return body


def report_incident(log: Logger, failure: Failure, where: str) -> str:
    """Log a failure nobody expected; returns the id by which the client's report and the log line find together."""
    incident = secrets.token_hex(6)
    log.failure("incident {incident} in {where}", failure, incident=incident, where=where)
    return incident


class Words(Resource):
    """A page of one line, for every path below it as well."""

    isLeaf = True

    def __init__(self, status: int, words: str) -> None:
        super().__init__()
        self._status = status
        self._words = words

    def render_GET(self, request: Request) -> bytes:
        return respond(request, self._status, self._words)


class Folder(Resource):
    """Holds other resources, and has no page of its own."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        return Words(404, "there is nothing here; calls are made by GET /api/playback/")

    def render_GET(self, request: Request) -> bytes:
        return respond(request, 404, "there is nothing here; calls are made by GET /api/playback/")
