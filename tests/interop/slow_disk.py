"""Run twistd with a disk whose every fsync takes up to a fifth of a second: what a commit meets on a bad day."""

from __future__ import annotations

import random
import sqlite3
import sys
import time
from typing import Any


class SlowConnection(sqlite3.Connection):
    """Waits in the middle of some commits: before what was written is kept, and after it was."""

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        slow = sql.strip().upper().startswith("COMMIT") and random.random() < 0.5
        if slow:
            time.sleep(random.random() * 0.1)
        cursor = super().execute(sql, *args)
        if slow:
            time.sleep(random.random() * 0.1)
        return cursor


def main() -> None:
    """Take twistd's arguments."""
    plain = sqlite3.connect

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = plain(*args, **{**kwargs, "factory": SlowConnection})
        return connection

    setattr(sqlite3, "connect", connect)  # noqa: B010 - mypy knows that this is not done
    sys.argv[0] = "twistd"
    from twisted.scripts.twistd import run

    run()


if __name__ == "__main__":
    main()
