"""What `twistd calledin` loads: its options, and the service they ask for."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from twisted.application.service import IService
from twisted.internet.interfaces import IReactorTime
from twisted.python import usage

from calledind.observability.logs import json_format, text_format, write_lines
from calledind.service.cluster import node_name
from calledind.service.daemon import Daemon
from calledind.settings.reading import SettingsError, load, structure
from calledind.settings.tables import Settings

LOOPBACK = ("127.0.0.0/8", "::1/128")


class Options(usage.Options):
    """The command line after `twistd calledin`."""

    synopsis = "[options]"
    longdesc = (
        "One GET request makes a phone ring and plays an MP3 to who answers. Without --config the built-in carrier "
        "takes all calls and nobody's phone rings."
    )
    optParameters: ClassVar = [
        ["config", "c", None, "settings file (TOML); etc/calledin.toml shows all settings"],
        ["data", "d", None, "folder of the store, the audio and the secrets [default: ./calledin-data]"],
        ["http", None, None, "ADDRESS:PORT of the API, in place of the settings' http.listen"],
        ["page", None, None, "ADDRESS:PORT of the page, in place of the settings' page.listen"],
    ]
    optFlags: ClassVar = [
        ["demo", None, "with the built-in carrier: MP3s and callbacks may be on this machine, too"],
    ]

    def postOptions(self) -> None:
        """Remember where the file is: twistd may go to another folder before it is read again."""
        if self["config"] is not None:
            self["config"] = str(Path(self["config"]).absolute())

    def settings(self) -> Settings:
        """Read what the options name. Raises SettingsError."""
        changes: dict[str, Any] = {}
        if self["config"] is None:
            changes = {"simulator": True, "sip": {"bind": ["127.0.0.1:0"]}, "rtp": {"bind": "127.0.0.1"}}
        if self["data"] is not None:
            changes["data"] = self["data"]
        if self["http"] is not None:
            changes["http"] = {"listen": [self["http"]]}
        if self["page"] is not None:
            changes["page"] = {"listen": [self["page"]]}
        if self["demo"]:
            if self["config"] is not None:
                raise SettingsError(["--demo: goes without --config; the settings file says audio.allow_networks"])
            changes["audio"] = {"allow_networks": LOOPBACK, "allow_ports": ()}
        if self["config"] is None:
            return structure(changes)
        return load(Path(self["config"]), changes=changes)


def makeService(options: Options) -> IService:
    """Make the daemon. Settings errors end the process with a line for each and status 2."""
    from twisted.internet import reactor  # noqa: PLC0415 - the reactor is twistd's choice, made by now

    make_monotonic(reactor)
    try:
        settings = options.settings()
    except SettingsError as error:
        for line in error.errors:
            print(f"calledin: {line}", file=sys.stderr)  # noqa: T201 - before any log is open
        raise SystemExit(2) from None
    write_lines(json_format(node_name(settings)) if settings.log.format == "json" else text_format())
    return Daemon(reactor, settings, load=options.settings)


def make_monotonic(reactor: Any) -> None:
    """Let timers run by the monotonic clock: by the wall's, which Twisted takes, a step of it moves all of them.

    Must come before anything is scheduled. Raises RuntimeError when it does not.
    """
    if not IReactorTime.providedBy(reactor) or reactor.getDelayedCalls():
        raise RuntimeError("the reactor has timers already")
    reactor.seconds = time.monotonic  # type: ignore[method-assign]
