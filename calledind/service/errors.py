"""What may go wrong at a start, or when the settings are read again, without a fault of ours."""

from __future__ import annotations

from calledind.api import admin, tls
from calledind.audio.errors import LibraryUnavailable
from calledind.net.media import NoMedia
from calledind.settings.reading import SettingsError
from calledind.store.interface import StoreUnavailable


class StartFailed(Exception):
    """The daemon can't start; the message says why and what to do."""


EXPECTED = (
    StartFailed,
    SettingsError,
    StoreUnavailable,
    LibraryUnavailable,
    NoMedia,
    tls.CertificateError,
    admin.SocketError,
    OSError,
)
"What has a message for the operator, and needs no traceback."


class Wrong:
    """Gathers what is wrong, a line for each: `with wrong:` around each thing that is tried."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, EXPECTED):
            return False
        self.lines += str(error).splitlines()
        return True
