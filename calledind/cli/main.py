"""The `calledin` command: what an operator does to a running daemon.

Exit codes, for scripts:

    0    done; of `call --follow`: somebody answered
    1    refused, or not found, or done but for some lines of a file; of `check`: something is wrong
    2    wrong usage, or a settings file with errors
    3    no daemon can be reached
    4    of `call --follow`: nobody answered
    130  ended by Ctrl-C; `call --csv` goes on where it was when it is begun again
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

import calledind
from calledind.cli.calls import call, callbacks, calls, hangup, show, trace
from calledind.cli.check import check
from calledind.cli.client import Client, find_socket
from calledind.cli.completion import completion, key_ids
from calledind.cli.listen import listen
from calledind.cli.numbers import dnc
from calledind.cli.output import json_option, moment, print_fields, print_json, print_table
from calledind.cli.storage import backup, migrate, restore
from calledind.cli.trunks import trunks
from calledind.settings.reading import SettingsError, load

DRAIN_LOOK = 1.0
"Seconds between two looks at calls that are to finish."


PAGE = 1000
"Rows of a ledger asked for at a time."


class WrongSettings(click.ClickException):
    """The file that --config names is no good; exit code 2."""

    exit_code = 2


@dataclass
class Target:
    """Which daemon is meant."""

    socket: Path | None
    config: Path | None

    def client(self) -> Client:
        if self.socket is not None:
            return Client(self.socket)
        if self.config is not None:
            try:
                return Client(load(self.config).admin_socket)
            except SettingsError as error:
                raise WrongSettings(f"{self.config} has errors:\n{error}") from None
        return Client(find_socket())


class _Commands(click.Group):
    """Finds `demo` when it is asked for: it brings half of the daemon with it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        demo = ["demo"] if importlib.util.find_spec("calledind.cli.demo") else []
        return sorted([*super().list_commands(ctx), *demo])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "demo" and importlib.util.find_spec("calledind.cli.demo"):
            command = importlib.import_module("calledind.cli.demo").demo
            assert isinstance(command, click.Command)
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    envvar="CALLEDIN_SOCKET",
    show_envvar=True,
    help="The daemon's Unix socket. Default: ./calledin-data/admin.sock, else /var/lib/calledin/admin.sock.",
)
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="The daemon's settings, to find the socket by."
)
@click.version_option(calledind.__version__, prog_name="calledin")
@click.pass_context
def main(ctx: click.Context, socket: Path | None, config: Path | None) -> None:
    """Ask a running calledin, and act on it. Without a command, at a terminal: a prompt."""
    ctx.obj = Target(socket, config)
    if ctx.invoked_subcommand is None:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        from calledind.cli.shell import Prompt  # noqa: PLC0415 - a command must start fast

        options = ["--socket", str(socket)] if socket else ["--config", str(config)] if config else []
        Prompt(ctx.command, options).run(ctx.obj.client())


@main.command()
@json_option
@click.pass_obj
def status(target: Target, as_json: bool) -> None:
    """Show what the daemon is doing."""
    answer = target.client().get("/status")
    if as_json:
        print_json(answer)
    else:
        print_fields(answer)


@main.command()
@json_option
@click.pass_obj
def nodes(target: Target, as_json: bool) -> None:
    """Show the daemons that share a store with this one."""
    answer = target.client().get("/nodes")
    if as_json:
        print_json(answer)
        return
    print_table(
        ("node", "state", "live", "queued", "version", ""),
        (
            (
                each["name"],
                "draining" if each.get("draining") and each["state"] == "alive" else each["state"],
                each.get("live", ""),
                each.get("queued", ""),
                each.get("version", ""),
                "this one" if each["here"] else "",
            )
            for each in answer
        ),
    )


@main.command()
@click.option("--resume", is_flag=True, help="Let it take work again.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the running calls to finish.")
@json_option
@click.pass_obj
def drain(target: Target, resume: bool, no_wait: bool, as_json: bool) -> None:
    """Let a daemon take no more work, and wait until its running calls have finished.

    Requests get 503, nothing more is dialled, and other nodes take what waits; without others it stays on disk.
    """
    client = target.client()
    answer = client.post("/drain", {"drain": not resume})
    while answer["live"] and answer["draining"] and not no_wait:
        if not as_json:
            click.echo(f"{answer['live']} calls are running", err=True)
        time.sleep(DRAIN_LOOK)
        answer = client.post("/drain", {"drain": True})
    if as_json:
        print_json(answer)
    else:
        click.echo("it is drained" if answer["draining"] else "it takes work again")


@main.group()
def keys() -> None:
    """The api keys of customers."""


@keys.command("add")
@click.argument("name")
@click.option("--credits", "amount", type=click.IntRange(0), default=0, help="Calls it may make to begin with.")
@json_option
@click.pass_obj
def add_key(target: Target, name: str, amount: int, as_json: bool) -> None:
    """Make a key. It is shown this one time: the daemon keeps only its hash."""
    key = target.client().post("/keys", {"name": name, "credits": amount})
    if as_json:
        print_json(key)
        return
    print_fields({name: key[name] for name in ("id", "name", "credits", "api_key", "webhook_secret")})
    click.echo("\nNote api_key and webhook_secret now; they are not shown again.")


@keys.command("list")
@json_option
@click.pass_obj
def list_keys(target: Target, as_json: bool) -> None:
    """Show all keys, the oldest first."""
    answer = target.client().get("/keys")
    if as_json:
        print_json(answer)
        return
    print_table(
        ("id", "name", "credits", "held", "charged", "made", "state"),
        (
            (
                key["id"],
                key["name"],
                key["credits"],
                key["held"],
                key["charged"],
                moment(key["created_at"])[:10],
                _state(key),
            )
            for key in answer["keys"]
        ),
    )


def _state(key: Mapping[str, Any]) -> str:
    """Say all that is special about a key, in a column that may be folded."""
    words = ["disabled" if key["disabled"] else "enabled"]
    if key["caller_ids"]:
        words.append(f"caller ids: {len(key['caller_ids'])}")
    if key["attestation"]:
        words.append(f"attested {key['attestation']}")
    return ", ".join(words)


def _switch(target: Target, key_id: str, action: str, as_json: bool) -> None:
    key = target.client().post(f"/keys/{quote(key_id, safe='')}/{action}")
    if as_json:
        print_json(key)
    else:
        click.echo(f"{key['id']} ({key['name']}) is {action}d")


@keys.command()
@click.argument("key_id", metavar="ID", shell_complete=key_ids)
@json_option
@click.pass_obj
def disable(target: Target, key_id: str, as_json: bool) -> None:
    """Let a key make no more calls; its requests get code 5."""
    _switch(target, key_id, "disable", as_json)


@keys.command()
@click.argument("key_id", metavar="ID", shell_complete=key_ids)
@json_option
@click.pass_obj
def enable(target: Target, key_id: str, as_json: bool) -> None:
    """Let a disabled key make calls again."""
    _switch(target, key_id, "enable", as_json)


def _words(caller_ids: list[str]) -> str:
    return ", ".join(caller_ids) or "any"


@keys.command("caller-ids", short_help="Show or set the caller ids that a key may use.")
@click.argument("key_id", metavar="ID", shell_complete=key_ids)
@click.argument("numbers", metavar="[NUMBER]...", nargs=-1)
@click.option("--any", "all_of_them", is_flag=True, help="Let it name any caller id again.")
@json_option
@click.pass_obj
def set_caller_ids(target: Target, key_id: str, numbers: tuple[str, ...], all_of_them: bool, as_json: bool) -> None:
    """Show the caller ids that a key may use, or make NUMBERs all of them.

    A NUMBER is "+12125550100", a number without its country code, or "anonymous".
    """
    if numbers and all_of_them:
        raise click.UsageError("give either NUMBERs or --any")
    path = f"/keys/{quote(key_id, safe='')}"
    client = target.client()
    wanted = {"caller_ids": list(numbers)}
    key = client.post(f"{path}/caller-ids", wanted) if numbers or all_of_them else client.get(path)
    if as_json:
        print_json(key)
    else:
        click.echo(f"{key['id']} ({key['name']}) may use: {_words(key['caller_ids'])}")


@keys.command("attestation")
@click.argument("key_id", metavar="ID", shell_complete=key_ids)
@click.argument("level", metavar="A|B|C|default", type=click.Choice(["A", "B", "C", "default"], case_sensitive=False))
@json_option
@click.pass_obj
def set_attestation(target: Target, key_id: str, level: str, as_json: bool) -> None:
    """Say what STIR/SHAKEN attests of a key's calls.

    A: you know the customer and that it may use its caller ids (those of `caller-ids` alone). B: you know the
    customer. C: neither. default: as [stir] attestation in the settings says.
    """
    wanted = {"attestation": "" if level == "default" else level}
    key = target.client().post(f"/keys/{quote(key_id, safe='')}/attestation", wanted)
    if as_json:
        print_json(key)
    else:
        click.echo(f"calls of {key['id']} ({key['name']}) are attested: {key['attestation'] or 'default'}")


@main.command(
    "credits",
    short_help="Show a key's call credits, or add to them.",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("key_id", metavar="ID", shell_complete=key_ids)
@click.argument("amount", type=int, required=False)
@click.option("--note", help="Why; kept in the log beside AMOUNT.")
@click.option("--log", "show_log", is_flag=True, help="Show how the credits have changed, the newest change first.")
@click.option("--most", type=click.IntRange(1), default=50, show_default=True, help="Changes that --log shows.")
@json_option
@click.pass_obj
def add_credits(
    target: Target, key_id: str, amount: int | None, note: str | None, show_log: bool, most: int, as_json: bool
) -> None:
    """Show a key's call credits, or add AMOUNT to them; a negative AMOUNT takes some."""
    if note is not None and amount is None:
        raise click.UsageError("--note goes with an AMOUNT")
    if show_log and amount is not None:
        raise click.UsageError("give either AMOUNT or --log")
    path = f"/keys/{quote(key_id, safe='')}"
    client = target.client()
    if show_log:
        _show_log(_entries(client, path, most), as_json)
        return
    wanted = {"amount": amount} if note is None else {"amount": amount, "note": note}
    key = client.get(path) if amount is None else client.post(f"{path}/credits", wanted)
    if as_json:
        print_json(key)
    else:
        print_fields({name: key[name] for name in ("id", "name", "credits", "held", "charged")})


def _entries(client: Client, path: str, most: int) -> list[dict[str, Any]]:
    """Read that many rows of a key's ledger, a page at a time."""
    entries: list[dict[str, Any]] = []
    while len(entries) < most:
        place = quote(entries[-1]["place"], safe="") if entries else ""
        wanted = min(most - len(entries), PAGE)
        page = client.get(f"{path}/ledger?most={wanted}&before={place}")["entries"]
        entries.extend(page)
        if len(page) < wanted:
            break
    return entries


def _show_log(entries: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json({"entries": entries})
        return
    print_table(
        ("time", "amount", "reason", "reference", "balance"),
        (
            (moment(entry["at"]), entry["amount"], entry["reason"], entry["reference"], entry["balance"])
            for entry in entries
        ),
    )


for command in (call, callbacks, calls, check, completion, hangup, listen, show, trace, trunks):
    main.add_command(command)
main.add_command(dnc)
main.add_command(backup)
main.add_command(restore)
main.add_command(migrate)
