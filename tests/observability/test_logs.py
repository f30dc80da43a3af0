"""Lines of JSON, whatever is logged."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any, cast

from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    formatEventAsClassicLogText,
    textFileLogObserver,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from calledind.observability.logs import json_format, text_format, write_lines

CALL = "0" * 31 + "1"


class FormatTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.written = StringIO()
        observer = FileLogObserver(self.written, json_format("east"))

        @implementer(ILogObserver)
        def dated(event: LogEvent) -> None:
            observer({**event, "log_time": 1_700_000_000.1236})

        self.log = Logger("calledind.outcome.Settlement", observer=dated)

    def entries(self) -> list[dict[str, Any]]:
        lines = self.written.getvalue().splitlines()
        return [json.loads(line) for line in lines]

    def test_a_line(self) -> None:
        """What a line is about stands beside its words."""
        self.log.info("call {call}: try {tries}: {why}", call=CALL, tries=3, why=OSError("gone"), trunk="a", other="x")
        (entry,) = self.entries()
        self.assertEqual(
            entry,
            {
                "time": "2023-11-14T22:13:20.123Z",
                "level": "info",
                "namespace": "calledind.outcome.Settlement",
                "message": f"call {CALL}: try 3: gone",
                "node": "east",
                "call": CALL,
                "trunk": "a",
                "tries": 3,
                "why": "gone",
            },
        )

    def test_names_that_are_taken(self) -> None:
        """A value never hides what each line has."""
        self.log.warn("node {node} says {message} at {time}", node="west", message="no", time=7)
        (entry,) = self.entries()
        self.assertEqual((entry["node"], entry["node_"], entry["message_"], entry["time_"]), ("east", "west", "no", 7))
        self.assertEqual((entry["message"], entry["level"]), ("node west says no at 7", "warn"))

    def test_access_log(self) -> None:
        """The lines that the site writes as one event are an object each."""
        one = f'192.0.2.1 "GET /api/playback/?api_key=***&phone_number=***00 HTTP/1.1" 200 1 call {CALL}'
        two = '- "-" 400 0'
        self.log.info("{lines}", lines=f"{one}\n{two}\nodd")
        first, second, third = self.entries()
        self.assertEqual(
            (first["message"], first["call"], first["status"], first["peer"]), (one, CALL, 200, "192.0.2.1")
        )
        self.assertEqual((second["status"], second["octets"], "call" in second), (400, 0, False))
        self.assertEqual((third["message"], third["node"]), ("odd", "east"))

    def test_failure(self) -> None:
        """A traceback is one field, and the line stays one line."""
        try:
            _ = 1 // 0
        except ZeroDivisionError:
            self.log.failure("call {call} met an error", Failure(), call=CALL)
        (entry,) = self.entries()
        self.assertIn("ZeroDivisionError", entry["traceback"])
        self.assertEqual((entry["level"], entry["call"]), ("critical", CALL))

    def test_anything(self) -> None:
        """What can't be formatted, isn't ours, or has odd characters is a line as well."""
        self.log.info("a {b.c} {d!r:>5} {", b=object())
        self.log.info("{}")
        self.log.emit(LogLevel.info, None)
        self.log.info("two\nlines \u2028 \x00 {a}", a="\udcff")
        self.log.info("{long}", long="x" * 5000)
        entries = self.entries()
        self.assertEqual(len(entries), 5)
        self.assertEqual(entries[3]["message"], "two\nlines \u2028 \x00 \udcff")
        self.assertEqual((len(entries[4]["message"]), len(entries[4]["long"])), (5000, 1000))

    def test_never_raises(self) -> None:
        """An event that breaks whoever writes it is told in its place."""

        class Broken:
            def __str__(self) -> str:
                raise ZeroDivisionError

        self.log.info("nothing", call=Broken())
        (entry,) = self.entries()
        self.assertEqual(entry["message"], "an event could not be written: ZeroDivisionError")


class TextTests(SynchronousTestCase):
    def test_as_twistd_writes(self) -> None:
        """Whatever an event is, its text is what twistd makes of it, a second time as well."""
        events: list[LogEvent] = []
        log = Logger("calledind.outcome.Settlement", observer=cast(ILogObserver, events.append))
        log.info("call {call}: {outcome}", call=CALL, outcome="answered", trunk="a")
        log.warn("two\nlines {number} {nothing}", number=3.5, nothing=None)
        log.info("no names")
        log.info("")
        log.info("{missing}")
        log.info("a {b.c} {d!r:>5} {", b=object(), d=1)
        log.info("{called()} {log_level}", called=lambda: "yes")
        log.emit(LogLevel.info, None)
        log.failure("a failure of {what}", Failure(OSError("gone")), what="ours")
        log.info("{odd}", odd="\u2028\udcff")
        events.append({"log_format": "old {name}", "name": 1, "log_system": "-", "log_time": 7.0})
        events.append({"log_format": "no time {name}", "name": 1})
        written = text_format()
        for at, each in enumerate(events * 2):
            event = {**each, "log_time": 1_700_000_000.5 + at / 3} if "log_time" in each else each
            self.assertEqual(written(event), formatEventAsClassicLogText(event))


class Beginner:
    """Notes what begins."""

    def __init__(self) -> None:
        self.begun: list[tuple[list[Any], dict[str, Any]]] = []

    def beginLoggingTo(self, observers: list[Any], **named: Any) -> None:
        self.begun.append((observers, named))


class BeginningTests(SynchronousTestCase):
    def test_twistds_own(self) -> None:
        """Its observer writes JSON to where it wrote text; one of another kind is left alone."""
        beginner, written = Beginner(), StringIO()
        write_lines(json_format("east"), beginner)
        other = list[Any]().append
        observer = textFileLogObserver(written)
        beginner.beginLoggingTo([observer, other], redirectStandardIO=False)
        self.assertEqual(beginner.begun, [([observer, other], {"redirectStandardIO": False})])
        Logger("x", observer=observer).info("hello")
        self.assertEqual(json.loads(written.getvalue())["message"], "hello")
        again = textFileLogObserver(written)
        beginner.beginLoggingTo([again])
        Logger("x", observer=again).info("text")
        self.assertTrue(written.getvalue().endswith("text\n"))
