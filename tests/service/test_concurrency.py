"""Many clients at once: one chain, every answer true, nobody's entries out of order."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cairn import Ledger
from tests.service.harness import Answer, Server, require_closed, require_valid, running, start

CLIENTS = 64
APPENDS = 200


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(start(tmp_path / "ledger")) as server:
        yield server


def test_64_clients_get_dense_unique_indexes_and_a_valid_chain(
    server: Server, tmp_path: Path
) -> None:
    ready = threading.Barrier(CLIENTS)

    def write(me: int) -> list[tuple[int, str]]:
        places = []
        with server.client() as client:
            ready.wait(30)
            for step in range(APPENDS):
                answer = client.post({"client": me, "step": step})
                assert answer.status == 201, answer
                block = answer.value
                assert block["data"] == {"client": me, "step": step}
                assert answer.headers["location"] == f"/blocks/{block['index']}"
                places.append((block["index"], block["hash"]))
        return places

    with ThreadPoolExecutor(CLIENTS) as pool:
        places = list(pool.map(write, range(CLIENTS)))
    server.stop()
    require_closed(tmp_path / "ledger")
    require_valid(tmp_path / "ledger")
    for own in places:
        assert own == sorted(own), "a client's entries are out of order"
    answered = sorted(place for own in places for place in own)
    assert [index for index, _ in answered] == list(range(1, CLIENTS * APPENDS + 1))
    with Ledger.open(tmp_path / "ledger", read_only=True) as ledger:
        blocks = list(ledger)
    assert [(block.index, block.hash) for block in blocks[1:]] == answered
    for me, own in enumerate(places):
        recorded = [blocks[index].data for index, _ in own]
        assert recorded == [{"client": me, "step": step} for step in range(APPENDS)]


def test_batches_stay_together_among_single_appends(server: Server, tmp_path: Path) -> None:
    def write(me: int) -> None:
        with server.client() as client:
            for step in range(10):
                size = (1, 3, 70, 400)[(me + step) % 4]
                values: list[Any] = [[me, step, part] for part in range(size)]
                answer = client.post_all(values) if me % 2 else client.post(values)
                assert answer.status == 201, answer
                if me % 2:
                    assert answer.value["last"] - answer.value["first"] + 1 == size
                    places[me, step] = range(answer.value["first"], answer.value["last"] + 1)

    places: dict[tuple[int, int], range] = {}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(16)))
    server.stop()
    require_valid(tmp_path / "ledger")
    with Ledger.open(tmp_path / "ledger", read_only=True) as ledger:
        for (me, step), place in places.items():
            recorded = [block.data for block in ledger[place.start : place.stop]]
            assert recorded == [[me, step, part] for part in range(len(place))]


@pytest.mark.parametrize("in_bulk", [False, True])
def test_one_key_at_once_from_many_clients_records_once(in_bulk: bool, server: Server) -> None:
    clients, rounds = 16, 10
    ready = threading.Barrier(clients)

    def write(_me: int) -> list[Answer]:
        answers = []
        with server.client() as client:
            for step in range(rounds):
                ready.wait(30)
                value, key = {"step": step}, f"key-{step}"
                answers.append(
                    client.post_all([value] * 3, key) if in_bulk else client.post(value, key)
                )
        return answers

    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(write, range(clients)))
    for step in range(rounds):
        bodies = {own[step].body for own in answers}
        assert len(bodies) == 1, bodies
        assert {own[step].status for own in answers} == {201}
    assert server.get("/?limit=1").value["length"] == 1 + rounds * (3 if in_bulk else 1)


def test_one_key_at_once_for_different_values_records_one_of_them(server: Server) -> None:
    clients, rounds = 16, 10
    ready = threading.Barrier(clients)

    def write(me: int) -> list[Answer]:
        answers = []
        with server.client() as client:
            for step in range(rounds):
                ready.wait(30)
                answers.append(client.post({"step": step, "client": me}, f"key-{step}"))
        return answers

    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(write, range(clients)))
    chain = server.get("/").value["chain"][1:]
    assert len(chain) == rounds
    for step in range(rounds):
        winners = [own[step] for own in answers if own[step].status == 201]
        assert [winner.value for winner in winners] == [chain[step]]
        others = [own[step] for own in answers if own[step].status != 201]
        assert {(other.status, other.problem()) for other in others} == {(422, "key-reused")}


def test_clients_that_leave_early_harm_nobody(server: Server, tmp_path: Path) -> None:
    def leave(me: int) -> None:
        for step in range(15):
            with server.client() as client:
                body = json.dumps({"leaves": me, "step": step}).encode()
                match (me + step) % 3:
                    case 0:
                        client.send("POST", "/block", body)
                    case 1:
                        client.send_raw(b"POST /block HTTP/1.1\r\nHost: localhost\r\nContent-Len")
                    case 2:
                        head = f"Host: localhost\r\nContent-Length: {len(body) + 1}\r\n\r\n"
                        client.send_raw(f"POST /block HTTP/1.1\r\n{head}".encode() + body)

    def stay(me: int) -> list[int]:
        with server.client() as client:
            return [client.post({"stays": me, "step": step}).value["index"] for step in range(50)]

    with ThreadPoolExecutor(24) as pool:
        gone = [pool.submit(leave, me) for me in range(16)]
        places = list(pool.map(stay, range(8)))
        for future in gone:
            future.result()
    assert server.get("/health").status == 200
    server.stop()
    require_valid(tmp_path / "ledger")
    with Ledger.open(tmp_path / "ledger", read_only=True) as ledger:
        for me, own in enumerate(places):
            assert [ledger[index].data["step"] for index in own] == list(range(50))
            assert {ledger[index].data["stays"] for index in own} == {me}
        recorded = [block.data for block in ledger if "leaves" in block.data]
        whole = [data for data in recorded if (data["leaves"] + data["step"]) % 3 == 0]
        assert recorded == whole, "half a request was recorded"
