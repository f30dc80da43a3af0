# mypy: allow-untyped-calls
from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import attrs
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from calledind.admission import Unavailable
from calledind.api.tls import ServerContext, self_signed
from calledind.model import Attempt, Call, CallRecord, Cause, Ending, State
from calledind.service import (
    Daemon,
    StartFailed,
    changed_settings,
    read_pepper,
    reasons,
    with_passwords,
)
from calledind.settings import Calls, Http, Regions, Settings, SettingsError, Stir, Trunk
from calledind.store.embedded import EmbeddedStore
from tests.dialing.world import make_call

TWISTD = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
A_TRUNK = Trunk(name="a", host="a.example", username="u", password="p", reasons={"403": 8})


class Recorder:
    """Notes each method called on it, with its arguments."""

    def __init__(self, **answers: Callable[..., Any]) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._answers = answers

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            return self._answers[name](*arguments) if name in self._answers else None

        return call


class Lines:
    """A logger that keeps what it was told."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def info(self, text: str, **values: Any) -> None:
        self._lines.append(text.format(**values))

    warn = error = critical = info


class DaemonCase(SynchronousTestCase):
    """A daemon whose parts are recorders."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.records: list[CallRecord] = []
        self.settings = Settings(trunks=(A_TRUNK,))
        self.daemon = Daemon(self.clock, self.settings, reload=lambda: self.settings)
        self.user_agent = Recorder()
        self.library = Recorder()
        self.dialer = Recorder(drain=self._drain)
        self.settlement = Recorder(when_idle=lambda: succeed(None))
        setattr(self.settlement, "trunk_reasons", {})  # noqa: B010
        self.signalling, self.admission = Recorder(), Recorder()
        setattr(self.signalling, "user_agent", self.user_agent)  # noqa: B010 - recorders have all attributes
        self.drained: Deferred[None] = Deferred()
        self.lines: list[str] = []
        store = Recorder(unfinished=lambda: succeed(self.records))
        registrations = Recorder()
        setattr(registrations, "by_route", ())  # noqa: B010
        parts = {"store": store, "library": self.library, "dialer": self.dialer, "settlement": self.settlement}
        parts |= {"signalling": self.signalling, "admission": self.admission, "registrations": registrations}
        for name, part in parts.items():
            setattr(self.daemon, f"_{name}", part)
        self.daemon._trunks = (A_TRUNK,)
        self.daemon._now = lambda: 1_800_000_100.0
        self.daemon._started = True
        setattr(self.daemon, "log", Lines(self.lines))  # noqa: B010 - the class says Logger

    def _drain(self) -> Deferred[None]:
        return self.drained


class RecoveryTests(DaemonCase):
    def recover(self, *records: CallRecord) -> list[tuple[Call, Ending]]:
        self.records = list(records)
        self.successResultOf(Deferred.fromCoroutine(self.daemon._recover()))
        return [(call, ending) for _, call, ending in self.settlement.calls]

    def test_young(self) -> None:
        """A call that waited is dialled, with its audio pinned."""
        call = make_call(accepted_at=1_800_000_000.0)
        self.assertEqual(self.recover(CallRecord(call, State.ACCEPTED)), [])
        self.assertEqual(self.dialer.calls, [("add", call)])
        self.assertEqual(self.library.calls, [("pin", call.audio)])

    def test_too_old(self) -> None:
        """One that waited longer than queue_ttl is not; it has expired."""
        call = make_call(accepted_at=1_800_000_100.0 - 301)
        ((_, ending),) = self.recover(CallRecord(call, State.ACCEPTED))
        self.assertEqual((ending.cause, ending.answered, self.dialer.calls), (Cause.EXPIRED, False, []))

    def test_audio_gone(self) -> None:
        """Nor is one whose audio is gone."""

        def pin(name: str) -> None:
            raise KeyError(name)

        self.library._answers["pin"] = pin
        ((_, ending),) = self.recover(CallRecord(make_call(), State.ACCEPTED))
        self.assertEqual((ending.cause, self.dialer.calls), (Cause.MEDIA_FAILED, []))

    def test_dialing(self) -> None:
        """A call that was being dialled is cancelled, never dialled again."""
        record = CallRecord(make_call(), State.DIALING, Attempt(2, "a", "{snapshot}"))
        ((_, ending),) = self.recover(record)
        self.assertEqual(self.user_agent.calls[0][:2], ("recover_invitation", "{snapshot}"))
        self.assertEqual((ending.cause, ending.answered, ending.trunk), (Cause.INTERRUPTED, False, "a"))
        self.assertEqual(self.dialer.calls, [])

    def test_answered(self) -> None:
        """A call that was playing is hung up, with the trunk's credentials, and was answered."""
        record = CallRecord(make_call(), State.ANSWERED, Attempt(1, "a", "{}"), "{dialog}", 1_800_000_050.0)
        ((_, ending),) = self.recover(record)
        name, dialog, _, credentials = self.user_agent.calls[0]
        self.assertEqual((name, dialog, credentials.password), ("recover_dialog", "{dialog}", "p"))
        self.assertEqual((ending.cause, ending.answered), (Cause.INTERRUPTED, True))
        self.assertEqual((ending.answered_at, ending.sip_status), (1_800_000_050.0, 200))

    def test_unreadable(self) -> None:
        """What can't be read any more keeps neither that call from its outcome nor the others from theirs."""

        def unreadable(*_: object) -> None:
            raise ValueError("not a snapshot")

        self.user_agent._answers.update(recover_invitation=unreadable, recover_dialog=unreadable)
        attempt = Attempt(1, "a", "nonsense")
        endings = self.recover(
            CallRecord(make_call("1"), State.DIALING, attempt),
            CallRecord(make_call("2"), State.DIALING),
            CallRecord(make_call("3"), State.ANSWERED, attempt, "nonsense"),
            CallRecord(make_call("4"), State.ANSWERED, attempt),
        )
        self.assertEqual([ending.answered for _, ending in endings], [False, False, True, True])


class ReloadTests(DaemonCase):
    def reload(self, **changes: Any) -> None:
        self.settings = attrs.evolve(self.settings, **changes)
        self.daemon._read_again()

    def test_live(self) -> None:
        """Regions, calls and trunks are in force at once, wherever they are used."""
        other = Trunk(name="b", host="b.example", reasons={"404": 5})
        regions, calls = Regions(countries=("44",)), Calls(ring_timeout=9.0, charge="accepted", max_queued=3)
        self.reload(regions=regions, calls=calls, trunks=(A_TRUNK, other))
        self.assertIn(("use_regions", regions), self.admission.calls)
        self.assertEqual(self.dialer.calls, [("replace", calls, (A_TRUNK, other))])
        trunks = (A_TRUNK, other)
        self.assertEqual(self.signalling.calls, [("prepare", trunks), ("use_trunks", trunks)])
        self.assertEqual(self.library.calls, [("use_codecs", {"PCMU", "PCMA"})])
        settlement: Any = self.settlement
        self.assertEqual(settlement.trunk_reasons, {"a": {"403": 8}, "b": {"404": 5}})
        self.assertEqual(settlement.charge_accepted, True)
        self.settings = attrs.evolve(self.settings, trunks=(attrs.evolve(other, reasons={}),))
        self.daemon._read_again()
        # What a trunk meant by a status still counts for its last calls.
        self.assertEqual(settlement.trunk_reasons, {"a": {"403": 8}, "b": {}})
        del self.lines[1:]
        for name in ("regions.countries", "calls.ring_timeout", "trunks"):
            self.assertIn(name, self.lines[0])
        self.assertEqual(len(self.lines), 1)

    def test_restart_needed(self) -> None:
        """What only a start can bring is named, and left as it was."""
        self.reload(http=Http(listen=("127.0.0.1:1",), max_connections=3), data=Path("elsewhere"))
        self.assertIn("restart", self.lines[1])
        for name in ("http.listen", "http.max_connections", "data"):
            self.assertIn(name, self.lines[1])
        self.assertEqual(self.daemon._settings.http, Http())

    def test_all_or_nothing(self) -> None:
        """With one mistake in the file nothing changes; each mistake is a line."""

        def wrong() -> Settings:
            raise SettingsError(["regions: wrong", "calls: wrong"])

        self.daemon._reload = wrong
        self.daemon._read_again()
        self.assertEqual(len(self.lines), 2)
        self.assertEqual((self.admission.calls, self.dialer.calls), ([], []))

    def test_files(self) -> None:
        """Of files that can't be used each is a line, and all stays as it was."""

        def prepare(trunks: object) -> None:
            raise OSError("trunks: b: ca\ntrunks: c: key")

        self.daemon._signalling = cast(Any, Recorder(prepare=prepare))
        self.daemon._context = ServerContext(cast(Any, None))
        stir = Stir(private_key=Path("nowhere/stir.key"), certificate_url="https://example.com/c.pem")
        lost = [attrs.evolve(A_TRUNK, name=name, password_file=Path(f"nowhere/{name}")) for name in "bc"]
        http = Http(certificate=Path("nowhere/https.crt"), private_key=Path("nowhere/https.key"))
        self.reload(http=http, stir=stir, trunks=tuple(lost), regions=Regions(countries=("44",)))
        for words in ("stir.key", "https.crt", "nowhere/b", "nowhere/c", "trunks: b: ca", "trunks: c: key"):
            self.assertEqual(len([line for line in self.lines if words in line]), 1, self.lines)
        self.assertEqual((len(self.lines), self.admission.calls, self.dialer.calls), (6, [], []))
        self.assertEqual((self.daemon._settings.http, self.daemon._trunks), (Http(), (A_TRUNK,)))

    def test_https_certificate(self) -> None:
        """Other files for HTTPS are in force at once, and known from then on; other settings beside them are not."""
        context: Any = ServerContext(cast(Any, None))
        self.daemon._context = context
        certificate, key = self_signed(Path(self.mktemp()), 1_800_000_000.0)
        self.reload(http=Http(certificate=certificate, private_key=key, max_connections=3))
        self.assertIsInstance(context._context, SSL.Context)
        self.assertEqual(self.daemon._settings.http, Http(certificate=certificate, private_key=key))
        self.assertIn("http.certificate", self.lines[0])
        self.assertNotIn("http.certificate", self.lines[1])
        self.assertIn("http.max_connections", self.lines[1])

    def test_password_file(self) -> None:
        """A password file that changed is read; one that is gone leaves all as it was."""
        path = Path(self.mktemp()).absolute()
        path.write_text("new\n")
        trunk = attrs.evolve(A_TRUNK, password="", password_file=path)
        self.reload(trunks=(trunk,))
        self.assertEqual(self.daemon._trunks[0].password, "new")
        path.write_text("newer\n")
        self.reload()
        self.assertEqual(self.daemon._trunks[0].password, "newer")
        self.assertIn("trunks", self.lines[-1])
        path.unlink()
        self.reload()
        self.assertIn("password_file", self.lines[-1])
        self.assertEqual(self.daemon._trunks[0].password, "newer")

    def test_not_now(self) -> None:
        """A daemon that starts or stops reads nothing again."""
        self.daemon._started = False
        self.reload(regions=Regions(countries=()))
        self.assertEqual((self.admission.calls, len(self.lines)), ([], 1))


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


class HelpersTests(SynchronousTestCase):
    def test_changed_settings(self) -> None:
        """Each setting that differs is named once, with its table."""
        old = Settings(trunks=(A_TRUNK,))
        self.assertEqual(changed_settings(old, old), [])
        new = attrs.evolve(old, http=Http(listen=()), simulator=True, trunks=(), calls=Calls(lead_in=0.0))
        self.assertEqual(set(changed_settings(old, new)), {"http.listen", "simulator", "trunks", "calls.lead_in"})

    def test_reasons(self) -> None:
        """Each trunk's meaning of a status is found by its name."""
        self.assertEqual(reasons([A_TRUNK]), {"a": {"403": 8}})

    def test_password_files(self) -> None:
        """A password file is read from systemd's credentials; one that can't be read says which."""
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "secret").write_bytes(b"s3cret\n")
        (folder / "octets").write_bytes(b"\xff\xfe")
        environment = {"CREDENTIALS_DIRECTORY": str(folder)}
        trunk = Trunk(name="a", host="h", password_file=Path("secret"))
        self.assertEqual(with_passwords([trunk, A_TRUNK], environment=environment)[0].password, "s3cret")
        wrong = [Trunk(name="a", host="h", password_file=Path(name)) for name in ("octets", "nonesuch")]
        with self.assertRaisesRegex(StartFailed, r"octets.*\n.*nonesuch"):
            with_passwords(wrong, environment=environment)

    def test_pepper(self) -> None:
        """The pepper is made once, readable by its owner alone, and never replaced; a credential goes before it."""
        data = Path(self.mktemp())
        data.mkdir()
        pepper = read_pepper(data, environment={})
        self.assertEqual((len(pepper), read_pepper(data, environment={})), (32, pepper))
        self.assertEqual((data / "pepper").stat().st_mode & 0o777, 0o600)
        credentials = data / "credentials"
        credentials.mkdir()
        (credentials / "pepper").write_bytes(b"c" * 40)
        environment = {"CREDENTIALS_DIRECTORY": str(credentials)}
        self.assertEqual(read_pepper(data, environment=environment), b"c" * 40)
        (data / "pepper").write_bytes(b"short")
        self.assertRaises(StartFailed, read_pepper, data, environment={})
        self.assertEqual((data / "pepper").read_bytes(), b"short")


class FailingStartTests(TestCase):
    """A start that fails says so in one line, without a traceback, and ends with status 1."""

    def run_daemon(self, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-c", TWISTD, "-n", "--pidfile=", "calledin", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr

    def check(self, words: str, *arguments: str) -> None:
        status, output = self.run_daemon(*arguments)
        self.assertEqual(status, 1, output)
        self.assertNotIn("Traceback", output)
        failed = [line for line in output.splitlines() if "can't start" in line]
        self.assertEqual(len(failed), 1, output)
        self.assertIn(words, failed[0])

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
