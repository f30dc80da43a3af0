"""How the media of the last calls went: a line in the log for each, and the figures in memory for who asks."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass

from twisted.logger import Logger

from calledind.net.media import MediaStatistics

MOST_CALLS = 1000


@dataclass(frozen=True, slots=True)
class CallMedia:
    """How one call's media went."""

    statistics: MediaStatistics
    codec: str
    "The one used last."
    srtp: str = ""
    "The crypto-suite, empty where nothing was encrypted in the end."
    digits: str = ""
    "The keys that the callee pressed, the first of them."


class MediaLog:
    """Keeps the figures of the last calls by their ids."""

    log = Logger()

    def __init__(self) -> None:
        self._calls: OrderedDict[str, dict[str, object]] = OrderedDict()

    def take(self, call_id: str, media: CallMedia) -> None:
        """Note how one call's media went; of a call with several attempts the last that was answered counts.

        Which keys were pressed is for who asks: in a log they might be somebody's PIN.
        """
        statistics = media.statistics
        self._calls[call_id] = {
            "codec": media.codec,
            "srtp": media.srtp,
            "digits": media.digits,
            **asdict(statistics),
        }
        self._calls.move_to_end(call_id)
        if len(self._calls) > MOST_CALLS:
            self._calls.popitem(last=False)
        self.log.info(
            "call {call}: {codec}, {secured}{sent} packets sent, {lost_there} lost on the way there, "
            "{received} received, {lost_here} lost on the way here, jitter {jitter} ms, round trip {round_trip} ms, "
            "MOS {mos}, {keys} keys pressed",
            call=call_id,
            codec=media.codec,
            secured=f"{media.srtp}, " if media.srtp else "",
            keys=len(media.digits),
            sent=statistics.packets_sent,
            lost_there=statistics.packets_lost_by_peer if statistics.jitter_by_peer is not None else "-",
            received=statistics.packets_received,
            lost_here=statistics.packets_lost,
            jitter=_milliseconds(statistics.jitter if statistics.packets_received else None),
            round_trip=_milliseconds(statistics.round_trip),
            mos="-" if statistics.mos is None else statistics.mos,
        )

    def show(self, call_id: str) -> dict[str, object] | None:
        """Return a call's figures, the fields of `CallMedia` and its statistics; None where they are not kept."""
        return self._calls.get(call_id)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}"
