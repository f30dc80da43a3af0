"""Broken messages by the thousand: nothing but ParseError may come out of the message layer.

CALLEDIN_FUZZ sets how many (2,000); the same seed makes the same messages.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from calledind.sip.auth import Authenticator, Credentials, parse_challenges
from calledind.sip.framing import Keepalive, StreamFramer
from calledind.sip.grammar import ParseError
from calledind.sip.message import Message, Request, Response, parse, response_to
from tests.sip.test_message import INVITE

MUTATIONS = int(os.environ.get("CALLEDIN_FUZZ", "2000"))

SEEDS = (
    INVITE,
    b"SIP/2.0 407 Proxy Authentication Required\r\n"
    b"v: SIP/2.0/UDP [2001:db8::1]:5060;rport=5060;received=2001:db8::2;branch=z9hG4bK1\r\n"
    b'f: "A \\"B\\"" <sip:a%20b:pw@[::1]:5060;lr?x=y&z>;tag=1\r\nt: Bob <tel:+1-212;phone-context=x>;tag=2\r\n'
    b'i: a@b\r\nCSeq: 2 INVITE\r\nm: <sip:c@d>;q=0.5, "x,y" <sips:e@f>\r\nRetry-After: 5 (soon);duration=9\r\n'
    b'Proxy-Authenticate: Digest realm="r", nonce="n", qop="auth,auth-int", algorithm=SHA-256, stale=true\r\n'
    b'Reason: SIP;cause=200, Q.850;cause=17;text="busy"\r\nRoute: <sip:p;lr>\r\nc: application/sdp\r\nl: 3\r\n\r\nabc',
    b"OPTIONS sip:a@b SIP/2.0\nVia: SIP/2.0/UDP\n h\nFrom: sip:a@b;tag=1\nTo: sip:c@d\nCall-ID: x\nCSeq: 1 OPTIONS\n\n",
)
PIECES = (
    *(
        b"\r\n",
        b"\r",
        b"\n",
        b"\r\n\r\n",
        b"\n\n",
        b"\r\n ",
        b" ",
        b"\t",
        b'"',
        b"\\",
        b"<",
        b">",
        b",",
        b";",
        b":",
        b"=",
        b"@",
    ),
    *(
        b"[",
        b"]",
        b"%",
        b"%00",
        b"?",
        b"&",
        b"/",
        b"(",
        b"*",
        b"\0",
        b"\xff",
        b"\xc3\xa9",
        b"\xe2\x80\xa8",
        b"\x85",
        b"\xc2\xb2",
    ),
    *(
        b"0",
        b"-1",
        b"9" * 20,
        b"SIP/2.0",
        b"sip:",
        b"tag=",
        b"Content-Length: 1\r\n",
        b"[::",
        b"::ffff:1.2.3.4",
        b"Digest ",
    ),
)


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Return the octets with one to six things done to them, or with one header of nothing sensible."""
    if chance.random() < 0.2:
        lines = data.split(b"\r\n")
        at = chance.randrange(len(lines))
        junk = b"".join(chance.choice(PIECES[5:]) for _ in range(chance.randint(0, 4)))
        lines[at] = lines[at].partition(b":")[0] + b":" + junk
        return b"\r\n".join(lines)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data) + 1)
        to = min(len(data), at + chance.choice((1, 1, 2, 8, 60)))
        data = (
            chance.choice(
                (
                    data[:at] + chance.choice(PIECES) + data[at:],
                    data[:at] + chance.choice(PIECES) + data[to:],
                    data[:at] + data[to:],
                    data[:at] + data[at:to] * chance.choice((2, 3, 50)) + data[to:],
                    data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :],
                    data[:at],
                )
            )
            or b"x"
        )
    return data


ACCESSORS: tuple[Callable[[Message], object], ...] = (
    *(Message.check, lambda m: m.via, lambda m: m.vias, lambda m: m.from_, lambda m: m.to, lambda m: m.call_id),
    *(lambda m: m.cseq, lambda m: m.contact, lambda m: m.contacts, lambda m: m.record_route, lambda m: m.route),
    *(lambda m: m.max_forwards, lambda m: m.content_type, lambda m: m.reason_q850, lambda m: m.retry_after),
    *(lambda m: m.via.received, lambda m: m.via.rport, lambda m: m.via.with_source(("192.0.2.1", 5060))),
    *(lambda m: m.from_.parsed_uri.username, lambda m: m.to.parsed_uri, lambda m: m.values("Contact")),
    *(lambda m: [str(contact.parsed_uri) for contact in m.contacts], parse_challenges),
)


class FuzzTests(SynchronousTestCase):
    def test_nothing_but_parse_error_comes_out(self) -> None:
        """Every reader of every mutated message works or raises ParseError; what was read can be written and read."""
        chance = random.Random(3261)
        taken = refused = 0
        for _ in range(MUTATIONS):
            data = mutate(chance, chance.choice(SEEDS))
            try:
                message = parse(data)
            except ParseError as error:
                refused += 1
                if error.request is not None:
                    bytes(response_to(error.request, error.status, to_tag="t"))
                continue
            taken += 1
            self.exercise(message)
        # The mutations are neither all harmless nor all deadly.
        self.assertGreater(taken, MUTATIONS // 20)
        self.assertGreater(refused, MUTATIONS // 20)

    def exercise(self, message: Request | Response) -> None:
        """Read all that there is to read, and write the message."""
        for read in ACCESSORS:
            try:
                read(message)
            except ParseError:
                continue
        again = parse(bytes(message))
        self.assertEqual(again.body, message.body)
        self.assertEqual(bytes(again), bytes(message))
        if isinstance(message, Request):
            bytes(response_to(message, 200, to_tag="t"))
            try:
                _ = message.request_uri.username
                bytes(message.received_from(("192.0.2.1", 5060)))
            except ParseError:
                pass
        else:
            Authenticator(Credentials("a", "b")).answer(message, method="INVITE", uri="sip:a@b", body=b"")

    def test_streams(self) -> None:
        """The same of messages on a stream, in pieces."""
        chance = random.Random(5626)
        found = 0
        for _ in range(MUTATIONS // 10):
            framer = StreamFramer()
            stream = SEEDS[0] + mutate(chance, chance.choice(SEEDS)) + SEEDS[0]
            try:
                while stream:
                    size = chance.randint(1, 400)
                    for item in framer.feed(stream[:size]):
                        found += 1
                        if not isinstance(item, Keepalive):
                            self.exercise(item)
                    stream = stream[size:]
            except ParseError:
                continue
        self.assertGreaterEqual(found, MUTATIONS // 10)
