"""`calledin trunks`: the carriers that take our calls."""

from __future__ import annotations

import difflib
import json
import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import attrs
import click
from rich.text import Text

from calledind.cli.client import Client, NotReachable, Refused
from calledind.cli.completion import trunk_names
from calledind.cli.output import console, json_option, print_fields, print_json, print_table
from calledind.cli.storage import WrongUsage
from calledind.settings.reading import SettingsError, load
from calledind.settings.tables import Settings, Trunk

if TYPE_CHECKING:
    from calledind.cli.main import Target

FIELDS = attrs.fields_dict(Trunk)


@click.group()
def trunks() -> None:
    """The carriers and PBXs that take our calls."""


@trunks.command("list")
@json_option
@click.pass_obj
def list_trunks(target: Target, as_json: bool) -> None:
    """Show all trunks and how they are."""
    answer = target.client().get("/trunks")
    if as_json:
        print_json(answer)
        return
    print_table(
        ("name", "where", "by", "state", "calls", "per second"),
        (
            (
                each["name"],
                where(each),
                each["transport"],
                state_of(each),
                f"{each['busy']} of {each['channels']}",
                pace_of(each),
            )
            for each in answer["trunks"]
        ),
    )


def where(trunk: Mapping[str, Any]) -> str:
    """Return what a trunk's messages go to."""
    port = f":{trunk['port']}" if trunk["port"] else ""
    return str(trunk["outbound_proxy"] or f"{trunk['host']}{port}")


def state_of(trunk: Mapping[str, Any]) -> Text:
    """Say how a trunk is; in red where it gets no calls."""
    words = ", ".join(filter(None, [trunk["health"], trunk["registration"]]))
    registered = not trunk["registration"] or trunk["registration"].startswith("registered")
    return Text(words, "" if trunk["health"] == "well" and registered else "red")


def pace_of(trunk: Mapping[str, Any]) -> str:
    """Return the calls per second that a trunk gets, and those it would where it throttles."""
    now, most = trunk["calls_per_second"], trunk["most_calls_per_second"]
    return f"{now:g}" if now == most else f"{now:g} of {most:g}"


# test


@trunks.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=trunk_names)
@json_option
@click.pass_context
def test(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Ask trunks, all of them where none is named, with an OPTIONS whether they are there.

    Exit code 1 where one does not answer, or does not know where we are though it should.
    """
    client = ctx.obj.client()
    wanted = names or tuple(each["name"] for each in client.get("/trunks")["trunks"])
    results = [ask(client, name) for name in wanted]
    if as_json:
        print_json({"trunks": results})
    else:
        for each in results:
            print_fields({name: value for name, value in shown(each).items() if value})
            if each is not results[-1]:
                click.echo()
    if not all(is_well(each) for each in results):
        ctx.exit(1)


def ask(client: Client, name: str) -> dict[str, Any]:
    """Have the daemon send an OPTIONS."""
    result = client.post(f"/trunks/{quote(name, safe='')}/test")
    assert isinstance(result, dict)
    return result


def is_well(result: Mapping[str, Any]) -> bool:
    """Whether a trunk answered, and is registered where it wants that."""
    registered = not result["registration"] or result["registration"].startswith("registered")
    return result["status"] not in (None, 503) and registered


def shown(result: Mapping[str, Any]) -> dict[str, Any]:
    """Put a test's result into words."""
    answer = result["words"]
    if result["status"] is not None:
        answer = f"{result['status']} after {result['seconds'] * 1000:.0f} ms: {answer}"
    return {
        "trunk": result["name"],
        "address": result["address"],
        "OPTIONS": answer,
        "registration": result["registration"],
    }


# add


@trunks.command(short_help="Add a trunk to the settings file.")
@click.argument("name")
@click.argument("host")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="The settings file.")
@click.option("--port", type=click.IntRange(1, 65535), help="Where DNS does not say it.")
@click.option("--transport", type=click.Choice(["udp", "tcp", "tls", "auto"]))
@click.option("--username", help="That its challenges are answered with.")
@click.option("--password", is_flag=True, help="Ask for a password, and keep it in a file of its own.")
@click.option("--password-file", type=click.Path(path_type=Path), help="Where the password is kept.")
@click.option("--register", is_flag=True, help="Tell it where we are.")
@click.option("--prefix", "prefixes", multiple=True, metavar="DIGITS", help="Of the numbers it takes; again for more.")
@click.option("--caller-id", help="Where a request names none.")
@click.option("--channels", type=click.IntRange(1), help="Calls at the same time.")
@click.option("--calls-per-second", type=float)
@click.option("--set", "others", multiple=True, metavar="NAME=VALUE", help="Any other setting; VALUE as in TOML.")
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def add(
    target: Target,
    /,
    name: str,
    host: str,
    config: Path | None,
    password: bool,
    others: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Add a trunk to the settings file, and have a running daemon read it.

    What comes out is checked before anything is written, and shown. A host may have its port: sip.example.com:5070.
    """
    file = config or target.config
    if file is None:
        raise click.UsageError("say with --config which settings file it is")
    if password and given["password_file"] is not None:
        raise click.UsageError("give either --password or --password-file")
    table = {"name": name, **_host_port(host), **{key: value for key, value in given.items() if value}, **_read(others)}
    secret = click.prompt(f"password of {given['username'] or name}", hide_input=True) if password else None
    if secret is not None:
        table["password_file"] = file.absolute().with_name(f"{name}.password")
    try:
        before = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{file}: can't be read: {error}") from None
    after = f"{before.rstrip()}\n\n[[trunks]]\n" + "".join(f"{key} = {to_toml(table[key])}\n" for key in table)
    settings = check(file, after)
    if not as_json:
        print_difference(before, after, file)
    if dry_run:
        if as_json:
            print_json({"written": False, "reloaded": False, "text": after[len(before) :]})
        return
    if not yes and not as_json and console().is_terminal and not click.confirm("Write this?", default=True):
        raise click.Abort
    if secret is not None:
        _keep_secret(Path(str(table["password_file"])), secret, file)
    _replace(file, after)
    _reload(target if target.socket or target.config else replace(target, config=file), name, settings, as_json)


def _host_port(text: str) -> dict[str, Any]:
    host, colon, port = text.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.startswith("[")):
        return {"host": host, "port": int(port)}
    return {"host": text}


def _read(others: tuple[str, ...]) -> dict[str, Any]:
    """Read settings that are given as NAME=VALUE. Text needs no quotes."""
    values: dict[str, Any] = {}
    for each in others:
        name, equals, text = each.partition("=")
        if not equals:
            raise click.UsageError(f'"{each}" is not NAME=VALUE')
        try:
            values[name.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[name.strip()] = text.strip()
    return values


def to_toml(value: object) -> str:
    """Write a value as TOML does. A string of JSON is one of TOML, but for what is no character."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(to_toml, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {to_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(str(value), ensure_ascii=False)


def check(file: Path, text: str) -> Settings:
    """Load settings from this text. Raises `WrongUsage` with all that is wrong."""
    with _beside(file, text) as draft:
        try:
            return load(draft)
        except SettingsError as error:
            words = "\n".join(error.errors).replace(os.fspath(draft), os.fspath(file))
            raise WrongUsage(f"nothing is written, since {file} would have errors:\n{words}") from None


@contextmanager
def _beside(file: Path, text: str) -> Iterator[Path]:
    """Write a file with the rights of another, for as long as it lasts."""
    try:
        status = file.stat()
        handle, name = tempfile.mkstemp(dir=file.absolute().parent, prefix=f".{file.name}.")
        with open(handle, "w", encoding="utf-8") as draft:
            os.fchmod(handle, status.st_mode & 0o777)
            if os.geteuid() == 0:
                os.fchown(handle, status.st_uid, status.st_gid)
            draft.write(text)
            draft.flush()
            os.fsync(handle)
    except OSError as error:
        raise Refused(f"{file}: can't be written: {error.strerror}") from None
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _replace(file: Path, text: str) -> None:
    with _beside(file, text) as draft:
        # Where it is a link, what it leads to.
        draft.replace(file.resolve())


def _keep_secret(path: Path, secret: str, like: Path) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            if os.geteuid() == 0:
                os.fchown(file.fileno(), like.stat().st_uid, like.stat().st_gid)
            file.write(secret + "\n")
    except OSError as error:
        raise Refused(f"{path}: can't be written: {error.strerror}") from None


def print_difference(before: str, after: str, file: Path) -> None:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), os.fspath(file), os.fspath(file), lineterm="")
    styles = {"+": "green", "-": "red", "@": "cyan"}
    for line in lines:
        console().print(Text(line, styles.get(line[:1], "")), soft_wrap=True)


def _reload(target: Target, name: str, settings: Settings, as_json: bool) -> None:
    """Have the daemon of these settings read them, where one is running."""
    try:
        client = target.client() if target.socket is not None else Client(settings.admin_socket)
        errors = client.post("/reload")["errors"]
        taken = not errors and any(each["name"] == name for each in client.get("/trunks")["trunks"])
    except NotReachable:
        errors, taken = [], None
    if as_json:
        print_json({"written": True, "reloaded": bool(taken), "errors": errors})
    if errors:
        raise Refused("it is written, but the daemon does not take it:\n" + "\n".join(errors))
    if as_json:
        return
    if taken is None:
        click.echo("It is written. No daemon runs on these settings; the next start has it.")
    elif not taken:
        click.echo("It is written. The daemon that answers has other settings: restart it, or name its file.")
    else:
        click.echo(f"It is written, and the daemon has it. `calledin trunks test {name}` asks whether it answers.")
