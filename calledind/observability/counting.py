"""Counters and histograms for one thread: what prometheus-client's own do, at a tenth of the price.

Its counters lock and check at each step, since many threads may use them. Ours are used by the reactor's alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]
"Values of a metric's labels, in the order of their names."


class Count:
    """One counter, with a value for each combination of labels."""

    __slots__ = ("_labels", "_name", "_text", "_values")

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        """`name`: without "_total"."""
        self._name = name
        self._text = text
        self._labels = labels
        self._values: dict[Labels, float] = {}

    def add(self, labels: Labels, amount: float = 1) -> None:
        values = self._values
        values[labels] = values.get(labels, 0) + amount

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        return [family]


class Spread:
    """One histogram, with a row of buckets for each combination of labels."""

    __slots__ = ("_bounds", "_labels", "_name", "_rows", "_text")

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        """`bounds`: the buckets' upper ones, in order; a last one for whatever is above comes by itself."""
        self._name = name
        self._text = text
        self._labels = labels
        self._bounds = tuple(bounds)
        self._rows: dict[Labels, list[float]] = {}
        "How many fell into each bucket and none before it, then the sum of all."

    def add(self, labels: Labels, value: float) -> None:
        row = self._rows.get(labels)
        if row is None:
            row = self._rows[labels] = [0.0] * (len(self._bounds) + 2)
        row[bisect_left(self._bounds, value)] += 1
        row[-1] += value

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, row in self._rows.items():
            count, buckets = 0.0, []
            for bound, inside in zip((*self._bounds, float("inf")), row[:-1], strict=True):
                count += inside
                buckets.append((floatToGoString(bound), count))  # type: ignore[no-untyped-call]
            family.add_metric(labels, buckets, row[-1])
        return [family]
