"""What the interop tests have in common: a folder, a web server, daemons that end in good order, one call."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.harness import Daemon, Told, Web, errors_in, free_ports, join, web_server

SPEECH = Path(__file__).parents[2] / "calledind" / "simulator" / "speech.mp3"
SHORT = Path(__file__).parents[1] / "audio" / "samples" / "44100-mono-no-xing.mp3"
"1.9 s, for calls whose audio is not the point."


def trunk(port: int, *, name: str = "sipp", host: str = "127.0.0.1", more: str = "") -> str:
    """One [[trunks]] table of a settings file."""
    return f"""
[[trunks]]
name = "{name}"
host = "{host}"
port = {port}
calls_per_second = 100.0
{more}
"""


def free_rtp_ports() -> int:
    """The first of two hundred ports; a taken one is passed over."""
    return free_ports(200)


def settings(
    *trunks: str,
    host: str = "127.0.0.1",
    sip_port: int = 0,
    first_rtp: int = 0,
    calls: str = "",
    sip: str = "",
    rest: str = "",
) -> str:
    """A settings file with sockets on one loopback address; `calls` and `sip` go into these tables."""
    first = first_rtp or free_rtp_ports()
    return f"""
[sip]
bind = ["{join(host, sip_port)}"]
{sip}
[rtp]
bind = "{host}"
ports = [{first}, {first + 199}]
[audio]
allow_networks = ["127.0.0.0/8", "::1/128"]
allow_ports = []
[calls]
{calls or "ring_timeout = 3.0"}
{rest}
{"".join(trunks)}
"""


class InteropCase(SynchronousTestCase):
    """Everything that was started in a test ends with it, the last first."""

    world: ExitStack
    folder: Path
    web: Web
    key: str
    "An api key of the daemon that was started last."

    def setUp(self) -> None:
        self.world = ExitStack()
        self.addCleanup(self.world.close)
        self.folder = Path(self.world.enter_context(tempfile.TemporaryDirectory()))
        files = {"/speech.mp3": SPEECH.read_bytes(), "/short.mp3": SHORT.read_bytes()}
        self.web = self.world.enter_context(web_server(files))

    def run_daemon(self, text: str, *, host: str = "127.0.0.1") -> Daemon:
        """Start a daemon with these settings and a key of a hundred credits. `host`: where its API listens."""
        daemon = Daemon(self.folder / "daemon", text, host=host)
        self.world.callback(self.stop, daemon)
        daemon.start()
        self.key = daemon.admin("POST", "/keys", {"name": "test", "credits": 100})["api_key"]
        return daemon

    def stop(self, daemon: Daemon) -> None:
        """Its exit status is 0, and its log has nothing that no daemon should write: errors, numbers, secrets."""
        status = daemon.stop()
        log = daemon.log.read_text()
        self.assertEqual((status, errors_in(log)), (0, []), log[-4000:])
        for private in ("212555", "a=b", "hush", self.key):
            self.assertNotIn(private, log)

    def ask(self, daemon: Daemon, **parameters: str) -> str:
        """Have a call accepted, with the short MP3 where no other is named; returns its id."""
        answer = daemon.playback(
            **{
                "api_key": self.key,
                "phone_number": "2125550100",
                "country_code": "1",
                "mp3": f"{self.web.url}/short.mp3",
                "callback_url": f"{self.web.url}/callback?a=b",
                "secret": "hush & more",
                **parameters,
            }
        )
        self.assertEqual((answer.status, answer.body), (200, "0"), answer.headers)
        return answer.call_id

    def call(self, daemon: Daemon, **parameters: str) -> Told:
        """One call, from the request to its callback."""
        call_id = self.ask(daemon, **parameters)
        told = self.web.next_callback()
        self.assertEqual(told.headers["webhook-id"], call_id)
        self.assertEqual(told.query["a"], "b")
        self.assertEqual(told.query["secret"], "hush & more")
        return told

    def outcome(self, told: Told) -> tuple[str, str]:
        return told.query["answered"], told.query["reason"]
