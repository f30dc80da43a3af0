"""What is so at the moment when Prometheus asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric


@dataclass(frozen=True, slots=True)
class TrunkFigures:
    """One trunk, as this node sees it."""

    name: str
    healthy: bool
    "Its breaker is closed."
    busy: int
    "Channels in use by this node."
    channels: int
    calls_per_second: float
    "That it gets now."
    registered: bool | None = None
    "Whether it knows where we are; None: it is not told."


@dataclass(frozen=True, slots=True)
class Figures:
    """The daemon at one moment."""

    queued: int
    oldest: float | None
    "Seconds for which the call waits that waits here for longest; None: none does."
    live: int
    callbacks: int
    "Neither delivered nor given up."
    ready: bool
    draining: bool
    store_healthy: bool
    nodes_alive: int
    trunks: Sequence[TrunkFigures] = ()
    media: Mapping[str, float] = field(default_factory=dict)
    "`net.media.Media.figures`."


class Snapshot:
    """Asks for the figures whenever somebody scrapes, and for nothing in between."""

    def __init__(
        self,
        figures: Callable[[], Figures],
        *,
        version: str,
        node: str,
        counts: Mapping[str, tuple[str, Callable[[], int]]] | None = None,
    ) -> None:
        """`counts`: name of a counter without its prefix and "_total" -> what it counts, and how much it is now."""
        self._figures = figures
        self._version = version
        self._node = node
        self._counts = counts or {}

    def collect(self) -> Iterable[Metric]:
        figures = self._figures()
        info = GaugeMetricFamily("calledin_info", "The daemon's version, and its name.", labels=("version", "node"))
        info.add_metric((self._version, self._node), 1)
        yield info
        for name, text, value in (
            ("queue_calls", "Calls that wait to be dialled.", figures.queued),
            ("queue_oldest_seconds", "How long the call waits that waits on this node for longest.", figures.oldest),
            ("live_calls", "Calls that are being dialled or played.", figures.live),
            ("callbacks_waiting", "Callbacks that are neither delivered nor given up.", figures.callbacks),
            ("ready", "Whether calls are taken: 1 or 0.", figures.ready),
            ("draining", "Whether an operator drains this node: 1 or 0.", figures.draining),
            ("store_healthy", "Whether the store keeps changes: 1 or 0.", figures.store_healthy),
            ("nodes_alive", "Nodes that work on the store, this one among them.", figures.nodes_alive),
        ):
            yield GaugeMetricFamily(f"calledin_{name}", text, value=float(value or 0))
        yield from self._trunks(figures.trunks)
        yield from self._media(figures.media)
        for name, (text, count) in self._counts.items():
            yield CounterMetricFamily(f"calledin_{name}", text, value=count())

    def _trunks(self, trunks: Sequence[TrunkFigures]) -> Iterator[Metric]:
        def family(name: str, text: str, value: Callable[[TrunkFigures], float | None]) -> Metric:
            metric = GaugeMetricFamily(f"calledin_trunk_{name}", text, labels=("trunk",))
            for trunk in trunks:
                figure = value(trunk)
                if figure is not None:
                    metric.add_metric((trunk.name,), float(figure))
            return metric

        yield family("healthy", "Whether the trunk gets calls: 1; 0: it failed too often.", lambda each: each.healthy)
        yield family("busy_channels", "Channels in use by this node.", lambda each: each.busy)
        yield family("channels", "Channels that the trunk has.", lambda each: each.channels)
        yield family("pace_calls", "Calls a second that it gets now.", lambda each: each.calls_per_second)
        yield family("registered", "Whether it knows where we are, where it is told.", lambda each: each.registered)

    def _media(self, media: Mapping[str, float]) -> Iterator[Metric]:
        for name, text, value in (
            ("media_sessions", "RTP sessions that are open.", media.get("sessions", 0)),
            ("media_streams", "RTP streams that are being sent.", media.get("streams", 0)),
            (
                "media_latest_seconds",
                "How late the packets of the last second were, the latest.",
                media.get("latest_slice", 0),
            ),
        ):
            yield GaugeMetricFamily(f"calledin_{name}", text, value=float(value))
        strays = "Packets that came to an RTP port and were of no call."
        yield CounterMetricFamily("calledin_media_stray_packets", strays, value=float(media.get("strays", 0)))
