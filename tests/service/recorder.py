"""Parts of a daemon that show what was asked of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from calledind.settings.tables import Trunk

A_TRUNK = Trunk(name="a", host="a.example", username="u", password="p", reasons={"403": 8})


class Recorder:
    """Notes each method called on it, with its arguments."""

    def __init__(self, **answers: Callable[..., Any]) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._answers = answers

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            return self._answers[name](*arguments) if name in self._answers else None

        return call


class Lines:
    """A logger that keeps what it was told."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def info(self, text: str, **values: Any) -> None:
        self._lines.append(text.format(**values))

    def failure(self, text: str, failure: object = None, **values: Any) -> None:
        self._lines.append(text.format(**values))

    warn = error = critical = info
