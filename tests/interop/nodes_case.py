"""Two daemons on one Redis, that each test asks for its own."""

from __future__ import annotations

from tests.interop.case import InteropCase, settings
from tests.interop.harness import Daemon
from tests.store.redis_server import RedisServer

RINGS = "2125550103"
"Of the built-in carrier: rings for ever."


class TwoNodesCase(InteropCase):
    """`nodes`: named one and two, each with room for one call."""

    def setUp(self) -> None:
        super().setUp()
        redis = RedisServer(self.folder / "redis")
        redis.start()
        self.world.callback(redis.kill)
        self.nodes = [self.run_node(name, redis.address) for name in ("one", "two")]
        self.key = self.nodes[0].admin("POST", "/keys", {"name": "test", "credits": 100})["api_key"]

    def run_node(self, name: str, address: str) -> Daemon:
        shared = f'[store]\nkind = "redis"\n[redis]\naddress = "{address}"\n[node]\nname = "{name}"\nlease = 5.0\n'
        calls = "ring_timeout = 20.0\ndrain_timeout = 1.0\nmax_live = 1"
        text = f"simulator = true\n[page]\nlisten = []\n{settings(calls=calls, rest=shared)}"
        daemon = Daemon(self.folder / name, text)
        (daemon.folder / "data").mkdir()
        # Nodes have one pepper.
        if name != "one":
            pepper = (self.folder / "one" / "data" / "pepper").read_bytes()
            (daemon.folder / "data" / "pepper").write_bytes(pepper)
            (daemon.folder / "data" / "pepper").chmod(0o600)
        self.world.callback(self.stop, daemon)
        daemon.start()
        return daemon
