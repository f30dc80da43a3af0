"""A world that falls down again and again: daemons under load that are killed, and the judge at the end.

    python -m tests.interop.chaos [--store embedded|redis|both] [--runs 25] [--kills 500] [--calls 10000]
                                  [--failovers 20] [--seed 1] [--jobs 2]

runs the long forms of `test_crash`, `test_kill` and `test_nodes`, and prints a line for each with its figures. What is
0 is left out.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from functools import partial

from calledind.crash import POINTS
from tests.interop.harness import Daemon, wait_for
from tests.interop.shared_world import LEASE, SharedWorld
from tests.interop.troubles import Ended, cluster, ended, failovers, full_disk, full_disk_of_redis, jumps
from tests.interop.world import TO_A_POINT, TO_START, World

BEFORE = {
    "recovery.read": "dial.ringing",
    "recovery.queued": "accept.kept",
    "recovery.cancel.due": "dial.ringing",
    "recovery.cancel.sent": "dial.ringing",
    "recovery.bye.due": "stream.begun",
    "recovery.bye.sent": "stream.begun",
    "node.took-over": "dial.ringing",
}
"Point after a restart -> where the process before must have died, so that there is something to take up."
ONLY = {
    "disk.": "embedded",
    "recovery.read": "embedded",
    "recovery.queued": "embedded",
    "redis.": "redis",
    "node.": "redis",
    "dial.claimed": "redis",
}
"How a point begins that one store alone has."
IN_TROUBLE = ("redis.accept.doubtful", "redis.accept.withdrawn", "redis.outbox.")
"How points begin to which a node comes when Redis has not answered for a while."
BRISK = 0.14
"Seconds between two requests of one client: what comes to a point soon leaves most of the time to starts."
SILENCE, SPEECH = 1.6, 1.5
"Seconds for which Redis answers nothing then, longer than it is waited for, and for which it answers."


def points(store: str) -> list[str]:
    """Return the points that a daemon with this store comes to, in the order of a call's life."""
    return [name for name in POINTS if all(only == store or not name.startswith(start) for start, only in ONLY.items())]


def crash_at_each(names: Sequence[str], seed: int) -> Ended:
    """One daemon after the other dies at these points, all on one embedded store and under load."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        world = World(stack)
        world.load(pause=BRISK)
        world.kill(world.nodes[0])
        wrong = [_crash(world, name, chance) for name in names]
        world.start(world.nodes[0])
        return ended(world, {"deaths": len(world.deaths)}, wrong)


def crash_alone(names: Sequence[str], seed: int) -> Ended:
    """The same on Redis, with one node, which finds at each start what it had before."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        world = SharedWorld(stack)
        world.load(pause=BRISK)
        world.kill(world.nodes[0])
        wrong = []
        for name in names:
            trouble = name.startswith(IN_TROUBLE)
            wrong.append(_crash_in_trouble(world, name) if trouble else _crash(world, name, chance))
        world.start(world.nodes[0])
        return ended(world, {"deaths": len(world.deaths)}, wrong)


def crash_beside_another(names: Sequence[str], seed: int) -> Ended:
    """The same with a second node, which takes over what the first one had where that is not back soon.

    At the points at which something is taken over, the second one dies.
    """
    chance = random.Random(seed)
    with ExitStack() as stack:
        world = SharedWorld(stack, nodes=2)
        first, second = world.nodes
        world.load(pause=BRISK)
        world.kill(first)
        wrong = []
        for name in names:
            if name in BEFORE:
                world.kill(second)
                launch(world, second, name)
                wrong.append(_crash(world, BEFORE[name], chance))
                if not world.has_died(second, LEASE + 20.0):
                    wrong.append(f"{name}: the node that takes over never came there")
                    world.kill(second)
                world.start(second)
            elif name == "node.fenced":
                launch(world, first, name)
                world.suspend(first, LEASE + 1.5)
                if not world.has_died(first, LEASE + 10.0):
                    wrong.append(f"{name}: no node came there")
                    world.kill(first)
            elif name.startswith(IN_TROUBLE):
                wrong.append(_crash_in_trouble(world, name))
            else:
                wrong.append(_crash(world, name, chance))
                if chance.random() < 0.3:
                    time.sleep(LEASE + 1.0)
        world.start(first)
        return ended(world, {"deaths": len(world.deaths)}, wrong)


def _crash(world: World, name: str, chance: random.Random) -> str:
    """Have the first daemon die there; where a point needs something left behind, the one before dies where it is left.

    Returns what went wrong.
    """
    if name in BEFORE and not world.crash(BEFORE[name]):
        return f"{BEFORE[name]}: no daemon came there"
    times = 1 if name in BEFORE else chance.choice((1, 1, 2, 3))
    return "" if world.crash(name, times) else f"{name}:{times}: no daemon came there"


def _crash_in_trouble(world: SharedWorld, name: str) -> str:
    node = world.nodes[0]
    launch(world, node, name)
    if world.has_died(node, 0.0):
        return ""
    for _ in range(int(TO_A_POINT / (SILENCE + SPEECH))):
        world.redis.pause()
        time.sleep(SILENCE)
        world.redis.resume()
        if world.has_died(node, SPEECH):
            return ""
    world.kill(node)
    return f"{name}: no daemon came there"


def launch(world: World, node: Daemon, point: str) -> None:
    """Start it, to die at a point to which it comes in trouble alone, or as it starts with what that left."""
    node.launch(CALLEDIN_CRASH_AT=f"{point}:1")
    wait_for(f"daemon ready (log: {node.log})", lambda: node.has_died(0.0) or node.is_ready(), TO_START)


def drawn(number: int, seed: int) -> dict[str, list[str]]:
    """Draw so many points by chance, each for one of the stores whose daemons come there."""
    chance = random.Random(seed)
    dealt: dict[str, list[str]] = {"redis": [], "embedded": []}
    for name in chance.sample(sorted(POINTS), number):
        dealt[chance.choice([store for store in dealt if name in points(store)])].append(name)
    return dealt


def in_chains(store: str, names: Sequence[str], chains: int, seed: int) -> list[Callable[[], Ended]]:
    """Deal points of a store out to so many chains, by chance, each with a seed of its own; return them to be run.

    Where one leaves behind what another needs, it has been come to by that. With Redis, every other chain has a second
    node.
    """
    chance = random.Random(f"{store} {seed}")
    covered = {BEFORE[name] for name in names if name in BEFORE}
    dealt = [name for name in names if name not in covered]
    chance.shuffle(dealt)
    hands = [dealt[first::chains] for first in range(chains)]
    ways: list[Callable[[Sequence[str], int], Ended]] = [crash_at_each]
    if store == "redis":
        ways = [crash_beside_another, crash_alone]
        if "node.fenced" in dealt:
            _swap(hands, "node.fenced", 0)
    return [partial(ways[place % len(ways)], names, chance.randrange(1 << 30)) for place, names in enumerate(hands)]


def _swap(hands: Sequence[list[str]], name: str, place: int) -> None:
    """Have one of the hands have this point, in place of its first one."""
    (holder,) = (hand for hand in hands if name in hand)
    at = holder.index(name)
    holder[at], hands[place][0] = hands[place][0], name


def kill_at_random(kills: int, seed: int, *, module: str | None = None) -> Ended:
    """Kill the daemon so many times, whatever it is doing."""
    with ExitStack() as stack:
        return _kill_again_and_again(World(stack, module=module), kills, seed)


def kill_on_redis(kills: int, seed: int) -> Ended:
    """The same with two nodes, now one and now the other."""
    with ExitStack() as stack:
        return _kill_again_and_again(SharedWorld(stack, nodes=2), kills, seed)


def _kill_again_and_again(world: World, kills: int, seed: int) -> Ended:
    chance = random.Random(seed)
    world.load(3, pause=0.02)
    for _ in range(kills):
        time.sleep(chance.random() ** 2 * 3.0)
        node = chance.choice(world.nodes)
        world.kill(node)
        if len(world.nodes) > 1 and chance.random() < 0.1:
            time.sleep(LEASE + 1.0)
        world.start(node)
    return ended(world, {"deaths": len(world.deaths)})


# the long forms


def report(title: str, began: float, results: Iterable[Ended]) -> bool:
    """Print a line with the sums, and all that is broken; True where nothing is."""
    figures: dict[str, int] = {}
    broken: list[str] = []
    for judgement, complaints in results:
        broken += judgement.broken + complaints
        for name, number in judgement.figures.items():
            figures[name] = figures.get(name, 0) + number
    counted = ", ".join(f"{name} {number}" for name, number in figures.items())
    print(f"{title}: {len(broken) or 'nothing'} broken; {counted}; {time.monotonic() - began:.0f} s", flush=True)
    for line in broken:
        print(f"    {line}", flush=True)
    return not broken


def many(jobs: int, work: Sequence[Callable[[], Ended]]) -> list[Ended]:
    """Do all of this, some at the same time; tell of what is broken as soon as it is known."""
    results = []
    with ThreadPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(each) for each in work]):
            judgement, complaints = done.result()
            results.append((judgement, complaints))
            told = "; ".join(judgement.broken + complaints) or "nothing broken"
            print(f"    world {len(results)} of {len(work)}: {told}", file=sys.stderr, flush=True)
    return results


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop.chaos", description=__doc__)
    parser.add_argument("--store", choices=("embedded", "redis", "both"), default="both")
    parser.add_argument("--runs", type=int, default=25, help="deaths at each crash point (default 25)")
    parser.add_argument("--kills", type=int, default=500, help="kills at random moments (default 500)")
    parser.add_argument("--calls", type=int, default=10_000, help="calls over three nodes in trouble (default 10000)")
    parser.add_argument("--failovers", type=int, default=20, help="of Redis to its replica (default 20)")
    parser.add_argument("--hours", type=int, default=20, help="jumps of a clock by an hour (default 20)")
    parser.add_argument("--disks", type=int, default=5, help="times that each disk is full (default 5)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="worlds at the same time (default 2)")
    wanted = parser.parse_args(arguments)
    well = True
    print(f"seed {wanted.seed}", flush=True)

    def do(title: str, work: Sequence[Callable[[], Ended]]) -> None:
        nonlocal well
        began = time.monotonic()
        well &= report(title, began, many(wanted.jobs, work))

    for store in ("embedded", "redis") if wanted.store == "both" else (wanted.store,):
        if wanted.runs:
            seeds = range(wanted.seed, wanted.seed + wanted.runs)
            chains = [chain for seed in seeds for chain in in_chains(store, points(store), 2, seed)]
            do(f"{store}: {len(points(store))} crash points x {wanted.runs}", chains)
        if wanted.kills:
            kill = kill_at_random if store == "embedded" else kill_on_redis
            shares = [wanted.kills // wanted.jobs] * wanted.jobs
            shares[0] += wanted.kills - sum(shares)
            do(f"{store}: {wanted.kills} kills", [partial(kill, n, wanted.seed + job) for job, n in enumerate(shares)])
        if wanted.disks:
            full = full_disk if store == "embedded" else full_disk_of_redis
            do(f"{store}: the disk was full {wanted.disks} times", [partial(full, wanted.disks, wanted.seed)])
    if wanted.store != "embedded":
        if wanted.calls:
            do(f"redis: {wanted.calls} calls over three nodes", [partial(cluster, wanted.calls, wanted.seed)])
        if wanted.failovers:
            do(f"redis: {wanted.failovers} failovers", [partial(failovers, wanted.failovers, wanted.seed)])
        if wanted.hours:
            do(f"redis: {wanted.hours} jumps of an hour", [partial(jumps, wanted.hours, wanted.seed)])
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
