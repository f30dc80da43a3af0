# mypy: allow-untyped-calls
from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from calledind.model import Attempt, Call, CallRecord, Cause, Ending, State
from calledind.service.recovery import Interrupted, Recovery
from calledind.store.interface import OpenDialog
from tests.dialing.world import make_call
from tests.service.recorder import A_TRUNK, Lines, Recorder


class RecoveryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.user_agent: Any = Recorder()
        self.library: Any = Recorder()
        self.dialled: list[Call] = []

    def recover(self, *records: CallRecord) -> list[tuple[Call, Ending]]:
        store: Any = Recorder(unfinished=lambda: succeed(records))
        settlement: Any = Recorder()
        interrupted = Interrupted(
            user_agent=self.user_agent,
            settlement=settlement,
            trunks=lambda: (A_TRUNK,),
            now=lambda: 1_800_000_100.0,
        )
        recovery = Recovery(
            store=store,
            library=self.library,
            settlement=settlement,
            interrupted=interrupted,
            queue_ttl=300.0,
            dial=self.dialled.append,
            now=lambda: 1_800_000_100.0,
        )
        for each in (interrupted, recovery):
            setattr(each, "log", Lines([]))  # noqa: B010 - the class says Logger
        self.successResultOf(Deferred.fromCoroutine(recovery.run()))
        return [(call, ending) for _, call, ending in settlement.calls]

    def test_young(self) -> None:
        """A call that waited is dialled, with its audio pinned."""
        call = make_call(accepted_at=1_800_000_000.0)
        self.assertEqual(self.recover(CallRecord(call, State.ACCEPTED)), [])
        self.assertEqual(self.dialled, [call])
        self.assertEqual(self.library.calls, [("pin", call.audio)])

    def test_too_old(self) -> None:
        """One that waited longer than queue_ttl is not; it has expired."""
        call = make_call(accepted_at=1_800_000_100.0 - 301)
        ((_, ending),) = self.recover(CallRecord(call, State.ACCEPTED))
        self.assertEqual((ending.cause, ending.answered, self.dialled), (Cause.EXPIRED, False, []))

    def test_audio_gone(self) -> None:
        """Nor is one whose audio is gone."""

        def pin(name: str) -> None:
            raise KeyError(name)

        self.library._answers["pin"] = pin
        ((_, ending),) = self.recover(CallRecord(make_call(), State.ACCEPTED))
        self.assertEqual((ending.cause, self.dialled), (Cause.MEDIA_FAILED, []))

    def test_dialing(self) -> None:
        """A call that was being dialled is cancelled, never dialled again."""
        record = CallRecord(make_call(), State.DIALING, Attempt(2, "a", "{snapshot}"))
        ((_, ending),) = self.recover(record)
        self.assertEqual(self.user_agent.calls[0][:2], ("recover_invitation", "{snapshot}"))
        self.assertEqual((ending.cause, ending.answered, ending.trunk), (Cause.INTERRUPTED, False, "a"))
        self.assertEqual(self.dialled, [])

    def test_answered(self) -> None:
        """A call that was playing is hung up, with the trunk's credentials, and was answered."""
        record = CallRecord(make_call(), State.ANSWERED, Attempt(1, "a", "{}"), "{dialog}", 1_800_000_050.0)
        ((_, ending),) = self.recover(record)
        name, dialog, _, credentials = self.user_agent.calls[0]
        self.assertEqual((name, dialog, credentials.password), ("recover_dialog", "{dialog}", "p"))
        self.assertEqual((ending.cause, ending.answered), (Cause.INTERRUPTED, True))
        self.assertEqual((ending.answered_at, ending.sip_status), (1_800_000_050.0, 200))

    def hang_up_open(self, *dialogs: OpenDialog) -> tuple[Recorder, list[str]]:
        store, lines = Recorder(open_dialogs=lambda: succeed(dialogs)), list[str]()
        shared: Any = store
        settlement: Any = Recorder()
        interrupted = Interrupted(
            user_agent=self.user_agent,
            settlement=settlement,
            trunks=lambda: (A_TRUNK,),
            now=lambda: 0.0,
        )
        setattr(interrupted, "log", Lines(lines))  # noqa: B010 - the class says Logger
        self.successResultOf(Deferred.fromCoroutine(interrupted.hang_up_open(shared)))
        return store, lines

    def test_open_dialog(self) -> None:
        """What others have ended without its dialog is hung up; the store hears of it when that is done."""
        store, lines = self.hang_up_open(OpenDialog("1", "{dialog}", "a"))
        name, dialog, ended, credentials = self.user_agent.calls[0]
        self.assertEqual((name, dialog, credentials.password), ("recover_dialog", "{dialog}", "p"))
        self.assertEqual(store.calls, [("open_dialogs",)])
        ended()
        self.assertEqual(store.calls[1:], [("dialog_ended", "1")])
        self.assertEqual(
            lines, ["call 1: had been answered here when others ended it as interrupted; it is hung up now"]
        )

    def test_open_dialog_without_a_way(self) -> None:
        """Where there is no way to the peer now, the next start tries again; what can't be read is let go of."""
        for error, told in ((OSError("no route"), []), (ValueError("not a dialog"), [("dialog_ended", "1")])):

            def fail(*_: object, error: Exception = error) -> None:
                raise error

            self.user_agent._answers["recover_dialog"] = fail
            store, lines = self.hang_up_open(OpenDialog("1", "{dialog}", ""))
            self.assertEqual(store.calls[1:], told)
            self.assertEqual(lines[1:], [f"call 1 can't be hung up: {error}"])

    def test_unreadable(self) -> None:
        """What can't be read any more keeps neither that call from its outcome nor the others from theirs."""

        def unreadable(*_: object) -> None:
            raise ValueError("not a snapshot")

        self.user_agent._answers.update(recover_invitation=unreadable, recover_dialog=unreadable)
        attempt = Attempt(1, "a", "nonsense")
        endings = self.recover(
            CallRecord(make_call("1"), State.DIALING, attempt),
            CallRecord(make_call("2"), State.DIALING),
            CallRecord(make_call("3"), State.ANSWERED, attempt, "nonsense"),
            CallRecord(make_call("4"), State.ANSWERED, attempt),
        )
        self.assertEqual([ending.answered for _, ending in endings], [False, False, True, True])
