"""What the service counts and times, for Prometheus. `docs/operations.md` says what each means."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Final, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cairn.ledger.writer import Append
from cairn.net import messages as net_messages
from cairn.net.events import HeadMoved
from cairn.node.peering import Peering
from cairn.report import Report

COMMIT_BLOCKS: Final = tuple(4**i for i in range(9))
"""Bounds of the histogram of blocks in a commit: 1 to 65,536."""
DEPTHS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)
"""Bounds of the histogram of blocks that were taken off: most are one."""
_KINDS: Final = {
    kind.__struct_config__.tag: kind.__name__ for kind in get_args(net_messages.Message)
}
_GAUGES: Final[tuple[tuple[str, str, Callable[[Peering], float]], ...]] = (
    ("cairn_peers", "Peers that have proven their keys.", lambda p: p.connected),
    ("cairn_peer_links", "Links, those included that are not proven yet.", lambda p: p.links.count),
    ("cairn_pool_entries", "Entries that wait to be mined.", lambda p: p.pooled[0]),
    ("cairn_pool_bytes", "Bytes of these.", lambda p: p.pooled[1]),
    ("cairn_chain_height", "Index of the last block.", lambda p: p.length - 1),
    ("cairn_chain_work", "Hashes that the chain took, on average.", lambda p: float(p.work)),
    ("cairn_final_blocks", "Blocks that can no longer change.", lambda p: p.final),
    ("cairn_missing_blocks", "Blocks still to come of the best chain.", lambda p: p.missing),
    ("cairn_hash_rate", "Hashes a second that this node tries.", lambda p: p.hash_rate),
    ("cairn_halted", "Whether the node takes part no more.", lambda p: p.halted is not None),
)
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
"""Bounds of the histograms of time: an fsync takes 0.1 ms on a good disk and 10 ms on a slow."""


class Metrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(
        self,
        *,
        length: Callable[[], int],
        connections: Callable[[], int],
        peering: Peering | None = None,
    ) -> None:
        """`length` and `connections` return how many blocks and connections there are now.

        `peering` is what only a node of a work ledger has.
        """
        self.registry = registry = CollectorRegistry()
        registry.register(OfPeering(peering))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Counter(
            "cairn_http_requests",
            "Requests that were answered.",
            ("method", "path", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "cairn_http_request_seconds",
            "From the headers of a request to the end of its answer.",
            ("path",),
            buckets=SECONDS,
            registry=registry,
        )
        self._commit_seconds = Histogram(
            "cairn_commit_seconds",
            "From taking a group of appends to their being durable.",
            buckets=SECONDS,
            registry=registry,
        )
        self._commit_blocks = Histogram(
            "cairn_commit_blocks", "Blocks in a commit.", buckets=COMMIT_BLOCKS, registry=registry
        )
        self._refused = Counter(
            "cairn_appends_not_recorded",
            "Appends that the writer refused or whose outcome is unknown, by error.",
            ("error",),
            registry=registry,
        )
        self._valid = Gauge(
            "cairn_valid", "Whether the last validation found the ledger valid.", registry=registry
        )
        self._validated = Gauge(
            "cairn_validated_timestamp_seconds", "When that was, Unix time.", registry=registry
        )
        self._validated_blocks = Gauge(
            "cairn_validated_blocks", "Blocks that it read.", registry=registry
        )
        self._validation_seconds = Gauge(
            "cairn_validation_seconds", "How long it took.", registry=registry
        )
        self._covered = Gauge(
            "cairn_checkpoint_blocks",
            "Blocks that the published checkpoint covers.",
            registry=registry,
        )
        self._published = Gauge(
            "cairn_checkpoint_timestamp_seconds",
            "When it was published, Unix time.",
            registry=registry,
        )
        self._cosigned = Gauge(
            "cairn_checkpoint_cosignatures", "Witnesses that have cosigned it.", registry=registry
        )
        self._connected = Counter(
            "cairn_blocks_connected", "Blocks that joined the chain by mining.", registry=registry
        )
        self._disconnected = Counter(
            "cairn_blocks_disconnected",
            "Blocks that a reorganisation took off the chain.",
            registry=registry,
        )
        self._depth = Histogram(
            "cairn_reorganisation_depth",
            "Blocks that each reorganisation took off the chain.",
            buckets=DEPTHS,
            registry=registry,
        )
        self.followers = Gauge("cairn_followers", "Who follows /events now.", registry=registry)
        Gauge("cairn_blocks", "Blocks in the ledger.", registry=registry).set_function(length)
        Gauge("cairn_connections", "Connections now.", registry=registry).set_function(connections)
        # Finding a child by its labels takes a lock each time; there are few.
        self._count = cache(lambda *labels: self._requests.labels(*labels).inc)
        self._time = cache(lambda path: self._seconds.labels(path).observe)

    def committed(self, appends: list[Append], seconds: float) -> None:
        """Count a commit and what is in it."""
        self._commit_seconds.observe(seconds)
        self._commit_blocks.observe(sum(len(append.texts) for append in appends if append.last))
        for append in appends:
            if append.error is not None:
                self._refused.labels(type(append.error).__name__).inc()

    def moved(self, move: HeadMoved) -> None:
        """Count how the chain of a work ledger has moved."""
        self._connected.inc(sum(map(len, move.connected)))
        if depth := sum(map(len, move.disconnected)):
            self._disconnected.inc(depth)
            self._depth.observe(depth)

    def answered(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._count(method, path, status)()
        self._time(path)(seconds)

    def validated(self, report: Report) -> None:
        """Note what a validation found."""
        self._valid.set(report.valid)
        self._validated.set_to_current_time()
        self._validated_blocks.set(report.blocks)
        self._validation_seconds.set(report.seconds)

    def published(self, size: int, witnesses: int) -> None:
        """Note a checkpoint of `size` blocks, which so many witnesses have cosigned."""
        self._covered.set(size)
        self._published.set_to_current_time()
        self._cosigned.set(witnesses)

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self.registry)


class OfPeering(Collector):
    """What is asked for only when the metrics are read. Has no samples on an instant ledger."""

    def __init__(self, peering: Peering | None) -> None:
        self._peering = peering

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as they are now."""
        peering = self._peering
        for name, meaning, value in _GAUGES:
            gauge = GaugeMetricFamily(name, meaning)
            if peering is not None:
                gauge.add_metric((), value(peering))
            yield gauge
        mined = CounterMetricFamily("cairn_blocks_mined", "Blocks that this node has mined.")
        refusals = CounterMetricFamily(
            "cairn_peer_refusals",
            "Links closed as the peer broke a rule.",
            labels=["rule"],
        )
        ways = ["direction", "kind"]
        messages = CounterMetricFamily("cairn_peer_messages", "Messages.", labels=ways)
        size = CounterMetricFamily("cairn_peer_bytes", "Bytes of these.", labels=ways)
        if peering is not None:
            mined.add_metric((), peering.mined)
            for rule, count in peering.refusals.items():
                refusals.add_metric((rule,), count)
            for (way, kind), (count, total) in _named(peering.links.traffic).items():
                messages.add_metric((way, kind), count)
                size.add_metric((way, kind), total)
        yield from (mined, refusals, messages, size)


def _named(traffic: Mapping[tuple[str, int], tuple[int, int]]) -> dict[tuple[str, str], list[int]]:
    """Return messages and bytes by the names of their kinds; of no known one, together."""
    found: dict[tuple[str, str], list[int]] = {}
    for (way, kind), (count, size) in traffic.items():
        total = found.setdefault((way, _KINDS.get(kind, "unknown")), [0, 0])
        total[0] += count
        total[1] += size
    return found


class Metered:
    """Counts and times every request to an ASGI application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            method, path = scope.get("operation", ("other", "other"))
            self._metrics.answered(method, path, status, time.perf_counter() - began)
