"""The DoNotCall list in memory: millions of numbers, asked for every request, changed now and then.

A sorted set of integers in pages, like the leaves of a B-tree under one root: finding a number is two binary
searches (about a microsecond), a change moves one page of at most eight kilobytes, and no change ever
has to rebuild the whole. It takes 8 octets for a number, up to 16 where pages are half full.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from calledind.store.interface import Number

PAGE = 1024
"Numbers in a page at most."


def encode(country_code: str, phone_number: str) -> int:
    """Write a number as one integer below 2 ** 63, leading zeros and all.

    Raises ValueError unless these are 1 to 8 and exactly 10 ASCII digits.
    """
    text = country_code + phone_number
    if len(phone_number) != 10 or not 0 < len(country_code) <= 8 or not (text.isascii() and text.isdigit()):
        raise ValueError("a number is a country code of 1 to 8 digits and a phone number of ten")
    return int("1" + text)


def decode(value: int) -> Number:
    text = str(value)
    return text[1:-10], text[-10:]


class NumberSet:
    """A sorted set of integers of 64 bits."""

    def __init__(self, ascending: Iterable[Iterable[int]] = ()) -> None:
        """`ascending`: chunks of numbers, in order and without repeats, each small enough for a page."""
        self._pages = [page for page in (array("q", chunk) for chunk in ascending) if page]
        self._firsts = [page[0] for page in self._pages]
        self._size = sum(map(len, self._pages))

    def __len__(self) -> int:
        return self._size

    def __contains__(self, value: int) -> bool:
        index = bisect_right(self._firsts, value) - 1
        if index < 0:
            return False
        page = self._pages[index]
        place = bisect_left(page, value)
        return place < len(page) and page[place] == value

    def add(self, value: int) -> bool:
        """Answer whether it was new."""
        if not self._pages:
            self._pages, self._firsts = [array("q", (value,))], [value]
            self._size = 1
            return True
        index = max(0, bisect_right(self._firsts, value) - 1)
        page = self._pages[index]
        place = bisect_left(page, value)
        if place < len(page) and page[place] == value:
            return False
        page.insert(place, value)
        self._size += 1
        self._firsts[index] = page[0]
        if len(page) > PAGE:
            # A list that grows at its end keeps its pages full; elsewhere they split in the middle.
            middle = PAGE if index == len(self._pages) - 1 and place == PAGE else PAGE // 2
            self._pages[index : index + 1] = [page[:middle], page[middle:]]
            self._firsts.insert(index + 1, page[middle])
        return True

    def remove(self, value: int) -> bool:
        """Answer whether it was there."""
        index = bisect_right(self._firsts, value) - 1
        if index < 0:
            return False
        page = self._pages[index]
        place = bisect_left(page, value)
        if place == len(page) or page[place] != value:
            return False
        del page[place]
        self._size -= 1
        if page:
            self._firsts[index] = page[0]
        else:
            del self._pages[index], self._firsts[index]
        return True

    def __iter__(self) -> Iterator[int]:
        """Give all in order; a number that comes or goes meanwhile may be given or not, the others are."""
        last = -1
        while True:
            index = max(0, bisect_right(self._firsts, last) - 1)
            chunk = self._after(index, last) or self._after(index + 1, last)
            if not chunk:
                return
            yield from chunk
            last = chunk[-1]

    def _after(self, index: int, last: int) -> array[int]:
        page = self._pages[index] if index < len(self._pages) else array("q")
        return page[bisect_right(page, last) :]
