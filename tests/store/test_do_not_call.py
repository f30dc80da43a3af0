# Trial's assertions are not annotated.
# mypy: allow-untyped-calls
from __future__ import annotations

import sys

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.store.do_not_call import PAGE, NumberSet, decode, encode

DIGITS = "0123456789"


class NumberTests(SynchronousTestCase):
    """A number as one integer."""

    @settings(deadline=None, derandomize=True)
    @given(st.text(DIGITS, min_size=1, max_size=8), st.text(DIGITS, min_size=10, max_size=10))
    def test_number_comes_back(self, country_code: str, phone_number: str) -> None:
        """Every number is told from every other, with its leading zeros, and fits into 63 bits."""
        value = encode(country_code, phone_number)
        self.assertEqual(decode(value), (country_code, phone_number))
        self.assertLess(value, 2**63)

    @settings(deadline=None, derandomize=True)
    @given(st.text(), st.text())
    def test_anything_else_is_refused(self, country_code: str, phone_number: str) -> None:
        """What isn't a number raises ValueError and nothing else."""
        try:
            self.assertEqual(decode(encode(country_code, phone_number)), (country_code, phone_number))
        except ValueError as error:
            self.assertIn("ten", str(error))


class NumberSetTests(SynchronousTestCase):
    """The sorted set is a set, and sorted."""

    @settings(deadline=None, derandomize=True, max_examples=50)
    @given(
        st.lists(
            st.tuples(st.booleans(), st.integers(0, 5000), st.integers(1, 1500), st.sampled_from([1, 7, -1])),
            max_size=9,
        )
    )
    def test_same_as_a_set(self, steps: list[tuple[bool, int, int, int]]) -> None:
        """Whatever is added and removed, it answers what Python's set answers."""
        numbers, expected = NumberSet(), set[int]()
        for adds, start, count, stride in steps:
            for index in range(count):
                value = abs(start + index * stride)
                if adds:
                    self.assertIs(numbers.add(value), value not in expected)
                    expected.add(value)
                else:
                    self.assertIs(numbers.remove(value), value in expected)
                    expected.discard(value)
        self.assertEqual(len(numbers), len(expected))
        self.assertEqual(list(numbers), sorted(expected))
        for value in range(0, 12000, 3):
            self.assertIs(value in numbers, value in expected)

    def test_loaded_in_chunks(self) -> None:
        """A set made of sorted chunks has them all, empty ones and all."""
        numbers = NumberSet([range(3), [], range(10, 20), [40]])
        self.assertEqual(list(numbers), [0, 1, 2, *range(10, 20), 40])
        self.assertTrue(numbers.add(15000))
        self.assertNotIn(5, numbers)

    def test_sixteen_octets_for_a_number(self) -> None:
        """However the numbers come, none takes more than sixteen octets and its share of a page."""
        for step in (1, -1, 7919):
            numbers = NumberSet()
            for index in range(50_000):
                numbers.add(10**18 + index * step % 1_000_003)
            octets = sum(sys.getsizeof(page) for page in numbers._pages) + 40 * len(numbers._firsts)
            self.assertLess(octets / len(numbers), 20)
            self.assertLessEqual(max(map(len, numbers._pages)), PAGE)
