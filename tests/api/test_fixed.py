"""What is the same as long as the program is: browsers keep it, and ask whether it still is."""

from __future__ import annotations

import httpx
import pytest

from cairn.api import explorer

FILES = ["/verify", *(f"/explorer/{name}" for name in explorer.FILES)]
STANDING = ("cache-control", "content-security-policy", "etag", "x-content-type-options")


@pytest.fixture(params=FILES)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_file_that_is_known_is_not_sent_again(client: httpx.Client, path: str) -> None:
    first = client.get(path)
    tag = first.headers["etag"]
    assert tag[0] == tag[-1] == '"'
    assert first.headers["cache-control"] == "no-cache"
    for known in (tag, f"W/{tag}", f'"other", {tag}', f'W/"other",{tag}', "*"):
        for again in (
            client.get(path, headers={"if-none-match": known}),
            client.head(path, headers={"if-none-match": known}),
        ):
            assert (again.status_code, again.content) == (304, b"")
            # They take the place of those that are kept with the file.
            assert [again.headers[name] for name in STANDING] == [
                first.headers[name] for name in STANDING
            ]


def test_a_file_that_is_another_now_is_sent(client: httpx.Client, path: str) -> None:
    first = client.get(path)
    for known in (
        '"other"',
        "",
        first.headers["etag"].strip('"'),
        first.headers["etag"][:-2] + '"',
    ):
        again = client.get(path, headers={"if-none-match": known})
        assert (again.status_code, again.content) == (200, first.content)
        assert again.headers["content-type"] == first.headers["content-type"]


def test_the_tag_is_that_of_what_is_sent(client: httpx.Client, path: str) -> None:
    assert client.get(path).headers["etag"] == client.head(path).headers["etag"]
    assert client.get("/").headers.get("etag") is None, "a ledger that has changed must show"
