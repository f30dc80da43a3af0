"""One call at the carrier: the script of its number, step by step, and the callee's media."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from calledind.sdp import Agreed, SDPError, SessionDescription, agree, answer, offer
from calledind.simulator.callee import Callee, NoPort
from calledind.simulator.recording import Heard, Recording
from calledind.simulator.scenarios import (
    Answer,
    Ask,
    HangUp,
    Hold,
    Press,
    Respond,
    Scenario,
    TimedStep,
)
from calledind.simulator.telephone import Line, Telephone
from calledind.sip.grammar import ParseError
from calledind.sip.uas import Acked, ByeReceived, Cancelled, Gone, IncomingCall
from calledind.sip.uri import Uri


@dataclass(frozen=True, slots=True)
class HeardCall:
    """What became of one call, as the carrier and the callee saw it."""

    sip_call_id: str
    "The Call-ID of the INVITE."
    number: str
    "As the Request-URI has it, without the plus: country code and number."
    scenario: str
    "Name of the scenario."
    started: float
    "When the INVITE came, seconds since the epoch."
    answered: bool
    ended_by: str
    '"caller" (BYE), "callee" (BYE), "cancelled", "refused", or "nobody": no ACK or no BYE came.'
    codec: str
    "Empty where no media was agreed."
    file: str | None
    "Path of the recording, None where there is none."
    packets: int
    lost: int
    repeated: int
    strays: int
    jitter: float
    "Seconds."
    longest_gap: float
    "Seconds."
    seconds: float
    "Of the recording."
    notes: tuple[str, ...]
    "What a strict carrier would complain of."

    def row(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


LAST_PACKETS = 0.1
"Seconds that a callee goes on listening after the caller's BYE."
NOTHING = Heard(0, 0, 0, 0, 0.0, 0.0, 0.0)


class Play:
    """Plays one scenario to one caller. `done` is called once, when the call is over and the callee has fallen silent.

    A fork's second telephone is `_other`: it answers, is to be refused by a BYE, and hears nothing.
    """

    def __init__(
        self,
        reactor: Any,
        incoming: IncomingCall,
        scenario: Scenario,
        script: Sequence[TimedStep],
        *,
        host: str,
        started: float,
        talks: bool,
        done: Callable[[HeardCall, Recording | None], None],
        telephone: Telephone | None = None,
    ) -> None:
        self._reactor = reactor
        self._incoming = incoming
        self._scenario = scenario
        self._host = host
        self._started = started
        self._talks = talks
        self._done = done
        self._telephone = telephone or Telephone()
        self._line: Line | None = None
        "What the one at the telephone has in hand, where that is asked."
        self._steps = list(script)
        self._waiting: Any = None
        "The next step's timer."
        self._callee: Callee | None = None
        self._other: Callee | None = None
        self._other_tag = secrets.token_hex(8)
        self._agreed: Agreed | None = None
        self._session_id = secrets.randbits(31)
        self._version = 0
        self._port = 0
        self._answered = False
        self._leaving = False
        "The caller's BYE has come."
        self._over = False
        self._notes: list[str] = []
        self._other_left = False
        "The caller has ended the call with the second telephone, which it must."
        for name in ("Contact", "Max-Forwards"):
            if incoming.request.get(name) is None:
                self._notes.append(f"the INVITE has no {name} (RFC 3261 §8.1.1)")
        incoming.report = self._event
        incoming.renegotiate = self._renegotiated
        self._next()

    # the script

    def _next(self) -> None:
        if self._over or not self._steps:
            return
        step = self._steps.pop(0)
        self._waiting = self._reactor.callLater(step.after, self._do, step)

    def _do(self, step: TimedStep) -> None:
        self._waiting = None
        match step:
            case Respond():
                self._respond(step)
            case Answer():
                self._answer(step)
            case Press():
                if self._callee is None or not self._callee.press(step.digits):
                    self._notes.append("no key can be pressed: no telephone-event was agreed")
            case Hold():
                self._hold(step)
                return  # the script goes on when the call is taken back
            case HangUp():
                self._hang_up()
            case Ask():
                self._ask()
        self._next()

    def _respond(self, step: Respond) -> None:
        sdp = b""
        if step.early_media:
            described = self._describe(("PCMU", "PCMA"))
            if described is None:
                return
            sdp = described
        self._incoming.respond(step.status, step.phrase, sdp, step.headers)
        if step.early_media and self._callee is not None:
            self._callee.talk()
        if step.status >= 300:
            self._finish("refused")

    def _answer(self, step: Answer) -> None:
        sdp = self._describe(step.codecs)
        if sdp is None:
            return
        self._answered = True
        self._incoming.respond(200, "OK", sdp)
        if step.fork:
            self._answer_again(step)

    def _answer_again(self, step: Answer) -> None:
        """Let the second telephone answer, at a port of its own."""
        self._other = Callee(self._reactor, self._host, talks=False)
        try:
            theirs = SessionDescription.parse(self._incoming.offer)
            sdp, agreed = answer(
                theirs,
                address=self._host,
                port=self._other.open(),
                codecs=step.codecs,
                session_id=self._session_id + 1,
                version=0,
            )
        except (SDPError, NoPort) as error:
            self._notes.append(f"the second telephone can't answer: {error}")
            return
        self._other.agree(agreed)
        self._incoming.respond(200, "OK", bytes(sdp), to_tag=self._other_tag)

    def _describe(self, codecs: tuple[str, ...]) -> bytes | None:
        """Return the callee's SDP answer, making callee and answer where there are none yet. None: refused."""
        if self._callee is None:
            self._callee = Callee(
                self._reactor, self._host, loss=self._scenario.loss, seed=self._scenario.name, talks=self._talks
            )
            try:
                self._port = self._callee.open()
            except NoPort as error:
                self._refuse(503, str(error))
                return None
        try:
            sdp, agreed = answer(
                SessionDescription.parse(self._incoming.offer),
                address=self._host,
                port=self._port,
                codecs=codecs,
                session_id=self._session_id,
                version=self._version,
            )
        except SDPError as error:
            self._refuse(488, f"the offer can't be used: {error}")
            return None
        self._agreed = agreed
        self._callee.agree(agreed)
        return bytes(sdp)

    def _refuse(self, status: int, note: str) -> None:
        self._notes.append(note)
        self._incoming.respond(status)
        self._finish("refused")

    def _hold(self, step: Hold) -> None:
        self._renegotiate("sendonly", held=True)
        self._waiting = self._reactor.callLater(step.seconds, self._take_back)

    def _take_back(self) -> None:
        self._waiting = None
        self._renegotiate("sendrecv", held=False)
        self._next()

    def _renegotiate(self, direction: str, *, held: bool) -> None:
        if self._agreed is None or self._callee is None:
            return
        self._version += 1
        callee = self._callee
        ours = offer(
            address=self._host,
            port=self._port,
            codecs=(self._agreed.codec,),
            session_id=self._session_id,
            version=self._version,
            direction=direction,
        )

        def answered(status: int, sdp: bytes) -> None:
            if not 200 <= status < 300:
                self._notes.append(f"our re-INVITE ({direction}) was answered with {status}")
                return
            try:
                agreed = agree(ours, SessionDescription.parse(sdp))
            except SDPError as error:
                self._notes.append(f"the answer to our re-INVITE can't be used: {error}")
                return
            if held == agreed.receives:
                self._notes.append(f"the answer to our re-INVITE ({direction}) does not fit it")
            callee.agree(agreed)
            callee.held = held

        try:
            self._incoming.reinvite(bytes(ours), answered)
        except RuntimeError as error:
            self._notes.append(f"no re-INVITE: {error}")

    def _renegotiated(self, theirs: bytes) -> bytes | None:
        """Answer the caller's re-INVITE or UPDATE; one without an offer gets ours."""
        if self._callee is None or self._agreed is None:
            return None
        self._version += 1
        how: dict[str, Any] = {"address": self._host, "port": self._port, "codecs": (self._agreed.codec,)}
        how |= {"session_id": self._session_id, "version": self._version}
        if not theirs:
            return bytes(offer(**how))
        try:
            sdp, self._agreed = answer(SessionDescription.parse(theirs), **how)
        except SDPError as error:
            self._notes.append(f"the caller's new offer can't be used: {error}")
            return None
        self._callee.agree(self._agreed)
        return bytes(sdp)

    def _hang_up(self) -> None:
        self._incoming.bye()
        self._finish("callee")

    # the one at the telephone

    def _ask(self) -> None:
        line = Line(
            sip_call_id=self._incoming.request.call_id,
            number=_number(self._incoming),
            caller=_caller(self._incoming),
            answer=self._pick_up,
            refuse=self._decline,
            hang_up=self._put_down,
            press=lambda digit: self._callee is not None and self._callee.press(digit),
            lose=lambda share: None if self._callee is None else self._callee.lose(share),
        )
        if self._telephone.ring(line):
            self._line = line
        else:
            self._decline(486, "Busy Here")

    def _pick_up(self) -> None:
        if self._over or self._answered:
            return
        # What the browser is made to play.
        self._answer(Answer(codecs=("PCMU",)))
        if self._callee is not None:
            self._callee.hears = self._telephone.hear

    def _decline(self, status: int, phrase: str) -> None:
        if not self._over and not self._answered:
            self._respond(Respond(status, phrase))

    def _put_down(self) -> None:
        if self._answered and not self._over and not self._leaving:
            self._hang_up()
        else:
            self._decline(603, "Decline")

    # what the caller does

    def _event(self, event: Acked | ByeReceived | Cancelled | Gone) -> None:
        match event:
            case Acked() if event.to_tag == self._incoming.tag:
                if self._callee is not None and not self._over:
                    self._callee.talk()
                if self._line is not None and not self._over:
                    self._telephone.up(self._line)
            case ByeReceived() if event.to_tag == self._incoming.tag:
                self._let_last_packets_in()
            case ByeReceived():
                self._other_left = True
            case Cancelled():
                self._finish("cancelled")
            case Gone() if not self._over and not self._leaving:
                self._notes.append(f"the call was lost: {event.detail}")
                self._finish("nobody")

    # the end

    def _let_last_packets_in(self) -> None:
        """The caller's BYE may be read before RTP that came earlier, since they come to different sockets."""
        self._leaving = True
        self._steps.clear()
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self._reactor.callLater(LAST_PACKETS, self._finish, "caller")

    @property
    def over(self) -> bool:
        return self._over

    def stop(self) -> None:
        """Break off: the carrier closes."""
        if not self._over:
            self._notes.append("the carrier was stopped")
            if self._answered and not self._leaving:
                self._incoming.bye()
            self._finish("nobody")

    def _finish(self, ended_by: str) -> None:
        if self._over:
            return
        self._over = True
        if self._waiting is not None and self._waiting.active():
            self._waiting.cancel()
        for callee in (self._callee, self._other):
            if callee is not None:
                callee.close()
        if self._line is not None:
            self._telephone.over(self._line, ended_by)
        self._complain()
        recording = self._callee.recording if self._callee is not None and self._answered else None
        heard = recording.heard() if recording is not None else NOTHING
        self._done(
            HeardCall(
                sip_call_id=self._incoming.request.call_id,
                number=_number(self._incoming),
                scenario=self._scenario.name,
                started=self._started,
                answered=self._answered,
                ended_by=ended_by,
                codec=self._agreed.codec if self._agreed else "",
                file=None,
                packets=heard.packets,
                lost=heard.lost,
                repeated=heard.repeated,
                strays=heard.strays,
                jitter=heard.jitter,
                longest_gap=heard.longest_gap,
                seconds=heard.seconds,
                notes=tuple(self._notes),
            ),
            recording,
        )

    def _complain(self) -> None:
        if self._callee is not None and self._callee.while_held:
            self._notes.append(f"{self._callee.while_held} packets came while the call was on hold")
        if self._other is not None and self._other.recording is not None and self._other.recording.heard().packets:
            self._notes.append("the second telephone was played to")
        if self._other is not None and not self._other_left:
            self._notes.append("the call with the second telephone was not ended (RFC 3261 §13.2.2.4)")
            self._incoming.bye(to_tag=self._other_tag)


def _number(incoming: IncomingCall) -> str:
    """Return the digits of the Request-URI's user, country code and all."""
    try:
        user = incoming.request.request_uri.user or ""
    except ParseError:
        return ""
    return "".join(character for character in user if character in "0123456789")


def _caller(incoming: IncomingCall) -> str:
    """Return what a display would show: the user of From."""
    try:
        return Uri.parse(incoming.request.from_.uri).user or ""
    except ParseError:
        return ""
