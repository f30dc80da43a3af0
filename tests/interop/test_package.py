"""What is installed: the wheel with all that the daemon reads; the Debian package, which takes its time to be built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.interop.case import InteropCase
from tests.interop.harness import need

ROOT = Path(__file__).parents[2]
PARTS = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "calledind", "twisted")
IGNORED = shutil.ignore_patterns("__pycache__", "dropin.cache")


class SourceCase(InteropCase):
    """A copy of what something is built from."""

    parts: tuple[str, ...] = PARTS

    def setUp(self) -> None:
        super().setUp()
        self.source = self.folder / "source"
        self.source.mkdir()
        for part in self.parts:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, self.source / part, ignore=IGNORED)
            else:
                shutil.copy(ROOT / part, self.source)


class WheelTests(SourceCase):
    def test_content(self) -> None:
        """Every file of the package is in the wheel, the plugin beside it, the command, and the licence."""
        wanted = {path.relative_to(self.source).as_posix() for path in (self.source / "calledind").rglob("*")}
        wanted = {path for path in wanted if (self.source / path).is_file()}
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "-w",
            str(self.folder),
            str(self.source),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        [wheel] = self.folder.glob("calledin-*.whl")
        with zipfile.ZipFile(wheel) as content:
            names = {name for name in content.namelist() if ".dist-info/" not in name}
            [entry_points] = [name for name in content.namelist() if name.endswith("entry_points.txt")]
            self.assertIn("calledin = calledind.cli.main:main", content.read(entry_points).decode())
            [licence] = [name for name in content.namelist() if name.endswith("/LICENSE")]
            self.assertEqual(content.read(licence), (ROOT / "LICENSE").read_bytes())
        self.assertEqual(names, wanted | {"twisted/plugins/calledin_plugin.py"})


class DebianFileTests(InteropCase):
    def test_copyright(self) -> None:
        """What Debian reads of the licence is the licence: the same holders, and the same words."""
        title, holders, *words = (ROOT / "LICENSE").read_text().split("\n\n")
        told = (ROOT / "etc" / "debian" / "copyright").read_text()
        self.assertEqual(title, "MIT License")
        self.assertIn(f"Files: *\nCopyright: {holders.removeprefix('Copyright (c) ')}\nLicense: Expat\n", told)
        expat = " ".join(told.split("License: Expat\n ")[1].replace("\n .\n", "\n").split())
        self.assertEqual(expat, " ".join(" ".join(words).split()))

    def test_scripts(self) -> None:
        """The package's scripts are read by the shell without complaint, and the manual page is made."""
        folder = ROOT / "etc" / "debian"
        for name in ("build", "postinst", "prerm", "postrm"):
            checked = subprocess.run(["sh", "-n", str(folder / name)], capture_output=True, text=True, check=False)
            self.assertEqual((checked.returncode, checked.stderr), (0, ""), name)
        made = subprocess.run(
            [sys.executable, str(folder / "manual.py"), "1.2.3"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ).stdout
        self.assertTrue(made.startswith(".TH CALLEDIN 1"))
        for words in (".SS calledin keys add", "calledin 1.2.3", ".SH COMMANDS"):
            self.assertIn(words, made)


class DebianTests(SourceCase):
    parts = (*PARTS, "CHANGELOG.md", "etc")

    def test_build(self) -> None:
        """The package is built, and has the program, the units and the settings where they belong."""
        need("dpkg-deb")
        command = ["sh", "etc/debian/build", str(Path(sys.executable).with_name("pip"))]
        built = subprocess.run(command, cwd=self.source, capture_output=True, text=True, check=False)
        self.assertEqual(built.returncode, 0, built.stderr)
        [package] = (self.source / "build").glob("calledin_*.deb")
        listed = subprocess.check_output(["dpkg-deb", "--contents", str(package)], text=True)
        for path in (
            "./opt/calledin/bin/twistd\n",
            "./usr/bin/calledin -> /opt/calledin/bin/calledin\n",
            "./etc/calledin/calledin.toml\n",
            "./usr/lib/systemd/system/calledin.service\n",
            "./usr/lib/systemd/system/calledin.socket\n",
            "./usr/share/doc/calledin/copyright\n",
            "./usr/share/man/man1/calledin.1.gz\n",
            "/twisted/plugins/dropin.cache\n",
        ):
            self.assertIn(path, listed)
