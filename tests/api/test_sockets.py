"""The site on a real socket, with clients that are not ours."""

# mypy: allow-untyped-calls
from __future__ import annotations

import shutil
import socket
import subprocess
from urllib.request import urlopen

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from tests.api.wire import Response, Served


class SocketTests(TestCase):
    def setUp(self) -> None:
        self.served = Served(clock=reactor)
        port = reactor.listenTCP(0, self.served.site, interface="127.0.0.1")  # type: ignore[arg-type]
        self.addCleanup(port.stopListening)
        self.address = "127.0.0.1", port.getHost().port  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.address[1]}/api/playback"

    async def tearDown(self) -> None:  # type: ignore[override]
        while self.served.site.connections:
            await deferLater(reactor, 0)

    def exchange(self, data: bytes) -> Deferred[bytes]:
        """Send it from a thread; returns all that comes until the end."""

        def blocking() -> bytes:
            with socket.create_connection(self.address, timeout=10) as client:
                client.sendall(data)
                answer = b""
                while piece := client.recv(65536):
                    answer += piece
                return answer

        return deferToThread(blocking)

    async def test_answer_to_a_body(self) -> None:
        """A client that sends a body before it reads gets the answer that says why it was refused, and no reset."""
        head = b"GET /api/playback HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n"
        response = Response(await self.exchange(head + b"x" * 200_000))
        self.assertEqual((response.status, self.served.asked), (413, []))

    async def test_long_head(self) -> None:
        """A head of 9 KiB is refused and the connection closed."""
        response = Response(await self.exchange(b"GET /?" + b"x" * 9216 + b" HTTP/1.1\r\n"))
        self.assertEqual(response.status, 431)

    async def test_urllib(self) -> None:
        """Python's own client reads the code."""

        def blocking() -> bytes:
            with urlopen(self.url + "?x=a+b", timeout=10) as response:
                body: bytes = response.read()
                return body

        self.assertEqual(await deferToThread(blocking), b"0")
        self.assertEqual(self.served.asked, [{b"x": [b"a b"]}])

    async def test_php(self) -> None:
        """So does the one-liner that most customers have, in HTTP/1.1 and 1.0."""
        php = shutil.which("php")
        if php is None:
            raise SkipTest("php is not installed")
        for version in ("1.1", "1.0"):
            options = f'["http" => ["protocol_version" => "{version}", "timeout" => 10]]'
            script = f"echo file_get_contents($argv[1], false, stream_context_create({options}));"
            said = await deferToThread(subprocess.check_output, [php, "-r", script, self.url + "/?x=a%20b"])
            self.assertEqual(said, b"0")

    async def test_curl(self) -> None:
        """And curl, twice over one connection."""
        curl = shutil.which("curl")
        if curl is None:
            raise SkipTest("curl is not installed")
        command = [curl, "-sS", "-m", "10", "-w", "%{http_code} %{num_connects}\n", self.url, self.url + "/"]
        said = await deferToThread(subprocess.check_output, command)
        self.assertEqual(said, b"0200 1\n0200 0\n")
