"""What a command says: a table for people, or JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from calledind.model import Reason

WIDE = 200
"Columns where the output is no terminal, so that nothing is folded."

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Give the command a --json flag, its argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")(command)


def console() -> Console:
    """Return a console on the standard output of this moment."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDE)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print rows below their columns' names; whole numbers stand on the right."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    cells = [list(row) for row in rows]
    for place, name in enumerate(columns):
        on_the_right = bool(cells) and all(isinstance(row[place], int) for row in cells)
        table.add_column(name, justify="right" if on_the_right else "left", no_wrap=place == 0)
    for row in cells:
        table.add_row(*(cell(value) for value in row))
    console().print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values below each other; a value that is a table of its own is indented."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in flatten(fields):
        table.add_row(Text(name), cell(value))
    console().print(table)


def flatten(fields: Mapping[str, object], indent: str = "") -> Iterable[tuple[str, object]]:
    for name, value in fields.items():
        label = indent + name.replace("_", " ")
        if isinstance(value, Mapping):
            yield label, ""
            yield from flatten(value, indent + "  ")
        elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            yield label, ""
            for item in value:
                words = [f"{key.replace('_', ' ')} {cell(part)}" for key, part in item.items() if key != "name"]
                yield f"{indent}  {item.get('name', '-')}", ", ".join(words)
        elif name.endswith("_at") and isinstance(value, int | float):
            yield label.removesuffix(" at"), moment(value)
        else:
            yield label, value


def cell(value: object) -> Text:
    """Words for a value. Never markup: what a name says in brackets is its own affair."""
    if value is None:
        return Text("-", style="dim")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, list | tuple):
        return Text(", ".join(map(str, value)))
    return Text(f"{value:,}" if isinstance(value, int) else str(value))


def known(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is not known of a call, and put the reason into words."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            found[name] = known(value)
        elif name == "reason" and value is not None:
            found[name] = f"{value} ({Reason(value).name.lower().replace('_', ' ')})"
        elif value is not None and value != "":
            found[name] = f"{value:.1f} s" if name == "duration" else value
    return found


def print_json_line(value: object) -> None:
    """Print JSON as one line, at once."""
    click.echo(json.dumps(value, ensure_ascii=False))
    sys.stdout.flush()


def moment(seconds: float) -> str:
    """Return local time. `seconds`: since the epoch."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
