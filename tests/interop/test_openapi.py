# mypy: allow-untyped-calls
"""/openapi.json is OpenAPI 3.1, and a running daemon answers as it says, whatever schemathesis asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import SkipTest

from tests.interop.case import InteropCase, settings
from tests.interop.harness import Daemon

TOOLS = Path(sys.executable).parent.parent / "openapi" / "bin"
"Where the Makefile puts them, apart from what we run with."
SIMULATOR = "simulator = true\n[page]\nlisten = []\n"
ROOT = Path(__file__).parents[2]


def need_tool(name: str) -> str:
    path = TOOLS / name
    if not path.exists():
        raise SkipTest(f"skipped: {name} is not installed")
    return str(path)


class OpenApiTests(InteropCase):
    def begin(self) -> Daemon:
        daemon = self.run_daemon(SIMULATOR + settings(calls="ring_timeout = 3.0\ndrain_timeout = 1.0"))
        (key,) = daemon.admin("GET", "/keys")["keys"]
        daemon.admin("POST", f"/keys/{key['id']}/credits", {"amount": 100_000})
        return daemon

    def test_valid(self) -> None:
        """The document is what OpenAPI 3.1 says that one is."""
        program = need_tool("openapi-spec-validator")
        document = self.folder / "openapi.json"
        document.write_text(self.begin().get("/openapi.json").body)
        done = subprocess.run([program, str(document)], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def explore(self, daemon: Daemon, *arguments: str) -> None:
        """Have schemathesis ask; it finds nothing."""
        command = [need_tool("schemathesis"), "--config-file", str(ROOT / "tests/interop/schemathesis.toml"), "run"]
        command += [f"http://127.0.0.1:{daemon.port}/openapi.json", "--header", f"Authorization: Bearer {self.key}"]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.interop.openapi_hooks",
            "CALLEDIN_MP3": f"{self.web.url}/short.mp3",
        }
        done = self._execute([*command, "--request-timeout", "20", "--no-color", *arguments], environment)
        self.assertEqual(done.returncode, 0, done.stdout[-6000:] + done.stderr[-2000:])

    def _execute(self, command: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=240, check=False, env=environment, cwd=self.folder
        )

    def test_calls(self) -> None:
        """Requests by the document, beside it, and one after the other along its links are answered as it says."""
        need_tool("schemathesis")
        self.explore(self.begin(), "--checks", "all", "--exclude-path-regex", "events$", "--max-time", "45")

    def test_streams(self) -> None:
        """So are those for streams."""
        need_tool("schemathesis")
        phases = ["--phases", "coverage,fuzzing", "--max-time", "15"]
        self.explore(self.begin(), "--checks", "all", "--include-path-regex", "events$", *phases)
