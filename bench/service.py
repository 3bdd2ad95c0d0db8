"""Benchmarks of the HTTP service, against what the same server or the embedded ledger does."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from bench.measure import MILLION, events, million, spread, timed
from cairn import Client, Ledger

BODY = json.dumps({"user": "alice", "note": "x" * 150}).encode()


@contextmanager
def node(directory: Path) -> Iterator[tuple[str, int]]:
    """Run a node with one more operation, which does nothing; yield its URL and process id."""
    command = [sys.executable, "-m", "bench.server", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.send_signal(signal.SIGTERM)


def load(url: str, path: str, body: Path, connections: int, requests: int) -> dict[str, Any]:
    """Run the load generator; return what it measured."""
    port = url.rpartition(":")[2]
    command = [sys.executable, "-m", "bench.load", port, str(connections), str(requests), path]
    output = subprocess.run([*command, str(body)], check=True, capture_output=True).stdout
    result: dict[str, Any] = json.loads(output)
    return result


def bench_service(folder: Path) -> Iterator[tuple[str, str]]:
    """Durable appends over HTTP against a request that does nothing, on the same server."""
    connections, requests, rounds = 32, 8000, 9
    body = folder / "body"
    body.write_bytes(BODY)
    nothing, ours, groups = [], [], []
    with node(folder / "service") as (url, _):
        load(url, "/block", body, connections, requests)  # the log has grown to its size
        for _ in range(rounds):
            nothing.append(requests / load(url, "/nothing", body, connections, requests)["seconds"])
            ours.append(requests / load(url, "/block", body, connections, requests)["seconds"])
        alone = load(url, "/block", body, 1, 3000)["each"]
        alone_nothing = load(url, "/nothing", body, 1, 3000)["each"]
        metrics = httpx.get(f"{url}/metrics").text
    for name in ("sum", "count"):
        [value] = re.findall(rf"^cairn_commit_blocks_{name} (.*)$", metrics, re.MULTILINE)
        groups.append(float(value))
    yield "requests", f"{requests:,} of {len(BODY)} bytes a round, {rounds} rounds in turn"
    yield f"a POST that does nothing, {connections} connections", spread(nothing, 1, "requests/s")
    yield f"`POST /block`, durable, {connections} connections", spread(ours, 1, "requests/s")
    ratios = [a / b for a, b in zip(ours, nothing, strict=True)]
    yield "**ratio** (goal at least 0.6)", spread(ratios, 1, "×")
    yield "blocks in a commit, mean", f"{groups[0] / groups[1]:.1f}"
    yield "`POST /block`, one connection", percentiles(alone)
    yield "a POST that does nothing, one connection", percentiles(alone_nothing)


def percentiles(each: list[float]) -> str:
    """Return the median and the 99th percentile of sorted seconds, for people."""
    return (
        f"p50 {1e3 * each[len(each) // 2]:.2f} ms, p99 {1e3 * each[len(each) * 99 // 100]:.2f} ms"
    )


def bench_bulk(folder: Path) -> Iterator[tuple[str, str]]:
    """Many entries over HTTP, NDJSON, against the embedded `Ledger.extend`."""
    count, rounds, lines = 100_000, 5, 5000
    objects = events(count)
    body = folder / "bulk.ndjson"
    body.write_text("".join(json.dumps(item) + "\n" for item in objects[:lines]))
    embedded, over_http, raw = [], [], []
    with node(folder / "bulk") as (url, _), Client(url) as client:
        client.extend(objects)
        for i in range(rounds):
            with Ledger.open(folder / f"embedded{i}") as ledger:
                embedded.append(count / timed(lambda: ledger.extend(objects)))
            over_http.append(count / timed(lambda: client.extend(objects)))
            raw.append(count / load(url, "/blocks", body, 2, count // lines)["seconds"])
    yield "objects", f"{count:,}, {rounds} rounds in turn"
    yield "`Ledger.extend`, durable", spread(embedded, 1, "entries/s")
    what = f"`POST /blocks`, NDJSON of {lines:,} lines, 2 connections, durable"
    yield what, spread(raw, 1, "entries/s")
    ratios = [a / b for a, b in zip(raw, embedded, strict=True)]
    yield "**ratio** (goal at least 0.5)", spread(ratios, 1, "×")
    yield "`Client.extend`, durable", spread(over_http, 1, "entries/s")
    ratios = [a / b for a, b in zip(over_http, embedded, strict=True)]
    yield "**ratio**", spread(ratios, 1, "×")


def bench_long(folder: Path) -> Iterator[tuple[str, str]]:
    """Serve a ledger of a million blocks: latencies, and memory over 10,000 requests."""
    path = million(folder)
    with Ledger.open(path, read_only=True) as ledger:
        hashes = [ledger[i * 9973 % MILLION].hash for i in range(200)]
    with node(path) as (url, pid), httpx.Client(base_url=url) as client:

        def get(route: str) -> None:
            client.get(route).raise_for_status()

        def each(routes: list[str]) -> str:
            return spread([timed(partial(get, route)) for route in routes], 1e3, "ms")

        get("/blocks/" + hashes[0])  # the first search by hash reads all hashes
        get("/")
        yield "`GET /` (goal under 50 ms)", each(["/"] * 50)
        middle = [f"/?start={i * 19_000}" for i in range(50)]
        yield "`GET /?start=…`, anywhere (goal under 50 ms)", each(middle)
        yield "`GET /head` (goal under 10 ms)", each(["/head"] * 200)
        indexes = [f"/blocks/{i * 4999 % MILLION}" for i in range(200)]
        yield "`GET /blocks/{index}` (goal under 10 ms)", each(indexes)
        by_hash = [f"/blocks/{one}" for one in hashes]
        yield "`GET /blocks/{hash}` (goal under 10 ms)", each(by_hash)
        routes: list[Callable[[], object]] = [
            lambda: get("/head"),
            lambda: get(indexes.pop()),
            lambda: get(by_hash.pop()),
            lambda: get("/health"),
            lambda: client.post("/block", content=BODY),
            lambda: get("/?limit=100&start=500000"),
            lambda: get("/blocks?contains=99999&cursor=980000&limit=10"),
            lambda: client.post("/blocks", content=BODY + b"\n" + BODY),
            lambda: client.get("/blocks/" + "0" * 64),
            lambda: get("/metrics"),
        ]
        growth = []
        for part in range(5):
            for number in range(2000 + 200 * (part == 0)):
                if number == 200 and part == 0:
                    before = resident(pid)  # warm
                indexes, by_hash = indexes or ["/blocks/7"], by_hash or [f"/blocks/{hashes[1]}"]
                routes[number % len(routes)]()
            growth.append(resident(pid) - before)
        said = ", ".join(f"{mib:.1f}" for mib in growth)
        yield "growth of RSS over 10,000 mixed requests (goal under 50)", f"{said} MiB, each 2,000"


def bench_pages(folder: Path) -> Iterator[tuple[str, str]]:
    """Show a ledger of a million blocks in a browser: what its pages cost the node."""
    browser = {"Accept": "text/html"}
    with node(million(folder)) as (url, _), httpx.Client(base_url=url, headers=browser) as client:

        def each(routes: list[str]) -> str:
            return spread([timed(partial(client.get, route)) for route in routes], 1e3, "ms")

        began = timed(partial(client.get, "/"))
        yield "the first page, the first time", f"{1e3 * began:.0f} ms"
        yield "`GET /` (goal under 50 ms)", each(["/"] * 200)
        middle = [f"/?start={i * 9_900}" for i in range(100)]
        yield "`GET /?start=…`, anywhere (goal under 50 ms)", each(middle)
        indexes = [f"/blocks/{i * 4999 % MILLION}" for i in range(200)]
        yield "`GET /blocks/{index}` (goal under 50 ms)", each(indexes)
        yield "`GET /summary`", each(["/summary"] * 100)


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


BENCHES = {"service": bench_service, "bulk": bench_bulk, "long": bench_long, "pages": bench_pages}
