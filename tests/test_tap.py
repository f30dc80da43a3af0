# mypy: allow-untyped-calls
from __future__ import annotations

import os
import sys
import time
from io import StringIO
from pathlib import Path

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.task import Clock
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from calledind.settings.reading import SettingsError
from calledind.tap import Options, make_monotonic, makeService

TRUNK = '[[trunks]]\nname = "a"\nhost = "a.example"\n'


class OptionsCase(SynchronousTestCase):
    def parse(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def file(self, text: str) -> str:
        path = Path(self.mktemp())
        path.write_text(text)
        return str(path)


class OptionsTests(OptionsCase):
    def test_nothing(self) -> None:
        """Without a file the built-in carrier takes all calls, and nothing but this machine is involved."""
        settings = self.parse().settings()
        self.assertTrue(settings.simulator)
        self.assertEqual((settings.sip.bind, settings.rtp.bind), (("127.0.0.1:0",), "127.0.0.1"))
        self.assertEqual(settings.audio.allow_networks, ())

    def test_demo(self) -> None:
        """--demo lets MP3s and callbacks be on this machine, on any port."""
        settings = self.parse("--demo", "--data", "d", "--http", "127.0.0.1:8123").settings()
        self.assertEqual(settings.audio.allow_networks, ("127.0.0.0/8", "::1/128"))
        self.assertEqual((settings.audio.allow_ports, settings.data), ((), Path("d")))
        self.assertEqual(settings.http.listen, ("127.0.0.1:8123",))

    def test_demo_with_config(self) -> None:
        """--demo would widen what a file says: it is refused beside one."""
        error = self.assertRaises(SettingsError, self.parse("--demo", "--config", self.file(TRUNK)).settings)
        self.assertIn("--demo", str(error))

    def test_file(self) -> None:
        """The options go before the file, whose other settings stay."""
        path = self.file('data = "x"\n[http]\nlisten = ["127.0.0.1:1"]\nmax_connections = 7\n' + TRUNK)
        settings = self.parse("--config", path, "--data", "y", "--http", "[::1]:2").settings()
        self.assertEqual((settings.data, settings.http.listen), (Path("y"), ("[::1]:2",)))
        self.assertEqual((settings.http.max_connections, settings.simulator), (7, False))
        self.assertEqual([trunk.name for trunk in settings.trunks], ["a"])

    def test_file_is_found_again(self) -> None:
        """A relative path is of the folder that twistd was started in, also when it has gone elsewhere."""
        options = self.parse("--config", os.path.relpath(self.file(TRUNK)))
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir("/")
        self.assertEqual(len(options.settings().trunks), 1)

    def test_no_such_option(self) -> None:
        """An option that isn't there is a usage error."""
        self.assertRaises(UsageError, self.parse, "--nonsense")
        self.assertRaises(UsageError, self.parse, "stray")


class MakeServiceTests(OptionsCase):
    def test_settings_errors(self) -> None:
        """All that is wrong is told, a line for each, and the process ends with status 2."""
        options = self.parse("--config", self.file('nonsense = 1\n[rtp]\nbind = "here"\n'))
        errors = StringIO()
        self.patch(sys, "stderr", errors)
        self.patch(sys.modules["calledind.tap"], "make_monotonic", lambda reactor: None)
        error = self.assertRaises(SystemExit, makeService, options)
        self.assertEqual(error.code, 2)
        lines = errors.getvalue().splitlines()
        self.assertEqual(len(lines), 2)
        self.assertTrue(lines[0].startswith("calledin: nonsense: "))
        self.assertTrue(lines[1].startswith("calledin: rtp.bind: "))

    def test_no_file(self) -> None:
        """A file that is not there is such an error."""
        errors = StringIO()
        self.patch(sys, "stderr", errors)
        self.patch(sys.modules["calledind.tap"], "make_monotonic", lambda reactor: None)
        self.assertRaises(SystemExit, makeService, self.parse("--config", "/nonexistent/calledin.toml"))
        self.assertEqual(len(errors.getvalue().splitlines()), 1)


class MonotonicTests(SynchronousTestCase):
    def make(self) -> EPollReactor:
        reactor = EPollReactor()
        self.addCleanup(lambda: [reader.connectionLost(None) for reader in reactor.removeAll()])
        return reactor

    def test_a_step_moves_no_timer(self) -> None:
        """A timer is due by the monotonic clock, wherever the wall clock has gone."""
        reactor = self.make()
        make_monotonic(reactor)
        self.patch(time, "time", lambda: 0.0)
        self.assertLess(abs(reactor.seconds() - time.monotonic()), 1)
        call = reactor.callLater(60, lambda: None)
        self.assertLess(abs(call.getTime() - time.monotonic() - 60), 1)

    def test_too_late(self) -> None:
        """With timers that run by the other clock it is refused, and so is what has no timers."""
        reactor = self.make()
        reactor.callLater(1, lambda: None)
        self.assertRaises(RuntimeError, make_monotonic, reactor)
        self.assertRaises(RuntimeError, make_monotonic, object())
        busy = Clock()
        busy.callLater(1, lambda: None)
        self.assertRaises(RuntimeError, make_monotonic, busy)
