"""Telling systemd how we are, and taking the sockets it opened: sd_notify(3), sd_listen_fds(3), without its library."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

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


FIRST_SOCKET = 3
"File descriptor of the first that systemd hands over (SD_LISTEN_FDS_START)."


def listening_sockets(*, environment: Mapping[str, str] | None = None) -> tuple[tuple[str, socket.socket], ...]:
    """Return the sockets that systemd listens with for us, each with its name (FileDescriptorName=), "" without one."""
    if environment is None:
        environment = first_environment()
    count, names = environment.get("LISTEN_FDS", ""), environment.get("LISTEN_FDNAMES", "").split(":")
    if environment.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit():
        return ()
    found = []
    for index in range(int(count)):
        try:
            os.set_inheritable(FIRST_SOCKET + index, False)
            opened = socket.socket(fileno=FIRST_SOCKET + index)
        except OSError as error:
            log.warn("systemd handed over what is no socket: {error}", error=error)
            continue
        opened.setblocking(False)
        found.append((names[index] if index < len(names) else "", opened))
    return tuple(found)


def first_environment() -> Mapping[str, str]:
    """Return what this process was started with (proc(5)).

    Twisted takes what says of sockets out of the environment as soon as its endpoints are imported, and of
    several with one name it knows the last alone.
    """
    try:
        text = Path("/proc/self/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)
