"""What another process left behind, be it the last one here or a node that died: each unfinished call is taken up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from twisted.logger import Logger

from calledind.audio.library import Library
from calledind.crash import crash_at
from calledind.model import Call, CallRecord, Cause, EndedBy, Ending, State
from calledind.net.registrations import credentials
from calledind.outcome import Settlement
from calledind.settings.tables import Trunk
from calledind.sip.auth import Credentials
from calledind.sip.useragent import UserAgent
from calledind.store.interface import OpenDialog, SharedStore, Store


class Interrupted:
    """Ends what another process had begun: a call that may have left the machine is never dialled again."""

    log = Logger()

    def __init__(
        self,
        *,
        user_agent: UserAgent,
        settlement: Settlement,
        trunks: Callable[[], Sequence[Trunk]],
        now: Callable[[], float],
    ) -> None:
        """`now`: seconds since the epoch."""
        self._user_agent = user_agent
        self._settlement = settlement
        self._trunks = trunks
        self._now = now

    def end(self, record: CallRecord) -> None:
        """CANCEL a call that is in DIALING, send BYE for one in ANSWERED; its outcome is settled at once."""
        if record.state is State.DIALING:
            self._cancel(record)
        else:
            self._hang_up(record)

    def _cancel(self, record: CallRecord) -> None:
        try:
            if record.attempt is None:
                raise ValueError("nothing is known of its attempt")
            crash_at("recovery.cancel.due")
            self._user_agent.recover_invitation(record.attempt.invitation, _nothing)
            crash_at("recovery.cancel.sent")
        except (ValueError, OSError) as error:
            self.log.error("call {call} can't be cancelled: {error}", call=record.call.id, error=error)
        self._interrupted(record, answered=False)

    def _hang_up(self, record: CallRecord) -> None:
        try:
            if record.dialog is None:
                raise ValueError("nothing is known of its dialog")
            self._say_bye(record.dialog, record.attempt.trunk if record.attempt else "", _nothing)
        except (ValueError, OSError) as error:
            self.log.error("call {call} can't be hung up: {error}", call=record.call.id, error=error)
        self._interrupted(record, answered=True)

    async def hang_up_open(self, store: SharedStore) -> None:
        """Send BYE for what this node left open, and others have ended. Raises StoreUnavailable."""
        for each in await store.open_dialogs():
            self._hang_up_open(each, partial(store.dialog_ended, each.call_id))

    def _hang_up_open(self, each: OpenDialog, ended: Callable[[], None]) -> None:
        self.log.warn(
            "call {call}: had been answered here when others ended it as interrupted; it is hung up now",
            call=each.call_id,
        )
        try:
            self._say_bye(each.dialog, each.trunk, ended)
        except ValueError as error:
            self.log.error("call {call} can't be hung up: {error}", call=each.call_id, error=error)
            ended()
        except OSError as error:
            # There is no way to the peer now: the next start tries again.
            self.log.error("call {call} can't be hung up: {error}", call=each.call_id, error=error)

    def _say_bye(self, dialog: str, trunk: str, ended: Callable[[], None]) -> None:
        crash_at("recovery.bye.due")
        self._user_agent.recover_dialog(dialog, ended, self._credentials(trunk))
        crash_at("recovery.bye.sent")

    def _credentials(self, name: str) -> Credentials | None:
        return next((credentials(trunk) for trunk in self._trunks() if trunk.name == name), None)

    def _interrupted(self, record: CallRecord, *, answered: bool) -> None:
        detail = "the process that made it has ended"
        ending = Ending(
            Cause.INTERRUPTED,
            answered,
            EndedBy.US,
            self._now(),
            answered_at=record.answered_at,
            sip_status=200 if answered else None,
            trunk=record.attempt.trunk if record.attempt else "",
            detail=detail,
        )
        self._settlement.end(record.call, ending)


class Recovery:
    """Dials what had waited, and has what had begun ended."""

    log = Logger()

    def __init__(
        self,
        *,
        store: Store,
        library: Library,
        settlement: Settlement,
        interrupted: Interrupted,
        queue_ttl: float,
        dial: Callable[[Call], None],
        now: Callable[[], float],
    ) -> None:
        """`queue_ttl`: seconds after which a call is not worth dialling any more; `now`: seconds since the epoch."""
        self._store = store
        self._library = library
        self._settlement = settlement
        self._interrupted = interrupted
        self._queue_ttl = queue_ttl
        self._dial = dial
        self._now = now

    async def run(self) -> None:
        """Take all of them up. Raises StoreUnavailable."""
        records = await self._store.unfinished()
        crash_at("recovery.read")
        for record in records:
            pinned = self._pin(record.call)
            if record.state is State.ACCEPTED:
                self._take_up(record.call, pinned)
            else:
                self._interrupted.end(record)
        if records:
            self.log.info("{count} calls of the process before were taken up", count=len(records))

    def _pin(self, call: Call) -> bool:
        """Keep the call's audio, until the outcome lets go of it; False when it is gone."""
        try:
            self._library.pin(call.audio)
        except KeyError:
            return False
        return True

    def _take_up(self, call: Call, pinned: bool) -> None:
        if self._now() - call.accepted_at > self._queue_ttl:
            ending = Ending(Cause.EXPIRED, False, EndedBy.US, self._now(), detail="calledin was not running in time")
            self._settlement.end(call, ending)
        elif not pinned:
            self.log.error("call {call}: its audio is not in the library any more", call=call.id)
            ending = Ending(Cause.MEDIA_FAILED, False, EndedBy.US, self._now(), detail="its audio is gone")
            self._settlement.end(call, ending)
        else:
            crash_at("recovery.queued")
            self._dial(call)


def _nothing() -> None:
    pass
