"""Run twistd on a machine that misbehaves: what goes wrong is said by files in the folder $CALLEDIN_FAULTS.

    step       the wall clock is this many seconds (the file's text) off
    full       the disk is full: no transaction can be begun
    slow       each commit takes this many seconds more
    die-before the process is killed in place of the next commit
    die-after  the process is killed as soon as the next commit has returned

Names below ".test" lead to 127.0.0.2, those below "silent.test" have a name server that never answers.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("CALLEDIN_FAULTS", "/nonexistent"))
HOSTILE = "127.0.0.2"
"Where the names below .test lead."


def said(name: str) -> str | None:
    """Return the text of a fault's file, None where there is none."""
    try:
        return (FOLDER / name).read_text()
    except OSError:
        return None


class FaultyConnection(sqlite3.Connection):
    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql.startswith("BEGIN") and said("full") is not None:
            raise sqlite3.OperationalError("database or disk is full")
        if not sql.startswith("COMMIT"):
            return super().execute(sql, *args)
        time.sleep(float(said("slow") or 0.0))
        self._die("die-before")
        cursor = super().execute(sql, *args)
        self._die("die-after")
        return cursor

    def _die(self, when: str) -> None:
        if said(when) is not None:
            (FOLDER / when).unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Take twistd's arguments."""
    plain_connect, plain_time, plain_lookup = sqlite3.connect, time.time, socket.getaddrinfo

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = plain_connect(*args, **{**kwargs, "factory": FaultyConnection})
        return connection

    def wall() -> float:
        return plain_time() + float(said("step") or 0.0)

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        if str(host).endswith("silent.test"):
            time.sleep(30.0)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return plain_lookup(HOSTILE if str(host).endswith(".test") else host, *args, **kwargs)

    for module, name, fault in ((sqlite3, "connect", connect), (time, "time", wall), (socket, "getaddrinfo", lookup)):
        setattr(module, name, fault)
    sys.argv[0] = "twistd"
    from twisted.scripts.twistd import run

    run()


if __name__ == "__main__":
    main()
