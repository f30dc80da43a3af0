# mypy: allow-untyped-calls
from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from calledind.admission import Unavailable
from calledind.net import systemd
from calledind.service.daemon import Daemon
from calledind.settings.tables import Settings
from calledind.store.embedded import EmbeddedStore
from tests.service.recorder import Lines, Recorder

TWISTD = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"


class DaemonCase(SynchronousTestCase):
    """A daemon whose parts are recorders."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.settings = Settings(simulator=True)
        self.daemon = Daemon(self.clock, self.settings, load=lambda: self.settings)
        self.drained: Deferred[None] = Deferred()
        self.dialer = Recorder(drain=lambda: self.drained)
        self.reload = Recorder()
        parts = {"dialer": self.dialer, "settlement": Recorder(when_idle=lambda: succeed(None)), "reload": self.reload}
        for name, part in parts.items():
            setattr(self.daemon, f"_{name}", part)
        self.daemon._started = True
        self.lines: list[str] = []
        setattr(self.daemon, "log", Lines(self.lines))  # noqa: B010 - the class says Logger


class SignalTests(DaemonCase):
    def test_read_again(self) -> None:
        """SIGHUP has the settings read again, but for a daemon that starts or stops."""
        self.daemon._read_again()
        self.assertEqual((self.reload.calls, self.lines), ([("read_again",)], []))
        self.daemon._stopping = "calledin is shutting down"
        self.daemon._read_again()
        self.daemon._started, self.daemon._stopping = False, ""
        self.daemon._read_again()
        self.assertEqual((len(self.reload.calls), len(self.lines)), (1, 2))

    def test_reload_with_a_bug(self) -> None:
        """Systemd hears that a reload is over, also where it met an error of our own; the log has that."""
        told: list[str] = []
        self.patch(systemd, "notify", told.append)
        setattr(self.daemon, "_reload", Recorder(read_again=lambda: 1 // 0))  # noqa: B010 - it has another type
        self.daemon._read_again()
        self.assertEqual(told, ["RELOADING=1", "READY=1"])
        self.assertIn("error of our own", self.lines[0])


class StopTests(DaemonCase):
    def test_drained(self) -> None:
        """Running calls finish, and no timer stays behind."""
        stopping = Deferred.fromCoroutine(self.daemon._drain())
        self.assertNoResult(stopping)
        self.drained.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertNotIn(("hang_up_all",), self.dialer.calls)

    def test_out_of_time(self) -> None:
        """After drain_timeout they are hung up, and who does not confirm that in some seconds is left."""
        stopping = Deferred.fromCoroutine(self.daemon._drain())
        self.clock.advance(self.settings.calls.drain_timeout)
        self.assertEqual(self.dialer.calls[-1], ("hang_up_all",))
        self.assertNoResult(stopping)
        self.clock.advance(5)
        self.successResultOf(stopping)

    def test_second_signal(self) -> None:
        """The second SIGTERM hangs up at once; a third changes nothing more."""
        self.daemon._stopping = "calledin is shutting down"
        stopping = Deferred.fromCoroutine(self.daemon._drain())
        self.daemon._terminate()
        self.daemon._terminate()
        self.assertEqual(self.dialer.calls.count(("hang_up_all",)), 1)
        self.clock.advance(5)
        self.successResultOf(stopping)

    def test_no_new_work(self) -> None:
        """While it starts or stops it says why it takes no work."""
        self.daemon._stopping = "calledin is shutting down"
        obstacle = self.daemon._obstacle()
        assert isinstance(obstacle, Unavailable)
        self.assertEqual(obstacle.words, "calledin is shutting down")


class FailingStartTests(TestCase):
    """A start that fails says so in one line, without a traceback, and ends with status 1."""

    def run_daemon(self, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-c", TWISTD, "-n", "--pidfile=", "calledin", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr

    def failed(self, *arguments: str) -> list[str]:
        """Return the lines that say why it can't start."""
        status, output = self.run_daemon(*arguments)
        self.assertEqual(status, 1, output)
        self.assertNotIn("Traceback", output)
        return [line for line in output.splitlines() if "can't start" in line]

    def check(self, words: str, *arguments: str) -> None:
        [line] = self.failed(*arguments)
        self.assertIn(words, line)

    def test_data_folder(self) -> None:
        """The data folder can't be made."""
        file = Path(self.mktemp())
        file.write_text("")
        self.check(f"data: the folder {file / 'data'}", "--data", str(file / "data"), "--http", "127.0.0.1:0")

    def test_port_taken(self) -> None:
        """The port is somebody else's."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            address = f"127.0.0.1:{other.getsockname()[1]}"
            self.check(f"{address} can't be listened on", "--data", self.mktemp(), "--http", address)

    def test_certificate(self) -> None:
        """The certificate is none."""
        broken = Path(self.mktemp()).absolute()
        broken.write_text("nonsense")
        config = Path(self.mktemp())
        config.write_text(
            f'simulator = true\ndata = "{self.mktemp()}"\n[sip]\nbind = ["127.0.0.1:0"]\n'
            f'[http]\nlisten = ["127.0.0.1:0"]\ntls_listen = ["127.0.0.1:0"]\n'
            f'certificate = "{broken}"\nprivate_key = "{broken}"\n'
        )
        self.check(str(broken), "--config", str(config))

    def test_second_daemon(self) -> Deferred[None]:
        """Another process has the data folder."""
        data = Path(self.mktemp())
        (data / "store").mkdir(parents=True)
        store = EmbeddedStore(reactor, data / "store")  # type: ignore[arg-type]

        def opened(_: object) -> Deferred[None]:
            self.check("stop that one first", "--data", str(data), "--http", "127.0.0.1:0")
            return store.close()

        return store.open().addCallback(opened)

    def test_files(self) -> None:
        """Of several files that can't be read, each has its line."""
        config = Path(self.mktemp())
        config.write_text(
            f'data = "{self.mktemp()}"\n[http]\ntls_listen = ["127.0.0.1:0"]\n'
            'certificate = "/nowhere/web.pem"\nprivate_key = "/nowhere/web.key"\n'
            '[stir]\nprivate_key = "/nowhere/stir"\ncertificate_url = "https://a.example/stir.pem"\n'
            '[[trunks]]\nname = "a"\nhost = "a.example"\npassword_file = "/nowhere/password"\n'
            'transport = "tls"\ntls_ca = "/nowhere/ca"\n'
        )
        lines = self.failed("--config", str(config))
        for name, line in zip(("stir", "password", "ca", "web.pem"), lines, strict=True):
            self.assertIn(f"/nowhere/{name}", line)
