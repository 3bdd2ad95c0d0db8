"""The C kernel. Its docstrings say what each function does, and `cairn.hashing.lanes` uses them."""

from typing import Any

from numpy.typing import NDArray

_Buffer = bytes | bytearray | memoryview | NDArray[Any]

def available() -> tuple[str, ...]: ...
def leaf_hashes(
    isa: str, data: _Buffer, starts: _Buffer, stops: _Buffer, out: _Buffer, /
) -> None: ...
def sha256(isa: str, data: _Buffer, starts: _Buffer, stops: _Buffer, out: _Buffer, /) -> None: ...
def node_hashes(isa: str, children: _Buffer, out: _Buffer, /) -> None: ...
def link(headers: _Buffer, previous_hash: _Buffer, out: _Buffer, /) -> None: ...
def screen(
    isa: str,
    start: int,
    headers: _Buffer,
    hashes: _Buffer,
    data: _Buffer,
    offsets: _Buffer,
    most_count: int,
    most_size: int,
    mined: bool,
    flags: _Buffer,
    /,
) -> bool: ...
def search(isa: str, header: _Buffer, first: int, last: int, target: _Buffer, /) -> int | None: ...
def compress(isa: str, times: int, /) -> int: ...
