"""What may be written down of a request.

Shown in full are only the parameters known to be harmless. Of numbers the last two digits are left, of URLs the
scheme, host and path. Parameters that are not known are counted, not shown: a mistyped `apikey` has a key in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

HIDDEN = "***"
LONGEST = 100
"Characters shown of a value or path."

SHOWN = ("country_code", "cache")
NUMBERS = ("phone_number", "caller_id")
URLS = ("mp3", "callback_url")
SECRETS = ("api_key", "secret")

_SECRET_IN_PATH = re.compile(r"ck_\S+|\d{10,}|(?<![0-9A-Za-z])\d{5,}(?![0-9A-Za-z])")
"Keys and numbers, but not the digits within the hexadecimal id of a call."


def mask_number(text: str) -> str:
    """Leave the last two characters, and of a short text nothing."""
    return HIDDEN + (text[-2:] if len(text) > 4 else "")


def mask_url(text: str, numbers: Sequence[str] = ()) -> str:
    """Leave scheme, host, port and path; a query, user name and password go, and so do `numbers` in the path."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return HIDDEN
    if parts.scheme not in ("http", "https"):
        return HIDDEN
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    for number in numbers:
        if len(number) > 4:
            shown = shown.replace(number, mask_number(number))
    return _printable(shown) + (f"?{HIDDEN}" if parts.query or parts.fragment else "")


def mask_path(path: bytes) -> str:
    """Show a path that may have been mistyped: keys and numbers are masked."""
    return _printable(_SECRET_IN_PATH.sub(HIDDEN, path.decode("latin-1")))


def mask_arguments(arguments: Mapping[bytes, Sequence[bytes]]) -> str:
    """Return a query string, decoded, in which nothing is left that must not be logged."""
    if not arguments:
        return ""
    return "&".join(_masked(arguments))


def _masked(arguments: Mapping[bytes, Sequence[bytes]]) -> Iterable[str]:
    numbers = [value.decode("latin-1") for name in NUMBERS for value in arguments.get(name.encode(), ())]
    unknown = 0
    for raw, values in arguments.items():
        name = raw.decode("latin-1")
        for value in values:
            text = value.decode("latin-1")
            if name in SECRETS:
                yield f"{name}={HIDDEN}"
            elif name in NUMBERS:
                yield f"{name}={_printable(mask_number(text))}"
            elif name in URLS:
                yield f"{name}={mask_url(text, numbers)}"
            elif name in SHOWN:
                yield f"{name}={_printable(text) if len(text) <= 5 else HIDDEN}"
            else:
                unknown += 1
    if unknown:
        yield f"({unknown} unknown)"


def _printable(text: str) -> str:
    """A line of a log is ASCII, and nobody can begin a new one."""
    if len(text) > LONGEST:
        text = text[:LONGEST] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if " " <= character <= "~" else "?" for character in text)
