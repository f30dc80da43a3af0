"""`calledin call --csv`: a call for each line of a file, at an even pace, and never twice for the same line.

Each line gets its call's id before the daemon is asked, and a daemon that knows an id already does not make that call
again. The ids and what came of them are in a journal beside the file, synced before each request, so that whatever is
killed or falls over, the same command goes on where it was:

    {"line": 7, "id": "01a2..."}          about to be asked
    {"line": 7, "code": 0}                 accepted; another code is a refusal, and the end of that line
    {"line": 7, "outcome": {...}}          how it ended

The results are a CSV with one row for each line, written at the end and when the run is stopped.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from calledind.cli.calls import find_key, read_number, send_mp3, words_of
from calledind.cli.client import Client, NotReachable, Refused
from calledind.cli.output import print_fields, print_json
from calledind.model import new_call_id

if TYPE_CHECKING:
    from calledind.cli.main import Target

AT_ONCE = 16
"Requests that wait for the daemon's answer (it may be fetching an MP3 for each)."
LOOKS_PER_SECOND = 50
"For the outcomes of calls that run."
TICK = 0.05
"Seconds between two looks at the keyboard and the clock."
RETRY = 1.0
PATIENCE = 300.0
"Seconds that a daemon may be away or take no work."
STOPPING = {
    1: "there is no such api key",
    2: "the key has no call credits left; add some with `calledin credits`",
    5: "the key is disabled",
}
"Codes that the next line would get as well: the line is asked again with the next run."
INTERRUPTED = 130
COLUMNS = ("line", "country_code", "phone_number", "call_id", "result", "code", "heard", "sip_status", "detail")


class WrongFile(click.ClickException):
    """Exit code 2."""

    exit_code = 2


@dataclass
class Line:
    """One line of the file, and what has come of it."""

    number: int
    "As an editor counts."
    country_code: str = ""
    phone_number: str = ""
    wanted: dict[str, str] = field(default_factory=dict)
    "mp3, caller_id and secret, where the line has them."
    wrong: str = ""
    "Why nobody can be called by it."
    call_id: str = ""
    code: int | None = None
    "None: the daemon has not answered."
    words: str = ""
    outcome: Mapping[str, Any] | None = None

    @property
    def is_asked(self) -> bool:
        return bool(self.wrong) or self.code is not None

    @property
    def is_over(self) -> bool:
        return bool(self.wrong) or self.outcome is not None or self.code not in (None, 0)

    @property
    def result(self) -> str:
        if self.wrong:
            return "wrong"
        if self.code is None:
            return "not called"
        if self.code != 0:
            return "refused"
        if self.outcome is None:
            return "running"
        return "answered" if self.outcome["answered"] else words_of(self.outcome["reason"])

    def row(self) -> tuple[object, ...]:
        """Return its row of the results."""
        outcome = self.outcome or {}
        heard = ""
        if outcome.get("answered") and outcome.get("answered_at") is not None:
            heard = f"{outcome['ended_at'] - outcome['answered_at']:.1f}"
        return (
            self.number,
            self.country_code,
            self.phone_number,
            self.call_id if self.code == 0 else "",
            self.result,
            "" if self.code is None else self.code,
            heard,
            outcome.get("sip_status") or "",
            self.wrong or self.words or outcome.get("detail", ""),
        )


def read_lines(file: Path, country_code: str, *, has_mp3: bool) -> list[Line]:
    """Read the file. Raises `WrongFile` where it is not what is described in `calledin call --help`."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            rows = csv.reader(text)
            names = [name.strip().lower() for name in next(rows, [])]
            if "phone_number" not in names:
                raise WrongFile(f"{file}: its first line must name the columns, phone_number among them")
            lines = [
                _read_line(rows.line_num, dict(zip(names, row, strict=False)), country_code) for row in rows if row
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise WrongFile(f"{file}: can't be read: {error}") from None
    for line in lines:
        if not (has_mp3 or line.wanted.get("mp3") or line.wrong):
            line.wrong = "it has no mp3, and no --mp3 is given"
    return lines


def _read_line(number: int, row: Mapping[str, str], default: str) -> Line:
    line = Line(number)
    text = row.get("phone_number", "").strip()
    code = row.get("country_code", "").strip().removeprefix("+")
    try:
        line.country_code, line.phone_number = read_number(f"+{code}{text}" if code else text, default)
    except click.UsageError as error:
        line.phone_number, line.wrong = text, error.message
    line.wanted = {name: row[name].strip() for name in ("mp3", "caller_id", "secret") if row.get(name, "").strip()}
    return line


class Journal:
    """What has been done of a file, on disk."""

    def __init__(self, path: Path, described: Mapping[str, str]) -> None:
        """`described`: what the run is about; one of something else is not gone on with. Raises `WrongFile`."""
        self.path = path
        self._described = dict(described)
        self._file: IO[bytes] | None = None

    def open(self, lines: Iterable[Line]) -> bool:
        """Fill in what was done before; False: nothing was. Only one process at a time may have it open."""
        import fcntl  # noqa: PLC0415

        by_number = {line.number: line for line in lines}
        try:
            self._file = self.path.open("a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.seek(0)
            kept = self._file.read()
            # The last line may have been cut short by a power cut: what it said was not done then.
            whole = kept[: kept.rfind(b"\n") + 1]
            self._file.truncate(len(whole))
        except BlockingIOError:
            raise WrongFile(f"{self.path}: another `calledin call` is at work on it") from None
        except OSError as error:
            raise WrongFile(f"{self.path}: can't be opened: {error.strerror}") from None
        entries = [json.loads(entry) for entry in whole.splitlines()]
        if not entries:
            self.note(self._described)
            return False
        if entries[0] != self._described:
            changed = [name for name in self._described if entries[0].get(name) != self._described[name]]
            raise WrongFile(
                f"{self.path} is of another run ({', '.join(changed)} differ); give what you gave then to go on with "
                "that one, or move the journal away to begin anew"
            )
        for entry in entries[1:]:
            if (line := by_number.get(entry["line"])) is not None:
                line.call_id = entry.get("id", line.call_id)
                line.code = entry.get("code", line.code)
                line.words = entry.get("words", line.words)
                line.outcome = entry.get("outcome", line.outcome)
        return len(entries) > 1

    def note(self, *entries: Mapping[str, object]) -> None:
        """Keep entries, safe from a power cut."""
        assert self._file is not None
        self._file.write(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Keyboard:
    """Whether somebody has pressed p, where the input is a terminal; SIGUSR1 does the same anywhere."""

    def __init__(self) -> None:
        self.is_paused = False
        self._descriptor = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._before: list[Any] | None = None

    @contextmanager
    def heard(self) -> Iterator[None]:
        before = signal.signal(signal.SIGUSR1, lambda *_: self._toggle())
        continued = signal.signal(signal.SIGCONT, lambda *_: self._listen())
        if self._descriptor is not None:
            self._before = termios.tcgetattr(self._descriptor)
            self._listen()
        try:
            yield
        finally:
            signal.signal(signal.SIGUSR1, before)
            signal.signal(signal.SIGCONT, continued)
            if self._descriptor is not None and self._before is not None:
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def _listen(self) -> None:
        """Take keys one by one; after Ctrl-Z and `fg` once more."""
        if self._descriptor is not None:
            with suppress(termios.error):
                tty.setcbreak(self._descriptor)

    def _toggle(self) -> None:
        self.is_paused = not self.is_paused

    def look(self, seconds: float) -> None:
        """Wait for a key for so long."""
        if self._descriptor is None:
            time.sleep(seconds)
        elif select.select([self._descriptor], [], [], seconds)[0] and b"p" in os.read(self._descriptor, 64).lower():
            self._toggle()


class Stopped(Exception):
    """The run can't go on now; the message says why."""


class Run:
    """Asks for the calls of all lines, then for their outcomes."""

    def __init__(self, client: Client, lines: list[Line], journal: Journal, common: Mapping[str, Any], rate: float):
        """`common`: of each request: key_id, callback_url, caller_id. `rate`: requests per second."""
        self._client = client
        self._lines = lines
        self._journal = journal
        self._common = common
        self._interval = 1 / rate
        self._keyboard = Keyboard()
        self._asking: dict[Future[Mapping[str, Any]], Line] = {}
        self._running = deque(line for line in lines if line.code == 0 and line.outcome is None)
        self._sent: dict[str, str] = {}
        "MP3 of this machine -> its name at the daemon's."
        self._next_look = 0.0
        self._stopped = ""

    def run(self, show: _Shown, *, wait: bool) -> None:
        """Raises `Stopped`, NotReachable, KeyboardInterrupt; what was done is in the journal then."""
        todo = deque(line for line in self._lines if not line.is_asked)
        next_at = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as pool, self._keyboard.heard():
            try:
                while todo or self._asking or (wait and self._running):
                    now = time.monotonic()
                    free = len(self._asking) < AT_ONCE and not self._keyboard.is_paused and not self._stopped
                    if todo and free and now >= next_at:
                        self._ask(pool, todo.popleft())
                        # Time that was lost is not made up for: the pace is an upper bound.
                        next_at = max(next_at + self._interval, now)
                    else:
                        due = next_at - now if todo and free else TICK
                        self._keyboard.look(max(0.0, min(TICK, due)))
                    self._gather()
                    if wait:
                        self._look()
                    show.update(self._lines, self._keyboard.is_paused)
                    if self._stopped and not self._asking:
                        raise Stopped(self._stopped)
            finally:
                # What was asked has an answer, which must be in the journal; who waits for a daemon waits no longer.
                self._stopped = self._stopped or "stopped"
                for future in list(self._asking):
                    with suppress(Exception):
                        future.result()
                self._gather()

    def _ask(self, pool: ThreadPoolExecutor, line: Line) -> None:
        mp3 = line.wanted.get("mp3") or self._common["mp3"]
        if mp3 not in self._sent:
            self._sent[mp3] = send_mp3(self._client, mp3)
        wanted = {**self._common, **line.wanted, "mp3": self._sent[mp3]}
        if not line.call_id:
            line.call_id = new_call_id(time.time())
            self._journal.note({"line": line.number, "id": line.call_id})
        wanted |= {"country_code": line.country_code, "phone_number": line.phone_number, "call_id": line.call_id}
        self._asking[pool.submit(self._answer, wanted)] = line

    def _answer(self, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask until there is an answer, with the same id."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self._client.post("/calls", wanted)
                assert isinstance(answer, dict)
                return answer
            except (NotReachable, Refused) as error:
                # 503: it takes no work now. 409: it is deciding on this very call.
                wait_helps = isinstance(error, NotReachable) or error.status in (409, 503)
                if self._stopped or not wait_helps or time.monotonic() > end:
                    raise
            time.sleep(RETRY)

    def _gather(self) -> None:
        """Take the answers that have come."""
        entries: list[Mapping[str, object]] = []
        for future in [each for each in self._asking if each.done()]:
            line = self._asking.pop(future)
            error = future.exception()
            if error is not None:
                self._stopped = error.message if isinstance(error, click.ClickException) else repr(error)
                continue
            answer = future.result()
            if answer["code"] in STOPPING:
                self._stopped = STOPPING[answer["code"]]
                continue
            line.code, line.words = answer["code"], "" if answer["code"] == 0 else answer["words"]
            entries.append({"line": line.number, "code": line.code, "words": line.words})
            if line.code == 0:
                self._running.append(line)
        if entries:
            self._journal.note(*entries)

    def _look(self) -> None:
        """Ask for the outcome of the call that was looked at longest ago."""
        now = time.monotonic()
        if not self._running or now < self._next_look:
            return
        # Few running calls need no fifty looks a second.
        self._next_look = now + 1 / min(LOOKS_PER_SECOND, 2 * len(self._running))
        line = self._running.popleft()
        try:
            found = self._client.get(f"/calls/{line.call_id}")
        except Refused as error:
            if error.status == 404:
                raise Stopped(f"call {line.call_id} is not known any more: the store was changed or purged") from None
            self._running.append(line)
            return
        except NotReachable:
            self._running.append(line)
            self._next_look = now + RETRY
            return
        if found["outcome"] is None:
            self._running.append(line)
            return
        names = ("answered", "reason", "answered_at", "ended_at", "sip_status", "detail")
        line.outcome = {name: found["outcome"].get(name) for name in names}
        self._journal.note({"line": line.number, "outcome": line.outcome})


class _Shown:
    """The progress bar, where somebody looks on."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        self._task = self.progress.add_task("", total=total)
        self._next = 0.0

    def update(self, lines: list[Line], is_paused: bool) -> None:
        now = time.monotonic()
        if self.progress.disable or now < self._next:
            return
        self._next = now + 0.25
        running = sum(line.code == 0 and line.outcome is None for line in lines)
        words = "paused, p goes on" if is_paused else f"{running} running, p pauses"
        self.progress.update(self._task, completed=sum(line.is_over for line in lines), description=words)


def summary(lines: Iterable[Line]) -> dict[str, int]:
    """Count the results, the lines in all first."""
    counts = {"lines": 0}
    for line in lines:
        counts["lines"] += 1
        counts[line.result] = counts.get(line.result, 0) + 1
    return counts


def write_results(path: Path, lines: Iterable[Line]) -> None:
    """Write the CSV, whole or not at all. Raises `click.FileError`."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(line.row() for line in lines)
        partial.replace(path)
    except OSError as error:
        raise click.FileError(os.fspath(path), error.strerror) from None
    finally:
        partial.unlink(missing_ok=True)


def read_rate(text: str) -> float:
    """Read "5/s", "300/m" or "5" as requests per second. Raises `click.UsageError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/(s|m|h))?", text.strip())
    rate = 0.0 if found is None else float(found[1]) / {"s": 1, "m": 60, "h": 3600, None: 1}[found[2]]
    if rate <= 0:
        raise click.UsageError(f'--rate "{text}" is not such as 5/s or 100/m')
    return rate


def run(target: Target, options: Mapping[str, Any]) -> int:
    """Make the calls of a file, and return the exit code."""
    file: Path = options["file"]
    as_json = options["as_json"]
    rate = read_rate(options["rate"])
    client = target.client()
    home = options["country_code"] or client.get("/facts")["home_country"]
    lines = read_lines(file, home, has_mp3=bool(options["default_mp3"]))
    common = {
        "key_id": find_key(client, options["key_id"]),
        "mp3": options["default_mp3"] or "",
        **{name: options[name] for name in ("caller_id", "callback_url", "secret") if options[name]},
    }
    described = {"file": hashlib.sha256(file.read_bytes()).hexdigest(), "country_code": home, **common}
    journal = Journal(file.with_name(file.name + ".journal"), described)
    results = options["results"] or file.with_name(file.name + ".results.csv")
    why, code = "", 0
    try:
        if journal.open(lines) and not as_json:
            done = sum(line.is_over for line in lines)
            click.echo(f"{done} of {len(lines)} lines were done before; {journal.path} has them", err=True)
        show = _Shown(len(lines), quiet=as_json)
        with show.progress:
            Run(client, lines, journal, common, rate).run(show, wait=not options["no_wait"])
    except KeyboardInterrupt:
        why, code = "stopped", INTERRUPTED
    except (Stopped, Refused) as error:
        why, code = str(error), 1
    except NotReachable as error:
        why, code = str(error), NotReachable.exit_code
    finally:
        journal.close()
    write_results(results, lines)
    counts = summary(lines)
    if as_json:
        print_json({**counts, "results": os.fspath(results), "stopped": why or None})
    else:
        print_fields({**counts, "results": os.fspath(results)})
        if why:
            click.echo(f"{why}; the same command goes on where this one was", err=True)
    return code or int(any(line.result in ("wrong", "refused") for line in lines))
