"""Digest authentication, the side that asks (RFC 7616, RFC 8760): for the numbers that want a password."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from calledind.sip.message import Request

REALM = "simulator"
ALGORITHMS = {"SHA-256": "sha256", "MD5": "md5"}
"Name in the challenge -> name in hashlib; the preferred first."

_HEADERS = {401: ("WWW-Authenticate", "Authorization"), 407: ("Proxy-Authenticate", "Proxy-Authorization")}
_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


class Digest:
    """Makes challenges and judges their answers, without remembering any: a nonce is derived from the Call-ID."""

    def __init__(self, username: str, password: str) -> None:
        self._username = username
        self._password = password
        self._secret = secrets.token_bytes(32)

    def _nonce(self, call_id: str) -> str:
        return hmac.digest(self._secret, call_id.encode(), hashlib.sha256).hex()[:32]

    def challenge(self, request: Request, status: int) -> list[tuple[str, str]]:
        """Return the headers of a 401 or 407, one for each algorithm."""
        nonce = self._nonce(request.call_id)
        return [
            (_HEADERS[status][0], f'Digest realm="{REALM}", nonce="{nonce}", algorithm={name}, qop="auth"')
            for name in ALGORITHMS
        ]

    def objection(self, request: Request, status: int) -> str | None:
        """Say what is wrong with the answer to our challenge; None when it is right."""
        answers = request.all(_HEADERS[status][1])
        if not answers:
            return "no credentials"
        objections = [self._judge(request, answer) for answer in answers]
        return None if None in objections else objections[0]

    def _judge(self, request: Request, answer: str) -> str | None:
        scheme, _, rest = answer.strip().partition(" ")
        given = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(rest)}
        if scheme.lower() != "digest":
            return f"the scheme is {scheme}"
        algorithm = ALGORITHMS.get(given.get("algorithm", "MD5"))
        expected = {"realm": REALM, "nonce": self._nonce(request.call_id), "uri": request.uri, "qop": "auth"}
        for name, value in {**expected, "username": self._username}.items():
            if given.get(name) != value:
                return f"{name} is wrong"
        if algorithm is None or not given.get("cnonce") or not re.fullmatch("[0-9a-f]{8}", given.get("nc", "")):
            return "algorithm, cnonce or nc is wrong"

        def hashed(text: str) -> str:
            return hashlib.new(algorithm, text.encode()).hexdigest()

        secret = hashed(f"{self._username}:{REALM}:{self._password}")
        request_hash = hashed(f"{request.method}:{request.uri}")
        right = hashed(f"{secret}:{given['nonce']}:{given['nc']}:{given['cnonce']}:auth:{request_hash}")
        return None if hmac.compare_digest(right, given.get("response", "")) else "response is wrong"
