# mypy: allow-untyped-calls
"""GET /metrics, for those networks that may see it.

Not prometheus-client's own resource, which is WSGI in the reactor's threads.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from twisted.web.resource import Resource
from twisted.web.server import Request

FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")
"Headers of a request that a proxy brings: whose it is can't be told by its address, which is the proxy's."


def expose(registry: CollectorRegistry, request: Request) -> bytes:
    """Set the headers of all figures in the format that the client asks for; returns the body."""
    encode, content_type = choose_encoder((request.getHeader(b"accept") or b"").decode("latin-1"))
    body = encode(registry)
    request.setHeader(b"content-type", content_type.encode())
    request.setHeader(b"content-length", b"%d" % len(body))
    request.setHeader(b"cache-control", b"no-store")
    return body


class Exposition(Resource):
    """Shows the figures to clients of these networks, and to no proxy's."""

    isLeaf = True

    def __init__(self, registry: CollectorRegistry, networks: Sequence[str]) -> None:
        super().__init__()
        self._registry = registry
        self._networks = [ipaddress.ip_network(each) for each in networks]

    def render_GET(self, request: Request) -> bytes:
        if not self._may(request):
            return _refuse(request, 403, b"the figures are for the networks of [metrics] allow_networks\n")
        if request.postpath not in ([], [b""]):
            return _refuse(request, 404, b"there is nothing here; the figures are at /metrics\n")
        return expose(self._registry, request)

    def _may(self, request: Request) -> bool:
        if any(request.requestHeaders.hasHeader(name) for name in FORWARDED):
            return False
        try:
            address = ipaddress.ip_address(str(getattr(request.client, "host", "")).partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)


def _refuse(request: Request, status: int, body: bytes) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"text/plain; charset=utf-8")
    request.setHeader(b"content-length", b"%d" % len(body))
    request.setHeader(b"cache-control", b"no-store")
    return body
