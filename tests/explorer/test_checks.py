"""What the browser decides blocks by, held to what the ledger decides them by."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route

from cairn import Ledger
from cairn.api.verify import RECEIPT_MODULE
from cairn.core.block import Block, rfc3339
from cairn.core.canonical import canonical, parse
from cairn.core.entry import Entry
from cairn.core.erasure import Erasure
from cairn.core.errors import EntryError, FormatError
from cairn.core.genesis import Work
from cairn.core.work import MAX_BITS, Asert, bits_of, target_of
from cairn.explorer.render import STATIC
from cairn.explorer.shown import readable
from cairn.proof.keyring import Keyring
from cairn.proof.note import Note
from cairn.proof.tiles import Tile, tiles_of
from tests.builders import chain as by_builder
from tests.builders import mined
from tests.core.chains import chain
from tests.page.reference import tree

KINDS = chain("gv0123rv")
"""A block of every kind but mined and erased ones: genesis, values, batches, a record."""
MINED = mined(["a", {"b": 2}], [], ["c"])
"""Whose genesis has a target, too."""

IMPORTS = """
const c = await import("/explorer/check.js"), r = await import("/explorer/receipt.js");
const w = await import("/explorer/work.js");
const unhex = (digits) => digits ? r.unhex(digits) : new Uint8Array();
"""
CHECK = (
    """async (blocks) => {"""
    + IMPORTS
    + """
  const all = [];
  for (const block of blocks) all.push(await check(block));
  return all;

  async function check({ data, before, after, ...shown }) {
    shown.place = BigInt(shown.place);
    const found = await c.checkHeader(shown);
    const steps = [...found.steps];
    if (!found.header) return name(steps);
    steps.push(...await c.checkLinks(found, before, after));
    steps.push(...c.checkWords(found.header, shown));
    if (c.isErased(found.header, shown.salts))
      return [...name([...steps, c.checkErased(found.header, shown)]), "erased"];
    const texts = c.entriesOf(found.header, unhex(data));
    steps.push(...(await c.checkEntries(found.header, shown.salts, texts)).steps);
    steps.push(c.checkShown(found.header, texts, shown));
    steps.push(c.checkSalts(shown.salts, shown.saltsText));
    return name(steps);
  }
  function name(steps) {
    const wrong = steps.filter(({ holds }) => !holds);
    return wrong.map(({ name, expected, found }) => [name, expected, found]);
  }
}"""
)


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """A page that can import the modules of the explorer, without any server."""

    def answer(route: Route) -> None:
        name = urlsplit(route.request.url).path.removeprefix("/explorer/")
        body = RECEIPT_MODULE.encode() if name == "receipt.js" else STATIC.get(name, (b"", ""))[0]
        kind = "text/javascript" if name.endswith(".js") else "text/html"
        route.fulfill(body=body or b"<!doctype html>", headers={"Content-Type": kind})

    context = browser.new_context()
    context.route("**/*", answer)
    page = context.new_page()
    page.goto("http://127.0.0.1/")
    yield page
    context.close()


def shown(block: Block, before: Block | None = None, after: Block | None = None) -> dict[str, Any]:
    """Return what a page shows of a block, its exact bytes and the headers beside it."""
    facts = block.facts()
    salt = facts.pop("salt")
    text, _ = readable(block.data_json().decode(), 10**6)
    lines = b"".join(entry.canonical + b"\n" for entry in block.entries)
    salts = [] if salt is None else salt if isinstance(salt, list) else [salt]
    return {
        "place": block.index,
        "header": facts["header"],
        "salts": salts,
        "saltsText": " ".join(salts),
        "words": [["title", f"Block {block.index}"], ["kind", said(block)]],
        "waits": False,
        "facts": [[name, str(value)] for name, value in facts.items()],
        "text": text,
        "whole": True,
        "data": (lines if block.is_batch else block.entries[0].canonical).hex(),
        "before": before and before.header.pack().hex(),
        "after": after and after.header.pack().hex(),
    }


def said(block: Block) -> str:
    """Return what a page calls the kind of a block."""
    batch = "mined batch" if block.header.bits else "batch"
    return {"value": "one value", "batch": batch, "record": "record of the ledger"}[block.kind]


def all_shown(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    beside = [None, *blocks, None]
    return [shown(b, beside[i], beside[i + 2]) for i, b in enumerate(blocks)]


def check(page: Page, *blocks: dict[str, Any]) -> list[Any]:
    """Return the steps that fail, of each block: name, expected, found."""
    found: list[Any] = page.evaluate(CHECK, list(blocks))
    return found


@pytest.mark.parametrize("blocks", [KINDS, MINED, by_builder("é€😀", ("\u202e", {}), ())])
def test_blocks_of_every_kind_are_right(page: Page, blocks: list[Block]) -> None:
    assert check(page, *all_shown(blocks)) == [[]] * len(blocks)


def test_of_an_erased_block_all_but_its_data_is_checked(page: Page, tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.append("secret")
        ledger.erase(1, reason="asked for")
        erased = ledger[1]
        assert check(page, shown(erased, ledger[0], ledger[2])) == [["erased"]]
        lied = shown(erased, ledger[0], ledger[2]) | {"place": 2}
        [found] = check(page, lied)
        assert ["index is the place of the block", "2", "1"] in found


# What is wrong is found

OTHERS = {
    "index": "4",
    "timestamp": "2018-05-22T13:23:22.022216Z",
    "previous_hash": "0" * 64,
    "hash": "0" * 64,
    "kind": "record",
    "count": "2",
    "size": "16",
    "data_root": "0" * 64,
    "bits": "207fffff",
    "nonce": "0" * 15 + "1",
    "header": "0" * 208,
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_fact_that_is_shown_otherwise_is_found(page: Page, name: str) -> None:
    block = shown(KINDS[1], KINDS[0], KINDS[2])
    right = dict(block["facts"])[name]
    facts = [[n, OTHERS[n] if n == name else text] for n, text in block["facts"]]
    [[(step, expected, found)]] = check(page, block | {"facts": facts})
    assert (expected, found) == (right, OTHERS[name])
    assert step.startswith(f"{name} is")


def flipped(digits: str) -> Iterator[str]:
    data = bytearray.fromhex(digits)
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        yield data.hex()
        data[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize(
    "block", [shown(KINDS[1], KINDS[0], KINDS[2]), shown(MINED[1], *MINED[::2])]
)
def test_every_flipped_bit_of_a_header_is_found(page: Page, block: dict[str, Any]) -> None:
    wrong = [block | {"header": header} for header in flipped(block["header"])]
    assert len(wrong) == 832
    found = check(page, *wrong)
    assert all("hash is SHA-256 of a zero byte and the header" in dict_of(one) for one in found)


def dict_of(steps: Sequence[tuple[str, str, str]]) -> dict[str, tuple[str, str]]:
    return {name: (expected, found) for name, expected, found in steps}


def test_a_header_that_is_sealed_anew_does_not_fit_the_next_block(page: Page) -> None:
    """Every bit, with the hash and all that is shown made to fit."""
    block = shown(KINDS[1], KINDS[0], KINDS[2])
    passed = page.evaluate(
        """async ([headers, before, after]) => {"""
        + IMPORTS
        + """
          const passed = [];
          for (const digits of headers) {
            const bytes = r.unhex(digits), header = r.parseHeader(bytes), place = header.index;
            const facts = Object.entries(c.written(header, await r.sha256(r.LEAF, bytes)));
            const found = await c.checkHeader({ header: digits, facts, place });
            const steps = [...found.steps, ...await c.checkLinks(found, before, after)];
            if (found.steps.some(({ name, holds }) => !holds && name.endsWith("header says")) ||
                steps.every(({ name, holds }) => holds || !name.endsWith("as its previous_hash")))
              passed.push(digits);
          }
          return passed;
        }""",
        [list(flipped(block["header"])), block["before"], block["after"]],
    )
    assert passed == []


def test_every_flipped_bit_of_an_entry_is_found(page: Page) -> None:
    for block in (all_shown(KINDS)[1], all_shown(KINDS)[5]):
        wrong = [block | {"data": data} for data in flipped(block["data"])]
        for i, salt in enumerate(block["salts"]):
            before, after = block["salts"][:i], block["salts"][i + 1 :]
            wrong += [block | {"salts": [*before, other, *after]} for other in flipped(salt)]
        assert len(wrong) > 8 * 16
        for found in check(page, *wrong):
            names = set(dict_of(found))
            assert names & {
                "data_root is the tree hash of the entries",
                "count is the number of entries",
                "size is that of all entries with their salts",
            }


def test_links_to_other_blocks_are_found(page: Page) -> None:
    block, other = shown(KINDS[2], KINDS[1], KINDS[3]), KINDS[5].header.pack().hex()
    [before] = check(page, block | {"before": other})
    assert dict_of(before)["previous_hash is the hash of block 1"] == (
        KINDS[1].hash,
        KINDS[5].hash,
    )
    [after] = check(page, block | {"after": other})
    assert dict_of(after)["block 3 has this hash as its previous_hash"] == (
        KINDS[2].hash,
        KINDS[4].hash,
    )
    [none] = check(page, block | {"after": "", "before": "0"})
    assert {found for _, _, found in none} == {"not a header", "undefined"}


def test_a_mined_block_among_others_is_found(page: Page) -> None:
    """Nobody gets out of signing a block by claiming that it was mined."""
    values, mined_ = [block.header.pack().hex() for block in chain("gv")], MINED[1].header
    for beside, where in (("before", "before"), ("after", "after")):
        block = shown(MINED[1], *MINED[::2]) | {beside: values[1]}
        [found] = check(page, block)
        assert dict_of(found)[f"the block {where} is mined, too"] == ("mined", "not mined")
        block = shown(KINDS[1], KINDS[0], KINDS[2]) | {beside: mined_.pack().hex()}
        [found] = check(page, block)
        assert dict_of(found)[f"the block {where} is not mined, too"] == ("not mined", "mined")


def test_only_what_is_mined_may_wait_for_others(page: Page) -> None:
    for block, failures in ((shown(MINED[1], *MINED[::2]), 0), (all_shown(KINDS)[1], 1)):
        words = [[name, text] for name, text in block["words"] if name == "kind"]
        [found] = check(page, block | {"waits": True, "words": words})
        assert [one[0] for one in found] == ["what is not mined is final at once"] * failures


# What is said in words


@pytest.mark.parametrize("blocks", [KINDS, MINED])
def test_words_that_are_not_those_for_the_block_are_found(page: Page, blocks: list[Block]) -> None:
    for block in all_shown(blocks):
        time = dict(block["facts"])["timestamp"]
        tag = {"batch": " batch", "mined batch": " mined batch", "one value": ""}.get(
            dict(block["words"])["kind"], " record of the ledger"
        )
        genesis = "" if block["place"] else " genesis"
        right = {
            "title": f"Block {block['place']}",
            "heading": f"  Block {block['place']}{genesis}\n",
            "when": time + tag,
            "kind": dict(block["words"])["kind"],
        }
        assert check(page, block | {"words": list(right.items())}) == [[]]
        for name, text in right.items():
            for other in (f"{text} not final yet", f"1{text}", "", "batch mined"):
                [[(step, _, found)]] = check(page, block | {"words": [[name, other]]})
                assert step == f"{name}: the words are those for this block"
                assert found == " ".join(other.split())


def test_salts_that_are_shown_otherwise_are_found(page: Page) -> None:
    block = shown(by_builder(tuple(range(102)))[1])
    first, more = " ".join(block["salts"][:100]), "and 2 more"
    assert check(page, block | {"saltsText": f"{first}\n {more}"}) == [[]]
    for text in (first, f"{first} and 3 more", f"{'0' * 32} {first[33:]} {more}", ""):
        [found] = check(page, block | {"saltsText": text})
        assert set(dict_of(found)) == {"the salts shown are the salts"}


def test_other_data_in_the_place_of_an_erased_value_is_found(page: Page) -> None:
    block = shown(KINDS[1], KINDS[0], KINDS[2]) | {"salts": [], "saltsText": ""}
    left = canonical({"erased": KINDS[1].header.data_root.hex()}).decode()
    assert (
        check(page, block | {"text": left}, block | {"text": left.replace(":", ": ")})
        == [["erased"]] * 2
    )
    for text in ('{"pay":9999}', left[:-1], left + "1", ""):
        [[failure, _]] = check(page, block | {"text": text})
        assert failure[0] == "the data shown is what is left of an erased value"


def test_a_place_that_is_left_out_of_a_list_is_found(page: Page) -> None:
    ask = """async ([places, goUp]) => {
      const c = await import("/explorer/check.js");
      const found = c.checkPlaces(places, goUp);
      return found.map(([at, { expected, found }]) => [at, expected, found]); }"""
    assert page.evaluate(ask, [["2", "1", "0"], False]) == []
    assert page.evaluate(ask, [["9", "10"], True]) == []
    assert page.evaluate(ask, [[], True]) == page.evaluate(ask, [["5"], True]) == []
    assert page.evaluate(ask, [["6", "4", "3"], False]) == [["6", "5", "4"]]
    assert page.evaluate(ask, [["6", "6"], False]) == [["6", "5", "6"]]
    assert page.evaluate(ask, [["6", "5"], True]) == [["6", "7", "5"]]
    assert page.evaluate(ask, [["x", "5"], True]) == [["x", "a number", "5"]]


def test_a_block_that_does_not_meet_its_target_is_found(page: Page) -> None:
    genesis, block = MINED[:2]
    header = bytearray(block.header.pack())
    header[4:8] = bytes.fromhex("1d00ffff")
    [found] = check(page, shown(block, genesis) | {"header": header.hex()})
    expected, _ = dict_of(found)["the hash meets the target that bits say"]
    assert expected == f"at most {target_of(0x1D00FFFF):064x}"
    header[4:8] = bytes.fromhex("04800000")
    [found] = check(page, shown(block, genesis) | {"header": header.hex()})
    assert dict_of(found)["the hash meets the target that bits say"][0] == "at most none"


def test_data_that_is_not_canonical_is_found_though_its_hash_fits(page: Page) -> None:
    for text in (b'{"b": 1}', b"[1,]", b"1.0", b'"\xff"', b"\xef\xbb\xbf1", b""):
        entry = Entry(bytes(16), text)
        [_, block] = chain("gv")
        header = bytearray(block.header.pack())
        header[60:64] = (len(text) + 16).to_bytes(4, "big")
        header[64:96] = entry.id
        one = shown(block) | {
            "header": header.hex(), "salts": [bytes(16).hex()], "data": text.hex(), "facts": [],
        }  # fmt: skip
        [found] = check(page, one)
        assert "the data is in canonical form" in dict_of(found), text


# Data as it is shown


def test_data_shown_otherwise_is_found(page: Page) -> None:
    block = shown(by_builder({"pay": 10, "to": ["bob", "\u202e"]})[1])
    texts = [
        block["text"].replace("10", "11"),
        block["text"].replace("10", "1 0"),
        block["text"].replace("10", "1e1"),
        block["text"].replace("bob", "b o b"),
        block["text"].replace("bob", "bo\\u0062 "),
        block["text"].replace("\\u202e", "\\u202d"),
        block["text"][:-1],
        block["text"] + " 1",
        "",
        '"',
    ]
    for found in check(page, *(block | {"text": text} for text in texts)):
        assert set(dict_of(found)) == {"the data shown is the data"}
    same = [block["text"].replace(" ", "\n"), block["text"].replace("bob", "\\u0062ob")]
    assert check(page, *(block | {"text": text} for text in same)) == [[], []]


def test_the_beginning_of_data_is_compared_as_far_as_it_goes(page: Page) -> None:
    value = {"a\\": ["é€😀\u202e", "\U000e0041\\\\", 12.5, True], "z": "\n\x01"}
    for block in (by_builder(value)[1], by_builder((value, value))[1]):
        whole, one = block.data_json().decode(), shown(block)
        cuts = [readable(whole, limit)[0] for limit in range(len(one["text"]))]
        assert check(page, *(one | {"text": cut, "whole": False} for cut in cuts)) == [[]] * len(
            cuts
        )
        lies = [
            cut[:-1] + "x" for cut in cuts if cut.endswith(("é", "€", "😀", "1", ",", "[", "e"))
        ]
        assert len(lies) > 7
        assert all(check(page, *(one | {"text": lie, "whole": False} for lie in lies)))


def test_entries_are_made_anew_of_what_is_shown(page: Page) -> None:
    values: list[Any] = [
        [[1, 2], {"a": [], "b": ","}, "],["],
        [],
        [[]],
        [{}, "\u202e"],
        ["x"],
        1,
        "a",
    ]
    for value in values:
        is_batch = isinstance(value, list)
        texts = (
            [canonical(one).decode() for one in value] if is_batch else [canonical(value).decode()]
        )
        text, _ = readable(canonical(value).decode(), 10**6)
        found = page.evaluate(
            """async ([kind, text]) => {"""
            + IMPORTS
            + """
              const texts = c.entriesShown({ kind }, text);
              return texts.map((bytes) => new TextDecoder().decode(bytes)); }""",
            [int(is_batch), text],
        )
        assert found == texts


# JSON


TEXTS = (
    r'{"a":[1,2.5,-0.001,1e-7,1e+21,"x\n\u0001"],"b":{"c":null,"d":true},"é":false}',
    '[[],{},[[]],{"":""},18446744073709551615,-9223372036854775808]',
    '{"\U0001f600":1,"\ufb33":2}',
    r'"\\\"\b\f\r\t/"',
    *('"\x7f"', '"\x1f"', '"\x00"', r'"\u00e9"', r'"\/"', r'"\u001f"', r'"\u001F"', r'"\u000B"'),
    *(r'"\u0008"', r'"\u0009"', r'"\u000a"', r'"\u000b"', r'"\u000c"', r'"\u000d"', r'"\u000e"'),
    *(r'"\ud83d\ude00"', r'"\ud83d"', "nul", "]", "}", '{"a"}', "{,}", "", " ", "1 2", "01", "-"),
    *(
        "100000000000000000000",
        "100000000000000000001",
        "18446744073709551616",
        "9007199254740993.0",
    ),
    *("-9223372036854775809", "-0", "1.0", "1E5", "5e-324", "1e400", "0.1", "1e-7", "0.000001"),
    *(
        '{"b":1,"a":2}',
        '{"a":1,"a":2}',
        '{"a":1,"a":[2]}',
        "[1,]",
        "[,1]",
        "[1 ,2]",
        "[1}",
        '{"a":1]',
    ),
)


def mutated(random_: random.Random, text: str) -> str:
    at = random_.randrange(len(text) + 1)
    piece = random_.choice(
        '"\\{}[],:0123456789.-+eE \n\tabfnrtu\u20ac\u00e9\U0001f600truefalsenull'
    )
    return random_.choice(
        [
            text[:at] + piece + text[at:],
            text[:at] + text[at + 1 :],
            text[:at] + piece + text[at + 1 :],
        ]
    )


def is_canonical(text: str) -> bool:
    try:
        return canonical(parse(text)).decode() == text
    except EntryError:
        return False


def test_canonical_form_is_what_the_ledger_takes_it_for(page: Page) -> None:
    random_ = random.Random(7)
    texts = list(TEXTS)
    for _ in range(4000):
        text = random_.choice(TEXTS)
        for _ in range(random_.randint(1, 3)):
            text = mutated(random_, text)
        texts.append(text)
    faults = page.evaluate(
        "async (texts) => {" + IMPORTS + "return texts.map((text) => c.canonicalFault(text)); }",
        texts,
    )
    expected = [is_canonical(text) for text in texts]
    assert [(t, fault is None) for t, fault in zip(texts, faults, strict=True)] == list(
        zip(texts, expected, strict=True)
    )
    assert 300 < sum(expected) < 3700


def test_long_strings_and_deep_nesting_are_read(page: Page) -> None:
    lengths = page.evaluate(
        """async () => {"""
        + IMPORTS
        + """
          const texts = ["x".repeat(2 ** 24), "\\\\n".repeat(2 ** 18)].map((text) => `"${text}"`);
          texts.push("[".repeat(2 ** 16) + "]".repeat(2 ** 16), `[${"1,".repeat(2 ** 16)}1]`);
          return texts.map((text) => [
            c.canonicalFault(text), [...c.tokens(text)].join("") === text]);
        }"""
    )
    assert lengths == [[None, True]] * 4


# Facts as they are written


def test_times_are_written_as_in_the_json_view(page: Page) -> None:
    times = [0, 1, 999_999, 1_526_995_403_022_216, 253_402_300_799_999_999, 253_402_300_800_000_000]
    times += [2**63 - 1, 2**63, 2**64 - 1, *(random.Random(1).randrange(2**63) for _ in range(200))]
    found = page.evaluate(
        "async (times) => {" + IMPORTS + "return times.map((time) => c.rfc3339(BigInt(time))); }",
        [str(time) for time in times],
    )
    assert found == [rfc3339(time) for time in times]


def test_targets_are_those_of_the_ledger(page: Page) -> None:
    bits = [size << 24 | digits for size in (0, 1, 2, 3, 4, 29, 32, 33, 34, 35, 255)
            for digits in (0, 1, 0xFF, 0x100, 0xFFFF, 0x7FFFFF, 0x800000, 0xFFFFFF)]  # fmt: skip
    found = page.evaluate(
        "async (all) => {" + IMPORTS + "return all.map((bits) => String(w.target(bits))); }", bits
    )
    for one, text in zip(bits, found, strict=True):
        try:
            assert text == str(target_of(one))
        except FormatError:
            assert text == "null"


def test_the_work_that_is_asked_for_is_what_the_ledger_asks_for(page: Page) -> None:
    random_ = random.Random(5)
    cases: list[tuple[Asert, int, int]] = []
    for _ in range(600):
        interval = 10 ** random_.randint(3, 10)
        half_life = random_.randrange(interval, 2**46)
        start = random_.randrange(2**51)
        first = bits_of(random_.randrange(1, target_of(MAX_BITS) >> random_.randrange(240)))
        height = random_.randrange(10 ** random_.randint(1, 7))
        late = random_.randint(-2, 2) * random_.randrange(half_life * 10 ** random_.randint(0, 3))
        asert = Asert(first, start - interval, interval, half_life)
        cases.append((asert, height, max(start + interval * height + late, 0)))
    told = [
        [
            asert.bits,
            str(asert.time + asert.interval),
            json.dumps({"seal": Work(interval=asert.interval, half_life=asert.half_life,
                                     final_depth=1).to_value()}),
            str(height),
            str(timestamp),
        ]
        for asert, height, timestamp in cases
    ]  # fmt: skip
    found = page.evaluate(
        """async (all) => {"""
        + IMPORTS
        + """
          return all.map(([bits, start, text, index, time]) => {
            const terms = w.termsOf({ bits, time: BigInt(start) }, text);
            return w.bitsAfter(terms, { index: BigInt(index), time: BigInt(time) });
          });
        }""",
        told,
    )
    assert found == [asert.bits_after(height, timestamp) for asert, height, timestamp in cases]
    assert 20 < found.count(MAX_BITS) < 500


def test_the_bits_of_a_mined_block_are_held_to_genesis_and_the_block_before(page: Page) -> None:
    genesis, one, two = MINED[:3]
    ask = """async ([header, genesis, text, before]) => {"""
    ask += IMPORTS
    ask += """
      const read = (digits) => r.parseHeader(r.unhex(digits));
      const found = c.checkDifficulty(read(header), read(genesis), text, before);
      return [found.holds, found.expected, found.found]; }"""
    first = genesis.header.pack().hex()
    terms = genesis.data_json().decode()
    for block, before in ((one, genesis), (two, one)):
        header, bits = block.header.pack().hex(), f"{block.header.bits:08x}"
        other = header[:8] + "1f00ffff" + header[16:]
        told = [first, terms, before.header.pack().hex()]
        assert page.evaluate(ask, [header, *told]) == [True, bits, bits]
        assert page.evaluate(ask, [other, *told]) == [False, bits, "1f00ffff"]
    instant = '{"seal":{"kind":"instant"}}'
    found = page.evaluate(ask, [one.header.pack().hex(), first, instant, first])
    assert found == [False, "00000000", f"{one.header.bits:08x}"]


# What was asked for, and what was shown before


def test_a_block_that_was_not_asked_for_is_found(page: Page) -> None:
    digest = KINDS[1].hash
    ask = """async ([digits, paths]) => {"""
    ask += IMPORTS
    ask += """
      const header = r.parseHeader(r.unhex(digits)), hash = await r.sha256(r.LEAF, r.unhex(digits));
      return paths.map((path) => c.checkAsked({ header, hash }, path).holds); }"""
    right = ["/blocks/1", "/blocks/0001", f"/blocks/{digest}"]
    wrong = [
        "/blocks/2",
        f"/blocks/{KINDS[2].hash}",
        "/blocks/",
        "/",
        f"/blocks/{digest[:8]}",
        "/1",
    ]
    header = KINDS[1].header.pack().hex()
    found = page.evaluate(ask, [header, right + wrong])
    assert found == [True] * len(right) + [False] * len(wrong)


def test_what_is_remembered_is_held_against_a_block_of_that_index_alone(page: Page) -> None:
    ask = """async ([memory, ledger, isLoopback, known]) => {"""
    ask += IMPORTS
    ask += """
      const places = known.map(([index, digits]) => [BigInt(index), r.unhex(digits)]);
      const page = { memory: new Map(Object.entries(memory)), ledger, isLoopback };
      const steps = c.checkRemembered(page, places);
      return steps.map(({ holds, expected, found }) => [holds, expected, found]); }"""
    mine, other = "11" * 32, "22" * 32
    memory = {"a": {"size": 4, "hash": mine}}
    assert page.evaluate(ask, [memory, "a", True, [["3", mine]]]) == [[True, mine, mine]]
    known = [["2", mine], ["3", other], ["4", other]]
    assert page.evaluate(ask, [memory, "a", False, known]) == [[False, mine, other]]
    assert page.evaluate(ask, [memory, "b", True, known]) == []
    assert page.evaluate(ask, [memory, "b", False, known]) == [[False, "a", "b"]]
    assert page.evaluate(ask, [{}, "b", False, known]) == []


def test_what_records_an_erasure_is_what_the_ledger_takes_for_it(page: Page) -> None:
    root = KINDS[3].header.data_root
    right = canonical(Erasure(KINDS[3].index, root, "asked for").to_value()).decode()
    texts = [
        right,
        right.replace('"asked for"', '""'),
        right.replace('"asked for"', "1"),
        right.replace('"asked for"', '"a","more":1'),
        right.replace('"asked for"', '"a","reason":"b"'),
        right.replace('"erasure"', '"key"'),
        right.replace(",", ", "),
        right.replace('"index":3', '"index":4'),
        right.replace(root.hex(), "0" * 64),
        right[:-1],
        f"[{right}]",
        "",
    ]
    found = page.evaluate(
        """async ([digits, texts]) => {"""
        + IMPORTS
        + """
          const header = r.parseHeader(r.unhex(digits));
          return texts.map((text) => c.recordsErasure(text, header)); }""",
        [KINDS[3].header.pack().hex(), texts],
    )
    erasures = [Erasure.of(text.encode()) for text in texts]
    assert found == [e is not None and (e.index, e.id) == (KINDS[3].index, root) for e in erasures]
    assert found.count(True) == 2


# Checkpoints

LEAF = (
    """async ([index, size, root, tiles]) => {"""
    + IMPORTS
    + """
  const read = async (path) => r.unhex(tiles[path.slice(1)]);
  try {
    return r.hex(await c.leafOf(BigInt(index), BigInt(size), r.unhex(root), read));
  } catch (error) {
    if (error instanceof r.NotProved) return error.message;
    throw error;
  }
}"""
)


def tiles_over(leaves: list[bytes]) -> dict[str, str]:
    found, row, level = {}, leaves, 0
    while row:
        for tile in (t for t in tiles_of(len(leaves)) if t.level == level):
            found[tile.path] = b"".join(row[tile.start : tile.start + tile.width]).hex()
        full = [row[at : at + 256] for at in range(0, len(row) - 255, 256)]
        row, level = [tree(part) for part in full], level + 1
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 255, 256, 257, 511, 700])
def test_a_leaf_is_proved_by_tiles(page: Page, size: int) -> None:
    leaves = [i.to_bytes(32, "big") for i in range(size)]
    root, tiles = tree(leaves).hex(), tiles_over(leaves)
    for index in {0, size // 2, max(size - 2, 0), size - 1}:
        assert page.evaluate(LEAF, [index, size, root, tiles]) == leaves[index].hex()
        for tile in map(Tile.parse, tiles):
            other = f"{int(tiles[tile.path][-1], 16) ^ 1:x}"
            wrong = tiles | {tile.path: tiles[tile.path][:-1] + other}
            found = page.evaluate(LEAF, [index, size, root, wrong])
            allowed = {"the tiles do not lead to the root that was signed"}
            if (tile.level, tile.number) != (0, index // 256):  # it may not be needed
                allowed.add(leaves[index].hex())
            assert found in allowed
    last = Tile(0, (size - 1) // 256, (size - 1) % 256 + 1)
    short = tiles | {last.path: tiles[last.path][:-2]}
    assert page.evaluate(LEAF, [size - 1, size, root, short]) == f"/{last.path} is too short"


def test_tiles_are_asked_for_by_their_names(page: Page) -> None:
    for level, number, size in [
        (0, 0, 1),
        (0, 0, 256),
        (0, 1234067, 1234067 * 256 + 5),
        (2, 0, 2**17),
    ]:
        found = page.evaluate(
            "async ([level, number, size]) => {" + IMPORTS
            + "return c.tilePath(level, BigInt(number), BigInt(size)); }",
            [level, number, size],
        )  # fmt: skip
        assert found == "/" + Tile(level, number, min((size >> 8 * level) - number * 256, 256)).path


def test_a_new_key_is_believed_as_the_old_one_names_it(page: Page, tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger", keyring=Keyring(tmp_path / "home")) as ledger:
        old, signing = ledger.checkpoint().log_keys[0], ledger.notary.key()
        record = ledger.rotate_key()
        new = ledger.checkpoint().log_keys[0]
        text = record.data_json().decode()
        origin = ledger.checkpoint().checkpoint.origin
    ask = "async ([text, origin, key]) => {" + IMPORTS + "return c.successor(text, origin, key); }"
    assert page.evaluate(ask, [text, origin, str(old)]) == str(new)

    def by_the_old(signed: str) -> str:
        value = {"note": str(Note(signed, (signing.sign(signed),))), "record": "key"}
        return canonical(value).decode()

    assert by_the_old(f"{origin}\nnew key\n{new}\n") == text
    elsewhere = Keyring(tmp_path / "home").signing_key("cairn/elsewhere").verifier
    for lie in (
        [by_the_old(f"cairn/elsewhere\nnew key\n{new}\n"), origin, str(old)],
        [by_the_old(f"{origin}\nnew key\n{elsewhere}\n"), origin, str(old)],
        [by_the_old(f"{origin}\n7\n{new}\n"), origin, str(old)],
        [by_the_old(f"{origin}\nnew key\n{new}\nmore\n"), origin, str(old)],
        [text, origin, str(new)],
        [text, origin[:-1] + "x", str(old)],
        [text.replace("new key", "old key"), origin, str(old)],
        [text.replace('"record":"key"', '"record":"erasure"'), origin, str(old)],
        ["null", origin, str(old)],
        ['{"note":1}', origin, str(old)],
    ):
        assert page.evaluate(ask, lie) is None


SEEN = {"key": "k", "size": 5, "hash": "aa"}


@pytest.mark.parametrize(
    ("signer", "size", "then", "failure"),
    [
        ("k", 5, "aa", None),
        ("k", 9, "aa", None),
        ("other", 9, "aa", "signed by the key that this browser remembers"),
        ("k", 4, None, "the ledger has not become shorter"),
        ("k", 9, "bb", "block 4 is the one that was shown before"),
    ],
)
def test_a_checkpoint_is_held_to_what_was_seen_before(
    page: Page, signer: str, size: int, then: str | None, failure: str | None
) -> None:
    found = page.evaluate(
        "async ([seen, signer, size, then]) => {" + IMPORTS
        + "const now = then && r.unhex(then);"
        "const steps = c.checkMemory(seen, { signer, size: BigInt(size) }, now);"
        "return c.firstFailure(steps)?.name ?? null; }",
        [SEEN, signer, size, then],
    )  # fmt: skip
    assert found == failure
