"""Telling systemd how we are: sd_notify(3), without its library."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from twisted.logger import Logger

log = Logger()


def notify(message: str, *, environment: Mapping[str, str] = os.environ) -> None:
    """Send such as "READY=1" to $NOTIFY_SOCKET; without one, nothing is done."""
    path = environment.get("NOTIFY_SOCKET")
    if not path:
        return
    if path.startswith("@"):
        path = "\0" + path[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(message.encode(), path)
    except OSError as error:
        log.warn("systemd could not be told {message}: {error}", message=message, error=error)


def watchdog_interval(*, environment: Mapping[str, str] = os.environ) -> float | None:
    """Return the seconds between two "WATCHDOG=1", half of what systemd waits for; None: it does not wait."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    owner = environment.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdigit() or int(microseconds) == 0 or owner != str(os.getpid()):
        return None
    return int(microseconds) / 2_000_000
