"""The daemon's log as lines of JSON, in place of twistd's text and in the same place.

    {"time": "2026-07-01T12:00:00.123Z", "level": "info", "namespace": "calledind.outcome.Settlement",
     "message": "call 0190...: answered (...)", "node": "a", "call": "0190...", "trunk": "carrier"}

What a line is about has a name of its own beside the message: `call`, `trunk`, `tries`, whatever the line's words name.
A line of the access log has `peer`, `request`, `status` and `octets`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from string import Formatter
from typing import Any

from twisted.logger import FileLogObserver, ILogObserver, LogEvent, formatEvent, globalLogBeginner
from twisted.python.failure import Failure

ACCESS = re.compile(r'(?P<peer>\S*) "(?P<request>[^"]*)" (?P<status>\d+) (?P<octets>\d+)(?P<note>.*)')
"A line of `api.site.Site`."
CALL = re.compile(r"\bcall ([0-9a-f]{32})\b")
FIXED = frozenset({"time", "level", "namespace", "message", "traceback"})
LONGEST = 1000
"Characters of one field beside the message."


def write_json(node: str, beginner: Any = globalLogBeginner) -> None:
    """Have whoever begins to log (twistd does when all is made) write lines of JSON to its file or standard output.

    Observers of other kinds (`--syslog`, `--logger`) stay as they are.
    """
    begin = beginner.beginLoggingTo

    def begin_in_json(observers: Iterable[ILogObserver], *arguments: Any, **named: Any) -> None:
        beginner.beginLoggingTo = begin
        observers = list(observers)
        for observer in observers:
            if isinstance(observer, FileLogObserver):
                observer.formatEvent = json_format(node)
        begin(observers, *arguments, **named)

    beginner.beginLoggingTo = begin_in_json


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
