"""Write the manual page of the `calledin` command from its own help: `python manual.py VERSION`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from calledind.cli.main import main

HEAD = """.TH CALLEDIN 1 "" "calledin {version}" "User Commands"
.SH NAME
calledin \\- speak to the telephony daemon
.SH SYNOPSIS
.B calledin
[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGS\\fR]...
.SH DESCRIPTION
"""
FOOT = """.SH FILES
.TP
.I /etc/calledin/calledin.toml
The daemon's settings, each with its default.
.TP
.I /var/lib/calledin/admin.sock
The daemon's socket, which root and the daemon's user can open.
.SH SEE ALSO
.BR systemctl (1),
/usr/share/doc/calledin/README.md
"""


def escape(text: str) -> str:
    """Return text that roff takes for nothing but text."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").splitlines()
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in lines)


def described(command: click.Command) -> str:
    return escape(" ".join((command.help or "").replace("\b", "").split())) or "."


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None:
            yield f".TP\n.B {escape(record[0])}\n{escape(' '.join(record[1].split()))}\n"


def commands(group: click.Group, context: click.Context) -> Iterator[str]:
    """Give each command below a group with its usage, its help and its options."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        below = click.Context(command, info_name=name, parent=context)
        usage = " ".join(command.collect_usage_pieces(below))
        yield f".SS {escape(below.command_path)} {escape(usage)}\n{described(command)}\n"
        yield from options(command, below)
        if isinstance(command, click.Group):
            yield from commands(command, below)


def page(group: click.Group, version: str) -> str:
    context = click.Context(group, info_name="calledin")
    body = [HEAD.format(version=version), described(group), "\n.SH OPTIONS\n", *options(group, context)]
    return "".join([*body, ".SH COMMANDS\n", *commands(group, context), FOOT])


if __name__ == "__main__":
    sys.stdout.write(page(main, sys.argv[1]))
