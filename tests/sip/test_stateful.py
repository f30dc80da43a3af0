"""Random legal and illegal inputs to a user agent with several calls, in any order, on a network that may do anything.

Whatever comes: a call has at most one answer and exactly one last word, nothing is told after that, nothing but our
own misuse raises, and once everybody has hung up neither side keeps a transaction, a dialog, a session or a timer.
`CALLEDIN_LONG=1` plays about a million inputs, without it some thousands.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from calledind.sip.auth import Credentials
from calledind.sip.events import Answered, Ended, Event, Refused, Unreachable
from calledind.sip.message import Request, parse, response_to
from calledind.sip.server import AlreadyAnswered
from calledind.sip.uas import IncomingCall
from calledind.sip.useragent import InviteSession
from tests.sip.network import DELAY, Datagram
from tests.sip.parties import ANSWER, OFFER, THEM, US, World, invitation, outside

LONG = bool(os.environ.get("CALLEDIN_LONG"))
STEPS = 50
EXAMPLES = 20_000 if LONG else 60
LAST = (Refused, Unreachable, Ended)
LEAVE = 4 * 33.0
"Seconds after which nothing may be left: an INVITE that nobody answers, a CANCEL, a BYE, a lingering transaction."

tags = st.sampled_from(("a", "b", "c", ""))
bodies = st.sampled_from((b"", OFFER, ANSWER, b"rubbish"))
statuses = st.sampled_from(
    (100, 180, 183, 199, 200, 202, 299, 300, 302, 401, 407, 408, 422, 481, 486, 487, 491, 503, 603)
)
headers = st.lists(
    st.sampled_from(
        (
            ("Require", "100rel"),
            ("Require", "timer"),
            ("RSeq", "1"),
            ("RSeq", "2"),
            ("RSeq", "3"),
            ("RSeq", "x"),
            ("Session-Expires", "90;refresher=uac"),
            ("Session-Expires", "90;refresher=uas"),
            ("Session-Expires", "5"),
            ("Session-Expires", "soon"),
            ("Supported", "timer, 100rel"),
            ("Min-SE", "300"),
            ("Contact", "<sip:else@127.0.0.2:5060>"),
            ("Contact", "<sip:127.0.0.2;transport=tcp>"),
            ("Contact", "*"),
            ("Record-Route", "<sip:127.0.0.2;lr>"),
            ("Record-Route", "<sip:127.0.0.2:5060>"),
            ("WWW-Authenticate", 'Digest realm="r", nonce="1", qop="auth"'),
            ("WWW-Authenticate", 'Digest realm="r", nonce="2"'),
            ("Proxy-Authenticate", 'Digest realm="p", nonce="1", stale=true'),
            ("Allow", "INVITE, UPDATE"),
            ("RAck", "1 1 INVITE"),
            ("Reason", "Q.850;cause=16"),
            ("Info-Package", "x"),
        )
    ),
    max_size=4,
)
methods = st.sampled_from(
    ("INVITE", "ACK", "BYE", "CANCEL", "UPDATE", "PRACK", "INFO", "OPTIONS", "NOTIFY", "REFER", "MESSAGE", "DANCE")
)
pick = st.integers(0, 1_000_000)


class UserAgentMachine(RuleBasedStateMachine):
    """Our user agent, a callee of ours that does what it is told, and somebody who sends anything at all."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.take)
        self.called: list[IncomingCall] = []
        self.sessions: list[InviteSession] = []
        self.sent: list[bool] = []
        self.due: list[bool] = []
        "Whether the session must have a last word: it was sent, and not ended before."
        self.told: list[list[Event]] = []
        self.answer: bytes | None = ANSWER

    def take(self, call: IncomingCall) -> None:
        call.renegotiate = lambda offer: self.answer
        self.called.append(call)

    # what the owner does

    @rule(known=st.booleans(), supported=st.booleans(), session_expires=st.sampled_from((0, 90)))
    @precondition(lambda self: len(self.sessions) < 6)
    def call(self, known: bool, supported: bool, session_expires: int) -> None:
        self.prepare(known, supported, session_expires)
        self.send()
        self.world.network.pass_time(0.05)

    @rule(known=st.booleans(), supported=st.booleans(), session_expires=st.sampled_from((0, 90)))
    @precondition(lambda self: len(self.sessions) < 6)
    def prepare(self, known: bool, supported: bool, session_expires: int) -> None:
        changes: dict[str, object] = {"renegotiate": lambda offer: self.answer, "session_expires": session_expires}
        if known:
            changes["credentials"] = Credentials("me", "secret")
        if not supported:
            changes["supported"] = ()
        self.sessions.append(self.world.agent.prepare(invitation(**changes)))
        self.sent.append(False)
        self.due.append(False)
        self.told.append([])

    @rule()
    @precondition(lambda self: self.sessions and not self.sent[-1])
    def send(self) -> None:
        self.sent[-1] = True
        self.due[-1] = self.sessions[-1].state == "prepared"
        self.sessions[-1].send(self.told[-1].append)

    @rule(which=pick)
    @precondition(lambda self: self.sessions)
    def send_twice(self, which: int) -> None:
        at = which % len(self.sessions)
        if self.sent[at] and self.sessions[at].state not in ("prepared", "over"):
            try:
                self.sessions[at].send(self.told[at].append)
            except RuntimeError:
                return
            raise AssertionError("a session was sent twice")

    @rule(which=pick)
    @precondition(lambda self: self.sessions)
    def acknowledge(self, which: int) -> None:
        at = which % len(self.sessions)
        if any(isinstance(event, Answered) for event in self.told[at]):
            self.sessions[at].acknowledge()

    @rule(which=pick, reason=st.sampled_from((None, "Q.850;cause=16")))
    @precondition(lambda self: self.sessions)
    def end(self, which: int, reason: str | None) -> None:
        self.sessions[which % len(self.sessions)].end(reason)

    @rule(answer=st.sampled_from((None, ANSWER, OFFER)))
    def change_mind(self, answer: bytes | None) -> None:
        self.answer = answer

    # what the callee does

    @rule(more=headers, sdp=bodies, acknowledged=st.booleans())
    @precondition(lambda self: self.called)
    def answered(self, more: list[tuple[str, str]], sdp: bytes, acknowledged: bool) -> None:
        "The last call is picked up, and perhaps acknowledged: without it little would happen in dialogs."
        self.called[-1].respond(200, "As told", sdp, more)
        self.world.network.pass_time(0.05)
        if acknowledged:
            for at in range(len(self.sessions)):
                self.acknowledge(at)
            self.world.network.pass_time(0.05)

    @rule(which=pick, method=methods, more=headers, body=bodies)
    @precondition(lambda self: self.world.callee.dialogs)
    def asked(self, which: int, method: str, more: list[tuple[str, str]], body: bytes) -> None:
        "A request of the callee's, as it is due in its dialog."
        dialogs = self.world.callee.dialogs
        kind = [("Content-Type", "application/sdp")] if body else []
        request = dialogs[which % len(dialogs)].request(method, THEM, [*more, *kind], body)
        self.world.agent.datagram_received(bytes(request), THEM)

    @rule(which=pick, status=statuses, sdp=bodies, tag=tags, more=headers, reliable=st.booleans())
    @precondition(lambda self: self.called)
    def respond(
        self, which: int, status: int, sdp: bytes, tag: str, more: list[tuple[str, str]], reliable: bool
    ) -> None:
        call = self.called[which % len(self.called)]
        call.respond(status, "As told", sdp, more, tag or None, reliable and 100 < status < 200)

    @rule(which=pick, tag=tags)
    @precondition(lambda self: self.called)
    def hang_up(self, which: int, tag: str) -> None:
        self.called[which % len(self.called)].bye(to_tag=tag or None)

    @rule(which=pick, offer=bodies, tag=tags)
    @precondition(lambda self: self.called)
    def offer(self, which: int, offer: bytes, tag: str) -> None:
        with _misuse():
            self.called[which % len(self.called)].reinvite(offer, lambda status, sdp: None, tag or None)

    # what anybody may send

    @rule(which=pick, status=statuses, sdp=bodies, tag=tags, more=headers)
    @precondition(lambda self: self.world.network.sent)
    def stray_response(self, which: int, status: int, sdp: bytes, tag: str, more: list[tuple[str, str]]) -> None:
        "A response to a request of ours, whether or not that is due."
        requests = [datagram for datagram in self.world.network.sent[-60:] if datagram.source == US]
        if not requests:
            return
        request = parse(requests[which % len(requests)].data)
        if isinstance(request, Request):
            kind = [("Content-Type", "application/sdp")] if sdp else []
            response = response_to(request, status, "Stray", tag or None, [*more, *kind], sdp)
            self.world.agent.datagram_received(bytes(response), THEM)

    @rule(which=pick, method=methods, cseq=st.integers(0, 6), tag=tags, more=headers, body=bodies)
    @precondition(lambda self: self.sessions)
    def stray_request(
        self, which: int, method: str, cseq: int, tag: str, more: list[tuple[str, str]], body: bytes
    ) -> None:
        "A request in some dialog of ours, or none, of this CSeq."
        session = self.sessions[which % len(self.sessions)]
        call_tags = [call.tag for call in self.called]
        theirs = tag or (call_tags[which % len(call_tags)] if call_tags else "x")
        request = outside(method, to=f"<sip:us@127.0.0.1>;tag={session.local_tag}")
        own = [pair for pair in request.headers if pair[0] not in ("From", "Call-ID", "CSeq")]
        own += [("From", f"<sip:them@127.0.0.2>;tag={theirs}"), ("Call-ID", session.call_id)]
        own += [("CSeq", f"{cseq} {method}"), *more, *([("Content-Type", "application/sdp")] if body else [])]
        self.world.agent.datagram_received(bytes(Request(method, request.uri, own, body)), THEM)

    @rule(method=methods, more=headers)
    def unasked(self, method: str, more: list[tuple[str, str]]) -> None:
        self.world.agent.datagram_received(bytes(outside(method, *more)), THEM)

    @rule(which=pick)
    @precondition(lambda self: self.world.network.sent)
    def replay(self, which: int) -> None:
        "Anything that was sent, once more, to whom it was meant for."
        sent = self.world.network.sent
        datagram = sent[which % len(sent)]
        receive = self.world.agent if datagram.target == US else self.world.callee
        receive.datagram_received(datagram.data, datagram.source)

    @rule(which=pick, seed=pick)
    @precondition(lambda self: self.world.network.sent)
    def damage(self, which: int, seed: int) -> None:
        "Anything that was sent, with octets changed, lost or doubled."
        sent = self.world.network.sent
        octets = bytearray(sent[which % len(sent)].data)
        chance = random.Random(seed)
        for _ in range(chance.randrange(1, 5)):
            at = chance.randrange(len(octets))
            octets[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
            octets = octets or bytearray(b"x")
        self.world.agent.datagram_received(bytes(octets), THEM)

    # what the network does

    @rule(seconds=st.sampled_from((0.0, 0.02, 0.02, 0.3, 0.3, 1.0, 4.0, 20.0, 50.0)))
    def wait(self, seconds: float) -> None:
        self.world.network.pass_time(seconds)

    @rule(kind=st.sampled_from(("straight", "lossy", "dead", "doubled", "slow")), seed=pick)
    def weather(self, kind: str, seed: int) -> None:
        self.world.network.rule = _weather(kind, random.Random(seed))

    @rule()
    def nobody_listens(self) -> None:
        self.world.agent.transport_failed(THEM)

    # what always holds

    @invariant()
    def one_last_word(self) -> None:
        for told in self.told:
            assert sum(isinstance(event, Answered) for event in told) <= 1, told
            assert not any(isinstance(event, LAST) for event in told[:-1]), told

    def teardown(self) -> None:
        world = self.world
        world.network.rule = lambda datagram: [DELAY]
        world.network.pass_time(LEAVE)
        for session in self.sessions:
            session.end()
        for _ in range(2):
            for call in self.called:
                call.drop()
                for tag in (call.tag, "a", "b", "c"):
                    call.bye(to_tag=tag)
            world.network.pass_time(LEAVE)
        ladder = world.network.ladder()
        for session, due, told in zip(self.sessions, self.due, self.told, strict=True):
            assert session.state == "over", (session.state, ladder)
            assert [isinstance(event, LAST) for event in told[-1:]] == [True] * due, (told, ladder)
        assert len(world.agent) == 0, ladder
        assert len(world.callee) == 0, ladder
        assert world.clock.getDelayedCalls() == [], ladder


def _weather(kind: str, chance: random.Random) -> Callable[[Datagram], list[float]]:
    def lossy(datagram: Datagram) -> list[float]:
        return [] if chance.random() < 0.3 else [chance.choice((DELAY, DELAY, 0.6, 3.0))]

    return {
        "straight": lambda datagram: [DELAY],
        "lossy": lossy,
        "dead": lambda datagram: [],
        "doubled": lambda datagram: [DELAY, 3 * DELAY],
        "slow": lambda datagram: [chance.uniform(0.1, 2.0)],
    }[kind]


@contextmanager
def _misuse() -> Iterator[None]:
    "What our own mistakes raise, as these are at random."
    with contextlib.suppress(RuntimeError, AlreadyAnswered):
        yield


class StatefulTests(SynchronousTestCase):
    def test_anything(self) -> None:
        """Any sequence of inputs leaves each call with one end, and nothing behind."""
        run_state_machine_as_test(
            UserAgentMachine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                derandomize=not LONG,
                suppress_health_check=list(HealthCheck),
            ),
        )
