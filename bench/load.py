"""A load generator: requests over keep-alive connections, each when the one before is answered.

python -m bench.load PORT CONNECTIONS REQUESTS PATH BODY_FILE

Prints a JSON object: seconds of the whole, and the seconds of each request. In a process of its
own, and as light as it can be, so that the server is what is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import uvloop


class Client(asyncio.Protocol):
    """One connection that sends the same request again and again."""

    def __init__(self, request: bytes, left: Iterator[int], seconds: list[float]) -> None:
        self._request = request
        self._left = left
        self._seconds = seconds
        self._answer = b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        """Send the next request when this one is answered."""
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found:
            return
        size = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if len(body) < int(size):
            return
        assert head.startswith(b"HTTP/1.1 20"), head
        self._seconds.append(time.perf_counter() - self._began)
        self._answer = b""
        self._send()

    def _send(self) -> None:
        if next(self._left, None) is None:
            self._transport.close()
            self.done.set_result(None)
            return
        self._began = time.perf_counter()
        self._transport.write(self._request)


async def run(port: int, connections: int, requests: int, path: str, body: bytes) -> None:
    """Send so many `requests` in all, and print how long they took."""
    head = f"Host: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n\r\n"
    request = f"POST {path} HTTP/1.1\r\n{head}".encode() + body
    left, seconds = iter(range(requests)), list[float]()
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    clients = [
        (await loop.create_connection(lambda: Client(request, left, seconds), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(client.done for client in clients))
    print(json.dumps({"seconds": time.perf_counter() - began, "each": sorted(seconds)}))


if __name__ == "__main__":
    port_, connections_, requests_, path_, file_ = sys.argv[1:]
    uvloop.run(run(int(port_), int(connections_), int(requests_), path_, Path(file_).read_bytes()))
