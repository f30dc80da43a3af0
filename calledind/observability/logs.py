"""The daemon's log: twistd's lines of text, or lines of JSON in their place.

    {"time": "2026-07-01T12:00:00.123Z", "level": "info", "namespace": "calledind.outcome.Settlement",
     "message": "call 0190...: answered (...)", "node": "a", "call": "0190...", "trunk": "carrier"}

What a line is about has a name of its own beside the message: `call`, `trunk`, `tries`, whatever the line's words name.
A line of the access log has `peer`, `request`, `status` and `octets`.

Lines of text are as twistd's own. They are written here since each call has two of them, and to have the time and the
names of a line found out anew each time takes longer than all else that is done at the end of a call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from string import Formatter
from typing import Any

from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LogEvent,
    formatEvent,
    formatEventAsClassicLogText,
    formatTime,
    globalLogBeginner,
)
from twisted.python.failure import Failure

ACCESS = re.compile(r'(?P<peer>\S*) "(?P<request>[^"]*)" (?P<status>\d+) (?P<octets>\d+)(?P<note>.*)')
"A line of `api.site.Site`."
CALL = re.compile(r"\bcall ([0-9a-f]{32})\b")
FIXED = frozenset({"time", "level", "namespace", "message", "traceback"})
MOST_WORDS = 1000
"Different ones that are remembered."
LONGEST = 1000
"Characters of one field beside the message."
PLAIN = re.compile(r"(?:[^{}]|\{(?!log_)[a-z_]+\})*")
"Words whose names stand for values as they are: no attributes, no calls, no widths."
OTHERWISE = ("log_failure", "log_flattened", "log_system")
"What an event has that is written in another way than most are."

Format = Callable[[LogEvent], str | None]


def write_lines(written: Format, beginner: Any = globalLogBeginner) -> None:
    """Have whoever begins to log (twistd does when all is made) write such lines to its file or standard output.

    Observers of other kinds (`--syslog`, `--logger`) stay as they are.
    """
    begin = beginner.beginLoggingTo

    def begin_so(observers: Iterable[ILogObserver], *arguments: Any, **named: Any) -> None:
        beginner.beginLoggingTo = begin
        observers = list(observers)
        for observer in observers:
            if isinstance(observer, FileLogObserver):
                observer.formatEvent = written
        begin(observers, *arguments, **named)

    beginner.beginLoggingTo = begin_so


def text_format() -> Format:
    """Return what writes an event as twistd does."""
    plain: dict[str, bool] = {}
    "The words of our own log lines: as many as there are in the source."
    second, at = -1, ""

    def written(event: LogEvent) -> str | None:
        nonlocal second, at
        words = event.get("log_format")
        if not isinstance(words, str):
            return formatEventAsClassicLogText(event)
        is_plain = plain.get(words)
        if is_plain is None:
            is_plain = PLAIN.fullmatch(words) is not None
            if len(plain) < MOST_WORDS:
                plain[words] = is_plain
        if not is_plain or any(name in event for name in OTHERWISE):
            return formatEventAsClassicLogText(event)
        try:
            text = words.format_map(event)
            now = int(event["log_time"])
            head = f"[{event['log_namespace']}#{event['log_level'].name}]"
        except Exception:  # noqa: BLE001 - it is told so that it can be found, as Twisted tells it
            return formatEventAsClassicLogText(event)
        if now != second:
            second, at = now, formatTime(now)
        if "\n" in text:
            text = text.replace("\n", "\n\t")
        return f"{at} {head} {text}\n" if text else None

    return written


def json_format(node: str) -> Callable[[LogEvent], str]:
    """Return what writes an event as lines of JSON, mostly one, each with its line end. It never raises."""

    def written(event: LogEvent) -> str:
        try:
            return "".join(json.dumps(each, default=str) + "\n" for each in _entries(event, node))
        except Exception as error:  # noqa: BLE001 - the log must tell of anything
            entry = {"time": _time(event), "level": "error", "namespace": __name__, "node": node}
            return json.dumps({**entry, "message": f"an event could not be written: {type(error).__name__}"}) + "\n"

    return written


def _entries(event: LogEvent, node: str) -> Iterator[Mapping[str, object]]:
    level = event.get("log_level")
    namespace = str(event.get("log_namespace", ""))
    head = {"time": _time(event), "level": "info" if level is None else level.name, "namespace": namespace}
    lines = event.get("lines")
    if event.get("log_format") == "{lines}" and isinstance(lines, str):
        for line in lines.split("\n"):
            yield {**head, "message": line, "node": node, **_access(line)}
        return
    entry: dict[str, object] = {**head, "message": formatEvent(event), "node": node}
    for name in _named(event):
        if name in event:
            entry[f"{name}_" if name in entry or name in FIXED else name] = _plain(event[name])
    # What a line names beside its words.
    for name in ("call", "trunk"):
        if event.get(name):
            entry[name] = _plain(event[name])
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        entry["traceback"] = failure.getTraceback()
    yield entry


def _named(event: LogEvent) -> list[str]:
    """Return what an event's words name, "log_" names left out: those are the logger's own."""
    words = event.get("log_format")
    if not isinstance(words, str):
        return []
    try:
        names = [name for _, name, _, _ in Formatter().parse(words) if name]
    except ValueError:
        return []
    return [name for name in names if name.isidentifier() and not name.startswith("log_")]


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:LONGEST]


def _access(line: str) -> Mapping[str, object]:
    found = ACCESS.fullmatch(line)
    if found is None:
        return {}
    fields: dict[str, object] = {
        "peer": found["peer"],
        "request": found["request"],
        "status": int(found["status"]),
        "octets": int(found["octets"]),
    }
    call = CALL.search(found["note"])
    if call is not None:
        fields["call"] = call[1]
    return fields


def _time(event: LogEvent) -> str:
    moment = datetime.fromtimestamp(float(event.get("log_time", 0.0)), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
