# mypy: allow-untyped-calls
from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from calledind.net.systemd import first_environment, listening_sockets, notify, watchdog_interval


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


class ListeningTests(SynchronousTestCase):
    def test_environment(self) -> None:
        """What this process was started with is known, whatever became of it since."""
        self.assertEqual(first_environment().get("PATH"), os.environ.get("PATH"))

    def test_nobody(self) -> None:
        """Without systemd there are none, and those of another process are not ours."""
        for environment in ({}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": str(os.getpid())}):
            self.assertEqual(listening_sockets(environment=environment), ())

    def test_handed_over(self) -> None:
        """Each socket has its name, and what is no socket is left out."""
        program = (
            "import os, socket\n"
            "from calledind.net.systemd import listening_sockets\n"
            "a, b = socket.create_server(('127.0.0.1', 0)), socket.create_server(('127.0.0.1', 0))\n"
            "null = os.open('/dev/null', os.O_RDONLY)\n"
            "high = [os.dup2(each, 100 + index) for index, each in enumerate((a.fileno(), null, b.fileno()))]\n"
            "for index, each in enumerate(high): os.dup2(each, 3 + index)\n"
            "environment = {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '3', 'LISTEN_FDNAMES': 'http:null'}\n"
            "for name, found in listening_sockets(environment=environment):\n"
            "    print(repr(name), found.fileno(), found.getblocking(), found.get_inheritable(), flush=True)\n"
            "os._exit(0)\n"
        )
        said = subprocess.check_output([sys.executable, "-c", program], text=True, stderr=subprocess.DEVNULL)
        self.assertEqual(said, "'http' 3 False False\n'' 5 False False\n")
