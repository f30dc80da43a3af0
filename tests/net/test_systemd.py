# mypy: allow-untyped-calls
from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from calledind.net.systemd import notify, watchdog_interval


class NotifyTests(SynchronousTestCase):
    def listen(self, address: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(listener.close)
        listener.bind(address)
        listener.setblocking(False)
        return listener

    def test_path(self) -> None:
        """The message is a datagram to the socket that systemd names."""
        folder = Path(self.mktemp())
        folder.mkdir()
        path = os.path.relpath(folder / "notify")
        listener = self.listen(path)
        notify("READY=1", environment={"NOTIFY_SOCKET": path})
        self.assertEqual(listener.recv(100), b"READY=1")

    def test_abstract(self) -> None:
        """A name that begins with @ is not in the file system."""
        name = f"calledin-test-{secrets.token_hex(8)}"
        listener = self.listen(f"\0{name}")
        notify("STOPPING=1", environment={"NOTIFY_SOCKET": f"@{name}"})
        self.assertEqual(listener.recv(100), b"STOPPING=1")

    def test_nobody(self) -> None:
        """Without systemd nothing happens, and a systemd that does not listen stops nobody."""
        notify("READY=1", environment={})
        notify("READY=1", environment={"NOTIFY_SOCKET": "/nonexistent/notify"})
        self.assertEqual(self.flushLoggedErrors(), [])


class WatchdogTests(SynchronousTestCase):
    def test_interval(self) -> None:
        """Half of what systemd waits for."""
        self.assertEqual(watchdog_interval(environment={"WATCHDOG_USEC": "30000000"}), 15.0)
        mine = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
        self.assertEqual(watchdog_interval(environment=mine), 15.0)

    def test_not_watched(self) -> None:
        """Nobody is fed who does not watch, watches another process, or says nonsense."""
        others = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}
        for environment in ({}, others, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "-5"}):
            self.assertIsNone(watchdog_interval(environment=environment), environment)
