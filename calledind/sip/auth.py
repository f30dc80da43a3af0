"""Digest authentication, the client's side (RFC 3261 §22, RFC 7616, RFC 8760).

A server refuses a request with 401, a proxy with 407, each with one or more challenges. The request is sent
again, with CSeq one higher and an answer to the strongest challenge of each realm:

    INVITE (CSeq 1)   → 407 nonce=a           nothing was tried yet: answer it
    INVITE (CSeq 2)   → 407 nonce=b, stale    the nonce had run out, the password was right: answer it
    INVITE (CSeq 3)   → 407 nonce=b           the very same nonce is refused: the password is wrong, give up

A request is answered for at most twice, whatever the server says. Where a server allows it (qop), a nonce goes on
serving the dialog's later requests, each with the next nonce count, until the server hands out the next one
(`nextnonce`, RFC 7616 §3.5). A proxy that forked a request gathers the challenges of all branches in one response
(RFC 3261 §16.7), so a 401 may well bring challenges of proxies, and a 407 some of servers: all of them are answered.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from calledind.sip.grammar import LWS, ParseError, end_of_quoted, is_token, quote
from calledind.sip.message import Message, Request, Response

MOST_TRIES = 2
"Times that one request is repeated with an answer."

MOST_REALMS = 8
"""Realms whose answers go along with later requests. A registration lives for months: with a server that names itself
anew each time, its requests would grow without end."""

_HASHES = {"sha-512-256": "sha512_256", "sha-256": "sha256", "md5": "md5"}
"Algorithm -> its name in hashlib, the strongest first."

_CHALLENGED = (401, 407)

_HEADERS = {
    False: ("WWW-Authenticate", "Authorization", "Authentication-Info"),
    True: ("Proxy-Authenticate", "Proxy-Authorization", "Proxy-Authentication-Info"),
}
"Whether it is a proxy's -> the header with the challenges, the one with the answers, the one that follows success."


@dataclass(frozen=True, slots=True)
class Credentials:
    """What we are known by."""

    username: str
    password: str = field(repr=False)
    realm: str | None = None
    "The only realm that is answered; None answers any."
    md5: bool = True
    "Whether MD5 may be used where nothing stronger is offered (RFC 8760 §2.6 would rather not)."


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge. The quoted parts are kept as they stood between their quotes, for they go back that way."""

    realm: str
    nonce: str
    algorithm: str = ""
    'As it was written, such as "SHA-256" or "MD5-sess"; empty: not said, which means MD5.'
    qop: tuple[str, ...] = ()
    'Qualities of protection, in lower case: "auth", "auth-int"; empty: of the days before them (RFC 2069).'
    opaque: str | None = None
    stale: bool = False
    "The nonce had run out; the password was right."
    proxy: bool = False
    "Of a proxy: the answer goes to Proxy-Authorization."

    @property
    def hash(self) -> str | None:
        """The name in hashlib; None for an algorithm that we don't know."""
        name = self.algorithm.lower().removesuffix("-sess") or "md5"
        return _HASHES.get(name)

    @property
    def strength(self) -> int:
        """More is stronger; 0 can't be answered."""
        known = list(_HASHES.values())
        usable = self.hash is not None and (not self.qop or "auth" in self.qop or "auth-int" in self.qop)
        return len(known) - known.index(self.hash) if usable and self.hash else 0


def parse_challenges(message: Message) -> list[Challenge]:
    """Return the Digest challenges of a message in their order. Other schemes are left out, and with them lines that
    can't be read: the words of some schemes are no parameters (RFC 7235 §2.1)."""
    found: list[Challenge] = []
    for proxy, (name, *_) in _HEADERS.items():
        for value in message.all(name):
            with suppress(ParseError):
                found += [_challenge(parameters, proxy) for scheme, parameters in _schemes(value) if scheme == "digest"]
    return found


def credentials_of(request: Request) -> list[tuple[str, str]]:
    """Return the headers with a request's answers, which its ACK goes with as well (RFC 3261 §22.1)."""
    return [pair for pair in request.headers if pair[0] in ("Authorization", "Proxy-Authorization")]


def _challenge(parameters: dict[str, str], proxy: bool) -> Challenge:
    if "realm" not in parameters or "nonce" not in parameters:
        raise ParseError("a challenge has no realm or no nonce")
    return Challenge(
        realm=parameters["realm"],
        nonce=parameters["nonce"],
        algorithm=parameters.get("algorithm", ""),
        qop=tuple(option for part in parameters.get("qop", "").split(",") if (option := part.strip(LWS).lower())),
        opaque=parameters.get("opaque"),
        stale=parameters.get("stale", "").lower() == "true",
        proxy=proxy,
    )


def _schemes(text: str) -> list[tuple[str, dict[str, str]]]:
    """Read "Digest a=b, c="d"" as scheme and parameters, names in lower case; one line may have several schemes."""
    schemes: list[tuple[str, dict[str, str]]] = []
    at = 0
    while at < len(text):
        if text[at] in " \t,":
            at += 1
            continue
        end = _word(text, at)
        word = text[at:end].lower()
        at = _blank(text, end)
        if not is_token(word):
            raise ParseError("a challenge has something that is no word")
        if text[at : at + 1] != "=":
            schemes.append((word, {}))
            continue
        if not schemes:
            raise ParseError("a challenge has no scheme")
        at = _blank(text, at + 1)
        if text[at : at + 1] == '"':
            close = end_of_quoted(text, at)
            value, at = text[at + 1 : close], close + 1
        else:
            end = _word(text, at)
            value, at = text[at:end], end
        schemes[-1][1].setdefault(word, value)
    return schemes


def _word(text: str, at: int) -> int:
    while at < len(text) and text[at] not in ' \t,="':
        at += 1
    return at


def _blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in LWS:
        at += 1
    return at


@dataclass(slots=True)
class _Answered:
    """A challenge that we hold an answer to, and how often its nonce has served."""

    challenge: Challenge
    cnonce: str
    tried: bool = True
    "The request that is being sent was answered for from this challenge: refused once more, it is refused for good."
    count: int = 0
    session: str = ""
    "The hash of user, realm and password that the algorithms ending in -sess make once a nonce."


class Authenticator:
    """Answers the challenges that one call's requests meet; made anew for each call.

    `cnonce` makes the client's nonces: 16 random hexadecimal digits unless a test says otherwise.
    """

    def __init__(self, credentials: Credentials, *, cnonce: Callable[[], str] = lambda: secrets.token_hex(8)) -> None:
        self._credentials = credentials
        self._cnonce = cnonce
        self._answered: dict[tuple[bool, str], _Answered] = {}
        self._tries = 0

    def answer(self, response: Response, *, method: str, uri: str, body: bytes) -> list[tuple[str, str]] | None:
        """Return the headers for the request's repetition, or None where it is not to be repeated.

        `method`, `uri` (the Request-URI as written) and `body` are those of the request that was refused. None
        when the response is no 401 or 407, has no challenge that we can answer, refuses an answer that we gave
        from the very same nonce without saying stale, or refuses one request for the third time.
        """
        if response.status not in _CHALLENGED or self._tries >= MOST_TRIES:
            return None
        strongest: dict[tuple[bool, str], Challenge] = {}
        for challenge in filter(self._ours, parse_challenges(response)):
            best = strongest.setdefault((challenge.proxy, challenge.realm), challenge)
            if challenge.strength > best.strength:
                strongest[challenge.proxy, challenge.realm] = challenge
        if not strongest or any(map(self._refused, strongest.values())):
            return None
        for challenge in strongest.values():
            self._take(challenge)
        self._tries += 1
        return self._headers(method, uri, body)

    def authorization(self, method: str, uri: str, body: bytes) -> list[tuple[str, str]]:
        """Return the headers for a new request, from what was learned so far; none before the first challenge."""
        self._tries = 0
        for answered in self._answered.values():
            answered.tried = False
        return self._headers(method, uri, body)

    def learn(self, response: Response) -> None:
        """Take the nonce that the next request shall use, where a success hands one out."""
        for proxy, (*_, name) in _HEADERS.items():
            answered = [each for (kind, _), each in self._answered.items() if kind == proxy]
            text = response.get(name)
            if text is None or len(answered) != 1:
                continue  # which of several realms it is meant for isn't said
            try:
                nonce = _schemes(f"Digest {text}")[0][1].get("nextnonce", "")
            except ParseError:
                continue
            challenge = answered[0].challenge
            # Repeats of a 2xx bring the same once more: the count must not start again.
            if nonce not in ("", challenge.nonce):
                following = _Answered(replace(challenge, nonce=nonce), self._cnonce(), tried=False)
                self._answered[proxy, challenge.realm] = following

    def _ours(self, challenge: Challenge) -> bool:
        allowed = self._credentials.md5 or challenge.hash != "md5"
        return allowed and challenge.strength > 0 and self._credentials.realm in (None, challenge.realm)

    def _refused(self, challenge: Challenge) -> bool:
        earlier = self._same(challenge)
        return earlier is not None and earlier.tried and not challenge.stale

    def _take(self, challenge: Challenge) -> None:
        earlier = self._same(challenge)
        if earlier is None:
            self._answered[challenge.proxy, challenge.realm] = _Answered(challenge, self._cnonce())
            if len(self._answered) > MOST_REALMS:
                del self._answered[next(iter(self._answered))]
        else:
            # A nonce that is challenged with again goes on counting: from 1 once more, it would be a replay.
            earlier.challenge, earlier.tried = challenge, True

    def _same(self, challenge: Challenge) -> _Answered | None:
        "What was answered from the same nonce."
        earlier = self._answered.get((challenge.proxy, challenge.realm))
        if earlier is None:
            return None
        before = earlier.challenge
        alike = before.nonce == challenge.nonce and before.algorithm.lower() == challenge.algorithm.lower()
        return earlier if alike else None

    def _headers(self, method: str, uri: str, body: bytes) -> list[tuple[str, str]]:
        return [
            (_HEADERS[proxy][1], self._digest(answered, method, uri, body))
            for (proxy, _), answered in self._answered.items()
        ]

    def _digest(self, answered: _Answered, method: str, uri: str, body: bytes) -> str:
        """Write the value of an Authorization header (RFC 7616 §3.4)."""
        challenge, user = answered.challenge, self._credentials.username

        def hashed(octets: bytes) -> str:
            return hashlib.new(challenge.hash or "md5", octets, usedforsecurity=False).hexdigest()

        answered.count += 1
        count = f"{answered.count:08x}"
        if not answered.session:
            answered.session = hashed(f"{user}:{challenge.realm}:{self._credentials.password}".encode())
            if challenge.algorithm.lower().endswith("-sess"):
                answered.session = hashed(f"{answered.session}:{challenge.nonce}:{answered.cnonce}".encode())
        qop = "auth" if "auth" in challenge.qop else "auth-int" if challenge.qop else ""
        request = f"{method}:{uri}" + (f":{hashed(body)}" if qop == "auth-int" else "")
        middle = f"{challenge.nonce}:{count}:{answered.cnonce}:{qop}" if qop else challenge.nonce
        digest = hashed(f"{answered.session}:{middle}:{hashed(request.encode())}".encode())
        parts = [
            f"username={quote(user)}",
            f'realm="{challenge.realm}"',
            f'nonce="{challenge.nonce}"',
            f'uri="{uri}"',
            f'response="{digest}"',
        ]
        if challenge.algorithm:
            parts.append(f"algorithm={challenge.algorithm}")
        if qop or challenge.algorithm.lower().endswith("-sess"):
            parts.append(f'cnonce="{answered.cnonce}"')
        if qop:
            parts += [f"qop={qop}", f"nc={count}"]
        if challenge.opaque is not None:
            parts.append(f'opaque="{challenge.opaque}"')
        return "Digest " + ", ".join(parts)
