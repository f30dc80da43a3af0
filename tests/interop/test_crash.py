"""The daemon dies at the named points of a call's life, under load, and the judge finds every promise held.

Some points, drawn by CALLEDIN_SEED; `python -m tests.interop.chaos` comes to each many times, on both stores.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.chaos import drawn, in_chains, many

POINTS = 12
CHAINS = {"redis": 2, "embedded": 1}
"Worlds of each store, the longest first; in each, daemons die at their share of the points."
AT_ONCE = 2
"Besides another module's. Much of their time is waiting, but two slow cores with four worlds are late with a BYE."
SEED = int(os.environ.get("CALLEDIN_SEED", "1"))


class CrashTests(SynchronousTestCase):
    def test_points(self) -> None:
        """With the embedded store; and with Redis, as a node that is alone, and as one of two."""
        dealt = drawn(POINTS, SEED)
        chains = [chain for store, count in CHAINS.items() for chain in in_chains(store, dealt[store], count, SEED)]
        results = many(AT_ONCE, chains)
        for judgement, complaints in results:
            self.assertEqual("\n".join(judgement.broken + complaints), "", str(judgement))
        deaths = sum(judgement.figures["deaths"] for judgement, _ in results)
        self.assertGreaterEqual(deaths, sum(map(len, dealt.values())))
