"""The DoNotCall list on disk: a log of what was put on it and what was taken off, many numbers to a row.

A table with a row for each number, in their order, would have a page of it written anew for nearly every number of
an import, which come in any order: gigabytes for millions. A row of the log costs its own octets. What counts
of a number is its last mention. When the log is much longer than the list, it is written anew, at the next start.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from twisted.logger import Logger

from calledind.store.do_not_call import PAGE, NumberSet

ROW = 100_000
"Numbers in a row of a log that is written anew."
SLACK = 10_000
"Numbers, and a thousandth of it rows, that a log may have too many."

log = Logger()

KEEP = "INSERT INTO do_not_call (listed, numbers) VALUES (?, ?)"


def pack(numbers: Sequence[int] | NDArray[np.int64]) -> bytes:
    """Write numbers as a row of the log has them: 64 bits each, the low octet first."""
    return np.asarray(numbers, "<i8").tobytes()


def read(database: sqlite3.Connection) -> NumberSet:
    """Read the log; where it has grown too long, write it anew."""
    numbers, mentions, rows = _read_log(database)
    too_long = mentions > 2 * len(numbers) + SLACK
    too_many = rows > (len(numbers) + SLACK) // 1000 + len(numbers) // ROW
    if too_long or too_many:
        try:
            _write(database, numbers)
        except sqlite3.OperationalError as error:
            # A full disk must not keep the daemon from starting: nothing is lost, and the next start tries again.
            log.warn("the DoNotCall list can't be written anew, it stays as it is on disk: {error}", error=error)
    return NumberSet(_pages(numbers))


def listed(database: sqlite3.Connection) -> NDArray[np.int64]:
    """Return the numbers that are on the list, in order, and change nothing."""
    numbers, _, __ = _read_log(database)
    return numbers


def _read_log(database: sqlite3.Connection) -> tuple[NDArray[np.int64], int, int]:
    """Return the numbers in order, and how many mentions and rows the log has."""
    octets, sizes, signs = bytearray(), array("q"), bytearray()
    for sign, row in database.execute("SELECT listed, numbers FROM do_not_call ORDER BY place"):
        octets += row
        sizes.append(len(row) // 8)
        signs.append(sign)
    # SQLite would keep the pages that it has read, and none of them is wanted again.
    database.execute("PRAGMA shrink_memory")
    mentions = np.frombuffer(octets, "<i8")
    if all(signs):
        # Where nothing was ever taken off, no number is there twice.
        numbers = mentions
        numbers.sort()
    else:
        numbers = _last_words(mentions, np.repeat(np.frombuffer(signs, bool), sizes))
    return numbers, len(mentions), len(sizes)


def _last_words(mentions: NDArray[np.int64], listed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return in order the numbers whose last mention listed them."""
    # Stable: the mentions of one number stay in the order of the log.
    order = np.argsort(mentions, kind="stable")
    mentions, listed = mentions[order], listed[order]
    last = np.append(mentions[1:] != mentions[:-1], True)
    return mentions[last & listed]


def _write(database: sqlite3.Connection, numbers: NDArray[np.int64]) -> None:
    database.execute("BEGIN IMMEDIATE")
    try:
        database.execute("DELETE FROM do_not_call")
        for start in range(0, len(numbers), ROW):
            database.execute(KEEP, (True, pack(numbers[start : start + ROW])))
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.OperationalError):  # SQLite may have done so itself
            database.execute("ROLLBACK")
        raise


def _pages(numbers: NDArray[np.int64]) -> Iterator[list[int]]:
    for start in range(0, len(numbers), PAGE):
        yield numbers[start : start + PAGE].tolist()


class Packed:
    """The aggregate function `packed` of SQL: the numbers of many rows as one row of the log."""

    def __init__(self) -> None:
        self._numbers: list[int] = []

    def step(self, number: int) -> None:
        self._numbers.append(number)

    def finalize(self) -> bytes:
        return pack(self._numbers)
