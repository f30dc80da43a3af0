"""Telephone numbers as people and programs write them, and as E.164 does."""

from __future__ import annotations

import re
from functools import lru_cache

import phonenumbers

from calledind.model import ANONYMOUS, DEFAULT_CALLER

_IN_WORDS = re.compile(r"\d{7,}|\(?\d{3}\)?[ -]?\d{3}[ -]\d{4}(?!\d)")


@lru_cache(maxsize=65536)
def e164(text: str, home: str) -> str | None:
    """Return the digits of a caller id with its country code and without a plus; None where it has no such form.

    `text`: with a leading + in E.164, else as one dials it in the country whose code is `home`; a number that is
    none there, but one with its own country code, is taken for that. An extension or a short code has no E.164 form.
    """
    if text in (DEFAULT_CALLER, ANONYMOUS):
        return None
    region = phonenumbers.region_code_for_country_code(int(home))
    for written in (text, f"+{text}"):
        try:
            number = phonenumbers.parse(written, region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_possible_number(number):
            return f"{number.country_code}{phonenumbers.national_significant_number(number)}"
    return None


def same_caller(one: str, other: str, home: str) -> bool:
    """Whether two caller ids are one, however each is written."""
    return one == other or ((number := e164(one, home)) is not None and number == e164(other, home))


def for_the_log(words: str) -> str:
    """Return what a peer said as it may be written down: of numbers the last two digits, and no control characters."""
    masked = _IN_WORDS.sub(lambda found: f"***{found[0][-2:]}", words)
    return "".join(character if character.isprintable() else "?" for character in masked)
