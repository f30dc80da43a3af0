"""What a benchmark hands back, and how it is printed: figures that are ratios of two things measured in one run.

A benchmark is a module beside this one with `measure(quick) -> list[Row]` and `main(argv) -> int`, which has the
options of `options` and may add its own. It is run by itself (`python -m tests.benchmarks.accepts --quick`) or with
the others (`python -m tests.benchmarks`), in a process of its own either way: reactors and limits are for one use.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")

UNIT_OF_RATIOS = "x"


@dataclass(frozen=True)
class Row:
    """One figure, what it should be, and what it is compared with."""

    what: str
    figure: float
    unit: str
    'Of the figure: "x" for a ratio, else such as "/s" or "ms".'
    goal: float | None
    "None where the figure is told for its own sake."
    more_is_better: bool
    reference: str
    "What a ratio is a ratio to; for others, the conditions."
    detail: str = ""
    "The absolute figures behind it, which drift from machine to machine."
    decides: bool = True
    "Whether missing the goal fails the run; a goal to strive for does not."

    @property
    def met(self) -> bool:
        if self.goal is None:
            return True
        return self.figure >= self.goal if self.more_is_better else self.figure <= self.goal


def options(description: str | None) -> argparse.ArgumentParser:
    """Return what every benchmark's command line takes; a benchmark may add to it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds in place of a minute; the figures are rougher")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    return parser


def tell(rows: Sequence[Row], arguments: argparse.Namespace) -> int:
    """Print the rows as the command line wishes; returns the exit status."""
    if arguments.json:
        json.dump([asdict(row) for row in rows], sys.stdout)
    else:
        show(rows)
    return status(rows)


def in_reactor(work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Run the reactor, once in this process, until `work(reactor)` is done; returns or raises what it did."""
    from twisted.internet import reactor

    outcome: list[T | Failure] = []

    def begin() -> None:
        done: Deferred[T] = Deferred.fromCoroutine(work(reactor))
        done.addBoth(outcome.append).addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    [result] = outcome
    if isinstance(result, Failure):
        result.raiseException()
    return result


def status(rows: Iterable[Row]) -> int:
    return 0 if all(row.met for row in rows if row.decides) else 1


def read(text: str) -> list[Row]:
    """Read what a module printed with `--json`."""
    return [Row(**row) for row in json.loads(text)]


def show(rows: Iterable[Row]) -> None:
    table = Table(title="calledin against its references, each pair measured in the same run")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_column("goal", justify="right")
    table.add_column("")
    table.add_column("reference")
    table.add_column("measured")
    for row in rows:
        table.add_row(row.what, _number(row.figure, row.unit), _goal(row), _judged(row), row.reference, row.detail)
    # What is not a terminal has no width of its own: rows are not to be cut there.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    return f"{'≥' if row.more_is_better else '≤'} {_number(row.goal, row.unit)}"


def _judged(row: Row) -> str:
    if row.goal is None:
        return ""
    if row.met:
        return "[green]met[/]"
    return "[red]missed[/]" if row.decides else "[yellow]not yet[/]"


def _number(value: float, unit: str) -> str:
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return f"{digits}{unit}" if unit in (UNIT_OF_RATIOS, "/s") else f"{digits} {unit}"
