# mypy: allow-untyped-calls
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import attrs
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from calledind.api.tls import ServerContext, self_signed
from calledind.service.reload import InForce, Reload, changed_settings, reasons
from calledind.settings.reading import SettingsError
from calledind.settings.tables import Calls, Http, Node, Redis, Regions, Settings, Stir, Store, Trunk
from tests.service.recorder import A_TRUNK, Lines, Recorder


class ReloadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.settings = Settings(trunks=(A_TRUNK,))
        self.in_force = InForce(self.settings, (A_TRUNK,))
        self.signalling: Any = Recorder()
        self.settlement: Any = Recorder()
        setattr(self.settlement, "trunk_reasons", {})  # noqa: B010 - recorders have all attributes
        self.library: Any = Recorder()
        self.admission: Any = Recorder()
        self.dialer: Any = Recorder()
        self.lines: list[str] = []
        self.reload = self.make(lambda: self.settings)

    def make(self, load: Callable[[], Settings]) -> Reload:
        reload = Reload(
            self.in_force,
            load,
            signalling=self.signalling,
            registrations=cast(Any, Recorder()),
            settlement=self.settlement,
            library=self.library,
            admission=self.admission,
            dialer=self.dialer,
            routed=lambda: self.signalling.use_trunks(self.in_force.trunks),
            now=lambda: 1_800_000_100.0,
        )
        setattr(reload, "log", Lines(self.lines))  # noqa: B010 - the class says Logger
        return reload

    def read(self, **changes: Any) -> None:
        self.settings = attrs.evolve(self.settings, **changes)
        self.reload.read_again()

    def test_live(self) -> None:
        """Regions, calls and trunks are in force at once, wherever they are used."""
        other = Trunk(name="b", host="b.example", reasons={"404": 5})
        regions, calls = Regions(countries=("44",)), Calls(ring_timeout=9.0, charge="accepted", max_queued=3)
        self.read(regions=regions, calls=calls, trunks=(A_TRUNK, other))
        self.assertIn(("use_regions", regions), self.admission.calls)
        self.assertEqual(self.dialer.calls, [("replace", calls, (A_TRUNK, other))])
        trunks = (A_TRUNK, other)
        self.assertEqual(self.signalling.calls, [("prepare", trunks), ("use_trunks", trunks)])
        self.assertEqual(self.library.calls, [("use_codecs", {"PCMU", "PCMA"})])
        settlement: Any = self.settlement
        self.assertEqual(settlement.trunk_reasons, {"a": {"403": 8}, "b": {"404": 5}})
        self.assertEqual(settlement.charge_accepted, True)
        self.settings = attrs.evolve(self.settings, trunks=(attrs.evolve(other, reasons={}),))
        self.reload.read_again()
        # What a trunk meant by a status still counts for its last calls.
        self.assertEqual(settlement.trunk_reasons, {"a": {"403": 8}, "b": {}})
        del self.lines[1:]
        for name in ("regions.countries", "calls.ring_timeout", "trunks"):
            self.assertIn(name, self.lines[0])
        self.assertEqual(len(self.lines), 1)

    def test_restart_needed(self) -> None:
        """What only a start can bring is named, and left as it was."""
        self.read(http=Http(listen=("127.0.0.1:1",), max_connections=3), data=Path("elsewhere"))
        self.assertIn("restart", self.lines[1])
        for name in ("http.listen", "http.max_connections", "data"):
            self.assertIn(name, self.lines[1])
        self.assertEqual(self.in_force.settings.http, Http())

    def test_restart_needed_of_a_node(self) -> None:
        """Nor does a node change its Redis, its name or its lease while it works."""
        self.read(
            redis=Redis(address="redis:1", replicas=2), node=Node(name="x", lease=30.0), store=Store(kind="redis")
        )
        self.assertIn("restart", self.lines[1])
        for name in ("redis.address", "redis.replicas", "node.name", "node.lease", "store.kind"):
            self.assertIn(name, self.lines[1])
        self.assertEqual(self.in_force.settings.redis, Redis())

    def test_all_or_nothing(self) -> None:
        """With one mistake in the file nothing changes; each mistake is a line."""

        def wrong() -> Settings:
            raise SettingsError(["regions: wrong", "calls: wrong"])

        self.make(wrong).read_again()
        self.assertEqual(len(self.lines), 2)
        self.assertEqual((self.admission.calls, self.dialer.calls), ([], []))

    def test_files(self) -> None:
        """Of files that can't be used each is a line, and all stays as it was."""

        def prepare(trunks: object) -> None:
            raise OSError("trunks: b: ca\ntrunks: c: key")

        self.signalling._answers["prepare"] = prepare
        self.in_force.context = ServerContext(cast(Any, None))
        stir = Stir(private_key=Path("nowhere/stir.key"), certificate_url="https://example.com/c.pem")
        lost = [attrs.evolve(A_TRUNK, name=name, password_file=Path(f"nowhere/{name}")) for name in "bc"]
        http = Http(certificate=Path("nowhere/https.crt"), private_key=Path("nowhere/https.key"))
        self.read(http=http, stir=stir, trunks=tuple(lost), regions=Regions(countries=("44",)))
        for words in ("stir.key", "https.crt", "nowhere/b", "nowhere/c", "trunks: b: ca", "trunks: c: key"):
            self.assertEqual(len([line for line in self.lines if words in line]), 1, self.lines)
        self.assertEqual((len(self.lines), self.admission.calls, self.dialer.calls), (6, [], []))
        self.assertEqual((self.in_force.settings.http, self.in_force.trunks), (Http(), (A_TRUNK,)))

    def test_https_certificate(self) -> None:
        """Other files for HTTPS are in force at once, and known from then on; other settings beside them are not."""
        context: Any = ServerContext(cast(Any, None))
        self.in_force.context = context
        certificate, key = self_signed(Path(self.mktemp()), 1_800_000_000.0)
        self.read(http=Http(certificate=certificate, private_key=key, max_connections=3))
        self.assertIsInstance(context._context, SSL.Context)
        self.assertEqual(self.in_force.settings.http, Http(certificate=certificate, private_key=key))
        self.assertIn("http.certificate", self.lines[0])
        self.assertNotIn("http.certificate", self.lines[1])
        self.assertIn("http.max_connections", self.lines[1])

    def test_password_file(self) -> None:
        """A password file that changed is read; one that is gone leaves all as it was."""
        path = Path(self.mktemp()).absolute()
        path.write_text("new\n")
        trunk = attrs.evolve(A_TRUNK, password="", password_file=path)
        self.read(trunks=(trunk,))
        self.assertEqual(self.in_force.trunks[0].password, "new")
        path.write_text("newer\n")
        self.read()
        self.assertEqual(self.in_force.trunks[0].password, "newer")
        self.assertIn("trunks", self.lines[-1])
        path.unlink()
        self.read()
        self.assertIn("password_file", self.lines[-1])
        self.assertEqual(self.in_force.trunks[0].password, "newer")


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
