# mypy: allow-untyped-calls
"""The customer's server of the demo."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
from urllib.parse import urlsplit

from twisted.trial.unittest import SynchronousTestCase

from calledind.cli.demo_web import Callback, CustomerServer

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
TARGET = "/callback?secret=demo&answered=1&reason="
NOW = 1_790_000_000.0


def signature(text: str, key: bytes = KEY) -> str:
    return "v1," + base64.b64encode(hmac.digest(key, text.encode(), hashlib.sha256)).decode()


def callback(signed: str, timestamp: str = "1790000000") -> Callback:
    return Callback(TARGET, {}, "abc", timestamp, signed)


class CallbackTests(SynchronousTestCase):
    def test_signature(self) -> None:
        """The signature over id, timestamp and target holds, also as one of several."""
        right = signature(f"abc.1790000000.{TARGET}")
        self.assertTrue(callback(right).signed_by(SECRET, NOW))
        self.assertTrue(callback(f"v1,bm8= {right}").signed_by(SECRET, NOW))

    def test_forgery(self) -> None:
        """Another key, another target, an old timestamp or nonsense does not hold."""
        right = signature(f"abc.1790000000.{TARGET}")
        self.assertFalse(callback(signature(f"abc.1790000000.{TARGET}", b"x" * 32)).signed_by(SECRET, NOW))
        self.assertFalse(callback(signature("abc.1790000000./other")).signed_by(SECRET, NOW))
        self.assertFalse(callback(right).signed_by(SECRET, NOW + 301))
        self.assertFalse(callback(right, "soon").signed_by(SECRET, NOW))
        self.assertFalse(callback("v1,\xff").signed_by(SECRET, NOW))
        self.assertFalse(callback(right).signed_by("whsec_***", NOW))


class CustomerServerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = CustomerServer(b"ID3 not really")
        self.server.start()
        self.addCleanup(self.server.stop)

    def get(self, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(self.server.url).port or 0, timeout=10)
        self.addCleanup(connection.close)
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response, response.read()

    def test_mp3(self) -> None:
        """The MP3 is served with an ETag, and not again to who has it."""
        response, body = self.get("/speech.mp3")
        self.assertEqual((response.status, body), (200, b"ID3 not really"))
        response, body = self.get("/speech.mp3", If_None_Match=response.getheader("ETag") or "")
        self.assertEqual((response.status, body), (304, b""))

    def test_callback(self) -> None:
        """A callback is taken with its parameters, empty ones too, and its three headers."""
        self.assertIs(self.server.next_callback(), None)
        response, _ = self.get(TARGET, webhook_id="abc", webhook_timestamp="1", webhook_signature="v1,x")
        self.assertEqual(response.status, 200)
        came = self.server.next_callback(5)
        parameters = {"secret": "demo", "answered": "1", "reason": ""}
        self.assertEqual(came, Callback(TARGET, parameters, "abc", "1", "v1,x"))

    def test_elsewhere(self) -> None:
        """There is nothing else to be had."""
        self.assertEqual(self.get("/")[0].status, 404)
