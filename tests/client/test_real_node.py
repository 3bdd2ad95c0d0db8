"""Clients and the real node, as processes that die and come back, over real connections."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn import Block, InvalidChainError, Ledger, NoSuchBlockError, OutcomeUnknownError
from cairn.client import Client, NotPermittedError, UnreachableError
from tests.client.conftest import Connect
from tests.client.nodes import Proxy, RealNode


@pytest.fixture
def node(ledger_directory: Path) -> Iterator[RealNode]:
    with RealNode(ledger_directory) as node:
        yield node


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    """A node with 50 small blocks and 150 larger ones, only to be read."""
    with RealNode(tmp_path_factory.mktemp("filled") / "ledger") as node:
        with Client(node.url) as client:
            client.append_all(range(50))
            client.append_all(["x" * 1000] * 150)
        yield node


@pytest.fixture
def reading(filled: RealNode) -> Iterator[Proxy]:
    proxy = Proxy(filled.port)
    yield proxy
    proxy.close()


@pytest.fixture
def proxy(node: RealNode) -> Iterator[Proxy]:
    proxy = Proxy(node.port)
    yield proxy
    proxy.close()


def test_answers_that_are_lost_do_not_record_twice(
    node: RealNode, proxy: Proxy, connect: Connect
) -> None:
    client = connect(proxy.url)
    for n in range(5):
        proxy.losing = 2
        assert client.append(n).index == n + 1
    proxy.losing = 2
    assert client.append_all(range(5, 10)) == range(6, 11)
    proxy.losing = 2
    assert client.extend(range(10, 10_000)) == 9990
    assert proxy.losing == 0
    with Client(node.url) as direct:
        assert [block.data for block in direct.scan(1)] == list(range(10_000))
        assert direct.validate().valid


def test_an_answer_that_was_lost_leaves_the_outcome_open(proxy: Proxy, connect: Connect) -> None:
    client = connect(proxy.url, patience=0)
    proxy.losing = 1
    with pytest.raises(OutcomeUnknownError):
        client.append("once", key="k")
    assert connect(proxy.url).append("once", key="k").index == 1
    assert len(client) == 2


@pytest.mark.parametrize("cut", [1, 100, 1000, 50_000])
def test_answers_that_are_cut_are_read_again(reading: Proxy, connect: Connect, cut: int) -> None:
    blocks = list(connect(reading.url).scan())
    assert len(blocks) == 201
    reading.cutting = cut
    assert list(connect(reading.url).scan()) == blocks
    assert reading.cutting == 0


@pytest.mark.parametrize("cut", [1, 100, 1000, 5000, 20_000])
def test_following_goes_on_after_a_cut_without_gap_or_repeat(
    reading: Proxy, connect: Connect, cut: int
) -> None:
    assert len(connect(reading.url)) == 201
    reading.cutting = cut
    blocks = list(itertools.islice(connect(reading.url).follow(0), 51))
    assert [block.index for block in blocks] == list(range(51))
    assert reading.cutting == 0


def test_nothing_is_lost_or_repeated_over_crashes_of_the_node(
    node: RealNode, connect: Connect
) -> None:
    """One extends, one appends, one follows, while the node is killed again and again."""
    seen: list[Block] = []
    singles: list[Block] = []

    def follow() -> None:
        with Client(node.url) as client:
            seen.extend(itertools.islice(client.follow(1), 6100))

    def append() -> None:
        with Client(node.url) as client:
            singles.extend(client.append(["single", n]) for n in range(100))

    def numbers() -> Iterator[int]:
        for n in range(6000):
            if n % 2500 == 2499:
                node.kill()
                threading.Timer(0.3, node.start).start()
            yield n

    client = connect(node.url)
    threads = [threading.Thread(target=work) for work in (follow, append)]
    for thread in threads:
        thread.start()
    assert client.extend(numbers()) == 6000
    for thread in threads:
        thread.join(60)
    assert [block.index for block in seen] == list(range(1, 6101))
    assert [block.data for block in seen if isinstance(block.data, int)] == list(range(6000))
    assert [block.data for block in singles] == [["single", n] for n in range(100)]
    assert {block.hash for block in singles} < {block.hash for block in seen}
    assert list(client.scan(1)) == seen
    assert client.validate().valid


def test_a_node_that_is_away_for_a_while_is_waited_for(node: RealNode, connect: Connect) -> None:
    client = connect(node.url)
    client.append("before")
    blocks = client.follow(1)
    assert next(blocks).data == "before"
    node.stop()
    timer = threading.Timer(1.0, node.start)
    timer.start()
    assert client.append("after").index == 2
    assert next(blocks).data == "after"
    timer.join()


def test_a_node_that_is_not_there_is_unreachable(connect: Connect, ledger_directory: Path) -> None:
    node = RealNode(ledger_directory)
    node.stop()
    client = connect(node.url, patience=0.3)
    began = time.monotonic()
    for ask in (lambda: client.append(1), lambda: len(client), lambda: next(client.follow(0))):
        with pytest.raises(UnreachableError):
            ask()
    assert time.monotonic() - began < 3


def test_a_node_that_is_silent_is_given_up(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = connect(url, timeout=0.2, patience=0.5)
        with pytest.raises(UnreachableError):
            client.head  # noqa: B018
        with pytest.raises(OutcomeUnknownError):
            client.append(1)


def test_following_hears_of_blocks_as_they_come(node: RealNode, connect: Connect) -> None:
    with Client(node.url) as other:
        blocks = connect(node.url).follow(1)
        for n in range(20):
            other.append(n)
            block = next(blocks)
            assert (block.index, block.data) == (n + 1, n)
        with pytest.raises(NoSuchBlockError):
            next(other.follow(1000))


def test_large_blocks_come_back_on_as_many_pages_as_they_need(
    node: RealNode, connect: Connect
) -> None:
    client = connect(node.url)
    values = [str(n) * 3_000_000 for n in range(3)] + ["é" * 4_300_000, "small"]
    assert client.extend(values) == 5
    assert [block.data for block in client.scan(1)] == values
    assert [block.data for block in client.search(contains="2222")] == [values[2]]
    assert [block.data for block in itertools.islice(client.follow(1), 5)] == values


def test_many_pages_of_small_blocks_are_all_read(node: RealNode, connect: Connect) -> None:
    client = connect(node.url)
    client.extend({"n": n} for n in range(5000))
    assert [block.data for block in client.scan(1)] == [{"n": n} for n in range(5000)]
    assert [block.index for block in client.scan(999, 3001)] == list(range(999, 3001))
    assert [block.data["n"] for block in client.search(contains='"n":499')] == [
        499,
        *range(4990, 5000),
    ]


def test_validation_names_what_was_changed(
    node: RealNode, connect: Connect, ledger_directory: Path
) -> None:
    client = connect(node.url)
    client.append_all(["aaaa", "bbbb"])
    assert client[1].data == "aaaa"  # so that it is signed, and will not be looked at again
    node.stop()  # folds the log into the database
    database = ledger_directory / "tail.sqlite"
    database.write_bytes(database.read_bytes().replace(b'"aaaa"', b'"aaab"'))
    node.start()
    report = client.validate()
    assert report.failure is not None
    assert (report.valid, report.failure.index, report.failure.rule) == (False, 1, "data_root")
    with pytest.raises(InvalidChainError, match="block 1 breaks rule 'data_root'"):
        client[1]


def test_a_token_is_needed_where_the_node_asks_for_one(
    connect: Connect, tmp_path: Path, ledger_directory: Path
) -> None:
    (tmp_path / "tokens").write_text("sesame-sesame-sesame-sesame-sesame\n")
    (tmp_path / "tokens").chmod(0o600)
    with RealNode(ledger_directory, "--token-file", str(tmp_path / "tokens")) as node:
        assert connect(node.url, token="sesame-sesame-sesame-sesame-sesame").append(1).index == 1
        for client in (connect(node.url), connect(node.url, token="open")):
            for ask in (lambda c: c.append(1), len, lambda c: next(c.follow(0))):
                with pytest.raises(NotPermittedError, match="401"):
                    ask(client)


def test_what_clients_recorded_is_what_a_ledger_reads(
    node: RealNode, connect: Connect, ledger_directory: Path
) -> None:
    client = connect(node.url)
    client.append({"z": 1, "a": [1e20, 0.1, "\u2028"]})
    client.extend(range(100))
    with Ledger.open(ledger_directory, read_only=True) as ledger:
        assert list(ledger) == list(client.scan())
        assert (client.id, client.genesis) == (ledger.id, ledger.genesis)
        assert client.find(ledger[50].hash) == ledger[50]


def test_the_modules_without_io_do_without_httpx() -> None:
    modules = ["wire", "answers", "retry", "calls", "pages", "batches", "events", "errors"]
    code = f"""
import sys, types
sys.modules["httpx"] = None
package = types.ModuleType("cairn.client")
import cairn, os
package.__path__ = [os.path.join(os.path.dirname(cairn.__file__), "client")]
sys.modules["cairn.client"] = package
for name in {modules}:
    __import__("cairn.client." + name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
