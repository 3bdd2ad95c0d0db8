"""JSON Schemas (draft 2020-12) of what the service takes and gives."""

from __future__ import annotations

from typing import Any, Final

from cairn.core.block import VIEW_KEYS
from cairn.core.entry import SALT_BYTES
from cairn.core.header import HEADER_BYTES
from cairn.core.merkle import HASH_BYTES


def _hex(size: int, of: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^[0-9a-f]{{{2 * size}}}$", "description": of}


def _hashes(of: str) -> dict[str, Any]:
    return {"type": "array", "items": _hex(HASH_BYTES, ""), "description": of}


def _integer(of: str) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "description": of}


def _object(properties: dict[str, Any], *, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


def ref(name: str) -> dict[str, str]:
    """Return a reference to one of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


_NEXT: Final = {
    "type": ["string", "null"],
    "description": "The next page, relative to this one; null at the end.",
}
_BLOCK: Final = {
    "index": _integer("Position in the chain; genesis is 0."),
    "timestamp": {
        "type": "string",
        "description": "RFC 3339, UTC, with six decimals and `Z`.",
        "examples": ["2026-01-31T12:00:00.000000Z"],
    },
    "data": {
        "description": "The recorded JSON value; the list of its values for a batch. Of an erased "
        'block it is `{"erased": id}`, and `salt` is null.'
    },
    "previous_hash": _hex(HASH_BYTES, "Hash of the block before; zeros for genesis."),
    "hash": _hex(HASH_BYTES, "SHA-256 of 0x00 and the header, as stored."),
    "kind": {"type": "string", "enum": ["value", "batch", "record"]},
    "count": _integer("Entries."),
    "size": _integer("Bytes of all entries, salts included."),
    "data_root": _hex(HASH_BYTES, "RFC 9162 tree hash of the entries."),
    "bits": _hex(4, "Compact target; 0 where no work is asked for."),
    "nonce": _hex(8, "Found by mining; 0 otherwise."),
    "salt": {
        "description": "16 random bytes in hex; the list of them for a batch; null if erased.",
        "oneOf": [
            {"type": "string", "pattern": "^[0-9a-f]{32}$"},
            {"type": "array", "items": {"type": "string", "pattern": "^[0-9a-f]{32}$"}},
            {"type": "null"},
        ],
    },
    "header": _hex(HEADER_BYTES, "The 104 bytes that the hash is of."),
}
assert tuple(_BLOCK) == VIEW_KEYS

KEY_BYTES: Final = 32
_WORK: Final = {
    "type": "string",
    "pattern": "^[0-9a-f]{1,64}$",
    "description": "Of the whole chain: the hashes that it took, on average; hex.",
}
_PEER: Final = _object(
    {
        "name": {"type": "string", "description": "Its URL or address."},
        "key": _hex(KEY_BYTES, "Its key, which it has proven."),
        "dialled": {"type": "boolean", "description": "Whether this node has opened the link."},
        "seconds": {"type": "number", "description": "Since then."},
        "height": _or_null(_integer("Index of its last block, as it says.")),
        "work": _or_null(_WORK),
        "latency": {"type": ["number", "null"], "description": "Seconds, of the last ping."},
    }
)
_BRANCH: Final = _object(
    {
        "index": _integer("Of its last block."),
        "hash": _hex(HASH_BYTES, "Of the same."),
        "work": {**_WORK, "description": "Of its blocks, from the fork on; hex."},
    }
)
_REORGANISATION: Final = _object(
    {
        "timestamp": {
            "type": "string",
            "description": "When this node followed it, by its own clock; as in a block.",
        },
        "depth": _integer("Blocks that were taken off the chain."),
        "before": _BRANCH,
        "after": _BRANCH,
        "returned": _or_null(
            _integer(
                "Entries of the blocks that went which those that came do not have: they wait to "
                "be mined again. Null until they are counted."
            )
        ),
    }
)
_TREE_BLOCK: Final = _object(
    {
        **{key: _BLOCK[key] for key in ("index", "timestamp", "previous_hash", "hash", "count")},
        "status": {
            "type": "string",
            "enum": ["final", "confirmed", "side"],
            "description": "`side`: not on the chain.",
        },
    }
)

SCHEMAS: Final[dict[str, Any]] = {
    "Value": {"description": "Any JSON value with a canonical form, within the ledger's limits."},
    "Block": _object(_BLOCK),
    "Mined": _object(
        _BLOCK
        | {
            "entry": _hex(HASH_BYTES, "Id of the entry."),
            "place": _integer("Which of the block's entries it is, from 0."),
            "status": {"type": "string", "enum": ["confirmed", "final"]},
        }
    ),
    "Pending": _object(
        {
            "entry": _hex(HASH_BYTES, "Id of the entry."),
            "status": {"type": "string", "const": "pending"},
        }
    ),
    "Submitted": _object(
        {"count": _integer("Entries that wait now."), "entries": _hashes("Their ids, in order.")}
    ),
    "Standing": _object(
        {
            "entry": _hex(HASH_BYTES, "Its id."),
            "status": {"type": "string", "enum": ["pending", "confirmed", "final"]},
            "block": _or_null(_integer("Index of the first block that has it.")),
            "place": _or_null(_integer("Which of that block's entries it is, from 0.")),
            "depth": _or_null(_integer("Blocks that follow that one.")),
            "duplicates": {
                "type": "array",
                "items": _object({"block": _integer(""), "place": _integer("")}),
                "description": "Where it is once more, in order.",
            },
        }
    ),
    "Peers": _object(
        {
            "peers": {"type": "array", "items": _PEER},
            "address": {"type": "string", "description": "Where others dial this node; or empty."},
            "key": _hex(KEY_BYTES, "Of this node, Ed25519."),
            "halted": _or_null({"type": "string", "description": "Why it takes part no more."}),
            "head": _object(
                {
                    "index": _integer("Of the last block of its chain."),
                    "hash": _hex(HASH_BYTES, "Of the same."),
                }
            ),
            "final": _integer("Blocks that can no longer change, from genesis on."),
            "missing": _integer("Blocks that are still to come of a chain with more work."),
            "work": _WORK,
            "pool": _object(
                {"entries": _integer("That wait to be mined."), "bytes": _integer("Of them.")}
            ),
            "hash_rate": {"type": "number", "description": "Hashes a second that are tried here."},
            "reorganisations": _integer("Since this node was started."),
            "last_reorganisations": {
                "type": "array",
                "items": _REORGANISATION,
                "description": "The last hundred of them, in order.",
            },
            "tree": {
                "type": "array",
                "items": _TREE_BLOCK,
                "description": "The last 40 blocks of the chain, in order; then those beside them.",
            },
        },
        optional=(
            "address",
            "key",
            "halted",
            "head",
            "final",
            "missing",
            "work",
            "pool",
            "hash_rate",
            "reorganisations",
            "last_reorganisations",
            "tree",
        ),
    ),
    "Chain": _object(
        {
            "length": _integer("Blocks in the whole ledger."),
            "chain": {"type": "array", "items": ref("Block")},
            "next": _NEXT,
        }
    ),
    "Found": _object({"blocks": {"type": "array", "items": ref("Block")}, "next": _NEXT}),
    "Recorded": _object(
        {
            "count": _integer("Blocks that were recorded."),
            "first": _integer("Index of the first of them."),
            "last": _integer("Index of the last of them."),
            "hash": _hex(HASH_BYTES, "Hash of the last of them."),
        }
    ),
    "Failure": _object(
        {
            "index": _integer("Position of the block."),
            "rule": {"type": "string"},
            "expected": {"type": ["integer", "string"]},
            "found": {"type": ["integer", "string"]},
            "message": {"type": "string"},
        }
    ),
    "Report": _object(
        {
            "valid": {"type": "boolean"},
            "execution_time": {"type": "number", "description": "Seconds."},
            "blocks": _integer("Blocks that were read."),
            "bytes": _integer("Bytes of headers and entries that were checked."),
            "erased": _integer(
                "Blocks that are erased, with a record of it; not there if none is."
            ),
            "failed_block": _integer("Position of the first block that breaks a rule."),
            "failure": ref("Failure"),
        },
        optional=("erased", "failed_block", "failure"),
    ),
    "Receipt": _object(
        {
            "cairn": {"type": "string", "const": "receipt/1"},
            "index": _integer("Of the block."),
            "entry": _integer("Which of its entries, from 0."),
            "salt": _hex(SALT_BYTES, "Of the entry."),
            "data": {"type": "string", "description": "The canonical JSON of the value."},
            "entry_proof": _hashes("That the entry is below the data root."),
            "header": _hex(HEADER_BYTES, "Of the block."),
            "block_proof": _hashes("That the block is in the tree."),
            "checkpoint": {"type": "string", "description": "A signed note: size and root."},
            "keys": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Verifier keys that have signed it; not to be trusted for it.",
            },
        }
    ),
    "Summary": _object(
        {
            "length": _integer("Blocks."),
            "final": _integer("How many of them can no longer change."),
            "head": _hex(HASH_BYTES, "Hash of the last block."),
            "bytes": _integer("Of all entries, salts included."),
            "blocks_per_second": {"type": "number", "description": "Mean of the last minute."},
            "assurance": {
                "type": "string",
                "enum": ["chained", "signed", "witnessed"],
                "description": "What the first `signed` blocks have reached.",
            },
            "signed": _integer("Blocks that the published checkpoint covers; 0 if there is none."),
            "contradiction": {
                "type": ["string", "null"],
                "description": "Why nothing more is signed: it is not the chain that was.",
            },
            "validation": {
                "description": "The last one by this node, or null.",
                "oneOf": [
                    {"type": "null"},
                    _object(
                        {
                            "valid": {"type": "boolean"},
                            "ended": {"type": "string", "format": "date-time"},
                            "bytes_per_second": {"type": "number"},
                        }
                    ),
                ],
            },
            "peers": _or_null(_integer("Connected; null on an instant ledger.")),
        }
    ),
    "Health": _object({"status": {"type": "string", "enum": ["ok", "failed"]}}),
    "Problem": {
        "type": "object",
        "description": "Problem details (RFC 9457).",
        "properties": {
            "type": {"type": "string", "examples": ["urn:cairn:problem:bad-entry"]},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "reason": {"type": "string", "description": "Why an entry is refused."},
            "path": {"type": "string", "description": "Where in the entry, as in `.items[3]`."},
            "line": {"type": "integer", "description": "Which line of a bulk body."},
            "index": {"type": "integer", "description": "The first block that cannot be read."},
            "next": {
                "type": ["string", "null"],
                "description": "The page from the first block behind it that can; null at the end.",
            },
        },
        "required": ["type", "title", "status", "detail"],
    },
}
