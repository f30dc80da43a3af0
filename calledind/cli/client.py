"""Asks the daemon over its administrator's socket. Plain `http.client`: a command must start fast."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

DEFAULT_SOCKETS = (Path("calledin-data/admin.sock"), Path("/var/lib/calledin/admin.sock"))
TIMEOUT = 120.0
"Seconds without a sign of the daemon."


class NotReachable(click.ClickException):
    """No daemon answers; exit code 3."""

    exit_code = 3


class Refused(click.ClickException):
    """The daemon says no; exit code 1. `status`: of its answer, 0 where it was not asked."""

    exit_code = 1

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, patience: float = TIMEOUT) -> None:
        super().__init__("localhost", timeout=patience)
        self._path = path
        self._patience = patience

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self._patience)
        self.sock.connect(os.fspath(self._path))


class Client:
    """One daemon, by the path of its socket. All methods raise `NotReachable` and `Refused`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, path: str) -> Any:
        """Return what the JSON says."""
        return self._ask("GET", path, None, "")

    def post(self, path: str, wanted: Mapping[str, object] | None = None) -> Any:
        """Return what the JSON says. `wanted`: sent as JSON."""
        body = None if wanted is None else json.dumps(wanted).encode()
        return self._ask("POST", path, body, "application/json")

    def send(self, path: str, body: bytes, content_type: str = "text/csv") -> Any:
        """Return what the JSON says. `body`: as it is, lines of text where nothing else is said."""
        return self._ask("POST", path, body, content_type)

    def stream(
        self,
        path: str,
        *,
        method: str = "GET",
        patience: float = TIMEOUT,
        begun: Callable[[Mapping[str, str]], None] = lambda headers: None,
    ) -> Iterator[bytes]:
        """Give the answer in pieces as it comes.

        `patience`: seconds without a sign of the daemon. `begun`: is told the answer's header fields.
        """
        connection = _UnixConnection(self._path, patience)
        try:
            response = self._open(connection, method, path, None, "")
            if response.status >= 400:
                raise _refusal(response.status, response.read())
            begun(response.headers)  # type: ignore[arg-type] # a Message is one, but for its name
            while piece := response.read(65536):
                yield piece
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from None
        finally:
            connection.close()

    def _ask(self, method: str, path: str, body: bytes | None, content_type: str) -> Any:
        connection = _UnixConnection(self._path)
        try:
            response = self._open(connection, method, path, body, content_type)
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from None
        finally:
            connection.close()
        if response.status >= 400:
            raise _refusal(response.status, answer)
        try:
            return json.loads(answer)
        except ValueError:
            raise NotReachable(f"{self._path}: what answers there is not calledin") from None

    def _open(
        self, connection: _UnixConnection, method: str, path: str, body: bytes | None, content_type: str
    ) -> http.client.HTTPResponse:
        headers = {"Connection": "close"}
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            connection.connect()
        except PermissionError:
            raise NotReachable(f"{self._path}: is not yours to open; run this as the daemon's user or root") from None
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NotReachable(f"{self._path}: no daemon answers there; {WHAT_TO_DO}") from None
        connection.request(method, path, body, headers)
        return connection.getresponse()

    def _lost(self, error: Exception) -> NotReachable:
        words = "it took too long to answer" if isinstance(error, TimeoutError) else str(error) or repr(error)
        return NotReachable(f"{self._path}: the daemon was lost while it was asked: {words}")


WHAT_TO_DO = "start one with `twistd -n calledin`, or say where its socket is with --socket"


def _refusal(status: int, body: bytes) -> Refused:
    try:
        words = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        words = body.decode("utf-8", "replace").strip()
    return Refused(str(words) or f"HTTP status {status}", status)


def find_socket() -> Path:
    """Return the first of the usual sockets that is there. Raises `NotReachable`."""
    for path in DEFAULT_SOCKETS:
        try:
            if path.is_socket():
                return path
        except PermissionError:
            raise NotReachable(f"{path}: is not yours to open; run this as the daemon's user or root") from None
    raise NotReachable(f"no daemon is at {' or '.join(map(str, DEFAULT_SOCKETS))}; {WHAT_TO_DO}")
