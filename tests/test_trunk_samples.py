from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from calledind.settings.reading import load
from calledind.settings.tables import Settings

FOLDER = Path(__file__).parents[1] / "etc" / "trunks"
CARRIERS = {"twilio", "telnyx", "flowroute", "voip.ms", "sipgate", "asterisk", "freeswitch"}


class SampleTests(SynchronousTestCase):
    def load(self, path: Path, text: str | None = None) -> Settings:
        """Read a sample, or what has become of it, as a settings file."""
        changed = Path(self.mktemp())
        changed.write_text(path.read_text() if text is None else text)
        return load(changed, environment={})

    def test_load(self) -> None:
        """Each sample is a settings file with one trunk that has the sample's name."""
        self.assertEqual({path.stem for path in FOLDER.iterdir()}, CARRIERS)
        for path in FOLDER.iterdir():
            self.assertEqual([trunk.name for trunk in self.load(path).trunks], [path.stem])

    def test_together(self) -> None:
        """All of them go into one file."""
        text = "".join(path.read_text() for path in FOLDER.iterdir())
        self.assertEqual({trunk.name for trunk in self.load(FOLDER, text).trunks}, CARRIERS)

    def test_alternatives(self) -> None:
        """What a sample offers behind a "#" is right as well, in place of the line that it repeats."""
        for path in FOLDER.iterdir():
            chosen: dict[str, str] = {}
            for written in path.read_text().splitlines():
                line = written[1:] if written.startswith("#") and not written.startswith("# ") else written
                if " = " in line and not line.startswith("#"):
                    chosen[line.split(" = ")[0]] = line
            [trunk] = self.load(path, "[[trunks]]\n" + "\n".join(chosen.values())).trunks
            self.assertEqual(trunk.name, path.stem)

    def test_no_secrets(self) -> None:
        """Passwords are in files of their own."""
        for path in FOLDER.iterdir():
            self.assertEqual([trunk.password for trunk in self.load(path).trunks], [""])
