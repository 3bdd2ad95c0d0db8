"""Blocks as lines of JSON, many at once: what `Block.to_json` and `Block.from_view` do for one.

What this makes or reads is exactly what they would. It leaves to them, by returning None, whatever
is out of the ordinary: erased entries, data that is not canonical, a view that is written in
another way. A line is read by guessing its block from where the facts stand in a line of ours, and
believed only if that block's line is the very same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Final

import numpy as np
import orjson

from cairn.core.entry import SALT_BYTES
from cairn.core.hasher import Hasher
from cairn.core.header import HEADER_BYTES, HEADER_DTYPE, LIMIT_63, Kind
from cairn.core.merkle import HASH_BYTES
from cairn.core.segment import Segment
from cairn.encoding import Encoder

_HEADER_DIGITS: Final = 2 * HEADER_BYTES
_HASH_DIGITS: Final = 2 * HASH_BYTES
_SALT_DIGITS: Final = 2 * SALT_BYTES
_DATA: Final = b', "data": '
_DATA_BEFORE: Final = 100
"""The data of a line of ours begins before this place."""
_AFTER_SALT: Final = len(', "header": ""}') + _HEADER_DIGITS
_AFTER_DATA: Final = (
    len(', "previous_hash": "", "hash": "", "kind": "", "count": , "size": , "data_root": ""')
    + len(', "bits": "", "nonce": "", "salt": ')
    + 3 * _HASH_DIGITS
    + 2 * (4 + 8)
)
"""Characters from the data to the salt, but for the kind and the two numbers."""
_LABELS: Final = {int(kind): kind.label for kind in Kind}


def write_lines(segment: Segment, encoder: Encoder) -> list[str] | None:
    """Return the JSON view of each block, `(n,)`, or None where it is not made here."""
    fields = segment.fields
    single = fields["kind"] != Kind.BATCH
    if (
        not segment.is_regular
        or bool((fields["kind"] > max(Kind)).any())
        or bool((fields["count"][single] != 1).any())
        or bool((fields["timestamp"] >= LIMIT_63).any())
    ):
        return None
    starts, stops = segment.entry_bounds
    if bool((stops - starts < SALT_BYTES).any()):
        return None
    stored = segment.data.tobytes()
    texts = [
        stored[start:stop]
        for start, stop in zip((starts + SALT_BYTES).tolist(), stops.tolist(), strict=True)
    ]
    if encoder.texts(texts) != (texts, None):
        return None
    shown = [text.decode() for text in texts]
    salts = [stored[start : start + SALT_BYTES].hex() for start in starts.tolist()]
    return list(_lines(segment, shown, salts))


def _lines(segment: Segment, texts: list[str], salts: list[str]) -> Iterator[str]:
    fields = segment.fields
    headers, hashes = segment.headers.tobytes().hex(), segment.hashes.tobytes().hex()
    times = np.datetime_as_string(fields["timestamp"].astype(np.int64).astype("M8[us]"))
    columns = zip(
        fields["index"].tolist(),
        times.tolist(),
        fields["kind"].tolist(),
        fields["count"].tolist(),
        fields["size"].tolist(),
        pairwise(segment.block_bounds.tolist()),
        strict=True,
    )
    for i, (index, time, kind, count, size, (first, last)) in enumerate(columns):
        if kind == Kind.BATCH:
            data = f"[{','.join(texts[first:last])}]"
            salt = '["{}"]'.format('", "'.join(salts[first:last])) if count else "[]"
        else:
            data, salt = texts[first], f'"{salts[first]}"'
        header = headers[i * _HEADER_DIGITS : (i + 1) * _HEADER_DIGITS]
        yield (
            f'{{"index": {index}, "timestamp": "{time}Z", "data": {data}, '
            f'"previous_hash": "{header[32:96]}", '
            f'"hash": "{hashes[i * _HASH_DIGITS : (i + 1) * _HASH_DIGITS]}", '
            f'"kind": "{_LABELS[kind]}", "count": {count}, "size": {size}, '
            f'"data_root": "{header[128:192]}", "bits": "{header[8:16]}", '
            f'"nonce": "{header[192:]}", "salt": {salt}, "header": "{header}"}}'
        )


def read_lines(
    lines: Sequence[bytes], start: int, encoder: Encoder, hasher: Hasher
) -> Segment | None:
    """Return the blocks of these lines (at least one), the first at position `start`.

    Without line ends. Or None where they are not read here.
    """
    try:
        segment = _guess(lines, start, hasher)
    except (ValueError, LookupError, TypeError):  # hex, JSON, kinds and lists that are none
        return None
    made = write_lines(segment, encoder)
    return segment if made is not None and [m.encode() for m in made] == lines else None


def _guess(lines: Sequence[bytes], start: int, hasher: Hasher) -> Segment:
    """Return what these lines say if they are ours; else anything, or any of the errors above."""
    tails = b"".join(line[-2 - _HEADER_DIGITS : -2] for line in lines)
    headers = np.frombuffer(bytes.fromhex(tails.decode()), np.uint8).reshape(-1, HEADER_BYTES)
    fields = headers.view(HEADER_DTYPE).reshape(-1)
    begins = np.arange(0, headers.size, HEADER_BYTES, dtype=np.int64)
    hashes = hasher.leaf_hashes(headers.reshape(-1), begins, begins + HEADER_BYTES)
    columns = (fields[name].tolist() for name in ("kind", "count", "size"))
    texts: list[bytes] = []
    digits: list[bytes] = []
    for line, kind, count, size in zip(lines, *columns, strict=True):
        is_batch = kind == Kind.BATCH
        salt_stop = len(line) - _AFTER_SALT
        salt = salt_stop - (count * (_SALT_DIGITS + 4) or 2 if is_batch else _SALT_DIGITS + 2)
        stop = salt - _AFTER_DATA - len(f"{_LABELS[kind]}{count}{size}")
        text = line[line.index(_DATA, 0, _DATA_BEFORE) + len(_DATA) : stop]
        if is_batch:
            texts += _values(text, count)
            digits.append(line[salt + 2 : salt_stop - 2].replace(b'", "', b""))
        else:
            texts.append(text)
            digits.append(line[salt + 1 : salt_stop - 1])
    salts = bytes.fromhex(b"".join(digits).decode())
    entries = [
        salts[at : at + SALT_BYTES] + text
        for at, text in zip(range(0, len(salts), SALT_BYTES), texts, strict=True)
    ]
    return Segment(
        start,
        headers,
        hashes,
        np.frombuffer(b"".join(entries), np.uint8),
        np.fromiter(accumulate(map(len, entries), initial=0), np.uint64, len(entries) + 1),
    )


def _values(text: bytes, count: int) -> list[bytes]:
    """Return the values of a canonical JSON list of so many."""
    if count <= 1:
        return [text[1:-1]] * count
    return [orjson.dumps(value, None, orjson.OPT_SORT_KEYS) for value in orjson.loads(text)]
