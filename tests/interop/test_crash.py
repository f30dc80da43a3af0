"""The daemon dies at each named point of a call's life, under load, and the judge finds every promise held.

Each point once; `python -m tests.interop.chaos` comes to each many times.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.chaos import in_chains, many, points

CHAINS = {"redis": 4, "embedded": 2}
"Worlds of each store, the longest first; in each, daemons die at their share of the points."
AT_ONCE = 4
"Much of their time is waiting."
SEED = int(os.environ.get("CALLEDIN_SEED", "1"))


class CrashTests(SynchronousTestCase):
    def test_each_point(self) -> None:
        """With the embedded store; and with Redis, as a node that is alone, and as one of two."""
        work = {store: in_chains(store, chains, SEED) for store, chains in CHAINS.items()}
        results = many(AT_ONCE, [chain for chains in work.values() for chain in chains])
        for judgement, complaints in results:
            self.assertEqual("\n".join(judgement.broken + complaints), "", str(judgement))
        deaths = sum(judgement.figures["deaths"] for judgement, _ in results)
        self.assertGreaterEqual(deaths, sum(len(points(store)) for store in CHAINS))
