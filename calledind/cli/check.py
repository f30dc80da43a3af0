"""`calledin check`: looks for what keeps calls from being made, or will soon.

Each look is a function that gives findings. Nothing leaves this machine but with --live.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from calledind.cli.client import Client, NotReachable, Refused
from calledind.cli.finding import FAIL, OK, WARN, Finding, Subject
from calledind.cli.output import console, json_option, print_json
from calledind.cli.public import public_address
from calledind.cli.trunks import ask, is_well, shown
from calledind.settings.reading import SettingsError, load
from calledind.settings.tables import Settings
from calledind.settings.values import parse_address

if TYPE_CHECKING:
    from calledind.cli.main import Target

DEFAULT_FILES = (Path("calledin.toml"), Path("/etc/calledin/calledin.toml"))
STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}
LITTLE_ROOM, NO_ROOM = 1024**3, 64 * 1024**2
"Octets left on the disk of the data folder."
SOON_DAYS = 21.0
"A certificate that runs out in this time should have been renewed."
UNSYNCHRONISED = 0x40
"STA_UNSYNC of adjtimex(2)."


Look = Callable[[Subject], Iterator[Finding]]


@click.command(short_help="Look for what keeps calls from being made.")
@click.option("--live", is_flag=True, help="Ask DNS, the trunks, STUN servers and Redis too: this leaves the machine.")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="The settings file.")
@json_option
@click.pass_context
def check(ctx: click.Context, live: bool, config: Path | None, as_json: bool) -> None:
    """Look for what keeps calls from being made, or will soon: settings, secrets, store, disk, ports, names, trunks,
    certificates, our public address and the clock.

    Without --config the settings are ./calledin.toml or /etc/calledin/calledin.toml. Exit code 1 where anything fails.
    """
    found = list(look(ctx.obj, config, live))
    if as_json:
        print_json(
            [{"state": each.state, "what": each.what, "words": each.words, "advice": each.advice} for each in found]
        )
    else:
        print_findings(found)
    if any(each.state == FAIL for each in found):
        ctx.exit(1)


def print_findings(found: Sequence[Finding]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for each in found:
        words = Text(each.words)
        if each.advice:
            words.append(f"\n{each.advice}", "dim")
        table.add_row(Text(each.state, STYLES[each.state]), Text(each.what), words)
    console().print(table)


def look(target: Target, config: Path | None, live: bool) -> Iterator[Finding]:
    """Give all findings, as they are made."""
    file = config or target.config or next((each for each in DEFAULT_FILES if each.exists()), None)
    settings: Settings | None = None
    if file is None:
        yield Finding(WARN, "settings", "no settings file is known", "say which one with --config")
    else:
        try:
            settings = load(file)
        except SettingsError as error:
            yield from (Finding(FAIL, "settings", line) for line in error.errors)
        else:
            yield Finding(OK, "settings", str(file))
    client, facts = None, None
    try:
        client = target.client() if target.socket or settings is None else Client(settings.admin_socket)
        facts = client.get("/facts")
        status = client.get("/status")
    except (NotReachable, Refused) as error:
        client = None
        yield Finding(WARN, "daemon", error.message)
    else:
        ready = status["ready"] == "yes"
        yield Finding(
            OK if ready else FAIL,
            "daemon",
            f"{status['live']} calls live, {status['queued']} queued" if ready else status["ready"],
        )
    subject = Subject(settings, file, client, facts, live)
    for each in LOOKS:
        yield from each(subject)


# secrets


def secrets(subject: Subject) -> Iterator[Finding]:
    """Give files that others may read."""
    wrong = False
    for path in _secret_files(subject):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            continue
        except OSError as error:
            yield Finding(WARN, "secrets", f"{path}: can't be looked at: {error.strerror}")
            continue
        allowed = 0o007 if stat.S_ISDIR(mode) else 0o027
        if mode & allowed:
            wrong = True
            rights = "700" if stat.S_ISDIR(mode) else "600"
            yield Finding(FAIL, "secrets", f"{path} may be read by others", f"chmod {rights} {path}")
    if not wrong and subject.settings is not None:
        yield Finding(OK, "secrets", "nobody else may read them")


def _secret_files(subject: Subject) -> Iterator[Path]:
    settings = subject.settings
    if settings is None:
        return
    credentials = Path(os.environ.get("CREDENTIALS_DIRECTORY", "."))
    yield settings.data
    yield settings.data / "pepper"
    if subject.file is not None and any(trunk.password for trunk in settings.trunks):
        yield subject.file
    named = [
        settings.http.private_key,
        settings.redis.tls_private_key,
        *(trunk.tls_private_key for trunk in settings.trunks),
    ]
    yield from filter(None, named)
    below = [
        settings.stir.private_key,
        settings.redis.password_file,
        settings.redis.sentinel_password_file,
        *(trunk.password_file for trunk in settings.trunks),
    ]
    yield from (credentials / each for each in below if each is not None)


# the store and its disk


def store(subject: Subject) -> Iterator[Finding]:
    """Give whether calls can be kept."""
    if subject.client is not None:
        healthy = subject.client.get("/status")["store"]["healthy"]
        yield (
            Finding(OK, "store", "it takes changes")
            if healthy
            else Finding(FAIL, "store", "it can't take changes now", "the daemon's log says why")
        )
        return
    settings = subject.settings
    if settings is None:
        return
    if settings.store.kind == "redis":
        addresses = settings.redis.sentinels or (settings.redis.address,)
        for address in addresses if subject.live else ():
            yield _connects("store", address, "Redis")
        if not subject.live:
            yield Finding(OK, "store", f"Redis at {', '.join(addresses)}; not asked without --live")
        return
    yield _file(settings.data / "store" / "calledin.sqlite3")


def _file(path: Path) -> Finding:
    if not path.exists():
        folder = next(each for each in path.parents if each.exists())
        if os.access(folder, os.W_OK | os.X_OK):
            return Finding(OK, "store", f"{path} will be made")
        return Finding(FAIL, "store", f"{folder} can't be written by this user", "run this as the daemon's user")
    if not os.access(path, os.R_OK | os.W_OK):
        return Finding(FAIL, "store", f"{path} can't be written by this user", "run this as the daemon's user")
    try:
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=2.0)
        try:
            wrong = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        finally:
            database.close()
    except sqlite3.Error as error:
        wrong = str(error)
    if wrong != "ok":
        return Finding(FAIL, "store", f"{path}: {wrong}", "restore a backup with `calledin restore`")
    return Finding(OK, "store", str(path))


def _connects(what: str, address: str, name: str) -> Finding:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), 3.0).close()
    except OSError as error:
        return Finding(FAIL, what, f"{name} at {address}: {error.strerror or error}")
    return Finding(OK, what, f"{name} at {address} answers")


def disk(subject: Subject) -> Iterator[Finding]:
    """Give how much room is left."""
    data = Path(subject.facts["data"]) if subject.facts else subject.settings.data if subject.settings else None
    if data is None:
        return
    folder = next(each for each in (data.absolute(), *data.absolute().parents) if each.exists())
    free = shutil.disk_usage(folder).free
    words = f"{free / 1024**3:.1f} GiB free on the disk of {data}"
    if free < NO_ROOM:
        yield Finding(FAIL, "disk", words, "make room: calls are refused when it is full")
    elif free < LITTLE_ROOM:
        yield Finding(WARN, "disk", words, "the audio library alone may take audio.library_bytes")
    else:
        yield Finding(OK, "disk", words)


# ports


def ports(subject: Subject) -> Iterator[Finding]:
    """Give ports that somebody else has; those of a running daemon are its own."""
    settings = subject.settings
    if settings is None or subject.client is not None:
        if subject.facts is not None:
            yield Finding(
                OK, "ports", ", ".join([*subject.facts["http"], *subject.facts["https"], *subject.facts["sip"]])
            )
        return
    wanted = [("http.listen", each, "tcp") for each in settings.http.listen]
    wanted += [("http.tls_listen", each, "tcp") for each in settings.http.tls_listen]
    if not settings.simulator:
        wanted += [("sip.bind", each, kind) for each in settings.sip.bind for kind in ("udp", "tcp")]
    wrong = False
    for name, text, kind in wanted:
        if words := _taken(text, kind):
            wrong = True
            yield Finding(FAIL, "ports", f"{name}: {text} ({kind}): {words}")
    if not wrong:
        yield Finding(OK, "ports", "all are free")


def _taken(text: str, kind: str) -> str:
    """Say why a port can't be opened; empty where it can."""
    host, port = parse_address(text)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as probe:
        if kind == "tcp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "another program has it"
            if error.errno == errno.EADDRNOTAVAIL:
                return "this machine has no such address"
            return str(error.strerror)
    return ""


# trunks


def names(subject: Subject) -> Iterator[Finding]:
    """Give trunks whose names lead nowhere."""
    if not subject.live or subject.settings is None or subject.client is not None:
        return  # a running daemon asks by SRV and NAPTR too, with the OPTIONS
    for trunk in subject.settings.trunks:
        host = trunk.outbound_proxy.rpartition(":")[0] or trunk.outbound_proxy or trunk.host
        try:
            found = sorted({str(each[4][0]) for each in socket.getaddrinfo(host.strip("[]"), None)})
        except OSError as error:
            if trunk.port or trunk.outbound_proxy:
                yield Finding(FAIL, f"trunk {trunk.name}", f"{host}: {error.strerror}")
            else:
                yield Finding(WARN, f"trunk {trunk.name}", f"{host} has no address; it may have SRV records")
        else:
            yield Finding(OK, f"trunk {trunk.name}", f"{host}: {', '.join(found)}")


def trunks(subject: Subject) -> Iterator[Finding]:
    """Give how trunks are, and with --live whether they answer."""
    if subject.client is None:
        if subject.live and subject.settings is not None and subject.settings.trunks:
            yield Finding(WARN, "trunks", "not asked whether they answer: no daemon is running")
        return
    for each in subject.client.get("/trunks")["trunks"]:
        what = f"trunk {each['name']}"
        if subject.live:
            result = ask(subject.client, each["name"])
            words = ", ".join(filter(None, (shown(result)["OPTIONS"], result["registration"])))
            yield Finding(OK if is_well(result) else FAIL, what, words)
        else:
            well = each["health"] == "well" and not (
                each["registration"] and not each["registration"].startswith("registered")
            )
            words = ", ".join(filter(None, (each["health"], each["registration"])))
            yield Finding(OK if well else FAIL, what, words)


# certificates and the clock


def certificates(subject: Subject) -> Iterator[Finding]:
    """Give certificates that run out."""
    settings = subject.settings
    if settings is None:
        return
    files: list[tuple[str, Path | None]] = [("HTTPS", settings.http.certificate if settings.http.tls_listen else None)]
    files.append(("STIR", settings.stir.certificate))
    files += [(f"trunk {trunk.name}", trunk.tls_certificate) for trunk in settings.trunks]
    if settings.http.tls_listen and settings.http.certificate is None:
        yield Finding(WARN, "HTTPS", "its certificate is self-signed", "set http.certificate and http.private_key")
    for what, path in files:
        if path is not None:
            yield _certificate(what, path)


def _certificate(what: str, path: Path) -> Finding:
    from cryptography import x509  # noqa: PLC0415 - a command must start fast

    try:
        leaf = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        return Finding(FAIL, what, f"{path}: can't be read: {error.strerror}")
    except ValueError as error:
        return Finding(FAIL, what, f"{path}: is no certificate: {error}")
    days = (leaf.not_valid_after_utc.timestamp() - time.time()) / 86400
    if days < 0:
        return Finding(FAIL, what, f"{path} ran out {-days:.0f} days ago", "renew it, and reload")
    if leaf.not_valid_before_utc.timestamp() > time.time():
        return Finding(FAIL, what, f"{path} is not valid yet: is the clock right?")
    words = f"the certificate runs for {days:.0f} more days"
    return Finding(WARN, what, words, "renew it, and reload") if days < SOON_DAYS else Finding(OK, what, words)


def clock(_: Subject) -> Iterator[Finding]:
    """Give whether something keeps the clock right: signatures and certificates need it."""
    try:
        # struct timex begins with modes (0: only read) and has status as its sixth field.
        timex = (ctypes.c_long * 64)()
        if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) == -1:
            return
    except (OSError, AttributeError):
        return
    if timex[5] & UNSYNCHRONISED:
        yield Finding(WARN, "clock", "nothing keeps it right", "run an NTP client, such as systemd-timesyncd or chrony")
    else:
        yield Finding(OK, "clock", "it is kept right")


LOOKS: tuple[Look, ...] = (secrets, store, disk, ports, names, trunks, public_address, certificates, clock)
