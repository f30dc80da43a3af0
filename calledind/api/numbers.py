"""How operators write numbers: one a line, as people and spreadsheets do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from calledind.store.interface import Number

LONGEST_LINE = 200
_PLAIN = re.compile(rb"(?:\+?([1-9][0-9]{0,2})[,;\t ]|\+([1-9][0-9]{0,2}))([0-9]{10})\r?\n?")
"What most lines of a long list are, with no need to look closer."
_SEPARATORS = str.maketrans("", "", " \t-().\"'")
_COLUMNS = str.maketrans(";\t", ",,")


def parse_number(text: str, country_code: str = "") -> Number:
    """Read "+12125550100", "1 2125550100", "1,2125550100" or, with a `country_code`, "2125550100" or "212,5550100".

    Spaces, dashes, dots, brackets and quotes within are ignored. Raises ValueError that says what to write.
    """
    text = text.strip()
    if len(text) > LONGEST_LINE:
        raise ValueError("the line is too long")
    if country_code:
        national = text.replace(",", "").translate(_SEPARATORS)
    elif "," in text or ";" in text or "\t" in text:
        country_code, national = (column.translate(_SEPARATORS) for column in text.translate(_COLUMNS).split(",")[:2])
        country_code = country_code.removeprefix("+")
    elif text.startswith("+"):
        digits = text[1:].translate(_SEPARATORS)
        country_code, national = digits[:-10], digits[-10:]
    else:
        country_code, _, national = text.partition(" ")
        national = national.translate(_SEPARATORS)
    if not (_digits(country_code) and len(country_code) <= 3) or country_code.startswith("0"):
        raise ValueError('write the country code first, such as "+12125550100" or "1,2125550100"')
    if not (_digits(national) and len(national) == 10):
        raise ValueError("the number after the country code must have ten digits")
    return country_code, national


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def parse_lines(lines: Iterable[bytes], country_code: str = "", first: int = 1) -> Iterator[Number | tuple[int, str]]:
    """Give for each line its number, or the line's own number and why it is none. Empty lines, comments and
    the heading of a table are passed over. `first`: the number of the first line.
    """
    for place, line in enumerate(lines, first):
        plain = None if country_code else _PLAIN.fullmatch(line)
        if plain is not None:
            yield (plain[1] or plain[2]).decode(), plain[3].decode()
            continue
        text = line.decode("utf-8", "replace").strip().removeprefix("\ufeff")
        if not text or text.startswith("#") or text.lower().startswith(("country_code", '"country_code')):
            continue
        try:
            yield parse_number(text, country_code)
        except ValueError as error:
            yield place, str(error)
