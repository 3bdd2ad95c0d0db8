"""What a node of a work ledger does over HTTP: entries wait, blocks are confirmed, then final."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import jsonschema_rs
import pytest
from click.testing import CliRunner

from cairn import KeyReusedError, Ledger
from cairn.api.routes import description
from cairn.api.schemas import SCHEMAS
from cairn.cli import main
from cairn.core.entry import Entry
from cairn.core.errors import CairnError, NoSuchBlockError, OutcomeUnknownError, StoreError
from cairn.core.genesis import Genesis, Work
from cairn.core.header import Header
from cairn.core.segment import Segment
from cairn.core.work import MAX_BITS, target_of
from cairn.ledger.chain import Chain
from cairn.ledger.ledger import now_us
from cairn.net.events import Mined
from cairn.net.pool import Pool
from cairn.node import Node, links
from cairn.node import peering as peering_module
from cairn.node.changes import Tip
from cairn.node.links import NetworkPausedError
from cairn.node.peering import (
    HALTED_NAME,
    SUBMITTED_AT_ONCE,
    Peers,
    PoolFullError,
    why_halted,
)
from cairn.proof.checkpoint import Checkpoint
from cairn.store.interface import Pooled
from cairn.store.memory import MemoryStore
from tests.api.answers import problem
from tests.api.conftest import Serve
from tests.api.servers import PATIENCE, Server, metric, start
from tests.net.sockets import upgrade

Found = TypeVar("Found")
Kept = TypeVar("Kept", bound=MemoryStore)
DEPTH: Final = 4
SLOW: Final = Work(interval=1_000_000, half_life=3_600_000_000, final_depth=DEPTH)
"""Whose target stays as it is for as long as a test takes: blocks are made by hand."""
FAST: Final = Work(interval=30_000, half_life=1_000_000, final_depth=DEPTH)
"""For a node that mines: a block every 30 ms, soon."""
UNKNOWN: Final = "0" * 64


def new(directory: Path, seal: Work = SLOW, bits: int = MAX_BITS) -> Path:
    """Make a work ledger; return its directory."""
    Ledger.create(directory, Genesis(name="test", seal=seal), bits=bits).close()
    return directory


def found(block: Segment) -> Segment:
    """Return a block with a nonce that serves: the second or so does, at `MAX_BITS`."""
    header = Header.unpack(block.headers[0].tobytes())
    tries = (replace(header, nonce=nonce) for nonce in count())
    target = target_of(header.bits)
    header = next(one for one in tries if int.from_bytes(one.hash, "big") <= target)
    [sealed] = block.blocks()
    return Segment.from_blocks(
        block.start, [replace(sealed, header=header, stored_hash=header.hash)]
    )


def mine(chain: Chain, contents: Sequence[Sequence[Any]]) -> None:
    """Let a block with each of these lists of values follow a chain."""
    for values in contents:
        entries = [Entry(json.dumps(value).encode().rjust(16), b"1") for value in values]
        chain.advance([found(chain.candidate([e.to_bytes() for e in entries], now_us()))])


def mine_in(directory: Path, contents: Sequence[Sequence[Any]]) -> None:
    """Do so in a directory that no node has."""
    with Ledger.open(directory) as ledger:
        mine(ledger.chain(), contents)


def until(look: Callable[[], Found | None]) -> Found:
    """Return what `look` finds, once it finds something."""
    end = time.monotonic() + PATIENCE
    while not (seen := look()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
    return seen


def conforms(value: object, schema: str) -> dict[str, Any]:
    """Check a value by a schema of the document; return it."""
    reference = {"$ref": f"#/components/schemas/{schema}", "components": {"schemas": SCHEMAS}}
    jsonschema_rs.Draft202012Validator(reference).validate(value)
    assert isinstance(value, dict)
    return value


class Following:
    """One who follows /events, and reads in a thread."""

    def __init__(self, server: Server, query: str = "", **headers: str) -> None:
        self._client = server.client()
        request = self._client.build_request(
            "GET", f"/events{query}", headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        self._answer = self._client.send(request, stream=True)
        assert self._answer.status_code == 200, self._answer.read()
        self._lines = self._answer.iter_lines()

    def next(self) -> tuple[str, str, dict[str, Any]]:
        """Return id, name and data of the next event."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if line.startswith(":"):
                continue
            if line:
                name, _, fields[name] = line.partition(": ")
            elif fields:
                return fields["id"], fields["event"], json.loads(fields["data"])
        raise AssertionError("the stream ended")

    def close(self) -> None:
        self._answer.close()
        self._client.close()


@pytest.fixture
def following() -> Iterator[Callable[..., Following]]:
    made: list[Following] = []

    def follow(*args: Any, **kwargs: Any) -> Following:
        made.append(Following(*args, **kwargs))
        return made[-1]

    yield follow
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def miner(serve_all: Serve, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Serve a ledger that this node mines."""
    directory = new(tmp_path_factory.mktemp("miner") / "ledger", FAST, 0x1F00FFFF)
    return serve_all("--mine", ledger=directory)


@pytest.fixture(scope="module")
def miner_client(miner: Server) -> Iterator[httpx.Client]:
    with miner.client() as client:
        yield client


# Submitting


def test_a_value_is_answered_with_the_block_that_it_is_mined_in(
    miner_client: httpx.Client,
) -> None:
    answer = miner_client.post("/block?wait=30", content=b'{"a": 1}')
    assert answer.status_code == 201
    block = conforms(answer.json(), "Mined")
    assert answer.headers["location"] == f"/blocks/{block['index']}"
    assert answer.headers["cache-control"] == "no-store"
    assert block["data"][block["place"]] == {"a": 1}
    assert block["status"] == "confirmed"
    entry = Entry(bytes.fromhex(block["salt"][block["place"]]), b'{"a":1}')
    assert entry.id.hex() == block["entry"]
    standing = conforms(miner_client.get(f"/entries/{block['entry']}").json(), "Standing")
    assert (standing["block"], standing["place"]) == (block["index"], block["place"])
    until(lambda: miner_client.get(f"/entries/{block['entry']}").json()["status"] == "final")


def test_a_retry_has_the_same_entry_wherever_it_stands(miner_client: httpx.Client) -> None:
    key = {"idempotency-key": "once"}
    first = miner_client.post("/block?wait=30", content=b'"pay"', headers=key).json()
    entry = f"/entries/{first['entry']}"
    until(lambda: miner_client.get(entry).json()["status"] == "final")
    again = miner_client.post("/block?wait=30", content=b'"pay"', headers=key)
    assert again.status_code == 201
    assert conforms(again.json(), "Mined") == first | {"status": "final"}
    assert miner_client.get(entry).json()["duplicates"] == []
    other = miner_client.post("/block", content=b'"more"', headers=key)
    problem(other, 422, "key-reused")


def test_what_is_not_mined_in_time_waits_and_survives_a_crash(tmp_path: Path) -> None:
    directory = new(tmp_path / "ledger")
    with start(directory) as server, server.client() as client:
        answer = client.post("/block?wait=0", content=b"1")
        assert answer.status_code == 202
        pending = conforms(answer.json(), "Pending")
        place = f"/entries/{pending['entry']}"
        assert answer.headers["location"] == place
        began = time.monotonic()
        assert client.post("/block?wait=1", content=b"2").status_code == 202
        assert 1 <= time.monotonic() - began < 5
        server.kill()
    with start(directory) as server, server.client() as client:
        standing = conforms(client.get(place).json(), "Standing")
        assert standing == {
            "entry": pending["entry"], "status": "pending", "block": None, "place": None,
            "depth": None, "duplicates": [],
        }  # fmt: skip
        assert conforms(client.get("/peers").json(), "Peers")["pool"]["entries"] == 2


def test_lines_wait_all_or_nothing(serve: Serve, tmp_path: Path) -> None:
    server = serve(ledger=new(tmp_path / "ledger"))
    with server.client() as client:
        problem(client.post("/blocks", content=b"1\nNaN"), 400, "bad-entry")
        too_many = b"\n".join(b"%d" % i for i in range(50_001))
        answer_ = problem(client.post("/blocks", content=too_many), 413, "too-large")
        assert "50001 entries are more than may wait" in answer_["detail"]
        assert client.get("/peers").json()["pool"] == {"entries": 0, "bytes": 0}
        answer = client.post("/blocks", content=b"1\n2\n3")
        assert answer.status_code == 202
        submitted = conforms(answer.json(), "Submitted")
        assert submitted["count"] == len(set(submitted["entries"])) == 3
        for entry in submitted["entries"]:
            assert client.get(f"/entries/{entry}").json()["status"] == "pending"
        assert metric(client, "cairn_pool_entries") == 3
        problem(client.get(f"/entries/{UNKNOWN}"), 404, "no-such-entry")
        problem(client.get("/entries/1"), 400, "bad-request")
        problem(client.post("/block?wait=61", content=b"1"), 400, "bad-request")
        meant = {"cairn-seal": "instant"}
        problem(client.post("/block", content=b"1", headers=meant), 409, "other-seal")
        problem(client.post("/blocks", content=b"1", headers=meant), 409, "other-seal")
        assert metric(client, "cairn_pool_entries") == 3


class Counting(MemoryStore):
    """Counts durable writes, and takes a while over each, as a disk does."""

    writes = 0

    def pool_add(self, pooled: Sequence[Pooled], key: str | None = None) -> None:
        self.writes += 1
        time.sleep(0.01)
        super().pool_add(pooled, key)


class Failing(Counting):
    """Cannot be written while it `fails`, as a full disk."""

    fails = False

    def advance(self, *args: Any, **kwargs: Any) -> None:
        self._try()
        super().advance(*args, **kwargs)

    def set_addresses(self, urls: Sequence[str]) -> None:
        self._try()
        super().set_addresses(urls)

    def pool_add(self, pooled: Sequence[Pooled], key: str | None = None) -> None:
        self._try()
        super().pool_add(pooled, key)

    def _try(self) -> None:
        if self.fails:
            raise OutcomeUnknownError("writing failed (disk full)")


def in_memory(kind: type[Kept]) -> tuple[Ledger, Kept]:
    block = Genesis(name="test", seal=SLOW).block(timestamp=now_us(), salt=bytes(16), bits=MAX_BITS)
    store = kind(Segment.from_blocks(0, [block]), mined=True)
    return Ledger(store), store


def test_those_who_submit_at_once_share_a_durable_write(tmp_path: Path) -> None:
    ledger, store = in_memory(Counting)

    async def run() -> None:
        async with Node(ledger, tmp_path) as node:
            tasks = [node.submit([b"%d" % i]) for i in range(200)]
            ids = await asyncio.gather(*tasks)
            assert len({one for [one] in ids}) == 200
            assert store.writes <= 3
            assert {one.id for one in store.pool()} == {one for [one] in ids}

    asyncio.run(run())


def test_one_who_is_refused_is_not_the_others_problem(tmp_path: Path) -> None:
    ledger, store = in_memory(Counting)

    async def run() -> Sequence[Any]:
        async with Node(ledger, tmp_path) as node:
            return await asyncio.gather(
                node.submit([b"1"], "k"), node.submit([b"2"], "k"), node.submit([b"3"]),
                node.submit([b"1"], "k"), return_exceptions=True,
            )  # fmt: skip

    first, other, plain, again = asyncio.run(run())
    assert isinstance(other, KeyReusedError)
    assert first == again
    assert {one.id for one in store.pool()} == {*first, *plain}


def test_what_finds_no_room_now_is_refused_and_takes_nobody_s_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, store = in_memory(Counting)
    monkeypatch.setattr(peering_module, "Pool", partial(Pool, entries=100))

    async def run() -> None:
        async with Node(ledger, tmp_path) as node:
            peering = node.peering
            assert peering is not None
            kept = ledger.make_entries([b"%d" % i for i in range(75)])
            await peering.submit(kept)
            for i in range(25):
                peering._pool.add(bytes([i]) * 32, bytes(20), 0.0, "a peer")
            with pytest.raises(PoolFullError):
                await node.submit([b"1"] * 26)
            assert store.pool() == []
            fits, retry, new = (ledger.make_entries([b"1"] * n) for n in (20, 20, 6))
            requests = [fits, [*retry, *kept], new, kept, fits, new[:5]]
            assert await peering.has_room(requests) == [True, False, False, True, True, True]
            with pytest.raises(KeyReusedError):
                await asyncio.gather(node.submit([b"1"] * 24, "k"), node.submit([b"2"], "k"))
            assert len(peering._pool) == 100

    asyncio.run(run())


def test_others_have_their_turn_while_many_entries_are_submitted(tmp_path: Path) -> None:
    ledger, _ = in_memory(Counting)

    async def run() -> None:
        async with Node(ledger, tmp_path) as node:
            peering = node.peering
            assert peering is not None
            entries = ledger.make_entries([b"1"] * (3 * SUBMITTED_AT_ONCE))
            task = asyncio.create_task(peering.submit(entries))
            await asyncio.sleep(0)
            assert await peering.links.call(lambda: len(peering._pool)) == SUBMITTED_AT_ONCE
            await task
            assert len(peering._pool) == len(entries)

    asyncio.run(run())


def test_housekeeping_is_not_done_where_peers_would_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, _ = in_memory(Counting)
    threads: list[str] = []
    monkeypatch.setattr(peering_module, "HOUSEKEEPING_SECONDS", 0.01)
    monkeypatch.setattr(
        Chain, "forget_final", lambda _: threads.append(threading.current_thread().name)
    )

    async def run() -> None:
        async with Node(ledger, tmp_path):
            while len(threads) < 2:
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert not {"cairn-network", "MainThread"} & set(threads)


def test_all_who_wait_are_told_by_one_block(tmp_path: Path) -> None:
    ledger, _ = in_memory(Counting)

    async def run() -> None:
        async with Node(ledger, tmp_path) as node:
            peering = node.peering
            assert peering is not None
            ids = await node.submit([b"%d" % i for i in range(300)])
            waiting = [asyncio.create_task(node.mined(one, 20)) for one in ids]
            await asyncio.sleep(0.05)
            assert await node.mined(bytes(32), 0.01) is None
            chain = peering._chain
            entries = [one.entry for one in chain.store.pool()]
            peering.links.tell(Mined(found(chain.candidate(entries, now_us()))))
            standings = await asyncio.gather(*waiting)
            assert {one.id for one in standings if one} == {one.hex() for one in ids}
            assert {(one.block, one.status) for one in standings if one} == {(1, "confirmed")}
            assert not node._waiting
            assert peering.pooled == (0, 0)

    asyncio.run(run())


# A store that fails


def test_a_node_whose_disk_was_full_goes_on_when_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "PAUSE_SECONDS", 0.2)
    ledger, store = in_memory(Failing)

    async def run() -> None:
        async with Node(ledger, tmp_path, peers=Peers(threads=1)) as node:

            async def reached(condition: Callable[[], object]) -> None:
                async with asyncio.timeout(PATIENCE):
                    while not condition():
                        await asyncio.sleep(0.01)

            peering = node.peering
            assert peering is not None
            await reached(lambda: node.length > 3)
            first = (await node.submit([b"1"]))[0]
            store.fails = True
            await reached(lambda: not node.healthy)
            with pytest.raises(CairnError) as refused:
                await node.submit([b"2"])
            assert isinstance(refused.value, OutcomeUnknownError | NetworkPausedError)
            stood = node.length
            for _ in range(50):
                await asyncio.sleep(0.02)
                assert not node.healthy, "it comes and goes"
            assert (len(ledger), node.length) == (stood, stood)
            store.fails = False
            await reached(lambda: node.healthy and node.length > stood + 3)
            second = (await node.submit([b"3"]))[0]
            await reached(lambda: store.find_entry(first) and store.find_entry(second))
            assert peering.miner is not None
            assert peering.miner.alive
        assert ledger.validate().valid

    asyncio.run(run())


def test_a_move_of_which_the_disk_failed_to_say_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "PAUSE_SECONDS", 0.05)

    class Doubtful(MemoryStore):
        def advance(self, *args: Any, **kwargs: Any) -> None:
            super().advance(*args, **kwargs)
            if self.end() == 3:
                raise OutcomeUnknownError("was it written?")

    ledger, _ = in_memory(Doubtful)

    async def run() -> None:
        async with Node(ledger, tmp_path) as node:
            peering = node.peering
            assert peering is not None
            for length in (2, 3):
                [entry] = await node.submit([b"%d" % length])
                waiting = asyncio.create_task(node.mined(entry, PATIENCE))
                await asyncio.sleep(0.01)
                chain = peering._chain
                entries = [one.entry for one in chain.store.pool()][-1:]
                peering.links.tell(Mined(found(chain.candidate(entries, now_us()))))
                standing = await waiting
                assert standing is not None
                assert (standing.block, node.length) == (length - 1, length)
            assert peering.pooled == (0, 0)

    asyncio.run(run())


# Reorganisations


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two ledgers with 8 blocks in common, then 2 of the first, and 3 of the second."""
    one, other = new(tmp_path / "one"), tmp_path / "other"
    mine_in(one, [[i] for i in range(1, 8)])
    shutil.copytree(one, other)
    mine_in(one, [["a1"], ["a2"]])
    mine_in(other, [["b1"], [], ["b3"]])
    return one, other


def hashes(directory: Path) -> list[str]:
    with Ledger.open(directory, read_only=True) as ledger:
        return [block.hash for block in ledger]


def test_those_who_follow_know_the_chain_through_a_reorganisation(
    two: tuple[Path, Path],
    serve: Serve,
    following: Callable[..., Following],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = two
    before, after = hashes(one), hashes(other)
    server = serve(ledger=one)
    address = server.url.replace("http", "ws")
    with server.client() as client:
        live = following(server, "?start=6")
        final = following(server, "?start=5", cairn_final="true")
        for index in range(6, 10):
            event_id, name, block = live.next()
            assert (event_id, name) == (f"{index}-{before[index]}", "connected")
            assert block == client.get(f"/blocks/{index}").json()
        [lost] = block["data"]  # of the last one
        entry = {e.id.hex() for e in _entries(one, 9)}.pop()
        assert client.get(f"/entries/{entry}").json()["status"] == "confirmed"
        assert metric(client, "cairn_reorganisation_depth_count") == 0

        # Another user's: what it has signed is final here with the next block.
        monkeypatch.setenv("CAIRN_HOME", str(other.with_name("home")))
        peer = serve("--peer", address, ledger=other)
        told = [live.next() for _ in range(5)]
        assert [(event_id, name) for event_id, name, _ in told] == [
            (f"8-{before[8]}", "disconnected"),
            (f"7-{before[7]}", "disconnected"),
            *((f"{i}-{after[i]}", "connected") for i in range(8, 11)),
        ]
        assert [data for _, _, data in told[:2]] == [
            {"index": i, "hash": before[i]} for i in (9, 8)
        ]
        # One who was away meanwhile, and one who was told of half of it.
        for at, wanted in ((9, told), (8, told[1:])):
            late = following(server, last_event_id=f"{at}-{before[at]}")
            assert [late.next() for _ in wanted] == wanted
        assert final.next()[:2] == ("5", "block")

        standing = client.get(f"/entries/{entry}").json()
        assert standing["status"] == "pending", "what was taken off waits again"
        assert lost == 1
        assert metric(client, "cairn_blocks_connected_total") == 3
        assert metric(client, "cairn_blocks_disconnected_total") == 2
        assert metric(client, "cairn_reorganisation_depth_bucket", le="2.0") == 1
        assert metric(client, "cairn_reorganisation_depth_bucket", le="1.0") == 0
        assert metric(client, "cairn_chain_height") == 10
        assert metric(client, "cairn_chain_work") == 20
        assert metric(client, "cairn_peers") == metric(client, "cairn_peer_links") == 1
        bodies = {"direction": "received", "kind": "Bodies"}
        assert metric(client, "cairn_peer_messages_total", **bodies) >= 1
        assert metric(client, "cairn_peer_bytes_total", **bodies) > 20
        shown = conforms(client.get("/peers").json(), "Peers")
        assert shown["address"] == address
        require_shown(client, before, after)
        with peer.client() as there:
            [seen] = conforms(there.get("/peers").json(), "Peers")["peers"]
            assert seen["key"] == shown["key"]


def require_shown(client: httpx.Client, before: list[str], after: list[str]) -> None:
    """Hold what a node says of itself to what has become of the ledgers that are `two`."""

    def counted() -> dict[str, Any] | None:
        shown = conforms(client.get("/peers").json(), "Peers")
        [reorganisation] = shown["last_reorganisations"]
        return None if reorganisation["returned"] is None else shown

    shown = until(counted)
    assert shown["reorganisations"] == 1
    assert shown["head"] == {"index": 10, "hash": after[10]}
    assert (shown["missing"], shown["final"]) == (0, 6), "a branch that parted is final later"
    [reorganisation] = shown["last_reorganisations"]
    when = datetime.fromisoformat(reorganisation.pop("timestamp"))
    assert timedelta(0) < datetime.now(UTC) - when < timedelta(seconds=PATIENCE)
    assert reorganisation == {
        "depth": 2,
        "before": {"index": 9, "hash": before[9], "work": "4"},
        "after": {"index": 10, "hash": after[10], "work": "6"},
        "returned": 2,
    }
    require_tree(shown, before, after)


def require_tree(shown: dict[str, Any], before: list[str], after: list[str]) -> None:
    """Hold the tree to both chains, the first of which has given way."""
    final, tree = shown["final"], shown["tree"]
    statuses = ["final"] * final + ["confirmed"] * (len(after) - final) + ["side"] * 2
    found = [(block["hash"], block["status"]) for block in tree]
    assert found == list(zip([*after, *before[8:]], statuses, strict=True))
    assert [block["previous_hash"] for block in tree[1:]] == [*after[:-1], *before[7:9]]


def _entries(directory: Path, index: int) -> Sequence[Entry]:
    with Ledger.open(directory, read_only=True) as ledger:
        return ledger[index].entries


def test_a_restarted_node_still_knows_what_it_has_taken_off(
    two: tuple[Path, Path], serve: Serve, following: Callable[..., Following]
) -> None:
    one, other = two
    before, after = hashes(one), hashes(other)
    with Ledger.open(other, read_only=True) as heavier:
        branch = Segment.join(list(heavier.scan(8)))
    with Ledger.open(one) as ledger:
        ledger.chain().advance([branch])
    server = serve(ledger=one)
    with server.client() as client:
        shown = conforms(client.get("/peers").json(), "Peers")
    assert (shown["reorganisations"], shown["last_reorganisations"]) == (0, [])
    require_tree(shown, before, after)
    late = following(server, last_event_id=f"9-{before[9]}")
    assert [late.next()[:2] for _ in range(5)] == [
        (f"8-{before[8]}", "disconnected"),
        (f"7-{before[7]}", "disconnected"),
        *((f"{i}-{after[i]}", "connected") for i in range(8, 11)),
    ]
    with server.client() as client:
        for headers, status, slug in (
            ({"last-event-id": f"9-{UNKNOWN}"}, 404, "no-such-block"),
            ({"last-event-id": f"8-{before[9]}"}, 404, "no-such-block"),
            ({"last-event-id": f"9-{before[9]}", "cairn-final": "true"}, 400, "bad-request"),
            ({"last-event-id": "9"}, 400, "bad-request"),
            ({"last-event-id": "9-"}, 400, "bad-request"),
        ):
            problem(client.get("/events", headers=headers), status, slug)


# What is final


def test_only_final_blocks_are_signed_and_proved(two: tuple[Path, Path], serve: Serve) -> None:
    server = serve(ledger=two[0])
    with server.client() as client:
        began = time.monotonic()
        for index in range(6, 10):
            for path in (f"/blocks/{index}/receipt", f"/checkpoint?covering={index + 1}"):
                answer = problem(client.get(path), 409, "not-final")
                assert (answer["final"], answer["missing"]) == (6, index - 5)
                assert f"block {index} is confirmed and not final" in answer["detail"]
        assert time.monotonic() - began < 10, "nobody waits for what cannot come soon"
        with server.wire() as wire:
            wire.send(server.request("GET /events?start=6", "Cairn-Final: true"))
            assert wire.answer_begins().status == 200
            assert wire.chunk() == b": following\n\n"
            assert not wire.heard(0.5), "blocks 6 to 9 are not final"
        problem(client.get("/checkpoint?covering=99"), 404, "no-such-block")
        assert client.get("/blocks/5/receipt").status_code == 200
        checkpoint = client.get("/checkpoint?covering=6")
        assert Checkpoint.parse(checkpoint.text.partition("\n\n")[0] + "\n").size == 6
        problem(client.get("/tile/0/000.p/7"), 404, "no-such-tile")
        assert "immutable" in client.get("/tile/0/000.p/6").headers["cache-control"]
        for path in ("/", "/head", "/blocks", "/blocks/9", "/blocks/9/data", "/peers",
                     "/blocks/2", f"/entries/{_entries(two[0], 9)[0].id.hex()}"):  # fmt: skip
            answer_ = client.get(path)
            assert answer_.status_code == 200
            assert answer_.headers["cache-control"] == "no-store", path


def test_side_blocks_are_read_once_for_who_follows_from_what_never_was(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    before = hashes(one)
    with Ledger.open(other, read_only=True) as heavier:
        branch = Segment.join(list(heavier.scan(8)))
    reads: list[int] = []

    async def run() -> None:
        ledger = Ledger.open(one)
        ledger.chain().advance([branch])
        async with Node(ledger, tmp_path) as node:
            peering = node.peering
            assert peering is not None
            sides = peering.sides

            def read() -> Iterator[Segment]:
                reads.append(1)
                return sides()

            monkeypatch.setattr(peering, "sides", read)
            for number in range(5):
                with pytest.raises(NoSuchBlockError):
                    await node.require_known(Tip(9, bytes([number]) * 32))
            await node.require_known(Tip(9, bytes.fromhex(before[9])))
            assert len(reads) == 1
            # The chain has moved, and nobody was told yet.
            mine(peering._chain, [["c1"]])
            with pytest.raises(NoSuchBlockError):
                await node.require_known(Tip(9, bytes(32)))
            assert len(reads) == 2

    asyncio.run(run())


def test_a_node_that_would_have_to_change_final_blocks_stops_loudly(tmp_path: Path) -> None:
    one, other = new(tmp_path / "one"), tmp_path / "other"
    shutil.copytree(one, other)
    mine_in(one, [[i] for i in range(6)])
    mine_in(other, [[-i] for i in range(9)])
    with start(one) as server, server.client() as client:
        assert client.get("/health").status_code == 200
        assert metric(client, "cairn_halted") == 0
        with start(other, "--peer", server.url.replace("http", "ws")):
            until(lambda: client.get("/health").status_code == 503)
        halted = client.get("/peers").json()["halted"]
        assert "more work" in halted
        shown = client.get("/peers", headers={"accept": "text/html"}).text
        assert f"This node takes part no more:</strong> {halted}" in shown
        assert halted in problem(client.post("/block", content=b"1"), 503, "halted")["detail"]
        problem(client.post("/blocks", content=b"1"), 503, "halted")
        assert metric(client, "cairn_halted") == 1
        assert client.get("/head").json()["index"] == 6, "reading goes on"
        assert "this node has stopped" in server.log()
        with server.wire() as wire:
            wire.send(upgrade())
            assert wire.answer().status == 503, "it takes links"
        assert metric(client, "cairn_peer_links") == 0


def test_a_halted_node_stays_so_after_a_restart_until_a_person_resumes_it(tmp_path: Path) -> None:
    one, other = new(tmp_path / "one"), tmp_path / "other"
    shutil.copytree(one, other)
    mine_in(one, [[i] for i in range(6)])
    mine_in(other, [[-i] for i in range(9)])
    refused = CliRunner().invoke(main, ["resume", "--ledger", str(one)])
    assert refused.exit_code == 2
    assert "has not stopped" in refused.output
    with start(one) as server, server.client() as client:
        with start(other, "--peer", server.url.replace("http", "ws")):
            until(lambda: client.get("/health").status_code == 503)
        halted = client.get("/peers").json()["halted"]
        refused = CliRunner().invoke(main, ["resume", "--ledger", str(one)])
        assert refused.exit_code == 2, "its node runs"
        server.kill()
    (one / "checkpoint").unlink()
    with start(one, "--mine") as server, server.client() as client:
        time.sleep(2 * SLOW.interval / 1e6)
        assert client.get("/health").status_code == 503
        assert client.get("/peers").json()["halted"] == halted
        assert halted in server.log()
        problem(client.post("/block", content=b"1"), 503, "halted")
        problem(client.get("/checkpoint"), 503, "unavailable")
        assert not (one / "checkpoint").exists()
        assert (client.get("/head").json()["index"], len(hashes(one))) == (6, 7)
        assert metric(client, "cairn_hash_rate") == 0
        with server.wire() as wire:
            wire.send(upgrade())
            assert wire.answer().status == 503
    resumed = CliRunner().invoke(main, ["resume", "--ledger", str(one)])
    assert (resumed.exit_code, resumed.output) == (0, f"it had stopped: {halted}\n")
    with start(one, "--mine") as server, server.client() as client:
        assert client.get("/health").status_code == 200
        assert client.get("/peers").json()["halted"] is None
        until(lambda: client.get("/head").json()["index"] > 6)
        assert client.get("/checkpoint").status_code == 200


def test_a_node_that_cannot_say_whether_it_has_halted_does_not_start(tmp_path: Path) -> None:
    directory = new(tmp_path / "ledger")
    (directory / HALTED_NAME).mkdir()
    with Ledger.open(directory) as ledger, pytest.raises(StoreError, match="cannot be read"):
        Node(ledger, directory)
    (directory / HALTED_NAME).rmdir()
    (directory / HALTED_NAME).touch()  # cut off by a crash
    with Ledger.open(directory) as ledger:
        peering = Node(ledger, directory, peers=Peers(threads=1)).peering
        assert peering is not None
        assert peering.halted == peering._network.halted == why_halted(directory) != ""


# Instant ledgers


def test_an_instant_ledger_has_entries_that_are_final_and_no_peers(
    server: Server, client: httpx.Client
) -> None:
    block = client.post("/block?wait=5", content=b'"x"', headers={"cairn-seal": "instant"}).json()
    standing = conforms(client.get(f"/entries/{block['data_root']}").json(), "Standing")
    assert (standing["status"], standing["block"], standing["place"]) == (
        "final", block["index"], 0,
    )  # fmt: skip
    problem(client.get(f"/entries/{UNKNOWN}"), 404, "no-such-entry")
    problem(client.post("/block", content=b"1", headers={"cairn-seal": "work"}), 409, "other-seal")
    assert conforms(client.get("/peers").json(), "Peers") == {"peers": []}
    headers = {"last-event-id": f"0-{UNKNOWN}"}
    problem(client.get("/events", headers=headers), 400, "bad-request")
    assert metric(client, "cairn_blocks_connected_total") == 0


def test_the_document_has_the_answers_of_both_kinds_of_ledger() -> None:
    post = description(lab=False)["paths"]["/block"]["post"]["responses"]
    assert {"201", "202", "409", "503"} <= set(post)


def test_many_clients_at_once_each_get_their_own_block(miner: Server) -> None:
    """So that none is lost or told of another's."""
    with miner.client() as client, ThreadPoolExecutor(16) as threads:
        answers = list(
            threads.map(lambda i: client.post("/block?wait=30", content=b"%d" % i), range(100))
        )
    for i, answer in enumerate(answers):
        assert answer.status_code == 201, answer.text
        assert answer.json()["data"][answer.json()["place"]] == i
