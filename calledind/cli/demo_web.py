"""The customer's side of the demo: a web server with the MP3, and the page that callbacks come to."""

from __future__ import annotations

import base64
import hashlib
import hmac
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

LONGEST_AGE = 300.0
"Seconds between a callback's timestamp and ours (Standard Webhooks, against replays)."


@dataclass(frozen=True, slots=True)
class Callback:
    """One callback as it arrived."""

    target: str
    "Path and query of the request, as sent."
    parameters: Mapping[str, str]
    webhook_id: str
    timestamp: str
    signature: str

    @classmethod
    def read(cls, target: str, headers: Mapping[str, str] | Message) -> Callback:
        """Read a request. `headers` finds names in whatever case."""
        return cls(
            target=target,
            parameters=dict(parse_qsl(urlsplit(target).query, keep_blank_values=True)),
            webhook_id=headers.get("webhook-id", ""),
            timestamp=headers.get("webhook-timestamp", ""),
            signature=headers.get("webhook-signature", ""),
        )

    def signed_by(self, webhook_secret: str, now: float) -> bool:
        """Whether the signature holds and is fresh. `webhook_secret`: "whsec_" and base64; `now`: epoch seconds."""
        try:
            key = base64.b64decode(webhook_secret.removeprefix("whsec_"), validate=True)
            age = abs(now - int(self.timestamp))
        except ValueError:
            return False
        signed = f"{self.webhook_id}.{self.timestamp}.{self.target}".encode()
        expected = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
        offered = self.signature.encode().split(b" ")
        return age <= LONGEST_AGE and any(hmac.compare_digest(expected.encode(), each) for each in offered)


class CustomerServer:
    """Serves one MP3 at /speech.mp3 and gathers the callbacks to /callback, on a loopback port of its own."""

    def __init__(self, mp3: bytes) -> None:
        self._callbacks: queue.SimpleQueue[Callback] = queue.SimpleQueue()
        self.fetches = 0
        etag = f'"{hashlib.sha256(mp3).hexdigest()[:16]}"'
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                if path == "/speech.mp3":
                    owner.fetches += 1
                    fresh = self.headers.get("If-None-Match") == etag
                    self._answer(304 if fresh else 200, b"" if fresh else mp3, "audio/mpeg")
                elif path == "/callback":
                    owner._callbacks.put(Callback.read(self.path, self.headers))
                    self._answer(200, b"thank you\n", "text/plain")
                else:
                    self._answer(404, b"not here\n", "text/plain")

            def _answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                if status == 200 and kind == "audio/mpeg":
                    self.send_header("ETag", etag)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                "Say nothing: the demo shows what comes."

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def next_callback(self, wait: float = 0.0) -> Callback | None:
        """Return the oldest callback not returned yet; None when none comes within `wait` seconds."""
        try:
            return self._callbacks.get(timeout=wait) if wait else self._callbacks.get_nowait()
        except queue.Empty:
            return None

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
