"""kill -9 at random moments under load: no call lost, none made twice, every credit accounted for.

`python -m tests.interop.chaos` does it hundreds of times.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.chaos import kill_at_random

KILLS = 3
SEED = int(os.environ.get("CALLEDIN_SEED", "20"))


class KillTests(SynchronousTestCase):
    def test_kills(self) -> None:
        """Whatever moment the daemon is killed at, each accepted call has one outcome, one dial and its callback."""
        self.kill_again_and_again(KILLS)

    def test_kills_with_a_slow_disk(self) -> None:
        """The same with commits that take their time, once."""
        self.kill_again_and_again(1, module="tests.interop.slow_disk")

    def kill_again_and_again(self, kills: int, *, module: str | None = None) -> None:
        judgement, complaints = kill_at_random(kills, SEED, module=module)
        self.assertEqual("\n".join(judgement.broken + complaints), "", str(judgement))
        self.assertGreater(judgement.figures["calls told with code 0"], kills)
