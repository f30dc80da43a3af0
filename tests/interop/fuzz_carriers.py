"""Carriers that take calls in good order, and can be made to talk nonsense."""

from __future__ import annotations

import contextlib
import queue
import re
import selectors
import socket
import threading
from dataclasses import dataclass

from tests.interop.carrier import Carrier, header


@dataclass
class Talk:
    """What a callee needs to know for requests of its own."""

    invite: str
    source: tuple[str, int]
    cseq: int = 0


class SpoilingCarrier(Carrier):
    """The witness, with re-INVITEs, and answers that are not its own."""

    def __post_init__(self) -> None:
        self.answers: list[bytes] = []
        "SDP for the 183 and the 200 of the next calls."
        self._spoiled: dict[str, str] = {}
        self._talks: dict[str, Talk] = {}
        self._responses: queue.Queue[str] = queue.Queue()
        self._branch = 0
        super().__post_init__()

    def talks(self, call_id: str) -> Talk:
        return self._talks[call_id]

    def is_talking(self, call_id: str) -> bool:
        return f"{call_id}-1" in self.acknowledged

    def reinvite(self, talk: Talk, body: bytes) -> int:
        """Make an offer in the middle of a call; returns the final status. Raises AssertionError where none comes."""
        talk.cseq += 1
        self._branch += 1
        branch = f"z9hG4bKre{self._branch}"
        more = [f"Contact: <sip:callee@127.0.0.1:{self.port}>", "Content-Type: application/sdp"]
        message = self._request(talk, "INVITE", branch, more, body)
        for _ in range(20):
            self._sock.sendto(message, talk.source)
            status = self._final(branch)
            if status is not None:
                ack = f"{branch}a" if status < 300 else branch
                self._sock.sendto(self._request(talk, "ACK", ack, [], b""), talk.source)
                return status
        raise AssertionError(f"no answer to a re-INVITE with {body!r}")

    def _final(self, branch: str) -> int | None:
        with contextlib.suppress(queue.Empty):
            while True:
                text = self._responses.get(timeout=1.0)
                if f"branch={branch};" in text + ";" and not text.startswith("SIP/2.0 1"):
                    return int(text[8:11])
        return None

    def _request(self, talk: Talk, method: str, branch: str, more: list[str], body: bytes) -> bytes:
        contact = re.search(r"<([^>]*)>", header(talk.invite, "Contact"))
        assert contact is not None
        lines = [
            f"{method} {contact[1]} SIP/2.0",
            f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};branch={branch};rport",
            "Max-Forwards: 70",
            f"From: {header(talk.invite, 'To')};tag=callee",
            f"To: {header(talk.invite, 'From')}",
            f"Call-ID: {header(talk.invite, 'Call-ID')}",
            f"CSeq: {talk.cseq} {method}",
            *more,
            f"Content-Length: {len(body)}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body

    def _take(self, text: str, source: tuple[str, int]) -> None:
        if text.startswith("SIP/2.0"):
            self._responses.put(text)
        else:
            super()._take(text, source)

    def _invite(self, text: str, call_id: str, source: tuple[str, int]) -> None:
        self._talks.setdefault(call_id.partition("-")[0], Talk(text, source))
        if self.answers and call_id not in self._spoiled:
            self._spoiled[call_id] = self.answers.pop().decode("latin-1")
            self._sock.sendto(self._response(text, "183 Session Progress", "spoiled"), source)
        super()._invite(text, call_id, source)

    def _response(self, request: str, status: str, body: str = "") -> bytes:
        return super()._response(request, status, body and self._spoiled.get(header(request, "Call-ID"), body))


class Bridge:
    """A trunk that takes calls by TCP, and hands them to a carrier that takes them by UDP."""

    def __init__(self, carrier_port: int) -> None:
        self.connections = 0
        "That were opened so far."
        self._carrier = ("127.0.0.1", carrier_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ways: dict[socket.socket, socket.socket] = {}
        "Connection -> the socket that talks to the carrier for it."
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def trunk(self) -> str:
        """The [[trunks]] table: it takes area code 213."""
        return f"""
[[trunks]]
name = "bridge"
host = "127.0.0.1"
port = {self.port}
transport = "tcp"
prefixes = ["1213"]
"""

    def spoil(self, data: bytes) -> None:
        """Say this on all connections."""
        with self._lock:
            for connection in self._ways:
                with contextlib.suppress(OSError):
                    connection.sendall(data)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        for sock in (self._listener, *self._ways, *self._ways.values()):
            sock.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            buffers: dict[socket.socket, bytes] = {}
            while not self._closed.is_set():
                for key, _ in selector.select(0.05):
                    sock = key.fileobj
                    assert isinstance(sock, socket.socket)
                    if sock is self._listener:
                        connection, _ = sock.accept()
                        own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                        own.connect(self._carrier)
                        with self._lock:
                            self._ways[connection] = own
                        self.connections += 1
                        buffers[connection] = b""
                        selector.register(connection, selectors.EVENT_READ)
                        selector.register(own, selectors.EVENT_READ, connection)
                    elif key.data is not None:
                        here = f"127.0.0.1:{self._carrier[1]}>".encode()
                        there = f"127.0.0.1:{self.port};transport=tcp>".encode()
                        with contextlib.suppress(OSError):
                            key.data.sendall(sock.recv(65535).replace(here, there))
                    elif data := self._read(sock):
                        buffers[sock] = self._forward(buffers[sock] + data, self._ways[sock])
                    else:
                        with self._lock:
                            own = self._ways.pop(sock)
                        for each in (sock, own):
                            selector.unregister(each)
                            each.close()

    def _read(self, sock: socket.socket) -> bytes:
        try:
            return sock.recv(65536)
        except OSError:
            return b""

    def _forward(self, data: bytes, own: socket.socket) -> bytes:
        """Hand on the whole messages; returns the rest."""
        while True:
            data = data.lstrip(b"\r\n")
            head, end, rest = data.partition(b"\r\n\r\n")
            length = int(header(head.decode("latin-1"), "Content-Length") or 0)
            if not end or len(rest) < length:
                return data
            own.send(head + end + rest[:length])
            data = rest[length:]
