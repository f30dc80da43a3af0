"""The daemon dies at each named point of a call's life, under load, and the judge finds every promise held.

Each point once; `python -m tests.interop.chaos` comes to each many times.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.chaos import in_chains, many, points

CHAINS = 4
"Worlds at the same time; in each, daemons die at their share of the points."
SEED = int(os.environ.get("CALLEDIN_SEED", "1"))


class CrashTests(SynchronousTestCase):
    def test_embedded(self) -> None:
        """With the embedded store."""
        self.crash_everywhere("embedded")

    def test_redis(self) -> None:
        """With Redis, as a node that is alone, and as one of two."""
        self.crash_everywhere("redis")

    def crash_everywhere(self, store: str) -> None:
        results = many(CHAINS, in_chains(store, CHAINS, SEED))
        for judgement, complaints in results:
            self.assertEqual("\n".join(judgement.broken + complaints), "", str(judgement))
        deaths = sum(judgement.figures["deaths"] for judgement, _ in results)
        self.assertGreater(deaths, len(points(store)))
