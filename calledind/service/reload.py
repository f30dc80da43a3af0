"""SIGHUP: settings and files are read again, and what can change while calls are up does so.

All of it or, where anything is wrong, nothing: then each mistake is a line in the log, and all stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import attrs
from OpenSSL import SSL
from twisted.logger import Logger

from calledind.admission import Admission
from calledind.api import tls
from calledind.audio.library import Library
from calledind.dialing.dialer import Dialer
from calledind.dialing.stir import Signer
from calledind.net.registrations import Registrations
from calledind.net.signalling import Signalling
from calledind.outcome import Settlement
from calledind.service.errors import Wrong
from calledind.service.files import certificate_of, read_signer, with_passwords
from calledind.settings.tables import Settings, Trunk

LIVE = ("regions", "calls", "stir", "trunks", "http.certificate", "http.private_key")
"Settings, and tables of them, that SIGHUP brings into force."


@dataclass
class InForce:
    """What the daemon goes by now."""

    settings: Settings
    trunks: tuple[Trunk, ...] = ()
    "The settings' own with their passwords, or the built-in carrier's."
    signer: Signer | None = None
    "What vouches for our caller ids, if anything does."
    context: tls.ServerContext | None = None
    "Of HTTPS, where that is listened for."


class Reload:
    """Brings other settings into force."""

    log = Logger()

    def __init__(
        self,
        in_force: InForce,
        load: Callable[[], Settings],
        *,
        signalling: Signalling,
        registrations: Registrations,
        settlement: Settlement,
        library: Library,
        admission: Admission,
        dialer: Dialer,
        routed: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        """`load` reads the settings; `routed` is told when the trunks are others; `now`: seconds since the epoch."""
        self._in_force = in_force
        self._load = load
        self._signalling = signalling
        self._registrations = registrations
        self._settlement = settlement
        self._library = library
        self._admission = admission
        self._dialer = dialer
        self._routed = routed
        self._now = now

    def read_again(self) -> list[str]:
        """Take what can change while calls are up, all of it or, where something is wrong, nothing but all errors."""
        wrong = Wrong()
        with wrong:
            settings = self._load()
            self._read_files(settings, wrong)
        for line in wrong.lines:
            self.log.error("the reload is left out, all stays as it was: {line}", line=line)
        return wrong.lines

    def _read_files(self, settings: Settings, wrong: Wrong) -> None:
        """Read what the new settings name, and use both."""
        in_force = self._in_force
        trunks, signer = in_force.trunks, in_force.signer
        certificate: SSL.Context | None = None
        with wrong:
            signer = read_signer(settings.stir)
        with wrong:
            if in_force.context is not None:
                certificate = tls.make_context(*certificate_of(settings.http, in_force.settings.data, self._now()))
        with wrong:
            trunks = in_force.trunks if settings.simulator else with_passwords(settings.trunks)
        with wrong:
            self._signalling.prepare(in_force.trunks if settings.simulator else settings.trunks)
        if wrong.lines:
            return
        in_force.signer = signer
        if in_force.context is not None and certificate is not None:
            in_force.context.use(certificate)
        self._apply(settings, trunks)

    def _apply(self, settings: Settings, trunks: tuple[Trunk, ...]) -> None:
        """Use the new settings, but for those that only a start can bring."""
        before = self._in_force.settings
        changed = changed_settings(before, settings)
        later = [name for name in changed if name not in LIVE and name.split(".")[0] not in LIVE]
        if trunks != self._in_force.trunks and "trunks" not in changed:
            changed.append("trunks")
        if "simulator" in later:
            # Its carrier was, or was not, started with the daemon; the trunks are the other side of it.
            settings = attrs.evolve(settings, trunks=before.trunks)
            trunks = self._in_force.trunks
        at_once = [name for name in changed if name not in later]
        http = attrs.evolve(before.http, certificate=settings.http.certificate, private_key=settings.http.private_key)
        tables = {name: getattr(settings, name) for name in LIVE if "." not in name}
        self._in_force.settings = attrs.evolve(before, http=http, **tables)
        self._in_force.trunks = trunks
        self._registrations.use_trunks(trunks)
        self._routed()
        # Calls of a trunk that is gone are still to end.
        self._settlement.trunk_reasons = {**self._settlement.trunk_reasons, **reasons(trunks)}
        self._settlement.charge_accepted = settings.calls.charge == "accepted"
        self._library.use_codecs(codecs(trunks))
        self._admission.use_regions(settings.regions)
        self._admission.use_calls(settings.calls)
        self._dialer.replace(settings.calls, trunks)
        self.log.info(
            "settings and certificates were read again; changed: {names}", names=", ".join(at_once) or "nothing"
        )
        if later:
            self.log.warn("changed, and in force after a restart only: {names}", names=", ".join(later))


def codecs(trunks: Sequence[Trunk]) -> set[str]:
    """Return what any trunk wants audio to be encoded in."""
    return {codec for trunk in trunks for codec in trunk.codecs}


def reasons(trunks: Sequence[Trunk]) -> dict[str, Mapping[str, int]]:
    """Return what each trunk means by a SIP status, by the trunk's name."""
    return {trunk.name: trunk.reasons for trunk in trunks}


def changed_settings(old: Settings, new: Settings) -> list[str]:
    """Return the names of the settings that differ, such as "http.listen"; a list of tables is one setting."""
    names = []
    for field in attrs.fields(Settings):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before != after and attrs.has(type(before)):
            parts = attrs.fields(type(before))
            names += [
                f"{field.name}.{each.name}" for each in parts if getattr(before, each.name) != getattr(after, each.name)
            ]
        elif before != after:
            names.append(field.name)
    return names
