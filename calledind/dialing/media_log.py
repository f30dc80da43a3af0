"""How the media of the last calls went: a line in the log for each, and the figures in memory for who asks."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass

from twisted.logger import Logger

from calledind.net.media import MediaStatistics
from calledind.net.media_course import moments

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
    trunk: str = ""


class MediaLog:
    """Keeps the figures of the last calls by their ids."""

    log = Logger()

    def __init__(self) -> None:
        self._calls: OrderedDict[str, CallMedia] = OrderedDict()

    def take(self, call_id: str, media: CallMedia) -> None:
        """Note how one call's media went; of a call with several attempts the last that was answered counts.

        Which keys were pressed is for who asks: in a log they might be somebody's PIN.
        """
        self._calls[call_id] = media
        self._calls.move_to_end(call_id)
        if len(self._calls) > MOST_CALLS:
            self._calls.popitem(last=False)
        # One field: twelve take the logger longer than all else that is done at the end of a call.
        self.log.info("call {call}: {media}", call=call_id, media=_in_words(media))

    def find(self, call_id: str) -> CallMedia | None:
        """Return a call's figures; None where they are not kept."""
        return self._calls.get(call_id)

    def show(self, call_id: str) -> dict[str, object] | None:
        """Return a call's figures, the fields of `CallMedia` and its statistics; None where they are not kept."""
        media = self._calls.get(call_id)
        if media is None:
            return None
        figures = {**asdict(media.statistics), "course": moments(media.statistics.course)}
        return {"codec": media.codec, "srtp": media.srtp, "digits": media.digits, **figures}


def _in_words(media: CallMedia) -> str:
    told = media.statistics
    lost_there = told.packets_lost_by_peer if told.jitter_by_peer is not None else "-"
    jitter = _milliseconds(told.jitter if told.packets_received else None)
    return (
        f"{media.codec}, {f'{media.srtp}, ' if media.srtp else ''}{told.packets_sent} packets sent, "
        f"{lost_there} lost on the way there, {told.packets_received} received, {told.packets_lost} lost on the way "
        f"here, jitter {jitter} ms, round trip {_milliseconds(told.round_trip)} ms, "
        f"MOS {'-' if told.mos is None else told.mos}, {len(media.digits)} keys pressed"
    )


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}"
