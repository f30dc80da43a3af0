"""`calledin calls`, `call`, `show`, `trace`, `hangup`, `callbacks`: what calls are made, and what became of them."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

from calledind.cli.client import Client, Refused
from calledind.cli.completion import call_ids, key_ids
from calledind.cli.ladder import Ladder, Message
from calledind.cli.output import (
    cell,
    console,
    json_option,
    known,
    moment,
    print_fields,
    print_json,
    print_json_line,
    print_table,
)
from calledind.model import Reason, State

if TYPE_CHECKING:
    from calledind.cli.main import Target

LOOK = 0.25
"Seconds between two looks at a call that goes on."
WATCH = 1.0
"Seconds between two looks at all of them."
PAGE = 200
"Calls asked for at a time."
NOT_ANSWERED = 4
"Exit code of a call that was followed and that nobody answered."
FOLLOW_SECONDS = 3600.0
"Longer than any call may wait, ring and play."
CALL_ID = re.compile(r"[0-9a-f]{32}")
ENDED = (State.DONE, State.DELIVERED, State.EXHAUSTED)
REASONS = {reason.name.lower().replace("_", "-"): reason for reason in Reason}
WIDE = 110
"Columns of a terminal that has room for a call's trunk and key."


def path_of(call_id: str) -> str:
    """Return where a call is at the daemon's. Raises `click.UsageError` for what can't be an id."""
    if CALL_ID.fullmatch(call_id) is None:
        raise click.UsageError(f'"{call_id}" is not the id of a call: 32 hexadecimal digits')
    return f"/calls/{call_id}"


# calls


def read_moment(_: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read "2026-11-29", "2026-11-29 14:05", "14:05" of today, or "90m", "12h", "7d" ago."""
    if value is None:
        return None
    now = datetime.now().astimezone()
    ago = re.fullmatch(r"(\d+)([smhd])", value)
    try:
        if ago is not None:
            names = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
            return (now - timedelta(**{names[ago[2]]: int(ago[1])})).timestamp()
        if re.fullmatch(r"\d\d?:\d\d(:\d\d)?", value):
            hours, colon, rest = value.partition(":")
            value = f"{now:%Y-%m-%d} {hours:0>2}{colon}{rest}"
        return datetime.fromisoformat(value).astimezone().timestamp()
    except (ValueError, OverflowError):
        words = f'"{value}" is no time, such as "2026-11-29 14:05", "14:05" or "2h" (ago)'
        raise click.BadParameter(words, param=param) from None


@click.command(short_help="List calls, the newest first.")
@click.option("--watch", is_flag=True, help="Show them as they go on, until Ctrl-C.")
@click.option("--key", "key_id", metavar="ID", shell_complete=key_ids, help="Of this api key.")
@click.option("--number", "last_digits", metavar="DIGITS", help="Whose number ends with these digits.")
@click.option("--state", type=click.Choice([state.value for state in State]), help="In this state.")
@click.option("--live", is_flag=True, help="That have not ended.")
@click.option("--answered/--not-answered", default=None, help="That were, or were not, answered.")
@click.option("--reason", type=click.Choice(sorted(REASONS)), help="That were not answered for this reason.")
@click.option("--since", callback=read_moment, help='Accepted since then: "2026-11-29 14:05", "14:05", or "2h" (ago).')
@click.option("--until", callback=read_moment, help="Accepted before then.")
@click.option("--most", type=click.IntRange(1), default=50, show_default=True, help="How many.")
@json_option
@click.pass_obj
def calls(target: Target, /, watch: bool, live: bool, most: int, as_json: bool, **wanted: Any) -> None:
    """List calls, the newest first.

    The time is that of the request. With --watch --json, each call that changed is a line.
    """
    client = target.client()
    if live and wanted["state"]:
        raise click.UsageError("give either --live or --state")
    query = _query(wanted)
    if watch:
        _watch(client, query, most, live, as_json)
        return
    found = list(_listed(client, query, most, live))
    if as_json:
        print_json({"calls": found})
    elif found:
        console().print(table_of(found))
    else:
        click.echo("there is no such call")


def _query(wanted: Mapping[str, Any]) -> dict[str, Any]:
    query = {name: value for name, value in wanted.items() if value is not None}
    if "key_id" in query:
        query["key"] = query.pop("key_id")
    if "answered" in query:
        query["answered"] = str(query["answered"]).lower()
    if "reason" in query:
        query["reason"] = int(REASONS[query["reason"]])
    return query


def _listed(client: Client, query: Mapping[str, Any], most: int, live: bool) -> Iterator[dict[str, Any]]:
    """Give so many calls, a page at a time; live ones are of three states."""
    if live:
        unfinished = (State.ACCEPTED, State.DIALING, State.ANSWERED)
        found = [call for state in unfinished for call in _listed(client, {**query, "state": state}, most, False)]
        yield from sorted(found, key=lambda call: call["id"], reverse=True)[:most]
        return
    before = ""
    while most > 0:
        asked = min(most, PAGE)
        page = client.get("/calls?" + urlencode({**query, "most": asked, **({"before": before} if before else {})}))
        yield from page["calls"]
        before = page.get("next") or ""
        if not before:
            return
        most -= len(page["calls"])


def table_of(found: list[dict[str, Any]], width: int = 0) -> Table:
    """Return calls as a table that fits into 80 columns."""
    wide = (width or console().width) >= WIDE
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2 if wide else 1, 0, 0))
    for name in ("time", "number", "outcome"):
        table.add_column(name, no_wrap=True)
    table.add_column("heard", justify="right", no_wrap=True)
    if wide:
        table.add_column("trunk", no_wrap=True)
        table.add_column("key", no_wrap=True)
    table.add_column("id", no_wrap=True)
    for call in found:
        outcome = call["outcome"]
        words, style = state_of(call)
        heard = ""
        if outcome is not None and outcome["answered"] and outcome.get("answered_at") is not None:
            heard = f"{outcome['ended_at'] - outcome['answered_at']:.1f} s"
        more = [(outcome or call["attempt"] or {}).get("trunk", ""), call["key_id"]] if wide else []
        number = f"+{call['country_code']}{call['phone_number']}"
        cells = [_when(call["accepted_at"]), number, Text(words, style), heard, *more, call["id"]]
        table.add_row(*(each if isinstance(each, Text) else cell(each) for each in cells))
    return table


def _when(at: float) -> str:
    """Return the time of today, else the day as well."""
    then = time.localtime(at)
    return time.strftime("%H:%M:%S" if then[:3] == time.localtime()[:3] else "%m-%d %H:%M", then)


def state_of(call: Mapping[str, Any]) -> tuple[str, str]:
    """Return the outcome, or the state until there is one, in words, and a style for it."""
    outcome = call["outcome"]
    if outcome is None:
        return str(call["state"]), "cyan"
    if outcome["answered"]:
        return "answered", "green"
    return words_of(outcome["reason"]), "yellow"


def words_of(reason: int) -> str:
    return Reason(reason).name.lower().replace("_", " ")


def _watch(client: Client, query: Mapping[str, Any], most: int, live: bool, as_json: bool) -> None:
    shown: dict[str, Any] = {}

    def changed() -> list[dict[str, Any]]:
        found = list(_listed(client, query, most, live))
        fresh = [call for call in found if shown.get(call["id"]) != call]
        shown.clear()
        shown.update({call["id"]: call for call in found})
        return fresh

    try:
        if as_json or not console().is_terminal:
            while True:
                for call in reversed(changed()):
                    print_line(call, as_json)
                time.sleep(WATCH)
        room = max(1, min(most, console().height - 2))
        with Live(console=console(), auto_refresh=False, screen=True) as screen:
            while True:
                changed()
                screen.update(table_of(list(shown.values())[:room]), refresh=True)
                time.sleep(WATCH)
    except KeyboardInterrupt:
        return


def print_line(call: Mapping[str, Any], as_json: bool) -> None:
    """Print a call as one line, at once."""
    if as_json:
        print_json_line(call)
        return
    words = f"{_when(call['accepted_at'])}  +{call['country_code']}{call['phone_number']}  {state_of(call)[0]}"
    click.echo(f"{words}  {call['id']}")
    sys.stdout.flush()


# call


@click.command(short_help="Make a call, or many of a file; with an ID, show a call.")
@click.argument("number", required=False, metavar="[NUMBER|ID]")
@click.argument("mp3", required=False, metavar="[MP3]")
@click.option(
    "--key",
    "key_id",
    metavar="ID",
    shell_complete=key_ids,
    help="The api key whose call it is; not needed where there is one.",
)
@click.option("--follow", is_flag=True, help="Show how it goes; exit code 4 where nobody answers.")
@click.option("--caller-id", help="What the callee sees.")
@click.option("--callback-url", help="Where the outcome is told.")
@click.option("--secret", help="Handed back in the callback.")
@click.option("--no-cache", is_flag=True, help="Fetch the MP3 even where it is known.")
@click.option(
    "--csv", "file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Many calls, a line each."
)
@click.option("--mp3", "default_mp3", metavar="MP3", help="With --csv: of lines that name none.")
@click.option(
    "--rate", metavar="N/s", default="5/s", show_default=True, help="With --csv: calls begun per second (N/s, N/m)."
)
@click.option("--results", type=click.Path(path_type=Path, dir_okay=False), help="With --csv: default: CSV.results.csv")
@click.option("--no-wait", is_flag=True, help="With --csv: end when all are accepted, before they have ended.")
@click.option("--country-code", help="Of numbers that have none. Default: the daemon's home_country.")
@json_option
@click.pass_context
def call(ctx: click.Context, /, number: str | None, mp3: str | None, **options: Any) -> None:
    """Make a call to NUMBER ("+12125550100" or "1 2125550100") that plays MP3, a URL or a file of this machine.

    With --csv, make one for each line of a file that has the columns phone_number and, where wanted, country_code, mp3,
    caller_id and secret. Ctrl-C stops it; the same command goes on where it was, and calls nobody twice. p pauses it.
    With the ID of a call, show that.
    """
    target: Target = ctx.obj
    if options["file"] is not None:
        if number is not None:
            raise click.UsageError("give either NUMBER and MP3 or --csv")
        from calledind.cli.bulk import run  # noqa: PLC0415 - a command must start fast

        ctx.exit(run(target, options))
    if number is None:
        raise click.UsageError("give NUMBER and MP3, or --csv FILE")
    if mp3 is None:
        if CALL_ID.fullmatch(number) is None:
            raise click.UsageError("give the MP3 as well: a URL or a file")
        show_one(target.client(), number, options["as_json"])
        return
    ctx.exit(_make(target.client(), number, mp3, options))


def _make(client: Client, number: str, mp3: str, options: Mapping[str, Any]) -> int:
    as_json = options["as_json"]
    country_code, phone_number = read_number(number, options["country_code"] or client.get("/facts")["home_country"])
    wanted = {
        "key_id": find_key(client, options["key_id"]),
        "country_code": country_code,
        "phone_number": phone_number,
        "mp3": send_mp3(client, mp3),
        "cache": not options["no_cache"],
        **{name: options[name] for name in ("caller_id", "callback_url", "secret") if options[name]},
    }
    verdict = client.post("/calls", wanted)
    if verdict["code"] != 0:
        if as_json:
            print_json(verdict)
            return 1
        raise Refused(f"refused with code {verdict['code']}: {verdict['words']}")
    if options["follow"]:
        return _follow(client, verdict["call_id"], as_json)
    if as_json:
        print_json(verdict)
    else:
        click.echo(f"accepted: {verdict['call_id']}")
    return 0


def read_number(text: str, country_code: str) -> tuple[str, str]:
    """Read "+12125550100", "1 2125550100", or ten digits of the country. Raises `click.UsageError`."""
    digits = re.sub(r"[\s().-]", "", text).removeprefix("+")
    if not (digits.isascii() and digits.isdigit()) or len(digits) < 10:
        raise click.UsageError(f'"{text}" is not a number such as "+12125550100"')
    return digits[:-10] or country_code, digits[-10:]


def find_key(client: Client, key_id: str | None) -> str:
    """Return the key that is meant. Raises `click.UsageError` where that is open."""
    if key_id:
        return key_id
    keys = [key["id"] for key in client.get("/keys")["keys"] if not key["disabled"]]
    if len(keys) != 1:
        words = (
            "there is none; make one with `calledin keys add NAME`" if not keys else "`calledin keys list` shows them"
        )
        raise click.UsageError(f"say with --key whose call it is: {words}")
    return str(keys[0])


def send_mp3(client: Client, mp3: str) -> str:
    """Return a URL as it is, and the name that the daemon gives to a file of this machine."""
    if re.match(r"https?://|upload:", mp3):
        return mp3
    try:
        octets = Path(mp3).expanduser().read_bytes()
    except OSError as error:
        raise Refused(f"{mp3}: can't be read: {error.strerror}; is it meant to be a URL?") from None
    return str(client.send("/audio", octets, "audio/mpeg")["mp3"])


def _follow(client: Client, call_id: str, as_json: bool) -> int:
    """Show each new state of a call until its outcome is known, and return the exit code."""
    began = time.monotonic()
    last = ""
    if not as_json:
        click.echo(call_id)
    while time.monotonic() - began < FOLLOW_SECONDS:
        found = client.get(path_of(call_id))
        stage = _stage(client, found)
        if stage != last:
            last = stage
            if as_json:
                print_json_line({"seconds": round(time.monotonic() - began, 2), "stage": stage, "call": found})
            else:
                click.echo(f"{time.monotonic() - began:7.1f} s  {stage}")
        if found["outcome"] is not None:
            return 0 if found["outcome"]["answered"] else NOT_ANSWERED
        time.sleep(LOOK)
    return NOT_ANSWERED


def _stage(client: Client, found: Mapping[str, Any]) -> str:
    """Say how far a call has come."""
    outcome = found["outcome"]
    if outcome is not None:
        ended = [words_of(outcome["reason"])] if not outcome["answered"] else []
        if outcome["answered"] and outcome.get("answered_at") is not None:
            ended.append(f"answered, listened for {outcome['ended_at'] - outcome['answered_at']:.1f} s")
        if outcome.get("sip_status"):
            ended.append(f"SIP {outcome['sip_status']}")
        detail = outcome.get("detail") or (outcome["cause"] if not outcome["answered"] else "")
        return ", ".join([*ended, *([detail] if detail and detail not in ended else [])])
    if found["state"] == State.ANSWERED:
        return "answered: the audio is played"
    if found["state"] == State.DIALING:
        trunk = (found["attempt"] or {}).get("trunk", "")
        return ("ringing" if _rings(client, found["id"]) else "dialling") + (f" by {trunk}" if trunk else "")
    return "accepted: it waits for its turn"


def _rings(client: Client, call_id: str) -> bool:
    try:
        messages = client.get(f"{path_of(call_id)}/trace")
    except Refused:
        return False
    return any(entry["direction"] == "received" and re.match(r"SIP/2\.0 18[03]", entry["text"]) for entry in messages)


# one call


@click.command()
@click.argument("call_id", metavar="ID", shell_complete=call_ids)
@json_option
@click.pass_obj
def show(target: Target, call_id: str, as_json: bool) -> None:
    """Show all that is known of a call."""
    show_one(target.client(), call_id, as_json)


def show_one(client: Client, call_id: str, as_json: bool) -> None:
    found = client.get(path_of(call_id))
    if as_json:
        print_json(found)
    else:
        print_fields(known(found))


@click.command(short_help="Draw a call's SIP messages, or write them as pcap.")
@click.argument("call_id", metavar="ID", shell_complete=call_ids)
@click.option(
    "--pcap", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write this file, for tshark or sngrep."
)
@click.option("--text", is_flag=True, help="Print the whole messages.")
@json_option
@click.pass_obj
def trace(target: Target, call_id: str, file: Path | None, text: bool, as_json: bool) -> None:
    """Draw a call's SIP messages as a ladder. The daemon keeps those of the last two hundred calls."""
    client, path = target.client(), path_of(call_id)
    if file is not None:
        octets = b"".join(client.stream(f"{path}/pcap"))
        try:
            file.write_bytes(octets)
        except OSError as error:
            raise click.FileError(os.fspath(file), error.strerror) from None
    messages = client.get(f"{path}/trace")
    if as_json:
        print_json(messages)
    elif file is not None:
        click.echo(f"{file}: {len(messages)} messages")
    elif text:
        _print_messages(messages)
    else:
        _draw(messages)


def _draw(messages: list[dict[str, Any]]) -> None:
    screen = console()
    others = [entry["target"] if entry["direction"] == "sent" else entry["source"] for entry in messages]
    right = others[0] if len(set(others)) == 1 else "carrier"
    width = screen.width if screen.is_terminal else 80
    ascii_only = not screen.encoding.lower().startswith("utf")
    ladder = Ladder(right=right, width=width, ascii_only=ascii_only)
    screen.print(ladder.head())
    for entry in messages:
        screen.print(ladder.message(Message.read(entry)))


def _print_messages(messages: list[dict[str, Any]]) -> None:
    for entry in messages:
        seconds = f"{entry['time'] % 1:.3f}"[1:]
        click.secho(f"{moment(entry['time'])}{seconds}  {entry['source']} -> {entry['target']}", bold=True)
        click.echo(entry["text"].replace("\r\n", "\n").rstrip("\n") + "\n")


@click.command()
@click.argument("call_id", metavar="ID", shell_complete=call_ids)
@json_option
@click.pass_obj
def hangup(target: Target, call_id: str, as_json: bool) -> None:
    """End a running call: CANCEL while it rings, BYE once it is answered."""
    answer = target.client().post(f"{path_of(call_id)}/hangup")
    if as_json:
        print_json(answer)
    else:
        click.echo("it is hung up")


# callbacks


@click.command(short_help="List callbacks that are to be delivered, or deliver one again.")
@click.option(
    "--redeliver", "again", metavar="ID", multiple=True, help="Deliver this call's now, even if it was before."
)
@click.option("--most", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")
@json_option
@click.pass_obj
def callbacks(target: Target, again: tuple[str, ...], most: int, as_json: bool) -> None:
    """List callbacks that are still to be delivered, the one due first in front; of this node."""
    client = target.client()
    if again:
        told = [client.post(f"/callbacks/{path_of(call_id).rpartition('/')[2]}/again") for call_id in again]
        if as_json:
            print_json({"callbacks": told})
        else:
            click.echo("it is being delivered" if len(told) == 1 else f"{len(told)} are being delivered")
        return
    answer = client.get(f"/callbacks?most={most}")
    if as_json:
        print_json(answer)
    elif answer["callbacks"]:
        print_table(
            ("call", "tries", "due", "last answer"),
            (
                (each["call_id"], each["tries"], in_words(each["due_at"] - answer["now"]), each["last"])
                for each in answer["callbacks"]
            ),
        )
    else:
        click.echo("none waits")


def in_words(seconds: float) -> str:
    """Say when something is due."""
    if seconds <= 0:
        return "now"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"in {seconds / size:.0f} {unit}"
    return f"in {seconds:.0f} s"
