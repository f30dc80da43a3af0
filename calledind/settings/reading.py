"""The settings file is read: every error at once, with the path of the setting and what to write."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import attrs
import cattrs

from calledind.settings.tables import CHECK, Settings, Trunk

Table = TypeVar("Table")


class SettingsError(Exception):
    """All that is wrong with the settings; `errors` has one line each: path, what is wrong, what to write."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


class _Reader:
    """Turns tables into settings, and collects what is wrong instead of stopping at it."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._leaf = cattrs.Converter(detailed_validation=False)
        self._leaf.register_structure_hook(int, _whole_number)
        self._leaf.register_structure_hook(float, _number)
        self._leaf.register_structure_hook(str, _string)
        self._leaf.register_structure_hook(bool, _boolean)
        self._leaf.register_structure_hook(Path, lambda value, _: Path(_string(value, str)))
        self._leaf.register_structure_hook_func(_is_choice, _choice)
        self._leaf.register_structure_hook_func(_is_list, self._list)

    def table(self, kind: type[Table], table: object, path: str) -> Table | None:
        """Return None when it can't be made; why is in `errors` then."""
        if not isinstance(table, Mapping):
            self.errors.append(f"{path}: must be a table, [{path}] with name = value below it")
            return None
        before = len(self.errors)
        fields: dict[str, attrs.Attribute[Any]] = attrs.fields_dict(attrs.resolve_types(kind))  # type: ignore
        values: dict[str, Any] = {}
        for name in sorted(table.keys() - fields.keys()):
            meant = difflib.get_close_matches(name, fields, n=1)
            hint = f'did you mean "{meant[0]}"?' if meant else f"known here: {', '.join(sorted(fields))}"
            self.errors.append(f"{_join(path, name)}: there is no such setting; {hint}")
        for name, field_ in fields.items():
            if name in table:
                values[name] = self._value(field_, table[name], _join(path, name))
            elif field_.default is attrs.NOTHING:
                self.errors.append(f"{_join(path, name)}: is required")
        return kind(**values) if len(self.errors) == before else None

    def _value(self, field_: attrs.Attribute[Any], value: object, path: str) -> Any:
        kind: Any = field_.type
        if attrs.has(kind):
            return self.table(kind, value, path)
        if kind == tuple[Trunk, ...]:
            if not isinstance(value, list):
                self.errors.append(f"{path}: must be a list of tables, [[{path}]] above each")
                return ()
            return tuple(self.table(Trunk, each, f"{path}[{index}]") for index, each in enumerate(value))
        try:
            result = self._leaf.structure(value, kind)
            if CHECK in field_.metadata:
                field_.metadata[CHECK](result)
        except (ValueError, TypeError, AttributeError) as error:
            self.errors.append(f"{path}: {error}")
            return None
        return result

    def _list(self, value: object, kind: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{value!r} must be a list in square brackets")
        kinds = get_args(kind)
        if kinds[-1] is not Ellipsis and len(value) != len(kinds):
            raise ValueError(f"{value!r} must have {len(kinds)} values")
        return tuple(self._leaf.structure(item, kinds[0]) for item in value)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_choice(kind: object) -> bool:
    return get_origin(kind) is Literal


def _choice(value: object, kind: Any) -> object:
    if value not in get_args(kind):
        raise ValueError(f"{value!r} must be one of {', '.join(map(repr, get_args(kind)))}")
    return value


def _is_list(kind: object) -> bool:
    return get_origin(kind) is tuple


def _whole_number(value: object, _: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} must be a whole number")
    return value


def _number(value: object, _: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} must be a number")
    return float(value)


def _string(value: object, _: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f'{value!r} must be text in quotes, such as "{value}"')
    return value


def _boolean(value: object, _: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} must be true or false")
    return value


def _consistency(settings: Settings) -> Iterator[str]:
    """Give a line for each contradiction between settings that are right one by one."""
    if not settings.trunks and not settings.simulator:
        yield (
            "trunks: is required; add a [[trunks]] table with name and host, "
            "or write simulator = true to let the built-in carrier take all calls"
        )
    if settings.trunks and settings.simulator:
        yield "simulator: must be false where [[trunks]] are given; remove one of them"
    names = [trunk.name for trunk in settings.trunks]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f'trunks: the name "{name}" is used twice; each trunk needs a name of its own'
    for index, trunk in enumerate(settings.trunks):
        for status, reason in trunk.reasons.items():
            if not (status.isdigit() and 300 <= int(status) <= 699):
                yield f'trunks[{index}].reasons.{status}: must be a SIP status from "300" to "699"'
            if reason not in (0, 1, 3, 5, 8):
                yield f"trunks[{index}].reasons.{status}: {reason} must be 0, 1, 3, 5 or 8"
        for status in trunk.failover:
            if not (status.isdigit() and 300 <= int(status) <= 699):
                yield f'trunks[{index}].failover.{status}: must be a SIP status from "300" to "699"'
        if not trunk.codecs:
            yield f'trunks[{index}].codecs: must name at least one of "PCMU", "PCMA", "G722", "opus"'
        if trunk.sips and trunk.transport not in ("tls", "auto"):
            yield f'trunks[{index}].sips: needs transport = "tls"'
        if trunk.srtp != "off" and not trunk.srtp_suites:
            yield f'trunks[{index}].srtp_suites: must name at least one, or write srtp = "off"'
        tls = trunk.transport == "tls" or trunk.sips
        if trunk.srtp != "off" and not tls and not trunk.srtp_over_plain_sip:
            yield (
                f'trunks[{index}].srtp: needs transport = "tls", since the keys are in the signalling; '
                "or write srtp_over_plain_sip = true, and whoever reads that can listen"
            )
        if (trunk.tls_certificate is None) != (trunk.tls_private_key is None):
            yield f"trunks[{index}].tls_certificate: tls_certificate and tls_private_key go together"
        if trunk.register and not (trunk.username or trunk.register_user):
            yield f"trunks[{index}].register: needs a username, or a register_user where your address is enough"
        if trunk.password and trunk.password_file:
            yield f"trunks[{index}].password_file: give either this or password"
    if (settings.stir.private_key is None) != (not settings.stir.certificate_url):
        yield "stir.private_key: private_key and certificate_url go together; give both to sign calls"
    if (settings.http.certificate is None) != (settings.http.private_key is None):
        yield "http.certificate: certificate and private_key go together; give both, or none for a self-signed one"
    if not settings.http.listen and not settings.http.tls_listen:
        yield 'http.listen: is empty and so is tls_listen; give at least one, such as ["127.0.0.1:8080"]'
    if (settings.redis.tls_certificate is None) != (settings.redis.tls_private_key is None):
        yield "redis.tls_certificate: tls_certificate and tls_private_key go together"
    if settings.redis.username and settings.redis.password_file is None:
        yield "redis.password_file: is required where there is a username"
    first, last = settings.rtp.ports
    if not (1024 <= first < last <= 65535):
        yield f"rtp.ports: [{first}, {last}] must be two ports from 1024 to 65535, the first below the last"


def load(
    path: Path, *, changes: Mapping[str, Any] | None = None, environment: Mapping[str, str] = os.environ
) -> Settings:
    """Read the settings file, put `changes` (tables and values, as in the file) over it.

    Raises `SettingsError` with all that is wrong.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{path}: can't be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"{path}: is not UTF-8 text"]) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{path}: is not TOML: {error}"]) from None
    for name, change in (changes or {}).items():
        below = table.get(name, {})
        if isinstance(change, dict) and isinstance(below, dict):
            table[name] = {**below, **change}
        elif name not in table or not isinstance(change, dict):
            table[name] = change
    return structure(table, environment=environment)


def structure(table: Mapping[str, Any], *, environment: Mapping[str, str] = os.environ) -> Settings:
    """Turn a parsed TOML file into settings; `$STATE_DIRECTORY` is the data folder where the file names none."""
    table = dict(table)
    if "data" not in table and environment.get("STATE_DIRECTORY"):
        table["data"] = environment["STATE_DIRECTORY"].split(":")[0]
    reader = _Reader()
    settings = reader.table(Settings, table, "")
    errors = reader.errors if settings is None else list(_consistency(settings))
    if settings is None or errors:
        raise SettingsError(errors)
    return settings
