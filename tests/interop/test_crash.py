"""The daemon dies at each named point of a call's life, under load, and the judge finds every promise held.

Each point once; `python -m tests.interop.chaos` comes to each many times.
"""

from __future__ import annotations

import os
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.chaos import crash_at_each, in_chains, many, points

CHAINS = 4
"Daemons at the same time; each dies at its share of the points."
SEED = int(os.environ.get("CALLEDIN_SEED", "1"))


class CrashTests(SynchronousTestCase):
    def test_embedded(self) -> None:
        """With the embedded store."""
        self.crash_everywhere("embedded")

    def crash_everywhere(self, store: str) -> None:
        chains = in_chains(store, CHAINS, SEED)
        self.assertEqual(sorted(name for names, _ in chains for name in names), sorted(points(store)))
        results = many(CHAINS, [partial(crash_at_each, names, seed) for names, seed in chains])
        for (names, _), (judgement, complaints) in zip(chains, results, strict=True):
            wrong = "\n".join(judgement.broken + complaints)
            self.assertEqual(wrong, "", f"{' '.join(names)}\n{judgement}")
            self.assertGreater(judgement.figures["calls"], len(names))
