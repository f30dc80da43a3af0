"""Which trunks take a number, and in which order they are asked."""

from __future__ import annotations

from collections.abc import Iterable

from calledind.settings.tables import Trunk


def rank(trunks: Iterable[Trunk], digits: str) -> tuple[str, ...]:
    """Return the names of the trunks that take a number: those with the longest prefix first, then by priority.

    `digits`: country code and number.
    """
    ranked = []
    for trunk in trunks:
        longest = max((len(prefix) for prefix in trunk.prefixes if digits.startswith(prefix)), default=None)
        if not trunk.prefixes or longest is not None:
            ranked.append((-(longest or 0), trunk.priority, trunk.name))
    return tuple(name for _, __, name in sorted(ranked))
