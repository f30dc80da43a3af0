"""The life of one call on one trunk: from the taken channel to the BYE.

    preparing ──▶ calling ──▶ answering ──▶ streaming ──▶ closing ──▶ over
        │            │                                                  ▲
        └──▶ leaving └──▶ cancelling ───────────────────────────────────┘

* `preparing`: the target's address, an RTP port, then DIALING committed. Nothing was sent; what fails here is
  either put back into the queue (no port, store away) or tried at the next trunk (no such host).
* `calling`: the INVITE has left. It is never sent again for this call id by anyone.
* `redirecting`: a 3xx has led on (see `redirection`): the further INVITE is committed as an attempt of its own
  before it leaves, then it is `calling` again.
* `answering`: a usable 2xx is in. ANSWERED is committed *before* the ACK leaves: a daemon killed in between is
  met by the repeated 2xx, and afterwards the dialog on disk says BYE. The callee waits some milliseconds, and
  no longer than `PATIENCE` for a store that hangs.
* `streaming`: the first packet left after the ACK.
* `closing`: BYE sent, outcome told; only the channel is still held until the peer confirms.

Exactly one of `ended` and `postponed` is called (neither, where the store says that the call is not to be dialled),
then `released` once nothing of it is left. An error of our own ends the call in any state, the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.crash import crash_at
from calledind.dialing.hold import Countdown
from calledind.dialing.identity import callee_uri, identify
from calledind.dialing.media_log import CallMedia
from calledind.dialing.negotiation import Negotiation
from calledind.dialing.redirection import Redirections
from calledind.dialing.surroundings import Surroundings
from calledind.model import Address, Attempt, Call, Cause, EndedBy, Ending
from calledind.net.media import (
    Digit,
    Finished,
    Lost,
    MediaEvent,
    MediaSession,
    MediaStatistics,
    NoMedia,
    Silent,
)
from calledind.net.registrations import credentials
from calledind.sdp import Agreed, SDPError
from calledind.settings.tables import Trunk as TrunkSettings
from calledind.sip.early import RELIABLE
from calledind.sip.endpoint import OPTIONS
from calledind.sip.timers import DelayedCall
from calledind.sip.useragent import (
    Answered,
    Ended,
    Event,
    Invitation,
    InviteSession,
    LateAnswer,
    Progress,
    Refused,
    Unreachable,
)
from calledind.store.interface import StoreUnavailable

PATIENCE = 2.0
"Seconds that the callee waits for the store to keep the answer."
FAREWELL = 70.0
"Seconds after which a broken call's channel is given back, whatever the peer says: more than twice 64*T1."
SLACK = 30.0
"Seconds after which audio that should have ended is taken for lost; while the callee holds the call it can't end."
MOST_DIGITS = 64
"Of the keys pressed in a call, that are kept."
REASONS: Mapping[Cause, str] = {
    Cause.PLAYED: 'Q.850;cause=16;text="Normal call clearing"',
    Cause.HUNG_UP: 'Q.850;cause=16;text="Normal call clearing"',
    Cause.RING_TIMEOUT: 'Q.850;cause=19;text="No answer from user"',
    Cause.CALLEE_LEFT: 'Q.850;cause=102;text="Recovery on timer expiry"',
    Cause.UNUSABLE_SDP: 'Q.850;cause=88;text="Incompatible destination"',
    Cause.MEDIA_FAILED: 'Q.850;cause=41;text="Temporary failure"',
}
"What our CANCEL or BYE tells the other side (RFC 3326)."
NOT_ACCEPTABLE = frozenset({415, 488, 606})
"Statuses of who can't do anything with our SDP."
CALLEES_OWN = frozenset({480, 486})
"Statuses below 600 that a person or a telephone gives."


class _State(Enum):
    PREPARING = "preparing"
    LEAVING = "leaving"
    "Hung up before the INVITE left."
    CALLING = "calling"
    REDIRECTING = "redirecting"
    CANCELLING = "cancelling"
    ANSWERING = "answering"
    STREAMING = "streaming"
    CLOSING = "closing"
    OVER = "over"


class _Input(Enum):
    READY = "ready"
    NOT_READY = "not ready"
    PROGRESS = "progress"
    ANSWERED = "answered"
    UNUSABLE = "answered with an SDP that we can't use"
    ANSWER_KEPT = "answer kept"
    REFUSED = "refused"
    REDIRECTED = "redirected"
    UNREACHABLE = "unreachable"
    PEER_GONE = "peer gone"
    RING_TIMEOUT = "ring timeout"
    PLAYED = "played"
    SILENT = "silent"
    MEDIA_LOST = "media lost"
    HELD = "on hold for too long"
    HANG_UP = "hang up"
    BROKEN = "an error of our own"
    FORGOTTEN = "the peer never confirmed"


_STEPS: dict[_State, dict[_Input, tuple[str, _State]]] = {
    _State.PREPARING: {
        _Input.READY: ("_send", _State.CALLING),
        _Input.NOT_READY: ("_give_back", _State.OVER),
        _Input.HANG_UP: ("_leave_hung_up", _State.LEAVING),
        _Input.MEDIA_LOST: ("_forget_media", _State.PREPARING),
        _Input.BROKEN: ("_fail", _State.OVER),
    },
    _State.LEAVING: {
        _Input.READY: ("_leave", _State.OVER),
        _Input.NOT_READY: ("_leave", _State.OVER),
        _Input.BROKEN: ("_fail", _State.OVER),
    },
    _State.CALLING: {
        _Input.PROGRESS: ("_note_progress", _State.CALLING),
        _Input.ANSWERED: ("_keep_answer", _State.ANSWERING),
        _Input.UNUSABLE: ("_refuse_answer", _State.CLOSING),
        _Input.REFUSED: ("_refused", _State.OVER),
        _Input.REDIRECTED: ("_follow", _State.REDIRECTING),
        _Input.UNREACHABLE: ("_unreachable", _State.OVER),
        _Input.PEER_GONE: ("_peer_left", _State.OVER),
        _Input.RING_TIMEOUT: ("_cancel_rung_out", _State.CANCELLING),
        _Input.HANG_UP: ("_cancel_hung_up", _State.CANCELLING),
        _Input.MEDIA_LOST: ("_cancel_without_media", _State.CANCELLING),
        _Input.BROKEN: ("_fail_called", _State.CLOSING),
    },
    _State.REDIRECTING: {
        _Input.READY: ("_send_on", _State.CALLING),
        _Input.NOT_READY: ("_stay", _State.OVER),
        _Input.HANG_UP: ("_leave_hung_up", _State.LEAVING),
        _Input.RING_TIMEOUT: ("_leave_rung_out", _State.LEAVING),
        _Input.MEDIA_LOST: ("_forget_media", _State.REDIRECTING),
        _Input.BROKEN: ("_fail", _State.OVER),
    },
    _State.CANCELLING: {
        _Input.PROGRESS: ("_note_progress", _State.CANCELLING),
        _Input.REFUSED: ("_cancelled", _State.OVER),
        _Input.UNREACHABLE: ("_cancelled", _State.OVER),
        _Input.PEER_GONE: ("_cancelled", _State.OVER),
        _Input.BROKEN: ("_fail_called", _State.CLOSING),
    },
    _State.ANSWERING: {
        _Input.ANSWER_KEPT: ("_stream", _State.STREAMING),
        _Input.PEER_GONE: ("_peer_left", _State.OVER),
        _Input.HANG_UP: ("_hang_up_answered", _State.CLOSING),
        _Input.MEDIA_LOST: ("_lost_media", _State.CLOSING),
        _Input.BROKEN: ("_fail_called", _State.CLOSING),
    },
    _State.STREAMING: {
        _Input.PLAYED: ("_played", _State.CLOSING),
        _Input.PEER_GONE: ("_peer_left", _State.OVER),
        _Input.SILENT: ("_fell_silent", _State.CLOSING),
        _Input.MEDIA_LOST: ("_lost_media", _State.CLOSING),
        _Input.HELD: ("_held_too_long", _State.CLOSING),
        _Input.HANG_UP: ("_hang_up_answered", _State.CLOSING),
        _Input.BROKEN: ("_fail_called", _State.CLOSING),
    },
    _State.CLOSING: {
        _Input.PEER_GONE: ("_let_go", _State.OVER),
        _Input.REFUSED: ("_let_go", _State.OVER),
        _Input.UNREACHABLE: ("_let_go", _State.OVER),
        _Input.FORGOTTEN: ("_let_go", _State.OVER),
        _Input.BROKEN: ("_fail_closing", _State.CLOSING),
    },
    _State.OVER: {
        _Input.BROKEN: ("_fail", _State.OVER),
    },
}
"""State -> every input that means something in it -> the step of `CallAttempt` that is taken, and the next state. What
is not here is late or repeated and changes nothing."""


@dataclass(frozen=True)
class _Obstacle:
    """Why the INVITE did not leave."""

    detail: str
    ending: Ending | None = None
    "None: put the call back into the queue, unless `dropped`."
    dropped: bool = False


class CallAttempt:
    """One call on one trunk; see the module's text."""

    __slots__ = (
        "_answered_at",
        "_around",
        "_countdown",
        "_digits",
        "_ended",
        "_ending",
        "_media",
        "_negotiation",
        "_postponed",
        "_redirections",
        "_released",
        "_session",
        "_state",
        "_timer",
        "_tried",
        "call",
        "committed",
        "number",
        "rang",
        "responded",
        "retry_after",
        "target",
        "trunk",
    )
    log = Logger()

    def __init__(
        self,
        call: Call,
        trunk: TrunkSettings,
        number: int,
        surroundings: Surroundings,
        *,
        tried: Collection[Address] = (),
        ended: Callable[[CallAttempt, Ending], None],
        postponed: Callable[[CallAttempt, str], None],
        released: Callable[[CallAttempt], None],
    ) -> None:
        self.call = call
        self.trunk = trunk
        self.number = number
        self.committed = False
        "Whether the store knows of this attempt: only then is its number used up."
        self.target: Address | None = None
        "Where the INVITE goes, once that is found."
        self.rang = False
        self.responded = False
        "A provisional response but 100 has come: the call reached somebody, no other trunk may be asked."
        self._around = surroundings
        self._tried = tried
        self._ended = ended
        self._postponed = postponed
        self._released = released
        self._state = _State.PREPARING
        self._session: InviteSession | None = None
        self._media: MediaSession | None = None
        self._negotiation = Negotiation(
            trunk, call.audio, audio_codecs=surroundings.audio_codecs, audio_path=surroundings.audio_path
        )
        self._timer: DelayedCall | None = None
        self._countdown: Countdown | None = None
        self._answered_at: float | None = None
        self._digits = ""
        self.retry_after: int | None = None
        "Seconds, of the final response."
        self._ending: Ending | None = None
        "What a cancelled call will be said to have ended by."
        self._redirections: Redirections | None = None

    def start(self) -> None:
        """Begin; `released` follows whatever happens."""
        Deferred.fromCoroutine(self._prepare()).addErrback(self._broken)

    def hang_up(self, by: EndedBy = EndedBy.OPERATOR) -> None:
        """End it for the operator or the customer, in whatever state it is."""
        self._on(_Input.HANG_UP, by)

    @property
    def state(self) -> str:
        """For people."""
        return self._state.value

    def _on(self, event: _Input, *details: Any) -> None:
        if (row := TABLE.get((self._state, event))) is None:
            return
        act, self._state = row
        try:
            act(self, *details)
        except Exception:  # noqa: BLE001 - a call with a bug must end, and must not take others with it
            self._broken(Failure())  # type: ignore[no-untyped-call]

    # preparing

    async def _prepare(self) -> None:
        around = self._around
        try:
            target = await around.targets.locate(self.trunk, self._tried)
            host = around.local_host(target)
        except OSError as error:
            detail = str(error)
            self._on(_Input.NOT_READY, _Obstacle(detail, self._end(Cause.TRANSPORT, EndedBy.NETWORK, detail=detail)))
            return
        try:
            media = await around.media.open(self._media_reported)
        except NoMedia as error:
            self._on(_Input.NOT_READY, _Obstacle(str(error)))
            return
        self._media = media
        self.target = target
        session = around.user_agent.prepare(self._invitation(target, host, media))
        attempt = Attempt(self.number, self.trunk.name, session.snapshot)
        crash_at("dial.prepared")
        try:
            committed = await around.store.begin_dialing(self.call.id, attempt)
        except StoreUnavailable as error:
            self._on(_Input.NOT_READY, _Obstacle(str(error)))
            return
        self.committed = committed
        crash_at("dial.committed")
        if committed and self._media is not media:
            detail = "the process that sends the audio was lost"
            self._on(_Input.NOT_READY, _Obstacle(detail, self._end(Cause.MEDIA_FAILED, EndedBy.US, detail=detail)))
        elif committed and not around.may_dial():
            detail = "this node stood still for longer than its lease"
            self._on(_Input.NOT_READY, _Obstacle(detail, self._end(Cause.INTERRUPTED, EndedBy.US, detail=detail)))
        elif committed:
            self._on(_Input.READY, session)
        else:
            self._on(_Input.NOT_READY, _Obstacle("it is not waiting to be dialled any more", dropped=True))

    def _invitation(self, target: Address, host: str, media: MediaSession) -> Invitation:
        trunk, call = self.trunk, self.call
        callee = callee_uri(call, trunk)
        identity = identify(call, trunk, host=host, home=self._around.settings.home_country)
        signature = self._around.sign(call, identity.number) if trunk.stir and identity.number else ()
        return Invitation(
            target=target,
            request_uri=callee,
            from_uri=identity.from_uri,
            display_name=identity.display_name,
            to_uri=callee,
            headers=(*identity.headers, *signature),
            offer=self._negotiation.offer((host, media.local[1])),
            # So that a carrier's log and ours can be laid side by side.
            call_id=f"{call.id}-{self.number}",
            route=self._around.targets.route(trunk),
            credentials=credentials(trunk),
            supported=OPTIONS if trunk.prack else tuple(each for each in OPTIONS if each != RELIABLE),
            session_expires=trunk.session_expires,
            renegotiate=self._renegotiate,
        )

    # what the network and the clock say

    def _sip_reported(self, event: Event) -> None:
        match event:
            case Progress():
                self._on(_Input.PROGRESS, event)
            case Answered() if self._state is _State.CALLING:
                self._read_answer(event)
            case Refused() if (way := self._way_on(event)) is not None:
                self._on(_Input.REDIRECTED, event, *way)
            case Refused():
                self._on(_Input.REFUSED, event)
            case Unreachable():
                self._on(_Input.UNREACHABLE, event)
            case Ended():
                self._on(_Input.PEER_GONE, event)
            case LateAnswer():
                self._take_late_answer(event)
            case _:
                pass  # an answer that comes too late for us

    def _read_answer(self, event: Answered) -> None:
        try:
            self._negotiation.read_answer(event.sdp, event.offer)
        except SDPError as error:
            self._on(_Input.UNUSABLE, str(error))
        else:
            self._on(_Input.ANSWERED, event)

    def _media_reported(self, event: MediaEvent) -> None:
        match event:
            case Finished():
                self._on(_Input.PLAYED)
            case Silent():
                self._on(_Input.SILENT)
            case Lost(detail):
                self._on(_Input.MEDIA_LOST, detail)
            case Digit(digit):
                self._digits = (self._digits + digit)[:MOST_DIGITS]

    # what the callee offers, and what follows from it

    def _renegotiate(self, offer: bytes) -> bytes | None:
        """Answer the peer's later offer: hold, resume, a new address, another codec where ours isn't in it."""
        before = self._negotiation.agreed
        try:
            answer = self._negotiation.answer(offer)
        except SDPError as error:
            self.log.info("call {call}: the peer's new offer is refused: {error}", call=self.call.id, error=error)
            return None
        self._redirect(before)
        return answer

    def _take_late_answer(self, event: LateAnswer) -> None:
        """The peer answered the offer that we made at its asking, in its ACK."""
        before = self._negotiation.agreed
        if self._media is None or before is None:
            return
        try:
            self._negotiation.read_late_answer(event.sdp)
        except SDPError as error:
            self.log.info("call {call}: the peer's late answer is left out: {error}", call=self.call.id, error=error)
            return
        self._redirect(before)

    def _redirect(self, before: Agreed | None) -> None:
        """Have the media follow what is agreed on now; before it plays `_stream` will read what was agreed last."""
        agreed, format_of = self._negotiation.agreed, self._negotiation.format
        if self._state is not _State.STREAMING or agreed is None or agreed is before:
            return
        assert self._media is not None
        assert self._countdown is not None
        changed = before is None or format_of(before) != format_of(agreed)
        self._media.redirect(
            agreed.remote,
            agreed.remote_rtcp,
            agreed.sends,
            format_of(agreed) if changed else None,
            agreed.security,
            agreed.receives,
        )
        if self._countdown.held == agreed.sends:
            self._count_down(self._countdown, held=not agreed.sends)

    def _count_down(self, countdown: Countdown, *, held: bool) -> None:
        """Wait for the audio to end, or for the hold."""
        left = countdown.turn(held=held, now=self._around.timers.seconds())
        if held:
            self._wait(left, _Input.HELD)
        else:
            self._wait(left, _Input.MEDIA_LOST, "the audio did not end in time")

    # what the table does

    def _send(self, session: InviteSession) -> None:
        self._session = session
        self._wait(self._around.settings.ring_timeout, _Input.RING_TIMEOUT)
        self._around.reached(self.call, "dialing", self.trunk.name)
        session.send(self._sip_reported)
        crash_at("dial.invited")

    def _way_on(self, event: Refused) -> tuple[str, Address] | None:
        """Return where a 3xx leads, None where it isn't followed."""
        session = self._session
        if self._state is not _State.CALLING or session is None or not event.contacts:
            return None
        if self._redirections is None:
            self._redirections = Redirections(self.trunk, session.invitation.request_uri)
        return self._redirections.follow(event.status, event.contacts, session.invitation.target)

    def _follow(self, event: Refused, request_uri: str, target: Address) -> None:
        self.log.info("call {call}: {status} leads on within the trunk", call=self.call.id, status=event.status)
        Deferred.fromCoroutine(self._commit_redirected(event, request_uri, target)).addErrback(self._broken)

    async def _commit_redirected(self, event: Refused, request_uri: str, target: Address) -> None:
        """The further INVITE leaves only once the store knows what to CANCEL, like the first."""
        around = self._around
        assert self._session is not None
        session = around.user_agent.prepare(self._session.redirected(request_uri, target))
        attempt = Attempt(self.number + 1, self.trunk.name, session.snapshot)
        try:
            committed = await around.store.begin_dialing(self.call.id, attempt)
            detail = "it is not being dialled any more"
        except StoreUnavailable as error:
            committed, detail = False, str(error)
        if committed:
            self.number += 1
        if committed and self._media is not None and around.may_dial():
            self._on(_Input.READY, session)
        else:
            detail = "the process that sends the audio was lost" if committed and self._media is None else detail
            ending = self._end(Cause.FINAL_RESPONSE, EndedBy.NETWORK, status=event.status, detail=detail)
            self._on(_Input.NOT_READY, _Obstacle(detail, ending))

    def _send_on(self, session: InviteSession) -> None:
        """Follow the redirection; the callee has as long to answer as if it had been asked first."""
        self._session = session
        session.send(self._sip_reported)

    def _stay(self, obstacle: _Obstacle) -> None:
        assert obstacle.ending is not None
        self._finish(obstacle.ending)

    def _leave_hung_up(self, by: EndedBy) -> None:
        self._ending = self._end(Cause.HUNG_UP, by)

    def _leave_rung_out(self) -> None:
        self._ending = self._end(Cause.RING_TIMEOUT, EndedBy.US)

    def _note_progress(self, event: Progress) -> None:
        self.responded = self.responded or event.status > 100
        if not self.rang and event.status in (180, 183):
            self.rang = True
            self._around.reached(self.call, "ringing", self.trunk.name)
        if self.responded:
            crash_at("dial.ringing")

    def _keep_answer(self, event: Answered) -> None:
        self._wait(PATIENCE, _Input.ANSWER_KEPT)
        self._answered_at = self._around.now()
        self._around.reached(self.call, "answered", self.trunk.name)
        crash_at("answer.received")
        Deferred.fromCoroutine(self._record_answer(event.dialog, self._answered_at)).addErrback(self._broken)

    async def _record_answer(self, dialog: str, answered_at: float) -> None:
        try:
            await self._around.store.record_answer(self.call.id, dialog, answered_at)
            crash_at("answer.kept")
        except StoreUnavailable as error:
            self.log.error(
                "call {call}: the store could not keep that it was answered ({error}); the call goes on",
                call=self.call.id,
                error=error,
            )
        self._on(_Input.ANSWER_KEPT)

    def _stream(self) -> None:
        assert self._session is not None
        assert self._media is not None
        agreed, settings = self._negotiation.agreed, self._around.settings
        assert agreed is not None
        self._session.acknowledge()
        crash_at("answer.acknowledged")
        audio = settings.lead_in + self.call.duration + settings.lead_out + SLACK
        now = self._around.timers.seconds()
        self._countdown = Countdown(audio=audio, hold=settings.hold_timeout, now=now)
        self._count_down(self._countdown, held=not agreed.sends)
        self._media.play(
            self._negotiation.format(agreed),
            remote=agreed.remote,
            remote_rtcp=agreed.remote_rtcp,
            lead_in=settings.lead_in,
            lead_out=settings.lead_out,
            silence_timeout=settings.media_timeout,
            nat=self._hosts_behind_nat(agreed),
            tones=self.trunk.inband_dtmf,
            security=agreed.security,
            sends=agreed.sends,
            receives=agreed.receives,
        )
        crash_at("stream.begun")

    def _hosts_behind_nat(self, agreed: Agreed) -> tuple[str, ...]:
        """Return whom media may come from that does not come from where the SDP says: nobody, for most trunks."""
        if not self.trunk.nat or self.target is None:
            return ()
        return self.target[0], agreed.remote[0]

    def _refuse_answer(self, detail: str) -> None:
        """ACK, then BYE at once: the callee's 2xx offered nothing that we can play to."""
        assert self._session is not None
        self._session.acknowledge()
        self._close(self._end(Cause.UNUSABLE_SDP, EndedBy.US, status=200, detail=detail))

    def _refused(self, event: Refused) -> None:
        by = EndedBy.CALLEE if event.status in CALLEES_OWN or event.status >= 600 else EndedBy.NETWORK
        refused = f"(it was offered {', '.join(self._negotiation.codecs())})" if event.status in NOT_ACCEPTABLE else ""
        detail = " ".join(filter(None, (event.phrase, event.warning, refused)))
        self.retry_after = event.retry_after
        self._finish(self._end(Cause.FINAL_RESPONSE, by, status=event.status, q850=event.q850, detail=detail))

    def _unreachable(self, event: Unreachable) -> None:
        cause = Cause.NO_RESPONSE if event.cause == "timeout" else Cause.TRANSPORT
        self._finish(self._end(cause, EndedBy.NETWORK, detail=event.detail))

    def _peer_left(self, event: Ended) -> None:
        self._finish(self._end(Cause.CALLEE_LEFT, EndedBy.CALLEE, q850=event.q850, detail=event.detail))

    def _played(self) -> None:
        self._close(self._end(Cause.PLAYED, EndedBy.US))

    def _fell_silent(self) -> None:
        self._close(self._end(Cause.CALLEE_LEFT, EndedBy.NETWORK, detail="no packet came from the callee any more"))

    def _held_too_long(self) -> None:
        seconds = self._around.settings.hold_timeout
        self._close(self._end(Cause.CALLEE_LEFT, EndedBy.US, detail=f"the callee held the call for {seconds:g} s"))

    def _lost_media(self, detail: str) -> None:
        self._close(self._end(Cause.MEDIA_FAILED, EndedBy.US, detail=detail))

    def _hang_up_answered(self, by: EndedBy) -> None:
        self._close(self._end(Cause.HUNG_UP, by))

    def _cancel_hung_up(self, by: EndedBy) -> None:
        self._cancel(self._end(Cause.HUNG_UP, by))

    def _cancel_rung_out(self) -> None:
        self._cancel(self._end(Cause.RING_TIMEOUT, EndedBy.US))

    def _cancel_without_media(self, detail: str) -> None:
        self._cancel(self._end(Cause.MEDIA_FAILED, EndedBy.US, detail=detail))

    def _cancelled(self, event: Refused | Unreachable | Ended) -> None:
        assert self._ending is not None
        crash_at("cancel.confirmed")
        status = event.status if isinstance(event, Refused) else None
        q850 = None if isinstance(event, Unreachable) else event.q850
        self._finish(replace(self._ending, ended_at=self._around.now(), rang=self.rang, sip_status=status, q850=q850))

    def _leave(self, news: object) -> None:
        if isinstance(news, _Obstacle) and news.dropped:
            self._give_back(news)
        else:
            assert self._ending is not None
            self._finish(self._ending)

    def _give_back(self, obstacle: _Obstacle) -> None:
        self._close_media()
        if obstacle.dropped:
            self.log.error("call {call} is left alone: {detail}", call=self.call.id, detail=obstacle.detail)
        elif obstacle.ending is not None:
            self._tell(obstacle.ending)
        else:
            self._postponed(self, obstacle.detail)
        self._let_go()

    def _let_go(self, *_: object) -> None:
        """The last step, taken once."""
        self._stop_waiting()
        # Session and attempt know each other; apart, neither waits for the collector.
        self._session = None
        released, self._released = self._released, _told_already
        released(self)

    def _fail(self, detail: str) -> None:
        """Nothing was sent, or all is over and only what was not told yet is told."""
        self._finish(self._end(Cause.INTERRUPTED, EndedBy.US, detail=detail))

    def _fail_called(self, detail: str) -> None:
        """The INVITE may have left, so no other trunk is asked, and the channel waits for the peer's last word."""
        self._fail_closing(detail)
        if self._session is not None:
            self._session.end()

    def _fail_closing(self, detail: str) -> None:
        self._wait(FAREWELL, _Input.FORGOTTEN)
        self._tell(self._ending or self._end(Cause.INTERRUPTED, EndedBy.US, detail=detail))
        self._close_media()

    def _forget_media(self, _: str) -> None:
        self._close_media()

    # the pieces of the above

    def _end(
        self,
        cause: Cause,
        by: EndedBy,
        *,
        status: int | None = None,
        q850: int | None = None,
        detail: str = "",
    ) -> Ending:
        return Ending(
            cause=cause,
            answered=self._answered_at is not None,
            ended_by=by,
            ended_at=self._around.now(),
            answered_at=self._answered_at,
            rang=self.rang,
            sip_status=200 if self._answered_at is not None else status,
            q850=q850,
            trunk=self.trunk.name,
            detail=detail,
        )

    def _close(self, ending: Ending) -> None:
        """Say goodbye, then tell the outcome: killed in between, the next start says goodbye again."""
        self._stop_waiting()
        self._ending = ending
        assert self._session is not None
        crash_at("bye.due")
        self._session.end(REASONS[ending.cause])
        crash_at("bye.sent")
        self._close_media()
        self._tell(ending)

    def _finish(self, ending: Ending) -> None:
        """The signalling is over: tell the outcome and let go."""
        self._stop_waiting()
        self._close_media()
        self._tell(ending)
        self._let_go()

    def _tell(self, ending: Ending) -> None:
        ended, self._ended = self._ended, _told_already
        ended(self, ending)

    def _cancel(self, ending: Ending) -> None:
        """End a call that was not answered; what it ended by is told when the peer has confirmed."""
        self._stop_waiting()
        self._close_media()
        self._ending = ending
        assert self._session is not None
        crash_at("cancel.due")
        self._session.end(REASONS[ending.cause])
        crash_at("cancel.sent")

    def _wait(self, seconds: float, then: _Input, *details: object) -> None:
        self._stop_waiting()
        self._timer = self._around.timers.callLater(seconds, self._on, then, *details)

    def _stop_waiting(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _close_media(self) -> None:
        if self._media is not None:
            media, self._media = self._media, None
            media.close().addCallback(self._media_closed).addErrback(
                lambda failure: self.log.failure("call {call}: its media", failure, call=self.call.id)
            )

    def _media_closed(self, statistics: MediaStatistics) -> None:
        agreed = self._negotiation.agreed
        if statistics.packets_sent and agreed is not None:
            suite = agreed.security.ours.suite if agreed.security is not None else ""
            media = CallMedia(statistics, agreed.codec, suite, self._digits, self.trunk.name)
            self._around.media_closed(self.call.id, media)

    def _broken(self, failure: Failure) -> None:
        self.log.failure("call {call} met an error of our own", failure, call=self.call.id)
        self._on(_Input.BROKEN, "an error in calledin itself; the log has it")


def _told_already(*_: object) -> None:
    """Stands where a callable was that is called once."""


TABLE: dict[tuple[_State, _Input], tuple[Callable[..., None], _State]] = {
    (state, event): (getattr(CallAttempt, step), following)
    for state, steps in _STEPS.items()
    for event, (step, following) in steps.items()
}
