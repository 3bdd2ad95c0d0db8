"""What the pages say, as HTML: without a script, and to whom."""

from __future__ import annotations

import re
import shlex
import sqlite3
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import httpx
import pytest

from cairn import Ledger
from cairn.core.block import Block
from cairn.core.genesis import Genesis, Work
from cairn.store.directory import FILE_NAME
from tests.api.servers import Server, start

BROWSER: Final = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
"""What Chromium sends when somebody opens a page."""
HOSTILE: Final = (
    "<script>document.title = 'taken over'</script>",
    "</script><script>alert(1)</script>",
    "</pre></article><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    '\'" onmouseover=alert(1) x="',
    "{{ 7 * 7 }}{% for x in y %}",
    "<!--",
    "-->",
    "]]>",
    "<style>*{display:none}</style>",
    "\u202egnirts desrever",
    "\u2066isolated, and not closed",
    "\u0085\u2028\u2029\u200b\ufeff",
    "&lt;&amp;&#60;",
    "[31m",
)


class Seen(HTMLParser):
    """The tags of a page, its text, and where its links lead."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("pages") / "harbour.cairn"
    with Ledger.open(path) as ledger:
        ledger.extend({"ship": i, "from": "Riga" if i % 2 else "Cork"} for i in range(1, 40))
        ledger.erase(7, reason="asked for")
        ledger.extend(HOSTILE)
        ledger.append({text: [text] for text in HOSTILE})
    with start(path) as server:
        yield server


@pytest.fixture
def browser(server: Server) -> Iterator[httpx.Client]:
    with server.client(headers={"Accept": BROWSER}) as client:
        yield client


def length(server: Server) -> int:
    with server.client() as client:
        return int(client.get("/summary").json()["length"])


@pytest.mark.parametrize("path", ["/", "/blocks/3", "/blocks?contains=Riga", "/peers"])
@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("*/*", False),
        ("application/json", False),
        ("text/html, application/json", False),
        ("text/html;q=0.5, application/json;q=0.4", True),
        ("text/html;q=0", False),
        ("text/html;q=x", False),
        ("", False),
    ],
)
def test_who_prefers_html_gets_the_page(
    server: Server, path: str, accept: str, is_page: bool
) -> None:
    with server.client() as client:
        answer = client.get(path, headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html") == is_page


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/?start=3",
        "/blocks",
        "/blocks/0",
        "/blocks/7",
        "/blocks?contains=a",
        "/validate",
        "/peers",
    ],
)
def test_pages_bring_nothing_that_runs_and_ask_no_other_host(
    browser: httpx.Client, path: str
) -> None:
    answer = browser.get(path)
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    seen = Seen(answer.text)
    assert all(re.match("/(?!/)|#", link) for link in seen.links)
    assert not [name for name, _ in seen.attributes if name == "style" or name.startswith("on")]
    assert "style" not in seen.tags
    assert re.findall(r"<script(?![^>]*\bsrc=)", answer.text) == []


def test_home_shows_the_newest_blocks_first_and_leads_to_older_ones(
    server: Server, browser: httpx.Client
) -> None:
    seen: list[int] = []
    page, path = "", "/"
    while path:
        page = browser.get(path).text
        seen += map(int, re.findall(r'<article class="block card" id="block-(\d+)"', page))
        older = re.search(r'rel="next" href="([^"]+)"', page)
        path = older[1] if older else ""
    assert sorted(set(seen), reverse=True) == list(reversed(range(length(server))))
    assert seen[:12] == list(reversed(range(length(server))))[:12]


def test_home_says_how_the_ledger_is(browser: httpx.Client, server: Server) -> None:
    facts = browser.get("/summary", headers={"Accept": "*/*"}).json()
    text = Seen(browser.get("/").text).text
    assert f"Blocks{facts['length']}" in text.replace("\n", "")
    assert facts["assurance"] in text
    assert facts["head"] in text
    assert facts["peers"] is None
    assert facts["length"] == facts["final"] == length(server)


def signed(client: httpx.Client) -> int:
    """Return how many blocks the published checkpoint covers."""
    return int(client.get("/checkpoint").text.split("\n")[1])


def test_home_says_up_to_which_block_the_ledger_is_signed(tmp_path: Path) -> None:
    """On a work ledger, blocks that can still change are not, and others follow them."""
    seal = Work(interval=1_000_000, half_life=10_000_000, final_depth=1000)
    Ledger.create(tmp_path / "ledger", Genesis(name="mined", seal=seal)).close()
    with start(tmp_path / "ledger", "--mine") as server, server.client() as client:
        client.post("/block", json="mined").raise_for_status()
        client.get("/checkpoint?covering=1").raise_for_status()
        facts = client.get("/summary").json()
        assert facts["length"] > 1
        assert (facts["assurance"], facts["signed"]) == ("signed", signed(client)) == ("signed", 1)
        home = Seen(client.get("/", headers={"Accept": BROWSER}).text).text
        assert "Assurancesignedup to block 0" in home.replace("\n", "")


def test_summary_says_how_many_blocks_are_signed(server: Server) -> None:
    with server.client() as client:
        client.get(f"/checkpoint?covering={length(server)}").raise_for_status()
        assert client.get("/summary").json()["signed"] == signed(client) == length(server)


def test_fresh_ledger_has_no_rate_and_says_how_to_record(tmp_path: Path) -> None:
    with start(tmp_path / "ledger") as server, server.client(headers={"Accept": BROWSER}) as client:
        page = Seen(client.get("/").text).text
        assert "Arriving0 blocks" in page.replace("\n", "")
        [line] = re.findall("curl .*", page)
        assert 'href="/lab"' not in client.get("/").text
        _, option, body, url = shlex.split(line)
        assert (option, url) == ("-d", f"{server.url}/block")
        answer = client.post(url, content=body, headers={"Accept": "*/*"})
        assert answer.json()["data"] == {"hello": "world"}
        page = await_text(client, "Arriving1 block")
        assert "curl" not in page
        assert "1 blocks" not in page


def await_text(client: httpx.Client, text: str) -> str:
    """Return the text of the first page, once it has this: it is made anew now and then."""
    until = time.monotonic() + 10
    while text not in (page := Seen(client.get("/").text).text.replace("\n", "")):
        assert time.monotonic() < until, page
    return page


def test_fresh_lab_leads_to_something_to_break_and_offers_no_change_before(tmp_path: Path) -> None:
    with (
        start(tmp_path / "ledger", "--lab") as server,
        server.client(headers={"Accept": BROWSER}) as client,
    ):
        assert 'Or go to the <a href="/lab">lab</a>' in client.get("/").text
        lab = client.get("/lab").text
        assert "there is nothing to change" in lab
        assert Seen(lab).links.count("/lab/examples") == 1
        assert not {"/lab/edit", "/tamper", "/lab/truncate"} & {*Seen(lab).links}
        client.post("/lab/examples")
        assert {"/lab/edit", "/tamper", "/lab/truncate"} <= {*Seen(client.get("/lab").text).links}


def test_lab_stays_at_the_block_that_was_changed(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend(range(100, 110))
    with (
        start(tmp_path / "ledger", "--lab") as server,
        server.client(headers={"Accept": BROWSER}) as client,
    ):
        client.post("/lab/edit", data={"block": "8", "data": "1"})
        page = client.get("/lab").text
        for form in ("edit", "rechain"):
            fields = page.partition(f'action="/lab/{form}"')[2].partition("</form>")[0]
            assert 'name="block" value="8"' in fields
            assert "What block 8 " in fields
        assert 'id="fetch" name="block"' in page
        assert 'size="8" value="8"' in page
        client.post("/lab/truncate", data={"block": "5", "record": "on"})
        assert 'name="block" value="4"' in client.get("/lab").text, "the last that is left"


def test_what_is_said_of_the_data_shown_is_so(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend([{"a": [1, "\u202egnirts"]}, "x" * 100_000])
    with start(tmp_path / "ledger") as server, server.client(headers={"Accept": BROWSER}) as client:
        hidden, cut = (client.get(f"/blocks/{index}").text for index in (1, 2))
        assert "\\u202egnirts" in hidden
        for page in (hidden, cut):
            assert "characters that hide or reorder others are written as escapes" in " ".join(
                page.split()
            )
        assert "beginning" not in Seen(hidden).text
        said = Seen(cut).text
        assert "all of it has 100 kB" in said
        assert said.index("This is only the beginning of it") < said.index("xxxxxxxx")
        assert "and the end is missing" in said


def test_block_page_has_the_whole_key_that_signs(browser: httpx.Client) -> None:
    [key] = browser.get("/blocks/3/receipt").json()["keys"]
    assert key in Seen(browser.get("/blocks/3").text).text


def test_block_page_has_every_fact_as_the_json_has_it(
    browser: httpx.Client, server: Server
) -> None:
    for index in (0, 1, 7, 40, length(server) - 1):
        page = browser.get(f"/blocks/{index}").text
        shown = dict(re.findall(r'data-fact="([a-z_]+)"[^>]*>([^<]*)<', page))
        view = browser.get(f"/blocks/{index}", headers={"Accept": "*/*"}).json()
        facts = {name: str(view[name]) for name in shown if name != "data"}
        assert {name: text for name, text in shown.items() if name != "data"} == facts
        assert shown.keys() >= {"index", "timestamp", "previous_hash", "hash", "bits", "data_root"}
        assert f'data-header="{view["header"]}"' in page


def test_block_is_found_by_its_hash_too(browser: httpx.Client) -> None:
    view = browser.get("/blocks/5", headers={"Accept": "*/*"}).json()
    assert "<h1>Block 5" in browser.get(f"/blocks/{view['hash']}").text


def test_block_that_is_not_there_is_a_page_too(browser: httpx.Client) -> None:
    answer = browser.get("/blocks/99999")
    assert answer.status_code == 404
    assert "there is no block 99999" in Seen(answer.text).text
    bad = browser.get("/blocks/<b>")
    assert bad.status_code == 400
    assert "b" not in Seen(bad.text).tags


@pytest.mark.parametrize(
    ("sought", "place"),
    [
        ("7", "/blocks/7"),
        ("#7", "/blocks/7"),
        (" 0007 ", "/blocks/7"),
        ("99999", "/blocks?contains=99999"),
        ("Riga", "/blocks?contains=Riga"),
        ("2026-01-31", "/blocks?since=2026-01-31"),
        ("2h", "/blocks?since=2h"),
        ("a b&c=d#e", "/blocks?contains=a+b%26c%3Dd%23e"),
        ("ab" * 32, "/entries/" + "ab" * 32),
        ("//evil.example", "/blocks?contains=%2F%2Fevil.example"),
        ("block 7", "/blocks/7"),
        ("Block #7", "/blocks/7"),
        ("block 99999", "/blocks/99999"),
        ("blockade 7", "/blocks?contains=blockade+7"),
        ("deadbeef", "/blocks?contains=deadbeef"),
    ],
)
def test_search_leads_to_what_is_meant(browser: httpx.Client, sought: str, place: str) -> None:
    answer = browser.get("/search", params={"q": sought})
    assert answer.status_code == 303
    assert answer.headers["location"] == place


def test_search_finds_a_block_and_an_entry_by_hash(browser: httpx.Client) -> None:
    view = browser.get("/blocks/5", headers={"Accept": "*/*"}).json()
    found = browser.get("/search", params={"q": view["hash"].upper()}, follow_redirects=True)
    assert "<h1>Block 5" in found.text
    entry = browser.get("/search", params={"q": view["data_root"]}, follow_redirects=True)
    assert '<a href="/blocks/5">block 5</a>' in entry.text


def sought(client: httpx.Client, text: str) -> str:
    """Return where the search for something leads."""
    return str(client.get("/search", params={"q": text}).headers["location"])


def test_search_finds_by_the_beginning_of_a_hash_as_it_is_shown(browser: httpx.Client) -> None:
    view = browser.get("/blocks/5", headers={"Accept": "*/*"}).json()
    block, entry = view["hash"], view["data_root"]
    for cut in (block[:8], block[:12] + "…", block[:12] + "...", block[:13].upper(), block[:63]):
        assert sought(browser, cut) == f"/blocks/{block}"
    assert sought(browser, entry[:12]) == f"/entries/{entry}"
    assert sought(browser, block[:7]) == f"/blocks?contains={block[:7]}"
    other = f"{int(block[:8], 16) ^ 1:08x}"
    assert sought(browser, other) == f"/blocks?contains={other}"
    answer = browser.get("/search", params={"q": f"{other}…"})
    assert answer.status_code == 404
    assert f"begins with {other}" in Seen(answer.text).text


def test_beginning_that_two_hashes_have_finds_neither(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        blocks = [ledger.append(i) for i in range(6)]
    same, other = bytes.fromhex(blocks[1].hash), bytes.fromhex(blocks[3].hash)
    with sqlite3.connect(tmp_path / "ledger" / FILE_NAME) as connection:
        forged = same[:6] + other[6:]
        connection.execute("UPDATE runs SET hashes = ? WHERE hashes = ?", (forged, other))
    with start(tmp_path / "ledger") as server, server.client(headers={"Accept": BROWSER}) as client:
        answer = client.get("/search", params={"q": same.hex()[:12]})
        assert answer.status_code == 400
        assert "give more of its digits" in Seen(answer.text).text
        assert sought(client, same.hex()[:20]) == f"/blocks/{same.hex()}"
        assert sought(client, forged.hex()[:20]) == f"/blocks/{forged.hex()}"


def test_find_says_what_was_searched_for_and_that_nothing_was_found(browser: httpx.Client) -> None:
    def said(query: str) -> str:
        status = browser.get(f"/blocks?{query}").text.partition('<p role="status">')[2]
        return " ".join(Seen(status.partition("</p>")[0]).text.split())

    assert said("contains=Riga&limit=15") == (
        "15 blocks whose data contain “Riga” (capitals count), the oldest first; there may be more."
    )
    assert said("contains=riga") == (
        "Nothing was found: no block whose data contain “riga” (capitals count)."
    )
    assert said("since=2999-01-31&until=2999-02-01T12:30Z&contains=%3Cb%3E") == (
        "Nothing was found: no block whose data contain “<b>” (capitals count), recorded at or "
        "after 2999-01-31 00:00:00 UTC and before 2999-02-01 12:30:00 UTC."
    )
    assert said("until=2020-01-01") == (
        "Nothing was found: no block recorded before 2020-01-01 00:00:00 UTC."
    )


def test_text_is_found_in_data_and_pages_go_on(browser: httpx.Client) -> None:
    page = browser.get("/blocks", params={"contains": "Riga", "limit": 15}).text
    first = re.findall(r'id="block-(\d+)"', page)
    following = re.search(r'rel="next" href="([^"]+)"', page)
    assert following
    rest = re.findall(r'id="block-(\d+)"', browser.get(following[1].replace("&amp;", "&")).text)
    assert [int(index) for index in first + rest] == [i for i in range(1, 40, 2) if i != 7]


def test_hostile_data_is_text(browser: httpx.Client, server: Server) -> None:
    """Read with the tags of a page that has nothing hostile on it as the measure."""
    tame = set(Seen(browser.get("/blocks/2").text).tags)
    for index in range(41, length(server)):
        page = browser.get(f"/blocks/{index}").text
        seen = Seen(page)
        assert set(seen.tags) == tame
        raw = browser.get(f"/blocks/{index}/data").text
        for hidden in "\u202e\u2066\u0085\u2028\u2029\u200b\ufeff":
            assert hidden not in page
        if index < length(server) - 1 and raw.isascii():
            assert raw in seen.text
    home = Seen(browser.get("/").text)
    assert "img" not in home.tags
    assert not [link for link in home.links if link.startswith("javascript")]


def test_ledger_with_a_hostile_name_is_named_all_the_same(tmp_path: Path) -> None:
    name = "</title><script>alert(1)</script>\u202e"
    Ledger.create(tmp_path / "ledger", Genesis(name=name)).close()
    with start(tmp_path / "ledger") as server, server.client(headers={"Accept": BROWSER}) as client:
        page = client.get("/").text
    assert Seen(page).tags.count("script") == 2
    assert "<title>The chain · &lt;/title&gt;" in page


def test_data_that_is_large_or_deep_is_shown_in_part(tmp_path: Path) -> None:
    deep = b"[" * 60 + b"]" * 60
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.append("x" * 1_000_000)
        ledger.append({"k" * 100_000: list(range(100_000))})
        ledger.append_json(deep)
    with start(tmp_path / "ledger") as server, server.client(headers={"Accept": BROWSER}) as client:
        assert len(client.get("/").text) < 100_000
        for index, most in ((1, 300_000), (2, 2_000_000), (3, 60_000)):
            answer = client.get(f"/blocks/{index}")
            assert answer.status_code == 200
            assert len(answer.text) < most
        assert 'data-whole="false"' in client.get("/blocks/1").text
        assert 'data-whole="true"' in client.get("/blocks/3").text


def test_damaged_block_is_a_page_and_leaves_the_others(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        for i in range(6):
            block: Block = ledger.append(i)
    with sqlite3.connect(tmp_path / "ledger" / FILE_NAME) as connection:
        connection.execute("UPDATE runs SET headers = x'00' WHERE first = 3")
    with start(tmp_path / "ledger") as server, server.client(headers={"Accept": BROWSER}) as client:
        home = client.get("/")
        assert home.status_code == 200
        assert "It cannot be read" in home.text
        assert block.hash in home.text
        broken = client.get("/blocks/3")
        assert broken.status_code == 500
        assert "<h1>" in broken.text
        assert client.get("/blocks/4").status_code == 200


def test_search_goes_on_behind_a_damaged_block_and_says_no_paths(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        for i in range(20):
            ledger.append({"n": i, "text": "one"})
    with sqlite3.connect(tmp_path / "ledger" / FILE_NAME) as connection:
        connection.execute("UPDATE runs SET headers = x'00' WHERE first = 10")
    with start(tmp_path / "ledger") as server, server.client(headers={"Accept": BROWSER}) as client:
        page = client.get("/blocks?contains=one").text
        following = re.search(r'rel="next" href="([^"]+)"', page)
        assert following
        damaged = client.get(following[1].replace("&amp;", "&"))
        assert damaged.status_code == 500
        assert "block 10 cannot be read" in Seen(damaged.text).text
        [behind] = [link for link in Seen(damaged.text).links if "cursor=11" in link]
        found = re.findall(r'id="block-(\d+)"', client.get(behind).text)
        assert [int(index) for index in found] == list(range(11, 21))
        client.get("/validate?run=true")
        for path in ("/", "/blocks/10", following[1].replace("&amp;", "&"), "/validate"):
            assert str(tmp_path) not in client.get(path).text, path


def test_files_of_pages_are_there_and_no_others(browser: httpx.Client) -> None:
    for page in ("/", "/blocks/1", "/validate"):
        for link in Seen(browser.get(page).text).links:
            if link.startswith("/explorer/"):
                answer = browser.get(link)
                assert answer.status_code == 200, link
                assert answer.headers["x-content-type-options"] == "nosniff"
    assert browser.get("/explorer/render.py").status_code == 404
    assert browser.get("/explorer/..%2frender.py").status_code in (400, 404)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/nothing", 404), ("/blocks/99999/data", 404), ("/blocks/x", 400), ("/?start=-1", 400)],
)
def test_errors_are_pages_for_who_prefers_them(
    browser: httpx.Client, path: str, status: int
) -> None:
    answer = browser.get(path)
    assert answer.status_code == status
    assert "<h1>" in answer.text
    problem = browser.get(path, headers={"Accept": "*/*"})
    assert problem.status_code == status
    assert problem.json()["status"] == status


def test_form_with_fields_left_blank_finds_what_is_meant(browser: httpx.Client) -> None:
    page = browser.get("/blocks?contains=Riga&since=&until=&cursor=").text
    assert page.count('<article class="block card"') == 19
    assert browser.get("/blocks?contains=&since=&until=").text.count("<article") == 0
    assert browser.get("/blocks?since=", headers={"Accept": "*/*"}).status_code == 400


def test_last_page_leads_back(browser: httpx.Client, server: Server) -> None:
    page = browser.get(f"/?start={length(server)}").text
    assert f'rel="next" href="/?start={length(server) - 12}"' in page


@pytest.mark.parametrize(
    ("sought", "place"), [("1,2", "/blocks?contains=1%2C2"), ("2", "/blocks/2")]
)
def test_commas_stand_between_thousands(browser: httpx.Client, sought: str, place: str) -> None:
    assert browser.get("/search", params={"q": sought}).headers["location"] == place


def test_link_on_another_site_leads_to_validation_and_does_not_start_it(
    browser: httpx.Client,
) -> None:
    coming = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    assert "<h1>Validate</h1>" in browser.get("/validate", headers=coming).text
    assert browser.get("/validate?run=true", headers=coming).status_code == 403
    assert browser.get("/validate/events", headers=coming).status_code == 403
