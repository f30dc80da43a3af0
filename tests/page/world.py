"""A whole page in memory: the operators' requests on a ledger, a telephone, and connections to it."""

# mypy: allow-untyped-calls
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from calledind.admission import Verdict
from calledind.api.admin import Admin
from calledind.keyring import Keyring
from calledind.model import PlaybackRequest, ReturnCode
from calledind.page.access import Access
from calledind.page.face import Face, PageSite
from calledind.page.line import PhoneLine
from calledind.page.live import Live
from calledind.page.lookup import Lookup
from calledind.page.sound import Sound
from calledind.page.trial import Trial
from calledind.simulator.telephone import Telephone
from tests.api.ledger import Ledger
from tests.api.wire import Connection, Response

TOKEN = "a-token-of-the-tests"
HOST = "127.0.0.1:8081"
ORIGIN = {"Origin": f"http://{HOST}"}
BEARER = {"Authorization": f"Bearer {TOKEN}"}
NOW = 1_700_000_000.0


class World:
    """`admitted`: what was asked to be admitted; `codes`: what is answered, the last again and again."""

    def __init__(self, *, simulator: bool = True) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.ledger = Ledger()
        self.telephone = Telephone()
        self.keyring = Keyring(b"p" * 32)
        self.codes = [ReturnCode.ACCEPTED]
        self.admitted: list[dict[str, str]] = []
        self.told: list[Mapping[str, object]] = []
        self.encodings: dict[str, bytes] = {"PCMU": bytes([0xFF, 0x80, 0x00])}
        store = self.ledger.as_store
        self.admin = Admin(
            reactor=self.clock, store=store, keyring=self.keyring, now=lambda: NOW, status=lambda: {"live": 3}
        )
        self.live = Live(self.clock, lambda: {"live": 3}, lambda: NOW + self.clock.seconds())
        self.trial = Trial(
            admit=self._admit,
            admit_for=self._admit_for,
            store=store,
            keyring=self.keyring,
            now=lambda: NOW,
            tell=self.told.append,
            speech=Path(__file__).parents[2] / "calledind" / "simulator" / "speech.mp3",
        )
        self.trial.url = f"http://{HOST}"
        self.access = Access(TOKEN, ["ops.example.com"], seconds=self.clock.seconds)
        self.phone = PhoneLine(self.telephone) if simulator else None
        face = Face(
            self.access,
            admin=self.admin,
            live=self.live,
            sound=Sound(store, self._encodings),
            trial=self.trial,
            phone=self.phone,
            lookup=Lookup(store, lambda: NOW),
            facts=lambda: {"version": "0"},
        )
        self.site = PageSite(face, self.access, reactor=self.clock)

    async def _encodings(self, name: str) -> Mapping[str, bytes]:
        return self.encodings

    def _admit(self, arguments: Mapping[bytes, Any]) -> Deferred[Verdict]:
        self.admitted.append({name.decode(): values[0].decode() for name, values in arguments.items()})
        code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
        return succeed(Verdict(code, code.name, "0" * 32 if code is ReturnCode.ACCEPTED else None))

    def _admit_for(self, key_id: str, request: PlaybackRequest) -> Deferred[Verdict]:
        asked = {"api_key": key_id, "phone_number": request.phone_number, "mp3": request.mp3}
        asked["callback_url"] = request.callback_url or ""
        return self._admit({name.encode(): [value.encode()] for name, value in asked.items()})

    def connect(self, peer: str = "127.0.0.1") -> Connection:
        return Connection(self.site, IPv4Address("TCP", peer, 50000))

    def ask(
        self,
        target: str,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        body: bytes = b"",
        host: str = HOST,
        peer: str = "127.0.0.1",
    ) -> Response:
        """Return the answer. `headers`: beside Host and Content-Length."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        data = self.connect(peer).send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return Response(data)

    def log_in(self) -> dict[str, str]:
        """Return the header of who has logged in."""
        body = f"token={TOKEN}".encode()
        answer = self.ask("/login", ORIGIN, method="POST", body=body)
        return {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
