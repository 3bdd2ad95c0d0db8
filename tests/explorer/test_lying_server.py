"""A server that lies is found out by the page, at the block that it lies about."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, expect

from cairn import Ledger
from cairn.core.block import Block
from cairn.core.canonical import canonical
from cairn.core.entry import Entry
from cairn.core.erasure import Erasure
from cairn.core.header import Header, Kind
from cairn.core.work import MAX_BITS, target_of
from cairn.ledger.exchange import import_chain
from cairn.proof.keyring import Keyring
from cairn.proof.note import Note
from tests.api.servers import Server, start
from tests.builders import mined
from tests.explorer.conftest import Visit, require_accessible
from tests.explorer.liar import Liar, Said, honest, lying
from tests.page.conftest import FAR_HOST, chromium
from tests.page.reference import LOG, Key

ERASED: Final = 3
LAST: Final = 7


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of eight blocks; one of them erased, the last but one the record of it."""
    directory = tmp_path_factory.mktemp("lied about") / "ledger"
    with Ledger.open(directory) as ledger:
        for number in range(1, 6):
            ledger.append({"pay": number, "to": "alice"})
        ledger.erase(ERASED, reason="asked for")
        ledger.append({"pay": LAST, "to": "alice"})
    return directory


@pytest.fixture(scope="module")
def blocks(directory: Path) -> list[Block]:
    with Ledger.open(directory, read_only=True) as ledger:
        return list(ledger)


@pytest.fixture(scope="module")
def node(directory: Path, blocks: list[Block]) -> Iterator[Server]:
    assert len(blocks) == LAST + 1
    with start(directory) as server:
        yield server


@pytest.fixture
def liar(node: Server) -> Iterator[Liar]:
    with lying(node) as liar:
        yield liar


def verdict(page: Page, state: str, *words: str) -> None:
    """The page's block is in this state, and its line says so in these words."""
    block = page.locator("article.block")
    expect(block.locator(".checked")).not_to_contain_text("is checking")
    for word in words:
        expect(block.locator(".checked")).to_contain_text(word)
    expect(block).to_have_attribute("data-state", state)
    expect(block.locator(".checked")).to_have_attribute("data-checked", state)


def beside(page: Page) -> tuple[str, str]:
    """Return what was expected and what was found, as the page shows it first."""
    shown = page.locator("article.block > .comparison dd")
    expected, found = shown.all_inner_texts()
    return expected, found


def test_what_an_honest_server_says_is_checked(visit: Visit, liar: Liar) -> None:
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "good", "hash, header, data, links, signature", "seen here for the first time")
    page.reload()
    verdict(page, "good", "which this browser remembers")
    for place in (0, 1, LAST):
        page.goto(f"{liar.url}/blocks/{place}")
        verdict(page, "good", "hash, header, data, links, signature")
    require_accessible(page)


def test_the_bytes_are_shown_as_they_are_hashed(
    visit: Visit, liar: Liar, blocks: list[Block]
) -> None:
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "good")
    page.get_by_text("Byte by byte").click()
    expect(page.locator("#bytes .hashed")).to_have_text("00" + blocks[4].header.pack().hex())
    rows = page.locator("#bytes tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == [
        "version", "kind", "bits", "index", "previous_hash",
        "timestamp", "count", "size", "data_root", "nonce",
    ]  # fmt: skip
    assert rows[3].split("\t") == ["index", "8", "0000000000000004", "4"]
    expect(page.locator("#bytes")).to_contain_text(blocks[4].hash)
    holding = page.locator("#bytes .steps li")
    assert holding.count() > 30
    assert holding.count() == page.locator("#bytes .steps li[data-holds=true]").count()
    require_accessible(page)


def test_of_an_erased_block_it_says_what_cannot_be_checked(visit: Visit, liar: Liar) -> None:
    page = visit(f"{liar.url}/blocks/{ERASED}")
    verdict(
        page,
        "open",
        "Checked in this browser: hash, header, links, signature",
        "Not checked: its data, which was erased on purpose, as block 6 records",
    )


def say_erased(said: Said, block: Block) -> bytes:
    """Say that an intact block was erased: its salts and data are gone from the page."""
    if not said.is_page:
        return said.body
    left = f"{{&#34;erased&#34;:&#34;{block.header.data_root.hex()}&#34;}}".encode()
    body = re.sub(rb'data-salts="[^"]*"', b'data-salts=""', said.body)
    body = re.sub(
        rb"(<bdi>)\{\s*&#34;pay&#34;:\s*4.*?(</bdi>)", rb"\1" + left + rb"\2", body, flags=re.DOTALL
    )
    return re.sub(rb'<dd data-words="salts">.*?</dd>', b"", body, flags=re.DOTALL)


def test_a_value_that_is_said_to_be_erased_is_found(
    visit: Visit, liar: Liar, blocks: list[Block]
) -> None:
    liar.lie = lambda said: say_erased(said, blocks[4])
    page = visit(f"{liar.url}/blocks/4")
    expect(page.locator("pre.data")).to_contain_text("erased")
    words = "a later block records that the value was erased on purpose"
    verdict(page, "bad", "WRONG in block 4", words)
    page.goto(liar.url)
    assert states(page)["block-4"] == "open"
    expect(page.locator("#block-4 .checked")).to_contain_text("was erased, says the node")


def test_an_answer_that_makes_no_sense_hides_nothing_that_is_wrong(
    visit: Visit, liar: Liar, node: Server, blocks: list[Block]
) -> None:
    with node.client() as client:
        other = client.get("/blocks/4", headers={"Accept": "text/html"}).content

    def lie(said: Said) -> bytes:
        if said.path.startswith("/blocks?"):
            return b'{"blocks":[null]}'
        return say_erased(
            said._replace(body=other) if said.path == "/blocks/5" else said, blocks[4]
        )

    liar.lie = lie
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "open", "only the node says that it was erased", "the script of this page failed")
    page.goto(f"{liar.url}/blocks/5")
    verdict(page, "bad", "WRONG in block 4", "the block is the one that was asked for")
    assert all("TypeError" in text for text in visit.trouble)
    visit.trouble.clear()


def test_where_no_record_can_be_looked_for_a_receipt_tells_that_nothing_was_erased(
    visit: Visit, liar: Liar, blocks: list[Block]
) -> None:
    liar.lie = lambda said: say_erased(said, blocks[4])
    page = visit("about:blank")
    page.route("**/blocks?*", lambda route: route.fulfill(status=503, body=""))
    page.goto(f"{liar.url}/blocks/4")
    verdict(page, "bad", "WRONG in block 4", "there is no receipt of a value that was erased")
    page.route("**/receipt", lambda route: route.fulfill(status=503, body=""))
    page.reload()
    verdict(page, "open", "Not checked: its data: only the node says that it was erased")
    assert all("Failed to load resource" in text for text in visit.trouble)
    visit.trouble.clear()


def test_the_record_of_another_erasure_says_nothing_of_this_block(
    visit: Visit, liar: Liar, blocks: list[Block]
) -> None:
    genuine = blocks[LAST - 1].to_json().encode()

    def lie(said: Said) -> bytes:
        if said.path.startswith("/blocks?"):
            return b'{"blocks":[' + genuine + b'],"next":null}'
        return say_erased(said, blocks[4])

    liar.lie = lie
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "bad", "a later block records that the value was erased on purpose")


def test_a_record_of_an_erasure_that_is_not_in_the_ledger_is_refused(
    visit: Visit, liar: Liar, blocks: list[Block]
) -> None:
    """It is made up well: all its own hashes are right."""
    erasure = Erasure(4, blocks[4].header.data_root, "made up")
    entry = Entry(bytes(16), canonical(erasure.to_value()))
    other = Block.of(
        Kind.RECORD,
        entry,
        index=LAST,
        previous_hash=blocks[LAST - 1].header.hash,
        timestamp=blocks[LAST].header.timestamp,
    )

    def lie(said: Said) -> bytes:
        if said.path.startswith("/blocks?"):
            return b'{"blocks":[' + other.to_json().encode() + b'],"next":null}'
        if said.path == f"/blocks/{LAST}/data":
            return entry.canonical
        return say_erased(said, blocks[4])

    liar.lie = lie
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "bad", "WRONG in block 4", "the record of the erasure is in the ledger")
    assert beside(page) == (other.hash, blocks[LAST].hash)


def claim_erased(said: Said) -> bytes:
    body = re.sub(rb"(pay&#34;:\s*)4", rb"\g<1>9999", said.body)
    return re.sub(rb'data-salts="[^"]*"', b'data-salts=""', body) if said.is_page else said.body


def test_other_data_that_is_said_to_be_erased_is_found(visit: Visit, liar: Liar) -> None:
    liar.lie = claim_erased
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "bad", "WRONG in block 4", "what is left of an erased value")
    page.goto(liar.url)
    assert states(page)["block-4"] == "bad"


@pytest.fixture(scope="module")
def miner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A mined ledger: a batch of which a page shows a part, one of ones, of none, of two."""
    directory = tmp_path_factory.mktemp("mined") / "ledger"
    large = [{"n": number} for number in range(15_000)]
    contents: list[list[Any]] = [large, [1] * 120, [], [{"a": 1}, {"b": 2}], *[[]] * 7]
    chain = mined(*contents, bits=0x2000FFFF)  # some hundred hashes a block
    import_chain(directory, [block.to_json().encode() for block in chain])
    with start(directory) as server:
        yield server


def test_a_mined_block_is_checked_as_far_as_it_is_final(visit: Visit, miner: Server) -> None:
    """One of more entries than the page shows salts of, and the last one."""
    page = visit(f"{miner.url}/blocks/2")
    verdict(page, "good", "hash, header, difficulty, data, links, signature")
    page.get_by_text("Byte by byte").click()
    expect(page.locator("#bytes .hashes")).to_have_count(8)
    expect(page.locator("#bytes .hashes li").last).to_have_text(
        page.locator("[data-fact=data_root]").inner_text()
    )
    page.goto(f"{miner.url}/blocks/11")
    verdict(
        page,
        "open",
        "Checked in this browser: hash, header, difficulty, data, links.",
        "not signed yet",
    )


def test_of_a_batch_that_is_shown_in_part_all_is_checked(visit: Visit, miner: Server) -> None:
    page = visit(f"{miner.url}/blocks/1")
    verdict(page, "good", "data, of which this is the beginning, links, signature")
    expect(page.locator("pre.data .cut")).to_have_text(" … and more")


def test_every_entry_of_a_batch_has_a_receipt(visit: Visit, miner: Server) -> None:
    page = visit(f"{miner.url}/blocks/4")
    page.get_by_label("Which entry").fill("1")
    with page.expect_response("**/receipt?entry=1") as response:
        page.get_by_role("button", name="receipt").click()
    assert response.value.json()["data"] == '{"b":2}'


def test_an_empty_block_is_in_the_ledger_that_was_signed(visit: Visit, miner: Server) -> None:
    page = visit(f"{miner.url}/blocks/3")
    verdict(page, "good", "hash, header, difficulty, data, links, signature")
    assert page.locator("a[download], [action$=receipt]").count() == 0


def test_a_card_is_good_where_its_data_was_checked(visit: Visit, miner: Server) -> None:
    page = visit(miner.url)
    found = states(page)
    assert found.pop("block-1") == "open"
    assert set(found.values()) == {"good"}
    expect(page.locator("#block-1 .checked")).to_contain_text(
        "header agrees with itself, its data was not checked"
    )
    expect(page.locator("#block-1 .cut")).to_have_text(" … and more")


def test_a_block_that_is_mined_with_less_work_than_asked_for_is_found(
    visit: Visit, miner: Server
) -> None:
    """With the work that it says itself: every second hash is good enough."""
    place = 11
    with miner.client() as client:
        genuine = client.get(f"/blocks/{place}").json()
        page_of = client.get(f"/blocks/{place}", headers={"Accept": "text/html"}).text
    header = Header.unpack(bytes.fromhex(genuine["header"]))
    assert header.bits != MAX_BITS
    for nonce in count():
        other = replace(header, bits=MAX_BITS, nonce=nonce)
        if int.from_bytes(other.hash) <= target_of(MAX_BITS):
            break
    body = page_of
    for truth, lie in (
        (genuine["header"], other.pack().hex()),
        (genuine["hash"], other.hash.hex()),
        (f'"bits">{header.bits:08x}', f'"bits">{MAX_BITS:08x}'),
        (f'"nonce">{header.nonce:016x}', f'"nonce">{other.nonce:016x}'),
    ):
        body = body.replace(truth, lie)
    body = re.sub(' data-after="[^"]*"', "", body)  # as of one that is the last
    with lying(miner) as liar:
        liar.lie = lambda said: body.encode() if said.is_page else said.body
        page = visit(f"{liar.url}/blocks/{place}")
        verdict(page, "bad", f"WRONG in block {place}", "bits are those that the ledger’s rule")
        assert beside(page) == (f"{header.bits:08x}", f"{MAX_BITS:08x}")


def test_genesis_of_another_ledger_does_not_say_what_work_is_asked_for(
    visit: Visit, miner: Server
) -> None:
    other = mined([1])[0]
    with lying(miner) as liar:

        def lie(said: Said) -> bytes:
            if said.path == "/blocks/0" and not said.is_page:
                return other.to_json().encode()
            return other.entries[0].canonical if said.path == "/blocks/0/data" else said.body

        liar.lie = lie
        page = visit(f"{liar.url}/blocks/11")
        verdict(page, "bad", "WRONG in block 11", "genesis: it is that of the ledger")
        page.route("**/blocks/0", lambda route: route.abort())
        page.reload()
        verdict(page, "open", "hash, header, data, links. Not checked: difficulty", "not signed")
    assert all("Failed to load resource" in text for text in visit.trouble)
    visit.trouble.clear()


# A block


@pytest.mark.parametrize("asked", ["index", "hash"])
def test_another_block_than_was_asked_for_is_found(
    visit: Visit, liar: Liar, node: Server, blocks: list[Block], asked: str
) -> None:
    """An honest page, of the last block."""
    with node.client() as client:
        other = client.get(f"/blocks/{LAST}", headers={"Accept": "text/html"}).content
    path = "/blocks/5" if asked == "index" else f"/blocks/{blocks[5].hash}"
    page = visit(f"{liar.url}{path}")
    verdict(page, "good")
    liar.lie = lambda said: other if said.is_page and said.path == path else said.body
    page.reload()
    verdict(page, "bad", f"WRONG in block {LAST}", "the block is the one that was asked for")
    right = ("5", str(LAST)) if asked == "index" else (blocks[5].hash, blocks[LAST].hash)
    assert beside(page) == right


def test_an_altered_fact_is_shown_with_what_is_right(
    visit: Visit, liar: Liar, blocks: list[Block]
) -> None:
    page = visit(f"{liar.url}/blocks/4")
    facts = blocks[4].facts()
    for name in set(facts) - {"salt", "header"}:
        right = str(facts[name])
        other = right.replace(right[-1], "1" if right[-1] != "1" else "2")
        liar.replace((f'data-fact="{name}">{right}<', f'data-fact="{name}">{other}<'))
        page.reload()
        verdict(page, "bad", "WRONG in block 4", f"{name} is")
        assert beside(page) == (right, other)


def test_altered_data_on_the_page_is_shown_with_what_is_right(visit: Visit, liar: Liar) -> None:
    liar.replace(("alice", "mallory"))
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "bad", "WRONG in block 4", "the data shown is the data")
    expected, found = beside(page)
    assert ("alice" in expected, "mallory" in found) == (True, True)


def test_altered_data_everywhere_does_not_have_the_data_root(
    visit: Visit, liar: Liar, blocks: list[Block]
) -> None:
    liar.lie = lambda said: said.body.replace(b"alice", b"mally")
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "bad", "WRONG in block 4", "data_root is the tree hash")
    assert beside(page)[0] == blocks[4].header.data_root.hex()


def forged(block: Block, **fields: Any) -> Block:
    """Return `block` with another payee, and all its own hashes right."""
    [entry] = block.entries
    other = Entry(entry.salt, entry.canonical.replace(b"alice", b"mally"))
    header = replace(block.header, data_root=other.id, **fields)
    return Block(header, header.hash, (other,))


def seal_anew(said: Said, block: Block, other: Block) -> bytes:
    """Say `other` for `block`, in HTML and JSON alike."""
    pairs = [
        (block.header.pack().hex(), other.header.pack().hex()),
        (block.header.data_root.hex(), other.header.data_root.hex()),
        (block.data_json().decode(), other.data_json().decode()),
        ("alice", "mally"),
        (block.hash, other.hash),
    ]
    body = said.body
    for truth, lie in pairs if f"/blocks/{block.index}" in said.path else pairs[:3]:
        body = body.replace(truth.encode(), lie.encode())
    return body


def test_a_block_that_is_sealed_anew_is_not_the_one_that_the_next_links_to(
    visit: Visit, liar: Liar, blocks: list[Block]
) -> None:
    other = forged(blocks[4])
    after = blocks[5].header.pack().hex().encode()
    liar.lie = lambda said: re.sub(
        rb'(data-after=")\w+', rb"\g<1>" + after, seal_anew(said, blocks[4], other)
    )
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "bad", "WRONG in block 4", "block 5 has this hash as its previous_hash")
    assert beside(page) == (other.hash, blocks[4].hash)
    liar.lie = lambda said: seal_anew(said, blocks[4], other)  # the next one, too
    page.reload()
    verdict(page, "bad", "WRONG in block 4", "The block is in the ledger")


def test_a_last_block_that_is_sealed_anew_has_no_receipt(
    visit: Visit, liar: Liar, blocks: list[Block]
) -> None:
    other = forged(blocks[LAST])

    def lie(said: Said) -> bytes:
        return said.body if "receipt" in said.path else seal_anew(said, blocks[LAST], other)

    liar.lie = lie
    page = visit(f"{liar.url}/blocks/{LAST}")
    verdict(page, "bad", f"WRONG in block {LAST}", "the receipt is of this block")
    assert beside(page) == (other.header.pack().hex(), blocks[LAST].header.pack().hex())


@pytest.mark.parametrize("claims", ["not final", "mined"])
def test_a_last_block_that_is_said_not_to_be_final_is_found(
    visit: Visit, liar: Liar, blocks: list[Block], claims: str
) -> None:
    """So that its signature would not be asked for."""
    other = forged(blocks[LAST])
    if claims == "mined":
        other = mined_by_hand(other)

    def lie(said: Said) -> bytes:
        body = seal_anew(said, blocks[LAST], other)
        body = body.replace(b"<h1>Block 7", b'<h1>Block 7 <span class="tag">not final yet</span>')
        for name, right in blocks[LAST].facts().items():
            fact = f'data-fact="{name}">'
            body = body.replace(f"{fact}{right}".encode(), f"{fact}{other.facts()[name]}".encode())
        if claims == "mined":
            body = body.replace(b"one value", b"mined batch")
            body = body.replace(b'bdi>{"pay', b'bdi>[{"pay').replace(b"</bdi>", b"]</bdi>")
        return re.sub(rb'href="/blocks/7/receipt"|(id="block-7")', rb'\1 data-missing="2"', body)

    liar.lie = lie
    page = visit(f"{liar.url}/blocks/{LAST}")
    verdict(page, "bad", f"WRONG in block {LAST}")
    words = "final at once" if claims == "not final" else "the block before is mined, too"
    expect(page.locator(".checked")).to_contain_text(words)


def mined_by_hand(block: Block) -> Block:
    """Return `block` as one that took work: every second hash is good enough."""
    for nonce in count():
        header = replace(block.header, kind=Kind.BATCH, bits=MAX_BITS, nonce=nonce)
        if int.from_bytes(header.hash) <= target_of(MAX_BITS):
            return Block(header, header.hash, block.entries)
    raise AssertionError


def test_a_block_in_the_place_of_another_is_found(visit: Visit, liar: Liar, node: Server) -> None:
    with node.client() as client:
        other = client.get("/blocks/5", headers={"Accept": "text/html"}).content
    liar.lie = lambda said: (
        other.replace(b'id="block-5"', b'id="block-4"')
        if said.is_page and said.path == "/blocks/4"
        else said.body
    )
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "bad", "WRONG in block 4", "index is the place of the block")
    assert beside(page) == ("4", "5")


def test_data_that_is_cut_says_so(visit: Visit, liar: Liar) -> None:
    """A part of a number is not to pass for the number."""
    cut = re.compile(rb"(data-whole=.)true(.*?)&#34;alice&#34;.*?</bdi>", re.DOTALL)
    said_whole = rb'\1false\2&#34;al</bdi><span class="cut">ice&#34; }</span>'
    liar.lie = lambda said: cut.sub(said_whole, said.body) if said.is_page else said.body
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "good", "data, of which this is the beginning")
    assert page.locator("pre.data").inner_text().endswith('"al … and more')
    page.goto(liar.url)
    assert states(page)["block-4"] == "open"
    assert page.locator("#block-4 pre").inner_text().endswith('"al … and more')


@pytest.mark.parametrize(
    ("words", "other"),
    [
        ("<h1>Block 4", "<h1>Block 5"),
        ("<h1>Block 4", '<h1>Block 4 <span class="tag">genesis</span>'),
        ("one value", "record of the ledger"),
        (r'(data-words="salts"><code>)\w{32}', rf"\g<1>{'0' * 32}"),
        (r'data-words="salts"', ""),
        (r'data-fact="bits"', ""),
    ],
)
def test_words_that_are_altered_are_found(visit: Visit, liar: Liar, words: str, other: str) -> None:
    liar.lie = lambda said: (
        re.sub(words.encode(), other.encode(), said.body) if said.is_page else said.body
    )
    verdict(visit(f"{liar.url}/blocks/4"), "bad", "WRONG in block 4")


# A proof


def receipt_of(node: Server, index: int) -> dict[str, Any]:
    with node.client() as client:
        found: dict[str, Any] = client.get(f"/blocks/{index}/receipt").json()
    return found


def give(liar: Liar, receipt: dict[str, Any] | bytes) -> None:
    """Give this receipt for whatever block is asked for."""
    body = receipt if isinstance(receipt, bytes) else json.dumps(receipt).encode()
    liar.lie = lambda said: body if said.path.endswith("/receipt") else said.body


def test_an_altered_receipt_is_refused(visit: Visit, liar: Liar, node: Server) -> None:
    page = visit("about:blank")
    for altered, words in (
        ({"block_proof": ["0" * 64] * 3}, "The block is in the ledger"),
        ({"block_proof": []}, "The block is in the ledger"),
        ({"data": '"other"'}, "The entry is in the block"),
        ({"salt": "0" * 32}, "The entry is in the block"),
        ({"keys": []}, "a key of the ledger has signed"),
        ({"cairn": "receipt/2"}, "its receipt"),
    ):
        give(liar, receipt_of(node, 4) | altered)
        page.goto(f"{liar.url}/blocks/4")
        verdict(page, "bad", "WRONG in block 4", words)
        assert page.evaluate("localStorage.length") == 0


def test_a_receipt_of_another_block_is_refused(visit: Visit, liar: Liar, node: Server) -> None:
    give(liar, receipt_of(node, 5))
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "bad", "WRONG in block 4", "the receipt is of this block")


def test_without_a_receipt_it_is_open_who_signed(visit: Visit, liar: Liar) -> None:
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "good")
    page.route("**/receipt", lambda route: route.abort())
    page.reload()
    verdict(page, "open", "Checked in this browser: hash, header, data, links.", "did not answer")
    expect(page.locator(".checked")).to_contain_text("Not checked: its receipt")
    assert visit.trouble == ["Failed to load resource: net::ERR_FAILED"]
    visit.trouble.clear()


def test_a_receipt_that_is_refused_is_missing(visit: Visit, liar: Liar, node: Server) -> None:
    """Every block of a ledger that is not mined has one."""
    page = visit("about:blank")
    for status, state in ((404, "bad"), (409, "bad"), (500, "open"), (503, "open")):
        page.unroute_all()
        page.route(
            "**/receipt", lambda route, _, status=status: route.fulfill(status=status, body="")
        )
        page.goto(f"{liar.url}/blocks/4")
        verdict(page, state, "its receipt")
    assert all("Failed to load resource" in text for text in visit.trouble)
    visit.trouble.clear()


@pytest.mark.parametrize("status", [404, 503])
def test_a_block_that_is_remembered_is_compared_without_the_node(
    visit: Visit, liar: Liar, blocks: list[Block], status: int
) -> None:
    """One who seals the last block anew gives no receipt of it, nor a checkpoint."""
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "good", "for the first time")
    other = forged(blocks[LAST])
    liar.lie = lambda said: seal_anew(said, blocks[LAST], other)
    for what in ("**/receipt", "**/checkpoint*"):
        page.route(what, lambda route: route.fulfill(status=status, body=""))
    page.goto(f"{liar.url}/blocks/{LAST}")
    words = f"block {LAST} is the one that was shown before"
    verdict(page, "bad", f"WRONG in block {LAST}", words)
    assert beside(page) == (blocks[LAST].hash, other.hash)
    assert all("Failed to load resource" in text for text in visit.trouble)
    visit.trouble.clear()


def test_the_header_of_a_neighbour_is_compared_with_what_is_remembered(
    visit: Visit, liar: Liar, blocks: list[Block]
) -> None:
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "good", "for the first time")
    truth, other = blocks[LAST].header.pack().hex(), forged(blocks[LAST]).header.pack().hex()
    liar.replace((f'data-after="{truth}"', f'data-after="{other}"'))
    page.goto(f"{liar.url}/blocks/{LAST - 1}")
    verdict(page, "bad", f"block {LAST} is the one that was shown before")


# A checkpoint


def signed_by(receipt: dict[str, Any], key: Key | None = None, **changed: Any) -> dict[str, Any]:
    """Return a receipt whose checkpoint another key has signed."""
    text = Note.parse(receipt["checkpoint"]).text
    key = key or Key(text.split("\n")[0], LOG)
    return receipt | {"checkpoint": f"{text}\n{key.line(text)}", "keys": [key.vkey], **changed}


def test_a_checkpoint_by_another_key_is_refused(visit: Visit, liar: Liar, node: Server) -> None:
    page = visit(f"{liar.url}/blocks/5")
    verdict(page, "good", "for the first time")
    known = json.loads(page.evaluate("Object.values(localStorage)[0]"))["key"]
    other = signed_by(receipt_of(node, 4))
    give(liar, other)
    page.goto(f"{liar.url}/blocks/4")
    verdict(page, "bad", "WRONG in block 4", "signed by the key that this browser remembers")
    assert beside(page) == (known, other["keys"][0])
    give(liar, other | {"keys": []})
    page.reload()
    verdict(page, "bad", "WRONG in block 4", "Signed by whom you trust")
    assert json.loads(page.evaluate("Object.values(localStorage)[0]"))["key"] == known


def test_a_checkpoint_with_another_root_is_refused(visit: Visit, liar: Liar, node: Server) -> None:
    receipt = receipt_of(node, 4)
    lines = receipt["checkpoint"].split("\n")
    lines[2] = f"{'A' if lines[2][0] != 'A' else 'B'}{lines[2][1:]}"
    give(liar, receipt | {"checkpoint": "\n".join(lines)})
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "bad", "WRONG in block 4", "The block is in the ledger")


def test_a_ledger_that_became_shorter_is_refused(visit: Visit, tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend(["one", "two"])
    with start(tmp_path / "ledger") as node, lying(node) as liar:
        older = receipt_of(node, 1)
        with node.client() as client:
            client.post("/block", json="three")
        page = visit(f"{liar.url}/blocks/3")
        verdict(page, "good", "for the first time")
        give(liar, older)
        page.goto(f"{liar.url}/blocks/1")
        verdict(page, "bad", "WRONG in block 1", "the ledger has not become shorter")
        assert beside(page) == ("at least 4 blocks", "3 blocks")


def test_another_history_by_the_same_key_is_refused(
    visit: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    with Ledger.open(tmp_path / "ledger", keyring=Keyring(home)) as ledger:
        ledger.extend(["one", "two"])
        ledger.published()
    shutil.copytree(home, tmp_path / "other home")
    shutil.copytree(tmp_path / "ledger", tmp_path / "other")
    with ExitStack() as stack:
        nodes = []
        for name, folder, value in (
            ("ledger", home, "three"),
            ("other", tmp_path / "other home", "3"),
        ):
            monkeypatch.setenv("CAIRN_HOME", str(folder))
            nodes.append(stack.enter_context(start(tmp_path / name)))
            with nodes[-1].client() as client:
                client.post("/block", json=value)
                client.post("/block", json="four")
        liar = stack.enter_context(lying(nodes[0]))
        page = visit(f"{liar.url}/blocks/4")
        verdict(page, "good", "for the first time")
        [before] = page.evaluate("Object.values(localStorage)")
        liar.node = nodes[1]
        for place in (1, 3, 4):  # the first of them is the same in both
            page.goto(f"{liar.url}/blocks/{place}")
            verdict(
                page, "bad", f"WRONG in block {place}", "block 4 is the one that was shown before"
            )
        assert page.evaluate("Object.values(localStorage)") == [before]
        liar.node = nodes[0]
        page.goto(f"{liar.url}/blocks/4")
        verdict(page, "good", "which this browser remembers")


def test_a_key_change_is_followed_by_the_record_of_it(visit: Visit, tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.append("one")
    with start(tmp_path / "ledger") as node, lying(node) as liar:
        page = visit(f"{liar.url}/blocks/1")
        verdict(page, "good", "for the first time")
        [first] = page.evaluate("Object.values(localStorage)")
        node.stop()
        with Ledger.open(tmp_path / "ledger") as ledger:
            ledger.rotate_key()
            ledger.append("two")
        with start(tmp_path / "ledger") as liar.node:
            page.reload()
            verdict(page, "good", "which this browser remembers")
            [second] = page.evaluate("Object.values(localStorage)")
            assert json.loads(first)["key"] != json.loads(second)["key"]
            page.reload()
            verdict(page, "good", "which this browser remembers")


def test_keys_of_the_lab_are_not_remembered(visit: Visit, tmp_path: Path) -> None:
    """Every lab has another, for the very ledger whose key is known here."""
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend(["one", "two"])
    page, port = visit("about:blank"), 0
    remembered: list[str] = []
    for options in ([], ["--lab"], []):
        with start(tmp_path / "ledger", *options, port=port) as server:
            port = server.port
            page.goto(f"{server.url}/blocks/1")
            if options:
                verdict(page, "good", "signature by the lab’s own key, which is not remembered")
            else:
                verdict(page, "good", "which this browser remembers" if remembered else "first")
            remembered = remembered or page.evaluate("Object.values(localStorage)")
            assert page.evaluate("Object.values(localStorage)") == remembered


def test_another_ledger_at_this_machine_is_said_to_be_another(
    visit: Visit, liar: Liar, node: Server, tmp_path: Path
) -> None:
    page = visit(f"{liar.url}/blocks/0")
    verdict(page, "good", "for the first time.")
    with start(tmp_path / "ledger") as liar.node:
        page.reload()
        verdict(page, "good", "another ledger than before at this address")
        page.reload()
        verdict(page, "good", "which this browser remembers.")


def test_a_ledger_that_is_not_the_one_that_the_page_names_is_found(
    visit: Visit, liar: Liar, blocks: list[Block]
) -> None:
    liar.replace((f'data-ledger="{blocks[0].hash}"', f'data-ledger="{"0" * 64}"'))
    verdict(visit(f"{liar.url}/blocks/4"), "bad", "the ledger is the one that the page names")


# Where it cannot check


def elsewhere(browser: Browser, *options: str) -> Browser:
    """Return a browser for which a far host is this machine."""
    rules = f"--host-resolver-rules=MAP {FAR_HOST} 127.0.0.1"
    return browser.browser_type.launch(
        executable_path=chromium(), args=["--no-sandbox", rules, *options]
    )


def test_over_plain_http_from_elsewhere_it_says_why_it_cannot_check(
    browser: Browser, liar: Liar
) -> None:
    far = elsewhere(browser)
    page = far.new_page()
    page.goto(f"http://{FAR_HOST}:{liar.server_port}/blocks/4")
    verdict(page, "open", "Cannot be checked here", "plain http", "WebCrypto", "https")
    page.goto(f"http://{FAR_HOST}:{liar.server_port}/")
    expect(page.locator("main > [role=status]")).to_contain_text("plain http")
    assert page.locator("[data-checked=good]").count() == 0
    far.close()


@pytest.fixture
def where_another_was(
    browser: Browser, liar: Liar, node: Server, tmp_path: Path
) -> Iterator[tuple[Page, str]]:
    """A page of a browser that has met another ledger there, and the origin: now it is this one."""
    origin = f"http://{FAR_HOST}:{liar.server_port}"
    far = elsewhere(browser, f"--unsafely-treat-insecure-origin-as-secure={origin}")
    with start(tmp_path / "ledger") as liar.node:
        page = far.new_page()
        page.goto(f"{origin}/blocks/0")
        verdict(page, "good", "for the first time")
        liar.node = node
        yield page, origin
    far.close()


def test_another_ledger_at_the_same_address_is_refused(where_another_was: tuple[Page, str]) -> None:
    page, origin = where_another_was
    page.goto(f"{origin}/blocks/0")
    verdict(page, "bad", "the ledger is the one that was here before")


def test_a_ledger_that_is_not_remembered_is_refused_without_a_receipt(
    where_another_was: tuple[Page, str],
) -> None:
    """Also on its first page, and where nothing is signed."""
    page, origin = where_another_was
    page.route("**/receipt", lambda route: route.fulfill(status=503, body=""))
    page.goto(f"{origin}/blocks/4")
    verdict(page, "bad", "the ledger is the one that was here before")
    page.goto(origin)
    assert set(states(page).values()) == {"bad"}


# The first page


def states(page: Page) -> dict[str, str | None]:
    expect(page.locator("article.card:not([data-state])")).to_have_count(0)
    return {
        card.get_attribute("id") or "": card.get_attribute("data-state")
        for card in page.locator("article.card").all()
    }


def test_every_card_is_checked(visit: Visit, liar: Liar) -> None:
    page = visit(liar.url)
    found = states(page)
    assert found.pop(f"block-{ERASED}") == "open"
    expect(page.locator(f"#block-{ERASED} .checked")).to_contain_text(
        "header agrees with itself, its data was erased, says the node"
    )
    assert found == {f"block-{place}": "good" for place in range(LAST + 1) if place != ERASED}
    assert page.locator(".checked").first.inner_text().startswith("✓ agrees with itself")


def test_a_card_with_other_data_is_marked(visit: Visit, liar: Liar) -> None:
    liar.lie = lambda said: re.sub(rb"(pay&#34;:\s*)5", rb"\g<1>6", said.body)
    page = visit(liar.url)
    found = states(page)
    assert (found.pop("block-5"), found.pop(f"block-{ERASED}")) == ("bad", "open")
    assert set(found.values()) == {"good"}
    line = page.locator("#block-5 .checked")
    expect(line).to_contain_text("WRONG. This does not hold: data_root")
    expect(line).to_have_attribute("role", "alert")
    assert page.locator("#block-5 .comparison dd").count() == 2


def test_a_card_whose_data_is_said_to_be_cut_is_not_good(visit: Visit, liar: Liar) -> None:
    def lie(said: Said) -> bytes:
        body = re.sub(rb"(pay&#34;:\s*)5", rb"\g<1>6", said.body)
        return body.replace(b'data-whole="true"', b'data-whole="false"')

    liar.lie = lie
    page = visit(liar.url)
    assert set(states(page).values()) == {"open"}
    expect(page.locator("#block-5 .checked")).to_contain_text(
        "header agrees with itself, its data was not checked"
    )


def test_a_head_that_is_sealed_anew_is_not_the_one_that_is_remembered(
    visit: Visit, liar: Liar, blocks: list[Block]
) -> None:
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "good", "for the first time")
    other = forged(blocks[LAST])
    payee = rb"(pay&#34;:\s*7,\s*&#34;to&#34;:\s*&#34;)alice"

    def lie(said: Said) -> bytes:
        body = re.sub(payee, rb"\g<1>mally", said.body)
        body = body.replace(
            blocks[LAST].header.pack().hex().encode(), other.header.pack().hex().encode()
        )
        return body.replace(blocks[LAST].hash.encode(), other.hash.encode())

    liar.lie = lie
    page.goto(liar.url)
    found = states(page)
    assert {place for place, state in found.items() if state == "bad"} == {f"block-{LAST}"}
    line = page.locator(f"#block-{LAST} .checked")
    expect(line).to_contain_text(f"block {LAST} is the one that was shown before")
    assert (
        visit(liar.url).locator(f"#block-{LAST} .comparison").count() == 0
    )  # elsewhere nobody knows


def test_a_chain_that_became_shorter_is_wrong_at_its_head(visit: Visit, liar: Liar) -> None:
    page = visit(f"{liar.url}/blocks/4")
    verdict(page, "good", "for the first time")
    liar.lie = lambda said: re.sub(rb'<li id="at-7".*?</li>', b"", said.body, flags=re.DOTALL)
    page.wait_for_timeout(1100)  # until what was learned is older than any page may be
    page.goto(liar.url)
    found = states(page)
    assert [place for place, state in found.items() if state == "bad"] == ["block-6"]
    line = page.locator("#block-6 .checked")
    expect(line).to_contain_text("the ledger has not become shorter")
    shown = page.locator("#block-6 .comparison dd").all_inner_texts()
    assert shown == ["at least 8 blocks", "7 blocks"]
    page.goto(f"{liar.url}/?start=2&limit=3")  # which does not say that it ends there
    assert "bad" not in states(page).values()


def test_a_chain_that_was_longer_a_moment_ago_elsewhere_is_not_wrong(
    visit: Visit, tmp_path: Path
) -> None:
    """A page that was asked for before a newer block was learned of, by another."""
    with start(tmp_path / "ledger") as node, node.client() as client:
        client.post("/block", json="one")
        page = visit(node.url)
        verdict_page = page.context.new_page()
        verdict_page.goto(f"{node.url}/blocks/1")
        verdict(verdict_page, "good")
        page.evaluate(
            """() => {
              const [[name, text]] = Object.entries(localStorage);
              localStorage.setItem(name, JSON.stringify({ ...JSON.parse(text), size: 9 }));
            }"""
        )
        page.reload()
        assert set(states(page).values()) == {"good"}


def test_a_card_that_is_left_out_is_missed(visit: Visit, liar: Liar) -> None:
    liar.lie = lambda said: (
        re.sub(rb'<li id="at-5".*?</li>', b"", said.body, flags=re.DOTALL)
        if said.is_page
        else said.body
    )
    page = visit(liar.url)
    found = states(page)
    assert [place for place, state in found.items() if state == "bad"] == ["block-6"]
    expect(page.locator("#block-6 .checked")).to_contain_text("block 5 is the next that is shown")
    assert page.locator("#block-4 .checked").text_content() == (
        "✓ agrees with itself as this browser finds: hash, header, data, link to block 3"
    )


@pytest.mark.parametrize(
    ("pattern", "other", "place"),
    [
        (rb'(id="block-5".*?) data-header="\w+"', rb"\1", "block-5"),
        (rb'id="block-5"', rb'id="block-5x"', "block-5x"),
    ],
)
def test_a_card_that_is_no_block_is_marked(
    visit: Visit, liar: Liar, pattern: bytes, other: bytes, place: str
) -> None:
    liar.lie = lambda said: re.sub(pattern, other, said.body)
    assert states(visit(liar.url))[place] == "bad"


def test_a_tag_that_is_not_true_is_found(visit: Visit, liar: Liar) -> None:
    liar.replace(("</time></p>", '</time> <span class="tag">mined batch</span></p>'))
    page = visit(liar.url)
    assert states(page)["block-5"] == "bad"
    expect(page.locator("#block-5 .checked")).to_contain_text("when: the words are those")


def test_links_are_said_to_be_checked_where_they_were(visit: Visit, liar: Liar) -> None:
    page = visit(f"{liar.url}/?start=4&limit=2")
    states(page)
    assert [line.text_content() for line in page.locator(".checked").all()] == [
        "✓ agrees with itself as this browser finds: hash, header, data, link to block 4",
        "✓ agrees with itself as this browser finds: hash, header, data, link to block 5",
    ]
    page.goto(f"{liar.url}/?start=4&limit=1")
    states(page)
    assert (
        page.locator(".checked").text_content()
        == "✓ agrees with itself as this browser finds: hash, header, data"
    )


def test_blocks_that_were_found_are_checked(visit: Visit, liar: Liar) -> None:
    url = f"{liar.url}/blocks?contains=alice"
    page = visit(url)
    assert set(states(page).values()) == {"good"}
    liar.lie = lambda said: re.sub(rb"(pay&#34;:\s*)5", rb"\g<1>6", said.body)
    page.goto(url)
    found = states(page)
    assert found.pop("block-5") == "bad"
    assert set(found.values()) == {"good"}


def test_an_older_check_does_not_undo_a_newer_one(visit: Visit, liar: Liar) -> None:
    """The first of them, of a block beside a wrong one, is slow; then that is replaced."""
    page = visit(liar.url, init=SLOW_HASHES)
    states(page)
    page.evaluate(
        """async () => {
          const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
          const right = document.getElementById("block-5"), wrong = right.cloneNode(true);
          wrong.dataset.header = document.getElementById("block-6").dataset.header;
          const shown = () => document.dispatchEvent(new CustomEvent("cairn:shown"));
          right.replaceWith(wrong);
          slow = 100;
          shown();
          await pause(150); // it has seen the wrong one
          slow = 0;
          wrong.replaceWith(right);
          shown();
        }"""
    )
    page.wait_for_timeout(1500)
    found = states(page)
    assert {found["block-4"], found["block-5"], found["block-6"]} == {"good"}


SLOW_HASHES: Final = """
    window.slow = 0;
    if (crypto.subtle) {
      const digest = crypto.subtle.digest.bind(crypto.subtle);
      crypto.subtle.digest = async (...all) => {
        if (slow) await new Promise((resolve) => setTimeout(resolve, slow));
        return digest(...all);
      };
    }
"""


def test_a_card_with_another_hash_is_marked(visit: Visit, liar: Liar, blocks: list[Block]) -> None:
    liar.replace((f'hash">{blocks[2].hash}', f'hash">{blocks[1].hash}'))
    page = visit(liar.url)
    assert states(page)["block-2"] == "bad"
    expect(page.locator("#block-2 .checked")).to_contain_text(
        "WRONG. This does not hold: hash is SHA-256"
    )


def test_a_card_that_is_sealed_anew_does_not_fit_the_one_above(
    visit: Visit, liar: Liar, blocks: list[Block]
) -> None:
    other, truth = forged(blocks[4]), blocks[4]
    payee = rb"(pay&#34;:\s*4,\s*&#34;to&#34;:\s*&#34;)alice"

    def lie(said: Said) -> bytes:
        body = re.sub(payee, rb"\g<1>mally", said.body)
        for before, digits, claim in (
            ("", truth.header.pack().hex(), other.header.pack().hex()),
            ('data-hash="', truth.hash, other.hash),
            ('data-fact="hash">', truth.hash, other.hash),
        ):
            body = body.replace((before + digits).encode(), (before + claim).encode())
        return body

    liar.lie = lie
    page = visit(liar.url)
    found = states(page)
    assert {place for place, state in found.items() if state == "bad"} == {"block-4", "block-5"}
    expect(page.locator("#block-4 .checked")).to_contain_text(
        "WRONG. This does not hold: block 5 has this hash"
    )


def test_a_lie_about_a_block_that_arrives_is_marked(visit: Visit, tmp_path: Path) -> None:
    with start(tmp_path / "ledger") as node, lying(node) as liar, node.client() as client:
        client.post("/block", json="one")
        page = visit(liar.url)
        assert set(states(page).values()) == {"good"}
        liar.lie = lambda said: said.body.replace(b"is so", b"is no") if said.is_page else said.body
        client.post("/block", json="what is so")
        expect(page.locator("#block-2[data-state=bad]")).to_be_visible()
        liar.lie = honest
        client.post("/block", json="three")
        expect(page.locator("#block-3[data-state=good]")).to_be_visible()
        assert states(page) == {
            "block-0": "good", "block-1": "good", "block-2": "bad", "block-3": "good",
        }  # fmt: skip
