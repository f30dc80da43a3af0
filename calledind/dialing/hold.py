"""How long a call on hold may still take.

While the callee holds the call the audio can't end, so that its clock stands; another runs instead, which bounds all
holds of the call together.
"""

from __future__ import annotations


class Countdown:
    """Two times of which one runs: the audio's, or that of the holds. Seconds."""

    __slots__ = ("_audio", "_hold", "_since", "held")

    def __init__(self, *, audio: float, hold: float, now: float) -> None:
        """Begin with the audio's clock; `audio` and `hold` are what each may take."""
        self.held = False
        self._audio = audio
        self._hold = hold
        self._since = now

    def turn(self, *, held: bool, now: float) -> float:
        """Stop the clock that ran and start that of `held`; return what is left on it."""
        if self.held:
            self._hold = max(self._hold - (now - self._since), 0.0)
        else:
            self._audio = max(self._audio - (now - self._since), 0.0)
        self.held, self._since = held, now
        return self._hold if held else self._audio
