"""`calledin demo`: the whole way of one call, shown as it happens. Nobody's phone rings.

The daemon is the real one in a process of its own; the carrier and the callee are its simulator, which speaks
real SIP and RTP over loopback; the customer's web server is here. What is shown is what was received.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import av
import click
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from calledind.cli.client import NotReachable, Refused
from calledind.cli.demo_daemon import Daemon, DaemonFailed, free_port
from calledind.cli.demo_web import Callback, CustomerServer
from calledind.cli.ladder import Ladder, Message
from calledind.cli.listening import Comparison, compare, read_mp3, read_wav

LONGEST_CALL = 75.0
"Seconds after which the demo gives up: ring timeout, audio and all."
SETTLE_SECONDS = 2.5
"How long the last messages, the recording and the callback may take after the call has ended."
GOOD_CORRELATION = 0.98
"A lower one is not the same speech, played well. G.711 and the cut at 4,000 Hz leave about 0.999."
MP3_NAME = "speech.mp3"
REASONS = {"": "answered", "0": "failed", "1": "hung up", "3": "ring timeout", "5": "busy", "8": "congestion"}
PAGE_PORT = 8081
"Of the page, where it is free."
NEXT_NUMBER = "2125550107"
"In the curl line: another one, since a number is refused for a minute after a call."


@dataclass
class Run:
    """What one call of the demo has shown so far."""

    code: str = ""
    call_id: str = ""
    messages: list[Message] = field(default_factory=list)
    recording: Mapping[str, Any] | None = None
    comparison: Comparison | None = None
    callback: Callback | None = None
    signed: bool = False
    expected: Mapping[str, Any] | None = None
    "The scenario's row, where the daemon tells it."

    def failures(self) -> list[str]:
        """Say what was not as it should be; nothing when all is well."""
        return list(self._failures())

    def _failures(self) -> Iterator[str]:
        if self.code != "0":
            yield f"the request was answered with {self.code or 'nothing'} instead of 0"
            return
        if not self.messages:
            yield "no SIP message was seen"
        if _was_answered(self.messages) and self.recording is None:
            yield "the callee recorded nothing"
        elif self.comparison is not None and self.comparison.correlation < self.good_enough():
            yield f"the callee heard something else: correlation {self.comparison.correlation:.3f}"
        if self.callback is None:
            yield "no callback came"
            return
        if not self.signed:
            yield "the callback's signature does not hold"
        if self.expected is not None:
            wanted = str(self.expected["answered"]), str(self.expected["reason"])
            got = self.callback.parameters.get("answered"), self.callback.parameters.get("reason")
            if wanted != got:
                yield f"the callback says answered, reason = {got}, expected {wanted}"

    def good_enough(self) -> float:
        """Return the correlation that this call should have at least."""
        # Where packets are lost on the way or the call is held, as scenarios have it, it can't be as good.
        disturbed = self.held or bool(self.recording and self.recording.get("lost"))
        return 0.5 if disturbed else GOOD_CORRELATION

    @property
    def held(self) -> bool:
        """Whether the callee sent an offer of its own."""
        return any(message.label == "INVITE" and not message.sent for message in self.messages)


class Demo:
    """One demonstration. `console`: where it is shown; `keeps`: whether the recording outlives it."""

    def __init__(
        self, console: Console, daemon: Daemon, customer: CustomerServer, mp3: Path, *, keeps: bool = False
    ) -> None:
        self._keeps = keeps
        self._console = console
        self._daemon = daemon
        self._customer = customer
        self._mp3 = mp3
        self._key: Mapping[str, Any] = {}
        self._ladder = Ladder(right="callee", width=console.width, ascii_only=_ascii_only(console))

    def make_key(self) -> None:
        """Ask the administrator's socket for an api key with credits. Raises NotReachable."""
        self._key = self._daemon.admin.post("/keys", {"name": "demo", "credits": 100})

    def tell_page(self) -> None:
        """Say where all of this can be seen and heard in a browser; the token is part of the address."""
        token = self._daemon.page_token
        self._console.print("\nOpen this page: a phone that rings when 212-555-0199 is called, and all that happens\n")
        self._console.out(f"{self._daemon.page_url}/phone#token={token}", highlight=False)

    def call(self, number: str) -> Run:
        """Make one call and show all of it. Raises NotReachable where the daemon fails, not where the call does."""
        run = Run(expected=self._scenario(number))
        self._request(run, number)
        if run.code == "0":
            self._follow(run)
            self._heard(run)
            self._told(run)
        return run

    def _scenario(self, number: str) -> Mapping[str, Any] | None:
        return next((row for row in self.scenarios() if row.get("number") == number), None)

    def scenarios(self) -> Sequence[Mapping[str, Any]]:
        try:
            rows = self._daemon.admin.get("/scenarios")
        except Refused:
            return []
        return rows if isinstance(rows, list) else []

    # the request

    def parameters(self, number: str) -> dict[str, str]:
        return {
            "api_key": str(self._key.get("api_key", "")),
            "phone_number": number,
            "country_code": "1",
            "mp3": f"{self._customer.url}/{MP3_NAME}",
            "callback_url": f"{self._customer.url}/callback",
            "secret": "demo",
        }

    def _request(self, run: Run, number: str) -> None:
        self._title(1, "A program asks for a call")
        parameters = self.parameters(number)
        self._console.print(Text(f"    GET {self._daemon.url}/api/playback/", "bold"))
        for name, value in parameters.items():
            shown = value[:7] + "..." if name == "api_key" else value
            self._console.print(Text.assemble("        ", (f"{name:<14}", "dim"), shown), soft_wrap=True)
        began = time.monotonic()
        status, headers, run.code = self._daemon.get(f"/api/playback/?{urlencode(parameters)}")
        took = time.monotonic() - began
        words = "accepted: the call is on disk, the MP3 fetched, checked and encoded"
        if run.code != "0":
            words = headers.get("calledin-reason", f"HTTP status {status}")
        style = "bold green" if run.code == "0" else "bold red"
        run.call_id = headers.get("calledin-call-id", "")
        self._console.print(
            Text.assemble("    ", (run.code, style), ("  " + words, "green" if run.code == "0" else "red"))
        )
        if run.call_id:
            self._console.print(Text(f"    call {run.call_id}, {took * 1000:.0f} ms", "dim"))

    # the ladder

    def _follow(self, run: Run) -> None:
        words = f": the callee {run.expected['words']}" if run.expected else ""
        self._title(2, f"The number is called{words}")
        self._console.print(self._ladder.head())
        deadline = time.monotonic() + LONGEST_CALL
        over: float | None = None
        with self._console.status("", spinner="dots") as status:
            while time.monotonic() < deadline and (over is None or time.monotonic() < over + SETTLE_SECONDS):
                if self._new_messages(run):
                    status.update(_activity(run.messages))
                if run.callback is None:
                    run.callback = self._customer.next_callback()
                if over is None and run.callback is not None:
                    over = time.monotonic()
                if over is not None and self._recorded(run) and _settled(run.messages):
                    break
                time.sleep(0.1)
        self._new_messages(run)

    def _new_messages(self, run: Run) -> bool:
        try:
            entries = self._daemon.admin.get(f"/trace/{run.call_id}")
        except Refused:
            return False  # nothing has been sent yet
        fresh = [Message.read(entry) for entry in (entries or [])[len(run.messages) :]]
        for message in fresh:
            self._console.print(self._ladder.message(message))
            if self._begins_audio(run, message):
                self._console.print(self._ladder.media("RTP: the audio, 50 packets a second"))
            run.messages.append(message)
        return bool(fresh)

    def _begins_audio(self, run: Run, message: Message) -> bool:
        """Whether this is the first ACK to the telephone that answered first."""
        acked = message.sent and message.label == "ACK" and self._ladder.is_first(message.peer)
        earlier = any(each.label == "ACK" and each.peer == message.peer for each in run.messages)
        return acked and not earlier and _was_answered(run.messages)

    def _recorded(self, run: Run) -> bool:
        if run.recording is None and _was_answered(run.messages):
            rows = self._daemon.admin.get("/recordings") or []
            # The daemon's SIP Call-ID begins with the call's id.
            mine = [row for row in rows if row.get("file") and str(row["sip_call_id"]).startswith(run.call_id)]
            run.recording = mine[-1] if mine else None
        return run.recording is not None or not _was_answered(run.messages)

    # the audio

    def _heard(self, run: Run) -> None:
        recording = run.recording
        if recording is None:
            return
        self._title(3, "What the callee really heard")
        self._console.print(_figures(recording))
        path = Path(str(recording.get("file") or ""))
        if not path.is_file():
            return
        try:
            run.comparison = compare(read_mp3(self._mp3), read_wav(path))
        except (av.FFmpegError, OSError, ValueError, EOFError) as error:
            self._console.print(Text(f"    the recording can't be compared: {error}", "red"))
            return
        for line in _verdict(run.comparison, run.comparison.correlation >= run.good_enough()):
            self._console.print(line)
        if run.held:
            self._console.print(Text("    the call was held: from there on the audio is later than in the MP3", "dim"))
        until = "" if self._keeps else "\n    (until the demo ends; --keep FOLDER keeps it)"
        self._console.print(Text(f"    listen to it: {path}{until}", "dim"), soft_wrap=True)

    # the callback

    def _told(self, run: Run) -> None:
        self._title(3 if run.recording is None else 4, "The program's server is told how it went")
        callback = run.callback
        if callback is None:
            self._console.print(Text("    no callback came", "bold red"))
            return
        run.signed = callback.signed_by(str(self._key.get("webhook_secret", "")), time.time())
        self._console.print(Text("    GET " + callback.target.partition("?")[0], "bold"))
        for name, value in callback.parameters.items():
            note = f"   ({REASONS.get(value, 'unknown')})" if name == "reason" else ""
            self._console.print(Text.assemble("        ", (f"{name:<14}", "dim"), value or "(empty)", (note, "dim")))
        verdict = ("holds", "bold green") if run.signed else ("does NOT hold", "bold red")
        same = "this call's id" if callback.webhook_id == run.call_id else callback.webhook_id
        self._console.print(Text.assemble("    signature ", verdict, (f"   webhook-id: {same}", "dim")))

    # afterwards

    def conclude(self, run: Run) -> bool:
        """Say whether all was as it should be."""
        failures = run.failures()
        self._console.print()
        if not failures:
            self._console.print(Text("  All as it should be.", "bold green"))
        for failure in failures:
            self._console.print(Text(f"  Wrong: {failure}", "bold red"))
        return not failures

    def invite(self) -> None:
        """Show how to go on, with a line to paste."""
        scenarios = self.scenarios()
        if scenarios:
            table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
            for row in scenarios:
                outcome = "answered" if row["answered"] else REASONS.get(str(row["reason"]), "")
                table.add_row(str(row["number"]), str(row["words"]), Text(outcome, "dim"))
            self._console.print(Panel(table, title="Numbers to try", border_style="dim"))
        self.tell_page()
        query = urlencode(self.parameters(NEXT_NUMBER), safe=":/")
        self._console.print("\nYour turn:\n")
        self._console.out(f"curl '{self._daemon.url}/api/playback/?{query}'", highlight=False)
        self._console.print(
            "\nIt answers with the code, and the callback appears here. The same number again\n"
            "within a minute is answered with 6. Ctrl-C ends the demo.\n"
        )

    def stay(self) -> None:
        """Show callbacks until interrupted."""
        while True:
            callback = self._customer.next_callback(0.5)
            if callback is None:
                continue
            given = callback.parameters
            signed = callback.signed_by(str(self._key.get("webhook_secret", "")), time.time())
            reason = REASONS.get(given.get("reason", ""), "?")
            self._console.print(
                f"  callback: phone_number={given.get('phone_number')} answered={given.get('answered')} "
                f"reason={given.get('reason')} ({reason}), signature {'holds' if signed else 'does NOT hold'}"
                f"{self._heard_in_short(callback.webhook_id)}",
                soft_wrap=True,
            )

    def _heard_in_short(self, call_id: str) -> str:
        rows = self._daemon.admin.get("/recordings")
        for row in rows:
            if call_id and str(row["sip_call_id"]).startswith(call_id) and row.get("file"):
                return f", {row['packets']} packets heard ({row['seconds']:.1f} s), {row['lost']} lost"
        return ""

    def _title(self, step: int, words: str) -> None:
        self._console.print()
        self._console.print(Text.assemble((f" {step} ", "bold reverse"), " ", (words, "bold")))


def _ascii_only(console: Console) -> bool:
    return not console.encoding.lower().startswith("utf")


def _was_answered(messages: Sequence[Message]) -> bool:
    return any(not message.sent and message.label.startswith("2") and "(" not in message.label for message in messages)


def _settled(messages: Sequence[Message]) -> bool:
    """Whether the ladder is at its end: the BYE has its answer, or the refusal its ACK."""
    last = [message.label for message in messages[-2:]]
    return any("(BYE)" in label for label in last) or (not _was_answered(messages) and last[-1:] == ["ACK"])


def _activity(messages: Sequence[Message]) -> str:
    if not _was_answered(messages):
        return "[dim]      ringing[/dim]"
    if any("BYE" in message.label for message in messages):
        return "[dim]      ending[/dim]"
    return "[dim]      the callee is listening[/dim]"


def _figures(recording: Mapping[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    packets, lost = int(recording.get("packets", 0)), int(recording.get("lost", 0))
    table.add_row("   ", Text("packets", "dim"), f"{packets} received, {lost} lost")
    jitter = f"{float(recording.get('jitter', 0)) * 1000:.2f} ms"
    if recording.get("longest_gap") is not None:
        jitter += f", longest gap {float(recording['longest_gap']) * 1000:.0f} ms (20 ms is even)"
    table.add_row("   ", Text("jitter", "dim"), jitter)
    if recording.get("codec"):
        table.add_row("   ", Text("codec", "dim"), f"{recording['codec']} (G.711), 8,000 Hz")
    return table


def _verdict(comparison: Comparison, good: bool) -> Iterator[Text]:
    yield Text.assemble(
        "    against the MP3: correlation ",
        (f"{comparison.correlation:.4f}", "bold green" if good else "bold red"),
        f" (worst half second {comparison.worst:.4f})",
    )
    yield Text(
        f"    {comparison.common:.2f} of {comparison.source:.2f} s heard, "
        f"beginning {comparison.offset:.2f} s after the first packet"
    )


def _bundled_mp3() -> Path:
    # Not by importing the simulator: the command line knows nothing of the daemon's parts.
    return Path(str(files("calledind") / "simulator" / MP3_NAME))


@click.command()
@click.option("--once", is_flag=True, help="End after one call, with 0 when all was as it should be, else 1.")
@click.option("--port", default=8080, show_default=True, help="Of the playback API, on 127.0.0.1.")
@click.option("--number", default="2125550100", show_default=True, metavar="NUMBER", help="Number to call.")
@click.option("--mp3", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Play this instead.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Keep data and recordings here.")
def demo(once: bool, port: int, number: str, mp3: Path | None, keep: Path | None) -> None:
    """Make one call to the built-in carrier and show all of it. Nobody's phone rings."""
    console = Console(highlight=False)
    folder = keep or Path(tempfile.mkdtemp(prefix="calledin-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    mp3 = mp3 or _bundled_mp3()
    customer = CustomerServer(mp3.read_bytes())
    customer.start()
    daemon = Daemon(folder, free_port(port), free_port(PAGE_PORT))
    well = False
    # Whoever ends the demo ends the daemon, too.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        console.print(Text("calledin demo: a real daemon, a simulated carrier, nobody's phone rings", "bold"))
        with console.status("starting the daemon"):
            daemon.start()
        show = Demo(console, daemon, customer, mp3, keeps=keep is not None)
        show.make_key()
        if not once:
            show.tell_page()
        well = show.conclude(show.call(number))
        if not once:
            show.invite()
            show.stay()
    except (DaemonFailed, NotReachable, Refused) as error:
        console.print(Text(str(error), "red"), soft_wrap=True)
        console.print(Text(daemon.log_tail(), "dim"), soft_wrap=True)
    except KeyboardInterrupt:
        console.print()
    finally:
        with console.status("stopping the daemon"):
            daemon.stop()
            customer.stop()
        signal.signal(signal.SIGTERM, before)
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(0 if well else 1)
