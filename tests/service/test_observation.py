"""What watches the calls is told by all, and disturbs nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.callback import Verdict
from calledind.dialing.media_log import CallMedia
from calledind.model import Address, PendingCallback, Reason, ReturnCode
from calledind.net.resolve import ResolveError
from calledind.observability.gauges import Figures
from calledind.service import observation
from calledind.service.errors import StartFailed
from calledind.service.observation import Observation, both, read_key
from calledind.settings.tables import Cdr, Settings, Trace
from tests.dialing.world import START, make_call
from tests.observability.test_metrics import STATISTICS, make_outcome
from tests.service.recorder import Lines
from tests.store.fakes import HandClock, HandRunner

FIGURES = Figures(
    queued=0, oldest=None, live=0, callbacks=0, ready=True, draining=False, store_healthy=True, nodes_alive=1
)


class Names:
    """A resolver that answers with what it is given."""

    def __init__(self) -> None:
        self.answers: list[Deferred[Any]] = []

    def resolve(self, name: str) -> Deferred[Any]:
        return self.answers.pop(0)


class ObservationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock: Clock = HandClock()
        self.names: Any = Names()
        self.lines: list[str] = []
        self.patch(Observation, "log", Lines(self.lines))
        self.patch(observation, "Worker", lambda reactor, name: HandRunner())

    def make(self, **tables: Any) -> Observation:
        made = Observation(self.clock, Settings(**tables), lambda: START, node="east")
        self.addCleanup(made.stop)
        return made

    def value(self, made: Observation, name: str, **labels: str) -> float | None:
        return made.metrics.registry.get_sample_value(f"calledin_{name}", labels)

    def test_all_is_told(self) -> None:
        """A call's way from the request to its callback is in the figures and in a record."""
        path = Path(self.mktemp())
        made = self.make(cdr=Cdr(file=path))
        made.start(lambda: FIGURES, self.names)
        call, outcome = make_call(), make_outcome()
        made.decided(ReturnCode.ACCEPTED)
        for stage in ("dialing", "ringing", "answered"):
            made.reached(call, stage, "a")
        made.media(call.id, CallMedia(STATISTICS, "PCMU", trunk="a"))
        made.ended(call, outcome)
        made.tried(PendingCallback(call, outcome, 0, START), Verdict.DELIVERED, 200)
        self.clock.advance(1)
        self.assertEqual(self.value(made, "calls_total", trunk="a", reason="answered"), 1)
        self.assertEqual(self.value(made, "call_mos_count", trunk="a"), 1)
        self.assertEqual(self.value(made, "callback_tries_total", verdict="delivered"), 1)
        self.assertEqual(self.value(made, "info", version="0.1.0", node="east"), 1)
        self.assertEqual(self.value(made, "cdr_lost_total"), 0)
        self.assertIn(f"{call.id},east,", path.read_text())
        made.reopen()
        self.successResultOf(made.stop())

    def test_disturbs_nobody(self) -> None:
        """An error of ours is in the log, and the call goes on."""
        made = self.make()
        self.patch(made.metrics, "ended", lambda *_: 1 // 0)
        made.ended(make_call(), make_outcome(answered=False, reason=Reason.BUSY))
        self.assertEqual(self.lines, ["what watches the calls met an error of our own"])

    def test_records_without_a_folder(self) -> None:
        """A file that can't be is told at the start."""
        made = self.make(cdr=Cdr(file=Path(self.mktemp()) / "x"))
        error = self.assertRaises(StartFailed, made.start, lambda: FIGURES, self.names)
        self.assertIn("cdr.file: ", str(error))

    def test_no_collector(self) -> None:
        """Without one, messages go where they went."""
        kept: list[Any] = []

        def keep(direction: str, other: Address, data: bytes) -> None:
            kept.append(data)

        self.assertIs(self.make().trace(keep, lambda other: other), keep)

    def test_collector_by_name(self) -> None:
        """Its name is looked up each minute; while it can't be found, that is told once and messages are left out."""
        kept: list[Any] = []
        made = self.make(trace=Trace(hep="homer.example:9060"))
        take = made.trace(lambda *told: kept.append(told), lambda other: other)
        self.names.answers = [
            fail(ResolveError("no such name")),
            fail(ResolveError("no such name")),
            succeed(["127.0.0.1"]),
        ]
        made.start(lambda: FIGURES, self.names)
        self.clock.advance(60)
        take("sent", ("127.0.0.1", 5060), b"x")
        self.assertEqual(self.lines, ["trace.hep: homer.example can't be found: no such name"])
        self.assertEqual((self.value(made, "hep_dropped_total"), len(kept)), (1, 1))
        self.clock.advance(60)
        take("sent", ("127.0.0.1", 5060), b"x")
        self.assertEqual((self.value(made, "hep_sent_total"), len(kept)), (1, 2))
        self.successResultOf(made.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_key(self) -> None:
        """The collector's key is read from a file, below systemd's folder of credentials where there is one."""
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "key").write_text("sesame\n")
        self.assertEqual(read_key(Path("key"), environment={"CREDENTIALS_DIRECTORY": str(folder)}), b"sesame")
        error = self.assertRaises(StartFailed, read_key, Path("lost"), environment={})
        self.assertIn("trace.hep_key_file: lost can't be read: No such file", str(error))

    def test_both(self) -> None:
        """Two are told, in their order."""
        told: list[str] = []
        both(lambda each: told.append(f"a{each}"), lambda each: told.append(f"b{each}"))("1")
        self.assertEqual(told, ["a1", "b1"])
