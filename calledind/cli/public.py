"""Of `calledin check`: whether trunks are told the address by which the world sees us.

The trunks of a daemon that runs say by which address they see us. With --live the STUN servers of the settings are
asked too, each once, by a socket of its own: what is compared is the IP address, since a NAT gives that socket another
port.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from calledind.cli.finding import FAIL, OK, WARN, Finding, Subject
from calledind.cli.stun import public_ip
from calledind.net import stun
from calledind.net.dns import is_ip
from calledind.settings.tables import Trunk
from calledind.settings.values import STUN_SERVER, parse_address

ADVERTISE = "set advertise of the trunk, or sip.advertise"


@dataclass(frozen=True)
class _Told:
    """What a trunk is told of our public address."""

    trunk: str
    advertise: str
    'An IP address, "received" or "stun:HOST:PORT"; empty: the address that packets to it leave from.'
    seen: str
    "The IP address by which it, or its STUN server, sees the daemon that runs; empty: not known."
    source: str
    "Our own address that a STUN server is asked from; empty: any."


def public_address(subject: Subject) -> Iterator[Finding]:
    """Give by which address trunks are told to find us, and whether that is the one we are seen by: by them, as the
    daemon knows, and with --live by the STUN servers that are named."""
    told = list(_told(subject))
    said: dict[tuple[str, str], str | OSError] = {}
    for each in told if subject.live else ():
        if STUN_SERVER.fullmatch(each.advertise) and (each.advertise, each.source) not in said:
            said[each.advertise, each.source] = _ask(each.advertise, each.source)
    for each in told:
        if subject.client is not None:
            yield from _as_seen(each)
        if STUN_SERVER.fullmatch(each.advertise):
            yield from _by_its_server(each, said.get((each.advertise, each.source)), subject)
        elif is_ip(each.advertise):
            yield from _by_any_server(each, said, live=subject.live)
        elif each.advertise and subject.client is None:
            yield Finding(
                OK, "address", f"{each.trunk} is told what its responses say; not known: no daemon is running"
            )
    settings = subject.settings
    for trunk in settings.trunks if settings is not None and not settings.sip.advertise else ():
        if not trunk.advertise and (source := _private_source(trunk)):
            yield Finding(
                WARN,
                "address",
                f"{trunk.name} is told {source}, which is private",
                'behind a NAT, set advertise = "received" for this trunk, or sip.advertise',
            )


def _told(subject: Subject) -> Iterator[_Told]:
    """Give the daemon's trunks where one runs, else those of the settings."""
    settings = subject.settings
    sources: dict[str, str] = {}
    if settings is not None:
        for trunk in settings.trunks:
            bind = trunk.bind or next(iter(settings.sip.bind), "")
            host = parse_address(bind)[0] if bind else ""
            sources[trunk.name] = host if is_ip(host) and not ipaddress.ip_address(host).is_unspecified else ""
    if subject.client is not None:
        for each in subject.client.get("/trunks")["trunks"]:
            seen = each["seen_as"].rpartition(":")[0].strip("[]")
            yield _Told(each["name"], each["advertise"], seen, sources.get(each["name"], ""))
    elif settings is not None:
        for trunk in settings.trunks:
            yield _Told(trunk.name, trunk.advertise or settings.sip.advertise, "", sources[trunk.name])


def _ask(server: str, source: str) -> str | OSError:
    """Return the IP address that a STUN server of the settings sees us by, or why it says none."""
    parts = STUN_SERVER.fullmatch(server)
    assert parts is not None
    try:
        return public_ip(parts[1].strip("[]"), int(parts[2] or stun.DEFAULT_PORT), source)
    except OSError as error:
        return error


def _as_seen(told: _Told) -> Iterator[Finding]:
    if told.seen and is_ip(told.advertise) and told.seen != told.advertise:
        words = f"{told.trunk} sees us as {told.seen}, and is told {told.advertise}"
        yield Finding(FAIL, "address", words, ADVERTISE)
    elif told.seen:
        yield Finding(OK, "address", f"{told.trunk} sees us as {told.seen}")
    elif told.advertise and not is_ip(told.advertise):
        yield Finding(WARN, "address", f"{told.trunk}: our public address is not known yet ({told.advertise})")


def _by_its_server(told: _Told, answer: str | OSError | None, subject: Subject) -> Iterator[Finding]:
    """Give whether a STUN server says what its trunk is told."""
    if answer is None:
        if subject.client is None:
            yield Finding(OK, "address", f"{told.trunk} is told what {told.advertise} says; not asked without --live")
    elif isinstance(answer, OSError):
        advice = f"without it, {told.trunk} is told sip.advertise, or an address of this machine"
        words = f"{told.advertise}: {answer.strerror or answer}"
        yield Finding(WARN, "address", words) if told.seen else Finding(FAIL, "address", words, advice)
    elif told.seen and told.seen != answer:
        words = f"{told.advertise} sees us as {answer}, and {told.trunk} is told {told.seen}"
        yield Finding(FAIL, "address", words, "the daemon asks it each minute: look again then")
    else:
        tense = "is" if told.seen else "will be"
        yield Finding(OK, "address", f"{told.advertise} sees us as {answer}, which {told.trunk} {tense} told")


def _by_any_server(told: _Told, said: Mapping[tuple[str, str], str | OSError], *, live: bool) -> Iterator[Finding]:
    """Give whether the STUN servers of other trunks say the address that this one is told, where nothing else does."""
    ours = ipaddress.ip_address(told.advertise)
    answers = {
        server: answer
        for (server, _), answer in said.items()
        if isinstance(answer, str) and ipaddress.ip_address(answer).version == ours.version
    }
    agreeing = [server for server, answer in answers.items() if ipaddress.ip_address(answer) == ours]
    if agreeing:
        yield Finding(OK, "address", f"{agreeing[0]} sees us as {told.advertise}, which {told.trunk} is told")
    elif answers:
        server, answer = next(iter(answers.items()))
        yield Finding(
            WARN, "address", f"{server} sees us as {answer}, and {told.trunk} is told {told.advertise}", ADVERTISE
        )
    elif not told.seen:
        why = "no STUN server says whether it is right" if live else "nobody is asked without --live"
        yield Finding(OK, "address", f"{told.trunk} is told {told.advertise}; not verified: {why}")


def _private_source(trunk: Trunk) -> str:
    """Return our address towards a trunk of the internet where it is a private one. No packet is sent for it."""
    host = trunk.host.strip("[]")
    if not is_ip(host) or not ipaddress.ip_address(host).is_global:
        return ""
    with (
        socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe,
        suppress(OSError),
    ):
        probe.connect((host, 5060))
        source = str(probe.getsockname()[0])
        return source if ipaddress.ip_address(source).is_private else ""
    return ""
