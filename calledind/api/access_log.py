"""What may be written down of a request.

Shown in full are only the parameters known to be harmless. Of numbers the last two digits are left, of URLs the
scheme, host and path. Parameters that are not known are counted, not shown: a mistyped `apikey` has a key in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from urllib.parse import urlsplit

HIDDEN = "***"
LONGEST = 100
"Characters shown of a value or path."

_SECRET_IN_PATH = re.compile(r"ck_\S+|\d{10,}|(?<![0-9A-Za-z])\d{5,}(?![0-9A-Za-z])")
"Keys and numbers, but not the digits within the hexadecimal id of a call."


def mask_number(text: str) -> str:
    """Leave the last two characters, and of a short text nothing."""
    return HIDDEN + (text[-2:] if len(text) > 4 else "")


def mask_url(text: str, numbers: Sequence[str] = ()) -> str:
    """Leave scheme, host, port and path; a query, user name and password go, and so do `numbers` in the path."""
    shown, rest = _without_query(text)
    for number in numbers:
        if len(number) > 4 and number in shown:
            shown = shown.replace(number, mask_number(number))
    return printable(shown) + rest


@lru_cache(maxsize=1024)
def _without_query(text: str) -> tuple[str, str]:
    """Return what may be shown of a URL, but for numbers in it, and what stands for the rest."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return HIDDEN, ""
    if parts.scheme not in ("http", "https"):
        return HIDDEN, ""
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return shown, f"?{HIDDEN}" if parts.query or parts.fragment else ""


@lru_cache(maxsize=256)
def mask_path(path: bytes) -> str:
    """Show a path that may have been mistyped: keys and numbers are masked."""
    return printable(_SECRET_IN_PATH.sub(HIDDEN, path.decode("latin-1")))


def mask_arguments(arguments: Mapping[bytes, Sequence[bytes]]) -> str:
    """Return a query string, decoded, in which nothing is left that must not be logged."""
    numbers = [value.decode("latin-1") for name in NUMBERS if name in arguments for value in arguments[name]]
    shown = []
    unknown = 0
    for name, values in arguments.items():
        label, mask = MASKS.get(name, ("", _hidden))
        if not label:
            unknown += len(values)
            continue
        for value in values:
            shown.append(label + mask(value.decode("latin-1"), numbers))
    if unknown:
        shown.append(f"({unknown} unknown)")
    return "&".join(shown)


def _harmless(text: str, _: Sequence[str]) -> str:
    return printable(text) if len(text) <= 5 else HIDDEN


def _number(text: str, _: Sequence[str]) -> str:
    return printable(mask_number(text))


def _hidden(_: str, __: Sequence[str]) -> str:
    return HIDDEN


NUMBERS = (b"phone_number", b"caller_id")
MASKS: Mapping[bytes, tuple[str, Callable[[str, Sequence[str]], str]]] = {
    b"country_code": ("country_code=", _harmless),
    b"cache": ("cache=", _harmless),
    b"phone_number": ("phone_number=", _number),
    b"caller_id": ("caller_id=", _number),
    b"mp3": ("mp3=", mask_url),
    b"callback_url": ("callback_url=", mask_url),
    b"api_key": ("api_key=", _hidden),
    b"secret": ("secret=", _hidden),
}
"How a parameter is shown, and what of it, given its value and all numbers of the request."


def printable(text: str) -> str:
    """A line of a log is ASCII, and nobody can begin a new one."""
    if len(text) > LONGEST:
        text = text[:LONGEST] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if " " <= character <= "~" else "?" for character in text)
