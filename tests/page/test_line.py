"""A browser as a handset, over a WebSocket."""

# mypy: allow-untyped-calls
from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Event, Request, TextMessage

from calledind.page.line import MOST_HANDSETS
from calledind.simulator.telephone import Line
from tests.api.wire import Connection
from tests.page.world import HOST, TOKEN, World

BEARER = (b"authorization", f"Bearer {TOKEN}".encode())
ORIGIN = (b"origin", f"http://{HOST}".encode())


class Browser:
    """The other end of a handset's WebSocket."""

    def __init__(self, world: World, *, headers: Any = (BEARER, ORIGIN)) -> None:
        self._client = WSConnection(ConnectionType.CLIENT)
        self.connection: Connection = world.connect()
        request = Request(host=HOST, target="/phone/line", extra_headers=list(headers))
        self.answer = self.connection.send(self._client.send(request))
        self._client.receive_data(self.answer)
        self.is_open = any(isinstance(event, AcceptConnection) for event in self._client.events())

    def say(self, **said: object) -> None:
        self.connection.send(self._client.send(TextMessage(json.dumps(said))))

    def heard(self) -> list[Any]:
        """Return what has come: JSON, or octets."""
        self._client.receive_data(self.connection.taken())
        return [_content(event) for event in self._client.events()]


def _content(event: Event) -> Any:
    if isinstance(event, TextMessage):
        return json.loads(event.data)
    return bytes(event.data) if isinstance(event, BytesMessage) else event


class LineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.done: list[Any] = []
        done = self.done.append
        self.line = Line(
            sip_call_id="0123abc-1",
            number="12125550199",
            caller="0000000000",
            answer=lambda: done("answer"),
            refuse=lambda status, phrase: done((status, phrase)),
            hang_up=lambda: done("hang up"),
            press=lambda digit: done(digit) is None,
            lose=done,
        )

    def test_answered(self) -> None:
        """It rings in the browser, which answers, hears the packets, presses keys, loses packets and hangs up."""
        browser = Browser(self.world)
        self.assertTrue(browser.is_open)
        self.world.telephone.ring(self.line)
        ringing = {"is": "ringing", "call": "0123abc", "number": "12125550199", "caller": "0000000000"}
        self.assertEqual(browser.heard(), [{"is": "quiet"}, ringing])
        browser.say(do="hang up")
        browser.say(do="answer")
        self.world.telephone.up(self.line)
        self.world.telephone.hear(0xFFFF, 0xFFFFFFFF, b"\xff" * 160)
        self.assertEqual(browser.heard(), [{"is": "up"}, b"\xff" * 6 + b"\xff" * 160])
        browser.say(do="key", digit="#")
        browser.say(do="lose", share=0.1)
        browser.say(do="hang up")
        self.assertEqual(self.done, ["answer", "#", 0.1, "hang up"])
        self.world.telephone.over(self.line, "callee")
        self.assertEqual(browser.heard(), [{"is": "over", "how": "callee"}])

    def test_refused(self) -> None:
        """Decline and busy are final responses."""
        browser = Browser(self.world)
        self.world.telephone.ring(self.line)
        browser.say(do="decline")
        browser.say(do="busy")
        self.assertEqual(self.done, [(603, "Decline"), (486, "Busy Here")])

    def test_nonsense(self) -> None:
        """What is no request of the phone's is left alone."""
        browser = Browser(self.world)
        self.world.telephone.ring(self.line)
        browser.say(do="answer")
        for said in (
            {"do": "key", "digit": "55"},
            {"do": "key"},
            {"do": "lose", "share": 1},
            {"do": 1},
            {"x": "y" * 2000},
        ):
            browser.say(**said)
        self.assertEqual(self.done, ["answer"])

    def test_closed(self) -> None:
        """A browser that is closed has hung up, and the site counts its connection no more."""
        browser = Browser(self.world)
        self.world.telephone.ring(self.line)
        browser.say(do="answer")
        self.assertEqual(self.world.site.connections, 1)
        browser.connection.leave()
        self.assertEqual((self.done, self.world.site.connections), (["answer", "hang up"], 0))
        self.world.clock.advance(60)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def test_strangers(self) -> None:
        """Without the token, or from another origin, there is no handset; nor for a browser too many."""
        foreign = (b"origin", b"http://127.0.0.1:3000")
        for headers in ((ORIGIN,), (BEARER, foreign), (foreign,), ()):
            world = World()
            connection = world.connect()
            lines = [
                b"GET /phone/line HTTP/1.1",
                f"Host: {HOST}".encode(),
                b"Upgrade: websocket",
                b"Connection: Upgrade",
            ]
            lines += [b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
            lines += [name + b": " + value for name, value in headers]
            answer = connection.send(b"\r\n".join(lines) + b"\r\n\r\n")
            self.assertRegex(answer, rb"^HTTP/1.1 40[13] ", headers)
        browsers = [Browser(self.world) for _ in range(MOST_HANDSETS)]
        self.assertTrue(all(browser.is_open for browser in browsers))
        refused = self.world.ask("/phone/line", {"Authorization": f"Bearer {TOKEN}", "Origin": f"http://{HOST}"})
        self.assertEqual(refused.status, 503)
