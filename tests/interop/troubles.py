"""What can happen to nodes, to their Redis, and to what is between them, all of it under load."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from unittest import SkipTest

from tests.interop.harness import Daemon, wait_for
from tests.interop.judge import Judgement
from tests.interop.shared_world import LEASE, SharedWorld
from tests.interop.world import World
from tests.store.redis_server import RedisError

Ended = tuple[Judgement, list[str]]
"What the judge says, and what else went wrong."

LIGHT, MIDDLING, HEAVY = 0.3, 0.15, 0.05
"Seconds between two requests of one client."
DISK = "24m"
"Bytes of a disk that is to be full."
HOUR = 3600


class Troubles:
    """Does things to a world of three nodes, by chance; `count` keeps what was done, and how often."""

    def __init__(self, world: SharedWorld, chance: random.Random) -> None:
        self._world = world
        self._chance = chance
        self.count: Counter[str] = Counter()
        self._to_come: list[str] = []
        self.kinds: Mapping[str, Callable[[], None]] = {
            "kills of a node": self.kill_a_node,
            "nodes that were taken over": self.kill_a_node_for_long,
            "suspensions longer than the lease": self.suspend_a_node,
            "suspensions of Redis": self.suspend_redis,
            "kills of Redis": self.kill_redis,
            "cut connections": self.cut_a_wire,
            "silent connections": self.silence_a_wire,
            "kills of a node that was cut off": self.kill_who_is_cut_off,
            "rolling restarts": self.restart_in_good_order,
        }

    def one(self, name: str = "") -> None:
        """Do one thing, where it has no name one after the other by chance, and wait until it is over."""
        if not self._to_come:
            self._to_come = self._chance.sample(list(self.kinds), len(self.kinds))
        name = name or self._to_come.pop()
        self.count[name] += 1
        self.kinds[name]()
        wait_for("all nodes are ready again", lambda: all(node.is_ready() for node in self._world.nodes))

    def _node(self) -> Daemon:
        return self._chance.choice(self._world.nodes)

    def kill_a_node(self) -> None:
        node = self._node()
        self._world.kill(node)
        time.sleep(self._chance.random())
        self._world.start(node)

    def kill_a_node_for_long(self) -> None:
        node = self._node()
        self._world.kill(node)
        time.sleep(LEASE + 1.0 + self._chance.random())
        self._world.start(node)

    def suspend_a_node(self) -> None:
        self._world.suspend(self._node(), LEASE + 0.5 + 2.0 * self._chance.random())

    def suspend_redis(self) -> None:
        self._world.redis.pause()
        time.sleep(self._chance.choice((0.3, 1.2, 2.0, LEASE + 1.0)))
        self._world.redis.resume()

    def kill_redis(self) -> None:
        self._world.redis.kill()
        time.sleep(self._chance.choice((0.0, 1.0, 2.0, LEASE + 1.0)))
        self._world.redis.start()

    def cut_a_wire(self) -> None:
        self._cut(silently=False)

    def silence_a_wire(self) -> None:
        self._cut(silently=True)

    def _cut(self, *, silently: bool) -> None:
        wire = self._chance.choice(self._world.wires)
        wire.cut(silently=silently)
        time.sleep(self._chance.choice((0.2, 1.5, LEASE + 1.0)))
        wire.mend()

    def kill_who_is_cut_off(self) -> None:
        place = self._chance.randrange(len(self._world.nodes))
        self._world.wires[place].cut(silently=self._chance.random() < 0.5)
        time.sleep(self._chance.choice((0.3, 1.5)))
        self._world.kill(self._world.nodes[place])
        self._world.wires[place].mend()
        # Where it is back soon, it tells what it could not; else others have taken over what it had by then.
        time.sleep(self._chance.choice((0.0, LEASE + 1.0)))
        self._world.start(self._world.nodes[place])

    def restart_in_good_order(self) -> None:
        for node in self._world.nodes:
            restart(self._world, node)


def restart(world: World, node: Daemon) -> None:
    """SIGTERM: its calls finish, the others have the queue. Raises AssertionError where it does not end well."""
    status = node.stop()
    assert status == 0, f"{node.folder.name} ended with {status} on SIGTERM"
    world.start(node)


def cluster(calls: int, seed: int) -> Ended:
    """Three nodes get so many calls accepted, while one trouble follows the other."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        world = SharedWorld(stack, nodes=3)
        world.load(2, pause=LIGHT, faithful=True)
        troubles = Troubles(world, chance)
        while len(world.accepted) < calls:
            time.sleep(0.3 + chance.random())
            troubles.one()
        return ended(world, troubles.count)


def ended(world: World, count: Mapping[str, int], wrong: Iterable[str] = ()) -> Ended:
    """Let it heal, and judge; `count`: of what was done."""
    judgement = world.judgement()
    return Judgement(judgement.findings, {**judgement.figures, **count}), [
        each for each in wrong if each
    ] + world.complaints()


def failovers(times: int, seed: int) -> Ended:
    """The master of Redis dies, again and again; what was told with code 0 is on the replica that comes after it."""
    chance = random.Random(seed)
    done = 0
    with ExitStack() as stack:
        world = SharedWorld(stack, nodes=2, sentinels=True)
        assert world.cluster is not None
        redis = world.cluster
        world.load(2, pause=HEAVY, faithful=True)
        for _ in range(times):
            before = redis.master()
            wait_for("a replica follows", lambda: _is_followed(world), 60.0)
            wait_for("the nodes take calls", lambda: all(node.is_ready() for node in world.nodes))
            time.sleep(1.0 + 2.0 * chance.random())
            before.kill()
            wait_for("the replica is the master", lambda: _is_promoted(world), 60.0)
            before.start()
            wait_for("the old master follows", lambda: _is_followed(world), 60.0)
            done += 1
        wait_for("the nodes take calls", lambda: all(node.is_ready() for node in world.nodes), 60.0)
        return ended(world, {"failovers": done})


def _is_followed(world: SharedWorld) -> bool:
    """Whether the master has a replica. One that has just been told that it is none cuts off who asks it."""
    assert world.cluster is not None
    try:
        return world.cluster.following(world.cluster.master()) >= 1
    except (AssertionError, OSError, RedisError):
        return False


def _is_promoted(world: SharedWorld) -> bool:
    assert world.cluster is not None
    try:
        world.cluster.master()
    except (AssertionError, OSError, RedisError):
        return False
    return True


# clocks


def jumps(times: int, seed: int) -> Ended:
    """The wall clock of both nodes, which have the same, is an hour off, and back again, now and then."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        faults = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        world = SharedWorld(stack, nodes=2, module="tests.interop.faults", environment={"CALLEDIN_FAULTS": str(faults)})
        world.load(3, pause=MIDDLING)
        for _ in range(times):
            time.sleep(0.5 + chance.random())
            (faults / "next").write_text(str(chance.choice((-HOUR, 0, HOUR))))
            (faults / "next").replace(faults / "step")
        time.sleep(1.0)
        (faults / "step").unlink()
        return ended(world, {"jumps": times})


# full disks


@contextmanager
def small_disk() -> Iterator[Path]:
    """A file system of its own in memory; skips where nobody may mount one."""
    with tempfile.TemporaryDirectory() as name:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "calledin-test", name], capture_output=True, check=False
        )
        if mounted.returncode:
            raise SkipTest("skipped: a disk to be filled can't be mounted here")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def fill(disk: Path) -> Path:
    """Leave no room on it; returns the file to be removed."""
    path = disk / "filling"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    if file.write(bytes(size)) < size:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return path


def full_disk(times: int, seed: int) -> Ended:
    """The disk of a node with the embedded store has no room left, and has some again."""
    chance = random.Random(seed)
    with small_disk() as disk, ExitStack() as stack:
        world = World(stack, folder=disk)
        world.load(2)
        for turn in range(times):
            time.sleep(1.0 + chance.random())
            filling = fill(disk)
            time.sleep(0.5 + 2.0 * chance.random())
            if turn % 2:
                world.kill(world.nodes[0])
                filling.unlink()
                world.start(world.nodes[0])
            else:
                filling.unlink()
                wait_for("the node takes calls", world.nodes[0].is_ready)
        return ended(world, {"full disks": times})


def full_disk_of_redis(times: int, seed: int) -> Ended:
    """The disk of Redis has no room left: it ends, as it may not lose anything, and is started when there is some."""
    chance = random.Random(seed)
    with small_disk() as disk, ExitStack() as stack:
        world = SharedWorld(stack, nodes=2, redis_folder=disk)
        world.load(2)
        for _ in range(times):
            time.sleep(1.0 + chance.random())
            filling = fill(disk)
            time.sleep(0.5 + 2.0 * chance.random())
            world.redis.kill()
            filling.unlink()
            world.redis.start()
            wait_for("the nodes take calls", lambda: all(node.is_ready() for node in world.nodes))
        return ended(world, {"full disks": times})
