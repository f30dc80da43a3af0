"""What is read from files beside the settings: passwords, the key that signs calls, the certificate, the pepper."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
from OpenSSL import SSL
from twisted.logger import Logger

from calledind.api import tls
from calledind.dialing.stir import Signer, StirError
from calledind.net.route import check_files
from calledind.service.errors import StartFailed, Wrong
from calledind.settings.tables import Http, Page, Settings, Stir, Trunk

log = Logger()


def read_files(settings: Settings, now: float) -> tuple[Signer | None, tuple[Trunk, ...], SSL.Context | None]:
    """Read what the settings name: what signs calls, the trunks with their passwords, what HTTPS is served with.

    `now`: seconds since the epoch. Raises StartFailed with a line for each that can't be read.
    """
    signer: Signer | None = None
    trunks: tuple[Trunk, ...] = ()
    context: SSL.Context | None = None
    wrong = Wrong()
    with wrong:
        signer = read_signer(settings.stir)
    with wrong:
        trunks = with_passwords(settings.trunks)
    for trunk in settings.trunks:
        with wrong:
            check_files(trunk)
    with wrong:
        if settings.http.tls_listen:
            context = tls.make_context(*certificate_of(settings.http, settings.data, now))
    if wrong.lines:
        raise StartFailed("\n".join(wrong.lines))
    return signer, trunks, context


def with_passwords(trunks: Sequence[Trunk], *, environment: Mapping[str, str] = os.environ) -> tuple[Trunk, ...]:
    """Read each trunk's password_file, where it has one. Raises StartFailed with all that can't be read."""
    wrong = Wrong()
    read = list(trunks)
    for index, trunk in enumerate(trunks):
        with wrong:
            read[index] = with_password(trunk, environment=environment)
    if wrong.lines:
        raise StartFailed("\n".join(wrong.lines))
    return tuple(read)


def with_password(trunk: Trunk, *, environment: Mapping[str, str] = os.environ) -> Trunk:
    """Read the trunk's password_file, where it has one. Raises StartFailed."""
    if trunk.password_file is None:
        return trunk
    path = Path(environment.get("CREDENTIALS_DIRECTORY", ".")) / trunk.password_file
    try:
        return attrs.evolve(trunk, password=path.read_text().strip(), password_file=None)
    except OSError as error:
        raise StartFailed(f"trunks: {trunk.name}: password_file {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StartFailed(f"trunks: {trunk.name}: password_file {path} is not text in UTF-8") from None


def read_signer(settings: Stir, *, environment: Mapping[str, str] = os.environ) -> Signer | None:
    """Return what signs calls, None where [stir] has no key. Raises StartFailed."""
    if settings.private_key is None:
        return None
    try:
        return Signer(settings, folder=Path(environment.get("CREDENTIALS_DIRECTORY", ".")))
    except StirError as error:
        raise StartFailed(str(error)) from None


def read_pepper(data: Path, *, environment: Mapping[str, str] = os.environ) -> bytes:
    """Return the secret that keys the api keys: systemd's credential "pepper", else one kept below `data`.

    Raises StartFailed. A lost pepper makes every api key unknown, so it is never replaced.
    """
    credential = Path(environment.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / "pepper"
    path = credential if credential.exists() else data / "pepper"
    try:
        if not path.exists():
            _keep(path, secrets.token_bytes(32))
        pepper = path.read_bytes()
    except OSError as error:
        raise StartFailed(f"{path}: can't be read or made: {error.strerror}") from None
    if len(pepper) < 32:
        raise StartFailed(f"{path}: needs at least 32 octets; bring it back from a backup, or all api keys are unknown")
    return pepper


def read_instance(data: Path) -> str:
    """Return what tells this data folder from all others, made at the first start. Raises StartFailed."""
    path = data / "instance"
    try:
        if not path.exists():
            _keep(path, secrets.token_hex(16).encode())
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartFailed(f"{path}: can't be read or made: {error}") from None


def read_token(page: Page, data: Path, *, environment: Mapping[str, str] = os.environ) -> str:
    """Return what opens the page, made at the first start where the settings name no file. Raises StartFailed."""
    if page.token_file is None:
        path = data / "page-token"
    else:
        path = Path(environment.get("CREDENTIALS_DIRECTORY", ".")) / page.token_file
    try:
        if page.token_file is None and not path.exists():
            _keep(path, secrets.token_urlsafe(24).encode())
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartFailed(f"page: {path} can't be read or made: {error}") from None
    if len(token) < 16:
        raise StartFailed(f"page: the token in {path} needs at least 16 characters")
    return token


def _keep(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there, whatever happens to the power."""
    new = path.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def certificate_of(http: Http, data: Path, now: float) -> tuple[Path, Path]:
    """Return the files of HTTPS's certificate and key, those that we sign ourselves where the settings name none."""
    if http.certificate is not None and http.private_key is not None:
        return http.certificate, http.private_key
    certificate, key = tls.self_signed(data / "tls", now)
    log.warn("HTTPS has no certificate of yours: {path} is self-signed", path=str(certificate))
    return certificate, key
