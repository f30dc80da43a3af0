# mypy: allow-untyped-calls
from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from calledind.service.errors import StartFailed
from calledind.service.files import read_pepper, with_passwords
from calledind.settings.tables import Trunk
from tests.service.recorder import A_TRUNK


class FilesTests(SynchronousTestCase):
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
