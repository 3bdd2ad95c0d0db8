"""Blocks as Arrow record batches, and as a Parquet file: for pandas, polars and DuckDB.

Importing this module takes pyarrow, which the extra `cairn-ledger[arrow]` installs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from cairn.core.entry import SALT_BYTES
from cairn.core.errors import DamagedError, FormatError, UsageError
from cairn.core.header import LIMIT_63, Kind
from cairn.core.merkle import HASH_BYTES
from cairn.core.segment import Segment

try:
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import compute
except ModuleNotFoundError as error:
    raise UsageError("this needs pyarrow: pip install 'cairn-ledger[arrow]'") from error

if TYPE_CHECKING:
    from cairn.ledger.ledger import Ledger

SCHEMA: Final = pa.schema(
    [
        pa.field(name, of, nullable=name in ("data", "salts"))
        for name, of in {
            "index": pa.int64(),
            "timestamp": pa.timestamp("us", "UTC"),
            # The exact recorded JSON; for a batch, the JSON list of its values; null if erased.
            # Offsets of 64 bits, as a segment of large blocks may have more than 2**31 bytes.
            "data": pa.large_string(),
            "previous_hash": pa.binary(HASH_BYTES),
            "hash": pa.binary(HASH_BYTES),
            "kind": pa.dictionary(pa.int8(), pa.string()),
            "count": pa.uint32(),
            "size": pa.uint32(),
            "data_root": pa.binary(HASH_BYTES),
            "bits": pa.uint32(),
            "nonce": pa.uint64(),
            # Of 16 bytes each, which the type does not say: pandas takes no list of fixed sizes.
            # Null if erased.
            "salts": pa.large_list(pa.field("item", pa.large_binary(), nullable=False)),
            "version": pa.uint16(),
        }.items()
    ]
)
"""The members of a block's JSON view, in their order. `salts` is a list for every block; `version`,
with which the other columns say all that a header does, stands in for `header`."""

ROW_GROUP_BLOCKS: Final = 2**17
"""Blocks in a row group of a Parquet file, about: DuckDB advises 100,000 to 1,000,000."""
ROW_GROUP_BYTES: Final = 32 * 2**20
"""Bytes in a row group before compression, about: bounds memory."""


def batches(segments: Iterable[Segment]) -> Any:
    """Return a `RecordBatchReader` of `SCHEMA` with one batch for each segment, made when asked.

    Reading it raises:
        DamagedError: counts, offsets and data of a segment do not agree; or reading `segments` did.
        FormatError: a block that the columns cannot hold; see `record_batch`.
    """
    return pa.RecordBatchReader.from_batches(SCHEMA, map(record_batch, segments))


def record_batch(segment: Segment) -> Any:
    """Return the blocks of `segment` as a `RecordBatch` of `SCHEMA`, `(n,)`.

    `hash` is the segment's own memory; the rest lies there swapped, scattered or between salts, and
    is copied. Whether the blocks are valid, and their data JSON, is for validation to say.

    Raises:
        DamagedError: counts, offsets and data do not agree.
        FormatError: an unknown kind, an index or timestamp of 2**63 or more, an entry without a
            whole salt, data that is not UTF-8. Cairn writes no such block.
    """
    if not segment.is_regular:
        raise DamagedError(
            f"blocks {segment.start} to {segment.stop - 1}: counts, offsets and data do not agree"
        )
    fields = segment.fields
    kind = fields["kind"].astype(np.uint16)
    _require(segment, "kind", kind, below=len(Kind))
    texts, salts = _entries(segment)
    erased = segment.erased
    columns = {
        "index": _signed(segment, "index"),
        "timestamp": _signed(segment, "timestamp"),
        "data": _unless(erased, _data(segment, kind, texts)),
        "previous_hash": _fixed(fields["previous_hash"], HASH_BYTES),
        "hash": _fixed(segment.hashes, HASH_BYTES),
        "kind": pa.DictionaryArray.from_arrays(
            kind.astype(np.int8), pa.array([known.label for known in Kind])
        ),
        "data_root": _fixed(fields["data_root"], HASH_BYTES),
        "salts": _unless(
            erased,
            _with_offsets(SCHEMA.field("salts").type, segment.block_bounds, children=[salts]),
        ),
    }
    for name in ("count", "size", "bits", "nonce", "version"):
        columns[name] = pa.array(fields[name].astype(fields[name].dtype.newbyteorder("=")))
    return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def write_parquet(
    ledger: Ledger, stream: BinaryIO, *, progress: Callable[[int], None] = lambda _blocks: None
) -> None:
    """Write all blocks that `ledger` has now to `stream` as a Parquet file, in constant memory.

    Its metadata has the ledger's id as `cairn.id` (64 hex digits) and its name as `cairn.name`.
    `progress` is called now and then with the blocks done. What an error leaves in `stream` is not
    the whole ledger, though it may read like one.

    Raises:
        DamagedError: as for `batches`, and where block 0 cannot be read.
        FormatError: as for `batches`, and where block 0 does not record a genesis.
        NoSuchBlockError: there is no block 0 (damage).
    """
    from pyarrow import parquet

    names = {"cairn.id": ledger.id, "cairn.name": ledger.genesis.name}
    done = 0
    with parquet.ParquetWriter(
        stream,
        SCHEMA.with_metadata(names),
        compression="zstd",
        # Hashes and salts do not repeat: a dictionary of them is work for nothing.
        use_dictionary=["data", "kind", "count", "size", "bits", "nonce", "version"],
    ) as writer:
        for group in _row_groups(ledger.to_arrow()):
            writer.write_table(group, row_group_size=len(group))
            done += len(group)
            progress(done)


def _row_groups(reader: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches of `reader` as tables, each for one row group."""
    group: list[Any] = []
    blocks = size = 0
    for batch in reader:
        group.append(batch)
        blocks, size = blocks + len(batch), size + batch.nbytes
        if blocks >= ROW_GROUP_BLOCKS or size >= ROW_GROUP_BYTES:
            yield pa.Table.from_batches(group)
            group, blocks, size = [], 0, 0
    if group:
        yield pa.Table.from_batches(group)


def _entries(segment: Segment) -> tuple[Any, Any]:
    """Return the JSON of each entry, `(m,)` large_binary, and its salt, the same."""
    starts, stops = segment.entry_bounds
    if (short := stops - starts < SALT_BYTES).any():
        entry = int(short.argmax())
        block = segment.start + int(segment.block_bounds.searchsorted(entry, "right")) - 1
        raise FormatError(f"block {block}: an entry is shorter than its salt")
    # Salt, text, salt, text: in a regular segment each entry stops where the next one starts.
    bounds = np.empty(2 * len(starts) + 1, np.int64)
    bounds[:-1:2], bounds[1::2], bounds[-1] = starts, starts + SALT_BYTES, len(segment.data)
    pieces = _with_offsets(pa.large_binary(), bounds, pa.py_buffer(segment.data))
    return pieces[1::2], pieces[::2]


def _data(segment: Segment, kind: NDArray[np.uint16], texts: Any) -> Any:
    """Return what `Block.data_json` does for each block, `(n,)` large_string."""
    counts = np.diff(segment.block_bounds)
    listed = (kind == Kind.BATCH) | (counts != 1)
    if listed.any():
        texts = _lists(segment.block_bounds, listed, counts, texts)
    try:
        return texts.cast(pa.large_string())
    except pa.ArrowInvalid:
        for position, text in enumerate(texts, start=segment.start):
            try:
                text.as_py().decode()
            except UnicodeDecodeError as error:
                raise FormatError(f"the data of block {position} is not JSON: {error}") from None
        raise


def _lists(
    bounds: NDArray[np.int64], listed: NDArray[np.bool_], counts: NDArray[np.int64], texts: Any
) -> Any:
    """Return the JSON of each block, `(n,)` large_binary, where the `listed` ones are lists."""
    marks = pa.array([b"", b",", b"[", b"]"], pa.large_binary())
    before = np.repeat(listed, counts).astype(np.int8)  # a comma for each entry of a list,
    after = np.zeros_like(before)
    filled = listed & (counts > 0)
    before[bounds[:-1][filled]] = 2  # but a bracket for its first,
    after[bounds[1:][filled] - 1] = 3  # and for its last
    joined = compute.binary_join_element_wise(
        marks.take(pa.array(before)), texts, marks.take(pa.array(after)), marks[0]
    )
    # End to end, the entries of a block are its list now.
    _, ends, data = joined.buffers()
    offsets = np.frombuffer(ends, np.int64)[joined.offset :][bounds]
    lists = _with_offsets(pa.large_binary(), offsets, data)
    return compute.if_else(pa.array(counts == 0), pa.scalar(b"[]", pa.large_binary()), lists)


def _signed(segment: Segment, name: str) -> Any:
    """Return a header field of 64 bits as the signed column that `SCHEMA` has for it."""
    values = segment.fields[name].astype(np.uint64)
    _require(segment, name, values, below=LIMIT_63)
    return pa.array(values.view(np.int64)).cast(SCHEMA.field(name).type)


def _require(segment: Segment, name: str, values: NDArray[Any], *, below: int) -> None:
    if (wrong := values >= below).any():
        i = int(wrong.argmax())
        raise FormatError(f"block {segment.start + i}: {name} is {values[i]}, not below {below}")


def _fixed(rows: NDArray[Any], width: int) -> Any:
    """Wrap n rows of `width` bytes; copied only if they do not lie end to end."""
    memory = pa.py_buffer(np.ascontiguousarray(rows))
    return pa.Array.from_buffers(pa.binary(width), len(rows), [None, memory])


def _unless(erased: NDArray[np.bool_], column: Any) -> Any:
    """Return `column`, null where the block is erased."""
    if not erased.any():
        return column
    return compute.if_else(pa.array(erased), pa.scalar(None, column.type), column)


def _with_offsets(of: Any, offsets: NDArray[np.int64], *buffers: Any, **parts: Any) -> Any:
    """Wrap a column of type `of`: item i lies from `offsets[i]` to `offsets[i + 1]`."""
    memory = [None, pa.py_buffer(offsets), *buffers]
    return pa.Array.from_buffers(of, len(offsets) - 1, memory, **parts)
