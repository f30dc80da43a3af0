"""How the media of the last calls went: a line in the log for each, and the figures in memory for who asks."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict

from twisted.logger import Logger

from calledind.net.media import MediaStatistics

MOST_CALLS = 1000


class MediaLog:
    """Keeps the figures of the last calls by their ids."""

    log = Logger()

    def __init__(self) -> None:
        self._calls: OrderedDict[str, dict[str, object]] = OrderedDict()

    def take(self, call_id: str, codec: str, statistics: MediaStatistics) -> None:
        """Note how one call's media went; of a call with several attempts the last that was answered counts."""
        self._calls[call_id] = {"codec": codec, **asdict(statistics)}
        self._calls.move_to_end(call_id)
        if len(self._calls) > MOST_CALLS:
            self._calls.popitem(last=False)
        self.log.info(
            "call {call}: {codec}, {sent} packets sent, {lost_there} lost on the way there, {received} received, "
            "{lost_here} lost on the way here, jitter {jitter} ms, round trip {round_trip} ms, MOS {mos}",
            call=call_id,
            codec=codec,
            sent=statistics.packets_sent,
            lost_there=statistics.packets_lost_by_peer if statistics.jitter_by_peer is not None else "-",
            received=statistics.packets_received,
            lost_here=statistics.packets_lost,
            jitter=_milliseconds(statistics.jitter if statistics.packets_received else None),
            round_trip=_milliseconds(statistics.round_trip),
            mos="-" if statistics.mos is None else statistics.mos,
        )

    def show(self, call_id: str) -> dict[str, object] | None:
        """Return a call's figures, the fields of `MediaStatistics` and the codec; None where they are not kept."""
        return self._calls.get(call_id)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}"
