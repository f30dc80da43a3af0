"""Requests inside a call that are challenged, and nonces that last for the call."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from calledind.sip.auth import Credentials
from calledind.sip.events import Ended
from calledind.sip.message import Request, Response, parse, response_to
from calledind.sip.uas import IncomingCall
from tests.sip.parties import ANSWER, OFFER, THEM, World

CREDENTIALS = Credentials("alice", "secret")


def challenge(nonce: str, header: str = "Proxy-Authenticate", more: str = "") -> tuple[str, str]:
    return header, f'Digest realm="r", nonce="{nonce}", qop="auth"{more}'


def answers(call: IncomingCall, *headers: tuple[str, str]) -> None:
    """Challenge the INVITE of a call, and answer its repetition with these headers."""
    if call.request.get("Proxy-Authorization"):
        call.respond(200, sdp=ANSWER, headers=headers)
    else:
        call.respond(407, headers=[challenge("one")])


def told(request: Request, header: str = "Proxy-Authorization") -> tuple[str, str]:
    """Nonce and count of a request's answer."""
    value = request.get(header) or ""
    return tuple(re.findall(r'\bnonce="(\w+)"', value) + re.findall(r"nc=(\w+)", value))


class ChallengedTests(SynchronousTestCase):
    def answered(self, *headers: tuple[str, str]) -> World:
        """A call that was challenged, answered and acknowledged."""
        self.world = World(lambda call: answers(call, *headers))
        self.session = self.world.answered(credentials=CREDENTIALS)
        return self.world

    def sent(self) -> Request:
        message = parse(self.world.network.sent[-1].data)
        assert isinstance(message, Request)
        return message

    def receive(self, response: Response) -> None:
        self.world.agent.datagram_received(bytes(response), THEM)

    def test_next_nonce(self) -> None:
        """The nonce that came with the 200 is the BYE's, so that nothing is asked for twice."""
        world = self.answered(("Proxy-Authentication-Info", 'nextnonce="two"'))
        world.network.rule = lambda datagram: []
        self.session.end()
        self.assertEqual(told(self.sent()), ("two", "00000001"))

    def test_same_nonce_refused(self) -> None:
        """A BYE whose counted nonce is refused is tried once more, and then it is over."""
        world = self.answered()
        world.network.rule = lambda datagram: []
        self.session.end()
        for count in ("00000002", "00000003"):
            bye = self.sent()
            self.assertEqual(told(bye), ("one", count))
            self.receive(response_to(bye, 407, headers=[challenge("one")]))
        self.assertEqual(world.last_words, [Ended("us", None, "BYE: 407")])

    def test_bye_of_both(self) -> None:
        """A challenge that comes after the peer's own BYE isn't taken up."""
        world = self.answered()
        world.network.rule = lambda datagram: []
        self.session.end()
        bye = self.sent()
        world.agent.datagram_received(bytes(world.in_dialog("BYE")), THEM)
        before = len(world.network.sent)
        self.receive(response_to(bye, 407, headers=[challenge("two")]))
        self.assertEqual(len(world.network.sent), before)
        self.assertEqual(world.last_words, [Ended("us", None, "both said BYE")])

    def test_reinvite(self) -> None:
        """An offer of ours that is challenged goes again, its ACK has the same answer."""
        world = self.answered()
        world.network.rule = lambda datagram: []
        (usage,) = world.agent._endpoint.usages.values()
        heard: list[tuple[int, bytes]] = []
        usage.reinvite(OFFER, lambda status, sdp: heard.append((status, sdp)))
        first = self.sent()
        self.assertEqual(told(first), ("one", "00000002"))
        stale = challenge("two", "WWW-Authenticate", ", stale=true")
        self.receive(response_to(first, 401, headers=[stale]))
        second = self.sent()
        self.assertEqual((second.method, second.cseq.number), ("INVITE", first.cseq.number + 1))
        self.assertEqual(told(second, "Authorization"), ("two", "00000001"))
        self.receive(response_to(second, 200, headers=[("Content-Type", "application/sdp")], body=ANSWER))
        ack = self.sent()
        self.assertEqual((ack.method, ack.cseq.number), ("ACK", second.cseq.number))
        self.assertEqual(ack.get("Authorization"), second.get("Authorization"))
        self.assertEqual(heard, [(200, ANSWER)])
