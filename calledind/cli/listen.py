"""`calledin listen`: takes callbacks on this machine, shows each, and passes them on to a developer's server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import ipaddress
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

import click

from calledind.cli.calls import CALL_ID, words_of
from calledind.cli.client import Client, NotReachable, Refused
from calledind.cli.demo_web import Callback
from calledind.cli.output import json_option, print_json_line

if TYPE_CHECKING:
    from calledind.cli.main import Target

FORWARD_SECONDS = 15.0
"For the answer of the server that callbacks are passed on to."
HOP_BY_HOP = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host"})
BAD_GATEWAY = 502
SHOWN_ABOVE = ("phone_number", "country_code", "answered", "reason")


class Secrets:
    """The webhook secret of each callback's key: the given one, or as the daemon tells it."""

    def __init__(self, given: str | None, client: Client | None) -> None:
        self._given = given
        self._client = client
        self._known: dict[str, str] = {}

    def of(self, call_id: str) -> str | None:
        """Return None where nobody can say."""
        if self._given is not None or self._client is None or CALL_ID.fullmatch(call_id) is None:
            return self._given
        try:
            key_id = str(self._client.get(f"/calls/{call_id}")["key_id"])
            if key_id not in self._known:
                self._known[key_id] = self._client.get(f"/keys/{key_id}/webhook-secret")["webhook_secret"]
        except (NotReachable, Refused):
            return None
        return self._known[key_id]


@dataclass(frozen=True)
class Received:
    """One callback, and what came of it."""

    callback: Callback
    holds: bool | None
    "Whether its signature does; None: nobody knows the secret."
    forwarded: str
    "Where it was passed on to, empty for nowhere."
    status: int
    "That the daemon was answered with."
    words: str
    "Why it could not be passed on."

    def show(self) -> dict[str, object]:
        return {
            "call_id": self.callback.webhook_id,
            "parameters": dict(self.callback.parameters),
            "signature_holds": self.holds,
            "forwarded_to": self.forwarded or None,
            "status": self.status,
            "words": self.words,
        }


class Listener:
    """A web server for callbacks. `shown` is called with each, one at a time."""

    def __init__(self, host: str, port: int, forward_to: str, secrets: Secrets, shown: Any) -> None:
        """Raises OSError where the port can't be opened."""
        self._forward_to = urlsplit(forward_to)
        self._secrets = secrets
        self._shown = shown
        self._one_at_a_time = threading.Lock()
        listener = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_GET(self) -> None:
                received = listener.take(self.path, self.headers)
                self.send_response(received.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """What there is to say is said in another place."""

        self.server = ThreadingHTTPServer((host, port), Handler)
        self.server.daemon_threads = True

    def take(self, target: str, headers: Mapping[str, str] | Message) -> Received:
        """Show a callback and pass it on."""
        callback = Callback.read(target, headers)
        secret = self._secrets.of(callback.webhook_id)
        holds = None if secret is None else callback.signed_by(secret, time.time())
        forwarded, status, words = "", 200, ""
        if self._forward_to.netloc:
            target = there(self._forward_to, target)
            sent = {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}
            if holds and secret is not None and target != callback.target:
                # The path is signed as well, and here it is another one.
                sent = {name: value for name, value in sent.items() if name.lower() != "webhook-signature"}
                sent["webhook-signature"] = sign(secret, callback.webhook_id, callback.timestamp, target)
            forwarded = f"{self._forward_to.scheme}://{self._forward_to.netloc}{target}"
            status, words = forward(self._forward_to, target, sent)
        received = Received(callback, holds, forwarded, status, words)
        with self._one_at_a_time:
            self._shown(received)
        return received


def there(url: SplitResult, target: str) -> str:
    """Return the target at the other server: the path that its URL has, else that of the callback; both queries."""
    path, _, query = target.partition("?")
    queries = "&".join(filter(None, (url.query, query)))
    return (url.path if url.path not in ("", "/") else path) + (f"?{queries}" if queries else "")


def sign(secret: str, webhook_id: str, timestamp: str, target: str) -> str:
    """Sign a callback as the daemon does."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{webhook_id}.{timestamp}.{target}".encode()
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def forward(url: SplitResult, target: str, headers: Mapping[str, str]) -> tuple[int, str]:
    """Return the other server's status, or 502 and why there is none."""
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=FORWARD_SECONDS)
    try:
        connection.request("GET", target, headers={**headers, "Connection": "close"})
        return connection.getresponse().status, ""
    except (OSError, http.client.HTTPException) as error:
        words = getattr(error, "strerror", None) or str(error) or repr(error)
        return BAD_GATEWAY, f"it does not answer: {words}"
    finally:
        connection.close()


@click.command(short_help="Take callbacks here, and pass them on to a server of yours.")
@click.option("--forward-to", default="", metavar="URL", help="A server of yours; without it they are only shown.")
@click.option("--port", type=click.IntRange(0, 65535), default=8090, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--secret", help="The webhook secret; without it the daemon is asked.")
@click.option("--most", type=click.IntRange(1), help="End after so many.")
@json_option
@click.pass_obj
def listen(
    target: Target, forward_to: str, port: int, host: str, secret: str | None, most: int | None, as_json: bool
) -> None:
    """Take callbacks on this machine, show each and whether its signature holds, and pass it on to a server of yours.

    Give the callback_url that is shown with your calls. What your server answers is what the daemon is told.
    """
    if forward_to and (urlsplit(forward_to).scheme not in ("http", "https") or not urlsplit(forward_to).hostname):
        raise click.BadParameter("must be an http or https URL", param_hint="--forward-to")
    client = None if secret is not None else target.client()
    left = [most]
    ended = threading.Event()

    def shown(received: Received) -> None:
        if as_json:
            print_json_line(received.show())
        else:
            for line in describe(received):
                click.echo(line)
        if left[0] is not None:
            left[0] -= 1
            if left[0] <= 0:
                ended.set()

    try:
        listener = Listener(host, port, forward_to, Secrets(secret, client), shown)
    except OSError as error:
        raise Refused(f"{host}:{port} can't be listened on: {error.strerror}") from None
    url = f"http://{host}:{listener.server.server_address[1]}/callback"
    if as_json:
        print_json_line({"callback_url": url})
    else:
        click.echo(f"callback_url={url}   (Ctrl-C ends it)")
        for line in hints(client, host):
            click.echo(line)
    serving = threading.Thread(target=listener.server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    serving.start()
    try:
        while not ended.wait(0.2):
            pass
    except KeyboardInterrupt:
        pass
    finally:
        listener.server.shutdown()
        listener.server.server_close()


def hints(client: Client | None, host: str) -> list[str]:
    """Say what keeps the daemon from reaching us."""
    if client is None:
        return []
    facts = client.get("/facts")
    try:
        address = ipaddress.ip_address(host)
        allowed = any(address in ipaddress.ip_network(each) for each in facts["allow_networks"])
        allowed = allowed or address.is_global
    except ValueError:
        return []
    if allowed:
        return []
    return [f'The daemon does not call this address: add "{host}/32" to audio.allow_networks in its settings.']


def describe(received: Received) -> list[str]:
    """Return a callback as lines for people."""
    given = received.callback.parameters
    answered = given.get("answered") == "1"
    reason = given.get("reason", "")
    outcome = "answered" if answered else words_of(int(reason)) if reason.isdigit() else f"reason {reason!r}"
    signature = {True: "holds", False: "DOES NOT HOLD", None: "not checked: its key is not known"}[received.holds]
    lines = [
        f"{time.strftime('%H:%M:%S')}  +{given.get('country_code', '')}{given.get('phone_number', '')}  {outcome}",
        f"          call       {received.callback.webhook_id}",
        *(f"          {name:<10} {value}" for name, value in given.items() if name not in SHOWN_ABOVE and value),
        f"          signature  {signature}",
    ]
    if received.forwarded:
        lines.append(
            f"          passed on  {received.status}  {received.words or received.forwarded.partition('?')[0]}"
        )
    return lines
