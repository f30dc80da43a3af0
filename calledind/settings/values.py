"""What a value of a setting may be, beyond its type."""

from __future__ import annotations

import ipaddress
import re

from calledind.model import Address, is_caller_id


def parse_address(text: str) -> Address:
    """Read "127.0.0.1:8080" or "[::1]:8080". Raises ValueError that says what to write."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f'"{text}" must be ADDRESS:PORT, such as "127.0.0.1:8080" or "[::1]:8080"')
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        raise ValueError(f'"{text}": write an IPv6 address in brackets, such as "[::1]:8080"')
    try:
        return str(ipaddress.ip_address(host.strip("[]"))), int(port)
    except ValueError:
        raise ValueError(f'"{text}": "{host}" is not an IP address; "0.0.0.0" and "[::]" mean all of them') from None


def check_addresses(values: tuple[str, ...]) -> None:
    for value in values:
        parse_address(value)


def check_networks(values: tuple[str, ...]) -> None:
    for value in values:
        try:
            ipaddress.ip_network(value)
        except ValueError:
            raise ValueError(f'"{value}" must be a network, such as "127.0.0.0/8" or "fd00::/8"') from None


def check_ip(value: str) -> None:
    try:
        ipaddress.ip_address(value or "::")
    except ValueError:
        raise ValueError(f'"{value}" must be an IP address') from None


def check_positive(value: float) -> None:
    if value <= 0:
        raise ValueError(f"{value} must be more than 0")


def check_not_negative(value: float) -> None:
    if value < 0:
        raise ValueError(f"{value} must not be negative")


def check_one_line(value: str) -> None:
    if not value.isprintable():
        raise ValueError(f"{value!r} must have no line ends or other control characters")


def check_digits(values: tuple[str, ...]) -> None:
    for value in values:
        if not (value.isascii() and value.isdigit()):
            raise ValueError(f'"{value}" must be digits in quotes, such as "1" or "212"')


def check_host(value: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?", value) is None:
        raise ValueError(f'"{value}" must be a domain or an IP address')


def check_domain(value: str) -> None:
    if value:
        check_host(value)


PLACEHOLDER = re.compile(r"\{(\w*)\}")
PLACEHOLDERS = ("caller", "e164", "national", "username")
"What a template of a caller's identity may name; `dialing.identity` says what each is."


def check_template(value: str) -> None:
    unknown = [name for name in PLACEHOLDER.findall(value) if name not in PLACEHOLDERS]
    if unknown or re.search(r"[{}]", PLACEHOLDER.sub("", value)):
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise ValueError(f'"{value}" may have {known} between braces, nothing else')


def check_privacy(value: str) -> None:
    if re.fullmatch(r"[a-z]+(;[a-z]+)*|", value) is None:
        raise ValueError(
            f'"{value}" must be the words of RFC 3323 with semicolons between, such as "id" or "header;id"'
        )


def check_sip_uri(value: str) -> None:
    if re.fullmatch(r"sips?:[^\s\"<>@]+@[A-Za-z0-9.:_\[\]-]+", value) is None:
        raise ValueError(f'"{value}" must be a SIP URI, such as "sip:anonymous@anonymous.invalid"')


def check_caller_id(value: str) -> None:
    if value and not is_caller_id(value):
        raise ValueError(f'"{value}" must be at most 20 digits, with a leading + where wanted, or "anonymous"')


def check_country_code(value: str) -> None:
    if re.fullmatch(r"[1-9][0-9]{0,2}", value) is None:
        raise ValueError(f'"{value}" must be a country code in quotes, such as "1" or "44"')


def check_url(value: str) -> None:
    if re.fullmatch(r"https://[^\s\"<>;]+|", value) is None:
        raise ValueError(f'"{value}" must be an https URL')


def check_port(value: int) -> None:
    if not 0 <= value <= 65535:
        raise ValueError(f"{value} must be a port, from 0 to 65535")


def check_session(value: int) -> None:
    if value != 0 and value < 90:
        raise ValueError(f"{value} must be 90 or more, or 0")


def check_bind(value: str) -> None:
    if value:
        parse_address(value)


def check_host_port(value: str) -> None:
    match = re.fullmatch(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", value)
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise ValueError(f'"{value}" must be HOST:PORT, such as "127.0.0.1:6379" or "redis.example.com:6379"')


def check_collector(value: str) -> None:
    if value:
        check_host_port(value)


def check_capture_id(value: int) -> None:
    if not 0 <= value < 2**32:
        raise ValueError(f"{value} must be a number of 32 bits")


def check_host_ports(values: tuple[str, ...]) -> None:
    for value in values:
        check_host_port(value)


def check_node_name(value: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9._-]{0,64}", value) is None:
        raise ValueError(f'"{value}" must be at most 64 letters, digits, dots, hyphens and underscores')


def check_lease(value: float) -> None:
    if value < 1:
        raise ValueError(f"{value} must be 1 or more")


STUN_SERVER = re.compile(r"stun:([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
"Host and port of a trunk's `advertise`."


def check_advertise(value: str) -> None:
    if value != "received" and STUN_SERVER.fullmatch(value) is None:
        try:
            check_ip(value)
        except ValueError:
            raise ValueError(f'"{value}" must be an IP address, "received" or "stun:HOST:PORT"') from None
