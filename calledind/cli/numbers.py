"""`calledin dnc`: the DoNotCall list."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from calledind.cli.output import json_option, print_fields, print_json

if TYPE_CHECKING:
    from calledind.cli.main import Target

SLICE_OCTETS = 512 * 1024
"Of a file, sent at a time."


@click.group()
def dnc() -> None:
    """The DoNotCall list: numbers that are never called.

    A NUMBER is written "+12125550100" or "1 2125550100".
    """


def _say(answer: dict[str, Any], as_json: bool, words: str) -> None:
    if as_json:
        print_json(answer)
    else:
        click.echo(words)


@dnc.command()
@click.argument("numbers", nargs=-1, required=True, metavar="NUMBER...")
@json_option
@click.pass_obj
def add(target: Target, numbers: tuple[str, ...], as_json: bool) -> None:
    """Put numbers on the list."""
    answer = target.client().post("/dnc/add", {"numbers": numbers})
    _say(answer, as_json, f"{answer['added']} added, {len(numbers) - answer['added']} were there already")


@dnc.command()
@click.argument("numbers", nargs=-1, required=True, metavar="NUMBER...")
@json_option
@click.pass_obj
def remove(target: Target, numbers: tuple[str, ...], as_json: bool) -> None:
    """Take numbers off the list."""
    answer = target.client().post("/dnc/remove", {"numbers": numbers})
    _say(answer, as_json, f"{answer['removed']} removed, {len(numbers) - answer['removed']} were not there")


@dnc.command()
@json_option
@click.pass_obj
def count(target: Target, as_json: bool) -> None:
    """Show how many numbers are on the list."""
    answer = target.client().get("/dnc")
    _say(answer, as_json, f"{answer['count']:,}")


@dnc.command("import", short_help="Put all numbers of a file on the list.")
@click.argument("file", type=click.File("rb"), metavar="CSV")
@click.option("--country-code", default="", help="Of all lines, for a list that has none: 2125550100 or 212,5550100.")
@click.option(
    "--rejects",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where wrong lines are written, with the reason. Default: the file's name and .rejected",
)
@json_option
@click.pass_context
def import_numbers(ctx: click.Context, file: IO[bytes], country_code: str, rejects: Path | None, as_json: bool) -> None:
    """Put all numbers of a file on the list, a line each: "1,2125550100" or "+12125550100"; - reads the input.

    What is there already stays, so that a broken import is begun again without harm. Lines that are no number are
    written to a file, and the exit code is 1.
    """
    if country_code and not (country_code.isascii() and country_code.isdigit()):
        raise click.BadParameter("must be digits, such as 1", param_hint="--country-code")
    client = ctx.obj.client()
    path = "/dnc/import" + (f"?country_code={country_code}" if country_code else "")
    sums = {"lines": 0, "added": 0, "already_there": 0, "rejected": 0}
    name = getattr(file, "name", "<stdin>")
    wrong = _Rejects(rejects or Path(("stdin" if name == "<stdin>" else os.fspath(name)) + ".rejected"))
    with wrong:
        for lines in _shown(_slices(file), file, quiet=as_json):
            answer = client.send(path, b"".join(lines))
            wrong.add(sums["lines"], lines, answer["wrong_lines"])
            for name in sums:
                sums[name] += answer[name]
    result: dict[str, object] = {**sums, "rejects": os.fspath(wrong.path) if sums["rejected"] else None}
    if as_json:
        print_json(result)
    else:
        print_fields(result)
    if sums["rejected"]:
        ctx.exit(1)


def _slices(file: IO[bytes]) -> Iterator[list[bytes]]:
    while lines := file.readlines(SLICE_OCTETS):
        yield lines


def _shown(slices: Iterable[list[bytes]], file: IO[bytes], *, quiet: bool) -> Iterator[list[bytes]]:
    """Give the slices, with a progress bar where somebody looks on."""
    size = os.fstat(file.fileno()).st_size if _is_regular(file) else None
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task("importing", total=size)
        for lines in slices:
            yield lines
            progress.advance(task, sum(map(len, lines)))


def _is_regular(file: IO[bytes]) -> bool:
    try:
        return os.path.isfile(file.fileno())
    except OSError:
        return False


class _Rejects:
    """The file of wrong lines, made when there is the first one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> None:
        """Nothing is opened yet."""

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, before: int, lines: list[bytes], wrong: list[dict[str, Any]]) -> None:
        """`before`: how many lines of the file came before these. `wrong`: as the daemon tells it."""
        for entry in wrong:
            if self._file is None:
                try:
                    self._file = self.path.open("w", encoding="utf-8", newline="")
                except OSError as error:
                    raise click.FileError(os.fspath(self.path), error.strerror) from None
                csv.writer(self._file).writerow(("line", "why", "text"))
            text = lines[entry["line"] - 1].decode("utf-8", "replace").rstrip("\r\n")
            csv.writer(self._file).writerow((before + entry["line"], entry["why"], text))


@dnc.command(short_help="Write all numbers of the list to a file or the output.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), required=False)
@click.pass_obj
def export(target: Target, file: Path | None) -> None:
    """Write all numbers of the list as country_code,phone_number lines, to FILE or the output."""
    pieces = target.client().stream("/dnc/export")
    if file is None or file == Path("-"):
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    # Half a list must not look like a whole one.
    partial = file.with_name(file.name + ".partial")
    try:
        with partial.open("wb") as output:
            output.writelines(pieces)
        partial.replace(file)
    except OSError as error:
        raise click.FileError(os.fspath(file), error.strerror) from None
    finally:
        partial.unlink(missing_ok=True)
