"""How a call sounds, as a number from 1 to 4.5: the E-model with most of its inputs at their defaults (ITU-T G.107).

Of the twenty things that the model asks for, a sender of RTP knows two: how much is lost and how long the way is.
With all others at their defaults R is 93.2, less what the delay takes and less what the losses take:

    delay, s     0.05  0.15  0.20  0.30  0.40       loss     0 %   1 %   2 %   5 %   10 %
    takes         1.2   3.6   7.3  20.7  34.1       takes      0   3.6   7.0  15.8   27.1

What G.711 with concealment suffers from loss is in G.113 appendix I; G.722 and Opus have no figures on this scale, and
are taken to suffer as much.
"""

from __future__ import annotations

BEST = 93.2
"R of a call that nothing is wrong with."
_ROBUSTNESS = 25.1
"Bpl: the loss in per cent with which half of what can be spoilt is spoilt (G.113 appendix I)."
_NOTICED = 0.1773
"Seconds of delay from which on people talk at the same time."
_PACKET = 0.02
"Seconds that audio waits for its packet to be full."
_BUFFERED = 2.0
"A telephone holds back this many times the jitter."


def mos(*, loss: float, round_trip: float, jitter: float) -> float:
    """Estimate the mean opinion score of one direction, 1.0 to 4.5.

    `loss`: 0 to 1. `round_trip`, `jitter`: seconds.
    """
    return opinion(rating(loss=loss, delay=round_trip / 2 + _BUFFERED * jitter + _PACKET))


def rating(*, loss: float, delay: float) -> float:
    """Return R, -2 to 93.2, of a loss (0 to 1, at random) and a delay one way in seconds (G.107 §7)."""
    milliseconds = delay * 1000
    late = max(milliseconds - _NOTICED * 1000, 0.0)
    percent = loss * 100
    return BEST - (0.024 * milliseconds + 0.11 * late) - 95 * percent / (percent + _ROBUSTNESS)


def opinion(rating: float) -> float:
    """Return the mean opinion score that R stands for (G.107 annex B)."""
    if rating <= 6.5:  # the formula dips below 1 there
        return 1.0
    return min(1 + 0.035 * rating + rating * (rating - 60) * (100 - rating) * 7e-6, 4.5)
