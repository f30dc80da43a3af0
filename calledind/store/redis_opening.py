# mypy: allow-untyped-calls
"""How a connection to the master comes about: found by the sentinels, opened, logged in, and looked at.

    sentinels, in turn → TCP → TLS → HELLO with the password: is it 7 or newer, is it a master? → SELECT, SCRIPT LOAD

Each step is bounded. What fails is said in words that tell what to do, and never hold a password: Redis repeats what
it was sent in some of its errors, so of those only the first word is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import ClientFactory
from txredisapi import ResponseError

from calledind.settings.tables import Redis
from calledind.store.interface import StoreUnavailable
from calledind.store.redis_connection import Connection
from calledind.store.redis_wire import Part, Script, in_words

SHORTEST = 2.0
"Seconds that a connection, its TLS and the login have at least, each."
OLDEST = 7
"The oldest Redis that will do."

Secure = Callable[[str], Any]
"The host that is connected to -> what `wrapClientTLS` takes, and checks its certificate with. Raises OSError."


class Opening:
    """Opens connections as the settings say.

    `secure`: required where [redis] tls is on; files that it reads are read at each connection.
    `environment`: where $CREDENTIALS_DIRECTORY is looked up.
    """

    def __init__(
        self,
        reactor: Any,
        settings: Redis,
        scripts: Mapping[str, str],
        secure: Secure | None,
        environment: Mapping[str, str],
    ) -> None:
        if settings.tls and secure is None:
            raise ValueError("redis.tls is on, and nothing was given to check certificates with")
        self._reactor = reactor
        self._settings = settings
        self._scripts = {name: Script(source) for name, source in scripts.items()}
        self._secure = secure
        self._folder = Path(environment.get("CREDENTIALS_DIRECTORY", "."))
        self._sentinels = list(settings.sentinels)
        "The one that answered last in front."
        self._patience = max(settings.timeout, SHORTEST)
        self._open: set[Connection] = set()
        "Whose sockets are not closed yet."

    async def open(
        self, *, scripts: bool = True, replicas: int = 0, told: Callable[[bytes], None] | None = None
    ) -> Connection:
        """Return a connection to the master, on which commands may be sent. Raises StoreUnavailable.

        `scripts`: whether it will run any. `replicas`, `told`: see `Connection`.
        """
        address = await self._ask_sentinels() if self._sentinels else self._settings.address
        connection = Connection(
            self._reactor,
            f"Redis at {address}",
            timeout=self._settings.timeout,
            scripts=self._scripts if scripts else {},
            replicas=replicas,
            told=told,
        )
        try:
            await self._connect(address, connection)
            await self._log_in(connection)
            await self._prepare(connection, self._scripts if scripts else {})
        except BaseException as error:
            connection.give_up("")
            if isinstance(error, StoreUnavailable):
                # This sentinel may know no better for long: the next one is asked first.
                self._sentinels = self._sentinels[1:] + self._sentinels[:1]
            raise
        return connection

    def closed(self) -> Deferred[None]:
        """Fire when the sockets of all connections that were given up are closed."""
        return DeferredList([connection.gone for connection in self._open]).addCallback(lambda _: None)

    async def _log_in(self, connection: Connection) -> None:
        settings = self._settings
        command: list[Part] = ["HELLO", "2"]
        if settings.password_file is not None:
            password = self._password(settings.password_file, "password_file")
            command += ["AUTH", settings.username or "default", password]
        command += ["SETNAME", "calledin"]
        try:
            reply = await connection.ask(*command, timeout=self._patience)
        except ResponseError as error:
            raise StoreUnavailable(f"{connection.where} {_refused(error, 'redis')}") from None
        about = dict(zip(reply[::2], reply[1::2], strict=False))
        version = about.get(b"version", b"?").decode("ascii", "replace")
        if about.get(b"mode") == b"sentinel":
            raise StoreUnavailable(f"{connection.where} is a Sentinel; name it in redis.sentinels")
        if about.get(b"mode") == b"cluster":
            raise StoreUnavailable(f"{connection.where} is of a Redis Cluster, which won't do; one master will")
        if not version.split(".")[0].isdecimal() or int(version.split(".")[0]) < OLDEST:
            raise StoreUnavailable(f"{connection.where} is Redis {version}; Redis {OLDEST} or newer is needed")
        if about.get(b"role") != b"master":
            hint = "the sentinels have not agreed on one yet" if self._sentinels else "correct redis.address"
            raise StoreUnavailable(f"{connection.where} is a replica, not the master; {hint}")

    async def _prepare(self, connection: Connection, scripts: Mapping[str, Script]) -> None:
        settings = self._settings
        asked = [connection.ask("SCRIPT", "LOAD", script.source) for script in scripts.values()]
        if settings.database:
            asked.insert(0, connection.ask("SELECT", settings.database))
        for worked, result in await DeferredList(asked, consumeErrors=True):
            if not worked and isinstance(result.value, StoreUnavailable):
                raise StoreUnavailable(str(result.value))
            if not worked:
                raise StoreUnavailable(f"{connection.where} refused SELECT or SCRIPT LOAD: {result.value}")

    # sentinels

    async def _ask_sentinels(self) -> str:
        """Return the master's HOST:PORT, as the first sentinel that answers knows it."""
        problems = []
        for index, address in enumerate(self._sentinels):
            try:
                master = await self._ask_sentinel(address)
            except StoreUnavailable as error:
                problems.append(str(error))
            else:
                self._sentinels.insert(0, self._sentinels.pop(index))
                return master
        raise StoreUnavailable("; ".join(sorted(problems)))

    async def _ask_sentinel(self, address: str) -> str:
        settings = self._settings
        sentinel = Connection(self._reactor, f"the sentinel at {address}", timeout=self._patience)
        await self._connect(address, sentinel)
        try:
            if settings.sentinel_password_file is not None:
                password = self._password(settings.sentinel_password_file, "sentinel_password_file")
                user = [settings.sentinel_username] if settings.sentinel_username else []
                await sentinel.ask("AUTH", *user, password)
            found = await sentinel.ask("SENTINEL", "get-master-addr-by-name", settings.sentinel_master)
        except ResponseError as error:
            raise StoreUnavailable(f"{sentinel.where} {_refused(error, 'redis.sentinel')}") from None
        finally:
            sentinel.give_up("")
        if found is None:
            name = settings.sentinel_master
            raise StoreUnavailable(f"{sentinel.where} knows no master {name!r}; correct redis.sentinel_master")
        host, port = found[0].decode(), found[1].decode()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    # the way there

    async def _connect(self, address: str, connection: Connection) -> None:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        try:
            endpoint = self._endpoint(host, int(port))
            # The endpoint's own time does not begin before a name is looked up.
            await endpoint.connect(_Factory(connection)).addTimeout(self._patience, self._reactor)
            self._open.add(connection)
            connection.gone.addCallback(lambda _: self._open.discard(connection))
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - Twisted names no common class of what a connection fails with
            raise StoreUnavailable(f"{connection.where}: {in_words(error)}") from None

    def _endpoint(self, host: str, port: int) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint
        if isIPAddress(host):  # a name would be looked up in a thread, of which others may have taken all
            endpoint = TCP4ClientEndpoint(self._reactor, host, port, timeout=self._patience)
        elif isIPv6Address(host):
            endpoint = TCP6ClientEndpoint(self._reactor, host, port, timeout=self._patience)
        else:
            endpoint = HostnameEndpoint(self._reactor, host, port, timeout=self._patience)
        if not self._settings.tls:
            return endpoint
        assert self._secure is not None
        return wrapClientTLS(self._secure(host), endpoint)

    def _password(self, file: Path, name: str) -> str:
        path = self._folder / file
        try:
            return path.read_text().strip()
        except OSError as error:
            raise StoreUnavailable(f"redis.{name}: {path} can't be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise StoreUnavailable(f"redis.{name}: {path} is not text in UTF-8") from None


class _Factory(ClientFactory):
    """Makes the one protocol that it was given."""

    noisy = False

    def __init__(self, protocol: Connection) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> Connection:
        return self._protocol


def _refused(error: ResponseError, table: str) -> str:
    """Say why a login failed, without the words that Redis may have repeated."""
    text = str(error)
    code = text.split(" ", 1)[0]
    prefix = f"{table}." if table == "redis" else f"{table}_"
    if code == "WRONGPASS":
        return f"refused the username or password; correct {prefix}username or what is in {prefix}password_file"
    if code == "NOAUTH":
        return f"wants a password; give {prefix}password_file"
    if code == "NOPERM":
        return "does not allow our user to log in as it does; correct the rules of its ACL"
    if "unknown command" in text:
        return f"is too old; Redis {OLDEST} or newer is needed"
    if "without any password" in text:
        return f"wants no password; take {prefix}password_file away, or give it one"
    return f"refused the login ({code})" if code.isupper() else "refused the login"
