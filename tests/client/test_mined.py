"""Clients of work ledgers: what they submit, and what they believe of blocks that are not final."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import count, islice
from typing import Any, Final

import httpx
import pytest

from cairn import Block, InvalidChainError, Ledger, NoSuchBlockError, UsageError
from cairn.client import Client, NodeError
from cairn.core.entry import Entry
from cairn.core.errors import KeyReusedError, NoSuchEntryError
from cairn.core.genesis import Genesis, Terms, Work
from cairn.core.header import Kind
from cairn.core.merkle import tree_hash
from cairn.core.segment import Segment
from cairn.core.work import MAX_BITS, target_of
from cairn.ledger.ledger import now_us
from tests.builders import mine
from tests.client.conftest import Connect
from tests.client.nodes import FakeNode, RealNode, event, problem

DEPTH: Final = 4
SEAL: Final = Work(interval=1_000_000, half_life=3_600_000_000, final_depth=DEPTH)
FAST: Final = Work(interval=30_000, half_life=1_000_000, final_depth=DEPTH)
BITS: Final = 0x1F7FFFFF
"""Met by every 512th hash: so that one that does not meet it is at hand."""


class WorkNode(FakeNode):
    """The contract of a work ledger's node in few lines, with 10 blocks, 6 of them final."""

    def __init__(self) -> None:
        super().__init__()
        genesis = Genesis(name="test", seal=SEAL)
        start = now_us() - 60_000_000
        self.ledger = Ledger.in_memory(genesis, bits=BITS, clock=lambda: start)
        self.mine(*([i] for i in range(1, 10)))
        self.shown: dict[int, Block] = {}
        """Blocks that are shown in place of others."""
        self.receipt: httpx.Response | None = None
        """What is answered to one who asks for a receipt."""

    def mine(self, *contents: Sequence[Any]) -> None:
        chain = self.ledger.chain()
        for values in contents:
            chain.advance([Segment.from_blocks(len(self.ledger), [self.next(values)])])

    def next(self, values: Sequence[Any], before: Block | None = None) -> Block:
        """Return a block that may follow `before`, or the last one."""
        before = before or self.ledger.head
        entries = [Entry(bytes(15) + b"%d" % i, json.dumps(v).encode())
                   for i, v in enumerate(values)]  # fmt: skip
        terms = Terms.of(self.ledger[0])
        return mine(terms, entries, before, before.header.timestamp + SEAL.interval)

    def _prove(self, request: httpx.Request) -> httpx.Response | None:
        covering = int(request.url.params.get("covering", "1"))
        if request.url.path == "/checkpoint" and covering > self.ledger.final:
            if covering > len(self.ledger):
                return problem(404, "no-such-block", detail="not yet")
            return problem(409, "not-final", detail="not yet")
        if self.receipt is not None and request.url.path.endswith("/receipt"):
            return self.receipt
        return super()._prove(request)

    def answer(self, request: httpx.Request) -> httpx.Response:
        path, query = request.url.path, request.url.params
        if path == "/events":
            assert request.headers["Cairn-Final"] == "true"
            blocks = self.ledger[int(query["start"]) : self.ledger.final]
            return httpx.Response(
                200,
                headers={"Content-Type": "text/event-stream"},
                content=b"".join(map(event, blocks)),
            )
        if path.startswith("/entries/"):
            standing = self.ledger.entry(path.removeprefix("/entries/"))
            value: dict[str, Any] = {**asdict(standing), "entry": standing.id}
            del value["id"]
            return httpx.Response(200, json=value)
        if path == "/" and self.shown:
            start = int(query["start"])
            stop = min(start + int(query["limit"]), len(self.ledger))
            views = [json.loads(self._shown(i).to_json()) for i in range(start, stop)]
            more = f"/?start={stop}" if stop < len(self.ledger) else None
            value = {"length": len(self.ledger), "chain": views, "next": more}
            return httpx.Response(200, json=value)
        if path.startswith("/blocks/") and path[8:].isdigit() and int(path[8:]) in self.shown:
            return httpx.Response(200, content=self.shown[int(path[8:])].to_json())
        if path == "/head" and self.shown:
            return httpx.Response(200, content=self._shown(len(self.ledger) - 1).to_json())
        return super().answer(request)

    def _shown(self, index: int) -> Block:
        return self.shown.get(index) or self.ledger[index]


@pytest.fixture
def node() -> WorkNode:
    return WorkNode()


@pytest.fixture(scope="module")
def miner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    """Serve a ledger that this node mines."""
    directory = tmp_path_factory.mktemp("miner") / "work.cairn"
    Ledger.create(directory, Genesis(name="test", seal=FAST), bits=0x1F00FFFF).close()
    with RealNode(directory, "--mine") as node:
        yield node


# With a real node


def test_what_is_submitted_is_mined_and_becomes_final(miner: RealNode, connect: Connect) -> None:
    client = connect(miner.url)
    entry = client.submit({"a": 1}, wait=30)
    standing = client.entry(entry)
    assert standing.status in ("confirmed", "final")
    assert standing.block is not None
    assert standing.place is not None
    assert client[standing.block].data[standing.place] == {"a": 1}
    end = time.monotonic() + 30
    while client.entry(entry).status != "final":
        assert time.monotonic() < end
    receipt = client.receipt(standing.block, standing.place)
    assert json.loads(receipt.to_json())["data"] == '{"a":1}'
    assert client.peers()["peers"] == []
    assert client.checkpoint().checkpoint.size > standing.block


def test_a_retry_of_a_submission_has_the_same_entry(miner: RealNode, connect: Connect) -> None:
    key = f"key-{time.time_ns()}"
    ids = {connect(miner.url).submit_json('{"pay": 5}', key=key, wait=30) for _ in range(3)}
    assert len(ids) == 1
    with pytest.raises(KeyReusedError):
        connect(miner.url).submit("other", key=key)
    assert connect(miner.url).entry(ids.pop()).duplicates == ()


def test_nothing_is_appended_to_a_work_ledger(miner: RealNode, connect: Connect) -> None:
    client = connect(miner.url)
    for append in (
        lambda: client.append("never"),
        lambda: client.append_json('"never"'),
        lambda: client.append_all(["never"]),
        lambda: client.extend(["never"]),
    ):
        with pytest.raises(UsageError, match="submit"):
            append()
    assert client.submit("last", wait=30)
    assert "never" not in [value for block in client.scan(1) for value in block.data]


def test_nothing_is_submitted_to_an_instant_ledger(real_node: RealNode, connect: Connect) -> None:
    client = connect(real_node.url)
    length = len(client)
    with pytest.raises(UsageError, match="append"):
        client.submit(1)
    assert len(client) == length
    block = client.append(["an entry"])
    standing = client.entry(block.header.data_root.hex())
    assert (standing.status, standing.block, standing.place) == ("final", block.index, 0)
    assert client.peers() == {"peers": []}
    with pytest.raises(NoSuchEntryError):
        client.entry("0" * 64)
    with pytest.raises(NoSuchEntryError):
        client.entry("x")


def test_a_chain_that_grows_is_read_and_followed(miner: RealNode, connect: Connect) -> None:
    client = connect(miner.url)
    entry = client.submit("end", wait=30)
    assert len(client) > 1
    blocks = list(client)
    assert [block.index for block in blocks] == list(range(len(blocks)))
    last = client.entry(entry).block
    assert last is not None
    followed = list(islice(client.follow(0), last + 1))
    assert [block.index for block in followed] == list(range(last + 1))
    assert followed == list(client.scan(0, last + 1))
    head = client.head
    assert client.find(head.hash) == head
    assert client.validate().valid


# What is believed


def test_blocks_above_the_checkpoint_are_read(node: WorkNode, client: Client) -> None:
    blocks = list(node.ledger)
    assert len(client) == 10
    assert [client[i] for i in (9, 6, 2, 8)] == [blocks[i] for i in (9, 6, 2, 8)]
    assert client.head == blocks[9]
    assert list(client) == blocks
    assert list(client.scan(7)) == blocks[7:]
    assert list(islice(client.follow(3), 3)) == blocks[3:6], "final ones only"
    with pytest.raises(NoSuchBlockError):
        client[10]


def test_what_was_shown_is_not_read_again(node: WorkNode, client: Client) -> None:
    assert client.head == node.ledger.head
    for n in range(3):
        node.mine([n])
        node.requests.clear()
        assert client.head == node.ledger.head
        assert [request.url.path for request in node.requests] == ["/head"]


def test_a_receipt_of_a_block_that_is_not_final_is_refused(node: WorkNode, client: Client) -> None:
    refusal = problem(409, "not-final", detail="3 of 4 blocks follow it", missing=1)
    node.receipt = refusal
    with pytest.raises(NodeError, match="3 of 4 blocks follow it") as caught:
        client.receipt(6)
    assert (caught.value.status, caught.value.problem["missing"]) == (409, 1)


def test_a_block_without_work_is_refused(node: WorkNode, client: Client) -> None:
    good = node.ledger[9]
    target = target_of(good.header.bits)
    bad = next(
        header
        for nonce in count()
        if int.from_bytes((header := replace(good.header, nonce=nonce)).hash, "big") > target
    )
    node.shown[9] = Block(bad, bad.hash, good.entries)
    refused(client, 9, "work")


def test_a_block_with_an_easier_target_is_refused(node: WorkNode, client: Client) -> None:
    good = node.ledger[9]
    easy = replace(good.header, bits=MAX_BITS)
    found = next(
        header
        for nonce in count()
        if int.from_bytes((header := replace(easy, nonce=nonce)).hash, "big") <= target_of(MAX_BITS)
    )
    node.shown[9] = Block(found, found.hash, good.entries)
    refused(client, 9, "work")


def test_a_block_that_follows_nothing_signed_is_refused(node: WorkNode, client: Client) -> None:
    """It shows its work, and what it follows was made up: the links tell, down to the signed."""
    made_up = replace(node.ledger[8], stored_hash=bytes(32))
    node.shown[9] = node.next(["forged"], made_up)
    refused(client, 9, "link")


def test_a_branch_from_below_the_checkpoint_is_refused(node: WorkNode, client: Client) -> None:
    """All of it shows its work, and it takes the place of signed blocks."""
    before = node.ledger[3]
    for index in range(4, 10):
        before = node.shown[index] = node.next([f"other {index}"], before)
    with pytest.raises(Exception, match="not the one that was signed"):
        client[9]


def test_a_block_that_follows_one_of_another_height_is_refused(
    node: WorkNode, client: Client
) -> None:
    """Else a late block below its height would make the target easy."""
    assert client[8].index == 8
    late = replace(node.ledger[8].header, index=6)
    node.shown[7] = node.next(["low"], Block(late, node.ledger[8].stored_hash, ()))
    with pytest.raises(InvalidChainError) as caught:
        client[7]
    assert (caught.value.failure.index, caught.value.failure.rule) == (7, "link")


def test_a_value_block_on_a_work_ledger_is_refused(node: WorkNode, client: Client) -> None:
    assert client[9].index == 9
    entry = node.ledger[9].entries[0]
    node.shown[9] = Block.of(
        Kind.VALUE, entry, index=9, previous_hash=node.ledger[8].stored_hash,
        timestamp=node.ledger[9].header.timestamp,
    )  # fmt: skip
    refused(client, 9, "kind")


def test_a_block_from_the_future_is_refused(node: WorkNode, client: Client) -> None:
    entries = node.ledger[9].entries
    future = now_us() + 3_600_000_000
    node.shown[9] = mine(Terms.of(node.ledger[0]), entries, node.ledger[8], future)
    refused(client, 9, "timestamp")


def test_changed_data_of_a_confirmed_block_is_refused(node: WorkNode, client: Client) -> None:
    other = Entry(bytes(16), b'"other"')
    block = replace(node.ledger[9], entries=(other,))
    header = replace(block.header, size=len(other.to_bytes()))
    assert tree_hash([other.id]) != header.data_root
    node.shown[9] = Block(header, header.hash, (other,))
    refused(client, 9, "data_root")


def refused(client: Client, index: int, rule: str) -> None:
    looks: tuple[Callable[[], object], ...] = (
        lambda: client[index],
        lambda: list(client),
        lambda: client.head,
    )
    for look in looks:
        with pytest.raises(InvalidChainError) as caught:
            look()
        assert (caught.value.failure.index, caught.value.failure.rule) == (index, rule)


def test_a_standing_that_the_block_belies_is_refused(node: WorkNode, client: Client) -> None:
    [entry] = node.ledger[9].entries
    assert client.entry(entry.id.hex()).block == 9
    node.shown[9] = node.next(["another"], node.ledger[8])
    with pytest.raises(NodeError, match="does not have this entry"):
        client.entry(entry.id.hex())


def test_a_block_that_a_reorganisation_took_away_is_read_anew(
    node: WorkNode, client: Client
) -> None:
    """Between the block and those before it, the chain changes."""
    old = node.ledger[9]
    chain = node.ledger.chain()
    branch = [node.next(["b8"], node.ledger[7])]
    for n in (9, 10):
        branch.append(node.next([f"b{n}"], branch[-1]))

    def stale(_request: httpx.Request) -> httpx.Response:
        chain.advance([Segment.from_blocks(8, branch)])
        return httpx.Response(200, content=old.to_json())

    assert client.checkpoint().checkpoint.size == 6
    node.faults.append(stale)
    assert client[9] == branch[1]


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"entry": "0" * 64, "status": "final", "block": 1, "place": 0, "depth": 1},
        {"entry": "0" * 64, "status": "done", "block": 1, "place": 0, "depth": 1, "duplicates": []},
        {"entry": "0" * 64, "status": "final", "block": None, "place": 0, "depth": 1,
         "duplicates": []},
        {"entry": "0" * 64, "status": "pending", "block": 1, "place": 0, "depth": 1,
         "duplicates": []},
        {"entry": "1" * 64, "status": "pending", "block": None, "place": None, "depth": None,
         "duplicates": []},
        {"entry": "0" * 64, "status": "pending", "block": None, "place": None, "depth": None,
         "duplicates": [{"block": -1, "place": 0}]},
    ],
)  # fmt: skip
def test_no_standing_is_no_answer(node: WorkNode, client: Client, value: Any) -> None:
    node.faults.append(lambda _request: httpx.Response(200, json=value))
    with pytest.raises(NodeError):
        client.entry("0" * 64)


def test_a_node_that_has_halted_is_not_asked_again(node: WorkNode, client: Client) -> None:
    node.faults.append(lambda _request: problem(503, "halted", detail="stopped: why"))
    with pytest.raises(NodeError, match="stopped: why"):
        client.submit(1)
    assert len(node.requests) == 1


def test_a_full_pool_is_asked_again(node: WorkNode, client: Client) -> None:
    node.faults.append(lambda _request: problem(503, "pool-full", retry_after=0))
    node.faults.append(
        lambda _request: httpx.Response(202, json={"entry": "1" * 64, "status": "pending"})
    )
    assert client.submit(1, wait=0) == "1" * 64
    first, again = node.requests
    assert first.headers["Idempotency-Key"] == again.headers["Idempotency-Key"]
    assert first.headers["Cairn-Seal"] == "work"
    with pytest.raises(UsageError):
        client.submit(1, wait=61)


def test_a_submission_that_is_not_acknowledged_properly(node: WorkNode, client: Client) -> None:
    node.faults.append(lambda _request: httpx.Response(202, json={"entry": "x"}))
    with pytest.raises(Exception, match="does not say its id"):
        client.submit(1)
