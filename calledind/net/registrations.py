"""The registrations of the trunks that want one: begun, told about in the log, asked by whoever dials, taken back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.model import Address
from calledind.settings.tables import Trunk
from calledind.sip.auth import Credentials
from calledind.sip.grammar import format_host
from calledind.sip.header import NameAddr
from calledind.sip.registration import (
    Account,
    Elsewhere,
    Lapsed,
    Locate,
    NotRegistered,
    Registered,
    Registration,
    RegistrationEvent,
    State,
)
from calledind.sip.transactions import host_port
from calledind.sip.uri import Uri, escape_user

_WAY = ("host", "port", "outbound_proxy", "transport", "bind", "advertise", "sips")
_CERTIFICATES = ("tls_name", "tls_ca", "tls_certificate", "tls_private_key")


class UserAgent(Protocol):
    def registration(
        self, account: Account, *, locate: Locate, report: Callable[[RegistrationEvent], None], elsewhere: Elsewhere
    ) -> Registration: ...


class Targets(Protocol):
    """The addresses of each trunk (RFC 3263)."""

    def locate(self, trunk: Trunk, tried: Collection[Address] = ()) -> Deferred[Address]: ...

    def has_more(self, trunk: Trunk, tried: Collection[Address]) -> bool: ...

    def failed(self, target: Address, retry_after: int | None = None) -> None: ...

    def works(self, target: Address) -> None: ...


class Registrations:
    """What the carriers know of where we are; for who dials, the targets of trunks that are registered as they wish.

    `targets` has the trunks' addresses. `routed` hears when `by_route` gives something else. `trunk_changed` hears a
    trunk's name and how it stands, once when it is not registered (any more), and once when it is again: "registered",
    true or false, and as "registration" what `status` says. It must not raise.
    """

    def __init__(
        self,
        user_agent: UserAgent,
        targets: Targets,
        *,
        routed: Callable[[], None] = lambda: None,
        trunk_changed: Callable[[str, Mapping[str, object]], None] = lambda trunk, details: None,
    ) -> None:
        self._make = partial(_TrunkRegistration, user_agent, targets, self._changed, self._stands)
        self._targets = targets
        self._routed = routed
        self._trunk_changed = trunk_changed
        self._failing: set[str] = set()
        "Names of the trunks that were told of as not registered."
        self._kept: dict[str, _TrunkRegistration] = {}
        self._by_route: dict[str, Trunk] = {}
        self._leaving: list[Deferred[None]] = []

    def use_trunks(self, trunks: Sequence[Trunk]) -> None:
        """Register with these trunks, as far as they want it, and with no others."""
        wanted = {trunk.name: trunk for trunk in trunks if trunk.register}
        self._failing &= wanted.keys()
        for name, kept in list(self._kept.items()):
            if name not in wanted or not kept.serves(wanted[name]):
                del self._kept[name]
                self._leaving.append(kept.stop())
        begun = [self._kept.setdefault(name, self._make(wanted[name])) for name in wanted.keys() - self._kept.keys()]
        self._changed()

        def begin(_: None) -> None:
            for each in begun:
                each.start()

        # One binding may follow another of the same Contact: the carrier must have let go of the first.
        self._gone().addCallback(begin)

    def stop(self) -> Deferred[None]:
        """Take all of them back; fires within `LEAVE_WITHIN` seconds."""
        self.use_trunks(())
        return self._gone()

    def check_addresses(self) -> None:
        """Our address may be another than it was, as some trunk sees it."""
        for kept in self._kept.values():
            kept.registration.check_address()

    def ready(self, trunk: Trunk) -> Deferred[None]:
        """Fires when calls may go to a trunk, which may take until its first answer. Fails with OSError."""
        kept = self._kept.get(trunk.name)
        return succeed(None) if kept is None or not trunk.register_required else kept.ready()

    def obstacle(self, trunk: Trunk) -> str:
        """Why a trunk gets no calls, for people; empty where it does."""
        kept = self._kept.get(trunk.name)
        return "" if kept is None or not trunk.register_required else kept.registration.obstacle

    def locate(self, trunk: Trunk, tried: Collection[Address] = ()) -> Deferred[Address]:
        """Find where a trunk's next call goes, once it is registered. Fails with OSError."""
        return self.ready(trunk).addCallback(lambda _: self._targets.locate(self.way(trunk), tried))

    def has_more(self, trunk: Trunk, tried: Collection[Address]) -> bool:
        return self._targets.has_more(self.way(trunk), tried)

    def failed(self, target: Address, retry_after: int | None = None) -> None:
        self._targets.failed(target, retry_after)

    def works(self, target: Address) -> None:
        self._targets.works(target)

    def route(self, trunk: Trunk) -> tuple[str, ...]:
        """Return the Service-Route that a trunk's carrier wants its calls to begin with (RFC 3608)."""
        kept = self._kept.get(trunk.name)
        return () if kept is None else kept.registration.service_route

    def way(self, trunk: Trunk) -> Trunk:
        """Return the trunk as calls reach it: by its first Service-Route, unless it has an outbound proxy anyway."""
        return self._by_route.get(trunk.name, trunk)

    @property
    def by_route(self) -> tuple[Trunk, ...]:
        """Those of `way` that aren't trunks of the settings, each with a name of its own."""
        return tuple(self._by_route.values())

    def status(self, trunk: Trunk) -> str:
        """Say how it stands, for people; empty for a trunk that wants no registration."""
        kept = self._kept.get(trunk.name)
        return "" if kept is None else kept.status

    def _changed(self) -> None:
        before, self._by_route = self._by_route, {}
        for name, kept in self._kept.items():
            route = kept.registration.service_route
            if route and not kept.trunk.outbound_proxy:
                self._by_route[name] = through(kept.trunk, route[0])
        if self._by_route != before:
            self._routed()

    def _stands(self, name: str, registered: bool) -> None:
        """Tell of a trunk where it was otherwise before; each is taken to be well until it fails."""
        if registered == (name in self._failing):
            self._failing ^= {name}
            self._trunk_changed(name, {"registered": registered, "registration": self._kept[name].status})

    def _gone(self) -> Deferred[None]:
        self._leaving = [each for each in self._leaving if not each.called]
        return DeferredList(self._leaving).addCallback(lambda _: None)


class _TrunkRegistration:
    """One trunk's."""

    log = Logger()

    def __init__(
        self,
        user_agent: UserAgent,
        targets: Targets,
        changed: Callable[[], None],
        stands: Callable[[str, bool], None],
        trunk: Trunk,
    ) -> None:
        self.trunk = trunk
        self._targets = targets
        self._changed = changed
        self._stands = stands
        self._asked: Address | None = None
        self._tried: list[Address] = []
        "The registrar's servers that did not serve, since one of them did or all were asked."
        self._waiting: list[Deferred[None]] = []

        def find(found: Callable[[Address | OSError], None]) -> None:
            def located(where: Address) -> None:
                self._asked = where
                found(where)

            self._asked = None
            targets.locate(trunk, self._tried).addCallbacks(located, lambda failure: found(_why(failure)))

        self.registration = user_agent.registration(
            account(trunk), locate=find, report=self._heard, elsewhere=self._elsewhere
        )

    def serves(self, trunk: Trunk) -> bool:
        """Whether a trunk of these settings has the same registration."""
        return _identity(self.trunk) == _identity(trunk)

    def start(self) -> None:
        if self.registration.state is State.IDLE:
            self.registration.start()

    def stop(self) -> Deferred[None]:
        gone: Deferred[None] = Deferred()
        self.registration.stop(lambda: gone.callback(None))
        self._tell()
        return gone

    def ready(self) -> Deferred[None]:
        if self.registration.is_registered:
            return succeed(None)
        if not self.registration.is_undecided:
            return fail(OSError(self.registration.obstacle))
        decided: Deferred[None] = Deferred()
        self._waiting.append(decided)
        return decided.addCallback(lambda _: self.ready())

    @property
    def status(self) -> str:
        if self.registration.is_registered:
            return f"registered for {self.registration.lifetime:.0f} s"
        return self.registration.obstacle

    def _elsewhere(self, words: str, retry_after: int | None) -> bool:
        if self._asked is None:
            return False
        self._targets.failed(self._asked, retry_after)
        self._tried.append(self._asked)
        if not self._targets.has_more(self.trunk, self._tried):
            self._tried.clear()
            return False
        self.log.warn(
            "trunk {trunk}: {server} does not register us: {words}; the next server is asked",
            trunk=self.trunk.name,
            server=host_port(self._asked),
            words=words,
        )
        return True

    def _heard(self, event: RegistrationEvent) -> None:
        name = self.trunk.name
        match event:
            case Registered(expires, renewed):
                assert self._asked is not None
                self._targets.works(self._asked)
                self._tried.clear()
                level = self.log.debug if renewed else self.log.info
                level("trunk {name}: registered for {seconds} s", name=name, seconds=expires)
            case NotRegistered(words, retry_in, still):
                self.log.error(
                    "trunk {trunk}: the registration failed: {words}; {left}; the next try is in {seconds:.0f} s",
                    trunk=name,
                    words=words,
                    left="the last one has not run out yet" if still else "the trunk is not registered",
                    seconds=retry_in,
                )
            case Lapsed():
                self.log.error("trunk {trunk}: the registration has run out", trunk=name)
        self._changed()
        self._stands(name, self.registration.is_registered)
        self._tell()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)


def account(trunk: Trunk) -> Account:
    """Return whom a trunk's carrier is to know us as."""
    scheme = "sips" if trunk.sips else "sip"
    host = trunk.host.strip("[]")
    port = trunk.port or None
    user = escape_user(trunk.register_user or trunk.username)
    return Account(
        registrar=str(Uri(scheme, host=host, port=port)),
        # Without the port: it is the domain that gives the name (§10.3).
        address_of_record=str(Uri(scheme, user, host)),
        credentials=credentials(trunk),
        expires=trunk.register_expires,
        contact_user=user,
    )


def credentials(trunk: Trunk) -> Credentials | None:
    """Return what a trunk's challenges are answered with, None where it has no user name."""
    return Credentials(trunk.username, trunk.password, md5=trunk.digest_md5) if trunk.username else None


def through(trunk: Trunk, route: str) -> Trunk:
    """Return the trunk as it is reached by way of a Route's URI. Raises `ParseError`."""
    uri = NameAddr.parse(route).parsed_uri
    port = "" if uri.port is None else f":{uri.port}"
    named = (uri.parameter("transport") or "").lower()
    transport = next((known for known in ("udp", "tcp", "tls") if known == named), trunk.transport)
    return attrs.evolve(
        trunk,
        name=f"{trunk.name} by its service route",
        outbound_proxy=f"{format_host(uri.host)}{port}",
        transport=transport,
        register=False,
    )


def _identity(trunk: Trunk) -> tuple[object, ...]:
    "Whatever needs another registration when it changes."
    return account(trunk), *(getattr(trunk, name) for name in (*_WAY, *_CERTIFICATES))


def _why(failure: Failure) -> OSError:
    return failure.value if isinstance(failure.value, OSError) else OSError(failure.getErrorMessage())
