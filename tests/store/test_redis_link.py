"""The link to a real Redis that is paused, killed, failed over, given new passwords and cut off from its replica."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from calledind.net.tls import client_options
from calledind.settings.tables import Redis
from calledind.store import redis_link
from calledind.store.interface import StoreUnavailable
from calledind.store.redis_link import NotReplicated, RedisLink, ResponseError, Unanswered
from tests.interop.harness import free_ports
from tests.net.certificates import Authority
from tests.store.redis_server import HOST, Cluster, RedisServer, Sentinel

SCRIPTS = {
    "set": "redis.call('SET', KEYS[1], ARGV[1]) return {redis.call('GET', KEYS[1]), 1, ARGV[1], false}",
    "count": "return redis.call('INCR', KEYS[1])",
    "bad": "return nothing.at_all",
}
PASSWORD, NEXT_PASSWORD = "correct-horse-battery", "staple-of-tomorrow"
TIMEOUT = 0.3
"Seconds, of the links in these tests."

clock: Any = reactor


def pause(seconds: float) -> Deferred[None]:
    over: Deferred[None] = Deferred()
    clock.callLater(seconds, over.callback, None)
    return over


async def until(what: str, ready: Callable[[], bool], seconds: float = 8.0) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        await pause(0.01)


class LinkCase(TestCase):
    timeout = 30.0

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.connections = 0
        self.told: list[bytes] = []
        self.logged: list[str] = []
        observer: Any = self._observe
        globalLogPublisher.addObserver(observer)
        self.addCleanup(self._look_for_secrets)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def _observe(self, event: LogEvent) -> None:
        self.logged.append(formatEvent(event) + str(event.get("log_failure", "")))

    def _look_for_secrets(self) -> None:
        for line in self.logged:
            self.assertNotIn(PASSWORD, line)
            self.assertNotIn(NEXT_PASSWORD, line)

    def warnings(self) -> list[str]:
        return [line for line in self.logged if line.startswith("The shared store can't be used")]

    def server(self, name: str = "redis", **what: Any) -> RedisServer:
        server = RedisServer(self.folder / name, **what)
        self.addCleanup(server.stop)
        return server.start()

    def cluster(self, **what: Any) -> Cluster:
        cluster = Cluster(self.folder / "cluster", **what)
        self.addCleanup(cluster.stop)
        return cluster.start()

    def link(self, address: str = "", *, channel: str = "", secure: Any = None, **settings: Any) -> RedisLink:
        """Make one that is not started."""

        def connected() -> None:
            self.connections += 1

        settings = {"timeout": TIMEOUT, **settings}
        if address:
            settings["address"] = address
        link = RedisLink(
            reactor,
            Redis(**settings),
            SCRIPTS,
            channel=channel,
            told=self.told.append,
            connected=connected,
            secure=secure,
            environment={"CREDENTIALS_DIRECTORY": str(self.folder)},
        )
        self.addCleanup(link.stop)
        return link

    async def started(self, address: str = "", **what: Any) -> RedisLink:
        link = self.link(address, **what)
        await link.start()
        return link

    async def refused(self, asked: Deferred[Any]) -> str:
        """It fails, and was surely not run; return why."""
        error = await self.assertFailure(asked, StoreUnavailable)
        self.assertNotIsInstance(error, Unanswered)
        return str(error)

    async def start_fails(self, link: RedisLink) -> str:
        self.patch(redis_link, "START", 0.5)
        starting: Deferred[Any] = link.start()
        error = await self.assertFailure(starting, StoreUnavailable)
        self.assertEqual(self.connections, 0)
        self.assertIsNotNone(link.trouble)
        return str(error)

    async def recovered(self, link: RedisLink) -> None:
        await until("the link is up again", lambda: link.trouble is None)


class CommandTests(LinkCase):
    async def test_values_stay_what_they_are(self) -> None:
        """Digits with a zero in front, octets, big and missing values, on each of the connections."""
        link = await self.started(self.server().address)
        self.assertIsNone(link.trouble)
        self.assertEqual(await link.run("set", ["k"], ["0044123"]), [b"0044123", 1, b"0044123", None])
        self.assertEqual(await link.run("set", ["k"], [b"\x00\xff\r\n"]), [b"\x00\xff\r\n", 1, b"\x00\xff\r\n", None])
        self.assertEqual(await link.ask("INCRBY", "n", 2**60), 2**60)
        self.assertEqual(await link.ask("GET", "n"), str(2**60).encode())
        self.assertIsNone(await link.ask("GET", "none"))
        self.assertEqual(await link.bulk("GET", "k"), b"\x00\xff\r\n")
        self.assertEqual(await link.ask("SET", "k", 1764426000.123456), b"OK")
        self.assertEqual(float(await link.ask("GET", "k")), 1764426000.123456)

    async def test_an_error_of_ours(self) -> None:
        """A script that is wrong is no store that is away."""
        link = await self.started(self.server().address)
        await self.assertFailure(link.run("bad", [], []), ResponseError)
        await self.assertFailure(link.ask("NO", "SUCH"), ResponseError)
        self.assertIsNone(link.trouble)

    async def test_scripts_that_redis_forgot(self) -> None:
        """After SCRIPT FLUSH they are loaded again, by whoever runs them first."""
        link = await self.started(self.server().address)
        await link.ask("SCRIPT", "FLUSH")
        counts = await gatherResults([link.run("count", ["c"], []) for _ in range(20)])
        self.assertEqual(sorted(counts), list(range(1, 21)))

    async def test_the_database(self) -> None:
        """All connections use the one of the settings."""
        server = self.server()
        link = await self.started(server.address, database=3)
        await link.ask("SET", "k", "v")
        self.assertEqual(await link.bulk("GET", "k"), b"v")
        self.assertEqual(server.calls(("SELECT", 3), ("GET", "k")), [b"OK", b"v"])

    async def test_big_values_delay_nothing_small(self) -> None:
        """While 16 MB are on their way, what is small is answered."""
        link = await self.started(self.server().address, timeout=2.0)
        await link.bulk("PING")
        value = b"x" * 16_000_000
        for large in (link.bulk("SET", "k", value), link.bulk("GET", "k")):
            await gatherResults([link.ask("PING") for _ in range(10)])
            self.assertFalse(large.called)
            self.assertIn(await large, (b"OK", value))

    async def test_stop(self) -> None:
        """What was sent is answered, what comes later is refused."""
        link = await self.started(self.server().address, channel="c")
        asked = link.ask("PING")
        stopped = link.stop()
        self.assertIn("this process ends", await self.refused(link.ask("PING")))
        await self.refused(link.run("count", ["c"], []))
        await self.refused(link.bulk("PING"))
        await stopped
        self.assertEqual(await asked, b"PONG")
        self.assertEqual(self.warnings(), [])


class AwayTests(LinkCase):
    async def test_a_redis_that_stands_still(self) -> None:
        """What was sent fails in time, what comes after it is refused at once; it recovers by itself."""
        server = self.server()
        link = await self.started(server.address)
        server.pause()
        began = time.monotonic()
        waiting = [link.run("count", ["c"], []) for _ in range(10)] + [link.ask("GET", "c")]
        for each in waiting:
            await self.assertFailure(each, Unanswered)
        self.assertLess(time.monotonic() - began, TIMEOUT + 0.5)
        self.assertIn("did not answer in time", link.trouble or "")
        for asked in (link.ask("PING"), link.run("count", ["c"], []), link.bulk("PING")):
            self.assertTrue(asked.called)
            self.assertIn(server.address, await self.refused(asked))
        await pause(0.5)
        self.assertIsNotNone(link.trouble)
        server.resume()
        await self.recovered(link)
        # What had been sent ran after all: this is why it is told from what was refused.
        self.assertEqual(await link.run("count", ["c"], []), 11)
        self.assertEqual(len(self.warnings()), 1)
        self.assertEqual(self.connections, 2)

    async def test_silence_is_noticed(self) -> None:
        """Where nothing is asked, a PING finds out."""
        server = self.server()
        link = await self.started(server.address)
        server.pause()
        await until("the link notices", lambda: link.trouble is not None, 1.5)
        server.resume()
        await self.recovered(link)

    async def test_a_redis_that_is_killed(self) -> None:
        """It is looked for until it is there again; scripts are loaded, the channel is subscribed to once more."""
        server = self.server()
        link = await self.started(server.address, channel="news")
        await until("subscribed", lambda: server.call("PUBSUB", "NUMSUB", "news")[1] == 1)
        await link.run("count", ["c"], [])
        await link.bulk("PING")
        before = self.connections
        server.kill()
        await until("the link notices", lambda: link.trouble is not None)
        self.assertIn(server.address, await self.refused(link.ask("PING")))
        server.start()
        await self.recovered(link)
        self.assertEqual(await link.run("count", ["c"], []), 2)
        self.assertEqual(await link.bulk("GET", "c"), b"2")
        await until("subscribed again", lambda: server.call("PUBSUB", "NUMSUB", "news")[1] == 1)
        self.assertGreater(self.connections, before)
        server.call("PUBLISH", "news", "hello")
        await until("told", lambda: self.told == [b"hello"])
        again = "The shared store can be used again"
        await until("the log says so", lambda: any(line.startswith(again) for line in self.logged))

    async def test_the_spare_connection_is_opened_again(self) -> None:
        """When it was cut alone, the next value has a new one."""
        server = self.server()
        link = await self.started(server.address)
        number = await link.bulk("CLIENT", "ID")
        server.call("CLIENT", "KILL", "ID", number)
        await pause(0.05)
        self.assertNotEqual(await link.bulk("CLIENT", "ID"), number)
        self.assertIsNone(link.trouble)

    async def test_a_late_large_value_disturbs_nothing_small(self) -> None:
        """What takes too long on the spare connection ends that one."""
        link = await self.started(self.server().address)
        await self.assertFailure(link.bulk("BLPOP", "nothing", 0, timeout=0.1), Unanswered)
        self.assertIsNone(link.trouble)
        self.assertEqual(await link.bulk("PING"), b"PONG")
        self.assertEqual(self.connections, 1)

    async def test_one_who_was_made_a_replica(self) -> None:
        """It is left when it says so, and taken again when it is the master again."""
        first, second = self.server("a"), self.server("b")
        link = await self.started(first.address)
        first.call("REPLICAOF", HOST, second.port)
        await until("replica", lambda: first.call("ROLE")[0] == b"slave")
        await self.refused(link.run("count", ["c"], []))
        await until("the link sees it", lambda: "is a replica, not the master" in (link.trouble or ""))
        first.call("REPLICAOF", "NO", "ONE")
        await self.recovered(link)
        await link.run("count", ["c"], [])

    async def test_a_full_memory(self) -> None:
        """Redis refuses this change alone, and says what to do."""
        server = self.server()
        link = await self.started(server.address)
        server.call("CONFIG", "SET", "maxmemory", 1)
        self.assertIn("maxmemory", await self.refused(link.run("count", ["c"], [])))
        self.assertIn("maxmemory", await self.refused(link.ask("SET", "k", "v")))
        server.call("CONFIG", "SET", "maxmemory", 0)
        await link.run("count", ["c"], [])
        self.assertIsNone(link.trouble)

    async def test_the_master_is_another_now(self) -> None:
        """When one connection finds the master elsewhere, the others leave for it too."""
        first, second = self.server("a"), self.server("b")
        sentinel = Sentinel(self.folder / "sentinel", first, quorum=1)
        self.addCleanup(sentinel.stop)
        sentinel.start()
        link = await self.started("", sentinels=(sentinel.address,), channel="news")
        await until("subscribed", lambda: first.call("PUBSUB", "NUMSUB", "news")[1] == 1)

        def ours(server: RedisServer) -> int:
            clients: bytes = server.call("CLIENT", "LIST")
            return clients.count(b"name=calledin ")

        sentinel.calls(("SENTINEL", "REMOVE", "calledin"), ("SENTINEL", "MONITOR", "calledin", HOST, second.port, 1))
        first.call("CLIENT", "KILL", "TYPE", "pubsub")
        await until("the others left as well", lambda: ours(second) == 2)
        await self.recovered(link)
        await link.run("count", ["c"], [])
        self.assertEqual(second.call("GET", "c"), b"1")

    async def test_a_large_value_when_redis_has_just_gone(self) -> None:
        """It was not sent: there is no connection for it."""
        server = self.server()
        link = await self.started(server.address)
        server.kill()
        asked = [link.bulk("PING"), link.bulk("PING")]
        for each in asked:
            await self.refused(each)


class PasswordTests(LinkCase):
    def write(self, password: str, name: str = "password") -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(password + "\n")

    async def test_a_password_that_changes(self) -> None:
        """A user whose password was changed, and who was thrown out, is let in when the file has the new one."""
        server = self.server(more=[f"user calledin on >{PASSWORD} ~* &* +@all -@dangerous -@admin +wait"])
        self.write(PASSWORD)
        link = await self.started(server.address, username="calledin", password_file=Path("password"), channel="c")
        await link.run("count", ["c"], [])
        server.call("ACL", "SETUSER", "calledin", "resetpass", f">{NEXT_PASSWORD}")
        server.call("CLIENT", "KILL", "USER", "calledin")
        await until("refused", lambda: "refused the username or password" in (link.trouble or ""))
        self.assertIn("redis.password_file", await self.refused(link.ask("PING")))
        self.write(NEXT_PASSWORD)
        await self.recovered(link)
        self.assertEqual(await link.run("count", ["c"], []), 2)

    async def test_a_wrong_password(self) -> None:
        """A start says which setting is wrong."""
        server = self.server(password=PASSWORD)
        self.write("wrong")
        words = await self.start_fails(self.link(server.address, password_file=Path("password")))
        self.assertIn("refused the username or password; correct redis.username or what is in", words)
        self.assertEqual(len(self.warnings()), 1)

    async def test_no_password(self) -> None:
        """One is asked for, none is given."""
        server = self.server(password=PASSWORD)
        words = await self.start_fails(self.link(server.address))
        self.assertIn("wants a password; give redis.password_file", words)

    async def test_no_file(self) -> None:
        """The words name the file."""
        server = self.server(password=PASSWORD)
        words = await self.start_fails(self.link(server.address, password_file=Path("nowhere")))
        self.assertIn(f"{self.folder / 'nowhere'} can't be read", words)

    async def test_too_few_rights(self) -> None:
        """A user who may not load scripts is told so at the start; who may not write, at the command."""
        server = self.server(
            more=[f"user few on >{PASSWORD} ~* &* +@all -@scripting", f"user none on >{PASSWORD} ~x +@all"]
        )
        self.write(PASSWORD)
        settings: dict[str, Any] = {"password_file": Path("password")}
        link = await self.started(server.address, username="none", **settings)
        self.assertIn("ACL", await self.refused(link.ask("GET", "y")))
        self.connections = 0
        words = await self.start_fails(self.link(server.address, username="few", **settings))
        self.assertIn("correct the rules of its ACL", words)
        self.assertIn("script|load", words)

    async def test_a_password_is_never_repeated(self) -> None:
        """A server so old that it repeats what it does not understand, the password with it."""

        class Old(Protocol):
            def dataReceived(self, data: bytes) -> None:
                line = b" ".join(data.split(b"\r\n")[2::2])
                self.transport.write(b"-ERR unknown command " + line + b"\r\n")  # type: ignore[union-attr]

        port = free_ports()
        listening = await TCP4ServerEndpoint(clock, port, interface=HOST).listen(Factory.forProtocol(Old))
        self.addCleanup(listening.stopListening)
        self.write(PASSWORD)
        words = await self.start_fails(self.link(f"{HOST}:{port}", password_file=Path("password")))
        self.assertIn("is too old; Redis 7 or newer is needed", words)
        self.assertNotIn(PASSWORD, words)


class StartTests(LinkCase):
    async def test_nobody_there(self) -> None:
        """A start fails in words when nobody listens, and nothing is left of it."""
        link = self.link(f"{HOST}:{free_ports()}")
        self.assertIn("not opened yet", await self.refused(link.ask("PING")))
        self.assertIn("nobody listens there", await self.start_fails(link))
        await self.refused(link.ask("PING"))

    async def test_a_redis_that_comes_late(self) -> None:
        """A start waits for a while."""
        server = self.server()
        server.kill()
        link = self.link(server.address)
        starting = link.start()
        await pause(0.3)
        server.start()
        await starting
        self.assertEqual(self.connections, 1)

    async def test_stopped_before_it_has_started(self) -> None:
        """Who waits for the start is told."""
        link = self.link(f"{HOST}:{free_ports()}")
        starting: Deferred[Any] = link.start()
        await link.stop()
        self.assertIn("this process ends", str(await self.assertFailure(starting, StoreUnavailable)))

    async def test_by_name(self) -> None:
        """A host may have a name."""
        server = self.server()
        link = await self.started(f"localhost:{server.port}")
        self.assertEqual(await link.ask("PING"), b"PONG")
        self.connections = 0
        words = await self.start_fails(self.link(f"[::1]:{free_ports()}"))
        self.assertIn("Redis at [::1]:", words)

    async def test_errors_of_ours(self) -> None:
        """An error in what is told, or one that nobody thought of, is logged and ends nothing."""

        class Strange(Protocol):
            def dataReceived(self, data: bytes) -> None:
                self.transport.write(b":1\r\n")  # type: ignore[union-attr]

        server = self.server()
        link = RedisLink(reactor, Redis(address=server.address), {}, connected=lambda: self.fail("of ours"))
        self.addCleanup(link.stop)
        await link.start()
        self.assertEqual(await link.ask("PING"), b"PONG")
        self.assertEqual(len(self.flushLoggedErrors(self.failureException)), 1)
        port = free_ports()
        listening = await TCP4ServerEndpoint(clock, port, interface=HOST).listen(Factory.forProtocol(Strange))
        self.addCleanup(listening.stopListening)
        self.assertIn("an error of ours", await self.start_fails(self.link(f"{HOST}:{port}")))
        self.assertGreater(len(self.flushLoggedErrors(TypeError)), 1)

    async def test_a_redis_that_stands_still(self) -> None:
        """It takes connections, and answers nothing."""
        server = self.server()
        server.pause()
        self.assertIn("Redis", await self.start_fails(self.link(server.address)))

    async def test_a_replica_is_not_taken_for_a_master(self) -> None:
        """Whoever is told to be asked."""
        cluster = self.cluster()
        words = await self.start_fails(self.link(cluster.servers[1].address))
        self.assertIn("is a replica, not the master; correct redis.address", words)

    async def test_an_old_redis(self) -> None:
        """Version 6 has not all that the scripts use."""

        class Six(Protocol):
            def dataReceived(self, data: bytes) -> None:
                reply = b"*4\r\n$7\r\nversion\r\n$6\r\n6.2.14\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
                self.transport.write(reply)  # type: ignore[union-attr]

        port = free_ports()
        listening = await TCP4ServerEndpoint(clock, port, interface=HOST).listen(Factory.forProtocol(Six))
        self.addCleanup(listening.stopListening)
        self.assertIn("is Redis 6.2.14; Redis 7 or newer", await self.start_fails(self.link(f"{HOST}:{port}")))

    async def test_a_sentinel_is_no_redis(self) -> None:
        """Its address is in the wrong setting."""
        server = self.server()
        sentinel = Sentinel(self.folder / "sentinel", server, quorum=1)
        self.addCleanup(sentinel.stop)
        sentinel.start()
        self.assertIn("is a Sentinel", await self.start_fails(self.link(sentinel.address)))

    async def test_a_cluster_is_no_redis_for_us(self) -> None:
        """A Redis Cluster keeps what a script needs in several places."""
        server = self.server(more=["cluster-enabled yes", f"cluster-port {free_ports()}"])
        self.assertIn("Cluster", await self.start_fails(self.link(server.address)))


class TlsTests(LinkCase):
    def files(self, name: str = HOST) -> tuple[Path, Path, Path]:
        authority = Authority(self.folder / "tls")
        return (*authority.issue(name), authority.certificate)

    async def test_a_certificate_that_is_believed(self) -> None:
        """All connections are checked, and take their files anew."""
        files = self.files()
        server = self.server(tls=files)
        hosts: list[str] = []

        def secure(host: str) -> Any:
            hosts.append(host)
            return client_options(host, ca=files[2])

        link = await self.started(server.address, tls=True, secure=secure)
        self.assertEqual(await link.run("count", ["c"], []), 1)
        self.assertEqual(await link.bulk("GET", "c"), b"1")
        self.assertEqual(hosts, [HOST, HOST])
        server.kill()
        await until("the link notices", lambda: link.trouble is not None)
        server.start()
        await self.recovered(link)
        self.assertEqual(await link.run("count", ["c"], []), 2)

    async def test_another_authority(self) -> None:
        """A certificate that nobody vouches for is not believed."""
        server = self.server(tls=self.files())
        other = Authority(self.folder / "other", "other").certificate
        link = self.link(server.address, tls=True, secure=lambda host: client_options(host, ca=other))
        self.assertIn("certificate verify failed", await self.start_fails(link))

    async def test_another_name(self) -> None:
        """A certificate of somebody else's name is not believed."""
        files = self.files("redis.example.com")
        server = self.server(tls=files)
        link = self.link(server.address, tls=True, secure=lambda host: client_options(host, ca=files[2]))
        self.assertIn("not one for this name", await self.start_fails(link))
        name = "redis.example.com"
        link = await self.started(server.address, tls=True, secure=lambda _: client_options(name, ca=files[2]))
        self.assertEqual(await link.ask("PING"), b"PONG")

    async def test_files_that_are_missing(self) -> None:
        """What can't be read is told, and tried again."""
        missing = self.folder / "missing.pem"
        link = self.link("127.0.0.1:1", tls=True, secure=lambda host: client_options(host, ca=missing))
        self.assertIn(f"{missing}: can't be read", await self.start_fails(link))

    async def test_redis_without_tls(self) -> None:
        """It does not answer a handshake; nothing was sent to it in clear."""
        files = self.files()
        (self.folder / "password").write_text(PASSWORD)
        link = self.link(
            self.server().address,
            tls=True,
            password_file=Path("password"),
            secure=lambda host: client_options(host, ca=files[2]),
        )
        self.assertIn("whether redis.address and redis.tls are right", await self.start_fails(link))

    def test_never_without_a_check(self) -> None:
        """Who asks for TLS and gives nothing to check by is stopped."""
        with self.assertRaises(ValueError):
            self.link("127.0.0.1:1", tls=True)


class ReplicaTests(LinkCase):
    async def test_with_a_replica(self) -> None:
        """A change is answered when the replica has it; a lost one is told, in time, and delays nothing else."""
        cluster = self.cluster()
        master, replica = cluster.servers
        link = await self.started(master.address, replicas=1, timeout=4.0)
        counts = await gatherResults([link.run("count", ["c"], [], replicated=True) for _ in range(100)])
        self.assertEqual(counts, list(range(1, 101)))
        self.assertEqual(replica.call("GET", "c"), b"100")
        replica.pause()
        began = time.monotonic()
        late = link.run("count", ["c"], [], replicated=True)
        self.assertEqual(await link.run("count", ["other"], []), 1)
        self.assertFalse(late.called)
        error = await self.assertFailure(late, NotReplicated)
        self.assertEqual(error.reply, 101)
        self.assertLess(time.monotonic() - began, 4.0)
        self.assertIsNone(link.trouble)
        replica.resume()
        await until("the replica follows", lambda: replica.call("GET", "c") == b"101")
        self.assertEqual(await link.run("count", ["c"], [], replicated=True), 102)

    async def test_without_a_replica(self) -> None:
        """Too few are too few."""
        link = await self.started(self.server().address, replicas=1)
        error = await self.assertFailure(link.run("count", ["c"], [], replicated=True), NotReplicated)
        self.assertIn("0 of the 1 replicas", str(error))
        self.assertEqual(await link.run("count", ["c"], []), 2)

    async def test_none_is_asked_for(self) -> None:
        """Where the settings name no replicas, nothing is waited for."""
        link = await self.started(self.server().address)
        self.assertEqual(await link.run("count", ["c"], [], replicated=True), 1)


class SentinelTests(LinkCase):
    async def test_a_failover(self) -> None:
        """The master is killed: its replica is found by the sentinels, of which one is dead as well."""
        cluster = self.cluster(replicas=1, sentinels=3)
        addresses = tuple(sentinel.address for sentinel in cluster.sentinels)
        link = await self.started("", sentinels=(f"{HOST}:{free_ports()}", *addresses), channel="news")
        self.assertEqual(await link.run("count", ["c"], []), 1)
        await until("the replica has it", lambda: cluster.servers[1].call("GET", "c") == b"1")
        cluster.servers[0].kill()
        cluster.sentinels[0].kill()
        await until("the link notices", lambda: link.trouble is not None)
        await until("the replica is master, and found", lambda: link.trouble is None, 15.0)
        self.assertEqual(await link.run("count", ["c"], []), 2)
        self.assertEqual(cluster.servers[1].call("GET", "c"), b"2")

    async def test_with_tls(self) -> None:
        """Sentinels are spoken to by TLS, and their certificates checked, as Redis's."""
        authority = Authority(self.folder / "tls")
        files = (*authority.issue(HOST), authority.certificate)
        cluster = self.cluster(replicas=0, sentinels=1, tls=files)
        addresses = tuple(sentinel.address for sentinel in cluster.sentinels)
        link = await self.started(
            "", sentinels=addresses, tls=True, secure=lambda host: client_options(host, ca=authority.certificate)
        )
        self.assertEqual(await link.ask("PING"), b"PONG")
        self.connections = 0
        other = Authority(self.folder / "other", "other").certificate
        link = self.link("", sentinels=addresses, tls=True, secure=lambda host: client_options(host, ca=other))
        words = await self.start_fails(link)
        self.assertIn("the sentinel at", words)
        self.assertIn("certificate verify failed", words)

    async def test_what_sentinels_refuse(self) -> None:
        """A wrong name of the master, a missing and a wrong password of theirs are told apart."""
        server = self.server()
        sentinel = Sentinel(self.folder / "sentinel", server, quorum=1)
        self.addCleanup(sentinel.stop)
        sentinel.start()
        sentinels = (sentinel.address,)
        words = await self.start_fails(self.link("", sentinels=sentinels, sentinel_master="other"))
        self.assertIn("knows no master 'other'; correct redis.sentinel_master", words)
        sentinel.call("ACL", "SETUSER", "watcher", "on", f">{PASSWORD}", "+@all")
        sentinel.call("ACL", "SETUSER", "default", "off")
        words = await self.start_fails(self.link("", sentinels=sentinels))
        self.assertIn("wants a password; give redis.sentinel_password_file", words)
        (self.folder / "sentinel-password").write_text(NEXT_PASSWORD)
        settings: dict[str, Any] = {
            "sentinels": sentinels,
            "sentinel_username": "watcher",
            "sentinel_password_file": Path("sentinel-password"),
        }
        words = await self.start_fails(self.link("", **settings))
        self.assertIn("correct redis.sentinel_username or what is in redis.sentinel_password_file", words)
        (self.folder / "sentinel-password").write_text(PASSWORD)
        link = await self.started("", **settings)
        self.assertEqual(await link.ask("PING"), b"PONG")
