"""Nodes on one Redis, under load: what happens to one of them costs no call, and makes none twice.

`python -m tests.interop.chaos` does all of it for thousands of calls.
"""

from __future__ import annotations

import os
import random
from contextlib import ExitStack

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.shared_world import SharedWorld
from tests.interop.troubles import MIDDLING, Ended, Troubles, ended, restart

SEED = int(os.environ.get("CALLEDIN_SEED", "5"))
TROUBLES = (
    "suspensions longer than the lease",
    "silent connections",
    "kills of a node that was cut off",
)


class NodesTests(SynchronousTestCase):
    def well(self, result: Ended) -> None:
        judgement, complaints = result
        self.assertEqual("\n".join(judgement.broken + complaints), "", str(judgement))

    def test_troubles(self) -> None:
        """Three nodes: one dies, stands still, loses its Redis; the others take over what it had, once."""
        with ExitStack() as stack:
            world = SharedWorld(stack, nodes=3)
            world.load(1, pause=MIDDLING, faithful=True)
            troubles = Troubles(world, random.Random(SEED))
            for name in TROUBLES:
                troubles.one(name)
            result = ended(world, troubles.count)
        self.well(result)
        self.assertGreater(result[0].figures["calls told with code 0"], 50)

    def test_rolling_restart(self) -> None:
        """Two nodes are started anew, one after the other: each call is made to its end, by the one or the other."""
        with ExitStack() as stack:
            world = SharedWorld(stack, nodes=2)
            world.load(2, pause=MIDDLING, faithful=True)
            for node in world.nodes:
                restart(world, node)
            result = ended(world, {})
        self.well(result)
        self.assertEqual(result[0].figures["interrupted"], 0)
        self.assertGreater(result[0].figures["calls told with code 0"], 20)
