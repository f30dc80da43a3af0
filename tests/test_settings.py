from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from calledind.settings.reading import SettingsError, load, structure
from calledind.settings.tables import Settings
from calledind.settings.values import parse_address

TRUNK = {"name": "carrier", "host": "sip.example.com"}


def wrong(table: dict[str, Any]) -> list[str]:
    try:
        structure(table, environment={})
    except SettingsError as error:
        return error.errors
    raise AssertionError("taken")


class SettingsTests(SynchronousTestCase):
    def test_simulator_alone(self) -> None:
        """With the built-in carrier nothing else is needed."""
        settings = structure({"simulator": True}, environment={})
        self.assertEqual(settings, Settings(simulator=True))
        self.assertEqual(settings.admin_socket, Path("calledin-data/admin.sock"))

    def test_no_trunk(self) -> None:
        """Without a trunk and without the built-in carrier there is no start, so nobody believes in calls not made."""
        (line,) = wrong({})
        self.assertIn("trunks: is required", line)
        self.assertIn("simulator = true", line)

    def test_register(self) -> None:
        """A registration needs somebody to be registered; names are of one line."""
        (line,) = wrong({"trunks": [{**TRUNK, "register": True}]})
        self.assertIn("trunks[0].register: needs a username", line)
        for name in ("username", "register_user"):
            structure({"trunks": [{**TRUNK, "register": True, name: "a b;c@d #é"}]}, environment={})
            (line,) = wrong({"trunks": [{**TRUNK, name: "a\r\nb"}]})
            self.assertIn(f"trunks[0].{name}: 'a\\r\\nb' must have no line ends", line)

    def test_both(self) -> None:
        """A trunk beside the built-in carrier is a contradiction."""
        self.assertIn("simulator: must be false", wrong({"simulator": True, "trunks": [TRUNK]})[0])

    def test_all_at_once(self) -> None:
        """Every mistake is told at once, each with its path and what to write."""
        lines = wrong(
            {
                "colour": "blue",
                "http": {"listen": ["8080"], "max_connections": 0, "max_conections": 1},
                "calls": {"ring_timeout": "45"},
                "trunks": [{"name": "a", "codecs": ["G729"]}],
                "regions": {"countries": [1]},
            }
        )
        text = "\n".join(lines)
        for start in (
            "colour: there is no such setting; known here: admin, ",
            'http.max_conections: there is no such setting; did you mean "max_connections"?',
            'http.listen: "8080" must be ADDRESS:PORT',
            "http.max_connections: 0 must be more than 0",
            "calls.ring_timeout: '45' must be a number",
            "trunks[0].host: is required",
            "trunks[0].codecs",
            "regions.countries: 1 must be text in quotes",
        ):
            self.assertIn(start, text)

    def test_consistency(self) -> None:
        """Settings that contradict each other are told."""
        for table, words in (
            ({"trunks": [TRUNK, TRUNK]}, 'the name "carrier" is used twice'),
            ({"trunks": [{**TRUNK, "reasons": {"200": 5}}]}, "trunks[0].reasons.200"),
            ({"trunks": [{**TRUNK, "reasons": {"404": 2}}]}, "must be 0, 1, 3, 5 or 8"),
            ({"trunks": [{**TRUNK, "codecs": []}]}, "at least one of"),
            ({"trunks": [{**TRUNK, "srtp": "on"}]}, "trunks[0].srtp: 'on' must be one of"),
            ({"trunks": [{**TRUNK, "srtp": "offered"}]}, 'trunks[0].srtp: needs transport = "tls"'),
            ({"trunks": [{**TRUNK, "srtp": "required", "transport": "auto"}]}, "srtp_over_plain_sip = true"),
            ({"trunks": [{**TRUNK, "srtp": "required", "srtp_suites": []}]}, "trunks[0].srtp_suites"),
            ({"trunks": [{**TRUNK, "failover": {"200": "next"}}]}, "trunks[0].failover.200"),
            ({"trunks": [{**TRUNK, "failover": {"486": "later"}}]}, "trunks[0].failover: 'later' must be one of"),
            ({"simulator": True, "stir": {"private_key": "a.pem"}}, "stir.private_key"),
            ({"simulator": True, "stir": {"certificate_url": "https://a.example/b"}}, "stir.private_key"),
            ({"trunks": [{**TRUNK, "password": "a", "password_file": "b"}]}, "give either"),
            ({"simulator": True, "http": {"certificate": "a.pem"}}, "go together"),
            ({"simulator": True, "http": {"listen": []}}, "http.listen: is empty"),
            ({"simulator": True, "rtp": {"ports": [5, 4]}}, "rtp.ports"),
            ({"simulator": True, "rtp": {"bind": "here"}}, "rtp.bind"),
            ({"simulator": True, "sip": {"advertise": "example.com"}}, "sip.advertise"),
        ):
            self.assertIn(words, "\n".join(wrong(table)))

    def test_srtp(self) -> None:
        """Keys go over TLS, or where the operator says that they may go in the clear."""
        for more in ({"transport": "tls"}, {"transport": "auto", "sips": True}, {"srtp_over_plain_sip": True}):
            for srtp in ("offered", "required"):
                structure({"trunks": [{**TRUNK, "srtp": srtp, **more}]}, environment={})

    def test_identity(self) -> None:
        """What would not make a proper header is refused before any call: hosts, templates, URIs, words."""
        for name, value in (
            ("host", ""),
            ("host", "a b"),
            ("host", "sip.example.com>\r\nX: y"),
            ("from_domain", "a@b"),
            ("from_user", "{number}"),
            ("from_user", "{"),
            ("asserted_identity", "{}"),
            ("privacy", "id,header"),
            ("anonymous_uri", "anonymous"),
            ("anonymous_uri", "sip:a@b>\nX: y"),
            ("caller_id", "bob"),
        ):
            (line,) = wrong({"trunks": [{**TRUNK, name: value}]})
            self.assertIn(f"trunks[0].{name}: ", line)
        for table, path in (
            ({"calls": {"home_country": "+1"}}, "calls.home_country"),
            ({"stir": {"certificate_url": "http://a.example/b"}}, "stir.certificate_url"),
        ):
            self.assertIn(f"{path}: ", wrong({"simulator": True, **table})[0])
        for name, value in (("host", "::1"), ("host", "[::1]"), ("from_user", "x{username}"), ("privacy", "header;id")):
            structure({"trunks": [{**TRUNK, name: value}]}, environment={})

    def test_passwords_are_not_shown(self) -> None:
        """A password is in no repr."""
        settings = structure({"trunks": [{**TRUNK, "password": "hush"}]}, environment={})
        self.assertNotIn("hush", repr(settings))

    def test_state_directory(self) -> None:
        """systemd's state directory is the data folder, unless the file names one."""
        environment = {"STATE_DIRECTORY": "/var/lib/calledin"}
        self.assertEqual(structure({"simulator": True}, environment=environment).data, Path("/var/lib/calledin"))
        named = structure({"simulator": True, "data": "/srv/c"}, environment=environment)
        self.assertEqual(named.data, Path("/srv/c"))

    def test_addresses(self) -> None:
        """IPv4 and bracketed IPv6 are read, anything else says what to write."""
        self.assertEqual(parse_address("127.0.0.1:80"), ("127.0.0.1", 80))
        self.assertEqual(parse_address("[::1]:80"), ("::1", 80))
        for text in ("80", "::1:80", "[::1]", "localhost:80", "1.2.3.4:99999", "1.2.3.4:"):
            self.assertIn(text, str(self.assertRaises(ValueError, parse_address, text)))


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "calledin.toml"

    def test_file(self) -> None:
        """A file is read, and the command line's changes go over it."""
        self.path.write_text('simulator = true\n[http]\nlisten = ["0.0.0.0:80"]\nmax_connections = 7\n')
        settings = load(self.path, changes={"http": {"listen": ["127.0.0.1:81"]}}, environment={})
        self.assertEqual((settings.http.listen, settings.http.max_connections), (("127.0.0.1:81",), 7))

    def test_no_table(self) -> None:
        """A value where a table belongs is told, also when the command line changes that table."""
        self.path.write_text("simulator = true\nhttp = 1\n")
        changes = {"http": {"listen": ["127.0.0.1:81"]}}
        error = self.assertRaises(SettingsError, load, self.path, changes=changes, environment={})
        self.assertIn("http: must be a table", str(error))

    def test_unreadable(self) -> None:
        """A missing file, one that is not text and one that is not TOML are told by their path."""
        error = self.assertRaises(SettingsError, load, self.path)
        self.assertIn("can't be read: No such file", str(error))
        self.path.write_bytes(b"\xff\xfe")
        self.assertIn("is not UTF-8 text", str(self.assertRaises(SettingsError, load, self.path)))
        self.path.write_text("simulator = yes\n")
        self.assertIn("is not TOML", str(self.assertRaises(SettingsError, load, self.path)))

    def test_sample(self) -> None:
        """The sample names every setting there is, and nothing else, with the defaults as comments."""
        sample = Path(__file__).parents[1] / "etc" / "calledin.toml"
        text = sample.read_text()
        settings = load(sample, environment={})
        self.assertTrue(settings.trunks)
        self.path.write_text("\n".join(uncomment(line) for line in text.splitlines()))
        whole, defaults = load(self.path, environment={}), Settings()
        self.assertEqual((whole.calls, whole.callbacks, whole.rtp), (defaults.calls, defaults.callbacks, defaults.rtp))
        for name in setting_names():
            self.assertIn(f"{name} = ", text)


def uncomment(line: str) -> str:
    """Settings are commented out as "#name = value", prose as "# text"."""
    return line[1:] if line.startswith("#") and not line.startswith("# ") else line


def setting_names() -> list[str]:
    import attrs

    from calledind.settings.tables import TABLES

    tables = {"http", "audio", "calls", "regions", "sip", "rtp", "stir", "callbacks", "admin", "simulation", "trunks"}
    tables |= {"store", "redis", "node", "page", "metrics", "log", "trace", "cdr"}
    return [each.name for table in TABLES for each in attrs.fields(table) if each.name not in tables]
