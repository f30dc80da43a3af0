"""The ports that requests and operators come in by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError

from calledind.api import admin, tls
from calledind.api.site import Site
from calledind.service.errors import StartFailed
from calledind.settings import parse_address

BACKLOG = 1024
"Connections that wait to be accepted; one more waits for a second, until its client tries again."


class Ports:
    """All that were opened, until they are closed."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._open: list[Any] = []

    def listen(self, addresses: Sequence[str], site: Site) -> None:
        """HTTP at each "HOST:PORT". Raises StartFailed."""
        for text in addresses:
            self._listen(text, lambda port, host: self._reactor.listenTCP(port, site, BACKLOG, host))

    def listen_tls(self, addresses: Sequence[str], site: Site, context: tls.ServerContext) -> None:
        """HTTPS at each "HOST:PORT". Raises StartFailed."""
        for text in addresses:
            self._listen(text, lambda port, host: self._reactor.listenSSL(port, site, context, BACKLOG, host))

    def listen_for_operators(self, path: Path, operators: admin.Admin) -> None:
        """The socket at `path`, in a folder that is nobody else's. Raises SocketError and OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open.append(admin.listen(self._reactor, path, admin.admin_site(operators, reactor=self._reactor)))

    async def close(self) -> None:
        for port in self._open:
            await maybeDeferred(port.stopListening)

    def _listen(self, text: str, listen: Callable[[int, str], Any]) -> None:
        host, port = parse_address(text)
        try:
            self._open.append(listen(port, host))
        except CannotListenError as error:
            raise StartFailed(f"http: {text} can't be listened on: {error.socketError}") from None
