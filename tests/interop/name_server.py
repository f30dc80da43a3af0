# mypy: allow-untyped-calls
"""A name server in a process of its own: `python -m tests.interop.name_server RECORDS` prints its port.

RECORDS: a JSON list of [kind, name, content...], as `Zone.add` takes them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from twisted.internet import reactor

from tests.net.zone import Zone


@contextmanager
def name_server(records: Sequence[Sequence[object]]) -> Iterator[str]:
    """Serve these records; gives "ADDRESS:PORT"."""
    command = [sys.executable, "-m", "tests.interop.name_server", json.dumps(records)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def main() -> None:
    zone = Zone()
    for kind, name, *content in json.loads(sys.argv[1]):
        texts = (each.encode() if isinstance(each, str) and kind in ("SRV", "NAPTR") else each for each in content)
        zone.add(kind, name, *texts)
    print(zone.listen(reactor)[1], flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
