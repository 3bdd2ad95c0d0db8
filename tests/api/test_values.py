"""Everything that is acceptable JSON reads back equal, canonical, and hashed as the format says."""

from __future__ import annotations

import json
import random
from hashlib import sha256
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.core.canonical import parse
from tests.core import reference
from tests.core.strategies import noisy, values

EDGES: list[bytes] = [
    b"null",
    b"true",
    b"false",
    b"0",
    b"-0",
    b"-0.0",
    b"1.0",
    b"1e0",
    b"18446744073709551615",
    b"-9223372036854775808",
    b"9007199254740993",
    b"100000000000000000000",
    b"20000000000000000000",
    b"1e21",
    b"123456789012345678901234567890.0",
    b"5e-324",
    b"1e-400",
    b"1.7976931348623157e308",
    b"0.1e-6",
    b"0." + b"0" * 400 + b"1",
    b'""',
    b'"\\u0000\\u001f\\u007f"',
    b'"\\ud83d\\ude00 \\uD83D\\uDE00"',
    '"😀 \u2028\u2029 \ufeff \uffff"'.encode(),
    b'"</script><!--\\/ \\\\ \\" "',
    b"[]",
    b"{}",
    b'{"":""}',
    b"[[],{},[{}],null]",
    b"[" * 128 + b"]" * 128,
    b'{"a":' * 127 + b"{}" + b"}" * 127,
    '{"\\ufb33": 1, "\\ud83d\\ude00": 2, "é": 3, "e\\u0301": 4, "E": 5, "": 6}'.encode(),
    b' \t\r\n{ "b" : [ 1 , 2.50 ] , "a" : { } }\n ',
    b'{"index": 0, "hash": "0", "data": {"data": 1}, "__proto__": 1, "salt": "00"}',
    b'"' + b"x" * 100_000 + b'"',
    b"[" + b"0," * 50_000 + b"0]",
    b'"' + b"\\u00e9" * 20_000 + b'"',
]


def check(client: httpx.Client, sent: bytes, value: Any) -> None:
    """Post `sent`, which says `value`; check all that can be known of the block."""
    canonical = reference.write(value).encode()
    posted = client.post("/block", content=sent)
    assert posted.status_code == 201, posted.text
    block = posted.json()
    again = client.get(f"/blocks/{block['index']}")
    assert again.content == posted.content
    data = client.get(f"/blocks/{block['index']}/data").content
    assert data == canonical
    assert json.loads(data) == block["data"]
    assert json.loads(data, parse_int=float) == json.loads(sent, parse_int=float)
    header = bytes.fromhex(block["header"])
    assert len(header) == 104
    assert sha256(b"\0" + header).hexdigest() == block["hash"]
    leaf = sha256(b"\0" + bytes.fromhex(block["salt"]) + data).digest()
    assert header[64:96] == leaf == bytes.fromhex(block["data_root"])
    assert int.from_bytes(header[8:16]) == block["index"]
    assert header[16:48].hex() == block["previous_hash"]
    assert int.from_bytes(header[60:64]) == block["size"] == 16 + len(data)


@pytest.mark.parametrize("sent", EDGES, ids=lambda sent: sent[:30].decode())
def test_an_edge(client: httpx.Client, sent: bytes) -> None:
    check(client, sent, parse(sent))


@settings(max_examples=150)
@given(value=values, seed=st.integers(0, 2**32))
def test_any_value_written_in_any_way(client: httpx.Client, value: Any, seed: int) -> None:
    sent = noisy(value, random.Random(seed)).encode()
    check(client, sent, value)


@settings(max_examples=40)
@given(many=st.lists(values, min_size=1, max_size=8), seed=st.integers(0, 2**32))
def test_any_lines(client: httpx.Client, many: list[Any], seed: int) -> None:
    chance = random.Random(seed)
    lines = [noisy(value, chance).encode().replace(b"\n", b" ") for value in many]
    recorded = client.post("/blocks", content=b"\n".join(lines)).json()
    assert recorded["count"] == len(many)
    for index, value in enumerate(many, start=recorded["first"]):
        data = client.get(f"/blocks/{index}/data").content
        assert data == reference.write(value).encode()


def test_all_of_it_reads_back_in_pages_and_validates(client: httpx.Client) -> None:
    client.post("/blocks", content=b"\n".join(edge.replace(b"\n", b" ") for edge in EDGES))
    following: str | None = "/"
    previous = "0" * 64
    for _ in range(10_000):
        if following is None:
            break
        page = client.get(following).json()
        for block in page["chain"]:
            assert block["previous_hash"] == previous
            previous = block["hash"]
        following = page["next"]
    assert client.get("/head").json()["hash"] == previous
    assert client.get("/validate").json()["valid"]
